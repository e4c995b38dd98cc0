"""Log-probabilities from an endpoint: one request a candidate, and what comes back read as one response.

"choose" reads the first token of a chat completion (``logprobs`` and ``top_logprobs`` of the OpenAI chat API). "score"
needs the log-probabilities of a text that we choose, which the chat API does not give; vLLM does, as
``prompt_logprobs``, together with ``continue_final_message`` (its ChatCompletionRequest and ChatCompletionResponse,
vllm/entrypoints/openai/chat_completion/protocol.py).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hybridrec.errors import EndpointError
from hybridrec.llm.models.replies import NoAnswerError, opened, usage
from hybridrec.llm.runner import USAGE, Response

_MOST = 20  # of the likeliest tokens, more are not given by OpenAI, and by vLLM only if it is told so at its start
_REMEDY = "Leave out the modes that read probabilities, or ask a server that gives them."

Read = Callable[[str, float], Response]


def parts(body: dict[str, Any], request: dict[str, Any]) -> list[tuple[dict[str, Any], Read]]:
    """The requests that a scored one comes to, each with what reads its reply.

    Args:
        body: what is sent whatever is asked: the model's name and the declared parameters.
        request: of kind "choose" or "score".

    Raises:
        EndpointError: a request of kind "rate".
    """
    if request["kind"] == "rate":
        raise EndpointError(
            "a list of grades has to go on as plain text, which a chat endpoint does not do: ask a model on this "
            "machine, or take another mode, such as pointwise."
        )
    bound = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    if request["kind"] == "choose":
        asked = {"top_logprobs": _MOST} | body | {"logprobs": True, bound: 1}
        read = partial(_choices, choices=request["choices"])
        questions = [f"{request['instruction']}{question}" for question in request["candidates"]]
        return [(asked | {"messages": [_said("user", question)]}, read) for question in questions]
    shown = _said("user", request["instruction"])
    asked = {name: body[name] for name in body if name not in ("logprobs", "top_logprobs")}
    asked |= {"prompt_logprobs": 0, bound: 1}
    answered: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    whole = [answered | {"messages": [shown, _said("assistant", text)]} for text in request["candidates"]]
    return [(asked | one, _prompt) for one in ({"messages": [shown]}, *whole)]


def joined(request: dict[str, Any], responses: Sequence[Response]) -> Response:
    """One response to a scored request, from those to its parts.

    Raises:
        EndpointError: a candidate is not the continuation of the prompt (the model's chat template does not allow it).
    """
    together = {name: round(sum(one[name] for one in responses), 3) for name in USAGE}
    if request["kind"] == "choose":
        return {"log_probs": [one["log_probs"] for one in responses], "lengths": [1] * len(responses), **together}
    first, *rest = responses
    start = len(first["tokens"])
    if any(one["tokens"][:start] != first["tokens"] or len(one["tokens"]) == start for one in rest):
        raise EndpointError(
            "the server's chat template does not put an answer's beginning where it asks for an answer, so that titles "
            f"cannot be scored (mode likelihood). {_REMEDY}"
        )
    return {
        "log_probs": [round(math.fsum(one["log_probs"][start:]), 5) for one in rest],
        "lengths": [len(one["tokens"]) - start for one in rest],
        **together,
    }


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _choices(text: str, seconds: float, choices: Sequence[str]) -> Response:
    """The log-probability of each choice as the answer's beginning: of all listed tokens together that say it.

    A token says a choice if it is the choice or its beginning, whatever its case and the blanks around it, and no other
    choice begins so. A choice that no listed token says is no likelier than any of them: it gets the least of their
    log-probabilities, which is an upper bound.

    Raises:
        EndpointError: the server sends no log-probabilities. NoAnswerError: nothing was written that has any.
    """
    body = opened(text)
    content = _within(body["choices"][0], "logprobs", "content")
    if content == []:
        raise NoAnswerError("no first token", billed=True)
    listed = _within(content[0] if isinstance(content, list) else None, "top_logprobs")
    found = [(_within(one, "token"), _within(one, "logprob")) for one in listed or ()]
    if not found or not all(isinstance(token, str) and isinstance(value, int | float) for token, value in found):
        raise EndpointError(f"the server's replies hold no top_logprobs. {_REMEDY}")
    words = [choice.strip().casefold() for choice in choices]
    values: dict[str, list[float]] = {word: [] for word in words}
    for token, value in found:
        said = [word for word in words if word.startswith(token.strip().casefold())]
        if len(said) == 1:
            values[said[0]].append(value)
    least = min(value for _, value in found)
    return {"log_probs": [round(_log_of_sum(values[word] or [least]), 5) for word in words], **usage(body, seconds)}


def _prompt(text: str, seconds: float) -> Response:
    """The prompt's tokens, and their log-probabilities.

    Raises:
        EndpointError: the server sends none.
    """
    body = opened(text)
    entries = body.get("prompt_logprobs")
    if not isinstance(entries, list) or not entries:
        raise EndpointError(f"the server's replies hold no prompt_logprobs (vLLM's do). {_REMEDY}")
    try:  # The first token has none before it. Of several tokens at one place the prompt's own comes first.
        found = [next(iter(entry.items())) if entry else ("", {"logprob": 0.0}) for entry in entries]
        values = [float(value["logprob"]) for _, value in found]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EndpointError(f"the server's prompt_logprobs are not what vLLM documents. {_REMEDY}") from None
    return {"tokens": [token for token, _ in found], "log_probs": values, **usage(body, seconds)}


def _within(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _log_of_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
