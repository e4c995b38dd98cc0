"""Claims and families: every number of a tiny study by hand, verdicts by one rule, and who counts."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.evaluation import compare, controls, cross, verdicts
from hybridrec.study import claims as judging
from hybridrec.study import families, paths
from hybridrec.study.families import Compared

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


# --- claims -----------------------------------------------------------------------------------------------------------


def protocol(
    orders: dict[str, dict[int, int]], weak: list[int], inactive: list[int], draws: int = 40
) -> judging.Protocol:
    """Lists of one liked and one other item: for each ranker and user 1 (right), 0 (wrong); A is the recommender."""
    users = sorted(orders["A"])
    candidates = pd.DataFrame({"fold": 0, "user": np.repeat(users, 2), "item": [1, 2] * len(users)})
    candidates["relevant"] = candidates["item"] == 1
    parts = [cross.random_order(candidates)]
    for ranker, right in orders.items():
        rows = candidates[candidates["user"].isin(right)]
        score = np.where(rows["relevant"], 2 * rows["user"].map(right), 1)
        parts.append(rows.assign(ranker=ranker, draw=0, test=0, score=score)[cross.SCORES])
    lists = cross.lists(pd.concat(parts), candidates)
    triage = pd.DataFrame({"recommender": "A", "test": 0, "user": users, "performance": [*orders["A"].values()]})
    triage = triage.assign(weak=triage["user"].isin(weak), inactive=triage["user"].isin(inactive))
    groups = cross.groups(triage)
    drawn = cross.lists(cross.random_draws(candidates, groups["inactive"], seed=1, draws=draws), candidates)
    return judging.Protocol(lists, drawn, groups, threshold=0.5)


@pytest.fixture
def tiny() -> judging.Protocol:
    """Of four users A has two wrong, 1 and 4; 1, 2 and 3 are inactive; 1 and 2 are handed over; 2 has no answer."""
    return protocol({"A": {1: 0, 2: 1, 3: 1, 4: 0}, "llm": {1: 1}}, weak=[1, 2], inactive=[1, 2, 3], draws=400)


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        (judging.FEWER, -1),  # from user 1 to nobody; user 4 is poor and active
        (judging.OVERALL, 0.5),  # from two users in four to three
        (judging.ROBUST, np.nan),  # from 0, of which there is no share
    ],
)
def test_a_relative_change_by_hand(tiny, claim, change):
    assert judging.change(tiny, claim, "A", "llm") == pytest.approx(change, nan_ok=True)


def test_a_claims_difference_by_hand_counts_who_has_no_answer_as_before(tiny):
    found = judging.difference(tiny, judging.OVERALL, "A", "llm", cross.OWN).set_index("user")
    assert found["difference"].to_dict() == {1: 1, 2: 0, 3: 0, 4: 0}
    assert found["unanswered"].to_dict() == {1: 0, 2: 1, 3: 0, 4: 0}
    fewer = judging.difference(tiny, judging.FEWER, "A", "llm", cross.OWN).set_index("user")
    assert fewer["difference"].to_dict() == {1: 1, 2: 0, 3: 0}
    over_random = judging.difference(tiny, judging.OVERALL, "A", "llm", cross.RANDOM).set_index("user")
    assert over_random["difference"].to_dict() == {1: 0.5, 2: 0.5, 3: 0, 4: 0}


def test_a_random_order_leaves_as_many_users_weak_as_its_draws_do_and_not_all(tiny):
    half = judging.difference(tiny, judging.FEWER, "A", cross.RANDOM, cross.OWN).set_index("user")["difference"]
    assert half.to_dict() == pytest.approx({1: 0.5, 2: -0.5, 3: 0}, abs=0.1)  # 400 draws of a list of two


def test_of_nobody_who_is_handed_over_nothing_is_told(tiny):
    nobody = protocol({"A": {1: 0, 2: 1}, "llm": {1: 1}}, weak=[], inactive=[1, 2])
    coin = judging.coin(nobody, ["A"], ["llm"])
    assert (coin["verdict"] == verdicts.CANNOT_TELL).all() and not coin["explained"].any()
    assert len(coin) == len(judging.CLAIMS)


def many(skills: dict[str, float], users: int = 400) -> judging.Protocol:
    """Everybody is inactive and handed over; each ranker is right with a probability."""
    rng = np.random.default_rng(3)
    orders = {name: dict(enumerate((rng.random(users) < skill).astype(int))) for name, skill in skills.items()}
    return protocol(orders, [*range(users)], [*range(users)])


def test_a_coin_explains_what_another_coin_gains_and_not_what_knows_the_labels():
    published = many({"A": 0.05, "llm": 0.5, "sure": 1.0}, 2000)
    coin = judging.coin(published, ["A"], ["llm", "sure"]).set_index(["claim", "ranker"])
    assert coin.loc[(judging.OVERALL, "llm"), "explained"] and coin.loc[(judging.FEWER, "llm"), "explained"]
    assert not coin.xs("sure", level="ranker")["explained"].any()
    assert (coin.xs("sure", level="ranker")["verdict"] == verdicts.HELPS).all()
    assert coin.loc[(judging.OVERALL, "llm"), "coin_gain"] == pytest.approx(0.45, abs=0.02)


def test_claims_stand_beside_the_paper_and_get_their_verdict_under_cross():
    published, fresh = many({"A": 0.2, "listwise": 0.5}), many({"A": 0.5, "way": 0.9, "bar": 0.9})
    reported = pd.DataFrame({"claim": list(judging.CLAIMS), "recommender": "A", "published": [-0.87, 0.12, np.nan]})
    ask = pd.DataFrame({"test": [0], "ranker": ["way"]})
    bar = ask.assign(recommender="A", ranker="bar")
    coin = judging.coin(published, ["A"], ["listwise"])
    table = judging.claims(published, fresh, coin, reported, "listwise", ask, bar).set_index("claim")
    assert table["published"].tolist()[:2] == [-0.87, 0.12]
    assert (table["verdict"] == verdicts.HELPS).all()
    assert table.loc[judging.OVERALL, "verdict_bar"] != verdicts.HELPS
    assert table.loc[judging.OVERALL, "n"] == 400
    for column, skill in (("cross", "way"), ("cross_bar", "bar")):
        own, new = (cross.quality(fresh.lists, fresh.groups["weak"], one)["auc"].mean() for one in ("A", skill))
        assert table.loc[judging.OVERALL, column] == pytest.approx(new / own - 1)
    without = judging.claims(published, fresh, coin, reported, "listwise", None, bar)
    assert (without["cross_ranker"] == judging.NOT_RUN).all() and without["cross"].isna().all()
    assert set(without["verdict"]) == set(without["verdict_bar"]) == {verdicts.CANNOT_TELL}


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0.1, "holds: by arithmetic"), (0.2, "holds: by arithmetic"), (0.3, "does not hold")]
)
def test_cost_is_in_proportion_if_the_work_is_no_larger_a_share_than_the_users(tokens, expected):
    share = pd.DataFrame({"ranker": ["llm"], "calls": [0.2], "prompt_tokens": [tokens]})
    row = judging.cost_claims(share, "A").iloc[0]
    assert row[["claim", "recommender", "ranker"]].tolist() == ["cost in proportion", "A", "llm"]
    assert row[["replicated", "null_control"]].tolist() == [tokens, 0.2]
    assert row["verdict"].startswith(expected)


# --- the paper's table ------------------------------------------------------------------------------------------------


def test_table_2_puts_every_cell_beside_the_papers(tiny):
    paper = pd.DataFrame([("A", "weak", 0.2, 0.52, 0.6)], columns=["recommender", "group", "recommender_alone",
                                                                     "with_gpt_35", "with_mixtral"])  # fmt: skip
    cells = judging.table2(tiny, paper, ["A"], ["llm"]).set_index("group")
    assert cells["users"].to_dict() == {"all": 4, "weak": 2}
    assert cells["recommender_alone"].to_dict() == {"all": 0.5, "weak": 0.5}
    assert cells["llm"].to_dict() == {"all": 0.75, "weak": 1}
    assert cells["random"].to_dict() == {"all": 0.5, "weak": 0.5}
    assert cells["random_share"].to_dict() == {"all": 0, "weak": 0}
    assert cells.loc["weak", "paper_random_share"] == pytest.approx(0.3 / 0.32)
    assert cells.loc["weak", "paper_with_mixtral"] == 0.6 and np.isnan(cells.loc["all", "paper_with_gpt_35"])


def test_a_random_order_has_nearly_all_of_the_papers_gain_and_not_all():
    cells = judging.weak_cells(pd.read_csv(paths.PUBLISHED))
    assert len(cells) == 18 and cells["after"].between(0.47, 0.53).all()
    of_films = cells[cells["dataset"] == "ml-100k"]["random_share"]
    assert (of_films.min().round(2), of_films.max().round(2)) == (0.92, 0.97)
    one = cells.query("dataset == 'ml-100k' and recommender == 'BPR' and model == 'Mixtral'").iloc[0]
    assert one["random_share"] == pytest.approx((0.5 - 0.170) / (0.521 - 0.170))


# --- families ---------------------------------------------------------------------------------------------------------


def differences(mean: float, users: int = 40, unanswered: int = 0) -> pd.DataFrame:
    values = mean + 0.1 * np.random.default_rng(users).standard_normal(users)
    return pd.DataFrame(
        {"user": range(users), "difference": values, "weight": 1.0, "lists": 1, "unanswered": 0}
    ).assign(unanswered=lambda rows: (rows["user"] < unanswered).astype(int))


def test_a_family_has_a_row_for_everything_and_is_corrected_as_a_whole():
    of = {"good": differences(0.2), "same": differences(0.0, 400), "nobody": differences(0, 0)}
    table = families.judge("arms", [Compared(name, "the bar", "weak", one) for name, one in of.items()])
    assert table["ranker"].tolist() == list(of) and table["n"].tolist() == [40, 400, 0]
    assert table["verdict"].tolist() == [verdicts.HELPS, verdicts.EQUIVALENT, verdicts.CANNOT_TELL]
    alone = families.judge("arms", [Compared("good", "the bar", "weak", of["good"])])
    assert table.loc[0, "p_holm"] == pytest.approx(2 * alone.loc[0, "p_holm"])


def test_most_lists_without_an_answer_are_no_verdict():
    said = [
        families.judge("x", [Compared("llm", "the bar", "weak", differences(0.3, 40, silent))]).loc[0, "verdict"]
        for silent in (20, 21)
    ]
    assert said == [verdicts.HELPS, verdicts.CANNOT_TELL]


def test_a_sample_stands_for_those_who_were_not_asked():
    sample = families.Sample(able=pd.Index([1, 2, 3, 4]), asked=pd.Index([1, 2]))
    given = pd.DataFrame({"user": [1, 2, 3, 9], "difference": [1.0, 0, 5, 0], "weight": [1.0, 2, 1, 1]})
    found = sample.represent(given).set_index("user")["weight"]
    assert found.to_dict() == {1: 2, 2: 4, 9: 1}  # 3 was not asked; 9 is active, and stands for itself
    assert sample.represent(given.set_index("user"), "weight")["weight"].to_dict() == found.to_dict()
    everybody = families.Sample(able=pd.Index([1, 2, 3]), asked=pd.Index([1, 2, 3]))
    assert everybody.represent(given) is given


def judged(ways: dict[str, float], users: int = 300, folds: int = 3) -> families.Judged:
    """Rankers of known skill; A routes everybody who is inactive; the ranker "C" is a control."""
    rng = np.random.default_rng(8)
    keys = pd.MultiIndex.from_product([range(folds), range(users), range(4)], names=["fold", "user", "item"])
    candidates = keys.to_frame(index=False).assign(relevant=rng.random(len(keys)) < 0.5)
    parts = [cross.random_order(candidates)]
    for name, skill in {"A": 0.3, "C": 1.0, **ways}.items():
        for test in range(folds):
            score = skill * candidates["relevant"] + rng.normal(size=len(candidates))
            parts.append(candidates[["fold", "user", "item"]].assign(ranker=name, draw=0, test=test, score=score))
    lists = cross.lists(pd.concat(parts)[cross.SCORES], candidates)
    each = pd.MultiIndex.from_product([["A"], range(folds), range(users)], names=["recommender", "test", "user"])
    triage = each.to_frame(index=False).assign(performance=lambda rows: rows["user"] / users)
    triage = triage.assign(inactive=triage["user"] % 3 > 0, weak=triage["user"] % 3 > 0)
    asked = triage.loc[triage["inactive"], ["test", "user"]]
    names = [cross.RANDOM, "A", "C"]
    sample = families.sample(lists, triage, asked if ways else asked[:0])
    primary = cross.primary(lists, triage, list(ways)[:1], names) if ways else None
    bar = cross.bar(lists, triage, names)
    arms = {name: (name, "") for name in ways}
    return families.Judged(lists, triage, names, list(ways)[:1], {}, arms, sample, primary, bar)


def test_asked_is_who_was_asked_with_the_own_history():
    rows = [("m", "llm", 0, 0, 1), ("m", "llm", 0, 1, 2), ("m", "llm no history", 0, 0, 3)]
    rows.append(("big", "big: llm", 0, 0, 4))
    answers = pd.DataFrame(rows, columns=["model", "ranker", "test", "fold", "user"])
    assert families.judged_lists(answers, "m").to_dict("list") == {"test": [0], "user": [1]}
    assert families.judged_lists(answers, "big").to_dict("list") == {"test": [0], "user": [4]}


def test_the_families_are_those_of_the_plan():
    table = families.families(judged({"llm": 2.5, "llm no history": 2.5}))
    assert list(table) == families.COLUMNS
    said = table.set_index(["family", "ranker"])["verdict"]
    assert said["primary", "llm, chosen way"] == said["arms", "llm"] == said["random", "C"] == verdicts.HELPS
    assert said["reading", "llm"] != verdicts.HELPS
    assert "A" not in said["recommender"]  # the recommender itself has no weak users of others
    plan = (paths.ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in plan for name in table["family"].unique())


def test_without_a_model_only_controls_are_compared():
    table = families.families(judged({}))
    assert set(table["family"]) == {"recommender", "random"}
    record = families.primary_record(judged({}), families.primary_summary(judged({})), "tiny")
    assert record is None


def test_the_summary_is_the_primary_comparison():
    one = judged({"llm": 2.0})
    summary = families.primary_summary(one)
    record = families.primary_record(one, summary, "tiny")
    against_bar = summary.differences.set_index("name").loc[families.BAR]
    assert record["mean"] == pytest.approx(against_bar["mean"]) == pytest.approx(record["llm_auc"] - record["bar_auc"])
    assert record["random_auc"] == 0.5 and (record["bar"], record["way"]) == ("C", "llm")


def test_larger_models_are_compared_on_whom_they_were_asked_about(tiny):
    lists = pd.concat(
        [tiny.lists, *(tiny.lists.query("ranker == 'llm'").assign(ranker=f"{name}: llm") for name in ("m", "big"))]
    )
    asked = {("m", "llm"): pd.Series([1, 3]), ("big", "llm"): pd.Series([1, 1])}
    table = families.larger_models(lists, ["A"], asked, "m").set_index(["model", "against"])
    assert table.loc["m", "users_asked"].tolist() == [2, 2] and table.loc["m", "unanswered"].tolist() == [1, 1]
    assert table.loc[("m", cross.OWN), ["auc", "mean"]].tolist() == [1, 0.5]
    assert table.loc[("big", "m"), "mean"] == 0 and table.loc[("big", cross.RANDOM), "mean"] == 0.5


# --- groups -----------------------------------------------------------------------------------------------------------


def test_the_worst_decile_is_the_lowest_tenth_whatever_the_order_of_rows():
    performance = pd.Series([0.5, 0.1, 0.1, 0.1, *[0.9] * 16, np.nan], index=range(21))
    shuffled = performance.sample(frac=1, random_state=1)
    assert list(compare.worst_decile(performance)) == [1, 2]
    assert list(compare.worst_decile(shuffled)) == [1, 2]


def test_the_worst_decile_of_few_users_is_one_user():
    assert list(compare.worst_decile(pd.Series({7: 0.4, 8: 0.3}))) == [8]
