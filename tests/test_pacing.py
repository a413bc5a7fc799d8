from __future__ import annotations

import asyncio
import gc
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.errors import EmbedderUnavailable, EmbeddingError, RateLimited
from ragkit.fanout import Stopped, in_tasks, in_threads
from ragkit.pacing import (
    Failure,
    Limiter,
    Retry,
    Send,
    Steps,
    Wait,
    adrive,
    attempts,
    drive,
    shared_limiter,
)
from ragkit.usage import UsageMeter

BUSY = Failure(error=EmbedderUnavailable, message="busy", tries=100)
WAITING = UsageMeter(None).waiting


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def limiter(clock: Clock, *, items: float = math.inf, tokens: float = math.inf) -> Limiter:
    return Limiter(items_per_minute=items, tokens_per_minute=tokens, clock=clock)


def retry(clock: Clock, *, deadline_s: float = 300.0, timeout_s: float = 60.0) -> Retry:
    return Retry(
        timeout_s=timeout_s, deadline_s=deadline_s, jitter=lambda low, high: high, clock=clock
    )


def starts(pace: Limiter, clock: Clock, sizes: list[tuple[int, int]]) -> list[float]:
    """When calls of these items and tokens start, each as soon as it may."""
    times = []
    for items, tokens in sizes:
        while (wait := pace.take(items, tokens)) > 0:
            clock.sleep(wait)
        times.append(clock.now)
    return times


def outcomes(clock: Clock, answers: list[Any], **options: Any) -> tuple[Any, list[float]]:
    """Drive one call to its end; the result or the error, and the waits between attempts."""
    waits: list[float] = []
    left = list(answers)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.sleep(seconds)

    pace = options.pop("pace", None) or limiter(clock)
    steps = attempts("payload", pace, retry(clock, **options), items=1, tokens=1)
    try:
        return drive(steps, send=lambda step: left.pop(0), sleep=sleep), waits
    except EmbeddingError as exc:
        return exc, waits


@settings(max_examples=60, deadline=None)
@given(
    quota=st.integers(20, 6_000),
    sizes=st.lists(st.floats(0.01, 1.0), min_size=20, max_size=200),
)
def test_no_sliding_minute_holds_more_than_the_quota(quota: int, sizes: list[float]) -> None:
    clock = Clock()
    most = max(1, quota // 20)
    calls = [max(1, round(size * most)) for size in sizes]
    times = starts(limiter(clock, items=quota), clock, [(n, 1) for n in calls])
    for first, begin in enumerate(times):
        held = [n for n, at in zip(calls, times, strict=True) if begin <= at < begin + 60.0]
        # What the last call may hold beyond it: a twentieth less what is kept in reserve.
        assert sum(held) <= quota * 1.03, (first, begin)


def test_nearly_all_of_the_quota_is_used() -> None:
    clock = Clock()
    times = starts(limiter(clock, items=3_000), clock, [(100, 1)] * 120)
    assert 100 * sum(at < times[0] + 180.0 for at in times) >= 0.97 * 9_000
    assert all(100 * sum(t <= at < t + 60.0 for at in times) <= 3_000 for t in times)


def test_calls_are_spaced_evenly_after_a_rest() -> None:
    clock = Clock()
    pace = limiter(clock, items=600)
    starts(pace, clock, [(10, 1)])
    clock.sleep(3_600)
    times = starts(pace, clock, [(10, 1)] * 5)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # One call takes 1.03 s of the schedule; half a second of lateness is made up for.
    assert gaps == pytest.approx([0.531, 1.031, 1.031, 1.031], abs=0.001)


def test_a_late_start_costs_no_rate() -> None:
    clock = Clock()
    pace = limiter(clock, items=600)
    begin = clock.now
    for _ in range(100):
        starts(pace, clock, [(10, 1)])
        clock.sleep(0.2)  # busy with other things
    assert clock.now - begin == pytest.approx(100 * 10 / (600 * 0.97) * 60, rel=0.02)


def test_the_scarcer_of_items_and_tokens_sets_the_pace() -> None:
    clock = Clock()
    times = starts(limiter(clock, items=3_000, tokens=60_000), clock, [(1, 1_000)] * 3)
    assert times[2] - times[1] == pytest.approx(1 / 0.97)


def test_without_quotas_nothing_waits() -> None:
    clock = Clock()
    assert starts(limiter(clock), clock, [(100, 100_000)] * 50) == [clock.now] * 50


def test_a_search_does_not_queue_behind_an_indexing_run() -> None:
    clock = Clock()
    pace = limiter(clock, items=3_000)
    starts(pace, clock, [(100, 1)])
    assert pace.take(100, 1) > 1.5
    assert pace.take(1, 1, ahead_s=5.0) == 0.0


def test_a_pause_holds_for_everyone_even_those_ahead() -> None:
    clock = Clock()
    pace = limiter(clock)
    pace.pause(21.0)
    pace.pause(5.0)
    assert pace.take(1, 1, ahead_s=5.0) == 21.0
    clock.sleep(21.0)
    assert pace.take(1, 1) == 0.0


def test_the_pace_halves_once_for_calls_in_flight_together_and_recovers() -> None:
    clock = Clock()
    pace = limiter(clock, items=600)

    def gap() -> float:
        times = starts(pace, clock, [(10, 1), (10, 1), (10, 1)])
        return times[2] - times[1]

    full = gap()
    sent_at = clock.now
    for _ in range(8):
        clock.sleep(0.01)
        pace.slow_down(sent_at)
    assert gap() == pytest.approx(2 * full, rel=0.1)
    pace.slow_down(clock.now)
    assert gap() > 3 * full
    clock.sleep(120.0)
    assert gap() == pytest.approx(full)


def test_a_quota_that_the_service_names_is_kept_to_if_it_is_lower() -> None:
    clock = Clock()
    pace = limiter(clock, items=3_000)
    pace.learn(100.0)
    pace.learn(9_000.0)
    assert pace.items_per_minute == 100.0
    pace.set(items_per_minute=5_000.0, tokens_per_minute=None)
    assert pace.items_per_minute == 5_000.0


@pytest.mark.parametrize(("quota", "wait"), [(600.0, 10.3), (60.0, 103.1), (math.inf, 0.0)])
def test_a_quota_that_is_changed_holds_for_what_is_on_the_schedule(
    quota: float, wait: float
) -> None:
    pace = limiter(Clock(), items=60)
    pace.take(100, 1)
    pace.set(items_per_minute=quota, tokens_per_minute=None)
    assert pace.take(1, 1) == pytest.approx(wait, abs=0.55)  # less the credit for lateness


def test_all_of_one_name_share_a_limiter_that_outlives_them() -> None:
    def shared(items: float | None, *, name: str = "shared") -> Limiter:
        default = Limiter(items_per_minute=3_000, tokens_per_minute=1_000_000)
        return shared_limiter(name, items_per_minute=items, tokens_per_minute=None, default=default)

    first = shared(None)
    second = shared(600.0)
    assert second is first
    assert shared(None).items_per_minute == 600.0
    assert shared(None, name="another").items_per_minute == 3_000
    del first, second
    gc.collect()
    assert shared(None).items_per_minute == 600.0


def test_waiting_for_the_pace_between_attempts_is_not_counted_either() -> None:
    clock = Clock()
    pace = limiter(clock, items=60)
    steps = attempts("payload", pace, retry(clock, deadline_s=60.0), items=1, tokens=1)
    assert isinstance(next(steps), Send)
    wait = steps.send(BUSY)
    assert isinstance(wait, Wait)
    clock.sleep(wait.seconds)
    pace.take(600, 1)  # others fill ten minutes of the schedule meanwhile
    step = next(steps)
    while isinstance(step, Wait):
        clock.sleep(step.seconds)
        step = next(steps)
    assert step.timeout_s > 30.0


def test_the_wait_doubles_with_full_jitter_up_to_a_bound() -> None:
    clock = Clock()
    result, waits = outcomes(clock, [BUSY] * 8 + ["done"])
    assert result == "done"
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0, 32.0]
    drawn: list[tuple[float, float]] = []
    Retry(
        timeout_s=1, deadline_s=1, jitter=lambda low, high: drawn.append((low, high)) or 0.0
    ).backoff(3)
    assert drawn == [(0.0, 4.0)]


def test_a_hint_is_waited_for_by_the_caller_and_by_all_others() -> None:
    clock = Clock()
    pace = limiter(clock)
    busy = Failure(error=RateLimited, message="429", tries=100, throttled=True, retry_after_s=21.7)
    steps = attempts("payload", pace, retry(clock), items=1, tokens=1)
    assert isinstance(next(steps), Send)
    assert steps.send(busy) == Wait(21.7)
    assert pace.take(1, 1) == pytest.approx(21.7)


def test_a_hint_of_nothing_is_still_backed_off_from() -> None:
    clock = Clock()
    again = Failure(error=RateLimited, message="429", tries=100, throttled=True, retry_after_s=0.0)
    _, waits = outcomes(clock, [again, again, again, "done"])
    assert waits == [1.0, 2.0, 4.0]


def test_a_hint_beyond_the_deadline_ends_it_at_once_and_stops_nobody_else() -> None:
    clock = Clock()
    pace = limiter(clock)
    hour = Failure(
        error=RateLimited, message="429", tries=100, throttled=True, retry_after_s=3_600.0
    )
    error, waits = outcomes(clock, [hour], pace=pace)
    assert isinstance(error, RateLimited)
    assert str(error) == "429 (the service asks to wait 3600 s)"
    assert waits == []
    assert pace.take(1, 1) == 0.0


def test_the_deadline_ends_the_attempts_with_the_kind_of_the_last_failure() -> None:
    clock = Clock()
    begin = clock.now
    error, _ = outcomes(clock, [BUSY] * 99, deadline_s=60.0)
    assert type(error) is EmbedderUnavailable
    assert clock.now - begin <= 60.0
    assert str(error) == "busy (6 attempts in 31 s)"


def test_waiting_for_the_pace_before_the_first_attempt_is_not_counted() -> None:
    clock = Clock()
    pace = limiter(clock, items=60)
    assert pace.take(600, 1) == 0.0  # ten minutes of the schedule
    result, waits = outcomes(clock, [BUSY, "done"], pace=pace, deadline_s=60.0)
    assert result == "done"
    assert waits[0] > 600


def test_an_attempt_gets_no_more_time_than_is_left() -> None:
    clock = Clock()
    steps = attempts("payload", limiter(clock), retry(clock, deadline_s=70.0), items=1, tokens=1)
    assert next(steps) == Send("payload", 60.0)
    clock.sleep(60.0)
    steps.send(BUSY)
    clock.sleep(1.0)
    assert next(steps) == Send("payload", pytest.approx(9.0), 2)


def test_a_final_failure_is_not_repeated_and_a_bad_reply_only_so_often() -> None:
    final = Failure(error=EmbeddingError, message="refused")
    error, waits = outcomes(Clock(), [final])
    assert str(error) == "refused"
    assert waits == []
    bad = Failure(error=EmbeddingError, message="bad reply", tries=3)
    error, waits = outcomes(Clock(), [bad] * 3)
    assert str(error) == "bad reply (3 attempts in 3 s)"
    assert len(waits) == 2


def test_coroutines_and_blocking_calls_take_the_same_steps() -> None:
    def script() -> Steps[str]:
        first = yield Send("a", 1.0)
        yield Wait(2.0)
        second = yield Send("b", 1.0)
        return first + second

    done: list[Any] = []

    async def asend(step: Send[str]) -> str:
        done.append(step.payload)
        return step.payload.upper()

    async def asleep(seconds: float) -> None:
        done.append(seconds)

    assert asyncio.run(adrive(script(), send=asend, sleep=asleep)) == "AB"
    assert drive(script(), send=lambda s: s.payload.upper(), sleep=done.append) == "AB"
    assert done == ["a", 2.0, "b", 2.0]


def jobs(n: int, do: Callable[[int], Steps[None]]) -> list[Steps[None]]:
    return [do(i) for i in range(n)]


def test_jobs_run_at_once_but_no_more_than_asked_for() -> None:
    together = threading.Barrier(4, timeout=5)

    def job(i: int) -> Steps[None]:
        yield Send(i, 1.0)

    # Would break if fewer than four were ever in flight together.
    in_threads(
        jobs(8, job),
        concurrency=4,
        send=lambda step: together.wait(),
        stop=threading.Event(),
        waiting=WAITING,
    )
    assert together.n_waiting == 0
    assert not ours()


def test_an_error_wakes_the_sleepers_and_is_raised_once_all_threads_are_gone() -> None:
    asleep = threading.Event()

    def job(i: int) -> Steps[None]:
        if i == 0:
            asleep.set()
            yield Wait(600.0)
        yield Send(i, 1.0)

    def send(step: Send[int]) -> None:
        asleep.wait()
        raise EmbedderUnavailable("enough")

    stop = threading.Event()
    with pytest.raises(EmbedderUnavailable, match="enough"):
        in_threads(jobs(5, job), concurrency=2, send=send, stop=stop, waiting=WAITING)
    assert not ours()


@pytest.mark.parametrize("n", [1, 3])
def test_a_run_can_be_stopped_from_elsewhere(n: int) -> None:
    stop = threading.Event()

    def job(i: int) -> Steps[None]:
        stop.set()
        yield Wait(600.0)

    with pytest.raises(Stopped):
        in_threads(jobs(n, job), concurrency=3, send=lambda step: None, stop=stop, waiting=WAITING)
    assert not ours()


def test_an_error_ends_the_tasks_of_a_coroutine_too() -> None:
    async def send(step: Send[int]) -> None:
        await asyncio.sleep(0.01)
        raise EmbedderUnavailable("enough")

    def job(i: int) -> Steps[None]:
        if i == 0:
            yield Wait(600.0)
        yield Send(i, 1.0)

    async def main() -> set[asyncio.Task[Any]]:
        with pytest.raises(EmbedderUnavailable, match="enough"):
            await in_tasks(jobs(4, job), concurrency=2, send=send, waiting=WAITING)
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(main()) == set()


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ragkit-call")]
