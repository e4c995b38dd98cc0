"""Fusions: ranks as SciPy has them, weights chosen as a slow loop over users chooses them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from test_arms import FOLDS, LIKE, inactive, skilled, slow_auc

from hybridrec.data import folds
from hybridrec.evaluation import fusion, lists


@pytest.fixture
def cross(interactions) -> lists.Lists:
    return lists.Lists(folds.divide(interactions, FOLDS, seed=1), LIKE)


def test_ranks_in_a_list_are_scipys_and_a_list_without_a_score_has_none(cross):
    values = skilled(cross, 1.0, 1).round(0)  # ties
    values[1, 10] = np.nan
    found = fusion.ranks(cross, values)
    for test in range(FOLDS):
        for number in range(len(cross.n_pairs)):
            rows = cross.list == number
            expected = rankdata(values[test, rows], nan_policy="propagate")
            np.testing.assert_array_equal(found[test, rows], expected)


def test_the_weight_is_the_best_on_the_other_folds_of_those_whom_both_ranked(cross):
    users = inactive(cross)
    own, arm = skilled(cross, 0.7, 1), skilled(cross, 0.9, 2)
    arm[:, cross.user % 3 == 0] = np.nan  # a sample of users ...
    neighbour = (np.arange(FOLDS)[:, None] + 1) % FOLDS == cross.fold
    arm[~neighbour & ~cross.judged] = np.nan  # ... and one deciding fold, as a language model is asked
    found, weights = fusion.fuse(cross, {"A": own}, {"L": arm}, users)
    rank_own, rank_arm = fusion.ranks(cross, own), fusion.ranks(cross, arm)
    for test, row in weights.set_index("test").iterrows():
        counted = users.loc[users["test"] == test, "user"]
        counted = counted[cross.users.get_indexer(counted) % 3 != 0]
        reached = {}
        for weight in fusion.GRID:
            fused = rank_own + weight * rank_arm
            aucs = [slow_auc(cross, fused, test, user, [(test + 1) % FOLDS]) for user in counted]
            reached[weight] = np.nanmean(aucs)
        assert row["weight"] == max(reached, key=reached.get)
        assert row["lists"] == np.isfinite(aucs).sum()
        assert row["auc"] == pytest.approx(max(reached.values()), abs=1e-8)
        assert row["gain"] == pytest.approx(max(reached.values()) - reached[0], abs=1e-8)
        expected = np.where(cross.fold == test, rank_own[test] + row["weight"] * rank_arm[test], np.nan)
        np.testing.assert_array_equal(found["A + L"][test], expected)
    assert weights["weight"].nunique() > 1


def test_what_knows_more_gets_the_highest_weight_and_what_is_the_same_gets_none(cross):
    own = skilled(cross, 0.5, 1)
    added = {"same": 3 * own + 1, "labels": np.tile(cross.relevant.astype(float), (FOLDS, 1))}
    found, weights = fusion.fuse(cross, {"A": own}, added, None)
    chosen = weights.groupby("arm")["weight"]
    assert chosen.max()["same"] == 0
    assert chosen.min()["labels"] > 1
    judged = cross.judged
    np.testing.assert_array_equal(found["A + same"][judged], fusion.ranks(cross, own)[judged])


def test_an_arm_that_was_asked_about_no_deciding_list_gets_no_weight(cross):
    own, arm = skilled(cross, 0.5, 1), np.where(cross.judged, skilled(cross, 2.0, 2), np.nan)
    _, weights = fusion.fuse(cross, {"A": own}, {"L": arm}, None)
    assert weights["weight"].tolist() == [0] * FOLDS
    assert weights["lists"].tolist() == [0] * FOLDS
    assert weights["auc"].isna().all()


def test_no_recommender_is_fused_with_itself(cross):
    given = {"A": skilled(cross, 0.5, 1), "B": skilled(cross, 0.5, 2)}
    found, weights = fusion.fuse(cross, given, given, None)
    assert list(found) == ["A + B", "B + A"]
    assert pd.unique(weights["recommender"]).tolist() == ["A", "B"]


def test_opposite_orders_of_equal_weight_are_a_tie(cross):
    own = skilled(cross, 1.0, 1)
    ranks = fusion.ranks(cross, own) + fusion.ranks(cross, -own)
    assert (cross.correct(ranks)[:, cross.n_pairs > 0] == cross.n_pairs[cross.n_pairs > 0] / 2).all()


def test_in_turn_each_weight_is_the_best_on_top_of_those_before(cross):
    users = inactive(cross)
    own, one, two = (skilled(cross, skill, at) for at, skill in enumerate((0.5, 0.6, 0.9)))
    alone, weights_alone = fusion.fuse(cross, {"A": own}, {"x": one}, users)
    found, weights = fusion.fuse_in_turn(cross, {"A": own}, {"x": one}, users)
    np.testing.assert_array_equal(found["A + x"], alone["A + x"])
    pd.testing.assert_frame_equal(weights, weights_alone)
    two[:, cross.user % 3 == 0] = np.nan  # the second arm knows a sample
    found, weights = fusion.fuse_in_turn(cross, {"A": own}, {"x": one, "y": two}, users)
    first, second = (weights[weights["arm"] == name].set_index("test") for name in "xy")
    pd.testing.assert_series_equal(first["weight"], weights_alone.set_index("test")["weight"])
    by_rank = [fusion.ranks(cross, values) for values in (own, one, two)]
    for test in range(FOLDS):
        counted = users.loc[users["test"] == test, "user"]
        base, reached = by_rank[0] + first.loc[test, "weight"] * by_rank[1], {}
        for weight in fusion.GRID:
            fused = base + weight * by_rank[2]
            others = [fold for fold in range(FOLDS) if fold != test]
            reached[weight] = np.nanmean([
                slow_auc(cross, fused, test, user, [fold])
                for user in counted[cross.users.get_indexer(counted) % 3 != 0]
                for fold in others
            ])  # fmt: skip
        assert second.loc[test, "weight"] == max(reached, key=reached.get) > 0
        expected = np.where(cross.fold == test, base[test] + second.loc[test, "weight"] * by_rank[2][test], np.nan)
        np.testing.assert_array_equal(found["A + x + y"][test], expected)
