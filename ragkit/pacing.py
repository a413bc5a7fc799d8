"""How fast a paid service is asked, and how often again: one schedule, one retry loop.

Nothing here sleeps or sends. `Limiter` says how long to wait; `attempts` is a generator that
yields what is to be done next, `Wait` or `Send`, and is told how a `Send` went. `drive` does it
with blocking calls and `adrive` with coroutines, so both go by the same rules, and a test goes by
them with a list.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from ragkit.errors import EmbeddingError, RateLimited

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_SHARE = 0.97  # of a quota that is used: calls leave evenly but arrive a little less so
_CREDIT_S = 0.5  # of lateness that may be made up for, or every late start would cost rate
_SLOWEST = 1 / 16  # of the pace, after 429s without a hint
_RECOVERY_S = 120.0  # from a standstill back to full pace
_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 32.0


class Limiter:
    """One schedule for all who share a quota: items and tokens per minute, evenly spaced.

    A call takes its time on the schedule when it starts, so that a burst is never sent and a
    sliding minute never holds more than the quota. Safe for threads.

    Args:
        items_per_minute: Quota; `math.inf` for none.
        tokens_per_minute: Quota; `math.inf` for none.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        items_per_minute: float,
        tokens_per_minute: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._items = _Meter(items_per_minute)
        self._tokens = _Meter(tokens_per_minute)
        self._paused_until = self._slowed_at = -float("inf")
        self._slowed_to = 1.0

    @property
    def items_per_minute(self) -> float:
        """The quota as it is known now."""
        return self._items.per_minute

    @property
    def tokens_per_minute(self) -> float:
        """The quota as it is known now."""
        return self._tokens.per_minute

    def set(self, *, items_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Change the quotas that are given; what is on the schedule already moves with them."""
        with self._lock:
            now = self._clock()
            if items_per_minute is not None:
                self._items.change(items_per_minute, now)
            if tokens_per_minute is not None:
                self._tokens.change(tokens_per_minute, now)

    def take(self, items: int, tokens: int, *, ahead_s: float = 0.0) -> float:
        """Take a place on the schedule.

        Args:
            items: Of the call.
            tokens: Of the call.
            ahead_s: How far ahead of the schedule the call may go: a search need not queue
                behind an indexing run.

        Returns:
            0.0: the place is taken, go. Otherwise the seconds to wait before asking again.
        """
        with self._lock:
            now = self._clock()
            scheduled = max(self._items.free_at, self._tokens.free_at) - ahead_s
            wait = max(scheduled, self._paused_until) - now
            if wait > 0:
                return wait
            pace = self._pace(now)
            self._items.book(items, now, pace)
            self._tokens.book(tokens, now, pace)
            return 0.0

    def pause(self, seconds: float) -> None:
        """Let nobody start within the next seconds: the service asked for it."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def slow_down(self, sent_at: float) -> None:
        """Halve the pace: a call sent at that time was too much, and nobody said for how long.

        Calls sent before the last halving say nothing new. The pace recovers with time.
        """
        with self._lock:
            now = self._clock()
            if sent_at > self._slowed_at:
                self._slowed_to = max(_SLOWEST, self._pace(now) / 2)
                self._slowed_at = now

    def learn(self, items_per_minute: float) -> None:
        """Keep to a quota that the service named, where it is below the one assumed."""
        with self._lock:
            self._items.per_minute = min(self._items.per_minute, items_per_minute)

    def _pace(self, now: float) -> float:
        return min(1.0, self._slowed_to + (now - self._slowed_at) / _RECOVERY_S)


class _Meter:
    """A schedule in one unit."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self.free_at = -float("inf")

    def change(self, per_minute: float, now: float) -> None:
        if self.free_at > now:
            self.free_at = now + (self.free_at - now) * (self.per_minute / per_minute)
        self.per_minute = per_minute

    def book(self, amount: int, now: float, pace: float) -> None:
        seconds = amount * 60.0 / (self.per_minute * _SHARE * pace)
        self.free_at = max(self.free_at, now - _CREDIT_S) + seconds


_shared: dict[str, Limiter] = {}  # kept: the quota outlives each embedder
_shared_lock = threading.Lock()


def shared_limiter(
    name: str, *, items_per_minute: float | None, tokens_per_minute: float | None, default: Limiter
) -> Limiter:
    """The process's limiter of that name; `default` becomes it if there is none yet.

    A quota that is given replaces the shared one for all; None leaves it as it is.
    """
    with _shared_lock:
        limiter = _shared.setdefault(name, default)
    limiter.set(items_per_minute=items_per_minute, tokens_per_minute=tokens_per_minute)
    return limiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong with one attempt, and what to do about it; holds nothing of the request.

    Attributes:
        error: What it becomes when it is not tried again.
        message: Says what came and what to do.
        tries: Attempts in all that a failure of this kind is worth; 1 is final.
        retry_after_s: The wait that the service asked for.
        throttled: Whether the pace was too high, so that all callers are concerned.
        items_per_minute: A quota that the service named.
    """

    error: type[EmbeddingError]
    message: str
    tries: int = 1
    retry_after_s: float | None = None
    throttled: bool = False
    items_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep, then go on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Send(Generic[T]):
    """Make one attempt within so many seconds and answer with what came, or with a `Failure`."""

    payload: T
    timeout_s: float
    tried: int = 1  # which attempt it is


Steps: TypeAlias = Generator[Wait | Send[Any], Any, T]
"""What to do next, until it returns its result; answered with the outcome of each `Send`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long an attempt, and all attempts of one call together, may take.

    Attributes:
        timeout_s: Of one attempt.
        deadline_s: From the first attempt to the last; waiting for the pace is not counted.
        jitter: A random number between two bounds; the default spreads callers evenly.
        clock: Seconds, monotonic.
    """

    timeout_s: float
    deadline_s: float
    jitter: Callable[[float, float], float] = random.uniform
    clock: Callable[[], float] = time.monotonic

    def backoff(self, tried: int) -> float:
        """Full jitter: anything up to a bound that doubles with each attempt."""
        return self.jitter(0.0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** (tried - 1)))


def attempts(
    payload: Any,
    limiter: Limiter,
    retry: Retry,
    *,
    items: int,
    tokens: int,
    ahead_s: float = 0.0,
) -> Steps[Any]:
    """Send until it succeeds, is not worth another attempt, or the deadline passes.

    Raises:
        EmbeddingError: Of the kind the last failure named.
    """
    deadline = float("inf")
    for tried in itertools.count(1):
        while (wait := limiter.take(items, tokens, ahead_s=ahead_s)) > 0:
            deadline += wait  # the pace is ours, and no sign that the service fails
            yield Wait(wait)
        sent_at = retry.clock()
        deadline = min(deadline, sent_at + retry.deadline_s)
        timeout_s = max(1.0, min(retry.timeout_s, deadline - sent_at))
        outcome = yield Send(payload, timeout_s, tried)
        if not isinstance(outcome, Failure):
            return outcome
        wait = _wait_after(outcome, retry.backoff(tried))
        left = deadline - retry.clock()
        if tried >= outcome.tries or wait >= left:
            raise _final(outcome, tried, retry.deadline_s - left)
        if outcome.throttled:
            _tell(limiter, outcome, wait, sent_at)
        _logger.info("%s; attempt %d follows in %.1f s", outcome.message, tried + 1, wait)
        yield Wait(wait)
    raise AssertionError("count() does not end")


def _wait_after(failure: Failure, backoff_s: float) -> float:
    if failure.retry_after_s is None:
        return backoff_s
    # A service that says "at once" over and over is still backed off from.
    return max(failure.retry_after_s, backoff_s)


def _tell(limiter: Limiter, failure: Failure, wait_s: float, sent_at: float) -> None:
    """One caller was told to slow down: that holds for all."""
    if failure.items_per_minute is not None:
        limiter.learn(failure.items_per_minute)
    if failure.retry_after_s is None:
        limiter.slow_down(sent_at)
    limiter.pause(wait_s)


def _final(failure: Failure, tried: int, seconds: float) -> EmbeddingError:
    message = failure.message
    if tried > 1:
        message += f" ({tried} attempts in {seconds:.0f} s)"
    elif failure.retry_after_s is not None and issubclass(failure.error, RateLimited):
        message += f" (the service asks to wait {failure.retry_after_s:.0f} s)"
    return failure.error(message)


def drive(
    steps: Steps[T],
    *,
    send: Callable[[Send[Any]], Any],
    sleep: Callable[[float], None],
) -> T:
    """Do the steps with blocking calls."""
    outcome: Any = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as done:
            result: T = done.value
            return result
        if isinstance(step, Send):
            outcome = send(step)
        else:
            sleep(step.seconds)


async def adrive(
    steps: Steps[T],
    *,
    send: Callable[[Send[Any]], Awaitable[Any]],
    sleep: Callable[[float], Awaitable[None]],
) -> T:
    """Do the steps with coroutines."""
    outcome: Any = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as done:
            result: T = done.value
            return result
        if isinstance(step, Send):
            outcome = await send(step)
        else:
            await sleep(step.seconds)
