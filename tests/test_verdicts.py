"""Tests and intervals are SciPy's, they cover and detect as often as they say, and Holm holds both."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybridrec.errors import ScoresError
from hybridrec.evaluation import verdicts
from hybridrec.evaluation.verdicts import judge


def table(*samples: np.ndarray, family: str = "one") -> pd.DataFrame:
    """The table that is judged, a comparison for each sample of per-user differences."""
    comparison = np.repeat([f"c{at}" for at in range(len(samples))], [len(values) for values in samples])
    rows = pd.DataFrame({"comparison": comparison, "family": family, "difference": np.concatenate(samples)})
    return rows.assign(user=rows.groupby("comparison").cumcount())


def normal(n: int, mean: float, sd: float, seed: int = 0) -> np.ndarray:
    """A sample with exactly this mean and standard deviation."""
    drawn = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (drawn - drawn.mean()) / drawn.std(ddof=1)


def auc_difference(rng: np.random.Generator, n: int, auc: float, other: float, noise: float = 0.0) -> np.ndarray:
    """AUC minus AUC of users with two likes and three other items, ranked by two scores of known true AUC."""
    shift = np.sqrt(2) * stats.norm.ppf([auc, other])
    scores = rng.normal(size=(2, n, 5))
    if noise:
        scores[1] = scores[0] + noise * scores[1]
    scores[:, :, :2] += shift[:, None, None]
    found = (scores[:, :, :2, None] > scores[:, :, None, 2:]).mean(axis=(2, 3))
    return found[0] - found[1]


# --- one comparison -------------------------------------------------------------------------------------------------


def test_interval_and_p_are_those_of_scipys_t_tests():
    values = np.random.default_rng(3).normal(0.02, 0.1, 35)
    row = judge(table(values)).iloc[0]
    found = stats.ttest_1samp(values, 0)
    assert (row["low"], row["high"]) == pytest.approx(tuple(found.confidence_interval()))
    assert row["p"] == row["p_holm"] == pytest.approx(found.pvalue)
    below = stats.ttest_1samp(values, 0.05, alternative="less").pvalue
    above = stats.ttest_1samp(values, -0.05, alternative="greater").pvalue
    assert row["p_equivalence"] == row["p_equivalence_holm"] == pytest.approx(max(below, above))
    assert (row["n"], row["mean"]) == (35, pytest.approx(values.mean()))


@pytest.mark.parametrize(
    ("mean", "sd", "n", "word"),
    [
        (0.10, 0.2, 100, "helps"), (-0.10, 0.2, 100, "harms"), (0.0, 0.2, 100, "equivalent"),
        (0.03, 0.2, 100, "cannot tell"), (0.0, 0.2, 30, "cannot tell"), (0.03, 0.05, 100, "helps"),
        (0.10, 0.01, 9, "cannot tell"), (0.10, 0.01, 10, "helps"), (0.0, 0.0, 50, "equivalent"),
        (0.1, 0.0, 50, "helps"), (-0.05, 0.0, 50, "harms"),
    ],
)  # fmt: skip
def test_the_four_verdicts(mean, sd, n, word):
    assert judge(table(normal(n, mean, sd))).iloc[0]["verdict"] == word


def test_a_verdict_turns_where_the_interval_does():
    half = stats.t.ppf(0.975, 49) * 0.2 / np.sqrt(50)
    narrow = 0.05 - stats.t.ppf(0.95, 49) * 0.1 / np.sqrt(50)  # two one-sided tests at 5 %: the 90 % interval
    for mean, sd, word in (
        (half * 1.001, 0.2, "helps"), (half * 0.999, 0.2, "cannot tell"),
        (-half * 1.001, 0.2, "harms"), (-half * 0.999, 0.2, "cannot tell"),
        (narrow * 0.999, 0.1, "equivalent"), (-narrow * 0.999, 0.1, "equivalent"), (narrow * 1.001, 0.1, "cannot tell"),
    ):  # fmt: skip
        assert judge(table(normal(50, mean, sd))).iloc[0]["verdict"] == word, (mean, sd)


def test_rows_come_in_order_of_appearance():
    rows = table(normal(20, 0.3, 0.1), normal(30, -0.2, 0.1), normal(40, 0.1, 0.1))
    rows["comparison"] = rows["comparison"].map({"c0": "z", "c1": "a", "c2": "m"})
    found = judge(rows.sample(frac=1, random_state=1).sort_values("difference", ascending=False, kind="stable"))
    order = rows.sort_values("difference", ascending=False)["comparison"].unique()
    assert found["comparison"].tolist() == list(order)
    by_name = found.set_index("comparison")
    assert by_name["n"].to_dict() == {"z": 20, "a": 30, "m": 40}
    assert by_name["mean"].to_dict() == pytest.approx({"z": 0.3, "a": -0.2, "m": 0.1})


def test_rounding_is_no_effect():
    assert judge(table(np.full(20, 3e-17)))["verdict"].item() == "equivalent"


def test_a_single_user_has_no_interval():
    row = judge(table(np.array([0.3]))).iloc[0]
    assert row[["low", "high", "smallest_detectable", "p", "p_equivalence_holm"]].isna().all()
    assert (row["n"], row["verdict"]) == (1, "cannot tell")


def test_users_who_count_several_times_are_still_one_user_each():
    """A weight for everybody changes nothing; unequal ones give the ratio, and the jackknife's error."""
    rng = np.random.default_rng(8)
    values, weight = rng.normal(0.05, 0.2, 80), rng.integers(1, 6, 80)
    plain = judge(table(values))
    pd.testing.assert_frame_equal(judge(table(values).assign(weight=3)), plain)
    row = judge(table(values).assign(weight=weight)).iloc[0]
    assert row["mean"] == pytest.approx(np.average(values, weights=weight))
    without = [np.average(np.delete(values, at), weights=np.delete(weight, at)) for at in range(80)]
    jackknife = np.sqrt(79 / 80 * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert (row["high"] - row["low"]) / 2 == pytest.approx(stats.t.ppf(0.975, 79) * jackknife, rel=0.03)


# --- how often they are right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10, 25, 200])
@pytest.mark.parametrize(("auc", "other", "noise"), [(0.5, 0.5, 0), (0.65, 0.55, 0), (0.85, 0.5, 0), (0.7, 0.65, 0.7)])
def test_the_interval_covers_the_truth_in_95_of_100_studies(n, auc, other, noise):
    """A normal interval (1.96 for t) covers 91 or 92 of 100 with ten users, and fails here."""
    rng = np.random.default_rng(n)
    studies = 1500
    truth = auc_difference(rng, 200_000, auc, other, noise).mean()
    rows = judge(table(*auc_difference(rng, n * studies, auc, other, noise).reshape(studies, n)))
    covered = ((rows["low"] <= truth) & (truth <= rows["high"])).mean()
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("n", [12, 60, 300])
def test_the_smallest_detectable_effect_is_found_in_80_of_100_studies(n):
    """Formula against simulation: users whose differences have this spread, and this true mean."""
    rng = np.random.default_rng(n)
    population = auc_difference(rng, 200_000, 0.6, 0.6)
    effect = float(verdicts.smallest_detectable(population.std(), n))
    rows = judge(table(*(rng.choice(population - population.mean() + effect, (1500, n)))))
    assert 0.76 <= (rows["p"] < 0.05).mean() <= 0.84
    assert rows["smallest_detectable"].mean() == pytest.approx(effect, rel=0.05)


@pytest.mark.parametrize(("truth", "branch"), [(0.0, "p_holm"), (0.05, "p_equivalence_holm")])
def test_errors_of_a_family_are_rare_on_both_branches(truth, branch):
    """Twenty comparisons of nothing: one is called an effect in 5 of 100 families. At the margin: one equivalent."""
    drawn = np.random.default_rng(1).normal(truth, 0.1, (200, 20, 60))
    rows = judge(pd.concat([table(*family, family=f"f{at}") for at, family in enumerate(drawn)]))
    wrong = (rows[branch] < 0.05).groupby(rows["family"]).any().sum()
    assert 2 <= wrong <= 19  # 10 expected; uncorrected it would be 128


# --- families -------------------------------------------------------------------------------------------------------


def test_holm_by_hand_over_each_family_and_branch():
    samples = [normal(40, mean, 0.1) for mean in (0.055, 0.04, 0.0)]
    rows = judge(pd.concat([table(*samples), table(samples[1], family="two")]))
    assert list(rows["family"]) == ["one", "one", "one", "two"]
    p, q = rows["p"].to_numpy(), rows["p_equivalence"].to_numpy()
    assert list(rows["p_holm"]) == pytest.approx([3 * p[0], max(3 * p[0], 2 * p[1]), 1, p[3]])
    assert list(rows["p_equivalence_holm"][[2, 1]]) == pytest.approx([3 * q[2], 2 * q[1]])
    assert rows["p_equivalence_holm"][3] == q[3] == q[1]


def test_comparisons_of_too_few_users_do_not_count_in_a_family():
    many = normal(40, 0.04, 0.1)
    with_few = judge(table(many, normal(9, 0.2, 0.1))).iloc[0]
    pd.testing.assert_series_equal(with_few, judge(table(many)).iloc[0])


def test_a_user_counts_once():
    rows = table(normal(20, 0, 0.1))
    with pytest.raises(ScoresError, match="user 3 "):
        judge(pd.concat([rows, rows.iloc[[3]]]))
    for bad in (np.nan, np.inf):
        with pytest.raises(ScoresError, match="user 5 "):
            judge(rows.assign(difference=rows["difference"].where(rows["user"] != 5, bad)))


# --- explained by a coin --------------------------------------------------------------------------------------------


def coins(difference: np.ndarray, gain: np.ndarray) -> pd.Series:
    return verdicts.explained_by_coin(table(difference).assign(gain=gain)).iloc[0]


def test_a_coin_explains_only_what_is_equivalent_within_half_its_gain():
    gain = normal(200, 0.2, 0.2)
    assert coins(normal(200, 0.0, 0.2, 1), gain)["explained"]
    assert not coins(normal(200, 0.09, 0.2, 1), gain)["explained"]  # its interval goes beyond half the gain
    assert not coins(normal(20, 0.0, 0.4, 1), gain[:20])["explained"]  # not rejected, and not explained
    assert not coins(normal(200, 0.0, 0.2, 1), normal(200, 0.02, 0.2))["explained"]  # the coin gains hardly anything
    assert not coins(normal(200, 0.0, 0.01, 1), normal(200, -0.2, 0.2))["explained"]  # the coin loses


def test_the_coins_gain_is_itself_uncertain():
    rng = np.random.default_rng(4)
    difference, gain = rng.normal(0.02, 0.1, 60), rng.normal(0.1, 0.4, 60)
    row = coins(difference, gain)
    below = stats.ttest_1samp(difference - gain / 2, 0, alternative="less").pvalue
    above = stats.ttest_1samp(difference + gain / 2, 0, alternative="greater").pvalue
    assert row["p_equivalence"] == pytest.approx(max(below, above))
    assert row["coin_gain"] == pytest.approx(gain.mean())
