"""The language model under one split of the ratings: what notebook 04 and its appendix make of its answers.

Whom and what it is asked about is in ``prompting``; protocol ``cross`` is in ``cross_tasks`` and ``cross_answers``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.data import splits
from hybridrec.evaluation import compare, controls, cross, metrics, statistics
from hybridrec.llm import modes, rankers, shuffles, validity
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model, Response
from hybridrec.llm.tasks import Task
from hybridrec.randomness import generator
from hybridrec.study import steps
from hybridrec.study.prompting import HISTORIES, Found, Split

TEXTS = ["ranker", "user", "text"]
ON_WEAK = ("model", "ranker", "recommender", "users", "recommender_auc", "auc", "low", "high")


# --- rankings in tables -----------------------------------------------------------------------------------------------


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


# --- what was written -------------------------------------------------------------------------------------------------


def recorded(
    ranking: Ranking, task: Task, mode: str, model: Model, recordings: Recordings, noun: str
) -> Response | None:
    """The recorded answer from which a ranking was read; None where there is none, as for a user who was refused."""
    key = model.key(replace(rankers.request_of(task, mode, noun), attempt=ranking.attempts - 1))
    if key not in recordings:
        return None
    return recordings[key]


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
            if response := recorded(one, of[one.user], way, llm, recordings, split.noun):
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


# --- how good it is ---------------------------------------------------------------------------------------------------


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


def on_published_weak(
    lists: pd.DataFrame, weak: pd.DataFrame, names: pd.DataFrame, seed: int, samples: int
) -> pd.DataFrame:
    """The published pattern of larger models: AUC of the weak users before, and in the model's order.

    Args:
        lists: what ``evaluation.cross.lists`` made of all rankings, as one fold.
        weak: recommender, test, user: whom the compared recommenders call weak.
        names: model, ranker: what to look at; "model: ranker" is its name in ``lists``.
        seed, samples: of the bootstrap over users.

    Returns:
        model, ranker, recommender, users (weak ones with an answer and a pair to order), recommender_auc, auc, and low
        and high, the 95 % interval of auc. A random order has an AUC of one half.
    """
    rows = []
    for model, ranker in names[["model", "ranker"]].itertuples(index=False):
        answered = lists.loc[lists["ranker"] == f"{model}: {ranker}", ["test", "user"]]
        for name, group in weak.merge(answered).groupby("recommender", sort=False):
            own, new = (cross.quality(lists, group, one)["auc"] for one in (str(name), f"{model}: {ranker}"))
            row = {"model": model, "ranker": ranker, "recommender": name, "recommender_auc": own.mean()}
            rows.append(row | _mean(new, "auc", (seed, model, ranker, name), samples))
    return pd.DataFrame(rows, columns=[*ON_WEAK])


# --- does it read the user? (appendix) --------------------------------------------------------------------------------


def reading(
    rankings: pd.DataFrame, candidates: pd.DataFrame, seed: int, samples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Does a model rank better with a user's own history?

    Args:
        rankings: model, and what ``prompting.by_history`` returned. Users without an answer to one of the requests are
            left out.
        candidates: user, item, relevant. Users without a liked and another item have no AUC, and are left out.
        seed, samples: of the bootstrap over users.

    Returns:
        AUC with each history: model, history, users, auc, low, high (the 95 % interval of the mean). And the paired
        differences: model, history, against, users, difference, low, high.
    """
    dots, differences = [], []
    for model, rows in rankings.groupby("model", sort=False):
        answered = rows[rows["failure"] == ""].assign(draw=0)
        auc = steps.quality(answered, candidates).pivot(index="user", columns="ranker", values="auc")
        auc = auc.reindex(columns=list(HISTORIES)).dropna()
        for name in HISTORIES:
            dots.append({"model": model, "history": name, **_mean(auc[name], "auc", (seed, model, name), samples)})
        for name, other in combinations(HISTORIES[::-1], 2):
            mean = _mean(auc[name] - auc[other], "difference", (seed, model, name, other), samples)
            differences.append({"model": model, "history": name, "against": other, **mean})
    return (
        pd.DataFrame(dots, columns=["model", "history", "users", "auc", "low", "high"]),
        pd.DataFrame(differences, columns=["model", "history", "against", "users", "difference", "low", "high"]),
    )


def _mean(values: pd.Series, called: str, key: tuple, samples: int) -> dict[str, float]:
    """How many users, their mean, and its interval."""
    seed, *names = key
    low, high = statistics.bootstrap_interval(values.to_numpy(), generator(seed, "reading", *names), samples)
    return {"users": len(values), called: values.mean(), "low": low, "high": high}


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
        shown_again: what ``prompting.ask_again`` returned.
    """
    parts = {ranker: shuffles.report(orders) for ranker, orders in _orders(shown_again).items()}
    return pd.concat(parts or {"": shuffles.report([])}, names=["ranker"])


def orders_combined(shown_again: pd.DataFrame, candidates: pd.DataFrame, seed: int, samples: int) -> pd.DataFrame:
    """Mean AUC with one order, and with the answers to several put together by Borda's count or the closest order.

    Args:
        shown_again: what ``prompting.ask_again`` returned.
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
        shown_again: what ``prompting.ask_again`` returned.
        by_history: what ``prompting.ask_by_history`` returned.
        samples: of the bootstraps over users.
    """
    usable = validity.validity(of_written)
    own = usable[usable.index.get_level_values("model") == model]
    first = of_written.loc[of_written["model"] == model, "ranker"].iloc[:1]
    dots, differences = reading(by_history, split.candidates, split.seed, samples)
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
