"""The steps that notebooks, other splits, batch files and the check of own ratings share."""

import pandas as pd

from hybridrec.evaluation import controls
from hybridrec.study import steps
from hybridrec.weak_users import triage

SEED = 2024


def test_who_is_drawn_keeps_the_split_and_the_list_of_the_full_study(interactions):
    everybody = steps.divide(interactions, 4.0, SEED)
    drawn = steps.divide(interactions, 4.0, SEED, users=3)
    for full, part in zip(everybody, drawn, strict=True):
        users = part["user"].unique()
        assert 0 < len(users) <= 3
        pd.testing.assert_frame_equal(part, full[full["user"].isin(users)])


def test_users_are_judged_by_test_items_alone():
    candidates = pd.DataFrame({"user": 1, "item": [3, 4], "relevant": [True, False]})
    parts = [("out-of-fold", 0, 1), ("test", -1, 3), ("test", -1, 4)]
    scores = pd.DataFrame(parts, columns=["part", "fold", "item"]).assign(user=1, recommender="A", score=[0.2, 1, 2])
    judged = steps.judged(scores, candidates)
    assert judged.set_index("item")["relevant"].to_dict() == {3: True, 4: False}
    table = triage.triage_table(judged, pd.Series({1: 0.9}), triage.Thresholds(0.5, 0.5), "published").iloc[0]
    assert table[["performance", "pairs", "weak"]].tolist() == [0, 1, True], "the like is scored below the other"


def test_every_ranking_is_there_once_and_a_list_of_one_counts_nowhere():
    known = pd.DataFrame({"user": [1, 2], "item": [9, 9], "rating": [4.0, 2.0], "split": "train"})
    candidates = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "relevant": [True, False, True]})
    scores = candidates[["user", "item"]].assign(recommender="A", part="test", score=[2.0, 1.0, 0.0])
    of_model = candidates[["user", "item"]].assign(ranker="likelihood", score=[1.0, 2.0, 0.0])
    rankings = steps.all_rankings(scores, of_model, known, candidates)
    assert not rankings.duplicated(["ranker", "draw", "user", "item"]).any()
    quality = steps.quality(rankings, candidates)
    assert set(quality["user"]) == {1}
    auc = quality[quality["draw"] == 0].set_index("ranker")["auc"]
    assert (auc["A"], auc["likelihood"], auc[controls.ORACLE]) == (1, 0, 1)
    without = steps.all_rankings(scores, pd.DataFrame(), known, candidates)
    pd.testing.assert_frame_equal(
        without.reset_index(drop=True), rankings[rankings["ranker"] != "likelihood"].reset_index(drop=True)
    )
