"""Datasets in one canonical form (see ``sources.canonical``): known ones by name, and ratings of one's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import schema
from hybridrec.data.sources import book_crossing, movielens, own
from hybridrec.data.sources.form import Form
from hybridrec.errors import DatasetError
from hybridrec.settings import check_name, checked


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

    @property
    def known_like(self) -> float:
        """``like``, where it has to be known.

        Raises:
            DatasetError: it is not.
        """
        if self.like is None:
            raise DatasetError(
                f"{self.name}: nothing says from which rating on an item is liked. Read the data with like=."
            )
        return self.like

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
        like: float | None = None,
        name: str = "mine",
        **form: Any,
    ) -> "Dataset":
        """Ratings of your own. Ids of users and items may be whole numbers or text, and are kept.

        Ratings of items without a title are left out, as a language model knows an item by its title alone. ``notes``
        says how many, and what else was assumed, replaced or left out.

        Args:
            ratings: one row a rating: a DataFrame, or the path of a file (CSV, JSON lines, Parquet, Excel).
            items: one row an item, with its title; None: the ratings have a column of titles.
            user, item, rating: names of the columns in ``ratings``; ``item`` also in ``items``.
            timestamp: the column in ``ratings`` with times; None: the order in time is not known.
            title, genres: names of the columns in ``items`` (in ``ratings``, without ``items``).
            like: a rating from here on means that the user likes the item; None: 1 where ``likes`` is given, else 4.
            name: what to call the dataset.
            form: what else is particular about the tables, such as ``likes=["up"]``, ``time_format="%d.%m.%Y"`` or
                ``duplicates="newest"`` (``sources.form.Form``).

        Raises:
            DatasetError: a missing file or column, ids that are neither whole numbers nor text, a pair rated twice, a
                rating that is no finite number, no rating that is a like or none that is not, more than a fifth of the
                ratings without a title (names the row and the remedy).
        """
        columns = {"user": user, "item": item, "rating": rating, "title": title}
        columns |= {"timestamp": timestamp or "", "genres": genres or ""}
        read = checked(Form, columns | form, "Dataset.read", DatasetError)
        interactions, catalogue, source, notes = own.read(ratings, items, read)
        if like is None:
            like = 1.0 if read.likes else 4.0
        _check_like(interactions["rating"], like, schema.called(ratings, "ratings"))
        return cls(name, interactions, catalogue, source, like, notes)


def _check_like(ratings: pd.Series, like: float, what: str) -> None:
    low, high = ratings.min(), ratings.max()
    if not low < like <= high:
        few = "no rating is a like" if high < like else "every rating is a like"
        raise DatasetError(
            f"{what}: {few} with like = {like:g}: ratings go from {low:g} to {high:g}. Set ``like`` above the lowest "
            "and up to the highest; where all ratings are the same, nothing tells what users like best."
        )


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
    return sparsity_of(interactions.groupby("user").size(), n_items)


def sparsity_of(rated: pd.Series, n_items: int) -> pd.Series:
    """``sparsity_index`` from how many items each user has rated, indexed by user."""
    return (1 - rated / n_items).rename("sparsity")
