"""Metrics of all users: ours beside Cornac, ranx, Microsoft's recommenders and scikit-learn, on the same rankings.

Every peer gets its own input format ready made, outside the clock; ours gets the plain table inside it. A peer that
would take minutes gets the first users only, and ours is then timed on the same ones.
"""

import warnings
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import pandas as pd
import shapes
from scipy.sparse import csr_array

from hybridrec.evaluation import metrics

K = 10
ROUNDS = 5
KNOWN_SCORES = 30_000_000  # of whole catalogues, held for Cornac's loop
LIMIT = {"cornac": 20_000, "scikit-learn": 1_000, "recommenders": 20_000, "ranx": 20_000}  # users a peer is given


def run() -> list[dict[str, Any]]:
    """Test items of each shape, then whole catalogues."""
    rows = []
    for name in (*shapes.REAL, *shapes.SYNTHETIC):
        shape = shapes.load(name)
        rows += _test_items(shape) + _whole_catalogue(shape)
    return rows


# --- each user's own test items --------------------------------------------------------------------------------------


def _test_items(shape: shapes.Shape) -> list[dict[str, Any]]:
    rows = []
    for peer, prepare in PEERS.items():
        table = shape.first_users(LIMIT[peer])
        rankable = table.groupby("user")["relevant"].transform(lambda r: r.any() and not r.all())
        table = table[rankable].reset_index(drop=True)
        call, names = prepare(table)
        ours = metrics.per_user(table, K)
        off = agreement(ours, call(), names)
        seconds = measure.alternately({"ours": lambda t=table: metrics.per_user(t, K), peer: call}, ROUNDS)
        rows.append(_row("test items", shape, peer, table["user"].nunique(), seconds, off, ", ".join(names)))
    everybody = lambda: metrics.per_user(shape.test, K)  # noqa: E731
    seconds = measure.alternately({"ours": everybody}, ROUNDS)["ours"]
    memory = round(measure.allocated(everybody), 1)
    whole = {"ours": measure.summary(seconds), "users": shape.n_users, "peak_mib_above": memory}
    return [*rows, {"task": "test items", "shape": shape.name, "synthetic": shape.synthetic, "peer": None, **whole}]


def agreement(ours: pd.DataFrame, theirs: dict[str, Any], names: list[str]) -> float:
    """The largest difference, over users, or of the means where a peer gives no more.

    Raises:
        SystemExit: it is more than 1e-9: what is not the same is not compared.
    """
    worst = 0.0
    for name in names:
        value = ours[name].to_numpy() if np.ndim(theirs[name]) else ours[name].mean()
        worst = max(worst, float(np.max(np.abs(np.asarray(theirs[name]) - value))))
    if worst > 1e-9:
        raise SystemExit(f"{names} differ by {worst}: not the same work.")
    return worst


def _row(task: str, shape: shapes.Shape, peer: str, users: int, seconds: dict, off: float, what: str) -> dict[str, Any]:
    ours, theirs = measure.summary(seconds["ours"]), measure.summary(seconds[peer])
    ratio = round(theirs["median"] / ours["median"], 1)
    found = {"ours": ours, "theirs": theirs, "ratio": ratio, "largest_difference": off}
    about = {"task": task, "shape": shape.name, "synthetic": shape.synthetic, "peer": peer, "users": users}
    return {**about, "peer_computes": what, **found}


def _cornac(table: pd.DataFrame) -> tuple[Callable[[], dict], list[str]]:
    """Cornac's metric classes, user by user, as its evaluation calls them."""
    from cornac.metrics import AUC, NDCG, Recall

    auc, ndcg, recall = AUC(), NDCG(k=K), Recall(k=K)
    users = [(rows["score"].to_numpy(), np.flatnonzero(rows["relevant"])) for _, rows in table.groupby("user")]

    def call() -> dict[str, Any]:
        found = np.empty((len(users), 3))
        for number, (scores, liked) in enumerate(users):
            ranked = np.argsort(-scores)
            found[number] = (
                auc.compute(item_indices=np.arange(len(scores)), pd_scores=scores, gt_pos=liked),
                ndcg.compute(gt_pos=liked, pd_rank=ranked),
                recall.compute(gt_pos=liked, pd_rank=ranked),
            )
        return dict(zip(names, found.T, strict=True))

    names = ["auc", f"ndcg_at_{K}", f"recall_at_{K}"]
    return call, names


def _ranx(table: pd.DataFrame) -> tuple[Callable[[], dict], list[str]]:
    """ranx (numba, parallel), its run sorted and its code compiled beforehand; it has no AUC."""
    from ranx import Qrels, Run, evaluate

    text = table.assign(q=_words(table["user"]), d=_words(table["item"]), score=table["score"].astype(float), one=1)
    qrels, ranked = Qrels.from_df(text[text["relevant"]], "q", "d", "one"), Run.from_df(text, "q", "d", "score")
    places = np.argsort([int(query) for query in ranked.run])  # it sorts users as words

    def call() -> dict[str, Any]:
        found = evaluate(qrels, ranked, [f"ndcg@{K}", f"recall@{K}"], return_mean=False, save_results_in_run=False)
        return {f"ndcg_at_{K}": found[f"ndcg@{K}"][places], f"recall_at_{K}": found[f"recall@{K}"][places]}

    return call, [f"ndcg_at_{K}", f"recall_at_{K}"]


def _words(numbers: pd.Series) -> pd.Series:
    return numbers.astype(str).astype(object)


def _sklearn(table: pd.DataFrame) -> tuple[Callable[[], dict], list[str]]:
    """scikit-learn, user by user; it has no recall at a depth for one ranking."""
    from sklearn.metrics import ndcg_score, roc_auc_score

    users = [(rows["relevant"].to_numpy(), rows["score"].to_numpy()) for _, rows in table.groupby("user")]

    def call() -> dict[str, Any]:
        return {
            "auc": np.array([roc_auc_score(liked, scores) for liked, scores in users]),
            f"ndcg_at_{K}": np.array([ndcg_score(liked[None], scores[None], k=K) for liked, scores in users]),
        }

    return call, ["auc", f"ndcg_at_{K}"]


def _recommenders(table: pd.DataFrame) -> tuple[Callable[[], dict], list[str]]:
    """Microsoft's recommenders, its Python evaluation on data frames; it gives means, and no AUC of each user."""
    from recommenders.evaluation.python_evaluation import ndcg_at_k, recall_at_k

    names = {"user": "userID", "item": "itemID", "score": "prediction"}
    predicted = table.rename(columns=names)[[*names.values()]]
    true = table[table["relevant"]].rename(columns=names)[["userID", "itemID"]].assign(rating=1.0)
    return lambda: {
        f"ndcg_at_{K}": ndcg_at_k(true, predicted, k=K),
        f"recall_at_{K}": recall_at_k(true, predicted, k=K),
    }, [f"ndcg_at_{K}", f"recall_at_{K}"]


PEERS = {"cornac": _cornac, "ranx": _ranx, "scikit-learn": _sklearn, "recommenders": _recommenders}


# --- the whole catalogue ---------------------------------------------------------------------------------------------


def _matrix(table: pd.DataFrame, shape: shapes.Shape) -> csr_array:
    ones = np.ones(len(table), dtype=bool)
    return csr_array((ones, (table["user"], table["item"])), shape=(shape.n_users, shape.n_items))


def _whole_catalogue(shape: shapes.Shape) -> list[dict[str, Any]]:
    """All unseen items as candidates: beside Cornac's own evaluation loop for some users, then ours for all."""
    relevant, seen = _matrix(shape.test[shape.test["relevant"]], shape), _matrix(shape.known, shape)
    users = min(shape.n_users, KNOWN_SCORES // shape.n_items)
    some = {"relevant": relevant[:users], "seen": seen[:users]}
    # Float64: among so many scores in float32 a few are equal, and a tie is what Cornac counts in another way.
    scores = shape.user_factors[:users].astype(float) @ shape.item_factors.T
    call = _cornac_loop(scores, **some)
    ours = lambda: metrics.whole_catalogue(lambda rows: scores[rows], **some, k=K)  # noqa: E731
    off = agreement(ours().dropna(subset=["recall_at_10"]), call(), ["auc", f"ndcg_at_{K}", f"recall_at_{K}"])
    seconds = measure.alternately({"ours": ours, "cornac": call}, ROUNDS)
    row = _row("whole catalogue", shape, "cornac", users, seconds, off, "auc, ndcg_at_10, recall_at_10")
    about = {"task": "whole catalogue", "shape": shape.name, "synthetic": shape.synthetic, "peer": None}
    return [row, {**about, **_everybody(shape, relevant, seen)}]


def _everybody(shape: shapes.Shape, relevant: csr_array, seen: csr_array) -> dict[str, Any]:
    """Ours for all users, their scores computed on the way."""
    users, items = shape.user_factors, shape.item_factors.T

    def call(count: int = shape.n_users) -> pd.DataFrame:
        return metrics.whole_catalogue(lambda rows: users[rows] @ items, relevant[:count], seen[:count], K)

    call(100)  # compiled now: no time or memory of the work's own
    took = measure.alternately({"ours": call}, 1 if shape.synthetic else ROUNDS)["ours"]
    memory = round(measure.allocated(call), 1)
    return {"ours": measure.summary(took), "users": shape.n_users, "peak_mib_above": memory}


def _cornac_loop(scores: np.ndarray, relevant: csr_array, seen: csr_array) -> Callable[[], dict]:
    """Cornac's ``ranking_eval``, the loop behind all of its experiments, given a recommender that knows its scores."""
    from cornac.data import Dataset
    from cornac.eval_methods.base_method import ranking_eval
    from cornac.metrics import AUC, NDCG, Recall
    from cornac.models import Recommender

    class Known(Recommender):
        def score(self, user_idx: int, item_idx: int | None = None) -> Any:
            return scores[user_idx] if item_idx is None else scores[user_idx, item_idx]

    n_users, n_items = scores.shape
    ids = {number: number for number in range(n_users)}, {number: number for number in range(n_items)}

    def dataset(matrix: csr_array) -> Any:
        users, items = matrix.nonzero()
        return Dataset(n_users, n_items, *ids, (users, items, np.ones(len(users))), seed=1)

    train, test = dataset(seen), dataset(relevant)
    model = Known("scores known")
    model.fit(train)
    names = ["auc", f"ndcg_at_{K}", f"recall_at_{K}"]

    def call() -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, each = ranking_eval(model, [AUC(), NDCG(k=K), Recall(k=K)], train, test, rating_threshold=0.5)
        return {name: np.array([one[user] for user in sorted(one)]) for name, one in zip(names, each, strict=True)}

    return call
