"""Folds over all ratings."""

import pandas as pd
import pytest

from hybridrec.data import folds
from hybridrec.errors import SplitError


@pytest.fixture(scope="module")
def ratings() -> pd.DataFrame:
    rows = [(user, item, (user * 7 + item * 3) % 5 + 1) for user in range(20) for item in range(3 + user)]
    return pd.DataFrame(rows, columns=["user", "item", "rating"])


def test_every_rating_is_a_test_item_once_and_folds_are_even(ratings):
    divided = folds.divide(ratings, 5, seed=1)
    assert len(divided) == len(ratings)
    assert not divided.duplicated(["user", "item"]).any()
    sizes = divided.groupby("user")["fold"].value_counts().unstack(fill_value=0)
    assert (sizes.max(axis=1) - sizes.min(axis=1)).max() <= 1


def test_what_a_fold_is_known_by_does_not_hold_it(ratings):
    divided = folds.divide(ratings, 5, seed=1)
    known = folds.without(divided, 2, 3)
    assert set(known["fold"]) == {0, 1, 4}
    assert len(known) == len(divided) - divided["fold"].isin([2, 3]).sum()


def test_a_labels_value_does_not_move_an_item(ratings):
    """The order of candidates and the folds depend on who rated what, never on how."""
    other = ratings.assign(rating=6 - ratings["rating"])
    columns = ["fold", "user", "position", "item"]
    one, two = (folds.candidates(folds.divide(rows, 5, seed=1), 4, seed=1)[columns] for rows in (ratings, other))
    pd.testing.assert_frame_equal(one, two)


def test_lists_with_a_pair_by_hand():
    rows = pd.DataFrame(
        {"fold": [0, 0, 1, 1, 1], "user": [7, 7, 7, 7, 8], "relevant": [True, False, True, True, False]}
    )
    assert folds.with_a_pair(rows).to_numpy().tolist() == [[0, 7]]


def test_two_folds_are_too_few(ratings):
    with pytest.raises(SplitError, match="folds"):
        folds.divide(ratings, 2, seed=1)
