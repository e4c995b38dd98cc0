"""What notebooks hand to each other (parquet, never committed) and what they publish (csv, metrics.json: committed)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hybridrec import files
from hybridrec.errors import MissingTableError
from hybridrec.study import paths

# Which notebook writes which table: the one place that knows the order of the study.
WRITTEN_BY = {
    "interactions": "01_data",
    "items": "01_data",
    "candidates": "01_data",
    "sparsity": "01_data",
    "cross_ratings": "01_data",
    "cross_candidates": "01_data",
    "tuning": "02_baselines",
    "scores": "02_baselines",
    "retrieved": "02_baselines",
    "validation_lists": "02_baselines",
    "cross_tuning": "02_baselines",
    "cross_scores": "02_baselines",
    "temporal_ratings": "02_baselines",
    "temporal_scores": "02_baselines",
    "fits": "02_baselines",
    "triage": "03_user_triage",
    "cross_triage": "03_user_triage",
    "rankings": "04_llm_prompting",
    "larger_rankings": "04_llm_prompting",
    "weak_rankings": "04_llm_prompting",
    "list_rankings": "04_llm_prompting",
    "shown_again": "04_llm_prompting",
    "by_history": "04_llm_prompting",
    "written_answers": "04_llm_prompting",
    "cross_answers": "04_llm_prompting",
    "claims": "05_evaluation",
    "taught_answers": "07_taught_model",
}
_DECIMALS = 6


def write(experiment: str, **frames: pd.DataFrame) -> None:
    """Write tables by name, for example ``write("ml-100k", scores=scores)``.

    Raises:
        KeyError: a name that is not declared in WRITTEN_BY.
    """
    for name, frame in frames.items():
        with files.replacing(_path(experiment, name)) as partial:
            frame.to_parquet(partial, index=False)


def read(experiment: str, name: str) -> pd.DataFrame:
    """A table that an earlier notebook wrote.

    Raises:
        KeyError: a name that is not declared in WRITTEN_BY.
        MissingTableError: it is not there (names the notebook to run first, and how).
    """
    path = _path(experiment, name)
    if not path.is_file():
        raise MissingTableError(
            f"the table {name!r} is not there yet: notebook {WRITTEN_BY[name]} writes it. Run that notebook "
            f"first, or `make reproduce EXPERIMENT={experiment}` for all of them in order."
        )
    return pd.read_parquet(path)


def is_there(experiment: str, name: str) -> bool:
    """Whether a table has been written."""
    return _path(experiment, name).is_file()


def link(experiment: str, *names: str, root: str = "..") -> Any:
    """A line to show in a notebook, with links to whole published tables of which the notebook shows a part.

    Args:
        experiment: whose.
        names: of ``publish``.
        root: the repository as seen from the notebook; "../.." from the appendix.

    Returns:
        What JupyterLab shows as Markdown.
    """
    from IPython.display import Markdown

    links = (f"[`{name}.csv`]({root}/results/{experiment}/{name}.csv)" for name in names)
    return Markdown(f"In full: {', '.join(links)}")


def _path(experiment: str, name: str) -> Path:
    if name not in WRITTEN_BY:
        raise KeyError(f"no table is called {name!r}. Known: {', '.join(WRITTEN_BY)}.")
    return paths.tables(experiment) / f"{name}.parquet"


def publish(experiment: str, name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Write a result as CSV, rounded so that the last bits of a float do not show up as changes; return it."""
    write_csv(paths.results(experiment) / f"{name}.csv", frame)
    return frame


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV file as results are written: rounded, with the same line ends everywhere."""
    with files.replacing(path) as partial:
        frame.round(_DECIMALS).to_csv(partial, index=False, lineterminator="\n")


def record(experiment: str, section: str, values: Any, add: bool = False) -> None:
    """Put a section into the experiment's metrics.json: what tests and the README are checked against.

    Others may put in theirs at the same time.

    Args:
        experiment: whose.
        section: its name. What it held before is gone ...
        values: tables, numbers and words, by name where they are added.
        add: ... or stays, as where an appendix adds to the section of its notebook.
    """
    path = paths.results(experiment) / "metrics.json"
    with files.lock(paths.work(experiment) / "metrics.lock", f"writer of {paths.within_root(path)}"):
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        metrics[section] = {**metrics.get(section, {}), **_plain(values)} if add else _plain(values)
        text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False) + "\n"
        with files.replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON's own types, floats rounded, NaN as null."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, _DECIMALS) if np.isfinite(value) else None
    return value
