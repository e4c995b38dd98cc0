"""Settings are typed: whatever is unknown, missing, mistyped or out of range is an error that names the key."""

import tomllib
from pathlib import Path

import pytest

from hybridrec import experiment, paths
from hybridrec.experiment import ExperimentError

VALUES = tomllib.loads((paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8"))


def build(**changes: object) -> experiment.Experiment:
    return experiment.build("toy", VALUES | changes, "toy.toml")


def test_values_arrive_as_declared():
    settings = build(like_threshold=4, sparsity_threshold=0.95, recommenders=["BPR", "NeuMF", "ItemKNN"])
    assert settings.name == "toy"
    assert settings.recommenders == ("BPR", "NeuMF", "ItemKNN")
    assert isinstance(settings.like_threshold, float)
    assert settings.sparsity_threshold == 0.95
    assert build().sparsity_threshold is None


def test_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ExperimentError, match=r"toy\.toml: unknown key 'fold'.*folds"):
        build(fold=5)


@pytest.mark.parametrize("key", sorted(VALUES))
def test_missing_key_is_named(key):
    values = {k: v for k, v in VALUES.items() if k != key}
    with pytest.raises(ExperimentError, match=rf"toy\.toml: missing key '{key}'"):
        experiment.build("toy", values, "toy.toml")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("folds", "5", "int"),
        ("folds", 5.0, "int"),
        ("folds", True, "int"),
        ("like_threshold", "4", "float"),
        ("like_threshold", False, "float"),
        ("sparsity_threshold", "0.9", "float"),
        ("dataset", 100, "str"),
        ("recommenders", 3, "a list of names"),
        ("recommenders", "MF", "a list of names"),
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
        ("bootstrap_samples", 99),
        ("permutations", 99),
    ],
)
def test_value_out_of_range_names_key_and_limits(key, value):
    with pytest.raises(ExperimentError, match=f"{key} is {value}; it must be from .* to "):
        build(**{key: value})


def test_limits_themselves_are_allowed():
    assert build(folds=2, performance_threshold=1.0, history_length=1).folds == 2


def test_unknown_experiment_lists_those_there():
    with pytest.raises(ExperimentError, match=r"no experiment 'ml-2'.*notebooks/experiments.*ml-100k"):
        experiment.load("ml-2")


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path):
    (tmp_path / "toy.toml").write_text("folds = = 5")
    with pytest.raises(ExperimentError, match=r"toy\.toml"):
        experiment.read(tmp_path / "toy.toml")


@pytest.mark.parametrize("path", sorted(paths.EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_committed_experiment_loads(path: Path):
    assert experiment.load(path.stem).name == path.stem


def test_the_default_experiment_holds_the_published_settings():
    settings = experiment.load("ml-100k")
    assert (settings.dataset, settings.like_threshold, settings.performance_threshold) == ("ml-100k", 4.0, 0.5)
    assert settings.sparsity_threshold is None
    assert settings.history_length == 20


def test_parameters_survive_the_way_through_a_notebook():
    settings = build()
    plain = experiment.parameters(settings)
    assert plain["recommenders"] == VALUES["recommenders"]
    assert experiment.Experiment(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}) == settings


def test_an_experiment_without_a_recommender_of_the_paper_names_it(tmp_path):
    text = (paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(text.replace('"NeuMF", ', ""), encoding="utf-8")
    with pytest.raises(ExperimentError, match="recommenders lacks 'NeuMF'"):
        experiment.read(file)
