"""Paired timings: two ways of doing one thing, in turn, in one process; the ratio is what counts.

Absolute times differ from machine to machine and from hour to hour; the ratio of two runs made
one after the other holds much better. Nothing is asserted about time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture


def paired(
    benchmark: BenchmarkFixture,
    *,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int,
    limit: str,
) -> None:
    """Time both in turn, after one warm-up each, and print the median of the pairwise ratios.

    Args:
        benchmark: Its record gets the times of `ours`, and the ratio as `extra_info`.
        ours: What ragkit does.
        theirs: The raw engine, or a peer, doing the same.
        rounds: Pairs.
        limit: What the ratio is meant to keep to, for the reader: "at most 1.2".
    """
    ours(), theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    ratios = sorted(own / other for own, other in pairs)
    median = statistics.median(ratios)
    own, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    benchmark.extra_info.update(ratio=round(median, 3), limit=limit)
    print(
        f"\n{benchmark.name}: {median:.2f} x (from {ratios[0]:.2f} to {ratios[-1]:.2f} in "
        f"{rounds} pairs; meant to be {limit}); {own * 1e3:.1f} ms against {other * 1e3:.1f} ms"
    )
    benchmark.pedantic(ours, rounds=1)


def _seconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
