"""The settings of models: of an endpoint, checked before anything is sent or paid for, and of one on this machine."""

import re
import urllib.parse
from typing import Annotated, Any, Literal

import pydantic

from hybridrec.settings import Settings, checked

# What is often tried and must not be sent, and why.
_MONEY = "it would cost more than the answers that are read, past spending_cap_usd"
_PROMPT = "the prompt is the study's"
_RESERVED = {
    **dict.fromkeys(("n", "best_of", "prediction", "tools", "functions", "web_search_options", "service_tier"), _MONEY),
    **dict.fromkeys(("messages", "prompt", "input", "instructions", "system", "suffix", "documents"), _PROMPT),
    **dict.fromkeys(("model", "models"), "which model answers is said by model, above"),
    **dict.fromkeys(("stream", "stream_options", "background"), "an answer is read when it is whole"),
    **dict.fromkeys(("api_key", "authorization", "extra_headers"), "a key belongs into the variable key_variable"),
    **dict.fromkeys(("extra_body", "options"), "what stands in it is sent if it stands in parameters itself"),
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_output_tokens"), "max_tokens says it"),
    "truncate_prompt_tokens": "a prompt that is cut lacks what is asked",
    "response_format": "json_schema = true sets it",
}


def _number(low: float, high: float) -> Any:
    return pydantic.Field(None, ge=low, le=high)


def _form(description: str) -> Any:
    return pydantic.Field(None, description=description)


_Word = Annotated[str, pydantic.Field(max_length=100)]
_Words = Annotated[list[_Word], pydantic.Field(max_length=16)]


class _Thinking(Settings):
    enable_thinking: bool = False
    thinking: bool = False


class _Parameters(Settings):
    """What may be sent. Only what is known: a server may give any other name a meaning of its own."""

    max_tokens: int = _number(1, 1_000_000)
    max_completion_tokens: int = _number(1, 1_000_000)
    temperature: float = _number(0, 2)
    top_p: float = _number(0, 1)
    top_k: int = _number(-1, 1_000_000)
    min_p: float = _number(0, 1)
    typical_p: float = _number(0, 1)
    seed: int = _number(0, 2_000_000_000)  # leaves room for the attempts that are added to it
    presence_penalty: float = _number(-2, 2)
    frequency_penalty: float = _number(-2, 2)
    repetition_penalty: float = _number(0.01, 10)
    repeat_penalty: float = _number(0.01, 10)
    top_logprobs: int = _number(0, 20)
    stop: _Word | _Words = _form("a text or up to 16 of them")
    reasoning_effort: _Word = _form("a word")
    verbosity: _Word = _form("a word")
    user: _Word = _form("a word")
    logprobs: bool = _form("true or false")
    enable_thinking: bool = _form("true or false")
    chat_template_kwargs: _Thinking = _form("a table with enable_thinking or thinking, each true or false")
    logit_bias: dict[
        Annotated[str, pydantic.Field(pattern=r"^\d+$")], Annotated[float, pydantic.Field(ge=-100, le=100)]
    ] = _form("a table of numbers from -100 to 100, each named by a token's number")


class EndpointSettings(Settings):
    """An OpenAI-compatible endpoint: where it is, how it may be used. The table ``[endpoint]`` of an experiment.

    ``key_variable`` is the *name* of the environment variable that holds the key, never the key. ``parameters`` are
    sent as they stand (temperature, max_tokens, seed, ...), and nothing else is. ``logprobs`` says that the server
    gives log-probabilities, so that modes may be used that read them. ``chat`` is false for a model that was not taught
    to chat: it goes on with plain text. ``bos`` is what plain text begins with where the server puts nothing there, or
    something else. Build it with ``settings.checked``, whose errors name the key and never repeat a value that may be a
    secret in the wrong place.
    """

    base_url: str
    key_variable: str = ""
    parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    json_schema: bool = False
    logprobs: bool = False
    chat: bool = True
    bos: str = pydantic.Field("", max_length=100)
    requests_per_minute: float = pydantic.Field(60.0, ge=1, le=1_000_000)
    tokens_per_minute: float | None = pydantic.Field(None, ge=1, le=1_000_000_000)
    concurrency: int = pydantic.Field(8, ge=1, le=256)
    timeout: float = pydantic.Field(60.0, ge=0.1, le=3600)
    retries: int = pydantic.Field(6, ge=0, le=20)
    attempts: int = pydantic.Field(2, ge=1, le=10)
    spending_cap_usd: float | None = pydantic.Field(None, ge=0, le=1_000_000)

    @pydantic.field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, given: str) -> str:
        if not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]{0,63})?", given):
            raise ValueError("key_variable must be the NAME of an environment variable, not a key.")
        return given

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_an_address(cls, given: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?", given):
            raise ValueError("base_url must be like https://host/v1, without a user, password or query.")
        if re.search(r"/completions/?$", given):
            raise ValueError("base_url must end before /chat/completions, such as in /v1: the rest is added to it.")
        try:
            _ = urllib.parse.urlsplit(given).port
        except ValueError:
            raise ValueError("base_url must have a port from 0 to 65535, and a host that can be one.") from None
        return given

    @pydantic.field_validator("parameters")
    @classmethod
    def _can_be_sent(cls, given: dict[str, Any]) -> dict[str, Any]:
        """As they were given: 0 and 0.0 are the same temperature, but two requests with a recording each."""
        for key in given.keys() & _RESERVED.keys():
            raise ValueError(f"parameters has {key!r}: leave it out, since {_RESERVED[key]}.")
        checked(_Parameters, given, "parameters", ValueError)
        if {"max_tokens", "max_completion_tokens"} <= given.keys():
            raise ValueError("parameters has both max_tokens and max_completion_tokens: leave one of them out.")
        return given


class LocalSettings(Settings):
    """How a model on this machine is loaded. The table ``[local]`` of an experiment; see ``local.HuggingFace``."""

    revision: str | None = pydantic.Field(
        default=None,
        pattern=r"^[\w][\w./-]{0,199}$",
        description="a branch, a tag or a commit of a model on the Hugging Face hub",
    )
    dtype: Literal["float32", "bfloat16"] = pydantic.Field(default="float32", description='"float32" or "bfloat16"')
    writing_dtype: Literal["float32", "bfloat16"] | None = pydantic.Field(
        default=None, description='"float32" or "bfloat16", for written answers; left out, dtype'
    )
    device: str = pydantic.Field(
        default="cpu",
        pattern=r"^(?:cpu|cuda(?::\d{1,2})?)$",
        description='"cpu", "cuda", or one of several, such as "cuda:1"',
    )
    adapter: str | None = pydantic.Field(
        default=None, description="the folder of an adapter that was taught on this model (make teach)"
    )
