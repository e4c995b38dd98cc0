"""What things cost, from a dated price file: a machine by the hour, an endpoint's model by the token."""

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pydantic

from hybridrec.errors import PriceError
from hybridrec.files import shown
from hybridrec.settings import Settings, checked

_PER = 1_000_000


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


def price_of(tokens: Mapping[str, float]) -> Price:
    """The price of a model by its tokens.

    Args:
        tokens: prompt, cached and completion: US dollars per million tokens.

    Raises:
        PriceError: another key, a missing one, or a value out of range.
    """
    return Price(**checked(_Tokens, tokens, "price", PriceError).model_dump())


_Amount = Annotated[float, pydantic.Field(ge=0, le=1_000_000)]  # US dollars


class _Machine(Settings):
    usd_per_hour: float = pydantic.Field(gt=0, le=1_000_000, description="a number above 0, not above 1,000,000")


class _Tokens(Settings):
    prompt: _Amount
    cached: _Amount
    completion: _Amount


class _File(Settings):
    # Text is taken for a day, too; no number is one, which pydantic would count as seconds since 1970.
    date: datetime.date = pydantic.Field(
        strict=False, ge=datetime.date(2000, 1, 1), description="a day like 2026-01-31, not before 2000"
    )
    local: _Machine
    models: dict[str, _Tokens] = pydantic.Field(default_factory=dict)


def read_prices(path: Path) -> Prices:
    """The dated price file.

    Raises:
        PriceError: not TOML, or a key that is missing, unknown or no number in its range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PriceError(f"{shown(path)}: {error}.") from None
    file = checked(_File, values, shown(path), PriceError)
    models = {name: Price(**entry.model_dump()) for name, entry in file.models.items()}
    return Prices(file.date.isoformat(), Price(hour=file.local.usd_per_hour), models)
