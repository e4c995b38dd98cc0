"""Every answer a model gives is written down once and never asked for again.

A recording is one line of JSON: ``{"key": ..., "response": ...}``. The key is the SHA-256 of the canonical request, so
the file says what was answered but quotes no history and no rating, and may be published. New answers are appended to
``NAME.jsonl``; the compact form ``NAME.jsonl.gz`` beside it, sorted and compressed, is what the repository holds.
"""

import fcntl
import gzip
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hybridrec.paths import within_root


class RecordingError(RuntimeError):
    """A recording that is damaged, or one that replay needs and does not have."""


def request_key(request: dict[str, Any], attempt: int = 0) -> str:
    """SHA-256 of the canonical request including the attempt, so that a second sample is a second recording."""
    canonical = json.dumps({**request, "attempt": attempt}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Recordings:
    """The recorded answers of one model: a compact file that is only read, and one that new answers are appended to.

    In memory are the compact form, unpacked, and of each answer its place. Threads and processes may append at the
    same time, and one of them may fold the file away while others go on.

    Args:
        path: the .jsonl file; it need not exist yet. A ``.jsonl.gz`` beside it is read first.

    Raises:
        RecordingError: a damaged line other than a torn last one (names file and line).

    Warns:
        UserWarning: the last line is torn (a run was killed while writing): that answer counts as not had.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Of each answer the text it stands in (None: the file of new answers), and where in it.
        self._places: dict[str, tuple[bytes | None, int]] = {}
        self.torn = int(self._load())
        if self.torn:
            warnings.warn(
                f"{within_root(path)}: the last line was cut off by a killed run; it is ignored.", stacklevel=2
            )

    @property
    def compact_path(self) -> Path:
        """Where the compact form lies."""
        return self.path.with_name(self.path.name + ".gz")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        record = self._read(*self._places[key])
        if record.get("key") != key:  # another process has folded the file away meanwhile
            self._load()
            record = self._read(*self._places[key])
        return record["response"]

    def append(self, key: str, response: dict[str, Any]) -> None:
        """Write one answer out of this process before it counts as had; safe against a kill and a second process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path) as file:
            _cut_torn_line(file)
            place = file.tell()
            file.write(_line(key, response))
            file.flush()
        self._places[key] = (None, place)

    def compact(self) -> None:
        """Fold everything into the compact form: sorted by key, so that the same answers give the same bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path) as file:
            _cut_torn_line(file)
            self._load()  # what other processes have appended meanwhile is folded in, too
            text = b"".join(_line(key, self[key]) for key in sorted(self))
            partial = self.compact_path.with_suffix(".partial")
            partial.write_bytes(gzip.compress(text, 9, mtime=0))
            partial.replace(self.compact_path)
            self.path.unlink()
            self._places.update({key: (text, place) for key, place in _places(text, self.compact_path)})

    def _load(self) -> bool:
        """Take over what is on disk; whether the last line is torn.

        The new answers are read first: were they folded away in between, they would be in neither.
        """
        fresh = self.path.read_bytes() if self.path.exists() else b""
        text = _unpacked(self.compact_path)
        self._places.update({key: (text, place) for key, place in _places(text, self.compact_path)})
        self._places.update({key: (None, place) for key, place in _places(fresh, self.path)})
        return fresh != b"" and not fresh.endswith(b"\n")

    def _read(self, text: bytes | None, place: int) -> dict[str, Any]:
        """The record at a place; empty if no record begins there (any more)."""
        if text is not None:
            return json.loads(text[place : text.index(b"\n", place)])
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return json.loads(file.readline())
        except (FileNotFoundError, ValueError):
            return {}


def _line(key: str, response: dict[str, Any]) -> bytes:
    record = {"key": key, "response": response}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.exists() else b""
    except (OSError, EOFError, zlib.error):
        raise RecordingError(f"{within_root(path)}: not a gzip file, or cut off. Restore it from git.") from None


def _places(text: bytes, path: Path) -> Iterable[tuple[str, int]]:
    """Each whole line's key and offset."""
    place = 0
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            key, response = record["key"], record["response"]
            if not (isinstance(key, str) and isinstance(response, dict)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise RecordingError(
                f"{within_root(path)}, line {number}: not a recording. Remove that line (the answer will be "
                "computed again) or restore the file from git."
            ) from None
        yield key, place
        place += len(line) + 1


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file of new answers, for nobody else in the meantime.

    Who waited while another process folded it away has a file that no path leads to any more: open it anew.
    """
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _cut_torn_line(file: BinaryIO) -> None:
    """A killed process leaves a line without its end: cut it off, or the next answer would be glued to it."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
