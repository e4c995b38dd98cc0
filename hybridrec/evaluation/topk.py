"""The protocol ``top-k``: a recommender retrieves from the whole catalogue, and inactive users' lists are re-ranked.

A list holds the recommender's N best unseen items. Test likes that it does not hold count as ranked behind it, so no
re-ranking can find them, and NDCG and recall are those of the whole catalogue.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from hybridrec.errors import ScoresError
from hybridrec.evaluation import controls, metrics, verdicts
from hybridrec.evaluation.controls import CONTROLS, ORACLE
from hybridrec.evaluation.statistics import POOLED

# So many items are retrieved beyond a list, and scored with it: if another machine's fit moves an item up into the
# list, a recording of its score is there already.
SPARE = 10
METRICS = ("ndcg_at_10", "recall_at_10", "hit_rate_at_10")
FUSED = " + recommender"  # after the name of a ranker whose order is fused with the list's own
BARS = (*CONTROLS, f"popularity{FUSED}", f"item-mean{FUSED}")  # what a language model has to beat
SMALLEST_EFFECT = 0.02  # NDCG@10 that matters: what docs/plan.md takes for it elsewhere

_OVER = ("recommender", "bar")
_OF_VERDICT = ("low", "high", "smallest_detectable", "p_holm", "verdict")
_DECIMALS = 9  # of a mean that decides: what lies behind them differs from processor to processor


def titles(retrieved: pd.DataFrame) -> pd.DataFrame:
    """All that was retrieved for a user by any recommender, each item once.

    Args:
        retrieved: user, item; any number of recommenders.

    Returns:
        Columns user, item, position (0-based, by item).
    """
    once = retrieved[["user", "item"]].drop_duplicates().sort_values(["user", "item"], ignore_index=True)
    return once.assign(position=once.groupby("user").cumcount())


def judge(lists: pd.DataFrame, likes: pd.DataFrame, recommender: str = "the recommender") -> pd.DataFrame:
    """NDCG@10, Recall@10 and HR@10 of ranked lists.

    Args:
        lists: user, item, score, higher is better; ties count with their expectation.
        likes: user, item: what each user liked in the test. Users without a like are left out.
        recommender: whose lists they are, for an error.

    Returns:
        Columns METRICS, indexed by user: those with a like.

    Raises:
        ScoresError: a user with a like has no list, and leaving it out would change every mean (names both).
    """
    _refuse_absent(likes["user"], lists["user"], recommender)
    mine = lists.loc[lists["user"].isin(likes["user"])]
    rows = mine[["user", "item", "score"]].merge(
        likes[["user", "item"]].assign(relevant=True), "outer", on=["user", "item"]
    )
    rows["relevant"] = rows["relevant"].eq(True)
    rows["score"] = rows["score"].fillna(-np.inf)
    found = [metrics.ndcg_at_k(rows), metrics.recall_at_k(rows), metrics.hit_rate_at_k(rows)]
    return pd.concat(found, axis=1)[list(METRICS)]


def _refuse_absent(users: pd.Series | pd.Index, listed: pd.Series | pd.Index, recommender: str) -> None:
    absent = pd.Index(users).unique().difference(pd.Index(listed))
    if len(absent):
        raise ScoresError(
            f"user {absent[0]} has likes in the test and no list of {recommender}"
            f"{f' (nor have {len(absent) - 1} more users)' if len(absent) > 1 else ''}. Retrieve a list for every user "
            "with candidates."
        )


def fused(ranked: pd.DataFrame, constant: int = 60) -> pd.DataFrame:
    """Lists ordered by their own order and a ranker's together: reciprocal rank fusion.

    Args:
        ranked: user, position (0-based, in the list), item, score (the ranker's, higher is better).
        constant: how little the first places count more than later ones.

    Returns:
        The same with another score: 1 / (constant + place in the list) + 1 / (constant + the ranker's place), places
        from 1 on; items that the ranker ties share the mean of their places.

    Source: Cormack, Clarke & Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods"; 60 is theirs.
    """
    place = ranked.groupby("user")["score"].rank(ascending=False)
    return ranked.assign(score=1 / (constant + 1 + ranked["position"]) + 1 / (constant + place))


def rerankings(own: pd.DataFrame, known: pd.DataFrame, likes: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """A recommender's lists in its own order, in that of each control, fused with two of them, and in the oracle's.

    Args:
        own: user, position, item: the retrieved lists.
        known: ratings before the test.
        likes: user, item: read by the oracle alone.

    The random order is all items tied: what METRICS make of ties is their mean over all orders.
    """
    yield "recommender", own.assign(score=-own["position"].astype(float))
    yield "random", own.assign(score=0.0)
    for name, control in (("popularity", controls.popularity), ("item-mean", controls.item_mean)):
        ranked = own.assign(score=control(controls.ratings_of_items(known), own["item"]))
        yield name, ranked
        yield name + FUSED, fused(ranked)
    liked = pd.MultiIndex.from_frame(likes[["user", "item"]])
    yield ORACLE, own.assign(score=pd.MultiIndex.from_frame(own[["user", "item"]]).isin(liked).astype(float))


def quality(
    retrieved: pd.DataFrame, known: pd.DataFrame, likes: pd.DataFrame, best_other: Mapping[str, str],
    of_model: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    """Every recommender's lists under every ranker, user by user.

    The language model's order takes the place of the list's, and is also fused with it (its name, then FUSED). The
    control "best-other" is the other recommender's own list: what a service would show instead.

    Args:
        retrieved: recommender, user, position, item.
        known, likes: as in ``rerankings``.
        best_other: the best other recommender of each.
        of_model: ranker, user, item, score by the language model, for some users; may be empty.

    Returns:
        Columns recommender, ranker, user and METRICS.

    Raises:
        ScoresError: a user with a like whom a recommender has retrieved no list for (names both), or an item of a
            user's list that the model has not scored (names user and item).
    """
    own = {name: rows.drop(columns="recommender") for name, rows in retrieved.groupby("recommender", sort=False)}
    parts = {}
    for name, lists in own.items():
        for ranker, ranked in rerankings(lists, known, likes):
            parts[name, ranker] = judge(ranked, likes, name)
        for ranker, scored in of_model.groupby("ranker", sort=False):
            sample, ranked = likes[likes["user"].isin(scored["user"])], _scored(lists, scored, name)
            parts[name, ranker] = judge(ranked, sample, name)
            parts[name, ranker + FUSED] = judge(fused(ranked), sample, name)
    for name, other in best_other.items():
        parts[name, "best-other"] = parts[other, "recommender"]
    return pd.concat(parts, names=["recommender", "ranker"]).reset_index()


def _scored(lists: pd.DataFrame, scored: pd.DataFrame, recommender: str) -> pd.DataFrame:
    mine = lists[lists["user"].isin(scored["user"])].drop(columns="score", errors="ignore")
    ranked = mine.merge(scored[["user", "item", "score"]], "left", on=["user", "item"])
    absent = ranked[ranked["score"].isna()]
    if len(absent):
        user, item = absent[["user", "item"]].iloc[0]
        raise ScoresError(f"item {item} of {recommender}'s list for user {user} has no score of the language model.")
    return ranked


def best_others(retrieved: pd.DataFrame, likes: pd.DataFrame, users: pd.Index) -> dict[str, str]:
    """For each recommender the other one whose lists have the highest mean NDCG@10; the first of equals.

    Args:
        retrieved: recommender, user, position, item: what recommenders fitted on the training ratings retrieve.
        likes: user, item: likes of the validation.
        users: whom it is about, such as the inactive ones; who has no like there does not count.

    Raises:
        ScoresError: a single recommender, or a user with a like whom one of them has retrieved no list for.
    """
    mine = likes[likes["user"].isin(users)]
    mean = {
        name: float(judge(rows.assign(score=-rows["position"].astype(float)), mine, name)[METRICS[0]].mean())
        for name, rows in retrieved.groupby("recommender", sort=False)
    }
    if len(mean) < 2:
        raise ScoresError("the control best-other needs lists of two recommenders at least: add one to the experiment.")
    others = {name: pd.Series(mean).drop(name).fillna(0.0).round(_DECIMALS) for name in mean}
    return {name: str(quality.idxmax()) for name, quality in others.items()}


def best_bars(
    retrieved: pd.DataFrame, known: pd.DataFrame, likes: pd.DataFrame, best_other: Mapping[str, str], users: pd.Index
) -> dict[str, str]:
    """Each recommender's control of BARS with the highest NDCG@10, chosen on other lists than those of the test.

    Args:
        retrieved, likes, users: as for ``best_others``. Where no user has a like, the first of BARS is taken.
        known: the training ratings.
        best_other: the best other recommender of each (``best_others``).
    """
    nobody = pd.DataFrame(columns=["ranker", "user", "item", "score"])
    found = quality(retrieved, known, likes[likes["user"].isin(users)], best_other, nobody)
    mean = found.groupby(["ranker", "recommender"])[METRICS[0]].mean().unstack("ranker").reindex(columns=[*BARS])
    mean = mean.reindex(retrieved["recommender"].unique()).fillna(0.0).round(_DECIMALS)
    return {str(name): str(bar) for name, bar in mean.idxmax(axis=1).items()}


def comparison(
    quality: pd.DataFrame,
    users: pd.Index,
    of_model: Sequence[str],
    bars: Mapping[str, str],
    margin: float = SMALLEST_EFFECT,
) -> pd.DataFrame:
    """Every recommender x ranker on the same users, and all recommenders pooled.

    Args:
        quality: what ``quality`` returned.
        users: whom it is about, such as the inactive ones. Who has no like in the test cannot be scored.
        of_model: names of the language model's rankers; they may cover a sample of the users, and are then compared
            with the recommender and the controls on that sample. Each stands also fused with the list's own order.
        bars: the control that each recommender's rankers have to beat (``best_bars``).
        margin: NDCG@10 that matters (``verdicts.judge``).

    Returns:
        recommender, ranker, users_scored, bar, METRICS before (the recommender's own list) and after, and the gain in
        NDCG@10 over the recommender and over the bar (gain_over_recommender, gain_over_bar), each with _low, _high,
        _smallest_detectable, _p_holm and _verdict of ``verdicts.judge``. Rows of the language model are one family for
        each of the two, those of controls another. In the rows of the recommender POOLED each user stands once, with
        the mean over recommenders, each against its own bar.

    Raises:
        ScoresError: a user whom other lists are scored for, and some recommender's or control's are not.
    """
    for name in quality["recommender"].unique():
        for ranker in ("recommender", *BARS, ORACLE):  # the model's may cover a sample
            judged = quality.loc[(quality["recommender"] == name) & (quality["ranker"] == ranker), "user"]
            _refuse_absent(users.intersection(quality["user"]), judged, f"{name} ({ranker})")
    asked = [name for one in of_model for name in (one, one + FUSED)]
    wide = {
        name: {ranker: part.set_index("user")[list(METRICS)] for ranker, part in own.groupby("ranker")}
        for name, own in quality.groupby("recommender", sort=False)
    }
    compared: dict[tuple[str, str], list[pd.DataFrame]] = {}  # of the same users: recommender, ranker, bar
    for name, tables in wide.items():
        for ranker in ("recommender", *asked, *BARS, ORACLE):
            scored = users.intersection(tables[ranker].index)
            compared[name, ranker] = [tables[key].loc[scored] for key in ("recommender", ranker, bars[name])]
    for ranker in ("recommender", *asked, *BARS, ORACLE):
        parts = zip(*(compared[name, ranker] for name in wide), strict=True)
        compared[POOLED, ranker] = [pd.concat(one).groupby(level="user").mean() for one in parts]
    rows, differences = [], []
    for (name, ranker), (own, new, bar) in compared.items():
        row = {"recommender": name, "ranker": ranker, "users_scored": len(new), "bar": bars.get(name, "each one's own")}
        rows.append(row | dict(own.mean().add_suffix("_before")) | dict(new.mean().add_suffix("_after")))
        for over, reference in zip(_OVER, (own, bar), strict=True):
            gained = (new - reference)[METRICS[0]].rename("difference").rename_axis("user").reset_index()
            family = f"{over}, {'language model' if ranker in asked else 'controls'}"
            differences.append(gained.assign(comparison=f"{name}, {ranker}", family=family, margin=margin))
    return pd.concat([pd.DataFrame(rows), *_gains(compared, pd.concat(differences))], axis=1)


def _gains(keys: Collection[tuple[str, str]], differences: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """For each reference the columns of the verdict, in the order of ``keys``; nobody is no verdict."""
    told = {"mean": "", **{name: f"_{name}" for name in _OF_VERDICT}}
    judged = verdicts.judge(differences)
    for over in _OVER:
        mine = judged[judged["family"].str.startswith(over)].set_index("comparison")
        mine = mine.reindex([f"{name}, {ranker}" for name, ranker in keys]).reset_index(drop=True)
        mine = mine.fillna({"verdict": verdicts.CANNOT_TELL})[[*told]]
        yield mine.set_axis([f"gain_over_{over}{suffix}" for suffix in told.values()], axis=1)
