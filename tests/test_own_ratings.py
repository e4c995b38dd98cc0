"""Ratings of one's own: three shapes of file, what is left out and told, what is refused with one clear sentence."""

import gzip
import lzma
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import hypothesis
import notebooks_here
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_model import ToyModel

import hybridrec as hr
from hybridrec import errors, reading
from hybridrec.data import datasets
from hybridrec.data.sources import own
from hybridrec.errors import DatasetError
from hybridrec.evaluation import verdicts
from hybridrec.llm import rankers, runner
from hybridrec.recommenders import fits, fitting
from hybridrec.study import __main__ as commands
from hybridrec.study import config, enough, figures, models, notebooks, paths, steps
from hybridrec.weak_users import found, triage

VALUES = tomllib.loads((paths.EXPERIMENTS / "ml-latest-small-2016.toml").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def rated(interactions: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """The toy ratings with titles; each second user has rated a third as much as the others, so that some are inactive.

    Twice as many items as in the toy: a user needs 15 ratings for two test items.
    """
    again = interactions.assign(item=interactions["item"] + 1000)
    both = pd.concat([interactions, again, again.assign(item=again["item"] + 1000)])
    few = (both["user"] % 2 == 1) & (both["item"] > 2000)
    return both[~few].assign(title=lambda rows: "Song " + rows["item"].astype(str)).reset_index(drop=True)


def settings(ratings: dict[str, Any], **changes: Any) -> config.Experiment:
    return config.build(
        "mine", VALUES | {"dataset": "mine", "ratings": {"file": "r.csv"} | ratings} | changes, "mine.toml"
    )


def load(ratings: dict[str, Any]) -> datasets.Dataset:
    return steps.dataset("mine", ratings)


# --- three shapes -----------------------------------------------------------------------------------------------------

SONGS = {"user": "Listener", "item": "Song ID", "rating": "Score", "timestamp": "Heard", "title": "Name"}


def as_songs(rated: pd.DataFrame) -> pd.DataFrame:
    """0 to 100 in half points, text for users, dates for times."""
    return pd.DataFrame(
        {
            "Listener": "listener " + rated["user"].astype(str),
            "Song ID": rated["item"],
            "Score": rated["rating"] * 20 - 0.5,
            "Heard": pd.to_datetime(rated["timestamp"], unit="s"),
            "Name": rated["title"],
        }
    )


@pytest.mark.parametrize("file", ["songs.csv", "songs.parquet"])
def test_any_names_any_scale_and_dates_from_csv_and_parquet(folder, rated, file):
    songs = as_songs(rated)
    songs.to_csv(folder / file, index=False) if file.endswith("csv") else songs.to_parquet(folder / file)
    data = load(SONGS | {"file": file})
    found = data.interactions.merge(data.items, on="item").sort_values(["title", "timestamp", "rating"])
    expected = rated.sort_values(["title", "timestamp", "rating"])
    assert found["title"].tolist() == expected["title"].tolist()
    assert found["rating"].tolist() == (expected["rating"] * 20 - 0.5).tolist()
    assert found["timestamp"].tolist() == expected["timestamp"].tolist()
    assert found["user"].nunique() == 40
    assert data.source == file
    assert "inactive users have likes" in enough.check(data, settings({}, like_threshold=60, rating_scale=100))


def test_a_tenth_of_the_items_without_a_title_leaves_the_study_and_is_told(folder, rated, capsys):
    table = rated.drop(columns=["title", "timestamp"]).assign(rating=(rated["rating"] - 3) * 5)
    table.to_csv(folder / "r.csv", sep=";", index=False)
    titles = rated[["item", "title"]].drop_duplicates().sort_values("item", ignore_index=True)
    titles.assign(title=titles["title"].where(titles.index % 10 > 0, " ")).to_csv(
        folder / "i.csv", sep=";", index=False
    )
    data = load({"file": "r.csv", "items_file": "i.csv", "separator": ";", "lowest": -10})
    gone = titles.loc[::10, "item"]
    lost = table["item"].isin(gone).sum()
    assert set(data.interactions["item"]) == set(data.items["item"]) == set(titles["item"]) - set(gone)
    assert len(data.interactions) == len(table) - lost
    (note,) = data.notes
    assert f"{len(gone)} of {len(titles)} rated items have no title, such as" in note
    assert f"Left out: {lost:,} ratings ({lost / len(table):.1%}), and 0 users who have no other." in note
    given = {"file": "r.csv", "items_file": "i.csv", "separator": ";", "lowest": -10}
    commands.data(settings(given, like_threshold=5, rating_scale=10))
    assert note in capsys.readouterr().out
    assert (data.interactions["timestamp"] == 0).all()
    assert enough.check(data, settings({}, like_threshold=5, rating_scale=10))


def test_an_event_log_is_counted_and_becomes_ratings_by_each_users_own_median(folder):
    log = "who,what,at,title\n" + "ann,a,3,A\n" * 4 + "ann,b,5,B\nann,b,9,B\nann,c,1,C\nbob,a,1,A\nbob,b,1,B\n"
    (folder / "log.csv").write_text(log, encoding="utf-8")
    data = load(
        {"file": "log.csv", "user": "who", "item": "what", "timestamp": "at", "rating": "", "feedback": "counts"}
    )
    # ann: 4, 2 and 1 uses, so 2 at the median; bob: once each.
    assert data.interactions.to_numpy().tolist() == [
        ["ann", "a", 4.5, 3],
        ["ann", "b", 3, 9],
        ["ann", "c", 2, 1],
        ["bob", "a", 3, 1],
        ["bob", "b", 3, 1],
    ]
    assert data.notes[0] == "log.csv: at: numbers, taken as seconds since 1970, from 1970-01-01 to 1970-01-01."
    note = data.notes[1]
    assert "1 of 2 users took none more often than their median" in note


def test_a_column_of_counts_is_summed(folder):
    (folder / "plays.csv").write_text(
        "user,item,plays,title\n1,1,2.5,A\n1,1,1.5,A\n1,2,2,B\n1,3,1,C\n", encoding="utf-8"
    )
    given = {"file": "plays.csv", "rating": "plays", "feedback": "counts"}
    assert load(given).interactions["rating"].tolist() == [4.5, 3, 2]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 1000)), min_size=1, max_size=40))
def test_ratings_of_counts_keep_their_order_and_like_what_stands_above_the_median(rows):
    table = pd.DataFrame(rows, columns=["user", "count"])
    rating = own.from_counts(table["count"], table["user"])
    median = table.groupby("user")["count"].transform("median")
    assert ((rating >= 1) & (rating <= 5)).all()
    assert ((rating >= 4) == (table["count"] > median)).all()
    assert ((rating >= 3) == (table["count"] >= median)).all()
    for _, group in table.assign(rating=rating).groupby("user"):
        assert (group["rating"].rank() == group["count"].rank()).all()


@pytest.mark.parametrize("ratings", [{"feedback": "counts"}, {"lowest": -10}])
def test_counts_and_scales_below_zero_give_no_mean_to_tell_a_model_of(ratings):
    with pytest.raises(errors.SettingError, match=r"mine\.toml: modes has 'pointwise-facts'.*Leave it out"):
        settings(ratings, modes=["listwise", "pointwise-facts"], topk_modes=[])


def test_what_the_core_leaves_out_is_noted(folder, rated):
    lone = rated.head(1).assign(user=999, item=9999, title="Alone")
    pd.concat([rated, lone]).to_csv(folder / "r.csv", index=False)
    data = load({"file": "r.csv", "core": 3})
    assert len(data.interactions) == len(rated)
    assert data.notes == ("r.csv: core = 3 left out 1 ratings, 1 users, 1 items.",)
    assert load({"file": "r.csv"}).notes == ()


# --- timestamps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("978300760", 978300760),
        ("978300760.9", 978300760),
        ("20240531", 20240531),
        ("1970-01-02", 86400),
        ("1970-01-01T01:00:00", 3600),
        ("1970-01-01 01:00:00.5", 3600),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:05Z", 5),
        ("1969-12-31", -86400),
    ],
)
def test_timestamps_are_numbers_or_iso_dates(folder, written, seconds):
    (folder / "r.csv").write_text(f"user,item,rating,when,title\n1,1,5,{written},A\n", encoding="utf-8")
    assert load({"file": "r.csv", "timestamp": "when"}).interactions["timestamp"].tolist() == [seconds]


# --- files as programs write them -------------------------------------------------------------------------------------


def test_a_byte_order_mark_and_a_quoted_title_are_read_as_meant(folder):
    text = 'user,item,rating,title\r\n1,1,5,"Say ""hi"", AC\\DC"\r\n'
    (folder / "r.csv").write_bytes(text.encode("utf-8-sig"))
    assert load({"file": "r.csv"}).items["title"].tolist() == ['Say "hi", AC\\DC']


def test_a_decimal_comma_is_read_where_it_is_named(folder):
    (folder / "r.csv").write_text("user;item;rating;title\n1;1;4,5;A\n1;2;3;B\n", encoding="utf-8")
    given = {"file": "r.csv", "separator": ";"}
    with pytest.raises(DatasetError, match="line 2: rating is '4,5', not a number"):
        load(given)
    assert load(given | {"decimal": ","}).interactions["rating"].tolist() == [4.5, 3]


def test_parquet_with_missing_values_and_whole_floats(folder):
    table = pd.DataFrame(
        {"user": [1.0, 2.0, 2.0], "item": ["a", "a", "b"], "rating": [4, 5, 3.5], "title": ["A", None, "B"]}
    )
    table.to_parquet(folder / "r.parquet")
    data = load({"file": "r.parquet"})
    assert data.interactions["user"].tolist() == [1, 2, 2]
    assert data.items["title"].tolist() == ["A", "B"]


# --- broken files -----------------------------------------------------------------------------------------------------

GOOD = "user,item,rating,when,title\nann,x1,5,2024-01-02,One\nann,x2,1,2024-01-03,Two\nbob,x1,4.5,2024-01-04,One\n"


@pytest.mark.parametrize(
    ("content", "changes", "says"),
    [
        (GOOD.replace("One", "Éin").encode("latin-1"), {}, r"r\.csv, line 2: not utf-8 text.*name its encoding"),
        (GOOD.encode("utf-16"), {}, r"r\.csv, line 1: not utf-8 text"),
        (GOOD, {"encoding": "utf-9"}, r"r\.csv: 'utf-9' is no encoding.*Try utf-8"),
        (GOOD.replace(",", ";"), {}, r"r\.csv: no column 'user'; it has user;item;.*Or is ',' not its separator\?"),
        (GOOD, {"rating": "stars"}, r"r\.csv: no column 'stars'; it has user, item, .*Set 'rating' in \[ratings\]"),
        (GOOD, {"title": "name"}, r"r\.csv: no column 'name'.*Set 'title' in \[ratings\]"),
        (GOOD.replace("4.5", "good"), {}, r"r\.csv, line 4: rating is 'good', not a number.*Fix or remove"),
        (GOOD.replace("4.5", "4,5"), {}, r"r\.csv: Expected 5 fields in line 4, saw 6.*Fix"),
        (GOOD.replace("bob", " "), {}, r"r\.csv, line 4: user is '', empty\. Every row needs one"),
        (
            GOOD + "ann,x2,3,2024-01-05,Two\n",
            {},
            r"r\.csv, line 5: user 'ann' rated item 'x2' already on line 3.*counts",
        ),
        ("", {}, r"r\.csv: No columns to parse"),
        (GOOD.splitlines()[0] + "\n", {}, r"r\.csv: there is no rating in it"),
        (
            GOOD.replace("-04", "-99"),
            {"timestamp": "when"},
            r"r\.csv, line 4: when is '2024-01-99', neither a number nor",
        ),
        (GOOD.replace("5,2024-01-02", "5,"), {"timestamp": "when"}, r"line 2: when is '', no time\. missing_times = "),
        (
            GOOD.replace("5,2024-01-02", "5,7"),
            {"timestamp": "when"},
            r"r\.csv, line 3: when is '2024-01-03' \(and 1 more\), not a number",
        ),
        (GOOD.replace(",1,", ",-1,"), {}, r"r\.csv, line 3: rating is '-1', below lowest = 0 in \[ratings\]"),
        (GOOD.replace(",1,", ",-1,"), {"feedback": "counts"}, r"line 3: rating is '-1', no count of uses.*above 0"),
        (GOOD.replace(",1,", ",0,"), {"feedback": "counts"}, r"line 3: rating is '0', no count of uses"),
        (GOOD.replace("One", "").replace("Two", ""), {}, r"r\.csv: no rated item has a title"),
        (
            GOOD.replace("One", ""),
            {},
            r"1 of 2 rated items have no title, such as 'x1'.*66\.7%.*untitled_share = 0\.67",
        ),
        (GOOD.replace("\n", ",7\n").replace("title,7", "title"), {}, r"r\.csv: lines have more fields than the header"),
        (GOOD, {"feedback": "stars"}, r"\[ratings\]: feedback is 'stars'.*ratings.*counts"),
        (GOOD, {"untitled_share": 1.1}, r"\[ratings\]: untitled_share is 1\.1.*from 0 to 1"),
        (GOOD, {"lowest": float("nan")}, r"\[ratings\]: lowest is nan.*from"),
        (GOOD, {"core": 0}, r"\[ratings\]: core is 0.*from 1 to"),
        (GOOD, {"separator": "::"}, r"separator is '::'; it must be one character"),
    ],
)
def test_a_broken_file_is_refused_by_name_place_and_remedy(folder, content, changes, says):
    (folder / "r.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=says):
        load({"file": "r.csv"} | changes)


def test_the_good_file_is_good(folder):
    (folder / "r.csv").write_text(GOOD, encoding="utf-8")
    assert len(load({"file": "r.csv", "timestamp": "when"}).interactions) == 3


@pytest.mark.parametrize("keep", [0, 4, 0.5])
def test_a_torn_parquet_file_is_refused_without_its_folder(folder, keep):
    pd.read_csv(__import__("io").StringIO(GOOD)).to_parquet(folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    (folder / "r.parquet").write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(DatasetError, match=r"r\.parquet: no whole parquet file.*Write or fetch it again") as caught:
        load({"file": "r.parquet"})
    assert str(folder) not in str(caught.value)


def test_rows_of_parquet_are_counted_from_one(folder):
    table = pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [5.0, -2.0], "title": "A"})
    table.to_parquet(folder / "r.parquet")
    with pytest.raises(DatasetError, match=r"r\.parquet, row 2: rating is '-2'"):
        load({"file": "r.parquet"})


# --- files of every kind ----------------------------------------------------------------------------------------------

PLAIN = pd.DataFrame(
    {
        "user": ["ann", "ann", "bob"],
        "item": ["x1", "x2", "x1"],
        "rating": [5.0, 1.0, 4.5],
        "title": ["One, two", 'Say "hi"', "One, two"],
    }
)


def both_doors(folder: Path, name: str, **form: Any) -> list[datasets.Dataset]:
    """The study's and the library's."""
    return [load({"file": name} | form), datasets.Dataset.read(folder / name, **form)]


def as_folder(folder: Path) -> str:
    (folder / "parts").mkdir()
    for number, rows in enumerate((PLAIN.head(1), PLAIN.tail(2))):
        rows.to_parquet(folder / "parts" / f"part-{number}.parquet")
    return "parts"


def packed(folder: Path, pack: Any, name: str) -> str:
    (folder / name).write_bytes(pack(PLAIN.to_csv(index=False).encode()))
    return name


def as_lines(folder: Path, name: str) -> str:
    PLAIN.to_json(folder / name, orient="records", lines=True)
    return name


def with_index(folder: Path) -> str:
    PLAIN.set_index(["user", "item"]).to_parquet(folder / "r.parquet")
    return "r.parquet"


def with_blanks(folder: Path) -> str:
    text = PLAIN.to_csv(index=False).replace("user,item,rating,title", "\ufeff user , item,rating ,\u200btitle")
    (folder / "r.csv").write_text(text, encoding="utf-8")
    return "r.csv"


KINDS = {
    "a folder of parquet files": as_folder,
    "an index with the ids": with_index,
    "gzip without its ending": lambda folder: packed(folder, gzip.compress, "r.csv"),
    "no gzip in spite of its ending": lambda folder: packed(folder, bytes, "r.csv.gz"),
    "xz": lambda folder: packed(folder, lzma.compress, "r.csv"),
    "JSON lines": lambda folder: as_lines(folder, "r.jsonl"),
    "JSON lines called CSV": lambda folder: as_lines(folder, "r.csv"),
    "blanks around names": with_blanks,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_is_read_by_both_doors_for_what_it_is(folder, kind):
    name = KINDS[kind](folder)
    for data in both_doors(folder, name):
        assert (
            data.interactions.drop(columns="timestamp").to_numpy().tolist()
            == PLAIN.drop(columns="title").to_numpy().tolist()
        )
        assert data.items["title"].tolist() == ["One, two", 'Say "hi"']
        assert data.notes == ()


def test_the_home_folder_may_be_written_as_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    PLAIN.to_csv(folder / "r.csv", index=False)
    assert len(load({"file": "~/r.csv"}).interactions) == len(datasets.Dataset.read("~/r.csv").interactions) == 3


def test_an_excel_file_is_read_where_openpyxl_is_and_else_its_remedy_is_told(folder):
    with zipfile.ZipFile(folder / "r.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DatasetError, match=r"r\.xlsx: .*Save the table as CSV \(in Excel: Save As, CSV UTF-8\)"):
        load({"file": "r.xlsx"})


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_packed_file_that_was_cut_off_is_refused(folder, pack):
    whole = pack(PLAIN.sample(500, replace=True, random_state=1).to_csv().encode())
    (folder / "r.csv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"r\.csv: it is packed, and damaged or cut off"):
        load({"file": "r.csv"})


# --- quotes -----------------------------------------------------------------------------------------------------------

SONGS_CSV = ["user,item,rating,title", "1,1,5,Aladdin", "1,2,4,Help", "2,1,3,Aladdin", "2,2,1,Help", "3,2,2,Help"]


@given(
    at=st.integers(1, 5),
    field=st.integers(0, 3),
    closing=st.one_of(st.none(), st.tuples(st.integers(1, 5), st.integers(0, 3))),
    packing=st.sampled_from([bytes, gzip.compress]),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_no_row_is_lost_by_a_stray_quote(tmp_path_factory, at, field, closing, packing):
    """A quote opens some field, and perhaps another does. Either all rows are there or the file is refused."""
    rows = [line.split(",") for line in SONGS_CSV]
    for line, number in {(at, field), closing} - {None}:
        rows[line][number] = '"' + rows[line][number]
    path = tmp_path_factory.mktemp("quotes") / "r.csv"
    path.write_bytes(packing("\n".join(map(",".join, rows)).encode()))
    first = min(at, closing[0]) if closing else at
    try:
        found = reading.read(path)
    except DatasetError as error:
        assert f"r.csv, line {first + 1}: a field there opens" in str(error) and "quoting = false" in str(error)
    else:
        assert len(found.table) == 5
    assert reading.read(path, quoting=False).table.to_numpy().tolist() == rows[1:]


def test_a_field_of_several_lines_is_no_stray_quote(folder):
    text = 'user,item,rating,title\n1,1,5,"Suite:\nI. Allegro, II. Andante"\n\n1,2,oops,B\n'
    (folder / "r.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match="line 5: rating is 'oops'"):  # lines, not rows, are counted
        load({"file": "r.csv"})
    (folder / "r.csv").write_text(text.replace("oops", "4"), encoding="utf-8")
    assert load({"file": "r.csv"}).items["title"].tolist() == ["Suite: I. Allegro, II. Andante", "B"]


def test_a_field_that_looks_like_rows_is_read_where_quotes_are_said_to_be_right(folder):
    (folder / "r.csv").write_text('user,item,rating,title\n1,1,5,"A\nB,C,D,E"\n1,2,4,F\n', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 2: .* before line 3 ends.*quoting = true"):
        load({"file": "r.csv"})
    assert load({"file": "r.csv", "quoting": True}).items["title"].tolist() == ["A B,C,D,E", "F"]


# --- likes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("values", "likes"),
    [
        ([True, False, True], [True]),
        ([True, False, True], ["true"]),
        (["up", "down", "UP"], ["Up"]),
        ([1, 0, 1], [1]),
        ([1.0, -1.0, 1.0], ["1"]),
        (["👍", "👎", "👍"], ["👍"]),
        (["like", "none of it", "loved"], ["like", "loved"]),
    ],
)
def test_yes_and_no_become_one_and_zero_and_are_counted(folder, form, values, likes):
    table = PLAIN.assign(rating=values)
    name = f"r.{form}"
    if form == "csv":
        table.to_csv(folder / name, index=False)
    elif form == "jsonl":
        table.to_json(folder / name, orient="records", lines=True)
    else:
        table.to_parquet(folder / name)
    for data in both_doors(folder, name, likes=likes):
        assert data.interactions["rating"].tolist() == [1, 0, 1]
        (note,) = data.notes
        assert "(1) became 0" in note and "became 1, a like" in note
    assert data.like == 1


def test_a_column_without_numbers_is_shown_with_what_it_holds(folder):
    PLAIN.assign(rating=["up", "down", "up"]).to_csv(folder / "r.csv", index=False)
    for door in (lambda: load({"file": "r.csv"}), lambda: datasets.Dataset.read(folder / "r.csv")):
        with pytest.raises(DatasetError, match=r"rating holds no number, but 'up' \(2\), 'down' \(1\)\. Set likes"):
            door()
    with pytest.raises(DatasetError, match=r"none of the values in likes, but 'up' \(2\), 'down' \(1\)"):
        load({"file": "r.csv", "likes": ["thumbs up"]})


@pytest.mark.parametrize("given", [{}, {"likes": [5]}])
def test_rows_without_a_rating_are_left_out_only_where_that_is_said(folder, given):
    PLAIN.assign(rating=[5, None, 4]).to_parquet(folder / "r.parquet")
    with pytest.raises(DatasetError, match=r'row 2: rating is \'\', .*missing_ratings = "leave out" in \[ratings\]'):
        load({"file": "r.parquet"} | given)
    data = load({"file": "r.parquet", "missing_ratings": "leave out"} | given)
    assert data.interactions[["user", "item"]].to_numpy().tolist() == [["ann", "x1"], ["bob", "x1"]]
    assert "r.parquet: 1 rows without a value of rating were left out." in data.notes


def test_a_row_that_is_left_out_needs_no_time(folder):
    PLAIN.assign(rating=[5, None, 4], when=[7, None, 9]).to_csv(folder / "r.csv", index=False)
    data = load({"file": "r.csv", "timestamp": "when", "missing_ratings": "leave out"})
    assert data.interactions["timestamp"].tolist() == [7, 9]


@pytest.mark.parametrize("change", [{"like_threshold": 1.0}, {"rating_scale": 1, "like_threshold": 0.5}])
def test_likes_have_a_scale_of_their_own(change):
    with pytest.raises(errors.SettingError, match="with likes in .* set both to 1"):
        settings({"likes": ["up"]}, **change)


# --- times ------------------------------------------------------------------------------------------------------------

MOMENT = pd.Timestamp("2023-12-31T18:30:05Z")


@pytest.mark.parametrize(
    ("written", "given", "told"),
    [
        (f"{MOMENT.timestamp():.0f}", {}, "taken as seconds since"),
        (f"{MOMENT.timestamp() * 1e3:.0f}", {}, "taken as milliseconds since"),
        (f"{MOMENT.timestamp() * 1e6:.0f}", {}, "taken as microseconds since"),
        (f"{MOMENT.value}", {}, "taken as nanoseconds since"),
        ("31.12.2023 18:30:05", {"time_format": "%d.%m.%Y %H:%M:%S"}, "dates"),
        ("12/31/23 06:30:05 PM", {"time_format": "%m/%d/%y %I:%M:%S %p"}, "dates"),
        ("2023-12-31T19:30:05+01:00", {}, "dates"),
        ("2023-12-31 18:30:05", {}, "dates, taken as UTC without a zone"),
        ("2023-12-31T18:30:05.999Z", {}, "dates"),
        ("20231231183005", {"time_format": "%Y%m%d%H%M%S"}, "dates"),
    ],
)
def test_a_moment_is_the_same_however_it_is_written(folder, written, given, told):
    (folder / "r.csv").write_text(
        f"user,item,rating,when,title\n1,1,5,{written},A\n1,2,1,{written},B\n", encoding="utf-8"
    )
    for data in both_doors(folder, "r.csv", timestamp="when", **given):
        assert data.interactions["timestamp"].tolist() == [int(MOMENT.timestamp())] * 2
        (note,) = data.notes
        assert told in note and "from 2023-12-31 to 2023-12-31" in note


def test_numbers_of_two_units_are_refused_until_one_is_named(folder):
    (folder / "r.csv").write_text("user,item,rating,when,title\n1,1,5,0,A\n1,2,1,1700000000000,B\n", encoding="utf-8")
    given = {"file": "r.csv", "timestamp": "when"}
    with pytest.raises(DatasetError, match="some look like seconds, others like milliseconds.*Set time_format"):
        load(given)
    assert load(given | {"time_format": "milliseconds"}).interactions["timestamp"].tolist() == [0, 1_700_000_000]


@pytest.mark.parametrize("when", [["02.01.2024", "", "01.01.2024"], ["2024-01-02", None, "2024-01-01"]])
def test_missing_times_are_the_oldest_where_that_is_said(folder, when):
    PLAIN.assign(when=when).to_csv(folder / "r.csv", index=False)
    given = {"file": "r.csv", "timestamp": "when"}
    given |= {"time_format": "%d.%m.%Y"} if "." in when[0] else {}
    with pytest.raises(
        DatasetError, match=r"""line 3: when is '', no time\. missing_times = "oldest" in \[ratings\]"""
    ):
        load(given)
    data = load(given | {"missing_times": "oldest"})
    assert data.interactions["timestamp"].tolist() == [1_704_153_600, 0, 1_704_067_200]
    assert data.notes[0].endswith("1 rows have none and count as older than all others.")


@pytest.mark.parametrize("pattern", ["dd.mm.yyyy", "%d.%m.%Q"])
def test_a_pattern_that_is_none_is_refused(folder, pattern):
    PLAIN.assign(when="31.12.2023").to_csv(folder / "r.csv", index=False)
    with pytest.raises(DatasetError, match="time_format is"):
        load({"file": "r.csv", "timestamp": "when", "time_format": pattern})


# --- one row a pair ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timed", "kept"), [(True, 2.0), (False, 3.0)])
def test_the_newest_row_of_a_pair_counts_where_that_is_said(folder, timed, kept):
    (folder / "r.csv").write_text(
        "user,item,rating,when,title\n1,1,5,100,A\n1,1,2,300,A\n1,2,4,50,B\n1,1,3,200,A\n", encoding="utf-8"
    )
    given = {"timestamp": "when"} if timed else {}
    with pytest.raises(DatasetError, match=r'line 3: user 1 rated item 1 already on line 2.*set duplicates = "newest"'):
        load({"file": "r.csv"} | given)
    for data in both_doors(folder, "r.csv", duplicates="newest", **given):
        assert data.interactions["rating"].tolist() == [kept, 4]
        assert "2 rows of a user and an item that are there again were left out" in " ".join(data.notes)


# --- titles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "legible"),
    [
        ("Simon &amp; Garfunkel", "Simon & Garfunkel"),
        ("Guns N&#39; Roses", "Guns N' Roses"),
        ("Caf&eacute;", "Café"),
        ("A &amp;amp; B", "A & B"),
        ("R&B; AT&T &notit", "R&B; AT&T &notit"),
        ("The\u00a0Beatles", "The Beatles"),
        ("\u200bZero\u200d width\ufeff", "Zero width"),
        ("Tab\tand \x07 bell", "Tab and bell"),
        ("soft\u00adhyphen", "softhyphen"),
        ("👩\u200d🎤 ❤️\u200d🔥", "👩\u200d🎤 ❤️\u200d🔥"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_titles_are_what_a_reader_sees(folder, written, legible):
    PLAIN.assign(title=[written, "B", written]).to_csv(folder / "r.csv", index=False)
    for data in both_doors(folder, "r.csv"):
        assert data.items["title"].tolist() == [legible, "B"]
        assert len(data.notes) == (written != legible)
        assert all(note.startswith("r.csv: 1 values (such as ") for note in data.notes)


def test_equal_titles_are_told_also_where_only_what_is_invisible_tells_them_apart(folder):
    PLAIN.assign(item=["x1", "x2", "x3"], title=["Song", "Other", "Song\u200b"]).to_csv(folder / "r.csv", index=False)
    for data in both_doors(folder, "r.csv"):
        assert data.items["title"].tolist() == ["Song", "Other", "Song"]
        assert any("2 items share their title with another, such as 'Song' ('x1', 'x3')" in note for note in data.notes)


def test_ids_are_kept_also_with_invisible_characters_which_are_told(folder):
    PLAIN.assign(user=["ann", "ann\u200b", "7"]).to_parquet(folder / "r.parquet")
    for data in both_doors(folder, "r.parquet"):
        assert set(data.interactions["user"]) == {"ann", "ann\u200b", "7"}
        assert data.notes == (
            "r.parquet: 1 values (such as 'ann\\u200b') of user have invisible characters. They are kept as they are.",
        )


def test_text_ids_of_a_typed_file_stay_text(folder):
    PLAIN.assign(user=["1", "1", "2"], item=["01", "2", "01"]).to_parquet(folder / "r.parquet")
    for data in both_doors(folder, "r.parquet"):
        assert data.interactions[["user", "item"]].to_numpy().tolist() == [["1", "01"], ["1", "2"], ["2", "01"]]


def test_two_columns_of_one_name_are_refused(folder):
    (folder / "r.csv").write_text("user,item,rating,title, title\n1,1,5,A,B\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="two columns are called 'title'"):
        load({"file": "r.csv"})


# --- keys in the wrong place ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ratings": {"file": "r.csv", "seed": 1}}, r"mine\.toml: seed stands below \[ratings\].*Move it above"),
        ({"endpoint": {"base_url": "http://x/v1", "noun": "song"}}, r"noun stands below \[endpoint\]"),
        ({"grids": {"EASE": [10], "folds": 3}}, r"folds stands below \[grids\]"),
        ({"larger_models": [{"model": "m", "users": {}, "seed": 3}]}, r"seed stands below \[larger_models\]"),
        ({"separator": ";"}, r"separator stands above all tables. Move it below the line \[ratings\]"),
    ],
)
def test_a_key_in_the_wrong_table_is_told_where_it_belongs(values, says):
    rest = {key: value for key, value in VALUES.items() if key not in values or key == "grids"}
    with pytest.raises(errors.SettingError, match=says):
        config.build("mine", rest | {"dataset": "mine"} | values, "mine.toml")


# --- users who have all rated equally much ----------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 400), st.integers(3, 200))
def test_users_as_sparse_as_all_others_are_on_one_side_whatever_the_last_digit(each, more, users):
    sparsity = pd.Series(1 - each / (each + more), range(users))
    assert not triage.inactive(sparsity, triage.Thresholds()).any()


def test_a_study_in_which_most_have_rated_equally_much_says_so(rated):
    most = rated["user"] > 12
    table = pd.concat([rated[most].groupby("user").head(30), rated[~most].groupby("user").head(25)])
    said = enough.check(toy(table.reset_index(drop=True)), settings({}, sparsity_threshold=0.0))
    assert re.search(r"\(\d\d% of all users have 27 known ratings each.*they are inactive\)", said)
    with pytest.raises(
        DatasetError, match=r"27 known ratings each, .*active; sparsity_threshold = 0\.0 would call all"
    ):
        enough.check(toy(table.reset_index(drop=True)), settings({}))
    few = datasets.Dataset.read(table.drop(columns="timestamp"))
    assert "equally many ratings" in str(hr.triage(few, hr.Cornac("MostPop")))


def test_a_core_that_is_too_large_is_told_with_the_largest_that_is_not(folder, rated):
    table = rated.groupby("user").head(7)
    table.to_csv(folder / "r.csv", index=False)
    with pytest.raises(DatasetError, match="no rating is left with core = 30: .*Lower it to") as caught:
        load({"file": "r.csv", "core": 30})
    most = int(re.search(r"Lower it to (\d+) or", str(caught.value))[1])
    assert len(load({"file": "r.csv", "core": most}).interactions)
    with pytest.raises(DatasetError, match="no rating is left"):
        load({"file": "r.csv", "core": most + 1})


# --- enough for the study ---------------------------------------------------------------------------------------------


def toy(rated: pd.DataFrame) -> datasets.Dataset:
    items = rated[["item", "title"]].drop_duplicates().assign(year="", genres="")
    return datasets.Dataset("mine", rated.drop(columns="title"), items, "r.csv")


@pytest.mark.parametrize(
    ("change", "given", "says"),
    [
        (lambda t: t.assign(rating=t["rating"] * 2), {}, r"r\.csv: a rating is 10, above rating_scale = 5"),
        (lambda t: t.assign(rating=t["rating"].clip(upper=3)), {}, r"no rating is a like: the highest is 3.*Lower it"),
        (lambda t: t, {"like_threshold": 1.0}, r"every rating is a like: the lowest is 1.*Raise it to 2\.0.*counts"),
        (lambda t: t.assign(rating=5.0), {}, r"every rating is 5, so nothing tells likes .*whatever like_threshold is"),
        (lambda t: t[t["user"] < 12], {}, r"r\.csv: only \d of \d inactive users.*the study needs 10"),
        (
            lambda t: t.groupby("user").head(6),
            {"sparsity_threshold": 0.0},
            r"only 0 of 40.*15 ratings.*6 at the median",
        ),
        (lambda t: t.groupby("user").head(20), {}, r"no user is inactive, .*set sparsity_threshold = 0\.0"),
    ],
)
def test_what_is_too_little_for_the_study_is_said_with_a_remedy(rated, change, given, says):
    with pytest.raises(DatasetError, match=says):
        enough.check(toy(change(rated).reset_index(drop=True)), settings({}, **given))


def test_users_who_have_all_rated_as_much_can_all_be_called_inactive(rated):
    equal = toy(rated.groupby("user").head(25).reset_index(drop=True))
    assert "of 40 inactive users" in enough.check(equal, settings({}, sparsity_threshold=0.0))


def test_a_study_of_some_users_needs_so_many(rated):
    with pytest.raises(errors.SplitError, match="users is 50, but there are 40"):
        enough.check(toy(rated), settings({}, users=50))


def test_a_like_that_no_rating_can_reach_is_refused_with_the_settings():
    with pytest.raises(errors.SettingError, match=r"mine\.toml: like_threshold is 6, above.*rating_scale = 5"):
        settings({}, like_threshold=6)


def test_the_command_says_what_there_is_and_refuses_before_a_notebook_runs(folder, rated, monkeypatch, capsys):
    as_songs(rated).to_csv(folder / "songs.csv", index=False)
    good = settings(SONGS | {"file": "songs.csv"}, like_threshold=60, rating_scale=100)
    commands.data(good)
    assert "inactive users have likes and other items in the test" in capsys.readouterr().out
    monkeypatch.setattr(notebooks, "_execute", lambda *_: pytest.fail("a notebook was run"))
    with pytest.raises(DatasetError, match="a rating is 99.5, above rating_scale = 50"):
        bad = settings(SONGS | {"file": "songs.csv"}, rating_scale=50)
        commands.run(bad, "01_data")


# --- scales and recommenders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MF", "EASE"])
@pytest.mark.parametrize(("factor", "shift"), [(20, 0), (5, -15), (0.25, -0.25)])
def test_the_scale_of_ratings_does_not_change_what_is_learned(interactions, name, factor, shift):
    own_scale = interactions.assign(rating=interactions["rating"] * factor + shift)
    usual = fitting.training_rows(name, interactions, 4.0)
    other = fitting.training_rows(name, own_scale, 4.0 * factor + shift)
    assert np.allclose(usual["rating"], other["rating"])
    pd.testing.assert_frame_equal(usual.drop(columns="rating"), other.drop(columns="rating"))


def test_usual_scales_are_learned_as_they_are(interactions):
    for factor, shift in ((1, 0), (0.9, 0), (2, 0), (1, -1)):
        table = interactions.assign(rating=interactions["rating"] * factor + shift)
        assert fitting.training_rows("MF", table, 4.0)["rating"].tolist() == table["rating"].tolist()


@pytest.mark.slow
def test_whoever_has_seen_most_of_a_small_catalogue_gets_a_shorter_list(interactions, items):
    numbers = items["item"].to_numpy()
    split = interactions.assign(split=np.where(interactions["item"] % 5 == 0, "test", "train"))
    study = fitting.Study(split, numbers, 4.0, seed=1)
    wanted = split[split["split"] == "test"]
    _, lists = fitting.test_scores(study, {"MostPop": {}}, wanted, top=50)
    seen = split[split["split"] == "train"].groupby("user")["item"].agg(set)
    for user, items_of in lists.groupby("user")["item"]:
        assert set(items_of) == set(numbers) - seen[user]
    assert lists.groupby("user")["position"].max().max() < len(numbers) - 1


@pytest.mark.parametrize("name", ["ItemKNN", "UserKNN", "MF", "BPR", "EASE"])
def test_a_user_whose_only_rating_is_held_out_has_scores_all_the_same(name, interactions, items):
    train = interactions[interactions["user"] != 3]
    pairs = interactions.loc[interactions["user"] <= 6, ["user", "item"]].reset_index(drop=True)
    users, numbers = np.sort(interactions["user"].unique()), items["item"].to_numpy()
    params = fitting.grid(name)[0]
    scores = fits.fit_and_score(fits.Fit(name, params, train, pairs, users, numbers, seed=1))["scores"]
    assert np.isfinite(scores).all()
    if name.endswith("KNN"):
        assert set(scores[pairs["user"] == 3]) == {0.0}


def test_a_byte_that_ends_a_text_too_early_has_a_line(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"a,b\n1,2\n3,\xff\n")
    with pytest.raises(DatasetError, match=r"r\.csv, line 3: not utf-8"):
        reading.read(tmp_path / "r.csv")


# --- nobody weak, nobody asked, few users -----------------------------------------------------------------------------


def test_without_two_halves_nobody_is_picked_and_nothing_fails():
    halves = pd.DataFrame(columns=["recommender", "user", "first", "second"])
    table = found.regression_to_the_mean(halves, 0.5, seed=1)
    assert table.empty and figures.regression_to_the_mean(table).axes


def test_no_ranking_is_a_table_without_a_row():
    assert list(rankers.table([]).columns) == list(rankers.table([ranking()]).columns)
    assert rankers.table([]).empty


def ranking() -> rankers.Ranking:
    return rankers.Ranking("listwise", 1, (1, 2), (1.0, 2.0), 0, 0, 0, "", 1, True, dict.fromkeys(runner.USAGE, 1.0))


def test_figures_stand_where_there_is_nothing_to_show():
    names = ["ItemKNN", "NeuMF", "BPR"]
    settled = pd.DataFrame(
        {"recommender": ["MostPop"], "parameter": [""], "value": [np.nan], "auc": 0.5, "chosen": True}
    )
    assert figures.tuning_curves(settled).axes
    numbers = [f"{what}{end}" for what in ("flagged", "gain", "gain_fresh") for end in ("", "_low", "_high")]
    empty = dict.fromkeys(numbers, np.nan)
    bands = pd.DataFrame([{"recommender": name, "world": world} | empty for name in names for world in "abc"])
    assert figures.worlds(bands).axes[0].get_xlim()[1] > 0
    grid = pd.DataFrame(
        {"x": [1], "line": 2, "flags": 0} | {f"flagged_auc{end}": np.nan for end in ("", "_low", "_high")}
    )
    grid.attrs["line"] = "line"
    assert len(figures.sensitivity({"x": grid}).axes) == 1


def test_a_scale_of_many_values_is_drawn_in_twenty_bars():
    many = pd.Series(np.linspace(0, 100, 201))
    counts = pd.Series([1, 2, 3])
    for ratings, bars in ((many, 20), (many.round(-1), 11)):
        _, values = figures.data_portrait(counts, counts, ratings, 50).axes
        assert len(values.patches) == 2 * bars  # those of what is liked, and of the others


# --- end to end -------------------------------------------------------------------------------------------------------

QUICK = {
    "noun": "film",
    "recommenders": ["ItemKNN", "BPR", "NeuMF"],
    "grids": {"ItemKNN": [20], "BPR": [20, 40], "NeuMF": [2]},
    "folds": 3,
    "modes": ["listwise", "likelihood"],
    "topk_modes": [],
    "history_length": 3,
    "shuffles": 2,
    "shuffled_users": 2,
    "topk_users": 2,
    "bootstrap_samples": 100,
}


def event_log() -> pd.DataFrame:
    """Some popular films and users of MovieLens 100K: a film comes as often as it has stars; a tenth has no title."""
    if not any(paths.RAW.glob("ml-100k*")):
        pytest.skip("MovieLens 100K is not on this disk: `make data` fetches it")
    films = steps.dataset("ml-100k")
    popular = films.interactions["item"].value_counts().index[:120]
    ratings = films.interactions[films.interactions["item"].isin(popular)]
    size = ratings.groupby("user").size()
    users = [*size.index[size.between(22, 34)][:30], *size.index[size > 60][:10]]
    table = ratings[ratings["user"].isin(users)].merge(films.items, on="item")
    table["name"] = table["title"].where(table["item"] % 10 > 0, "")
    return table.loc[table.index.repeat(table["rating"].astype(int)), ["user", "item", "timestamp", "name"]]


@pytest.mark.slow
def test_counts_with_missing_titles_go_through_all_six_notebooks(tmp_path, monkeypatch, capsys):
    event_log().to_parquet(tmp_path / "log.parquet")
    ratings = {"file": "log.parquet", "rating": "", "timestamp": "timestamp", "title": "name", "feedback": "counts"}
    mine = settings(ratings, **QUICK, larger_models=[])
    for variable in ("DATA", "SCRATCH"):
        monkeypatch.setenv(f"HYBRIDREC_{variable}", str(tmp_path))
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path)
    monkeypatch.setattr(models, "open_model", lambda *_, **__: ToyModel())
    commands.data(mine)
    notebooks_here.run(mine, notebooks_here.NAMES)
    said = capsys.readouterr().out
    assert "rated items have no title" in said
    assert "took none more often than their median" in said
    claims = pd.read_csv(tmp_path / "results" / "mine" / "claims.csv")
    assert set(claims["recommender"]) >= {"ItemKNN", "BPR", "NeuMF"}
    assert claims["verdict"].notna().all()
    judged = pd.read_csv(tmp_path / "results" / "mine" / "cross_verdicts.csv")
    assert {"recommender", "random"} <= set(judged["family"]) and set(judged["verdict"]) <= {*verdicts.VERDICTS}
