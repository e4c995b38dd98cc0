"""The positive control: a planted skill comes back through recordings; the pipeline says yes to it, not to a coin."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from hybridrec.data import folds
from hybridrec.evaluation import cross, metrics
from hybridrec.llm import planted
from hybridrec.llm.planted import Planted
from hybridrec.llm.recordings import Recordings


@pytest.fixture(scope="module")
def study() -> tuple:
    """80 users, 30 ratings each, three folds; everybody is routed."""
    rng = np.random.default_rng(1)
    rows = [(user, int(item)) for user in range(80) for item in rng.choice(60, 30, replace=False)]
    ratings = pd.DataFrame(rows, columns=["user", "item"])
    ratings["rating"] = rng.integers(1, 6, len(ratings)).astype(float)
    divided = folds.divide(ratings.assign(timestamp=0), 3, seed=0)
    candidates = folds.candidates(divided, 4, seed=0)
    items = pd.DataFrame({"item": range(60), "title": [f"Film{' and' * (n % 7)} {n}" for n in range(60)], "genres": ""})
    pairs = pd.MultiIndex.from_product([["A"], range(3), range(80)], names=["recommender", "test", "user"])
    routed = pairs.to_frame(index=False)
    known = candidates.assign(ranker="A", draw=0, score=0.0)
    lists = cross.lists(pd.concat([known.assign(test=k) for k in range(3)]), candidates)
    lists = pd.concat([lists, lists.assign(ranker=cross.RANDOM)])
    return candidates, routed, lists, planted.tasks(divided, candidates, items, routed)


def auc_of(scores: pd.DataFrame, candidates: pd.DataFrame) -> pd.Series:
    return metrics.auc(scores.merge(candidates))


@pytest.mark.parametrize("skill", [0.5, 0.65, 0.8])
def test_the_planted_skill_comes_back_through_the_recordings(study, skill):
    """Titles are of one to seven words, and the score is per token: without the division the skill would be lost."""
    candidates, _, _, tasks = study
    found = [
        auc_of(planted.scores(Planted(candidates, skill, seed), tasks, Recordings(None), "film"), candidates)
        for seed in range(4)
    ]
    assert np.mean(found) == pytest.approx(skill, abs=0.015)  # three standard errors
    assert all(len(of_users) == 80 for of_users in found)


def test_answers_are_replayed_from_the_file(study, tmp_path):
    candidates, _, _, tasks = study
    model = Planted(candidates, 0.7, 1)
    kept = Recordings(tmp_path / "answers")
    first = planted.scores(model, tasks, kept, "film")
    assert len(kept) == sum(map(len, tasks.values()))
    other = Planted(candidates.assign(relevant=~candidates["relevant"]), 0.7, 1)  # would answer otherwise
    pd.testing.assert_frame_equal(first, planted.scores(other, tasks, Recordings(tmp_path / "answers"), "film"))
    fresh = planted.scores(other, tasks, Recordings(None), "film")
    assert not fresh["score"].equals(first["score"])


def test_two_users_who_are_asked_the_same_have_answers_of_their_own(study):
    candidates, _, _, tasks = study
    one = tasks[0][0]
    keys = {Planted(candidates, 0.7, 1).key(planted.rankers.request_of(task, planted.MODE, "film"))
            for task in (one, replace(one, user=one.user + 1))}  # fmt: skip
    assert len(keys) == 2


def test_verdicts_turn_to_helps_with_the_skill_and_a_coin_is_equivalent(study):
    candidates, routed, lists, tasks = study
    curve = partial(planted.curve, lists, routed, candidates, tasks, {"random": cross.RANDOM})
    rows = curve([0.35, 0.5, 0.65], range(5))
    shares = planted.shares(rows).set_index("skill")
    assert (shares["models"] == 5).all() and (shares["n"] == 80).all()
    assert shares.loc[0.35, "harms"] == shares.loc[0.65, "helps"] == 1
    assert shares.loc[0.5, "equivalent"] >= 0.8
    assert (rows["smallest_detectable"] < 0.05).all()
    assert (rows["mean"] - rows["skill"] + 0.5).abs().mean() < 0.02


def test_the_smallest_skill_is_that_from_which_on_all_are_found():
    shares = pd.DataFrame(
        {"against": ["x"] * 5 + ["y"], "skill": [0.5, 0.55, 0.6, 0.65, 0.7, 0.7], "helps": [0, 0.9, 0.5, 0.8, 1, 0.7]}
    )
    found = planted.smallest_skill(shares)
    assert found["x"] == 0.65 and np.isnan(found["y"])
