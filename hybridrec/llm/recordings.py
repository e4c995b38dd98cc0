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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hybridrec.paths import within_root


class RecordingError(RuntimeError):
    """A recording that is damaged, or one that replay needs and does not have."""


def request_key(request: dict[str, Any], attempt: int = 0) -> str:
    """SHA-256 of the canonical request including the attempt, so that a second sample is a second recording."""
    canonical = json.dumps({**request, "attempt": attempt}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Recordings:
    """The recorded answers of one model: a compact file that is only read, and one that new answers are appended to.

    Only the places of the answers are kept in memory. Threads and processes may append at the same time.

    Args:
        path: the .jsonl file; it need not exist yet. A ``.jsonl.gz`` beside it is read first.

    Raises:
        RecordingError: a damaged line other than a torn last one (names file and line).

    Warns:
        UserWarning: the last line is torn (a run was killed while writing): that answer counts as not had.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._compact = _unpacked(self.compact_path)
        self._places = {key: (True, place) for key, place in _places(self._compact, self.compact_path)}
        fresh = path.read_bytes() if path.exists() else b""
        self._places |= {key: (False, place) for key, place in _places(fresh, path)}
        self.torn = int(not fresh.endswith(b"\n") and fresh != b"")
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
        compact, place = self._places[key]
        if compact:
            line = self._compact[place : self._compact.index(b"\n", place)]
        else:
            with self.path.open("rb") as file:
                file.seek(place)
                line = file.readline()
        return json.loads(line)["response"]

    def append(self, key: str, response: dict[str, Any]) -> None:
        """Write one answer out of this process before it counts as had; safe against a kill and a second process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _cut_torn_line(file)
            place = file.tell()
            file.write(_line(key, response))
            file.flush()
        self._places[key] = (False, place)

    def compact(self) -> None:
        """Fold everything into the compact form: sorted by key, so that the same answers give the same bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = b"".join(_line(key, self[key]) for key in sorted(self))
        partial = self.compact_path.with_suffix(".partial")
        partial.write_bytes(gzip.compress(text, 9, mtime=0))
        partial.replace(self.compact_path)
        self.path.unlink(missing_ok=True)
        self._compact = text
        self._places = {key: (True, place) for key, place in _places(text, self.compact_path)}


def _line(key: str, response: dict[str, Any]) -> bytes:
    record = {"key": key, "response": response}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.exists() else b""
    except (OSError, EOFError):
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


def _cut_torn_line(file: Any) -> None:
    """A killed process leaves a line without its end: cut it off, or the next answer would be glued to it."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
