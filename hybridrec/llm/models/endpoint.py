"""A language model behind an OpenAI-compatible endpoint, through the ``openai`` client.

OpenAI itself, vLLM, llama.cpp, Ollama, ``transformers serve``: whatever answers ``POST /chat/completions``. Requests
run in threads, within the declared pace and spending cap. Two kinds of fault, two layers: what comes back without a
completion (no connection, timeout, 429, 5xx, a broken body) is tried again here; a completion that is no ranking is
asked for again by ``runner.ask``, as another attempt with its own recording.
"""

import email.utils
import json
import logging
import math
import os
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any

import httpx2
import openai
import tenacity
from tenacity.nap import sleep_using_event

from hybridrec.errors import EndpointError, SpendingCapError
from hybridrec.evaluation.prices import Price
from hybridrec.llm.models.limits import Budget, Pace
from hybridrec.llm.models.settings import Endpoint
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Failure, Finished, Keep, Response

# A server that wants us to wait longer than this is out of service; the run ends and can be gone on with later.
_LONGEST_WAIT = 600.0
# No server means a wait of months: it gave a moment in time as a number, or its clock is wrong.
_ABSURD_WAIT = 31 * 24 * 3600.0
_FIRST_WAIT, _LONGEST_BACKOFF = 0.5, 60.0
# So many users in a row without an answer mean that the endpoint is gone, not that these users are difficult.
_GIVE_UP_AFTER = 20
_TRANSIENT = {408, 409, 425, 429}
_FATAL = {401, 402, 403, 404}
# A shorter key is a placeholder ("EMPTY", "1") for a server that wants none, and may well be a word of an answer.
_SHORTEST_KEY = 8
# So many characters are shown of what a server said, and errors in JSON are looked through so deep.
_LONGEST_SAID, _DEEPEST = 300, 5
# The loggers of the client and its transport: at DEBUG they show a server's status lines and headers.
_LOGGERS = "openai._base_client httpx2 httpcore2.connection httpcore2.http11 httpcore2.proxy httpcore2.socks".split()


class NoAnswerError(Exception):
    """No completion came back this time; ``kind`` is its name in the counts, ``billed`` whether it may cost money."""

    def __init__(self, kind: str, retry_after: float | None = None, billed: bool = False) -> None:
        super().__init__(kind)
        self.kind, self.retry_after, self.billed = kind, retry_after, billed


class _RefusedError(Exception):
    """The endpoint refuses this one request, and would again."""


class _StoppedError(Exception):
    """The run is ending; this request was not sent."""


class ChatModel:
    """A model behind an endpoint; it answers "generate" requests.

    No key is read and no connection opened before the first request has to be sent.

    Args:
        name: the model's name, as the endpoint knows it.
        endpoint: where and how, from the experiment file.
        price: per token; needed for a spending cap, and for showing the money spent.

    Raises:
        ValueError: a spending cap without a price, or without a bound on the answer's tokens.
    """

    def __init__(self, name: str, endpoint: Endpoint, price: Price | None = None) -> None:
        self.name, self.endpoint, self.price = name, endpoint, price or Price()
        self.faults: Counter[str] = Counter()
        self._longest_answer = _answer_bound(endpoint)
        if endpoint.spending_cap_usd is not None and (price is None or not self._longest_answer):
            raise ValueError(
                "spending_cap_usd needs the model's price, and max_tokens among the endpoint's parameters."
            )
        self.budget = Budget(endpoint.spending_cap_usd)
        self._stopping = threading.Event()
        self._requests = Pace(endpoint.requests_per_minute, self._stopping)
        self._tokens = Pace(endpoint.tokens_per_minute, self._stopping)
        self._under_way: dict[Future[Response | Failure], Asked] = {}
        self._fatal: Exception | None = None
        self._failed_in_a_row = 0
        self._counting = threading.Lock()

    # --- the interface of runner.Model ------------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of the body that is sent, and the attempt. The address is no part of it: a batch gives the same."""
        return request_key(self.body(asked), asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Send a request as soon as a thread is free; return what has finished meanwhile.

        Raises:
            EndpointError, SpendingCapError: the run cannot go on (once everything under way has been returned).
        """
        if self._fatal:
            return self.wait()
        if not self._under_way:  # else a thread may just have found out that the run must end
            self._stopping.clear()
        self._under_way[self._threads.submit(self._answer, asked, keep)] = asked
        return self._finished(at_least=0 if len(self._under_way) < 2 * self.endpoint.concurrency else 1)

    def wait(self) -> Finished:
        """At least one finished request; none if none is under way."""
        while self._under_way:
            if finished := self._finished(at_least=1):
                return finished
        if self._fatal:
            fatal, self._fatal = self._fatal, None
            raise fatal
        return []

    def usd(self, response: Response) -> float:
        """What an answer cost by its tokens."""
        return self.price.usd({**response, "seconds": 0.0})

    def close(self) -> None:
        """Send nothing more; wait for what is under way, so that answers already paid for are kept."""
        self._stopping.set()
        wait(self._under_way)
        self._under_way.clear()
        self._fatal, self._failed_in_a_row = None, 0  # the next run begins without the troubles of this one

    def censored(self, text: str) -> str:
        """A server's words as they may be shown: one printable line of bounded length, without the key."""
        printable = "".join(c if c.isprintable() else " " for c in self._censor.clean(text))
        return " ".join(printable.split())[:_LONGEST_SAID]

    def kept(self, response: Response) -> Response:
        """A response as it may be recorded: without the key, should the server have repeated it."""
        return {name: self._censor.clean(v) if isinstance(v, str) else v for name, v in response.items()}

    # --- what is sent -----------------------------------------------------------------------------------------------

    def body(self, asked: Asked) -> dict[str, Any]:
        """The body of the request: model, message, and the configured parameters. Nothing else is ever sent.

        With ``seed`` among the parameters a further attempt draws from the next seed.

        Raises:
            ValueError: a request for probabilities, which an endpoint cannot give (names the kind).
        """
        request = asked.request
        if request["kind"] != "generate":
            raise ValueError(
                f"an endpoint answers in text, not with probabilities: it cannot do {request['kind']!r} requests. "
                "Leave the modes likelihood and pointwise out of the experiment, or run a local model."
            )
        body = {"model": self.name, "messages": [{"role": "user", "content": request["instruction"]}]}
        body |= self.endpoint.parameters
        if "seed" in body:
            body["seed"] += asked.attempt
        if self.endpoint.json_schema:
            body["response_format"] = {"type": "json_schema", "json_schema": _schema(request["candidates"])}
        return body

    @cached_property
    def _client(self) -> openai.OpenAI:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._censor)
        return openai.OpenAI(
            base_url=self.endpoint.base_url,
            api_key=self._api_key or "none",
            timeout=self.endpoint.timeout,
            max_retries=0,
        )

    @cached_property
    def _api_key(self) -> str:
        variable, key = self.endpoint.key_variable, self._given_key
        if variable and not key:
            raise EndpointError(f"the environment variable {variable} is not set; it must hold the endpoint's key.")
        if not (key.isascii() and key.isprintable()):  # the transport would quote it in its own error
            raise EndpointError(f"the environment variable {variable} holds characters that no key can have.")
        return key

    @property
    def _given_key(self) -> str:
        variable = self.endpoint.key_variable
        return os.environ.get(variable, "").strip() if variable else ""  # a key read from a file often ends its line

    @property
    def _censor(self) -> "_Censor":
        return _Censor(vars(self).get("_api_key", self._given_key))  # the key in use, or else the one that would be

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.endpoint.concurrency, thread_name_prefix="chat")

    # --- one request, in a thread -----------------------------------------------------------------------------------

    def _answer(self, asked: Asked, keep: Keep) -> Response | Failure:
        """The response, tried as often as declared; kept in the thread, so that a slow reader loses none."""
        body = self.body(asked)
        try:
            for trial in self._trials():
                with trial:
                    response = self._try(body)
        except NoAnswerError as error:
            return Failure(f"no answer after {self.endpoint.retries + 1} tries, the last: {error.kind}")
        except _RefusedError as error:
            return Failure(str(error))
        return keep(asked, response)

    def _trials(self) -> tenacity.Retrying:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.endpoint.retries + 1),
            retry=tenacity.retry_if_exception_type(NoAnswerError),
            wait=_Waits(),
            sleep=sleep_using_event(self._stopping),
            reraise=True,
        )

    def _try(self, body: dict[str, Any]) -> Response:
        """Send once, within the limits."""
        size = len(json.dumps(body, ensure_ascii=False).encode())
        _ = self._client  # built first: whoever has been given a time to send must not wait for it
        self._tokens.wait(size / 3 + self._longest_answer)  # servers count the longest possible answer, too
        self._requests.wait()
        # A token is a byte or longer, so this can only be too high.
        worst = self.usd({"prompt_tokens": size, "cached_tokens": 0, "completion_tokens": self._longest_answer})
        self.budget.reserve(worst)
        cost = worst
        try:
            if self._stopping.is_set():  # looked at last: setting money aside may have taken a while, too
                raise _StoppedError
            response = self._send(body)
            cost = self.usd(response) if response["prompt_tokens"] else worst
            return response
        except NoAnswerError as error:
            with self._counting:
                self.faults[error.kind] += 1
            if error.retry_after:  # that means all of us, not only the request it was said to
                self._requests.pause(error.retry_after)
            cost = worst if error.billed else 0.0
            raise
        except (_RefusedError, _StoppedError):
            cost = 0.0
            raise
        except EndpointError:
            self._stopping.set()  # here already: until the caller collects this, other threads would go on sending
            cost = 0.0
            raise
        finally:
            self.budget.settle(worst, cost)

    def _send(self, body: dict[str, Any]) -> Response:
        """One HTTP exchange; every way it can fail becomes one of our three errors.

        None of them quotes the key or drags the client's own error along, which quotes what the server said.
        """
        start = time.perf_counter()
        try:
            reply = self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except openai.APITimeoutError:
            raise NoAnswerError("timeout", billed=True) from None
        except openai.APIConnectionError as error:
            raise NoAnswerError(f"connection: {type(error.__cause__).__name__}", billed=True) from None
        except openai.APIStatusError as error:
            reply = error.response
        if not reply.is_success:
            raise self._status_error(reply)
        return self.kept(completion(reply.text, round(time.perf_counter() - start, 3)))

    def _status_error(self, reply: httpx2.Response) -> Exception:
        status, said = reply.status_code, self.censored(said_by(reply.text) or reply.text) or "nothing more"
        delay = retry_after(reply.headers)
        if status in _FATAL or "insufficient_quota" in said:
            return EndpointError(
                f"{self.endpoint.base_url} answered {status}: {said}. Check base_url, the model's name ({self.name}), "
                f"and the key in {self.endpoint.key_variable or '(no key_variable is set)'}."
            )
        if delay is not None and delay > _LONGEST_WAIT:
            return EndpointError(f"{self.endpoint.base_url} wants us to wait {delay:.0f} s ({said}): go on later.")
        if status in _TRANSIENT or status >= 500:
            return NoAnswerError(str(status), delay)
        return _RefusedError(f"refused with {status}: {said}")

    # --- collecting, in the caller's thread -------------------------------------------------------------------------

    def _finished(self, at_least: int) -> Finished:
        timeout = None if at_least else 0
        done = wait(self._under_way, timeout=timeout, return_when=FIRST_COMPLETED).done
        finished: Finished = []
        for future in done:
            asked = self._under_way.pop(future)
            try:
                outcome = future.result()
            except _StoppedError:
                continue
            except Exception as error:
                self._end(error)
                continue
            finished.append((asked, outcome))
            self._failed_in_a_row = self._failed_in_a_row + 1 if isinstance(outcome, Failure) else 0
            if self._failed_in_a_row >= _GIVE_UP_AFTER:
                self._end(EndpointError(f"{_GIVE_UP_AFTER} requests in a row failed; the last: {outcome.reason}."))
        return finished

    def _end(self, error: Exception) -> None:
        """Begin nothing more; the first error is raised when everything under way has been returned."""
        self._fatal = self._fatal or error
        if not isinstance(error, SpendingCapError):
            self._stopping.set()


@dataclass(frozen=True, repr=False)
class _Censor:
    """Takes the key out: a server may quote it, and then it must reach no recording, no message and (as filter) no log.

    Two of the same key are equal, so that a logger takes only one of them.
    """

    key: str

    def clean(self, text: str) -> str:
        if len(self.key) < _SHORTEST_KEY:
            return text
        in_json = json.dumps(self.key)[1:-1]  # JSON may be shown as text
        for spelling in (self.key, in_json, in_json.replace("/", "\\/")):
            text = text.replace(spelling, "[key]")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clean(record.getMessage()), None
        return True


class _Waits(tenacity.wait.wait_base):
    """As long as the server says, else longer and longer with chance in it, so that threads do not return together."""

    def __init__(self) -> None:
        self._backoff = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_BACKOFF)

    def __call__(self, state: tenacity.RetryCallState) -> float:
        return state.outcome.exception().retry_after or self._backoff(state)


# --- what comes back ------------------------------------------------------------------------------------------------


def completion(text: str, seconds: float = 0.0) -> Response:
    """The response in a completion's JSON body, online or from a batch.

    A server that refuses in its own field gives ``finish_reason`` "refusal". Where there is no text at
    all, the model wrote nothing: an empty answer. Usage that is not told counts as 0.

    Raises:
        NoAnswerError: the body holds no completion (says what is wrong with it).
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise NoAnswerError("broken body: not JSON", billed=True) from None
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        raise NoAnswerError("broken body: no choices", billed=True)
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    texts = [message.get("content"), message.get("refusal")] if isinstance(message, dict) else [0]
    if not all(isinstance(one, str | None) for one in texts):
        raise NoAnswerError("broken body: no message", billed=True)
    reason = "refusal" if texts[1] else choices[0].get("finish_reason")
    if not (isinstance(reason, str) and reason):
        raise NoAnswerError("broken body: no finish_reason", billed=True)
    usage = body.get("usage")
    return {
        "text": _writable(texts[0] or texts[1] or ""),
        "finish_reason": _writable(reason),
        "prompt_tokens": _count(usage, "prompt_tokens"),
        "cached_tokens": _count(usage, "prompt_tokens_details", "cached_tokens"),
        "completion_tokens": _count(usage, "completion_tokens"),
        "seconds": seconds,
    }


def _count(value: Any, *names: str) -> int:
    """A number within JSON objects; 0 where it is not told, or nonsense."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return int(value) if isinstance(value, int | float) and 0 <= value < math.inf else 0


def _writable(text: str) -> str:
    """JSON can hold half a character (a lone surrogate), a file cannot."""
    return text.encode(errors="replace").decode()


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that a server asks us to wait: retry-after-ms, or Retry-After as seconds or as a date; None if not.

    A date is compared with the server's own Date, as both are by its clock. Without one it is compared with ours, which
    may be wrong by hours: so such a wait is _LONGEST_WAIT at most, never the end of a run. A date that has passed
    is 0. A negative number, no number, and anything over a month is no wait that a server means: None.
    """
    for header, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(header, "")) / unit
        except ValueError:
            continue
        if 0 <= seconds <= _ABSURD_WAIT:  # never true of NaN
            return seconds
    until, now = _moment(headers.get("retry-after", "")), _moment(headers.get("date", ""))
    if until is None:
        return None
    if now is None:
        return min(max(0.0, until - time.time()), _LONGEST_WAIT)
    return max(0.0, until - now) if until - now <= _ABSURD_WAIT else None


def _moment(date: str) -> float | None:
    """An HTTP date as seconds since 1970; None if it is none. Without a zone (an old form of it) it is UTC."""
    try:
        moment = email.utils.parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def said_by(answer: Any, depth: int = 0) -> str:
    """What an error says, wherever it says it: its code or else its type, then its message; "" if it says nothing.

    Args:
        answer: a JSON value, or text that may be JSON: an object, an object in an object, a list of them, or the words.
        depth: how deep in the answer this stands; what is deeper than _DEEPEST is not looked at.
    """
    if depth > _DEEPEST or answer is None or isinstance(answer, bool):
        return ""
    if isinstance(answer, str):
        try:
            inner = json.loads(answer)
        except (ValueError, RecursionError):
            return answer
        return said_by(inner, depth + 1) if isinstance(inner, dict | list) else answer
    if isinstance(answer, list):
        parts = [said_by(one, depth + 1) for one in answer]
    elif isinstance(answer, dict):
        names = [answer.get(name) for name in ("code", "type")]
        named = next((name for name in names if isinstance(name, str) and name and not name.isdigit()), None)
        parts = [said_by(named or names[0], depth + 1)]  # a code that is a number says less than a type
        parts += [said_by(answer.get(name), depth + 1) for name in ("message", "msg", "error", "errors", "detail")]
    else:
        parts = [str(answer)]
    return " ".join(dict.fromkeys(part for part in parts if part))


def _schema(candidates: list[str]) -> dict[str, Any]:
    """An order of the candidates and nothing else. Servers need not keep to it, so answers are validated anyway."""
    items = {"type": "string", "enum": list(dict.fromkeys(candidates))}
    properties = {"ranking": {"type": "array", "items": items}}
    schema = {"type": "object", "properties": properties, "required": ["ranking"], "additionalProperties": False}
    return {"name": "ranking", "strict": True, "schema": schema}


def _answer_bound(endpoint: Endpoint) -> int:
    """The most tokens an answer may have, as configured; 0 where it is not bounded."""
    names = ("max_completion_tokens", "max_tokens")
    return next((int(endpoint.parameters[name]) for name in names if name in endpoint.parameters), 0)
