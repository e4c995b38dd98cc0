"""The language model under one split of the ratings: whom notebook 04 asks about, and what.

What the notebook teaches it spells out: here are the parts that it only uses. What was answered is in
``split_answers``; protocol ``cross`` is in ``cross_tasks`` and ``cross_answers``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd

from hybridrec.data import splits
from hybridrec.evaluation import topk
from hybridrec.llm import modes, rankers, shuffles
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model
from hybridrec.llm.tasks import Task, build_tasks, with_anothers_history
from hybridrec.randomness import in_random_order
from hybridrec.study import models
from hybridrec.study.config import compared_recommenders

Opened = Mapping[str, tuple[Model, Recordings]]  # by name: what answers, and where its answers are recorded
Found = dict[tuple[str, str], list[Ranking]]  # by model and way to ask
Ask = Callable[[Sequence[Task], str], Iterator[Ranking]]
HISTORIES = ("no history", "another user's history", "own history")


@dataclass(frozen=True)
class Split:
    """One split of the ratings, and what prompts say of it.

    Attributes:
        interactions: user, item, rating, timestamp, split.
        candidates: user, position, item, relevant.
        items: the catalogue: item, title, genres.
        inactive: the users who may be weak.
        noun, seed, history_length, rating_scale: the settings of that name.
    """

    interactions: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame
    inactive: pd.Index
    noun: str
    seed: int
    history_length: int
    rating_scale: int

    @cached_property
    def tasks(self) -> list[Task]:
        """The lists of everybody who has two candidates or more."""
        shown = (self.items, self.history_length, self.rating_scale)
        rankable, known = splits.rankable(self.candidates), splits.known(self.interactions)
        return build_tasks(rankable["user"].unique(), known, rankable, *shown)

    @cached_property
    def own(self) -> list[Task]:
        """Those of inactive users."""
        return [task for task in self.tasks if task.user in self.inactive]

    @cached_property
    def sampled(self) -> list[Task]:
        """Those of inactive users who have a pair to order, in a seeded order: larger models get the first n."""
        eligible = self.inactive.intersection(splits.with_a_pair(self.candidates))
        by_user = {task.user: task for task in self.tasks}
        return [by_user[user] for user in in_random_order(eligible, self.seed, "ladder")]

    def asked(self, ways: Iterable[str], everybody_ways: Sequence[str]) -> dict[str, list[Task]]:
        """Whom the model is asked for, by way: inactive users, and in some ways everybody."""
        return {way: self.tasks if way in everybody_ways else self.own for way in ways}

    def published_weak(self, triage: pd.DataFrame) -> list[Task]:
        """Those of everybody whom one of the compared recommenders calls weak under the published protocol.

        Args:
            triage: what ``triage.triage_table`` returned.
        """
        compared = compared_recommenders(triage["recommender"].unique())
        rows = triage[(triage["protocol"] == "published") & triage["weak"] & triage["recommender"].isin(compared)]
        weak = set(rows["user"])
        return [task for task in self.tasks if task.user in weak]

    def reordered(self, orders: int, users: int) -> list[list[Task]]:
        """The same candidates in several orders, for a sample of inactive users; the first order is the tasks' own.

        Where no inactive user has a list to order, the sample is empty.
        """
        able = [task for task in self.own if len(task.candidates) > 1]
        sample = shuffles.sample(able, users, self.seed) if able else []
        return [[shuffles.shuffled(task, number, self.seed) for task in sample] for number in range(orders)]


# --- what is asked ----------------------------------------------------------------------------------------------------


def open_larger(
    larger_models: Iterable[Mapping[str, Any]], loaded: Mapping[str, Any] | None, dataset: str
) -> dict[str, tuple[Model, Recordings]]:
    """The larger models of an experiment by name; nothing is loaded before it is asked.

    Args:
        larger_models: the tables ``[[larger_models]]``, as a notebook gets them.
        loaded: the settings ``local``.
        dataset: whose answers.
    """
    return {
        one["model"]: (models.open_larger(one, loaded), models.recordings_for(dataset, one["model"]))
        for one in larger_models
    }


def ask_sample(larger_models: Iterable[Mapping[str, Any]], opened: Opened, split: Split) -> Found:
    """What each larger model answers for its sample, the first users of ``Split.sampled``."""
    found: Found = {}
    for one in larger_models:
        who, counts = opened[one["model"]], one["users"]
        rankers.score_ahead(split.sampled, counts, *who, split.noun)
        for mode, count in counts.items():
            ranked = rankers.rank(split.sampled[:count], mode, *who, noun=split.noun, seed=split.seed)
            found[one["model"], mode] = list(ranked)
    return found


def ask_weak(larger_models: Iterable[Mapping[str, Any]], opened: Opened, weak: Sequence[Task], split: Split) -> Found:
    """What larger models answer for those whom the published protocol hands over, in the ways of ``published_weak``."""
    return {
        (one["model"], mode): list(rankers.rank(weak, mode, *opened[one["model"]], noun=split.noun, seed=split.seed))
        for one in larger_models
        for mode in one.get("published_weak", [])
    }


def ask_again(split: Split, ways: Iterable[str], orders: int, users: int, ask: Ask) -> pd.DataFrame:
    """The rankings of a sample of users whose candidates are shown in several orders (``Split.reordered``).

    Args:
        split: whom.
        ways: of these the model writes the order.
        orders, users: how many.
        ask: asks for tasks in a way.

    Returns:
        What ``rankers.table`` returns, and ``order``, the number of the order; a user's rows are in the order shown.
    """
    shown = split.reordered(orders, users)
    parts = [
        rankers.table(ask(tasks, way)).assign(order=number)
        for way in ways
        for number, tasks in enumerate(shown)
        if tasks
    ]
    return pd.concat(parts, ignore_index=True) if parts else rankers.table([]).assign(order=0)


def ask_by_history(
    split: Split,
    first: tuple[str, Model, Recordings],
    prior: pd.DataFrame | None,
    larger_models: Iterable[Mapping[str, Any]],
    opened: Opened,
) -> pd.DataFrame:
    """The same candidates ranked without a history, with another user's and with the user's own, by each model.

    Args:
        split: whom: ``Split.sampled``; of a larger model the first ``another_history`` of them.
        first: the experiment's own model: its name, what answers, and its recordings.
        prior: its prior (``rankers.prior_of``); None where it is not asked by likelihood.
        larger_models, opened: as in ``ask_sample``.

    Returns:
        model, and what ``by_history`` returns; without a row where nobody can borrow.
    """
    lent = {task.user: task for task in with_anothers_history(split.own, split.seed)}
    asked: list[tuple[str, Model, Recordings, list[Task], pd.DataFrame]] = []
    if prior is not None and lent:
        asked.append((*first, split.sampled, prior))
    for one in larger_models if lent else ():
        sample, who = split.sampled[: one.get("another_history", 0)], opened[one["model"]]
        wanted = {item for task in sample for item in task.candidates}
        items = split.items[split.items["item"].isin(wanted)]
        if sample:
            asked.append((one["model"], *who, sample, rankers.prior_of(items, *who, split.noun)))
    parts = [rankers.table([]).assign(model=None)]
    for name, llm, recordings, sample, usual in asked:
        borrowed = [lent[task.user] for task in sample]
        found = by_history(sample, borrowed, usual, llm, recordings, split.noun, split.seed)
        parts.append(found.assign(model=name))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def by_history(
    own: Sequence[Task],
    borrowed: Sequence[Task],
    prior: pd.DataFrame,
    model: Model,
    recordings: Recordings,
    noun: str,
    seed: int,
) -> pd.DataFrame:
    """The same candidates ranked by "likelihood" without a history, with another user's and with the user's own.

    Args:
        own, borrowed: tasks of the same users; ``borrowed`` is what ``with_anothers_history`` returned.
        prior: what ``rankers.prior_of`` returned.
        model, recordings, noun, seed: as in ``rankers.rank``.

    Returns:
        What ``rankers.table`` returns; ``ranker`` is one of HISTORIES.
    """
    ask = partial(rankers.rank, mode="likelihood", model=model, recordings=recordings, noun=noun, seed=seed)
    found = (rankers.rank_by_prior(own, prior), ask(borrowed), ask(own))
    return pd.concat([rankers.table(one).assign(ranker=name) for name, one in zip(HISTORIES, found, strict=True)])


def rank_retrieved(
    split: Split, retrieved: pd.DataFrame, ways: Iterable[str], users: int, llm: Model, recordings: Recordings
) -> pd.DataFrame:
    """Every title that a recommender retrieved for a sample of inactive users, scored by the model.

    Args:
        split: whom.
        retrieved: user, item, spare, ...: what recommenders retrieved; spare titles stand behind each list.
        ways: in which a title's score does not depend on the others.
        users: of how many.
        llm, recordings: as in ``rankers.rank``.

    Returns:
        What ``rankers.table`` returns; without a row where there is no way.
    """
    ways = list(ways)
    eligible = split.inactive.intersection(splits.with_a_pair(split.candidates))
    chosen = sorted(in_random_order(eligible, split.seed, "top-k")[:users]) if ways else []
    rows = retrieved[retrieved["user"].isin(chosen)]
    shown, known = (split.items, split.history_length, split.rating_scale), splits.known(split.interactions)
    lists, spare = (build_tasks(chosen, known, topk.titles(one), *shown) for one in (rows[~rows["spare"]], rows))
    how: dict[str, Any] = {"noun": split.noun, "seed": split.seed, "spare": spare}
    ranked = [one for way in ways for one in rankers.rank_lists(lists, way, llm, recordings, **how)]
    return rankers.table(ranked)


# --- what is told -----------------------------------------------------------------------------------------------------


def writes(way: str) -> bool:
    """Whether the model writes the order in this way to ask."""
    return modes.get(way).writes


def not_run(experiment: str, what: str, key: str) -> str:
    """A line that says what was not asked under protocol ``cross``, and how to ask it."""
    file = f"notebooks/experiments/{experiment}.toml"
    return f"{what}: not run under cross. To ask: {key} in {file}, then make reproduce EXPERIMENT={experiment}."


def not_compared(experiment: str, cross_ways: Sequence[str]) -> str:
    """Why no ways to ask are compared: the experiment names its own, or asks nothing under protocol ``cross``."""
    if not cross_ways:
        return not_run(experiment, "The experiment's model", "cross_ways")
    return f"Not compared: the experiment names {', '.join(dict.fromkeys(cross_ways))}."
