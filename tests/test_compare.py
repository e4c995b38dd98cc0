"""One call judges the final lists: gains by hand, and the verdicts of ``verdicts`` over all alternatives."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, ScoresError
from hybridrec.evaluation.compare import compare, judged, of_users
from hybridrec.evaluation.controls import ratings_of_items
from hybridrec.evaluation.hybrid import combine

ITEMS = range(6)


def known(like: float | None = 4) -> Dataset:
    """What was known before: item 0 is popular and disliked, item 5 was rated once and liked, 1 and 2 lie between."""
    rows = [(900 + n, 0, 1.0) for n in range(5)] + [(900, 1, 3.0), (901, 1, 3.0), (900, 2, 4.0), (900, 5, 5.0)]
    ratings = pd.DataFrame(rows, columns=["user", "item", "rating"])
    return Dataset("shop", ratings, pd.DataFrame({"item": ITEMS}), "made up", like)


def study(users: int, skill: float, seed: int = 0, own_skill: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Final lists and outcomes of so many routed users: six items, three of them liked, scores of known skill."""
    rng = np.random.default_rng(seed)
    pairs = pd.MultiIndex.from_product([range(users), ITEMS], names=["user", "item"]).to_frame(index=False)
    liked = np.concatenate([rng.permutation([1, 1, 1, 0, 0, 0]) for _ in range(users)]) if users else np.array([])
    own, new = (pairs.assign(score=liked * how + rng.normal(size=len(pairs))) for how in (own_skill, skill))
    return combine(own, new.assign(ranker="llm")), pairs.assign(rating=liked * 4.0 + 1)


@pytest.fixture
def by_hand() -> tuple[pd.DataFrame, pd.DataFrame]:
    """User 1 is routed and judged; 2 has liked everything; 3 got no answer; 4 is not routed."""
    own = pd.DataFrame({"user": [1, 1, 1, 2, 2, 3, 3, 4, 4], "item": [0, 1, 5, 0, 1, 0, 1, 0, 1], "score": 0.0})
    own["score"] = [3.0, 2, 1, 2, 1, 2, 1, 2, 1]
    ranked = own[own["user"] < 4].assign(
        score=[1.0, 2, 3, 1, 2, 1, 2], ranker="llm", failure=[""] * 5 + ["refusal"] * 2
    )
    outcomes = own[["user", "item"]].assign(rating=[1.0, 2, 5, 5, 5, 1, 4, 5, 1])
    return combine(own, ranked), outcomes


def test_by_hand(by_hand):
    found = compare(*by_hand, known())
    rows = found.table.set_index("against")
    # The list of user 1 is 5, 1, 0, of which 5 is liked: 1. The recommender has 0. User 3 keeps 0, 1 with 1 liked: 0.
    assert rows["auc_final"].tolist() == [0.5] * 4
    assert rows["auc_other"].to_dict() == {"recommender": 0.0, "random": 0.5, "popularity": 0.0, "item-mean": 1.0}
    assert rows["gain"].tolist() == [0.5, 0.0, 0.5, -0.5]
    assert (rows["users"] == 2).all()
    assert (found.routed, found.judged, found.no_answer, found.no_outcome) == (3, 2, 1, 0)
    assert found.left_out == ("best-other",)
    assert set(rows["verdict"]) == {"cannot tell"}  # two users


def test_what_is_printed_has_every_row_and_the_counts(by_hand):
    text = str(compare(*by_hand, known()))
    for shown in ("recommender", "item-mean", "cannot tell", "-0.500", "2 of 3", "best-other"):
        assert shown in text


def test_another_recommenders_scores_are_a_column_of_the_lists(by_hand):
    final, outcomes = by_hand
    table = compare(final.assign(**{"best-other": -final["own"]}), outcomes, known()).table.set_index("against")
    assert table.loc["best-other", "auc_other"] == 1


def test_auc_is_that_of_scikit_learn_on_routed_users_only():
    final, outcomes = study(40, 0.7)
    final["source"] = final["source"].where(final["user"] < 30, "recommender")
    joined = final.merge(outcomes)
    expected = [roc_auc_score(rows["rating"] >= 4, rows["score"]) for user, rows in joined.groupby("user") if user < 30]
    table = compare(final, outcomes, known(), against=["random"]).table
    assert table["auc_final"].tolist() == pytest.approx([np.mean(expected)] * 2)
    assert table.loc[1, "gain"] == pytest.approx(np.mean(expected) - 0.5)
    low, high = table.loc[1, ["low", "high"]]
    interval = stats.ttest_1samp(np.array(expected) - 0.5, 0).confidence_interval()
    assert (low, high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("skill", "own_skill", "word"), [(3, 0, "helps"), (0, 3, "harms")])
def test_a_clear_difference_is_seen(skill, own_skill, word):
    table = compare(*study(60, skill, own_skill=own_skill), known()).table.set_index("against")
    assert table.loc["recommender", "verdict"] == word


def test_the_same_lists_are_equivalent_and_few_users_tell_nothing():
    for users, word in ((200, "equivalent"), (9, "cannot tell")):
        final, outcomes = study(users, 1)
        table = compare(final.assign(own=final["score"] * 2), outcomes, known()).table.set_index("against")
        assert (table.loc["recommender", "gain"], table.loc["recommender", "verdict"]) == (0, word)


def test_verdicts_are_corrected_for_the_number_of_alternatives():
    """One gain that its own interval calls clear is not, beside other alternatives that are also compared."""
    final, outcomes = study(60, 0.3, seed=2)
    columns = [f"other {n}" for n in range(9)]
    final = final.assign(**{name: final["score"] for name in columns})
    alone = compare(final, outcomes, known(), against=[]).table
    among = compare(final, outcomes, known(), against=columns).table.head(1)
    assert (alone["verdict"].item(), among["verdict"].item()) == ("helps", "cannot tell")
    assert alone["low"].item() == among["low"].item() > 0
    assert among["p_holm"].item() == pytest.approx(10 * alone["p_holm"].item())


def test_nobody_routed_is_no_error():
    final, outcomes = study(20, 1)
    found = compare(final.assign(source="recommender"), outcomes, known())
    assert (found.routed, found.judged) == (0, 0)
    assert set(found.table["verdict"]) == {"cannot tell"} and found.table["gain"].isna().all()


def test_candidates_without_an_outcome_are_left_out_and_counted():
    final, outcomes = study(20, 1)
    absent = outcomes["item"] == 2
    found = compare(final, outcomes[~absent], known())
    whole = compare(final[final["item"] != 2], outcomes[~absent], known())
    assert (found.no_outcome, whole.no_outcome) == (20, 0)
    pd.testing.assert_frame_equal(found.table, whole.table)


def test_text_ids_are_compared_like_numbers():
    final, outcomes = study(30, 0.5)
    data = known()
    expected = compare(final, outcomes, data).table
    for table in (final, outcomes, data.interactions):
        table[["user", "item"]] = table[["user", "item"]].map("{:04}".format)
    pd.testing.assert_frame_equal(compare(final, outcomes, data).table, expected)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_outcomes_that_were_known_before_are_refused():
    final, outcomes = study(12, 1)
    data = known()
    data.interactions.loc[len(data.interactions)] = [7, 3, 5.0]
    with pytest.raises(ScoresError, match="user 7 and item 3 .*shop"):
        compare(final, outcomes, data)


def test_outcomes_and_scores_must_be_one_a_pair_and_finite():
    final, outcomes = study(12, 1)
    for worse in (pd.concat([outcomes, outcomes.iloc[[8]]]), outcomes.assign(rating=np.inf)):
        with pytest.raises(DatasetError, match="user"):
            compare(final, worse, known())
    with pytest.raises(ScoresError, match="user 0, item 0"):
        compare(final.assign(**{"best-other": np.nan}), outcomes, known())


def test_outcomes_of_nobody_who_is_routed_are_an_error():
    final, outcomes = study(12, 1)
    compare(final, outcomes.astype({"user": str}), known())  # numbers written as text are the same users
    with pytest.raises(ScoresError, match="users and items"):
        compare(final, outcomes.assign(user=outcomes["user"] + 500), known())


def test_unknown_alternatives_and_data_without_a_like_are_refused():
    final, outcomes = study(12, 1)
    with pytest.raises(ScoresError, match="'popular'"):
        compare(final, outcomes, known(), against=["popular"])
    with pytest.raises(DatasetError, match="like="):
        compare(final, outcomes, known(like=None))


def test_users_may_be_judged_part_by_part():
    final, outcomes = study(40, 0.5)
    data = known()
    whole = compare(final, outcomes, data)
    of_items, parts = ratings_of_items(data.interactions), []
    for remainder in (2, 0, 1):
        own = (table[table["user"] % 3 == remainder] for table in (final, outcomes))
        some = data.interactions[data.interactions["user"] % 3 == remainder]
        parts.append(of_users(*own, Dataset("part", some, data.items, "made up", 4), item_ratings=of_items))
    found = judged(parts[0] + parts[1] + parts[2])
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    assert str(found) == str(whole)
