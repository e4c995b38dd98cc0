"""Numbers, verdicts and tables on pages such as README.md, beside the results that they come from.

Pages carry no note of it: numbers.toml, next to this file, says for each page which sentences have numbers in them
(``{}`` stands for each, and so for a verdict, which is "not run" where the place is null), and where in
results/<experiment>/metrics.json they come from. It also says under which headings stand tables that are made whole.

A place in another experiment's metrics.json than the default's begins with its name: ``book-crossing/headline...``,
one in benchmarks/results.json with ``benchmarks/``, and one in another file of MEASURED likewise.

When the results have changed, this writes all of it anew, each number with as many decimals as it has::

    .venv/bin/python tests/published_numbers.py --write
"""

import argparse
import csv
import functools
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridrec.study import answers

ROOT = Path(__file__).resolve().parents[1]  # where this file lies, whichever hybridrec is installed
NUMBERS = Path(__file__).with_name("numbers.toml")
NOT_RUN = "not run"
WORDS = (*answers.VERDICTS, NOT_RUN)
SHOWN = rf"([+−-]?\d+(?:\.\d+)?|{'|'.join(WORDS)})"
MEASURED = {
    "benchmarks": "benchmarks/results.json",
    "gpu": "benchmarks/gpu.json",
    "scale": "benchmarks/scale.json",
    "heard_out": "results/ml-100k/heard_out.csv",
    "seeds": "results/seeds.csv",
    "precision": "benchmarks/precision.json",
}
DATASETS = ("ml-100k", "ml-latest-small-2016", "book-crossing")


@functools.cache
def results(folder: str) -> Any:
    """An experiment's metrics.json, or what a command measured that is no part of ``make reproduce``."""
    file = ROOT / MEASURED.get(folder, f"results/{folder}/metrics.json")
    text = file.read_text(encoding="utf-8")
    return [*csv.DictReader(text.splitlines())] if file.suffix == ".csv" else json.loads(text)


def metrics_of(path: str) -> tuple[Any, str]:
    """The results that a path is about, and the path within them."""
    experiment, slash, inner = path.partition("/")
    return (results(experiment), inner) if slash else (results("ml-100k"), path)


def of_datasets(made: Callable[[dict[str, Any]], str]) -> str:
    """A table about all datasets."""
    return made({name: results(name) for name in DATASETS})


TABLES: dict[str, Callable[[], str]] = {
    "four in short": lambda: of_datasets(answers.in_short),
    "four": lambda: of_datasets(answers.table),
    "families": lambda: of_datasets(answers.families),
    "allocation": lambda: of_datasets(answers.allocation),
    "taught": lambda: of_datasets(answers.taught),
    "models": lambda: of_datasets(answers.models),
    "claims": lambda: answers.claims(results("ml-100k"), "listwise"),
}


# --- what stands on a page --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """A text of a page with ``{}`` for each number or verdict, and the places that those come from, in order."""

    text: str
    are: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A part of a page's text that comes from the results: a table's name or a number's place, and where it stands."""

    source: str
    start: int
    end: int


@functools.cache
def listed() -> dict[str, Any]:
    """numbers.toml."""
    return tomllib.loads(NUMBERS.read_text(encoding="utf-8"))


def pages() -> list[str]:
    """The pages that numbers.toml is about."""
    return list(dict.fromkeys([*listed()["tables"], *listed()["sentences"]]))


def sentences(page: str) -> list[Sentence]:
    """A page's sentences with numbers in them."""
    return [Sentence(one["text"], tuple(one["are"])) for one in listed()["sentences"].get(page, [])]


def tables_in(text: str, wanted: dict[str, str]) -> list[Part]:
    """The one table under each heading, by the name of what makes it.

    Raises:
        LookupError: no such heading, or not one table between it and the next.
    """
    parts = []
    for heading, name in wanted.items():
        sections = [*re.finditer(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)]
        found = [(one.start(1), table) for one in sections for table in re.finditer(r"(?:^\|.*\n)+", one[1], re.M)]
        if len(sections) != 1 or len(found) != 1:
            raise LookupError(f"{len(found)} tables under {len(sections)} headings {heading!r}: there must be one")
        start, table = found[0]
        parts.append(Part(name, start + table.start(), start + table.end()))
    return parts


def numbers_in(text: str, sentence: Sentence) -> list[Part]:
    """Where the numbers and verdicts of a sentence stand, however its lines are broken.

    Raises:
        LookupError: the text does not have the sentence, or has it more than once.
    """
    around = [r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in sentence.text.strip().split("{}")]
    found = [*re.finditer(SHOWN.join(around), text)]
    if len(found) != 1 or len(around) != len(sentence.are) + 1:
        told = f"{len(found)} times on the page, with {len(sentence.are)} places for {len(around) - 1} numbers"
        raise LookupError(f"{sentence.text.strip()!r} stands {told}")
    return [Part(path, *found[0].span(number)) for number, path in enumerate(sentence.are, 1)]


# --- what the results say ---------------------------------------------------------------------------------------------


def look_up(metrics: Any, path: str) -> Any:
    """The value at a path of metrics.json. In a list of rows, ``a=x,b=y`` picks the one row where a is x and b is y.

    What lies behind a null is null.

    Raises:
        LookupError: there is no such place, or more than one such row.
    """
    for step in re.split(r"\.(?!\d|cpp)", path):  # not within a name like Qwen2.5 or llama.cpp
        if metrics is None:
            return None
        if isinstance(metrics, list):
            wanted = dict(pair.split("=", 1) for pair in re.split(r",(?=\w+=)", step))
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
    sign = "+" if shown.startswith("+") or (shown.startswith(("−", "-")) and value > 0) else ""
    return f"{value * 100 if percent else value:{sign}z.{decimals}f}".replace("-", "−")


def anew(text: str, part: Part) -> str:
    """A number or verdict of a text as the results have it.

    Raises:
        LookupError: no such place, or no verdict there.
        TypeError, ValueError: no number there.
    """
    value, shown = look_up(*metrics_of(part.source)), text[part.start : part.end]
    if shown not in WORDS:
        return as_shown(float(value), shown, percent=bool(re.match(r"\s?%", text[part.end :])))
    if value is not None and value not in WORDS:
        raise LookupError(f"{part.source}: {value!r} is no verdict")
    return value or NOT_RUN


def rewritten(text: str, wanted: dict[str, str], told: list[Sentence]) -> tuple[str, list[str]]:
    """The text with tables, numbers and verdicts as the results have them, and what is wrong with those left alone."""
    problems, parts, found = [], [], {}
    try:
        for part in reversed(sorted(tables_in(text, wanted), key=lambda part: part.start)):
            text = f"{text[: part.start]}{TABLES[part.source]()}\n{text[part.end :]}"
    except LookupError as error:
        problems.append(str(error))
    for sentence in told:
        try:
            parts += numbers_in(text, sentence)
        except LookupError as error:
            problems.append(str(error))
    for part in parts:
        try:
            value = anew(text, part)
        except (LookupError, TypeError, ValueError) as error:
            problems.append(str(error))
            continue
        if found.setdefault((part.start, part.end), value) != value:
            problems.append(f"{part.source} is {value}, and another place for the same words is not")
    for (start, end), value in sorted(found.items(), reverse=True):
        text = text[:start] + value + text[end:]
    return text, problems


def from_results(page: str, text: str) -> tuple[str, list[str]]:
    """A page's text as the results have it, and what is wrong with it, by numbers.toml."""
    return rewritten(text, listed()["tables"].get(page, {}), sentences(page))


def main() -> None:
    """Write the numbers of the pages anew, or say which pages differ."""
    parser = argparse.ArgumentParser(description="numbers on pages, beside the results that they come from")
    parser.add_argument("--write", action="store_true", help="put in the results' numbers; else only say what differs")
    parser.add_argument("pages", nargs="*", default=pages(), help="from the root of the repository; by default all")
    given = parser.parse_args()
    trouble = []
    for page in given.pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        found, problems = from_results(page, text)
        trouble += [f"{page}: {problem}" for problem in problems]
        if found == text:
            continue
        print(f"{page}: {'written anew' if given.write else 'differs from the results'}")
        if given.write:
            (ROOT / page).write_text(found, encoding="utf-8")
    if trouble:
        raise SystemExit("left as they were, mend the page or tests/numbers.toml:\n" + "\n".join(trouble))


if __name__ == "__main__":
    main()
