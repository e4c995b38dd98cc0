"""P(u): how well a recommender serves each user, how uncertain that is, and what is left once luck is taken off."""

import numpy as np
import pandas as pd
from scipy import special, stats

from hybridrec.evaluation import metrics

_TINY = 1e-9  # variance of a P(u) that is known exactly: keeps weights finite


def performance(judged: pd.DataFrame) -> pd.DataFrame:
    """P(u): the share of a user's (relevant, irrelevant) pairs that the recommender orders correctly.

    Args:
        judged: columns user, score, relevant, and fold where the scores are out of fold.

    Returns:
        Columns performance (NaN without a pair) and pairs, indexed by user.

    Pairs are only formed within a fold. Two folds are scored by two models, and the fold that holds out more of a
    user's likes belongs to the model that has seen fewer of them and scores that user lower: comparing across folds
    would make every recommender look worse than it is, most of all for short histories.

    Source: Kaur & Shah 2024, section 3.1 (AUC as P(u)).
    """
    by = ["user", "fold"] if "fold" in judged else "user"
    counts = metrics.auc_pairs(judged, by).groupby("user").sum()
    value = counts["correct"] / counts["pairs"].where(counts["pairs"] > 0)
    return pd.DataFrame({"performance": value, "pairs": counts["pairs"]})


def performance_by_recommender(judged: pd.DataFrame) -> pd.DataFrame:
    """``performance`` for every value of the column ``recommender``, stacked: recommender, user, performance, pairs."""
    parts = {name: performance(rows) for name, rows in judged.groupby("recommender", sort=False)}
    return pd.concat(parts, names=["recommender"]).reset_index()


def evidence(judged: pd.DataFrame) -> pd.DataFrame:
    """P(u) with what its uncertainty depends on.

    Args:
        judged: columns user, score, relevant, and fold where the scores are out of fold.

    Returns:
        Columns performance (NaN without a pair), pairs, relevant, irrelevant, indexed by user. The last two are the
        numbers of items in a pair's own fold, averaged over pairs (without folds: simply the user's two numbers).
    """
    return evidence_of(fold_counts(judged))


def fold_counts(judged: pd.DataFrame) -> pd.DataFrame:
    """All that P(u) and its uncertainty need of a user's items: three numbers for each fold.

    Args:
        judged: columns user, score, relevant, and fold where the scores are out of fold.

    Returns:
        Columns correct (pairs in the right order, a tie counting one half), relevant and irrelevant (items), as
        float64, indexed by user, or by user and fold.
    """
    by = ["user", "fold"] if "fold" in judged else ["user"]
    counts = judged.groupby(by)["relevant"].agg(["sum", "size"]).astype(float)
    counts = pd.DataFrame({"relevant": counts["sum"], "irrelevant": counts["size"] - counts["sum"]})
    return metrics.auc_pairs(judged, by)[["correct"]].join(counts)


def evidence_of(counts: pd.DataFrame) -> pd.DataFrame:
    """``evidence`` from what ``fold_counts`` returned; the counts of different users may be put together."""
    items = counts[["relevant", "irrelevant"]]
    pairs = (items["relevant"] * items["irrelevant"]).rename("pairs")
    sums = items.mul(pairs, axis=0).assign(pairs=pairs, correct=counts["correct"]).groupby("user").sum()
    known = sums["pairs"].where(sums["pairs"] > 0)
    table = pd.DataFrame({"performance": sums["correct"] / known, "pairs": sums["pairs"]})
    return table.join(sums[["relevant", "irrelevant"]].div(known, axis=0))


def sampling_variance(evidence: pd.DataFrame) -> pd.Series:
    """Variance of each P(u) around the user's true AUC.

    Args:
        evidence: performance, pairs, relevant, irrelevant, indexed by user.

    Returns:
        Variances, NaN without a pair.

    Pairs that share an item are not independent: a user with 5 likes and 20 dislikes has 100 pairs, but no more than
    25 items to learn from. The formula is taken at the mean P, not at the user's own: there, a user with P(u) = 0 on
    two pairs would have no variance at all. Folds hold different items, so their errors are taken as independent.

    Source: Hanley & McNeil 1982, eq. 1. Their Q1 and Q2 (two pairs that share an item are both right) come from the
    equal-variance binormal model, as in ``nulls``: both are Phi2(h, h; 1/2) with h = Phi^-1(AUC), by Owen's T (1956).
    """
    auc = evidence["performance"].mean()
    both_right = auc - 2 * special.owens_t(stats.norm.ppf(auc), 1 / np.sqrt(3))
    sharing = evidence["relevant"] + evidence["irrelevant"] - 2
    return (auc * (1 - auc) + sharing * (both_right - auc**2)) / evidence["pairs"].where(evidence["pairs"] > 0)


def between_variance(performance: pd.Series, variance: pd.Series) -> float:
    """How much users truly differ: the spread of P(u) that sampling does not explain, never below 0.

    Args:
        performance: P(u), NaN where undefined (left out).
        variance: sampling variance of each.

    Returns:
        Variance of the true P(u) over users; 0 for fewer than two users.

    Source: the method of moments of DerSimonian & Laird 1986.
    """
    value = performance.dropna()
    if len(value) < 2:
        return 0.0
    weight = 1 / variance[value.index].clip(lower=_TINY)
    spread = (weight * (value - np.average(value, weights=weight)) ** 2).sum()
    return float(max(0.0, (spread - (len(value) - 1)) / (weight.sum() - (weight**2).sum() / weight.sum())))


def empirical_bayes(performance: pd.Series, variance: pd.Series) -> pd.DataFrame:
    """P(u) shrunken towards the mean as strongly as the data ask for, and how sure we then are.

    Args:
        performance: P(u), NaN where undefined (stays NaN).
        variance: sampling variance of each, same index (``sampling_variance``).

    Returns:
        Columns performance (posterior mean) and sd (posterior standard deviation), indexed by user. Where users do
        not differ beyond chance, everybody gets the mean, with sd 0.

    The mean is the precision-weighted one, and taken as known: sd leaves out its own small uncertainty.

    Source: normal-normal empirical Bayes (Efron & Morris 1975).
    """
    between = between_variance(performance, variance)
    variance = variance.clip(lower=_TINY)
    weight = (1 / (variance + between)).where(performance.notna(), 0)
    mean = (weight * performance).sum() / weight.sum()
    kept = between / (between + variance)
    return pd.DataFrame(
        {"performance": mean + kept * (performance - mean), "sd": np.sqrt(kept * variance).where(performance.notna())}
    )


def upper_bound(performance: pd.Series, sd: pd.Series, level: float = 0.8) -> pd.Series:
    """What a user's true P(u) lies below with probability ``level``: flag those whose bound is <= t_p, and few are.

    Args:
        performance: estimates of P(u), best shrunken ones (``empirical_bayes``).
        sd: their standard deviations.
        level: of the one-sided bound, between 0 and 1 (0.5 returns ``performance``).

    Returns:
        Bounds, at most 1, NaN where P(u) is.
    """
    return (performance + stats.norm.ppf(level) * sd).clip(upper=1.0)
