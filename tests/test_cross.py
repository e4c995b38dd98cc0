"""Protocol cross judged: qualities by hand and by scikit-learn, choices that never see the test fold, no bias."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from hybridrec.errors import ScoresError
from hybridrec.evaluation import cross, verdicts

FOLDS, RECOMMENDERS = 4, ["A", "B"]


def world(users: int = 60, seed: int = 0, size: int = 6, skills: dict[str, float] | None = None) -> tuple:
    """Candidates, scores of rankers of known skill (0: random) and a triage by them; every third user is active."""
    rng = np.random.default_rng(seed)
    keys = pd.MultiIndex.from_product([range(FOLDS), range(users), range(size)], names=["fold", "user", "position"])
    candidates = keys.to_frame(index=False)
    candidates["item"] = candidates["fold"] * size + candidates["position"]
    candidates["relevant"] = rng.random(len(candidates)) < 0.5
    parts = []
    for name, skill in (skills or {"A": 0.3, "B": 0.3, "C": 1.0, "D": 0.9}).items():
        common = rng.normal(size=len(candidates))  # models of one kind are alike, whichever folds they lack
        for test in range(FOLDS):
            score = skill * candidates["relevant"] + common + 0.3 * rng.normal(size=len(candidates))
            parts.append(candidates[["fold", "user", "item"]].assign(ranker=name, draw=0, test=test, score=score))
    return candidates, pd.concat(parts, ignore_index=True)[cross.SCORES]


def triage_of(lists: pd.DataFrame) -> pd.DataFrame:
    """P(u) of A and B on the other folds; weak: at or below one half."""
    known = lists[(lists["fold"] != lists["test"]) & lists["ranker"].isin(RECOMMENDERS)]
    sums = known.groupby(["ranker", "test", "user"])[["correct", "pairs"]].sum().reset_index()
    table = sums.rename(columns={"ranker": "recommender"}).assign(performance=sums["correct"] / sums["pairs"])
    table["inactive"] = table["user"] % 3 > 0
    return table.assign(weak=table["inactive"] & (table["performance"] <= 0.5)).drop(columns="correct")


@pytest.fixture(scope="module")
def small() -> tuple:
    candidates, scores = world()
    lists = cross.lists(pd.concat([scores, cross.random_order(candidates)]), candidates)
    return candidates, scores, lists, triage_of(lists)


def by_hand(small, ranker: str, test: int, user: int) -> tuple[float, float] | None:
    """AUC and NDCG@10 of a judged list by scikit-learn; None without a pair."""
    candidates, scores, *_ = small
    rows = scores[(scores["ranker"] == ranker) & (scores["test"] == test) & (scores["fold"] == test)]
    rows = rows[rows["user"] == user].merge(candidates)
    if rows["relevant"].nunique() < 2:
        return None
    relevant = rows["relevant"].to_numpy(dtype=float)
    return roc_auc_score(relevant, rows["score"]), ndcg_score(relevant[None], rows["score"].to_numpy()[None], k=10)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_lists_quality_is_scikit_learns(small):
    lists = small[2]
    for ranker, test, user in [("A", 0, 3), ("C", 2, 17), ("D", 3, 44)]:
        rows = lists.query("ranker == @ranker and test == @test and fold == @test and user == @user")
        expected = by_hand(small, ranker, test, user)
        found = [] if rows.empty else (rows["correct"].item() / rows["pairs"].item(), rows["ndcg_at_10"].item())
        assert found == ([] if expected is None else pytest.approx(expected))


def test_a_random_order_by_expectation_is_the_mean_of_drawn_ones(small):
    candidates, _, lists, triage = small
    group = cross.groups(triage)["weak"]
    drawn = cross.lists(cross.random_draws(candidates, group, seed=1, draws=400), candidates)
    exact = lists[(lists["ranker"] == cross.RANDOM) & (lists["fold"] == lists["test"])]
    both = drawn.groupby(["test", "user"])["ndcg_at_10"].mean().reset_index().merge(exact, on=["test", "user"])
    assert (both["correct"] == both["pairs"] / 2).all()
    assert both["ndcg_at_10_x"].mean() == pytest.approx(both["ndcg_at_10_y"].mean(), abs=0.003)


@pytest.mark.parametrize("change", ["absent", "twice", "stranger", "NaN"])
def test_scores_that_do_not_fit_the_candidates_are_refused(small, change):
    candidates, scores, *_ = small
    bad = {
        "absent": scores.drop(index=5),
        "twice": pd.concat([scores, scores.iloc[[5]]]),
        "stranger": scores.assign(item=scores["item"].where(scores.index != 5, 999)),
        "NaN": scores.assign(score=scores["score"].where(scores.index != 5)),
    }[change]
    with pytest.raises(ScoresError, match="user 0"):
        cross.lists(bad, candidates)


# --- one value a user -------------------------------------------------------------------------------------------------


def test_a_users_quality_is_the_mean_of_the_folds_in_which_the_user_is_routed(small):
    lists = small[2]
    group = pd.DataFrame({"recommender": ["A", "A", "B"], "test": [0, 1, 1], "user": [3, 3, 3]})
    own = {key: by_hand(small, *key, 3) for key in [("A", 0), ("A", 1), ("B", 1)]}
    row = cross.quality(lists, group, cross.OWN).loc[3]
    for place, metric in enumerate(cross.METRICS):
        values = {key: value[place] for key, value in own.items()}
        # Two recommenders route the user in fold 1: that hand-over counts once, as their mean.
        assert row[metric] == pytest.approx((values["A", 0] + (values["A", 1] + values["B", 1]) / 2) / 2)
    assert (row["folds"], row["lists"], row["unanswered"]) == (2, 3, 0)


def test_a_difference_is_that_of_the_two_qualities_and_zero_to_oneself(small):
    _, _, lists, triage = small
    group = cross.groups(triage)["weak"]
    found = cross.differences(lists, group, "C", cross.RANDOM).set_index("user")["difference"]
    expected = cross.quality(lists, group, "C")["auc"] - 0.5
    pd.testing.assert_series_equal(found, expected, check_names=False)
    assert (cross.differences(lists, group, cross.OWN, cross.OWN)["difference"] == 0).all()


def test_groups_are_decided_for_each_recommender_and_fold(small):
    triage = small[3]
    found = cross.groups(triage)
    assert len(found["everybody"]) == len(triage) and len(found["weak"]) == triage["weak"].sum() > 0
    assert (found["inactive"]["user"] % 3 > 0).all()
    worst = found["worst decile"].merge(triage)
    rest = triage.merge(found["worst decile"], how="left", indicator="in").query("`in` == 'left_only'")
    for key, rows in worst.groupby(["recommender", "test"]):
        others = rest[(rest["recommender"] == key[0]) & (rest["test"] == key[1])]
        assert len(rows) == (len(rows) + len(others)) // 10
        assert rows["performance"].max() <= others["performance"].min()


def test_the_hybrid_changes_routed_users_only(small):
    _, _, lists, triage = small
    group = cross.groups(triage)
    mixed = cross.hybrid(group["everybody"], group["weak"], "C")
    overall = cross.differences(lists, mixed, None, cross.OWN)
    weak = cross.differences(lists, group["weak"], "C", cross.OWN)
    assert set(overall.loc[overall["difference"] != 0, "user"]) <= set(weak["user"])
    # Over one recommender what the hybrid gains is what its routed users gain, spread over everybody's lists.
    own = {name: rows[rows["recommender"] == "A"] for name, rows in group.items()}
    mixed = cross.hybrid(own["everybody"], own["weak"], "C")
    gained = [
        (rows["difference"] * rows["weight"]).sum()
        for rows in (
            cross.differences(lists, mixed, None, cross.OWN),
            cross.differences(lists, own["weak"], "C", cross.OWN),
        )
    ]
    assert gained[0] == pytest.approx(gained[1])


def test_who_has_no_answer_keeps_the_recommenders_order_and_counts(small):
    _, _, lists, triage = small
    group = cross.groups(triage)["weak"]
    user = group["user"].iloc[0]
    silent = lists[(lists["ranker"] != "C") | (lists["user"] != user)]
    found = cross.differences(silent, group, "C", cross.OWN).set_index("user")
    assert found.loc[user, "difference"] == 0 and found.loc[user, "unanswered"] == found.loc[user, "lists"] > 0
    whole = cross.differences(lists, group, "C", cross.OWN).set_index("user")
    pd.testing.assert_frame_equal(found.drop(user), whole.drop(user))
    with pytest.raises(ScoresError, match=f"user {user} "):
        cross.differences(silent, group, "D", "C")


def test_harm_and_benefit_of_a_random_order_are_those_of_all_orders():
    """One like and two others: a random order has AUC 0, 1/2 or 1, each in a third of cases."""
    candidates = pd.DataFrame({"fold": 0, "user": 1, "position": [0, 1, 2], "item": [7, 8, 9], "relevant": [1, 0, 0]})
    candidates["relevant"] = candidates["relevant"].astype(bool)
    own = candidates[["fold", "user", "item"]].assign(ranker="A", draw=0, test=0, score=[2.0, 3.0, 1.0])
    group = pd.DataFrame({"recommender": ["A"], "test": [0], "user": [1]})
    drawn = cross.random_draws(candidates, group, seed=3, draws=150)
    lists = cross.lists(pd.concat([own, drawn]), candidates)
    found = cross.harm_and_benefit(lists, group, cross.RANDOM)
    assert found["users"] == 1
    assert [found["harm"], found["benefit"]] == pytest.approx([1 / 3, 1 / 3], abs=0.12)


# --- nothing that decides has seen the test ---------------------------------------------------------------------------


@pytest.mark.parametrize("test", range(FOLDS))
def test_scrambled_labels_of_a_fold_change_no_choice_for_it(small, test):
    candidates, scores, lists, triage = small
    rng = np.random.default_rng(100 + test)  # not the stream of the labels
    there = candidates["fold"] == test
    scrambled = candidates.assign(relevant=candidates["relevant"].where(~there, rng.random(len(candidates)) < 0.5))
    other = cross.lists(pd.concat([scores, cross.random_order(candidates)]), scrambled)
    controls = ["A", "B", "C", "D", cross.RANDOM]
    before, after = (
        (cross.bar(one, who, controls), cross.choose(one, who, ["C", "D"]), *cross.groups(who).values())
        for one, who in ((lists, triage), (other, triage_of(other)))
    )
    for old, new in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(*(rows[rows["test"] == test].reset_index(drop=True) for rows in (old, new)))
    # The labels count for other folds, so a choice that looked at the fold itself would have shown.
    rest = [rows.loc[rows["test"] != test, "auc"].reset_index(drop=True) for rows in (before[0], after[0])]
    assert not rest[0].equals(rest[1])


def test_the_bar_is_the_best_control_of_inactive_users_and_never_the_recommender_itself(small):
    _, _, lists, triage = small
    found = cross.bar(lists, triage, ["A", "B", cross.RANDOM]).set_index(["recommender", "test"])
    known = lists[(lists["test"] == 2) & (lists["fold"] != 2) & (lists["user"] % 3 > 0)]
    sums = known[known["ranker"] == "B"].groupby("user")[["correct", "pairs"]].sum()
    mean = (sums["correct"] / sums["pairs"]).mean()
    assert mean > 0.5
    assert (found.loc[("A", 2), "ranker"], found.loc[("A", 2), "auc"]) == ("B", pytest.approx(mean, abs=1e-8))
    assert found.loc[("A", 2), "users"] == len(sums)
    assert set(found.loc["A", "ranker"]) <= {"B", cross.RANDOM} and set(found.loc["B", "ranker"]) <= {"A", cross.RANDOM}


def test_rankers_are_compared_on_the_lists_that_all_have_scored(small):
    _, _, lists, triage = small
    asked = (lists["ranker"] != "C") | (lists["user"] < 12)
    found = cross.choose(lists[asked], triage, ["C", "D"])
    assert (found["users"] == 8).all()
    with pytest.raises(ScoresError, match="nobody"):
        cross.choose(lists, triage, ["C", "nobody"])


def test_an_outcome_weighs_no_more_because_it_was_good():
    """Users differ by nothing, so a weak user's own recommender has its mean on the test fold as elsewhere.

    Averaged over each user's folds first, it looks better by more than 0.05: the comparison would call a harm.
    """
    candidates, scores = world(users=3000, seed=5, skills={"A": 0.5, "B": 0.5})
    lists = cross.lists(scores, candidates)
    triage = triage_of(lists)
    group = cross.groups(triage[triage["recommender"] == "A"])
    truth = cross.quality(lists, group["everybody"], "A")["auc"].mean()
    weak = cross.quality(lists, group["weak"], "A")
    assert weak["auc"].mean() > truth + 0.05
    judged = verdicts.judge(
        cross.family("one", {"own": weak.assign(difference=weak["auc"] - truth, weight=weak["folds"]).reset_index()})
    ).iloc[0]
    assert judged["low"] < 0 < judged["high"] and judged["high"] - judged["low"] < 0.05


# --- the primary comparison -------------------------------------------------------------------------------------------


def test_the_primary_comparison_is_the_best_way_against_the_bar_for_each_fold(small):
    _, _, lists, triage = small
    found = cross.primary(lists, triage, ways=["C", "D"], controls=["A", "B", cross.RANDOM])
    rows = []
    for recommender, test, user in cross.groups(triage)["weak"].itertuples(index=False):
        way = found.ask.set_index("test").loc[test, "ranker"]
        bar = found.bar.set_index(["recommender", "test"]).loc[(recommender, test), "ranker"]
        of = lists[(lists["test"] == test) & (lists["fold"] == test) & (lists["user"] == user)].set_index("ranker")
        if len(of):
            auc = of["correct"] / of["pairs"]
            rows.append((test, user, auc[way] - auc[bar]))
    by_hand_over = pd.DataFrame(rows, columns=["test", "user", "gain"]).groupby(["test", "user"])["gain"].mean()
    row = found.table.iloc[0]
    assert row["mean"] == pytest.approx(by_hand_over.mean())
    assert (row["n"], row["lists"], row["unanswered"]) == (len(by_hand_over.groupby("user")), len(rows), 0)
    assert row["verdict"] in verdicts.VERDICTS


def test_most_users_without_an_answer_are_no_verdict(small):
    _, _, lists, triage = small
    silent = lists[(lists["ranker"] != "C") | (lists["fold"] != lists["test"]) | (lists["user"] < 12)]
    for rows, word in ((lists, "helps"), (silent, "cannot tell")):
        table = cross.primary(rows, triage, ["C"], [cross.RANDOM]).table
        assert table["verdict"].item() == word
    assert table["unanswered"].item() > table["lists"].item() / 2
    sample = cross.primary(silent, triage, ["C"], [cross.RANDOM], asked=range(12)).table
    assert sample["unanswered"].item() == 0 and sample["routed"].item() <= 12


def test_one_way_to_ask_needs_no_choice_and_nobody_routed_is_no_error(small):
    _, _, lists, triage = small
    judged_only = lists[(lists["ranker"] != "C") | (lists["fold"] == lists["test"])]
    controls = ["A", "B", cross.RANDOM]
    one, whole = (cross.primary(rows, triage, ["C"], controls).table for rows in (judged_only, lists))
    pd.testing.assert_frame_equal(one, whole)
    nobody = triage.assign(weak=False)
    row = cross.primary(lists, nobody, ["C", "D"], controls).table.iloc[0]
    assert (row["n"], row["routed"], row["verdict"]) == (0, 0, "cannot tell") and np.isnan(row["mean"])
    found = cross.harm_and_benefit(lists, cross.groups(nobody)["weak"], "C")
    assert found["users"] == 0 and np.isnan(found["harm"])
    assert cross.means(lists, {"weak": cross.groups(nobody)["weak"]}, ["C"])["auc"].isna().all()
