"""Requests as a file, answers as a file: for the OpenAI Batch API and ``vllm run-batch``, which read the same lines.

A line's ``custom_id`` is the recording's key, so results find their place whatever their order, and what was answered
online is never put into a batch.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hybridrec.llm.chat import ChatModel, NoAnswerError, completion
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Check, Keep
from hybridrec.paths import within_root

# The limits of the OpenAI Batch API are 50,000 requests and 200 MB a file.
_LINES, _BYTES = 50_000, 190_000_000


class BatchError(ValueError):
    """A batch file that cannot be used; the message names the file and the line."""


@dataclass
class Imported:
    """What came out of result files."""

    recorded: int = 0
    known: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    torn: int = 0
    missing: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items())) or "-"
        return (
            f"{self.recorded} answers recorded, {self.known} known already, {self.failed.total()} failed ({kinds}); "
            f"{self.foreign} lines of other runs, {self.torn} torn; {self.missing} requests still without an answer"
        )


def open_requests(asked: Iterable[Asked], model: ChatModel, recordings: Recordings, check: Check) -> Iterator[Asked]:
    """The requests that still need an answer: the first attempt that is not recorded, if those before it failed."""
    attempts = model.endpoint.attempts
    for first in asked:
        for one in (replace(first, attempt=number) for number in range(attempts)):
            key = model.key(one)
            if key not in recordings:
                yield one
                break
            if check(one, recordings[key]) in ("", "repaired"):
                break


def write(asked: Iterable[Asked], model: ChatModel, folder: Path, name: str) -> list[Path]:
    """Write requests as batch files of allowed size, ``name-1.jsonl`` and so on; they quote histories, so keep them.

    Files of that name from an earlier call are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-*.jsonl"):
        old.unlink()
    written: list[Path] = []
    lines = size = 0
    file = None
    for one in asked:
        line = _line(one, model)
        if file is None or lines >= _LINES or size + len(line) > _BYTES:
            if file:
                file.close()
            written.append(folder / f"{name}-{len(written) + 1}.jsonl")
            file, lines, size = written[-1].open("wb"), 0, 0
        file.write(line)
        lines, size = lines + 1, size + len(line)
    if file:
        file.close()
    return written


def _line(one: Asked, model: ChatModel) -> bytes:
    entry = {"custom_id": model.key(one), "method": "POST", "url": "/v1/chat/completions", "body": model.body(one)}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def read(
    files: Iterable[Path], asked: Iterable[Asked], model: ChatModel, recordings: Recordings, seal: Keep
) -> Imported:
    """Record the answers in result files, partial ones and files of errors included.

    Args:
        files: what the service gave back, in any order; the same file may be read twice.
        asked: the requests of the run, as given to ``write`` (all attempts that it may have written).
        model: whose requests they are.
        recordings: where answers go.
        seal: what may be written of a response.

    Raises:
        BatchError: a damaged line other than a torn last one (names file and line). What stood before it is recorded.
    """
    waiting = {model.key(one): one for one in asked}
    counts = Imported()
    for file in files:
        for custom_id, line in _results(file, counts):
            if custom_id not in waiting:
                counts.foreign += 1
            elif custom_id in recordings:
                counts.known += 1
            else:
                _record(waiting[custom_id], custom_id, line, recordings, seal, counts)
    counts.missing = sum(key not in recordings for key in waiting)
    return counts


def _record(one: Asked, key: str, line: Mapping, recordings: Recordings, seal: Keep, counts: Imported) -> None:
    reply = line.get("response") or {}
    if line.get("error") or reply.get("status_code") != 200:
        error = line.get("error") or {}
        code = error.get("code") if isinstance(error, dict) else None
        counts.failed[str(code or f"status {reply.get('status_code')}")] += 1
        return
    try:
        recordings.append(key, seal(one, completion(json.dumps(reply.get("body")))))
        counts.recorded += 1
    except NoAnswerError as error:
        counts.failed[error.kind] += 1


def _results(path: Path, counts: Imported) -> Iterator[tuple[str, Mapping]]:
    """The lines of a result file, by custom_id."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BatchError(f"{within_root(path)}: {error.strerror}.") from None
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                yield entry["custom_id"], entry
            except (ValueError, KeyError, TypeError):
                if not line.endswith(b"\n"):
                    counts.torn += 1
                    continue
                raise BatchError(
                    f"{within_root(path)}, line {number}: no batch result (JSON with custom_id). Fetch the file anew."
                ) from None
