"""Every figure of the study, one function each; notebooks say ``figures.name(...)``, wherever it is drawn.

Those of notebooks 06 to 08 stand in ``figures.cost``, ``figures.taught`` and ``figures.allocation``.
"""

from hybridrec.study.figures import allocation, cost, taught
from hybridrec.study.figures.baselines import quality_bars, tuning_curves
from hybridrec.study.figures.evaluation import (
    VERDICT_COLOURS,
    forest,
    picked_and_fresh,
    planted_shares,
    primary,
    published_pattern,
    topk_gain,
)
from hybridrec.study.figures.prompting import position_bias, reading, validity_by_length, written_answers
from hybridrec.study.figures.ratings import candidates_portrait, data_portrait, sparsity_portrait
from hybridrec.study.figures.route import route
from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, save, use_style
from hybridrec.study.figures.triage import (
    flagged_and_rest,
    regression_to_the_mean,
    sensitivity,
    triage_map,
    truly_weak,
    worlds,
)

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "RED",
    "VERDICT_COLOURS",
    "allocation",
    "candidates_portrait",
    "cost",
    "data_portrait",
    "flagged_and_rest",
    "forest",
    "picked_and_fresh",
    "planted_shares",
    "position_bias",
    "primary",
    "published_pattern",
    "quality_bars",
    "reading",
    "regression_to_the_mean",
    "route",
    "save",
    "sensitivity",
    "sparsity_portrait",
    "taught",
    "topk_gain",
    "triage_map",
    "truly_weak",
    "tuning_curves",
    "use_style",
    "validity_by_length",
    "worlds",
    "written_answers",
]
