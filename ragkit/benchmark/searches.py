"""Searches by vectors alone, with one setting or another, as a retriever would send them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from qdrant_client.conversions import common_types as types

from ragkit.benchmark.environment import has_graph
from ragkit.benchmark.exact import Truth
from ragkit.benchmark.intervals import mean_interval
from ragkit.benchmark.queries import Queries
from ragkit.benchmark.rows import MeasureCallback
from ragkit.benchmark.timing import Timing, timed
from ragkit.errors import CollectionError, CollectionMismatch
from ragkit.points import Points
from ragkit.quantization import default_oversampling
from ragkit.search_options import CALL, MAX_LIMIT, SearchOptions, settle
from ragkit.search_request import Searchable, query_request

OVERSAMPLING = (1.0, 2.0, 3.0)

_CHECKED = 20  # queries whose exact answers of the engine are compared with ours
_AGREED = 0.999
_RELEVANT = (
    "oversampling",
    "rescore",
    "exact",
    "hnsw_ef",
    "indexed_only",
)  # to the vectors' search


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How vectors are searched.

    Attributes:
        oversampling: See `SearchOptions`; None where nothing is quantized.
        rescore: Likewise.
        hnsw_ef: Likewise; None for what the collection is searched with by itself.
        exact: Past index and quantization.
        indexed_only: What is not indexed is passed over.
    """

    oversampling: float | None = None
    rescore: bool | None = None
    hnsw_ef: int | None = None
    exact: bool = False
    indexed_only: bool = False


class Searches:
    """Searches by vectors alone, for a fixed set of queries, ready to be sent.

    Args:
        where: The collection.
        points: Its points.
        queries: Their own points are left out of what they find.

    Raises:
        ValueError: The queries are not as wide as the collection's vectors.
    """

    def __init__(self, where: Searchable, points: Points, queries: Queries) -> None:
        if queries.vectors.shape[1] != where.dim:
            raise ValueError(
                f"expected query vectors of {where.dim} dimensions, as collection {where.name!r} "
                f"has them, got {queries.vectors.shape[1]}"
            )
        self.where = where
        self.queries = queries
        self._points = points

    def of(self, setting: Setting, limit: int) -> Callable[[int], types.QueryResponse]:
        """What searches for one of the queries, by its number.

        For queries that are points of the collection one more is asked for than `limit`, and one
        candidate more is compared again: the point itself, which takes no other's place then.
        """
        wanted = limit
        if self.queries.own is not None:
            wanted, setting = limit + 1, _with_one_more(setting, limit)
        options = _options(setting, min(wanted, MAX_LIMIT))
        request = query_request(
            "", options, self.where, vector=self.queries.vectors[0], narrowed=None, limit=wanted
        )
        assert request is not None  # noqa: S101  (there is a vector)
        request.with_payload = False
        points, vectors = self._points, self.queries.vectors

        def search(query: int) -> types.QueryResponse:
            # Lists made beforehand are slower to read than to make: those of a thousand queries
            # do not stay in the processor's caches.
            request.query = vectors[query].tolist()
            return points.query([request])[0]

        return search

    def ids(self, response: types.QueryResponse, query: int) -> list[str]:
        """What was found for a query, without its own point."""
        own = None if self.queries.own is None else self.queries.own[query]
        found = (str(point.id) for point in response.points)
        return [each for each in found if each != own]

    def found(self, setting: Setting, limit: int, queries: Iterable[int]) -> list[list[str]]:
        """The ids that a setting finds for some of the queries, by their numbers."""
        search = self.of(setting, limit)
        return [self.ids(search(query), query)[:limit] for query in queries]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one setting finds at one limit, and what that costs.

    Attributes:
        setting: How vectors were searched.
        limit: How many neighbours were asked for.
        recall: Mean over the queries, and the ends of its 95% interval.
        timing: Of the searches, with the ids that they found.
    """

    setting: Setting
    limit: int
    recall: tuple[float, float, float]
    timing: Timing[list[str]]


def measured(
    searches: Searches,
    cells: Sequence[tuple[Setting, int]],
    truth: Truth,
    *,
    runs: int,
    progress: MeasureCallback | None,
) -> Iterator[Measured]:
    """Time settings at limits, all in turn, and compare what they find with the truth."""
    timings = timed(
        [searches.of(setting, limit) for setting, limit in cells],
        len(searches.queries),
        keep=searches.ids,
        runs=runs,
        progress=progress,
    )
    for (setting, limit), timing in zip(cells, timings, strict=True):
        recall = mean_interval(truth.shares(timing.answers, limit))
        yield Measured(setting=setting, limit=limit, recall=recall, timing=timing)


def settings_of(
    where: Searchable,
    *,
    oversampling: Sequence[float] | None = None,
    rescore: Sequence[bool] | None = None,
    hnsw_ef: Sequence[int] | None = None,
) -> list[Setting]:
    """Every combination of these options, as far as they mean something in a collection.

    What is not swept is as in the collection's own search, but for `exact`.

    Raises:
        CollectionMismatch: Oversampling or rescoring is asked for where nothing is quantized, or
            `hnsw_ef` where there is no graph.
        ValueError: An option is out of its range, or a list is empty.
    """
    for name, values in (("oversampling", oversampling), ("rescore", rescore), ("ef", hnsw_ef)):
        if values is not None and not values:
            raise ValueError(f"expected at least one value of {name}, got none")
    if where.quantization is None and (oversampling is not None or rescore is not None):
        raise CollectionMismatch(
            f"oversampling and rescore go with quantization, and collection {where.name!r} has "
            "none: leave them out"
        )
    if hnsw_ef is not None and not has_graph(where):
        raise CollectionMismatch(
            f"hnsw_ef goes with a graph (HNSW), and the vectors of collection {where.name!r} are "
            "in none: leave it out"
        )
    quantized = where.quantization is not None
    factors: Sequence[float | None] = oversampling or (OVERSAMPLING if quantized else (None,))
    again: Sequence[bool | None] = rescore or ((False, True) if quantized else (None,))
    now = replace(current_setting(where), exact=False)
    found = [
        replace(
            now,
            oversampling=None if factor is None else float(factor),
            rescore=each,
            hnsw_ef=ef,
        )
        for ef, factor, each in product(hnsw_ef or (now.hnsw_ef,), factors, again)
    ]
    for setting in found:
        _options(setting, 10)
    return list(dict.fromkeys(found))


def current_setting(where: Searchable) -> Setting:
    """How the vectors of a collection are searched without being told."""
    held = {name: where.defaults[name] for name in _RELEVANT if name in where.defaults}
    if where.quantization is not None:
        held.setdefault("oversampling", default_oversampling(where.quantization))
        held.setdefault("rescore", True)
        held["oversampling"] = float(held["oversampling"])
    return Setting(**held)


def check_exact(searches: Searches, truth: Truth, limit: int) -> str:
    """Compare the engine's own exact search with ours, for a few queries.

    Returns:
        What to say about it.

    Raises:
        CollectionError: They do not agree: the collection has changed since it was read.
    """
    rows = range(min(_CHECKED, len(searches.queries)))
    found = searches.found(Setting(exact=True), limit, rows)
    agreed = float(np.mean(truth.shares(found, limit)))
    if agreed < _AGREED:
        raise CollectionError(
            f"the engine's exact search finds {agreed:.1%} of what a comparison with all vectors "
            f"of collection {searches.where.name!r} finds: it was changed meanwhile, or its "
            "vectors are not what was stored; measure again when nothing is written, then look "
            "with ragkit doctor"
        )
    return f"The engine's exact search agreed with ours on {len(rows)} queries: {agreed:.4f}."


def _with_one_more(setting: Setting, limit: int) -> Setting:
    """The setting that at `limit` + 1 compares one candidate more than this one at `limit`.

    As it is, it would compare `oversampling` more: at limit 1 so many that recall is far higher.
    """
    if setting.oversampling is None:
        return setting
    # The engine cuts the product down to a whole number: what is lost in division must not count.
    factor = (setting.oversampling * limit + 1 + 1e-6) / (limit + 1)
    return replace(setting, oversampling=factor)


def _options(setting: Setting, limit: int) -> SearchOptions:
    said: Mapping[str, Any] = {
        "mode": "dense",
        "limit": limit,
        "oversampling": setting.oversampling,
        "rescore": setting.rescore,
        "hnsw_ef": setting.hnsw_ef,
        "exact": setting.exact,
        "indexed_only": setting.indexed_only,
    }
    return settle((CALL, said)).options
