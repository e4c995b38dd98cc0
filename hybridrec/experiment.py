"""The settings of a study: typed, checked, and read from one small file per experiment."""

import re
import tomllib
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hybridrec import paths

PUBLISHED_RECOMMENDERS = ("ItemKNN", "NeuMF", "BPR")
MODES = ("listwise", "listwise-labels", "likelihood", "pointwise", "pointwise-facts")  # ways to ask a language model
PUBLISHED_MODE = "listwise"
WRITTEN = ("listwise", "listwise-labels")  # those of them in which it writes the order; the others read probabilities


class ExperimentError(ValueError):
    """A setting that does not exist or has the wrong type or value; the message says which and what is possible."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint: where it is, how it may be used. The table ``[endpoint]`` of an experiment.

    ``key_variable`` is the *name* of the environment variable that holds the key, never the key. ``parameters`` are
    sent as they stand (temperature, max_tokens, seed, ...), and nothing else is.
    """

    base_url: str
    key_variable: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    json_schema: bool = False
    requests_per_minute: float = 60.0
    tokens_per_minute: float | None = None
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 6
    attempts: int = 2
    spending_cap_usd: float | None = None

    def __post_init__(self) -> None:
        # What stands in these two may be a secret put in the wrong place, so it is not repeated.
        if not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]{0,63})?", self.key_variable):
            raise ExperimentError("endpoint: key_variable must be the NAME of an environment variable, not a key.")
        if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?", self.base_url):
            raise ExperimentError("endpoint: base_url must be like https://host/v1, without a user, password or query.")
        limits = {
            "requests_per_minute": (1, 1e6),
            "tokens_per_minute": (1, 1e9),
            "concurrency": (1, 256),
            "timeout": (0.1, 3600),
            "retries": (0, 20),
            "attempts": (1, 10),
            "spending_cap_usd": (0, 1e6),
        }
        _within(self, limits, "endpoint: ")


@dataclass(frozen=True)
class Rung:
    """Another open model on this machine: how many routed users it is asked for, by mode. A table ``[[ladder]]``."""

    model: str
    users: dict[str, Any]

    def __post_init__(self) -> None:
        for mode, count in self.users.items():
            if mode not in MODES:
                raise ExperimentError(f"ladder: {self.model} has mode {mode!r}, which is none of {', '.join(MODES)}.")
            if type(count) is not int or count < 1:
                raise ExperimentError(f"ladder: {self.model} has {count!r} users for {mode}; it must be 1 or more.")


@dataclass(frozen=True)
class Experiment:
    """Every setting of a study. The files of notebooks/experiments/ hold these keys and no others."""

    name: str
    dataset: str
    ratings: dict[str, Any] | None
    users: int | None
    noun: str
    like_threshold: float
    rating_scale: int
    seed: int
    recommenders: tuple[str, ...]
    grids: dict[str, Any] | None
    folds: int
    top: int
    performance_threshold: float
    sparsity_threshold: float | None
    model: str
    endpoint: Endpoint | None
    modes: tuple[str, ...]
    everybody_modes: tuple[str, ...]
    live_users: int
    history_length: int
    shuffles: int
    shuffled_users: int
    topk_modes: tuple[str, ...]
    topk_users: int
    ladder: tuple[Rung, ...]
    bootstrap_samples: int
    permutations: int

    def __post_init__(self) -> None:
        limits = {
            "users": (50, 1_000_000),
            "live_users": (0, 1000),
            "folds": (2, 20),
            "top": (10, 1000),
            "performance_threshold": (0.0, 1.0),
            "history_length": (1, 200),
            "shuffles": (2, 20),
            "shuffled_users": (2, 100_000),
            "topk_users": (2, 100_000),
            "bootstrap_samples": (100, 100_000),
            "permutations": (100, 1_000_000),
        }
        lacking = [name for name in PUBLISHED_RECOMMENDERS if name not in self.recommenders]
        if lacking:
            raise ExperimentError(f"recommenders lacks {lacking[0]!r}: the claims are about {PUBLISHED_RECOMMENDERS}.")
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            what = f"has {unknown[0]!r}, which is none" if unknown else "is empty"
            raise ExperimentError(f"modes {what}. Known: {', '.join(MODES)}.")
        if PUBLISHED_MODE not in self.modes:
            raise ExperimentError(f"modes lacks {PUBLISHED_MODE!r}: the claims are about this way to ask.")
        scored = [mode for mode in self.modes if mode not in WRITTEN]
        if self.endpoint and scored:
            raise ExperimentError(f"modes has {scored[0]!r}, but an endpoint answers in text: {' and '.join(WRITTEN)}.")
        for key, allowed in (("everybody_modes", self.modes), ("topk_modes", set(self.modes) - set(WRITTEN))):
            strange = [mode for mode in getattr(self, key) if mode not in allowed]
            if strange:
                extra = " that read probabilities" if key == "topk_modes" else ""
                raise ExperimentError(f"{key} has {strange[0]!r}, which is not among modes{extra}.")
        _within(self, limits)
        if self.like_threshold > self.rating_scale:
            raise ExperimentError(
                f"like_threshold is {self.like_threshold:g}, above the highest rating (rating_scale = "
                f"{self.rating_scale}): nothing could be a like."
            )
        own = self.ratings or {}
        if "pointwise-facts" in self.modes and (
            own.get("feedback") == "counts" or str(own.get("lowest")).startswith("-")
        ):
            raise ExperimentError(
                "modes has 'pointwise-facts', which tells the model of a mean rating \"of\" the highest: that means "
                'nothing with feedback = "counts", or on a scale that goes below 0. Leave it out.'
            )


def _within(settings: Any, limits: dict[str, tuple[float, float]], where: str = "") -> None:
    for key, (low, high) in limits.items():
        value = getattr(settings, key)
        if value is not None and not low <= value <= high:
            raise ExperimentError(f"{where}{key} is {value}; it must be from {low} to {high}.")


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
    try:
        return Experiment(name=name, **{**_OPTIONAL, **_checked(Experiment, values, source, {"name"})})
    except ExperimentError as error:
        raise ExperimentError(str(error) if str(error).startswith(source) else f"{source}: {error}") from None


_OPTIONAL = {
    "ratings": None,
    "users": None,
    "grids": None,
    "sparsity_threshold": None,
    "endpoint": None,
    "live_users": 0,
    "ladder": (),
}


def _checked(kind: type, values: dict[str, Any], source: str, given: set[str] = frozenset()) -> dict[str, Any]:
    """The values of a settings class: no key unknown, none missing, each of its declared type."""
    wanted = {one.name: one for one in fields(kind) if one.name not in given}
    optional = {
        name for name, one in wanted.items() if one.default is not MISSING or one.default_factory is not MISSING
    }
    optional |= {*_OPTIONAL} if kind is Experiment else set()
    unknown, missing = values.keys() - wanted.keys(), wanted.keys() - values.keys() - optional
    if unknown:
        raise ExperimentError(f"{source}: unknown key {sorted(unknown)[0]!r}. Known: {', '.join(sorted(wanted))}.")
    if missing:
        raise ExperimentError(f"{source}: missing key {sorted(missing)[0]!r}.")
    return {key: _typed(key, value, wanted[key].type, source) for key, value in values.items()}


def _typed(key: str, value: Any, wanted: Any, source: str) -> Any:
    """The value in its declared type; an int passes for a float, nothing else is converted."""
    if isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    if wanted is Endpoint and isinstance(value, dict):
        return Endpoint(**_checked(Endpoint, value, f"{source}, [endpoint]"))
    if typing.get_origin(wanted) is dict and isinstance(value, dict):
        return value
    if wanted == tuple[Rung, ...]:
        rungs = value if isinstance(value, list) and all(isinstance(one, dict) for one in value) else [{}]
        return tuple(Rung(**_checked(Rung, one, f"{source}, [[ladder]]")) for one in rungs)
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise ExperimentError(f"{source}: {key} is {value!r}; it must be a list of names.")
    accepted = (int, float) if wanted is float else wanted
    if typing.get_origin(wanted) or (isinstance(value, bool) and wanted is not bool) or not isinstance(value, accepted):
        called = "table" if wanted is Endpoint or typing.get_origin(wanted) else wanted.__name__
        raise ExperimentError(f"{source}: {key} is {_shown(key, value)}; it must be a {called}.")
    return wanted(value)


def _shown(key: str, value: Any) -> str:
    """A value in an error message; never of a setting that stands near a secret."""
    secret = key in ("key_variable", "base_url", "endpoint", "parameters")
    return "not what it should be" if secret else repr(value)


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The settings as plain values, as papermill passes them to a notebook."""
    plain = asdict(experiment)  # a Rung is a dictionary now
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
