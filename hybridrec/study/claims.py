"""The paper's claims, one by one: what it reports, what we and a random order find, and the verdict under cross.

The published protocol is judged by the same functions as protocol ``cross``, as one with a single fold; what differs is
whom it calls weak: users whose outcome on the very items that are judged was bad.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.evaluation import cross, verdicts
from hybridrec.evaluation.cross import OWN, RANDOM, Ranker
from hybridrec.study import families
from hybridrec.study.config import PUBLISHED_RECOMMENDERS
from hybridrec.study.families import BAR, Compared, Judged, Sample

FEWER, ROBUST, OVERALL = "fewer weak users", "sub-population robustness", "overall performance"
CLAIMS = {FEWER: "inactive", ROBUST: "worst decile", OVERALL: "everybody"}  # and in whom they are measured
NOT_RUN = "not run"
EVERYBODY = Sample(pd.Index([]), None)


@dataclass(frozen=True)
class Protocol:
    """Lists and groups of a protocol, of which claims are made.

    Attributes:
        lists: judged lists (``cross.lists``).
        drawn: those of drawn random orders, all inactive users'. A random order's expectation has every user at one
            half exactly, which says nothing of how many are weak.
        groups: what ``cross.groups`` returned; "weak" are those who are handed over.
        threshold: t_p.
        sample: where a sample was asked, who it stands for.
    """

    lists: pd.DataFrame
    drawn: pd.DataFrame
    groups: Mapping[str, pd.DataFrame]
    threshold: float
    sample: Sample = EVERYBODY

    @property
    def with_drawn(self) -> pd.DataFrame:
        """The lists, with the drawn random orders in the place of their expectation."""
        return pd.concat([self.lists[self.lists["ranker"] != RANDOM], self.drawn], ignore_index=True)

    def of(self, claim: str) -> pd.DataFrame:
        """The lists, valued as a claim counts: by AUC, or 1 for a list that leaves its user above t_p and 0 else."""
        if claim != FEWER:
            return self.lists
        lists = self.with_drawn
        auc = (lists["correct"] / lists["pairs"]).round(9)
        return lists.assign(correct=np.where(auc > self.threshold, lists["pairs"], 0.0))


def under_cross(judged: Judged, candidates: pd.DataFrame, seed: int, threshold: float) -> Protocol:
    """Protocol ``cross``, of which the same claims are made as of the published one.

    Args:
        judged: what ``cross_arms.judged_by_plan`` returned.
        candidates: fold, user, item, relevant.
        seed: of drawn random orders.
        threshold: t_p.
    """
    draws = cross.random_draws(candidates, judged.groups["inactive"], seed)
    groups = cross.groups(judged.triage) | {"weak": judged.groups["weak"]}
    lists = judged.judged_only().lists
    return Protocol(lists, cross.lists(draws, candidates), groups, threshold, judged.sample)


def mixed(protocol: Protocol, claim: str, recommender: str, ranker: Ranker) -> pd.DataFrame:
    """The group in which a claim is measured for one recommender, with the ranker of each list: the hybrid."""
    group, weak = (protocol.groups[name] for name in (CLAIMS[claim], "weak"))
    return cross.hybrid(group[group["recommender"] == recommender], weak[weak["recommender"] == recommender], ranker)


def change(protocol: Protocol, claim: str, recommender: str, ranker: Ranker) -> float:
    """By how much a claim's measure changes from the recommender to the hybrid, as a share of what it was.

    The measure is the number of weak users in a test fold, or the mean AUC of the worst decile or of everybody.
    """
    group, lists = mixed(protocol, claim, recommender, ranker), protocol.of(claim)
    means = []
    for one in (None, OWN):
        found = protocol.sample.represent(cross.quality(lists, group, one), "folds")
        value = float(np.average(found["auc"], weights=found["folds"])) if len(found) else np.nan
        means.append(1 - value if claim == FEWER else value)
    return means[0] / means[1] - 1 if means[1] else np.nan


def difference(protocol: Protocol, claim: str, recommender: str, ranker: Ranker, against: Ranker) -> pd.DataFrame:
    """Per user, what a claim counts under the hybrid of one ranker minus that of another; more is better."""
    lists = protocol.of(claim)
    new, old = (cross.quality(lists, mixed(protocol, claim, recommender, one), None) for one in (ranker, against))
    found = new.assign(difference=new["auc"] - old["auc"], weight=new["folds"]).reset_index()
    if not (protocol.groups["weak"]["recommender"] == recommender).any():
        found = found[:0]  # nobody is handed over, so nothing can be told: all differences would be 0
    return protocol.sample.represent(found[["user", "difference", "weight", "lists", "unanswered"]])


def unanswered(rankings: pd.DataFrame, instead: str = "keep the recommender's order") -> list[str]:
    """A line for every model and way to ask of which answers could not be used.

    Args:
        rankings: model, ranker, user, failure ("" where the answer could be used), a row a candidate; test, where a
            user is asked in several folds.
        instead: what these users get.
    """
    lines, one = [], [name for name in ("model", "ranker", "test", "user") if name in rankings]
    for (model, ranker), rows in rankings.drop_duplicates(one).groupby(["model", "ranker"]):
        failed = rows.loc[rows["failure"] != "", "failure"].value_counts()
        reasons = ", ".join(f"{reason}: {count}" for reason, count in failed.items())
        if failed.sum() == len(rows):
            lines.append(
                f"{model}, {ranker}: no answer could be used, of {len(rows)} lists ({reasons}). All of them {instead}: "
                "nothing here says anything about the model."
            )
        elif len(failed):
            lines.append(
                f"{model}, {ranker}: {failed.sum()} of {len(rows)} lists have no answer that could be used "
                f"({reasons}) and {instead}."
            )
    return lines


def asked_under_cross(judged: Judged, answers: pd.DataFrame) -> list[str]:
    """What a reader must know of who was asked under protocol ``cross``, in lines.

    Args:
        judged: what ``cross_arms.judged_by_plan`` returned.
        answers: model, ranker, test, fold, user, failure.
    """
    lines, sample = [], judged.sample
    if answers.empty:
        lines.append("Not run: no language model was asked under cross. Below stand the controls and their fusions.")
    if sample.is_part:
        assert sample.asked is not None
        routed, everybody = judged.groups["weak"]["user"], cross.groups(judged.triage)["weak"]["user"]
        lines.append(
            f"A sample was asked: {len(sample.asked):,} of {len(sample.able):,} inactive users with a pair. "
            f"{routed.nunique():,} of {everybody.nunique():,} weak users are among them; what follows is about these."
        )
    return lines + unanswered(answers[answers["fold"] == answers["test"]])


def coin(protocol: Protocol, recommenders: Sequence[str], rankers: Sequence[str]) -> pd.DataFrame:
    """Whether a random order explains what rankers gain for each claim and recommender (all one family).

    Returns:
        The columns of ``verdicts.explained_by_coin`` and claim, recommender, ranker. Nothing of nobody.
    """
    parts, keys = [], []
    for claim in CLAIMS:
        for name in recommenders:
            gain = difference(protocol, claim, name, RANDOM, OWN).set_index("user")["difference"]
            for ranker in rankers:
                found = difference(protocol, claim, name, ranker, RANDOM)
                comparison = f"{claim}, {name}: {ranker} and a random order"
                parts.append(found.assign(comparison=comparison, family="coin", gain=found["user"].map(gain)))
                keys.append({"comparison": comparison, "claim": claim, "recommender": name, "ranker": ranker})
    somebody = [part for part in parts if len(part)] or parts[:1]
    found = verdicts.explained_by_coin(pd.concat(somebody, ignore_index=True))
    table = pd.DataFrame(keys).merge(found, "left", on="comparison")
    nobody = table["n"].isna()
    table.loc[nobody, ["family", "n", "verdict"]] = ["coin", 0, verdicts.CANNOT_TELL]
    return table.assign(n=table["n"].astype(int), explained=table["explained"].eq(True))


PAPERS_FALL, PAPERS_ROBUSTNESS = -0.87, 0.12  # of weak users (GPT-3.5), and what the abstract calls robustness


def as_reported(paper: pd.DataFrame, recommenders: Sequence[str]) -> pd.DataFrame:
    """What the paper says of each claim, as a relative change: claim, recommender, published.

    Args:
        paper: its table about one dataset (recommender, group, recommender_alone, with_gpt_35); empty for another.
        recommenders: the rows of each claim; NaN for one that is not the paper's.
    """
    everybody = paper[paper["group"] == "all"].set_index("recommender")
    overall = everybody["with_gpt_35"] / everybody["recommender_alone"] - 1
    of_paper = [name for name in recommenders if name in PUBLISHED_RECOMMENDERS]
    said = {FEWER: dict.fromkeys(of_paper, PAPERS_FALL), ROBUST: dict.fromkeys(of_paper, PAPERS_ROBUSTNESS)}
    said[OVERALL] = {name: overall.get(name, np.nan) for name in of_paper}
    rows = [(claim, name, said[claim].get(name, np.nan)) for claim in CLAIMS for name in recommenders]
    return pd.DataFrame(rows, columns=["claim", "recommender", "published"])


def claims(
    published: Protocol, fresh: Protocol, coins: pd.DataFrame, reported: pd.DataFrame, ranker: str,
    ask: pd.DataFrame | None, bar: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    """Every claim about quality for each recommender: reported, replicated, a random order's, and under cross.

    Args:
        published, fresh: the two protocols.
        coins: what ``coin`` returned for the published one.
        reported: claim, recommender, published (relative change; NaN where the paper has none).
        ranker: the way to ask that is shown under the published protocol.
        ask: the way to ask for each test fold under ``cross``; None: nobody was asked.
        bar: the bar under ``cross``.

    Returns:
        claim, recommender, ranker, published, replicated and null_control (relative changes under the published
        protocol), explained (``verdicts.explained_by_coin``); and under cross: cross_ranker ("not run" where nobody was
        asked), cross, cross_null, cross_bar (relative changes by the language model, a random order, the bar), and for
        the language model's hybrid against the recommender n, mean, low, high, smallest_detectable, verdict, and
        against the bar's hybrid mean_bar, low_bar, high_bar, verdict_bar. Each of the two is a family.
    """
    explained = coins.set_index(["claim", "recommender", "ranker"])["explained"] if len(coins) else {}
    rows, own, over = [], [], []
    for claim, name, value in reported[["claim", "recommender", "published"]].itertuples(index=False):
        row = {"claim": claim, "recommender": name, "ranker": ranker, "published": value}
        row |= {"replicated": change(published, claim, name, ranker)}
        row |= {"null_control": change(published, claim, name, RANDOM)}
        row |= {"explained": explained.get((claim, name, ranker))}
        row |= {"cross_ranker": NOT_RUN if ask is None else "llm, chosen way"}
        row |= {"cross": np.nan if ask is None else change(fresh, claim, name, ask)}
        rows.append(
            row | {"cross_null": change(fresh, claim, name, RANDOM), "cross_bar": change(fresh, claim, name, bar)}
        )
        if ask is not None:
            own.append(Compared(claim, OWN, name, difference(fresh, claim, name, ask, OWN)))
            over.append(Compared(claim, BAR, name, difference(fresh, claim, name, ask, bar)))
    table, keys = pd.DataFrame(rows), ["claim", "recommender"]
    shown = [*keys, "n", "mean", "low", "high", "smallest_detectable", "verdict"]
    called = {"ranker": "claim", "group": "recommender"}
    of_own, of_bar = (families.judge("claims", one).rename(columns=called)[shown] for one in (own, over))
    of_bar = of_bar.drop(columns=["n", "smallest_detectable"])
    table = table.merge(of_own, "left", keys).merge(of_bar, "left", keys, suffixes=("", "_bar"))
    said = {"n": 0, "verdict": verdicts.CANNOT_TELL, "verdict_bar": verdicts.CANNOT_TELL}
    return table.fillna(said).astype({"n": int})


# --- the paper's table ------------------------------------------------------------------------------------------------


def table2(
    protocol: Protocol, published: pd.DataFrame, recommenders: Sequence[str], rankers: Sequence[str]
) -> pd.DataFrame:
    """The paper's Table 2 cell by cell: what it prints, what we find, and how much of each gain a random order has.

    Args:
        protocol: the published one.
        published: recommender, group ("all", "weak"), recommender_alone, with_gpt_35, with_mixtral; empty for a
            dataset that is not in the paper.
        recommenders: a row for each, and each group.
        rankers: whose AUC to show beside the recommender's; the first is the language model's.

    Returns:
        recommender, group, users (with a pair), the paper's three columns (``paper_*``), ours alone and with each
        ranker, and ``random_share``: the gain of a random order over that of the first ranker. For weak users also
        ``paper_random_share``: how much of the paper's own gain (GPT-3.5) an order of AUC 0.5 would give.
    """
    paper = published.set_index(["recommender", "group"]).add_prefix("paper_")
    columns = ("paper_recommender_alone", "paper_with_gpt_35", "paper_with_mixtral")
    rows = []
    for name in recommenders:
        weak = protocol.groups["weak"].query("recommender == @name")
        for group, members in (("all", protocol.groups["everybody"].query("recommender == @name")), ("weak", weak)):
            row: dict[str, Any] = {"recommender": name, "group": group, **dict.fromkeys(columns, np.nan)}
            row |= paper.loc[(name, group)].to_dict() if (name, group) in paper.index else {}
            means = {}
            for ranker in (OWN, *rankers, RANDOM):
                found = cross.quality(protocol.lists, cross.hybrid(members, weak, ranker), None)
                means[ranker] = found["auc"].mean()
            row |= {"users": len(found), "recommender_alone": means.pop(OWN), **means}
            gain, coins = (row[one] - row["recommender_alone"] for one in (rankers[0], RANDOM))
            row["random_share"] = coins / gain if gain else np.nan
            row["paper_random_share"] = paper_share(row, "paper_with_gpt_35") if group == "weak" else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def paper_share(row: Mapping[str, float] | pd.Series, model: str, alone: str = "paper_recommender_alone") -> float:
    """How much of a gain that the paper prints for weak users an order of AUC 0.5 would give."""
    return (0.5 - row[alone]) / (row[model] - row[alone])


def weak_cells(published: pd.DataFrame) -> pd.DataFrame:
    """The paper's AUCs of weak users, each beside a random order's.

    Args:
        published: dataset, recommender, group, recommender_alone, with_gpt_35, with_mixtral.

    Returns:
        dataset, recommender, model, before, after, random_order (0.5), random_share: what a random order would gain,
        as a share of what the paper's model gains.
    """
    weak = published[published["group"] == "weak"].drop(columns="group")
    long = weak.melt(["dataset", "recommender", "recommender_alone"], var_name="model", value_name="after")
    long = long.rename(columns={"recommender_alone": "before"}).assign(random_order=0.5)
    long["random_share"] = [paper_share(row, "after", "before") for _, row in long.iterrows()]
    long["model"] = long["model"].map({"with_gpt_35": "GPT-3.5", "with_mixtral": "Mixtral"})
    return long[["dataset", "recommender", "model", "before", "after", "random_order", "random_share"]]


def cost_claims(share: pd.DataFrame, recommender: str) -> pd.DataFrame:
    """The fourth claim, no disproportionate cost: the share of the work next to the share of users routed.

    Args:
        share: ranker, calls, prompt_tokens: what routing weak users takes, as a share of routing everybody.
        recommender: whose weak users they are.

    Returns:
        Rows for the claims table: replicated is the share of tokens, which do not depend on the machine;
        null_control is the share of calls. Prompt tokens are those computed; cached ones are left out.
    """
    rows = share.rename(columns={"prompt_tokens": "replicated", "calls": "null_control"})
    in_proportion = rows["replicated"] <= rows["null_control"]
    said = np.where(
        in_proportion,
        "holds: by arithmetic, for any choice of users as small and as sparse",
        "does not hold: a larger share of the work than of the users",
    )
    rows = rows.assign(claim="cost in proportion", recommender=recommender, verdict=said)
    return rows[["claim", "recommender", "ranker", "replicated", "null_control", "verdict"]]
