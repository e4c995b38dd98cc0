"""Re-ranked lists are judged against the whole catalogue, and every ranker on the same users."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybridrec.evaluation import metrics, topk
from hybridrec.evaluation.controls import CONTROLS, ORACLE
from hybridrec.evaluation.statistics import POOLED

BEST = {"A": "best-other", "B": "item-mean"}


def lists(**items: list[int]) -> pd.DataFrame:
    """Retrieved lists of users u1, u2, ...: their items, best first."""
    rows = [(int(user[1:]), place, item) for user, mine in items.items() for place, item in enumerate(mine)]
    return pd.DataFrame(rows, columns=["user", "position", "item"])


def likes(**items: list[int]) -> pd.DataFrame:
    return pd.DataFrame([(int(u[1:]), item) for u, mine in items.items() for item in mine], columns=["user", "item"])


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(score=-table["position"].astype(float))


def test_a_like_that_was_not_retrieved_counts_as_missed():
    found = topk.judge(ranked(lists(u1=[*range(10)])), likes(u1=[0, 99])).loc[1]
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg_at_10"] == pytest.approx(1 / ideal)
    assert found["recall_at_10"] == pytest.approx(0.5)
    assert found["hit_rate_at_10"] == 1


def test_a_like_behind_the_tenth_place_is_no_hit():
    found = topk.judge(ranked(lists(u1=[*range(50)])), likes(u1=[10])).loc[1]
    assert list(found) == [0, 0, 0]


def test_only_users_with_a_like_are_judged():
    assert list(topk.judge(ranked(lists(u1=[1], u2=[1])), likes(u2=[1])).index) == [2]


def test_a_user_with_a_like_and_no_list_is_named_instead_of_left_out():
    with pytest.raises(ValueError, match=r"user 3 .* no list of MF"):
        topk.judge(ranked(lists(u1=[1], u2=[1])), likes(u2=[1], u3=[1]), "MF")


def test_the_random_order_is_the_mean_over_all_orders():
    mine, liked = lists(u1=[1, 2, 3, 4]), likes(u1=[2, 9])
    known = pd.DataFrame({"item": [1], "rating": [4.0]})
    random = topk.judge(dict(topk.rerankings(mine, known, liked))["random"], liked)
    orders = [mine.assign(score=scores) for scores in itertools.permutations([4.0, 3.0, 2.0, 1.0])]
    mean = pd.concat([topk.judge(order, liked) for order in orders]).mean()
    np.testing.assert_allclose(random.loc[1], mean)


def test_controls_reorder_the_list_by_what_was_known():
    mine, liked = lists(u1=[1, 2, 3]), likes(u1=[3])
    known = pd.DataFrame({"item": [2, 2, 2, 3], "rating": [1.0, 2.0, 1.0, 5.0]})
    orders = {
        name: list(table.sort_values("score", ascending=False)["item"])
        for name, table in topk.rerankings(mine, known, liked)
    }
    assert orders["recommender"] == [1, 2, 3]
    assert orders["popularity"] == [2, 3, 1]
    assert orders["item-mean"] == [3, 1, 2]  # the unrated item has the mean of all ratings
    assert orders[ORACLE][0] == 3


@pytest.fixture(scope="module")
def study() -> dict:
    """Two recommenders for 40 users with one like each: B has it on top, A at the end of its list of twelve."""
    users = range(1, 41)
    liked = likes(**{f"u{user}": [user] for user in users})
    others = [*range(101, 112)]
    bad, good = ({f"u{u}": order(u) for u in users} for order in (lambda u: [*others, u], lambda u: [u, *others]))
    retrieved = pd.concat([lists(**bad).assign(recommender="A"), lists(**good).assign(recommender="B")])
    known = pd.DataFrame({"item": [*others, *users], "rating": [3.0] * 11 + [4.0] * 40})
    clever = retrieved[retrieved["user"] <= 20].drop_duplicates(["user", "item"])
    clever = clever.assign(ranker="clever", score=(clever["item"] == clever["user"]).astype(float))
    return {
        "retrieved": retrieved, "known": known, "likes": liked, "best_other": {"A": "B", "B": "A"},
        "of_model": clever[["ranker", "user", "item", "score"]],
    }  # fmt: skip


@pytest.fixture(scope="module")
def compared(study: dict) -> pd.DataFrame:
    table = topk.comparison(topk.quality(**study), pd.Index(range(11, 41)), ["clever"], BEST)
    return table.set_index(["recommender", "ranker"])


def test_every_ranker_is_compared_for_every_recommender(compared):
    rankers = ["recommender", "clever", f"clever{topk.FUSED}", *topk.BARS, ORACLE]
    assert set(compared.index) == set(itertools.product(["A", "B", POOLED], rankers))
    assert set(CONTROLS) < set(topk.BARS)


def test_the_model_is_compared_on_its_sample_of_the_users(compared):
    scored = compared["users_scored"].unstack()
    of_model = ["clever", f"clever{topk.FUSED}"]
    assert scored[of_model].eq(10).all(axis=None)
    assert scored.drop(columns=of_model).eq(30).all(axis=None)


def test_a_ranking_that_finds_the_like_gains_all_there_is_to_gain(compared):
    row = compared.loc[("A", "clever")]
    assert (row["ndcg_at_10_before"], row["ndcg_at_10_after"]) == (0, 1)
    assert row["gain_over_recommender"] == 1
    assert compared.loc[("A", ORACLE), "ndcg_at_10_after"] == 1


def test_no_order_of_a_list_beats_the_oracle_which_finds_no_like_that_was_not_retrieved():
    mine, liked = lists(u1=[1, 2, 3, 4]), likes(u1=[3, 4, 9])
    best = topk.judge(dict(topk.rerankings(mine, mine.assign(rating=4.0), liked))[ORACLE], liked)
    orders = pd.concat(
        topk.judge(mine.assign(score=scores), liked) for scores in itertools.permutations([4.0, 3.0, 2.0, 1.0])
    )
    np.testing.assert_allclose(best.loc[1], orders.max())
    assert best.loc[1, "ndcg_at_10"] < 1


def test_best_other_is_the_other_recommenders_own_list(compared):
    assert compared.loc[("A", "best-other"), "ndcg_at_10_after"] == 1
    assert compared.loc[("B", "best-other"), "ndcg_at_10_after"] == 0


def test_a_model_as_good_as_the_bar_gains_nothing_over_it_and_is_equivalent(compared):
    row = compared.loc[("A", "clever")]
    assert (row["bar"], row["gain_over_bar"], row["gain_over_bar_verdict"]) == ("best-other", 0, "equivalent")
    assert row["gain_over_recommender_verdict"] == "helps"


def test_the_model_is_a_family_of_its_own(compared, study):
    """Its p-values are corrected over its own rows: two ways to rank, two recommenders and both pooled."""
    table = topk.comparison(topk.quality(**study), pd.Index(range(11, 41)), ["clever"], BEST).set_index("ranker")
    mine = table.loc[["clever", f"clever{topk.FUSED}"]]
    gained = compared["ndcg_at_10_after"] - compared["ndcg_at_10_before"]
    np.testing.assert_allclose(compared["gain_over_recommender"], gained, atol=1e-12)
    fused = mine.loc[f"clever{topk.FUSED}"].query("recommender == 'B'").iloc[0]
    assert fused["gain_over_recommender"] == 0  # B has the like on top, and so has the fusion
    assert fused["gain_over_recommender_p_holm"] == 1


def test_gains_have_students_intervals():
    rng = np.random.default_rng(3)
    users, rows = pd.Index(range(30), name="user"), []
    for ranker in ("recommender", "mine", f"mine{topk.FUSED}", *topk.BARS, ORACLE):
        values = rng.random(len(users))
        metrics_of = dict.fromkeys(topk.METRICS, values)
        rows.append(pd.DataFrame({"recommender": "A", "ranker": ranker, "user": users, **metrics_of}))
    quality = pd.concat(rows)
    table = topk.comparison(quality, users, ["mine"], {"A": "popularity"}).set_index(["recommender", "ranker"])
    ndcg = quality.pivot(index="user", columns="ranker", values="ndcg_at_10")
    found = table.loc[("A", "mine")]
    for over, against in (("recommender", "recommender"), ("bar", "popularity")):
        test = stats.ttest_rel(ndcg["mine"], ndcg[against])
        interval = test.confidence_interval(0.95)
        columns = [f"gain_over_{over}{part}" for part in ("_low", "_high")]
        np.testing.assert_allclose(found[columns].astype(float), [interval.low, interval.high])
    assert table.loc[(POOLED, "mine"), "gain_over_bar"] == pytest.approx(found["gain_over_bar"])


def test_an_item_that_the_model_has_not_scored_is_named(study):
    holes = study["of_model"].query("not (user == 7 and item == 105)")
    with pytest.raises(ValueError, match=r"item 105 of A's list for user 7 has no score"):
        topk.quality(**study | {"of_model": holes})


@pytest.mark.parametrize("recommender", ["A", "B"])
@pytest.mark.parametrize("gone", [[17], [*range(31, 41)], [*range(1, 41)][::3]])
def test_users_that_vanish_from_a_recommenders_lists_are_an_error_with_the_first_of_them(recommender, gone, study):
    """Ten users fewer made an NDCG of 0.1005 one of 0.134."""
    rows = study["retrieved"]
    left = rows[~(rows["user"].isin(gone) & (rows["recommender"] == recommender))]
    more = f"{len(gone) - 1} more" if len(gone) > 1 else "Retrieve"
    with pytest.raises(ValueError, match=rf"user {gone[0]} .* list of {recommender}.*{more}"):
        topk.quality(**study | {"retrieved": left})


def test_users_without_a_like_need_no_list_and_change_nothing(study, compared):
    more = pd.Index(range(900, 910))
    users = pd.Index(range(11, 41)).union(more)
    table = topk.comparison(topk.quality(**study), users, ["clever"], BEST)
    pd.testing.assert_frame_equal(table.set_index(["recommender", "ranker"]), compared)


@pytest.mark.parametrize("ranker", ["recommender", "random", "best-other", ORACLE])
def test_a_user_whom_only_some_rankers_have_scored_is_named(ranker, study):
    quality = topk.quality(**study)
    holes = quality[~((quality["user"] == 5) & (quality["recommender"] == "A") & (quality["ranker"] == ranker))]
    with pytest.raises(ValueError, match=re.escape(f"no list of A ({ranker})")) as caught:
        topk.comparison(holes, pd.Index(range(1, 31)), ["clever"], BEST)
    assert "user 5 " in str(caught.value)
    topk.comparison(holes, pd.Index(range(6, 31)), ["clever"], BEST)  # it is not about user 5


def test_without_a_model_there_are_controls_alone(study):
    table = topk.comparison(
        topk.quality(**study | {"of_model": study["of_model"].iloc[:0]}),
        pd.Index([1, 2]),
        [],
        BEST,
    )
    assert set(table["ranker"]) == {"recommender", *topk.BARS, ORACLE}


def test_the_recommenders_own_quality_is_that_of_the_metrics(study):
    own = topk.quality(**study).query("recommender == 'B' and ranker == 'recommender'").set_index("user")
    rows = study["retrieved"].query("recommender == 'B'")
    rows = rows.assign(score=-rows["position"], relevant=rows["item"] == rows["user"])
    np.testing.assert_allclose(own["ndcg_at_10"], metrics.ndcg_at_k(rows))


def test_titles_are_each_users_retrieved_items_once(study):
    rows = pd.DataFrame({"recommender": list("AABB"), "user": [7, 7, 7, 3], "item": [9, 5, 9, 9]})
    assert topk.titles(rows).to_dict("list") == {"user": [3, 7, 7], "item": [9, 5, 9], "position": [0, 0, 1]}


def test_reciprocal_rank_fusion_by_hand():
    mine = lists(u1=[11, 12, 13], u2=[11, 12]).assign(score=[0.0, 5.0, 5.0, 1.0, 2.0])
    # The ranker has 12 and 13 at place 1.5 each and 11 at place 3; the list has them at 2, 3 and 1.
    expected = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61.5, 1 / 63 + 1 / 61.5, 1 / 61 + 1 / 62, 1 / 62 + 1 / 61]
    np.testing.assert_allclose(topk.fused(mine)["score"], expected)
    assert topk.fused(mine)[["user", "position", "item"]].equals(mine[["user", "position", "item"]])


def test_fusion_stands_between_the_list_and_the_ranker(compared):
    # A has the like last of twelve, and the ranker has it first: fused it is among the first ten.
    gains = compared["ndcg_at_10_after"].loc["A"]
    assert gains["recommender"] < gains[f"clever{topk.FUSED}"] < gains["clever"]


def test_each_user_stands_once_in_the_pooled_rows(study, compared):
    pooled, apart = compared.loc[POOLED], compared.drop(POOLED)
    for column in ("ndcg_at_10_before", "ndcg_at_10_after", "gain_over_recommender", "gain_over_bar"):
        means = apart[column].groupby("ranker").mean()
        np.testing.assert_allclose(pooled[column].reindex(means.index), means, atol=1e-12)
    assert pooled.loc["clever", "users_scored"] == 10


def test_the_bar_is_chosen_on_other_lists_and_then_kept(study):
    nobody = study["of_model"].iloc[:0]
    liked = study["likes"].assign(item=lambda rows: 101)  # in validation everybody likes what A has on top
    best = topk.best_bars(study["retrieved"], study["known"], liked, study["best_other"], pd.RangeIndex(1, 41))
    assert best["B"] == "best-other"
    table = topk.comparison(topk.quality(**study | {"of_model": nobody}), pd.RangeIndex(1, 41), [], best).set_index(
        ["recommender", "ranker"]
    )
    assert (table.loc["B", "bar"] == "best-other").all()
    assert table.loc[("B", "recommender"), "gain_over_bar"] == 1  # A's own lists, which miss the like


def test_the_best_other_recommender_is_the_one_with_the_better_lists_for_these_users(study):
    third = study["retrieved"].query("recommender == 'A'").assign(recommender="C")
    retrieved = pd.concat([third, study["retrieved"]])
    found = topk.best_others(retrieved, study["likes"], pd.RangeIndex(1, 41))
    assert found == {"C": "B", "A": "B", "B": "C"}  # A and C have the same lists: the first of equals
    swapped = study["likes"].assign(item=101)  # what A and C have on top
    assert topk.best_others(retrieved, swapped, pd.RangeIndex(1, 41)) == {"C": "A", "A": "C", "B": "C"}
    with pytest.raises(ValueError, match="two recommenders"):
        topk.best_others(third, study["likes"], pd.RangeIndex(1, 41))


def test_nobody_with_a_like_in_validation_is_no_error(study):
    nobody = pd.Index([1000])
    best_other = topk.best_others(study["retrieved"], study["likes"], nobody)
    assert best_other == {"A": "B", "B": "A"}
    bars = topk.best_bars(study["retrieved"], study["known"], study["likes"], best_other, nobody)
    assert set(bars.values()) == {topk.BARS[0]}
