"""What is measured on: two real datasets, and two larger shapes that are made up and say so.

A synthetic shape has the users, items and ratings of its namesake. How active its users and how popular its items are
is drawn from ML-100K's real distributions, stretched to the size. Scores are random, a relevant item's a little higher.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hybridrec.data import splits
from hybridrec.recommenders import cornac_models, fits
from hybridrec.study import steps

SYNTHETIC = {"ml-1m": (6_040, 3_706, 1_000_209), "ml-25m": (162_541, 59_047, 25_000_095)}  # users, items, ratings
REAL = {"ml-100k": 4.0, "book-crossing": 8.0}  # like threshold
SEED = 2024


@dataclass(frozen=True)
class Shape:
    """Ratings known and tested, with a score of each; users and items are numbered from 0."""

    name: str
    synthetic: bool
    n_users: int
    n_items: int
    known: pd.DataFrame  # user, item, relevant
    test: pd.DataFrame  # user, item, score, relevant
    user_factors: np.ndarray  # (n_users, 20) and (n_items, 20): the scores of a whole catalogue are their product
    item_factors: np.ndarray

    def first_users(self, count: int) -> pd.DataFrame:
        """The test items of the first users only: for peers that would take hours for all."""
        return self.test[self.test["user"] < count].reset_index(drop=True)


def load(name: str) -> Shape:
    """A shape by name: a key of REAL or of SYNTHETIC."""
    return _real(name) if name in REAL else _synthetic(name)


def _factors(n_users: int, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED)
    return (rng.standard_normal((n, 20), dtype=np.float32) for n in (n_users, n_items))


def _real(name: str) -> Shape:
    data = steps.dataset(name)
    rows = splits.split_per_user(data.interactions, SEED)
    rows["relevant"] = rows["rating"] >= REAL[name]
    users, items = np.sort(rows["user"].unique()), np.sort(data.items["item"].unique())
    known, test = rows[rows["split"] != "test"], rows[rows["split"] == "test"]
    model = cornac_models.build("MF", SEED, **fits.RECIPES["MF"].fixed, lambda_reg=0.06)
    model.fit(cornac_models.dataset(known[["user", "item", "rating"]], users, items, SEED))
    known, test = (
        part.assign(user=np.searchsorted(users, part["user"]), item=np.searchsorted(items, part["item"]))
        for part in (known, test)
    )
    score = [model.score(user, item) for user, item in test[["user", "item"]].itertuples(index=False)]
    test = test.assign(score=score)[["user", "item", "score", "relevant"]].reset_index(drop=True)
    factors = _factors(len(users), len(items))
    return Shape(name, False, len(users), len(items), known[["user", "item", "relevant"]], test, *factors)


def _synthetic(name: str) -> Shape:
    n_users, n_items, n_ratings = SYNTHETIC[name]
    rng = np.random.default_rng(SEED)
    real = steps.dataset("ml-100k").interactions
    activity = rng.choice(real.groupby("user").size(), n_users).astype(float)
    counts = np.maximum(np.rint(activity * n_ratings / activity.sum()).astype(int), 10)
    popularity = rng.choice(real.groupby("item").size(), n_items).astype(float)
    edges = np.cumsum(popularity / popularity.sum())
    user = np.repeat(np.arange(n_users, dtype=np.int32), counts)
    item = np.minimum(np.searchsorted(edges, rng.random(len(user))), n_items - 1).astype(np.int32)
    once = np.unique(user.astype(np.int64) * n_items + item)  # nobody rates an item twice
    user, item = (once // n_items).astype(np.int32), (once % n_items).astype(np.int32)
    relevant = rng.random(len(once)) < (real["rating"] >= REAL["ml-100k"]).mean()
    score = rng.standard_normal(len(once)) + 0.9 * relevant
    rows = pd.DataFrame({"user": user, "item": item, "score": score, "relevant": relevant})
    tested = rng.random(len(once)) < 0.1
    known, test = rows[~tested], rows[tested].reset_index(drop=True)
    return Shape(name, True, n_users, n_items, known.reset_index(drop=True), test, *_factors(n_users, n_items))
