"""All benchmarks, each in a process of its own; prints a table and writes results.json (``make bench``).

python benchmarks/run.py [NAME ...]      metrics, triage, llm, growth
"""

import importlib
import json
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from typing import Any

import measure

NAMES = ["metrics", "triage", "llm", "growth"]
PACKAGES = ["cornac", "numpy", "pandas", "ranx", "recommenders", "scikit-learn", "torch", "transformers"]


def rows_of(name: str) -> list[dict[str, Any]]:
    """What one benchmark measured. Called in a fresh process, so that its peak memory is its own."""
    return importlib.import_module(f"bench_{name}").run()


def shown(row: dict[str, Any]) -> list[str]:
    """A line of the printed table: what was done, for how many, ours, the peer's, how many times slower it is."""
    what = " ".join(str(row[key]) for key in ("task", "workload", "shape") if row.get(key))
    theirs = [_seconds(row["theirs"]), f"{row['ratio']:.1f} x"] if row.get("peer") else ["", ""]
    memory = f"{row['peak_mib_above']:,} MiB" if "peak_mib_above" in row else ""
    made_up = " (synthetic)" if row.get("synthetic") else ""
    return [what + made_up, f"{row['users']:,}", _seconds(row["ours"]), row.get("peer") or "", *theirs, memory]


def _seconds(summary: dict[str, float]) -> str:
    median, fastest, slowest = (_short(summary[key]) for key in ("median", "fastest", "slowest"))
    return f"{median} ({fastest}–{slowest})"


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The rows that compare times, in columns."""
    heads = ["what", "users", "ours: median (fastest–slowest)", "peer", "peer's", "ratio", "memory above"]
    lines = [heads, *(shown(row) for row in rows if "ours" in row and "users" in row)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main(names: Sequence[str]) -> None:
    """Run the named benchmarks; those that are not named keep what they found before.

    Raises:
        SystemExit: no benchmark of that name.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise SystemExit(f"no benchmark {unknown[0]!r}. There are: {', '.join(NAMES)}.")
    found = json.loads(measure.RESULTS.read_text()) if measure.RESULTS.is_file() else {}
    for name in names:
        start = time.perf_counter()
        with get_context("spawn").Pool(1) as pool:
            rows = pool.apply(rows_of, [name])
        took = round(time.perf_counter() - start)
        found[name] = {"machine": measure.machine(PACKAGES), "seconds": took, "rows": rows}
        measure.RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(f"\n{name}: {took} s")
        print_table(rows)
    print(f"\nEvery number: {measure.RESULTS.relative_to(measure.ROOT)}. How to read it: benchmarks/README.md.")


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
