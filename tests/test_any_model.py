"""Any language model goes through the six notebooks: what it meant is what they rank, and what is missing is told."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from fault_server import Reply, Request, candidates, completion, error, ranked, serve
from matplotlib import pyplot
from toy_model import ToyModel, reply

from hybridrec.llm import rankers
from hybridrec.llm.runner import Asked, Response
from hybridrec.study import config, models, notebooks, paths, steps, tables

NOTEBOOKS = sorted(file.stem for file in paths.NOTEBOOKS.glob("0[1-6]_*.ipynb"))
FIRST, ASKING = NOTEBOOKS[:3], NOTEBOOKS[3:]
MODEL = "acme/oracle-9000"
VALUES: dict[str, Any] = {
    "dataset": "mine",
    "noun": "song",
    "like_threshold": 4.0,
    "rating_scale": 5,
    "seed": 5,
    "recommenders": ["MostPop", "MF", "EASE"],
    "grids": {"MF": [0.06], "EASE": [300]},
    "folds": 2,
    "top": 10,
    "performance_threshold": 0.5,
    "model": MODEL,
    "modes": ["listwise", "listwise-labels"],
    "everybody_modes": [],
    "history_length": 5,
    "shuffles": 2,
    "shuffled_users": 5,
    "topk_modes": [],
    "topk_users": 5,
    "bootstrap_samples": 100,
    "permutations": 100,
    "ratings": {"file": "songs.csv", "user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp",
                "title": "title"},
}  # fmt: skip
PRICES = f"""
date = "2026-11-27"
[local]
usd_per_hour = 0.1
[models."{MODEL}"]
prompt = 1.0
cached = 0.5
completion = 2.0
"""


def songs() -> pd.DataFrame:
    """60 users, 160 songs: every second user has rated about 40 of them, the others twice as many."""
    rng = np.random.default_rng(11)
    user, item = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(160), indexing="ij"))
    share = np.where(user % 2, 0.25, 0.5)
    table = pd.DataFrame({"user": user, "item": item, "rating": np.where((user + item) % 2, 4, 3)})
    table["rating"] = np.clip(table["rating"] + rng.integers(-2, 2, len(table)), 1, 5)
    table["timestamp"] = rng.integers(880_000_000, 890_000_000, len(table))
    table["title"] = [f"{'ZYXWVUTSRQ'[n % 10]}olka number {n}" for n in table["item"]]
    return table[rng.random(len(table)) < share]


def run(settings: config.Experiment, names: list[str]) -> None:
    """Execute notebooks' code here, with their parameters cells overridden as papermill does it."""
    for name in names:
        notebook, space = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4), {}
        declared = notebooks.declared_parameters(notebook, name)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}, cell {cell.id}", "exec"), space)
            if "parameters" in cell.metadata.get("tags", []):
                space |= notebooks.changed_parameters(settings, declared, name)
        pyplot.close("all")


# --- models that answer as declared ------------------------------------------------------------------------------------


def shown(message: str) -> dict[str, str]:
    """Title by what an answer may call it (its label, or the title itself), in the order shown."""
    offered = message.split("Here are the candidate ")[1]
    labelled = dict(re.findall(r"^(C\d+) (.*)$", offered, re.M))
    return labelled or {title: title for title in candidates(message)}


def meant(message: str) -> list[str]:
    """The order that every model of this file means: by title."""
    offered = shown(message)
    return sorted(offered, key=offered.__getitem__)


def with_faults(faults: dict[frozenset[str], str]) -> Callable[[Request], Reply]:
    """A server that ranks as meant, but for the users whose candidates are named."""

    def script(request: Request) -> Reply:
        order = meant(request.message)
        match faults.get(frozenset(shown(request.message).values())):
            case "refusal":
                return completion(request, "I'm sorry, but I cannot help with that.")
            case "empty":
                return completion(request, "")
            case "invented":
                return completion(request, "\n".join(["A Song Nobody Ever Sang", *order[1:]]))
            case "500":
                return error(500)
        return completion(request, "\n".join(order))

    return script


def of_toy(text: Callable[[Asked], str] | None = None) -> Callable[[Asked], Response]:
    """The answers of a local model; what it writes is ``text``."""
    return lambda asked: reply(asked) | ({"text": text(asked)} if text and asked.request["kind"] == "generate" else {})


@pytest.fixture(scope="module")
def shared() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, shared) -> Path:
    """A folder with the ratings, and what notebooks 01 to 03 make of them."""
    folder = tmp_path_factory.mktemp("study")
    songs().to_csv(folder / "songs.csv", index=False)
    (folder / "prices.toml").write_text(PRICES, encoding="utf-8")
    shared.setenv("HYBRIDREC_DATA", str(folder))
    shared.setenv("HYBRIDREC_SCRATCH", str(folder))
    for name in ("CACHE", "PRICES", "RECORDINGS"):
        shared.setattr(paths, name, folder / name.lower())
    shared.setattr(paths, "PRICES", folder / "prices.toml")
    run(config.build("any", VALUES, "any.toml"), FIRST)
    return folder


def test_tmp(prepared):
    print(tables.read("any", "triage").groupby(["protocol", "recommender"])["weak"].sum())
    print(tables.read("any", "candidates").groupby("user").size().describe())
