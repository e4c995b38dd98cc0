"""The steps that notebooks, other splits, batch files and the check of own ratings share."""

import numpy as np
import pandas as pd
import pytest
from toy_model import NeverAsked, ToyModel, reply

from hybridrec.evaluation import controls, cross
from hybridrec.llm import rankers, runner
from hybridrec.llm import tasks as making
from hybridrec.llm.prompts import Item
from hybridrec.llm.recordings import Recordings
from hybridrec.study import steps, tables
from hybridrec.weak_users import triage

SEED = 2024


def test_who_is_drawn_keeps_the_split_and_the_list_of_the_full_study(interactions):
    everybody = steps.divide(interactions, 4.0, SEED)
    drawn = steps.divide(interactions, 4.0, SEED, users=3)
    for full, part in zip(everybody, drawn, strict=True):
        users = part["user"].unique()
        assert 0 < len(users) <= 3
        pd.testing.assert_frame_equal(part, full[full["user"].isin(users)])


def test_users_are_judged_by_test_items_alone():
    candidates = pd.DataFrame({"user": 1, "item": [3, 4], "relevant": [True, False]})
    parts = [("out-of-fold", 0, 1), ("test", -1, 3), ("test", -1, 4)]
    scores = pd.DataFrame(parts, columns=["part", "fold", "item"]).assign(user=1, recommender="A", score=[0.2, 1, 2])
    judged = steps.judged(scores, candidates)
    assert judged.set_index("item")["relevant"].to_dict() == {3: True, 4: False}
    table = triage.triage_table(judged, pd.Series({1: 0.9}), triage.Thresholds(0.5, 0.5), "published").iloc[0]
    assert table[["performance", "pairs", "weak"]].tolist() == [0, 1, True], "the like is scored below the other"


def test_every_ranking_is_there_once_and_a_list_of_one_counts_nowhere():
    known = pd.DataFrame({"user": [1, 2], "item": [9, 9], "rating": [4.0, 2.0], "split": "train"})
    candidates = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "relevant": [True, False, True]})
    scores = candidates[["user", "item"]].assign(recommender="A", part="test", score=[2.0, 1.0, 0.0])
    of_model = candidates[["user", "item"]].assign(ranker="likelihood", score=[1.0, 2.0, 0.0])
    rankings = steps.all_rankings(scores, of_model, known, candidates)
    assert not rankings.duplicated(["ranker", "draw", "user", "item"]).any()
    quality = steps.quality(rankings, candidates)
    assert set(quality["user"]) == {1}
    auc = quality[quality["draw"] == 0].set_index("ranker")["auc"]
    assert (auc["A"], auc["likelihood"], auc[controls.ORACLE]) == (1, 0, 1)
    without = steps.all_rankings(scores, pd.DataFrame(), known, candidates)
    pd.testing.assert_frame_equal(
        without.reset_index(drop=True), rankings[rankings["ranker"] != "likelihood"].reset_index(drop=True)
    )


# --- does it read the user? -------------------------------------------------------------------------------------------


def three_users() -> list[making.Task]:
    """Users 1 to 3, each with two candidates, of which they like the first, and two rated items."""
    return [
        making.Task(
            user,
            (Item(f"Rated {user}"), Item(f"Rated {user} too")),
            (10 * user, 10 * user + 1),
            (Item(f"Liked {user}"), Item(f"Other {user}")),
        )
        for user in (1, 2, 3)
    ]


CANDIDATES = pd.DataFrame({"user": [1, 1, 2, 2, 3, 3], "item": [10, 11, 20, 21, 30, 31], "relevant": [True, False] * 3})


def reads_the_user(asked: runner.Asked) -> runner.Response:
    """Likes what is liked if the history is the user's own, and what is not if it is another's."""
    own = f"Rated {asked.user}" in asked.request["instruction"]
    likes = [title.startswith("Liked") == own for title in asked.request["candidates"]]
    return reply(asked) | {"log_probs": [-1.0 if liked else -2.0 for liked in likes], "lengths": [1] * len(likes)}


def test_a_model_that_reads_the_user_ranks_by_their_own_history_only():
    own, recordings = three_users(), Recordings()
    prior = pd.DataFrame({"log_prob": -1.0, "length": 1}, index=CANDIDATES["item"])  # all alike
    how = {"recordings": recordings, "noun": "film", "seed": 1}
    borrowed = making.with_anothers_history(own, seed=5)
    found = steps.by_history(own, borrowed, prior, ToyModel(reads_the_user), **how)
    assert list(found["ranker"].unique()) == list(steps.HISTORIES)
    dots, differences = steps.reading(found.assign(model="toy"), CANDIDATES, 1, 200)
    assert dots.to_numpy().tolist() == [
        ["toy", "no history", 3, 0.5, 0.5, 0.5],
        ["toy", "another user's history", 3, 0.0, 0.0, 0.0],
        ["toy", "own history", 3, 1.0, 1.0, 1.0],
    ]
    assert differences.set_index(["history", "against"])["difference"].to_dict() == {
        ("own history", "another user's history"): 1.0,
        ("own history", "no history"): 0.5,
        ("another user's history", "no history"): -0.5,
    }
    again = steps.by_history(own, borrowed, prior, NeverAsked(), **how)
    pd.testing.assert_frame_equal(again, found)


def test_reading_is_paired_and_leaves_out_whom_the_model_refused():
    rows = []
    for user, aucs in {1: (1, 0, 1), 2: (0, 0, 1), 3: (0, 1, 1), 4: (1, 1, 0)}.items():
        for history, right in zip(steps.HISTORIES, aucs, strict=True):
            for item, score in ((10 * user, right), (10 * user + 1, 0.5)):
                failure = "refused" if (user, history) == (4, "own history") else ""
                rows.append({"user": user, "item": item, "score": score, "ranker": history, "failure": failure})
    candidates = pd.DataFrame(
        {
            "user": np.repeat([1, 2, 3, 4], 2),
            "item": [row["item"] for row in rows if row["ranker"] == "no history"],
            "relevant": [True, False] * 4,
        }
    )
    dots, differences = steps.reading(pd.DataFrame(rows).assign(model="toy"), candidates, 1, 500)
    assert dots["auc"].tolist() == pytest.approx([1 / 3, 1 / 3, 1]) and set(dots["users"]) == {3}
    own_less_anothers = differences.iloc[0]
    assert own_less_anothers["difference"] == pytest.approx(2 / 3)
    assert 0 <= own_less_anothers["low"] < 2 / 3 < own_less_anothers["high"] <= 1


@pytest.mark.parametrize("of", [0, 1])
def test_reading_says_nothing_of_nobody_and_has_no_interval_for_one(of):
    rows = [
        {"user": 1, "item": item, "score": 1.0, "ranker": history, "failure": "", "model": "toy"}
        for history in steps.HISTORIES
        for item in (10, 11)
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "score", "ranker", "failure", "model"])
    dots, differences = steps.reading(table if of else table.iloc[:0], CANDIDATES, 1, 100)
    assert (len(dots), len(differences)) == ((3, 3) if of else (0, 0))
    assert list(dots) == ["model", "history", "users", "auc", "low", "high"]
    assert dots["low"].isna().all()


def test_a_sample_of_larger_models_has_users_with_a_pair_only(small_study):
    candidates, interactions, sparsity, items = (
        tables.read("toy", name) for name in ("candidates", "interactions", "sparsity", "items")
    )
    inactive = pd.Index(sparsity.loc[sparsity["inactive"], "user"])
    tasks = steps.tasks(interactions, candidates, items, 20, 5)
    sampled = [task.user for task in steps.sampled(tasks, inactive, candidates, SEED)]
    both = candidates.groupby("user")["relevant"].nunique() == 2
    assert sorted(sampled) == sorted(set(inactive) & set(both.index[both]))
    assert sampled != sorted(sampled)
    assert steps.sampled(tasks, inactive[:0], candidates, SEED) == []
    assert steps.reordered(tasks, inactive[:0], 3, 5, SEED) == [[], [], []]


def test_a_recorded_answer_is_that_of_the_attempt_that_was_read_and_a_refused_user_has_none():
    (one, two, three), recordings = three_users(), Recordings()

    def stubborn(asked: runner.Asked) -> runner.Response | runner.Failure:
        if asked.user == 2:
            return runner.Failure("refused with 400")
        return reply(asked) | ({} if asked.attempt else {"text": "no idea"})

    model = ToyModel(stubborn)
    rankings = list(rankers.rank([one, two, three], "listwise", model, recordings, noun="film", seed=1, attempts=2))
    of = {ranking.user: ranking for ranking in rankings}
    found = steps.recorded(of[1], one, "listwise", model, recordings, "film")
    assert found is not None and found["text"] == "Other 1\nLiked 1"
    assert steps.recorded(of[2], two, "listwise", model, recordings, "film") is None


# --- the weak users of the published protocol -------------------------------------------------------------------------


def test_larger_models_are_asked_for_whom_a_compared_recommender_calls_weak_on_the_test_and_for_nobody_else():
    rows = [
        ("published", "ItemKNN", 1, True), ("published", "ItemKNN", 2, False), ("published", "BPR", 2, True),
        ("published", "EASE", 3, True), ("held-out", "ItemKNN", 3, True), ("published", "NeuMF", 3, False),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["protocol", "recommender", "user", "weak"])
    assert [task.user for task in steps.published_weak(three_users(), table)] == [1, 2]


def test_the_published_pattern_of_a_larger_model_by_hand():
    """User 1: the recommender has the pair wrong, the model right. User 2: both wrong. User 3 is not weak."""
    pairs = CANDIDATES[["user", "item"]]
    large = pairs.assign(ranker="large: listwise", score=[2, 1, 1, 2, 2, 1])
    scores = pd.concat([large, pairs.assign(ranker="ItemKNN", score=[1, 2, 1, 1, 2, 1])]).assign(draw=0)
    lists = cross.lists(steps.as_one_fold(scores)[cross.SCORES], steps.as_one_fold(CANDIDATES))
    weak = pd.DataFrame({"recommender": "ItemKNN", "test": 0, "user": [1, 2]})
    names = pd.DataFrame({"model": ["large"], "ranker": ["listwise"]})
    (row,) = steps.on_published_weak(lists, weak, names, SEED, 200).to_dict("records")
    assert (row["users"], row["recommender_auc"], row["auc"]) == (2, 0.25, 0.5)
    assert (row["low"], row["high"]) == (0.0, 1.0)
