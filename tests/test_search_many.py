"""Many searches at once, and from coroutines: what each query gets alone, option by option."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import searching
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_standin import running
from searching import DOCUMENTS, EMBEDDER, STORES, WIRES

from ragkit.async_retriever import AsyncRetriever
from ragkit.chunks import Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import Embedder, HashEmbedder, Vectors
from ragkit.errors import TextsRefused
from ragkit.hits import Hits
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.stores import aconnect

T = TypeVar("T")

QUERIES = ["rotate the yellow key", "walrus number7", "the of and", "日本語", "sea " * 500]
LONG = [
    Document(
        source=f"{each.source} long",
        title=each.title,
        text="\n\n".join(f"Part {n} of number{n}. {each.text}" for n in range(6)),
        metadata=each.metadata,
    )
    for each in DOCUMENTS[:6]
]
VECTORS = np.stack([EMBEDDER.embed_query(query) for query in QUERIES])


def backwards(query: str, texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"mode": "dense"},
    {"mode": "sparse"},
    {"limit": 3, "filter": {"year": 2001}},
    {"filter": {"lang": "*e*"}, "mode": "dense"},
    {"oversampling": 40.0, "mode": "dense"},
    {"rescore": False, "mode": "dense"},
    {"exact": True, "hnsw_ef": 8, "indexed_only": True},
    {"score_threshold": 0.05},
    {"fusion": "dbsf", "limit": 5},
    {"rrf_k": 60, "weights": {"dense": 0.5, "sparse": 3}},
    {"prefetch_limit": 60, "limit": 20},
    {"diversity": 0.5, "mode": "dense"},
    {"diversity": 0.5},
    {"group_by": "source", "limit": 4},
    {"group_by": "metadata.tags", "group_size": 2, "mode": "dense"},
    {"context": 2, "limit": 4},
]


@pytest.fixture(scope="module", params=STORES)
def docs(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with searching.store(request) as client:
        made = Collection(
            client, "many", embedder=EMBEDDER, quantization="scalar", chunker=Chunker(max_tokens=90)
        )
        Indexer(made).add([*DOCUMENTS, *LONG])
        yield made


def same(found: Sequence[Hits], expected: Sequence[Hits]) -> bool:
    """Whether the hits are the same, but for what a sum in another order does to a score."""

    def told(hits: Hits) -> Any:
        plain = [(each.id, each.group, each.context and each.context.text) for each in hits]
        return plain, hits.notes, [each.citation for each in hits]

    scores = [[hit.score for hits in some for hit in hits] for some in (found, expected)]
    return [*map(told, found)] == [*map(told, expected)] and scores[0] == pytest.approx(
        scores[1], abs=1e-5
    )


@pytest.mark.parametrize("reranker", [None, backwards])
@pytest.mark.parametrize("options", OPTIONS)
def test_each_of_many_queries_gets_what_it_gets_alone(
    docs: Collection, options: dict[str, Any], reranker: Any
) -> None:
    retriever = Retriever(docs, reranker=reranker)
    alone = [retriever.search(query, **options) for query in QUERIES]
    assert same(retriever.search_many(QUERIES, **options), alone)
    assert same(retriever.search_many(QUERIES, vectors=VECTORS, **options), alone)
    assert sum(map(len, alone)) >= 3


@pytest.mark.parametrize(
    "options", [{}, {"diversity": 0.5}, {"group_by": "source"}, {"context": 1}]
)
def test_no_query_gets_no_hits(docs: Collection, options: dict[str, Any]) -> None:
    retriever = Retriever(docs, reranker=backwards)
    assert retriever.search_many([], **options) == []
    assert retriever.search_many((), vectors=[], **options) == []


class Counting(HashEmbedder):
    """Notes how many queries it is given at once."""

    def __init__(self) -> None:
        super().__init__(64)
        self.calls: list[int] = []

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        return np.stack([super(Counting, self).embed_query(text) for text in texts])

    def embed_query(self, text: str) -> Vectors:
        self.calls.append(1)
        return super().embed_query(text)


def opened(docs: Collection, embedder: Embedder) -> Retriever:
    return Retriever(Collection(docs.client, "many", embedder=embedder))


def test_a_thousand_queries_are_embedded_in_one_call(docs: Collection) -> None:
    embedder = Counting()
    queries = [f"number{n % 40} key" for n in range(1_000)]
    found = opened(docs, embedder).search_many(queries, limit=1, mode="dense")
    assert embedder.calls == [1_000]
    assert len(found) == 1_000
    assert found[:40] == found[40:80] == found[960:]
    assert found[7] == Retriever(docs).search("number7 key", limit=1, mode="dense")


@pytest.mark.parametrize(
    ("poison", "error", "message"),
    [
        ("  ", ValueError, "query 2: expected a query with words"),
        ("\ud800", ValueError, "query 2: expected a query of valid text"),
        (None, TypeError, "query 2: expected a query in words, got NoneType"),
    ],
)
def test_one_query_at_fault_is_named_before_any_is_paid_for(
    docs: Collection, poison: Any, error: type[Exception], message: str
) -> None:
    embedder = Counting()
    tried: list[dict[str, Any]] = [{}, {"mode": "sparse"}, {"group_by": "source"}]
    for options in tried:
        with pytest.raises(error, match=message):
            opened(docs, embedder).search_many(["key", "sea", poison, "door"], **options)
    assert embedder.calls == []


class Choosy(Counting):
    """Refuses what it finds rude."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        rude = {n: "rude" for n, text in enumerate(texts) if "rude" in text}
        if rude:
            raise TextsRefused("1 of the texts was refused", failed=rude, vectors={})
        return super().embed_queries(texts)


def test_what_an_embedder_refuses_is_told_by_its_index(docs: Collection) -> None:
    with pytest.raises(TextsRefused) as refused:
        opened(docs, Choosy()).search_many(["key", "rude", "sea"])
    assert refused.value.failed == {1: "rude"}


@pytest.mark.parametrize(
    ("queries", "vectors", "error", "message"),
    [
        ("one string", None, TypeError, "expected a list of queries, got str"),
        (["a", "b"], np.ones((1, 64)), ValueError, "one vector for each of 2 queries"),
        (["a", "b"], np.ones(64), ValueError, "one vector for each of 2 queries"),
        (["a", "b"], np.eye(2, 64)[::-1] * [[0], [1]], ValueError, "not all zeros"),
        (["a", "b"], np.ones((2, 3)), ValueError, "query vectors of 64 dimensions"),
    ],
)
def test_queries_and_vectors_that_do_not_go_together_are_refused(
    docs: Collection, queries: Any, vectors: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Retriever(docs).search_many(queries, vectors=vectors)


@pytest.fixture(scope="module", params=WIRES)
def both(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Collection, Callable[..., Any]]]:
    """A collection, and what runs a coroutine function with a client of its server."""
    where, _, protocol = request.param.rpartition("-")
    server = request.getfixturevalue(where or "standin")

    def run(action: Callable[[AsyncQdrantClient], Awaitable[T]]) -> T:
        async def alone() -> T:
            client = await aconnect(
                server.url,
                api_key=server.api_key,
                grpc_port=server.grpc_port,
                prefer_grpc=protocol == "grpc",
            )
            try:
                return await action(client)
            finally:
                await client.close()

        return asyncio.run(alone())

    with searching.store(request) as client:
        made = Collection(
            client, "both", embedder=EMBEDDER, quantization="scalar", chunker=Chunker(max_tokens=90)
        )
        Indexer(made).add([*DOCUMENTS, *LONG])
        yield made, run


@pytest.mark.parametrize("reranker", [None, backwards])
def test_from_coroutines_every_method_gives_the_same_with_every_option(
    both: tuple[Collection, Callable[..., Any]], reranker: Any
) -> None:
    docs, run = both
    retriever = Retriever(docs, reranker=reranker)

    async def ask(client: AsyncQdrantClient) -> None:
        other = AsyncRetriever(client, "both", embedder=EMBEDDER, reranker=reranker)
        for options in OPTIONS:
            alone = [retriever.search(query, **options) for query in QUERIES]
            assert same([await other.search(query, **options) for query in QUERIES], alone)
            by_vector = await other.search(QUERIES[0], vector=VECTORS[0], **options)
            assert same([by_vector], alone[:1])
            many = retriever.search_many(QUERIES, **options)
            assert same(await other.search_many(QUERIES, **options), many)
            assert same(await other.search_many(QUERIES, vectors=VECTORS, **options), many)
            plan, told = (
                retriever.explain(QUERIES[0], **options),
                await other.explain(QUERIES[0], **options),
            )
            assert same([told.hits], [plan.hits])
            assert (told.request, told.options, told.origins) == (
                plan.request,
                plan.options,
                plan.origins,
            )
            assert [(each.name, each.note) for each in told.stages] == [
                (each.name, each.note) for each in plan.stages
            ]
            packed = retriever.passages(QUERIES[0], token_budget=700, **options)
            others = await other.passages(QUERIES[0], token_budget=700, **options)
            assert [str(each.citation) for each in others] == [
                str(each.citation) for each in packed
            ]
            assert (others.tokens, others.notes) == (packed.tokens, packed.notes)
        assert await other.search_many([]) == []

    run(ask)


def test_from_coroutines_what_was_found_best_holds_as_well(
    both: tuple[Collection, Callable[..., Any]],
) -> None:
    docs, run = both
    docs.set_search_defaults(limit=3, mode="dense", diversity=0.2)

    async def ask(client: AsyncQdrantClient) -> tuple[Hits, Hits, Any]:
        others = AsyncRetriever(client, "both", embedder=EMBEDDER)
        without = AsyncRetriever(client, "both")
        plan = await others.explain(QUERIES[0], limit=2)
        return await others.search(QUERIES[0]), await without.search(QUERIES[0]), plan.origins

    try:
        hits, words, origins = run(ask)
        assert same([hits], [Retriever(docs).search(QUERIES[0])])
        assert same([words], [Retriever(Collection(docs.client, "both")).search(QUERIES[0])])
        assert dict(origins) == {"limit": "call", "mode": "collection", "diversity": "collection"}
    finally:
        docs.set_search_defaults()


@pytest.mark.parametrize("how", ["sync", "async"])
def test_more_vectors_than_a_server_takes_at_once_go_in_several_calls(
    tmp_path: Path, how: str
) -> None:
    dim, count = 2_000, 1_100  # 44 MB of JSON, and a server takes 32 MiB
    embedder = HashEmbedder(dim)
    vectors = np.random.default_rng(1).standard_normal((count, dim), np.float32)
    queries = ["by vector"] * count

    async def ask(url: str) -> list[Hits]:
        client = await aconnect(url, prefer_grpc=False)
        try:
            retriever = AsyncRetriever(client, "docs", embedder=embedder, mode="dense", limit=1)
            return await retriever.search_many(queries, vectors=vectors)
        finally:
            await client.close()

    with running(tmp_path) as qdrant:
        with closing(QdrantClient(url=qdrant.url, check_compatibility=False)) as client:
            docs = Collection(client, "docs", embedder=embedder)
            Indexer(docs).add(DOCUMENTS[:3])
            if how == "sync":
                retriever = Retriever(docs, mode="dense", limit=1)
                found = retriever.search_many(queries, vectors=vectors)
            else:
                found = asyncio.run(ask(qdrant.url))
        assert sum(each.operation == "query_batch" for each in qdrant.requests) == 3
    assert [len(hits) for hits in found] == [1] * count
