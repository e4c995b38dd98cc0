"""Which models of this study are taught, on whom, and how the ways to teach compare.

Only users are taught on who are active by the ratings outside any fold, so that no list of any protocol fold is theirs:
one adapter serves all folds. Ways to teach are compared on the folds that decide, in users who are never taught on
(``compare``); the step that is kept is chosen on taught users who are held back.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec.errors import SettingError
from hybridrec.llm import teach, ways
from hybridrec.llm.lessons import Material
from hybridrec.llm.tasks import with_anothers_history
from hybridrec.llm.teach import Teaching
from hybridrec.llm.ways import Way
from hybridrec.randomness import in_random_order
from hybridrec.study import cross_answers, cross_tasks, models, paths
from hybridrec.study.config import Experiment
from hybridrec.study.cross_tasks import Cross, Tasks

# What is compared: one thing changed at a time against the first.
_USUAL: dict[str, Any] = {"objective": "likelihood", "passes": 1, "tokens_per_step": 4096, "learning_rate": 8e-4}
VARIANTS = {
    "lines": Teaching(**_USUAL),
    "lines, pairs": Teaching(**_USUAL | {"objective": "pairs"}),
    "lines, beyond the item": Teaching(**_USUAL | {"objective": "beyond-item"}),
    "lines, longer": Teaching(**_USUAL | {"objective": "pairs", "passes": 3, "lines": 96}),
    "yes or no": Teaching(**_USUAL | {"mode": "pointwise", "lines": 20, "passes": 3}),
}
CHOSEN = "lines, pairs"
# In how many inactive users ways to teach are compared.
COMPARED_USERS = 100
OWN, ANOTHERS = "own history", "another user's history"
# Of the table ``compare``: what was taught, on users held back, and on the folds that decide.
COMPARED = [
    *("way", "mode", "objective", "lines", "passes", "steps", "device", "seconds", "held_back", "held_back_another"),
    *("users", "auc", "low", "high", "another", "own_less_another", "apart_low", "apart_high"),
]


def way(settings: Teaching) -> Way:
    """How a taught model is asked: as it was taught."""
    return next(one for one in ways.TAUGHT if one.mode == settings.mode and one.length == settings.lines)


def never_routed(cross: Cross) -> pd.Index:
    """Users who are active by the ratings outside any fold, or pair of folds, that the protocol leaves out."""
    cells = {*cross.judged_cells, *cross.deciding_cells}
    ratings = cross.divided if cross.everybody is None else cross.everybody
    inactive = set().union(*(cross.inactive(*cell, ratings=ratings) for cell in cells))
    return pd.Index(sorted(set(ratings["user"]) - inactive), name="user")


def material(cross: Cross) -> Material:
    """The ratings of those users, all folds together."""
    ratings = cross.divided if cross.everybody is None else cross.everybody
    rows = ratings[ratings["user"].isin(never_routed(cross))]
    return Material(rows, cross.items, cross.noun, cross.rating_scale, cross.like_threshold)


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


def compared_tasks(cross: Cross, variant: Teaching) -> dict[str, Tasks]:
    """What ways to teach are compared by: lists of the folds that decide, by whose history is shown."""
    able = cross.inactive(ratings=cross.everybody)
    drawn = in_random_order(able, cross.seed, "ways to teach")[:COMPARED_USERS]
    own = cross_tasks.deciding_tasks(cross, dict.fromkeys(range(cross.folds), way(variant)), drawn)
    return {OWN: own, ANOTHERS: {key: with_anothers_history(tasks, cross.seed) for key, tasks in own.items()}}


def compare(settings: Experiment, model: str, only: Sequence[str] = (), **loaded: Any) -> Iterator[pd.DataFrame]:
    """Teach a model in several ways, and ask it about the folds that decide, for the same users.

    What is taught or answered already is found again. Nothing of a judged fold is asked.

    Args:
        settings, model, loaded: as for ``run``.
        only: some of ``VARIANTS``; left out, all of them.

    Yields:
        The row of each way, in COMPARED; ``auc`` is the mean over users, each with an interval over them.
    """
    cross = cross_tasks.prepare(settings)
    for variant in only or VARIANTS:
        card = run(settings, model, variant, **loaded)
        opened = models.local(
            model, **{**loaded, "dtype": cross_tasks.DTYPE, "adapter": str(folder(settings.name, model, variant))}
        )
        recordings = models.recordings_for(settings.dataset, f"{opened.name}, {variant}")
        parts = []
        for whose, tasks in compared_tasks(cross, VARIANTS[variant]).items():
            cross_answers.record(f"{variant}: {whose}", cross_tasks.asked_in(tasks, cross), opened, recordings)
            parts.append(cross_answers.answers(tasks, cross, opened, recordings).assign(ranker=whose))
        own, another = (row for _, row in ways.compare(pd.concat(parts), "ranker", settings.seed).iterrows())
        best, what = card["best"], card["settings"]
        apart = (-another["difference"], -another["difference_high"], -another["difference_low"])
        values = (
            *(variant, what["mode"], what["objective"], what["lines"], what["passes"], card["steps"], card["device"]),
            *(card["seconds"], best["auc"], best["another"]),
            *(own["users"], own["auc"], own["low"], own["high"], another["auc"], *apart),
        )
        yield pd.DataFrame([values], columns=COMPARED)


def compared(experiment: str) -> pd.DataFrame:
    """The table of ``compare`` as far as it was made: those of ``VARIANTS`` that were run, in their order."""
    path = paths.results(experiment) / "teaching.csv"
    if not path.is_file():
        return pd.DataFrame(columns=COMPARED)
    table = pd.read_csv(path).set_index("way")
    return table.reindex([name for name in VARIANTS if name in table.index]).reset_index()[COMPARED]
