"""Book-Crossing: explicit ratings of books from 1 to 10 (Ziegler et al. 2005), and the core that the paper used."""

import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hybridrec import reading
from hybridrec.data.sources.canonical import canonical_interactions, column, k_core, numbers
from hybridrec.errors import DatasetError
from hybridrec.files import shown

CORE = 5
_FOLDERS = ("book-crossing", "BX-CSV-Dump")
_RATINGS, _BOOKS = "BX-Book-Ratings.csv", "BX-Books.csv"
# The copy behind the committed results. Another copy is no error (there is no official one any more), but other data.
_SHA256 = {
    _RATINGS: "0b95b6bedf4a2e019886d84e415c6abf72cf01d7b4386cd9ec275a04646e0226",
    _BOOKS: "4cc7bad89bb7bbfe68ad3b4f8c560a2377a1888322288f7eb01b2bcb8360ae38",
}


def find_folder(folder: Path, search: Sequence[Path] = ()) -> Path:
    """The folder that holds the CSV dump.

    Raises:
        DatasetError: there is none (says where it was looked for and what to put there).
    """
    looked = [place / name for place in (*search, folder) for name in _FOLDERS]
    for found in looked:
        if (found / _RATINGS).is_file() and (found / _BOOKS).is_file():
            return found
    raise DatasetError(
        f"Book-Crossing cannot be fetched: its host is gone. Put {_RATINGS} and {_BOOKS} of the dump BX-CSV-Dump into "
        f"{shown(looked[-2])}, or set HYBRIDREC_DATA to the folder that holds {_FOLDERS[0]}/."
    )


def read_dump(folder: Path, core: int = CORE) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Explicit ratings of books that have a title, cut to the ``core`` (5 comes closest to the paper's counts).

    A rating of 0 in the dump means "read, not rated" and is left out. An ISBN becomes the number of its place among
    the sorted ISBNs of the books file. Titles read "Title by Author", as the author is how a book is told apart.
    """
    books = _read(folder / _BOOKS)
    books = books.drop_duplicates("ISBN").sort_values("ISBN", ignore_index=True)
    number = pd.Series(range(1, len(books) + 1), index=column(books, "ISBN", _BOOKS))
    rows = _read(folder / _RATINGS)
    rating = numbers(rows, "Book-Rating", _RATINGS, header_lines=1)
    known = (rating > 0) & column(rows, "ISBN", _RATINGS).isin(number.index)
    user = numbers(rows, "User-ID", _RATINGS, header_lines=1, whole=True)
    table = pd.DataFrame({"user": user, "item": rows["ISBN"].map(number), "rating": rating, "timestamp": 0})[known]
    ratings = k_core(canonical_interactions(table.reset_index(drop=True), _RATINGS, header_lines=1), core)
    return ratings, _items(books[number.isin(ratings["item"].unique()).to_numpy()], number)


def load(folder: Path, search: Sequence[Path] = ()) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Book-Crossing's 5-core: 6,564 users, 8,771 books, 110,501 ratings in the copy behind the committed results."""
    folder = find_folder(folder, search)
    same = all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == known for name, known in _SHA256.items())
    note = "the copy behind the committed results" if same else "ANOTHER copy than that of the committed results"
    return *read_dump(folder), f"{_RATINGS} + {_BOOKS}, {note}"


def _read(path: Path) -> pd.DataFrame:
    """The dump is latin-1; copies of it were converted. Text that is valid UTF-8 by chance is hardly possible."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return reading.csv_rows(path, ";", "latin-1", quoting=True, escape="\\").table
    return reading.csv_rows(path, ";", quoting=True, escape="\\").table


def _items(books: pd.DataFrame, number: pd.Series) -> pd.DataFrame:
    title = column(books, "Book-Title", _BOOKS).map(_clean)
    author = column(books, "Book-Author", _BOOKS).map(_clean)
    year = column(books, "Year-Of-Publication", _BOOKS).where(lambda text: text.str.fullmatch("[12][0-9]{3}"), "")
    full = title.where(author == "", title + " by " + author)
    items = pd.DataFrame({"item": books["ISBN"].map(number), "title": full, "year": year, "genres": ""})
    return items.sort_values("item", ignore_index=True)


def _clean(text: str) -> str:
    """A title without the dump's broken escapes: entities resolved, quotes and backslashes dropped."""
    return " ".join(html.unescape(text).replace('"', "").replace("\\", "").split())
