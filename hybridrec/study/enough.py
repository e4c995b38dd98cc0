"""Is there enough in ratings of one's own for the study? Asked before anything expensive is computed."""

import math

import numpy as np
import pandas as pd

from hybridrec.data import datasets, splits
from hybridrec.errors import DatasetError
from hybridrec.study import steps
from hybridrec.study.config import Experiment
from hybridrec.weak_users import triage

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
    prepared = steps.prepare(data, settings, settings.seed)
    inactive = _inactive(data, prepared, settings)
    rated = prepared.interactions.assign(relevant=lambda rows: rows["rating"] >= settings.like_threshold)
    judged = {part: splits.with_a_pair(rated[rated["split"] == part]) for part in ("validation", "test")}
    compared = inactive.intersection(judged["test"])
    counts = f"{len(compared):,} of {len(inactive):,} inactive users have likes and other items in the test"
    counts += alike(prepared)
    if len(compared) < USERS:
        raise DatasetError(f"{data.source}: only {counts}; the study needs {USERS}. {_more(data, settings, judged)}")
    if not len(judged["validation"]):
        raise DatasetError(f"{data.source}: no user has likes and other items in the validation part. Add ratings.")
    return counts


def _more(data: datasets.Dataset, settings: Experiment, judged: dict[str, np.ndarray]) -> str:
    """What gives the study more users to compare."""
    among = len(judged["test"])
    if among >= USERS:
        return f"Among all users {among:,} have: set sparsity_threshold = 0.0, then all of them are inactive."
    others = " Raise users, or leave it out." if settings.users else ""
    return (
        f"Among all users only {among:,} have. A tenth of a user's ratings is the test, so a user needs 15 ratings for "
        f"two test items; a user has {_median(data):.0f} at the median. Add ratings.{others}"
    )


def alike(prepared: steps.Prepared) -> str:
    """A clause on ratings of which most users have equally many: one threshold of sparsity cannot divide those."""
    known = splits.known(prepared.interactions).groupby("user").size()
    counts = known.value_counts(normalize=True)
    if counts.iloc[0] < 0.5:
        return ""
    inactive = known[prepared.inactive].eq(counts.index[0]).any()
    kind = "inactive" if inactive else "active; sparsity_threshold = 0.0 would call all users inactive"
    share, each = counts.iloc[0], counts.index[0]
    return f" ({share:.0%} of all users have {each} known ratings each, so no threshold divides them: they are {kind})"


def _check_ratings(data: datasets.Dataset, settings: Experiment) -> None:
    """Refuse ratings off the scale, and those among which no like_threshold tells likes from other items."""
    values, like = np.sort(data.interactions["rating"].unique()).tolist(), settings.like_threshold
    counts = (settings.ratings or {}).get("feedback") == "counts"
    if values[-1] > settings.rating_scale:
        what = "counts need rating_scale = 5" if counts else f"set it to {math.ceil(values[-1])}, or fix that rating"
        raise DatasetError(
            f"{data.source}: a rating is {values[-1]:g}, above rating_scale = {settings.rating_scale}: {what}."
        )
    if len(values) == 1:
        what = "each user took every item equally often" if counts else f"every rating is {values[0]:g}"
        raise DatasetError(
            f"{data.source}: {what}, so nothing tells likes from other items, whatever like_threshold is. Set rating "
            'in [ratings] to a column whose values differ (with feedback = "counts" if it counts plays or purchases).'
        )
    if like > values[-1]:
        raise DatasetError(
            f"{data.source}: no rating is a like: the highest is {values[-1]:g}, and like_threshold = {like:g}. "
            f"Lower it to {values[-1]} or below."
        )
    if like <= values[0]:
        other = (
            '; for clicks, plays or purchases, set feedback = "counts" in [ratings], like_threshold = 4.0 and '
            "rating_scale = 5"
        )
        raise DatasetError(
            f"{data.source}: every rating is a like: the lowest is {values[0]:g}, and like_threshold = {like:g}. An "
            f"order is judged by likes that stand before other items. Raise it to {4.0 if counts else values[1]} or "
            f"above{'' if counts else other}."
        )


def _median(data: datasets.Dataset) -> float:
    return data.interactions.groupby("user").size().median()


def _inactive(data: datasets.Dataset, prepared: steps.Prepared, settings: Experiment) -> pd.Index:
    """The inactive users; there must be one."""
    if prepared.inactive.empty:
        threshold = triage.sparsity_threshold(prepared.sparsity, steps.thresholds(settings))
        raise DatasetError(
            f"{data.source}: no user is inactive, that is, sparser than {threshold:.4f}"
            f"{alike(prepared)}. Only inactive users can be weak: set sparsity_threshold = 0.0, then all of them are "
            "inactive."
        )
    return prepared.inactive
