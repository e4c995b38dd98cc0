"""What each step of ``make reproduce`` takes in a fresh clone with an empty cache, and again when nothing has changed.

    python benchmarks/pipeline.py [--before REVISION] [EXPERIMENT ...]

Seconds, peak memory, and where the time of the fits goes. With --before, notebooks 01 to 03 are measured at that
revision first, in a clone of its own; the later ones are not, since they may ask a language model there. The
environment is the one of this checkout; ratings and model are fetched (or found in HYBRIDREC_DATA) and converted anew,
every recommender is fitted anew, and the language model's answers are replayed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure
import numpy as np

from hybridrec.study.notebooks import names

NOTEBOOKS = names()
FILE = measure.ROOT / "benchmarks" / "pipeline.json"


def cold(experiment: str, revision: str = "HEAD", notebooks: Sequence[str] = NOTEBOOKS) -> dict[str, dict[str, float]]:
    """Every step of one experiment in a clone of its own."""
    with tempfile.TemporaryDirectory(prefix="hybridrec-cold-") as folder:
        root = Path(folder)
        subprocess.run(["git", "clone", "--quiet", str(measure.ROOT), folder], check=True)
        subprocess.run(["git", "checkout", "--quiet", revision], cwd=folder, check=True)
        (root / ".stamps").mkdir()
        (root / ".stamps" / "env").touch()  # the environment is there: VENV
        goals = {"data": "data", "model": "models"} | {name: f".stamps/{experiment}/{name}" for name in notebooks}
        found = {step: _make(root, experiment, goal) for step, goal in goals.items()}
        total = sum(one["seconds"] for one in found.values())
        found["all"] = {"seconds": round(total, 2), "peak_mib": max(one["peak_mib"] for one in found.values())}
        if list(notebooks) == NOTEBOOKS:
            found["unchanged"] = _make(root, experiment, "reproduce")
        changed = subprocess.run(["git", "diff"], cwd=folder, capture_output=True, text=True).stdout
        print(f"{experiment}: files that came out otherwise than committed:\n{changed or '  none'}", flush=True)
        return {**found, "fits": _fits(root)}


def _make(root: Path, experiment: str, goal: str) -> dict[str, float]:
    env = {"PYTHONPATH": str(root), "HYBRIDREC_PROGRESS": "off", "HYBRIDREC_LLM": "auto"}
    call = ["make", "--silent", goal, f"EXPERIMENT={experiment}", f"VENV={sys.prefix}"]
    took = measure.command(call, root, env)
    print(f"{experiment}: make {goal} {took['seconds']:.1f} s, {took['peak_mib']:.0f} MiB", flush=True)
    return took


def _fits(root: Path) -> dict[str, dict[str, float]]:
    """Seconds of fitting, scoring and retrieving by recommender, by the fits' own clocks, the costliest first.

    Two run at a time, so they sum to more than notebook 2 took.
    """
    fits: dict[str, list[float]] = {}
    for file in (root / "data" / "cache").glob("fit-*.npz"):
        with np.load(file) as one:
            fits.setdefault(str(one["recommender"]), []).append(float(one["seconds"]))
    sums = {name: {"fits": len(own), "seconds": round(sum(own), 1)} for name, own in fits.items()}
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]["seconds"]))


def main(arguments: list[str]) -> None:
    """Measure, and put what was measured beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["ml-100k"], metavar="EXPERIMENT")
    parser.add_argument("--before", metavar="REVISION", help="measure notebooks 01 to 03 at this revision, too")
    given = parser.parse_args(arguments)
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for experiment in given.experiments:
        earlier = {"before": cold(experiment, given.before, NOTEBOOKS[:3])} if given.before else {}
        machine = {"machine": measure.machine(["cornac", "torch", "transformers"])}
        known[experiment] = {**cold(experiment), **earlier, **machine}
        FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
