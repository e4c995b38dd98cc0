"""Colours can be told apart, also by the colour-blind; labels say which model was asked, and what we added to it."""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from hybridrec.evaluation import topk
from hybridrec.study import figures

PALETTE = {name: getattr(figures, name) for name in ("BLUE", "ORANGE", "GREEN", "RED", "PURPLE", "GREY")}
# What is left of linear RGB with one kind of cone missing: Machado, Oliveira & Fernandes 2009, table 1, severity 1.
MISSING = {
    "no cone": np.eye(3),
    "red cones (protanopia)": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                               [-0.003882, -0.048116, 1.051998]],
    "green cones (deuteranopia)": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                   [-0.011820, 0.042940, 0.968881]],
    "blue cones (tritanopia)": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                                [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
_TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
_WHITE = [0.95047, 1, 1.08883]
# CIE76; about 2.3 is just noticeable side by side. Lines and markers are small and apart, so more is asked.
ENOUGH = 15


def linear(colour: str) -> np.ndarray:
    """Linear RGB of ``#rrggbb``."""
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(colour: str, missing: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as somebody sees it."""
    seen = np.clip(np.asarray(MISSING[missing]) @ linear(colour), 0, 1)
    xyz = np.asarray(_TO_XYZ) @ seen / _WHITE
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: str, other: str, missing: str) -> float:
    return float(np.linalg.norm(lab(one, missing) - lab(other, missing)))


@pytest.mark.parametrize("missing", MISSING)
def test_any_two_colours_can_be_told_apart(missing):
    pairs = itertools.combinations(PALETTE, 2)
    close = {pair: d for pair in pairs if (d := difference(*(PALETTE[name] for name in pair), missing)) < ENOUGH}
    assert close == {}


@pytest.mark.parametrize("missing", MISSING)
def test_every_colour_stands_out_from_the_paper(missing):
    assert min(difference(colour, "#ffffff", missing) for colour in PALETTE.values()) > 2 * ENOUGH


def test_colours_that_the_colour_blind_confuse_are_found():
    red, green = "#c00000", "#4f7f00"
    assert difference(red, green, "no cone") > 4 * ENOUGH
    assert min(difference(red, green, missing) for missing in MISSING) < ENOUGH


def test_white_and_black_are_as_far_apart_as_can_be():
    assert difference("#000000", "#ffffff", "no cone") == pytest.approx(100, abs=0.1)


# --- what is written in a figure --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Figures of one test are gone before the next."""
    yield
    pyplot.close("all")


def texts(figure: Figure) -> str:
    """All that can be read in a figure."""
    figure.canvas.draw()  # some labels are only made when it is drawn
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def cut_off(figure: Figure) -> list[str]:
    """Titles, names of axes, notes and legends that reach beyond the edge of a figure that was drawn."""
    said = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axis in figure.axes:
        said += [axis.xaxis.label, axis.yaxis.label, *(one for one in axis.get_children() if isinstance(one, Text))]
    boxes = [(one.get_text(), one.get_window_extent()) for one in said if one.get_visible() and one.get_text()]
    width, height = figure.bbox.width + 1, figure.bbox.height + 1  # a pixel of rounding
    return [text for text, box in boxes if min(box.x0, box.y0) < -1 or box.x1 > width or box.y1 > height]


@pytest.fixture
def rankings() -> pd.DataFrame:
    """Two users: `listwise` left out three of their five candidates, all of the one's two, one of the other's three."""
    users = pd.DataFrame({"user": [1, 1, 2, 2, 2]})
    frames = [users.assign(ranker=ranker) for ranker in ("listwise", "likelihood")]
    rows = pd.concat(frames, ignore_index=True).assign(model="tiny-1M")
    left_out = rows["user"].map({1: 2, 2: 1})
    return rows.assign(missing=left_out.where(rows["ranker"] == "listwise", 0))


def measured(**columns: object) -> pd.DataFrame:
    gains = {f"gain_over_best_control{part}": value for part, value in (("", 0.0), ("_low", -0.1), ("_high", 0.1))}
    rows = pd.DataFrame({"ranker": ["listwise", "likelihood", "random"], "recommender": "A"})
    return rows.assign(weak_auc_before=0.3, weak_auc_after=0.5, **gains, **columns)


def cells() -> pd.DataFrame:
    """The paper's and our AUC of weak users: B is not in the paper, and ours hands over nobody."""
    ours = pd.DataFrame({"recommender": ["A", "B"], "users": [9, 0], "recommender_alone": [0.3, np.nan]})
    paper = {"paper_recommender_alone": [0.2, np.nan], "paper_with_gpt_35": [0.5, np.nan]}
    return ours.assign(**paper, listwise=[0.45, np.nan], random=[0.5, np.nan])


JUDGED = pd.DataFrame(
    {"ranker": ["llm", "stack"] * 2, "family": ["arms"] * 2 + ["random"] * 2, "mean": [-0.1, 0.0, 0.1, 0.2],
     "low": [-0.2, -0.01, 0.05, 0.1], "high": [0.0, 0.01, 0.15, 0.3], "smallest_detectable": 0.04,
     "verdict": ["harms", "equivalent", "helps", "cannot tell"]}
)  # fmt: skip


WITH_REPAIRS = {
    "quality_bars": lambda rows: figures.quality_bars(
        pd.DataFrame({"name": ["listwise", "likelihood"], "control": False, "auc": 0.5, "low": 0.4, "high": 0.6}),
        "title", figures.ORANGE, rows,
    ),
    "published_pattern": lambda rows: figures.published_pattern(cells().iloc[:1], "listwise", "tiny-1M", rows),
}  # fmt: skip


OF = pd.DataFrame({"recommender": ["A", "B"]})
USERS = pd.RangeIndex(1, 7, name="user")


def with_ends(rows: pd.DataFrame, **values: float) -> pd.DataFrame:
    """The rows with these numbers, and an interval of 0.1 to either side of each."""
    ends = {
        f"{name}{end}": value + by for name, value in values.items() for end, by in (("_low", -0.1), ("_high", 0.1))
    }
    return rows.assign(**values, **ends)


SETTINGS = with_ends(pd.DataFrame({"x": [1, 2, 1, 2], "line": [4, 4, 5, 5], "flags": [20, 20, 20, 9]}), flagged_auc=0.6)
SETTINGS.attrs["line"] = "a like is at least"
SPARSITY = pd.Series([0.9, 0.95, 0.97, 0.98, 0.99, 0.99], USERS)
TWICE = pd.MultiIndex.from_product([["listwise", "choose"], [1, 2]])
WRITERS = pd.MultiIndex.from_tuples([("tiny-1M", "listwise"), ("small-1B", "listwise")], names=["model", "ranker"])
ENDED = pd.DataFrame({"answers": [8, 0], "by model": [0.25, np.nan], "by our budget": [0.5, np.nan],
                      "by our stop rule": [0.25, np.nan], "by server": [0.0, np.nan]}, WRITERS)  # fmt: skip
APPENDED = pd.DataFrame({"users": [8, 5], "share": [0.3, 1.0], "low": [0.2, np.nan], "high": 0.4}, WRITERS)
# The others, each with how many panels it has for what it is given.
OTHERS = {
    "data_portrait": (2, lambda: figures.data_portrait(
        pd.Series([3, 2, 1]), pd.Series([4, 2]), pd.Series([1.0, 5, 5]), 4)),
    "sparsity_portrait": (1, lambda: figures.sparsity_portrait(SPARSITY, 0.96, 1000)),
    "candidates_portrait": (1, lambda: figures.candidates_portrait(pd.Series([1, 2, 50] * 2, USERS), SPARSITY > 0.96)),
    "tuning_curves": (2, lambda: figures.tuning_curves(
        pd.DataFrame({"recommender": list("AABB"), "parameter": "k", "value": [1, 2] * 2, "auc": [0.6, 0.7] * 2,
                      "chosen": [False, True] * 2, "ndcg_at_10": [0.2, 0.1] * 2, "chosen_top_k": [True, False] * 2}),
    )),
    "triage_map": (1, lambda: figures.triage_map(
        OF.assign(performance=[0.4, 0.8], sparsity=0.99, weak=[True, False]), (0.5, 0.96), "A", 1000,
    )),
    "regression_to_the_mean": (1, lambda: figures.regression_to_the_mean(
        with_ends(OF, picked_on=0.3, other_half=0.6).assign(picked=7))),
    "flagged_and_rest": (1, lambda: figures.flagged_and_rest(
        with_ends(pd.DataFrame({"rule": ["one fold", "sure"], "flags": 40}), flagged_auc=0.4, rest_auc=0.7))),
    "worlds": (3, lambda: figures.worlds(pd.concat(
        [with_ends(OF, flagged=5, gain=0.2, gain_fresh=-0.1).assign(world=world) for world in ("one", "two", "three")]),
    )),
    "sensitivity": (2, lambda: figures.sensitivity({"t_p": SETTINGS, "folds": SETTINGS})),
    "written_answers": (2, lambda: figures.written_answers(ENDED, APPENDED)),
    "validity_by_length": (3, lambda: figures.validity_by_length(
        pd.DataFrame({"ranker": ["listwise", "choose"] * 3, "user": range(6), "candidates": [2, 2, 2, 2, 4, 4],
                      "missing": [2, 0, 1, 0, 4, 0], "invalid": [0, 1, 2, 1, 0, 0], "duplicates": 0}),
    )),
    "position_bias": (2, lambda: figures.position_bias(
        pd.DataFrame({"echo": [0.5, -0.5] * 2, "agreement": 0.1}, TWICE.set_names(["ranker", "user"])),
    )),
    "reading": (2, lambda: figures.reading(
        pd.DataFrame({"model": ["tiny-1M"] * 3 + ["small-1B"] * 3, "history": ["none", "another's", "own"] * 2,
                      "users": [40] * 3 + [7] * 3, "auc": [0.5, 0.51, 0.6] * 2, "low": 0.45, "high": 0.7}),
    )),
    "truly_weak": (1, lambda: figures.truly_weak(
        pd.DataFrame({"recommender": ["MF", "all"], "users": 20, "flagged": [9.0, 8], "truly_weak": [3.0, 2],
                      "truly_weak_low": 1, "truly_weak_high": 5, "at_least": 0, "at_most": 7}),
    )),
    "picked_and_fresh": (1, lambda: figures.picked_and_fresh(
        pd.DataFrame({"recommender": "all", "items": ["picked on"] * 3 + ["fresh"] * 3,
                      "ranked_by": ["recommender", "language model", "random"] * 2, "users": 245,
                      "auc": [0.3, 0.51, 0.5, 0.65, 0.55, 0.5], "low": 0.29, "high": 0.66}), "tiny-1M",
    )),
    "topk_gain": (1, lambda: figures.topk_gain(
        pd.concat([OF.assign(ranker=ranker, gain_over_recommender=0.01, gain_over_recommender_low=-0.01,
                             gain_over_recommender_high=0.02, users_scored=9)
                   for ranker in ("listwise", f"listwise{topk.FUSED}", *topk.BARS)]), ["listwise"],
    )),
    "primary": (2, lambda: figures.primary(
        pd.DataFrame({"name": ["llm", "stack"], "mean": [0.6, 0.7], "low": [0.55, 0.68], "high": [0.65, 0.72]}),
        JUDGED.iloc[:1].assign(name="stack"), "9 weak users",
    )),
    "forest": (2, lambda: figures.forest(JUDGED, {"arms": "the bar", "random": "a random order"})),
    "planted_shares": (1, lambda: figures.planted_shares(
        pd.DataFrame({"against": "the bar", "skill": [0.5, 0.8], "models": 4, "helps": [0, 1.0], "harms": [1.0, 0],
                      "equivalent": 0.0, "cannot tell": 0.0}), {"the bar": 0.7},
    )),
}  # fmt: skip
PANELS = {"quality_bars": 1, "published_pattern": 1}


def test_every_figure_of_the_study_is_drawn_here():
    made = {name for name, one in vars(figures).items() if getattr(one, "__annotations__", {}).get("return") is Figure}
    assert made - {"save", "route"} == WITH_REPAIRS.keys() | OTHERS.keys()


@pytest.mark.parametrize("here", ["03", "03a_triage_rules"])
def test_the_map_fills_the_stop_where_the_reader_stands(here):
    (axis,) = figures.route(here).axes
    filled = [patch.get_facecolor() == to_rgba(figures.BLUE) for patch in axis.patches]
    assert filled[:8] == [False, False, True, False, False, False, False, False]


def has_words(axis: Axes, which: str) -> bool:
    """Has an axis a label, is it under one of the whole figure, or are its ticks named?"""
    whole = getattr(axis.figure, f"get_sup{which}label")()
    ticks = [label.get_text() for label in getattr(axis, f"get_{which}ticklabels")()]
    return bool(getattr(axis, f"get_{which}label")() or whole or any(re.search("[A-Za-z]", text) for text in ticks))


@pytest.mark.parametrize("name", [*OTHERS, *WITH_REPAIRS])
def test_a_figure_has_its_panels_and_says_what_is_on_each_axis(name, rankings):
    panels, draw = OTHERS.get(name) or (PANELS[name], lambda: WITH_REPAIRS[name](rankings))
    figure = draw()
    figure.canvas.draw()
    assert cut_off(figure) == []
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == panels
    assert all(has_words(axis, "x") for axis in shown)
    for axis in shown:  # panels side by side show the same scale, which the first names
        assert has_words(axis, "y") or has_words(shown[0], "y")


def test_bars_and_points_are_as_long_and_where_the_table_says():
    (counts, ratings) = OTHERS["data_portrait"][1]().axes
    assert [list(line.get_ydata()) for line in counts.lines] == [[3, 2, 1], [4, 2]]
    assert sum(bar.get_height() for bar in ratings.patches) == pytest.approx(1)
    assert max(bar.get_height() for bar in ratings.patches) == pytest.approx(2 / 3)
    assert "liked (4 or more): 67%" in texts(ratings.figure)
    for axis, values, chosen in zip(OTHERS["tuning_curves"][1]().axes, ([0.6, 0.7], [0.2, 0.1]), (1, 0), strict=True):
        for place, name in enumerate("BA"):
            circles = axis.lines[2 * (1 - place) : 2 * (1 - place) + 2]  # of A, then of B, which is the lower row
            assert [tuple(one.get_xydata()[0]) for one in axis.lines if one.get_ydata()[0] == place] == [
                (value, place) for value in values
            ], name
            assert circles[0].get_markersize() < circles[1].get_markersize()
        filled = [line.get_xdata()[0] for line in axis.lines if line.get_markerfacecolor() != "none"]
        assert filled == [values[chosen]] * 2
    (axis,) = OTHERS["regression_to_the_mean"][1]().axes
    assert [set(dots.get_xdata()) for dots in axis.lines if dots.get_marker() == "o"] == [{0.3}, {0.6}]
    few = [len(dots.get_xdata()) for dots in OTHERS["sensitivity"][1]().axes[0].lines if dots.get_marker() == "o"]
    assert few == [2, 1]  # fewer than ten flags are not shown
    (drawn,) = OTHERS["triage_map"][1]().axes
    assert [dots.get_offsets().tolist() for dots in drawn.collections] == [[], [[10, 0.4]]]  # A's one user is weak


def test_ratings_that_are_all_the_same_have_one_bar():
    (_, values) = figures.data_portrait(*[pd.Series([1.0, 1.0])] * 3, 1.0).axes
    assert [bar.get_height() for bar in values.patches] == [0, 1]  # of others, and of what is liked


@pytest.mark.parametrize("name", WITH_REPAIRS)
def test_a_figure_tells_how_much_of_a_written_list_is_random_repair(name, rankings):
    assert "60%" in texts(WITH_REPAIRS[name](rankings))
    assert "%" not in texts(WITH_REPAIRS[name](rankings.assign(missing=0))).replace("95 %", "")


def test_the_published_pattern_names_the_model_that_was_asked(rankings):
    assert "tiny-1M" in texts(WITH_REPAIRS["published_pattern"](rankings))


def test_what_is_not_there_is_left_out_of_the_published_pattern(rankings):
    drawn = {}
    for name, rows in (("with", cells()), ("without", cells().assign(paper_with_gpt_35=np.nan))):
        figure = figures.published_pattern(rows, "listwise", "maker/model", rankings)
        drawn[name] = ([len(axis.patches) for axis in figure.axes], texts(figure))
    assert [bars for bars, _ in drawn.values()] == [[6, 0], [4, 0]]
    assert "GPT-3.5" in drawn["with"][1] and "GPT-3.5" not in drawn["without"][1]
    assert all("maker/model, listwise (60% random repair)" in text for _, text in drawn.values())
    assert all("B\n(ours routes nobody" in text for _, text in drawn.values())


def test_a_forest_has_every_difference_in_its_row_with_the_colour_of_its_verdict():
    panels = OTHERS["forest"][1]().axes
    row_of = dict(zip([tick.get_text() for tick in panels[0].get_yticklabels()], panels[0].get_yticks(), strict=True))
    for axis, (_, rows) in zip(panels, JUDGED.groupby("family"), strict=True):
        (intervals, dots) = axis.collections
        expected = [[mean, row_of[ranker]] for ranker, mean in zip(rows["ranker"], rows["mean"], strict=True)]
        assert [point.tolist() for point in dots.get_offsets()] == expected
        assert expected[0][1] > expected[1][1]  # the first on top
        assert [end[:, 0].tolist() for end in intervals.get_segments()] == rows[["low", "high"]].to_numpy().tolist()
        colours = [figures.VERDICT_COLOURS[word] for word in rows["verdict"]]
        np.testing.assert_allclose(dots.get_facecolor(), [to_rgba(colour) for colour in colours])


def test_the_primary_comparison_has_absolute_values_beside_differences():
    left, right = OTHERS["primary"][1]().axes
    assert [point.tolist() for point in left.collections[1].get_offsets()] == [[0.6, 1], [0.7, 0]]
    assert [point.tolist() for point in right.collections[1].get_offsets()] == [[-0.1, 0]]  # beside the stack's row


def test_verdicts_are_drawn_against_the_planted_skill():
    (axis,) = OTHERS["planted_shares"][1]().axes
    assert [list(line.get_xdata()) for line in axis.get_lines() if line.get_linestyle() == "--"] == [[0.7, 0.7]]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
    assert drawn["helps"] == [[0.5, 0], [0.8, 1]] and drawn["harms"] == [[0.5, 1], [0.8, 0]]


def test_an_order_that_is_all_random_is_said_to_be_no_answer(rankings):
    left_out = rankings.groupby(["ranker", "user"])["missing"].transform("size")
    for draw in WITH_REPAIRS.values():
        assert "no answer: 100%" in texts(draw(rankings.assign(missing=left_out)))


def test_reading_shows_each_models_users_means_and_intervals():
    figure = OTHERS["reading"][1]()
    for axis, name in zip(figure.axes, ("tiny-1M\n(40 users)", "small-1B\n(7 users)"), strict=True):
        assert axis.get_title(loc="left") == name
        intervals, dots = axis.collections
        assert [point.tolist() for point in dots.get_offsets()] == [[0.6, 0], [0.51, 1], [0.5, 2]]
        assert [segment.tolist() for segment in intervals.get_segments()] == [[[0.45, n], [0.7, n]] for n in range(3)]
    assert {"0.500", "0.510", "0.600", "own", "none"} <= set(texts(figure).split("\n"))


def test_parts_of_a_bar_add_up_to_all_answers_and_nothing_written_is_said():
    figure = OTHERS["written_answers"][1]()
    above, below = figure.axes
    assert [[bar.get_width() for bar in end] for end in above.containers] == [[0.25, 0], [0.25, 0], [0.5, 0], [0, 0]]
    assert [bar.get_x() for bar in above.patches if bar.get_y() < 0] == [0, 0.25, 0.5, 1]
    assert "n = 8" in texts(figure) and "nothing was written" in texts(figure) and "30%" in texts(figure)
    assert [point.tolist() for point in below.collections[1].get_offsets()] == [[0.3, 0], [1.0, 1]]


def test_validity_by_length_is_the_mean_per_candidate():
    above = OTHERS["validity_by_length"][1]().axes[0]
    listwise, choose = (container[0].get_xydata().tolist() for container in above.containers)
    assert listwise == [[2, 0.75], [4, 1]] and choose == [[2, 0], [4, 0]]


def test_validity_by_length_has_students_interval_from_ten_users_on():
    lengths = [2] * 10 + [4] * 9
    answers = pd.DataFrame({"ranker": "listwise", "user": range(19), "candidates": lengths, "invalid": 0,
                            "missing": [0, 1] * 5 + [0, 2] * 4 + [0], "duplicates": 0})  # fmt: skip
    (bars,) = figures.validity_by_length(answers).axes[0].containers
    enough, few = bars.lines[2][0].get_segments()
    # Ten shares of 0 or 1/2: mean 1/4, standard error 1/12; the quantile of Student's t with nine degrees is 2.2622.
    assert enough[:, 1] == pytest.approx([0.25 - 2.2622 / 12, 0.25 + 2.2622 / 12], abs=1e-4)
    assert len(few) == 0
    assert bars.lines[0].get_ydata() == pytest.approx([0.25, 2 / 9])


def test_truly_weak_shows_what_is_flagged_what_is_weak_and_both_intervals():
    (axis,) = OTHERS["truly_weak"][1]().axes
    dots, flagged = axis.get_lines()
    assert dots.get_xdata().tolist() == [3, 2] and flagged.get_xdata().tolist() == [9, 8]
    spans = [[segment[:, 0].tolist() for segment in lines.get_segments()] for lines in axis.collections]
    assert spans == [[[0, 7], [0, 7]], [[1, 5], [1, 5]]]
