"""The neighbourhood recommender for likes: cosines and sums as counted by hand, and it goes where the others go."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics.pairwise import cosine_similarity

from hybridrec.data import splits
from hybridrec.evaluation import metrics
from hybridrec.recommenders import fitting, item_knn
from hybridrec.recommenders.recipes import RECIPES

NAME = "ItemKNN-likes"


@pytest.fixture
def likes() -> np.ndarray:
    return (np.random.default_rng(0).random((30, 12)) < 0.3).astype(float)


@pytest.fixture
def study(interactions: pd.DataFrame, items: pd.DataFrame) -> fitting.Study:
    split = splits.split_per_user(interactions, seed=1)
    return fitting.Study(split, items["item"].to_numpy(), like_threshold=4.0, seed=1, workers=1)


def test_neighbours_are_the_most_similar_items_by_cosine(likes):
    found = item_knn.similarities(sparse.csr_array(likes), 4).toarray()
    cosine = cosine_similarity(likes.T)
    np.fill_diagonal(cosine, 0)
    for item, row in enumerate(cosine):
        kept = np.argsort(-row, kind="stable")[:4]
        np.testing.assert_allclose(found[item, kept], row[kept])
        assert (np.delete(found[item], kept) == 0).all()


def test_items_without_a_like_have_no_neighbours(likes):
    likes[:, 3] = 0
    found = item_knn.similarities(sparse.csr_array(likes), 50).toarray()
    assert (found[3] == 0).all()
    assert (found[:, 3] == 0).all()
    assert np.isfinite(found).all()


def test_scores_are_sums_over_the_users_likes_and_ratings_below_a_like_are_not_read(study):
    known = study.known()
    pairs = study.interactions.query("split == 'test'")
    (found,) = study.run([study.fit(NAME, {"k": 5}, known, pairs, top=6)])
    liked = known[known["rating"] >= 4]
    table = pd.crosstab(liked["user"], liked["item"]).reindex(columns=np.sort(study.items), fill_value=0)
    near = item_knn.similarities(sparse.csr_array(table.to_numpy(float)), 5).toarray()
    expected = pd.DataFrame(table.to_numpy() @ near, index=table.index, columns=table.columns)
    expected = expected.reindex(study.interactions["user"].unique(), fill_value=0.0)  # who likes nothing
    np.testing.assert_allclose(found["scores"], [expected.loc[u, i] for u, i in pairs[["user", "item"]].to_numpy()])
    user, listed = found["users"][0], found["items"][0]
    unseen = expected.loc[user].drop(known.loc[known["user"] == user, "item"])
    np.testing.assert_allclose(found["item_scores"][0], unseen.nlargest(6), atol=1e-8)
    assert set(listed) <= set(unseen.index)


def test_it_is_tuned_scored_and_retrieved_beside_cornacs_own(study, tmp_path):
    study = fitting.Study(study.interactions, study.items, 4.0, 1, {"EASE": [10]}, tmp_path, workers=1)
    tuned = fitting.tune(study, ["EASE", NAME])
    assert tuned["recommender"].tolist() == ["EASE", NAME, NAME, NAME]
    pairs = study.interactions.query("split == 'test'")[["user", "item"]]
    scores, lists = fitting.test_scores(study, fitting.chosen_params(tuned), pairs, top=5)
    assert scores.groupby("recommender").size().eq(len(pairs)).all()
    assert lists.groupby("recommender").size().index.tolist() == ["EASE", NAME]
    assert RECIPES[NAME].feedback == "likes"


# --- settings chosen for whole lists ----------------------------------------------------------------------------------


def test_settings_are_judged_by_whole_lists_and_by_auc_from_the_same_fits(study, tmp_path):
    study = fitting.Study(study.interactions, study.items, 4.0, 1, {"EASE": [1, 10_000]}, tmp_path, workers=1)
    plain, tuned = fitting.tune(study, ["EASE", "MostPop"]), fitting.tune(study, ["EASE", "MostPop"], top=20)
    pd.testing.assert_frame_equal(tuned[plain.columns], plain)
    assert tuned.groupby("recommender")["chosen_top_k"].sum().eq(1).all()
    best = tuned.loc[tuned.query("recommender == 'EASE'")["ndcg_at_10"].idxmax(), "value"]
    assert fitting.chosen_params(tuned, "chosen_top_k")["EASE"] == {"lamb": best}


def test_ndcg_of_a_setting_is_that_of_the_whole_catalogue(study):
    tuned = fitting.tune(study, ["EASE"], top=len(study.items))  # a shorter list may cut through ties
    rows = study.interactions
    train, validation = rows.query("split == 'train'"), rows.query("split == 'validation'")
    setting = fitting.chosen_params(tuned, "chosen_top_k")["EASE"]
    users, items = validation["user"].unique(), study.items
    everything = pd.MultiIndex.from_product([users, items], names=["user", "item"]).to_frame(index=False)
    (found,) = study.run([study.fit("EASE", setting, train, everything)])
    seen = pd.MultiIndex.from_frame(train[["user", "item"]])
    liked = pd.MultiIndex.from_frame(validation.loc[validation["rating"] >= 4, ["user", "item"]])
    places = pd.MultiIndex.from_frame(everything)
    table = everything.assign(score=found["scores"], relevant=places.isin(liked))[~places.isin(seen)]
    expected = metrics.ndcg_at_k(table).mean()  # of all unseen items, not of a list
    assert tuned.loc[tuned["chosen_top_k"], "ndcg_at_10"].item() == pytest.approx(expected)


def test_lists_of_the_validation_are_those_that_settings_were_judged_by(study, tmp_path):
    study = fitting.Study(study.interactions, study.items, 4.0, 1, {"EASE": [10]}, tmp_path, workers=1)
    fitting.tune(study, ["EASE"], top=12)
    before = len([*tmp_path.iterdir()])
    lists = fitting.validation_lists(study, {"EASE": {"lamb": 10}}, 12)
    assert len([*tmp_path.iterdir()]) == before  # no further fit
    train = study.interactions.query("split == 'train'")
    both = lists.merge(train, on=["user", "item"])
    assert both.empty
    assert set(lists["user"]) == set(study.interactions.query("split == 'validation'")["user"])
