"""Who is held back from teaching, what they are asked, and how that is judged: compared with what was done by hand."""

import types

import numpy as np
import pandas as pd
import pytest
import torch

from hybridrec.errors import DatasetError
from hybridrec.llm import held_back, lessons, modes, teach
from hybridrec.llm.models import packed

RATINGS = {  # item: rating. In order of items the first two are the history, the others are to be ordered.
    "ann": {1: 2.0, 2: 5.0, 3: 4.0, 4: 1.0},
    "bob": {3: 3.0, 5: 5.0, 6: 5.0, 7: 2.0},
    "cat": {1: 1.0, 2: 2.0, 3: 5.0, 4: 4.0},  # likes both of the others: there is no pair to order
}
PAIRS = {"ann": [3, 4], "bob": [6, 7]}


class InOrder:
    """Chance that leaves the order as it is and draws the least number."""

    def permutation(self, number: int) -> np.ndarray:
        return np.arange(number)

    def integers(self, low: int, high: int) -> int:
        assert low < high
        return low


class Noted:
    """A writer of lists of up to three lines whose prompts are the items that it was given."""

    lines = 3

    def __init__(self, mode: str = "pointwise") -> None:
        self.mode = modes.get(mode)

    def prompt(self, history: pd.DataFrame, items: pd.DataFrame, like: float) -> tuple[list[int], list[int]]:
        assert like == 4.0
        return history["item"].tolist(), items["item"].tolist()


def material(ratings: dict) -> lessons.Material:
    rows = [(user, item, rating) for user, own in ratings.items() for item, rating in own.items()]
    items = pd.DataFrame({"item": range(1, 8), "title": [f"Film {item}" for item in range(1, 8)], "genres": ""})
    return lessons.Material(pd.DataFrame(rows, columns=["user", "item", "rating"]), items, "film", 5, 4.0)


# --- who --------------------------------------------------------------------------------------------------------------


def test_a_seeded_share_of_users_is_held_back_and_nobody_of_them_is_taught():
    users, settings = material({user: {1: 5.0, 2: 1.0} for user in range(40)}), teach.Teaching(held_back=0.3)
    held, taught = teach.divide(users, settings, seed=1)
    assert len(held) == len(set(held)) == 12 and sorted([*held, *taught]) == list(range(40))
    assert (held, taught) == teach.divide(users, settings, seed=1)
    others = [set(teach.divide(users, settings, seed)[0]) for seed in range(2, 22)]
    assert set(held) not in others and set().union(*others) == set(range(40)), "everybody may be held back"


def test_two_at_least_are_held_back():
    held, taught = teach.divide(material(RATINGS), teach.Teaching(held_back=0.01), seed=1)
    assert (len(held), len(taught)) == (2, 1)


# --- what they are asked ----------------------------------------------------------------------------------------------


def test_a_list_is_asked_with_the_users_own_history_and_with_the_next_users():
    check = held_back.build(material(RATINGS), list(RATINGS), Noted(), InOrder())
    assert [rest["item"].tolist() for rest in check.candidates] == [*PAIRS.values()]
    assert check.own == [([2, 1], [3, 4]), ([5, 3], [6, 7])], "the best rated title comes first"
    assert check.another == [([5], [3, 4]), ([2, 1], [6, 7])], "3 is to be ordered, so no history tells it"


def test_where_lines_are_graded_they_stay_in_the_order_of_chance():
    check = held_back.build(material(RATINGS), list(RATINGS), Noted("rating-lines"), InOrder())
    assert [history for history, _ in check.own] == [[1, 2], [3, 5]]


def test_no_history_and_no_list_share_an_item_whatever_chance_says():
    rng = np.random.default_rng(3)
    ratings = {user: dict.fromkeys([1, 3, 5, 7], 5.0) | dict.fromkeys([2, 4, 6], 2.0) for user in range(30)}
    check = held_back.build(material(ratings), range(30), Noted(), rng, most=3)
    assert len(check.own) > 20 and all(len(rest) == 3 for rest in check.candidates)
    assert not [one for one in (*check.own, *check.another) if set(one[0]) & set(one[1])]


def test_too_few_who_have_a_pair_are_told():
    with pytest.raises(DatasetError, match="1 of 2 users who are held back"):
        held_back.build(material(RATINGS), ["ann", "cat"], Noted(), InOrder())


# --- how it is judged -------------------------------------------------------------------------------------------------


def test_the_mean_auc_and_the_probability_of_an_answer(monkeypatch):
    """By hand: with her own history Ann's pair is ordered rightly, Bob's wrongly; with another's both rightly."""
    yes_and_no = {
        "own": [[[0.3, 0.1], [0.1, 0.3]], [[0.1, 0.5], [0.5, 0.1]]],
        "another": [[[0.6, 0.1], [0.2, 0.1]], [[0.2, 0.1], [0.1, 0.2]]],
    }

    def log_probs(model: object, asked: list) -> list[list[torch.Tensor]]:
        return [[torch.tensor(one).log() for one in pair] for pair in yes_and_no[asked[0]]]

    monkeypatch.setattr(packed, "log_probs", log_probs)
    rests = [pd.DataFrame({"item": PAIRS[user], "rating": [RATINGS[user][item] for item in PAIRS[user]]})
             for user in PAIRS]  # fmt: skip
    check = types.SimpleNamespace(candidates=rests, own=["own"], another=["another"])
    found = held_back.validate(None, check, modes.get("pointwise"), like=4.0)
    assert found == pytest.approx({"auc": 0.5, "another": 1.0, "answered": (0.4 + 0.4 + 0.6 + 0.6) / 4})
