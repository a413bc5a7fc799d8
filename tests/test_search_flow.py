"""What happens between the steps of a search, beside it, and when it is given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_standin import Server, running
from searching import DOCUMENTS, EMBEDDER

from ragkit.async_retriever import AsyncRetriever
from ragkit.chunks import Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import CollectionMismatch, CollectionNotFound
from ragkit.indexer import Indexer
from ragkit.moving.rebuild import rebuild
from ragkit.retriever import Retriever
from ragkit.search_flow import UnindexedFilter
from ragkit.stores import aconnect

QUERY = "rotate the yellow key"
OTHER = HashEmbedder(32)


class Interrupted(HashEmbedder):
    """Does something once, while it embeds a query."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(64)
        self.calls = 0
        self._act = act

    def embed_query(self, text: str) -> Vectors:
        self.calls += 1
        if self.calls == 1:
            self._act()
        return super().embed_query(text)


def interrupting(act: Callable[[], object]) -> Callable[[str, list[str]], list[int]]:
    """A reranker that does something once."""
    done: list[bool] = []

    def rerank(query: str, texts: list[str]) -> list[int]:
        if not done:
            done.append(True)
            act()
        return [-n for n, _ in enumerate(texts)]

    return rerank


@pytest.fixture
def docs(client: QdrantBase) -> Collection:
    made = Collection(client, "docs", embedder=EMBEDDER)
    Indexer(made).add(DOCUMENTS[:12])
    return made


def of_others(docs: Collection, embedder: HashEmbedder = EMBEDDER) -> Collection:
    """The same collection, as somebody else has it open."""
    return Collection(docs.client, "docs", embedder=embedder)


STEPS: list[dict[str, Any]] = [{"context": 1}, {"diversity": 0.5}]


def test_one_that_goes_between_two_steps_is_an_error_that_says_so(docs: Collection) -> None:
    drop = of_others(docs).drop
    embedder = Interrupted(drop)
    with pytest.raises(CollectionNotFound, match="there is no collection 'docs'"):
        Retriever(of_others(docs, embedder)).search(QUERY)
    for options in STEPS:
        Indexer(of_others(docs)).add(DOCUMENTS[:12])
        retriever = Retriever(of_others(docs), reranker=interrupting(drop))
        with pytest.raises(CollectionNotFound, match="there is no collection 'docs'"):
            retriever.search(QUERY, **options)


@pytest.mark.parametrize("options", [{}, *STEPS[:1]])
def test_a_rebuild_between_two_steps_is_not_noticed_and_nothing_is_embedded_twice(
    edge: EdgeClient, options: dict[str, Any]
) -> None:
    docs = Collection(edge, "docs", embedder=EMBEDDER)
    Indexer(docs).add(DOCUMENTS[:12])
    expected = Retriever(docs).search(QUERY, **options)
    expected_reranked = Retriever(docs, reranker=interrupting(dict)).search(QUERY, **options)

    def move() -> None:
        rebuild(of_others(docs), prune=True)

    embedder = Interrupted(move)
    retriever = Retriever(of_others(docs, embedder))
    assert retriever.search(QUERY, **options) == expected
    assert embedder.calls == 1
    retriever = Retriever(of_others(docs), reranker=interrupting(move))
    assert retriever.search(QUERY, **options) == expected_reranked
    assert edge.get_aliases().aliases[0].collection_name == "docs.v3"


def test_a_rebuild_with_another_embedder_between_two_steps_is_told(edge: EdgeClient) -> None:
    docs = Collection(edge, "docs", embedder=EMBEDDER)
    Indexer(docs).add(DOCUMENTS[:12])

    def move() -> None:
        rebuild(of_others(docs), embedder=OTHER, prune=True)

    with pytest.raises(CollectionMismatch, match="holds 32-d vectors of hash-v1 dim=32"):
        Retriever(of_others(docs, Interrupted(move))).search(QUERY)


def test_while_one_rebuilds_others_search_with_the_same_objects(edge: EdgeClient) -> None:
    docs = Collection(edge, "docs", embedder=EMBEDDER)
    Indexer(docs).add(DOCUMENTS[:12])
    retriever = Retriever(docs, limit=5)
    options: list[dict[str, Any]] = [{}, {"mode": "dense"}, {"context": 1}, {"group_by": "source"}]
    expected = [{hit.id for hit in retriever.search(QUERY, **each)} for each in options]
    done = threading.Event()

    def search(n: int) -> int:
        searches = 0
        while not done.is_set() or not searches:
            found = {hit.id for hit in retriever.search(QUERY, **options[n % 4])}
            assert found == expected[n % 4]
            searches += 1
        return searches

    with ThreadPoolExecutor(8) as pool:
        searching = [pool.submit(search, n) for n in range(8)]
        try:
            rebuild(docs, prune=True)
            for _ in range(20):
                docs.use_version("docs.v2")  # after which it is to be opened anew
            rebuild(docs, prune=True)
        finally:
            done.set()
        assert all(each.result() > 0 for each in searching)


LONG = "\n\n".join(f"Part {n} says that the walrus number{n} rotates its key." for n in range(9))


@pytest.fixture(
    params=[("edge", False), ("rest", False), ("rest", True), ("grpc", True)],
    ids=["edge", "rest", "rest-sharded", "grpc-sharded"],
)
def tenants(
    request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]
) -> Callable[[str], Collection]:
    """Two that share a collection, with a document of the same name."""
    store, sharded = request.param
    client = open_store(store)

    def of(name: str) -> Collection:
        return Collection(
            client,
            "shared",
            embedder=EMBEDDER,
            tenant=name,
            shard_by_tenant=sharded,
            chunker=Chunker(max_tokens=20, overlap=0),
        )

    for name in ("acme", "brix"):
        text = LONG.replace("walrus", f"walrus of {name}")
        metadata = {"half": "whole", "owner": name}
        Indexer(of(name)).add([Document(source="same.md", title="t", text=text, metadata=metadata)])
    return of


def test_no_option_leads_to_what_another_tenant_has(tenants: Callable[[str], Collection]) -> None:
    tried: list[dict[str, Any]] = [
        {"context": 3},
        {"context": 100, "mode": "sparse"},
        {"diversity": 0.5},
        {"diversity": 0.5, "mode": "dense"},
        {"group_by": "source", "group_size": 9},
        {"filter": {"owner": "*"}},
        {"filter": {"owner": "*x*"}},
        {"filter": {"source": "s*e.md"}},
    ]
    for name, other in (("acme", "brix"), ("brix", "acme")):
        retriever = Retriever(tenants(name))
        for options in tried:
            for each in (retriever.search, retriever.explain):
                assert other not in repr(each("the walrus number4 rotates its key", **options))
            for hit in retriever.search("walrus number4", **options):
                assert hit.metadata["owner"] == name
                assert hit.context is None or f"walrus of {name}" in hit.context.text
            packed = retriever.passages("walrus number4", token_budget=900, **options)
            assert other not in repr(packed)
            assert packed or options.get("filter") == {"owner": "*x*"}
    # Somebody who has nothing yet finds nothing.
    retriever = Retriever(tenants("new"), reranker=lambda query, texts: [1.0] * len(texts))
    for options in tried:
        assert retriever.search("walrus number4", **options) == []


def test_neighbours_are_read_along_whether_the_filter_has_them_or_not(docs: Collection) -> None:
    made = Collection(
        docs.client, "long", embedder=EMBEDDER, chunker=Chunker(max_tokens=20, overlap=0)
    )
    Indexer(made).add([Document(source="long.md", title="t", text=LONG)])
    hits = Retriever(made).search("number4", mode="sparse", filter={"ordinal": 4}, context=2)
    assert [hit.ordinal for hit in hits] == [4]
    context = hits[0].context
    assert context is not None
    assert context.ordinals == (2, 3, 4, 5, 6)
    assert context.text == LONG[context.start : context.end]


N = 10_000
_random = np.random.default_rng(5)
ROWS = _random.normal(size=(N, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection with a graph, and of as many points as make an index worth it."""
    with EdgeClient(tmp_path_factory.mktemp("large")) as edge:
        made = Collection(
            edge,
            "large",
            embedder=HashEmbedder(8),
            quantization="none",
            hnsw_config=models.HnswConfigDiff(m=4, ef_construct=8, full_scan_threshold=10),
            optimizers_config=models.OptimizersConfigDiff(
                indexing_threshold=10, default_segment_number=1
            ),
        )
        made.create(avg_len=5.0)
        fixed = {"title": "t", "corpus": "", "start": 0, "end": 1, "ordinal": 0, "chunk_count": 1}
        points = [
            models.PointStruct.model_construct(
                id=n,
                vector={"dense": row},
                payload={"text": "t", "source": f"s{n}", "metadata": {"k": n % 50}, **fixed},
            )
            for n, row in enumerate(ROWS.tolist())
        ]
        edge.upsert(made.version, points)
        edge.optimize(made.version, force=True)
        yield made


def test_a_filter_without_an_index_in_a_large_collection_warns_once_and_says_what_to_do(
    large: Collection,
) -> None:
    large.open()
    retriever, vector = Retriever(large, mode="dense"), ROWS[0]
    with pytest.warns(UnindexedFilter) as told:
        hits = retriever.search("x", vector=vector, filter={"j": None, "source": "s3"})
    assert len(told) == 1
    message = str(told[0].message)
    assert "no payload index on 'metadata.j'" in message
    assert f"client.create_payload_index({large.version!r}, 'metadata.j', 'keyword')" in message
    assert hits.notes == (message,)
    # Warnings are errors here: none comes a second time, nor for a key that has an index.
    again = retriever.search("x", vector=vector, filter={"j": {"exists": False}})
    assert again.notes == hits.notes
    assert retriever.search("x", vector=vector, filter={"source": "s3", "has_id": [3]}).notes == ()
    with pytest.warns(UnindexedFilter, match=r"'metadata\.other'"):
        retriever.search("x", vector=vector, filter={"j": 4, "not": {"other": 5}})
    # What it says to do helps.
    large.client.create_payload_index(large.version, "metadata.j", models.PayloadSchemaType.INTEGER)
    large.open()
    assert Retriever(large).search("x", vector=vector, filter={"j": None}).notes == ()


def test_among_what_a_filter_without_an_index_leaves_the_graph_misses_nothing(
    large: Collection,
) -> None:
    large.open()
    assert large.info.indexed_vectors_count == N
    retriever = Retriever(large, mode="dense", filter={"k": 7})
    with pytest.warns(UnindexedFilter):
        plan = retriever.explain("x", vector=ROWS[1])
    assert plan.request is not None
    assert plan.request.params is not None
    assert plan.request.params.exact is True
    own, unit = np.arange(7, N, 50), ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    for query in ROWS[:20]:
        cosines = unit[own] @ (query / np.linalg.norm(query))
        expected = [str(own[i]) for i in np.argsort(-cosines)[:10]]
        assert [hit.id for hit in retriever.search("x", vector=query)] == expected
    # Where the graph knows its way it is asked.
    plan = Retriever(large, mode="dense").explain("x", vector=ROWS[1])
    assert plan.request is not None
    assert plan.request.params is not None
    assert (plan.request.params.exact, plan.request.params.hnsw_ef) == (False, 256)


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("qdrant")) as server:
        with closing(QdrantClient(url=server.url, check_compatibility=False)) as client:
            Indexer(Collection(client, "docs", embedder=EMBEDDER)).add(DOCUMENTS[:12])
        yield server
        assert server.broken == []


def run(qdrant: Server, action: Callable[[AsyncQdrantClient], Any], *, grpc: bool = False) -> None:
    async def alone() -> None:
        client = await aconnect(qdrant.url, grpc_port=qdrant.grpc_port, prefer_grpc=grpc)
        try:
            await action(client)
        finally:
            await client.close()

    asyncio.run(alone())


async def others() -> set[asyncio.Task[Any]]:
    """Tasks other than the caller's and those that the gRPC library keeps for its channels."""
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in tasks if "grpc" not in repr(task.get_coro())}


class Held:
    """A reranker that waits until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, query: str, texts: list[str]) -> list[int]:
        self.begun.set()
        assert self.go.wait(20)
        return [len(text) for text in texts]


def test_while_a_reranker_is_at_work_the_event_loop_does_other_things(qdrant: Server) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        held = Held()
        slow = AsyncRetriever(client, "docs", embedder=EMBEDDER, reranker=held)
        task = asyncio.create_task(slow.search(QUERY))
        quick = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        while not held.begun.is_set():
            assert await quick.search("walrus")
        assert await quick.search("walrus")  # answered while the other is still at it
        assert not task.done()
        held.go.set()
        hits = await task
        assert [hit.score for hit in hits] == sorted((len(hit.text) for hit in hits), reverse=True)

    run(qdrant, ask)


def test_a_search_given_up_while_it_is_reranked_leaves_nothing_behind(qdrant: Server) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        held = Held()
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER, reranker=held)
        task = asyncio.create_task(retriever.search(QUERY))
        await asyncio.to_thread(held.begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await others() == set()
        held.go.set()
        assert await retriever.search(QUERY)

    run(qdrant, ask)


# In every step that asks the server for something, by what it asks.
CANCELLED: list[tuple[str, dict[str, Any]]] = [
    ("get_aliases", {}),
    ("get_collection", {}),
    ("query_batch", {}),
    ("query_groups", {"group_by": "source"}),
    ("scroll", {"context": 1}),
    ("scroll", {"mode": "hybrid", "diversity": 0.5}),
    ("facet", {"filter": {"source": "*7*"}}),
    ("scroll", {"filter": {"lang": "*e*"}}),
]


@pytest.mark.parametrize("grpc", [False, True])
@pytest.mark.parametrize(("step", "options"), CANCELLED)
def test_a_search_given_up_in_any_step_leaves_nothing_behind(
    qdrant: Server, step: str, options: dict[str, Any], grpc: bool
) -> None:
    async def ask(client: AsyncQdrantClient) -> None:
        retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
        expected = await AsyncRetriever(client, "docs", embedder=EMBEDDER).search(QUERY, **options)
        qdrant.faults.clear()
        qdrant.faults.struck.clear()
        qdrant.faults.add("delay", on=step, delay_s=60)
        for give_up in (retriever.search, retriever.explain):
            task = asyncio.create_task(give_up(QUERY, **options))
            async with asyncio.timeout(20):
                while not qdrant.faults.struck:
                    await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await others() == set()
            qdrant.faults.clear()
            qdrant.faults.struck.clear()
            assert await retriever.search(QUERY, **options) == expected
            qdrant.faults.add("delay", on=step, delay_s=60)
            if step.startswith("get"):  # it is asked once
                break
        qdrant.faults.clear()

    run(qdrant, ask, grpc=grpc)


def test_options_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "none") as nothing:
        missing = Collection(nothing, "missing", embedder=EMBEDDER)
        for wrong in ({"limit": 0}, {"mode": "x"}, {"vector": [np.nan]}):
            with pytest.raises(ValueError, match="expected"):
                Retriever(missing).search(QUERY, **wrong)
        with pytest.raises(TypeError, match="no search option 'k'"):
            Retriever(missing, k=5)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="expected limit"):
            Retriever(missing, limit=-1)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"filter": {"yeer": 2001}}, "metadata.yeer"),
        (
            {"filter": {"all": [{"year": 2001}, {"not": {"lang": "*"}}, {"nosuch": 1}]}},
            "metadata.nosuch",
        ),
        ({"group_by": "nosuch"}, "metadata.nosuch"),
    ],
)
def test_a_key_that_no_passage_has_is_told_where_nothing_is_found(
    docs: Collection, options: dict[str, Any], key: str
) -> None:
    hits = Retriever(docs).search(QUERY, **options)
    assert hits == []
    assert hits.notes == (f"no passage in collection 'docs' has a value under {key!r}",)


def test_of_keys_that_there_are_nothing_is_told(docs: Collection) -> None:
    hits = Retriever(docs).search(QUERY, filter={"year": "2001", "source": "00.md"})
    assert (list(hits), hits.notes) == ([], ())


def test_the_same_is_told_to_coroutines(tmp_path: Path) -> None:
    async def ask(qdrant: Server) -> tuple[str, ...]:
        client = await aconnect(qdrant.url, grpc_port=qdrant.grpc_port)
        try:
            retriever = AsyncRetriever(client, "docs", embedder=EMBEDDER)
            return (await retriever.search(QUERY, filter={"yeer": 2001})).notes
        finally:
            await client.close()

    with running(tmp_path) as qdrant:
        with closing(QdrantClient(url=qdrant.url, check_compatibility=False)) as client:
            Indexer(Collection(client, "docs", embedder=EMBEDDER)).add(DOCUMENTS[:3])
        (note,) = asyncio.run(ask(qdrant))
    assert note == "no passage in collection 'docs' has a value under 'metadata.yeer'"


def test_who_has_indexed_sees_how_large_the_collection_has_become(docs: Collection) -> None:
    Retriever(docs).search(QUERY)
    Indexer(docs).add(DOCUMENTS[12:20])
    where, _ = docs.searchable()
    assert (where.info.points_count or 0) >= 20
