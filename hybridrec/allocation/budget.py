"""Who is handed to the language model: the published rule (all weak users), or as many of them as a budget allows."""

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.errors import BudgetError
from hybridrec.weak_users.triage import Triage

_COST = ["user", "prompt_tokens", "completion_tokens", "usd"]


def allocate(
    triage: Triage | schema.Table,
    *,
    budget_users: int | None = None,
    budget_tokens: float | None = None,
    budget_usd: float | None = None,
    cost: schema.Table | None = None,
) -> pd.DataFrame:
    """The users to route, worst served first.

    Weak users are taken in the order of their shrunken P(u), the lowest first; equal ones in the order of their ids
    (numbers by size, text by the alphabet). One who does not fit into what is left of the budget is passed over, and
    cheaper ones after them are still taken. With several budgets a user must fit into each of them.

    Args:
        triage: who is weak (``weak_users.triage.triage``), or its table, also as a .csv or .parquet file.
        budget_users: how many users at most.
        budget_tokens: how many tokens at most, prompts and completions together.
        budget_usd: how many US dollars at most.
        cost: what each user costs: user, prompt_tokens, completion_tokens, usd (``Ranker.estimate``), a table or a
            .csv or .parquet file. Needed for a budget of tokens or dollars; must then hold every weak user.

    Returns:
        Columns user, performance (P(u), not shrunken), tokens, usd (the last two NaN without ``cost``), in the order
        in which users were taken. ``attrs["left_out"]`` counts the weak users whom the budget does not reach. Without a
        budget all weak users are routed, as published; where nobody is weak, the table is empty.

    Raises:
        BudgetError: a budget that is not a number above 0 (of users: a whole one), that is below what the cheapest
            weak user costs, or that comes without ``cost``; a weak user with no cost, with two, or with one that is
            not a finite number of at least 0 (names the user).
        DatasetError: ``cost`` lacks a column.

    Source: Kaur & Shah 2024, section 3 (all weak users); the budget is ours.
    """
    budgets = _budgets({"users": budget_users, "tokens": budget_tokens, "usd": budget_usd})
    table = triage.table if isinstance(triage, Triage) else schema.read(triage, schema.TRIAGE, "the triage")
    weak = table[table["weak"].astype(bool)].sort_values(["shrunken", "user"], ignore_index=True)
    if cost is None and (unpriced := budgets.keys() - {"users"}):
        raise BudgetError(f"budget_{min(unpriced)} needs cost, what each user costs: see Ranker.estimate.")
    spent = pd.DataFrame(np.nan, weak.index, ["tokens", "usd"]) if cost is None else _costs(weak["user"], cost)
    priced = pd.concat([weak[["user", "performance"]], spent], axis=1)
    taken = _affordable(spent.assign(users=1.0)[list(budgets)], budgets)
    if len(weak) and not taken.any():
        least = " and ".join(f"{spent[kind].min():g} {kind}" for kind in budgets if kind != "users")
        raise BudgetError(f"the budget reaches no weak user: the cheapest takes {least}. Raise it.")
    routed = priced[taken].reset_index(drop=True)
    routed.attrs["left_out"] = len(weak) - len(routed)
    return routed


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


def _costs(users: pd.Series, cost: schema.Table) -> pd.DataFrame:
    """Tokens and US dollars of each user, in their order."""
    cost = schema.read(cost, _COST, "the table of costs")
    cost = cost.assign(user=schema.like(cost["user"], users))
    cost = cost.loc[cost["user"].isin(users), _COST]
    spent = pd.DataFrame({"tokens": cost["prompt_tokens"] + cost["completion_tokens"], "usd": cost["usd"]})
    bad = ~(np.isfinite(spent) & (spent >= 0)).all(axis=1)
    for fault, named in (
        ("has no cost", users[~users.isin(cost["user"])]),
        ("has two costs", cost.loc[cost["user"].duplicated(), "user"]),
        ("has a cost that is not a finite number of at least 0", cost.loc[bad, "user"]),
    ):
        if len(named):
            more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
            raise BudgetError(
                f"weak user {named.iloc[0]} {fault}{more}: estimate the cost for all weak users, each once."
            )
    return spent.set_index(pd.Index(cost["user"])).loc[users].reset_index(drop=True)


def _affordable(spent: pd.DataFrame, budgets: dict[str, float]) -> np.ndarray:
    """Whether each row, in order, fits into what those taken before it have left of every budget."""
    whole, taken = np.array(list(budgets.values()), dtype=float), np.zeros(len(spent), dtype=bool)
    left = whole * (1 + 1e-12)  # sums of dollars are not exact
    for row, price in enumerate(spent.to_numpy(dtype=float)):
        taken[row] = (price <= left).all()
        left = left - price * taken[row]
    return taken
