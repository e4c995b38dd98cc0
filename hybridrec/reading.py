"""Tables from files as people have them: CSV, JSON lines, Parquet (a file, or a folder of them), Excel; packed or not.

What a file is, its first bytes say. Its name is not asked: exports are often called otherwise than they are.
"""

import bz2
import csv
import gzip
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.errors import DatasetError

_PACKED: dict[bytes, tuple[str, Callable[..., Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bz2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
# A joiner between letters of scripts that need it, or between the parts of an emoji, is no blemish.
_JOINER = "(?<![\u0600-\U0010ffff])[\u200c\u200d]|[\u200c\u200d](?![\u0600-\U0010ffff])"
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]|"
    + _JOINER
)


@dataclass(frozen=True)
class Rows:
    """A table before it is checked.

    Attributes:
        table: its rows, numbered from 0; names of columns are without blanks around them.
        name: what it is called in errors.
        places: for the number of a row, where it stands, such as "line 7".
        untyped: whether every value is text, as in a CSV file; ids and numbers have to be recognised then.
    """

    table: pd.DataFrame
    name: str
    places: Callable[[int], str] = lambda row: f"row {row + 1}"
    untyped: bool = False

    def at(self, row: int) -> str:
        """The table's name and the place of a row."""
        return f"{self.name}, {self.places(row)}"

    def text(self, column: str) -> pd.Series:
        """A column as text without blanks around it; "" where a value is missing, 7 (not 7.0) for a whole number."""
        values = self.table[column]
        if values.dtype == object:
            values = values.map(_joined)
        if not self.untyped:
            values = values.convert_dtypes().astype("string")
        return values.fillna("").astype("str").str.strip()

    def refuse(self, wrong: pd.Series, column: str, what: str) -> None:
        """Nothing if no row is wrong.

        Raises:
            DatasetError: names the place of the first wrong row, what stands there, and how many more there are.
        """
        if wrong.any():
            row, rest, kind = int(wrong.idxmax()), wrong.sum() - 1, "line" if self.untyped else "row"
            more, such = (f" (and {rest:,} more)", f"such {kind}s") if rest else ("", f"that {kind}")
            raise DatasetError(
                f"{self.at(row)}: {column} is {self.text(column)[row]!r}{more}, {what}. Fix or remove {such}."
            )


def _joined(value: Any) -> Any:
    """A list within JSON or Parquet, such as genres, as text; anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | np.ndarray) else value


def of(table: pd.DataFrame, name: str, untyped: bool = False, **places: Any) -> Rows:
    """Rows of a table: its index, where it has a name, becomes columns; names of columns lose blanks around them.

    Raises:
        DatasetError: two columns have the same name.
    """
    named = [one for one in table.index.names if one is not None and one not in table]
    table = table.reset_index(level=named).reset_index(drop=True) if named else table.reset_index(drop=True)
    names = [INVISIBLE.sub("", one).strip() if isinstance(one, str) else one for one in table.columns]
    twice = [one for at, one in enumerate(names) if one != "" and one in names[:at]]
    if twice:
        raise DatasetError(f"{name}: two columns are called {twice[0]!r}. Give each column a name of its own.")
    return Rows(table.set_axis(names, axis=1), name, untyped=untyped, **places)


def read(
    path: Path,
    separator: str = ",",
    encoding: str = "utf-8",
    quoting: bool | None = None,
    text: Sequence[str] | None = None,
) -> Rows:
    """The table in a file, or in a folder of Parquet files.

    Args:
        path: where it is; ~ is the home folder.
        separator, encoding, quoting: of CSV files, see ``csv_rows``.
        text: columns of a CSV file that stay text while others get the types that pandas finds; None: all stay text.

    Raises:
        DatasetError: not there, or not to be read (names the line where it can, and the remedy).
    """
    path = Path(path).expanduser()
    start = b"PAR1" if path.is_dir() else _first_bytes(path)  # a folder is one of Parquet files
    if start.startswith(b"PAR1") or path.suffix == ".parquet":
        return of(_parquet(path), path.name)
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return of(_excel(path), path.name, places=lambda row: f"row {row + 2}")
    if _unpacked_start(path).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return _json_rows(path, encoding)
    return csv_rows(path, separator, encoding, quoting, text)


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise DatasetError(f"{path.name}: there is no such file. Check the path.") from None
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror or error}.") from None


# --- text -------------------------------------------------------------------------------------------------------------


def _packing(path: Path) -> tuple[str | None, Callable[..., Any]]:
    """How a file is packed, in pandas' word, and what opens it."""
    start = _first_bytes(path)
    for magic, how in _PACKED.items():
        if start.startswith(magic):
            return how
    return None, open


def _torn(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path.name}: it is packed, and damaged or cut off ({error}). Write or fetch it again.")


_TORN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def _unpacked_start(path: Path) -> bytes:
    try:
        with _packing(path)[1](path, "rb") as file:
            return file.read(64)
    except _TORN as error:
        raise _torn(path, error) from None


def csv_rows(
    path: Path,
    separator: str = ",",
    encoding: str = "utf-8",
    quoting: bool | None = None,
    text: Sequence[str] | None = None,
    escape: str | None = None,
) -> Rows:
    """A CSV file with a header. A byte-order mark is no part of the first name; lines without anything are skipped.

    Args:
        path: the file, which may be packed by gzip, bzip2 or xz.
        separator: the field separator, one character.
        encoding: the text's encoding.
        quoting: whether a field may stand between double quotes. None: it may, and a quote that swallows rows is an
            error. False: a quote is a character like any other.
        text: as in ``read``.
        escape: a character that takes a quote's meaning away; a doubled quote always does.

    Raises:
        DatasetError: not there, unreadable encoding, empty, a line with too many fields, or a quote that is not closed
            before the next rows (names the line).
    """
    name, how = path.name, _packing(path)[0]
    style: dict[str, Any] = {"quoting": csv.QUOTE_NONE if quoting is False else csv.QUOTE_MINIMAL, "escapechar": escape}
    load = partial(pd.read_csv, path, sep=separator, encoding=encoding, compression=how, keep_default_na=False, **style)
    records = partial(_records, path, encoding, delimiter=separator, **style)

    def refused(said: str) -> DatasetError:
        several = next(((first, last) for first, last in records() if last > first), None)
        if "EOF inside string" in said and not several:
            *_, several = records()
        return _open_quote(name, *several) if several and quoting is None else DatasetError(f"{name}: {said}")

    types: dict[str, Any] = {"dtype": str}
    try:
        # The names are read as a row: pandas would call the second of two equal ones otherwise, without a word.
        header = load(header=None, nrows=1, dtype=str).iloc[0].fillna("").tolist()
        if text is not None:
            plain = [one for one in header if one.strip() in text]
            types = {"dtype": dict.fromkeys(plain, str), "na_values": {one: [""] for one in header if one not in plain}}
        table = load(**types)
    except LookupError:
        raise DatasetError(f"{name}: {encoding!r} is no encoding that Python knows. Try utf-8 or latin-1.") from None
    except UnicodeError:
        raise DatasetError(_undecodable(path, encoding)) from None
    except _TORN as error:
        raise _torn(path, error) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        said = " ".join(str(error).replace("Error tokenizing data. C error: ", "").split()).rstrip(".")
        raise refused(f"{said}. Fix that line, or name the file's separator.") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas has taken the fields before the last ones for an index
        raise refused("lines have more fields than the header has names. Fix the header or the lines.")

    def lines(row: int) -> tuple[int, int]:
        return next(lines for number, lines in enumerate(records(), -1) if number == row)

    swallows = _swallows(table, separator)
    if quoting is None and (swallows.any() or any("\n" in one for one in header)):
        raise _open_quote(name, *lines(int(swallows.idxmax()) if swallows.any() else -1))
    # A missing last field is NaN in spite of keep_default_na.
    table = table.fillna(dict.fromkeys(plain, "") if text is not None else "")
    return of(table.set_axis(header, axis=1), name, untyped=True, places=lambda row: f"line {lines(row)[0]}")


def _records(path: Path, encoding: str, **style: Any) -> Iterator[tuple[int, int]]:
    """First and last line of each record of a CSV file, the header included."""
    with _packing(path)[1](path, "rt", encoding=encoding, newline="") as file:
        reader, before = csv.reader(file, **style), 0
        try:
            for fields in reader:
                if len(fields) > 1 or any(map(str.strip, fields)):  # pandas skips lines without anything, too
                    yield before + 1, reader.line_num
                before = reader.line_num
        except csv.Error:  # a field longer than the module takes: the quote before it is never closed
            yield before + 1, reader.line_num


def _swallows(table: pd.DataFrame, separator: str) -> pd.Series:
    """Which rows have a field that holds rows: it has a row's separators for each line break (more if fields lack)."""
    found, last = pd.Series(False, table.index), table.iloc[:, -1]
    short = last.isna() | last.eq("")
    for number in range(len(table.columns)):
        values = table.iloc[:, number]
        if pd.api.types.is_string_dtype(values) and values.str.contains("\n", regex=False, na=False).any():
            breaks = values.str.count("\n").fillna(0)
            more = values.str.count(re.escape(separator)).fillna(0) - breaks * (len(table.columns) - 1)
            found |= (breaks > 0) & ((more == 0) | (more > 0) & short)
    return found


def _open_quote(name: str, first: int, last: int) -> DatasetError:
    return DatasetError(
        f"{name}, line {first}: a field there opens with a double quote that does not close before line {last} ends, "
        "so what follows would be no rows. Remove that quote; or set quoting = false where quotes are parts of the "
        "text, quoting = true where a field does have several lines."
    )


# --- JSON lines, Parquet, Excel ---------------------------------------------------------------------------------------


def _json_rows(path: Path, encoding: str) -> Rows:
    """One object a line; or one list of objects."""
    places: list[int] = []
    rows: list[Any] = []
    try:
        with _packing(path)[1](path, "rt", encoding="utf-8-sig" if encoding == "utf-8" else encoding) as file:
            text = file.read()
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    places.append(number)
                    rows.append(json.loads(line))
    except UnicodeError:
        raise DatasetError(_undecodable(path, encoding)) from None
    except _TORN as error:
        raise _torn(path, error) from None
    except ValueError as error:
        where = places[-1] if places else getattr(error, "lineno", 1)
        raise DatasetError(f"{path.name}, line {where}: no JSON ({error}). Fix or remove that line.") from None
    strange = next((row for row, one in enumerate(rows) if not isinstance(one, dict)), None)
    if strange is not None:
        raise DatasetError(
            f"{path.name}, row {strange + 1}: {str(rows[strange])[:40]!r} is no object with names. Write one object "
            'a line, such as {"user": 1, "item": 2, "rating": 5}.'
        )
    if places:
        return of(pd.DataFrame(rows), path.name, places=lambda row: f"line {places[row]}")
    return of(pd.DataFrame(rows), path.name)


def _parquet(path: Path) -> pd.DataFrame:
    """A Parquet file, or all those in a folder.

    Raises:
        DatasetError: none in the folder, no Parquet file, or a torn one.
    """
    if path.is_dir() and not any(path.rglob("*.parquet")):
        raise DatasetError(f"{path.name}: a folder without a .parquet file. Name the file that is meant.")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are these
        said = " ".join(str(error).replace(str(path), path.name).split())[:200].rstrip(".")
        raise DatasetError(f"{path.name}: no whole parquet file ({said}). Write or fetch it again.") from None


def _excel(path: Path) -> pd.DataFrame:
    try:
        return pd.read_excel(path, keep_default_na=False, na_values=[""])
    except ImportError:
        cause = "an Excel file, and the package openpyxl, which reads those, is not installed"
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        cause = f"a zip archive or an old Excel file that cannot be read ({str(error).rstrip('.')[:100]})"
    raise DatasetError(
        f"{path.name}: {cause}. Save the table as CSV (in Excel: Save As, CSV UTF-8), or unpack the archive, and name "
        "that file."
    )


def _undecodable(path: Path, encoding: str) -> str:
    """What to do about a text that is in another encoding, and the line on which it leaves the one expected."""
    with _packing(path)[1](path, "rb") as file:
        data = file.read()
    try:
        data.decode(encoding)
        line = 1
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    hint = ', "utf-16" by its first bytes' if wide else ' (Excel often writes "cp1252")'
    return f"{path.name}, line {line}: not {encoding} text. Convert it to UTF-8, or name its encoding{hint}."
