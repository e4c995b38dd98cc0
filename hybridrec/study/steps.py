"""The steps of a study, in order: notebooks, other splits, batch files and the check of own ratings call the same.

A notebook that teaches a step spells it out with the library's functions that the step calls here. What the language
model is asked is in ``prompting``, and what protocol ``cross`` has instead in ``cross_steps``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import schema
from hybridrec.data import datasets, splits
from hybridrec.errors import ScoresError
from hybridrec.evaluation import arms, controls, cross, metrics
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
