"""What settings have in common: their check by pydantic, names that are safe in paths, values shown in errors."""

import re
import typing
from collections.abc import Mapping
from typing import Any

import annotated_types
import pydantic

from hybridrec.errors import SettingError

# Values of these settings are never shown: each may hold a secret that was put in the wrong place.
_SECRET = {"key_variable", "base_url", "parameters"}


class Settings(pydantic.BaseModel):
    """The base of all settings: nothing is converted (but an int to a float), and no key is unknown."""

    model_config = pydantic.ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


_Model = typing.TypeVar("_Model", bound=pydantic.BaseModel)


def checked(
    model: type[_Model], values: Mapping[str, Any], where: str, error: type[Exception] = SettingError
) -> _Model:
    """Settings from plain values, as a file or a notebook holds them.

    A validator of the model raises ValueError with a whole sentence that begins with the name of its key. What a field
    must be is told by its ``description``, else by its range (ge and le), else in pydantic's words.

    Args:
        model: the class of the settings, or of anything else that is read from a file.
        values: key to value.
        where: where they stand, such as the name of a file.
        error: what is raised.

    Raises:
        SettingError, or ``error``: names ``where``, the key, what is possible, and the value unless it may be secret.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as invalid:
        # An unknown key first: it explains why another one is missing.
        first = min(invalid.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    # Raised out here, since an error raised within the block would carry pydantic's along, which holds the values.
    raise error(f"{where}: {_told(model, first, where)}")


def _told(model: type[pydantic.BaseModel], invalid: Mapping[str, Any], where: str) -> str:
    """A fault that pydantic found, in a sentence that begins with the tables it stands in."""
    kind, path = invalid["type"], [str(part) for part in invalid["loc"]]
    if kind == "value_error":  # a validator of ours has said it; one of a whole table stands at the table's name
        said = str(invalid["ctx"]["error"])
        return ": ".join([*(path[:-1] if path and said.startswith(path[-1]) else path), said])
    one: pydantic.fields.FieldInfo | None = None
    tables: list[str] = []
    for part in path:
        if one is not None and one.description:
            break
        one, tables = model.model_fields.get(part), [*tables, part]
        kinds = [one.annotation, *typing.get_args(one.annotation)] if one else []
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)), model)
    *tables, key = tables or [""]
    if kind == "missing" and len(path) == len(tables) + 1:
        said = f"missing key {key!r}."
    elif kind == "extra_forbidden" and len(path) == len(tables) + 1:
        name = repr(key) if re.fullmatch(r"[A-Za-z_-]{1,40}\d{0,2}", key) else "that is no name"
        said = f"unknown key {name}: leave it out. Known: {', '.join(sorted(model.model_fields))}."
    else:
        hidden = next((name for name in (where, *tables) if name in _SECRET), key)
        said = f"{key} is {quoted(hidden, invalid['input'])}; it must be {_wanted(one, invalid['msg'])}."
    return ": ".join([*tables, said])


def _wanted(one: pydantic.fields.FieldInfo | None, said: str) -> str:
    """What a value must be."""
    if one and one.description:
        return one.description
    bounds = one.metadata if one else []
    low = next((bound.ge for bound in bounds if isinstance(bound, annotated_types.Ge)), None)
    high = next((bound.le for bound in bounds if isinstance(bound, annotated_types.Le)), None)
    if one is None or low is None or high is None:
        return re.sub(r"^.* should be | or instance of \w+$", "", said).replace("valid dictionary", "table")
    whole = int in (one.annotation, *typing.get_args(one.annotation))
    return f"a {'whole ' if whole else ''}number from {low:,} to {high:,}"


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


def quoted(key: str, value: Any) -> str:
    """A value in an error message, in one short line; never of a setting that stands near a secret."""
    if key in _SECRET or key == "endpoint":
        return "not what it should be"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
