"""A recommender and an arm fused: the two rankings of a list added, by a weight chosen on other folds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hybridrec.evaluation.lists import Lists, Scores

# An arm's weight beside a recommender's 1. With 0 nothing is added; from some 8 on the arm alone orders a short list.
# Halves and doubles are exact in binary, and so are ranks: equal sums are ties on every machine.
GRID = (0, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def name(recommender: str, arm: str) -> str:
    """What the fusion of the two is called."""
    return f"{recommender} + {arm}"


def ranks(lists: Lists, values: np.ndarray) -> np.ndarray:
    """Each score's rank in its list, the lowest 1, ties sharing their mean; NaN throughout a list that lacks a score.

    Args:
        lists: the lists.
        values: scores, shape (folds, rows).

    Returns:
        Shape (folds, rows).
    """
    by_list = pd.DataFrame(values.T).groupby(lists.list)
    lacking = np.stack([np.bincount(lists.list, np.isnan(one))[lists.list] for one in values])
    return np.where(lacking > 0, np.nan, by_list.rank().to_numpy().T)


def fuse(
    lists: Lists,
    recommenders: Scores,
    arms: Scores,
    users: pd.DataFrame | None,
    grid: Sequence[float] = GRID,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Every recommender with every arm: rank by the recommender plus weight x rank by the arm, in each list.

    The weight for test fold k has the highest mean AUC over those lists of other folds that both have ranked, be they
    few: a language model may have been asked about a sample of users and one fold only. Of equal ones the lowest is
    taken, so where nothing is gained nothing is added. Where no such list has a pair it is 0.

    Args:
        lists: the lists.
        recommenders, arms: their scores, by name; an arm may lack lists. None is fused with itself.
        users: test, user: on whom the choice of weights rests: give all inactive users, not the weak ones, who were
            picked for low AUC on the folds that decide. None: everybody.
        grid: the weights to choose from; powers of two keep ties exact.

    Returns:
        Judged scores, shape (folds, rows), by ``name``; NaN elsewhere, and where the arm has no score.
        Weights: recommender, arm, test, lists (that decided), weight, auc (their mean), gain (over weight 0).

    Source: a weighted Borda count (Aslam & Montague 2001).
    """
    weights, judged, mask = np.sort(grid), lists.judged, lists.mask(users)
    found, chosen = {}, []
    deciding = ~judged & mask[:, lists.user] & (lists.n_pairs > 0)[lists.list]
    ranked = {one: ranks(lists, values) for one, values in {**arms, **recommenders}.items()}
    for recommender in recommenders:
        for arm in (one for one in arms if one != recommender):
            own, other = ranked[recommender], ranked[arm]
            rows = deciding & ~np.isnan(own) & ~np.isnan(other)
            auc = np.stack([lists.decided(lists.correct(own + weight * other, rows), mask) for weight in weights])
            auc = np.diagonal(auc, axis1=1, axis2=2)  # what decides on judged scores; shape (weights, folds)
            best = np.where(np.isnan(auc), -1, auc).argmax(axis=0)
            weight = np.where(np.isnan(auc[0]), 0, weights[best])
            found[name(recommender, arm)] = np.where(judged, own + weight[:, None] * other, np.nan)
            reached = np.take_along_axis(auc, best[None], axis=0)[0]
            row = {"recommender": recommender, "arm": arm, "test": range(lists.folds)}
            row["lists"] = [len(np.unique(lists.list[rows[test]])) for test in range(lists.folds)]
            chosen.append(pd.DataFrame(row | {"weight": weight, "auc": reached, "gain": reached - auc[0]}))
    return found, pd.concat(chosen, ignore_index=True)
