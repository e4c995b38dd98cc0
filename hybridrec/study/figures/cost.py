"""Figures of notebook 06: quality by cost."""

import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import GREY, ORANGE, legend_below, new_axes, reach


def quality_cost(points: pd.DataFrame, way: str) -> Figure:
    """What hybrids add to the AUC over everybody, with intervals, by what a test fold costs.

    Args:
        points: arm, routing, usd (NaN: not run), mean, low, high.
        way: the way to ask that is priced.
    """
    figure, (axis,) = new_axes(1, 7, 3.8)
    markers = dict(zip(points["routing"].unique(), "os^", strict=False))
    colours = dict(zip(points["arm"].unique(), (GREY, ORANGE), strict=False))
    known = points.dropna(subset=["usd", "low"])
    most = max([*known["usd"], 1e-9])
    for number, row in enumerate(known.to_dict("records")):
        at = row["usd"] + 0.015 * most * (number % 2)  # two that cost the same stand side by side
        axis.vlines(at, row["low"], row["high"], color=colours[row["arm"]], lw=1.5)
        label = f"{row['arm']}, {row['routing']}"
        axis.plot(at, row["mean"], markers[row["routing"]], color=colours[row["arm"]], ms=7, label=label)
    axis.axhline(0, color="black", lw=0.8)
    low, high = reach(-0.01, 0.01, known["low"], known["high"])
    axis.set(xlim=(-0.04 * most, 1.08 * most), ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
    axis.set(xlabel=f"US dollars a test fold (asked by {way}; another recommender takes no call)")
    axis.set_ylabel("AUC gained over the\nrecommender, everybody (95 %)")
    axis.set_title("What handing users over adds for everybody, by cost")
    if len(known):
        legend_below(figure, axis, 2)
    return figure
