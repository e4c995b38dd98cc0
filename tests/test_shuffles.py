"""Position bias: shuffles are seeded and complete, and echo, agreement and Borda mean what they say."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import kendalltau

from hybridrec.llm import shuffles
from hybridrec.llm.prompts import Item
from hybridrec.llm.rankers import Ranking, Task


def task(user: int, n: int = 5) -> Task:
    return Task(user, (Item("Old"),), tuple(range(n)), tuple(Item(f"Title {place}") for place in range(n)))


def ranking(
    candidates: list[int], best_first: list[int], user: int = 1, missing: int = 0, duplicates: int = 0
) -> Ranking:
    scores = tuple(float(len(best_first) - best_first.index(item)) for item in candidates)
    return Ranking("listwise", user, tuple(candidates), scores, 0, duplicates, missing, "", 1, True, {})


def test_a_shuffle_moves_items_together_with_their_titles():
    original = task(7, 8)
    moved = shuffles.shuffled(original, 1, seed=3)
    assert sorted(moved.candidates) == sorted(original.candidates)
    assert moved.candidates != original.candidates
    assert [item.title for item in moved.items] == [f"Title {item}" for item in moved.candidates]
    assert moved.history == original.history


def test_shuffle_zero_is_the_order_there_is_and_others_are_seeded():
    original = task(7, 8)
    assert shuffles.shuffled(original, 0, seed=3) is original
    orders = {shuffles.shuffled(original, number, seed=3).candidates for number in range(5)}
    assert len(orders) == 5
    assert shuffles.shuffled(original, 2, seed=3) == shuffles.shuffled(original, 2, seed=3)
    assert shuffles.shuffled(original, 2, seed=3) != shuffles.shuffled(original, 2, seed=4)


def test_a_sample_is_seeded_and_leaves_out_short_lists():
    tasks = [task(user, 2 + user % 4) for user in range(40)]
    sample = shuffles.sample(tasks, 10, seed=1)
    assert len({one.user for one in sample}) == 10
    assert min(len(one.candidates) for one in sample) >= 3
    assert sample == shuffles.sample(tasks, 10, seed=1) != shuffles.sample(tasks, 10, seed=2)


def test_too_large_a_sample_is_all_there_are():
    few = [task(1), task(2), task(3, 2), task(4, 1)]
    assert [one.user for one in shuffles.sample(few, 5, seed=1)] == [1, 2, 3]
    with pytest.raises(ValueError, match="no user has 2 candidates or more"):
        shuffles.sample([task(4, 1)], 5, seed=1)


def test_where_too_few_lists_have_three_candidates_two_will_do():
    tasks = [task(user, 2) for user in range(8)] + [task(9, 3), task(10, 1)]
    assert len(shuffles.sample(tasks, 9, seed=1)) == 9


def test_borda_is_the_mean_number_of_items_below():
    points = shuffles.borda([ranking([1, 2, 3], [3, 1, 2]), ranking([2, 3, 1], [1, 3, 2])])
    assert points.sort_index().tolist() == [1.5, 0.0, 1.5]


def test_borda_of_all_users_is_a_table():
    first = [ranking([1, 2], [1, 2], user=5), ranking([8, 9], [9, 8], user=4)]
    second = [ranking([9, 8], [9, 8], user=4), ranking([2, 1], [1, 2], user=5)]
    table = shuffles.combined([first, second])
    assert table.sort_values(["user", "item"]).to_numpy().tolist() == [[4, 8, 0], [4, 9, 1], [5, 1, 1], [5, 2, 0]]


def test_agreement_is_over_items_not_over_positions():
    same = [ranking([1, 2, 3], [3, 1, 2]), ranking([3, 2, 1], [3, 1, 2])]
    assert shuffles.agreement(same) == pytest.approx(1)
    assert shuffles.agreement([same[0], ranking([1, 2, 3], [2, 1, 3])]) == pytest.approx(-1)


def test_echo_is_one_for_the_order_shown_and_minus_one_for_its_reverse():
    assert shuffles.echo(ranking([4, 9, 2], [4, 9, 2])) == pytest.approx(1)
    assert shuffles.echo(ranking([4, 9, 2], [2, 9, 4])) == pytest.approx(-1)


def test_who_repeats_the_order_shown_agrees_with_itself_by_chance_only():
    rows = [[shuffles.shuffled(task(user, 8), number, seed=1) for user in range(60)] for number in range(4)]
    echoes = [[ranking(list(one.candidates), list(one.candidates), one.user) for one in row] for row in rows]
    report = shuffles.report(echoes)
    assert (report["echo"] > 1 - 1e-9).all() and (report["echoed exactly"] == 1).all()
    assert abs(report["agreement"].mean()) < 0.06
    assert list(report.index) == list(range(60))


def test_an_incomplete_answer_is_no_exact_echo():
    report = shuffles.report([[ranking([1, 2, 3], [1, 2, 3], missing=1)]] * 2)
    assert report.loc[1, ["named", "complete", "echoed exactly"]].tolist() == pytest.approx([2 / 3, 0, 0])
    assert np.isclose(report.loc[1, "echo"], 1)


def brute_force_tail(chances: list[float], least: int) -> float:
    """The probability of ``least`` or more successes, over all outcomes."""
    outcomes = product((0, 1), repeat=len(chances))
    weights = [
        (sum(one), math.prod(p if hit else 1 - p for p, hit in zip(chances, one, strict=True))) for one in outcomes
    ]
    return sum(weight for total, weight in weights if total >= least)


def test_echoes_are_counted_against_what_random_orders_would_give():
    shown = [1, 2, 3]
    answers = [
        ranking([1, 2], [1, 2]),
        ranking([1, 2], [2, 1]),
        ranking([1, 2], [1, 2]),
        ranking(shown, shown),
        ranking(shown, [3, 1, 2]),
        ranking([1, 2, 3, 4], [1, 2, 4, 3], duplicates=1),  # named again: it stands where it was first
        ranking(shown, shown, missing=1),  # not complete: it does not count
    ]
    found = shuffles.echoes(answers, np.random.default_rng(0))
    chances = [1 / 2, 1 / 2, 1 / 2, 1 / 6, 1 / 6, 1 / 24]
    assert (found["complete"], found["repeated"]) == (6, 3)
    assert found["expected"] == pytest.approx(sum(chances))
    assert found["p"] == pytest.approx(brute_force_tail(chances, 3), rel=1e-12)
    taus = [1, -1, 1, 1, kendalltau([1, 2, 3], [2, 3, 1]).statistic, kendalltau([1, 2, 3, 4], [1, 2, 4, 3]).statistic]
    assert found["tau"] == pytest.approx(np.mean(taus))
    assert found["low"] < found["tau"] < found["high"]


def test_echoes_only_are_as_unlikely_as_they_are():
    found = shuffles.echoes([ranking([1, 2, 3], [1, 2, 3])] * 60, np.random.default_rng(0))
    assert (found["repeated"], found["tau"], found["low"], found["high"]) == (60, 1, 1, 1)
    assert found["p"] == pytest.approx(6.0**-60, rel=1e-9)


def test_without_a_complete_answer_there_is_nothing_to_say_of_echoes():
    found = shuffles.echoes([ranking([1, 2], [1, 2], missing=1)], np.random.default_rng(0))
    assert (found["complete"], found["repeated"], found["expected"]) == (0, 0, 0)
    assert all(np.isnan(found[name]) for name in ("p", "tau", "low", "high"))


def test_nobodys_shuffles_are_a_table_without_a_row():
    report = shuffles.report([[], []])
    assert report.empty and {"agreement", "echo", "named", "complete", "echoed exactly"} <= set(report)


def test_the_closest_order_follows_the_majority_of_each_pair():
    # Two of three say 1 before 2, 2 before 3 and 1 before 3; the third has it the other way round.
    said = [ranking([1, 2, 3], [1, 2, 3]), ranking([3, 1, 2], [1, 2, 3]), ranking([2, 3, 1], [3, 2, 1])]
    assert shuffles.central(said).to_dict() == {1: 2, 2: 1, 3: 0}


def test_the_closest_order_may_differ_from_bordas_count():
    # Three put 1 first and 2 second, two put 2 first and 1 last: Borda gives 2 the most points (3 x 1 + 2 x 2 > 3 x 2).
    said = [ranking([1, 2, 3], order) for order in [[1, 2, 3]] * 3 + [[2, 3, 1]] * 2]
    assert shuffles.borda(said).idxmax() == 2
    assert shuffles.central(said).idxmax() == 1
    table = shuffles.combined([[one] for one in said], shuffles.central)
    assert table.sort_values("score")["item"].tolist() == [3, 2, 1]


def test_beyond_its_longest_list_the_closest_order_is_bordas():
    long = list(range(shuffles.LONGEST_CENTRAL + 1))
    said = [ranking(long, long), ranking(long, long[::-1]), ranking(long, long)]
    assert shuffles.central(said).equals(shuffles.borda(said))
