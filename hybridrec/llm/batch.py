"""Requests as a file, answers as a file: for the OpenAI Batch API and ``vllm run-batch``, which read the same lines.

A line's ``custom_id`` is the recording's key, so results find their place whatever their order, and what was answered
online is never put into a batch. A request for probabilities is several lines (one a candidate): each is called by the
hash of its own body, and the answer is recorded when all of them are there.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hybridrec.errors import BatchError, EndpointError, SettingError
from hybridrec.files import shown
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.models.replies import NoAnswerError, said_by
from hybridrec.llm.models.scoring import CHAT, Part, Read
from hybridrec.llm.recordings import Recordings, request_key
from hybridrec.llm.runner import Asked, Check, Redact, Response, misfit, recorded_answer

# The limits of the OpenAI Batch API are 50,000 requests and 200 MB a file.
_LINES, _BYTES = 50_000, 190_000_000
_REASONS = 10  # so many reasons of failures are shown, the most frequent first
_BOM = b"\xef\xbb\xbf"


@dataclass
class Imported:
    """What came out of result files.

    ``known`` counts answers that were recorded before, ``second`` other answers to a request that has one: the first
    stays. ``odd`` counts what was not as documented in lines whose answer was used all the same. ``partial`` counts
    requests for probabilities of which some lines came and others did not; they are among the ``missing``.
    """

    recorded: int = 0
    known: int = 0
    second: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    torn: int = 0
    missing: int = 0
    partial: int = 0

    def __str__(self) -> str:
        second = f" {self.second} second answers left out (the first stays)," if self.second else ""
        partial = f" ({self.partial} in part: give all its result files in one call)" if self.partial else ""
        odd = f"; used although odd: {_listed(self.odd)}" if self.odd else ""
        return (
            f"{self.recorded} answers recorded, {self.known} known already,{second} {self.failed.total()} failed "
            f"({_listed(self.failed) or '-'}); {self.foreign} lines of other runs, {self.torn} torn; "
            f"{self.missing} requests still without an answer{partial}{odd}"
        )


def _listed(counts: Counter[str]) -> str:
    shown = [f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    more = sum(sorted(counts.values(), reverse=True)[_REASONS:])
    return ", ".join(shown[:_REASONS]) + (f", {more} for {len(shown) - _REASONS} other reasons" if more else "")


def open_requests(
    asked: Iterable[Asked], model: Endpoint, recordings: Recordings, check: Check, attempts: int
) -> Iterator[Asked]:
    """The requests that still need an answer: the first attempt that is not recorded, if those before it failed.

    Requests that are the same (two shuffles may be) come once, since a batch takes each custom_id once.

    Args:
        asked, model, recordings, check: as in ``runner.ask``.
        attempts: how often a request is asked while its answer is a failure, by whoever reads the answers.
    """
    found: set[str] = set()
    for first in asked:
        for one in _attempts(first, attempts):
            key = model.key(one)
            if key not in recordings:
                if key not in found:
                    yield one
                found.add(key)
                break
            if check(one, recorded_answer(recordings, one, key)) in ("", "repaired"):
                break


def _attempts(first: Asked, attempts: int) -> list[Asked]:
    return [replace(first, attempt=number) for number in range(attempts)]


def write(asked: Iterable[Asked], model: Endpoint, folder: Path, name: str) -> list[Path]:
    """Write requests as batch files of allowed size, ``name-1.jsonl`` and so on; they quote histories, so keep them.

    Files of that name from an earlier call are replaced. Each line is written once: a service refuses a file in which a
    custom_id occurs twice.

    Raises:
        SettingError: a request for plain text; one for probabilities, and the endpoint's settings do not allow for it.
    """
    once = {custom_id: part for one in asked for custom_id, part in _lines_of(one, model)}
    if any(part.path != CHAT for part in once.values()):
        raise SettingError(
            "a batch holds chat requests, and no plain text (chat = false, the mode rating-lines): ask the server "
            "itself."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if re.fullmatch(rf"{re.escape(name)}-\d+\.jsonl", old.name):  # not name-1.results.jsonl, nor name-other-1.jsonl
            old.unlink()
    written: list[Path] = []
    lines = size = 0
    file = None
    for custom_id, part in once.items():
        line = _line(custom_id, part)
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


def _lines_of(one: Asked, model: Endpoint) -> list[tuple[str, Part]]:
    """The lines that a request comes to, each with its custom_id; of those that are the same, one is written."""
    parts = model.parts(one)
    if one.request["kind"] == "generate":
        return [(model.key(one), parts[0])]
    return [(request_key(part.body, one.attempt), part) for part in parts]


def _line(custom_id: str, part: Part) -> bytes:
    entry = {"custom_id": custom_id, "method": "POST", "url": f"/v1/{part.path}", "body": part.body}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def read(
    files: Iterable[Path], asked: Iterable[Asked], model: Endpoint, recordings: Recordings, redact: Redact
) -> Imported:
    """Record the answers in result files, partial ones and files of errors included.

    A line answers its request if its body is a completion and its status is no failure; whatever else it says is
    counted. Of two answers to one request the first stays.

    Args:
        files: what the service gave back, in any order; the same file may be read twice.
        asked: the requests of the run; further attempts of them are recognised.
        model: whose requests they are.
        recordings: where answers go.
        redact: returns what may be recorded of a response.

    Raises:
        BatchError: a damaged line other than a torn last one (names file and line). What stood before it is recorded.
    """
    asked = list(asked)
    waiting = _Waiting(asked, model)
    counts = Imported()
    for file in files:
        for custom_id, line in _results(file, counts):
            if custom_id not in waiting.lines:
                counts.foreign += 1
                continue
            for open_request in waiting.lines[custom_id]:
                _record(open_request, custom_id, line, model, recordings, redact, counts)
    keys = set(map(model.key, asked))
    counts.missing = len({key for key in keys if key not in recordings})
    counts.partial = len({one.key for one in waiting.requests if one.found and one.key not in recordings})
    return counts


@dataclass
class _Open:
    """A request that results may answer: what reads each of its lines (in their order), and what came of them."""

    asked: Asked
    key: str
    reads: list[tuple[str, Read]]
    found: dict[str, Response] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)


class _Waiting:
    """All requests of a run with their further attempts, and for each line those that it is a part of."""

    def __init__(self, asked: Iterable[Asked], model: Endpoint) -> None:
        once = {model.key(one): one for first in asked for one in _attempts(first, model.endpoint.attempts)}
        self.requests = [
            _Open(one, key, [(custom_id, part.read) for custom_id, part in _lines_of(one, model)])
            for key, one in once.items()
        ]
        self.lines: dict[str, list[_Open]] = {}
        for one in self.requests:
            for custom_id in dict(one.reads):
                self.lines.setdefault(custom_id, []).append(one)


def _record(
    one: _Open, custom_id: str, line: Mapping, model: Endpoint, recordings: Recordings, redact: Redact, counts: Imported
) -> None:
    """Record a request's answer once its last line is there, or count why there is none, or that it has one already."""
    found, odd = _outcome(line, dict(one.reads)[custom_id], model)
    if isinstance(found, str):
        counts.failed[found] += 1
        return
    one.odd.update(odd)
    one.found[custom_id] = found
    if len(one.found) < len(dict(one.reads)):
        return
    try:
        joined = model.joined(one.asked, [one.found[custom_id] for custom_id, _ in one.reads])
    except EndpointError as error:
        counts.failed[str(error)] += 1
        return
    finally:
        one.found.clear()
    if wrong := misfit(one.asked.request, joined):
        counts.failed[f"the answer does not fit the request: {wrong}"] += 1
        return
    redacted = redact(one.asked, joined)
    if one.key not in recordings:
        recordings.append(one.key, redacted)
        counts.recorded += 1
        counts.odd.update(one.odd)
    elif _said(recordings[one.key]) == _said(redacted):
        counts.known += 1
    else:
        counts.second += 1


def _said(response: Response) -> Any:
    """What makes two answers the same, whatever they cost."""
    return response.get("text", response.get("log_probs"))


def _outcome(line: Mapping, read: Read, model: Endpoint) -> tuple[Response | str, list[str]]:
    """A line's response, or the reason why there is none as the server told it; and what is not as documented in it.

    A status that is a number, be it as text, and not 2xx is a failure. Otherwise the body decides, an object or its
    JSON as text: if it is a completion, it is the answer, whatever ``error`` says beside it.
    """
    response = line.get("response")
    reply = response if isinstance(response, dict) else {}
    status, body = reply.get("status_code"), reply.get("body")
    number, error = _number(status), said_by(line.get("error"))
    said = model.censored(said_by([error, response, body]))
    if number is not None and not 200 <= number < 300:
        said = said or model.censored(json.dumps(body, ensure_ascii=False) if body else "")
        return f"status {number}: {said}" if said else f"status {number}", []
    if body is None and number is None:
        return said or "no response", []
    try:
        whole = body if isinstance(body, str) else json.dumps(body)
        answer = model.kept(read(whole, 0.0))
    except NoAnswerError as broken:
        return f"{broken.kind}: {said}" if said else broken.kind, []
    except EndpointError as useless:
        return str(useless), []
    odd = {
        f"with an error beside the answer ({model.censored(error)})": bool(error),
        "without a status": number is None,
        "with the status as text": isinstance(status, str) and number is not None,
        "with the body as text": isinstance(body, str),
    }
    return answer, [what for what, holds in odd.items() if holds]


def _number(status: Any) -> int | None:
    """A status as a number; None where it is none."""
    try:
        return None if isinstance(status, bool) else int(status)
    except (TypeError, ValueError, OverflowError):
        return None


def _results(path: Path, counts: Imported) -> Iterator[tuple[str, Mapping]]:
    """The lines of a result file, by custom_id. Empty lines, line ends of Windows and a byte-order mark are allowed."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BatchError(f"{shown(path)}: {error.strerror}.") from None
    with file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(_BOM)
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8"))
                custom_id = str(entry["custom_id"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    counts.torn += 1
                    continue
                undecodable = isinstance(error, UnicodeDecodeError)
                what = "bytes that are not UTF-8" if undecodable else "not JSON with custom_id"
                raise BatchError(
                    f"{shown(path)}, line {number}: no batch result ({what}). "
                    "Fetch the file again and leave it as it came."
                ) from None
            yield custom_id, entry
