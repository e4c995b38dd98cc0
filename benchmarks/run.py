"""All benchmarks, each in a process of its own; prints tables, writes results.json and results.md (``make bench``).

python benchmarks/run.py [NAME ...]      metrics, triage, llm, local, growth
"""

import importlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import measure

NAMES = ["metrics", "triage", "llm", "local", "growth"]
PACKAGES = "cornac numpy pandas ranx recommenders scikit-learn torch transformers xllamacpp".split()


def rows_of(name: str) -> list[dict[str, Any]]:
    """What one benchmark measured. Called in a fresh process, so that its peak memory is its own."""
    return importlib.import_module(f"bench_{name}").run()


HEADS = ["what", "users", "ours: median (fastest–slowest)", "peer", "peer's", "ratio", "memory above"]


def shown(row: dict[str, Any]) -> list[str]:
    """A line of the table: what was done, for how many, ours, the peer's, how many times slower it is."""
    what = ", ".join(str(row[key]) for key in ("task", "workload", "shape") if row.get(key))
    theirs = [row["peer"], _seconds(row["theirs"]), _ratio(row)] if row.get("peer") else ["", "", ""]
    memory = f"{row['peak_mib_above']:,} MiB" if "peak_mib_above" in row else ""
    users = f"{row['users']:,}" if row["users"] else ""
    return [what + (" (synthetic)" if row.get("synthetic") else ""), users, _seconds(row["ours"]), *theirs, memory]


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.1f} x" if "ratio" in row else f"{row['share']:.0%} of its speed"


def _seconds(summary: dict[str, float]) -> str:
    median, fastest, slowest = (_short(summary[key]) for key in ("median", "fastest", "slowest"))
    return f"{median} ({fastest}–{slowest})"


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def tables(found: dict[str, dict[str, Any]]) -> str:
    """Everything that was measured, as the page results.md."""
    lines = ["# What was measured", "", "Written by `make bench`. Do not edit. [How to read it](README.md)."]
    for name in [name for name in NAMES if name in found]:
        machine, rows = found[name]["machine"], found[name]["rows"]
        where = f"{machine['cores']} cores, {machine['processor']}, {machine['memory_gib']} GiB"
        lines += ["", f"## {name}", "", f"Took {found[name]['seconds']} s on {where}.", ""]
        if name == "local":
            lines += _scores(rows)
        else:
            lines += _growth(rows) if name == "growth" else _markdown(HEADS, [shown(row) for row in rows])
    return "\n".join(lines) + "\n"


def _scores(rows: Sequence[dict[str, Any]]) -> list[str]:
    """With what the scores have to do with each other in place of the memory."""
    heads = [*HEADS[:-1], "largest difference of a score", "rank correlation within users"]
    cells = [[*shown(row)[:-1], f"{row['largest_difference']:.2g}", f"{row['rank_correlation']:.4f}"] for row in rows]
    return _markdown(heads, cells)


def _growth(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The exponents; the points are in the figure."""
    heads = ["what", "grows", "time ~ n^", "memory ~ n^"]
    fitted = [row for row in rows if "exponent" in row]
    cells = [[row["task"], row["grows"], f"{row['exponent']}", f"{row['memory_exponent']}"] for row in fitted]
    return ["![Time and memory against users, candidates and history](growth.png)", "", *_markdown(heads, cells)]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def main(names: Sequence[str]) -> None:
    """Run the named benchmarks; those that are not named keep what they found before.

    Raises:
        SystemExit: no benchmark of that name.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise SystemExit(f"no benchmark {unknown[0]!r}. There are: {', '.join(NAMES)}.")
    found = json.loads(measure.RESULTS.read_text(encoding="utf-8")) if measure.RESULTS.is_file() else {}
    for name in names:
        start = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows = pool.submit(rows_of, name).result()
        took = round(time.perf_counter() - start)
        found[name] = {"machine": measure.machine(PACKAGES), "seconds": took, "rows": rows}
        found = {one: found[one] for one in NAMES if one in found}  # in one order, whichever was measured last
        measure.RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        measure.RESULTS.with_suffix(".md").write_text(tables(found), encoding="utf-8")
        print(f"{name}: {took} s", flush=True)
    print("\n" + tables(found))


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
