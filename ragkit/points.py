"""The points of a collection: every read and write of points goes through here.

That is what makes three promises hold everywhere: a tenant's reads and writes stay within its own
points, what fails in passing is tried again, and a write whose outcome nobody knows is looked up.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types
from qdrant_client.local.payload_value_extractor import value_by_key

from ragkit.delivery import READING, SEARCHING, WRITING, deliver
from ragkit.errors import CollectionError, RagkitError
from ragkit.failures import Failure, StillQueued, is_unsure, kind_of, lacks_shard_key, reason
from ragkit.pacing import Retry
from ragkit.packing import update_points
from ragkit.pipeline import batched, batched_within
from ragkit.tenancy import scoped, scoped_request

T = TypeVar("T")
StrictMode: TypeAlias = models.StrictModeConfig | models.StrictModeConfigOutput

_PAGE = 512  # small, so that the records of one are gone before the next comes
LONG_PAGE = 5_000  # of records with one field or none
MOST_VALUES = 1_000  # in one condition, or points in one request
# In the query vectors of one call: 20 bytes each in JSON, and a server takes 32 MiB.
_MOST_NUMBERS = 1_000_000
_MOST_SEARCHES = 1_000
_HASH = "document_hash"


class Points:
    """Reads and writes of one collection, within one tenant's points if it has tenants.

    Args:
        client: The store.
        name: The collection, or an alias of it.
        tenant: Whose points; None for all.
        shard_key: Where the tenant's points are, in a collection sharded by tenant.
        strict: What a server allows in this collection; nothing larger is asked for.
    """

    def __init__(
        self,
        client: QdrantBase,
        name: str,
        *,
        tenant: str | None = None,
        shard_key: str | None = None,
        strict: StrictMode | None = None,
    ) -> None:
        self.client = client
        self.name = name
        self.tenant = tenant
        self._shard_key = shard_key
        # The embedded engine knows no shards, and is not to be asked for one.
        self._selector: dict[str, Any] = (
            {} if shard_key is None else {"shard_key_selector": shard_key}
        )
        limits = limits_of(strict)
        self._page_limit = limits.max_query_limit or LONG_PAGE
        longest = limits.max_timeout or int(READING.timeout_s)
        self._timeout_s = min(int(READING.timeout_s), longest)
        self._search_timeout_s = min(int(SEARCHING.timeout_s), longest)
        self.most_values = min(MOST_VALUES, limits.condition_max_size or MOST_VALUES)
        self.most_points = min(MOST_VALUES, limits.upsert_max_batchsize or MOST_VALUES)

    def create_shards(self) -> None:
        """Give the tenant shards of its own, unless it has them.

        Raises:
            CollectionError: The server cannot: it is not in cluster mode.
        """
        try:
            deliver(
                lambda: self.client.create_shard_key(self.name, self._shard_key or ""),
                what=self._what("dividing"),
                retry=WRITING,
            )
        except Exception as exc:
            if "already exists" in reason(exc):
                return
            if isinstance(exc, RagkitError):
                raise
            raise CollectionError(
                f"tenant {self._shard_key!r} cannot have shards of its own in {self.name!r}: "
                f"{reason(exc)} (shard_by_tenant needs a server in cluster mode)"
            ) from exc

    def pages(
        self,
        where: models.Filter | None = None,
        *,
        fields: Sequence[str] | bool,
        vectors: Sequence[str] = (),
        page: int = _PAGE,
    ) -> Iterator[list[models.Record]]:
        """The records that match, in the order of their ids, in lists of at most `page`."""
        offset: models.ExtendedPointId | None = None
        while True:
            records, offset = self._page(where, fields, vectors, page, offset)
            if records:
                yield records
            if offset is None:
                return

    def scroll(
        self,
        where: models.Filter | None = None,
        *,
        fields: Sequence[str] | bool,
        vectors: Sequence[str] = (),
        page: int = _PAGE,
    ) -> Iterator[models.Record]:
        """As `pages`, one record after the other."""
        for records in self.pages(where, fields=fields, vectors=vectors, page=page):
            yield from records

    def retrieve(
        self,
        ids: Sequence[models.ExtendedPointId],
        *,
        fields: Sequence[str] | bool,
        vectors: Sequence[str] = (),
    ) -> dict[str, models.Record]:
        """The records of these ids that are there, by id."""
        found: dict[str, models.Record] = {}
        for some in batched(ids, self.most_values):
            # By a filter, since only that can be narrowed to a tenant.
            these = models.Filter(must=[models.HasIdCondition(has_id=list(some))])
            records = self.scroll(these, fields=fields, vectors=vectors, page=len(some))
            found.update((str(record.id), record) for record in records)
        return found

    def any(self, where: models.Filter) -> bool:
        """Whether any point matches; True where the server forbids the question."""
        try:
            records, _ = self._page(where, False, (), 1, None)
        except Exception as exc:
            if kind_of(exc) is not Failure.REFUSED:
                raise
            return True
        return bool(records)

    def count(self, where: models.Filter | None = None) -> int:
        """How many match, exactly; where a server forbids exact counts, they are read."""

        def count() -> int:
            own = scoped(where, self.tenant)
            answer = self.client.count(
                self.name,
                count_filter=own,
                exact=True,
                timeout=self._timeout_s,
                **self._selector,
            )
            return answer.count

        try:
            return self._read(count, "counting", nothing=0)
        except Exception as exc:
            if kind_of(exc) is not Failure.REFUSED:
                raise
        return sum(1 for _ in self.scroll(where, fields=False, page=LONG_PAGE))

    def facet(self, key: str, where: models.Filter | None = None, *, limit: int) -> dict[str, int]:
        """How many points have each value of an indexed key, exactly; else they are read.

        Args:
            key: The payload key.
            where: Among which points.
            limit: The most values to return, those of the most points first.
        """
        none: list[models.FacetValueHit] = []

        def facet() -> list[models.FacetValueHit]:
            answer = self.client.facet(
                self.name,
                key,
                facet_filter=scoped(where, self.tenant),
                limit=max(1, limit),
                exact=True,
                timeout=self._timeout_s,
                **self._selector,
            )
            return answer.hits

        try:
            hits = self._read(facet, "reading", nothing=none)
        except Exception as exc:
            if kind_of(exc) is not Failure.REFUSED:
                raise
            return dict(self.tally(key, where).most_common(limit))
        return {str(hit.value): hit.count for hit in hits}

    def tally(self, key: str, where: models.Filter | None = None) -> Counter[str]:
        """As `facet`, by reading that key of every point."""
        records = self.scroll(where, fields=[key], page=LONG_PAGE)
        return Counter(value for record in records for value in values_of(record, key))

    def query(self, requests: Sequence[models.QueryRequest]) -> list[types.QueryResponse]:
        """Answer searches, in one call as far as they fit into one."""
        own = [scoped_request(request, self.tenant) for request in requests]
        if self._shard_key is not None:
            own = [each.model_copy(update={"shard_key": self._shard_key}) for each in own]
        return [answer for part in in_calls(own) for answer in self._query(part)]

    def _query(self, requests: Sequence[models.QueryRequest]) -> list[types.QueryResponse]:
        return self._read(
            lambda: self.client.query_batch_points(
                self.name, requests=requests, timeout=self._search_timeout_s
            ),
            "searching",
            retry=SEARCHING,
            nothing=[types.QueryResponse(points=[]) for _ in requests],
        )

    def query_groups(
        self, request: models.QueryRequest, *, group_by: str, group_size: int
    ) -> types.GroupsResult:
        """Answer a search for groups; the request's limit counts groups."""
        arguments = group_arguments(
            scoped_request(request, self.tenant), group_by=group_by, group_size=group_size
        )
        return self._read(
            lambda: self.client.query_points_groups(
                self.name, **arguments, timeout=self._search_timeout_s, **self._selector
            ),
            "searching",
            retry=SEARCHING,
            nothing=types.GroupsResult(groups=[]),
        )

    def update(
        self,
        operations: Sequence[models.UpdateOperation],
        *,
        expected: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Carry out writes, one after the other, and return when they can be read.

        They are sent as they are: of a tenant, the caller sees to it that the points are its own
        and that filters are made by `within`.

        Args:
            operations: As `batch_update_points` takes them; dense vectors may be numpy rows.
            expected: Point id to document hash of all that is upserted: where the outcome of an
                attempt is unknown, what is there already is not sent again.
            stop: Set when the caller has left: then no further attempt is made.

        Raises:
            Stopped: `stop` was set.
        """
        attempt = _Attempt(self, [self._placed(each) for each in operations], expected or {})
        deliver(attempt, what=self._what("writing to"), retry=WRITING, stop=stop)

    def delete(self, where: models.Filter) -> None:
        """Delete what matches."""
        selector = models.FilterSelector(filter=self.within(where))
        self.update([models.DeleteOperation(delete=selector)])

    def within(self, where: models.Filter) -> models.Filter:
        """The filter narrowed to the tenant's points."""
        return scoped(where, self.tenant) or where

    def have(self, expected: Mapping[str, str]) -> bool:
        """Whether all points of these ids are there with these document hashes; asked once."""
        found: dict[str, object] = {}
        for ids in batched(expected, min(self.most_values, self._page_limit)):
            these = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
            records, _ = self._read_page(these, [_HASH], (), len(ids), None)
            found.update((str(each.id), (each.payload or {}).get(_HASH)) for each in records)
        return found == dict(expected)

    def send(self, operations: Sequence[models.UpdateOperation]) -> None:
        """One attempt at a write.

        Raises:
            StillQueued: It was accepted, and is not done yet.
        """
        for result in update_points(self.client, self.name, operations):
            if result.status is not models.UpdateStatus.COMPLETED:
                raise StillQueued(f"the write was {result.status}, not completed, in time")

    def _page(
        self,
        where: models.Filter | None,
        fields: Sequence[str] | bool,
        vectors: Sequence[str],
        page: int,
        offset: models.ExtendedPointId | None,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        none: tuple[list[models.Record], models.ExtendedPointId | None] = ([], None)
        return self._read(
            lambda: self._read_page(where, fields, vectors, page, offset), "reading", nothing=none
        )

    def _read_page(
        self,
        where: models.Filter | None,
        fields: Sequence[str] | bool,
        vectors: Sequence[str],
        page: int,
        offset: models.ExtendedPointId | None,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        return self.client.scroll(
            self.name,
            scroll_filter=scoped(where, self.tenant),
            limit=min(page, self._page_limit),
            offset=offset,
            with_payload=fields if isinstance(fields, bool) else list(fields),
            with_vectors=list(vectors) or False,
            timeout=self._timeout_s,
            **self._selector,
        )

    def _read(
        self, action: Callable[[], T], doing: str, *, nothing: T, retry: Retry = READING
    ) -> T:
        """What a read gives; `nothing` for a tenant whose shards are not there yet."""
        try:
            return deliver(action, what=self._what(doing), retry=retry)
        except Exception as exc:
            if self._shard_key is not None and lacks_shard_key(exc):
                return nothing
            raise

    def _placed(self, operation: models.UpdateOperation) -> models.UpdateOperation:
        """The operation with the shard it goes to."""
        if self._shard_key is None:
            return operation
        (field,) = type(operation).model_fields
        placed = getattr(operation, field).model_copy(update={"shard_key": self._shard_key})
        return operation.model_copy(update={field: placed})

    def _what(self, doing: str) -> str:
        return f"{doing} collection {self.name!r}"


def limits_of(strict: StrictMode | None) -> StrictMode:
    """What a server allows: all of it None unless strict mode is on."""
    return strict if strict is not None and strict.enabled else models.StrictModeConfig()


def in_calls(requests: Sequence[models.QueryRequest]) -> Iterator[list[models.QueryRequest]]:
    """Searches in as many calls as keep each below the size that a server takes."""
    return batched_within(requests, weigh=_numbers, most=_MOST_SEARCHES, heaviest=_MOST_NUMBERS)


def _numbers(search: models.QueryRequest | models.Prefetch) -> int:
    """How many numbers its query vectors have."""
    query = search.query.nearest if isinstance(search.query, models.NearestQuery) else search.query
    fed = search.prefetch if isinstance(search.prefetch, list) else []
    return (len(query) if isinstance(query, list) else 0) + sum(map(_numbers, fed))


def values_of(record: models.Record, key: str) -> set[str]:
    """What a facet counts of a record: each value of a key once, in lists and objects, too."""
    values = value_by_key(record.payload or {}, key) or []
    return {str(value) for value in values if isinstance(value, str | int)}


def group_arguments(
    request: models.QueryRequest, *, group_by: str, group_size: int
) -> dict[str, Any]:
    """A request as the keyword arguments of `query_points_groups`, but for its shard."""
    return {
        "group_by": group_by,
        "query": request.query,
        "using": request.using,
        "prefetch": request.prefetch,
        "query_filter": request.filter,
        "search_params": request.params,
        "limit": request.limit,
        "group_size": group_size,
        "with_payload": request.with_payload,
        "score_threshold": request.score_threshold,
    }


class _Attempt:
    """Attempts at one write: after one of unknown outcome, what has arrived is not sent again."""

    def __init__(
        self,
        points: Points,
        operations: list[models.UpdateOperation],
        expected: Mapping[str, str],
    ) -> None:
        self._points = points
        self._operations = operations
        self._expected = expected
        self._unsure = False

    def __call__(self) -> None:
        if self._unsure and self._expected and self._has_arrived():
            # The deletions after the upserts may still be owed.
            self._operations = [
                each for each in self._operations if not isinstance(each, models.UpsertOperation)
            ]
        if not self._operations:
            return
        try:
            self._points.send(self._operations)
        except BaseException as exc:
            self._unsure = self._unsure or is_unsure(exc)
            raise

    def _has_arrived(self) -> bool:
        # Asked once: an outage is waited for as long as a write is worth, not as a read.
        try:
            return self._points.have(self._expected)
        except Exception as exc:
            if kind_of(exc) is not Failure.REFUSED:
                raise
            return False  # strict mode forbids the question, and sending again does no harm
