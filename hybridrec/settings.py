"""What settings have in common: names that are safe in paths, numbers within ranges, values shown in errors."""

import re
from dataclasses import field, fields
from typing import Any

from hybridrec.errors import SettingError


def between(low: float, high: float, **default: Any) -> Any:
    """A field whose value must lie in a range; every field that is a number has one."""
    return field(metadata={"range": (low, high)}, **default)


def is_number(value: Any, kind: type, low: float, high: float) -> bool:
    """A number of its kind (an int passes for a float, a bool for neither) in the range; NaN is in none."""
    return type(value) in ((int, float) if kind is float else (kind,)) and low <= value <= high


_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_MODEL = r"(?=.{1,200}$)[A-Za-z0-9_@][A-Za-z0-9_.:@+-]*(?:/[A-Za-z0-9_@][A-Za-z0-9_.:@+-]*)*"


def check_name(key: str, name: str) -> str:
    """The name itself, if it can safely be part of a path: names of experiments, datasets and models.

    Args:
        key: the setting, such as "dataset". A "model" may have parts, as names of hubs and servers do: "org/name".
        name: its value.

    Raises:
        SettingError: it could lead out of a folder, or is no file's name everywhere (says what is allowed).
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
    raise SettingError(f"{key} is {quoted(key, name)}; it becomes part of a path, so it may have {allowed}.")


def check_ranges(settings: Any, where: str = "", error: type[Exception] = SettingError) -> None:
    """Every number of a settings class within the range that its field declares (``between``); NaN is within none.

    Args:
        settings: an instance of a dataclass.
        where: what stands before the key in the message.
        error: what is raised.

    Raises:
        SettingError, or ``error``: names the key, its value and the range.
    """
    for one in fields(settings):
        value = getattr(settings, one.name)
        if "range" in one.metadata and value is not None:
            low, high = one.metadata["range"]
            if not low <= value <= high:
                raise error(f"{where}{one.name} is {quoted(one.name, value)}; it must be from {low} to {high}.")


def quoted(key: str, value: Any) -> str:
    """A value in an error message, in one short line; never of a setting that stands near a secret."""
    if key in ("key_variable", "base_url", "endpoint", "parameters"):
        return "not what it should be"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
