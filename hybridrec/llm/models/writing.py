"""Greedy continuations of many prompts, written together by a causal language model of transformers.

``model.generate`` keeps every text in the batch until the last one has ended, and copies all keys and values at every
token. Here a text leaves the batch when it ends, others take the free places, and the cache grows in place; the tokens
are the same.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

# How many texts are written together; new ones come in when half of these places are free.
_TOGETHER = 48
# How often, in tokens, it is looked whether a text repeats itself, and how far the cache grows at once.
_LOOK_EVERY = 16
_GROW_BY = 128
# A block that is repeated three times or more, for so many characters in all, is a loop.
_TIMES, _LONG = 3, 60
_MARK = r"[-*•]+\s*|\(?\d{1,4}[.):]+\s*|[Cc]\d{1,4}[.):]*\s+(?=\w)"  # "1. ", "- ", "C3 " before a title
_LIST_MARK = re.compile(rf"^\s*(?:{_MARK}){{1,3}}", re.M)


def repeats(text: str) -> bool:
    """Whether a text has come into a loop: it ends in one block three times over, or more often if the block is short.

    List marks and labels do not count, so that a list of one title under ever new numbers is a loop. Small models asked
    for a list often end in one, and go on for as long as they may; what is said for the third time in a row adds
    nothing to a ranking. A restated list or a draft before the answer is said twice at most, and is no loop.
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


@dataclass
class Text:
    """What was written after the prompt of number ``prompt``.

    ``reason`` says who ended it: "stop" (the model), "length" (its budget), "loop"; it is "" while the text is open.
    ``seconds`` is its share of the time in which it was written together with others.
    """

    prompt: int
    tokens: list[int] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    ends: set[int],
    is_loop: Callable[[list[int]], bool],
) -> Iterator[Text]:
    """The most likely continuation of each prompt, token by token; each text is yielded as soon as it has ended.

    Args:
        model: a causal language model of transformers.
        prompts: tokens, one list a prompt. Neighbours begin together: prompts of one length waste the least.
        budgets: the most new tokens, one number a prompt.
        ends: the tokens with which the model ends a text; they are no part of it.
        is_loop: whether new tokens have come into a loop; asked every few tokens.
    """
    waiting, batch = list(range(len(prompts)))[::-1], None
    while waiting or batch is not None:
        if batch is None or (waiting and len(batch.texts) <= _TOGETHER // 2):
            free = _TOGETHER - (len(batch.texts) if batch else 0)
            numbers = [waiting.pop() for _ in range(min(free, len(waiting)))]
            begun = _Batch.begin(model, numbers, [prompts[number] for number in numbers])
            batch = begun.joined_to(batch) if batch else begun
        for text, token in zip(batch.texts, batch.chosen, strict=True):
            if len(text.tokens) >= budgets[text.prompt]:
                text.reason = "length"
            elif token in ends:
                text.reason = "stop"
            else:
                text.tokens.append(token)
                if len(text.tokens) % _LOOK_EVERY == 0 and is_loop(text.tokens):
                    text.reason = "loop"
        yield from (text for text in batch.texts if text.reason)
        batch = batch.without_ended()
        if batch:
            batch.step(model)


@dataclass
class _Batch:
    """Texts that are written together: a row of the cache and of the mask each, padded on the left.

    ``chosen`` is the next token of each. The mask (texts, columns) is 0 where a row is padded.
    """

    texts: list[Text]
    cache: Cache
    mask: torch.Tensor
    chosen: list[int]

    @classmethod
    def begin(cls, model: Any, numbers: list[int], prompts: Sequence[Sequence[int]]) -> "_Batch":
        """Read the prompts of these numbers."""
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
        padded = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        batch = cls([Text(n) for n in numbers], Cache(layer_class_to_replicate=_InPlaceLayer), torch.tensor(padded), [])
        batch.mask = batch.mask.to(model.device)
        batch._pass(model, tokens)
        return batch

    def step(self, model: Any) -> None:
        """Read the chosen tokens, and choose the next ones."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.texts), 1)], dim=1)
        self._pass(model, torch.tensor(self.chosen, device=model.device)[:, None])

    @torch.inference_mode()
    def _pass(self, model: Any, tokens: torch.Tensor) -> None:
        start = time.perf_counter()
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        options = {"attention_mask": self.mask, "position_ids": positions, "past_key_values": self.cache}
        self.chosen = model(tokens, **options, logits_to_keep=1).logits[:, -1].argmax(1).tolist()
        for text in self.texts:
            text.seconds += (time.perf_counter() - start) / len(self.texts)

    def without_ended(self) -> "_Batch | None":
        """The rows of texts that are open, without columns that only they needed; None if there is none."""
        kept = [at for at, text in enumerate(self.texts) if not text.reason]
        if not kept:
            return None
        if len(kept) < len(self.texts):
            rows = torch.tensor(kept, device=self.mask.device)
            self.texts, self.chosen = [self.texts[at] for at in kept], [self.chosen[at] for at in kept]
            self.mask = self.mask[rows]
            padded = int(self.mask.any(0).int().argmax())
            self.mask = self.mask[:, padded:]
            for layer in _layers(self.cache):
                layer.keep(rows, padded)
        return self

    def joined_to(self, other: "_Batch") -> "_Batch":
        """Both batches in one, the shorter padded on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [torch.nn.functional.pad(one.mask, (width - one.mask.shape[1], 0)) for one in (other, self)]
        for layer, more in zip(_layers(other.cache), _layers(self.cache), strict=True):
            layer.join(more, width)
        return _Batch([*other.texts, *self.texts], other.cache, torch.cat(masks), [*other.chosen, *self.chosen])


class _InPlaceLayer(DynamicLayer):
    """Keys and values of a layer, with room for further tokens, so that a new one is written and nothing copied."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Add the states of new tokens; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all, self._length = [key_states, value_states], key_states.shape[-2]
        else:
            start, self._length = self._length, self._length + key_states.shape[-2]
            if self._all[0].shape[-2] < self._length:
                self._all = [_wider(states[:, :, :start], 0, self._length + _GROW_BY) for states in self._all]
            for every, new in zip(self._all, (key_states, value_states), strict=True):
                every[:, :, start : self._length] = new
        return self._shown()

    def keep(self, rows: torch.Tensor, start: int) -> None:
        """Keep these rows, from the column ``start`` on."""
        self._all = [states[rows, :, start:] for states in self._all]
        self._length -= start
        self._shown()

    def join(self, other: "_InPlaceLayer", width: int) -> None:
        """Add the rows of another; both get this width, padded on the left."""
        both = [(one.keys, one.values) for one in (self, other)]
        self._all = [
            torch.cat([_wider(states, width - states.shape[-2], width + _GROW_BY) for states in pair])
            for pair in zip(*both, strict=True)
        ]
        self._length = width
        self._shown()

    def _shown(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (states[:, :, : self._length] for states in self._all)
        return self.keys, self.values


def _layers(cache: Cache) -> list[_InPlaceLayer]:
    return cast(list[_InPlaceLayer], cache.layers)


def _wider(states: torch.Tensor, before: int, length: int) -> torch.Tensor:
    """The same states from the column ``before`` on, in ``length`` columns; zeros before them, anything after them."""
    wider = states.new_zeros(*states.shape[:2], length, states.shape[-1])
    wider[:, :, before : before + states.shape[-2]] = states
    return wider
