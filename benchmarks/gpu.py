"""A model on a GPU: users a second beside transformers' batches, share of the peak, ways to attend. Writes gpu.json.

    python benchmarks/gpu.py [MODEL ...]       models of the study, by name; the others keep what they found before
    python benchmarks/gpu.py --try             the smallest model, two users, on whatever device; writes nothing

Inactive users of ml-100k are ranked by ``likelihood``, in the two workloads of bench_llm.py. Everything gets the same
tokens. What is asked:

- ours beside transformers, as it scores texts in a batch: a batch a user, many users in a batch, and the history once,
  its keys and values kept for the candidates.
- how much of the peak that is: multiplications and additions of matrices that the scores need, a second, by those of a
  product of large square matrices in the same dtype.
- how the token tree attends: a call for each branch (as on a processor), one call with a mask over the whole row (as on
  a GPU), and torch's flex attention, which leaves out blocks that nobody sees. By how many tokens are in a row.

Differences of scores are told: in bfloat16 each way rounds differently.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import bench_llm
import bench_local
import measure
import numpy as np
import torch

from hybridrec.llm.models import packed, tree
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.tasks import Task
from hybridrec.study import models as study_models

FILE = measure.ROOT / "benchmarks" / "gpu.json"
# Each model's dtypes, and how many tokens are in a row when ways to attend are compared.
MODELS = {
    "SmolLM2-135M-Instruct": (("bfloat16", "float32"), (2048, 4096, 8192, 16_384)),
    "Qwen2.5-Coder-1.5B-Instruct": (("bfloat16",), (2048, 8192)),
}
USERS = {"test items": 64, "whole lists": 8}  # the latter in bfloat16 alone
ROUNDS, SQUARE, TOGETHER = 5, 8192, 32_768
Rows = list[dict[str, Any]]


def main(*names: str) -> None:
    """Measure, print, and write what was measured."""
    trying = names == ("--try",)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not trying:
        raise SystemExit("torch finds no GPU here: --try runs without one.")
    for name in [next(iter(MODELS))] if trying else names or MODELS:
        rows = []
        for dtype in MODELS[name][0]:
            for row in measured(study_models.local(name, dtype=dtype, device=device), MODELS[name][1], trying):
                rows.append({"dtype": dtype, **row})
                print(name, rows[-1], flush=True)
        if not trying:
            _keep({"model": name, "machine": _machine(device), "rows": rows})


def _keep(found: dict[str, Any]) -> None:
    """Write what was found of a model; the others' stays."""
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []
    kept = {one["model"]: one for one in [*before, found]}
    FILE.write_text(json.dumps([kept[name] for name in MODELS if name in kept], indent=1) + "\n", encoding="utf-8")


def _machine(device: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {**measure.machine(["numpy", "torch", "transformers"]), "gpu": gpu}


def measured(model: HuggingFace, rows: Sequence[int], trying: bool) -> Iterator[dict[str, Any]]:
    """Every row about a model; ways to attend with ``rows`` of so many tokens."""
    dtype, device = model.model.dtype, model.model.device
    loads = bench_llm.workloads(max(USERS.values()))
    for workload, tasks in loads.items():
        if workload != "test items" and (dtype != torch.bfloat16 or trying):
            continue
        chosen = tasks[: 2 if trying else USERS[workload]]
        yield {"task": "likelihood", "workload": workload, **_beside(model, chosen, trying)}
    if dtype == torch.bfloat16:
        prompts = [bench_llm._prompt(model, task) for task in loads["test items"]]
        if trying:
            prompts, rows = prompts[:2], rows[:1]
        for tokens in rows:
            ways = _ways_to_attend(model, prompts, tokens, 1 if trying else ROUNDS)
            yield {"task": "attention", "row": tokens, **ways}
    if device.type == "cuda":
        print(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)


def _beside(model: HuggingFace, tasks: list[Task], trying: bool) -> dict[str, Any]:
    """Ours and each way of transformers, in turns; users and tokens a second, and the share of the peak."""
    calls: dict[str, Callable[[], Any]] = {
        "ours": bench_local.ours_of(model, tasks, "likelihood"),
        "transformers, a batch a user": bench_local.batched(model, tasks),
        "transformers, many users in a batch": bench_local.batched(model, tasks, TOGETHER),
        "transformers, history kept": bench_local.kept(model, tasks),
    }
    scores = {name: call() for name, call in calls.items()}  # warms each up, too
    calls["peak"] = _product(model.model.dtype, model.model.device, 512 if trying else SQUARE)
    calls["peak"]()
    timed = measure.alternately(calls, 1 if trying else ROUNDS)
    seconds = {name: measure.summary(one) for name, one in timed.items()}
    peak = 2 * (512 if trying else SQUARE) ** 3 / seconds.pop("peak")["median"]
    prompts = [bench_llm._prompt(model, task) for task in tasks]
    rows = {
        name: {
            **{"seconds": one, "users_a_second": round(len(tasks) / one["median"], 1)},
            **bench_local.apart(scores["ours"], scores[name]),
            "ratio": round(one["median"] / seconds["ours"]["median"], 2),
        }
        for name, one in seconds.items()
    }
    speed = _work(model, prompts) / seconds["ours"]["median"]
    return {
        **{"users": len(tasks), "candidates": sum(len(task.items) for task in tasks)},
        **{"tokens": sum(prompt.size for prompt in prompts), "ways": rows},
        **{"tflops": round(speed / 1e12, 1), "peak_tflops": round(peak / 1e12, 1), "share": round(speed / peak, 3)},
    }


def _product(dtype: torch.dtype, device: torch.device, size: int) -> Callable[[], float]:
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return lambda: float((one @ other)[0, 0])  # a number, so that the call has ended when the device has


def _work(model: HuggingFace, prompts: list[tree.Prompt]) -> float:
    """Multiplications and additions of matrices: linear layers, attention to what is seen, logits of what is wanted."""
    config, (linear, width), work = model.model.config, bench_llm.sizes(model), 0.0
    for row in _rows(prompts, packed._TOKENS_PER_PASS_GPU):
        seen = int((row.mask(None, torch.zeros(1, dtype=torch.bfloat16)) == 0).sum())
        logits = len(set(row.sources)) * config.vocab_size * config.hidden_size
        work += 2 * linear * len(row.tokens) + 4 * width * seen + 2 * logits
    return work


def _rows(prompts: list[tree.Prompt], tokens: int) -> list[tree.Row]:
    ordered = sorted(prompts, key=lambda prompt: prompt.prefix)
    return [tree.row_of(some) for some in tree.together(ordered, tokens, lambda one: one.size)]


# --- ways to attend ---------------------------------------------------------------------------------------------------


def _ways_to_attend(model: HuggingFace, prompts: list[tree.Prompt], tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of each way, with at most so many in a row; what is prepared for a row is within the clock."""
    device = model.model.device.type
    ways = {
        "by branch": {"_AT_ONCE": ()},
        "a mask over the row": {"_AT_ONCE": (device,)},
        "flex attention": {"_AT_ONCE": (device,), "_whole": _flex},
    }
    sizes = {"_TOKENS_PER_PASS": tokens, "_TOKENS_PER_PASS_GPU": tokens, "_MOST_AT_ONCE": 2 * tokens}

    def call(way: dict[str, Any]) -> list[float]:
        with patch.multiple(packed, **sizes, **way):
            found = packed.log_probs(model.model, prompts)
        return [float(values.mean()) for one in found for values in one]

    calls = {name: lambda way=way: call(way) for name, way in ways.items()}
    scores = {}
    for name in list(calls):
        try:
            scores[name] = calls[name]()
        except Exception as error:  # of the compiler, whatever it may be: the others are measured all the same
            print(f"{name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            del calls[name]
    seconds = {name: measure.summary(one) for name, one in measure.alternately(calls, rounds).items()}
    size = sum(len(row.tokens) for row in _rows(prompts, tokens))
    return {
        "tokens": size,
        "ways": {
            name: {
                **{"seconds": one, "tokens_a_second": round(size / one["median"])},
                "largest_difference": float(max(abs(np.subtract(scores[name], scores["by branch"])))),
            }
            for name, one in seconds.items()
        },
    }


_compiled: dict[str, Any] = {}


def _flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: tree.Row, scaling: float, window: int | None
) -> torch.Tensor:
    """What ``packed._whole`` gives, by a compiled kernel that skips blocks of 128 tokens nobody of which is seen."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    kind = ("flex", window)
    if kind not in row.masks:
        sees, n = row.sees(window, query.device), len(row.tokens)
        row.masks[kind] = create_block_mask(lambda _, __, q, k: sees(q, k), None, None, n, n, device=query.device)
    if "flex" not in _compiled:
        _compiled["flex"] = torch.compile(flex_attention, dynamic=True) if query.is_cuda else flex_attention
    return _compiled["flex"](query, key, value, block_mask=row.masks[kind], scale=scaling, enable_gqa=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
