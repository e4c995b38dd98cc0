"""What each step of ``make reproduce`` takes in a fresh clone with an empty cache: seconds and peak memory.

    python benchmarks/pipeline.py [EXPERIMENT ...]

The environment is the one of this checkout; ratings and model are fetched (or found in HYBRIDREC_DATA) and converted
anew, every recommender is fitted anew, and the language model's answers are replayed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

NOTEBOOKS = ["01_data", "02_baselines", "03_user_triage", "04_llm_prompting", "05_evaluation", "06_cost"]
FILE = measure.ROOT / "benchmarks" / "pipeline.json"


def cold(experiment: str) -> dict[str, dict[str, float]]:
    """Every step of one experiment in a clone of its own."""
    with tempfile.TemporaryDirectory(prefix="hybridrec-cold-") as folder:
        subprocess.run(["git", "clone", "--quiet", str(measure.ROOT), folder], check=True)
        steps = {step: [step, experiment] for step in ("data", "model")}
        steps |= {name: ["run", experiment, name] for name in NOTEBOOKS}
        env = {"PYTHONPATH": folder, "HYBRIDREC_PROGRESS": "off", "HYBRIDREC_LLM": "auto"}
        found = {}
        for step, arguments in steps.items():
            found[step] = measure.command([sys.executable, "-m", "hybridrec", *arguments], Path(folder), env)
            print(f"{experiment}: {step} {found[step]['seconds']:.0f} s, {found[step]['peak_mib']:.0f} MiB", flush=True)
        changed = subprocess.run(["git", "diff"], cwd=folder, capture_output=True, text=True).stdout
        print(f"{experiment}: files that came out otherwise than committed:\n{changed or '  none'}", flush=True)
    total = sum(one["seconds"] for one in found.values())
    return {**found, "all": {"seconds": round(total, 2), "peak_mib": max(one["peak_mib"] for one in found.values())}}


def main(experiments: list[str]) -> None:
    """Measure, and put what was measured beside what was measured before."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    for experiment in experiments:
        known[experiment] = {**cold(experiment), "machine": measure.machine(["cornac", "torch", "transformers"])}
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["ml-100k"])
