"""Protocol ``cross``: every rating is scored by a recommender that never saw its fold, nor did any choice made for it.

M_k is a recommender fitted without fold k, and M_jk one fitted without folds j and k. For test fold k, the
hyper-parameter is chosen on fold k+1, scored by M_k,k+1; whatever else is decided for fold k may use the scores of each
other fold j by M_jk; and the scores of fold k by M_k are judged.

A fit of M_jk scores both of its folds, since it serves test folds j and k alike where they chose the same value. So,
over K folds, a recommender with g values to choose from takes: g fits for each of the K pairs of neighbouring folds,
which choose; 1 for each of the K(K-3)/2 other pairs, or 2 where their folds chose different values; and 1 for each
fold. With 5 folds and 3 values that is 25 to 30 fits, with nothing to choose 15.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.data import folds
from hybridrec.errors import ScoresError, SplitError
from hybridrec.evaluation import metrics
from hybridrec.randomness import seed_for
from hybridrec.recommenders import fingerprint
from hybridrec.recommenders.fits import Fit
from hybridrec.recommenders.fitting import Study, chosen

COLUMNS = ["ranker", "draw", "test", "fold", "user", "item", "score"]
TUNED = ["recommender", "test", "parameter", "value", "auc", "chosen"]

# A recommender, its setting, and the folds that it may not learn from: one, or two in rising order.
Model = tuple[str, dict[str, Any], tuple[int, ...]]


def tune(study: Study, names: Sequence[str], tests: Sequence[int] | None = None) -> pd.DataFrame:
    """For each test fold k, the AUC on fold k+1 of every declared setting, fitted without both folds.

    Args:
        study: what all fits share; its ``interactions`` are ``folds.divide``'s. Without a cache, ``scores`` makes the
            fits of the chosen settings again.
        names: recommenders to fit.
        tests: the test folds; None: every fold is one. ``scores`` then scores for these alone.

    Returns:
        TUNED: ``auc`` is the mean over users; ``chosen`` marks one setting of each recommender and test fold.

    Raises:
        SplitError: a fold in which no user has a liked and another item.
    """
    work, count = _tuning(study, names, tests), study.interactions["fold"].nunique()
    found = _run(study, [model for _, model in work], "fits to tune (cross)")
    rows = []
    for test, model in work:
        name, setting, _ = model
        judged = _part(study, found, model, folds.neighbour(test, count))
        parameter, value = next(iter(setting.items()), ("", np.nan))
        rows.append((name, test, parameter, value, _auc(judged, study.like_threshold)))
    tuned = pd.DataFrame(rows, columns=TUNED[:-1])
    undecided = tuned["auc"].isna()
    if undecided.any():
        fold = folds.neighbour(int(tuned.loc[undecided, "test"].iloc[0]), count)
        raise SplitError(
            f"no user has a liked and another item in fold {fold} of {count}, so no hyper-parameter can be chosen on "
            "it. Divide into fewer folds (three at least), or add ratings."
        )
    return tuned.assign(chosen=chosen(tuned, ["recommender", "test"]))


def scores(study: Study, tuned: pd.DataFrame) -> pd.DataFrame:
    """Scores of each fold for each test fold, by recommenders that saw neither.

    Args:
        study: as for ``tune``.
        tuned: what ``tune`` returned.

    Returns:
        COLUMNS: ``ranker`` is the recommender, ``draw`` 0. A row with fold == test is to be judged; one with another
        fold may decide for ``test``. Each rating has one row of the first kind, and one of the second for each test
        fold but its own.
    """
    work = _scoring(study, tuned)
    found = _run(study, [model for _, _, model in work], "fits to score (cross)")
    parts = [
        _part(study, found, model, fold).assign(ranker=model[0], draw=0, test=test)[COLUMNS]
        for test, fold, model in work
    ]
    return pd.concat(parts, ignore_index=True)


def fingerprints(study: Study, tuned: pd.DataFrame) -> pd.DataFrame:
    """A line for each fit that ``tune`` and ``scores`` made (``fingerprint.COLUMNS``); all come from the cache.

    Args:
        study: as for ``tune``.
        tuned: what ``tune`` returned.
    """
    tuning = _tuning(study, tuned["recommender"].unique(), tuned["test"].unique().tolist())
    models = _distinct([*(model for _, model in tuning), *(model for _, _, model in _scoring(study, tuned))])
    works = _fits(study, models)
    rows = []
    for (_, _, left_out), work, found in zip(models, works, study.run(works, count=False), strict=True):
        liked = _rows(study, left_out)["rating"] >= study.like_threshold
        part = f"cross, without {' and '.join(map(str, left_out))}"
        rows.append(fingerprint.row(work, found, liked.to_numpy(), part))
    return pd.DataFrame(rows)


def given(name: str, table: schema.Table, divided: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Scores of a recommender that is not fitted here, as ``scores`` returns them.

    Args:
        name: the recommender's.
        table: user, item, test, score: of every rating, for every test fold, by a recommender that has learned neither
            from the fold ``test`` nor from the one that the rating is in.
        divided: user, item, fold (``folds.divide``).
        items: the catalogue, with a column item.

    Raises:
        DatasetError: a table that cannot be read, or lacks a column.
        ScoresError: a rating without a score for a test fold (counts them); a test fold that there is not; what
            ``schema.scores`` raises.
    """
    what, parts = schema.called(table, f"the scores of {name}"), []
    read, tests = schema.read(table, [*schema.SCORES, "test"], what), sorted(divided["fold"].unique().tolist())
    strange = read.loc[~read["test"].isin(tests), "test"]
    if len(strange):
        raise ScoresError(f"{what}: a row has test {strange.iloc[0]}; it must be a fold, {tests[0]} to {tests[-1]}.")
    for test in tests:
        own = read.loc[read["test"] == test, [*schema.SCORES]]
        own = schema.scores(own, f"{what}, test {test}", users=divided["user"], items=items["item"])
        found = divided[["fold", "user", "item"]].merge(own, "left", on=["user", "item"])
        if lacking := found["score"].isna().sum():
            raise ScoresError(
                f"{what}: {lacking:,} of {len(divided):,} ratings have no score for test {test}. Score every rating "
                "for every fold, or leave this recommender out of cross."
            )
        parts.append(found.assign(ranker=name, draw=0, test=test)[COLUMNS])
    return pd.concat(parts, ignore_index=True)


def given_quality(scores: pd.DataFrame, divided: pd.DataFrame, like_threshold: float) -> pd.DataFrame:
    """The rows of ``tune`` for a recommender that is not fitted here: it has nothing to choose.

    Args:
        scores: what ``given`` returned.
        divided: user, item, rating, fold.
        like_threshold: a rating at or above it makes an item relevant.
    """
    following = scores[scores["fold"] == folds.neighbour(scores["test"], divided["fold"].nunique())]
    judged = following.merge(divided[["user", "item", "rating"]], on=["user", "item"])
    aucs = {test: _auc(rows, like_threshold) for test, rows in judged.groupby("test")}
    table = pd.DataFrame({"recommender": scores["ranker"].iloc[0], "test": aucs.keys(), "auc": aucs.values()})
    return table.assign(parameter="", value=np.nan, chosen=True)[TUNED]


def _tuning(study: Study, names: Iterable[str], tests: Iterable[int] | None = None) -> list[tuple[int, Model]]:
    """For each recommender, test fold and setting: the model that tells how good the setting is."""
    count = study.interactions["fold"].nunique()
    return [
        (test, (name, setting, _left_out(test, folds.neighbour(test, count))))
        for name in names
        for test in (range(count) if tests is None else tests)
        for setting in study.grid(name)
    ]


def _scoring(study: Study, tuned: pd.DataFrame) -> list[tuple[int, int, Model]]:
    """For each recommender, test fold and fold: the model that scores it."""
    count = study.interactions["fold"].nunique()
    chosen = {(row.recommender, row.test): _setting(study, row) for row in tuned[tuned["chosen"]].itertuples()}
    return [
        (test, fold, (name, setting, _left_out(test, fold)))
        for (name, test), setting in chosen.items()
        for fold in range(count)
    ]


def _setting(study: Study, row: Any) -> dict[str, Any]:
    """The setting of a row of ``tune``, as its grid has it: 30 and 30.0 would be two fits."""
    return next(one for one in study.grid(row.recommender) if not one or one[row.parameter] == row.value)


def _left_out(one: int, other: int) -> tuple[int, ...]:
    return tuple(sorted({one, other}))


def _run(study: Study, models: Iterable[Model], what: str) -> Mapping[str, np.ndarray]:
    """The scores that each distinct model gives the folds it was fitted without, by ``_key``."""
    distinct = _distinct(models)
    found = study.run(_fits(study, distinct), what)
    return {_key(model): one["scores"] for model, one in zip(distinct, found, strict=True)}


def _distinct(models: Iterable[Model]) -> list[Model]:
    return list({_key(model): model for model in models}.values())


def _key(model: Model) -> str:
    return repr(model)


def _fits(study: Study, models: Iterable[Model]) -> list[Fit]:
    """The work behind each model; those that learn from the same ratings share one table of them."""
    made: dict[tuple[str, tuple[int, ...]], Fit] = {}
    works = []
    for name, setting, left_out in models:
        shared = study.feedback(name), left_out
        if shared not in made:
            known = folds.without(study.interactions, *left_out)
            made[shared] = study.fit(name, setting, known, _rows(study, left_out))
        seed = seed_for(study.seed, "fit", name)
        works.append(replace(made[shared], recommender=name, params=setting, seed=seed))
    return works


def _rows(study: Study, left_out: tuple[int, ...]) -> pd.DataFrame:
    return study.interactions[study.interactions["fold"].isin(left_out)]


def _part(study: Study, found: Mapping[str, np.ndarray], model: Model, fold: int) -> pd.DataFrame:
    """A model's scores of one fold: fold, user, item, rating, score."""
    rows = _rows(study, model[2])[["fold", "user", "item", "rating"]].assign(score=found[_key(model)])
    return rows[rows["fold"] == fold]


def _auc(judged: pd.DataFrame, like_threshold: float) -> float:
    return float(metrics.auc(judged.assign(relevant=judged["rating"] >= like_threshold)).mean())
