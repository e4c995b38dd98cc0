"""Ratings of one's own: a text file with any column names, and a file of titles. No code has to be changed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import paths
from hybridrec.sources.canonical import DatasetError, canonical_interactions, column, k_core, read_quoted


@dataclass(frozen=True)
class RatingsFile:
    """The table [ratings] of an experiment file. Paths are relative to the repository, or to HYBRIDREC_DATA.

    Attributes:
        file: the ratings, one a line, with a header.
        items_file: the items, one a line, with a header; may be ``file`` itself if that carries the titles.
        user, item, rating, timestamp: names of the columns; timestamp "" if there is none.
        items_item: the item's column in ``items_file``; "" if it is called as in ``file``.
        title, genres: columns of ``items_file``; genres "" if there is none.
        separator, encoding: of both files.
        core: users and items with fewer ratings are left out, over and over until none is left.
    """

    file: str
    items_file: str
    user: str = "user"
    item: str = "item"
    rating: str = "rating"
    timestamp: str = ""
    items_item: str = ""
    title: str = "title"
    genres: str = ""
    separator: str = ","
    encoding: str = "utf-8"
    core: int = 1


def settings(values: Mapping[str, Any]) -> RatingsFile:
    """The table [ratings], checked.

    Raises:
        DatasetError: an unknown, missing or mistyped key (names it, and lists the known ones).
    """
    known = {one.name: one.type for one in fields(RatingsFile)}
    for key, value in values.items():
        if key not in known:
            raise DatasetError(f"[ratings]: unknown key {key!r}. Known: {', '.join(known)}.")
        if type(value) is not known[key]:
            raise DatasetError(f"[ratings]: {key} is {value!r}; it must be a {known[key].__name__}.")
    for key in ("file", "items_file"):
        if key not in values:
            raise DatasetError(f"[ratings]: missing key {key!r}.")
    return RatingsFile(**values)


def load(values: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Interactions, items and the files' names.

    Users and items may be called anything: they get the numbers of their places in sorted order.

    Raises:
        DatasetError: a file, column or value that cannot be used (names it and the remedy).
    """
    wanted = settings(values)
    rows = read_quoted(_find(wanted.file), wanted.separator, wanted.encoding)
    catalogue = read_quoted(_find(wanted.items_file), wanted.separator, wanted.encoding)
    name, titles = Path(wanted.file).name, Path(wanted.items_file).name
    item_name = column(rows, wanted.item, name)
    item = _numbered(item_name)
    table = pd.DataFrame(
        {
            "user": column(rows, wanted.user, name).map(_numbered(rows[wanted.user])),
            "item": item_name.map(item),
            "rating": column(rows, wanted.rating, name),
            "timestamp": column(rows, wanted.timestamp, name) if wanted.timestamp else 0,
        }
    )
    ratings = k_core(canonical_interactions(table, name, header_lines=1), wanted.core)
    if ratings.empty:
        raise DatasetError(f"{name}: no rating is left with core = {wanted.core}. Lower it.")
    names = column(catalogue, wanted.items_item or wanted.item, titles)
    items = pd.DataFrame(
        {
            "item": names.map(item),
            "title": column(catalogue, wanted.title, titles).str.strip(),
            "year": "",
            "genres": column(catalogue, wanted.genres, titles) if wanted.genres else "",
        }
    )
    items = items[items["item"].isin(ratings["item"]) & (items["title"] != "")].drop_duplicates("item")
    untitled = sorted(set(ratings["item"]) - set(items["item"]))
    if untitled:
        first = item.index[item == untitled[0]][0]
        raise DatasetError(
            f"{titles}: {len(untitled)} rated items have no title there, the first is {first!r}. A language model "
            "knows an item by its title alone: add the titles, or leave out these items' ratings."
        )
    items = items.astype({"item": "int64"}).sort_values("item", ignore_index=True)
    return ratings, items, f"{name} + {titles}"


def _numbered(names: pd.Series) -> pd.Series:
    """Numbers from 1 of the distinct names, by their sorted order; names that are all whole numbers keep theirs."""
    distinct = pd.Series(names.unique())
    if distinct.str.fullmatch(r"[0-9]{1,15}").all() and distinct.astype("int64").is_unique:
        return pd.Series(distinct.astype("int64").to_numpy(), index=distinct)
    distinct = distinct.sort_values()
    return pd.Series(range(1, len(distinct) + 1), index=distinct)


def _find(name: str) -> Path:
    """The file, in the user's data folders or relative to the repository.

    Raises:
        DatasetError: it is in neither.
    """
    for folder in (*paths.data_folders(), paths.ROOT):
        if (folder / name).is_file():
            return folder / name
    raise DatasetError(f"[ratings]: there is no file {name!r}, in the repository or where HYBRIDREC_DATA points.")
