"""Prompts as one row of tokens in which nothing stands twice: a tree, and who sees whom in it.

Its root is what all prompts begin with, below it each user's history, below that what one way to ask adds, and at the
ends the candidates, side by side. A node of this tree is a *branch*. A token sees the branches above its own and the
tokens before it in its own text, which is what it would see in a text by itself; its position is also that in its own
text.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# How many tokens of candidates share a mask: each of them is also compared with all the others, for nothing.
_TOKENS_BESIDE = 128


@dataclass(frozen=True)
class Prompt:
    """A text (``prefix``) and several continuations of it (``suffixes``), as tokens.

    With ``choices``, what is wanted is each of these tokens' log-probability after each suffix. Without, it is the
    log-probability of each token of each suffix.
    """

    prefix: list[int]
    suffixes: list[list[int]]
    choices: list[int] | None = None

    @property
    def size(self) -> int:
        """Tokens in all, the prefix counted once."""
        return len(self.prefix) + sum(map(len, self.suffixes))


def together(parts: Iterable[Any], bound: int, size: Callable[[Any], int] = len) -> Iterator[list[Any]]:
    """Consecutive parts, as many as fit the bound; a part that is larger than the bound stands alone."""
    held: list[Any] = []
    total = 0
    for part in parts:
        if held and total + size(part) > bound:
            yield held
            held, total = [], 0
        held.append(part)
        total += size(part)
    if held:
        yield held


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass
class Branch:
    """A node of the tree: one text, or several alternative texts (*runs*) that follow the same tokens.

    A token sees the tokens ``above`` and the earlier ones of its own run, but no other run.

    ``above`` and ``own`` are places in the row. ``positions`` (one per own token) are places in the token's own text;
    ``run`` (likewise) says to which run it belongs.
    """

    above: tuple[slice, ...]
    own: slice
    positions: torch.Tensor
    run: torch.Tensor
    masks: dict[tuple, torch.Tensor | None] = field(default_factory=dict)

    def seen(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values of the tokens above and the branch's own, (1, heads, seen, size)."""
        return torch.cat([states[:, :, part] for part in (*self.above, self.own)], dim=2)

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """What is added to the attention scores, (own, seen): 0 where a token may look, else the lowest number.

        None where the usual causal mask does, whose kernel is faster. It takes as many queries as keys, so that the
        queries of the tokens above are computed again, too: it is used only where these are the fewer.

        Args:
            window: how many tokens a layer looks back; None: it sees all.
            like: a tensor of the dtype and on the device wanted.
        """
        kind = (window, like.dtype, like.device)
        if kind not in self.masks:
            self.masks[kind] = self._mask(window, like)
        return self.masks[kind]

    def _mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        n_above, n_own = _length(self.above), len(self.positions)
        if n_above < n_own and not self.run.any() and (window is None or n_above + n_own <= window):
            return None
        positions = torch.cat([torch.arange(n_above), self.positions])
        run = torch.cat([torch.full((n_above,), -1), self.run])
        back = self.positions[:, None] - positions
        seen = ((run < 0) | (run == self.run[:, None])) & (back >= 0)
        if window is not None:
            seen &= back < window
        return _as_numbers(seen, like.dtype).to(like.device)


@dataclass
class Row:
    """The tokens of one forward pass, their branches, and which log-probabilities are wanted.

    Wanted is the log-probability of token ``targets[i]`` after the token at place ``sources[i]`` of the row, for each
    i. ``sizes`` says how many of these belong to each suffix, in order.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    windows: set[int | None] = field(default_factory=set)  # how far the layers looked back that attended to it
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """What is added to the attention scores of the whole row, (tokens, tokens); see ``Branch.mask``."""
        kind = (window, like.dtype, like.device)
        if kind not in self.masks:
            at = torch.arange(len(self.tokens), device=like.device)
            seen = self.sees(window, like.device)(at[:, None], at)
            self.masks[kind] = _as_numbers(seen, like.dtype)
        return self.masks[kind]

    def sees(self, window: int | None, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """A function of two places of the row (tensors of any shapes that fit): whether the first sees the second."""
        begins = {branch.own.start: number for number, branch in enumerate(self.branches)}
        above = torch.zeros(len(begins), len(begins), dtype=torch.bool)
        for number, branch in enumerate(self.branches):
            above[number, [begins[part.start] for part in branch.above]] = True
        sizes = torch.tensor([len(branch.run) for branch in self.branches])
        of = torch.arange(len(begins)).repeat_interleave(sizes).to(device)
        run = torch.cat([branch.run for branch in self.branches]).to(device)
        # int32: below, there is a difference for each two tokens.
        position = torch.tensor(self.positions, dtype=torch.int32, device=device)
        above = above.to(device)

        def function(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            back = position[one] - position[other]
            seen = above[of[one], of[other]] | ((of[one] == of[other]) & (run[one] == run[other]) & (back >= 0))
            return seen if window is None else seen & (back < window)

        return function

    def grow(self, runs: Sequence[list[int]], above: tuple[slice, ...] = ()) -> tuple[slice, ...]:
        """Add a branch of these runs below ``above``; returns the places above whatever is added below it."""
        start, n_above = len(self.tokens), _length(above)
        positions = [position for run in runs for position in range(n_above, n_above + len(run))]
        numbers = [number for number, run in enumerate(runs) for _ in run]
        self.tokens += [token for run in runs for token in run]
        self.positions += positions
        own = slice(start, len(self.tokens))
        if positions:
            self.branches.append(Branch(above, own, torch.tensor(positions), torch.tensor(numbers)))
        return (*above, own) if positions else above

    def ask(self, prompt: Prompt, known: int, above: tuple[slice, ...]) -> None:
        """Add a prompt whose first ``known`` tokens are in the row already (``above``), and note what it wants."""
        common = _common(prompt.suffixes) if prompt.choices else 0
        above = self.grow([prompt.prefix[known:] + prompt.suffixes[0][:common]], above)
        end = above[-1].stop - 1
        for beside in together(prompt.suffixes, _TOKENS_BESIDE):
            start = len(self.tokens)
            # The last token of a suffix that is itself scored is not computed: no probability after it is wanted.
            runs = [suffix[common:] if prompt.choices else suffix[:-1] for suffix in beside]
            self.grow(runs, above)
            for run, suffix in zip(runs, beside, strict=True):
                own = range(start, start + len(run))
                self._want([own[-1]] * len(prompt.choices) if prompt.choices else [end, *own], prompt.choices or suffix)
                start += len(run)

    def _want(self, sources: list[int], targets: list[int]) -> None:
        self.sources += sources
        self.targets += targets
        self.sizes.append(len(targets))


def _as_numbers(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where something is seen, else the lowest number: torch would turn truth values into these in every layer."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _length(parts: tuple[slice, ...]) -> int:
    return sum(part.stop - part.start for part in parts)


def _common(suffixes: Sequence[list[int]]) -> int:
    """How many tokens all suffixes begin with, leaving at least one token to each."""
    return min(min(shared(suffixes[0], suffix), len(suffix) - 1) for suffix in suffixes)


def row_of(prompts: Sequence[Prompt]) -> Row:
    """The row of prompts that stand in the order of their prefixes, so that those that begin alike are neighbours."""
    row = Row()
    _plant(row, prompts, 0, ())
    return row


def _plant(row: Row, prompts: Sequence[Prompt], known: int, above: tuple[slice, ...]) -> None:
    """Add prompts whose first ``known`` tokens are the same and in the row: what more they share, then each rest."""
    root = min(shared(prompts[0].prefix, prompt.prefix) for prompt in prompts)
    above = row.grow([prompts[0].prefix[known:root]], above)
    for token, alike in itertools.groupby(prompts, lambda prompt: prompt.prefix[root : root + 1]):
        family = list(alike)
        if token and len(family) > 1:
            _plant(row, family, root, above)
        else:
            for prompt in family:
                row.ask(prompt, root, above)
