"""The front door's ranker: what asking would cost, and rankings of users and items that keep their own ids."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import tiny_model
import toy_model
from toy_model import USAGE, NeverAsked, ToyModel

from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, SettingError
from hybridrec.evaluation.controls import ratings_of_items
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.ranker import Ranker
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Failure, Response

RATINGS = pd.DataFrame(
    [("eve", "sku-a", 5.0, 1), ("eve", "sku-b", 3.0, 2), ("bob", "sku-b", 4.0, 1)],
    columns=["user", "item", "rating", "timestamp"],
)
ITEMS = pd.DataFrame(
    [("sku-a", "Alien", "Horror"), ("sku-b", "Brazil", ""), ("sku-c", "Clue", "Crime"), ("sku-d", "Dune", "")],
    columns=["item", "title", "genres"],
).assign(year="")
DATA = Dataset("shop", RATINGS, ITEMS, "a test")
CANDIDATES = pd.DataFrame([("eve", "sku-d"), ("bob", "sku-a"), ("eve", "sku-c")], columns=["user", "item"])
MODE = """
name = "stars"
kind = "choose"
text = "{history_text}\\n"
question = "Stars for {title} ({facts}), High or Low?"
choices = ["High", "Low"]
"""
LOG_PROBS = {"Alien": [-0.5, -1.0], "Clue": [-2.0, -0.25], "Dune": [-0.125, -3.0]}


def by_title(asked: Asked) -> Response:
    """High and Low for each title, whatever else the question says."""
    found = [next(p for title, p in LOG_PROBS.items() if title in text) for text in asked.request["candidates"]]
    return {"log_probs": found, "lengths": [1] * len(found), **USAGE}


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "answers"


def rows(table: pd.DataFrame) -> list[tuple]:
    return list(table[["user", "item", "score"]].itertuples(index=False, name=None))


def test_a_mode_from_a_file_ranks_users_and_items_that_are_text(tmp_path, cache):
    (tmp_path / "stars.toml").write_text(MODE, encoding="utf-8")
    CANDIDATES.to_csv(tmp_path / "candidates.csv", index=False)
    model = ToyModel(by_title)
    table = Ranker(model, tmp_path / "stars.toml", cache, noun="film").rank(DATA, tmp_path / "candidates.csv")
    # log P(High) - log P(Low): Alien -0.5 + 1, Dune -0.125 + 3, Clue -2 + 0.25; users by id, candidates as they came.
    assert rows(table) == [("bob", "sku-a", 0.5), ("eve", "sku-d", 2.875), ("eve", "sku-c", -1.75)]
    assert list(table.columns) == [
        *("user", "item", "score", "ranker", "invalid", "duplicates", "missing", "failure"),
        *("ended_by", "answered", "attempts"),
        *("prompt_tokens", "cached_tokens", "completion_tokens", "seconds"),
    ]
    assert set(table["ranker"]) == {"stars"}
    eve = next(one.request for one in model.asked if one.user == "eve")
    assert eve["choices"] == ["High", "Low"]
    assert eve["instruction"].endswith(":\n- Alien\n- Brazil\n")  # her ratings: 5, then 3
    assert eve["candidates"][1] == "Stars for Clue (Crime; no ratings yet), High or Low?"


def test_what_is_in_the_cache_is_not_asked_again(cache):
    first = Ranker(ToyModel(), "listwise", cache).rank(DATA, CANDIDATES)
    pd.testing.assert_frame_equal(Ranker(NeverAsked(), "listwise", cache).rank(DATA, CANDIDATES), first)


def test_likelihood_per_token_is_the_default(cache):
    answer = {"log_probs": [-6.0, -2.0], "lengths": [3, 2], **USAGE}
    table = Ranker(ToyModel(lambda _: answer), cache=cache).rank(DATA, CANDIDATES, users=["eve"])
    assert rows(table) == [("eve", "sku-d", -2.0), ("eve", "sku-c", -1.0)]


@pytest.mark.parametrize("users", [["eve"], pd.Series(["eve"]), pd.DataFrame({"user": ["eve"], "usd": 1.0})])
def test_users_are_ids_or_a_table_with_them(users, cache):
    ranker = Ranker(ToyModel(), cache=cache)
    for method in (ranker.rank, ranker.estimate):
        assert set(method(DATA, CANDIDATES, users)["user"]) == {"eve"}


def test_nobody_to_rank_is_an_empty_table(cache):
    ranker = Ranker(NeverAsked(), cache=cache)
    assert len(ranker.rank(DATA, CANDIDATES, users=[])) == len(ranker.estimate(DATA, CANDIDATES, users=[])) == 0


def test_candidates_are_shown_by_position_where_there_is_one(cache):
    model = ToyModel()
    Ranker(model, cache=cache).rank(DATA, CANDIDATES.assign(position=[1, 0, 0]), users=["eve"])
    assert model.asked[0].request["candidates"] == ["Clue", "Dune"]


def test_an_answer_that_cannot_be_used_is_a_random_order_that_says_so(cache):
    table = Ranker(ToyModel(lambda _: Failure("out of order")), "listwise", cache).rank(DATA, CANDIDATES)
    assert set(table["failure"]) == {"out of order"}
    assert sorted(table.loc[table["user"] == "eve", "score"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("candidates", "users", "says"),
    [
        (CANDIDATES, ["eve", "zoe"], "user zoe has no candidates"),
        (pd.concat([CANDIDATES, pd.DataFrame({"user": ["zoe", "yan"], "item": "sku-a"})]), None, "user yan .*1 more"),
        (CANDIDATES.replace("sku-c", "sku-x"), None, "user eve"),
        (pd.concat([CANDIDATES, CANDIDATES.tail(1)]), None, "user eve"),
        (CANDIDATES.drop(columns="item"), None, "item"),
    ],
)
def test_nobody_is_left_out_silently(candidates, users, says, cache):
    ranker = Ranker(NeverAsked(), cache=cache)
    for method in (ranker.rank, ranker.estimate):
        with pytest.raises(DatasetError, match=says):
            method(DATA, candidates, users)


def test_an_unknown_mode_is_refused_before_anything_is_read(cache):
    with pytest.raises(SettingError, match="pairwise"):
        Ranker(NeverAsked(), "pairwise", cache)


def test_an_estimate_without_a_tokenizer_takes_four_characters_as_a_token_and_asks_nothing(tmp_path, cache):
    own = 'name = "short"\nkind = "generate"\ntext = "{history}\\n{candidates}"'
    (tmp_path / "short.toml").write_text(own, encoding="utf-8")
    table = Ranker(NeverAsked(), tmp_path / "short.toml", cache).estimate(DATA, CANDIDATES)
    # eve: "- Alien\n- Brazil\n- Dune\n- Clue" has 7 + 8 + 6 + 6 + 3 = 30 characters; "Dune" and "Clue", each with a
    # mark and a line's end, take 8 + 2 * 4 = 16. bob: "- Brazil\n- Alien" has 16, and his answer 5 + 4 = 9.
    assert list(table.itertuples(index=False, name=None)) == [
        ("eve", 1, 8, 4, pytest.approx(0.012)),
        ("bob", 1, 4, 3, pytest.approx(0.007)),
    ]


def test_the_characters_of_scored_candidates_count_for_the_prompt(cache):
    model = ToyModel()
    Ranker(model, cache=cache).rank(DATA, CANDIDATES, users=["eve"])
    (table,) = Ranker(NeverAsked(), cache=cache).estimate(DATA, CANDIDATES, ["eve"]).to_dict("records")
    characters = len(model.asked[0].request["instruction"]) + len("Dune") + len("Clue")
    assert table["prompt_tokens"] - 1 < characters / 4 <= table["prompt_tokens"]
    assert table["completion_tokens"] == 0


def test_an_endpoint_that_scores_is_estimated_with_the_prompt_once_a_candidate(tmp_path, cache):
    class Behind(ToyModel):
        endpoint = None

    # eve's history has 16 characters ("- Alien\n- Brazil"), her text therefore 100; she has two candidates, bob one.
    own = 'name = "short"\nkind = "choose"\ntext = "{history}' + "x" * 84 + '"\nquestion = "{title}?"'
    (tmp_path / "short.toml").write_text(own, encoding="utf-8")
    once, each = (
        Ranker(one, tmp_path / "short.toml", cache).estimate(DATA, CANDIDATES) for one in (ToyModel(), Behind())
    )
    more = (each["prompt_tokens"] - once["prompt_tokens"]).tolist()
    assert dict(zip(each["user"], more, strict=True)) == {"eve": 25, "bob": 0}


def test_an_open_model_on_this_machine_is_estimated_as_it_answers(tmp_path, cache):
    ranker = Ranker(HuggingFace(tiny_model.save(tmp_path / "tiny")), "pointwise", cache)
    estimated, ranked = ranker.estimate(DATA, CANDIDATES), ranker.rank(DATA, CANDIDATES)
    used = ranked.groupby("user")["prompt_tokens"].first()
    assert estimated.set_index("user")["prompt_tokens"].to_dict() == used.to_dict()
    assert (estimated["usd"] == 0).all()


def test_two_processes_with_one_cache_pay_for_no_answer_twice(tmp_path):
    """The second stands for another process: it holds answers of its own opening, and begins while the first asks."""
    cache, asked, second = tmp_path / "answers.sqlite", [], []

    def answer(one: Asked) -> Response:
        if not asked:  # the first has begun: let the other one begin, too, and see that it waits
            asked.append(one)
            second.append(ThreadPoolExecutor(1).submit(other.rank, DATA, CANDIDATES))
            with pytest.raises(TimeoutError):
                second[0].result(timeout=0.5)
        return toy_model.reply(one)

    other = Ranker(NeverAsked(), "likelihood", cache)
    first = Ranker(ToyModel(answer), "likelihood", cache).rank(DATA, CANDIDATES)
    pd.testing.assert_frame_equal(second[0].result(timeout=30), first)
    assert len(Recordings(cache)) == 2


def test_a_mode_with_facts_tells_of_all_ratings_where_only_some_are_given(tmp_path):
    (tmp_path / "stars.toml").write_text(MODE, encoding="utf-8")
    whole, part = ToyModel(by_title), ToyModel(by_title)
    Ranker(whole, tmp_path / "stars.toml").rank(DATA, CANDIDATES, users=["bob"])
    own = Dataset("part", RATINGS[RATINGS["user"] == "bob"], ITEMS, "a test")
    given = {"users": ["bob"], "item_ratings": ratings_of_items(RATINGS)}
    Ranker(part, tmp_path / "stars.toml").rank(own, CANDIDATES, **given)
    assert part.asked[0].request == whole.asked[0].request
    assert "mean rating 5.0 of 5 from 1 ratings" in str(part.asked[0].request)  # eve's
