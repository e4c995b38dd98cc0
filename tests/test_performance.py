"""P(u), its variance, shrinkage learned from the data, and bounds: by hand, and against a known truth."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.weak_users import nulls, performance


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
