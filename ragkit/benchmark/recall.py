"""Recall against exact search, and what it costs, for one search setting after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ragkit.benchmark.environment import check_ready, describe, idle_note, subject_of
from ragkit.benchmark.exact import Truth
from ragkit.benchmark.originals import Originals, originals_of
from ragkit.benchmark.queries import Queries, sample_queries
from ragkit.benchmark.rows import MeasureCallback, Rows
from ragkit.benchmark.searches import (
    Measured,
    Searches,
    Setting,
    check_exact,
    current_setting,
    measured,
    settings_of,
)
from ragkit.collection import Collection
from ragkit.search_options import CALL, settle
from ragkit.search_request import Searchable

LIMITS = (10, 20, 50, 100)
TARGET = 0.95

_METHOD = (
    "Recall is the part of a query's nearest neighbours by exact search over the original vectors "
    "that the search finds; neighbours within 1e-6 of the last one's score count as found.",
    "The exact neighbours are computed outside the engine, by float32 products with every vector, "
    "and the engine's own exact search was checked against them.",
    "Measured is the search by vectors (mode dense) for ids alone: no embedding, no payload.",
    "Times are of one client that searches one query after the other; medians of {runs} runs, all "
    "settings in turn, each warmed up.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRow:
    """One setting at one limit.

    Attributes:
        limit: How many neighbours are asked for.
        oversampling: How many times as many candidates are compared again; None where nothing is
            quantized.
        rescore: Whether they are compared again with the original vectors; None likewise.
        hnsw_ef: Candidates kept in the graph; None for what ragkit takes where nothing is said.
        recall: The mean over the queries, 0 to 1.
        recall_low: Lower end of the 95% interval of that mean.
        recall_high: Its upper end.
        p50_ms: Median time of a search, in milliseconds.
        p95_ms: What 95 of 100 searches stay below.
        qps: Searches a second, one after the other.
        current: Whether that is how the collection is searched now, without being told.
        exact: Whether all originals are compared, past graph and quantization: so only where the
            collection's own search is set to it.
    """

    limit: int
    oversampling: float | None
    rescore: bool | None
    hnsw_ef: int | None
    recall: float
    recall_low: float
    recall_high: float
    p50_ms: float
    p95_ms: float
    qps: float
    current: bool = False
    exact: bool = False


def recall_sweep(
    collection: Collection,
    queries: Queries | None = None,
    *,
    limits: Sequence[int] = LIMITS,
    oversampling: Sequence[float] | None = None,
    rescore: Sequence[bool] | None = None,
    hnsw_ef: Sequence[int] | None = None,
    target: float = TARGET,
    sample: int = 1_000,
    runs: int = 3,
    seed: int = 0,
    progress: MeasureCallback | None = None,
) -> Rows[RecallRow]:
    """Measure recall and time of every combination of limits and search options.

    The collection's own default search is always among them (`RecallRow.current`).

    Args:
        collection: Has vectors, and nothing to optimize any more.
        queries: What to search for; None takes a sample of the passages.
        limits: How many neighbours.
        oversampling: None: 1, 2 and 3 where vectors are quantized.
        rescore: None: without and with, where vectors are quantized.
        hnsw_ef: None: that of the collection's own search.
        target: The recall wanted; kept with the rows, for who reads them.
        sample: How many passages, if no queries are given.
        runs: How often every combination is measured, at least 3 times.
        seed: Of the sample.
        progress: Told how far it is.

    Returns:
        One row for each combination, then those of the collection's own search.

    Raises:
        CollectionError: The collection is not ready to be measured, or changes meanwhile.
        CollectionMismatch: It has no vectors, or what was asked for goes with quantization.
        ValueError: An option is out of its range.
    """
    check_ready(collection)
    if not 0 < target <= 1:
        raise ValueError(f"expected a target above 0 and up to 1, got {target}")
    limits = checked_limits(limits)
    where, points = collection.searchable()
    grid = settings_of(where, oversampling=oversampling, rescore=rescore, hnsw_ef=hnsw_ef)
    now = current_setting(where)
    cells = list(product(grid if now in grid else [*grid, now], limits))
    about = describe(
        "recall",
        subject_of(collection),
        queries="",
        client=collection.client,
        method=[each.format(runs=runs) for each in _METHOD],
        settings={"target": target, "runs": runs},
    )
    with originals_of(collection, progress=progress) as originals:
        queries = queries or sample_queries(originals, sample, seed=seed)
        searches = Searches(where, points, queries)
        truth = Truth(originals, queries.vectors, max(limits), own=queries.own)
        notes = [check_exact(searches, truth, max(limits)), *_notes(where, limits, originals)]
        found = measured(searches, cells, truth, runs=runs, progress=progress)
        rows = [_row(cell, now) for cell in found]
    return Rows(rows, about=replace(about, queries=queries.origin, notes=tuple(notes)))


def cheapest(rows: Iterable[RecallRow], limit: int, target: float) -> RecallRow | None:
    """The quickest setting (by p50) that reaches the target at a limit; None if none does."""
    reaching = [row for row in rows if row.limit == limit and row.recall >= target]
    return min(reaching, key=lambda row: row.p50_ms, default=None)


def pareto(rows: Iterable[RecallRow]) -> list[RecallRow]:
    """The rows that no other beats in recall and time at once, the quickest first."""
    front: list[RecallRow] = []
    for row in sorted(rows, key=lambda row: (row.p50_ms, -row.recall)):
        if not front or row.recall > front[-1].recall:
            front.append(row)
    return front


def checked_limits(limits: Sequence[int]) -> list[int]:
    """Limits in rising order, each once.

    Raises:
        ValueError: There is none, or one is out of range.
    """
    if not limits:
        raise ValueError("expected at least one limit, got none")
    for limit in limits:
        settle((CALL, {"limit": limit}))
    return sorted(set(limits))


def _row(cell: Measured, now: Setting) -> RecallRow:
    setting, timing = cell.setting, cell.timing
    mean, low, high = cell.recall
    return RecallRow(
        limit=cell.limit,
        oversampling=None if setting.exact else setting.oversampling,
        rescore=None if setting.exact else setting.rescore,
        hnsw_ef=None if setting.exact else setting.hnsw_ef,
        recall=mean,
        recall_low=low,
        recall_high=high,
        p50_ms=timing.p50_ms,
        p95_ms=timing.p95_ms,
        qps=timing.qps,
        current=setting == now,
        exact=setting.exact,
    )


def _notes(where: Searchable, limits: Sequence[int], originals: Originals) -> Iterator[str]:
    idle = idle_note(where)
    if idle is not None:
        yield idle
    if where.quantization is not None:
        yield (
            "Oversampling counts in every segment by itself: the more segments (here "
            f"{where.info.segments_count}), the more candidates are compared again, and the "
            "higher the recall."
        )
    if max(limits) >= len(originals.ids):
        yield f"There are {len(originals.ids):,} passages: a larger limit asks for all of them."
