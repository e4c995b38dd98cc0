"""What bfloat16 changes in a local model's scores beside float32, and what a GPU changes: writes precision.json.

    python benchmarks/precision.py [USERS]      so many users (200); with fewer nothing is written, to try it

Inactive users of ml-100k whose test items have a pair to order, drawn at random, with prompts as in bench_llm.py, are
ranked by ``likelihood``: in float32 on the CPU, in bfloat16 there, and in both on a GPU where torch sees one. Each is
compared with float32 on the CPU: the difference of a candidate's mean log-probability a token, the rank correlation
within users, and the change of AUC.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import bench_llm
import measure
import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm import tqdm

from hybridrec.data import splits
from hybridrec.evaluation import metrics
from hybridrec.llm.models import packed
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.tasks import Task, build_tasks
from hybridrec.randomness import generator
from hybridrec.study import models as study_models

FILE = measure.ROOT / "benchmarks" / "precision.json"
USERS, TOGETHER = 200, 8  # users in all, and in one pass
LEVEL = 0.95


def prepare(users: int) -> tuple[list[Task], pd.DataFrame]:
    """The tasks of so many users, and their candidates: user, item, relevant."""
    data, rows, known, inactive = bench_llm.split()
    candidates = splits.test_candidates(rows, bench_llm.LIKE, bench_llm.SEED)
    able = sorted(set(splits.with_a_pair(candidates)) & set(inactive))
    drawn = generator(bench_llm.SEED, "precision").permutation(able)[:users].tolist()
    chosen = candidates[candidates["user"].isin(drawn)]
    return build_tasks(drawn, known, chosen, data.items), chosen[["user", "item", "relevant"]]


def scored(model: HuggingFace, tasks: Sequence[Task]) -> pd.DataFrame:
    """The score of each candidate: user, item, score (the mean log-probability of a title's tokens)."""
    rows = []
    for start in tqdm(range(0, len(tasks), TOGETHER), desc=f"{model.loaded.dtype} on {model.loaded.device}"):
        some = tasks[start : start + TOGETHER]
        found = packed.log_probs(model.model, [bench_llm._prompt(model, task) for task in some])
        for task, values in zip(some, found, strict=True):
            rows += [(task.user, item, float(one.mean())) for item, one in zip(task.candidates, values, strict=True)]
    return pd.DataFrame(rows, columns=["user", "item", "score"])


def compared(scores: pd.DataFrame, exact: pd.DataFrame, candidates: pd.DataFrame) -> dict[str, Any]:
    """How far scores are from the exact ones: differences, rank correlation (a mean over users), change of AUC."""
    pairs = exact.merge(scores, on=["user", "item"], suffixes=("_exact", ""), validate="1:1")
    apart = (pairs["score"] - pairs["score_exact"]).abs()
    within = [
        float(stats.spearmanr(one["score_exact"], one["score"]).statistic)
        for _, one in pairs.groupby("user")
        if one[["score_exact", "score"]].nunique().min() > 1
    ]
    auc, before = (metrics.auc(one.merge(candidates, validate="1:1")) for one in (scores, exact))
    change = (auc - before).to_numpy()
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(change) - 1) * stats.sem(change))
    return {
        **{"mean_difference": float(apart.mean()), "largest_difference": float(apart.max())},
        **{"rank_correlation": float(np.mean(within)), "users_with_a_correlation": len(within)},
        **{"auc_exact": float(before.mean()), "auc": float(auc.mean())},
        **{"auc_change": float(change.mean()), "auc_change_half_width": half},
    }


def main(users: int = USERS) -> None:
    """Score, compare, and write where all users were asked."""
    tasks, candidates = prepare(users)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    exact, rows = None, []
    for device in devices:
        for dtype in ("float32", "bfloat16"):
            scores = scored(study_models.local(bench_llm.MODEL, dtype=dtype, device=device), tasks)
            if exact is None:
                exact = scores
                continue
            name = torch.cuda.get_device_name() if device == "cuda" else None
            rows.append({"dtype": dtype, "device": device, "gpu": name, **compared(scores, exact, candidates)})
            print(rows[-1], flush=True)
    found = {
        **{"model": bench_llm.MODEL, "dataset": "ml-100k", "users": len(tasks), "candidates": len(candidates)},
        **{"machine": measure.machine(["numpy", "torch", "transformers"]), "rows": rows},
    }
    if users == USERS:
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
