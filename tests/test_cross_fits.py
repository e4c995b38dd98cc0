"""Protocol ``cross``: which model scores what, and that nothing decided for a fold has seen it."""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hybridrec.data import folds
from hybridrec.errors import SplitError
from hybridrec.recommenders import cross, fingerprint, fitting
from hybridrec.weak_users.cross import cross_triage

SEED, LIKED, FOLDS = 3, 4.0, 4
GRIDS = {"ItemKNN": [2, 20], "EASE": [1, 500]}
NAMES = ["MostPop", *GRIDS]
ITEMS = pd.DataFrame({"item": range(101, 131)})


def simulated() -> pd.DataFrame:
    """40 users, 30 items: two tastes, better and worse items, and users of very different activity."""
    rng = np.random.default_rng(1)
    table = pd.MultiIndex.from_product([range(1, 41), ITEMS["item"]], names=["user", "item"]).to_frame(index=False)
    taste = np.where(table["user"] % 2 == table["item"] % 2, 1.0, -1.0)
    noise = rng.normal(size=len(table))
    table["rating"] = np.clip(np.round(3.2 + taste / 2 + (table["item"] % 5 - 2) / 2 + noise), 1, 5)
    return table[rng.random(len(table)) < rng.uniform(0.3, 0.9, 41)[table["user"]]]


class Run(NamedTuple):
    tuned: pd.DataFrame
    scores: pd.DataFrame
    triage: pd.DataFrame


def study_of(divided: pd.DataFrame, cache: Path, **other) -> fitting.Study:
    return fitting.Study(divided, ITEMS["item"].to_numpy(), LIKED, SEED, GRIDS, cache, workers=1, **other)


def run(divided: pd.DataFrame, cache: Path, names: list[str] = NAMES) -> Run:
    study = study_of(divided, cache)
    tuned = cross.tune(study, names)
    scores = cross.scores(study, tuned)
    return Run(tuned, scores, cross_triage(scores, divided, ITEMS, LIKED))


@pytest.fixture(scope="module")
def divided() -> pd.DataFrame:
    return folds.divide(simulated(), FOLDS, SEED)


@pytest.fixture(scope="module")
def original(divided, tmp_path_factory) -> Run:
    return run(divided, tmp_path_factory.mktemp("original"))


@pytest.mark.parametrize("test", range(FOLDS))
def test_scrambled_labels_of_a_fold_change_nothing_decided_for_it(divided, original, test, tmp_path):
    """Every rating of the fold is turned round: 5 becomes 1, 4 becomes 2. All else for other folds does change."""
    turned = divided["rating"].where(divided["fold"] != test, 6 - divided["rating"])
    other = run(divided.assign(rating=turned), tmp_path)
    for name, one, two in zip(Run._fields, original, other, strict=True):
        pd.testing.assert_frame_equal(one[one["test"] == test], two[two["test"] == test], check_exact=True, obj=name)
        assert not one[one["test"] != test].equals(two[two["test"] != test]), f"{name} sees no label at all"


def test_the_simulation_is_worth_scrambling(original):
    """Folds choose differently, and some of the inactive users are weak, others are not."""
    chosen = original.tuned[original.tuned["chosen"]]
    assert chosen.groupby("recommender")["value"].nunique()[list(GRIDS)].max() > 1
    inactive = original.triage[original.triage["inactive"]]
    assert 0 < inactive["weak"].mean() < 1


def test_every_rating_is_judged_once_and_decides_once_for_each_other_fold(divided, original):
    judged = original.scores["fold"] == original.scores["test"]
    for name in NAMES:
        own = original.scores[original.scores["ranker"] == name]
        both = {kind: rows[["user", "item", "fold"]] for kind, rows in own.groupby(judged)}
        pd.testing.assert_frame_equal(
            both[True].sort_values(["user", "item"], ignore_index=True), divided[["user", "item", "fold"]]
        )
        assert len(both[False]) == (FOLDS - 1) * len(divided)
        assert not own.duplicated(["test", "user", "item"]).any()
    assert list(original.scores) == cross.COLUMNS


def test_each_score_is_of_a_model_without_the_items_fold_and_the_test_fold(divided, original):
    """MostPop's score is how many like the item, among the ratings it learned from: counted here by hand."""
    own = original.scores[original.scores["ranker"] == "MostPop"]
    liked = divided[divided["rating"] >= LIKED]
    likes = {
        (test, fold): liked[~liked["fold"].isin([test, fold])]["item"].value_counts()
        for test in range(FOLDS)
        for fold in range(FOLDS)
    }
    expected = [likes[row.test, row.fold].get(row.item, 0) for row in own.itertuples()]
    assert own["score"].tolist() == expected


def test_settings_are_judged_on_the_next_fold(divided, original):
    """The AUC of the chosen setting, by scikit-learn; and it is the highest of its group."""
    rated = original.scores.merge(divided, on=["user", "item", "fold"])
    for row in original.tuned[original.tuned["chosen"]].itertuples():
        judged = rated[(rated["ranker"] == row.recommender) & (rated["test"] == row.test)]
        judged = judged[judged["fold"] == (row.test + 1) % FOLDS]
        aucs = [
            roc_auc_score(own["rating"] >= LIKED, own["score"])
            for _, own in judged.groupby("user")
            if (own["rating"] >= LIKED).nunique() == 2
        ]
        assert row.auc == pytest.approx(np.mean(aucs))
    best = original.tuned.groupby(["recommender", "test"])["auc"].max()
    chosen = original.tuned[original.tuned["chosen"]].set_index(["recommender", "test"])["auc"]
    pd.testing.assert_series_equal(chosen.sort_index(), best.sort_index())


@pytest.mark.parametrize("count", [3, 5])
def test_as_many_fits_as_are_told(count, tmp_path):
    divided = folds.divide(simulated(), count, SEED)
    study = study_of(divided, tmp_path)
    tuned = cross.tune(study, ["MostPop", "ItemKNN"])
    cross.scores(study, tuned)
    chosen = tuned[tuned["chosen"] & (tuned["recommender"] == "ItemKNN")].set_index("test")["value"]
    apart = [(j, k) for j, k in combinations(range(count), 2) if k - j not in (1, count - 1)]
    assert len(apart) == count * (count - 3) // 2
    of_knn = 2 * count + count + sum(chosen[j] != chosen[k] for j, k in apart) + len(apart)
    of_popularity = count + count + len(apart)
    assert len(list(tmp_path.glob("fit-*.npz"))) == of_knn + of_popularity
    lines = cross.fingerprints(study, tuned)
    assert len(lines) == of_knn + of_popularity and not lines.duplicated(fingerprint.KEYS).any()


def test_whole_numbers_written_with_a_point_are_no_other_setting(divided, tmp_path):
    """A grid of an experiment's file may have 1.0: what was fitted to tune is found again."""
    study = fitting.Study(divided, ITEMS["item"].to_numpy(), LIKED, SEED, {"EASE": [1.0]}, tmp_path, workers=1)
    cross.scores(study, cross.tune(study, ["EASE"]))
    assert len(list(tmp_path.glob("fit-*.npz"))) == FOLDS + 2 + FOLDS


def test_a_fold_without_a_pair_decides_nothing(divided, tmp_path):
    """All ratings of fold 2 are likes, so nothing can be chosen on it for test fold 1."""
    liked = divided.assign(rating=divided["rating"].where(divided["fold"] != 2, 5.0))
    with pytest.raises(SplitError, match="fold 2 of 4"):
        cross.tune(study_of(liked, tmp_path), ["MostPop"])


# --- who is weak ------------------------------------------------------------------------------------------------------


def test_p_of_a_user_by_hand():
    """Three folds, test fold 0: pairs within folds 1 and 2 alone, and neither across folds nor in the test fold."""
    rows = [
        # user, item, fold, rating, score for test 0
        (1, 11, 0, 5, 9.0),  # the test fold: would be a right pair
        (1, 12, 0, 1, 1.0),
        (1, 13, 1, 5, 2.0),  # fold 1: one like above one of two others, tied with the other: 1.5 of 2
        (1, 14, 1, 1, 1.0),
        (1, 15, 1, 1, 2.0),
        (1, 16, 2, 5, 0.0),  # fold 2: two likes below the other: 0 of 2
        (1, 17, 2, 4, 0.5),
        (1, 18, 2, 3, 1.0),
        (2, 11, 0, 5, 1.0),
        (2, 12, 1, 5, 3.0),  # fold 1: 1 of 1; no pair in fold 2
        (2, 13, 1, 1, 1.0),
        (2, 14, 2, 5, 1.0),
        (3, 15, 0, 5, 1.0),  # nothing outside the test fold
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "fold", "rating", "score"])
    items = pd.DataFrame({"item": range(11, 21)})
    divided = table.drop(columns="score")
    scores = table[table["fold"] > 0].assign(ranker="mine", draw=0, test=0)
    judged = table[table["fold"] == 0].assign(ranker="mine", draw=0, test=0)
    found = cross_triage(pd.concat([scores, judged]), divided, items, LIKED).set_index("user")
    assert found.index.tolist() == [1, 2]
    assert found["performance"].tolist() == [1.5 / 4, 1.0]
    assert found["pairs"].tolist() == [4, 1]
    assert found["sparsity"].tolist() == pytest.approx([1 - 6 / 10, 1 - 3 / 10])
    # t_s is the mean, 0.55: user 2 is inactive, and served well.
    assert found["inactive"].tolist() == [False, True] and not found["weak"].any()
    assert set(found["recommender"]) == {"mine"} and set(found["test"]) == {0}
