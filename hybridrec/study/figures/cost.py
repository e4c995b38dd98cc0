"""Figures of notebook 06: what a call takes, whom the bill is for, and what it buys."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, WIDE, legend_below, new_axes, reach
from hybridrec.study.names import LLM

_KINDS = {"computed": BLUE, "cached": GREY, "written": ORANGE}
_ROUTINGS = {"weak only": ORANGE, "everybody inactive": PURPLE, "everybody": BLUE}


def tokens(calls: pd.DataFrame, over: str) -> Figure:
    """The tokens of one call by kind, for each way to ask, with the seconds that it took.

    Args:
        calls: a row a way to ask (the index): computed, cached, written (tokens) and seconds.
        over: over whom these are medians, such as "604 inactive users".
    """
    figure, (axis,) = new_axes(1, WIDE, 1.6 + 0.42 * len(calls))
    places, left = np.arange(len(calls))[::-1], np.zeros(len(calls))
    for kind, colour in _KINDS.items():
        axis.barh(places, calls[kind], 0.62, left, color=colour, label=kind)
        left += calls[kind].fillna(0).to_numpy()
    most = max([*left, 1.0])
    for place, end, seconds in zip(places, left, calls["seconds"], strict=True):
        axis.text(end + 0.01 * most, place, f"{seconds:.1f} s", va="center")
    axis.set_yticks(places, calls.index)
    axis.set(xlim=(0, 1.14 * most), xlabel=f"tokens (median of {over}; at the end: seconds)")
    axis.set_title("One call: tokens by kind")
    legend_below(figure, axis, 3)
    return figure


def bill(table: pd.DataFrame) -> Figure:
    """The bill of a test fold by who is handed over, for each way to ask.

    Args:
        table: what ``costs.cost_table`` returned: ranker, routing, calls, usd (NaN: not run).
    """
    ways = list(dict.fromkeys(table["ranker"]))
    figure, (axis,) = new_axes(1, WIDE, 1.4 + 0.85 * len(ways))
    most = max([*table["usd"].dropna(), 1e-9])
    for at, (routing, colour) in enumerate(_ROUTINGS.items()):
        rows = table[table["routing"] == routing]
        places = len(ways) - 1 - rows["ranker"].map(ways.index) - (at - 1) * 0.27
        axis.barh(places, rows["usd"].fillna(0), 0.24, color=colour, label=routing)
        for place, usd, calls in zip(places, rows["usd"], rows["calls"], strict=True):
            said = "not run" if np.isnan(usd) else f"{calls:,.0f} calls"
            axis.text((0 if np.isnan(usd) else usd) + 0.01 * most, place, said, va="center", fontsize=9)
    axis.set_yticks(np.arange(len(ways))[::-1], ways)
    axis.set(xlim=(0, 1.2 * most), xlabel="US dollars a test fold")
    axis.set_title("The bill, by who is handed over")
    legend_below(figure, axis, 3)
    return figure


def quality(points: pd.DataFrame, way: str) -> Figure:
    """What hybrids add to the AUC over everybody, with 95 % intervals, and the price of the cheapest way to ask.

    Args:
        points: arm, routing, n, usd (NaN: not known), mean, low, high.
        way: the way to ask that is priced.
    """
    known = points.dropna(subset=["low"])
    figure, (axis,) = new_axes(1, WIDE, 1.5 + 0.6 * max(1, len(known)))
    places = np.arange(len(known))[::-1]
    colours = [ORANGE if arm == LLM else GREEN for arm in known["arm"]]
    axis.hlines(places, known["low"], known["high"], color=colours, lw=2)
    axis.scatter(known["mean"], places, color=colours, s=40, zorder=3)
    prices = ["price not known" if np.isnan(usd) else f"${usd:.4f}" if usd else "no call" for usd in known["usd"]]
    rows = zip(known["arm"], known["routing"], known["n"], prices, strict=True)
    axis.set_yticks(places, [f"{arm}\n{routing}, n = {n:,}\n{price}" for arm, routing, n, price in rows], fontsize=9)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_xlim(reach(-0.01, 0.01, known["low"], known["high"]))
    axis.set(ylim=(-0.6, max(1, len(known)) - 0.4), xlabel="AUC gained over the recommender, everybody")
    axis.set_title(f"What handing over adds; its price a fold ({way})")
    return figure
