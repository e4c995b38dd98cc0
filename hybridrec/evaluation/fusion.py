"""A recommender and an arm fused: the two rankings of a list added, by a weight chosen on other folds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hybridrec.evaluation.lists import Lists, Scores

# An arm's weight beside a recommender's 1. With 0 nothing is added; from some 8 on the arm alone orders a short list.
# Halves and doubles are exact in binary, and so are ranks: equal sums are ties on every machine.
GRID = (0, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
_WEIGHTS = ["recommender", "arm", "test", "lists", "weight", "auc", "gain"]


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
    adder, chosen, found = _Adder(lists, users, grid), [], {}
    ranked = {one: ranks(lists, values) for one, values in {**arms, **recommenders}.items()}
    for recommender in recommenders:
        for arm in (one for one in arms if one != recommender):
            fused, row = adder.add(ranked[recommender], ranked[arm])
            found[name(recommender, arm)] = np.where(lists.judged, fused, np.nan)
            chosen.append(row.assign(recommender=recommender, arm=arm))
    return found, pd.concat(chosen, ignore_index=True)[_WEIGHTS]


def fuse_in_turn(
    lists: Lists,
    recommenders: Scores,
    arms: Scores,
    users: pd.DataFrame | None,
    grid: Sequence[float] = GRID,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Every recommender with several arms, one after the other: each is added to what is there by then, as in ``fuse``.

    So the last arm is given what the recommender and all other arms leave to it. The weights are those of ``fuse`` for
    one arm; for several each is chosen with those before it held fast, on the lists that all so far have ranked.

    Args:
        lists, recommenders, users, grid: as for ``fuse``.
        arms: their scores, in the order in which they are added; none is a recommender.

    Returns:
        As ``fuse``; a fusion is called "A + first + second", and a weight's ``arm`` is the one that it was chosen for.
    """
    adder, chosen, found = _Adder(lists, users, grid), [], {}
    ranked = {one: ranks(lists, values) for one, values in arms.items()}
    for recommender, values in recommenders.items():
        fused = ranks(lists, values)
        for arm, other in ranked.items():
            fused, row = adder.add(fused, other)
            chosen.append(row.assign(recommender=recommender, arm=arm))
        found[" + ".join([recommender, *arms])] = np.where(lists.judged, fused, np.nan)
    return found, pd.concat(chosen, ignore_index=True)[_WEIGHTS]


class _Adder:
    """Adds ranks by weights that were chosen on the folds that decide."""

    def __init__(self, lists: Lists, users: pd.DataFrame | None, grid: Sequence[float]) -> None:
        self.lists, self.weights, self.mask = lists, np.sort(grid), lists.mask(users)
        self.deciding = ~lists.judged & self.mask[:, lists.user] & (lists.n_pairs > 0)[lists.list]

    def add(self, own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        """Their sum, NaN where either is, and for each test fold: lists, weight, auc, gain."""
        lists, mask = self.lists, self.mask
        rows = self.deciding & ~np.isnan(own) & ~np.isnan(other)
        auc = np.stack([lists.decided(lists.correct(own + weight * other, rows), mask) for weight in self.weights])
        auc = np.diagonal(auc, axis1=1, axis2=2)  # what decides on judged scores; shape (weights, folds)
        best = np.where(np.isnan(auc), -1, auc).argmax(axis=0)
        weight = np.where(np.isnan(auc[0]), 0, self.weights[best])
        reached = np.take_along_axis(auc, best[None], axis=0)[0]
        decided = [len(np.unique(lists.list[one])) for one in rows]
        row = {"test": range(lists.folds), "lists": decided, "weight": weight, "auc": reached, "gain": reached - auc[0]}
        return own + weight[:, None] * other, pd.DataFrame(row)
