"""Which models of this study are taught, on whom, and how the ways to teach compare.

Only users are taught on who are active by the ratings outside any fold, so that no list of any protocol fold is theirs:
one adapter serves all folds. The way to teach is chosen on users who are held back of these.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec.errors import SettingError
from hybridrec.llm import teach, ways
from hybridrec.llm.teach import Teaching
from hybridrec.llm.ways import Way
from hybridrec.study import cross_tasks, models, paths
from hybridrec.study.config import Experiment
from hybridrec.study.cross_tasks import Cross

# What is compared: one thing changed at a time against the first.
_USUAL: dict[str, Any] = {"passes": 1, "tokens_per_step": 4096, "learning_rate": 8e-4}
VARIANTS = {
    "lines": Teaching(**_USUAL),
    "lines, pairs": Teaching(**_USUAL | {"objective": "pairs"}),
    "lines, beyond the item": Teaching(**_USUAL | {"objective": "beyond-item"}),
    "lines, longer": Teaching(**_USUAL | {"objective": "pairs", "passes": 3, "lines": 96}),
    "yes or no": Teaching(**_USUAL | {"mode": "pointwise", "lines": 20, "passes": 3}),
}
CHOSEN = "lines, pairs"


def way(settings: Teaching) -> Way:
    """How a taught model is asked: as it was taught."""
    return next(one for one in ways.TAUGHT if one.mode == settings.mode and one.length == settings.lines)


def never_routed(cross: Cross) -> pd.Index:
    """Users who are active by the ratings outside any fold, or pair of folds, that the protocol leaves out."""
    cells = {*cross.judged_cells, *cross.deciding_cells}
    ratings = cross.divided if cross.everybody is None else cross.everybody
    inactive = set().union(*(cross.inactive(*cell, ratings=ratings) for cell in cells))
    return pd.Index(sorted(set(ratings["user"]) - inactive), name="user")


def material(cross: Cross) -> teach.Material:
    """The ratings of those users, all folds together."""
    ratings = cross.divided if cross.everybody is None else cross.everybody
    rows = ratings[ratings["user"].isin(never_routed(cross))]
    return teach.Material(rows, cross.items, cross.noun, cross.rating_scale, cross.like_threshold)


def folder(experiment: str, model: str, variant: str = CHOSEN) -> Path:
    """Where an adapter lies; those that were only compared lie beside it, and are not committed."""
    whole = paths.ADAPTERS / experiment / model
    return whole if variant == CHOSEN else whole / "compared" / variant.replace(", ", "-").replace(" ", "-")


def run(settings: Experiment, model: str, variant: str = CHOSEN, **loaded: Any) -> dict[str, Any]:
    """Teach a model on an experiment's ratings (``teach.teach``).

    Args:
        settings: the experiment; notebook 01 has divided its ratings.
        model: one on this machine.
        variant: of ``VARIANTS``.
        loaded: dtype and device.

    Returns:
        The card.
    """
    if variant not in VARIANTS:
        raise SettingError(f"unknown way to teach {variant!r}. Known: {', '.join(VARIANTS)}.")
    opened = models.local(model, **loaded)
    about = material(cross_tasks.prepare(settings))
    name = models.taught_name(opened.name, settings.name)
    where = folder(settings.name, opened.name, variant)
    return teach.teach(opened, about, where, name, VARIANTS[variant], settings.seed)
