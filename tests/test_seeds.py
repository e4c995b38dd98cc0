"""Other splits: the same seed gives the same bytes, another seed another table, and the spread is what it says."""

import pandas as pd
import pytest

from hybridrec.data import datasets
from hybridrec.recommenders import fits, fitting
from hybridrec.study import config, overview, paths, seeds


@pytest.fixture
def settings(monkeypatch) -> config.Experiment:
    """A quick study; everything is fitted here again, without the cache."""
    monkeypatch.setattr(fitting, "run", lambda todo, *_: [fits.fit_and_score(work) for work in todo])
    small = {"recommenders": ["ItemKNN", "NeuMF", "BPR"], "top": 10, "folds": 3, "bootstrap_samples": 100}
    grids = {"grids": {"ItemKNN": [10], "NeuMF": [1], "BPR": [1]}, "permutations": 100, "performance_threshold": 0.7}
    values = config.parameters(config.load("ml-100k")) | small | grids
    return config.build(values.pop("name"), values, "")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_table(settings, interactions, items):
    data = datasets.Dataset("small", interactions, items, "made up")
    first, again, other = (seeds.comparison(settings, data, seed, ask=False).to_csv() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_spread_of_known_values():
    table = pd.DataFrame({"recommender": ["ItemKNN", "BPR", "MF"] * 2, "seed": [1] * 3 + [2] * 3})
    table = table.assign(protocol="held-out", ranker="random", weak_auc_after=[0.4, 0.6, 0.0, 0.6, 0.8, 0.0])
    weak = seeds.weak_users(table)
    assert weak["auc"].tolist() == pytest.approx([0.5, 0.7]), "MF is not one of the paper's"
    (row,) = seeds.spread(weak.assign(dataset="d")).to_dict("records")
    assert (row["splits"], row["lowest"], row["highest"]) == (2, pytest.approx(0.5), pytest.approx(0.7))
    assert (row["mean"], row["sd"]) == (pytest.approx(0.6), pytest.approx(0.02**0.5))


def computed() -> list[str]:
    return [name for name in overview.experiments() if (paths.RESULTS / name / "seeds.csv").is_file()]


@pytest.mark.parametrize("name", computed())
def test_the_studys_own_seed_gives_the_studys_own_numbers(name):
    """Notebooks and `make seeds` call the same steps, in runs of their own: what they wrote must agree."""
    key = ["protocol", "recommender", "ranker"]
    rows = pd.read_csv(paths.RESULTS / name / "seeds.csv").query(f"seed == {config.load(name).seed}")
    ours, study = rows.set_index(key), pd.read_csv(paths.RESULTS / name / "comparison.csv").set_index(key)
    exact = ["users_routed", "users_scored", "weak_auc_before", "weak_auc_after", "overall_auc_after", "harm_rate"]
    assert len(ours) >= 100
    pd.testing.assert_frame_equal(ours[exact], study.loc[ours.index, exact], atol=2e-6)


@pytest.mark.parametrize("name", computed())
def test_every_split_is_another_one_and_the_model_was_asked_on_the_first_ones(name):
    table = pd.read_csv(paths.RESULTS / name / "seeds.csv")
    alone = table.query("ranker == 'recommender' and recommender == 'ItemKNN' and protocol == 'held-out'")
    assert alone["weak_auc_after"].nunique() == table["seed"].nunique() == seeds.SPLITS
    assert table.loc[table["ranker"] == seeds.MODE, "seed"].nunique() == seeds.ASKED


def test_the_readme_says_what_came_of_the_splits():
    tables = {name: pd.read_csv(paths.RESULTS / name / "seeds.csv") for name in computed()}
    asked = pd.concat(tables, names=["dataset"]).query("protocol == 'held-out' and ranker == @seeds.MODE")
    assert len(tables) == 3 and asked.groupby("dataset")["seed"].nunique().tolist() == [3, 3, 3]
    assert (asked["gain_over_best_control_low"] <= 0).all()
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert "every interval reaches below zero" in readme
