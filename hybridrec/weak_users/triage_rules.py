"""Other rules for flagging users, and how well any rule finds those who turn out weak on items it never saw."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hybridrec.evaluation import metrics
from hybridrec.weak_users import triage
from hybridrec.weak_users.performance import (
    empirical_bayes,
    evidence,
    performance_by_recommender,
    sampling_variance,
    upper_bound,
)


def shrunken(judged: pd.DataFrame, level: float = 0.8) -> pd.DataFrame:
    """Shrunken P(u) and its upper bound for every recommender's users.

    Args:
        judged: recommender, user, score, relevant, and fold where the scores are out of fold.
        level: of the bound.

    Returns:
        Columns recommender, user, score (the shrunken P(u)), upper; users without a pair are left out.
    """
    parts = {}
    for name, own in judged.groupby("recommender", sort=False):
        known = evidence(own)
        estimate = empirical_bayes(known["performance"], sampling_variance(known)).dropna()
        upper = upper_bound(estimate["performance"], estimate["sd"], level)
        parts[name] = pd.DataFrame({"score": estimate["performance"], "upper": upper})
    return pd.concat(parts, names=["recommender"]).reset_index()


# --- how well a rule finds weak users -------------------------------------------------------------------------------


def detection(flagged: pd.DataFrame, test_auc: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Flags against weakness on test items that had no part in the flagging (test AUC <= threshold).

    Args:
        flagged: rule, recommender, user, weak (the flag); optionally score: the rule's estimate of P(u), low for
            weak. One row a user the rule could have flagged: leave out the active ones.
        test_auc: recommender, user, auc.
        threshold: t_p on the test.

    Returns:
        One row a rule and recommender: users (with a test AUC), left_out (those without), flagged, test_weak, hits
        (both), base_rate (of test_weak: the precision of flagging at random), precision (NaN if nobody is flagged),
        recall (NaN if nobody is weak), f1; and with scores ranking_auc: the probability that a user weak on the test
        has a lower score than one who is not (users without a score left out).

    The test decides on a handful of items, so it calls many good users weak: even a rule that knew every user's true
    quality would stay far below a precision and recall of 1.
    """
    keys = ["rule", "recommender"]
    table = flagged.merge(test_auc[["recommender", "user", "auc"]], on=["recommender", "user"], how="left")
    left_out = table["auc"].isna().groupby([table[key] for key in keys], sort=False).sum()
    table = table.dropna(subset=["auc"])
    flag, weak = table["weak"].astype(bool), table["auc"] <= threshold
    counts = table[keys].assign(users=1, flagged=flag.astype(int), test_weak=weak.astype(int), hits=(flag & weak) * 1)
    sums = counts.groupby(keys, sort=False).sum().reindex(left_out.index, fill_value=0)
    sums.insert(1, "left_out", left_out)
    rows = sums.assign(
        base_rate=_ratio(sums["test_weak"], sums["users"]),
        precision=_ratio(sums["hits"], sums["flagged"]),
        recall=_ratio(sums["hits"], sums["test_weak"]),
        f1=_ratio(2 * sums["hits"], sums["flagged"] + sums["test_weak"]),
    )
    if "score" in table:
        scored = table.assign(score=-table["score"], relevant=weak).dropna(subset=["score"])
        pairs = metrics.auc_pairs(scored, keys).reindex(rows.index)
        rows["ranking_auc"] = _ratio(pairs["correct"], pairs["pairs"])
    return rows.reset_index()


def _ratio(part: pd.Series, whole: pd.Series) -> pd.Series:
    return part / whole.where(whole > 0)


def evidence_sensitivity(
    out_of_fold: pd.DataFrame, test: pd.DataFrame, inactive: pd.Index, threshold: float, likes: Sequence[float],
    folds: Sequence[int],
) -> pd.DataFrame:  # fmt: skip
    """What would have been flagged with another meaning of a like, or with less evidence. Nothing is fitted again.

    The recommenders stay those that were fitted; a like threshold changes what they are judged by, on known ratings
    and on the test alike.

    Args:
        out_of_fold: recommender, user, fold, score, rating: known ratings.
        test: recommender, user, score, rating: test items.
        inactive: users that can be weak.
        threshold: t_p.
        likes: ratings from which an item counts as liked.
        folds: how many of the folds, from the first, are looked at.

    Returns:
        One row a recommender, like threshold and number of folds: recommender, like_threshold, folds, weak (users
        flagged), flagged (those of them with a test AUC), flagged_auc, rest_auc (the other inactive users'), gap.
    """
    known, asked = (rows[rows["user"].isin(inactive)] for rows in (out_of_fold, test))
    parts = []
    for like in likes:
        auc = performance_by_recommender(asked.assign(relevant=asked["rating"] >= like))
        auc = auc.rename(columns={"performance": "auc"}).drop(columns="pairs")
        for count in folds:
            seen = known[known["fold"] < count]
            record = performance_by_recommender(seen.assign(relevant=seen["rating"] >= like))
            flags = record.assign(weak=record["performance"] <= threshold, rule="")
            weak = flags.groupby("recommender", sort=False)["weak"].sum().rename("weak")
            rows = triage.reliability(flags, auc).drop(columns="rule").merge(weak, on="recommender")
            parts.append(rows.assign(like_threshold=like, folds=count))
    columns = ["recommender", "like_threshold", "folds", "weak", "flagged", "flagged_auc", "rest_auc", "gap"]
    return pd.concat(parts, ignore_index=True)[columns]


def sensitivity(
    table: pd.DataFrame, test_auc: pd.DataFrame, performance_grid: np.ndarray, sparsity_grid: np.ndarray
) -> pd.DataFrame:
    """What other thresholds would have flagged. Nothing is fitted again: P(u) and S_I(u) stay as they are.

    Args:
        table: recommender, user, performance, sparsity: a triage table of one protocol.
        test_auc: recommender, user, auc.
        performance_grid: values of t_p, shape (p,).
        sparsity_grid: values of t_s, shape (s,).

    Returns:
        p x s rows a recommender: recommender, performance_threshold, sparsity_threshold, weak (users flagged),
        flagged (those of them with a test AUC), flagged_auc, rest_auc (everyone else's, active or not), gap.
    """
    merged = table.merge(test_auc[["recommender", "user", "auc"]], on=["recommender", "user"], how="left")
    grid = pd.MultiIndex.from_product(
        [performance_grid, sparsity_grid], names=["performance_threshold", "sparsity_threshold"]
    ).to_frame(index=False)
    parts = []
    for name, rows in merged.groupby("recommender", sort=False):
        # Counting over users is a matrix product: (p, users) of the poor times (users, s) of the inactive.
        poor = (rows["performance"].to_numpy() <= np.asarray(performance_grid)[:, None]).astype(float)
        sparse = (rows["sparsity"].to_numpy()[:, None] > np.asarray(sparsity_grid)).astype(float)
        auc, known = rows["auc"].fillna(0).to_numpy(), rows["auc"].notna().to_numpy(float)
        weak, flagged, total = ((poor * weight) @ sparse for weight in (np.ones(len(rows)), known, auc))
        with np.errstate(invalid="ignore"):  # 0 / 0: nobody flagged, or nobody left
            means = {"flagged_auc": total / flagged, "rest_auc": (auc.sum() - total) / (known.sum() - flagged)}
        columns = {"weak": weak.astype(int), "flagged": flagged.astype(int), **means}
        parts.append(grid.assign(recommender=name, **{key: value.ravel() for key, value in columns.items()}))
    result = pd.concat(parts, ignore_index=True).assign(gap=lambda rows: rows["rest_auc"] - rows["flagged_auc"])
    return result[["recommender", *[column for column in result if column != "recommender"]]]
