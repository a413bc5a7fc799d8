"""Queries become hits, many at a time on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.conversions import common_types as types

from ragkit.collection import FRESH_S
from ragkit.delivery import SEARCHING, adeliver
from ragkit.embeddings import AsyncEmbedder, Embedder, Vectors, aembed_query, embed_query
from ragkit.errors import CollectionNotFound, StoreDenied
from ragkit.failures import Failure, kind_of, lacks_shard_key
from ragkit.manifest import Manifest, check_complete, check_embedder
from ragkit.search_request import (
    Hit,
    Mode,
    Search,
    Searchable,
    hits,
    query_embedder,
    query_request,
)
from ragkit.tenancy import check_tenant
from ragkit.versions import alias_map, missing, shown

T = TypeVar("T")

# Calls of one client under way at once; the others wait here, where no time limit runs. All sent
# at once, 1,000 searches failed by hundreds: over REST each wants a connection (at most 100 in
# httpx's pool and 5 s to get one; on loopback one file descriptor each), over gRPC a stream, which
# servers reset beyond their limit, and the calls' deadlines pass while the server gets round to
# them. With 64 none failed and throughput was the same.
MAX_IN_FLIGHT = 64
# Of embedders without coroutines. Threads of its own, since the event loop's few default ones also
# look up host names: 200 queries waiting there would let connections time out.
_EMBEDDING_THREADS = 8


class AsyncRetriever:
    """Searches a collection from coroutines, as `Retriever` does from threads.

    The collection's manifest is read with the first search, again after the server has refused one
    or found no collection, and every 30 seconds, since a rebuild may have moved the name. Any
    search may be cancelled at any time: no task is left behind, and no other search fails for it. A
    thread that is embedding ends by itself.

    Args:
        client: Its event loop is the retriever's; it stays the caller's to close.
        name: The collection's name, or an alias of it.
        embedder: The one the collection was made with; None to search by keywords alone. Its
            `aembed_query` is awaited if it has one, else `embed_query` runs in a thread.
        tenant: Whose part of a collection that is shared by tenants.

    Raises:
        ValueError: A blank tenant.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        name: str,
        *,
        embedder: Embedder | None = None,
        tenant: str | None = None,
    ) -> None:
        check_tenant(tenant)
        self._client = client
        self._name = name
        self._embedder = embedder
        self._tenant = tenant
        self._searchable: _Shared[Searchable] = _Shared()
        # Its threads start when needed, and end when the retriever is no longer referred to.
        self._threads = ThreadPoolExecutor(_EMBEDDING_THREADS, thread_name_prefix="ragkit-embed")

    def __repr__(self) -> str:
        embedder = self._embedder.fingerprint if self._embedder else None
        return f"AsyncRetriever({self._name!r}, embedder={embedder!r})"

    async def search(
        self,
        query: str,
        *,
        limit: int = 10,
        mode: Mode | None = None,
        filter: models.Filter | None = None,  # noqa: A002  (Qdrant's word)
        oversampling: float | None = None,
        rescore: bool = True,
        exact: bool = False,
        score_threshold: float | None = None,
    ) -> list[Hit]:
        """Find the passages that answer a query best: options and hits as in `Retriever.search`.

        Raises:
            ValueError: A blank query, or an option out of range.
            CollectionNotFound: There is no such collection.
            CollectionMismatch: The embedder is not the collection's, or the mode needs one; or
                the collection is shared by tenants, and none is named.
            StoreUnavailable: The server went on failing until the deadline.
        """
        search = Search(
            query=query,
            limit=limit,
            mode=mode,
            filter=filter,
            oversampling=oversampling,
            rescore=rescore,
            exact=exact,
            score_threshold=score_threshold,
        )
        where = await self._searchable.get(self._read)
        embedder = query_embedder(search, where)
        vector = None if embedder is None else await self._embed(embedder, query)
        try:
            return await self._answer(search, where, vector)
        except CollectionNotFound:
            # Older versions may have been deleted since it was opened.
            return await self._answer(search, await self._searchable.get(self._read), vector)

    async def _answer(self, search: Search, where: Searchable, vector: Vectors | None) -> list[Hit]:
        request = query_request(search, where, vector=vector)
        return [] if request is None else hits(await self._send(request, where))

    async def _read(self) -> Searchable:
        """Ask the server what the collection is, and check that it can be searched so."""
        version = await self._version()
        try:
            info = await self._ask(lambda: self._client.get_collection(version), "opening")
        except Exception as exc:
            if kind_of(exc) is not Failure.NOT_FOUND:
                raise
            raise CollectionNotFound(missing(self._name, await self._names())) from exc
        manifest = Manifest.from_metadata(info.config.metadata, name=self._name)
        check_complete(manifest, name=self._name)
        check_embedder(manifest, self._embedder, name=self._name)
        return Searchable(
            name=self._name,
            version=version,
            manifest=manifest,
            config=info.config,
            embedder=self._embedder,
            embedded=False,
            tenant=self._tenant,
        )

    async def _embed(self, embedder: Embedder, query: str) -> Vectors:
        if isinstance(embedder, AsyncEmbedder):
            return await aembed_query(embedder, query)
        loop, run = asyncio.get_running_loop(), copy_context().run
        return await loop.run_in_executor(self._threads, run, embed_query, embedder, query)

    async def _send(self, request: models.QueryRequest, where: Searchable) -> types.QueryResponse:
        try:
            (response,) = await self._ask(
                lambda: self._client.query_batch_points(where.version, requests=[request]),
                "searching",
            )
        except Exception as exc:
            if request.shard_key is not None and lacks_shard_key(exc):
                return types.QueryResponse(points=[])  # a tenant that has not written yet
            kind = kind_of(exc)
            if kind in (Failure.NOT_FOUND, Failure.REFUSED):
                self._searchable.forget()  # it may have been made anew since it was read
            if kind is Failure.NOT_FOUND:
                raise CollectionNotFound(f"collection {self._name!r} is gone") from exc
            raise
        return response

    async def _ask(self, call: Callable[[], Awaitable[T]], doing: str) -> T:
        slots = _slots(self._client)

        async def attempt() -> T:
            async with slots:  # not held while waiting for another attempt
                return await call()

        return await adeliver(attempt, what=f"{doing} collection {self._name!r}", retry=SEARCHING)

    async def _version(self) -> str:
        """The collection that the name stands for now."""
        try:
            aliases = alias_map(await self._ask(self._client.get_aliases, "looking for"))
        except StoreDenied:  # a key for this collection alone may not list aliases
            return self._name
        return aliases.get(self._name, self._name)

    async def _names(self) -> list[str]:
        aliases = alias_map(await self._ask(self._client.get_aliases, "looking for"))
        made = (await self._ask(self._client.get_collections, "looking for")).collections
        return shown(aliases, [each.name for each in made])


class _Shared(Generic[T]):
    """What is read by the first who asks, for all who ask meanwhile and some time later.

    The one who reads does so in his own task. Is he cancelled, one of those who wait reads
    instead; does he fail, they fail with him, and the next to ask reads again.
    """

    def __init__(self) -> None:
        self._value: T | None = None
        self._read_at = 0.0
        self._reading: asyncio.Future[Exception | None] | None = None

    async def get(self, read: Callable[[], Awaitable[T]]) -> T:
        while self._value is None or time.monotonic() - self._read_at > FRESH_S:
            if self._reading is None:
                return await self._read_for_all(read)
            # Shielded, for else one who is cancelled would cancel the future of all.
            error = await asyncio.shield(self._reading)
            if error is not None:
                raise error
        return self._value

    def forget(self) -> None:
        self._value = None

    async def _read_for_all(self, read: Callable[[], Awaitable[T]]) -> T:
        reading = self._reading = asyncio.get_running_loop().create_future()
        error = None
        try:
            value = self._value = await read()
            self._read_at = time.monotonic()
        except Exception as exc:
            error = exc
            raise
        finally:
            self._reading = None
            reading.set_result(error)
        return value


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
