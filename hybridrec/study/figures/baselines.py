"""Figures of notebook 02: tuning, and quality by ranking (notebook 04 draws it, too)."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREY, RED, WIDTH, legend_below, panels, reach, with_repairs


def tuning_curves(tuned: pd.DataFrame) -> Figure:
    """Quality of each recommender's declared settings by both targets; the chosen setting is filled and named.

    Args:
        tuned: what ``fitting.tune`` returned with lists.
    """
    names = [name for name in tuned["recommender"].unique() if (tuned["recommender"] == name).sum() > 1]
    targets = {
        "auc": ("chosen", "To order given items", "mean AUC over users, on validation"),
        "ndcg_at_10": ("chosen_top_k", "To retrieve from the catalogue", "mean NDCG@10 over users, on validation"),
    }
    figure, axes = panels([0.8 + 0.3 * max(1, len(names))] * 2)
    for axis, (measure, (marked, title, label)) in zip(axes, targets.items(), strict=True):
        for place, name in enumerate(names[::-1]):
            rows = tuned[tuned["recommender"] == name].sort_values("value")
            best, sizes = rows[rows[marked]], 4.0 + 3 * np.arange(len(rows))
            for value, size, chosen in zip(rows[measure], sizes, rows[marked], strict=True):
                inside, edge = (RED, RED) if chosen else ("none", BLUE)
                axis.plot(value, place, "o", ms=size, mew=1.3, mfc=inside, mec=edge, zorder=2 + chosen)
            for parameter, value in best[["parameter", "value"]].itertuples(index=False):
                at = (rows[measure].max(), place)
                axis.annotate(f"{parameter} {value:g}", at, (10, 0), textcoords="offset points", color=RED, va="center")
        axis.set_yticks(range(len(names)), names[::-1])
        axis.set(title=title, xlabel=label, ylim=(-0.6, len(names) - 0.4))
        axis.margins(x=0.04)
        low, high = axis.get_xlim()
        axis.set_xlim(low, high + 0.36 * (high - low))  # room for the names of the settings
    axes[1].set_xlim(left=min(0, axes[1].get_xlim()[0]))
    return figure


def quality_bars(
    table: pd.DataFrame, title: str, colour: str, rankings: pd.DataFrame | None = None, named: str = ""
) -> Figure:
    """Mean AUC of every ranking with its interval, the best on top; controls are grey.

    Args:
        table: columns name, control (bool), auc, low, high, and users where it is known how many.
        title: what is shown.
        colour: of whatever is no control.
        rankings: the model's rankings (ranker, user, missing); names then tell how much of them is random repair.
        named: what has this colour; nothing: the title says so.
    """
    rows = table.sort_values("auc")
    figure, (axis,) = panels([1.1 + 0.29 * max(3, len(rows))], WIDTH)
    colours = [GREY if control else colour for control in rows["control"]]
    places = np.arange(len(rows))
    axis.hlines(places, rows["low"], rows["high"], color=colours, lw=2)
    axis.scatter(rows["auc"], places, color=colours, s=36, zorder=3)
    axis.set_yticks(places, with_repairs(rows["name"], rankings))
    axis.axvline(0.5, color=RED, ls="--", lw=1)
    counts = sorted(set(rows["users"])) if "users" in rows else []
    over = " to ".join(f"{count:,.0f}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    axis.set_xlabel(f"mean AUC over {over} users (95 % interval)\ndashed: a random order".replace("  ", " "))
    axis.set_title(textwrap.fill(title, 52))
    axis.set_xlim(reach(0.45, 0.75, rows["low"], rows["high"]))
    if named:
        for words, of in ((named, colour), ("know nothing of the user", GREY)):
            axis.plot([], [], "o", color=of, label=words)
        legend_below(figure, axis, 2)
    return figure
