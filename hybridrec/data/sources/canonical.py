"""The one form in which every dataset is used, and strict reading of text files into it.

``interactions``: user, item, rating, timestamp; ``items``: item, title, year, genres. Ids are whole numbers, or text in
ratings of one's own.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec.errors import DatasetError


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
    name = name or ("" if isinstance(source, bytes) else source.name)
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{name}, line {number}: not {encoding} text. Convert it to UTF-8, or name its encoding."
        ) from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines == [""]:
        raise DatasetError(f"{name}: the file is empty. Fetch it again.")
    fields = len(columns) if columns else len(lines[0].split(separator))
    for number, line in enumerate(lines, 1):
        if line.count(separator) != fields - 1:
            found = line.count(separator) + 1
            raise DatasetError(f"{name}, line {number}: {found} fields, expected {fields}. Fix or remove that line.")
    # pandas takes separators of one character only; the unit separator stands in no text file.
    one = separator if len(separator) == 1 else "\x1f"
    text = "\n".join(lines).replace(separator, one)
    header: dict[str, Any] = {"header": None, "names": list(columns)} if columns else {}
    return pd.read_csv(io.StringIO(text), sep=one, dtype=str, keep_default_na=False, quoting=3, engine="c", **header)


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
            f"{'whole ' if whole else ''}number. Fix or remove that line."
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


def k_core(interactions: pd.DataFrame, k: int) -> pd.DataFrame:
    """The largest part in which every user and every item has at least ``k`` ratings."""
    while True:
        kept = interactions
        for key in ("user", "item"):
            kept = kept[kept.groupby(key)[key].transform("size") >= k]
        if len(kept) == len(interactions):
            return kept.reset_index(drop=True)
        interactions = kept
