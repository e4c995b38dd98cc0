"""The verdict table of notebook 05: every comparison of docs/plan.md, in the families in which it is corrected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.evaluation import cross, verdicts
from hybridrec.evaluation.arms import STACK
from hybridrec.evaluation.cross import OWN, RANDOM, Ranker
from hybridrec.study.names import BAR, LLM, OWN_RECOMMENDER, RANDOM_ORDER

OWN_HISTORY, NO_HISTORY, ANOTHERS = "llm", "llm no history", "llm another's history"
WAYS = (OWN_HISTORY, "llm less prior", "llm less content-free")  # of the primary comparison, as far as they exist
NDCG_MARGIN = 0.02
BEST_SINGLE, HYBRID = "best single control", "hybrid"
COLUMNS = [
    *("family", "comparison", "ranker", "against", "group", "n", "mean", "low", "high", "smallest_detectable"),
    *("p_holm", "p_equivalence_holm", "verdict"),
]


@dataclass(frozen=True)
class Compared:
    """One comparison: names for the table, and one difference a user (``cross.differences``)."""

    ranker: str
    against: str
    group: str
    differences: pd.DataFrame


def judge(family: str, comparisons: Iterable[Compared], margin: float = verdicts.SMALLEST_EFFECT) -> pd.DataFrame:
    """The verdicts of a family (``verdicts.judge``), a row for each comparison, also for one without a user.

    Where most lists have no answer there is no verdict.

    Returns:
        COLUMNS.
    """
    named = {f"{one.ranker} against {one.against}, {one.group}": one for one in comparisons}
    rows = [
        {"comparison": name, "ranker": one.ranker, "against": one.against, "group": one.group, "n": 0}
        for name, one in named.items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(family=family, verdict=verdicts.CANNOT_TELL)
    somebody = {name: one.differences for name, one in named.items() if len(one.differences)}
    if somebody:
        found = verdicts.judge(cross.family(family, somebody, margin)).set_index("comparison")
        table = table.set_index("comparison")
        for column in ("n", "mean", "low", "high", "smallest_detectable", "p_holm", "p_equivalence_holm", "verdict"):
            table.loc[found.index, column] = found[column]
        table = table.reset_index()
    silent = [one.differences["unanswered"].sum() > one.differences["lists"].sum() / 2 for one in named.values()]
    table.loc[np.array(silent, dtype=bool), "verdict"] = verdicts.CANNOT_TELL
    numbers = dict.fromkeys(COLUMNS[6:12], float)
    return table[COLUMNS].astype({"n": int, **numbers})


# --- who was asked ----------------------------------------------------------------------------------------------------


def judged_lists(answers: pd.DataFrame, model: str) -> pd.DataFrame:
    """The lists that a model was asked about and that are judged: test, user; with or without a usable answer.

    Asked is who was asked with the own history: what is said without one is known of everybody's items.
    """
    own = answers["ranker"].isin([OWN_HISTORY, f"{model}: {OWN_HISTORY}"])
    rows = answers[own & (answers["model"] == model) & (answers["fold"] == answers["test"])]
    return rows[["test", "user"]].drop_duplicates(ignore_index=True)


@dataclass(frozen=True)
class Sample:
    """The users that the experiment's model was asked about, of all whom it could have been asked about.

    Attributes:
        able: inactive in some fold in which they have a list with a pair.
        asked: those of them who were asked; None: nobody was, so that arms without a model are judged on everybody.
    """

    able: pd.Index
    asked: pd.Index | None

    @property
    def is_part(self) -> bool:
        """Whether some were asked and not all."""
        return self.asked is not None and len(self.able.difference(self.asked)) > 0

    def only(self, group: pd.DataFrame) -> pd.DataFrame:
        """A group's users who were asked."""
        return group if self.asked is None else group[group["user"].isin(self.asked)]

    def represent(self, found: pd.DataFrame, weight: str = "weight") -> pd.DataFrame:
        """Values of everybody, with those who were asked standing for those who were not.

        Args:
            found: user (a column or the index), and the column ``weight``.
            weight: multiplied for who was asked by how many there are for each of them; who was not asked is left out.
        """
        if not self.is_part:
            return found
        assert self.asked is not None
        users = found["user"] if "user" in found else found.index.to_series()
        kept = found[~users.isin(self.able.difference(self.asked)).to_numpy()].copy()
        users = users[users.index.isin(kept.index)]
        stands_for = len(self.able) / len(self.able.intersection(self.asked))
        kept[weight] = kept[weight] * np.where(users.isin(self.asked), stands_for, 1.0)
        return kept


def sample(lists: pd.DataFrame, triage: pd.DataFrame, asked: pd.DataFrame) -> Sample:
    """Who could be asked, and who was.

    Args:
        lists: what ``cross.lists`` returned.
        triage: test, user, inactive.
        asked: what ``judged_lists`` returned.
    """
    judged = lists.loc[lists["fold"] == lists["test"], ["test", "user"]].drop_duplicates()
    able = judged.merge(triage.loc[triage["inactive"], ["test", "user"]].drop_duplicates())
    return Sample(pd.Index(able["user"].unique()), pd.Index(asked["user"].unique()) if len(asked) else None)


# --- everything of docs/plan.md ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What is judged under protocol ``cross``, and by what.

    Attributes:
        lists: what ``cross.lists`` returned, of all recommenders, controls, ways to ask and fusions.
        triage: of the compared recommenders: recommender, test, user, performance, inactive, weak.
        controls: what could take the language model's place; the bar is chosen among them.
        ways: the own model's ways to ask, between which is chosen; none where nobody was asked.
        larger: for each other model that was asked, the lists it was asked about (``judged_lists``).
        arms: what is compared with the bar: by name, the ranker, and the model it is made with ("" for none).
        sample: of the own model.
        primary: the primary comparison; None where nobody was asked.
        bar: the bar of each recommender and test fold.
    """

    lists: pd.DataFrame
    triage: pd.DataFrame
    controls: Sequence[str]
    ways: Sequence[str]
    larger: Mapping[str, pd.DataFrame]
    arms: Mapping[str, tuple[Ranker, str]]
    sample: Sample
    primary: cross.Primary | None
    bar: pd.DataFrame

    @property
    def groups(self) -> dict[str, pd.DataFrame]:
        """Whom comparisons are about; where a sample was asked, its users for "weak" and "inactive"."""
        found = cross.groups(self.triage)
        return found | {name: self.sample.only(found[name]) for name in ("weak", "inactive")}

    def judged_only(self) -> "Judged":
        """Without the lists that only decide, which comparisons need not look at."""
        return replace(self, lists=self.lists[self.lists["fold"] == self.lists["test"]])


def existing_ways(lists: pd.DataFrame) -> list[str]:
    """The ways to ask between which can be chosen: those with lists of other folds for each test fold, or one."""
    there = [name for name in WAYS if (lists["ranker"] == name).any()]
    deciding = [name for name in there if decides(lists, name)]
    return deciding or there[:1]


def decides(lists: pd.DataFrame, ranker: str) -> bool:
    """Whether a ranker has lists of another fold for each test fold."""
    rows = lists[(lists["ranker"] == ranker) & (lists["fold"] != lists["test"])]
    return set(rows["test"]) == set(lists["test"])


def families(judged: Judged) -> pd.DataFrame:
    """Every family of docs/plan.md but whole lists and other protocols, each corrected by itself.

    Returns:
        COLUMNS. A family of the language model is left out where nobody was asked.
    """
    judged = judged.judged_only()
    others = {name: (name, "") for name in judged.controls if name != RANDOM}
    everything = {**judged.arms, **others}
    random = {name: one for name, one in everything.items() if name != RANDOM}
    found = [
        judge("arms", _weak(judged, judged.arms, BAR, judged.bar)),
        judge("recommender", _weak(judged, {**everything, RANDOM: (RANDOM, "")}, OWN, OWN)),
        judge("random", _weak(judged, random, RANDOM, RANDOM)),
        judge("NDCG@10", _weak(judged, judged.arms, BAR, judged.bar, "ndcg_at_10"), NDCG_MARGIN),
        judge("reading", _reading(judged)),
    ]
    if judged.primary is not None:
        ask, group = judged.primary.ask, judged.groups["weak"]
        primary = Compared("llm, chosen way", BAR, "weak", judged.primary.differences)
        of_each = [
            Compared("llm, chosen way", BAR, f"weak, {name}", cross.differences(judged.lists, rows, ask, judged.bar))
            for name, rows in group.groupby("recommender", sort=False)
        ]
        found = [judge(cross.PRIMARY, [primary]), *found, judge("each recommender", of_each)]
        found.append(judge("groups", _groups(judged, ask)))
    return pd.concat([one for one in found if len(one)], ignore_index=True)


def _weak(
    judged: Judged, rankers: Mapping[str, tuple[Ranker, str]], name: str, against: Ranker, metric: str = "auc"
) -> list[Compared]:
    """Rankers against another one, on weak users; a recommender on those of the other recommenders."""
    weak, found = judged.groups["weak"], []
    for ranker, (one, model) in rankers.items():
        group = weak[weak["recommender"] != ranker]
        if weak["recommender"].eq(ranker).all() and len(weak):
            continue  # the only recommender has no weak users of others
        group = group.merge(judged.larger[model]) if model in judged.larger else group
        found.append(Compared(ranker, name, "weak", cross.differences(judged.lists, group, one, against, metric)))
    return found


def _reading(judged: Judged) -> list[Compared]:
    """A model with the user's own history against none and another user's, where it has answered both."""
    inactive, found = judged.groups["inactive"], []
    scored = judged.lists.groupby("ranker", observed=True)[["test", "user"]]
    for model in ("", *judged.larger):
        before = f"{model}: " if model else ""
        for other in (NO_HISTORY, ANOTHERS):
            names = [before + OWN_HISTORY, before + other]
            if all(name in scored.groups for name in names):
                both = inactive
                for name in names:
                    both = both.merge(scored.get_group(name).drop_duplicates())
                differences = cross.differences(judged.lists, both, names[0], names[1])
                found.append(Compared(names[0], names[1], "inactive", differences))
    return found


def _groups(judged: Judged, ask: Ranker) -> list[Compared]:
    """The hybrid of the chosen way to ask against the recommender; a sample stands for all who could be asked."""
    groups, found = cross.groups(judged.triage), []
    for name in ("worst decile", "inactive", "everybody"):
        mixed = cross.hybrid(groups[name], judged.groups["weak"], ask)
        differences = judged.sample.represent(cross.differences(judged.lists, mixed, None, OWN))
        found.append(Compared(HYBRID, OWN, name, differences))
    return found


# --- the primary comparison, to be shown ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """The primary comparison beside what else could be had: name, n, mean, low, high (of AUC, and of differences)."""

    means: pd.DataFrame
    differences: pd.DataFrame


def primary_summary(judged: Judged) -> Summary:
    """AUC of weak users by the language model, the bar, the best control but the stack, and so on.

    The best single control is chosen as the bar is, on other folds.

    Returns:
        means: name, n, mean, low, high; the language model first. differences: the language model minus each of the
        others, each for itself: name, mean, low, high, smallest_detectable, verdict. Without a language model the
        differences are none.
    """
    alone = [name for name in judged.controls if name != STACK]
    single = cross.bar(judged.lists, judged.triage, alone)
    judged = judged.judged_only()
    weak = judged.groups["weak"]
    rankers = {BAR: judged.bar, BEST_SINGLE: single, OWN_RECOMMENDER: OWN, RANDOM_ORDER: RANDOM}
    asked = {LLM: judged.primary.ask} if judged.primary else {}
    everything = {**asked, **rankers}
    values = {}
    for name, ranker in everything.items():
        found = cross.quality(judged.lists, weak, ranker)
        found = found.assign(difference=found["auc"], weight=found["folds"])
        values[name] = found[["difference", "weight", "lists", "unanswered"]].reset_index()
    means = judge("means", [Compared(name, "0", "weak", one) for name, one in values.items()])
    compared = [
        Compared(name, "", "weak", cross.differences(judged.lists, weak, one, other))
        for one in asked.values()
        for name, other in rankers.items()
    ]
    parts = [judge(one.ranker, [one]) for one in compared]  # each for itself: they are shown, not tested again
    differences = pd.concat(parts) if parts else judge("", [])
    shown = ["name", "n", "mean", "low", "high", "smallest_detectable", "verdict"]
    means, differences = (table.rename(columns={"ranker": "name"})[shown] for table in (means, differences))
    return Summary(means.drop(columns=["smallest_detectable", "verdict"]), differences.drop(columns="n"))


def most_often(chosen: pd.DataFrame) -> str:
    """The ranker that was chosen most often (``cross.choose``); of several the first in the alphabet."""
    return str(chosen["ranker"].astype(str).mode().iloc[0])


def primary_record(judged: Judged, summary: Summary, model: str) -> dict[str, Any] | None:
    """The primary comparison for metrics.json; None where nobody was asked."""
    if judged.primary is None:
        return None
    row, auc = judged.primary.table.iloc[0], summary.means.set_index("name")
    kept = ["routed", "lists", "unanswered", "mean", "low", "high", "smallest_detectable", "verdict"]
    of = {"llm_auc": LLM, "bar_auc": BAR, "own_auc": OWN_RECOMMENDER, "random_auc": RANDOM_ORDER}
    return (
        {"model": model, "users": row["n"], **{name: row[name] for name in kept}}
        | {"hand_overs": round(judged.primary.differences["weight"].sum())}
        | {name: auc["mean"][called] for name, called in of.items()}
        | {f"{name}_{end}": auc[end][called] for name, called in of.items() for end in ("low", "high")}
        | {"bar": most_often(judged.bar), "way": most_often(judged.primary.ask)}
    )


# --- larger models on a sample, one split -----------------------------------------------------------------------------


def larger_models(
    lists: pd.DataFrame, recommenders: Sequence[str], asked: Mapping[tuple[str, str], pd.Series], first: str
) -> pd.DataFrame:
    """Models on the users that each was asked about, whether a recommender routes them or not; one family.

    Args:
        lists: what ``cross.lists`` made of one split's rankings; "model: ranker" is the name of each.
        recommenders: what a user has without the model is the mean over these.
        asked: for each (model, ranker) its users.
        first: the experiment's own model, with which the others are compared in the same way to ask.

    Returns:
        model, way, users_asked, unanswered (users, who keep the recommender's order), auc, and COLUMNS; against is the
        recommender, a random order, or the first model.
    """
    compared, rows = [], []
    keys = ["model", "way", "users_asked", "ranker", "against", "unanswered", "auc"]
    for (model, way), users in asked.items():
        whose = pd.MultiIndex.from_product([recommenders, [0], users.unique()], names=["recommender", "test", "user"])
        group, name = whose.to_frame(index=False), f"{model}: {way}"
        others = {OWN: OWN, RANDOM: RANDOM}
        if model != first and (first, way) in asked:
            others[first] = f"{first}: {way}"
        for called, other in others.items():
            shared = group
            if called == first:  # whom both have answered
                shared = group.merge(lists.loc[lists["ranker"] == other, ["test", "user"]])
            compared.append(Compared(name, called, "asked", cross.differences(lists, shared, name, other)))
            found = cross.quality(lists, shared, name)
            silent, auc = int((found["unanswered"] > 0).sum()), found["auc"].mean()
            rows.append((model, way, users.nunique(), name, called, silent, auc))
    return pd.DataFrame(rows, columns=keys).merge(judge("larger models", compared), on=["ranker", "against"])


# --- in words ---------------------------------------------------------------------------------------------------------


def interval(row: Any, digits: int = 3) -> str:
    """A difference with its interval, as text: "+0.012 (-0.020 to +0.044)"."""
    return f"{row.mean:+.{digits}f} ({row.low:+.{digits}f} to {row.high:+.{digits}f})"


def counts(said: pd.Series) -> str:
    """How many comparisons have each verdict, as text."""
    return ", ".join(f"{word}: {(said == word).sum()}" for word in verdicts.VERDICTS)
