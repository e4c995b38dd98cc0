"""The published protocol as notebook 05 judges it: weak users are picked and scored on the same items."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hybridrec.evaluation import cross
from hybridrec.evaluation.cross import OWN, RANDOM
from hybridrec.study import claims, families, steps, tables
from hybridrec.study.config import PUBLISHED_MODE, compared_recommenders
from hybridrec.study.names import LLM

RANKED_BY = (OWN, LLM, RANDOM)
PICKED_ON, FRESH = ITEMS = ("picked on", "fresh")
ALL = "all"  # recommenders, each user once
# Of the table ``picked_and_fresh``.
COLUMNS = [
    *("recommender", "items", "ranked_by", "weak", "users", "auc", "low", "high"),
    *("own_less", "own_less_low", "own_less_high"),
]


@dataclass(frozen=True)
class Replication:
    """What notebooks 01 to 04 made of the published protocol.

    Attributes:
        protocol: its lists, of recommenders, ways to ask, controls, the oracle and other models ("model: way"), and
            its groups; the only test is fold 0.
        candidates: user, item, relevant: the test items.
        recommenders: those of the paper, as far as they are here.
        ways: the experiment's model's ways to ask.
        way: the paper's, where it was asked, else the first.
        notes: what is lacking, and how often an answer could not be used, in lines.
    """

    protocol: claims.Protocol
    candidates: pd.DataFrame
    recommenders: list[str]
    ways: list[str]
    way: str
    notes: list[str]


def read(experiment: str, model: str, seed: int, threshold: float) -> Replication:
    """The published protocol of an experiment, from the tables that earlier notebooks wrote.

    What an answer lacks is filled up at random. Where nothing of it can be used that is the whole order, as a
    replication would do that counts every user.

    Args:
        experiment: its name.
        model: the one asked for all inactive users.
        seed: of drawn random orders.
        threshold: t_p.

    Raises:
        MissingTableError: an earlier notebook has not run.
    """
    names = ("interactions", "candidates", "scores", "sparsity", "tuning", "rankings", "triage")
    interactions, candidates, scores, sparsity, tuning, rankings, triage = (
        tables.read(experiment, name) for name in names
    )
    everyone = list(tuning["recommender"].unique())
    three, ways = compared_recommenders(everyone), list(rankings["ranker"].unique())
    of_models = pd.concat([rankings, _named(experiment, rankings.assign(model=model))], ignore_index=True)
    labels = steps.as_one_fold(candidates)
    ranked = steps.all_rankings(scores, of_models, interactions, candidates)
    lists = cross.lists(steps.as_one_fold(ranked)[cross.SCORES], labels)
    routed = triage[(triage["protocol"] == "published") & triage["recommender"].isin(three)]
    inactive = sparsity.loc[sparsity["inactive"], "user"]
    groups = cross.groups(steps.as_one_fold(routed.assign(inactive=routed["user"].isin(inactive))))
    drawn = cross.lists(cross.random_draws(labels, groups["inactive"], seed), labels)
    silent = claims.unanswered(rankings.assign(model=model), "get a random order")
    return Replication(
        claims.Protocol(lists, drawn, groups, threshold),
        candidates,
        three,
        ways,
        PUBLISHED_MODE if PUBLISHED_MODE in ways else ways[0],
        [*steps.not_compared(everyone, ways), *silent],
    )


def _named(experiment: str, own: pd.DataFrame) -> pd.DataFrame:
    """All models' usable answers, each ranker called "model: way"."""
    others = [tables.read(experiment, f"{name}_rankings") for name in ("larger", "weak")]
    rows = pd.concat([own, *(one for one in others if len(one))])
    rows = rows[rows["failure"] == ""].drop_duplicates(["model", "ranker", "user", "item"])
    return rows.assign(ranker=rows["model"] + ": " + rows["ranker"])


# --- the items that picked them, and fresh ones -----------------------------------------------------------------------


def picked_and_fresh(
    published: Replication,
    candidates: pd.DataFrame,
    scores: pd.DataFrame,
    answers: pd.DataFrame,
    triage: pd.DataFrame,
    model: str,
) -> pd.DataFrame:
    """The published protocol's weak users, on the items that picked them and on all their other ratings.

    Fresh are the ratings of the same users that are no test items of the split. Protocol ``cross`` has scored each by
    models that have not seen its fold. Where a language model was asked there, only the lists that it answered count,
    so that everybody orders the same ones; and only users who have a pair on both sides count. A user's pairs are
    pooled over lists, the means are over users, and a user whom several recommenders call weak counts once under ALL.

    Args:
        published: the replication; the language model is asked in ``published.way`` there.
        candidates: of protocol ``cross``: fold, user, item, relevant.
        scores: of the recommenders under ``cross`` (``cross.SCORES``).
        answers: of language models under ``cross``: model, ``cross.SCORES``, failure. The model's best way to ask is
            taken, which is chosen on other folds.
        triage: of the compared recommenders under ``cross``: test, user, inactive.
        model: the experiment's own.

    Returns:
        In COLUMNS: recommender (or ALL), items (PICKED_ON, FRESH), ranked_by (RANKED_BY), weak (all whom it calls so),
        users (those of them who count), auc, low, high (95 % interval over users), and own_less,
        own_less_low, own_less_high: the recommender's own AUC less this one. No row of a language model on fresh items
        where it was not asked, and none at all where nobody is weak with a pair on both sides.
    """
    weak = published.protocol.groups["weak"][["recommender", "user"]]
    users = weak["user"].unique()
    fresh = _without(candidates[candidates["user"].isin(users)], published.candidates)
    if fresh.empty:
        return pd.DataFrame(columns=COLUMNS)
    judged = [one[(one["fold"] == one["test"]) & one["user"].isin(users)] for one in (scores, answers)]
    rows = [judged[0], judged[1][judged[1]["failure"] == ""], cross.random_order(fresh)]
    on_fresh = pd.concat([one[cross.SCORES].merge(fresh[["user", "item"]]) for one in rows], ignore_index=True)
    asked = pd.DataFrame({"test": [0], "ranker": published.way})
    values = {
        PICKED_ON: _by_user(published.protocol.lists, weak, asked),
        FRESH: _by_user(cross.lists(on_fresh, fresh), weak, _best_way(answers, candidates, triage, model)),
    }
    both = values[PICKED_ON].index.intersection(values[FRESH].index)
    if both.empty:
        return pd.DataFrame(columns=COLUMNS)
    return _means({items: found.loc[both] for items, found in values.items()}, published.recommenders, weak)


def told(table: pd.DataFrame, recommenders: Sequence[str]) -> Iterator[str]:
    """What ``picked_and_fresh`` says of all recommenders together, in lines."""
    pooled = table[table["recommender"] == ALL]
    if pooled.empty:
        yield "Nobody is weak and has a pair to order on both sides."
        return
    one = pooled.iloc[0]
    yield f"{one['users']} of the {one['weak']} weak users of {', '.join(recommenders)} have a pair on both sides."
    for row in pooled[pooled["ranked_by"] != OWN].itertuples():
        other = "a random order" if row.ranked_by == RANDOM else f"the {row.ranked_by}"
        yield (
            f"{row.items}: AUC of their recommender less that of {other} "
            f"{row.own_less:+.3f} ({row.own_less_low:+.3f} to {row.own_less_high:+.3f})"
        )


def _without(candidates: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The candidates that are none of the others' pairs of user and item."""
    marked = candidates.merge(others[["user", "item"]], how="left", indicator="found")
    return marked[marked["found"] == "left_only"].drop(columns="found")


def _best_way(answers: pd.DataFrame, candidates: pd.DataFrame, triage: pd.DataFrame, model: str) -> pd.DataFrame:
    """The model's best way to ask for each test fold, as the primary comparison chooses it: test, ranker."""
    usable = answers[(answers["model"] == model) & (answers["failure"] == "")]
    lists = cross.lists(usable[cross.SCORES], candidates)
    ways = families.existing_ways(lists)
    return cross.choose(lists, triage, ways) if ways else pd.DataFrame(columns=["test", "ranker"])


def _by_user(lists: pd.DataFrame, weak: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """AUC of each weak user by each of RANKED_BY, over the lists that all of them have ordered.

    Args:
        lists: what ``cross.lists`` returned.
        weak: recommender, user.
        asked: test, ranker: how the language model is asked; without a row, there is none.

    Returns:
        Indexed by recommender and user.
    """
    parts = {OWN: weak.assign(ranker=weak["recommender"]), LLM: asked, RANDOM: pd.DataFrame({"ranker": [RANDOM]})}
    rows = [lists.merge(who).merge(weak).assign(by=name) for name, who in parts.items() if len(who)]
    kept = [name for name, who in parts.items() if len(who)]
    keys = ["recommender", "user", "test", "pairs"]
    wide = pd.concat(rows).pivot_table(index=keys, columns="by", values="correct", observed=True)
    sums = wide.reindex(columns=kept).dropna().reset_index("pairs").groupby(level=["recommender", "user"]).sum()
    return sums[kept].div(sums["pairs"], axis=0)


def _means(values: Mapping[str, pd.DataFrame], recommenders: list[str], weak: pd.DataFrame) -> pd.DataFrame:
    """Means over users with their intervals, and what the own recommender has more."""
    rows = []
    for recommender in (ALL, *recommenders):
        every = weak if recommender == ALL else weak[weak["recommender"] == recommender]
        for items, found in values.items():
            own = found if recommender == ALL else found[found.index.get_level_values("recommender") == recommender]
            of_users = own.groupby("user").mean()
            for name in of_users:
                row = {"recommender": recommender, "items": items, "ranked_by": name}
                row |= {"weak": every["user"].nunique(), "users": len(of_users)}
                less = of_users[OWN] - of_users[name]
                rows.append(row | _mean(of_users[name], "auc", "") | _mean(less, "own_less", "own_less_"))
    return pd.DataFrame(rows, columns=COLUMNS)


def _mean(values: pd.Series, called: str, before: str) -> dict[str, float]:
    """A mean over users and its 95 % interval, by Student's t."""
    rows = values.rename("difference").reset_index().assign(weight=1, lists=1, unanswered=0)
    one = families.judge(called, [families.Compared(called, "", "", rows)]).iloc[0]
    return {called: one["mean"], f"{before}low": one["low"], f"{before}high": one["high"]}
