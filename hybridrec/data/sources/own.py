"""Ratings of one's own: a CSV or parquet file with any column names, and titles. No code has to be changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from hybridrec import schema
from hybridrec.data.sources.canonical import k_core, numbers, read_parquet, read_quoted
from hybridrec.errors import DatasetError
from hybridrec.settings import Settings, checked

Character = Annotated[str, Field(min_length=1, max_length=1, description="one character")]


class RatingsFile(Settings):
    """The table [ratings] of an experiment file. Paths are relative to the repository, or to HYBRIDREC_DATA.

    Attributes:
        file: the ratings, one a row: CSV with a header, or .parquet.
        items_file: the items, one a row, in either form; "" if ``file`` itself carries the titles.
        user, item, rating, timestamp: names of the columns; timestamp "" if there is none.
        items_item: the item's column in ``items_file``; "" if it is called as in ``file``.
        title, genres: columns of ``items_file``; genres "" if there is none.
        separator, encoding: of CSV files.
        decimal: what stands before the tenths of a rating.
        feedback: "ratings", or "counts" of use: a pair's rows are summed, and ``from_counts`` makes ratings of them.
            ``rating`` is then the column with the count; "" if each row is one use.
        lowest: the lowest rating of the scale; the highest is the experiment's rating_scale.
        untitled_share: up to this share of the ratings may be of items without a title. They are left out.
        core: users and items with fewer ratings are left out, over and over until none is left.
    """

    file: str
    items_file: str = ""
    user: str = "user"
    item: str = "item"
    rating: str = "rating"
    timestamp: str = ""
    items_item: str = ""
    title: str = "title"
    genres: str = ""
    separator: Character = ","
    encoding: str = "utf-8"
    decimal: Character = "."
    feedback: Literal["ratings", "counts"] = Field("ratings", description='"ratings" or "counts"')
    lowest: float = Field(0.0, ge=-1e6, le=1e6)
    untitled_share: float = Field(0.2, ge=0, le=1)
    core: int = Field(1, ge=1, le=1_000_000)


def settings(values: Mapping[str, Any]) -> RatingsFile:
    """The table [ratings], checked.

    Raises:
        DatasetError: an unknown, missing or mistyped key (names it, and lists the known ones), or a value out of range.
    """
    return checked(RatingsFile, values, "[ratings]", DatasetError)


def load(values: Mapping[str, Any], search: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame, str, tuple[str, ...]]:
    """Interactions, items, the files' names, and notes: what had to be left out, counted.

    Users and items keep their ids: numbers if all are whole numbers, text otherwise.

    Raises:
        DatasetError: a file, column or value that cannot be used (names it and the remedy).
    """
    wanted = settings(values)
    own_titles = wanted.items_file in ("", wanted.file)
    rows, name, header = _read(wanted.file, wanted, search)
    catalogue, titles, _ = (rows, name, header) if own_titles else _read(wanted.items_file, wanted, search)
    table = _rows(rows, wanted, name, header)
    table = _summed(table) if wanted.feedback == "counts" else _rated_once(table, name, header)
    items = _items(catalogue, wanted, titles)
    notes: list[str] = []
    table, untitled = with_titles(table, items["item"], titles, wanted.untitled_share)
    table = _core(table, wanted.core, name, notes)
    if wanted.feedback == "counts":
        table = _likes_of_counts(table, notes)
    items = items[items["item"].isin(table["item"])]
    table = table.assign(user=schema.whole_numbers(table["user"]), item=schema.whole_numbers(table["item"]))
    items = items.assign(item=items["item"].astype(table["item"].dtype)).sort_values("item", ignore_index=True)
    ratings = table.sort_values(["user", "item"], ignore_index=True)
    return ratings, items, name if own_titles else f"{name} + {titles}", (*untitled, *notes)


# --- reading --------------------------------------------------------------------------------------------------------


def _read(file: str, wanted: RatingsFile, search: Sequence[Path]) -> tuple[pd.DataFrame, str, int]:
    """A file's rows as text, its name, and how many lines of it are a header."""
    found = _find(file, search)
    if found.suffix == ".parquet":
        return read_parquet(found), found.name, 0
    return read_quoted(found, wanted.separator, wanted.encoding), found.name, 1


def _find(name: str, search: Sequence[Path]) -> Path:
    """The file, in the user's data folders or relative to the repository.

    Raises:
        DatasetError: it is in neither.
    """
    for folder in search:
        if (folder / name).is_file():
            return folder / name
    raise DatasetError(
        f"[ratings]: there is no file {name!r}, in data/raw, in the repository or where HYBRIDREC_DATA points. Put it "
        "there, or give its whole path."
    )


def _column(rows: pd.DataFrame, wanted: RatingsFile, key: str, file: str) -> pd.Series:
    """The column that a key of [ratings] names, without spaces around its values.

    Raises:
        DatasetError: there is none of that name (lists those there are, and names the key to set).
    """
    name = getattr(wanted, key) or wanted.item
    if name not in rows:
        one = f" Or is {wanted.separator!r} not its separator?" if len(rows.columns) == 1 else ""
        raise DatasetError(
            f"{file}: no column {name!r}; it has {', '.join(map(str, rows.columns))}. Set {key!r} in [ratings] to the "
            f"name that it has in the file.{one}"
        )
    return rows[name].str.strip()


def _rows(rows: pd.DataFrame, wanted: RatingsFile, name: str, header: int) -> pd.DataFrame:
    """user and item (as named in the file), rating and timestamp (as numbers), one row a row of the file."""
    if rows.empty:
        raise DatasetError(f"{name}: there is no row under the header. Is it the right file?")
    columns: dict[str, Any] = {}
    for key in ("user", "item"):
        columns[key] = _column(rows, wanted, key, name)
        _refuse(columns[key] == "", rows[getattr(wanted, key)], "empty. Every row needs one", name, header)
    if wanted.rating or wanted.feedback == "ratings":
        text = _column(rows, wanted, "rating", name).str.replace(wanted.decimal, ".", regex=False)
        columns["rating"] = numbers(text.to_frame(), wanted.rating, name, header)
        if wanted.feedback == "counts":
            wrong, what = columns["rating"] <= 0, "no count of uses: it must be above 0"
        else:
            wrong, what = columns["rating"] < wanted.lowest, f"below lowest = {wanted.lowest:g} of [ratings]"
        _refuse(wrong, rows[wanted.rating], what, name, header)
    else:
        columns["rating"] = 1.0
    columns["timestamp"] = _seconds(_column(rows, wanted, "timestamp", name), name, header) if wanted.timestamp else 0
    return pd.DataFrame(columns)


def _refuse(wrong: pd.Series, text: pd.Series, what: str, file: str, header: int) -> None:
    """Raise a DatasetError that names the first row for which ``wrong`` is true."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DatasetError(
            f"{file}, line {row + 1 + header}: {text.name} is {text.iloc[row]!r}, {what}. Fix or remove that line."
        )


def _seconds(text: pd.Series, file: str, header: int) -> pd.Series:
    """Timestamps as whole numbers: numbers as they are, dates and times of ISO 8601 as seconds since 1970 (UTC)."""
    if pd.to_numeric(text, errors="coerce").notna().any():
        return np.floor(numbers(text.to_frame(), str(text.name), file, header)).astype("int64")
    when = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    _refuse(when.isna(), text, "neither a number nor a date like 2024-05-31 or 2024-05-31T18:30:00", file, header)
    return (when - pd.Timestamp(0, tz="UTC")) // pd.Timedelta("1s")


def _rated_once(table: pd.DataFrame, file: str, header: int) -> pd.DataFrame:
    """The table itself.

    Raises:
        DatasetError: a pair that occurs twice (names both lines).
    """
    twice = table.duplicated(["user", "item"]).to_numpy()
    if twice.any():
        row = int(twice.argmax())
        user, item = table.loc[row, ["user", "item"]]
        first = int(((table["user"] == user) & (table["item"] == item)).to_numpy().argmax())
        raise DatasetError(
            f"{file}, line {row + 1 + header}: user {user!r} rated item {item!r} already on line {first + 1 + header}. "
            'Keep one of the lines; or, if a row is a use and no rating, set feedback = "counts" and rating = "" in '
            "[ratings]."
        )
    return table


def _summed(table: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: its counts added up, and the last time."""
    return table.groupby(["user", "item"], as_index=False, sort=False).agg({"rating": "sum", "timestamp": "max"})


# --- titles ---------------------------------------------------------------------------------------------------------


def _items(catalogue: pd.DataFrame, wanted: RatingsFile, file: str) -> pd.DataFrame:
    """item (as named in the file), title, year, genres of the items that have a title; the first row of each counts."""
    items = pd.DataFrame(
        {
            "item": _column(catalogue, wanted, "items_item", file),
            "title": _column(catalogue, wanted, "title", file),
            "year": "",
            "genres": _column(catalogue, wanted, "genres", file) if wanted.genres else "",
        }
    )
    return items[items["title"] != ""].drop_duplicates("item")


def with_titles(table: pd.DataFrame, titled: pd.Series, file: str, most: float) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The ratings of items that have a title, and a note of those left out.

    A language model knows an item by its title alone. An item that one of the rankers compared cannot be asked about
    is no item of the study: it leaves the histories, the candidates and what recommenders learn from alike.

    Args:
        table: user, item, rating.
        titled: the items that have a title.
        file: where titles come from.
        most: the largest share of the ratings that may be left out.

    Raises:
        DatasetError: more of them are of items without a title (names one, and what to do).
    """
    without = ~table["item"].isin(titled)
    if not without.any():
        return table, ()
    items, share, first = table.loc[without, "item"].nunique(), without.mean(), table.loc[without, "item"].iloc[0]
    said = f"{items:,} of {table['item'].nunique():,} rated items have no title, such as {first!r}"
    if without.all():
        raise DatasetError(f"{file}: no rated item has a title. Is {first!r} called otherwise there, or the column?")
    if share > most:
        raise DatasetError(
            f"{file}: {said}. They have {share:.1%} of the ratings, and up to {most:.1%} may be left out. A language "
            "model knows an item by its title alone: add titles, or remove these ratings. An experiment may set "
            f"untitled_share = {np.ceil(share * 100) / 100:g} in [ratings] to leave them out."
        )
    kept = table[~without]
    lost = table["user"].nunique() - kept["user"].nunique()
    note = f"{file}: {said}. Left out: {without.sum():,} ratings ({share:.1%}), and {lost} users who have no other."
    return kept, (note,)


def _core(table: pd.DataFrame, core: int, file: str, notes: list[str]) -> pd.DataFrame:
    """Users and items with enough ratings; how many are left out is noted.

    Raises:
        DatasetError: none is left.
    """
    kept = k_core(table, core)
    if kept.empty:
        raise DatasetError(f"{file}: no rating is left with core = {core}. Lower it.")
    lost = {key: table[key].nunique() - kept[key].nunique() for key in ("user", "item")}
    if len(kept) < len(table):
        told = f"{len(table) - len(kept):,} ratings, {lost['user']:,} users, {lost['item']:,} items"
        notes.append(f"{file}: core = {core} left out {told}.")
    return kept


# --- counts ---------------------------------------------------------------------------------------------------------


def from_counts(counts: pd.Series, users: pd.Series) -> pd.Series:
    """Ratings from 1 to 5 that say how often a user took an item, measured by that user's own median item.

    Args:
        counts: how often, above 0; one value a (user, item).
        users: whose count it is.

    Returns:
        For a count c and the user's median m: 1 + 2 c/m up to the median (so 3 at the median, 2 at half of it), and
        5 - m/c above it (4 from there on, 4.5 at twice the median). More uses are always a higher rating.

    A like (from 4) is an item taken more often than the median one. Not "as often": most counts are 1, and whoever
    has mostly ones would then like everything.
    """
    ratio = counts / counts.groupby(users).transform("median")
    return (1 + 2 * ratio).where(ratio <= 1, 5 - 1 / ratio)


def _likes_of_counts(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    rated = table.assign(rating=from_counts(table["rating"], table["user"]))
    most = rated.groupby("user")["rating"].max()
    notes.append(
        "Counts became ratings: 3 is a user's median item, from 4 on it was taken more often. "
        f"{(most < 4).sum():,} of {len(most):,} users took none more often than their median: they have no like."
    )
    return rated
