"""The steps of a study, in order: notebooks, other splits, batch files and the check of own ratings call the same.

A notebook that teaches a step spells it out with the library's functions that the step calls here. What protocol
``cross`` has instead is in ``cross_steps``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import schema
from hybridrec.data import datasets, splits
from hybridrec.errors import ScoresError
from hybridrec.evaluation import arms, controls, cross, metrics, statistics
from hybridrec.llm import rankers, shuffles
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model, Response
from hybridrec.llm.tasks import Task, build_tasks
from hybridrec.randomness import generator, in_random_order
from hybridrec.recommenders.scorer import FromTable
from hybridrec.study import paths
from hybridrec.study.config import PUBLISHED_MODE, PUBLISHED_RECOMMENDERS, Experiment, compared_recommenders
from hybridrec.weak_users import triage

RANKING = ["ranker", "draw", "user", "item", "score"]
RETRIEVES_FOR = {"ItemKNN": "ItemKNN-likes"}


# --- data (notebook 01) -----------------------------------------------------------------------------------------------


def dataset(name: str, ratings: Mapping[str, Any] | None = None) -> datasets.Dataset:
    """A dataset of this repository, or ratings of one's own, from this repository's folders.

    Raises:
        What ``datasets.load`` raises.
    """
    search = (*paths.data_folders(), paths.ROOT) if ratings is not None else paths.data_folders()
    return datasets.load(name, ratings, folder=paths.RAW, search=search)


def divide(
    ratings: pd.DataFrame, like_threshold: float, seed: int, users: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The split and the lists to rank, made for everybody; then those of the users who are drawn.

    Args:
        ratings: user, item, rating, ...
        like_threshold: a rating at or above it makes an item relevant.
        seed: the root of every random stream.
        users: how many are drawn at random; None: everybody.

    Returns:
        Interactions (``splits.split_per_user``) and candidates (``splits.test_candidates``).

    Raises:
        SplitError: there are fewer users.
    """
    interactions = splits.split_per_user(ratings, seed)
    candidates = splits.test_candidates(interactions, like_threshold, seed)
    drawn = splits.sample_users(interactions["user"], users, seed)
    return interactions[interactions["user"].isin(drawn)], candidates[candidates["user"].isin(drawn)]


@dataclass(frozen=True)
class Prepared:
    """Ratings, divided, and who is inactive. ``sparsity`` is S_I(u), indexed by user."""

    interactions: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame
    sparsity: pd.Series
    inactive: pd.Index


def prepare(data: datasets.Dataset, settings: Experiment, seed: int) -> Prepared:
    """What notebook 01 makes of a dataset, for any seed.

    Raises:
        SplitError: fewer users than the experiment draws.
    """
    interactions, candidates = divide(data.interactions, settings.like_threshold, seed, settings.users)
    sparsity = datasets.sparsity_index(splits.known(interactions), len(data.items))
    inactive = sparsity.index[triage.inactive(sparsity, thresholds(settings))]
    return Prepared(interactions, candidates, data.items, sparsity, inactive)


def thresholds(settings: Experiment) -> triage.Thresholds:
    """t_p and t_s of an experiment."""
    return triage.Thresholds(settings.performance_threshold, settings.sparsity_threshold)


# --- recommenders (notebook 02) ---------------------------------------------------------------------------------------


def retrievers(recommenders: Sequence[str]) -> list[str]:
    """Who retrieves from the whole catalogue: ItemKNN-likes in the place of ItemKNN, which only predicts ratings."""
    return list(dict.fromkeys(RETRIEVES_FOR.get(name, name) for name in recommenders))


def own_recommenders(
    experiment: str,
    scores: Mapping[str, Mapping[str, str]] | None,
    interactions: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.DataFrame,
) -> dict[str, FromTable]:
    """Recommenders of the user's own, by name, whose scores of the test are read from files.

    Args:
        experiment: its name.
        scores: the tables ``[scores.NAME]``: file test, by name; None: there are none.
        interactions: user, item, rating, split.
        candidates: user, item: each must have a score.
        items: the catalogue.

    Raises:
        ScoresError: no such file; candidates without a score (says how many, and how to list all of them); what
            ``FromTable`` raises.
    """
    found = {}
    for name, files in (scores or {}).items():
        file, what = scores_file(name, "test", files["test"], experiment), f"test of [scores.{name}]"
        table = schema.scores(file, what, users=splits.known(interactions)["user"], items=items["item"])
        lacking = candidates[["user", "item"]].merge(table, "left", on=["user", "item"])["score"].isna().sum()
        if lacking:
            raise ScoresError(
                f"{paths.within_root(file)} ({what}): {lacking:,} of {len(candidates):,} candidates have no score. "
                f"{_all_pairs(experiment)}"
            )
        found[name] = FromTable(scores=file, name=name)
    return found


def scores_file(name: str, part: str, file: str, experiment: str) -> Path:
    """The file that ``[scores.NAME]`` names, in the first folder that has it.

    Args:
        name: of the recommender.
        part: what the file holds, as the table's key says: test or cross.
        file: relative to data/raw, to where HYBRIDREC_DATA points, or to the repository.
        experiment: its name.

    Raises:
        ScoresError: no folder has it.
    """
    for folder in (*paths.data_folders(), paths.ROOT):
        if (folder / file).is_file():
            return folder / file
    raise ScoresError(
        f"[scores.{name}]: there is no file {file!r} ({part}), in data/raw, in the repository or where HYBRIDREC_DATA "
        f"points. {_all_pairs(experiment)}"
    )


def _all_pairs(experiment: str) -> str:
    return f"`make pairs EXPERIMENT={experiment}` writes all pairs that need one."


# --- triage (notebook 03) ---------------------------------------------------------------------------------------------


def judged(scores: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """What users are judged by under the published protocol: scores of test items, and whether the user liked them.

    Args:
        scores: recommender, part, user, item, score; the part "test" is taken.
        candidates: user, item, relevant.

    Returns:
        Columns recommender, user, item, score, relevant.
    """
    columns = ["recommender", "user", "item", "score"]
    return scores.loc[scores["part"] == "test", columns].merge(candidates[["user", "item", "relevant"]])


# --- the language model (notebook 04) ---------------------------------------------------------------------------------


def tasks(
    interactions: pd.DataFrame, candidates: pd.DataFrame, items: pd.DataFrame, history_length: int, rating_scale: int
) -> list[Task]:
    """What the language model has to order: a task for each user with two candidates or more."""
    rankable = splits.rankable(candidates)
    users, known = rankable["user"].unique(), splits.known(interactions)
    return build_tasks(users, known, rankable, items, history_length, rating_scale)


def asked(
    tasks: Sequence[Task], inactive: pd.Index, modes: Iterable[str], everybody_modes: Sequence[str]
) -> dict[str, list[Task]]:
    """Whom the model is asked for, by mode: inactive users, and in some modes everybody."""
    return {mode: [task for task in tasks if mode in everybody_modes or task.user in inactive] for mode in modes}


def sampled(tasks: Sequence[Task], inactive: pd.Index, candidates: pd.DataFrame, seed: int) -> list[Task]:
    """Inactive users who have a pair to order, in a seeded order: the first n are a sample of n for larger models."""
    eligible = inactive.intersection(splits.with_a_pair(candidates))
    by_user = {task.user: task for task in tasks}
    return [by_user[user] for user in in_random_order(eligible, seed, "ladder")]


def published_weak(tasks: Sequence[Task], triage: pd.DataFrame) -> list[Task]:
    """The tasks of everybody whom one of the compared recommenders calls weak under the published protocol.

    Args:
        tasks: of everybody.
        triage: what ``triage.triage_table`` returned.
    """
    compared = compared_recommenders(triage["recommender"].unique())
    rows = triage[(triage["protocol"] == "published") & triage["weak"] & triage["recommender"].isin(compared)]
    weak = set(rows["user"])
    return [task for task in tasks if task.user in weak]


def recorded(
    ranking: rankers.Ranking, task: Task, mode: str, model: Model, recordings: Recordings, noun: str
) -> Response | None:
    """The recorded answer from which a ranking was read; None where there is none, as for a user who was refused."""
    key = model.key(replace(rankers.request_of(task, mode, noun), attempt=ranking.attempts - 1))
    if key not in recordings:
        return None
    return recordings[key]


ON_WEAK = ("model", "ranker", "recommender", "users", "recommender_auc", "auc", "low", "high")
HISTORIES = ("no history", "another user's history", "own history")


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


def reading(
    rankings: pd.DataFrame, candidates: pd.DataFrame, seed: int, samples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Does a model rank better with a user's own history?

    Args:
        rankings: model, and what ``by_history`` returned. Users without an answer to one of the requests are left out.
        candidates: user, item, relevant. Users without a liked and another item have no AUC, and are left out.
        seed, samples: of the bootstrap over users.

    Returns:
        AUC with each history: model, history, users, auc, low, high (the 95 % interval of the mean). And the paired
        differences: model, history, against, users, difference, low, high.
    """
    dots, differences = [], []
    for model, rows in rankings.groupby("model", sort=False):
        answered = rows[rows["failure"] == ""].assign(draw=0)
        auc = quality(answered, candidates).pivot(index="user", columns="ranker", values="auc")
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


def reordered(tasks: Sequence[Task], inactive: pd.Index, orders: int, users: int, seed: int) -> list[list[Task]]:
    """The same candidates in several orders, for a sample of inactive users; the first order is the tasks' own.

    Where no inactive user has a list to order, the sample is empty.
    """
    able = [task for task in tasks if task.user in inactive and len(task.candidates) > 1]
    sample = shuffles.sample(able, users, seed) if able else []
    return [[shuffles.shuffled(task, number, seed) for task in sample] for number in range(orders)]


# --- evaluation (notebook 05) -----------------------------------------------------------------------------------------


def all_rankings(
    scores: pd.DataFrame, of_model: pd.DataFrame, interactions: pd.DataFrame, candidates: pd.DataFrame
) -> pd.DataFrame:
    """Every ranking of the test candidates in one table: recommenders, language models, controls, oracle.

    Args:
        scores: recommender, part, user, item, score; the part "test" is taken.
        of_model: ranker, user, item, score: language models' rankings; may be empty.
        interactions: user, item, rating, split.
        candidates: user, item, relevant.

    Returns:
        RANKING. The random order is by its expectation, all items tied.
    """
    own = scores[scores["part"] == "test"].rename(columns={"recommender": "ranker"})
    parts = [own, of_model] if len(of_model) else [own]
    known = controls.ratings_of_items(splits.known(interactions))
    pairs = candidates[["user", "item"]]
    parts.append(pairs.assign(ranker=cross.RANDOM, score=0.0))
    for name, control in ((arms.POPULARITY, controls.popularity), (arms.ITEM_MEAN, controls.item_mean)):
        parts.append(pairs.assign(ranker=name, score=control(known, candidates["item"])))
    parts.append(controls.oracle_scores(candidates))
    return pd.concat([part.assign(draw=0)[RANKING] for part in parts], ignore_index=True)


def quality(rankings: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """AUC and NDCG of each user with two candidates or more (see ``metrics.per_user_by_ranker``).

    Args:
        rankings: RANKING.
        candidates: user, item, relevant.
    """
    labels = splits.rankable(candidates)[["user", "item", "relevant"]]
    return metrics.per_user_by_ranker(rankings.merge(labels, on=["user", "item"]))


def as_one_fold(table: pd.DataFrame) -> pd.DataFrame:
    """A table of the published protocol as protocol ``cross`` has it: its only test is fold 0."""
    return table.assign(fold=0, test=0)


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


def not_compared(recommenders: Sequence[str], rankers: Sequence[str]) -> list[str]:
    """A line for everything of the paper's that an experiment lacks, and what is shown in its place."""
    lines = []
    lacking = [name for name in PUBLISHED_RECOMMENDERS if name not in recommenders]
    if lacking:
        shown = ", ".join(compared_recommenders(recommenders))
        lines.append(f"Not fitted here: {', '.join(lacking)}. Means, figures and claims are about {shown}.")
    if PUBLISHED_MODE not in rankers:
        lines.append(f"Not asked here: {PUBLISHED_MODE}, the paper's way to ask. Shown in its place: {rankers[0]}.")
    return lines
