"""Protocol cross once more: the same seed gives the same bytes, and nothing that decides has seen what is judged."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hybridrec.data import datasets, folds
from hybridrec.evaluation import arms, cross
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.ways import Way
from hybridrec.recommenders import fits, fitting
from hybridrec.study import config, cross_arms, cross_steps, seeds, steps

NAMES = ["ItemKNN", "BPR", "MostPop"]


@pytest.fixture(scope="module")
def settings() -> Iterator[config.Experiment]:
    """A quick study; everything is fitted here again, without the cache."""
    small = {"recommenders": NAMES, "folds": 3, "performance_threshold": 0.7, "users": None}
    values = config.parameters(config.load("ml-100k")) | small | {"grids": {"ItemKNN": [10], "BPR": [1]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "run", lambda todo, *_: [fits.fit_and_score(work) for work in todo])
        patch.setattr(cross_arms, "title_embeddings", lambda items: np.eye(len(items)))
        yield config.build(values.pop("name"), values, "")


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    """Sixty users and forty items with times, of which each has liked some and not others."""
    rng = np.random.default_rng(7)
    pairs = pd.DataFrame([(user, item) for user in range(60) for item in rng.permutation(40)[: rng.integers(6, 24)]])
    rows = pairs.set_axis(["user", "item"], axis=1).sort_values(["user", "item"], ignore_index=True)
    rows = rows.assign(rating=rng.integers(1, 6, len(rows)).astype(float), timestamp=rng.integers(0, 50, len(rows)))
    titles = [f"film {item}" for item in range(40)]
    items = pd.DataFrame({"item": range(40), "title": titles, "year": 1990, "genres": "drama"})
    return datasets.Dataset("small", rows, items, "made up")


@pytest.fixture(scope="module")
def made(settings, data) -> seeds.Made:
    return seeds.make(data, settings, 1)


def test_the_same_seed_gives_the_same_tables_and_another_seed_others(settings, data, made):
    again, other = (seeds.make(data, settings, seed).triage for seed in (1, 2))
    pd.testing.assert_frame_equal(again, made.triage)
    assert other.to_csv() != again.to_csv()


def test_what_is_compared_is_what_the_protocol_says(settings, made):
    table = seeds.judged(made, settings.like_threshold)
    lists = cross.lists(pd.concat([made.scores, cross.random_order(made.candidates)]), made.candidates)
    triage = made.triage[made.triage["recommender"].isin(["ItemKNN", "BPR"])]
    weak = cross.groups(triage)["weak"]
    own = cross.differences(lists, weak, cross.RANDOM, cross.OWN)
    (row,) = (row for _, row in table.iterrows() if (row["family"], row["ranker"]) == ("recommender", cross.RANDOM))
    assert row["n"] == len(own)
    assert row["mean"] == pytest.approx(np.average(own["difference"], weights=own["weight"]))
    assert set(table["family"]) == {seeds.BAR, "arms", "recommender", "random"}
    fused = [arms.POPULARITY, arms.ITEM_MEAN, arms.TF_IDF, arms.EMBEDDING, arms.STACK]
    assert set(table.loc[table["family"] == "arms", "ranker"]) == {f"recommender + {name}" for name in fused}


def test_a_language_model_that_knows_the_answer_is_the_primary_comparison_and_helps(settings, made):
    weak = made.triage[made.triage["weak"]]
    routed = weak[weak["recommender"].isin(["ItemKNN", "BPR"])][["test", "user"]].drop_duplicates()
    known = made.candidates.merge(routed.rename(columns={"test": "fold"}))
    answers = known.assign(ranker="llm", draw=0, test=known["fold"], score=known["relevant"].astype(float))
    table = seeds.judged(made, settings.like_threshold, "oracle", answers.assign(model="oracle", failure=""))
    table = table.set_index(["family", "ranker"])
    assert table.loc[("primary", "llm, chosen way"), "verdict"] == "helps"
    assert table.loc[("random", "llm"), "mean"] == pytest.approx(0.5)  # from one half to all pairs


def test_only_weak_users_are_asked_about_and_no_history_holds_the_fold_that_is_judged(settings, made):
    fold_of = made.divided.set_index(["user", "item"])["fold"]
    titles = made.items.set_index("title")["item"]
    weak = made.triage[made.triage["weak"] & made.triage["recommender"].isin(["ItemKNN", "BPR"])]
    for test in range(3):
        tasks = seeds._weak_tasks(made, settings, test, Way("likelihood", "likelihood"), None)
        able = set(folds.with_a_pair(made.candidates).query("fold == @test")["user"])
        assert {task.user for task in tasks} == able & set(weak.loc[weak["test"] == test, "user"]) != set()
        some = {task.user for task in tasks[:2]}
        of_sample = seeds._weak_tasks(made, settings, test, Way("likelihood", "likelihood"), some)
        assert {task.user for task in of_sample} == some
        for task in tasks:
            assert {fold_of[task.user, item] for item in task.candidates} == {test}
            assert test not in {fold_of[task.user, titles[one.title]] for one in task.history}


def test_nobody_is_asked_where_answers_may_only_be_replayed_and_are_not_there(settings, made, tmp_path):
    model = type("Silent", (), {"name": "silent", "key": lambda self, one: repr(one)})()
    recordings = Recordings(tmp_path / "answers", replay_only=True)
    for chosen in ({0: Way("likelihood", "likelihood")}, {}):  # or no way was chosen
        asking = SimpleNamespace(model=model, recordings=recordings, chosen=chosen, drawn=None)
        assert seeds.ask(made, settings, asking) is None


# --- in order of time -------------------------------------------------------------------------------------------------


def test_nothing_that_is_known_of_a_user_is_later_than_what_is_tested(data):
    timed = data.interactions
    late = folds.divide_by_time(timed, 4, seed=1)
    pd.testing.assert_frame_equal(late.drop(columns="fold"), timed.sort_values(["user", "item"], ignore_index=True))
    for _, rows in late.groupby("user"):
        test, known = rows[rows["fold"] == 3], rows[rows["fold"] != 3]
        assert len(test) == int(len(rows) / 4 + 0.5)
        assert not len(test) or known["timestamp"].max() <= test["timestamp"].min()
        assert np.ptp(known["fold"].value_counts().reindex(range(3), fill_value=0)) <= 1
    assert late["fold"].equals(folds.divide_by_time(timed.sample(frac=1, random_state=1), 4, seed=1)["fold"])


def in_time(divided: pd.DataFrame, items: pd.DataFrame, settings: config.Experiment) -> seeds.Made:
    late, scores = cross_steps.in_time(divided, items, NAMES, settings.grids, settings.like_threshold, settings.seed)
    lists = folds.candidates(late, settings.like_threshold, settings.seed)
    return seeds.triaged(late, lists, items, scores, settings.like_threshold, steps.thresholds(settings))


def test_the_check_in_time_judges_the_latest_ratings_alone_and_the_test_decides_nothing(settings, data):
    divided = folds.divide(data.interactions, settings.folds, settings.seed)
    made = in_time(divided, data.items, settings)
    assert set(made.scores["test"]) == set(made.triage["test"]) == {2}
    table = seeds.judged(made, settings.like_threshold)
    assert {seeds.BAR, "recommender", "random", "arms"} == set(table["family"])
    late = (made.divided["fold"] == 2).to_numpy()
    ordered = divided.sort_values(["user", "item"], ignore_index=True)
    scrambled = ordered.assign(rating=ordered["rating"].where(~late, 6 - ordered["rating"]))
    other = in_time(scrambled, data.items, settings)
    assert (other.divided["rating"] != made.divided["rating"]).any()
    pd.testing.assert_frame_equal(other.scores, made.scores)
    pd.testing.assert_frame_equal(other.triage, made.triage)


def test_without_times_there_is_no_such_check(settings, data):
    divided = folds.divide(data.interactions.assign(timestamp=0), settings.folds, settings.seed)
    late, scores = cross_steps.in_time(divided, data.items, NAMES, {}, settings.like_threshold, settings.seed)
    assert late.empty and scores.empty
