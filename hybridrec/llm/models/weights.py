"""Where the weights of a model on this machine come from: a card, a GGUF file, a folder, or the Hugging Face hub.

In the end each is a folder of safetensors and a tokenizer, as ``save_pretrained`` of transformers writes it. Nothing is
fetched, converted or read before it is needed.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybridrec import files
from hybridrec.data.downloads import fetch
from hybridrec.errors import ModelError
from hybridrec.files import shown
from hybridrec.llm.models.cards import MODELS, ModelCard

_OF_THE_HUB = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_HUB_ID = r"\w[\w.-]*/\w[\w.-]*"
_COMMIT = r"[0-9a-f]{40}"
ADAPTER_CARD, ADAPTER_WEIGHTS = "card.json", "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
# In a converted folder: the bytes of every other file. A folder without it is of a version that wrote none.
_SIZES = "sizes.json"
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


class Source(ABC):
    """A model's weights; ``name`` is what tables call the model."""

    name: str

    @property
    def card(self) -> ModelCard | None:
        """The card of these weights, if they have one."""
        return None

    @property
    def adapter(self) -> Path | None:
        """The folder of an adapter that is to be merged into the weights."""
        return None

    @property
    @abstractmethod
    def identity(self) -> str:
        """What recordings are keyed by: the weights, not where they lie."""

    @abstractmethod
    def folder(self) -> Path:
        """A folder of safetensors; fetched and converted if need be."""

    def look_up(self) -> None:  # noqa: B027
        """ModelError if the model is not to be had. Nothing but a small file is fetched for that."""


def find(
    model: str | Path, revision: str | None = None, *, models: Path | None = None, search: Sequence[Path] = ()
) -> Source:
    """The weights that a user means.

    Args:
        model: the name of a card, the path of a .gguf file or of a folder, or an id of the hub, tried in this order.
            Relative paths begin at ``files.base``.
        revision: for an id of the hub: a branch, a tag or a commit.
        models: the folder of converted models; None: ``~/.cache/hybridrec/models``.
        search: for a card: folders in which its GGUF file may lie; the last is where it is fetched to.

    Raises:
        ModelError: nothing of that name; a folder without a whole model; a revision of what has none.
    """
    name, models = str(model), models or Path.home() / ".cache" / "hybridrec" / "models"
    path = (files.base or Path()) / os.path.expanduser(name)
    found: Source
    if name in MODELS:
        found = _OfCard(MODELS[name], models, search)
    elif path.suffix.lower() == ".gguf" and path.is_file():
        found = _OfGguf(path, models)
    elif path.is_dir():
        found = _OfFolder(path)
    elif re.fullmatch(_HUB_ID, name) and path.suffix.lower() != ".gguf" and not isinstance(model, Path):
        return _OfHub(name, revision)
    else:
        raise ModelError(
            f"unknown model {name!r}. Known: {', '.join(MODELS)}; or give the path of a folder of safetensors or of a "
            ".gguf file (there is none of that path), or an id of the Hugging Face hub such as org/name."
        )
    if revision is not None:
        raise ModelError(f"{name}: only a model of the Hugging Face hub has a revision: leave {revision!r} out.")
    return found


class Taught(Source):
    """A model with what it was taught: an adapter, whose card names the model that it belongs to.

    Raises:
        ModelError: no whole adapter, or one of another model.
    """

    def __init__(self, source: Source, adapter: Path) -> None:
        self._source, self._adapter = source, (files.base or Path()) / adapter
        self._taught = read_card(self._adapter)
        self.name = self._taught["name"]
        if self._taught["model"] != source.identity:
            raise ModelError(
                f"{shown(self._adapter)} was taught on {self._taught['model']}, not on {source.identity}: give that "
                "model, or teach this one."
            )

    @property
    def card(self) -> ModelCard | None:
        """That of the model."""
        return self._source.card

    @property
    def adapter(self) -> Path:
        """Its folder."""
        return self._adapter

    @property
    def identity(self) -> str:
        """The model's, and the hash of the adapter's weights."""
        return f"{self._source.identity}+{self._taught['sha256'][:12]}"

    def folder(self) -> Path:
        """That of the model."""
        return self._source.folder()


def read_card(adapter: Path) -> dict[str, Any]:
    """The card of an adapter (``teach.teach``).

    Raises:
        ModelError: there is none, or the weights beside it are not those it was written for.
    """
    try:
        card = json.loads((adapter / ADAPTER_CARD).read_text(encoding="utf-8"))
        found = _file_hash(adapter / ADAPTER_WEIGHTS)
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown(adapter)} holds no adapter with a card ({error}): teach it again.") from None
    if card.get("sha256") != found:
        raise ModelError(f"{shown(adapter)}: its weights are not those of {ADAPTER_CARD}: teach it again.")
    return card


def merged(model: Any, adapter: Path) -> Any:
    """The model with an adapter merged into its weights."""
    import peft  # only who uses an adapter waits for it

    try:
        return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (ValueError, KeyError, RuntimeError, OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{shown(adapter)} does not fit the model ({first_line(error)}): teach it again.") from None


class _OfCard(Source):
    def __init__(self, card: ModelCard, models: Path, search: Sequence[Path]) -> None:
        self.name, self._card = card.name, card
        self._models, self._search = models, search or (models,)

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def identity(self) -> str:
        return self._card.identity

    def folder(self) -> Path:
        gguf = functools.partial(fetch, self._card.file, self._search[-1], self._search)
        return converted_folder(self.name, self._card.file.sha256, gguf, self._models)


class _OfGguf(Source):
    """One whose hash is that of a card is that card's, under whatever name it lies here."""

    def __init__(self, path: Path, models: Path) -> None:
        self.name, self._path, self._models = path.stem, path, models

    @property
    def _sha256(self) -> str:
        return _file_hash(self._path)

    @property
    def card(self) -> ModelCard | None:
        return next((card for card in MODELS.values() if card.file.sha256 == self._sha256), None)

    @property
    def identity(self) -> str:
        return self.card.identity if self.card else f"gguf:{self._sha256}"

    def folder(self) -> Path:
        return converted_folder(self.name, self._sha256, lambda: self._path, self._models)


class _OfFolder(Source):
    def __init__(self, folder: Path) -> None:
        if wrong := _lacking(folder):
            raise ModelError(f"{shown(folder)}: {wrong}.")
        self.name, self._folder = folder.resolve().name, folder

    @property
    def identity(self) -> str:
        """SHA-256 of the hashes of the weights' files in the order of their names."""
        hashes = [_file_hash(file) for file in sorted(self._folder.glob("*.safetensors"))]
        return f"sha256:{hashlib.sha256(''.join(hashes).encode()).hexdigest()}"

    def folder(self) -> Path:
        return self._folder


class _OfHub(Source):
    """Its commit is looked up when the first key is wanted, unless it is given; its weights are fetched when loaded."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self._revision = name, revision

    @property
    def identity(self) -> str:
        return f"{self.name}@{self._commit}"

    @cached_property
    def _commit(self) -> str:
        if self._revision and re.fullmatch(_COMMIT, self._revision):
            return self._revision
        return self._snapshot(self._revision, ["config.json"]).name

    def look_up(self) -> None:
        _ = self._commit

    def folder(self) -> Path:
        folder = self._snapshot(self._commit, ["config.json"])
        if _lacking(folder):  # others may have fetched only a part of it
            folder = self._snapshot(self._commit, _OF_THE_HUB, cached=False)
        if wrong := _lacking(folder):
            raise ModelError(f"{self.name} of the Hugging Face hub: {wrong}.")
        return folder

    def _snapshot(self, revision: str | None, patterns: list[str], cached: bool = True) -> Path:
        """The folder of a commit, named by it, from the local cache of the hub if allowed, else fetched."""
        get = functools.partial(snapshot_download, self.name, revision=revision, allow_patterns=patterns)
        if cached:
            with suppress(OSError, HFValidationError):
                return Path(get(local_files_only=True))
        try:
            return Path(get())
        except (OSError, HFValidationError) as error:
            at = f" at revision {revision!r}" if revision else ""
            raise ModelError(
                f"{self.name!r} is none of {', '.join(MODELS)}, no folder here, and was not to be had{at} from the "
                f"Hugging Face hub ({first_line(error)}). Correct the name, or give the path of a folder with its "
                "safetensors."
            ) from None


def _lacking(folder: Path) -> str:
    """What a folder lacks of a model, and what to do; "" if it is whole."""
    save = "save model and tokenizer there with save_pretrained"
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return "it holds an adapter without its model: merge them (merge_and_unload) and save that in a folder"
        return f"no config.json: {save}"
    parts = ["model.safetensors"]
    if (folder / _INDEX).is_file():
        try:
            parts = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            return f"{_INDEX} is not readable: {save}"
    missing = [part for part in parts if not (folder / part).is_file()]
    if missing:
        others = sorted(file.name for end in ("bin", "pt", "pth", "gguf") for file in folder.glob(f"*.{end}"))
        if others and others[0].endswith(".gguf"):
            return f"no {missing[0]}, but {others[0]}: give the path of that file"
        if others:
            return f"no {missing[0]}, but {others[0]}, which may run code when loaded and is not read here: {save}"
        return f"no {missing[0]}: {'fetch it again' if len(parts) > 1 else save}"
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return f"no tokenizer ({_TOKENIZERS[0]}, or another file of one): save it there with its save_pretrained"
    return ""


def _file_hash(file: Path) -> str:
    status = file.stat()
    return _hash_as_of(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _hash_as_of(file: Path, size: int, changed: int) -> str:
    """Of a file as it is at this size and time, so that one that is as it was is read once in a process."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- conversion -------------------------------------------------------------------------------------------------------


def converted_folder(name: str, sha256: str, gguf: Callable[[], Path], models: Path) -> Path:
    """A GGUF file's model as safetensors, converted on first use (loading is then tens of times faster).

    The folder appears under its final name only when it is complete. Whoever asks for it meanwhile waits. One that was
    damaged since is told of (a UserWarning) and made again; bytes that changed and left the size alone are not seen.

    Args:
        name: of the model.
        sha256: of the GGUF file.
        gguf: gives the file; called only if there is something to convert.
        models: the folder of converted models.

    Raises:
        DownloadError: the GGUF file is not to be had.
        LockError: the folder of models cannot be written.
        ModelError: transformers cannot read the file.
    """
    folder = models / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{sha256[:12]}"
    if _fault(folder):
        with files.lock(models / f".{folder.name}.lock", f"conversion of {name}"):
            fault = _fault(folder)  # none if it was converted while we waited
            if fault and folder.exists():
                warnings.warn(f"{shown(folder)} is damaged ({fault}): it is converted again.", stacklevel=2)
            if fault:
                _convert(gguf(), folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    options = {"gguf_file": gguf.name}
    with files.replacing(folder, stale_after=0) as scratch:
        try:
            AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(scratch)
            model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ModelError(
                f"{shown(gguf)} cannot be read by transformers ({first_line(error)}): give a folder with the model's "
                "safetensors, or its id of the Hugging Face hub."
            ) from None
        # The weights are plain float32 now; transformers refuses to save what it still believes to be quantised.
        model.hf_quantizer, model.is_quantized = None, False
        model.config.__dict__.pop("quantization_config", None)
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
