"""The schedule of attempts, by a clock that no test waits for."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from faults import ERRORS, Clock, answered
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from ragkit.delivery import READING, WRITING, adeliver, deliver
from ragkit.errors import StoreDenied, StoreFull, StoreUnavailable
from ragkit.failures import StillQueued
from ragkit.pacing import Retry

PASSING = (
    "408",
    "429",
    "502",
    "503",
    "retry-after",
    "connect",
    "read timeout",
    "disconnected",
    "unavailable",
    "deadline exceeded",
    "exhausted",
)


class Store:
    """Fails as it is told to, then answers."""

    def __init__(self, *errors: BaseException, takes_s: float = 0.0) -> None:
        self.clock = Clock()
        self.asked_at: list[float] = []
        self._errors = list(errors)
        self._takes_s = takes_s

    def __call__(self) -> str:
        self.asked_at.append(self.clock())
        self.clock.pass_by(self._takes_s)
        if self._errors:
            raise self._errors.pop(0)
        return "done"

    async def acall(self) -> str:
        return self()


def highest(low: float, high: float) -> float:
    return high


def lowest(low: float, high: float) -> float:
    return low


def ask(
    store: Store,
    *,
    deadline_s: float = 300.0,
    jitter: Callable[[float, float], float] = highest,
) -> str:
    retry = Retry(timeout_s=60.0, deadline_s=deadline_s, jitter=jitter, clock=store.clock)
    return deliver(store, what="asking", retry=retry, sleep=store.clock.sleep)


def aask(store: Store, *, deadline_s: float = 300.0) -> str:
    async def sleep(seconds: float) -> None:
        store.clock.sleep(seconds)

    async def run() -> str:
        retry = Retry(timeout_s=60.0, deadline_s=deadline_s, jitter=highest, clock=store.clock)
        return await adeliver(store.acall, what="asking", retry=retry, sleep=sleep)

    return asyncio.run(run())


WAYS = pytest.mark.parametrize("deliver_", [ask, aask], ids=["sync", "async"])


@WAYS
def test_what_succeeds_at_once_is_done_once(deliver_: Callable[..., str]) -> None:
    store = Store()
    assert deliver_(store) == "done"
    assert store.clock.waits == []
    assert len(store.asked_at) == 1


@WAYS
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(deliver_: Callable[..., str], name: str) -> None:
    store = Store(*(ERRORS[name]() for _ in range(6)))
    assert deliver_(store) == "done"
    assert len(store.asked_at) == 7


@WAYS
def test_a_write_that_is_still_queued_is_tried_again(deliver_: Callable[..., str]) -> None:
    assert deliver_(Store(StillQueued("wait_timeout"))) == "done"


@WAYS
def test_waits_double_up_to_half_a_minute(deliver_: Callable[..., str]) -> None:
    store = Store(*(ERRORS["503"]() for _ in range(8)))
    assert deliver_(store) == "done"
    assert store.clock.waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0, 32.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8))
def test_a_wait_is_anything_from_nothing_to_its_bound(failures: int) -> None:
    store = Store(*(ERRORS["503"]() for _ in range(failures)))
    retry = Retry(timeout_s=60.0, deadline_s=300.0, clock=store.clock)
    assert deliver(store, what="asking", retry=retry, sleep=store.clock.sleep) == "done"
    bounds = [min(32.0, 2.0**n) for n in range(failures)]
    assert len(store.clock.waits) == failures
    assert all(0 <= wait <= high for wait, high in zip(store.clock.waits, bounds, strict=True))


def test_two_callers_do_not_come_back_at_the_same_time() -> None:
    stores = [Store(ERRORS["503"](), ERRORS["503"]()) for _ in range(20)]
    for store in stores:
        retry = Retry(timeout_s=60.0, deadline_s=300.0, clock=store.clock)
        deliver(store, what="asking", retry=retry, sleep=store.clock.sleep)
    assert len({tuple(store.clock.waits) for store in stores}) == len(stores)


@WAYS
def test_a_server_that_says_when_is_not_asked_before(deliver_: Callable[..., str]) -> None:
    store = Store(ResourceExhaustedResponse("too much", 11), ResourceExhaustedResponse("", 0))
    assert deliver_(store) == "done"
    assert store.clock.waits == [11.0, 2.0]  # "at once", over and over, is still backed off from


def test_the_least_jitter_does_not_undercut_what_the_server_says() -> None:
    store = Store(ResourceExhaustedResponse("too much", 11))
    assert ask(store, jitter=lowest) == "done"
    assert store.clock.waits == [11.0]


@WAYS
def test_attempts_end_with_the_deadline(deliver_: Callable[..., str]) -> None:
    store = Store(*(ERRORS["503"]() for _ in range(1000)))
    with pytest.raises(StoreUnavailable, match="asking failed: Shard temporarily unavailable"):
        deliver_(store, deadline_s=30.0)
    # 1 + 2 + 4 + 8 s; after 16 more it would be too late
    assert store.asked_at == [0.0, 1.0, 3.0, 7.0, 15.0]


@WAYS
def test_the_time_of_the_attempts_counts(deliver_: Callable[..., str]) -> None:
    store = Store(*(ERRORS["read timeout"]() for _ in range(1000)), takes_s=60.0)
    with pytest.raises(StoreUnavailable, match=r"5 attempts in 315 s"):
        deliver_(store)
    assert store.asked_at == [0.0, 61.0, 123.0, 187.0, 255.0]


@WAYS
def test_a_server_that_asks_for_more_than_the_deadline_is_not_waited_for(
    deliver_: Callable[..., str],
) -> None:
    store = Store(ResourceExhaustedResponse("come back tomorrow", 86_400))
    with pytest.raises(StoreUnavailable, match=r"come back tomorrow \(1 attempt in 0 s\)"):
        deliver_(store)
    assert store.clock.waits == []


@WAYS
def test_an_error_of_the_servers_own_is_tried_five_times(deliver_: Callable[..., str]) -> None:
    store = Store(*(ERRORS["500"]() for _ in range(5)))
    with pytest.raises(StoreUnavailable, match="something broke"):
        deliver_(store)
    assert len(store.asked_at) == 5
    assert deliver_(Store(*(ERRORS["500"]() for _ in range(4)))) == "done"


def test_one_error_of_the_servers_own_after_a_long_outage_is_not_the_last() -> None:
    outage = [ERRORS["connect"]() for _ in range(9)]
    assert ask(Store(*outage, ERRORS["500"](), ERRORS["503"](), ERRORS["500"]())) == "done"


@WAYS
@pytest.mark.parametrize("name", ["507", "disk full", "quota"])
def test_a_full_disk_is_told_at_once(deliver_: Callable[..., str], name: str) -> None:
    error = ERRORS[name]()
    store = Store(error)
    with pytest.raises(StoreFull, match="asking failed: ") as caught:
        deliver_(store)
    assert caught.value.__cause__ is error
    assert len(store.asked_at) == 1


@WAYS
@pytest.mark.parametrize("status", [401, 403])
def test_a_denied_key_is_told_at_once(deliver_: Callable[..., str], status: int) -> None:
    error = answered(status, "Invalid API key or JWT")
    store = Store(error)
    with pytest.raises(StoreDenied, match="asking was denied: Invalid API key or JWT") as caught:
        deliver_(store)
    assert caught.value.__cause__ is error
    assert len(store.asked_at) == 1


@WAYS
@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_what_the_server_refuses_stays_the_clients_own_error(
    deliver_: Callable[..., str], status: int
) -> None:
    error = answered(status, "no")
    store = Store(error)
    with pytest.raises(type(error)) as caught:
        deliver_(store)
    assert caught.value is error
    assert len(store.asked_at) == 1


@WAYS
def test_an_error_of_the_embedded_engine_stays_as_it_is(deliver_: Callable[..., str]) -> None:
    error = StoreFull("8 MB are left")
    with pytest.raises(StoreFull) as caught:
        deliver_(Store(error))
    assert caught.value is error


@WAYS
@pytest.mark.parametrize("error", [ValueError("blank"), KeyboardInterrupt(), RuntimeError("bug")])
def test_what_no_store_raises_passes_through(
    deliver_: Callable[..., str], error: BaseException
) -> None:
    store = Store(error)
    with pytest.raises(type(error)) as caught:
        deliver_(store)
    assert caught.value is error
    assert len(store.asked_at) == 1


@WAYS
def test_the_last_error_is_the_cause(deliver_: Callable[..., str]) -> None:
    errors = [ERRORS["503"]() for _ in range(100)]
    store = Store(*errors)
    with pytest.raises(StoreUnavailable) as caught:
        deliver_(store)
    assert caught.value.__cause__ is errors[len(store.asked_at) - 1]


def test_the_errors_are_pickled_for_other_processes() -> None:
    for name in ("503", "507"):
        with pytest.raises((StoreUnavailable, StoreFull)) as caught:
            ask(Store(*(ERRORS[name]() for _ in range(100))))
        again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  (of our own making)
        assert str(again) == str(caught.value)


def test_a_search_gives_up_before_a_write_does() -> None:
    assert 0 < READING.deadline_s < WRITING.deadline_s


def test_an_interrupted_wait_ends_the_delivery() -> None:
    store = Store(*(ERRORS["503"]() for _ in range(100)))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(store, what="asking", retry=WRITING, sleep=interrupted)
    assert len(store.asked_at) == 1


def test_a_cancelled_delivery_asks_no_more() -> None:
    store = Store(*(ERRORS["503"]() for _ in range(100)))

    async def run() -> None:
        retry = Retry(timeout_s=60.0, deadline_s=300.0, jitter=highest)
        task = asyncio.create_task(adeliver(store.acall, what="asking", retry=retry))
        while not store.asked_at:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert len(store.asked_at) == 1


def test_a_delivery_cancelled_during_its_call_cancels_the_call() -> None:
    seen: list[str] = []

    async def hangs() -> None:
        seen.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def run() -> None:
        task = asyncio.create_task(adeliver(hangs, what="asking"))
        while not seen:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert seen == ["asked", "cancelled"]


def test_deliveries_on_one_event_loop_do_not_wait_for_each_other() -> None:
    order: list[str] = []

    async def one(name: str, *errors: Any) -> None:
        store = Store(*errors)
        retry = Retry(timeout_s=60.0, deadline_s=300.0, jitter=lambda low, high: 0.01)
        await adeliver(store.acall, what="asking", retry=retry)
        order.append(name)

    async def run() -> None:
        await asyncio.gather(one("slow", ERRORS["503"](), ERRORS["503"]()), one("quick"))

    asyncio.run(run())
    assert order == ["quick", "slow"]
