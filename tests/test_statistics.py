"""Intervals cover and shrink, and Holm's correction is Holm's."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridrec.evaluation import statistics


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- bootstrap ------------------------------------------------------------------------------------------------------


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    draws = rng().normal(0.3, 1, (200, 60))
    intervals = [statistics.bootstrap_interval(values, rng(i), samples=400) for i, values in enumerate(draws)]
    covered = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.985


def test_interval_halves_when_there_are_four_times_the_users():
    values = rng().normal(size=1600)
    widths = [np.diff(statistics.bootstrap_interval(values[:n], rng(1)))[0] for n in (400, 1600)]
    assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.08)


def test_a_higher_level_gives_a_wider_interval():
    values = rng().normal(size=50)
    (low90, high90), (low99, high99) = (statistics.bootstrap_interval(values, rng(1), level=x) for x in (0.9, 0.99))
    assert low99 < low90 < values.mean() < high90 < high99


def test_interval_is_the_generators_and_nobody_elses():
    values = rng().normal(size=50)
    first, again, other = (statistics.bootstrap_interval(values, rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_users_have_no_interval(values):
    assert np.isnan(statistics.bootstrap_interval(np.array(values), rng())).all()


# --- Holm -----------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # In order: 4 x .005 = .02, 3 x .01 = .03, 2 x .03 = .06, and 1 x .04 may not fall below .06 again.
    adjusted = statistics.holm(pd.Series([0.01, 0.04, 0.03, 0.005], index=list("abcd")))
    assert adjusted.to_dict() == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_holm_is_the_largest_corrected_p_up_to_its_own(p_values):
    ordered = sorted(p_values)
    corrected = [min(1.0, p * (len(ordered) - place)) for place, p in enumerate(ordered)]
    expected = [max(c for c, q in zip(corrected, ordered, strict=True) if q <= p) for p in p_values]
    # Equal p-values may stand in either order, so each takes the larger correction of the first among them.
    assert statistics.holm(pd.Series(p_values)).tolist() == pytest.approx(expected)


def test_missing_p_values_stay_missing_and_do_not_count():
    adjusted = statistics.holm(pd.Series([np.nan, 0.01, np.nan, 0.02]))
    assert adjusted.tolist() == pytest.approx([np.nan, 0.02, np.nan, 0.02], nan_ok=True)
    assert statistics.holm(pd.Series([np.nan, np.nan])).isna().all()
