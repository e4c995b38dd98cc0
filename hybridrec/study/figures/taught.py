"""The figures of notebook 07, in the style of all others."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study import taught as study
from hybridrec.study.figures.evaluation import draw_differences, verdict_legend
from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, legend_below, new_axes

_COLOURS = (ORANGE, PURPLE, GREEN, BLUE, RED, GREY)


def curve(card: Mapping[str, Any]) -> Figure:
    """What a model learned, step by step: the AUC of users held back by their own and another's history, and the loss.

    Args:
        card: of the adapter: curve (step, auc, another, loss) and best.
    """
    rows = pd.DataFrame(card["curve"])
    figure, (left, right) = new_axes(2, 4.8, 3.3)
    left.plot(rows["step"], rows["auc"], "o-", color=ORANGE, ms=4, label="own history")
    left.plot(rows["step"], rows["another"], "s--", color=PURPLE, ms=4, label="another user's history")
    left.axvline(card["best"]["step"], color=GREY, lw=1, ls=":", label="kept")
    left.axhline(0.5, color="black", ls=":", lw=0.8)
    left.set(xlabel="steps", ylabel="mean AUC of users held back", title="What users held back get")
    left.legend(fontsize=8)
    known = rows.dropna(subset="loss")
    right.plot(known["step"], known["loss"], "o-", color=BLUE, ms=4)
    right.set(xlabel="steps", ylabel="mean loss of what was taught since", title="The loss at what was taught")
    return figure


def means(table: pd.DataFrame) -> Figure:
    """The AUC of each group's lists by each ranker, with 95 % intervals; what is made with the taught model in orange.

    Args:
        table: ``study.MEANS``.
    """
    groups, names = list(table["group"].unique()), list(dict.fromkeys(table["ranker"]))
    figure, axes = new_axes(len(groups), 5.4, 1.2 + 0.25 * len(names))
    places = {name: len(names) - 1 - at for at, name in enumerate(names)}
    for axis, group in zip(axes, groups, strict=True):
        rows = table[table["group"] == group]
        at = rows["ranker"].map(places)
        mine = {study.TAUGHT, study.ANOTHERS}
        colours = [ORANGE if mine & {*name.split(" + ")} else GREY for name in rows["ranker"]]
        axis.hlines(at, rows["low"], rows["high"], color=colours, lw=2)
        axis.scatter(rows["auc"], at, color=colours, s=26, zorder=3)
        axis.axvline(0.5, color="black", ls=":", lw=0.8)
        axis.set_yticks(list(places.values()), names if axis is axes[0] else [""] * len(names), fontsize=8)
        axis.set(xlabel="mean AUC (95 %; dotted: a random order)", title=f"{group} users (n = {rows['n'].max():,})")
    return figure


def verdicts(table: pd.DataFrame) -> Figure:
    """Differences with 95 % intervals, coloured by verdict: a row a comparison, a panel a group.

    Args:
        table: ranker, against, group, mean, low, high, verdict.
    """
    called = table["ranker"] + "\nminus " + table["against"]
    groups, names = list(table["group"].unique()), list(dict.fromkeys(called))
    figure, axes = new_axes(len(groups), 9.6 / len(groups), 1.4 + 0.42 * len(names))
    for axis, group in zip(axes, groups, strict=True):
        rows = table.assign(place=called.map({name: len(names) - 1 - at for at, name in enumerate(names)}))
        draw_differences(axis, rows[table["group"] == group])
        axis.set_yticks(np.arange(len(names))[::-1], names if axis is axes[0] else [""] * len(names), fontsize=8)
        axis.set(ylim=(-0.6, len(names) - 0.4), xlabel="difference in AUC (shaded: within ±0.05)")
        axis.set_title(f"{group} users")
    verdict_legend(figure)
    return figure


def by_number(tables: Mapping[str, pd.DataFrame], rankers: Sequence[str]) -> Figure:
    """AUC by a number of ratings, with 95 % intervals: a panel a table, a colour a ranker.

    Args:
        tables: by what the number is of: ``study.BY``.
        rankers: which of its rankers.
    """
    figure, axes = new_axes(len(tables), 5.2, 3.9)
    for axis, (called, table) in zip(axes, tables.items(), strict=True):
        bins = list(dict.fromkeys(table["ratings"]))
        for at, (ranker, colour) in enumerate(zip(rankers, _COLOURS, strict=False)):
            rows = table[(table["ranker"] == ranker) & (table["users"] > 1)]
            places = rows["ratings"].map(bins.index) + (at - (len(rankers) - 1) / 2) * 0.13
            error = [rows["auc"] - rows["low"], rows["high"] - rows["auc"]]
            axis.errorbar(places, rows["auc"], error, fmt="o", color=colour, ms=4.5, lw=1.4, label=ranker)
        users = table[table["ranker"] == rankers[0]].set_index("ratings")["users"]
        axis.set_xticks(range(len(bins)), [f"{name}\n(n = {users[name]:,})" for name in bins], fontsize=8)
        axis.axhline(0.5, color="black", ls=":", lw=0.8)
        axis.yaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
        axis.set(xlabel=called, ylabel="mean AUC over users", xlim=(-0.5, len(bins) - 0.5))
    legend_below(figure, axes[0], 3)
    return figure


def memory(table: pd.DataFrame) -> Figure:
    """How well real titles are told from controls before and after teaching, with 95 % intervals.

    Args:
        table: what ``memory.table`` returned: model, probe, n, auc, low, high.
    """
    probes, models = list(dict.fromkeys(table["probe"])), list(dict.fromkeys(table["model"]))
    figure, (axis,) = new_axes(1, 7.4, 1.3 + 0.5 * len(probes))
    for at, (model, colour) in enumerate(zip(models, (GREY, ORANGE), strict=False)):
        rows = table[table["model"] == model]
        places = len(probes) - 1 - rows["probe"].map(probes.index) - (at - 0.5) * 0.24
        axis.hlines(places, rows["low"], rows["high"], color=colour, lw=2)
        axis.scatter(rows["auc"], places, color=colour, s=32, zorder=3, label=model)
    sizes = table.groupby("probe")["n"].max()
    axis.axvline(0.5, color="black", ls=":", lw=0.8)
    axis.set_yticks(np.arange(len(probes))[::-1], [f"{name} (n = {sizes[name]:,})" for name in probes])
    axis.set(xlabel="AUC of real titles against controls (dotted: cannot tell)", ylim=(-0.6, len(probes) - 0.4))
    legend_below(figure, axis, 2)
    return figure
