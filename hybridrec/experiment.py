"""The settings of a study: typed, checked, and read from one small file per experiment."""

import re
import tomllib
import types
import typing
from collections.abc import Callable, Sequence
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


def between(low: float, high: float, **default: Any) -> Any:
    """A field whose value must lie in a range; every field that is a number has one."""
    return field(metadata={"range": (low, high)}, **default)


# --- names ------------------------------------------------------------------------------------------------------------

_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_MODEL = r"(?=.{1,200}$)[A-Za-z0-9_@][A-Za-z0-9_.:@+-]*(?:/[A-Za-z0-9_@][A-Za-z0-9_.:@+-]*)*"


def check_name(key: str, name: str) -> str:
    """The name itself, if it can safely be part of a path: names of experiments, datasets and models.

    Args:
        key: the setting, such as "dataset". A "model" may have parts, as names of hubs and servers do: "org/name".
        name: its value.

    Raises:
        ExperimentError: it could lead out of a folder, or is no file's name everywhere (says what is allowed).
    """
    if re.fullmatch(_MODEL if key == "model" else _PLAIN, name):
        return name
    if key == "model":
        allowed = (
            "parts of letters, digits, . _ - + : @ with one / between two of them, none beginning with . or -, no more "
            "than 200 characters. Give a server's model such a name (vLLM: --served-model-name, llama.cpp: --alias)"
        )
    else:
        allowed = "letters, digits, - _ and ., beginning with none of - and ., no more than 100"
    raise ExperimentError(f"{key} is {_shown(key, name)}; it becomes part of a path, so it may have {allowed}.")


# --- the endpoint -----------------------------------------------------------------------------------------------------

# What is often tried and must not be sent, and why.
_MONEY = "it would cost more than the answers that are read, past spending_cap_usd"
_PROMPT = "the prompt is the study's"
_RESERVED = {
    **dict.fromkeys(("n", "best_of", "prediction", "tools", "functions", "web_search_options", "service_tier"), _MONEY),
    **dict.fromkeys(("messages", "prompt", "input", "instructions", "system", "suffix", "documents"), _PROMPT),
    **dict.fromkeys(("model", "models"), "which model answers is said by model, above"),
    **dict.fromkeys(("stream", "stream_options", "background"), "an answer is read when it is whole"),
    **dict.fromkeys(("api_key", "authorization", "extra_headers"), "a key belongs into the variable key_variable"),
    **dict.fromkeys(("extra_body", "options"), "what stands in it is sent if it stands in parameters itself"),
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_output_tokens"), "max_tokens says it"),
    "response_format": "json_schema = true sets it",
}
_BOUNDS = ("max_tokens", "max_completion_tokens")
# What may be sent, first the numbers: their type and range. The seed leaves room for the attempts that are added to it.
_RANGES: dict[str, tuple[type, float, float]] = {
    **dict.fromkeys(_BOUNDS, (int, 1, 1_000_000)),
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 1_000_000),
    **dict.fromkeys(("min_p", "typical_p"), (float, 0, 1)),
    "seed": (int, 0, 2_000_000_000),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), (float, -2, 2)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty"), (float, 0.01, 10)),
    "top_logprobs": (int, 0, 20),
}


def _is_number(value: Any, kind: type, low: float, high: float) -> bool:
    """A number of its kind (an int passes for a float, a bool for neither) in the range; NaN is in none."""
    return type(value) in ((int, float) if kind is float else (kind,)) and low <= value <= high


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 100


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_stop(value: Any) -> bool:
    return _is_word(value) or (isinstance(value, list) and len(value) <= 16 and all(map(_is_word, value)))


def _is_table(value: Any, keys: Callable[[str], bool], values: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(keys, value)) and all(map(values, value.values()))


# ... then the rest: what it must be, in words and as a check.
_OTHERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "stop": ("a text or up to 16 of them", _is_stop),
    **dict.fromkeys(("reasoning_effort", "verbosity", "user"), ("a word", _is_word)),
    **dict.fromkeys(("logprobs", "enable_thinking"), ("true or false", _is_bool)),
    "chat_template_kwargs": (
        "a table with enable_thinking or thinking, each true or false",
        lambda value: _is_table(value, {"enable_thinking", "thinking"}.__contains__, _is_bool),
    ),
    "logit_bias": (
        "a table of numbers from -100 to 100",
        lambda value: _is_table(value, str.isdigit, lambda bias: _is_number(bias, float, -100, 100)),
    ),
}


def _check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse parameters that would be no request, pass the spending cap, or put something else in the prompt's place.

    Only what is known is sent: a server may give any other name a meaning of its own. No value is repeated in an error:
    one of them may be a secret in the wrong place.
    """
    for key in parameters:
        if key in _RESERVED:
            raise ExperimentError(f"endpoint: parameters has {key!r}: leave it out, since {_RESERVED[key]}.")
        if key not in _RANGES and key not in _OTHERS:
            shown = repr(key) if re.fullmatch("[a-z_]{1,40}", key) else "a name"
            known = ", ".join(sorted([*_RANGES, *_OTHERS]))
            raise ExperimentError(f"endpoint: parameters has {shown} that is none of {known}: leave it out.")
    for key, (kind, low, high) in _RANGES.items():
        if key in parameters and not _is_number(parameters[key], kind, low, high):
            what = "a whole number" if kind is int else "a number"
            raise ExperimentError(f"endpoint: parameters: {key} must be {what} from {low:,} to {high:,}.")
    for key, (what, fits) in _OTHERS.items():
        if key in parameters and not fits(parameters[key]):
            raise ExperimentError(f"endpoint: parameters: {key} must be {what}.")
    if all(key in parameters for key in _BOUNDS):
        raise ExperimentError(f"endpoint: parameters has both {' and '.join(_BOUNDS)}: leave one of them out.")


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
    requests_per_minute: float = between(1, 1e6, default=60.0)
    tokens_per_minute: float | None = between(1, 1e9, default=None)
    concurrency: int = between(1, 256, default=8)
    timeout: float = between(0.1, 3600, default=60.0)
    retries: int = between(0, 20, default=6)
    attempts: int = between(1, 10, default=2)
    spending_cap_usd: float | None = between(0, 1e6, default=None)

    def __post_init__(self) -> None:
        # What stands in these three may be a secret put in the wrong place, so it is not repeated.
        if not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]{0,63})?", self.key_variable):
            raise ExperimentError("endpoint: key_variable must be the NAME of an environment variable, not a key.")
        if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?", self.base_url):
            raise ExperimentError("endpoint: base_url must be like https://host/v1, without a user, password or query.")
        _check_parameters(self.parameters)
        check_ranges(self, "endpoint: ")


@dataclass(frozen=True)
class Rung:
    """Another open model on this machine: how many inactive users it is asked for, by mode. A table ``[[ladder]]``."""

    model: str
    users: dict[str, Any]

    def __post_init__(self) -> None:
        check_name("model", self.model)
        if not self.users:
            raise ExperimentError(
                f"ladder: {self.model} has no users for any mode: add a mode, or leave the table out."
            )
        for mode, count in self.users.items():
            if mode not in MODES:
                raise ExperimentError(f"ladder: {self.model} has mode {mode!r}, which is none of {', '.join(MODES)}.")
            if not _is_number(count, int, 1, 100_000):
                raise ExperimentError(
                    f"ladder: {self.model} has {_shown('users', count)} users for {mode}; it must be a whole number "
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
            raise ExperimentError(
                f'noun is {_shown("noun", self.noun)}; it must be a word or phrase like "film": no more than 40 '
                'characters in one line, beginning with a letter or digit, none of them among { } < > ".'
            )
        check_ranges(self)
        _check_recommenders(self)
        _check_modes(self)
        if self.like_threshold > self.rating_scale:
            raise ExperimentError(
                f"like_threshold is {self.like_threshold:g}, above the highest rating (rating_scale = "
                f"{self.rating_scale}): nothing could be a like."
            )
        own = self.ratings or {}
        lowest = own.get("lowest", float("-inf"))
        if isinstance(lowest, int | float) and not lowest < self.rating_scale:
            raise ExperimentError(
                f"lowest is {_shown('lowest', lowest)} in [ratings]; it must be below the highest rating (rating_scale "
                f"= {self.rating_scale})."
            )
        if "pointwise-facts" in self.modes and (
            own.get("feedback") == "counts" or str(own.get("lowest")).startswith("-")
        ):
            raise ExperimentError(
                "modes has 'pointwise-facts', which tells the model of a mean rating \"of\" the highest: that means "
                'nothing with feedback = "counts", or on a scale that goes below 0. Leave it out.'
            )


def _check_recommenders(settings: Experiment) -> None:
    names = settings.recommenders
    _check_once("recommenders", names)
    for name in names:
        if name not in RECOMMENDERS:
            raise ExperimentError(f"recommenders has {_shown('', name)}, which is none of {', '.join(RECOMMENDERS)}.")
    lacking = [name for name in PUBLISHED_RECOMMENDERS if name not in names]
    if lacking:
        raise ExperimentError(
            f"recommenders lacks {lacking[0]!r}: the claims are about {PUBLISHED_RECOMMENDERS}. Add it."
        )
    for name, values in (settings.grids or {}).items():
        tuned = RECOMMENDERS[name] if name in names else None
        if tuned is None:
            why = "nothing of it is tuned" if name in names else "it is not among recommenders"
            raise ExperimentError(f"grids has {_shown('', name)}, but {why}: leave it out.")
        kind, low, high = tuned
        if not isinstance(values, list | tuple) or not values or not all(_is_number(one, *tuned) for one in values):
            what = f"one or more {'whole ' if kind is int else ''}numbers from {low:,} to {high:,}"
            raise ExperimentError(f"grids: {name} is {_shown('', values)}; it must be a list of {what}.")
        _check_once(f"grids: {name}", values)


def _check_modes(settings: Experiment) -> None:
    modes = settings.modes
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        what = f"has {_shown('', unknown[0])}, which is none" if unknown else "is empty"
        raise ExperimentError(f"modes {what}. Known: {', '.join(MODES)}.")
    if PUBLISHED_MODE not in modes:
        raise ExperimentError(f"modes lacks {PUBLISHED_MODE!r}: the claims are about this way to ask. Add it.")
    scored = [mode for mode in modes if mode not in WRITTEN]
    if settings.endpoint and scored:
        raise ExperimentError(
            f"modes has {scored[0]!r}, but an endpoint answers in text: {' and '.join(WRITTEN)}. Leave it out."
        )
    for key, allowed in (("everybody_modes", modes), ("topk_modes", set(modes) - set(WRITTEN))):
        strange = [mode for mode in getattr(settings, key) if mode not in allowed]
        if strange:
            extra = " that read probabilities" if key == "topk_modes" else ""
            raise ExperimentError(f"{key} has {_shown('', strange[0])}, which is not among modes{extra}. Leave it out.")
    for key in ("modes", "everybody_modes", "topk_modes"):
        _check_once(key, getattr(settings, key))
    _check_once("ladder", [rung.model for rung in settings.ladder])


def _check_once(key: str, values: Sequence[Any]) -> None:
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise ExperimentError(f"{key} has {twice[0]!r} twice: remove one of them.")


def check_ranges(settings: Any, where: str = "", error: type[Exception] = ExperimentError) -> None:
    """Every number of a settings class within the range that its field declares (``between``); NaN is within none.

    Args:
        settings: an instance of a dataclass.
        where: what stands before the key in the message.
        error: what is raised.

    Raises:
        ExperimentError, or ``error``: names the key, its value and the range.
    """
    for one in fields(settings):
        value = getattr(settings, one.name)
        if "range" in one.metadata and value is not None:
            low, high = one.metadata["range"]
            if not low <= value <= high:
                raise error(f"{where}{one.name} is {_shown(one.name, value)}; it must be from {low} to {high}.")


# --- reading ----------------------------------------------------------------------------------------------------------


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ExperimentError: no such file (lists those there are), or an unknown, missing or mistyped key.
    """
    check_name("experiment", name)
    path = paths.EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in paths.EXPERIMENTS.glob("*.toml")))
        raise ExperimentError(f"no experiment {name!r} in {paths.within_root(paths.EXPERIMENTS)}. There are: {known}.")
    return read(path)


def read(path: Path) -> Experiment:
    """The experiment written in a TOML file; its name is the file's."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path.name}: not UTF-8 text (byte {error.start + 1}). Save it as UTF-8.") from None
    except ValueError as error:  # no TOML, or a number of thousands of digits
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
        raise ExperimentError(f"{source}: {key} is {_shown(key, value)}; it must be a list of names.")
    accepted = (int, float) if wanted is float else wanted
    if typing.get_origin(wanted) or (isinstance(value, bool) and wanted is not bool) or not isinstance(value, accepted):
        called = "table" if wanted is Endpoint or typing.get_origin(wanted) else wanted.__name__
        raise ExperimentError(f"{source}: {key} is {_shown(key, value)}; it must be a {called}.")
    try:
        return wanted(value)
    except OverflowError:
        raise ExperimentError(f"{source}: {key} is {_shown(key, value)}, too large a number.") from None


def _shown(key: str, value: Any) -> str:
    """A value in an error message, in one short line; never of a setting that stands near a secret."""
    if key in ("key_variable", "base_url", "endpoint", "parameters"):
        return "not what it should be"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The settings as plain values, as papermill passes them to a notebook."""
    plain = asdict(experiment)  # a Rung is a dictionary now
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
