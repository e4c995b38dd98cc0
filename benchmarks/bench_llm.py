"""Rankings by the local model: ours beside one pass a candidate and beside written lists; prefill and loading.

Lists are written in two ways: as the model answers ("listwise": a small one soon repeats a line, and is stopped), and
to the end ("complete list": as many tokens as it takes to name every candidate, which ``likelihood`` ranks, too).

Two workloads, prompts as in notebook 04. "test items": users whom the study may route (all are inactive), with their
own test items. "whole lists": the same users with the fifty most rated items that they have not seen. A peer that
would take minutes gets fewer users, and ours is then timed on the same ones; the rows say how many.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import pandas as pd
import torch

from hybridrec.data import datasets, splits
from hybridrec.llm import rankers
from hybridrec.llm.models import packed, tree
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.tasks import Task, build_tasks
from hybridrec.randomness import generator
from hybridrec.study import models as study_models
from hybridrec.study import steps
from hybridrec.weak_users import triage

MODEL = "SmolLM2-135M-Instruct"
SEED, LIKE, LENGTH = 2024, 4.0, 50
ROUNDS = 5
USERS = {  # how many users each peer is given
    ("test items", "per candidate"): 8,
    ("test items", "listwise"): 16,
    ("test items", "complete list"): 8,
    ("whole lists", "per candidate"): 1,
    ("whole lists", "listwise"): 3,
    ("whole lists", "complete list"): 3,
}
TOLERANCE = 1e-4  # of a candidate's log-likelihood per token
SQUARE = 4096


def run() -> list[dict[str, Any]]:
    """Both workloads beside both peers, then the prefill's share of the machine's peak, then loading."""
    model, rows = study_models.local(MODEL), []
    loads = workloads()
    for (workload, peer), users in USERS.items():
        rows.append(_beside(model, workload, peer, loads[workload][:users]))
        print(rows[-1], flush=True)
    for row in (_prefill(model, loads["test items"][:8]), *_loading()):
        rows.append(row)
        print(row, flush=True)
    return rows


def split() -> tuple[datasets.Dataset, pd.DataFrame, pd.DataFrame, pd.Index]:
    """ml-100k: the dataset, its ratings divided, those that are known, and the inactive users."""
    data = steps.dataset("ml-100k")
    rows = splits.split_per_user(data.interactions, SEED)
    known = splits.known(rows)
    sparsity = datasets.sparsity_index(known, len(data.items))
    return data, rows, known, sparsity.index[triage.inactive(sparsity, triage.Thresholds())]


def workloads(count: int = max(USERS.values())) -> dict[str, list[Task]]:
    """So many inactive users of ml-100k, drawn at random, with the candidates of each workload."""
    data, rows, known, inactive = split()
    candidates = splits.rankable(splits.test_candidates(rows, LIKE, SEED))
    may_be_routed = sorted(set(candidates["user"]) & set(inactive))
    users = generator(SEED, "bench-llm").permutation(may_be_routed)[:count].tolist()
    lists = pd.concat(_most_rated(known, user) for user in users)
    tasks = {"test items": candidates, "whole lists": lists}
    return {name: build_tasks(users, known, table, data.items) for name, table in tasks.items()}


def _most_rated(known: pd.DataFrame, user: int) -> pd.DataFrame:
    """What MostPop retrieves for a user: the items that most have rated, without the user's own."""
    seen = known.loc[known["user"] == user, "item"]
    items = known.loc[~known["item"].isin(seen), "item"].value_counts().index[:LENGTH]
    return pd.DataFrame({"user": user, "position": range(len(items)), "item": items})


# --- ways to rank ----------------------------------------------------------------------------------------------------


def _beside(model: HuggingFace, workload: str, peer: str, tasks: list[Task]) -> dict[str, Any]:
    ours, theirs = _likelihood(model, tasks), PEERS[peer](model, tasks)
    off = agreement(ours(), theirs()) if peer == "per candidate" else None
    seconds = measure.alternately({"ours": ours, peer: theirs}, ROUNDS)
    mine, other = measure.summary(seconds["ours"]), measure.summary(seconds[peer])
    users, candidates = len(tasks), sum(len(task.items) for task in tasks)
    saved = round(_times_fewer_tokens(model, tasks), 1) if peer == "per candidate" else None
    return {
        **{"task": "likelihood", "workload": workload, "peer": peer, "users": users, "candidates": candidates},
        **{"ours": mine, "theirs": other, "ratio": round(other["median"] / mine["median"], 1)},
        **{"largest_difference": off, "times_fewer_tokens": saved},
    }


def _times_fewer_tokens(model: HuggingFace, tasks: list[Task]) -> float:
    """What reading each history once saves: tokens of one pass a candidate, by those of one pass a user."""
    prompts = [_prompt(model, task) for task in tasks]
    each = sum(len(prompt.prefix) + len(suffix) for prompt in prompts for suffix in prompt.suffixes)
    return each / sum(prompt.size for prompt in prompts)


def _prompt(model: HuggingFace, task: Task) -> tree.Prompt:
    return model.prompt(rankers.request_of(task, "likelihood", "film").request)


def agreement(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """The largest difference of a score.

    Raises:
        SystemExit: it is more than TOLERANCE, or somebody's order differs: what is not the same is not compared.
    """
    differences = [abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    same = all(_order(one) == _order(other) for one, other in zip(ours, theirs, strict=True))
    if max(differences) > TOLERANCE or not same:
        raise SystemExit(f"scores differ by {max(differences)}, same orders: {same}. Not the same work.")
    return max(differences)


def _order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=scores.__getitem__)


def _likelihood(model: HuggingFace, tasks: list[Task]) -> Callable[[], list[list[float]]]:
    """As rankers.rank asks it: requests are submitted one by one, and answered in batches."""
    asked = [rankers.request_of(task, "likelihood", "film") for task in tasks]

    def call() -> list[list[float]]:
        done = [one for request in asked for one in model.submit(request, lambda _, response: response)]
        while finished := model.wait():
            done += finished
        found = {one.user: response for one, response in done}
        return [
            [value / n for value, n in zip(found[task.user]["log_probs"], found[task.user]["lengths"], strict=True)]
            for task in tasks
        ]

    return call


def _per_candidate(model: HuggingFace, tasks: list[Task]) -> Callable[[], list[list[float]]]:
    """A forward pass over history and candidate for each candidate; logits only where they are needed."""
    prompts = [_prompt(model, task) for task in tasks]

    @torch.inference_mode()
    def score(prefix: list[int], suffix: list[int]) -> float:
        ids = torch.tensor([prefix + suffix[:-1]])
        logits = model.model(ids, use_cache=False, logits_to_keep=len(suffix)).logits[0]
        return float(torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(suffix)[:, None]).mean())

    return lambda: [[score(prompt.prefix, suffix) for suffix in prompt.suffixes] for prompt in prompts]


def _listwise(model: HuggingFace, tasks: list[Task]) -> Callable[[], list[dict[str, Any]]]:
    """The published way: the model writes the list, users in one batch, each until it repeats a line."""
    requests = [rankers.request_of(task, "listwise", "film").request for task in tasks]
    return lambda: model.answer(requests)


def _complete_list(model: HuggingFace, tasks: list[Task]) -> Callable[[], torch.Tensor]:
    """The same, with as many tokens as a numbered list of all candidates has (in a batch, the longest list's)."""
    requests = [rankers.request_of(task, "listwise", "film").request for task in tasks]
    lists = ["\n".join(f"{n}. {title}" for n, title in enumerate(one["candidates"], 1)) for one in requests]
    length = max(len(model.tokens(text)) for text in lists)
    prompts = [model.prompt({**one, "kind": "score", "candidates": []}).prefix for one in requests]
    inputs = _padded(prompts)
    options = {"do_sample": False, "min_new_tokens": length, "max_new_tokens": length}
    return lambda: model.model.generate(**inputs, **options, pad_token_id=0)  # a token that the mask leaves out


def _padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Prompts as a batch that can be written on: padded on the left."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
    }


PEERS = {"per candidate": _per_candidate, "listwise": _listwise, "complete list": _complete_list}


# --- prefill and loading ---------------------------------------------------------------------------------------------


def _prefill(model: HuggingFace, tasks: list[Task]) -> dict[str, Any]:
    """Reading the prompts alone, as a share of what a product of large square matrices reaches in float32.

    Counted are the multiplications and additions of matrices: of the linear layers, of attention as far as a token
    sees, and of the logits of one token a prompt.
    """
    asked = [_prompt(model, task) for task in tasks]
    prompts = [tree.Prompt(one.prefix, [one.suffixes[0][:1]]) for one in asked]
    lengths, config, square = [len(one.prefix) for one in prompts], model.model.config, torch.randn(SQUARE, SQUARE)
    linear, width = sizes(model)
    work = sum(2 * linear * n + 2 * width * n * n + 2 * config.vocab_size * config.hidden_size for n in lengths)
    calls = {"ours": lambda: packed.log_probs(model.model, prompts), "peak": lambda: square @ square}
    seconds = {name: measure.summary(one) for name, one in measure.alternately(calls, ROUNDS + 1).items()}
    speed = {"ours": work / seconds["ours"]["median"], "peak": 2 * SQUARE**3 / seconds["peak"]["median"]}
    return {
        **{"task": "prefill", "workload": "test items", "peer": "product of square matrices", "users": len(tasks)},
        **{"tokens": sum(lengths), "threads": torch.get_num_threads(), "ours": seconds["ours"]},
        **{"theirs": seconds["peak"], "gflops": {name: round(value / 1e9) for name, value in speed.items()}},
        "share": round(speed["ours"] / speed["peak"], 3),
    }


def sizes(model: HuggingFace) -> tuple[int, int]:
    """Of all layers together: numbers in the linear ones' matrices, and the width of what attention compares."""
    config = model.model.config
    linear = sum(p.numel() for name, p in model.model.named_parameters() if p.dim() == 2 and ".layers." in name)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return linear, config.num_attention_heads * head * config.num_hidden_layers


_START = """
import json, sys, time
begin = time.perf_counter()
import torch
from hybridrec.llm.models.local import HuggingFace
imported = time.perf_counter()
model = HuggingFace(sys.argv[2], folder=sys.argv[1])
model.tokenizer, model.model
ready = time.perf_counter()
print(json.dumps({"imports": imported - begin, "load": ready - imported}))
"""


def _loading() -> list[dict[str, Any]]:
    """The first start, which converts the GGUF file, beside the second; each in a process of its own."""
    found: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="hybridrec-models-") as folder:
            for start in found:
                found[start].append(_started(Path(folder)))
    rows = []
    for counted, parts in (("without imports", ["load"]), ("with imports", ["imports", "load"])):
        first, second = (measure.summary([sum(one[p] for p in parts) for one in found[s]]) for s in found)
        ratio = round(first["median"] / second["median"], 1)
        about = {"task": "loading", "workload": counted, "peer": "first start", "users": 0}
        rows.append({**about, "ours": second, "theirs": first, "ratio": ratio})
    return rows


def _started(folder: Path) -> dict[str, float]:
    arguments = [sys.executable, "-c", _START, str(folder), MODEL]
    said = subprocess.run(arguments, cwd=measure.ROOT, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(f"the model could not be loaded:\n{said.stderr[-2000:]}")
    return json.loads(said.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
