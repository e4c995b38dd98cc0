"""Requests become answers: replayed where recorded, asked for once where not, and as they come."""

import gzip
import itertools
import json
import math
import re
import shutil
import sqlite3
import subprocess
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from file_limit import file_limit
from toy_model import USAGE, NeverAsked, ToyModel, reply

from hybridrec import errors
from hybridrec.errors import RecordingError
from hybridrec.llm import recordings as recordings_module
from hybridrec.llm import runner
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Answer, Asked, Failure, Response, Tally
from hybridrec.study import paths, progress

PAID = 0.012  # dollars an answer of ToyModel costs


def ask_for(user: int | None) -> Asked:
    return Asked(user, {"kind": "generate", "instruction": f"user {user} liked Alien", "candidates": ["Fargo", "Heat"]})


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    return Recordings(tmp_path / "toy.sqlite")


def by_user(answers: list[Answer]) -> dict[int | None, Response | Failure]:
    return {answer.asked.user: answer.outcome for answer in answers}


def attempts_until(good: int) -> ToyModel:
    """A model whose answers are empty before attempt number ``good``."""
    return ToyModel(lambda asked: reply(asked) | ({} if asked.attempt >= good else {"text": ""}))


def not_empty(asked: Asked, response: Response) -> str:
    return "" if response["text"] else "empty"


# --- replaying ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay_only", [False, True])
def test_what_is_recorded_is_replayed_without_asking_the_model(replay_only, recordings):
    asked = [ask_for(user) for user in range(5)]
    first = by_user(list(runner.ask(asked, ToyModel(), recordings)))
    again = list(runner.ask(asked, NeverAsked(), Recordings(recordings.path, replay_only=replay_only)))
    assert by_user(again) == first
    assert len(first) == 5
    assert all(answer.replayed and answer.usd == 0 for answer in again)


def test_auto_asks_only_for_what_is_missing(recordings):
    asked = [ask_for(user) for user in range(5)]
    list(runner.ask(asked[:3], ToyModel(), recordings))
    model = ToyModel()
    answers = list(runner.ask(asked, model, recordings))
    assert model.asked == asked[3:]
    assert [answer.replayed for answer in answers] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(("replay_only", "live"), [(False, [2, 4]), (True, [])])
def test_a_live_user_is_asked_again_and_what_was_recorded_stays(replay_only, live, recordings):
    asked = [ask_for(user) for user in range(5)]
    before = by_user(list(runner.ask(asked, ToyModel(), recordings)))
    written = {key: recordings[key] for key in recordings}
    model = ToyModel(lambda one: reply(one) | {"text": "Heat"})
    opened = Recordings(recordings.path, replay_only=replay_only)
    answers = list(runner.ask(asked, model, opened, live={2, 4}))
    assert [one.user for one in model.asked] == live
    assert [answer.asked.user for answer in answers if not answer.replayed] == live
    assert {user for user, outcome in by_user(answers).items() if outcome != before[user]} == set(live)
    assert {key: recordings[key] for key in recordings} == written


def test_a_live_user_without_a_recording_gets_one(recordings):
    list(runner.ask([ask_for(1)], ToyModel(), recordings, live=[1]))
    assert len(recordings) == 1


def test_replayed_and_computed_answers_are_counted_for_the_end(recordings, tmp_path):
    list(runner.ask([ask_for(user) for user in range(3)], ToyModel(), recordings))
    with progress.journal(tmp_path / "journal"):
        list(runner.ask([ask_for(user) for user in range(5)], ToyModel(), recordings))
    assert progress.counts([tmp_path / "journal"]) == {"answers": {"computed": 2, "replayed": 3}}


def test_a_replay_miss_names_the_user_the_count_and_the_remedy(recordings):
    asked = [ask_for(user) for user in (11, 12, 13, 14, 15)]
    list(runner.ask([asked[0], asked[3]], ToyModel(), recordings))
    answers = runner.ask(asked, NeverAsked(), Recordings(recordings.path, replay_only=True), what="listwise")
    assert next(answers).asked.user == 11
    with pytest.raises(RecordingError, match=r"listwise for user 12 \(and 2 more\) in toy\.sqlite"):
        next(answers)


def test_a_replay_miss_of_a_request_for_everybody_says_so(tmp_path):
    with pytest.raises(RecordingError, match=r"no recording of prior for everybody \(and 0 more\)"):
        list(runner.ask([ask_for(None)], NeverAsked(), Recordings(tmp_path / "toy", replay_only=True), what="prior"))


def test_replay_asks_for_no_second_attempt_either(recordings):
    list(runner.ask([ask_for(1)], attempts_until(1), recordings, check=not_empty, attempts=1))
    replayed = Recordings(recordings.path, replay_only=True)
    with pytest.raises(RecordingError, match="user 1"):
        list(runner.ask([ask_for(1)], NeverAsked(), replayed, check=not_empty, attempts=2))


# --- what does not fit ----------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
GONE = "taken out"
UNFIT = [
    *(("score", "log_probs", value) for value in ([-1.0, NAN], [INF, -1.0], [-1.0, -INF], [-1.0, 10**400])),
    *(("score", "log_probs", value) for value in ([-1.0], [-1.0] * 3, [], [-1.0, None], [-1.0, True], [-1.0, "-2"])),
    *(("score", "log_probs", value) for value in (GONE, None, -1.0, "ab", {"a": 1, "b": 2}, [[-1.0], [-2.0]])),
    *(("choose", "log_probs", value) for value in ([[-1.0, -2.0]], [[-1.0], [-2.0]], [[-1.0, -2.0, -3.0]] * 2)),
    *(("choose", "log_probs", value) for value in ([-1.0, -2.0], [[-1.0, NAN], [-1.0, -2.0]], [[-1.0, -2.0], None])),
    *((kind, "lengths", value) for kind in ("score", "choose") for value in ([1], [1, 2, 3], [1, 0], [-1, 1])),
    *((kind, "lengths", value) for kind in ("score", "choose") for value in (GONE, None, [1, True], [1, 1.5], 2)),
    *(("generate", "text", value) for value in (GONE, None, 3, ["Heat"])),
    *(("generate", "finish_reason", value) for value in (GONE, None, "", 3)),
    *(
        (kind, name, value)
        for kind in ("generate", "score", "choose")
        for name in USAGE
        for value in (GONE, None, NAN, INF, -1, -0.5, "3", True)
    ),
]


def ask_kind(user: int, kind: str) -> Asked:
    extra = {"choices": ["Yes", "No"]} if kind == "choose" else {}
    return Asked(user, ask_for(user).request | {"kind": kind} | extra)


def spoiled(asked: Asked, name: str, value: object) -> Response:
    """The right response with one thing wrong in it."""
    response = reply(asked) | {name: value}
    return {key: one for key, one in response.items() if one is not GONE}


@pytest.mark.parametrize("kind", ["generate", "score", "choose"])
def test_a_response_that_fits_its_request_is_told_from_all_that_do_not(kind):
    asked = ask_kind(7, kind)
    assert runner.misfit(asked.request, reply(asked)) == ""
    assert runner.misfit(asked.request, reply(asked) | {"seconds": 0, "cached_tokens": 0}) == ""
    unfit = [(name, value) for of, name, value in UNFIT if of == kind]
    found = [(name, runner.misfit(asked.request, spoiled(asked, name, value))) for name, value in unfit]
    assert len(found) >= 32 and [wrong for name, wrong in found if name not in wrong] == []


def test_a_written_answer_may_be_empty_and_end_for_any_reason():
    asked = ask_kind(7, "generate")
    assert runner.misfit(asked.request, reply(asked) | {"text": "", "finish_reason": "eos"}) == ""


def test_a_request_of_a_kind_that_nobody_knows_fits_nothing():
    assert "'guess'" in runner.misfit({"kind": "guess", "candidates": []}, dict(USAGE))


def test_no_text_is_quoted_in_what_is_said_of_a_response():
    """It may quote a history, or a key; what is said of it ends up in tables and logs."""
    for _, name, _ in UNFIT:
        for value in ("private", ["private"], {"private": 1}, [["private", "private"]] * 2):
            for kind in ("generate", "score", "choose"):
                asked = ask_kind(7, kind)
                assert "private" not in runner.misfit(asked.request, spoiled(asked, name, value))


@pytest.mark.parametrize("replay_only", [False, True])
@pytest.mark.parametrize("folded", [False, True], ids=["new answers", "compact form"])
@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("score", "log_probs", [-1.0, NAN]),
        ("choose", "lengths", [1]),
        ("generate", "text", None),
        ("score", "seconds", GONE),
    ],
)
def test_a_recording_that_does_not_fit_is_found_in_replay_and_the_remedy_works(
    kind, name, value, folded, replay_only, recordings
):
    asked, model = [ask_kind(user, kind) for user in (11, 12, 13)], ToyModel()
    for one in asked:
        recordings.append(model.key(one), spoiled(one, name, value) if one.user == 12 else reply(one))
    if folded:
        recordings.compact()
    with pytest.raises(RecordingError) as caught:
        list(runner.ask(asked, NeverAsked(), Recordings(recordings.path, replay_only=replay_only)))
    file = recordings.compact_path if folded else recordings.path
    said = re.match(rf"{re.escape(file.name)}(, line \d)?: the answer (\w{{12}}) for user 12 (.*)", str(caught.value))
    line, key, rest = said.groups()
    assert bool(line) == folded
    assert model.key(asked[1]).startswith(key)
    assert name in rest and "asked for again" in rest

    subprocess.run(re.search("`(.*)`", rest)[1], shell=True, cwd=recordings.path.parent, check=True)
    answers = list(runner.ask(asked, model, Recordings(recordings.path)))
    assert model.asked == [asked[1]]
    assert by_user(answers) == {one.user: reply(one) for one in asked}


def test_an_earlier_attempt_that_does_not_fit_is_found_too(recordings):
    list(runner.ask([ask_for(1)], attempts_until(1), recordings, check=not_empty, attempts=2))
    with closing(sqlite3.connect(recordings.path, isolation_level=None)) as database:
        spoilt = json.dumps({"text": "", **USAGE})
        database.execute("UPDATE answers SET response = ? WHERE key = ?", (spoilt, ToyModel().key(ask_for(1))))
    with pytest.raises(RecordingError, match="user 1 .*finish_reason"):
        list(runner.ask([ask_for(1)], NeverAsked(), recordings, check=not_empty, attempts=2))


@pytest.mark.parametrize(("kind", "name", "value"), [("score", "log_probs", [NAN, -1.0]), ("generate", "text", None)])
def test_a_local_model_whose_answer_does_not_fit_ends_the_run_and_nothing_of_it_is_kept(kind, name, value, recordings):
    def sometimes(asked: Asked) -> Response:
        return spoiled(asked, name, value) if asked.user == 3 else reply(asked)

    asked, model = [ask_kind(user, kind) for user in (1, 2, 3, 4)], ToyModel(sometimes)
    with pytest.raises(errors.ResponseError, match=rf"toy, user 3: .*{name}.*not recorded"):
        list(runner.ask(asked, model, recordings))
    assert set(Recordings(recordings.path)) == {model.key(one) for one in asked[:2]}
    assert model.closed == 1
    mended = ToyModel()
    assert len(list(runner.ask(asked, mended, recordings))) == 4
    assert mended.asked == asked[2:]


class BatchModel(ToyModel):
    """Answers all requests at once, when nothing more is to come."""

    def submit(self, asked: Asked, keep: runner.Keep) -> runner.Finished:
        self.width = len(self.under_way) + 2
        return super().submit(asked, keep)

    def wait(self) -> runner.Finished:
        batch, self.under_way = self.under_way, []
        return [(asked, keep(asked, self.reply(asked))) for asked, keep in batch]


def test_the_answers_of_a_batch_that_fit_are_kept_before_the_one_that_does_not_ends_the_run(recordings):
    asked = [ask_for(user) for user in range(6)]
    model = BatchModel(lambda one: spoiled(one, "text", None) if one.user in (2, 4) else reply(one))
    with pytest.raises(errors.ResponseError, match="toy, user 2: .*text"):
        list(runner.ask(asked, model, recordings))
    resumed = ToyModel()
    assert len(list(runner.ask(asked, resumed, recordings))) == 6
    assert resumed.asked == [asked[2], asked[4]]


@pytest.mark.parametrize("width", [1, 3])
def test_an_endpoints_answer_that_does_not_fit_is_that_users_failure_and_is_not_kept(width, recordings):
    model = ToyModel(lambda asked: spoiled(asked, "text", None) if asked.user == 3 else reply(asked), width=width)
    model.endpoint = {"base_url": "http://127.0.0.1:9/v1"}
    tally = Tally()
    answers = {one.asked.user: one for one in runner.ask(map(ask_for, (1, 2, 3, 4)), model, recordings, tally=tally)}
    assert {user for user, answer in answers.items() if answer.failed} == {3}
    assert "text is missing" in answers[3].verdict
    assert tally.failures == {answers[3].verdict: 1}
    assert set(Recordings(recordings.path)) == {model.key(ask_for(user)) for user in (1, 2, 4)}
    (again,) = runner.ask([ask_for(3)], ToyModel(), recordings)
    assert again.outcome == reply(ask_for(3))


COMMITTED = sorted((paths.ROOT / "data" / "recordings").glob("*/*.jsonl.gz"))


DIGITS = list("0123456789")  # a taught model's grades


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_recording_that_is_committed_fits_a_request(file):
    """The requests are not there, so their kind and length are those that the response suggests."""
    for line in gzip.decompress(file.read_bytes()).splitlines():
        response = json.loads(line)["response"]
        request = {"kind": "generate", "candidates": []}
        if "text" not in response:
            first = response["log_probs"][0]
            kind = "choose" if isinstance(first, list) else "score"
            choices = DIGITS if kind == "choose" and len(first) == len(DIGITS) else ["Yes", "No"]
            request = {"kind": kind, "candidates": response["lengths"], "choices": choices}
        assert runner.misfit(request, response) == "", line[:80]


def test_there_are_committed_recordings():
    assert len(COMMITTED) >= 9


# --- room before paying ---------------------------------------------------------------------------------------------


def test_nothing_is_asked_where_answers_cannot_be_kept(tmp_path):
    recordings = Recordings(tmp_path / "folder" / "toy.sqlite")
    (tmp_path / "folder").write_text("a file in its place", encoding="utf-8")
    with pytest.raises(RecordingError, match=r"toy\.sqlite: cannot be written"):
        list(runner.ask([ask_for(1)], NeverAsked(), recordings))
    (tmp_path / "folder").unlink()
    assert len(list(runner.ask([ask_for(1)], ToyModel(), recordings))) == 1


def test_nothing_is_asked_on_a_disk_that_is_nearly_full(recordings, monkeypatch):
    monkeypatch.setattr(recordings_module, "_LEAST_FREE", shutil.disk_usage(recordings.path.parent).total + 1)
    with pytest.raises(RecordingError, match="MB are free"):
        list(runner.ask([ask_for(1)], NeverAsked(), recordings))


@pytest.mark.parametrize(("replay_only", "live"), [(False, []), (True, []), (False, [1])])
def test_what_needs_no_room_runs_where_there_is_none(replay_only, live, recordings, monkeypatch):
    """A replay, and a live user whose answer is recorded already: a read-only checkout is enough."""
    asked = [ask_for(user) for user in (1, 2)]
    list(runner.ask(asked, ToyModel(), recordings))
    recordings.compact()
    before = recordings.path.read_bytes()
    monkeypatch.setattr(recordings_module, "_LEAST_FREE", shutil.disk_usage(recordings.path.parent).total + 1)
    model = ToyModel()
    opened = Recordings(recordings.path, replay_only=replay_only)
    assert len(list(runner.ask(asked, model, opened, live=live))) == 2
    assert [one.user for one in model.asked] == live
    assert recordings.path.read_bytes() == before


def test_a_disk_that_fills_up_ends_the_run_and_the_next_one_goes_on(recordings):
    asked = [ask_for(user) for user in (1, 2, 3, 4)]
    list(runner.ask(asked[:2], ToyModel(), recordings))
    model = ToyModel()
    log = recordings.path.with_name("toy.sqlite-wal")
    with (
        file_limit(log.stat().st_size + 20),
        pytest.raises(RecordingError, match=r"user 3: toy\.sqlite: the answer \w{12} could not be kept .*run again"),
    ):
        list(runner.ask(asked, model, recordings))
    assert model.asked == [asked[2]] and model.closed == 1
    resumed = ToyModel()
    answers = list(runner.ask(asked, resumed, Recordings(recordings.path)))
    assert by_user(answers) == {one.user: reply(one) for one in asked}
    assert resumed.asked == asked[2:]
    assert len(Recordings(recordings.path)) == 4


# --- streaming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 8])
def test_answers_come_while_requests_are_still_being_made(width, recordings):
    pulled = 0

    def source() -> Iterator[Asked]:
        nonlocal pulled
        for user in itertools.count():  # without an end: who collected it first would never return
            pulled += 1
            yield ask_for(user)

    answers = runner.ask(source(), ToyModel(width=width), recordings)
    for given, _ in enumerate(itertools.islice(answers, 200), 1):
        assert given <= pulled < given + width
    answers.close()


def test_requests_are_not_kept_after_their_answer_was_given(recordings):
    """So memory stays flat over a million users."""
    model, watched = ToyModel(width=4), []

    def source() -> Iterator[Asked]:
        for user in range(50):
            one = ask_for(user)
            watched.append(weakref.ref(one))
            yield one

    for _ in runner.ask(source(), model, recordings, check=not_empty):
        model.asked.clear()
        assert sum(reference() is not None for reference in watched) <= model.width + 2
    assert len(watched) == 50


def test_every_request_is_answered_whatever_the_order_of_the_answers(recordings):
    asked = [ask_for(user) for user in range(23)]
    answers = list(runner.ask(iter(asked), ToyModel(width=7), recordings))
    assert [answer.asked.user for answer in answers] != list(range(23))
    assert by_user(answers) == {one.user: reply(one) for one in asked}
    assert len(answers) == 23


def test_a_run_that_is_left_early_closes_the_model_and_keeps_what_was_answered(recordings):
    model = ToyModel(width=3)
    answers = runner.ask((ask_for(user) for user in itertools.count()), model, recordings)
    first = next(answers)
    answers.close()
    assert model.closed == 1
    assert model.under_way == []
    assert list(Recordings(recordings.path)) == [model.key(first.asked)]


def test_a_finished_run_closes_the_model_once(recordings):
    model = ToyModel()
    list(runner.ask([ask_for(1)], model, recordings))
    assert model.closed == 1


# --- the same request twice -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_request_of_two_users_is_asked_once_and_both_get_the_answer(width, recordings):
    request = ask_for(1).request
    asked = [Asked(1, request), ask_for(7), Asked(2, request), Asked(3, request)]
    model, tally = ToyModel(width=width), Tally()
    answers = list(runner.ask(asked, model, recordings, tally=tally))
    assert sorted(by_user(answers)) == [1, 2, 3, 7]
    assert len({str(answer.outcome) for answer in answers if answer.asked.user != 7}) == 1
    assert len(model.asked) == 2
    assert sum(answer.replayed for answer in answers) == tally.replayed == 2
    assert tally.usd == pytest.approx(2 * PAID)


def test_duplicates_whose_answer_cannot_be_used_are_asked_again_once_together(recordings):
    request = ask_for(1).request
    model = attempts_until(1)
    model.width = 4
    answers = list(runner.ask([Asked(1, request), Asked(2, request)], model, recordings, check=not_empty, attempts=2))
    assert [one.attempt for one in model.asked] == [0, 1]
    assert [(answer.asked.attempt, answer.verdict) for answer in answers] == [(1, "")] * 2


def test_duplicates_share_a_failure(recordings):
    request = ask_for(1).request
    model = ToyModel(lambda asked: Failure("refused with 400"), width=4)
    answers = list(runner.ask([Asked(1, request), Asked(2, request)], model, recordings))
    assert [answer.verdict for answer in answers] == ["refused with 400"] * 2
    assert len(model.asked) == 1


# --- asking again ---------------------------------------------------------------------------------------------------


def test_an_unusable_answer_is_asked_for_again_and_each_attempt_is_recorded(recordings):
    model = attempts_until(2)
    (answer,) = runner.ask([ask_for(1)], model, recordings, check=not_empty, attempts=5)
    assert [one.attempt for one in model.asked] == [0, 1, 2]
    assert (answer.verdict, answer.asked.attempt, answer.failed) == ("", 2, False)
    texts = [recordings[model.key(one)]["text"] for one in model.asked]
    assert len(recordings) == 3
    assert texts == ["", "", "Heat\nFargo"]
    assert [response["text"] for response in answer.asked.before] == ["", ""]


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_are_bounded_and_the_last_answer_is_given_with_its_verdict(attempts, recordings):
    model = attempts_until(100)
    (answer,) = runner.ask([ask_for(1)], model, recordings, check=not_empty, attempts=attempts)
    assert len(model.asked) == len(recordings) == attempts
    assert (answer.verdict, answer.failed) == ("empty", True)
    assert answer.outcome["text"] == ""


def test_requests_asked_again_go_before_new_ones(recordings):
    model = attempts_until(1)
    list(runner.ask(map(ask_for, range(3)), model, recordings, check=not_empty, attempts=2))
    assert [(one.user, one.attempt) for one in model.asked] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_recorded_unusable_answer_is_not_asked_for_a_second_time(recordings):
    list(runner.ask([ask_for(1)], attempts_until(3), recordings, check=not_empty, attempts=2))
    model = attempts_until(3)
    (answer,) = runner.ask([ask_for(1)], model, recordings, check=not_empty, attempts=4)
    assert [one.attempt for one in model.asked] == [2, 3]
    assert answer.asked.attempt == 3


def test_a_repaired_answer_is_used_and_not_asked_for_again(recordings):
    model = ToyModel()
    (answer,) = runner.ask([ask_for(1)], model, recordings, check=lambda *_: "repaired", attempts=5)
    assert len(model.asked) == 1
    assert (answer.verdict, answer.failed) == ("repaired", False)


def test_a_failure_is_yielded_neither_asked_again_nor_recorded(recordings):
    model = ToyModel(lambda asked: Failure("no answer after 7 tries") if asked.user == 1 else reply(asked))
    failed, good = runner.ask([ask_for(1), ask_for(2)], model, recordings, check=not_empty, attempts=5)
    assert failed.outcome == Failure("no answer after 7 tries")
    assert (failed.verdict, failed.failed) == ("no answer after 7 tries", True)
    assert (good.verdict, good.failed) == ("", False)
    assert list(recordings) == [model.key(good.asked)]
    assert len(model.asked) == 2


# --- counts ---------------------------------------------------------------------------------------------------------


def test_verdicts_are_counted(recordings):
    verdicts = {0: "", 1: "repaired", 2: "refusal", 3: "empty", 4: "empty", 5: ""}
    list(runner.ask([ask_for(5)], ToyModel(), recordings))
    tally = Tally()
    model = ToyModel(lambda asked: Failure("timeout") if asked.user == 6 else reply(asked))
    asked = [ask_for(user) for user in range(7)]
    list(runner.ask(asked, model, recordings, check=lambda one, _: verdicts[one.user], tally=tally))
    assert (tally.done, tally.replayed, tally.repaired, tally.failed, tally.asked_again) == (7, 1, 1, 4, 0)
    assert tally.failures == {"empty": 2, "refusal": 1, "timeout": 1}
    assert tally.tokens == 5 * 12
    assert tally.usd == pytest.approx(5 * PAID)
    assert re.findall(r"[$\d.]+", str(tally)) == ["1", "1", "4", "60", "$0.0600"]


def test_a_run_that_costs_nothing_shows_no_dollars():
    assert "1,234,567" in str(Tally(tokens=1234567)) and "$" not in str(Tally(tokens=1234567))


def test_usage_is_summed_over_attempts(recordings):
    tally = Tally()
    (answer,) = runner.ask([ask_for(1)], attempts_until(2), recordings, check=not_empty, attempts=3, tally=tally)
    assert answer.used == pytest.approx({name: 3 * value for name, value in USAGE.items()})
    assert (tally.done, tally.asked_again, tally.tokens) == (1, 2, 36)


def test_dollars_are_those_of_all_attempts_made_in_this_run_and_of_no_other(recordings):
    list(runner.ask([ask_for(1)], attempts_until(3), recordings, check=not_empty, attempts=1))
    tally = Tally()
    (answer,) = runner.ask([ask_for(1)], attempts_until(3), recordings, check=not_empty, attempts=4, tally=tally)
    assert answer.usd == tally.usd == pytest.approx(3 * PAID)  # the first of four attempts was replayed
    assert tally.tokens == 3 * 12
    assert answer.used["prompt_tokens"] == 4 * USAGE["prompt_tokens"]
    assert not answer.replayed
    tally = Tally()
    list(runner.ask([ask_for(1)], NeverAsked(), recordings, check=not_empty, attempts=4, tally=tally))
    assert (tally.replayed, tally.tokens, tally.usd) == (1, 0, 0.0)


def test_an_attempt_that_was_paid_before_a_failure_still_counts(recordings):
    model = ToyModel(lambda asked: Failure("timeout") if asked.attempt else reply(asked) | {"text": ""})
    tally = Tally()
    (answer,) = runner.ask([ask_for(1)], model, recordings, check=not_empty, attempts=2, tally=tally)
    assert answer.verdict == "timeout"
    assert answer.used == USAGE
    assert tally.usd == pytest.approx(PAID)


# --- what is written, and when --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3])
def test_nothing_is_written_before_it_is_redacted(width, recordings):
    def redact(asked: Asked, response: Response) -> Response:
        return {**response, "text": response["text"].replace("Heat", "⟨redacted⟩")}

    answers = list(runner.ask([ask_for(1), ask_for(2)], ToyModel(width=width), recordings, redact=redact))
    assert {answer.outcome["text"] for answer in answers} == {"⟨redacted⟩\nFargo"}
    written = b"".join(file.read_bytes() for file in recordings.path.parent.iterdir())
    assert "⟨redacted⟩".encode() in written
    assert b"Heat" not in written


def test_an_answer_is_recorded_by_the_time_it_is_given(recordings):
    model = ToyModel(width=2)
    for answer in runner.ask(map(ask_for, range(5)), model, recordings):
        assert Recordings(recordings.path)[model.key(answer.asked)] == answer.outcome


@pytest.mark.parametrize("width", [1, 4])
def test_a_killed_run_goes_on_where_it_was_and_asks_nothing_twice(width, recordings):
    asked = [ask_for(user) for user in range(12)]
    killed, resumed = ToyModel(width=width, lives=7), ToyModel(width=width)
    given: list[Answer] = []
    with pytest.raises(KeyboardInterrupt):
        for answer in runner.ask(asked, killed, recordings):
            given.append(answer)
    assert killed.closed == 1
    assert len(given) == len(Recordings(recordings.path)) == 8 - width
    answers = list(runner.ask(asked, resumed, Recordings(recordings.path)))
    assert by_user(answers) == {one.user: reply(one) for one in asked}
    assert len(resumed.asked) == 12 - len(given)
    assert not {answer.asked.user for answer in given} & {one.user for one in resumed.asked}


def test_a_model_that_raises_is_closed_and_its_error_reaches_the_caller(recordings):
    def fails(asked: Asked) -> Response:
        raise OSError("the disk is full")

    model = ToyModel(fails)
    with pytest.raises(OSError, match="the disk is full"):
        list(runner.ask([ask_for(1)], model, recordings))
    assert model.closed == 1


def test_a_failed_request_has_another_chance_in_the_next_run(recordings):
    list(runner.ask([ask_for(1)], ToyModel(lambda asked: Failure("timeout")), recordings))
    (answer,) = runner.ask([ask_for(1)], ToyModel(), recordings)
    assert answer.outcome == reply(ask_for(1))
