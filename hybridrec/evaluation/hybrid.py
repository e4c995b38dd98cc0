"""The hybrid's final lists: routed users get the language model's order, everybody else the recommender's."""

from collections.abc import Hashable, Iterable
from pathlib import Path

import pandas as pd

from hybridrec import schema
from hybridrec.errors import ScoresError

RECOMMENDER, NO_ANSWER = "recommender", "recommender (no answer)"


def combine(
    own: schema.Table, ranked: schema.Table, users: schema.Table | Iterable[Hashable] | None = None
) -> pd.DataFrame:
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
    own = schema.scores(own, "the recommender's scores")
    ranked = schema.read(ranked, schema.SCORES, "the ranking")
    ranked = ranked.assign(**{name: schema.like(ranked[name], own[name]) for name in schema.IDS})
    failed = pd.Index([])
    if "failure" in ranked:
        failed = pd.Index(ranked.loc[ranked["failure"].notna() & ranked["failure"].ne(""), "user"].unique())
    new = schema.scores(ranked[~ranked["user"].isin(failed)], "the ranking", users=own["user"], items=own["item"])
    new = new.assign(source=new.get("ranker", "ranker")).set_index([*schema.IDS])[["score", "source"]]
    offered = pd.MultiIndex.from_frame(own[[*schema.IDS]])
    _refuse(
        new.index[~new.index.isin(offered)],
        "is ranked and no candidate among the recommender's scores: rank only what the recommender scored",
    )
    routed = pd.Index(ranked["user"].unique()) if users is None else _ids(users, own["user"])
    _refuse(
        routed.difference(own["user"]),
        "is routed and not among the recommender's scores: give those of all routed users",
    )
    _refuse(routed.difference(ranked["user"]), "is routed and not ranked: rank all routed users, or route fewer")

    final = own[[*schema.IDS]].assign(score=own["score"], source=RECOMMENDER, own=own["score"])
    final.loc[final["user"].isin(routed.intersection(failed)), "source"] = NO_ANSWER
    changed = final["user"].isin(routed.difference(failed)).to_numpy()
    new = new.reindex(offered[changed])
    _refuse(
        new.index[new["score"].isna()],
        "has no score in the ranking, and the user is routed: rank all candidates that the recommender scored",
    )
    for column in new:
        final.loc[changed, column] = new[column].to_numpy()
    final.attrs = {
        "routed": len(routed),
        "no_answer": len(routed.intersection(failed)),
        "not_routed": len(pd.Index(ranked["user"].unique()).difference(routed)),
    }
    return final


def _ids(users: schema.Table | Iterable[Hashable], known: pd.Series) -> pd.Index:
    """Each of the users once, in the type of the known ones."""
    if isinstance(users, pd.DataFrame | str | Path):
        users = schema.read(users, ["user"], "the routed users")["user"]
    return pd.Index(schema.like(pd.Series(list(users)), known)).unique()


def _refuse(named: pd.Index, fault: str) -> None:
    """A ScoresError about the first of those named, users or (user, item), if there is one."""
    if len(named):
        whose = "user {!r}, item {!r}".format(*named[0]) if isinstance(named, pd.MultiIndex) else f"user {named[0]!r}"
        raise ScoresError(f"{whose} {fault}{f' (and {len(named) - 1} more)' if len(named) > 1 else ''}.")
