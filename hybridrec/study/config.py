"""The settings of a study: typed, checked, and read from one small file per experiment."""

import re
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hybridrec.errors import SettingError
from hybridrec.llm.models.settings import Endpoint
from hybridrec.llm.prompts import MODES, WRITTEN
from hybridrec.settings import between, check_name, check_ranges, is_number, quoted
from hybridrec.study import paths

PUBLISHED_RECOMMENDERS = ("ItemKNN", "NeuMF", "BPR")
PUBLISHED_MODE = "listwise"


def compared_recommenders(names: Sequence[str]) -> list[str]:
    """Whom means, figures and claims are about: the paper's recommenders, or all where an experiment has none of them.

    Args:
        names: the experiment's recommenders.
    """
    return [name for name in PUBLISHED_RECOMMENDERS if name in names] or list(names)


# Every recommender there is, with the values that may be tried of what is tuned of it (recipes: fits.py).
RECOMMENDERS: dict[str, tuple[type, float, float] | None] = {
    "MostPop": None,
    "ItemKNN": (int, 1, 10_000),
    "UserKNN": (int, 1, 10_000),
    "MF": (float, 0, 10),
    "BPR": (int, 1, 10_000),
    "WBPR": (int, 1, 10_000),
    "NeuMF": (int, 1, 10_000),
    "EASE": (float, 1e-3, 1e9),
    "VAECF": (int, 1, 10_000),
}


@dataclass(frozen=True)
class Rung:
    """Another open model on this machine: how many inactive users it is asked for, by mode. A table ``[[ladder]]``."""

    model: str
    users: dict[str, Any]

    def __post_init__(self) -> None:
        check_name("model", self.model)
        if not self.users:
            raise SettingError(f"ladder: {self.model} has no users for any mode: add a mode, or leave the table out.")
        for mode, count in self.users.items():
            if mode not in MODES:
                raise SettingError(f"ladder: {self.model} has mode {mode!r}, which is none of {', '.join(MODES)}.")
            if not is_number(count, int, 1, 100_000):
                raise SettingError(
                    f"ladder: {self.model} has {quoted('users', count)} users for {mode}; it must be a whole number "
                    "from 1 to 100,000."
                )


@dataclass(frozen=True)
class Experiment:
    """Every setting of a study. The files of notebooks/experiments/ hold these keys and no others."""

    name: str
    dataset: str
    ratings: dict[str, Any] | None
    users: int | None = between(50, 1_000_000)
    noun: str
    like_threshold: float = between(-1e6, 1e6)
    rating_scale: int = between(-1e6, 1e6)
    seed: int = between(0, 1_000_000)
    recommenders: tuple[str, ...]
    grids: dict[str, Any] | None
    folds: int = between(2, 20)
    top: int = between(10, 1000)
    performance_threshold: float = between(0.0, 1.0)
    sparsity_threshold: float | None = between(0.0, 1.0)
    model: str
    endpoint: Endpoint | None
    modes: tuple[str, ...]
    everybody_modes: tuple[str, ...]
    live_users: int = between(0, 1000)
    history_length: int = between(1, 200)
    shuffles: int = between(2, 20)
    shuffled_users: int = between(2, 100_000)
    topk_modes: tuple[str, ...]
    topk_users: int = between(2, 100_000)
    ladder: tuple[Rung, ...]
    bootstrap_samples: int = between(100, 100_000)
    permutations: int = between(100, 1_000_000)

    def __post_init__(self) -> None:
        for key in ("name", "dataset", "model"):
            check_name(key, getattr(self, key))
        if not re.fullmatch(r"[^\W_](?:[^{}<>\"]{0,38}[^\s{}<>\"])?", self.noun) or not self.noun.isprintable():
            raise SettingError(
                f'noun is {quoted("noun", self.noun)}; it must be a word or phrase like "film": no more than 40 '
                'characters in one line, beginning with a letter or digit, none of them among { } < > ".'
            )
        check_ranges(self)
        _check_recommenders(self)
        _check_modes(self)
        if self.like_threshold > self.rating_scale:
            raise SettingError(
                f"like_threshold is {self.like_threshold:g}, above the highest rating (rating_scale = "
                f"{self.rating_scale}): nothing could be a like."
            )
        own = self.ratings or {}
        lowest = own.get("lowest", float("-inf"))
        if isinstance(lowest, int | float) and not lowest < self.rating_scale:
            raise SettingError(
                f"lowest is {quoted('lowest', lowest)} in [ratings]; it must be below the highest rating (rating_scale "
                f"= {self.rating_scale})."
            )
        if "pointwise-facts" in self.modes and (
            own.get("feedback") == "counts" or str(own.get("lowest")).startswith("-")
        ):
            raise SettingError(
                "modes has 'pointwise-facts', which tells the model of a mean rating \"of\" the highest: that means "
                'nothing with feedback = "counts", or on a scale that goes below 0. Leave it out.'
            )


def _check_recommenders(settings: Experiment) -> None:
    names = settings.recommenders
    _check_once("recommenders", names)
    for name in names:
        if name not in RECOMMENDERS:
            raise SettingError(f"recommenders has {quoted('', name)}, which is none of {', '.join(RECOMMENDERS)}.")
    lacking = [name for name in PUBLISHED_RECOMMENDERS if name not in names]
    if lacking:
        raise SettingError(f"recommenders lacks {lacking[0]!r}: the claims are about {PUBLISHED_RECOMMENDERS}. Add it.")
    for name, values in (settings.grids or {}).items():
        tuned = RECOMMENDERS[name] if name in names else None
        if tuned is None:
            why = "nothing of it is tuned" if name in names else "it is not among recommenders"
            raise SettingError(f"grids has {quoted('', name)}, but {why}: leave it out.")
        kind, low, high = tuned
        if not isinstance(values, list | tuple) or not values or not all(is_number(one, *tuned) for one in values):
            what = f"one or more {'whole ' if kind is int else ''}numbers from {low:,} to {high:,}"
            raise SettingError(f"grids: {name} is {quoted('', values)}; it must be a list of {what}.")
        _check_once(f"grids: {name}", values)


def _check_modes(settings: Experiment) -> None:
    modes = settings.modes
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        what = f"has {quoted('', unknown[0])}, which is none" if unknown else "is empty"
        raise SettingError(f"modes {what}. Known: {', '.join(MODES)}.")
    if PUBLISHED_MODE not in modes:
        raise SettingError(f"modes lacks {PUBLISHED_MODE!r}: the claims are about this way to ask. Add it.")
    scored = [mode for mode in modes if mode not in WRITTEN]
    if settings.endpoint and scored:
        raise SettingError(
            f"modes has {scored[0]!r}, but an endpoint answers in text: {' and '.join(WRITTEN)}. Leave it out."
        )
    for key, allowed in (("everybody_modes", modes), ("topk_modes", set(modes) - set(WRITTEN))):
        strange = [mode for mode in getattr(settings, key) if mode not in allowed]
        if strange:
            extra = " that read probabilities" if key == "topk_modes" else ""
            raise SettingError(f"{key} has {quoted('', strange[0])}, which is not among modes{extra}. Leave it out.")
    for key in ("modes", "everybody_modes", "topk_modes"):
        _check_once(key, getattr(settings, key))
    _check_once("ladder", [rung.model for rung in settings.ladder])


def _check_once(key: str, values: Sequence[Any]) -> None:
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise SettingError(f"{key} has {twice[0]!r} twice: remove one of them.")


# --- reading ----------------------------------------------------------------------------------------------------------


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        SettingError: no such file (lists those there are), or an unknown, missing or mistyped key.
    """
    check_name("experiment", name)
    path = paths.EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in paths.EXPERIMENTS.glob("*.toml")))
        raise SettingError(f"no experiment {name!r} in {paths.within_root(paths.EXPERIMENTS)}. There are: {known}.")
    return read(path)


def read(path: Path) -> Experiment:
    """The experiment written in a TOML file; its name is the file's."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SettingError(f"{path.name}: not UTF-8 text (byte {error.start + 1}). Save it as UTF-8.") from None
    except ValueError as error:  # no TOML, or a number of thousands of digits
        raise SettingError(f"{path.name}: {error}.") from None
    return build(path.stem, values, path.name)


def build(name: str, values: dict[str, Any], source: str) -> Experiment:
    """An experiment from a dictionary, every key and type checked."""
    try:
        return Experiment(name=name, **{**_OPTIONAL, **_checked(Experiment, values, source, {"name"})})
    except SettingError as error:
        raise SettingError(str(error) if str(error).startswith(source) else f"{source}: {error}") from None


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
        raise SettingError(f"{source}: unknown key {sorted(unknown)[0]!r}. Known: {', '.join(sorted(wanted))}.")
    if missing:
        raise SettingError(f"{source}: missing key {sorted(missing)[0]!r}.")
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
        raise SettingError(f"{source}: {key} is {quoted(key, value)}; it must be a list of names.")
    accepted = (int, float) if wanted is float else wanted
    if typing.get_origin(wanted) or (isinstance(value, bool) and wanted is not bool) or not isinstance(value, accepted):
        called = "table" if wanted is Endpoint or typing.get_origin(wanted) else wanted.__name__
        raise SettingError(f"{source}: {key} is {quoted(key, value)}; it must be a {called}.")
    try:
        return wanted(value)
    except OverflowError:
        raise SettingError(f"{source}: {key} is {quoted(key, value)}, too large a number.") from None


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The settings as plain values, as papermill passes them to a notebook."""
    plain = asdict(experiment)  # a Rung is a dictionary now
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
