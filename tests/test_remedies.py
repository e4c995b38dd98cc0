"""Whatever an error tells the user to do is done here, to the letter, and then the same command succeeds."""

import ast
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hybridrec import errors, reading
from hybridrec.data import downloads
from hybridrec.data.datasets import Dataset
from hybridrec.data.sources import book_crossing, canonical
from hybridrec.evaluation import prices
from hybridrec.study import config, enough, paths, steps, tables

VALUES = tomllib.loads((paths.EXPERIMENTS / "ml-latest-small-2016.toml").read_text(encoding="utf-8")) | {"grids": {}}
TRIED = (
    "data.downloads study.enough study.config data.datasets evaluation.prices data.sources.book_crossing "
    "data.sources.canonical data.sources.own data.sources.form reading"
).split()
# The words that begin a remedy.
ADVICE = re.compile(
    r"\b(?:[Ll]ower it|[Rr]aise|[Ss]et \w+|[Rr]emove|[Dd]elete|[Ll]eave|[Aa]dd|[Pp]ut|[Mm]end|Keep one|Convert|Try|"
    r"[Ff]etch it|Save it|[Gg]ive|Check)\b"
)


def toy() -> pd.DataFrame:
    """80 users, 90 items, ratings from 1 to 5; each second user has rated less than the others."""
    rng = np.random.default_rng(7)
    users, items = np.meshgrid(np.arange(1, 81), np.arange(1, 91), indexing="ij")
    table = pd.DataFrame({"user": users.ravel(), "item": items.ravel()})
    table["rating"] = rng.integers(1, 6, len(table))
    table["title"] = "Song " + table["item"].astype(str)
    share = np.where(table["user"] % 2 == 1, 0.35, 0.6)
    return table[rng.random(len(table)) < share].reset_index(drop=True)


class Study:
    """A study of ratings of one's own as far as it can be wrong before a notebook runs: settings, files, enough."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "r.csv"
        self.rows, self.raw = toy(), ""
        self.ratings: dict[str, Any] = {"file": "r.csv"}
        self.values: dict[str, Any] = VALUES | {"dataset": "mine"}
        self.run: Callable[[], Any] = self.check

    def check(self) -> str:
        """As ``make data`` does it."""
        if self.raw:
            self.file.write_text(self.raw, encoding="utf-8")
        else:
            self.rows.to_csv(self.file, index=False)
        settings = config.build("mine", self.values | {"ratings": self.ratings}, "mine.toml")
        return enough.check(steps.dataset(settings.dataset, settings.ratings), settings)

    def only_read(self, text: str, **ratings: Any) -> None:
        """A file that is only read: too small to be studied."""
        self.file.write_text(text, encoding="utf-8")
        self.ratings |= ratings
        self.run = lambda: steps.dataset("mine", self.ratings)

    def only_settings(self, **values: Any) -> None:
        self.values = tomllib.loads((paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8"))
        self.values |= {"local": None, "taught": None, "cross_ways": []} | values
        self.run = lambda: config.build("mine", self.values, "mine.toml")


Remedy = Callable[[Study], Generator[None, str, None]]
CASES: dict[str, Remedy] = {}


def case(function: Remedy) -> Remedy:
    """A way to fail: sets it up, is given what the error said, and does what that says."""
    CASES[function.__name__] = function
    return function


# --- ratings of one's own: likes --------------------------------------------------------------------------------------


@case
def a_rating_above_the_scale(study):
    study.rows["rating"] = study.rows["rating"] * 1.5
    said = yield
    study.values["rating_scale"] = int(re.search(r"set it to (\d+)", said)[1])


@case
def counts_above_the_scale(study):
    study.ratings["feedback"] = "counts"
    study.values |= {"rating_scale": 4, "like_threshold": 4.0}
    said = yield
    study.values["rating_scale"] = int(re.search(r"counts need rating_scale = (\d+)", said)[1])


@case
def no_like(study):
    study.rows["rating"] = study.rows["rating"].clip(upper=3) / 1.1  # a highest rating of many digits
    said = yield
    study.values["like_threshold"] = float(re.search(r"Lower it to (\S+) or below", said)[1])


@case
def likes_only(study):
    study.values["like_threshold"] = 0.5
    said = yield
    study.values["like_threshold"] = float(re.search(r"Raise it to (\S+) or above", said)[1])


@case
def likes_only_because_they_are_counts(study):
    study.rows["rating"] **= 3
    study.values |= {"rating_scale": 125, "like_threshold": 1.0}
    said = yield
    told = tomllib.loads("\n".join(re.findall(r'\w+ = (?:"\w+"|\d\S*\d|\d)', said.partition("purchases, ")[2])))
    study.ratings["feedback"] = told.pop("feedback")
    assert told.keys() == {"like_threshold", "rating_scale"}
    study.values |= told


@case
def likes_only_among_counts(study):
    study.ratings["feedback"] = "counts"
    study.values["like_threshold"] = 1.0
    said = yield
    assert "feedback" not in said
    study.values["like_threshold"] = float(re.search(r"Raise it to (\S+) or above", said)[1])


def _name_another_column(study: Study, said: str) -> None:
    assert "whatever like_threshold is" in said and "Lower" not in said and "Raise" not in said
    assert "Set rating in [ratings] to a column whose values differ" in said
    study.ratings["rating"] = "plays"


@case
def counts_of_one_value(study):
    study.rows = study.rows.assign(plays=study.rows["rating"], rating=1)
    study.ratings["feedback"] = "counts"
    _name_another_column(study, (yield))


@case
def each_row_one_use_and_each_pair_once(study):
    study.rows = study.rows.rename(columns={"rating": "plays"})
    study.ratings |= {"feedback": "counts", "rating": ""}
    _name_another_column(study, (yield))


@case
def each_user_as_often_as_ever_but_not_the_same_for_all(study):
    study.rows = study.rows.assign(plays=study.rows["rating"], rating=study.rows["user"])
    study.ratings["feedback"] = "counts"
    _name_another_column(study, (yield))


@case
def ratings_of_one_value(study):
    study.rows = study.rows.assign(plays=study.rows["rating"], rating=5.0)
    said = yield
    assert 'feedback = "counts"' in said
    study.ratings["feedback"] = "counts"
    _name_another_column(study, said)


# --- ratings of one's own: users --------------------------------------------------------------------------------------


@case
def nobody_is_inactive(study):
    study.rows = study.rows.groupby("user").head(20)
    said = yield
    study.values |= tomllib.loads(re.search(r"set (sparsity_threshold = [\d.]+)", said)[1])


@case
def too_few_inactive_users(study):
    study.values["sparsity_threshold"] = 0.98
    study.rows = pd.concat([study.rows, study.rows.head(1).assign(user=99)])  # one rating: inactive, never judged
    said = yield
    study.values |= tomllib.loads(re.search(r"set (sparsity_threshold = [\d.]+)", said)[1])


@case
def too_few_users_with_enough_ratings(study):
    whole = study.rows
    study.rows = whole.groupby("user").head(6)
    study.values["sparsity_threshold"] = 0.0
    said = yield
    assert "sparsity_threshold" not in said and "needs 15 ratings" in said and "Add ratings" in said
    study.rows = whole


@case
def too_few_users_drawn(study):
    few = study.rows.groupby("user").head(3)
    study.rows = pd.concat([study.rows, *(few.assign(user=few["user"] + 100 * more) for more in range(1, 12))])
    study.values["users"] = 50
    said = yield
    assert "leave it out" in said and "Raise users" in said
    del study.values["users"]
    study.values |= tomllib.loads(re.search(r"set (sparsity_threshold = [\d.]+)", (yield))[1])


@case
def no_validation(study):
    whole = study.rows
    kept = enough.splits.split_per_user(whole, study.values["seed"])
    low = kept["split"].eq("validation").to_numpy()
    study.rows = whole.assign(rating=whole["rating"].mask(low, 1))
    said = yield
    assert "Add ratings" in said
    study.rows = whole


# --- ratings of one's own: files --------------------------------------------------------------------------------------

GOOD = "user,item,rating,title\nann,x1,5,One\nann,x2,1,Two\nbob,x1,4.5,One\n"


@case
def no_file(study):
    study.ratings["file"] = "other.csv"
    assert "Put it there" in (yield)
    study.rows.to_csv(study.folder / "other.csv", index=False)


@case
def a_file_elsewhere(study):
    elsewhere = study.folder / "elsewhere"
    elsewhere.mkdir()
    study.rows.to_csv(elsewhere / "other.csv", index=False)
    study.ratings["file"] = "other.csv"
    assert "give its whole path" in (yield)
    study.ratings["file"] = str(elsewhere / "other.csv")


@case
def a_column_of_another_name(study):
    study.rows = study.rows.rename(columns={"user": "listener"})
    key = re.search(r"Set '(\w+)' in \[ratings\]", (yield))[1]
    study.ratings[key] = "listener"


@case
def another_separator(study):
    study.only_read(GOOD.replace(",", ";"))
    assert "Or is ',' not its separator?" in (yield)
    study.ratings["separator"] = ";"


@case
def a_comma_within_a_field(study):
    study.only_read(GOOD.replace("4.5", "4,5"))
    said = yield
    assert "name the file's separator" in said
    study.only_read(GOOD.replace(",", ";").replace("4.5", "4,5"), separator=";", decimal=",")


@case
def a_line_with_too_many_fields(study):
    study.only_read(GOOD + "bob,x2,3,Two,7\n")
    line = int(re.search(r"line (\d+).*Fix that line", (yield))[1])
    study.only_read("\n".join(text for n, text in enumerate(GOOD.splitlines(), 1) if n != line))


@case
def lines_longer_than_the_header(study):
    study.only_read(GOOD.replace("\n", ",7\n").replace("title,7", "title"))
    assert "Fix the header" in (yield)
    study.only_read(GOOD.replace("\n", ",7\n").replace("title,7", "title,more"))


@case
def a_rating_that_is_no_number(study):
    study.only_read(GOOD.replace("4.5", "good"))
    line = int(re.search(r"line (\d+):.*Fix or remove that line", (yield))[1])
    study.only_read("\n".join(text for n, text in enumerate(GOOD.splitlines(), 1) if n != line))


@case
def a_row_without_a_user(study):
    study.only_read(GOOD.replace("bob", " "))
    line = int(re.search(r"line (\d+):.*Fix or remove that line", (yield))[1])
    study.only_read("\n".join(text for n, text in enumerate(GOOD.splitlines(), 1) if n != line))


@case
def a_pair_twice(study):
    study.only_read(GOOD + "ann,x2,3,Two\n")
    line = int(re.search(r"line (\d+):.*Keep one of the lines", (yield))[1])
    study.only_read("\n".join(text for n, text in enumerate((GOOD + "ann,x2,3,Two").splitlines(), 1) if n != line))


@case
def a_pair_twice_because_rows_are_uses(study):
    study.rows = study.rows.loc[study.rows.index.repeat(study.rows["rating"])]
    told = re.findall(r'(\w+ = "\w*")', (yield).partition("set ")[2])
    study.ratings |= tomllib.loads("\n".join(told))
    assert study.ratings["feedback"] == "counts"


@case
def another_encoding(study):
    study.only_read("")
    study.file.write_bytes(GOOD.replace("One", "Única").encode("latin-1"))
    assert "name its encoding" in (yield)
    study.ratings["encoding"] = "latin-1"


@case
def another_encoding_converted(study):
    study.only_read("")
    study.file.write_bytes(GOOD.replace("One", "Única").encode("latin-1"))
    assert "Convert it to UTF-8" in (yield)
    study.file.write_text(study.file.read_text(encoding="latin-1"), encoding="utf-8")


@case
def an_encoding_that_is_none(study):
    study.only_read(GOOD, encoding="utf-9")
    study.ratings["encoding"] = re.search(r"Try (\S+) or", (yield))[1]


@case
def a_file_that_is_gone_for_the_reader(study):
    study.run = lambda: reading.read(study.folder / "gone.csv")
    assert "Check the path" in (yield)
    (study.folder / "gone.csv").write_text(GOOD, encoding="utf-8")


@case
def a_torn_parquet_file(study):
    study.only_read("", file="r.parquet")
    pd.read_csv(io.StringIO(GOOD)).to_parquet(study.folder / "r.parquet")
    whole = (study.folder / "r.parquet").read_bytes()
    (study.folder / "r.parquet").write_bytes(whole[:-9])
    assert "fetch it again" in (yield)
    (study.folder / "r.parquet").write_bytes(whole)


# --- ratings of one's own: files of other kinds -----------------------------------------------------------------------


def told(said: str, key: str) -> dict[str, Any]:
    """The key and the value that an error tells to set."""
    return tomllib.loads(re.search(rf'{key} = ("[^"]*"|\[[^\]]*\]|[\w.]+)', said)[0])


@case
def a_quote_that_swallows_rows(study):
    study.only_read(GOOD.replace("5,One", '5,"One'))
    said = yield
    assert "Remove that quote" in said
    study.ratings |= told(said, "quoting")


@case
def thumbs(study):
    study.only_read(GOOD.replace(",5,", ",up,").replace(",1,", ",true,").replace("4.5", "down"))
    study.ratings |= told((yield), "likes")


@case
def thumbs_that_are_called_otherwise(study):
    study.only_read(GOOD, likes=["up"])
    value = re.search(r"but '([\d.]+)' \(1\).*Set likes", (yield))[1]
    study.ratings["likes"] = [value]


@case
def no_rating(study):
    study.only_read(GOOD.replace("4.5", ""))
    study.ratings |= told((yield), "missing_ratings")


@case
def no_thumb(study):
    study.only_read(GOOD.replace("4.5", ""), likes=[5])
    study.ratings |= told((yield), "missing_ratings")


@case
def no_time(study):
    study.only_read(GOOD.replace("One", "").replace("Two", "2024-01-02"), timestamp="title", title="item")
    study.ratings |= told((yield), "missing_times")


@case
def a_german_date(study):
    study.only_read(GOOD.replace("One", "31.12.2023 20:15").replace("Two", "1.1.2024 07:00"), timestamp="title")
    study.ratings["title"] = "item"
    study.ratings["time_format"] = re.search(r'Set time_format in \[ratings\], as in "([^"]+)"', (yield))[1]


@case
def a_pattern_that_python_does_not_know(study):
    study.only_read(GOOD.replace("One", "2024").replace("Two", "2023"), timestamp="title", time_format="%Q")
    study.ratings["title"] = "item"
    assert "Give it as for Python's strptime" in (yield)
    study.ratings["time_format"] = "%Y"


@case
def times_of_two_units(study):
    study.only_read(GOOD.replace("One", "12").replace("Two", "1700000000000"), timestamp="title")
    study.ratings["title"] = "item"
    study.ratings["time_format"] = re.search(r"Set time_format in \[ratings\] to the unit, such as '(\w+)'", (yield))[1]


@case
def a_pair_twice_of_which_the_newest_counts(study):
    study.only_read(GOOD + "ann,x2,3,Two\n")
    study.ratings |= told((yield), "duplicates")


@case
def a_name_that_two_columns_have(study):
    study.only_read(GOOD.replace("title", "item"), title="user")
    name = re.search(r"two columns are called '(\w+)'. Give each", (yield))[1]
    study.only_read(GOOD.replace("title", name + " too"))


@case
def a_folder_without_parquet(study):
    (study.folder / "parts").mkdir()
    study.only_read(GOOD, file="parts")
    assert "Name the file that is meant" in (yield)
    study.ratings["file"] = "r.csv"


@case
def an_archive(study):
    study.only_read(GOOD, file="r.xlsx")
    (study.folder / "r.xlsx").write_bytes(b"PK\x03\x04")
    assert "Save the table as CSV" in (yield)
    study.ratings["file"] = "r.csv"


@case
def json_lines_of_which_one_is_none(study):
    lines = [*pd.read_csv(io.StringIO(GOOD)).to_json(orient="records", lines=True).splitlines(), "{oops"]
    study.only_read("\n".join(lines), file="r.csv")
    line = int(re.search(r"line (\d+): no JSON .*Fix or remove that line", (yield))[1])
    study.only_read("\n".join(text for n, text in enumerate(lines, 1) if n != line))


@case
def json_that_is_no_table(study):
    study.only_read("[1, 2]")
    example = re.search(r"Write one object a line, such as (\{.*\})\.", (yield))[1]
    study.only_read(example.replace("}", ', "title": "One"}'))


@case
def likes_and_counts(study):
    study.only_settings(modes=["listwise", "likelihood"], everybody_modes=[], like_threshold=1.0, rating_scale=1)
    study.values |= {"dataset": "mine", "ratings": {"file": "r.csv", "likes": ["up"], "feedback": "counts"}}
    assert "leave one of them out" in (yield)
    del study.values["ratings"]["feedback"]


@case
def likes_on_a_scale_of_stars(study):
    study.only_settings(modes=["listwise", "likelihood"], everybody_modes=[], dataset="mine")
    study.values["ratings"] = {"file": "r.csv", "likes": ["up"]}
    assert "set both to 1" in (yield)
    study.values |= {"like_threshold": 1.0, "rating_scale": 1}


@case
def a_key_of_the_experiment_below_a_table(study):
    study.only_settings(dataset="mine", ratings={"file": "r.csv"})
    study.values["ratings"]["seed"] = study.values.pop("seed")
    key, table = re.search(r"(\w+) stands below \[(\w+)\].*Move it above", (yield)).groups()
    study.values[key] = study.values[table].pop(key)


@case
def a_key_of_the_ratings_above_all_tables(study):
    study.only_settings(dataset="mine", ratings={"file": "r.csv"}, separator=";")
    key, table = re.search(r"(\w+) stands above all tables. Move it below the line \[(\w+)\]", (yield)).groups()
    study.values[table][key] = study.values.pop(key)


@case
def a_number_in_a_download_that_is_none(study):
    rows = [["1", "1", "5", "0"], ["1", "2", "good", "0"]]
    study.run = lambda: canonical.canonical_interactions(
        pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"]), "u.data"
    )
    del rows[int(re.search(r"line (\d+):.*Fix or remove that line", (yield))[1]) - 1]


@pytest.mark.parametrize("titled", [0, 1, 2])
def test_the_share_that_the_error_names_is_accepted_however_large(tmp_path, monkeypatch, titled):
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path))
    study = Study(tmp_path)
    study.rows = pd.DataFrame({"user": range(999), "item": range(999), "rating": 5})
    study.rows["title"] = ["One", "Two", "Three"][: titled + 1] + [""] * (998 - titled)
    with pytest.raises(errors.DatasetError) as caught:
        study.check()
    share = float(re.search(r"set untitled_share = (\S+) ", str(caught.value))[1])
    study.ratings["untitled_share"] = share
    with pytest.raises(errors.DatasetError, match="every rating is 5"):  # a later stage
        study.check()


@case
def items_without_titles(study):
    study.rows["title"] = study.rows["title"].where(study.rows["item"] % 3 > 0, "")
    study.ratings |= tomllib.loads(re.search(r"set (untitled_share = [\d.]+)", (yield))[1])


@case
def a_core_that_leaves_nothing(study):
    study.ratings["core"] = 80
    assert "Lower it" in (yield)
    study.ratings["core"] = 10


@case
def the_name_of_a_dataset_of_ours(study):
    study.values["dataset"] = "ml-100k"
    assert "another name" in (yield)
    study.values["dataset"] = "ml-100k-mine"


# --- settings ---------------------------------------------------------------------------------------------------------


@case
def one_recommender_alone(study):
    study.only_settings(recommenders=["BPR"])
    study.values["recommenders"].append(re.search(r"two or more.*Known: (\w+)", (yield))[1])


@case
def a_name_that_the_file_has_already(study):
    study.only_settings(name="mine")
    del study.values[re.search(r"key '(\w+)': leave it out", (yield))[1]]


@case
def a_mode_that_does_not_exist(study):
    study.only_settings(modes=["likelihood", "telepathy"], everybody_modes=[])
    study.values["modes"][1] = re.search(r"has 'telepathy'.*Known: (\w+)", (yield))[1]


@case
def a_time_that_is_no_date(study):
    table = study.rows.assign(day="2024-01-31", title="Song")
    table.loc[3, "day"] = "soon"
    tables = [table]
    study.run = lambda: Dataset.read(tables[0], timestamp="day")
    row = int(re.search(r"row (\d+): day is 'soon'.*remove that row", (yield))[1])
    tables[0] = table.drop(index=row - 1)


@case
def no_mode_that_writes(study):
    study.only_settings(modes=["likelihood"], everybody_modes=[])
    study.values["modes"].append(re.search(r"modes has none.*add '(\w+)'", (yield))[1])


@case
def a_mode_for_everybody_that_is_not_asked(study):
    study.only_settings(modes=["listwise", "likelihood"], everybody_modes=["pointwise"])
    study.values["everybody_modes"].remove(re.search(r"has '(\w+)'.*Leave it out", (yield))[1])


@case
def an_endpoint_and_a_mode_that_reads_probabilities(study):
    study.only_settings(modes=["listwise", "likelihood"], everybody_modes=[], topk_modes=[])
    study.values["endpoint"] = {"base_url": "http://127.0.0.1/v1"}
    study.values["modes"].remove(re.search(r"modes has '(\w+)'.*leave it out", (yield))[1])


@case
def facts_about_counts(study):
    study.values["modes"] = ["listwise", "likelihood", "pointwise-facts"]
    study.ratings["feedback"] = "counts"
    study.values["modes"].remove(re.search(r"modes has '([\w-]+)'.*Leave it out", (yield))[1])


@case
def facts_about_likes_among_the_ways_compared(study):
    study.only_settings(modes=["listwise"], everybody_modes=[], topk_modes=[], like_threshold=1, rating_scale=1)
    study.values |= {"dataset": "mine", "ratings": {"file": "r.csv", "likes": ["up"]}, "cross_ways": ["compare"]}
    assert "name another way" in (yield)
    study.values["cross_ways"] = ["history of 10"]


@case
def a_way_that_scores_behind_an_endpoint_without_probabilities(study):
    study.only_settings(modes=["listwise"], everybody_modes=[], topk_modes=[], cross_ways=["history of 10"])
    study.values["endpoint"] = {"base_url": "http://127.0.0.1/v1"}
    study.values["cross_ways"] = [re.search(r"cross_ways has 'history of 10'.*name '(\w+)'", (yield))[1]]


@case
def a_recommender_twice(study):
    study.only_settings()
    study.values["recommenders"] = [*study.values["recommenders"], "BPR"]
    study.values["recommenders"].remove(re.search(r"has '(\w+)' twice: remove one", (yield))[1])


@case
def a_grid_of_what_is_not_fitted(study):
    study.only_settings(recommenders=["ItemKNN", "BPR", "NeuMF"], grids={"EASE": [1], "BPR": [2]})
    del study.values["grids"][re.search(r"grids has '(\w+)'.*leave it out", (yield))[1]]


@case
def a_larger_model_that_nobody_asks(study):
    study.only_settings(larger_models=[{"model": "a", "users": {}}])
    assert "one mode or more, each with a whole number of users" in (yield)
    study.values["larger_models"][0]["users"]["listwise"] = 5


@case
def the_name_of_a_servers_model_that_is_a_path(study):
    _endpoint(study)
    study.values["model"] = "/models/Big Model"
    assert "Give a server's model such a name" in (yield)
    study.values["model"] = "big-model"


def _endpoint(study: Study, **parameters: Any) -> dict[str, Any]:
    study.only_settings(modes=["listwise"], everybody_modes=[], topk_modes=[], larger_models=[])
    study.values["endpoint"] = {"base_url": "http://127.0.0.1/v1", "parameters": parameters}
    return parameters


@case
def a_model_that_is_loaded_here_and_asked_there(study):
    _endpoint(study)
    study.values["local"] = {"dtype": "bfloat16"}
    del study.values[re.search(r"(\w+) is there, and so is .*Leave one of the two", (yield))[1]]


@case
def a_parameter_that_costs_more(study):
    given = _endpoint(study, n=2, temperature=0)
    del given[re.search(r"has '(\w+)': leave it out", (yield))[1]]


@case
def two_bounds(study):
    given = _endpoint(study, max_tokens=20, max_completion_tokens=30)
    del given[re.search(r"has both (\w+) and \w+: leave one of them out", (yield))[1]]


@case
def a_parameter_that_is_no_json(study):
    given = _endpoint(study, logit_bias={"5": float("nan")})
    assert "a table of numbers from -100 to 100" in (yield)
    given["logit_bias"]["5"] = -100


@case
def a_parameter_that_is_not_known(study):
    given = _endpoint(study, chat_template="{{ other }}")
    assert "leave it out" in (yield)
    del given["chat_template"]


@case
def a_settings_file_in_another_encoding(study):
    file = study.folder / "mine.toml"
    text = (paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8").replace('"film"', '"película"')
    file.write_text(text, encoding="latin-1")
    study.run = lambda: config.read(file)
    assert "Save it as UTF-8" in (yield)
    file.write_text(text, encoding="utf-8")


# --- data that is fetched, and prices ---------------------------------------------------------------------------------

CONTENT = b"1\t2\t3\n"
FILE = downloads.File("u.data", hashlib.sha256(CONTENT).hexdigest())


@case
def a_wrong_file_in_the_users_folder(study):
    (study.folder / "raw").mkdir()
    (study.folder / "raw" / "u.data").write_bytes(CONTENT)
    (study.folder / "u.data").write_bytes(b"else")
    study.run = lambda: downloads.fetch(FILE, study.folder / "raw", paths.data_folders())
    assert "delete it and run the command again" in (yield)
    (study.folder / "u.data").unlink()


@case
def a_file_that_cannot_be_had(study):
    study.run = lambda: downloads.fetch(FILE, study.folder / "raw", paths.data_folders())
    assert "put the file into a folder of your own and set HYBRIDREC_DATA to it" in (yield)
    (study.folder / "own").mkdir()
    (study.folder / "own" / "u.data").write_bytes(CONTENT)
    os.environ["HYBRIDREC_DATA"] = str(study.folder / "own")


def _put_dump(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("BX-Book-Ratings.csv", "BX-Books.csv"):
        (folder / name).touch()


@case
def book_crossing_beside_other_data(study):
    study.run = lambda: book_crossing.find_folder(paths.RAW, paths.data_folders())
    assert "HYBRIDREC_DATA to the folder that holds book-crossing/" in (yield)
    _put_dump(study.folder / "mine" / "book-crossing")
    os.environ["HYBRIDREC_DATA"] = str(study.folder / "mine")


@case
def book_crossing_in_the_folder_of_downloads(study):
    study.run = lambda: book_crossing.find_folder(paths.RAW, paths.data_folders())
    _put_dump(paths.RAW / re.search(r"into (\S+), or", (yield))[1])


@case
def an_empty_file_of_a_download(study):
    study.file.touch()
    study.run = lambda: canonical.read_table(study.file, ["a", "b"])
    assert "Fetch it again" in (yield)
    study.file.write_text("1\t2\n", encoding="utf-8")


@case
def a_line_of_a_download_with_other_fields(study):
    study.file.write_text("1\t2\n3\n4\t5\n", encoding="utf-8")
    study.run = lambda: canonical.read_table(study.file, ["a", "b"])
    line = int(re.search(r"line (\d+):.*remove that line", (yield))[1])
    kept = [text for n, text in enumerate(["1\t2", "3", "4\t5"], 1) if n != line]
    study.file.write_text("\n".join(kept), encoding="utf-8")


@case
def a_download_in_another_encoding(study):
    study.file.write_bytes("é\tb\n".encode("latin-1"))
    encodings = ["utf-8"]
    study.run = lambda: canonical.read_table(study.file, ["a", "b"], encoding=encodings[-1])
    assert "name its encoding" in (yield)
    encodings.append("latin-1")


@case
def a_pair_twice_in_a_download(study):
    rows = [["1", "1", "5", "0"], ["1", "1", "4", "0"]]
    study.run = lambda: canonical.canonical_interactions(
        pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"]), "u.data"
    )
    line = int(re.search(r"line (\d+):.*Keep one of the lines", (yield))[1])
    del rows[line - 1]


@case
def a_model_without_a_price(study):
    file = study.folder / "prices.toml"
    file.write_text('date = "2026-01-01"\n[local]\nusd_per_hour = 1\n', encoding="utf-8")
    study.run = lambda: prices.read_prices(file).of_endpoint("org/other-4.1:free")
    header, kinds = re.search(r"add (\[.*\]) with (.*) \(US", (yield)).groups()
    with file.open("a", encoding="utf-8") as table:
        table.write(header + "\n" + "".join(f"{kind} = 1\n" for kind in re.findall(r"prompt|cached|completion", kinds)))


# --- they are all tried -----------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "RAW", tmp_path / "raw")
    return Study(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_what_the_error_tells_to_do_works(name, study):
    steps = CASES[name](study)
    next(steps)
    for _ in range(2):  # a remedy may lead to a later stage, which has its own
        with pytest.raises((ValueError, RuntimeError)) as caught:
            study.run()
        try:
            steps.send(str(caught.value))
        except StopIteration:
            break
    study.run()


@contextmanager
def lines_that_raise(seen: set[tuple[str, int]]) -> Iterator[None]:
    """Adds file and line of all that raises in the package, also where pydantic catches it and says it again."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_lines = False
        if event == "exception":
            seen.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        return trace if frame.f_code.co_filename.startswith(str(paths.ROOT / "hybridrec")) else None

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def advising(module: str) -> dict[int, str]:
    """The places in a module where an error that names a remedy is raised: line and text."""
    file = paths.ROOT / "hybridrec" / f"{module.replace('.', '/')}.py"
    found = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise):
            parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            text = " ".join(part for part in parts if isinstance(part, str))
            if ADVICE.search(text):
                found[node.lineno] = text
    return found


@pytest.mark.slow
def test_every_error_that_names_a_remedy_is_among_the_cases(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RAW", tmp_path / "raw")
    seen = set()
    for name, remedy in CASES.items():
        (tmp_path / name).mkdir()
        monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path / name))
        one = Study(tmp_path / name)
        next(remedy(one))
        with pytest.raises((ValueError, RuntimeError)), lines_that_raise(seen):
            one.run()
    for module in TRIED:
        untried = {
            line: text for line, text in advising(module).items() if (f"{module.split('.')[-1]}.py", line) not in seen
        }
        assert untried == {}, module


# --- tables that were deleted -----------------------------------------------------------------------------------------

NOTEBOOKS = sorted({*tables.WRITTEN_BY.values(), "06_cost", "08_allocation"})
LAST = ".stamps/mine/08_allocation"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A copy of what make looks at, as a finished study leaves it. Nothing in it can run."""
    if not shutil.which("make"):
        pytest.skip("there is no make on this machine")
    root = tmp_path / "a copy"
    for name in (
        "hybridrec/study",
        "notebooks/experiments",
        "results/mine",
        "data/tables/mine",
        ".stamps/mine",
        ".venv/bin",
    ):
        (root / name).mkdir(parents=True)
    for name in ("Makefile", "hybridrec/study/tables.py", "hybridrec/study/paths.py"):
        shutil.copy(paths.ROOT / name, root / name)
    names = ["requirements.lock", "pyproject.toml", "data/published_table2.csv", "data/prices.toml", ".venv/bin/python"]
    names += ["notebooks/experiments/mine.toml", *(f"notebooks/{name}.ipynb" for name in NOTEBOOKS)]
    names += [f"results/mine/{name}.ipynb" for name in NOTEBOOKS]
    names += [f"data/tables/mine/{table}.parquet" for table in tables.WRITTEN_BY]
    start = time.time() - 1000
    for name in names:
        (root / name).touch()
    for file in root.rglob("*"):
        os.utime(file, (start, start))
    for number, name in enumerate([".stamps/env", *(f".stamps/mine/{name}" for name in NOTEBOOKS)]):
        (root / name).touch()
        os.utime(root / name, (start + number + 1, start + number + 1))
    return root


def would_run(root: Path) -> list[str]:
    """The notebooks that make would run, in order."""
    command = ["make", "--dry-run", "--no-print-directory", "EXPERIMENT=mine", LAST]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr
    return re.findall(r"hybridrec\.study run mine (\w+)", done.stdout)


def test_make_has_nothing_to_do_for_a_finished_study(finished):
    assert would_run(finished) == []


@pytest.mark.parametrize("table", tables.WRITTEN_BY)
def test_a_table_that_was_deleted_is_written_again_by_the_command_that_the_error_names(table, finished):
    (finished / "data" / "tables" / "mine" / f"{table}.parquet").unlink()
    assert would_run(finished) == [name for name in NOTEBOOKS if name >= tables.WRITTEN_BY[table]]


def test_the_results_of_a_notebook_that_were_deleted_are_made_again(finished):
    (finished / "results" / "mine" / "08_allocation.ipynb").unlink()
    assert would_run(finished) == ["08_allocation"]


def test_the_error_about_a_missing_table_names_that_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(tmp_path))
    with pytest.raises(errors.MissingTableError, match="make reproduce EXPERIMENT=mine"):
        tables.read("mine", "triage")
