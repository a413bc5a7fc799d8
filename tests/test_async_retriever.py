"""`AsyncRetriever` over the real asynchronous client, on the wire of the stand-in server."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_standin import Server, running

from ragkit.async_retriever import MAX_IN_FLIGHT, AsyncRetriever
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Embedder, HashEmbedder, Vectors
from ragkit.errors import (
    CollectionMismatch,
    CollectionNotFound,
    EmbeddingError,
    StoreDenied,
)
from ragkit.indexer import Indexer
from ragkit.retriever import Hit, Mode, Retriever

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "server") as server:
        yield server
        assert server.broken == []


@pytest.fixture
def writer(server: Server) -> Iterator[QdrantClient]:
    client = QdrantClient(url=server.url, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def docs(writer: QdrantClient) -> Collection:
    collection = Collection(writer, "docs", embedder=EMBEDDER)
    Indexer(collection).add(DOCUMENTS)
    return collection


@pytest.fixture(params=["rest", "grpc"])
def connect(request: pytest.FixtureRequest, server: Server) -> Connect:
    return Connect(server, grpc=request.param == "grpc")


class Connect:
    """Runs a coroutine function with a client, and sees that it leaves no task behind."""

    def __init__(self, server: Server, *, grpc: bool) -> None:
        self._server = server
        self._grpc = grpc

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Counting]:
        client = Counting(
            url=self._server.url,
            grpc_port=self._server.grpc_port,
            prefer_grpc=self._grpc,
            check_compatibility=False,
            timeout=20,
        )
        try:
            yield client
        finally:
            await client.close()

    def __call__(self, action: Callable[[Counting], Awaitable[T]]) -> T:
        async def alone() -> T:
            async with self.client() as client:
                result = await action(client)
                assert await own_tasks() == set()
                return result

        return asyncio.run(alone())


class Counting(AsyncQdrantClient):
    """The real client; counts the searches that are under way."""

    now = most = 0

    async def query_batch_points(self, *args: Any, **kwargs: Any) -> list[models.QueryResponse]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().query_batch_points(*args, **kwargs)
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


def count(server: Server, operation: str) -> int:
    return sum(request.operation == operation for request in server.requests)


def sources(hits: Sequence[Hit]) -> list[str]:
    return [hit.source for hit in hits]


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid", None])
@pytest.mark.parametrize("quantization", ["none", "binary"])
def test_hits_are_those_of_the_synchronous_retriever_on_the_embedded_engine(
    connect: Connect,
    writer: QdrantClient,
    edge: EdgeClient,
    mode: Mode | None,
    quantization: str,
) -> None:
    for client in (writer, edge):
        made = Collection(client, "docs", embedder=EMBEDDER, quantization=quantization)
        Indexer(made).add(DOCUMENTS)
    options: list[dict[str, Any]] = [
        {"query": "rotate the key of the house"},
        {"query": "walrus number7", "limit": 3, "filter": YEAR},
        {"query": "the of and", "limit": 60},
        {"query": "yellow banana", "exact": True, "limit": 5},
        {"query": "sea", "score_threshold": 0.05, "oversampling": 8.0},
    ]
    expected = [
        Retriever(Collection(edge, "docs", embedder=EMBEDDER)).search(**each, mode=mode)
        for each in options
    ]

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        return [await retriever.search(**each, mode=mode) for each in options]

    found = connect(ask)
    for some, same in zip(found, expected, strict=True):
        assert [(hit.id, hit.text, hit.metadata) for hit in some] == [
            (hit.id, hit.text, hit.metadata) for hit in same
        ]
        assert [hit.score for hit in some] == pytest.approx([hit.score for hit in same], abs=1e-5)
    assert any(expected)


def test_without_an_embedder_it_searches_by_words(connect: Connect, docs: Collection) -> None:
    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        return await AsyncRetriever(client, "docs").search("number7")

    assert sources(connect(ask)) == ["7.md"]


def test_two_hundred_searches_at_once_get_their_own_answers(
    connect: Connect, docs: Collection, server: Server
) -> None:
    expected = [Retriever(docs).search(f"number{n} {WORDS[n % 10]}", limit=3) for n in range(60)]
    server.requests.clear()

    async def ask(client: Counting) -> list[list[Hit]]:
        one = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        two = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        found = await asyncio.gather(
            *(
                (one, two)[n % 2].search(f"number{n % 60} {WORDS[n % 10]}", limit=3)
                for n in range(200)
            )
        )
        assert 1 < client.most <= MAX_IN_FLIGHT
        return found

    found = connect(ask)
    assert [[h.id for h in hits] for hits in found] == [
        [h.id for h in expected[n % 60]] for n in range(200)
    ]
    # Of each retriever one read of the manifest, and nothing but the searches beside it.
    assert count(server, "get_collection") == 2
    assert len(server.requests) == 202


def test_a_retriever_serves_one_event_loop_after_the_other(
    docs: Collection, server: Server
) -> None:
    client = AsyncQdrantClient(url=server.url, check_compatibility=False)
    retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)

    async def ask() -> None:
        await asyncio.gather(*(retriever.search(f"number{n % 60}") for n in range(100)))

    asyncio.run(ask())
    asyncio.run(ask())
    asyncio.run(client.close())
    assert count(server, "query_batch") == 200


@pytest.mark.parametrize("kind", [503, 429, 500, "drop"])
def test_what_fails_in_passing_is_tried_again(
    connect: Connect, docs: Collection, server: Server, kind: Any
) -> None:
    server.faults.add(kind, on="get_collection")
    server.faults.add(kind, on="query_batch", times=2)

    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        return await AsyncRetriever(client, "docs", embedder=EMBEDDER).search("number7")

    assert sources(connect(ask))[0] == "7.md"
    assert len(server.faults.struck) == 3


def test_a_missing_key_is_no_matter_of_trying_again(tmp_path: Path) -> None:
    with running(tmp_path, api_key="secret") as server:

        async def ask(client: AsyncQdrantClient) -> None:
            with pytest.raises(StoreDenied, match="opening collection 'docs'"):
                await AsyncRetriever(client, "docs").search("keys")

        for grpc in (False, True):
            Connect(server, grpc=grpc)(ask)


def test_a_cancelled_first_search_does_not_take_the_others_with_it(
    connect: Connect, docs: Collection, server: Server
) -> None:
    server.requests.clear()
    server.faults.add("delay", on="get_collection", delay_s=60)

    async def ask(client: AsyncQdrantClient) -> list[list[Hit]]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        tasks = [asyncio.create_task(retriever.search(f"number{n}")) for n in range(10)]
        await until(lambda: count(server, "get_collection") == 1)
        await cancel(tasks[:3])
        return await asyncio.gather(*tasks[3:])

    found = connect(ask)
    assert [sources(hits)[0] for hits in found] == [f"{n}.md" for n in range(3, 10)]
    assert count(server, "get_collection") == 2


def test_when_all_are_cancelled_the_next_search_reads_anew(
    connect: Connect, docs: Collection, server: Server
) -> None:
    server.faults.add("delay", on="get_collection", delay_s=60)

    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        tasks = [asyncio.create_task(retriever.search("number1")) for _ in range(5)]
        await until(lambda: bool(server.faults.struck))
        await cancel(tasks)
        assert await own_tasks() == set()
        return await retriever.search("number1")

    assert sources(connect(ask))[0] == "1.md"


def test_searches_cancelled_on_the_wire_give_their_places_back(
    connect: Connect, docs: Collection, server: Server
) -> None:
    async def ask(client: Counting) -> list[list[Hit]]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        await retriever.search("key")
        server.faults.add("delay", on="query_batch", times=8, delay_s=60)
        tasks = [asyncio.create_task(retriever.search("key")) for _ in range(8)]
        await until(lambda: len(server.faults.struck) == 8)
        await cancel(tasks)
        assert await own_tasks() == set()
        assert client.now == 0
        found = await asyncio.gather(*(retriever.search(f"number{n}") for n in range(60)))
        await cancel_many(retriever)
        assert client.now == 0
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
    connect: Connect, docs: Collection, server: Server
) -> None:
    async def ask(client: Counting) -> list[Hit]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        await retriever.search("key")
        server.faults.add(429, on="query_batch", times=MAX_IN_FLIGHT, retry_after_s=20)
        tasks = [asyncio.create_task(retriever.search("key")) for _ in range(MAX_IN_FLIGHT)]
        await until(lambda: len(server.faults.struck) == MAX_IN_FLIGHT and client.now == 0)
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
@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(64, np.float32), "expected vectors of shape"),
        (np.full(128, np.nan, np.float32), "expected finite numbers"),
        (np.zeros(128, np.float32), "expected non-zero vectors"),
    ],
)
def test_a_bad_vector_is_refused_before_anything_is_sent(
    server: Server, docs: Collection, kind: type[Broken], vector: object, message: str
) -> None:
    server.requests.clear()

    async def ask(client: AsyncQdrantClient) -> None:
        with pytest.raises(EmbeddingError, match=message):
            await AsyncRetriever(client, "docs", embedder=kind(vector)).search("key")

    Connect(server, grpc=False)(ask)
    assert count(server, "query_batch") == 0


def test_a_bad_option_is_refused_before_anything_is_sent(server: Server) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, "docs")
        for options, message in (
            ({"query": " "}, "blank"),
            ({"limit": 0}, "limit from 1 to 10000, got 0"),
            ({"mode": "magic"}, "expected mode dense, sparse or hybrid, got 'magic'"),
        ):
            with pytest.raises(ValueError, match=message):
                await retriever.search(**{"query": "key", **options})  # type: ignore[arg-type]

    Connect(server, grpc=False)(ask)
    assert server.requests == []
    with pytest.raises(ValueError, match="expected tenant to be a name"):
        AsyncRetriever(AsyncQdrantClient(url=server.url, check_compatibility=False), "d", tenant="")


@pytest.mark.parametrize(
    ("name", "embedder", "tenant", "mode"),
    [
        ("other", None, None, None),
        ("foreign", None, None, None),
        ("docs", HashEmbedder(64), None, None),
        ("words", EMBEDDER, None, None),
        ("docs", None, None, "dense"),
        ("words", None, None, "hybrid"),
        ("docs", EMBEDDER, "acme", None),
        ("shared", EMBEDDER, None, None),
    ],
)
def test_what_cannot_be_searched_so_is_refused_in_the_words_of_the_synchronous_retriever(
    connect: Connect,
    docs: Collection,
    name: str,
    embedder: Embedder | None,
    tenant: str | None,
    mode: Mode | None,
) -> None:
    writer = docs.client
    writer.create_collection("foreign", vectors_config={})
    Indexer(Collection(writer, "words")).add(DOCUMENTS[:2])
    Indexer(Collection(writer, "shared", embedder=EMBEDDER, tenant="acme")).add(DOCUMENTS[:2])
    collection = Collection(writer, name, embedder=embedder, tenant=tenant)
    with pytest.raises((CollectionMismatch, CollectionNotFound)) as expected:
        Retriever(collection).search("key", mode=mode)

    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, name, embedder=embedder, tenant=tenant)
        with pytest.raises(type(expected.value)) as raised:
            await retriever.search("key", mode=mode)
        assert str(raised.value) == str(expected.value)

    connect(ask)


def test_a_failed_read_is_told_to_all_who_wait_and_not_kept(
    connect: Connect, writer: QdrantClient, server: Server
) -> None:
    async def ask(client: AsyncQdrantClient) -> list[Hit]:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        failed = await asyncio.gather(
            *(retriever.search("key") for _ in range(50)), return_exceptions=True
        )
        assert {type(each) for each in failed} == {CollectionNotFound}
        assert count(server, "get_collection") == 1
        index = Indexer(Collection(writer, "docs", embedder=EMBEDDER)).add
        await asyncio.to_thread(index, DOCUMENTS)
        return await retriever.search("number2")

    assert sources(connect(ask))[0] == "2.md"


def test_a_collection_that_goes_is_an_error_and_one_that_comes_back_is_read_again(
    connect: Connect, docs: Collection
) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        assert await retriever.search("key")
        await asyncio.to_thread(docs.drop)
        with pytest.raises(CollectionNotFound, match="collection 'docs' is gone"):
            await retriever.search("key")
        with pytest.raises(CollectionNotFound, match="there is no collection 'docs'"):
            await retriever.search("key")
        other = Collection(docs.client, "docs", embedder=HashEmbedder(32))
        await asyncio.to_thread(Indexer(other).add, DOCUMENTS[:3])
        with pytest.raises(CollectionMismatch, match="holds 32-d vectors"):
            await retriever.search("key")

    connect(ask)


def test_a_collection_rebuilt_with_another_embedder_is_refused_from_the_second_search_on(
    connect: Connect, docs: Collection
) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        assert await retriever.search("key")
        docs.drop()
        Indexer(Collection(docs.client, "docs", embedder=HashEmbedder(32))).add(DOCUMENTS[:3])
        with pytest.raises(Exception, match=r"(?i)dimension"):
            await retriever.search("key")
        with pytest.raises(CollectionMismatch, match="holds 32-d vectors"):
            await retriever.search("key")

    connect(ask)


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_a_tenant_finds_its_own_passages_alone(
    connect: Connect, writer: QdrantClient, mode: Mode
) -> None:
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
            for where in (None, anyone)
        ]

    for hits in connect(ask):
        assert {hit.source.split()[0] for hit in hits} == {"umbrella"}
        assert len(hits) == 5


def test_the_client_stays_open_and_nothing_asks_for_its_event_loop_before_a_search(
    docs: Collection, server: Server
) -> None:
    client = AsyncQdrantClient(url=server.url, check_compatibility=False)
    retriever = AsyncRetriever(client, "docs")  # made outside any event loop
    assert repr(retriever) == "AsyncRetriever('docs', embedder=None)"
    threads = threading.active_count()

    async def ask() -> None:
        assert await retriever.search("key")
        assert (await client.count("docs")).count == 60
        await client.close()

    asyncio.run(ask())
    assert threading.active_count() <= threads
