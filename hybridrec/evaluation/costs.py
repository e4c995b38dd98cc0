"""What a ranker costs: calls, tokens by kind, seconds, and money under a dated price file."""

import pandas as pd

from hybridrec.evaluation.prices import Price
from hybridrec.llm.runner import USAGE


def usage_per_user(rankings: pd.DataFrame) -> pd.DataFrame:
    """One row a ranker and user: the request's tokens and seconds (the rankings repeat them on every candidate)."""
    return rankings.drop_duplicates(["ranker", "user"])[["ranker", "user", *USAGE]].reset_index(drop=True)


def cost_of(usage: pd.DataFrame, routed: pd.Index, price: Price) -> dict[str, float]:
    """Calls, tokens, seconds and money of ranking for the routed users.

    Args:
        usage: user and USAGE columns of one ranker.
        routed: whom it is asked for.
        price: what the ranker's model costs.

    Raises:
        KeyError: a routed user without a measured call (names the user).
    """
    measured = usage.set_index("user")
    absent = routed.difference(measured.index)
    if len(absent):
        raise KeyError(f"no measured call for user {absent[0]} (and {len(absent) - 1} more).")
    total = measured.loc[routed, USAGE].sum()
    return {"calls": len(routed), **total.to_dict(), "usd": price.usd(total)}


def cost_table(usage: pd.DataFrame, routings: dict[str, pd.Index], price: Price) -> pd.DataFrame:
    """Every ranker x routing: ranker, routing, calls, tokens by kind, seconds, usd.

    A routing that a ranker was not run on in full is written "not run", never estimated.
    """
    rows = []
    for ranker, group in usage.groupby("ranker", sort=False):
        for routing, routed in routings.items():
            complete = routed.isin(group["user"]).all()
            found = cost_of(group, routed, price) if complete else {}
            rows.append({"ranker": ranker, "routing": routing, "run": "yes" if complete else "not run"} | found)
    return pd.DataFrame(rows)
