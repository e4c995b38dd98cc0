"""The steps without a language model, shard by shard."""

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import pandas as pd

from hybridrec import schema
from hybridrec.errors import ScaleError
from hybridrec.evaluation import compare as comparison
from hybridrec.evaluation import hybrid
from hybridrec.evaluation.controls import CONTROLS
from hybridrec.scale.cluster import each
from hybridrec.scale.divided import Divided, write
from hybridrec.weak_users import triage as weak_users
from hybridrec.weak_users.cross import Scored


def triage(
    divided: Divided, *, performance_threshold: float = 0.5, sparsity_threshold: float | None = None
) -> weak_users.Triage:
    """``hybridrec.triage`` of the tables ``ratings`` and ``out_of_fold``, with the same result.

    Shards count each user's pairs. What comes back is one row a user and fold (40 bytes each), from which the means,
    the luck and the thresholds over all users are made in this process.

    Args:
        divided: the tables.
        performance_threshold, sparsity_threshold: as in ``hybridrec.triage``.

    Raises:
        DatasetError, ScoresError: as ``hybridrec.triage``. ScaleError: see ``cluster.each``.

    Warns:
        UserWarning: ratings without a score (counts them).
    """
    need(divided, "out_of_fold")
    found = list(each(lambda shard: _counted(divided, shard), range(divided.shards), "triage"))
    counts = pd.concat([counts for counts, _ in found if len(counts)]).sort_index()
    rated = pd.concat([rated for _, rated in found if len(rated)]).sort_index()
    warn_of_unscored(counts, rated)
    items = len(pd.read_parquet(divided.folder / "items.parquet", columns=["item"]))
    how: dict[str, Any] = {"performance_threshold": performance_threshold, "sparsity_threshold": sparsity_threshold}
    return weak_users.of_counts(counts, rated, items, **how)


def warn_of_unscored(counts: pd.DataFrame, rated: pd.Series) -> None:
    """Warn of ratings without a score, and count them."""
    if without := int(rated.sum() - counts[["relevant", "irrelevant"]].to_numpy().sum()):
        warnings.warn(f"{without:,} of {rated.sum():,} ratings have no score and are left out.", stacklevel=3)


def _counted(divided: Divided, shard: int) -> tuple[pd.DataFrame, pd.Series]:
    data, scores = divided.data(shard), divided.read("out_of_fold", shard)
    rated = data.interactions.groupby("user").size()
    if scores.empty:
        return pd.DataFrame(), rated
    scorer = Scored("the recommender", pd.DataFrame({"fold": 0}, scores.index).assign(**scores))
    return weak_users.judged_counts(data, scorer), rated


def combine(divided: Divided, users: schema.Table | Iterable[Hashable] | None = None) -> dict[str, int]:
    """``hybridrec.combine`` of the table ``own`` and of what ``rank`` wrote; writes the table ``final``.

    Args:
        divided: the tables.
        users: the routed users; None: everybody who was ranked.

    Returns:
        How many users were routed, no_answer and not_routed.

    Raises:
        ScoresError, DatasetError: as ``hybridrec.combine``. ScaleError: see ``cluster.each``.
    """
    need(divided, "own")
    if users is not None:
        divided.hand_out(users, "routed")

    def work(shard: int) -> dict[str, int]:
        own, ranked = divided.read("own", shard), divided.read("ranked", shard)
        routed = None if users is None else divided.read("routed", shard)
        empty = pd.DataFrame(columns=[*schema.SCORES])
        final = hybrid.combine(empty if own.empty else own, empty if ranked.empty else ranked, users=routed)
        divided.place(shard, "final").unlink(missing_ok=True)  # of another run
        if len(final):
            write(final, divided.place(shard, "final"))
        return final.attrs

    total: Counter[str] = Counter(routed=0, no_answer=0, not_routed=0)
    for counts in each(work, range(divided.shards), "final lists"):
        total.update(counts)
    return dict(total)


def compare(divided: Divided, against: Sequence[str] = CONTROLS) -> comparison.Comparison:
    """``hybridrec.compare`` of what ``combine`` wrote and of the table ``outcomes``, with the same result.

    Args:
        divided: the tables.
        against: as in ``hybridrec.compare``.

    Raises:
        DatasetError, ScoresError: as ``hybridrec.compare``. ScaleError: see ``cluster.each``.
    """
    for table in ("final", "outcomes"):
        need(divided, table)

    def work(shard: int) -> comparison.Judged | None:
        final, outcomes = divided.read("final", shard), divided.read("outcomes", shard)
        if final.empty:
            return None
        if outcomes.empty:
            outcomes = pd.DataFrame(columns=[*schema.OUTCOMES])
        return comparison.of_users(final, outcomes, divided.data(shard), against, divided.item_ratings())

    found: Any = None
    for one in each(work, range(divided.shards), "comparison"):
        found = one if found is None else found if one is None else found + one
    return comparison.judged(found)


def need(divided: Divided, table: str) -> None:
    """Refuse to go on without a table that an earlier step was to write."""
    if not divided.parts(table):
        step = {"final": "combine", "ranked": "rank"}.get(table, f"divide(..., {table}=...)")
        raise ScaleError(f"{divided.folder.name}: no table {table}: call {step} first.")
