"""Real datasets, each brought into one canonical form.

``interactions``: user, item, rating, timestamp; ``items``: item, title, year, genres. Both keyed by the dataset's ids.
"""

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hybridrec import paths
from hybridrec.downloads import File, Wheel, fetch_any


class DatasetError(ValueError):
    """A ratings or items file that cannot be read; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class Dataset:
    """A dataset in canonical form, with what a reader must know of it."""

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    noun: str
    source: str


# --- reading files strictly -----------------------------------------------------------------------------------------


def read_table(
    source: Path | bytes,
    columns: Sequence[str] | None,
    separator: str = "\t",
    encoding: str = "utf-8",
    name: str | None = None,
) -> pd.DataFrame:
    """Read delimited text as strings, refusing anything irregular.

    Args:
        source: a path, or the bytes of a file taken from an archive.
        columns: names of the columns of a file without header; None reads the header.
        separator: the field separator.
        encoding: the text's encoding.
        name: what to call the file in errors.

    Raises:
        DatasetError: unreadable encoding, or a line with too many or too few fields.
    """
    name = name or Path(source).name
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{name}, line {line}: not {encoding} text. Convert it to UTF-8, or name its encoding."
        ) from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines == [""]:
        raise DatasetError(f"{name}: the file is empty. Fetch it again.")
    fields = len(columns) if columns else len(lines[0].split(separator))
    for number, line in enumerate(lines, 1):
        if line.count(separator) != fields - 1:
            found = line.count(separator) + 1
            raise DatasetError(f"{name}, line {number}: {found} fields, expected {fields}. Mend or remove that line.")
    options = {"sep": separator, "dtype": str, "keep_default_na": False, "quoting": 3, "engine": "c"}
    header = {"header": None, "names": list(columns)} if columns else {}
    return pd.read_csv(io.StringIO("\n".join(lines)), **options, **header)


def column(table: pd.DataFrame, name: str, file: str) -> pd.Series:
    """A column of a table.

    Raises:
        DatasetError: there is none of that name (lists those there are).
    """
    if name not in table:
        raise DatasetError(f"{file}: no column {name!r}; it has {', '.join(map(str, table.columns))}.")
    return table[name]


def numbers(table: pd.DataFrame, name: str, file: str, header_lines: int = 0, whole: bool = False) -> pd.Series:
    """A column as numbers: integers if ``whole``, floats otherwise.

    Raises:
        DatasetError: the column is missing, or holds something that is not such a number (names the line).
    """
    text = column(table, name, file)
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    broken = ~values.between(-1e15, 1e15) | (whole & (values % 1 != 0))
    if broken.any():
        row = int(broken.to_numpy().argmax())
        raise DatasetError(
            f"{file}, line {row + 1 + header_lines}: {name} is {text.iloc[row]!r}, not a "
            f"{'whole ' if whole else ''}number. Mend or remove that line."
        )
    return values.astype("int64") if whole else values


def canonical_interactions(table: pd.DataFrame, name: str, header_lines: int = 0) -> pd.DataFrame:
    """user, item, rating, timestamp as numbers, sorted by (user, item).

    Raises:
        DatasetError: a missing column, a value that is no number, or a (user, item) pair rated twice.
    """
    keys = ("user", "item", "rating", "timestamp")
    interactions = pd.DataFrame({key: numbers(table, key, name, header_lines, key != "rating") for key in keys})
    twice = interactions.duplicated(["user", "item"])
    if twice.any():
        row = int(twice.to_numpy().argmax())
        user, item = interactions.loc[row, ["user", "item"]].astype(int)
        raise DatasetError(
            f"{name}, line {row + 1 + header_lines}: user {user} rated item {item} twice. Keep one of the lines."
        )
    return interactions.sort_values(["user", "item"], ignore_index=True)


# --- MovieLens 100K -------------------------------------------------------------------------------------------------

_ML100K_ZIP = File(
    name="ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
)
_RECBOLE = "recbole==1.2.1"
_ML100K_INTER = File(
    name="ml-100k.inter",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    wheel=Wheel(_RECBOLE, ("recbole/dataset_example/ml-100k/ml-100k.inter",)),
)
_ML100K_ITEM = File(
    name="ml-100k.item",
    sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    wheel=Wheel(_RECBOLE, ("recbole/dataset_example/ml-100k/ml-100k.item",)),
)
_ML100K_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
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


def read_ml100k_archive(archive: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
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


def read_ml100k_atomic(ratings: Path, items: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """MovieLens 100K in RecBole's atomic files (tab-separated, typed headers, titles without the year)."""
    rows = read_table(ratings, None).rename(columns=lambda c: c.split(":")[0].removesuffix("_id"))
    films = read_table(items, None).rename(columns=lambda c: c.split(":")[0])
    canonical = canonical_interactions(rows, ratings.name, header_lines=1)
    number = numbers(films, "item_id", items.name, header_lines=1, whole=True)
    title, year, genres = (column(films, name, items.name) for name in ("movie_title", "release_year", "class"))
    return canonical, _film_items(number, title, year, genres)


def load_ml100k() -> Dataset:
    """MovieLens 100K: 943 users, 1,682 films, 100,000 ratings (Harper & Konstan 2015)."""
    files = fetch_any([[_ML100K_ZIP], [_ML100K_INTER, _ML100K_ITEM]], paths.RAW, paths.data_folders())
    interactions, items = read_ml100k_archive(*files) if len(files) == 1 else read_ml100k_atomic(*files)
    return Dataset("ml-100k", interactions, items, "film", " + ".join(path.name for path in files))


LOADERS: dict[str, Callable[[], Dataset]] = {"ml-100k": load_ml100k}


def load(name: str) -> Dataset:
    """A dataset by name, fetched and verified if it is not here yet.

    Raises:
        DatasetError: unknown name (lists the known ones).
        DownloadError: the files could not be had or are not the right ones.
    """
    if name not in LOADERS:
        raise DatasetError(f"unknown dataset {name!r}. Known: {', '.join(LOADERS)}.")
    return LOADERS[name]()


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
