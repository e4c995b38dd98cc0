"""A language model behind an OpenAI-compatible endpoint.

OpenAI itself, vLLM, llama.cpp, Ollama, ``transformers serve``: whatever answers ``POST /chat/completions``, or for
plain text ``POST /completions``. Requests are tasks of one event loop, which runs in a thread of its own, within the
declared pace and spending cap. Two kinds of fault, two layers: what comes back without a completion (no connection,
timeout, 429, 5xx, a broken body) is tried again here; a completion that is no ranking is asked for again by
``runner.ask``, as another attempt with its own recording.

Until a completion has come, a setting is likelier to be wrong than a server to be busy: what cannot heal ends the run
at once, anything else after two tries (``troubles`` says what is which).

httpx2 sends them, and not the client of OpenAI: that one adds headers from environment variables to each request, and
follows redirects with the key.
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
import pydantic
import tenacity

from hybridrec.errors import EndpointError, SettingError, SpendingCapError
from hybridrec.evaluation.prices import Price, price_of
from hybridrec.llm.models import scoring, troubles
from hybridrec.llm.models.limits import Budget, Pace
from hybridrec.llm.models.replies import NoAnswerError, completion
from hybridrec.llm.models.settings import EndpointSettings
from hybridrec.llm.models.troubles import RefusedError
from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Failure, Finished, Keep, Response
from hybridrec.settings import checked

_FIRST_WAIT, _LONGEST_BACKOFF = 0.5, 60.0
# So many users in a row without an answer mean that the endpoint is gone, not that these users are difficult. Where
# none has got an answer yet, fewer will do if all failed of the same.
_GIVE_UP_AFTER, _ALIKE = 20, 3
_FIRST_TRIES = 2  # of a request, while nothing has shown that the endpoint can answer
_LONGEST_CONNECT = 5.0  # seconds
# A shorter key is a placeholder ("EMPTY", "1") for a server that wants none, and may well be a word of an answer.
_SHORTEST_KEY = 8
_LONGEST_SAID = 300  # characters that are shown of what a server said
# The loggers of the transport: at DEBUG they show a server's status lines and headers.
_LOGGERS = "httpx2 httpcore2.connection httpcore2.http11 httpcore2.proxy httpcore2.socks".split()
_QUOTES = "'\"`“”‘’„«»"


@functools.cache
def _background() -> asyncio.AbstractEventLoop:
    """The event loop in which all endpoints' requests run, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
    return loop


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; it answers "generate" requests.

    With ``logprobs`` among the settings it also answers "choose" and "rate" requests, and where the server is vLLM
    "score" requests: with one request to the server for each candidate, whose replies become one response.

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
        if self.endpoint.spending_cap_usd is not None and (price is None or not self.bounded):
            raise SettingError(
                "spending_cap_usd needs the model's price, and max_tokens among the endpoint's parameters."
            )
        self.budget = Budget(self.endpoint.spending_cap_usd)
        self._requests, self._tokens = Pace(self.endpoint.requests_per_minute), Pace(self.endpoint.tokens_per_minute)
        self._room = asyncio.Semaphore(self.endpoint.concurrency)
        self._under_way: dict[concurrent.futures.Future[Response | Failure | None], Asked] = {}
        # Of the run, and changed by the event loop's thread alone: tasks that wait for something else than an answer.
        self._waiting: set[asyncio.Task[Any]] = set()
        self._stopped, self._failed_in_a_row = False, list[str]()
        self._fatal: Exception | None = None
        self._reached = self._completed = False  # whether any reply has come, and whether any completion

    def share(self, requests: Any, tokens: Any, budget: Any) -> None:
        """Keep within an allowance that others use, too, in place of one of its own.

        Args:
            requests, tokens: what has the methods of ``limits.Pace``.
            budget: what has the methods of ``limits.Budget``.
        """
        self._requests, self._tokens, self.budget = requests, tokens, budget

    # --- the interface of runner.Model ------------------------------------------------------------------------------

    def key(self, asked: Asked) -> str:
        """The hash of what is sent, and the attempt. The address is no part of it: a batch gives the same."""
        if asked.request["kind"] == "generate":
            return request_key(self.body(asked), asked.attempt)
        return request_key({"bodies": [part.body for part in self.parts(asked)], **_choices(asked)}, asked.attempt)

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
        self._stopped, self._fatal, self._failed_in_a_row = False, None, []  # the next run has none of these troubles

    async def _stop(self) -> None:
        """End all waits, but not for answers to what has been sent."""
        self._stopped = True
        for task in self._waiting:
            task.cancel()

    async def _disconnect(self) -> None:
        if client := vars(self).pop("_client", None):
            await client.aclose()

    def censored(self, text: str) -> str:
        """A server's words as they may be shown: one printable line of bounded length, without the key."""
        printable = "".join(c if c.isprintable() else " " for c in self._censor.clean(text))
        return " ".join(printable.split())[:_LONGEST_SAID]

    def kept(self, response: Response) -> Response:
        """A response as it may be recorded: without the key, should the server have repeated it."""
        return {name: self._censor.clean(v) if isinstance(v, str) else v for name, v in response.items()}

    # --- what is sent -----------------------------------------------------------------------------------------------

    def body(self, asked: Asked) -> dict[str, Any]:
        """The body of a request to write: model, message, and the configured parameters. Nothing else is ever sent.

        With ``seed`` among the parameters a further attempt draws from the next seed.
        """
        request = asked.request
        if self.endpoint.chat:
            body = self._base(asked) | {"messages": [{"role": "user", "content": request["instruction"]}]}
        else:
            body = scoring.text_body(self._base(asked), f"{request['instruction']}\n", self.endpoint.bos)
        if self.endpoint.json_schema:
            body["response_format"] = {"type": "json_schema", "json_schema": _schema(request["candidates"])}
        return body

    def _base(self, asked: Asked) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name} | self.endpoint.parameters
        if "seed" in body:
            body["seed"] += asked.attempt
        return body

    def parts(self, asked: Asked) -> list[scoring.Part]:
        """The requests to the server that a request comes to; ``joined`` makes one response of theirs.

        Raises:
            SettingError: a request for probabilities that the settings do not allow for (names the kind).
        """
        if asked.request["kind"] == "generate":
            path = scoring.CHAT if self.endpoint.chat else scoring.TEXT
            read = functools.partial(completion, bounded=self.bounded, chat=self.endpoint.chat)
            return [scoring.Part(path, self.body(asked), read)]
        if not self.endpoint.logprobs:
            raise SettingError(
                f"an endpoint answers in text, without probabilities: it cannot do {asked.request['kind']!r} requests. "
                "Leave the modes likelihood and pointwise out of the experiment; or set logprobs = true for the "
                "endpoint, if its server gives log-probabilities; or run a local model."
            )
        if self.endpoint.chat and not scoring.plain(asked.request):
            return scoring.parts(self._base(asked), asked.request)
        return scoring.text_parts(self._base(asked), asked.request, self.endpoint.bos)

    def joined(self, asked: Asked, responses: list[Response]) -> Response:
        """One response to a request, from those to its parts.

        Raises:
            EndpointError: they do not fit together (says why that may be).
        """
        return responses[0] if asked.request["kind"] == "generate" else scoring.joined(asked.request, responses)

    @property
    def bounded(self) -> bool:
        """Whether the length of a written answer is bounded by us."""
        return _longest_answer(self.endpoint.parameters) > 0

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._censor)
        key = self._api_key.get_secret_value()
        connect = min(self.endpoint.timeout, _LONGEST_CONNECT)
        return httpx2.AsyncClient(
            base_url=self.endpoint.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(self.endpoint.timeout, connect=connect, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=self.endpoint.concurrency),
        )

    @cached_property
    def _api_key(self) -> pydantic.SecretStr:
        secret = self._key_as_set
        key = secret.get_secret_value()
        if self.endpoint.key_variable and not key:
            raise EndpointError(f"{self._key_in} is not set; it must hold the endpoint's key.")
        if key.strip(_QUOTES) != key:
            raise EndpointError(f"{self._key_in} holds the key in quotation marks: set it without them.")
        if key.casefold().startswith("bearer "):
            raise EndpointError(f'{self._key_in} holds "Bearer " before the key: set it to the key alone.')
        if not (key.isascii() and key.isprintable()) or " " in key:  # which would be quoted
            raise EndpointError(f"{self._key_in} holds characters that no key can have: set it to the key alone.")
        return secret

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
        """The response, from all its parts and kept at once; None if the run ended before there was one."""
        try:
            replies = await asyncio.gather(*map(self._part, self.parts(asked)))
            failure = next((reply for reply in replies if isinstance(reply, Failure)), None)
            responses = [reply for reply in replies if isinstance(reply, dict)]
            if not failure and len(responses) < len(replies):
                return None
            outcome = failure or keep(asked, self.joined(asked, responses))
        except Exception as error:
            await self._end(error)
            return None
        await self._note(outcome)
        return outcome

    async def _part(self, part: scoring.Part) -> Response | Failure | None:
        """What comes of one part, tried as often as declared; None if the run ended before anything did."""
        if self._stopped:
            return None
        task = _this_task()
        self._waiting.add(task)
        try:
            async with self._room:
                return await self._response(part)
        except asyncio.CancelledError:
            return None
        except Exception as error:
            await self._end(error)
            return None
        finally:
            self._waiting.discard(task)

    async def _note(self, outcome: Response | Failure) -> None:
        """End the run where failures show that nobody will get an answer."""
        if not isinstance(outcome, Failure):
            self._failed_in_a_row.clear()
            return
        self._failed_in_a_row.append(outcome.reason)
        last = self._failed_in_a_row[-_ALIKE:]
        alike = not self._completed and len(last) == _ALIKE and len(set(last)) == 1
        if alike or len(self._failed_in_a_row) == _GIVE_UP_AFTER:
            often = len(self._failed_in_a_row)
            await self._end(
                EndpointError(
                    f"{self.endpoint.base_url}: {often} requests in a row failed; the last: {outcome.reason}. Answers "
                    "so far are recorded; run again when the endpoint can answer."
                )
            )

    async def _end(self, error: Exception) -> None:
        """Begin nothing more; the first error is raised when everything under way has been returned."""
        self._waiting.discard(_this_task())  # this task is through, and must not cancel itself
        self._fatal = self._fatal or error
        if not isinstance(error, SpendingCapError):  # what may still fit under the cap is let through
            await self._stop()

    async def _response(self, part: scoring.Part) -> Response | Failure:
        backoff = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_BACKOFF)
        retrying = tenacity.AsyncRetrying(
            stop=self._is_enough,
            retry=tenacity.retry_if_exception_type(NoAnswerError),
            # As long as the server says, else longer and longer with chance in it, so that not all return together.
            wait=lambda state: _told(state) or backoff(state),
            reraise=True,
        )
        try:
            return await retrying(self._try, part)
        except NoAnswerError as error:
            if error.why and not self._completed:
                raise EndpointError(error.why) from None
            tries = retrying.statistics["attempt_number"]
            return Failure(f"no answer after {tries} tr{'ies' if tries > 1 else 'y'}, the last: {error.kind}")
        except RefusedError as error:
            return Failure(str(error))

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        """Whether a request has been tried often enough."""
        error = state.outcome.exception() if state.outcome else None
        tries = self.endpoint.retries + 1
        if not self._completed and isinstance(error, NoAnswerError) and not error.busy:
            tries = min(tries, _FIRST_TRIES)
        return state.attempt_number >= tries

    async def _try(self, part: scoring.Part) -> Response:
        """Send once, within the limits."""
        size, longest = len(json.dumps(part.body, ensure_ascii=False).encode()), _longest_answer(part.body)
        _ = self._client  # built first: whoever has been given a time to send must not wait for it
        await self._tokens.wait(size / 3 + longest)  # servers count the longest possible answer, too
        await self._requests.wait()
        # A token is a byte or longer, so this can only be too high.
        worst = self.usd({"prompt_tokens": size, "cached_tokens": 0, "completion_tokens": longest})
        await self.budget.reserve(worst)
        cost = worst
        self._waiting.discard(_this_task())
        try:
            response = await self._send(part)
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
        except (RefusedError, EndpointError):
            cost = 0.0
            raise
        finally:
            self.budget.settle(worst, cost)
            self._waiting.add(_this_task())

    async def _send(self, part: scoring.Part) -> Response:
        """One HTTP exchange; every way it can fail becomes one of the three errors of ``troubles``.

        None of them quotes the key or drags the client's own error along, which quotes what the server said.
        """
        start = time.perf_counter()
        try:
            reply = await self._client.post(part.path, json=part.body)
        except httpx2.RequestError as error:
            raise troubles.of_connection(error, self.endpoint.base_url, self._reached) from None
        self._reached = True
        parameters = sorted(part.body.keys() - {"model", "messages", "prompt"})
        key_in = self._key_in if self._api_key.get_secret_value() else ""
        sent = troubles.Sent(self.endpoint.base_url, self.name, key_in, parameters, self.censored, part.path)
        if trouble := troubles.of_reply(reply, sent):
            raise trouble
        response = self.kept(part.read(reply.text, round(time.perf_counter() - start, 3)))
        self._completed = True
        return response


def _longest_answer(parameters: Mapping[str, Any]) -> int:
    """The declared bound on the tokens of an answer; 0 if there is none."""
    return parameters.get("max_completion_tokens") or parameters.get("max_tokens") or 0


def _choices(asked: Asked) -> dict[str, Any]:
    """What decides how the replies to a scored request are read."""
    return {name: asked.request[name] for name in ("kind", "choices") if name in asked.request}


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
