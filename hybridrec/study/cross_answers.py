"""The language model under protocol ``cross``: whom it is asked about, in which way, and what it answered.

For test fold k a user's history is every rating outside fold k. What decides for fold k (the way to ask, the weight of
a prior) are answers about a neighbouring fold j to histories without j and k.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from hybridrec.data import datasets, folds
from hybridrec.llm import rankers, ways
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Model
from hybridrec.llm.tasks import Task, build_tasks, with_anothers_history
from hybridrec.llm.ways import Way
from hybridrec.randomness import in_random_order
from hybridrec.study import models as study_models
from hybridrec.study import steps
from hybridrec.study.config import Experiment, parameters
from hybridrec.weak_users import triage

# Scores of the cross protocol are computed in this precision: half again as fast on a processor that multiplies it.
DTYPE = "bfloat16"
_OF_RANKING = ["user", "item", "score", "answered", "failure"]
_ANSWERS = ["way", "test", "fold", "user", "item", "score", "relevant", "answered", "failure"]

Cell = tuple[int, int]  # (test, fold): test fold k, and the fold that is asked about


@dataclass(frozen=True)
class Cross:
    """An experiment's ratings, dealt into folds, and the lists to rank."""

    settings: Experiment
    divided: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame

    @cached_property
    def with_a_pair(self) -> pd.DataFrame:
        """The lists that have a pair to order: fold, user."""
        return folds.with_a_pair(self.candidates)

    @property
    def tests(self) -> list[Cell]:
        """What is judged: each fold, known by all others."""
        return [(fold, fold) for fold in range(self.settings.folds)]

    @property
    def triage(self) -> list[Cell]:
        """What decides: of each neighbouring pair either fold for the other."""
        return [
            cell for one, other in ways.neighbouring_pairs(self.settings.folds) for cell in ((one, other), (other, one))
        ]

    def inactive(self, *out: int) -> pd.Index:
        """Users whose S_I, from ratings outside these folds, is above t_s."""
        sparsity = datasets.sparsity_index(folds.without(self.divided, *out), len(self.items))
        return sparsity.index[triage.inactive(sparsity, steps.thresholds(self.settings))]

    def users(self, cell: Cell) -> list[int]:
        """Inactive users, by ratings outside both folds, who have a pair to order in the fold asked about."""
        rows = self.with_a_pair
        return sorted(set(rows.loc[rows["fold"] == cell[1], "user"]) & set(self.inactive(*cell)))

    def tasks(self, way: Way, cell: Cell, users: Iterable[int]) -> list[Task]:
        """The tasks of users in one fold, from ratings outside both folds of the cell."""
        test, fold = cell
        return build_tasks(
            users,
            folds.without(self.divided, test, fold),
            self.candidates[self.candidates["fold"] == fold],
            self.items,
            way.length,
            self.settings.rating_scale,
            way.shown,
            self.settings.like_threshold,
        )


def prepare(data: datasets.Dataset, settings: Experiment) -> Cross:
    """The folds and lists of an experiment under protocol ``cross``."""
    divided = folds.divide(data.interactions, settings.folds, settings.seed)
    lists = folds.candidates(divided, settings.like_threshold, settings.seed)
    return Cross(settings, divided, lists, data.items)


def compared_users(cross: Cross, users: int) -> dict[Cell, list[int]]:
    """A seeded sample of each neighbouring pair's users, in whom ways to ask are compared.

    Args:
        cross: the folds.
        users: how many of each pair. They are inactive by the ratings outside both folds, and have a pair to order in
            one of the two at least.

    Returns:
        By cell of ``cross.triage``, those of its sample who have a pair in the fold asked about.
    """
    found = {}
    for one, other in ways.neighbouring_pairs(cross.settings.folds):
        cells = [(one, other), (other, one)]
        able = {cell: cross.users(cell) for cell in cells}
        drawn = in_random_order(set().union(*able.values()), cross.settings.seed, "ways to ask", one, other)[:users]
        found |= {cell: [user for user in drawn if user in able[cell]] for cell in cells}
    return found


# --- what is asked ----------------------------------------------------------------------------------------------------


def model_of(settings: Experiment) -> Model:
    """The experiment's model, scoring in ``DTYPE``."""
    plain = parameters(settings)
    return study_models.open_model(settings.model, plain["endpoint"], {**(plain["local"] or {}), "dtype": DTYPE})


def in_turn(tasks: Mapping[Hashable, Sequence[Task]], order: Sequence[int]) -> Iterator[tuple[Hashable, Task]]:
    """All tasks, user after user in this order: a run that is cut short has asked everything of the first users."""
    by_user: dict[Hashable, list[tuple[Hashable, Task]]] = {}
    for key, ones in tasks.items():
        for task in ones:
            by_user.setdefault(task.user, []).append((key, task))
    return (one for user in order for one in by_user.get(user, ()))


def asked_in(tasks: Mapping[tuple[Way, Cell], Sequence[Task]], cross: Cross) -> list[Asked]:
    """The requests of tasks by way and cell, user after user in a seeded order."""
    order = in_random_order({task.user for ones in tasks.values() for task in ones}, cross.settings.seed, "cross-order")
    return [rankers.request_of(task, way.mode, cross.settings.noun) for (way, _), task in in_turn(tasks, order)]


def compared_tasks(cross: Cross, users: int, compared: Sequence[Way]) -> dict[tuple[Way, Cell], list[Task]]:
    """What is asked to compare ways: each way's tasks in each cell of ``cross.triage``."""
    sample = compared_users(cross, users)
    return {(way, cell): cross.tasks(way, cell, sample[cell]) for way in compared for cell in cross.triage}


def judged_tasks(
    cross: Cross, chosen: Mapping[int, Way], drawn: Collection[int] | None = None, another: bool = False
) -> dict[tuple[Way, Cell], list[Task]]:
    """What is judged: each test fold's users, asked in the way that was chosen for it.

    Args:
        cross: the folds.
        chosen: the way by test fold.
        drawn: users to be asked about; None: everybody who is inactive and has a pair to order.
        another: whether each is asked about with another user's history.
    """
    found = {}
    for cell in cross.tests:
        users = [user for user in cross.users(cell) if drawn is None or user in drawn]
        tasks = cross.tasks(chosen[cell[0]], cell, users)
        found[chosen[cell[0]], cell] = with_anothers_history(tasks, cross.settings.seed) if another else tasks
    return found


def deciding_tasks(
    cross: Cross, chosen: Mapping[int, Way], drawn: Collection[int] | None = None
) -> dict[tuple[Way, Cell], list[Task]]:
    """What weights are chosen on: for each test fold, its two neighbours, in the way that was chosen for it."""
    return {
        (chosen[cell[0]], cell): cross.tasks(
            chosen[cell[0]], cell, [user for user in cross.users(cell) if drawn is None or user in drawn]
        )
        for cell in cross.triage
    }


# --- what was answered ------------------------------------------------------------------------------------------------


def answers(
    tasks: Mapping[tuple[Way, Cell], Sequence[Task]], cross: Cross, model: Model, recordings: Recordings
) -> pd.DataFrame:
    """What is recorded of these tasks; users of whom something is missing are left out, and counted by ``coverage``.

    Returns:
        Columns way, test, fold, user, item, score, relevant, answered, failure.
    """
    parts = []
    for (way, (test, fold)), ones in tasks.items():
        there = [one for one in ones if model.key(rankers.request_of(one, way.mode, cross.settings.noun)) in recordings]
        how = {"noun": cross.settings.noun, "seed": cross.settings.seed}
        table = rankers.table(rankers.rank(there, way.mode, model, recordings, **how))
        parts.append(table[_OF_RANKING].assign(way=way.name, test=test, fold=fold))
    labels = cross.candidates[["fold", "user", "item", "relevant"]]
    return pd.concat(parts, ignore_index=True).merge(labels, on=["fold", "user", "item"])[_ANSWERS]
