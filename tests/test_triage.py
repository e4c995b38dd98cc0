"""Who is weak: P(u) by hand, and the thresholds to the letter."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybridrec.data.datasets import Dataset, sparsity_index
from hybridrec.errors import DatasetError, ScoresError
from hybridrec.weak_users import performance, triage
from hybridrec.weak_users.triage import Thresholds


def judged(scores, relevant, user: int = 1, **columns) -> pd.DataFrame:
    return pd.DataFrame({"user": user, "score": np.asarray(scores, float), "relevant": relevant, **columns})


def users(values: dict) -> pd.Series:
    return pd.Series(values, dtype=float)


# --- P(u) -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "relevant", "performance", "pairs"),
    [
        ([3, 2, 1], [1, 0, 0], 1.0, 2),
        ([1, 2, 3], [1, 0, 0], 0.0, 2),
        ([3, 2, 1], [0, 1, 0], 0.5, 2),
        ([7, 7, 7], [1, 0, 0], 0.5, 2),
        ([2, 2, 1], [1, 0, 0], 0.75, 2),
        ([1, 2, 2, 3], [1, 0, 1, 0], 0.125, 4),
        ([1, 2], [1, 1], np.nan, 0),
        ([1, 2], [0, 0], np.nan, 0),
    ],
    ids=["best", "worst", "middle", "all tied", "half tied", "one tie in four", "likes only", "no likes"],
)
def test_performance_by_hand(scores, relevant, performance, pairs):
    found = triage.performance(judged(scores, np.array(relevant, bool)))
    assert found.loc[1, "performance"] == pytest.approx(performance, nan_ok=True)
    assert found.loc[1, "pairs"] == pairs


def test_users_and_recommenders_are_judged_apart():
    good, bad = judged([2, 1], [True, False], user=1), judged([1, 2], [True, False], user=2)
    table = pd.concat(
        [pd.concat([good, bad]).assign(recommender="A"), pd.concat([good, good.assign(user=2)]).assign(recommender="B")]
    )
    found = triage.performance_by_recommender(table)
    assert found[["recommender", "user", "performance"]].to_numpy().tolist() == [
        ["A", 1, 1.0], ["A", 2, 0.0], ["B", 1, 1.0], ["B", 2, 1.0],
    ]  # fmt: skip


def test_pairs_are_formed_within_a_fold_only():
    # Each fold orders its own pair; across folds the like of fold 0 would lose to the dislike of fold 1.
    table = judged([0.2, 0.1, 0.9, 0.8], [True, False, True, False], fold=[0, 0, 1, 1])
    assert triage.performance(table).loc[1].tolist() == [1.0, 2]
    assert triage.performance(table.drop(columns="fold")).loc[1].tolist() == [0.75, 4]


def test_a_fold_counts_by_its_pairs_and_one_without_pairs_not_at_all():
    # Fold 0: one pair, right. Fold 1: three pairs, all wrong. Fold 2: no pair.
    scores, relevant, fold = [2, 1, 0, 1, 2, 3, 9], [1, 0, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1, 2]
    assert triage.performance(judged(scores, np.array(relevant, bool), fold=fold)).loc[1].tolist() == [0.25, 4]


# --- thresholds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("performance", "sparsity", "weak", "weak_strict"),
    [
        (0.4, 0.95, True, True),
        (0.5, 0.95, True, False),
        (0.6, 0.95, False, False),
        (0.4, 0.90, False, False),
        (0.4, 0.80, False, False),
        (np.nan, 0.95, False, False),
    ],
    ids=["poor", "at t_p", "good", "at t_s", "active", "undefined"],
)
def test_weak_is_poor_and_sparser_than_the_threshold(performance, sparsity, weak, weak_strict):
    args = users({1: performance}), users({1: sparsity}), Thresholds(0.5, 0.9)
    assert triage.weak_users(*args).tolist() == [weak]
    assert triage.weak_users(*args, strict=True).tolist() == [weak_strict]


def test_a_user_who_was_not_judged_is_strong():
    weak = triage.weak_users(users({1: 0.1}), users({1: 0.95, 2: 0.95}), Thresholds(0.5, 0.9))
    assert weak.to_dict() == {1: True, 2: False}
    assert weak.dtype == bool


def test_without_a_given_sparsity_threshold_it_is_the_mean():
    sparsity = users({1: 0.7, 2: 0.8, 3: 0.9, 4: 0.8})
    assert triage.sparsity_threshold(sparsity, Thresholds()) == pytest.approx(0.8)
    assert triage.inactive(sparsity, Thresholds(sparsity=0.75)).tolist() == [False, True, True, True]
    assert triage.inactive(users({1: 0.5, 2: 1.0}), Thresholds()).tolist() == [False, True]


def test_a_given_zero_threshold_is_not_taken_for_none():
    assert triage.sparsity_threshold(users({1: 0.5, 2: 1.0}), Thresholds(sparsity=0.0)) == 0.0


@pytest.fixture
def three_users() -> pd.DataFrame:
    """Recommender A is wrong on users 1 and 2 and ties for 3; B is right on all."""
    likes = {"A": (1, 1, 2), "B": (3, 3, 3)}
    rows = [(name, user, like, True) for name in likes for user, like in enumerate(likes[name], 1)]
    rows += [(name, user, 2, False) for name in likes for user in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["recommender", "user", "score", "relevant"])


def test_the_triage_table_routes_each_recommenders_own_weak_users(three_users):
    table = triage.triage_table(three_users, users({1: 0.9, 2: 0.5, 3: 0.9}), Thresholds(), "published")
    rows = table.set_index(["recommender", "user"])
    assert rows.loc["A", "weak"].to_dict() == {1: True, 2: False, 3: True}
    assert rows.loc["A", "weak_strict"].to_dict() == {1: True, 2: False, 3: False}
    assert not rows.loc["B", "weak"].any()
    assert (table["protocol"] == "published").all()
    assert list(table) == [
        "recommender", "user", "performance", "pairs", "sparsity", "weak", "weak_strict", "protocol",
    ]  # fmt: skip


def test_the_mean_sparsity_is_over_all_users_also_those_without_candidates(three_users):
    # User 4 has no candidates but belongs to the dataset: the mean is 0.63. Over the judged it would be 0.61.
    sparsity = users({1: 0.62, 2: 0.5, 3: 0.7, 4: 0.7})
    table = triage.triage_table(three_users, sparsity, Thresholds(), "published")
    assert table.loc[table["weak"], ["recommender", "user"]].to_numpy().tolist() == [["A", 3]]
    assert set(table.loc[table["weak"], "user"]) <= set(sparsity.index[triage.inactive(sparsity, Thresholds())])


# --- in one call, for anybody's recommender ---------------------------------------------------------------------------


class Scorer:
    """A recommender whose scores out of fold are a table."""

    name = "mine"

    def __init__(self, scores: pd.DataFrame):
        self.table = scores

    def out_of_fold(self, data: object) -> pd.DataFrame:
        return self.table


def shop(users: int, ratings: int, seed: int = 0, like: float | None = 4) -> Dataset:
    """Users with text ids, the first fifth of whom have rated four times as much; half of what they rate they like."""
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(
            {"user": f"u{n:04}", "item": rng.choice(400, ratings * (4 if n < users / 5 else 1), replace=False)}
        )
        for n in range(users)
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows["rating"] = np.where(rng.random(len(rows)) < 0.5, 5.0, 2.0)
    return Dataset("shop", rows, pd.DataFrame({"item": range(400)}), "made up", like)


def scored(data: Dataset, skill: float | pd.Series, seed: int = 1) -> Scorer:
    """Scores N(skill, 1) of liked items and N(0, 1) of others, in three folds with a level each."""
    rng, rows = np.random.default_rng(seed), data.interactions
    fold = rng.integers(3, size=len(rows))
    score = (rows["rating"] >= 4) * skill + rng.normal(size=len(rows)) + 10 * fold
    return Scorer(rows[["user", "item"]].assign(score=score, fold=fold))


def test_triage_is_the_published_rule_on_scores_out_of_fold():
    data = shop(60, 10)
    mine = scored(data, 0.5)
    table = triage.triage(data, mine).table
    sparsity = sparsity_index(data.interactions, 400)
    rows = mine.table.assign(relevant=data.interactions["rating"] >= 4, recommender="mine")
    expected = triage.triage_table(rows, sparsity, Thresholds(), "out of fold")
    columns = ["user", "performance", "pairs", "sparsity", "weak"]
    pd.testing.assert_frame_equal(table[columns], expected[columns])
    assert table["inactive"].equals(table["sparsity"] > sparsity.mean())


def test_triage_shrinks_by_empirical_bayes():
    data = shop(60, 10)
    mine = scored(data, 0.5)
    known = performance.evidence(mine.table.assign(relevant=data.interactions["rating"] >= 4))
    expected = performance.empirical_bayes(known["performance"], performance.sampling_variance(known)).dropna()
    found = triage.triage(data, mine).table.set_index("user").dropna()
    assert found["shrunken"].tolist() == pytest.approx(expected["performance"].tolist())
    upper = expected["performance"] + 0.8416212 * expected["sd"]  # the normal distribution's quantile of 0.8
    assert found["upper"].tolist() == pytest.approx(upper.clip(upper=1).tolist())


def test_other_thresholds_flag_others():
    data = shop(60, 30)  # nobody is without a pair
    everybody = triage.triage(data, scored(data, 0.5), performance_threshold=1.0, sparsity_threshold=0.0)
    assert everybody.users.tolist() == sorted(data.interactions["user"].unique())
    assert (everybody.thresholds.performance, everybody.thresholds.sparsity) == (1.0, 0.0)
    assert triage.triage(data, scored(data, 0.5), sparsity_threshold=0.99).users.empty


def test_where_all_users_are_served_alike_luck_flags_as_many_as_are_flagged():
    data = shop(1000, 12)
    found = triage.triage(data, scored(data, 0.5))
    assert len(found.users) > 100
    assert abs(len(found.users) - found.by_luck) < 3 * found.by_luck_sd
    assert found.spread < 0.05


def test_truly_weak_users_are_more_than_luck_flags_and_the_spread_is_what_it_is():
    data = shop(1000, 12)
    worse = data.interactions["user"].isin([f"u{n:04}" for n in range(0, 1000, 5)])
    found = triage.triage(data, scored(data, np.where(worse, -1.0, 1.5)))
    assert len(found.users) > found.by_luck + 3 * found.by_luck_sd
    # A fifth of the users have AUC Phi(-1 / sqrt 2), the others Phi(1.5 / sqrt 2).
    low, high = stats.norm.cdf(np.array([-1.0, 1.5]) / np.sqrt(2))
    assert found.spread == pytest.approx((high - low) * np.sqrt(0.2 * 0.8), rel=0.15)


def test_what_triage_says_has_its_numbers():
    data = shop(300, 12)
    found = triage.triage(data, scored(data, 0.5))
    for number in (len(found.users), 300, f"{found.by_luck:.0f}", f"{found.spread:.3f}"):
        assert f"{number} " in str(found) or f"{number}." in str(found)


def test_users_without_a_score_or_a_pair_are_kept_and_not_weak():
    data = shop(20, 10)
    mine = scored(data, 0.0)
    mine.table = mine.table[mine.table["user"] != "u0019"]
    data.interactions.loc[data.interactions["user"] == "u0018", "rating"] = 5.0
    table = triage.triage(data, mine, performance_threshold=1.0).table.set_index("user")
    assert len(table) == 20
    for user in ("u0018", "u0019"):
        assert table.loc[user, ["performance", "shrunken", "sd", "upper"]].isna().all()
        assert (table.loc[user, "pairs"], table.loc[user, "inactive"], table.loc[user, "weak"]) == (0, True, False)


UNRATED = min(set(range(400)) - set(shop(20, 10).interactions.query("user == 'u0000'")["item"]))


@pytest.mark.parametrize(
    ("worse", "named"),
    [
        (lambda rows: rows.assign(item=rows["item"].mask(rows.index == 5, 999)), "item 999"),
        (lambda rows: rows.assign(user=rows["user"].mask(rows.index == 5, "nobody")), "user 'nobody'"),
        (lambda rows: rows.assign(item=rows["item"].mask(rows.index == 5, UNRATED)), f"user 'u0000' .*item {UNRATED}"),
        (lambda rows: pd.concat([rows, rows.iloc[[5]].assign(fold=2)]), "two scores"),
        (lambda rows: rows.assign(score=rows["score"].mask(rows.index == 5)), "finite"),
    ],
    ids=["unknown item", "unknown user", "not rated", "twice", "missing"],
)
def test_scores_that_do_not_fit_the_ratings_are_refused(worse, named):
    data = shop(20, 10)
    with pytest.raises(ScoresError, match=f"mine.*{named}"):
        triage.triage(data, Scorer(worse(scored(data, 0.5).table)))


def test_data_must_say_what_a_like_is():
    with pytest.raises(DatasetError, match="like="):
        triage.triage(shop(20, 10, like=None), Scorer(pd.DataFrame()))


def test_users_may_be_counted_part_by_part():
    data = shop(60, 10)
    mine = scored(data, 0.5)
    whole = triage.triage(data, mine)
    parts, users = [], data.interactions["user"].unique()
    for some in (users[1::2], users[::2]):
        rows = data.interactions[data.interactions["user"].isin(some)]
        own = Scorer(mine.table[mine.table["user"].isin(some)])
        parts.append(triage.judged_counts(Dataset("part", rows, data.items, "made up", 4), own))
    rated = data.interactions.groupby("user").size()
    found = triage.of_counts(pd.concat(parts).sort_index(), rated, len(data.items))
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    assert (found.by_luck, found.by_luck_sd, found.spread) == (whole.by_luck, whole.by_luck_sd, whole.spread)
