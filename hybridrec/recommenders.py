"""Cornac's recommenders by name: fit, score a table of candidates, choose hyper-parameters, score out of fold.

Fits are independent of each other, so they run in worker processes; each is cached by the hash of all that it depends
on. Every fit is single-threaded and seeded, so the scores do not depend on how many cores there are.
"""

import hashlib
import importlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from hybridrec import metrics, paths, progress, splits
from hybridrec.randomness import seed_for

# A neural fit amplifies the last bit of a sum into another model: with AVX-512 instead of AVX2, NeuMF's mean AUC moved
# by 0.012. So fits use the instructions that every x86-64 processor has; other families of processors ignore this.
_PLAIN_ARITHMETIC = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Haswell",  # with AVX2: only EASE asks NumPy for large inversions
}


class RecommenderError(ValueError):
    """A recommender that is not known, or that gave scores that are no numbers."""


@dataclass(frozen=True)
class Recipe:
    """How a recommender is built: its Cornac class, what it learns from, and the one parameter that is tuned.

    ``feedback`` is "ratings" (all known ratings, with their values) or "likes" (only liked items, as positives).
    ``decimals``: its scores are good to so many, and rounded to them. The rest is noise that differs with every build
    of the linear algebra, and would decide between items that it cannot tell apart.
    """

    cornac_class: str
    feedback: str
    grid: tuple[str, tuple[Any, ...]] | None = None
    fixed: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    control: bool = False
    decimals: int | None = None


RECIPES: dict[str, Recipe] = {
    "MostPop": Recipe("MostPop", "likes", family="popularity", control=True),
    "ItemKNN": Recipe("ItemKNN", "ratings", ("k", (20, 50, 100)), {"mean_centered": True}, "neighbourhood"),
    "UserKNN": Recipe("UserKNN", "ratings", ("k", (20, 50, 100)), {"mean_centered": True}, "neighbourhood"),
    "MF": Recipe(
        "MF", "ratings", ("lambda_reg", (0.02, 0.06, 0.12)), {"k": 20, "max_iter": 60, "learning_rate": 0.01},
        "matrix factorisation",
    ),
    "BPR": Recipe(
        "BPR", "likes", ("max_iter", (100, 200, 400)), {"k": 20, "learning_rate": 0.02, "lambda_reg": 0.01},
        "learning to rank",
    ),
    "WBPR": Recipe(
        "WBPR", "likes", ("max_iter", (100, 200, 400)), {"k": 20, "learning_rate": 0.02, "lambda_reg": 0.01},
        "learning to rank",
    ),
    "NeuMF": Recipe(
        "NeuMF", "likes", ("num_epochs", (5, 10, 20)),
        {"backend": "pytorch", "num_factors": 8, "batch_size": 1024, "lr": 0.003}, "neural",
    ),
    "EASE": Recipe("EASE", "likes", ("lamb", (300, 1000, 3000)), {"posB": False}, "linear autoencoder", decimals=10),
    "VAECF": Recipe(
        "VAECF", "likes", ("n_epochs", (100, 200, 400)), {"k": 20, "autoencoder_structure": [64], "batch_size": 128},
        "autoencoder",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """One piece of work: fit a recommender on ``train``, score ``pairs``, and retrieve for the users in them.

    ``top`` is how many items are retrieved for each of these users: those of the whole catalogue with the highest
    scores that are not in ``seen`` (user, item). 0: none.
    """

    recommender: str
    params: dict[str, Any]
    train: pd.DataFrame
    pairs: pd.DataFrame
    users: np.ndarray
    items: np.ndarray
    seed: int
    top: int = 0
    seen: pd.DataFrame | None = None

    def key(self) -> str:
        """SHA-256 of everything the scores depend on."""
        recipe = RECIPES[self.recommender]
        settings = [self.recommender, recipe.cornac_class, recipe.feedback, recipe.fixed, recipe.decimals, self.params]
        tables = [splits.fingerprint(self.train), splits.fingerprint(self.pairs)]
        catalogue = [splits.fingerprint(pd.DataFrame({"id": ids})) for ids in (self.users, self.items)]
        versions = [version("cornac"), version("torch").split("+")[0]]
        retrieval = [self.top, splits.fingerprint(self.seen)] if self.top else []
        text = json.dumps([settings, self.seed, tables, catalogue, *versions, *retrieval])
        return hashlib.sha256(text.encode()).hexdigest()


def recipe(name: str) -> Recipe:
    """The recipe of a recommender.

    Raises:
        RecommenderError: unknown name (lists the known ones).
    """
    if name not in RECIPES:
        raise RecommenderError(f"unknown recommender {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]


def grid(name: str, grids: Mapping[str, Sequence[Any]] | None = None) -> list[dict[str, Any]]:
    """The settings of a recommender to choose from, one dictionary each; [{}] where nothing is tuned.

    Args:
        name: the recommender.
        grids: values that take the place of the recipe's, by recommender (a dataset may want others).
    """
    tuned = recipe(name).grid
    return [{tuned[0]: value} for value in (grids or {}).get(name, tuned[1])] if tuned else [{}]


# --- one fit --------------------------------------------------------------------------------------------------------


def cornac_dataset(train: pd.DataFrame, users: np.ndarray, items: np.ndarray, seed: int) -> Any:
    """A Cornac dataset in which every user and item of the study has an index, rated in ``train`` or not."""
    from cornac.data import Dataset

    class QuickLookup(Dataset):
        """For every negative that NeuMF draws, Cornac asks whether it is rated: a dictionary of keys, which took half
        of the time. Here it asks an array. The draws stay the same."""

        @cached_property
        def dok_matrix(self) -> np.ndarray:
            return self.matrix.toarray() > 0

    uid, iid = {u: i for i, u in enumerate(users)}, {v: j for j, v in enumerate(items)}
    # np.array copies: Cornac writes through these buffers, and pandas hands out read-only views.
    columns = (
        np.array(train["user"].map(uid), dtype="int64"),
        np.array(train["item"].map(iid), dtype="int64"),
        np.array(train["rating"], dtype="float64"),
    )
    return QuickLookup(len(users), len(items), uid, iid, columns, seed=seed)


def build_model(name: str, params: dict[str, Any], seed: int) -> Any:
    """An unfitted Cornac model, quiet, seeded and single-threaded."""
    cornac_class = getattr(importlib.import_module("cornac.models"), recipe(name).cornac_class)
    accepted = cornac_class.__init__.__code__.co_varnames
    common = {"verbose": False, "seed": seed, "num_threads": 1}
    return cornac_class(**{k: v for k, v in common.items() if k in accepted}, **recipe(name).fixed, **params)


def fit_and_score(work: Fit) -> dict[str, np.ndarray]:
    """Fit, then score and retrieve.

    Returns:
        "scores" of ``work.pairs``, in their order, and the "seconds" it took; with ``work.top`` also "users" (those in
        the pairs, sorted), "items" and "item_scores", both of shape (users, top), the best first.

    Raises:
        RecommenderError: a score that is no number (names the recommender and a user).
    """
    import torch

    start = time.perf_counter()
    torch.set_num_threads(1)
    model = build_model(work.recommender, work.params, work.seed)
    with warnings.catch_warnings():
        # A user with one rating has none where that one is held out: Cornac's KNNs take the mean of nothing.
        warnings.filterwarnings("ignore", "Mean of empty slice|invalid value", RuntimeWarning)
        model.fit(cornac_dataset(work.train, work.users, work.items, work.seed))
    score_all = _scorer(model, work)
    found = {"scores": _score_pairs(score_all, work)} | (_retrieve(score_all, work) if work.top else {})
    return found | {"seconds": np.array(time.perf_counter() - start)}


def _scorer(model: Any, work: Fit) -> Callable[[int], np.ndarray]:
    """What gives a user's scores of the whole catalogue, shape (items,)."""
    score, decimals = _knn_score(model) if hasattr(model, "sim_mat") else model.score, recipe(work.recommender).decimals

    def score_all(user: int) -> np.ndarray:
        scores = np.ravel(score(int(np.searchsorted(work.users, user)))).astype(float)
        if not np.isfinite(scores).all():
            raise RecommenderError(f"{work.recommender} {work.params} gave user {user} a score that is no number.")
        return scores if decimals is None else scores.round(decimals)

    return score_all


def _knn_score(model: Any) -> Callable[[int], np.ndarray]:
    """``model.score`` of Cornac's KNNs, bit for bit, told of those neighbours only that a user has.

    Cornac clears room for every possible neighbour, for each item anew: quadratic in the catalogue, and twenty times
    slower on Book-Crossing. With the others left out there is little to clear.
    """
    from cornac.models.knn.similarity import compute_score

    by_item = hasattr(model, "ui_mat")
    own, lists = (model.ui_mat, model.sim_mat) if by_item else (model.sim_mat, model.iu_mat)
    lists = lists.tocsc()  # item by neighbour

    def score(user: int) -> np.ndarray:
        row = own[user].sorted_indices()
        near = lists[:, row.indices].tocsr()
        average = np.zeros(lists.shape[0])
        compute_score(not by_item, row.data, near.indptr, near.indices, near.data, model.k, 1, average)
        return np.nan_to_num(model.mean_arr[user]) + average  # no mean: no training rating, and no order

    return score


def _score_pairs(score_all: Callable[[int], np.ndarray], work: Fit) -> np.ndarray:
    scores = np.empty(len(work.pairs))
    item_index = np.searchsorted(work.items, work.pairs["item"].to_numpy())
    for user, rows in work.pairs.groupby("user").indices.items():
        scores[rows] = score_all(user)[item_index[rows]]
    return scores


def _retrieve(score_all: Callable[[int], np.ndarray], work: Fit) -> dict[str, np.ndarray]:
    """The ``top`` unseen items of each user; items of the same score come in a random order, the same for all users."""
    users = np.sort(work.pairs["user"].unique())
    seen = {user: rows["item"].to_numpy() for user, rows in work.seen.groupby("user")}
    order = np.random.default_rng(work.seed).permutation(len(work.items))
    top = min(work.top, len(work.items))
    items, kept = (np.empty((len(users), top), dtype=kind) for kind in (np.int64, float))
    for row, user in enumerate(users):
        scores = score_all(user)
        scores[np.searchsorted(work.items, seen.get(user, []))] = -np.inf
        best = order[np.argsort(-scores[order], kind="stable")[:top]]
        items[row], kept[row] = work.items[best], scores[best]
    return {"users": users, "items": items, "item_scores": kept}


# --- many fits ------------------------------------------------------------------------------------------------------


def run(fits: Sequence[Fit], what: str = "fits") -> list[dict[str, np.ndarray]]:
    """What every fit came to, from the cache where it was done before, with a progress bar over the others."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    files = [paths.CACHE / f"fit-{work.key()}.npz" for work in fits]
    todo = [(work, file) for work, file in zip(fits, files, strict=True) if not file.exists()]
    progress.count("fits", computed=len(todo), cached=len(fits) - len(todo))
    if todo:
        _compute(todo, what)
    return [_load(file) for file in files]


def _load(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


# By their time on Book-Crossing; a recommender that is missing here is an error, not a slow run.
_SLOWEST_FIRST = ("NeuMF", "VAECF", "ItemKNN", "EASE", "UserKNN", "WBPR", "BPR", "MF", "MostPop")


def _compute(todo: list[tuple[Fit, Any]], what: str) -> None:
    """Fit in worker processes, longest first, each result on disk as soon as it is there."""
    slowest_first = sorted(todo, key=lambda pair: _SLOWEST_FIRST.index(pair[0].recommender))
    workers = ProcessPoolExecutor(paths.cores(), get_context("spawn"), initializer=_one_thread)
    # The workers inherit the environment, and import NumPy and torch afresh under it.
    with patch.dict(os.environ, _PLAIN_ARITHMETIC), workers as pool:
        jobs = [(pool.submit(fit_and_score, work), work, file) for work, file in slowest_first]
        for job, work, file in progress.bar(jobs, what=what):
            partial = file.with_suffix(f".{os.getpid()}.npz")
            np.savez(partial, recommender=np.array(work.recommender), **job.result())
            partial.replace(file)


def _one_thread() -> None:
    """Worker processes share the cores between them; a library that took them all would only get in the way."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def training_rows(name: str, known: pd.DataFrame, like_threshold: float) -> pd.DataFrame:
    """What a recommender may learn from: all known ratings, or the liked ones as positives."""
    rows = known.assign(rating=_within_reach(known["rating"]))
    rows = rows if recipe(name).feedback == "ratings" else rows[known["rating"] >= like_threshold]
    return rows[["user", "item", "rating"]].reset_index(drop=True)


def _within_reach(ratings: pd.Series) -> pd.Series:
    """Ratings on a scale that step sizes and regularisation were chosen for, like 1 to 5, 0.5 to 5 or 1 to 10.

    On 0 to 100 the steps of MF overshoot, and EASE's penalty is nothing beside the squares. So ratings that span more
    than ten points or less than two, or go below zero, are mapped onto 1 to 5. The order of scores is all that counts.
    """
    low, span = ratings.min(), ratings.max() - ratings.min()
    usual = low >= 0 and 2 <= span <= 10
    return ratings if usual or not span > 0 else 1 + 4 * (ratings - low) / span


@dataclass(frozen=True)
class Study:
    """What all fits of a study share."""

    interactions: pd.DataFrame
    items: np.ndarray
    like_threshold: float
    seed: int
    grids: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def fit(self, name: str, params: dict[str, Any], known: pd.DataFrame, pairs: pd.DataFrame, top: int = 0) -> Fit:
        """The work of fitting one recommender on ``known``, scoring ``pairs`` and retrieving ``top`` unseen items."""
        return Fit(
            recommender=name,
            params=params,
            train=training_rows(name, known, self.like_threshold),
            pairs=pairs[["user", "item"]].reset_index(drop=True),
            users=np.sort(self.interactions["user"].unique()),
            items=np.sort(self.items),
            seed=seed_for(self.seed, "fit", name),
            top=top,
            seen=known[["user", "item"]].reset_index(drop=True) if top else None,
        )

    def known(self) -> pd.DataFrame:
        """Training and validation ratings: all that may be known of a user before the test."""
        return self.interactions[self.interactions["split"] != "test"]


def tune(study: Study, names: Sequence[str]) -> pd.DataFrame:
    """Validation AUC of every declared setting: fitted on train, scored on validation; test rows are not touched.

    Returns:
        Columns recommender, parameter, value, auc (mean over users), chosen.
    """
    rows = study.interactions
    train, validation = rows[rows["split"] == "train"], rows[rows["split"] == "validation"]
    settings = [(name, params) for name in names for params in grid(name, study.grids)]
    scored = run([study.fit(name, params, train, validation) for name, params in settings], "fits to tune")
    relevant = (validation["rating"] >= study.like_threshold).to_numpy()
    table = []
    for (name, params), found in zip(settings, scored, strict=True):
        parameter, value = next(iter(params.items()), ("", np.nan))
        judged = pd.DataFrame({"user": validation["user"].to_numpy(), "score": found["scores"], "relevant": relevant})
        quality = metrics.auc(judged).mean()
        table.append({"recommender": name, "parameter": parameter, "value": value, "auc": quality})
    tuned = pd.DataFrame(table)
    best = tuned.groupby("recommender")["auc"].transform("max")
    return tuned.assign(chosen=tuned["auc"].eq(best) & ~tuned.assign(b=best).duplicated(["recommender", "auc"]))


def chosen_params(tuned: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The chosen setting of each recommender, as its Cornac class takes it (whole numbers as such)."""
    params: dict[str, dict[str, Any]] = {}
    chosen = tuned.loc[tuned["chosen"], ["recommender", "parameter", "value"]]
    for name, parameter, value in chosen.itertuples(index=False):
        params[name] = {parameter: int(value) if value % 1 == 0 else value} if parameter else {}
    return params


def test_scores(
    study: Study, params: dict[str, dict[str, Any]], candidates: pd.DataFrame, top: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each recommender fitted on all that is known: its scores of the test candidates, and what it retrieves.

    Args:
        study: what all fits share.
        params: the chosen setting of each recommender.
        candidates: user, item.
        top: how many unseen items of the whole catalogue are retrieved for each user in ``candidates``; 0: none.

    Returns:
        Scores: recommender, part ("test"), fold (-1), user, item, score.
        Retrieved: recommender, user, position (0-based), item, score.
    """
    fits = [study.fit(name, setting, study.known(), candidates, top) for name, setting in params.items()]
    found = run(fits, "fits for the test")
    pairs = candidates[["user", "item"]]
    scores = [
        pairs.assign(recommender=name, part="test", fold=-1, score=one["scores"])
        for name, one in zip(params, found, strict=True)
    ]
    retrieved = [_retrieved(name, one) for name, one in zip(params, found, strict=True) if top]
    return pd.concat(scores, ignore_index=True), pd.concat([pd.DataFrame(), *retrieved], ignore_index=True)


def _retrieved(name: str, found: dict[str, np.ndarray]) -> pd.DataFrame:
    users, top = found["items"].shape
    columns = {"item": found["items"].ravel(), "score": found["item_scores"].ravel()}
    places = {"user": np.repeat(found["users"], top), "position": np.tile(np.arange(top), users)}
    table = pd.DataFrame({"recommender": name, **places, **columns})
    return table[table["score"] > -np.inf]  # whoever has seen most of a small catalogue gets a shorter list


def out_of_fold_scores(study: Study, params: dict[str, dict[str, Any]], folds: int) -> pd.DataFrame:
    """Scores of every known rating by a recommender that was fitted without it.

    Returns:
        Columns recommender, part ("out-of-fold"), fold, user, item, score.
    """
    known = study.known()
    fold = splits.fold_of(known, folds, study.seed)
    work = [(name, number) for name in params for number in range(folds)]
    fits = [study.fit(name, params[name], known[fold != number], known[fold == number]) for name, number in work]
    frames = [
        known.loc[fold == number, ["user", "item"]].assign(
            recommender=name, part="out-of-fold", fold=number, score=found["scores"]
        )
        for (name, number), found in zip(work, run(fits, "out-of-fold fits"), strict=True)
    ]
    return pd.concat(frames, ignore_index=True)
