"""Ranking quality, for all users at once. Ties are worth their expectation over random tie-breaking, never their luck.

Every function takes columns (user, score, relevant), one row a candidate, and returns one value a user. A user for
whom a metric is undefined (no relevant item; for AUC also no irrelevant one) gets NaN, never 0.
"""

import numpy as np
import pandas as pd
from scipy.special import gammaln


def auc_pairs(table: pd.DataFrame, by: str | list[str] = "user") -> pd.DataFrame:
    """Correctly ordered (relevant, irrelevant) pairs, a tie counting one half, and the number of pairs.

    Args:
        table: columns ``by``, score, relevant (bool).
        by: what a ranking is: a user, or a (user, fold).

    Returns:
        Columns correct, pairs, indexed by ``by``. AUC is their ratio.

    Source: Mann-Whitney U; Kaur & Shah 2024, eq. 1 (performance P(u)).
    """
    keys = [table[key] for key in ([by] if isinstance(by, str) else by)]
    ranks = table["score"].groupby(keys).rank(method="average")
    relevant = table["relevant"].astype(float)
    sums = pd.DataFrame({"positive": relevant, "rank": ranks * relevant, "n": 1.0}).groupby(keys).sum()
    positive = sums["positive"]
    return pd.DataFrame(
        {"correct": sums["rank"] - positive * (positive + 1) / 2, "pairs": positive * (sums["n"] - positive)}
    )


def auc(table: pd.DataFrame) -> pd.Series:
    """Area under the ROC curve of each user, ties counting one half; NaN where there is no pair."""
    counts = auc_pairs(table)
    return (counts["correct"] / counts["pairs"].where(counts["pairs"] > 0)).rename("auc")


def _tie_groups(table: pd.DataFrame) -> pd.DataFrame:
    """One row per (user, score) group in descending order of score: its relevant, its size, its first position."""
    groups = table.assign(relevant=table["relevant"].astype(float)).groupby(["user", "score"])["relevant"]
    ties = groups.agg(["sum", "size"]).reset_index().sort_values(["user", "score"], ascending=[True, False])
    ties["start"] = ties.groupby("user")["size"].cumsum() - ties["size"]
    return ties.rename(columns={"sum": "relevant"})


def _gain_at_k(table: pd.DataFrame, weights: np.ndarray) -> pd.Series:
    """Expected sum over the first len(weights) positions of weight x relevance, one value a user.

    Within a group of ties each item is equally likely at each position, so the group's relevant items share its
    positions' weights evenly (McSherry & Najork 2008).
    """
    ties = _tie_groups(table)
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    start = np.minimum(ties["start"].to_numpy(), len(weights))
    end = np.minimum((ties["start"] + ties["size"]).to_numpy(), len(weights))
    gain = ties["relevant"] * (cumulative[end] - cumulative[start]) / ties["size"]
    return gain.groupby(ties["user"]).sum()


def _relevant_count(table: pd.DataFrame) -> pd.Series:
    return table["relevant"].astype(float).groupby(table["user"]).sum()


def ndcg_at_k(table: pd.DataFrame, k: int = 10) -> pd.Series:
    """Normalised discounted cumulative gain with binary relevance and log2 discount (Jarvelin & Kekalainen 2002)."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    relevant = _relevant_count(table)
    ideal = np.concatenate([[np.nan], np.cumsum(discounts)])[np.minimum(relevant, k).astype(int)]
    return (_gain_at_k(table, discounts) / ideal).rename(f"ndcg_at_{k}")


def recall_at_k(table: pd.DataFrame, k: int = 10) -> pd.Series:
    """Share of a user's relevant items among the first k."""
    relevant = _relevant_count(table)
    return (_gain_at_k(table, np.ones(k)) / relevant.where(relevant > 0)).rename(f"recall_at_{k}")


def hit_rate_at_k(table: pd.DataFrame, k: int = 10) -> pd.Series:
    """Probability that at least one relevant item is among the first k (hypergeometric where ties straddle k)."""
    ties = _tie_groups(table)
    drawn = np.clip(k - ties["start"], 0, ties["size"])
    irrelevant = ties["size"] - ties["relevant"]
    possible = irrelevant >= drawn
    free = irrelevant.where(possible, drawn)  # keeps log_comb defined where a miss is impossible
    log_miss = np.where(possible, _log_comb(free, drawn) - _log_comb(ties["size"], drawn), -np.inf)
    missed = np.exp(pd.Series(log_miss, index=ties.index).groupby(ties["user"]).sum())
    return (1 - missed).where(_relevant_count(table) > 0).rename(f"hit_rate_at_{k}")


def _log_comb(n: pd.Series, k: pd.Series) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def per_user(table: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """AUC and NDCG@k of every user.

    Returns:
        Columns auc, pairs, ndcg_at_k, indexed by user.
    """
    counts = auc_pairs(table)
    value = counts["correct"] / counts["pairs"].where(counts["pairs"] > 0)
    return pd.DataFrame({"auc": value, "pairs": counts["pairs"], f"ndcg_at_{k}": ndcg_at_k(table, k)})


def per_user_by_ranker(table: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """``per_user`` of every ranking in a table with columns ranker and draw, all at once.

    Returns:
        Columns ranker, draw, user, auc, pairs, ndcg_at_k.
    """
    keys = ["ranker", "draw", "user"]
    number = table.groupby(keys, sort=False).ngroup()
    names = table[keys].assign(number=number).drop_duplicates("number").set_index("number")
    return names.join(per_user(table[["score", "relevant"]].assign(user=number), k)).reset_index(drop=True)
