"""The comparison: every recommender x ranker x protocol on the same users, and what is left once chance is taken off.

Per-user quality is held as one table a ranker, shape (draws, users): one draw for anything deterministic, many for the
random control, so that chance is measured and not rolled once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hybridrec.evaluation import statistics
from hybridrec.evaluation.controls import CONTROLS, ORACLE
from hybridrec.randomness import generator

Quality = Mapping[str, pd.DataFrame]
PROTOCOLS = ("published", "held-out")


@dataclass(frozen=True)
class Setting:
    """One recommender under one protocol: whom it routes, and which groups robustness is read from.

    Attributes:
        recommender: its name, a key of the Quality tables.
        best_other: the name of the best other recommender on validation.
        routed: users handed to the ranker.
        inactive: users sparser than t_s.
        worst_decile: the tenth of users the recommender served worst on *training* data (out of fold).
        threshold: t_p.
    """

    protocol: str
    recommender: str
    best_other: str
    routed: pd.Index
    inactive: pd.Index
    worst_decile: pd.Index
    threshold: float

    def source(self, ranker: str) -> str:
        """The Quality table a ranker's name stands for in this setting."""
        return {"recommender": self.recommender, "best-other": self.best_other}.get(ranker, ranker)


def mean_auc(auc: pd.Series, seed: int, samples: int) -> pd.DataFrame:
    """Mean AUC of every ranking with its 95 % bootstrap interval over users.

    Args:
        auc: one value a ranking and user, indexed (ranker, user), undefined ones left out.
        seed, samples: of the bootstrap.

    Returns:
        Columns name, users, auc, low, high, in order of appearance.
    """
    rows = []
    for name, values in auc.groupby("ranker", sort=False):
        low, high = statistics.bootstrap_interval(values.to_numpy(), generator(seed, "bootstrap", name), samples)
        rows.append({"name": name, "users": len(values), "auc": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def wide(user_metrics: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Quality tables of one metric: for each ranker, draws x users; users without a value are left out."""
    rows = user_metrics.dropna(subset=[metric])
    return {
        name: group.pivot(index="draw", columns="user", values=metric)
        for name, group in rows.groupby("ranker", sort=False)
    }


def hybrid_quality(quality: Quality, setting: Setting, ranker: str) -> pd.DataFrame:
    """Quality of the hybrid, draws x all users: the ranker's on routed users, the recommender's on the others.

    Raises:
        KeyError: a routed user whom the ranker has not ranked (names the user).
    """
    own, ranked = quality[setting.recommender], quality[setting.source(ranker)]
    routed = setting.routed.intersection(own.columns)
    absent = routed.difference(ranked.columns)
    if len(absent):
        raise KeyError(f"{ranker} has no ranking of routed user {absent[0]} (and {len(absent) - 1} more).")
    mixed = np.repeat(own.to_numpy(), len(ranked), axis=0)
    mixed[:, own.columns.get_indexer(routed)] = ranked[routed].to_numpy()
    return pd.DataFrame(mixed, ranked.index, own.columns)


def weak_indicator(auc: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """1 where a user is weak on the test items (AUC <= t_p and inactive), else 0."""
    return ((auc <= setting.threshold) & auc.columns.isin(setting.inactive)).astype(float)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan  # nobody is no warning


def _group_mean(table: pd.DataFrame, users: pd.Index) -> float:
    return _mean(table[users.intersection(table.columns)].to_numpy())


def compare(auc: Quality, ndcg: Quality, setting: Setting, ranker: str) -> dict[str, object]:
    """One row of the comparison: before is the recommender alone, after is the hybrid.

    Returns:
        users_routed, users_scored (routed with a defined AUC), weak counts, and AUC/NDCG@10 of the routed ("weak"),
        everybody ("overall"), the worst decile ("cvar10"), the strong-weak gap, and the harm and benefit rates: the
        shares of routed users whose AUC fell and rose.
    """
    row: dict[str, object] = {"protocol": setting.protocol, "recommender": setting.recommender, "ranker": ranker}
    before, after = auc[setting.recommender], hybrid_quality(auc, setting, ranker)
    routed = setting.routed.intersection(before.columns)
    strong = before.columns.difference(routed)
    row |= {"users_routed": len(setting.routed), "users_scored": len(routed)}
    change = after[routed].to_numpy() - before[routed].to_numpy()
    row |= {"harm_rate": _mean(change < -1e-12), "benefit_rate": _mean(change > 1e-12)}
    for when, table in (("before", before), ("after", after)):
        row[f"weak_users_{when}"] = float(weak_indicator(table, setting).sum(axis=1).mean())
        row[f"weak_auc_{when}"] = _group_mean(table, routed)
        row[f"overall_auc_{when}"] = _group_mean(table, table.columns)
        row[f"cvar10_auc_{when}"] = _group_mean(table, setting.worst_decile)
        row[f"gap_auc_{when}"] = _group_mean(table, strong) - _group_mean(table, routed)
    for when, table in (("before", ndcg[setting.recommender]), ("after", hybrid_quality(ndcg, setting, ranker))):
        row[f"weak_ndcg_{when}"] = _group_mean(table, setting.routed)
        row[f"overall_ndcg_{when}"] = _group_mean(table, table.columns)
    return row


def difference(a: pd.DataFrame, b: pd.DataFrame, users: pd.Index) -> np.ndarray:
    """Per-user difference of two tables, each averaged over its draws; users in both only."""
    common = users.intersection(a.columns).intersection(b.columns)
    return (a[common].mean() - b[common].mean()).to_numpy()


def uncertainty(values: np.ndarray, seed: int, key: Sequence[str], samples: int, permutations: int) -> dict[str, float]:
    """Mean of per-user differences with its 95 % bootstrap interval and paired permutation p-value."""
    low, high = statistics.bootstrap_interval(values, generator(seed, "bootstrap", *key), samples)
    p = statistics.paired_permutation_p(values, generator(seed, "permutation", *key), permutations)
    return {"mean": float(values.mean()) if len(values) else np.nan, "low": low, "high": high, "p": p}


def best_control(quality: Quality, setting: Setting) -> str:
    """The control with the highest mean on the routed users: the bar a language model has to clear.

    It is picked on the very items it is compared on, which favours the control: a gain over it is a conservative one.
    """
    return max(CONTROLS, key=lambda name: _group_mean(quality[setting.source(name)], setting.routed))


def gains(auc: Quality, setting: Setting, ranker: str, seed: int, samples: int, permutations: int) -> dict[str, object]:
    """What the ranker adds on the routed users to: the recommender, a random order, and the best control."""
    best = best_control(auc, setting)
    row: dict[str, object] = {"best_control": best}
    for name, reference in (("recommender", "recommender"), ("random", "random"), ("best_control", best)):
        values = difference(auc[setting.source(ranker)], auc[setting.source(reference)], setting.routed)
        key = (setting.protocol, setting.recommender, ranker, name)
        found = uncertainty(values, seed, key, samples, permutations)
        row |= {f"gain_over_{name}{'' if part == 'mean' else '_' + part}": x for part, x in found.items()}
    return row


def comparison(
    auc: Quality, ndcg: Quality, settings: Sequence[Setting], rankers: Sequence[str], seed: int, samples: int,
    permutations: int,
) -> pd.DataFrame:  # fmt: skip
    """The whole table: every setting x (the recommender itself, the language model's rankers, controls, oracle).

    p-values of the gain over the best control are Holm-corrected over all language-model rows of the table.
    """
    rows = [
        compare(auc, ndcg, setting, ranker) | gains(auc, setting, ranker, seed, samples, permutations)
        for setting in settings
        for ranker in ("recommender", *rankers, *CONTROLS, ORACLE)
    ]
    table = pd.DataFrame(rows)
    of_model = table["ranker"].isin(rankers)
    for name in ("recommender", "random", "best_control"):
        table[f"gain_over_{name}_p_holm"] = statistics.holm(table[f"gain_over_{name}_p"].where(of_model))
    return table


# --- settings and samples -------------------------------------------------------------------------------------------


def worst_decile(performance: pd.Series) -> pd.Index:
    """The tenth of users with the lowest P(u): who is counted is decided here, on training data, and nowhere else."""
    known = performance.dropna().sort_index(kind="stable")
    return known.nsmallest(max(1, len(known) // 10), keep="first").index


def settings_from(triage: pd.DataFrame, inactive: pd.Index, best_other: Mapping[str, str], threshold: float) -> list:
    """A Setting for every (protocol, recommender) of the triage table."""
    held_out = triage[triage["protocol"] == "held-out"]
    deciles = {
        name: worst_decile(rows.set_index("user")["performance"]) for name, rows in held_out.groupby("recommender")
    }
    return [
        Setting(
            protocol=protocol,
            recommender=name,
            best_other=best_other[name],
            routed=pd.Index(rows.loc[rows["weak"], "user"].sort_values()),
            inactive=inactive,
            worst_decile=deciles[name],
            threshold=threshold,
        )
        for (protocol, name), rows in triage.groupby(["protocol", "recommender"], sort=False)
    ]


def on_sample(setting: Setting, users: Iterable[int]) -> Setting:
    """The same setting for a sample of its routed users: every ranker is then compared on just these."""
    return replace(setting, routed=setting.routed[setting.routed.isin(list(users))])


def pooled_gain(
    auc: Quality, settings: Sequence[Setting], ranker: str, seed: int, samples: int, permutations: int
) -> dict[str, object]:
    """What a ranker adds to the best control over several recommenders at once; each user counts once.

    A user whom several recommenders route has several differences, which are not independent: their mean is taken
    first, and the interval is over users.

    Args:
        auc: quality tables of the ranker, the recommenders and the controls.
        settings: one for each recommender, over the same sample of users.
        ranker: the language model's.
        seed, samples, permutations: of interval and test.

    Returns:
        users_scored, auc (of the ranker), recommender_auc, gain_over_best_control and gain_over_recommender, each with
        its _low, _high, _p.
    """
    rows = []
    for setting in settings:
        users = setting.routed.intersection(auc[ranker].columns)
        tables = {"auc": ranker, "recommender_auc": setting.recommender}
        tables["control_auc"] = setting.source(best_control(auc, on_sample(setting, users)))
        rows.append(pd.DataFrame({name: auc[table][users].mean() for name, table in tables.items()}))
    by_user = pd.concat(rows).groupby(level=0).mean()
    row = {"users_scored": len(by_user), **by_user.mean().drop("control_auc").to_dict()}
    for reference, column, key in (("best_control", "control_auc", ()), ("recommender", "recommender_auc", ("own",))):
        values = (by_user["auc"] - by_user[column]).to_numpy()
        found = uncertainty(values, seed, ("pooled", ranker, *key), samples, permutations)
        row |= {f"gain_over_{reference}{'' if part == 'mean' else '_' + part}": x for part, x in found.items()}
    return row


def ladder(
    auc: Quality, settings: Sequence[Setting], asked: Mapping[tuple[str, str], Iterable[int]], seed: int, samples: int,
    permutations: int,
) -> pd.DataFrame:  # fmt: skip
    """What each model and way to ask adds, on the sample of users it was asked for; see ``pooled_gain``.

    Args:
        auc: quality tables of the recommenders, the controls, and "model: ranker" of each model and way to ask.
        settings: one for each recommender.
        asked: for each (model, ranker) its users.
        seed, samples, permutations: of intervals and tests.

    Returns:
        Columns model, ranker, users ("asked": all of the sample, "routed": those whom a recommender routes),
        users_asked, those of ``pooled_gain``, and each p after Holm's correction over all rows.
    """
    rows = []
    for (model, ranker), users in asked.items():
        everybody = [replace(setting, routed=pd.Index(np.sort(list(users)))) for setting in settings]
        for group, of_group in (("asked", everybody), ("routed", settings)):
            on = [on_sample(setting, users) for setting in of_group]
            row = {"model": model, "ranker": ranker, "users": group, "users_asked": len(set(users))}
            rows.append(row | pooled_gain(auc, on, f"{model}: {ranker}", seed, samples, permutations))
    table = pd.DataFrame(rows)
    for gain in ("gain_over_best_control", "gain_over_recommender"):
        table[f"{gain}_p_holm"] = statistics.holm(table[f"{gain}_p"])
    return table
