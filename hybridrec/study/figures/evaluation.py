"""Figures of notebook 05 and its appendix: the replication, every verdict, whole lists."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.evaluation import topk
from hybridrec.evaluation.cross import OWN, RANDOM
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
from hybridrec.study.names import LLM
from hybridrec.study.replication import ALL, ITEMS

# Of picked_and_fresh: each ranker's colour, and what stands before and after its numbers.
_SHOWN = {
    OWN: (BLUE, "", "their own\nrecommender"),
    LLM: (ORANGE, "as the paper\nasks  ", "language model,\nin its best way"),
    RANDOM: (GREY, "", "a random order"),
}


def picked_and_fresh(table: pd.DataFrame, model: str = LLM) -> Figure:
    """Weak users' AUC on the items that picked them and on fresh items of theirs, by who ranks them, with intervals.

    Args:
        table: what ``replication.picked_and_fresh`` returned; shown are all recommenders together.
        model: the language model that was asked.
    """
    figure, (axis,) = new_axes(1, 6.4, 4.6)
    axis.axhline(0.5, color="black", ls=":", lw=0.8)
    rows = table[table["recommender"] == ALL].set_index("ranked_by")
    written: list[list[tuple[float, str, str]]] = [[], []]
    for shift, (name, (colour, before, after)) in zip((0, -0.03, 0.03), _SHOWN.items(), strict=True):
        found = rows.loc[[name]].set_index("items") if name in rows.index else rows[:0]
        for place, items in enumerate(items for items in ITEMS if items in found.index):
            one = found.loc[items]
            axis.vlines(place + shift, one["low"], one["high"], color=colour, lw=2.5)
            axis.plot(place + shift, one["auc"], color=colour, marker="o", ms=8)
            label = f"{one['auc']:.2f}  {after}" if place else f"{before}{one['auc']:.2f}"
            written[place].append((one["auc"], label, colour))
        if name != LLM:  # which is asked in another way on each side: no line says that only the items differ
            axis.plot([shift, 1 + shift][: len(found)], found.reindex(ITEMS)["auc"].dropna(), color=colour, lw=2.5)
    for place, (x, side) in enumerate(((-0.09, "right"), (1.09, "left"))):
        for y, (_, label, colour) in _apart(written[place], 0.055 if place == 0 else 0.095):
            style = {"color": colour, "fontsize": 11, "fontweight": "bold", "linespacing": 1.0}
            axis.text(x, y, label, ha=side, va="center", **style)
    axis.set_xticks([0, 1], ["the items that\npicked them as weak", "fresh items\nof the same users"], fontsize=12)
    axis.set(xlim=(-0.75, 2.0), ylim=reach(0.2, 0.8, rows["low"], rows["high"]))
    axis.set_ylabel("mean AUC, 95 % interval (0.5: chance)", fontsize=11)
    users = int(rows["users"].max()) if len(rows) else 0
    axis.set_title(f"The same {users:,} weak users, ranked by whom?\nLanguage model: {model}", fontsize=12)
    return figure


def _apart(labels: Sequence[tuple[float, str, str]], least: float) -> list[tuple[float, tuple[float, str, str]]]:
    """Heights at which labels do not overlap, near to where they belong: (height, label), from the lowest up."""
    ordered = sorted(labels, key=lambda label: label[0])
    heights = np.array([value for value, *_ in ordered])
    for _ in range(100):
        gaps = np.diff(heights)
        if not (close := gaps < least - 1e-9).any():
            break
        push = np.where(close, (least - gaps) / 2, 0)
        heights[:-1] -= push
        heights[1:] += push
    return list(zip(heights, ordered, strict=True))


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
    figure, axes = new_axes(len(weak), max(2.4, 7 / len(weak)), 3.8)
    (asked,) = with_repairs([ranker], rankings, " ")
    looks = {"paper": BLUE, "ours": ORANGE, "random": RED}
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
        n = f"\n(n = {row['users']:,})" if row["users"] else "\n(ours routes nobody\nwith an AUC)"
        axis.set(title=f"{row['recommender']}{n}", xlim=(-0.6, max(len(bars), 1) - 0.4))
        axis.set_ylim(reach(0, 0.6, bars["before"], bars["after"]))
    axes[0].set_ylabel("AUC of users flagged as weak")
    keys = {GREY: "recommender alone"}
    keys |= {BLUE: "GPT-3.5 (paper)"} if weak["paper_with_gpt_35"].notna().any() else {}
    keys |= {RED: "a random order (ours)", ORANGE: f"{model}, {asked}"}
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
    use_style()
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(6.6, 2.4 + 0.5 * len(means)), height_ratios=(1.1, 1))
    places = pd.Series(np.arange(len(means))[::-1], index=means["name"])
    colours = [ORANGE, *[GREY] * (len(means) - 1)]
    upper.hlines(places, means["low"], means["high"], color=colours, lw=2)
    upper.scatter(means["mean"], places, color=colours, s=36, zorder=3)
    upper.axvline(0.5, color="black", ls=":", lw=0.8)
    upper.set_yticks(places, means["name"])
    upper.set(xlabel=f"mean AUC of {group}, 95 % intervals", ylim=(-0.6, len(means) - 0.4))
    rows = differences.assign(place=differences["name"].map(places))
    draw_differences(lower, rows)
    lower.set_yticks(rows["place"], "less " + rows["name"])
    lower.set(xlabel="the language model's AUC less that of the row (shaded: ±0.05)", ylim=(-0.6, len(rows) - 0.4))
    verdict_legend(figure)
    return figure


def draw_differences(axis: plt.Axes, rows: pd.DataFrame, margin: float = 0.05) -> None:
    """Differences with their intervals, coloured by verdict; columns place, mean, low, high, verdict."""
    axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color="black", lw=0.8)
    colours = rows["verdict"].map(VERDICT_COLOURS)
    axis.hlines(rows["place"], rows["low"], rows["high"], color=colours, lw=2)
    axis.scatter(rows["mean"], rows["place"], color=colours, s=24, zorder=3)


def verdict_handles() -> list[mpl.lines.Line2D]:
    """Keys that say what the colours of verdicts mean."""
    return [mpl.lines.Line2D([], [], color=of, marker="o", label=name) for name, of in VERDICT_COLOURS.items()]


def verdict_legend(figure: Figure) -> None:
    """What the colours of verdicts mean, below a figure."""
    handles = verdict_handles()
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.2)


def forest(table: pd.DataFrame, panels: Mapping[str, str], by: str = "family", margin: float = 0.05) -> Figure:
    """Differences with 95 % intervals, coloured by verdict: a row a ranker, a panel a family.

    Args:
        table: ranker, mean, low, high, verdict, the column ``by``, and n (users) where it is to be told.
        panels: values of ``by``, and over what the AUC is gained there.
        by: what panels are made of.
        margin: what is shaded around 0.
    """
    table = table[table[by].isin(panels)]
    names = list(dict.fromkeys(table["ranker"]))
    shown = [name.replace(": ", ":\n") for name in names]  # a model's name is long
    figure, axes = new_axes(len(panels), 7.2 / len(panels), 1.4 + 0.22 * sum(1 + name.count("\n") for name in shown))
    depth = np.cumsum([1 + name.count("\n") for name in shown])
    places = {name: depth[-1] - at for name, at in zip(names, depth - 0.5 * np.diff(depth, prepend=0), strict=True)}
    for axis, (panel, over) in zip(axes, panels.items(), strict=True):
        rows = table[table[by] == panel]
        draw_differences(axis, rows.assign(place=rows["ranker"].map(places)), margin)
        axis.set_yticks(list(places.values()), shown if axis is axes[0] else [""] * len(names), fontsize=9)
        users = f"\nn = {_range(rows['n'])}" if "n" in rows else ""
        axis.set(ylim=(-0.3, depth[-1] + 0.3), xlabel=f"AUC less that of\n{over}{users}")
    verdict_legend(figure)
    return figure


def planted_shares(shares: pd.DataFrame, lines: Mapping[str, float | None]) -> Figure:
    """How often each verdict is reached for a model of known skill; a panel for each thing it is compared with.

    Args:
        shares: what ``planted.shares`` returned.
        lines: the AUC of each thing that they are compared with, a dashed line; None: it is not known.
    """
    use_style()
    panels = list(shares["against"].unique())
    size = (6.4, 0.6 + 2.5 * len(panels))
    figure, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False, sharex=True)
    for axis, name in zip(axes[:, 0], panels, strict=True):
        rows = shares[shares["against"] == name].sort_values("skill")
        if (known := lines.get(name)) is not None:
            axis.axvline(known, color="black", ls="--", lw=1)
        for word, colour in VERDICT_COLOURS.items():
            axis.plot(rows["skill"], rows[word], "o-", color=colour, ms=4, label=word)
        axis.set(ylim=(-0.04, 1.04), title=f"compared with {name}")
        axis.set_ylabel(f"share of {int(shares['models'].max())} models")
    axes[-1, 0].set_xlabel("true AUC of the planted model")
    legend_below(figure, axes[0, 0], 4)
    return figure


def _range(values: pd.Series) -> str:
    """One number where all are the same, else the lowest and the highest."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def topk_gain(table: pd.DataFrame, of_model: Sequence[str]) -> Figure:
    """Gain in NDCG@10 of inactive users when the recommender's list is re-ranked, fused or replaced; a row a ranker.

    Args:
        table: what ``topk.comparison`` returned. All recommenders together have an interval, each alone a small dot.
        of_model: the language model's rankers.
    """
    mine = [name for one in of_model for name in (one, f"{one}{topk.FUSED}")]
    rankers = [*mine, *topk.BARS]
    table = table[table["ranker"].isin(rankers)]
    places = {name: len(rankers) - 1 - at for at, name in enumerate(rankers)}
    figure, (axis,) = new_axes(1, 6.8, 1.4 + 0.42 * len(rankers))
    pooled = table["recommender"] == topk.POOLED
    alone, rows = table[~pooled], table[pooled]
    axis.scatter(alone["gain_over_recommender"], alone["ranker"].map(places), color="#bbbbbb", s=16)
    colours, at = rows["ranker"].isin(mine).map({True: ORANGE, False: GREY}), rows["ranker"].map(places)
    axis.hlines(at, rows["gain_over_recommender_low"], rows["gain_over_recommender_high"], color=colours, lw=2.5)
    axis.scatter(rows["gain_over_recommender"], at, color=colours, s=48, zorder=3)
    axis.axvline(0, color="black", lw=0.8)
    counts = {name: _range(table.loc[table["ranker"] == name, "users_scored"]) for name in rankers}
    axis.set_yticks(list(places.values()), [f"{name}\n(n = {counts[name]})" for name in rankers], fontsize=9)
    axis.set(ylim=(-0.6, len(rankers) - 0.4), xlabel="NDCG@10 gained over the recommender's own list")
    axis.set_title("Large: all recommenders, 95 % interval. Small: each alone")
    return figure
