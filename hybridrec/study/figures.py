"""Every figure of the study: one function each, one style, colours that the colour-blind can tell apart."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec import files
from hybridrec.evaluation import topk

# Okabe & Ito's palette, safe for the common kinds of colour blindness. A lighter grey would look like its green.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#555555"
_STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "hybridrec",
    "svg.fonttype": "none",
}


def use_style() -> None:
    """One look for all figures; a fixed salt makes an SVG the same bytes on every run."""
    mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write NAME.png and NAME.svg without dates or versions in them, and hand the figure back to be shown."""
    for kind, undated in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with files.replacing(folder / f"{name}.{kind}") as partial:
            figure.savefig(partial, metadata=undated)
    return figure


def _legend_below(figure: Figure, axis: plt.Axes, columns: int) -> None:
    """A legend under the figure, where it hides nothing and the layout makes room for it."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def _plain_logarithm(*axes: mpl.axis.Axis) -> None:
    """Label a logarithmic axis at 1, 3, 10, 30, ... with plain numbers."""
    for axis in axes:
        axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
        axis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _reach(low: float, high: float, *values: pd.Series) -> tuple[float, float]:
    """The limits given, where values lie outside wider than these; what is no number does not count."""
    found, room = pd.concat(values, ignore_index=True).dropna(), (high - low) / 25
    return min([low, *(found - room)]), max([high, *(found + room)])


def _with_repairs(names: Iterable[str], rankings: pd.DataFrame | None, between: str = "\n") -> list[str]:
    """Rankers' names, each that left candidates out with the share of them that we appended at random.

    Args:
        names: what to call.
        rankings: ranker, user, missing (candidates left out of a user's answer), a row a candidate; None: only names.
        between: what stands between a name and its share.
    """
    if rankings is None:
        return list(names)
    shares = _repaired(rankings, ["ranker"])
    return [f"{name}{between}({_share(shares[name])} random repair)" if shares.get(name) else name for name in names]


def _share(repaired: float) -> str:
    """A share of random repair in words: where it is all, nobody got an answer that could be used."""
    return "no answer: 100%" if repaired == 1 else f"{repaired:.0%}"


def _repaired(rankings: pd.DataFrame, by: list[str]) -> pd.Series:
    """The share of candidates that answers left out."""
    of_users = rankings.groupby([*by, "user"], sort=False)["missing"].agg(["first", "size"])
    totals = of_users.groupby(by, sort=False).sum()
    return totals["first"] / totals["size"]


def _axes(columns: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    use_style()
    figure, axes = plt.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    return figure, axes[0]


# --- 01 data --------------------------------------------------------------------------------------------------------


def data_portrait(ratings_per_user: pd.Series, ratings_per_item: pd.Series, ratings: pd.Series) -> Figure:
    """How active users are, how popular items are, and how generous the ratings."""
    figure, (users, items, values) = _axes(3, 3.6, 3.1)
    for axis, counts, name, colour in (
        (users, ratings_per_user, "user", BLUE),
        (items, ratings_per_item, "item", ORANGE),
    ):
        ordered = counts.sort_values(ascending=False).to_numpy()
        axis.loglog(np.arange(1, len(ordered) + 1), ordered, color=colour, lw=2)
        _plain_logarithm(axis.xaxis, axis.yaxis)
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator())  # powers of ten: more would touch in a narrow panel
        axis.set(xlabel=f"{name}s, most ratings first", ylabel="ratings", title=f"Ratings per {name}")
    shares = ratings.value_counts(normalize=True).sort_index()
    if len(shares) <= 20:
        values.bar([f"{value:g}" for value in shares.index], shares, color=GREEN)
    else:
        values.hist(ratings, bins=20, weights=np.full(len(ratings), 1 / len(ratings)), color=GREEN)
    values.set(xlabel="rating", ylabel="share of ratings", title="How often each rating is given")
    return figure


def sparsity_portrait(sparsity: pd.Series, threshold: float) -> Figure:
    """The distribution of S_I(u) and the threshold that splits active from inactive users."""
    figure, (axis,) = _axes(1, 6, 3.1)
    axis.hist(sparsity, bins=60, color=BLUE)
    axis.axvline(threshold, color=RED, lw=2)
    share = (sparsity > threshold).mean()
    named = "t_s = mean" if np.isclose(threshold, sparsity.mean()) else "t_s"
    axis.annotate(
        f"{named} = {threshold:.3f}\n{share:.0%} of users are sparser", (threshold, axis.get_ylim()[1] * 0.9),
        xytext=(-8, 0), textcoords="offset points", ha="right", va="top", color=RED,
    )  # fmt: skip
    axis.set(xlabel="sparsity index S_I(u): share of the catalogue not rated", ylabel="users")
    axis.set_title("How much of the catalogue users have not rated")
    return figure


def candidates_portrait(sizes: pd.Series, inactive: pd.Series) -> Figure:
    """How many test items there are to rank, for active and inactive users."""
    figure, (axis,) = _axes(1, 6, 3.1)
    bins = np.arange(0.5, 41.5)
    groups = [sizes[~inactive].clip(upper=40), sizes[inactive].clip(upper=40)]
    axis.hist(groups, bins=bins, color=[GREY, ORANGE], stacked=True, label=["active", "inactive"])
    axis.set(xlabel="test items of a user (more than 40 shown as 40)", ylabel="users")
    axis.set_title("Test items of active and inactive users")
    axis.legend()
    return figure


# --- 02 baselines ---------------------------------------------------------------------------------------------------


def tuning_curves(tuned: pd.DataFrame) -> Figure:
    """Quality of each recommender's declared settings by both targets; the chosen setting is filled.

    Args:
        tuned: what ``fitting.tune`` returned with lists.
    """
    use_style()
    names = [name for name in tuned["recommender"].unique() if (tuned["recommender"] == name).sum() > 1]
    shape = (2, max(1, len(names)))
    figure, axes = plt.subplots(*shape, figsize=(1.5 * shape[1] + 1, 4.6), sharey="row", squeeze=False)
    targets = (("auc", "chosen", "AUC"), ("ndcg_at_10", "chosen_top_k", "NDCG@10,\nwhole catalogue"))
    for row, (measure, marked, label) in zip(axes, targets, strict=True):
        row[0].set_ylabel(f"validation {label}")
        for axis, name in zip(row, names, strict=False):
            rows = tuned[tuned["recommender"] == name]
            places = range(len(rows))
            axis.plot(places, rows[measure], color=BLUE, marker="o", markerfacecolor="white")
            axis.plot(np.flatnonzero(rows[marked]), rows.loc[rows[marked], measure], "o", color=RED, ms=8)
            axis.set_xticks(places, [f"{value:g}" for value in rows["value"]], fontsize=9)
            axis.set_xlabel(rows["parameter"].iloc[0])
            if measure == "auc":
                axis.set_title(name, fontsize=10)
    return figure


def quality_bars(table: pd.DataFrame, title: str, colour: str, rankings: pd.DataFrame | None = None) -> Figure:
    """Mean AUC of every ranking with its interval, the best on top; controls are grey.

    Args:
        table: columns name, control (bool), auc, low, high.
        title: what the colours mean.
        colour: of whatever is no control.
        rankings: the model's rankings (ranker, user, missing); names then tell how much of them is random repair.
    """
    figure, (axis,) = _axes(1, 7.2, 3.8)
    rows = table.sort_values("auc")
    colours = [GREY if control else colour for control in rows["control"]]
    places = np.arange(len(rows))
    axis.hlines(places, rows["low"], rows["high"], color=colours, lw=2)
    axis.scatter(rows["auc"], places, color=colours, s=36, zorder=3)
    axis.set_yticks(places, _with_repairs(rows["name"], rankings))
    axis.axvline(0.5, color=RED, ls="--", lw=1)
    axis.set(xlabel="mean AUC (95 % interval over users); dashed: a random order", title=title)
    axis.set_xlim(_reach(0.4, 0.8, rows["low"], rows["high"]))
    return figure


# --- 03 triage ------------------------------------------------------------------------------------------------------


def triage_map(triage: pd.DataFrame, thresholds: tuple[float, float], names: Sequence[str]) -> Figure:
    """P(u) against S_I(u) for the named recommenders; weak users are the coloured corner."""
    figure, axes = _axes(len(names), 3.6, 3.4)
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
    figure, (axis,) = _axes(1, 6.5, 4.0)
    looks = {"picked_on": (RED, "half they were picked on"), "other_half": (BLUE, "other half, nothing changed")}
    _dots(axis, table, "recommender", looks)
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set(xlabel="mean AUC of the users picked as weak (95 % interval)", xlim=(0, 1))
    axis.set_title("Users picked as weak on half of their test items, and on the other half")
    _legend_below(figure, axis, 2)
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
    figure, (axis,) = _axes(1, 7, 1.6 + 0.4 * len(table))
    named = table.assign(name=table["rule"] + [f" ({flags:,.0f} flags)" for flags in table["flags"]])
    looks = {"flagged_auc": (RED, "flagged as weak"), "rest_auc": (BLUE, "other inactive users")}
    _dots(axis, named, "name", looks)
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set(xlabel="mean AUC on the fold left out (95 % interval; dashed: a random order)")
    axis.set_title("Flagged and other inactive users on fresh items, by rule of triage")
    _legend_below(figure, axis, 2)
    return figure


def worlds(table: pd.DataFrame) -> Figure:
    """What the published protocol reports of a random order, and in simulated worlds (95 % bands).

    Args:
        table: recommender, world, and flagged, gain and gain_fresh with _low and _high (``worlds.bands``).
    """
    figure, axes = _axes(3, 4.0, 4.6)
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
    _legend_below(figure, axes[0], 4)
    return figure


def truly_weak(table: pd.DataFrame) -> Figure:
    """Users flagged as weak, and how many of them are weak once luck is taken off.

    Args:
        table: recommender, flagged, truly_weak with _low and _high, at_least, at_most (``luck.truly_weak``).
    """
    figure, (axis,) = _axes(1, 7.0, 4.2)
    places = np.arange(len(table))[::-1]
    axis.hlines(places, table["at_least"], table["at_most"], color=GREY, lw=1, label="any distribution")
    low, high = table["truly_weak_low"], table["truly_weak_high"]
    axis.hlines(places, low, high, color=BLUE, lw=3, label="95 % interval")
    axis.plot(table["truly_weak"], places, "o", color=BLUE, ms=6, label="truly at or below t_p")
    axis.plot(table["flagged"], places, "o", mfc="white", mec=RED, mew=1.5, ms=7, label="flagged")
    axis.set_yticks(places, table["recommender"])
    axis.set(xlim=(0, 1.05 * _reach(0, 1, table["flagged"], table["at_most"], high)[1]), xlabel="inactive users")
    axis.set_title("Inactive users at or below t_p: flagged, and once luck is taken off")
    _legend_below(figure, axis, 4)
    return figure


def sensitivity(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """AUC on fresh items of users flagged under other settings, with intervals; a panel each table.

    Args:
        tables: by the name of the setting along the axis: x, line (the setting that has a line for each value, with its
            name in ``attrs["line"]``), flags, flagged_auc and its _low and _high. Fewer than ten flags are not shown.
    """
    figure, axes = _axes(len(tables), 4.6, 4.0)
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
    limits = _reach(0.45, 0.7, *(table[f"flagged_auc{end}"] for table in tables.values() for end in ("_low", "_high")))
    for axis in axes:
        axis.set_ylim(limits[0], limits[1] + 0.06)
    axes[0].set_ylabel("AUC of the flagged on the fold left out (95 %)")
    return figure


# --- 04 prompting ---------------------------------------------------------------------------------------------------


def validity_bars(rates: pd.DataFrame) -> Figure:
    """Share of candidates missing, and of items invented or repeated, by number of candidates; one panel a mode.

    Args:
        rates: index ranker, candidates; columns missing, invalid, duplicates.
    """
    modes = list(rates.index.get_level_values("ranker").unique())
    figure, axes = _axes(len(modes), 4.4, 3.2)
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
    figure, axes = _axes(2, 4.6, 0.9 + 0.75 * len(modes))
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


# --- 05 evaluation --------------------------------------------------------------------------------------------------


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
    figure, axes = _axes(len(weak), max(3.5, 7 / len(weak)), 3.6)
    (asked,) = _with_repairs([ranker], rankings, " ")
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
        axis.set_ylim(_reach(0, 0.75, bars["before"], bars["after"]))
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
    figure, (left, right) = _axes(2, 5.0, 1.5 + 0.36 * len(means))
    places = pd.Series(np.arange(len(means))[::-1], index=means["name"])
    colours = [ORANGE, *[GREY] * (len(means) - 1)]
    left.hlines(places, means["low"], means["high"], color=colours, lw=2)
    left.scatter(means["mean"], places, color=colours, s=36, zorder=3)
    left.axvline(0.5, color="black", ls=":", lw=0.8)
    left.set_yticks(places, means["name"])
    left.set(xlabel=f"mean AUC of {group}\n(95 % intervals; dotted: a random order)", ylim=(-0.6, len(means) - 0.4))
    rows = differences.assign(place=differences["name"].map(places))
    _differences(right, rows)
    right.set_yticks(places, [""] * len(places))
    right.set(ylim=left.get_ylim(), xlabel="the language model's AUC minus that of the row\n(shaded: within ±0.05)")
    _verdict_legend(figure)
    return figure


def _differences(axis: plt.Axes, rows: pd.DataFrame, margin: float = 0.05) -> None:
    """Differences with their intervals, coloured by verdict; columns place, mean, low, high, verdict."""
    axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color="black", lw=0.8)
    colours = rows["verdict"].map(VERDICT_COLOURS)
    axis.hlines(rows["place"], rows["low"], rows["high"], color=colours, lw=2)
    axis.scatter(rows["mean"], rows["place"], color=colours, s=24, zorder=3)


def _verdict_legend(figure: Figure) -> None:
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
    figure, axes = _axes(len(panels), 9.6 / len(panels), 1.4 + 0.24 * len(names))
    places = {name: len(names) - 1 - at for at, name in enumerate(names)}
    for axis, (panel, over) in zip(axes, panels.items(), strict=True):
        rows = table[table[by] == panel]
        _differences(axis, rows.assign(place=rows["ranker"].map(places)), margin)
        axis.set_yticks(list(places.values()), names if axis is axes[0] else [""] * len(names), fontsize=8)
        axis.set(ylim=(-0.6, len(names) - 0.4), xlabel=f"AUC minus that of\n{over}")
    _verdict_legend(figure)
    return figure


def planted_shares(shares: pd.DataFrame) -> Figure:
    """How often each verdict is reached for a model of known skill; a panel for each thing it is compared with.

    Args:
        shares: what ``planted.shares`` returned.
    """
    panels = list(shares["against"].unique())
    figure, axes = _axes(len(panels), 4.6, 3.2)
    for axis, name in zip(axes, panels, strict=True):
        rows = shares[shares["against"] == name].sort_values("skill")
        for word, colour in VERDICT_COLOURS.items():
            axis.plot(rows["skill"], rows[word], "o-", color=colour, ms=4, label=word)
        axis.set(ylim=(-0.04, 1.04), xlabel="true AUC of the planted model", title=f"compared with {name}")
    axes[0].set_ylabel(f"share of {int(shares['models'].max())} models")
    _legend_below(figure, axes[0], 4)
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
    limits = tuple(1.1 * limit for limit in _reach(-0.01, 0.01, *(span[column] for column in span)))
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


# --- 06 cost --------------------------------------------------------------------------------------------------------


def quality_cost(points: pd.DataFrame, way: str) -> Figure:
    """What hybrids add to the AUC over everybody, with intervals, by what a test fold costs.

    Args:
        points: arm, routing, usd (NaN: not run), mean, low, high.
        way: the way to ask that is priced.
    """
    figure, (axis,) = _axes(1, 7, 3.8)
    markers = dict(zip(points["routing"].unique(), "os^", strict=False))
    colours = dict(zip(points["arm"].unique(), (GREY, ORANGE), strict=False))
    known = points.dropna(subset=["usd", "low"])
    most = max([*known["usd"], 1e-9])
    for number, row in enumerate(known.to_dict("records")):
        at = row["usd"] + 0.015 * most * (number % 2)  # two that cost the same stand side by side
        axis.vlines(at, row["low"], row["high"], color=colours[row["arm"]], lw=1.5)
        label = f"{row['arm']}, {row['routing']}"
        axis.plot(at, row["mean"], markers[row["routing"]], color=colours[row["arm"]], ms=7, label=label)
    axis.axhline(0, color="black", lw=0.8)
    low, high = _reach(-0.01, 0.01, known["low"], known["high"])
    axis.set(xlim=(-0.04 * most, 1.08 * most), ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
    axis.set(xlabel=f"US dollars a test fold (asked by {way}; another recommender takes no call)")
    axis.set_ylabel("AUC gained over the\nrecommender, everybody (95 %)")
    axis.set_title("What handing users over adds for everybody, by cost")
    if len(known):
        _legend_below(figure, axis, 2)
    return figure


# --- 04 prompting: does it read the user? -----------------------------------------------------------------------------


def reading(table: pd.DataFrame) -> Figure:
    """AUC by what the model was shown: dots with their 95 % intervals, a panel a model, chance dotted.

    Args:
        table: model, history (what was shown), users, auc, low, high.
    """
    models = list(table["model"].unique())
    tall = 1.2 + 0.34 * table["history"].nunique()
    figure, axes = _axes(len(models), max(3.4, 5.6 / max(len(models), 1)), tall)
    for axis, model in zip(axes, models, strict=True):
        rows = table[table["model"] == model].iloc[::-1]
        places = np.arange(len(rows))
        axis.axvline(0.5, color=GREY, ls=":", lw=1)
        axis.hlines(places, rows["low"], rows["high"], color=BLUE, lw=2)
        axis.scatter(rows["auc"], places, color=BLUE, s=36, zorder=3)
        for place, value in zip(places, rows["auc"], strict=True):
            axis.annotate(f"{value:.3f}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axis.set_yticks(places, rows["history"] if axis is axes[0] else [""] * len(rows))
        axis.set(xlim=_reach(0.4, 0.6, table["low"], table["high"], table["auc"]), ylim=(-0.5, len(rows) - 0.4))
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axis.set(xlabel="mean AUC over users (dotted: ½)")
        axis.set_title(f"{model}\n({rows['users'].iloc[0]:,} users)", fontsize=9)
    return figure
