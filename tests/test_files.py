"""What several processes write: whole or not there, one after the other, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import until

from hybridrec import errors, files
from hybridrec.study import progress

WRITER = """
import sys, time
from pathlib import Path
from hybridrec import files
with files.replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
HOLDER = """
import sys, time
from pathlib import Path
from hybridrec import files, study  # the study listens to what the library reports
with files.lock(Path(sys.argv[1]), "holder of `toy`"):
    print("held", flush=True)
    if len(sys.argv) > 2:
        time.sleep(60)
"""


@pytest.fixture
def start() -> Iterator[Callable]:
    """Start a Python process from a text and its arguments, and wait for its first line; none is left behind."""
    begun: list[subprocess.Popen] = []

    def start(text: str, *arguments: object, wait: bool = True) -> subprocess.Popen:
        command = [sys.executable, "-c", text, *map(str, arguments)]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        if wait:
            assert begun[-1].stdout.readline(), begun[-1].stderr.read()
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# --- written aside --------------------------------------------------------------------------------------------------


def test_a_file_is_the_former_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")
    with files.replacing(path) as partial:
        partial.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        assert partial.suffix == path.suffix, "savefig and others choose the format by it"
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == {"table.csv"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_after_an_error_the_former_file_is_there_and_nothing_else(tmp_path, error, folder):
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), files.replacing(path) as partial:
        if folder:
            partial.mkdir()
        (partial / "inner" if folder else partial).write_text("half", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == {"table.csv"}


def test_two_writers_of_one_file_do_not_write_into_each_other(tmp_path):
    path = tmp_path / "table.csv"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write_text("one", encoding="utf-8")
        other.write_text("other", encoding="utf-8")
        assert one.read_text(encoding="utf-8") == "one"
    assert path.read_text(encoding="utf-8") == "one"  # the last to end


def test_a_folder_is_put_in_place_as_well(tmp_path):
    with files.replacing(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").write_text("1", encoding="utf-8")
    assert (tmp_path / "model" / "weights").read_text(encoding="utf-8") == "1"


def test_what_a_killed_writer_left_is_no_file_of_that_kind_and_goes_when_it_is_old(tmp_path, start):
    path = tmp_path / "[1].csv"
    path.write_text("old", encoding="utf-8")
    killed = start(WRITER, path)
    killed.kill()
    killed.wait()
    (left,) = names(tmp_path) - {path.name}
    assert path.read_text(encoding="utf-8") == "old"
    assert left.startswith(".") and ".partial" in left  # what .gitignore has
    with files.replacing(path) as partial:
        partial.write_text("new", encoding="utf-8")
    assert names(tmp_path) == {path.name, left}, "another process may still be writing it"
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / left, (two_days_ago, two_days_ago))
    with files.replacing(path) as partial:
        partial.write_text("newer", encoding="utf-8")
    assert names(tmp_path) == {path.name}


def test_git_ignores_what_is_written_aside(tmp_path):
    root = Path(files.__file__).parents[1]
    with files.replacing(tmp_path / "table.csv") as partial:
        partial.touch()
        asked = ["git", "check-ignore", f"results/ml-100k/{partial.name}"]
        assert subprocess.run(asked, cwd=root, capture_output=True).returncode == 0


# --- locks ----------------------------------------------------------------------------------------------------------


def test_who_waits_says_for_whom_once_and_goes_on_when_the_holder_is_killed(tmp_path, start):
    path = tmp_path / "deeper" / "run.lock"
    holder = start(HOLDER, path, "for long")
    waiting = start(HOLDER, path, wait=False)
    told = waiting.stderr.readline()
    assert "waiting for another holder of `toy`" in told
    assert f"pid {holder.pid}, since 20" in told
    assert waiting.poll() is None
    os.kill(holder.pid, signal.SIGKILL)
    out, more = waiting.communicate(timeout=30)
    assert (out, more, waiting.returncode) == ("held\n", "", 0)


def test_a_lock_that_is_free_is_had_without_a_word(tmp_path, capsys):
    for _ in range(2):
        with files.lock(tmp_path / "run.lock", "run"):
            pass
    assert capsys.readouterr() == ("", "")


def test_an_error_releases_the_lock(tmp_path, start):
    with pytest.raises(ValueError), files.lock(tmp_path / "run.lock", "run"):
        raise ValueError
    assert start(HOLDER, tmp_path / "run.lock").wait() == 0


def test_a_wait_within_a_run_is_told_by_the_run_and_not_in_the_notebook(tmp_path, start):
    holder = start(HOLDER, tmp_path / "run.lock", "for long")
    with progress.journal(tmp_path / "journal.jsonl"):
        waiting = start(HOLDER, tmp_path / "run.lock", wait=False)
        until(lambda: "waiting for another holder" in (tmp_path / "journal.jsonl").read_text(encoding="utf-8"))
    holder.kill()
    assert waiting.communicate(timeout=30) == ("held\n", "")


def test_a_lock_that_cannot_be_had_names_the_file_and_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(errors.LockError, match=r"run\.lock cannot be locked: .*move the checkout"),
        files.lock(tmp_path / "file" / "run.lock", "run"),
    ):
        pytest.fail("the lock was had")
