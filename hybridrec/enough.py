"""Is there enough in ratings of one's own for the study? Asked before anything expensive is computed."""

import pandas as pd

from hybridrec import datasets, splits, triage
from hybridrec.experiment import Experiment
from hybridrec.sources.canonical import DatasetError

USERS = 10  # inactive users with an AUC on the test; with fewer, every mean of them would be luck


def check(data: datasets.Dataset, settings: Experiment) -> str:
    """Refuse ratings on which the study would have nothing to say.

    Args:
        data: the ratings.
        settings: the experiment, with its like_threshold, rating_scale and sparsity_threshold.

    Returns:
        One line: how many users, and for how many of them the comparison is made.

    Raises:
        DatasetError: ratings off the scale, no likes or nothing else, or too few users or ratings (names the remedy).
        SplitError: fewer users than the experiment wants to draw.
    """
    _check_ratings(data, settings)
    dealt = splits.split_per_user(data.interactions, settings.seed)
    chosen = splits.sample_users(dealt["user"], settings.users, settings.seed)
    interactions = dealt[dealt["user"].isin(chosen)]
    inactive = _inactive(data, interactions, settings)
    judged = {part: _with_both(interactions, settings.like_threshold, part) for part in ("validation", "test")}
    compared = inactive.intersection(judged["test"])
    counts = f"{len(compared):,} of {len(inactive):,} inactive users have likes and other items in the test"
    if len(compared) < USERS:
        raise DatasetError(
            f"{data.source}: only {counts}; the study needs {USERS}. A tenth of a user's ratings is the test, so users "
            "need 15 ratings for two test items. Leave out users with few ratings (core = 15 in [ratings]), call more "
            f"users inactive (sparsity_threshold = 0.0), or add ratings. A user has {_median(data):.0f} at the median."
        )
    if judged["validation"].empty:
        raise DatasetError(f"{data.source}: no user has likes and other items in the validation part. Add ratings.")
    return counts


def _check_ratings(data: datasets.Dataset, settings: Experiment) -> None:
    ratings, like = data.interactions["rating"], settings.like_threshold
    if ratings.max() > settings.rating_scale:
        what = "needs rating_scale = 5" if _counts(settings) else "set it to the highest rating, or mend that rating"
        raise DatasetError(
            f"{data.source}: a rating is {ratings.max():g}, above rating_scale = {settings.rating_scale}: {what}."
        )
    if not (ratings >= like).any():
        raise DatasetError(
            f"{data.source}: no rating is a like: the highest is {ratings.max():g}, and like_threshold = {like:g}. "
            "Lower it."
        )
    if (ratings >= like).all():
        raise DatasetError(
            f"{data.source}: every rating is a like: the lowest is {ratings.min():g}, and like_threshold = {like:g}. "
            "An order is judged by likes that stand before other items. Raise it; for clicks, plays or purchases, set "
            'feedback = "counts" in [ratings].'
        )


def _counts(settings: Experiment) -> bool:
    return (settings.ratings or {}).get("feedback") == "counts"


def _median(data: datasets.Dataset) -> float:
    return data.interactions.groupby("user").size().median()


def _inactive(data: datasets.Dataset, interactions: pd.DataFrame, settings: Experiment) -> pd.Index:
    """The inactive users, as notebook 01 finds them."""
    known = interactions[interactions["split"] != "test"]
    sparsity = datasets.sparsity_index(known, len(data.items))
    thresholds = triage.Thresholds(settings.performance_threshold, settings.sparsity_threshold)
    inactive = sparsity.index[triage.inactive(sparsity, thresholds)]
    if inactive.empty:
        raise DatasetError(
            f"{data.source}: no user is inactive, that is, sparser than "
            f"{triage.sparsity_threshold(sparsity, thresholds):.4f}. Only inactive users can be weak. Where all users "
            "have rated as much, set sparsity_threshold = 0.0: then all of them are inactive."
        )
    return inactive


def _with_both(interactions: pd.DataFrame, like_threshold: float, part: str) -> pd.Index:
    """Users with a like and something else in one part of the split."""
    rows = interactions[interactions["split"] == part]
    share = (rows["rating"] >= like_threshold).groupby(rows["user"]).mean()
    return share.index[(share > 0) & (share < 1)]
