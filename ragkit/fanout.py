"""Do several jobs of `ragkit.pacing` at once, in threads or in tasks, and leave none behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from ragkit.pacing import Send, Steps, adrive, drive

Waiting: TypeAlias = Callable[[], AbstractContextManager[None]]

_JOIN_S = 5.0  # how long an interrupted caller waits for the attempts in flight


class Stopped(Exception):
    """A job was given up because another one failed, or the caller left."""


def in_threads(
    jobs: Sequence[Steps[None]],
    *,
    concurrency: int,
    send: Callable[[Send[Any]], Any],
    stop: threading.Event,
    waiting: Waiting,
) -> None:
    """Run jobs, so many at a time, until all are done or one raises.

    After an error, or when `stop` is set from elsewhere, nothing new is sent; attempts in flight
    end by themselves and count. The threads are daemons, so that a process may end without them.

    Args:
        jobs: To be driven.
        concurrency: Threads at the most.
        send: Makes an attempt; called in any of the threads.
        stop: Ends the run early.
        waiting: Entered around each sleep, for whoever counts the time.

    Raises:
        Stopped: `stop` was set from elsewhere.
        BaseException: The first that a job raised.
    """

    def sleep(seconds: float) -> None:
        with waiting():
            if stop.wait(seconds):
                raise Stopped

    def send_unless_stopped(step: Send[Any]) -> Any:
        if stop.is_set():  # a job that never sleeps would go on for long
            raise Stopped
        return send(step)

    if len(jobs) == 1:  # in the caller's own thread
        drive(jobs[0], send=send_unless_stopped, sleep=sleep)
        return
    pending = iter(jobs)  # of a list: `next` is safe to call from several threads
    errors: list[BaseException] = []

    def work(ended: threading.Event) -> None:
        try:
            while not stop.is_set() and (job := next(pending, None)) is not None:
                drive(job, send=send_unless_stopped, sleep=sleep)
        except BaseException as exc:  # noqa: BLE001  (handed to the caller, who raises it)
            errors.append(exc)
            stop.set()
        finally:
            ended.set()

    # Not `join`: Python 3.11 takes a thread for ended whose join Ctrl-C has interrupted.
    running = [threading.Event() for _ in range(min(concurrency, len(jobs)))]
    try:
        for n, ended in enumerate(running):
            name = f"ragkit-call-{n}"
            threading.Thread(target=work, args=(ended,), name=name, daemon=True).start()
        for ended in running:
            ended.wait()
    except BaseException:
        stop.set()
        _leave(running)
        raise
    for error in errors:
        raise error
    if stop.is_set():
        raise Stopped


async def in_tasks(
    jobs: Sequence[Steps[None]],
    *,
    concurrency: int,
    send: Callable[[Send[Any]], Awaitable[Any]],
    waiting: Waiting,
) -> None:
    """As `in_threads`; a cancelled caller cancels what is in flight.

    Raises:
        BaseException: The first that a job raised.
    """
    pending = iter(jobs)
    errors: list[Exception] = []
    stop = asyncio.Event()

    async def sleep(seconds: float) -> None:
        with waiting():
            try:
                await asyncio.wait_for(stop.wait(), seconds)
            except TimeoutError:
                return
        raise Stopped

    async def send_unless_stopped(step: Send[Any]) -> Any:
        if stop.is_set():
            raise Stopped
        return await send(step)

    async def work() -> None:
        try:
            while not stop.is_set() and (job := next(pending, None)) is not None:
                await adrive(job, send=send_unless_stopped, sleep=sleep)
        except Exception as exc:  # noqa: BLE001  (raised below, once the others have ended)
            errors.append(exc)
            stop.set()

    await asyncio.gather(*(work() for _ in range(min(concurrency, len(jobs)))))
    for error in errors:
        raise error


def _leave(running: Sequence[threading.Event]) -> None:
    until = time.monotonic() + _JOIN_S
    for ended in running:
        ended.wait(max(0.0, until - time.monotonic()))
