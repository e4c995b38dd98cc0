"""Log-probabilities from an endpoint: one request a candidate, and what comes back read as one response.

A model that was taught to chat is asked through /chat/completions. "choose" reads the first token of its answer
(``logprobs`` and ``top_logprobs`` of the OpenAI chat API). "score" needs the log-probabilities of a text that we
choose, which the chat API does not give; vLLM does, as ``prompt_logprobs``, together with ``continue_final_message``
(its ChatCompletionRequest and ChatCompletionResponse, vllm/entrypoints/openai/chat_completion/protocol.py).

Plain text, for a base model and for lists with grades, goes to /completions (vLLM's CompletionRequest and
CompletionResponse, vllm/entrypoints/openai/completion/protocol.py): ``logprobs`` is a number there, and
``prompt_logprobs`` stand in the choice.

Where a candidate begins among the prompt's tokens is found by asking without it: the tokens of the prompt alone must be
the first of each whole, or it is no score. A token that holds the end of one and the beginning of the other would have
no share that is the candidate's.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hybridrec.errors import EndpointError
from hybridrec.llm.models.replies import NoAnswerError, opened, usage
from hybridrec.llm.runner import USAGE, Response

_MOST = 20  # of the likeliest tokens, more are not given by OpenAI, and by vLLM only if it is told so at its start
_LEAST = 1e-9  # of a probability that a difference from 1 tells: the server's numbers are rounded
_LONGER = "Give the server a longer context (vLLM: --max-model-len), or show less of the history (history_length)."
_REMEDY = "Leave out the modes that read probabilities, or ask a server that gives them."
CHAT, TEXT = "chat/completions", "completions"
# Parameters that CHAT alone knows, or that mean something else to TEXT.
_OF_CHAT = {
    *("logprobs", "top_logprobs", "max_completion_tokens"),
    *("chat_template_kwargs", "enable_thinking", "reasoning_effort", "verbosity"),
}

Read = Callable[[str, float], Response]


@dataclass(frozen=True)
class Part:
    """One of the requests to the server that a request comes to: where it goes, and what reads the reply."""

    path: str
    body: dict[str, Any]
    read: Read


def parts(body: dict[str, Any], request: dict[str, Any]) -> list[Part]:
    """The requests to a chat model that a scored one comes to.

    Args:
        body: what is sent whatever is asked: the model's name and the declared parameters.
        request: of kind "choose" or "score".
    """
    bound = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    if request["kind"] == "choose":
        asked = {"top_logprobs": _MOST} | body | {"logprobs": True, bound: 1}
        read = partial(_choices, choices=request["choices"])
        questions = [f"{request['instruction']}{question}" for question in request["candidates"]]
        return [Part(CHAT, asked | {"messages": [_said("user", question)]}, read) for question in questions]
    shown = _said("user", request["instruction"])
    asked = {name: body[name] for name in body if name not in ("logprobs", "top_logprobs")}
    asked |= {"prompt_logprobs": 0, bound: 1}
    answered: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    whole = [answered | {"messages": [shown, _said("assistant", text)]} for text in request["candidates"]]
    return [Part(CHAT, asked | one, _prompt) for one in ({"messages": [shown]}, *whole)]


def plain(request: dict[str, Any]) -> bool:
    """Whether a request stands without a chat template, whatever the model: nobody is spoken to."""
    return request["kind"] == "rate" or bool(request.get("plain"))


def text_parts(body: dict[str, Any], request: dict[str, Any], bos: str = "") -> list[Part]:
    """The requests for plain text that a scored one comes to: the text that ``local.HuggingFace`` would read.

    Args:
        body: as in ``parts``.
        request: of kind "choose", "rate" or "score".
        bos: see ``text_body``.
    """
    if request["kind"] == "score":
        start = request["instruction"] + ("" if plain(request) else "\n")
        asked = {"prompt_logprobs": 0, "max_tokens": 1}
        return [
            Part(TEXT, text_body(body, f"{start}{text}", bos) | asked, _prompt) for text in ("", *request["candidates"])
        ]
    end, asked = "" if plain(request) else "\n", {"logprobs": _MOST, "max_tokens": 1}
    texts = [f"{request['instruction']}{question}{end}" for question in request["candidates"]]
    read = partial(_choices, choices=request["choices"])
    return [Part(TEXT, text_body(body, text, bos) | asked, read) for text in texts]


def text_body(body: dict[str, Any], text: str, bos: str = "") -> dict[str, Any]:
    """The body that lets a model go on with a text.

    Args:
        body: the model's name and the declared parameters.
        text: the text.
        bos: what stands before it; "": what the server puts there itself.
    """
    asked = {name: body[name] for name in body if name not in _OF_CHAT} | {"prompt": bos + text}
    if "max_completion_tokens" in body:
        asked["max_tokens"] = body["max_completion_tokens"]
    return asked | ({"add_special_tokens": False} if bos else {})


def joined(request: dict[str, Any], responses: Sequence[Response]) -> Response:
    """One response to a scored request, from those to its parts.

    Raises:
        EndpointError: a candidate is not the continuation of the prompt (says why that may be).
    """
    together = {name: round(sum(one[name] for one in responses), 3) for name in USAGE}
    if request["kind"] != "score":
        return {"log_probs": [one["log_probs"] for one in responses], "lengths": [1] * len(responses), **together}
    first, *rest = responses
    start = len(first["tokens"])
    if any(len(one["tokens"]) <= start for one in rest):
        raise EndpointError(
            f"the server cuts prompts: one with a title behind it had no more tokens than without ({start}). {_LONGER}"
        )
    if any(one["tokens"][:start] != first["tokens"] for one in rest):
        raise EndpointError(
            "a title does not go on from the prompt: the server's chat template begins an answer differently where it "
            "asks for one, or its tokenizer makes one token of the prompt's end and the title's beginning, or it cuts "
            f"long prompts at their beginning. So titles cannot be scored (mode likelihood). {_REMEDY}"
        )
    if _cut_within(request["candidates"], rest):
        longest = max(len(one["tokens"]) for one in rest)
        raise EndpointError(f"the server cuts prompts: it kept {longest} tokens, and a title goes on. {_LONGER}")
    return {
        "log_probs": [round(math.fsum(one["log_probs"][start:]), 5) for one in rest],
        "lengths": [len(one["tokens"]) - start for one in rest],
        **together,
    }


def _cut_within(titles: Sequence[str], read: Sequence[Response]) -> bool:
    """Whether a title's tokens end before the title does, as far as that can be told.

    Its last token stands within the title and not at its end; or another title has the same tokens. Titles that differ
    only in what a tokenizer may leave out (case, compatible characters) are the same here.
    """
    of_tokens: dict[tuple[str, ...], str] = {}
    for title, one in zip(titles, read, strict=True):
        whole, last = (unicodedata.normalize("NFKC", text).casefold().strip() for text in (title, one["last"]))
        if last in whole and not whole.endswith(last):
            return True
        if of_tokens.setdefault(tuple(one["tokens"]), whole) != whole:
            return True
    return False


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _choices(text: str, seconds: float, choices: Sequence[str]) -> Response:
    """The log-probability of each choice as the answer's beginning: of all listed tokens together that say it.

    A token says a choice if it is the choice or its beginning, whatever its case and the blanks around it, and no other
    choice begins so. A choice that no listed token says is no likelier than any of them: it gets the least of their
    log-probabilities, which is an upper bound. Where none is said, all choices together are no likelier than what the
    listed tokens leave of 1: each gets its share of that, if it is less.

    Raises:
        EndpointError: the server sends no log-probabilities. NoAnswerError: nothing was written that has any.
    """
    body = opened(text)
    found = _listed(_within(body["choices"][0], "logprobs"))
    if not found or not all(isinstance(token, str) and isinstance(value, int | float) for token, value in found):
        raise EndpointError(f"the server's replies hold no top_logprobs. {_REMEDY}")
    words = [choice.strip().casefold() for choice in choices]
    values: dict[str, list[float]] = {word: [] for word in words}
    for token, value in found:
        said = [word for word in words if word.startswith(token.strip().casefold())]
        if len(said) == 1:
            values[said[0]].append(value)
    least = min(value for _, value in found)
    if not any(values.values()):
        left = 1.0 - math.fsum(math.exp(min(value, 0.0)) for _, value in found)
        least = min(least, math.log(max(left, _LEAST) / len(words)))
    return {"log_probs": [round(_log_of_sum(values[word] or [least]), 5) for word in words], **usage(body, seconds)}


def _listed(logprobs: Any) -> list[tuple[Any, Any]]:
    """The likeliest first tokens: a list of objects in a chat, an object of numbers by token in plain text."""
    content, of_text = _within(logprobs, "content"), _within(logprobs, "top_logprobs")
    if [] in (content, of_text):
        raise NoAnswerError("no first token", billed=True)
    if isinstance(content, list):
        return [(_within(one, "token"), _within(one, "logprob")) for one in _within(content[0], "top_logprobs") or ()]
    first = of_text[0] if isinstance(of_text, list) else None
    return list(first.items()) if isinstance(first, dict) else []


def _prompt(text: str, seconds: float) -> Response:
    """The prompt's tokens, their log-probabilities, and the last token as text ("": the server does not tell).

    Raises:
        EndpointError: the server sends none.
    """
    body = opened(text)
    entries = body.get("prompt_logprobs") or body["choices"][0].get("prompt_logprobs")
    if not isinstance(entries, list) or not entries:
        raise EndpointError(f"the server's replies hold no prompt_logprobs (vLLM's do). {_REMEDY}")
    try:  # The first token has none before it. Of several tokens at one place the prompt's own comes first.
        found = [next(iter(entry.items())) if entry else ("", {"logprob": 0.0}) for entry in entries]
        values = [float(value["logprob"]) for _, value in found]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EndpointError(f"the server's prompt_logprobs are not what vLLM documents. {_REMEDY}") from None
    last = str(found[-1][1].get("decoded_token") or "")
    return {"tokens": [token for token, _ in found], "log_probs": values, "last": last, **usage(body, seconds)}


def _within(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _log_of_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
