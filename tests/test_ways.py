"""Ways to ask, compared on triage folds: what each shows of a history, and the rule that chooses."""

import pandas as pd
import pytest

from hybridrec.errors import SettingError
from hybridrec.llm import modes, prompts, rankers, ways
from hybridrec.llm.prompts import Item
from hybridrec.llm.tasks import build_tasks


@pytest.fixture
def rated() -> dict[str, pd.DataFrame]:
    """Five ratings of one user: best first 103, 102, 104, 105, 101; newest first 104, 105, 103, 101, 102."""
    rows = [(101, 1.0, 15), (102, 5.0, 10), (103, 5.0, 20), (104, 4.0, 99), (105, 2.0, 60)]
    known = pd.DataFrame(rows, columns=["item", "rating", "timestamp"]).assign(user=7)
    items = pd.DataFrame({"item": range(101, 108), "title": [f"Film {n}" for n in range(101, 108)], "genres": ""})
    return {"known": known, "candidates": pd.DataFrame({"user": 7, "position": [0], "item": [107]}), "items": items}


@pytest.mark.parametrize(
    ("shown", "length", "titles"),
    [
        ("best", 3, [103, 102, 104]),
        ("recent", 3, [104, 105, 103]),
        ("ends", 3, [103, 102, 101]),
        ("ends", 4, [103, 102, 105, 101]),
        ("ends", 9, [103, 102, 104, 105, 101]),
    ],
)
def test_what_is_shown_of_a_history_by_hand(shown, length, titles, rated):
    (task,) = build_tasks([7], **rated, history_length=length, shown=shown)
    assert [item.title for item in task.history] == [f"Film {n}" for n in titles]


def test_a_history_knows_its_ratings_and_likes_and_the_candidates_do_not(rated):
    (task,) = build_tasks([7], **rated, like=4.0)
    assert [(item.rating, item.liked) for item in task.history] == [
        (5.0, True), (5.0, True), (4.0, True), (2.0, False), (1.0, False),
    ]  # fmt: skip
    assert [(item.rating, item.liked) for item in task.items] == [(None, None)]


def test_an_unknown_part_of_a_history_is_refused(rated):
    with pytest.raises(SettingError, match="worst.*best, recent, ends"):
        build_tasks([7], **rated, shown="worst")


HISTORY = [Item("Psycho", "", 4.0, True), Item("Alien", "", 3.5, True), Item("Heat", "", 1.0, False)]


@pytest.mark.parametrize(
    ("mode", "lines"),
    [
        ("likelihood-recent", ["- Psycho", "- Alien", "- Heat"]),
        ("likelihood-ratings", ["- Psycho: 4", "- Alien: 3.5", "- Heat: 1"]),
        ("likelihood-likes", ["- Psycho", "- Alien"]),
        ("likelihood-likes-dislikes", ["- Psycho", "- Alien", "- Heat"]),
        ("likelihood-example", ["- Alien", "- Heat", "Psycho"]),
    ],
)
def test_each_wording_shows_of_the_history_what_it_says(mode, lines):
    text = prompts.instruction(mode, HISTORY, [], "film")
    assert [line for line in text.splitlines() if any(item.title in line for item in HISTORY)] == lines


def test_likes_and_dislikes_stand_apart_and_none_is_said():
    text = prompts.instruction("likelihood-likes-dislikes", HISTORY[:2], [], "film")
    liked, disliked = text.split("did not like")
    assert "- Alien" in liked and "- none" in disliked and "Alien" not in disliked


def test_a_wording_that_tells_likes_is_refused_where_they_are_not_known(rated):
    (task,) = build_tasks([7], **rated)
    with pytest.raises(SettingError, match="likelihood-likes"):
        prompts.instruction("likelihood-likes", task.history, [], "film")


@pytest.mark.parametrize("mode", modes.VARIANTS)
def test_no_title_adds_a_line_to_a_wording(mode, hostile_title):
    def lines(title: str) -> int:
        return len(prompts.instruction(mode, [Item(title, "", 4.0, True), *HISTORY], [], "film").splitlines())

    assert lines(hostile_title) == lines("Fargo")


def test_every_way_asks_something_else():
    asked = {
        (str(rankers.build_request(way.mode, HISTORY, [Item("Fargo", "Crime")], "film")), way.length, way.shown)
        for way in ways.WAYS
    }
    assert len(asked) == len(ways.WAYS)


# --- the choice -------------------------------------------------------------------------------------------------------


def ranked(way: str, test: int, fold: int, user: int, right: bool, failure: str = "") -> pd.DataFrame:
    """A list of a liked and another item, in the right order or the wrong one."""
    rows = {"item": [1, 2], "score": [float(right), float(not right)], "relevant": [True, False]}
    return pd.DataFrame(rows).assign(way=way, test=test, fold=fold, user=user, failure=failure)


def test_each_test_fold_gets_the_way_that_was_best_on_other_folds():
    """By hand: for test 0, "b" has 2 of 3 users right and "a" 1 of 3; for test 1 they are alike, so the first."""
    rows = [ranked("a", 0, 1, user, user == 1) for user in (1, 2, 3)]
    rows += [ranked("b", 0, 1, user, user != 1) for user in (1, 2, 3)]
    rows += [ranked(way, 1, 0, 1, True) for way in ("a", "b")]
    rows += [ranked(way, test, test, 1, way == "a") for way in ("a", "b") for test in (0, 1)]  # judged: not looked at
    assert ways.choose(pd.concat(rows)).to_dict() == {0: "b", 1: "a"}


def test_a_way_without_answers_is_not_chosen():
    rows = [ranked("a", 0, 1, user, False) for user in (1, 2)]
    rows += [ranked("b", 0, 1, user, True, "no answer" if user == 1 else "") for user in (1, 2)]
    rows += [ranked("c", 0, 1, user, True, "no answer") for user in (1, 2)]
    assert ways.choose(pd.concat(rows)).to_dict() == {0: "b"}


def test_a_users_pairs_are_pooled_over_folds_and_never_across_them():
    """User 1: one of two lists is right, so 1/2. Were items of both lists compared, there would be four pairs."""
    rows = pd.concat([ranked("a", 0, 1, 1, True), ranked("a", 0, 2, 1, False), ranked("a", 0, 1, 2, True)])
    assert ways.quality(rows, ["way", "test"]).to_dict() == {("a", 0, 1): 0.5, ("a", 0, 2): 1.0}
    table = ways.compare(pd.concat([rows, rows.assign(way="b", score=-rows["score"])]), "way", seed=1, samples=200)
    assert table["auc"].tolist() == [0.75, 0.25]
    assert table["difference"].tolist() == [0.0, -0.5]
    assert table["users"].tolist() == [2, 2]


def test_each_fold_is_decided_for_by_its_two_neighbours():
    assert ways.neighbouring_pairs(5) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
