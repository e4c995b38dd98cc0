"""The verdict table of notebook 05: every comparison of docs/plan.md, in the families in which it is corrected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hybridrec.evaluation import cross, verdicts
from hybridrec.evaluation.cross import OWN, RANDOM, Ranker

OWN_HISTORY, NO_HISTORY, ANOTHERS = "llm", "llm no history", "llm another's history"
WAYS = (OWN_HISTORY, "llm less prior", "llm less content-free")  # of the primary comparison, as far as they exist
NDCG_MARGIN = 0.02
BAR, HYBRID = "the bar", "hybrid"
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
    """The lists that a model was asked about and that are judged: test, user; with or without a usable answer."""
    rows = answers[(answers["model"] == model) & (answers["fold"] == answers["test"])]
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
                found.append(Compared(*names, "inactive", cross.differences(judged.lists, both, *names)))
    return found


def _groups(judged: Judged, ask: Ranker) -> list[Compared]:
    """The hybrid of the chosen way to ask against the recommender; a sample stands for all who could be asked."""
    groups, found = cross.groups(judged.triage), []
    for name in ("worst decile", "inactive", "everybody"):
        mixed = cross.hybrid(groups[name], judged.groups["weak"], ask)
        differences = judged.sample.represent(cross.differences(judged.lists, mixed, None, OWN))
        found.append(Compared(HYBRID, OWN, name, differences))
    return found
