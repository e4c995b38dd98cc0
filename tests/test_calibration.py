"""Calibrations of recorded scores: by hand, and by brute force."""

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from toy_model import USAGE, ToyModel

from hybridrec.llm import calibration, rankers
from hybridrec.llm.recordings import Recordings


def answered(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns).assign(failure="")


def test_what_is_usual_is_subtracted_per_token_and_only_from_answers():
    rows = answered(item=[1, 2, 1], score=[-2.0, -3.0, 5.0])
    rows.loc[2, "failure"] = "no answer"
    prior = calibration.per_token(pd.DataFrame({"log_prob": [-8.0, -6.0], "length": [4, 2]}, index=[1, 2]))
    assert calibration.subtract(rows, prior)["score"].tolist() == [0.0, 0.0, 5.0]
    assert calibration.subtract(rows, prior, 0.5)["score"].tolist() == [-1.0, -1.5, 5.0]


@pytest.fixture
def planted() -> tuple[pd.DataFrame, pd.Series]:
    """Scores that are what the user likes plus half the prior; on the judged folds, minus what they like."""
    rng = np.random.default_rng(5)
    usual = pd.Series(rng.normal(0, 3, 40), index=range(40))
    rows = []
    for test, fold, user in [(test, fold, user) for test in (0, 1) for fold in (0, 1) for user in range(60)]:
        items = rng.choice(40, 8, replace=False)
        liked = rng.random(8) < 0.5
        score = (1 if fold != test else -1) * liked + 0.5 * usual[items].to_numpy()
        rows.append(answered(item=items, score=score, relevant=liked).assign(test=test, fold=fold, user=user))
    return pd.concat(rows, ignore_index=True), usual


def test_the_planted_weight_is_found_and_is_worth_what_a_direct_count_says(planted):
    rows, usual = planted
    table = calibration.weights(rows, usual)
    assert table.loc[table["chosen"], ["test", "weight"]].to_numpy().tolist() == [[0, 0.5], [1, 0.5]]
    known = rows[(rows["test"] == 0) & (rows["fold"] == 1)]
    for weight in (0.0, 1.0):
        score = known["score"] - weight * usual[known["item"]].to_numpy()
        means = []
        for _, one in known.assign(score=score).groupby("user"):
            good, bad = one.loc[one["relevant"], "score"], one.loc[~one["relevant"], "score"]
            if len(good) and len(bad):
                means.append(stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))
        found = table[(table["test"] == 0) & (table["weight"] == weight)].iloc[0]
        assert found["auc"] == pytest.approx(np.mean(means))
        assert found["users"] == len(means)


def test_no_label_of_the_test_fold_moves_a_weight(planted):
    rows, usual = planted
    scrambled = rows.assign(relevant=rows["relevant"] ^ (rows["fold"] == rows["test"]))
    pd.testing.assert_frame_equal(calibration.weights(rows, usual), calibration.weights(scrambled, usual))


def test_without_answers_that_decide_there_is_no_weight(planted):
    rows, usual = planted
    assert calibration.weights(rows[rows["fold"] == rows["test"]], usual).empty


def test_content_free_is_the_log_of_the_mean_probability_per_token():
    """Two histories without content, in the words of the mode; a title of two tokens and one of four."""
    items = pd.DataFrame({"item": [7, 8], "title": ["Alien", "Heat"]})

    def reply(asked):
        values = [-2.0, -8.0] if "N/A" in asked.request["instruction"] else [-4.0, -6.0]
        return {"log_probs": values, "lengths": [2, 4], **USAGE}

    model = ToyModel(reply)
    found = calibration.content_free(items, model, Recordings(), "film", "likelihood")
    by_hand = [np.log((np.exp(-2) + np.exp(-4)) / 2) / 2, np.log((np.exp(-8) + np.exp(-6)) / 2) / 4]
    assert found.tolist() == pytest.approx(by_hand)
    assert found.index.tolist() == [7, 8]
    question = rankers.build_request("likelihood", [], [], "film")["instruction"].strip()
    assert all(asked.request["instruction"].strip().endswith(question) for asked in model.asked)
    assert len(model.asked) == 2


# --- permutation self-consistency -------------------------------------------------------------------------------------


def disagreements(one, other):
    """Kendall's distance: the pairs of which the two orders put either item first."""
    place = {item: at for at, item in enumerate(other)}
    return sum(place[a] > place[b] for a, b in combinations(one, 2))


@pytest.mark.parametrize("seed", range(12))
def test_the_central_order_is_as_close_as_any_order_can_be(seed):
    rng = np.random.default_rng(seed)
    size = 1 + seed % 6
    orders = [rng.permutation(size).tolist() for _ in range(1 + seed % 5)]

    def apart(order):
        return sum(disagreements(order, other) for other in orders)

    central = calibration.central_order(orders)
    assert sorted(central) == list(range(size))
    assert apart(central) == min(apart(order) for order in permutations(range(size)))


def test_orders_of_different_places_are_refused():
    with pytest.raises(ValueError, match="same places"):
        calibration.central_order([[0, 1, 2], [0, 1]])
