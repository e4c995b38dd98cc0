"""The open model: scores that share a prefix are the scores of plain forward passes. Needs its weights on this disk."""

from collections.abc import Iterator

import pytest
import torch
from transformers import DynamicCache

from hybridrec import paths
from hybridrec.llm import local
from hybridrec.llm.local import LocalModel
from hybridrec.llm.models import ModelError
from hybridrec.llm.runner import Asked, Response

NAME = "SmolLM2-135M-Instruct"
INSTRUCTION = "Here are 2 films that I have rated:\n- Alien (1979)\n- Fargo (1996)\n\n"
TITLES = ["The Godfather: Part II (1974)", "Psycho"]
PROMPTS = [INSTRUCTION + "Name one more film that I would rate highly.", "Name a film."]


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    card = local.model_card(NAME)
    folders = [paths.MODELS, *paths.data_folders()]
    if not any(any(folder.glob(f"{NAME}*")) for folder in folders if folder.is_dir()):
        pytest.skip(f"the weights of {card.name} are not on this disk")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such short passes only lose by more
    yield LocalModel(NAME)
    torch.set_num_threads(threads)


def plain_log_probs(model: LocalModel, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token after every position: one unbatched pass without any cache."""
    with torch.inference_mode():
        logits = model.model(torch.tensor([tokens]), use_cache=False).logits[0]
    return torch.log_softmax(logits, dim=-1)


@pytest.mark.live
@pytest.mark.parametrize("instruction", PROMPTS)
def test_log_likelihood_over_a_shared_prefix_is_that_of_plain_passes(model, instruction):
    (response,) = model.answer([{"kind": "score", "instruction": instruction, "candidates": TITLES}])
    prefix = model._tokens("".join(model._around(instruction)))
    for title, value, length in zip(TITLES, response["log_probs"], response["lengths"], strict=True):
        suffix = model._tokens(title)
        table = plain_log_probs(model, prefix + suffix)
        expected = sum(float(table[len(prefix) + i - 1, token]) for i, token in enumerate(suffix))
        assert value == pytest.approx(expected, abs=1e-3)
        assert length == len(suffix)
    assert response["prompt_tokens"] == len(prefix) + sum(response["lengths"])


@pytest.mark.live
def test_choices_over_a_shared_prefix_are_those_of_plain_passes(model):
    questions = [f'Would I like the film "{title}"? Answer Yes or No.' for title in TITLES]
    request = {"kind": "choose", "instruction": INSTRUCTION, "candidates": questions, "choices": ["Yes", "No"]}
    (response,) = model.answer([request])
    before, after = model._around(INSTRUCTION)
    yes_no = [model._tokens(word)[0] for word in ("Yes", "No")]
    for question, values in zip(questions, response["log_probs"], strict=True):
        table = plain_log_probs(model, model._tokens(before) + model._tokens(question + after))
        assert values == pytest.approx(table[-1, yes_no].tolist(), abs=1e-3)


@pytest.mark.live
def test_a_candidates_score_does_not_depend_on_those_beside_it(model, monkeypatch):
    request = {"kind": "score", "instruction": PROMPTS[0], "candidates": TITLES}
    together = model.answer([request])[0]["log_probs"]
    monkeypatch.setattr(local, "_TOKENS_PER_PASS", 1)
    assert model.answer([request])[0]["log_probs"] == pytest.approx(together, abs=1e-3)


@pytest.mark.live
def test_a_history_is_read_once_for_all_ways_to_ask_and_the_scores_stay(model, monkeypatch):
    ways = [
        {"kind": "score", "instruction": f"{INSTRUCTION}\n\nName one more film.", "candidates": TITLES},
        {"kind": "choose", "instruction": f"{INSTRUCTION}\n\n", "candidates": TITLES, "choices": ["Yes", "No"]},
        {"kind": "score", "instruction": "Name a film.", "candidates": TITLES},
    ]
    alone = []
    for way in ways:
        model._held = [], DynamicCache()
        alone += flat(model.answer([way])[0]["log_probs"])
    read, forward = [], model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda ids, **rest: read.append(ids.shape[1]) or forward(ids, **rest))
    model._held = [], DynamicCache()
    assert [p for way in ways for p in flat(model.answer([way])[0]["log_probs"])] == pytest.approx(alone, abs=1e-3)
    assert read[2] <= 3 < len(model._tokens(INSTRUCTION)) < read[0]  # each way to ask takes two passes


def flat(log_probs: list) -> list[float]:
    """The numbers of an answer of either kind."""
    return [p for each in log_probs for p in (each if isinstance(each, list) else [each])]


@pytest.mark.live
def test_generation_is_greedy_and_stops_at_its_budget(model, monkeypatch):
    monkeypatch.setattr(model, "_budget", len)
    instruction = PROMPTS[1]
    short, long = model.answer(
        [{"kind": "generate", "instruction": instruction, "candidates": ["x"] * n} for n in (2, 4)]
    )
    assert (short["completion_tokens"], long["completion_tokens"]) == (2, 4)
    assert short["finish_reason"] == long["finish_reason"] == "length"
    assert long["text"].startswith(short["text"])
    tokens = model._tokens("".join(model._around(instruction)))
    assert long["prompt_tokens"] == len(tokens)
    for _ in range(4):
        tokens.append(int(plain_log_probs(model, tokens)[-1].argmax()))
    assert long["text"] == model.tokenizer.decode(tokens[-4:])


@pytest.mark.live
def test_generation_stops_each_sequence_that_has_written_a_line_twice(model):
    texts = ["1. Heat\n2. Heat\n", "1. Heat\n2. Fargo\n"]
    written = model.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)["input_ids"]
    prompt = torch.tensor([model._tokens("Heat\nHeat\n")] * 2)  # what the prompt repeats does not count
    stop = local._StopAtRepeatedLine(model.tokenizer, prompt.shape[1], budgets=[100, 100])
    assert stop(torch.cat([prompt, written], dim=1), scores=None).tolist() == [True, False]


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ModelError, match=f"unknown model 'GPT-9'.*{NAME}"):
        local.model_card("GPT-9")


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("Heat\nFargo\nHeat\n", True),
        ("1. Heat\n2. Heat\n", True),
        ("Heat\nHeat", False),  # the last line may still go on
        ("Heat\n\n\nFargo\n", False),
        ("- 187\n- 54\n- 1941\n", False),
        ("", False),
    ],
)
def test_only_complete_lines_count_as_repeated(text, repeated):
    assert local._repeats(text) == repeated


def test_passes_keep_the_order_and_the_bound_and_are_full(monkeypatch):
    monkeypatch.setattr(local, "_TOKENS_PER_PASS", 10)
    suffixes = [[n] * (1 + n % 4) for n in range(11)] + [[99] * 12]
    passes = list(local._passes(suffixes))
    assert [suffix for passed in passes for suffix in passed] == suffixes
    sizes = [sum(map(len, passed)) for passed in passes]
    assert all(size <= 10 for size in sizes[:-1])
    assert sizes[-1] == 12  # longer than a pass, so it has one of its own
    assert all(size + len(after[0]) > 10 for size, after in zip(sizes, passes[1:], strict=False))


# --- taking requests on ---------------------------------------------------------------------------------------------


class Stub(LocalModel):
    """Answers without any weights, and remembers its batches."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.batches: list[list[str]] = []

    def answer(self, requests: list[dict]) -> list[dict]:
        self.batches.append([request["instruction"] for request in requests])
        return [{"text": request["instruction"]} for request in requests]


def request(kind: str, length: int) -> Asked:
    return Asked(length, {"kind": kind, "instruction": "x" * length, "candidates": ["Heat"]})


def keep(asked: Asked, response: Response) -> Response:
    return {**response, "kept": asked.user}


@pytest.mark.parametrize("kind", ["score", "choose"])
def test_what_is_scored_is_answered_at_once(kind):
    model, asked = Stub(), request(kind, 5)
    assert model.submit(asked, keep) == [(asked, {"text": "xxxxx", "kept": 5})]
    assert model.wait() == []


def test_what_is_written_is_collected_and_answered_the_shortest_first(monkeypatch):
    monkeypatch.setattr(local, "_WAITING", 6)
    monkeypatch.setattr(local, "_GENERATED_TOGETHER", 4)
    model = Stub()
    finished = [model.submit(request("generate", length), keep) for length in (9, 2, 7, 1, 8, 3)]
    assert finished[:5] == [[]] * 5
    assert [(asked.user, response["kept"]) for asked, response in finished[5]] == [(1, 1), (2, 2), (3, 3), (7, 7)]
    assert [asked.user for asked, _ in model.wait()] == [8, 9]
    assert model.wait() == []
    assert [len(batch) for batch in model.batches] == [4, 2]


def test_what_was_collected_and_not_begun_is_forgotten_when_the_run_ends():
    model = Stub()
    model.submit(request("generate", 5), keep)
    model.close()
    assert model.wait() == []
    assert model.batches == []
