"""How reliable P(u) is and what becomes of the flags, on tables of which the answer is known."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.evaluation.statistics import POOLED
from hybridrec.weak_users import found
from hybridrec.weak_users.performance import performance

FOLDS = 5


def scored(true: np.ndarray, seed: int, name: str = "one", items: int = 8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cross scores and candidates of users with a true signal each: half of the items of a fold are relevant."""
    rng = np.random.default_rng(seed)
    lists = pd.MultiIndex.from_product([range(len(true)), range(FOLDS), range(items)], names=["user", "fold", "place"])
    candidates = lists.to_frame(index=False)
    candidates["item"] = candidates["fold"] * items + candidates["place"]
    candidates["relevant"] = candidates["place"] % 2 == 0
    score = rng.normal(size=len(candidates)) + candidates["relevant"] * true[candidates["user"]]
    tables = [candidates.assign(score=score, test=test, ranker=name, draw=0) for test in range(FOLDS)]
    return pd.concat(tables, ignore_index=True), candidates


def flags(folds: pd.DataFrame, threshold: float = 0.5) -> pd.DataFrame:
    """Flags from P_k(u) on all folds but k; every user is inactive."""
    known = folds[folds["fold"] != folds["test"]]
    sums = known.groupby(["recommender", "test", "user"])[["correct", "pairs"]].sum()
    return (sums["correct"] / sums["pairs"] <= threshold).rename("weak").reset_index().assign(inactive=True)


def posterior(users: int, weak: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame({"recommender": "one", "user": range(users), "weak": weak})


def prepared(true: np.ndarray, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    folds = found.by_fold(*scored(true, seed))
    return folds, flags(folds)


def test_pairs_of_a_fold_by_hand():
    scores = pd.DataFrame(
        {"ranker": "A", "draw": 0, "test": 1, "fold": 0, "user": 3, "item": [1, 2, 3], "score": [3.0, 2, 2]}
    )
    candidates = pd.DataFrame({"fold": 0, "user": 3, "item": [1, 2, 3], "relevant": [False, True, False]})
    row = found.by_fold(scores, candidates).iloc[0]
    assert (row["recommender"], row["test"], row["fold"], row["user"]) == ("A", 1, 0, 3)
    assert (row["correct"], row["pairs"]) == (0.5, 2)  # behind one, beside the other
    assert found.by_fold(scores.iloc[:2], candidates.assign(relevant=True)).empty


def test_noise_has_no_reliability_and_the_interval_says_so():
    row = found.reliability(*prepared(np.full(300, 0.5), 1), seed=1, samples=200).iloc[0]
    assert row["halves_low"] < 0 < row["halves_high"]
    assert row["fresh_low"] < 0 < row["fresh_high"]
    assert row["users"] == 300


def test_reliability_is_the_share_of_variance_that_is_true():
    rng = np.random.default_rng(3)
    folds, triage = prepared(rng.normal(0.6, 0.5, 800), 4)
    row = found.reliability(folds, triage, seed=1, samples=200).iloc[0]
    again, _ = prepared(np.random.default_rng(3).normal(0.6, 0.5, 800), 99)  # the same users, other items

    def quality(table: pd.DataFrame) -> pd.Series:
        sums = table[(table["test"] == 0) & (table["fold"] != 0)].groupby("user")[["correct", "pairs"]].sum()
        return sums["correct"] / sums["pairs"]

    # Measured a second time on four other folds, P_k(u) correlates with itself as Spearman and Brown say.
    assert row["reliability"] == pytest.approx(quality(folds).corr(quality(again)), abs=0.05)
    assert row["reliability_low"] < row["reliability"] < row["reliability_high"]
    assert row["halves"] < row["reliability"]
    assert row["reliability"] == pytest.approx(2 * row["halves"] / (1 + row["halves"]))


def test_the_halves_of_a_test_fold_by_brute_force():
    folds, triage = prepared(np.random.default_rng(0).normal(0.5, 0.6, 40), 2)
    triage["inactive"] = triage["user"] < 25
    values = []
    for test in range(FOLDS):
        own = folds[(folds["test"] == test) & (folds["user"] < 25)].pivot(
            index="user", columns="fold", values="correct"
        )
        a, b, c, d = (own[fold] for fold in range(FOLDS) if fold != test)
        values += [(a + b).corr(c + d), (a + c).corr(b + d), (a + d).corr(b + c)]  # all folds have as many pairs
    row = found.reliability(folds, triage, seed=1, samples=50).iloc[0]
    assert row["halves"] == pytest.approx(np.mean(values))
    assert row["users"] == 25


def test_detection_by_hand():
    rows = [(0, 0, 1, 0, 4), (0, 0, 2, 4, 4), (0, 0, 3, 1, 4), (1, 1, 1, 2, 4), (1, 1, 2, 4, 4), (1, 1, 4, 0, 4)]
    folds = pd.DataFrame(rows, columns=["test", "fold", "user", "correct", "pairs"]).assign(recommender="one")
    marked = [(0, 1, True), (0, 2, True), (0, 3, False), (1, 1, True), (1, 2, False), (1, 4, True)]
    triage = pd.DataFrame(marked, columns=["test", "user", "weak"]).assign(recommender="one", inactive=True)
    triage.loc[triage["user"] == 4, "inactive"] = False
    known = posterior(5).assign(weak=[0, 0.9, 0.3, 0.5, 1])
    row = found.detection(folds, triage, known, 0.5, seed=1, samples=50).iloc[0]
    assert (row["users"], row["flags"]) == (3, 3)
    assert row["precision"] == pytest.approx(2 / 3)  # user 1 twice (0 and, by a tie, 1/2); user 2 is served well
    assert row["recall"] == pytest.approx(2 / 3)  # user 3 was missed
    assert row["base_rate"] == pytest.approx(3 / 5)
    assert row["truly_weak"] == pytest.approx((0.9 + 0.3 + 0.9) / 3)
    assert row["flagged_auc"] == pytest.approx((0 + 1 + 2 / 4) / 3)
    assert row["rest_auc"] == pytest.approx((1 / 4 + 1) / 2)


def test_where_all_users_are_alike_the_flagged_score_like_the_rest_on_fresh_items():
    folds, triage = prepared(np.full(1500, 0.5), 20)
    row = found.detection(folds, triage, posterior(1500), 0.5, 1, 200).iloc[0]
    assert row["flags"] > 500
    assert row["gap_low"] < 0 < row["gap_high"]
    assert row["gap"] == pytest.approx(0, abs=0.025)
    # Users' means over the folds they are flagged for, each user once, would say otherwise.
    own = folds[folds["test"] == folds["fold"]].merge(triage, on=["recommender", "test", "user"])
    sums = own[own["weak"]].groupby("user")[["correct", "pairs"]].sum()
    assert (sums["correct"] / sums["pairs"]).mean() > row["rest_auc"] + 0.05


def test_flags_that_know_the_truth_beat_the_base_rate_and_random_ones_do_not():
    true = np.where(np.arange(400) % 4 == 0, -0.8, 0.8)
    folds, triage = prepared(true, 5)
    knowing = triage.assign(weak=true[triage["user"]] < 0)
    random = triage.assign(weak=np.random.default_rng(1).random(len(triage)) < 0.25)
    good, chance = (found.detection(folds, table, posterior(400), 0.5, 1, 200).iloc[0] for table in (knowing, random))
    assert good["precision_low"] > good["base_rate_high"]
    assert good["gap_low"] > 0.2
    assert chance["precision_low"] < chance["base_rate"] < chance["precision_high"]
    assert chance["gap_low"] < 0 < chance["gap_high"]


def test_intervals_are_over_users_not_over_their_folds():
    # The same users counted in five folds each: five times the rows, no narrower than by their number.
    folds, triage = prepared(np.random.default_rng(7).normal(0.2, 0.6, 200), 8)
    row = found.detection(folds, triage, posterior(200), 0.5, 1, 400).iloc[0]
    width = row["base_rate_high"] - row["base_rate_low"]
    low = folds[folds["test"] == folds["fold"]].assign(low=lambda t: t["correct"] <= 0.5 * t["pairs"])
    per_user = low.groupby("user")["low"].mean()
    assert width == pytest.approx(2 * 1.96 * per_user.std() / np.sqrt(200), rel=0.15)
    assert width > 1.1 * 2 * 1.96 * low["low"].std() / np.sqrt(len(low))


def test_the_pooled_row_is_the_mean_over_recommenders():
    (first, candidates), (second, _) = scored(np.full(50, 0.5), 1), scored(np.full(50, 0.5), 2, "two")
    folds = found.by_fold(pd.concat([first, second]), candidates)
    table = found.reliability(folds, flags(folds), seed=1, samples=20).set_index("recommender")
    assert list(table.index) == ["one", "two", POOLED]
    assert table.loc[POOLED, "halves"] == pytest.approx(table["halves"].iloc[:2].mean())


# --- split halves -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def equally_good() -> pd.DataFrame:
    """800 users of 8 items for whom one recommender is equally good (AUC about 0.76), and its exact opposite."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"user": np.repeat(np.arange(800), 8), "item": np.tile(np.arange(8), 800)})
    table["relevant"] = rng.random(len(table)) < 0.5
    table["score"] = table["relevant"] + rng.normal(size=len(table))
    opposite = table.assign(recommender="opposite", score=-table["score"])
    return pd.concat([table.assign(recommender="signal"), opposite]).sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture
def halves(equally_good) -> pd.DataFrame:
    return found.split_half(equally_good, np.random.default_rng(5))


def test_halves_are_disjoint_even_and_whole(equally_good, monkeypatch):
    seen, judge = [], found.performance_by_recommender
    monkeypatch.setattr(found, "performance_by_recommender", lambda rows: seen.append(rows) or judge(rows))
    found.split_half(equally_good, np.random.default_rng(5))
    sets = [set(rows[["recommender", "user", "item"]].itertuples(index=False, name=None)) for rows in seen]
    assert len(sets) == 2
    assert not sets[0] & sets[1]
    assert len(sets[0] | sets[1]) == len(equally_good)
    assert all((rows.groupby(["recommender", "user"]).size() == 4).all() for rows in seen)


def test_halves_are_the_same_for_every_recommender(halves):
    both = halves.pivot(index="user", columns="recommender", values=["first", "second"])
    for half in ("first", "second"):
        assert (both[half]["signal"] + both[half]["opposite"]).to_numpy() == pytest.approx(1)


def test_halves_follow_the_generator_and_not_the_order_of_rows(equally_good, halves):
    shuffled = equally_good.sample(frac=1, random_state=9)
    again = found.split_half(shuffled, np.random.default_rng(5))
    keys = ["recommender", "user"]
    pd.testing.assert_frame_equal(
        again.sort_values(keys, ignore_index=True), halves.sort_values(keys, ignore_index=True)
    )
    assert not found.split_half(equally_good, np.random.default_rng(6)).equals(halves)


def test_users_without_a_pair_in_both_halves_are_left_out():
    # Four items, one liked: the half without the like has no pair.
    table = pd.DataFrame({"recommender": "A", "user": 1, "item": [1, 2, 3, 4], "score": [4.0, 3, 2, 1]})
    table["relevant"] = table["item"] == 1
    assert found.split_half(table, np.random.default_rng(0)).empty


def test_equally_good_users_picked_as_weak_recover_by_themselves(halves):
    signal = halves[halves["recommender"] == "signal"]
    row = found.regression_to_the_mean(signal, 0.5, 1, 200).iloc[0]
    assert row["picked"] > 50
    assert row["picked_on"] < 0.45
    assert row["other_half"] == pytest.approx(signal["second"].mean(), abs=0.05)
    assert row["other_half"] > 0.7
    assert row["other_half_low"] < row["other_half"] < row["other_half_high"]
    assert row["correlation_low"] < 0 < row["correlation_high"]


def test_users_who_differ_for_good_do_not_recover():
    rng = np.random.default_rng(1)
    quality = np.where(rng.random(200) < 0.5, 0.2, 0.8)
    table = pd.DataFrame({"recommender": "A", "user": range(200), "first": quality, "second": quality})
    row = found.regression_to_the_mean(table, 0.5, 1, 200).iloc[0]
    assert row["other_half"] == pytest.approx(0.2)
    assert row["correlation"] == pytest.approx(1)


def test_regression_by_hand_counts_a_user_at_the_threshold():
    table = pd.DataFrame({"recommender": "A", "user": [3, 1, 2], "first": [0.5, 0.1, 0.9], "second": [1.0, 0.6, 0.2]})
    row = found.regression_to_the_mean(table, 0.5, 1, 200).iloc[0]
    assert row[["picked", "picked_on", "other_half"]].tolist() == pytest.approx([2, 0.3, 0.8])


def test_the_reliability_of_halves_is_that_of_the_whole():
    """Of two tests of 24 items, each correlates with the other as its own halves say, corrected for length."""
    rng = np.random.default_rng(9)
    true = np.repeat(rng.normal(0.4, 0.6, 3000), 24)
    table = pd.DataFrame({"user": np.repeat(np.arange(3000), 24), "item": np.tile(np.arange(24), 3000)})
    table["relevant"] = table["item"] % 2 == 0
    one, two = (table.assign(recommender="A", score=table["relevant"] * true + rng.normal(size=72_000)) for _ in "ab")
    whole = [performance(rows)["performance"] for rows in (one, two)]
    row = found.regression_to_the_mean(found.split_half(one, rng), 0.5, 1, 200).iloc[0]
    assert row["reliability"] == pytest.approx(whole[0].corr(whole[1]), abs=0.06)  # pairs between halves count in none
    assert row["correlation"] < whole[0].corr(whole[1]) - 0.15
    assert row["reliability_low"] < row["reliability"] < row["reliability_high"]


# --- other rules ------------------------------------------------------------------------------------------------------


def routed(folds: pd.DataFrame) -> pd.DataFrame:
    return flags(folds).assign(shrunken=0.6, upper=0.9)


def test_all_folds_flag_whom_the_triage_flags_and_fewer_folds_look_at_the_next_ones():
    folds, triage = prepared(np.random.default_rng(3).normal(0.4, 0.5, 60), 4)
    triage["inactive"] = triage["user"] < 40
    expected = triage["weak"] & triage["inactive"]
    assert found.flagged(folds, triage.assign(weak=None), 0.5)["weak"].tolist() == expected.tolist()
    two = found.flagged(folds, triage, 0.5, evidence=2).set_index(["test", "user"])["weak"]
    sums = folds[folds["test"] == 4].set_index(["fold", "user"])[["correct", "pairs"]]
    both = sums.loc[0] + sums.loc[1]  # after the last fold comes the first
    assert two.loc[4].tolist() == ((both["correct"] / both["pairs"] <= 0.5) & (both.index < 40)).tolist()


def test_rules_by_hand_and_none_sees_the_test_fold():
    folds, _ = prepared(np.random.default_rng(3).normal(0.4, 0.5, 6), 4)
    triage = routed(folds)
    first = triage["test"] == 0
    triage.loc[first, "inactive"] = [True] * 5 + [False]
    triage.loc[first, "weak"] = [True, True, False, False, False, False]
    triage.loc[first, "shrunken"] = [0.7, 0.55, 0.52, 0.6, 0.9, 0.1]
    triage.loc[first, "upper"] = [0.8, 0.5, 0.7, 0.7, 0.9, 0.2]
    rules = found.rules(folds, triage, 0.5)
    weak = {name: rows.loc[first, "weak"].tolist() for name, rows in rules.items()}
    assert weak["all folds"] == [True, True] + [False] * 4
    assert weak["shrunken"] == [False, True, True] + [False] * 3  # as many, and never an active user
    assert weak["sure"] == [False, True] + [False] * 4
    other = folds.assign(correct=folds["correct"].where(folds["fold"] != folds["test"], 0))
    for name, rows in found.rules(other, triage, 0.5).items():
        pd.testing.assert_frame_equal(rows, rules[name])


def test_what_users_are_called_changes_nothing():
    folds, triage = prepared(np.full(50, 0.5), 7)
    named = [
        table.assign(user=[f"guest {one:03}" for one in table["user"]]) for table in (folds, triage, posterior(50))
    ]
    pd.testing.assert_frame_equal(
        found.detection(*named, 0.5, 1, 50), found.detection(folds, triage, posterior(50), 0.5, 1, 50)
    )
    pd.testing.assert_frame_equal(found.reliability(*named[:2], 1, 50), found.reliability(folds, triage, 1, 50))


def test_detection_without_a_posterior_says_nothing_of_the_truly_weak_and_the_rest_as_before():
    folds, triage = prepared(np.full(50, 0.3), 6)
    with_it, without = (found.detection(folds, triage, known, 0.5, 1, 50) for known in (posterior(50), None))
    pd.testing.assert_frame_equal(without, with_it[list(without)])
    assert set(with_it) - set(without) == {"truly_weak", "truly_weak_low", "truly_weak_high"}


def test_where_nobody_is_flagged_there_is_no_mean_and_no_error():
    folds, triage = prepared(np.full(50, 0.3), 6)
    row = found.detection(folds, triage.assign(weak=False), None, 0.5, 1, 50).iloc[0]
    assert row["flags"] == 0 and np.isnan([row["precision"], row["flagged_auc"], row["gap_low"]]).all()
    assert row["rest_auc_low"] < row["rest_auc"] < row["rest_auc_high"]
