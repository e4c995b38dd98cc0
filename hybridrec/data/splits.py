"""Who sees what: the seeded per-user split, the candidate lists, and the checks that nothing leaks."""

import hashlib

import numpy as np
import pandas as pd

from hybridrec.errors import SplitError
from hybridrec.randomness import generator, in_random_order


def split_per_user(interactions: pd.DataFrame, seed: int, test: float = 0.1, validation: float = 0.1) -> pd.DataFrame:
    """Assign each user's ratings at random to train, validation and test (published: 80/10/10).

    Args:
        interactions: columns user, item, ...; one row a rating.
        seed: the experiment's root seed.
        test: share of each user's ratings held out for testing.
        validation: share held out for choosing hyper-parameters.

    Returns:
        ``interactions`` sorted by (user, item) with a column ``split``. Every user keeps at least one training row.

    Source: Kaur & Shah 2024, section 4.1 ("80/10/10 split").
    """
    rows = interactions.sort_values(["user", "item"], ignore_index=True)
    draw = pd.Series(generator(seed, "split").random(len(rows)))
    position = draw.groupby(rows["user"]).rank(method="first") - 1
    size = rows.groupby("user")["item"].transform("size")
    # Training comes first: a user with one rating has it there.
    n_test = np.minimum(np.floor(size * test + 0.5), size - 1)
    n_validation = np.minimum(np.floor(size * validation + 0.5), size - 1 - n_test)
    in_order = [position < n_test, position < n_test + n_validation]
    return rows.assign(split=np.select(in_order, ["test", "validation"], "train"))


def test_candidates(interactions: pd.DataFrame, like_threshold: float, seed: int) -> pd.DataFrame:
    """The published ranking task: each user's own test items, in a seeded random order.

    Args:
        interactions: columns user, item, rating, split.
        like_threshold: a rating at or above it makes the item relevant.
        seed: the experiment's root seed.

    Returns:
        Columns task ("test-items"), user, position (0-based), item, relevant.
    """
    rows = interactions.loc[interactions["split"] == "test", ["user", "item", "rating"]]
    rows = rows.sort_values(["user", "item"], ignore_index=True)
    rows["draw"] = generator(seed, "candidates").random(len(rows))
    rows = rows.sort_values(["user", "draw"], ignore_index=True)
    rows["position"] = rows.groupby("user").cumcount()
    rows["relevant"] = rows["rating"] >= like_threshold
    return rows.assign(task="test-items")[["task", "user", "position", "item", "relevant"]]


def sample_users(users: pd.Series, n: int | None, seed: int) -> np.ndarray:
    """The users of a study on a subset, ``n`` drawn at random; everybody where ``n`` is None.

    Draw after the split and the candidates were made for everybody: then those who are drawn keep the items that they
    have in the full study, so what a model was asked about them there is found again.

    Args:
        users: the user of each rating.
        n: how many.
        seed: the experiment's root seed.

    Returns:
        User ids, sorted.

    Raises:
        SplitError: there are fewer than ``n``.
    """
    there = users.nunique()
    if n is not None and n > there:
        raise SplitError(f"users is {n}, but there are {there}: lower it in the experiment's file, or leave it out.")
    return np.sort(in_random_order(users, seed, "users")[:n])


def known(interactions: pd.DataFrame) -> pd.DataFrame:
    """Training and validation ratings: all that may be known of a user before the test."""
    return interactions[interactions["split"] != "test"]


def rankable(candidates: pd.DataFrame) -> pd.DataFrame:
    """The lists of two items or more. A list of one is in order whoever ranks it, so it counts in no comparison."""
    return candidates[candidates.groupby("user")["item"].transform("size") >= 2]


def with_a_pair(candidates: pd.DataFrame) -> np.ndarray:
    """Users who have a pair to order, a relevant candidate and another one; only they have an AUC.

    Args:
        candidates: user, relevant.

    Returns:
        User ids, sorted.
    """
    share = candidates["relevant"].groupby(candidates["user"]).mean()
    return np.sort(share.index[(share > 0) & (share < 1)])


def check_integrity(interactions: pd.DataFrame, candidates: pd.DataFrame) -> dict[str, int]:
    """Count what must be zero, and refuse to go on when it is not.

    Returns:
        The checks by name, each 0.

    Raises:
        SplitError: names the first check that failed and a user it failed for.
    """
    before = known(interactions)
    leaks = candidates.merge(before[["user", "item"]], on=["user", "item"])
    without = candidates.loc[~candidates["user"].isin(before["user"])]
    users = interactions.drop_duplicates("user")
    untrained = users[~users["user"].isin(interactions.loc[interactions["split"] == "train", "user"])]
    failures = {
        "a rating that occurs twice": interactions[interactions.duplicated(["user", "item"])],
        "a candidate that also stands in training or validation": leaks,
        "a candidate listed twice for one user": candidates[candidates.duplicated(["task", "user", "item"])],
        "a user with candidates but no history": without,
        "a user without training ratings": untrained,
    }
    for name, rows in failures.items():
        if len(rows):
            raise SplitError(f"{name}: user {rows['user'].iloc[0]} (and {len(rows) - 1} rows more)")
    return {name: len(rows) for name, rows in failures.items()}


def fold_of(interactions: pd.DataFrame, folds: int, seed: int) -> pd.Series:
    """Fold number of each row: every user's ratings are dealt evenly over the folds, at random.

    Args:
        interactions: the rows to divide (train and validation), with a column user.
        folds: how many.
        seed: the experiment's root seed.

    Returns:
        Integers 0 .. folds-1, indexed like ``interactions``.
    """
    draw = pd.Series(generator(seed, "folds", folds).random(len(interactions)), index=interactions.index)
    order = draw.groupby(interactions["user"]).rank(method="first") - 1
    # Each user starts at a fold of their own: otherwise short histories would always fill fold 0 first.
    users = interactions["user"].drop_duplicates().sort_values()
    start = dict(zip(users, generator(seed, "fold-start", folds).integers(folds, size=len(users)), strict=True))
    return ((order + interactions["user"].map(start)) % folds).astype(int)


def fingerprint(table: pd.DataFrame) -> str:
    """SHA-256 of a table's values in order: how frozen candidate lists are checked without publishing them."""
    return hashlib.sha256(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()).hexdigest()
