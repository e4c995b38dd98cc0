"""The overview repeats what the experiments' own files say, and the index knows which cell makes what."""

import json

import pandas as pd
import pytest

from hybridrec.study import overview, paths

NAMES = overview.experiments()


def test_a_study_on_a_subset_is_no_dataset_of_its_own(tmp_path, monkeypatch):
    for name in ("class", "ml-100k", "no longer declared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "claims.csv").write_text("claim\n", encoding="utf-8")
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    assert overview.experiments() == ["ml-100k", "no longer declared"]


@pytest.mark.slow
def test_committed_overview_is_what_the_results_give(tmp_path):
    assert overview.write(tmp_path) == NAMES
    for name in ("README.md", "overview.csv", "beyond_controls.csv", "seeds.csv"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (paths.RESULTS / name).read_text(encoding="utf-8"), (
            f"{name}: run `make overview`"
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_overview_stands_in_the_experiments_metrics(name):
    headline = json.loads((paths.RESULTS / name / "metrics.json").read_text(encoding="utf-8"))["headline"]
    rows = pd.read_csv(paths.RESULTS / "overview.csv").query("dataset == @name")
    assert set(rows["ranker"]) == set(overview.RANKERS)
    for row in rows.itertuples():
        assert row.auc == headline[row.protocol][row.ranker]["weak_auc_after"]


@pytest.mark.parametrize("name", NAMES)
def test_written_lists_say_how_much_of_them_is_random_repair(name):
    validity = json.loads((paths.RESULTS / name / "metrics.json").read_text(encoding="utf-8"))["llm"]["validity"]
    rows = overview.weak_users([name])
    (missing,) = [row["missing"] for row in validity if row["ranker"] == "listwise"]
    assert 0 < missing <= 1
    assert set(rows.loc[rows["ranker"] == "listwise", "random_repair"]) == {missing}
    assert set(rows.loc[rows["ranker"] != "listwise", "random_repair"]) == {0}


def test_the_figure_shows_means_over_splits_and_one_split_where_no_other_was_run():
    keys = ["dataset", "protocol", "ranker"]
    weak = pd.DataFrame(
        [("a", "published", "listwise", 0.9), ("a", "published", "random", 0.9), ("b", "published", "listwise", 0.3)],
        columns=[*keys, "auc"],
    )
    spread = pd.DataFrame(
        [("a", "published", "random", 5, 0.5, 0.1, 0.4, 0.7)],
        columns=[*keys, "splits", "mean", "sd", "lowest", "highest"],
    )
    shown = overview.shown_means(weak, spread).to_dict("records")
    first = {"dataset": "a", "protocol": "published", "ranker": "random", "splits": 5}
    second = {"dataset": "b", "protocol": "published", "ranker": "listwise", "splits": 1}
    assert shown == [
        first | {"auc": 0.5, "lowest": 0.4, "highest": 0.7},
        second | {"auc": 0.3, "lowest": 0.3, "highest": 0.3},
    ]


def test_labels_name_the_model_that_was_asked_and_count_the_splits():
    shown = pd.DataFrame({"ranker": ["likelihood", "likelihood", "random"], "splits": [3, 5, 5]})
    called = overview.called(["ml-100k", "not declared"], shown)
    assert list(called) == ["likelihood", "random"]
    assert "SmolLM2-135M-Instruct" in called["likelihood"] and "3 to 5" in called["likelihood"]
    assert called["random"].endswith("5)")


@pytest.mark.parametrize("name", NAMES)
def test_every_table_and_figure_of_an_experiment_is_in_the_index(name):
    made = {result for result, *_ in overview.made_by()} | {"seeds"}
    there = {file.stem for file in (paths.RESULTS / name).iterdir() if file.suffix in (".csv", ".png", ".svg")}
    assert there <= made, "a leftover, or made where the index does not look"


def test_the_index_names_notebook_section_and_cell():
    found = {result: (notebook, section) for result, notebook, section, _ in overview.made_by()}
    assert found["05_headline"] == ("05_evaluation", "5. Held-out: the honest comparison")
    assert found["tuning"][0] == "02_baselines"


def test_a_result_that_an_experiment_lacks_is_no_link(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    assert "| – |" in overview.index(["nothing"])


def test_a_model_that_the_picture_leaves_out_is_named_and_a_number_that_is_not_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    for name, way in (("labels", "listwise-labels"), ("titles", "listwise")):
        routed = {ranker: {"weak_auc_after": None} for ranker in ("recommender", way, "random")}
        found = {"headline": {"published": routed, "held-out": routed}}
        found["llm"] = {"validity": [{"ranker": way, "missing": 0.25}]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    assert overview.asked_otherwise(["labels", "titles"]) == ["labels"]
    text = overview.index(["labels", "titles"], ["labels"]).split("| made by")[0]
    assert "language model: labels." in text and "titles" not in text
    weak = overview.weak_users(["labels", "titles"])
    assert weak["auc"].isna().all() and weak["auc"].dtype == float
    assert set(weak.loc[weak["ranker"] == "listwise", "random_repair"]) == {0.25}
