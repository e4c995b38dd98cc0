"""P(u) of users whose true AUC is known, drawn by chance, and how many of them bad luck alone would flag."""

import numpy as np
import pandas as pd
from scipy import stats

from hybridrec.errors import ScoresError

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


def flagged_by_luck(
    counts: pd.DataFrame, auc: float, threshold: float, rng: np.random.Generator, draws: int = 1000
) -> tuple[float, float]:
    """How many users would be flagged on scores out of fold, were all of them served alike.

    Args:
        counts: relevant, irrelevant, indexed by user and fold: how many items the eligible (inactive) users are
            judged by (``performance.fold_counts``).
        auc: the true AUC given to every user, from 0 to 1.
        threshold: t_p; a user with P(u) <= t_p is flagged. Pairs are formed within a fold.
        rng: draws the scores. Folds with the same two counts share their draws, in another order for each.
        draws: simulated P(u) per user.

    Returns:
        The expected number of users, and its standard deviation.
    """
    counts = counts[["relevant", "irrelevant"]].astype(int).query("relevant > 0 and irrelevant > 0")
    shapes = list(zip(counts["relevant"], counts["irrelevant"], strict=True))
    correct = {shape: simulate_auc(*shape, auc, rng, draws) * shape[0] * shape[1] for shape in sorted(set(shapes))}
    share = []
    for _, folds in pd.Series(shapes, counts.index, dtype=object).groupby("user"):
        pairs = sum(relevant * irrelevant for relevant, irrelevant in folds)
        drawn = sum(rng.permutation(correct[shape]) for shape in folds)
        share.append((drawn <= threshold * pairs + 1e-9).mean())
    return float(np.sum(share)), float(np.sqrt(np.sum([p * (1 - p) for p in share])))
