"""The paper's claims, one by one: what it reports, what we and a random order find, and a verdict by a fixed rule."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hybridrec.evaluation import statistics
from hybridrec.evaluation.compare import (
    Quality,
    Setting,
    best_control,
    difference,
    hybrid_quality,
    uncertainty,
    weak_indicator,
)

CLAIMS = {
    "fewer weak users": "weak_users",
    "sub-population robustness": "cvar10_auc",
    "overall performance": "overall_auc",
}


def unanswered(rankings: pd.DataFrame) -> list[str]:
    """A line for every model and way to ask of which answers could not be used: their users have a random order.

    Args:
        rankings: model, ranker, user, failure ("" where the answer could be used), a row a candidate.
    """
    lines = []
    for (model, ranker), rows in rankings.drop_duplicates(["model", "ranker", "user"]).groupby(["model", "ranker"]):
        failed = rows.loc[rows["failure"] != "", "failure"].value_counts()
        reasons = ", ".join(f"{reason}: {count}" for reason, count in failed.items())
        if failed.sum() == len(rows):
            lines.append(
                f"{model}, {ranker}: no answer could be used, of {len(rows)} users ({reasons}). All its orders are our "
                "random ones: nothing here says anything about the model."
            )
        elif len(failed):
            lines.append(
                f"{model}, {ranker}: {failed.sum()} of {len(rows)} users have no answer that could be used ({reasons}) "
                "and a random order in its place."
            )
    return lines


def relative_change(row: pd.Series, measure: str) -> float:
    """(after - before) / before of a measure of the comparison table; NaN where there was nothing before."""
    before = row[f"{measure}_before"]
    return row[f"{measure}_after"] / before - 1 if before else np.nan


def claim_differences(auc: Quality, setting: Setting, ranker: str, control: str, claim: str) -> np.ndarray:
    """Per-user difference hybrid(ranker) - hybrid(control) in what a claim counts, oriented so that more is better."""
    tables = [hybrid_quality(auc, setting, name) for name in (ranker, control)]
    if claim == "fewer weak users":
        tables = [-weak_indicator(table, setting) for table in tables]
    users = setting.worst_decile if claim == "sub-population robustness" else tables[0].columns
    if not setting.routed.isin(tables[0].columns).any():
        users = users[:0]  # nobody is handed over, so nothing can be told: all differences would be 0
    return difference(tables[0], tables[1], users)


def verdict(beyond_null: dict[str, float], beyond_best: dict[str, float], p_holm: float) -> str:
    """A verdict by rule, decided before the numbers were seen. No rule tests that two rankings are equally good.

    Args:
        beyond_null: published protocol, language model minus a random order.
        beyond_best: held-out protocol, language model minus the best control.
        p_holm: the latter's corrected p-value.
    """
    if not np.isfinite([*beyond_null.values(), *beyond_best.values()]).all():
        return "not to be told: too few users for an interval"
    if beyond_best["low"] > 0 and p_holm < 0.05:
        return "holds: beyond the best control on held-out items"
    if beyond_null["high"] < 0:
        return "not supported: below the null control, before any correction"
    if beyond_null["low"] <= 0:
        return "not told apart from the null control: the interval includes zero"
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
    changes = table.set_index(["protocol", "recommender", "ranker"])
    by_key = {(setting.protocol, setting.recommender): setting for setting in settings}
    rows = []
    for claim, recommender, value in published[["claim", "recommender", "published"]].itertuples(index=False):
        test, fresh = by_key["published", recommender], by_key["held-out", recommender]
        best = best_control(auc, fresh)
        for ranker in rankers:
            row = {"claim": claim, "recommender": recommender, "ranker": ranker, "published": value}
            for column, protocol, who in (
                ("replicated", "published", ranker),
                ("null_control", "published", "random"),
                ("held_out", "held-out", ranker),
            ):
                row[column] = relative_change(changes.loc[(protocol, recommender, who)], CLAIMS[claim])
            row |= {"verdict": "", "best_control": best}
            for name, setting, control in (("null", test, "random"), ("best_control", fresh, best)):
                values = claim_differences(auc, setting, ranker, control, claim)
                found = uncertainty(values, seed, (claim, recommender, ranker, control), samples, permutations)
                row |= {f"beyond_{name}_{part}": x for part, x in found.items()}
            rows.append(row)
    result = pd.DataFrame(rows)
    best = result.pop("best_control")
    result.insert(result.columns.get_loc("beyond_null_p") + 1, "best_control", best)
    result["p_holm"] = statistics.holm(result["beyond_best_control_p"])
    for at, row in result.iterrows():
        null, bar = ({part: row[f"beyond_{by}_{part}"] for part in ("low", "high")} for by in ("null", "best_control"))
        result.loc[at, "verdict"] = verdict(null, bar, row["p_holm"])
    return result


def table2(comparison: pd.DataFrame, published: pd.DataFrame, rankers: Sequence[str]) -> pd.DataFrame:
    """The paper's Table 2 cell by cell: what it prints, what we find, and how much of each gain a random order has.

    Args:
        comparison: rows of the published protocol.
        published: recommender, group ("all", "weak"), recommender_alone, with_gpt_35, with_mixtral; empty for a
            dataset that is not in the paper.
        rankers: whose AUC to show beside the recommender's.

    Returns:
        recommender, group, the paper's three columns (``paper_*``), ours alone and with each ranker, and
        ``random_share``: the gain of a random order over that of the first ranker. For weak users also
        ``paper_random_share``: how much of the paper's own gain an order of AUC 0.5 would give.
    """
    paper = published.set_index(["recommender", "group"]).add_prefix("paper_")
    rows = []
    for name, of_recommender in comparison.groupby("recommender", sort=False):
        after = of_recommender.set_index("ranker")
        for group, measure in (("all", "overall_auc"), ("weak", "weak_auc")):
            row = {"recommender": name, "group": group}
            row |= dict.fromkeys(("paper_recommender_alone", "paper_with_gpt_35", "paper_with_mixtral"), np.nan)
            row |= paper.loc[(name, group)].to_dict() if (name, group) in paper.index else {}
            alone = row["recommender_alone"] = after.loc["recommender", f"{measure}_after"]
            row |= {ranker: after.loc[ranker, f"{measure}_after"] for ranker in rankers}
            gain = row[rankers[0]] - alone
            row["random_share"] = (after.loc["random", f"{measure}_after"] - alone) / gain if gain else np.nan
            their_gain = row["paper_with_gpt_35"] - row["paper_recommender_alone"]
            weak = group == "weak"
            row["paper_random_share"] = (0.5 - row["paper_recommender_alone"]) / their_gain if weak else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def cost_claims(share: pd.DataFrame, recommender: str) -> pd.DataFrame:
    """The fourth claim, no disproportionate cost: the share of the work next to the share of users routed.

    Args:
        share: ranker, calls, prompt_tokens: what routing weak users takes, as a share of routing everybody.
        recommender: whose weak users they are.

    Returns:
        Rows for the claims table: replicated is the share of tokens, which do not depend on the machine;
        null_control is the share of calls. Prompt tokens are those computed; cached ones are left out.
    """
    rows = share.rename(columns={"prompt_tokens": "replicated", "calls": "null_control"})
    in_proportion = rows["replicated"] <= rows["null_control"]
    verdicts = np.where(
        in_proportion,
        "holds: by arithmetic, for any choice of users as small and as sparse",
        "does not hold: a larger share of the work than of the users",
    )
    rows = rows.assign(claim="cost in proportion", recommender=recommender, verdict=verdicts)
    return rows[["claim", "recommender", "ranker", "replicated", "null_control", "verdict"]]
