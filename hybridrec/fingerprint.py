"""Are the fits on this machine those behind the committed results? A hash of each fit tells, and its AUC how far.

The committed fingerprint is a small file, data/fits/EXPERIMENT.csv. It holds hashes and means, no rating and no score.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from hybridrec import metrics
from hybridrec.fits import Fit

KEYS = ["part", "recommender", "parameter", "value", "fold"]
COLUMNS = [*KEYS, "auc", "scores"]


def row(work: Fit, found: dict[str, np.ndarray], relevant: np.ndarray, part: str, fold: int = -1) -> dict[str, object]:
    """One fit's line.

    Args:
        work: what was fitted.
        found: what it came to.
        relevant: whether each of ``work.pairs`` is liked.
        part: "tuning", "test" or "out-of-fold", and the ``fold`` of the last.

    Returns:
        COLUMNS: ``auc`` is the mean over users, ``scores`` the first 16 digits of the SHA-256 of the rounded scores,
        and of the lists where some were retrieved.
    """
    parameter, value = next(iter(work.params.items()), ("", np.nan))
    arrays = [found[name] for name in ("scores", "items", "item_scores") if name in found]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays)).hexdigest()
    judged = pd.DataFrame({"user": work.pairs["user"], "score": found["scores"], "relevant": relevant})
    auc = float(metrics.auc(judged).mean())
    return dict(zip(COLUMNS, (part, work.recommender, parameter, value, fold, auc, digest[:16]), strict=True))


def read(path: Path) -> pd.DataFrame:
    """A committed fingerprint: COLUMNS."""
    return pd.read_csv(path, dtype={"scores": str, "parameter": str}, keep_default_na=False, na_values={"value": [""]})


def compare(here: pd.DataFrame, committed: pd.DataFrame) -> str:
    """One line: all fits agree, or which differ and how far.

    Args:
        here, committed: COLUMNS, a row a fit.
    """
    both = here.merge(committed, "left", on=KEYS, suffixes=("", "_committed"))
    known = both[both["scores_committed"].notna()]
    moved = known[known["scores"] != known["scores_committed"]]
    others = f"; {len(both) - len(known)} have other settings" if len(known) < len(both) else ""
    if moved.empty:
        return f"fits: all {len(known)} agree with those behind the committed results{others}"
    far = (moved["auc"] - moved["auc_committed"]).abs()
    names = ", ".join(f"{name} {count}" for name, count in moved.groupby("recommender", sort=False).size().items())
    return (
        f"fits: {len(moved)} of {len(known)} differ on this processor from those behind the committed results "
        f"({names}); largest difference of a mean AUC {far.max():.2g}{others}"
    )
