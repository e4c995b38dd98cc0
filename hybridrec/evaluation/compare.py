"""Is the hybrid better? ``compare`` judges final lists in one call.

Protocol ``cross`` is judged by ``cross``; what several tables of the study share is below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from hybridrec import schema
from hybridrec.errors import ScoresError
from hybridrec.evaluation import controls, metrics, statistics, verdicts
from hybridrec.evaluation.controls import CONTROLS
from hybridrec.evaluation.hybrid import NO_ANSWER, RECOMMENDER
from hybridrec.randomness import generator

if TYPE_CHECKING:
    from hybridrec.data.datasets import Dataset


# --- final lists, judged in one call ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """How routed users' final lists compare with what they would have got without the language model.

    Attributes:
        table: one row for each alternative: against, users (judged), auc_final, auc_other, gain (mean over users of
            the difference), low, high (its 95 % interval), smallest_detectable (the gain found with 80 % power),
            p_holm, p_equivalence_holm and verdict (see ``verdicts.judge``; all rows are one family).
        routed: how many users were routed; all of them count, also those whose ranking failed ...
        no_answer: ... of whom there are so many: they kept the recommender's list.
        judged: routed users with an AUC, that is, with a liked and another item among their outcomes.
        no_outcome: candidates of routed users without an outcome; they are left out.
        left_out: alternatives that were asked for and not given.
    """

    table: pd.DataFrame
    routed: int
    no_answer: int
    judged: int
    no_outcome: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        rows = self.table.to_string(index=False, float_format=lambda value: f"{value:.3f}")
        least = verdicts.FEWEST_USERS
        few = f" With fewer than {least} users nothing can be told." if self.judged < least else ""
        absent = f" Not compared, since final has no such column: {', '.join(self.left_out)}." if self.left_out else ""
        return (
            f"{rows}\n"
            f"AUC of {self.judged} of {self.routed} routed users; {self.routed - self.judged} have no pair of a liked "
            f"and another item among the outcomes, and {self.no_outcome} candidates have no outcome. {self.no_answer} "
            f"of the routed users got no answer and kept the recommender's list.{few}{absent}\n"
            "low, high: 95 % intervals over users, each for itself; smallest_detectable: the gain that would be found "
            "with 80 % power. Verdicts are corrected for the number of rows. Better than all alternatives is only what "
            "helps in every row."
        )


def compare(
    final: schema.Table, outcomes: schema.Table, data: "Dataset", against: Sequence[str] = CONTROLS
) -> Comparison:
    """Judge the final lists of routed users against the recommender's own and against controls, on the same users.

    Args:
        final: what ``combine`` returned: user, item, score, source, own. A table or a .csv or .parquet file.
        outcomes: user, item, rating: what users thought of the candidates, observed after ``data``. Outcomes of other
            items or users are not read.
        data: what was known before: the controls are made from its ratings; ``like`` says what a liked item is.
        against: the alternatives beside the recommender: "random" (AUC exactly 1/2, the mean over all orders),
            "popularity", "item-mean", or any column of ``final`` that holds another recommender's scores.
            "best-other" is compared only where ``final`` has a column of this name.

    Raises:
        DatasetError: ``data`` has no ``like``; a column is missing; two outcomes for a pair, or one that is not finite.
        ScoresError: two scores for a pair, or one that is not finite; a pair whose outcome is in ``data`` already, so
            that the controls would have seen it; no outcome of any candidate; an unknown name in ``against``.

    Source: AUC of each user, Kaur & Shah 2024, eq. 1; intervals and verdicts: see ``verdicts.judge``.
    """
    return judged(of_users(final, outcomes, data, against))


@dataclass(frozen=True)
class Judged:
    """What ``compare`` needs of each routed user, and its counts; those of disjoint parts of the users add up.

    Attributes:
        auc: of the final lists and of each alternative, a row a user; users without a pair are left out.
        routed, no_answer, no_outcome, left_out: as in ``Comparison``.
        with_outcome: candidates of routed users with an outcome.
    """

    auc: pd.DataFrame
    routed: int
    no_answer: int
    no_outcome: int
    with_outcome: int
    left_out: tuple[str, ...]

    def __add__(self, other: "Judged") -> "Judged":
        counts = ("routed", "no_answer", "no_outcome", "with_outcome")
        added = {name: getattr(self, name) + getattr(other, name) for name in counts}
        return Judged(pd.concat([self.auc, other.auc]), left_out=self.left_out, **added)


def judged(found: Judged) -> Comparison:
    """``compare`` from what ``of_users`` found, of all users: the part in which means and tests over users are made.

    Raises:
        ScoresError: no outcome of any candidate.
    """
    if found.no_outcome and not found.with_outcome:
        raise ScoresError("no candidate of a routed user has an outcome: are users and items called alike in both?")
    auc = found.auc.sort_index()
    return Comparison(
        table=_judged(auc, list(auc.columns.drop("final"))),
        routed=found.routed,
        no_answer=found.no_answer,
        judged=len(auc),
        no_outcome=found.no_outcome,
        left_out=found.left_out,
    )


def of_users(
    final: schema.Table,
    outcomes: schema.Table,
    data: "Dataset",
    against: Sequence[str] = CONTROLS,
    item_ratings: pd.DataFrame | None = None,
) -> Judged:
    """The part of ``compare`` in which each user stands alone, so that it may be done for a part of the users.

    Args:
        final, outcomes, data, against: as in ``compare``.
        item_ratings: all known ratings of each item (``controls.ratings_of_items``), where ``data`` holds those of some
            users only: the controls are made from all.

    Raises:
        As ``compare``, but for the outcomes that nobody has.
    """
    like = data.known_like
    of_items = controls.ratings_of_items(data.interactions) if item_ratings is None else item_ratings
    final = schema.scores(schema.read(final, schema.FINAL, "the final lists"), "the final lists")
    outcomes = schema.read(outcomes, schema.OUTCOMES, "the outcomes", unique=schema.IDS)
    outcomes["rating"] = schema.finite(outcomes, "rating", "the outcomes")
    final, outcomes = (
        table.assign(**{name: schema.like(table[name], data.interactions[name]) for name in schema.IDS})
        for table in (final, outcomes)
    )
    routed = final[final["user"].isin(final.loc[final["source"] != RECOMMENDER, "user"])]
    pairs, seen = (pd.MultiIndex.from_frame(table[["user", "item"]]) for table in (routed, data.interactions))
    rating = outcomes.set_index(["user", "item"])["rating"].reindex(pairs)
    if len(again := pairs[rating.notna() & pairs.isin(seen)]):
        raise ScoresError(
            "the outcome of user {} and item {} is in {} already: give later ones only.".format(*again[0], data.name)
        )

    rows = routed.assign(rating=rating.to_numpy()).dropna(subset="rating")
    rows["relevant"] = rows["rating"] >= like
    left_out = tuple(name for name in against if name == "best-other" and name not in final)
    names = [name for name in against if name not in left_out]
    scores = {RECOMMENDER: rows["own"], **{name: _alternative(name, rows, of_items) for name in names}}
    auc = pd.DataFrame(
        {name: metrics.auc(rows.assign(score=score)) for name, score in [("final", rows["score"]), *scores.items()]}
    ).dropna(subset="final")
    return Judged(
        auc=auc,
        routed=routed["user"].nunique(),
        no_answer=routed.loc[routed["source"] == NO_ANSWER, "user"].nunique(),
        no_outcome=len(routed) - len(rows),
        with_outcome=len(rows),
        left_out=left_out,
    )


def _alternative(name: str, rows: pd.DataFrame, of_items: pd.DataFrame) -> pd.Series:
    """The scores of a control, or of a column of the final lists."""
    if name == "random":
        return pd.Series(0.0, rows.index)  # all tied: what the AUC makes of ties is the mean over all orders
    if name in ("popularity", "item-mean"):
        return {"popularity": controls.popularity, "item-mean": controls.item_mean}[name](of_items, rows["item"])
    if name not in rows:
        raise ScoresError(
            f"against names {name!r}, which is no control ({', '.join(CONTROLS)}) and no column of final."
        )
    return schema.finite(rows, name, "the final lists", ScoresError)


def _judged(auc: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row for each alternative, with its verdict. Columns of ``auc``: final and ``names``; one row a user."""
    gain = auc[names].rsub(auc["final"], axis=0).rename_axis("user").reset_index()
    judged = verdicts.judge(gain.melt("user", var_name="comparison", value_name="difference").assign(family="compare"))
    found = judged.rename(columns={"comparison": "against", "mean": "gain"}).set_index("against").reindex(names)
    found = found.reset_index().assign(
        users=len(auc),
        auc_final=auc["final"].mean(),
        auc_other=auc[names].mean().to_numpy(),
        verdict=found["verdict"].fillna(verdicts.CANNOT_TELL).to_numpy(),  # nobody to judge by
    )
    return found[[
        "against", "users", "auc_final", "auc_other", "gain", "low", "high", "smallest_detectable", "p_holm",
        "p_equivalence_holm", "verdict",
    ]]  # fmt: skip


# --- means, differences and groups that several tables share ----------------------------------------------------------


def mean_auc(auc: pd.Series, seed: int, samples: int) -> pd.DataFrame:
    """Mean AUC of every ranking with its 95 % bootstrap interval over users.

    Args:
        auc: one value a ranking and user, indexed (ranker, user), undefined ones left out.
        seed, samples: of the bootstrap.

    Returns:
        Columns name, users, auc, low, high, in order of appearance.
    """
    rows = []
    for name, values in auc.groupby("ranker", sort=False):
        low, high = statistics.bootstrap_interval(values.to_numpy(), generator(seed, "bootstrap", name), samples)
        rows.append({"name": name, "users": len(values), "auc": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows, columns=["name", "users", "auc", "low", "high"])


def worst_decile(performance: pd.Series) -> pd.Index:
    """The tenth of users with the lowest P(u): who is counted is decided here, on training data, and nowhere else."""
    known = performance.dropna().sort_index(kind="stable")
    return known.nsmallest(max(1, len(known) // 10), keep="first").index
