"""Figures of notebook 04: what the language model answers, and what it reads."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREY, ORANGE, PURPLE, RED, new_axes, reach


def validity_bars(rates: pd.DataFrame) -> Figure:
    """Share of candidates missing, and of items invented or repeated, by number of candidates; one panel a mode.

    Args:
        rates: index ranker, candidates; columns missing, invalid, duplicates.
    """
    modes = list(rates.index.get_level_values("ranker").unique())
    figure, axes = new_axes(len(modes), 4.4, 3.2)
    for axis, mode in zip(axes, modes, strict=True):
        of_mode = rates.loc[mode]
        for kind, colour in (("missing", RED), ("invalid", ORANGE), ("duplicates", PURPLE)):
            axis.plot(of_mode.index, of_mode[kind], marker="o", color=colour, label=kind)
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axis.set_xlim(of_mode.index.min() - 0.5, of_mode.index.max() + 0.5)
        axis.set(xlabel="candidates to rank", title=mode, ylim=(0, max(0.1, rates.to_numpy().max() * 1.05)))
    axes[0].set_ylabel("per candidate")
    axes[0].legend()
    return figure


def position_bias(report: pd.DataFrame) -> Figure:
    """How far answers repeat the order shown, and agree over shuffles: a dot a user, a diamond the mean.

    Args:
        report: index ranker, user; columns echo, agreement (Kendall's tau).
    """
    modes = list(report.index.get_level_values("ranker").unique())
    figure, axes = new_axes(2, 4.6, 0.9 + 0.75 * len(modes))
    spread = np.random.default_rng(0)
    titles = {"echo": "Answer and the order shown", "agreement": "Answers to two orders shown"}
    for axis, column in zip(axes, titles, strict=True):
        for row, mode in enumerate(modes):
            values = report.loc[mode, column]
            axis.plot(values, row + spread.uniform(-0.25, 0.25, len(values)), "o", ms=3, color=BLUE, alpha=0.35)
            axis.plot(values.mean(), row, "D", ms=9, color=ORANGE, mec="white")
        axis.axvline(0, color=RED, ls="--", lw=1)
        axis.set(xlim=(-1.08, 1.08), ylim=(len(modes) - 0.5, -0.5), xlabel="Kendall's τ", title=titles[column])
        axis.set_xticks([-1, -0.5, 0, 0.5, 1])
        axis.set_yticks(range(len(modes)), modes if axis is axes[0] else [""] * len(modes))
    return figure


def reading(table: pd.DataFrame) -> Figure:
    """AUC by what the model was shown: dots with their 95 % intervals, a panel a model, chance dotted.

    Args:
        table: model, history (what was shown), users, auc, low, high.
    """
    models = list(table["model"].unique())
    tall = 1.2 + 0.34 * table["history"].nunique()
    figure, axes = new_axes(len(models), max(3.4, 5.6 / max(len(models), 1)), tall)
    for axis, model in zip(axes, models, strict=True):
        rows = table[table["model"] == model].iloc[::-1]
        places = np.arange(len(rows))
        axis.axvline(0.5, color=GREY, ls=":", lw=1)
        axis.hlines(places, rows["low"], rows["high"], color=BLUE, lw=2)
        axis.scatter(rows["auc"], places, color=BLUE, s=36, zorder=3)
        for place, value in zip(places, rows["auc"], strict=True):
            axis.annotate(f"{value:.3f}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axis.set_yticks(places, rows["history"] if axis is axes[0] else [""] * len(rows))
        axis.set(xlim=reach(0.4, 0.6, table["low"], table["high"], table["auc"]), ylim=(-0.5, len(rows) - 0.4))
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axis.set(xlabel="mean AUC over users (dotted: ½)")
        axis.set_title(f"{model}\n({rows['users'].iloc[0]:,} users)", fontsize=9)
    return figure
