"""From tasks to scores: what a prompt may know, what is asked, and what each kind of answer is worth."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_model import USAGE, NeverAsked, ToyModel, reply

from hybridrec.data import splits
from hybridrec.errors import ModelError, PriceError, RecordingError, ResponseError
from hybridrec.evaluation.controls import ratings_of_items
from hybridrec.llm import modes, prompts, rankers
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.redact import redact_response
from hybridrec.llm.runner import Failure, Response, Tally
from hybridrec.llm.tasks import Task, build_tasks, item_facts, with_anothers_history
from hybridrec.study import models as study_models

WRITTEN = ("listwise", "listwise-labels")


@pytest.fixture
def study(interactions: pd.DataFrame, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    split = splits.split_per_user(interactions, seed=1)
    return {
        "known": split[split["split"] != "test"],
        "candidates": splits.test_candidates(split, 4.0, seed=1),
        "items": items,
    }


@pytest.fixture
def tasks(study) -> list[Task]:
    return build_tasks(sorted(study["candidates"]["user"].unique())[:5], **study)


@pytest.fixture
def recordings(tmp_path) -> Recordings:
    return Recordings(tmp_path / "toy.sqlite")


@pytest.fixture(autouse=True)
def _auto(monkeypatch) -> None:
    monkeypatch.delenv("HYBRIDREC_LLM", raising=False)


def three(user: int = 7) -> Task:
    items = tuple(prompts.Item(title) for title in ("Alien", "Fargo", "Heat"))
    return Task(user, (prompts.Item("Psycho"),), (30, 10, 20), items)


def says(text: str, finish_reason: str = "stop") -> Response:
    return {"text": text, "finish_reason": finish_reason, **USAGE}


@pytest.fixture
def rank(tmp_path):
    """Rank with a model that gives one answer to everything, and with fresh recordings each time."""
    folders = iter(range(1000))

    def ranked(tasks: list, mode: str, answer: Response | Failure, seed: int = 1, **options) -> list[rankers.Ranking]:
        fresh = Recordings(tmp_path / str(next(folders)) / "toy.sqlite")
        return list(rankers.rank(tasks, mode, ToyModel(lambda _: answer), fresh, noun="film", seed=seed, **options))

    return ranked


def scores(ranking: rankers.Ranking) -> dict[int, float]:
    return dict(zip(ranking.candidates, ranking.scores, strict=True))


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_history_is_ordered_by_rating_then_recency_and_cut(items):
    rows = [(101, 3.0, 50), (102, 5.0, 10), (103, 5.0, 20), (104, 4.0, 99), (105, 3.0, 60), (106, 1.0, 99)]
    known = pd.DataFrame(rows, columns=["item", "rating", "timestamp"]).assign(user=7)
    candidates = pd.DataFrame({"user": 7, "position": [1, 0], "item": [110, 111]})
    (task,) = build_tasks([7], known, candidates, items, history_length=5)
    assert [item.title for item in task.history] == [f"Film {n} ({1900 + n % 90})" for n in (103, 102, 104, 105, 101)]
    assert task.candidates == (111, 110)
    assert [item.title for item in task.items] == ["Film 111 (1921)", "Film 110 (1920)"]


def test_tasks_come_in_the_order_of_the_users_asked_for(study):
    users = sorted(study["candidates"]["user"].unique())[:4][::-1]
    assert [task.user for task in build_tasks(users, **study)] == users


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
        build_tasks([user], **study)


def test_facts_say_genres_mean_and_count_of_known_ratings(items):
    known = pd.DataFrame({"item": [101, 101, 102], "rating": [4.0, 5.0, 2.0]})
    facts = item_facts(items, ratings_of_items(known), scale=5)
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
        tasks = build_tasks(candidates["user"].unique()[:5], table[~hidden], candidates, items)
        asked = [rankers.request_of(task, mode, "film") for mode in modes.BUILT_IN for task in tasks]
        keys.append([ToyModel().key(one) for one in asked])
    assert (split["rating"] != scrambled["rating"]).any()
    assert keys[0] == keys[1]


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("listwise", "generate"), ("likelihood", "score"), ("pointwise", "choose"), ("pointwise-facts", "choose")],
)
def test_each_mode_asks_for_its_kind_of_answer_about_every_candidate(mode, kind, tasks):
    for task in tasks:
        one = rankers.request_of(task, mode, "film")
        assert (one.user, one.about) == (task.user, task)
        assert one.request["kind"] == kind
        assert len(one.request["candidates"]) == len(task.candidates)
        assert all(item.title in text for item, text in zip(task.items, one.request["candidates"], strict=True))


def test_listwise_labels_asks_for_the_labels_in_the_order_shown(tasks):
    request = rankers.request_of(tasks[0], "listwise-labels", "film").request
    assert request["kind"] == "generate"
    assert request["candidates"] == [f"C{n}" for n in range(1, len(tasks[0].items) + 1)]
    shown = [f"{label} {item.title}" for label, item in zip(request["candidates"], tasks[0].items, strict=True)]
    assert "\n".join(shown) in request["instruction"]


def test_pointwise_offers_yes_and_no(tasks):
    for mode in ("pointwise", "pointwise-facts"):
        assert rankers.request_of(tasks[0], mode, "film").request["choices"] == ["Yes", "No"]


def test_every_user_mode_and_model_has_a_key_of_its_own(tasks):
    model, other = ToyModel(), ToyModel()
    other.name = "other"
    asked = [rankers.request_of(task, mode, "film") for mode in modes.BUILT_IN for task in tasks]
    keys = [one.key(request) for one in (model, other) for request in asked]
    assert len(set(keys)) == len(keys) == 2 * 5 * len(tasks)


@pytest.mark.parametrize(
    ("mode", "key"),
    [
        ("listwise", "51147aaeb429"),
        ("listwise-labels", "60112e1fd519"),
        ("likelihood", "1bf1507e08e8"),
        ("pointwise", "e9ca41aa0254"),
        ("pointwise-facts", "c973df18fce3"),
    ],
)
def test_the_keys_of_requests_are_stable_across_releases(mode, key):
    """Recorded answers are found by them; whoever means to change a prompt has to compute the answers anew."""
    assert study_models.local("SmolLM2-135M-Instruct").key(rankers.request_of(three(), mode, "film"))[:12] == key


def test_an_unknown_mode_lists_the_known_ones(recordings):
    with pytest.raises(ValueError, match="unknown mode 'pairwise'.*listwise"):
        list(rankers.rank([three()], "pairwise", NeverAsked(), recordings, noun="film", seed=1))


# --- the prior ------------------------------------------------------------------------------------------------------


def test_the_prior_covers_the_catalogue_in_order_and_serves_everybody(items, recordings):
    catalogue = pd.concat([items.assign(item=items["item"] + 1000 * n) for n in range(3)], ignore_index=True)
    catalogue["title"] += catalogue["item"].astype(str)
    shuffled = catalogue.sample(frac=1, random_state=1)
    asked = rankers.prior_requests(shuffled, "film")
    assert [len(one.request["candidates"]) for one in asked] == [64, 29]
    assert {one.user for one in asked} == {None}
    prior = rankers.prior_of(shuffled, ToyModel(width=2), recordings, "film")
    assert list(prior.index) == sorted(catalogue["item"])
    rows = [(-1.0, 1), (-64.0, 64), (-1.0, 1)]
    assert list(prior.iloc[[0, 63, 64]].itertuples(index=False, name=None)) == rows
    again = rankers.prior_of(shuffled, NeverAsked(), Recordings(recordings.path), "film")
    pd.testing.assert_frame_equal(again, prior)


def test_the_prior_is_asked_only_where_a_candidate_is_and_its_requests_stay_the_same(recordings):
    catalogue = pd.DataFrame({"item": range(200), "title": [f"Film {n}" for n in range(200)]})
    every = rankers.prior_requests(catalogue, "film")
    model = ToyModel()
    prior = rankers.prior_of(catalogue, model, recordings, "film", wanted=[70, 127, 199])
    assert [one.request for one in model.asked] == [every[1].request, every[3].request]
    assert list(prior.index) == [*range(64, 128), *range(192, 200)]
    assert prior.loc[127].tolist() == [-64.0, 64]
    nothing = rankers.prior_of(catalogue, NeverAsked(), recordings, "film", wanted=[])
    assert (len(nothing), list(nothing)) == (0, ["log_prob", "length"])


def test_the_prior_alone_ranks_by_its_log_likelihood_per_token():
    prior = pd.DataFrame({"log_prob": [-4.0, -3.0, -8.0], "length": [1, 3, 2]}, index=[10, 20, 30])
    (ranking,) = rankers.rank_by_prior([three()], prior)  # candidates 30, 10, 20
    assert (ranking.ranker, ranking.scores, ranking.failure) == ("prior", (-4.0, -4.0, -1.0), "")


def test_the_prior_is_the_same_whoever_asks(items):
    (one,) = rankers.prior_requests(items, "film")
    assert "rated" not in one.request["instruction"]
    assert one.request["kind"] == "score"


def test_a_part_of_the_prior_that_failed_is_an_error_that_says_why(items, recordings):
    with pytest.raises(ResponseError, match="no prior of the catalogue: refused with 400"):
        rankers.prior_of(items, ToyModel(lambda _: Failure("refused with 400")), recordings, "film")


# --- rankings -------------------------------------------------------------------------------------------------------

COLUMNS = {
    *("user", "item", "score", "ranker", "invalid", "duplicates", "missing", "failure", "ended_by", "answered"),
    *("attempts", *USAGE),
}


@pytest.mark.parametrize("mode", modes.BUILT_IN)
def test_rankings_become_one_row_a_candidate_with_usage(mode, tasks, recordings):
    table = rankers.table(rankers.rank(tasks, mode, ToyModel(), recordings, noun="film", seed=1))
    assert set(table.columns) == COLUMNS
    pairs = [(task.user, item) for task in tasks for item in task.candidates]
    assert list(zip(table["user"], table["item"], strict=True)) == pairs
    assert np.isfinite(table["score"]).all()
    assert set(table["ranker"]) == {mode}
    assert (table[list(USAGE)] == pd.Series(USAGE)).all(axis=None)
    assert (table["attempts"] == 1).all()
    assert (table["failure"] == "").all()


@pytest.mark.parametrize("mode", modes.BUILT_IN)
def test_a_table_does_not_show_in_which_order_the_answers_came(mode, tasks, tmp_path):
    in_order, out_of_order = (
        rankers.table(
            rankers.rank(tasks, mode, ToyModel(width=width), Recordings(tmp_path / str(width)), noun="film", seed=1)
        )
        for width in (1, 3)
    )
    pd.testing.assert_frame_equal(in_order, out_of_order)


def test_rankings_come_one_by_one_from_tasks_that_are_made_one_by_one(recordings):
    made = []

    def tasks():
        for user in range(10):
            made.append(user)
            yield three(user)

    rankings = rankers.rank(tasks(), "likelihood", ToyModel(), recordings, noun="film", seed=1)
    assert [next(rankings).user, next(rankings).user] == [0, 1]
    assert made == [0, 1]


def test_a_ranking_that_is_left_early_closes_the_model(tasks, recordings):
    model = ToyModel()
    rankings = rankers.rank(tasks, "likelihood", model, recordings, noun="film", seed=1)
    next(rankings)
    rankings.close()
    assert model.closed == 1


@pytest.mark.parametrize("mode", modes.BUILT_IN)
def test_recorded_answers_give_the_same_rankings_without_the_model(mode, tasks, recordings):
    first = rankers.table(rankers.rank(tasks, mode, ToyModel(), recordings, noun="film", seed=1))
    recordings.compact()
    replay = Recordings(recordings.path, replay_only=True)
    again = list(rankers.rank(tasks, mode, NeverAsked(), replay, noun="film", seed=1))
    assert all(ranking.replayed for ranking in again)
    pd.testing.assert_frame_equal(rankers.table(again), first)


def test_a_replay_miss_names_the_mode_and_the_user(tasks, tmp_path):
    recordings = Recordings(tmp_path / "toy.jsonl", replay_only=True)
    with pytest.raises(RecordingError, match=rf"no recording of listwise for user {tasks[0].user} \(and 4 more\)"):
        list(rankers.rank(tasks, "listwise", NeverAsked(), recordings, noun="film", seed=1))


# --- written answers ------------------------------------------------------------------------------------------------


def test_listwise_scores_follow_the_text(rank):
    (ranking,) = rank([three()], "listwise", says("Heat\nAlien\nFargo"))
    assert scores(ranking) == {20: 3.0, 30: 2.0, 10: 1.0}
    assert (ranking.invalid, ranking.duplicates, ranking.missing, ranking.failure) == (0, 0, 0, "")


def test_listwise_labels_scores_follow_the_labels(rank):
    (ranking,) = rank([three()], "listwise-labels", says("C3 > C1 > C2"))
    assert scores(ranking) == {20: 3.0, 30: 2.0, 10: 1.0}
    assert (ranking.ranker, ranking.missing, ranking.failure) == ("listwise-labels", 0, "")


def test_repairs_are_counted_and_seeded(rank):
    found = [rank([three()], "listwise", says("Heat\nHeat\nThe Matrix"), seed)[0] for seed in range(20)]
    for ranking in found:
        assert (ranking.invalid, ranking.duplicates, ranking.missing, ranking.failure) == (1, 1, 2, "")
        assert max(scores(ranking), key=scores(ranking).get) == 20
    assert {ranking.scores for ranking in found} == {(2.0, 1.0, 3.0), (1.0, 2.0, 3.0)}
    assert rank([three()], "listwise", says("Heat\nHeat\nThe Matrix"), 3)[0].scores == found[3].scores


def test_repairs_differ_between_users(rank):
    tasks = [three(user) for user in range(40)]
    found = {ranking.scores for ranking in rank(tasks, "listwise", says("Heat"))}
    assert found == {(2.0, 1.0, 3.0), (1.0, 2.0, 3.0)}


def test_an_answer_that_was_cut_off_does_not_count_its_torn_last_item_as_invented(rank):
    for finish_reason, invalid in (("stop", 1), ("length", 0), ("loop", 0), ("context", 0)):
        (ranking,) = rank([three()], "listwise", says("1. Heat\n2. Fargo\n3. Ali", finish_reason))
        assert (ranking.invalid, ranking.missing) == (invalid, 1)


def test_a_ranking_says_who_ended_its_answer(rank):
    reasons = {"stop": "model", "length": "our budget", "loop": "our stop rule", "context": "server"}
    found = {reason: rank([three()], "listwise", says("1. Heat\n", reason))[0] for reason in reasons}
    assert {reason: one.ended_by for reason, one in found.items()} == reasons
    assert set(rankers.table(found.values())["ended_by"]) == set(reasons.values())
    scored = {"log_probs": [-6.0, -2.0, -9.0], "lengths": [2, 1, 3], **USAGE}
    for mode, answer in (("listwise", Failure("refused with 400")), ("likelihood", scored)):
        (nothing_written,) = rank([three()], mode, answer)
        assert nothing_written.ended_by == ""


@pytest.mark.parametrize("mode", WRITTEN)
@pytest.mark.parametrize(
    ("text", "why"), [("", "empty"), ("I'm sorry, I can't do that.", "refusal"), ("42", "names no candidate")]
)
def test_an_unusable_answer_is_a_random_order_that_says_why(mode, text, why, rank):
    found = rank([three(user) for user in range(30)], mode, says(text), attempts=2)
    assert {ranking.failure for ranking in found} == {why}
    assert {ranking.attempts for ranking in found} == {2}
    assert {ranking.missing for ranking in found} == {3}
    assert len({ranking.scores for ranking in found}) == 6
    assert all(sorted(ranking.scores) == [1.0, 2.0, 3.0] for ranking in found)
    assert found[0].used["prompt_tokens"] == 2 * USAGE["prompt_tokens"]


@pytest.mark.parametrize("reason", ["refusal", "content_filter"])
@pytest.mark.parametrize(
    ("mode", "quoted"), [("listwise", "I'd rather not rank Heat."), ("listwise-labels", "Not C1.")]
)
def test_a_refusal_that_quotes_a_candidate_is_no_ranking_of_it(mode, quoted, reason, rank):
    (ranking,) = rank([three()], mode, says(quoted, reason))
    assert (ranking.failure, ranking.missing) == ("refusal", 3)


@pytest.mark.parametrize("mode", modes.BUILT_IN)
def test_no_answer_at_all_is_a_random_order_that_says_why(mode, rank):
    found = rank([three(user) for user in range(30)], mode, Failure("refused with 400"), attempts=3)
    assert {(one.failure, one.attempts, one.missing, one.invalid) for one in found} == {("refused with 400", 1, 3, 0)}
    assert len({ranking.scores for ranking in found}) == 6
    assert found[0].used == dict.fromkeys(USAGE, 0)
    assert set(rankers.table(found)["failure"]) == {"refused with 400"}


def test_a_second_attempt_that_can_be_used_is_used(recordings):
    model = ToyModel(lambda asked: reply(asked) if asked.attempt else says("no idea"))
    tally = Tally()
    (ranking,) = rankers.rank([three()], "listwise", model, recordings, noun="film", seed=1, attempts=3, tally=tally)
    assert scores(ranking) == {20: 3.0, 10: 2.0, 30: 1.0}
    assert (ranking.failure, ranking.attempts) == ("", 2)
    assert (tally.done, tally.failed, tally.asked_again) == (1, 0, 1)


def test_verdicts_tell_complete_repaired_and_failed_apart():
    asked = rankers.request_of(three(), "listwise", "film")
    verdicts = {text: rankers.check("listwise", asked, says(text)) for text in ("Heat\nAlien\nFargo", "Heat", "")}
    assert verdicts == {"Heat\nAlien\nFargo": "", "Heat": "repaired", "": "empty"}
    assert rankers.check("likelihood", asked, {"log_probs": [-1.0] * 3}) == ""


def test_labels_are_read_as_labels_only_where_labels_were_shown():
    assert rankers.read(three(), "listwise-labels", says("C2")).order == (1,)
    assert rankers.read(three(), "listwise", says("C2")).order == ()


# --- scored answers -------------------------------------------------------------------------------------------------


def test_likelihood_is_per_token_and_the_prior_is_subtracted_first(rank):
    response = {"log_probs": [-6.0, -2.0, -9.0], "lengths": [2, 1, 3], **USAGE}
    (ranking,) = rank([three()], "likelihood", response)
    assert (ranking.ranker, ranking.scores) == ("likelihood", (-3.0, -2.0, -3.0))
    prior = pd.DataFrame({"log_prob": {10: -4.0, 20: -3.0, 30: -8.0}})  # by item, not by position
    (ranking,) = rank([three()], "likelihood", response, prior=prior)
    assert (ranking.ranker, ranking.scores) == ("likelihood-prior", (1.0, 2.0, -2.0))


@pytest.mark.parametrize("mode", ["pointwise", "pointwise-facts"])
def test_pointwise_is_yes_minus_no(mode, rank):
    response = {"log_probs": [[-1.0, -3.0], [-2.0, -2.0], [-5.0, -1.0]], "lengths": [1, 1, 1], **USAGE}
    (ranking,) = rank([three()], mode, response)
    assert (ranking.ranker, ranking.scores) == (mode, (2.0, 0.0, -4.0))
    both = [math.exp(-1) + math.exp(-3), 2 * math.exp(-2), math.exp(-5) + math.exp(-1)]
    assert ranking.answered == pytest.approx(sum(both) / 3) and ranking.failure == ""


def yes_no(*together: float) -> Response:
    """Yes a third and No two thirds of the probability given, for each candidate."""
    both = [[math.log(p / 3), math.log(2 * p / 3)] for p in together]
    return {"log_probs": both, "lengths": [1] * len(both), **USAGE}


def test_where_the_model_says_neither_yes_nor_no_the_user_has_no_answer(rank):
    found = [rank([three(user)], "pointwise", yes_no(0.02, 0.05, 0.2), attempts=2)[0] for user in range(30)]
    assert {(one.failure, one.missing, one.attempts) for one in found} == {("no answer", 3, 2)}
    assert found[0].answered == pytest.approx(0.09)
    assert len({one.scores for one in found}) == 6, "the order is random"
    (enough,) = rank([three()], "pointwise", yes_no(0.02, 0.05, 0.26))
    assert (enough.failure, enough.missing) == ("", 0)


@pytest.mark.parametrize(("floor", "failure"), [(0.0, ""), (0.08, ""), (0.5, "no answer")])
def test_the_floor_is_the_modes_own(floor, failure, rank):
    mode = replace(modes.get("pointwise"), floor=floor)
    (ranking,) = rank([three()], mode, yes_no(0.02, 0.05, 0.2), tally=(tally := Tally()))
    assert (ranking.failure, tally.failed) == (failure, int(bool(failure)))


def test_a_score_has_no_floor(rank):
    (ranking,) = rank([three()], "likelihood", {"log_probs": [-60.0, -20.0, -90.0], "lengths": [2, 1, 3], **USAGE})
    assert ranking.failure == "" and math.isnan(ranking.answered)


@pytest.mark.parametrize(("together", "failure"), [(0.05, "no answer"), (0.5, "")])
def test_a_whole_list_has_the_same_floor(together, failure, recordings):
    model = ToyModel(lambda _: yes_no(together))
    (ranking,) = rankers.rank_lists([film_list(7, *range(9))], "pointwise", model, recordings, noun="film", seed=3)
    assert (ranking.failure, len(set(ranking.scores))) == (failure, 9 if failure else 1)


# --- what may be written --------------------------------------------------------------------------------------------


def test_the_titles_of_the_history_are_taken_out_before_anything_is_written(recordings):
    model = ToyModel(lambda _: says("1. Psycho\n2. Heat\n3. Fargo"))
    (ranking,) = rankers.rank([three()], "listwise", model, recordings, noun="film", seed=1)
    (written,) = (recordings[key]["text"] for key in recordings)
    assert written == "1. ⟨history 1⟩\n2. Heat\n3. Fargo"
    assert not [file for file in recordings.path.parent.iterdir() if b"Psycho" in file.read_bytes()]
    assert (ranking.invalid, ranking.missing) == (1, 1)


def test_a_redacted_answer_gives_the_ranking_of_the_answer_as_it_came():
    task = three()
    asked = rankers.request_of(task, "listwise", "film")
    for text in ("1. Psycho\n2. Heat\n3. Fargo", "Psycho\nAlien", "I loved Psycho, so: Heat > Alien > Fargo"):
        redacted = redact_response(asked, says(text))
        assert "Psycho" not in redacted["text"]
        assert rankers.read(task, "listwise", redacted) == rankers.read(task, "listwise", says(text))
        assert {name: redacted[name] for name in USAGE} == USAGE


def test_numbers_are_redacted_as_they_are():
    response = {"log_probs": [-1.0], **USAGE}
    assert redact_response(rankers.request_of(three(), "likelihood", "film"), response) == response


# --- models ---------------------------------------------------------------------------------------------------------

ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "key_variable": "NO_SUCH_KEY"}


@pytest.fixture
def priced(tmp_path, monkeypatch) -> None:
    """A price file with one model behind an endpoint: toy, at a dollar a million prompt tokens."""
    file = tmp_path / "prices.toml"
    toy = "[models.toy]\nprompt = 1\ncached = 0.5\ncompletion = 2\n"
    file.write_text(f'date = "2026-01-01"\n[local]\nusd_per_hour = 1\n{toy}', encoding="utf-8")
    monkeypatch.setattr(study_models.paths, "PRICES", file)


def test_a_local_model_is_opened_without_being_loaded(monkeypatch):
    def loaded(*_: object) -> Path:
        raise AssertionError("the model was loaded though nothing had to be computed")

    monkeypatch.setattr("hybridrec.llm.models.weights.converted_folder", loaded)
    model = study_models.open_model("SmolLM2-135M-Instruct")
    assert isinstance(model, HuggingFace)
    assert len(model.key(rankers.request_of(three(), "listwise", "film"))) == 64
    model.close()


def test_an_unknown_local_model_is_refused_at_once():
    with pytest.raises(ModelError, match="unknown model 'GPT-9'"):
        study_models.open_model("GPT-9")


@pytest.mark.usefixtures("priced")
def test_an_endpoint_is_opened_without_key_and_connection(monkeypatch, recordings):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    model = study_models.open_model("toy", ENDPOINT)
    assert isinstance(model, Endpoint)
    task = three()
    recordings.append(model.key(rankers.request_of(task, "listwise", "film")), says("Heat\nAlien\nFargo"))
    (ranking,) = rankers.rank([task], "listwise", model, recordings, noun="film", seed=1)
    assert ranking.replayed


@pytest.mark.usefixtures("priced")
def test_a_model_behind_an_endpoint_costs_what_the_price_file_says():
    capped = {**ENDPOINT, "spending_cap_usd": 1.0, "parameters": {"max_tokens": 100}}
    for endpoint in (ENDPOINT, capped):
        model = study_models.open_model("toy", endpoint)
        assert model.usd({"prompt_tokens": 3 * 10**6, "cached_tokens": 10**6, "completion_tokens": 0}) == 2.5


@pytest.mark.usefixtures("priced")
def test_a_model_behind_an_endpoint_without_a_price_is_refused():
    with pytest.raises(PriceError, match=r"no price for 'dear'"):
        study_models.open_model("dear", ENDPOINT)


# --- whole lists ------------------------------------------------------------------------------------------------------


def film_list(user: int, *items: int) -> Task:
    return Task(user, (prompts.Item("Psycho"),), items, tuple(prompts.Item(f"Film {n}") for n in items))


def by_title(asked) -> Response:
    """The score of a title is its number, whatever stands beside it."""
    numbers = [float(title.split()[-1].rstrip("?")) for title in asked.request["candidates"]]
    return {"log_probs": [-n for n in numbers], "lengths": [2] * len(numbers), **USAGE}


def test_a_list_is_scored_title_by_title_and_every_score_belongs_to_its_item(recordings):
    model = ToyModel(by_title)
    (first, second) = rankers.rank_lists(
        [film_list(7, 30, 10, 20), film_list(8, 5)], "likelihood", model, recordings, noun="film"
    )
    assert scores(first) == {30: -15.0, 10: -5.0, 20: -10.0} and scores(second) == {5: -2.5}
    assert [len(one.request["candidates"]) for one in model.asked] == [1] * 4
    assert first.used["prompt_tokens"] == 3 * USAGE["prompt_tokens"]
    assert not first.replayed


def test_where_something_is_asked_the_spare_titles_are_asked_too(recordings):
    lists, spare = [film_list(7, 10, 20)], [film_list(7, 10, 20, 30)]
    rankers.rank_lists(lists, "likelihood", ToyModel(by_title), recordings, noun="film", spare=spare)
    assert len(recordings) == 3
    # The fit moves: 30 comes up into the list, 40 stands behind it. What is needed is there, so nothing is asked.
    moved, behind = [film_list(7, 30, 10)], [film_list(7, 30, 10, 40)]
    (ranking,) = rankers.rank_lists(moved, "likelihood", NeverAsked(), recordings, noun="film", spare=behind)
    assert scores(ranking) == {30: -15.0, 10: -5.0}
    assert ranking.replayed


def test_of_a_list_that_changes_only_the_new_title_is_asked_for(recordings):
    rankers.rank_lists([film_list(7, 10, 20)], "likelihood", ToyModel(by_title), recordings, noun="film")
    model = ToyModel(by_title)
    rankers.rank_lists([film_list(7, 20, 99, 10)], "likelihood", model, recordings, noun="film")
    assert [one.request["candidates"] for one in model.asked] == [["Film 99"]]


def test_in_a_replay_a_title_without_a_score_is_an_error_and_a_spare_one_is_not(recordings):
    rankers.rank_lists([film_list(7, 10, 20)], "likelihood", ToyModel(by_title), recordings, noun="film")
    replay, spare = Recordings(recordings.path, replay_only=True), [film_list(7, 10, 20, 30)]
    rankers.rank_lists([film_list(7, 10, 20)], "likelihood", NeverAsked(), replay, noun="film", spare=spare)
    with pytest.raises(RecordingError, match="user 7"):
        rankers.rank_lists(spare, "likelihood", NeverAsked(), replay, noun="film")


def test_a_way_to_ask_that_writes_ranks_no_list_title_by_title(recordings):
    with pytest.raises(ValueError, match="'listwise'"):
        rankers.rank_lists([film_list(7, 10)], "listwise", NeverAsked(), recordings, noun="film")


def test_a_list_with_a_title_that_got_no_score_is_in_random_order_and_says_why(recordings):
    refused = {7: "Film 20", 8: "Film 99"}
    model = ToyModel(
        lambda asked: (
            Failure("out of order") if asked.request["candidates"] == [refused[asked.user]] else by_title(asked)
        )
    )
    lists = [film_list(user, 10, 20, 30, 40, 50, 60) for user in (7, 8)]
    seven, eight = rankers.rank_lists(lists, "likelihood", model, recordings, noun="film", seed=1)
    assert (seven.failure, seven.missing, sorted(seven.scores)) == ("out of order", 6, [1, 2, 3, 4, 5, 6])
    assert (eight.failure, eight.missing) == ("", 0)


# --- another user's history -------------------------------------------------------------------------------------------


def reader(user: int, rated: list[str], titles: list[str]) -> Task:
    items = tuple(prompts.Item(title) for title in titles)
    return Task(user, tuple(prompts.Item(title) for title in rated), tuple(range(len(titles))), items)


def test_every_history_goes_to_one_other_user_and_candidates_stay():
    tasks = [reader(user, [f"Rated by {user}"], [f"Film of {user}", "Heat"]) for user in range(30)]
    borrowed = with_anothers_history(tasks, seed=1)
    assert [(task.user, task.candidates, task.items) for task in borrowed] == [
        (task.user, task.candidates, task.items) for task in tasks
    ]
    lenders = [task.history[0].title for task in borrowed]
    assert sorted(lenders) == sorted(task.history[0].title for task in tasks)
    assert all(lender != f"Rated by {task.user}" for lender, task in zip(lenders, borrowed, strict=True))
    assert borrowed == with_anothers_history(tasks, seed=1) != with_anothers_history(tasks, seed=2)


def test_a_borrowed_history_names_no_candidate():
    tasks = [reader(1, ["Alien", "Heat", "Fargo"], ["Psycho"]), reader(2, ["Dune", "Clue"], ["Heat", "Alien"])]
    one, two = with_anothers_history(tasks, seed=1)
    assert [item.title for item in one.history] == ["Dune", "Clue"]
    assert [item.title for item in two.history] == ["Fargo"]


def test_two_users_swap_and_one_has_nobody_to_borrow_from(tasks):
    for seed in range(5):
        one, two = with_anothers_history([reader(1, ["A"], ["X"]), reader(2, ["B"], ["Y"])], seed)
        assert (one.history[0].title, two.history[0].title) == ("B", "A")
    assert with_anothers_history(tasks[:1], seed=1) == with_anothers_history([], seed=1) == []


def test_another_users_history_is_asked_about_in_the_words_of_likelihood(tasks):
    own, borrowed = (
        rankers.request_of(one[0], "likelihood", "film").request
        for one in (tasks, with_anothers_history(tasks, seed=1))
    )
    assert own["kind"] == borrowed["kind"] == "score" and own["candidates"] == borrowed["candidates"]
    assert own["instruction"].split("\n")[-1] == borrowed["instruction"].split("\n")[-1]
    assert own["instruction"] != borrowed["instruction"]
