"""The sentence encoder: transformers' own passes, the same numbers in any batch, and nothing fetched twice."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hybridrec.data import downloads
from hybridrec.data.downloads import File, Wheel
from hybridrec.errors import DownloadError
from hybridrec.llm.models import encoder
from hybridrec.llm.models.cards import MINILM, EncoderCard
from hybridrec.study import paths

TEXTS = ["alien", "the godfather part two and many words more", "", "alien alien", "psycho \ud800"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"the alien godfather part two and many words more psycho".split()]


@pytest.fixture
def card(tmp_path) -> EncoderCard:
    """A BERT of two layers with random weights, whose files lie in tmp_path/tiny."""
    folder = tmp_path / "tiny"
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=12, initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    words.save(str(folder / "tokenizer.json"))
    files = [
        File(name, downloads.sha256(folder / name)) for name in ("config.json", "tokenizer.json", "model.safetensors")
    ]
    return EncoderCard("tiny", "none", *files, longest=8)


def plainly(card: EncoderCard, folder: Path, text: str) -> np.ndarray:
    """The mean of the last states of a text's tokens, of length one, by a pass over it alone."""
    model = transformers.BertModel.from_pretrained(folder / card.name).double().eval()
    tokens = Tokenizer.from_file(str(folder / card.name / "tokenizer.json")).encode(text).ids
    tokens = [*tokens[:7], 3] if len(tokens) > 8 else tokens  # the end mark stays
    with torch.inference_mode():
        mean = model(torch.tensor([tokens])).last_hidden_state[0].mean(dim=0)
    return (mean / mean.norm()).numpy()


def test_an_embedding_is_the_mean_of_transformers_own_last_states(card, tmp_path):
    found = encoder.embed(TEXTS, folder=tmp_path, card=card)
    assert found.dtype == np.float32
    for text, row in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(row, plainly(card, tmp_path, text.replace("\ud800", "?")), atol=6e-7)


def test_an_embedding_does_not_depend_on_what_else_is_embedded(card, tmp_path, monkeypatch):
    together = encoder.embed(TEXTS, folder=tmp_path, card=card)
    monkeypatch.setattr(encoder, "_BATCH", 1)
    np.testing.assert_array_equal(encoder.embed(TEXTS[::-1], folder=tmp_path, card=card)[::-1], together)


def test_what_was_embedded_once_needs_no_weights_again(card, tmp_path):
    cache = tmp_path / "cache"
    before = encoder.embed(TEXTS, folder=tmp_path, cache=cache, card=card)
    (tmp_path / "tiny").rename(tmp_path / "gone")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(encoder.embed(TEXTS, folder=tmp_path, cache=cache, card=card), before)
    with pytest.raises(DownloadError, match="config.json"):
        encoder.embed(TEXTS[1:], folder=tmp_path, cache=cache, card=card)
    other = EncoderCard(**{**vars(card), "weights": File("model.safetensors", hashlib.sha256(b"").hexdigest())})
    with pytest.raises(DownloadError):
        encoder.embed(TEXTS, folder=tmp_path, cache=cache, card=other)


def test_a_damaged_cache_is_told_of_and_made_again(card, tmp_path):
    before = encoder.embed(TEXTS, folder=tmp_path, cache=tmp_path, card=card)
    (kept,) = tmp_path.glob("embeddings-*.npz")
    for content in (kept.read_bytes()[:-30], b"nothing"):
        kept.write_bytes(content)
        with pytest.warns(UserWarning, match=kept.name):
            np.testing.assert_array_equal(encoder.embed(TEXTS, folder=tmp_path, cache=tmp_path, card=card), before)


def test_a_folder_of_the_users_own_comes_first_and_a_wrong_file_in_it_is_refused(card, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "tiny").rename(own / "tiny")
    encoder.embed(TEXTS, folder=tmp_path / "raw", search=[own], card=card)
    assert not (tmp_path / "raw").exists()
    config = own / "tiny" / "config.json"
    config.write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(DownloadError, match="config.json is not the expected file"):
        encoder.embed(TEXTS, folder=tmp_path / "raw", search=[own], card=card)


def test_what_cannot_be_fetched_is_told_by_file_and_place(card, tmp_path, monkeypatch):
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    config = File("config.json", card.config.sha256, wheels=(Wheel("no-such-encoder==1.0", "config.json", "0" * 64),))
    with pytest.raises(DownloadError, match=r"(?s)could not get config\.json.*no-such-encoder==1\.0.*HYBRIDREC_DATA"):
        encoder.embed(TEXTS, folder=tmp_path / "raw", card=EncoderCard(**{**vars(card), "config": config}))


@pytest.mark.live
def test_the_real_encoder_gives_the_similarities_of_its_documentation():
    """The quick start of Sentence Transformers prints these for all-MiniLM-L6-v2."""
    here = [folder / MINILM.name / MINILM.weights.name for folder in (*paths.data_folders(), paths.RAW)]
    if not any(file.is_file() for file in here):
        pytest.skip(f"the weights of {MINILM.name} are not on this disk: make models")
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    found = encoder.embed(texts, folder=paths.RAW, search=paths.data_folders())
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(found @ found.T, expected, atol=6e-5)
