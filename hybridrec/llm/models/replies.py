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
    """No completion came back this time; another try may bring one.

    Args:
        kind: its name in the counts.
        retry_after: seconds that the server asks us to wait.
        billed: whether it may cost money all the same.
        busy: the server is there and says that it cannot answer now, so that waiting longer makes sense.
        why: the cause and its remedy, if this is hardly chance: where no completion came before, it ends the run.
    """

    def __init__(
        self, kind: str, retry_after: float | None = None, billed: bool = False, busy: bool = False, why: str = ""
    ) -> None:
        super().__init__(kind)
        self.kind, self.retry_after, self.billed, self.busy, self.why = kind, retry_after, billed, busy, why


def opened(text: str) -> dict[str, Any]:
    """The JSON body of a completion, as far as all kinds of requests need it: its ``choices`` begin with an object.

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
    if not isinstance(choices[0], dict):
        raise NoAnswerError("broken body: no message", billed=True)
    return body


def completion(text: str, seconds: float = 0.0, bounded: bool = True, chat: bool = True) -> Response:
    """The response in a completion's JSON body, online or from a batch; of a chat, or of plain text that goes on.

    A server that refuses in its own field gives ``finish_reason`` "refusal". Where there is no text at
    all, the model wrote nothing: an empty answer; or only thoughts, which then are the text, behind a "<think>" that is
    not closed. Usage that is not told counts as 0.

    Args:
        text: the body.
        seconds: how long it took.
        bounded: whether the request bounded the answer's tokens. If not, an answer that ends by "length" has met the
            server's own limit: its ``finish_reason`` is "context".
        chat: whether a message is expected, or else plain text that goes on.

    Raises:
        NoAnswerError: the body holds no completion (says what is wrong with it).
    """
    body = opened(text)
    choice = body["choices"][0]
    message = choice.get("message") if chat else _of_text(choice)
    refusal = message.get("refusal") if isinstance(message, dict) else None
    parts = _parts(message.get("content")) if isinstance(message, dict) else None
    if message is None or parts is None or not isinstance(refusal, str | None):
        raise NoAnswerError("broken body: no message", billed=True)
    reason = "refusal" if refusal else choice.get("finish_reason")
    if not (isinstance(reason, str) and reason):
        raise NoAnswerError("broken body: no finish_reason", billed=True)
    said = parts[0] or refusal or ""
    if not said.strip() and (thoughts := _thoughts(body, message, parts[1])) is not None:
        said = f"<think>{thoughts}"
    return {
        "text": _writable(said),
        "finish_reason": "context" if reason == "length" and not bounded else _writable(reason),
        **usage(body, seconds),
    }


def _of_text(choice: dict[str, Any]) -> dict[str, Any] | None:
    """Plain text that goes on, as a message; None if there is none."""
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _parts(content: Any) -> tuple[str, str] | None:
    """The text of a message and the thoughts within it, which a list of typed parts may hold; None if it is neither."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    found: dict[bool, list[str]] = {False: [], True: []}
    for part in content:
        thought = str(part.get("type")) in ("thinking", "reasoning")
        inner = part.get("text") or part.get("thinking") or part.get("reasoning")
        inner = inner if isinstance(inner, str) else (_parts(inner) or ("", ""))[0]
        found[thought].append(inner)
    return "".join(found[False]), "".join(found[True])


def _thoughts(body: dict[str, Any], message: dict[str, Any], within: str) -> str | None:
    """What the model thought: as far as the server shows it, "" if it only bills it; None if it did not think."""
    for thoughts in (within, message.get("reasoning_content"), message.get("reasoning")):
        if isinstance(thoughts, str) and thoughts.strip():
            return thoughts
    return "" if _count(body.get("usage"), "completion_tokens_details", "reasoning_tokens") else None


def usage(body: dict[str, Any], seconds: float) -> Response:
    """The part of a response that tells what it took."""
    told = body.get("usage")
    return {
        "prompt_tokens": _count(told, "prompt_tokens"),
        "cached_tokens": _count(told, "prompt_tokens_details", "cached_tokens"),
        "completion_tokens": _count(told, "completion_tokens"),
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
