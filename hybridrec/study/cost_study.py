"""The steps of notebook 06: whom a service hands over, what their calls take, and what these buy for everybody."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hybridrec.evaluation import costs, cross, verdicts
from hybridrec.study import families
from hybridrec.study.names import LLM, OTHER_RECOMMENDER

WEAK, INACTIVE, EVERYBODY = "weak only", "everybody inactive", "everybody"


@dataclass(frozen=True)
class Service:
    """A service with one recommender under protocol ``cross``, and whom it could hand over.

    Attributes:
        recommender: the best where hyper-parameters were chosen.
        others: the other recommenders.
        triage: its rows.
        lists: test, user, inactive, weak, items: the lists of two items or more.
        routings: by name, the lists that are handed over.
        folds: how many test folds there are.
    """

    recommender: str
    others: list[str]
    triage: pd.DataFrame
    lists: pd.DataFrame
    routings: dict[str, pd.DataFrame]
    folds: int


def service(tuning: pd.DataFrame, triage: pd.DataFrame, candidates: pd.DataFrame) -> Service:
    """The service and its lists.

    Args:
        tuning, triage, candidates: the tables cross_tuning, cross_triage and cross_candidates.
    """
    quality = tuning[tuning["chosen"]].groupby("recommender", sort=False)["auc"].mean()
    best = str(quality.idxmax())
    own = triage[triage["recommender"] == best]
    sizes = candidates.groupby(["fold", "user"]).size().rename("items").reset_index()
    lists = own.merge(sizes[sizes["items"] > 1].rename(columns={"fold": "test"}))
    routings = {
        "nobody": lists[:0], WEAK: lists[lists["weak"]], INACTIVE: lists[lists["inactive"]], EVERYBODY: lists,
    }  # fmt: skip
    others = [str(name) for name in quality.index if name != best]
    return Service(best, others, own, lists, routings, lists["test"].nunique())


def usage(rankings: pd.DataFrame, sparsity: pd.DataFrame) -> pd.DataFrame:
    """What each call took: ranker, user, ``costs.USAGE``, inactive.

    ``likelihood-prior`` is left out: it takes what ``likelihood`` takes, and one pass over the catalogue for everybody.
    """
    calls = costs.usage_per_user(rankings[rankings["ranker"] != "likelihood-prior"])
    return calls.merge(sparsity[["user", "inactive"]])


def by_kind(calls: pd.DataFrame, endpoint: bool) -> pd.DataFrame:
    """Tokens by kind, none counted twice: computed, cached, written; and seconds.

    Args:
        calls: ``costs.USAGE``.
        endpoint: a server counts what it had cached among the prompt's tokens, a model on this machine does not.
    """
    computed = calls["prompt_tokens"] - (calls["cached_tokens"] if endpoint else 0)
    return pd.DataFrame({
        "computed": computed, "cached": calls["cached_tokens"], "written": calls["completion_tokens"],
        "seconds": calls["seconds"],
    })  # fmt: skip


def share_of_work(table: pd.DataFrame, endpoint: bool) -> pd.DataFrame:
    """What routing weak users takes as a share of routing everybody, for each way that was asked for everybody.

    Args:
        table: what ``costs.cost_table`` returned.
        endpoint: as for ``by_kind``.

    Returns:
        ranker, calls, prompt_tokens, all_tokens (cached ones, too), seconds.
    """
    totals = table.set_index(["ranker", "routing"])[["calls", *costs.USAGE]]
    read = totals["prompt_tokens"] + (0 if endpoint else totals["cached_tokens"])
    totals = totals.assign(all_tokens=read + totals["completion_tokens"])
    totals = totals[["calls", "prompt_tokens", "all_tokens", "seconds"]]
    weak, everybody = (totals.xs(routing, level="routing") for routing in (WEAK, EVERYBODY))
    return (weak / everybody).dropna().reset_index()


@dataclass(frozen=True)
class Ranked:
    """What recommenders and the language model made of the lists.

    Attributes:
        lists: what ``cross.lists`` returned.
        ways: the language model's ways to ask, of which one is chosen for each test fold.
        asked: users about whom it was asked in a test fold.
    """

    lists: pd.DataFrame
    ways: list[str]
    asked: set[Any]


def ranked(scores: pd.DataFrame, answers: pd.DataFrame, candidates: pd.DataFrame) -> Ranked:
    """All lists, by every recommender and by the language model.

    Args:
        scores, answers, candidates: the tables cross_scores, cross_answers and cross_candidates.
    """
    usable = answers[(answers["draw"] == 0) & (answers["failure"] == "")]
    deciding = set(usable.loc[usable["fold"] != usable["test"], "ranker"])
    ways = [way for way in families.WAYS if way in deciding] or list(families.WAYS[:1])
    said = usable[usable["ranker"].isin(ways)]
    asked = set(said.loc[said["fold"] == said["test"], "user"])
    return Ranked(cross.lists(pd.concat([scores, said[cross.SCORES]]), candidates), ways, asked)


def bought(of: Service, by: Ranked) -> pd.DataFrame:
    """What handing over adds to the AUC over everybody, by the language model (where asked) and the best other one.

    Args:
        of: the service.
        by: who ranked its lists.

    Returns:
        ``verdicts.judge``, of a family of its own, and arm and routing.
    """
    group = cross.groups(of.triage)
    handed = {WEAK: group["weak"], INACTIVE: group["inactive"]}
    arms: dict[str, Any] = {OTHER_RECOMMENDER: (cross.bar(by.lists, of.triage, of.others), None)}
    if by.asked:
        arms[LLM] = (cross.choose(by.lists, of.triage, by.ways), by.asked)
    found = {
        f"{arm}, {name}": costs.gain(by.lists, group["everybody"], who, ranker, users)
        for arm, (ranker, users) in arms.items()
        for name, who in handed.items()
    }
    table = verdicts.judge(cross.family("cost", found))
    table[["arm", "routing"]] = table["comparison"].str.split(", ", expand=True)
    return table


def needed(of: Service, by: Ranked) -> dict[str, float]:
    """How much weak users' lists would have to gain for everybody to gain the smallest effect of interest.

    Returns:
        weak_auc (of their lists by the recommender itself), part (their share of the lists with a pair to order) and
        needed.
    """
    group = cross.groups(of.triage)
    weak, everybody = (cross.quality(by.lists, group[name], cross.OWN) for name in ("weak", "everybody"))
    number = weak["folds"].sum()
    part = number / max(1, everybody["folds"].sum())
    return {
        "weak_auc": (weak["auc"] * weak["folds"]).sum() / number if number else float("nan"),
        "part": part,
        "needed": verdicts.SMALLEST_EFFECT / part if part else float("inf"),
    }


def cheapest_way(table: pd.DataFrame) -> str:
    """The way to ask that computes and writes the fewest tokens, of those asked for everybody where there are any.

    Args:
        table: what ``costs.cost_table`` returned.
    """
    run = table[table["run"] == "yes"]
    full = run.loc[run["routing"] == EVERYBODY, "ranker"]
    known = run[run["ranker"].isin(full)] if len(full) else run
    return str(known.groupby("ranker")[["prompt_tokens", "completion_tokens"]].sum().sum(axis=1).idxmin())


def priced(gains: pd.DataFrame, table: pd.DataFrame, way: str) -> pd.DataFrame:
    """Gains with calls, seconds and dollars of a test fold; another recommender takes none.

    Args:
        gains: ``bought``.
        table: what ``costs.cost_table`` returned.
        way: the way to ask.
    """
    spent = table[(table["ranker"] == way) & (table["run"] == "yes")]
    points = gains.merge(spent[["routing", "calls", "seconds", "usd"]], "left")
    points.loc[points["arm"] != LLM, ["calls", "seconds", "usd"]] = 0.0
    return points


def answer(of: Service, table: pd.DataFrame, share: pd.DataFrame, gains: pd.DataFrame, way: str) -> dict[str, Any]:
    """The answer in numbers, for metrics.json: the bill of weak users and of everybody, and what it buys.

    Args:
        of: the service.
        table, share, gains, way: ``costs.cost_table``, ``share_of_work``, ``bought`` and ``cheapest_way``.
    """
    spent = table[(table["ranker"] == way) & (table["run"] == "yes")]
    spent = spent.set_index("routing").reindex(list(of.routings))
    one = gains[(gains["arm"] == LLM) & (gains["routing"] == WEAK)].to_dict("records")
    gain: Mapping[str, Any] = one[0] if one else {}
    return {
        "recommender": of.recommender,
        "way": way,
        "routed_share": len(of.routings[WEAK]) / len(of.lists),
        "tokens_share": share.set_index("ranker")["all_tokens"].get(way),
        "usd_weak": spent["usd"][WEAK],
        "usd_everybody": spent["usd"][EVERYBODY],
        "calls_weak": spent["calls"][WEAK],
        "seconds_weak": spent["seconds"][WEAK],
        "gain": gain.get("mean"),
        "gain_low": gain.get("low"),
        "gain_high": gain.get("high"),
        "gain_verdict": gain.get("verdict", "not run"),
    }
