"""Does training repair what routing cannot? Recommenders trained for badly served users, judged as the others are.

Their scores are made under protocol ``cross`` by the same code, on the same folds and with as many settings to choose
from. They are no setting of an experiment: neither the bar nor the stack knows of them.
"""

import pandas as pd

from hybridrec.evaluation import arms
from hybridrec.evaluation import cross as evaluation
from hybridrec.evaluation.cross import OWN, RANDOM
from hybridrec.evaluation.lists import Lists
from hybridrec.recommenders import cross, robust
from hybridrec.study import cross_arms, families, paths
from hybridrec.study.config import compared_recommenders
from hybridrec.study.names import BAR, OWN_RECOMMENDER, RANDOM_ORDER
from hybridrec.weak_users.cross import cross_triage

WORST_OF_PLAIN = f"worst decile of {robust.PLAIN}"
RIVALS = [robust.CVAR, robust.GROUP_DRO, robust.RERANKED]
MADE = [robust.PLAIN, *RIVALS]  # here; verdicts on them are corrected together, and those on all others
_OVER = {"plain": robust.PLAIN, "stack": arms.STACK}
COLUMNS = [
    *("group", "ranker", "n", "auc", "auc_low", "auc_high"),
    *(f"over_{name}{part}" for name in _OVER for part in ("", "_low", "_high", "_smallest_detectable", "_verdict")),
]


def scores(
    divided: pd.DataFrame, items: pd.DataFrame, triage: pd.DataFrame, like_threshold: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tune and fit a matrix factorisation for each objective, and re-rank the ordinary one, under protocol ``cross``.

    Fits are kept in this repository's cache.

    Args:
        divided: user, item, rating, fold (the table cross_ratings).
        items: the catalogue.
        triage: test, user, inactive (the table cross_triage): inactive users are those whom the re-ranking favours.
        like_threshold: a rating at or above it makes an item relevant.
        seed: the root of every random stream.

    Returns:
        Tuning (``cross.TUNED``), and scores (``cross.COLUMNS``) of MADE; of the re-ranking the
        judged rows (fold == test) alone.
    """
    study = robust.Study(divided, items["item"].to_numpy(), like_threshold, seed, cache=paths.CACHE)
    tuning = cross.tune(study, list(robust.RISKS))
    found = cross.scores(study, tuning)
    lists, inactive = Lists(divided, like_threshold), triage.loc[triage["inactive"], ["test", "user"]]
    own = lists.read(found[found["ranker"] == robust.PLAIN])[robust.PLAIN]
    reranked, _ = robust.rerank(lists, own, arms.item_mean(lists), inactive.drop_duplicates())
    return tuning, pd.concat([found, lists.write({robust.RERANKED: reranked})], ignore_index=True)


def table(
    rivals: pd.DataFrame,
    recommenders: pd.DataFrame,
    divided: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.DataFrame,
    triage: pd.DataFrame,
    like_threshold: float,
) -> pd.DataFrame:
    """Whom does each objective serve, beside the ordinary one, the stack and the bar?

    Groups are those of notebook 05, pooled over the paper's recommenders, each decided for a test fold on the other
    folds; and the tenth of users whom robust.PLAIN itself serves worst there, for whom CVaR is trained.

    Args:
        rivals: what ``scores`` returned.
        recommenders: the table cross_scores.
        divided, items, like_threshold: as for ``scores``.
        candidates: the table cross_candidates.
        triage: the table cross_triage.

    Returns:
        COLUMNS: mean AUC with its 95 % interval over n users; paired differences to robust.PLAIN and to the stack, with
        intervals, smallest detectable effects and verdicts, which are corrected over the rows of MADE, and over those
        of all others, for each of the two. NaN and "" where a ranker would be compared with itself.
    """
    lists, names = _lists(rivals, recommenders, divided, candidates, items, like_threshold)
    triage = triage[triage["recommender"].isin(compared_recommenders(triage["recommender"].unique()))]
    of_plain = cross_triage(rivals[rivals["ranker"] == robust.PLAIN], divided, items, like_threshold)
    bar = evaluation.bar(lists, pd.concat([triage, of_plain]), names)
    lists = lists[lists["fold"] == lists["test"]]
    groups = evaluation.groups(triage) | {WORST_OF_PLAIN: evaluation.groups(of_plain)["worst decile"]}
    rankers = {name: name for name in (*MADE, "MF", arms.STACK) if name in set(lists["ranker"])}
    rankers |= {BAR: bar, OWN_RECOMMENDER: OWN, RANDOM_ORDER: RANDOM}
    means: list[families.Compared] = []
    over: dict[tuple[str, bool], list[families.Compared]] = {
        (name, made): [] for name in _OVER for made in (True, False)
    }
    for group, rows in groups.items():
        for ranker, one in rankers.items():
            found = evaluation.quality(lists, rows, one)
            found = found.assign(difference=found["auc"], weight=found["folds"]).reset_index()
            means.append(families.Compared(ranker, "", group, found))
            for name, other in _OVER.items():
                if ranker not in (other, RANDOM_ORDER):
                    difference = evaluation.differences(lists, rows, one, other)
                    over[name, ranker in MADE].append(families.Compared(ranker, other, group, difference))
    result = _named(families.judge("means", means), "auc")[["group", "ranker", "n", "auc", "auc_low", "auc_high"]]
    for name in _OVER:
        judged = pd.concat([families.judge(f"over {name}", over[name, made]) for made in (True, False)])
        judged = _named(judged, f"over_{name}")
        columns = [one for one in COLUMNS if one.startswith(f"over_{name}")]
        result = result.merge(judged[["group", "ranker", *columns]], "left", ["group", "ranker"])
        result[f"over_{name}_verdict"] = result[f"over_{name}_verdict"].fillna("")
    return result[COLUMNS]


def _named(judged: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table of verdicts whose columns carry the name of what they are about."""
    parts = {"mean": name} | {part: f"{name}_{part}" for part in ("low", "high", "smallest_detectable", "verdict")}
    return judged.rename(columns=parts)


def _lists(
    rivals: pd.DataFrame,
    recommenders: pd.DataFrame,
    divided: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.DataFrame,
    like_threshold: float,
) -> tuple[pd.DataFrame, list[str]]:
    """The quality of every list by rivals, recommenders and controls; and the names of those that may be the bar."""
    by_fold = Lists(divided, like_threshold)
    controls, _ = cross_arms.controls(by_fold, items, cross_arms.title_embeddings(items), by_fold.read(recommenders))
    parts = [evaluation.lists(one, candidates) for one in (rivals, recommenders, evaluation.random_order(candidates))]
    parts += [evaluation.lists(by_fold.write({name: values}), candidates) for name, values in controls.items()]
    return pd.concat(parts, ignore_index=True), [RANDOM, *controls, *recommenders["ranker"].unique()]
