"""The client of an endpoint, over real HTTP: what it sends, how it waits, when it gives up, what it keeps."""

import email.utils
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fault_server
import httpx2
import pydantic
import pytest
import rank_users
from fault_server import Reply, Request, completion, error, ranked, serve
from hypothesis import given
from hypothesis import strategies as st

from hybridrec.errors import EndpointError, SettingError, SpendingCapError
from hybridrec.evaluation.prices import Price
from hybridrec.llm import prompts, rankers, runner
from hybridrec.llm.models import endpoint, replies
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.models.replies import NoAnswerError
from hybridrec.llm.recordings import Recordings

KEY = "sk-test-0123456789"
SETTINGS = {"requests_per_minute": 1e6, "concurrency": 4, "timeout": 5.0, "retries": 1, "attempts": 1}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Between two tries without a Retry-After: at most some hundredths of a second."""
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.01)


@pytest.fixture
def recordings(tmp_path) -> Recordings:
    return Recordings(tmp_path / "toy.sqlite")


def model(url: str, price: Price | None = None, **settings: Any) -> Endpoint:
    return Endpoint("toy", url, price=price, **(SETTINGS | settings))


def rank(
    model: Endpoint, recordings: Recordings, users: int = 1, mode: str = "listwise-labels", **given: Any
) -> list[rankers.Ranking]:
    """The rankings of that many users, by user."""
    tasks = (rank_users.task(user) for user in range(users))
    attempts = model.endpoint.attempts
    found = rankers.rank(tasks, mode, model, recordings, noun="film", seed=1, attempts=attempts, **given)
    return sorted(found, key=lambda ranking: ranking.user)


def in_turn(*replies: Reply | Callable[[Request], Reply]) -> fault_server.Script:
    """These replies, each once, and rankings from then on."""
    left = iter(replies)

    def script(request: Request) -> Reply:
        reply = next(left, ranked)
        return reply if isinstance(reply, Reply) else reply(request)

    return script


def user_of(request: Request) -> int:
    return int(request.message.split("New Film ")[1].split("-")[0])


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_the_body_holds_the_model_the_message_the_configured_parameters_and_nothing_else(recordings):
    parameters = {"temperature": 0.0, "max_tokens": 50, "stop": ["\n\n"], "chat_template_kwargs": {"thinking": False}}
    with serve() as server:
        rank(model(server.url, parameters=parameters), recordings)
        rank(model(server.url), recordings)
        full, bare = (request.body for request in server.requests)
    assert bare.keys() == {"model", "messages"}
    assert bare["model"] == "toy"
    assert [message.keys() for message in bare["messages"]] == [{"role", "content"}]
    assert "New Film 0-4" in bare["messages"][0]["content"]
    assert full == bare | parameters


def test_a_further_attempt_draws_from_the_next_seed(recordings):
    refusal = [lambda request: completion(request, "I'm sorry, but no.")] * 2
    with serve(in_turn(*refusal)) as server:
        (ranking,) = rank(model(server.url, attempts=3, parameters={"seed": 7}), recordings)
    assert [request.body["seed"] for request in server.requests] == [7, 8, 9]
    assert ranking.attempts == 3
    assert not ranking.failure
    assert len(recordings) == 3


def test_without_a_seed_a_further_attempt_is_the_same_body_and_a_recording_of_its_own(recordings):
    with serve(in_turn(lambda request: completion(request, None))) as server:
        (ranking,) = rank(model(server.url, attempts=2), recordings)
    assert server.requests[0].body == server.requests[1].body
    assert ranking.attempts == len(recordings) == 2
    assert ranking.used["prompt_tokens"] == sum(seen.tokens[0] for seen in server.log)


def test_a_json_schema_allows_the_candidates_and_nothing_else(recordings):
    answer = ["C2", "C1", "C3", "C4", "C5"]
    with serve(lambda request: completion(request, json.dumps({"ranking": answer}))) as server:
        (ranking,) = rank(model(server.url, json_schema=True), recordings)
    assert ranking.scores == (4.0, 5.0, 3.0, 2.0, 1.0)
    wanted = server.requests[0].body["response_format"]
    assert wanted["type"] == "json_schema"
    schema = wanted["json_schema"]["schema"]
    assert schema["properties"]["ranking"]["items"]["enum"] == prompts.labels(5)
    assert schema["required"] == ["ranking"]
    assert schema["additionalProperties"] is False
    assert wanted["json_schema"]["strict"] is True


def test_the_recording_of_an_answer_depends_on_what_is_sent_and_not_on_where_or_how_fast():
    asked = rankers.request_of(rank_users.task(1), "listwise", "film")
    here, there = model("http://here/v1"), model("http://there/v1", concurrency=9, timeout=9.0, retries=9)
    assert here.key(asked) == there.key(asked)
    assert here.key(asked) != here.key(replace(asked, attempt=1))
    assert here.key(asked) != model("http://here/v1", parameters={"temperature": 0.5}).key(asked)


@pytest.mark.parametrize("mode", ["likelihood", "pointwise"])
def test_modes_that_need_probabilities_are_refused_by_name_before_anything_is_sent(mode, recordings):
    with serve() as server, pytest.raises(ValueError, match="an endpoint answers in text.*Leave the modes likelihood"):
        rank(model(server.url), recordings, mode=mode)
    assert not server.log


def test_no_more_requests_are_under_way_than_declared(recordings):
    with serve(lambda request: ranked(request, delay=0.1)) as server:
        rank(model(server.url, concurrency=3), recordings, users=12)
    assert fault_server.most_within(server.log, 0.09) == 3


# --- the key --------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_without_the_line_end_of_the_file_it_came_from(recordings, monkeypatch):
    monkeypatch.setenv("TOY_KEY", KEY + "\n")
    with serve() as server:
        rank(model(server.url, key_variable="TOY_KEY"), recordings)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_key_that_is_not_set_is_an_error_that_names_the_variable_and_nothing_is_sent(value, recordings, monkeypatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TOY_KEY", value)
    with serve() as server, pytest.raises(EndpointError, match="environment variable TOY_KEY is not set"):
        rank(model(server.url, key_variable="TOY_KEY"), recordings, users=30)
    assert not server.log


def test_a_key_with_impossible_characters_is_refused_without_being_quoted(recordings, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "sk-“strange”-key")
    with serve() as server, pytest.raises(EndpointError, match="TOY_KEY holds characters that no key") as caught:
        rank(model(server.url, key_variable="TOY_KEY"), recordings)
    assert "sk-" not in str(caught.value)
    assert not server.log


@pytest.mark.parametrize("key", [KEY, f" {KEY}\n", pydantic.SecretStr(KEY)])
def test_a_key_may_be_given_itself_and_is_shown_nowhere(key, recordings):
    with serve(in_turn(ranked, error(401, f"no such key: {KEY}"))) as server:
        one = model(server.url, key=key, concurrency=1)
        with pytest.raises(EndpointError, match=r"no such key: \[key\]. Check .*the key in key") as caught:
            rank(one, recordings, users=2)
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert KEY not in f"{caught.value!r} {one.__dict__!r} {one.endpoint!r}"


def test_no_variable_but_the_one_that_is_named_says_who_is_asking(recordings, monkeypatch):
    """The client would send others that are set for OpenAI to whatever server this is."""
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Mine: {KEY}\nAuthorization: Bearer {KEY}")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{closed_port()}/v1")
    with serve() as server:
        rank(model(server.url), recordings)
    assert KEY not in f"{server.requests}"


def test_settings_are_checked_when_the_model_is_opened():
    with pytest.raises(SettingError, match="endpoint: concurrency is 0; it must be a whole number from 1 to 256"):
        model("http://localhost/v1", concurrency=0)
    with pytest.raises(SettingError, match="endpoint: unknown key 'concurency'.*concurrency"):
        model("http://localhost/v1", concurency=1)


def test_a_placeholder_instead_of_a_key_does_not_mutilate_answers(recordings, monkeypatch):
    """Servers of one's own want no key, so people set it to "1" or "C1"; it is no secret."""
    monkeypatch.setenv("TOY_KEY", "1")
    with serve() as server:
        (ranking,) = rank(model(server.url, key_variable="TOY_KEY"), recordings)
    assert ranking.scores == (5.0, 4.0, 3.0, 2.0, 1.0)


def test_replay_needs_no_key_and_no_server(recordings, monkeypatch):
    with serve() as server:
        first = rank(model(server.url), recordings, users=5)
    monkeypatch.setenv("HYBRIDREC_LLM", "replay")
    monkeypatch.delenv("TOY_KEY", raising=False)
    replaying = model(f"http://127.0.0.1:{closed_port()}/v1", key_variable="TOY_KEY")
    again = rank(replaying, recordings, users=5)
    assert [ranking.scores for ranking in again] == [ranking.scores for ranking in first]
    assert all(ranking.replayed for ranking in again)
    assert not {"_client", "_api_key"} & vars(replaying).keys()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_with_the_key_and_says_where_it_leads(status, recordings, monkeypatch):
    monkeypatch.setenv("TOY_KEY", KEY)
    with serve() as other:
        elsewhere = Reply("redirect", status=status, headers={"Location": f"{other.url}/chat/completions?key={KEY}"})
        with serve(lambda request: elsewhere) as server, pytest.raises(EndpointError) as caught:
            rank(model(server.url, key_variable="TOY_KEY"), recordings)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert not other.requests
    assert f"redirects to another address, {other.url}. " in str(caught.value)
    assert "base_url" in str(caught.value)
    assert KEY not in str(caught.value)


# --- what ends the run, and what is one user's failure ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "check"), [(401, "TOY_KEY"), (402, "credit"), (403, "TOY_KEY.*toy"), (404, "base_url.*toy")]
)
def test_an_endpoint_that_cannot_be_used_ends_the_run_at_once_and_says_what_to_check(
    status, check, recordings, monkeypatch
):
    monkeypatch.setenv("TOY_KEY", KEY)
    with serve(lambda request: error(status, "no such thing", "some_code")) as server:
        wanted = rf"{server.url} answered {status}: some_code no such thing\. Check .*{check}"
        with pytest.raises(EndpointError, match=wanted):
            rank(model(server.url, key_variable="TOY_KEY"), recordings, users=100)
    assert len(server.log) <= 4  # one for each thread
    assert len(recordings) == 0


def test_a_used_up_quota_is_not_mistaken_for_too_many_requests(recordings):
    reply = error(429, "You exceeded your current quota", "insufficient_quota", {"Retry-After": "1"})
    with serve(lambda request: reply) as server, pytest.raises(EndpointError, match="insufficient_quota You exceeded"):
        rank(model(server.url), recordings, users=100)
    assert len(server.log) <= 4


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_this_users_failure_only_and_not_tried_again(status, recordings):
    def script(request: Request) -> Reply:
        return error(status, "too long", "context_length_exceeded") if user_of(request) == 3 else ranked(request)

    with serve(script) as server:
        rankings = rank(model(server.url), recordings, users=8)
    assert [ranking.user for ranking in rankings if ranking.failure] == [3]
    assert rankings[3].failure == f"refused with {status}: context_length_exceeded too long"
    assert sorted(rankings[3].scores) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(server.log) == 8
    assert len(recordings) == 7


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_a_passing_trouble_is_tried_again(status, recordings):
    with serve(in_turn(error(status))) as server:
        one = model(server.url)
        (ranking,) = rank(one, recordings)
    assert not ranking.failure
    assert len(server.log) == 2
    assert one.faults == {str(status): 1}


def test_after_the_declared_tries_it_is_a_reported_failure_and_not_recorded(recordings):
    tally = runner.Tally()
    with serve(lambda request: error(503)) as server:
        (ranking,) = rank(model(server.url, retries=2), recordings, tally=tally)
    assert ranking.failure == "no answer after 3 tries, the last: 503"
    assert tally.failures == {ranking.failure: 1}
    assert len(server.log) == 3
    assert len(recordings) == 0


def test_a_server_that_is_always_busy_ends_the_run_instead_of_failing_every_user(recordings):
    tally = runner.Tally()
    with serve(in_turn(ranked, *[error(503)] * 1_000)) as server:
        busy = model(server.url)
        with pytest.raises(EndpointError, match="20 requests in a row failed; the last: no answer after 2 tries.*503"):
            rank(busy, recordings, users=1_000, tally=tally)
    assert 20 <= tally.done <= 21 + 2 * busy.endpoint.concurrency
    assert busy.faults.total() >= 40


def test_an_endpoint_that_dies_on_the_way_loses_nothing_and_the_same_model_goes_on_when_it_is_back(recordings):
    alive = threading.Event()
    answered = itertools.count()

    def script(request: Request) -> Reply:
        return ranked(request) if alive.is_set() or next(answered) < 30 else Reply("reset", reset=True)

    with serve(script) as server:
        one = model(server.url, retries=0)
        with pytest.raises(EndpointError, match="in a row failed"):
            rank(one, recordings, users=100)
        assert len(recordings) == 30
        with pytest.raises(EndpointError, match="20 requests in a row"):  # not the first of them: counted anew
            rank(one, recordings, users=100)
        asked = len(server.log)
        assert asked >= 30 + 2 * 20
        alive.set()
        assert not [ranking for ranking in rank(one, recordings, users=100) if ranking.failure]
        assert len(server.log) - asked == 70


def test_an_error_nobody_waited_for_does_not_come_up_in_the_next_run(recordings):
    with serve(in_turn(ranked, error(401), error(401))) as server:
        one = model(server.url, concurrency=1)
        asked = [rankers.request_of(rank_users.task(user), "listwise", "film") for user in range(4)]
        answers = runner.ask(asked, one, recordings)
        next(answers)
        while len(server.log) < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        answers.close()
        assert len([*runner.ask(asked[:1], one, recordings)]) == 1
        with pytest.raises(EndpointError):
            rank(one, recordings)
        assert not rank(one, recordings)[0].failure


# --- waiting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": " 2 "}, 2.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "tomorrow"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "1e400"}, None),
        ({"Retry-After": "1e300"}, None),
        ({"Retry-After": "1795725000"}, None),  # the moment itself, as seconds since 1970
        ({"Retry-After": "-5", "retry-after-ms": "-5000"}, None),
        ({"retry-after-ms": "-5000", "Retry-After": "3"}, 3.0),
        ({"retry-after-ms": "nan", "Retry-After": "3"}, 3.0),
        ({"retry-after-ms": "1e300", "Retry-After": "3"}, 3.0),
        ({"retry-after-ms": " 250 "}, 0.25),
        ({"Retry-After": "3600"}, 3600.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 +9999999999999"}, None),
        ({"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_in_every_form(headers, seconds):
    assert replies.retry_after(httpx2.Headers(headers)) == seconds


NOON = "Tue, 03 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize("clock", [0.0, 1e9, 1793707200.0 + 7_200, 1793707200.0 - 7_200, 4e9])
@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        ("Tue, 03 Nov 2026 12:00:02 GMT", 2.0),
        ("Tue, 03 Nov 2026 13:00:02 +0100", 2.0),
        ("Tue, 03 Nov 2026 12:01:30 -0000", 90.0),
        ("Tue Nov  3 12:00:05 2026", 5.0),  # without a zone: UTC, wherever this machine is
        ("Tuesday, 03-Nov-26 12:00:07 GMT", 7.0),
        ("Tue, 03 Nov 2026 11:59:58 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Tue, 03 Nov 2026 14:00:00 GMT", 7_200.0),
        ("Wed, 03 Nov 2027 12:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
    ],
)
def test_a_date_is_measured_by_the_clock_of_the_server_whatever_ours_says(until, seconds, clock, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: clock)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert replies.retry_after(httpx2.Headers({"Retry-After": until, "Date": NOON})) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("date", [{}, {"Date": ""}, {"Date": "now"}])
@pytest.mark.parametrize(
    ("ours", "seconds"),
    [(0, 90), (-300, 390), (-3_600, 600), (-365 * 86_400, 600), (60, 30), (3_600, 0), (365 * 86_400, 0)],
)
def test_without_the_servers_clock_ours_measures_and_can_neither_end_the_run_nor_hold_it_long(
    date, ours, seconds, monkeypatch
):
    monkeypatch.setattr(time, "time", lambda: 1793707200.0 + ours)
    found = replies.retry_after(httpx2.Headers({"Retry-After": "Tue, 03 Nov 2026 12:01:30 GMT"} | date))
    assert found == pytest.approx(seconds)
    assert found <= replies.LONGEST_WAIT


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("retry-after", "retry-after-ms", "date"),
            st.one_of(
                st.floats().map(str), st.integers().map(str), st.text(st.characters(codec="ascii"), max_size=30),
                st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
            ),
        ),
    )
)  # fmt: skip
def test_whatever_a_server_says_the_wait_is_none_or_a_time_that_can_be_waited(headers):
    found = replies.retry_after(httpx2.Headers(headers))
    assert found is None or 0 <= found <= replies._ABSURD_WAIT


@pytest.mark.slow
def test_a_clock_that_jumps_during_the_run_makes_nobody_wait_longer(recordings, monkeypatch):
    """The machine's clock is set forward or back by hours at every look; the server's is five hours slow."""
    jumps = itertools.cycle([0.0, 1e5, -1e5, 4e9])
    with serve(in_turn(*[lambda request: error(429, headers=headers)] * 2)) as server:
        headers = fault_server.dates(1)
        monkeypatch.setattr(time, "time", lambda: next(jumps))
        began = time.monotonic()
        rankings = rank(model(server.url, requests_per_minute=6_000), recordings, users=5)
        seconds = time.monotonic() - began
    assert not [ranking for ranking in rankings if ranking.failure]
    assert 1 <= seconds < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "least"),
    [
        (lambda: {"Retry-After": "1"}, 1.0),
        (lambda: {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}, 0.9),
        (lambda: fault_server.dates(1), 1.0),
        (lambda: {"Retry-After-Ms": "700"}, 0.7),
    ],
    ids=["seconds", "date", "date by another clock", "milliseconds"],
)
def test_a_server_is_given_the_time_it_asks_for(headers, least, recordings):
    with serve(in_turn(lambda request: error(429, headers=headers()))) as server:
        rank(model(server.url), recordings)
    first, second = server.log
    assert least <= second.at - first.at < least + 2


def test_a_server_that_wants_too_long_a_pause_ends_the_run(recordings):
    closed = error(503, "maintenance", headers={"Retry-After": "86400"})
    wanted = r"wants us to wait 86400 s \(error maintenance\): go on later"
    with serve(lambda request: closed) as server, pytest.raises(EndpointError, match=wanted):
        rank(model(server.url, concurrency=1), recordings, users=10)
    assert len(server.log) == 1


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1])
def test_all_threads_pause_when_one_is_told_to(retries, recordings):
    def script(request: Request) -> Reply:
        first = user_of(request) == 5 and not request.earlier
        return error(429, headers={"Retry-After-Ms": "1000"}) if first else ranked(request, delay=0.02)

    with serve(script) as server:
        rank(model(server.url, retries=retries, requests_per_minute=6_000), recordings, users=60)
    (told,) = [seen.at for seen in server.log if seen.what == "429"]
    later = [seen.at - told for seen in server.log if seen.at > told]
    assert len(later) > 40
    assert not [seconds for seconds in later if 0.2 < seconds < 0.95]


def test_a_client_that_takes_long_to_build_is_not_followed_by_a_burst(recordings, monkeypatch):
    build = endpoint.httpx2.AsyncClient
    monkeypatch.setattr(endpoint.httpx2, "AsyncClient", lambda **settings: (time.sleep(0.5), build(**settings))[1])
    with serve() as server:
        rank(model(server.url, requests_per_minute=600), recordings, users=5)
    assert server.log[-1].at - server.log[0].at > 0.35  # four times a tenth of a second


@pytest.mark.parametrize("cut", [0, 100], ids=["before the first byte", "within the body"])
def test_a_server_that_hangs_is_given_up_after_the_timeout_and_blocks_nobody_else(cut, recordings):
    def script(request: Request) -> Reply:
        hangs = user_of(request) == 0 and not request.earlier
        return replace(ranked(request), cut=cut, hang=fault_server.HANG) if hangs else ranked(request)

    with serve(script) as server:
        one = model(server.url, timeout=1.0, concurrency=2)
        rankings = rank(one, recordings, users=20)
    assert not [ranking for ranking in rankings if ranking.failure]
    assert one.faults == {"timeout": 1}
    assert len(server.log) == 21
    assert 1.0 <= server.log[-1].at - server.log[0].at < 5
    assert user_of(server.requests[-1]) == 0  # tried again when all others were through


# --- money ----------------------------------------------------------------------------------------------------------

PRICE = Price(prompt=1_000.0, cached=500.0, completion=4_000.0)  # so that a prompt of 60 tokens costs 6 cents


def billed(log: list[fault_server.Seen]) -> float:
    """Real money: what the server counted, of every request that it began to answer."""
    return sum(
        PRICE.usd({"prompt_tokens": a, "cached_tokens": 0, "completion_tokens": b, "seconds": 0})
        for a, b in (seen.tokens for seen in log)
    )


def capped(url: str, cap: float, **settings: Any) -> Endpoint:
    return model(url, PRICE, spending_cap_usd=cap, parameters={"max_tokens": 20}, **settings)


def test_the_run_stops_before_the_cap_is_exceeded_keeps_what_it_paid_for_and_can_go_on(recordings):
    cap, users = 5.0, 100
    with serve() as server:
        one = capped(server.url, cap)
        with pytest.raises(SpendingCapError, match=r"cap of \$5.00 is reached.*raise spending_cap_usd and run again"):
            rank(one, recordings, users=users)
        paid = billed(server.log)
        print(f"\n${paid:.2f} of ${cap:.2f} spent on {len(server.log)} requests")
        assert paid <= cap
        assert paid == pytest.approx(one.budget.spent)
        assert paid >= cap - 1  # as far as the next request's worst case allows
        assert len(recordings) == len(server.log)
        done = len(server.log)
        tally = runner.Tally()
        assert len(rank(capped(server.url, 100.0), recordings, users=users, tally=tally)) == users
        assert tally.replayed == done
        assert len(server.log) == users
        assert tally.usd == pytest.approx(billed(server.log[done:]))


@pytest.mark.parametrize("loss", ["breaks off", "hangs", "tells no usage", "is no JSON"])
def test_the_cap_also_holds_where_answers_are_paid_for_and_then_lost(loss, recordings):
    """At worst: every byte of the request is a token, and the answer is as long as allowed."""

    def lost(request: Request) -> Reply:
        whole = replace(ranked(request), tokens=(len(request.raw), 20))
        silent = json.dumps(json.loads(whole.content) | {"usage": None})
        return {
            "breaks off": replace(whole, cut=150),
            "hangs": replace(whole, cut=0, hang=fault_server.HANG),
            "tells no usage": replace(whole, content=silent),
            "is no JSON": replace(whole, content=whole.content[:-9]),
        }[loss]

    cap = 5.0
    with serve(in_turn(ranked, *[lost] * 100)) as server:
        one = capped(server.url, cap, timeout=0.5, retries=3)
        rank(one, recordings)
        with pytest.raises(SpendingCapError):
            rank(one, recordings, users=30)
    assert 2 < len(server.log) < 20
    assert cap / 2 < billed(server.log) <= cap


def test_a_cap_below_the_first_request_sends_nothing(recordings):
    with serve() as server, pytest.raises(SpendingCapError, match=r"\$0.0000 spent"):
        rank(capped(server.url, 0.01), recordings)
    assert not server.log


@pytest.mark.parametrize(("price", "parameters"), [(None, {"max_tokens": 20}), (PRICE, {})])
def test_a_cap_needs_a_price_and_a_bound_on_the_answer(price, parameters):
    with pytest.raises(ValueError, match="spending_cap_usd needs the model's price, and max_tokens"):
        model("http://localhost/v1", price, spending_cap_usd=1.0, parameters=parameters)


# --- stopping -------------------------------------------------------------------------------------------------------


def test_a_reader_that_stops_early_keeps_what_was_under_way_and_nothing_more_is_sent(recordings):
    tasks = [rank_users.task(user) for user in range(100)]
    with serve(lambda request: ranked(request, delay=0.2)) as server:
        rankings = rankers.rank(tasks, "listwise", model(server.url), recordings, noun="film", seed=1)
        next(rankings)
        rankings.close()
        sent = len(server.log)
        time.sleep(0.5)
    assert len(server.log) == sent
    assert 4 < sent <= 12
    assert len(recordings) == sum(seen.answered for seen in server.log) == sent


def test_what_fails_after_the_run_has_ended_is_not_tried_again(recordings):
    tasks = [rank_users.task(user) for user in range(100)]
    with serve(lambda request: ranked(request) if user_of(request) == 0 else error(503, delay=0.3)) as server:
        one = model(server.url, retries=5)
        rankings = rankers.rank(tasks, "listwise", one, recordings, noun="film", seed=1)
        next(rankings)
        rankings.close()
        sent = len(server.log)
        time.sleep(0.3)
    assert len(server.log) == sent <= 8
    assert one.faults == {"503": sent - 1}


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_under_way_and_a_second_run_asks_only_for_the_rest(recordings):
    with serve(lambda request: ranked(request, delay=0.2)) as server:
        one = model(server.url)
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            rank(one, recordings, users=60)
        assert 0 < len(recordings) == len(server.log) < 60
        assert len(rank(one, recordings, users=60)) == 60
    assert len(server.log) == 60


def test_an_interrupt_does_not_wait_for_a_long_pause(recordings):
    with serve(lambda request: error(429, headers={"Retry-After": "500"})) as server:
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            rank(model(server.url), recordings, users=60)
    assert time.monotonic() - began < 10
    assert len(server.log) <= 4


# --- what comes back ------------------------------------------------------------------------------------------------


def body(**changed: Any) -> str:
    """A completion's JSON with parts of it changed."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    whole = {"choices": [{"message": {"content": "C1 > C2"}, "finish_reason": "stop"}], "usage": usage}
    return json.dumps(whole | changed)


def test_a_completion_is_read_with_its_usage():
    expected = {"prompt_tokens": 9, "cached_tokens": 5, "completion_tokens": 4, "seconds": 0.5}
    assert replies.completion(body(), 0.5) == {"text": "C1 > C2", "finish_reason": "stop"} | expected


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (0, 0, 0)),
        ({}, (0, 0, 0)),
        ([], (0, 0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, (9, 0, 4)),
        ({"prompt_tokens": 9, "completion_tokens": None, "prompt_tokens_details": {}}, (9, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": None, "audio_tokens": 0}}, (9, 0, 0)),
        ({"prompt_tokens": "many", "completion_tokens": [], "prompt_tokens_details": "none"}, (0, 0, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (0, 0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": 2.0}, (0, 0, 2)),
    ],
)
def test_usage_that_is_not_told_or_nonsense_counts_as_nothing(usage, counts):
    read = replies.completion(body(usage=usage))
    assert (read["prompt_tokens"], read["cached_tokens"], read["completion_tokens"]) == counts
    assert read["text"] == "C1 > C2"


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        ({"message": {"content": None}, "finish_reason": "length"}, "", "length"),
        ({"message": {"role": "assistant"}, "finish_reason": "length"}, "", "length"),
        ({"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}, "No.", "refusal"),
        (
            {"message": {"content": "C1", "refusal": None, "tool_calls": [], "logprobs": {}}, "finish_reason": "stop"},
            "C1",
            "stop",
        ),
        ({"message": {"content": "C1"}, "finish_reason": "content_filter"}, "C1", "content_filter"),
        ({"message": {"content": "C1 \ud83c"}, "finish_reason": "length"}, "C1 ?", "length"),
    ],
)
def test_an_unusual_completion_is_still_a_completion(choice, text, reason):
    read = replies.completion(body(choices=[choice], service_tier="default", system_fingerprint=None))
    assert (read["text"], read["finish_reason"]) == (text, reason)


TEXT = {"type": "text", "text": "C1"}


@pytest.mark.parametrize(
    ("message", "usage", "text"),
    [
        ({"content": "C1", "reasoning_content": "Hm."}, {}, "C1"),
        ({"content": "", "reasoning_content": "Hm."}, {}, "<think>Hm."),
        ({"content": None, "reasoning": "Hm.", "reasoning_content": None}, {}, "<think>Hm."),
        ({"content": " \n", "reasoning": "Hm."}, {}, "<think>Hm."),
        ({"content": ""}, {"completion_tokens_details": {"reasoning_tokens": 20}}, "<think>"),
        ({"content": ""}, {"completion_tokens_details": {"reasoning_tokens": 0}}, ""),
        ({"content": None, "refusal": "No.", "reasoning": "Hm."}, {}, "No."),
        ({"content": [TEXT, {"type": "text", "text": " > C2"}]}, {}, "C1 > C2"),
        ({"content": []}, {}, ""),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, TEXT]}, {}, "C1"),
        ({"content": [{"type": "thinking", "thinking": "Hm."}]}, {}, "<think>Hm."),
    ],
)
def test_the_answer_is_read_and_not_the_thoughts_unless_there_is_nothing_else(message, usage, text):
    choice = {"message": message, "finish_reason": "stop"}
    assert replies.completion(body(choices=[choice], usage=usage))["text"] == text


@pytest.mark.parametrize(
    ("parameters", "reason", "who"),
    [({}, "context", "server"), ({"max_tokens": 20}, "length", "our budget")]
    + [({"max_completion_tokens": 20}, "length", "our budget")],
)
def test_an_answer_that_is_cut_off_was_ended_by_us_only_if_we_bounded_it(parameters, reason, who, recordings):
    def script(request: Request) -> Reply:
        whole = completion(request, "C1 > C2")
        return replace(whole, content=whole.content.replace('"stop"', '"length"'))

    with serve(script) as server:
        rank(model(server.url, parameters=parameters), recordings)
    (key,) = recordings
    assert recordings[key]["finish_reason"] == reason
    assert runner.ended_by(recordings[key]) == who


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        (body()[:40], "not JSON"),
        ('data: {"choices": []}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "no choices"),
        ("[]", "no choices"),
        ('"text"', "no choices"),
        ("{}", "no choices"),
        (body(choices=None), "no choices"),
        (body(choices=[]), "no choices"),
        (body(choices={"0": {}}), "no choices"),
        (body(choices=[None]), "no message"),
        (body(choices=[{}]), "no message"),
        (body(choices=[{"text": "C1 > C2"}]), "no message"),
        (body(choices=[{"message": "C1"}]), "no message"),
        (body(choices=[{"message": {"content": 7}}]), "no message"),
        (body(choices=[{"message": {"content": "C1"}}]), "no finish_reason"),
        (body(choices=[{"message": {"content": "C1"}, "finish_reason": None}]), "no finish_reason"),
        (body(choices=[{"message": {"content": "C1"}, "finish_reason": 7}]), "no finish_reason"),
        (body(choices=[{"message": {"content": ["C1"]}}]), "no message"),
        (body(choices=[{"message": {"content": None, "refusal": {"why": 1}}}]), "no message"),
    ],
)
def test_a_body_without_a_completion_says_what_is_wrong_with_it(text, kind):
    with pytest.raises(NoAnswerError, match=f"broken body: {kind}") as caught:
        replies.completion(text)
    assert caught.value.billed


def test_half_a_character_in_an_answer_neither_ends_the_run_nor_spoils_the_recording(recordings):
    with serve(lambda request: completion(request, "C2 > C1 > C3 > C4 > C5 \udc80")) as server:
        (ranking,) = rank(model(server.url), recordings)
    assert ranking.scores == (4.0, 5.0, 3.0, 2.0, 1.0)
    assert len(Recordings(recordings.path)) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8", "application/octet-stream", ""])
def test_a_whole_completion_is_taken_whatever_the_server_calls_it(content_type, recordings):
    headers = {"Content-Type": content_type}
    with serve(lambda request: ranked(request, headers=headers)) as server:
        (ranking,) = rank(model(server.url), recordings)
    assert not ranking.failure
    assert len(server.log) == 1
