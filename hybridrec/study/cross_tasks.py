"""The language model under protocol ``cross``: whom it is asked about, and what.

For test fold k a user's history is every rating outside fold k. What decides for fold k (the way to ask, the weight of
a prior) are answers about a neighbouring fold j to histories without j and k.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from hybridrec.data import datasets, folds
from hybridrec.llm import rankers, ways
from hybridrec.llm.runner import Asked, Model
from hybridrec.llm.tasks import Task, build_tasks, with_anothers_history
from hybridrec.llm.ways import Way
from hybridrec.randomness import in_random_order
from hybridrec.study import cross_steps, steps, tables
from hybridrec.study import models as study_models
from hybridrec.study.config import Experiment, compared_recommenders
from hybridrec.weak_users import triage

# A model on this machine scores in this precision: half again as fast on a processor that multiplies it.
DTYPE = "bfloat16"

# How many inactive users are also asked about the folds that decide.
DECIDING_USERS = 200

Cell = tuple[int, int]  # (test, fold): test fold k, and the fold that is asked about
Tasks = dict[tuple[Way, Cell], list[Task]]


@dataclass(frozen=True)
class Cross:
    """Ratings dealt into folds, the lists to rank, and what prompts say of them.

    Attributes:
        divided: user, item, rating, timestamp, fold.
        candidates: fold, user, position, item, relevant.
        items: the catalogue: item, title, genres.
        noun, like_threshold, rating_scale, seed: the settings of that name.
        thresholds: t_s, where the experiment sets it.
        everybody: where the others hold a subset of the users, the ratings of all, in folds: whom a sample draws is
            drawn from all, so that a subset is asked what all are asked.
    """

    divided: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame
    noun: str
    like_threshold: float
    rating_scale: int
    seed: int
    thresholds: triage.Thresholds
    everybody: pd.DataFrame | None = None

    @cached_property
    def folds(self) -> int:
        """How many folds there are."""
        return self.divided["fold"].nunique()

    @cached_property
    def with_a_pair(self) -> pd.DataFrame:
        """The lists that have a pair to order: fold, user."""
        return folds.with_a_pair(self.candidates)

    @property
    def judged_cells(self) -> list[Cell]:
        """What is judged: each fold, known by all others."""
        return [(fold, fold) for fold in range(self.folds)]

    @property
    def deciding_cells(self) -> list[Cell]:
        """What decides: of each neighbouring pair either fold for the other."""
        return [cell for one, other in ways.neighbouring_pairs(self.folds) for cell in ((one, other), (other, one))]

    def inactive(self, *out: int, ratings: pd.DataFrame | None = None) -> pd.Index:
        """Users whose S_I, from ratings outside these folds, is above t_s; those of notebook 03's cross_triage.

        ``ratings`` are ``divided``, unless others are given.
        """
        known = folds.without(self.divided if ratings is None else ratings, *out)
        sparsity = datasets.sparsity_index(known, len(self.items))
        limits = cross_steps.moved_thresholds(self.thresholds, 1 - len(set(out)) / self.folds)
        return sparsity.index[triage.inactive(sparsity, limits)]

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
            self.rating_scale,
            way.shown,
            self.like_threshold,
        )


def prepare(settings: Experiment, data: datasets.Dataset | None = None) -> Cross:
    """The folds and lists of an experiment under protocol ``cross``.

    Args:
        settings: the experiment.
        data: its ratings, to be divided as notebook 01 does; None: what that notebook wrote.

    Raises:
        MissingTableError: it did not run yet.
    """
    if data is None:
        names = ("cross_ratings", "cross_candidates", "items")
        divided, candidates, items = (tables.read(settings.name, name) for name in names)
    else:
        how = (settings.like_threshold, settings.folds, settings.seed, settings.users)
        (divided, candidates), items = cross_steps.divide(data.interactions, *how), data.items
    return Cross(
        divided,
        candidates,
        items,
        settings.noun,
        settings.like_threshold,
        settings.rating_scale,
        settings.seed,
        steps.thresholds(settings),
        everybody(settings.dataset, settings.ratings, settings.users, settings.folds, settings.seed),
    )


def everybody(
    dataset: str, ratings: Mapping[str, Any] | None, users: int | None, number: int, seed: int
) -> pd.DataFrame | None:
    """The ratings of all users, in folds, where an experiment is about a subset of them (``Cross.everybody``)."""
    return None if users is None else folds.divide(steps.dataset(dataset, ratings).interactions, number, seed)


def compared_users(cross: Cross, users: int) -> dict[Cell, list[int]]:
    """A seeded sample of each neighbouring pair's users, in whom ways to ask are compared.

    Args:
        cross: the folds.
        users: how many of each pair. They are inactive by the ratings outside both folds; no rating's value decides
            who is drawn.

    Returns:
        By cell of ``cross.deciding_cells``, those of its sample who have a pair in the fold asked about.
    """
    found: dict[Cell, list[int]] = {}
    for one, other in ways.neighbouring_pairs(cross.folds):
        drawn = in_random_order(cross.inactive(one, other), cross.seed, "ways to ask", one, other)[:users]
        for cell in ((one, other), (other, one)):
            able = set(cross.users(cell))
            found[cell] = [user for user in drawn if user in able]
    return found


# --- what is asked ----------------------------------------------------------------------------------------------------


def scoring(opened: Model, name: str, device: str | None = None) -> Model:
    """A model of an experiment; one on this machine scores in ``DTYPE``, whatever the precision it was opened in.

    Args:
        opened: the model as the rest of the study asks it.
        name: what the experiment calls it.
        device: where it computes under this protocol, if not where it does for the rest of the study.
    """
    loaded = getattr(opened, "loaded", None)
    if loaded is None:
        return opened
    wanted = {"dtype": DTYPE, "device": device or loaded.device}
    if all(getattr(loaded, key) == value for key, value in wanted.items()):
        return opened
    return study_models.local(name, **{**loaded.model_dump(), **wanted})


def asked_in(tasks: Tasks, cross: Cross) -> list[Asked]:
    """The requests of tasks by way and cell, user after user in a seeded order.

    A run that is cut short has so asked everything of a sample of users; and what one user's prompts begin with alike
    is computed once.
    """
    by_user: dict[Any, list[Asked]] = {}
    for (way, _), ones in tasks.items():
        for task in ones:
            by_user.setdefault(task.user, []).append(rankers.request_of(task, way.mode, cross.noun))
    order = in_random_order(by_user, cross.seed, "cross-order")
    return [one for user in order for one in by_user[user]]


def compared_tasks(cross: Cross, users: int, compared: Sequence[Way]) -> Tasks:
    """What is asked to compare ways: each way's tasks in each cell of ``cross.deciding_cells``."""
    sample = compared_users(cross, users)
    return {(way, cell): cross.tasks(way, cell, sample[cell]) for way in compared for cell in cross.deciding_cells}


def judged_tasks(
    cross: Cross, chosen: Mapping[int, Way], drawn: Collection[int] | None = None, another: bool = False
) -> Tasks:
    """What is judged: each test fold's users, asked in the way that was chosen for it.

    Args:
        cross: the folds.
        chosen: the way by test fold.
        drawn: users to be asked about; None: everybody who is inactive and has a pair to order.
        another: whether each is asked about with another user's history.
    """
    found = {}
    for test, way in chosen.items():
        users = [user for user in cross.users((test, test)) if drawn is None or user in drawn]
        tasks = cross.tasks(way, (test, test), users)
        found[way, (test, test)] = with_anothers_history(tasks, cross.seed) if another else tasks
    return found


def deciding_tasks(cross: Cross, chosen: Mapping[int, Way], drawn: Collection[int]) -> Tasks:
    """What weights are chosen on: for each test fold, its two neighbours, in the way that was chosen for it."""
    found = {}
    for cell in cross.deciding_cells if chosen else ():
        way = chosen[cell[0]]
        found[way, cell] = cross.tasks(way, cell, [user for user in cross.users(cell) if user in drawn])
    return found


def deciding_users(cross: Cross, users: int | None = None) -> list[int]:
    """Inactive users who are asked about the folds that decide: a sample that no rating's value draws.

    Args:
        cross: the folds.
        users: how many at most, if fewer than DECIDING_USERS.
    """
    able = in_random_order(cross.inactive(ratings=cross.everybody), cross.seed, "cross-deciding")
    return able[:DECIDING_USERS][:users]


def larger_tasks(cross: Cross, larger: Mapping[str, Any], triage: pd.DataFrame) -> Tasks:
    """The judged lists that a larger model is asked about.

    Args:
        cross: the folds.
        larger: a table ``[[larger_models]]`` with ``cross_way``, as a notebook gets it.
        triage: recommender, test, user, weak (``cross_steps.triage``).

    Returns:
        Those of users whom a compared recommender hands over (the paper's three, where they are there), or of all who
        are inactive, as ``cross_group`` says; of a seeded sample of ``cross_users`` of them.
    """
    way = ways.get(larger["cross_way"])
    asked = {test: set(cross.users((test, test))) for test, _ in cross.judged_cells}
    if larger.get("cross_group") != "inactive":
        compared = compared_recommenders(triage["recommender"].unique())
        weak = triage[triage["weak"] & triage["recommender"].isin(compared)]
        asked = {test: users & set(weak.loc[weak["test"] == test, "user"]) for test, users in asked.items()}
    order = in_random_order(set().union(*asked.values()), cross.seed, "cross-routed")
    sample = set(order[: larger.get("cross_users")])
    return {
        (way, (test, test)): cross.tasks(way, (test, test), sorted(users & sample)) for test, users in asked.items()
    }
