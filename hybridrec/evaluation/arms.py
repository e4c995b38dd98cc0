"""The controls of protocol ``cross``: what a language model has to beat, each built without the fold it is judged on.

Scores are arrays as ``lists`` describes them. Whatever is chosen or learned for test fold k comes from the other folds;
whatever is chosen or learned for scores of another fold j, which decide in their turn, comes from all but j and k.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from hybridrec.errors import ScoresError
from hybridrec.evaluation.lists import Lists, Scores

POPULARITY, ITEM_MEAN = "popularity", "item-mean"
TF_IDF, EMBEDDING, STACK = "tf-idf", "sentence-embedding", "stack"
_DECIMALS = 8  # of a score: what lies behind them differs from processor to processor, and would break ties
_RIDGE = 0.01  # times the mean square of a score: decides between recommenders that agree
_WORD = r"(?u)\b\w\w+\b"


# --- controls that know nothing of the user ---------------------------------------------------------------------------


def popularity(lists: Lists) -> np.ndarray:
    """How many ratings each item has outside the folds that may not be known. Shape (folds, rows)."""
    return _known_sums(lists, np.ones(len(lists.table)))


def item_mean(lists: Lists) -> np.ndarray:
    """Each item's mean rating outside the folds that may not be known; where there is none, the mean of all of them."""
    ratings = lists.table["rating"].to_numpy()
    sums, counts = _known_sums(lists, ratings), popularity(lists)
    by_fold = np.stack([np.bincount(lists.fold, ratings, lists.folds), np.bincount(lists.fold, minlength=lists.folds)])
    total, number = (_without(lists, part[None], np.zeros(len(lists.fold), int)) for part in by_fold)
    return (np.where(counts > 0, sums, total) / np.where(counts > 0, counts, number)).round(_DECIMALS)


def _known_sums(lists: Lists, values: np.ndarray) -> np.ndarray:
    """The sum of a value over the ratings of each row's item outside the folds that may not be known."""
    place = lists.item * lists.folds + lists.fold
    sums = np.bincount(place, values, len(lists.items) * lists.folds).reshape(-1, lists.folds)
    return _without(lists, sums, lists.item)


def _without(lists: Lists, by_fold: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Sums by fold, shape (things, folds), over all folds but the test's and the row's own.

    Args:
        lists: the lists.
        by_fold: the sums.
        at: for each row its thing.

    Returns:
        Shape (folds, rows).
    """
    rows = by_fold[at]
    own = rows[np.arange(len(at)), lists.fold]
    return np.stack([
        rows.sum(axis=1) - own - np.where(lists.fold == test, 0, rows[:, test]) for test in range(lists.folds)
    ])  # fmt: skip


# --- controls that read titles ----------------------------------------------------------------------------------------


def texts(items: pd.DataFrame) -> list[str]:
    """What is read of each item: its title, and its genres where they are known.

    Args:
        items: title, genres.
    """
    return [f"{title}: {genres}" if genres else title for title, genres in items[["title", "genres"]].to_numpy()]


def tf_idf(documents: Sequence[str]) -> sparse.csr_array:
    """TF-IDF vectors of unit length, shape (documents, words): words of two letters or more, in lower case.

    A word's weight is its number in the text times ln((1 + n) / (1 + n with the word)) + 1.

    Source: Salton & Buckley 1988; smoothed as in scikit-learn's TfidfVectorizer, which gives the same numbers.
    """
    words = pd.Series(documents).str.lower().str.findall(_WORD).explode().dropna()
    number, vocabulary = pd.factorize(words, sort=True)
    shape = (len(documents), len(vocabulary))
    counts = sparse.coo_array((np.ones(len(words)), (words.index.to_numpy(), number)), shape).tocsr()
    counts.sum_duplicates()
    having = np.bincount(counts.indices, minlength=shape[1])
    weighted = counts * (np.log((1 + shape[0]) / (1 + having)) + 1)
    length = np.sqrt((weighted**2).sum(axis=1))
    return sparse.csr_array(weighted / np.where(length > 0, length, 1)[:, None])


def similarity(lists: Lists, items: Sequence[Any] | pd.Series, vectors: np.ndarray | sparse.csr_array) -> np.ndarray:
    """How much more an item resembles what the user liked than what the user did not like.

    Mean inner product with the liked items of the user's history, minus the mean with the others, both outside the
    folds that may not be known. A user without one of the two has that mean as 0.

    Args:
        lists: the lists.
        items: the ids that the rows of ``vectors`` belong to.
        vectors: of unit length, so that an inner product is a cosine; shape (items, dimensions), dense or sparse.

    Returns:
        Shape (folds, rows).

    Raises:
        ScoresError: a rated item has no vector.
    """
    at = pd.Index(items).get_indexer(lists.items)
    if (at < 0).any():
        raise ScoresError(f"item {lists.items.tolist()[at.argmin()]!r} has no vector: give one for each rated item.")
    vectors, found = vectors[at], np.empty((lists.folds, len(lists.table)))
    every = np.arange(lists.folds)
    for rows in _of_each_user(lists):
        own, fold, relevant = vectors[lists.item[rows]], lists.fold[rows], lists.relevant[rows]
        like = own @ own.T
        like = like.toarray() if sparse.issparse(like) else like
        known = (every != every[:, None])[:, None] & (every != fold[:, None])  # for each test and row, the folds
        means = []
        for liked in (relevant, ~relevant):
            history = (liked[:, None] & (every == fold[:, None])).astype(float)
            counts = (known * history.sum(axis=0)).sum(axis=2)
            means.append((known * (like @ history)).sum(axis=2) / np.maximum(counts, 1))
        found[:, rows] = means[0] - means[1]
    return found.round(_DECIMALS)


def _of_each_user(lists: Lists) -> list[np.ndarray]:
    """The rows of each user."""
    order = np.argsort(lists.user, kind="stable")
    return np.split(order, np.cumsum(np.bincount(lists.user))[:-1])


# --- controls made of recommenders ------------------------------------------------------------------------------------


def stack(lists: Lists, recommenders: Scores) -> tuple[np.ndarray, pd.DataFrame]:
    """All recommenders in one: the weighted sum of their scores that best tells liked items from others in a list.

    Weights come from a ridge regression of relevance on scores, both centred in their list, in which every list that
    has a pair counts once: Fisher's discriminant within lists. A recommender's scores are divided by their spread
    within lists, which no label goes into.

    Weights for fold j are learned on scores that models without a third fold gave, and these models have seen fold j;
    so they are only out of fold by the labels that they are fitted to. Nothing here has seen the test fold.

    Args:
        lists: the lists.
        recommenders: their scores; for a test fold either all have one for every row, or none has any.

    Returns:
        Scores, shape (folds, rows); NaN for a test fold that no recommender has scored. Weights: test, fold, ranker,
        weight; used for that fold's scores.

    Raises:
        ScoresError: a recommender lacks a score.

    Source: stacking, Wolpert 1992; Breiman 1996.
    """
    names = list(recommenders)
    liked = _centred(lists, lists.relevant.astype(float))
    worth = np.where(lists.n_pairs > 0, 1 / np.bincount(lists.list), 0)[lists.list]
    found, weights = np.full((lists.folds, len(lists.table)), np.nan), []
    for test in _scored_tests(recommenders):
        scores = np.stack([_standard(lists, recommenders[name][test]) for name in names], axis=1)
        products, sides = [], []
        for fold in range(lists.folds):
            rows = lists.fold == fold
            weighted = scores[rows] * worth[rows, None]
            products.append(weighted.T @ scores[rows])
            sides.append(weighted.T @ liked[rows])
        for fold in range(lists.folds):
            known = lists.others(test, fold)
            square, side = np.array(products)[known].sum(axis=0), np.array(sides)[known].sum(axis=0)
            penalty = _RIDGE * square.trace() / len(names)
            weight = np.linalg.solve(square + (penalty or 1) * np.eye(len(names)), side)
            rows = lists.fold == fold
            found[test, rows] = scores[rows] @ weight
            weights.append(pd.DataFrame({"test": test, "fold": fold, "ranker": names, "weight": weight}))
    return found.round(_DECIMALS), pd.concat(weights, ignore_index=True)


def _scored_tests(recommenders: Scores) -> np.ndarray:
    """The test folds that there are scores for."""
    scored = np.any([~np.isnan(values).all(axis=1) for values in recommenders.values()], axis=0)
    for name, values in recommenders.items():
        if lacking := int(np.isnan(values[scored]).sum()):
            raise ScoresError(f"{name} has no score for {lacking:,} rows of protocol cross: score all of them.")
    return np.flatnonzero(scored)


def _centred(lists: Lists, values: np.ndarray) -> np.ndarray:
    """Values minus their mean in each list."""
    return values - (np.bincount(lists.list, values) / np.bincount(lists.list))[lists.list]


def _standard(lists: Lists, values: np.ndarray) -> np.ndarray:
    """Values centred in each list, in units of their spread within the lists of each fold."""
    centred = _centred(lists, values)
    spread = np.sqrt(np.bincount(lists.fold, centred**2) / np.bincount(lists.fold))[lists.fold]
    return np.divide(centred, spread, out=np.zeros(len(values)), where=spread > 0)
