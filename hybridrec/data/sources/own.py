"""Ratings of one's own: tables or files with any column names, and titles. No code has to be changed."""

import bisect
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hybridrec import reading, schema
from hybridrec.data.sources.canonical import k_core
from hybridrec.data.sources.form import UNITS, Form, RatingsFile
from hybridrec.errors import DatasetError
from hybridrec.reading import INVISIBLE, Rows
from hybridrec.settings import checked

Found = tuple[pd.DataFrame, pd.DataFrame, str, tuple[str, ...]]


def settings(values: Mapping[str, Any]) -> RatingsFile:
    """The table [ratings], checked.

    Raises:
        DatasetError: an unknown, missing or mistyped key (names it, and lists the known ones), or a value out of range.
    """
    return checked(RatingsFile, values, "[ratings]", DatasetError)


def load(values: Mapping[str, Any], search: Sequence[Path]) -> Found:
    """What ``read`` gives, of the files that a table [ratings] names.

    Raises:
        DatasetError: a file, column or value that cannot be used (names it and the remedy).
    """
    wanted = settings(values)
    apart = wanted.items_file not in ("", wanted.file)
    return read(_find(wanted.file, search), _find(wanted.items_file, search) if apart else None, wanted)


def _find(name: str, search: Sequence[Path]) -> Path:
    """The file or folder, in the user's data folders or relative to the repository.

    Raises:
        DatasetError: it is in neither.
    """
    for folder in search:
        if (found := folder / Path(name).expanduser()).exists():
            return found
    raise DatasetError(
        f"[ratings]: there is no file {name!r}, in data/raw, in the repository or where HYBRIDREC_DATA points. Put it "
        "there, or give its whole path."
    )


def read(ratings: schema.Table, items: schema.Table | None, form: Form) -> Found:
    """Interactions, items, the tables' names, and notes: what was assumed, replaced or left out, counted.

    Users and items keep their ids: text, or whole numbers (in CSV if all of them are).

    Args:
        ratings: one row a rating, or a use; a DataFrame or a file.
        items: one row an item; None: the ratings hold the titles.
        form: how they are to be read.

    Raises:
        DatasetError: a file, column or value that cannot be used (names table, row and remedy).
    """
    notes: list[str] = []
    rows = _rows(ratings, form, "ratings")
    if rows.table.empty:
        raise DatasetError(f"{rows.name}: there is no rating in it. Is it the right table?")
    catalogue = rows if items is None else _rows(items, form, "items")
    table = pd.DataFrame({key: _ids(rows, form, key, notes) for key in ("user", "item")})
    table["rating"] = _ratings(rows, form, notes)
    if form.missing_ratings == "leave out" and (missing := table["rating"].isna()).any():
        notes.append(f"{rows.name}: {missing.sum():,} rows without a value of {form.rating} were left out.")
        table = table[~missing]
    table["timestamp"] = _times(rows, table.index, form, notes) if form.timestamp else 0
    titled = _items(catalogue, form, notes)
    # Where one of the tables has numbers alone and the other one text, both become text.
    titled["item"] = schema.like(titled["item"], table["item"])
    table["item"] = schema.like(table["item"], titled["item"])
    table = _summed(table) if form.feedback == "counts" else _rated_once(table, rows, form, notes)
    table, untitled = with_titles(table, titled["item"], catalogue.name, form)
    notes += untitled
    if form.core:
        table = _core(table, form, rows.name, notes)
        titled = titled[titled["item"].isin(table["item"])]
    if form.feedback == "counts":
        table = _likes_of_counts(table, notes)
    _tell_of_equal_titles(titled, catalogue.name, notes)
    source = rows.name if items is None else f"{rows.name} + {catalogue.name}"
    ordered = table.sort_values(["user", "item"], ignore_index=True)
    return ordered, titled.sort_values("item", ignore_index=True), source, tuple(dict.fromkeys(notes))


# --- columns ----------------------------------------------------------------------------------------------------------


def _rows(table: schema.Table, form: Form, what: str) -> Rows:
    if isinstance(table, pd.DataFrame):
        return reading.of(table, what)
    return reading.read(Path(table), form.separator, form.encoding, form.quoting)


def _column(rows: Rows, form: Form, key: str) -> str:
    """The name of the column that a key of the form names.

    Raises:
        DatasetError: there is none of that name (lists those there are, and names the key to set).
    """
    name = getattr(form, key) or form.item
    if name not in rows.table:
        there = rows.table.columns
        one = f" Or is {form.separator!r} not its separator?" if rows.untyped and len(there) == 1 else ""
        raise DatasetError(
            f"{rows.name}: no column {name!r}; it has {', '.join(map(str, there))}. Set {key!r}{form.where} to the "
            f"name that it has there.{one}"
        )
    return name


def _ids(rows: Rows, form: Form, key: str, notes: list[str]) -> pd.Series:
    """Users or items, as numbers or text."""
    name = _column(rows, form, key)
    ids = rows.text(name) if rows.untyped else rows.table[name]
    rows.refuse(rows.text(name) == "", name, "empty. Every row needs one")
    if rows.untyped:
        ids = schema.whole_numbers(ids)
    elif pd.api.types.is_float_dtype(ids) and (ids % 1 == 0).all():
        ids = ids.astype("int64")
    ids = schema.checked_ids(ids, rows.name)
    if not pd.api.types.is_integer_dtype(ids):
        strange = [one for one in ids.unique() if INVISIBLE.search(one)]
        if strange:
            notes.append(
                f"{rows.name}: {_some(strange)} of {name} have invisible characters. They are kept as they are."
            )
    return ids


def _some(values: Sequence[Any]) -> str:
    """How many, and one of them, with invisible characters shown by their codes."""
    return f"{len(values):,} values (such as {values[0]!a})"


def _ratings(rows: Rows, form: Form, notes: list[str]) -> pd.Series:
    """Ratings or counts as numbers, NaN where they are missing and that is allowed."""
    if not form.rating and form.feedback == "counts":
        return pd.Series(1.0, rows.table.index)
    name = _column(rows, form, "rating")
    text = rows.text(name)
    there = text != "" if form.missing_ratings == "leave out" else pd.Series(True, text.index)
    if form.likes:
        rows.refuse(there & (text == ""), name, f'empty. missing_ratings = "leave out"{form.where} would leave it out')
        return _from_likes(text.where(there), form, rows.name, name, notes)
    values = pd.to_numeric(text.str.replace(form.decimal, ".", regex=False), errors="coerce").astype("float64")
    wrong = there & ~values.between(-1e15, 1e15)
    if values.isna().all() and not text.str.contains(r"^\d+,\d+$").any():
        raise DatasetError(
            f"{rows.name}: {name} holds no number, but {_counted(text)}. Set likes{form.where} to a list of those that "
            'mean a like, as in likes = ["up", "true", 1].'
        )
    rows.refuse(
        wrong & (text == ""), name, f'not a number. missing_ratings = "leave out"{form.where} would leave it out'
    )
    rows.refuse(
        wrong & text.str.contains(r"^\d+,\d+$"), name, f'not a number with decimal = "{form.decimal}"{form.where}'
    )
    rows.refuse(wrong, name, "not a number")
    if form.feedback == "counts":
        rows.refuse(values <= 0, name, "no count of uses: it must be above 0")
    elif form.lowest is not None:
        rows.refuse(values < form.lowest, name, f"below lowest = {form.lowest:g}{form.where}")
    return values


def _counted(values: pd.Series) -> str:
    """The commonest values of a column, each with how often it occurs."""
    counts = values.value_counts()
    more = f" and {len(counts) - 8:,} others" if len(counts) > 8 else ""
    return ", ".join(f"{value!r} ({count:,})" for value, count in counts.head(8).items()) + more


def _from_likes(text: pd.Series, form: Form, file: str, name: str, notes: list[str]) -> pd.Series:
    """1 for a value that means a like, 0 for any other, NaN for none; what became what is noted.

    Raises:
        DatasetError: no value means a like (lists those there are).
    """
    liked = text.map(_plain, na_action="ignore").isin({_plain(one) for one in form.likes})
    if not liked.any():
        raise DatasetError(
            f"{file}: {name} has none of the values in likes, but {_counted(text)}. Set likes{form.where}."
        )
    others = text[~liked & text.notna()]
    told = f"{_counted(text[liked])} became 1, a like" + (f"; {_counted(others)} became 0" if len(others) else "")
    notes.append(f"{file}: {name}: {told}.")
    return liked.astype("float64").where(text.notna())


def _plain(value: Any) -> str:
    """A value for comparison: 1, "1" and 1.0 are the same, and so are true, "True" and "TRUE"."""
    text = INVISIBLE.sub("", str(value)).strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


# --- times ------------------------------------------------------------------------------------------------------------


def _times(rows: Rows, kept: pd.Index, form: Form, notes: list[str]) -> pd.Series:
    """Times of the rows that are kept, as whole seconds since 1970 (UTC); how they were understood is noted."""
    name = _column(rows, form, "timestamp")
    text = rows.text(name)[kept]
    there = text != ""
    dated = pd.api.types.is_datetime64_any_dtype(rows.table[name])
    if form.missing_times == "refuse":
        rows.refuse(~there, name, f'no time. missing_times = "oldest"{form.where} would make it older than all others')
    numbers = pd.to_numeric(text, errors="coerce")
    if form.time_format in UNITS or (not form.time_format and numbers.notna().any()):
        rows.refuse(there & ~numbers.between(-9.2e18, 9.2e18), name, "not a number, as other times are")
        unit = form.time_format or _unit(numbers.abs(), f"{rows.name}: {name}", form)
        seconds, how = np.floor(numbers / UNITS[unit]), f"numbers, taken as {unit} since 1970"
    else:
        pattern = "ISO8601" if dated or not form.time_format else form.time_format
        when = _parsed(text.where(there), pattern)
        given = f"of the form {pattern}" if form.time_format else "like 2024-05-31 or 2024-05-31T18:30:00"
        remedy = f'. Set time_format{form.where}, as in "%d.%m.%Y %H:%M"' if not form.time_format else ""
        rows.refuse(there & when.isna(), name, f"neither a number nor a date {given}{remedy}")
        seconds, how = (when - pd.Timestamp(0, tz="UTC")) // pd.Timedelta("1s"), "dates, taken as UTC without a zone"
    if there.any():
        first, last = (f"{pd.Timestamp(0) + pd.Timedelta(one, 's'):%Y-%m-%d}" for one in _ends(seconds))
        how += f", from {first} to {last}"
    if not there.all():
        how += f". {(~there).sum():,} rows have none and count as older than all others"
    notes.append(f"{rows.name}: {name}: {how}.")
    oldest = min(0.0, seconds.min() - 1) if there.any() else 0
    return seconds.astype("float64").fillna(oldest).astype("int64")


def _ends(seconds: pd.Series) -> tuple[float, float]:
    """The first and the last second, as far as a date can be told of them."""
    limit = 9.2e9  # pandas' clock in nanoseconds ends in 2262
    return max(seconds.min(), -limit), min(seconds.max(), limit)


def _parsed(text: pd.Series, pattern: str) -> pd.Series:
    try:
        return pd.to_datetime(text, format=pattern, utc=True, errors="coerce")
    except ValueError as error:
        raise DatasetError(f"time_format is {pattern!r}: {error}. Give it as for Python's strptime.") from None


def _unit(size: pd.Series, what: str, form: Form) -> str:
    """The unit of numbers of that size, if they are times of the last decades or the next.

    Raises:
        DatasetError: some are of one unit and some of another.
    """
    low, high = (
        "seconds" if one < 1e11 else list(UNITS)[1 + int(one >= 1e14) + int(one >= 1e17)]
        for one in (size.min(), size.max())
    )
    if low != high:
        raise DatasetError(
            f"{what} has numbers from {size.min():.0f} to {size.max():.0f}: some look like {low}, others like {high} "
            f"since 1970. Set time_format{form.where} to the unit, such as {high!r}."
        )
    return low


# --- one row a pair ---------------------------------------------------------------------------------------------------


def _rated_once(table: pd.DataFrame, rows: Rows, form: Form, notes: list[str]) -> pd.DataFrame:
    """The table with one row a pair: the newest, where that is allowed, and the last in the table of equally new ones.

    Raises:
        DatasetError: a pair that occurs twice (names both rows).
    """
    twice = table.duplicated(["user", "item"])
    if not twice.any():
        return table
    if form.duplicates == "newest":
        kept = table.sort_values("timestamp", kind="stable").drop_duplicates(["user", "item"], keep="last").sort_index()
        which = "newest" if form.timestamp else "last"
        notes.append(
            f"{rows.name}: {len(table) - len(kept):,} rows of a user and an item that are there again were left out; "
            f"the {which} of them counts."
        )
        return kept
    row = twice.idxmax()
    user, item = table.loc[row, ["user", "item"]]
    first = ((table["user"] == user) & (table["item"] == item)).idxmax()
    raise DatasetError(
        f"{rows.at(row)}: user {user!r} rated item {item!r} already on {rows.places(first)}{schema.and_more(twice)}. "
        f'Keep one of the lines; or set duplicates = "newest"{form.where}; or, if a row is a use and no rating, set '
        f'feedback = "counts" and rating = ""{form.where}.'
    )


def _summed(table: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: its counts added up, and the last time."""
    return table.groupby(["user", "item"], as_index=False, sort=False).agg({"rating": "sum", "timestamp": "max"})


# --- titles -----------------------------------------------------------------------------------------------------------

_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")


def _items(rows: Rows, form: Form, notes: list[str]) -> pd.DataFrame:
    """item, title, year, genres of the items that have a title; the first title of each counts."""
    ids = _ids(rows, form, "items_item", notes)
    items = pd.DataFrame({"item": ids, "title": _legible(rows, _column(rows, form, "title"), notes), "year": ""})
    items["genres"] = _legible(rows, _column(rows, form, "genres"), notes) if form.genres else ""
    items = items[items["title"] != ""]
    once = items.drop_duplicates("item")
    titles = items.drop_duplicates(["item", "title"]).groupby("item", sort=False).size()
    if several := titles[titles > 1].index.tolist():
        notes.append(
            f"{rows.name}: {len(several):,} items have several titles, such as {several[0]!r}. The first counts."
        )
    return once


def _legible(rows: Rows, name: str, notes: list[str]) -> pd.Series:
    """A column of text, HTML entities decoded, without invisible characters or blanks in a row; changes are noted."""
    text = rows.text(name)
    values = text.unique()
    decoded = {one: _decoded(one) for one in values}
    plain = {one: " ".join(INVISIBLE.sub("", decoded[one]).split()) for one in values}
    for what, changed in (
        ("HTML entities, which were decoded", [one for one in values if decoded[one] != one]),
        (
            "invisible characters or unusual blanks, which were taken out",
            [one for one in values if plain[one] != " ".join(re.split("[ \t]+", decoded[one]))],
        ),
    ):
        if changed:
            notes.append(f"{rows.name}: {_some(changed)} of {name} have {what}.")
    return text.map(plain)


def _decoded(text: str) -> str:
    """HTML entities as characters, also where they were encoded twice; without its semicolon nothing is an entity."""
    while (again := _ENTITY.sub(lambda found: html.unescape(found[0]), text)) != text:
        text = again
    return text


def _tell_of_equal_titles(items: pd.DataFrame, file: str, notes: list[str]) -> None:
    equal = items[items["title"].duplicated(keep=False)]
    if len(equal):
        title = equal["title"].iloc[0]
        ids = ", ".join(map(repr, equal.loc[equal["title"] == title, "item"].tolist()[:3]))
        notes.append(
            f"{file}: {len(equal):,} items share their title with another, such as {title!r} ({ids}). They are kept, "
            "but a language model cannot tell them apart."
        )


def with_titles(table: pd.DataFrame, titled: pd.Series, file: str, form: Form) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The ratings of items that have a title, and a note of those left out.

    A language model knows an item by its title alone. An item that one of the rankers compared cannot be asked about
    is no item of the study: it leaves the histories, the candidates and what recommenders learn from alike.

    Args:
        table: user, item, rating.
        titled: the items that have a title.
        file: where titles come from.
        form: its untitled_share is the largest share of the ratings that may be left out.

    Raises:
        DatasetError: more of them are of items without a title (names one, and what to do).
    """
    without = ~table["item"].isin(titled)
    if not without.any():
        return table, ()
    of_them, share = table.loc[without, "item"], without.mean()
    items, first = of_them.nunique(), of_them.head(1).tolist()[0]
    said = f"{items:,} of {table['item'].nunique():,} rated items have no title, such as {first!r}"
    if without.all():
        raise DatasetError(f"{file}: no rated item has a title. Is {first!r} called otherwise there, or the column?")
    if share > form.untitled_share:
        raise DatasetError(
            f"{file}: {said}. They have {share:.1%} of the ratings, and up to {form.untitled_share:.1%} may be left "
            "out. A language model knows an item by its title alone: add titles, or remove these ratings; or set "
            f"untitled_share = {np.ceil(share * 100) / 100:g}{form.where} to leave them out."
        )
    kept = table[~without]
    lost = table["user"].nunique() - kept["user"].nunique()
    note = f"{file}: {said}. Left out: {without.sum():,} ratings ({share:.1%}), and {lost} users who have no other."
    return kept, (note,)


def _core(table: pd.DataFrame, form: Form, file: str, notes: list[str]) -> pd.DataFrame:
    """Users and items with enough ratings; how many are left out is noted.

    Raises:
        DatasetError: none is left.
    """
    kept = k_core(table, form.core)
    if kept.empty:
        most = bisect.bisect_left(range(1, form.core), True, key=lambda k: k_core(table, k).empty)
        raise DatasetError(
            f"{file}: no rating is left with core = {form.core}: that leaves out users and items with fewer ratings "
            f"than {form.core}, over and over. Lower it to {most} or below."
        )
    lost = {key: table[key].nunique() - kept[key].nunique() for key in ("user", "item")}
    if len(kept) < len(table):
        told = f"{len(table) - len(kept):,} ratings, {lost['user']:,} users, {lost['item']:,} items"
        notes.append(f"{file}: core = {form.core} left out {told}.")
    return kept


# --- counts -----------------------------------------------------------------------------------------------------------


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
