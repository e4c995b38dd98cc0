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
import shlex
import shutil
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hybridrec.errors import RecordingError
from hybridrec.files import shown

# Free bytes without which nothing is asked: tens of thousands of answers.
_LEAST_FREE = 32 * 2**20


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
        replay_only: nothing may be asked that has no recording here.

    Raises:
        RecordingError: a file that cannot be read; a damaged line other than a torn last one; in the compact form also
            a torn last line, one request answered twice, or nothing at all (names file and line).

    Warns:
        UserWarning: the last line is torn (a run was killed, or the disk full): that answer counts as not had.
    """

    def __init__(self, path: Path, replay_only: bool = False) -> None:
        self.path, self.replay_only = path, replay_only
        # Of each answer the text it stands in (None: the file of new answers), and where in it.
        self._places: dict[str, tuple[bytes | None, int]] = {}
        self.torn = int(self._load())
        if self.torn:
            warnings.warn(
                f"{shown(path)}: the last line was cut off (by a killed run or a full disk); it is ignored.",
                stacklevel=2,
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
        if record.get("key") != key:
            raise RecordingError(
                f"{shown(self.path)}: the answer {key[:12]} was taken out of it during this run. Run again."
            )
        return record["response"]

    def damaged(self, key: str, what: str) -> RecordingError:
        """The error to raise for a recorded answer that cannot be used: names its file and line, and the remedy."""
        text, place = self._places[key]
        path = self.path if text is None else self.compact_path
        before = (_content(path) or b"")[:place] if text is None else text[:place]
        return _damaged(path, before.count(b"\n") + 1, what)

    def make_room(self) -> None:
        """See that answers can be written, before the first of them is computed or paid for.

        Raises:
            RecordingError: the folder cannot be written to, or too little space is free (names folder and cause).
        """
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.path) as file:
                if not file.seek(0, os.SEEK_END):
                    self.path.unlink()  # made just now; who waits for it meanwhile makes it anew
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise RecordingError(
                f"{shown(folder)}: {self.path.name} cannot be written there ({error.strerror}), so nothing was "
                "asked. Make the folder writable, or record elsewhere."
            ) from None
        if free < _LEAST_FREE:
            raise RecordingError(
                f"{shown(folder)}: {free / 2**20:.1f} MB are free, fewer than the {_LEAST_FREE / 2**20:.0f} MB "
                "wanted for answers, so nothing was asked. Free some space and run again."
            )

    def append(self, key: str, response: dict[str, Any]) -> None:
        """Write one answer out of this process before it counts as had; safe against a kill and a second process.

        Raises:
            RecordingError: it could not be written, such as on a full disk. Those before it are intact, and what was
                written of it is cut off before the next.
        """
        line = _line(key, response)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path) as file:
                _cut_torn_line(file)
                place = file.tell()
                file.write(line)
                file.flush()
        except OSError as error:
            raise RecordingError(
                f"{shown(self.path)}: the answer {key[:12]} could not be kept ({error.strerror}). Those before "
                "it are. Mend that (free some space) and run again: only what was not kept is asked for."
            ) from None
        self._places[key] = (None, place)

    def take_over(self, newer: "Recordings") -> None:
        """Fold another's answers in, in the place of those to the same requests; then the other's files are removed.

        Raises:
            RecordingError: as in ``compact``.
        """
        self.compact(newer)
        for path in (newer.path, newer.compact_path):
            path.unlink(missing_ok=True)

    def compact(self, newer: "Recordings | None" = None) -> None:
        """Fold everything into the compact form: sorted by key, so that the same answers give the same bytes.

        Without an answer nothing is written.

        Args:
            newer: answers that are folded in with them, and win.

        Raises:
            RecordingError: what the constructor raises; or the file could not be written, and all is as it was.
        """
        partial = self.compact_path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path) as file:
                _cut_torn_line(file)
                self._load()  # what other processes have appended meanwhile is folded in, too
                if len(self) or newer:
                    self._fold(partial, newer or {})
                self.path.unlink()
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise RecordingError(
                f"{shown(self.compact_path)}: could not be written ({error.strerror}). No answer is lost. Mend "
                "that (free some space) and run again."
            ) from None

    def _fold(self, partial: Path, newer: "Recordings | dict[str, Any]") -> None:
        text = b"".join(_line(key, (newer if key in newer else self)[key]) for key in sorted({*self, *newer}))
        partial.write_bytes(gzip.compress(text, 9, mtime=0))
        partial.replace(self.compact_path)
        self._places.update({key: (text, place) for key, place in _places(text, self.compact_path)})

    def _load(self) -> bool:
        """Take over what is on disk; whether the last line is torn.

        The new answers are read first: were they folded away in between, they would be in neither.
        """
        fresh = _content(self.path) or b""
        text = _unpacked(self.compact_path)
        self._places.update({key: (text, place) for key, place in _once(text, self.compact_path).items()})
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


def _content(path: Path) -> bytes | None:
    """What a file holds; None if it is not there."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordingError(f"{shown(path)}: {error.strerror}. Make it readable, or restore it.") from None


def _unpacked(path: Path) -> bytes:
    """The text of a compact form, which is whole; empty if there is none."""
    packed = _content(path)
    if packed is None:
        return b""
    try:
        text = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):
        text = b""
    if not text:
        raise RecordingError(
            f"{shown(path)}: not a gzip file, or cut off, or empty. Restore it from git, or remove it (all its "
            "answers will be asked for again)."
        )
    if not text.endswith(b"\n"):
        raise _damaged(path, text.count(b"\n") + 1, "the last line is cut off")
    return text


def _places(text: bytes, path: Path) -> Iterable[tuple[str, int]]:
    """Each whole line's key and offset."""
    place = 0
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line.decode())  # the bytes of any other encoding are damage
            key, response = record["key"], record["response"]
            if not (isinstance(key, str) and isinstance(response, dict)):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _damaged(path, number, "not a recording") from None
        yield key, place
        place += len(line) + 1


def _once(text: bytes, path: Path) -> dict[str, int]:
    """Each line's key and offset in a compact form, where no key may stand twice: which answer counts is unknown."""
    found: dict[str, int] = {}
    for number, (key, place) in enumerate(_places(text, path), 1):
        if key in found:
            first = text.count(b"\n", 0, found[key]) + 1
            raise _damaged(path, number, f"line {first} holds an answer to the same request ({key[:12]})")
        found[key] = place
    return found


def _damaged(path: Path, line: int, what: str) -> RecordingError:
    name = shown(path)
    file, remedy = shlex.quote(name), "Remove that line"
    if path.suffix == ".gz":
        command = f"gzip -dc {file} | sed {line}d | gzip > mended.gz && mv mended.gz {file}"
        remedy = f"Restore the file from git, or remove that line (`{command}`)"
    return RecordingError(f"{name}, line {line}: {what}. {remedy}: the answer will be asked for again.")


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
