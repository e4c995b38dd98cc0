"""An endpoint that is not set up right: each trouble names its cause and its remedy, for one user and for a thousand.

``pytest tests/test_troubles.py -s`` shows every error, and how long it took to be told.
"""

import contextlib
import functools
import json
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_users
from fault_server import Reply, Request, error, ranked, serve

from hybridrec.errors import EndpointError, HybridrecError, SettingError
from hybridrec.llm import rankers
from hybridrec.llm.models import endpoint
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.recordings import Recordings
from hybridrec.study import __main__ as commands
from hybridrec.study import config, paths

CERTIFICATES = Path(__file__).parent / "certificates"  # of 127.0.0.1 and localhost, for these tests alone
KEY = "sk-test-0123456789"
PAGE = Reply("page", "<html><style>p {}</style><h1>Welcome</h1></html>", headers={"Content-Type": "text/html"})
CHUNK = json.dumps({"choices": [{"index": 0, "delta": {"content": "C1"}}]})


def told(settings: dict[str, Any], recordings: Recordings, users: int, mode: str = "listwise-labels") -> HybridrecError:
    """The error that ends a run with the settings that everybody has who sets none of them."""
    start = time.perf_counter()
    with pytest.raises(HybridrecError) as caught:
        model = Endpoint(**({"model": "toy", "requests_per_minute": 1e6} | settings))
        tasks = (rank_users.task(user) for user in range(users))
        list(rankers.rank(tasks, mode, model, recordings, noun="film", seed=1))
    print(f"\n| {users} | {time.perf_counter() - start:.2f} s | {caught.value} |")
    assert KEY not in f"{caught.value!r}"
    assert not recordings
    return caught.value


@pytest.fixture
def recordings(tmp_path) -> Recordings:
    return Recordings(tmp_path / "toy.sqlite")


both = pytest.mark.parametrize("users", [1, 1_000])


# --- nobody there -----------------------------------------------------------------------------------------------------


@pytest.fixture
def closed() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{one.getsockname()[1]}/v1"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address whose queue of connections is full, so that another one gets no answer (as behind a firewall)."""
    with socket.socket() as one, contextlib.ExitStack() as waiting:
        one.bind(("127.0.0.1", 0))
        one.listen(0)
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(one.getsockname())
        yield f"http://127.0.0.1:{one.getsockname()[1]}/v1"


@both
def test_a_refused_port_is_named(users, closed, recordings):
    assert_says(told({"base_url": closed}, recordings, users), "refused", closed[7:-3], "Start the server", "base_url")


@both
def test_a_host_that_nobody_knows_is_named(users, recordings, monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # how long a look-up takes depends on the network
    caught = told({"base_url": "https://api.opneai.com/v1"}, recordings, users)
    assert_says(caught, "unknown host 'api.opneai.com'", "Check base_url")


def test_a_host_that_does_not_answer_a_connection_is_named_before_the_timeout_for_answers(
    silent, recordings, monkeypatch
):
    monkeypatch.setattr(endpoint, "_LONGEST_CONNECT", 0.5)  # not to wait for five seconds
    caught = told({"base_url": silent, "timeout": 600.0}, recordings, 1_000)
    assert_says(caught, "cannot be reached", silent[7:-3], "firewall")


def test_a_server_that_closes_every_connection_ends_the_run_after_a_few_users(recordings):
    with serve(lambda request: Reply("reset", reset=True)) as server:
        assert_says(told({"base_url": server.url, "concurrency": 1}, recordings, 1_000), "3 requests in a row", "Read")
    assert len(server.log) <= 2 * 4


# --- certificates -----------------------------------------------------------------------------------------------------


@both
def test_an_expired_certificate_is_called_so(users, recordings, monkeypatch):
    expired = CERTIFICATES / "expired.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(expired))  # trusted, but for its date
    with serve(certificate=expired) as server:
        assert_says(told({"base_url": server.url}, recordings, users), "has expired", "renew", "clock")
    assert not server.log


@both
def test_a_self_signed_certificate_is_called_so(users, recordings):
    with serve(certificate=CERTIFICATES / "self_signed.pem") as server:
        caught = told({"base_url": server.url}, recordings, users)
    assert_says(caught, "self-signed", "SSL_CERT_FILE", server.url[8:-3])
    assert not server.log


def test_what_is_said_of_a_self_signed_certificate_helps(recordings, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "self_signed.pem"))
    with serve(certificate=CERTIFICATES / "self_signed.pem") as server:
        model = Endpoint("toy", server.url)
        (ranking,) = rankers.rank([rank_users.task(0)], "listwise", model, recordings, noun="film", seed=1)
    assert not ranking.failure


@pytest.fixture
def plain() -> Iterator[str]:
    """An address of a server that speaks plain HTTP, and answers 400 to what it does not understand."""
    with socket.create_server(("127.0.0.1", 0)) as one:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = one.accept()
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        yield f"https://127.0.0.1:{one.getsockname()[1]}/v1"
        one.shutdown(socket.SHUT_RDWR)


@both
def test_a_server_without_tls_is_called_so(users, plain, recordings):
    assert_says(told({"base_url": plain}, recordings, users), "no secure connection", "begin base_url with http://")


# --- replies that are no completions ----------------------------------------------------------------------------------

REPLIES: dict[str, tuple[Reply | Callable[[Request], Reply], list[str]]] = {
    "a stream": (
        Reply("stream", f"data: {CHUNK}\n\ndata: [DONE]\n\n", headers={"Content-Type": "text/event-stream"}),
        ["stream", "text/event-stream", "off"],
    ),
    "a stream that is called JSON": (Reply("stream", f": hello\n\ndata: {CHUNK}\n\n"), ["stream"]),
    "a web page": (PAGE, ["web page", "Welcome", "base_url"]),
    "no JSON": (Reply("text", "Hello."), ["no JSON", "base_url"]),
    "an error with status 200": (
        Reply("error", '{"error": {"message": "upstream is gone", "code": null}}'),
        ["error in place of a completion", "upstream is gone"],
    ),
    "an error with status 200 as text": (Reply("error", '{"error": "no GPU"}'), ["no GPU"]),
    "a wrong key with status 200": (
        Reply("error", '{"error": {"message": "No auth credentials", "code": 401}}'),
        ["answered 401", "No auth credentials", "key_variable"],
    ),
    "an unknown model with status 200": (
        Reply("error", '{"error": {"message": "model toy not found"}}'),
        ["model's name, toy", "not found"],
    ),
    "an unknown model of OpenAI": (
        error(404, "The model `toy` does not exist or you do not have access to it.", "model_not_found"),
        ["model_not_found", "model's name, toy"],
    ),
    "an unknown model of vLLM": (
        Reply("404", '{"error": {"message": "The model `toy` does not exist.", "type": "NotFoundError"}}', 404),
        ["model's name, toy"],
    ),
    "an unknown model of Ollama": (
        error(404, 'model "toy" not found, try pulling it first', "not_found_error"),
        ["pulling", "model's name, toy"],
    ),
    "an unknown model of transformers serve": (
        Reply("400", """{"detail": "Server is pinned to 'data/x'; requested 'toy'."}""", 400),
        ["pinned", "model's name, toy"],
    ),
    "a wrong key": (
        error(401, "Incorrect API key provided", "invalid_api_key"),
        ["401", "No key was sent", "key_variable"],
    ),
    "something refused for everybody": (error(400, "we do not like you"), ["3 requests in a row", "do not like you"]),
}


@both
@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_that_everybody_would_get_ends_the_run_with_cause_and_remedy(name, users, recordings):
    reply, words = REPLIES[name]
    if "in a row" in words[0] and users == 1:
        pytest.skip("one user's trouble, as far as it can be seen, and told as such (test_chat.py)")
    with serve(lambda request: reply) as server:
        assert_says(told({"base_url": server.url}, recordings, users), *words)
    assert len(server.log) <= 3 * 8  # few tries of what is under way at once


@both
def test_a_redirect_is_told(users, recordings):
    to = Reply("redirect", status=301, headers={"Location": "https://www.llm.example/v1/chat/completions"})
    with serve(lambda request: to) as server:
        caught = told({"base_url": server.url}, recordings, users)
    assert_says(caught, "redirects", "https://www.llm.example/v1.", "base_url")


@both
@pytest.mark.parametrize("otherwise", [error(404, "Not Found"), Reply("404", "<h1>404</h1>", 404), error(405), PAGE])
def test_an_address_without_v1_is_told_what_to_try(otherwise, users, recordings):
    with serve(lambda request: ranked(request) if request.path.startswith("/v1/") else otherwise) as server:
        caught = told({"base_url": server.url.removesuffix("/v1")}, recordings, users)
        assert_says(caught, f"would be {server.url}.", "base_url")
        model = Endpoint("toy", server.url)
        assert [*rankers.rank([rank_users.task(0)], "listwise", model, recordings, noun="film", seed=1)]


# --- parameters -------------------------------------------------------------------------------------------------------


def invalid(message: str, **more: Any) -> Reply:
    content = {"error": {"message": message, "type": "invalid_request_error", **more}}
    return Reply("400", json.dumps(content), 400)


PARAMETERS: dict[str, tuple[dict[str, Any], Reply, str]] = {
    "by OpenAI": (
        {"temperature": 0.5},
        invalid("Unsupported value: does not support 0.5 with this model.", param="temperature", code="unsupported"),
        "temperature",
    ),
    "with what to take instead": (
        {"max_tokens": 400},
        invalid("Unsupported parameter: 'max_tokens' is not supported with this model.", param="max_tokens"),
        "max_completion_tokens",
    ),
    "in words": ({"reasoning_effort": "low"}, invalid("reasoning_effort is unknown to this model"), "reasoning_effort"),
    "by FastAPI": (
        {"top_k": 5},
        Reply("422", '{"detail": [{"loc": ["body", "top_k"], "msg": "extra fields not permitted"}]}', 422),
        "top_k",
    ),
    "by transformers serve": (
        {"top_k": 5},
        Reply("422", """{"detail": "Unexpected fields in the request: {'top_k'}"}""", 422),
        "top_k",
    ),
    "with status 200": ({"min_p": 0.1}, Reply("error", '{"error": {"message": "min_p: bad"}}'), "min_p"),
}


@both
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_is_refused_is_named_at_once(name, users, recordings):
    parameters, reply, key = PARAMETERS[name]
    with serve(lambda request: reply) as server:
        caught = told({"base_url": server.url, "parameters": parameters}, recordings, users)
    assert_says(caught, key, "[endpoint.parameters]", *parameters)
    assert len(server.log) <= 8


def test_a_schema_that_is_refused_leads_to_its_setting(recordings):
    with serve(lambda request: invalid("response_format is not supported")) as server:
        caught = told({"base_url": server.url, "json_schema": True}, recordings, 1_000)
    assert_says(caught, "response_format", "json_schema is true")


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' is too large: 400. This model's maximum context length is 2048 tokens and your request has 1900",
        "the user message holds something that we do not answer",
    ],
)
def test_what_only_one_prompt_is_refused_for_is_no_parameters_fault(message, recordings):
    def script(request: Request) -> Reply:
        return invalid(message) if "New Film 3-" in request.message else ranked(request)

    with serve(script) as server:
        model = Endpoint("toy", server.url, parameters={"max_tokens": 400, "user": "me"}, requests_per_minute=1e6)
        tasks = [rank_users.task(user) for user in range(8)]
        found = list(rankers.rank(tasks, "listwise", model, recordings, noun="film", seed=1))
    assert [ranking.user for ranking in found if ranking.failure] == [3]


# --- keys -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("key", "word"),
    [(f'"{KEY}"', "quotation marks"), (f"'{KEY}'", "quotation marks"), (f"“{KEY}”", "quotation marks")]
    + [(f"Bearer {KEY}", '"Bearer "'), (f"bearer {KEY}", '"Bearer "'), (f"{KEY} # mine", "characters")],
)
def test_a_key_that_is_written_wrongly_is_told_without_being_shown(key, word, users, recordings, monkeypatch):
    monkeypatch.setenv("TOY_KEY", key)
    with serve() as server:
        caught = told({"base_url": server.url, "key_variable": "TOY_KEY"}, recordings, users)
    assert_says(caught, word, "environment variable TOY_KEY")
    assert not server.log


# --- found without asking ---------------------------------------------------------------------------------------------

WRITTEN = {
    "modes": ["listwise"],
    "everybody_modes": [],
    "topk_modes": [],
    "cross_ways": [],
    "larger_models": [],
    "local": None,
    "taught": None,
}
MODELS = {
    "no price": (
        {"model": "toy/chat-1", "endpoint": {"base_url": "http://127.0.0.1:9/v1"}},
        ["no price", "prices.toml"],
    ),
    "unknown here": ({"model": "SmallLM2"}, ["unknown model 'SmallLM2'", "SmolLM2-135M-Instruct"]),
    "larger unknown here": (
        {"larger_models": [{"model": "Qwen9", "users": {"listwise": 2}}]},
        ["unknown model 'Qwen9'"],
    ),
}


@pytest.mark.parametrize(
    "command", [commands.data, commands.model, functools.partial(commands.run, notebook="01_data")]
)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_asked_is_found_before_anything_is_fetched_or_fitted(name, command, monkeypatch):
    changes, words = MODELS[name]
    values = tomllib.loads((paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8"))
    settings = config.build("toy", values | WRITTEN | changes, "toy.toml")
    for module, function in ((commands.steps, "dataset"), (commands.notebooks, "run")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("too late"))
    with pytest.raises(HybridrecError) as caught:
        command(settings)
    assert not [word for word in words if word not in str(caught.value)]


@pytest.mark.parametrize("command", [["data", "mine"], ["run", "mine", "01_data"]], ids=["data", "run"])
def test_an_unknown_recommender_is_told_before_anything_is_fetched_or_fitted(command, tmp_path, monkeypatch, capsys):
    text = (paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8")
    assert text.count('"MostPop", ') == 1
    (tmp_path / "mine.toml").write_text(text.replace('"MostPop", ', '"MostPopp", '), encoding="utf-8")
    monkeypatch.setattr(paths, "EXPERIMENTS", tmp_path)
    for module, function in ((commands.steps, "dataset"), (commands.notebooks, "run")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("too late"))
    assert commands.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: mine.toml") and said.count("\n") == 1
    assert "recommenders has 'MostPopp', which is none of MostPop, " in said


# --- afterwards -------------------------------------------------------------------------------------------------------


def test_once_a_completion_has_come_the_same_troubles_are_passing_ones(recordings):
    """Of 30 users every tenth meets one of them once; all get their ranking."""
    bad = [PAGE, Reply("reset", reset=True), Reply("error", '{"error": {"message": "upstream is gone"}}')]

    def script(request: Request) -> Reply:
        user = int(request.message.split("New Film ")[1].split("-")[0])
        return bad[user // 10] if user % 10 == 9 and not request.earlier else ranked(request)

    with serve(script) as server:
        model = Endpoint("toy", server.url, requests_per_minute=1e6, concurrency=1)
        tasks = [rank_users.task(user) for user in range(30)]
        found = list(rankers.rank(tasks, "listwise", model, recordings, noun="film", seed=1))
    assert not [ranking for ranking in found if ranking.failure]
    assert model.faults.total() == 3


def assert_says(caught: HybridrecError, *words: str) -> None:
    assert isinstance(caught, EndpointError | SettingError)
    assert not [word for word in words if word not in str(caught)], f"{words} in: {caught}"
