"""Who is handed to the language model: all weak users, as published, or those whom a policy expects to gain.

Of either as many as a budget allows, and, where a policy is to be bounded, as few as the bound on harm asks for.
"""

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.allocation import risk
from hybridrec.errors import BudgetError
from hybridrec.weak_users.triage import Triage

_ROUTED = ["user", "performance", "tokens", "usd"]
_COST = ["user", "prompt_tokens", "completion_tokens", "usd"]


def allocate(
    triage: Triage | schema.Table,
    *,
    budget_users: int | None = None,
    budget_tokens: float | None = None,
    budget_usd: float | None = None,
    budget_seconds: float | None = None,
    cost: schema.Table | None = None,
    policy: schema.Table | None = None,
    max_harm: float | None = None,
    calibration: schema.Table | None = None,
) -> pd.DataFrame:
    """The users to route, first those who need it most: the worst served, or who are expected to gain most.

    Weak users are taken in the order of their shrunken P(u), the lowest first; equal ones in the order of their ids
    (numbers by size, text by the alphabet). With a policy, those whose predicted uplift is above 0 are taken instead,
    weak or not, the highest first. One who does not fit into what is left of the budget is passed over, and
    cheaper ones after them are still taken. With several budgets a user must fit into each of them.

    Args:
        triage: who is weak (``weak_users.triage.triage``), or its table, also as a .csv or .parquet file.
        budget_users: how many users at most.
        budget_tokens: how many tokens at most, prompts and completions together.
        budget_usd: how many US dollars at most.
        budget_seconds: how many seconds of the language model at most.
        cost: what each user costs: user, prompt_tokens, completion_tokens, usd (``Ranker.estimate``), and seconds for a
            budget of these; a table or a .csv or .parquet file. Needed for a budget of tokens, dollars or seconds; must
            then hold everybody who may be routed.
        policy: user, uplift: what each user's list is expected to gain (``policy.predict``), a table or a file. Give
            only users who may be handed over. None: the published rule.
        max_harm: the share of the policy's users, from 0 to 1, who may be made worse (conformal risk control, see
            ``risk.threshold``). Needs ``policy`` and ``calibration``. The answer may be nobody.
        calibration: user, uplift, worse: users like those of the policy (none of whom taught it), for whom it is known
            whether the language model's list came out worse (true, false, 1 or 0); a row a list.

    Returns:
        Columns user, performance (P(u), not shrunken), tokens, usd (the last two NaN without ``cost``), and with a
        policy uplift, in the order in which users were taken. ``attrs["left_out"]`` counts those whom the budget does
        not reach, ``attrs["too_risky"]`` those who are expected to gain and whom ``max_harm`` leaves where they are.
        Without a budget all weak users are routed, as published; where nobody is weak, nobody is expected to gain, or
        no share of users is safe enough, the table is empty.

    Raises:
        BudgetError: a budget that is not a number above 0 (of users: a whole one), that is below what the cheapest
            user costs, or that comes without ``cost``; a user with no cost, with two, or with one that is not a finite
            number of at least 0 (names the user); ``max_harm`` that is no share or lacks ``policy`` or ``calibration``;
            an uplift that is not a finite number.
        ScoresError: a user of the policy whom the triage does not know.
        DatasetError: a table lacks a column, or has a user twice.

    Source: Kaur & Shah 2024, section 3 (all weak users); bounded harm: Angelopoulos et al. 2022; the rest is ours.
    """
    budgets = _budgets({"users": budget_users, "tokens": budget_tokens, "usd": budget_usd, "seconds": budget_seconds})
    table = triage.table if isinstance(triage, Triage) else schema.read(triage, schema.TRIAGE, "the triage")
    chosen, too_risky = _chosen(table, policy, max_harm, calibration)
    who = "weak user" if policy is None else "user of the policy"
    if cost is None and (unpriced := budgets.keys() - {"users"}):
        raise BudgetError(f"budget_{min(unpriced)} needs cost, what each user costs: see Ranker.estimate.")
    kinds = ["tokens", "usd", *(["seconds"] if budget_seconds is not None else [])]
    spent = pd.DataFrame(np.nan, chosen.index, kinds) if cost is None else _costs(chosen["user"], cost, who, kinds)
    priced = chosen.assign(tokens=spent["tokens"], usd=spent["usd"])
    taken = _affordable(spent.assign(users=1.0)[list(budgets)], budgets)
    if len(chosen) and not taken.any():
        least = " and ".join(f"{spent[kind].min():g} {kind}" for kind in budgets if kind != "users")
        raise BudgetError(f"the budget reaches no {who}: the cheapest takes {least}. Raise it.")
    routed = priced[taken].reset_index(drop=True)
    columns = [*_ROUTED, *(["uplift"] if policy is not None else [])]
    routed = routed[columns]
    routed.attrs["left_out"] = len(chosen) - len(routed)
    routed.attrs["too_risky"] = too_risky
    return routed


def _chosen(
    triage: pd.DataFrame, policy: schema.Table | None, max_harm: float | None, calibration: schema.Table | None
) -> tuple[pd.DataFrame, int]:
    """Who would be handed over without a budget, in order, and how many more ``max_harm`` leaves out."""
    if max_harm is not None and (policy is None or calibration is None):
        lacking = "policy" if policy is None else "calibration"
        raise BudgetError(f"max_harm needs {lacking}: who is made worse is told from users whose outcome is known.")
    if policy is None:
        return triage[triage["weak"].astype(bool)].sort_values(["shrunken", "user"], ignore_index=True), 0
    expected = schema.read(policy, ["user", "uplift"], "the policy", unique=["user"])
    expected = expected.assign(user=schema.like(expected["user"], triage["user"]))
    schema.refuse_unknown(expected["user"], triage["user"], "the policy")
    expected["uplift"] = schema.finite(expected, "uplift", "the policy", BudgetError)
    gains = expected.loc[expected["uplift"] > 0, ["user", "uplift"]].merge(triage[["user", "performance"]])
    gains = gains.sort_values(["uplift", "user"], ascending=[False, True], ignore_index=True)
    if max_harm is None:
        return gains, 0
    assert calibration is not None
    known = schema.read(calibration, ["user", "uplift", "worse"], "the calibration")
    limit = risk.threshold(known.rename(columns={"uplift": "score"}).astype({"worse": float}), max_harm)
    safe = gains[gains["uplift"] >= limit]
    return safe, len(gains) - len(safe)


def _budgets(given: dict[str, float | None]) -> dict[str, float]:
    """Those that are given."""
    budgets = {kind: budget for kind, budget in given.items() if budget is not None}
    for kind, budget in budgets.items():
        number = isinstance(budget, int | float | np.number) and not isinstance(budget, bool)
        if not (number and budget > 0) or (kind == "users" and budget % 1 != 0):
            wanted = "a whole number of at least 1" if kind == "users" else "a number above 0"
            raise BudgetError(
                f"budget_{kind} is {budget!r}; it must be {wanted}. To hand nobody over, do not rank either."
            )
    return budgets


def _costs(users: pd.Series, cost: schema.Table, who: str, kinds: list[str]) -> pd.DataFrame:
    """Tokens, US dollars and, where they are among ``kinds``, seconds of each user, in their order."""
    columns = [*_COST, *(["seconds"] if "seconds" in kinds else [])]
    cost = schema.read(cost, columns, "the table of costs")
    cost = cost.assign(user=schema.like(cost["user"], users))
    cost = cost.loc[cost["user"].isin(users), columns]
    spent = cost.assign(tokens=cost["prompt_tokens"] + cost["completion_tokens"])[kinds]
    bad = ~(np.isfinite(spent) & (spent >= 0)).all(axis=1)
    for fault, named in (
        ("has no cost", users[~users.isin(cost["user"])]),
        ("has two costs", cost.loc[cost["user"].duplicated(), "user"]),
        ("has a cost that is not a finite number of at least 0", cost.loc[bad, "user"]),
    ):
        if len(named):
            more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
            raise BudgetError(f"{who} {named.iloc[0]} {fault}{more}: estimate the cost for all of them, each once.")
    return spent.set_index(pd.Index(cost["user"])).loc[users].reset_index(drop=True)


def _affordable(spent: pd.DataFrame, budgets: dict[str, float]) -> np.ndarray:
    """Whether each row, in order, fits into what those taken before it have left of every budget."""
    whole, taken = np.array(list(budgets.values()), dtype=float), np.zeros(len(spent), dtype=bool)
    left = whole * (1 + 1e-12)  # sums of dollars are not exact
    for row, price in enumerate(spent.to_numpy(dtype=float)):
        taken[row] = (price <= left).all()
        left = left - price * taken[row]
    return taken
