"""The comparison: every number of a tiny table by hand, what a random order gains, verdicts by rule."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hybridrec.errors import ScoresError
from hybridrec.evaluation import compare, controls, metrics, statistics
from hybridrec.evaluation.compare import Setting
from hybridrec.study import claims as judging
from hybridrec.weak_users import triage

ANY_ORDER, PERFECT = "any order", "perfect"
SURE = {"seed": 1, "samples": 300, "permutations": 999}


def table(values: dict, draws: int = 1) -> pd.DataFrame:
    """A Quality table: a column a user, a row a draw."""
    return pd.DataFrame(values, index=range(draws), dtype=float)


@pytest.fixture
def setting() -> Setting:
    """User 3 is inactive but not routed; routed user 9 has no AUC under any ranker."""
    return Setting(
        protocol="published",
        recommender="A",
        best_other="B",
        routed=pd.Index([1, 2, 9]),
        inactive=pd.Index([1, 2, 3]),
        worst_decile=pd.Index([1]),
        threshold=0.5,
    )


@pytest.fixture
def auc() -> dict[str, pd.DataFrame]:
    return {
        "A": table({1: 0.2, 2: 0.4, 3: 0.5, 4: 0.1}),
        "B": table({1: 0.6, 2: 0.6, 3: 0.0, 4: 0.0}),
        "llm": table({1: 0.8, 2: 0.3}),
        "random": table({1: [0.0, 1.0], 2: [0.6, 0.4], 3: [1.0, 0.0], 4: [1.0, 0.0]}, draws=2),
        "popularity": table({1: 0.5, 2: 0.5, 3: 1.0, 4: 1.0}),
        "item-mean": table({1: 0.7, 2: 0.7, 3: 0.0, 4: 0.0}),
        controls.ORACLE: table({1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}),
    }


@pytest.fixture
def ndcg() -> dict[str, pd.DataFrame]:
    return {"A": table({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}), "llm": table({1: 0.5, 2: 0.0})}


# --- the controls ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trivial() -> pd.DataFrame:
    """Item 1 is popular, item 2 is good, item 3 was never rated before the test."""
    known = pd.DataFrame({"item": [1, 1, 1, 2], "rating": [1.0, 2.0, 3.0, 5.0]})
    candidates = pd.DataFrame({"user": 7, "item": [1, 2, 3], "relevant": [False, True, False]})
    return controls.control_scores(known, candidates, np.random.default_rng(0), draws=5)


@pytest.mark.parametrize(("name", "scores"), [("popularity", [3, 1, 0]), ("item-mean", [2.0, 5.0, 2.75])])
def test_fixed_controls_by_hand(trivial, name, scores):
    rows = trivial[trivial["ranker"] == name]
    assert rows["score"].tolist() == scores  # an unrated item is not popular, and as good as the mean rating
    assert (rows["draw"] == 0).all()


def test_every_random_order_is_another_one(trivial):
    rows = trivial[trivial["ranker"] == "random"]
    assert rows.groupby("draw").size().tolist() == [3] * 5
    assert rows["score"].nunique() == 15


def test_the_best_other_recommender_is_by_validation_and_never_oneself():
    rows = [("A", 0.7, False), ("A", 0.9, True), ("B", 0.8, True), ("C", 0.6, True), ("C", 0.95, False)]
    tuned = pd.DataFrame(rows, columns=["recommender", "auc", "chosen"])
    assert controls.best_other(tuned) == {"A": "B", "B": "A", "C": "A"}


# --- the hybrid -----------------------------------------------------------------------------------------------------


def test_the_hybrid_takes_routed_users_from_the_ranker_and_nobody_else(auc, setting):
    assert compare.hybrid_quality(auc, setting, "llm").to_dict("list") == {1: [0.8], 2: [0.3], 3: [0.5], 4: [0.1]}


def test_the_hybrid_has_a_row_for_each_draw_of_the_ranker(auc, setting):
    mixed = compare.hybrid_quality(auc, setting, "random")
    assert mixed.to_dict("list") == {1: [0.0, 1.0], 2: [0.6, 0.4], 3: [0.5, 0.5], 4: [0.1, 0.1]}


def test_routing_nobody_leaves_the_recommender(auc, setting):
    mixed = compare.hybrid_quality(auc, replace(setting, routed=pd.Index([], dtype="int64")), "llm")
    pd.testing.assert_frame_equal(mixed, auc["A"])


def test_the_recommender_is_its_own_hybrid_and_best_other_stands_for_the_other(auc, setting):
    pd.testing.assert_frame_equal(compare.hybrid_quality(auc, setting, "recommender"), auc["A"])
    mixed = compare.hybrid_quality(auc, setting, "best-other")
    assert mixed.to_dict("list") == {1: [0.6], 2: [0.6], 3: [0.5], 4: [0.1]}


def test_a_routed_user_without_a_ranking_is_named(auc, setting):
    everybody = replace(setting, routed=pd.Index([1, 3, 4]))
    with pytest.raises(ScoresError, match=r"llm has no ranking of routed user 3 \(and 1 more\)"):
        compare.hybrid_quality(auc, everybody, "llm")


# --- one row of the comparison --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("users_routed", 3),
        ("users_scored", 2),
        ("weak_users_before", 3),  # users 1, 2 and, at t_p exactly, 3; user 4 is poor but active
        ("weak_users_after", 2),
        ("weak_auc_before", 0.3),
        ("weak_auc_after", 0.55),
        ("overall_auc_before", 0.3),
        ("overall_auc_after", 0.425),
        ("cvar10_auc_before", 0.2),
        ("cvar10_auc_after", 0.8),
        ("gap_auc_before", 0.0),
        ("gap_auc_after", -0.25),
        ("harm_rate", 0.5),
        ("weak_ndcg_before", 0.15),
        ("weak_ndcg_after", 0.25),
        ("overall_ndcg_before", 0.25),
        ("overall_ndcg_after", 0.3),
    ],
)
def test_comparison_by_hand(auc, ndcg, setting, column, value):
    assert compare.before_and_after(auc, ndcg, setting, "llm")[column] == pytest.approx(value)


def test_chance_is_averaged_over_its_draws(auc, ndcg, setting):
    row = compare.before_and_after(auc, ndcg | {"random": ndcg["A"]}, setting, "random")
    # First draw: users 1 and 3 are weak, 1 is worse. Second draw: 2 and 3 are weak, nobody is worse.
    assert row["weak_users_after"] == pytest.approx(2.0)
    assert row["harm_rate"] == pytest.approx(0.25)
    assert row["benefit_rate"] == pytest.approx(0.5)
    assert row["weak_auc_after"] == pytest.approx(0.5)


def test_an_equal_ranking_harms_nobody(auc, ndcg, setting):
    row = compare.before_and_after(auc, ndcg, setting, "recommender")
    assert row["harm_rate"] == row["benefit_rate"] == 0
    assert all(row[name] == row[name.replace("before", "after")] for name in row if name.endswith("_before"))


def test_a_difference_is_over_users_in_both_and_over_the_mean_of_draws(auc):
    found = compare.difference(auc["llm"], auc["random"], pd.Index([1, 2, 3]))
    assert found.tolist() == pytest.approx([0.3, -0.2])


def test_the_best_control_is_best_on_the_routed_users(auc, setting):
    assert compare.best_control(auc, setting) == "item-mean"
    assert compare.best_control(auc, replace(setting, routed=pd.Index([3, 4]))) == "popularity"
    assert compare.best_control(auc | {"B": auc[controls.ORACLE]}, setting) == "best-other"


def test_gains_are_against_the_recommender_a_random_order_and_the_best_control(auc, setting):
    row = compare.gains(auc, setting, "llm", **SURE)
    found = [row[f"gain_over_{name}"] for name in ("recommender", "random", "best_control")]
    assert found == pytest.approx([0.25, 0.05, -0.15])
    assert row["gain_over_recommender_low"] <= 0.25 <= row["gain_over_recommender_high"]


# --- verdicts -------------------------------------------------------------------------------------------------------

ABOVE, AROUND, BELOW = {"low": 0.1, "high": 0.3}, {"low": -0.1, "high": 0.1}, {"low": -0.3, "high": -0.1}
AT_ZERO, UNKNOWN = {"low": 0.0, "high": 0.2}, {"low": math.nan, "high": math.nan}


@pytest.mark.parametrize(
    ("beyond_null", "beyond_best", "p_holm", "expected"),
    [
        (ABOVE, ABOVE, 0.01, "holds"),
        (AROUND, ABOVE, 0.01, "holds"),
        (ABOVE, ABOVE, 0.05, "better than chance, not shown"),
        (ABOVE, ABOVE, math.nan, "better than chance, not shown"),
        (ABOVE, AT_ZERO, 0.01, "better than chance, not shown"),
        (ABOVE, AROUND, 0.60, "better than chance, not shown"),
        (ABOVE, BELOW, 0.01, "better than chance, worse than the best control"),
        (AROUND, AROUND, 0.60, "not told apart from the null control"),
        (AT_ZERO, AROUND, 0.60, "not told apart from the null control"),
        (AROUND, BELOW, 0.01, "not told apart from the null control"),
        (BELOW, AROUND, 0.60, "not supported: below the null control"),
        (BELOW, BELOW, 0.01, "not supported: below the null control"),
    ],
)
def test_the_verdict_follows_its_rule(beyond_null, beyond_best, p_holm, expected):
    assert judging.verdict(beyond_null, beyond_best, p_holm).startswith(expected)


@pytest.mark.parametrize(("beyond_null", "beyond_best"), [(UNKNOWN, UNKNOWN), (UNKNOWN, AROUND), (ABOVE, UNKNOWN)])
def test_too_few_users_for_an_interval_get_no_verdict(beyond_null, beyond_best):
    assert judging.verdict(beyond_null, beyond_best, math.nan).startswith("not to be told")


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0.1, "holds: by arithmetic"), (0.2, "holds: by arithmetic"), (0.3, "does not hold")]
)
def test_cost_is_in_proportion_if_the_work_is_no_larger_a_share_than_the_users(tokens, expected):
    share = pd.DataFrame({"ranker": ["llm"], "calls": [0.2], "prompt_tokens": [tokens]})
    row = judging.cost_claims(share, "A").iloc[0]
    assert row[["claim", "recommender", "ranker"]].tolist() == ["cost in proportion", "A", "llm"]
    assert row[["replicated", "null_control"]].tolist() == [tokens, 0.2]
    assert row["verdict"].startswith(expected)


# --- groups ---------------------------------------------------------------------------------------------------------


def test_the_worst_decile_is_the_lowest_tenth_whatever_the_order_of_rows():
    performance = pd.Series([0.5, 0.1, 0.1, 0.1, *[0.9] * 16, np.nan], index=range(21))
    shuffled = performance.sample(frac=1, random_state=1)
    assert list(compare.worst_decile(performance)) == [1, 2]
    assert list(compare.worst_decile(shuffled)) == [1, 2]


def test_the_worst_decile_of_few_users_is_one_user():
    assert list(compare.worst_decile(pd.Series({7: 0.4, 8: 0.3}))) == [8]


def test_settings_take_routing_from_their_protocol_and_the_worst_decile_from_held_out():
    rows = [
        ("published", "A", 1, 0.1, False), ("published", "A", 2, 0.3, True),
        ("held-out", "A", 1, 0.9, True), ("held-out", "A", 2, 0.2, False),
    ]  # fmt: skip
    judged = pd.DataFrame(rows, columns=["protocol", "recommender", "user", "performance", "weak"])
    first, second = compare.settings_from(judged, pd.Index([1, 2]), {"A": "B"}, 0.5)
    assert (first.protocol, list(first.routed), list(first.worst_decile)) == ("published", [2], [2])
    assert (second.protocol, list(second.routed), list(second.worst_decile)) == ("held-out", [1], [2])
    assert (second.best_other, second.threshold) == ("B", 0.5)


# --- a small study, from scores to verdicts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def candidates() -> pd.DataFrame:
    """250 users, 6 of 40 items each, of which one to five are liked."""
    rng = np.random.default_rng(11)
    lists = [pd.DataFrame({"user": user, "item": rng.choice(40, 6, replace=False)}) for user in range(250)]
    rows = pd.concat(lists, ignore_index=True)
    place = rows.groupby("user").cumcount()
    return rows.assign(relevant=(rng.random(len(rows)) < 0.5) & (place != 1) | (place == 0))


@pytest.fixture(scope="module")
def study(candidates) -> dict:
    """Recommenders A and B and both rankers on the same candidates; what is known says nothing about the labels."""
    rng = np.random.default_rng(12)
    scores = {name: 0.3 * candidates["relevant"] + rng.normal(size=len(candidates)) for name in ("A", "B")}
    # One random order in twenty is lucky beyond its interval; that of this seed is not.
    scores[ANY_ORDER] = np.random.default_rng(14).random(len(candidates))
    scores[PERFECT] = candidates["relevant"] * 2 + rng.random(len(candidates))
    known = pd.DataFrame({"item": np.arange(4000) % 40, "rating": rng.integers(1, 6, 4000).astype(float)})
    rows = [candidates[["user", "item"]].assign(ranker=name, draw=0, score=s) for name, s in scores.items()]
    rows += [controls.control_scores(known, candidates, np.random.default_rng(13)), controls.oracle_scores(candidates)]
    per_user = metrics.per_user_by_ranker(pd.concat(rows).merge(candidates, on=["user", "item"]))
    auc, ndcg = (compare.wide(per_user, metric) for metric in ("auc", "ndcg_at_10"))
    sparsity = pd.Series(np.where(np.arange(250) < 170, 0.95, 0.8), index=range(250))
    # Out of fold: the same recommenders on other items of these users.
    fresh = candidates.assign(relevant=rng.random(len(candidates)) < 0.5)
    judged = {
        "published": [candidates.assign(recommender=name, score=scores[name]) for name in ("A", "B")],
        "held-out": [
            fresh.assign(recommender=name, score=0.3 * fresh["relevant"] + rng.normal(size=len(fresh)))
            for name in ("A", "B")
        ],
    }
    routed = pd.concat(
        [triage.triage_table(pd.concat(rows), sparsity, triage.Thresholds(), name) for name, rows in judged.items()]
    )
    settings = compare.settings_from(routed, sparsity.index[sparsity > 0.9], {"A": "B", "B": "A"}, 0.5)
    rankers = [ANY_ORDER, PERFECT]
    compared = compare.comparison(auc, ndcg, settings, rankers, **SURE)
    return {"auc": auc, "ndcg": ndcg, "settings": settings, "rankers": rankers, "table": compared}


def test_a_random_order_scores_one_half_on_whichever_users(study):
    random = study["auc"]["random"]
    assert random.shape == (100, 250)
    assert random.to_numpy().mean() == pytest.approx(0.5, abs=0.01)
    rows = study["table"].query("ranker == 'random'")
    assert rows["weak_auc_after"].tolist() == pytest.approx([0.5] * len(rows), abs=0.02)


def test_users_picked_on_the_test_recover_with_a_random_order(study):
    rows = study["table"].query("ranker == 'random'").set_index("protocol")
    assert (rows.loc["published", "weak_auc_after"] > rows.loc["published", "weak_auc_before"] + 0.1).all()
    assert (rows.loc["held-out", "weak_auc_after"] < rows.loc["held-out", "weak_auc_before"]).all()


@pytest.mark.parametrize(("name", "metric"), [("auc", "auc"), ("ndcg", "ndcg_at_10")])
def test_the_oracle_is_the_best_of_all_orders(study, candidates, name, metric):
    # Six items, so all 720 orders can be tried; a bound of 1 on both metrics does not help a wrong order.
    for user, rows in candidates[candidates["user"] < 3].groupby("user"):
        orders = pd.DataFrame(list(itertools.permutations(range(6)))).stack().rename("score").reset_index()
        tried = orders.assign(ranker="any", draw=orders["level_0"], user=user)
        tried["relevant"] = rows["relevant"].to_numpy()[tried["level_1"]]
        found = metrics.per_user_by_ranker(tried[["ranker", "draw", "user", "score", "relevant"]])[metric]
        assert study[name][controls.ORACLE].loc[0, user] == pytest.approx(found.max())
        assert found.min() < found.max()


def test_the_table_has_every_ranker_in_every_setting(study):
    found = study["table"].groupby(["protocol", "recommender"])["ranker"].agg(set)
    assert len(found) == 4
    assert all(names == {"recommender", ANY_ORDER, PERFECT, *controls.CONTROLS, controls.ORACLE} for names in found)


@pytest.mark.parametrize("reference", ["recommender", "random", "best_control"])
def test_holm_counts_rows_of_the_language_model_only(study, reference):
    rows = study["table"]
    of_model = rows["ranker"].isin(study["rankers"])
    corrected = rows[f"gain_over_{reference}_p_holm"]
    assert of_model.sum() == 8
    assert corrected[~of_model].isna().all()
    pd.testing.assert_series_equal(
        corrected[of_model], statistics.holm(rows.loc[of_model, f"gain_over_{reference}_p"]), check_names=False
    )


@pytest.fixture(scope="module")
def claims(study) -> pd.DataFrame:
    reported = pd.DataFrame({"claim": list(judging.CLAIMS), "recommender": "A", "published": [-0.87, 0.12, 0.2]})
    return judging.claims(
        study["table"], study["auc"], study["settings"], study["rankers"], reported, **SURE
    ).set_index(["claim", "ranker"])


@pytest.mark.parametrize("claim", judging.CLAIMS)
def test_a_random_orders_gain_is_explained_by_the_null_control(claims, claim):
    assert claims.loc[(claim, ANY_ORDER), "verdict"].startswith("not told apart from the null control")


@pytest.mark.parametrize("claim", judging.CLAIMS)
def test_an_oracles_gain_holds(claims, claim):
    assert claims.loc[(claim, PERFECT), "verdict"].startswith("holds")


def test_lucky_orders_are_as_rare_as_the_interval_says(study, candidates):
    setting, rng = study["settings"][0], np.random.default_rng(15)
    pairs = candidates[["user", "item"]]
    orders = pd.concat([pairs.assign(ranker=ANY_ORDER, draw=draw, score=rng.random(len(pairs))) for draw in range(60)])
    values = compare.wide(metrics.per_user_by_ranker(orders.merge(candidates, on=["user", "item"])), "auc")[ANY_ORDER]
    lucky = []
    for draw in range(60):
        quality = study["auc"] | {ANY_ORDER: values.loc[[draw]]}
        found = judging.claim_differences(quality, setting, ANY_ORDER, "random", "overall performance")
        lucky.append(statistics.bootstrap_interval(found, rng, 300)[0] > 0)
    assert np.mean(lucky) <= 0.1


def test_a_random_order_replicates_the_published_pattern(claims):
    """Fewer weak users and a higher AUC on the paper's terms, though the ranker knows nothing."""
    assert claims.loc[("fewer weak users", ANY_ORDER), "replicated"] < -0.2
    assert claims.loc[("overall performance", ANY_ORDER), "replicated"] > 0.02
    assert claims.loc[("overall performance", ANY_ORDER), "held_out"] < 0.02


def test_claims_quote_the_comparison_and_the_paper(claims, study):
    rows = study["table"].set_index(["protocol", "recommender", "ranker"])
    row, test = claims.loc[("fewer weak users", PERFECT)], rows.loc[("published", "A", PERFECT)]
    assert row["published"] == -0.87
    assert row["replicated"] == pytest.approx(test["weak_users_after"] / test["weak_users_before"] - 1)
    chance, fresh = rows.loc[("published", "A", "random")], rows.loc[("held-out", "A", PERFECT)]
    assert row["null_control"] == pytest.approx(chance["weak_users_after"] / chance["weak_users_before"] - 1)
    assert row["held_out"] == pytest.approx(fresh["weak_users_after"] / fresh["weak_users_before"] - 1)


def test_more_is_better_in_every_claim(claims):
    """Weak users are counted downwards: a perfect ranker has fewer of them and still a positive difference."""
    assert claims.loc[("fewer weak users", PERFECT), "replicated"] < 0
    assert (claims.xs(PERFECT, level="ranker")["beyond_null_mean"] > 0).all()


def test_the_same_seed_gives_the_same_table(study):
    again = compare.comparison(study["auc"], study["ndcg"], study["settings"][:1], study["rankers"], **SURE)
    columns = [name for name in again if not name.endswith("_holm")]
    pd.testing.assert_frame_equal(again[columns], study["table"].loc[again.index, columns])


# --- samples and pools ----------------------------------------------------------------------------------------------


def test_on_a_sample_only_its_routed_users_are_compared(setting, auc):
    sampled = compare.on_sample(setting, [2, 3])
    assert list(sampled.routed) == [2]
    assert compare.gains(auc, sampled, "llm", **SURE)["gain_over_recommender"] == pytest.approx(-0.1)


def test_pooled_over_recommenders_each_user_counts_once(setting, auc):
    other = replace(setting, recommender="B", best_other="A", routed=pd.Index([2]))
    pooled = compare.pooled_gain(auc, [setting, other], "llm", **SURE)
    # Best controls: item-mean for A (0.7, 0.7), item-mean for B (0.7). User 1: 0.8 - 0.7, user 2: 0.3 - 0.7 twice.
    assert pooled["users_scored"] == 2
    assert pooled["gain_over_best_control"] == pytest.approx((0.1 - 0.4) / 2)
    assert pooled["auc"] == pytest.approx((0.8 + 0.3) / 2)
    assert pooled["recommender_auc"] == pytest.approx((0.2 + (0.4 + 0.6) / 2) / 2)
    assert pooled["gain_over_best_control_low"] <= -0.15 <= pooled["gain_over_best_control_high"]


def test_a_table_of_larger_models_has_all_who_were_asked_and_those_of_them_who_are_routed(setting, auc):
    ranked = pd.DataFrame([[0.8, 0.3, 0.9]], columns=[1, 2, 3])
    table = compare.larger_models(auc | {"m: way": ranked}, [setting], {("m", "way"): [2, 3]}, **SURE)
    rows = table.set_index("users")
    assert rows["users_asked"].tolist() == [2, 2]
    assert rows["users_scored"].to_dict() == {"asked": 2, "routed": 1}
    for group, users in (("asked", [2, 3]), ("routed", [2])):
        own = (ranked[users].mean() - auc["A"][users].mean()).mean()
        assert rows.loc[group, "gain_over_recommender"] == pytest.approx(own)
    assert rows.loc["asked", "gain_over_recommender_p_holm"] >= rows.loc["asked", "gain_over_recommender_p"] > 0


def test_a_table_of_larger_models_of_users_whom_nobody_routes_says_so(setting, auc):
    ranked = pd.DataFrame([[0.9]], columns=[3])
    table = compare.larger_models(auc | {"m: way": ranked}, [setting], {("m", "way"): [3]}, **SURE).set_index("users")
    assert table.loc["routed", "users_scored"] == 0
    assert math.isnan(table.loc["routed", "gain_over_best_control"])
    assert table.loc["asked", "users_scored"] == 1


# --- Table 2 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_published() -> pd.DataFrame:
    rows = [("A", "recommender", 0.25, 0.5), ("A", "llm", 0.55, 0.7), ("A", "random", 0.5, 0.6)]
    return pd.DataFrame(rows, columns=["recommender", "ranker", "weak_auc_after", "overall_auc_after"])


def test_table_2_puts_every_cell_beside_the_papers(of_published):
    paper = pd.DataFrame(
        {"recommender": "A", "group": ["all", "weak"], "recommender_alone": [0.4, 0.2], "with_gpt_35": [0.6, 0.52],
         "with_mixtral": [0.59, 0.5]}
    )  # fmt: skip
    cells = judging.table2(of_published, paper, ["llm", "random"]).set_index("group")
    assert list(cells.index) == ["all", "weak"]
    assert cells.loc["weak", ["recommender_alone", "llm", "random"]].tolist() == [0.25, 0.55, 0.5]
    assert cells["random_share"].tolist() == pytest.approx([0.5, 0.25 / 0.3])
    assert cells.loc["weak", "paper_random_share"] == pytest.approx(0.3 / 0.32)
    assert math.isnan(cells.loc["all", "paper_random_share"])


def test_table_2_of_a_dataset_that_the_paper_does_not_have(of_published):
    paper = pd.DataFrame(columns=["recommender", "group", "recommender_alone", "with_gpt_35", "with_mixtral"])
    cells = judging.table2(of_published, paper, ["llm", "random"])
    assert cells.filter(like="paper").isna().all().all()
    assert cells["random_share"].notna().all()
