"""Log-probabilities of many continuations of many prompts, in one forward pass of a causal language model.

All texts are joined into one row of tokens, so nothing is padded and whatever several prompts begin with is computed
once. The row is a tree: its root is what all prompts begin with, below it each user's history, below that what one way
to ask adds, and at the ends the candidates, side by side. A node of this tree is a *branch*. Attention lets each token
see the branches above its own and the tokens before it in its own text, which is what it would see in a text by itself;
its position is also that in its own text.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from hybridrec.errors import ModelError

# How many tokens are computed together. Longer rows are no faster, and need more memory.
_TOKENS_PER_PASS = 2048
# How many tokens of candidates share a mask: each of them is also compared with all the others, for nothing.
_TOKENS_BESIDE = 128
# How many rows of logits, each as wide as the vocabulary, are held at once.
_LOGITS_TOGETHER = 128
_ATTENTION = "branches"


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


@torch.inference_mode()
def log_probs(model: Any, prompts: Sequence[Prompt]) -> list[list[torch.Tensor]]:
    """The log-probabilities that each prompt wants.

    Args:
        model: a causal language model of transformers, in float32.
        prompts: in any order.

    Returns:
        For each prompt one tensor a suffix: of the choices' log-probabilities, or of the suffix's tokens' if the prompt
        has no choices.

    Raises:
        ModelError: the model changes its logits after the last layer, which is not done here (names the setting).
    """
    _check(model.config)
    pieces = [(number, piece) for number, prompt in enumerate(prompts) for piece in _pieces(prompt)]
    pieces.sort(key=lambda one: one[1].prefix)  # so that those that begin alike stand together
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for passed in together(pieces, _TOKENS_PER_PASS, lambda one: one[1].size):
        for (number, _), values in zip(passed, _pass(model, [piece for _, piece in passed]), strict=True):
            found[number] += values
    return found


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


def _check(config: Any) -> None:
    for name, harmless in (("final_logit_softcapping", None), ("logit_scale", 1), ("logits_scaling", 1)):
        if getattr(config, name, harmless) not in (harmless, None):
            raise ModelError(f"this model sets {name}, without which its scores would be wrong: choose another model.")


def _pieces(prompt: Prompt) -> Iterator[Prompt]:
    """The prompt split into several, each with as many of its suffixes as fit in one pass.

    The length of the prefix does not count: it is computed again for each piece, so that fewer pieces are less work.
    """
    for suffixes in together(prompt.suffixes, _TOKENS_PER_PASS):
        yield Prompt(prompt.prefix, suffixes, prompt.choices)


# --- a row and its branches -------------------------------------------------------------------------------------------


@dataclass
class _Branch:
    """A node of the tree: one text, or several alternative texts (*runs*) that follow the same tokens.

    A token sees the tokens ``above`` and the earlier ones of its own run, but no other run.

    ``above`` and ``own`` are places in the row. ``positions`` (one per own token) are places in the token's own text;
    ``run`` (likewise) says to which run it belongs.
    """

    above: tuple[slice, ...]
    own: slice
    positions: torch.Tensor
    run: torch.Tensor
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def seen(self, states: torch.Tensor) -> torch.Tensor:
        """Keys or values of the tokens above and the branch's own, (1, heads, seen, size)."""
        return torch.cat([states[:, :, part] for part in (*self.above, self.own)], dim=2)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """What is added to the attention scores, (own, seen): 0 where a token may look, else the lowest number.

        None where the usual causal mask does, whose kernel is faster. It takes as many queries as keys, so that the
        queries of the tokens above are computed again, too: it is used only where these are the fewer.

        Args:
            window: how many tokens a layer looks back; None: it sees all.
        """
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        return self.masks[window]

    def _mask(self, window: int | None) -> torch.Tensor | None:
        n_above, n_own = _length(self.above), len(self.positions)
        if n_above < n_own and not self.run.any() and (window is None or n_above + n_own <= window):
            return None
        positions = torch.cat([torch.arange(n_above), self.positions])
        run = torch.cat([torch.full((n_above,), -1), self.run])
        back = self.positions[:, None] - positions
        seen = ((run < 0) | (run == self.run[:, None])) & (back >= 0)
        if window is not None:
            seen &= back < window
        # As numbers: torch would turn truth values into them again in every layer.
        return torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)


@dataclass
class _Row:
    """The tokens of one forward pass, their branches, and which log-probabilities are wanted.

    Wanted is the log-probability of token ``targets[i]`` after the token at place ``sources[i]`` of the row, for each
    i. ``sizes`` says how many of these belong to each suffix, in order.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[_Branch] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def grow(self, runs: Sequence[list[int]], above: tuple[slice, ...] = ()) -> tuple[slice, ...]:
        """Add a branch of these runs below ``above``; returns the places above whatever is added below it."""
        start, n_above = len(self.tokens), _length(above)
        positions = [position for run in runs for position in range(n_above, n_above + len(run))]
        numbers = [number for number, run in enumerate(runs) for _ in run]
        self.tokens += [token for run in runs for token in run]
        self.positions += positions
        own = slice(start, len(self.tokens))
        if positions:
            self.branches.append(_Branch(above, own, torch.tensor(positions), torch.tensor(numbers)))
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


def _length(parts: tuple[slice, ...]) -> int:
    return sum(part.stop - part.start for part in parts)


def _common(suffixes: Sequence[list[int]]) -> int:
    """How many tokens all suffixes begin with, leaving at least one token to each."""
    return min(min(shared(suffixes[0], suffix), len(suffix) - 1) for suffix in suffixes)


def _row(prompts: Sequence[Prompt]) -> _Row:
    row = _Row()
    _plant(row, prompts, 0, ())
    return row


def _plant(row: _Row, prompts: Sequence[Prompt], known: int, above: tuple[slice, ...]) -> None:
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


# --- the pass ---------------------------------------------------------------------------------------------------------


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    branches: Sequence[_Branch], scaling: float | None = None, sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention over a row, one branch after the other, with the interface of transformers.

    query, key and value are (1, heads, tokens, size); the result is (1, tokens, heads, size).
    """
    parts = []
    for branch in branches:
        mask, n_own = branch.mask(sliding_window), len(branch.positions)
        asking = branch.seen(query) if mask is None else query[:, :, branch.own]
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": mask is None, "scale": scaling, "enable_gqa": True}
        states = asking, branch.seen(key), branch.seen(value)
        parts.append(torch.nn.functional.scaled_dot_product_attention(*states, **options)[:, :, -n_own:])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attend)


def _pass(model: Any, prompts: Sequence[Prompt]) -> Iterator[list[torch.Tensor]]:
    """Each prompt's values, from one forward pass over all of them."""
    row, usual = _row(prompts), model.config._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    try:
        hidden = model.base_model(
            torch.tensor([row.tokens]),
            position_ids=torch.tensor([row.positions]),
            use_cache=False,
            branches=row.branches,
        ).last_hidden_state[0]
    finally:
        model.set_attn_implementation(usual)
    values = iter(_after(hidden, model.get_output_embeddings(), row).split(row.sizes))
    for prompt in prompts:
        yield [next(values) for _ in prompt.suffixes]


def _after(hidden: torch.Tensor, head: Any, row: _Row) -> torch.Tensor:
    """log P(target) after each source, from the hidden states (tokens, width) of a row."""
    places, which = torch.unique(torch.tensor(row.sources), return_inverse=True)
    targets = torch.tensor(row.targets)
    values = torch.empty(len(targets))
    for start in range(0, len(places), _LOGITS_TOGETHER):
        logits = head(hidden[places[start : start + _LOGITS_TOGETHER]])
        mine = (which >= start) & (which < start + _LOGITS_TOGETHER)
        at = which[mine] - start
        values[mine] = logits[at, targets[mine]] - logits.logsumexp(dim=1)[at]
    return values
