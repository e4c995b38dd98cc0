"""Ranking quality, for all users at once. Ties are worth their expectation over random tie-breaking, never their luck.

Every function takes columns (user, score, relevant), one row a candidate, and returns one value a user. A user for
whom a metric is undefined (no relevant item; for AUC also no irrelevant one) gets NaN, never 0. A score or relevance
that is NaN is a ScoresError, which names the user: it would have an order by chance; -inf is behind all others. Whole
catalogues, which do not fit a table, are for ``whole_catalogue``.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array
from scipy.special import gammaln

from hybridrec.errors import ScoresError
from hybridrec.machine import cores

_BLOCK_CELLS = 2**20  # scores of a whole catalogue that a thread holds at a time ...
_BLOCK_USERS = 16  # ... but at least those of so many users, or there are too many blocks


@dataclass(frozen=True)
class _Groups:
    """All users' candidates as groups of the same score, each user's in descending order: all that metrics depend on.

    One row a (user, score): its user's number, how many relevant and how many items in all, and how many stand above.
    Groups without a relevant item may be left out. One value a user: how many relevant items and how many items.
    """

    users: pd.Index
    user: np.ndarray
    score: np.ndarray
    relevant: np.ndarray
    size: np.ndarray
    above: np.ndarray
    n_relevant: np.ndarray
    n_items: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, by: str | list[str] = "user") -> "_Groups":
        """The groups of a table of candidates."""
        keys = [by] if isinstance(by, str) else by
        _refuse_nan(table, keys)
        codes, users = _numbered(table, keys)
        return cls.from_columns(codes, table["score"].to_numpy(), table["relevant"].to_numpy(dtype=float), users)

    @classmethod
    def from_columns(cls, codes: np.ndarray, score: np.ndarray, relevant: np.ndarray, users: pd.Index) -> "_Groups":
        """One sort by score, one counting sort by user, and the rest are sums over consecutive rows."""
        n_items = np.bincount(codes, minlength=len(users))
        order = _by_user_then_score(codes, score, len(users))
        codes, score, relevant = codes[order], score[order], relevant[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (codes[1:] != codes[:-1]) | (score[1:] != score[:-1])
        starts = np.flatnonzero(first)
        user = codes[starts]
        return cls(
            users=users,
            user=user,
            score=score[starts],
            relevant=np.add.reduceat(relevant, starts) if len(starts) else relevant,
            size=np.diff(starts, append=len(order)),
            above=starts - (np.cumsum(n_items) - n_items)[user],
            n_relevant=np.bincount(codes, relevant, len(users)),
            n_items=n_items,
        )

    @classmethod
    def of_catalogue(
        cls, users: np.ndarray, score: Callable[[np.ndarray], np.ndarray], relevant: csr_array, seen: csr_array
    ) -> "_Groups":
        """The groups that hold a relevant item, when every item that a user has not seen is a candidate.

        One row of ``relevant`` and ``seen`` for each user. Items of one group are known by the number of items above
        them, since only items of the same score have the same number; negated, it takes the place of the score.
        """
        if (bad := np.diff(relevant.multiply(seen).indptr)).any():
            raise ScoresError(f"row {users[bad.argmax()]}: an item is both seen and relevant.")
        above, beside = _places(users, score, relevant, seen)
        codes = np.repeat(np.arange(len(users)), np.diff(relevant.indptr))
        liked = cls.from_columns(codes, -above, beside.astype(float), pd.Index(users, name="user"))
        return replace(
            liked,
            relevant=liked.size,
            size=(liked.relevant / liked.size).astype(int),  # summed was the same number for each of a group
            above=-liked.score,
            n_relevant=liked.n_items,
            n_items=relevant.shape[1] - np.diff(seen.indptr),
        )

    def sum(self, values: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The sum of a value of the groups, for each user."""
        return np.bincount(self.user[rows], values, len(self.users))

    def series(self, values: np.ndarray, name: str) -> pd.Series:
        """One value a user."""
        return pd.Series(values, index=self.users, name=name)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Correctly ordered (relevant, irrelevant) pairs of each user, a tie counting one half; and all pairs."""
        irrelevant = self.n_items - self.n_relevant
        before = np.cumsum(self.n_relevant) - self.n_relevant  # relevant items of all users before
        relevant_above = np.cumsum(self.relevant) - self.relevant - before[self.user]
        passed = self.above - relevant_above + (self.size - self.relevant) / 2
        return self.sum(self.relevant * (irrelevant[self.user] - passed)), self.n_relevant * irrelevant

    def gain(self, weights: np.ndarray) -> np.ndarray:
        """Expected sum over the first len(weights) positions of weight x relevance, for each user.

        Within a group of ties each item is equally likely at each position, so the group's relevant items share its
        positions' weights evenly (McSherry & Najork 2008).
        """
        top = np.flatnonzero((self.above < len(weights)) & (self.relevant > 0))
        share = _weight_of_places(self.above[top], self.size[top], weights)
        return self.sum(self.relevant[top] * share, top)

    def auc(self) -> np.ndarray:
        correct, pairs = self.pairs()
        return _ratio(correct, pairs)

    def ndcg(self, k: int) -> np.ndarray:
        return self.gain(_discounts(k)) / _ideal(self.n_relevant, k)

    def recall(self, k: int) -> np.ndarray:
        return _ratio(self.gain(np.ones(k)), self.n_relevant)


def _refuse_nan(table: pd.DataFrame, by: list[str]) -> None:
    """A ScoresError that names the ranking in which a score or a relevance is NaN."""
    for column in ("score", "relevant"):
        absent = table[column].isna().to_numpy()
        if absent.any():
            key = table[by].iloc[absent.argmax()]
            whose = ", ".join(f"{name} {key[name]}" for name in by)
            raise ScoresError(
                f"{whose}: {column} is NaN in {absent.sum()} of {len(table)} rows, the first of them here. Leave such "
                "rows out, or say what they are worth (a score of -inf stands behind all others)."
            )


def _numbered(table: pd.DataFrame, by: list[str]) -> tuple[np.ndarray, pd.Index]:
    """Each row's place in the sorted index of its keys, and that index."""
    levels = [pd.factorize(table[key], sort=True) for key in by]
    if len(by) == 1:
        codes, users = levels[0]
        return codes, pd.Index(users, name=by[0])
    sizes = tuple(len(values) for _, values in levels)
    joint, present = pd.factorize(np.ravel_multi_index([codes for codes, _ in levels], sizes), sort=True)
    places = np.unravel_index(present, sizes)
    return joint, pd.MultiIndex(levels=[values for _, values in levels], codes=list(places), names=by)


def _by_user_then_score(codes: np.ndarray, score: np.ndarray, n_users: int) -> np.ndarray:
    """The order of rows by user, and of a user's by descending score (that of equal scores is left open).

    Making a sparse matrix row by row is a counting sort, which NumPy lacks: three times faster than ``np.lexsort``.
    """
    order = np.argsort(-score)
    places = np.arange(len(order), dtype=np.int32 if len(order) < 2**31 else np.int64)
    shape = (n_users, len(order))
    return coo_array((order, (codes[order].astype(places.dtype), places)), shape=shape).tocsr().data


def _ratio(value: np.ndarray, of: np.ndarray) -> np.ndarray:
    """value / of, NaN where there is nothing to divide by."""
    return np.divide(value, of, out=np.full(len(of), np.nan), where=of > 0)


def _discounts(k: int) -> np.ndarray:
    return 1 / np.log2(np.arange(2, k + 2))


def _ideal(n_relevant: np.ndarray, k: int) -> np.ndarray:
    """The gain of the best order; NaN for a user with nothing relevant."""
    return np.concatenate([[np.nan], np.cumsum(_discounts(k))])[np.minimum(n_relevant, k).astype(int)]


def _weight_of_places(above: np.ndarray, size: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean weight of the places that a group of ``size`` items takes after those ``above`` it; 0 from len(weights)."""
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    start, end = (np.minimum(place, len(weights)) for place in (above, above + size))
    return (cumulative[end] - cumulative[start]) / size


# --- one table of candidates ------------------------------------------------------------------------------------------


def auc_pairs(table: pd.DataFrame, by: str | list[str] = "user") -> pd.DataFrame:
    """Correctly ordered (relevant, irrelevant) pairs, a tie counting one half, and the number of pairs.

    Args:
        table: columns ``by``, score, relevant (bool).
        by: what a ranking is: a user, or a (user, fold).

    Returns:
        Columns correct, pairs, indexed by ``by``. AUC is their ratio.

    Source: Mann-Whitney U; Kaur & Shah 2024, eq. 1 (performance P(u)).
    """
    groups = _Groups.of(table, by)
    correct, pairs = groups.pairs()
    return pd.DataFrame({"correct": correct, "pairs": pairs}, index=groups.users)


def per_list(table: pd.DataFrame, by: list[str], k: int = 10) -> pd.DataFrame:
    """``auc_pairs`` and NDCG@k of every list, from one sort.

    Args:
        table: columns ``by``, score, relevant (bool).
        by: what tells lists apart, such as user and fold.
        k: how far down NDCG looks.

    Returns:
        Columns correct, pairs, ndcg_at_k, indexed by ``by``.
    """
    groups = _Groups.of(table, by)
    correct, pairs = groups.pairs()
    return pd.DataFrame({"correct": correct, "pairs": pairs, f"ndcg_at_{k}": groups.ndcg(k)}, index=groups.users)


def auc(table: pd.DataFrame) -> pd.Series:
    """Area under the ROC curve of each user, ties counting one half; NaN where there is no pair."""
    groups = _Groups.of(table)
    return groups.series(groups.auc(), "auc")


def ndcg_at_k(table: pd.DataFrame, k: int = 10) -> pd.Series:
    """Normalised discounted cumulative gain with binary relevance and log2 discount (Jarvelin & Kekalainen 2002)."""
    groups = _Groups.of(table)
    return groups.series(groups.ndcg(k), f"ndcg_at_{k}")


def recall_at_k(table: pd.DataFrame, k: int = 10) -> pd.Series:
    """Share of a user's relevant items among the first k."""
    groups = _Groups.of(table)
    return groups.series(groups.recall(k), f"recall_at_{k}")


def hit_rate_at_k(table: pd.DataFrame, k: int = 10) -> pd.Series:
    """Probability that at least one relevant item is among the first k (hypergeometric where ties straddle k)."""
    groups = _Groups.of(table)
    drawn = np.clip(k - groups.above, 0, groups.size)
    irrelevant = groups.size - groups.relevant
    possible = irrelevant >= drawn
    free = np.where(possible, irrelevant, drawn)  # keeps log_comb defined where a miss is impossible
    log_miss = np.where(possible, _log_comb(free, drawn) - _log_comb(groups.size, drawn), -np.inf)
    missed = np.exp(groups.sum(log_miss))
    return groups.series(np.where(groups.n_relevant > 0, 1 - missed, np.nan), f"hit_rate_at_{k}")


def _log_comb(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def per_user(table: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """AUC, NDCG@k and Recall@k of every user, from one sort.

    Returns:
        Columns auc, pairs, ndcg_at_k, recall_at_k, indexed by user.
    """
    groups = _Groups.of(table)
    return pd.DataFrame(_per_user(groups, k), index=groups.users)


def _per_user(groups: _Groups, k: int) -> dict[str, np.ndarray]:
    correct, pairs = groups.pairs()
    quality = {"auc": _ratio(correct, pairs), "pairs": pairs}
    return quality | {f"ndcg_at_{k}": groups.ndcg(k), f"recall_at_{k}": groups.recall(k)}


def per_user_by_ranker(table: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """``per_user`` of every ranking in a table with columns ranker and draw, all at once.

    Returns:
        Columns ranker, draw, user, auc, pairs, ndcg_at_k, recall_at_k.
    """
    keys = ["ranker", "draw", "user"]
    _refuse_nan(table, keys)
    number = table.groupby(keys, sort=False).ngroup()
    names = table[keys].assign(number=number).drop_duplicates("number").set_index("number")
    return names.join(per_user(table[["score", "relevant"]].assign(user=number), k)).reset_index(drop=True)


def rank_correlation(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Spearman's correlation of scores with other numbers over each user's candidates, as a mean over users.

    Args:
        table: ranker, user, score and ``columns``; one row a candidate.
        columns: what scores are compared with.

    Returns:
        Indexed by ranker. A user of whom one of the two is the same for all candidates has no correlation, and is left
        out of its mean.
    """
    if table.empty:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="ranker"), dtype=float)
    keys, names = ["ranker", "user"], ["score", *columns]
    ranks = table[keys].join(table.groupby(keys)[names].rank())
    return ranks.groupby(keys)[names].corr()["score"].unstack()[columns].groupby("ranker").mean()


# --- the whole catalogue ----------------------------------------------------------------------------------------------


def whole_catalogue(
    score: Callable[[np.ndarray], np.ndarray], relevant: csr_array, seen: csr_array, k: int = 10
) -> pd.DataFrame:
    """AUC, NDCG@k and Recall@k of every user when all items that they have not seen are candidates.

    All that a user's metrics depend on is how many items stand above each relevant item, and how many beside it. So
    only a few blocks of users have their scores in memory at a time, however many users there are.

    Args:
        score: gives the scores of an array of users (their row numbers) for all items: shape (len(users), n_items).
            It is called from several threads at once, and only for users who have something relevant.
        relevant: shape (n_users, n_items): what is right.
        seen: of the same shape: what is no candidate (a training item).
        k: how far down is looked.

    Returns:
        Columns auc, pairs, ndcg_at_k, recall_at_k; one row a user, in the order of the rows.

    Raises:
        ScoresError: a score that is no number, a relevance that is NaN, or an item both seen and relevant (names the
            user's row); scores of another shape.
    """
    if (absent := np.flatnonzero(pd.isna(relevant.data))).size:
        row = np.searchsorted(relevant.indptr, absent[0], side="right") - 1
        raise ScoresError(f"row {row}: a relevance is NaN.")
    asked = np.flatnonzero(np.diff(relevant.indptr))
    groups = _Groups.of_catalogue(asked, score, relevant[asked], seen[asked])
    table = pd.DataFrame(_per_user(groups, k), index=groups.users).reindex(range(relevant.shape[0]))
    return table.fillna({"pairs": 0.0})


def _places(
    asked: np.ndarray, score: Callable[[np.ndarray], np.ndarray], relevant: csr_array, seen: csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """How many unseen items stand above each relevant one, and how many beside it, itself included."""
    from hybridrec.evaluation import ranks  # numba: only who measures whole catalogues waits for it

    above, beside = np.empty((2, relevant.nnz), dtype=np.int64)
    size = max(_BLOCK_USERS, _BLOCK_CELLS // relevant.shape[1])

    def fill(start: int) -> None:
        users, ends = asked[start : start + size], slice(start, start + size + 1)
        scores = np.asarray(score(users))
        if scores.shape != (len(users), relevant.shape[1]):  # compiled code would read on beyond the end
            raise ScoresError(f"scores have shape {scores.shape}, not {(len(users), relevant.shape[1])}.")
        parts = relevant.indptr[ends], relevant.indices, seen.indptr[ends], seen.indices
        if (bad := ranks.of_items(scores, *parts, above, beside)) >= 0:
            raise ScoresError(f"row {users[bad]}: a score is no number.")

    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(fill, range(0, len(asked), size)):
            pass  # waits, and raises what a block raised
    return above, beside
