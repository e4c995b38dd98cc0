"""The steps of notebook 08: any number of language models, none, or a sample of users; nothing else may change."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hybridrec.allocation import frontier, policy
from hybridrec.evaluation.lists import COLUMNS, Lists
from hybridrec.study import allocation_report as report
from hybridrec.study import allocation_study as study

FOLDS, USERS, ITEMS = 3, 40, 60
OWN, TAUGHT, OTHER = "own model", "taught", "other"


@pytest.fixture(scope="module")
def world():
    """Ratings, recommenders' scores, a triage in which all but the first five users are inactive, and answers."""
    rng = np.random.default_rng(9)
    items = np.concatenate([rng.permutation(ITEMS)[:24] for _ in range(USERS)])
    rows = pd.DataFrame({"user": np.repeat(np.arange(USERS), 24), "item": items})
    rows["rating"], rows["fold"] = rng.integers(1, 6, len(items)), np.tile(np.arange(FOLDS).repeat(8), USERS)
    lists = Lists(rows, 4)
    noise = {name: rng.normal(size=(FOLDS, len(rows))) for name in ("A", "B", "C")}
    keys = pd.MultiIndex.from_product([["A", "B"], range(FOLDS), range(USERS)], names=policy.CASE)
    triage = keys.to_frame(index=False)
    triage = triage.assign(performance=0.5, shrunken=0.5, inactive=triage["user"] >= 5, weak=triage["user"] >= 20)
    skill = {"llm": 0.0, f"{TAUGHT}: llm": 2.0, f"{OTHER}: llm": 0.0}
    orders = {name: much * lists.relevant + rng.normal(size=(FOLDS, len(rows))) for name, much in skill.items()}
    said = lists.write(orders)
    said = said[(said["user"] >= 5) & ((said["ranker"] != f"{OTHER}: llm") | (said["fold"] == said["test"]))]
    models = said["ranker"].map({"llm": OWN, f"{TAUGHT}: llm": TAUGHT, f"{OTHER}: llm": OTHER})
    return lists, lists.write(noise), said.assign(model=models, answered=np.nan, failure=""), triage


def prepared(world, answers: pd.DataFrame) -> study.Allocation:
    lists, scores, _, triage = world
    return study.prepare(lists, scores, answers, triage, OWN, ITEMS)


def test_every_language_model_is_an_arm_and_fused_where_a_weight_can_be_chosen(world):
    of = prepared(world, world[2])
    fused = [f"recommender + {one}" for one in ("llm", f"{TAUGHT}: llm")]
    assert of.of_model == ["llm", fused[0], f"{TAUGHT}: llm", fused[1], f"{OTHER}: llm"]
    assert [arm for arm in of.arms if arm not in of.of_model] == ["best other", "stack", "recommender + item-mean"]
    assert set(of.cases["user"]) == set(range(5, USERS))


def test_the_share_that_an_arm_makes_worse_is_of_the_lists_that_it_ranked():
    uplifts = pd.DataFrame({"llm": [-0.1, 0.2, np.nan, np.nan], "random order": [-0.1, -0.2, -1e-15, 0.3]})
    of = SimpleNamespace(uplifts=uplifts, judged=np.full(4, True), able=np.full(4, True), arms=["llm"])
    table = report.arms(of).set_index("arm")
    assert table["made_worse"].to_dict() == {"llm": 0.5, "random order": 0.5}
    assert table["count"].to_dict() == {"llm": 2, "random order": 4}


def test_a_skilled_model_is_found_and_paid_for(world):
    of = prepared(world, world[2])
    prediction = policy.predict(*of.teaching, 0)
    policies = study.policies(of, prediction, world[3])
    assert study.of_other_models(policies) == [f"published rule, {TAUGHT}: llm", f"published rule, {OTHER}: llm"]
    table = frontier.frontier(of.outcomes, policies, study.groups(world[3]), 0, [0.2], 200)
    everybody = table[table["group"] == "everybody"].set_index("policy")
    # A fifth of the users at an uplift of a third.
    assert everybody["low"][study.PREDICTED] > 0.03 and everybody["low"][study.PREDICTED + study.OF_LLM] > 0.03
    assert set(policies[study.BEST_ARM]["arm"]) <= {f"{TAUGHT}: llm", f"recommender + {TAUGHT}: llm"}
    assert everybody["low"][study.PUBLISHED] < 0.02  # the untaught one knows nothing


def test_without_a_language_model_the_other_arms_stand_as_they_did(world):
    none, some = prepared(world, world[2].iloc[:0]), prepared(world, world[2])
    assert none.of_model == [] and none.arms == ["best other", "stack", "recommender + item-mean"]
    pd.testing.assert_frame_equal(none.outcomes[none.arms], some.outcomes[none.arms])
    policies = study.policies(none, policy.predict(*none.teaching, 0), world[3])
    assert study.PREDICTED in policies and not any(study.OF_LLM in name or "rule" in name for name in policies)


def test_who_was_asked_stands_for_who_was_not(world):
    answers = world[2][world[2]["user"] % 2 == 0]  # 17 of the 35 inactive users
    of = prepared(world, answers)
    assert set(of.cases["user"]) == set(range(6, USERS, 2))
    weight = of.outcomes.groupby("user")["weight"].first()
    assert weight[:5].eq(1).all() and weight[5:].to_numpy() == pytest.approx(35 / 17)
    assert set(weight.index) == {*range(5), *range(6, USERS, 2)}


def test_own_auc_is_what_the_recommenders_lists_say(world):
    lists, scores, answers, triage = world
    of = prepared(world, answers)
    found = report.own_auc(of, {"B": triage[triage["recommender"] == "B"][policy.CASE]})["B"]
    correct = lists.correct(lists.read(scores)["B"])
    judged = [correct[fold, at] / lists.n_pairs[at] for at, fold in enumerate(lists.of_fold) if lists.n_pairs[at]]
    assert found == pytest.approx(np.mean(judged))


def test_what_is_at_risk_are_the_lists_that_may_be_handed_over(world):
    assert set(COLUMNS) <= set(world[2])
    of = prepared(world, world[2])
    chosen = report.best_predicted(policy.predict(*of.teaching, 0), of.arms)
    found = report.at_risk(chosen, of, judged=True)
    assert len(found) == len(of.cases)
    one = found.dropna().iloc[0]
    row = chosen.query("test == @one.test and fold == @one.test and user == @one.user and score == @one.score").iloc[0]
    gain = of.outcomes.query("recommender == @row.recommender and test == @row.test and user == @row.user")[row["arm"]]
    assert one["worse"] == (gain.item() < 0)


def test_the_taught_model_is_one_more_model_by_the_users_own_history_alone(world):
    said = world[2]
    in_context = said[said["model"] == OWN]
    own = said[said["model"] == TAUGHT].assign(model="SmolLM2 taught on a", ranker="taught")
    table = pd.concat([own, own.assign(ranker="taught, another's history"), own.assign(ranker="untaught, same way")])
    both = study.with_taught(in_context, table, OWN)
    pd.testing.assert_frame_equal(both, pd.concat([in_context, said[said["model"] == TAUGHT]], ignore_index=True))


def test_a_taught_model_that_was_asked_about_a_part_is_no_arm(world):
    said = world[2]
    in_context, own = said[said["model"] == OWN], said[said["model"] == TAUGHT].assign(ranker="taught")
    for part in (own[own["user"] > 10], own.iloc[:0]):
        pd.testing.assert_frame_equal(study.with_taught(in_context, part, OWN), in_context)
    nobody = in_context.iloc[:0]
    assert study.with_taught(nobody, own, OWN).empty
