"""An open model on this machine, through ``transformers``: score continuations of a shared prefix, or generate.

Nothing here knows of items or rankings; it answers requests (plain dictionaries) with responses.
"""

import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

warnings.filterwarnings("ignore", message="IProgress not found")  # transformers imports a notebook bar we do not use
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StoppingCriteria, StoppingCriteriaList  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from hybridrec import paths  # noqa: E402
from hybridrec.downloads import fetch  # noqa: E402
from hybridrec.llm.models import ModelCard, model_card  # noqa: E402
from hybridrec.llm.recordings import request_key  # noqa: E402
from hybridrec.llm.runner import Asked, Finished, Keep, Response  # noqa: E402

# How many tokens of candidates are scored in one forward pass: more only makes the mask larger.
_TOKENS_PER_PASS = 512
# How many answers are written together, and out of how many the most alike in length are taken.
_GENERATED_TOGETHER = 16
_WAITING = 256
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")


def converted_folder(card: ModelCard) -> Path:
    """The model as safetensors, converted from GGUF on first use (loading is then tens of times faster).

    The folder appears under its final name only when it is complete.
    """
    folder = paths.MODELS / f"{card.name}-{card.file.sha256[:12]}"
    if not folder.exists():
        gguf = fetch(card.file, paths.RAW, paths.data_folders())
        scratch = folder.with_suffix(".partial")
        shutil.rmtree(scratch, ignore_errors=True)
        options = {"gguf_file": gguf.name}
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(scratch)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        # The weights are plain float32 now; transformers refuses to save what it still believes to be quantised.
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
        model.save_pretrained(scratch)
        scratch.rename(folder)
    return folder


class LocalModel:
    """A causal language model in float32 on the CPU; it answers "score", "choose" and "generate" requests.

    It is loaded when the first request has to be computed.

    Args:
        name: a key of models.MODELS.
    """

    def __init__(self, name: str) -> None:
        self.name, self.card = name, model_card(name)
        self._waiting: list[tuple[Asked, Keep]] = []
        self._held: tuple[list[int], DynamicCache] = [], DynamicCache()

    # --- the interface of runner.Model ----------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of the weights' identity, the request and the attempt."""
        return request_key({"model": self.card.identity, **asked.request}, asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Answer at once what is scored; collect what is written, so that alike lengths share a batch."""
        if asked.request["kind"] != "generate":
            return [(asked, keep(asked, response)) for response in self.answer([asked.request])]
        self._waiting.append((asked, keep))
        return self._next_batch() if len(self._waiting) >= _WAITING else []

    def wait(self) -> Finished:
        """The next batch of what was collected."""
        return self._next_batch() if self._waiting else []

    def usd(self, response: Response) -> float:
        """Nothing: this machine is not billed by the answer (notebook 06 prices its hours)."""
        return 0.0

    def close(self) -> None:
        """Forget what was collected and not begun."""
        self._waiting.clear()

    def _next_batch(self) -> Finished:
        """The shortest of what was collected, generated together (padding is wasted work)."""
        self._waiting.sort(key=lambda one: (len(one[0].request["candidates"]), len(one[0].request["instruction"])))
        batch, self._waiting = self._waiting[:_GENERATED_TOGETHER], self._waiting[_GENERATED_TOGETHER:]
        responses = self.answer([asked.request for asked, _ in batch])
        return [(asked, keep(asked, response)) for (asked, keep), response in zip(batch, responses, strict=True)]

    # --- loading ----------------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left."""
        tokenizer = AutoTokenizer.from_pretrained(converted_folder(self.card), padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The weights."""
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        return AutoModelForCausalLM.from_pretrained(converted_folder(self.card), dtype=torch.float32).eval()

    def answer(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer requests of one kind; ``generate`` requests share a batch, the others share each user's prefix."""
        if requests[0]["kind"] == "generate":
            return self._generate(requests)
        return [self._score(request) for request in requests]

    # --- scoring ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _score(self, request: dict[str, Any]) -> dict[str, Any]:
        """Log-probabilities of every candidate after one shared prefix.

        "score": of the continuation's own tokens, summed. "choose": of the first token of each choice.
        """
        start = time.perf_counter()
        before, after = self._around(request["instruction"])
        kind, texts = request["kind"], request["candidates"]
        prefix = self._tokens(before + after if kind == "score" else before)
        suffixes = [self._tokens(text if kind == "score" else text + after) for text in texts]
        cache, last = self._prefill(prefix)
        log_probs: list[Any] = []
        for passed in _passes(suffixes):
            if kind == "score":
                log_probs += _sequence_log_probs(last, self._continue(cache, passed), passed)
            else:
                ends = self._continue(cache, passed, ends_only=True)
                log_probs += self._choice_log_probs(ends, request["choices"])
        own = sum(len(suffix) for suffix in suffixes)
        return {
            "log_probs": log_probs,
            "lengths": [len(suffix) for suffix in suffixes],
            "prompt_tokens": len(prefix) + own,
            "cached_tokens": len(prefix) * (len(suffixes) - 1),
            "completion_tokens": 0,
            "seconds": round(time.perf_counter() - start, 3),
        }

    def _prefill(self, prefix: list[int]) -> tuple[DynamicCache, torch.Tensor]:
        """Keys and values of the prefix, and log-probabilities of the token after it, shape (vocabulary,).

        What the prefix has in common with the one before it (a user's history, when the same user is asked in another
        way) is not computed again.
        """
        held, cache = self._held
        common = min(_shared(held, prefix), len(prefix) - 1)
        if surplus := cache.get_seq_length() - common:
            cache.crop(-surplus)
        self._held = [], DynamicCache()  # an interrupted pass leaves nothing half extended behind
        out = self.model(torch.tensor([prefix[common:]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._held = prefix, cache
        return cache, torch.log_softmax(out.logits[0, -1], dim=-1)

    def _continue(
        self, cache: DynamicCache, suffixes: list[list[int]], ends_only: bool = False
    ) -> Sequence[torch.Tensor]:
        """Logits after each token of each suffix, or after its last one: a tensor (tokens, vocabulary) a suffix.

        The suffixes stand one after the other in a single row. A mask lets each see the prefix and itself alone, and
        positions start anew: so the prefix is neither computed nor copied again, and nothing is padded.
        """
        seen, lengths = cache.get_seq_length(), torch.tensor([len(suffix) for suffix in suffixes])
        owner = torch.repeat_interleave(torch.arange(len(suffixes)), lengths)
        places = torch.cat([torch.arange(seen, seen + length) for length in lengths])
        own = (owner[:, None] == owner) & (places[:, None] >= places)
        mask = torch.cat([torch.ones(len(own), seen, dtype=torch.bool), own], dim=1)
        out = self.model(
            torch.tensor([[token for suffix in suffixes for token in suffix]]),
            attention_mask=self._masks(mask, places),
            position_ids=places[None],
            past_key_values=cache,
            logits_to_keep=lengths.cumsum(0) - 1 if ends_only else 0,
        )
        cache.crop(-len(places))
        return out.logits[0].split([1] * len(suffixes) if ends_only else lengths.tolist())

    def _masks(self, mask: torch.Tensor, places: torch.Tensor) -> Any:
        """The mask as the model takes it; layers that only look so far back (Gemma's) get one of their own."""
        config = self.model.config
        if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
            return mask[None, None]
        seen = mask.shape[1] - mask.shape[0]
        near = places[:, None] - torch.cat([torch.arange(seen), places]) < config.sliding_window
        return {"full_attention": mask[None, None], "sliding_attention": (mask & near)[None, None]}

    def _choice_log_probs(self, logits: Sequence[torch.Tensor], choices: list[str]) -> list[list[float]]:
        """log P(choice) at the end of each suffix, one list (in the order of ``choices``) a suffix."""
        tokens = [self._tokens(choice)[0] for choice in choices]
        ends = torch.stack([each[-1] for each in logits])
        return [[round(p, 5) for p in row] for row in torch.log_softmax(ends, dim=-1)[:, tokens].tolist()]

    # --- generating ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _generate(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Greedy continuations of a batch; each stops at its own end, at a repeated line or at the longest budget."""
        start = time.perf_counter()
        prompts = ["".join(self._around(request["instruction"])) for request in requests]
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        width = inputs["input_ids"].shape[1]
        budgets = [self._budget(request["candidates"]) for request in requests]
        stop = StoppingCriteriaList([_StopAtRepeatedLine(self.tokenizer, width, budgets)])
        options = {"do_sample": False, "max_new_tokens": max(budgets), "pad_token_id": self.tokenizer.pad_token_id}
        output = self.model.generate(**inputs, **options, stopping_criteria=stop)
        seconds = round((time.perf_counter() - start) / len(requests), 3)
        answers = zip(output[:, width:].tolist(), inputs["attention_mask"].sum(1).tolist(), budgets, strict=True)
        return [self._generated(new, n, budget, seconds) for new, n, budget in answers]

    def _generated(self, new: list[int], prompt_tokens: int, budget: int, seconds: float) -> dict[str, Any]:
        ends = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        length = next((i for i, token in enumerate(new) if token in ends), len(new))
        length = min(length, budget)
        return {
            "text": self.tokenizer.decode(new[:length], skip_special_tokens=True),
            "finish_reason": "length" if length >= budget else "stop",
            "prompt_tokens": prompt_tokens,
            "cached_tokens": 0,
            "completion_tokens": length,
            "seconds": seconds,
        }

    def _budget(self, candidates: list[str]) -> int:
        """New tokens a complete answer can need: every candidate once, with its list mark and line break."""
        return sum(len(self._tokens(title)) + 5 for title in candidates) + 16

    # --- text ---------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _around(self, instruction: str) -> tuple[str, str]:
        """The chat template around an instruction, split where a candidate's question would be inserted.

        A base model has none: it goes on with the text on a new line.
        """
        if not self.card.chat:
            return (self.tokenizer.bos_token or "") + instruction, "\n"
        mark = "\x00"
        messages = [{"role": "user", "content": instruction + mark}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, after = text.split(mark)
        return before, after


class _StopAtRepeatedLine(StoppingCriteria):
    """Stop a sequence once it has written the same line twice, or has used its own budget.

    Small models asked for a list go on repeating it; a line that was written before adds nothing to a ranking.
    """

    def __init__(self, tokenizer: Any, prompt_width: int, budgets: list[int]) -> None:
        self.tokenizer, self.prompt_width, self.budgets = tokenizer, prompt_width, budgets

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        new = input_ids[:, self.prompt_width :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return torch.tensor([new.shape[1] >= b or _repeats(text) for text, b in zip(texts, self.budgets, strict=True)])


def _repeats(text: str) -> bool:
    """Whether two complete lines say the same, list marks aside."""
    lines = [_LIST_MARK.sub("", line).strip() for line in text.split("\n")[:-1] if line.strip()]
    return len(lines) != len(set(lines))


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _passes(suffixes: list[list[int]]) -> Iterator[list[list[int]]]:
    """Consecutive suffixes, as many as fit into a forward pass."""
    passed: list[list[int]] = []
    for suffix in suffixes:
        if passed and sum(map(len, passed)) + len(suffix) > _TOKENS_PER_PASS:
            yield passed
            passed = []
        passed.append(suffix)
    if passed:
        yield passed


def _sequence_log_probs(last: torch.Tensor, logits: Sequence[torch.Tensor], suffixes: list[list[int]]) -> list[float]:
    """Sum of each suffix's token log-probabilities; its first token is predicted by the prefix (``last``)."""
    sums = []
    for each, suffix in zip(logits, suffixes, strict=True):
        tokens = torch.tensor(suffix)
        rest = torch.log_softmax(each[:-1], dim=-1).gather(1, tokens[1:, None]).sum()
        sums.append(round(float(last[tokens[0]] + rest), 5))
    return sums
