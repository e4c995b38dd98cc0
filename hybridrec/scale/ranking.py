"""The language model on a cluster: one in each of several processes, and every answer recorded once."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import files, schema
from hybridrec.data.datasets import Dataset
from hybridrec.errors import HybridrecError, RecordingError
from hybridrec.llm.modes import Mode
from hybridrec.llm.ranker import Ranker
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model
from hybridrec.scale import allowance as allowances
from hybridrec.scale.cluster import each, start
from hybridrec.scale.divided import Divided, write
from hybridrec.scale.steps import need

Users = schema.Table | Iterable[Hashable]


def rank(
    divided: Divided,
    llm: Callable[[], Model],
    answers: str | Path,
    users: Users,
    *,
    mode: Mode | str | Path = "likelihood",
    actors: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch: int = 64,
    **how: Any,
) -> dict[str, int]:
    """``Ranker.rank`` of the tables ``ratings`` and ``candidates``; writes the same rankings as the table ``ranked``.

    Each process ranks one shard at a time, in batches of users. When a batch is done, its new answers are put beside
    ``answers`` as one file; when all is done, they are merged into it by key, the first answer to a request staying. If
    a process or a machine dies, another one goes on, and asks the batch that it was at again. If this process dies, the
    next call goes on. Two users with the very same request, in different shards, may each have it asked.

    Args:
        divided: the tables.
        llm: makes the model, once in each process: ``lambda: HuggingFace("...")`` or ``lambda: Endpoint(...)``.
            What an endpoint's settings allow a minute, and its spending cap, is shared by all processes.
        answers: the file of recorded answers, seen by all machines; what is there is not asked again.
        users: whom to rank for: ids, or a table with a column user.
        mode: as of ``Ranker``.
        actors: how many processes, each with a model of its own.
        cpus, gpus: how much of them each process takes: ``gpus=0.25`` has four models share a GPU.
        batch: how many users at a time.
        how: ``noun``, ``history_length``, ``scale`` and ``seed``, as of ``Ranker``.

    Returns:
        Counts: users, no_answer (of them), and answers that are new in the file.

    Raises:
        What ``Ranker.rank`` raises, after the other processes have ended their batches and recorded them. ScaleError:
        see ``cluster.each``.
    """
    answers, total = Path(answers).absolute(), Counter[str](users=0, no_answer=0, answers=0)
    with files.lock(answers.with_name(f"{answers.name}.lock"), f"ranking with the answers in {files.shown(answers)}"):
        _merge(answers)
        try:
            made = _Ranking(divided, llm, {"mode": mode, **how}, batch, answers, allowances.of(llm))
            for counts in _run(made, users, "ranking", actors, cpus, gpus):
                total.update(counts)
        finally:
            total["answers"] = _merge(answers)
    return dict(total)


def estimate(
    divided: Divided, llm: Callable[[], Model], users: Users, *, mode: Mode | str | Path = "likelihood",
    actors: int = 1, cpus: float = 1.0, batch: int = 64, **how: Any,
) -> pd.DataFrame:  # fmt: skip
    """``Ranker.estimate`` of the same; asks nothing. Arguments and errors are those of ``rank``."""
    made = _Ranking(divided, llm, {"mode": mode, **how}, batch)
    found = [table for table in _run(made, users, "estimates", actors, cpus, 0.0) if len(table)]
    columns = ["user", "requests", "prompt_tokens", "completion_tokens", "usd"]
    return pd.concat(found or [pd.DataFrame(columns=columns)]).sort_values("user", ignore_index=True)


def _run(made: "_Ranking", users: Users, what: str, actors: int, cpus: float, gpus: float) -> Iterable[Any]:
    start()
    need(made.divided, "candidates")
    made.divided.hand_out(users, "asked")
    return each(made.with_model, range(made.divided.shards), what, actors=actors, cpus=cpus, gpus=gpus)


@dataclass(frozen=True)
class _Ranking:
    """What each process is told; with a model it ranks shards. Without a file of answers it estimates their cost."""

    divided: Divided
    llm: Callable[[], Model]
    how: dict[str, Any]
    batch: int
    answers: Path | None = None
    allowance: allowances.Allowance | None = None
    ranker: Ranker | None = None
    recorded: Recordings | None = None

    def with_model(self) -> "_Ranking":
        """The same in a process of its own."""
        llm = self.llm()
        if self.allowance:
            self.allowance.give(llm)
        recorded = Recordings(self.answers, replay_only=True) if self.answers else None
        return replace(self, ranker=Ranker(llm, **self.how), recorded=recorded)

    def __call__(self, shard: int) -> Any:
        """Rank a shard's users, write their rankings and return counts; or return what that would cost."""
        try:
            return self._shard(shard)
        except HybridrecError:
            if self.answers:
                _stop(self.answers).parent.mkdir(exist_ok=True)
                _stop(self.answers).touch()
            raise

    def _shard(self, shard: int) -> Any:
        assert self.ranker
        data, candidates = self.divided.data(shard), self.divided.read("candidates", shard)
        users, of_items = sorted(self.divided.read("asked", shard)["user"]), self.divided.item_ratings()
        known, found, counts = Recordings(), [], Counter[str](users=len(users))
        for path in _parts(self.answers, f"{shard:05}-*"):
            known.import_(path)  # by a process that has died in this shard
        self.divided.place(shard, "ranked").unlink(missing_ok=True)  # of another run
        for number in range(0, len(users), self.batch):
            some = users[number : number + self.batch]
            ratings, lists = (table[table["user"].isin(some)] for table in (data.interactions, candidates))
            needed = data.items["item"].isin(pd.concat([ratings["item"], lists["item"]]))
            own = replace(data, interactions=ratings, items=data.items[needed])
            if self.answers is None:
                found.append(self.ranker.estimate(own, lists, some, of_items))
            elif _stop(self.answers).exists():  # another process has met an error
                return counts
            else:
                found.append(self._ranked(own, lists, some, of_items, known, f"{shard:05}-{number:08}"))
        table = pd.concat(found) if found else pd.DataFrame()
        if self.answers is None:
            return table
        if found:
            write(table, self.divided.place(shard, "ranked"))
            counts["no_answer"] = table.loc[table["failure"].ne(""), "user"].nunique()
        return counts

    def _ranked(
        self, data: Dataset, lists: pd.DataFrame, users: list, of_items: pd.DataFrame, known: Recordings, name: str
    ) -> pd.DataFrame:
        """A batch's rankings; its new answers are put in place as one file, also if it ends in an error."""
        assert self.ranker and self.recorded is not None and self.answers
        self.ranker.recordings = new = _New(known, self.recorded)
        if self.allowance:
            self.allowance.begin()
        try:
            return self.ranker.rank(data, lists, users, of_items)
        finally:
            if len(new):
                new.export(_folder(self.answers) / f"{name}.jsonl.gz")


class _New(Recordings):
    """New answers, in memory; older ones are looked up in recordings that are only read."""

    def __init__(self, *older: Recordings) -> None:
        super().__init__()
        self._older = older

    def __contains__(self, key: str) -> bool:
        return super().__contains__(key) or any(key in one for one in self._older)

    def __getitem__(self, key: str) -> dict[str, Any]:
        older = self._holder(key)
        return older[key] if older else super().__getitem__(key)

    def damaged(self, key: str, what: str) -> RecordingError:
        older = self._holder(key)
        return older.damaged(key, what) if older else super().damaged(key, what)

    def _holder(self, key: str) -> Recordings | None:
        return next((one for one in self._older if key in one), None)


def _folder(answers: Path) -> Path:
    """Where the answers of batches lie until they are merged."""
    return answers.with_name(f"{answers.name}.parts")


def _stop(answers: Path) -> Path:
    """A file that tells all processes to begin no other batch."""
    return _folder(answers) / "stop"


def _parts(answers: Path | None, name: str = "*") -> list[Path]:
    return sorted(_folder(answers).glob(f"{name}.jsonl.gz")) if answers else []


def _merge(answers: Path) -> int:
    """Put the answers of all batches into the file of answers; returns how many are new there."""
    merged, new = Recordings(answers), 0
    for path in _parts(answers):
        new += merged.import_(path)
        os.remove(path)
    shutil.rmtree(_folder(answers), ignore_errors=True)
    return new
