"""Queries become hits, many at a time on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike
from qdrant_client import AsyncQdrantClient, models

from ragkit.asked import Asking, as_rows
from ragkit.async_points import AsyncPoints, sent
from ragkit.budget import Passages
from ragkit.embeddings import (
    AsyncEmbedder,
    AsyncQueryBatchEmbedder,
    Embedder,
    Vectors,
    aembed_queries,
    aembed_query,
    embed_queries,
)
from ragkit.errors import CollectionNotFound, StoreDenied
from ragkit.explain import Explanation, explained
from ragkit.failures import Failure, kind_of
from ragkit.foreign import ForeignSchema
from ragkit.hits import Hits
from ragkit.manifest import Manifest, check_complete, check_embedder
from ragkit.reranking import Reranker, check_reranker, rerank
from ragkit.search_flow import MOST_VALUES, PASSAGE_DEFAULTS, packed, search
from ragkit.search_options import SearchKeywords
from ragkit.search_request import Searchable
from ragkit.search_steps import Embed, Flow, Group, Holds, Query, Read, Rerank, Step, Values
from ragkit.server import aserver_info
from ragkit.tenancy import check_tenant
from ragkit.versions import FRESH_S, alias_map, missing, shown

T = TypeVar("T")

# Of embedders without coroutines and of rerankers. Threads of its own, since the event loop's few
# default ones also look up host names: 200 queries waiting there would let connections time out.
_THREADS = 8


class AsyncRetriever:
    """Searches a collection from coroutines, as `Retriever` does from threads.

    The collection's manifest is read with the first search, again after the server has refused one
    or found no collection, and every 30 seconds, since a rebuild may have moved the name. Any
    search may be cancelled at any time: no task is left behind, and no other search fails for it. A
    thread that is embedding or reranking ends by itself.

    Args:
        client: Its event loop is the retriever's; it stays the caller's to close.
        name: The collection's name, or an alias of it.
        embedder: The one the collection was made with; None to search by keywords alone. Its
            coroutines are awaited if it has them, else it runs in a thread.
        tenant: Whose part of a collection that is shared by tenants.
        foreign: Where a collection that ragkit did not make keeps what.
        reranker: As of `Retriever`; it runs in a thread.
        **options: How all its searches are made, see `SearchOptions`; a search may overrule them.

    Raises:
        TypeError: There is no such option.
        ValueError: A blank tenant, or an option out of its range.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        name: str,
        *,
        embedder: Embedder | None = None,
        tenant: str | None = None,
        foreign: ForeignSchema | None = None,
        reranker: Reranker | None = None,
        **options: Unpack[SearchKeywords],
    ) -> None:
        check_tenant(tenant)
        check_reranker(reranker)
        self._client = client
        self._name = name
        self._embedder = embedder
        self._tenant = tenant
        self._foreign = foreign
        self._reranker = reranker
        self._ask = Asking(options, rerank=reranker is not None)
        self._searchable: _Shared[Searchable] = _Shared()
        # Its threads start when needed, and end when the retriever is no longer referred to.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ragkit")

    def __repr__(self) -> str:
        embedder = self._embedder.fingerprint if self._embedder else None
        return f"AsyncRetriever({self._name!r}, embedder={embedder!r})"

    async def search(
        self, query: str, *, vector: ArrayLike | None = None, **options: Unpack[SearchKeywords]
    ) -> Hits:
        """As `Retriever.search`."""
        asked = self._ask([query], as_rows(vector), options)
        (hits,) = await self._run(lambda where: search(asked, where))
        return hits

    async def search_many(
        self,
        queries: Sequence[str],
        *,
        vectors: ArrayLike | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[Hits]:
        """As `Retriever.search_many`."""
        asked = self._ask(queries, vectors, options)
        return await self._run(lambda where: search(asked, where))

    async def passages(
        self,
        query: str,
        *,
        token_budget: int,
        vector: ArrayLike | None = None,
        **options: Unpack[SearchKeywords],
    ) -> Passages:
        """As `Retriever.passages`."""
        asked = self._ask([query], as_rows(vector), options, PASSAGE_DEFAULTS)
        return await self._run(lambda where: packed(asked, where, token_budget=token_budget))

    async def explain(
        self, query: str, *, vector: ArrayLike | None = None, **options: Unpack[SearchKeywords]
    ) -> Explanation:
        """As `Retriever.explain`."""
        asked = self._ask([query], as_rows(vector), options)
        return await self._run(lambda where: explained(asked, where))

    async def _run(self, flow: Callable[[Searchable], Flow[T]]) -> T:
        where = await self._searchable.get(self._read)
        embedded: dict[Embed, Vectors] = {}
        try:
            return await self._perform(flow(where), where, embedded)
        except CollectionNotFound:
            # Older versions may have been deleted since it was opened.
            where = await self._searchable.get(self._read)
            return await self._perform(flow(where), where, embedded)

    async def _perform(self, flow: Flow[T], where: Searchable, embedded: dict[Embed, Vectors]) -> T:
        """Carry out a flow; what was embedded (and paid for) is kept for a second attempt."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Embed):
                    if step not in embedded:
                        embedded[step] = await self._embed(step, where)
                    step = flow.send(embedded[step])
                else:
                    step = flow.send(await self._answer(step, where))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _embed(self, step: Embed, where: Searchable) -> Vectors:
        embedder, queries = where.embedder, step.queries
        assert embedder is not None  # noqa: S101  (else it is not asked for)
        if len(queries) == 1 and isinstance(embedder, AsyncEmbedder):
            return (await aembed_query(embedder, queries[0]))[np.newaxis]
        if isinstance(embedder, AsyncQueryBatchEmbedder):
            return await aembed_queries(embedder, queries)
        return await self._in_thread(embed_queries, embedder, queries)

    async def _answer(self, step: Step, where: Searchable) -> Any:
        if isinstance(step, Rerank):
            assert self._reranker is not None  # noqa: S101  (else it is not asked for)
            return await self._in_thread(rerank, self._reranker, step.query, step.hits)
        try:
            return await self._read_points(step, where)
        except Exception as exc:
            kind = kind_of(exc)
            if kind in (Failure.NOT_FOUND, Failure.REFUSED):
                self._searchable.forget()  # it may have been made anew since it was read
            if kind is Failure.NOT_FOUND:
                raise CollectionNotFound(f"collection {self._name!r} is gone") from exc
            raise

    async def _read_points(self, step: Step, where: Searchable) -> Any:
        points = AsyncPoints(
            self._client,
            where.version,
            tenant=where.tenant,
            shard_key=where.shard_key,
            shown=self._name,
            strict=where.info.config.strict_mode_config,
        )
        match step:
            case Query():
                return await points.query(step.requests)
            case Group():
                return await points.query_groups(
                    step.request, group_by=step.group_by, group_size=step.group_size
                )
            case Read():
                return await points.retrieve(step.ids, fields=step.fields, vectors=step.vectors)
            case Holds():
                return await points.any(step.condition)
            case Values():
                return await points.values(step.key, limit=MOST_VALUES)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        loop, run = asyncio.get_running_loop(), copy_context().run
        return await loop.run_in_executor(self._threads, partial(run, call, *arguments))

    async def _read(self) -> Searchable:
        """Ask the server what the collection is, and check that it can be searched so."""
        version = await self._version()
        try:
            info = await self._sent(lambda: self._client.get_collection(version), "opening")
        except Exception as exc:
            if kind_of(exc) is not Failure.NOT_FOUND:
                raise
            raise CollectionNotFound(missing(self._name, await self._names())) from exc
        return Searchable(
            name=self._name,
            version=version,
            manifest=self._manifest(info.config),
            foreign=self._foreign,
            info=info,
            embedder=self._embedder,
            server=await aserver_info(self._client),
            tenant=self._tenant,
        )

    def _manifest(self, config: models.CollectionConfig) -> Manifest | None:
        """The manifest, found fit to be searched with the embedder."""
        if self._foreign is not None:
            self._foreign.check(config, self._embedder, name=self._name)
            return None
        manifest = Manifest.from_metadata(config.metadata, name=self._name)
        check_complete(manifest, name=self._name)
        check_embedder(manifest, self._embedder, name=self._name)
        return manifest

    async def _version(self) -> str:
        """The collection that the name stands for now."""
        try:
            aliases = alias_map(await self._sent(self._client.get_aliases, "looking for"))
        except StoreDenied:  # a key for this collection alone may not list aliases
            return self._name
        return aliases.get(self._name, self._name)

    async def _names(self) -> list[str]:
        aliases = alias_map(await self._sent(self._client.get_aliases, "looking for"))
        made = (await self._sent(self._client.get_collections, "looking for")).collections
        return shown(aliases, [each.name for each in made])

    async def _sent(self, call: Callable[[], Awaitable[T]], doing: str) -> T:
        return await sent(self._client, call, what=f"{doing} collection {self._name!r}")


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
