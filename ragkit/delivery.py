"""Ask a store again where asking again may help: with backoff, jitter and a deadline."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from json import JSONDecodeError
from typing import Any, TypeVar

import grpc
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from ragkit.errors import RagkitError, StoreDenied, StoreFull, StoreUnavailable
from ragkit.failures import Failure, kind_of, reason, retry_after_s
from ragkit.fanout import Stopped
from ragkit.pacing import Retry, Send, Steps, Wait, adrive, drive

_logger = logging.getLogger(__name__)

T = TypeVar("T")

# A run of indexing may wait for a server that is being restarted, a search has somebody waiting.
WRITING = Retry(timeout_s=60.0, deadline_s=300.0)
READING = Retry(timeout_s=60.0, deadline_s=120.0)
SEARCHING = Retry(timeout_s=30.0, deadline_s=30.0)

# How many attempts a failure of each kind is worth within the deadline; others are final.
_TRIES = {Failure.BUSY: 1_000, Failure.UNREACHABLE: 1_000, Failure.BROKEN: 5}
# What qdrant-client raises. An answer that is not JSON leaves the client of REST as it comes.
CLIENT_ERRORS = (ApiException, QdrantException, grpc.RpcError, JSONDecodeError)


def deliver(
    action: Callable[[], T],
    *,
    what: str,
    retry: Retry = READING,
    sleep: Callable[[float], None] = time.sleep,
    stop: threading.Event | None = None,
) -> T:
    """Call until it succeeds, is not worth another attempt, or the deadline passes.

    Args:
        action: The call; made again, it must have the effect of having been made once.
        what: What it does, for the error: "searching collection 'notes'".
        retry: The deadline; each attempt's own is the client's.
        sleep: How to wait between attempts.
        stop: Set by whoever wants no further attempt.

    Raises:
        Stopped: `stop` was set.
        StoreUnavailable: It went on failing in ways that another attempt may mend.
        StoreDenied: The server wants another key.
        StoreFull: The server has no disk space left.
        Exception: Whatever else the client raised: the request itself is at fault.
    """

    def send(_: Send[Any]) -> Any:
        if stop is not None and stop.is_set():
            raise Stopped
        try:
            return action()
        except CLIENT_ERRORS as exc:
            return _Failed(exc)

    def pause(seconds: float) -> None:
        if stop is None:
            sleep(seconds)
        else:
            stop.wait(seconds)

    result: T = drive(_steps(what, retry), send=send, sleep=pause)
    return result


async def adeliver(
    action: Callable[[], Awaitable[T]],
    *,
    what: str,
    retry: Retry = READING,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """As `deliver`, with a coroutine function."""

    async def send(_: Send[Any]) -> Any:
        try:
            return await action()
        except CLIENT_ERRORS as exc:
            return _Failed(exc)

    result: T = await adrive(_steps(what, retry), send=send, sleep=sleep)
    return result


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _steps(what: str, retry: Retry) -> Steps[Any]:
    started = retry.clock()
    failures: Counter[Failure] = Counter()
    for tried in itertools.count(1):
        outcome = yield Send(None, retry.timeout_s, tried)
        if not isinstance(outcome, _Failed):
            return outcome
        error = outcome.error
        kind = kind_of(error)
        failures[kind] += 1
        if kind not in _TRIES:
            raise final(error, what)
        wait = max(retry_after_s(error) or 0.0, retry.backoff(tried))
        spent = retry.clock() - started
        if failures[kind] >= _TRIES[kind] or spent + wait >= retry.deadline_s:
            tally = f"{tried} attempt{'s' if tried > 1 else ''} in {spent:.0f} s"
            raise StoreUnavailable(f"{what} failed: {reason(error)} ({tally})") from error
        _logger.info("%s: %s; attempt %d in %.1f s", what, reason(error), tried + 1, wait)
        yield Wait(wait)
    raise AssertionError("count() does not end")


def final(error: Exception, what: str) -> Exception:
    """The error to raise for one that no further attempt mends; often itself."""
    mapped: RagkitError
    kind = kind_of(error)
    if kind is Failure.DENIED:
        mapped = StoreDenied(f"{what} was denied: {reason(error)}: check the API key")
    elif kind is Failure.FULL and not isinstance(error, RagkitError):
        mapped = StoreFull(f"{what} failed: {reason(error)}")
    else:
        return error
    mapped.__cause__ = error
    return mapped
