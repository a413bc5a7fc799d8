"""The methods of qdrant-client that search and read points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.conversions import common_types as types
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge.access import CollectionAccess, refuse_options
from ragkit.edge.filters import to_edge_filter
from ragkit.edge.groups import find_groups, wider
from ragkit.edge.points import (
    EdgeId,
    from_edge_id,
    from_edge_record,
    to_edge_id,
    to_edge_ids,
    to_edge_with_payload,
    to_edge_with_vector,
)
from ragkit.edge.queries import finish_query, to_edge_query
from ragkit.edge.responses import bad_request
from ragkit.edge.scoring import to_edge_order_by
from ragkit.edge.shards import Shard


class PointReads(CollectionAccess):
    """Searches and reads points."""

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[types.PointId],
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        **kwargs: Any,
    ) -> list[models.Record]:
        """The points of these ids that are there, in the order of the ids."""
        refuse_options(kwargs)
        return _retrieve(self._shard(collection_name), ids, with_payload, with_vectors)

    def scroll(
        self,
        collection_name: str,
        scroll_filter: types.Filter | None = None,
        limit: int = 10,
        order_by: types.OrderBy | None = None,
        offset: types.PointId | None = None,
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        **kwargs: Any,
    ) -> tuple[list[models.Record], types.PointId | None]:
        """A page of points by id, or by a payload value, and the id that the next begins with."""
        refuse_options(kwargs)
        shard = self._shard(collection_name)
        _check_limit(limit)
        if order_by is not None and offset is not None:
            raise bad_request(
                "Bad request: Cannot use an `offset` when using `order_by`. The alternative for "
                "paging is to use `order_by.start_from` and a filter to exclude the IDs that "
                "you've already seen for the `order_by.start_from` value"
            )
        request = edge.ScrollRequest(
            offset=None if offset is None else to_edge_id(offset),
            limit=limit,
            filter=to_edge_filter(scroll_filter),
            with_payload=to_edge_with_payload(with_payload),
            with_vector=to_edge_with_vector(with_vectors, shard.schema),
            order_by=None if order_by is None else to_edge_order_by(order_by),
        )
        records, following = shard.read(lambda engine: engine.scroll(request))
        page = [from_edge_record(record) for record in records]
        return page, None if following is None else from_edge_id(following)

    def count(
        self,
        collection_name: str,
        count_filter: types.Filter | None = None,
        exact: bool = True,
        **kwargs: Any,
    ) -> models.CountResult:
        """How many points match."""
        refuse_options(kwargs)
        request = edge.CountRequest(filter=to_edge_filter(count_filter), exact=exact)
        count = self._shard(collection_name).read(lambda engine: engine.count(request))
        return models.CountResult(count=count)

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: types.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        **kwargs: Any,
    ) -> models.FacetResponse:
        """The commonest values of an indexed payload key, with the number of their points."""
        refuse_options(kwargs)
        _check_limit(limit)
        request = partial(
            edge.FacetRequest,
            key=key,
            limit=limit,
            exact=exact,
            filter=to_edge_filter(facet_filter),
        )
        response = self._shard(collection_name).read(lambda engine: engine.facet(request()))
        hits = [
            models.FacetValueHit(value=_facet_value(hit.value), count=hit.count)
            for hit in response.hits
            if hit.count > 0  # the index remembers values whose last point was deleted
        ]
        return models.FacetResponse(hits=hits)

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: types.Prefetch | list[types.Prefetch] | None = None,
        query_filter: types.Filter | None = None,
        search_params: types.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        score_threshold: float | None = None,
        lookup_from: types.LookupLocation | None = None,
        **kwargs: Any,
    ) -> types.QueryResponse:
        """Search: the best points first, those of equal score by id."""
        refuse_options(kwargs)
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=prefetch,
            filter=query_filter,
            params=search_params,
            limit=limit,
            offset=offset,
            with_payload=with_payload,
            with_vector=with_vectors,
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        return self._answers(collection_name, [request])[0]

    def query_batch_points(
        self, collection_name: str, requests: Sequence[types.QueryRequest], **kwargs: Any
    ) -> list[types.QueryResponse]:
        """Answer several queries, planned together by the engine."""
        refuse_options(kwargs)
        return self._answers(collection_name, requests)

    def query_points_groups(
        self,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: types.Prefetch | list[types.Prefetch] | None = None,
        query_filter: types.Filter | None = None,
        search_params: types.SearchParams | None = None,
        limit: int = 10,
        group_size: int = 3,
        with_payload: types.WithPayloadInterface = True,
        with_vectors: types.WithVector = False,
        score_threshold: float | None = None,
        with_lookup: types.WithLookupInterface | None = None,
        lookup_from: types.LookupLocation | None = None,
        **kwargs: Any,
    ) -> models.GroupsResult:
        """Search, and group what is found by a payload value: full groups, the best one first."""
        refuse_options(kwargs)
        _check_limit(min(limit, group_size))
        request = models.QueryRequest.model_construct(
            query=query,
            using=using,
            prefetch=wider(prefetch, group_size),
            filter=query_filter,
            params=search_params,
            with_payload=[group_by],
            score_threshold=score_threshold,
            lookup_from=lookup_from,
        )
        search = partial(self._best, collection_name, request)
        groups = find_groups(search, group_by=group_by, limit=limit, group_size=group_size)
        _fill_in(self._shard(collection_name), groups, with_payload, with_vectors)
        if with_lookup is not None:
            self._look_up(groups, with_lookup)
        return models.GroupsResult(groups=groups)

    def _best(
        self, collection_name: str, request: models.QueryRequest, limit: int
    ) -> list[models.ScoredPoint]:
        limited = request.model_copy(update={"limit": limit})
        return self._answers(collection_name, [limited])[0].points

    def _answers(
        self, collection_name: str, requests: Sequence[models.QueryRequest]
    ) -> list[types.QueryResponse]:
        shard = self._shard(collection_name)
        resolve = partial(self._vectors_of, collection_name)
        queries = [
            to_edge_query(request, shard.schema, resolve, collection=collection_name)
            for request in requests
        ]

        def answer(engine: edge.EdgeShard) -> list[types.QueryResponse]:
            if len(queries) == 1:
                found = [engine.query(queries[0])]
            else:
                found = engine.query_batch(edge.QueryBatchRequest(queries))
            return [
                types.QueryResponse.model_construct(
                    points=finish_query(points, request, engine.retrieve)
                )
                for points, request in zip(found, requests, strict=True)
            ]

        return shard.read(answer)

    def _vectors_of(
        self, collection_name: str, point_id: EdgeId, vector: str, other: str | None
    ) -> Any:
        """The vectors of a point that a query names; None if there is no such point."""
        shard = self._shard(collection_name if other is None else other)
        wanted = to_edge_with_vector([vector], shard.schema)
        ids: list[int | UUID | str] = [point_id]
        records = shard.read(lambda engine: engine.retrieve(ids, False, wanted))
        return records[0].vector if records else None

    def _look_up(self, groups: list[models.PointGroup], with_lookup: Any) -> None:
        """Give each group the point of another collection that has the group's id."""
        if isinstance(with_lookup, str):
            with_lookup = models.WithLookup(collection=with_lookup)
        shard = self._shard(with_lookup.collection)
        payload = True if with_lookup.with_payload is None else with_lookup.with_payload
        for group in groups:
            if _is_id(group.id):
                found = _retrieve(shard, [group.id], payload, with_lookup.with_vectors)
                group.lookup = found[0] if found else None


def _retrieve(
    shard: Shard, ids: Sequence[Any], with_payload: Any, with_vectors: Any
) -> list[models.Record]:
    edge_ids: list[int | UUID | str] = [*to_edge_ids(ids)]
    payload = to_edge_with_payload(with_payload)
    vectors = to_edge_with_vector(with_vectors, shard.schema)
    records = shard.read(lambda engine: engine.retrieve(edge_ids, payload, vectors))
    return [from_edge_record(record) for record in records]


def _fill_in(
    shard: Shard, groups: list[models.PointGroup], with_payload: Any, with_vectors: Any
) -> None:
    """Give the hits the payload and vectors asked for; they were searched without."""
    ids = list({hit.id: None for group in groups for hit in group.hits})
    records = {record.id: record for record in _retrieve(shard, ids, with_payload, with_vectors)}
    for group in groups:
        group.hits = [
            hit.model_copy(
                update={"payload": records[hit.id].payload, "vector": records[hit.id].vector}
            )
            for hit in group.hits
            if hit.id in records  # else it was deleted in between
        ]


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise bad_request(
            f"Validation error in JSON body: [limit: value {limit} invalid, must be 1 or larger]"
        )


def _facet_value(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def _is_id(value: int | str) -> bool:
    try:
        to_edge_id(value)
    except UnexpectedResponse:
        return False
    return True
