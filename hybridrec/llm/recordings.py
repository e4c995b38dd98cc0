"""Every answer a model gives is written down once and never asked for again.

A recording is one line of JSON: ``{"key": ..., "response": ...}``. The key is the SHA-256 of the canonical request, so
the file says what was answered but quotes no history and no rating, and may be published.
"""

import fcntl
import hashlib
import json
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
    """An append-only file of answers, read whole and appended to line by line.

    Args:
        path: the .jsonl file; it need not exist yet.

    Raises:
        RecordingError: a damaged line other than a torn last one (names file and line).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._answers: dict[str, dict[str, Any]] = dict(self._read())

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._answers[key]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without a recording, in the order given."""
        return [key for key in keys if key not in self._answers]

    def append(self, key: str, response: dict[str, Any]) -> None:
        """Write one answer out of this process before it counts as had; safe against a kill and a second process."""
        line = json.dumps({"key": key, "response": response}, ensure_ascii=False, separators=(",", ":"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._cut_torn_line(file)
            file.write(line.encode() + b"\n")
            file.flush()
        self._answers[key] = response

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        self.torn = int(lines[-1] != b"")
        for number, line in enumerate(lines[:-1], 1):
            try:
                record = json.loads(line)
                yield record["key"], record["response"]
            except (ValueError, KeyError, TypeError):
                raise RecordingError(
                    f"{within_root(self.path)}, line {number}: not a recording. Remove that line (the answer will be "
                    "computed again) or restore the file from git."
                ) from None

    def _cut_torn_line(self, file: Any) -> None:
        """A killed process leaves a line without its end: cut it off, or the next answer would be glued to it."""
        size = file.seek(0, 2)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, 2)
