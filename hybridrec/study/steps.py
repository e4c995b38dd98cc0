"""The steps of a study, each called by notebooks, other splits, batch files and checks alike."""

from collections.abc import Mapping
from typing import Any

from hybridrec.data import datasets, splits
from hybridrec.llm import modes, rankers, shuffles
from hybridrec.llm.runner import Asked
from hybridrec.llm.tasks import build_tasks
from hybridrec.study import paths, tables
from hybridrec.study.config import Experiment


def dataset(name: str, ratings: Mapping[str, Any] | None = None) -> datasets.Dataset:
    """A dataset of this repository, or ratings of one's own, from this repository's folders.

    Raises:
        What ``datasets.load`` raises.
    """
    search = (*paths.data_folders(), paths.ROOT) if ratings is not None else paths.data_folders()
    return datasets.load(name, ratings, folder=paths.RAW, search=search)


def study_requests(settings: Experiment) -> dict[str, list[Asked]]:
    """Everything that notebook 04 asks of a model that writes, by mode: its users, then the shuffles.

    Raises:
        MissingTableError: notebook 01 did not run yet.
    """
    names = ("interactions", "candidates", "items", "sparsity")
    interactions, candidates, items, sparsity = (tables.read(settings.name, name) for name in names)
    known = interactions[interactions["split"] != "test"]
    candidates = splits.rankable(candidates)
    sparsity = sparsity[sparsity["user"].isin(candidates["user"])]
    shown = (known, candidates, items, settings.history_length, settings.rating_scale)
    inactive = build_tasks(sparsity.loc[sparsity["inactive"], "user"], *shown)
    active = build_tasks(sparsity.loc[~sparsity["inactive"], "user"], *shown)
    chosen = shuffles.sample(inactive, settings.shuffled_users, settings.seed)
    again = [shuffles.shuffled(task, n, settings.seed) for n in range(1, settings.shuffles) for task in chosen]
    return {
        mode: [rankers.request_of(task, mode, settings.noun) for task in [*tasks, *again]]
        for mode in settings.modes
        if modes.get(mode).writes and (tasks := inactive + (active if mode in settings.everybody_modes else []))
    }
