"""Arms and controls of protocol cross: right by hand and by slow loops, and blind to the fold they are judged on."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from hybridrec.data import folds
from hybridrec.errors import ScoresError
from hybridrec.evaluation import arms, lists
from hybridrec.study import cross_arms

FOLDS, LIKE = 4, 4


@pytest.fixture
def divided(interactions) -> pd.DataFrame:
    return folds.divide(interactions, FOLDS, seed=1)


@pytest.fixture
def cross(divided) -> lists.Lists:
    return lists.Lists(divided, LIKE)


@pytest.fixture
def vectors(items) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(len(items), 6))


def skilled(cross: lists.Lists, skill: float, seed: int) -> np.ndarray:
    """Scores that know the labels, by so much."""
    noise = np.random.default_rng(seed).normal(size=(cross.folds, len(cross.table)))
    return (skill * cross.relevant + noise).round(2)


def recommenders(cross: lists.Lists) -> dict[str, np.ndarray]:
    return {"A": skilled(cross, 0.5, 1), "B": skilled(cross, 1.0, 2), "C": skilled(cross, 0.9, 3)}


def inactive(cross: lists.Lists) -> pd.DataFrame:
    """Half of the users, others for each test fold."""
    every = itertools.product(range(cross.folds), cross.users)
    return pd.DataFrame([(k, user) for k, user in every if (user // 3 + k) % 2], columns=["test", "user"])


def slow_auc(cross: lists.Lists, values: np.ndarray, test: int, user: int, deciding: list[int]) -> float:
    """A user's AUC over some folds, pair by pair."""
    correct = pairs = 0.0
    for fold in deciding:
        rows = np.flatnonzero((cross.table["user"] == user) & (cross.table["fold"] == fold))
        for a, b in itertools.product(rows, rows):
            if cross.relevant[a] and not cross.relevant[b]:
                pairs += 1
                correct += float(values[test, a] > values[test, b]) + 0.5 * (values[test, a] == values[test, b])
    return correct / pairs if pairs else np.nan


def slow_decided(cross: lists.Lists, values: np.ndarray, users: pd.DataFrame, test: int, fold: int) -> float:
    deciding = [j for j in range(cross.folds) if j not in (test, fold)]
    pairs = itertools.product(users.loc[users["test"] == test, "user"], deciding)
    return float(np.nanmean([slow_auc(cross, values, test, user, [j]) for user, j in pairs]))


def decided(cross: lists.Lists, values: np.ndarray, users: pd.DataFrame | None) -> np.ndarray:
    return cross.decided(cross.correct(values), cross.mask(users))


# --- the layout -------------------------------------------------------------------------------------------------------


def test_scores_survive_the_way_into_arrays_and_back(cross):
    values = recommenders(cross)
    values["C"][:, cross.user == 3] = np.nan  # an arm may lack users
    table = cross.write(values).sample(frac=1, random_state=1)
    assert list(table) == lists.COLUMNS
    back = cross.read(table)
    assert list(sorted(back)) == list(values)
    for name, one in values.items():
        np.testing.assert_array_equal(back[name], one)


def test_scores_that_do_not_fit_are_refused_by_name(cross):
    table = cross.write({"A": skilled(cross, 1, 1)})
    there = table.iloc[[0]]
    moved = there.assign(fold=(there["fold"] + 1) % FOLDS)
    for bad in (there.assign(item=999), moved):
        with pytest.raises(ScoresError, match=f"A, test fold .* user {there['user'].iloc[0]}.*not among the ratings"):
            cross.read(bad)
    with pytest.raises(ScoresError, match="two scores"):
        cross.read(pd.concat([table, there]))
    with pytest.raises(ScoresError, match="user 999 is not in the ratings"):
        cross.mask(pd.DataFrame({"test": [0], "user": [999]}))


def test_correct_pairs_are_those_of_scikit_learn(cross):
    values = skilled(cross, 1.0, 4)
    found = cross.correct(values)
    for number in np.flatnonzero(cross.n_pairs > 0)[::5]:
        rows = cross.list == number
        for test in range(FOLDS):
            expected = roc_auc_score(cross.relevant[rows], values[test, rows])
            assert found[test, number] / cross.n_pairs[number] == pytest.approx(expected)


def test_a_list_that_is_not_scored_as_a_whole_counts_nowhere(cross):
    values = skilled(cross, 1.0, 4)
    number = int(np.flatnonzero(cross.n_pairs > 1)[0])
    values[2, np.flatnonzero(cross.list == number)[0]] = np.nan
    found = cross.correct(values)
    assert np.isnan(found[2, number])
    assert np.isfinite(np.delete(found, number, axis=1)[:, np.delete(cross.n_pairs, number) > 0]).all()


def test_what_decides_is_the_mean_over_lists_of_all_other_folds(cross):
    values, users = skilled(cross, 0.7, 4), inactive(cross)
    found = decided(cross, values, users)
    for test, fold in itertools.product(range(FOLDS), range(FOLDS)):
        assert found[test, fold] == pytest.approx(slow_decided(cross, values, users, test, fold), abs=1e-8)


# --- controls without a user ------------------------------------------------------------------------------------------


def test_popularity_and_item_mean_by_hand():
    rows = [(1, 10, 5.0, 0), (2, 10, 1.0, 1), (3, 10, 3.0, 2), (1, 20, 4.0, 1), (2, 20, 2.0, 2), (3, 30, 2.0, 0)]
    cross = lists.Lists(pd.DataFrame(rows, columns=["user", "item", "rating", "fold"]), LIKE)
    table = cross.write({"n": arms.popularity(cross), "mean": arms.item_mean(cross)})
    found = table.pivot(index=["user", "item", "test"], columns="ranker", values="score")
    # Item 10 of user 1 lies in fold 0: for test 0 folds 1 and 2 are known (1 and 3), for test 1 fold 2 alone (3).
    assert found.loc[(1, 10, 0)].to_dict() == {"n": 2, "mean": 2.0}
    assert found.loc[(1, 10, 1)].to_dict() == {"n": 1, "mean": 3.0}
    # Nobody else rated item 30: the mean of what is known, 1, 3, 4, 2 for test 0, and 3, 2 for test 1.
    assert found.loc[(3, 30, 0)].to_dict() == {"n": 0, "mean": 2.5}
    assert found.loc[(3, 30, 1)].to_dict() == {"n": 0, "mean": 2.5}
    assert found.loc[(3, 30, 2)].to_dict() == {"n": 0, "mean": 2.5}


def test_popularity_and_item_mean_are_those_of_the_known_ratings(cross, divided):
    counts, means = arms.popularity(cross), arms.item_mean(cross)
    for test, row in itertools.product(range(FOLDS), range(0, len(cross.table), 7)):
        known = folds.without(divided, test, cross.fold[row])
        ratings = known.loc[known["item"] == cross.table["item"][row], "rating"]
        assert counts[test, row] == len(ratings)
        assert means[test, row] == pytest.approx(ratings.mean() if len(ratings) else known["rating"].mean(), abs=1e-8)


# --- controls that read titles ----------------------------------------------------------------------------------------


def test_tf_idf_is_that_of_scikit_learn(items):
    titles = [*arms.texts(items), "", "a", "Ünïcode: the the THE film", "7 Up_2 - don't"]
    expected = TfidfVectorizer().fit_transform(titles).toarray()
    np.testing.assert_allclose(arms.tf_idf(titles).toarray(), expected, atol=1e-12)


def test_similarity_is_to_the_liked_minus_the_disliked_history(cross, divided, items, vectors):
    shuffled = np.random.default_rng(2).permutation(len(items))
    found = arms.similarity(cross, items["item"].to_numpy()[shuffled], vectors[shuffled])
    of = dict(zip(items["item"], vectors, strict=True))
    for test, row in itertools.product(range(FOLDS), range(0, len(cross.table), 7)):
        known = folds.without(divided, test, cross.fold[row])
        own = known[known["user"] == cross.table["user"][row]]
        expected = 0.0
        for sign, history in ((1, own[own["rating"] >= LIKE]), (-1, own[own["rating"] < LIKE])):
            near = [of[item] @ of[cross.table["item"][row]] for item in history["item"]]
            expected += sign * (np.mean(near) if near else 0)
        assert found[test, row] == pytest.approx(expected, abs=1e-7)


def test_sparse_vectors_give_what_dense_ones_give(cross, items):
    words = arms.tf_idf(arms.texts(items))
    of_sparse, of_dense = (arms.similarity(cross, items["item"], one) for one in (words, words.toarray()))
    np.testing.assert_allclose(of_sparse, of_dense, atol=1e-8)


def test_an_item_without_a_vector_is_named(cross, items, vectors):
    with pytest.raises(ScoresError, match="item 101 "):
        arms.similarity(cross, items["item"].iloc[1:], vectors[1:])


# --- the stack, and choices -------------------------------------------------------------------------------------------


def test_the_stacks_weights_are_those_of_scikit_learns_ridge_on_the_other_folds(cross):
    given = recommenders(cross)
    found, weights = arms.stack(cross, given)
    for test, fold in itertools.product(range(FOLDS), range(FOLDS)):
        by_list = [cross.table["fold"], cross.table["user"]]
        x = pd.DataFrame({name: values[test] for name, values in given.items()})
        x = x - x.groupby(by_list).transform("mean")
        x = x / np.sqrt((x**2).groupby(cross.table["fold"]).transform("mean"))
        liked = cross.table["relevant"].astype(float)
        y = liked - liked.groupby(by_list).transform("mean")
        worth = (1 / liked.groupby(by_list).transform("size")).where(cross.n_pairs[cross.list] > 0, 0)
        rows = ~cross.table["fold"].isin([test, fold])
        penalty = 0.01 * (x[rows] ** 2).mul(worth[rows], axis=0).sum().mean()
        ridge = Ridge(penalty, fit_intercept=False).fit(x[rows], y[rows], worth[rows])
        own = weights[(weights["test"] == test) & (weights["fold"] == fold)].set_index("ranker")["weight"]
        np.testing.assert_allclose(own[list(given)], ridge.coef_, atol=1e-10)
        rows = cross.fold == fold
        np.testing.assert_allclose(found[test, rows], ridge.predict(x[rows]), atol=1e-7)


def test_the_stack_beats_what_it_is_made_of_where_errors_are_independent(cross):
    given = recommenders(cross)
    stacked, _ = arms.stack(cross, given)
    reached = {name: np.diagonal(decided(cross, one, None)).mean() for name, one in given.items()}
    assert np.diagonal(decided(cross, stacked, None)).mean() > max(reached.values()) + 0.01


def test_a_stack_needs_every_score(cross):
    given = recommenders(cross)
    given["B"][1, 5:7] = np.nan
    with pytest.raises(ScoresError, match="B has no score for 2 rows"):
        arms.stack(cross, given)


def test_a_test_fold_that_nobody_scored_has_no_stack_and_changes_no_other(cross):
    given = recommenders(cross)
    whole, weights = arms.stack(cross, given)
    for values in given.values():
        values[1] = np.nan
    found, of_others = arms.stack(cross, given)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(np.delete(found, 1, axis=0), np.delete(whole, 1, axis=0))
    pd.testing.assert_frame_equal(of_others, weights[weights["test"] != 1].reset_index(drop=True))
    values[2] = np.nan  # of the last recommender alone
    with pytest.raises(ScoresError, match="has no score for"):
        arms.stack(cross, given)


# --- nothing looks at the test fold -----------------------------------------------------------------------------------


def everything(divided: pd.DataFrame, items: pd.DataFrame, vectors: np.ndarray, fresh: int | None) -> dict:
    """All arms and choices; the recommenders are noise, which is other noise for all test folds but ``fresh``.

    A recommender's scores for test fold k rest on no label of fold k; those for other test folds may.
    """
    cross = lists.Lists(divided, LIKE)
    given = {}
    for number, name in enumerate(["A", "B", "C"]):
        values = np.random.default_rng(number).normal(size=(FOLDS, len(divided)))
        if fresh is not None:
            others = np.arange(FOLDS) != fresh
            values[others] = np.random.default_rng([number, 1]).normal(size=(FOLDS - 1, len(divided)))
        given[name] = values
    of_model = cross.write({"llm": np.where(cross.user % 2, given["C"] + given["A"], np.nan)})
    answers = of_model.assign(model="tiny", failure="")
    routed = pd.concat([inactive(cross).assign(recommender=name) for name in ("A", "B")])
    routed = routed.assign(inactive=True, weak=True, performance=0.5)
    found = cross_arms.assemble(
        divided, folds.candidates(divided, LIKE, 1), LIKE, items, vectors, cross.write(given), answers, routed
    )
    plan = cross_arms.judged_by_plan(found, routed, answers, "tiny")
    return {"fusions": found.fusions, "stack": found.stack, "bar": plan.bar, "ask": plan.primary.ask}


def test_scrambled_labels_of_a_fold_change_no_choice_or_weight_for_it(divided, items, vectors):
    before = everything(divided, items, vectors, None)
    assert {"llm", "tf-idf", "sentence-embedding", "stack"} <= {*before["fusions"]["arm"]}
    for hidden in range(FOLDS):
        turned = divided["rating"].where(divided["fold"] != hidden, 6 - divided["rating"])
        after = everything(divided.assign(rating=turned), items, vectors, fresh=hidden)
        for name, one in before.items():
            same = [each[each["test"] == hidden].reset_index(drop=True) for each in (one, after[name])]
            pd.testing.assert_frame_equal(*same)
            others = [each[each["test"] != hidden].reset_index(drop=True) for each in (one, after[name])]
            assert name == "ask" or not others[0].equals(others[1])  # what may change, does
