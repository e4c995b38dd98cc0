"""What the published protocol reports when nobody is weak: group sizes and candidate counts predict its gain.

The model knows one thing of a recommender, its mean AUC, and gives every user exactly that quality. Whoever is flagged
in it was unlucky with a handful of items, and whatever a random order gains on those items is regression to the mean.
"""

from functools import cache
from math import comb

import numpy as np
import pandas as pd
from scipy import stats

from hybridrec.errors import ScoresError
from hybridrec.evaluation import metrics

_BLOCK = 2_000_000  # scores drawn at once: 16 MB


def candidate_counts(candidates: pd.DataFrame) -> pd.DataFrame:
    """How many relevant and irrelevant candidates each user has.

    Args:
        candidates: columns user, relevant (bool), one row a candidate.

    Returns:
        Columns user, relevant, irrelevant; one row a user.
    """
    counts = candidates.groupby("user")["relevant"].agg(["sum", "size"]).astype(int)
    return pd.DataFrame({"relevant": counts["sum"], "irrelevant": counts["size"] - counts["sum"]}).reset_index()


def simulate_auc(
    relevant: int, irrelevant: int, auc: float | np.ndarray, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """AUCs of one user whose true AUC is known: scores N(d, 1) of relevant items, N(0, 1) of the others.

    Args:
        relevant: number of relevant items, at least 1.
        irrelevant: number of the others, at least 1.
        auc: the true AUC = Phi(d / sqrt 2), from 0 to 1, or one for each draw; at the ends d is infinite, and every
            pair is wrong or right.
        rng: draws the scores, in blocks: memory does not grow with ``draws``.
        draws: how many AUCs.

    Returns:
        Shape (draws,).

    Raises:
        ScoresError: ``auc`` is not between 0 and 1.

    Source: the equal-variance binormal model (Green & Swets 1966).
    """
    if not ((np.asarray(auc) >= 0) & (np.asarray(auc) <= 1)).all():
        raise ScoresError(f"the mean AUC must lie between 0 and 1, and is {auc}: are the scores judged rightly?")
    shift = np.broadcast_to(np.sqrt(2) * stats.norm.ppf(auc), draws)
    size = max(1, _BLOCK // (relevant + irrelevant))
    parts = []
    for start in range(0, draws, size):
        scores = rng.standard_normal((min(size, draws - start), relevant + irrelevant))
        scores[:, :relevant] += shift[start : start + len(scores), None]
        ranks = scores.argsort(axis=1).argsort(axis=1)[:, :relevant] + 1
        parts.append(ranks.sum(axis=1) - relevant * (relevant + 1) / 2)
    return np.concatenate(parts) / (relevant * irrelevant)


@cache
def random_order_share(relevant: int, irrelevant: int, threshold: float) -> float:
    """Exact probability that a random order of a user's candidates has AUC <= threshold.

    Args:
        relevant: number of relevant items, at least 1.
        irrelevant: number of the others, at least 1.
        threshold: t_p, from 0 to 1.

    Source: Mann & Whitney 1947, the null distribution of U = AUC x pairs. The number of orders with each U are the
    coefficients of the Gaussian binomial, prod (1 - q^(irrelevant + i)) / (1 - q^i) for i = 1 .. relevant.
    """
    few, many = sorted((relevant, irrelevant))  # U has the same distribution with the two exchanged
    most = min(int(np.floor(threshold * few * many + 1e-9)), few * many)
    orders = np.array([1] + [0] * most, dtype=object)  # whole numbers of any size: orders with U = 0 .. most
    for i in range(1, few + 1):
        orders[many + i :] -= orders[: max(0, most + 1 - many - i)].copy()
        padded = np.append(orders, [0] * (-len(orders) % i))
        orders = padded.reshape(-1, i).cumsum(axis=0).ravel()[: most + 1]
    return orders.sum() / comb(few + many, few)


def predict(
    counts: pd.DataFrame, auc: float, threshold: float, rng: np.random.Generator, draws: int = 10_000
) -> dict[str, float]:
    """What the published protocol would report of a random order in the model's place, were all users equal.

    Args:
        counts: user, relevant, irrelevant, as ``candidate_counts``: the eligible (inactive) users only. Those without
            a pair can not be flagged.
        auc: the true AUC given to every user: the recommender's mean, from 0 to 1.
        threshold: t_p; a user with AUC <= t_p is flagged.
        rng: draws the scores. Users with the same two counts have one distribution, so they share their draws.
        draws: simulated users per pair of counts.

    Returns:
        flagged (expected number of users), flagged_sd (its standard deviation), before_auc (mean AUC of the flagged),
        after_auc (of a random order: exactly 0.5), gain (after - before), still_weak (share of the flagged with
        AUC <= t_p in a random order too). AUCs are from 0 to 1, and NaN where nobody is flagged.

    Scores of the model have no ties. Those of real recommenders can: an ItemKNN that knows no neighbour scores items
    alike, a tie counts one half, and ties at exactly t_p = 0.5 are flagged; that much more may be observed.
    """
    usable = counts[(counts["relevant"] > 0) & (counts["irrelevant"] > 0)]
    rows = []
    # Sorted by groupby: the result does not depend on the order of users.
    for (relevant, irrelevant), users in usable.groupby(["relevant", "irrelevant"]).size().items():
        drawn = simulate_auc(relevant, irrelevant, auc, rng, draws)
        low = drawn <= threshold
        share = low.mean()
        rows.append((users * share, users * share * (1 - share), users * (drawn * low).mean(),
                     users * share * random_order_share(relevant, irrelevant, threshold)))  # fmt: skip
    flagged, variance, auc_sum, still = np.array(rows).reshape(-1, 4).sum(axis=0)
    return _row(flagged, auc_sum, still) | {"flagged_sd": float(np.sqrt(variance))}


def flagged_by_luck(
    judged: pd.DataFrame, auc: float, threshold: float, rng: np.random.Generator, draws: int = 1000
) -> tuple[float, float]:
    """How many users would be flagged on scores out of fold, were all of them served alike.

    Args:
        judged: user, fold, relevant: the items by which the eligible (inactive) users are judged.
        auc: the true AUC given to every user, from 0 to 1.
        threshold: t_p; a user with P(u) <= t_p is flagged. Pairs are formed within a fold.
        rng: draws the scores. Folds with the same two counts share their draws, in another order for each.
        draws: simulated P(u) per user.

    Returns:
        The expected number of users, and its standard deviation.
    """
    counts = judged.groupby(["user", "fold"])["relevant"].agg(["sum", "size"]).astype(int)
    counts = counts.assign(irrelevant=counts["size"] - counts["sum"]).query("sum > 0 and irrelevant > 0")
    shapes = list(zip(counts["sum"], counts["irrelevant"], strict=True))
    correct = {shape: simulate_auc(*shape, auc, rng, draws) * shape[0] * shape[1] for shape in sorted(set(shapes))}
    share = []
    for _, folds in pd.Series(shapes, counts.index, dtype=object).groupby("user"):
        pairs = sum(relevant * irrelevant for relevant, irrelevant in folds)
        drawn = sum(rng.permutation(correct[shape]) for shape in folds)
        share.append((drawn <= threshold * pairs + 1e-9).mean())
    return float(np.sum(share)), float(np.sqrt(np.sum([p * (1 - p) for p in share])))


def observed(judged: pd.DataFrame, users: pd.Index, threshold: float) -> dict[str, float]:
    """The same numbers from a recommender's real scores.

    Args:
        judged: user, score, relevant: the test items, as ranked by one recommender.
        users: the eligible (inactive) users.
        threshold: t_p.

    Returns:
        The keys of ``predict`` except flagged_sd. after_auc and still_weak are those of a
        random order, exactly and not by drawing.
    """
    rows = judged[judged["user"].isin(users)]
    auc = metrics.auc(rows)
    flagged = auc[auc <= threshold]
    counts = candidate_counts(rows[rows["user"].isin(flagged.index)])
    still = [
        random_order_share(*both, threshold) for both in counts[["relevant", "irrelevant"]].itertuples(index=False)
    ]
    return _row(len(flagged), flagged.sum(), sum(still))


def _row(flagged: float, auc_sum: float, still: float) -> dict[str, float]:
    before, share = (auc_sum / flagged, still / flagged) if flagged else (np.nan, np.nan)
    after = 0.5 if flagged else np.nan
    values = {"flagged": flagged, "before_auc": before, "after_auc": after, "gain": after - before, "still_weak": share}
    return {name: float(value) for name, value in values.items()}


def compare(
    judged: pd.DataFrame,
    users: pd.Index,
    threshold: float,
    rng: np.random.Generator,
    draws: int = 10_000,
    quality_of: pd.Index | None = None,
) -> pd.DataFrame:
    """Predicted beside observed, for each recommender.

    Args:
        judged: recommender, user, score, relevant: the test items of all users.
        users: the eligible (inactive) users.
        threshold: t_p.
        rng: draws the scores.
        draws: simulated users per pair of counts.
        quality_of: users whose mean AUC everybody gets. None: all users, since the model says that they are alike;
            ``users`` instead allows that inactive users are, all of them, served a little worse.

    Returns:
        One row a recommender: recommender, mean_auc, then each key of ``predict`` as predicted_KEY and observed_KEY.
    """
    rows = []
    for name, own in judged.groupby("recommender", sort=False):
        auc = metrics.auc(own)
        mean = float((auc if quality_of is None else auc.reindex(quality_of)).mean())
        counts = candidate_counts(own[own["user"].isin(users)])
        both = {"predicted": predict(counts, mean, threshold, rng, draws), "observed": observed(own, users, threshold)}
        values = {f"{kind}_{key}": value for kind, row in both.items() for key, value in row.items()}
        rows.append({"recommender": name, "mean_auc": mean, **values})
    return pd.DataFrame(rows)
