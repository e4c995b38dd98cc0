"""Every rating tested once: folds over all ratings, and what each may be known by (protocol ``cross``).

For test fold k, a model without fold k scores fold k; whatever is decided for fold k (who is weak, hyper-parameters,
how to ask, weights) is decided on the other folds j, scored by models without j and without k. So nothing that decides
for fold k ever saw it.
"""

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
    if folds < 3:
        raise SplitError(f"folds is {folds}; every rating can be tested once, strictly nested, from three folds on.")
    rows = ratings.sort_values(["user", "item"], ignore_index=True)
    return rows.assign(fold=splits.fold_of(rows, folds, seed))


def without(divided: pd.DataFrame, *folds: int) -> pd.DataFrame:
    """The ratings of all other folds: what a model without these folds learns from, and a history may show."""
    return divided[~divided["fold"].isin(folds)]


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
