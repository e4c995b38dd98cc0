"""Datasets in one canonical form (see ``sources.canonical``): known ones by name, and ratings of one's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.data.sources import book_crossing, movielens, own
from hybridrec.errors import DatasetError
from hybridrec.settings import check_name


@dataclass(frozen=True)
class Dataset:
    """Ratings and the items they are of.

    Attributes:
        name: what it is called.
        interactions: the ratings, sorted by user and item (``schema.RATINGS``).
        items: the catalogue, sorted by item (``schema.ITEMS``).
        source: the files it was read from.
        like: a rating from here on means that the user likes the item; None where an experiment's settings say it.
        notes: what was left out or assumed, a sentence each.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    source: str
    like: float | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        ratings: schema.Table,
        items: schema.Table | None = None,
        *,
        user: str = "user",
        item: str = "item",
        rating: str = "rating",
        timestamp: str | None = None,
        title: str = "title",
        genres: str | None = None,
        like: float = 4.0,
        name: str = "mine",
    ) -> "Dataset":
        """Ratings of your own. Ids of users and items may be whole numbers or text, and are kept.

        Ratings of items without a title are left out, as a language model knows an item by its title alone; ``notes``
        says how many.

        Args:
            ratings: one row a rating: a DataFrame, or the path of a .csv or .parquet file.
            items: one row an item, with its title; None: the ratings have a column of titles.
            user, item, rating: names of the columns in ``ratings``; ``item`` also in ``items``.
            timestamp: the column in ``ratings`` with seconds since 1970 (UTC), or dates; None: the order in time is not
                known.
            title, genres: names of the columns in ``items`` (in ``ratings``, without ``items``).
            like: a rating from here on means that the user likes the item.
            name: what to call the dataset.

        Raises:
            DatasetError: a missing file or column, ids that are neither whole numbers nor text, a pair rated twice, a
                rating that is no finite number, no rating that is a like or none that is not, more than a fifth of the
                ratings without a title (names the row and the remedy).
        """
        wanted = [user, item, rating, *([timestamp] if timestamp else [])]
        what = schema.called(ratings, "ratings")
        text = [title, *([genres] if genres else [])]
        table = schema.read(ratings, wanted, what, ids=(user, item), text=text, unique=(user, item))
        if table.empty:
            raise DatasetError(f"{what}: there is no rating in it. Is it the right table?")
        when = _seconds(table, timestamp, what) if timestamp else 0
        interactions = pd.DataFrame(
            {"user": table[user], "item": table[item], "rating": schema.finite(table, rating, what), "timestamp": when}
        )
        _check_like(interactions["rating"], like, what)
        if items is None:
            titles, catalogue = what, schema.read(table, text, what, ids=()).drop_duplicates(item)
        else:
            titles = schema.called(items, "items")
            catalogue = schema.read(items, [item, *text], titles, ids=(item,), text=text, unique=(item,))
        catalogue = _catalogue(catalogue, item, title, genres)
        # Where one of the tables has numbers alone and the other one text, both become text.
        catalogue = catalogue.assign(item=schema.like(catalogue["item"], interactions["item"]))
        interactions = interactions.assign(item=schema.like(interactions["item"], catalogue["item"]))
        interactions, notes = own.with_titles(interactions, catalogue["item"], titles, _UNTITLED)
        source = what if items is None else f"{what} + {titles}"
        ordered = interactions.sort_values(["user", "item"], ignore_index=True)
        return cls(name, ordered, catalogue.sort_values("item", ignore_index=True), source, like, notes)


_UNTITLED = 0.2  # the largest share of the ratings that may be of items without a title


def _seconds(table: pd.DataFrame, name: str, what: str) -> pd.Series:
    """A column of numbers, or of dates and times (UTC where they name no zone), as whole seconds since 1970."""
    if pd.api.types.is_numeric_dtype(table[name]):
        return np.floor(schema.finite(table, name, what)).astype("int64")
    when = pd.to_datetime(table[name], format="ISO8601", utc=True, errors="coerce")
    if when.isna().any():
        row, there = schema.first(table, when.isna())
        raise DatasetError(
            f"{what}, row {row}: {name} is {there[name]!r}, neither a number nor a date like 2024-05-31T18:30:00"
            f"{schema.and_more(when.isna())}. Fix or remove such rows."
        )
    return (when - pd.Timestamp(0, tz="UTC")) // pd.Timedelta("1s")


def _check_like(ratings: pd.Series, like: float, what: str) -> None:
    low, high = ratings.min(), ratings.max()
    if not low < like <= high:
        few = "no rating is a like" if high < like else "every rating is a like"
        raise DatasetError(
            f"{what}: {few} with like = {like:g}: ratings go from {low:g} to {high:g}. Set ``like`` above the lowest "
            "and up to the highest; where all ratings are the same, nothing tells what users like best."
        )


def _catalogue(table: pd.DataFrame, item: str, title: str, genres: str | None) -> pd.DataFrame:
    """item, title, year and genres of the items that have a title."""
    titles = table[title].fillna("").astype(str).str.strip()
    named = table[genres].fillna("").astype(str).str.strip() if genres else ""
    items = pd.DataFrame({"item": table[item], "title": titles, "year": "", "genres": named})
    return items[items["title"] != ""]


LOADERS: dict[str, Callable[[Path, Sequence[Path]], tuple[pd.DataFrame, pd.DataFrame, str]]] = {
    "ml-100k": movielens.load_ml100k,
    "ml-1m": movielens.load_ml1m,
    "ml-latest-small-2016": movielens.load_latest_small,
    "book-crossing": book_crossing.load,
}


def load(name: str, ratings: Mapping[str, Any] | None = None, *, folder: Path, search: Sequence[Path] = ()) -> Dataset:
    """A dataset by name, fetched and verified if it is not here yet; or a ratings file of one's own.

    Args:
        name: a key of LOADERS, or, with ``ratings``, any name that none of them has.
        ratings: where one's own ratings lie (``sources.own.RatingsFile``), the table [ratings] of an experiment.
        folder: where files are, or are fetched to.
        search: folders looked in before.

    Raises:
        DatasetError: unknown name (lists the known ones), or a file that cannot be read.
        SettingError: a name that cannot be part of a path.
        DownloadError: the files could not be had or are not the right ones.
    """
    if ratings is not None:
        if name in LOADERS:
            raise DatasetError(f"{name!r} is a dataset of this repository: give the one in [ratings] another name.")
        check_name("dataset", name)
        interactions, items, source, notes = own.load(ratings, (*search, folder))
        return Dataset(name, interactions, items, source, notes=notes)
    if name not in LOADERS:
        raise DatasetError(
            f"unknown dataset {name!r}. Known: {', '.join(LOADERS)}. Ratings of your own need a table [ratings]: "
            "docs/own-ratings.md."
        )
    return Dataset(name, *LOADERS[name](folder, search))


def sparsity_index(interactions: pd.DataFrame, n_items: int) -> pd.Series:
    """S_I(u) = 1 - |R_u| / |I|: the share of the catalogue that a user has *not* rated.

    Args:
        interactions: the ratings counted, with column user.
        n_items: catalogue size |I|.

    Returns:
        One value a user, indexed by user, in [0, 1].

    Source: Kaur & Shah 2024, section 3.1. The paper prints |R_u|/|I|, then uses it the other way round.
    """
    return (1 - interactions.groupby("user").size() / n_items).rename("sparsity")
