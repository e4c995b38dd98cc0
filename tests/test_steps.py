"""The steps that notebooks, other splits, batch files and the check of own ratings share."""

import pandas as pd

from hybridrec.evaluation import controls
from hybridrec.study import steps, tables
from hybridrec.weak_users import triage

SEED = 2024


def test_who_is_drawn_keeps_the_split_and_the_list_of_the_full_study(interactions):
    everybody = steps.divide(interactions, 4.0, SEED)
    drawn = steps.divide(interactions, 4.0, SEED, users=3)
    for full, part in zip(everybody, drawn, strict=True):
        users = part["user"].unique()
        assert 0 < len(users) <= 3
        pd.testing.assert_frame_equal(part, full[full["user"].isin(users)])


def test_users_are_judged_by_test_items_and_by_known_ratings_and_never_by_both():
    interactions = pd.DataFrame(
        {
            "user": 1,
            "item": [1, 2, 3, 4],
            "rating": [5.0, 1.0, 4.0, 3.0],
            "split": ["train", "validation", "test", "test"],
        }
    )
    candidates = pd.DataFrame({"user": 1, "item": [3, 4], "relevant": [True, False]})
    parts = [("out-of-fold", 0, 1), ("out-of-fold", 1, 2), ("test", -1, 3), ("test", -1, 4)]
    scores = pd.DataFrame(parts, columns=["part", "fold", "item"])
    scores = scores.assign(user=1, recommender="A", score=[0.2, 0.1, 1, 2])
    judged = steps.judged(scores, interactions, candidates, like_threshold=4.0)
    assert judged["published"].set_index("item")["relevant"].to_dict() == {3: True, 4: False}
    assert judged["held-out"].set_index("item")["relevant"].to_dict() == {1: True, 2: False}
    table = steps.triage_table(judged, pd.Series({1: 0.9}), triage.Thresholds(0.5, 0.5)).set_index("protocol")
    assert table.loc["published", ["performance", "pairs"]].tolist() == [0, 1], "the like is scored below the other"
    assert table.loc["held-out", "pairs"] == 0, "two ratings of two folds make no pair"
    assert table["weak"].to_dict() == {"published": True, "held-out": False}


def test_every_ranking_is_there_once_and_a_list_of_one_counts_nowhere():
    known = pd.DataFrame({"user": [1, 2], "item": [9, 9], "rating": [4.0, 2.0], "split": "train"})
    candidates = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "relevant": [True, False, True]})
    scores = candidates[["user", "item"]].assign(recommender="A", part="test", score=[2.0, 1.0, 0.0])
    of_model = candidates[["user", "item"]].assign(ranker="likelihood", score=[1.0, 2.0, 0.0])
    rankings = steps.all_rankings(scores, of_model, known, candidates, SEED)
    assert not rankings.duplicated(["ranker", "draw", "user", "item"]).any()
    quality = steps.quality(rankings, candidates)
    assert set(quality["user"]) == {1}
    auc = quality[quality["draw"] == 0].set_index("ranker")["auc"]
    assert (auc["A"], auc["likelihood"], auc[controls.ORACLE]) == (1, 0, 1)
    without = steps.all_rankings(scores, pd.DataFrame(), known, candidates, SEED)
    pd.testing.assert_frame_equal(
        without.reset_index(drop=True), rankings[rankings["ranker"] != "likelihood"].reset_index(drop=True)
    )


def test_a_batch_asks_what_notebook_04_asks_and_shows_nothing_of_the_test(small_study):
    requests = steps.study_requests(small_study)
    candidates, interactions, sparsity, items = (
        tables.read("toy", name) for name in ("candidates", "interactions", "sparsity", "items")
    )
    sizes = candidates.groupby("user").size()
    to_rank = set(sizes.index[sizes >= 2])
    inactive = to_rank & set(sparsity.loc[sparsity["inactive"], "user"])
    assert list(requests) == ["listwise", "listwise-labels"], "probabilities cannot be asked for in a batch"
    assert inactive and inactive < to_rank
    again = (small_study.shuffles - 1) * min(small_study.shuffled_users, len(inactive))
    for mode, users in (("listwise", inactive), ("listwise-labels", to_rank)):
        assert len(requests[mode]) == len(users) + again
        assert {one.user for one in requests[mode]} == users
    titles = items.set_index("item")["title"]
    for one in requests["listwise"]:
        test = interactions[(interactions["user"] == one.user) & (interactions["split"] == "test")]
        shown = {item.title for item in one.about.history}
        assert not shown & set(titles[test["item"]])
        assert {item.title for item in one.about.items} == set(titles[test["item"]])
