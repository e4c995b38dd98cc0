"""What comes into the library is checked: columns, ids, one row for a pair, finite scores of users and items known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridrec import schema
from hybridrec.errors import DatasetError, ScoresError

TABLE = pd.DataFrame({"user": ["ann", "bob"], "item": [7, 12], "score": [0.1, 1 / 3], "title": ["1917", "NA"]})


def written(table: pd.DataFrame, form: str, folder: Path) -> pd.DataFrame | Path:
    path = folder / f"t.{form}"
    if form == "csv":
        table.to_csv(path, index=False)
    elif form == "parquet":
        table.to_parquet(path)
    return table if form == "frame" else path


@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
def test_a_table_is_the_same_from_every_form(form, tmp_path):
    found = schema.read(written(TABLE, form, tmp_path), schema.SCORES, "scores")
    pd.testing.assert_frame_equal(found, TABLE)


def test_ids_in_csv_are_numbers_only_where_that_loses_nothing(tmp_path):
    for values, expected in (
        (["1", "20"], [1, 20]),
        (["01", "20"], ["01", "20"]),
        (["1", "a"], ["1", "a"]),
        (["NA", "1"], ["NA", "1"]),
        (["1.0", "2"], ["1.0", "2"]),
        (["1" * 30, "2"], ["1" * 30, "2"]),
    ):
        (tmp_path / "t.csv").write_text("user\n" + "\n".join(values) + "\n", encoding="utf-8")
        assert schema.read(tmp_path / "t.csv", ["user"], "users")["user"].tolist() == expected


def test_the_table_given_is_left_alone():
    table = TABLE.assign(user=pd.Categorical(TABLE["user"]))
    before = table.copy()
    assert schema.read(table, ["user"], "t")["user"].dtype == TABLE["user"].dtype
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"user": [1.0, 2.0]}, r"t: user has ids of type floating, such as 1\.0.*astype\('int64'\)"),
        ({"user": [1.0, np.nan]}, "t, row 2: user is missing"),
        ({"user": ["ann", None]}, "t, row 2: user is missing"),
        ({"user": ["", ""]}, r"t, row 1: user is missing \(and 1 rows more\)"),
        ({"user": [1, "ann"]}, "t: user has ids of type mixed-integer"),
        ({"user": [True, False]}, "t: user has ids of type boolean"),
        ({"user": pd.to_datetime(["2024-01-01", "2024-01-02"])}, "t: user has ids of type datetime"),
        ({"user": "ann", "item": 7}, "t, row 2: user 'ann', item 7 is there already"),
    ],
)
def test_ids_that_are_none_are_refused(changes, says):
    with pytest.raises(DatasetError, match=says):
        schema.read(TABLE.assign(**changes), ["user", "item"], "t", unique=("user", "item"))


def test_a_missing_column_names_the_file_and_those_there(tmp_path):
    for form in ("csv", "parquet"):
        with pytest.raises(DatasetError, match=rf"t\.{form}: no column 'fold'; it has user, item, score, title"):
            schema.read(written(TABLE, form, tmp_path), schema.OUT_OF_FOLD, "scores")


@pytest.mark.parametrize("name", ["none.csv", "none.parquet"])
def test_a_file_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(DatasetError, match=f"{name}: there is no such file"):
        schema.read(tmp_path / name, ["user"], "users")


def test_a_line_with_too_many_fields_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("user,item\n1,2\n1,2,3\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"t\.csv: .*line 3"):
        schema.read(tmp_path / "t.csv", ["user", "item"], "pairs")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": [1.0, np.nan]}, "t, row 2: score is nan for user 'bob', item 12, not a finite number"),
        ({"score": [np.inf, -np.inf]}, r"t, row 1: score is inf for user 'ann', item 7.*\(and 1 rows more\)"),
        ({"score": [1.0, "high"]}, "t, row 2: score is 'high'"),
        ({"user": "ann", "item": 7}, "t: two scores for user 'ann' and item 7"),
        ({"user": ["eve", "zoe"]}, r"t: user 'eve' is not in the ratings or items \(and 1 more\)"),
        ({"item": [7, 13]}, "t: item 13 is not in the ratings or items"),
    ],
)
def test_scores_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(ScoresError, match=says):
        schema.scores(TABLE.assign(**changes), "t", users=["ann", "bob"], items=[7, 12])


def test_scores_get_the_ids_of_the_ratings():
    table = pd.DataFrame({"user": [1, 2], "item": ["7", "12"], "score": 1.0})
    found = schema.scores(table, "t", users=["1", "2", "ann"], items=[7, 12, 90])
    assert found["user"].tolist() == ["1", "2"] and found["item"].tolist() == [7, 12]
    with pytest.raises(ScoresError, match="item '07' is not in"):
        schema.scores(table.assign(item=["07", "12"]), "t", items=[7, 12])
