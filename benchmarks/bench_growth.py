"""Time and memory against users, candidates and history length, with the exponent of growth; draws growth.png.

Everything here is made up, so that one size can grow while the others stay.
"""

import ctypes
import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import measure
import numpy as np
import pandas as pd
import psutil
import shapes
from scipy.sparse import csr_array

from hybridrec.data import datasets
from hybridrec.evaluation import metrics
from hybridrec.llm import prompts, rankers
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.tasks import Task
from hybridrec.study import figures
from hybridrec.study import models as study_models
from hybridrec.weak_users import triage

ROUNDS = 5
MODEL = "SmolLM2-135M-Instruct"
TITLE = "The Long Title of Film {number} (1994)"
Work = Callable[[int], Callable[[], Any]]


def run() -> list[dict[str, Any]]:
    """A row for each size of each piece of work, and one with the exponents."""
    rows = [row for name, growing in WORK.items() for row in _grow(name, growing)]
    table = pd.DataFrame(rows)
    exponents = [
        {"task": task, "grows": own["grows"].iloc[0], "exponent": _exponent(own, "seconds")}
        | {"memory_exponent": _exponent(own, "peak_mib_above")}
        for task, own in table.groupby("task", sort=False)
    ]
    figures.save(_figure(table, exponents), measure.RESULTS.parent, "growth")
    return rows + exponents


def _grow(name: str, growing: "Growing") -> list[dict[str, Any]]:
    """The same work at every size: all sizes in turn, ROUNDS times, and the memory of one run more."""
    calls = {size: growing.work(size) for size in growing.sizes}
    peaks = {}
    for size, call in calls.items():
        call()  # loaded and compiled now: neither is the work's own
        peaks[size] = growing.memory(call)
    times = measure.alternately(calls, ROUNDS)
    found = []
    for size in growing.sizes:
        summary = measure.summary(times[size])
        about = {"task": name, "grows": growing.grows, "size": size}
        found.append({**about, "seconds": summary["median"], "all": summary, "peak_mib_above": round(peaks[size], 2)})
    return found


def _exponent(rows: pd.DataFrame, of: str) -> float:
    """The slope of a straight line through the larger half of the sizes, both axes logarithmic."""
    rows = rows.sort_values("size").tail((len(rows) + 1) // 2 + 1)
    return round(float(np.polyfit(np.log(rows["size"]), np.log(rows[of].clip(lower=1e-3)), 1)[0]), 2)


# --- memory -----------------------------------------------------------------------------------------------------------


def resident(call: Callable[[], Any]) -> float:
    """MiB of the process at the worst moment, above what there was before: for torch, which allocates by itself.

    Reads what Linux counts. Memory that earlier calls freed is handed back first, or it would be used again unseen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = psutil.Process().memory_info().rss
    call()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return (int(peak[1]) * 1024 - before) / 2**20


# --- the work ---------------------------------------------------------------------------------------------------------


def _candidates(users: int, each: int) -> pd.DataFrame:
    rng = np.random.default_rng(shapes.SEED)
    columns = {"user": np.repeat(np.arange(users), each), "score": rng.standard_normal(users * each)}
    return pd.DataFrame({**columns, "relevant": rng.random(users * each) < 0.5})


def _metrics(users: int, each: int) -> Callable[[], Any]:
    table = _candidates(users, each)
    return lambda: metrics.per_user(table, 10)


def _catalogue(items: int, users: int = 500, liked: int = 5) -> Callable[[], Any]:
    rng = np.random.default_rng(shapes.SEED)
    factors = rng.standard_normal((users, 20), dtype=np.float32), rng.standard_normal((20, items), dtype=np.float32)
    item = np.stack([rng.choice(items, liked, replace=False) for _ in range(users)]).ravel()
    user = np.repeat(np.arange(users), liked)
    relevant = csr_array((np.ones(len(user), dtype=bool), (user, item)), shape=(users, items))
    seen = csr_array((users, items), dtype=bool)
    return lambda: metrics.whole_catalogue(lambda rows: factors[0][rows] @ factors[1], relevant, seen)


def _triage(users: int, each: int = 100, items: int = 10_000) -> Callable[[], Any]:
    rng = np.random.default_rng(shapes.SEED)
    rows = _candidates(users, each).assign(fold=np.tile(np.arange(each) % 5, users))
    rows["item"] = rng.integers(items, size=len(rows))

    def call() -> pd.Series:
        sparsity = datasets.sparsity_index(rows, items)
        return triage.weak_users(triage.performance(rows)["performance"], sparsity, triage.Thresholds())

    return call


def _likelihood(candidates: int, history: int) -> Callable[[], Any]:
    """One user's ranking by the local model."""
    model = _model()
    items = [prompts.Item(TITLE.format(number=number)) for number in range(candidates + history)]
    task = Task(0, tuple(items[candidates:]), tuple(range(candidates)), tuple(items[:candidates]))
    request = rankers.request_of(task, "likelihood", "film").request
    return lambda: model.answer([request])


_MODELS: list[HuggingFace] = []


def _model() -> HuggingFace:
    if not _MODELS:
        _MODELS.append(study_models.local(MODEL))
    return _MODELS[0]


@dataclass(frozen=True)
class Growing:
    """A piece of work: what grows, its sizes, the work of a size, how its memory is seen, and how it is drawn."""

    grows: str
    sizes: tuple[int, ...]
    work: Work
    memory: Callable[[Callable[[], Any]], float]
    look: dict[str, str]


_MANY = (2_000, 8_000, 32_000, 128_000)
WORK = {
    "metrics, 10 candidates a user": Growing(
        "users", _MANY, lambda n: _metrics(n, 10), measure.allocated, {"color": figures.BLUE, "marker": "o"}
    ),
    "triage, 100 ratings a user": Growing(
        "users", _MANY, _triage, measure.allocated, {"color": figures.ORANGE, "marker": "s"}
    ),
    "metrics, 1,000 users": Growing(
        "candidates", (10, 40, 160, 640, 2_560), lambda n: _metrics(1_000, n), measure.allocated,
        {"color": figures.BLUE, "marker": "o"},
    ),
    "whole catalogue, 500 users": Growing(
        "candidates", (1_000, 4_000, 16_000, 64_000), _catalogue, measure.allocated,
        {"color": figures.GREEN, "marker": "D"},
    ),
    "likelihood, history of 20": Growing(
        "candidates", (5, 20, 80, 320), lambda n: _likelihood(n, 20), resident, {"color": figures.RED, "marker": "^"}
    ),
    "likelihood, 10 candidates": Growing(
        "history", (5, 20, 80, 200), lambda n: _likelihood(10, n), resident, {"color": figures.RED, "marker": "^"}
    ),
}  # fmt: skip
_AXIS = {"users": "users", "candidates": "candidates of a user", "history": "items in the history"}


def _figure(table: pd.DataFrame, exponents: list[dict[str, Any]]) -> plt.Figure:
    """Seconds above, memory below; a column for each thing that grows."""
    figures.use_style()
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharex="col")
    for (grows, label), column in zip(_AXIS.items(), axes.T, strict=True):
        for axis, value, power in zip(
            column, ("seconds", "peak_mib_above"), ("exponent", "memory_exponent"), strict=True
        ):
            for one in (one for one in exponents if one["grows"] == grows):
                own = table[table["task"] == one["task"]]
                axis.loglog(
                    own["size"], own[value], label=f"{one['task']}: n^{one[power]:.2f}", **WORK[one["task"]].look
                )
            axis.legend(fontsize=8, loc="upper left")
            axis.set_ylim(top=axis.get_ylim()[1] * 25)  # room for the legend
        column[1].set_xlabel(label)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("memory above, MiB")
    figure.suptitle("How time and memory grow", x=0.01, ha="left")
    return figure
