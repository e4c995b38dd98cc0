"""Why an endpoint gives no completion, as an error that names the cause and the remedy.

Three kinds: an EndpointError would meet every user, so the run ends; a RefusedError is about one request; after a
NoAnswerError another try may succeed.
"""

import json
import re
import socket
import ssl
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from hybridrec.errors import EndpointError
from hybridrec.llm.models.replies import LONGEST_WAIT, NoAnswerError, retry_after, said_by

_TRANSIENT = {408, 409, 425, 429}
_INVALID = {400, 404, 422}  # how servers answer what they cannot use: a parameter, a model's name, a prompt too long
# These parameters are also words of the language, which an error may use for something else: they count if quoted.
_WORDS = {"user", "stop", "seed", "verbosity"}
_INSTEAD = {
    "max_tokens": " Models that think want max_completion_tokens in its place.",
    "max_completion_tokens": " Older servers want max_tokens in its place.",
    "temperature": " Models that think want none at all.",
}
# What is sent although no parameter says so, and what to do about it.
_OURS = {
    "response_format": "It is sent since json_schema is true: set that to false.",
    "add_special_tokens": "It is sent since the endpoint has bos: leave that out.",
    **dict.fromkeys(
        ("logprobs", "top_logprobs"),
        "It is sent for modes like pointwise, or since it stands in the endpoint's parameters: leave that out.",
    ),
    **dict.fromkeys(
        ("prompt_logprobs", "continue_final_message", "add_generation_prompt"),
        "It is sent for the mode likelihood, which needs a server like vLLM: leave that mode out.",
    ),
}


class RefusedError(Exception):
    """The endpoint refuses this one request, and would again."""


@dataclass(frozen=True)
class Sent:
    """What a trouble is about.

    Args:
        base_url: where the request went.
        model: the model's name.
        key_in: what holds the key, in words; "" if none was sent.
        parameters: the names of what was sent beside the model and the message.
        shown: returns a server's words as they may be shown.
        path: what was added to the address.
    """

    base_url: str
    model: str
    key_in: str
    parameters: Collection[str]
    shown: Callable[[str], str]
    path: str = "chat/completions"


# --- no reply ---------------------------------------------------------------------------------------------------------


def of_connection(error: httpx2.RequestError, base_url: str, reached: bool) -> Exception:
    """What it means that no reply came.

    Args:
        error: what the transport raised.
        base_url: the endpoint's address.
        reached: whether the endpoint has answered before. If not, what cannot heal by itself is no NoAnswerError.
    """
    behind = list(_behind(error))
    url = httpx2.URL(base_url)
    server = f"{url.host}:{url.port or {'http': 80}.get(url.scheme, 443)}"
    kind = "timeout" if isinstance(error, httpx2.TimeoutException) else f"connection: {type(error).__name__}"
    if untrusted := next((one for one in behind if isinstance(one, ssl.SSLCertVerificationError)), None):
        return EndpointError(f"{base_url}: {_certificate(untrusted, server)}")
    if reached:
        return NoAnswerError(kind, billed=not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout))
    if insecure := next((one for one in behind if isinstance(one, ssl.SSLError)), None):
        return EndpointError(
            f"{base_url}: no secure connection to {server} ({insecure.reason or insecure}). If it is a server of your "
            "own that speaks plain HTTP, begin base_url with http://."
        )
    if isinstance(error, httpx2.ProxyError):
        return EndpointError(
            f"{base_url}: the proxy of this machine's network settings does not let us through ({error}). Put it "
            f"right, or name {url.host} in the environment variable NO_PROXY."
        )
    if any(isinstance(one, socket.gaierror) for one in behind):
        return EndpointError(f"{base_url}: unknown host {url.host!r}. Check base_url, and this machine's network.")
    if any(isinstance(one, ConnectionRefusedError) for one in behind):
        return EndpointError(
            f"{base_url}: connection refused, nothing listens at {server}. Start the server, or correct base_url."
        )
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return EndpointError(
            f"{base_url}: {server} cannot be reached ({str(error) or 'no answer to a connection'}). Check "
            "base_url, the network and its firewall."
        )
    return NoAnswerError(kind, billed=True)


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that led to it."""
    if error is not None:
        yield error
        for one in getattr(error, "exceptions", ()):
            yield from _behind(one)
        yield from _behind(error.__cause__ or error.__context__)


def _certificate(error: ssl.SSLCertVerificationError, server: str) -> str:
    said = getattr(error, "verify_message", "") or str(error)
    if "expired" in said:
        return f"the certificate of {server} has expired. Its owner must renew it; or this machine's clock is wrong."
    if "self-signed" in said or "self signed" in said:
        return (
            f"{server} has a self-signed certificate, which this machine does not trust. If the server is your own, "
            "let the environment variable SSL_CERT_FILE name the certificate's file."
        )
    return (
        f"the certificate of {server} is not trusted: {said}. Check base_url; if the server is your own, let the "
        "environment variable SSL_CERT_FILE name the file with its authority's certificate."
    )


# --- a reply that is no completion ------------------------------------------------------------------------------------


def of_reply(reply: httpx2.Response, sent: Sent) -> Exception | None:
    """What is wrong with a reply; None if it may be a completion."""
    if reply.has_redirect_location:
        there = reply.headers["location"].split("?")[0].removesuffix(f"/{sent.path}")
        return EndpointError(
            f"{sent.base_url} redirects to another address, {sent.shown(there)}. If that is right, write it into "
            "base_url; requests follow no redirect, since they carry the key."
        )
    text, status = reply.text, reply.status_code
    answer = _json(text)
    if reply.is_success:
        if answer is None:
            return _no_json(reply, sent)
        error = answer.get("error") if isinstance(answer, dict) and not answer.get("choices") else None
        if not error:
            return None
        code = str(error.get("code")) if isinstance(error, dict) else ""
        status = int(code) if re.fullmatch("[45][0-9]{2}", code) else status
    return _of_error(status, answer, text, retry_after(reply.headers), sent)


def _of_error(status: int, answer: Any, text: str, delay: float | None, sent: Sent) -> Exception:
    said = sent.shown(said_by(text) or text if answer is not None else _words(text)).rstrip(". ")
    told = f"{sent.base_url} answered {status}: {said or 'nothing more'}"
    if status == 402 or "insufficient_quota" in said:
        return EndpointError(f"{told}. Check the credit of the account that the key belongs to.")
    if status in (401, 403):
        if not sent.key_in:
            return EndpointError(
                f"{told}. No key was sent: let key_variable name the environment variable that holds it."
            )
        return EndpointError(f"{told}. Check the key in {sent.key_in}, and that it may use the model {sent.model}.")
    may_be_invalid = status in _INVALID or status < 400
    if may_be_invalid and (name := _refused_parameter(answer, said, sent.parameters)):
        remedy = (
            f"Every user would be refused: leave {name} out of the endpoint's parameters ([endpoint.parameters] of an "
            f"experiment), or change it.{_INSTEAD.get(name, '')}"
        )
        return EndpointError(f"{told}. {_OURS.get(name, remedy)}")
    if may_be_invalid and _is_about_model(status, said, sent.model):
        return EndpointError(f"{told}. Check the model's name, {sent.model}: the endpoint has none that is called so.")
    if may_be_invalid and "chat template" in said:
        return EndpointError(
            f"{told}. If the model was not taught to chat, set chat = false for the endpoint: it is then sent plain "
            "text. Otherwise start the server with the model's chat template."
        )
    if status in (404, 405, 501) and sent.path == "completions":
        return EndpointError(
            f"{told}. Plain text (chat = false, and the mode rating-lines) needs a server that answers /completions "
            "for this model, such as vLLM. Leave it out, or ask such a server."
        )
    if status in (404, 405):
        return EndpointError(f"{told}. {_address(sent.base_url)} Check also the model's name, {sent.model}.")
    if delay is not None and delay > LONGEST_WAIT:
        return EndpointError(f"{sent.base_url} wants us to wait {delay:.0f} s ({said}): go on later.")
    if status in _TRANSIENT or status >= 500:
        return NoAnswerError(str(status), delay, busy=True)
    if status < 400:
        why = f"{sent.base_url} answers with an error in place of a completion: {said}. Mend what it names."
        return NoAnswerError(f"an error with status {status}: {said}", why=why)
    return RefusedError(f"refused with {status}: {said or 'nothing more'}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _no_json(reply: httpx2.Response, sent: Sent) -> Exception:
    """A success that is no JSON: a stream, a web page, or a body that was damaged on the way."""
    text, kind = reply.text.lstrip(), reply.headers.get("content-type", "")
    if kind.startswith("text/event-stream") or re.match(r"(data|event|id|retry)?:", text):
        return EndpointError(
            f"{sent.base_url} sends its answer as a stream (text/event-stream), though none was asked for. Switch "
            "streaming off there, or use another address of this server."
        )
    if text.startswith("<"):
        why = f"{sent.base_url} answers with a web page in place of JSON: {sent.shown(_words(text))}."
        return NoAnswerError("broken body: not JSON", billed=True, why=f"{why} {_address(sent.base_url)}")
    # It is not shown: a completion that was cut off quotes the user's history.
    what = f"something that is no JSON ({len(text)} characters of {kind or 'no type'})"
    why = f"{sent.base_url} answers with {what}. {_address(sent.base_url)}"
    return NoAnswerError("broken body: not JSON", billed=True, why=why)


def _words(text: str) -> str:
    """What a web page says, without its tags."""
    return re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)


def _address(base_url: str) -> str:
    if re.search(r"/v\d+\w*/?$", base_url):
        return "Check base_url."
    return f"Check base_url: most end in /v1, which would be {base_url.rstrip('/')}/v1."


def _refused_parameter(answer: Any, said: str, names: Collection[str]) -> str:
    """Which of the parameters an error is about; "" if it is about none, or about how long the prompt is."""
    if re.search(r"context|too long", said, re.I):
        return ""
    named = {str(answer.get("param"))} if isinstance(answer, dict) else set()
    error, detail = (answer.get(name) if isinstance(answer, dict) else None for name in ("error", "detail"))
    if isinstance(error, dict):
        named.add(str(error.get("param")))
    for one in detail if isinstance(detail, list) else ():  # FastAPI: [{"loc": ["body", "top_k"], "msg": ...}]
        place = one.get("loc") if isinstance(one, dict) else None
        named |= set(map(str, place)) if isinstance(place, list) else set()
    for name in names:
        word = rf"['\"`]{name}['\"`]" if name in _WORDS else rf"(?<!\w){name}(?!\w)"
        if name in named or re.search(word, said):
            return name
    return ""


def _is_about_model(status: int, said: str, model: str) -> bool:
    if "model_not_found" in said:
        return True
    unknown = status == 404 or re.search(r"exist|found|unknown|no such|invalid|available|support|requested", said)
    return bool(unknown and re.search(rf"(?<!\w){re.escape(model)}(?!\w)", said))
