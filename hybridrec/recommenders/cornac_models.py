"""Cornac's recommenders as this study needs them: the same models, fitted in float64, and without wasted work.

Where a class here takes the place of one of Cornac's, a test compares the two.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from cornac.data import Dataset
from cornac.models import EASE, NeuMF
from cornac.models.knn.similarity import compute_score
from cornac.models.recommender import Recommender
from scipy import linalg

# A user's scores: of the whole catalogue, or of the items at the given places in it.
Score = Callable[[int, np.ndarray | None], np.ndarray]


class QuickDataset(Dataset):
    """Cornac's dataset with negatives drawn a batch at a time instead of one by one, which took half of NeuMF's fit."""

    def uir_iter(
        self, batch_size: int = 1, shuffle: bool = False, binary: bool = False, num_zeros: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Batches of users, items and ratings; ``num_zeros`` unrated items are drawn for each rating, rated 0.

        Whoever has rated the whole catalogue has no unrated item, and gets any.
        """
        rated = self.matrix.toarray() != 0
        complete = rated.all(axis=1)
        users, items, ratings = self.uir_tuple
        for batch in self.idx_iter(len(users), batch_size, shuffle):
            drawn_for = users[batch].repeat(num_zeros)
            drawn = self.rng.randint(0, self.num_items, len(drawn_for))
            wrong = np.flatnonzero(rated[drawn_for, drawn] & ~complete[drawn_for])
            while len(wrong):
                drawn[wrong] = self.rng.randint(0, self.num_items, len(wrong))
                wrong = wrong[rated[drawn_for[wrong], drawn[wrong]]]
            values = np.ones(len(batch)) if binary else ratings[batch]
            zeros = np.zeros(len(drawn))
            yield np.r_[users[batch], drawn_for], np.r_[items[batch], drawn], np.r_[values, zeros]


def dataset(train: pd.DataFrame, users: np.ndarray, items: np.ndarray, seed: int) -> Dataset:
    """A Cornac dataset in which every user and item of the study has an index, rated in ``train`` or not.

    Args:
        train: user, item, rating.
        users, items: all ids of the study, sorted.
        seed: of what is drawn from the dataset.
    """
    uid, iid = {u: i for i, u in enumerate(users)}, {v: j for j, v in enumerate(items)}
    # np.array copies: Cornac writes through these buffers, and pandas hands out read-only views.
    columns = (
        np.array(train["user"].map(uid), dtype="int64"),
        np.array(train["item"].map(iid), dtype="int64"),
        np.array(train["rating"], dtype="float64"),
    )
    return QuickDataset(len(users), len(items), uid, iid, columns, seed=seed)


def build(cornac_class: str, seed: int, **params: Any) -> Recommender:
    """An unfitted Cornac model, quiet, seeded and single-threaded."""
    kind = UserSideEASE if cornac_class == "EASE" else getattr(importlib.import_module("cornac.models"), cornac_class)
    accepted = kind.__init__.__code__.co_varnames
    common = {"verbose": False, "seed": seed, "num_threads": 1}
    return kind(**{k: v for k, v in common.items() if k in accepted}, **params)


def scorer(model: Recommender) -> Score:
    """What gives a user's scores by a fitted model."""
    if hasattr(model, "sim_mat"):
        return _neighbourhood(model)
    if isinstance(model, NeuMF):
        return _neural(model)

    def score(user: int, places: np.ndarray | None) -> np.ndarray:
        everything = np.ravel(model.score(user)).astype(float)
        return everything if places is None else everything[places]

    return score


# --- float64 ----------------------------------------------------------------------------------------------------------


@contextmanager
def in_double() -> Iterator[None]:
    """Let torch's recommenders be built, fitted and scored in float64.

    In float32 torch rounds square roots, logarithms and exponentials differently on different processors. A neural fit
    amplifies that into another model: NeuMF routed 150 users on one processor and 144 on another. In float64 the
    difference stays within the last bits, and rounding the scores removes it.

    Cornac asks for float32 by name in two places, the targets of NeuMF's loss and the batches of VAECF.
    """
    vaecf = importlib.import_module("cornac.models.vaecf.vaecf")  # its import sets torch's default: before we do
    optimizers = importlib.import_module("cornac.models.ncf.backend_pt").optimizer_dict
    encode, usual = vaecf.VAE.encode, torch.get_default_dtype()
    with (
        patch.object(torch.nn, "BCELoss", _LossInDouble),
        patch.dict(optimizers, adam=partial(torch.optim.Adam, fused=True)),
        patch.object(vaecf.VAE, "encode", lambda self, batch: encode(self, batch.double())),
        patch.object(vaecf, "learn", _learn_vaecf),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(usual)


class _LossInDouble(torch.nn.BCELoss):
    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(input, target.to(input.dtype))


# --- less work --------------------------------------------------------------------------------------------------------


def _learn_vaecf(
    vae: Any,
    train_set: Dataset,
    n_epochs: int,
    batch_size: int,
    learn_rate: float,
    beta: float,
    verbose: bool,
    device: torch.device,
) -> Any:
    """Cornac's training loop of VAECF with its multinomial likelihood, step by step, over rated items alone.

    Cornac multiplies the first layer by every unrated item's zero, takes the logarithm of every item's probability,
    and computes three other likelihoods: nearly half of the time.
    """
    rated = train_set.matrix
    batches = []
    for users in train_set.user_iter(batch_size, shuffle=False):
        counts, columns = np.diff(rated.indptr)[users], rated[users].indices
        starts = np.r_[0, np.cumsum(counts)[:-1]]
        arrays = (np.repeat(np.arange(len(users)), counts), columns, starts)
        batches.append([torch.from_numpy(array.astype(np.int64)) for array in arrays])
    optimizer = torch.optim.Adam(vae.parameters(), lr=learn_rate, fused=True)
    first = vae.encoder.fc0
    for _ in range(n_epochs):
        for rows, columns, starts in batches:
            summed = torch.nn.functional.embedding_bag(columns, first.weight.T, starts, mode="sum") + first.bias
            hidden = vae.encoder[1:](summed)
            mu, log_variance = vae.enc_mu(hidden), vae.enc_logvar(hidden)
            probability = vae.decode(vae.reparameterize(mu, log_variance))
            log_likelihood = torch.log(probability[rows, columns] + 1e-10).sum()
            deviation = torch.exp(0.5 * log_variance)
            divergence = -0.5 * (1 + 2.0 * torch.log(deviation) - mu.pow(2) - deviation.pow(2)).sum()
            loss = (beta * divergence - log_likelihood) / len(starts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vae


class UserSideEASE(EASE):
    """EASE by a matrix of users instead of one of items, where there are fewer of them; else as Cornac has it.

    With ratings X (users by items), P = (X'X + lambda I)^-1 and K = XX' + lambda I, the product XP is K^-1 X (the
    push-through identity), and the diagonal of P is (1 - diag(X' K^-1 X)) / lambda. That is all that scores need: those
    of a user are X - XP / diag(P).

    Source: Steck 2019, eq. 8.
    """

    def fit(self, train_set: Dataset, val_set: Dataset | None = None) -> "UserSideEASE":
        """Fit to a dataset of Cornac's."""
        if train_set.num_users >= train_set.num_items:
            return super().fit(train_set, val_set)
        Recommender.fit(self, train_set, val_set)
        ratings = train_set.matrix
        inverse = linalg.inv((ratings @ ratings.T).toarray() + self.lamb * np.eye(ratings.shape[0]), assume_a="pos")
        product = (ratings.T @ inverse).T
        diagonal = (1 - np.asarray(ratings.multiply(product).sum(axis=0)).ravel()) / self.lamb
        self.scores = product / -diagonal
        rated = ratings.tocoo()
        self.scores[rated.row, rated.col] += rated.data
        return self

    def score(self, user_idx: int, item_idx: int | None = None) -> np.ndarray:
        """A user's scores, or the one of an item."""
        if not hasattr(self, "scores"):
            return super().score(user_idx, item_idx)
        return self.scores[user_idx] if item_idx is None else self.scores[user_idx, item_idx]


def _neural(model: NeuMF) -> Score:
    """``model.score`` of NeuMF, which passes the whole catalogue through the network, for the items asked for alone."""
    catalogue = np.arange(model.num_items)

    def score(user: int, places: np.ndarray | None) -> np.ndarray:
        items = torch.from_numpy(catalogue if places is None else places)
        with torch.inference_mode():
            return model.model(torch.full_like(items, user), items, torch.tensor([user])).numpy()

    return score


def _neighbourhood(model: Any) -> Score:
    """``model.score`` of Cornac's KNNs, bit for bit, told of those neighbours only that a user has.

    Cornac clears room for every possible neighbour, again for each item: quadratic in the catalogue, and twenty times
    slower on Book-Crossing. With the others left out there is little to clear. And only the items that are asked for
    are scored.
    """
    by_item = hasattr(model, "ui_mat")
    own, lists = (model.ui_mat, model.sim_mat) if by_item else (model.sim_mat, model.iu_mat)
    by_neighbour = lists.tocsc()  # item by neighbour

    def score(user: int, places: np.ndarray | None) -> np.ndarray:
        row = own[user].sorted_indices()
        near = by_neighbour[:, row.indices].tocsr() if places is None else lists[places][:, row.indices]
        average = np.zeros(near.shape[0])
        compute_score(not by_item, row.data, near.indptr, near.indices, near.data, model.k, 1, average)
        return np.nan_to_num(model.mean_arr[user]) + average  # no mean: no training rating, and no order

    return score
