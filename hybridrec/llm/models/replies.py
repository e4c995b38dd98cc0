"""What a server sends back, as it is read: a completion, the time it asks us to wait, what it says in an error."""

import email.utils
import json
import math
import time
from datetime import UTC
from typing import Any

import httpx2

from hybridrec.llm.runner import Response

# A server that wants us to wait longer than this is out of service; the run ends and can be gone on with later.
LONGEST_WAIT = 600.0
# No server means a wait of months: it gave a moment in time as a number, or its clock is wrong.
_ABSURD_WAIT = 31 * 24 * 3600.0
_DEEPEST = 5  # so deep are errors in JSON looked through


class NoAnswerError(Exception):
    """No completion came back this time; ``kind`` is its name in the counts, ``billed`` whether it may cost money."""

    def __init__(self, kind: str, retry_after: float | None = None, billed: bool = False) -> None:
        super().__init__(kind)
        self.kind, self.retry_after, self.billed = kind, retry_after, billed


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
    texts: list[Any] = [message.get("content"), message.get("refusal")] if isinstance(message, dict) else [0]
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
    may be wrong by hours: so such a wait is LONGEST_WAIT at most, never the end of a run. A date that has passed
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
        return min(max(0.0, until - time.time()), LONGEST_WAIT)
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
