"""The figures of notebook 07, in the style of all others."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study import taught as study
from hybridrec.study.figures.evaluation import draw_differences, verdict_handles
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
    panels,
)

_COLOURS = (ORANGE, PURPLE, GREEN, BLUE, RED, GREY)
_APART = 0.17  # between two groups in one row
_FILLED = {"weak": False, "inactive": True}


def _group_handles(groups: Sequence[str], sizes: Mapping[str, int]) -> list[mpl.lines.Line2D]:
    """Keys that say which dots are which group's: hollow or filled."""
    return [
        mpl.lines.Line2D(
            [], [], color=GREY, marker="o", mfc=GREY if _FILLED[one] else "white", label=f"{one} (n = {n:,})"
        )
        for one, n in ((group, sizes[group]) for group in groups)
    ]


def curve(card: Mapping[str, Any], held: int) -> Figure:
    """What a model learned, step by step: the AUC of users held back by their own and another's history, and the loss.

    Args:
        card: of the adapter: curve (step, auc, another, loss) and best.
        held: how many users were held back.
    """
    rows = pd.DataFrame(card["curve"])
    figure, (above, below) = panels([2.5] * 2, WIDE)
    above.plot(rows["step"], rows["auc"], "o-", color=ORANGE, ms=4, label="own history")
    above.plot(rows["step"], rows["another"], "s--", color=PURPLE, ms=4, label="another user's history")
    above.axvline(card["best"]["step"], color=GREY, lw=1, ls=":", label="step that is kept")
    above.set(ylabel="mean AUC", title=f"{held} users held back, by whose history is shown")
    above.legend(loc="lower right")
    known = rows.dropna(subset="loss")
    below.plot(known["step"], known["loss"], "o-", color=BLUE, ms=4)
    below.set(xlabel="steps", ylabel="mean loss", title="The loss at what was taught since the last dot")
    return figure


def means(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """The AUC of each group's lists by each ranker, with 95 % intervals; what is made with the taught model in orange.

    Args:
        table: ``study.MEANS``.
        names: which of its rankers, from the top.
    """
    table = table[table["ranker"].isin(names)]
    groups = list(table["group"].unique())
    figure, (axis,) = new_axes(1, WIDE, 1.5 + 0.36 * len(names))
    mine = {study.TAUGHT, study.ANOTHERS}
    for at, group in enumerate(groups):
        rows = table[table["group"] == group]
        places = len(names) - 1 - rows["ranker"].map(list(names).index) - (at - 0.5) * 2 * _APART
        colours = [ORANGE if mine & {*name.split(" + ")} else GREY for name in rows["ranker"]]
        axis.hlines(places, rows["low"], rows["high"], color=colours, lw=1.6)
        face = colours if _FILLED[group] else ["white"] * len(rows)
        axis.scatter(rows["auc"], places, color=face, edgecolors=colours, s=24, zorder=3)
    axis.axvline(0.5, color="black", ls=":", lw=0.8)
    axis.set_yticks(np.arange(len(names))[::-1], [textwrap.fill(name, 30) for name in names], fontsize=9)
    axis.set(xlabel="mean AUC (95 %; dotted: a random order)", ylim=(-0.6, len(names) - 0.4))
    axis.set_title("AUC of inactive and of weak users, by who ranks")
    sizes = table.groupby("group")["n"].max().to_dict()
    figure.legend(handles=_group_handles(groups, sizes), loc="outside lower center", ncols=2)
    return figure


def verdicts(table: pd.DataFrame) -> Figure:
    """Differences in AUC with 95 % intervals, coloured by verdict: a row a comparison, hollow dots for weak users.

    Args:
        table: ranker, against, group, n, mean, low, high, verdict.
    """
    called = [_versus(*pair) for pair in zip(table["ranker"], table["against"], strict=True)]
    groups, names = list(table["group"].unique()), list(dict.fromkeys(called))
    figure, (axis,) = new_axes(1, WIDE, 1.7 + 0.52 * len(names))
    for at, group in enumerate(groups):
        place = pd.Series(called, table.index).map({name: len(names) - 1 - row for row, name in enumerate(names)})
        rows = table.assign(place=place - (at - 0.5) * 2 * _APART)[table["group"] == group]
        draw_differences(axis, rows)
        if not _FILLED[group]:
            axis.scatter(rows["mean"], rows["place"], color="white", s=8, zorder=4)
    axis.set_yticks(np.arange(len(names))[::-1], names, fontsize=9)
    axis.set(ylim=(-0.6, len(names) - 0.4), xlabel="difference in AUC (95 %; shaded: within ±0.05)")
    axis.set_title("Differences, with the verdict on each")
    handles = verdict_handles() + _group_handles(groups, table.groupby("group")["n"].max().to_dict())
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _versus(ranker: str, against: str) -> str:
    """Two rankers in lines short enough for an axis; what two fusions share is said once."""
    more, less = (set(name.split(" + ")) for name in (ranker, against))
    if less < more and len(less) > 1:
        return textwrap.fill(f"{' + '.join(sorted(more - less))}, added to {against}", 34)
    return f"{textwrap.fill(ranker, 34)}\nminus {textwrap.fill(against, 34)}"


def by_number(tables: Mapping[str, pd.DataFrame], rankers: Sequence[str]) -> Figure:
    """AUC by a number of ratings, with 95 % intervals: a panel a table, a colour a ranker.

    Args:
        tables: by what the number is of: ``study.BY``.
        rankers: which of its rankers.
    """
    figure, axes = panels([2.9] * len(tables), WIDE)
    for axis, (called, table) in zip(axes, tables.items(), strict=True):
        bins = list(dict.fromkeys(table["ratings"]))
        for at, (ranker, colour) in enumerate(zip(rankers, _COLOURS, strict=False)):
            rows = table[(table["ranker"] == ranker) & (table["users"] > 1)]
            places = rows["ratings"].map(bins.index) + (at - (len(rankers) - 1) / 2) * 0.13
            axis.errorbar(places, rows["auc"], errors(rows, "auc"), fmt="o", color=colour, ms=4.5, lw=1.4, label=ranker)
        users = table[table["ranker"] == rankers[0]].set_index("ratings")["users"]
        axis.set_xticks(range(len(bins)), [f"{name}\n(n = {users[name]:,})" for name in bins])
        axis.axhline(0.5, color="black", ls=":", lw=0.8)
        axis.yaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
        axis.set(xlabel=called, ylabel="mean AUC over users", xlim=(-0.5, len(bins) - 0.5))
    legend_below(figure, axes[0], 2)
    return figure


def memory(table: pd.DataFrame) -> Figure:
    """How well real titles are told from controls before and after teaching, with 95 % intervals.

    Args:
        table: what ``memory.table`` returned: model, probe, n, auc, low, high.
    """
    probes, models = list(dict.fromkeys(table["probe"])), list(dict.fromkeys(table["model"]))
    figure, (axis,) = new_axes(1, WIDE, 1.4 + 0.55 * len(probes))
    for at, (model, colour) in enumerate(zip(models, (GREY, ORANGE), strict=False)):
        rows = table[table["model"] == model]
        places = len(probes) - 1 - rows["probe"].map(probes.index) - (at - 0.5) * 0.24
        axis.hlines(places, rows["low"], rows["high"], color=colour, lw=2)
        axis.scatter(rows["auc"], places, color=colour, s=32, zorder=3, label=model)
    sizes = table.groupby("probe")["n"].max()
    axis.axvline(0.5, color="black", ls=":", lw=0.8)
    named = [f"{textwrap.fill(name, 20)}\n(n = {sizes[name]:,})" for name in probes]
    axis.set_yticks(np.arange(len(probes))[::-1], named, fontsize=9)
    axis.set(
        xlabel="AUC of real titles against controls\n(95 %; dotted: one half, chance)", ylim=(-0.6, len(probes) - 0.4)
    )
    axis.set_title("What the model finds probable")
    legend_below(figure, axis, 2)
    return figure
