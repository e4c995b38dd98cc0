"""The null simulation against what can be counted by hand, and against data in which nobody is weak."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from hybridrec.weak_users import nulls

KEYS = ["flagged", "before_auc", "after_auc", "gain", "still_weak"]


def counts(*shapes: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(shapes, columns=["relevant", "irrelevant"]).rename_axis("user").reset_index()


def predict(table: pd.DataFrame, auc: float, threshold: float = 0.5, seed: int = 0, draws: int = 40_000) -> dict:
    return nulls.predict(table, auc, threshold, np.random.default_rng(seed), draws)


def all_orders(relevant: int, irrelevant: int) -> np.ndarray:
    """AUC of every order of the candidates, all equally likely."""
    places = range(relevant + irrelevant)
    pairs = relevant * irrelevant
    return np.array(
        [sum(a > b for a in top for b in set(places) - set(top)) / pairs for top in combinations(places, relevant)]
    )


# --- the parts ------------------------------------------------------------------------------------------------------


def test_candidates_are_counted_by_user():
    table = pd.DataFrame({"user": [7, 7, 7, 3], "relevant": [True, False, False, True]})
    assert nulls.candidate_counts(table).to_dict("list") == {"user": [3, 7], "relevant": [1, 1], "irrelevant": [0, 2]}


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 4), (4, 1), (3, 2), (3, 4)])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1 / 3, 0.5, 0.9, 1.0])
def test_a_random_order_agrees_with_enumeration(shape, threshold):
    assert nulls.random_order_share(*shape, threshold) == pytest.approx(
        (all_orders(*shape) <= threshold + 1e-12).mean()
    )


def test_a_random_order_on_many_candidates_is_at_or_below_one_half_half_of_the_time():
    # 37 x 37 pairs is an odd number: no tie at one half.
    assert nulls.random_order_share(37, 37, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(("shape", "auc"), [((1, 1), 0.7), ((5, 3), 0.7), ((2, 9), 0.35)])
def test_simulated_users_have_the_auc_they_were_given(shape, auc):
    drawn = nulls.simulate_auc(*shape, auc, np.random.default_rng(0), 40_000)
    assert drawn.mean() == pytest.approx(auc, abs=0.01)
    assert set(np.round(drawn * shape[0] * shape[1], 9)) <= set(range(shape[0] * shape[1] + 1))


def test_blocks_change_no_number(monkeypatch):
    whole = nulls.simulate_auc(3, 4, 0.7, np.random.default_rng(1), 1000)
    monkeypatch.setattr(nulls, "_BLOCK", 50)
    np.testing.assert_array_equal(nulls.simulate_auc(3, 4, 0.7, np.random.default_rng(1), 1000), whole)


@pytest.mark.parametrize(("auc", "flagged"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_recommender_that_is_always_right_or_wrong_leaves_nothing_to_luck(auc, flagged):
    row = predict(counts((2, 3)), auc)
    assert row["flagged"] == flagged
    assert row["gain"] == 0.5 if flagged else np.isnan(row["gain"])


@pytest.mark.parametrize("auc", [-0.1, 70.0, np.nan])
def test_an_impossible_auc_is_refused(auc):
    with pytest.raises(ValueError, match=f"is {auc}"):
        predict(counts((1, 1)), auc)


# --- the prediction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 3)])
def test_at_one_half_the_prediction_agrees_with_enumeration(shape):
    orders = all_orders(*shape)
    low = orders[orders <= 0.5]
    share = len(low) / len(orders)
    found = predict(counts(*[shape] * 100), 0.5)
    assert found["flagged"] == pytest.approx(100 * share, abs=1)
    assert found["flagged_sd"] == pytest.approx(10 * np.sqrt(share * (1 - share)), abs=0.05)
    assert found["before_auc"] == pytest.approx(low.mean(), abs=0.01)
    assert found["still_weak"] == pytest.approx(share)
    assert found["after_auc"] == 0.5
    assert found["gain"] == 0.5 - found["before_auc"]


def test_one_pair_at_any_auc_is_a_bernoulli_draw():
    found = predict(counts((1, 1)), 0.8)
    assert found["flagged"] == pytest.approx(0.2, abs=0.01)
    assert [found[key] for key in KEYS[1:]] == [0, 0.5, 0.5, pytest.approx(0.5)]


def test_groups_are_mixed_by_their_flagged_users():
    # Of 300 users with one pair 60 are flagged at AUC 0; they outweigh the 10 users with 12 items.
    few, many = counts(*[(1, 1)] * 300), counts(*[(6, 6)] * 10)
    one, other, both = (predict(table, 0.8) for table in (few, many, pd.concat([few, many])))
    assert both["flagged"] == pytest.approx(one["flagged"] + other["flagged"], rel=0.02)
    mixed = (one["flagged"] * one["before_auc"] + other["flagged"] * other["before_auc"]) / both["flagged"]
    assert both["before_auc"] == pytest.approx(mixed, abs=0.002)


def test_more_candidates_leave_less_to_chance():
    found = pd.DataFrame([predict(counts((n, n)), 0.7) for n in (1, 2, 4, 8, 16, 32)])
    # From one pair to four the share rises a little: only an even number of pairs can tie at one half.
    assert (found["flagged"].diff()[2:] < 0).all()
    assert (found["gain"].diff()[1:] < 0).all()
    assert found["gain"].iloc[-1] < 0.06


def test_better_recommenders_have_fewer_flagged_users():
    flagged = [predict(counts((3, 3)), auc)["flagged"] for auc in (0.3, 0.5, 0.7, 0.9)]
    assert (np.diff(flagged) < -0.1).all()


def test_a_seed_gives_the_same_prediction_whatever_the_order_of_users_and_another_seed_another():
    table = counts((1, 2), (3, 3), (2, 1), (1, 2))
    assert predict(table, 0.7, draws=500) == predict(table.iloc[::-1], 0.7, draws=500)
    assert predict(table, 0.7, draws=500) != predict(table, 0.7, draws=500, seed=1)


def test_users_without_a_pair_change_nothing():
    assert predict(counts((2, 2), (3, 0), (0, 3)), 0.7) == predict(counts((2, 2)), 0.7)


def test_where_nobody_can_be_flagged_there_is_no_gain_to_report():
    found = predict(counts((3, 0)), 0.7)
    assert (found["flagged"], found["flagged_sd"]) == (0, 0)
    assert np.isnan([found[key] for key in KEYS[1:]]).all()


def in_folds(*users: list[tuple[int, int]]) -> pd.DataFrame:
    """The items of users: for each fold how many are relevant and how many are not."""
    rows = [
        (user, fold, which)
        for user, folds in enumerate(users)
        for fold, shape in enumerate(folds)
        for which, count in zip((True, False), shape, strict=True)
        for _ in range(count)
    ]
    return pd.DataFrame(rows, columns=["user", "fold", "relevant"])


@pytest.mark.parametrize(
    ("folds", "share"),
    [
        ([(1, 1)], 1 / 2),
        ([(1, 1), (1, 1)], 3 / 4),  # flagged unless both pairs are in order
        ([(1, 1), (1, 2)], 1 / 2),  # of three pairs at most one: 1/2 * 2/3 + 1/2 * 1/3
        ([(2, 0), (0, 3)], 0),  # pairs are formed within a fold, and here there is none
        ([(2, 2), (3, 0)], 4 / 6),
    ],
)
def test_flags_by_luck_over_folds_agree_with_counting(folds, share):
    expected, sd = nulls.flagged_by_luck(in_folds(*[folds] * 20), 0.5, 0.5, np.random.default_rng(0), 20_000)
    assert expected == pytest.approx(20 * share, abs=0.2)
    assert sd == pytest.approx(np.sqrt(20 * share * (1 - share)), abs=0.05)


def test_flags_by_luck_in_one_fold_are_those_of_the_prediction():
    shapes = [(1, 2), (3, 4), (5, 5), (2, 6)]
    expected, sd = nulls.flagged_by_luck(
        in_folds(*[[shape] for shape in shapes]), 0.7, 0.5, np.random.default_rng(0), 40_000
    )
    found = predict(counts(*shapes), 0.7)
    assert (expected, sd) == (pytest.approx(found["flagged"], abs=0.02), pytest.approx(found["flagged_sd"], abs=0.02))


# --- beside real scores ---------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand() -> pd.DataFrame:
    """AUC of users 1 to 5: 0 (one pair), one half by a tie (two pairs), 1, undefined, 0 but not eligible."""
    rows = [(1, 1, True), (1, 2, False), (2, 5, True), (2, 5, False), (2, 5, False), (3, 2, True), (3, 1, False),
            (4, 1, True), (5, 1, True), (5, 2, False)]  # fmt: skip
    return pd.DataFrame(rows, columns=["user", "score", "relevant"])


def test_observed_by_hand(by_hand):
    found = nulls.observed(by_hand, pd.Index([1, 2, 3, 4]), 0.5)
    assert list(found) == KEYS
    # A random order leaves user 1 weak with probability 1/2, and user 2 (ranks 1, 2, 3 of three) with 2/3.
    assert list(found.values()) == pytest.approx([2, 0.25, 0.5, 0.25, (1 / 2 + 2 / 3) / 2])


def test_observed_without_flagged_users(by_hand):
    found = nulls.observed(by_hand, pd.Index([3, 4]), 0.5)
    assert found["flagged"] == 0
    assert np.isnan([found[key] for key in KEYS[1:]]).all()


@pytest.fixture(scope="module")
def nobody_is_weak() -> pd.DataFrame:
    """3000 users of 2 to 9 items, all served with AUC 0.76, and the same by a recommender with half the signal."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"user": np.repeat(np.arange(3000), rng.integers(2, 10, 3000))})
    table["relevant"] = rng.random(len(table)) < 0.5
    noise = rng.normal(size=len(table))
    strong, faint = (table.assign(score=table["relevant"] * signal + noise) for signal in (1, 0.5))
    return pd.concat([strong.assign(recommender="strong"), faint.assign(recommender="faint")])


def test_where_nobody_is_weak_the_prediction_is_what_is_observed(nobody_is_weak):
    table = nulls.compare(nobody_is_weak, pd.Index(range(2000)), 0.5, np.random.default_rng(0), 5000)
    assert table["recommender"].tolist() == ["strong", "faint"]
    assert (table["observed_flagged"] > 300).all()
    apart = (table["observed_flagged"] - table["predicted_flagged"]) / table["predicted_flagged_sd"]
    assert (apart.abs() < 3).all()
    assert table["observed_before_auc"].to_numpy() == pytest.approx(table["predicted_before_auc"], abs=0.02)
    assert table["observed_still_weak"].to_numpy() == pytest.approx(table["predicted_still_weak"], abs=0.02)
    assert (table["observed_gain"] > 0.17).all()


def test_truly_weak_users_are_more_than_the_null_predicts(nobody_is_weak):
    users = pd.Index(range(2000))
    strong = nobody_is_weak[nobody_is_weak["recommender"] == "strong"]
    turned = strong.assign(score=strong["score"].where(strong["user"] >= 400, -strong["score"]))
    row = nulls.compare(turned, users, 0.5, np.random.default_rng(0), 5000).iloc[0]
    # Less far than one might think: the weak users also lower the mean from which the null is made.
    assert row["observed_flagged"] > row["predicted_flagged"] + 4 * row["predicted_flagged_sd"]


def test_the_quality_can_be_that_of_some_users(nobody_is_weak):
    strong = nobody_is_weak[nobody_is_weak["recommender"] == "strong"]
    turned = strong.assign(score=strong["score"].where(strong["user"] >= 400, -strong["score"]))
    means = [
        nulls.compare(turned, pd.Index(range(400)), 0.5, np.random.default_rng(0), 100, chosen).loc[0, "mean_auc"]
        for chosen in (None, pd.Index(range(400)), pd.Index(range(400, 3000)))
    ]
    assert means[1] == pytest.approx(0.24, abs=0.03)
    assert means[2] == pytest.approx(0.76, abs=0.02)
    assert means[1] < means[0] < means[2]
