"""Final lists: whose score each item has, what is counted, and every kind of scores that must be refused."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.errors import DatasetError, ScoresError
from hybridrec.evaluation.hybrid import combine


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


@pytest.fixture
def own() -> pd.DataFrame:
    """Anna, Ben and Cleo with two or three candidates each."""
    return table(user=[*"aaabbcc"], item=[*"xyzxyxz"], score=[3.0, 2, 1, 9, 8, 0.5, 0.4])


@pytest.fixture
def ranked() -> pd.DataFrame:
    """Two users' lists by the model, their items in another order than the recommender's."""
    return table(user=[*"aaabb"], item=[*"zyxyx"], score=[-1.0, -2, -3, -4, -5], ranker="likelihood", failure="")


def test_routed_users_get_the_rankers_scores_and_everybody_else_the_recommenders(own, ranked):
    final = combine(own, ranked, users=["a"])
    assert list(final) == ["user", "item", "score", "source", "own"]
    assert final[["user", "item"]].equals(own[["user", "item"]])
    assert final["score"].tolist() == [-3, -2, -1, 9, 8, 0.5, 0.4]
    assert final["own"].tolist() == own["score"].tolist()
    assert final["source"].tolist() == ["likelihood"] * 3 + ["recommender"] * 4
    assert final.attrs == {"routed": 1, "no_answer": 0, "not_routed": 1}


def test_without_users_everybody_who_is_ranked_is_routed(own, ranked):
    assert combine(own, ranked)["score"].tolist() == [-3, -2, -1, -5, -4, 0.5, 0.4]


@pytest.mark.parametrize(
    "as_given", [lambda users: table(user=users), iter, np.array, pd.Index], ids=lambda f: f.__name__
)
def test_users_are_a_table_or_any_ids(own, ranked, as_given):
    pd.testing.assert_frame_equal(combine(own, ranked, as_given(["b", "a", "b"])), combine(own, ranked))


def test_files_are_read_as_tables_are(own, ranked, tmp_path):
    paths = [tmp_path / "own.parquet", tmp_path / "ranked.csv", tmp_path / "users.csv"]
    own.to_parquet(paths[0])
    ranked.to_csv(paths[1], index=False)  # an empty failure comes back as a missing value
    table(user=["a"]).to_csv(paths[2], index=False)
    pd.testing.assert_frame_equal(combine(*paths), combine(own, ranked, ["a"]))


def test_a_failed_ranking_leaves_the_recommenders_list_and_is_counted(own, ranked):
    ranked.loc[ranked["user"] == "a", ["failure", "score"]] = ["refusal", np.nan]  # its scores are not read
    final = combine(own, ranked)
    assert final["score"].tolist() == [3, 2, 1, -5, -4, 0.5, 0.4]
    assert final["source"].tolist() == ["recommender (no answer)"] * 3 + ["likelihood"] * 2 + ["recommender"] * 2
    assert final.attrs == {"routed": 2, "no_answer": 1, "not_routed": 0}


def test_nobody_routed_is_the_recommender_alone(own, ranked):
    for nothing, users in ((ranked, []), (ranked.iloc[:0].astype(object), None)):
        final = combine(own, nothing, users)
        assert final["score"].tolist() == own["score"].tolist()
        assert set(final["source"]) == {"recommender"}


def test_a_ranking_without_a_name_is_the_rankers(own, ranked):
    final = combine(own, ranked[["user", "item", "score"]])
    assert set(final["source"]) == {"ranker", "recommender"}


def test_whole_catalogues_are_combined_like_test_items():
    rng = np.random.default_rng(0)
    pairs = pd.MultiIndex.from_product([range(30), range(200)], names=["user", "item"]).to_frame(index=False)
    own = pairs.assign(score=rng.random(len(pairs)))
    ranked = pairs[pairs["user"] % 3 == 0].assign(score=lambda rows: rng.normal(size=len(rows))).sample(frac=1)
    final = combine(own, ranked)
    expected = {(user, item): score for user, item, score in own.itertuples(index=False)}
    expected |= {(user, item): score for user, item, score in ranked.itertuples(index=False)}
    assert {(user, item): score for user, item, score, *_ in final.itertuples(index=False)} == expected


# --- what is refused ------------------------------------------------------------------------------------------------

ALL = ["a", "b"]


@pytest.mark.parametrize(
    ("own_more", "ranked_more", "users", "named"),
    [
        ([], [("d", "x", 1.0)], ALL, "user 'd'"),
        ([], [("c", "y", 1.0)], ALL, "user 'c', item 'y'"),  # also of users who are not routed
        ([], [("a", "x", 1.0)], ALL, "two scores.*user 'a'.*item 'x'"),
        ([("c", "z", 1.0)], [], ALL, "two scores.*user 'c'.*item 'z'"),
        ([("d", "x", np.nan)], [], ALL, "user 'd', item 'x'"),
        ([("d", "x", -np.inf)], [], ALL, "user 'd', item 'x'"),
        ([], [("c", "x", np.nan), ("c", "z", 1.0)], ALL, "user 'c', item 'x'"),
        ([], [("c", "x", np.inf), ("c", "z", 1.0)], ALL, "user 'c', item 'x'"),
        ([], [("c", "z", 1.0)], ["c"], "user 'c', item 'x'"),
        ([], [], ["a", "c"], "user 'c'.*not ranked"),
        ([], [], ["a", "e", "f"], r"user 'e'.*recommender.* \(and 1 more\)"),
    ],
    ids=["unknown user", "unknown item", "two ranked scores", "two own scores", "own nan", "own infinite", "ranked nan",
         "ranked infinite", "a candidate without a score", "routed and not ranked", "routed and unknown"],
)  # fmt: skip
def test_scores_that_give_no_list_are_refused_and_named(own, ranked, own_more, ranked_more, users, named):
    own, ranked = (
        pd.concat([rows, pd.DataFrame(more, columns=["user", "item", "score"])]) if more else rows
        for rows, more in ((own, own_more), (ranked, ranked_more))
    )
    with pytest.raises(ScoresError, match=named):
        combine(own, ranked, users)


def test_numbers_written_as_text_are_the_same_users_and_names_are_not(own, ranked):
    numbers = {"a": 1, "b": 2, "c": 3}
    numbered = own.assign(user=own["user"].map(numbers))
    with pytest.raises(ScoresError, match="user 'a'"):
        combine(numbered, ranked)
    as_text = ranked.assign(user=ranked["user"].map(numbers).astype(str))
    assert combine(numbered, as_text, ["2"])["score"].tolist() == combine(own, ranked, ["b"])["score"].tolist()


def test_scores_that_are_words_are_not_finite(own, ranked):
    with pytest.raises(ScoresError, match="user 'a', item 'x'"):
        combine(own.assign(score="much"), ranked)


def test_a_missing_column_is_named(own, ranked):
    with pytest.raises(DatasetError, match="'score'"):
        combine(own.rename(columns={"score": "value"}), ranked)
