"""Triage of 220 million ratings in DuckDB within 4 GiB, and a million users on Ray; writes scale.json.

    python benchmarks/scale.py [duckdb] [ray] [beside] [actors]

Everything is made up: the shape of ML-25M (synthetic, as in shapes.py), once, three and ten times over. Each size is
triaged by a process of its own, which tells its peak memory itself. Needs the extras duckdb and ray, and 15 GB of disk.

"beside" triages that shape once in DuckDB, with one thread and with two, and in memory (pandas); "actors" lets the
study's model rank real users of ml-100k on one core, on two, and in 1, 2 and 4 processes of Ray. Both take turns five
times, each time in a process of its own, and stop where the results are not the same.
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
ROUNDS = 5
TRIAGES = {"pandas": 0, "DuckDB, one thread": 1, "DuckDB, two threads": 2}
RANKINGS = {"one core": 0, "two cores": 0, "Ray, 1 process": 1, "Ray, 2 processes": 2, "Ray, 4 processes": 4}
RANKED_USERS = 32
SAME = 1e-3  # of a score (log-likelihood a token): other batches, other rounding


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


# --- side by side -----------------------------------------------------------------------------------------------------


def beside_rows() -> dict[str, Any]:
    """Triage of the shape of ML-25M in memory and in DuckDB, in turns."""
    with tempfile.TemporaryDirectory(prefix="hybridrec-scale-") as folder:
        pd.DataFrame({"item": range(ITEMS), "title": [f"Film {n}" for n in range(ITEMS)]}).to_parquet(
            Path(folder) / "items.parquet"
        )
        write(Path(folder), 0, ratings(0, USERS, KNOWN * RATINGS / USERS))
        rows = _in_turns("--triaged-by", TRIAGES, folder)
    return {"rows": rows, "synthetic": True}


def triaged_by(way: str, folder: Path, result: Path) -> dict[str, Any]:
    """Triage from the Parquet files, in this process: seconds and peak memory; the table goes to ``result``."""
    import hybridrec as hr

    tables, items = {name: folder / name / "00.parquet" for name in ("ratings", "scores")}, folder / "items.parquet"
    if TRIAGES[way]:
        from hybridrec.scale import duck

    start = time.perf_counter()
    if TRIAGES[way]:
        how: dict[str, Any] = {"threads": TRIAGES[way], "memory_gib": MEMORY_GIB, "folder": result.parent}
        found = duck.triage(**tables, items=items, like=4, **how)
    else:
        found = hr.triage(hr.Dataset.read(tables["ratings"], items, like=4), hr.FromTable(tables["scores"]))
    seconds = time.perf_counter() - start
    found.table.sort_values("user").to_parquet(result, index=False)
    return {"seconds": seconds, "peak_mib": _peak_mib(), "users": len(found.table)}


def actor_rows() -> dict[str, Any]:
    """The study's model ranks the same users on one core, on two, and in Ray's processes, in turns."""
    from hybridrec.data import datasets, splits

    data = steps.dataset("ml-100k")
    rows = splits.split_per_user(data.interactions, shapes.SEED)
    known = rows[rows["split"] != "test"]
    sparsity = datasets.sparsity_index(known, len(data.items))
    candidates = splits.rankable(splits.test_candidates(rows, 4.0, shapes.SEED))
    few = sparsity.nlargest(len(sparsity) // 2).index
    users = sorted(set(candidates["user"]) & set(few))[:RANKED_USERS]
    with tempfile.TemporaryDirectory(prefix="hybridrec-scale-") as folder:
        known[["user", "item", "rating"]].to_parquet(Path(folder) / "ratings.parquet", index=False)
        chosen = candidates.loc[candidates["user"].isin(users), ["user", "item"]]
        chosen.to_parquet(Path(folder) / "candidates.parquet", index=False)
        data.items[["item", "title"]].to_parquet(Path(folder) / "items.parquet", index=False)
        found = _in_turns("--ranked-by", RANKINGS, folder)
    return {"rows": found, "users": len(users), "candidates": len(chosen), "synthetic": False}


def ranked_by(way: str, folder: Path, result: Path) -> dict[str, Any]:
    """Rank every candidate, in this process or in Ray's: seconds, loading the model included; scores to ``result``."""
    import hybridrec as hr
    from hybridrec.study import models

    tables = {name: folder / f"{name}.parquet" for name in ("ratings", "candidates")}
    items, how = folder / "items.parquet", {"noun": "film"}
    users = pd.read_parquet(tables["candidates"])["user"].unique()
    if RANKINGS[way]:
        from hybridrec import scale

        scale.start(cpus=2, object_store_mib=256)
        divided = scale.divide(result.parent / "divided", items, like=4, shards=8, **tables)
        of_each = 2 / max(RANKINGS[way], 2)
        start = time.perf_counter()
        scale.rank(
            divided, lambda: models.local("SmolLM2-135M-Instruct"), result.parent / "answers.sqlite", users,
            actors=RANKINGS[way], cpus=of_each, batch=4, **how,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        table = pd.concat([pd.read_parquet(path) for path in divided.parts("ranked")])
    else:
        import torch

        torch.set_num_threads(1 if way == "one core" else 2)
        data = hr.Dataset.read(tables["ratings"], items, like=4)
        start = time.perf_counter()
        table = hr.Ranker(models.local("SmolLM2-135M-Instruct"), **how).rank(data, tables["candidates"])
        seconds = time.perf_counter() - start
    table.sort_values(["user", "item"])[["user", "item", "score"]].to_parquet(result, index=False)
    return {"seconds": seconds, "users": len(users)}


def _in_turns(option: str, ways: dict[str, int], folder: str) -> list[dict[str, Any]]:
    """Each way ROUNDS times, each time in a process of its own.

    Raises:
        SystemExit: a way comes to another result than the first: what is not the same is not compared.
    """
    told: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    first: pd.DataFrame | None = None
    largest = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for way, found in told.items():
            with tempfile.TemporaryDirectory(dir=folder) as own:
                result = Path(own) / "result.parquet"
                call = [sys.executable, __file__, option, way, folder, str(result)]
                done = subprocess.run(call, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{way} failed:\n{done.stderr[-2000:]}")
                found.append(json.loads(done.stdout.splitlines()[-1]))
                table = pd.read_parquet(result)
            first = table if first is None else first
            largest[way] = max(largest[way], _difference(first, table))
            if largest[way] > (0.0 if ways is TRIAGES else SAME):
                raise SystemExit(f"{way}: differs by {largest[way]}. Not the same work.")
            print(way, found[-1], flush=True)
    return [
        {"way": way, **measure.summary([one["seconds"] for one in found]), "largest_difference": largest[way]}
        | ({"peak_mib": max(one["peak_mib"] for one in found)} if "peak_mib" in found[0] else {})
        for way, found in told.items()
    ]


def _difference(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The largest difference of a number; infinite if anything else differs."""
    numbers = one.select_dtypes("number").columns
    if list(one) != list(other) or len(one) != len(other):
        return float("inf")
    if not one.drop(columns=numbers).reset_index(drop=True).equals(other.drop(columns=numbers).reset_index(drop=True)):
        return float("inf")
    apart = (one[numbers].to_numpy(float) - other[numbers].to_numpy(float))[~one[numbers].isna().to_numpy()]
    return float(np.abs(apart).max(initial=0.0))


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


PARTS = {"duckdb": duckdb_rows, "ray": ray_row, "beside": beside_rows, "actors": actor_rows}


def main() -> None:
    """Measure what is named, keep what is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triage", nargs=2, metavar=("FOLDER", "BLOCKS"), help="one size; prints JSON")
    for option in ("--triaged-by", "--ranked-by"):
        parser.add_argument(option, nargs=3, metavar=("WAY", "FOLDER", "RESULT"), help="one way; prints JSON")
    parser.add_argument("names", nargs="*", default=list(PARTS))
    given = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    if given.triage:
        print(json.dumps(triaged(Path(given.triage[0]), int(given.triage[1]))))
        return
    for call, one in ((triaged_by, given.triaged_by), (ranked_by, given.ranked_by)):
        if one:
            print(json.dumps(call(one[0], Path(one[1]), Path(one[2]))))
            return
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    for name in given.names:
        machine = measure.machine(["duckdb", "numpy", "pandas", "pyarrow", "ray"])
        found[name] = {**PARTS[name](), "machine": machine}
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, found[name], flush=True)


if __name__ == "__main__":
    main()
