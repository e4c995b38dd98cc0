"""The recommenders of a study: choose hyper-parameters, score test candidates, retrieve, score out of fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hybridrec.data import splits
from hybridrec.data.datasets import Dataset
from hybridrec.evaluation import topk
from hybridrec.randomness import seed_for
from hybridrec.recommenders import fingerprint, item_knn
from hybridrec.recommenders.fits import Fit, run, sorted_ids
from hybridrec.recommenders.recipes import recipe

if TYPE_CHECKING:
    from hybridrec.recommenders.scorer import Scorer


def grid(name: str, grids: Mapping[str, Sequence[Any]] | None = None) -> list[dict[str, Any]]:
    """The settings of a recommender to choose from, one dictionary each; [{}] where nothing is tuned.

    Args:
        name: the recommender.
        grids: values that take the place of the recipe's, by recommender (a dataset may want others).
    """
    tuned = recipe(name).grid
    return [{tuned[0]: value} for value in (grids or {}).get(name, tuned[1])] if tuned else [{}]


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
    """What all fits of a study share; ``cache`` and ``workers`` are those of ``fits.run``.

    ``own`` holds recommenders that are not fitted here, by name: they give their scores, and take part in all but the
    retrieval. One that leaves a pair without a score is for the caller to refuse.
    """

    interactions: pd.DataFrame
    items: np.ndarray
    like_threshold: float
    seed: int
    grids: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    cache: Path | None = None
    workers: int | None = None
    own: Mapping[str, "Scorer"] = field(default_factory=dict)

    def grid(self, name: str) -> list[dict[str, Any]]:
        """The settings of a recommender to choose from (see the function ``grid``)."""
        return grid(name, self.grids)

    def feedback(self, name: str) -> str:
        """What a recommender learns from: "ratings" or "likes"."""
        return recipe(name).feedback

    def fit(self, name: str, params: dict[str, Any], known: pd.DataFrame, pairs: pd.DataFrame, top: int = 0) -> Fit:
        """The work of fitting one recommender on ``known``, scoring ``pairs`` and retrieving ``top`` unseen items."""
        return Fit(
            recommender=name,
            params=params,
            train=training_rows(name, known, self.like_threshold),
            pairs=pairs[["user", "item"]].reset_index(drop=True),
            users=sorted_ids(self.interactions["user"]),
            items=sorted_ids(self.items),
            seed=seed_for(self.seed, "fit", name),
            top=top,
            seen=known[["user", "item"]].reset_index(drop=True) if top else None,
        )

    def run(self, todo: Sequence[Fit], what: str = "fits", count: bool = True) -> list[dict[str, np.ndarray]]:
        """What every fit came to (see ``fits.run``); those that are not Cornac's are made anew."""
        by_cornac = [work for work in todo if recipe(work.recommender).cornac_class]
        found = iter(run(by_cornac, self.cache, what, count, self.workers))
        return [next(found) if recipe(work.recommender).cornac_class else item_knn.fit_and_score(work) for work in todo]

    def liked(self, split: str) -> np.ndarray:
        """Whether each rating of a part is a like, in the order of ``interactions``."""
        rows = self.interactions[self.interactions["split"] == split]
        return (rows["rating"] >= self.like_threshold).to_numpy()

    def known(self) -> pd.DataFrame:
        """Training and validation ratings: all that may be known of a user before the test."""
        return splits.known(self.interactions)

    def data(self) -> Dataset:
        """What recommenders that are not fitted here are asked about."""
        return Dataset("study", self.known(), pd.DataFrame({"item": self.items}), "the study's known ratings")


def _tuning_fits(study: Study, names: Sequence[str], top: int = 0) -> list[Fit]:
    settings = [(name, params) for name in names for params in grid(name, study.grids)]
    return [_tuning_fit(study, name, params, top) for name, params in settings]


def _tuning_fit(study: Study, name: str, params: dict[str, Any], top: int) -> Fit:
    rows = study.interactions
    return study.fit(name, params, rows[rows["split"] == "train"], rows[rows["split"] == "validation"], top)


def tune(study: Study, names: Sequence[str], top: int = 0) -> pd.DataFrame:
    """Quality of every declared setting: fitted on train, judged on validation; test rows are not touched.

    A recommender that is not fitted here has nothing to choose, and a row without a quality.

    Args:
        study: what all fits share.
        names: the recommenders.
        top: how many items each fit also retrieves, at least 10, so that settings can be chosen for whole lists;
            0: none. The fits are the same ones, so this costs no further fit.

    Returns:
        Columns recommender, parameter, value, auc (mean over users), chosen (by it); with ``top`` also ndcg_at_10, that
        of the ``top`` items of the whole catalogue (mean over users with a like in validation), and chosen_top_k.
    """
    fits = _tuning_fits(study, names, top)
    relevant = study.liked("validation")
    found = study.run(fits, "fits to tune")
    table = [fingerprint.row(work, one, relevant, "tuning") for work, one in zip(fits, found, strict=True)]
    table = [row | _of_lists(study, one) for row, one in zip(table, found, strict=True)] if top else table
    table += [{"recommender": name, "parameter": ""} for name in study.own]
    measures = ["auc", "ndcg_at_10"] if top else ["auc"]
    tuned = pd.DataFrame(table).reindex(columns=["recommender", "parameter", "value", *measures])
    for measure, column in zip(measures, ("chosen", "chosen_top_k"), strict=False):
        tuned[column] = chosen(tuned, ["recommender"], measure) | tuned["recommender"].isin(study.own)
    return tuned


def _of_lists(study: Study, found: dict[str, np.ndarray]) -> dict[str, float]:
    likes = study.interactions[study.interactions["split"] == "validation"]
    likes = likes.loc[likes["rating"] >= study.like_threshold, ["user", "item"]]
    return {"ndcg_at_10": float(topk.judge(_retrieved("", found), likes)["ndcg_at_10"].mean())}


def chosen(tuned: pd.DataFrame, by: list[str], measure: str = "auc") -> pd.Series:
    """Which setting is the best of each group, the first of those that tie."""
    best = tuned.groupby(by)[measure].transform("max")
    return tuned[measure].eq(best) & ~tuned.duplicated([*by, measure])


def validation_lists(study: Study, params: dict[str, dict[str, Any]], top: int) -> pd.DataFrame:
    """What recommenders fitted on train retrieve for the users of the validation: the lists by which ``tune`` judges.

    Args:
        study: what all fits share.
        params: the chosen setting of each recommender.
        top: as it was given to ``tune``; the fits then come from the cache.

    Returns:
        recommender, user, position (0-based), item, score.
    """
    works = [_tuning_fit(study, name, setting, top) for name, setting in _fitted(study, params).items()]
    found = study.run(works, "lists of the validation", count=False)
    return pd.concat([_retrieved(work.recommender, one) for work, one in zip(works, found, strict=True)])


def chosen_params(tuned: pd.DataFrame, column: str = "chosen") -> dict[str, dict[str, Any]]:
    """The setting of each recommender that a column of ``tune`` chooses, as its class takes it (whole ones as such)."""
    params: dict[str, dict[str, Any]] = {}
    chosen = tuned.loc[tuned[column], ["recommender", "parameter", "value"]]
    for name, parameter, value in chosen.itertuples(index=False):
        params[name] = {parameter: int(value) if value % 1 == 0 else value} if parameter else {}
    return params


def _fitted(study: Study, params: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of those that are fitted here."""
    return {name: setting for name, setting in params.items() if name not in study.own}


def _test_fits(study: Study, params: dict[str, dict[str, Any]], candidates: pd.DataFrame, top: int) -> list[Fit]:
    return [study.fit(name, setting, study.known(), candidates, top) for name, setting in params.items()]


def test_scores(
    study: Study, params: dict[str, dict[str, Any]], candidates: pd.DataFrame, top: int, spare: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each recommender fitted on all that is known: its scores of the test candidates, and what it retrieves.

    Args:
        study: what all fits share.
        params: the chosen setting of each recommender.
        candidates: user, item.
        top: how many unseen items of the whole catalogue are retrieved for each user in ``candidates``; 0: none.
        spare: how many more are retrieved behind them.

    Returns:
        Scores: recommender, part ("test"), fold (-1), user, item, score.
        Retrieved: recommender, user, position (0-based), item, score, spare (whether it stands behind the list).
    """
    params, pairs = _fitted(study, params), candidates[["user", "item"]]
    found = study.run(_test_fits(study, params, candidates, top + spare), "fits for the test")
    given = {name: one["scores"] for name, one in zip(params, found, strict=True)}
    given |= {name: one.scores(study.data(), pairs)["score"].to_numpy() for name, one in study.own.items()}
    scores = [pairs.assign(recommender=name, part="test", fold=-1, score=one) for name, one in given.items()]
    retrieved = [_retrieved(name, one) for name, one in zip(params, found, strict=True) if top]
    lists = pd.concat([pd.DataFrame(), *retrieved], ignore_index=True)
    return pd.concat(scores, ignore_index=True), lists.assign(spare=lists["position"] >= top) if top else lists


def _retrieved(name: str, found: dict[str, np.ndarray]) -> pd.DataFrame:
    users, top = found["items"].shape
    columns = {"item": found["items"].ravel(), "score": found["item_scores"].ravel()}
    places = {"user": np.repeat(found["users"], top), "position": np.tile(np.arange(top), users)}
    table = pd.DataFrame({"recommender": name, **places, **columns})
    return table[table["score"] > -np.inf]  # whoever has seen most of a small catalogue gets a shorter list


def out_of_fold_scores(study: Study, params: dict[str, dict[str, Any]], folds: int) -> pd.DataFrame:
    """Scores of every known rating by a recommender that was fitted without it.

    Returns:
        Columns recommender, fold, user, item, score.
    """
    known = study.known()
    fold = splits.fold_of(known, folds, study.seed)
    work = [(name, number) for name in params for number in sorted(fold.unique())]
    fits = [study.fit(name, params[name], known[fold != number], known[fold == number]) for name, number in work]
    frames = [
        known.loc[fold == number, ["user", "item"]].assign(recommender=name, fold=number, score=one["scores"])
        for (name, number), one in zip(work, study.run(fits, "out-of-fold fits"), strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def fingerprints(
    study: Study,
    tuned: pd.DataFrame,
    candidates: pd.DataFrame,
    top: int,
    params: dict[str, dict[str, Any]],
    for_lists: dict[str, dict[str, Any]] | None = None,
    tuned_top: int = 0,
) -> pd.DataFrame:
    """A line for each fit that ``tune`` and ``test_scores`` made; all come from the cache.

    Args:
        study: what all fits share.
        tuned: what ``tune`` returned.
        candidates: user, item, relevant.
        top, params: as they were given to the others.
        for_lists: the settings of those whose lists are retrieved, where they are others.
        tuned_top: the ``top`` that was given to ``tune``.

    Returns:
        fingerprint.COLUMNS.
    """
    relevant = candidates["relevant"].to_numpy()
    names = [name for name in tuned["recommender"].unique() if name not in study.own]
    work = [("tuning", fit, study.liked("validation")) for fit in _tuning_fits(study, names, tuned_top)]
    for part, settings in (("test", _fitted(study, params)), ("lists", for_lists or {})):
        work += [(part, fit, relevant) for fit in _test_fits(study, settings, candidates, top)]
    found = study.run([fit for _, fit, _ in work], count=False)
    rows = [fingerprint.row(fit, one, liked, part) for (part, fit, liked), one in zip(work, found, strict=True)]
    return pd.DataFrame(rows)
