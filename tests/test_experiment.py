"""Settings are typed: whatever is unknown, missing, mistyped or out of range is an error that names the key."""

import re
import tomllib
from pathlib import Path

import pytest

from hybridrec import experiment, paths
from hybridrec.experiment import Endpoint, ExperimentError

DEFAULT = paths.EXPERIMENTS / "ml-100k.toml"
VALUES = tomllib.loads(DEFAULT.read_text(encoding="utf-8"))
ENDPOINT = {"base_url": "https://llm.example/v1"}
SECRET = "sk-proj-4fGh2Kl9"


def build(**changes: object) -> experiment.Experiment:
    if "endpoint" in changes or "modes" in changes:
        changes = {"modes": ["listwise"], "everybody_modes": [], "topk_modes": []} | changes
    return experiment.build("toy", VALUES | changes, "toy.toml")


def with_endpoint(**changes: object) -> Endpoint:
    return build(endpoint=ENDPOINT | changes).endpoint


def test_values_arrive_as_declared():
    settings = build(like_threshold=4, sparsity_threshold=0.95, recommenders=["BPR", "NeuMF", "ItemKNN"])
    assert settings.name == "toy"
    assert settings.recommenders == ("BPR", "NeuMF", "ItemKNN")
    assert isinstance(settings.like_threshold, float)
    assert settings.sparsity_threshold == 0.95
    assert build().sparsity_threshold is None
    assert build().endpoint is None


def test_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ExperimentError, match=r"toy\.toml: unknown key 'fold'.*folds"):
        build(fold=5)


@pytest.mark.parametrize("key", sorted(VALUES.keys() - experiment._OPTIONAL.keys()))
def test_missing_key_is_named(key):
    values = {k: v for k, v in VALUES.items() if k != key}
    with pytest.raises(ExperimentError, match=rf"toy\.toml: missing key '{key}'"):
        experiment.build("toy", values, "toy.toml")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("folds", "5", "int"),
        ("users", 300.0, "int"),
        ("live_users", "5", "int"),
        ("folds", 5.0, "int"),
        ("folds", True, "int"),
        ("shuffles", 5.0, "int"),
        ("like_threshold", "4", "float"),
        ("like_threshold", False, "float"),
        ("sparsity_threshold", "0.9", "float"),
        ("dataset", 100, "str"),
        ("recommenders", 3, "a list of names"),
        ("recommenders", "MF", "a list of names"),
        ("modes", "listwise", "a list of names"),
        ("everybody_modes", ["listwise", 1], "a list of names"),
    ],
)
def test_mistyped_value_names_file_key_value_and_type(key, value, wanted):
    with pytest.raises(ExperimentError) as caught:
        build(**{key: value})
    message = str(caught.value)
    assert f"toy.toml: {key} is {value!r}" in message
    assert wanted in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("folds", 1),
        ("folds", 21),
        ("performance_threshold", -0.1),
        ("performance_threshold", 1.1),
        ("performance_threshold", float("nan")),
        ("history_length", 0),
        ("shuffles", 1),
        ("shuffles", 21),
        ("shuffled_users", 1),
        ("shuffled_users", 100_001),
        ("bootstrap_samples", 99),
        ("permutations", 99),
    ],
)
def test_value_out_of_range_names_file_key_and_limits(key, value):
    with pytest.raises(ExperimentError, match=rf"toy\.toml: {key} is {value}; it must be from .* to "):
        build(**{key: value})


def test_limits_themselves_are_allowed():
    settings = build(folds=2, performance_threshold=1.0, history_length=1, shuffles=2, shuffled_users=2)
    assert (settings.folds, settings.shuffles, settings.shuffled_users) == (2, 2, 2)


@pytest.mark.parametrize("recommenders", [[], ["MF"], ["ItemKNN", "BPR"]])
def test_an_experiment_without_a_recommender_of_the_paper_names_it(recommenders):
    lacking = "NeuMF" if "BPR" in recommenders else "ItemKNN"
    with pytest.raises(ExperimentError, match=rf"toy\.toml: recommenders lacks '{lacking}'"):
        build(recommenders=recommenders)


# --- ways to ask ----------------------------------------------------------------------------------------------------


def test_modes_arrive_in_their_order():
    settings = build(modes=["pointwise", "listwise"], everybody_modes=["listwise"])
    assert (settings.modes, settings.everybody_modes) == (("pointwise", "listwise"), ("listwise",))


def test_a_subset_and_live_users_are_declared_or_absent():
    assert (build().users, build().live_users) == (None, 0)
    settings = build(users=300, live_users=5)
    assert (settings.users, settings.live_users) == (300, 5)


def test_everybody_may_be_asked_in_no_mode_at_all():
    assert build(everybody_modes=[]).everybody_modes == ()


def test_a_mode_for_everybody_that_is_not_among_the_modes_is_named():
    with pytest.raises(ExperimentError, match=r"toy\.toml: everybody_modes has 'pointwise', which is not among modes"):
        build(modes=["listwise"], everybody_modes=["listwise", "pointwise"])


@pytest.mark.parametrize(
    ("modes", "says"), [([], "modes is empty"), (["listwise", "telepathy"], "modes has 'telepathy', which is none")]
)
def test_modes_that_do_not_exist_are_refused_before_anything_runs(modes, says):
    with pytest.raises(ExperimentError, match=rf"toy\.toml: {says}.*Known: listwise, "):
        build(modes=modes, everybody_modes=[])


def test_an_endpoint_is_not_asked_for_probabilities():
    with pytest.raises(ExperimentError, match=r"modes has 'likelihood', but an endpoint answers in text"):
        build(modes=["listwise", "likelihood"], everybody_modes=[], endpoint={"base_url": "http://127.0.0.1/v1"})


# --- larger models --------------------------------------------------------------------------------------------------


def test_rungs_arrive_in_their_order():
    rungs = [{"model": "a", "users": {"likelihood": 5}}, {"model": "b", "users": {"listwise": 2, "pointwise": 3}}]
    assert build(ladder=rungs).ladder == tuple(experiment.Rung(**rung) for rung in rungs)
    assert build(ladder=[]).ladder == ()


@pytest.mark.parametrize(
    ("rung", "says"),
    [
        ({"model": "a", "users": {"telepathy": 5}}, "a has mode 'telepathy'"),
        ({"model": "a", "users": {"likelihood": 0}}, "a has 0 users for likelihood"),
        ({"model": "a", "users": {"likelihood": 1.5}}, "a has 1.5 users"),
        ({"model": "a"}, "missing key 'users'"),
        ({"users": {}}, "missing key 'model'"),
        ({"model": "a", "users": {}, "sample": 5}, "unknown key 'sample'"),
        ("gemma", "missing key 'model'"),
    ],
)
def test_a_rung_that_cannot_be_climbed_names_file_and_fault(rung, says):
    with pytest.raises(ExperimentError, match=rf"toy\.toml.*ladder.*{says}"):
        build(ladder=[rung])


@pytest.mark.parametrize("mode", ["listwise", "pointwise"])
def test_retrieved_lists_are_re_ranked_by_probabilities_that_were_asked_for(mode):
    with pytest.raises(ExperimentError, match=f"topk_modes has '{mode}'"):
        build(modes=["listwise", "likelihood"], topk_modes=[mode])


# --- the endpoint ---------------------------------------------------------------------------------------------------


def test_an_endpoint_needs_no_more_than_its_address():
    endpoint = with_endpoint()
    assert endpoint == Endpoint("https://llm.example/v1")
    assert (endpoint.key_variable, endpoint.parameters, endpoint.spending_cap_usd) == ("", {}, None)


def test_an_endpoints_values_arrive_as_declared():
    given = {
        "base_url": "http://127.0.0.1:8000/v1",
        "key_variable": "MY_KEY_2",
        "parameters": {"temperature": 0, "max_tokens": 400, "stop": ["\n\n"]},
        "json_schema": True,
        "requests_per_minute": 500,
        "tokens_per_minute": 200_000,
        "concurrency": 16,
        "timeout": 30,
        "retries": 0,
        "attempts": 1,
        "spending_cap_usd": 2,
    }
    endpoint = build(endpoint=given).endpoint
    assert {key: getattr(endpoint, key) for key in given} == given
    assert isinstance(endpoint.requests_per_minute, float)
    assert isinstance(endpoint.spending_cap_usd, float)


def test_an_endpoint_is_read_from_its_table(tmp_path):
    table = '\n[endpoint]\nbase_url = "https://llm.example/v1"\nparameters = { temperature = 0 }\n'
    file = tmp_path / "mine.toml"
    written = re.sub(
        r"^(modes|everybody_modes|topk_modes) = .*$", r"\1 = []", DEFAULT.read_text(encoding="utf-8"), flags=re.M
    )
    file.write_text(written.replace("modes = []", 'modes = ["listwise"]', 1) + table, encoding="utf-8")
    assert experiment.read(file).endpoint == Endpoint("https://llm.example/v1", parameters={"temperature": 0})


def test_an_unknown_key_of_the_endpoint_is_named_with_the_table():
    with pytest.raises(ExperimentError, match=r"toy\.toml, \[endpoint\]: unknown key 'url'.*base_url"):
        with_endpoint(url="https://llm.example/v1")


def test_a_key_where_no_key_belongs_is_not_repeated():
    with pytest.raises(ExperimentError, match="unknown key 'api_key'") as caught:
        with_endpoint(api_key=SECRET)
    assert SECRET not in str(caught.value)


def test_an_endpoint_without_an_address_says_so():
    with pytest.raises(ExperimentError, match=r"toy\.toml, \[endpoint\]: missing key 'base_url'"):
        build(endpoint={"key_variable": "MY_KEY"})


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("json_schema", 1, "bool"),
        ("json_schema", "yes", "bool"),
        ("concurrency", 2.5, "int"),
        ("retries", True, "int"),
        ("timeout", "60", "float"),
        ("tokens_per_minute", "many", "float"),
        ("spending_cap_usd", True, "float"),
    ],
)
def test_a_mistyped_value_of_the_endpoint_names_table_key_value_and_type(key, value, wanted):
    with pytest.raises(ExperimentError) as caught:
        with_endpoint(**{key: value})
    assert f"toy.toml, [endpoint]: {key} is {value!r}; it must be a {wanted}." in str(caught.value)


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
def test_a_value_of_the_endpoint_out_of_range_names_file_key_and_limits(key, value):
    with pytest.raises(ExperimentError, match=rf"toy\.toml: endpoint: {key} is {value}(\.0)?; it must be from .* to "):
        with_endpoint(**{key: value})


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
        ("key_variable", [SECRET], "key_variable is not what it should be; it must be a str"),
        ("base_url", f"https://me:{SECRET}@llm.example/v1", "without a user, password or query"),
        ("base_url", f"https://{SECRET}@llm.example/v1", "without a user, password or query"),
        ("base_url", f"https://llm.example/v1@{SECRET}", "without a user, password or query"),
        ("base_url", f"https://llm.example/v1?key={SECRET}", "without a user, password or query"),
        ("base_url", f"https://llm.example/v1#{SECRET}", "without a user, password or query"),
        ("base_url", SECRET, "base_url must be like https://host/v1"),
        ("base_url", f"ftp://llm.example/{SECRET}", "base_url must be like https://host/v1"),
        ("base_url", {"key": SECRET}, "base_url is not what it should be; it must be a str"),
        ("parameters", SECRET, "parameters is not what it should be; it must be a table"),
    ],
)
def test_what_may_be_a_secret_is_refused_without_being_repeated(key, value, why):
    with pytest.raises(ExperimentError, match=rf"toy\.toml.*{key}") as caught:
        with_endpoint(**{key: value})
    assert why in str(caught.value)
    assert SECRET not in chain(caught.value)


def test_an_endpoint_that_is_no_table_is_not_repeated():
    with pytest.raises(ExperimentError) as caught:
        build(endpoint=f"https://me:{SECRET}@llm.example")
    assert str(caught.value) == "toy.toml: endpoint is not what it should be; it must be a table."
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
def test_addresses_in_use_are_accepted(base_url):
    assert with_endpoint(base_url=base_url).base_url == base_url


# --- files ----------------------------------------------------------------------------------------------------------


def test_unknown_experiment_lists_those_there():
    with pytest.raises(ExperimentError, match=r"no experiment 'ml-2'.*notebooks/experiments.*ml-100k"):
        experiment.load("ml-2")


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path):
    (tmp_path / "toy.toml").write_text("folds = = 5", encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"toy\.toml"):
        experiment.read(tmp_path / "toy.toml")


@pytest.mark.parametrize("wrong", ["folds = 99", "folds = 'five'", "speed = 5", "recommenders = []"])
def test_an_error_names_the_file_it_was_found_in(wrong, tmp_path):
    text = DEFAULT.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith(wrong.split()[0])]
    file = tmp_path / "mine.toml"
    file.write_text("\n".join([wrong, *kept]), encoding="utf-8")
    with pytest.raises(ExperimentError, match=rf"^mine\.toml: .*{wrong.split()[0]}") as caught:
        experiment.read(file)
    assert str(caught.value).count("mine.toml") == 1


@pytest.mark.parametrize("path", sorted(paths.EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_committed_experiment_loads(path: Path):
    assert experiment.load(path.stem).name == path.stem


def test_the_default_experiment_holds_the_published_settings():
    settings = experiment.load("ml-100k")
    assert (settings.dataset, settings.like_threshold, settings.performance_threshold) == ("ml-100k", 4.0, 0.5)
    assert settings.sparsity_threshold is None
    assert settings.history_length == 20


@pytest.mark.parametrize("key", [*experiment.Experiment.__dataclass_fields__, *Endpoint.__dataclass_fields__])
def test_every_key_is_explained_beside_the_experiments(key):
    text = (paths.EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    assert key == "name" or f"| `{key}` |" in text or f"## The table `[{key}]`" in text


def test_parameters_survive_the_way_through_a_notebook():
    settings = build()
    plain = experiment.parameters(settings)
    assert plain["recommenders"] == VALUES["recommenders"]
    plain["ladder"] = [experiment.Rung(**rung) for rung in plain["ladder"]]
    assert experiment.Experiment(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}) == settings


def test_an_endpoint_survives_the_way_through_a_notebook():
    endpoint = with_endpoint(parameters={"max_tokens": 400}, concurrency=2, spending_cap_usd=1)
    plain = experiment.parameters(build(endpoint=ENDPOINT | {"concurrency": 2}))["endpoint"]
    assert plain["base_url"] == ENDPOINT["base_url"]
    assert Endpoint(**plain) == with_endpoint(concurrency=2) != endpoint
