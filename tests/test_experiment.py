"""Settings are typed: whatever is unknown, missing, mistyped or out of range is an error that names the key."""

import itertools
import math
import re
import tomllib
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrec.data.sources import own
from hybridrec.errors import PriceError, SettingError
from hybridrec.llm.models.settings import EndpointSettings, LocalSettings
from hybridrec.study import __main__, config, models, paths, steps
from hybridrec.study.config import Experiment, LargerModel

DEFAULT = paths.EXPERIMENTS / "ml-100k.toml"
VALUES = tomllib.loads(DEFAULT.read_text(encoding="utf-8"))
ENDPOINT = {"base_url": "https://llm.example/v1"}


def build(**changes: object) -> config.Experiment:
    if "endpoint" in changes or "modes" in changes:
        changes = {"modes": ["listwise"], "everybody_modes": [], "topk_modes": [], "cross_ways": []} | changes
    if "endpoint" in changes:
        changes = {"local": None, "taught": None} | changes
    return config.build("toy", VALUES | changes, "toy.toml")


def with_endpoint(**changes: object) -> EndpointSettings:
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
    with pytest.raises(SettingError, match=r"toy\.toml: unknown key 'fold'.*folds"):
        build(fold=5)


@pytest.mark.parametrize("key", sorted(key for key in VALUES if Experiment.model_fields[key].is_required()))
def test_missing_key_is_named(key):
    values = {k: v for k, v in VALUES.items() if k != key}
    with pytest.raises(SettingError, match=rf"toy\.toml: missing key '{key}'"):
        config.build("toy", values, "toy.toml")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("folds", "5", "a whole number from 3 to 20"),
        ("users", 300.0, "a whole number"),
        ("live_users", "5", "a whole number"),
        ("folds", 5.0, "a whole number"),
        ("folds", True, "a whole number"),
        ("shuffles", 5.0, "a whole number"),
        ("like_threshold", "4", "a number"),
        ("like_threshold", False, "a number"),
        ("sparsity_threshold", "0.9", "a number from 0"),
        ("dataset", 100, "string"),
        ("recommenders", 3, "a list of names"),
        ("recommenders", "MF", "a list of names"),
        ("modes", "listwise", "a list of names"),
    ],
)
def test_mistyped_value_names_file_key_value_and_type(key, value, wanted):
    with pytest.raises(SettingError) as caught:
        build(**{key: value})
    message = str(caught.value)
    assert f"toy.toml: {key} is {value!r}" in message
    assert wanted in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("folds", 2),
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
    ],
)
def test_value_out_of_range_names_file_key_and_limits(key, value):
    with pytest.raises(SettingError, match=rf"toy\.toml: {key} is {value}; it must be a .*number from .* to "):
        build(**{key: value})


def test_limits_themselves_are_allowed():
    settings = build(folds=3, performance_threshold=1.0, history_length=1, shuffles=2, shuffled_users=2)
    assert (settings.folds, settings.shuffles, settings.shuffled_users) == (3, 2, 2)


@pytest.mark.parametrize("recommenders", [[], ["MF"]])
def test_fewer_than_two_recommenders_leave_no_other_one_to_compare_with(recommenders):
    with pytest.raises(SettingError, match=r"toy\.toml: recommenders is .*two or more.*ItemKNN"):
        build(recommenders=recommenders)


@pytest.mark.parametrize(
    ("recommenders", "compared"),
    [
        (["MF", "EASE"], ["MF", "EASE"]),
        (["MF", "BPR", "ItemKNN"], ["ItemKNN", "BPR"]),
        (VALUES["recommenders"], list(config.PUBLISHED_RECOMMENDERS)),
    ],
)
def test_claims_are_about_the_papers_recommenders_or_about_all_where_there_is_none(recommenders, compared):
    settings = build(recommenders=recommenders)
    assert config.compared_recommenders(settings.recommenders) == compared
    said = "".join(steps.not_compared(settings.recommenders, ["listwise"]))
    assert all(name in said for name in config.PUBLISHED_RECOMMENDERS if name not in recommenders)
    assert bool(said) == (len(compared) != 3)


def test_an_experiment_need_not_ask_as_the_paper_does_and_says_what_is_shown_instead():
    settings = build(modes=["listwise-labels", "likelihood"], everybody_modes=[])
    (said,) = steps.not_compared(config.PUBLISHED_RECOMMENDERS, settings.modes)
    assert "listwise" in said and "listwise-labels" in said


def test_one_mode_at_least_writes_since_notebook_04_reads_what_is_written():
    with pytest.raises(SettingError, match="modes has none .* add 'listwise'"):
        build(modes=["likelihood", "pointwise"])


# --- numbers --------------------------------------------------------------------------------------------------------


def bounds(pair: tuple[object, object]) -> tuple[float, float] | None:
    low, high = (getattr(one, end, None) for one, end in zip(pair, ("ge", "le"), strict=True))
    return None if low is None or high is None else (low, high)


def declared(kind: type) -> dict[str, tuple[object, tuple[float, float] | None]]:
    """The type and the range of every field of a settings class."""
    return {
        name: (
            one.annotation,
            next(((a.ge, b.le) for a, b in itertools.pairwise(one.metadata) if hasattr(a, "ge")), None),
        )
        for name, one in kind.model_fields.items()
        if not (one.metadata and hasattr(one.metadata[0], "strict"))
    }


NUMBERS = {
    f"{kind.__name__}.{key}": (kind, key, of_type, limits)
    for kind in (Experiment, EndpointSettings, own.RatingsFile)
    for key, (of_type, limits) in declared(kind).items()
    if {int, float} & {of_type, *typing.get_args(of_type)}
}


def settle(kind: type, key: str, value: object) -> object:
    """The settings with one number changed."""
    if kind is own.RatingsFile:
        return own.settings({"file": "r.csv", key: value})
    return with_endpoint(**{key: value}) if kind is EndpointSettings else build(**{key: value})


def test_every_number_among_the_settings_is_known_here():
    assert {"Experiment.seed", "EndpointSettings.timeout", "RatingsFile.lowest"} <= NUMBERS.keys()
    assert len(NUMBERS) > 20


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range_and_is_held_to_it(name):
    kind, key, of_type, (low, high) = NUMBERS[name]
    assert -math.inf < low < high < math.inf
    is_float = float in {of_type, *typing.get_args(of_type)}
    beyond = [low - 1, high + 1] if not is_float else [low - 0.5, high + 0.5, math.nan, math.inf, -math.inf]
    for value in beyond:
        value = value if is_float else int(value)
        with pytest.raises(ValueError, match=rf"{key} is {re.escape(str(value))}"):
            settle(kind, key, value)


def test_a_like_must_be_possible_and_the_scale_must_have_two_ends():
    with pytest.raises(SettingError, match=r"toy\.toml: lowest is 5 in \[ratings\]; .*rating_scale = 5"):
        build(dataset="mine", ratings={"file": "r.csv", "lowest": 5})
    assert build(dataset="mine", ratings={"file": "r.csv", "lowest": 4}).ratings["lowest"] == 4


@pytest.mark.parametrize("key", ["like_threshold", "performance_threshold"])
def test_a_whole_number_that_no_float_can_hold_is_refused(key):
    with pytest.raises(SettingError, match=rf"toy\.toml: {key} is 1000.*number from"):
        build(**{key: 10**400})


# --- names ----------------------------------------------------------------------------------------------------------

LEADING_OUT = [
    "..",
    "../x",
    "../../etc/x",
    "/x",
    "a/../../x",
    "a/..",
    "\\x",
    "a\\b",
    "C:\\x",
    "a\0b",
    ".x",
    "-x",
    "",
    "a\nb",
    "x\n",
]
LEADING_OUT += ["a" * 300, "a b", "//", "a//b", "a/", "~", "$HOME", "a;b", "\u202ex"]


@pytest.mark.parametrize("name", LEADING_OUT)
@pytest.mark.parametrize("key", ["dataset", "model"])
def test_a_name_that_leads_out_of_its_folder_names_the_key_the_value_and_what_is_allowed(key, name):
    behind = {"endpoint": ENDPOINT} if key == "model" else {}
    with pytest.raises(SettingError) as caught:
        build(**{key: name, **behind})
    assert str(caught.value).startswith(f"toy.toml: {key} is {name!r:.77}")
    assert "letters, digits" in str(caught.value)


@pytest.mark.parametrize("name", [*LEADING_OUT, "a/b"])
def test_names_of_experiments_and_of_ones_own_datasets_are_held_to_the_same_rule(name):
    with pytest.raises(SettingError, match="letters, digits"):
        config.load(name)
    with pytest.raises(SettingError, match="name is .*letters, digits"):
        config.build(name, VALUES, "toy.toml")
    with pytest.raises(SettingError, match="dataset is .*letters, digits"):
        steps.dataset(name, {"file": "r.csv"})


@pytest.mark.parametrize(
    "name",
    ["SmolLM2-135M-Instruct", "gpt-4o-mini", "Qwen/Qwen2.5-7B-Instruct", "qwen2.5:7b", "@cf/meta/llama-3-8b"]
    + ["data/models/SmolLM2-135M-Instruct-b179c9523d0e", "ft:gpt-4o-mini-2024-07-18:org::id", "a/b/c:free", "x" * 200],
)
def test_names_that_models_have_are_accepted(name):
    assert build(model=name, larger_models=[]).model == name


@pytest.mark.parametrize(
    "name", ["/models/Big Model", "../models/m", "~/m.gguf", r"C:\models\Big Model", "./Modèle (Q4).gguf", "x" * 1000]
)
def test_a_model_on_this_machine_may_be_given_by_any_path(name):
    settings = build(model=name, larger_models=[{"model": name, "users": {"listwise": 1}}])
    assert settings.model == settings.larger_models[0].model == name


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "m ", "\u202em", "x" * 1001])
def test_what_can_be_no_path_of_a_model_is_told_with_what_can(name):
    for changes in ({"model": name}, {"larger_models": [{"model": name, "users": {"listwise": 1}}]}):
        with pytest.raises(SettingError, match="model is .*hub, or a path"):
            build(**changes)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("Qwen/Qwen2.5-7B", "Qwen--Qwen2.5-7B"),
        ("data/models/m", "data--models--m"),
        ("qwen2.5:7b", "qwen2.5:7b"),
        ("/home/somebody/Big Model/", "Big_Model"),
        (r"C:\models\m", "m"),
        ("models/m.Q4.gguf", "m.Q4.gguf"),
        ("../..", "model"),
    ],
)
def test_a_models_answers_lie_in_a_file_of_its_name_without_the_folders_of_a_machine(name, file):
    assert models._path("ml-100k", name) == paths.RECORDINGS / "ml-100k" / f"{file}.sqlite"


@given(st.text(alphabet="ab/.\\-:\0~ _@\n", max_size=12), st.text(alphabet="ab/.\\-\0", max_size=8))
def test_whatever_is_accepted_as_a_name_stays_in_the_folder_of_recordings(model, dataset):
    try:
        settings = build(model=model, dataset=dataset)
    except SettingError:
        return
    path = models._path(settings.dataset, settings.model)
    assert path.resolve().parent.parent == paths.RECORDINGS.resolve()
    assert "\\" not in str(path.relative_to(paths.RECORDINGS))


@pytest.mark.parametrize("noun", ["film", "board game", "película", "TV show's episode", "映画", "3-D film", "a" * 40])
def test_a_noun_is_a_word_or_a_phrase(noun):
    assert build(noun=noun).noun == noun


@pytest.mark.parametrize(
    "noun",
    [
        "",
        " ",
        " film",
        "film ",
        "film\n",
        "film\n- Another",
        "fi\tlm",
        "{noun}",
        "film {0}",
        "}",
        "a" * 41,
        "\x00",
        "x\x1b[31m",
    ]
    + ["film\u2028", "<|im_end|>", 'film" Yes', "\ud800", "-", "x\u202ey"],
)
def test_a_noun_that_would_break_a_prompt_is_refused(noun):
    with pytest.raises(SettingError, match=r"toy\.toml: noun is .*word or phrase"):
        build(noun=noun)


# --- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recommenders": [*VALUES["recommenders"], "SVD"]}, "recommenders has 'SVD', which is none of MostPop"),
        ({"recommenders": [*VALUES["recommenders"], "../x"]}, "recommenders has '../x'"),
        ({"recommenders": [*VALUES["recommenders"], "BPR"]}, "recommenders has 'BPR' twice"),
        ({"modes": [*VALUES["modes"], "listwise"]}, "modes has 'listwise' twice"),
        ({"everybody_modes": ["likelihood", "likelihood"]}, "everybody_modes has 'likelihood' twice"),
        ({"topk_modes": ["likelihood", "likelihood"]}, "topk_modes has 'likelihood' twice"),
        ({"larger_models": [{"model": "a", "users": {"listwise": 1}}] * 2}, "larger_models has 'a' twice"),
        ({"larger_models": [{"model": "a", "users": {}}]}, "larger_models: 0: users is {}"),
        ({"larger_models": [{"model": "a", "users": {"listwise": True}}]}, "larger_models: 0: users is True"),
        ({"larger_models": [{"model": "a", "users": {"listwise": 10**6}}]}, "larger_models: 0: users is 1000000"),
        ({"grids": {"SVD": [1]}}, "grids has 'SVD', but it is not among recommenders"),
        ({"grids": {"MostPop": [1]}}, "grids has 'MostPop', but nothing of it is tuned"),
        ({"grids": {"BPR": []}}, "grids: BPR is .*one or more whole numbers from 1 to"),
        ({"grids": {"BPR": 100}}, "grids: BPR is 100"),
        ({"grids": {"BPR": [100, 0]}}, "grids: BPR is"),
        ({"grids": {"BPR": [10**9]}}, "grids: BPR is"),
        ({"grids": {"BPR": [True]}}, "grids: BPR is"),
        ({"grids": {"BPR": [100.5]}}, "grids: BPR is .*whole"),
        ({"grids": {"BPR": ["100"]}}, "grids: BPR is"),
        ({"grids": {"MF": [math.nan]}}, "grids: MF is .*nan"),
        ({"grids": {"EASE": [math.inf]}}, "grids: EASE is .*inf"),
        ({"grids": {"EASE": [0]}}, "grids: EASE is"),
        ({"grids": {"BPR": [100, 200, 100]}}, "grids: BPR has 100 twice"),
    ],
)  # fmt: skip
def test_a_list_with_something_strange_twice_or_missing_names_it(changes, says):
    with pytest.raises(SettingError, match=rf"toy\.toml: {says}"):
        config.build("toy", VALUES | changes, "toy.toml")


def test_a_grid_arrives_as_it_stands():
    grids = {"MF": [0.5, 1], "BPR": [7], "EASE": [300]}
    assert build(grids=grids).grids == grids


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
    with pytest.raises(SettingError, match=r"toy\.toml: everybody_modes has 'pointwise', which is not among modes"):
        build(modes=["listwise"], everybody_modes=["listwise", "pointwise"])


@pytest.mark.parametrize(
    ("modes", "says"), [([], "modes is empty"), (["listwise", "telepathy"], "modes has 'telepathy'")]
)
def test_modes_that_do_not_exist_are_refused_before_anything_runs(modes, says):
    with pytest.raises(SettingError, match=rf"toy\.toml: {says}.*Known: listwise, "):
        build(modes=modes, everybody_modes=[])


def test_an_endpoint_is_asked_for_probabilities_only_if_it_is_said_to_give_them():
    asked = {"modes": ["listwise", "likelihood"], "everybody_modes": ["likelihood"], "topk_modes": ["likelihood"]}
    with pytest.raises(SettingError, match=r"modes has 'likelihood', but an endpoint answers in text.*logprobs = true"):
        build(**asked, endpoint=ENDPOINT)
    assert build(**asked, endpoint=ENDPOINT | {"logprobs": True}).modes == ("listwise", "likelihood")


def test_what_was_taught_survives_the_way_through_a_notebook_and_its_way_is_checked():
    plain = config.parameters(build(taught={"users": 30}))["taught"]
    assert plain == {"users": 30}
    assert config.Taught(**plain) == build(taught=plain).taught
    assert config.parameters(build(taught=None))["taught"] is None
    with pytest.raises(SettingError, match=r"toy\.toml: taught: way is 'listwise'; it must be rating lines, "):
        build(taught={"way": "listwise"})
    with pytest.raises(SettingError, match=r"toy\.toml: taught: adapter_of is '\.\./x'"):
        build(taught={"adapter_of": "../x"})
    with pytest.raises(SettingError, match=r"toy\.toml: taught is there, and so is \[endpoint\]"):
        build(endpoint=ENDPOINT, taught={})


# --- a model on this machine ----------------------------------------------------------------------------------------


def test_how_a_model_is_loaded_survives_the_way_through_a_notebook():
    assert config.parameters(build(local=None))["local"] is None
    plain = config.parameters(build(local={"dtype": "bfloat16"}))["local"]
    assert plain == {"dtype": "bfloat16"}
    assert LocalSettings(**plain) == build(local=plain).local


@pytest.mark.parametrize(
    ("local", "says"),
    [
        ({"dtype": "float16"}, "local: dtype is 'float16'; it must be .*float32.*bfloat16"),
        ({"device": "gpu"}, "local: device is 'gpu'; it must be .*cpu.*cuda"),
        ({"device": 1}, "local: device is 1; it must be"),
        ({"revision": "a b"}, "local: revision is 'a b'; it must be a branch"),
        ({"revision": ""}, "local: revision is ''"),
        ({"precision": 16}, "local: unknown key 'precision'.*device, dtype, revision"),
    ],
)
def test_a_way_to_load_that_is_none_names_the_key_and_what_is_possible(local, says):
    with pytest.raises(SettingError, match=rf"toy\.toml: {says}"):
        build(local=local)
    if "precision" not in local:
        with pytest.raises(SettingError, match=r"toy\.toml: larger_models: 0: .* it must be"):
            build(larger_models=[{"model": "a", "users": {"listwise": 1}, **local}])


def test_a_model_answers_here_or_behind_an_endpoint_but_not_both():
    with pytest.raises(SettingError, match=r"toy\.toml: local is there, and so is \[endpoint\].*Leave one"):
        build(local={}, endpoint=ENDPOINT)


def test_a_larger_model_is_loaded_as_the_first_unless_it_says_otherwise():
    larger = [
        {"model": "org/a", "users": {"listwise": 1}},
        {"model": "org/b", "users": {"listwise": 1}, "dtype": "float32", "revision": "v2"},
    ]
    plain = config.parameters(
        build(local={"revision": "v1", "dtype": "bfloat16", "device": "cuda:1"}, larger_models=larger)
    )
    assert plain["larger_models"] == larger  # so that the notebooks' own defaults are still those of ml-100k
    first = models.open_model("org/a", None, plain["local"])
    one, other = (models.open_larger(one, plain["local"]) for one in plain["larger_models"])
    assert first.loaded == LocalSettings(revision="v1", dtype="bfloat16", device="cuda:1")
    assert one.loaded == LocalSettings(dtype="bfloat16", device="cuda:1")  # a revision is of one model alone
    assert other.loaded == LocalSettings(revision="v2", dtype="float32", device="cuda:1")
    assert models.open_larger(larger[0]).loaded == LocalSettings()


@pytest.mark.parametrize("unknown", ["GPT-9", "/nowhere/m", "./m.gguf"])
def test_an_unknown_model_is_told_before_any_data_is_read(unknown, monkeypatch, capsys):
    known = {"model": VALUES["model"], "users": {"listwise": 1}}
    assert models.check(build(larger_models=[known], taught=None)) == []
    for changes in ({"model": unknown}, {"larger_models": [known | {"model": unknown}]}):
        monkeypatch.setattr(config, "load", lambda name, changes=changes: build(**changes))
        assert __main__.main(["data", "toy"]) == 2
        assert unknown in capsys.readouterr().err


def test_a_model_behind_an_endpoint_without_a_price_is_told_before_any_data_is_read():
    with pytest.raises(PriceError, match="org/none"):
        models.check(build(model="org/none", endpoint=ENDPOINT, larger_models=[]))


# --- larger models --------------------------------------------------------------------------------------------------


def test_larger_models_arrive_in_their_order():
    larger = [{"model": "a", "users": {"likelihood": 5}}, {"model": "b", "users": {"listwise": 2, "pointwise": 3}}]
    assert build(larger_models=larger).larger_models == tuple(LargerModel(**one) for one in larger)
    assert build(larger_models=[]).larger_models == ()


@pytest.mark.parametrize(
    ("larger", "says"),
    [
        ({"model": "a", "users": {"telepathy": 5}}, "users has 'telepathy'"),
        ({"model": "a", "users": {"likelihood": 0}}, "users is 0; .*from 1 to 100,000"),
        ({"model": "a", "users": {"likelihood": 1.5}}, "users is 1.5"),
        ({"model": "a"}, "missing key 'users'"),
        ({"users": {}}, "missing key 'model'"),
        ({"model": "a", "users": {}, "sample": 5}, "unknown key 'sample'"),
        ({"model": "a", "users": {"likelihood": 5}, "cross_way": "telepathy"}, "cross_way has 'telepathy'.*likes only"),
        ({"model": "a", "users": {"likelihood": 5}, "cross_users": 9}, "cross_users is 9, but cross_way"),
        ("gemma", "must be a table"),
    ],
)
def test_a_larger_model_that_cannot_be_asked_names_file_and_fault(larger, says):
    with pytest.raises(SettingError, match=rf"toy\.toml.*larger_models.*{says}"):
        build(larger_models=[larger])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cross_ways": ["telepathy"]}, "cross_ways has 'telepathy': unknown .*likes only.*listwise-labels.*compare"),
        ({"cross_ways": ["compare", "likelihood"]}, "cross_ways has 'compare'"),
        ({"cross_ways": ["likelihood", "pointwise"]}, "cross_ways has 2 ways; .*each of the 5 folds"),
        ({"cross_ways": [], "cross_users": 100}, "cross_users is 100, but cross_ways is empty"),
        ({"cross_ways": ["likelihood"], "cross_users": 1}, "cross_users is 1"),
        ({"cross_ways": ["compare"], "endpoint": ENDPOINT}, "cross_ways has 'compare', but an endpoint.*'listwise'"),
        ({"cross_ways": ["likes only"], "endpoint": ENDPOINT}, "cross_ways has 'likes only', but an endpoint"),
        ({"cross_ways": ["compare"], "modes": ["listwise"], "like_threshold": 1, "rating_scale": 1,
          "ratings": {"file": "a.csv", "user": "u", "item": "i", "rating": "r", "likes": ["up"]}},
         "cross_ways has 'pointwise with facts', which tells the model of a mean rating"),
    ],
)  # fmt: skip
def test_ways_that_cannot_be_asked_under_cross_are_refused(changes, says):
    with pytest.raises(SettingError, match=rf"toy\.toml: {says}"):
        build(**changes)


def test_one_way_is_named_for_all_folds_or_one_for_each_and_an_endpoint_writes():
    five = ["likelihood", "likes only", "likelihood", "pointwise", "likelihood"]
    assert build(cross_ways=five, cross_users=50).cross_ways == tuple(five)
    assert build(cross_ways=["listwise-labels"], endpoint=ENDPOINT).cross_ways == ("listwise-labels",)
    assert build(cross_ways=["compare"], endpoint=ENDPOINT | {"logprobs": True}).cross_ways == ("compare",)


@pytest.mark.parametrize("mode", ["listwise", "pointwise"])
def test_retrieved_lists_are_re_ranked_by_probabilities_that_were_asked_for(mode):
    with pytest.raises(SettingError, match=f"topk_modes has '{mode}'"):
        build(modes=["listwise", "likelihood"], topk_modes=[mode])


# --- the endpoint (the rest: test_settings.py) ----------------------------------------------------------------------


def test_an_endpoint_is_read_from_its_table(tmp_path):
    table = '\n[endpoint]\nbase_url = "https://llm.example/v1"\nparameters = { temperature = 0 }\n'
    file = tmp_path / "mine.toml"
    written = re.sub(
        r"^(modes|everybody_modes|topk_modes|cross_ways) = .*$",
        r"\1 = []",
        DEFAULT.read_text(encoding="utf-8"),
        flags=re.M,
    )
    written = re.sub(r"^\[(local|taught)\]\n(.+\n)+", "", written, flags=re.M)
    file.write_text(written.replace("modes = []", 'modes = ["listwise"]', 1) + table, encoding="utf-8")
    assert config.read(file).endpoint == EndpointSettings(**ENDPOINT, parameters={"temperature": 0})


# --- files ----------------------------------------------------------------------------------------------------------


def test_unknown_experiment_lists_those_there():
    with pytest.raises(SettingError, match=r"no experiment 'ml-2'.*notebooks/experiments.*ml-100k"):
        config.load("ml-2")


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path):
    (tmp_path / "toy.toml").write_text("folds = = 5", encoding="utf-8")
    with pytest.raises(SettingError, match=r"toy\.toml"):
        config.read(tmp_path / "toy.toml")


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "toy.toml").write_bytes('noun = "película"'.encode("latin-1"))
    with pytest.raises(SettingError, match=r"toy\.toml: not UTF-8 text \(byte 12\)"):
        config.read(tmp_path / "toy.toml")


def test_a_number_of_thousands_of_digits_is_refused_by_the_files_name(tmp_path):
    (tmp_path / "toy.toml").write_text(f"seed = {'1' * 5000}", encoding="utf-8")
    with pytest.raises(SettingError, match=r"toy\.toml: .*digits") as caught:
        config.read(tmp_path / "toy.toml")
    assert len(str(caught.value)) < 300


def test_a_mode_twice_in_larger_models_is_no_toml(tmp_path):
    table = '\n[[larger_models]]\nmodel = "a"\nusers = { listwise = 1, listwise = 2 }\n'
    (tmp_path / "toy.toml").write_text(DEFAULT.read_text(encoding="utf-8") + table, encoding="utf-8")
    with pytest.raises(SettingError, match=r"toy\.toml: .*line"):
        config.read(tmp_path / "toy.toml")


@pytest.mark.parametrize("wrong", ["folds = 99", "folds = 'five'", "speed = 5", "recommenders = []", "name = 'x'"])
def test_an_error_names_the_file_it_was_found_in(wrong, tmp_path):
    text = DEFAULT.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith(wrong.split()[0])]
    file = tmp_path / "mine.toml"
    file.write_text("\n".join([wrong, *kept]), encoding="utf-8")
    with pytest.raises(SettingError, match=rf"^mine\.toml: .*{wrong.split()[0]}") as caught:
        config.read(file)
    assert str(caught.value).count("mine.toml") == 1


@pytest.mark.parametrize("path", sorted(paths.EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_committed_experiment_loads(path: Path):
    assert config.load(path.stem).name == path.stem


def test_the_default_experiment_holds_the_published_settings():
    settings = config.load("ml-100k")
    assert (settings.dataset, settings.like_threshold, settings.performance_threshold) == ("ml-100k", 4.0, 0.5)
    assert settings.sparsity_threshold is None
    assert settings.history_length == 20


@pytest.mark.parametrize("key", [*Experiment.model_fields, *EndpointSettings.model_fields, *LocalSettings.model_fields])
def test_every_key_is_explained_beside_the_experiments(key):
    text = (paths.EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    assert key == "name" or f"| `{key}` |" in text or f"## The table `[{key}]`" in text


def test_parameters_survive_the_way_through_a_notebook():
    settings = build()
    plain = config.parameters(settings)
    assert plain["recommenders"] == VALUES["recommenders"]
    assert config.build(plain.pop("name"), plain, "") == settings


def test_an_endpoint_survives_the_way_through_a_notebook():
    endpoint = with_endpoint(parameters={"max_tokens": 400}, concurrency=2, spending_cap_usd=1)
    plain = config.parameters(build(endpoint=ENDPOINT | {"concurrency": 2}))["endpoint"]
    assert plain["base_url"] == ENDPOINT["base_url"]
    assert EndpointSettings(**plain) == with_endpoint(concurrency=2) != endpoint
