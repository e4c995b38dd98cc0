"""Batch files: lines that the services accept, results in whatever state they come back, and nothing asked twice.

The models below mirror the documented lines of the OpenAI Batch API (BatchRequestInput and BatchRequestOutput of its
reference), which ``vllm run-batch`` reads and writes as well.
"""

import functools
import json
import re
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from toy_model import USAGE

from hybridrec import errors
from hybridrec.errors import RecordingError
from hybridrec.llm import batch, prompts, rankers
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.models.replies import completion
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.redact import redact_response
from hybridrec.llm.runner import Asked

# --- the documented formats -------------------------------------------------------------------------------------------


class Strict(BaseModel):
    """No field but those documented."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Message(Strict):
    role: Literal["user"]
    content: str = Field(min_length=1)


class JsonSchema(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    strict: bool
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class Body(Strict):
    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1, max_length=1)
    temperature: float | int | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0)
    seed: int | None = None
    response_format: ResponseFormat | None = None


class RequestLine(Strict):
    custom_id: str = Field(min_length=1, max_length=64)
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: Body


class Reply(Strict):
    status_code: int
    request_id: str
    body: dict[str, Any] | None = None


class ResultLine(Strict):
    id: str
    custom_id: str
    response: Reply | None
    error: Any = None  # OpenAI: an object with code and message, or null; vLLM: anything


# --- a small study ----------------------------------------------------------------------------------------------------

ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "parameters": {"temperature": 0, "max_tokens": 200}}
ATTEMPTS = 2
HISTORY = ["The Third Man (1949)", "Brazil (1985)", "Das Boot (1981)"]


def title(item: int) -> str:
    return f"Film Number {item} (19{item % 90 + 10})"


def a_task(user: int, n: int = 3) -> rankers.Task:
    items = tuple(user * 10 + place for place in range(n))
    shown = tuple(prompts.Item(title(item)) for item in items)
    return rankers.Task(user, tuple(map(prompts.Item, HISTORY)), items, shown)


@pytest.fixture
def tasks() -> list[rankers.Task]:
    return [a_task(user) for user in range(1, 6)]


@pytest.fixture
def asked(tasks) -> list[Asked]:
    return [rankers.request_of(task, "listwise", "film") for task in tasks]


@pytest.fixture
def model() -> Endpoint:
    """Nobody answers at its address, so whoever asks it fails."""
    return Endpoint("some/model", **ENDPOINT)


@pytest.fixture
def recordings(tmp_path) -> Recordings:
    return Recordings(tmp_path / "recordings" / "some--model.sqlite")


def check(one: Asked, response: dict) -> str:
    return rankers.check("listwise", one, response)


def lines_of(files: list[Path]) -> list[dict]:
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def completion_of(text: str, **usage: int) -> dict:
    message = {"role": "assistant", "content": text, "refusal": None}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "some/model",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 70, "completion_tokens": 9, "total_tokens": 79} | usage,
    }
    ChatCompletion.model_validate(body, strict=True)
    return body


def result(key: str, text: str = "", **changes: Any) -> dict:
    """A documented result line: a completion of that text, unless ``changes`` say otherwise."""
    reply = {"status_code": 200, "request_id": "req_1", "body": completion_of(text)}
    line = {"id": "batch_req_1", "custom_id": key, "response": reply, "error": None} | changes
    ResultLine.model_validate(line)
    return line


def ranked(one: Asked) -> str:
    """A usable answer: the candidates backwards."""
    return "\n".join(f"{n}. {name}" for n, name in enumerate(reversed(one.request["candidates"]), 1))


def results_file(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["listwise", "listwise-labels"])
@pytest.mark.parametrize("changes", [{}, {"json_schema": True}, {"parameters": {"seed": 3}}])
def test_every_line_is_one_that_the_batch_services_accept(mode, changes, tasks, tmp_path):
    model = Endpoint("some/model", **(ENDPOINT | changes))
    asked = [rankers.request_of(task, mode, "film") for task in tasks]
    lines = lines_of(batch.write(asked, model, tmp_path, "study"))
    assert len(lines) == len(tasks)
    for line in lines:
        RequestLine.model_validate(line)
        TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(line["body"])
    assert {line["body"]["model"] for line in lines} == {"some/model"}
    assert {"response_format" in line["body"] for line in lines} == {"json_schema" in changes}


def test_a_lines_body_is_what_would_be_sent_online(asked, recordings, tmp_path):
    received: list[dict] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = json.dumps(completion_of("nothing")).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        here = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "json_schema": True, "concurrency": 1}
        model = Endpoint("some/model", **(ENDPOINT | here), requests_per_minute=100_000)
        written = [line["body"] for line in lines_of(batch.write(asked, model, tmp_path, "study"))]
        for one in asked:
            model.submit(one, lambda _, response: response)
        while model.wait():
            pass
        server.shutdown()
    assert received == written
    assert "Film Number 10" in written[0]["messages"][0]["content"]


def test_requests_that_are_the_same_are_written_once(asked, model, recordings, tmp_path):
    duplicate = replace(asked[0], user=77)
    for todo in ([*asked, duplicate], batch.open_requests([*asked, duplicate], model, recordings, check, ATTEMPTS)):
        ids = [line["custom_id"] for line in lines_of(batch.write(todo, model, tmp_path, "study"))]
        assert ids == [model.key(one) for one in asked]


def test_what_is_answered_already_is_not_written(asked, model, recordings, tmp_path):
    recordings.append(model.key(asked[1]), {"text": ranked(asked[1]), "finish_reason": "stop", **USAGE})
    todo = batch.open_requests(asked, model, recordings, check, ATTEMPTS)
    ids = [line["custom_id"] for line in lines_of(batch.write(todo, model, tmp_path, "study"))]
    assert ids == [model.key(one) for place, one in enumerate(asked) if place != 1]


def test_an_unusable_answer_makes_the_next_attempt_open_until_there_is_none_left(asked, model, recordings):
    refused = {"text": "I'm sorry, I cannot rank films.", "finish_reason": "stop", **USAGE}
    for one in asked:
        good = {"text": ranked(one), "finish_reason": "stop", **USAGE}
        recordings.append(model.key(one), refused if one is asked[2] else good)
    (again,) = batch.open_requests(asked, model, recordings, check, ATTEMPTS)
    assert again == replace(asked[2], attempt=1)
    assert list(batch.open_requests(asked, model, recordings, check, 1)) == []  # whoever reads the first answer alone
    recordings.append(model.key(again), refused)
    assert list(batch.open_requests(asked, model, recordings, check, ATTEMPTS)) == []


def test_a_further_attempt_has_an_id_of_its_own_and_the_next_seed(asked, tmp_path):
    model = Endpoint("some/model", **(ENDPOINT | {"parameters": {"seed": 5}}))
    first, second = lines_of(batch.write([asked[0], replace(asked[0], attempt=1)], model, tmp_path, "study"))
    assert first["custom_id"] != second["custom_id"]
    assert (first["body"].pop("seed"), second["body"].pop("seed")) == (5, 6)
    assert first["body"] == second["body"]


def test_files_are_split_by_lines(asked, model, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_LINES", 2)
    files = batch.write(asked, model, tmp_path, "study")
    assert [file.name for file in files] == ["study-1.jsonl", "study-2.jsonl", "study-3.jsonl"]
    assert [len(lines_of([file])) for file in files] == [2, 2, 1]
    assert [line["custom_id"] for line in lines_of(files)] == [model.key(one) for one in asked]


def test_files_are_split_by_bytes(asked, model, tmp_path, monkeypatch):
    (whole,) = batch.write(asked, model, tmp_path, "study")
    sizes = [len(line) for line in whole.read_bytes().splitlines(keepends=True)]
    limit = sum(sizes[:2])
    monkeypatch.setattr(batch, "_BYTES", limit)
    files = batch.write(asked, model, tmp_path, "study")
    assert [len(lines_of([file])) for file in files] == [2, 2, 1]
    assert all(file.stat().st_size <= limit for file in files)
    assert [line["custom_id"] for line in lines_of(files)] == [model.key(one) for one in asked]


def test_the_real_limits_are_within_the_services():
    assert 0 < batch._LINES <= 50_000
    assert 0 < batch._BYTES <= 200_000_000


def test_only_files_of_the_same_name_are_replaced(asked, model, tmp_path):
    others = ["study-mini-1.jsonl", "study-1.results.jsonl", "study-results.jsonl", "mystudy-1.jsonl", "study-2.json"]
    for name in ("study-7.jsonl", *others):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    batch.write(asked, model, tmp_path, "study")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["study-1.jsonl", *others])


def test_nothing_to_ask_leaves_no_file_behind(model, tmp_path):
    (tmp_path / "study-1.jsonl").write_text("{}\n", encoding="utf-8")
    assert batch.write([], model, tmp_path, "study") == []
    assert not list(tmp_path.iterdir())


def test_a_request_for_probabilities_is_refused_before_anything_is_replaced(tasks, asked, model, tmp_path):
    (old,) = batch.write(asked, model, tmp_path, "study")
    before = old.read_bytes()
    with pytest.raises(ValueError, match="cannot do 'choose' requests"):
        batch.write([rankers.request_of(tasks[0], "pointwise", "film")], model, tmp_path, "study")
    assert old.read_bytes() == before


# --- reading ----------------------------------------------------------------------------------------------------------


def read(files: list[Path], asked: list[Asked], model: Endpoint, recordings: Recordings) -> batch.Imported:
    return batch.read(files, asked, model, recordings, redact_response)


def test_results_come_in_any_order_and_from_any_number_of_files(asked, model, recordings, tmp_path):
    lines = [result(model.key(one), ranked(one)) for one in asked]
    files = [results_file(tmp_path / "b", lines[:1:-1]), results_file(tmp_path / "a", lines[1::-1])]
    counts = read(files, asked, model, recordings)
    assert (counts.recorded, counts.missing, counts.failed) == (5, 0, Counter())
    for one in asked:
        recorded = recordings[model.key(one)]
        assert recorded["text"] == ranked(one)
        assert (recorded["prompt_tokens"], recorded["completion_tokens"]) == (70, 9)


def test_a_partial_file_leaves_the_rest_open(asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "part", [result(model.key(one), ranked(one)) for one in asked[:2]])
    counts = read([file], asked, model, recordings)
    assert (counts.recorded, counts.missing) == (2, 3)
    assert list(batch.open_requests(asked, model, recordings, check, ATTEMPTS)) == asked[2:]
    assert str(counts).startswith("2 answers recorded, 0 known already, 0 failed (-)")
    assert "3 requests still without an answer" in str(counts)


def test_a_recorded_answer_that_is_none_is_an_error_and_not_left_out_of_the_batch(asked, model, recordings):
    recordings.append(model.key(asked[1]), {"text": None, "finish_reason": "stop", **USAGE})
    check = functools.partial(rankers.check, "listwise")
    with pytest.raises(RecordingError, match=rf"some--model.sqlite: .*user {asked[1].user} .*text is missing"):
        list(batch.open_requests(asked, model, recordings, check, ATTEMPTS))


def test_a_torn_last_line_is_counted_and_the_rest_recorded(asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "torn", [result(model.key(one), ranked(one)) for one in asked])
    file.write_bytes(file.read_bytes()[:-20])
    counts = read([file], asked, model, recordings)
    assert (counts.recorded, counts.torn, counts.missing) == (4, 1, 1)


def test_a_whole_last_line_needs_no_line_break(asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "whole", [result(model.key(one), ranked(one)) for one in asked])
    file.write_bytes(b"\n" + file.read_bytes().rstrip(b"\n"))
    counts = read([file], asked, model, recordings)
    assert (counts.recorded, counts.torn) == (5, 0)


@pytest.mark.parametrize("damage", ["{", "null", "[1, 2]", '"text"', '{"id": "batch_req_1"}', "\x80", "[" * 100_000])
def test_a_damaged_line_names_file_and_line_and_what_stood_before_is_recorded(
    damage, asked, model, recordings, tmp_path
):
    file = results_file(tmp_path / "damaged.jsonl", [result(model.key(one), ranked(one)) for one in asked])
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], damage.encode("latin-1") + b"\n", *lines[2:]]))
    with pytest.raises(errors.BatchError, match=r"damaged\.jsonl, line 3: no batch result"):
        read([file], asked, model, recordings)
    assert set(recordings) == {model.key(one) for one in asked[:2]}


def test_a_file_that_is_not_there_is_named(asked, model, recordings, tmp_path):
    with pytest.raises(errors.BatchError, match=r"nowhere\.jsonl: No such file"):
        read([tmp_path / "nowhere.jsonl"], asked, model, recordings)


def reply(status: int, body: Any = None) -> dict:
    return {"status_code": status, "request_id": "req_2", "body": body}


_SAID = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
_VLLM = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
_OLD_VLLM = {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"response": reply(429, _SAID)}, "status 429: rate_limit_exceeded slow down"),
        ({"response": reply(500, {})}, "status 500"),
        ({"response": None, "error": {"code": "batch_expired", "message": "not in time"}}, "batch_expired not in time"),
        ({"response": reply(400), "error": _VLLM}, "status 400: BadRequestError too long"),
        ({"response": reply(400), "error": _OLD_VLLM}, "status 400: BadRequestError too long"),
        ({"response": reply(400), "error": "The URL is not supported."}, "status 400: The URL is not supported."),
        ({"response": reply(400, _SAID), "error": _SAID}, "status 400: rate_limit_exceeded slow down"),
        ({"response": reply(403, {"error": {"code": None, "type": "denied", "message": None}})}, "status 403: denied"),
        ({"response": reply(422, {"detail": [{"loc": ["body"], "msg": "too\nlong"}]})}, "status 422: too long"),
        ({"response": reply(503, {"reason": "busy"})}, 'status 503: {"reason": "busy"}'),
        ({"response": reply(503, {"error": "busy"})}, "status 503: busy"),
        ({"response": reply(503, {"error": json.dumps(_SAID)})}, "status 503: rate_limit_exceeded slow down"),
        ({"response": reply(200, _SAID)}, "broken body: no choices: rate_limit_exceeded slow down"),
        ({"response": None, "error": "gone\x1b[31m \ud800"}, "gone [31m"),
        ({"response": None, "error": {"code": None}}, "no response"),
        ({"response": None}, "no response"),
        ({"response": reply(200, completion_of("") | {"choices": []})}, "broken body: no choices"),
        ({"response": reply(200)}, "broken body: no choices"),
    ],
)
def test_a_failed_line_is_counted_by_kind_and_stays_open(changes, kind, asked, model, recordings, tmp_path):
    good = [result(model.key(one), ranked(one)) for one in asked[1:]]
    file = results_file(tmp_path / "errors", [result(model.key(asked[0]), **changes), *good])
    counts = read([file], asked, model, recordings)
    assert counts.failed == {kind: 1}
    assert (counts.recorded, counts.missing) == (4, 1)
    assert f"1 failed (1 {kind})" in str(counts)
    assert list(batch.open_requests(asked, model, recordings, check, ATTEMPTS)) == asked[:1]


def test_what_a_server_says_at_length_is_counted_in_short_and_without_the_key(asked, recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "sk/0123456789abcdef")
    owner = Endpoint("some/model", **(ENDPOINT | {"key_variable": "TOY_KEY"}))
    said = {"error": {"code": "denied", "message": "no sk/0123456789abcdef " + "and so on " * 1000}}
    raw = {"reason": "no sk/0123456789abcdef"}
    lines = [
        result(owner.key(asked[0]), response=reply(401, said)),
        result(owner.key(asked[1]), response=reply(500, raw)),
    ]
    short, kept = read([results_file(tmp_path / "errors", lines)], asked, owner, recordings).failed
    assert short.startswith("status 401: denied no [key] and so on")
    assert len(short) < 400
    assert "[key]" in kept
    assert "0123456789" not in kept + short


def test_an_answer_that_quotes_the_key_is_recorded_without_it(asked, recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "sk-0123456789abcdef")
    owner = Endpoint("some/model", **(ENDPOINT | {"key_variable": "TOY_KEY"}))
    read(
        [results_file(tmp_path / "a", [result(owner.key(asked[0]), "1. sk-0123456789abcdef")])],
        asked,
        owner,
        recordings,
    )
    assert recordings[owner.key(asked[0])]["text"] == "1. [key]"


def test_results_are_read_without_the_key(asked, recordings, tmp_path, monkeypatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    owner = Endpoint("some/model", **(ENDPOINT | {"key_variable": "TOY_KEY"}))
    lines = [result(owner.key(asked[0]), response=reply(500)), result(owner.key(asked[1]), ranked(asked[1]))]
    counts = read([results_file(tmp_path / "a", lines)], asked, owner, recordings)
    assert (counts.recorded, counts.failed) == (1, {"status 500": 1})


def test_of_many_reasons_the_most_frequent_are_shown_and_the_rest_counted():
    failed = Counter({f"status 400: prompt of {n} tokens": 1 for n in range(50)}) + Counter({"status 500": 7})
    shown = str(batch.Imported(failed=failed))
    assert "57 failed (7 status 500, 1 status 400" in shown
    assert "41 for 41 other reasons" in shown
    assert len(shown) < 1000


NO_ERROR = [None, {}, "", [], False, {"code": None}, {"code": None, "message": None, "param": None}, {"code": ""}]


@pytest.mark.parametrize("error", NO_ERROR)
def test_an_error_that_says_nothing_takes_no_answer_away(error, asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "good", [result(model.key(asked[0]), ranked(asked[0]), error=error)])
    counts = read([file], asked, model, recordings)
    assert (counts.recorded, counts.failed, counts.odd) == (1, {}, {})
    assert recordings[model.key(asked[0])]["text"] == ranked(asked[0])


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        (
            lambda line: line.update(error={"code": "late", "message": "but here"}),
            "with an error beside .*late but here",
        ),
        (lambda line: line.update(error={"code": None, "message": "hm"}), r"with an error beside the answer \(hm\)"),
        (lambda line: line["response"].update(status_code="200"), "with the status as text"),
        (lambda line: line["response"].update(status_code=None), "without a status"),
        (lambda line: line["response"].pop("status_code"), "without a status"),
        (lambda line: line["response"].update(status_code="OK"), "without a status"),
        (lambda line: line["response"].update(body=json.dumps(line["response"]["body"])), "with the body as text"),
    ],
)
def test_a_completion_in_an_odd_line_is_recorded_and_the_oddity_counted(
    change, odd, asked, model, recordings, tmp_path
):
    line = result(model.key(asked[0]), ranked(asked[0]))
    change(line)
    counts = read([results_file(tmp_path / "odd", [line])], asked, model, recordings)
    assert (counts.recorded, counts.failed.total(), counts.missing) == (1, 0, 4)
    (said,) = counts.odd
    assert re.search(odd, said)
    assert said in str(counts)
    assert recordings[model.key(asked[0])]["text"] == ranked(asked[0])


@pytest.mark.parametrize("status", [201, 200.0])
def test_any_status_of_success_is_one(status, asked, model, recordings, tmp_path):
    line = {
        "custom_id": model.key(asked[0]),
        "response": {"status_code": status, "body": completion_of(ranked(asked[0]))},
    }
    counts = read([results_file(tmp_path / "good", [line])], asked, model, recordings)
    assert (counts.recorded, counts.odd) == (1, {})


@pytest.mark.parametrize("status", ["429", 300, "500"])
def test_a_status_of_failure_is_one_even_beside_a_completion(status, asked, model, recordings, tmp_path):
    line = {
        "custom_id": model.key(asked[0]),
        "response": {"status_code": status, "body": completion_of(ranked(asked[0]))},
    }
    counts = read([results_file(tmp_path / "bad", [line])], asked, model, recordings)
    (kind,) = counts.failed
    assert kind.startswith(f"status {status}")
    assert len(recordings) == 0


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda part: st.lists(part) | st.dictionaries(
    st.sampled_from(["response", "error", "body", "status_code", "code", "type", "message", "choices", "detail"]), part
)))  # fmt: skip
def test_a_line_of_any_shape_is_recorded_or_counted_and_never_stops_the_import(part):
    """No oracle but the promise: one line, one count, and reasons of one printable line."""
    model = Endpoint("some/model", **ENDPOINT)
    for line in ({"response": part}, {"response": {"status_code": 400, "body": part}, "error": part}, {"error": part}):
        found, _ = batch._outcome(line, completion, model)
        assert isinstance(found, str)
        assert 0 < len(found) < 400
        assert found.isprintable()


@pytest.mark.parametrize("response", ["gone", 3, [], [{"status_code": 200}], {"status_code": "200"}, {"body": "{}"}])
def test_a_response_of_no_documented_shape_is_a_failure_like_others(response, asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "strange", [{"custom_id": model.key(asked[0]), "response": response}])
    counts = read([file], asked, model, recordings)
    assert (counts.recorded, counts.failed.total(), counts.missing) == (0, 1, 5)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n \t\n"])
def test_files_saved_by_other_systems_are_read_alike(start, end, asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "saved", [result(model.key(one), ranked(one)) for one in asked])
    file.write_bytes(start + end + start + file.read_bytes().replace(b"\n", end))
    counts = read([file], asked, model, recordings)
    assert (counts.recorded, counts.torn, counts.missing) == (5, 0, 0)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_bytes_that_are_not_utf8_are_an_error_with_file_and_line(encoding, asked, model, recordings, tmp_path):
    lines = [json.dumps(result(model.key(one), "Les Misérables"), ensure_ascii=False) for one in asked]
    file = tmp_path / "saved.jsonl"
    file.write_bytes("\n".join([*lines, ""]).encode(encoding))
    with pytest.raises(errors.BatchError, match=r"saved\.jsonl, line 1: .*not UTF-8.*Fetch the file again"):
        read([file], asked, model, recordings)


def test_of_two_answers_the_first_good_one_stays_and_the_second_is_counted(asked, model, recordings, tmp_path):
    key = model.key(asked[0])
    texts = ["", ranked(asked[0]), "another order", ranked(asked[0])]
    lines = [result(key, response=reply(500)), *(result(key, text) for text in texts[1:])]
    counts = read([results_file(tmp_path / "twice", lines)], asked[:1], model, recordings)
    assert (counts.recorded, counts.second, counts.known, counts.failed.total()) == (1, 1, 1, 1)
    assert recordings[key]["text"] == ranked(asked[0])
    assert "1 second answers left out" in str(counts)


def test_a_failure_after_the_answer_is_counted_as_one_before_it_is(asked, model, recordings, tmp_path):
    key = model.key(asked[0])
    file = results_file(tmp_path / "both", [result(key, ranked(asked[0])), result(key, response=reply(500))])
    counts = read([file], asked[:1], model, recordings)
    assert (counts.recorded, counts.failed.total(), counts.missing) == (1, 1, 0)


def test_a_failure_followed_by_an_answer_is_answered(asked, model, recordings, tmp_path):
    key = model.key(asked[0])
    file = results_file(tmp_path / "both", [result(key, response=reply(500)), result(key, ranked(asked[0]))])
    counts = read([file], asked[:1], model, recordings)
    assert (counts.recorded, counts.failed.total(), counts.missing) == (1, 1, 0)


def test_lines_of_other_runs_are_counted_and_not_recorded(asked, model, recordings, tmp_path):
    strange = [result("request-1", "1. Film"), {**result("x", "1. Film"), "custom_id": ["no", "text"]}]
    file = results_file(tmp_path / "mixed", [*strange, result(model.key(asked[0]), ranked(asked[0]))])
    counts = read([file], asked, model, recordings)
    assert (counts.foreign, counts.recorded) == (2, 1)
    assert list(recordings) == [model.key(asked[0])]


def test_another_models_results_are_foreign(asked, model, recordings, tmp_path):
    other = Endpoint("another/model", **ENDPOINT)
    file = results_file(tmp_path / "other", [result(other.key(one), ranked(one)) for one in asked])
    assert read([file], asked, model, recordings).foreign == 5
    assert len(recordings) == 0


def test_reading_twice_records_nothing_twice(asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "once", [result(model.key(one), ranked(one)) for one in asked])
    assert read([file, file], asked, model, recordings).known == 5
    before = {key: recordings[key] for key in recordings}
    counts = read([file], asked, model, Recordings(recordings.path))
    assert (counts.recorded, counts.known, counts.missing) == (0, 5, 0)
    assert {key: recordings[key] for key in recordings} == before
    assert len(before) == 5


def test_a_request_asked_for_two_users_is_missing_once(asked, model, recordings, tmp_path):
    file = results_file(tmp_path / "part", [result(model.key(one), ranked(one)) for one in asked[1:]])
    assert read([file], [*asked, replace(asked[0], user=77)], model, recordings).missing == 1


def test_histories_never_reach_the_recordings(asked, model, recordings, tmp_path):
    echo = "You liked " + " and ".join(HISTORY) + ".\n"
    file = results_file(tmp_path / "echo", [result(model.key(one), echo + ranked(one)) for one in asked])
    assert all(name in file.read_text(encoding="utf-8") for name in HISTORY)
    assert read([file], asked, model, recordings).recorded == 5
    written = "".join(recordings[key]["text"] for key in recordings)
    assert not [name for name in HISTORY if name in written or name[:-7] in written]
    assert written.count("⟨history 2⟩") == 5
    assert all(name in written for one in asked for name in one.request["candidates"])


# --- from batch to ranking --------------------------------------------------------------------------------------------


def test_a_batch_in_two_rounds_is_replayed_without_any_call(tasks, asked, recordings, tmp_path, monkeypatch):
    """The first round answers four users and fails to rank for the fifth, whose second attempt comes with the next."""
    model = Endpoint("some/model", **(ENDPOINT | {"attempts": 2}))
    by_key = {model.key(replace(one, attempt=n)): (one, n) for one in asked for n in (0, 1)}
    for written in (5, 1):
        files = batch.write(batch.open_requests(asked, model, recordings, check, ATTEMPTS), model, tmp_path, "study")
        lines = lines_of(files)
        assert len(lines) == written
        answered = []
        for line in lines:
            one, attempt = by_key[line["custom_id"]]
            text = "" if one.user == 4 and attempt == 0 else ranked(one)
            answered.append(result(line["custom_id"], text))
        assert read([results_file(tmp_path / "answers", answered)], asked, model, recordings).recorded == written
    assert list(batch.open_requests(asked, model, recordings, check, ATTEMPTS)) == []

    monkeypatch.setattr(Endpoint, "submit", lambda *_: pytest.fail("the endpoint was asked"))
    again = Recordings(recordings.path, replay_only=True)
    rankings = list(rankers.rank(tasks, "listwise", model, again, noun="film", seed=1, attempts=2))
    assert sorted(ranking.user for ranking in rankings) == [1, 2, 3, 4, 5]
    for ranking in rankings:
        assert ranking.scores == (1.0, 2.0, 3.0)  # backwards
        assert ranking.replayed
        assert ranking.failure == ""
        assert ranking.attempts == (2 if ranking.user == 4 else 1)
        assert ranking.used["prompt_tokens"] == 70 * ranking.attempts
