"""Shrinkage learned from the data, bounds, and how well rules find weak users: by hand, and against a known truth."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.weak_users import nulls, performance, triage, triage_rules
from hybridrec.weak_users.triage import Thresholds


def users(values: dict) -> pd.Series:
    return pd.Series(values, dtype=float)


# --- evidence and its variance --------------------------------------------------------------------------------------


def test_evidence_without_folds_is_the_users_own_counts():
    table = pd.DataFrame({"user": [1] * 5 + [2], "score": [5.0, 4, 3, 2, 1, 1], "relevant": [1, 1, 0, 0, 0, 1]})
    found = performance.evidence(table.astype({"relevant": bool}))
    assert found.loc[1].to_dict() == {"performance": 1.0, "pairs": 6, "relevant": 2, "irrelevant": 3}
    assert found.loc[2, "pairs"] == 0
    assert found.loc[2].drop("pairs").isna().all()


def test_evidence_with_folds_averages_over_pairs():
    # Fold 0 has 1 x 1 pair, fold 1 has 1 x 3, fold 2 none.
    relevant, fold = [1, 0, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1, 2]
    table = pd.DataFrame({"user": 1, "score": [2.0, 1, 0, 1, 2, 3, 9], "relevant": relevant, "fold": fold})
    found = performance.evidence(table.astype({"relevant": bool})).loc[1]
    assert found.to_dict() == {"performance": 0.25, "pairs": 4, "relevant": 1, "irrelevant": (1 * 1 + 3 * 3) / 4}


def test_one_pair_varies_like_a_yes_or_no_and_no_pair_has_no_variance():
    table = pd.DataFrame(
        {"performance": [1, 0.6, 0.2, np.nan], "pairs": [1, 1, 1, 0], "relevant": 1, "irrelevant": 1},
    )
    assert performance.sampling_variance(table).tolist() == pytest.approx([0.24] * 3 + [np.nan], nan_ok=True)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (3, 3), (12, 5)])
def test_the_variance_is_that_of_simulated_users(shape):
    drawn = nulls.simulate_auc(*shape, 0.7, np.random.default_rng(0), 40_000)
    table = pd.DataFrame(
        {"performance": drawn, "pairs": shape[0] * shape[1], "relevant": shape[0], "irrelevant": shape[1]}
    )
    assert performance.sampling_variance(table)[0] == pytest.approx(drawn.var(), rel=0.03)


def test_folds_of_independent_items_divide_the_variance():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"user": np.repeat(np.arange(3000), 24), "fold": np.tile(np.repeat([0, 1, 2], 8), 3000)})
    table["relevant"] = np.tile([True, True, True, False, False, False, False, False], 9000)
    table["score"] = table["relevant"] * 0.75 + rng.normal(size=len(table))
    found = performance.evidence(table)
    assert performance.sampling_variance(found).to_numpy() == pytest.approx(found["performance"].var(), rel=0.05)


def test_where_everybody_is_perfect_or_hopeless_nothing_varies():
    for value in (0.0, 1.0):
        table = pd.DataFrame({"performance": [value] * 2, "pairs": [6, 4], "relevant": [2, 2], "irrelevant": [3, 2]})
        variance = performance.sampling_variance(table)
        assert variance.tolist() == pytest.approx([0, 0])
        shrunken = performance.empirical_bayes(table["performance"], variance)
        assert shrunken.to_numpy().ravel() == pytest.approx([value, 0] * 2, abs=1e-4)


# --- empirical Bayes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def varied() -> pd.DataFrame:
    """4000 users whose true P has standard deviation 0.1 around 0.7, known from 4 to 60 throws each."""
    rng = np.random.default_rng(2)
    true, throws = rng.normal(0.7, 0.1, 4000).clip(0.01, 0.99), rng.integers(4, 61, 4000)
    values = rng.binomial(throws, true) / throws
    return pd.DataFrame({"true": true, "performance": values, "variance": 0.21 / throws})


def test_a_known_spread_between_users_is_recovered(varied):
    spread = np.sqrt(performance.between_variance(varied["performance"], varied["variance"]))
    assert spread == pytest.approx(0.1, abs=0.01)
    assert varied["performance"].std() > 0.14


def test_users_who_are_all_alike_are_found_to_be():
    rng = np.random.default_rng(4)
    values = pd.Series(rng.binomial(10, 0.7, 4000) / 10)
    variance = pd.Series(0.021, index=values.index)
    assert np.sqrt(performance.between_variance(values, variance)) < 0.04
    alike = performance.empirical_bayes(users({1: 0.6, 2: 0.7, 3: 0.8}), users({1: 0.5, 2: 0.5, 3: 0.5}))
    assert alike.to_numpy().ravel() == pytest.approx([0.7, 0] * 3)


def test_shrinkage_by_hand():
    # Equal variances v: DerSimonian-Laird is the sample variance less v, 0.18 - 0.06 = 0.12, so 2/3 is kept.
    found = performance.empirical_bayes(users({1: 0.2, 2: 0.8, 3: np.nan}), users({1: 0.06, 2: 0.06, 3: np.nan}))
    assert found["performance"].tolist() == pytest.approx([0.3, 0.7, np.nan], nan_ok=True)
    assert found["sd"].tolist() == pytest.approx([0.2, 0.2, np.nan], nan_ok=True)


def test_fewer_pairs_are_pulled_harder_and_known_less(varied):
    found = performance.empirical_bayes(varied["performance"], varied["variance"])
    mean = found["performance"].mean()
    apart = (varied["performance"] - mean).abs() > 0.02
    kept = ((found["performance"] - mean) / (varied["performance"] - mean))[apart]
    few = varied["variance"][apart] > 0.21 / 10
    many = varied["variance"][apart] < 0.21 / 50
    assert kept[few].max() < kept[many].min()
    assert found["sd"][varied["variance"].idxmax()] > found["sd"][varied["variance"].idxmin()] > 0


def test_shrunken_values_are_nearer_to_the_truth_and_their_sd_says_how_near(varied):
    found = performance.empirical_bayes(varied["performance"], varied["variance"])
    error = found["performance"] - varied["true"]
    assert (error**2).mean() < 0.6 * ((varied["performance"] - varied["true"]) ** 2).mean()
    assert (error**2).mean() == pytest.approx((found["sd"] ** 2).mean(), rel=0.1)


def test_without_sampling_variance_nothing_is_shrunken():
    found = performance.empirical_bayes(users({1: 0.2, 2: 0.5, 3: 0.9}), users({1: 0, 2: 0, 3: 0}))
    assert found["performance"].tolist() == pytest.approx([0.2, 0.5, 0.9], abs=1e-6)
    assert found["sd"].tolist() == pytest.approx([0, 0, 0], abs=1e-4)


def test_one_user_alone_is_their_own_mean():
    found = performance.empirical_bayes(users({1: 0.2, 2: np.nan}), users({1: 0.1, 2: np.nan}))
    assert found["performance"].tolist() == pytest.approx([0.2, np.nan], nan_ok=True)


# --- the bound ------------------------------------------------------------------------------------------------------


def test_the_bound_by_hand():
    bound = performance.upper_bound(users({1: 0.3, 2: 0.3, 3: 0.95, 4: np.nan}), users({1: 0.1, 2: 0, 3: 0.2, 4: 1}))
    assert bound.tolist() == pytest.approx([0.3 + 0.0841621, 0.3, 1.0, np.nan], nan_ok=True)
    assert performance.upper_bound(users({1: 0.3}), users({1: 0.1}), 0.5).tolist() == pytest.approx([0.3])


def test_the_bound_holds_as_often_as_it_says(varied):
    found = performance.empirical_bayes(varied["performance"], varied["variance"])
    for level in (0.8, 0.95):
        bound = performance.upper_bound(found["performance"], found["sd"], level)
        assert (varied["true"] <= bound).mean() == pytest.approx(level, abs=0.02)


def test_recommenders_are_shrunken_apart_and_users_without_a_pair_left_out():
    rng = np.random.default_rng(6)
    rows = pd.DataFrame({"user": np.repeat(range(300), 10), "relevant": rng.random(3000) < 0.5})
    rows.loc[rows["user"] == 0, "relevant"] = True
    weak = rows["user"] % 2 == 1
    spread = rows["relevant"] * np.where(weak, -1.0, 2.0) + rng.normal(size=3000)
    alike = rows["relevant"] * 1.0 + rng.normal(size=3000)
    judged = pd.concat([rows.assign(recommender="A", score=spread), rows.assign(recommender="B", score=alike)])
    found = triage_rules.shrunken(judged, level=0.9).set_index(["recommender", "user"])
    usable = rows.groupby("user")["relevant"].mean().between(0, 1, inclusive="neither")
    assert 0 not in usable[usable].index
    for name in "AB":
        mine = found.loc[name]
        raw = performance.performance(judged[judged["recommender"] == name])["performance"].dropna()
        assert mine.index.tolist() == usable[usable].index.tolist() == raw.index.tolist()
        middle = mine["score"].mean()
        assert ((mine["score"] - middle).abs() <= (raw - middle).abs() + 0.05).all()
        assert (mine["upper"] >= mine["score"]).all() and (mine["upper"] <= 1).all()
    assert found.loc["A", "score"].std() > 3 * found.loc["B", "score"].std()


# --- detection ------------------------------------------------------------------------------------------------------


@pytest.fixture
def flags() -> pd.DataFrame:
    people = pd.DataFrame({"recommender": "A", "user": [1, 2, 3, 4, 5, 6], "score": [0.1, 0.6, 0.3, 0.9, 0.2, 0.5]})
    chosen = {"some": [1, 3, 5], "nobody": []}
    return pd.concat([people.assign(rule=rule, weak=people["user"].isin(chosen[rule])) for rule in chosen])


TEST_AUC = pd.DataFrame({"recommender": "A", "user": [1, 2, 3, 4, 5], "auc": [0.2, 0.5, 0.7, 0.9, np.nan]})


def test_detection_by_hand(flags):
    # Users 1 and 2 are weak on the test; 5 has no AUC there and 6 no test items.
    rows = triage_rules.detection(flags, TEST_AUC, 0.5).set_index("rule")
    some = {"users": 4, "left_out": 2, "flagged": 2, "test_weak": 2, "hits": 1, "base_rate": 0.5}
    # Of the pairs (1, 3) (1, 4) (2, 3) (2, 4) only (2, 3) is in the wrong order.
    some |= {"precision": 0.5, "recall": 0.5, "f1": 0.5, "ranking_auc": 0.75}
    assert rows.loc["some"].drop("recommender").to_dict() == pytest.approx(some)
    nobody = {**some, "flagged": 0, "hits": 0, "precision": np.nan, "recall": 0, "f1": 0}
    assert rows.loc["nobody"].drop("recommender").to_dict() == pytest.approx(nobody, nan_ok=True)


def test_detection_needs_no_scores_and_stands_missing_ones(flags):
    assert "ranking_auc" not in triage_rules.detection(flags.drop(columns="score"), TEST_AUC, 0.5)
    partly = flags.assign(score=flags["score"].where(flags["user"] != 2))
    found = triage_rules.detection(partly, TEST_AUC, 0.5)
    assert found["ranking_auc"].tolist() == [1, 1]
    assert found["users"].tolist() == [4, 4]


def test_detection_without_anybody_weak_or_judged(flags):
    nobody_weak = triage_rules.detection(flags, TEST_AUC, 0.1).set_index("rule").loc["some"]
    assert nobody_weak[["test_weak", "base_rate", "precision", "f1"]].tolist() == [0, 0, 0, 0]
    assert np.isnan(nobody_weak[["recall", "ranking_auc"]].astype(float)).all()
    nobody_judged = triage_rules.detection(flags, TEST_AUC.assign(auc=np.nan), 0.5)
    assert nobody_judged[["users", "left_out"]].to_numpy().tolist() == [[0, 6], [0, 6]]
    assert nobody_judged[["base_rate", "precision", "recall", "f1", "ranking_auc"]].isna().all(axis=None)


def test_detection_keeps_recommenders_apart(flags):
    both = pd.concat([flags, flags.assign(recommender="B")])
    auc = pd.concat([TEST_AUC, TEST_AUC.assign(recommender="B", auc=1 - TEST_AUC["auc"])])
    rows = triage_rules.detection(both, auc, 0.4).set_index(["recommender", "rule"])
    assert rows["test_weak"].to_dict() == {("A", "some"): 1, ("A", "nobody"): 1, ("B", "some"): 2, ("B", "nobody"): 2}
    assert rows.loc[("B", "some"), ["hits", "precision", "ranking_auc"]].tolist() == [1, 0.5, 0.25]


# --- sensitivity ----------------------------------------------------------------------------------------------------


def test_sensitivity_agrees_with_the_triage_and_its_reliability_at_every_point():
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"recommender": np.repeat(["A", "B"], 60), "user": np.tile(np.arange(60), 2)})
    table["performance"] = rng.choice([0, 0.25, 0.5, 0.75, 1, np.nan], 120)
    table["sparsity"] = np.tile(rng.choice([0.8, 0.9, 0.95], 60), 2)
    auc = table[["recommender", "user"]].assign(auc=rng.choice([0, 0.4, 0.8, np.nan], 120))
    grid = np.array([-1, 0.25, 0.5, 1]), np.array([0.0, 0.8, 0.92, 0.95])
    found = triage_rules.sensitivity(table, auc.sample(frac=1, random_state=0), *grid)
    assert len(found) == 2 * 4 * 4
    for row in found.itertuples():
        rows = table[table["recommender"] == row.recommender].set_index("user")
        thresholds = Thresholds(row.performance_threshold, row.sparsity_threshold)
        weak = triage.weak_users(rows["performance"], rows["sparsity"], thresholds)
        assert row.weak == weak.sum()
        flagged = weak.rename("weak").reset_index().assign(recommender=row.recommender, rule="")
        (expected,) = triage.reliability(flagged, auc).itertuples()
        for name in ("flagged", "flagged_auc", "rest_auc", "gap"):
            assert getattr(row, name) == pytest.approx(getattr(expected, name), nan_ok=True), name
    assert found["weak"].nunique() > 6


def test_evidence_sensitivity_is_the_triage_with_these_labels_and_folds():
    rng = np.random.default_rng(8)
    users = np.repeat(np.arange(30), 24)
    base = pd.DataFrame({"user": users, "rating": rng.integers(1, 6, users.size).astype(float)})
    parts = [base.assign(recommender=name, score=rng.random(users.size)) for name in ("A", "B")]
    known = pd.concat([rows.assign(fold=np.tile(np.arange(3), users.size // 3)) for rows in parts])
    test, eligible = pd.concat(parts).groupby(["recommender", "user"]).head(9), pd.Index(range(20))
    found = triage_rules.evidence_sensitivity(known, test, eligible, 0.5, [3, 4], [1, 3])
    assert len(found) == 2 * 2 * 2
    for row in found.itertuples():
        own = known[(known["recommender"] == row.recommender) & (known["fold"] < row.folds)]
        poor = triage.performance(own.assign(relevant=own["rating"] >= row.like_threshold))["performance"] <= 0.5
        flagged = poor[poor].index.intersection(eligible)
        asked = test[test["recommender"] == row.recommender]
        auc = triage.performance(asked.assign(relevant=asked["rating"] >= row.like_threshold))["performance"]
        assert row.weak == len(flagged) > 0
        assert row.flagged_auc == pytest.approx(auc[flagged].mean())
        assert row.rest_auc == pytest.approx(auc[eligible.difference(flagged)].mean())
