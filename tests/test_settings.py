"""The settings of an endpoint, and how any settings are checked: an error names the key, and shows no secret.

An endpoint's settings come through two doors, the library's and an experiment's file; each test goes through both.
"""

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

import pydantic
import pytest

from hybridrec.errors import SettingError
from hybridrec.llm.models.settings import EndpointSettings
from hybridrec.settings import Settings, checked
from hybridrec.study import config, paths

VALUES = tomllib.loads((paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8"))
WRITTEN = {
    "local": None,
    "taught": None,
    "modes": ["listwise"],
    "everybody_modes": [],
    "topk_modes": [],
    "cross_ways": [],
}
ENDPOINT = {"base_url": "https://llm.example/v1"}
SECRET = "sk-proj-4fGh2Kl9"


@dataclass(frozen=True)
class Door:
    """One way to an endpoint's settings, and what its errors begin with."""

    build: Callable[[object], EndpointSettings]
    where: str

    def __call__(self, **changes: object) -> EndpointSettings:
        return self.build(ENDPOINT | changes)


def of_experiment(endpoint: object) -> EndpointSettings:
    return config.build("toy", VALUES | WRITTEN | {"endpoint": endpoint}, "toy.toml").endpoint


DOORS = {
    "library": Door(lambda endpoint: checked(EndpointSettings, endpoint, "toy.toml"), "toy.toml"),
    "experiment": Door(of_experiment, "toy.toml: endpoint"),
}


@pytest.fixture(params=DOORS)
def settled(request) -> Door:
    return DOORS[request.param]


# --- the endpoint ---------------------------------------------------------------------------------------------------


def test_an_endpoint_needs_no_more_than_its_address(settled):
    endpoint = settled()
    assert endpoint == EndpointSettings(base_url="https://llm.example/v1")
    assert (endpoint.key_variable, endpoint.parameters, endpoint.spending_cap_usd) == ("", {}, None)


def test_an_endpoints_values_arrive_as_declared(settled):
    given = {
        "base_url": "http://127.0.0.1:8000/v1",
        "key_variable": "MY_KEY_2",
        "parameters": {"temperature": 0, "max_tokens": 400, "stop": ["\n\n"]},
        "json_schema": True,
        "logprobs": True,
        "requests_per_minute": 500,
        "tokens_per_minute": 200_000,
        "concurrency": 16,
        "timeout": 30,
        "retries": 0,
        "attempts": 1,
        "spending_cap_usd": 2,
    }
    endpoint = settled(**given)
    assert {key: getattr(endpoint, key) for key in given} == given
    assert isinstance(endpoint.requests_per_minute, float)
    assert isinstance(endpoint.spending_cap_usd, float)


def test_a_key_where_no_key_belongs_is_not_repeated(settled):
    with pytest.raises(SettingError, match="unknown key 'api_key'") as caught:
        settled(api_key=SECRET)
    assert SECRET not in str(caught.value)


def test_an_endpoint_without_an_address_says_so(settled):
    with pytest.raises(SettingError, match=f"{settled.where}: missing key 'base_url'"):
        settled.build({"key_variable": "MY_KEY"})


def test_an_unknown_key_of_the_endpoint_is_named(settled):
    with pytest.raises(SettingError, match=f"{settled.where}: unknown key 'url'.*base_url"):
        settled(url="https://llm.example/v1")


@pytest.mark.parametrize("given", [f"https://me:{SECRET}@llm.example", [SECRET]])
def test_an_endpoint_that_is_no_table_is_not_repeated(given):
    with pytest.raises(SettingError) as caught:
        of_experiment(given)
    assert str(caught.value).startswith("toy.toml: endpoint is not what it should be")
    assert SECRET not in chain(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("json_schema", 1, "boolean"),
        ("json_schema", "yes", "boolean"),
        ("concurrency", 2.5, "whole number from 1 to 256"),
        ("retries", True, "whole number from 0 to 20"),
        ("timeout", "60", "number from 0.1 to 3,600"),
        ("tokens_per_minute", "many", "number from 1 to 1,000,000,000"),
        ("spending_cap_usd", True, "number from 0 to 1,000,000"),
    ],
)
def test_a_mistyped_value_of_the_endpoint_names_table_key_value_and_type(key, value, wanted, settled):
    with pytest.raises(SettingError) as caught:
        settled(**{key: value})
    told = str(caught.value)
    assert told.startswith(f"{settled.where}: {key} is {value!r}; it must be a ")
    assert wanted in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("requests_per_minute", 0),
        ("tokens_per_minute", 0.5),
        ("concurrency", 0),
        ("concurrency", 257),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("retries", -1),
        ("attempts", 0),
        ("attempts", 11),
        ("spending_cap_usd", -1),
        ("spending_cap_usd", float("nan")),
    ],
)
def test_a_value_of_the_endpoint_out_of_range_names_file_key_and_limits(key, value, settled):
    with pytest.raises(SettingError, match=rf"{settled.where}: {key} is {value}; it must be a .*number from .* to "):
        settled(**{key: value})


# --- secrets in the wrong place -------------------------------------------------------------------------------------


def chain(error: BaseException | None) -> str:
    """What a traceback would show: the error, and what it was raised from or during."""
    return "" if error is None else f"{error!r}" + chain(error.__cause__ or error.__context__)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("key_variable", SECRET, "must be the NAME of an environment variable, not a key"),
        ("key_variable", f"OPENAI_API_KEY={SECRET}", "must be the NAME of an environment variable, not a key"),
        ("key_variable", f"Bearer {SECRET}", "must be the NAME"),
        ("key_variable", "K" * 65 + SECRET, "must be the NAME"),
        ("key_variable", [SECRET], "key_variable is not what it should be; it must be a valid string"),
        ("base_url", f"https://me:{SECRET}@llm.example/v1", "without a user, password or query"),
        ("base_url", f"https://{SECRET}@llm.example/v1", "without a user, password or query"),
        ("base_url", f"https://llm.example/v1@{SECRET}", "without a user, password or query"),
        ("base_url", f"https://llm.example/v1?key={SECRET}", "without a user, password or query"),
        ("base_url", f"https://llm.example/v1#{SECRET}", "without a user, password or query"),
        ("base_url", SECRET, "base_url must be like https://host/v1"),
        ("base_url", f"ftp://llm.example/{SECRET}", "base_url must be like https://host/v1"),
        ("base_url", {"key": SECRET}, "base_url is not what it should be; it must be a valid string"),
        ("parameters", SECRET, "parameters is not what it should be; it must be a table"),
    ],
)
def test_what_may_be_a_secret_is_refused_without_being_repeated(key, value, why, settled):
    with pytest.raises(SettingError, match=rf"{settled.where}: .*{key}") as caught:
        settled(**{key: value})
    assert why in str(caught.value)
    assert SECRET not in chain(caught.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.openai.com/v1",
        "http://localhost:11434/v1",
        "http://[::1]:8000/v1",
        "https://llm.example",
        "http://h/",
    ],
)
def test_addresses_in_use_are_accepted(base_url, settled):
    assert settled(base_url=base_url).base_url == base_url


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/", "/v1/completions"])
def test_an_address_that_goes_on_too_long_is_refused(path, settled):
    with pytest.raises(SettingError, match=f"{settled.where}: base_url must end before /chat/completions"):
        settled(base_url=f"https://llm.example{path}")


def test_an_address_with_an_impossible_port_is_refused(settled):
    with pytest.raises(SettingError, match=f"{settled.where}: base_url must have a port"):
        settled(base_url="https://llm.example:99999/v1")


# --- what is sent with every request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0, "max_tokens": 400},
        {"temperature": 0.7, "seed": 1, "max_completion_tokens": 4000, "reasoning_effort": "low"},
        {
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.1,
            "repetition_penalty": 1.05,
            "logprobs": True,
            "stop": ["\n\n", "###"],
        },
        {"chat_template_kwargs": {"enable_thinking": False}, "logit_bias": {"50256": -100}},
        {"presence_penalty": -2, "frequency_penalty": 2.0, "user": "study"},
    ],
)
def test_parameters_of_servers_in_use_are_sent_as_they_stand(parameters, settled):
    assert settled(parameters=parameters).parameters == parameters


@pytest.mark.parametrize(
    "key",
    "n best_of tools web_search_options service_tier messages prompt input documents model models stream "
    "stream_options response_format extra_body options extra_headers api_key authorization num_predict "
    "truncate_prompt_tokens".split(),
)
def test_what_would_cost_more_or_ask_something_else_is_refused_with_a_reason(key, settled):
    with pytest.raises(SettingError, match=rf"{settled.where}: parameters has '{key}': leave it out, since") as caught:
        settled(parameters={"temperature": 0, key: SECRET})
    assert SECRET not in chain(caught.value)


@pytest.mark.parametrize(
    "key",
    "chat_template continue_final_message echo previous_response_id lora adapter_id min_tokens ignore_eos thinking "
    "use_beam_search prompt_embeds audio".split()
    + ["N", " model", "Max_Tokens", SECRET],
)
def test_a_name_that_is_not_known_is_not_sent(key, settled):
    """Whatever it may mean to a server: a longer prompt, another model, more tokens than the cap counts with."""
    with pytest.raises(SettingError, match=r"parameters: unknown key .*leave it out.*temperature") as caught:
        settled(parameters={key: SECRET})
    assert SECRET not in chain(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stop", 7), ("stop", ["."] * 17), ("stop", [None]), ("reasoning_effort", SECRET * 20), ("user", {}),
        ("logprobs", 5), ("enable_thinking", "false"), ("chat_template_kwargs", {"enable_thinking": SECRET}),
        ("chat_template_kwargs", {"documents": True}), ("chat_template_kwargs", True),
        ("logit_bias", {"50256": math.nan}), ("logit_bias", {"prompt": 1}), ("logit_bias", {"1": "2"}),
    ],
)  # fmt: skip
def test_what_is_no_number_has_its_form_and_is_not_repeated(key, value, settled):
    with pytest.raises(SettingError, match=rf"{settled.where}: parameters: {key} is .*must be (a |true)") as caught:
        settled(parameters={key: value})
    assert SECRET not in chain(caught.value)


def test_two_bounds_on_the_answer_are_one_too_many(settled):
    with pytest.raises(SettingError, match="parameters has both max_tokens and max_completion_tokens"):
        settled(parameters={"max_tokens": 20, "max_completion_tokens": 10**6})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("max_tokens", [0, -1, 1.5, math.nan, math.inf, True, SECRET, 10**9, [400]]),
        ("max_completion_tokens", [0, -1, 400.0, "400"]),
        ("temperature", [-0.1, 2.1, math.nan, "0", False, SECRET]),
        ("top_p", [-0.1, 1.1, math.nan, SECRET]),
        ("top_k", [-2, 1.5, math.nan, SECRET]),
        ("repetition_penalty", [0, -1, math.inf]),
        ("seed", [-1, 1.0, math.nan, True, SECRET, 2**31]),
        ("presence_penalty", [-2.1, 2.1, math.nan]),
        ("frequency_penalty", [-2.1, 2.1, math.inf]),
    ],
)
def test_a_parameter_that_every_server_knows_is_held_to_its_range_and_not_repeated(key, values, settled):
    for value in values:
        with pytest.raises(
            SettingError, match=rf"{settled.where}: parameters: {key} is .* a .*number from .* to"
        ) as caught:
            settled(parameters={key: value})
        assert SECRET not in chain(caught.value)


def test_parameters_are_sent_as_they_were_written(settled):
    """0 and 0.0 are equal, but not the same request: each has a recording of its own."""
    assert f"{settled(parameters={'temperature': 0, 'top_p': 1.0}).parameters}" == "{'temperature': 0, 'top_p': 1.0}"


NUMBERS = [name for name, one in EndpointSettings.model_fields.items() if len(one.metadata) == 2]


def test_every_number_of_an_endpoint_has_a_range():
    kinds = {int, float, float | None}
    assert [name for name, one in EndpointSettings.model_fields.items() if one.annotation in kinds] == NUMBERS


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_in_it_and_what_lies_beyond_is_not(name, settled):
    least, most = EndpointSettings.model_fields[name].metadata
    low, high = least.ge, most.le
    assert [getattr(settled(**{name: end}), name) for end in (low, high)] == [low, high]
    for value in (low - 1, high + 1, math.nan, math.inf, -math.inf, 10**400, True, f"{low}"):
        with pytest.raises(SettingError, match=f"{name} is .*from {low:,} to {high:,}"):
            settled(**{name: value})


# --- any settings -----------------------------------------------------------------------------------------------------


class Inner(Settings):
    share: float = pydantic.Field(0.5, ge=0, le=1)
    colour: str = pydantic.Field("red", pattern="^[a-z]+$", description="a word in small letters")


class Outer(Settings):
    name: str
    inner: Inner | None = None
    several: tuple[Inner, ...] = pydantic.Field((), strict=False)
    named: dict[str, Inner] = pydantic.Field(default_factory=dict)
    low: int = 1
    high: int = 2

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> "Outer":
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high.")
        return self


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "missing key 'name'"),
        ({"name": 5}, "name is 5; it must be a valid string"),
        ({"nmae": "x"}, "unknown key 'nmae': leave it out. Known: high, inner, low, name, named, several"),
        ({"name": "x", "inner": {"share": 2}}, "inner: share is 2; it must be a number from 0 to 1"),
        ({"name": "x", "inner": 5}, "inner is 5; it must be a table"),
        ({"name": "x", "inner": {"colour": "Red"}}, "inner: colour is 'Red'; it must be a word in small letters"),
        ({"name": "x", "inner": {"size": 2}}, "inner: unknown key 'size': leave it out. Known: colour, share"),
        ({"name": "x", "several": [{}, {"share": -1}]}, "several: 1: share is -1; it must be a number from 0 to 1"),
        (
            {"name": "x", "named": {"a/b": {"share": None}}},
            "named: a/b: share is None; it must be a number from 0 to 1",
        ),
        ({"name": "x", "low": 3}, "low is 3, above high"),
        ({"name": "x" * 500, "low": "y" * 500}, "low is 'yyy"),
    ],
)
def test_a_fault_is_told_with_its_place_and_what_is_possible(values, told):
    with pytest.raises(SettingError) as caught:
        checked(Outer, values, "toy.toml")
    assert str(caught.value).startswith(f"toy.toml: {told}")
    assert len(str(caught.value)) < 200


def test_another_error_may_be_asked_for_and_carries_no_values_along():
    with pytest.raises(KeyError) as caught:
        checked(EndpointSettings, {"base_url": SECRET}, "toy.toml", KeyError)
    assert SECRET not in chain(caught.value)


def test_settings_that_are_built_directly_show_no_secret_either():
    with pytest.raises(pydantic.ValidationError) as caught:
        EndpointSettings(base_url=SECRET, key_variable=SECRET, parameters={"n": SECRET})
    assert SECRET not in str(caught.value)
