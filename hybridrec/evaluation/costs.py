"""What a ranker costs and what it buys: calls, tokens by kind, seconds, money under a dated price file; and AUC."""

from collections.abc import Collection, Hashable, Mapping

import pandas as pd

from hybridrec.evaluation import cross
from hybridrec.evaluation.prices import Price
from hybridrec.llm.runner import USAGE


def usage_per_user(rankings: pd.DataFrame) -> pd.DataFrame:
    """One row a ranker and user: the request's tokens and seconds (the rankings repeat them on every candidate)."""
    return rankings.drop_duplicates(["ranker", "user"])[["ranker", "user", *USAGE]].reset_index(drop=True)


def cost_of(usage: pd.DataFrame, handed: pd.DataFrame, price: Price) -> dict[str, float] | None:
    """Calls, tokens, seconds and money of one ranker for some lists.

    Args:
        usage: user, inactive and USAGE columns of one ranker: a measured call a user.
        handed: user, inactive: a row for each list to be ranked.
        price: what the ranker's model costs.

    Returns:
        calls, measured (the share of them that stand for a user whose own call was measured), USAGE and usd. Any other
        call counts as the mean of those measured for users of the same kind, inactive or active, who are handed over.
        None where no call was measured for a kind that needs one.
    """
    calls = handed[["user"]].merge(usage[["user", *USAGE]], "left", on="user")[USAGE].astype(float)
    known = calls.notna().all(axis=1)
    typical = usage[usage["user"].isin(handed["user"])].groupby("inactive")[USAGE].mean()
    calls = calls.fillna(typical.reindex(handed["inactive"]).set_axis(calls.index))
    if calls.isna().any(axis=None):
        return None
    total = calls.sum()
    return {"calls": len(calls), "measured": known.mean(), **total.to_dict(), "usd": price.usd(total)}


def cost_table(usage: pd.DataFrame, routings: Mapping[str, pd.DataFrame], price: Price, folds: int = 1) -> pd.DataFrame:
    """Every ranker x routing: ranker, routing, run, calls, measured, tokens by kind, seconds, usd (see ``cost_of``).

    Args:
        usage: ranker, user, inactive and USAGE columns.
        routings: by name, the lists that are handed over: user, inactive.
        price: what the model costs.
        folds: over how many test folds the lists are spread; all numbers are means over folds.

    A routing that reaches a kind of users, inactive or active, of whom a ranker was never asked is "not run".
    """
    rows = []
    for ranker, group in usage.groupby("ranker", sort=False):
        for routing, handed in routings.items():
            found = cost_of(group, handed, price)
            per_fold = {name: value if name == "measured" else value / folds for name, value in (found or {}).items()}
            run = "yes" if found else "not run"
            rows.append({"ranker": ranker, "routing": routing, "run": run} | per_fold)
    return pd.DataFrame(rows)


def gain(
    lists: pd.DataFrame,
    everybody: pd.DataFrame,
    routed: pd.DataFrame,
    ranker: cross.Ranker,
    asked: Collection[Hashable] | None = None,
) -> pd.DataFrame:
    """What handing over adds for everybody: AUC of the hybrid minus the recommender's own, for ``verdicts.judge``.

    Args:
        lists: what ``cross.lists`` returned.
        everybody, routed: recommender, test, user: all lists, and those handed over.
        ranker: who ranks these, as ``cross.quality`` takes it.
        asked: the users who were asked for, where these are a sample: they stand for all who are handed over, with as
            much more weight as they are fewer. None: all.

    Returns:
        Columns user, difference, weight, lists, unanswered (``cross.differences``).
    """
    found = cross.differences(lists, cross.hybrid(everybody, routed, ranker), None, cross.OWN)
    if asked is None:
        return found
    able = found["user"].isin(routed["user"])
    drawn = able & found["user"].isin(asked)
    more = able.sum() / max(1, drawn.sum())
    return found.assign(weight=found["weight"].where(~drawn, found["weight"] * more))[~able | drawn]
