"""The settings of an endpoint, checked before anything is sent or paid for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hybridrec.errors import SettingError
from hybridrec.settings import between, check_ranges, is_number

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
        lambda value: _is_table(value, str.isdigit, lambda bias: is_number(bias, float, -100, 100)),
    ),
}


def _check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse parameters that would be no request, pass the spending cap, or put something else in the prompt's place.

    Only what is known is sent: a server may give any other name a meaning of its own. No value is repeated in an error:
    one of them may be a secret in the wrong place.
    """
    for key in parameters:
        if key in _RESERVED:
            raise SettingError(f"endpoint: parameters has {key!r}: leave it out, since {_RESERVED[key]}.")
        if key not in _RANGES and key not in _OTHERS:
            shown = repr(key) if re.fullmatch("[a-z_]{1,40}", key) else "a name"
            known = ", ".join(sorted([*_RANGES, *_OTHERS]))
            raise SettingError(f"endpoint: parameters has {shown} that is none of {known}: leave it out.")
    for key, (kind, low, high) in _RANGES.items():
        if key in parameters and not is_number(parameters[key], kind, low, high):
            what = "a whole number" if kind is int else "a number"
            raise SettingError(f"endpoint: parameters: {key} must be {what} from {low:,} to {high:,}.")
    for key, (what, fits) in _OTHERS.items():
        if key in parameters and not fits(parameters[key]):
            raise SettingError(f"endpoint: parameters: {key} must be {what}.")
    if all(key in parameters for key in _BOUNDS):
        raise SettingError(f"endpoint: parameters has both {' and '.join(_BOUNDS)}: leave one of them out.")


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
            raise SettingError("endpoint: key_variable must be the NAME of an environment variable, not a key.")
        if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?", self.base_url):
            raise SettingError("endpoint: base_url must be like https://host/v1, without a user, password or query.")
        _check_parameters(self.parameters)
        check_ranges(self, "endpoint: ")
