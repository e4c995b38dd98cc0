"""How sure we are: bootstrap intervals over users, and Holm's correction."""

import numpy as np
import pandas as pd
from scipy import stats

POOLED = "all, each user once"  # the row of a table in which a user stands with the mean over all recommenders


def bootstrap_interval(
    values: np.ndarray, rng: np.random.Generator, samples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over users.

    Args:
        values: one value a user, shape (users,); NaNs must have been dropped.
        rng: draws the resamples.
        samples: how many resamples.
        level: coverage.

    Returns:
        (low, high), or (nan, nan) for fewer than two users.
    """
    if len(values) < 2:
        return (np.nan, np.nan)
    low, high = stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=samples, confidence_level=level, method="percentile",
        rng=rng, batch=500,
    ).confidence_interval  # fmt: skip
    return float(low), float(high)


def holm(p_values: pd.Series) -> pd.Series:
    """Holm's step-down correction over all p-values given; NaNs stay NaN and do not count (Holm 1979)."""
    valid = p_values.dropna().sort_values()
    factors = np.arange(len(valid), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(valid.to_numpy() * factors), 1.0)
    return pd.Series(adjusted, index=valid.index).reindex(p_values.index)
