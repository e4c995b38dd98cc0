"""What is made smaller when a language model is taught (``teach``): the loss of some examples, by each objective.

Source of the pairs' loss: Burges et al. 2005, RankNet; here the scores are expected grades.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from hybridrec.llm.lessons import Example, Material
from hybridrec.llm.models import packed, tree
from hybridrec.llm.modes import Mode

_SMOOTHING = 3.0  # ratings of the whole catalogue's kind that each item's are added to
_PAIRS_SCALE = 2.0  # by which a difference of expected grades is multiplied before the logistic function


def loss(
    model: Any, examples: Sequence[Example], choices: Sequence[int], objective: str, usual: dict[Any, np.ndarray]
) -> torch.Tensor:
    """The mean loss over everything that is asked in some examples, computed in one row of tokens.

    Args:
        model: a causal language model of transformers.
        examples: what is computed together.
        choices: the token of each choice.
        objective: of ``Teaching``.
        usual: for "beyond-item": item to its number of ratings for each choice, among all who are taught.
    """
    row, sources, targets, whose = tree.Row(), [], [], []
    for number, example in enumerate(examples):
        above = row.grow([example.prefix])
        starts = np.cumsum([len(row.tokens), *map(len, example.texts)])
        row.grow(example.texts, above)
        sources += [int(starts[text]) + place for text, place, _ in example.asked]
        targets += [choice for *_, choice in example.asked]
        whose += [number] * len(example.asked)
    states = packed.hidden(model, row)
    logits = model.get_output_embeddings()(states[torch.tensor(sources, device=states.device)]).float()
    wanted = torch.tensor(targets, device=logits.device)
    tokens = torch.tensor(choices, device=logits.device)
    if objective == "beyond-item":
        known = np.stack([usual[item] for example in examples for item in example.items])
        known[np.arange(len(targets)), targets] -= 1  # the user's own rating is not among the others'
        known = np.log(known / known.sum(axis=1, keepdims=True))
        beyond = logits[:, tokens] + torch.tensor(known, dtype=torch.float32, device=logits.device)
        said = logits.logsumexp(1) - logits[:, tokens].logsumexp(1)  # that a choice follows at all
        return torch.nn.functional.cross_entropy(beyond, wanted) + said.mean()
    likelihood = torch.nn.functional.cross_entropy(logits, tokens[wanted])
    return likelihood if objective == "likelihood" else likelihood + _pairs(logits[:, tokens], wanted, whose)


def _pairs(logits: torch.Tensor, wanted: torch.Tensor, whose: Sequence[int]) -> torch.Tensor:
    """The logistic loss of every two ratings of one example that differ."""
    number = torch.tensor(whose, device=logits.device)
    grades = len(logits[0])
    rising = torch.arange(grades, device=logits.device) if grades > 2 else torch.tensor([1, 0], device=logits.device)
    expected, true = logits.softmax(1) @ rising.float(), rising[wanted]
    higher = (number[:, None] == number) & (true[:, None] > true)
    apart = (expected[:, None] - expected)[higher]
    return torch.nn.functional.softplus(-_PAIRS_SCALE * apart).mean() if len(apart) else logits.sum() * 0


def usual_grades(material: Material, users: Sequence[Any], mode: Mode) -> dict[Any, np.ndarray]:
    """Item to how many of these users gave each choice, smoothed by what all ratings are like."""
    rows = pd.concat([material.by_user[user] for user in users])
    choice = rows["grade"] if mode.grades else (rows["rating"] < material.like).astype(int)
    counts = pd.crosstab(rows["item"], choice).reindex(columns=range(len(mode.choices)), fill_value=0)
    everywhere = counts.sum() / counts.to_numpy().sum()
    smoothed = counts + _SMOOTHING * (0.99 * everywhere + 0.01 / len(mode.choices))
    return dict(zip(smoothed.index.tolist(), smoothed.to_numpy(), strict=True))
