"""The pace is never exceeded and the cap never broken, whatever the threads do."""

import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybridrec.errors import SpendingCapError
from hybridrec.llm.models import limits
from hybridrec.llm.models.limits import Budget, Pace

SPACING = 60 / (60 * limits._SHARE)  # seconds between requests at 60 a minute
PATIENCE = 10  # seconds after which a thread counts as hanging


class Clock:
    """Time that passes only while somebody waits: in place of the module ``time`` and of the stopping event."""

    def __init__(self) -> None:
        self.now, self.stopped = 1000.0, False
        self.planned: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return self.stopped

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while not self.stopped and self.planned and self.planned[0][0] <= end:
            moment, act = self.planned.pop(0)
            self.now = max(self.now, moment)
            act()
        self.now = self.now if self.stopped else max(self.now, end)

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        """Something that happens so many seconds from now, while others wait."""
        self.planned = sorted([*self.planned, (self.now + seconds, act)], key=lambda one: one[0])

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def begins(pace: Pace, clock: Clock, weights: list[float]) -> list[float]:
    """When each of these requests, one after the other, may begin; 0 is now."""
    start, moments = clock.now, []
    for weight in weights:
        pace.wait(weight)
        moments.append(clock.now - start)
    return moments


# --- pace -----------------------------------------------------------------------------------------------------------


def test_requests_begin_at_even_distances_the_first_at_once(clock):
    assert begins(Pace(60, clock), clock, [1] * 5) == pytest.approx([n * SPACING for n in range(5)])


@pytest.mark.parametrize("per_minute", [1, 7.5, 60, 5000])
def test_no_minute_holds_more_than_promised(per_minute, clock):
    moments = begins(Pace(per_minute, clock), clock, [1] * int(3 * per_minute + 2))
    within = [sum(start <= other < start + 60 for other in moments) for start in moments[:: max(1, len(moments) // 20)]]
    assert max(within) <= math.ceil(per_minute)  # a part of a request is one
    assert moments[-1] >= (len(moments) - 1) * 60 / per_minute


def test_a_heavy_request_makes_the_next_one_wait_longer(clock):
    assert begins(Pace(60, clock), clock, [10, 1, 0.5, 1]) == pytest.approx([n * SPACING for n in (0, 10, 11, 11.5)])


def test_time_that_was_not_used_is_not_saved_up(clock):
    pace = Pace(60, clock)
    pace.wait()
    clock.now += 600
    assert begins(pace, clock, [1, 1, 1]) == pytest.approx([0, SPACING, 2 * SPACING])


def test_without_a_limit_nobody_waits(clock):
    assert begins(Pace(None, clock), clock, [1, 10**9, 1]) == [0, 0, 0]


@pytest.mark.parametrize("per_minute", [None, 60])
def test_after_a_pause_nobody_begins_before_its_end(per_minute, clock):
    pace = Pace(per_minute, clock)
    pace.wait()
    pace.pause(30)
    first, second = begins(pace, clock, [1, 1])
    assert first == pytest.approx(30)
    assert second == pytest.approx(30 + (SPACING if per_minute else 0))


def test_who_waits_already_lines_up_anew_behind_a_pause(clock):
    pace = Pace(60, clock)
    pace.wait(10)
    clock.at(5, lambda: pace.pause(30))
    assert begins(pace, clock, [1, 1]) == pytest.approx([35, 35 + SPACING])


def test_a_second_pause_while_waiting_for_the_first_is_kept_too(clock):
    pace = Pace(60, clock)
    pace.pause(10)
    clock.at(9, lambda: pace.pause(10))
    assert begins(pace, clock, [1]) == pytest.approx([19])


def test_a_short_pause_shortens_no_longer_one(clock):
    pace = Pace(60, clock)
    pace.pause(30)
    pace.pause(1)
    assert begins(pace, clock, [1]) == pytest.approx([30])


def test_a_short_pause_does_not_forgive_a_heavy_request(clock):
    pace = Pace(60, clock)
    pace.wait(10)
    pace.pause(1)
    assert begins(pace, clock, [1]) == pytest.approx([10 * SPACING])


def test_a_run_that_is_stopping_waits_for_nothing(clock):
    pace = Pace(1, clock)
    pace.wait()
    clock.at(5, clock.stop)
    assert begins(pace, clock, [1, 1]) == pytest.approx([5, 5])


def test_stopping_ends_the_waits_of_all_threads():
    stopping = threading.Event()
    pace = Pace(1, stopping)
    pace.wait()
    threads = [threading.Thread(target=pace.wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert all(thread.is_alive() for thread in threads)
    stopping.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_threads_share_one_pace():
    pace, moments = Pace(60_000, threading.Event()), []

    def many(_: int) -> None:
        for _ in range(25):
            pace.wait()
            moments.append(time.monotonic())

    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(many, range(8)))
    earliest = [start + number * 0.001 for number in range(200)]
    assert len(moments) == 200
    assert all(moment >= bound for moment, bound in zip(sorted(moments), earliest, strict=True))


# --- budget ---------------------------------------------------------------------------------------------------------


def test_without_a_cap_everything_may_be_spent():
    budget = Budget()
    for _ in range(10):
        budget.reserve(1e6)
        budget.settle(1e6, 1e6)
    assert budget.spent == 1e7


def test_the_error_names_the_cap_what_was_spent_and_what_was_asked_for():
    budget = Budget(1.0)
    budget.reserve(0.5)
    budget.settle(0.5, 0.4321)
    with pytest.raises(SpendingCapError) as caught:
        budget.reserve(0.75)
    message = str(caught.value)
    assert "cap of $1.00" in message
    assert "$0.4321 spent" in message
    assert "can cost $0.7500" in message
    assert "raise spending_cap_usd and run again" in message


def test_what_turned_out_cheaper_can_be_spent_again():
    budget = Budget(1.0)
    for _ in range(9):
        budget.reserve(0.9)
        budget.settle(0.9, 0.01)
    assert budget.spent == pytest.approx(0.09)


def test_the_cap_itself_may_be_spent_and_no_more():
    budget = Budget(1.0)
    budget.reserve(1.0)
    budget.settle(1.0, 1.0)
    budget.reserve(0.0)
    budget.settle(0.0, 0.0)
    with pytest.raises(SpendingCapError):
        budget.reserve(1e-6)


def test_a_cap_of_nothing_lets_through_what_is_free():
    budget = Budget(0.0)
    budget.reserve(0.0)
    budget.settle(0.0, 0.0)
    with pytest.raises(SpendingCapError):
        budget.reserve(0.01)


def in_thread(act: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that has begun, and the errors that it will end with."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except SpendingCapError as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread, errors


def test_a_request_that_does_not_fit_yet_waits_for_those_under_way():
    budget = Budget(1.0)
    budget.reserve(0.5)
    budget.reserve(0.4)
    thread, errors = in_thread(lambda: budget.reserve(0.6))
    thread.join(0.1)
    assert thread.is_alive()
    budget.settle(0.4, 0.3)  # 0.3 spent, 0.5 set aside: 0.6 still does not fit
    thread.join(0.1)
    assert thread.is_alive()
    budget.settle(0.5, 0.0)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert errors == []
    with pytest.raises(SpendingCapError):
        threading.Timer(0.1, budget.settle, (0.6, 0.6)).start()
        budget.reserve(0.2)


def test_a_request_that_will_never_fit_is_refused_when_the_last_one_under_way_is_settled():
    budget = Budget(1.0)
    budget.reserve(0.5)
    thread, errors = in_thread(lambda: budget.reserve(0.6))
    thread.join(0.1)
    assert thread.is_alive()
    budget.settle(0.5, 0.5)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(errors) == 1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_dust_of_sums_makes_nobody_wait_for_ever(scale):
    budget, rng = Budget(1e5 * scale), random.Random(1)
    for _ in range(50):
        worsts = [rng.random() * scale for _ in range(40)]
        for worst in worsts:
            budget.reserve(worst)
        for worst in rng.sample(worsts, len(worsts)):
            budget.settle(worst, 0.0)
    thread, errors = in_thread(lambda: budget.reserve(2e5 * scale))
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_many_threads_never_spend_more_than_the_cap():
    budget, highest, refused = Budget(1.0), 0.0, 0
    under_way, lock = 0.0, threading.Lock()

    def spend(seed: int) -> None:
        nonlocal highest, refused, under_way
        rng = random.Random(seed)
        for _ in range(40):
            worst = rng.uniform(0.001, 0.05)
            actual = worst * rng.choice([0.1, 0.5, 1.0])
            try:
                budget.reserve(worst)
            except SpendingCapError:
                refused += 1
                return
            with lock:
                under_way += worst
                highest = max(highest, budget.spent + under_way)
            time.sleep(rng.random() * 0.0005)
            with lock:
                under_way -= worst
                budget.settle(worst, actual)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(spend, range(16)))
    assert budget.spent - 1e-9 <= highest <= 1.0 + 1e-9  # sums of the same in another order
    assert budget.spent > 0.9
    assert refused > 0
