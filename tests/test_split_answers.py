"""What notebook 04 and its appendix make of answers: read back from tables they say what the rankings said."""

import numpy as np
import pandas as pd
import pytest
from toy_model import NeverAsked, ToyModel, reply

from hybridrec.evaluation import cross, metrics
from hybridrec.llm import rankers, runner, shuffles
from hybridrec.llm import tasks as making
from hybridrec.llm.prompts import Item
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import USAGE
from hybridrec.study import prompting, split_answers, steps


def ranking(user: int, shown: list[int], best_first: list[int], missing: int = 0, way: str = "listwise") -> Ranking:
    scores = tuple(float(len(best_first) - best_first.index(item)) for item in shown)
    used = dict.fromkeys(USAGE, 1.0)
    return Ranking(way, user, tuple(shown), scores, 1, 0, missing, "", 2, True, used, "model")


# Two orders shown to two users: user 1 repeats what is shown, user 2 always answers 5, 6, 7.
ORDERS = [
    [ranking(1, [1, 2, 3], [1, 2, 3]), ranking(2, [5, 6, 7], [5, 6, 7])],
    [ranking(1, [3, 1, 2], [3, 1, 2]), ranking(2, [7, 6, 5], [5, 6, 7], missing=1)],
]
AGAIN = pd.concat([rankers.table(ones).assign(order=number) for number, ones in enumerate(ORDERS)], ignore_index=True)


def without_nan(one: Ranking) -> tuple:
    return (*(value for name, value in vars(one).items() if name != "answered"), np.isnan(one.answered))


def test_rankings_are_read_back_from_their_table_as_they_were():
    for ones in ORDERS:
        assert list(map(without_nan, rankers.from_table(rankers.table(ones)))) == list(map(without_nan, ones))
    assert rankers.from_table(rankers.table([])) == []


def test_scores_of_titles_are_per_token_and_less_what_is_usual():
    response = {"log_probs": [-12.0, -9.0], "lengths": [4, 2]}
    assert rankers.scores_of("likelihood", response) == [-3.0, -4.5]
    assert rankers.scores_of("likelihood", response, [-4.0, -9.0]) == [-2.0, 0.0]
    chosen = {"log_probs": np.log([[0.3, 0.1], [0.2, 0.4]])}
    assert rankers.scores_of("pointwise", chosen) == pytest.approx([np.log(3), np.log(0.5)])
    assert rankers.answered("pointwise", chosen) == pytest.approx(0.5)


def test_position_bias_from_the_table_is_that_of_the_rankings():
    report = split_answers.position_bias(AGAIN).loc["listwise"]
    pd.testing.assert_frame_equal(report, shuffles.report(ORDERS))
    assert report["echo"].to_dict() == {1: 1.0, 2: 0.0}
    assert report["agreement"].to_dict() == pytest.approx({1: -1 / 3, 2: 1.0})
    assert split_answers.position_bias(AGAIN.iloc[:0]).empty


def test_several_orders_are_judged_beside_the_first_alone():
    candidates = pd.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": [1, 2, 3, 5, 6, 7]})
    candidates["relevant"] = candidates["item"].isin([1, 5])
    table = split_answers.orders_combined(AGAIN, candidates, 1, 100).set_index("name")
    assert list(table.index) == ["listwise, one order", "listwise, 2 orders", "listwise, 2 orders, closest"]
    assert table.loc["listwise, one order", "auc"] == 1.0
    # user 1: Borda gives 1.5, 0.5 and 1 to items 1, 2 and 3; user 2's answers are one and the same
    assert table.loc["listwise, 2 orders", "auc"] == 1.0 and (table["users"] == 2).all()
    assert split_answers.orders_combined(AGAIN.iloc[:0], candidates, 1, 100).empty


def test_the_share_that_we_appended_counts_candidates_not_users():
    rows = rankers.table([ranking(1, [1, 2, 3, 4], [1, 2, 3, 4], missing=2), ranking(2, [5, 6], [5, 6])])
    found = split_answers.repaired(rows.assign(model="toy"), 1, 400).loc[("toy", "listwise")]
    assert found["users"] == 2 and found["share"] == pytest.approx(2 / 6)
    assert found["low"] == 0 and found["high"] == pytest.approx(0.5)  # only the one user, or only the other
    alone = split_answers.repaired(rankers.table(ORDERS[0][:1]).assign(model="toy"), 1, 400)
    assert alone[["low", "high"]].isna().all().all()
    assert split_answers.repaired(rankers.table([]).assign(model=None), 1, 400).empty


def test_a_user_of_two_samples_counts_once_among_echoes():
    sample, weak = {("toy", "listwise"): ORDERS[0]}, {("toy", "listwise"): ORDERS[0][:1]}
    (row,) = split_answers.echoes([sample, weak], 1, 100).to_dict("records")
    assert (row["complete"], row["repeated"], row["expected"]) == (2, 2, pytest.approx(2 / 6))
    scored = {("toy", "likelihood"): ORDERS[0]}
    assert split_answers.echoes([scored], 1, 100).empty


def test_lines_that_repeat_the_history_are_counted_and_empty_ones_are_none():
    texts = pd.DataFrame({"ranker": "listwise", "user": [1, 2], "text": ["1. ⟨history 1⟩\n\n2. New", "⟨history 2⟩\n"]})
    assert split_answers.lines(texts).tolist() == ["1. ⟨history 1⟩", "2. New", "⟨history 2⟩"]
    assert split_answers.copied(texts) == pytest.approx(2 / 3)
    assert np.isnan(split_answers.copied(texts.iloc[:0]))


def test_samples_put_together_have_each_row_once():
    one, other = (rankers.table(ones).assign(model="toy") for ones in (ORDERS[0], ORDERS[0][:1]))
    assert len(split_answers.together(one, other)) == len(one)
    assert split_answers.together(one.iloc[:0], other.iloc[:0]).empty


def test_a_table_of_floors_has_the_ways_own():
    answered = ranking(1, [1, 2], [1, 2], way="pointwise")
    rows = rankers.table([answered]).assign(model="toy", answered=0.4)
    (row,) = split_answers.floors(rows, ["pointwise", "likelihood"]).to_dict("records")
    assert (row["model"], row["ranker"], row["median"], row["floor"]) == ("toy", "pointwise", 0.4, 0.1)
    assert metrics.auc(rows.assign(relevant=[True, False])).iloc[0] == 1


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
    found = prompting.by_history(own, borrowed, prior, ToyModel(reads_the_user), **how)
    assert list(found["ranker"].unique()) == list(prompting.HISTORIES)
    dots, differences = split_answers.reading(found.assign(model="toy"), CANDIDATES, 1, 200)
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
    again = prompting.by_history(own, borrowed, prior, NeverAsked(), **how)
    pd.testing.assert_frame_equal(again, found)


def test_reading_is_paired_and_leaves_out_whom_the_model_refused():
    rows = []
    for user, aucs in {1: (1, 0, 1), 2: (0, 0, 1), 3: (0, 1, 1), 4: (1, 1, 0)}.items():
        for history, right in zip(prompting.HISTORIES, aucs, strict=True):
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
    dots, differences = split_answers.reading(pd.DataFrame(rows).assign(model="toy"), candidates, 1, 500)
    assert dots["auc"].tolist() == pytest.approx([1 / 3, 1 / 3, 1]) and set(dots["users"]) == {3}
    own_less_anothers = differences.iloc[0]
    assert own_less_anothers["difference"] == pytest.approx(2 / 3)
    assert 0 <= own_less_anothers["low"] < 2 / 3 < own_less_anothers["high"] <= 1


@pytest.mark.parametrize("of", [0, 1])
def test_reading_says_nothing_of_nobody_and_has_no_interval_for_one(of):
    rows = [
        {"user": 1, "item": item, "score": 1.0, "ranker": history, "failure": "", "model": "toy"}
        for history in prompting.HISTORIES
        for item in (10, 11)
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "score", "ranker", "failure", "model"])
    dots, differences = split_answers.reading(table if of else table.iloc[:0], CANDIDATES, 1, 100)
    assert (len(dots), len(differences)) == ((3, 3) if of else (0, 0))
    assert list(dots) == ["model", "history", "users", "auc", "low", "high"]
    assert dots["low"].isna().all()


# --- the answers that are recorded, and those about the published protocol's weak users -------------------------------


def test_a_recorded_answer_is_that_of_the_attempt_that_was_read_and_a_refused_user_has_none():
    (one, two, three), recordings = three_users(), Recordings()

    def stubborn(asked: runner.Asked) -> runner.Response | runner.Failure:
        if asked.user == 2:
            return runner.Failure("refused with 400")
        return reply(asked) | ({} if asked.attempt else {"text": "no idea"})

    model = ToyModel(stubborn)
    rankings = list(rankers.rank([one, two, three], "listwise", model, recordings, noun="film", seed=1, attempts=2))
    of = {ranking.user: ranking for ranking in rankings}
    found = split_answers.recorded(of[1], one, "listwise", model, recordings, "film")
    assert found is not None and found["text"] == "Other 1\nLiked 1"
    assert split_answers.recorded(of[2], two, "listwise", model, recordings, "film") is None


def test_the_published_pattern_of_a_larger_model_by_hand():
    """User 1: the recommender has the pair wrong, the model right. User 2: both wrong. User 3 is not weak."""
    pairs = CANDIDATES[["user", "item"]]
    large = pairs.assign(ranker="large: listwise", score=[2, 1, 1, 2, 2, 1])
    scores = pd.concat([large, pairs.assign(ranker="ItemKNN", score=[1, 2, 1, 1, 2, 1])]).assign(draw=0)
    lists = cross.lists(steps.as_one_fold(scores)[cross.SCORES], steps.as_one_fold(CANDIDATES))
    weak = pd.DataFrame({"recommender": "ItemKNN", "test": 0, "user": [1, 2]})
    names = pd.DataFrame({"model": ["large"], "ranker": ["listwise"]})
    (row,) = split_answers.on_published_weak(lists, weak, names, 1, 200).to_dict("records")
    assert (row["users"], row["recommender_auc"], row["auc"]) == (2, 0.25, 0.5)
    assert (row["low"], row["high"]) == (0.0, 1.0)
