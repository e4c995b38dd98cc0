"""Policies, what they learn from, their frontier and its ceiling: planted uplift is found, planted noise is not."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.allocation import ceiling, frontier, policy
from hybridrec.errors import ScoresError
from hybridrec.evaluation import metrics
from hybridrec.evaluation.lists import Lists

FOLDS, USERS = 5, 200


# --- features and uplift, from ratings --------------------------------------------------------------------------------


@pytest.fixture
def made():
    """Ratings in three folds, scores of two recommenders and of an arm that knows the labels in part."""
    rng = np.random.default_rng(5)
    items = np.concatenate([rng.permutation(40)[:18] for _ in range(12)])
    rows = pd.DataFrame({"user": np.repeat(np.arange(12), 18), "item": items})
    rows["rating"] = rng.integers(1, 6, len(rows)).astype(float)
    rows["fold"] = np.tile(np.arange(3).repeat(6), 12)
    lists = Lists(rows, 4)
    noise = {name: rng.normal(size=(3, len(rows))) for name in ("A", "B")}
    arms = {"skilled": {"A": lists.relevant + rng.normal(size=(3, len(rows)))}}
    return rows, lists, noise, arms


def test_features_of_a_list_by_hand(made):
    rows, lists, scores, arms = made
    known = policy.features(lists, scores, ["A"], arms, 40)
    row = known.query("test == 0 and fold == 1").iloc[0]
    others = rows[rows["fold"] == 2]  # neither the test fold nor the list's own
    mine = others[others["user"] == row["user"]]
    popular = others["item"].value_counts()
    assert row["ratings"] == pytest.approx(np.log1p(len(mine)))
    assert row["sparsity"] == pytest.approx(1 - len(mine) / 40)
    assert row["popularity"] == pytest.approx(np.log(popular[mine["item"]]).mean())
    of_list = (lists.fold == 1) & (lists.user == lists.users.get_loc(row["user"]))
    values = [pd.Series(scores[name][0, of_list]) for name in "AB"]
    assert row["agreement"] == pytest.approx(values[0].corr(values[1], method="spearman"))
    assert {"known skilled", *policy.FEATURES} <= set(known)


def test_uplift_is_the_difference_of_two_auc(made):
    _, lists, scores, arms = made
    found = policy.uplifts(lists, scores, ["A"], arms)
    for _, row in found.head(20).iterrows():
        of_list = (lists.fold == row["fold"]) & (lists.user == lists.users.get_loc(row["user"]))
        both = pd.DataFrame({"user": 0, "relevant": lists.relevant[of_list]})
        arm, own = (
            metrics.auc(both.assign(score=one["A"][row["test"], of_list])).item() for one in (arms["skilled"], scores)
        )
        assert row["skilled"] == pytest.approx(arm - own)


def test_labels_of_the_test_fold_change_no_decision_for_it(made):
    """All ratings of fold 0 are scrambled, for everybody: what is known, predicted and chosen for fold 0 stays."""
    rows, _, scores, arms = made
    scrambled = rows.copy()
    inside = scrambled["fold"] == 0
    scrambled.loc[inside, "rating"] = np.random.default_rng(1).permutation(scrambled.loc[inside, "rating"])
    decided, changed = [], []
    for table in (rows, scrambled):
        lists = Lists(table, 4)
        known, uplift = policy.features(lists, scores, ["A"], arms, 40), policy.uplifts(lists, scores, ["A"], arms)
        predicted = policy.predict(known, uplift, 0)
        chosen = [policy.predicted(predicted, ["skilled"]), policy.best_single(predicted, uplift, ["skilled"])]
        keep = [one[one["test"] == 0].set_index("user")["score"] for one in chosen]
        decided.append(keep)
        changed.append(uplift.query("test == 0 and fold == 0").set_index("user")["skilled"])
    assert not changed[0].equals(changed[1])  # the outcomes did change
    for one, other in zip(*decided, strict=True):
        users = one.index.intersection(other.index)  # a list may have a pair under one labelling only
        assert len(users) > 5 and np.array_equal(one[users], other[users])


def test_shrinking_is_the_formula_of_efron_and_morris():
    values = np.array([[0.2, 0.9, 0.5], [0.4, 0.7, np.nan]])
    noise = (0.1**2 * 4) / 2  # two users with two lists each, 0.1 about their means
    mean = np.array([0.3, 0.8, 0.5])
    between = max(0, mean.var(ddof=1) - noise * np.mean([1 / 2, 1 / 2, 1]))
    kept = between / (between + noise / np.array([2, 2, 1]))
    assert policy.shrink(values) == pytest.approx(mean.mean() + kept * (mean - mean.mean()))
    assert policy.shrink(np.array([[0.2, 0.8]])) == pytest.approx([0.5, 0.5])  # one list each: all may be luck


# --- predicted uplift -------------------------------------------------------------------------------------------------


def planted(worth: float, seed: int = 3, folds: int = FOLDS, users: int = USERS, noise: float = 0.3):
    """Features and uplifts: a trait of the user that is known moves the uplift by ``worth`` a standard deviation."""
    rng = np.random.default_rng(seed)
    trait = rng.normal(size=users)
    keys = pd.MultiIndex.from_product(
        [["A"], range(folds), range(folds), range(users)], names=policy.KEYS
    ).to_frame(index=False)  # fmt: skip
    known = keys.assign(trait=trait[keys["user"]], nothing=rng.normal(size=len(keys)))
    luck = rng.normal(size=(folds, users)) * noise  # of a list, whichever the test fold is
    return known, keys.assign(arm=worth * known["trait"] + luck[keys["fold"], keys["user"]])


def test_prediction_is_ridge_regression_on_other_users_and_other_folds():
    known, uplift = planted(0.1)
    found = policy.predict(known, uplift, 0)
    fresh = found.query("test == 2 and fold == 2")["arm"].to_numpy()
    assert np.corrcoef(fresh, known.query("test == 2 and fold == 2")["trait"])[0, 1] > 0.99
    assert np.polyfit(known.query("test == 2 and fold == 2")["trait"], fresh, 1)[0] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_ridge_agrees_with_scikit_learn(penalty):
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, [1, 3, 0.1], (60, 3)), rng.normal(size=60)
    rows = np.column_stack([np.ones(60), x, y])
    ours = policy._solve(rows.T @ rows, penalty)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = linear.Ridge(alpha=penalty * 60).fit(scaled, y)
    assert np.column_stack([np.ones(60), x]) @ ours == pytest.approx(theirs.predict(scaled))


def test_outcomes_of_a_user_change_no_prediction_of_that_user():
    known, uplift = planted(0.1)
    changed = uplift.copy()
    own = changed["user"] == 7
    changed.loc[own, "arm"] = 10.0
    before, after = (policy.predict(known, one, 0) for one in (uplift, changed))
    assert np.array_equal(before.loc[own, "arm"], after.loc[own, "arm"])
    assert not np.array_equal(before.loc[~own, "arm"], after.loc[~own, "arm"])


def test_outcomes_of_a_fold_change_no_prediction_for_it():
    known, uplift = planted(0.1)
    changed = uplift.assign(arm=uplift["arm"].where(uplift["fold"] != 3, -5.0))
    before, after = (policy.predict(known, one, 0) for one in (uplift, changed))
    own = (before["fold"] == 3) & (before["test"] == 3)
    assert np.array_equal(before.loc[own, "arm"], after.loc[own, "arm"])
    assert not np.array_equal(before.loc[before["test"] == 2, "arm"], after.loc[before["test"] == 2, "arm"])


def test_without_anything_to_learn_from_nobody_is_handed_over():
    known, uplift = planted(0.1)
    found = policy.predict(known, uplift.assign(arm=uplift["arm"].where(uplift["fold"] == uplift["test"])), 0)
    assert found["arm"].isna().all()
    assert policy.predicted(found, ["arm"]).empty
    assert policy.best_single(found, uplift.assign(arm=np.nan), ["arm"]).empty


# --- the frontier -----------------------------------------------------------------------------------------------------


def gains(known: pd.DataFrame, uplift: pd.DataFrame, share: float) -> pd.DataFrame:
    judged = uplift[uplift["fold"] == uplift["test"]].drop(columns="fold").assign(weight=1.0)
    chosen = {
        "predicted": policy.predicted(policy.predict(known, uplift, 0), ["arm"]),
        "random": policy.everybody(judged, "arm"),
        "nobody": policy.nobody(judged),
    }
    return frontier.frontier(judged, chosen, {"everybody": judged[policy.CASE]}, 0, [share]).set_index("policy")


def test_planted_uplift_is_found_and_paid_for():
    found = gains(*planted(0.1), 0.1)
    # The upper tenth of a normal distribution of sd 0.1 lies at 0.1755 on average.
    assert found["gain"]["predicted"] == pytest.approx(0.1755 / 10, abs=0.005)
    assert found["low"]["predicted"] > 0.01
    assert found["low"]["random"] < 0 < found["high"]["random"]
    assert found["gain"]["nobody"] == found["routed"]["nobody"] == 0


def test_planted_noise_gains_nothing():
    """No user differs from another, and all lose: next to nobody is handed over, and nothing is gained."""
    found = []
    for seed in range(10):
        known, uplift = planted(0.0, seed)
        found.append(gains(known, uplift.assign(arm=uplift["arm"] - 0.1), 0.1).loc["predicted", ["routed", "gain"]])
    mean = pd.DataFrame(found).mean()
    assert mean["routed"] < 0.01 and abs(mean["gain"]) < 0.002


def test_equal_scores_share_what_is_left_of_the_budget():
    cases = pd.DataFrame({"recommender": "A", "test": 0, "user": [1, 2, 3, 4], "weight": 1.0})
    wish = cases.drop(columns="weight").assign(arm="x", score=[5.0, 1.0, 1.0, 0.0])
    assert frontier.hand_over(wish, cases, 0.5) == pytest.approx([1, 0.5, 0.5, 0])
    assert frontier.hand_over(wish, cases, 1.0) == pytest.approx([1, 1, 1, 1])
    heavy = cases.assign(weight=[2.0, 1, 1, 4])  # who stands for two users takes the room of two
    assert frontier.hand_over(wish, heavy, 0.5) == pytest.approx([1, 1, 1, 0])
    with pytest.raises(ScoresError, match="user 4"):
        frontier.hand_over(wish, cases[:3], 0.5)


def test_frontier_by_hand():
    cases = pd.DataFrame({"recommender": ["A", "A", "B", "B"], "test": 0, "user": [1, 2, 1, 2]})
    outcomes = cases.assign(weight=1.0, x=[0.4, -0.2, 0.1, np.nan])
    wish = cases.assign(arm="x", score=[1.0, 2.0, 3.0, 4.0])
    # User 1 counts once for both recommenders, user 2 for A alone; the unanswered list of B would gain nothing.
    group = cases[:3]
    found = frontier.frontier(outcomes, {"p": wish}, {"g": group}, 0, [0.5, 1.0], usd={"x": 2.0}).set_index("share")
    assert found["gain"].tolist() == pytest.approx([-0.2 / 2, (0.4 / 2 + 0.1 / 2 - 0.2) / 2])
    assert found["worse"].tolist() == pytest.approx([0.5, 0.5])
    assert found["usd"].tolist() == pytest.approx([1.0, 2.0])
    assert found["low"][1.0] == pytest.approx(-0.2) and found["high"][1.0] == pytest.approx(0.25)  # one user alone


def test_policies_by_hand():
    cases = pd.DataFrame({"recommender": "A", "test": 0, "user": [1, 2, 3]})
    triage = cases.assign(weak=[True, False, True], shrunken=[0.4, 0.3, 0.2])
    assert policy.published(cases, triage, "x").sort_values("score", ascending=False)["user"].tolist() == [3, 1]
    uplift = pd.concat([cases.assign(fold=fold, x=0.1, y=value) for fold, value in ((0, 9.0), (1, 0.2), (2, -0.4))])
    best = policy.best_single(cases, uplift, ["x", "y"])  # y shines in the test fold alone
    assert set(best["arm"]) == {"x"} and len(best) == 3
    order = policy.worst_first(best, triage).sort_values("score", ascending=False)
    assert order["user"].tolist() == [3, 2, 1]
    predicted = cases.assign(fold=0, x=[0.1, -0.1, np.nan], y=[0.2, -0.2, 0.3])
    chosen = policy.predicted(predicted, ["x", "y"])
    assert chosen[["user", "arm", "score"]].to_numpy().tolist() == [[1, "y", 0.2], [3, "y", 0.3]]


# --- the ceiling ------------------------------------------------------------------------------------------------------


def test_reliability_of_planted_uplift():
    rng = np.random.default_rng(2)
    true = rng.normal(0.02, 0.1, 3000)
    found = ceiling.reliability(true + rng.normal(0, 0.2, (5, 3000)), 0, 200)
    expected = 0.1**2 / (0.1**2 + 0.2**2 / 5)  # of a mean over five folds
    # Halves of two and three folds are not quite equal, so Spearman and Brown's formula is not quite exact.
    assert found["reliability"] == pytest.approx(expected, abs=0.03)
    assert found["low"] < expected < found["high"] + 0.02
    assert found["sd"] == pytest.approx(0.1, abs=0.005) and found["sd_low"] < 0.1 < found["sd_high"]


def test_noise_has_no_reliability_and_its_oracle_gains_nothing():
    values = np.random.default_rng(4).normal(0, 0.3, (5, 2000))
    found = ceiling.reliability(values, 0, 200)
    assert found["low"] < 0.02 and abs(found["reliability"]) < 0.1
    oracle = ceiling.oracle(values, [0.1]).iloc[0]
    assert oracle["raw"] > 0.05  # a tenth of the lists, picked by their own luck
    assert oracle["corrected"] < 0.008 and abs(oracle["held_out"]) < 0.004


def test_oracle_of_planted_uplift_is_what_the_normal_distribution_says():
    rng = np.random.default_rng(6)
    true = rng.normal(0, 0.1, 4000)
    values = true + rng.normal(0, 0.2, (6, 4000))
    oracle = ceiling.oracle(values, [0.1, 1.0]).set_index("share")
    best = np.sort(true)[::-1]
    assert oracle["corrected"][0.1] == pytest.approx(best[:400].sum() / 4000, abs=0.001)
    assert oracle["corrected"][1.0] == pytest.approx(best[best > 0].sum() / 4000, abs=0.002)
    assert 0 < oracle["held_out"][0.1] < oracle["corrected"][0.1] < oracle["raw"][0.1]


def test_one_fold_tells_nothing():
    found = ceiling.reliability(np.ones((1, 50)), 0)
    assert found["users"] == 0 and np.isnan(found["reliability"])
    assert np.isnan(ceiling.oracle(np.ones((1, 50)), [0.1])["held_out"]).all()
