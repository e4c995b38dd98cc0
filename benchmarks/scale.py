"""Triage of 220 million ratings in DuckDB within 4 GiB, and a million users on Ray; writes scale.json.

    python benchmarks/scale.py [duckdb] [ray]

Everything is made up: the shape of ML-25M (synthetic, as in shapes.py), once, three and ten times over. Each size is
triaged by a process of its own, which tells its peak memory itself. Needs the extras duckdb and ray, and 15 GB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pandas as pd
import psutil
import shapes

from hybridrec.study import steps

FILE = measure.ROOT / "benchmarks" / "scale.json"
TIMES = (1, 3, 10)  # the shape of ML-25M
USERS, ITEMS, RATINGS = shapes.SYNTHETIC["ml-25m"]
KNOWN = 0.9  # of the ratings
MEMORY_GIB = 2.0  # for DuckDB
MILLION, FEW = 1_000_000, 20  # users, and ratings of each


def ratings(block: int, users: int, mean: float) -> pd.DataFrame:
    """Ratings and scores of some users, in random order: user, item, rating, score, fold."""
    rng = np.random.default_rng([shapes.SEED, block])
    real = steps.dataset("ml-100k").interactions
    activity = rng.choice(real.groupby("user").size(), users).astype(float)
    counts = np.maximum(np.rint(activity * mean * users / activity.sum()).astype(int), 5)
    popularity = rng.choice(real.groupby("item").size(), ITEMS).astype(float)
    edges = np.cumsum(popularity / popularity.sum())
    user = np.repeat(np.arange(users, dtype=np.int64), counts)
    item = np.minimum(np.searchsorted(edges, rng.random(len(user))), ITEMS - 1)
    once = rng.permutation(np.unique(user * ITEMS + item))  # nobody rates an item twice
    rating = rng.choice(real["rating"], len(once)).astype(np.float32)
    score = (rng.standard_normal(len(once)) + 0.9 * (rating >= 4)).astype(np.float32)
    table = {"user": once // ITEMS + block * users, "item": (once % ITEMS).astype(np.int32)}
    return pd.DataFrame(
        {**table, "rating": rating, "score": score, "fold": rng.integers(5, size=len(once), dtype=np.int8)}
    )


def write(folder: Path, block: int, table: pd.DataFrame) -> None:
    """One file of ratings and one of scores, in another order each."""
    for name, columns in (("ratings", ["user", "item", "rating"]), ("scores", ["user", "item", "score", "fold"])):
        (folder / name).mkdir(exist_ok=True)
        rows = table if name == "ratings" else table.iloc[::-1]
        rows[columns].to_parquet(folder / name / f"{block:02}.parquet", index=False)


def triaged(folder: Path, blocks: int) -> dict[str, Any]:
    """Triage of the first blocks, in this process: seconds and peak memory."""
    from hybridrec.scale import duck

    with tempfile.TemporaryDirectory(dir=folder) as some:
        for name in ("ratings", "scores"):
            (Path(some) / name).mkdir()
            for block in range(blocks):
                os.link(folder / name / f"{block:02}.parquet", Path(some) / name / f"{block:02}.parquet")
        before, start = _peak_mib(), time.perf_counter()
        tables = {name: Path(some) / name for name in ("ratings", "scores")}
        found = duck.triage(
            **tables, items=folder / "items.parquet", like=4, threads=2, memory_gib=MEMORY_GIB, folder=some
        )
        seconds = time.perf_counter() - start
        rows = sum(pd.read_parquet(path, columns=["fold"]).shape[0] for path in tables["scores"].iterdir())
    about = {"ratings": rows, "users": len(found.table), "weak": len(found.users)}
    return about | {"seconds": round(seconds, 1), "peak_mib": _peak_mib(), "peak_mib_before": before}


def _peak_mib() -> int:
    """Of this program alone: ru_maxrss would begin with the memory of the process that has started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text("utf-8").splitlines() if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024)


def duckdb_rows() -> dict[str, Any]:
    """Every size, each in a process of its own, and the exponent of growth."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="hybridrec-scale-") as folder:
        pd.DataFrame({"item": range(ITEMS)}).to_parquet(Path(folder) / "items.parquet")
        made = 0
        for blocks in TIMES:
            for block in range(made, blocks):
                write(Path(folder), block, ratings(block, USERS, KNOWN * RATINGS / USERS))
            made = blocks
            call = [sys.executable, __file__, "--triage", folder, str(blocks)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            rows.append({"times": blocks, **json.loads(done.stdout)})
            print(rows[-1], flush=True)
    # Of all sizes, and of those alone that do not fit into the memory that DuckDB is given.
    exponents = {"exponent": _slope(rows), "exponent_beyond_memory": _slope(rows[1:])}
    return {"rows": rows, **exponents, "memory_gib_of_duckdb": MEMORY_GIB, "synthetic": True}


def _slope(rows: list[dict[str, Any]]) -> float:
    """The slope of seconds over ratings, both axes logarithmic."""
    x, y = (np.log([row[name] for row in rows]) for name in ("ratings", "seconds"))
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def ray_row() -> dict[str, Any]:
    """A million users, one of them with 50,000 ratings, one title of 10,000 characters: divide and triage."""
    from hybridrec import scale

    with tempfile.TemporaryDirectory(prefix="hybridrec-scale-") as folder:
        for block in range(10):
            table = ratings(block, MILLION // 10, FEW)
            if block == 3:
                one = table["user"].min()
                more = pd.DataFrame({"user": one, "item": np.arange(50_000, dtype=np.int32), "rating": np.float32(4)})
                more.loc[::2, "rating"] = np.float32(1)
                more = more.assign(score=more["item"].astype(np.float32), fold=np.int8(0))
                table = pd.concat([table[table["user"] != one], more])
            write(Path(folder), block, table)
        items = pd.DataFrame({"item": range(ITEMS), "title": [f"The Long Title of Film {n}" for n in range(ITEMS)]})
        items.loc[7, "title"] = "An endless title " * 589
        scale.start(cpus=2, object_store_mib=256)
        with _Workers() as workers:
            start = time.perf_counter()
            tables = {"ratings": f"{folder}/ratings", "out_of_fold": f"{folder}/scores"}
            divided = scale.divide(f"{folder}/divided", items, like=4, shards=64, **tables)
            middle = time.perf_counter()
            found = scale.triage(divided)
            end = time.perf_counter()
        longest = int((1 - found.table["sparsity"].min()) * ITEMS + 0.5)
    about = {"users": len(found.table), "longest_history": longest, "shards": 64, "weak": len(found.users)}
    seconds = {"divide_seconds": round(middle - start, 1), "triage_seconds": round(end - middle, 1)}
    return (
        about | seconds | {"peak_mib_of_a_worker": workers.peak_mib, "peak_mib_of_this": _peak_mib(), "synthetic": True}
    )


class _Workers:
    """The highest memory of any of Ray's processes that work for us, looked at five times a second."""

    def __enter__(self) -> "_Workers":
        self.peak_mib, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            for one in psutil.Process().children(recursive=True):
                try:
                    if one.cmdline() and one.cmdline()[0].startswith("ray::"):
                        self.peak_mib = max(self.peak_mib, round(one.memory_info().rss / 2**20))
                except psutil.Error:
                    continue  # it has just ended


def main() -> None:
    """Measure what is named, keep what is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triage", nargs=2, metavar=("FOLDER", "BLOCKS"), help="one size; prints JSON")
    parser.add_argument("names", nargs="*", default=["duckdb", "ray"])
    given = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    if given.triage:
        print(json.dumps(triaged(Path(given.triage[0]), int(given.triage[1]))))
        return
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    for name in given.names:
        found[name] = {"duckdb": duckdb_rows, "ray": ray_row}[name]()
        found["machine"] = measure.machine(["duckdb", "numpy", "pandas", "pyarrow", "ray"])
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main()
