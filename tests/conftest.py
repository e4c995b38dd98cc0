"""Shared fixtures: small tables with the shape of the real ones. Nothing here touches the network."""

import os

import numpy as np
import pandas as pd
import pytest

os.environ["HYBRIDREC_PROGRESS"] = "off"


@pytest.fixture
def interactions() -> pd.DataFrame:
    """40 users, 30 items, about half of all pairs: two tastes, one for even items and one for odd ones."""
    rng = np.random.default_rng(7)
    users, items = np.meshgrid(np.arange(1, 41) * 3, np.arange(1, 31) + 100, indexing="ij")
    table = pd.DataFrame({"user": users.ravel(), "item": items.ravel()})
    matches = (table["user"] % 2) == (table["item"] % 2)
    table["rating"] = np.clip(np.where(matches, 4, 2) + rng.integers(-1, 2, len(table)), 1, 5).astype(float)
    table["timestamp"] = rng.integers(880_000_000, 890_000_000, len(table))
    return table[rng.random(len(table)) < 0.5].reset_index(drop=True)


@pytest.fixture
def items() -> pd.DataFrame:
    """The catalogue of ``interactions``, with one more item that nobody rated."""
    numbers = np.arange(101, 132)
    return pd.DataFrame(
        {
            "item": numbers,
            "title": [f"Film {n} ({1900 + n % 90})" for n in numbers],
            "year": [str(1900 + n % 90) for n in numbers],
            "genres": ["Drama" if n % 2 else "" for n in numbers],
        }
    )
