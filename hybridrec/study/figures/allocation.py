"""The figures of notebook 08, in the style of all others."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hybridrec.study import allocation_study as study
from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, legend_below, new_axes, use_style

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


def reliability(table: pd.DataFrame) -> Figure:
    """How reliable each arm's uplift of a user is, and how much users' true uplifts differ, with 95 % intervals.

    Args:
        table: arm, reliability, low, high, mean, sd, sd_low, sd_high.
    """
    figure, (left, right) = new_axes(2, 4.9, 3.1)
    places = np.arange(len(table))[::-1]
    for axis, (value, low, high), label in (
        (left, ("reliability", "low", "high"), "reliability of a user's mean uplift\n(1: no luck in it)"),
        (right, ("sd", "sd_low", "sd_high"), "standard deviation of true uplift\nover users (AUC)"),
    ):
        axis.hlines(places, table[low], table[high], color=BLUE, lw=2)
        axis.scatter(table[value], places, color=BLUE, s=36, zorder=3)
        axis.axvline(0, color=GREY, lw=1)
        axis.set_yticks(places, table["arm"] if axis is left else [])
        axis.set_xlabel(label, fontsize=9)
    right.scatter(table["mean"], places, color=ORANGE, marker="D", s=30, zorder=3, label="mean uplift")
    left.set_title("Is it a property of the user?")
    right.set_title("How much do users differ?")
    right.legend(fontsize=8)
    return figure


def predictions(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Predicted uplift against what came out, for groups of lists of equal size.

    Args:
        tables: by arm, predicted, came_out, low, high.
    """
    use_style()
    columns = min(4, max(1, len(tables)))
    shape = (max(1, -(-len(tables) // columns)), columns)
    figure, axes = plt.subplots(*shape, figsize=(2.7 * columns, 2.9 * shape[0]), squeeze=False)
    for axis in axes.flat[len(tables) :]:
        axis.set_axis_off()
    for axis, (arm, rows) in zip(axes.flat, tables.items(), strict=False):
        axis.errorbar(
            rows["predicted"], rows["came_out"], [rows["came_out"] - rows["low"], rows["high"] - rows["came_out"]],
            fmt="o", color=BLUE, ms=5,
        )  # fmt: skip
        ends = [rows["predicted"].min(), rows["predicted"].max()]
        axis.plot(ends, ends, color=GREY, ls="--", lw=1)
        axis.axhline(0, color=GREY, lw=0.7)
        axis.set_xlabel("predicted uplift (AUC)")
        axis.set_title(textwrap.fill(arm, 30), fontsize=9)
    for first in axes[:, 0]:
        first.set_ylabel("uplift that came out")
    return figure


def frontier(table: pd.DataFrame, policies: Sequence[str], ceiling: pd.DataFrame | None = None) -> Figure:
    """The gain of each group against the share of users handed over, a line a policy, with 95 % intervals.

    Args:
        table: what ``frontier.frontier`` returned.
        policies: which of its policies, in the order of the legend.
        ceiling: share, corrected: the oracle less its noise, drawn for everybody.
    """
    names = list(table["group"].unique())
    figure, axes = new_axes(len(names), 3.9, 3.9)
    steps = {share: at for at, share in enumerate(sorted(table["share"].unique()))}
    for axis, name in zip(axes, names, strict=True):
        axis.axhline(0, color=GREY, lw=1)
        for at, (policy, colour) in enumerate(_colours(policies).items()):
            rows = table[(table["group"] == name) & (table["policy"] == policy)].sort_values("share")
            places = rows["share"].map(steps) + (at - len(policies) / 2) * 0.08  # beside each other, so that all show
            error = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
            axis.errorbar(places, rows["gain"], error, color=colour, marker="o", ms=4, lw=1.2, label=policy)
        if name == "everybody" and ceiling is not None:
            places = ceiling["share"].map(steps)
            axis.plot(places, ceiling["corrected"], color="black", ls=":", lw=1.8, label="oracle less its noise")
        axis.set_xticks(list(steps.values()), [f"{share:.0%}" for share in steps], fontsize=8)
        axis.set(xlabel="budget: share of all users", title=f"Gain of: {name}")
    axes[0].set_ylabel("gain over the recommender alone (AUC)")
    shown = max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
    legend_below(figure, shown, 3)
    return figure


def dollars(table: pd.DataFrame, policies: Sequence[str], users: int) -> Figure:
    """Everybody's gain against the bill, for those policies whose price is known.

    Args:
        table: what ``study.bill`` returned: policy, usd, gain, low, high.
        policies: which of its policies.
        users: for how many the bill is.
    """
    figure, (axis,) = new_axes(1, 7, 3.4)
    axis.axhline(0, color=GREY, lw=1)
    for policy, colour in _colours(policies).items():
        rows = table[(table["policy"] == policy) & table["usd"].notna()].sort_values("share")
        error = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
        axis.errorbar(rows["usd"], rows["gain"], error, color=colour, marker="o", ms=4, lw=1.2, label=policy)
    axis.set(xlabel=f"US dollars for a list each of {users:,} users", ylabel="gain of everybody (AUC)")
    axis.set_title("Gain of everybody against the bill")
    axis.legend(fontsize=8)
    return figure


def redraws(draws: Mapping[str, pd.Series], alpha: float) -> Figure:
    """The share of users made worse in each redraw of the calibration users, beside the bound.

    Args:
        draws: by name, the shares.
        alpha: the bound on their mean.
    """
    use_style()
    rows = max(1, -(-len(draws) // 2))
    figure, axes = plt.subplots(rows, 2, figsize=(8.4, 2.7 * rows), sharex=True, squeeze=False)
    for axis, (name, shares) in zip(axes.flat, draws.items(), strict=False):
        axis.hist(shares, bins=20, color=BLUE)
        axis.axvline(alpha, color=RED, lw=2, label=f"bound on the mean: {alpha:g}")
        axis.axvline(shares.mean(), color="black", ls="--", lw=1.5, label=f"mean: {shares.mean():.3f}")
        axis.set(xlabel="share of users made worse", ylabel="redraws", title=name)
        axis.set_xlim(0, 2.5 * alpha)
        axis.legend(fontsize=8)
    return figure
