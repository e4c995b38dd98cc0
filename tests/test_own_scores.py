"""Scores of the user's own recommender, from files, are a recommender of the study like any other."""

import notebooks_here
import numpy as np
import pandas as pd
import pytest
from toy_model import ToyModel

from hybridrec.data import datasets, folds
from hybridrec.errors import ScoresError, SettingError
from hybridrec.recommenders import cross, fits, fitting
from hybridrec.study import __main__ as commands
from hybridrec.study import config, cross_steps, models, paths, steps, tables
from hybridrec.weak_users import triage

SEED = 3


@pytest.fixture
def study(tmp_path, monkeypatch, interactions, items) -> tuple[config.Experiment, steps.Prepared]:
    """Quick fits without a cache; files are looked for in a folder of the test's."""
    monkeypatch.setattr(fitting, "run", lambda todo, *_: [fits.fit_and_score(work) for work in todo])
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path))
    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(tmp_path / "scratch"))
    settings = build()
    return settings, steps.prepare(datasets.Dataset("toy", interactions, items, "made up"), settings, SEED)


def build(**changed: object) -> config.Experiment:
    values = config.parameters(config.load("ml-100k"))
    values |= {"recommenders": ["MostPop", "EASE"], "grids": {"EASE": [30]}, "folds": 3, "top": 10, "seed": SEED}
    values |= {"larger_models": [], "modes": ["listwise", "likelihood"], "everybody_modes": [], "shuffles": 2}
    values |= {"cross_ways": ["history of 10"], "shuffled_users": 2, "topk_users": 2, "bootstrap_samples": 100}
    del values["name"]
    return config.build("toy", values | changed, "toy.toml")


def with_files(scores: pd.DataFrame, folder, name: str = "Mine") -> config.Experiment:
    """EASE's scores, written as a user would write those of her own service."""
    own = scores.loc[scores["recommender"] == "EASE", ["item", "user", "score"]]
    own.sample(frac=1, random_state=1).to_csv(folder / "test.csv", index=False)  # in any order
    return build(scores={name: {"test": "test.csv"}})


def recommend(prepared: steps.Prepared, settings: config.Experiment) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tuning table and the scores of the test, as notebook 02 makes them."""
    tables_read = (prepared.interactions, prepared.candidates, prepared.items)
    own = steps.own_recommenders("toy", config.parameters(settings)["scores"], *tables_read)
    study = fitting.Study(
        prepared.interactions, prepared.items["item"].to_numpy(), 4.0, SEED, settings.grids, workers=1, own=own
    )
    tuning = fitting.tune(study, settings.recommenders)
    return tuning, fitting.test_scores(study, fitting.chosen_params(tuning), prepared.candidates, top=0)[0]


def divided(prepared: steps.Prepared) -> pd.DataFrame:
    """The folds of ``cross``; no user is drawn here, so the split's ratings are all there are."""
    return cross_steps.divide(prepared.interactions.drop(columns="split"), 4.0, 3, SEED)[0]


def test_eases_scores_for_cross_are_those_of_ease_and_without_them_it_is_told(study, tmp_path):
    settings, prepared = study
    _, scores = recommend(prepared, settings)
    without = with_files(scores, tmp_path).model_dump()["scores"]
    assert cross_steps.own_scores("toy", without, divided(prepared), prepared.items) == {}
    (told,) = cross_steps.left_out(without)
    assert "Mine" in told and "[scores.Mine]" in told
    tuned, ours = cross_steps.recommend(divided(prepared), prepared.items, settings, SEED)
    ease = ours[ours["ranker"] == "EASE"].reset_index(drop=True)
    ease.sample(frac=1, random_state=1)[["user", "item", "test", "score"]].to_csv(tmp_path / "cross.csv", index=False)
    files = {"Mine": {"test": "test.csv", "cross": "cross.csv"}}
    assert cross_steps.left_out(files) == []
    both_tuned, both = cross_steps.recommend(divided(prepared), prepared.items, build(scores=files), SEED)
    mine = both[both["ranker"] == "Mine"].sort_values(["test", "fold", "user", "item"], ignore_index=True)
    pd.testing.assert_frame_equal(mine.drop(columns="ranker"), ease.drop(columns="ranker"))
    pd.testing.assert_frame_equal(both[both["ranker"] != "Mine"], ours)
    auc = both_tuned[both_tuned["chosen"]].pivot(index="test", columns="recommender", values="auc")
    assert auc["Mine"].tolist() == pytest.approx(auc["EASE"].tolist())
    assert len(both_tuned) == len(tuned) + 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.iloc[4:], "4 of .* ratings have no score for test 0"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), "test 0: two scores"),
        (lambda rows: rows.assign(test=rows["test"] + 1), "test 3; it must be a fold, 0 to 2"),
    ],
)
def test_scores_for_cross_that_are_not_whole_are_refused(study, change, told):
    _, prepared = study
    rows = divided(prepared)
    table = pd.concat([rows.assign(test=test, score=0.5) for test in range(3)], ignore_index=True)
    with pytest.raises(ScoresError, match=told):
        cross.given("Mine", change(table), rows, prepared.items)


def test_a_table_of_eases_scores_is_triaged_as_ease_is(study, tmp_path):
    settings, prepared = study
    _, scores = recommend(prepared, settings)
    own = with_files(scores, tmp_path)
    tuning, both = recommend(prepared, own)
    judged = steps.judged(both, prepared.candidates)
    weak = triage.triage_table(judged, prepared.sparsity, steps.thresholds(settings), "published")
    ease, mine = (
        weak[weak["recommender"] == name].drop(columns="recommender").reset_index(drop=True)
        for name in ("EASE", "Mine")
    )
    assert len(ease)
    pd.testing.assert_frame_equal(ease, mine)
    row = tuning.set_index("recommender").loc["Mine"]
    assert row[["parameter", "chosen"]].tolist() == ["", True] and np.isnan(row["auc"])  # nothing to choose by
    pd.testing.assert_frame_equal(both[both["recommender"] != "Mine"].reset_index(drop=True), scores)


def test_pairs_without_a_score_are_counted_and_what_lists_all_of_them_is_named(study, tmp_path):
    settings, prepared = study
    own = with_files(recommend(prepared, settings)[1], tmp_path)
    pd.read_csv(tmp_path / "test.csv").iloc[3:].to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ScoresError, match=r"test\.csv.*: 3 of .* candidates.*make pairs EXPERIMENT=toy"):
        recommend(prepared, own)
    (tmp_path / "test.csv").unlink()
    with pytest.raises(ScoresError, match="no file 'test.csv'.*make pairs EXPERIMENT=toy"):
        recommend(prepared, own)


def test_what_has_to_be_scored_is_listed_with_the_folds_of_the_study(study, tmp_path):
    settings, prepared = study
    tables.write("toy", candidates=prepared.candidates, cross_ratings=divided(prepared))
    commands.pairs(settings)
    test, of_cross = (pd.read_parquet(paths.tables("toy") / "pairs" / f"{name}.parquet") for name in ("test", "cross"))
    pd.testing.assert_frame_equal(test, prepared.candidates[["user", "item"]])
    pd.testing.assert_frame_equal(of_cross, divided(prepared)[["user", "item", "rating", "fold"]])


@pytest.mark.parametrize("name", ["EASE", "a/b"])
def test_a_name_that_is_taken_or_no_name_is_refused(name):
    with pytest.raises(SettingError, match="scores"):
        build(scores={name: {"test": "b.csv"}})


@pytest.mark.slow
def test_all_notebooks_after_the_first_run_with_own_scores(study, tmp_path, monkeypatch):
    settings, prepared = study
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path / "recordings")
    monkeypatch.setattr(models, "open_model", lambda *_, **__: ToyModel())
    own = with_files(recommend(prepared, settings)[1], tmp_path)
    sparsity = prepared.sparsity.reset_index().assign(inactive=prepared.sparsity.index.isin(prepared.inactive))
    tables.write("toy", interactions=prepared.interactions, candidates=prepared.candidates, items=prepared.items)
    tables.write("toy", sparsity=sparsity, cross_ratings=(mine := divided(prepared)))
    tables.write("toy", cross_candidates=folds.candidates(mine, settings.like_threshold, SEED))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebooks_here.run(own, notebooks_here.NAMES[1:])
    assert set(tables.read("toy", "triage")["recommender"]) == {"MostPop", "EASE", "Mine"}
    assert set(pd.read_csv(paths.results("toy") / "weak_counts.csv")["recommender"]) == {"MostPop", "EASE", "Mine"}
    assert set(tables.read("toy", "cross_scores")["ranker"]) == {"MostPop", "EASE"}
    assert set(tables.read("toy", "cross_triage")["recommender"]) == {"MostPop", "EASE"}
    assert set(tables.read("toy", "fits")["recommender"]) == {"MostPop", "EASE"}
    assert set(tables.read("toy", "retrieved")["recommender"]) == {"MostPop", "EASE"}
