"""Figures of notebook 05: the replication, every verdict, whole lists."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.evaluation import topk
from hybridrec.study.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    legend_below,
    new_axes,
    reach,
    use_style,
    with_repairs,
)


def published_pattern(
    weak: pd.DataFrame, ranker: str, model: str = "the language model", rankings: pd.DataFrame | None = None
) -> Figure:
    """Weak users' AUC before and after: the paper's (if it has this dataset), our model's, and a random order's.

    Args:
        weak: the rows of ``claims.table2`` about weak users; a panel each.
        ranker: the way of asking that is shown.
        model: the language model that was asked.
        rankings: its rankings (ranker, user, missing); the legend then tells how much of them is random repair.
    """
    figure, axes = new_axes(len(weak), max(3.5, 7 / len(weak)), 3.6)
    (asked,) = with_repairs([ranker], rankings, " ")
    looks = {"paper\n(GPT-3.5)": BLUE, "ours\n(the model)": ORANGE, "ours\n(random)": RED}
    for axis, row in zip(axes, weak.to_dict("records"), strict=True):
        before = [row["paper_recommender_alone"], *[row["recommender_alone"]] * 2]
        after = [row["paper_with_gpt_35"], row[ranker], row["random"]]
        # NaN: the paper does not have this dataset or recommender; or, of ours, nobody is routed
        bars = pd.DataFrame({"before": before, "after": after}, index=list(looks)).dropna()
        places = np.arange(len(bars))
        axis.bar(places - 0.2, bars["before"], 0.38, color=GREY)
        axis.bar(places + 0.2, bars["after"], 0.38, color=[looks[what] for what in bars.index])
        axis.set_xticks(places, bars.index)
        axis.axhline(0.5, color="black", ls="--", lw=0.8)
        nobody = "" if row["users"] else "\n(ours routes nobody with an AUC)"
        axis.set(title=f"{row['recommender']}{nobody}", xlim=(-0.6, max(len(bars), 1) - 0.4))
        axis.set_ylim(reach(0, 0.75, bars["before"], bars["after"]))
    axes[0].set_ylabel("AUC of users flagged as weak")
    keys = {GREY: "recommender alone"}
    keys |= {BLUE: "GPT-3.5 (paper)"} if weak["paper_with_gpt_35"].notna().any() else {}
    keys |= {ORANGE: f"{model}, {asked}", RED: "a random order (ours)"}
    handles = [mpl.patches.Patch(color=colour, label=key) for colour, key in keys.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if len(weak) < 3 else 2)
    return figure


VERDICT_COLOURS = {"helps": GREEN, "harms": RED, "equivalent": BLUE, "cannot tell": GREY}


def primary(means: pd.DataFrame, differences: pd.DataFrame, group: str) -> Figure:
    """Mean AUC of weak users by who ranks them, and what separates the language model from each, with intervals.

    Args:
        means: name, mean, low, high; the first is the language model.
        differences: name, mean, low, high, smallest_detectable, verdict: the language model minus each of the others.
        group: who they are, such as "376 weak users".
    """
    figure, (left, right) = new_axes(2, 5.0, 1.5 + 0.36 * len(means))
    places = pd.Series(np.arange(len(means))[::-1], index=means["name"])
    colours = [ORANGE, *[GREY] * (len(means) - 1)]
    left.hlines(places, means["low"], means["high"], color=colours, lw=2)
    left.scatter(means["mean"], places, color=colours, s=36, zorder=3)
    left.axvline(0.5, color="black", ls=":", lw=0.8)
    left.set_yticks(places, means["name"])
    left.set(xlabel=f"mean AUC of {group}\n(95 % intervals; dotted: a random order)", ylim=(-0.6, len(means) - 0.4))
    rows = differences.assign(place=differences["name"].map(places))
    draw_differences(right, rows)
    right.set_yticks(places, [""] * len(places))
    right.set(ylim=left.get_ylim(), xlabel="the language model's AUC minus that of the row\n(shaded: within ±0.05)")
    verdict_legend(figure)
    return figure


def draw_differences(axis: plt.Axes, rows: pd.DataFrame, margin: float = 0.05) -> None:
    """Differences with their intervals, coloured by verdict; columns place, mean, low, high, verdict."""
    axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color="black", lw=0.8)
    colours = rows["verdict"].map(VERDICT_COLOURS)
    axis.hlines(rows["place"], rows["low"], rows["high"], color=colours, lw=2)
    axis.scatter(rows["mean"], rows["place"], color=colours, s=24, zorder=3)


def verdict_legend(figure: Figure) -> None:
    """What the colours of verdicts mean, below a figure."""
    handles = [mpl.lines.Line2D([], [], color=of, marker="o", label=name) for name, of in VERDICT_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def forest(table: pd.DataFrame, panels: Mapping[str, str], by: str = "family", margin: float = 0.05) -> Figure:
    """Differences with 95 % intervals, coloured by verdict: a row a ranker, a panel a family.

    Args:
        table: ranker, mean, low, high, verdict, and the column ``by``.
        panels: values of ``by``, and over what the AUC is gained there.
        by: what panels are made of.
        margin: what is shaded around 0.
    """
    table = table[table[by].isin(panels)]
    names = list(dict.fromkeys(table["ranker"]))
    figure, axes = new_axes(len(panels), 9.6 / len(panels), 1.4 + 0.24 * len(names))
    places = {name: len(names) - 1 - at for at, name in enumerate(names)}
    for axis, (panel, over) in zip(axes, panels.items(), strict=True):
        rows = table[table[by] == panel]
        draw_differences(axis, rows.assign(place=rows["ranker"].map(places)), margin)
        axis.set_yticks(list(places.values()), names if axis is axes[0] else [""] * len(names), fontsize=8)
        axis.set(ylim=(-0.6, len(names) - 0.4), xlabel=f"AUC minus that of\n{over}")
    verdict_legend(figure)
    return figure


def planted_shares(shares: pd.DataFrame) -> Figure:
    """How often each verdict is reached for a model of known skill; a panel for each thing it is compared with.

    Args:
        shares: what ``planted.shares`` returned.
    """
    panels = list(shares["against"].unique())
    figure, axes = new_axes(len(panels), 4.6, 3.2)
    for axis, name in zip(axes, panels, strict=True):
        rows = shares[shares["against"] == name].sort_values("skill")
        for word, colour in VERDICT_COLOURS.items():
            axis.plot(rows["skill"], rows[word], "o-", color=colour, ms=4, label=word)
        axis.set(ylim=(-0.04, 1.04), xlabel="true AUC of the planted model", title=f"compared with {name}")
    axes[0].set_ylabel(f"share of {int(shares['models'].max())} models")
    legend_below(figure, axes[0], 4)
    return figure


def _range(values: pd.Series) -> str:
    """One number where all are the same, else the lowest and the highest."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def topk_gain(table: pd.DataFrame, of_model: Sequence[str]) -> Figure:
    """Gain in NDCG@10 of inactive users when the recommender's list is re-ranked, fused or replaced; a panel a ranker.

    Args:
        table: what ``topk.comparison`` returned.
        of_model: the language model's rankers.
    """
    use_style()
    mine = [name for one in of_model for name in (one, f"{one}{topk.FUSED}")]
    rankers = [*mine, *topk.BARS]
    columns = min(4, len(rankers))
    figure, axes = plt.subplots(-(-len(rankers) // columns), columns, figsize=(12, 7), sharey=True, squeeze=False)
    span = table.loc[table["ranker"].isin(rankers), ["gain_over_recommender_low", "gain_over_recommender_high"]]
    limits = tuple(1.1 * limit for limit in reach(-0.01, 0.01, *(span[column] for column in span)))
    for axis, ranker in zip(axes.flat, rankers, strict=False):
        rows = table[table["ranker"] == ranker].iloc[::-1]
        places, colour = np.arange(len(rows)), ORANGE if ranker in mine else GREY
        axis.hlines(places, rows["gain_over_recommender_low"], rows["gain_over_recommender_high"], color=colour, lw=2)
        axis.scatter(rows["gain_over_recommender"], places, color=colour, s=30, zorder=3)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(places, rows["recommender"])
        axis.set_title(f"{ranker}\n(n = {_range(rows['users_scored'])})", fontsize=10)
        axis.set_xlim(limits)
    for axis in axes.flat[len(rankers) :]:
        axis.set_axis_off()
    figure.supxlabel("NDCG@10 gained over the recommender's own list")
    return figure
