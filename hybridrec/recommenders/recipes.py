"""Every recommender that can be fitted here. To add one is to add its recipe to ``RECIPES``, and nothing else.

This module imports no other one, so that settings can be checked against it without loading pandas or torch.
"""

from dataclasses import dataclass, field
from typing import Any

from hybridrec.errors import RecommenderError


@dataclass(frozen=True)
class Recipe:
    """How a recommender is built.

    Attributes:
        cornac_class: name of its class in ``cornac.models``; "" for the one that is built here (``item_knn``).
        feedback: what it learns from: "ratings" (all known ratings, with their values) or "likes" (only liked items,
            as positives).
        grid: the one parameter that is tuned, and the values that are tried; None: nothing is tuned.
        fixed: its other parameters.
        family: the kind of method, as tables show it.
        control: whether it serves as a control, which knows nothing of the user.
        decimals: its scores are rounded to so many.
        allowed: kind, lowest and highest value that may be tried of the parameter in ``grid``.
        slowness: its place in the queue; fits with the highest number are started first.
    """

    cornac_class: str
    feedback: str
    grid: tuple[str, tuple[Any, ...]] | None = None
    fixed: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    control: bool = False
    decimals: int = 8
    allowed: tuple[type, float, float] = (int, 1, 10_000)
    slowness: int = 9


_STEPS = {"k": 20, "learning_rate": 0.02, "lambda_reg": 0.01}

RECIPES: dict[str, Recipe] = {
    "MostPop": Recipe("MostPop", "likes", family="popularity", control=True, slowness=0),
    "ItemKNN": Recipe(
        "ItemKNN", "ratings", ("k", (20, 50, 100)), {"mean_centered": True}, "neighbourhood", slowness=6,
    ),
    "UserKNN": Recipe(
        "UserKNN", "ratings", ("k", (20, 50, 100)), {"mean_centered": True}, "neighbourhood", slowness=4,
    ),
    "MF": Recipe(
        "MF", "ratings", ("lambda_reg", (0.02, 0.06, 0.12)), {"k": 20, "max_iter": 60, "learning_rate": 0.01},
        "matrix factorisation", allowed=(float, 0, 10), slowness=1,
    ),
    "BPR": Recipe("BPR", "likes", ("max_iter", (100, 200, 400)), _STEPS, "learning to rank", slowness=2),
    "WBPR": Recipe("WBPR", "likes", ("max_iter", (100, 200, 400)), _STEPS, "learning to rank", slowness=3),
    "NeuMF": Recipe(
        "NeuMF", "likes", ("num_epochs", (5, 10, 20)),
        {"backend": "pytorch", "num_factors": 8, "batch_size": 1024, "lr": 0.003}, "neural", slowness=8,
    ),
    "EASE": Recipe(
        "EASE", "likes", ("lamb", (300, 1000, 3000)), {"posB": False}, "linear autoencoder",
        allowed=(float, 1e-3, 1e9), slowness=5,
    ),
    "VAECF": Recipe(
        "VAECF", "likes", ("n_epochs", (100, 200, 400)), {"k": 20, "autoencoder_structure": [64], "batch_size": 128},
        "autoencoder", slowness=7,
        decimals=10,  # its scores are the probabilities of all items together
    ),
    "ItemKNN-likes": Recipe("", "likes", ("k", (10, 100, 500)), family="neighbourhood", slowness=0),
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of a recommender.

    Raises:
        RecommenderError: unknown name (lists the known ones).
    """
    if name not in RECIPES:
        raise RecommenderError(f"unknown recommender {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]
