"""Who ended answers and how many of them can be used, counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from hybridrec.llm import rankers, validity
from hybridrec.llm.rankers import Ranking

NAN = float("nan")


def answer(ranker: str, user: int, n: int, ended_by: str = "", failure: str = "", answered: float = NAN, **counts: int):
    found = {"invalid": 0, "duplicates": 0, "missing": 0} | counts
    scores = tuple(float(place) for place in range(n))
    return Ranking(
        ranker, user, tuple(range(n)), scores, **found, failure=failure, attempts=1, replayed=True,
        used=dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "seconds"), 1.0),
        ended_by=ended_by, answered=answered,
    )  # fmt: skip


LISTWISE = [
    answer("listwise", 1, 4, "model"),
    answer("listwise", 2, 4, "our budget", missing=2, invalid=3),
    answer("listwise", 3, 2, "our stop rule", duplicates=1),
    answer("listwise", 4, 6, "model", failure="names no candidate", missing=6, invalid=1),
    answer("listwise", 5, 4, "", failure="refused with 400", missing=4),
]
POINTWISE = [
    answer("pointwise", 1, 4, answered=0.3),
    answer("pointwise", 2, 4, answered=0.05, failure="no answer", missing=4),
    answer("pointwise", 3, 2, answered=0.02, failure="no answer", missing=2),
]
TABLE = rankers.table(LISTWISE + POINTWISE)


def test_each_answer_is_one_row_with_what_is_said_of_all_of_it():
    rows = validity.answers(TABLE)
    assert list(rows["candidates"]) == [4, 4, 2, 6, 4, 4, 4, 2]
    assert list(rows["complete"]) == [True, False, True, False, False, True, False, False]
    assert list(rows.loc[rows["ranker"] == "pointwise", "answered"]) == [0.3, 0.05, 0.02]


def test_shares_of_who_ended_are_of_what_was_written():
    found = validity.ended(TABLE)
    assert found.loc["listwise"].to_dict() == {
        "asked": 5, "answers": 4, "by model": 0.5, "by our budget": 0.25, "by our stop rule": 0.25, "by server": 0.0,
    }  # fmt: skip
    assert found.loc["pointwise", ["asked", "answers"]].tolist() == [3, 0]
    assert found.loc["pointwise"].isna().sum() == len(validity.ENDS)


def test_validity_is_per_candidate_and_by_who_ended_the_answer():
    row = validity.validity(TABLE).loc["listwise"]
    assert row.tolist() == pytest.approx([4 / 20, 1 / 20, 12 / 20, 2 / 5, 2 / 5, 5])
    assert list(row.index) == ["invalid", "duplicates", "missing", "complete", "failed", "users"]
    by_end = validity.validity(TABLE, by_end=True)
    assert by_end.loc[("listwise", "model")].tolist() == pytest.approx([1 / 10, 0, 6 / 10, 1 / 2, 1 / 2, 2])
    assert by_end.loc[("listwise", "our budget")].tolist() == pytest.approx([3 / 4, 0, 2 / 4, 0, 0, 1])
    assert set(by_end.index) == {("listwise", end) for end in ("model", "our budget", "our stop rule")}


def test_models_are_told_apart():
    both = pd.concat([TABLE.assign(model="small"), rankers.table(LISTWISE[:1]).assign(model="large")])
    assert validity.ended(both)["answers"].to_dict() == {
        ("small", "listwise"): 4, ("small", "pointwise"): 0, ("large", "listwise"): 1,
    }  # fmt: skip
    assert validity.validity(both).loc[("large", "listwise"), "complete"] == 1


def test_how_probable_the_choices_are_is_a_median_over_users():
    found = validity.answered(TABLE)
    assert found.to_dict("index") == {"pointwise": {"users": 3, "median": 0.05, "below": pytest.approx(2 / 3)}}


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        (POINTWISE, True),  # two of three below the floor
        (POINTWISE[:2], False),  # one of two are not most
        (LISTWISE, False),  # one of five was refused; what cannot be used was written all the same
        (LISTWISE[4:], True),
    ],
)
def test_no_verdict_is_due_where_most_users_have_no_answer(rankings, expected):
    table = rankers.table(rankings)
    marked = validity.without_answers(table)
    assert marked.index.equals(table.index) and marked.dtype == bool
    assert set(marked) == {expected}


def test_verdicts_are_withheld_by_model_and_way_to_ask_however_long_the_lists_are():
    refused = answer("listwise", 9, 40, failure="refused", missing=40)  # one long list outweighs no other user
    small, large = rankers.table([*LISTWISE[:2], refused, *POINTWISE]), rankers.table(LISTWISE[:1])
    both = pd.concat([small.assign(model="small"), large.assign(model="large")])
    marked = validity.without_answers(both)
    found = both.assign(marked=marked.to_numpy()).groupby(["model", "ranker"])["marked"].first()
    assert found.to_dict() == {
        ("large", "listwise"): False, ("small", "listwise"): False, ("small", "pointwise"): True,
    }  # fmt: skip


def test_nothing_asked_is_nothing_told():
    nothing = rankers.table([])
    for table in (nothing, nothing.assign(model=None)):
        assert validity.answers(table).empty
        assert validity.ended(table).empty and "by our stop rule" in validity.ended(table)
        assert validity.validity(table).empty and validity.validity(table, by_end=True).empty
        assert validity.answered(table).empty and validity.without_answers(table).empty


def test_only_failures_divide_by_nothing():
    refused = rankers.table(LISTWISE[4:])
    found = validity.ended(refused).loc["listwise"]
    assert (found["asked"], found["answers"]) == (1, 0) and math.isnan(found["by model"])
    row = validity.validity(refused).loc["listwise"]
    assert (row["missing"], row["failed"], row["complete"]) == (1, 1, 0)
    assert np.isfinite(row.astype(float)).all()
