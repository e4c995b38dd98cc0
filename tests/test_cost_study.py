"""The steps of notebook 06 on a service of six users that is counted by hand."""

import numpy as np
import pandas as pd
import pytest

from hybridrec.evaluation import costs, cross
from hybridrec.evaluation.prices import Price
from hybridrec.study import cost_study as study
from hybridrec.study.names import LLM, OTHER_RECOMMENDER

USERS, FOLDS = range(6), range(3)


@pytest.fixture
def service() -> study.Service:
    """B is the better recommender; its users 1 and 2 are weak, 1 to 4 inactive; user 5 has single items."""
    tuning = pd.DataFrame({"recommender": ["A", "A", "B", "B"], "auc": [0.6, 0.9, 0.7, 0.1],
                           "chosen": [True, False, True, False]})  # fmt: skip
    keys = pd.MultiIndex.from_product([["A", "B"], FOLDS, USERS], names=["recommender", "test", "user"])
    triage = keys.to_frame(index=False)
    triage = triage.assign(weak=triage["user"].isin([1, 2]), inactive=triage["user"].between(1, 4), performance=0.5)
    return study.service(tuning, triage, candidates())


def candidates() -> pd.DataFrame:
    """Two items a fold, one of them relevant; of user 5 one."""
    rows = pd.MultiIndex.from_product([FOLDS, USERS, [0, 1]], names=["fold", "user", "item"]).to_frame(index=False)
    rows = rows[(rows["user"] < 5) | (rows["item"] == 0)]
    return rows.assign(relevant=rows["item"] == 1)


def ranked(model: dict[int, float]) -> study.Ranked:
    """Recommenders that are always wrong, and a model that gives the relevant item these scores, by user."""
    rows = candidates()[["fold", "user", "item"]]
    parts = [rows.assign(ranker=name, test=test, score=-rows["item"]) for name in ("A", "B") for test in FOLDS]
    said = [rows.assign(ranker="llm", test=test, score=rows["item"] * rows["user"].map(model)) for test in FOLDS]
    answers = pd.concat(said).dropna().assign(draw=0, failure="")
    scores = pd.concat(parts).assign(draw=0)[cross.SCORES]
    return study.ranked(scores, answers, candidates())


def test_whom_a_service_hands_over(service):
    assert (service.recommender, service.others, service.folds) == ("B", ["A"], 3)
    handed = {name: rows["user"].nunique() for name, rows in service.routings.items()}
    assert handed == {"nobody": 0, study.WEAK: 2, study.INACTIVE: 4, study.EVERYBODY: 5}  # one item needs no ranking
    assert len(service.lists) == 15


def test_no_token_is_counted_twice():
    calls = pd.DataFrame({"prompt_tokens": [900], "cached_tokens": [600], "completion_tokens": [7], "seconds": [1.0]})
    assert study.by_kind(calls, endpoint=True).iloc[0].tolist() == [300, 600, 7, 1]
    assert study.by_kind(calls, endpoint=False).iloc[0].tolist() == [900, 600, 7, 1]


def table(service: study.Service) -> pd.DataFrame:
    """Every call is of ten tokens; ``slow`` was asked for weak users only."""
    calls = pd.DataFrame({"user": USERS, "inactive": [1 <= user <= 4 for user in USERS]})
    usage = pd.concat([calls.assign(ranker="fast"), calls[calls["user"].isin([1, 2])].assign(ranker="slow")])
    usage = usage.assign(prompt_tokens=10.0, cached_tokens=5.0, completion_tokens=1.0, seconds=2.0)
    return costs.cost_table(usage[["ranker", "user", "inactive", *costs.USAGE]], service.routings, Price(hour=1), 3)


def test_the_share_of_the_work_is_that_of_the_users_where_calls_are_alike(service):
    share = study.share_of_work(table(service), endpoint=False).set_index("ranker")
    assert share.loc["fast"].to_numpy() == pytest.approx([2 / 5] * 4)
    assert "slow" not in share.index
    assert study.cheapest_way(table(service)) == "fast"  # slow was not asked for everybody


def test_what_is_bought_is_a_mean_over_everybody(service):
    by = ranked(dict.fromkeys(USERS, 1.0))
    gains = study.bought(service, by).set_index(["arm", "routing"])
    assert gains.loc[(LLM, study.WEAK), "mean"] == pytest.approx(2 / 5)
    assert gains.loc[(LLM, study.INACTIVE), "mean"] == pytest.approx(4 / 5)
    assert gains.loc[(OTHER_RECOMMENDER, study.WEAK), "mean"] == 0
    points = study.priced(gains.reset_index(), table(service), "fast").set_index(["arm", "routing"])
    assert points.loc[(LLM, study.WEAK), "calls"] == 2 and points.loc[(OTHER_RECOMMENDER, study.WEAK), "usd"] == 0
    nothing = pd.DataFrame({"ranker": [], "all_tokens": []})
    answer = study.answer(service, table(service), nothing, gains.reset_index(), "fast")
    assert (answer["calls_weak"], answer["gain"], answer["tokens_share"]) == (2, pytest.approx(2 / 5), None)


def test_where_nobody_was_asked_the_gain_is_not_run(service):
    by = ranked(dict.fromkeys(USERS, np.nan))
    gains = study.bought(service, by)
    assert not by.asked and set(gains["arm"]) == {OTHER_RECOMMENDER}
    answer = study.answer(service, table(service), study.share_of_work(table(service), False), gains, "fast")
    assert (answer["gain"], answer["gain_verdict"]) == (None, "not run")


def test_what_weak_users_would_have_to_gain(service):
    found = study.needed(service, ranked(dict.fromkeys(USERS, 1.0)))
    assert found == pytest.approx({"weak_auc": 0.0, "part": 2 / 5, "needed": 0.05 / (2 / 5)})
