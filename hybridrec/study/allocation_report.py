"""The tables of notebook 08: what each arm gains, what could be known of it, how much harm is done, and the bill."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.allocation import ceiling, frontier, policy, risk
from hybridrec.evaluation import verdicts
from hybridrec.study.allocation_study import ALL, Allocation
from hybridrec.study.names import OF_LLM, PREDICTED, RANDOM_ORDER

# --- each arm ---------------------------------------------------------------------------------------------------------


def arms(of: Allocation) -> pd.DataFrame:
    """What each arm, and a random order, would do if all who may be were handed over.

    Returns:
        arm, mean (uplift over the lists that it ranked), std (over lists), count (lists), made_worse (share of them).
    """
    judged = of.uplifts[of.judged & of.able]
    found = judged[[*of.arms, RANDOM_ORDER]].agg(["mean", "std", "count"]).T
    found["made_worse"] = (judged[found.index].round(12) < 0).sum() / found["count"]
    return found.rename_axis("arm").reset_index()


def arms_over_users(of: Allocation) -> pd.DataFrame:
    """The mean of ``arms`` with its 95 % interval over users (``verdicts.judge``): arm, users, low, high."""
    judged = of.uplifts[of.judged & of.able]
    gains = {arm: judged[["user", arm]].set_axis(["user", "gain"], axis=1) for arm in [*of.arms, RANDOM_ORDER]}
    found = _over_users(gains)
    return found.rename_axis("arm").reset_index()[["arm", "users", "low", "high"]]


def _over_users(gains: Mapping[Any, pd.DataFrame]) -> pd.DataFrame:
    """The mean over lists of each table (user, gain), with its interval over users: users, mean, low, high."""
    parts = []
    for name, rows in gains.items():
        users = rows.dropna().groupby("user")["gain"].agg(["mean", "size"]).reset_index()
        parts.append(users.set_axis(["user", "difference", "weight"], axis=1).assign(comparison=name, family="lists"))
    found = verdicts.judge(pd.concat(parts, ignore_index=True)).set_index("comparison")
    return found.rename(columns={"n": "users"})[["users", "mean", "low", "high"]]


# --- the ceiling ------------------------------------------------------------------------------------------------------


def ceilings(of: Allocation, seed: int, samples: int) -> pd.DataFrame:
    """Whether each arm's uplift differs from user to user: arm, recommender (and ALL), and ``ceiling.reliability``."""
    judged = of.uplifts[of.judged & of.able]
    rows = []
    for arm in of.arms:
        for name, part in [(ALL, judged), *judged.groupby("recommender", sort=False)]:
            found = ceiling.reliability(ceiling.by_user(part, arm), seed, samples)
            rows.append({"arm": arm, "recommender": name} | found)
    return pd.DataFrame(rows)


def oracles(of: Allocation, shares: Sequence[float]) -> pd.DataFrame:
    """What choosing the right users could gain for each arm, as a mean over everybody and over recommenders.

    Args:
        of: what is allocated.
        shares: budgets, as shares of everybody.

    Returns:
        arm, and the columns of ``ceiling.oracle``.
    """
    outcomes = of.outcomes
    able = outcomes.merge(of.cases)["weight"].sum() / outcomes["weight"].sum()
    within = [min(1.0, share / able) for share in shares]
    judged, parts = of.uplifts[of.judged & of.able], []
    for arm in of.arms:
        each = [
            ceiling.oracle(ceiling.by_user(part, arm), within).drop(columns="share") * able
            for _, part in judged.groupby("recommender")
        ]
        parts.append((sum(each[1:], each[0]) / len(each)).assign(arm=arm, share=list(shares)))
    return pd.concat(parts, ignore_index=True)


# --- what is predicted ------------------------------------------------------------------------------------------------


def predicted(of: Allocation, prediction: pd.DataFrame) -> pd.DataFrame:
    """How predictions and outcomes go together, list by list, on judged lists.

    Args:
        of: what is allocated.
        prediction: what ``policy.predict`` made of ``of.teaching``.

    Returns:
        arm, predicted_mean, predicted_std, mean (of what came out), correlation, lists_to_learn_from.
    """
    _, uplifts = of.teaching
    fresh = (prediction["fold"] == prediction["test"]).to_numpy()
    expected, came_out = (one.loc[fresh, of.arms] for one in (prediction, uplifts))
    found = expected.agg(["mean", "std"]).T.add_prefix("predicted_")
    found["mean"], found["correlation"] = came_out.mean(), expected.corrwith(came_out)
    found["lists_to_learn_from"] = uplifts.loc[~fresh, of.arms].notna().sum()
    return found.rename_axis("arm").reset_index()


def by_prediction(of: Allocation, prediction: pd.DataFrame, arm: str, bins: int = 5) -> pd.DataFrame:
    """Judged lists in groups of equal size by an arm's predicted uplift: predicted, lists, came_out, low, high.

    Means, the last with the interval of a mean over users (``verdicts.judge``); no row where nothing was predicted.
    """
    _, gained = of.teaching
    rows = prediction[policy.KEYS].assign(predicted=prediction[arm], came_out=gained[arm]).dropna()
    rows = rows[rows["fold"] == rows["test"]]
    if rows.empty:
        return pd.DataFrame(columns=["predicted", "lists", "came_out", "low", "high"])
    rows["group"] = (rows["predicted"].rank(method="first") * bins / (len(rows) + 1)).astype(int)
    found = rows.groupby("group").agg(predicted=("predicted", "mean"), lists=("user", "size"))
    gains = rows.rename(columns={"came_out": "gain"}).groupby("group")[["user", "gain"]]
    judged = _over_users(dict(list(gains)))
    return found.join(judged[["mean", "low", "high"]].rename(columns={"mean": "came_out"})).reset_index(drop=True)


# --- bounded harm -----------------------------------------------------------------------------------------------------


def at_risk(chosen: pd.DataFrame, of: Allocation, judged: bool) -> pd.DataFrame:
    """A policy's hand-overs with what came of them, for ``risk``.

    Args:
        chosen: CASE, fold, arm, score: hand-overs in judged lists, or in those of other folds.
        of: what is allocated.
        judged: which of the two.

    Returns:
        test, user, score (NaN: never handed over), worse; one row for each list of somebody who may be handed over and
        whose list the arm has ranked.
    """
    rows = of.uplifts[of.able & (of.judged == judged)]
    long = rows.melt(policy.KEYS, var_name="arm", value_name="gain")
    found = rows[policy.KEYS].merge(chosen, "left", policy.KEYS).merge(long, "left", [*policy.KEYS, "arm"])
    known = found["arm"].isna() | found["gain"].notna()
    found = found.assign(worse=found["gain"].round(12) < 0)
    return found.loc[known, ["test", "user", "score", "worse"]].reset_index(drop=True)


def best_predicted(prediction: pd.DataFrame, among: Sequence[str]) -> pd.DataFrame:
    """Each list's best arm by the prediction, for lists of every fold: KEYS, arm, score; none where none gains."""
    parts = [
        policy.predicted(rows.assign(fold=test), among).assign(fold=fold)
        for (test, fold), rows in prediction.groupby(["test", "fold"])
    ]
    return pd.concat(parts, ignore_index=True)


def bounded_harm(
    of: Allocation, prediction: pd.DataFrame, alpha: float, seed: int
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """The bound on harm put to the test (``risk.redraws``), over all arms and over a language model's alone.

    Args:
        of: what is allocated.
        prediction: what ``policy.predict`` made of ``of.teaching``.
        alpha: the share of users who may be made worse.
        seed: of the redraws.

    Returns:
        policy, calibrated_on ("same fold" or "other folds"), alpha, routed, worse, nobody (means over redraws); and,
        by name, the share made worse in each redraw.
    """
    rows, draws = [], {}
    for name, among in learned(of).items():
        chosen = best_predicted(prediction, among)
        here, before = (at_risk(chosen, of, judged) for judged in (True, False))
        for how, known in (("same fold", here), ("other folds", before)):
            redrawn = risk.redraws(known, here, alpha, seed)
            means = redrawn.drop(columns="draw").mean().to_dict()
            rows.append({"policy": name, "calibrated_on": how, "alpha": alpha} | means)
            draws[f"{name}, calibrated on the {how}"] = redrawn["worse"]
    return pd.DataFrame(rows), draws


def learned(of: Allocation) -> dict[str, list[str]]:
    """The policies that go by predicted uplift, and between which arms each chooses."""
    _, known = of.teaching
    asked = known.loc[known["fold"] != known["test"], of.of_model].notna().to_numpy().any()
    return {PREDICTED: of.arms} | ({PREDICTED + OF_LLM: of.of_model} if asked else {})


# --- who gets what, and the bill --------------------------------------------------------------------------------------


def handed_over(of: Allocation, chosen: pd.DataFrame, share: float) -> pd.DataFrame:
    """The hand-overs of a policy that a budget reaches: CASE, arm, score, chance (above 0).

    Args:
        of: what is allocated.
        chosen: CASE, arm, score.
        share: the budget, as a share of all users.
    """
    return chosen.assign(chance=frontier.hand_over(chosen, of.outcomes, share)).query("chance > 0")


def portrait(of: Allocation, handed: pd.DataFrame) -> pd.DataFrame:
    """What is known beforehand of those who are handed over and of the others who might be: means.

    Args:
        of: what is allocated.
        handed: ``handed_over``.

    Returns:
        feature, handed over, left; NaN of a group that nobody is in.
    """
    features, _ = of.teaching
    known = features[features["fold"] == features["test"]].drop(columns="fold")
    marked = known.merge(handed[[*policy.CASE, "chance"]], "left", policy.CASE)
    chance, columns = marked["chance"].fillna(0), known.columns.drop(policy.CASE)
    found = pd.DataFrame(index=columns.rename("feature"))
    for kind, weight in (("handed over", chance), ("left", 1 - chance)):
        found[kind] = marked[columns].mul(weight, axis=0).sum() / weight.sum()
    return found.reset_index()


def followed(of: Allocation, chosen: pd.DataFrame, triage: pd.DataFrame) -> pd.DataFrame:
    """One user through every fold, judged lists only: the one who is handed over most often, of these the most weak."""
    cases = of.cases.merge(chosen, "left").merge(triage[[*policy.CASE, "performance", "weak"]])
    order = cases.assign(handed=cases["arm"].notna()).groupby("user")[["handed", "weak"]].sum()
    user = order.sort_values(["handed", "weak"], ascending=False, kind="stable").index[0]
    rows = cases[cases["user"] == user]
    return rows.sort_values(["recommender", "test"]).reset_index(drop=True)


def bill(table: pd.DataFrame, users: int) -> pd.DataFrame:
    """What a policy's budgets cost a service with that many users who each need one list: dollars, and AUC gained."""
    rows = table[table["group"] == "everybody"]
    return rows[["policy", "share", "routed", "gain", "low", "high"]].assign(usd=rows["usd"] * users)


def own_auc(of: Allocation, groups: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """How well the recommenders themselves serve each group, as ``frontier.frontier`` weighs its lists."""
    own = of.outcomes.assign(own=0.5 - of.outcomes[RANDOM_ORDER])[[*policy.CASE, "weight", "own"]]
    found = {}
    for name, group in groups.items():
        rows = group[policy.CASE].merge(own)
        votes = rows["weight"] / rows.groupby(policy.CASE[1:])["recommender"].transform("size")
        found[name] = float(np.average(rows["own"], weights=votes)) if len(rows) else np.nan
    return found


def record(table: pd.DataFrame, share: float = 0.1) -> dict[str, Any]:
    """The frontier at one budget for metrics.json, by policy and group."""
    rows = table[table["share"] == share]
    numbers = ["routed", "gain", "low", "high", "worse", "usd"]
    by_policy: Mapping[str, pd.DataFrame] = dict(list(rows.groupby("policy", sort=False)))
    return {name: {row["group"]: {one: row[one] for one in numbers} for row in part.to_dict("records")}
            for name, part in by_policy.items()}  # fmt: skip
