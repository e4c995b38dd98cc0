"""From ratings and out-of-fold scores to the list of routed users, for the shape of ML-25M."""

from typing import Any

import measure
import numpy as np
import shapes

from hybridrec.data import datasets
from hybridrec.weak_users import triage


def run(name: str = "ml-25m", rounds: int = 5) -> list[dict[str, Any]]:
    """Seconds and memory of the whole triage of one recommender, the ratings already in memory."""
    shape = shapes.load(name)
    rows = shape.known.assign(fold=np.random.default_rng(shapes.SEED).integers(5, size=len(shape.known), dtype=np.int8))
    routed: list[int] = []

    def call() -> None:
        sparsity = datasets.sparsity_index(rows, shape.n_items)
        quality = triage.performance(rows)["performance"]
        weak = triage.weak_users(quality, sparsity, fixed(sparsity))
        routed[:] = weak.index[weak]

    def fixed(sparsity: Any) -> triage.Thresholds:
        return triage.Thresholds(0.5, triage.sparsity_threshold(sparsity, triage.Thresholds()))

    seconds = measure.alternately({"ours": call}, rounds)["ours"]
    with measure.PeakMemory() as memory:
        above = round(measure.allocated(call), 1)
    found = {"ours": measure.summary(seconds), "ratings": len(rows), "users": shape.n_users, "routed": len(routed)}
    about = {"task": "triage", "shape": name, "synthetic": shape.synthetic}
    return [{**about, **found, "peak_mib_above": above, "peak_mib_of_process": round(memory.peak)}]
