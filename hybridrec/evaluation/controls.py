"""Phase two: who gets whose ranking. Weak users get the ranker's scores, everyone else keeps the recommender's.

A ranker is the language model or one of the controls that take its place on exactly the same users.
"""

import numpy as np
import pandas as pd

CONTROLS = ("random", "popularity", "item-mean", "best-other")
ORACLE = "oracle (upper bound)"


def control_scores(
    known: pd.DataFrame, candidates: pd.DataFrame, rng: np.random.Generator, draws: int = 100
) -> pd.DataFrame:
    """Scores of every candidate by the controls that need neither a model nor a label of the test.

    Args:
        known: ratings before the test (train and validation).
        candidates: user, item.
        rng: for the random order, the null control.
        draws: how many random orders.

    Returns:
        Columns ranker ("random", "popularity", "item-mean"), draw, user, item, score.
    """
    ratings = known.groupby("item")["rating"]
    pairs = candidates[["user", "item"]]
    mean = candidates["item"].map(ratings.mean()).fillna(known["rating"].mean())
    count = candidates["item"].map(ratings.size()).fillna(0).astype(float)
    random = [pairs.assign(ranker="random", draw=draw, score=rng.random(len(pairs))) for draw in range(draws)]
    fixed = [pairs.assign(ranker=name, draw=0, score=s) for name, s in (("popularity", count), ("item-mean", mean))]
    return pd.concat([*random, *fixed], ignore_index=True)


def oracle_scores(candidates: pd.DataFrame) -> pd.DataFrame:
    """The perfect ranking: it reads the test labels, so it is an upper bound and never a method."""
    scores = candidates["relevant"].astype(float)
    return candidates[["user", "item"]].assign(ranker=ORACLE, draw=0, score=scores)


def best_other(tuned: pd.DataFrame) -> dict[str, str]:
    """For each recommender the best *other* one, by validation AUC: what a second recommender could do instead."""
    quality = tuned[tuned["chosen"]].set_index("recommender")["auc"]
    if len(quality) < 2:
        raise ValueError("the control best-other needs at least two recommenders: add one to the experiment.")
    return {name: quality.drop(name).idxmax() for name in quality.index}
