"""Triage and controls in DuckDB: tables larger than memory, on one machine.

DuckDB reads the Parquet files, joins, sorts and counts within the memory it is given, and puts aside on disk what does
not fit. The SQL is in the files beside this one. What users share (means, thresholds, luck) is then computed from a row
a user and fold by the library's own functions, so that the result is the same.

Needs ``pip install hybridrec[duckdb]``.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from hybridrec import files
from hybridrec.errors import ScaleError, ScoresError
from hybridrec.scale.cluster import needed
from hybridrec.scale.steps import warn_of_unscored
from hybridrec.weak_users import triage as weak_users


def sql(name: str) -> str:
    """The text of a query of this package: judged, pairs, performance, sparsity, controls, twice."""
    return (resources.files("hybridrec.scale") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def triage(
    ratings: str | Path,
    scores: str | Path,
    items: str | Path,
    *,
    like: float,
    performance_threshold: float = 0.5,
    sparsity_threshold: float | None = None,
    threads: int = 2,
    memory_gib: float = 2.0,
    folder: str | Path | None = None,
) -> weak_users.Triage:
    """``hybridrec.triage`` of Parquet files, with the same result.

    Args:
        ratings: user, item, rating: a Parquet file, or a pattern such as "ratings/*.parquet"; so for the others.
        scores: user, item, score of ratings out of fold, and fold where it is known.
        items: the catalogue, with a column item.
        like: a rating from here on means that the user likes the item.
        performance_threshold, sparsity_threshold: as in ``hybridrec.triage``.
        threads: how many cores to use.
        memory_gib: what DuckDB may hold in memory, in GiB. A row a user and fold comes on top (about 100 bytes each).
        folder: where DuckDB puts aside what does not fit: about the size of both tables. None: the system's folder for
            temporary files.

    Raises:
        ScoresError: a score of a pair that is not rated, or that is not finite; a pair twice (names the first).
        ScaleError: DuckDB is not installed, or could not do it, such as for want of a file, a column, or memory.

    Warns:
        UserWarning: ratings without a score (counts them).
    """
    with _database(threads, memory_gib, folder, ratings=ratings, scores=scores, items=items) as database:
        for table in ("ratings", "scores"):
            _refuse(database, sql("twice").replace("checked", table), f"is twice in the {table}. Keep one row of each")
        database.execute(f"CREATE TEMP TABLE judged AS {sql('judged')}", {"like": like})
        wrong = 'SELECT "user", item FROM judged WHERE {} LIMIT 1'
        _refuse(database, wrong.format("rating IS NULL"), "has a score and no rating. Score ratings alone")
        finite = " OR ".join(f"NOT COALESCE(isfinite(CAST({name} AS DOUBLE)), FALSE)" for name in ("score", "rating"))
        _refuse(database, wrong.format(finite), "has a score or a rating that is not finite. Fix or remove such rows")
        database.execute(f"CREATE TEMP TABLE pairs AS {sql('pairs')}")
        database.execute("DROP TABLE judged")
        counts = database.execute("SELECT * FROM pairs ORDER BY ALL").df().set_index(["user", "fold"]).astype(float)
        rated = database.execute(f"{sql('sparsity')} ORDER BY ALL").df().set_index("user")["rated"]
        (n_items,) = database.execute("SELECT COUNT(*) FROM items").fetchone()
    warn_of_unscored(counts, rated)
    how: dict[str, Any] = {"performance_threshold": performance_threshold, "sparsity_threshold": sparsity_threshold}
    return weak_users.of_counts(counts, rated, n_items, **how)


def controls(
    ratings: str | Path,
    candidates: str | Path,
    output: str | Path,
    *,
    threads: int = 2,
    memory_gib: float = 2.0,
    folder: str | Path | None = None,
) -> None:
    """The scores of the controls "popularity" and "item-mean" for candidates, from Parquet to Parquet.

    Args:
        ratings: user, item, rating: what is known.
        candidates: user, item.
        output: the Parquet file to write: user, item, popularity, item_mean.
        threads, memory_gib, folder: as in ``triage``.

    Raises:
        ScaleError: as in ``triage``.
    """
    with (
        _database(threads, memory_gib, folder, ratings=ratings, candidates=candidates) as database,
        files.replacing(Path(output)) as partial,
    ):
        database.sql(sql("controls")).write_parquet(str(partial))


@contextmanager
def _database(threads: int, memory_gib: float, folder: str | Path | None, **tables: str | Path) -> Iterator[Any]:
    """A database in memory with a view of each table."""
    duckdb = needed("duckdb", "duckdb")
    settings = {"threads": threads, "memory_limit": f"{round(memory_gib * 1024)}MiB", "preserve_insertion_order": False}
    with tempfile.TemporaryDirectory(prefix="duckdb-", dir=folder) as aside:
        try:
            with duckdb.connect(":memory:", config={**settings, "temp_directory": aside}) as database:
                for name, path in tables.items():
                    rows = database.read_parquet(f"{path}/**/*.parquet" if Path(path).is_dir() else str(path))
                    if name == "scores" and "fold" not in rows.columns:
                        rows = rows.project("*, 0 AS fold")
                    rows.create_view(name)
                yield database
        except duckdb.OutOfMemoryException as error:
            raise ScaleError(f"DuckDB: {_first_line(error)}. Raise memory_gib, now {memory_gib:g}.") from None
        except duckdb.Error as error:
            raise ScaleError(f"DuckDB: {_first_line(error)}. Check the files and their columns.") from None


def _refuse(database: Any, query: str, fault: str) -> None:
    """A ScoresError about the pair that a query finds, if it finds one."""
    if found := database.execute(query).fetchone():
        raise ScoresError("user {!r}, item {!r} {}.".format(*found, fault))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
