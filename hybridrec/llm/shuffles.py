"""Position bias: the same candidates shown in several orders, and the rankings compared and combined."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hybridrec.evaluation.statistics import bootstrap_interval
from hybridrec.llm.calibration import central_order
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.tasks import Task
from hybridrec.randomness import generator

LONGEST_CENTRAL = 30  # candidates of which the central order is sought: for more that may take minutes a user


def sample(tasks: Sequence[Task], n: int, seed: int) -> list[Task]:
    """A seeded sample of ``n`` tasks that have an order to shuffle.

    They have three candidates or more; if fewer than ``n`` tasks have three, they have two or more. If fewer than ``n``
    have two, it is all of those, so the sample is smaller than ``n``: say so where that matters.

    Raises:
        ValueError: none has two.
    """
    longest = [[task for task in tasks if len(task.candidates) >= least] for least in (3, 2)]
    enough = next((long for long in longest if len(long) >= n), longest[-1])
    if not enough:
        raise ValueError("no user has 2 candidates or more, so there is no order to shuffle.")
    chosen = generator(seed, "shuffled-users").choice(len(enough), min(n, len(enough)), replace=False)
    return [enough[place] for place in sorted(chosen)]


def shuffled(task: Task, number: int, seed: int) -> Task:
    """The task with its candidates in another seeded order; number 0 is the order it has."""
    if number == 0:
        return task
    order = generator(seed, "shuffle", number, task.user).permutation(len(task.candidates))
    return replace(
        task,
        candidates=tuple(task.candidates[place] for place in order),
        items=tuple(task.items[place] for place in order),
    )


def borda(rankings: Sequence[Ranking]) -> pd.Series:
    """One score per item from several rankings of one user's candidates: the mean number of items ranked below it.

    Returns:
        The scores, indexed by item.

    Source: de Borda 1784; used to steady LLM rankers by Hou et al. 2024, section 4.2.
    """
    points = [pd.Series(ranking.scores, index=ranking.candidates).rank() - 1 for ranking in rankings]
    return pd.concat(points, axis=1).mean(axis=1)


def central(rankings: Sequence[Ranking]) -> pd.Series:
    """One score per item from several rankings of one user's candidates: the order that is closest to all of them.

    Returns:
        The number of items below it in ``calibration.central_order``, indexed by item. With more than LONGEST_CENTRAL
        candidates it is ``borda``.

    Source: permutation self-consistency, Tang et al. 2023.
    """
    items = rankings[0].candidates
    if len(items) > LONGEST_CENTRAL:
        return borda(rankings)
    scores = [pd.Series(one.scores, index=one.candidates).loc[list(items)].to_numpy() for one in rankings]
    order = central_order([np.argsort(-one, kind="stable").tolist() for one in scores])
    return pd.Series(np.arange(len(items))[::-1].astype(float), index=[items[place] for place in order])


def combined(
    rankings: Sequence[Sequence[Ranking]], together: Callable[[Sequence[Ranking]], pd.Series] = borda
) -> pd.DataFrame:
    """One order of each user from several, as a table: user, item, score.

    Args:
        rankings: for each shuffle the rankings of the same users.
        together: how a user's rankings become one: ``borda`` or ``central``.
    """
    scores = {user: together(of_user) for user, of_user in _by_user(rankings).items()}
    return pd.concat(scores, names=["user", "item"]).rename("score").reset_index()


def agreement(rankings: Sequence[Ranking]) -> float:
    """How alike one user's rankings are: the mean of Kendall's tau-b over all pairs, from -1 to 1 (the same order)."""
    by_item = [pd.Series(ranking.scores, index=ranking.candidates) for ranking in rankings]
    return float(np.mean([_tau(one, other.reindex(one.index)) for one, other in combinations(by_item, 2)]))


def echo(ranking: Ranking) -> float:
    """Kendall's tau-b between a ranking and the order its candidates were shown in; 1 if the ranking repeats it."""
    return _tau(pd.Series(ranking.scores), -pd.Series(range(len(ranking.scores)), dtype=float))


def echoed_exactly(ranking: Ranking) -> bool:
    """Whether an answer names every candidate, in the order shown."""
    return ranking.complete and echo(ranking) > 1 - 1e-9


def echoes(rankings: Iterable[Ranking], rng: np.random.Generator, samples: int = 2000) -> dict[str, float]:
    """How often complete answers are the order shown, against what random orders would be.

    Args:
        rankings: of one way to ask; those that are not complete (``Ranking.complete``) are left out.
        rng, samples: of the bootstrap over users.

    Returns:
        ``complete`` answers; how many of them are ``repeated`` exactly as shown; how many random orders would be
        (``expected``, the sum of 1/n! over lists of n); ``p``, the probability of so many or more of them
        (Poisson-binomial); ``tau``, the mean of Kendall's tau with the order shown, and its 95 % interval, ``low`` to
        ``high``. Without a complete answer p and tau are NaN.
    """
    whole = [ranking for ranking in rankings if ranking.complete]
    chances = [1 / math.factorial(len(ranking.candidates)) for ranking in whole]
    repeated = sum(echoed_exactly(ranking) for ranking in whole)
    taus = np.array([echo(ranking) for ranking in whole])
    low, high = bootstrap_interval(taus, rng, samples)
    # Summed from the end: the survival function is one less nearly one where all are repeated.
    tail = stats.poisson_binom(chances).pmf(np.arange(repeated, len(whole) + 1)).sum() if whole else np.nan
    return {
        "complete": len(whole),
        "repeated": repeated,
        "expected": sum(chances),
        "p": float(min(tail, 1.0)),
        "tau": float(taus.mean()) if whole else np.nan,
        "low": low,
        "high": high,
    }


def _tau(one: pd.Series, other: pd.Series) -> float:
    """Kendall's tau-b; 0 if all values of one of the two are equal."""
    tau = stats.kendalltau(one, other).statistic
    return 0.0 if np.isnan(tau) else float(tau)


def report(rankings: Sequence[Sequence[Ranking]]) -> pd.DataFrame:
    """How much the order shown decides the answer, one row a user.

    Args:
        rankings: for each shuffle the rankings of the same users.

    Returns:
        Indexed by user: ``agreement`` between shuffles and mean ``echo`` (see there), the mean share of candidates
        ``named``, and the shares of answers that are ``complete`` and that are complete and ``echoed exactly``.
    """
    columns = ["user", "agreement", "echo", "named", "complete", "echoed exactly"]
    return pd.DataFrame(list(_rows(rankings)), columns=columns).set_index("user")


def _by_user(rankings: Sequence[Sequence[Ranking]]) -> dict[Hashable, list[Ranking]]:
    by_user: dict[Hashable, list[Ranking]] = {}
    for ranking in (one for shuffle in rankings for one in shuffle):
        by_user.setdefault(ranking.user, []).append(ranking)
    return dict(sorted(by_user.items()))


def _rows(rankings: Sequence[Sequence[Ranking]]) -> Iterator[dict[str, Any]]:
    for user, of_user in _by_user(rankings).items():
        yield {
            "user": user,
            "agreement": agreement(of_user),
            "echo": float(np.mean([echo(one) for one in of_user])),
            "named": float(np.mean([1 - one.missing / len(one.candidates) for one in of_user])),
            "complete": float(np.mean([one.complete for one in of_user])),
            "echoed exactly": float(np.mean([echoed_exactly(one) for one in of_user])),
        }
