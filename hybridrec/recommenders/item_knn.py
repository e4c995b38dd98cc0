"""An item-based neighbourhood recommender for likes, which Cornac lacks.

Cornac's ItemKNN predicts a rating: the mean of a user's ratings of an item's neighbours. On likes alone all of these
are the same, and on ratings it retrieves items that one neighbour likes and nobody knows. Here neighbours add up.
"""

import time

import numpy as np
import pandas as pd
from scipy import sparse

from hybridrec.recommenders import fits


def similarities(likes: sparse.csr_array, k: int) -> sparse.csr_array:
    """The cosine of each two items' columns of likes, of which every item keeps its k most similar ones.

    Args:
        likes: users by items, 1 where the user likes the item.
        k: neighbours kept of each item; of equally similar ones those that come first in the catalogue.

    Returns:
        Items by items: row j holds the neighbours of item j, which a like of j recommends.
    """
    norm = np.sqrt(likes.sum(axis=0))
    unit = likes @ sparse.diags_array(1 / np.maximum(norm, 1))
    cosine = (unit.T @ unit).tocsr()
    cosine.setdiag(0)
    cosine.eliminate_zeros()
    cosine.sort_indices()
    row = np.repeat(np.arange(cosine.shape[0]), np.diff(cosine.indptr))
    # Rounded: the last bits of a cosine would decide between neighbours that are equally similar.
    order = np.lexsort((cosine.indices, -cosine.data.round(12), row))
    kept = order[np.arange(len(order)) - cosine.indptr[row] < k]
    return sparse.csr_array((cosine.data[kept], (row[kept], cosine.indices[kept])), shape=cosine.shape)


def fit_and_score(work: fits.Fit) -> dict[str, np.ndarray]:
    """What ``fits.fit_and_score`` returns, of this recommender; it takes a second or so, and is not cached.

    A user's score of an item is the sum of its similarities to the items that the user likes.

    Source: Deshpande & Karypis 2004, "Item-based top-N recommendation algorithms", sections 4.1 and 4.2 (cosine, k most
    similar items; similarities not normalised).
    """
    start = time.perf_counter()
    users, items = pd.Index(work.users), pd.Index(work.items)
    places = users.get_indexer(work.train["user"]), items.get_indexer(work.train["item"])
    likes = sparse.csr_array((np.ones(len(work.train)), places), shape=(len(users), len(items)))
    scores = (likes @ similarities(likes, work.params["k"])).tocsr()

    def score(user: int, wanted: np.ndarray | None) -> np.ndarray:
        everything = scores[[user]].toarray().ravel()
        return everything if wanted is None else everything[wanted]

    checked = fits._checked(score, work)
    found = {"scores": fits._score_pairs(checked, work)}
    found |= {} if work.seen is None else fits._retrieve(checked, work, work.seen)
    return found | {"seconds": np.array(time.perf_counter() - start)}
