"""What all figures have in common: one style, colours that the colour-blind can tell apart, and how they are saved."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec import files

# Okabe & Ito's palette, safe for the common kinds of colour blindness. A lighter grey would look like its green.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#555555"
WIDTH = 5.8  # inches: text of 10 points is still legible where the whole figure is 390 pixels wide
WIDE = 6.2  # of a figure whose rows have long names
_STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "hybridrec",
    "svg.fonttype": "none",
}


def use_style() -> None:
    """One look for all figures; a fixed salt makes an SVG the same bytes on every run."""
    mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write NAME.png and NAME.svg without dates or versions in them, and hand the figure back.

    In a notebook it is shown at once: otherwise it would come after all else that its cell shows.
    """
    for kind, undated in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with files.replacing(folder / f"{name}.{kind}") as partial:
            figure.savefig(partial, metadata=undated)
    if "inline" in mpl.get_backend():
        from IPython.display import display

        display(figure)
        plt.close(figure)
    return figure


def legend_below(figure: Figure, axis: plt.Axes, columns: int) -> None:
    """A legend under the figure, where it hides nothing and the layout makes room for it."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def reach(low: float, high: float, *values: pd.Series) -> tuple[float, float]:
    """The limits given, where values lie outside wider than these; what is no number does not count."""
    found, room = pd.concat(values, ignore_index=True).dropna(), (high - low) / 25
    return min([low, *(found - room)]), max([high, *(found + room)])


def errors(rows: pd.DataFrame, value: str) -> list[pd.Series]:
    """How far the interval (low, high) reaches below and above a value, as ``errorbar`` wants it."""
    return [rows[value] - rows["low"], rows["high"] - rows[value]]


def with_repairs(names: Iterable[str], rankings: pd.DataFrame | None, between: str = "\n") -> list[str]:
    """Rankers' names, each that left candidates out with the share of them that we appended at random.

    Args:
        names: what to call.
        rankings: ranker, user, missing (candidates left out of a user's answer), a row a candidate; None: only names.
        between: what stands between a name and its share.
    """
    if rankings is None:
        return list(names)
    shares = _repaired(rankings, ["ranker"])
    return [f"{name}{between}({_share(shares[name])} random repair)" if shares.get(name) else name for name in names]


def _share(repaired: float) -> str:
    """A share of random repair in words: where it is all, nobody got an answer that could be used."""
    return "no answer: 100%" if repaired == 1 else f"{repaired:.0%}"


def _repaired(rankings: pd.DataFrame, by: list[str]) -> pd.Series:
    """The share of candidates that answers left out."""
    of_users = rankings.groupby([*by, "user"], sort=False)["missing"].agg(["first", "size"])
    totals = of_users.groupby(by, sort=False).sum()
    return totals["first"] / totals["size"]


def new_axes(columns: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    """A figure with so many panels beside each other, each of that width and height in inches, in our style."""
    use_style()
    figure, axes = plt.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    return figure, axes[0]


def panels(heights: Sequence[float], width: float = WIDTH) -> tuple[Figure, np.ndarray]:
    """A figure with panels below each other, each of that height in inches: none is narrow on a narrow screen."""
    use_style()
    ratios = {"height_ratios": heights}
    figure, axes = plt.subplots(len(heights), 1, figsize=(width, sum(heights)), squeeze=False, gridspec_kw=ratios)
    return figure, axes[:, 0]


def in_a_corner(axis: plt.Axes, lines: Sequence[tuple[str, str]], right: bool = True, top: bool = True) -> None:
    """What colours mean, as coloured words in a corner that is empty: no legend to look up.

    Args:
        axis: the panel.
        lines: words and their colour, from top to bottom.
        right, top: which corner.
    """
    for number, (words, colour) in enumerate(lines if top else lines[::-1]):
        away = 4 + 15 * number
        axis.annotate(
            words, (float(right), float(top)), xycoords="axes fraction", textcoords="offset points",
            xytext=(-4 if right else 4, -away if top else away), color=colour, ha="right" if right else "left",
            va="top" if top else "bottom",
        )  # fmt: skip


def plain_logarithm(*axes: mpl.axis.Axis) -> None:
    """Label a logarithmic axis at 1, 3, 10, 30, ... with plain numbers."""
    for axis in axes:
        axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
        axis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(mpl.ticker.NullFormatter())
