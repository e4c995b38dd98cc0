"""Are the fits on this machine those behind the committed results? A hash of each fit tells, and its AUC how far.

The committed fingerprint is a small file, data/fits/EXPERIMENT.csv. It holds hashes and means, no rating and no score.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hybridrec.evaluation import metrics
from hybridrec.recommenders.fits import Fit

KEYS = ["part", "recommender", "parameter", "value", "fold"]
COLUMNS = [*KEYS, "auc", "scores"]


def row(work: Fit, found: dict[str, np.ndarray], relevant: np.ndarray, part: str, fold: int = -1) -> dict[str, object]:
    """One fit's line.

    Args:
        work: what was fitted.
        found: what it came to.
        relevant: whether each of ``work.pairs`` is liked.
        part: what it was made for, such as "tuning", "test" or "lists"; ``fold`` where it is about one.

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


@dataclass(frozen=True)
class Difference:
    """How a machine's fits differ from the committed ones.

    Attributes:
        compared: fits that are in both.
        moved: of these, how many have other scores, by recommender.
        largest: largest difference of a mean AUC among those that moved.
        others: fits here that have no counterpart there, and the other way round.
    """

    compared: int
    moved: dict[str, int]
    largest: float
    others: int

    def __str__(self) -> str:
        others = f"; {self.others} have no counterpart" if self.others else ""
        if not self.compared:
            return f"fits: nothing to compare with those behind the committed results{others}"
        if not self.moved:
            return f"fits: all {self.compared} agree with those behind the committed results{others}"
        names = ", ".join(f"{name} {count}" for name, count in self.moved.items())
        return (
            f"fits: {sum(self.moved.values())} of {self.compared} differ on this processor from those behind the "
            f"committed results ({names}); largest difference of a mean AUC {self.largest:.2g}{others}"
        )


def compare(here: pd.DataFrame, committed: pd.DataFrame) -> Difference:
    """Fit by fit.

    Args:
        here, committed: COLUMNS, a row a fit.
    """
    both = here.merge(committed, "outer", on=KEYS, suffixes=("", "_committed"))
    known = both.dropna(subset=["scores", "scores_committed"])
    moved = known[known["scores"] != known["scores_committed"]]
    largest = (moved["auc"] - moved["auc_committed"]).abs().max() if len(moved) else 0.0
    counts = {str(name): int(count) for name, count in moved.groupby("recommender", sort=False).size().items()}
    return Difference(len(known), counts, float(largest), len(both) - len(known))
