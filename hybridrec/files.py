"""Files that several processes write: put in place only when they are whole, and locks for those who must take turns.

A process that is killed leaves no lock, and no half of a file under the file's name. What it had written aside stays
(``.NAME.*.partial*``): nobody reads it, git ignores it, and it is removed when NAME is written a day later or more.
"""

import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from hybridrec import progress
from hybridrec.errors import LockError

_DAY = 24 * 3600.0
# Where relative paths start, given ones and those in messages. None: where the process stands. Else no message tells
# the place of another folder.
base: Path | None = None
# Seconds. A shorter wait needs no line, and by then whoever holds the lock has written into it who it is.
_PATIENCE = 0.5


def shown(path: Path) -> str:
    """A path as messages show it: from ``base`` on, or from where the process stands."""
    path, start = Path(path), base or Path.cwd()
    if path.is_relative_to(start):
        return str(path.relative_to(start))
    return path.name if base else str(path)


@contextmanager
def replacing(path: Path, stale_after: float = _DAY) -> Iterator[Path]:
    """A path beside ``path`` to write to; what is there when the block ends without an error takes the place of
    ``path`` in one step. After an error ``path`` is as it was, and what was written is removed.

    Args:
        path: a file, or a folder that does not exist when the block ends. The path to write to has the same suffix.
            The folder it lies in is made where it is missing.
        stale_after: age in seconds from which what killed processes left of ``path`` is removed; 0 is right for those
            who hold a lock, since nobody else is writing then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path, stale_after)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove_stale(path: Path, age: float) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial*"):
        with suppress(FileNotFoundError):  # somebody else is removing it, too
            if time.time() - left.stat().st_mtime >= age:
                _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, which the system releases when its holder dies; who has to wait for it says so, once.

    Args:
        path: of the lock file. It stays when the lock is released.
        what: who may hold it, as in "waiting for another run of `class`".

    Raises:
        LockError: the file cannot be written, or its file system has no locks.
    """
    held = filelock.FileLock(path, on_acquired=_sign)  # which also rules out locks that outlive their holder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=_PATIENCE)
        except filelock.Timeout:
            progress.tell(f"waiting for another {what}{_holder(path)}")
            held.acquire()
    except OSError as error:
        raise LockError(
            f"{shown(path)} cannot be locked: {error.strerror or error}. It must lie in a folder that you "
            "may write to, on a file system with locks, which some network folders are not: move the checkout."
        ) from None
    try:
        yield
    finally:
        held.release()


def _sign(descriptor: int) -> None:
    """Write into the lock file who holds it."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M')}".encode())


def _holder(path: Path) -> str:
    """Who holds a lock, if that can be read: Windows lets nobody read a file that is locked."""
    try:
        who = path.read_text(encoding="utf-8")
    except OSError:
        who = ""
    return f" ({who})" if who else ""
