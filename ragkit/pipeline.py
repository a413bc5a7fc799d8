"""Run a stage of work beside its consumer, a bounded number of items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1  # how often a full stage looks whether its consumer has gone
_JOIN_S = 5.0  # how long a leaving consumer waits for a call in flight


@contextmanager
def in_background(items: Generator[T, None, None], *, ahead: int) -> Iterator[Iterator[T]]:
    """Draw from a generator in a thread of its own, at most `ahead` items ahead of the reader.

    What the generator raises, the reader gets at the same place. When the reader leaves, the
    generator is closed before its next item.
    """
    stage = _Stage(items, ahead)
    thread = threading.Thread(target=stage.run, name="ragkit-stage", daemon=True)
    thread.start()
    try:
        yield iter(stage)
    finally:
        stage.stopped.set()
        thread.join(_JOIN_S)


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class _End:
    pass


class _Stage(Generic[T]):
    def __init__(self, items: Generator[T, None, None], ahead: int) -> None:
        self.stopped = threading.Event()
        self._items = items
        self._queue: queue.Queue[T | _Raised | _End] = queue.Queue(maxsize=ahead)

    def run(self) -> None:
        try:
            with closing(self._items):
                for item in self._items:
                    if not self._put(item):
                        return
            self._put(_End())
        except BaseException as exc:  # noqa: BLE001  (handed to the reader, who raises it)
            self._put(_Raised(exc))

    def __iter__(self) -> Iterator[T]:
        while not self.stopped.is_set():
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, _Raised):
                raise item.error
            if isinstance(item, _End):
                return
            yield item

    def _put(self, item: T | _Raised | _End) -> bool:
        while not self.stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False


def batched(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def batched_within(
    items: Iterable[T], *, weigh: Callable[[T], int], most: int, heaviest: int
) -> Generator[list[T], None, None]:
    """Lists of at most `most` items that weigh at most `heaviest`; a heavier one stands alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        weight = weigh(item)
        if batch and (len(batch) == most or total + weight > heaviest):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += weight
    if batch:
        yield batch
