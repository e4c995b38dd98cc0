"""Where a local model's weights come from, on what it computes, and that its scores are those of transformers' own."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import tiny_model
import torch
import transformers
from processes import until
from safetensors.torch import save_file

from hybridrec import progress
from hybridrec.data import downloads
from hybridrec.errors import ModelError, SettingError
from hybridrec.llm.models import devices, local, weights
from hybridrec.llm.models.cards import MODELS
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked
from hybridrec.study import __main__, config, paths
from hybridrec.study import models as study_models

NAME = "SmolLM2-135M-Instruct"
INSTRUCTION = "Here are 2 films that I have rated:\n- Alien (1979)\n- Fargo (1996)\n\n"
TITLES = ["The Godfather: Part II (1974)", "Psycho"]
WAYS = [
    {"kind": "score", "instruction": INSTRUCTION + "Name one more film.", "candidates": TITLES},
    {"kind": "choose", "instruction": INSTRUCTION, "candidates": TITLES, "choices": ["Yes", "No"]},
]
ASKED = Asked(1, WAYS[0])
COMMIT, OTHER_COMMIT = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"


def flat(log_probs: list) -> list[float]:
    """The numbers of an answer of either kind."""
    return [p for each in log_probs for p in (each if isinstance(each, list) else [each])]


def numbers(model: HuggingFace) -> list[float]:
    return [p for answer in model.answer(WAYS) for p in flat(answer["log_probs"])]


def plainly(model: HuggingFace, own: Any) -> list[float]:
    """The same numbers from passes over one candidate each, by a model that transformers loaded itself."""

    def table(tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return own(torch.tensor([tokens], device=own.device)).logits[0].float().log_softmax(dim=-1).cpu()

    found = []
    before, after = model._around(WAYS[0]["instruction"])
    prefix = model.tokens(before + after)
    for title in TITLES:
        suffix = model.tokens(title)
        of = table(prefix + suffix)[len(prefix) - 1 :]
        found.append(float(of[range(len(suffix)), suffix].sum()))
    before, after = model._around(WAYS[1]["instruction"])
    choices = [model.tokens(word)[0] for word in WAYS[1]["choices"]]
    for title in TITLES:
        found += table(model.tokens(before) + model.tokens(title + after))[-1, choices].tolist()
    return found


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such short passes only lose by more
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What the library tells meanwhile."""
    lines: list[str] = []
    monkeypatch.setattr(progress, "tell", lines.append)
    return lines


@pytest.fixture
def tiny(tmp_path) -> Path:
    return tiny_model.save(tmp_path / "tiny")


# --- precision and device ---------------------------------------------------------------------------------------------

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
)
# How far sums over a title's tokens may be apart: bfloat16 has eight bits, and its passes add in another order.
APART = {"float32": 1e-3, "bfloat16": 1.0}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", APART)
@pytest.mark.parametrize("kind", tiny_model.KINDS)
def test_scores_are_those_of_transformers_own_passes(kind, dtype, device, tmp_path, told, record_property):
    _compare(HuggingFace(tiny_model.save(tmp_path, kind=kind), dtype=dtype, device=device), record_property)
    assert not [line for line in told if "at a time" in line]  # the token tree gave them


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", APART)
def test_scores_of_a_converted_folder_are_those_of_transformers_own_passes(dtype, device, told, record_property):
    folder = paths.MODELS / f"{NAME}-{MODELS[NAME].file.sha256[:12]}"
    if not folder.is_dir():
        pytest.skip(f"the weights of {NAME} are not on this disk")
    _compare(HuggingFace(folder, dtype=dtype, device=device), record_property)
    assert not [line for line in told if "at a time" in line]


def _compare(model: HuggingFace, record_property: Any) -> None:
    own = transformers.AutoModelForCausalLM.from_pretrained(model.folder(), dtype=devices.DTYPES[model.loaded.dtype])
    found, expected = numbers(model), plainly(model, own.to(model.loaded.device).eval())
    assert model.model.dtype == devices.DTYPES[model.loaded.dtype]
    assert model.model.device.type == model.loaded.device
    largest = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    record_property("largest difference of a log-probability", largest)
    print(f"{model.name}, {model.loaded.dtype}, {model.loaded.device}: largest difference {largest:.2g}")
    assert largest < APART[model.loaded.dtype]


def test_precision_and_device_are_part_of_the_key_unless_they_are_the_usual(tiny):
    usual = HuggingFace(tiny).key(ASKED)
    assert HuggingFace(tiny, dtype="float32", device="cpu").key(ASKED) == usual
    keys = {
        HuggingFace(tiny, dtype=dtype, device=device).key(ASKED)
        for dtype in ("float32", "bfloat16")
        for device in ("cpu", "cuda")
    }
    assert len(keys) == 4 and usual in keys
    assert HuggingFace(tiny, device="cuda:1").key(ASKED) == HuggingFace(tiny, device="cuda:0").key(ASKED)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'; it must be .*bfloat16"),
        ({"dtype": torch.float32}, "dtype is .*it must be"),
        ({"device": "gpu"}, "device is 'gpu'; it must be .*cuda"),
        ({"device": "cuda:x"}, "device is 'cuda:x'"),
        ({"revision": ""}, "revision is ''"),
    ],
)
def test_a_precision_or_device_that_is_none_is_told_with_what_is_possible(tiny, given, says):
    with pytest.raises(SettingError, match=says):
        HuggingFace(tiny, **given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_told_when_it_is_needed_and_not_before(tiny):
    model = HuggingFace(tiny, device="cuda")
    assert model.key(ASKED)  # what was recorded elsewhere can be replayed
    assert "'cuda' is not there" in model.find()
    with pytest.raises(ModelError, match="'cuda' is not there: .*cpu"):
        model.answer(WAYS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_command_that_fetches_a_model_says_where_it_is_and_that_its_device_is_not(tiny, capsys):
    values = config.parameters(config.load("ml-100k")) | {"model": str(tiny), "local": {"device": "cuda"}}
    del values["name"]
    __main__.model(config.build("mine", values, "mine.toml"))
    where, lacking = capsys.readouterr().out.splitlines()
    assert where.startswith("tiny: ") and "'cuda' is not there" in lacking


def test_a_device_beyond_the_last_is_told_with_the_number_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.device("cuda:1").index == 1
    with pytest.raises(ModelError, match="'cuda:2' is not there: torch sees 2"):
        devices.device("cuda:2")


@pytest.mark.parametrize(
    ("capable", "dtype", "advised"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "float32", 'amx_bf16.*dtype = "bfloat16"'),
        ({"avx512_bf16": True}, "float32", 'avx512_bf16.*dtype = "bfloat16"'),
        ({"avx512_bf16": True}, "bfloat16", ""),
        ({"avx512_bf16": False}, "bfloat16", 'dtype = "float32"'),
        ({"avx512_bf16": False}, "float32", ""),
    ],
)
def test_whoever_has_a_processor_for_another_precision_is_told(tiny, monkeypatch, told, capable, dtype, advised):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    local._tell_once.cache_clear()
    for _ in range(2):  # once is enough
        assert HuggingFace(tiny, dtype=dtype).model
    assert len(told) == bool(advised)
    assert not advised or re.search(advised, told[0])


def test_what_the_processor_can_is_found_by_an_older_torch_too_or_not_at_all(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert devices.fast_bfloat16() == "avx512_bf16"
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert devices.fast_bfloat16() == ""


# --- the converted folder -------------------------------------------------------------------------------------------

JSON = ("config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
CARD = MODELS[NAME]


class Converter:
    """In place of transformers: writes small files of the right names, and counts. It can be stopped on the way."""

    def __init__(self) -> None:
        self.conversions = 0
        self.dies: type[BaseException] | None = None
        self.go = threading.Event()
        self.go.set()

    def tokenizer(self, folder: Path, gguf_file: str) -> SimpleNamespace:
        assert (folder / gguf_file).is_file()
        return SimpleNamespace(save_pretrained=self.save_tokenizer)

    def model(self, folder: Path, gguf_file: str, dtype: torch.dtype) -> SimpleNamespace:
        return SimpleNamespace(
            config=SimpleNamespace(quantization_config={}), is_quantized=True, save_pretrained=self.save_model
        )

    def save_tokenizer(self, folder: Path) -> None:
        self.conversions += 1
        folder.mkdir()
        for name in JSON[1:]:
            (folder / name).write_text(json.dumps({"name": name}), encoding="utf-8")
        assert self.go.wait(60)
        if self.dies:
            raise self.dies

    def save_model(self, folder: Path) -> None:
        (folder / JSON[0]).write_text("{}", encoding="utf-8")
        save_file({"weights": torch.ones(100)}, folder / WEIGHTS)


@pytest.fixture
def converter(tmp_path, monkeypatch) -> Converter:
    fake = Converter()
    (tmp_path / CARD.file.name).touch()
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    monkeypatch.setattr(weights, "fetch", lambda file, *_: tmp_path / file.name)
    monkeypatch.setattr(weights.AutoTokenizer, "from_pretrained", fake.tokenizer)
    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", fake.model)
    return fake


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_model_is_converted_once_and_found_afterwards(converter):
    folder = study_models.local(CARD.name).folder()
    assert folder.parent == paths.MODELS and {*JSON, WEIGHTS} < set(contents(folder))
    assert study_models.local(CARD.name).folder() == folder
    assert converter.conversions == 1


def test_of_two_who_want_a_model_at_once_one_converts_it_and_the_other_waits(converter, capsys):
    converter.go.clear()
    found: list[Path] = []
    two = [threading.Thread(target=lambda: found.append(study_models.local(CARD.name).folder())) for _ in range(2)]
    said = ""

    def waiting() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return f"waiting for another conversion of {NAME}" in said

    for one in two:
        one.start()
    try:
        until(waiting)
    finally:
        converter.go.set()
        for one in two:
            one.join()
    assert found == [study_models.local(CARD.name).folder()] * 2
    assert converter.conversions == 1


def test_a_conversion_that_is_cut_short_is_no_model_and_the_next_one_starts_anew(converter, monkeypatch):
    converter.dies = KeyboardInterrupt
    with monkeypatch.context() as killed:
        killed.setattr("hybridrec.files._remove", lambda path: None)  # a process that is killed removes nothing
        with pytest.raises(KeyboardInterrupt):
            study_models.local(CARD.name).folder()
    assert any(file.is_dir() for file in paths.MODELS.iterdir()), "nothing was left, so nothing is tried here"
    converter.dies = None
    folder = study_models.local(CARD.name).folder()
    assert {*JSON, WEIGHTS} < set(contents(folder))
    assert [file for file in paths.MODELS.iterdir() if file.is_dir()] == [folder]


DAMAGE = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
}


@pytest.mark.parametrize("listed", [True, False], ids=["with sizes", "of an earlier version"])
@pytest.mark.parametrize("name", [*JSON, WEIGHTS])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_told_of_and_made_again(converter, name, damage, listed):
    folder = study_models.local(CARD.name).folder()
    whole = contents(folder)
    if not listed:
        (folder / weights._SIZES).unlink()
    DAMAGE[damage](folder / name)
    with pytest.warns(UserWarning, match=rf"{folder.name} is damaged \({name} .*converted again") as told:
        assert study_models.local(CARD.name).folder() == folder
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert contents(folder) == whole
    assert study_models.local(CARD.name).folder() == folder
    assert converter.conversions == 2


@pytest.mark.parametrize("text", ["", "{", "[1"])
def test_a_damaged_list_of_sizes_is_damage_too(converter, text):
    folder = study_models.local(CARD.name).folder()
    (folder / weights._SIZES).write_text(text, encoding="utf-8")
    with pytest.warns(UserWarning, match=f"{weights._SIZES} is not readable"):
        study_models.local(CARD.name).folder()
    assert converter.conversions == 2


def test_a_whole_folder_of_an_earlier_version_is_used_as_it_is(converter):
    folder = study_models.local(CARD.name).folder()
    (folder / weights._SIZES).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert study_models.local(CARD.name).folder() == folder
    assert converter.conversions == 1


def test_a_damaged_folder_stays_until_there_is_a_new_one(converter):
    folder = study_models.local(CARD.name).folder()
    (folder / WEIGHTS).write_bytes(b"")
    damaged = contents(folder)
    converter.dies = OSError
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(OSError):
        study_models.local(CARD.name).folder()
    assert contents(folder) == damaged


# --- a folder, and the hub --------------------------------------------------------------------------------------------


def test_a_folder_gives_the_scores_that_the_card_of_the_same_weights_gives(tiny, monkeypatch):
    monkeypatch.setattr(weights, "converted_folder", lambda *_: tiny)
    folder, card = HuggingFace(tiny), HuggingFace(NAME)
    assert numbers(folder) == numbers(card)
    assert (folder.name, folder.chat) == ("tiny", True)
    assert folder.key(Asked(1, WAYS[0])) != card.key(Asked(1, WAYS[0]))


def test_a_model_without_a_chat_template_goes_on_with_the_text(tmp_path):
    model = HuggingFace(tiny_model.save(tmp_path / "base", chat=False))
    assert not model.chat
    assert model._around("Name a film.") == ("<end>Name a film.", "\n")


def test_a_folders_answers_are_found_by_its_weights_wherever_it_lies(tiny, tmp_path):
    asked = Asked(1, WAYS[0])
    key = HuggingFace(tiny).key(asked)
    moved = shutil.copytree(tiny, tmp_path / "elsewhere" / "another-name")
    assert HuggingFace(moved).key(asked) == key
    other = HuggingFace(tiny_model.save(moved, seed=4))
    assert other.key(asked) != key


def remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


FAULTS = {
    "no config": (lambda f: remove(f, "config.json"), r"no config\.json"),
    "no weights": (lambda f: remove(f, "*.safetensors"), r"no model\.safetensors: .*save_pretrained"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"no model\.safetensors, but pytorch_model\.bin, .*save_pretrained",
    ),
    "GGUF": (lambda f: (f / "model.safetensors").rename(f / "m.gguf"), r"but m\.gguf: give the path of that file"),
    "no tokenizer": (lambda f: remove(f, "tokenizer*"), r"no tokenizer \(tokenizer\.json"),
    "an adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "adapter.*merge"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_without_a_whole_model_is_refused_at_once_with_what_it_lacks(tiny, fault):
    spoil, says = FAULTS[fault]
    spoil(tiny)
    with pytest.raises(ModelError, match=f"tiny: .*{says}"):
        HuggingFace(tiny)


def test_a_folder_in_several_parts_is_one_model_and_misses_any_of_them(tmp_path, tiny):
    parts = tiny_model.save(tmp_path / "parts", max_shard_size="20KB")
    names = sorted(file.name for file in parts.glob("*.safetensors"))
    assert len(names) > 1
    assert numbers(HuggingFace(parts)) == numbers(HuggingFace(tiny))
    (parts / names[1]).unlink()
    with pytest.raises(ModelError, match=f"no {names[1]}"):
        HuggingFace(parts)


def test_weights_that_cannot_be_loaded_are_an_error_with_the_models_name(tiny):
    (tiny / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="tiny cannot be loaded"):
        HuggingFace(tiny).answer(WAYS)


def test_a_kind_that_transformers_does_not_know_is_an_error_with_the_models_name(tiny):
    settings = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    (tiny / "config.json").write_text(json.dumps(settings | {"model_type": "of-tomorrow"}), encoding="utf-8")
    with pytest.raises(ModelError, match="tiny cannot be loaded.*of-tomorrow"):
        HuggingFace(tiny).answer(WAYS)


@pytest.mark.parametrize("name", ["GPT-9", "/nowhere/Big Model", "./tiny", "a/b/c", "org/tiny.gguf", "~nobody/m"])
def test_an_unknown_model_lists_the_known_ones_and_what_else_can_be_given(name):
    with pytest.raises(ModelError, match=f"unknown model '{re.escape(name)}'.*{NAME}.*folder.*gguf.*hub"):
        HuggingFace(name)


# --- a GGUF file ------------------------------------------------------------------------------------------------------


def test_a_gguf_file_is_converted_once_and_keyed_by_its_hash_wherever_it_lies(converter, tmp_path):
    file = tmp_path / "My model (Q4).gguf"
    file.write_bytes(b"weights")
    sha256, models = downloads.sha256(file), tmp_path / "models"
    model = HuggingFace(file, folder=models)
    assert model.name == "My model (Q4)"
    assert model.key(ASKED) == request_key({"model": f"gguf:{sha256}", **WAYS[0]})
    assert converter.conversions == 0  # a key needs no weights
    assert model.folder() == models / f"My_model__Q4_-{sha256[:12]}"
    moved = HuggingFace(shutil.copy(file, tmp_path / "moved.GGUF"), folder=models)
    assert moved.key(ASKED) == model.key(ASKED)
    assert HuggingFace(str(file), folder=models).folder() == model.folder()
    assert converter.conversions == 1
    key = model.key(ASKED)
    file.write_bytes(b"other weights")
    assert HuggingFace(file).key(ASKED) != key


def test_a_file_that_is_no_gguf_is_told_with_its_name(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read by transformers"):
        HuggingFace(file, folder=tmp_path / "models").answer(WAYS)


@pytest.mark.live
@pytest.mark.slow
def test_the_file_of_a_card_is_that_cards_model_under_any_name(tmp_path):
    card = MODELS[NAME]
    there = [folder / card.file.name for folder in paths.data_folders() if (folder / card.file.name).is_file()]
    if not there:
        pytest.skip(f"the GGUF file of {NAME} is not on this disk")
    (tmp_path / "mine.gguf").symlink_to(there[0])
    model, of_card = HuggingFace(tmp_path / "mine.gguf", folder=tmp_path), study_models.local(NAME)
    assert (model.key(ASKED), model.card) == (of_card.key(ASKED), card)
    assert numbers(model) == numbers(of_card)


# --- the hub ----------------------------------------------------------------------------------------------------------


def snapshot(repository: Path, commit: str, ref: str, **options: Any) -> Path:
    """One commit of a model as the hub's cache keeps it: files by their hash, and links to them by their names."""
    folder = tiny_model.save(repository / "snapshots" / commit, **options)
    (repository / "blobs").mkdir(exist_ok=True)
    for file in list(folder.iterdir()):
        blob = repository / "blobs" / downloads.sha256(file)
        file.rename(blob)
        file.symlink_to(Path("..") / ".." / "blobs" / blob.name)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / ref).write_text(commit, encoding="utf-8")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache of the Hugging Face hub that holds two commits of org/tiny; nothing else can be fetched."""
    cache = tmp_path / "hub"
    # What the variables HF_HUB_CACHE and HF_HUB_OFFLINE set when the library is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot(cache / "models--org--tiny", COMMIT, "main")
    snapshot(cache / "models--org--tiny", OTHER_COMMIT, "v2", seed=4)
    return cache / "models--org--tiny" / "snapshots"


@pytest.mark.parametrize(
    ("revision", "commit"),
    [(None, COMMIT), ("main", COMMIT), ("v2", OTHER_COMMIT), (COMMIT, COMMIT), (OTHER_COMMIT, OTHER_COMMIT)],
)
def test_a_model_of_the_hub_is_found_in_its_cache_and_keyed_by_its_commit(hub, revision, commit):
    model = HuggingFace("org/tiny", revision=revision)
    assert model.key(ASKED) == request_key({"model": f"org/tiny@{commit}", **WAYS[0]})
    assert model.find() == ""
    assert numbers(model) == numbers(HuggingFace(hub / commit))
    assert (model.name, model.chat) == ("org/tiny", True)


def test_what_was_recorded_with_a_commit_is_replayed_without_the_hub(hub):
    model = HuggingFace("org/none", revision=COMMIT)
    assert model.key(ASKED) == request_key({"model": f"org/none@{COMMIT}", **WAYS[0]})


@pytest.mark.parametrize("revision", [None, "v3"])
def test_a_model_that_the_hub_does_not_give_is_an_error_with_its_name(hub, revision):
    model = HuggingFace("org/none" if revision is None else "org/tiny", revision=revision)  # nothing is looked up yet
    for wanted in (model.find, lambda: model.key(ASKED), model.folder):
        with pytest.raises(ModelError, match=f"'{model.name}'.*{revision or ''}"):
            wanted()


def test_a_part_of_a_model_in_the_cache_is_not_taken_for_the_whole(hub):
    (hub / COMMIT / "model.safetensors").unlink()
    model = HuggingFace("org/tiny")
    assert model.key(ASKED)
    with pytest.raises(ModelError, match="org/tiny"):
        model.answer(WAYS)


@pytest.mark.parametrize("model", [NAME, "folder"])
def test_only_a_model_of_the_hub_has_a_revision(tiny, model):
    with pytest.raises(ModelError, match="'v2'"):
        HuggingFace(tiny if model == "folder" else model, revision="v2")


@pytest.mark.slow
def test_the_variables_of_the_hub_are_heard(hub, tmp_path):
    """In a process of its own, since the hub's library reads them once."""
    code = "import sys; from hybridrec import HuggingFace; print(HuggingFace('org/tiny', revision='v2').folder())"
    variables = {"HF_HUB_CACHE": str(hub.parents[1]), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(hub / OTHER_COMMIT), done.stderr
