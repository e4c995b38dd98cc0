"""In DuckDB: the same triage, controls and joins as in pandas, on real ratings; and its SQL, which needs no DuckDB."""

import sqlite3

import numpy as np
import pandas as pd
import pytest

import hybridrec as hr
from hybridrec.data.datasets import Dataset, sparsity_index
from hybridrec.errors import ScaleError, ScoresError
from hybridrec.evaluation import controls, metrics
from hybridrec.scale import duck
from hybridrec.study import paths
from hybridrec.weak_users import performance

LIKE = {"ml-100k": 4.0, "book-crossing": 8.0}


@pytest.fixture
def small() -> dict[str, pd.DataFrame]:
    """500 users, with ties, users who like nothing, an item that nobody has rated, and one rating without a score."""
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame({"user": rng.integers(500, size=6000), "item": rng.integers(40, size=6000)})
    ratings = ratings.drop_duplicates(ignore_index=True)
    ratings["rating"] = np.where(ratings["user"] > 5, rng.integers(2, 11, len(ratings)) / 2, 1.0)
    scores = ratings[["user", "item"]].assign(score=rng.integers(6, size=len(ratings)) / 7)
    scores["fold"] = rng.integers(3, size=len(ratings))
    items = pd.DataFrame({"item": range(41), "title": [f"Film {n}" for n in range(41)]})
    return {"ratings": ratings, "scores": scores.iloc[1:], "items": items}


@pytest.fixture
def sqlite(small):
    """The small tables in SQLite, which every Python has: the queries are in the common part of SQL."""
    database = sqlite3.connect(":memory:")
    for name, table in small.items():
        table.to_sql(name, database, index=False)
    database.execute(f"CREATE TABLE judged AS {duck.sql('judged').replace('$like', '4')}")
    database.execute(f"CREATE TABLE pairs AS {duck.sql('pairs')}")
    yield database
    database.close()


def test_the_sql_counts_every_users_pairs_in_each_fold(sqlite, small):
    judged = small["scores"].merge(small["ratings"]).assign(relevant=lambda table: table["rating"] >= 4)
    found = pd.read_sql("SELECT * FROM pairs", sqlite).set_index(["user", "fold"]).sort_index()
    pd.testing.assert_frame_equal(found.astype(float), performance.fold_counts(judged), check_exact=True)
    known = pd.read_sql(duck.sql("performance"), sqlite).set_index("user").sort_index().astype(float)
    pd.testing.assert_frame_equal(known, performance.performance(judged), check_exact=True)
    assert known["performance"].isna().sum() >= 5


def test_without_folds_the_pairs_give_the_auc(small):
    judged = small["scores"].merge(small["ratings"]).assign(relevant=lambda table: (table["rating"] >= 4).astype(int))
    with sqlite3.connect(":memory:") as database:
        judged.assign(fold=0).to_sql("judged", database, index=False)
        database.execute(f"CREATE TABLE pairs AS {duck.sql('pairs')}")
        found = pd.read_sql(duck.sql("performance"), database).set_index("user")["performance"].sort_index()
    pd.testing.assert_series_equal(found.astype(float), metrics.auc(judged), check_names=False, check_exact=True)


def test_the_sql_gives_sparsity_and_controls(sqlite, small):
    found = pd.read_sql(duck.sql("sparsity"), sqlite).set_index("user").sort_index()
    expected = sparsity_index(small["ratings"], len(small["items"]))
    pd.testing.assert_series_equal(found["sparsity"], expected, check_exact=True)
    candidates = pd.DataFrame({"user": [1, 1, 2], "item": [40, 3, 7]})
    candidates.to_sql("candidates", sqlite, index=False)
    found = candidates.merge(pd.read_sql(duck.sql("controls"), sqlite))
    rated = small["ratings"].groupby("item")["rating"]
    assert found["popularity"].tolist() == [0, rated.size()[3], rated.size()[7]]
    assert found["item_mean"].tolist() == [small["ratings"]["rating"].mean(), rated.mean()[3], rated.mean()[7]]


def test_the_sql_finds_a_pair_that_is_there_twice(sqlite, small):
    query = duck.sql("twice").replace("checked", "ratings")
    assert sqlite.execute(query).fetchall() == []
    sqlite.execute("INSERT INTO ratings SELECT * FROM ratings WHERE rowid = 7")
    assert sqlite.execute(query).fetchall() == [tuple(small["ratings"].loc[6, ["user", "item"]].astype(int))]


def test_without_duckdb_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(ScaleError, match=r"pip install 'hybridrec\[duckdb\]'"):
        duck.controls("r.parquet", "c.parquet", tmp_path / "o.parquet")


# --- with DuckDB ------------------------------------------------------------------------------------------------------


@pytest.fixture
def duckdb():
    return pytest.importorskip("duckdb", reason="the extra duckdb is not installed: pip install 'hybridrec[duckdb]'")


def written(tables: dict[str, pd.DataFrame], folder) -> dict[str, str]:
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    return {name: str(folder / f"{name}.parquet") for name in tables}


def same(found, data, scores) -> None:
    """The same as the library's triage, to the last bit."""
    expected = hr.triage(data, hr.FromTable(scores))
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    assert (found.by_luck, found.by_luck_sd, found.spread) == (expected.by_luck, expected.by_luck_sd, expected.spread)
    assert (found.thresholds, found.unscored) == (expected.thresholds, expected.unscored)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIKE)
def test_triage_of_real_ratings_is_that_of_pandas_to_the_last_bit(name, duckdb, tmp_path):
    folder = paths.ROOT / "data" / "tables" / name
    if not folder.is_dir():
        pytest.skip(f"no tables of {name} here: make reproduce EXPERIMENT={name}")
    ratings, items = (pd.read_parquet(folder / f"{table}.parquet") for table in ("cross_ratings", "items"))
    chosen = [("test", "==", 0), ("fold", "!=", 0), ("ranker", "==", "MF")]
    scores = pd.read_parquet(folder / "cross_scores.parquet", filters=chosen)
    assert len(scores) == (ratings["fold"] != 0).sum() > 50_000
    ratings = ratings[ratings["fold"] != 0].drop(columns="fold").reset_index(drop=True)
    given = written({"ratings": ratings, "scores": scores, "items": items}, tmp_path)
    found = duck.triage(**given, like=LIKE[name], threads=2, memory_gib=0.25, folder=tmp_path)
    same(found, Dataset(name, ratings, items, "the study", LIKE[name]), scores)


def test_triage_in_duckdb_of_ties_and_ratings_without_scores(duckdb, small, tmp_path):
    given = written(small, tmp_path)
    data = Dataset.read(small["ratings"], small["items"], like=4)
    with pytest.warns(UserWarning, match=f"^1 of {len(small['ratings']):,} ratings have no score"):
        found = duck.triage(**given, like=4)
    with pytest.warns(UserWarning, match="have no score"):
        same(found, data, small["scores"])
    text = small["ratings"].astype({"user": str}), small["scores"].astype({"user": str})  # in the order of the alphabet
    given = written({"ratings": text[0], "scores": text[1].drop(columns="fold"), "items": small["items"]}, tmp_path)
    with pytest.warns(UserWarning, match="1 of"):
        same(duck.triage(**given, like=4), Dataset.read(text[0], small["items"], like=4), text[1].drop(columns="fold"))


def test_controls_in_duckdb_are_the_librarys(duckdb, small, tmp_path):
    candidates = pd.DataFrame({"user": [1, 1, 2], "item": [40, 3, 7]})
    given = written({"ratings": small["ratings"], "candidates": candidates}, tmp_path)
    duck.controls(**given, output=tmp_path / "out.parquet", memory_gib=0.25)
    found = candidates.merge(pd.read_parquet(tmp_path / "out.parquet"))
    of_items = controls.ratings_of_items(small["ratings"])
    assert found["popularity"].tolist() == controls.popularity(of_items, candidates["item"]).tolist()
    assert found["item_mean"].tolist() == controls.item_mean(of_items, candidates["item"]).tolist()


def change(tables: dict[str, pd.DataFrame], name: str, rows: list[tuple]) -> None:
    """Put rows before a table."""
    table = tables[name]
    tables[name] = pd.concat([pd.DataFrame(rows, columns=table.columns).astype(table.dtypes), table])


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("scores", (7, 40, 0.5, 0), "user 7, item 40 has a score and no rating"),
        ("scores", None, "is twice in the scores"),
        ("ratings", None, "is twice in the ratings"),
        ("ratings", (600, 40, np.inf), "user 600, item 40 has a score or a rating that is not finite"),
    ],
)
def test_what_triage_refuses_duckdb_refuses(name, row, says, duckdb, small, tmp_path):
    row = row or tuple(small[name].iloc[3])
    change(small, name, [row])
    if row[0] == 600:
        change(small, "scores", [(600, 40, 0.5, 0)])
    with pytest.raises(ScoresError, match=says):
        duck.triage(**written(small, tmp_path), like=4)


def test_too_little_memory_and_a_missing_column_are_said(duckdb, small, tmp_path):
    given = written(small | {"scores": small["scores"].drop(columns="score")}, tmp_path)
    with pytest.raises(ScaleError, match="score"):
        duck.triage(**given, like=4)
    with pytest.raises(ScaleError, match="Raise memory_gib"):
        duck.triage(**written(small, tmp_path), like=4, memory_gib=0.001)
