"""An open model on this machine, through ``transformers``: score continuations of a prompt, or generate.

Nothing here knows of items or rankings; it answers requests (plain dictionaries) with responses.
"""

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hybridrec import progress
from hybridrec.errors import ModelError
from hybridrec.llm.models import devices, packed, tree, weights, writing
from hybridrec.llm.models.cards import ModelCard
from hybridrec.llm.models.settings import LocalSettings
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Finished, Keep, Response
from hybridrec.settings import checked

# How many characters of prompts and candidates are scored together (a token has about four): more is no faster, and a
# killed run loses what was not answered yet. A GPU has more to do at once.
_CHARACTERS_TOGETHER, _CHARACTERS_TOGETHER_GPU = 12_000, 96_000
# How many requests for written answers are collected, so that those of one length are written together.
_WAITING = 256
# How answers are written; part of their keys. Another number: another budget or stop rule, so they are asked for again.
_WRITING = 2


class HuggingFace:
    """A causal language model on this machine; it answers requests of every kind.

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
        writing_dtype: the same for written answers, if it is to be another; the weights are then loaded twice. What is
            written is read as text, so it needs less precision than a score.
        device: "cpu", "cuda" or "cuda:1". One that is not there is an error when the weights are loaded, so that
            what was recorded on it can be replayed without it.
        adapter: a folder with what the model was taught (``teach.teach``), which is merged into its weights.
        stop_loops: whether a written answer that only repeats itself is ended (``writing.repeats``); False hears every
            answer out to its budget, and is part of the key.
        folder: where models are kept that were converted from GGUF; None: ``~/.cache/hybridrec/models``.
        search: for a card: further folders in which its GGUF file may lie; the last is where it is fetched to.

    Raises:
        SettingError: a dtype, device or revision that is none.
        ModelError: a model that is none of these; a folder without a whole model. Later: a model that the hub does not
            give, that transformers cannot load, or that does not fit the device; a device that is not there.
    """

    def __init__(
        self, model: str | Path, *, revision: str | None = None, dtype: str = "float32",
        writing_dtype: str | None = None, device: str = "cpu", adapter: str | Path | None = None,
        stop_loops: bool = True, folder: str | Path | None = None, search: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        given = {"revision": revision, "dtype": dtype, "writing_dtype": writing_dtype, "device": device}
        self.loaded = checked(LocalSettings, given | {"adapter": adapter and str(adapter)}, str(model))
        self.source = weights.find(model, revision, models=Path(folder) if folder else None, search=search)
        if adapter:
            self.source = weights.Taught(self.source, Path(adapter))
        self.name, self.stop_loops = self.source.name, stop_loops
        self._waiting: list[tuple[Asked, Keep]] = []
        self._unscored: list[tuple[Asked, Keep]] = []

    # --- the interface of runner.Model ----------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of the weights' identity, the request and the attempt; of how it computes if not as usual."""
        writes = asked.request["kind"] == "generate"
        dtype = (self.loaded.writing_dtype if writes else None) or self.loaded.dtype
        usual, how = LocalSettings(), {"dtype": dtype, "device": self.loaded.device.partition(":")[0]}
        unusual = {name: value for name, value in how.items() if value != getattr(usual, name)}
        written: dict[str, Any] = {"writing": _WRITING} if writes else {}
        if writes and not self.stop_loops:
            written["heard_out"] = True
        return request_key({"model": self.source.identity, **unusual, **written, **asked.request}, asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Collect the request; answer a batch when there is enough for one.

        What is scored goes in the order in which it came, and one user's requests stay together: they begin alike.
        """
        if asked.request["kind"] == "generate":
            self._waiting.append((asked, keep))
            return self._written() if len(self._waiting) >= _WAITING else []
        size = sum(_characters(one.request) for one, _ in self._unscored)
        same = self._unscored and asked.user is not None and asked.user == self._unscored[-1][0].user
        most = _CHARACTERS_TOGETHER_GPU if self.loaded.device.startswith("cuda") else _CHARACTERS_TOGETHER
        finished = self._scored() if size + _characters(asked.request) > most and not same else []
        self._unscored.append((asked, keep))
        return finished

    def wait(self) -> Finished:
        """The next batch of what was collected."""
        return self._scored() or self._written()

    def usd(self, response: Response) -> float:
        """Nothing: this machine is not billed by the answer (notebook 06 prices its hours)."""
        return 0.0

    def close(self) -> None:
        """Forget what was collected and not begun."""
        self._waiting.clear()
        self._unscored.clear()

    def _written(self) -> Finished:
        """Everything that was collected, the shortest first (padding is wasted work); kept the moment it has ended."""
        self._waiting.sort(key=lambda one: (len(one[0].request["instruction"]), len(one[0].request["candidates"])))
        batch, self._waiting = self._waiting, []
        texts = self._generate([asked.request for asked, _ in batch]) if batch else ()
        return [(batch[at][0], batch[at][1](batch[at][0], response)) for at, response in texts]

    def _scored(self) -> Finished:
        batch, self._unscored = self._unscored, []
        responses = self.answer([asked.request for asked, _ in batch]) if batch else []
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
        """The model's tokenizer."""
        return self._from(AutoTokenizer)

    @cached_property
    def model(self) -> Any:
        """The weights that score, on their device."""
        return self._load(self.loaded.dtype)

    @cached_property
    def writer(self) -> Any:
        """The weights that write: those that score, unless ``writing_dtype`` says otherwise."""
        other = self.loaded.writing_dtype
        return self.model if other in (None, self.loaded.dtype) else self._load(other)

    def _load(self, dtype: str) -> Any:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        device = devices.device(self.loaded.device)
        _tell_once(devices.advice(dtype, device))
        adapter = self.source.adapter
        model = self._from(AutoModelForCausalLM, dtype=torch.float32 if adapter else devices.DTYPES[dtype]).eval()
        if adapter:  # merged in float32: in bfloat16 a part of so small a change would be rounded away
            model = weights.merged(model, adapter).to(devices.DTYPES[dtype])
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
        if requests[0]["kind"] != "generate":
            return self._score(requests)
        return [response for _, response in sorted(self._generate(requests), key=lambda one: one[0])]

    # --- scoring ------------------------------------------------------------------------------------------------

    def _score(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Log-probabilities of every candidate of every request.

        "score": of the continuation's own tokens, summed. "choose": of the first token of each choice. Neighbours that
        differ in their candidates only are one prompt.
        """
        start = time.perf_counter()
        alike = [list(group) for _, group in itertools.groupby(requests, _without_candidates)]
        prompts = [
            self.prompt({**group[0], "candidates": [text for request in group for text in request["candidates"]]})
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

    def prompt(self, request: dict[str, Any]) -> tree.Prompt:
        """A scored request as tokens."""
        if request["kind"] == "rate":
            return self._list(request)
        if request.get("plain"):
            return self._list({**request, "choices": []})
        before, after = self._around(request["instruction"])
        if request["kind"] == "score":
            return tree.Prompt(self.tokens(before + after), [self.tokens(text) for text in request["candidates"]])
        suffixes = [self.tokens(text + after) for text in request["candidates"]]
        choices = [self.tokens(choice)[0] for choice in request["choices"]]
        return tree.Prompt(self.tokens(before), suffixes, choices)

    def _list(self, request: dict[str, Any]) -> tree.Prompt:
        """A list that goes on with each candidate: plain text, which nobody says to anybody."""
        suffixes = [self.tokens(text) for text in request["candidates"]]
        choices = [self.tokens(choice)[0] for choice in request["choices"]] or None
        return tree.Prompt(self.tokens((self.tokenizer.bos_token or "") + request["instruction"]), suffixes, choices)

    def _numbers(self, prompt: tree.Prompt, own: slice, found: list[torch.Tensor], seconds: float) -> dict[str, Any]:
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

    def _generate(self, requests: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Greedy continuations; each ends at its own end, in a loop (if these are stopped) or at its own budget.

        Yields:
            As they end: a request's place among the requests, and the response to it.
        """
        prompts = [self.tokens("".join(self._around(request["instruction"]))) for request in requests]
        budgets = [self._budget(request) for request in requests]
        texts = writing.write(self.writer, prompts, budgets, self._ends, self._is_loop)
        for text in texts:
            yield (
                text.prompt,
                {
                    "text": self._text(text.tokens),
                    "finish_reason": text.reason,
                    "prompt_tokens": len(prompts[text.prompt]),
                    "cached_tokens": 0,
                    "completion_tokens": len(text.tokens),
                    "seconds": round(text.seconds, 3),
                },
            )

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens that end a text: the tokenizer's, and those that the model's authors added for a chat."""
        ends = self.writer.generation_config.eos_token_id
        return {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def _is_loop(self, tokens: list[int]) -> bool:
        return self.stop_loops and writing.repeats(self._text(tokens))

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def count(self, request: dict[str, Any]) -> tuple[int, int]:
        """Tokens of the prompt (what the candidates share counted once), and the most that the answer can have."""
        if request["kind"] == "generate":
            return len(self.tokens("".join(self._around(request["instruction"])))), self._budget(request)
        return self.prompt(request).size, 0

    def _budget(self, request: dict[str, Any]) -> int:
        """The most new tokens of an answer: twice those of the request and of the candidates with their list marks.

        So there is room for an answer that first restates what it was told, and for a draft.
        """
        candidates = sum(len(self.tokens(title)) + 5 for title in request["candidates"])
        return 2 * (len(self.tokens(request["instruction"])) + candidates) + 64

    # --- text ---------------------------------------------------------------------------------------------------

    def tokens(self, text: str) -> list[int]:
        """A text as tokens, with nothing added."""
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


@functools.cache
def _tell_once(line: str) -> None:
    if line:
        progress.tell(line)


def _without_candidates(request: dict[str, Any]) -> list[Any]:
    """What a prompt is made of, apart from the candidates."""
    return [request.get(name) for name in ("kind", "instruction", "choices", "plain")]


def _characters(request: dict[str, Any]) -> int:
    """The length of a request."""
    return len(request["instruction"]) + sum(map(len, request["candidates"]))
