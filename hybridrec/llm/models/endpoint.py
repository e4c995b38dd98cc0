"""A language model behind an OpenAI-compatible endpoint, through the ``openai`` client.

OpenAI itself, vLLM, llama.cpp, Ollama, ``transformers serve``: whatever answers ``POST /chat/completions``. Requests
are tasks of one event loop, which runs in a thread of its own, within the declared pace and spending cap. Two kinds of
fault, two layers: what comes back without a completion (no connection, timeout, 429, 5xx, a broken body) is tried again
here; a completion that is no ranking is asked for again by ``runner.ask``, as another attempt with its own recording.
"""

import asyncio
import concurrent.futures
import functools
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx2
import openai
import pydantic
import tenacity

from hybridrec.errors import EndpointError, SettingError, SpendingCapError
from hybridrec.evaluation.prices import Price, price_of
from hybridrec.llm.models.limits import Budget, Pace
from hybridrec.llm.models.replies import LONGEST_WAIT, NoAnswerError, completion, retry_after, said_by
from hybridrec.llm.models.settings import EndpointSettings
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Failure, Finished, Keep, Response
from hybridrec.settings import checked

_FIRST_WAIT, _LONGEST_BACKOFF = 0.5, 60.0
# So many users in a row without an answer mean that the endpoint is gone, not that these users are difficult.
_GIVE_UP_AFTER = 20
_TRANSIENT = {408, 409, 425, 429}
_FATAL = {401, 402, 403, 404}
# A shorter key is a placeholder ("EMPTY", "1") for a server that wants none, and may well be a word of an answer.
_SHORTEST_KEY = 8
_LONGEST_SAID = 300  # characters that are shown of what a server said
# The loggers of the client and its transport: at DEBUG they show a server's status lines and headers.
_LOGGERS = "openai._base_client httpx2 httpcore2.connection httpcore2.http11 httpcore2.proxy httpcore2.socks".split()


class _RefusedError(Exception):
    """The endpoint refuses this one request, and would again."""


@functools.cache
def _background() -> asyncio.AbstractEventLoop:
    """The event loop in which all endpoints' requests run, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
    return loop


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; it answers "generate" requests.

    No key is read and no connection opened before the first request has to be sent.

    Args:
        model: the model's name, as the endpoint knows it.
        base_url: the endpoint's address, such as https://api.openai.com/v1.
        key_variable: the name of the environment variable that holds the key; "" if the server wants none.
        key: the key itself, in place of ``key_variable``.
        price: US dollars per million tokens, such as {"prompt": 0.15, "cached": 0.075, "completion": 0.6}; needed for a
            spending cap, a budget in dollars, and for showing the money spent.
        settings: everything else that ``EndpointSettings`` has: parameters, requests_per_minute, concurrency, ...

    Raises:
        SettingError: a setting that does not exist or is out of its range; a spending cap without a price, or without a
            bound on the answer's tokens.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        key_variable: str = "",
        key: str | pydantic.SecretStr | None = None,
        price: Price | Mapping[str, float] | None = None,
        **settings: Any,
    ) -> None:
        key = pydantic.SecretStr(key) if isinstance(key, str) else key  # at once: tracebacks may show variables
        given = {"base_url": base_url, "key_variable": key_variable, **settings}
        self.name, self.endpoint = model, checked(EndpointSettings, given, "endpoint")
        self.price = price if isinstance(price, Price) else price_of(price) if price else Price()
        self.faults: Counter[str] = Counter()
        self._given = key
        self._key_in = f"the environment variable {key_variable}" if key_variable else "key (or key_variable)"
        bounds = [self.endpoint.parameters.get(name) for name in ("max_completion_tokens", "max_tokens")]
        self._longest_answer = bounds[0] or bounds[1] or 0
        if self.endpoint.spending_cap_usd is not None and (price is None or not self._longest_answer):
            raise SettingError(
                "spending_cap_usd needs the model's price, and max_tokens among the endpoint's parameters."
            )
        self.budget = Budget(self.endpoint.spending_cap_usd)
        self._requests, self._tokens = Pace(self.endpoint.requests_per_minute), Pace(self.endpoint.tokens_per_minute)
        self._room = asyncio.Semaphore(self.endpoint.concurrency)
        self._under_way: dict[concurrent.futures.Future[Response | Failure | None], Asked] = {}
        # Of the run, and changed by the event loop's thread alone: tasks that wait for something else than an answer.
        self._waiting: set[asyncio.Task[Any]] = set()
        self._stopped, self._failed_in_a_row = False, 0
        self._fatal: Exception | None = None

    # --- the interface of runner.Model ------------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of the body that is sent, and the attempt. The address is no part of it: a batch gives the same."""
        return request_key(self.body(asked), asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Send a request as soon as there is room for it; return what has finished meanwhile.

        Raises:
            EndpointError, SpendingCapError: the run cannot go on (once everything under way has been returned).
        """
        if self._fatal:
            return self.wait()
        self._under_way[asyncio.run_coroutine_threadsafe(self._answer(asked, keep), _background())] = asked
        return self._finished(at_once=len(self._under_way) < 2 * self.endpoint.concurrency)

    def wait(self) -> Finished:
        """At least one finished request; none if none is under way."""
        while self._under_way:
            if finished := self._finished():
                return finished
        if self._fatal:
            fatal, self._fatal, self._stopped = self._fatal, None, False
            raise fatal
        return []

    def _finished(self, at_once: bool = False) -> Finished:
        timeout = 0 if at_once else None
        done = concurrent.futures.wait(self._under_way, timeout, concurrent.futures.FIRST_COMPLETED).done
        outcomes = [(self._under_way.pop(one), one.result()) for one in done]
        return [(asked, outcome) for asked, outcome in outcomes if outcome is not None]

    def usd(self, response: Response) -> float:
        """What an answer cost by its tokens."""
        return self.price.usd({**response, "seconds": 0.0})

    def close(self) -> None:
        """Send nothing more; wait for what is under way, so that answers already paid for are kept."""
        if self._under_way or "_client" in vars(self):
            asyncio.run_coroutine_threadsafe(self._stop(), _background()).result()
            concurrent.futures.wait(self._under_way)
            asyncio.run_coroutine_threadsafe(self._disconnect(), _background()).result()
        self._under_way.clear()
        self._stopped, self._fatal, self._failed_in_a_row = False, None, 0  # the next run has none of these troubles

    async def _stop(self) -> None:
        """End all waits, but not for answers to what has been sent."""
        self._stopped = True
        for task in self._waiting:
            task.cancel()

    async def _disconnect(self) -> None:
        if client := vars(self).pop("_client", None):
            await client.close()

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
        body: dict[str, Any] = {"model": self.name, "messages": [{"role": "user", "content": request["instruction"]}]}
        body |= self.endpoint.parameters
        if "seed" in body:
            body["seed"] += asked.attempt
        if self.endpoint.json_schema:
            body["response_format"] = {"type": "json_schema", "json_schema": _schema(request["candidates"])}
        return body

    @cached_property
    def _client(self) -> openai.AsyncOpenAI:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._censor)
        nothing: Any = openai.Omit()  # in place of what the client would read from the environment
        return openai.AsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self._api_key.get_secret_value() or "none",
            default_headers={"OpenAI-Organization": nothing, "OpenAI-Project": nothing},
            timeout=self.endpoint.timeout,
            max_retries=0,
        )

    @cached_property
    def _api_key(self) -> pydantic.SecretStr:
        key = self._key_as_set
        if self.endpoint.key_variable and not key:
            raise EndpointError(f"{self._key_in} is not set; it must hold the endpoint's key.")
        if not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            raise EndpointError(f"{self._key_in} holds characters that no key can have.")  # which would be quoted
        return key

    @property
    def _key_as_set(self) -> pydantic.SecretStr:
        variable = self.endpoint.key_variable
        given = self._given.get_secret_value() if self._given else os.environ.get(variable, "") if variable else ""
        return pydantic.SecretStr(given.strip())  # a key read from a file often ends its line

    @property
    def _censor(self) -> "_Censor":
        return _Censor(vars(self).get("_api_key", self._key_as_set))  # the key in use, or else the one that would be

    # --- one request, a task of the event loop ----------------------------------------------------------------------

    async def _answer(self, asked: Asked, keep: Keep) -> Response | Failure | None:
        """The response, tried as often as declared and kept at once; None if the run ended before there was one."""
        if self._stopped:
            return None
        task = _this_task()
        self._waiting.add(task)
        try:
            async with self._room:
                outcome = await self._response(self.body(asked))
                if not isinstance(outcome, Failure):
                    outcome = keep(asked, outcome)
            self._failed_in_a_row = self._failed_in_a_row + 1 if isinstance(outcome, Failure) else 0
            if isinstance(outcome, Failure) and self._failed_in_a_row == _GIVE_UP_AFTER:
                await self._end(
                    EndpointError(f"{_GIVE_UP_AFTER} requests in a row failed; the last: {outcome.reason}.")
                )
            return outcome
        except asyncio.CancelledError:
            return None
        except Exception as error:
            await self._end(error)
            return None
        finally:
            self._waiting.discard(task)

    async def _end(self, error: Exception) -> None:
        """Begin nothing more; the first error is raised when everything under way has been returned."""
        self._waiting.discard(_this_task())  # this task is through, and must not cancel itself
        self._fatal = self._fatal or error
        if not isinstance(error, SpendingCapError):  # what may still fit under the cap is let through
            await self._stop()

    async def _response(self, body: dict[str, Any]) -> Response | Failure:
        backoff = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_BACKOFF)
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.endpoint.retries + 1),
            retry=tenacity.retry_if_exception_type(NoAnswerError),
            # As long as the server says, else longer and longer with chance in it, so that not all return together.
            wait=lambda state: _told(state) or backoff(state),
            reraise=True,
        )
        try:
            return await retrying(self._try, body)
        except NoAnswerError as error:
            return Failure(f"no answer after {self.endpoint.retries + 1} tries, the last: {error.kind}")
        except _RefusedError as error:
            return Failure(str(error))

    async def _try(self, body: dict[str, Any]) -> Response:
        """Send once, within the limits."""
        size = len(json.dumps(body, ensure_ascii=False).encode())
        _ = self._client  # built first: whoever has been given a time to send must not wait for it
        await self._tokens.wait(size / 3 + self._longest_answer)  # servers count the longest possible answer, too
        await self._requests.wait()
        # A token is a byte or longer, so this can only be too high.
        worst = self.usd({"prompt_tokens": size, "cached_tokens": 0, "completion_tokens": self._longest_answer})
        await self.budget.reserve(worst)
        cost = worst
        self._waiting.discard(_this_task())
        try:
            response = await self._send(body)
            cost = self.usd(response) if response["prompt_tokens"] else worst
            return response
        except NoAnswerError as error:
            self.faults[error.kind] += 1
            if error.retry_after:  # that means all of us, not only the request it was said to
                self._requests.pause(error.retry_after)
            cost = worst if error.billed else 0.0
            if self._stopped:
                raise asyncio.CancelledError from None
            raise
        except (_RefusedError, EndpointError):
            cost = 0.0
            raise
        finally:
            self.budget.settle(worst, cost)
            self._waiting.add(_this_task())

    async def _send(self, body: dict[str, Any]) -> Response:
        """One HTTP exchange; every way it can fail becomes one of our three errors.

        None of them quotes the key or drags the client's own error along, which quotes what the server said.
        """
        start = time.perf_counter()
        try:
            reply = await self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
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
                f"and the key in {self._key_in}."
            )
        if delay is not None and delay > LONGEST_WAIT:
            return EndpointError(f"{self.endpoint.base_url} wants us to wait {delay:.0f} s ({said}): go on later.")
        if status in _TRANSIENT or status >= 500:
            return NoAnswerError(str(status), delay)
        return _RefusedError(f"refused with {status}: {said}")


def _this_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None  # only tasks of the event loop ask
    return task


def _told(state: tenacity.RetryCallState) -> float | None:
    """The wait that the server asked for, if it did."""
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, NoAnswerError) else None


@dataclass(frozen=True, repr=False)
class _Censor:
    """Takes the key out: a server may quote it, and then it must reach no recording, no message and (as filter) no log.

    Two of the same key are equal, so that a logger takes only one of them.
    """

    key: pydantic.SecretStr

    def clean(self, text: str) -> str:
        key = self.key.get_secret_value()
        if len(key) < _SHORTEST_KEY:
            return text
        in_json = json.dumps(key)[1:-1]  # JSON may be shown as text
        for spelling in (key, in_json, in_json.replace("/", "\\/")):
            text = text.replace(spelling, "[key]")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clean(record.getMessage()), None
        return True


def _schema(candidates: list[str]) -> dict[str, Any]:
    """An order of the candidates and nothing else. Servers need not keep to it, so answers are validated anyway."""
    items = {"type": "string", "enum": list(dict.fromkeys(candidates))}
    properties = {"ranking": {"type": "array", "items": items}}
    schema = {"type": "object", "properties": properties, "required": ["ranking"], "additionalProperties": False}
    return {"name": "ranking", "strict": True, "schema": schema}
