"""How many items of a whole catalogue stand above some of them: the one loop here that is compiled.

NumPy has no call for it, and in its single steps (compare, count) most of the time goes into reading what the step
before has written. numba waits half a second to compile, so only whoever measures whole catalogues imports this.
"""

import numpy as np
from numba import njit, uint32


@njit(nogil=True, locals={"above": uint32, "beside": uint32})
def _count(row: np.ndarray, score: float) -> tuple[int, int]:
    """How many scores of a row are higher, and how many the same. Narrow counters: sixteen fit a register."""
    above = beside = 0
    for item in range(len(row)):
        above += row[item] > score
        beside += row[item] == score
    return above, beside


@njit(nogil=True, locals={"finite": uint32})
def _all_finite(row: np.ndarray) -> bool:
    finite = 0
    for item in range(len(row)):
        finite += np.isfinite(row[item])
    return finite == len(row)


@njit(nogil=True)
def of_items(
    scores: np.ndarray,
    item_ends: np.ndarray, items: np.ndarray,
    seen_ends: np.ndarray, seen: np.ndarray,
    above: np.ndarray, beside: np.ndarray,
) -> int:  # fmt: skip
    """Fill ``above`` and ``beside``: how many unseen items have a higher score than each item, and how many the same.

    Args:
        scores: shape (n_users, n_items).
        item_ends, items: the items of each user, as the ``indptr`` (a part of it, n_users + 1 long) and the ``indices``
            of a csr_array. They are among the unseen, and count themselves as beside.
        seen_ends, seen: the same of what each user has seen.
        above, beside: shape (len(items),).

    Returns:
        The first user with a score that is no number, at whom it stopped; -1 if there is none.
    """
    for user in range(len(scores)):
        row = scores[user]
        if not _all_finite(row):
            return user
        seen_scores = row[seen[seen_ends[user] : seen_ends[user + 1]]]
        for at in range(item_ends[user], item_ends[user + 1]):
            score = row[items[at]]
            higher, same = _count(row, score)
            seen_higher, seen_same = _count(seen_scores, score)
            above[at], beside[at] = higher - seen_higher, same - seen_same
    return -1
