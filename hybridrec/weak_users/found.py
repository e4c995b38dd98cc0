"""Can weak users be found beforehand? How reliable P(u) is, and what flagged users score on fresh items.

All of it is read from the table of cross scores (protocol ``cross``): for test fold k, P_k(u) comes from the other
folds, scored by models without fold k, and the fresh items are fold k. Users are resampled for every interval: a user
takes part in all folds, so the rows (user, fold) are not independent.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from hybridrec.evaluation import metrics
from hybridrec.evaluation.statistics import POOLED
from hybridrec.randomness import generator


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
    folds: pd.DataFrame, triage: pd.DataFrame, posterior: pd.DataFrame, threshold: float, seed: int, samples: int = 1000
) -> pd.DataFrame:  # fmt: skip
    """What becomes of the flags on fresh items: precision and recall against P(u) <= t_p on the test fold.

    Args:
        folds, seed, samples: as in ``reliability``.
        triage: recommender, test, user, inactive, weak (the flag).
        posterior: recommender, user, weak: the probability that the user's true AUC is <= t_p (``luck.posterior``).
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
    found = {}
    for name in names:
        own = folds[(folds["recommender"] == name) & (folds["test"] == folds["fold"])]
        flags = triage[triage["recommender"] == name][["test", "user", "inactive", "weak"]]
        own = own.merge(flags, on=["test", "user"]).query("inactive")
        truly = posterior[posterior["recommender"] == name].set_index("user")["weak"]
        flag, low = own["weak"].astype(bool), own["correct"] <= threshold * own["pairs"] + 1e-9
        value = own["correct"] / own["pairs"]
        parts = {"n": 1, "low": low, "flag": flag, "hit": flag & low, "truly": flag * own["user"].map(truly)}
        parts |= {"all": value, "flagged": value * flag}
        sums = own[["user"]].assign(**parts).astype(float).groupby("user").sum().reindex(users, fill_value=0.0)
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
                low, high = np.nanquantile(value[1:], [0.025, 0.975])
                row |= {key: value[0], f"{key}_low": low, f"{key}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
