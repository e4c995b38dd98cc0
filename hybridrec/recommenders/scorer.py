"""Whose scores are judged, and improved: any recommender that scores pairs of a user and an item is a ``Scorer``."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.data import splits
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, RecommenderError, ScoresError
from hybridrec.recommenders.recipes import recipe
from hybridrec.schema import Table


class Scorer(Protocol):
    """A recommender, as far as this library needs it. Higher scores are better; only their order in a user counts."""

    name: str

    def out_of_fold(self, data: Dataset) -> pd.DataFrame:
        """Scores of the ratings by a recommender that had not seen them (``schema.OUT_OF_FOLD``).

        The ratings are divided into folds, and those of each fold are scored by a recommender that learned from the
        others. Scores of ratings that a recommender has learned from would flatter it.
        """

    def scores(self, data: Dataset, candidates: Table) -> pd.DataFrame:
        """Scores of candidates (user, item) by a recommender that has learned from all ratings (``schema.SCORES``)."""


class FromTable:
    """Scores that your own recommender gave, from tables: DataFrames, or paths of .csv or .parquet files.

    Args:
        out_of_fold: user, item, score of ratings, each by a recommender that had not seen that rating, and fold where
            it is known.
        scores: user, item, score of candidates, by the recommender that serves them.
        name: what to call it.
    """

    def __init__(self, out_of_fold: Table | None = None, scores: Table | None = None, *, name: str = "recommender"):
        self.name, self._out_of_fold, self._scores = name, out_of_fold, scores

    def out_of_fold(self, data: Dataset) -> pd.DataFrame:
        """The scores of the ratings, checked against them (``schema.OUT_OF_FOLD``), in the ratings' order.

        Ratings without a score are left out, and so are scores of pairs that nobody rated; a warning counts both.

        Raises:
            DatasetError: a table that cannot be read, or lacks a column.
            ScoresError: no such table was given; two scores for a pair; one that is not finite; a user or item that is
                not in the ratings or items; no score of any rating.

        Warns:
            UserWarning: ratings without a score, or scores without a rating.
        """
        table, what = self._read(self._out_of_fold, "out_of_fold", data)
        rated = data.interactions[["user", "item"]]
        found = rated.merge(table, on=["user", "item"])
        if found.empty:
            raise ScoresError(
                f"{what}: no score of any rating in {data.source}. Is it the table of candidates' scores?"
            )
        if without := len(rated) - len(found):
            lost = rated["user"].nunique() - found["user"].nunique()
            warnings.warn(
                f"{what}: {without:,} of {len(rated):,} ratings have no score and are left out, with {lost:,} users "
                "who have none at all.",
                stacklevel=2,
            )
        if unrated := len(table) - len(found):
            warnings.warn(f"{what}: {unrated:,} scores of pairs that nobody rated are left out.", stacklevel=2)
        fold = schema.finite(found, "fold", what, ScoresError).astype("int64") if "fold" in found else 0
        return found.assign(fold=fold)[[*schema.OUT_OF_FOLD]]

    def scores(self, data: Dataset, candidates: Table) -> pd.DataFrame:
        """The scores of candidates, in their order (``schema.SCORES``).

        Raises:
            DatasetError: a table that cannot be read, or lacks a column.
            ScoresError: no such table was given; two scores for a pair; one that is not finite; a user or item that is
                not in the ratings or items; a candidate without a score.
        """
        table, what = self._read(self._scores, "scores", data)
        wanted = _candidates(candidates, data)
        found = wanted.merge(table[[*schema.SCORES]], "left", on=["user", "item"])
        without = found["score"].isna()
        if without.any():
            _, pair = schema.first(found, without)
            raise ScoresError(
                f"{what}: no score for user {pair['user']!r} and candidate {pair['item']!r}{schema.and_more(without)}. "
                "Score every candidate, or take those without a score out of the candidates."
            )
        return found

    def _read(self, table: Table | None, argument: str, data: Dataset) -> tuple[pd.DataFrame, str]:
        if table is None:
            raise ScoresError(f"{self.name} has no such scores: give FromTable the table as {argument}=.")
        what = schema.called(table, f"{argument} of {self.name}")
        return schema.scores(table, what, users=data.interactions["user"], items=data.items["item"]), what


class Cornac:
    """A recommender of Cornac's, fitted to the ratings here. Needs ``pip install hybridrec[cornac]``.

    Args:
        name: a key of ``recommenders.recipes.RECIPES``, such as "EASE" or "ItemKNN".
        folds: into how many parts the ratings are divided for ``out_of_fold``.
        seed: root of all randomness; the same seed gives the same scores.
        cache: a folder where fits are kept; None: they are done again each time.
        workers: so many fits at a time, each in a process (a script then needs ``if __name__ == "__main__":``); None:
            one after the other in this process.
        params: the tuned parameter's value, by name, such as {"lamb": 300}; it is not tuned then.
        tune: whether the parameter is chosen, by the AUC of a tenth of each user's ratings; False, without ``params``:
            the middle one of the recipe's values.

    Raises:
        RecommenderError: unknown name (lists the known ones), or Cornac is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        folds: int = 5,
        seed: int = 2024,
        cache: str | Path | None = None,
        workers: int | None = None,
        params: Mapping[str, Any] | None = None,
        tune: bool = True,
    ):
        grid = recipe(name).grid
        if find_spec("cornac") is None:
            raise RecommenderError(
                f"{name} is one of Cornac's, which is not installed: pip install 'hybridrec[cornac]'."
            )
        self._usual = {grid[0]: grid[1][len(grid[1]) // 2]} if grid else {}
        self._params = self._usual if params is None and not (tune and grid) else params
        self.name, self.folds, self.seed = name, folds, seed
        self._cache, self._workers = Path(cache) if cache else None, workers or 1
        self._tuned: dict[str, dict[str, Any]] = {}

    def out_of_fold(self, data: Dataset) -> pd.DataFrame:
        """Scores of every rating by a fit to the other folds (``schema.OUT_OF_FOLD``).

        Raises:
            DatasetError: the dataset has no ``like``.
            RecommenderError: a score that is not finite.
        """
        from hybridrec.recommenders import fitting

        study = self._study(data)
        found = fitting.out_of_fold_scores(study, {self.name: self.params(data)}, self.folds)
        return found[[*schema.OUT_OF_FOLD]].sort_values(["user", "item"], ignore_index=True)

    def scores(self, data: Dataset, candidates: Table) -> pd.DataFrame:
        """Scores of candidates by a fit to all ratings, in the candidates' order (``schema.SCORES``).

        Raises:
            DatasetError: the dataset has no ``like``, or the candidates cannot be read.
            ScoresError: a candidate's user or item is not in the ratings or items.
            RecommenderError: a score that is not finite.
        """
        from hybridrec.recommenders import fitting

        wanted = _candidates(candidates, data)
        found, _ = fitting.test_scores(self._study(data), {self.name: self.params(data)}, wanted, top=0)
        return found[[*schema.SCORES]]

    def params(self, data: Dataset) -> dict[str, Any]:
        """The tuned parameter's value for these ratings, by name; it is chosen once for them.

        Warns:
            UserWarning: in the tenth of the ratings no user has a like and another rating, so there is no AUC to choose
                by; it is the middle one of the recipe's values.
        """
        if self._params is not None:
            return dict(self._params)
        from hybridrec.recommenders import fitting

        key = f"{splits.fingerprint(data.interactions)} {data.like}"
        if key not in self._tuned:
            chosen = fitting.chosen_params(fitting.tune(self._study(data), [self.name]))
            if not chosen:
                warnings.warn(f"{self.name} is not tuned, as there are too few ratings: {self._usual}.", stacklevel=2)
            self._tuned[key] = chosen.get(self.name, self._usual)
        return self._tuned[key]

    def _study(self, data: Dataset) -> Any:
        from hybridrec.recommenders import fitting

        if data.like is None:
            raise DatasetError(f"{data.name} does not say from which rating on a user likes an item: set its ``like``.")
        split = splits.split_per_user(data.interactions, self.seed, test=0.0)
        items = np.asarray(data.items["item"])
        return fitting.Study(split, items, data.like, self.seed, cache=self._cache, workers=self._workers)


def _candidates(candidates: Table, data: Dataset) -> pd.DataFrame:
    """user, item of candidates, whose ids are those of the ratings and items."""
    what = schema.called(candidates, "candidates")
    table = schema.read(candidates, schema.CANDIDATES, what, unique=schema.IDS)[list(schema.IDS)]
    for name, known in (("user", data.interactions["user"]), ("item", data.items["item"])):
        table = table.assign(**{name: schema.like(table[name], known)})
        schema.refuse_unknown(table[name], known, what)
    return table
