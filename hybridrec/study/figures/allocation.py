"""The figures of notebook 08, in the style of all others."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hybridrec.study import allocation_study as study
from hybridrec.study.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    WIDE,
    errors,
    legend_below,
    new_axes,
    use_style,
)

_COLOURS = {
    study.RANDOM: GREY,
    study.PUBLISHED: RED,
    study.BEST_ARM: ORANGE,
    study.WORST_FIRST: GREEN,
    study.PREDICTED: BLUE,
    study.PREDICTED + study.OF_LLM: PURPLE,
}
_OTHERS = ("#56B4E9", "#8B4513", "#999933")  # of policies that only some experiments have


def _colours(policies: Sequence[str]) -> dict[str, str]:
    """A colour for each policy, the same in every figure."""
    others = cycle(_OTHERS)
    return {name: _COLOURS.get(name) or next(others) for name in policies}


def _rows(axis: plt.Axes, names: Sequence[str]) -> np.ndarray:
    """Name the rows of a panel, from the top; their places."""
    places = np.arange(len(names))[::-1]
    axis.set_yticks(places, [textwrap.fill(name, 28) for name in names], fontsize=9)
    axis.set_ylim(-0.6, len(names) - 0.4)
    return places


def arms(table: pd.DataFrame) -> Figure:
    """Each arm's mean uplift with its 95 % interval over the users whose lists it ranked, and the share made worse.

    Args:
        table: arm, users, mean, low, high, made_worse.
    """
    figure, (axis,) = new_axes(1, WIDE, 1.3 + 0.36 * len(table))
    named = zip(table["arm"], table["users"], strict=True)
    places = _rows(axis, [f"{arm} (n = {users:,})" for arm, users in named])
    colours = [GREY if arm == study.RANDOM_ORDER else BLUE for arm in table["arm"]]
    axis.hlines(places, table["low"], table["high"], color=colours, lw=2)
    axis.scatter(table["mean"], places, color=colours, s=36, zorder=3)
    axis.axvline(0, color="black", lw=0.8)
    end = max([0.0, *table["high"].dropna()])
    span = end - min([0.0, *table["low"].dropna()]) or 1.0
    for place, share in zip(places, table["made_worse"], strict=True):
        axis.text(end + 0.05 * span, place, f"{share:.0%} worse", va="center", fontsize=9)
    axis.set_xlim(right=end + 0.3 * span)
    axis.set_xlabel("mean uplift in AUC (95 %; n users were asked about)")
    axis.set_title("If all whom an arm has ranked for were handed over")
    return figure


def reliability(table: pd.DataFrame) -> Figure:
    """How reliable each arm's uplift of a user is, and how much users' true uplifts differ, with 95 % intervals.

    Args:
        table: arm, users, reliability, low, high, mean, sd, sd_low, sd_high.
    """
    use_style()
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDE, 2.2 + 0.64 * len(table)))
    for axis, (value, low, high), label in (
        (above, ("reliability", "low", "high"), "reliability of a user's mean uplift (1: no luck in it)"),
        (below, ("sd", "sd_low", "sd_high"), "uplift in AUC"),
    ):
        places = _rows(axis, list(table["arm"]))
        axis.hlines(places, table[low], table[high], color=BLUE, lw=2)
        axis.scatter(table[value], places, color=BLUE, s=36, zorder=3, label="true spread over users")
        axis.axvline(0, color=GREY, lw=1)
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    below.scatter(table["mean"], places, color=ORANGE, marker="D", s=30, zorder=3, label="mean uplift")
    above.set_title(f"Is uplift a property of the user? (95 %, n = {table['users'].max():,})")
    below.set_title("How much do users differ?")
    legend_below(figure, below, 2)
    return figure


def ceiling(table: pd.DataFrame, share: float) -> Figure:
    """What choosing the right users could gain over everybody: with luck, without it, and by a user's other folds.

    Args:
        table: arm, raw, corrected, held_out, of one budget.
        share: the budget.
    """
    figure, (axis,) = new_axes(1, WIDE, 1.5 + 0.36 * len(table))
    places = _rows(axis, list(table["arm"]))
    axis.hlines(places, table["corrected"], table["raw"], color=GREY, lw=1)
    looks = (
        ("raw", GREY, "x", "by the outcome itself"),
        ("corrected", BLUE, "o", "luck taken off"),
        ("held_out", ORANGE, "D", "by other folds"),
    )
    for column, colour, marker, label in looks:
        axis.scatter(table[column], places, color=colour, marker=marker, s=34, zorder=3, label=label)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_xlabel(f"AUC gained over everybody, {share:.0%} of all users handed over")
    axis.set_title("The most that choosing users could gain")
    legend_below(figure, axis, 3)
    return figure


def predictions(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Predicted uplift against what came out, for groups of lists of equal size.

    Args:
        tables: by arm, predicted, came_out, low, high.
    """
    use_style()
    shape = (max(1, -(-len(tables) // 2)), 2)
    figure, axes = plt.subplots(*shape, figsize=(WIDE, 0.5 + 2.1 * shape[0]), squeeze=False)
    for axis in axes.flat[len(tables) :]:
        axis.set_axis_off()
    for axis, (arm, rows) in zip(axes.flat, tables.items(), strict=False):
        axis.errorbar(rows["predicted"], rows["came_out"], errors(rows, "came_out"), fmt="o", color=BLUE, ms=5)
        ends = [rows["predicted"].min(), rows["predicted"].max()]
        axis.plot(ends, ends, color=GREY, ls="--", lw=1)
        axis.axhline(0, color=GREY, lw=0.7)
        axis.xaxis.set_major_locator(MaxNLocator(3))  # more would run into each other
        axis.set_title(textwrap.fill(arm, 30), fontsize=9.5)
    figure.supxlabel("predicted uplift (AUC)", fontsize=10)
    figure.supylabel("uplift that came out (AUC, 95 %)", fontsize=10)
    return figure


def frontier(table: pd.DataFrame, policies: Sequence[str], ceiling: pd.DataFrame | None = None) -> Figure:
    """The gain of each group against the share of users handed over, a line a policy, with 95 % intervals.

    Args:
        table: what ``frontier.frontier`` returned.
        policies: which of its policies, in the order of the legend.
        ceiling: share, corrected: the oracle less its noise, drawn for everybody.
    """
    names = list(table["group"].unique())
    use_style()
    figure, axes = plt.subplots(len(names), 1, figsize=(WIDE, 1.2 + 2.5 * len(names)), squeeze=False)
    axes = axes[:, 0]
    steps = {share: at for at, share in enumerate(sorted(table["share"].unique()))}
    for axis, name in zip(axes, names, strict=True):
        axis.axhline(0, color=GREY, lw=1)
        for at, (policy, colour) in enumerate(_colours(policies).items()):
            rows = table[(table["group"] == name) & (table["policy"] == policy)].sort_values("share")
            places = rows["share"].map(steps) + (at - len(policies) / 2) * 0.08  # beside each other, so that all show
            axis.errorbar(
                places, rows["gain"], errors(rows, "gain"), color=colour, marker="o", ms=3.5, lw=1.2, label=policy
            )
        if name == "everybody" and ceiling is not None:
            places = ceiling["share"].map(steps)
            axis.plot(places, ceiling["corrected"], color="black", ls=":", lw=1.8, label="oracle less its noise")
        axis.set_xticks(list(steps.values()), [f"{share:.0%}" for share in steps])
        users = table.loc[table["group"] == name, "users"].max()
        axis.set(title=f"Gain of: {name} (n = {users:,})", ylabel="AUC gained")
    axes[-1].set_xlabel("budget: share of all users")
    shown = max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
    handles, labels = shown.get_legend_handles_labels()
    figure.legend(handles, [textwrap.fill(one, 34) for one in labels], loc="outside lower center", ncols=2, fontsize=9)
    return figure


def dollars(table: pd.DataFrame, policies: Sequence[str], users: int) -> Figure:
    """Everybody's gain against the bill, for those policies whose price is known.

    Args:
        table: what ``study.bill`` returned: policy, usd, gain, low, high.
        policies: which of its policies.
        users: for how many the bill is.
    """
    figure, (axis,) = new_axes(1, WIDE, 3.4)
    axis.axhline(0, color=GREY, lw=1)
    for policy, colour in _colours(policies).items():
        rows = table[(table["policy"] == policy) & table["usd"].notna()].sort_values("share")
        label = policy if len(rows) else f"{policy}: price not known"
        axis.errorbar(
            rows["usd"], rows["gain"], errors(rows, "gain"), color=colour, marker="o", ms=4, lw=1.2, label=label
        )
    axis.set(xlabel=f"US dollars for a list each of {users:,} users", ylabel="gain of everybody (AUC, 95 %)")
    axis.set_title("Gain of everybody against the bill")
    legend_below(figure, axis, 1)
    return figure


def redraws(draws: Mapping[str, pd.Series], alpha: float) -> Figure:
    """The share of users made worse, over redraws of the calibration users, beside the bound on its mean.

    Args:
        draws: by name, the share in each redraw: the mean is a dot, the middle 95 % a line.
        alpha: the bound on the mean.
    """
    figure, (axis,) = new_axes(1, WIDE, 1.5 + 0.5 * max(1, len(draws)))
    places = _rows(axis, list(draws))
    for place, shares in zip(places, draws.values(), strict=True):
        low, high = np.quantile(shares, [0.025, 0.975])
        axis.hlines(place, low, high, color=BLUE, lw=2)
        axis.scatter(shares.mean(), place, color=BLUE, s=36, zorder=3)
        axis.text(shares.mean(), place + 0.12, f"{shares.mean():.1%}", ha="center", va="bottom", fontsize=9)
    axis.axvline(alpha, color=RED, lw=1.5)
    axis.text(alpha, -0.55, " bound on the mean", color=RED, va="bottom", fontsize=9)
    number = max([0, *map(len, draws.values())])
    axis.set(xlim=(0, None), xlabel=f"share of users made worse\n(mean and middle 95 % of {number} redraws)")
    axis.margins(x=0.12)
    axis.set_title("Users made worse, under a bound")
    return figure
