"""Answers are written down once, survive a kill and a second process, and quote nobody's ratings."""

import errno
import fcntl
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import threading
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from file_limit import file_limit

from hybridrec.errors import RecordingError
from hybridrec.llm import recordings as module
from hybridrec.llm.recordings import Recordings, request_key

REQUEST = {"model": "toy", "kind": "score", "instruction": "I liked Alien (1979)", "candidates": ["Fargo", "Heat"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ml-100k" / "toy.jsonl"


@pytest.fixture
def compact(path: Path) -> Path:
    return path.with_name("toy.jsonl.gz")


def text_of(name: str, number: int) -> str:
    """Texts of very different lengths."""
    return f"{name}é" * (1 + number % 700)


def append_many(path: Path, name: str, n: int, compact_every: int = 10**9) -> int:
    """Run in a process of its own."""
    recordings = Recordings(path)
    for number in range(n):
        recordings.append(f"{name}-{number}", {"text": text_of(name, number)})
        if number % compact_every == compact_every - 1:
            recordings.compact()
    return n


def all_of(recordings: Recordings) -> dict[str, dict]:
    return {key: recordings[key] for key in recordings}


def mend(error: RecordingError, folder: Path) -> None:
    """What a message tells the reader to do: a command of the shell, or to remove a line of a file."""
    if command := re.search("`(.*)`", str(error)):
        subprocess.run(command[1], shell=True, cwd=folder, check=True)
        return
    name, line = re.match(r"(\S+), line (\d+): .*Remove that line", str(error)).groups()
    lines = (folder / name).read_bytes().split(b"\n")
    del lines[int(line) - 1]
    (folder / name).write_bytes(b"\n".join(lines))


# --- appending ------------------------------------------------------------------------------------------------------


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


def test_what_is_recorded_is_told_from_what_is_not(path):
    recordings = Recordings(path)
    recordings.append("b", {})
    assert "b" in recordings
    assert "a" not in recordings
    assert list(recordings) == ["b"]
    with pytest.raises(KeyError):
        recordings["a"]


def test_an_append_keeps_earlier_bytes(path):
    Recordings(path).append("a", {"text": "x"})
    before = path.read_bytes()
    Recordings(path).append("b", {"text": "y"})
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == 2


def test_of_two_answers_to_one_request_the_later_counts(path):
    recordings = Recordings(path)
    recordings.append("a", {"text": "first"})
    recordings.append("a", {"text": "second"})
    assert len(recordings) == len(Recordings(path)) == 1
    assert recordings["a"] == Recordings(path)["a"] == {"text": "second"}


def test_answers_are_not_kept_in_memory(path):
    recordings, text = Recordings(path), "x" * 1_000_000
    recordings.append("first", {"text": text})
    tracemalloc.start()
    for number in range(20):
        recordings.append(f"{number}", {"text": text})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 20_000_000
    assert held < 1_000_000
    assert recordings["7"] == {"text": text}


# --- killed and damaged ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_torn_last_line_is_warned_of_and_cut_before_the_next_answer(path, cut):
    recordings = Recordings(path)
    recordings.append("a", {"text": "whole"})
    recordings.append("b", {"text": "torn é"})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match=r"toy\.jsonl: the last line was cut off") as warned:
        reopened = Recordings(path)
    assert warned[0].filename == __file__
    assert reopened.torn == 1
    assert list(reopened) == ["a"]
    reopened.append("c", {"text": "after"})
    healed = Recordings(path)
    assert healed.torn == 0
    assert {key: healed[key]["text"] for key in healed} == {"a": "whole", "c": "after"}
    assert len(path.read_bytes().splitlines()) == 2


def test_a_file_of_nothing_but_a_torn_line_starts_anew(path):
    path.parent.mkdir()
    path.write_bytes(b'{"key": "a", "resp')
    with pytest.warns(UserWarning, match="cut off"):
        recordings = Recordings(path)
    recordings.append("b", {})
    assert path.read_bytes().startswith(b'{"key":"b"')


def test_a_torn_last_line_is_not_folded_in(path):
    Recordings(path).append("a", {"text": "whole"})
    path.write_bytes(path.read_bytes() + b'{"key":"b","resp')
    with pytest.warns(UserWarning, match="cut off"):
        recordings = Recordings(path)
    recordings.compact()
    assert all_of(Recordings(path)) == {"a": {"text": "whole"}}


@pytest.mark.parametrize("folded", [False, True], ids=["new answers", "compact form"])
@pytest.mark.parametrize(
    "damage",
    [
        b"{not json}", b'{"key": "b"}', b'{"key": "b", "resp', b"[]", b"", b"[" * 100_000,
        b"\xff\xfe", b'{"key":"b","response":{"text":"\xe9"}}', b'{"key":"b","response":{"text":"\xed\xa0\x80"}}',
        '{"key":"b","response":{}}'.encode("utf-16-le"),
    ],
    ids=lambda damage: damage[:40],
)  # fmt: skip
def test_a_damaged_middle_line_is_an_error_with_file_line_and_a_remedy_that_works(path, compact, damage, folded):
    recordings = Recordings(path)
    for key in "abc":
        recordings.append(key, {"text": key})
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    if folded:
        compact.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    name = compact.name if folded else path.name
    with pytest.raises(RecordingError, match=rf"{name}, line 2: .*[Rr]emove that line") as caught:
        Recordings(path)
    assert ("git" in str(caught.value)) is folded  # only the compact form is committed
    mend(caught.value, path.parent)
    assert all_of(Recordings(path)) == {"a": {"text": "a"}, "c": {"text": "c"}}


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_compact_form_whose_text_is_torn_is_an_error_and_loses_one_answer_by_the_remedy(path, compact, cut):
    append_many(path, "left", 3)
    compact.write_bytes(gzip.compress(path.read_bytes()[:-cut]))
    path.unlink()
    with pytest.raises(RecordingError, match=r"toy\.jsonl\.gz, line 3: .*cut off.*from git") as caught:
        Recordings(path)
    mend(caught.value, path.parent)
    assert list(Recordings(path)) == ["left-0", "left-1"]


def test_a_request_answered_twice_in_a_compact_form_is_an_error_that_names_both_lines(path, compact):
    append_many(path, "left", 4)
    text = path.read_bytes()
    compact.write_bytes(gzip.compress(text + text.splitlines(keepends=True)[1].replace("é".encode(), b"e")))
    with pytest.raises(RecordingError, match=r"toy\.jsonl\.gz, line 5: line 2 holds .*left-1.*from git") as caught:
        Recordings(path)
    mend(caught.value, path.parent)
    path.unlink()
    assert all_of(Recordings(path)) == {f"left-{n}": {"text": text_of("left", n)} for n in range(4)}


@pytest.mark.parametrize("fault", ["not gzip", "cut off", "empty header", "flipped", "no byte", "nothing in it"])
def test_a_damaged_compact_form_is_an_error_that_names_the_file(path, compact, fault):
    append_many(path, "left", 20)
    Recordings(path).compact()
    whole = compact.read_bytes()
    for place in range(20, len(whole), 5) if fault == "flipped" else [0]:
        flipped = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        damaged = {"not gzip": b"damaged", "cut off": whole[:-9], "empty header": whole[:2], "flipped": flipped}
        damaged |= {"no byte": b"", "nothing in it": gzip.compress(b"")}
        compact.write_bytes(damaged[fault])
        with pytest.raises(RecordingError, match=r"toy\.jsonl\.gz: not a gzip file, or cut off.*[Rr]estore"):
            Recordings(path)
    compact.unlink()  # the other remedy
    assert len(Recordings(path)) == 0


@pytest.mark.parametrize("form", ["path", "compact"])
def test_what_cannot_be_read_is_an_error_that_names_the_file(path, request, form):
    unreadable = request.getfixturevalue(form)
    unreadable.mkdir(parents=True)
    with pytest.raises(RecordingError, match=rf"{re.escape(unreadable.name)}: Is a directory"):
        Recordings(path)


def test_an_answer_that_is_taken_out_of_the_file_during_a_run_is_missed(path):
    recordings = Recordings(path)
    recordings.append("a", {"text": "whole"})
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match=r"toy\.jsonl: the answer a was taken out"):
        recordings["a"]


# --- room -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [0, 1, 30])
def test_an_answer_that_a_full_disk_refuses_is_named_and_those_before_it_are_intact(path, written):
    recordings = Recordings(path)
    recordings.append("first", {"text": "kept"})
    with (
        file_limit(path.stat().st_size + written),
        pytest.raises(RecordingError, match=r"toy\.jsonl: the answer second could not be kept \(File too large\)"),
    ):
        recordings.append("second", {"text": "lost" * 1000})
    assert len(path.read_bytes().splitlines()) == 1 + (written > 0)
    assert list(recordings) == ["first"]
    recordings.append("second", {"text": "kept, too"})
    expected = {"first": {"text": "kept"}, "second": {"text": "kept, too"}}
    assert all_of(recordings) == all_of(Recordings(path)) == expected
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_without_space_says_so(path):
    recordings = Recordings(path)
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    with pytest.raises(RecordingError, match="the answer a could not be kept .No space left on device"):
        recordings.append("a", {})
    assert len(recordings) == 0


def test_a_compact_form_that_finds_no_space_leaves_everything_as_it_was(path, compact):
    append_many(path, "left", 50)
    before, recordings = path.read_bytes(), Recordings(path)
    with (
        file_limit(100),
        pytest.raises(RecordingError, match=r"toy\.jsonl\.gz: could not be written.*No answer is lost"),
    ):
        recordings.compact()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before
    recordings.compact()
    assert len(Recordings(path)) == 50


def test_where_answers_can_be_written_there_is_room_and_nothing_is_written(path):
    Recordings(path).make_room()
    assert list(path.parent.iterdir()) == []
    append_many(path, "left", 2)
    before = path.read_bytes()
    Recordings(path).make_room()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_named(path):
    recordings = Recordings(path)
    path.parent.write_text("a file in the folder's place", encoding="utf-8")
    with pytest.raises(RecordingError, match=r"ml-100k: toy\.jsonl cannot be written there .*HYBRIDREC_RECORDINGS"):
        recordings.make_room()
    path.parent.unlink()
    recordings.make_room()


def test_a_read_only_file_system_is_no_room(path, monkeypatch):
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    recordings = Recordings(path)
    monkeypatch.setattr(Path, "open", read_only)  # a test that runs as root can write wherever it likes
    with pytest.raises(RecordingError, match=r"ml-100k: .*Read-only file system"):
        recordings.make_room()


def test_too_little_free_space_is_named_before_it_is_used_up(path, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_FREE", shutil.disk_usage(path.parents[1]).total + 1)
    with pytest.raises(RecordingError, match=r"ml-100k: [\d.]+ MB are free"):
        Recordings(path).make_room()
    monkeypatch.setattr(module, "_LEAST_FREE", 1)
    Recordings(path).make_room()


# --- the compact form -----------------------------------------------------------------------------------------------


def test_what_was_folded_in_reads_as_before(path, compact):
    append_many(path, "left", 50)
    recordings = Recordings(path)
    before = all_of(recordings)
    recordings.compact()
    assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == [compact.name]
    assert len(before) == 50
    assert all_of(recordings) == all_of(Recordings(path)) == before


def test_the_same_answers_give_the_same_bytes_whatever_their_order(tmp_path):
    answers = [(f"{number:03}", {"text": text_of("x", number), "seconds": 0.5}) for number in range(60)]
    found = set()
    for seed in range(4):
        recordings = Recordings(tmp_path / str(seed) / "toy.jsonl")
        for place, (key, response) in enumerate(random.Random(seed).sample(answers, len(answers))):
            recordings.append(key, response)
            if seed and place % 25 == 24:
                recordings.compact()
        recordings.compact()
        found.add(recordings.compact_path.read_bytes())
    assert len(found) == 1


def test_folding_nothing_in_leaves_no_file(path):
    Recordings(path).compact()
    assert list(path.parent.iterdir()) == []


def test_folding_in_twice_changes_no_byte(path, compact):
    append_many(path, "left", 5)
    Recordings(path).compact()
    before = compact.read_bytes()
    Recordings(path).compact()
    assert compact.read_bytes() == before


def test_new_answers_stand_beside_the_compact_form_and_count_more(path, compact):
    recordings = Recordings(path)
    recordings.append("a", {"text": "old"})
    recordings.append("b", {"text": "kept"})
    recordings.compact()
    before = compact.read_bytes()
    for opened in (recordings, Recordings(path)):
        opened.append("a", {"text": "new"})
        opened.append("c", {"text": "more"})
        assert all_of(opened) == {"a": {"text": "new"}, "b": {"text": "kept"}, "c": {"text": "more"}}
    assert compact.read_bytes() == before
    assert len(path.read_bytes().splitlines()) == 4
    again = Recordings(path)
    again.compact()
    assert all_of(again) == all_of(Recordings(path)) == all_of(opened)


def test_a_run_killed_while_folding_leaves_everything_readable(path, compact, monkeypatch):
    append_many(path, "left", 5)
    before = all_of(Recordings(path))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Recordings(path).compact()
    assert all_of(Recordings(path)) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Recordings(path).compact()
    assert all_of(Recordings(path)) == before
    assert compact.exists()


# --- keys -----------------------------------------------------------------------------------------------------------


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


# --- several at once ------------------------------------------------------------------------------------------------


def test_two_processes_appending_at_once_lose_and_mix_nothing(path):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(append_many, path, name, 200) for name in ("left", "right")]
        assert [job.result() for job in jobs] == [200, 200]
    recordings = Recordings(path)
    assert recordings.torn == 0
    assert len(path.read_bytes().splitlines()) == len(recordings) == 400
    for name in ("left", "right"):
        assert all(recordings[f"{name}-{n}"]["text"] == text_of(name, n) for n in range(200))


def test_threads_appending_at_once_lose_and_mix_nothing(path):
    recordings = Recordings(path)
    keys = [f"{name}-{number}" for number in range(60) for name in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: recordings.append(key, {"text": text_of(key, len(key))}), keys))
    for opened in (recordings, Recordings(path)):
        assert sorted(opened) == sorted(keys)
        assert all(opened[key]["text"] == text_of(key, len(key)) for key in keys)


def test_processes_that_append_lose_nothing_while_others_fold(path):
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        jobs = [pool.submit(append_many, path, *of) for of in (("left", 150), ("mid", 150, 7), ("right", 150, 11))]
        assert [job.result() for job in jobs] == [150, 150, 150]
    recordings = Recordings(path)
    assert len(recordings) == 450
    for name in ("left", "mid", "right"):
        assert all(recordings[f"{name}-{n}"]["text"] == text_of(name, n) for n in range(150))


def test_what_another_process_appended_is_folded_in_too(path):
    mine, other = Recordings(path), Recordings(path)
    mine.append("a", {"text": "mine"})
    other.append("b", {"text": "other"})
    mine.compact()
    assert all_of(Recordings(path)) == all_of(mine) == {"a": {"text": "mine"}, "b": {"text": "other"}}


@pytest.mark.parametrize("appended_since", [0, 1, 3])
def test_answers_are_found_after_another_process_folded_them_away(path, appended_since):
    mine, other = Recordings(path), Recordings(path)
    for key in "abc":
        mine.append(key, {"text": key * 10})
    other.compact()
    for number in range(appended_since):
        other.append(f"new {number}", {"text": "another answer stands in the same place now"})
    assert [mine[key]["text"] for key in "abc"] == ["a" * 10, "b" * 10, "c" * 10]


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


def test_an_append_that_waited_while_the_file_was_folded_away_is_not_lost(path):
    recordings = Recordings(path)
    recordings.append("a", {})
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=recordings.append, args=("b", {}))
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        path.unlink()
        fcntl.flock(held, fcntl.LOCK_UN)
    waiting.join(timeout=10)
    assert list(Recordings(path)) == ["b"]


# --- privacy --------------------------------------------------------------------------------------------------------


def test_the_file_holds_neither_history_nor_prompt(path):
    Recordings(path).append(request_key(REQUEST), {"log_probs": [-1.0, -2.0]})
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert set(json.loads(line)) == {"key", "response"}
    assert not any(word in line for word in ("Alien", "Fargo", "liked", "toy"))


# --- asked anew -------------------------------------------------------------------------------------------------------


def test_answers_of_a_live_run_win_and_those_that_it_did_not_ask_for_stay(tmp_path):
    kept, live = Recordings(tmp_path / "toy.jsonl"), Recordings(tmp_path / "toy.live.jsonl")
    for key, text in (("a", "old"), ("b", "old")):
        kept.append(key, {"text": text})
    kept.compact()
    kept.append("c", {"text": "old, not folded yet"})
    for key in ("b", "d"):
        live.append(key, {"text": "new"})
    kept.take_over(live)
    expected = {"a": "old", "b": "new", "c": "old, not folded yet", "d": "new"}
    for found in (kept, Recordings(tmp_path / "toy.jsonl")):
        assert {key: found[key]["text"] for key in found} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["toy.jsonl.gz"]


def test_a_live_run_replaces_nothing_when_it_cannot_be_written(tmp_path, monkeypatch):
    kept, live = Recordings(tmp_path / "toy.jsonl"), Recordings(tmp_path / "toy.live.jsonl")
    kept.append("a", {"text": "old"})
    live.append("a", {"text": "new"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RecordingError, match="No space left"):
        kept.take_over(live)
    monkeypatch.undo()
    assert Recordings(tmp_path / "toy.jsonl")["a"] == {"text": "old"}
    assert Recordings(tmp_path / "toy.live.jsonl")["a"] == {"text": "new"}
