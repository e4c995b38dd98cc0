"""Log-probabilities of many continuations of many prompts, in one forward pass of a causal language model.

All texts are joined into one row of tokens, so nothing is padded and whatever several prompts begin with is computed
once. The row is a tree: its root is what all prompts begin with, below it each user's history, below that what one way
to ask adds, and at the ends the candidates, side by side. A node of this tree is a *branch*. Attention lets each token
see the branches above its own and the tokens before it in its own text, which is what it would see in a text by itself;
its position is also that in its own text.

Not every architecture bears that: some mix neighbouring tokens outside of attention, or add to it what is not known
here. So a model is first tried on a few tokens, and one whose numbers are not those of plain passes gets plain passes.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface

from hybridrec import progress

# How many tokens are computed together. Longer rows are no faster, and need more memory.
_TOKENS_PER_PASS = 2048
# How many tokens of candidates share a mask: each of them is also compared with all the others, for nothing.
_TOKENS_BESIDE = 128
# How many rows of logits, each as wide as the vocabulary, are held at once.
_LOGITS_TOGETHER = 128
_ATTENTION = "branches"
# How far log-probabilities of the tree and of plain passes may be apart, on average over the tokens of the trial:
# rounding stays well below, a text that sees another's tokens is above.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# Words of transformers for what a layer does to its scores beyond scaling and a window: none of it is done here.
_NOT_DONE_HERE = ("softcap", "s_aux", "position_bias", "cache_position_bias")


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
    """The log-probabilities that each prompt wants, in float32 on the CPU whatever the model's dtype and device.

    Args:
        model: a causal language model of transformers.
        prompts: in any order.

    Returns:
        For each prompt one tensor a suffix: of the choices' log-probabilities, or of the suffix's tokens' if the prompt
        has no choices.
    """
    if _why_plain(model):
        return [_plain(model, prompt) for prompt in prompts]
    pieces = [(number, piece) for number, prompt in enumerate(prompts) for piece in _pieces(prompt)]
    pieces.sort(key=lambda one: one[1].prefix)  # so that those that begin alike stand together
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for passed in together(pieces, _TOKENS_PER_PASS, lambda one: one[1].size):
        for (number, _), values in zip(passed, _pass(model, [piece for _, piece in passed]), strict=True):
            found[number] += values
    return found


# --- whether the tree is right for a model ----------------------------------------------------------------------------

_tried: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()


def _why_plain(model: Any) -> str:
    """Why a model gets plain passes; "" if the tree gives what they give. Found out once for each model, and told."""
    if model not in _tried:
        _tried[model] = _difference(model)
        if _tried[model]:
            progress.tell(
                f"{type(model).__name__} is scored one candidate at a time, which is slower: {_tried[model]}."
            )
    return _tried[model]


def _difference(model: Any) -> str:
    """What is wrong with a model's numbers from the tree, on two texts of a few tokens; "" if nothing is."""
    config = model.config.get_text_config()
    tokens = [3 + 7 * at % (config.vocab_size - 3) for at in range(40)]
    trial = [
        Prompt(tokens[:14], [tokens[14:18], tokens[18:20], tokens[20:25]]),
        Prompt(tokens[:9] + tokens[25:28], [tokens[28:31], tokens[28:30] + tokens[31:32]], tokens[32:34]),
    ]
    trial.sort(key=lambda prompt: prompt.prefix)
    row = _row(trial)
    try:
        tree = _after(hidden(model, row), model.get_output_embeddings(), row)
        text = torch.tensor([tokens], device=model.device)
        usual = model.get_output_embeddings()(model.base_model(text, use_cache=False).last_hidden_state)
    except Exception as error:  # whatever an architecture may raise that takes no such attention
        return f"it takes no attention but its own ({type(error).__name__}: {error})"
    if not torch.allclose(usual.float(), model(text, use_cache=False).logits.float(), rtol=1e-3, atol=1e-3):
        return "it changes its logits after the last layer"
    # What a trial of a few tokens does not show: how far layers look back.
    windows = {window for branch in row.branches for window, *_ in branch.masks}
    layers = getattr(config, "layer_types", None) or ["sliding_attention"] * bool(getattr(config, "sliding_window", 0))
    if getattr(config, "attention_chunk_size", None) or ("sliding_attention" in layers and windows == {None}):
        return "its layers do not tell our attention how far they look back"
    plain = torch.cat([values for prompt in trial for values in _plain(model, prompt)])
    apart = float((tree - plain).abs().mean())
    return "" if apart <= _ROUNDING.get(model.dtype, 0) else f"together, log-probabilities would be off by {apart:.2g}"


def _plain(model: Any, prompt: Prompt) -> list[torch.Tensor]:
    """A prompt's values from one pass a suffix, with the model's own attention and logits."""
    found, few = [], "logits_to_keep" in inspect.signature(model.forward).parameters
    for suffix in prompt.suffixes:
        wanted = {"logits_to_keep": len(suffix) + 1} if few else {}
        text = torch.tensor([prompt.prefix + suffix], device=model.device)
        logits = model(text, use_cache=False, **wanted).logits[0, -len(suffix) - 1 :].float()
        table = logits.log_softmax(dim=1).cpu()
        found.append(table[-1, prompt.choices] if prompt.choices else table[range(len(suffix)), suffix])
    return found


# --- parts ------------------------------------------------------------------------------------------------------------


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
        # As numbers: torch would turn truth values into them again in every layer.
        mask = torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, torch.finfo(like.dtype).min)
        return mask.to(like.device)


@dataclass
class Row:
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


def _row(prompts: Sequence[Prompt]) -> Row:
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


# --- the pass ---------------------------------------------------------------------------------------------------------


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    branches: Sequence[_Branch], scaling: float | None = None, sliding_window: int | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention over a row, one branch after the other, with the interface of transformers.

    query, key and value are (1, heads, tokens, size); the result is (1, tokens, heads, size).
    """
    if strange := [name for name in _NOT_DONE_HERE if more.get(name) is not None]:
        raise NotImplementedError(strange[0])
    parts = []
    for branch in branches:
        mask, n_own = branch.mask(sliding_window, query), len(branch.positions)
        asking = branch.seen(query) if mask is None else query[:, :, branch.own]
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": mask is None, "scale": scaling, "enable_gqa": True}
        states = asking, branch.seen(key), branch.seen(value)
        parts.append(torch.nn.functional.scaled_dot_product_attention(*states, **options)[:, :, -n_own:])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attend)


def _pass(model: Any, prompts: Sequence[Prompt]) -> Iterator[list[torch.Tensor]]:
    """Each prompt's values, from one forward pass over all of them."""
    row = _row(prompts)
    values = iter(_after(hidden(model, row), model.get_output_embeddings(), row).split(row.sizes))
    for prompt in prompts:
        yield [next(values) for _ in prompt.suffixes]


def hidden(model: Any, row: Row) -> torch.Tensor:
    """The hidden states (tokens, width) of a row after the last layer."""
    usual = model.config._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    try:
        return model.base_model(
            torch.tensor([row.tokens], device=model.device),
            position_ids=torch.tensor([row.positions], device=model.device),
            use_cache=False,
            branches=row.branches,
        ).last_hidden_state[0]
    finally:
        model.set_attn_implementation(usual)


def _after(hidden: torch.Tensor, head: Any, row: Row) -> torch.Tensor:
    """log P(target) after each source, in float32, from the hidden states (tokens, width) of a row."""
    places, which = torch.unique(torch.tensor(row.sources), return_inverse=True)
    targets = torch.tensor(row.targets)
    values = torch.empty(len(targets))
    for start in range(0, len(places), _LOGITS_TOGETHER):
        logits = head(hidden[places[start : start + _LOGITS_TOGETHER].to(hidden.device)]).float()
        mine = (which >= start) & (which < start + _LOGITS_TOGETHER)
        at = (which[mine] - start).to(hidden.device)
        values[mine] = (logits[at, targets[mine].to(hidden.device)] - logits.logsumexp(dim=1)[at]).cpu()
    return values
