"""Whom to hand over, and to whom: what is known of a user beforehand, the uplift it predicts, and the plain rules.

An *arm* is anything that could rank a user's list in the recommender's place. Its *uplift* is its AUC on a list minus
the recommender's own. Tables here have one row for each recommender, test fold, fold and user, as ``evaluation.lists``
has scores: the row (test k, fold j) is about the list of fold j and holds nothing of fold k, so rows with fold != test
may teach a rule for fold k, and rows with fold == test are those that the rule is applied to.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from hybridrec.evaluation import fusion
from hybridrec.evaluation.lists import Lists, Scores
from hybridrec.randomness import generator

CASE = ["recommender", "test", "user"]  # a hand-over
KEYS = ["recommender", "test", "fold", "user"]
FEATURES = {
    "own": "the recommender's AUC on the other folds, shrunken to the mean of all users",
    "pairs": "logarithm of 1 + the pairs behind it",
    "sparsity": "share of the catalogue that the user has not rated, by the other folds",
    "ratings": "logarithm of 1 + the ratings in the other folds",
    "popularity": "mean logarithm of the popularity of the rated items, both by the other folds",
    "items": "logarithm of the number of items in the list",
    "margin": "spread of the recommender's scores over the list, in units of its mean spread",
    "agreement": "mean rank correlation, over the list, of the recommender with the others",
}
KNOWN = "known "  # before an arm's name: its mean uplift on the other folds, shrunken

# How much the squared length of the coefficients costs, where features have a variance of 1; the last one says that
# the mean is all that can be predicted.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, np.inf)
PARTS = 5

Arms: TypeAlias = Mapping[str, Scores]  # by arm and recommender, scores of shape (folds, rows)


# --- what is known beforehand -----------------------------------------------------------------------------------------


def features(lists: Lists, recommenders: Scores, own: Sequence[str], arms: Arms, catalogue: int) -> pd.DataFrame:
    """What is known of every list without its own labels and without the test fold.

    Labels and histories come from the folds other than the test and the list's own. Scores of the list itself come from
    a model that was fitted without both.

    Args:
        lists: the lists.
        recommenders: scores of all recommenders, by name: who agrees with whom.
        own: those of them whose users may be handed over.
        arms: scores by arm and recommender; those that have scored whole lists in every fold get a feature.
        catalogue: how many items there are.

    Returns:
        KEYS, FEATURES, and a column "known ARM" for each arm that has one. A row for every list with a pair and each
        test fold.
    """
    known = _known(lists, catalogue)
    ranked = {name: fusion.ranks(lists, values) for name, values in recommenders.items()}
    parts = []
    for name in own:
        auc = _auc(lists, recommenders[name])
        others = [_correlation(lists, ranked[name], other) for key, other in ranked.items() if key != name]
        agreement = sum(others, np.zeros((lists.folds, lists.folds, len(lists.users)))) / max(1, len(others))
        margin = _margin(lists, recommenders[name])
        columns = known | {"own": _before(lists, auc), "margin": margin, "agreement": agreement}
        for arm, scores in arms.items():
            difference = _auc(lists, scores[name]) - auc
            if np.isfinite(difference[:, lists.n_pairs > 0]).all():
                columns[f"{KNOWN}{arm}"] = _before(lists, difference)
        parts.append(_table(lists, name, columns))
    found = pd.concat(parts, ignore_index=True)
    shared = [column for column in found if column not in KEYS and found[column].notna().all()]
    ordered = [*FEATURES, *(column for column in shared if column not in FEATURES)]
    return found[[*KEYS, *ordered]]


def uplifts(lists: Lists, recommenders: Scores, own: Sequence[str], arms: Arms) -> pd.DataFrame:
    """How much better each arm ranks each list than the recommender: what is predicted, and what is judged.

    Args:
        lists, recommenders, own, arms: as for ``features``.

    Returns:
        KEYS, and a column for each arm: its AUC minus the recommender's; NaN where the arm has not scored the list. The
        rows are those of ``features``.
    """
    parts = []
    for name in own:
        auc = _auc(lists, recommenders[name])
        parts.append(_table(lists, name, {arm: _auc(lists, scores[name]) - auc for arm, scores in arms.items()}))
    return pd.concat(parts, ignore_index=True)


def shrink(values: np.ndarray) -> np.ndarray:
    """Each user's mean, drawn to the mean of all users by as much as it is noise.

    Args:
        values: one row a list, one column a user; NaN where the user has none.

    Returns:
        Shape (users,); the mean of all where nothing is known of a user, or where no user has two lists, so that noise
        cannot be told.

    Source: normal empirical Bayes by the method of moments (Efron & Morris 1975).
    """
    number, mean, noise, between = moments(values)
    overall = np.average(mean, weights=number > 0) if number.any() else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(number > 0, between / (between + noise / number), 0)
    return overall + np.nan_to_num(kept) * (mean - overall)


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """What a user's lists have in common, told from what differs from list to list.

    Args:
        values: one row a list, one column a user; NaN where the user has none.

    Returns:
        For each user the number of lists and their mean (0 where there is none); then the variance of one list about
        its user's mean, and the variance of users' true means (at least 0; NaN and 0 where no user has two lists).
    """
    there = ~np.isnan(values)
    number = there.sum(axis=0)
    mean = np.where(there, values, 0).sum(axis=0) / np.maximum(number, 1)
    squares = np.where(there, (values - mean) ** 2, 0).sum()
    some, free = number > 0, (number - 1).clip(0).sum()
    if free == 0 or some.sum() < 2:
        return number, mean, np.nan, 0.0
    noise = squares / free
    between = mean[some].var(ddof=1) - noise * (1 / number[some]).mean()
    return number, mean, float(noise), max(0.0, float(between))


def _auc(lists: Lists, scores: np.ndarray) -> np.ndarray:
    """AUC of each list, shape (folds, lists); NaN where it has no pair or is not scored as a whole."""
    pairs = np.where(lists.n_pairs > 0, lists.n_pairs, np.nan)
    return lists.correct(scores) / pairs


def _cube(lists: Lists, values: np.ndarray) -> np.ndarray:
    """Values of lists, shape (folds, lists), as an array of test fold, fold and user; NaN where there is no list."""
    found = np.full((lists.folds, lists.folds, len(lists.users)), np.nan)
    found[:, lists.of_fold, lists.of_user] = values
    return found


def _before(lists: Lists, values: np.ndarray) -> np.ndarray:
    """For each test fold, fold and user the shrunken mean of a value over the lists of the other folds."""
    cube = _cube(lists, values)
    found = np.empty(cube.shape)
    for test, fold in np.ndindex(lists.folds, lists.folds):
        found[test, fold] = shrink(cube[test, lists.others(test, fold)])
    return found


def _known(lists: Lists, catalogue: int) -> dict[str, np.ndarray]:
    """The features that are the same for every recommender, by test fold, fold and user."""
    shape = (lists.folds, lists.folds, len(lists.users))
    found = {name: np.empty(shape) for name in ("pairs", "ratings", "popularity")}
    pairs = np.nan_to_num(_cube(lists, np.broadcast_to(lists.n_pairs, (lists.folds, len(lists.n_pairs)))))
    for test, fold in np.ndindex(lists.folds, lists.folds):
        others = lists.others(test, fold)
        rows = others[lists.fold]
        user, item = lists.user[rows], lists.item[rows]
        number = np.bincount(user, minlength=shape[2])
        popular = np.log(np.bincount(item, minlength=len(lists.items)).clip(1))
        found["pairs"][test, fold] = pairs[test, others].sum(axis=0)
        found["ratings"][test, fold] = number
        found["popularity"][test, fold] = np.bincount(user, popular[item], shape[2]) / number.clip(1)
    sparsity = 1 - found["ratings"] / catalogue
    size = np.nan_to_num(_cube(lists, np.broadcast_to(np.bincount(lists.list), (lists.folds, len(lists.n_pairs)))))
    logarithms = {"pairs": np.log1p(found["pairs"]), "ratings": np.log1p(found["ratings"]), "items": np.log1p(size)}
    return found | logarithms | {"sparsity": sparsity}


def _centred(lists: Lists, values: np.ndarray) -> np.ndarray:
    """Scores, shape (folds, rows), minus their mean in each list."""
    size = np.bincount(lists.list)
    return np.stack([one - (np.bincount(lists.list, one) / size)[lists.list] for one in values])


def _products(lists: Lists, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean product of two centred scores in each list, shape (folds, lists)."""
    size = np.bincount(lists.list)
    return np.stack([np.bincount(lists.list, a * b) / size for a, b in zip(one, other, strict=True)])


def _margin(lists: Lists, scores: np.ndarray) -> np.ndarray:
    """Standard deviation of the scores in each list, in units of its mean over the lists of the same fold."""
    centred = _centred(lists, scores)
    cube = _cube(lists, np.sqrt(_products(lists, centred, centred)))
    typical = np.nanmean(cube, axis=2, keepdims=True)
    return np.nan_to_num(cube / np.where(typical > 0, typical, 1))


def _correlation(lists: Lists, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation of two rankings in each list, by test fold, fold and user; 0 where one is all ties."""
    one, other = _centred(lists, one), _centred(lists, other)
    length = np.sqrt(_products(lists, one, one) * _products(lists, other, other))
    ratio = _products(lists, one, other) / np.where(length > 0, length, 1)
    return np.nan_to_num(_cube(lists, ratio))


def _table(lists: Lists, recommender: str, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A table of the lists that have a pair, from values of shape (folds, lists) or (folds, folds, users)."""
    some = np.flatnonzero(lists.n_pairs > 0)
    test = np.repeat(np.arange(lists.folds), len(some))
    at = np.tile(some, lists.folds)
    fold, user = lists.of_fold[at], lists.of_user[at]
    keys = {"recommender": recommender, "test": test, "fold": fold, "user": lists.users[user]}
    values = {name: of[test, at] if of.ndim == 2 else of[test, fold, user] for name, of in columns.items()}
    return pd.DataFrame(keys | values)


# --- predicted uplift -------------------------------------------------------------------------------------------------


def predict(known: pd.DataFrame, uplift: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The uplift of each arm that features predict, by ridge regression, cross-fitted over folds and users.

    Users are dealt into five parts. What predicts for a user in (test k, fold j) was learned from users of other parts
    and from folds other than j and k; its penalty, one of PENALTIES, had the lowest squared error when each of these
    parts in turn was left out. So neither a label of fold k nor an uplift of the user's own goes into it.

    Args:
        known: KEYS and features (``features``), of the users who may be handed over.
        uplift: KEYS and arms (``uplifts``): the same rows in the same order; NaN where there is none.
        seed: deals the users.

    Returns:
        KEYS, and for each arm the predicted uplift; NaN where there was nothing to learn from.

    Source: Hoerl & Kennard 1970; cross-fitting: Chernozhukov et al. 2018.
    """
    users = np.unique(known["user"])
    dealt = generator(seed, "allocation-parts").permutation(len(users)) % PARTS
    part = dealt[np.searchsorted(users, known["user"])]
    test, fold = known["test"].to_numpy(), known["fold"].to_numpy()
    kind = pd.get_dummies(known["recommender"], drop_first=True, dtype=float)
    inputs = np.column_stack([np.ones(len(known)), known.drop(columns=KEYS).to_numpy(float), kind])
    found = known[KEYS].copy()
    for arm in uplift.columns.drop(KEYS):
        target = uplift[arm].to_numpy(float)
        found[arm] = _cross_fitted(inputs, target, test, fold, part)
    return found


def _cross_fitted(
    inputs: np.ndarray, target: np.ndarray, test: np.ndarray, fold: np.ndarray, part: np.ndarray
) -> np.ndarray:
    folds = int(max(test.max(), fold.max())) + 1
    columns = inputs.shape[1] + 1
    # All that ridge regression needs of some rows is the sum of their products, which adds up over folds and parts.
    products = np.zeros((folds, folds, PARTS, columns, columns))
    there = ~np.isnan(target) & (fold != test)
    rows = np.column_stack([inputs, np.where(there, target, 0)])
    for cell in np.ndindex(folds, folds, PARTS):
        chosen = rows[there & (test == cell[0]) & (fold == cell[1]) & (part == cell[2])]
        products[cell] = chosen.T @ chosen
    found = np.full(len(target), np.nan)
    for k, j in np.ndindex(folds, folds):
        others = ~np.isin(np.arange(folds), (k, j))
        of_part = products[k, others].sum(axis=0)
        for one in range(PARTS):
            asked = (test == k) & (fold == j) & (part == one)
            if (coefficients := _ridge(np.delete(of_part, one, axis=0))) is not None:
                found[asked] = inputs[asked] @ coefficients
    return found


def _ridge(of_part: np.ndarray) -> np.ndarray | None:
    """Coefficients, the constant first, by the penalty that predicts best from part to part; None without two parts.

    Args:
        of_part: sums of products of (1, features, target), shape (parts, columns, columns).
    """
    of_part = of_part[of_part[:, 0, 0] > 0]
    if len(of_part) < 2:
        return None
    errors = np.zeros(len(PENALTIES))
    for left_out in range(len(of_part)):
        learned = np.delete(of_part, left_out, axis=0).sum(axis=0)
        for at, penalty in enumerate(PENALTIES):
            residual = np.append(_solve(learned, penalty), -1)
            errors[at] += residual @ of_part[left_out] @ residual
    # Of equal penalties the highest: the simplest rule.
    best = len(PENALTIES) - 1 - np.argmin(errors[::-1].round(9))
    return _solve(of_part.sum(axis=0), PENALTIES[best])


def _solve(products: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression on features of mean 0 and variance 1, the constant free of penalty."""
    mean = products[0, 1:] / products[0, 0]
    covariance = products[1:, 1:] / products[0, 0] - np.outer(mean, mean)
    spread = np.sqrt(np.diag(covariance)[:-1].clip(0))
    varies = spread > 1e-9 * (1 + np.abs(mean[:-1]))  # what is the same for everybody predicts nothing
    slopes = np.zeros(len(spread))
    if np.isfinite(penalty) and varies.any():
        scale = spread[varies]
        square = covariance[:-1, :-1][np.ix_(varies, varies)] / np.outer(scale, scale)
        side = covariance[:-1, -1][varies] / scale
        slopes[varies] = np.linalg.solve(square + penalty * np.eye(len(scale)), side) / scale
    return np.concatenate([[mean[-1] - mean[:-1] @ slopes], slopes])


# --- policies ---------------------------------------------------------------------------------------------------------


def nobody(cases: pd.DataFrame) -> pd.DataFrame:
    """Nobody is handed over.

    Args:
        cases: CASE, a row for each hand-over that is possible; so for all policies.

    Returns:
        CASE, arm, score: whoever has the highest score is handed over first, equal ones with equal chances, and who is
        not in the table never; so for all policies.
    """
    return cases[CASE].iloc[:0].assign(arm="", score=0.0)


def everybody(cases: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Everybody, to one arm; under a budget that does not reach all, a random choice of users."""
    return cases[CASE].assign(arm=arm, score=0.0)


def published(cases: pd.DataFrame, triage: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The weak users, worst served first, to one arm.

    Args:
        cases: CASE.
        triage: CASE, weak, shrunken.
        arm: to whom.

    Source: Kaur & Shah 2024, section 3; the order is ours.
    """
    weak = cases[CASE].merge(triage.loc[triage["weak"].astype(bool), [*CASE, "shrunken"]])
    return weak[CASE].assign(arm=arm, score=-weak["shrunken"])


def worst_first(policy: pd.DataFrame, triage: pd.DataFrame) -> pd.DataFrame:
    """The hand-overs of another policy, worst served first."""
    found = policy.merge(triage[[*CASE, "shrunken"]])
    return found[CASE].assign(arm=found["arm"], score=-found["shrunken"])


def best_single(cases: pd.DataFrame, uplift: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Everybody to the arm with the highest mean uplift on the other folds; nobody where no mean is above 0.

    Args:
        cases: CASE.
        uplift: KEYS and arms (``uplifts``); rows of the test fold itself are not looked at.
        arms: between whom.
    """
    known = uplift[uplift["fold"] != uplift["test"]]
    means = known.groupby(["recommender", "test"])[list(arms)].mean().round(9)
    long = means.rename_axis(columns="arm").stack().rename("score").reset_index().dropna()
    best = long.loc[long.groupby(["recommender", "test"])["score"].idxmax()]
    return cases[CASE].merge(best[best["score"] > 0])


def predicted(prediction: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Each user to the arm with the highest predicted uplift, the highest first; whoever has none above 0 stays.

    Args:
        prediction: KEYS and arms (``predict``); rows with fold == test are used.
        arms: between whom.
    """
    rows = prediction[prediction["fold"] == prediction["test"]]
    values = rows[list(arms)].fillna(-np.inf).round(9)
    best = rows[CASE].assign(arm=np.array(arms)[values.to_numpy().argmax(axis=1)], score=values.max(axis=1))
    return best[best["score"] > 0].reset_index(drop=True)
