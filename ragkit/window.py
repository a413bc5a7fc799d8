"""Several writes on their way at once, taken to their end in the order in which they began."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")

_JOIN_S = 15.0  # how long one that leaves waits for what is on its way


class Window(Generic[T]):
    """At most `width` writes at once, each in a thread of its own; one at a time in the caller's.

    The threads are daemons, so that a process can end while a server does not answer. After
    `leave` none of them begins anything new: what goes on for longer than one request has to look
    at `stopped` before the next.

    Args:
        width: How many; with 1 each write is done when `begin` returns.
    """

    def __init__(self, width: int) -> None:
        self.stopped = threading.Event()
        self._width = width
        self._under_way: deque[tuple[T, Future[None]]] = deque()

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def is_full(self) -> bool:
        """Whether one has to be settled before another begins."""
        return len(self._under_way) >= self._width

    def begin(self, item: T, write: Callable[[], None]) -> None:
        """Begin a write of what `item` stands for."""
        future: Future[None] = Future()

        def work() -> None:
            try:
                write()
            except BaseException as exc:  # noqa: BLE001  (handed to whoever settles it)
                future.set_exception(exc)
            else:
                future.set_result(None)

        self._under_way.append((item, future))
        if self._width == 1:
            work()
        else:
            threading.Thread(target=work, name="ragkit-write", daemon=True).start()

    def settle(self) -> tuple[T, BaseException | None]:
        """Wait for the oldest; returns it, and what it failed with."""
        item, future = self._under_way[0]
        error = future.exception()
        self._under_way.popleft()
        return item, error

    def leave(self) -> None:
        """Begin nothing new, and give what is on its way a little time."""
        self.stopped.set()
        wait([future for _, future in self._under_way], timeout=_JOIN_S)
