"""Anybody's recommender: ratings with ids of their own, scores from tables, and Cornac's fits."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridrec import schema
from hybridrec.data import splits
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, RecommenderError, ScoresError
from hybridrec.recommenders import fingerprint, fits, fitting, scorer
from hybridrec.recommenders.scorer import Cornac, FromTable


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text for ids, in the order of the numbers."""
    return table.assign(
        **{name: table[name].map(f"{name} {{:06}}".format) for name in ("user", "item") if name in table}
    )


@pytest.fixture
def data(interactions: pd.DataFrame, items: pd.DataFrame) -> Dataset:
    return Dataset.read(interactions, items, timestamp="timestamp", genres="genres")


# --- ratings of one's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
@pytest.mark.parametrize("ids", [lambda table: table, named], ids=["numbers", "text"])
def test_ratings_are_read_with_their_ids_from_every_form(interactions, items, form, ids, tmp_path: Path):
    ratings = ids(interactions).rename(columns={"user": "uid", "item": "sku", "rating": "stars", "timestamp": "at"})
    catalogue = ids(items).rename(columns={"item": "sku", "title": "name", "genres": "kind"})
    given = []
    for table, name in ((ratings.sample(frac=1, random_state=1), "r"), (catalogue, "i")):
        path = tmp_path / f"{name}.{form}"
        if form != "frame":
            table.to_csv(path, index=False) if form == "csv" else table.to_parquet(path)
        given.append(table if form == "frame" else path)
    columns = {"user": "uid", "item": "sku", "rating": "stars", "timestamp": "at", "title": "name", "genres": "kind"}
    data = Dataset.read(*given, **columns, like=4)
    pd.testing.assert_frame_equal(data.interactions, ids(interactions).sort_values(["user", "item"], ignore_index=True))
    pd.testing.assert_frame_equal(data.items, ids(items).assign(year=""))
    assert list(data.interactions) == list(schema.RATINGS) and list(data.items) == list(schema.ITEMS)
    assert (data.like, data.name) == (4, "mine")
    (note,) = data.notes
    assert "at: numbers, taken as seconds since 1970, from 1997-11-20" in note


def test_titles_may_stand_beside_the_ratings_and_items_without_one_are_left_out_and_counted(interactions, items):
    titled = interactions.merge(items[["item", "title"]], on="item")
    titled.loc[titled["item"] == 105, "title"] = None
    data = Dataset.read(titled)
    lost = (interactions["item"] == 105).sum()
    assert len(data.interactions) == len(interactions) - lost
    assert 105 not in set(data.items["item"])
    (note,) = data.notes
    assert "1 of 30 rated items" in note and f"{lost} ratings" in note
    without = Dataset.read(interactions, items[items["item"] != 105])
    pd.testing.assert_frame_equal(
        without.interactions.drop(columns="timestamp"), data.interactions.drop(columns="timestamp")
    )


def test_numbers_and_text_meet_as_text(interactions, items, tmp_path):
    """All rated items have numbers for ids in the CSV file; one that nobody rated has not."""
    interactions.to_csv(tmp_path / "r.csv", index=False)
    items.assign(item=items["item"].astype(str).replace("131", "B131")).to_csv(tmp_path / "i.csv", index=False)
    data = Dataset.read(tmp_path / "r.csv", tmp_path / "i.csv")
    assert set(data.interactions["item"]) == set(interactions["item"].astype(str))
    assert data.items["item"].tolist()[-1] == "B131" and data.source == "r.csv + i.csv"


@pytest.mark.parametrize(
    ("change", "given", "says"),
    [
        (lambda r: r.head(0), {}, "ratings: there is no rating"),
        (
            lambda r: pd.concat([r, r.head(1)]),
            {},
            r"ratings, row 602: user 3 rated item 101 already on row 1\. Keep one",
        ),
        (
            lambda r: r.assign(rating=r["rating"].where(r.index != 4)),
            {},
            "ratings, row 5: rating is '', not a number. missing_ratings = ",
        ),
        (lambda r: r.assign(rating="good"), {}, r"ratings: rating holds no number, but 'good' \(601\)\. Set likes"),
        (lambda r: r, {"like": 6}, r"no rating is a like with like = 6: ratings go from 1 to 5"),
        (lambda r: r, {"like": 1}, r"every rating is a like with like = 1"),
        (lambda r: r, {"user": "who"}, "ratings: no column 'who'; it has user, item, rating, timestamp"),
        (lambda r: r, {"title": "name"}, "items: no column 'name'"),
        (lambda r: r.assign(item=r["item"] + 1000), {}, "items: no rated item has a title"),
        (
            lambda r: r.assign(item=r["item"] + 15),
            {},
            r"items: .*of 30 rated items have no title.*remove these ratings",
        ),
        (lambda r: r.assign(user=r["user"] / 2), {}, "user has ids of type floating"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(interactions, items, change, given, says):
    with pytest.raises(DatasetError, match=says):
        Dataset.read(change(interactions), items, **given)


def test_times_may_be_numbers_or_dates(interactions, items, tmp_path):
    seconds = Dataset.read(interactions, items, timestamp="timestamp").interactions
    dated = interactions.assign(timestamp=pd.to_datetime(interactions["timestamp"], unit="s"))
    dated.to_csv(tmp_path / "r.csv", index=False)
    for table in (dated, tmp_path / "r.csv"):
        pd.testing.assert_frame_equal(Dataset.read(table, items, timestamp="timestamp").interactions, seconds)
    dated.loc[7, "timestamp"] = pd.NaT
    with pytest.raises(DatasetError, match="ratings, row 8: timestamp is '', no time. missing_times = "):
        Dataset.read(dated, items, timestamp="timestamp")


def test_titles_that_look_like_numbers_stay_as_they_are(interactions, items, tmp_path):
    items.assign(label=[f"{n:04}" for n in items["item"]]).to_csv(tmp_path / "i.csv", index=False)
    assert Dataset.read(interactions, tmp_path / "i.csv", title="label").items["title"].tolist()[0] == "0101"


def test_an_item_that_is_there_twice_has_its_first_title_and_other_titles_are_told(interactions, items):
    once = Dataset.read(interactions, items)
    assert Dataset.read(interactions, pd.concat([items, items.head(1)])).notes == once.notes == ()
    again = Dataset.read(interactions, pd.concat([items, items.head(1).assign(title="Other")]))
    assert again.notes == ("items: 1 items have several titles, such as 101. The first counts.",)
    pd.testing.assert_frame_equal(again.items, once.items)


# --- text and numbers -------------------------------------------------------------------------------------------------


def steps(interactions: pd.DataFrame, items: pd.DataFrame, cache: Path) -> dict[str, pd.DataFrame]:
    """Everything from ratings to fingerprints."""
    split = splits.split_per_user(interactions, seed=1)
    candidates = splits.test_candidates(split, 4.0, seed=1)
    study = fitting.Study(
        split, items["item"].to_numpy(), 4.0, seed=1, grids={"EASE": [10, 20]}, cache=cache, workers=1
    )
    tuned = fitting.tune(study, ["EASE", "ItemKNN"])
    params = fitting.chosen_params(tuned)
    test, retrieved = fitting.test_scores(study, params, candidates, top=5)
    known = study.known()
    return {
        "split": split,
        "candidates": candidates,
        "sample": pd.DataFrame({"user": splits.sample_users(split["user"], 12, seed=1)}),
        "with a pair": pd.DataFrame({"user": splits.with_a_pair(candidates)}),
        "folds": known.assign(fold=splits.fold_of(known, 4, seed=1)),
        "tuned": tuned,
        "test": test,
        "retrieved": retrieved,
        "out of fold": fitting.out_of_fold_scores(study, params, folds=3),
        "integrity": pd.DataFrame([splits.check_integrity(split, candidates)]),
        "prints": fitting.fingerprints(study, tuned, candidates, 5, params).drop(columns="scores"),
    }


def test_text_ids_give_the_numbers_that_whole_number_ids_give(interactions, items, tmp_path):
    by_number = steps(interactions, items, tmp_path / "numbers")
    by_name = steps(named(interactions), named(items), tmp_path / "text")
    for what, table in by_number.items():
        renamed = named(table) if {"user", "item"} & set(table) else table
        pd.testing.assert_frame_equal(by_name[what], renamed, check_dtype=False, obj=what)


def test_fits_of_text_ids_are_found_again_without_pickle_and_fingerprinted_alike(interactions, items, tmp_path):
    table = named(interactions)
    study = fitting.Study(table.assign(split="train"), named(items)["item"].to_numpy(), 4.0, seed=1)
    work = study.fit("EASE", {"lamb": 10}, table, table[["user", "item"]], top=4)
    here = fits.fit_and_score(work)
    kept = [fits.run([work], tmp_path, workers=1)[0] for _ in range(2)][1]
    liked = (table["rating"] >= 4).to_numpy()
    assert fingerprint.row(work, kept, liked, "test") == fingerprint.row(work, here, liked, "test")
    assert set(kept["items"].ravel()) <= set(named(items)["item"])
    assert len(list(tmp_path.iterdir())) == 1


# --- scores from tables -----------------------------------------------------------------------------------------------


@pytest.fixture
def scored(data: Dataset) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return data.interactions[["user", "item"]].assign(score=rng.random(len(data.interactions)))


@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
def test_scores_from_a_table_stand_beside_their_rating(data, scored, form, tmp_path):
    table = scored.sample(frac=1, random_state=1)
    path = tmp_path / f"s.{form}"
    if form != "frame":
        table.to_csv(path, index=False) if form == "csv" else table.to_parquet(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = FromTable(table if form == "frame" else path).out_of_fold(data)
    pd.testing.assert_frame_equal(found, scored.assign(fold=0))
    assert list(found) == list(schema.OUT_OF_FOLD)


def test_folds_are_kept_where_they_are_known(data, scored):
    folds = scored.assign(fold=np.arange(len(scored)) % 3)
    pd.testing.assert_frame_equal(FromTable(folds).out_of_fold(data), folds)


def test_ratings_without_a_score_and_scores_without_a_rating_are_left_out_and_counted(data, scored):
    mine = scored[scored["user"] != 3].iloc[4:]
    gone, users = len(scored) - len(mine), scored["user"].nunique() - mine["user"].nunique()
    with pytest.warns(UserWarning, match=f"{gone} of {len(scored)} ratings have no score.* {users} users"):
        found = FromTable(mine).out_of_fold(data)
    pd.testing.assert_frame_equal(found, mine.assign(fold=0).reset_index(drop=True))
    more = pd.concat([scored, pd.DataFrame({"user": [3, 6], "item": 131, "score": 1.0})])
    with pytest.warns(UserWarning, match="2 scores of pairs that nobody rated"):
        pd.testing.assert_frame_equal(FromTable(more).out_of_fold(data), scored.assign(fold=0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.assign(user=s["user"] + 1000), r"out_of_fold of mine: user 1003 is not in.*\(and 39 more\)"),
        (lambda s: s.assign(item=s["item"].replace(101, 99)), "item 99 is not in"),
        (lambda s: pd.concat([s, s.head(2)]), r"two scores for user 3 and item \d+ \(and 1 rows more\)"),
        (lambda s: s.assign(score=s["score"].where(s.index != 2)), "row 3: score is nan"),
        (lambda s: s.assign(score=np.inf), "row 1: score is inf"),
        (lambda s: s.assign(item=131).drop_duplicates("user"), "no score of any rating"),
    ],
)
def test_scores_of_ratings_that_do_not_fit_are_refused(data, scored, change, says):
    with pytest.raises(ScoresError, match=says):
        FromTable(change(scored), name="mine").out_of_fold(data)


def test_candidates_get_their_scores_in_their_order_and_every_one_needs_one(data, scored):
    candidates = pd.DataFrame({"user": [6, 3, 3], "item": [131, 131, 130], "relevant": True})
    final = pd.DataFrame({"user": [3, 3, 6, 9], "item": [130, 131, 131, 131], "score": [1.0, 2, 3, 4], "fold": 7})
    found = FromTable(scores=final).scores(data, candidates)
    expected = pd.DataFrame({"user": [6, 3, 3], "item": [131, 131, 130], "score": [3.0, 2, 1]})
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ScoresError, match="no score for user 3 and candidate 130"):
        FromTable(scores=final.iloc[1:]).scores(data, candidates)
    with pytest.raises(ScoresError, match="candidates: user 4 is not in"):
        FromTable(scores=final).scores(data, candidates.assign(user=4, item=[131, 130, 129]))
    with pytest.raises(DatasetError, match="candidates, row 2: user 3, item 131 is there already"):
        FromTable(scores=final).scores(data, candidates.assign(user=3))


def test_scores_that_were_not_given_are_asked_for(data, scored):
    with pytest.raises(ScoresError, match="scores="):
        FromTable(scored).scores(data, scored)
    with pytest.raises(ScoresError, match="out_of_fold="):
        FromTable(scores=scored).out_of_fold(data)


# --- Cornac's ---------------------------------------------------------------------------------------------------------


def test_cornac_scores_every_rating_by_a_fit_without_it(data):
    """EASE of all ratings but those of a fold, by Steck's closed form in NumPy."""
    ours = Cornac("EASE", folds=3, params={"lamb": 20})
    found = ours.out_of_fold(data)
    assert list(found) == list(schema.OUT_OF_FOLD) and set(found["fold"]) == {0, 1, 2}
    pd.testing.assert_frame_equal(found[["user", "item"]], data.interactions[["user", "item"]])
    rated = data.interactions.assign(fold=found["fold"])
    users, items = np.unique(rated["user"]), data.items["item"].to_numpy()
    for fold in range(3):
        rest = rated[(rated["fold"] != fold) & (rated["rating"] >= 4)]
        matrix = np.zeros((len(users), len(items)))
        matrix[np.searchsorted(users, rest["user"]), np.searchsorted(items, rest["item"])] = rest["rating"]
        inverse = np.linalg.inv(matrix.T @ matrix + 20 * np.eye(len(items)))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        rows = found[found["fold"] == fold]
        expected = (matrix @ weights)[np.searchsorted(users, rows["user"]), np.searchsorted(items, rows["item"])]
        np.testing.assert_allclose(rows["score"], expected, atol=1e-6)


def test_cornac_learns_from_all_ratings_for_candidates(data):
    candidates = pd.DataFrame({"user": [6, 3], "item": [131, 104]})
    found = Cornac("MostPop").scores(data, candidates)
    likes = data.interactions[data.interactions["rating"] >= 4]["item"].value_counts()
    assert found["score"].tolist() == [likes.get(131, 0), likes[104]]
    pd.testing.assert_frame_equal(found[["user", "item"]], candidates)
    with pytest.raises(ScoresError, match="candidates: item 999 is not in"):
        Cornac("MostPop").scores(data, candidates.assign(item=999))


def test_cornac_is_tuned_on_a_tenth_and_keeps_its_fits(data, tmp_path, monkeypatch):
    monkeypatch.setitem(fits.RECIPES, "EASE", fits.Recipe("EASE", "likes", ("lamb", (10, 1e9)), {"posB": False}))
    ours = Cornac("EASE", folds=2, cache=tmp_path)
    split = splits.split_per_user(data.interactions, 2024, test=0.0)
    by_hand = fitting.Study(split, data.items["item"].to_numpy(), 4.0, 2024, workers=1)
    assert ours.params(data) == fitting.chosen_params(fitting.tune(by_hand, ["EASE"]))["EASE"]
    found = ours.out_of_fold(data)
    monkeypatch.setattr(fits, "_compute", None)  # whatever is not kept is an error now
    pd.testing.assert_frame_equal(Cornac("EASE", folds=2, cache=tmp_path).out_of_fold(data), found)


def test_cornac_without_tuning_takes_the_middle_value(data):
    assert Cornac("EASE", tune=False).params(data) == {"lamb": 1000}
    assert Cornac("MostPop").params(data) == {}
    few = Dataset.read(data.interactions.groupby("user").head(6), data.items)
    with pytest.warns(UserWarning, match="EASE is not tuned"):
        assert Cornac("EASE").params(few) == {"lamb": 1000}


def test_cornac_needs_to_be_installed_a_like_and_a_known_name(data, monkeypatch):
    with pytest.raises(RecommenderError, match="unknown recommender 'KNN'"):
        Cornac("KNN")
    with pytest.raises(DatasetError, match="set its ``like``"):
        Cornac("EASE").out_of_fold(Dataset("bare", data.interactions, data.items, "made up"))
    monkeypatch.setattr(scorer, "find_spec", lambda _: None)
    with pytest.raises(RecommenderError, match=r"pip install 'hybridrec\[cornac\]'"):
        Cornac("EASE")
