"""Probabilities from an endpoint: those of a real model behind the test server are those of the same model here."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_server
import pytest
import rank_users
import tiny_model
from fault_server import FaultServer, Reply, Request, completion, error, serve

from hybridrec.errors import EndpointError, SettingError, SpendingCapError
from hybridrec.evaluation.prices import Price
from hybridrec.llm import batch, modes, rankers, runner
from hybridrec.llm.models import endpoint
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.redact import redact_response
from hybridrec.study import models as study_models

BOS = "<end>"  # of the made-up models' tokenizer
SETTINGS: dict[str, Any] = {"logprobs": True, "requests_per_minute": 1e6, "retries": 1}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(folder) -> model_server.Served:
    return model_server.Served(folder)


@pytest.fixture(scope="module")
def server(served) -> Iterator[FaultServer]:
    with serve(served) as running:
        yield running


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model that was not taught to chat."""
    return tiny_model.save(tmp_path_factory.mktemp("base"), chat=False)


@pytest.fixture(scope="module")
def base_served(base) -> model_server.Served:
    return model_server.Served(base)


@pytest.fixture
def recordings(tmp_path) -> Recordings:
    return Recordings(tmp_path / "toy.sqlite")


def model(server: FaultServer, **settings: Any) -> Endpoint:
    return Endpoint("toy", server.url, **(SETTINGS | settings))


def answer(model: runner.Model, request: dict[str, Any]) -> runner.Response | runner.Failure:
    (found,) = runner.ask([runner.Asked(1, request)], model, Recordings(None))
    return found.outcome


def request_of(mode: str, user: int = 0) -> dict[str, Any]:
    return rankers.request_of(rank_users.task(user), mode, "film").request


# --- against the same model here -------------------------------------------------------------------------------------


def likeliest(served: model_server.Served, bodies: list[dict[str, Any]]) -> list[str]:
    """Letters and signs of one byte among the 20 likeliest tokens after any of these, none of them in both cases."""
    found: set[str] = set()
    for body in bodies:
        top = served.log_probs(served.prompt(body))[-1].topk(20).indices.tolist()
        found |= {text for text in map(served.tokenizer.decode, top) if text.isascii() and text.isprintable()}
    return sorted(text for text in found if text.strip() and (text == text.swapcase() or text.swapcase() not in found))


def in_a_chat(request: dict[str, Any]) -> list[dict[str, Any]]:
    texts = [request["instruction"] + question for question in request["candidates"]]
    return [{"messages": [{"role": "user", "content": text}]} for text in texts]


def as_text(request: dict[str, Any], end: str = "\n") -> list[dict[str, Any]]:
    """What the model reads of its own beginning token (BOS) on."""
    texts = [f"{BOS}{request['instruction']}{question}{end}" for question in request["candidates"]]
    return [{"prompt": text, "add_special_tokens": False} for text in texts]


def compare_choices(served: model_server.Served, here: HuggingFace, there: Endpoint, request: Any, bodies: Any) -> None:
    """A choice that is not among the 20 likeliest tokens gets the least of their log-probabilities.

    If neither is, both together get no more than those tokens leave of 1.
    """
    words = likeliest(served, bodies)
    assert len(words) >= 4
    compared = 0
    for first, second in zip(words[::2], words[1::2], strict=False):
        asked = request | {"choices": [first, second]}
        local, remote = answer(here, asked), answer(there, asked)
        for body, own, other in zip(bodies, local["log_probs"], remote["log_probs"], strict=True):
            top = served.log_probs(served.prompt(body))[-1].topk(20).values
            least = top.min().item()
            if max(own) < least:
                least = min(least, math.log((1 - top.exp().sum().item()) / 2))
            assert other == pytest.approx([max(value, least) for value in own], abs=1e-3)
            compared += sum(value > least for value in own)
    assert compared >= 10


def test_choices_have_the_log_probabilities_that_the_model_gives_here(served, server, folder):
    request = request_of("pointwise")
    compare_choices(served, HuggingFace(folder), model(server), request, in_a_chat(request))


def test_a_model_that_was_not_taught_to_chat_chooses_as_it_does_here(base_served, base):
    request = request_of("pointwise")
    with serve(base_served) as server:
        there = model(server, chat=False, bos=BOS)
        compare_choices(base_served, HuggingFace(base), there, request, as_text(request))


def test_grades_go_on_as_plain_text_whether_the_model_was_taught_to_chat_or_not(served, server, folder):
    """Any two tokens in the digits' place: the made-up model seldom goes on with a digit."""
    request = request_of("rating-lines")
    assert request["kind"] == "rate"
    compare_choices(served, HuggingFace(folder), model(server, bos=BOS), request, as_text(request, end=""))


@pytest.mark.parametrize("chat", [True, False])
def test_a_title_in_plain_text_scores_as_it_does_here(chat, served, base_served, folder, base):
    """What ``memory`` asks is no chat whatever the model is; what a base model is asked, neither."""
    request = request_of("likelihood") | ({"plain": True} if chat else {})
    with serve(served if chat else base_served) as server:
        remote = answer(model(server, chat=chat, bos=BOS), request)
    local = answer(HuggingFace(folder if chat else base), request)
    assert remote["log_probs"] == pytest.approx(local["log_probs"], abs=1e-3)
    assert remote["lengths"] == local["lengths"]


def test_plain_text_begins_as_the_server_thinks_right_unless_it_is_told_how(base_served, base):
    """Without ``bos`` nothing stands before the text: this tokenizer adds nothing, and the scores are others."""
    request = request_of("likelihood")
    with serve(base_served) as server:
        bare, whole = (answer(model(server, chat=False, bos=bos), request)["log_probs"] for bos in ("", BOS))
        sent = [one.body for one in server.requests]
    assert {one.get("add_special_tokens") for one in sent[: len(sent) // 2]} == {None}
    assert {one["prompt"][: len(BOS)] for one in sent[len(sent) // 2 :]} == {BOS}
    tokens = base_served.tokenizer(f"{request['instruction']}\n{request['candidates'][0]}")["input_ids"]
    values = base_served.log_probs(tokens)[range(len(tokens) - 1), tokens[1:]]
    assert bare[0] == pytest.approx(values[-len(request["candidates"][0].encode()) :].sum().item(), abs=1e-3)
    assert max(abs(one - other) for one, other in zip(bare, whole, strict=True)) > 0.01


def test_a_model_that_was_not_taught_to_chat_writes_in_plain_text(base_served):
    parameters = {"max_completion_tokens": 30, "chat_template_kwargs": {"thinking": False}, "seed": 1}
    request = request_of("listwise")
    with serve(base_served) as server:
        found = answer(model(server, chat=False, parameters=parameters), request)
        (sent,) = server.requests
    assert sent.body == {"model": "toy", "prompt": request["instruction"] + "\n", "max_tokens": 30, "seed": 1}
    row = base_served.log_probs(base_served.prompt(sent.body))[-1]
    assert found["text"] == base_served.tokenizer.decode(row.argmax())
    assert (found["finish_reason"], found["completion_tokens"]) == ("length", 1)


def test_titles_have_the_log_likelihoods_and_lengths_that_the_model_gives_here(server, folder):
    request = request_of("likelihood")
    local, remote = answer(HuggingFace(folder), request), answer(model(server), request)
    assert remote["log_probs"] == pytest.approx(local["log_probs"], abs=1e-3)
    assert remote["lengths"] == local["lengths"]
    assert remote["prompt_tokens"] > 5 * local["prompt_tokens"] / 6  # the prompt is sent with each title


@pytest.mark.parametrize("mode", ["likelihood", "pointwise"])
def test_users_are_ranked_and_a_second_run_asks_nothing(mode, server, recordings):
    mode = replace(modes.get(mode), floor=0.0)  # the made-up model says anything, and seldom Yes or No
    tasks = [rank_users.task(user) for user in range(3)]
    first = list(rankers.rank(tasks, mode, model(server), recordings, noun="film", seed=1))
    sent = len(server.log)
    again = list(rankers.rank(tasks, mode, model(server, concurrency=1), recordings, noun="film", seed=1))
    assert len(server.log) == sent
    assert {one.user: one.scores for one in first} == {one.user: one.scores for one in again}
    assert not [one for one in first if one.failure or (mode.name == "likelihood" and len(set(one.scores)) < 5)]
    assert len(recordings) == 3


def test_a_prior_is_asked_for_and_recorded_like_any_score(server, folder, recordings):
    asked = runner.Asked(None, rankers.build_request("prior", [], list(rank_users.task(0).items), "film"))
    (found,) = runner.ask([asked], model(server), recordings)
    assert found.outcome["log_probs"] == pytest.approx(
        answer(HuggingFace(folder), asked.request)["log_probs"], abs=1e-3
    )


def test_what_is_sent_for_a_choice_is_one_question_a_candidate_with_one_token_to_answer(server):
    before = len(server.requests)
    parameters = {"temperature": 0, "max_completion_tokens": 50, "chat_template_kwargs": {"thinking": False}}
    request = request_of("pointwise")
    answer(model(server, parameters=parameters, json_schema=True), request)
    sent = [one.body for one in server.requests[before:]]
    asked = {one["messages"][0]["content"] for one in sent}
    assert asked == {request["instruction"] + question for question in request["candidates"]}
    rest = {"model": "toy", "logprobs": True, "top_logprobs": 20, **parameters, "max_completion_tokens": 1}
    assert all({**one, "messages": 0} == {**rest, "messages": 0} for one in sent)


@pytest.mark.live
@pytest.mark.slow
def test_yes_and_no_of_the_studys_model_are_all_their_spellings_and_titles_score_as_they_do_here():
    """Without a server of its own: ``transformers serve`` gives no log-probabilities.

    "Yes" and "No" are not compared with the local model's: it reads one spelling of each, and its tokenizer is given
    question and history apart, which can divide the line ends between them otherwise.
    """
    here = study_models.local("SmolLM2-135M-Instruct")
    served = model_server.Served(here.folder())
    titles = request_of("likelihood")
    titles["candidates"] = titles["candidates"][:2]
    request = request_of("pointwise")
    with serve(served) as server:
        there = model(server, timeout=300, concurrency=1)
        found, scored = answer(there, request), answer(there, titles)
    for question, values in zip(request["candidates"], found["log_probs"], strict=True):
        tokens = served.prompt({"messages": [{"role": "user", "content": request["instruction"] + question}]})
        top = served.log_probs(tokens)[-1].exp().topk(20)
        said = [served.tokenizer.decode(token).strip().lower() for token in top.indices.tolist()]
        for word, value in zip(("yes", "no"), values, strict=True):
            shares = [p for text, p in zip(said, top.values.tolist(), strict=True) if text and word.startswith(text)]
            assert shares, "the test says nothing where neither word is listed"
            assert value == pytest.approx(math.log(sum(shares)), abs=1e-3)
    assert scored["log_probs"] == pytest.approx(answer(here, titles)["log_probs"], abs=1e-3)


@pytest.mark.live
@pytest.mark.slow
def test_plain_text_of_the_studys_model_scores_as_it_does_here_and_a_word_is_not_divided():
    """The text begins with the token that the tokenizer itself puts nowhere; "Alien" is other tokens than "Alie"."""
    here = study_models.local("SmolLM2-135M-Instruct")
    titles = request_of("likelihood") | {"plain": True}
    titles |= {"instruction": titles["instruction"] + "\n", "candidates": ["Alien (1979)", "Brazil (1985)"]}
    with serve(model_server.Served(here.folder())) as server:
        there = model(server, timeout=300, concurrency=1, bos="<|im_start|>")
        scored = answer(there, titles)
        with pytest.raises(EndpointError, match="makes one token of the prompt's end and the title's beginning"):
            answer(there, titles | {"instruction": "I like the film Alie", "candidates": ["n (1979)"]})
    local = answer(here, titles)
    assert scored["log_probs"] == pytest.approx(local["log_probs"], abs=1e-3)
    assert scored["lengths"] == local["lengths"]


# --- what a server may list ------------------------------------------------------------------------------------------


def test_grades_of_which_no_digit_is_listed_are_no_answer_where_little_is_left_for_them():
    """Twenty words of 0.0495 each leave 0.01 for ten digits; each digit as likely as a word would make 0.495."""
    words = {f" word{n}": math.log(0.0495) for n in range(20)}
    choice = {"text": "?", "finish_reason": "length", "logprobs": {"top_logprobs": [words]}}
    with serve(lambda request: Reply("answered", json.dumps({"choices": [choice]}))) as server:
        found = answer(model(server), request_of("rating-lines"))
        (ranked,) = rank_one(model(server), "rating-lines")
    assert found["log_probs"] == [pytest.approx([math.log(0.001)] * 10, abs=1e-4)] * 5
    assert ranked.failure == rankers.NO_ANSWER


def lists(*told: tuple[str, float]) -> Any:
    """A server that lists these tokens for the first one, each with its probability."""
    top = [{"token": token, "logprob": math.log(share)} for token, share in told]
    choice = {"message": {"content": "?"}, "finish_reason": "length", "logprobs": {"content": [{"top_logprobs": top}]}}
    return lambda request: Reply("answered", json.dumps({"choices": [choice]}))


@pytest.mark.parametrize(
    ("told", "yes", "no"),
    [
        ([("Yes", 0.6), (" yes", 0.1), ("YES", 0.05), ("No", 0.2)], 0.75, 0.2),
        ([("Y", 0.5), ("N", 0.25), ("Nope", 0.2)], 0.5, 0.25),
        ([("Yes", 0.9), ("Sure", 0.01)], 0.9, 0.01),
        ([("", 0.5), (" ", 0.3), ("\n", 0.1)], 0.05, 0.05),
        ([("Sure", 0.5), ("Maybe", 0.01)], 0.01, 0.01),
        ([("Sure", 0.75), ("Maybe", 0.25)], 5e-10, 5e-10),
        ([("Yesterday", 0.5), ("No", 0.3), ("Not", 0.1)], 0.1, 0.3),
    ],
)
def test_tokens_that_say_a_choice_count_together_and_others_do_not(told, yes, no):
    with serve(lists(*told)) as server:
        found = answer(model(server), request_of("pointwise"))
    assert found["log_probs"] == [pytest.approx([math.log(yes), math.log(no)], abs=1e-5)] * 5


@pytest.mark.parametrize("told", [None, [], [{"token": "Yes"}], [{"token": 1, "logprob": -1.0}]])
def test_a_server_without_log_probabilities_ends_the_run_with_what_to_do(told, recordings):
    choice = {"message": {"content": "Yes"}, "finish_reason": "length"}
    logprobs = {"logprobs": {"content": [{"top_logprobs": told}]}} if told is not None else {}
    reply = Reply("answered", json.dumps({"choices": [choice | logprobs]}))
    with (
        serve(lambda request: reply) as server,
        pytest.raises(EndpointError, match="top_logprobs.*Leave out the modes"),
    ):
        tasks = [rank_users.task(user) for user in range(100)]
        list(rankers.rank(tasks, "pointwise", model(server), recordings, noun="film", seed=1))
    assert len(server.log) <= 2 * 8
    assert not recordings


def test_a_server_that_is_not_vllm_is_told_to_be_unable_to_score_titles(recordings):
    with (
        serve(lambda request: completion(request, "Yes")) as server,
        pytest.raises(EndpointError, match="prompt_logprobs.*vLLM.*Leave out the modes"),
    ):
        list(rankers.rank([rank_users.task(0)], "likelihood", model(server), recordings, noun="film", seed=1))


def test_a_template_that_begins_answers_differently_when_it_goes_on_is_no_score(served, recordings):
    def script(request: Request) -> Reply:
        reply = served(request)
        if "continue_final_message" not in request.body:
            return reply
        changed = json.loads(reply.content)
        changed["prompt_logprobs"][5] = {"7": {"logprob": -1.0}}
        return replace(reply, content=json.dumps(changed))

    with serve(script) as server, pytest.raises(EndpointError, match="chat template.*likelihood"):
        list(rankers.rank([rank_users.task(0)], "likelihood", model(server), recordings, noun="film", seed=1))


def rank_one(model: Endpoint, mode: str = "likelihood") -> list[rankers.Ranking]:
    return list(rankers.rank([rank_users.task(0)], mode, model, Recordings(None), noun="film", seed=1))


def test_a_server_that_cuts_prompts_is_found_out(served):
    """Whether it keeps the first tokens or the last ones: with a title there are no more than without."""
    shortest = len(served.prompt({"messages": [{"role": "user", "content": request_of("likelihood")["instruction"]}]}))

    def cuts(kept: slice) -> Any:
        def script(request: Request) -> Reply:
            reply = served(request)
            told = json.loads(reply.content)
            told["prompt_logprobs"] = told["prompt_logprobs"][kept]
            return replace(reply, content=json.dumps(told))

        return script

    for kept in (slice(shortest - 5), slice(-(shortest - 5), None)):
        with serve(cuts(kept)) as server, pytest.raises(EndpointError, match=f"({shortest - 5}).*max-model-len"):
            rank_one(model(server))


@pytest.mark.parametrize(
    ("titles", "as_text"),
    [(["New Film 1", "New Film 2"], False), (["Alien (1979)", "Brazil (1985)"], True), (["Alien (1979)"], True)],
)
def test_a_server_that_cuts_within_titles_is_found_out(titles, as_text, served):
    """By titles that have the same tokens, or by a last token (of one byte here) from the middle of its title."""
    request = request_of("likelihood") | {"candidates": titles}
    kept = len(served.prompt({"messages": [{"role": "user", "content": request["instruction"]}]})) + 7

    def script(request: Request) -> Reply:
        reply = served(request)
        told = json.loads(reply.content)
        told["prompt_logprobs"] = told["prompt_logprobs"][:kept]
        for token in told["prompt_logprobs"][1:]:
            for value in token.values():
                value["decoded_token"] = value["decoded_token"] if as_text else None
        return replace(reply, content=json.dumps(told))

    with serve(script) as server, pytest.raises(EndpointError, match=f"kept {kept} tokens.*max-model-len"):
        answer(model(server), request)


@pytest.mark.parametrize("last", ["", None, "token_id:7", "\ufffd", " (1979) ", ")"])
def test_what_a_server_tells_of_the_last_token_is_no_cut_unless_it_stands_within_the_title(last, served):
    def script(request: Request) -> Reply:
        reply = served(request)
        told = json.loads(reply.content)
        for value in told["prompt_logprobs"][-1].values():
            value["decoded_token"] = last
        return replace(reply, content=json.dumps(told))

    request = request_of("likelihood") | {"candidates": ["Alien (1979)"]}
    with serve(script) as server:
        assert answer(model(server), request)["lengths"] == [len("Alien (1979)")]


def test_a_prompt_that_is_longer_than_the_servers_context_is_the_users_failure_in_the_servers_words(folder):
    with serve(model_server.Served(folder, context=40)) as server:
        (found,) = rank_one(model(server))
    assert "refused with 400" in found.failure
    assert "maximum context length is 40 tokens" in found.failure


def test_a_model_without_a_chat_template_is_sent_plain_text_as_the_error_says(base_served):
    with serve(base_served) as server:
        with pytest.raises(EndpointError, match="set chat = false"):
            rank_one(model(server))
        (found,) = rank_one(model(server, chat=False))
    assert not found.failure


def test_a_server_that_answers_chats_alone_is_not_taken_for_a_wrong_address(served):
    def chats(request: Request) -> Reply:
        return served(request) if request.path.endswith("/chat/completions") else error(404, "Not Found")

    with serve(chats) as server:
        for how, mode in (({"chat": False}, "likelihood"), ({}, "rating-lines")):
            with pytest.raises(EndpointError, match=r"404.*needs a server that answers /completions"):
                rank_one(model(server, **how), mode)


def test_without_the_setting_nothing_is_sent_and_it_is_named(recordings):
    with serve() as server, pytest.raises(SettingError, match="logprobs = true"):
        list(
            rankers.rank([rank_users.task(0)], "pointwise", model(server, logprobs=False), recordings, noun="f", seed=1)
        )
    assert not server.log


# --- the same rules as for written answers ---------------------------------------------------------------------------


def test_faults_are_tried_again_and_a_candidate_that_stays_refused_is_the_users_failure(served, recordings):
    def script(request: Request) -> Reply:
        if "New Film 1-3" in request.message:
            return error(400, "we do not speak of this")
        return error(503) if request.earlier == 0 and "-2" in request.message else served(request)

    tasks, mode = [rank_users.task(user) for user in range(3)], replace(modes.get("pointwise"), floor=0.0)
    with serve(script) as server:
        one = model(server)
        found = {r.user: r for r in rankers.rank(tasks, mode, one, recordings, noun="film", seed=1)}
    assert [user for user in found if found[user].failure] == [1]
    assert "refused with 400" in found[1].failure
    assert one.faults["503"] >= 3
    assert len(recordings) == 2


def test_the_cap_holds_for_every_candidate_and_whole_users_alone_are_recorded(served, recordings):
    price = Price(prompt=1_000.0, completion=4_000.0)
    with serve(served) as server:
        one = model(server, price=price, spending_cap_usd=3.0, parameters={"max_tokens": 400})
        tasks = [rank_users.task(user) for user in range(20)]
        with pytest.raises(SpendingCapError):
            list(rankers.rank(tasks, "pointwise", one, recordings, noun="film", seed=1))
    billed = sum(prompt / 1_000 + 4 / 1_000 for prompt, _ in (seen.tokens for seen in server.log))
    assert 1.5 < billed <= 3.0
    assert billed == pytest.approx(one.budget.spent)
    assert 0 < len(recordings) <= len(server.log) / 5


def test_the_usage_of_all_candidates_is_summed(served):
    with serve(served) as server:
        found = answer(model(server), request_of("pointwise"))
    assert found["prompt_tokens"] == sum(seen.tokens[0] for seen in server.log)
    assert found["completion_tokens"] == len(server.log) == 5


def test_no_more_calls_are_under_way_than_declared_and_a_reader_that_stops_loses_one_users(served, recordings):
    with serve(lambda request: replace(served(request), delay=0.05)) as server:
        tasks = [rank_users.task(user) for user in range(20)]
        found = rankers.rank(tasks, "pointwise", model(server, concurrency=2), recordings, noun="film", seed=1)
        next(found)
        found.close()
    assert 5 <= len(server.log) <= 12
    assert max_at_once(server) <= 2
    assert 1 <= len(recordings) <= 2


def max_at_once(server: FaultServer) -> int:
    starts = sorted(seen.at for seen in server.log)
    return max(sum(start <= other < start + 0.045 for other in starts) for start in starts)


def test_keys_differ_by_what_is_asked_and_by_how_it_is_read():
    one = Endpoint("toy", "http://here/v1", logprobs=True)
    request = request_of("pointwise")
    asked = [request, request_of("likelihood"), request | {"choices": ["Ja", "Nein"]}, request_of("listwise")]
    keys = [one.key(runner.Asked(0, each)) for each in asked]
    assert len(set(keys)) == len(keys)
    elsewhere = Endpoint("toy", "http://there/v1", logprobs=True, concurrency=3)
    assert [elsewhere.key(runner.Asked(0, each)) for each in asked] == keys
    assert keys[3] == Endpoint("toy", "http://here/v1").key(runner.Asked(0, asked[3]))


# --- through files ---------------------------------------------------------------------------------------------------


def batched(served: model_server.Served, asked: list[runner.Asked], model: Endpoint, folder: Path) -> list[Path]:
    """The result files of a batch, as ``vllm run-batch`` writes them."""
    files = batch.write(asked, model, folder, "study")
    return [served.run_batch(file, folder / f"{file.stem}.results.jsonl") for file in files]


def read(files: list[Path], asked: list[runner.Asked], model: Endpoint, recordings: Recordings) -> batch.Imported:
    return batch.read(files, asked, model, recordings, redact_response)


@pytest.mark.parametrize("mode", ["likelihood", "pointwise"])
def test_a_batch_is_answered_as_the_server_answers_and_as_the_model_does_here(
    mode, served, server, folder, recordings, tmp_path
):
    asked = [rankers.request_of(rank_users.task(user), mode, "film") for user in range(3)]
    nobody = Endpoint("toy", "http://127.0.0.1:9/v1", logprobs=True)
    counts = read(batched(served, asked, nobody, tmp_path), asked, nobody, recordings)
    assert (counts.recorded, counts.missing, counts.partial, counts.foreign) == (3, 0, 0, 0)
    assert not counts.failed
    for one in asked:
        found = recordings[nobody.key(one)]
        online, here = answer(model(server), one.request), answer(HuggingFace(folder), one.request)
        assert found["log_probs"] == online["log_probs"]
        assert found["lengths"] == online["lengths"]
        assert found["prompt_tokens"] == online["prompt_tokens"]
        if mode == "likelihood":
            assert found["log_probs"] == pytest.approx(here["log_probs"], abs=1e-3)
    always = replace(modes.get(mode), floor=0.0)
    tasks = [rank_users.task(user) for user in range(3)]
    ranked = list(rankers.rank(tasks, always, nobody, recordings, noun="film", seed=1))
    assert all(one.replayed and not one.failure for one in ranked)
    assert not list(batch.open_requests(asked, nobody, recordings, lambda *_: "", 2))


@pytest.mark.parametrize("mode", ["likelihood", "pointwise"])
def test_a_part_of_a_users_lines_is_no_answer_and_the_rest_completes_it(mode, served, recordings, tmp_path):
    one = Endpoint("toy", "http://127.0.0.1:9/v1", logprobs=True)
    asked = [rankers.request_of(rank_users.task(user), mode, "film") for user in range(2)]
    (whole,) = batched(served, asked, one, tmp_path)
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    first, rest = tmp_path / "first", tmp_path / "rest"
    first.write_text("".join(lines[:-1]), encoding="utf-8")
    rest.write_text(lines[-1], encoding="utf-8")
    counts = read([first], asked, one, recordings)
    assert (counts.recorded, counts.missing, counts.partial) == (1, 1, 1)
    assert "1 in part: give all its result files in one call" in str(counts)
    assert [left.user for left in batch.open_requests(asked, one, recordings, lambda *_: "", 2)] == [1]
    assert read([rest], asked, one, recordings).recorded == 0
    counts = read([rest, first], asked, one, recordings)
    assert (counts.recorded, counts.known, counts.missing, counts.partial) == (1, 1, 0, 0)


def test_a_title_that_comes_twice_is_one_line_and_has_its_score_twice(served, recordings, tmp_path):
    one = Endpoint("toy", "http://127.0.0.1:9/v1", logprobs=True)
    request = request_of("likelihood")
    asked = [runner.Asked(0, request | {"candidates": [request["candidates"][at] for at in (0, 1, 0)]})]
    (file,) = batch.write(asked, one, tmp_path, "study")
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    assert read([served.run_batch(file, tmp_path / "results")], asked, one, recordings).recorded == 1
    first, second, third = recordings[one.key(asked[0])]["log_probs"]
    assert first == third != second


def test_a_batch_of_a_server_without_log_probabilities_says_so_and_records_nothing(served, recordings, tmp_path):
    one = Endpoint("toy", "http://127.0.0.1:9/v1", logprobs=True)
    asked = [rankers.request_of(rank_users.task(0), mode, "film") for mode in ("likelihood", "pointwise")]
    (file,) = batched(served, asked, one, tmp_path)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["response"]["body"].pop("prompt_logprobs", None)
        line["response"]["body"]["choices"][0].pop("logprobs", None)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    counts = read([file], asked, one, recordings)
    assert (counts.recorded, counts.missing, len(recordings)) == (0, 2, 0)
    assert sorted(counts.failed.values()) == [5, 6]
    assert all("Leave out the modes" in why for why in counts.failed)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
@pytest.mark.parametrize("mode", ["likelihood", "pointwise"])
def test_a_log_probability_that_is_no_finite_number_is_a_failure_and_not_recorded(
    broken, mode, served, recordings, tmp_path
):
    one = Endpoint("toy", "http://127.0.0.1:9/v1", logprobs=True)
    asked = [rankers.request_of(rank_users.task(user), mode, "film") for user in range(2)]
    (file,) = batched(served, asked, one, tmp_path)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    body = lines[-1]["response"]["body"]
    if mode == "likelihood":
        next(iter(body["prompt_logprobs"][-1].values()))["logprob"] = broken
    else:
        for told in body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            told["logprob"] = broken
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    counts = read([file], asked, one, recordings)
    assert (counts.recorded, counts.failed.total(), counts.missing) == (1, 1, 1)
    assert [left.user for left in batch.open_requests(asked, one, recordings, lambda *_: "", 2)] == [1]


def test_plain_text_is_not_put_into_a_batch(tmp_path):
    """``vllm run-batch`` answers chat requests alone, as far as its source was read."""
    for how, mode in (({"chat": False}, "likelihood"), ({}, "rating-lines")):
        one = Endpoint("toy", "http://127.0.0.1:9/v1", logprobs=True, **how)
        with pytest.raises(SettingError, match="no plain text"):
            batch.write([rankers.request_of(rank_users.task(0), mode, "film")], one, tmp_path, "study")
