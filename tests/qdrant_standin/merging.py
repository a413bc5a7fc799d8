"""Answers from the places of several shard keys, made one as the server does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from qdrant_client import models
from qdrant_client.conversions import common_types as types
from qdrant_client.hybrid.fusion import distribution_based_score_fusion, reciprocal_rank_fusion

from qdrant_standin.refusals import not_here
from qdrant_standin.sharding import Place
from ragkit.edge.points import id_order

ALL_VALUES = 1_000_000

Ask: TypeAlias = Callable[[models.QueryRequest], list[list[models.ScoredPoint]]]
"""The best points of each place."""


def records(found: list[list[models.Record]], ids: Sequence[Any]) -> list[models.Record]:
    """The points of these ids in the order of the ids, each once."""
    if len(found) == 1:
        return found[0]
    by_id = {record.id: record for record in once([r for part in found for r in part])}
    return [by_id[point_id] for point_id in dict.fromkeys(ids) if point_id in by_id]


def pages(parts: list[models.ScrollResult], limit: int, order_by: Any) -> models.ScrollResult:
    """A page out of pages that have one point more than is wanted."""
    points: list[Any] = [point for part in parts for point in part.points]
    if order_by is not None:
        descending = getattr(order_by, "direction", None) == models.Direction.DESC
        points.sort(key=lambda p: (p.order_value, id_order(p.id)), reverse=descending)
        return models.ScrollResult(points=points[:limit])
    points = once(sorted(points, key=lambda p: id_order(p.id)))
    following = points[limit].id if len(points) > limit else None
    return models.ScrollResult(points=points[:limit], next_page_offset=following)


def once(points: list[Any]) -> list[Any]:
    """The points, without those whose id has been before."""
    first: dict[Any, Any] = {}
    for point in points:
        first.setdefault(point.id, point)
    return list(first.values())


def facets(answers: list[models.FacetResponse], limit: int) -> models.FacetResponse:
    """The sums, the commonest first."""
    counts: Counter[Any] = Counter()
    for hit in (hit for answer in answers for hit in answer.hits):
        counts[hit.value] += hit.count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return models.FacetResponse(
        hits=[models.FacetValueHit(value=value, count=count) for value, count in ranked[:limit]]
    )


def is_ascending(place: Place, request: models.QueryRequest) -> bool:
    """Whether a low score is a good one."""
    vectors = place.client.get_collection(place.name).config.params.vectors or {}
    named = vectors if isinstance(vectors, dict) else {"": vectors}
    params = named.get(request.using or "")
    return params is not None and params.distance in (
        models.Distance.EUCLID,
        models.Distance.MANHATTAN,
    )


def query(request: models.QueryRequest, ask: Ask, *, ascending: bool) -> types.QueryResponse:
    """The best points of all places; fused lists are made one before they are fused."""
    offset, limit = request.offset or 0, 10 if request.limit is None else request.limit
    wanted = offset + limit
    if request.prefetch:
        points = _fused(request, ask, wanted)
    else:
        parts = ask(request.model_copy(update={"limit": wanted, "offset": None}))
        points = _best(parts, request, ascending=ascending)
    return types.QueryResponse(points=points[offset:wanted])


def _best(
    parts: list[list[models.ScoredPoint]], request: Any, *, ascending: bool
) -> list[models.ScoredPoint]:
    points: list[Any] = [point for part in parts for point in part]
    if request.query is None:
        points.sort(key=lambda p: id_order(p.id))
    elif isinstance(request.query, models.OrderByQuery | models.SampleQuery | models.FormulaQuery):
        raise not_here(f"{type(request.query).__name__} over several shard keys")
    else:
        sign = 1 if ascending else -1
        points.sort(key=lambda p: (sign * p.score, id_order(p.id)))
    return once(points)


def _fused(request: models.QueryRequest, ask: Ask, wanted: int) -> list[models.ScoredPoint]:
    prefetches = request.prefetch if isinstance(request.prefetch, list) else [request.prefetch]
    lists = []
    for prefetch in prefetches:
        if prefetch is None or prefetch.prefetch:
            raise not_here("prefetches of prefetches over several shard keys")
        alone = models.QueryRequest(
            query=prefetch.query,
            using=prefetch.using,
            filter=_both(prefetch.filter, request.filter),
            params=prefetch.params,
            score_threshold=prefetch.score_threshold,
            limit=10 if prefetch.limit is None else prefetch.limit,
            with_payload=request.with_payload,
            with_vector=request.with_vector,
        )
        lists.append(_best(ask(alone), alone, ascending=False)[: alone.limit])
    match request.query:
        case models.FusionQuery(fusion=models.Fusion.RRF):
            return reciprocal_rank_fusion(lists, wanted)
        case models.RrfQuery(rrf=rrf):
            return reciprocal_rank_fusion(lists, wanted, rrf.k, rrf.weights)
        case models.FusionQuery(fusion=models.Fusion.DBSF):
            return distribution_based_score_fusion(lists, wanted)
    raise not_here(f"{type(request.query).__name__} over prefetches and several shard keys")


def _both(first: models.Filter | None, second: models.Filter | None) -> models.Filter | None:
    if first is None or second is None:
        return second if first is None else first
    return models.Filter(must=[first, second])
