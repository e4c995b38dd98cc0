"""Numbers in README.md carry the place they come from: ``0.50<!--headline.published.random.weak_auc_after-->``.

A place in another experiment's metrics.json than the default's begins with its name: ``book-crossing/headline...``. One
in benchmarks/results.json begins with ``benchmarks/``.
"""

import json
import re
from typing import Any

from hybridrec import paths

ANNOTATED = re.compile(r"(?P<shown>[+−-]?\d+(?:\.\d+)?)(?P<percent>\s?%)?<!--(?P<path>[^>]+)-->")
PAPER = "paper"


def metrics_of(path: str) -> tuple[Any, str]:
    """The metrics.json that a path is about, and the path within it."""
    experiment, slash, inner = path.partition("/")
    folder, place = (experiment, inner) if slash else ("ml-100k", path)
    file = paths.ROOT / ("benchmarks/results.json" if folder == "benchmarks" else f"results/{folder}/metrics.json")
    return json.loads(file.read_text(encoding="utf-8")), place


def look_up(metrics: Any, path: str) -> float:
    """The value at a path of metrics.json. In a list of rows, ``a=x,b=y`` picks the one row where a is x and b is y."""
    for step in re.split(r"\.(?!\d)", path):  # not within a name like Qwen2.5
        if isinstance(metrics, list):
            wanted = dict(pair.split("=") for pair in step.split(","))
            (metrics,) = [row for row in metrics if all(str(row.get(key)) == value for key, value in wanted.items())]
        else:
            metrics = metrics[step]
    return metrics


def as_shown(value: float, shown: str, percent: bool) -> str:
    """The value written with the sign and the decimals of the text."""
    decimals = len(shown.partition(".")[2])
    sign = "+" if shown.startswith("+") else ""
    return f"{value * 100 if percent else value:{sign}.{decimals}f}".replace("-", "−")
