"""The open model: scores that share a prefix are the scores of plain forward passes. Needs its weights on this disk."""

from collections.abc import Iterator

import pytest
import tiny_model
import torch
from toy_model import reply

from hybridrec.errors import ModelError
from hybridrec.llm import runner
from hybridrec.llm.models import local, packed
from hybridrec.llm.models.cards import MODELS
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Response
from hybridrec.study import models as study_models
from hybridrec.study import paths

NAME = "SmolLM2-135M-Instruct"
INSTRUCTION = "Here are 2 films that I have rated:\n- Alien (1979)\n- Fargo (1996)\n\n"
TITLES = ["The Godfather: Part II (1974)", "Psycho"]
PROMPTS = [INSTRUCTION + "Name one more film that I would rate highly.", "Name a film."]


@pytest.fixture(scope="module")
def model() -> Iterator[HuggingFace]:
    card = MODELS[NAME]
    folders = [paths.MODELS, *paths.data_folders()]
    if not any(any(folder.glob(f"{NAME}*")) for folder in folders if folder.is_dir()):
        pytest.skip(f"the weights of {card.name} are not on this disk")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such short passes only lose by more
    yield study_models.local(NAME)
    torch.set_num_threads(threads)


def plain_log_probs(model: HuggingFace, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token after every position: one unbatched pass without any cache."""
    with torch.inference_mode():
        logits = model.model(torch.tensor([tokens]), use_cache=False).logits[0]
    return torch.log_softmax(logits, dim=-1)


@pytest.mark.live
@pytest.mark.parametrize("instruction", PROMPTS)
def test_log_likelihood_over_a_shared_prefix_is_that_of_plain_passes(model, instruction):
    (response,) = model.answer([{"kind": "score", "instruction": instruction, "candidates": TITLES}])
    prefix = model.tokens("".join(model._around(instruction)))
    for title, value, length in zip(TITLES, response["log_probs"], response["lengths"], strict=True):
        suffix = model.tokens(title)
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
    yes_no = [model.tokens(word)[0] for word in ("Yes", "No")]
    for question, values in zip(questions, response["log_probs"], strict=True):
        table = plain_log_probs(model, model.tokens(before) + model.tokens(question + after))
        assert values == pytest.approx(table[-1, yes_no].tolist(), abs=1e-3)


@pytest.mark.live
def test_a_candidates_score_does_not_depend_on_those_beside_it(model, monkeypatch):
    request = {"kind": "score", "instruction": PROMPTS[0], "candidates": TITLES}
    together = model.answer([request])[0]["log_probs"]
    monkeypatch.setattr(packed, "_TOKENS_PER_PASS", 1)
    assert model.answer([request])[0]["log_probs"] == pytest.approx(together, abs=1e-3)


def users(number: int) -> list[dict]:
    """Requests of several users with histories of different lengths, each asked in two ways."""
    requests = []
    for user in range(number):
        history = "".join(
            f"- Film number {user * at} of a long history ({1950 + at})\n" for at in range(1, 4 + 3 * user)
        )
        instruction = f"Here are films that I have rated:\n{history}\n"
        questions = [f'Would I like the film "{title}"? Answer Yes or No.' for title in TITLES]
        requests += [
            {
                "kind": "score",
                "instruction": instruction + "Name one more film.",
                "candidates": [*TITLES, "Heat (1995)"],
            },
            {"kind": "choose", "instruction": instruction, "candidates": questions, "choices": ["Yes", "No"]},
        ]
    return requests


@pytest.mark.live
def test_a_batch_of_users_gets_the_scores_and_the_order_that_each_gets_alone(model):
    requests = users(3)
    for together, request in zip(model.answer(requests), requests, strict=True):
        (alone,) = model.answer([request])
        one, other = (ranker_scores(response) for response in (together, alone))
        assert one == pytest.approx(other, abs=1e-4)
        assert sorted(range(len(one)), key=one.__getitem__) == sorted(range(len(other)), key=other.__getitem__)
        fixed = ("lengths", "prompt_tokens", "cached_tokens", "completion_tokens")
        assert [together[name] for name in fixed] == [alone[name] for name in fixed]
        assert together["seconds"] > 0


def ranker_scores(response: dict) -> list[float]:
    """What rankers make of an answer: log-likelihood per token, or log P(Yes) - log P(No)."""
    if isinstance(response["log_probs"][0], list):
        return [yes - no for yes, no in response["log_probs"]]
    return [value / length for value, length in zip(response["log_probs"], response["lengths"], strict=True)]


@pytest.mark.live
def test_a_history_is_read_once_for_all_ways_to_ask_and_the_scores_stay(model, monkeypatch):
    ways = [
        {"kind": "score", "instruction": f"{INSTRUCTION}\n\nName one more film.", "candidates": TITLES},
        {"kind": "choose", "instruction": f"{INSTRUCTION}\n\n", "candidates": TITLES, "choices": ["Yes", "No"]},
        {"kind": "score", "instruction": "Name a film.", "candidates": TITLES},
    ]
    alone = [p for way in ways for p in flat(model.answer([way])[0]["log_probs"])]
    read, forward = [], model.model.base_model.forward
    monkeypatch.setattr(
        model.model.base_model, "forward", lambda ids, **rest: read.append(ids.shape[1]) or forward(ids, **rest)
    )
    assert [p for one in model.answer(ways) for p in flat(one["log_probs"])] == pytest.approx(alone, abs=1e-3)
    model.answer(ways[:1])
    model.answer(ways[1:2])
    assert len(read) == 3  # the three ways took one pass
    history = len(model.tokens("".join(model._around(INSTRUCTION)[:1])))
    assert read[1] + read[2] - history < read[0] < read[1] + read[2]


@pytest.mark.live
@pytest.mark.parametrize("kind", ["score", "choose"])
def test_a_list_asked_title_by_title_is_read_as_one_prompt_and_scored_as_one_request(kind, model, monkeypatch):
    request = {"kind": kind, "instruction": INSTRUCTION, "candidates": [*TITLES, "Heat (1995)", "Fargo (1996)"]}
    request |= {"choices": ["Yes", "No"]} if kind == "choose" else {}
    (whole,) = model.answer([request])
    read, forward = [], model.model.base_model.forward
    monkeypatch.setattr(
        model.model.base_model, "forward", lambda ids, **rest: read.append(ids.shape[1]) or forward(ids, **rest)
    )
    parts = [request | {"candidates": request["candidates"][own]} for own in (slice(0, 1), slice(1, 3), slice(3, 4))]
    answers = model.answer(parts)
    assert len(read) == 1
    assert [len(one["log_probs"]) for one in answers] == [1, 2, 1]
    assert flat([p for one in answers for p in one["log_probs"]]) == pytest.approx(flat(whole["log_probs"]), abs=1e-3)
    assert [n for one in answers for n in one["lengths"]] == whole["lengths"]
    for usage in ("prompt_tokens", "cached_tokens"):
        assert sum(one[usage] for one in answers) == whole[usage]
    other = model.answer([parts[0], {**parts[1], "instruction": "Name a film."}])
    assert flat(other[1]["log_probs"]) != pytest.approx(flat(answers[1]["log_probs"]), abs=1e-3)


def flat(log_probs: list) -> list[float]:
    """The numbers of an answer of either kind."""
    return [p for each in log_probs for p in (each if isinstance(each, list) else [each])]


@pytest.mark.live
def test_generation_is_greedy_and_stops_at_its_budget(model, monkeypatch):
    monkeypatch.setattr(model, "_budget", lambda request: len(request["candidates"]))
    instruction = PROMPTS[1]
    short, long = model.answer(
        [{"kind": "generate", "instruction": instruction, "candidates": ["x"] * n} for n in (2, 4)]
    )
    assert (short["completion_tokens"], long["completion_tokens"]) == (2, 4)
    assert short["finish_reason"] == long["finish_reason"] == "length"
    assert long["text"].startswith(short["text"])
    tokens = model.tokens("".join(model._around(instruction)))
    assert long["prompt_tokens"] == len(tokens)
    for _ in range(4):
        tokens.append(int(plain_log_probs(model, tokens)[-1].argmax()))
    assert long["text"] == model.tokenizer.decode(tokens[-4:])


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ModelError, match=f"unknown model 'GPT-9'.*{NAME}"):
        HuggingFace("GPT-9")


WAYS = [
    {"kind": "score", "instruction": PROMPTS[0], "candidates": TITLES},
    {"kind": "choose", "instruction": INSTRUCTION, "candidates": TITLES, "choices": ["Yes", "No"]},
]


def test_the_tokens_of_a_request_are_those_that_its_answer_reports(tmp_path):
    model = HuggingFace(tiny_model.save(tmp_path))
    for request, answer in zip(WAYS, (model.answer([way])[0] for way in WAYS), strict=True):
        assert model.count(request) == (answer["prompt_tokens"], 0)
    written = {"kind": "generate", "instruction": PROMPTS[1], "candidates": ["ab", "c"]}
    (answer,) = model.answer([written])
    prompt, most = model.count(written)
    assert prompt == answer["prompt_tokens"] == len(f"Q: {PROMPTS[1]} A:")  # a token is a byte
    assert answer["completion_tokens"] <= most


# --- taking requests on ---------------------------------------------------------------------------------------------


class Stub(HuggingFace):
    """Answers without any weights, and remembers its batches."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.batches: list[list[str]] = []

    def answer(self, requests: list[dict]) -> list[dict]:
        self.batches.append([request["instruction"] for request in requests])
        return [reply(Asked(None, request)) for request in requests]

    def _generate(self, requests: list[dict]) -> Iterator[tuple[int, dict]]:
        yield from enumerate(self.answer(requests))


def request(kind: str, length: int) -> Asked:
    return Asked(length, {"kind": kind, "instruction": "x" * length, "candidates": ["Heat"]})


def keep(asked: Asked, response: Response) -> Response:
    return {**response, "kept": asked.user}


def scored(user: int | None, kind: str, length: int) -> Asked:
    """A request whose instruction and candidate have so many characters together."""
    return Asked(user, {"kind": kind, "instruction": f"{user}".ljust(length - 4, "x"), "candidates": ["Heat"]})


@pytest.mark.parametrize("kind", ["score", "choose"])
def test_what_is_scored_is_answered_in_batches_of_bounded_length_in_the_order_it_came(kind, monkeypatch):
    monkeypatch.setattr(local, "_CHARACTERS_TOGETHER", 100)
    model, asked = Stub(), [scored(user, kind, length) for user, length in enumerate((40, 60, 10, 90, 300, 10))]
    finished = [model.submit(one, keep) for one in asked]
    assert [[one.user for one, _ in each] for each in finished] == [[], [], [0, 1], [], [2, 3], [4]]
    assert [(one.user, response["kept"]) for one, response in model.wait()] == [(5, 5)]
    assert model.wait() == []


def test_one_users_ways_to_be_scored_stay_in_one_batch(monkeypatch):
    monkeypatch.setattr(local, "_CHARACTERS_TOGETHER", 100)
    model = Stub()
    for user in (1, 1, 2, 2, 2, 3):
        model.submit(scored(user, "score", 60), keep)
    model.wait()
    assert [[int(text.rstrip("x")) for text in batch] for batch in model.batches] == [[1, 1], [2, 2, 2], [3]]


def test_requests_for_everybody_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(local, "_CHARACTERS_TOGETHER", 100)
    model = Stub()
    for _ in range(4):
        model.submit(scored(None, "score", 60), keep)
    assert [len(batch) for batch in model.batches] == [1, 1, 1]


def test_a_killed_run_loses_at_most_the_batch_that_was_being_scored(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_CHARACTERS_TOGETHER", 100)
    model, asked = Stub(), [scored(user, "score", 30) for user in range(11)]
    answer, recordings = model.answer, Recordings(tmp_path / "stub.sqlite")

    def killed(requests: list[dict]) -> list[dict]:
        if len(model.batches) == 2:
            raise KeyboardInterrupt
        return answer(requests)

    monkeypatch.setattr(model, "answer", killed)
    with pytest.raises(KeyboardInterrupt):
        list(runner.ask(asked, model, recordings))
    assert set(Recordings(recordings.path)) == {model.key(one) for one in asked[:6]}
    resumed = Stub()
    assert len(list(runner.ask(asked, resumed, Recordings(recordings.path)))) == 11
    assert [len(batch) for batch in resumed.batches] == [3, 2]


def test_what_is_scored_and_what_is_written_do_not_mix():
    model = Stub()
    for one in (request("generate", 3), request("score", 4), request("generate", 5), request("choose", 6)):
        model.submit(one, keep)
    assert [asked.user for asked, _ in model.wait()] == [4, 6]
    assert [asked.user for asked, _ in model.wait()] == [3, 5]


def test_what_is_written_is_collected_and_answered_the_shortest_first(monkeypatch):
    monkeypatch.setattr(local, "_WAITING", 6)
    model = Stub()
    finished = [model.submit(request("generate", length), keep) for length in (9, 2, 7, 1, 8, 3, 5)]
    assert finished[:5] == [[]] * 5 and finished[6] == []
    assert [(asked.user, response["kept"]) for asked, response in finished[5]] == [(n, n) for n in (1, 2, 3, 7, 8, 9)]
    assert [asked.user for asked, _ in model.wait()] == [5]
    assert model.wait() == []
    assert [len(batch) for batch in model.batches] == [6, 1]


def test_each_written_answer_is_kept_the_moment_it_has_ended(tmp_path, monkeypatch):
    model, asked = Stub(), [request("generate", length) for length in (5, 6, 7)]
    recordings = Recordings(tmp_path / "stub.sqlite")

    def killed(requests: list[dict]) -> Iterator[tuple[int, dict]]:
        for at in (2, 0):
            yield at, reply(Asked(None, requests[at]))
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "_generate", killed)
    with pytest.raises(KeyboardInterrupt):
        list(runner.ask(asked, model, recordings))
    assert set(Recordings(recordings.path)) == {model.key(asked[0]), model.key(asked[2])}


def test_what_was_collected_and_not_begun_is_forgotten_when_the_run_ends():
    model = Stub()
    model.submit(request("generate", 5), keep)
    model.submit(request("score", 5), keep)
    model.close()
    assert model.wait() == []
    assert model.batches == []
