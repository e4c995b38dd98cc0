"""Who is routed under a budget: the worst served first, no budget overspent, and every budget that must be refused."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.allocation.budget import allocate
from hybridrec.errors import BudgetError, DatasetError
from hybridrec.weak_users.triage import Thresholds, Triage


def of(**columns) -> Triage:
    return Triage(pd.DataFrame(columns), Thresholds(0.5, 0.9), by_luck=1.0, by_luck_sd=1.0, spread=0.1)


@pytest.fixture
def triage() -> Triage:
    """Weak, the worst served first by shrunken P(u): d, a and c (equal), b. e is not weak."""
    return of(
        user=["e", "c", "d", "a", "b"], performance=[0.9, 0.0, 0.3, 0.2, 0.4], shrunken=[0.3, 0.5, 0.4, 0.5, 0.6],
        weak=[False, True, True, True, True],
    )  # fmt: skip


@pytest.fixture
def cost() -> pd.DataFrame:
    """Tokens of d, a, c, b: 50, 100, 20, 10. US dollars: 0.1, 0.2, 0.1, 0.1."""
    columns = {"user": [*"abcde"], "prompt_tokens": [90, 10, 20, 40, 1], "completion_tokens": [10, 0, 0, 10, 0]}
    return pd.DataFrame(columns | {"usd": [0.2, 0.1, 0.1, 0.1, 0.0]})


def test_without_a_budget_all_weak_users_are_routed_the_worst_first(triage):
    routed = allocate(triage)
    assert list(routed) == ["user", "performance", "tokens", "usd"]
    assert routed["user"].tolist() == ["d", "a", "c", "b"]
    assert routed["performance"].tolist() == [0.3, 0.2, 0.0, 0.4]
    assert routed[["tokens", "usd"]].isna().all(axis=None)
    assert routed.attrs["left_out"] == 0


def test_numbers_are_ordered_by_size():
    alike = of(user=[10, 9, 100], performance=[0.1, 0.2, 0.3], shrunken=0.4, weak=True)
    assert allocate(alike)["user"].tolist() == [9, 10, 100]


def test_costs_are_shown_where_they_are_known(triage, cost, tmp_path):
    cost.to_csv(tmp_path / "cost.csv", index=False)
    for given in (cost, cost.sample(frac=1, random_state=1), tmp_path / "cost.csv"):
        routed = allocate(triage, cost=given)
        assert routed["tokens"].tolist() == [50, 100, 20, 10]
        assert routed["usd"].tolist() == [0.1, 0.2, 0.1, 0.1]


@pytest.mark.parametrize(
    ("budget", "users"),
    [
        ({"budget_users": 2}, "da"),
        ({"budget_users": 99}, "dacb"),
        ({"budget_tokens": 150}, "da"),
        ({"budget_tokens": 149}, "dcb"),  # a does not fit any more, the cheaper ones after a do
        ({"budget_tokens": 10}, "b"),
        ({"budget_usd": 0.3}, "da"),  # 0.1 + 0.2 is a little more than 0.3
        ({"budget_usd": 0.5}, "dacb"),
        ({"budget_usd": float("inf")}, "dacb"),
        ({"budget_users": 1, "budget_usd": 0.5}, "d"),  # of two budgets the tighter one holds
        ({"budget_users": 3, "budget_usd": 0.2}, "dc"),
        ({"budget_users": 3, "budget_tokens": 149, "budget_usd": 0.2}, "dc"),
    ],
)
def test_a_budget_takes_the_worst_served_who_fit(triage, cost, budget, users):
    routed = allocate(triage, **budget, cost=cost)
    assert "".join(routed["user"]) == users
    assert routed.attrs["left_out"] == 4 - len(users)


@pytest.mark.parametrize("seed", range(20))
def test_no_budget_is_overspent_and_whoever_is_passed_over_did_not_fit(seed):
    rng = np.random.default_rng(seed)
    users = of(user=np.arange(50), performance=0.2, shrunken=rng.random(50), weak=rng.random(50) < 0.7)
    price = pd.DataFrame({"user": np.arange(50), "prompt_tokens": rng.integers(1, 99, 50), "completion_tokens": 1})
    price["usd"] = rng.random(50)
    routed = allocate(users, budget_tokens=500, budget_usd=8, cost=price)
    assert routed["tokens"].sum() <= 500 and routed["usd"].sum() <= 8 + 1e-9
    everybody = allocate(users, cost=price)
    assert users.table.loc[everybody["user"], "shrunken"].is_monotonic_increasing
    assert routed["user"].tolist() == [user for user in everybody["user"] if user in set(routed["user"])]
    for row in everybody[~everybody["user"].isin(routed["user"])].itertuples():
        before = routed[routed["user"].isin(everybody["user"][: row.Index])]
        assert before["tokens"].sum() + row.tokens > 500 or before["usd"].sum() + row.usd > 8


def test_where_nobody_is_weak_nobody_is_routed(triage, cost):
    nobody = of(**triage.table.assign(weak=False))
    for budget in ({}, {"budget_users": 1}, {"budget_usd": 0.01, "cost": cost}):
        assert allocate(nobody, **budget).empty


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["users", "tokens", "usd"])
@pytest.mark.parametrize("amount", [0, -1, np.nan, "5", True])
def test_a_budget_of_nothing_or_of_no_number_is_refused(triage, cost, kind, amount):
    with pytest.raises(BudgetError, match=f"budget_{kind}"):
        allocate(triage, **{f"budget_{kind}": amount}, cost=cost)


@pytest.mark.parametrize("amount", [1.5, float("inf")])
def test_users_come_in_whole_numbers(triage, amount):
    with pytest.raises(BudgetError, match="budget_users"):
        allocate(triage, budget_users=amount)


@pytest.mark.parametrize(("budget", "least"), [({"budget_tokens": 9}, "10 tokens"), ({"budget_usd": 0.09}, "0.1 usd")])
def test_a_budget_below_the_cheapest_user_is_refused_and_says_what_that_is(triage, cost, budget, least):
    with pytest.raises(BudgetError, match=least):
        allocate(triage, **budget, cost=cost)


@pytest.mark.parametrize("kind", ["tokens", "usd"])
def test_tokens_and_dollars_need_costs(triage, kind):
    with pytest.raises(BudgetError, match=f"budget_{kind} needs cost"):
        allocate(triage, **{f"budget_{kind}": 5})


def test_a_weak_user_without_a_usable_cost_is_named(triage, cost):
    for worse in (
        cost[cost["user"] != "c"],
        pd.concat([cost, cost[cost["user"] == "c"]]),
        cost.assign(usd=cost["usd"].where(cost["user"] != "c")),
        cost.assign(usd=cost["usd"].where(cost["user"] != "c", -0.1)),
        cost.assign(usd=cost["usd"].where(cost["user"] != "c", np.inf)),
    ):
        with pytest.raises(BudgetError, match="user c "):
            allocate(triage, budget_users=2, cost=worse)
    allocate(triage, cost=cost[cost["user"] != "e"])  # who is not weak needs none


def test_a_table_of_costs_without_dollars_is_refused(triage, cost):
    with pytest.raises(DatasetError, match="'usd'"):
        allocate(triage, budget_tokens=100, cost=cost.drop(columns="usd"))
