"""Figures of notebook 02: tuning, and quality by ranking (notebook 04 draws it, too)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREY, RED, new_axes, reach, use_style, with_repairs


def tuning_curves(tuned: pd.DataFrame) -> Figure:
    """Quality of each recommender's declared settings by both targets; the chosen setting is filled.

    Args:
        tuned: what ``fitting.tune`` returned with lists.
    """
    use_style()
    names = [name for name in tuned["recommender"].unique() if (tuned["recommender"] == name).sum() > 1]
    shape = (2, max(1, len(names)))
    figure, axes = plt.subplots(*shape, figsize=(1.5 * shape[1] + 1, 4.6), sharey="row", squeeze=False)
    targets = (("auc", "chosen", "AUC"), ("ndcg_at_10", "chosen_top_k", "NDCG@10,\nwhole catalogue"))
    for row, (measure, marked, label) in zip(axes, targets, strict=True):
        row[0].set_ylabel(f"validation {label}")
        for axis, name in zip(row, names, strict=False):
            rows = tuned[tuned["recommender"] == name]
            places = range(len(rows))
            axis.plot(places, rows[measure], color=BLUE, marker="o", markerfacecolor="white")
            axis.plot(np.flatnonzero(rows[marked]), rows.loc[rows[marked], measure], "o", color=RED, ms=8)
            axis.set_xticks(places, [f"{value:g}" for value in rows["value"]], fontsize=9)
            axis.set_xlabel(rows["parameter"].iloc[0])
            if measure == "auc":
                axis.set_title(name, fontsize=10)
    return figure


def quality_bars(table: pd.DataFrame, title: str, colour: str, rankings: pd.DataFrame | None = None) -> Figure:
    """Mean AUC of every ranking with its interval, the best on top; controls are grey.

    Args:
        table: columns name, control (bool), auc, low, high.
        title: what the colours mean.
        colour: of whatever is no control.
        rankings: the model's rankings (ranker, user, missing); names then tell how much of them is random repair.
    """
    figure, (axis,) = new_axes(1, 7.2, 3.8)
    rows = table.sort_values("auc")
    colours = [GREY if control else colour for control in rows["control"]]
    places = np.arange(len(rows))
    axis.hlines(places, rows["low"], rows["high"], color=colours, lw=2)
    axis.scatter(rows["auc"], places, color=colours, s=36, zorder=3)
    axis.set_yticks(places, with_repairs(rows["name"], rankings))
    axis.axvline(0.5, color=RED, ls="--", lw=1)
    axis.set(xlabel="mean AUC (95 % interval over users); dashed: a random order", title=title)
    axis.set_xlim(reach(0.4, 0.8, rows["low"], rows["high"]))
    return figure
