"""How long searches take: one after the other, by one client."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ragkit.benchmark.rows import MeasureCallback

Answer = TypeVar("Answer")
Kept = TypeVar("Kept")

_WARM_UP = 50  # searches of each kind that are not timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Generic[Kept]):
    """The times of one kind of search, and what the searches found.

    Attributes:
        p50_ms: The median time of a search, in milliseconds; of several runs the median.
        p95_ms: What 95 of 100 searches stay below; likewise.
        qps: Searches a second, one after the other; likewise.
        answers: What was kept of the first run's answers, query by query.
    """

    p50_ms: float
    p95_ms: float
    qps: float
    answers: Sequence[Kept]


def timed(
    searches: Sequence[Callable[[int], Answer]],
    queries: int,
    *,
    keep: Callable[[Answer, int], Kept],
    runs: int = 3,
    progress: MeasureCallback | None = None,
) -> list[Timing[Kept]]:
    """Time several kinds of search over the same queries.

    Each kind is warmed up, then run over all queries; then the whole round is run again, so that
    what slows the machine down for a while does not fall upon one kind alone.

    Args:
        searches: Each takes the number of a query and searches for it.
        queries: How many there are.
        keep: Takes of an answer, given the query's number, what is kept; not part of the time.
        runs: Rounds, at least 3.
        progress: Told of each run of each kind.

    Raises:
        ValueError: Fewer than 3 rounds, which say nothing of their spread, or no query.
    """
    if runs < 3 or queries < 1:
        raise ValueError(f"expected at least 3 runs over at least 1 query, got {runs}, {queries}")
    seconds = np.empty((len(searches), runs, queries))
    answers: list[list[Kept]] = [[] for _ in searches]
    for run in range(runs):
        for kind, search in enumerate(searches):
            if run == 0:
                for query in range(min(_WARM_UP, queries)):
                    search(query)
            for query in range(queries):
                started = time.perf_counter()
                answer = search(query)
                seconds[kind, run, query] = time.perf_counter() - started
                if run == 0:
                    answers[kind].append(keep(answer, query))
            if progress is not None:
                progress("searching", run * len(searches) + kind + 1, runs * len(searches))
    return [_timing(seconds[kind], found) for kind, found in enumerate(answers)]


def _timing(seconds: NDArray[np.float64], answers: list[Kept]) -> Timing[Kept]:
    """Seconds of shape (runs, queries)."""
    p50, p95 = np.median(np.quantile(seconds, [0.5, 0.95], axis=1), axis=1)
    return Timing(
        p50_ms=float(p50) * 1e3,
        p95_ms=float(p95) * 1e3,
        qps=float(np.median(seconds.shape[1] / seconds.sum(axis=1))),
        answers=answers,
    )
