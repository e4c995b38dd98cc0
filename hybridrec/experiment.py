"""The settings of a study: typed, checked, and read from one small file per experiment."""

import tomllib
import types
import typing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hybridrec import paths

PUBLISHED_RECOMMENDERS = ("ItemKNN", "NeuMF", "BPR")


class ExperimentError(ValueError):
    """A setting that does not exist or has the wrong type or value; the message says which and what is possible."""


@dataclass(frozen=True)
class Experiment:
    """Every setting of a study. The files of notebooks/experiments/ hold these keys and no others."""

    name: str
    dataset: str
    noun: str
    like_threshold: float
    rating_scale: int
    seed: int
    recommenders: tuple[str, ...]
    folds: int
    performance_threshold: float
    sparsity_threshold: float | None
    shrinkage: float
    model: str
    everybody_modes: tuple[str, ...]
    history_length: int
    bootstrap_samples: int
    permutations: int

    def __post_init__(self) -> None:
        limits = {
            "folds": (2, 20),
            "performance_threshold": (0.0, 1.0),
            "history_length": (1, 200),
            "bootstrap_samples": (100, 100_000),
            "permutations": (100, 1_000_000),
        }
        lacking = [name for name in PUBLISHED_RECOMMENDERS if name not in self.recommenders]
        if lacking:
            raise ExperimentError(f"recommenders lacks {lacking[0]!r}: the claims are about {PUBLISHED_RECOMMENDERS}.")
        for key, (low, high) in limits.items():
            if not low <= getattr(self, key) <= high:
                raise ExperimentError(f"{key} is {getattr(self, key)}; it must be from {low} to {high}.")


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ExperimentError: no such file (lists those there are), or an unknown, missing or mistyped key.
    """
    path = paths.EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in paths.EXPERIMENTS.glob("*.toml")))
        raise ExperimentError(f"no experiment {name!r} in {paths.within_root(paths.EXPERIMENTS)}. There are: {known}.")
    return read(path)


def read(path: Path) -> Experiment:
    """The experiment written in a TOML file; its name is the file's."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path.name}: {error}.") from None
    return build(path.stem, values, path.name)


def build(name: str, values: dict[str, Any], source: str) -> Experiment:
    """An experiment from a dictionary, every key and type checked."""
    types_of = {field.name: field.type for field in fields(Experiment) if field.name != "name"}
    unknown, missing = values.keys() - types_of.keys(), types_of.keys() - values.keys() - {"sparsity_threshold"}
    if unknown:
        raise ExperimentError(f"{source}: unknown key {sorted(unknown)[0]!r}. Known: {', '.join(sorted(types_of))}.")
    if missing:
        raise ExperimentError(f"{source}: missing key {sorted(missing)[0]!r}.")
    checked = {key: _typed(key, value, types_of[key], source) for key, value in values.items()}
    return Experiment(name=name, **{"sparsity_threshold": None, **checked})


def _typed(key: str, value: Any, wanted: Any, source: str) -> Any:
    """The value in its declared type; an int passes for a float, nothing else is converted."""
    if isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise ExperimentError(f"{source}: {key} is {value!r}; it must be a list of names.")
    accepted = (int, float) if wanted is float else wanted
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise ExperimentError(f"{source}: {key} is {value!r}; it must be a {wanted.__name__}.")
    return wanted(value)


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The settings as plain values, as papermill passes them to a notebook."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(experiment).items()}
