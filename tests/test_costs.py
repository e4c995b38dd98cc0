"""What is paid is the sum over routed users' measured calls; what was not measured is never estimated."""

import pandas as pd
import pytest

from hybridrec.evaluation import costs
from hybridrec.evaluation.prices import Price

MACHINE = Price(hour=3.6)  # a thousandth of a dollar a second
TOKENS = Price(prompt=10.0, cached=1.0, completion=100.0)  # US dollars per million


@pytest.fixture
def usage() -> pd.DataFrame:
    """``fast`` was asked for three users, ``slow`` for two of them."""
    rows = [
        ("fast", 1, 100, 10, 1, 2.0),
        ("fast", 2, 200, 20, 2, 3.0),
        ("fast", 3, 400, 40, 4, 5.0),
        ("slow", 1, 100, 0, 50, 20.0),
        ("slow", 2, 200, 0, 60, 30.0),
    ]
    return pd.DataFrame(rows, columns=["ranker", "user", *costs.USAGE])


@pytest.fixture
def table(usage) -> pd.DataFrame:
    routings = {"nobody": pd.Index([], dtype="int64"), "weak only": pd.Index([1, 2]), "everybody": pd.Index([1, 2, 3])}
    return costs.cost_table(usage, routings, MACHINE).set_index(["ranker", "routing"])


def test_totals_are_those_of_the_routed_users(usage):
    total = costs.cost_of(usage[usage["ranker"] == "fast"], pd.Index([1, 3]), MACHINE)
    assert total == pytest.approx(
        {"calls": 2, "prompt_tokens": 500, "cached_tokens": 50, "completion_tokens": 5, "seconds": 7.0, "usd": 0.007}
    )


def test_tokens_are_paid_for_by_their_kind(usage):
    total = costs.cost_of(usage[usage["ranker"] == "fast"], pd.Index([1, 3]), TOKENS)
    assert total["usd"] == pytest.approx((450 * 10.0 + 50 * 1.0 + 5 * 100.0) / 1e6)


def test_a_user_who_was_never_asked_for_is_named(usage):
    with pytest.raises(KeyError, match=r"user 8 \(and 1 more\)"):
        costs.cost_of(usage[usage["ranker"] == "slow"], pd.Index([1, 8, 9]), MACHINE)


def test_nobody_costs_nothing(table):
    nobody = table.xs("nobody", level="routing")
    assert (nobody["run"] == "yes").all()
    assert (nobody[["calls", *costs.USAGE, "usd"]] == 0).all(axis=None)


def test_each_routing_has_its_own_total(table):
    assert table.loc[("fast", "weak only"), "usd"] == pytest.approx(0.005)
    assert table.loc[("fast", "everybody"), "usd"] == pytest.approx(0.010)
    assert table.loc[("slow", "weak only"), ["calls", "seconds"]].tolist() == [2, 50.0]


def test_a_routing_with_one_missing_call_is_not_run_and_not_estimated(table):
    row = table.loc[("slow", "everybody")]
    assert row["run"] == "not run"
    assert row[["calls", *costs.USAGE, "usd"]].isna().all()


def test_usage_is_counted_once_a_user_not_once_a_candidate(usage):
    rankings = pd.concat([usage.assign(item=item) for item in range(4)], ignore_index=True)
    found = costs.usage_per_user(rankings).sort_values(["ranker", "user"], ignore_index=True)
    pd.testing.assert_frame_equal(found, usage)
