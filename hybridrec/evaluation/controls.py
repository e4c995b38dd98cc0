"""The controls: simple rankings that take the language model's place on exactly the same users."""

import numpy as np
import pandas as pd

from hybridrec.errors import ScoresError

CONTROLS = ("random", "popularity", "item-mean", "best-other")
ORACLE = "oracle (upper bound)"


def ratings_of_items(known: pd.DataFrame) -> pd.DataFrame:
    """The sum and number (size) of each item's ratings, indexed by item; those of disjoint parts add up.

    ``known`` has columns item and rating.
    """
    return known.groupby("item")["rating"].agg(["sum", "size"])


def popularity(of_items: pd.DataFrame, items: pd.Series) -> pd.Series:
    """How many known ratings each item has.

    Args:
        of_items: what ``ratings_of_items`` returned of the ratings before the test.
        items: the items to score, repeated or not.

    Returns:
        One value for each of ``items``, indexed like them; 0 for an item without a rating.
    """
    return items.map(of_items["size"]).fillna(0).astype(float)


def item_mean(of_items: pd.DataFrame, items: pd.Series) -> pd.Series:
    """Each item's mean known rating; for an item without one, the mean of all ratings. Arguments as of popularity."""
    mean = of_items["sum"].sum() / of_items["size"].sum()
    return items.map(of_items["sum"] / of_items["size"]).fillna(mean)


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
    pairs, of_items = candidates[["user", "item"]], ratings_of_items(known)
    random = [pairs.assign(ranker="random", draw=draw, score=rng.random(len(pairs))) for draw in range(draws)]
    fixed = [
        pairs.assign(ranker=name, draw=0, score=control(of_items, candidates["item"]))
        for name, control in (("popularity", popularity), ("item-mean", item_mean))
    ]
    return pd.concat([*random, *fixed], ignore_index=True)


def oracle_scores(candidates: pd.DataFrame) -> pd.DataFrame:
    """The perfect ranking: it reads the test labels, so it is an upper bound and never a method."""
    scores = candidates["relevant"].astype(float)
    return candidates[["user", "item"]].assign(ranker=ORACLE, draw=0, score=scores)


def best_other(tuned: pd.DataFrame) -> dict[str, str]:
    """For each recommender the best *other* one, by validation AUC: what a second recommender could do instead."""
    quality = tuned[tuned["chosen"]].set_index("recommender")["auc"]
    if len(quality) < 2:
        raise ScoresError("the control best-other needs at least two recommenders: add one to the experiment.")
    return {name: quality.drop(name).idxmax() for name in quality.index}
