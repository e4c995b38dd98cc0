"""An open model on this machine, through ``transformers``: score continuations of a prompt, or generate.

Nothing here knows of items or rankings; it answers requests (plain dictionaries) with responses.
"""

import functools
import itertools
import re
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from hybridrec import progress
from hybridrec.errors import ModelError
from hybridrec.llm.models import devices, packed, weights
from hybridrec.llm.models.cards import ModelCard
from hybridrec.llm.models.settings import LocalSettings
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Finished, Keep, Response
from hybridrec.settings import checked

# How many characters of prompts and candidates are scored together (a token has about four): more is no faster, and a
# killed run loses what was not answered yet.
_CHARACTERS_TOGETHER = 12_000
# How many answers are written together, and out of how many the most alike in length are taken.
_GENERATED_TOGETHER = 16
_WAITING = 256
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")


class HuggingFace:
    """A causal language model on this machine; it answers "score", "choose" and "generate" requests.

    Its weights are loaded when the first request has to be computed.

    Recordings are keyed by the weights: of a card by the name and the hash of its file, of a GGUF file by its hash, of
    a folder by the hash of its safetensors, of a model on the hub by its id and commit. A commit that is not given is
    looked up when the first key is wanted: in the local cache of the hub, else on the hub. A dtype other than float32
    and a device other than the CPU are part of the key: answers differ a little.

    Args:
        model: the name of a card (``cards.MODELS``), the path of a .gguf file, a folder with safetensors and tokenizer,
            or an id of the Hugging Face hub such as "org/name".
        revision: for a model on the hub: a branch, a tag or a commit; None: its main branch.
        dtype: "float32" or "bfloat16", of weights and computation; log-probabilities are always float32.
        device: "cpu", "cuda" or "cuda:1". One that is not there is an error when the weights are loaded, so that
            what was recorded on it can be replayed without it.
        folder: where models are kept that were converted from GGUF; None: ``~/.cache/hybridrec/models``.
        search: for a card: further folders in which its GGUF file may lie; the last is where it is fetched to.

    Raises:
        SettingError: a dtype, device or revision that is none.
        ModelError: a model that is none of these; a folder without a whole model. Later: a model that the hub does not
            give, that transformers cannot load, or that does not fit the device; a device that is not there.
    """

    def __init__(
        self, model: str | Path, *, revision: str | None = None, dtype: str = "float32", device: str = "cpu",
        folder: str | Path | None = None, search: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        self.loaded = checked(LocalSettings, {"revision": revision, "dtype": dtype, "device": device}, str(model))
        self.source = weights.find(model, revision, models=Path(folder) if folder else None, search=search)
        self.name = self.source.name
        self._waiting: list[tuple[Asked, Keep]] = []
        self._unscored: list[tuple[Asked, Keep]] = []

    # --- the interface of runner.Model ----------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of the weights' identity, the request and the attempt; of dtype and device if not the usual."""
        usual, how = LocalSettings(), {"dtype": self.loaded.dtype, "device": self.loaded.device.partition(":")[0]}
        unusual = {name: value for name, value in how.items() if value != getattr(usual, name)}
        return request_key({"model": self.source.identity, **unusual, **asked.request}, asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Collect the request; answer a batch when there is enough for one.

        What is scored goes in the order in which it came, and one user's requests stay together: they begin alike.
        """
        if asked.request["kind"] == "generate":
            self._waiting.append((asked, keep))
            return self._next_batch() if len(self._waiting) >= _WAITING else []
        size = sum(_characters(one.request) for one, _ in self._unscored)
        same = self._unscored and asked.user is not None and asked.user == self._unscored[-1][0].user
        finished = self._scored() if size + _characters(asked.request) > _CHARACTERS_TOGETHER and not same else []
        self._unscored.append((asked, keep))
        return finished

    def wait(self) -> Finished:
        """The next batch of what was collected."""
        return self._scored() or (self._next_batch() if self._waiting else [])

    def usd(self, response: Response) -> float:
        """Nothing: this machine is not billed by the answer (notebook 06 prices its hours)."""
        return 0.0

    def close(self) -> None:
        """Forget what was collected and not begun."""
        self._waiting.clear()
        self._unscored.clear()

    def _next_batch(self) -> Finished:
        """The shortest of what was collected, generated together (padding is wasted work)."""
        self._waiting.sort(key=lambda one: (len(one[0].request["candidates"]), len(one[0].request["instruction"])))
        batch, self._waiting = self._waiting[:_GENERATED_TOGETHER], self._waiting[_GENERATED_TOGETHER:]
        return self._answered(batch)

    def _scored(self) -> Finished:
        batch, self._unscored = self._unscored, []
        return self._answered(batch) if batch else []

    def _answered(self, batch: list[tuple[Asked, Keep]]) -> Finished:
        responses = self.answer([asked.request for asked, _ in batch])
        return [(asked, keep(asked, response)) for (asked, keep), response in zip(batch, responses, strict=True)]

    # --- loading ----------------------------------------------------------------------------------------------------

    @property
    def card(self) -> ModelCard | None:
        """The card of the weights, if they have one."""
        return self.source.card

    def find(self) -> str:
        """Find out whether the model is to be had, without fetching its weights.

        Returns:
            A line if its device is not there, so that it can answer only what is recorded; else "".

        Raises:
            ModelError: the hub does not give it.
        """
        self.source.look_up()
        try:
            devices.device(self.loaded.device)
        except ModelError as error:
            return f"{self.name}: {error} Until then, only recorded answers can be had."
        return ""

    def folder(self) -> Path:
        """Where the weights lie; fetched and converted if need be."""
        return self.source.folder()

    @property
    def chat(self) -> bool:
        """Whether it was taught to answer in a chat; a base model only goes on with a text."""
        return self.card.chat if self.card else bool(self.tokenizer.chat_template)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left."""
        tokenizer = self._from(AutoTokenizer, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The weights, on their device."""
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        device = devices.device(self.loaded.device)
        _tell_once(devices.advice(self.loaded.dtype, device))
        model = self._from(AutoModelForCausalLM, dtype=devices.DTYPES[self.loaded.dtype]).eval()
        try:
            return model.to(device)
        except torch.OutOfMemoryError:
            raise ModelError(
                f'{self.name} does not fit the memory of {device}: take dtype = "bfloat16", or a smaller model.'
            ) from None

    def _from(self, kind: Any, **options: Any) -> Any:
        """What transformers loads from the folder."""
        folder = self.folder()
        try:
            return kind.from_pretrained(folder, **options)
        except (ValueError, KeyError, ImportError, OSError, safetensors.SafetensorError) as error:
            raise ModelError(
                f"{self.name} cannot be loaded by transformers ({weights.first_line(error)}): see whether its files "
                "are whole, and whether this version of transformers knows its kind."
            ) from None

    def answer(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer requests together: all of them written ("generate"), or none."""
        return self._generate(requests) if requests[0]["kind"] == "generate" else self._score(requests)

    # --- scoring ------------------------------------------------------------------------------------------------

    def _score(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Log-probabilities of every candidate of every request.

        "score": of the continuation's own tokens, summed. "choose": of the first token of each choice. Neighbours that
        differ in their candidates only are one prompt.
        """
        start = time.perf_counter()
        alike = [list(group) for _, group in itertools.groupby(requests, _without_candidates)]
        prompts = [
            self._prompt({**group[0], "candidates": [text for request in group for text in request["candidates"]]})
            for group in alike
        ]
        found = packed.log_probs(self.model, prompts)
        seconds = (time.perf_counter() - start) / sum(prompt.size for prompt in prompts)
        responses = []
        for group, prompt, values in zip(alike, prompts, found, strict=True):
            at = 0
            for request in group:
                own = slice(at, at + len(request["candidates"]))
                responses.append(self._numbers(prompt, own, values[own], seconds))
                at = own.stop
        return responses

    def _prompt(self, request: dict[str, Any]) -> packed.Prompt:
        before, after = self._around(request["instruction"])
        if request["kind"] == "score":
            return packed.Prompt(self._tokens(before + after), [self._tokens(text) for text in request["candidates"]])
        suffixes = [self._tokens(text + after) for text in request["candidates"]]
        choices = [self._tokens(choice)[0] for choice in request["choices"]]
        return packed.Prompt(self._tokens(before), suffixes, choices)

    def _numbers(self, prompt: packed.Prompt, own: slice, found: list[torch.Tensor], seconds: float) -> dict[str, Any]:
        """The response to a request that has its ``own`` candidates of a prompt; ``seconds`` are those of one token.

        The tokens of what the prompt's requests share count for the first of them.
        """
        exact = [[round(p, 5) for p in values.tolist()] for values in found]
        lengths = [len(suffix) for suffix in prompt.suffixes[own]]
        computed = 0 if own.start else len(prompt.prefix)
        return {
            "log_probs": exact if prompt.choices else [round(float(values.sum()), 5) for values in found],
            "lengths": lengths,
            "prompt_tokens": computed + sum(lengths),
            "cached_tokens": len(prompt.prefix) * len(lengths) - computed,
            "completion_tokens": 0,
            "seconds": round(seconds * (computed + sum(lengths)), 3),
        }

    # --- generating ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _generate(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Greedy continuations of a batch; each stops at its own end, at a repeated line or at the longest budget."""
        start = time.perf_counter()
        inputs = self._padded(requests)
        width = inputs["input_ids"].shape[1]
        budgets = [self._budget(request["candidates"]) for request in requests]
        stop = StoppingCriteriaList([_StopAtRepeatedLine(self.tokenizer, width, budgets)])
        options = {"do_sample": False, "max_new_tokens": max(budgets), "pad_token_id": self.tokenizer.pad_token_id}
        output = self.model.generate(**inputs, **options, stopping_criteria=stop)
        seconds = round((time.perf_counter() - start) / len(requests), 3)
        answers = zip(output[:, width:].tolist(), inputs["attention_mask"].sum(1).tolist(), budgets, strict=True)
        return [self._generated(new, n, budget, seconds) for new, n, budget in answers]

    def _padded(self, requests: list[dict[str, Any]]) -> Any:
        """The prompts as one batch of tokens."""
        prompts = ["".join(self._around(request["instruction"])) for request in requests]
        return self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)

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

    def count(self, request: dict[str, Any]) -> tuple[int, int]:
        """Tokens of the prompt (what the candidates share counted once), and the most that the answer can have."""
        if request["kind"] == "generate":
            return len(self._tokens("".join(self._around(request["instruction"])))), self._budget(request["candidates"])
        return self._prompt(request).size, 0

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
        if not self.chat:
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


@functools.cache
def _tell_once(line: str) -> None:
    if line:
        progress.tell(line)


def _without_candidates(request: dict[str, Any]) -> list[Any]:
    """What a prompt is made of, apart from the candidates."""
    return [request["kind"], request["instruction"], request.get("choices")]


def _characters(request: dict[str, Any]) -> int:
    """The length of a request."""
    return len(request["instruction"]) + sum(map(len, request["candidates"]))
