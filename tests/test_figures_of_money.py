"""Figures of notebooks 06 to 08: what the tables say stands where it should, and what is not known says so."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from test_figures import cut_off, has_words, texts

from hybridrec.study import allocation_study, figures, taught

CALLS = pd.DataFrame({"computed": [400.0, 300], "cached": [0.0, 900], "written": [130.0, 0], "seconds": [2.0, 0.5]},
                     index=["listwise", "likelihood"])  # fmt: skip
BILL = pd.DataFrame({"ranker": ["listwise"] * 3, "routing": ["weak only", "everybody inactive", "everybody"],
                     "calls": [7.0, 60, np.nan], "usd": [0.001, 0.01, np.nan]})  # fmt: skip
BOUGHT = pd.DataFrame({"arm": ["best other recommender", "language model", "language model"], "n": 90,
                       "usd": [0, 0.002, np.nan], "routing": ["weak only", "weak only", "everybody inactive"],
                       "mean": [-0.01, 0.01, -0.05], "low": -0.06, "high": 0.02})  # fmt: skip
MEANS = pd.DataFrame({"group": ["weak", "inactive"] * 2, "ranker": [taught.TAUGHT] * 2 + ["the bar"] * 2,
                      "n": [4, 9] * 2, "auc": [0.5, 0.55, 0.6, 0.65], "low": 0.4, "high": 0.7})  # fmt: skip
JUDGED = pd.DataFrame({"ranker": "taught", "against": "the bar", "group": ["weak", "inactive"], "n": [4, 9],
                       "mean": [-0.1, 0.1], "low": -0.2, "high": 0.2, "verdict": ["harms", "helps"]})  # fmt: skip
CARD = {"curve": [{"step": 0, "auc": 0.5, "another": 0.5, "loss": None},
                  {"step": 9, "auc": 0.7, "another": 0.6, "loss": 2.1}], "best": {"step": 9}}  # fmt: skip
BINS = pd.DataFrame({"ratings": ["0", "1 to 9"], "ranker": "taught", "users": [5, 6], "auc": [0.4, 0.6], "low": 0.3,
                     "high": 0.7})  # fmt: skip
MEMORY = pd.DataFrame({"model": ["untaught", "taught"], "probe": "titles", "n": 9, "auc": [0.8, 0.7], "low": 0.6,
                       "high": 0.9})  # fmt: skip
ARMS = pd.DataFrame({"arm": ["recommender + item-mean", "random order"], "users": 9, "mean": [0.05, -0.1], "low": -0.2,
                     "high": 0.1, "made_worse": [0.25, 0.75]})  # fmt: skip
RELIABILITY = pd.DataFrame({"arm": ["stack", "llm"], "users": 9, "reliability": [0.1, 0.2], "low": 0.0, "high": 0.4,
                            "mean": [0.05, -0.1], "sd": 0.05, "sd_low": 0.0, "sd_high": 0.1})  # fmt: skip
CEILING = pd.DataFrame({"arm": ["stack", "llm"], "share": 0.1, "raw": 0.04, "corrected": 0.01, "held_out": 0.0})
PREDICTED = pd.DataFrame({"predicted": [0.0, 0.1], "came_out": [0.0, 0.05], "low": -0.1, "high": 0.2})
FRONTIER = pd.DataFrame({"policy": allocation_study.RANDOM, "group": ["weak", "weak", "everybody", "everybody"],
                         "share": [0.1, 1.0] * 2, "users": [4, 4, 9, 9], "gain": [0.0, -0.1, 0.0, -0.2], "low": -0.3,
                         "high": 0.1, "usd": [0.1, 1.0] * 2})  # fmt: skip

# Each with how many panels it has for what it is given.
FIGURES = {
    "tokens": (1, lambda: figures.cost.tokens(CALLS, "9 users")),
    "bill": (1, lambda: figures.cost.bill(BILL)),
    "quality": (1, lambda: figures.cost.quality(BOUGHT, "likelihood")),
    "curve": (2, lambda: figures.taught.curve(CARD, 50)),
    "means": (1, lambda: figures.taught.means(MEANS, [taught.TAUGHT, "the bar"])),
    "verdicts": (1, lambda: figures.taught.verdicts(JUDGED)),
    "by_number": (2, lambda: figures.taught.by_number({"of titles": BINS, "of users": BINS}, ["taught"])),
    "memory": (1, lambda: figures.taught.memory(MEMORY)),
    "arms": (1, lambda: figures.allocation.arms(ARMS)),
    "reliability": (2, lambda: figures.allocation.reliability(RELIABILITY)),
    "ceiling": (1, lambda: figures.allocation.ceiling(CEILING, 0.1)),
    "predictions": (3, lambda: figures.allocation.predictions(dict.fromkeys(["stack", "llm", "taught"], PREDICTED))),
    "frontier": (2, lambda: figures.allocation.frontier(FRONTIER, [allocation_study.RANDOM], CEILING)),
    "dollars": (1, lambda: figures.allocation.dollars(FRONTIER, [allocation_study.RANDOM], 1_000)),
    "redraws": (1, lambda: figures.allocation.redraws({"same fold": pd.Series([0.05, 0.1, 0.15])}, 0.1)),
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Figures of one test are gone before the next."""
    yield
    pyplot.close("all")


def test_every_figure_of_these_notebooks_is_drawn_here():
    made = {
        name
        for module in (figures.cost, figures.taught, figures.allocation)
        for name, one in vars(module).items()
        if not name.startswith("_") and getattr(one, "__annotations__", {}).get("return") is Figure
        and one.__module__ == module.__name__
    }  # fmt: skip
    assert made == FIGURES.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_narrow_and_says_what_is_on_each_axis(name):
    panels, draw = FIGURES[name]
    figure = draw()
    figure.canvas.draw()
    assert cut_off(figure) == []
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == panels
    assert figure.get_figwidth() <= 7
    whole = figure.get_supxlabel() and figure.get_supylabel()
    assert whole or (has_words(shown[-1], "x") and all(has_words(axis, "y") for axis in shown))


def test_bars_are_as_long_as_the_numbers_and_what_was_not_run_says_so():
    (axis,) = FIGURES["tokens"][1]().axes
    assert sorted(bar.get_width() for bar in axis.patches) == sorted(CALLS[["computed", "cached", "written"]].stack())
    assert max(bar.get_x() + bar.get_width() for bar in axis.patches) == 1200
    figure = FIGURES["bill"][1]()
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.001, 0.01, 0]
    assert {"7 calls", "60 calls", "not run"} <= set(texts(figure).split("\n"))


def test_a_gain_has_its_interval_and_its_price():
    figure = FIGURES["quality"][1]()
    intervals, dots = figure.axes[0].collections
    assert [point[0] for point in dots.get_offsets()] == [-0.01, 0.01, -0.05]
    assert {tuple(end[:, 0]) for end in intervals.get_segments()} == {(-0.06, 0.02)}
    assert {"no call", "$0.0020", "price not known"} <= set(texts(figure).split("\n"))
    assert figures.cost.quality(BOUGHT.iloc[:0], "likelihood").axes


def test_groups_stand_beside_each_other_in_one_row():
    (axis,) = FIGURES["means"][1]().axes
    weak, inactive = (dots.get_offsets() for dots in axis.collections if len(dots.get_offsets()) == 2)
    assert [round(x, 9) for x in weak[:, 0]] == [0.5, 0.6] and [round(x, 9) for x in inactive[:, 0]] == [0.55, 0.65]
    assert (weak[:, 1] > inactive[:, 1]).all()
    assert "(n = 4)" in texts(axis.figure) and "(n = 9)" in texts(axis.figure)


def test_redraws_have_their_mean_and_middle():
    (axis,) = FIGURES["redraws"][1]().axes
    interval, dot = axis.collections
    assert dot.get_offsets()[0][0] == pytest.approx(0.1)
    assert interval.get_segments()[0][:, 0] == pytest.approx([0.0525, 0.1475])
