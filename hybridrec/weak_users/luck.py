"""How many users are truly weak, once luck is taken off: the distribution of the true AUC behind the measured P(u).

P(u) is measured on a handful of items, so it spreads wider than the true AUC does, and a count of P(u) <= t_p counts
bad luck too. The distribution of the true AUC is estimated from all users together (empirical Bayes, deconvolution).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import interpolate, optimize, special, stats

from hybridrec.errors import ScoresError
from hybridrec.evaluation.statistics import POOLED
from hybridrec.randomness import generator
from hybridrec.weak_users.performance import evidence

_CELLS = 25  # on either side of t_p
_DEGREES = 7  # of freedom of the smooth distribution
_PENALTY = 0.1
_STEPS = 200  # of the EM algorithm
_EVIDENCE = ["performance", "pairs", "relevant", "irrelevant"]


@dataclass(frozen=True)
class Truth:
    """The distribution of the true AUC over users.

    Attributes:
        auc: values, increasing, shape (cells,).
        weight: the share of users at each, shape (cells,).
        below: which values are <= t_p, shape (cells,).
        posterior: the probability that a user's true AUC is <= t_p, given the user's P(u), indexed by user.
    """

    auc: np.ndarray
    weight: np.ndarray
    below: np.ndarray
    posterior: pd.Series

    @property
    def share(self) -> float:
        """The share of users whose true AUC is <= t_p."""
        return float(self.weight[self.below].sum())


def _cells(threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints and widths of cells from 0 to 1, such that t_p lies between two of them."""
    if not 0 < threshold < 1:
        raise ScoresError(f"t_p must lie between 0 and 1 for luck to be taken off, and is {threshold}.")
    edges = np.r_[np.linspace(0, threshold, _CELLS + 1), np.linspace(threshold, 1, _CELLS + 1)[1:]]
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def likelihood(known: pd.DataFrame, auc: np.ndarray) -> np.ndarray:
    """How likely each user's P(u) is for each true AUC, up to a factor of the user's own.

    Args:
        known: performance, pairs, relevant, irrelevant, as ``performance.evidence`` gives them.
        auc: true AUCs between 0 and 1, shape (cells,).

    Returns:
        Shape (users, cells); the largest value of each user is 1.

    The number of correctly ordered pairs is taken as beta-binomial, with the true AUC as its mean and the variance of
    Hanley & McNeil 1982 (eq. 1; binormal, see ``performance.sampling_variance``) at that AUC: a user with one pair is
    a coin toss, and pairs that share an item are correlated. A tie counts as half a pair.
    """
    pairs, relevant, irrelevant = (known[[name]].to_numpy(float) for name in _EVIDENCE[1:])
    correct = known[["performance"]].to_numpy() * pairs
    both_right = auc - 2 * special.owens_t(stats.norm.ppf(auc), 1 / np.sqrt(3))
    correlation = (relevant + irrelevant - 2) * (both_right - auc**2) / (auc * (1 - auc)) / np.maximum(pairs - 1, 1)
    size = 1 / correlation.clip(1e-6, 1 - 1e-6) - 1
    right, wrong = auc * size, (1 - auc) * size
    log = special.betaln(right + correct, wrong + pairs - correct) - special.betaln(right, wrong)
    return np.exp(log - log.max(axis=1, keepdims=True))


def _smooth(
    likely: np.ndarray, users: np.ndarray, auc: np.ndarray, width: np.ndarray, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The smooth distribution that explains the users best, and its coefficients.

    Args:
        likely: shape (rows, cells).
        users: how many users each row stands for.
        auc, width: of the cells.
        start: coefficients to start from.

    Source: Efron 2016, "Empirical Bayes deconvolution estimates" (g-modelling): the logarithm of the density is a
    natural cubic spline, fitted by maximum likelihood with a small penalty on the length of its coefficients.
    """
    basis = _spline(auc)
    prior = lambda values: special.softmax(basis @ values + np.log(width))  # noqa: E731

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weight = prior(values)
        each = likely @ weight
        length = np.sqrt((values**2).sum() + 1e-12)
        slope = (users / each) @ likely * weight - users.sum() * weight
        return -users @ np.log(each) + _PENALTY * length, -slope @ basis + _PENALTY * values / length

    begin = np.full(basis.shape[1], 1e-3) if start is None else start
    found = optimize.minimize(loss, begin, jac=True, method="BFGS", options={"gtol": 1e-2}).x
    return prior(found), found


def _spline(auc: np.ndarray) -> np.ndarray:
    """Orthonormal natural cubic splines, without the constant; shape (cells, _DEGREES)."""
    knots = np.quantile(auc, np.linspace(0, 1, _DEGREES + 1))
    curves = interpolate.CubicSpline(knots, np.eye(_DEGREES + 1), bc_type="natural")(auc)
    return np.linalg.svd(curves - curves.mean(axis=0), full_matrices=False)[0][:, :_DEGREES]


def _any_shape(
    likely: np.ndarray, users: np.ndarray, below: np.ndarray, share: float | None = None
) -> tuple[float, float]:
    """The highest log-likelihood of any distribution, and its share ``below``; given ``share``, of those with that one.

    Source: Laird 1978, the nonparametric maximum likelihood estimate of a mixing distribution, by EM.
    """
    weight = np.full(len(below), 1 / len(below))
    for _ in range(_STEPS):
        weight = weight * ((users / (likely @ weight)) @ likely) / users.sum()
        if share is not None:
            weight *= np.where(below, share / weight[below].sum(), (1 - share) / weight[~below].sum())
    return float(users @ np.log(likely @ weight)), float(weight[below].sum())


def bounds(likely: np.ndarray, users: np.ndarray, below: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The smallest and the largest share ``below`` t_p that the users do not contradict, whatever the distribution.

    Args:
        likely: shape (rows, cells).
        users: how many users each row stands for.
        below: which cells are <= t_p.
        level: of confidence.

    Returns:
        The shares at which twice the log-likelihood is a chi-squared quantile below its maximum (profile likelihood).

    Nobody can tell a true AUC of 0.49 from one of 0.51, so these are wide where many users are near t_p.
    """
    best, inside = _any_shape(likely, users, below)
    least = best - stats.chi2.ppf(level, 1) / 2

    def edge(outside: float) -> float:
        near = inside
        for _ in range(9):
            middle = (near + outside) / 2
            if _any_shape(likely, users, below, middle)[0] < least:
                outside = middle
            else:
                near = middle
        return outside

    return edge(0.0), edge(1.0)


def truth(known: pd.DataFrame, threshold: float) -> Truth:
    """The distribution of the true AUC over users.

    Args:
        known: performance, pairs, relevant, irrelevant, indexed by user; users without a pair must have been dropped.
        threshold: t_p, between 0 and 1.

    Raises:
        ScoresError: there is no user, or t_p is not between 0 and 1.
    """
    if known.empty:
        raise ScoresError("no user has a liked and another item to be judged by, so there is no luck to take off.")
    auc, width = _cells(threshold)
    likely = likelihood(known, auc)
    weight, _ = _smooth(likely, np.ones(len(known)), auc, width)
    joint = likely * weight
    below = auc <= threshold
    return Truth(auc, weight, below, pd.Series(joint[:, below].sum(axis=1) / joint.sum(axis=1), known.index))


def posterior(judged: pd.DataFrame, users: pd.Index, threshold: float) -> pd.DataFrame:
    """The probability that each inactive user's true AUC is <= t_p, given P(u) and what is known of all of them.

    Args:
        judged, users, threshold: as in ``truly_weak``.

    Returns:
        Columns recommender, user, weak (the probability); users without a pair are left out.
    """
    parts = {
        name: truth(evidence(own).dropna(), threshold).posterior.rename("weak")
        for name, own in judged[judged["user"].isin(users)].groupby("recommender", sort=False)
    }
    return pd.concat(parts, names=["recommender"]).reset_index()


def truly_weak(
    judged: pd.DataFrame, users: pd.Index, threshold: float, seed: int, samples: int = 200
) -> pd.DataFrame:  # fmt: skip
    """For each recommender, how many of the inactive users are truly at or below t_p, beside the number flagged.

    Args:
        judged: recommender, user, score, relevant (and fold): items that had no part in the fit that scored them.
        users: the inactive users.
        threshold: t_p, between 0 and 1.
        seed: the experiment's root seed; it draws the resamples.
        samples: resamples of users behind each interval.

    Returns:
        One row a recommender and one for all pooled (POOLED, the mean over recommenders, on the same resamples of
        users): recommender, users (with a pair), no_pair (inactive users without one, who are not judged), flagged
        (P(u) <= t_p), truly_weak and its 95 % interval truly_weak_low, truly_weak_high (percentiles over resamples of
        users, if true AUCs spread smoothly), at_least and at_most (95 % bounds for a distribution of any shape, see
        ``bounds``; for the pooled row the means of the recommenders'). All are numbers of users.

    Raises:
        ScoresError: as ``truth``.
    """
    auc, width = _cells(threshold)
    below = auc <= threshold
    rows, spread = [], []
    rng = generator(seed, "luck", "resamples")
    drawn = pd.DataFrame(rng.multinomial(len(users), np.full(len(users), 1 / len(users)), samples).T, index=users)
    for name, own in judged[judged["user"].isin(users)].groupby("recommender", sort=False):
        known = evidence(own).dropna()
        if known.empty:
            raise ScoresError(f"{name}: no user has a liked and another item to be judged by.")
        # Users with the same evidence are one row: on short histories that is most of them.
        alike = known.groupby(_EVIDENCE, sort=True)
        likely = likelihood(alike.size().reset_index(), auc)
        counts = alike.size().to_numpy(float)
        weight, start = _smooth(likely, counts, auc, width)
        resampled = drawn.loc[known.index].groupby(alike.ngroup()).sum().to_numpy(float)
        shares = [_smooth(likely, one, auc, width, start)[0][below].sum() for one in resampled.T]
        spread.append(np.array(shares) * len(known))
        least, most = bounds(likely, counts, below)
        row = {"recommender": name, "users": len(known), "no_pair": len(users) - len(known)}
        row |= {
            "flagged": int((known["performance"] <= threshold).sum()),
            "truly_weak": weight[below].sum() * len(known),
        }
        rows.append(row | {"at_least": least * len(known), "at_most": most * len(known)})
    table = pd.DataFrame(rows)
    table = pd.concat([table, table.mean(numeric_only=True).to_frame().T.assign(recommender=POOLED)], ignore_index=True)
    low, high = np.quantile([*spread, np.mean(spread, axis=0)], [0.025, 0.975], axis=1)
    table.insert(5, "truly_weak_low", low)
    table.insert(6, "truly_weak_high", high)
    return table
