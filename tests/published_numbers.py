"""Numbers in README.md carry the place they come from: ``0.50<!--headline.published.random.weak_auc_after-->``.

A place in another experiment's metrics.json than the default's begins with its name: ``book-crossing/headline...``. One
in benchmarks/results.json begins with ``benchmarks/``, and one in results/seeds.csv, the mean over splits, with
``seeds.``: ``seeds.dataset=ml-100k,protocol=held-out,ranker=best-other.mean``.

When the results have changed, this writes all numbers anew, each with as many decimals as it has::

    .venv/bin/python tests/published_numbers.py --write README.md docs/*.md notebooks/experiments/*.md
"""

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # where this file lies, whichever hybridrec is installed
ANNOTATED = re.compile(r"(?P<shown>[+−-]?\d+(?:\.\d+)?)(?P<percent>\s?%)?<!--(?P<path>[^>]+)-->")
PAPER = "paper"
SEEDS = "seeds."


def metrics_of(path: str) -> tuple[Any, str]:
    """The results that a path is about (a metrics.json, or the rows of results/seeds.csv), and the path within them."""
    if path.startswith(SEEDS):
        with (ROOT / "results" / "seeds.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file)), path.removeprefix(SEEDS)
    experiment, slash, inner = path.partition("/")
    folder, place = (experiment, inner) if slash else ("ml-100k", path)
    file = ROOT / ("benchmarks/results.json" if folder == "benchmarks" else f"results/{folder}/metrics.json")
    return json.loads(file.read_text(encoding="utf-8")), place


def look_up(metrics: Any, path: str) -> float:
    """The value at a path of metrics.json. In a list of rows, ``a=x,b=y`` picks the one row where a is x and b is y.

    Raises:
        LookupError: there is no such place, or more than one such row.
    """
    for step in re.split(r"\.(?!\d)", path):  # not within a name like Qwen2.5
        if isinstance(metrics, list):
            wanted = dict(pair.split("=") for pair in step.split(","))
            rows = [row for row in metrics if all(str(row.get(key)) == value for key, value in wanted.items())]
            if len(rows) != 1:
                raise LookupError(f"{path}: {len(rows)} rows have {step}")
            metrics = rows[0]
        elif not isinstance(metrics, dict) or step not in metrics:
            raise LookupError(f"{path}: there is no {step}")
        else:
            metrics = metrics[step]
    return float(metrics)


def as_shown(value: float, shown: str, percent: bool) -> str:
    """The value written with the decimals of the text, and with a plus where the text has one of the two signs."""
    decimals = len(shown.partition(".")[2])
    sign = "+" if shown.startswith("+") or (shown.startswith("−") and value > 0) else ""
    return f"{value * 100 if percent else value:{sign}z.{decimals}f}".replace("-", "−")


def as_found(match: re.Match) -> str:
    """The number of a match of ANNOTATED as the results have it; a number of the paper stays."""
    if match["path"] == PAPER:
        return match["shown"]
    return as_shown(look_up(*metrics_of(match["path"])), match["shown"].replace("-", "−"), bool(match["percent"]))


def rewritten(text: str) -> tuple[str, list[str]]:
    """The text with every annotated number as the results have it, and what is wrong with those left as they were."""
    problems = []

    def anew(match: re.Match) -> str:
        try:
            return as_found(match) + match[0].removeprefix(match["shown"])
        except (LookupError, TypeError, ValueError) as error:
            problems.append(str(error))
            return match[0]

    return ANNOTATED.sub(anew, text), problems


def main() -> None:
    """Write the numbers of the pages named anew, or say which differ."""
    parser = argparse.ArgumentParser(description="numbers on pages, beside the results that they come from")
    parser.add_argument("--write", action="store_true", help="put in the results' numbers; else only say what differs")
    parser.add_argument("pages", nargs="+", type=Path)
    given = parser.parse_args()
    trouble = []
    for page in given.pages:
        text = page.read_text(encoding="utf-8")
        found, problems = rewritten(text)
        changed = sum(one[0] != other[0] for one, other in zip(*map(ANNOTATED.finditer, (text, found)), strict=True))
        print(
            f"{page}: {changed} of {len(ANNOTATED.findall(text))} numbers {'written anew' if given.write else 'differ'}"
        )
        trouble += [f"{page}: {problem}" for problem in problems]
        if given.write:
            page.write_text(found, encoding="utf-8")
    if trouble:
        raise SystemExit("left as they were, mend the annotation:\n" + "\n".join(trouble))


if __name__ == "__main__":
    main()
