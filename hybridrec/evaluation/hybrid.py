"""The hybrid's final lists: routed users get the language model's order, everybody else the recommender's."""

from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.errors import ScoresError

RECOMMENDER, NO_ANSWER = "recommender", "recommender (no answer)"
Table = pd.DataFrame | str | Path


def combine(own: Table, ranked: Table, users: Table | Iterable[Hashable] | None = None) -> pd.DataFrame:
    """Final lists: of a routed user all scores are the ranker's, of everybody else the recommender's.

    A score orders the items of one user. Scores of different sources have different scales: never compare them across
    users.

    Args:
        own: user, item, score by the recommender: every candidate of every user, be they test items, the N best
            retrieved, or the whole catalogue. A table or a .csv or .parquet file, like ``ranked``.
        ranked: user, item, score by the ranker, and, as ``Ranker.rank`` returns them, ranker (its name; without it
            the source is "ranker") and failure (not empty where the model gave no usable answer).
        users: the routed users, ids or a table with a column user (``allocate``). None: everybody in ``ranked``.

    Returns:
        Columns user, item, score, source, own (the recommender's score); the rows of ``own`` in their order. ``source``
        is the ranker's name for routed users, "recommender (no answer)" for those of them whose ranking failed, who
        keep the recommender's list, and "recommender" for all others. ``attrs`` counts users: "routed", "no_answer"
        (of the routed), "not_routed" (ranked, but not among ``users``: their ranking is not used).

    Raises:
        ScoresError: a pair that ``ranked`` scores and ``own`` does not have; two scores for a pair; a score that is not
            finite (of a failed ranking they are not read); a routed user who is not in ``own`` or not in ``ranked``; a
            candidate of a routed user that the ranker gave no score. Names the user, and the item.
        DatasetError: a column is missing (names the table and the column).
    """
    own = schema.read(own, ["user", "item", "score"], "the recommender's scores")
    ranked = schema.read(ranked, ["user", "item", "score"], "the ranking")
    check_scores(own, "the recommender's scores")
    failed = pd.Index([])
    if "failure" in ranked:
        failed = pd.Index(ranked.loc[ranked["failure"].notna() & ranked["failure"].ne(""), "user"].unique())
    answered = ranked[~ranked["user"].isin(failed)]
    check_scores(answered, "the ranking", among=own)
    routed = pd.Index(ranked["user"].unique()) if users is None else _ids(users)
    _refuse(routed.difference(own["user"]), "is routed and not among the recommender's scores")
    _refuse(routed.difference(ranked["user"]), "is routed and not ranked: rank all routed users, or route fewer")

    final = own[["user", "item"]].assign(score=own["score"].astype(float), source=RECOMMENDER, own=own["score"])
    final = final.reset_index(drop=True)
    final.loc[final["user"].isin(routed.intersection(failed)), "source"] = NO_ANSWER
    changed = final["user"].isin(routed.difference(failed))
    new = answered.assign(score=answered["score"].astype(float), source=answered.get("ranker", "ranker"))
    listed = pd.MultiIndex.from_frame(final.loc[changed, ["user", "item"]])
    new = new.set_index(["user", "item"])[["score", "source"]].reindex(listed)
    _refuse(new.index[new["score"].isna()], "has no score in the ranking, and the user is routed")
    for column in new:
        final.loc[changed, column] = new[column].to_numpy()
    final.attrs = {
        "routed": len(routed),
        "no_answer": len(routed.intersection(failed)),
        "not_routed": len(pd.Index(ranked["user"].unique()).difference(routed)),
    }
    return final


def check_scores(scores: pd.DataFrame, what: str, among: pd.DataFrame | None = None) -> None:
    """Refuse scores from which no order can be read.

    Args:
        scores: user, item, score.
        what: what to call them in an error.
        among: user, item: the pairs that may be scored.

    Raises:
        ScoresError: two scores for a pair, a score that is not finite, a pair that is not ``among`` those (names user
            and item).
    """
    faults = {
        "two scores": scores.duplicated(["user", "item"]),
        "a score that is not a finite number": ~np.isfinite(pd.to_numeric(scores["score"], errors="coerce")),
    }
    if among is not None:
        pairs, known = (pd.MultiIndex.from_frame(table[["user", "item"]]) for table in (scores, among))
        faults["a score, but is not a known user, item or candidate"] = pd.Series(~pairs.isin(known), scores.index)
    for fault, rows in faults.items():
        if rows.any():
            user, item = scores.loc[rows, ["user", "item"]].iloc[0]
            raise ScoresError(f"{what}: item {item} of user {user} has {fault}{_more(rows.sum())}.")


def _ids(users: Table | Iterable[Hashable]) -> pd.Index:
    """Each of the users once."""
    if isinstance(users, Table):
        users = schema.read(users, ["user"], "the routed users")["user"]
    return pd.Index(list(users)).unique()


def _refuse(named: pd.Index, fault: str) -> None:
    """A ScoresError about the first of those named, users or (user, item), if there is one."""
    if len(named):
        whose = "user {}, item {}".format(*named[0]) if isinstance(named, pd.MultiIndex) else f"user {named[0]}"
        raise ScoresError(f"{whose} {fault}{_more(len(named))}.")


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""
