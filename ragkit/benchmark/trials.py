"""One search setting tried on some of the queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragkit.benchmark.exact import Truth
from ragkit.benchmark.intervals import mean_interval
from ragkit.benchmark.originals import Originals
from ragkit.benchmark.queries import Queries
from ragkit.benchmark.rows import MeasureCallback
from ragkit.benchmark.searches import Searches, Setting
from ragkit.benchmark.timing import Timing, timed
from ragkit.points import Points
from ragkit.search_request import Searchable

_FIRST = 50  # queries; the normal approximation of the interval is fair from there on
_TIMED = 200  # queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How one setting did.

    Attributes:
        options: Its search options.
        measure: What was measured: "recall@10", "nDCG@10".
        held_out: Whether on queries that took no part in choosing.
        queries: On how many.
        value: The mean of the measure; None where it was timed alone.
        low: Lower end of the 95% interval of that mean; likewise.
        high: Its upper end; likewise.
        p50_ms: Median time of a search, in milliseconds; None where it was not timed.
        p95_ms: What 95 of 100 searches stay below; likewise.
        outcome: What came of it, in a few words.
    """

    options: Mapping[str, Any]
    measure: str
    held_out: bool
    queries: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A recall and how sure it is.

    Attributes:
        mean: Over the queries.
        low: Lower end of the 95% interval of the mean.
        high: Its upper end.
        queries: How many were searched for.
    """

    mean: float
    low: float
    high: float
    queries: int


class Half:
    """Half of the queries, and what an exact search finds for them.

    Args:
        where: The collection.
        points: Its points.
        originals: Its vectors.
        queries: In an order that is chance: the first of them stand for all.
        limit: How many neighbours are asked for.
        progress: Told of every setting that is tried.
    """

    def __init__(
        self,
        where: Searchable,
        points: Points,
        originals: Originals,
        queries: Queries,
        limit: int,
        *,
        progress: MeasureCallback | None = None,
    ) -> None:
        self.searches = Searches(where, points, queries)
        self.truth = Truth(originals, queries.vectors, limit, own=queries.own)
        self._limit = limit
        self._progress = progress

    def recall(self, setting: Setting, *, clear_of: float | None = None) -> Estimate:
        """The recall of a setting, on as many of the queries as it takes.

        Args:
            setting: How to search.
            clear_of: Stop as soon as the 95% interval lies on one side of this. Each look at a
                part of the queries is one more chance to be wrong, so a setting close to it is
                misjudged somewhat more often than 5 times in 100.
        """
        search = self.searches.of(setting, self._limit)
        found: list[list[str]] = []
        total = len(self.searches.queries)
        for stop in _stops(total, whole=clear_of is None):
            for query in range(len(found), stop):
                found.append(self.searches.ids(search(query), query)[: self._limit])
            if self._progress is not None:
                self._progress(f"trying {named(options_of(setting))}", stop, total)
            mean, low, high = mean_interval(self.truth.shares(found, self._limit))
            if clear_of is not None and (high < clear_of or low > clear_of):
                break
        return Estimate(mean=mean, low=low, high=high, queries=len(found))

    def finds(self, setting: Setting) -> list[set[str]]:
        """What a setting finds for the first queries."""
        some = range(min(_FIRST, len(self.searches.queries)))
        return [set(ids) for ids in self.searches.found(setting, self._limit, some)]

    def times(self, settings: Sequence[Setting]) -> list[Timing[None]]:
        """The times of settings, taken in turn."""
        searches = [self.searches.of(each, self._limit) for each in settings]
        queries = min(_TIMED, len(self.searches.queries))
        return timed(searches, queries, keep=lambda *_: None, progress=self._progress)


def options_of(setting: Setting) -> dict[str, Any]:
    """A setting as search options, without what makes no difference."""
    found: dict[str, Any] = {}
    if setting.rescore is not None:
        found["rescore"] = setting.rescore
    if setting.rescore and setting.oversampling is not None:
        found["oversampling"] = setting.oversampling
    if setting.hnsw_ef is not None:
        found["hnsw_ef"] = setting.hnsw_ef
    return found | {name: True for name in ("exact", "indexed_only") if getattr(setting, name)}


def named(options: Mapping[str, Any]) -> str:
    """Options of a trial in a few words, for tables and progress."""
    parts = [_way(options)] if "mode" in options else []
    if "oversampling" in options:
        parts.append(f"oversampling {options['oversampling']:g}")
    elif options.get("rescore") is False:
        parts.append("not rescored")
    if "hnsw_ef" in options:
        parts.append(f"ef {options['hnsw_ef']}")
    parts += [name for name in ("exact", "indexed_only") if options.get(name)]
    return ", ".join(parts) or "the defaults"


def _way(options: Mapping[str, Any]) -> str:
    """By meaning, by words or both, and how both are fused: "hybrid 1:3"."""
    said = str(options["mode"])
    weights, k = options.get("weights"), options.get("rrf_k")
    if weights is not None:
        said += " " + ":".join(f"{weights[side]:g}" for side in ("dense", "sparse"))
        k = None if k == 1 else k
    if options.get("fusion") == "dbsf":
        said += " dbsf"
    return said if k is None else f"{said}, rrf_k {k}"


def _stops(total: int, *, whole: bool) -> Iterator[int]:
    """After how many queries to look at what was found: twice as many every time."""
    stop = total if whole else _FIRST
    while stop < total:
        yield stop
        stop *= 2
    yield total
