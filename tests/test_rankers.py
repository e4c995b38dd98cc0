"""From tasks to scores: what a prompt may know, what is asked only once, and what each kind of answer is worth."""

import json

import numpy as np
import pandas as pd
import pytest

from hybridrec import splits
from hybridrec.llm import prompts, rankers
from hybridrec.llm.recordings import RecordingError, Recordings

USAGE = {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 2, "seconds": 0.1}


class FakeModel:
    """Answers like LocalModel, remembers what it was asked, and dies after ``lives`` batches if told to."""

    def __init__(self, lives: int = 10**9) -> None:
        self.asked: list[dict] = []
        self.lives = lives

    def answer(self, requests: list[dict]) -> list[dict]:
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        self.asked += requests
        return [self._one(request) for request in requests]

    def _one(self, request: dict) -> dict:
        n = len(request["candidates"])
        answer = {
            "generate": {"text": "\n".join(reversed(request["candidates"]))},
            "score": {"log_probs": [-float(i + 1) for i in range(n)], "lengths": list(range(1, n + 1))},
            "choose": {"log_probs": [[-float(i), -1.0] for i in range(n)], "lengths": [3] * n},
        }[request["kind"]]
        return answer | USAGE


@pytest.fixture
def study(interactions: pd.DataFrame, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    split = splits.split_per_user(interactions, seed=1)
    return {
        "known": split[split["split"] != "test"],
        "candidates": splits.test_candidates(split, 4.0, seed=1),
        "items": items,
    }


@pytest.fixture
def tasks(study) -> list[rankers.Task]:
    return rankers.build_tasks(sorted(study["candidates"]["user"].unique())[:5], **study)


@pytest.fixture
def recordings(tmp_path) -> Recordings:
    return Recordings(tmp_path / "toy.jsonl")


@pytest.fixture(autouse=True)
def _auto(monkeypatch) -> None:
    monkeypatch.delenv("HYBRIDREC_LLM", raising=False)


def never() -> None:
    raise AssertionError("the model was loaded though nothing had to be computed")


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_history_is_ordered_by_rating_then_recency_and_cut(items):
    rows = [(101, 3.0, 50), (102, 5.0, 10), (103, 5.0, 20), (104, 4.0, 99), (105, 3.0, 60), (106, 1.0, 99)]
    known = pd.DataFrame(rows, columns=["item", "rating", "timestamp"]).assign(user=7)
    candidates = pd.DataFrame({"user": 7, "position": [1, 0], "item": [110, 111]})
    (task,) = rankers.build_tasks([7], known, candidates, items, history_length=5)
    assert [item.title for item in task.history] == [f"Film {n} ({1900 + n % 90})" for n in (103, 102, 104, 105, 101)]
    assert task.candidates == (111, 110)
    assert [item.title for item in task.items] == ["Film 111 (1921)", "Film 110 (1920)"]


def test_tasks_come_in_the_order_of_the_users_asked_for(study):
    users = sorted(study["candidates"]["user"].unique())[:4][::-1]
    assert [task.user for task in rankers.build_tasks(users, **study)] == users


def test_no_test_item_of_the_user_stands_in_the_history(study, tasks):
    for task in tasks:
        titles = {item.title for item in task.items}
        assert titles
        assert not titles & {item.title for item in task.history}


@pytest.mark.parametrize(("table", "what"), [("candidates", "candidates"), ("known", "history")])
def test_a_user_with_nothing_to_rank_is_named(table, what, study):
    user = study["candidates"]["user"].iloc[0]
    study[table] = study[table][study[table]["user"] != user]
    with pytest.raises(ValueError, match=f"user {user} has no {what}.*leave this user out"):
        rankers.build_tasks([user], **study)


def test_facts_say_genres_mean_and_count_of_known_ratings(items):
    known = pd.DataFrame({"item": [101, 101, 102], "rating": [4.0, 5.0, 2.0]})
    facts = rankers.item_facts(items, known, scale=5)
    assert facts[101] == "Drama; mean rating 4.5 of 5 from 2 ratings"
    assert facts[102] == "mean rating 2.0 of 5 from 1 ratings"
    assert facts[131] == "Drama; no ratings yet"


def test_nothing_that_is_asked_depends_on_a_test_rating(interactions, items):
    split = splits.split_per_user(interactions, seed=1)
    hidden = split["split"] == "test"
    scrambled = split.assign(rating=split["rating"].mask(hidden, 6 - split["rating"]))
    keys = []
    for table in (split, scrambled):
        candidates = splits.test_candidates(table, 4.0, seed=1)
        tasks = rankers.build_tasks(candidates["user"].unique()[:5], table[~hidden], candidates, items)
        keys.append([one.key for mode in prompts.MODES for one in rankers.requests_for(mode, tasks, "film", "toy")])
    assert (split["rating"] != scrambled["rating"]).any()
    assert keys[0] == keys[1]


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("listwise", "generate"), ("likelihood", "score"), ("pointwise", "choose"), ("pointwise-facts", "choose")],
)
def test_each_mode_asks_for_its_kind_of_answer_about_every_candidate(mode, kind, tasks):
    for task, one in zip(tasks, rankers.requests_for(mode, tasks, "film", "toy"), strict=True):
        assert one.user == task.user
        assert one.request["kind"] == kind
        assert len(one.request["candidates"]) == len(task.candidates)
        assert all(item.title in text for item, text in zip(task.items, one.request["candidates"], strict=True))


def test_every_user_mode_and_model_has_a_key_of_its_own(tasks):
    keys = [
        one.key
        for model in ("toy", "other")
        for mode in prompts.MODES
        for one in rankers.requests_for(mode, tasks, "film", model)
    ]
    assert len(set(keys)) == len(keys) == 2 * 4 * len(tasks)


def test_unknown_mode_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown mode 'pairwise'.*listwise"):
        rankers.build_request("pairwise", [], [], "film")


def test_prior_covers_the_catalogue_in_order_and_serves_everybody(items):
    catalogue = pd.concat([items.assign(item=items["item"] + 1000 * n) for n in range(3)], ignore_index=True)
    shuffled = catalogue.sample(frac=1, random_state=1)
    asked = rankers.prior_requests(shuffled, "film", "toy")
    assert [len(one.request["candidates"]) for one in asked] == [64, 29]
    assert {one.user for one in asked} == {None}
    prior = rankers.prior_of(shuffled, FakeModel().answer([one.request for one in asked]))
    assert list(prior.index) == sorted(catalogue["item"])
    assert [prior.iloc[0], prior.iloc[63], prior.iloc[64]] == [-1.0, -64.0, -1.0]


# --- answers --------------------------------------------------------------------------------------------------------


def test_replay_without_a_recording_names_the_user_and_the_remedy(tasks, recordings, monkeypatch):
    asked = rankers.requests_for("likelihood", tasks, "film", "toy")
    recordings.append(asked[0].key, {})
    monkeypatch.setenv("HYBRIDREC_LLM", "replay")
    with pytest.raises(RecordingError, match=rf"user {asked[1].user} \(and 3 more\).*`make record`"):
        rankers.answers(asked, recordings, never)


@pytest.mark.parametrize("policy", ["auto", "replay"])
def test_what_is_recorded_is_replayed_without_loading_a_model(policy, tasks, recordings, monkeypatch):
    asked = rankers.requests_for("likelihood", tasks, "film", "toy")
    first = rankers.answers(asked, recordings, FakeModel)
    monkeypatch.setenv("HYBRIDREC_LLM", policy)
    assert rankers.answers(asked, Recordings(recordings.path), never) == first


def test_auto_computes_only_what_is_missing(tasks, recordings):
    asked = rankers.requests_for("likelihood", tasks, "film", "toy")
    rankers.answers(asked[:3], recordings, FakeModel)
    model = FakeModel()
    rankers.answers(asked, recordings, lambda: model)
    assert model.asked == [one.request for one in asked[3:]]


@pytest.mark.parametrize("mode", prompts.MODES)
def test_answers_come_in_the_order_asked_whatever_the_batches(mode, tasks, recordings):
    asked = rankers.requests_for(mode, tasks, "film", "toy")
    responses = rankers.answers(asked, recordings, FakeModel)
    assert responses == FakeModel().answer([one.request for one in asked])


@pytest.mark.parametrize("mode", ["likelihood", "listwise"])
def test_a_killed_run_goes_on_where_it_was_and_asks_nothing_twice(mode, tasks, recordings, monkeypatch):
    monkeypatch.setattr(rankers, "_GENERATED_TOGETHER", 2)
    asked = rankers.requests_for(mode, tasks, "film", "toy")
    killed, resumed = FakeModel(lives=2), FakeModel()
    with pytest.raises(KeyboardInterrupt):
        rankers.answers(asked, recordings, lambda: killed)
    responses = rankers.answers(asked, Recordings(recordings.path), lambda: resumed)
    assert len(responses) == len(tasks)
    texts = [json.dumps(request) for request in killed.asked + resumed.asked]
    assert len(killed.asked) == (4 if mode == "listwise" else 2)
    assert len(texts) == len(set(texts)) == len(tasks)


def test_the_same_request_of_two_users_is_asked_once(tasks, recordings):
    (one,) = rankers.requests_for("likelihood", tasks[:1], "film", "toy")
    model = FakeModel()
    assert len(rankers.answers([one, one], recordings, lambda: model)) == 2
    assert len(model.asked) == 1


def test_unknown_policy_is_refused(tasks, recordings, monkeypatch):
    monkeypatch.setenv("HYBRIDREC_LLM", "sometimes")
    with pytest.raises(ValueError, match="HYBRIDREC_LLM is 'sometimes'; it must be auto, replay or live"):
        rankers.answers(rankers.requests_for("likelihood", tasks, "film", "toy"), recordings, never)


def test_a_live_run_leaves_the_committed_recordings_alone_until_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(rankers.paths, "RECORDINGS", tmp_path)
    rankers.recordings_for("ml-100k", "toy").append("a", {"text": "committed"})
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    live = rankers.recordings_for("ml-100k", "toy")
    assert len(live) == 0
    live.append("a", {"text": "live"})
    monkeypatch.setenv("HYBRIDREC_LLM", "auto")
    assert rankers.recordings_for("ml-100k", "toy")["a"] == {"text": "committed"}
    rankers.keep_live_recordings("ml-100k", "toy")
    assert rankers.recordings_for("ml-100k", "toy")["a"] == {"text": "committed"}
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    rankers.keep_live_recordings("ml-100k", "toy")
    monkeypatch.setenv("HYBRIDREC_LLM", "auto")
    assert rankers.recordings_for("ml-100k", "toy")["a"] == {"text": "live"}


# --- scores ---------------------------------------------------------------------------------------------------------

COLUMNS = {"task", "user", "item", "score", "ranker", "invalid", "duplicates", "missing", *USAGE}


def responses_to(mode: str, tasks: list[rankers.Task]) -> list[dict]:
    return FakeModel().answer([one.request for one in rankers.requests_for(mode, tasks, "film", "toy")])


@pytest.mark.parametrize("mode", prompts.MODES)
def test_scores_have_one_row_a_candidate_with_usage(mode, tasks):
    responses = responses_to(mode, tasks)
    table = {
        "listwise": lambda: rankers.score_listwise(tasks, responses, seed=1),
        "likelihood": lambda: rankers.score_likelihood(tasks, responses),
    }.get(mode, lambda: rankers.score_pointwise(tasks, responses, mode))()
    assert set(table.columns) == COLUMNS
    pairs = [(task.user, item) for task in tasks for item in task.candidates]
    assert list(zip(table["user"], table["item"], strict=True)) == pairs
    assert np.isfinite(table["score"]).all()
    assert set(table["ranker"]) == {mode}
    assert (table[list(USAGE)] == pd.Series(USAGE)).all(axis=None)


def three(user: int = 7) -> rankers.Task:
    items = tuple(prompts.Item(title) for title in ("Alien", "Fargo", "Heat"))
    return rankers.Task(user, (prompts.Item("Psycho"),), (30, 10, 20), items)


def test_listwise_scores_follow_the_text():
    table = rankers.score_listwise([three()], [{"text": "Heat\nAlien\nFargo", **USAGE}], seed=1)
    assert table.set_index("item")["score"].sort_values(ascending=False).index.tolist() == [20, 30, 10]
    assert (table[["invalid", "duplicates", "missing"]] == 0).all(axis=None)


def test_listwise_repairs_are_counted_and_seeded():
    response = {"text": "Heat\nHeat\nThe Matrix", **USAGE}
    tables = [rankers.score_listwise([three()], [response], seed) for seed in range(20)]
    for table in tables:
        assert table[["invalid", "duplicates", "missing"]].iloc[0].tolist() == [1, 1, 2]
        assert table.set_index("item")["score"].idxmax() == 20
    assert {tuple(table["score"]) for table in tables} == {(2.0, 1.0, 3.0), (1.0, 2.0, 3.0)}
    pd.testing.assert_frame_equal(rankers.score_listwise([three()], [response], 3), tables[3])


def test_likelihood_is_per_token_and_the_prior_is_subtracted_first():
    response = {"log_probs": [-6.0, -2.0, -9.0], "lengths": [2, 1, 3], **USAGE}
    assert rankers.score_likelihood([three()], [response])["score"].tolist() == [-3.0, -2.0, -3.0]
    prior = pd.Series({10: -4.0, 20: -3.0, 30: -8.0})  # by item, not by position
    table = rankers.score_likelihood([three()], [response], prior)
    assert table["score"].tolist() == [1.0, 2.0, -2.0]
    assert set(table["ranker"]) == {"likelihood-prior"}


def test_pointwise_is_yes_minus_no():
    response = {"log_probs": [[-1.0, -3.0], [-2.0, -2.0], [-5.0, -1.0]], "lengths": [1, 1, 1], **USAGE}
    assert rankers.score_pointwise([three()], [response], "pointwise")["score"].tolist() == [2.0, 0.0, -4.0]
