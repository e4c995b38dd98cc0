"""Answers are written down once, survive a kill and a second process, and quote nobody's ratings."""

import fcntl
import json
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from hybridrec.llm.recordings import RecordingError, Recordings, request_key

REQUEST = {"model": "toy", "kind": "score", "instruction": "I liked Alien (1979)", "candidates": ["Fargo", "Heat"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ml-100k" / "toy.jsonl"


def append_many(path: Path, name: str, n: int) -> int:
    """Run in a process of its own: many answers of very different lengths."""
    recordings = Recordings(path)
    for number in range(n):
        recordings.append(f"{name}-{number}", {"text": f"{name}é" * (1 + number % 700)})
    return n


def test_answers_are_there_after_reloading(path):
    first = Recordings(path)
    first.append("a", {"text": "Misérables\nLes", "seconds": 0.5})
    first.append("b", {"log_probs": [[-1.5, -0.25]]})
    again = Recordings(path)
    assert len(again) == 2
    assert again["a"] == first["a"] == {"text": "Misérables\nLes", "seconds": 0.5}
    assert again["b"] == {"log_probs": [[-1.5, -0.25]]}
    assert again.torn == 0


def test_a_new_file_is_empty_and_reading_does_not_create_it(path):
    assert len(Recordings(path)) == 0
    assert not path.exists()


def test_missing_keeps_the_order_asked_for(path):
    recordings = Recordings(path)
    recordings.append("b", {})
    assert recordings.missing(["c", "b", "a"]) == ["c", "a"]
    assert "b" in recordings
    assert "a" not in recordings


def test_an_append_keeps_earlier_bytes(path):
    Recordings(path).append("a", {"text": "x"})
    before = path.read_bytes()
    Recordings(path).append("b", {"text": "y"})
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_torn_last_line_is_tolerated_and_cut_before_the_next_answer(path, cut):
    recordings = Recordings(path)
    recordings.append("a", {"text": "whole"})
    recordings.append("b", {"text": "torn é"})
    path.write_bytes(path.read_bytes()[:-cut])
    reopened = Recordings(path)
    assert reopened.torn == 1
    assert "a" in reopened
    assert "b" not in reopened
    reopened.append("c", {"text": "after"})
    healed = Recordings(path)
    assert healed.torn == 0
    assert {key: healed[key]["text"] for key in ("a", "c")} == {"a": "whole", "c": "after"}
    assert len(path.read_bytes().splitlines()) == 2


def test_a_file_of_nothing_but_a_torn_line_starts_anew(path):
    path.parent.mkdir()
    path.write_bytes(b'{"key": "a", "resp')
    recordings = Recordings(path)
    recordings.append("b", {})
    assert path.read_bytes().startswith(b'{"key":"b"')


@pytest.mark.parametrize("damage", [b"{not json}", b'{"key": "b"}', b"[]", b"", b"\xff\xfe"])
def test_a_damaged_middle_line_is_an_error_with_file_line_and_remedy(path, damage):
    recordings = Recordings(path)
    for key in "abc":
        recordings.append(key, {})
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordingError, match=r"toy\.jsonl, line 2: .*Remove that line.*restore"):
        Recordings(path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"kind": "generate"},
        {"instruction": "I liked Alien (1979) "},
        {"candidates": ["Heat", "Fargo"]},
        {"choices": ["Yes", "No"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_key_changes_with_any_part_of_the_request(change):
    assert request_key(REQUEST | change) != request_key(REQUEST)


def test_key_changes_with_the_attempt_but_not_with_the_order_of_the_keys():
    assert request_key(REQUEST, attempt=1) != request_key(REQUEST)
    assert request_key(dict(reversed(REQUEST.items()))) == request_key(REQUEST)


def test_key_is_stable_across_releases():
    """Committed recordings would all be orphans if this value moved."""
    expected = "ab1c04b97b4716bdd36d32a62087b10226cf50a1f36c4eaa9f7fb898f6828628"
    assert request_key({"model": "toy", "title": "Misérables"}) == expected


def test_two_processes_appending_at_once_lose_and_mix_nothing(path):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(append_many, path, name, 200) for name in ("left", "right")]
        assert [job.result() for job in jobs] == [200, 200]
    recordings = Recordings(path)
    assert recordings.torn == 0
    assert len(path.read_bytes().splitlines()) == len(recordings) == 400
    for name in ("left", "right"):
        assert all(recordings[f"{name}-{n}"]["text"] == f"{name}é" * (1 + n % 700) for n in range(200))


def test_an_append_waits_while_another_process_holds_the_file(path):
    recordings = Recordings(path)
    recordings.append("a", {})
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=recordings.append, args=("b", {}))
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        assert len(Recordings(path)) == 1
        fcntl.flock(held, fcntl.LOCK_UN)
    waiting.join(timeout=10)
    assert len(Recordings(path)) == 2


def test_the_file_holds_neither_history_nor_prompt(path):
    Recordings(path).append(request_key(REQUEST), {"log_probs": [-1.0, -2.0]})
    (line,) = path.read_text().splitlines()
    assert set(json.loads(line)) == {"key", "response"}
    assert not any(word in line for word in ("Alien", "Fargo", "liked", "toy"))
