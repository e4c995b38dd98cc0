"""The lists of protocol ``cross`` as arrays: one column a rated item, one row a test fold.

A ranker's scores are an array of shape (folds, rows): row k holds what may be used for test fold k. Where an item lies
in fold k itself, the score was made without fold k; where it lies in another fold j, without j and without k.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.errors import ScoresError
from hybridrec.evaluation import metrics

COLUMNS = ["ranker", "draw", "test", "fold", "user", "item", "score"]
_DECIMALS = 9  # of a mean that decides: what lies behind them differs from processor to processor

Scores: TypeAlias = Mapping[str, np.ndarray]


class Lists:
    """Every rating once, sorted by fold, user and item; a list is what a user rated of a fold.

    Args:
        divided: user, item, rating, fold (``folds.divide``).
        like_threshold: a rating at or above it makes an item relevant.

    Attributes:
        table: the ratings in the order of all arrays, with a column relevant.
        folds: how many.
        user, item, fold, list: for each rating, the place of its user in ``users`` and of its item in ``items``, its
            fold, and the number of its list; lists are numbered in the order of rows.
        of_user, of_fold, n_pairs: for each list, its user, its fold, and how many pairs (relevant, other) it has.
    """

    def __init__(self, divided: pd.DataFrame, like_threshold: float) -> None:
        rows = divided.sort_values(["fold", "user", "item"], ignore_index=True)
        self.table = rows[["fold", "user", "item", "rating"]].assign(relevant=rows["rating"] >= like_threshold)
        self.folds = int(rows["fold"].max()) + 1
        self.users, self.items = (pd.Index(np.unique(rows[name]), name=name) for name in ("user", "item"))
        self.user, self.item = self.users.get_indexer(rows["user"]), self.items.get_indexer(rows["item"])
        self.fold = rows["fold"].to_numpy()
        self.relevant = self.table["relevant"].to_numpy()
        self.list, lists = pd.factorize(self.fold * len(self.users) + self.user)
        self.of_fold, self.of_user = np.divmod(np.asarray(lists), len(self.users))
        size, liked = np.bincount(self.list), np.bincount(self.list, self.relevant)
        self.n_pairs = liked * (size - liked)
        self._by_pair = pd.Index(self.user * len(self.items) + self.item)

    @property
    def judged(self) -> np.ndarray:
        """Which scores are judged, those of items in the test fold itself. Shape (folds, rows)."""
        return np.arange(self.folds)[:, None] == self.fold

    def read(self, scores: pd.DataFrame) -> dict[str, np.ndarray]:
        """A table of scores as arrays, by ranker; NaN where there is none. Of several draws the first is taken.

        Args:
            scores: COLUMNS.

        Raises:
            ScoresError: a pair that is not among the ratings, a fold that is not its own, or two scores of one ranker
                for one pair and test (names ranker, user and item).
        """
        scores = scores[scores["draw"] == 0]
        users, items = (index.get_indexer(scores[index.name]) for index in (self.users, self.items))
        at = self._by_pair.get_indexer(np.where((users < 0) | (items < 0), -1, users * len(self.items) + items))
        wrong = (at < 0) | (self.fold[at] != scores["fold"].to_numpy())
        _refuse(scores, wrong, "is not among the ratings of that fold")
        test, found = scores["test"].to_numpy(), {}
        for name, rows in scores.groupby("ranker", sort=False, observed=True).indices.items():
            values, times = np.full((self.folds, len(self.table)), np.nan), np.zeros((self.folds, len(self.table)), int)
            values[test[rows], at[rows]] = scores["score"].to_numpy()[rows]
            np.add.at(times, (test[rows], at[rows]), 1)
            _refuse(scores.iloc[rows], times[test[rows], at[rows]] > 1, "has two scores")
            found[str(name)] = values
        return found

    def write(self, scores: Scores, draw: int = 0) -> pd.DataFrame:
        """Arrays as a table with COLUMNS; what is NaN is left out."""
        parts = [pd.DataFrame(columns=COLUMNS)] if not scores else []
        for name, values in scores.items():
            test, row = np.nonzero(~np.isnan(values))
            keys = self.table[["fold", "user", "item"]].iloc[row].reset_index(drop=True)
            parts.append(keys.assign(ranker=name, draw=draw, test=test, score=values[test, row]))
        return pd.concat(parts, ignore_index=True)[COLUMNS]

    def mask(self, users: pd.DataFrame | None) -> np.ndarray:
        """Users by test fold as an array of bool, shape (folds, users); None: everybody.

        Args:
            users: test, user.

        Raises:
            ScoresError: a user without a rating.
        """
        found = np.full((self.folds, len(self.users)), users is None)
        if users is not None:
            schema.refuse_unknown(users["user"], self.users, "the users on whom choices rest")
            found[users["test"].to_numpy(), self.users.get_indexer(users["user"])] = True
        return found

    def correct(self, values: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Pairs of each list in the right order, ties one half; NaN where a list is not scored as a whole.

        Args:
            values: scores, shape (folds, rows).
            rows: which are looked at (whole lists), shape (folds, rows); None: all.

        Returns:
            Shape (folds, lists).
        """
        scored = ~np.isnan(values) if rows is None else rows & ~np.isnan(values)
        test, row = np.nonzero(scored)
        number = test * len(self.n_pairs) + self.list[row]
        table = pd.DataFrame({"list": number, "score": values[test, row], "relevant": self.relevant[row]})
        counts = metrics.auc_pairs(table, "list")
        found = np.full(self.folds * len(self.n_pairs), np.nan)
        whole = counts["pairs"].to_numpy() == self.n_pairs[counts.index % len(self.n_pairs)]
        found[counts.index[whole]] = counts["correct"].to_numpy()[whole]
        return found.reshape(self.folds, -1)

    def decided(self, correct: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mean AUC of the lists that may decide: for test fold k and fold j, those of the folds other than j and k.

        Every list that has a pair counts once, as it does where routed users are judged.

        Args:
            correct: what ``correct`` returned.
            mask: the users whose lists count (``mask``).

        Returns:
            Shape (folds, folds): [k, k] from all folds but k, what decides on judged scores; [k, j] from all but j and
            k, what decides on scores of fold j that shall themselves decide. NaN where there is no pair.
        """
        auc = np.divide(correct, self.n_pairs, out=np.full(correct.shape, np.nan), where=self.n_pairs > 0)
        auc[~mask[:, self.of_user]] = np.nan
        means = np.full((self.folds, self.folds), np.nan)
        for test, fold in np.ndindex(means.shape):
            known = auc[test, self.others(test, fold)[self.of_fold]]
            if (counted := known[~np.isnan(known)]).size:
                means[test, fold] = counted.mean()
        return means.round(_DECIMALS)

    def others(self, *folds: int) -> np.ndarray:
        """Which folds are none of these, as an array of bool."""
        return ~np.isin(np.arange(self.folds), folds)


def _refuse(scores: pd.DataFrame, wrong: np.ndarray, why: str) -> None:
    if wrong.any():
        _, one = schema.first(scores, pd.Series(wrong))
        raise ScoresError(
            f"{one['ranker']}, test fold {one['test']}, fold {one['fold']}: user {one['user']!r} and item "
            f"{one['item']!r} {why} ({wrong.sum():,} such rows). Score the ratings as they were divided, each once."
        )
