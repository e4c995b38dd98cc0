"""Protocol ``cross`` judged: from scores of every fold to one quality a user, and to differences between rankers.

A list is what a user rated of a fold. It is judged by rankers that never saw the fold (rows with fold == test); all
that decides for a test fold (the bar, how a language model is asked) reads rows with fold != test, which are scored
without both folds.

What is averaged is the hand-over: a user in a test fold in which the user is routed. Each counts once; recommenders
that route the same user in the same fold share it. Intervals are over users, of whom one may have as many hand-overs as
there are folds (``verdicts.judge`` with weights). Averaging each user's folds first, and then the users, would be
wrong: whoever did well in fold k by luck is not routed for the other folds, so that lucky fold would count as all there
is of the user. On ml-100k this makes the recommender that routes look better by 0.06 to 0.11 AUC than it is.

How the pieces are called, from ``folds.candidates``, scores (``SCORES``) and the triage of protocol ``cross``:

    lists = cross.lists(pd.concat([scores, cross.random_order(candidates)]), candidates)
    group = cross.groups(triage)                             # weak, inactive, everybody, worst decile
    found = cross.primary(lists, triage, ways, controls)     # the primary comparison: found.table, found.bar, ...
    one = cross.differences(lists, group["weak"], "tf-idf", found.bar)
    two = cross.differences(lists, group["inactive"], "tf-idf", cross.OWN, metric="ndcg_at_10")
    verdicts.judge(cross.family("tf-idf", {"against the bar, weak users": one}))
    verdicts.judge(cross.family("NDCG@10", {"tf-idf, inactive users": two}, margin=0.02))
    cross.means(lists, group, ["tf-idf", cross.OWN]), cross.harm_and_benefit(lists, group["weak"], "tf-idf")
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from hybridrec.errors import ScoresError
from hybridrec.evaluation import metrics, verdicts
from hybridrec.evaluation.compare import worst_decile
from hybridrec.randomness import generator

SCORES = ["ranker", "draw", "test", "fold", "user", "item", "score"]
OWN = "recommender"  # the recommender that routes the user
RANDOM = "random"
PRIMARY = "primary"
METRICS = ("auc", "ndcg_at_10")

_DECIMALS = 9  # of a mean that decides: what lies behind them differs from processor to processor
_DRAWS = 20  # that are looked at together
_LIST = ["test", "fold", "user"]

# A ranker's name, OWN, or the ranker for each test fold (and recommender): test, recommender (or not), ranker.
Ranker: TypeAlias = str | pd.DataFrame


# --- lists ------------------------------------------------------------------------------------------------------------


def lists(scores: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """The quality of every scored list that has a pair of a relevant item and another one.

    Args:
        scores: SCORES. A ranker may lack lists, not single items of one.
        candidates: fold, user, item, relevant (``folds.candidates``).

    Returns:
        Columns ranker, draw, test, fold, user, correct (pairs in the right order, ties one half), pairs, ndcg_at_10.

    Raises:
        ScoresError: a score of no candidate, one that is NaN, or a list of which an item has none or two (names ranker,
            test fold, fold and user).

    A ranker and a few draws at a time, so that memory does not grow with their number.
    """
    labels = candidates[["fold", "user", "item", "relevant"]]
    sizes = labels.groupby(["fold", "user"]).size()
    parts = []
    for (ranker, _), rows in scores.groupby(["ranker", scores["draw"] // _DRAWS], sort=False, observed=True):
        joined = rows[["draw", *_LIST, "item", "score"]].merge(labels, how="left")
        if (strange := joined["relevant"].isna()).any():
            one = joined[strange].iloc[0]
            raise ScoresError(
                f"{ranker}, test fold {one['test']}: user {one['user']} has no candidate {one['item']} in fold "
                f"{one['fold']}. Score the candidates as they were divided."
            )
        found = metrics.per_list(joined.astype({"relevant": bool}), ["draw", *_LIST]).reset_index()
        scored = joined.groupby(["draw", *_LIST]).size().to_numpy()  # sorted by the same keys
        size = sizes.reindex(pd.MultiIndex.from_frame(found[["fold", "user"]])).to_numpy()
        if (torn := scored != size).any():
            one = found[torn].iloc[0]
            raise ScoresError(
                f"{ranker}, test fold {one['test']:g}: {scored[torn][0]} scores for the {size[torn][0]} items of user "
                f"{one['user']} in fold {one['fold']:g} ({torn.sum()} such lists). Score each item of a list once, or "
                "leave out the list."
            )
        parts.append(found[found["pairs"] > 0].assign(ranker=ranker))
    columns = ["ranker", "draw", *_LIST, "correct", "pairs", "ndcg_at_10"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def random_order(candidates: pd.DataFrame) -> pd.DataFrame:
    """Scores of a random order by its expectation: all tied, which every metric takes for the mean over all orders."""
    folds = sorted(candidates["fold"].unique())
    parts = [candidates[["fold", "user", "item"]].assign(ranker=RANDOM, draw=0, test=k, score=0.0) for k in folds]
    return pd.concat(parts, ignore_index=True)[SCORES]


def random_draws(candidates: pd.DataFrame, group: pd.DataFrame, seed: int, draws: int = 100) -> pd.DataFrame:
    """The same, drawn, for what an expectation cannot say: how many users a random order harms. Judged lists only.

    Args:
        candidates: fold, user, item.
        group: test, user: whose lists.
        seed: root of the draws.
        draws: how many orders of each list.
    """
    wanted = group[["test", "user"]].drop_duplicates().rename(columns={"test": "fold"})
    rows = candidates[["fold", "user", "item"]].merge(wanted).sort_values(["fold", "user", "item"])
    rows = rows.assign(ranker=RANDOM, test=rows["fold"])
    rng = generator(seed, "cross-random")
    drawn = [rows.assign(draw=draw, score=rng.random(len(rows))) for draw in range(draws)]
    return pd.concat(drawn, ignore_index=True)[SCORES]


# --- groups and choices -----------------------------------------------------------------------------------------------


def groups(triage: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Whom a comparison can be about; each is decided for a test fold on the other folds.

    Args:
        triage: recommender, test, user, performance, inactive, weak.

    Returns:
        Tables recommender, test, user: "weak" (routed), "inactive", "everybody", and "worst decile" (lowest P(u)).
    """
    keys = ["recommender", "test", "user"]
    known = triage.set_index("user").groupby(["recommender", "test"], sort=False)["performance"]
    decile = {key: worst_decile(values).to_frame(index=False) for key, values in known}
    worst = pd.concat(decile, names=keys[:2]).reset_index(keys[:2])
    named = {"weak": triage[triage["weak"]], "inactive": triage[triage["inactive"]], "everybody": triage}
    named["worst decile"] = worst
    return {name: rows[keys].reset_index(drop=True) for name, rows in named.items()}


def choose(lists: pd.DataFrame, triage: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The best of some rankers for each test fold, by the mean AUC of inactive users on the other folds.

    All inactive users decide, not the weak ones: those were picked for what their recommender did on these very folds.
    Compared are the lists that all of the rankers have scored.

    Args:
        lists: what ``lists`` returned.
        triage: test, user, inactive.
        names: the rankers; the first of equals is taken. A single one needs no lists of other folds.

    Returns:
        Columns test, ranker, auc (on the folds that decide), users (who decided).

    Raises:
        ScoresError: for a test fold there is no list that all rankers have scored.
    """
    inactive = triage.loc[triage["inactive"], ["test", "user"]].drop_duplicates()
    known = lists[(lists["fold"] != lists["test"]) & lists["ranker"].isin(names)].merge(inactive)
    wide = known.pivot_table(index=[*_LIST, "pairs"], columns="ranker", values="correct", observed=True)
    wide = wide.reindex(columns=list(names)).dropna().reset_index("pairs")
    sums = wide.groupby(["test", "user"]).sum()
    auc = sums[list(names)].div(sums["pairs"], axis=0)
    tests = pd.Index(np.sort(triage["test"].unique()), name="test")
    by_test = auc.groupby("test").mean().round(_DECIMALS).reindex(tests)
    if len(names) > 1 and (absent := by_test.isna().any(axis=1)).any():
        raise ScoresError(
            f"test fold {absent.idxmax()}: no list of another fold is scored by all of {', '.join(names)}, so there is "
            "nothing to choose by. Score some inactive users' lists of other folds, too."
        )
    best = by_test.idxmax(axis=1) if len(names) > 1 else names[0]
    users = auc.groupby("test").size().reindex(tests, fill_value=0)
    return pd.DataFrame({"ranker": best, "auc": by_test.max(axis=1), "users": users}).reset_index()


def bar(lists: pd.DataFrame, triage: pd.DataFrame, controls: Sequence[str]) -> pd.DataFrame:
    """The bar of each recommender and test fold: the best control (``choose``), never the recommender itself.

    Args:
        lists, triage: as for ``choose``; ``triage`` names the recommenders.
        controls: all that could take a language model's place; other recommenders among them.

    Returns:
        Columns recommender, test, ranker, auc, users.
    """
    names = triage["recommender"].unique()
    chosen = {name: choose(lists, triage, [one for one in controls if one != name]) for name in names}
    return pd.concat(chosen, names=["recommender"]).reset_index("recommender").reset_index(drop=True)


# --- hand-overs, and one value a user ---------------------------------------------------------------------------------


def hybrid(group: pd.DataFrame, routed: pd.DataFrame, ranker: Ranker) -> pd.DataFrame:
    """The group with the ranker of each list: ``ranker`` where the user is routed, the recommender elsewhere.

    Hand the result to ``quality`` or ``differences`` with None for a ranker.
    """
    marked = group.merge(routed[["recommender", "test", "user"]], how="left", indicator="handed")
    own, new = _ranked(group, OWN)["ranker"], _ranked(group, ranker)["ranker"]
    return group.assign(ranker=np.where(marked["handed"] == "both", new, own))


def quality(lists: pd.DataFrame, group: pd.DataFrame, ranker: Ranker | None) -> pd.DataFrame:
    """How well users are served, as a mean over their judged lists.

    Args:
        lists: what ``lists`` returned; of several draws the mean counts.
        group: recommender, test, user: the lists that count.
        ranker: by whom; None: by the column ranker of ``group``.

    Returns:
        Indexed by user: auc and ndcg_at_10 (means over folds), folds (how many the user counts with), lists, unanswered
        (how many of the lists the ranker has not scored: they keep the recommender's order). Lists without a pair are
        left out: any order of them is as good as any other.
    """
    found = _served(lists, group, ranker)
    weighted = found.assign(**{name: found[name] * found["folds"] for name in METRICS}, lists=1)
    sums = weighted.groupby("user")[[*METRICS, "folds", "lists", "unanswered"]].sum()
    return sums.assign(**{name: sums[name] / sums["folds"] for name in METRICS})


def _served(lists: pd.DataFrame, group: pd.DataFrame, ranker: Ranker | None) -> pd.DataFrame:
    """Each judged list of a group with its quality; folds is its share of the hand-over (1 / recommenders that route).

    Returns:
        Columns recommender, test, user, auc, ndcg_at_10, folds, unanswered, in the order of the group.
    """
    asked = group if ranker is None else _ranked(group, ranker)
    judged, key = lists[lists["fold"] == lists["test"]], ["ranker", "test", "user"]
    rows = asked.merge(judged[["test", "user"]].drop_duplicates())
    needed = judged[judged["ranker"].isin([*rows["ranker"].unique(), *rows["recommender"].unique()])]
    scored = needed.assign(auc=needed["correct"] / needed["pairs"]).groupby(key, observed=True)[[*METRICS]].mean()
    found, own = (rows.assign(ranker=rows[name]).merge(scored, "left", key) for name in ("ranker", "recommender"))
    unanswered = found["auc"].isna()
    found = found.where(~unanswered, own).assign(unanswered=unanswered)
    if (absent := found["auc"].isna()).any():
        one = found[absent].iloc[0]
        raise ScoresError(f"{one['recommender']} has not scored the list of user {one['user']} in fold {one['test']}.")
    return found.assign(folds=1 / found.groupby(["test", "user"])["recommender"].transform("size"))


def differences(
    lists: pd.DataFrame, group: pd.DataFrame, ranker: Ranker | None, against: Ranker, metric: str = "auc"
) -> pd.DataFrame:
    """Quality by one ranker minus quality by another, on the same lists.

    Args:
        lists, group, ranker: as for ``quality``.
        against: the other ranker, such as what ``bar`` returned; it must have scored every list.
        metric: one of METRICS.

    Returns:
        Columns user, difference, weight (in folds), lists, unanswered, for ``verdicts.judge``.

    Raises:
        ScoresError: ``against`` lacks a list.
    """
    new, old = quality(lists, group, ranker), quality(lists, group, against)
    if (absent := old["unanswered"] > 0).any():
        raise ScoresError(
            f"user {absent.idxmax()} has lists that what is compared with has not scored ({int(absent.sum())} users). "
            "Compare with a ranker that has scored every list, or restrict the group to those."
        )
    found = new.assign(difference=new[metric] - old[metric], weight=new["folds"])
    return found[["difference", "weight", "lists", "unanswered"]].reset_index()


def harm_and_benefit(lists: pd.DataFrame, group: pd.DataFrame, ranker: str, against: Ranker = OWN) -> dict[str, float]:
    """How many users there are, and the shares of hand-overs in which the AUC falls and rises: means over draws.

    For a random order hand over lists of drawn orders (``random_draws``); its expectation harms whoever is above 1/2.
    """
    of_ranker = lists["ranker"] == ranker
    old, others = _served(lists, group, against), lists[~of_ranker]
    draws = [_served(pd.concat([others, rows]), group, ranker)["auc"] for _, rows in lists[of_ranker].groupby("draw")]
    change = np.round([new - old["auc"] for new in draws], _DECIMALS)
    rates = {"harm": (change < 0).mean(axis=0), "benefit": (change > 0).mean(axis=0)}
    return {"users": old["user"].nunique()} | {name: _mean(rate, old["folds"]) for name, rate in rates.items()}


def means(lists: pd.DataFrame, groups: Mapping[str, pd.DataFrame], rankers: Sequence[str]) -> pd.DataFrame:
    """Mean AUC and NDCG@10 over hand-overs, for each group, recommender (and "all", pooled) and ranker.

    Returns:
        Columns group, recommender, ranker, users, folds (hand-overs), auc, ndcg_at_10, unanswered (lists).
    """
    rows = []
    for name, group in groups.items():
        for recommender, own in [("all", group), *group.groupby("recommender", sort=False)]:
            for ranker in rankers:
                found = quality(lists, own, ranker)
                row = {"group": name, "recommender": recommender, "ranker": ranker, "users": len(found)}
                row |= {"folds": round(found["folds"].sum())}
                row |= {metric: _mean(found[metric], found["folds"]) for metric in METRICS}
                rows.append(row | {"unanswered": int(found["unanswered"].sum())})
    return pd.DataFrame(rows)


def _mean(values: np.ndarray | pd.Series, weights: pd.Series) -> float:
    return float(np.average(values, weights=weights)) if len(weights) else np.nan  # nobody is no error


def family(
    name: str, comparisons: Mapping[str, pd.DataFrame], margin: float = verdicts.SMALLEST_EFFECT
) -> pd.DataFrame:
    """Differences of several comparisons as one family for ``verdicts.judge``; the margin is in units of the metric."""
    rows = pd.concat(comparisons, names=["comparison"]).reset_index("comparison")
    return rows.assign(family=name, margin=margin).reset_index(drop=True)


# --- the primary comparison -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Primary:
    """The primary comparison (docs/plan.md), and what was chosen for it.

    Attributes:
        table: one row, the columns of ``verdicts.judge`` and routed (users), lists, unanswered (of these).
        differences: one row a user.
        ask: the way to ask for each test fold, and bar: the control for each recommender and test fold (``choose``).
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    ask: pd.DataFrame
    bar: pd.DataFrame


def primary(
    lists: pd.DataFrame,
    triage: pd.DataFrame,
    ways: Sequence[str],
    controls: Sequence[str],
    asked: Collection[Hashable] | None = None,
) -> Primary:
    """The language model's best way to ask against the bar: weak users, pooled over recommenders, AUC.

    Args:
        lists: what ``lists`` returned.
        triage: of the recommenders that are pooled: recommender, test, user, performance, inactive, weak.
        ways: the rankers of the language model; the way for each test fold is chosen on the other folds.
        controls: from which the bar is chosen, on the other folds, too.
        asked: users who were asked for, where that is a sample. None: everybody.

    A list without an answer keeps the recommender's order and counts. Where most lists have none, nothing is told.
    """
    ask, best = choose(lists, triage, ways), bar(lists, triage, controls)
    routed = groups(triage)["weak"]
    if asked is not None:
        routed = routed[routed["user"].isin(asked)]
    return Primary(*against_bar(lists, routed, ask, best), ask, best)


def against_bar(
    lists: pd.DataFrame, routed: pd.DataFrame, ranker: Ranker, bar: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The primary comparison of one ranker, once the bar is known: its table and its differences (see ``Primary``)."""
    found = differences(lists, routed, ranker, bar)
    counts = {name: int(found[name].sum()) for name in ("lists", "unanswered")}
    judged = verdicts.judge(family(PRIMARY, {PRIMARY: found})).set_index("comparison").reindex([PRIMARY]).reset_index()
    nobody = {"family": PRIMARY, "n": 0, "verdict": verdicts.CANNOT_TELL}
    table = judged.fillna(nobody).astype({"n": int}).assign(routed=routed["user"].nunique(), **counts)
    if counts["unanswered"] > counts["lists"] / 2:
        table["verdict"] = verdicts.CANNOT_TELL
    return table, found


# --- who ranks whom -------------------------------------------------------------------------------------------------


def _ranked(group: pd.DataFrame, ranker: Ranker) -> pd.DataFrame:
    """The group with a column ranker: who ranks each list."""
    if isinstance(ranker, str):
        return group.assign(ranker=group["recommender"] if ranker == OWN else ranker)
    keys = [key for key in ("recommender", "test") if key in ranker]
    found = group.drop(columns="ranker", errors="ignore").merge(ranker[[*keys, "ranker"]], how="left", on=keys)
    if (absent := found["ranker"].isna()).any():
        one = found[absent].iloc[0]
        raise ScoresError(f"no ranker is chosen for {one['recommender']}, test fold {one['test']}.")
    return found.set_axis(group.index)
