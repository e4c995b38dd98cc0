"""Bounded harm: the largest share of users that can be handed over while P(a user is made worse) stays below alpha."""

import numpy as np
import pandas as pd

from hybridrec.errors import BudgetError
from hybridrec.randomness import generator

NOBODY = np.inf  # the threshold that no score reaches


def threshold(calibration: pd.DataFrame, alpha: float) -> float:
    """The lowest score from which on users may be handed over, such that at most alpha of all users are made worse.

    A user's loss is the share of the user's lists that are handed over and made worse. It can only grow when the
    threshold falls, so conformal risk control applies: for users who are exchangeable with the calibration users, and
    scores that were not made from these users' outcomes, the expected loss is at most alpha, whatever the scores are
    worth.

    Args:
        calibration: user, score (NaN: never handed over), worse (whether the list came out worse when it was ranked by
            the arm; bool): one row a list of a user whose outcome is known.
        alpha: between 0 and 1.

    Returns:
        A score; ``NOBODY`` where even the highest score is too much, or where users are too few (below 1 / alpha - 1).

    Raises:
        BudgetError: alpha is not between 0 and 1.

    Source: Angelopoulos, Bates, Fisch, Lei & Schuster 2022 (arXiv 2208.02814), eq. 4, with losses of at most 1.
    """
    if not 0 < alpha < 1:
        raise BudgetError(f"max_harm is {alpha!r}; it must be a share between 0 and 1, such as 0.1.")
    users = calibration["user"].nunique()
    share = calibration["worse"] / calibration.groupby("user")["user"].transform("size")
    by_score = share.groupby(calibration["score"]).sum().sort_index(ascending=False)  # leaves NaN out
    allowed = (by_score.cumsum() + 1) / (users + 1) <= alpha + 1e-12
    return float(allowed[allowed].index.min()) if allowed.any() else NOBODY


def realised(judged: pd.DataFrame, at: float) -> dict[str, float]:
    """What came of a threshold: means over users of their lists.

    Args:
        judged: user, score, worse, as for ``threshold``.
        at: the threshold.

    Returns:
        routed (share handed over), worse (share handed over and made worse).
    """
    handed = judged["score"] >= at  # False for NaN
    size = judged.groupby("user")["user"].transform("size") * judged["user"].nunique()
    return {"routed": (handed / size).sum(), "worse": (handed & judged["worse"]).div(size).sum()}


def redraws(calibration: pd.DataFrame, judged: pd.DataFrame, alpha: float, seed: int, times: int = 200) -> pd.DataFrame:
    """The bound put to the test: calibrated on a random half of the users, judged on the other half, many times.

    Args:
        calibration: test, user, score, worse: the lists that may calibrate for each test fold. The bound holds for
            lists that came about as the judged ones did, such as ``judged`` itself: other users in the same fold.
        judged: test, user, score, worse: the lists of the test fold itself; those of users who do not calibrate count.
        alpha: between 0 and 1.
        seed: draws the halves.
        times: how often.

    Returns:
        draw, routed and worse (``realised``, means over test folds), nobody (share of test folds with nobody routed).
    """
    users, rng, rows = np.unique(judged["user"]), generator(seed, "risk"), []
    known, fresh = (dict(list(table.groupby("test"))) for table in (calibration, judged))
    for draw in range(times):
        half = rng.permutation(users)[: len(users) // 2]
        for test, lists in fresh.items():
            inside = known.get(test, calibration.iloc[:0])
            at = threshold(inside[inside["user"].isin(half)], alpha)
            found = realised(lists[~lists["user"].isin(half)], at)
            rows.append({"draw": draw, "nobody": float(at == NOBODY), **found})
    return pd.DataFrame(rows).groupby("draw", as_index=False)[["routed", "worse", "nobody"]].mean()
