from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from ragkit.pipeline import batched, in_background


def test_items_arrive_in_order() -> None:
    with in_background((n for n in range(100)), ahead=3) as items:
        assert list(items) == list(range(100))


def test_a_stage_runs_at_most_so_many_items_ahead() -> None:
    made: list[int] = []

    def numbers() -> Generator[int, None, None]:
        for n in range(100):
            made.append(n)
            yield n

    with in_background(numbers(), ahead=2) as items:
        for n in items:
            # Two wait in the queue and one is in the maker's hand, waiting for a place.
            assert len(made) <= n + 4
    assert len(made) == 100


def test_an_error_reaches_the_reader_after_the_items_before_it() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise RuntimeError("broken stage")

    with in_background(failing(), ahead=2) as items:
        assert next(items) == 1
        with pytest.raises(RuntimeError, match="broken stage"):
            next(items)


def test_a_reader_that_leaves_stops_the_stage_and_closes_its_generator() -> None:
    closed = threading.Event()

    def endless() -> Generator[int, None, None]:
        n = 0
        try:
            while True:
                yield n
                n += 1
        finally:
            closed.set()

    with in_background(endless(), ahead=2) as items:
        assert next(items) == 0
    assert closed.wait(5)
    assert not any(thread.name == "ragkit-stage" for thread in threading.enumerate())


def test_batches_are_full_but_for_the_last() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []
