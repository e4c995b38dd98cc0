"""Figures of notebook 04 and its appendix: what the language model answers, and what it reads."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.evaluation import verdicts
from hybridrec.evaluation.verdicts import FEWEST_USERS
from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, errors, legend_below, panels, reach

_ENDS = {"by model": BLUE, "by our stop rule": ORANGE, "by our budget": RED, "by server": GREY}
_LEAST_LABELLED = 0.08  # a narrower part of a bar has no room for its share
_KINDS = {"missing": "Left out", "invalid": "Invented", "duplicates": "Named again"}


def written_answers(ends: pd.DataFrame, repaired: pd.DataFrame) -> Figure:
    """Who ended the written answers, and which share of the candidates we appended at random, by model and way to ask.

    Args:
        ends: what ``validity.ended`` returned.
        repaired: what ``split_answers.repaired`` returned, of the same models and ways.
    """
    names = [f"{model},\n{ranker}" for model, ranker in ends.index]
    figure, (above, below) = panels([1.1 + 0.5 * len(ends)] * 2)
    start = np.zeros(len(ends))
    for end, colour in _ENDS.items():
        shares = ends[end].fillna(0.0).to_numpy()
        above.barh(range(len(ends)), shares, left=start, color=colour, height=0.6, label=end.removeprefix("by "))
        for place, share in enumerate(shares):
            if share >= _LEAST_LABELLED:
                middle = start[place] + share / 2
                ink = "black" if colour == ORANGE else "white"
                above.text(middle, place, f"{share:.0%}", ha="center", va="center", color=ink)
        start = start + shares
    for place, answers in enumerate(ends["answers"]):
        told = f"n = {answers:,.0f}" if answers else "nothing was written"
        above.text(1.02 if answers else 0.01, place, told, va="center", fontsize=9)
    above.set(title="Who ended the answers", xlabel="share of answers", xlim=(0, 1.22))
    above.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    places, share = np.arange(len(repaired)), repaired["share"]
    below.hlines(places, repaired["low"], repaired["high"], color=BLUE, lw=2)
    below.scatter(share, places, color=BLUE, s=36, zorder=3)
    for place, value in enumerate(share):
        below.annotate(f"{value:.0%}", (value, place), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    below.set(title="Candidates that we appended at random", xlim=(-0.03, 1.22))
    below.set(xlabel="share of all candidates (95 % interval over users)")
    below.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    for axis in (above, below):
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set_ylim(len(names) - 0.5, -0.6)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=len(_ENDS), fontsize=9)
    return figure


def validity_by_length(answers: pd.DataFrame) -> Figure:
    """Candidates left out, items invented and named again, by the number of candidates: a line a way to ask.

    Args:
        answers: what ``validity.answers`` returned, of one model; with an interval where a mean is over enough users.
    """
    figure, axes = panels([1.9] * 3)
    ways = list(answers["ranker"].unique())
    label = f"candidates to rank (without an interval: fewer than {FEWEST_USERS} users)"
    for axis, (kind, told) in zip(axes, _KINDS.items(), strict=True):
        for way, colour in zip(ways, (BLUE, ORANGE, GREEN, PURPLE), strict=False):
            rows = _by_length(answers[answers["ranker"] == way], kind)
            axis.errorbar(
                rows["candidates"], rows["mean"], errors(rows, "mean"), marker="o", ms=5, color=colour, lw=1.6,
                label=f"{way} (n = {rows['n'].sum():,})",
            )  # fmt: skip
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axis.set(title=f"{told}, per candidate", xlabel=label, ylabel="mean (95 %)")
        axis.set_ylim(bottom=0)
    legend_below(figure, axes[0], len(ways))
    return figure


def _by_length(answers: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The mean of a count per candidate, by the number of candidates, with its 95 % interval (``verdicts.judge``).

    Args:
        answers: of one way to ask, a row a user.
        kind: which of its counts.

    Returns:
        candidates, n (users), mean, low, high; the ends are NaN for fewer than FEWEST_USERS.
    """
    shares = answers[["user"]].assign(difference=answers[kind] / answers["candidates"], family="shares")
    found = verdicts.judge(shares.assign(comparison=answers["candidates"])).rename(columns={"comparison": "candidates"})
    found.loc[found["n"] < FEWEST_USERS, ["low", "high"]] = np.nan
    return found.sort_values("candidates")[["candidates", "n", "mean", "low", "high"]]


def position_bias(report: pd.DataFrame) -> Figure:
    """How far answers repeat the order shown, and agree over shuffles: a dot a user, a diamond the mean.

    Args:
        report: index ranker, user; columns echo, agreement (Kendall's tau).
    """
    ways = list(report.index.get_level_values("ranker").unique())
    figure, axes = panels([1.2 + 0.6 * len(ways)] * 2)
    spread = np.random.default_rng(0)
    titles = {"echo": "Answer and the order shown", "agreement": "Answers to two orders shown"}
    for axis, column in zip(axes, titles, strict=True):
        for row, way in enumerate(ways):
            values = report.loc[way, column]
            axis.plot(values, row + spread.uniform(-0.25, 0.25, len(values)), "o", ms=3, color=BLUE, alpha=0.35)
            axis.plot(values.mean(), row, "D", ms=9, color=ORANGE, mec="white")
        axis.axvline(0, color=RED, ls="--", lw=1)
        axis.set(xlim=(-1.08, 1.08), ylim=(len(ways) - 0.5, -0.5), title=titles[column])
        axis.set(xlabel="Kendall's τ: 1 is the same order, 0 (dashed) none in common")
        axis.set_xticks([-1, -0.5, 0, 0.5, 1])
        axis.set_yticks(range(len(ways)), [f"{way}\n(n = {len(report.loc[way]):,})" for way in ways])
    return figure


def reading(table: pd.DataFrame) -> Figure:
    """AUC by what the model was shown: dots with their 95 % intervals, a panel a model, chance dotted.

    Args:
        table: model, history (what was shown), users, auc, low, high.
    """
    models = list(table["model"].unique())
    figure, axes = panels([1.1 + 0.36 * table["history"].nunique()] * max(len(models), 1))
    for axis, model in zip(axes, models, strict=False):
        rows = table[table["model"] == model].iloc[::-1]
        places = np.arange(len(rows))
        axis.axvline(0.5, color=GREY, ls=":", lw=1.2, zorder=0)
        axis.hlines(places, rows["low"], rows["high"], color=BLUE, lw=2)
        axis.scatter(rows["auc"], places, color=BLUE, s=36, zorder=3)
        for place, value in zip(places, rows["auc"], strict=True):
            said = axis.annotate(f"{value:.3f}", (value, place), (0, 6), textcoords="offset points", ha="center")
            said.set(fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axis.set_yticks(places, rows["history"])
        axis.set(xlim=reach(0.4, 0.6, table["low"], table["high"], table["auc"]), ylim=(-0.5, len(rows) - 0.3))
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axis.set(xlabel="mean AUC, 95 % interval over users (dotted: ½)")
        axis.set_title(f"{model}\n({rows['users'].iloc[0]:,} users)")
    return figure
