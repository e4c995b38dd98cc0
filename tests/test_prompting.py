"""What notebook 04 and its appendix make of answers: read back from tables they say what the rankings said."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.evaluation import metrics
from hybridrec.llm import rankers, shuffles
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.runner import USAGE
from hybridrec.study import prompting


def ranking(user: int, shown: list[int], best_first: list[int], missing: int = 0, way: str = "listwise") -> Ranking:
    scores = tuple(float(len(best_first) - best_first.index(item)) for item in shown)
    used = dict.fromkeys(USAGE, 1.0)
    return Ranking(way, user, tuple(shown), scores, 1, 0, missing, "", 2, True, used, "model")


# Two orders shown to two users: user 1 repeats what is shown, user 2 always answers 5, 6, 7.
ORDERS = [
    [ranking(1, [1, 2, 3], [1, 2, 3]), ranking(2, [5, 6, 7], [5, 6, 7])],
    [ranking(1, [3, 1, 2], [3, 1, 2]), ranking(2, [7, 6, 5], [5, 6, 7], missing=1)],
]
AGAIN = pd.concat([rankers.table(ones).assign(order=number) for number, ones in enumerate(ORDERS)], ignore_index=True)


def without_nan(one: Ranking) -> tuple:
    return (*(value for name, value in vars(one).items() if name != "answered"), np.isnan(one.answered))


def test_rankings_are_read_back_from_their_table_as_they_were():
    for ones in ORDERS:
        assert list(map(without_nan, rankers.from_table(rankers.table(ones)))) == list(map(without_nan, ones))
    assert rankers.from_table(rankers.table([])) == []


def test_scores_of_titles_are_per_token_and_less_what_is_usual():
    response = {"log_probs": [-12.0, -9.0], "lengths": [4, 2]}
    assert rankers.scores_of("likelihood", response) == [-3.0, -4.5]
    assert rankers.scores_of("likelihood", response, [-4.0, -9.0]) == [-2.0, 0.0]
    chosen = {"log_probs": np.log([[0.3, 0.1], [0.2, 0.4]])}
    assert rankers.scores_of("pointwise", chosen) == pytest.approx([np.log(3), np.log(0.5)])
    assert rankers.answered("pointwise", chosen) == pytest.approx(0.5)


def test_position_bias_from_the_table_is_that_of_the_rankings():
    report = prompting.position_bias(AGAIN).loc["listwise"]
    pd.testing.assert_frame_equal(report, shuffles.report(ORDERS))
    assert report["echo"].to_dict() == {1: 1.0, 2: 0.0}
    assert report["agreement"].to_dict() == pytest.approx({1: -1 / 3, 2: 1.0})
    assert prompting.position_bias(AGAIN.iloc[:0]).empty


def test_several_orders_are_judged_beside_the_first_alone():
    candidates = pd.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": [1, 2, 3, 5, 6, 7]})
    candidates["relevant"] = candidates["item"].isin([1, 5])
    table = prompting.orders_combined(AGAIN, candidates, 1, 100).set_index("name")
    assert list(table.index) == ["listwise, one order", "listwise, 2 orders", "listwise, 2 orders, closest"]
    assert table.loc["listwise, one order", "auc"] == 1.0
    # user 1: Borda gives 1.5, 0.5 and 1 to items 1, 2 and 3; user 2's answers are one and the same
    assert table.loc["listwise, 2 orders", "auc"] == 1.0 and (table["users"] == 2).all()
    assert prompting.orders_combined(AGAIN.iloc[:0], candidates, 1, 100).empty


def test_the_share_that_we_appended_counts_candidates_not_users():
    rows = rankers.table([ranking(1, [1, 2, 3, 4], [1, 2, 3, 4], missing=2), ranking(2, [5, 6], [5, 6])])
    found = prompting.repaired(rows.assign(model="toy"), 1, 400).loc[("toy", "listwise")]
    assert found["users"] == 2 and found["share"] == pytest.approx(2 / 6)
    assert found["low"] == 0 and found["high"] == pytest.approx(0.5)  # only the one user, or only the other
    alone = prompting.repaired(rankers.table(ORDERS[0][:1]).assign(model="toy"), 1, 400)
    assert alone[["low", "high"]].isna().all().all()
    assert prompting.repaired(rankers.table([]).assign(model=None), 1, 400).empty


def test_a_user_of_two_samples_counts_once_among_echoes():
    sample, weak = {("toy", "listwise"): ORDERS[0]}, {("toy", "listwise"): ORDERS[0][:1]}
    (row,) = prompting.echoes([sample, weak], 1, 100).to_dict("records")
    assert (row["complete"], row["repeated"], row["expected"]) == (2, 2, pytest.approx(2 / 6))
    scored = {("toy", "likelihood"): ORDERS[0]}
    assert prompting.echoes([scored], 1, 100).empty


def test_lines_that_repeat_the_history_are_counted_and_empty_ones_are_none():
    texts = pd.DataFrame({"ranker": "listwise", "user": [1, 2], "text": ["1. ⟨history 1⟩\n\n2. New", "⟨history 2⟩\n"]})
    assert prompting.lines(texts).tolist() == ["1. ⟨history 1⟩", "2. New", "⟨history 2⟩"]
    assert prompting.copied(texts) == pytest.approx(2 / 3)
    assert np.isnan(prompting.copied(texts.iloc[:0]))


def test_samples_put_together_have_each_row_once():
    one, other = (rankers.table(ones).assign(model="toy") for ones in (ORDERS[0], ORDERS[0][:1]))
    assert len(prompting.together(one, other)) == len(one)
    assert prompting.together(one.iloc[:0], other.iloc[:0]).empty


def test_a_table_of_floors_has_the_ways_own():
    answered = ranking(1, [1, 2], [1, 2], way="pointwise")
    rows = rankers.table([answered]).assign(model="toy", answered=0.4)
    (row,) = prompting.floors(rows, ["pointwise", "likelihood"]).to_dict("records")
    assert (row["model"], row["ranker"], row["median"], row["floor"]) == ("toy", "pointwise", 0.4, 0.1)
    assert metrics.auc(rows.assign(relevant=[True, False])).iloc[0] == 1
