"""Figures of notebook 03: who is weak, and who was unlucky."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, RED, legend_below, new_axes, reach


def triage_map(triage: pd.DataFrame, thresholds: tuple[float, float], names: Sequence[str]) -> Figure:
    """P(u) against S_I(u) for the named recommenders; weak users are the coloured corner."""
    figure, axes = new_axes(len(names), 3.6, 3.4)
    for axis, name in zip(axes, names, strict=True):
        rows = triage[triage["recommender"] == name].dropna(subset=["performance"])
        for weak, colour, label in ((False, GREY, "strong"), (True, RED, "weak")):
            part = rows[rows["weak"] == weak]
            axis.scatter(
                part["sparsity"], part["performance"], s=9, alpha=0.5, color=colour, label=label, rasterized=True
            )
        axis.axhline(thresholds[0], color="black", lw=0.8, ls="--")
        axis.axvline(thresholds[1], color="black", lw=0.8, ls="--")
        axis.set(title=f"{name}: {int(rows['weak'].sum())} weak", xlabel="S_I(u)", ylim=(-0.05, 1.05))
    axes[0].set_ylabel("P(u)")
    axes[0].legend(loc="lower left", markerscale=2)
    return figure


def regression_to_the_mean(table: pd.DataFrame) -> Figure:
    """The same users and recommender on the half they were picked on and on the other half, with intervals.

    Args:
        table: recommender, picked_on and other_half with their _low and _high (``found.regression_to_the_mean``).
    """
    figure, (axis,) = new_axes(1, 6.5, 4.0)
    looks = {"picked_on": (RED, "half they were picked on"), "other_half": (BLUE, "other half, nothing changed")}
    _dots(axis, table, "recommender", looks)
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set(xlabel="mean AUC of the users picked as weak (95 % interval)", xlim=(0, 1))
    axis.set_title("Users picked as weak on half of their test items, and on the other half")
    legend_below(figure, axis, 2)
    return figure


def _dots(axis: plt.Axes, table: pd.DataFrame, by: str, looks: Mapping[str, tuple[str, str]]) -> None:
    """A row of the table is a line, the first on top; each number is a dot with its interval, one below the other.

    Args:
        table: ``by``, and each number with its _low and _high.
        looks: for each number its colour and what it is called.
    """
    places = np.arange(len(table))[::-1]
    for number, (name, (colour, label)) in enumerate(looks.items()):
        heights = places + 0.24 * ((len(looks) - 1) / 2 - number)
        axis.hlines(heights, table[f"{name}_low"], table[f"{name}_high"], color=colour, lw=1.5)
        axis.plot(table[name], heights, "o", color=colour, ms=6, label=label)
    axis.set(ylim=(-0.6, len(table) - 0.4))
    axis.set_yticks(places, table[by])


def flagged_and_rest(table: pd.DataFrame) -> Figure:
    """AUC on fresh items of flagged users and of the other inactive ones, with intervals, by rule of triage.

    Args:
        table: rule, flags, flagged_auc and rest_auc with their _low and _high (``found.detection``).
    """
    figure, (axis,) = new_axes(1, 7, 1.6 + 0.4 * len(table))
    named = table.assign(name=table["rule"] + [f" ({flags:,.0f} flags)" for flags in table["flags"]])
    looks = {"flagged_auc": (RED, "flagged as weak"), "rest_auc": (BLUE, "other inactive users")}
    _dots(axis, named, "name", looks)
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set(xlabel="mean AUC on the fold left out (95 % interval; dashed: a random order)")
    axis.set_title("Flagged and other inactive users on fresh items, by rule of triage")
    legend_below(figure, axis, 2)
    return figure


def worlds(table: pd.DataFrame) -> Figure:
    """What the published protocol reports of a random order, and in simulated worlds (95 % bands).

    Args:
        table: recommender, world, and flagged, gain and gain_fresh with _low and _high (``worlds.bands``).
    """
    figure, axes = new_axes(3, 4.0, 4.6)
    names, kinds = list(table["recommender"].unique()), list(table["world"].unique())
    places = np.arange(len(names))[::-1]
    titles = {
        "flagged": ("Users flagged as weak", "inactive users"),
        "gain": ("On the items that flagged them", "AUC that a random order gains\nover the recommender"),
        "gain_fresh": ("On other items of the same users", "AUC that a random order gains\nover the recommender"),
    }
    for axis, (what, (title, label)) in zip(axes, titles.items(), strict=True):
        for number, (kind, colour) in enumerate(zip(kinds, (GREY, ORANGE, GREEN), strict=True)):
            rows = table[table["world"] == kind]
            heights = pd.Series(places, names)[rows["recommender"]] + 0.24 * (1 - number)
            axis.hlines(heights, rows[f"{what}_low"], rows[f"{what}_high"], color=colour, lw=3, label=kind)
        observed = table.drop_duplicates("recommender")[what]
        axis.plot(observed, places, "o", color=BLUE, ms=6, label="in the data")
        axis.set_yticks(places, names if axis is axes[0] else [""] * len(names))
        axis.set(title=title, xlabel=label)
        if what == "flagged":
            axis.set_xlim(left=0)
        else:
            axis.axvline(0, color="black", lw=0.8)
    legend_below(figure, axes[0], 4)
    return figure


def truly_weak(table: pd.DataFrame) -> Figure:
    """Users flagged as weak, and how many of them are weak once luck is taken off.

    Args:
        table: recommender, flagged, truly_weak with _low and _high, at_least, at_most (``luck.truly_weak``).
    """
    figure, (axis,) = new_axes(1, 7.0, 4.2)
    places = np.arange(len(table))[::-1]
    axis.hlines(places, table["at_least"], table["at_most"], color=GREY, lw=1, label="any distribution")
    low, high = table["truly_weak_low"], table["truly_weak_high"]
    axis.hlines(places, low, high, color=BLUE, lw=3, label="95 % interval")
    axis.plot(table["truly_weak"], places, "o", color=BLUE, ms=6, label="truly at or below t_p")
    axis.plot(table["flagged"], places, "o", mfc="white", mec=RED, mew=1.5, ms=7, label="flagged")
    axis.set_yticks(places, table["recommender"])
    axis.set(xlim=(0, 1.05 * reach(0, 1, table["flagged"], table["at_most"], high)[1]), xlabel="inactive users")
    axis.set_title("Inactive users at or below t_p: flagged, and once luck is taken off")
    legend_below(figure, axis, 4)
    return figure


def sensitivity(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """AUC on fresh items of users flagged under other settings, with intervals; a panel each table.

    Args:
        tables: by the name of the setting along the axis: x, line (the setting that has a line for each value, with its
            name in ``attrs["line"]``), flags, flagged_auc and its _low and _high. Fewer than ten flags are not shown.
    """
    figure, axes = new_axes(len(tables), 4.6, 4.0)
    for axis, (label, table) in zip(axes, tables.items(), strict=True):
        enough, lines = table[table["flags"] >= 10], sorted(table["line"].unique())
        places = {value: number for number, value in enumerate(sorted(table["x"].unique()))}
        for number, (value, colour) in enumerate(zip(lines, cycle((GREY, BLUE, GREEN, ORANGE)), strict=False)):
            rows = enough[enough["line"] == value]
            at = rows["x"].map(places) + 0.12 * (number - (len(lines) - 1) / 2)
            axis.vlines(at, rows["flagged_auc_low"], rows["flagged_auc_high"], color=colour, lw=1.5)
            axis.plot(at, rows["flagged_auc"], "o", color=colour, ms=5, label=f"{value:.4g}")
        axis.axhline(0.5, color=RED, ls="--", lw=0.8)
        axis.set_xticks(list(places.values()), [f"{value:g}" for value in places])
        axis.set(xlabel=label)
        axis.legend(title=table.attrs["line"], fontsize=8, title_fontsize=8, ncols=2)
    limits = reach(0.45, 0.7, *(table[f"flagged_auc{end}"] for table in tables.values() for end in ("_low", "_high")))
    for axis in axes:
        axis.set_ylim(limits[0], limits[1] + 0.06)
    axes[0].set_ylabel("AUC of the flagged on the fold left out (95 %)")
    return figure
