"""Log-probabilities of many continuations of many prompts, in one forward pass of a causal language model.

All texts are joined into one row of tokens (``tree``), so nothing is padded and whatever several prompts begin with is
computed once.

Not every architecture bears that: some mix neighbouring tokens outside of attention, or add to it what is not known
here. So a model is first tried on a few tokens, and one whose numbers are not those of plain passes gets plain passes.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface

from hybridrec import progress
from hybridrec.errors import ModelError
from hybridrec.llm.models.tree import Prompt, Row, row_of, together

# How many tokens are computed together. Longer rows are no faster, and need more memory; a GPU has shorter ones done
# before the next is prepared.
_TOKENS_PER_PASS, _TOKENS_PER_PASS_GPU = 2048, 8192
# How many rows of logits, each as wide as the vocabulary, are held at once.
_LOGITS_TOGETHER, _LOGITS_TOGETHER_GPU = 128, 1024
# Devices that attend to a whole row at once, though most of what they compare is not seen: a call for each branch would
# have them wait for the next call. A processor is faster branch by branch.
_AT_ONCE = ("cuda",)
# So many tokens at most: the mask has as many numbers as pairs of tokens, and a lone long history needs none by branch.
_MOST_AT_ONCE = 16_384
_ATTENTION = "branches"
# How far log-probabilities of the tree and of plain passes may be apart, on average over the tokens of the trial:
# rounding stays well below, a text that sees another's tokens is above.
_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# Words of transformers for what a layer does to its scores beyond scaling and a window: none of it is done here.
_NOT_DONE_HERE = ("softcap", "s_aux", "position_bias", "cache_position_bias")


@torch.inference_mode()
def log_probs(model: Any, prompts: Sequence[Prompt]) -> list[list[torch.Tensor]]:
    """The log-probabilities that each prompt wants, in float32 on the CPU whatever the model's dtype and device.

    Args:
        model: a causal language model of transformers.
        prompts: in any order.

    Returns:
        For each prompt one tensor a suffix: of the choices' log-probabilities, or of the suffix's tokens' if the prompt
        has no choices.

    Raises:
        ModelError: a prompt does not fit the device's memory.
    """
    if _why_plain(model):
        return [_plain(model, prompt) for prompt in prompts]
    bound = _TOKENS_PER_PASS_GPU if model.device.type == "cuda" else _TOKENS_PER_PASS
    pieces = [(number, piece) for number, prompt in enumerate(prompts) for piece in _pieces(prompt, bound)]
    pieces.sort(key=lambda one: one[1].prefix)  # so that those that begin alike stand together
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for passed in together(pieces, bound, lambda one: one[1].size):
        for (number, _), values in zip(passed, _fitting(model, [piece for _, piece in passed]), strict=True):
            found[number] += values
    return found


def _fitting(model: Any, prompts: Sequence[Prompt]) -> list[list[torch.Tensor]]:
    """Each prompt's values, from one pass, or from as many as the device's memory asks for.

    Raises:
        ModelError: one suffix alone is too much.
    """
    try:
        return list(_pass(model, prompts))
    except torch.OutOfMemoryError:
        if len(prompts) == len(prompts[0].suffixes) == 1:
            raise _too_much(model, prompts[0].size) from None
    # Out of the handler, which would keep what the failed pass had allocated.
    if len(prompts) > 1:
        middle = len(prompts) // 2
        return _fitting(model, prompts[:middle]) + _fitting(model, prompts[middle:])
    prefix, suffixes, choices = prompts[0].prefix, prompts[0].suffixes, prompts[0].choices
    middle = len(suffixes) // 2
    halves = (Prompt(prefix, some, choices) for some in (suffixes[:middle], suffixes[middle:]))
    return [[values for half in halves for values in _fitting(model, [half])[0]]]


def _too_much(model: Any, tokens: int) -> ModelError:
    return ModelError(
        f"a prompt of {tokens} tokens does not fit the memory of {model.device} beside the model: show less of the "
        'history, or take dtype = "bfloat16", or a smaller model.'
    )


def _pieces(prompt: Prompt, bound: int) -> Iterator[Prompt]:
    """The prompt split into several, each with as many of its suffixes as fit in one pass.

    The length of the prefix does not count: it is computed again for each piece, so that fewer pieces are less work.
    """
    for suffixes in together(prompt.suffixes, bound):
        yield Prompt(prompt.prefix, suffixes, prompt.choices)


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
    row = row_of(trial)
    try:
        tree = _after(hidden(model, row), model.get_output_embeddings(), row)
        text = torch.tensor([tokens], device=model.device)
        usual = model.get_output_embeddings()(model.base_model(text, use_cache=False).last_hidden_state)
    except torch.OutOfMemoryError:
        raise _too_much(model, len(row.tokens)) from None
    except Exception as error:  # whatever an architecture may raise that takes no such attention
        return f"it takes no attention but its own ({type(error).__name__}: {error})"
    if not torch.allclose(usual.float(), model(text, use_cache=False).logits.float(), rtol=1e-3, atol=1e-3):
        return "it changes its logits after the last layer"
    # What a trial of a few tokens does not show: how far layers look back.
    layers = getattr(config, "layer_types", None) or ["sliding_attention"] * bool(getattr(config, "sliding_window", 0))
    if getattr(config, "attention_chunk_size", None) or ("sliding_attention" in layers and row.windows == {None}):
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
        try:
            logits = model(text, use_cache=False, **wanted).logits[0, -len(suffix) - 1 :].float()
        except torch.OutOfMemoryError:
            raise _too_much(model, text.shape[1]) from None
        table = logits.log_softmax(dim=1).cpu()
        found.append(table[-1, prompt.choices] if prompt.choices else table[range(len(suffix)), suffix])
    return found


# --- the pass ---------------------------------------------------------------------------------------------------------


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    row: Row, scaling: float | None = None, sliding_window: int | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention over a row, with the interface of transformers.

    query, key and value are (1, heads, tokens, size); the result is (1, tokens, heads, size).
    """
    if strange := [name for name in _NOT_DONE_HERE if more.get(name) is not None]:
        raise NotImplementedError(strange[0])
    row.windows.add(sliding_window)
    at_once = query.device.type in _AT_ONCE and len(row.tokens) <= _MOST_AT_ONCE
    way = _whole if at_once else _by_branch
    return way(query, key, value, row, scaling, sliding_window).transpose(1, 2).contiguous(), None


def _by_branch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Row, scaling: float | None, window: int | None
) -> torch.Tensor:
    """One branch after the other: only what is seen is compared."""
    parts = []
    for branch in row.branches:
        mask, n_own = branch.mask(window, query), len(branch.positions)
        asking = branch.seen(query) if mask is None else query[:, :, branch.own]
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": mask is None, "scale": scaling, "enable_gqa": True}
        states = asking, branch.seen(key), branch.seen(value)
        parts.append(torch.nn.functional.scaled_dot_product_attention(*states, **options)[:, :, -n_own:])
    return torch.cat(parts, dim=2)


def _whole(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Row, scaling: float | None, window: int | None
) -> torch.Tensor:
    """The whole row in one call. Keys are repeated for their queries: with a mask, no fast kernel does that itself."""
    if (times := query.shape[1] // key.shape[1]) > 1:
        key, value = (one.repeat_interleave(times, dim=1) for one in (key, value))
    mask = row.mask(window, query)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


AttentionInterface.register(_ATTENTION, _attend)


def _pass(model: Any, prompts: Sequence[Prompt]) -> Iterator[list[torch.Tensor]]:
    """Each prompt's values, from one forward pass over all of them."""
    row = row_of(prompts)
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
            row=row,
        ).last_hidden_state[0]
    finally:
        model.set_attn_implementation(usual)


def _after(hidden: torch.Tensor, head: Any, row: Row) -> torch.Tensor:
    """log P(target) after each source, in float32, from the hidden states (tokens, width) of a row."""
    places, which = torch.unique(torch.tensor(row.sources), return_inverse=True)
    targets = torch.tensor(row.targets)
    values = torch.empty(len(targets))
    count = _LOGITS_TOGETHER_GPU if hidden.is_cuda else _LOGITS_TOGETHER
    for start in range(0, len(places), count):
        logits = head(hidden[places[start : start + count].to(hidden.device)]).float()
        mine = (which >= start) & (which < start + count)
        at = (which[mine] - start).to(hidden.device)
        values[mine] = (logits[at, targets[mine].to(hidden.device)] - logits.logsumexp(dim=1)[at]).cpu()
    return values
