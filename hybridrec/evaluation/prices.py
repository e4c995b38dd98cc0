"""What things cost, from a dated price file: a machine by the hour, an endpoint's model by the token."""

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridrec.errors import PriceError
from hybridrec.files import shown

_PER = 1_000_000
_MOST = 1e6  # US dollars


@dataclass(frozen=True)
class Price:
    """US dollars: per hour of machine time, and per million tokens of each kind (cached: read again by the server)."""

    hour: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    completion: float = 0.0

    def usd(self, usage: Mapping[str, float]) -> float:
        """What a usage costs: prompt_tokens, cached_tokens, completion_tokens, seconds (a mapping or a table's row)."""
        fresh = usage["prompt_tokens"] - usage["cached_tokens"]
        tokens = (
            fresh * self.prompt + usage["cached_tokens"] * self.cached + usage["completion_tokens"] * self.completion
        )
        return tokens / _PER + usage["seconds"] / 3600 * self.hour


@dataclass(frozen=True)
class Prices:
    """The price file: the day on which it was true, the local machine, and models by name."""

    date: str
    local: Price
    models: dict[str, Price] = field(default_factory=dict)

    def of_endpoint(self, model: str) -> Price:
        """The price of a model behind an endpoint.

        Raises:
            PriceError: it has none (names the file and what to write there).
        """
        if model not in self.models:
            raise PriceError(
                f"no price for {model!r}: add [models.{model!r}] with prompt, cached and completion (US dollars per "
                "million tokens, 0 for a server of your own) to data/prices.toml."
            )
        return self.models[model]


def read_prices(path: Path) -> Prices:
    """The dated price file.

    Raises:
        PriceError: not TOML, or a key that is missing, unknown or no number in its range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        local = Price(hour=_number(_table(values, "local")["usd_per_hour"], "local.usd_per_hour", above=True))
        models = {name: _model(name, entry) for name, entry in _table({"models": {}, **values}, "models").items()}
        return Prices(_date(values["date"]), local, models)
    except KeyError as error:
        raise PriceError(f"{shown(path)}: {error.args[0]!r} is missing (needs date and local.usd_per_hour).") from None
    except ValueError as error:  # one of ours, or no TOML
        raise PriceError(f"{shown(path)}: {error}.") from None


def _date(value: Any) -> str:
    """A day as it stands in the file: a TOML date, or text like "2026-01-31"."""
    try:
        return datetime.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError(f"date is {value!r}; it must be a day like 2026-01-31") from None


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(values[key], dict):
        raise ValueError(f"{key} is {values[key]!r}; it must be a table, [{key}]")
    return values[key]


def _model(name: str, entry: dict[str, Any]) -> Price:
    wanted = {"prompt", "cached", "completion"}
    if not isinstance(entry, dict) or entry.keys() != wanted:
        raise ValueError(f"[models.{name!r}] must have exactly {', '.join(sorted(wanted))}")
    return Price(**{kind: _number(value, f"models.{name!r}.{kind}") for kind, value in entry.items()})


def _number(value: Any, key: str, above: bool = False) -> float:
    if type(value) not in (int, float) or not 0 <= value <= _MOST or (above and value == 0):
        least = "above 0" if above else "not below 0"
        raise ValueError(f"{key} is {value!r}; it must be a number {least} and not above {_MOST:,.0f}")
    return float(value)
