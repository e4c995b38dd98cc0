"""What a ranker costs: calls, tokens by kind, seconds, and money under a dated price file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

USAGE = ["prompt_tokens", "cached_tokens", "completion_tokens", "seconds"]


class PriceError(ValueError):
    """A price file that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class Prices:
    """What a machine costs an hour, and the day on which that was so."""

    date: str
    usd_per_hour: float


def read_prices(path: Path) -> Prices:
    """The dated price file.

    Raises:
        PriceError: not TOML, or a key that is missing or no positive number.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Prices(str(values["date"]), _positive(values["local"]["usd_per_hour"]))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise PriceError(f"{path.name}: needs date and local.usd_per_hour, a number above 0 ({error}).") from None


def _positive(value: float) -> float:
    if isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is not above 0")
    return float(value)


def usage_per_user(rankings: pd.DataFrame) -> pd.DataFrame:
    """One row a ranker and user: the request's tokens and seconds (the rankings repeat them on every candidate)."""
    return rankings.drop_duplicates(["ranker", "user"])[["ranker", "user", *USAGE]].reset_index(drop=True)


def cost_of(usage: pd.DataFrame, routed: pd.Index, prices: Prices) -> dict[str, float]:
    """Calls, tokens, seconds and money of ranking for the routed users.

    Args:
        usage: user and USAGE columns of one ranker.
        routed: whom it is asked for.
        prices: the dated prices.

    Raises:
        KeyError: a routed user without a measured call (names the user).
    """
    measured = usage.set_index("user")
    absent = routed.difference(measured.index)
    if len(absent):
        raise KeyError(f"no measured call for user {absent[0]} (and {len(absent) - 1} more).")
    total = measured.loc[routed, USAGE].sum()
    usd = total["seconds"] / 3600 * prices.usd_per_hour
    return {"calls": len(routed), **total.to_dict(), "usd": usd}


def cost_table(usage: pd.DataFrame, routings: dict[str, pd.Index], prices: Prices) -> pd.DataFrame:
    """Every ranker x routing: ranker, routing, calls, tokens by kind, seconds, usd.

    A routing that a ranker was not run on in full is written "not run", never estimated.
    """
    rows = []
    for ranker, group in usage.groupby("ranker", sort=False):
        for routing, routed in routings.items():
            complete = routed.isin(group["user"]).all()
            found = cost_of(group, routed, prices) if complete else {}
            rows.append({"ranker": ranker, "routing": routing, "run": "yes" if complete else "not run"} | found)
    return pd.DataFrame(rows)
