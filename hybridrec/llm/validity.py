"""What became of answers: who ended them, how much of them could be used, and how many are no answer.

All functions take a table of rankings (``schema.RANKINGS``), which may have a column ``model``.
"""

import pandas as pd

from hybridrec.llm.rankers import COUNTS, NO_ANSWER
from hybridrec.llm.runner import ENDED_BY

ENDS = (*ENDED_BY.values(), "server")
_WHOLE = [*COUNTS, "failure", "ended_by", "answered"]


def answers(rankings: pd.DataFrame) -> pd.DataFrame:
    """One row an answer: (model,) ranker, user, what RANKINGS says of the whole answer, and how long the list was.

    Returns:
        Also ``candidates`` (how many there were) and ``complete`` (whether the answer names all of them, whatever else
        it names; see ``Ranking.complete``).
    """
    key = _key(rankings) + ["user"]
    groups = rankings.groupby(key, sort=False, dropna=False)
    rows = groups[_WHOLE].first().join(groups.size().rename("candidates")).reset_index()
    whole = (rows["failure"] == "") & (rows["missing"] == 0)
    return rows.assign(complete=whole.astype(bool))


def ended(rankings: pd.DataFrame) -> pd.DataFrame:
    """Who ended the written answers, by (model and) ranker.

    Returns:
        Indexed as said: ``asked`` (users), ``answers`` (those of them for whom something was written), and for each of
        ENDS, after "by ", the share of the answers that it ended; NaN without answers.
    """
    rows = answers(rankings)
    by = [f"by {end}" for end in ENDS]
    rows[by] = [[one == end for end in ENDS] for one in rows["ended_by"]] if len(rows) else False
    groups = rows.groupby(_key(rows), sort=False)
    counts = groups[by].sum()
    written = counts.sum(axis=1).astype(int)
    shares = counts.div(written.where(written > 0), axis=0)
    return pd.DataFrame({"asked": groups.size(), "answers": written}).join(shares)


def validity(rankings: pd.DataFrame, by_end: bool = False) -> pd.DataFrame:
    """How much of the answers could be used, by (model and) ranker.

    Args:
        rankings: of modes that write; users without an answer count as having named nothing.
        by_end: a row for each of ENDS, too; users for whom nothing was written are then left out.

    Returns:
        Indexed as said: per candidate how many items were ``invalid`` (invented), ``duplicates`` (named again) and
        ``missing`` (left out, and appended at random); the shares of answers that are ``complete`` (nothing
        missing) and ``failed`` (unusable); ``users``.
    """
    rows, key = answers(rankings), _key(rankings)
    if by_end:
        rows, key = rows[rows["ended_by"] != ""], [*key, "ended_by"]
    groups = rows.assign(failed=rows["failure"] != "").groupby(key, sort=False)
    per_candidate = groups[list(COUNTS)].sum().div(groups["candidates"].sum(), axis=0)
    return per_candidate.join(groups[["complete", "failed"]].mean()).join(groups.size().rename("users"))


def answered(rankings: pd.DataFrame) -> pd.DataFrame:
    """How probable the two choices are together, by (model and) ranker, of modes that offer choices.

    Returns:
        Indexed as said: ``users`` (for whom the model gave probabilities), ``median``, and ``below``, the share of them
        who are below the mode's floor and have no answer.
    """
    rows = answers(rankings).dropna(subset=["answered"])
    groups = rows.assign(below=rows["failure"] == NO_ANSWER).groupby(_key(rows), sort=False)
    return groups.agg(users=("user", "size"), median=("answered", "median"), below=("below", "mean"))


def without_answers(rankings: pd.DataFrame) -> pd.Series:
    """Whether most users of a row's (model and) ranker have no answer: their order is random, no verdict is due.

    Without an answer is who is below the floor of a mode that offers choices, and for whom nothing was written. A
    written answer that cannot be used is an answer.

    Returns:
        One truth value for each row of ``rankings``, of the same index.
    """
    none = (rankings["failure"] != "") & (rankings["ended_by"] == "")
    users = rankings.assign(none=none).drop_duplicates([*_key(rankings), "user"])
    most = users.groupby(_key(rankings))["none"].mean() > 0.5
    found = rankings[_key(rankings)].merge(most.reset_index(), how="left", on=_key(rankings))["none"]
    return pd.Series(found.to_numpy(dtype=bool), index=rankings.index, name="no_verdict")


def _key(table: pd.DataFrame) -> list[str]:
    return [name for name in ("model", "ranker") if name in table]
