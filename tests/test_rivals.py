"""Recommenders trained for badly served users, beside the others: the table's numbers from lists, user by user."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hybridrec.data import folds
from hybridrec.evaluation import arms, cross
from hybridrec.recommenders import robust
from hybridrec.study import cross_arms, paths, rivals
from hybridrec.weak_users.cross import cross_triage

FOLDS, LIKE = 3, 4.0


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    """Sixty users and forty items; the recommenders of the paper are labels and noise."""
    rng = np.random.default_rng(7)
    pairs = pd.DataFrame([(user, item) for user in range(60) for item in rng.permutation(40)[: rng.integers(6, 24)]])
    rows = pairs.set_axis(["user", "item"], axis=1).sort_values(["user", "item"], ignore_index=True)
    rows["rating"] = np.clip(np.round(3.5 + rows["item"] % 5 / 2 - 1 + rng.normal(0, 1.2, len(rows))), 1, 5)
    divided = folds.divide(rows, FOLDS, seed=1)
    candidates = folds.candidates(divided, LIKE, seed=1)
    items = pd.DataFrame({"item": range(40), "title": [f"film {item}" for item in range(40)], "genres": "drama"})
    liked, parts = divided["rating"] >= LIKE, []
    for name, skill in {"ItemKNN": 0.3, "BPR": 0.5, "NeuMF": 0.4, "MF": 0.6}.items():
        for test in range(FOLDS):
            score = skill * liked + rng.normal(size=len(divided))
            parts.append(divided.assign(ranker=name, draw=0, test=test, score=score))
    scores = pd.concat(parts, ignore_index=True)[cross.SCORES]
    triage = cross_triage(scores, divided, items, LIKE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(cross_arms, "title_embeddings", lambda items: np.eye(len(items)))
        tuned, found = rivals.scores(divided, items, triage, LIKE, seed=5)
        table = rivals.table(found, scores, divided, candidates, items, triage, LIKE)
    table = table.set_index(["group", "ranker"])
    return SimpleNamespace(divided=divided, scores=scores, tuned=tuned, found=found, table=table)


def aucs(study: SimpleNamespace, ranker: str) -> pd.Series:
    """Of each judged list that has a pair, by (test, user)."""
    rows = pd.concat([study.found, study.scores]).query("ranker == @ranker and fold == test")
    rows = rows.merge(study.divided[["user", "item", "rating"]], on=["user", "item"])
    found = {}
    for key, one in rows.groupby(["test", "user"]):
        if one["rating"].ge(LIKE).nunique() == 2:
            found[key] = roc_auc_score(one["rating"] >= LIKE, one["score"])
    return pd.Series(found)


def test_each_objective_is_tuned_over_three_settings_and_scores_every_rating(study):
    assert set(study.tuned["recommender"]) == {robust.PLAIN, robust.CVAR, robust.GROUP_DRO}
    assert (study.tuned.groupby(["recommender", "test"]).size() == 3).all()
    judged = study.found[study.found["fold"] == study.found["test"]].groupby("ranker").size()
    assert judged.to_dict() == dict.fromkeys([robust.PLAIN, *rivals.RIVALS], len(study.divided))
    others = study.found[study.found["fold"] != study.found["test"]].groupby("ranker").size()
    assert set(others) == {(FOLDS - 1) * len(study.divided)}


@pytest.mark.parametrize("ranker", [robust.PLAIN, *rivals.RIVALS, "MF"])
def test_everybody_is_the_mean_of_all_lists_and_differences_are_of_the_same_lists(study, ranker):
    own, plain, row = aucs(study, ranker), aucs(study, robust.PLAIN), study.table.loc[("everybody", ranker)]
    assert row["auc"] == pytest.approx(own.mean())
    assert row["n"] == own.index.get_level_values(1).nunique()
    if ranker != robust.PLAIN:
        assert row["over_plain"] == pytest.approx((own - plain).mean())
        assert row["over_plain_low"] <= row["over_plain"] <= row["over_plain_high"]
    else:
        assert np.isnan(row["over_plain"])
        assert row["over_plain_verdict"] == ""


def test_the_worst_decile_of_the_ordinary_objective_is_decided_on_other_folds(study):
    rows = study.found[(study.found["ranker"] == robust.PLAIN) & (study.found["fold"] != study.found["test"])]
    rows = rows.merge(study.divided[["user", "item", "rating"]], on=["user", "item"])
    plain, cvar, picked = aucs(study, robust.PLAIN), aucs(study, robust.CVAR), []
    for test, known in rows.groupby("test"):
        quality = {}
        for user, of_user in known.groupby("user"):
            correct = pairs = 0.0
            for _, one in of_user.groupby("fold"):
                liked, other = (one.loc[one["rating"].ge(LIKE) == side, "score"].to_numpy() for side in (True, False))
                difference = liked[:, None] - other
                correct, pairs = correct + (np.sign(difference) + 1).sum() / 2, pairs + difference.size
            if pairs:
                quality[user] = correct / pairs
        worst = pd.Series(quality).sort_values(kind="stable").index[: len(quality) // 10]
        picked += [(test, user) for user in worst if (test, user) in plain.index]
    row = study.table.loc[(rivals.WORST_OF_PLAIN, robust.CVAR)]
    assert row["auc"] == pytest.approx(cvar[picked].mean())
    assert row["over_plain"] == pytest.approx((cvar[picked] - plain[picked]).mean())


def test_the_table_has_a_row_for_each_group_and_ranker_and_no_verdict_on_a_ranker_against_itself(study):
    groups = ["weak", "inactive", "everybody", "worst decile", rivals.WORST_OF_PLAIN]
    rankers = [robust.PLAIN, *rivals.RIVALS, "MF", arms.STACK, "the bar", "own recommender", "random order"]
    assert study.table.index.tolist() == [(group, ranker) for group in groups for ranker in rankers]
    random = study.table.xs("random order", level="ranker")
    np.testing.assert_allclose(random["auc"], 0.5)
    own = study.table.loc[(rivals.WORST_OF_PLAIN, "own recommender")]
    assert own["over_plain"] == 0  # of this group the recommender is robust.PLAIN
    assert (study.table.xs(arms.STACK, level="ranker")["over_stack_verdict"] == "").all()
    assert (study.table.xs(robust.CVAR, level="ranker")["over_stack_verdict"] != "").all()
