"""Metrics agree with scikit-learn, SciPy and Cornac; ties are worth their expectation over all ways to break them."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from cornac import metrics as cornac_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import mannwhitneyu, spearmanr
from sklearn.metrics import roc_auc_score

from hybridrec.evaluation import metrics

K = 3


def table_of(scores, relevant, user: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"user": user, "score": np.asarray(scores, float), "relevant": np.asarray(relevant, bool)})


@st.composite
def rankings(draw, longest: int = 30) -> pd.DataFrame:
    """One user's candidates with few distinct scores, so that most of them are tied; both labels occur."""
    rows = draw(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=longest))
    scores, relevant = zip(*rows, strict=True)
    return table_of(scores, [True, False, *relevant[2:]])


def users_of(distinct_scores: int, n_users: int = 200) -> pd.DataFrame:
    """Many users of 2 to 40 candidates with both labels."""
    rng = np.random.default_rng(distinct_scores)
    frames = []
    for user in range(n_users):
        n = int(rng.integers(2, 41))
        relevant = rng.random(n) < 0.4
        relevant[:2] = True, False
        frames.append(table_of(rng.integers(distinct_scores, size=n), relevant, user))
    return pd.concat(frames).sample(frac=1, random_state=0, ignore_index=True)


@pytest.mark.parametrize("distinct_scores", [1, 2, 5, 10**9])
def test_auc_is_sklearns_and_scipys_with_any_share_of_ties(distinct_scores):
    table = users_of(distinct_scores)
    ours = metrics.auc(table)
    for user, rows in table.groupby("user"):
        assert ours[user] == pytest.approx(roc_auc_score(rows["relevant"], rows["score"]), abs=1e-12)
        liked, rest = rows.loc[rows["relevant"], "score"], rows.loc[~rows["relevant"], "score"]
        assert ours[user] * len(liked) * len(rest) == pytest.approx(mannwhitneyu(liked, rest).statistic, abs=1e-9)


@given(rankings())
@settings(max_examples=50, deadline=None)
def test_reversing_the_scores_mirrors_auc(table):
    mirrored = metrics.auc(table.assign(score=-table["score"]))
    assert metrics.auc(table)[1] + mirrored[1] == pytest.approx(1)


def test_a_tie_is_worth_one_half_and_cornac_calls_it_wrong():
    """Where our definition and a peer's part: the reason why Cornac's own AUC is not used for P(u)."""
    scores, relevant = np.array([1.0, 1.0, 0.0]), np.array([True, False, False])
    theirs = cornac_metrics.AUC().compute(item_indices=np.arange(3), pd_scores=scores, gt_pos=[0])
    assert (theirs, metrics.auc(table_of(scores, relevant)).item()) == (0.5, 0.75)


def test_without_ties_metrics_are_cornacs():
    rng = np.random.default_rng(0)
    for n in (5, 12, 40):
        scores, relevant = rng.permutation(n).astype(float), rng.random(n) < 0.4
        relevant[:2] = True, False
        table, positives, ranked = table_of(scores, relevant), np.flatnonzero(relevant), np.argsort(-scores)
        auc = cornac_metrics.AUC().compute(item_indices=np.arange(n), pd_scores=scores, gt_pos=positives)
        ndcg = cornac_metrics.NDCG(k=10).compute(gt_pos=positives, pd_rank=ranked)
        recall = cornac_metrics.Recall(k=10).compute(gt_pos=positives, pd_rank=ranked)
        hit = cornac_metrics.HitRatio(k=10).compute(gt_pos=positives, pd_rank=ranked)
        assert metrics.auc(table)[1] == pytest.approx(auc)
        assert metrics.ndcg_at_k(table, 10)[1] == pytest.approx(ndcg)
        assert metrics.recall_at_k(table, 10)[1] == pytest.approx(recall)
        assert metrics.hit_rate_at_k(table, 10)[1] == pytest.approx(hit)


def by_brute_force(metric: str, table: pd.DataFrame, k: int) -> float:
    """Mean of a metric over every order that the scores allow."""
    scores, relevant = table["score"].to_numpy(), table["relevant"].to_numpy()
    discounts = 1 / np.log2(np.arange(2, k + 2))
    values = []
    for order in map(list, permutations(range(len(scores)))):
        if (np.diff(scores[order]) > 0).any():
            continue
        top = relevant[order][:k]
        values.append(
            {
                "ndcg": (top * discounts[: len(top)]).sum() / discounts[: min(k, relevant.sum())].sum(),
                "recall": top.sum() / relevant.sum(),
                "hit_rate": float(top.any()),
            }[metric]
        )
    return float(np.mean(values))


@pytest.mark.parametrize("metric", ["ndcg", "recall", "hit_rate"])
@pytest.mark.parametrize(
    ("scores", "relevant"),
    [
        ([0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]),  # everything tied
        ([3, 2, 2, 2, 2, 1], [0, 1, 0, 0, 1, 1]),  # a tie across the cut at 3
        ([3, 3, 3, 2, 1, 0], [1, 1, 0, 0, 0, 1]),  # a tie that ends at the cut
        ([2, 2, 1, 1], [0, 0, 1, 1]),  # fewer candidates beyond the cut than likes
        ([1, 1], [0, 1]),  # fewer candidates than the cut
    ],
)
def test_tied_candidates_get_the_mean_over_all_their_orders(metric, scores, relevant):
    table = table_of(scores, relevant)
    value = getattr(metrics, f"{metric}_at_k")(table, K)[1]
    assert value == pytest.approx(by_brute_force(metric, table, K))


@given(rankings(longest=6), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_any_small_ranking_matches_brute_force(table, k):
    for metric in ("ndcg", "recall", "hit_rate"):
        value = getattr(metrics, f"{metric}_at_k")(table, k)[1]
        assert value == pytest.approx(by_brute_force(metric, table, k)), metric


@given(rankings())
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_rows_does_not_matter(table):
    shuffled = table.sample(frac=1, random_state=1, ignore_index=True)
    pd.testing.assert_frame_equal(metrics.per_user(shuffled, K), metrics.per_user(table, K))


def test_all_scores_equal_is_a_random_order():
    assert metrics.auc(table_of([7] * 9, [1, 1] + [0] * 7))[1] == 0.5


def test_perfect_and_worst_rankings():
    best, worst = table_of([4, 3, 2, 1], [1, 1, 0, 0]), table_of([1, 2, 3, 4], [1, 1, 0, 0])
    assert metrics.auc(best)[1] == metrics.ndcg_at_k(best, 2)[1] == metrics.recall_at_k(best, 2)[1] == 1
    assert metrics.auc(worst)[1] == metrics.ndcg_at_k(worst, 2)[1] == metrics.hit_rate_at_k(worst, 2)[1] == 0


@pytest.mark.parametrize(
    ("relevant", "undefined"),
    [([0, 0, 0], {"auc", "ndcg_at_k", "recall_at_k", "hit_rate_at_k"}), ([1, 1, 1], {"auc"})],
)
def test_undefined_metrics_are_nan_never_zero(relevant, undefined):
    table = pd.concat([table_of([3, 2, 1], relevant, user=1), table_of([3, 2, 1], [1, 0, 0], user=2)])
    for name in ("auc", "ndcg_at_k", "recall_at_k", "hit_rate_at_k"):
        values = getattr(metrics, name)(table)
        assert list(values.index) == [1, 2]
        assert np.isnan(values[1]) == (name in undefined)
        assert values[2] == 1


TABLE_METRICS = {
    "auc": metrics.auc,
    "auc_pairs": metrics.auc_pairs,
    "auc_pairs by fold": lambda table: metrics.auc_pairs(table, ["user", "draw"]),
    "ndcg_at_k": metrics.ndcg_at_k,
    "recall_at_k": metrics.recall_at_k,
    "hit_rate_at_k": metrics.hit_rate_at_k,
    "per_user": metrics.per_user,
    "per_user_by_ranker": metrics.per_user_by_ranker,
}


@pytest.mark.parametrize("name", TABLE_METRICS)
@pytest.mark.parametrize("column", ["score", "relevant"])
@pytest.mark.parametrize("absent", [np.nan, None, pd.NA], ids=["nan", "None", "NA"])
def test_what_is_nan_is_refused_with_the_user_and_not_ranked_by_its_row(name, column, absent):
    table = pd.concat([table_of([3, 2, 1], [1, 0, 1], user) for user in (5, 41, 7)], ignore_index=True)
    table = table.assign(ranker="good", draw=0)
    TABLE_METRICS[name](table)
    table[column] = table[column].astype(object if absent is not np.nan else float)
    table.loc[4, column] = absent
    with pytest.raises(ValueError, match=f"user 41.*{column} is NaN in 1 of 9"):
        TABLE_METRICS[name](table)
    TABLE_METRICS[name](table.drop(index=4).astype({column: float}))


@pytest.mark.parametrize("name", TABLE_METRICS)
def test_a_score_of_minus_infinity_stands_behind_all_others(name):
    table = table_of([3, -np.inf, 1, -np.inf], [0, 1, 1, 0]).assign(ranker="good", draw=0)
    finite = TABLE_METRICS[name](table.replace({"score": {-np.inf: -9.0}}))
    assert TABLE_METRICS[name](table).equals(finite)


def test_auc_pairs_counts_pairs_per_user_and_fold():
    table = table_of([3, 2, 1, 2, 2], [1, 0, 0, 1, 0]).assign(fold=[0, 0, 0, 1, 1])
    counts = metrics.auc_pairs(table, ["user", "fold"])
    assert counts.loc[(1, 0)].to_dict() == {"correct": 2, "pairs": 2}
    assert counts.loc[(1, 1)].to_dict() == {"correct": 0.5, "pairs": 1}


def test_per_user_agrees_with_the_single_metrics():
    table = users_of(distinct_scores=4, n_users=20)
    together = metrics.per_user(table, K)
    pd.testing.assert_series_equal(together["auc"], metrics.auc(table))
    pd.testing.assert_series_equal(together[f"ndcg_at_{K}"], metrics.ndcg_at_k(table, K))
    pd.testing.assert_series_equal(together[f"recall_at_{K}"], metrics.recall_at_k(table, K))
    pd.testing.assert_series_equal(together["pairs"], metrics.auc_pairs(table)["pairs"])


def test_per_user_by_ranker_keeps_rankers_and_draws_apart():
    rows = pd.concat([table_of([2, 1, 0], [1, 0, 0], user) for user in (1, 2)])
    rankings = {("good", 0): rows, ("bad", 0): rows.assign(score=-rows["score"]), ("bad", 1): rows.assign(score=0)}
    table = pd.concat([part.assign(ranker=name, draw=draw) for (name, draw), part in rankings.items()])
    stacked = metrics.per_user_by_ranker(table, K).set_index(["ranker", "draw", "user"]).sort_index()
    assert list(stacked.columns) == ["auc", "pairs", f"ndcg_at_{K}", f"recall_at_{K}"]
    values = {("good", 0): 1.0, ("bad", 0): 0.0, ("bad", 1): 0.5}
    assert stacked["auc"].to_dict() == {(*key, user): value for key, value in values.items() for user in (1, 2)}
    for (name, draw), part in rankings.items():
        pd.testing.assert_frame_equal(stacked.loc[(name, draw)], metrics.per_user(part, K))


def test_keys_of_a_ranking_may_be_words_and_come_sorted():
    rows = pd.concat([table_of([2, 1], [1, 0]).assign(user=user, fold=fold) for user in "ba" for fold in (1, 0)])
    assert list(metrics.auc(rows.drop(columns="fold")).index) == ["a", "b"]
    assert list(metrics.auc_pairs(rows, ["user", "fold"]).index) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


# --- the whole catalogue ----------------------------------------------------------------------------------------------


def catalogue(distinct_scores: int, n_users: int = 150, n_items: int = 60) -> tuple[np.ndarray, csr_array, csr_array]:
    """Scores of all items, what is relevant, and what is seen; a few users have nothing relevant."""
    rng = np.random.default_rng(distinct_scores)
    draw = rng.random((n_users, n_items))
    draw[::20] = np.maximum(draw[::20], 0.5)
    scores = rng.integers(distinct_scores, size=draw.shape).astype(np.float32)
    return scores, csr_array(draw < 0.1), csr_array((draw > 0.6) & (draw < 0.8))


@pytest.mark.parametrize("distinct_scores", [1, 4, 10**6])
def test_the_whole_catalogue_is_the_table_of_all_unseen_items(distinct_scores):
    scores, relevant, seen = catalogue(distinct_scores)
    users, items = np.nonzero(~seen.toarray())
    table = pd.DataFrame({"user": users, "score": scores[users, items], "relevant": relevant.toarray()[users, items]})
    found = metrics.whole_catalogue(lambda rows: scores[rows], relevant, seen, K)
    pd.testing.assert_frame_equal(found, metrics.per_user(table, K), check_index_type=False)
    assert found["ndcg_at_3"].isna().sum() >= 8


def test_the_whole_catalogue_is_taken_in_blocks_and_the_scores_are_left_alone(monkeypatch):
    scores, relevant, seen = catalogue(50)
    before, asked = scores.copy(), []
    whole = metrics.whole_catalogue(lambda rows: scores[rows], relevant, seen)
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 1)

    def score(rows):
        asked.append(len(rows))
        return scores[rows]

    pd.testing.assert_frame_equal(metrics.whole_catalogue(score, relevant, seen), whole)
    with_something_relevant = (np.diff(relevant.indptr) > 0).sum()
    assert max(asked) == metrics._BLOCK_USERS < with_something_relevant == sum(asked) < len(scores)
    np.testing.assert_array_equal(scores, before)


def test_a_catalogue_in_which_nobody_likes_anything_has_no_metrics_and_no_error():
    scores, relevant, seen = catalogue(50)
    found = metrics.whole_catalogue(lambda rows: scores[rows], csr_array(relevant.shape, dtype=bool), seen)
    assert (
        len(found) == len(scores) and (found["pairs"] == 0).all() and found.drop(columns="pairs").isna().all(axis=None)
    )


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int32])
def test_any_kind_of_number_is_a_score(kind):
    scores, relevant, seen = catalogue(50)
    expected = metrics.whole_catalogue(lambda rows: scores[rows], relevant, seen)
    for laid_out in (scores.astype(kind), np.asfortranarray(scores.astype(kind))):
        found = metrics.whole_catalogue(lambda rows, of=laid_out: of[rows], relevant, seen)
        pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("part", [np.s_[1:], np.s_[:, 1:], np.s_[0]])
def test_scores_of_another_shape_are_refused(part):
    scores, relevant, seen = catalogue(50)
    with pytest.raises(ValueError, match=r"scores have shape \(.*\), not \(\d+, 60\)"):
        metrics.whole_catalogue(lambda rows: scores[rows][part], relevant, seen)


def test_the_whole_catalogue_names_the_row_of_what_cannot_be_ranked():
    scores, relevant, seen = catalogue(50)
    with pytest.raises(ValueError, match="row 41: an item is both seen and relevant"):
        metrics.whole_catalogue(lambda rows: scores[rows], relevant, _with_relevant(seen, relevant, 41))
    for no_number in (np.nan, np.inf, -np.inf):
        scores[77, 3] = no_number
        with pytest.raises(ValueError, match="row 77: a score is no number"):
            metrics.whole_catalogue(lambda rows: scores[rows], relevant, seen)


def test_the_whole_catalogue_refuses_a_relevance_that_is_nan():
    scores, relevant, seen = catalogue(50)
    doubtful = relevant.astype(float)
    row = int(np.flatnonzero(np.diff(relevant.indptr))[5])
    doubtful.data[relevant.indptr[row]] = np.nan
    with pytest.raises(ValueError, match=f"row {row}: .*NaN"):
        metrics.whole_catalogue(lambda rows: scores[rows], doubtful, seen)


def _with_relevant(seen: csr_array, relevant: csr_array, row: int) -> csr_array:
    """``seen``, where one row has seen what is relevant to it, too."""
    dense = seen.toarray()
    dense[row] |= relevant.toarray()[row]
    return csr_array(dense)


def test_rank_correlation_is_scipys_as_a_mean_over_users():
    rng = np.random.default_rng(3)
    frames = [users_of(4, 6).assign(ranker=ranker) for ranker in ("a", "b")]
    table = pd.concat(frames, ignore_index=True)
    table = table.assign(score=rng.integers(6, size=len(table)), popularity=rng.integers(5, size=len(table)))
    table.loc[table["user"] == 2, "popularity"] = 7  # all alike: no correlation, and no part of the mean
    found = metrics.rank_correlation(table, ["popularity"])
    for ranker, rows in table[table["user"] != 2].groupby("ranker"):
        each = [spearmanr(of["score"], of["popularity"]).statistic for _, of in rows.groupby("user")]
        assert found.loc[ranker, "popularity"] == pytest.approx(np.nanmean(each))


def test_nobody_has_no_rank_correlation():
    nobody = pd.DataFrame(columns=["ranker", "user", "score"])
    found = metrics.rank_correlation(nobody, ["popularity", "item-mean"])
    assert found.empty and list(found.reset_index()) == ["ranker", "popularity", "item-mean"]
