"""Can weak users be found beforehand? How reliable P(u) is, and what flagged users score on fresh items.

All but the split halves is read from the table of cross scores (protocol ``cross``): for test fold k, P_k(u) comes from
the other folds, scored by models without fold k, and the fresh items are fold k. Users are resampled for every
interval: a user takes part in all folds, so the rows (user, fold) are not independent.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from hybridrec.evaluation import metrics
from hybridrec.evaluation.statistics import POOLED
from hybridrec.randomness import generator
from hybridrec.weak_users.performance import performance_by_recommender


def by_fold(scores: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Correctly ordered pairs of every user in every fold, by each model that scored it.

    Args:
        scores: ranker, test, fold, user, item, score: recommenders' cross scores.
        candidates: fold, user, item, relevant.

    Returns:
        Columns recommender, test, fold, user, correct, pairs; only where there is a pair.
    """
    given = scores[["ranker", "test", "fold", "user", "item", "score"]].rename(columns={"ranker": "recommender"})
    judged = given.merge(candidates[["fold", "user", "item", "relevant"]], on=["fold", "user", "item"])
    keys = ["test", "fold", "user"]
    parts = {name: metrics.auc_pairs(own, keys) for name, own in judged.groupby("recommender", sort=False)}
    table = pd.concat(parts, names=["recommender"]).reset_index()
    return table[table["pairs"] > 0]


def flagged(
    folds: pd.DataFrame, triage: pd.DataFrame, threshold: float, evidence: int | None = None
) -> pd.DataFrame:  # fmt: skip
    """Who is flagged for each test fold by P(u) on some of the other folds: ``triage`` with another column weak.

    Args:
        folds: what ``by_fold`` returned.
        triage: recommender, test, user, inactive (and more).
        threshold: flagged is who is inactive and has P(u) <= threshold.
        evidence: how many folds are looked at, from the one after the test fold on; None: all others.
    """
    count = folds["test"].nunique()
    after = (folds["fold"] - folds["test"]) % count
    keys = ["recommender", "test", "user"]
    known = folds[(after > 0) & (after <= (evidence or count))].groupby(keys)[[*_SUMS]].sum()
    low = (known["correct"] <= threshold * known["pairs"] + 1e-9).rename("low").reset_index()
    flag = triage[keys].merge(low, "left", on=keys)["low"].eq(True).to_numpy()
    return triage.assign(weak=flag & triage["inactive"])


def rules(folds: pd.DataFrame, triage: pd.DataFrame, threshold: float) -> dict[str, pd.DataFrame]:
    """Other rules to flag users, each as ``triage`` with another column weak; none of them sees the test fold.

    Args:
        folds: what ``by_fold`` returned.
        triage: what ``cross_triage`` returned.
        threshold: t_p.

    Returns:
        * "one fold": by P(u) of the fold after the test fold alone
        * "all folds": by P(u) of all other folds (``triage`` itself)
        * "shrunken": as many as "all folds" flags, those with the lowest P(u) by empirical Bayes
        * "sure": those whose true P(u) is at or below t_p with probability 0.8 at least
    """
    keys = [triage["recommender"], triage["test"]]
    rank = triage["shrunken"].round(9).where(triage["inactive"]).groupby(keys).rank(method="first")
    return {
        "one fold": flagged(folds, triage, threshold, evidence=1),
        "all folds": triage,
        "shrunken": triage.assign(weak=rank <= triage["weak"].groupby(keys).transform("sum")),
        "sure": triage.assign(weak=triage["inactive"] & (triage["upper"] <= threshold)),
    }


def reliability(
    folds: pd.DataFrame, triage: pd.DataFrame, seed: int, samples: int = 1000
) -> pd.DataFrame:  # fmt: skip
    """How far P(u) agrees with itself: correlations between P(u) on disjoint folds, over inactive users.

    Args:
        folds: what ``by_fold`` returned.
        triage: recommender, test, user, inactive.
        seed: the experiment's root seed; it draws the resamples.
        samples: resamples of users behind each 95 % interval.

    Returns:
        One row a recommender and one for their mean (POOLED), each number with its _low and _high: users (of whom at
        least one correlation knows both values), halves (correlation of P(u) on half of the deciding folds with P(u) on
        the other half, a mean over all halvings and test folds), reliability (of P_k(u), which has all deciding folds:
        ``halves`` after Spearman and Brown's correction for length), fresh (correlation of P_k(u) with P(u) on the test
        fold).

    Source: Spearman 1910, Brown 1910.
    """
    names, users = _names_and_users(folds)
    counts = _resamples(len(users), seed, "reliability", samples)
    found = {}
    for name in names:
        halves, fresh, known = [], [], set()
        for test, own in folds[folds["recommender"] == name].groupby("test"):
            inactive = _of(triage, name, test).query("inactive")["user"]
            own = own[own["user"].isin(inactive)]
            correct, pairs = (own.pivot(index="user", columns="fold", values=v).reindex(users) for v in _SUMS)
            deciding = [fold for fold in pairs.columns if fold != test]
            half = len(deciding) // 2
            for first, second in _halvings(deciding, half):
                halves.append((_share(correct, pairs, first), _share(correct, pairs, second)))
            fresh.append((_share(correct, pairs, deciding), _share(correct, pairs, [test])))
            known |= set(users[np.isfinite(halves[-1]).all(axis=0)])
        between = _correlations(halves, counts).mean(axis=1)
        length = len(deciding) / half
        found[name] = {
            "users": len(known),
            "halves": between,
            "reliability": length * between / (1 + (length - 1) * between),
            "fresh": _correlations(fresh, counts).mean(axis=1),
        }
    return _with_pooled(found)


def detection(
    folds: pd.DataFrame, triage: pd.DataFrame, posterior: pd.DataFrame | None, threshold: float, seed: int,
    samples: int = 1000,
) -> pd.DataFrame:  # fmt: skip
    """What becomes of the flags on fresh items: precision and recall against P(u) <= t_p on the test fold.

    Args:
        folds, seed, samples: as in ``reliability``.
        triage: recommender, test, user, inactive, weak (the flag).
        posterior: recommender, user, weak: the probability that the user's true AUC is <= t_p (``luck.posterior``);
            None: not known, and there is no truly_weak.
        threshold: t_p.

    Returns:
        One row a recommender and one for their mean (POOLED): users (inactive ones with a pair in a test fold), flags
        (user and test fold), and each with its _low and _high:

        * precision: of the flagged, the share with P(u) <= t_p on the test fold
        * base_rate: the same of all inactive users, which is the precision of flagging at random
        * recall: of those with P(u) <= t_p on the test fold, the share flagged
        * truly_weak: of the flagged, the share with a true AUC <= t_p (the mean of ``posterior``; the interval leaves
          out the uncertainty of the posterior itself)
        * flagged_auc, rest_auc and their gap: mean P(u) on the test fold of the flagged and of the other inactive users

    All are means over (user, test fold), never means of users' means: whoever is flagged for one test fold only was
    flagged there because the other folds were bad, so that fold is good, and to weight users by 1 / number of flags
    would favour such folds (by 0.1 AUC where all users are alike). Only the intervals take the user as the unit.

    A test fold holds a handful of items, so even a rule that knew every true AUC would stay far below 1; the rate at
    which random flags would be right is the number to compare with.
    """
    names, users = _names_and_users(folds)
    counts = _resamples(len(users), seed, "detection", samples)
    known = pd.DataFrame(columns=["recommender", "user", "weak"]) if posterior is None else posterior
    found = {}
    for name in names:
        own = folds[(folds["recommender"] == name) & (folds["test"] == folds["fold"])]
        flags = triage[triage["recommender"] == name][["test", "user", "inactive", "weak"]]
        own = own.merge(flags, on=["test", "user"]).query("inactive")
        truly = own["user"].map(known.loc[known["recommender"] == name].set_index("user")["weak"])
        flag, low = own["weak"].astype(bool), own["correct"] <= threshold * own["pairs"] + 1e-9
        value = own["correct"] / own["pairs"]
        parts = {"n": 1, "low": low, "flag": flag, "hit": flag & low, "truly": flag * truly}
        parts |= {"all": value, "flagged": value * flag}
        each = pd.DataFrame(parts, index=own.index).astype(float)
        sums = each.groupby(own["user"]).sum().reindex(users, fill_value=0.0)
        total = {key: counts @ sums[key].to_numpy() for key in parts}
        with np.errstate(invalid="ignore", divide="ignore"):  # nobody flagged, or nobody weak, in a resample
            flagged_auc = total["flagged"] / total["flag"]
            rest_auc = (total["all"] - total["flagged"]) / (total["n"] - total["flag"])
            found[name] = {
                "users": own["user"].nunique(),
                "flags": int(flag.sum()),
                "precision": total["hit"] / total["flag"],
                "base_rate": total["low"] / total["n"],
                "recall": total["hit"] / total["low"],
                "truly_weak": total["truly"] / total["flag"],
                "flagged_auc": flagged_auc,
                "rest_auc": rest_auc,
                "gap": rest_auc - flagged_auc,
            }
    table = _with_pooled(found)
    return table.drop(columns=table.filter(like="truly_weak")) if posterior is None else table


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


def regression_to_the_mean(
    halves: pd.DataFrame, threshold: float, seed: int, samples: int = 1000
) -> pd.DataFrame:  # fmt: skip
    """Users picked as weak on one half of their items, scored on both, with nothing done in between.

    Args:
        halves: what ``split_half`` returned.
        threshold: picked is who has P(u) <= threshold on the first half.
        seed, samples: as in ``reliability``.

    Returns:
        One row a recommender and one for their mean (POOLED): users, picked, and each with its _low and _high:
        picked_on (mean P(u) on the half that they were picked on), other_half, correlation (of the halves), reliability
        (of P(u) on both halves together: corrected for length after Spearman and Brown; a little low, as pairs of items
        of different halves count in none). No row where no user has items enough for two halves.
    """
    numbers = ["picked_on", "other_half", "correlation", "reliability"]
    if halves.empty:
        ends = [f"{name}{end}" for name in numbers for end in ("", "_low", "_high")]
        return pd.DataFrame(columns=["recommender", "users", "picked", *ends])
    users, found = pd.Index(np.unique(halves["user"])), {}
    counts = _resamples(len(users), seed, "halves", samples)
    for name, own in halves.groupby("recommender", sort=False):
        first, second = (own.set_index("user")[half].reindex(users).to_numpy() for half in ("first", "second"))
        picked = first <= threshold
        total = counts @ picked
        with np.errstate(invalid="ignore", divide="ignore"):  # nobody is picked, in a resample
            on, off = (counts @ np.where(picked, half, 0) / total for half in (first, second))
            between = _correlations([(first, second)], counts)[:, 0]
            values = (on, off, between, 2 * between / (1 + between))
        found[str(name)] = {"users": len(own), "picked": int(picked.sum()), **dict(zip(numbers, values, strict=True))}
    return _with_pooled(found)


_SUMS = ("correct", "pairs")


def _names_and_users(folds: pd.DataFrame) -> tuple[list[str], pd.Index]:
    return list(folds["recommender"].unique()), pd.Index(np.unique(folds["user"]), name="user")


def _of(triage: pd.DataFrame, name: str, test: int) -> pd.DataFrame:
    return triage[(triage["recommender"] == name) & (triage["test"] == test)]


def _resamples(users: int, seed: int, what: str, samples: int) -> np.ndarray:
    """How often each user is in each resample, shape (1 + samples, users); the first row is everybody once."""
    drawn = generator(seed, "found", what).multinomial(users, np.full(users, 1 / users), samples)
    return np.vstack([np.ones(users), drawn])


def _halvings(folds: list[int], size: int) -> list[tuple[list[int], list[int]]]:
    """All ways to take two disjoint sets of ``size`` folds, each pair once."""
    pairs = [(one, two) for one in combinations(folds, size) for two in combinations(set(folds) - set(one), size)]
    return [(list(one), sorted(two)) for one, two in pairs if one[0] < min(two)]


def _share(correct: pd.DataFrame, pairs: pd.DataFrame, folds: list[int]) -> np.ndarray:
    """P(u) on these folds together, NaN without a pair."""
    right, all_pairs = correct[folds].sum(axis=1), pairs[folds].sum(axis=1)
    return (right / all_pairs.where(all_pairs > 0)).to_numpy()


def _correlations(both: list[tuple[np.ndarray, np.ndarray]], counts: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each two columns, weighted by each row of counts: shape (rows of counts, len(both))."""
    first, second = (np.array(side).T for side in zip(*both, strict=True))
    known = np.isfinite(first) & np.isfinite(second)
    first, second = np.where(known, first, 0), np.where(known, second, 0)
    n, x, y, xx, yy, xy = (
        counts @ part for part in (known.astype(float), first, second, first**2, second**2, first * second)
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # all users the same: no correlation
        return (xy - x * y / n) / np.sqrt((xx - x**2 / n) * (yy - y**2 / n))


def _with_pooled(found: dict[str, dict[str, np.ndarray | int]]) -> pd.DataFrame:
    """A row for each recommender and one for the mean over them on the same resamples, with 95 % intervals."""
    first = next(iter(found.values()))
    pooled = {key: np.mean([np.asarray(one[key]) for one in found.values()], axis=0) for key in first}
    rows = []
    for name, values in {**found, POOLED: pooled}.items():
        row: dict[str, object] = {"recommender": name}
        for key, value in values.items():
            if np.ndim(value) == 0:
                row[key] = value
            else:
                known = value[1:][np.isfinite(value[1:])]
                low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
                row |= {key: value[0], f"{key}_low": low, f"{key}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
