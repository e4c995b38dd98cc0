"""The comparison: every recommender x ranker x protocol on the same users, and what is left once chance is taken off.

Per-user quality is held as one table a ranker, shape (draws, users): one draw for anything deterministic, many for the
random control, so that chance is measured and not rolled once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hybridrec import statistics
from hybridrec.hybrid import CONTROLS, ORACLE
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
    mixed = pd.DataFrame(np.repeat(own.to_numpy(), len(ranked), axis=0), ranked.index, own.columns)
    mixed[routed] = ranked[routed].to_numpy()
    return mixed


def weak_indicator(auc: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """1 where a user is weak on the test items (AUC <= t_p and inactive), else 0."""
    return ((auc <= setting.threshold) & auc.columns.isin(setting.inactive)).astype(float)


def _group_mean(table: pd.DataFrame, users: pd.Index) -> float:
    return float(table[users.intersection(table.columns)].to_numpy().mean())


def compare(auc: Quality, ndcg: Quality, setting: Setting, ranker: str) -> dict[str, object]:
    """One row of the comparison: before is the recommender alone, after is the hybrid.

    Returns:
        users_routed, users_scored (routed with a defined AUC), weak counts, and AUC/NDCG@10 of the routed ("weak"),
        everybody ("overall"), the worst decile ("cvar10"), the strong-weak gap and the harm rate.
    """
    row: dict[str, object] = {"protocol": setting.protocol, "recommender": setting.recommender, "ranker": ranker}
    before, after = auc[setting.recommender], hybrid_quality(auc, setting, ranker)
    routed = setting.routed.intersection(before.columns)
    strong = before.columns.difference(routed)
    row |= {"users_routed": len(setting.routed), "users_scored": len(routed)}
    harmed = after[routed].to_numpy() < before[routed].to_numpy() - 1e-12
    row["harm_rate"] = float(harmed.mean())
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


# --- claims ---------------------------------------------------------------------------------------------------------

CLAIMS = {
    "fewer weak users": "weak_users",
    "sub-population robustness": "cvar10_auc",
    "overall performance": "overall_auc",
}


def relative_change(row: pd.Series, measure: str) -> float:
    """(after - before) / before of a measure of the comparison table."""
    return row[f"{measure}_after"] / row[f"{measure}_before"] - 1


def claim_differences(auc: Quality, setting: Setting, ranker: str, control: str, claim: str) -> np.ndarray:
    """Per-user difference hybrid(ranker) - hybrid(control) in what a claim counts, oriented so that more is better."""
    tables = [hybrid_quality(auc, setting, name) for name in (ranker, control)]
    if claim == "fewer weak users":
        tables = [-weak_indicator(table, setting) for table in tables]
    users = setting.worst_decile if claim == "sub-population robustness" else tables[0].columns
    return difference(tables[0], tables[1], users)


def verdict(beyond_null: dict[str, float], beyond_best: dict[str, float], p_holm: float) -> str:
    """A verdict by rule, decided before the numbers were seen.

    Args:
        beyond_null: published protocol, language model minus a random order.
        beyond_best: held-out protocol, language model minus the best control.
        p_holm: the latter's corrected p-value.
    """
    if not np.isfinite([*beyond_null.values(), *beyond_best.values()]).all():
        return "not to be told: too few users for an interval"
    if beyond_best["low"] > 0 and p_holm < 0.05:
        return "holds: beyond every control on held-out items"
    if beyond_null["high"] < 0:
        return "refuted: worse than a random order"
    if beyond_null["low"] <= 0:
        return "explained by the null control: a random order does as well"
    if beyond_best["high"] < 0:
        return "better than chance, worse than the best control"
    return "better than chance, not shown to beat the best control"


def claims(
    table: pd.DataFrame, auc: Quality, settings: Sequence[Setting], rankers: Sequence[str], published: pd.DataFrame,
    seed: int, samples: int, permutations: int,
) -> pd.DataFrame:  # fmt: skip
    """Every claim about quality x recommender of the paper x ranker: published, replicated, null, held-out, verdict.

    Args:
        table: what ``comparison`` returned.
        published: claim, recommender, published (relative change).

    Returns:
        The claims table; the changes are relative, ``beyond_*`` are mean per-user differences.
    """
    indexed = table.set_index(["protocol", "recommender", "ranker"])
    by_key = {(setting.protocol, setting.recommender): setting for setting in settings}
    rows = []
    for claim, recommender, value in published[["claim", "recommender", "published"]].itertuples(index=False):
        for ranker in rankers:
            test, fresh = by_key["published", recommender], by_key["held-out", recommender]
            best = best_control(auc, fresh)
            sure = [
                uncertainty(
                    claim_differences(auc, s, ranker, c, claim), seed, (claim, recommender, ranker, c), samples,
                    permutations,
                )
                for s, c in ((test, "random"), (fresh, best))
            ]  # fmt: skip
            changes = [
                relative_change(indexed.loc[(protocol, recommender, who)], CLAIMS[claim])
                for protocol, who in (("published", ranker), ("published", "random"), ("held-out", ranker))
            ]
            rows.append(
                {"claim": claim, "recommender": recommender, "ranker": ranker, "published": value}
                | dict(zip(("replicated", "null_control", "held_out"), changes, strict=True))
                | {"verdict": ""}
                | {f"beyond_null_{part}": x for part, x in sure[0].items()}
                | {"best_control": best}
                | {f"beyond_best_control_{part}": x for part, x in sure[1].items()}
            )
    result = pd.DataFrame(rows)
    result["p_holm"] = statistics.holm(result["beyond_best_control_p"])
    parts = ("low", "high")
    result["verdict"] = [
        verdict(
            {part: row[f"beyond_null_{part}"] for part in parts},
            {part: row[f"beyond_best_control_{part}"] for part in parts},
            row["p_holm"],
        )
        for _, row in result.iterrows()
    ]
    return result


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


def cost_claims(share: pd.DataFrame, recommender: str) -> pd.DataFrame:
    """The fourth claim, no disproportionate cost: the share of the work next to the share of users routed.

    Args:
        share: ranker, calls, prompt_tokens: what routing weak users takes, as a share of routing everybody.
        recommender: whose weak users they are.

    Returns:
        Rows for the claims table: replicated is the share of tokens, which do not depend on the machine;
        null_control is the share of calls, about what any equally large choice of users would take.
    """
    rows = share.rename(columns={"prompt_tokens": "replicated", "calls": "null_control"})
    in_proportion = rows["replicated"] <= rows["null_control"]
    verdicts = np.where(in_proportion, "holds: by arithmetic, for any equally small choice of users", "refuted")
    rows = rows.assign(claim="cost in proportion", recommender=recommender, verdict=verdicts)
    return rows[["claim", "recommender", "ranker", "replicated", "null_control", "verdict"]]
