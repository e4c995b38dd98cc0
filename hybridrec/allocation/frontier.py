"""What each policy gains for how much: the share of users handed over against the AUC gained, and dollars."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hybridrec.allocation.policy import CASE
from hybridrec.errors import ScoresError
from hybridrec.randomness import generator

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def hand_over(policy: pd.DataFrame, cases: pd.DataFrame, share: float) -> np.ndarray:
    """How likely each hand-over is when this share of the users of each recommender and test fold is the budget.

    Args:
        policy: CASE, arm, score; the highest score first (see ``policy.nobody``).
        cases: CASE and weight (how many users a row stands for): everybody, also who cannot be handed over.
        share: of the summed weight, from 0 to 1.

    Returns:
        For each row of ``policy`` from 0 to 1, shape (rows,): between them only for users of equal score of whom the
        budget reaches a part. Each is as likely as the others, so a random choice counts by its expectation.
    """
    service = CASE[:2]
    room = (cases.groupby(service)["weight"].sum() * share).rename("room")
    rows = policy.merge(cases[[*CASE, "weight"]], "left", CASE)
    if rows["weight"].isna().any():
        one = rows[rows["weight"].isna()].iloc[0]
        raise ScoresError(
            f"the policy hands over user {one['user']} ({one['recommender']}, test fold {one['test']}), who is not "
            "among the cases."
        )
    tied = rows.groupby([*service, "score"])["weight"].sum().rename("tied").reset_index()
    tied = tied.sort_values([*service, "score"], ascending=False)
    before = tied.groupby(service)["tied"].cumsum() - tied["tied"]
    left = tied.join(room, on=service)["room"] - before
    tied["chance"] = (left / tied["tied"]).clip(0, 1)
    return rows.merge(tied, "left", [*service, "score"])["chance"].to_numpy()


def frontier(
    outcomes: pd.DataFrame,
    policies: Mapping[str, pd.DataFrame],
    groups: Mapping[str, pd.DataFrame],
    seed: int,
    shares: Sequence[float] = SHARES,
    samples: int = 1000,
    usd: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The gain of every policy for every budget, with intervals over users.

    Args:
        outcomes: CASE, weight (how many users a row stands for), and a column for each arm: its uplift on the judged
            list. A hand-over without an uplift leaves the recommender's order, and counts.
        policies: by name, CASE, arm, score.
        groups: by name, CASE: whose gain. Of one user in one fold, the recommenders in whose group the user is share
            one vote.
        seed, samples: of the bootstrap, which draws users, with all that they have. Whom a policy hands over is not
            decided again.
        shares: budgets, as shares of all users.
        usd: dollars that a list costs, by arm; an arm that is not in it makes the price unknown.

    Returns:
        policy, share, group, users, routed (share of the group handed over), gain (mean over the group's lists, of
        which those not handed over gain 0), low, high (95 %), worse (share of the group's lists made worse), usd (mean
        over the group's lists).
    """
    users = np.unique(outcomes["user"])
    counts = generator(seed, "frontier").multinomial(len(users), np.full(len(users), 1 / len(users)), samples)
    weighted = {name: _votes(group, outcomes) for name, group in groups.items()}
    uplift = outcomes.drop(columns="weight").melt(CASE, var_name="arm", value_name="gain")
    rows = []
    for name, policy in policies.items():
        found = policy.merge(uplift, "left", [*CASE, "arm"])
        price = found["arm"].map(dict(usd or {})).astype(float)
        for share in shares:
            chance = hand_over(policy, outcomes, share)
            values = found[CASE].assign(
                routed=chance,
                gain=chance * found["gain"].fillna(0),
                worse=chance * (found["gain"].round(12) < 0),
                usd=np.where(chance > 0, chance * price, 0.0),
            )
            for group, votes in weighted.items():
                row = {"policy": name, "share": share, "group": group, "users": votes["user"].nunique()}
                rows.append(row | _means(votes, values, users, counts))
    return pd.DataFrame(rows)


def _votes(group: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """CASE and weight of a group's rows that are judged."""
    rows = group[CASE].merge(outcomes[[*CASE, "weight"]])
    return rows.assign(weight=rows["weight"] / rows.groupby(CASE[1:])["recommender"].transform("size"))


def _means(votes: pd.DataFrame, values: pd.DataFrame, users: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Weighted means over a group, and the interval of the gain."""
    names = ["routed", "gain", "worse", "usd"]
    joined = votes.merge(values, "left", CASE).fillna(dict.fromkeys(names[:3], 0.0))
    absent = ~pd.MultiIndex.from_frame(joined[CASE]).isin(pd.MultiIndex.from_frame(values[CASE]))
    joined.loc[absent, "usd"] = 0.0
    weight = joined["weight"].to_numpy()
    total = weight.sum()
    if not total:
        return dict.fromkeys(["routed", "gain", "low", "high", "worse", "usd"], np.nan)
    routed, gain, worse, usd = ((joined[name] * weight).sum(skipna=False) / total for name in names)
    at = np.searchsorted(users, joined["user"])
    gained, whole = (np.bincount(at, one, len(users)) for one in (joined["gain"] * weight, weight))
    drawn = counts @ whole
    low, high = np.quantile((counts @ gained)[drawn > 0] / drawn[drawn > 0], [0.025, 0.975])
    return {"routed": routed, "gain": gain, "low": low, "high": high, "worse": worse, "usd": usd}
