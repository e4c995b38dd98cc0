"""Scores of the user's own recommender, from files, are a recommender of the study like any other."""

import nbformat
import pandas as pd
import pytest
from toy_model import ToyModel

from hybridrec.data import datasets, folds
from hybridrec.errors import ScoresError, SettingError
from hybridrec.recommenders import cross, fits, fitting
from hybridrec.study import __main__ as commands
from hybridrec.study import config, models, paths, steps, tables
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
    del values["name"]
    return config.build("toy", values | changed, "toy.toml")


def with_files(scores: pd.DataFrame, folder, name: str = "Mine") -> config.Experiment:
    """EASE's scores, written as a user would write those of her own service."""
    own = scores[scores["recommender"] == "EASE"]
    own[own["part"] == "test"][["user", "item", "score"]].to_csv(folder / "test.csv", index=False)
    out = own[own["part"] == "out-of-fold"][["item", "user", "fold", "score"]]
    out.sample(frac=1, random_state=1).to_parquet(folder / "out of fold.parquet")  # in any order
    return build(scores={name: {"out_of_fold": "out of fold.parquet", "test": "test.csv"}})


def divided(prepared: steps.Prepared) -> pd.DataFrame:
    """The folds of ``cross``; no user is drawn here, so the split's ratings are all there are."""
    return steps.cross_divide(prepared.interactions.drop(columns="split"), 4.0, 3, SEED)[0]


def test_eases_scores_for_cross_are_those_of_ease_and_without_them_it_is_told(study, tmp_path):
    settings, prepared = study
    _, scores = steps.recommend(prepared, settings, SEED)
    without = with_files(scores, tmp_path).model_dump()["scores"]
    assert steps.own_cross_scores("toy", without, divided(prepared), prepared.items) == {}
    (told,) = steps.no_cross_scores(without)
    assert "Mine" in told and "[scores.Mine]" in told
    tuned, ours = steps.cross_recommend(divided(prepared), prepared.items, settings, SEED)
    ease = ours[ours["ranker"] == "EASE"].reset_index(drop=True)
    ease.sample(frac=1, random_state=1)[["user", "item", "test", "score"]].to_csv(tmp_path / "cross.csv", index=False)
    files = {"Mine": {"out_of_fold": "out of fold.parquet", "test": "test.csv", "cross": "cross.csv"}}
    assert steps.no_cross_scores(files) == []
    both_tuned, both = steps.cross_recommend(divided(prepared), prepared.items, build(scores=files), SEED)
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
    _, scores = steps.recommend(prepared, settings, SEED)
    own = with_files(scores, tmp_path)
    tuning, both = steps.recommend(prepared, own, SEED)
    judged = steps.judged(both, prepared.candidates)
    weak = triage.triage_table(judged, prepared.sparsity, steps.thresholds(settings), "published")
    ease, mine = (
        weak[weak["recommender"] == name].drop(columns="recommender").reset_index(drop=True)
        for name in ("EASE", "Mine")
    )
    assert len(ease)
    pd.testing.assert_frame_equal(ease, mine)
    assert tuning.set_index("recommender").loc["Mine", ["parameter", "chosen"]].tolist() == ["", True]
    assert 0 < tuning.set_index("recommender").loc["Mine", "auc"] < 1
    pd.testing.assert_frame_equal(both[both["recommender"] != "Mine"].reset_index(drop=True),
                                  scores.sort_values("part", key=lambda part: part != "test", kind="stable")
                                  .reset_index(drop=True), check_like=True)  # fmt: skip


@pytest.mark.parametrize(
    ("file", "part", "lost"), [("test.csv", "candidates", 3), ("out of fold.parquet", "ratings", 5)]
)
def test_pairs_without_a_score_are_counted_and_what_lists_all_of_them_is_named(study, tmp_path, file, part, lost):
    settings, prepared = study
    own = with_files(steps.recommend(prepared, settings, SEED)[1], tmp_path)
    read = pd.read_csv if file.endswith("csv") else pd.read_parquet
    table = read(tmp_path / file).iloc[lost:]
    table.to_csv(tmp_path / file, index=False) if file.endswith("csv") else table.to_parquet(tmp_path / file)
    with pytest.raises(ScoresError) as caught:
        steps.recommend(prepared, own, SEED)
    told = str(caught.value)
    assert file in told and f"{lost} of " in told and part in told and "make pairs EXPERIMENT=toy" in told
    (tmp_path / file).unlink()
    with pytest.raises(ScoresError, match=f"no file '{file}'.*make pairs EXPERIMENT=toy"):
        steps.recommend(prepared, own, SEED)


def test_what_has_to_be_scored_is_listed_with_the_folds_of_the_study(study, tmp_path):
    """A fit of the pairs' own folds gives EASE's scores: whoever keeps to the list is judged as EASE is."""
    settings, prepared = study
    _, scores = steps.recommend(prepared, settings, SEED)
    tables.write("toy", interactions=prepared.interactions, candidates=prepared.candidates)
    tables.write("toy", cross_ratings=divided(prepared))
    commands.pairs(settings)
    out_of_fold, test, of_cross = (
        pd.read_parquet(paths.tables("toy") / "pairs" / f"{name}.parquet") for name in ("out_of_fold", "test", "cross")
    )
    ease = scores[scores["recommender"] == "EASE"]
    known = ease[ease["part"] == "out-of-fold"]
    assert len(out_of_fold) == len(known) and len(test) == len(ease) - len(known)
    assert len(known.merge(out_of_fold, on=["user", "item", "fold"])) == len(known)
    assert len(ease[ease["part"] == "test"].merge(test, on=["user", "item"])) == len(test)
    pd.testing.assert_frame_equal(of_cross, divided(prepared)[["user", "item", "rating", "fold"]])


@pytest.mark.parametrize("name", ["EASE", "a/b"])
def test_a_name_that_is_taken_or_no_name_is_refused(name):
    with pytest.raises(SettingError, match="scores"):
        build(scores={name: {"out_of_fold": "a.csv", "test": "b.csv"}})


@pytest.mark.slow
def test_all_notebooks_after_the_first_run_with_own_scores(study, tmp_path, monkeypatch):
    settings, prepared = study
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path / "recordings")
    monkeypatch.setattr(models, "open_model", lambda *_, **__: ToyModel())
    own = with_files(steps.recommend(prepared, settings, SEED)[1], tmp_path)
    sparsity = prepared.sparsity.reset_index().assign(inactive=prepared.sparsity.index.isin(prepared.inactive))
    tables.write("toy", interactions=prepared.interactions, candidates=prepared.candidates, items=prepared.items)
    tables.write("toy", sparsity=sparsity, cross_ratings=(mine := divided(prepared)))
    tables.write("toy", cross_candidates=folds.candidates(mine, settings.like_threshold, SEED))
    monkeypatch.setenv("MPLBACKEND", "agg")
    for name in ("02_baselines", "03_user_triage", "04_llm_prompting", "05_evaluation", "06_cost"):
        names = {"experiment": "toy", **config.parameters(own)}
        for cell in nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                exec(cell.source, names)
    assert set(tables.read("toy", "triage")["recommender"]) == {"MostPop", "EASE", "Mine"}
    assert set(tables.read("toy", "comparison")["recommender"]) == {"MostPop", "EASE", "Mine"}
    assert set(tables.read("toy", "cross_scores")["ranker"]) == {"MostPop", "EASE"}
    assert set(tables.read("toy", "cross_triage")["recommender"]) == {"MostPop", "EASE"}
    assert set(tables.read("toy", "fits")["recommender"]) == {"MostPop", "EASE"}
    assert set(tables.read("toy", "retrieved")["recommender"]) == {"MostPop", "EASE"}
