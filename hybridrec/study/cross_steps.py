"""The steps of protocol ``cross``, which tests every rating once: notebooks, other seeds and own ratings call the same.

Its tasks and answers of the language model are in ``cross_tasks`` and ``cross_answers``, and what is compared in the
end in ``cross_arms``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hybridrec.data import folds, splits
from hybridrec.recommenders import cross, fitting
from hybridrec.study import paths, steps
from hybridrec.study.config import Experiment, parameters
from hybridrec.weak_users import cross as weak_users
from hybridrec.weak_users.triage import Thresholds

# --- folds (notebook 01) ----------------------------------------------------------------------------------------------


def divide(
    ratings: pd.DataFrame, like_threshold: float, number: int, seed: int, users: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Folds over all ratings and the lists to rank in each, made for everybody; then those of the users who are drawn.

    Args:
        ratings: user, item, rating, ...
        like_threshold: a rating at or above it makes an item relevant.
        number: of folds, three or more.
        seed: the root of every random stream.
        users: how many are drawn at random; None: everybody. They are those of ``steps.divide``.

    Returns:
        ``folds.divide``'s ratings and ``folds.candidates``.

    Raises:
        SplitError: there are fewer users, or fewer folds.
    """
    divided = folds.divide(ratings, number, seed)
    candidates = folds.candidates(divided, like_threshold, seed)
    drawn = splits.sample_users(divided["user"], users, seed)
    return divided[divided["user"].isin(drawn)], candidates[candidates["user"].isin(drawn)]


# --- recommenders (notebook 02) ---------------------------------------------------------------------------------------


def recommend(
    divided: pd.DataFrame, items: pd.DataFrame, settings: Experiment, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What notebook 02 makes for the protocol cross: the tuning table, and the scores (``cross.scores``)."""
    catalogue, grids = items["item"].to_numpy(), settings.grids or {}
    study = fitting.Study(divided, catalogue, settings.like_threshold, seed, grids, paths.CACHE)
    tuning = cross.tune(study, settings.recommenders)
    own = own_scores(settings.name, parameters(settings)["scores"], divided, items)
    own_quality = [cross.given_quality(one, divided, settings.like_threshold) for one in own.values()]
    return (
        pd.concat([tuning, *own_quality], ignore_index=True),
        pd.concat([cross.scores(study, tuning), *own.values()], ignore_index=True),
    )


def in_time(
    divided: pd.DataFrame,
    items: pd.DataFrame,
    recommenders: Sequence[str],
    grids: Mapping[str, Sequence[Any]],
    like_threshold: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A check on cross: the test is the latest ratings of each user, and what is known is divided at random.

    Args:
        divided: user, item, rating, timestamp, fold (``divide``).
        items: the catalogue.
        recommenders, grids, like_threshold, seed: of the experiment.

    Returns:
        The ratings with the last fold as the test (``folds.divide_by_time``), and scores (``cross.COLUMNS``) for this
        test fold alone; both empty where times are not known.
    """
    if divided["timestamp"].nunique() < 2:
        return divided.iloc[:0], pd.DataFrame(columns=cross.COLUMNS)
    number = divided["fold"].nunique()
    late = folds.divide_by_time(divided.drop(columns="fold"), number, seed)
    study = fitting.Study(late, items["item"].to_numpy(), like_threshold, seed, grids, paths.CACHE)
    return late, cross.scores(study, cross.tune(study, recommenders, tests=[number - 1]))


def own_scores(
    experiment: str,
    scores: Mapping[str, Mapping[str, str]] | None,
    divided: pd.DataFrame,
    items: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """For the protocol cross, the scores of recommenders of the user's own, by name (``cross.COLUMNS``).

    Those that ``left_out`` names have none.

    Args:
        experiment: its name.
        scores: the tables ``[scores.NAME]``; None: there are none.
        divided: user, item, fold (``divide``).
        items: the catalogue.

    Raises:
        ScoresError: no such file; what ``cross.given`` raises.
    """
    named = {name: files["cross"] for name, files in (scores or {}).items() if files.get("cross")}
    paths_of = {name: steps.scores_file(name, "cross", file, experiment) for name, file in named.items()}
    return {name: cross.given(name, path, divided, items) for name, path in paths_of.items()}


def left_out(scores: Mapping[str, Mapping[str, str]] | None) -> list[str]:
    """A line for each recommender of the user's own that takes no part in the protocol cross."""
    lacking = [name for name, files in (scores or {}).items() if not files.get("cross")]
    return [f"{name} is left out of cross: [scores.{name}] has no key cross (docs/own-ratings.md)." for name in lacking]


# --- triage (notebook 03) ---------------------------------------------------------------------------------------------


def triage(
    scores: pd.DataFrame,
    divided: pd.DataFrame,
    items: pd.DataFrame,
    like_threshold: float,
    thresholds: Thresholds,
) -> pd.DataFrame:
    """Who is weak for each test fold, by recommender; see ``weak_users.cross.cross_triage``."""
    moved = moved_thresholds(thresholds, 1 - 1 / divided["fold"].nunique())
    return weak_users.cross_triage(scores, divided, items, like_threshold, moved)


def moved_thresholds(thresholds: Thresholds, known: float) -> Thresholds:
    """Thresholds for this share of all ratings.

    A t_s that an experiment sets is meant for the ratings known under its split, nine tenths of them. Where fewer are
    known, it is moved to where it divides the same users.
    """
    if thresholds.sparsity is None:
        return thresholds
    return Thresholds(thresholds.performance, 1 - (1 - thresholds.sparsity) * known / 0.9)


def judged(scores: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Every rating as it is judged under protocol cross: scored by a model that has not seen its fold.

    Args:
        scores: recommenders' cross scores (``recommenders.cross.COLUMNS``).
        candidates: fold, user, item, relevant.

    Returns:
        Columns recommender, fold, user, item, score, relevant.
    """
    fresh = scores[scores["fold"] == scores["test"]].rename(columns={"ranker": "recommender"})
    judged = fresh.merge(candidates[["fold", "user", "item", "relevant"]], on=["fold", "user", "item"])
    return judged[["recommender", "fold", "user", "item", "score", "relevant"]]
