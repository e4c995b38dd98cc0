"""Sends requests to a model and yields the answers as they come. Recorded answers are replayed, nothing is asked twice.

A model is anything that has the methods of ``Model``: ``HuggingFace`` on this machine, ``Endpoint`` behind one.
This module knows nothing else about them, and nothing of rankings.
"""

import functools
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hybridrec import progress
from hybridrec.errors import RecordingError, ResponseError
from hybridrec.llm.recordings import Recordings

Response = dict[str, Any]
USAGE = ["prompt_tokens", "cached_tokens", "completion_tokens", "seconds"]
ENDED_BY = {"stop": "model", "length": "our budget", "loop": "our stop rule"}  # by finish_reason


@dataclass(frozen=True)
class Failure:
    """No answer was to be had; ``reason`` says why, in words that may be printed."""

    reason: str


@dataclass(frozen=True)
class Asked:
    """A request for one user (None: its answer serves all users).

    ``request`` has ``kind`` ("generate", "score", "choose" or "rate"), ``instruction``, ``candidates`` and, to choose,
    ``choices``. ``attempt`` counts how often it was asked before; ``before`` holds the responses to these attempts, and
    ``paid`` those of them that this run asked for. ``about`` is the caller's own, and handed back unchanged.
    """

    user: Hashable | None
    request: dict[str, Any]
    attempt: int = 0
    before: tuple[Response, ...] = ()
    about: Any = None
    paid: tuple[Response, ...] = ()


Keep = Callable[[Asked, Response], Response | Failure]
Redact = Callable[[Asked, Response], Response]
Check = Callable[[Asked, Response], str]
Finished = list[tuple[Asked, Response | Failure]]


class Model(Protocol):
    """What answers requests. Nothing is loaded, and no key is read, before the first ``submit``.

    One behind an endpoint has its settings in ``endpoint``: what a server sends that does not fit its request is a
    Failure of this request, where a local model would have made the same mistake again.
    """

    name: str

    def key(self, asked: Asked) -> str:
        """The recording's key: a hash of exactly what is asked, attempt included."""

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Take a request on, if need be after others have finished; return what has finished meanwhile.

        ``keep`` is called with every answer the moment it is there, and returns what was kept, or the Failure that
        the request has finished with because its answer cannot be.
        """

    def wait(self) -> Finished:
        """At least one finished request, or an empty list if none is under way."""

    def usd(self, response: Response) -> float:
        """What an answer cost."""

    def close(self) -> None:
        """Let requests under way end and be kept, begin no others."""


@dataclass(frozen=True)
class Answer:
    """What a request came to: a response or a failure, the verdict on it, and whether it cost nothing this time.

    ``verdict`` is "" (used as it is), "repaired", or the reason of a failure. ``paid`` holds the responses of all
    attempts that were asked for in this run, ``usd`` is what they cost.
    """

    asked: Asked
    outcome: Response | Failure
    verdict: str
    replayed: bool
    usd: float
    paid: tuple[Response, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is nothing to use."""
        return self.verdict not in ("", "repaired")

    @property
    def used(self) -> dict[str, float]:
        """Tokens and seconds of all attempts together."""
        last = [] if isinstance(self.outcome, Failure) else [self.outcome]
        return {name: sum(response[name] for response in (*self.asked.before, *last)) for name in USAGE}


@dataclass
class Tally:
    """The counts that a progress bar shows, and a caller can read. Tokens and dollars are those of this run."""

    done: int = 0
    replayed: int = 0
    repaired: int = 0
    failed: int = 0
    asked_again: int = 0
    tokens: int = 0
    usd: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, answer: Answer) -> None:
        """Add one answer."""
        self.done += 1
        self.replayed += answer.replayed
        self.repaired += answer.verdict == "repaired"
        self.failed += answer.failed
        self.asked_again += answer.asked.attempt
        self.usd += answer.usd
        self.tokens += sum(int(one["prompt_tokens"] + one["completion_tokens"]) for one in answer.paid)
        if answer.failed:
            self.failures[answer.verdict] += 1

    def __str__(self) -> str:
        text = f"replayed {self.replayed}, repaired {self.repaired}, failed {self.failed}, {self.tokens:,} tokens"
        return f"{text}, ${self.usd:.4f}" if self.usd else text


def misfit(request: dict[str, Any], response: Response) -> str:
    """What of a response does not fit its request, in words that may be printed (no text is quoted); "" if it fits.

    Every response has a finite number of at least 0 for each name of USAGE. A request to "generate" has ``text`` and
    ``finish_reason``; one to "score" a finite number for each candidate in ``log_probs``, and a whole one of at least
    1 in ``lengths``; one to "choose" or "rate" the same, with a list of one number for each choice in ``log_probs``.
    """
    return next(_misfits(request, response), "")


def ended_by(response: Response) -> str:
    """Who ended a written answer: "model", "our budget" of tokens, "our stop rule", or "server" (for any other reason).

    Args:
        response: to a request to "generate".
    """
    return ENDED_BY.get(response["finish_reason"], "server")


def recorded_answer(recordings: Recordings, asked: Asked, key: str) -> Response:
    """The recorded answer to a request.

    Raises:
        RecordingError: it does not fit the request (names the file, the line, the user and a remedy).
    """
    response = recordings[key]
    if wrong := misfit(asked.request, response):
        raise recordings.damaged(key, f"the answer {key[:12]} for {_who(asked)} does not fit its request: {wrong}")
    return response


def _misfits(request: dict[str, Any], response: Response) -> Iterator[str]:
    for name in USAGE:
        if not (_is_finite(response.get(name)) and response[name] >= 0):
            yield _told(name, response.get(name))
    kind = request["kind"]
    if kind == "generate":
        text, reason = response.get("text"), response.get("finish_reason")
        if not isinstance(text, str):
            yield _told("text", text)
        if not (isinstance(reason, str) and reason):
            yield _told("finish_reason", reason or None)
    elif kind in ("score", "choose", "rate"):
        size = len(request["candidates"])
        fits = _is_finite if kind == "score" else functools.partial(_are_finite, size=len(request["choices"]))
        yield from _misfits_in("log_probs", response, size, fits)
        yield from _misfits_in("lengths", response, size, lambda length: type(length) is int and length >= 1)
    else:
        yield f"its kind {kind!r} is not generate, score, choose or rate"


def _misfits_in(name: str, response: Response, size: int, fits: Callable[[Any], bool]) -> Iterator[str]:
    """What is wrong with a list of one value a candidate."""
    values = response.get(name)
    if not isinstance(values, list):
        yield _told(name, values)
    elif len(values) != size:
        yield f"{len(values)} {name} for {size} candidates"
    else:
        yield from (_told(f"{name}[{at}]", value) for at, value in enumerate(values) if not fits(value))


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold; NaN compares as False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _are_finite(values: object, size: int) -> bool:
    return isinstance(values, list) and len(values) == size and all(map(_is_finite, values))


def _told(name: str, value: object) -> str:
    if value is None:
        return f"{name} is missing"
    numbers = value if isinstance(value, list) else [value]
    quotable = all(isinstance(one, int | float) for one in numbers)
    return f"{name} is {value!r:.60}" if quotable else f"{name} is a {type(value).__name__}"


def ask(
    asked: Iterable[Asked],
    model: Model,
    recordings: Recordings,
    *,
    what: str = "requests",
    total: int | None = None,
    check: Check = lambda asked, response: "",
    redact: Redact = lambda asked, response: response,
    attempts: int = 1,
    live: Collection[int] = (),
    tally: Tally | None = None,
) -> Iterator[Answer]:
    """The answer to every request, as they come: replayed where recorded, otherwise asked for and recorded at once.

    Args:
        asked: the requests, taken one by one as the model gets free (a generator keeps memory flat).
        model: the local model or an endpoint.
        recordings: where answers are kept; a killed run goes on where it was.
        what: the name of the progress bar, and ``total`` its length.
        check: "" for a usable response, "repaired", or the reason why it is a failure.
        redact: returns what may be recorded of a response; applied before it is recorded.
        attempts: how often a request is asked while its answer is a failure. Each attempt is its own recording.
        live: users whose requests are asked whatever is recorded; what was recorded stays. Nobody where the
            recordings are ``replay_only``.
        tally: counts; pass one to read it afterwards.

    Raises:
        RecordingError: a request without a recording where they are ``replay_only``; a recording that does not fit its
            request; answers that cannot be kept, which is seen before the first is asked for (names the user or the
            folder, and the remedy).
        ResponseError: a model on this machine gave an answer that does not fit its request. It is not recorded; the
            others that were computed together with it are.
        SpendingCapError, EndpointError: the run cannot go on. What was under way is yielded and recorded first.
    """
    tally, counted = Tally() if tally is None else tally, Counter(computed=0, replayed=0)
    with progress.bar(total=total, what=what) as bar:
        for together in _Run(model, recordings, check, redact, attempts, live).answers(iter(asked), what):
            for answer in together:
                tally.count(answer)
            replayed = sum(answer.replayed for answer in together)
            counted.update(replayed=replayed, computed=len(together) - replayed)
            bar.set_postfix_str(str(tally), refresh=False)
            progress.advance(bar, len(together), replayed)
            yield from together
    progress.count("answers", **counted)


class _Run:
    """One pass over requests.

    A request may come again, for another user, while it is under way. It is not sent again: this duplicate waits in
    ``duplicates`` under the request's key, and gets the same answer.
    """

    def __init__(
        self, model: Model, recordings: Recordings, check: Check, redact: Redact, attempts: int, live: Collection[int]
    ) -> None:
        self.model, self.recordings, self.check, self.attempts = model, recordings, check, attempts
        self.redact = redact
        self.live = () if recordings.replay_only else live
        self.again: deque[Asked] = deque()
        self.duplicates: dict[str, list[Asked]] = {}
        self.has_room = False
        self.unfit: ResponseError | None = None

    def answers(self, source: Iterator[Asked], what: str) -> Iterator[list[Answer]]:
        """Every request's answer, those together that came together (a local model answers many at once).

        Requests that are asked again go first, so that few are open at any time.
        """
        try:
            while True:
                one = self.again.popleft() if self.again else next(source, None)
                if one is not None and self.recordings.replay_only and self.model.key(one) not in self.recordings:
                    raise self._not_recorded(one, source, what)
                finished = self._take(one) if one is not None else self._sent(self.model.wait())
                if one is None and not finished:
                    return
                yield [answer for one in finished for answer in self._settle(*one)]
        finally:
            self.model.close()

    def _take(self, one: Asked) -> list[tuple[Asked, Response | Failure, bool]]:
        """Replay a request or send it; return what has finished, and whether it was replayed."""
        key = self.model.key(one)
        recorded = key in self.recordings
        if recorded and one.user not in self.live:
            return [(one, recorded_answer(self.recordings, one, key), True)]
        if key in self.duplicates:
            self.duplicates[key].append(one)
            return []
        if not recorded and not self.has_room:  # a replay writes nothing: it may lie on a read-only disk
            self.recordings.make_room()
            self.has_room = True
        self.duplicates[key] = []
        return self._sent(self.model.submit(one, self._keep))

    def _sent(self, finished: Finished) -> list[tuple[Asked, Response | Failure, bool]]:
        if self.unfit:  # only now: a local model answers a batch at once, and its other answers are recorded
            raise self.unfit
        return [(done, outcome, False) for done, outcome in finished]

    def _keep(self, one: Asked, response: Response) -> Response | Failure:
        """Record a response that fits its request."""
        if wrong := misfit(one.request, response):
            wrong = f"the answer does not fit the request: {wrong}"
            if not hasattr(self.model, "endpoint"):  # see Model
                self.unfit = self.unfit or ResponseError(
                    f"{self.model.name}, {_who(one)}: {wrong}. It was not recorded; the others were. See whether the "
                    "model's files are whole and its precision is high enough."
                )
            return Failure(wrong)
        redacted, key = self.redact(one, response), self.model.key(one)
        if key not in self.recordings:
            try:
                self.recordings.append(key, redacted)
            except RecordingError as error:
                raise RecordingError(f"{_who(one)}: {error}") from None
        return redacted

    def _settle(self, done: Asked, outcome: Response | Failure, replayed: bool) -> Iterator[Answer]:
        """The answers that a finished request and its duplicates have come to, unless they have to be asked again."""
        duplicates = [] if replayed else self.duplicates.pop(self.model.key(done), [])
        for one, free in [(done, replayed), *((duplicate, True) for duplicate in duplicates)]:
            verdict = outcome.reason if isinstance(outcome, Failure) else self.check(one, outcome)
            paid = one.paid if free or isinstance(outcome, Failure) else (*one.paid, outcome)
            if verdict in ("", "repaired") or isinstance(outcome, Failure) or one.attempt + 1 >= self.attempts:
                yield Answer(one, outcome, verdict, free and not paid, sum(map(self.model.usd, paid)), paid)
            else:
                self.again.append(replace(one, attempt=one.attempt + 1, before=(*one.before, outcome), paid=paid))

    def _not_recorded(self, one: Asked, rest: Iterator[Asked], what: str) -> RecordingError:
        more = sum(self.model.key(other) not in self.recordings for other in rest)
        return RecordingError(
            f"no recording of {what} for {_who(one)} (and {more} more) in {self.recordings.name}. "
            "It may only replay (HYBRIDREC_LLM=replay here): leave that out, and what is missing is asked for."
        )


def _who(one: Asked) -> str:
    return "everybody" if one.user is None else f"user {one.user}"
