"""Numbers in README.md carry the place they come from: ``0.50<!--headline.published.random.weak_auc_after-->``."""

import re
from typing import Any

ANNOTATED = re.compile(r"(?P<shown>[+−-]?\d+(?:\.\d+)?)(?P<percent>\s?%)?<!--(?P<path>[^>]+)-->")
PAPER = "paper"


def look_up(metrics: Any, path: str) -> float:
    """The value at a path of metrics.json. In a list of rows, ``a=x,b=y`` picks the one row where a is x and b is y."""
    for step in path.split("."):
        if isinstance(metrics, list):
            wanted = dict(pair.split("=") for pair in step.split(","))
            (metrics,) = [row for row in metrics if all(row[key] == value for key, value in wanted.items())]
        else:
            metrics = metrics[step]
    return metrics


def as_shown(value: float, shown: str, percent: bool) -> str:
    """The value written with the sign and the decimals of the text."""
    decimals = len(shown.partition(".")[2])
    sign = "+" if shown.startswith("+") else ""
    return f"{value * 100 if percent else value:{sign}.{decimals}f}".replace("-", "−")
