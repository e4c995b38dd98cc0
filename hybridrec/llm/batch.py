"""Requests as a file, answers as a file: for the OpenAI Batch API and ``vllm run-batch``, which read the same lines.

A line's ``custom_id`` is the recording's key, so results find their place whatever their order, and what was answered
online is never put into a batch.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hybridrec import splits, tables
from hybridrec.experiment import Experiment
from hybridrec.llm import prompts, rankers, shuffles
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


def study_requests(settings: Experiment) -> dict[str, list[Asked]]:
    """Everything that notebook 04 asks of a model that writes, by mode: its users, then the shuffles.

    Raises:
        MissingTableError: notebook 01 did not run yet.
    """
    names = ("interactions", "candidates", "items", "sparsity")
    interactions, candidates, items, sparsity = (tables.read(settings.name, name) for name in names)
    known = interactions[interactions["split"] != "test"]
    candidates = splits.rankable(candidates)
    sparsity = sparsity[sparsity["user"].isin(candidates["user"])]
    shown = (known, candidates, items, settings.history_length, settings.rating_scale)
    inactive = rankers.build_tasks(sparsity.loc[sparsity["inactive"], "user"], *shown)
    active = rankers.build_tasks(sparsity.loc[~sparsity["inactive"], "user"], *shown)
    chosen = shuffles.sample(inactive, settings.shuffled_users, settings.seed)
    again = [shuffles.shuffled(task, n, settings.seed) for n in range(1, settings.shuffles) for task in chosen]
    return {
        mode: [rankers.request_of(task, mode, settings.noun) for task in [*tasks, *again]]
        for mode in settings.modes
        if mode in prompts.WRITTEN and (tasks := inactive + (active if mode in settings.everybody_modes else []))
    }


def open_requests(asked: Iterable[Asked], model: ChatModel, recordings: Recordings, check: Check) -> Iterator[Asked]:
    """The requests that still need an answer: the first attempt that is not recorded, if those before it failed.

    Requests that are the same (two shuffles may be) come once, since a batch takes each custom_id once.
    """
    found: set[str] = set()
    for first in asked:
        for one in _attempts(first, model):
            key = model.key(one)
            if key not in recordings:
                if key not in found:
                    yield one
                found.add(key)
                break
            if check(one, recordings[key]) in ("", "repaired"):
                break


def _attempts(first: Asked, model: ChatModel) -> list[Asked]:
    return [replace(first, attempt=number) for number in range(model.endpoint.attempts)]


def write(asked: Iterable[Asked], model: ChatModel, folder: Path, name: str) -> list[Path]:
    """Write requests as batch files of allowed size, ``name-1.jsonl`` and so on; they quote histories, so keep them.

    Files of that name from an earlier call are replaced. Each request is written once: a service refuses a file in
    which a custom_id occurs twice.

    Raises:
        ValueError: a request that an endpoint cannot answer.
    """
    once = {model.key(one): one for one in asked}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if re.fullmatch(rf"{re.escape(name)}-\d+\.jsonl", old.name):  # not name-1.results.jsonl, nor name-other-1.jsonl
            old.unlink()
    written: list[Path] = []
    lines = size = 0
    file = None
    for key, one in once.items():
        line = _line(key, model.body(one))
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


def _line(key: str, body: Mapping) -> bytes:
    entry = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def read(
    files: Iterable[Path], asked: Iterable[Asked], model: ChatModel, recordings: Recordings, seal: Keep
) -> Imported:
    """Record the answers in result files, partial ones and files of errors included.

    Args:
        files: what the service gave back, in any order; the same file may be read twice.
        asked: the requests of the run; further attempts of them are recognised.
        model: whose requests they are.
        recordings: where answers go.
        seal: what may be written of a response.

    Raises:
        BatchError: a damaged line other than a torn last one (names file and line). What stood before it is recorded.
    """
    asked = list(asked)
    waiting = {model.key(one): one for first in asked for one in _attempts(first, model)}
    counts = Imported()
    for file in files:
        for custom_id, line in _results(file, counts):
            if custom_id not in waiting:
                counts.foreign += 1
            elif custom_id in recordings:
                counts.known += 1
            else:
                _record(waiting[custom_id], custom_id, line, recordings, seal, counts)
    counts.missing = len({key for key in map(model.key, asked) if key not in recordings})
    return counts


def _record(one: Asked, key: str, line: Mapping, recordings: Recordings, seal: Keep, counts: Imported) -> None:
    reply, error = (line.get(part) if isinstance(line.get(part), dict) else {} for part in ("response", "error"))
    if line.get("error") or reply.get("status_code") != 200:
        code = error.get("code")
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
                custom_id = str(entry["custom_id"])
            except (ValueError, KeyError, TypeError, RecursionError):
                if not line.endswith(b"\n"):
                    counts.torn += 1
                    continue
                raise BatchError(
                    f"{within_root(path)}, line {number}: no batch result (JSON with custom_id). Fetch the file anew."
                ) from None
            yield custom_id, entry
