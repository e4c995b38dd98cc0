"""The steps of protocol cross."""

import pandas as pd
import pytest

from hybridrec.study import cross_steps, steps
from hybridrec.weak_users import triage

SEED = 2024


def test_who_is_drawn_keeps_the_folds_and_the_lists_of_the_full_study(interactions):
    everybody = cross_steps.divide(interactions, 4.0, 5, SEED)
    drawn = cross_steps.divide(interactions, 4.0, 5, SEED, users=3)
    for full, part in zip(everybody, drawn, strict=True):
        pd.testing.assert_frame_equal(part, full[full["user"].isin(part["user"].unique())])
    of_split, _ = steps.divide(interactions, 4.0, SEED, users=3)
    assert set(drawn[0]["user"]) == set(of_split["user"]) and drawn[0]["user"].nunique() == 3


def test_a_set_threshold_of_sparsity_divides_the_same_users_in_every_protocol():
    """100 items; 45 known ratings of 50 are t_s = 0.55 under the split, and 40 of 50 are 0.6 outside a fold of five."""
    rated = {1: 45, 2: 50, 3: 55}
    rows = [(user, item, item // 5 % 5 + 1, item % 5) for user, count in rated.items() for item in range(count)]
    divided = pd.DataFrame(rows, columns=["user", "item", "rating", "fold"])
    scores = pd.concat([divided.assign(ranker="A", draw=0, test=test, score=0.0) for test in range(5)])
    items = pd.DataFrame({"item": range(100)})
    found = cross_steps.triage(scores, divided, items, 4.0, triage.Thresholds(0.5, 0.55 + 1e-9))
    assert found.groupby("user")["inactive"].mean().to_dict() == {1: 1, 2: 0, 3: 0}
    unset = cross_steps.triage(scores, divided, items, 4.0, triage.Thresholds(0.5))
    assert unset.groupby("user")["sparsity"].mean().to_dict() == pytest.approx({1: 0.64, 2: 0.6, 3: 0.56})
