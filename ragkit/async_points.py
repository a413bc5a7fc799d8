"""The points of a collection, read from coroutines: what `Points` is for threads, for searching."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.conversions import common_types as types

from ragkit.delivery import SEARCHING, adeliver
from ragkit.failures import Failure, kind_of, lacks_shard_key
from ragkit.pipeline import batched
from ragkit.points import (
    LONG_PAGE,
    MOST_VALUES,
    StrictMode,
    group_arguments,
    in_calls,
    limits_of,
    values_of,
)
from ragkit.tenancy import scoped, scoped_request

T = TypeVar("T")

# Calls of one client under way at once; the others wait here, where no time limit runs. All sent
# at once, 1,000 searches failed by hundreds: over REST each wants a connection (at most 100 in
# httpx's pool and 5 s to get one; on loopback one file descriptor each), over gRPC a stream, which
# servers reset beyond their limit, and the calls' deadlines pass while the server gets round to
# them. With 64 none failed and throughput was the same.
MAX_IN_FLIGHT = 64


async def sent(client: AsyncQdrantClient, call: Callable[[], Awaitable[T]], *, what: str) -> T:
    """What a call of a client gives: one of `MAX_IN_FLIGHT`, and tried again where that helps."""
    slots = _slots(client)

    async def attempt() -> T:
        async with slots:  # not held while waiting for another attempt
            return await call()

    return await adeliver(attempt, what=what, retry=SEARCHING)


class AsyncPoints:
    """Reads of one collection, within one tenant's points if it has tenants.

    Args:
        client: The store.
        name: The collection, or an alias of it.
        tenant: Whose points; None for all.
        shard_key: Where the tenant's points are, in a collection sharded by tenant.
        shown: What people call the collection.
        strict: What a server allows in this collection; nothing larger is asked for.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        name: str,
        *,
        tenant: str | None,
        shard_key: str | None,
        shown: str,
        strict: StrictMode | None,
    ) -> None:
        self._client = client
        self._name = name
        self._tenant = tenant
        self._shard_key = shard_key
        self._what = f"searching collection {shown!r}"
        limits = limits_of(strict)
        self._page_limit = limits.max_query_limit or LONG_PAGE
        self._most_values = min(
            MOST_VALUES, self._page_limit, limits.condition_max_size or MOST_VALUES
        )

    async def query(self, requests: Sequence[models.QueryRequest]) -> list[types.QueryResponse]:
        """Answer searches, in one call as far as they fit into one."""
        own = [
            scoped_request(request, self._tenant).model_copy(update={"shard_key": self._shard_key})
            for request in requests
        ]
        return [answer for part in in_calls(own) for answer in await self._query(part)]

    async def _query(self, requests: list[models.QueryRequest]) -> list[types.QueryResponse]:
        return await self._read(
            lambda: self._client.query_batch_points(self._name, requests=requests),
            nothing=[types.QueryResponse(points=[]) for _ in requests],
        )

    async def query_groups(
        self, request: models.QueryRequest, *, group_by: str, group_size: int
    ) -> types.GroupsResult:
        """Answer a search for groups; the request's limit counts groups."""
        arguments = group_arguments(
            scoped_request(request, self._tenant), group_by=group_by, group_size=group_size
        )
        return await self._read(
            lambda: self._client.query_points_groups(
                self._name, **arguments, shard_key_selector=self._shard_key
            ),
            nothing=types.GroupsResult(groups=[]),
        )

    async def retrieve(
        self,
        ids: Sequence[models.ExtendedPointId],
        *,
        fields: Sequence[str],
        vectors: Sequence[str] = (),
    ) -> dict[str, models.Record]:
        """The records of these ids that are there, by id."""
        found: dict[str, models.Record] = {}
        for some in batched(ids, self._most_values):
            found |= await self._retrieve(list(some), list(fields), list(vectors))
        return found

    async def values(self, key: str, *, limit: int) -> list[str]:
        """What values a payload key has; of a key without an index every point is read.

        Args:
            key: The payload key.
            limit: The most values to return, those of the most points first.
        """
        try:
            answer = await self._read(
                lambda: self._client.facet(
                    self._name,
                    key,
                    facet_filter=scoped(None, self._tenant),
                    limit=limit,
                    exact=True,
                    shard_key_selector=self._shard_key,
                ),
                nothing=types.FacetResponse(hits=[]),
            )
        except Exception as exc:
            if kind_of(exc) is not Failure.REFUSED:
                raise
            return await self._values_read(key)
        return [str(hit.value) for hit in answer.hits]

    async def any(self, where: models.Filter) -> bool:
        """Whether any point matches; True where the server forbids the question."""
        try:
            records, _ = await self._page(where, limit=1, fields=[])
        except Exception as exc:
            if kind_of(exc) is not Failure.REFUSED:
                raise
            return True
        return bool(records)

    async def _values_read(self, key: str) -> list[str]:
        found: dict[str, None] = {}
        offset: models.ExtendedPointId | None = None
        while True:
            records, offset = await self._page(
                None, limit=self._page_limit, fields=[key], offset=offset
            )
            for record in records:
                found |= dict.fromkeys(sorted(values_of(record, key)))
            if offset is None:
                return list(found)

    async def _retrieve(
        self, ids: list[models.ExtendedPointId], fields: list[str], vectors: list[str]
    ) -> dict[str, models.Record]:
        # By a filter, since only that can be narrowed to a tenant.
        these = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
        records, _ = await self._page(these, limit=len(ids), fields=fields, vectors=vectors)
        return {str(record.id): record for record in records}

    async def _page(
        self,
        where: models.Filter | None,
        *,
        limit: int,
        fields: list[str],
        vectors: list[str] | None = None,
        offset: models.ExtendedPointId | None = None,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        none: tuple[list[models.Record], models.ExtendedPointId | None] = ([], None)
        return await self._read(
            lambda: self._client.scroll(
                self._name,
                scroll_filter=scoped(where, self._tenant),
                limit=limit,
                offset=offset,
                with_payload=fields,
                with_vectors=vectors or False,
                shard_key_selector=self._shard_key,
            ),
            nothing=none,
        )

    async def _read(self, call: Callable[[], Awaitable[T]], *, nothing: T) -> T:
        """What a read gives; `nothing` for a tenant whose shards are not there yet."""
        try:
            return await sent(self._client, call, what=self._what)
        except Exception as exc:
            if self._shard_key is not None and lacks_shard_key(exc):
                return nothing
            raise


_SLOTS: WeakKeyDictionary[
    AsyncQdrantClient, tuple[asyncio.AbstractEventLoop, asyncio.Semaphore]
] = WeakKeyDictionary()


def _slots(client: AsyncQdrantClient) -> asyncio.Semaphore:
    """The places of a client's calls: shared by all its retrievers, such as those of tenants."""
    loop = asyncio.get_running_loop()
    held = _SLOTS.get(client)
    if held is None or held[0] is not loop:
        held = _SLOTS[client] = (loop, asyncio.Semaphore(MAX_IN_FLIGHT))
    return held[1]
