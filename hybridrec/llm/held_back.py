"""How well a model that is being taught ranks for users who are held back: what the best step is chosen by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from hybridrec.errors import DatasetError
from hybridrec.evaluation import metrics
from hybridrec.llm import rankers
from hybridrec.llm.lessons import LEAST_LINES, Material, Writer
from hybridrec.llm.models import packed, tree
from hybridrec.llm.modes import Mode


@dataclass(frozen=True)
class Check:
    """The lists of users who are held back: asked with their own history, and with that of another of them."""

    candidates: list[pd.DataFrame]
    own: list[tree.Prompt]
    another: list[tree.Prompt]


def build(material: Material, users: Sequence[Any], writer: Writer, rng: np.random.Generator, most: int = 30) -> Check:
    """For each user a history of random length, up to the writer's lines, and up to ``most`` other items to order."""
    histories, lists = [], []
    least = min(LEAST_LINES, writer.lines)
    for user in users:
        rows = material.by_user[user]
        rows = rows.iloc[rng.permutation(len(rows))]
        length = min(int(rng.integers(least, writer.lines + 1)), len(rows) // 2)
        rest = rows.iloc[length : length + most]
        if (rest["rating"] >= material.like).nunique() == 2:
            history = rows.iloc[:length]
            histories.append(history if writer.mode.grades else history.sort_values("rating", ascending=False))
            lists.append(rest)
    if len(lists) < 2:
        raise DatasetError(
            f"{len(lists)} of {len(users)} users who are held back have a liked and another item to be judged by; two "
            "are needed. Teach on more users, or hold back more of them."
        )
    pairs = zip(histories[1:] + histories[:1], lists, strict=True)
    others = [history[~history["item"].isin(own["item"])] for history, own in pairs]
    own_prompts, other_prompts = (
        [writer.prompt(history, rest, material.like) for history, rest in zip(shown, lists, strict=True)]
        for shown in (histories, others)
    )
    return Check(lists, own_prompts, other_prompts)


def validate(model: Any, check: Check, mode: Mode, like: float) -> dict[str, float]:
    """The mean AUC of users who are held back, by their own history and by another user's, and what is answered.

    Returns:
        auc, another, and answered: the probability of all choices together, a mean over all candidates.
    """
    found: dict[str, float] = {}
    for name, asked in (("auc", check.own), ("another", check.another)):
        values = [torch.stack(one).double().numpy() for one in packed.log_probs(model, asked)]
        rows = [
            pd.DataFrame({
                "user": at, "relevant": (rest["rating"] >= like).to_numpy(),
                "score": rankers.of_choices(mode, log_probs),
            })
            for at, (rest, log_probs) in enumerate(zip(check.candidates, values, strict=True))
        ]  # fmt: skip
        found[name] = float(metrics.auc(pd.concat(rows)).mean())
        if name == "auc":
            found["answered"] = float(np.exp(np.concatenate(values)).sum(axis=1).mean())
    return found
