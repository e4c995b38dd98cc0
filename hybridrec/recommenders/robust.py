"""Recommenders that are trained for the users they serve worst: what one would do instead of routing users elsewhere.

A matrix factorisation of ratings, whose objective is a risk over users: the mean over ratings (the ordinary one), the
mean of the worst-served share of users (CVaR), or the worse of two groups of users (group DRO). They differ in nothing
else but their random start, so what separates them is the objective. ``Study`` fits them for protocol ``cross``, where
they are tuned as every other recommender is. ``rerank`` evens out groups of users after training.
"""

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, sparse, special

from hybridrec import files, progress
from hybridrec.data import splits
from hybridrec.errors import RecommenderError
from hybridrec.evaluation import fusion
from hybridrec.evaluation.lists import Lists
from hybridrec.files import shown
from hybridrec.randomness import seed_for
from hybridrec.recommenders import fitting
from hybridrec.recommenders.fits import Fit

_DECIMALS = 6  # of a score: what lies behind them differs from processor to processor
_BIAS_PENALTY = 2.0  # ratings' worth by which a bias is shrunken; the vectors' penalty is tuned
_SMALLEST_STEP = 2.0**-20
_SHARE = 0.3  # of users that CVaR looks at; SAFER2's settings have it, too
# In units of the ratings' variance: small beside what separates users (0.1) and groups (0.02).
_SMOOTHING_OF_USERS, _SMOOTHING_OF_GROUPS = 0.1, 0.02


# --- risks: what is minimised, given each user's loss -----------------------------------------------------------------


class Risk(NamedTuple):
    """A risk over users: its value, and its derivative by each user's loss. Derivatives sum to 1; shape (users,)."""

    value: float
    weights: np.ndarray


def mean_over_ratings(losses: np.ndarray, ratings: np.ndarray) -> Risk:
    """The ordinary objective: every rating counts once, so a user counts by the number of ratings.

    Args:
        losses: each user's mean loss, shape (users,).
        ratings: how many ratings each user has, shape (users,).
    """
    weights = ratings / ratings.sum()
    return Risk(float(weights @ losses), weights)


def cvar(losses: np.ndarray, share: float, smoothing: float) -> Risk:
    """The mean loss of the worst-served share of users, smoothed (conditional value at risk).

    min over t of t + h / share x mean of softplus((loss - t) / h), with h = ``smoothing``. The minimising t is a
    smoothed quantile, at which the weights sigmoid((loss - t) / h) have the mean ``share``; it is found exactly, so
    that the weights are the derivative. For h -> 0 this is the CVaR; a share of 1 gives the mean over users. It is at
    most h ln 2 / share above the CVaR, and never below.

    Args:
        losses: each user's mean loss, shape (users,).
        share: of users, above 0, at most 1.
        smoothing: h above 0, in units of the loss.

    Raises:
        RecommenderError: another share.

    Source: Rockafellar & Uryasev 2000, "Optimization of conditional value-at-risk", theorem 1; smoothed, for
    recommenders: Togashi, Oka, Ohsaka & Morimura 2024, "Safe collaborative filtering" (SAFER2, arXiv 2306.05292).
    """
    if not 0 < share <= 1:
        raise RecommenderError(f"the share of users is {share}: give one above 0 and at most 1, such as 0.3.")
    if share == 1:
        return Risk(float(losses.mean()), np.full(len(losses), 1 / len(losses)))

    def excess(quantile: float) -> float:
        return float(special.expit((losses - quantile) / smoothing).mean() - share)

    at_share = losses - smoothing * special.logit(share)  # the quantiles at which each user's weight is the share
    quantile = optimize.brentq(excess, at_share.min() - smoothing, at_share.max() + smoothing, xtol=1e-12)
    above = (losses - quantile) / smoothing
    value = quantile + smoothing / share * np.logaddexp(0, above).mean()
    return Risk(float(value), special.expit(above) / (share * len(losses)))


def worst_group(losses: np.ndarray, groups: np.ndarray, smoothing: float) -> Risk:
    """The mean loss of the group of users that is served worst, smoothed: h log(mean of exp(group's loss / h)).

    The weights of groups are those that maximise their weighted loss less h times the Kullback-Leibler divergence from
    equal weights; Sagawa's algorithm moves towards such weights by a step of exponentiated gradient for each batch.

    Args:
        losses: each user's mean loss, shape (users,).
        groups: the number of each user's group, from 0 on, shape (users,). Numbers nobody has are no groups.
        smoothing: h above 0, in units of the loss.

    Source: Sagawa et al. 2020, "Distributionally robust neural networks", eq. 4 and algorithm 1 (arXiv 1911.08731).
    """
    _, place, size = np.unique(groups, return_inverse=True, return_counts=True)
    of_group = np.bincount(place, losses) / size
    value = smoothing * (special.logsumexp(of_group / smoothing) - np.log(len(size)))
    return Risk(float(value), (special.softmax(of_group / smoothing) / size)[place])


# --- the factorisation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factors:
    """A fitted factorisation: a rating is mean + spread x (user's bias + item's bias + user's vector · item's vector).

    Attributes:
        mean, spread: of the ratings, the latter their standard deviation.
        users, items: bias and vector side by side, shape (users or items, 1 + k); 0 for whoever has no rating.
        risk: the objective after each sweep; it never rises.
        losses: each user's loss at the end, in units of the ratings' variance; NaN without a rating.
    """

    mean: float
    spread: float
    users: np.ndarray
    items: np.ndarray
    risk: list[float]
    losses: np.ndarray

    def score(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Predicted ratings of pairs, given by their places. Shape (pairs,)."""
        return self.mean + self.spread * _predicted(self.users[user], self.items[item])


def factorise(
    user: np.ndarray,
    item: np.ndarray,
    rating: np.ndarray,
    shape: tuple[int, int],
    risk: Callable[[np.ndarray, np.ndarray], Risk],
    penalty: float,
    k: int = 20,
    seed: int = 0,
    sweeps: int = 100,
    tolerance: float = 1e-4,
) -> Factors:
    """Matrix factorisation with biases that minimises a risk over users.

    Ratings are standardised. A user's loss is (sum of squared errors + penalty x |vector|² + 2 x bias²) / ratings.
    Minimised is the risk of these losses, plus the same penalty of the items' vectors and biases / all ratings. With
    ``mean_over_ratings`` this is the usual regularised squared error (Koren, Bell & Volinsky 2009, eq. 5).

    Each sweep moves items and then users. A user's bias and vector are nobody else's, so they are always the best for
    that user's own loss, which is best for any risk. What users share are the items: their ridge regression with each
    rating weighted by the risk's derivative is a descent direction of the objective, along which the step is halved
    until the objective falls. So the objective never rises, whatever the risk.

    Args:
        user, item: places of the ratings' users and items, shape (ratings,).
        rating: shape (ratings,).
        shape: how many users and items there are, rated or not.
        risk: takes the losses and the numbers of ratings of those users who have one, in the order of places.
        penalty: of the vectors' squares, above 0.
        k: length of a vector.
        seed: of the items' first vectors.
        sweeps: at most so many.
        tolerance: stops once a sweep lowers the objective by less than this share of it.

    Raises:
        RecommenderError: no ratings, or a penalty that is not above 0.
    """
    if not len(rating) or not penalty > 0:
        raise RecommenderError(
            f"{len(rating)} ratings with a penalty of {penalty} cannot be factorised: give some, and a penalty above 0."
        )
    mean, spread, total = float(np.mean(rating)), float(np.std(rating)) or 1.0, len(rating)
    standard = (np.asarray(rating, dtype=float) - mean) / spread
    penalties = np.r_[_BIAS_PENALTY, np.full(k, float(penalty))]
    count = np.bincount(user, minlength=shape[0])
    rated = count > 0
    by_user = _Side(user, item, standard, shape)
    by_item = _Side(item, user, standard, shape[::-1])

    def losses_of(users: np.ndarray, items: np.ndarray) -> np.ndarray:
        errors = standard - _predicted(users[user], items[item])
        squares = np.bincount(user, errors**2, shape[0]) + users**2 @ penalties
        return squares[rated] / count[rated]

    def objective(users: np.ndarray, items: np.ndarray) -> Risk:
        found = risk(losses_of(users, items), count[rated])
        return Risk(total * found.value + float((items**2 @ penalties).sum()), total * found.weights)

    items = np.hstack([np.zeros((shape[1], 1)), np.random.default_rng(seed).normal(0, 0.1, (shape[1], k))])
    users = by_user.ridge(items, np.ones(shape[1]), penalties)
    at, history = objective(users, items), []
    for _ in range(sweeps):
        weight = np.zeros(shape[0])
        weight[rated] = at.weights / count[rated]
        direction, step = by_item.ridge(users, weight, penalties) - items, 1.0
        while (moved := objective(users, items + step * direction)).value > at.value and step > _SMALLEST_STEP:
            step /= 2
        if moved.value <= at.value:
            items = items + step * direction
        users = by_user.ridge(items, np.ones(shape[1]), penalties)
        before, at = at, objective(users, items)
        history.append(at.value / total)
        if before.value - at.value < tolerance * before.value:
            break
    losses = np.full(shape[0], np.nan)
    losses[rated] = losses_of(users, items)
    return Factors(mean, spread, users, items, history, losses)


def _predicted(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Predicted ratings less their mean, for each row of biases and vectors."""
    return users[:, 0] + items[:, 0] + np.einsum("ij,ij->i", users[:, 1:], items[:, 1:])


class _Side:
    """One side of the ratings, users or items, each with a ridge regression on what the other side gives."""

    def __init__(self, own: np.ndarray, other: np.ndarray, residual: np.ndarray, shape: tuple[int, int]) -> None:
        self.rated = sparse.csr_array((np.ones(len(own)), (own, other)), shape)
        self.residual = sparse.csr_array((residual, (own, other)), shape)

    def ridge(self, other: np.ndarray, weight: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Biases and vectors that minimise the weighted squared error + penalties x their squares.

        Args:
            other: bias and vector of each of the other side, shape (others, 1 + k).
            weight: of each of the other side's ratings, shape (others,).
            penalties: of the bias and each part of a vector, above 0, shape (1 + k,).

        Returns:
            Shape (own, 1 + k).
        """
        design = np.hstack([np.ones((len(other), 1)), other[:, 1:]])
        weighted, width = design * weight[:, None], design.shape[1]
        products = (weighted[:, :, None] * design[:, None, :]).reshape(len(other), -1)
        square = (self.rated @ products).reshape(-1, width, width) + np.diag(penalties)
        side = self.residual @ weighted - self.rated @ (weighted * other[:, :1])
        return np.linalg.solve(square, side[:, :, None])[:, :, 0]


# --- under protocol cross ---------------------------------------------------------------------------------------------

PLAIN, CVAR, GROUP_DRO, RERANKED = "MF-mean", "MF-CVaR", "MF-group-DRO", "MF-re-ranked"
PENALTIES = (7, 10, 14)  # as many as the other recommenders have values to choose from


def _cvar(losses: np.ndarray, ratings: np.ndarray) -> Risk:
    return cvar(losses, _SHARE, _SMOOTHING_OF_USERS)


def _by_activity(losses: np.ndarray, ratings: np.ndarray) -> Risk:
    """The worse of two groups: users with fewer ratings than the mean (the paper's inactive ones), and the others."""
    return worst_group(losses, (ratings < ratings.mean()).astype(int), _SMOOTHING_OF_GROUPS)


RISKS = {PLAIN: mean_over_ratings, CVAR: _cvar, GROUP_DRO: _by_activity}


@dataclass(frozen=True)
class Study(fitting.Study):
    """The recommenders of ``RISKS`` for ``recommenders.cross``: the same folds, ratings and choices as all others'."""

    def grid(self, name: str) -> list[dict[str, Any]]:
        """The settings to choose from, one dictionary each."""
        return [{"penalty": value} for value in self.grids.get(name, PENALTIES)]

    def feedback(self, name: str) -> str:
        """What they learn from, all of them."""
        return "ratings"

    def fit(self, name: str, params: dict[str, Any], known: pd.DataFrame, pairs: pd.DataFrame, top: int = 0) -> Fit:
        """The work of fitting one of them; they learn from what MF learns from, and retrieve nothing."""
        work = super().fit("MF", params, known, pairs)
        return replace(work, recommender=name, seed=seed_for(self.seed, "fit", name))

    def run(self, todo: Sequence[Fit], what: str = "fits", count: bool = True) -> list[dict[str, np.ndarray]]:
        """What every fit came to: its "scores" of ``pairs``, in their order. From the cache where it was done before.

        Warns:
            UserWarning: a cached fit is damaged (names the file); it is done again.
        """
        keys = [key(work) for work in todo]
        works = dict(zip(keys, todo, strict=True))
        kept = {one: self._load(one, work) for one, work in works.items()}
        found = {one: scores for one, scores in kept.items() if scores is not None}
        missing = [one for one in works if one not in found]
        if count:
            progress.count("fits", computed=len(missing), cached=len(todo) - len(missing))
        for one in progress.bar(missing, what=what):
            found[one] = fit_and_score(works[one])
            if self.cache:
                with files.replacing(self._file(one)) as partial:
                    np.savez(partial, allow_pickle=False, scores=found[one])
        return [{"scores": found[one]} for one in keys]

    def _file(self, key: str) -> Path:
        assert self.cache is not None
        return self.cache / f"robust-{key}.npz"

    def _load(self, key: str, work: Fit) -> np.ndarray | None:
        """The scores of a fit from the cache; None where it is not there, or damaged."""
        if self.cache is None or not (file := self._file(key)).is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                scores = arrays["scores"]
            whole = scores.shape == (len(work.pairs),) and bool(np.isfinite(scores).all())
        except Exception:  # a bit that was flipped can make zipfile and NumPy raise anything
            whole = False
        if not whole:
            warnings.warn(f"{shown(file)} is damaged: this fit is done again.", stacklevel=3)
            return None
        return scores


def fit_and_score(work: Fit) -> np.ndarray:
    """Fit one of ``RISKS``; returns its scores of ``work.pairs``, in their order."""
    from threadpoolctl import threadpool_limits

    users, items = pd.Index(work.users), pd.Index(work.items)
    user, item = users.get_indexer(work.train["user"]), items.get_indexer(work.train["item"])
    rating, shape = work.train["rating"].to_numpy(), (len(users), len(items))
    with threadpool_limits(1):  # the order of sums, and with it their last bits, is the same everywhere
        found = factorise(user, item, rating, shape, RISKS[work.recommender], **work.params, seed=work.seed)
    scores = found.score(users.get_indexer(work.pairs["user"]), items.get_indexer(work.pairs["item"]))
    return scores.round(_DECIMALS) + 0.0


def key(work: Fit) -> str:
    """SHA-256 of all that the scores depend on."""
    tables = [work.train, work.pairs, *(pd.DataFrame({"id": ids}) for ids in (work.users, work.items))]
    hashes = [splits.fingerprint(table) for table in tables]
    text = json.dumps([work.recommender, work.params, work.seed, hashes, *map(version, ("numpy", "scipy")), _code()])
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _code() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


# --- re-ranking -------------------------------------------------------------------------------------------------------


def rerank(
    lists: Lists,
    own: np.ndarray,
    aid: np.ndarray,
    inactive: pd.DataFrame,
    allowed: float = 0.5,
    grid: Sequence[float] = fusion.GRID,
) -> tuple[np.ndarray, pd.DataFrame]:
    """A user-fairness re-ranking: the best orders that bring inactive and active users' quality closer together.

    Li et al. choose for all users together the items with the highest scores, under the constraint that the quality of
    advantaged and disadvantaged users differs by at most epsilon. Over given items, one recommender's scores alone
    allow no such gain: their order is the best guess for each user by itself, so the constraint can only be met by
    spoiling the orders of those who are served well. An order gets better only by what the scores do not hold. So here
    the ranks of an aid are added, with one weight for each group of users. For a test fold these two weights have the
    highest mean AUC on the other folds among all that leave at most a share of the difference between the groups that
    there is without an aid; where none do, among those with the smallest difference. This may well spoil the orders of
    active users, too: the choice is shown.

    Args:
        lists: the lists.
        own: the recommender's scores, shape (folds, rows).
        aid: the other ranking's, the same shape; both must have all scores.
        inactive: test, user: the disadvantaged. Where they or the others have no list that decides, nothing is added.
        allowed: share of the difference that may stay, 0 to 1.
        grid: weights to choose from, beside the recommender's 1; with 0 among them.

    Returns:
        Judged scores, shape (folds, rows), NaN elsewhere. Choices: test, inactive, active (the weights), gap_before and
        gap (AUC of active less that of inactive users, on the folds that decide), auc_before and auc (of all of them).

    Source: after Li et al. 2021, "User-oriented fairness in recommendation" (arXiv 2104.10671).
    """
    weights, judged, mask = np.sort(grid), lists.judged, lists.mask(inactive)
    ranked, aiding = fusion.ranks(lists, own), fusion.ranks(lists, aid)
    correct = np.stack([lists.correct(ranked + weight * aiding, ~judged) for weight in weights])
    found, rows = np.full(own.shape, np.nan), []
    for test in range(lists.folds):
        deciding, disadvantaged = lists.others(test)[lists.of_fold] & (lists.n_pairs > 0), mask[test, lists.of_user]
        groups = [deciding & disadvantaged, deciding & ~disadvantaged]
        auc = [(correct[:, test, of] / lists.n_pairs[of]).mean(axis=1).round(_DECIMALS) for of in groups if of.any()]
        low, high, row = 0, 0, {"test": test}
        if len(auc) == 2:
            gap = auc[1][None, :] - auc[0][:, None]  # by the weight of inactive users, and that of active ones
            mean = (auc[0][:, None] * groups[0].sum() + auc[1][None, :] * groups[1].sum()) / deciding.sum()
            near = np.abs(gap) <= max(allowed * abs(gap[0, 0]), np.abs(gap).min())
            low, high = map(int, np.unravel_index(np.where(near, mean, -1).argmax(), mean.shape))
            row |= {"gap_before": gap[0, 0], "gap": gap[low, high], "auc_before": mean[0, 0], "auc": mean[low, high]}
        weight = np.where(mask[test, lists.user], weights[low], weights[high])
        found[test] = np.where(judged[test], ranked[test] + weight * aiding[test], np.nan)
        rows.append(row | {"inactive": weights[low], "active": weights[high]})
    columns = ["test", "inactive", "active", "gap_before", "gap", "auc_before", "auc"]
    return found, pd.DataFrame(rows, columns=columns)
