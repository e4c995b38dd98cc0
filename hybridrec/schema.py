"""The columns of every table that goes into this library or comes out of it, and the check that they are there."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hybridrec.errors import DatasetError


def read(table: "pd.DataFrame | str | Path", columns: Sequence[str], what: str) -> pd.DataFrame:
    """A table, or the table in a .csv or .parquet file, with at least these columns."""
    if not isinstance(table, pd.DataFrame):
        path = Path(table)
        table, what = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path), path.name
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise DatasetError(f"{what}: no column {lacking[0]!r}; it has {', '.join(map(str, table.columns))}.")
    return table
