"""What notebook 04 asks about one split of the ratings, and what it and its appendix make of the answers.

What the notebook teaches it spells out: here are the parts that it only uses. Protocol ``cross`` is in ``cross_tasks``
and ``cross_answers``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.data import splits
from hybridrec.evaluation import compare, controls, metrics, topk
from hybridrec.llm import modes, rankers, shuffles, validity
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model
from hybridrec.llm.tasks import Task, build_tasks, with_anothers_history
from hybridrec.randomness import generator, in_random_order
from hybridrec.study import models, steps

Opened = Mapping[str, tuple[Model, Recordings]]  # by name: what answers, and where its answers are recorded
Found = dict[tuple[str, str], list[Ranking]]  # by model and way to ask
Ask = Callable[[Sequence[Task], str], Iterator[Ranking]]
TEXTS = ["ranker", "user", "text"]


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
        return steps.tasks(self.interactions, self.candidates, *shown)

    @cached_property
    def own(self) -> list[Task]:
        """Those of inactive users."""
        return [task for task in self.tasks if task.user in self.inactive]

    @cached_property
    def sampled(self) -> list[Task]:
        """Those of inactive users who have a pair to order, in a seeded order (``steps.sampled``)."""
        return steps.sampled(self.tasks, self.inactive, self.candidates, self.seed)


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
    """The rankings of a sample of users whose candidates are shown in several orders (``steps.reordered``).

    Args:
        split: whom.
        ways: of these the model writes the order.
        orders, users: how many.
        ask: asks for tasks in a way.

    Returns:
        What ``rankers.table`` returns, and ``order``, the number of the order; a user's rows are in the order shown.
    """
    shown = steps.reordered(split.tasks, split.inactive, orders, users, split.seed)
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
        model, and what ``steps.by_history`` returns; without a row where nobody can borrow.
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
        found = steps.by_history(sample, borrowed, usual, llm, recordings, split.noun, split.seed)
        parts.append(found.assign(model=name))
    return pd.concat(parts[1:] or parts, ignore_index=True)


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


# --- what was answered ------------------------------------------------------------------------------------------------


def as_table(found: Found) -> pd.DataFrame:
    """Rankings of several models as rows: model, what ``rankers.table`` returns, and no_verdict."""
    parts = [rankers.table(ones).assign(model=model) for (model, _), ones in found.items()]
    table = pd.concat(parts, ignore_index=True) if parts else rankers.table([]).assign(model=None)
    return table.assign(no_verdict=validity.without_answers(table))


def together(*of_models: pd.DataFrame) -> pd.DataFrame:
    """Rankings of several samples in one table; a user who is in two of them counts once."""
    parts = [table for table in of_models if len(table)] or [*of_models[:1]]
    return pd.concat(parts, ignore_index=True).drop_duplicates(["model", "ranker", "user", "item"])


def written(rankings: pd.DataFrame, ways: Iterable[str]) -> pd.DataFrame:
    """The rows of rankers that write their order, of these ways to ask."""
    return rankings[rankings["ranker"].isin([way.name for way in map(modes.get, ways) if way.writes])]


def texts(split: Split, rankings: Mapping[str, Iterable[Ranking]], llm: Model, recordings: Recordings) -> pd.DataFrame:
    """What the model wrote, word for word, but for titles of the history, which recordings do not hold.

    Args:
        split: whom.
        rankings: by way to ask, of those in which the model writes.
        llm, recordings: who answered, and where it is recorded.

    Returns:
        TEXTS; users for whom nothing was written have no row.
    """
    rows: list[tuple[str, Any, str]] = []
    of = {task.user: task for task in split.tasks}
    for way, ones in rankings.items():
        for one in ones:
            if response := steps.recorded(one, of[one.user], way, llm, recordings, split.noun):
                rows.append((one.ranker, one.user, response["text"]))
    return pd.DataFrame(rows, columns=TEXTS)


def lines(answers: pd.DataFrame) -> pd.Series:
    """The lines of answers (``texts``) that are not empty, each with the index of its answer."""
    every = answers["text"].map(str.splitlines).explode().dropna()
    return every[every.map(str.strip) != ""]


def copied(answers: pd.DataFrame) -> float:
    """The share of written lines that repeat a title of the user's own history; NaN where nothing was written."""
    every = lines(answers)
    return float(every.map(lambda line: "⟨history" in line).mean()) if len(every) else np.nan


def repaired(rankings: pd.DataFrame, seed: int, samples: int) -> pd.DataFrame:
    """The share of candidates that we appended at random, by model and ranker, with its 95 % interval over users.

    Args:
        rankings: model, and what ``rankers.table`` returns, of rankers that write.
        seed, samples: of the bootstrap over users.

    Returns:
        Indexed by model and ranker: users, share, low, high; the ends are NaN for fewer than two users.
    """
    rows: dict[Any, dict[str, float]] = {}
    for key, ones in validity.answers(rankings).groupby(["model", "ranker"], sort=False):
        counts = ones[["missing", "candidates"]].to_numpy(float)
        drawn = generator(seed, "repaired", *key).integers(0, len(counts), (samples, len(counts)))
        sums = counts[drawn].sum(axis=1)
        low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975]) if len(counts) > 1 else (np.nan, np.nan)
        share = counts[:, 0].sum() / counts[:, 1].sum()
        rows[key] = {"users": len(counts), "share": share, "low": low, "high": high}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["users", "share", "low", "high"])
    table.index = pd.MultiIndex.from_tuples(table.index, names=["model", "ranker"])
    return table


def echoes(found: Iterable[Found], seed: int, samples: int) -> pd.DataFrame:
    """How often complete answers are the order shown (``shuffles.echoes``), by model and way that writes.

    Args:
        found: rankings of several samples; a user who is in two of them counts once.
        seed, samples: of the bootstrap over users.

    Returns:
        model, ranker, and what ``shuffles.echoes`` returns.
    """
    writers: dict[tuple[str, str], dict[Any, Ranking]] = {}
    for sample in found:
        for key, ones in sample.items():
            if modes.get(key[1]).writes:
                writers.setdefault(key, {}).update({one.user: one for one in ones})
    rows = []
    for (model, way), by_user in writers.items():
        counts = shuffles.echoes(list(by_user.values()), generator(seed, "echo", model, way), samples)
        rows.append({"model": model, "ranker": modes.get(way).name, **counts})
    return pd.DataFrame(rows)


def floors(rankings: pd.DataFrame, ways: Iterable[str]) -> pd.DataFrame:
    """How probable the two choices are together, by model and ranker, beside the way's floor.

    Returns:
        model, ranker, what ``validity.answered`` returns, and ``floor``.
    """
    found, known = validity.answered(rankings), {way.name: way.floor for way in map(modes.get, ways)}
    floor = pd.Series(known, dtype=float).reindex(found.index.get_level_values("ranker"))
    return found.assign(floor=floor.to_numpy()).reset_index()


def quality(split: Split, rankings: pd.DataFrame, samples: int) -> pd.DataFrame:
    """Mean AUC over inactive users of each ranking and of the trivial ones.

    Args:
        split: whom.
        rankings: what ``rankers.table`` returns, and no_verdict.
        samples: of the bootstrap over users.

    Returns:
        What ``compare.mean_auc`` returns; ``control``, whether there is no language model in it; ``no_verdict``.
    """
    both = pd.concat([rankings.assign(draw=0), _controls(split)])
    judged = both[both["user"].isin(split.inactive)].merge(_labels(split), on=["user", "item"])
    auc = metrics.per_user_by_ranker(judged).groupby(["ranker", "user"], sort=False)["auc"].mean().dropna()
    table = compare.mean_auc(auc, split.seed, samples)
    silent = rankings.loc[rankings["no_verdict"], "ranker"]
    return table.assign(control=table["name"].isin(controls.CONTROLS), no_verdict=table["name"].isin(silent))


def agreement(split: Split, rankings: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each ranker's scores with popularity and mean rating (``metrics.rank_correlation``).

    Args:
        split: whom: inactive users count.
        rankings: what ``rankers.table`` returns.
    """
    facts = _controls(split).pivot_table(index=["user", "item"], columns="ranker", values="score").reset_index()
    rows = rankings[rankings["user"].isin(split.inactive)].merge(facts, on=["user", "item"])
    return metrics.rank_correlation(rows, ["popularity", "item-mean"])


def _controls(split: Split) -> pd.DataFrame:
    known = splits.known(split.interactions)
    return controls.control_scores(known, split.candidates, generator(split.seed, "random-control"))


def _labels(split: Split) -> pd.DataFrame:
    return split.candidates[["user", "item", "relevant"]]


# --- several orders shown (appendix) ----------------------------------------------------------------------------------


def _orders(shown_again: pd.DataFrame) -> dict[str, list[list[Ranking]]]:
    """Rankings for each order shown, by ranker."""
    return {
        str(ranker): [rankers.from_table(rows) for _, rows in of_ranker.groupby("order")]
        for ranker, of_ranker in shown_again.groupby("ranker", sort=False)
    }


def position_bias(shown_again: pd.DataFrame) -> pd.DataFrame:
    """How much the order shown decides the answer: ``shuffles.report`` by ranker and user.

    Args:
        shown_again: what ``ask_again`` returned.
    """
    parts = {ranker: shuffles.report(orders) for ranker, orders in _orders(shown_again).items()}
    return pd.concat(parts or {"": shuffles.report([])}, names=["ranker"])


def orders_combined(shown_again: pd.DataFrame, candidates: pd.DataFrame, seed: int, samples: int) -> pd.DataFrame:
    """Mean AUC with one order, and with the answers to several put together by Borda's count or the closest order.

    Args:
        shown_again: what ``ask_again`` returned.
        candidates: user, item, relevant.
        seed, samples: of the bootstrap over users.

    Returns:
        What ``compare.mean_auc`` returns; names tell ranker, number of orders, and how they were put together.
    """
    parts = []
    for ranker, orders in _orders(shown_again).items():
        several = f"{ranker}, {len(orders)} orders"
        parts.append(rankers.table(orders[0]).assign(ranker=f"{ranker}, one order"))
        parts.append(shuffles.combined(orders).assign(ranker=several))
        parts.append(shuffles.combined(orders, shuffles.central).assign(ranker=f"{several}, closest"))
    judged = pd.concat(parts or [rankers.table([])]).assign(draw=0)
    judged = judged.merge(candidates[["user", "item", "relevant"]], on=["user", "item"])
    auc = metrics.per_user_by_ranker(judged).set_index(["ranker", "user"])["auc"].dropna()
    return compare.mean_auc(auc, seed, samples)


# --- for metrics.json -------------------------------------------------------------------------------------------------


def evidence(
    split: Split,
    rankings: pd.DataFrame,
    of_written: pd.DataFrame,
    model: str,
    answers: pd.DataFrame,
    shown_again: pd.DataFrame,
    by_history: pd.DataFrame,
    samples: int,
) -> dict[str, Any]:
    """What the appendix shows, as metrics.json has it.

    Args:
        split: whom.
        rankings: of the experiment's own model.
        of_written: what ``written`` returned, of all models.
        model: the experiment's own.
        answers: what ``texts`` returned; what is copied is told of the first way to write.
        shown_again: what ``ask_again`` returned.
        by_history: what ``ask_by_history`` returned.
        samples: of the bootstraps over users.
    """
    usable = validity.validity(of_written)
    own = usable[usable.index.get_level_values("model") == model]
    first = of_written.loc[of_written["model"] == model, "ranker"].iloc[:1]
    dots, differences = steps.reading(by_history, split.candidates, split.seed, samples)
    return {
        "validity": own.droplevel("model").reset_index(),
        "validity_of_models": usable.reset_index(),
        "validity_by_end": validity.validity(of_written, by_end=True).reset_index(),
        "copied_history": copied(answers[answers["ranker"].isin(first)]),
        "position": position_bias(shown_again).groupby("ranker").mean().reset_index(),
        "borda": orders_combined(shown_again, split.candidates, split.seed, samples),
        "agreement": agreement(split, rankings).reset_index(),
        "reading": dots,
        "reading_differences": differences,
    }


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
