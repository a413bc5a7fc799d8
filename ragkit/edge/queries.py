"""Queries: qdrant-client's requests become the engine's, and its answers become a server's.

The engine's own order among equal scores is random wherever prefetches are merged (fusion,
rescoring, formula): asked 50 times, it gives 50 orders, and at the limit 50 different selections.
So such a request asks for everything that the prefetches can give, without payloads, and
`finish_query` orders equal scores by id, cuts, and fetches the payloads of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

import qdrant_edge as edge
from qdrant_client import models

from ragkit.edge.filters import to_edge_filter
from ragkit.edge.points import (
    VectorSchema,
    from_edge_id,
    from_edge_scored,
    from_edge_vectors,
    id_order,
    to_edge_ids,
    to_edge_with_payload,
    to_edge_with_vector,
)
from ragkit.edge.responses import unsupported
from ragkit.edge.scoring import (
    Resolve,
    as_list,
    examples_of,
    invalid,
    limit_of,
    to_edge_scoring,
)

Found = TypeVar("Found", edge.ScoredPoint, models.ScoredPoint)
Retrieve: TypeAlias = Callable[[list[Any], Any, Any], list[edge.Record]]
"""`EdgeShard.retrieve`, bound: `(ids, with_payload, with_vector)` to the records."""


def to_edge_query(
    request: models.QueryRequest,
    schema: VectorSchema,
    resolve: Resolve,
    *,
    collection: str | None = None,
) -> edge.QueryRequest:
    """The same query for the engine; give its answer to `finish_query`.

    Points that the query names as examples are looked up and left out of the answer.

    Args:
        request: The query.
        schema: The vectors of the collection.
        resolve: Looks up the vectors of points that the query names.
        collection: The collection's own name, to know it in a `lookup_from`.

    Raises:
        UnexpectedResponse: A query that a server refuses (400), or that names a point that is
            not there (404).
        NotImplementedError: A query that the engine cannot answer.
    """
    if request.shard_key is not None:
        raise unsupported("shard_key")
    everything = needs_all_fused(request)
    random = isinstance(request.query, models.SampleQuery) and not request.prefetch
    with_vector = to_edge_with_vector(request.with_vector, schema)
    return edge.QueryRequest(
        everything or limit_of(request),
        offset=0 if everything or random else _offset(request),
        query=to_edge_scoring(request, schema, resolve),
        prefetches=[_prefetch(p, schema, resolve) for p in as_list(request.prefetch)],
        filter=_filter(request, collection),
        score_threshold=request.score_threshold,
        params=to_edge_params(request.params),
        with_payload=False if everything else to_edge_with_payload(request.with_payload),
        with_vector=False if everything else with_vector,
    )


def _prefetch(prefetch: models.Prefetch, schema: VectorSchema, resolve: Resolve) -> edge.Prefetch:
    return edge.Prefetch(
        limit_of(prefetch),
        query=to_edge_scoring(prefetch, schema, resolve),
        prefetches=[_prefetch(p, schema, resolve) for p in as_list(prefetch.prefetch)],
        params=to_edge_params(prefetch.params),
        filter=to_edge_filter(prefetch.filter),
        score_threshold=prefetch.score_threshold,
    )


def _filter(request: models.QueryRequest, collection: str | None) -> edge.Filter | None:
    """The request's filter, without the points that the request gives as examples."""
    examples = to_edge_ids(examples_of(request, collection))
    given = to_edge_filter(request.filter)
    if not examples:
        return given
    others = edge.HasIdCondition(set(examples))
    return edge.Filter(must=None if given is None else [given], must_not=[others])


def needs_all_fused(request: models.QueryRequest) -> int:
    """How many points to ask the engine for so that the answer does not depend on chance.

    0 where the engine's own order is the same every time: all but what merges prefetches. The
    order of MMR is a selection and that of a sample is meant to be random: they stay as they are.
    """
    if not request.prefetch or _keeps_order(request):
        return 0
    return max(sum(limit_of(prefetch) for prefetch in as_list(request.prefetch)), 1)


def finish_query(
    points: Iterable[edge.ScoredPoint], request: models.QueryRequest, retrieve: Retrieve
) -> list[models.ScoredPoint]:
    """The engine's answer to `to_edge_query(request, …)` as a server gives it.

    Points of equal score are in the order of their ids.
    """
    if needs_all_fused(request):
        first = _offset(request)
        found = _ties_by_id(points, lambda point: id_order(from_edge_id(point.id)))
        wanted = list(islice(found, first, first + limit_of(request)))
        return _with_records(wanted, request, retrieve)
    hits = [from_edge_scored(point) for point in points]
    if not _keeps_order(request) and len({hit.score for hit in hits}) < len(hits):
        hits = list(_ties_by_id(hits, lambda hit: id_order(from_edge_id(hit.id))))
    if not request.with_vector and hits and hits[0].vector is not None:
        for hit in hits:
            hit.vector = None  # after MMR the engine leaves in the vectors that it compared
    return hits


def _with_records(
    found: list[edge.ScoredPoint], request: models.QueryRequest, retrieve: Retrieve
) -> list[models.ScoredPoint]:
    hits = [from_edge_scored(point) for point in found]
    if not found or not (request.with_payload or request.with_vector):
        return hits
    payload, vector = to_edge_with_payload(request.with_payload), request.with_vector or False
    records = {r.id: r for r in retrieve([point.id for point in found], payload, vector)}
    for hit, point in zip(hits, found, strict=True):
        hit.payload = records[point.id].payload
        hit.vector = from_edge_vectors(records[point.id].vector)
    return hits


def _ties_by_id(points: Iterable[Found], order: Callable[[Found], Any]) -> Iterator[Found]:
    """The same points, those of equal score by id; one after the other, as far as they are wanted.

    In a fusion by ranks most scores are shared, and few of the points are within the limit.
    """
    for _, equal in groupby(points, key=attrgetter("score", "order_value")):
        tied = list(equal)
        yield from tied if len(tied) == 1 else sorted(tied, key=order)


def _keeps_order(request: models.QueryRequest) -> bool:
    if isinstance(request.query, models.NearestQuery):
        return request.query.mmr is not None
    return request.query is None or isinstance(request.query, models.SampleQuery)


def _offset(request: models.QueryRequest) -> int:
    offset = request.offset or 0
    if offset < 0:
        raise invalid("offset", offset, "0 or larger")
    return offset


def to_edge_params(params: models.SearchParams | None) -> edge.SearchParams | None:
    """The same search parameters for the engine."""
    if params is None:
        return None
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=params.exact or False,
        quantization=_quantization(params.quantization),
        indexed_only=params.indexed_only or False,
        acorn=_acorn(params.acorn),
        idf=_idf(params.idf),
    )


def _quantization(
    params: models.QuantizationSearchParams | None,
) -> edge.QuantizationSearchParams | None:
    if params is None:
        return None
    if params.oversampling is not None and not params.oversampling >= 1.0:
        raise invalid("params.quantization.oversampling", params.oversampling, "1.0 or larger")
    return edge.QuantizationSearchParams(
        ignore=params.ignore or False, rescore=params.rescore, oversampling=params.oversampling
    )


def _acorn(params: models.AcornSearchParams | None) -> edge.AcornSearchParams | None:
    if params is None:
        return None
    return edge.AcornSearchParams(params.enable or False, params.max_selectivity)


def _idf(params: models.IdfParams | None) -> edge.IdfParams | None:
    if params is None:
        return None
    corpus = params.corpus if isinstance(params, models.IdfCorpusParams) else None
    return edge.IdfParams(to_edge_filter(corpus))
