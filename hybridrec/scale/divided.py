"""Tables divided by users: all rows of a user lie in one shard, so that a step needs one shard at a time."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import files, schema
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, ScaleError
from hybridrec.evaluation.controls import ratings_of_items
from hybridrec.scale.cluster import each

# What each table must have; others of its columns are kept.
TABLES: dict[str, Iterable[str]] = {
    "ratings": ("user", "item", "rating"),
    "out_of_fold": schema.SCORES,
    "candidates": schema.CANDIDATES,
    "own": schema.SCORES,
    "outcomes": schema.OUTCOMES,
}
_ROWS = 1_000_000  # read at once
_CARD = "divided.json"


@dataclass(frozen=True)
class Divided:
    """A folder of tables that ``divide`` has divided.

    Attributes:
        folder: where they lie, in a folder for each shard.
        shards: how many shards.
        like: a rating from here on means that the user likes the item.
    """

    folder: Path
    shards: int
    like: float

    @classmethod
    def open(cls, folder: str | Path) -> "Divided":
        """What ``divide`` has put into a folder.

        Raises:
            ScaleError: there is nothing, or not all of it.
        """
        try:
            return cls(Path(folder), **json.loads((Path(folder) / _CARD).read_text(encoding="utf-8")))
        except OSError:
            raise ScaleError(f"{files.shown(Path(folder))}: no tables that were divided to the end.") from None

    def parts(self, table: str) -> list[Path]:
        """The files of a table, shard by shard; whoever reads Parquet reads them all as one table."""
        return sorted(self.folder.glob(f"shard-*/{table}-*.parquet"))

    def place(self, shard: int, table: str, number: int = 0) -> Path:
        """The file for what file ``number`` of a table has of a shard."""
        return self.folder / f"shard-{shard:05}" / f"{table}-{number:06}.parquet"

    def read(self, table: str, shard: int) -> pd.DataFrame:
        """A shard of a table, its rows in their order; without a column where the shard has none."""
        found = sorted(self.place(shard, table).parent.glob(f"{table}-*.parquet"))
        return pd.concat(map(pd.read_parquet, found), ignore_index=True) if found else pd.DataFrame()

    def data(self, shard: int) -> Dataset:
        """The ratings of a shard, with the whole catalogue.

        Raises:
            DatasetError: two ratings of a pair, or one that is not finite. ScoresError: an unknown item.
        """
        what, items = f"the ratings of shard {shard}", pd.read_parquet(self.folder / "items.parquet")
        rows = self.read("ratings", shard)
        rows = schema.read(
            rows if len(rows) else pd.DataFrame(columns=[*TABLES["ratings"]]), (), what, unique=schema.IDS
        )
        rows = rows.assign(rating=schema.finite(rows, "rating", what), timestamp=rows.get("timestamp", 0))
        schema.refuse_unknown(rows["item"], items["item"], what)
        return Dataset(what, rows[[*schema.RATINGS]], items, what, self.like)

    def item_ratings(self) -> pd.DataFrame:
        """All ratings of each item: sum and size, indexed by item."""
        return pd.read_parquet(self.folder / "item_ratings.parquet")

    def hand_out(self, users: schema.Table | Iterable, table: str) -> None:
        """Write users, each once, as a table of its own in their shards; what is there of that name is replaced."""
        if not isinstance(users, pd.DataFrame | str | Path):
            users = pd.DataFrame({"user": list(users)})
        ids = schema.read(users, ["user"], "users")[["user"]].drop_duplicates()
        own = dict(list(ids.groupby(shard_of(ids["user"], self.shards))))
        for shard in range(self.shards):
            write(own.get(shard, ids.iloc[:0]), self.place(shard, table))


def shard_of(users: pd.Series, shards: int) -> Any:
    """The shard of each user; 12 and "12" have the same, as one table may call a number what another calls text."""
    return pd.util.hash_array(users.astype(str).to_numpy(object)) % shards


def write(table: pd.DataFrame, path: Path) -> None:
    """Put a table in place in one step."""
    with files.replacing(path) as partial:
        table.to_parquet(partial, index=False)


def divide(folder: str | Path, items: schema.Table, *, like: float, shards: int = 64, **tables: str | Path) -> Divided:
    """Divide tables by users.

    Each file is read a million rows at a time. Files times shards small files are written, so few and large shards are
    better; one shard of each table must fit into a process's memory, so not too few. Of a hundred million ratings 64
    shards have about 1.6 million each.

    Args:
        folder: new, or empty; seen by all machines of the cluster.
        items: the catalogue: item, title, and year and genres where they are known. Every process reads all of it.
        like: a rating from here on means that the user likes the item.
        shards: how many shards.
        tables: Parquet files, or folders of them, by name: ``ratings`` (user, item, rating; timestamp), and for the
            steps that need them ``out_of_fold`` (user, item, score; fold), ``candidates`` (user, item; position),
            ``own`` (user, item, score: the recommender's lists) and ``outcomes`` (user, item, rating).

    Raises:
        DatasetError: a table without a file, a column that is missing, ids that cannot be used.
        ScaleError: a name that is no table's; a folder that is not empty; Ray is not installed, or gave up.
    """
    folder = Path(folder)
    if strange := tables.keys() - TABLES.keys() or ({"ratings"} - tables.keys()):
        raise ScaleError(
            f"tables: {min(strange)!r} is unknown or missing. Give ratings, and of {', '.join(TABLES)} others."
        )
    if folder.exists() and any(folder.iterdir()):
        raise ScaleError(f"{files.shown(folder)} is not empty: name another, or Divided.open what was divided there.")
    catalogue = schema.read(items, ["item", "title"], "items", unique=["item"])
    plain = pd.DataFrame({"year": "", "genres": ""}, catalogue.index).assign(**catalogue)
    write(plain[[*schema.ITEMS]].sort_values("item", ignore_index=True), folder / "items.parquet")
    divided = Divided(folder.absolute(), shards, like)
    parts = [(name, n, path) for name, given in tables.items() for n, path in enumerate(_files(Path(given)))]
    for _ in each(lambda part: _divide_file(divided, *part), parts, "dividing"):
        pass
    total: pd.DataFrame | None = None
    for one in each(lambda shard: ratings_of_items(divided.data(shard).interactions), range(shards), "items' ratings"):
        total = one if total is None else total.add(one, fill_value=0)
    assert total is not None
    total.to_parquet(folder / "item_ratings.parquet")
    (folder / _CARD).write_text(json.dumps({"shards": shards, "like": like}), encoding="utf-8")
    return divided


def _files(path: Path) -> list[Path]:
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not found or not found[0].exists():
        raise DatasetError(f"{files.shown(path)}: no Parquet file. Name a .parquet file, or a folder of them.")
    return [file.absolute() for file in found]


def _divide_file(divided: Divided, table: str, number: int, path: Path) -> None:
    """Write what a file has of each shard; done again it writes the same files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writers: dict[int, pq.ParquetWriter] = {}
    with pq.ParquetFile(path) as source, ExitStack() as opened:
        for rows in source.iter_batches(_ROWS):
            frame = schema.read(rows.to_pandas(), TABLES[table], files.shown(path))
            for shard, own in frame.groupby(shard_of(frame["user"], divided.shards)):
                part = pa.Table.from_pandas(own, preserve_index=False)
                if shard not in writers:
                    partial = opened.enter_context(files.replacing(divided.place(shard, table, number)))
                    writers[shard] = opened.enter_context(pq.ParquetWriter(partial, part.schema))
                writers[shard].write_table(part.cast(writers[shard].schema))
