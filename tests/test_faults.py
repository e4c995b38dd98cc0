"""An endpoint that fails in every way it can: all users are served, and no answer is asked for twice."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fault_server
import pytest
import rank_users
from fault_server import NO_COMPLETION, UNUSABLE, Schedule, Seen
from file_limit import file_limit

from hybridrec.errors import RecordingError
from hybridrec.llm import rankers, runner
from hybridrec.llm.recordings import Recordings

pytestmark = pytest.mark.slow

USERS = 1_000
CONCURRENCY = rank_users.SETTINGS["concurrency"]


def show(title: str, counts: Counter) -> None:
    """Counts as a small table, for ``pytest -s``."""
    print(f"\n{title}")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"  {count:6,}  {name}")


def bodies(url: str, users: range) -> dict[str, tuple[str, int, int]]:
    """Recording's key, user and attempt of every body that may be sent."""
    model = rank_users.model(url)
    found = {}
    for user in users:
        for attempt in range(model.endpoint.attempts):
            request = rankers.request_of(rank_users.task(user), rank_users.mode_of(user), "film").request
            asked = runner.Asked(user, request, attempt)
            found[fault_server.fingerprint(model.body(asked))] = (model.key(asked), user, attempt)
    return found


# --- 1,000 users ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """1,000 users ranked through an endpoint where every third answer is faulty: what client and server counted."""
    path = tmp_path_factory.mktemp("faults") / "toy.sqlite"
    with fault_server.serve_apart(Schedule(seed=3, faults=fault_server.FAULTS, refused=0.01)) as server:
        model = rank_users.model(server.url, concurrency=16, retries=3, timeout=3.0)
        tally = runner.Tally()
        rankings = list(rank_users.rank(range(USERS), model, Recordings(path), tally))
        yield rankings, tally, model, server.log(), path, server


def test_the_server_was_as_bad_as_announced_and_the_counts_are_printed(run):
    rankings, tally, model, log, *_ = run
    kinds = Counter(seen.what for seen in log)
    show(f"{len(log):,} requests of {USERS:,} users, by what the server did", kinds)
    show("no completion, as the client counted it", model.faults)
    show("users by number of attempts", Counter(f"{ranking.attempts} attempts" for ranking in rankings))
    show("users by outcome", Counter(ranking.failure or "ranked" for ranking in rankings))
    print(f"{tally}; {tally.asked_again} asked again for an answer that was no ranking")
    assert set(fault_server.FAULTS) <= set(kinds)
    assert sum(kinds[name] for name in fault_server.FAULTS) >= 0.3 * len(log)


def test_every_user_ends_with_a_permutation_or_a_reported_failure(run):
    rankings, tally, *_ = run
    assert sorted(ranking.user for ranking in rankings) == list(range(USERS))
    for ranking in rankings:
        assert ranking.candidates == rank_users.task(ranking.user).candidates
        assert sorted(ranking.scores) == [1.0, 2.0, 3.0, 4.0, 5.0]
    failed = [ranking for ranking in rankings if ranking.failure]
    assert len(failed) == tally.failed == tally.failures.total()
    assert 0 < len(failed) < 0.05 * USERS
    reported = ("refused with 400", "no answer after 4 tries", "refusal", "empty")
    assert all(ranking.failure.startswith(reported) for ranking in failed)


def test_a_request_answered_with_a_completion_is_never_asked_again(run):
    *_, log, _, _ = run
    assert max(fault_server.answers_by_body(log).values()) == 1
    answered = set()
    for seen in log:
        assert seen.body not in answered
        if seen.answered:
            answered.add(seen.body)


def test_every_fault_without_a_completion_is_counted_once_by_client_and_server(run):
    *_, model, log, _, _ = run
    kinds = Counter(seen.what for seen in log)
    assert model.faults.total() == sum(kinds[name] for name in NO_COMPLETION)
    assert model.faults["429"] == sum(count for name, count in kinds.items() if name.startswith("429"))
    assert model.faults["timeout"] == kinds["hang past the timeout"]
    broken = ["truncated JSON", "wrong content type", "empty choices"]
    assert sum(model.faults[f"broken body: {how}"] for how in ("not JSON", "no choices")) == sum(map(kinds.get, broken))


def test_unusable_answers_are_asked_again_as_another_attempt_with_its_own_recording(run):
    rankings, _, _, log, path, server = run
    known, recordings = bodies(server.url, range(USERS)), Recordings(path)
    unusable = [seen for seen in log if seen.what in UNUSABLE]
    assert len(unusable) > 20
    for seen in unusable:
        key, _, _ = known[seen.body]
        assert recordings[key]["text"] in ("", "I'm sorry, but I cannot help with that.")
    attempts = {ranking.user: ranking.attempts for ranking in rankings}
    spoiled = Counter(known[seen.body][1] for seen in unusable)
    for user, times in spoiled.items():
        assert attempts[user] == min(times + 1, 3)
    assert all(attempts[user] == 1 for user in attempts.keys() - spoiled.keys())
    assert len(recordings) == sum(seen.answered for seen in log)


def test_going_on_afterwards_asks_only_for_those_who_have_no_answer(run):
    rankings, _, _, log, path, server = run
    without = {ranking.user for ranking in rankings if ranking.failure.startswith(("refused", "no answer"))}
    model = rank_users.model(server.url, retries=0)
    again = {ranking.user: ranking for ranking in rank_users.rank(range(USERS), model, Recordings(path))}
    known = bodies(server.url, range(USERS))
    assert {known[seen.body][1] for seen in server.log()[len(log) :]} == without
    assert {ranking.user: again[ranking.user].scores for ranking in rankings if ranking.user not in without} == {
        ranking.user: ranking.scores for ranking in rankings if ranking.user not in without
    }


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_is_one_error_and_what_was_kept_is_not_asked_again(tmp_path):
    users, recordings = 60, Recordings(tmp_path / "toy.sqlite")
    with fault_server.serve_apart(Schedule(seed=5, faults={})) as server:
        recordings.make_room()  # SQLite makes its files, which are larger than what is written into them at first
        with (
            file_limit(recordings.path.with_name("toy.sqlite-wal").stat().st_size + 100_000),
            pytest.raises(RecordingError, match=r"user \d+: .*could not be kept .*run again"),
        ):
            list(rank_users.rank(range(users), rank_users.model(server.url), recordings))
        before, kept, known = len(server.log()), recorded(recordings.path), bodies(server.url, range(users))
        assert 3 < len(kept) < before < len(kept) + 2 * CONCURRENCY < users
        rankings = list(rank_users.rank(range(users), rank_users.model(server.url), Recordings(recordings.path)))
        again = {known[seen.body][0] for seen in server.log()[before:]}
    assert {ranking.user for ranking in rankings if not ranking.failure} == set(range(users))
    assert not again & kept and len(again) == users - len(kept)


# --- kill -9 --------------------------------------------------------------------------------------------------------


def start(url: str, path: Path, users: int) -> subprocess.Popen:
    command = [sys.executable, rank_users.__file__, url, str(path), str(users)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def recorded(path: Path) -> set[str]:
    """The keys of the answers that are recorded."""
    return set(Recordings(path))


def wait_for(server: fault_server.Apart, requests: int, process: subprocess.Popen) -> None:
    """Until the server has seen so many requests."""
    while server.count() < requests and process.poll() is None:
        time.sleep(0.005)


def test_after_three_kills_at_random_moments_nothing_is_missing_and_nothing_recorded_is_asked_again(tmp_path):
    users, chance, path = 400, random.Random(20), tmp_path / "toy.sqlite"
    slow = ("hang past the timeout", "429, Retry-After in seconds", "429, Retry-After as a date")
    faults = {name: share for name, share in fault_server.FAULTS.items() if name not in slow}
    starts: list[tuple[float, set[str]]] = []
    with fault_server.serve_apart(Schedule(seed=4, faults=faults, delay=0.02)) as server:
        for _ in range(3):
            process = start(server.url, path, users)
            starts.append((time.time(), recorded(path)))
            wait_for(server, server.count() + chance.randrange(40, 150), process)
            time.sleep(chance.uniform(0, 0.05))
            assert process.poll() is None, "the run was over before it could be killed"
            process.kill()
            process.communicate()
            time.sleep(0.3)  # the server takes in what was sent before the kill
        process = start(server.url, path, users)
        starts.append((time.time(), recorded(path)))
        said, _ = process.communicate(timeout=120)
        log, known = server.log(), bodies(server.url, range(users))
    assert process.returncode == 0, said

    assert_complete(users, known, log, path)
    assert_recorded_is_not_asked(starts, known, log)
    times = fault_server.answers_by_body(log)
    lost = times.total() - len(recorded(path))
    done = ", ".join(str(len(keys)) for _, keys in starts[1:])
    print(f"\nkilled with {done} answers recorded; {len(log)} requests, {times.total()} answers given, ", end="")
    print(
        f"{lost} of them on their way at a kill and asked for again; {len(recorded(path))} recorded for {users} users"
    )
    assert set(times.values()) <= {1, 2, 3, 4}
    assert lost == sum(count - 1 for count in times.values())
    assert lost <= 3 * CONCURRENCY


def assert_complete(users: int, known: dict, log: list[Seen], path: Path) -> None:
    """Every user's first attempt is recorded, and one more for every unusable answer; nothing else is.

    The last answer to a request is the one that counts: those before it were on their way when the client was killed.
    """
    last = {seen.body: seen for seen in log if seen.answered}
    unusable = {known[seen.body][1:] for seen in last.values() if seen.what in UNUSABLE}
    wanted = {(user, 0) for user in range(users)} | {(user, n + 1) for user, n in unusable if n < 2}
    keys = {(user, attempt): key for key, user, attempt in known.values()}
    assert recorded(path) == {keys[one] for one in wanted}


def assert_recorded_is_not_asked(starts: list[tuple[float, set[str]]], known: dict, log: list[Seen]) -> None:
    """What stood in the recordings when a process started was not sent by it or any later one."""
    assert [len(keys) for _, keys in starts] == sorted({len(keys) for _, keys in starts}), "every process got on"
    for began, keys in starts:
        assert not [seen for seen in log if seen.at >= began and known[seen.body][0] in keys]
