"""What is paid is the sum over the lists handed over, and what it buys is a mean over everybody."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.evaluation import costs, cross, verdicts
from hybridrec.evaluation.prices import Price

MACHINE = Price(hour=3.6)  # a thousandth of a dollar a second
TOKENS = Price(prompt=10.0, cached=1.0, completion=100.0)  # US dollars per million


@pytest.fixture
def usage() -> pd.DataFrame:
    """``fast`` was asked for four users, the last of whom is active, ``slow`` for two of them."""
    rows = [
        ("fast", 1, 100, 10, 1, 2.0),
        ("fast", 2, 200, 20, 2, 3.0),
        ("fast", 3, 400, 40, 4, 5.0),
        ("fast", 4, 100, 10, 1, 2.0),
        ("slow", 1, 100, 0, 50, 20.0),
        ("slow", 2, 200, 0, 60, 30.0),
    ]
    table = pd.DataFrame(rows, columns=["ranker", "user", *costs.USAGE])
    return table.assign(inactive=table["user"] < 4)


@pytest.fixture
def table(usage) -> pd.DataFrame:
    routings = {"nobody": handed(), "weak only": handed(1, 2), "everybody": handed(1, 2, 3, 4)}
    return costs.cost_table(usage, routings, MACHINE).set_index(["ranker", "routing"])


def handed(*users: int) -> pd.DataFrame:
    """Lists of users, of whom only 4 is active."""
    return pd.DataFrame({"user": pd.Series(users, dtype="int64"), "inactive": [user != 4 for user in users]}).astype(
        {"inactive": bool}
    )


def test_totals_are_those_of_the_lists_that_are_handed_over(usage):
    total = costs.cost_of(usage[usage["ranker"] == "fast"], handed(1, 3), MACHINE)
    assert total == pytest.approx(
        {"calls": 2, "measured": 1, "prompt_tokens": 500, "cached_tokens": 50, "completion_tokens": 5}
        | {"seconds": 7.0, "usd": 0.007}
    )


def test_tokens_are_paid_for_by_their_kind(usage):
    total = costs.cost_of(usage[usage["ranker"] == "fast"], handed(1, 3), TOKENS)
    assert total["usd"] == pytest.approx((450 * 10.0 + 50 * 1.0 + 5 * 100.0) / 1e6)


def test_a_user_who_is_handed_over_in_two_folds_is_asked_twice(usage):
    total = costs.cost_of(usage[usage["ranker"] == "fast"], handed(1, 1, 3), MACHINE)
    assert (total["calls"], total["seconds"]) == (3, 9.0)


def test_a_user_without_a_call_counts_as_the_mean_of_their_kind_and_is_told(usage):
    total = costs.cost_of(usage[usage["ranker"] == "slow"], handed(1, 2, 8, 9), MACHINE)
    assert (total["calls"], total["measured"], total["seconds"]) == (4, 0.5, 100.0)
    # User 2 is not handed over here, and says nothing of those who are.
    assert costs.cost_of(usage[usage["ranker"] == "slow"], handed(1, 8), MACHINE)["seconds"] == 40.0


def test_nobody_costs_nothing(table):
    nobody = table.xs("nobody", level="routing")
    assert (nobody["run"] == "yes").all()
    assert (nobody[["calls", *costs.USAGE, "usd"]] == 0).all(axis=None)


def test_each_routing_has_its_own_total_and_folds_share_it(table, usage):
    assert table.loc[("fast", "weak only"), "usd"] == pytest.approx(0.005)
    assert table.loc[("fast", "everybody"), "usd"] == pytest.approx(0.012)
    per_fold = costs.cost_table(usage, {"all": handed(1, 2)}, MACHINE, folds=5).set_index("ranker").loc["slow"]
    assert per_fold[["calls", "measured", "seconds"]].tolist() == pytest.approx([0.4, 1, 10.0])


def test_a_kind_of_users_that_was_never_asked_is_not_run_and_not_estimated(table):
    row = table.loc[("slow", "everybody")]  # it was asked for no active user
    assert row["run"] == "not run"
    assert row[["calls", *costs.USAGE, "usd"]].isna().all()


def test_usage_is_counted_once_a_user_not_once_a_candidate(usage):
    rankings = pd.concat([usage.assign(item=item) for item in range(4)], ignore_index=True)
    found = costs.usage_per_user(rankings).sort_values(["ranker", "user"], ignore_index=True)
    pd.testing.assert_frame_equal(found, usage.drop(columns="inactive"))


# --- what it buys -----------------------------------------------------------------------------------------------------


def study(quality: dict[int, tuple[float, float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lists of users with one liked of five items, in one fold: the AUC by the recommender "A" and by "llm"."""
    parts = []
    for user, aucs in quality.items():
        for name, auc in zip(("A", "llm"), aucs, strict=True):
            rows = {"ranker": name, "draw": 0, "test": 0, "fold": 0, "user": user, "correct": 4 * auc, "pairs": 4}
            parts.append(rows | {"ndcg_at_10": 1.0})
    lists = pd.DataFrame(parts).dropna()
    return lists, pd.DataFrame({"recommender": "A", "test": 0, "user": list(quality)})


def test_the_gain_is_over_everybody_and_those_not_handed_over_gain_nothing():
    lists, everybody = study({1: (0.5, 1.0), 2: (0.5, 0.75), 3: (1.0, 0.0), 4: (1.0, 0.0)})
    found = costs.gain(lists, everybody, everybody[:2], "llm").set_index("user")
    assert found["difference"].to_dict() == {1: 0.5, 2: 0.25, 3: 0, 4: 0}
    assert verdicts.judge(cross.family("cost", {"llm": found.reset_index()}))["mean"][0] == pytest.approx(0.75 / 4)


def test_a_sample_stands_for_all_who_could_have_been_asked():
    lists, everybody = study({1: (0.5, 1.0), 2: (0.5, np.nan), 3: (0.5, np.nan), 4: (1.0, 0.0)})
    found = costs.gain(lists, everybody, everybody[:3], "llm", asked={1})
    assert found["user"].tolist() == [1, 4]
    assert np.average(found["difference"], weights=found["weight"]) == pytest.approx(3 * 0.5 / 4)
    everyone = costs.gain(*study({1: (0.5, 1.0), 2: (0.5, 0.75)}), everybody[:2], "llm", asked={1, 2})
    assert everyone["weight"].tolist() == [1, 1]


def test_nobody_handed_over_gains_nothing():
    lists, everybody = study({1: (0.5, 1.0), 2: (0.5, 0.75)})
    found = costs.gain(lists, everybody, everybody[:0], "llm", asked={1})
    assert found["difference"].tolist() == [0, 0] and found["weight"].tolist() == [1, 1]
