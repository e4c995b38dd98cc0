"""The fingerprint of the fits: it sees every change of a score, says which fits moved, and how far."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.data import splits
from hybridrec.evaluation import metrics
from hybridrec.recommenders import fingerprint, fits, fitting
from hybridrec.recommenders.fitting import Study

NAMES = ["ItemKNN", "EASE", "MostPop"]


@pytest.fixture
def study(interactions: pd.DataFrame, items: pd.DataFrame, tmp_path) -> Study:
    split = splits.split_per_user(interactions, seed=1)
    grids = {"ItemKNN": [3, 5], "EASE": [10, 20]}
    return Study(
        split, items["item"].to_numpy(), like_threshold=4.0, seed=1, grids=grids, cache=tmp_path / "cache", workers=1
    )


@pytest.fixture
def prints(study, monkeypatch) -> pd.DataFrame:
    candidates = splits.test_candidates(study.interactions, 4.0, seed=1)
    tuned = fitting.tune(study, NAMES)
    params = fitting.chosen_params(tuned)
    fitting.test_scores(study, params, candidates, top=5)
    monkeypatch.setattr(fits, "_compute", None)  # whatever is not cached now is an error
    found = fitting.fingerprints(study, tuned, candidates, 5, params)
    pd.testing.assert_series_equal(found[found["part"] == "tuning"]["auc"], tuned["auc"], check_index=False)
    return found


def test_every_fit_has_a_line_with_its_auc(prints, study):
    counts = prints.groupby(["part", "recommender"]).size().unstack()
    assert counts.loc["tuning"].to_dict() == {"EASE": 2, "ItemKNN": 2, "MostPop": 1}
    assert counts.loc["test"].eq(1).all()
    assert prints["auc"].between(0.3, 1).all()
    assert prints["scores"].str.fullmatch("[0-9a-f]{16}").all()


def test_the_auc_of_a_line_is_the_mean_over_users(study, interactions):
    rows = study.interactions[study.interactions["split"] == "test"]
    work = study.fit("MostPop", {}, study.known(), rows)
    scores = np.random.default_rng(1).random(len(rows))
    relevant = study.liked("test")
    line = fingerprint.row(work, {"scores": scores}, relevant, "test")
    table = pd.DataFrame({"user": rows["user"].to_numpy(), "score": scores, "relevant": relevant})
    assert line["auc"] == pytest.approx(metrics.auc(table).mean())


@pytest.mark.parametrize("array", ["scores", "items", "item_scores"])
def test_the_last_bit_of_any_score_and_any_retrieved_item_changes_the_hash(array, study):
    rows = study.interactions[study.interactions["split"] == "test"]
    work = study.fit("MostPop", {}, study.known(), rows)
    found = {
        "scores": np.linspace(0, 1, len(rows)), "items": np.arange(6).reshape(2, 3), "item_scores": np.ones((2, 3)),
        "seconds": np.array(1.0),
    }  # fmt: skip
    before = fingerprint.row(work, found, study.liked("test"), "test")["scores"]
    assert fingerprint.row(work, found | {"seconds": np.array(2.0)}, study.liked("test"), "test")["scores"] == before
    moved = found[array].copy()
    moved.flat[-1] = np.nextafter(moved.flat[-1], 9) if moved.dtype == float else 7
    assert fingerprint.row(work, found | {array: moved}, study.liked("test"), "test")["scores"] != before


def test_the_line_says_that_all_agree_or_which_do_not_and_how_far(prints):
    assert f"all {len(prints)} agree" in str(fingerprint.compare(prints, prints))
    moved = prints.copy()
    of_knn = (moved["recommender"] == "ItemKNN") & (moved["part"] == "test")
    moved.loc[of_knn, "scores"] = "0" * 16
    moved.loc[of_knn, "auc"] += 0.0124
    said = str(fingerprint.compare(moved, prints))
    assert f"1 of {len(prints)} differ" in said and "ItemKNN 1" in said and "0.012" in said and "EASE" not in said


def test_fits_of_other_settings_are_counted_apart(prints):
    other = prints.assign(value=prints["value"].where(prints["recommender"] != "EASE", prints["value"] + 1))
    said = str(fingerprint.compare(other, prints))
    n = int((prints["recommender"] == "EASE").sum())
    assert f"all {len(prints) - n} agree" in said and f"{2 * n} have no counterpart" in said

    nothing = fingerprint.compare(prints.assign(fold=9), prints)
    assert nothing.compared == 0 and "nothing to compare" in str(nothing)
    assert fingerprint.compare(prints.iloc[:-2], prints).others == 2


def test_a_fingerprint_survives_its_file(prints, tmp_path):
    prints.to_csv(tmp_path / "fits.csv", index=False)
    again = fingerprint.read(tmp_path / "fits.csv")
    assert f"all {len(prints)} agree" in str(fingerprint.compare(prints, again))
