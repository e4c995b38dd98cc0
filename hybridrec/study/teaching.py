"""Which models of this study are taught, on whom, and how the ways to teach compare.

Only users are taught on who are active by the ratings outside any fold, so that no list of any protocol fold is theirs:
one adapter serves all folds. The way to teach is chosen on users who are held back of these, and shown beside that: how
it does on the folds that decide, of inactive users.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec.errors import SettingError
from hybridrec.llm import rankers, teach, ways
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.tasks import with_anothers_history
from hybridrec.llm.teach import Teaching
from hybridrec.llm.ways import Way
from hybridrec.randomness import in_random_order
from hybridrec.study import cross_tasks, models, paths, tables
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
# How many inactive users are asked about the folds that decide, to compare what was taught.
COMPARED_USERS = 200


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


def compare(settings: Experiment, model: str, variants: Iterable[str], **loaded: Any) -> pd.DataFrame:
    """Each way to teach, on the folds that decide: the AUC of inactive users by their own and another's history.

    Returns:
        variant, held_back (AUC of active users who were held back), held_back_another, and what ``ways.compare``
        returns for "own" and "another": ranker, users, answered, auc, low, high, difference and its interval.
    """
    cross = cross_tasks.prepare(settings)
    parts = []
    for variant in variants:
        at = folder(settings.name, model, variant)
        card = run(settings, model, variant, **loaded)
        taught = HuggingFace(model, adapter=at, folder=paths.MODELS, search=paths.data_folders(), **loaded)
        found = ways.compare(deciding(taught, way(VARIANTS[variant]), cross), "ranker", cross.seed)
        best = card["best"]
        parts.append(found.assign(variant=variant, held_back=best["auc"], held_back_another=best["another"]))
    return pd.concat(parts, ignore_index=True)


def deciding(model: HuggingFace, asked: Way, cross: Cross, users: int = COMPARED_USERS) -> pd.DataFrame:
    """A model's rankings of inactive users' lists in the folds that decide, by their own and another's history.

    Returns:
        ranker ("own", "another"), test, fold, user, item, score, relevant, failure.
    """
    drawn = set(in_random_order(cross.inactive(ratings=cross.everybody), cross.seed, "cross-deciding")[:users])
    labels, parts = cross.candidates[["fold", "user", "item", "relevant"]], []
    for test, fold in cross.deciding_cells:
        able = [user for user in cross.users((test, fold)) if user in drawn]
        own = cross.tasks(asked, (test, fold), able)
        for name, tasks in (("own", own), ("another", with_anothers_history(own, cross.seed))):
            rankings = rankers.rank(tasks, asked.mode, model, Recordings(None), noun=cross.noun, seed=cross.seed)
            parts.append(rankers.table(rankings)[["user", "item", "score", "failure"]].assign(
                ranker=name, test=test, fold=fold
            ))  # fmt: skip
    return pd.concat(parts).merge(labels, on=["fold", "user", "item"])


def publish(settings: Experiment, model: str, compared: pd.DataFrame) -> Path:
    """Write the comparison beside the adapter."""
    path = folder(settings.name, model) / "compared.csv"
    tables.write_csv(path, compared)
    return path
