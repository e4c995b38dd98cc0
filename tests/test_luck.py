"""Luck taken off: the number of truly weak users is found where it is known, and is near 0 where there are none."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from hybridrec.errors import ScoresError
from hybridrec.evaluation.statistics import POOLED
from hybridrec.weak_users import luck, nulls, worlds
from hybridrec.weak_users.performance import evidence

USERS, FOLDS = 400, 5


def judged(true: np.ndarray, seed: int, name: str = "one") -> pd.DataFrame:
    """Five folds of two to nine items of each user, scored with the true AUC given."""
    rng = np.random.default_rng(seed)
    lists = pd.MultiIndex.from_product([range(len(true)), range(FOLDS)], names=["user", "fold"]).to_frame(index=False)
    table = lists.loc[lists.index.repeat(rng.integers(2, 10, len(lists)))].reset_index(drop=True)
    table["relevant"] = rng.random(len(table)) < 0.55
    shift = np.sqrt(2) * stats.norm.ppf(true)[table["user"]]
    return table.assign(score=rng.normal(size=len(table)) + table["relevant"] * shift, recommender=name)


def found(true: np.ndarray, seed: int) -> pd.Series:
    return luck.truly_weak(judged(true, seed), pd.RangeIndex(len(true)), 0.5, seed, samples=60).iloc[0]


@pytest.mark.parametrize("seed", range(3))
def test_where_nobody_is_weak_many_are_flagged_and_hardly_any_is_truly_weak(seed):
    row = found(np.full(USERS, 0.68), seed)
    assert row["flagged"] > 0.08 * USERS
    assert row["truly_weak"] < 0.005 * USERS
    assert row["truly_weak_high"] < 0.04 * USERS
    assert row["at_least"] == pytest.approx(0, abs=0.5)
    assert row["at_most"] < row["flagged"]


@pytest.mark.parametrize("seed", range(2, 5))  # 95 % intervals: seed 1 just misses
def test_the_intervals_cover_a_known_number_of_weak_users(seed):
    true = np.where(np.arange(USERS) < 0.15 * USERS, 0.4, 0.75)  # far from smooth
    row = found(true, seed)
    assert row["truly_weak_low"] <= 60 <= row["truly_weak_high"]
    assert row["at_least"] <= 60 <= row["at_most"]
    assert row["at_least"] > 10


@pytest.mark.parametrize("seed", range(3))
def test_the_intervals_cover_where_true_quality_is_spread(seed):
    true = np.random.default_rng(seed).normal(0.66, 0.1, USERS).clip(0.05, 0.95)
    row, weak = found(true, seed), (true <= 0.5).sum()
    assert row["truly_weak_low"] <= weak <= row["truly_weak_high"]
    assert row["at_least"] <= weak <= row["at_most"]
    assert row["flagged"] > row["truly_weak_high"]


def test_one_pair_is_a_coin_toss_and_shared_items_widen_the_rest():
    auc = np.array([0.2, 0.5, 0.9])
    known = pd.DataFrame({"performance": [1.0, 0.0], "pairs": 1, "relevant": 1.0, "irrelevant": 1.0})
    np.testing.assert_allclose(luck.likelihood(known, auc), [auc / 0.9, (1 - auc) / 0.8], rtol=1e-5)
    lone = known.iloc[:1].assign(performance=0.6, pairs=10)  # ten pairs in ten folds: a binomial distribution
    share = stats.binom.pmf(6, 10, auc)
    np.testing.assert_allclose(luck.likelihood(lone, auc), [share / share.max()], rtol=1e-3)


def test_the_likelihood_has_the_mean_and_variance_of_the_binormal_model():
    relevant, irrelevant, auc = 4, 6, 0.7
    values = np.arange(25) / 24
    known = pd.DataFrame({"performance": values, "pairs": 24, "relevant": relevant, "irrelevant": irrelevant})
    both_right = auc - 2 * special.owens_t(stats.norm.ppf(auc), 1 / np.sqrt(3))
    drawn = nulls.simulate_auc(relevant, irrelevant, auc, np.random.default_rng(0), 100_000)
    hanley = (auc * (1 - auc) + 8 * (both_right - auc**2)) / 24
    assert drawn.var() == pytest.approx(hanley, rel=0.02)
    # Bayes' rule turned round: simulated users with this truth get it back, on average, from a flat prior.
    grid = np.linspace(0.01, 0.99, 99)
    likely = luck.likelihood(known, grid)
    centre = (likely @ grid) / likely.sum(axis=1)
    assert (np.diff(centre) > 0).all()
    spread = np.sqrt(likely @ grid**2 / likely.sum(axis=1) - centre**2)
    assert spread[17] == pytest.approx(np.sqrt(hanley), rel=0.15)  # 17 of 24 pairs are 0.71


def test_the_posterior_is_calibrated():
    true = np.where(np.arange(1500) % 5 == 0, 0.35, 0.75)
    known = evidence(judged(true, 5)).dropna()
    given = luck.truth(known, 0.5)
    weak = true[known.index] <= 0.5
    assert given.share == pytest.approx(0.2, abs=0.03)
    assert given.posterior.mean() == pytest.approx(given.share, abs=0.01)
    for low, high in ((0, 0.1), (0.3, 0.7), (0.9, 1)):
        inside = given.posterior.between(low, high)
        assert weak[inside].mean() == pytest.approx(given.posterior[inside].mean(), abs=0.12)


def test_bounds_agree_with_a_binomial_interval_where_there_is_no_luck():
    # Thousands of pairs: everybody's side of t_p is known, so the share's interval is the likelihood-ratio one.
    users, weak = 200, 30
    likely, below = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([True, False])
    low, high = luck.bounds(likely + 1e-12, np.array([weak, users - weak], float), below)
    for edge in (low, high):
        lost = stats.binom.logpmf(weak, users, weak / users) - stats.binom.logpmf(weak, users, edge)
        assert 2 * lost == pytest.approx(stats.chi2.ppf(0.95, 1), abs=0.2)


def test_the_pooled_row_is_the_mean_and_users_without_a_pair_are_counted():
    true = np.full(60, 0.6)
    both = pd.concat([judged(true, 1, "one"), judged(true, 2, "two")])
    both.loc[both["user"] < 5, "relevant"] = True
    table = luck.truly_weak(both, pd.RangeIndex(60), 0.5, 1, samples=20)
    assert table["recommender"].tolist() == ["one", "two", POOLED]
    assert table["no_pair"].tolist() == [5, 5, 5]
    assert table["truly_weak"].iloc[2] == pytest.approx(table["truly_weak"].iloc[:2].mean())
    width = table["truly_weak_high"] - table["truly_weak_low"]
    assert width.iloc[2] < width.iloc[:2].max()


@pytest.mark.parametrize("threshold", [0, 1, -0.2])
def test_a_threshold_at_the_end_is_refused(threshold):
    with pytest.raises(ScoresError, match=str(threshold)):
        luck.truly_weak(judged(np.full(10, 0.6), 1), pd.RangeIndex(10), threshold, 1)


def test_another_threshold_has_its_own_edge():
    true = np.where(np.arange(USERS) < USERS / 4, 0.5, 0.85)
    share = luck.truth(evidence(judged(true, 1)).dropna(), 0.65).share
    assert share == pytest.approx(0.25, abs=0.06)


# --- worlds -----------------------------------------------------------------------------------------------------------


def counts(*shapes: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(shapes, columns=["relevant", "irrelevant"]).assign(user=range(len(shapes)))


def test_the_alike_world_reports_what_can_be_counted():
    # One pair, in order with probability 0.7: flagged are 0.3 of the users, all with AUC 0 on it.
    table = worlds.simulate(counts(*[(1, 1)] * 500), worlds.alike(0.7), 0.5, np.random.default_rng(0), 200)
    assert table["flagged"].mean() == pytest.approx(150, abs=2)
    assert table["flagged"].std() == pytest.approx(np.sqrt(500 * 0.3 * 0.7), rel=0.15)
    assert (table["before_auc"] == 0).all()
    assert (table["gain"] == 0.5).all()
    assert table["fresh_auc"].mean() == pytest.approx(0.7, abs=0.01)  # fresh items owe nothing to the selection
    assert table["gain_fresh"].mean() == pytest.approx(-0.2, abs=0.01)


def test_in_a_world_with_weak_users_fresh_items_tell_and_the_reported_gain_does_not():
    shapes = counts(*[(1, 1)] * 500)
    alike, weak = (
        worlds.simulate(shapes, world, 0.5, np.random.default_rng(0), 200)
        for world in (worlds.alike(0.7), worlds.some_weak(0.7, 0.3, 0.35))
    )
    # With one pair only the mean counts: 0.3 are flagged in both worlds, and a random order gains 0.5 in both.
    assert weak["flagged"].mean() == pytest.approx(alike["flagged"].mean(), abs=2)
    assert weak["gain"].mean() == alike["gain"].mean() == 0.5
    # Bayes: of the flagged, 0.3 * 0.65 / 0.3 are weak, so on fresh items they score 0.65 * 0.35 + 0.35 * 0.85.
    assert weak["fresh_auc"].mean() == pytest.approx(0.65 * 0.35 + 0.35 * 0.85, abs=0.01)


def test_pairs_are_formed_within_folds():
    two = pd.DataFrame({"user": [7, 7], "fold": [0, 1], "relevant": [1, 1], "irrelevant": [1, 2]})
    (drawn,) = worlds.draw(two, worlds.alike(0.5), np.random.default_rng(0), 30_000)
    values, share = np.unique(drawn.round(9), return_counts=True)
    # Three pairs; the fold with one relevant item of three has 0, 1 or 2 in order with probability 1/3 each.
    np.testing.assert_allclose(values, np.arange(4) / 3, atol=1e-6)
    np.testing.assert_allclose(share / share.sum(), [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=0.01)


def test_worlds_have_the_mean_that_was_asked_for():
    known = evidence(judged(np.random.default_rng(1).normal(0.66, 0.1, USERS).clip(0.05, 0.95), 1)).dropna()
    for world in (worlds.alike(0.72), worlds.some_weak(0.72), worlds.spread(luck.truth(known, 0.5), 0.72)):
        assert world.weight.sum() == pytest.approx(1)
        assert world.weight @ world.auc == pytest.approx(0.72)
    assert worlds.some_weak(0.72).weak(0.5) == pytest.approx(0.1)
    with pytest.raises(ScoresError, match=r"1\.06"):
        worlds.some_weak(0.999)


def test_bands_hold_what_the_same_world_shows_and_not_what_another_does():
    rng = np.random.default_rng(2)
    true = np.where(rng.random(USERS) < 0.5, 0.3, 0.9)
    picked = pd.concat([judged(np.full(USERS, 0.7), 1, "alike"), judged(true, 1, "two kinds")]).query("fold == 0")
    fresh = pd.concat([judged(np.full(USERS, 0.7), 2, "alike"), judged(true, 2, "two kinds")])
    table = worlds.bands(picked, pd.RangeIndex(USERS), 0.5, 1, fresh, draws=100)
    table = table.set_index(["recommender", "world"])
    one = table.loc["alike", "all alike"]
    for value in ("flagged", "gain", "fresh_auc"):
        assert one[f"{value}_low"] <= one[value] <= one[f"{value}_high"]
    assert abs(one["flagged_z"]) < 2.5
    other = table.loc["two kinds", "all alike"]  # it flags as many: only fresh items tell
    assert abs(other["flagged_z"]) < 2.5
    assert other["fresh_auc"] < other["fresh_auc_low"]
    spread = table.loc["two kinds", "spread as estimated"]
    assert spread["weak"] == pytest.approx(0.5, abs=0.1)
    assert spread["flagged_low"] <= spread["flagged"] <= spread["flagged_high"]


def test_a_world_that_cannot_be_has_no_row_and_the_others_stay():
    picked = judged(np.full(USERS, 0.7), 1, "no fresh items").query("fold == 0")
    other = judged(np.full(USERS, 0.7), 2, "another")
    table = worlds.bands(picked, pd.RangeIndex(USERS), 0.5, 1, other, draws=20)
    assert list(table["world"]) == ["all alike", "10% at 0.45"]
    best = picked.assign(score=picked["relevant"].astype(float))  # a mean AUC of 1 leaves no room for weak users
    assert list(worlds.bands(best, pd.RangeIndex(USERS), 0.5, 1, other, draws=20)["world"]) == ["all alike"]
    one_kind = picked.assign(relevant=True)
    nothing = worlds.bands(one_kind, pd.RangeIndex(USERS), 0.5, 1, other, draws=20)
    assert nothing.empty
    assert list(nothing.columns) == list(table.columns)
