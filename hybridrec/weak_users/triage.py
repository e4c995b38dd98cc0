"""Phase one: who is served badly. P(u), S_I(u), the thresholds, and the two protocols that decide on weak users."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hybridrec.evaluation import metrics


@dataclass(frozen=True)
class Thresholds:
    """t_p on performance and t_s on sparsity (None: the dataset's mean S_I, as published)."""

    performance: float = 0.5
    sparsity: float | None = None


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


def sparsity_threshold(sparsity: pd.Series, thresholds: Thresholds) -> float:
    """t_s: the given value, or the mean of S_I over users (published)."""
    return float(sparsity.mean()) if thresholds.sparsity is None else thresholds.sparsity


def inactive(sparsity: pd.Series, thresholds: Thresholds) -> pd.Series:
    """Whether each user is sparser than t_s. Only these can be weak, whatever the recommender."""
    return sparsity > sparsity_threshold(sparsity, thresholds)


def weak_users(performance: pd.Series, sparsity: pd.Series, thresholds: Thresholds, strict: bool = False) -> pd.Series:
    """Who is weak: P(u) <= t_p and S_I(u) > t_s. Everyone else, and everyone whose P(u) is undefined, is strong.

    Args:
        performance: P(u), indexed by user.
        sparsity: S_I(u), indexed by user.
        thresholds: t_p and t_s.
        strict: use P(u) < t_p, as other accounts of the method have it.

    Returns:
        Booleans, indexed like ``sparsity``.

    Source: Kaur & Shah 2024, definition 1.
    """
    value = performance.reindex(sparsity.index)
    poor = value < thresholds.performance if strict else value <= thresholds.performance
    return poor & inactive(sparsity, thresholds)


def triage_table(judged: pd.DataFrame, sparsity: pd.Series, thresholds: Thresholds, protocol: str) -> pd.DataFrame:
    """Every recommender's users, judged and routed.

    Args:
        judged: recommender, user, score, relevant (and fold): the test items under ``published``, the out-of-fold
            scores of known ratings under ``held-out``.
        sparsity: S_I(u), indexed by user.
        thresholds: t_p and t_s.
        protocol: written into the table.

    Returns:
        Columns recommender, protocol, user, performance, pairs, sparsity, weak, weak_strict.
    """
    # The mean of S_I is over all users, also those that a recommender has nothing to rank for.
    fixed = Thresholds(thresholds.performance, sparsity_threshold(sparsity, thresholds))
    table = performance_by_recommender(judged)
    table["sparsity"] = table["user"].map(sparsity)
    for column, strict in (("weak", False), ("weak_strict", True)):
        parts = [
            weak_users(rows.set_index("user")["performance"], rows.set_index("user")["sparsity"], fixed, strict)
            .set_axis(rows.index)
            for _, rows in table.groupby("recommender", sort=False)
        ]  # fmt: skip
        table[column] = pd.concat(parts)
    return table.assign(protocol=protocol)


# --- how far triage can be trusted ----------------------------------------------------------------------------------


def split_half(judged: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """P(u) on two random halves of each user's items: the same user and recommender, other items.

    Args:
        judged: recommender, user, item, score, relevant.
        rng: draws the halves, the same for every recommender.

    Returns:
        Columns recommender, user, first, second; only users for whom both are defined.
    """
    items = judged[["user", "item"]].drop_duplicates().sort_values(["user", "item"], ignore_index=True)
    draw = pd.Series(rng.random(len(items))).groupby(items["user"]).rank(method="first")
    items["half"] = np.where(draw % 2 == 1, "first", "second")
    halved = judged.merge(items, on=["user", "item"])
    parts = {half: performance_by_recommender(rows) for half, rows in halved.groupby("half")}
    pair = parts["first"].merge(parts["second"], on=["recommender", "user"], suffixes=("_1", "_2"))
    named = pair.rename(columns={"performance_1": "first", "performance_2": "second"})
    return named.dropna(subset=["first", "second"])[["recommender", "user", "first", "second"]]


def regression_to_the_mean(halves: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Users picked as weak on one half of their items, scored on both: what a service gains by doing nothing.

    Returns:
        One row a recommender: picked, picked_on (mean P on the half they were picked on), other_half, correlation. None
        where no user has test items enough for two halves.
    """
    rows = []
    for name, group in halves.groupby("recommender", sort=False):
        picked = group[group["first"] <= threshold]
        means = {"picked_on": picked["first"].mean(), "other_half": picked["second"].mean()}
        correlation = group["first"].corr(group["second"])
        rows.append({"recommender": name, "picked": len(picked), **means, "correlation": correlation})
    return pd.DataFrame(rows, columns=["recommender", "picked", "picked_on", "other_half", "correlation"])


def reliability(flagged: pd.DataFrame, test_auc: pd.DataFrame) -> pd.DataFrame:
    """What users flagged by each rule score on test items that had no part in the flagging.

    Args:
        flagged: rule, recommender, user, weak.
        test_auc: recommender, user, auc.

    Returns:
        One row a rule and recommender: flagged, flagged_auc, rest_auc, gap.
    """
    table = flagged.merge(test_auc, on=["recommender", "user"]).dropna(subset=["auc"])
    weak = table["weak"].astype(bool)
    parts = {
        "flagged": weak.astype(float),
        "flagged_auc": table["auc"].where(weak),
        "rest_auc": table["auc"].where(~weak),
    }
    groups = table.assign(**parts).groupby(["rule", "recommender"], sort=False)
    rows = groups.agg({"flagged": "sum", "flagged_auc": "mean", "rest_auc": "mean"}).reset_index()
    return rows.assign(gap=rows["rest_auc"] - rows["flagged_auc"])
