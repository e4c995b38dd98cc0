"""Calibrations of a language model's rankings, from answers that are recorded already: none asks about a user again.

* A *history-free prior* (what the model says of a title to anybody) is subtracted, with a weight that is chosen on
  triage folds.
* *Content-free calibration* subtracts what the same prompt gives with a history that says nothing (Zhao et al. 2021,
  "Calibrate Before Use", arXiv 2102.09690, section 4: p is divided by the mean of p over content-free inputs).
* *Permutation self-consistency* (Tang et al. 2023, arXiv 2310.07712) finds the order closest to several written ones.
  It is for lists: where each candidate is scored by itself, the order shown cannot matter.

The first two cost one pass over the catalogue, whatever the number of users. The third costs a written answer for each
order and user.
"""

from collections.abc import Collection, Hashable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import optimize, sparse

from hybridrec.evaluation import metrics
from hybridrec.llm import prompts, rankers, runner
from hybridrec.llm.modes import Mode
from hybridrec.llm.recordings import Recordings

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Histories that say nothing: a title that is none, and no title.
CONTENT_FREE = ((prompts.Item("N/A", liked=True),), ())


def per_token(usual: pd.DataFrame) -> pd.Series:
    """The log-likelihood per token of ``rankers.prior_of``, by item."""
    return (usual["log_prob"] / usual["length"]).rename("usual")


def content_free(
    items: pd.DataFrame,
    model: runner.Model,
    recordings: Recordings,
    noun: str,
    mode: Mode | str,
    wanted: Collection[Hashable] | None = None,
) -> pd.Series:
    """What a mode that scores titles says of each item after a history without content, per token.

    Args:
        items, model, recordings, noun, wanted: as in ``rankers.prior_of``.
        mode: the way to ask that is to be calibrated.

    Returns:
        log of the mean probability over CONTENT_FREE, divided by the number of tokens; indexed by item.

    Raises:
        What ``rankers.prior_of`` raises.
    """
    found = [rankers.prior_of(items, model, recordings, noun, wanted, mode, history) for history in CONTENT_FREE]
    mean = np.logaddexp.reduce([one["log_prob"].to_numpy() for one in found]) - np.log(len(found))
    return pd.Series(mean / found[0]["length"], index=found[0].index, name="usual")


def subtract(answers: pd.DataFrame, usual: pd.Series, weight: float | pd.Series = 1.0) -> pd.DataFrame:
    """Answers whose scores are less what the model says of the item anyway.

    Args:
        answers: item, score (log-likelihood per token), failure, ...; rows with a failure hold a random order, and stay
            as they are.
        usual: log-likelihood per token, by item: ``per_token`` or ``content_free``.
        weight: of what is subtracted; a number, or one a row.

    Raises:
        KeyError: an item of which nothing usual is known.
    """
    less = usual.loc[answers["item"]].to_numpy() * weight
    return answers.assign(score=answers["score"] - np.where(answers["failure"] == "", less, 0.0))


def weights(answers: pd.DataFrame, usual: pd.Series, tried: Sequence[float] = WEIGHTS) -> pd.DataFrame:
    """What each weight of the prior is worth on the folds that decide, for each test fold.

    Args:
        answers: test, fold, user, item, score, relevant, failure. Rows of fold == test are left out.
        usual: as in ``subtract``.
        tried: weights.

    Returns:
        Columns test, weight, users, auc (mean over users), chosen (the highest AUC; among equals the smallest weight);
        no row of a test fold for which there are no answers that decide.
    """
    known = answers[answers["fold"] != answers["test"]]
    if known.empty:
        return pd.DataFrame(columns=["test", "weight", "users", "auc", "chosen"])
    rows = []
    for weight in tried:
        pairs = metrics.auc_pairs(subtract(known, usual, weight), ["test", "fold", "user"])
        pairs = pairs.groupby(["test", "user"]).sum()
        auc = (pairs["correct"] / pairs["pairs"].where(pairs["pairs"] > 0)).dropna().groupby("test")
        rows.append(pd.DataFrame({"weight": weight, "users": auc.size(), "auc": auc.mean()}))
    table = pd.concat(rows).reset_index().sort_values(["test", "weight"], ignore_index=True)
    return table.assign(chosen=table.index.isin(table.groupby("test")["auc"].idxmax()))


def central_order(orders: Sequence[Sequence[int]]) -> list[int]:
    """The order that disagrees with the given ones in the fewest pairs (Kemeny's), exactly.

    Args:
        orders: rankings of the same places 0 .. n - 1, the best first; n up to some thirty.

    Raises:
        ValueError: they do not rank the same places.

    Source: Tang et al. 2023, section 2.2 (the central ranking), as a 0/1 programme: one variable for each pair, and no
    circle among any three.
    """
    n = len(orders[0])
    if any(sorted(order) != list(range(n)) for order in orders):
        raise ValueError("the orders do not rank the same places")
    pairs = {pair: at for at, pair in enumerate(combinations(range(n), 2))}
    if not pairs:
        return list(range(n))
    place = np.argsort(np.asarray(orders), axis=1)
    # Variable (i, j) is 1 where i stands before j; each order that says so makes that one cheaper.
    cost = np.array([(place[:, i] > place[:, j]).sum() - (place[:, i] < place[:, j]).sum() for i, j in pairs])
    threes = list(combinations(range(n), 3))
    rules = sparse.lil_array((len(threes), len(pairs)))
    for row, (i, j, k) in enumerate(threes):  # 0 <= x_ij + x_jk - x_ik <= 1
        rules[row, [pairs[i, j], pairs[j, k], pairs[i, k]]] = [1, 1, -1]
    held = optimize.LinearConstraint(rules.tocsr(), 0, 1) if threes else ()
    found = optimize.milp(cost, integrality=np.ones(len(pairs)), bounds=optimize.Bounds(0, 1), constraints=held)
    before = np.zeros(n)
    for (i, j), value in zip(pairs, np.round(found.x), strict=True):
        before[j if value else i] += 1
    return np.argsort(before, kind="stable").tolist()
