"""Bounded harm: what conformal risk control promises holds over redraws, where a naive choice breaks it."""

import numpy as np
import pandas as pd
import pytest

import hybridrec as hr
from hybridrec.allocation import risk
from hybridrec.errors import BudgetError, DatasetError, ScoresError


def users(rng: np.random.Generator, number: int, harm: float = 0.5, lists: int = 1) -> pd.DataFrame:
    """Scores that know nothing, and lists that come out worse by chance."""
    rows = pd.DataFrame({"user": np.arange(number).repeat(lists), "score": rng.random(number * lists)})
    return rows.assign(worse=rng.random(len(rows)) < harm)


def naive(calibration: pd.DataFrame, alpha: float) -> float:
    """What one would do without the theorem: the largest share that did no more harm than alpha to these users."""
    ordered = calibration.sort_values("score", ascending=False)
    harmed = ordered["worse"].cumsum() / len(ordered)
    return ordered.loc[harmed <= alpha, "score"].min()


def test_bound_holds_over_redraws_where_a_naive_choice_breaks_it():
    rng, alpha = np.random.default_rng(8), 0.1
    worse = []
    for _ in range(400):
        drawn, fresh = users(rng, 20), users(rng, 1000)
        worse.append([
            risk.realised(fresh, at)["worse"] for at in (risk.threshold(drawn, alpha), naive(drawn, alpha))
        ])  # fmt: skip
    ours, naively = np.mean(worse, axis=0)
    assert ours <= alpha
    assert naively > alpha + 0.01  # 3 / 21 by order statistics, less what lies between two scores


def test_threshold_by_hand():
    rows = pd.DataFrame({
        "user": range(9), "score": [9, 8, 7, 6, 5, 4, 3, 2, np.nan],
        "worse": [False, True, False, False, True, False, False, False, True],
    })  # fmt: skip
    # (harmed + 1) / (9 + 1) <= alpha: none may be harmed at 0.1, one at 0.2, two at 0.3.
    assert risk.threshold(rows, 0.1) == 9
    assert risk.threshold(rows, 0.2) == 6
    assert risk.threshold(rows, 0.3) == 2  # who has no score is never handed over, so harms nobody
    assert risk.threshold(rows, 0.05) == risk.NOBODY


def test_several_lists_of_a_user_are_one_loss():
    rows = pd.DataFrame({"user": [1, 1, 2, 3], "score": [4, 3, 2, 1], "worse": [True, False, False, True]})
    assert risk.threshold(rows, 0.4) == 2  # (1/2 + 1) / 4
    assert risk.threshold(rows, 0.37) == risk.NOBODY
    assert risk.realised(rows, 2) == {"routed": pytest.approx(2 / 3), "worse": pytest.approx(1 / 6)}
    assert risk.realised(rows, risk.NOBODY) == {"routed": 0, "worse": 0}


def test_redraws_stay_within_the_bound_and_use_what_it_allows():
    rng = np.random.default_rng(1)
    judged = pd.concat([users(rng, 300, lists=2).assign(test=test) for test in range(3)])
    found = risk.redraws(judged, judged, 0.1, 0, 100)
    assert len(found) == 100 and found["nobody"].eq(0).all()
    assert 0.08 < found["worse"].mean() <= 0.102
    assert found["routed"].mean() == pytest.approx(2 * found["worse"].mean(), abs=0.03)
    few = judged[judged["user"] < 10]  # five users calibrate: too few for 0.1
    assert risk.redraws(few, few, 0.1, 0, 5)["nobody"].eq(1).all()


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2])
def test_alpha_is_a_share(alpha):
    with pytest.raises(BudgetError, match="max_harm"):
        risk.threshold(users(np.random.default_rng(0), 20), alpha)


# --- allocate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def triage():
    number = 6
    return pd.DataFrame({
        "user": range(number), "performance": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8], "pairs": 10, "sparsity": 0.9,
        "inactive": True, "weak": [True, True, False, False, False, False],
        "shrunken": [0.35, 0.4, 0.5, 0.6, 0.7, 0.8], "sd": 0.1, "upper": 0.9,
    })  # fmt: skip


@pytest.fixture
def policy():
    return pd.DataFrame({"user": [5, 4, 3, 0], "uplift": [0.1, 0.35, -0.2, 0.1]})


def test_policy_takes_the_place_of_the_rule(triage, policy):
    assert hr.allocate(triage)["user"].tolist() == [0, 1]
    routed = hr.allocate(triage, policy=policy)
    assert routed["user"].tolist() == [4, 0, 5]  # of equal ones by id; who is expected to lose stays
    assert routed["uplift"].tolist() == [0.35, 0.1, 0.1]
    assert routed["performance"].tolist() == [0.7, 0.3, 0.8]
    within = hr.allocate(triage, policy=policy, budget_users=1)
    assert within["user"].tolist() == [4] and within.attrs == {"left_out": 2, "too_risky": 0}


def test_policy_within_a_budget_of_dollars(triage, policy):
    cost = pd.DataFrame({"user": range(6), "prompt_tokens": 10, "completion_tokens": 0, "usd": [1, 1, 1, 1, 5, 1]})
    assert hr.allocate(triage, policy=policy, budget_usd=2, cost=cost)["user"].tolist() == [0, 5]
    with pytest.raises(BudgetError, match="user of the policy 4"):
        hr.allocate(triage, policy=policy, budget_usd=2, cost=cost[:4])


def test_seconds_are_a_budget_too(triage, policy):
    cost = pd.DataFrame({"user": range(6), "prompt_tokens": 10, "completion_tokens": 0, "usd": 1, "seconds": 2.0})
    assert hr.allocate(triage, policy=policy, budget_seconds=5, cost=cost)["user"].tolist() == [4, 0]
    with pytest.raises(DatasetError, match="seconds"):
        hr.allocate(triage, budget_seconds=5, cost=cost.drop(columns="seconds"))
    with pytest.raises(BudgetError, match="cost"):
        hr.allocate(triage, budget_seconds=5)


def test_harm_is_bounded(triage, policy):
    known = pd.DataFrame({"user": range(20), "uplift": np.linspace(1, 0.05, 20), "worse": [0] * 14 + [1] * 6})
    routed = hr.allocate(triage, policy=policy, max_harm=0.1, calibration=known)
    assert risk.threshold(known.rename(columns={"uplift": "score"}), 0.1) == pytest.approx(0.3)
    assert routed["user"].tolist() == [4] and routed.attrs["too_risky"] == 2


def test_nobody_is_an_answer(triage, policy):
    known = pd.DataFrame({"user": range(20), "uplift": np.linspace(1, 0.05, 20), "worse": True})
    routed = hr.allocate(triage, policy=policy, max_harm=0.05, calibration=known, budget_users=3)
    assert routed.empty and routed.attrs == {"left_out": 0, "too_risky": 3}
    assert hr.allocate(triage, policy=policy.assign(uplift=-1.0), budget_users=3).empty


def test_what_is_given_is_checked(triage, policy):
    known = pd.DataFrame({"user": range(20), "uplift": 0.1, "worse": False})
    with pytest.raises(BudgetError, match="policy"):
        hr.allocate(triage, max_harm=0.1, calibration=known)
    with pytest.raises(BudgetError, match="calibration"):
        hr.allocate(triage, policy=policy, max_harm=0.1)
    with pytest.raises(BudgetError, match="uplift"):
        hr.allocate(triage, policy=policy.assign(uplift=np.nan))
    with pytest.raises(ScoresError, match="77"):
        hr.allocate(triage, policy=policy.replace({"user": {5: 77}}))
    with pytest.raises(DatasetError, match="worse"):
        hr.allocate(triage, policy=policy, max_harm=0.1, calibration=known.drop(columns="worse"))
    with pytest.raises(DatasetError):
        hr.allocate(triage, policy=pd.concat([policy, policy]))
