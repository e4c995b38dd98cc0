"""Phase one: who is served badly. P(u), S_I(u), the thresholds, and who is weak by them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.data.datasets import Dataset, sparsity_of
from hybridrec.errors import ScoresError
from hybridrec.randomness import generator
from hybridrec.weak_users import nulls
from hybridrec.weak_users.performance import (
    between_variance,
    empirical_bayes,
    evidence_of,
    fold_counts,
    performance_by_recommender,
    sampling_variance,
    upper_bound,
)
from hybridrec.weak_users.performance import (
    performance as performance,  # also known as triage.performance
)

if TYPE_CHECKING:
    from hybridrec.recommenders.scorer import Scorer


@dataclass(frozen=True)
class Thresholds:
    """t_p on performance and t_s on sparsity (None: the dataset's mean S_I, as published)."""

    performance: float = 0.5
    sparsity: float | None = None

    def on(self, sparsity: pd.Series) -> "Thresholds":
        """The same with t_s as a number: the one given, or the mean of these S_I."""
        return Thresholds(self.performance, sparsity_threshold(sparsity, self))


def sparsity_threshold(sparsity: pd.Series, thresholds: Thresholds) -> float:
    """t_s: the given value, or the mean of S_I over users (published)."""
    if thresholds.sparsity is not None:
        return thresholds.sparsity
    # A mean of equal numbers may differ from them in its last digit: all would be sparser than it, or none, by chance.
    return float(np.clip(sparsity.mean(), sparsity.min(), sparsity.max()))


def inactive(sparsity: pd.Series, thresholds: Thresholds) -> pd.Series:
    """Whether each user is sparser than t_s. Only these can be weak, whatever the recommender."""
    return sparsity > sparsity_threshold(sparsity, thresholds)


def weak_users(performance: pd.Series, sparsity: pd.Series, thresholds: Thresholds, strict: bool = False) -> pd.Series:
    """Who is weak: P(u) <= t_p and S_I(u) > t_s. Everyone else, and everyone whose P(u) is undefined, is strong.

    Args:
        performance: P(u), indexed by user.
        sparsity: S_I(u), indexed by user.
        thresholds: t_p and t_s.
        strict: use P(u) < t_p, as other accounts of the method have it.

    Returns:
        Booleans, indexed like ``sparsity``.

    Source: Kaur & Shah 2024, definition 1.
    """
    value = performance.reindex(sparsity.index)
    poor = value < thresholds.performance if strict else value <= thresholds.performance
    return poor & inactive(sparsity, thresholds)


def triage_table(judged: pd.DataFrame, sparsity: pd.Series, thresholds: Thresholds, protocol: str) -> pd.DataFrame:
    """Every recommender's users, judged and routed.

    Args:
        judged: recommender, user, score, relevant (and fold): the items that users are judged by.
        sparsity: S_I(u), indexed by user.
        thresholds: t_p and t_s.
        protocol: what is written into the table, such as "published".

    Returns:
        Columns recommender, protocol, user, performance, pairs, sparsity, weak, weak_strict.
    """
    # The mean of S_I is over all users, also those that a recommender has nothing to rank for.
    fixed = thresholds.on(sparsity)
    table = performance_by_recommender(judged)
    table["sparsity"] = table["user"].map(sparsity)
    for column, strict in (("weak", False), ("weak_strict", True)):
        parts = [
            weak_users(rows.set_index("user")["performance"], rows.set_index("user")["sparsity"], fixed, strict)
            .set_axis(rows.index)
            for _, rows in table.groupby("recommender", sort=False)
        ]  # fmt: skip
        table[column] = pd.concat(parts)
    return table.assign(protocol=protocol)


# --- one recommender's users, judged by what was known ----------------------------------------------------------------


@dataclass(frozen=True)
class Triage:
    """Who is weak under one recommender, and how much of that may be luck.

    Attributes:
        table: one row a user with ratings: user, performance (P(u), NaN without a pair), pairs, sparsity (S_I(u)),
            inactive, weak, and by empirical Bayes shrunken (P(u) with luck taken off), sd (its standard deviation) and
            upper (what P(u) is below with probability 0.8). Sorted by user.
        thresholds: t_p and t_s as they were applied.
        by_luck: how many users would be flagged where all were served alike: the expected number ...
        by_luck_sd: ... and its standard deviation.
        spread: standard deviation of the true P(u) between users, the spread that luck does not explain.
        unscored: how many users the recommender scored no rating of.
    """

    table: pd.DataFrame
    thresholds: Thresholds
    by_luck: float
    by_luck_sd: float
    spread: float
    unscored: int = 0

    @property
    def users(self) -> pd.Index:
        """The weak users, sorted."""
        return pd.Index(self.table.loc[self.table["weak"], "user"])

    def __str__(self) -> str:
        judged = self.table["performance"].notna()
        known = self.table["sparsity"].value_counts(normalize=True)
        alike = (
            f"{known.iloc[0]:.0%} of the users have equally many ratings: no sparsity_threshold divides them; with 0 "
            "all users are inactive and may be weak.\n"
        )
        return (alike if known.iloc[0] > 0.5 else "") + (
            f"{len(self.users)} of {len(self.table)} users are weak: P(u) <= {self.thresholds.performance:g} and "
            f"sparser than {self.thresholds.sparsity:.4f}.\n"
            f"Luck alone would flag {self.by_luck:.0f} (give or take {self.by_luck_sd:.0f}) were all users served "
            f"alike, with the mean P(u) of {self.table['performance'].mean():.3f}.\n"
            f"Once luck is taken off, P(u) differs between users by a standard deviation of {self.spread:.3f}.\n"
            f"{(~judged).sum()} users have no pair of a liked and another item scored in one fold to be judged by, "
            f"and count as not weak; {self.unscored} of them have no score at all."
        )


def triage(
    data: Dataset,
    scorer: "Scorer",
    *,
    performance_threshold: float = 0.5,
    sparsity_threshold: float | None = None,
) -> Triage:
    """Who is weak, decided on known ratings scored out of fold: no rating is judged by a model that has seen it.

    Args:
        data: ratings and items; ``like`` says from which rating on an item is liked.
        scorer: the recommender.
        performance_threshold: t_p, from 0 to 1.
        sparsity_threshold: t_s (None: the mean S_I over users, as published).

    Raises:
        DatasetError: ``data`` has no ``like``, or the recommender's table lacks a column.
        ScoresError: it scores a user, an item or a pair that is not in the ratings, a pair twice, or one not by a
            finite number (names user and item).

    Source: Kaur & Shah 2024, definition 1; shrinkage and luck: see ``empirical_bayes`` and ``nulls.flagged_by_luck``.
    """
    how: dict[str, Any] = {"performance_threshold": performance_threshold, "sparsity_threshold": sparsity_threshold}
    return of_counts(judged_counts(data, scorer), data.interactions.groupby("user").size(), len(data.items), **how)


def judged_counts(data: Dataset, scorer: "Scorer") -> pd.DataFrame:
    """What ``triage`` needs of the scores: columns correct, relevant, irrelevant, indexed by user and fold.

    Args and errors are those of ``triage``; see ``performance.fold_counts``. A user's rows depend on nobody else's
    ratings or scores, so ``data`` and ``scorer`` may hold a part of the users.
    """
    like = data.known_like
    what = f"the out-of-fold scores of {scorer.name}"
    users, items = data.interactions["user"], data.items["item"]
    table = schema.read(scorer.out_of_fold(data), schema.OUT_OF_FOLD, what)
    scores = schema.scores(table, what, users=users, items=items)[[*schema.OUT_OF_FOLD]]
    judged = scores.merge(data.interactions[["user", "item", "rating"]], "left", on=["user", "item"])
    if (unrated := judged["rating"].isna()).any():
        _, pair = schema.first(judged, unrated)
        named = f"user {pair['user']!r} has not rated item {pair['item']!r}"
        raise ScoresError(f"{what}: {named}{schema.and_more(unrated)}. Score ratings alone.")
    return fold_counts(judged.assign(relevant=judged["rating"] >= like))


def of_counts(
    counts: pd.DataFrame,
    rated: pd.Series,
    n_items: int,
    *,
    performance_threshold: float = 0.5,
    sparsity_threshold: float | None = None,
) -> Triage:
    """``triage`` from counts: the part in which users depend on each other, through means and variances over them.

    Args:
        counts: what ``judged_counts`` returned, of all users, sorted by user and fold.
        rated: how many items each user has rated, indexed by user, sorted.
        n_items: catalogue size.
        performance_threshold, sparsity_threshold: as in ``triage``.
    """
    known = evidence_of(counts)
    variance = sampling_variance(known)
    estimate = empirical_bayes(known["performance"], variance).rename(columns={"performance": "shrunken"})
    sparsity = sparsity_of(rated, n_items)
    thresholds = Thresholds(performance_threshold, sparsity_threshold).on(sparsity)
    table = known[["performance", "pairs"]].reindex(sparsity.index).assign(sparsity=sparsity).fillna({"pairs": 0})
    table["inactive"] = inactive(sparsity, thresholds)
    table["weak"] = weak_users(table["performance"], sparsity, thresholds)
    table = table.join(estimate).assign(upper=upper_bound(estimate["shrunken"], estimate["sd"]))
    eligible = counts[counts.index.get_level_values("user").isin(table.index[table["inactive"]])]
    by_luck, by_luck_sd = nulls.flagged_by_luck(
        eligible, known["performance"].mean(), performance_threshold, generator(0, "triage", "luck")
    )
    return Triage(
        table=table.rename_axis("user").reset_index(),
        thresholds=thresholds,
        by_luck=by_luck,
        by_luck_sd=by_luck_sd,
        spread=float(np.sqrt(between_variance(known["performance"], variance))),
        unscored=int((~sparsity.index.isin(known.index)).sum()),
    )
