"""A model on this machine beside what one would take instead: transformers' own batches, llama.cpp; and in bfloat16.

    python benchmarks/bench_local.py [USERS]        so many users (8), to try it

The users and prompts of bench_llm.py, in its two workloads. Everything gets the same tokens. What is asked:

- "likelihood" beside transformers, as it scores texts in a batch: all candidates of a user at once, each with its
  history; and the history first, its keys and values kept and repeated for each candidate.
- "likelihood" in float32 beside bfloat16.
- "pointwise" beside llama.cpp (the wheel xllamacpp), whose server tells the likeliest first tokens and not the
  probability of a text that we choose. It is given the same weights, as float32, and the 4-bit file that they came
  from. One candidate after the other, so that it reads each history once.

transformers must give the same scores, and llama.cpp in float32 nearly (its arithmetic is its own), or it stops. The
other two are told with their largest difference of a score: they are not the same work.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bench_llm
import measure
import numpy as np
import torch
from scipy import stats

from hybridrec.llm import rankers
from hybridrec.llm.models import packed, tree
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.tasks import Task
from hybridrec.study import models as study_models
from hybridrec.study import paths

USERS = {"test items": 8, "whole lists": 1}
NEARLY = 0.01  # of log P(Yes) - log P(No), for llama.cpp with the same float32 weights
LISTED = 2000  # of the likeliest first tokens that llama.cpp lists: Yes and No must be among them
CONTEXT = 4096
Scores = list[list[float]]


def run(users: int | None = None) -> list[dict[str, Any]]:
    """Every peer on both workloads; ``users`` in place of USERS."""
    model, half = (study_models.local(bench_llm.MODEL, dtype=dtype) for dtype in ("float32", "bfloat16"))
    rows = []
    for workload, tasks in bench_llm.workloads().items():
        chosen = tasks[: users or USERS[workload]]
        ours = ours_of(model, chosen, "likelihood")
        for peer, theirs in (
            ("transformers, a batch a user", batched(model, chosen)),
            ("transformers, history kept", kept(model, chosen)),
        ):
            rows.append(_beside("likelihood", workload, peer, chosen, ours, theirs, bench_llm.TOLERANCE))
        rows.append(
            _beside("likelihood", workload, "ours in bfloat16", chosen, ours, ours_of(half, chosen, "likelihood"))
        )
        with tempfile.TemporaryDirectory(prefix="hybridrec-gguf-") as folder:
            source = next(path for path in (one / model.card.file.name for one in _folders()) if path.is_file())
            files = {"llama.cpp, float32": as_float32(source, Path(folder) / "f32.gguf"), "llama.cpp, Q4_1": source}
            for peer, file in files.items():
                exact = peer.endswith("float32")
                theirs, limit = _llama(file, model, chosen, exact), NEARLY if exact else None
                rows.append(
                    _beside("pointwise", workload, peer, chosen, ours_of(model, chosen, "pointwise"), theirs, limit)
                )
    return rows


def _folders() -> list[Path]:
    return [*paths.data_folders(), paths.RAW]


def _beside(
    task: str, workload: str, peer: str, tasks: Sequence[Task], ours: Callable[[], Scores],
    theirs: Callable[[], Scores], limit: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare the scores, then the times.

    Raises:
        SystemExit: a score differs by more than ``limit``.
    """
    told = apart(ours(), theirs())
    if limit is not None and told["largest_difference"] > limit:
        raise SystemExit(f"{peer}, {workload}: scores differ by {told['largest_difference']}. Not the same work.")
    seconds = measure.alternately({"ours": ours, "theirs": theirs}, bench_llm.ROUNDS)
    mine, its = measure.summary(seconds["ours"]), measure.summary(seconds["theirs"])
    row = {
        **{"task": task, "workload": workload, "peer": peer, "users": len(tasks)},
        **{"candidates": sum(len(task.items) for task in tasks), "threads": torch.get_num_threads()},
        **{"ours": mine, "theirs": its, "ratio": round(its["median"] / mine["median"], 2)},
        **told,
    }
    print(row, flush=True)
    return row


def apart(ours: Scores, theirs: Scores) -> dict[str, float]:
    """How far scores are apart at most, and whether they order candidates alike (a mean over users)."""
    pairs = list(zip(ours, theirs, strict=True))
    largest = max(abs(a - b) for mine, its in pairs for a, b in zip(mine, its, strict=True))
    within = [float(stats.spearmanr(mine, its).statistic) for mine, its in pairs if len(set(mine)) > 1 < len(set(its))]
    return {"largest_difference": largest, "rank_correlation": round(float(np.mean(within)), 4)}


# --- ways to score ----------------------------------------------------------------------------------------------------


def _prompts(model: HuggingFace, tasks: Sequence[Task], mode: str) -> list[tree.Prompt]:
    return [model.prompt(rankers.request_of(task, mode, "film").request) for task in tasks]


def ours_of(model: HuggingFace, tasks: Sequence[Task], mode: str) -> Callable[[], Scores]:
    """All users' candidates in one row of tokens, or several if there are many."""
    prompts = _prompts(model, tasks, mode)

    def call() -> Scores:
        found = packed.log_probs(model.model, prompts)
        if mode == "likelihood":
            return [[float(values.mean()) for values in one] for one in found]
        return [[float(values[0] - values[1]) for values in one] for one in found]

    return call


def _on_the_left(texts: Sequence[Sequence[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """Texts as a batch, filled up before their beginnings, so that all end together."""
    length = max(map(len, texts))
    ids = [[*[0] * (length - len(text)), *text] for text in texts]
    mask = torch.tensor([[0] * (length - len(text)) + [1] * len(text) for text in texts], device=device)
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }


def _means(logits: torch.Tensor, suffixes: Sequence[Sequence[int]]) -> list[float]:
    """The mean log-probability of each suffix, from logits that stand before its tokens, the last ones last."""
    length = logits.shape[1]
    targets = torch.tensor([[*[0] * (length - len(one)), *one] for one in suffixes], device=logits.device)
    own = torch.tensor([[0.0] * (length - len(one)) + [1.0] * len(one) for one in suffixes], device=logits.device)
    values = logits.float().log_softmax(-1).gather(2, targets[:, :, None])[:, :, 0]
    return ((values * own).sum(1) / own.sum(1)).tolist()


def batched(model: HuggingFace, tasks: Sequence[Task], tokens: int | None = None) -> Callable[[], Scores]:
    """Padded batches: all candidates of a user, each with its history; logits only where a candidate's tokens follow.

    Args:
        model, tasks: what is asked about whom.
        tokens: as many together as that, of any users, the shortest first; None: a batch a user.
    """
    prompts = _prompts(model, tasks, "likelihood")
    texts = [
        (user, number, prompt.prefix, suffix)
        for user, prompt in enumerate(prompts)
        for number, suffix in enumerate(prompt.suffixes)
    ]
    if tokens is None:
        batches = [list(group) for _, group in itertools.groupby(texts, lambda one: one[0])]
    else:
        texts.sort(key=lambda one: len(one[2]) + len(one[3]))
        together = max(1, tokens // (len(texts[-1][2]) + len(texts[-1][3])))
        batches = [texts[start : start + together] for start in range(0, len(texts), together)]

    @torch.inference_mode()
    def call() -> Scores:
        found = [[0.0] * len(prompt.suffixes) for prompt in prompts]
        for batch in batches:
            suffixes = [suffix for *_, suffix in batch]
            inputs = _on_the_left([[*prefix, *suffix[:-1]] for *_, prefix, suffix in batch], model.model.device)
            keep = max(map(len, suffixes))
            values = _means(model.model(**inputs, use_cache=False, logits_to_keep=keep).logits, suffixes)
            for (user, number, *_), value in zip(batch, values, strict=True):
                found[user][number] = value
        return found

    return call


def kept(model: HuggingFace, tasks: Sequence[Task]) -> Callable[[], Scores]:
    """The history once, then a batch of candidates that all see its keys and values."""
    prompts, device = _prompts(model, tasks, "likelihood"), model.model.device

    @torch.inference_mode()
    def score(prompt: tree.Prompt) -> list[float]:
        longest, n = max(map(len, prompt.suffixes)), len(prompt.suffixes)
        begun = model.model(torch.tensor([prompt.prefix], device=device), use_cache=True, logits_to_keep=1)
        logits = begun.logits.expand(n, -1, -1)
        if longest > 1:
            begun.past_key_values.batch_repeat_interleave(n)
            # Filled up at their ends: what comes after a text changes nothing in it.
            ids = [[*suffix[:-1], *[0] * (longest - len(suffix))] for suffix in prompt.suffixes]
            rest = model.model(torch.tensor(ids, device=device), past_key_values=begun.past_key_values).logits
            logits = torch.cat([logits, rest], dim=1)
        ends = [torch.roll(row, longest - len(suffix), 0) for row, suffix in zip(logits, prompt.suffixes, strict=True)]
        return _means(torch.stack(ends), prompt.suffixes)

    return lambda: [score(prompt) for prompt in prompts]


def _llama(file: Path, model: HuggingFace, tasks: Sequence[Task], exact: bool) -> Callable[[], Scores]:
    """llama.cpp's server within this process, one slot: a candidate's question follows a history that it has read.

    Args:
        file: the weights.
        model: what the tokens come from.
        tasks: whom to score for.
        exact: keep keys and values as float32, and leave its flash attention out, which rounds to float16.
    """
    import xllamacpp

    given = xllamacpp.CommonParams()
    given.model.path, given.n_ctx, given.n_parallel, given.verbosity, given.port = str(file), CONTEXT, 1, -1, 0
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = torch.get_num_threads()
    if exact:
        given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server, prompts = xllamacpp.Server(given), _prompts(model, tasks, "pointwise")

    def score(prompt: tree.Prompt, suffix: list[int]) -> float:
        asked = {"prompt": [*prompt.prefix, *suffix], "max_tokens": 1, "temperature": 0, "logprobs": LISTED}
        reply = server.handle_completions({**asked, "cache_prompt": True})
        listed = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = {one["id"]: one["logprob"] for one in listed}
        yes, no = (found[choice] for choice in prompt.choices)
        return yes - no

    return lambda: [[score(prompt, suffix) for suffix in prompt.suffixes] for prompt in prompts]


def as_float32(source: Path, target: Path) -> Path:
    """A GGUF file with the same numbers, each as a float32."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = entry.types[0]
            of = entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), kind, of)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:])), indent=1))
