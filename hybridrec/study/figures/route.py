"""The map at the head of every notebook: the route of the study, and where on it the notebook stands."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hybridrec.study.figures.style import BLUE, GREY, WIDE

# A notebook a stop: its number, and what is done there, in two short lines.
STOPS = (
    ("01", "divide\nthe ratings"),
    ("02", "train\nrecommenders"),
    ("03", "find\nweak users"),
    ("04", "ask the\nlanguage model"),
    ("05", "judge\nthe rankings"),
    ("06", "count\nthe cost"),
    ("07", "teach\nthe model"),
    ("08", "allocate\na budget"),
)
_IN_A_ROW = 4
_WIDE, _HIGH, _ACROSS, _DOWN = 1.1, 0.62, 1.32, 0.95


def route(here: str) -> Figure:
    """The eight stops of the study, in two rows that are read like text; where the reader stands is filled.

    Args:
        here: the notebook's number or name, such as "05" or "05a_published_claims"; an appendix stands where its
            notebook does.
    """
    figure, axis = plt.subplots(figsize=(WIDE, 1.75))
    places = [(number % _IN_A_ROW * _ACROSS, -(number // _IN_A_ROW) * _DOWN) for number in range(len(STOPS))]
    for (number, does), (left, low) in zip(STOPS, places, strict=True):
        reached = here.startswith(number)
        box = FancyBboxPatch((left, low), _WIDE, _HIGH, boxstyle="round,pad=0.02,rounding_size=0.08")
        box.set(facecolor=BLUE if reached else "white", edgecolor=BLUE if reached else GREY, linewidth=1.2)
        axis.add_patch(box)
        middle = left + _WIDE / 2, low + _HIGH / 2
        colour = "white" if reached else "black"
        axis.text(*middle, f"{number}  {does}", ha="center", va="center", color=colour, fontsize=9, linespacing=1.15)
    for start, (left, low) in enumerate(places[:-1]):
        if (start + 1) % _IN_A_ROW:
            arrow = {"arrowstyle": "->", "color": GREY, "lw": 1.2}
            height = low + _HIGH / 2
            axis.annotate("", (left + _ACROSS - 0.04, height), (left + _WIDE + 0.04, height), arrowprops=arrow)
    axis.set(xlim=(-0.08, (_IN_A_ROW - 1) * _ACROSS + _WIDE + 0.08), ylim=(-_DOWN - 0.1, _HIGH + 0.1))
    axis.set_axis_off()
    plt.close(figure)  # a cell that ends with it shows it, and would once more show whatever is open
    return figure
