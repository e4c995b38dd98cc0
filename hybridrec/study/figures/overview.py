"""The one figure about all experiments together."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridrec.study import answers
from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, use_style

LOOKS = list(zip((BLUE, ORANGE, GREEN, PURPLE, RED), "osD^v", strict=True))


def overview(found: Mapping[str, Mapping[str, Any] | None], margin: float) -> Figure:
    """Weak users' AUC by who ranks them, and how far the language model lies from the bar, a marker a dataset.

    Args:
        found: section cross.primary of each dataset's metrics.json; None where no language model was asked.
        margin: the smallest effect of interest, shaded around 0.
    """
    use_style()
    figure, (above, below) = plt.subplots(2, 1, figsize=(6.8, 3.6 + 0.8 * len(found)), height_ratios=(1, 1.05))
    for number, (primary, (colour, marker)) in enumerate(zip(found.values(), cycle(LOOKS), strict=False)):
        if primary:
            aucs = [primary[f"{who}_auc"] for who in answers.WHO]
            lift = 0.15 * ((len(found) - 1) / 2 - number)  # so that no marker hides another
            places = [lift - place for place in range(len(aucs))]
            above.plot(aucs, places, marker, color=colour, ms=7)
            for who, place in zip(answers.WHO, places, strict=True):
                if (low := primary.get(f"{who}_auc_low")) is not None:
                    above.hlines(place, low, primary[f"{who}_auc_high"], color=colour, lw=2)
    above.set_yticks([-place for place in range(len(answers.WHO))], list(answers.WHO.values()))
    above.axvline(0.5, color=GREY, ls=":", lw=1)
    above.set(xlabel="mean AUC, 95 % interval (dotted: one half)", ylim=(0.5 - len(answers.WHO), 0.5))
    above.set_title("Weak users, by who ranks their items")
    above.grid(axis="y", color="#dddddd", lw=0.8)
    _differences(below, found, margin)
    return figure


def _differences(axis: Axes, found: Mapping[str, Mapping[str, Any] | None], margin: float) -> None:
    """Language model minus the bar: mean, 95 % interval, a grey bar as long as the smallest detectable effect."""
    names = []
    for number, ((name, primary), (colour, marker)) in enumerate(zip(found.items(), cycle(LOOKS), strict=False)):
        told = answers.NOT_RUN.strip("*")
        axis.plot([], [], marker, color=colour, ms=7, label=name)  # for the key, whatever there is to show
        if primary:
            told = f"{primary['verdict']} ({primary['users']:,} users"
        if primary and primary["low"] is not None:
            detectable = primary["smallest_detectable"]
            told += f",\ndetectable: {detectable:.3f}"
            axis.hlines(-number, -detectable, detectable, color="#bbbbbb", lw=9)
            axis.hlines(-number, primary["low"], primary["high"], color=colour, lw=2)
            axis.plot(primary["mean"], -number, marker, color=colour, ms=7)
        names.append(f"{name}\n{told}{')' if primary else ''}")
    axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color=GREY, ls=":", lw=1)
    axis.set_yticks([-number for number in range(len(names))], names)
    axis.set(xlabel="difference in AUC, 95 % interval (grey bar: smallest detectable effect)")
    axis.set(ylim=(0.5 - len(names), 0.5))
    axis.set_title(f"The language model minus the bar (shaded: ±{margin:g})")
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
