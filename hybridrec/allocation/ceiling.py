"""How much any allocation could gain: is one user's uplift different from another's, or is the difference luck?"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from hybridrec.allocation.policy import moments
from hybridrec.randomness import generator


def by_user(uplift: pd.DataFrame, arm: str) -> np.ndarray:
    """An arm's uplift on judged lists, shape (folds, users): the mean over recommenders; NaN where there is none.

    Args:
        uplift: recommender, test, user, and the arm; one row a judged list.
        arm: which.
    """
    return uplift.dropna(subset=arm).pivot_table(index="test", columns="user", values=arm).to_numpy()


def reliability(values: np.ndarray, seed: int, samples: int = 1000) -> dict[str, float]:
    """Whether users who gain much in some folds gain much in the others.

    Args:
        values: uplift, shape (folds, users); NaN where a user has no list.
        seed, samples: of the bootstrap over users.

    Returns:
        users (with lists in two folds or more), mean (of all users), correlation of the means over two halves of the
        folds (averaged over all ways to halve them), reliability (of a mean over all of a user's folds, by Spearman and
        Brown) with low and high (95 %), and sd, the standard deviation of users' true mean uplift (method of moments),
        with sd_low and sd_high. All NaN where no two folds can be compared.

    Source: Spearman 1910; Brown 1910.
    """
    values = values[:, (~np.isnan(values)).sum(axis=0) > 1]
    users = values.shape[1]
    names = ("mean", "correlation", "reliability", "low", "high", "sd", "sd_low", "sd_high")
    if users < 3:
        return {"users": users, **dict.fromkeys(names, np.nan)}
    counts = np.vstack([
        np.ones(users),
        generator(seed, "reliability").multinomial(users, np.full(users, 1 / users), samples),
    ])  # fmt: skip
    halves = np.array([_correlations(*pair, counts) for pair in _halved(values)])
    known = ~np.isnan(halves)
    with np.errstate(invalid="ignore"):  # no two halves have enough users in common
        correlation = np.where(known, halves, 0.0).sum(axis=0) / known.sum(axis=0)
    stepped = 2 * correlation / (1 + correlation)
    spread = np.sqrt(_true_variance(values, counts))
    (low, high), (sd_low, sd_high) = _interval(stepped[1:]), _interval(spread[1:])
    numbers = (np.nanmean(values, axis=0).mean(), correlation[0], stepped[0], low, high, spread[0], sd_low, sd_high)
    return {"users": users, **dict(zip(names, map(float, numbers), strict=True))}


def _interval(drawn: np.ndarray) -> np.ndarray:
    """The middle 95 % of bootstrap samples, as far as they have a value; NaN if none has."""
    there = drawn[~np.isnan(drawn)]
    return np.quantile(there, [0.025, 0.975]) if len(there) else np.full(2, np.nan)


def oracle(values: np.ndarray, shares: Sequence[float]) -> pd.DataFrame:
    """What choosing the right users could gain: by the outcome itself, less its noise, and by a user's other folds.

    Args:
        values: uplift, shape (folds, users); NaN where a user has no list.
        shares: of these users, who may be handed over.

    Returns:
        share, raw (lists picked by their own outcome: mostly luck), corrected (users picked by their true mean uplift,
        taken as normal with the mean and the variance that are left when the sampling variance is taken off), held_out
        (users picked by their mean in one half of the folds, judged on the other half). Means over all lists; nobody
        with an expected loss is picked.
    """
    number, mean, _, between = moments(values)
    known, centre = values[~np.isnan(values)], np.average(mean, weights=number) if number.any() else 0.0
    pairs = [pair for one, other in _halved(values) for pair in ((one, other), (other, one))]
    rows = []
    for share in shares:
        held_out = [_picked(chosen, judged, share) for chosen, judged in pairs]
        rows.append({
            "share": share,
            "raw": _picked(known, known, share),
            "corrected": _normal(centre, np.sqrt(between), share),
            "held_out": float(np.mean(held_out)) if held_out else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _halved(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Users' means in one half of the folds and in the other, for every way to halve them; NaN where there is none."""
    folds = len(values)
    found = []
    for one in combinations(range(folds), folds // 2):
        if folds % 2 == 0 and 0 not in one:
            continue  # the same two halves, the other way round
        inside = np.isin(np.arange(folds), one)
        found.append((_means(values[inside]), _means(values[~inside])))
    return found


def _means(values: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    number = there.sum(axis=0)
    return np.where(number > 0, np.where(there, values, 0).sum(axis=0) / np.maximum(number, 1), np.nan)


def _correlations(one: np.ndarray, other: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's correlation over users, for each row of counts (how often a user is drawn)."""
    both = ~np.isnan(one) & ~np.isnan(other)
    x, y, weight = one[both], other[both], counts[:, both]
    total = weight.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = weight @ x / total, weight @ y / total
        covariance = weight @ (x * y) / total - mean_x * mean_y
        variance_x, variance_y = weight @ x**2 / total - mean_x**2, weight @ y**2 / total - mean_y**2
        return covariance / np.sqrt(variance_x * variance_y)


def _true_variance(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``moments``'s variance of users' true means, for each row of counts."""
    mean, number = _means(values), (~np.isnan(values)).sum(axis=0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    total = counts.sum(axis=1)
    noise = counts @ squares / (counts @ (number - 1))
    centre = counts @ mean / total
    observed = (counts @ mean**2 / total - centre**2) * total / (total - 1)
    return (observed - noise * (counts @ (1 / number)) / total).clip(0)


def _picked(chosen: np.ndarray, judged: np.ndarray, share: float) -> float:
    """The mean gain where the share with the highest values above 0 is picked, over all that are judged."""
    both = ~np.isnan(chosen) & ~np.isnan(judged)
    chosen, judged = chosen[both], judged[both]
    if not len(chosen):
        return np.nan
    first = np.argsort(-chosen, kind="stable")[: round(share * len(chosen))]
    return float(judged[first[chosen[first] > 0]].sum() / len(chosen))


def _normal(mean: float, sd: float, share: float) -> float:
    """E[uplift of the highest share of a normal distribution, as far as it is above 0], over everybody."""
    if sd == 0:
        return max(0.0, mean) * share
    picked = min(share, float(stats.norm.cdf(mean / sd)))
    return float(picked * mean + sd * stats.norm.pdf(stats.norm.ppf(picked)))
