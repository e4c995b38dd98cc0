"""An open model on this machine, through ``transformers``: score continuations of a prompt, or generate.

Nothing here knows of items or rankings; it answers requests (plain dictionaries) with responses.
"""

import functools
import hashlib
import itertools
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hybridrec import files
from hybridrec.data.downloads import fetch
from hybridrec.errors import ModelError
from hybridrec.files import shown
from hybridrec.llm.models import packed, writing
from hybridrec.llm.models.cards import MODELS, ModelCard
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Finished, Keep, Response

# How many characters of prompts and candidates are scored together (a token has about four): more is no faster, and a
# killed run loses what was not answered yet.
_CHARACTERS_TOGETHER = 12_000
# How many requests for written answers are collected, so that those of one length are written together.
_WAITING = 256
_OF_THE_HUB = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
# In a converted folder: the bytes of every other file. A folder without it is of a version that wrote none.
_SIZES = "sizes.json"
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def converted_folder(card: ModelCard, models: Path, search: Sequence[Path] = ()) -> Path:
    """The model as safetensors, converted from GGUF on first use (loading is then tens of times faster).

    The folder appears under its final name only when it is complete. Whoever asks for it meanwhile waits. One that was
    damaged since is told of (a UserWarning) and made again; bytes that changed and left the size alone are not seen.

    Args:
        card: which model.
        models: the folder of converted models.
        search: folders in which the GGUF file may lie; the last one is where it is fetched to (None: ``models``).

    Raises:
        DownloadError: the GGUF file is not to be had.
        LockError: the folder of models cannot be written.
    """
    folder = models / f"{card.name}-{card.file.sha256[:12]}"
    if _fault(folder):
        with files.lock(models / f".{folder.name}.lock", f"conversion of {card.name}"):
            fault = _fault(folder)  # none if it was converted while we waited
            if fault and folder.exists():
                warnings.warn(f"{shown(folder)} is damaged ({fault}): it is converted again.", stacklevel=2)
            if fault:
                _convert(card, folder, search or (models,))
    return folder


def _convert(card: ModelCard, folder: Path, search: Sequence[Path]) -> None:
    gguf = fetch(card.file, search[-1], search)
    options = {"gguf_file": gguf.name}
    with files.replacing(folder, stale_after=0) as scratch:
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(scratch)
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        # The weights are plain float32 now; transformers refuses to save what it still believes to be quantised.
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
        model.save_pretrained(scratch)
        written = sorted(file for file in scratch.rglob("*") if file.is_file())
        sizes = {file.relative_to(scratch).as_posix(): file.stat().st_size for file in written}
        (scratch / _SIZES).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # the damaged one: a folder can only take an empty place


def _fault(folder: Path) -> str:
    """What is wrong with a converted folder, as far as it can be seen without reading the weights; "" if nothing is."""
    if not folder.is_dir():
        return "it is not there"
    if not (folder / _SIZES).is_file():
        return _fault_without_sizes(folder)
    try:
        sizes = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
    except ValueError:
        return f"{_SIZES} is not readable"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
    return ""


def _fault_without_sizes(folder: Path) -> str:
    """The same for a folder that lists no sizes. It is accepted if it looks whole: its GGUF file may be gone by now."""
    for name in _NEEDED:
        file = folder / name
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            else:
                with safetensors.safe_open(file, "pt"):  # reads the header, and compares the length with it
                    pass
        except FileNotFoundError:
            return f"{name} is missing"
        except (ValueError, safetensors.SafetensorError) as error:
            return f"{name} is not readable: {error}"
    return ""


def _hub_folder(name: str) -> Path:
    """A model of the Hugging Face hub, whose folder is named by its commit: from the local cache, else fetched.

    Raises:
        ModelError: it is not to be had.
    """
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if _is_whole(folder):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=_OF_THE_HUB))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{name!r} is none of {', '.join(MODELS)}, no folder here, and was not to be had from the Hugging Face hub "
            f"({what}). Correct the name, or give the path of a folder with its safetensors."
        ) from None


def _is_whole(folder: Path) -> bool:
    """Whether a folder from the hub has tokenizer and all weights; others may have fetched only a part of it."""
    index = folder / "model.safetensors.index.json"
    parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else _NEEDED[-1:]
    return all((folder / name).is_file() for name in {"config.json", "tokenizer_config.json", *parts})


def _weights_hash(folder: Path) -> str:
    """SHA-256 of a folder's weights: of their files' hashes in the order of their names."""
    stats = [(file, file.stat()) for file in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(_file_hash(file, s.st_size, s.st_mtime_ns) for file, s in stats).encode()).hexdigest()


@functools.cache
def _file_hash(file: Path, size: int, changed: int) -> str:
    """Of a file as it is at this size and time, so that one that is as it was is read once in a process."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class HuggingFace:
    """A causal language model in float32 on the CPU; it answers "score", "choose" and "generate" requests.

    Its weights are loaded when the first request has to be computed.

    Recordings are keyed by the weights: of a card by the name and the hash of its file, of a folder by the hash of its
    safetensors, of a model on the hub by its id and commit. A model on the hub is therefore looked up, and fetched if
    it is not in the local cache of the hub, when the first key is wanted.

    Args:
        model: the name of a card (``cards.MODELS``), a folder with safetensors and tokenizer, or an id of the Hugging
            Face hub such as "org/name".
        folder: for a card: where converted models are kept; None: ``~/.cache/hybridrec/models``.
        search: for a card: further folders in which its GGUF file may lie; the last is where it is fetched to.

    Raises:
        ModelError: a name without a "/" that is neither a card nor a folder; a folder without a model. Later: a model
            that the hub does not give.
    """

    def __init__(self, model: str | Path, *, folder: str | Path | None = None, search: Sequence[Path] = ()) -> None:
        self.card = MODELS.get(str(model))
        self.name = str(model)
        self._given = Path(model) if not self.card and Path(model).is_dir() else None
        self._models = Path(folder) if folder else Path.home() / ".cache" / "hybridrec" / "models"
        self._search = search
        if self._given:
            self.name = self._given.resolve().name
            for needed in ("config.json", "*.safetensors"):
                if not any(self._given.glob(needed)):
                    raise ModelError(f"{shown(self._given)}: no {needed}. Save the model there with save_pretrained.")
        elif not self.card and "/" not in self.name:
            raise ModelError(
                f"unknown model {self.name!r}. Known: {', '.join(MODELS)}; or give the path of a folder that holds a "
                "model, or an id of the Hugging Face hub such as org/name."
            )
        self._waiting: list[tuple[Asked, Keep]] = []
        self._unscored: list[tuple[Asked, Keep]] = []

    # --- the interface of runner.Model ----------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of the weights' identity, the request and the attempt."""
        return request_key({"model": self.identity, **asked.request}, asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Collect the request; answer a batch when there is enough for one.

        What is scored goes in the order in which it came, and one user's requests stay together: they begin alike.
        """
        if asked.request["kind"] == "generate":
            self._waiting.append((asked, keep))
            return self._written() if len(self._waiting) >= _WAITING else []
        size = sum(_characters(one.request) for one, _ in self._unscored)
        same = self._unscored and asked.user is not None and asked.user == self._unscored[-1][0].user
        finished = self._scored() if size + _characters(asked.request) > _CHARACTERS_TOGETHER and not same else []
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
    def identity(self) -> str:
        """What recordings are keyed by: the weights, not where they lie."""
        if self.card:
            return self.card.identity
        if self._given:
            return f"sha256:{_weights_hash(self._given)}"
        return f"{self.name}@{self._from_hub.name}"

    @cached_property
    def _from_hub(self) -> Path:
        return _hub_folder(self.name)

    def folder(self) -> Path:
        """Where the weights lie; fetched and converted if need be."""
        return converted_folder(self.card, self._models, self._search) if self.card else self._given or self._from_hub

    @property
    def chat(self) -> bool:
        """Whether it was taught to answer in a chat; a base model only goes on with a text."""
        return self.card.chat if self.card else bool(self.tokenizer.chat_template)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder(), padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The weights."""
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        return AutoModelForCausalLM.from_pretrained(self.folder(), dtype=torch.float32).eval()

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

    def _generate(self, requests: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Greedy continuations; each ends at its own end, in a loop or at its own budget.

        Yields:
            As they end: a request's place among the requests, and the response to it.
        """
        prompts = [self._tokens("".join(self._around(request["instruction"]))) for request in requests]
        budgets = [self._budget(request) for request in requests]
        texts = writing.write(self.model, prompts, budgets, self._ends, lambda new: writing.repeats(self._text(new)))
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
        ends = self.model.generation_config.eos_token_id
        return {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def count(self, request: dict[str, Any]) -> tuple[int, int]:
        """Tokens of the prompt (what the candidates share counted once), and the most that the answer can have."""
        if request["kind"] == "generate":
            return len(self._tokens("".join(self._around(request["instruction"])))), self._budget(request)
        return self._prompt(request).size, 0

    def _budget(self, request: dict[str, Any]) -> int:
        """The most new tokens of an answer: twice those of the request and of the candidates with their list marks.

        So there is room for an answer that first restates what it was told, and for a draft.
        """
        candidates = sum(len(self._tokens(title)) + 5 for title in request["candidates"])
        return 2 * (len(self._tokens(request["instruction"])) + candidates) + 64

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


def _without_candidates(request: dict[str, Any]) -> list[Any]:
    """What a prompt is made of, apart from the candidates."""
    return [request["kind"], request["instruction"], request.get("choices")]


def _characters(request: dict[str, Any]) -> int:
    """The length of a request."""
    return len(request["instruction"]) + sum(map(len, request["candidates"]))
