"""The tables of notebook 08, from invented lists few enough to work out by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from hybridrec.allocation import policy
from hybridrec.study import allocation_report as report
from hybridrec.study import allocation_study as study
from hybridrec.study.names import OF_LLM, PREDICTED, RANDOM_ORDER

T_OF_TWO = 12.7062  # the quantile of Student's t for two users: one degree of freedom
NOT = np.nan


def rows(recommender: str, test: int, fold: int, **columns: Sequence[float]) -> pd.DataFrame:
    """Lists of one fold, of users 1, 2, ..."""
    table = pd.DataFrame(columns)
    keys = {"recommender": recommender, "test": test, "fold": fold, "user": range(1, len(table) + 1)}
    return table.assign(**keys)[[*policy.KEYS, *columns]]


def allocation(
    *parts: pd.DataFrame, able: Sequence[int] | None = None, of_model: Sequence[str] = (), **features: Sequence[float]
) -> study.Allocation:
    """Of these lists; ``able``: which users may be handed over, all unless told; a random order gains nothing."""
    uplifts = pd.concat(parts, ignore_index=True).assign(**{RANDOM_ORDER: 0.0})
    who = uplifts["user"].isin(uplifts["user"] if able is None else able).to_numpy()
    known = uplifts[policy.KEYS].assign(**features)
    return study.Allocation(known, uplifts, who, np.ones(len(uplifts)), list(of_model), pd.DataFrame())


def chosen(*hand_overs: tuple[int, int, str, float]) -> pd.DataFrame:
    """Of recommender A: test, user, arm, score."""
    table = pd.DataFrame(hand_overs, columns=["test", "user", "arm", "score"])
    return table.assign(recommender="A")[[*policy.CASE, "arm", "score"]]


def said(table: pd.DataFrame, by: str, *columns: str) -> Mapping[str, list[float]]:
    """Some columns of a table, row by row."""
    return table.set_index(by)[list(columns)].T.to_dict("list")


# --- each arm ---------------------------------------------------------------------------------------------------------


def test_arms_have_an_interval_over_the_users_whose_lists_they_ranked():
    of = allocation(
        rows("A", 0, 0, x=[0.1, 0.0, NOT, 9.0]), rows("A", 1, 1, x=[0.3, NOT, NOT, 9.0]),
        rows("A", 0, 1, x=[9.0] * 4), able=[1, 2, 3],
    )  # fmt: skip
    found = report.arms_over_users(of).set_index("arm").loc["x"]
    # Two users: 0.2 over two lists, 0 over one. Mean 0.4/3; its squared error is 2 x ((2 x 1/15)^2 + (2/15)^2) / 3^2.
    error = np.sqrt(2 * 2 * (2 / 15) ** 2) / 3
    assert found["users"] == 2
    assert found[["low", "high"]].tolist() == pytest.approx([0.4 / 3 - T_OF_TWO * error, 0.4 / 3 + T_OF_TWO * error])


# --- the ceiling ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")  # samples that drew one user four times
def test_uplift_is_reliable_as_far_as_it_is_the_same_in_every_fold():
    of = allocation(
        rows("A", 0, 0, x=[0.1, 0.2, 0.3, 0.4]), rows("A", 1, 1, x=[0.1, 0.2, 0.3, 0.4]),
        rows("B", 0, 0, x=[0.1, 0.2, 0.3, 0.4]), rows("B", 1, 1, x=[0.2, 0.1, 0.4, 0.3]),
        rows("A", 0, 1, x=[0.9, 0.1, 0.5, 0.0]),
    )  # fmt: skip
    found = report.ceilings(of, 0, 200).set_index("recommender")
    assert found["arm"].eq("x").all() and found["users"].eq(4).all()
    assert found["mean"].tolist() == pytest.approx([0.25] * 3)
    # B: users' deviations from 0.25 are 0.15 and 0.05 in one fold, 0.05 and 0.15 in the other.
    together = 0.04 / np.sqrt(0.05 * 0.04)
    correlations = {study.ALL: together, "A": 1.0, "B": 0.03 / 0.05}
    assert found["correlation"].to_dict() == pytest.approx(correlations)
    stepped = {name: 2 * one / (1 + one) for name, one in correlations.items()}
    assert found["reliability"].to_dict() == pytest.approx(stepped)
    # A has no luck in it. Of B, means of 0.15 and 0.35 vary by 0.04/3, and half of 0.005 of that is luck.
    assert found.loc["A", "sd"] == pytest.approx(np.sqrt(0.05 / 3))
    assert found.loc["B", "sd"] == pytest.approx(np.sqrt(0.04 / 3 - 0.005 / 2))
    assert (found["low"] <= found["reliability"] + 1e-9).all() and (found["reliability"] <= found["high"] + 1e-9).all()


def test_an_oracles_budget_is_a_share_of_everybody_of_whom_only_some_may_be_handed_over():
    flat = [0.1] * 4
    of = allocation(
        rows("A", 0, 0, x=[0.4, -0.2, 9.0, 9.0], flat=flat), rows("A", 1, 1, x=[0.2, 0.0, 9.0, 9.0], flat=flat),
        rows("B", 0, 0, x=flat, flat=flat), rows("B", 1, 1, x=flat, flat=flat), able=[1, 2],
    )  # fmt: skip
    found = report.oracles(of, [0.25, 0.5, 1.0])
    assert found["share"].tolist() == [0.25, 0.5, 1.0] * 2
    one, same = (found[found["arm"] == arm] for arm in ("x", "flat"))
    # A quarter of everybody is half of those who may: of A's lists those of 0.4 and 0.2, and user 1 by either fold.
    assert one[["raw", "held_out"]].iloc[0].tolist() == pytest.approx([(0.6 + 0.2) / 4 / 2 / 2] * 2)
    # Where nobody differs there is no luck, and no more to gain than half of everybody have.
    for column in ("raw", "corrected", "held_out"):
        assert same[column].tolist() == pytest.approx([0.025, 0.05, 0.05])


# --- what is predicted ------------------------------------------------------------------------------------------------


def test_predictions_are_compared_with_what_came_out_of_judged_lists():
    of = allocation(
        rows("A", 0, 0, x=[0.2, 0.4, 0.6, 9.0], llm=[0.3, NOT, 0.1, 9.0]),
        rows("A", 0, 1, x=[9.0, NOT, NOT, 9.0], llm=[NOT, -9.0, 9.0, 9.0]), able=[1, 2, 3],
    )  # fmt: skip
    prediction = pd.concat([rows("A", 0, fold, x=[0.1, 0.2, 0.3], llm=[0.1, 0.2, 0.3]) for fold in (0, 1)])
    found = report.predicted(of, prediction.reset_index(drop=True))
    names = ("predicted_mean", "predicted_std", "mean", "correlation", "lists_to_learn_from")
    assert said(found, "arm", *names)["x"] == pytest.approx([0.2, 0.1, 0.4, 1.0, 1])
    assert said(found, "arm", *names)["llm"] == pytest.approx([0.2, 0.1, 0.2, -1.0, 2])


def test_lists_are_grouped_by_what_is_predicted_of_them():
    of = allocation(rows("A", 0, 0, x=[0.5, 0.0, 0.1, 0.2, 9.0]), rows("A", 0, 1, x=[9.0] * 5))
    prediction = pd.concat([rows("A", 0, 0, x=[0.4, 0.1, 0.3, 0.2, NOT]), rows("A", 0, 1, x=[0.0] * 5)])
    found = report.by_prediction(of, prediction.reset_index(drop=True), "x", bins=2)
    assert found[["predicted", "lists", "came_out"]].to_numpy() == pytest.approx(
        np.array([[0.15, 2, 0.1], [0.35, 2, 0.3]])
    )
    # Two users, 0.2 and then 0.4 apart: their mean's standard error is half of that.
    assert found["low"].tolist() == pytest.approx([0.1 - T_OF_TWO * 0.1, 0.3 - T_OF_TWO * 0.2], abs=1e-4)
    assert found["high"].tolist() == pytest.approx([0.1 + T_OF_TWO * 0.1, 0.3 + T_OF_TWO * 0.2], abs=1e-4)


def test_where_nothing_is_predicted_there_is_no_group():
    of = allocation(rows("A", 0, 0, x=[0.5, 0.1]))
    found = report.by_prediction(of, rows("A", 0, 0, x=[NOT, NOT]), "x")
    assert found.empty and list(found) == ["predicted", "lists", "came_out", "low", "high"]


# --- bounded harm -----------------------------------------------------------------------------------------------------


def test_at_risk_are_lists_that_the_arm_has_ranked_and_those_that_stay():
    of = allocation(
        rows("A", 0, 0, x=[-0.1, 0.1, 0.1, -1e-15, -9.0], llm=[0.1, NOT, 0.1, 0.1, -9.0]),
        rows("A", 0, 1, x=[0.2, 0.2, -0.2, 0.2, -9.0], llm=[0.1] * 5), able=[1, 2, 3, 4],
    )  # fmt: skip
    here = chosen((0, 1, "x", 0.5), (0, 2, "llm", 0.4), (0, 4, "x", 0.3)).assign(fold=0)
    before = chosen((0, 3, "x", 0.2)).assign(fold=1)
    found = report.at_risk(pd.concat([here, before]), of, judged=True)
    # The model never ranked for user 2; user 3 stays; rounding makes nobody worse; user 5 may not be handed over.
    assert list(found) == ["test", "user", "score", "worse"]
    assert found[["test", "user"]].to_numpy().tolist() == [[0, 1], [0, 3], [0, 4]]
    assert found["score"].tolist() == pytest.approx([0.5, NOT, 0.3], nan_ok=True)
    assert found["worse"].tolist() == [True, False, False]
    found = report.at_risk(pd.concat([here, before]), of, judged=False).set_index("user")
    assert found["worse"].to_dict() == {1: False, 2: False, 3: True, 4: False}
    assert found["score"].dropna().to_dict() == {3: 0.2}


def test_the_best_arm_is_chosen_for_lists_of_every_fold_and_none_where_none_gains():
    here = rows("A", 0, 0, x=[0.2, -0.1, NOT], llm=[0.1, 0.0, 0.3])
    before = rows("A", 0, 1, x=[0.2, 0.1, 0.1], llm=[0.4, 0.0, NOT])
    prediction = pd.concat([here, before], ignore_index=True)
    order = ["fold", "user", "arm", "score"]
    found = report.best_predicted(prediction, ["x", "llm"])
    assert found[order].to_numpy().tolist() == [
        [0, 1, "x", 0.2], [0, 3, "llm", 0.3], [1, 1, "llm", 0.4], [1, 2, "x", 0.1], [1, 3, "x", 0.1],
    ]  # fmt: skip
    assert found["test"].eq(0).all() and found["recommender"].eq("A").all()
    alone = report.best_predicted(prediction, ["llm"])
    assert alone[order].to_numpy().tolist() == [[0, 1, "llm", 0.1], [0, 3, "llm", 0.3], [1, 1, "llm", 0.4]]


def harm(here: float, before: float, alpha: float) -> Mapping[str, list[float]]:
    """Eight users of equal prediction with this uplift on the judged list and on that of the other fold."""
    of = allocation(rows("A", 0, 0, x=[here] * 8), rows("A", 0, 1, x=[before] * 8))
    prediction = pd.concat([rows("A", 0, fold, x=[0.1] * 8) for fold in (0, 1)], ignore_index=True)
    table, draws = report.bounded_harm(of, prediction, alpha, seed=3)
    assert table["policy"].eq(PREDICTED).all() and table["alpha"].eq(alpha).all()
    worse = {name: shares.mean() for name, shares in draws.items()}
    names = [f"{PREDICTED}, calibrated on the {how}" for how in table["calibrated_on"]]
    assert worse == pytest.approx(dict(zip(names, table["worse"], strict=True)))
    return said(table, "calibrated_on", "routed", "worse", "nobody")


def test_four_users_without_harm_are_enough_for_a_bound_of_a_fifth_and_for_none_below():
    # (0 made worse + 1) / (4 users who calibrate + 1) is a fifth.
    assert harm(0.1, 0.1, 0.2) == {"same fold": [1, 0, 0], "other folds": [1, 0, 0]}
    assert harm(0.1, 0.1, 0.19) == {"same fold": [0, 0, 1], "other folds": [0, 0, 1]}


def test_a_bound_from_other_folds_is_broken_where_the_judged_fold_is_another():
    assert harm(-0.1, 0.1, 0.5) == {"same fold": [0, 0, 1], "other folds": [1, 1, 0]}
    assert harm(0.1, -0.1, 0.5) == {"same fold": [1, 0, 0], "other folds": [0, 0, 1]}


@pytest.mark.parametrize(
    ("before", "policies"),
    [([0.1, NOT], {PREDICTED: ["x", "llm"], PREDICTED + OF_LLM: ["llm"]}), ([NOT, NOT], {PREDICTED: ["x", "llm"]})],
)
def test_a_language_model_alone_is_a_policy_once_it_was_asked_about_folds_that_teach(before, policies):
    of = allocation(
        rows("A", 0, 0, x=[0.1, 0.1], llm=[0.1, 0.1]), rows("A", 0, 1, x=[0.1, 0.1], llm=before), of_model=["llm"]
    )
    assert report.learned(of) == policies


# --- who gets what, and the bill --------------------------------------------------------------------------------------

FOUR = rows("A", 0, 0, x=[0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("share", "chances"), [(0.25, {1: 1.0}), (0.5, {1: 1.0, 2: 0.5, 3: 0.5}), (0.0, {})])
def test_equal_scores_share_what_a_budget_leaves(share, chances):
    policies = chosen((0, 1, "x", 0.9), (0, 2, "x", 0.5), (0, 3, "x", 0.5))
    found = report.handed_over(allocation(FOUR), policies, share)
    assert found.set_index("user")["chance"].to_dict() == pytest.approx(chances)


def test_a_portrait_counts_everybody_as_often_as_they_are_handed_over():
    of = allocation(FOUR, FOUR.assign(fold=1), able=[1, 2, 3], own=[0.2, 0.4, 0.9, 5.0, *[7.0] * 4], ratings=1.0)
    handed = chosen((0, 1, "x", 0.9), (0, 2, "x", 0.5)).assign(chance=[1.0, 0.5])
    found = report.portrait(of, handed)
    columns = ("handed over", "left")
    assert said(found, "feature", *columns)["own"] == pytest.approx([(0.2 + 0.4 / 2) / 1.5, (0.4 / 2 + 0.9) / 1.5])
    assert said(found, "feature", *columns)["ratings"] == pytest.approx([1.0, 1.0])
    nobody = report.portrait(of, handed[:0])
    assert nobody["handed over"].isna().all() and nobody["left"].notna().all()


def test_the_user_who_is_followed_is_handed_over_most_often_and_then_most_often_weak():
    of = allocation(
        *(rows(name, test, test, x=[0.1] * 4) for name in ("B", "A") for test in (1, 0)), rows("A", 0, 1, x=[0.1] * 4)
    )
    hand_overs = [(test, user, "x", 0.1 * user) for test in (0, 1) for user in (2, 3)]
    policies = chosen(*hand_overs, (0, 1, "x", 0.9))
    triage = of.cases.assign(performance=0.4)
    # Nobody is weak as often as user 4, who is never handed over.
    triage["weak"] = triage["user"].eq(4) | (triage["user"].eq(3) & triage["test"].eq(1))
    found = report.followed(of, policies, triage)
    assert found[["recommender", "test", "user", "weak"]].to_numpy().tolist() == [
        ["A", 0, 3, False], ["A", 1, 3, True], ["B", 0, 3, False], ["B", 1, 3, True],
    ]  # fmt: skip
    assert found["score"].tolist() == pytest.approx([0.3, 0.3, NOT, NOT], nan_ok=True)
    assert found["performance"].eq(0.4).all()


FRONTIER = pd.DataFrame(
    [
        ("one", 0.1, "everybody", 0.1, 0.01, 0.0, 0.02, 0.03, 0.0002),
        ("one", 0.1, "weak", 0.4, 0.05, 0.01, 0.09, 0.12, 0.0008),
        ("one", 0.2, "everybody", 0.2, 0.015, 0.0, 0.03, 0.06, 0.0004),
        ("two", 0.1, "everybody", 0.1, 0.02, 0.01, 0.03, 0.02, NOT),
    ],
    columns=["policy", "share", "group", "routed", "gain", "low", "high", "worse", "usd"],
)


def test_the_bill_is_for_everybody_and_unknown_where_a_price_is():
    found = report.bill(FRONTIER, 10_000)
    assert found[["policy", "share", "gain"]].to_numpy().tolist() == [
        ["one", 0.1, 0.01], ["one", 0.2, 0.015], ["two", 0.1, 0.02],
    ]  # fmt: skip
    assert found["usd"].tolist() == pytest.approx([2.0, 4.0, NOT], nan_ok=True)


def test_the_record_has_one_budget_by_policy_and_group():
    found = report.record(FRONTIER)
    assert {name: list(groups) for name, groups in found.items()} == {
        "one": ["everybody", "weak"],
        "two": ["everybody"],
    }
    assert found["one"]["weak"] == {
        "routed": 0.4, "gain": 0.05, "low": 0.01, "high": 0.09, "worse": 0.12, "usd": 0.0008,
    }  # fmt: skip
    assert report.record(FRONTIER, 0.2).keys() == {"one"}
    assert report.record(FRONTIER, 0.2)["one"]["everybody"]["gain"] == 0.015
