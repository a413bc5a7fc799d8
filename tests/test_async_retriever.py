"""`AsyncRetriever` over the real asynchronous client, on the wire of the stand-in server."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types
from qdrant_standin import Server, running
from servers import tidied

import ragkit.stores
from ragkit import async_points
from ragkit.async_points import MAX_IN_FLIGHT
from ragkit.async_retriever import AsyncRetriever
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Embedder, HashEmbedder, Vectors
from ragkit.errors import (
    CollectionMismatch,
    CollectionNotFound,
    EmbeddingError,
    StoreDenied,
    StoreUnavailable,
)
from ragkit.hits import Hit
from ragkit.indexer import Indexer
from ragkit.pacing import Retry
from ragkit.retriever import Retriever
from ragkit.search_options import Mode

T = TypeVar("T")

WORDS = ["key", "door", "house", "walrus", "tusk", "banana", "sea", "rotate", "yellow", "ninety"]
_dice = random.Random(7)
# Of many lengths, so that few score the same: among equals a store may take any up to the limit.
DOCUMENTS = [
    Document(
        source=f"{n}.md",
        title=WORDS[n % 10],
        text=" ".join(_dice.choices(WORDS, k=5 + n)) + f" number{n}",
        metadata={"year": 2000 + n % 3},
    )
    for n in range(60)
]
EMBEDDER = HashEmbedder(128)
YEAR = models.Filter(
    must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2001))]
)


_WIRES = [
    "rest",
    "grpc",
    pytest.param("server-rest", marks=pytest.mark.server),
    pytest.param("server-grpc", marks=pytest.mark.server),
]


class Connect:
    """Runs a coroutine function with a client, and sees that it leaves no task behind."""

    def __init__(self, url: str, grpc_port: int, *, grpc: bool, api_key: str | None = None) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "grpc_port": grpc_port,
            "prefer_grpc": grpc,
            "api_key": api_key,
        }

    def __call__(self, action: Callable[[AsyncQdrantClient], Awaitable[T]]) -> T:
        async def alone() -> T:
            client = await ragkit.stores.aconnect(self._url, **self._options)
            try:
                result = await action(client)
                assert await own_tasks() == set()
                return result
            finally:
                await client.close()

        return asyncio.run(alone())


@pytest.fixture(params=_WIRES)
def store(
    request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]
) -> tuple[QdrantBase, Connect]:
    """The stand-in and a real server: a client to fill it with, and asynchronous ones."""
    where, _, protocol = request.param.rpartition("-")
    server = request.getfixturevalue(where or "standin")
    connect = Connect(server.url, server.grpc_port, grpc=protocol == "grpc", api_key=server.api_key)
    return open_store(request.param), connect


@pytest.fixture(scope="module")
def running_qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stand-in of our own, with the collection "docs" that none of the tests changes."""
    with running(tmp_path_factory.mktemp("qdrant")) as qdrant:
        with closing(QdrantClient(url=qdrant.url, check_compatibility=False)) as client:
            Indexer(Collection(client, "docs", embedder=EMBEDDER)).add(DOCUMENTS)
        yield qdrant
        assert qdrant.broken == []


@pytest.fixture
def qdrant(running_qdrant: Server) -> Server:
    """The same, with nothing planned to go wrong and nothing recorded."""
    running_qdrant.faults.clear()
    running_qdrant.faults.struck.clear()
    running_qdrant.requests.clear()
    return running_qdrant


@pytest.fixture(params=["rest", "grpc"])
def connect(request: pytest.FixtureRequest, qdrant: Server) -> Connect:
    return Connect(qdrant.url, qdrant.grpc_port, grpc=request.param == "grpc")


@pytest.fixture
def writer(qdrant: Server) -> Iterator[QdrantClient]:
    """For what a test makes itself; it goes with the test."""
    with closing(QdrantClient(url=qdrant.url, check_compatibility=False)) as client, tidied(client):
        yield client


@pytest.fixture
def docs(writer: QdrantClient) -> Collection:
    return Collection(writer, "docs", embedder=EMBEDDER)


class Count:
    """Counts the searches of a client that are under way."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self.now = self.most = 0
        self._send = client.query_batch_points
        client.query_batch_points = self._counted  # type: ignore[method-assign]

    async def _counted(self, *args: Any, **kwargs: Any) -> list[types.QueryResponse]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._send(*args, **kwargs)
        finally:
            self.now -= 1


async def own_tasks() -> set[asyncio.Task[Any]]:
    """Tasks other than the caller's and those that the gRPC library keeps for its channels."""
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in others if "grpc" not in repr(task.get_coro())}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError)


def count(qdrant: Server, operation: str) -> int:
    return sum(request.operation == operation for request in qdrant.requests)


def sources(hits: Sequence[Hit]) -> list[str]:
    return [hit.source for hit in hits]


@pytest.mark.parametrize("quantization", ["none", "binary"])
def test_hits_are_those_of_the_synchronous_retriever_on_the_embedded_engine(
    store: tuple[QdrantBase, Connect], edge: EdgeClient, quantization: str
) -> None:
    writer, connect = store
    for client in (writer, edge):
        made = Collection(client, "same", embedder=EMBEDDER, quantization=quantization)
        Indexer(made).add(DOCUMENTS)
    asked: list[dict[str, Any]] = [
        {"query": "rotate the key of the house"},
        {"query": "walrus number7", "limit": 3, "filter": YEAR},
        {"query": "the of and", "limit": 60},
        {"query": "yellow banana", "exact": True, "limit": 5},
        {"query": "sea", "score_threshold": 0.05},
    ]
    if quantization == "binary":
        asked.append({"query": "walrus", "oversampling": 60.0})
    # Fused ranks often tie, and at the limit a server takes any of those that do.
    whole = [{**each, "limit": 60} for each in asked]
    options = [{"mode": mode, **each} for mode in ("dense", "sparse") for each in asked]
    options += [{"mode": mode, **each} for mode in ("hybrid", None) for each in whole]
    expected = [Retriever(made).search(**each) for each in options]

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        retriever = AsyncRetriever(client, "same", embedder=EMBEDDER)
        return [await retriever.search(**each) for each in options]

    found = connect(ask)
    for some, same in zip(found, expected, strict=True):
        assert [replace(hit, score=0) for hit in some] == [replace(hit, score=0) for hit in same]
        assert [hit.score for hit in some] == pytest.approx([hit.score for hit in same], abs=1e-5)
    assert sum(map(len, found)) > 100


def test_without_an_embedder_it_searches_by_words(connect: Connect, docs: Collection) -> None:
    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        return await AsyncRetriever(client, "docs").search("number7")

    assert sources(connect(ask)) == ["7.md"]


def test_two_hundred_searches_at_once_get_their_own_answers(
    store: tuple[QdrantBase, Connect],
) -> None:
    made = Collection(store[0], "busy", embedder=EMBEDDER)
    Indexer(made).add(DOCUMENTS)
    queries = [f"number{n % 60} {WORDS[n % 10]}" for n in range(200)]
    expected = [Retriever(made).search(query, limit=3, mode="sparse") for query in queries[:60]]

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        counted = Count(client)
        # Those of one client share what it may send at once.
        pair = [AsyncRetriever(client, "busy", embedder=EMBEDDER) for _ in range(2)]
        searches = [
            pair[n % 2].search(query, limit=3, mode="sparse" if n % 4 else None)
            for n, query in enumerate(queries)
        ]
        found = await asyncio.gather(*searches)
        assert 1 < counted.most <= MAX_IN_FLIGHT
        return found

    found = store[1](ask)
    for n, hits in enumerate(found):
        if n % 4:
            assert hits == expected[n % 60]
        else:
            assert len(hits) == 3


def test_the_manifest_is_read_once_for_all_searches(connect: Connect, qdrant: Server) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        qdrant.requests.clear()
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        await asyncio.gather(*(retriever.search("key") for _ in range(20)))
        await retriever.search("key")

    connect(ask)
    assert Counter(each.operation for each in qdrant.requests) == {
        "get_aliases": 1,
        "get_collection": 1,
        "query_batch": 21,
    }


def test_a_retriever_serves_one_event_loop_after_the_other(
    docs: Collection, qdrant: Server
) -> None:
    client = AsyncQdrantClient(url=qdrant.url, check_compatibility=False)
    retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)

    async def ask() -> None:
        await asyncio.gather(*(retriever.search(f"number{n % 60}") for n in range(100)))

    asyncio.run(ask())
    asyncio.run(ask())
    asyncio.run(client.close())
    assert count(qdrant, "query_batch") == 200


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, with less of a wait between attempts."""
    retry = Retry(timeout_s=5, deadline_s=0.4, jitter=lambda low, high: min(high, 0.01))
    monkeypatch.setattr(async_points, "SEARCHING", retry)


@pytest.mark.usefixtures("impatient")
def test_what_fails_in_passing_is_tried_again(
    connect: Connect, docs: Collection, qdrant: Server
) -> None:
    for kind in (503, 429, 500, "drop"):
        qdrant.faults.add(kind, on="get_collection")
        qdrant.faults.add(kind, on="query_batch")

    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        return await AsyncRetriever(client, "docs", embedder=EMBEDDER).search("number7")

    assert sources(connect(ask))[0] == "7.md"
    assert len(qdrant.faults.struck) == 8


@pytest.mark.usefixtures("impatient")
def test_what_goes_on_failing_is_an_error_at_the_deadline(
    connect: Connect, docs: Collection, qdrant: Server
) -> None:
    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        qdrant.faults.add(503, on="get_collection", times=1_000_000)
        with pytest.raises(
            StoreUnavailable, match=r"opening collection 'docs' failed: .* attempts"
        ):
            await retriever.search("key")
        qdrant.faults.clear()
        assert await retriever.search("key")
        qdrant.faults.add(503, on="query_batch", times=1_000_000)
        with pytest.raises(StoreUnavailable, match="searching collection 'docs' failed"):
            await retriever.search("key")
        qdrant.faults.clear()
        return await retriever.search("number7")

    assert sources(connect(ask))[0] == "7.md"


def test_a_missing_key_is_no_matter_of_trying_again(tmp_path: Path) -> None:
    async def ask(qdrant: Server, grpc: bool) -> None:
        client = AsyncQdrantClient(
            url=qdrant.url, grpc_port=qdrant.grpc_port, prefer_grpc=grpc, check_compatibility=False
        )
        with pytest.raises(StoreDenied, match="opening collection 'docs'"):
            await AsyncRetriever(client, "docs").search("keys")
        await client.close()

    with running(tmp_path, api_key="secret") as qdrant:
        asyncio.run(ask(qdrant, grpc=False))
        asyncio.run(ask(qdrant, grpc=True))


def test_a_cancelled_first_search_does_not_take_the_others_with_it(
    connect: Connect, qdrant: Server
) -> None:
    qdrant.faults.add("delay", on="get_collection", delay_s=60)

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        tasks = [asyncio.create_task(retriever.search(f"number{n}")) for n in range(10)]
        await until(lambda: count(qdrant, "get_collection") == 1)
        await cancel(tasks[:3])
        return await asyncio.gather(*tasks[3:])

    found = connect(ask)
    assert [sources(hits)[0] for hits in found] == [f"{n}.md" for n in range(3, 10)]
    assert count(qdrant, "get_collection") == 2


def test_when_all_are_cancelled_the_next_search_reads_anew(
    connect: Connect, docs: Collection, qdrant: Server
) -> None:
    qdrant.faults.add("delay", on="get_collection", delay_s=60)

    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        tasks = [asyncio.create_task(retriever.search("number1")) for _ in range(5)]
        await until(lambda: bool(qdrant.faults.struck))
        await cancel(tasks)
        assert await own_tasks() == set()
        return await retriever.search("number1")

    assert sources(connect(ask))[0] == "1.md"


def test_searches_cancelled_on_the_wire_give_their_places_back(
    connect: Connect, docs: Collection, qdrant: Server
) -> None:
    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        counted = Count(client)
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        await retriever.search("key")
        qdrant.faults.add("delay", on="query_batch", times=8, delay_s=60)
        tasks = [asyncio.create_task(retriever.search("key")) for _ in range(8)]
        await until(lambda: len(qdrant.faults.struck) == 8)
        await cancel(tasks)
        assert await own_tasks() == set()
        assert counted.now == 0
        found = await asyncio.gather(*(retriever.search(f"number{n}") for n in range(60)))
        await cancel_many(retriever)
        assert counted.now == 0
        return [*found, await retriever.search("number1")]

    async def cancel_many(retriever: AsyncRetriever) -> None:
        """More than may be sent at once, each at another moment of its way."""
        tasks = [asyncio.create_task(retriever.search("key")) for _ in range(3 * MAX_IN_FLIGHT)]
        for n, task in enumerate(tasks):
            if n % 8 == 0:
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await own_tasks() == set()

    found = connect(ask)
    assert [sources(hits)[0] for hits in found] == [f"{n}.md" for n in (*range(60), 1)]


def test_a_search_cancelled_while_it_waits_for_another_attempt_ends_at_once(
    connect: Connect, docs: Collection, qdrant: Server
) -> None:
    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        counted = Count(client)
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        await retriever.search("key")
        qdrant.faults.add(429, on="query_batch", times=MAX_IN_FLIGHT, retry_after_s=20)
        tasks = [asyncio.create_task(retriever.search("key")) for _ in range(MAX_IN_FLIGHT)]
        await until(lambda: len(qdrant.faults.struck) == MAX_IN_FLIGHT and counted.now == 0)
        # Those who wait hold no places, so that others get through meanwhile.
        hits = await retriever.search("number3")
        assert not any(task.done() for task in tasks)
        await cancel(tasks)
        return hits

    assert sources(connect(ask))[0] == "3.md"


def test_a_search_cancelled_while_a_thread_embeds_breaks_no_other(
    connect: Connect, docs: Collection
) -> None:
    embedder = Slow()

    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        retriever = AsyncRetriever(client, "docs", embedder=embedder)
        tasks = [asyncio.create_task(retriever.search(f"number{n}")) for n in range(100)]
        await until(lambda: len(embedder.asked) > 1)
        # With a hundred queries to embed, the loop's own threads are free for others.
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(lambda: "free") == "free"
        begun = len(embedder.asked)
        await cancel(tasks)
        assert await own_tasks() == set()
        embedder.go.set()
        hits = await retriever.search("number5")
        assert len(embedder.asked) == begun + 1  # what had not begun never does
        return hits

    assert sources(connect(ask))[0] == "5.md"


CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


class Slow(HashEmbedder):
    """Waits for `go`."""

    def __init__(self) -> None:
        super().__init__(128)
        self.go = threading.Event()
        self.asked: list[str] = []

    def embed_query(self, text: str) -> Vectors:
        self.asked.append(text)
        assert self.go.wait(20)
        return super().embed_query(text)


class Watched(HashEmbedder):
    """Notes in which thread and for whom it embeds."""

    def __init__(self) -> None:
        super().__init__(128)
        self.calls: list[tuple[bool, str]] = []

    def embed_query(self, text: str) -> Vectors:
        self.calls.append((threading.current_thread() is threading.main_thread(), CALLER.get()))
        return super().embed_query(text)


class Asynchronous(Watched):
    """Has a coroutine to embed a query with."""

    async def aembed_query(self, text: str) -> Vectors:
        await asyncio.sleep(0)
        return 3 * self.embed_query(text)


@pytest.mark.parametrize(("embedder", "on_loop"), [(Watched(), False), (Asynchronous(), True)])
def test_an_embedder_is_awaited_or_else_runs_in_a_thread_with_the_callers_context(
    connect: Connect, docs: Collection, embedder: Watched, on_loop: bool
) -> None:
    embedder.calls.clear()

    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        CALLER.set("me")
        return await AsyncRetriever(client, "docs", embedder=embedder).search("key", mode="dense")

    assert connect(ask) == Retriever(docs).search("key", mode="dense")
    assert embedder.calls == [(on_loop, "me")]


class Broken(HashEmbedder):
    """Returns what is no vector of the query."""

    def __init__(self, vector: object) -> None:
        super().__init__(128)
        self._vector = vector

    def embed_query(self, text: str) -> Vectors:
        return self._vector  # type: ignore[return-value]


class AsyncBroken(Broken):
    """The same from a coroutine."""

    async def aembed_query(self, text: str) -> Vectors:
        return self.embed_query(text)


@pytest.mark.parametrize("kind", [Broken, AsyncBroken])
def test_a_bad_vector_is_refused_before_a_search_is_sent(
    qdrant: Server, docs: Collection, kind: type[Broken]
) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        for vector, message in (
            (np.ones(64, np.float32), "expected vectors of shape"),
            (np.full(128, np.nan, np.float32), "expected finite numbers"),
            (np.zeros(128, np.float32), "expected non-zero vectors"),
            ("words", "expected .* numbers"),
        ):
            with pytest.raises(EmbeddingError, match=message):
                await AsyncRetriever(client, "docs", embedder=kind(vector)).search("key")

    Connect(qdrant.url, qdrant.grpc_port, grpc=False)(ask)
    assert count(qdrant, "query_batch") == 0


def test_a_bad_option_is_refused_before_anything_is_sent(qdrant: Server) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, "docs")
        for options, message in (
            ({"query": " "}, "blank"),
            ({"limit": 0}, "limit to be a whole number from 1 to 10000, got 0"),
            ({"mode": "magic"}, "expected mode to be dense, sparse or hybrid, got 'magic'"),
        ):
            with pytest.raises(ValueError, match=message):
                await retriever.search(**{"query": "key", **options})  # type: ignore[arg-type]

    Connect(qdrant.url, qdrant.grpc_port, grpc=False)(ask)
    assert count(qdrant, "get_collection") == count(qdrant, "query_batch") == 0
    with pytest.raises(ValueError, match="expected tenant to be a name"):
        AsyncRetriever(AsyncQdrantClient(url=qdrant.url, check_compatibility=False), "d", tenant="")


def test_what_cannot_be_searched_so_is_refused_in_the_words_of_the_synchronous_retriever(
    connect: Connect, docs: Collection
) -> None:
    writer = docs.client
    size = models.VectorParams(size=4, distance=models.Distance.DOT)
    writer.create_collection("foreign", vectors_config=size)
    Indexer(Collection(writer, "words")).add(DOCUMENTS[:2])
    Indexer(Collection(writer, "shared", embedder=EMBEDDER, tenant="acme")).add(DOCUMENTS[:2])
    cases: list[tuple[str, Embedder | None, str | None, Mode | None]] = [
        ("other", None, None, None),
        ("foreign", None, None, None),
        ("docs", HashEmbedder(64), None, None),
        ("words", EMBEDDER, None, None),
        ("docs", None, None, "dense"),
        ("words", None, None, "hybrid"),
        ("docs", EMBEDDER, "acme", None),
        ("shared", EMBEDDER, None, None),
    ]

    async def ask(client: AsyncQdrantClient) -> None:
        for name, embedder, tenant, mode in cases:
            collection = Collection(writer, name, embedder=embedder, tenant=tenant)
            with pytest.raises((CollectionMismatch, CollectionNotFound)) as expected:
                Retriever(collection).search("key", mode=mode)
            retriever = AsyncRetriever(client, name, embedder=embedder, tenant=tenant)
            with pytest.raises(type(expected.value)) as raised:
                await retriever.search("key", mode=mode)
            assert str(raised.value) == str(expected.value)

    connect(ask)


def test_a_failed_read_is_told_to_all_who_wait_and_not_kept(
    connect: Connect, writer: QdrantClient, qdrant: Server
) -> None:
    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        retriever = AsyncRetriever(client, "late", embedder=EMBEDDER)
        failed = await asyncio.gather(
            *(retriever.search("key") for _ in range(50)), return_exceptions=True
        )
        assert {type(each) for each in failed} == {CollectionNotFound}
        assert count(qdrant, "get_collection") == 1
        Indexer(Collection(writer, "late", embedder=EMBEDDER)).add(DOCUMENTS[:5])
        return await retriever.search("number2")

    assert sources(connect(ask))[0] == "2.md"


def test_a_collection_that_goes_is_an_error_and_one_that_comes_back_is_read_again(
    connect: Connect, writer: QdrantClient
) -> None:
    made = Collection(writer, "gone", embedder=EMBEDDER)
    Indexer(made).add(DOCUMENTS[:5])

    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, "gone", embedder=EMBEDDER)
        assert await retriever.search("key")
        made.drop()
        with pytest.raises(CollectionNotFound, match=r"no collection 'gone' \(there are 'docs'\)"):
            await retriever.search("key")
        Indexer(made).add(DOCUMENTS[:5])
        assert await retriever.search("key")
        made.drop()
        Indexer(Collection(writer, "gone", embedder=HashEmbedder(32))).add(DOCUMENTS[:5])
        with pytest.raises(Exception, match=r"(?i)dimension"):
            await retriever.search("key")
        with pytest.raises(CollectionMismatch, match="holds 32-d vectors"):
            await retriever.search("key")

    connect(ask)


def test_a_tenant_finds_its_own_passages_alone(store: tuple[QdrantBase, Connect]) -> None:
    writer, connect = store
    for tenant in ("acme", "umbrella"):
        theirs = [
            Document(source=f"{tenant} {n}", title="t", text=f"the key of {tenant} number{n}")
            for n in range(5)
        ]
        Indexer(Collection(writer, "shared", embedder=EMBEDDER, tenant=tenant)).add(theirs)
    anyone = models.Filter(
        should=[
            models.FieldCondition(key="tenant", match=models.MatchValue(value="acme")),
            models.FieldCondition(key="corpus", match=models.MatchExcept(**{"except": ["none"]})),
        ]
    )

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        retriever = AsyncRetriever(client, "shared", embedder=EMBEDDER, tenant="umbrella")
        return [
            await retriever.search("the key of acme", mode=mode, filter=where, limit=100)
            for mode in get_args(Mode)
            for where in (None, anyone)
        ]

    for hits in connect(ask):
        assert {hit.source.split()[0] for hit in hits} == {"umbrella"}
        assert len(hits) == 5


def test_in_a_collection_sharded_by_tenant_a_new_one_finds_nothing(
    connect: Connect, writer: QdrantClient
) -> None:
    theirs = Collection(writer, "shards", embedder=EMBEDDER, tenant="acme", shard_by_tenant=True)
    Indexer(theirs).add(DOCUMENTS[:5])

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        return [
            await AsyncRetriever(client, "shards", embedder=EMBEDDER, tenant=tenant).search("key")
            for tenant in ("acme", "umbrella")
        ]

    found = connect(ask)
    assert found == [Retriever(theirs).search("key"), []]
    assert len(found[0]) == 5


def test_the_client_stays_open_and_the_threads_go_with_the_retriever(qdrant: Server) -> None:
    client = AsyncQdrantClient(url=qdrant.url, check_compatibility=False)
    retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)  # outside any event loop
    assert repr(retriever) == "AsyncRetriever('docs', embedder='hash-v1 dim=128')"
    others = set(threading.enumerate())

    async def ask(retriever: AsyncRetriever) -> None:
        assert await retriever.search("key")
        assert (await client.count("docs")).count == 60
        await client.close()

    asyncio.run(ask(retriever))
    own = [each for each in set(threading.enumerate()) - others if each.name.startswith("ragkit")]
    assert own
    del retriever
    for thread in own:
        thread.join(20)
        assert not thread.is_alive()
