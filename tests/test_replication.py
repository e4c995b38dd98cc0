"""The published protocol's weak users on the items that picked them and on fresh ones, counted by hand."""

import pandas as pd
import pytest

from hybridrec.evaluation import cross
from hybridrec.evaluation.cross import OWN, RANDOM
from hybridrec.study import claims, figures, replication
from hybridrec.study.names import LLM
from hybridrec.study.replication import ALL, FRESH, PICKED_ON

# Users 1 and 2; items 10 and 11 are the test items of the split. Under cross each user's ratings lie in folds 0 and 1.
PICKED = pd.DataFrame({"user": [1, 1, 2, 2], "item": [10, 11] * 2, "relevant": [True, False] * 2})
CROSS = pd.DataFrame(
    [
        (0, 1, 10, True), (0, 1, 20, True), (0, 1, 21, False), (0, 1, 22, False), (1, 1, 11, False), (1, 1, 30, True),
        (1, 1, 31, False), (0, 2, 10, True), (0, 2, 11, False), (1, 2, 40, True), (1, 2, 41, False),
    ],
    columns=["fold", "user", "item", "relevant"],
)  # fmt: skip
WEAK = pd.DataFrame({"recommender": ["A", "A", "B"], "test": 0, "user": [1, 2, 2]})
TRIAGE = pd.DataFrame({"test": [0, 0, 1, 1], "user": [1, 2] * 2, "inactive": True})


def ranked(rows: pd.DataFrame, ranker: str, first: list[int]) -> pd.DataFrame:
    """Scores by which these items come first, and all others are tied behind them."""
    test = rows.get("fold", 0)
    score = rows["item"].isin(first).astype(float)
    keys = rows[["user", "item"]].assign(ranker=ranker, draw=0, test=test, fold=test, score=score)
    return keys[cross.SCORES]


def study(answered: pd.DataFrame, weak: pd.DataFrame = WEAK) -> pd.DataFrame:
    """On the picked items recommenders are wrong and the model is right; on the fresh ones the other way round."""
    split = [ranked(PICKED, "A", [11]), ranked(PICKED, "B", [11]), ranked(PICKED, "listwise", [10])]
    labels = PICKED.assign(fold=0)
    lists = cross.lists(pd.concat([*split, cross.random_order(labels)]), labels)
    protocol = claims.Protocol(lists, lists[:0], {"weak": weak}, 0.5)
    published = replication.Replication(protocol, PICKED, ["A", "B"], ["listwise"], "listwise", [])
    scores = pd.concat([ranked(CROSS, "A", [20, 21, 30, 40]), ranked(CROSS, "B", [41])])
    answers = ranked(answered, "llm", [21, 31, 41]).assign(model="tiny", failure="")
    return replication.picked_and_fresh(published, CROSS, scores, answers, TRIAGE, "tiny")


def auc(table: pd.DataFrame, recommender: str, items: str) -> dict[str, float]:
    return table.query("recommender == @recommender and items == @items").set_index("ranked_by")["auc"].to_dict()


def test_pairs_of_the_picking_items_count_on_one_side_and_all_others_on_the_other():
    table = study(CROSS)
    assert auc(table, "A", PICKED_ON) == {OWN: 0, LLM: 1, RANDOM: 0.5}
    # User 1, fold 0: 20 before 22, and a tie with 21; fold 1: right. 2.5 pairs of 3. User 2: right.
    assert auc(table, "A", FRESH) == pytest.approx({OWN: (2.5 / 3 + 1) / 2, LLM: (0.5 / 3 + 0) / 2, RANDOM: 0.5})
    assert auc(table, "B", FRESH) == {OWN: 0, LLM: 0, RANDOM: 0.5}


def test_a_user_of_two_recommenders_counts_once():
    table = study(CROSS)
    assert table.set_index(["recommender", "items"])["users"].to_dict() == {
        (name, items): count for name, count in ((ALL, 2), ("A", 2), ("B", 1)) for items in (PICKED_ON, FRESH)
    }
    assert auc(table, ALL, FRESH)[OWN] == pytest.approx((2.5 / 3 + (1 + 0) / 2) / 2)
    own = table.query("recommender == @ALL and items == @FRESH").set_index("ranked_by")["own_less"]
    assert own[OWN] == 0 and own[RANDOM] == pytest.approx(auc(table, ALL, FRESH)[OWN] - 0.5)


def test_everybody_orders_the_lists_that_the_language_model_answered():
    table = study(CROSS[(CROSS["user"] == 2) | (CROSS["fold"] == 1)])
    assert auc(table, "A", FRESH)[OWN] == 1  # without fold 0 of user 1
    only = study(CROSS[CROSS["user"] == 2])
    assert set(only.query("recommender == 'A'")["users"]) == {1}


def test_where_no_language_model_was_asked_under_cross_it_has_no_row_on_fresh_items():
    table = study(CROSS[:0])
    assert set(auc(table, ALL, PICKED_ON)) == {OWN, LLM, RANDOM}
    assert set(auc(table, ALL, FRESH)) == {OWN, RANDOM}
    assert (table.query("recommender == @ALL")["users"] == 2).all()


@pytest.mark.parametrize("weak", [WEAK[:0], WEAK[WEAK["user"] == 1], WEAK.assign(user=9)])
def test_few_weak_users_or_none_are_no_error(weak):
    table = study(CROSS, weak)
    first, *others = replication.told(table, ["A", "B"])
    if (weak["user"] == 1).any():
        assert "1 of the 1 weak users" in first and len(others) == 4
    else:
        assert table.empty and list(table) == replication.COLUMNS and others == []
    assert figures.picked_and_fresh(table, "tiny").axes


def test_all_who_are_weak_are_counted_beside_those_with_a_pair_on_both_sides():
    lonely = pd.concat([WEAK, pd.DataFrame({"recommender": ["A"], "test": 0, "user": [9]})])
    table = study(CROSS, lonely).set_index(["recommender", "items", "ranked_by"])
    assert table.loc[(ALL, FRESH, OWN), ["weak", "users"]].tolist() == [3, 2]
