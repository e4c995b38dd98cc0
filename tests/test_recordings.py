"""Answers are recorded once, survive a kill and a second process, and quote nobody's ratings."""

import errno
import gzip
import json
import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
from file_limit import file_limit

from hybridrec.errors import RecordingError
from hybridrec.llm import recordings as module
from hybridrec.llm.recordings import Recordings, request_key
from hybridrec.study import models as study_models
from hybridrec.study import paths

REQUEST = {"model": "toy", "kind": "score", "instruction": "I liked Alien (1979)", "candidates": ["Fargo", "Heat"]}
COMMITTED = sorted((paths.ROOT / "data" / "recordings").glob("*/*.jsonl.gz"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ml-100k" / "toy.sqlite"


@pytest.fixture
def compact(path: Path) -> Path:
    return path.with_name("toy.jsonl.gz")


@pytest.fixture
def journal(path: Path) -> Path:
    """Where earlier versions kept new answers."""
    path.parent.mkdir()
    return path.with_name("toy.jsonl")


def text_of(name: str, number: int) -> str:
    """Texts of very different lengths."""
    return f"{name}é" * (1 + number % 700)


def line(key: str, response: dict) -> bytes:
    return json.dumps({"key": key, "response": response}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def lines(n: int) -> bytes:
    return b"".join(line(f"left-{number}", {"text": text_of("left", number)}) for number in range(n))


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


def rows(path: Path) -> list[str]:
    """The keys in the database itself."""
    with closing(sqlite3.connect(path)) as database:
        return [key for (key,) in database.execute("SELECT key FROM answers ORDER BY key")]


def fix(error: RecordingError, folder: Path) -> None:
    """What a message tells the reader to do: a command of the shell, or to remove a line of a file."""
    if command := re.search("`(.*)`", str(error)):
        subprocess.run(command[1], shell=True, cwd=folder, check=True)
        return
    name, number = re.match(r"(\S+), line (\d+): .*Remove that line", str(error)).groups()
    kept = (folder / name).read_bytes().split(b"\n")
    del kept[int(number) - 1]
    (folder / name).write_bytes(b"\n".join(kept))


# --- appending ------------------------------------------------------------------------------------------------------


def test_answers_are_there_after_reloading(path):
    first = Recordings(path)
    first.append("a", {"text": "Misérables\nLes", "seconds": 0.5})
    first.append("b", {"log_probs": [[-1.5, -0.25]]})
    again = Recordings(path)
    assert len(again) == 2
    assert again["a"] == first["a"] == {"text": "Misérables\nLes", "seconds": 0.5}
    assert again["b"] == {"log_probs": [[-1.5, -0.25]]}


def test_opening_what_is_not_there_makes_no_file(path):
    recordings = Recordings(path)
    assert len(recordings) == 0 and "a" not in recordings
    assert not path.parent.exists()


def test_in_memory_nothing_is_written_but_what_is_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings = Recordings()
    recordings.make_room()
    recordings.append("a", {"text": "x"})
    assert all_of(recordings) == {"a": {"text": "x"}}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordingError, match="export"):
        recordings.compact()
    recordings.export("answers.jsonl.gz")
    assert all_of(Recordings("answers.sqlite")) == {"a": {"text": "x"}}


def test_what_is_recorded_is_told_from_what_is_not(path):
    recordings = Recordings(path)
    recordings.append("b", {})
    assert "b" in recordings
    assert "a" not in recordings
    assert list(recordings) == ["b"]
    with pytest.raises(KeyError):
        recordings["a"]


def test_of_two_answers_to_one_request_the_first_stays(path):
    mine, other = Recordings(path), Recordings(path)
    mine.append("a", {"text": "first"})
    other.append("a", {"text": "second"})
    assert len(mine) == len(Recordings(path)) == 1
    assert mine["a"] == other["a"] == Recordings(path)["a"] == {"text": "first"}
    mine.compact()
    other.append("a", {"text": "third"})
    assert mine["a"] == other["a"] == Recordings(path)["a"] == {"text": "first"}


def test_another_processes_answers_are_seen_at_once(path):
    mine, other = Recordings(path), Recordings(path)
    other.append("a", {"text": "other"})
    assert "a" in mine and mine["a"] == {"text": "other"}


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGE = [
    b"{not json}", b'{"key": "b"}', b'{"key": "b", "resp', b"[]", b"", b"[" * 100_000,
    b"\xff\xfe", b'{"key":"b","response":{"text":"\xe9"}}', b'{"key":"b","response":{"text":"\xed\xa0\x80"}}',
    '{"key":"b","response":{}}'.encode("utf-16-le"),
]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["journal", "compact form"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage[:40])
def test_a_damaged_line_is_an_error_with_file_line_and_a_remedy_that_works(path, journal, compact, damage, packed):
    text = line("a", {"text": "a"}) + damage + b"\n" + line("c", {"text": "c"})
    file = compact if packed else journal
    file.write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(RecordingError, match=rf"{file.name}, line 2: .*[Rr]emove that line") as caught:
        Recordings(path)
    assert ("git" in str(caught.value)) is packed  # only the compact form is committed
    fix(caught.value, path.parent)
    assert all_of(Recordings(path)) == {"a": {"text": "a"}, "c": {"text": "c"}}


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_compact_form_whose_text_is_torn_is_an_error_and_loses_one_answer_by_the_remedy(path, journal, compact, cut):
    compact.write_bytes(gzip.compress(lines(3)[:-cut]))
    with pytest.raises(RecordingError, match=r"toy\.jsonl\.gz, line 3: .*cut off.*from git") as caught:
        Recordings(path)
    fix(caught.value, path.parent)
    assert list(Recordings(path)) == ["left-0", "left-1"]


def test_a_request_answered_twice_in_a_compact_form_is_an_error_that_names_both_lines(path, journal, compact):
    text = lines(4)
    compact.write_bytes(gzip.compress(text + text.splitlines(keepends=True)[1].replace("é".encode(), b"e")))
    with pytest.raises(RecordingError, match=r"toy\.jsonl\.gz, line 5: line 2 holds .*left-1.*from git") as caught:
        Recordings(path)
    fix(caught.value, path.parent)
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


@pytest.mark.parametrize("file", ["toy.jsonl", "toy.jsonl.gz", "toy.sqlite"])
def test_what_cannot_be_read_is_an_error_that_names_the_file(path, file):
    path.with_name(file).mkdir(parents=True)
    with pytest.raises(RecordingError, match=rf"{re.escape(file)}: "):
        Recordings(path)


@pytest.mark.parametrize("damage", ["no database", "a page", "cut off"])
def test_a_damaged_database_is_an_error_and_by_the_remedy_its_answers_alone_are_lost(path, damage):
    recordings = Recordings(path)
    recordings.append("compact", {"text": "x"})
    recordings.compact()
    append_many(path, "left", 300)
    del recordings
    whole = path.read_bytes()
    assert len(whole) > 20 * 4096
    third = b"".join(whole[:8192] + b"\xff" * 4096 + whole[12288:] for _ in [0])
    path.write_bytes({"no database": b"damaged" * 1000, "a page": third, "cut off": whole[: 10 * 4096 + 7]}[damage])
    with pytest.raises(RecordingError, match=r"toy\.sqlite: damaged \(.*asked for again") as caught:
        Recordings(path)
    fix(caught.value, path.parent)
    recordings = Recordings(path)
    assert all_of(recordings) == {"compact": {"text": "x"}}
    recordings.append("new", {})
    assert len(Recordings(path)) == 2


def test_an_answer_that_is_no_json_is_an_error_and_by_the_remedy_it_alone_is_lost(path):
    append_many(path, "left", 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE answers SET response = '{\"text\": ' WHERE key = 'left-1'")
    with pytest.raises(RecordingError, match=r"toy\.sqlite: .*left-1.*asked for again") as caught:
        Recordings(path)["left-1"]
    fix(caught.value, path.parent)
    assert list(Recordings(path)) == ["left-0", "left-2"]


def test_a_database_of_a_newer_version_or_of_something_else_is_refused_and_left_alone(path):
    append_many(path, "left", 1)
    other = path.with_name("other.sqlite")
    with closing(sqlite3.connect(path)) as newer, closing(sqlite3.connect(other)) as foreign:
        newer.execute(f"PRAGMA user_version = {module.VERSION + 1}")
        foreign.execute("CREATE TABLE ratings (user, item)")
    for file in (path, other):
        before = file.read_bytes()
        with pytest.raises(RecordingError, match=rf"{file.name}: version .*Update hybridrec, or name another file"):
            Recordings(file)
        assert file.read_bytes() == before


# --- room -----------------------------------------------------------------------------------------------------------


def test_an_answer_that_a_full_disk_refuses_is_named_and_those_before_it_are_intact(path):
    recordings = Recordings(path)
    recordings.append("first", {"text": "kept"})
    full = path.with_name("toy.sqlite-wal").stat().st_size
    with (
        file_limit(full + 5000),
        pytest.raises(RecordingError, match=r"toy\.sqlite: the answer second could not be kept \(.*run again"),
    ):
        recordings.append("second", {"text": "lost" * 10_000})
    assert list(recordings) == list(Recordings(path)) == ["first"]
    recordings.append("second", {"text": "kept, too"})
    expected = {"first": {"text": "kept"}, "second": {"text": "kept, too"}}
    assert all_of(recordings) == all_of(Recordings(path)) == expected


def test_a_compact_form_that_finds_no_space_leaves_everything_as_it_was(path, compact):
    append_many(path, "left", 50)
    recordings = Recordings(path)
    before = all_of(recordings)
    with (
        file_limit(100),
        pytest.raises(RecordingError, match=r"toy\.jsonl\.gz: could not be written.*No answer is lost"),
    ):
        recordings.compact()
    assert not compact.exists()
    assert all_of(recordings) == all_of(Recordings(path)) == before
    recordings.compact()
    assert all_of(Recordings(path)) == before


def test_where_answers_can_be_written_there_is_room_and_no_answer_is_added(path):
    Recordings(path).make_room()
    append_many(path, "left", 2)
    Recordings(path).make_room()
    assert rows(path) == ["left-0", "left-1"]


def test_a_folder_that_cannot_be_written_to_is_named(path):
    recordings = Recordings(path)
    path.parent.write_text("a file in the folder's place", encoding="utf-8")
    with pytest.raises(RecordingError, match=r"toy\.sqlite: cannot be written \(.*Nothing was asked"):
        recordings.make_room()
    path.parent.unlink()
    recordings.make_room()


def test_too_little_free_space_is_named_before_it_is_used_up(path, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_FREE", shutil.disk_usage(path.parents[1]).total + 1)
    with pytest.raises(RecordingError, match=r"ml-100k: [\d.]+ MB are free"):
        Recordings(path).make_room()
    monkeypatch.setattr(module, "_LEAST_FREE", 1)
    Recordings(path).make_room()


@pytest.mark.parametrize("replay_only", [False, True])
def test_a_read_only_folder_is_read_without_writing_and_has_no_room(path, replay_only, monkeypatch):
    """Also for a test that runs as root, which may write wherever it likes."""
    append_many(path, "old", 3)
    Recordings(path).compact()
    append_many(path, "new", 3)
    before = {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.parent.iterdir()}
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(os, "access", lambda *_: False)
    try:
        recordings = Recordings(path, replay_only=replay_only)
        assert len(all_of(recordings)) == 6
        with pytest.raises(RecordingError, match="cannot be written"):
            recordings.make_room()
        with pytest.raises(RecordingError, match="could not be kept"):
            recordings.append("more", {})
        after = {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.parent.iterdir()}
        assert after == before
    finally:
        path.parent.chmod(stat.S_IRWXU)


def test_a_replay_reads_what_a_killed_run_left_in_the_write_ahead_log(path):
    code = f"""if True:
        import os, signal
        from hybridrec.llm.recordings import Recordings
        recordings = Recordings({str(path)!r})
        for number in range(20): recordings.append(f"left-{{number}}", {{"text": str(number)}})
        os.kill(os.getpid(), signal.SIGKILL)"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert path.with_name("toy.sqlite-wal").stat().st_size > 0
    assert len(all_of(Recordings(path, replay_only=True))) == 20
    assert len(all_of(Recordings(path))) == 20


# --- the compact form -----------------------------------------------------------------------------------------------


def test_what_was_compacted_reads_as_before_and_the_database_is_empty(path, compact):
    append_many(path, "left", 50)
    recordings = Recordings(path)
    before = all_of(recordings)
    recordings.compact()
    assert len(before) == 50
    assert all_of(recordings) == all_of(Recordings(path)) == before
    assert len(gzip.decompress(compact.read_bytes()).splitlines()) == 50
    assert rows(path) == []


def test_the_same_answers_give_the_same_bytes_whatever_their_order(tmp_path):
    answers = [(f"{number:03}", {"text": text_of("x", number), "seconds": 0.5}) for number in range(60)]
    found = set()
    for seed in range(4):
        recordings = Recordings(tmp_path / str(seed) / "toy.sqlite")
        for place, (key, response) in enumerate(random.Random(seed).sample(answers, len(answers))):
            recordings.append(key, response)
            if seed and place % 25 == 24:
                recordings.compact()
        recordings.compact()
        found.add(recordings.compact_path.read_bytes())
    (only,) = found
    assert gzip.decompress(only) == b"".join(line(*answer) for answer in answers)


def test_compacting_nothing_makes_no_file(path):
    Recordings(path).compact()
    assert not path.parent.exists()


def test_compacting_twice_changes_no_byte(path, compact):
    append_many(path, "left", 5)
    Recordings(path).compact()
    before = compact.read_bytes()
    Recordings(path).compact()
    assert compact.read_bytes() == before


def test_new_answers_are_read_together_with_the_compact_form_and_leave_it_alone(path, compact):
    append_many(path, "left", 3)
    recordings = Recordings(path)
    recordings.compact()
    before = compact.read_bytes()
    recordings.append("new", {"text": "more"})
    expected = {f"left-{n}": {"text": text_of("left", n)} for n in range(3)} | {"new": {"text": "more"}}
    assert all_of(recordings) == all_of(Recordings(path)) == expected
    assert compact.read_bytes() == before


@pytest.mark.parametrize("method", ["replace", "unlink"])
def test_a_run_killed_while_compacting_leaves_everything_readable(path, journal, monkeypatch, method):
    journal.write_bytes(line("old", {"text": "journal"}))
    append_many(path, "left", 5)
    before = all_of(Recordings(path))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os if method == "replace" else Path, method, killed)
        with pytest.raises(KeyboardInterrupt):
            Recordings(path).compact()
    assert len(before) == 6
    assert all_of(Recordings(path)) == before


@pytest.mark.slow
@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_committed_answer_is_read_and_exported_with_the_same_bytes(file, tmp_path):
    committed = gzip.decompress(file.read_bytes())
    expected = {record["key"]: record["response"] for record in map(json.loads, committed.splitlines())}
    recordings = Recordings(file.with_name(file.name.replace(".jsonl.gz", ".sqlite")), replay_only=True)
    assert expected.keys() <= set(recordings)  # and what was recorded here since
    assert all(key in recordings and recordings[key] == response for key, response in expected.items())

    copy = Recordings(tmp_path / "copy.sqlite")
    assert copy.import_(file) == len(expected) == len(copy)
    assert copy.import_(file) == 0
    copy.compact()
    assert copy.compact_path.read_bytes() == gzip.compress(committed, 9, mtime=0)
    assert gzip.decompress(copy.compact_path.read_bytes()) == committed


def test_there_are_committed_recordings():
    assert len(COMMITTED) >= 9


# --- the journal of earlier versions ----------------------------------------------------------------------------------


def test_a_journal_is_read_and_moved_into_the_compact_form_once(path, journal, compact):
    compact.write_bytes(gzip.compress(line("a", {"text": "compact"})))
    journal.write_bytes(line("b", {"text": "journal"}) + line("c", {"text": "journal"}))
    recordings = Recordings(path)
    recordings.append("d", {"text": "new"})
    expected = {"a": "compact", "b": "journal", "c": "journal", "d": "new"}
    assert {key: recordings[key]["text"] for key in recordings} == expected
    recordings.compact()
    assert not journal.exists()
    for opened in (recordings, Recordings(path)):
        assert {key: opened[key]["text"] for key in opened} == expected


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_torn_last_line_of_a_journal_is_warned_of_and_not_kept(path, journal, cut):
    journal.write_bytes((line("a", {"text": "whole"}) + line("b", {"text": "torn é"}))[:-cut])
    with pytest.warns(UserWarning, match=r"toy\.jsonl: the last line was cut off") as warned:
        recordings = Recordings(path)
    assert warned[0].filename == __file__
    assert list(recordings) == ["a"]
    recordings.append("c", {"text": "after"})
    recordings.compact()
    assert {key: one["text"] for key, one in all_of(Recordings(path)).items()} == {"a": "whole", "c": "after"}


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


def test_processes_that_begin_and_append_at_once_lose_and_mix_nothing(path):
    names = ["left", "mid", "right"]
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        assert list(pool.map(append_many, [path] * 3, names, [200] * 3)) == [200] * 3
    recordings = Recordings(path)
    assert len(recordings) == 600
    for name in names:
        assert all(recordings[f"{name}-{n}"]["text"] == text_of(name, n) for n in range(200))


def test_threads_appending_at_once_lose_and_mix_nothing(path):
    recordings = Recordings(path)
    keys = [f"{name}-{number}" for number in range(60) for name in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: recordings.append(key, {"text": text_of(key, len(key))}), keys))
    for opened in (recordings, Recordings(path)):
        assert sorted(opened) == sorted(keys)
        assert all(opened[key]["text"] == text_of(key, len(key)) for key in keys)


def test_processes_that_append_lose_nothing_while_others_compact(path):
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        jobs = [pool.submit(append_many, path, *of) for of in (("left", 150), ("mid", 150, 7), ("right", 150, 11))]
        assert [job.result() for job in jobs] == [150, 150, 150]
    recordings = Recordings(path)
    assert len(recordings) == 450
    for name in ("left", "mid", "right"):
        assert all(recordings[f"{name}-{n}"]["text"] == text_of(name, n) for n in range(150))


def test_what_another_process_appended_is_compacted_too(path):
    mine, other = Recordings(path), Recordings(path)
    mine.append("a", {"text": "mine"})
    other.append("b", {"text": "other"})
    mine.compact()
    assert all_of(Recordings(path)) == all_of(mine) == {"a": {"text": "mine"}, "b": {"text": "other"}}


@pytest.mark.parametrize("appended_since", [0, 3])
def test_answers_are_found_after_another_process_compacted_them(path, appended_since):
    mine, other = Recordings(path), Recordings(path)
    for key in "abcd":
        mine.append(key, {"text": key * 10})
    other.compact()
    for number in range(appended_since):
        other.append(f"new {number}", {"text": "another"})
    assert "d" in mine  # else it would be asked for again
    assert [mine[key]["text"] for key in "abc"] == ["a" * 10, "b" * 10, "c" * 10]


def test_an_append_waits_for_another_process_and_gives_up_with_an_error(path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    recordings = Recordings(path)
    recordings.append("a", {})
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordingError, match=r"the answer b could not be kept \(database is locked\)"):
            recordings.append("b", {})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(recordings.append, "b", {})
            time.sleep(0.05)
            other.execute("COMMIT")
            waiting.result()
    assert list(Recordings(path)) == ["a", "b"]


# --- privacy --------------------------------------------------------------------------------------------------------


def test_the_files_hold_neither_history_nor_prompt(path):
    recordings = Recordings(path)
    recordings.append(request_key(REQUEST), {"log_probs": [-1.0, -2.0]})
    del recordings
    written = path.read_bytes()
    assert b"-2.0" in written
    assert not any(word in written for word in (b"Alien", b"Fargo", b"liked", b"toy"))


# --- asked again ------------------------------------------------------------------------------------------------------


def test_newer_answers_win_and_those_to_other_requests_stay(tmp_path):
    kept, live = Recordings(tmp_path / "toy.sqlite"), Recordings(tmp_path / "toy.live.sqlite")
    for key, text in (("a", "old"), ("b", "old")):
        kept.append(key, {"text": text})
    kept.compact()
    kept.append("c", {"text": "old, not compacted yet"})
    live.append("b", {"text": "new"})
    live.compact()
    live.append("d", {"text": "new"})
    kept.compact(live)
    expected = {"a": "old", "b": "new", "c": "old, not compacted yet", "d": "new"}
    for found in (kept, Recordings(tmp_path / "toy.sqlite")):
        assert {key: found[key]["text"] for key in found} == expected
    assert len(live) == len(Recordings(live.path)) == 0


def test_newer_answers_stay_where_they_are_when_they_cannot_be_written(tmp_path, monkeypatch):
    kept, live = Recordings(tmp_path / "toy.sqlite"), Recordings(tmp_path / "toy.live.sqlite")
    kept.append("a", {"text": "old"})
    live.append("a", {"text": "new"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RecordingError, match="No space left"):
        kept.compact(live)
    monkeypatch.undo()
    assert Recordings(tmp_path / "toy.sqlite")["a"] == {"text": "old"}
    assert Recordings(tmp_path / "toy.live.sqlite")["a"] == {"text": "new"}


def test_what_is_removed_is_gone_and_nothing_else(tmp_path):
    for name in ("toy", "toy.live", "other"):
        append_many(tmp_path / f"{name}.sqlite", name, 3)
        Recordings(tmp_path / f"{name}.sqlite").compact()
    (tmp_path / "toy.jsonl").touch()
    module.remove(tmp_path / "toy.sqlite")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {f"{name}.{kind}" for name in ("toy.live", "other") for kind in ("sqlite", "jsonl.gz")}


# --- those of a study -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path)
    return tmp_path / "ml-100k"


def test_recordings_lie_by_dataset_and_model(folder):
    assert study_models.recordings_for("ml-100k", "toy").path == folder / "toy.sqlite"
    assert study_models.recordings_for("ml-100k", "org/toy").path == folder / "org--toy.sqlite"


def test_a_live_run_leaves_the_committed_recordings_alone_until_it_is_kept(folder, monkeypatch):
    study_models.recordings_for("ml-100k", "toy").append("a", {"text": "committed"})
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    live = study_models.recordings_for("ml-100k", "toy")
    assert len(live) == 0
    live.append("a", {"text": "live"})
    monkeypatch.setenv("HYBRIDREC_LLM", "auto")
    assert study_models.recordings_for("ml-100k", "toy")["a"] == {"text": "committed"}
    study_models.keep_live_recordings("ml-100k", "toy")
    assert study_models.recordings_for("ml-100k", "toy")["a"] == {"text": "committed"}
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    study_models.keep_live_recordings("ml-100k", "toy")
    monkeypatch.setenv("HYBRIDREC_LLM", "auto")
    assert study_models.recordings_for("ml-100k", "toy")["a"] == {"text": "live"}


def test_a_kept_live_run_wins_and_answers_that_it_did_not_ask_for_stay(folder, monkeypatch):
    committed = study_models.recordings_for("ml-100k", "toy")
    committed.append("a", {"text": "compact"})
    committed.append("of other users", {"text": "compact"})
    committed.compact()
    committed.append("newer", {"text": "appended"})
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    study_models.recordings_for("ml-100k", "toy").append("a", {"text": "live"})
    study_models.keep_live_recordings("ml-100k", "toy")
    assert rows(folder / "toy.sqlite") == rows(folder / "toy.live.sqlite") == []
    monkeypatch.setenv("HYBRIDREC_LLM", "replay")
    kept = study_models.recordings_for("ml-100k", "toy")
    assert {key: kept[key]["text"] for key in kept} == {"a": "live", "of other users": "compact", "newer": "appended"}


def test_a_live_run_that_was_compacted_already_is_kept_all_the_same(folder, monkeypatch):
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    live = study_models.recordings_for("ml-100k", "toy")
    live.append("a", {"text": "live"})
    live.compact()
    study_models.keep_live_recordings("ml-100k", "toy")
    assert all_of(Recordings(folder / "toy.sqlite")) == {"a": {"text": "live"}}
    assert not (folder / "toy.live.jsonl.gz").exists()


def test_without_a_live_run_there_is_nothing_to_keep(folder, monkeypatch):
    study_models.recordings_for("ml-100k", "toy").append("a", {"text": "committed"})
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    study_models.keep_live_recordings("ml-100k", "toy")
    assert rows(folder / "toy.sqlite") == ["a"] and not (folder / "toy.jsonl.gz").exists()


def test_a_live_run_replaces_committed_recordings_that_are_damaged(folder, monkeypatch):
    folder.mkdir()
    (folder / "toy.jsonl.gz").write_bytes(b"damaged")
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    study_models.recordings_for("ml-100k", "toy").append("a", {"text": "live"})
    with pytest.warns(UserWarning, match=r"toy\.jsonl\.gz.*the live run's answers take its place"):
        study_models.keep_live_recordings("ml-100k", "toy")
    monkeypatch.setenv("HYBRIDREC_LLM", "replay")
    assert study_models.recordings_for("ml-100k", "toy")["a"] == {"text": "live"}
