"""Real datasets by name, each in one canonical form (see ``sources.canonical``)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec.data.sources import book_crossing, movielens, own
from hybridrec.errors import DatasetError
from hybridrec.settings import check_name


@dataclass(frozen=True)
class Dataset:
    """A dataset in canonical form; ``source`` names the files it was read from."""

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    source: str


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
        return Dataset(name, *own.load(ratings, (*search, folder)))
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
