"""The pace is never exceeded and the cap never broken, whatever the requests do."""

import asyncio
import math
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from hybridrec.errors import SpendingCapError
from hybridrec.llm.models import limits
from hybridrec.llm.models.limits import Budget, Pace
from hybridrec.scale.allowance import Keeper

SPACING = 60 / (60 * limits._SHARE)  # seconds between requests at 60 a minute
TICK = 1e-6


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nobody has anything to do, so that hours take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.select = 1000.0, self._selector.select
        self._selector.select = self.skip

    def skip(self, seconds: float | None) -> list[Any]:
        assert seconds is not None, "everybody waits for something that will never happen"
        self.now += seconds + TICK
        return self.select(0)

    def time(self) -> float:
        return self.now


def run(act: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(act)


def now() -> float:
    return asyncio.get_running_loop().time() - 1000.0


async def begins(pace: Pace, weights: list[float]) -> list[float]:
    """When each of these requests, which all come now, may begin; 0 is now."""
    start = now()

    async def one(weight: float) -> float:
        await pace.wait(weight)
        return now() - start

    return await asyncio.gather(*map(one, weights))


def about(moments: list[float]) -> Any:
    return pytest.approx(moments, abs=0.01)


# --- pace -----------------------------------------------------------------------------------------------------------


def test_requests_begin_at_even_distances_the_first_at_once():
    assert run(begins(Pace(60), [1] * 5)) == about([n * SPACING for n in range(5)])


@pytest.mark.parametrize("per_minute", [1, 7.5, 60, 5000])
def test_no_minute_holds_more_than_promised(per_minute):
    moments = run(begins(Pace(per_minute), [1] * int(3 * per_minute + 2)))
    within = [sum(start <= other < start + 60 for other in moments) for start in moments[:: max(1, len(moments) // 20)]]
    assert max(within) <= math.ceil(per_minute)  # a part of a request is one
    assert moments == sorted(moments)
    assert moments[-1] <= len(moments) * 60 / (0.95 * per_minute)  # nor is much of the allowance left unused


def test_a_fast_pace_allows_no_more_at_once_than_a_moments_worth():
    moments = run(begins(Pace(60_000), [1] * 2_000))
    most = max(sum(start <= other < start + 0.5 for other in moments) for start in moments[::50])
    assert 0.9 * 500 <= most <= (0.5 + limits._AT_ONCE) * 1_000


def test_a_request_that_is_sent_late_costs_nothing_of_a_fast_pace():
    """Every wait lasts 5 ms longer than it should, as on a busy machine; requests may begin every millisecond."""

    async def late() -> float:
        pace, start = Pace(60_000), now()
        for _ in range(1_000):
            await pace.wait()
            if now() - start > 0.1:
                asyncio.get_running_loop().now += 0.005 * (random.Random(now()).random() < 0.1)
        return now() - start

    assert run(late()) <= 1 / 0.95


def test_a_heavy_request_waits_until_all_of_it_is_allowed_and_nobody_overtakes_it():
    assert run(begins(Pace(60), [1, 10, 1, 0.5])) == about([n * SPACING for n in (0, 10, 11, 11.5)])


@pytest.mark.slow
def test_the_tokens_of_a_minute_are_those_promised_however_heavy_the_requests():
    rng = random.Random(1)
    weights = [rng.uniform(1, 9_000) for _ in range(300)]  # some weigh more than a minute allows
    moments = run(begins(Pace(6_000), weights))
    for first in range(0, 300, 7):
        for last in range(first + 1, min(first + 40, 300)):
            allowed = (moments[last] - moments[first]) * 100
            assert sum(weights[first + 1 : last + 1]) <= allowed + 100 * limits._AT_ONCE
    assert moments[-1] <= sum(weights) / 100 / 0.97


def test_time_that_was_not_used_is_not_saved_up():
    async def after_a_break() -> list[float]:
        pace = Pace(60)
        await pace.wait()
        await asyncio.sleep(600)
        return await begins(pace, [1, 1, 1])

    assert run(after_a_break()) == about([0, SPACING, 2 * SPACING])


def test_without_a_limit_nobody_waits():
    assert run(begins(Pace(None), [1, 10**9, 1])) == about([0, 0, 0])


async def paused(pace: Pace, pauses: list[tuple[float, float]], weights: list[float]) -> list[float]:
    """When requests that come now may begin, while pauses are told: after so many seconds, of so many seconds."""
    for after, seconds in pauses:
        if after:
            asyncio.get_running_loop().call_later(after, pace.pause, seconds)
        else:
            pace.pause(seconds)
    return await begins(pace, weights)


@pytest.mark.parametrize(
    ("per_minute", "pauses", "moments"),
    [
        (60, [(0, 30)], [30, 30 + SPACING]),
        (None, [(0, 30)], [30, 30]),
        (60, [(0.5, 30)], [0, 30.5]),
        (60, [(0, 10), (9, 10)], [19, 19 + SPACING]),  # told while they wait for the first
        (60, [(0, 30), (0, 1)], [30, 30 + SPACING]),  # a short pause shortens no longer one
        (60, [(0, 30), (5, 1)], [30, 30 + SPACING]),
    ],
)
def test_nobody_begins_before_the_end_of_a_pause_nor_do_all_begin_together_then(per_minute, pauses, moments):
    found = run(paused(Pace(per_minute), pauses, [1, 1]))
    assert found == about(moments)


def test_a_short_pause_does_not_forgive_a_heavy_request():
    assert run(paused(Pace(60), [(3, 1)], [10, 1]))[0] >= 9 * SPACING


def test_who_is_cancelled_waits_no_longer_and_holds_up_nobody():
    async def cancelled() -> tuple[float, list[float]]:
        pace = Pace(1)
        await pace.wait()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(5)]
        await asyncio.sleep(1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return now(), await begins(pace, [1])

    ended, after = run(cancelled())
    assert ended == pytest.approx(1, abs=0.01)
    assert after == about([60 * SPACING - 1])


# --- budget ---------------------------------------------------------------------------------------------------------


async def spend(budget: Budget, *costs: tuple[float, float]) -> None:
    """One request after the other: what it can cost, and what it did."""
    for worst, actual in costs:
        await budget.reserve(worst)
        budget.settle(worst, actual)


def test_without_a_cap_everything_may_be_spent():
    budget = Budget()
    run(spend(budget, *[(1e6, 1e6)] * 10))
    assert budget.spent == 1e7


def test_the_error_names_the_cap_what_was_spent_and_what_was_asked_for():
    with pytest.raises(SpendingCapError) as caught:
        run(spend(Budget(1.0), (0.5, 0.4321), (0.75, 0)))
    message = str(caught.value)
    assert "cap of $1.00" in message
    assert "$0.4321 spent" in message
    assert "can cost $0.7500" in message
    assert "raise spending_cap_usd and run again" in message


def test_what_turned_out_cheaper_can_be_spent_again():
    budget = Budget(1.0)
    run(spend(budget, *[(0.9, 0.01)] * 9))
    assert budget.spent == pytest.approx(0.09)


@pytest.mark.parametrize("cap", [0.0, 1.0])
def test_the_cap_itself_may_be_spent_and_no_more(cap):
    budget = Budget(cap)
    run(spend(budget, (cap, cap), (0.0, 0.0)))
    with pytest.raises(SpendingCapError):
        run(spend(budget, (1e-6, 0)))


def test_a_request_that_does_not_fit_yet_waits_for_those_under_way():
    async def waits() -> None:
        budget = Budget(1.0)
        await budget.reserve(0.5)
        await budget.reserve(0.4)
        third = asyncio.create_task(budget.reserve(0.6))
        await asyncio.sleep(1)
        assert not third.done()
        budget.settle(0.4, 0.3)  # 0.3 spent, 0.5 set aside: 0.6 still does not fit
        await asyncio.sleep(1)
        assert not third.done()
        budget.settle(0.5, 0.0)
        await third

    run(waits())


def test_a_request_that_will_never_fit_is_refused_when_the_last_one_under_way_is_settled():
    async def refused() -> None:
        budget = Budget(1.0)
        await budget.reserve(0.5)
        second = asyncio.create_task(budget.reserve(0.6))
        await asyncio.sleep(1)
        assert not second.done()
        budget.settle(0.5, 0.5)
        with pytest.raises(SpendingCapError):
            await second

    run(refused())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_dust_of_sums_makes_nobody_wait_for_ever(scale):
    async def dust() -> None:
        budget, rng = Budget(1e5 * scale), random.Random(1)
        for _ in range(50):
            worsts = [rng.random() * scale for _ in range(40)]
            for worst in worsts:
                await budget.reserve(worst)
            for worst in rng.sample(worsts, len(worsts)):
                budget.settle(worst, 0.0)
        await budget.reserve(2e5 * scale)

    with pytest.raises(SpendingCapError):
        run(dust())


def test_many_requests_never_spend_more_than_the_cap():
    budget, highest, refused, under_way = Budget(1.0), 0.0, 0, 0.0

    async def spender(seed: int) -> None:
        nonlocal highest, refused, under_way
        rng = random.Random(seed)
        for _ in range(40):
            worst = rng.uniform(0.001, 0.05)
            try:
                await budget.reserve(worst)
            except SpendingCapError:
                refused += 1
                return
            under_way += worst
            highest = max(highest, budget.spent + under_way)
            await asyncio.sleep(rng.random())
            under_way -= worst
            budget.settle(worst, worst * rng.choice([0.1, 0.5, 1.0]))

    async def together() -> None:
        await asyncio.gather(*map(spender, range(16)))

    run(together())
    assert budget.spent - 1e-9 <= highest <= 1.0 + 1e-9  # sums of the same in another order
    assert budget.spent > 0.9
    assert refused > 0


# --- one allowance for several processes ------------------------------------------------------------------------------


def test_processes_that_share_an_allowance_keep_one_pace_together():
    async def act() -> list[float]:
        keeper, start = Keeper(60, None, None), now()

        async def one(_: str) -> float:
            await keeper.wait("requests", 1.0)
            return now() - start

        return sorted(await asyncio.gather(*map(one, "ababab")))

    assert run(act()) == about([place * SPACING for place in range(6)])


def test_what_a_dead_process_had_set_aside_is_counted_as_spent_and_nobody_waits_for_it():
    async def act() -> None:
        keeper = Keeper(None, None, 10.0)
        assert await keeper.reserve("dies", 6.0) is None
        assert await keeper.reserve("lives", 3.0) is None
        waiting = asyncio.create_task(keeper.reserve("lives", 4.0))
        await keeper.settle("lives", 3.0, 1.0)
        await keeper.begin("dies")  # the one that takes its place
        assert isinstance(await waiting, SpendingCapError)  # 6 of the dead one, 1, and 4 more would be 11
        assert await keeper.spent() == 7.0
        assert await keeper.reserve("dies", 3.0) is None

    run(act())
