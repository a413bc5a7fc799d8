"""Reads and writes of points, each in the places that its shard key selects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import models
from qdrant_client.conversions import common_types as types

from qdrant_standin import merging
from qdrant_standin.database import Database
from qdrant_standin.refusals import not_here
from qdrant_standin.sharding import Place

# The member of an update operation that says to which points, and under which shard key.
_GIVEN: dict[Any, str] = {
    models.UpsertOperation: "upsert",
    models.DeleteOperation: "delete",
    models.SetPayloadOperation: "set_payload",
    models.OverwritePayloadOperation: "overwrite_payload",
    models.DeletePayloadOperation: "delete_payload",
    models.ClearPayloadOperation: "clear_payload",
    models.UpdateVectorsOperation: "update_vectors",
    models.DeleteVectorsOperation: "delete_vectors",
}


class Points:
    """The points of all collections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(
        self, name: str, operations: Sequence[models.UpdateOperation], *, wait: bool
    ) -> list[models.UpdateResult]:
        """Apply operations one after the other; one that is refused leaves those before it."""
        return [self._apply(name, operation, wait=wait) for operation in operations]

    def _apply(self, name: str, operation: Any, *, wait: bool) -> models.UpdateResult:
        member = _GIVEN[type(operation)]
        given = getattr(operation, member)
        places = self._database.to_write(name, given.shard_key)
        keyless = given.model_copy(update={"shard_key": None})
        plain = operation.model_copy(update={member: keyless})
        for place in places:
            place.client.batch_update_points(place.name, [plain], wait=False)
        return self._database.done(wait=wait)

    def retrieve(self, name: str, request: models.PointRequest) -> list[models.Record]:
        """The points of some ids that are there."""
        found = [
            _keyed(
                place,
                place.client.retrieve(
                    place.name,
                    request.ids,
                    with_payload=_or(request.with_payload, True),
                    with_vectors=_or(request.with_vector, False),
                ),
            )
            for place in self._database.to_read(name, request.shard_key)
        ]
        return merging.records(found, request.ids)

    def scroll(self, name: str, request: models.ScrollRequest) -> models.ScrollResult:
        """A page of points."""
        limit = _or(request.limit, 10)
        places = self._database.to_read(name, request.shard_key)
        pages = [
            _page(place, request, limit if len(places) == 1 else limit + 1) for place in places
        ]
        if len(pages) == 1:
            return pages[0]
        return merging.pages(pages, limit, request.order_by)

    def count(self, name: str, request: models.CountRequest) -> models.CountResult:
        """How many points match."""
        exact = _or(request.exact, True)
        counts = [
            place.client.count(place.name, request.filter, exact=exact).count
            for place in self._database.to_read(name, request.shard_key)
        ]
        return models.CountResult(count=sum(counts))

    def facet(self, name: str, request: models.FacetRequest) -> models.FacetResponse:
        """The commonest values of a payload key."""
        limit = _or(request.limit, 10)
        places = self._database.to_read(name, request.shard_key)
        # A value that is rare under each key may be frequent in all, so all of them are summed.
        each = limit if len(places) == 1 else max(limit, merging.ALL_VALUES)
        answers = [
            place.client.facet(
                place.name, request.key, request.filter, each, exact=_or(request.exact, False)
            )
            for place in places
        ]
        return answers[0] if len(answers) == 1 else merging.facets(answers, limit)

    def query(
        self, name: str, requests: Sequence[models.QueryRequest]
    ) -> list[types.QueryResponse]:
        """Answer several queries; neighbours with the same shard keys go to the engine together."""
        selectors = [request.shard_key for request in requests]
        if requests and all(selector == selectors[0] for selector in selectors):
            places = self._database.to_read(name, selectors[0])
            if len(places) == 1:
                return self._query_one(places[0], requests)
        return [self._query_each(name, request) for request in requests]

    def _query_each(self, name: str, request: models.QueryRequest) -> types.QueryResponse:
        places = self._database.to_read(name, request.shard_key)
        if len(places) == 1:
            return self._query_one(places[0], [request])[0]
        return merging.query(
            request.model_copy(update={"shard_key": None}),
            lambda wanted: [self._query_one(place, [wanted])[0].points for place in places],
            ascending=merging.is_ascending(places[0], request),
        )

    def _query_one(
        self, place: Place, requests: Sequence[models.QueryRequest]
    ) -> list[types.QueryResponse]:
        keyless = [request.model_copy(update={"shard_key": None}) for request in requests]
        answers = place.client.query_batch_points(place.name, keyless)
        for answer in answers:
            _keyed(place, answer.points)
        return answers

    def query_groups(self, name: str, request: models.QueryGroupsRequest) -> models.GroupsResult:
        """Search, and group what is found."""
        places = self._database.to_read(name, request.shard_key)
        if len(places) > 1:
            raise not_here("groups over several shard keys")
        result = places[0].client.query_points_groups(
            places[0].name,
            request.group_by,
            query=request.query,
            using=request.using,
            prefetch=request.prefetch,
            query_filter=request.filter,
            search_params=request.params,
            limit=_or(request.limit, 10),
            group_size=_or(request.group_size, 3),
            with_payload=_or(request.with_payload, False),
            with_vectors=_or(request.with_vector, False),
            score_threshold=request.score_threshold,
            with_lookup=request.with_lookup,
            lookup_from=request.lookup_from,
        )
        for group in result.groups:
            _keyed(places[0], group.hits)
        return result


def _page(place: Place, request: models.ScrollRequest, limit: int) -> models.ScrollResult:
    records, following = place.client.scroll(
        place.name,
        request.filter,
        limit,
        order_by=request.order_by,
        offset=request.offset,
        with_payload=_or(request.with_payload, True),
        with_vectors=_or(request.with_vector, False),
    )
    return models.ScrollResult(points=_keyed(place, records), next_page_offset=following)


def _keyed(place: Place, points: list[Any]) -> list[Any]:
    """The points with the shard key that they are under."""
    if place.key is not None:
        for point in points:
            point.shard_key = place.key
    return points


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
