"""Greedy continuations of many prompts, written together by a causal language model of transformers.

``model.generate`` keeps every text in the batch until the last one has ended, and copies all keys and values at every
token. Here a text leaves the batch when it ends, and the cache grows in place; the tokens are the same.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# How often, in tokens, it is looked whether a text repeats itself, and how far the cache grows at once.
_LOOK_EVERY = 16
_GROW_BY = 128
# A block that is repeated three times or more, for so many characters in all, is a loop.
_TIMES, _LONG = 3, 60
_LIST_MARK = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,4}[.):]+)\s*", re.M)


def repeats(text: str) -> bool:
    """Whether a text has come into a loop: it ends in one block three times over, or more often if the block is short.

    List marks do not count, so that a list of one title under ever new numbers is a loop. Small models asked for a list
    often end in one, and go on for as long as they may; nothing that is said for the third time in a row adds to a
    ranking. A restated list of candidates or a draft before the answer is said twice at most, and so is no loop.
    """
    words = " ".join(_LIST_MARK.sub("", text).split())
    whole_lines = " ".join(_LIST_MARK.sub("", text[: text.rfind("\n") + 1]).split())
    return _ends_in_a_loop(words) or _ends_in_a_loop(whole_lines)


def _ends_in_a_loop(text: str) -> bool:
    text = f" {text}"  # so that the first of the blocks begins like the others
    for size in range(1, len(text) // _TIMES + 1):
        times = max(_TIMES, -(-_LONG // size))
        block = text[-size:]
        if len(text) >= times * size and text.endswith(block * times):
            return any(map(str.isalnum, block))  # a rule of a table is no loop
    return False


@torch.inference_mode()
def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    ends: set[int],
    is_loop: Callable[[list[int]], bool],
) -> list[tuple[list[int], str]]:
    """The most likely continuation of each prompt, token by token.

    Args:
        model: a causal language model of transformers.
        prompts: tokens, one list a prompt.
        budgets: the most new tokens, one number a prompt.
        ends: the tokens with which the model ends a text.
        is_loop: whether new tokens have come into a loop; asked every few tokens.

    Returns:
        For each prompt the new tokens without the end, and who ended them: "stop" (the model), "length" (its budget) or
        "loop".
    """
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    cache = Cache(layer_class_to_replicate=_InPlaceLayer)
    texts: list[tuple[list[int], str]] = [([], "") for _ in prompts]
    open_rows = list(range(len(prompts)))  # the prompts whose rows are in the batch, in the order of the rows
    for step in range(max(budgets) + 1):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        options = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        chosen = model(tokens, **options, logits_to_keep=1).logits[:, -1].argmax(1)
        for row, token in zip(open_rows, chosen.tolist(), strict=True):
            new = texts[row][0]
            if len(new) >= budgets[row]:
                texts[row] = new, "length"
            elif token in ends:
                texts[row] = new, "stop"
            else:
                new.append(token)
                if (step + 1) % _LOOK_EVERY == 0 and is_loop(new):
                    texts[row] = new, "loop"
        kept = [at for at, row in enumerate(open_rows) if not texts[row][1]]
        if not kept:
            break
        if len(kept) < len(open_rows):
            open_rows = [open_rows[at] for at in kept]
            rows = torch.tensor(kept, device=model.device)
            chosen, mask = chosen[rows], mask[rows]
            cache.batch_select_indices(rows)
        tokens, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(kept), 1)], dim=1)
    return texts


class _InPlaceLayer(DynamicLayer):
    """Keys and values of a layer, with room for further tokens, so that a new one is written and nothing copied."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Add the states of new tokens; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all = [self._empty(states, 0) for states in (key_states, value_states)]
            self._length = 0
        start, self._length = self._length, self._length + key_states.shape[-2]
        for at, states in enumerate((key_states, value_states)):
            if self._all[at].shape[-2] < self._length:
                wider = self._empty(states, self._length + _GROW_BY)
                wider[:, :, :start] = self._all[at][:, :, :start]
                self._all[at] = wider
            self._all[at][:, :, start : self._length] = states
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self._all = [states[indices] for states in self._all]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (states[:, :, : self._length] for states in self._all)

    @staticmethod
    def _empty(like: torch.Tensor, length: int) -> torch.Tensor:
        return like.new_empty(*like.shape[:2], length, like.shape[-1])
