"""Numbers and verdicts in README.md carry the place they come from; tables between two notes are made whole.

A number: ``0.50<!--cross.primary.llm_auc-->``. A verdict: ``**cannot tell**<!--cross.primary.verdict-->``,
which is "not run" where the place is null. A place in another experiment's metrics.json than the default's begins with
its name: ``book-crossing/headline...``, one in benchmarks/results.json with ``benchmarks/``, and one in
benchmarks/scale.json with ``scale/``.

A table: whatever stands between ``<!--table four-->`` and ``<!--end-->`` is what TABLES makes of that name.

When the results have changed, this writes all of it anew, each number with as many decimals as it has::

    .venv/bin/python tests/published_numbers.py --write README.md docs/*.md notebooks/experiments/*.md
"""

import argparse
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridrec.study import answers

ROOT = Path(__file__).resolve().parents[1]  # where this file lies, whichever hybridrec is installed
NOT_RUN = "not run"
WORDS = (*answers.VERDICTS, NOT_RUN)
ANNOTATED = re.compile(
    rf"(?P<shown>[+−-]?\d+(?:\.\d+)?|{'|'.join(WORDS)})(?P<percent>\s?%)?(?:\*\*)?<!--(?P<path>(?!table |end)[^>]+)-->"
)
TABLE = re.compile(r"(?<=<!--table )(?P<name>\w+)-->\n(?P<shown>.*?)(?=<!--end-->)", re.S)
PAPER = "paper"
DATASETS = ("ml-100k", "ml-latest-small-2016", "book-crossing")


@functools.cache
def results(folder: str) -> Any:
    """An experiment's metrics.json, or with the name "benchmarks" or "scale" what was measured."""
    measured = {"benchmarks": "benchmarks/results.json", "scale": "benchmarks/scale.json"}
    file = ROOT / measured.get(folder, f"results/{folder}/metrics.json")
    return json.loads(file.read_text(encoding="utf-8"))


def metrics_of(path: str) -> tuple[Any, str]:
    """The results that a path is about, and the path within them."""
    experiment, slash, inner = path.partition("/")
    return (results(experiment), inner) if slash else (results("ml-100k"), path)


def of_datasets(made: Callable[[dict[str, Any]], str]) -> str:
    """A table about all datasets."""
    return made({name: results(name) for name in DATASETS})


TABLES: dict[str, Callable[[], str]] = {
    "four": lambda: of_datasets(answers.table),
    "families": lambda: of_datasets(answers.families),
    "allocation": lambda: of_datasets(answers.allocation),
    "taught": lambda: of_datasets(answers.taught),
    "models": lambda: of_datasets(answers.models),
    "claims": lambda: answers.claims(results("ml-100k"), "listwise"),
}


def look_up(metrics: Any, path: str) -> Any:
    """The value at a path of metrics.json. In a list of rows, ``a=x,b=y`` picks the one row where a is x and b is y.

    What lies behind a null is null.

    Raises:
        LookupError: there is no such place, or more than one such row.
    """
    for step in re.split(r"\.(?!\d)", path):  # not within a name like Qwen2.5
        if metrics is None:
            return None
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
    return metrics


def as_shown(value: float, shown: str, percent: bool) -> str:
    """The value written with the decimals of the text, and with a plus where the text has one of the two signs."""
    decimals = len(shown.partition(".")[2])
    sign = "+" if shown.startswith("+") or (shown.startswith("−") and value > 0) else ""
    return f"{value * 100 if percent else value:{sign}z.{decimals}f}".replace("-", "−")


def as_found(match: re.Match) -> str:
    """The number or verdict of a match of ANNOTATED as the results have it; a number of the paper stays.

    Raises:
        LookupError: no such place, or no verdict there.
    """
    if match["path"] == PAPER:
        return match["shown"]
    value = look_up(*metrics_of(match["path"]))
    if match["shown"] not in WORDS:
        return as_shown(float(value), match["shown"].replace("-", "−"), bool(match["percent"]))
    if value is not None and value not in WORDS:
        raise LookupError(f"{match['path']}: {value!r} is no verdict")
    return value or NOT_RUN


def rewritten(text: str) -> tuple[str, list[str]]:
    """The text with numbers, verdicts and tables as the results have them, and what is wrong with those left alone."""
    problems = []

    def anew(match: re.Match) -> str:
        try:
            return as_found(match) + match[0].removeprefix(match["shown"])
        except (LookupError, TypeError, ValueError) as error:
            problems.append(str(error))
            return match[0]

    tables = TABLE.sub(lambda match: f"{match['name']}-->\n{TABLES[match['name']]()}\n", text)
    return ANNOTATED.sub(anew, tables), problems


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
        for kind, what in ((ANNOTATED, "numbers and verdicts"), (TABLE, "tables")):
            changed = sum(one[0] != other[0] for one, other in zip(*map(kind.finditer, (text, found)), strict=True))
            print(
                f"{page}: {changed} of {len(kind.findall(text))} {what} {'written anew' if given.write else 'differ'}"
            )
        trouble += [f"{page}: {problem}" for problem in problems]
        if given.write:
            page.write_text(found, encoding="utf-8")
    if trouble:
        raise SystemExit("left as they were, mend the annotation:\n" + "\n".join(trouble))


if __name__ == "__main__":
    main()
