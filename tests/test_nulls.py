"""Users whose true AUC is known, drawn by chance, against what can be counted by hand."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.weak_users import nulls, performance, worlds


def test_candidates_are_counted_by_user():
    table = pd.DataFrame({"user": [7, 7, 7, 3], "relevant": [True, False, False, True]})
    assert nulls.candidate_counts(table).to_dict("list") == {"user": [3, 7], "relevant": [1, 1], "irrelevant": [0, 2]}


@pytest.mark.parametrize(("shape", "auc"), [((1, 1), 0.7), ((5, 3), 0.7), ((2, 9), 0.35)])
def test_simulated_users_have_the_auc_they_were_given(shape, auc):
    drawn = nulls.simulate_auc(*shape, auc, np.random.default_rng(0), 40_000)
    assert drawn.mean() == pytest.approx(auc, abs=0.01)
    assert set(np.round(drawn * shape[0] * shape[1], 9)) <= set(range(shape[0] * shape[1] + 1))


def test_blocks_change_no_number(monkeypatch):
    whole = nulls.simulate_auc(3, 4, 0.7, np.random.default_rng(1), 1000)
    monkeypatch.setattr(nulls, "_BLOCK", 50)
    np.testing.assert_array_equal(nulls.simulate_auc(3, 4, 0.7, np.random.default_rng(1), 1000), whole)


@pytest.mark.parametrize("auc", [0.0, 1.0])
def test_a_recommender_that_is_always_right_or_wrong_leaves_nothing_to_luck(auc):
    assert set(nulls.simulate_auc(2, 3, auc, np.random.default_rng(0), 100)) == {auc}


@pytest.mark.parametrize("auc", [-0.1, 70.0, np.nan])
def test_an_impossible_auc_is_refused(auc):
    with pytest.raises(ValueError, match=f"is {auc}"):
        nulls.simulate_auc(1, 1, auc, np.random.default_rng(0), 1)


def in_folds(*users: list[tuple[int, int]]) -> pd.DataFrame:
    """The items of users: for each fold how many are relevant and how many are not."""
    rows = [
        (user, fold, which)
        for user, folds in enumerate(users)
        for fold, shape in enumerate(folds)
        for which, count in zip((True, False), shape, strict=True)
        for _ in range(count)
    ]
    table = pd.DataFrame(rows, columns=["user", "fold", "relevant"]).assign(score=0.0)
    return performance.fold_counts(table)


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


def test_flags_by_luck_in_one_fold_are_those_of_a_world_where_all_are_alike():
    shapes = [(1, 2), (3, 4), (5, 5), (2, 6)]
    expected, sd = nulls.flagged_by_luck(
        in_folds(*[[shape] for shape in shapes]), 0.7, 0.5, np.random.default_rng(0), 40_000
    )
    counts = pd.DataFrame(shapes, columns=["relevant", "irrelevant"]).rename_axis("user").reset_index()
    found = worlds.simulate(counts, worlds.alike(0.7), 0.5, np.random.default_rng(1), 40_000)["flagged"]
    assert (expected, sd) == (pytest.approx(found.mean(), abs=0.02), pytest.approx(found.std(), abs=0.02))
