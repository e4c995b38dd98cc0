"""Sentence embeddings of titles: what a small encoder makes of them, as a control for a language model.

Mean pooling over tokens, as the encoder was trained (Reimers & Gurevych 2019). All is computed in double precision and
rounded, so that the numbers are the same on every processor and in every batch.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hybridrec import files, progress
from hybridrec.data.downloads import fetch
from hybridrec.files import shown
from hybridrec.llm.models.cards import MINILM, EncoderCard

_BATCH = 64
_DECIMALS = 6


def embed(
    texts: Sequence[str],
    *,
    folder: Path,
    search: Sequence[Path] = (),
    cache: Path | None = None,
    card: EncoderCard = MINILM,
) -> np.ndarray:
    """One vector of unit length for each text, from the cache where the same texts were embedded before.

    Args:
        texts: titles, or any other short texts; what goes beyond the encoder's longest is not read.
        folder: where the encoder's files are fetched to, into a folder of the encoder's name, if they are nowhere yet.
        search: folders in which such a folder is looked for before.
        cache: the folder where embeddings are kept; None: they are not.
        card: the encoder.

    Returns:
        float32, shape (texts, dimensions), rounded to six decimals.

    Raises:
        DownloadError: the encoder's files are not here and could not be had (names each file and where it was sought),
            or one of them is not what the card declares. Not where the cache has the embeddings.

    Warns:
        UserWarning: the cached embeddings are damaged; they are made again.
    """
    texts = [text.encode(errors="replace").decode() for text in texts]  # half a character is none to a tokenizer
    key = hashlib.sha256(json.dumps([card.identity, card.longest, _DECIMALS, texts]).encode()).hexdigest()
    kept = cache / f"embeddings-{key}.npz" if cache else None
    if kept and (found := _load(kept, len(texts))) is not None:
        return found
    found = _encode(texts, card, *_open(card, folder, search))
    if kept:
        with files.replacing(kept) as partial:
            np.savez_compressed(partial, allow_pickle=False, embeddings=found)
    return found


def files_of(card: EncoderCard, folder: Path, search: Sequence[Path] = ()) -> list[Path]:
    """The encoder's configuration, tokenizer and weights, fetched if they are nowhere yet; arguments as in ``embed``.

    Raises:
        DownloadError: as in ``embed``.
    """
    places = [one / card.name for one in search]
    return [fetch(file, folder / card.name, places) for file in (card.config, card.tokenizer, card.weights)]


def _load(file: Path, rows: int) -> np.ndarray | None:
    """Embeddings from the cache; None where they are not there, or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = arrays["embeddings"]
        whole = len(found) == rows and bool(np.isfinite(found).all())
    except FileNotFoundError:
        return None
    except Exception:  # a bit that was flipped can make zipfile and NumPy raise anything
        whole = False
    if not whole:
        warnings.warn(f"{shown(file)} is damaged: these embeddings are made again.", stacklevel=3)
        return None
    return found


def _open(card: EncoderCard, folder: Path, search: Sequence[Path]) -> tuple[Any, BertModel]:
    """Tokenizer and model."""
    config, tokenizer, weights = files_of(card, folder, search)
    model = BertModel(BertConfig.from_json_file(config), add_pooling_layer=False)
    found = safetensors.torch.load_file(weights)  # also has a pooling layer, which mean pooling has no use for
    model.load_state_dict({name: found[name] for name in model.state_dict()})
    return PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), pad_token="[PAD]"), model.double().eval()


def _encode(texts: list[str], card: EncoderCard, tokenizer: Any, model: BertModel) -> np.ndarray:
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # little padding in a batch
    options = {"padding": True, "truncation": True, "max_length": card.longest, "return_token_type_ids": False}
    batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    for batch in progress.bar(batches, what=card.name):
        tokens = tokenizer([texts[place] for place in batch], return_tensors="pt", **options)
        with torch.inference_mode():
            states, read = model(**tokens).last_hidden_state, tokens["attention_mask"].double()[..., None]
            mean = (states * read).sum(dim=1) / read.sum(dim=1)
            found[batch] = torch.nn.functional.normalize(mean, dim=1).numpy().round(_DECIMALS)
    return found
