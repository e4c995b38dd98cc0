"""All randomness: one root seed, and a name for every stream drawn from it."""

import hashlib
from collections.abc import Iterable

import numpy as np


def seed_for(root: int, *keys: object) -> int:
    """A 32-bit seed derived from the experiment's root seed and the stream's name.

    Naming streams keeps them independent: adding a recommender does not change another one's split or fit.
    """
    text = "/".join(str(key) for key in (root, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def generator(root: int, *keys: object) -> np.random.Generator:
    """A NumPy generator for the stream named by ``keys``."""
    return np.random.default_rng(seed_for(root, *keys))


def in_random_order(users: Iterable[int], root: int, *keys: object) -> list[int]:
    """Users in a seeded order that does not depend on the order given: its first n are a sample of n."""
    known = np.unique(list(users))
    return generator(root, *keys).permutation(known).tolist()
