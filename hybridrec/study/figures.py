"""Every figure of the study: one function each, one style, colours that the colour-blind can tell apart."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridrec import files
from hybridrec.evaluation.controls import CONTROLS
from hybridrec.llm import modes

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
    """The limits given, wider where values lie outside; what is no number does not count."""
    found = pd.concat(values, ignore_index=True).dropna()
    return min([low, *found]), max([high, *found])


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
    """Validation AUC over each recommender's declared grid; the chosen setting is filled."""
    use_style()
    names = [name for name in tuned["recommender"].unique() if (tuned["recommender"] == name).sum() > 1]
    shape = (2, max(1, -(-len(names) // 2)))
    figure, axes = plt.subplots(*shape, figsize=(10, 4.6), sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        rows = tuned[tuned["recommender"] == name]
        places = range(len(rows))
        axis.plot(places, rows["auc"], color=BLUE, marker="o", markerfacecolor="white")
        axis.plot(np.flatnonzero(rows["chosen"]), rows.loc[rows["chosen"], "auc"], "o", color=RED, ms=8)
        axis.set_xticks(places, [f"{value:g}" for value in rows["value"]])
        axis.set(title=name, xlabel=rows["parameter"].iloc[0])
    for axis in axes[:, 0]:
        axis.set_ylabel("validation AUC")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
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
    errors = [rows["auc"] - rows["low"], rows["high"] - rows["auc"]]
    axis.barh(_with_repairs(rows["name"], rankings), rows["auc"], xerr=errors, color=colours, error_kw={"lw": 1})
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
    """The same users and recommender on the half they were picked on and on the other half."""
    figure, (axis,) = _axes(1, 6.5, 3.8)
    rows = table.iloc[::-1]
    places = np.arange(len(rows))
    axis.hlines(places, rows["picked_on"], rows["other_half"], color=GREY, lw=2)
    axis.scatter(rows["picked_on"], places, color=RED, s=45, zorder=3, label="half they were picked on")
    axis.scatter(rows["other_half"], places, color=BLUE, s=45, zorder=3, label="other half, nothing changed")
    axis.axvline(0.5, color="black", ls="--", lw=0.8)
    axis.set_yticks(places, rows["recommender"])
    axis.set(xlabel="mean AUC of the users picked as weak", xlim=(0, 1))
    axis.set_title("Users picked as weak on half of their test items, and on the other half")
    _legend_below(figure, axis, 2)
    return figure


def reliability_bars(table: pd.DataFrame, rules: Sequence[str]) -> Figure:
    """Test AUC of flagged users and of the other inactive users, mean over recommenders, for each triage rule."""
    figure, (axis,) = _axes(1, 7, 3.4)
    means = table.groupby("rule")[["flagged_auc", "rest_auc"]].mean().loc[list(rules)[::-1]]
    places = np.arange(len(means))
    axis.hlines(places, means["flagged_auc"], means["rest_auc"], color=GREY, lw=2)
    axis.scatter(means["flagged_auc"], places, color=RED, s=45, zorder=3, label="flagged as weak")
    axis.scatter(means["rest_auc"], places, color=BLUE, s=45, zorder=3, label="other inactive users")
    axis.set_yticks(places, means.index)
    axis.set(xlabel="mean test AUC, averaged over recommenders")
    axis.set_title("Flagged and other inactive users on the test, by triage rule")
    _legend_below(figure, axis, 2)
    return figure


def null_gain(table: pd.DataFrame) -> Figure:
    """What a random order is credited with, observed and as predicted for users who are all served equally well.

    Args:
        table: recommender, and observed_ and predicted_ gain and flagged.
    """
    figure, axes = _axes(2, 5.0, 3.9)
    places = np.arange(len(table))[::-1]
    titles = {"gain": "AUC that a random order gains for weak users", "flagged": "Users flagged as weak"}
    for axis, (what, title) in zip(axes, titles.items(), strict=True):
        predicted, observed = table[f"predicted_{what}"], table[f"observed_{what}"]
        axis.hlines(places, predicted, observed, color=GREY, lw=2)
        axis.plot(predicted, places, "o", mfc="white", mec=RED, mew=1.5, ms=8, label="predicted: nobody is weak")
        axis.plot(observed, places, "o", color=BLUE, ms=6, label="observed")
        axis.set_yticks(places, table["recommender"] if axis is axes[0] else [""] * len(table))
        axis.set(xlim=(0, 1.15 * _reach(0, 0.01, predicted, observed)[1]), title=title)
    axes[0].set_xlabel("AUC gained over their recommender")
    axes[1].set_xlabel("inactive users")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
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


def sensitivity_panels(table: pd.DataFrame, x: str, lines: str, names_of: tuple[str, str]) -> Figure:
    """What users flagged under other settings score on the test: a panel a recommender.

    Args:
        table: recommender, flagged, flagged_auc, and the two settings.
        x, lines: the setting along the axis, and the one that has a line for each value.
        names_of: how the two are called.
    """
    use_style()
    names = list(table["recommender"].unique())
    shape = (3, -(-len(names) // 3))
    figure, axes = plt.subplots(*shape, figsize=(9.5, 7), sharex=True, sharey=True, squeeze=False)
    limits = sorted(table[lines].unique())
    for axis, name in zip(axes.flat, names, strict=False):
        for limit, colour in zip(limits, (GREY, BLUE, GREEN, ORANGE), strict=False):
            rows = table[(table["recommender"] == name) & (table[lines] == limit)]
            enough = rows[rows["flagged"] >= 10]
            axis.plot(enough[x], enough["flagged_auc"], "o-", color=colour, ms=4, label=f"{limit:.4g}")
        axis.axhline(0.5, color=RED, ls="--", lw=0.8)
        axis.set_title(name)
    for column, axis in enumerate(axes.flat[len(names) :], len(names) % axes.shape[1]):
        axis.set_axis_off()
        axes[-2, column].tick_params(labelbottom=True)
    figure.supxlabel(names_of[0], fontsize=10)
    figure.supylabel("test AUC of the flagged (at least 10)", fontsize=10)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), title=names_of[1], loc="outside right center")
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
    table: pd.DataFrame, published: pd.DataFrame, recommenders: Sequence[str], ranker: str,
    model: str = "the language model", rankings: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Weak users' AUC before and after: the paper's (if it has this dataset), our model's, and a random order's.

    Args:
        table: the comparison under the published protocol.
        published: the paper's AUC of weak users: recommender, recommender_alone, with_gpt_35.
        recommenders: a panel each.
        ranker: the way of asking that is shown.
        model: the language model that was asked.
        rankings: its rankings (ranker, user, missing); the legend then tells how much of them is random repair.
    """
    figure, axes = _axes(len(recommenders), max(3.5, 7 / len(recommenders)), 3.6)
    paper = published.set_index("recommender").reindex(recommenders)
    (asked,) = _with_repairs([ranker], rankings, " ")
    looks = {"paper\n(GPT-3.5)": BLUE, "ours\n(the model)": ORANGE, "ours\n(random)": RED}
    for axis, name in zip(axes, recommenders, strict=True):
        ours = table[table["recommender"] == name].set_index("ranker").loc[[ranker, "random"]]
        before = [paper.loc[name, "recommender_alone"], *ours["weak_auc_before"]]
        after = [paper.loc[name, "with_gpt_35"], *ours["weak_auc_after"]]
        # NaN: the paper does not have this dataset or recommender; or, of ours, nobody is routed
        bars = pd.DataFrame({"before": before, "after": after}, index=list(looks)).dropna()
        places = np.arange(len(bars))
        axis.bar(places - 0.2, bars["before"], 0.38, color=GREY)
        axis.bar(places + 0.2, bars["after"], 0.38, color=[looks[what] for what in bars.index])
        axis.set_xticks(places, bars.index)
        axis.axhline(0.5, color="black", ls="--", lw=0.8)
        nobody = "" if len(ours.dropna(subset="weak_auc_after")) else "\n(ours routes nobody with an AUC)"
        axis.set(title=f"{name}{nobody}", xlim=(-0.6, max(len(bars), 1) - 0.4))
        axis.set_ylim(_reach(0, 0.75, bars["before"], bars["after"]))
    axes[0].set_ylabel("AUC of users flagged as weak")
    keys = {GREY: "recommender alone", **({BLUE: "GPT-3.5 (paper)"} if paper["with_gpt_35"].notna().any() else {})}
    keys |= {ORANGE: f"{model}, {asked}", RED: "a random order (ours)"}
    handles = [mpl.patches.Patch(color=colour, label=key) for colour, key in keys.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if len(recommenders) < 3 else 2)
    return figure


def headline(
    table: pd.DataFrame, of_model: Sequence[str], others: Sequence[str], recommenders: Sequence[str],
    rankings: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Weak users' AUC by every ranker, under the paper's protocol and on fresh items.

    Args:
        table: the comparison.
        of_model, others: rankers of the language model, and those without it.
        recommenders: over whose weak users the mean is taken.
        rankings: the model's rankings (ranker, user, missing); names then tell how much of them is random repair.
    """
    figure, axes = _axes(2, 5.2, 3.9)
    rankers = ["recommender", *of_model, *others]
    for axis, protocol in zip(axes, ("published", "held-out"), strict=True):
        rows = table[(table["protocol"] == protocol) & table["recommender"].isin(recommenders)]
        means = rows.groupby("ranker")["weak_auc_after"].mean()[rankers].iloc[::-1]
        before = rows["weak_auc_before"].mean()
        colours = {"recommender": BLUE} | dict.fromkeys(of_model, ORANGE)
        axis.barh(
            _with_repairs(means.index, rankings, " "), means, color=[colours.get(name, GREY) for name in means.index]
        )
        axis.axvline(before, color=BLUE, lw=1.5)
        axis.axvline(0.5, color="black", ls="--", lw=0.8)
        for place, value in enumerate(means):
            if value == value:  # NaN: nobody who is routed has an AUC
                axis.text(0.015, place, f"{value:.2f}", va="center", fontsize=9, color="white", fontweight="bold")
            else:
                axis.text(0.015, place, "nobody", va="center", fontsize=9)
        axis.set(xlim=_reach(0, 0.85, means), ylim=(-0.7, len(means) - 0.3))  # bars of NaN would set none
    figure.supxlabel("mean AUC of weak users (one split; dashed: a random order)", fontsize=10)
    axes[0].set_title("published:\npicked and scored on the same items")
    axes[1].set_title("held-out:\npicked before the test, scored on it")
    axes[1].set_yticklabels([])
    return figure


def gain_forest(table: pd.DataFrame, rankers: Sequence[str], rankings: pd.DataFrame | None = None) -> Figure:
    """What each way to ask adds over the best control on held-out weak users, per recommender, with intervals.

    Args:
        table: the comparison under the held-out protocol.
        rankers: a panel each.
        rankings: the model's rankings (ranker, user, missing); titles then tell how much of them is random repair.
    """
    figure, axes = _axes(len(rankers), 2.6, 3.9)
    titles = _with_repairs(rankers, rankings)
    for axis, ranker, title in zip(axes, rankers, titles, strict=True):
        rows = table[table["ranker"] == ranker].iloc[::-1]
        places = np.arange(len(rows))
        low, high = rows["gain_over_best_control_low"], rows["gain_over_best_control_high"]
        axis.hlines(places, low, high, color=ORANGE, lw=2)
        axis.scatter(rows["gain_over_best_control"], places, color=ORANGE, s=30, zorder=3)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(places, rows["recommender"] if axis is axes[0] else [])
        axis.set(title=title, xlabel="AUC gained over\nthe best control", xlim=_reach(-0.6, 0.4, low, high))
    return figure


def larger_models(table: pd.DataFrame, rankings: pd.DataFrame | None = None) -> Figure:
    """What each model adds over the best control on a sample of inactive users, the smallest on top; with intervals.

    Args:
        table: model, millions (of parameters; NaN: not known), ranker, users ("asked", "routed"), users_scored,
            gain_over_best_control and its _low and _high (NaN for fewer than two users).
        rankings: the models' rankings (model, ranker, user, missing); a note then tells how much of them is random
            repair.
    """
    sizes = table.groupby("model", sort=False)["millions"].first().sort_values(kind="stable", na_position="last")
    rankers = list(table["ranker"].unique())
    shares = {} if rankings is None else _repaired(rankings, ["ranker", "model"])
    notes = [f"{ranker}, {model}: {_share(share)}" for (ranker, model), share in shares.items() if share]
    figure, axes = _axes(2, 5.0, 2.4 + len(sizes) * max(0.5, 0.22 * len(rankers)) + 0.15 * len(notes))
    groups = {"asked": "the inactive users asked about", "routed": "those of them whom a recommender routes"}
    for axis, (group, called) in zip(axes, groups.items(), strict=True):
        rows = table[table["users"] == group]
        _larger_models_panel(axis, rows, list(sizes.index), rankers)
        axis.set_title(f"{called} (n = {_range(rows['users_scored'])})", fontsize=9)
    names = [f"{model}\n{_size(millions)}" for model, millions in sizes.items()]
    axes[0].set_yticks(range(len(sizes)), names, fontsize=8)
    axes[1].set_yticks(range(len(sizes)), [""] * len(sizes))
    repaired = "\n".join(["Share of candidates by our random repair:", *notes]) if notes else None
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title=repaired, title_fontsize=8
    )
    figure.suptitle("Each model against the best control: held-out test items")
    return figure


def _size(millions: float) -> str:
    return f"{millions:,.0f} million parameters" if millions == millions else "size not published"


def _larger_models_panel(axis: Axes, table: pd.DataFrame, of: Sequence[str], rankers: Sequence[str]) -> None:
    # A way to ask has its colour in every experiment, also where others were left out; one's own follow the built-in.
    ways = dict.fromkeys([*modes.BUILT_IN, *rankers])
    colours = dict(zip(ways, cycle((ORANGE, BLUE, GREEN, PURPLE, RED, GREY)), strict=False))
    for number, ranker in enumerate(rankers):
        rows = table[table["ranker"] == ranker]
        apart = 0.7 / len(rankers) * (number - (len(rankers) - 1) / 2)  # one below the other, not on top
        places = np.array([of.index(model) for model in rows["model"]]) + apart
        gain, low, high = (rows[f"gain_over_best_control{part}"] for part in ("", "_low", "_high"))
        # Dots, no line: the models are of different makers, and nothing lies between them.
        axis.hlines(places, low, high, color=colours[ranker], lw=1)
        axis.plot(gain, places, "o", color=colours[ranker], ms=6, label=ranker)
    axis.axvline(0, color="black", lw=0.8)
    axis.set(ylim=(len(of) - 0.5, -0.5), xlabel="AUC gained over the best control")


def _range(values: pd.Series) -> str:
    """One number where all are the same, else the lowest and the highest."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def topk_gain(table: pd.DataFrame, of_model: Sequence[str]) -> Figure:
    """Gain in NDCG@10 of inactive users when the recommender's list is re-ranked or replaced; one panel a ranker."""
    rankers = [*of_model, *CONTROLS]
    figure, axes = _axes(len(rankers), 2.4, 3.9)
    span = table.loc[table["ranker"].isin(rankers), ["gain_over_recommender_low", "gain_over_recommender_high"]]
    limits = tuple(1.1 * limit for limit in _reach(-0.01, 0.01, *(span[column] for column in span)))
    for axis, ranker in zip(axes, rankers, strict=True):
        rows = table[table["ranker"] == ranker].iloc[::-1]
        places, colour = np.arange(len(rows)), ORANGE if ranker in of_model else GREY
        axis.hlines(places, rows["gain_over_recommender_low"], rows["gain_over_recommender_high"], color=colour, lw=2)
        axis.scatter(rows["gain_over_recommender"], places, color=colour, s=30, zorder=3)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(places, rows["recommender"] if axis is axes[0] else [])
        axis.set(title=ranker, xlabel="NDCG@10 gained over\nthe recommender's list", xlim=limits)
    return figure


# --- 06 cost --------------------------------------------------------------------------------------------------------


def quality_cost(points: pd.DataFrame, alone: float, rankings: pd.DataFrame | None = None) -> Figure:
    """Overall AUC of the hybrid against the tokens the model computes; the line is the recommender alone.

    Args:
        points: ranker, routing, tokens, overall_auc.
        alone: the recommender's overall AUC.
        rankings: the model's rankings (ranker, user, missing); the legend then tells how much of them is random repair.
    """
    figure, (axis,) = _axes(1, 7, 4.2)
    markers: Mapping[str, str] = {"weak only": "o", "everybody inactive": "s", "everybody": "^"}
    colours = dict(zip(points["ranker"].unique(), cycle((RED, BLUE, GREEN, ORANGE, PURPLE, GREY)), strict=False))
    counted = points[points["tokens"] > 0]  # a logarithmic axis has no place for none
    for _, row in counted.iterrows():
        style = {"color": colours[row["ranker"]], "marker": markers[row["routing"]]}
        axis.scatter(row["tokens"], row["overall_auc"], s=60, **style)
    axis.axhline(alone, color="black", lw=1)
    axis.annotate(
        "recommender alone: no cost", (1, alone), xycoords=("axes fraction", "data"), xytext=(0, 2),
        textcoords="offset points", ha="right", va="bottom", fontsize=9,
    )  # fmt: skip
    not_counted = set(points["ranker"]) - set(counted["ranker"])
    for ranker, name in zip(colours, _with_repairs(colours, rankings), strict=True):
        untold = "\n(not shown: no tokens were counted)" if ranker in not_counted else ""
        axis.plot([], [], "o", color=colours[ranker], label=f"{name}{untold}")
    for routing in points["routing"].unique():
        axis.plot([], [], markers[routing], color="white", markeredgecolor="black", label=routing)
    axis.set(xscale="log", xlabel="tokens the model computes (log scale)", ylabel="overall AUC")
    _plain_logarithm(axis.xaxis)
    axis.set_title("Overall AUC of the hybrid, by tokens")
    if len(points):
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# --- 04 prompting: does it read the user? -----------------------------------------------------------------------------


def reading(table: pd.DataFrame) -> Figure:
    """AUC by whose history the model was shown: dots with their 95 % intervals, a panel a model, chance dotted.

    Args:
        table: model, history, users, auc, low, high.
    """
    models = list(table["model"].unique())
    figure, axes = _axes(len(models), max(3.4, 5.6 / max(len(models), 1)), 2.2)
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
