"""Every rating tested once: folds over all ratings, and what each may be known by (protocol ``cross``).

For test fold k, a model without fold k scores fold k; whatever is decided for fold k (who is weak, hyper-parameters,
how to ask, weights) is decided on the other folds j, scored by models without j and without k. So nothing that decides
for fold k ever saw it.
"""

import numpy as np
import pandas as pd

from hybridrec.data import splits
from hybridrec.errors import SplitError
from hybridrec.randomness import generator


def divide(ratings: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Ratings sorted by user and item, with a column fold (0 .. folds-1): every user's are dealt evenly, at random.

    Args:
        ratings: user, item, rating, ...; one row a rating.
        folds: how many; at least three: one to be tested on, one to decide on, one to learn from.
        seed: the experiment's root seed.

    Raises:
        SplitError: fewer than three folds.
    """
    _check(folds)
    rows = ratings.sort_values(["user", "item"], ignore_index=True)
    return rows.assign(fold=splits.fold_of(rows, folds, seed))


def divide_by_time(ratings: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """The same with each user's latest ratings as the last fold; the others are dealt at random to the folds before it.

    So nothing that is known of a user is later than what the user is tested on (of two ratings with the same time the
    item decides). What others rated may be later. One cut-off for everybody would rule that out, too, and leaves few
    users with ratings on both sides of it: on ml-100k 109 of 943, on ml-latest-small-2016 23 of 671.

    Args:
        ratings: user, item, rating, timestamp.
        folds: how many; a user's last fold has round(n / folds) of n ratings.
        seed: the experiment's root seed.

    Raises:
        SplitError: fewer than three folds.

    Source: one cut-off a user: Campos, Diez & Cantador 2014; what it leaves open: Ji, Sun, Zhang & Li 2023, "A critical
    study on data leakage in recommender system offline evaluation".
    """
    _check(folds)
    rows = ratings.sort_values(["user", "item"], ignore_index=True)
    newest = rows.sort_values(["timestamp", "item"], ascending=False).groupby("user").cumcount()
    late = newest.sort_index() < np.floor(rows.groupby("user")["item"].transform("size") / folds + 0.5)
    earlier = rows[~late]
    return rows.assign(fold=splits.fold_of(earlier, folds - 1, seed).reindex(rows.index, fill_value=folds - 1))


def without(divided: pd.DataFrame, *folds: int) -> pd.DataFrame:
    """The ratings of all other folds: what a model without these folds learns from, and a history may show."""
    return divided[~divided["fold"].isin(folds)]


def _check(folds: int) -> None:
    if folds < 3:
        raise SplitError(f"folds is {folds}; every rating can be tested once, strictly nested, from three folds on.")


def neighbour(fold: int, folds: int) -> int:
    """The fold on which hyper-parameters, weights and ways to ask are chosen for test fold ``fold``: the next one."""
    return (fold + 1) % folds


def candidates(divided: pd.DataFrame, like_threshold: float, seed: int) -> pd.DataFrame:
    """The lists to rank: each user's ratings of each fold, in a seeded random order.

    Args:
        divided: user, item, rating, fold.
        like_threshold: a rating at or above it makes an item relevant.
        seed: the experiment's root seed.

    Returns:
        Columns fold, user, position (0-based), item, relevant.
    """
    rows = divided[["fold", "user", "item", "rating"]]
    rows = rows.assign(draw=generator(seed, "cross-candidates").random(len(rows)))
    rows = rows.sort_values(["fold", "user", "draw"], ignore_index=True)
    rows["position"] = rows.groupby(["fold", "user"]).cumcount()
    rows["relevant"] = rows["rating"] >= like_threshold
    return rows[["fold", "user", "position", "item", "relevant"]]


def with_a_pair(candidates: pd.DataFrame) -> pd.DataFrame:
    """The lists that hold a relevant item and another one; only they have an AUC. Columns fold and user."""
    share = candidates.groupby(["fold", "user"])["relevant"].mean()
    return share[(share > 0) & (share < 1)].index.to_frame(index=False)
