"""Figures of notebook 03: who is weak, and who was unlucky."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    in_a_corner,
    legend_below,
    panels,
    plain_logarithm,
    reach,
)


def triage_map(triage: pd.DataFrame, thresholds: tuple[float, float], name: str, items: int) -> Figure:
    """P(u) of one recommender against how many ratings are known of a user; weak users are the coloured corner.

    Args:
        triage: what ``triage.triage_table`` returned.
        thresholds: t_p and t_s.
        name: of the recommender.
        items: how many the catalogue has.
    """
    figure, (axis,) = panels([3.6])
    rows = triage[triage["recommender"] == name].dropna(subset=["performance"])
    known = ((1 - rows["sparsity"]) * items).round().clip(lower=1)
    for weak, colour in ((False, GREY), (True, RED)):
        here = rows["weak"] == weak
        axis.scatter(known[here], rows.loc[here, "performance"], s=16, alpha=0.45, color=colour, rasterized=True)
    axis.set_xscale("log")
    plain_logarithm(axis.xaxis)
    axis.axhline(thresholds[0], color="black", lw=0.8, ls="--")
    axis.axvline((1 - thresholds[1]) * items, color="black", lw=0.8, ls="--")
    for words, at, off in (("t_p", (1, thresholds[0]), (2, 0)), ("t_s", ((1 - thresholds[1]) * items, 1), (0, 4))):
        across = "axes fraction" if words == "t_p" else "data"
        up = "data" if words == "t_p" else "axes fraction"
        axis.annotate(words, at, off, (across, up), "offset points", va="center" if words == "t_p" else "bottom")
    axis.set(xlabel="ratings known of a user: the fewer, the sparser", ylabel="P(u), on the test items")
    axis.set_ylim(-0.05, 1.05)
    axis.set_title(f"{name}: {rows['weak'].sum():,} of {len(rows):,} users with a pair are weak", pad=16)
    return figure


def regression_to_the_mean(table: pd.DataFrame) -> Figure:
    """The same users and recommender on the half they were picked on and on the other half, with intervals.

    Args:
        table: recommender, picked (how many users), picked_on and other_half with their _low and _high
            (``found.regression_to_the_mean``).
    """
    figure, (axis,) = panels([1.2 + 0.3 * max(3, len(table))])
    looks = {"picked_on": (RED, "the half they were picked on"), "other_half": (BLUE, "the other half")}
    picked = table.assign(name=table["recommender"] + [f" ({users:,.0f})" for users in table["picked"]])
    _dots(axis, picked, "name", looks)
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set(xlabel="mean AUC of the users picked (95 % interval)\ndashed: a random order", xlim=(0, 1))
    axis.set_title("The same users on two halves of their test items")
    if table.empty:
        axis.text(0.5, 0.5, "no user has a pair to order in both halves", ha="center", transform=axis.transAxes)
    else:
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


def flagged_and_rest(table: pd.DataFrame, by: str = "rule") -> Figure:
    """AUC on fresh items of flagged users and of the other inactive ones, with intervals.

    Args:
        table: ``by``, flags, flagged_auc and rest_auc with their _low and _high (``found.detection``).
        by: what there is a row for: a rule of triage or a recommender.
    """
    figure, (axis,) = panels([1.3 + 0.36 * len(table)])
    named = table.assign(name=table[by] + [f" ({flags:,.0f})" for flags in table["flags"]])
    looks = {"flagged_auc": (RED, "flagged as weak (how often)"), "rest_auc": (BLUE, "other inactive users")}
    _dots(axis, named, "name", looks)
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set(xlabel="mean AUC on fresh items (95 % interval)\ndashed: a random order")
    axis.set_title(f"Inactive users on the fold left out, by {by}")
    legend_below(figure, axis, 2)
    return figure


def worlds(table: pd.DataFrame) -> Figure:
    """What the published protocol reports of a random order, and in simulated worlds (95 % bands).

    Args:
        table: recommender, world, and flagged, gain and gain_fresh with _low and _high (``worlds.bands``).
    """
    names, kinds = list(table["recommender"].unique()), list(table["world"].unique())
    figure, axes = panels([0.95 + 0.3 * len(names)] * 3)
    places = np.arange(len(names))[::-1]
    gains = "AUC that a random order gains over the recommender"
    titles = {
        "flagged": ("Users flagged as weak", "inactive users"),
        "gain": ("Gain on the items that flagged them", gains),
        "gain_fresh": ("Gain on other items of the same users", gains),
    }
    for axis, (what, (title, label)) in zip(axes, titles.items(), strict=True):
        for number, (kind, colour) in enumerate(zip(kinds, (GREY, ORANGE, GREEN), strict=False)):
            rows = table[table["world"] == kind]
            heights = pd.Series(places, names)[rows["recommender"]] + 0.24 * (1 - number)
            axis.hlines(heights, rows[f"{what}_low"], rows[f"{what}_high"], color=colour, lw=3, label=kind)
            for end in ("_low", "_high"):  # a band may be a point
                axis.plot(rows[f"{what}{end}"], heights, "|", color=colour, ms=5, mew=2)
        observed = table.drop_duplicates("recommender")[what]
        axis.plot(observed, places, "o", color=BLUE, ms=7, label="in the data")
        axis.set_yticks(places, names)
        axis.set(title=title, xlabel=label, ylim=(-0.6, len(names) - 0.4))
        axis.axvline(0, color="black", lw=0.8)
    legend_below(figure, axes[0], 2)
    return figure


def truly_weak(table: pd.DataFrame) -> Figure:
    """Users flagged as weak, and how many of them are weak once luck is taken off.

    Args:
        table: recommender, users, flagged, truly_weak with _low and _high, at_least, at_most (``luck.truly_weak``).
    """
    figure, (axis,) = panels([1.5 + 0.29 * max(3, len(table))])
    places = np.arange(len(table))[::-1]
    axis.hlines(places, table["at_least"], table["at_most"], color=GREY, lw=1, label="any distribution")
    low, high = table["truly_weak_low"], table["truly_weak_high"]
    axis.hlines(places, low, high, color=BLUE, lw=3, label="95 % interval")
    axis.plot(table["truly_weak"], places, "o", color=BLUE, ms=6, label="truly at or below t_p")
    axis.plot(table["flagged"], places, "o", mfc="white", mec=RED, mew=1.5, ms=7, label="flagged")
    axis.set_yticks(places, table["recommender"])
    axis.set_xlim(0, 1.05 * reach(0, 1, table["flagged"], table["at_most"], high)[1])
    axis.set_xlabel(f"users, of {table['users'].max():,.0f} inactive ones with a pair")
    axis.set_title("Flagged, and weak once luck is taken off")
    legend_below(figure, axis, 2)
    return figure


def sensitivity(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """AUC on fresh items of users flagged under other settings, with intervals; a panel each table.

    Args:
        tables: by the name of the setting along the axis: x, line (the setting that has a line for each value, with its
            name in ``attrs["line"]``), flags, flagged_auc and its _low and _high. Fewer than ten flags are not shown.
    """
    figure, axes = panels([3.3] * len(tables))
    for axis, (label, table) in zip(axes, tables.items(), strict=True):
        enough, lines = table[table["flags"] >= 10], sorted(table["line"].unique())
        places = {value: number for number, value in enumerate(sorted(table["x"].unique()))}
        words = [(f"{table.attrs['line']}:", "black")]
        for number, (value, colour) in enumerate(zip(lines, cycle((GREY, BLUE, GREEN, ORANGE)), strict=False)):
            rows = enough[enough["line"] == value]
            at = rows["x"].map(places) + 0.12 * (number - (len(lines) - 1) / 2)
            axis.vlines(at, rows["flagged_auc_low"], rows["flagged_auc_high"], color=colour, lw=1.5)
            axis.plot(at, rows["flagged_auc"], "o", color=colour, ms=5)
            words.append((f"{value:.4g}", colour))
        axis.axhline(0.5, color=RED, ls="--", lw=0.8)
        axis.set_xticks(list(places.values()), [f"{value:g}" for value in places])
        axis.set(xlabel=label, xlim=(-0.5, len(places) + 0.4), ylabel="AUC on the fold left out")
        axis.set_title("Flagged users on fresh items (95 % interval)")
        in_a_corner(axis, words)
    limits = reach(0.45, 0.7, *(table[f"flagged_auc{end}"] for table in tables.values() for end in ("_low", "_high")))
    for axis in axes:
        axis.set_ylim(limits[0], limits[1] + 0.02)
    return figure
