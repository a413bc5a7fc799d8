"""Collections that ragkit did not make, filled as LangChain's Qdrant store fills them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import searching
from numpy.typing import NDArray
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from searching import DOCUMENTS, STORES, WIRES
from servers import opened, tidied

from ragkit.async_retriever import AsyncRetriever
from ragkit.collection import Collection
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionMismatch, CollectionNotFound
from ragkit.foreign import ForeignSchema
from ragkit.foreign_collection import ForeignCollection
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.stores import aconnect

EMBEDDER = HashEmbedder(32)
QUERY = "rotate the yellow key"
TEXTS = [each.text for each in DOCUMENTS[:24]]
# Of several lengths, for with unit vectors all distances rank alike.
VECTORS = EMBEDDER.embed_documents(TEXTS, titles=[""] * 24) * np.linspace(0.5, 2, 24)[:, np.newaxis]
LANGCHAIN = ForeignSchema(vector="", text="page_content", source="metadata.source")


def fill(
    client: QdrantBase,
    name: str,
    *,
    vector: str = "",
    distance: models.Distance = models.Distance.COSINE,
    keep: Any = None,
) -> None:
    params = models.VectorParams(size=32, distance=distance)
    client.create_collection(name, vectors_config={vector: params} if vector else params)
    points = [
        models.PointStruct(
            id=n,
            vector={vector: row.tolist()} if vector else row.tolist(),
            payload=keep(n)
            if keep
            else {
                "page_content": TEXTS[n],
                "metadata": {"source": f"s{n % 3}", "tags": [f"t{n % 2}", "all"]},
            },
        )
        for n, row in enumerate(VECTORS)
    ]
    client.upsert(name, points, wait=True)


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[QdrantBase]:
    with searching.store(request) as client:
        fill(client, "theirs")
        for vector in ("", "content"):
            for distance in models.Distance:
                fill(client, f"theirs {vector}{distance}", vector=vector, distance=distance)
        yield client


@pytest.fixture
def theirs(store: QdrantBase) -> ForeignCollection:
    return ForeignCollection(store, "theirs", LANGCHAIN, embedder=EMBEDDER)


def best_first(distance: models.Distance) -> tuple[list[str], NDArray[np.float64]]:
    """All ids from the nearest to the farthest, and what Qdrant's score of each is."""
    query, rows = EMBEDDER.embed_query(QUERY), VECTORS.astype(np.float64)
    near = {
        models.Distance.COSINE: rows @ query / np.linalg.norm(rows, axis=1),
        models.Distance.DOT: rows @ query,
        models.Distance.EUCLID: -np.linalg.norm(rows - query, axis=1),
        models.Distance.MANHATTAN: -np.abs(rows - query).sum(axis=1),
    }[distance]
    order = np.argsort(-near)
    return [str(n) for n in order], np.abs(near[order])


@pytest.mark.parametrize("vector", ["", "content"])
@pytest.mark.parametrize("distance", models.Distance)
def test_the_nearest_come_first_whatever_the_distance(
    store: QdrantBase, vector: str, distance: models.Distance
) -> None:
    schema = ForeignSchema(vector=vector, text="page_content", source="metadata.source")
    docs = ForeignCollection(store, f"theirs {vector}{distance}", schema, embedder=EMBEDDER)
    order, scores = best_first(distance)
    hits = Retriever(docs).search(QUERY, limit=24)
    assert [hit.id for hit in hits] == order
    assert [hit.score for hit in hits] == pytest.approx(list(scores), abs=1e-4)
    assert [hit.text for hit in hits] == [TEXTS[int(each)] for each in order]
    # In groups the best group is that of the nearest point, and within it the nearest comes first.
    expected: dict[str, list[str]] = {}
    for each in order:
        expected.setdefault(f"s{int(each) % 3}", []).append(each)
    grouped = Retriever(docs).search(QUERY, group_by="metadata.source", group_size=2, limit=3)
    assert [(hit.group, hit.id) for hit in grouped] == [
        (source, each) for source, found in expected.items() for each in found[:2]
    ]


def test_a_hit_is_the_whole_text_with_what_else_the_payload_has(theirs: ForeignCollection) -> None:
    (hit,) = Retriever(theirs).search(QUERY, limit=1)
    n = int(hit.id)
    assert (hit.text, hit.source, hit.title, hit.corpus) == (TEXTS[n], f"s{n % 3}", f"s{n % 3}", "")
    assert (hit.start, hit.end, hit.line, hit.page) == (0, len(TEXTS[n]), None, None)
    assert hit.metadata == {"metadata": {"source": f"s{n % 3}", "tags": [f"t{n % 2}", "all"]}}
    assert (str(hit.citation), hit.placed) == (f"s{n % 3}", False)  # where in it, nobody knows


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"metadata.source": "s1"}, lambda n: n % 3 == 1),
        ({"metadata.source": ["s1", "s2"]}, lambda n: n % 3),
        ({"metadata.source": "*1"}, lambda n: n % 3 == 1),
        ({"metadata.tags": "*0"}, lambda n: n % 2 == 0),
        ({"not": {"metadata.tags": "t0"}}, lambda n: n % 2),
        ({"source": "s1"}, lambda n: False),  # a key means itself here
        ({"has_id": [3, 4]}, lambda n: n in (3, 4)),
    ],
)
def test_a_filter_names_their_own_keys(
    theirs: ForeignCollection, given: dict[str, Any], expected: Any
) -> None:
    hits = Retriever(theirs).search(QUERY, filter=given, limit=24)
    assert {int(hit.id) for hit in hits} == {n for n in range(24) if expected(n)}


def longest(query: str, texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def broken(query: str, texts: list[str]) -> list[float]:
    raise RuntimeError("no memory")


@pytest.mark.parametrize("vector", ["", "content"])
@pytest.mark.parametrize("distance", models.Distance)
def test_reranker_and_diversity_go_with_numbers_as_ids_and_any_distance(
    store: QdrantBase, vector: str, distance: models.Distance
) -> None:
    schema = ForeignSchema(vector=vector, text="page_content")
    docs = ForeignCollection(store, f"theirs {vector}{distance}", schema, embedder=EMBEDDER)
    order, _ = best_first(distance)
    by_length = sorted(order[:12], key=lambda each: -len(TEXTS[int(each)]))
    options: dict[str, Any] = {"limit": 4, "prefetch_limit": 12}
    hits = Retriever(docs, reranker=longest).search(QUERY, **options)
    assert [hit.id for hit in hits] == by_length[:4]
    hits = Retriever(docs, reranker=longest).search(QUERY, diversity=0.01, **options)
    assert hits[0].id == by_length[0]
    assert len(hits) == 4
    assert len({hit.id for hit in Retriever(docs).search(QUERY, diversity=0.5, **options)}) == 4
    # Where the reranker fails the nearest is first, though its score may be the lowest.
    hits = Retriever(docs, reranker=broken).search(QUERY, diversity=0.01, **options)
    assert hits[0].id == order[0]


def test_passages_many_searches_and_explanations_go_as_everywhere(
    theirs: ForeignCollection,
) -> None:
    retriever = Retriever(theirs, limit=4)
    hits = retriever.search(QUERY)
    assert retriever.search_many([QUERY, "walrus"]) == [hits, retriever.search("walrus")]
    packed = retriever.passages(QUERY, token_budget=2_000, limit=4)
    assert sorted(each.text for each in packed) == sorted(hit.text for hit in hits)
    plan = retriever.explain(QUERY)
    assert plan.hits == hits
    assert [stage.name for stage in plan.stages] == ["embed", "dense"]


def test_a_vector_given_is_compared_as_it_is(theirs: ForeignCollection) -> None:
    expected = Retriever(theirs).search(QUERY)
    assert Retriever(theirs).search("…", vector=EMBEDDER.embed_query(QUERY)) == expected
    with pytest.raises(ValueError, match="query vectors of 32 dimensions"):
        Retriever(theirs).search(QUERY, vector=[1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sparse"}, "mode 'sparse' needs what ragkit stores"),
        ({"mode": "hybrid"}, "mode 'hybrid' needs what ragkit stores"),
        ({"context": 1}, "context needs what ragkit stores"),
        ({"oversampling": 2.0}, "oversampling goes with quantization"),
    ],
)
def test_what_needs_a_collection_of_ragkits_is_refused(
    theirs: ForeignCollection, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CollectionMismatch, match=message):
        Retriever(theirs).search(QUERY, **options)


def test_a_schema_that_is_not_theirs_is_refused_with_what_there_is(store: QdrantBase) -> None:
    def ask(name: str, schema: ForeignSchema, embedder: HashEmbedder = EMBEDDER) -> None:
        Retriever(ForeignCollection(store, name, schema, embedder=embedder)).search(QUERY)

    wrong = ForeignSchema(vector="dense", text="page_content")
    with pytest.raises(CollectionMismatch, match="no dense vector 'dense'; it has ''"):
        ask("theirs", wrong)
    with pytest.raises(CollectionMismatch, match="no dense vector 'dense'; it has 'content'"):
        ask("theirs contentCosine", wrong)
    with pytest.raises(CollectionMismatch, match=r"32-d vectors, hash-v1 dim=64 makes 64-d"):
        ask("theirs", LANGCHAIN, HashEmbedder(64))
    with pytest.raises(CollectionNotFound, match="no collection 'nobodys'"):
        ask("nobodys", LANGCHAIN)


def test_a_text_key_that_is_nowhere_is_told_in_a_note(theirs: ForeignCollection) -> None:
    schema = ForeignSchema(vector="", text="text")
    docs = ForeignCollection(theirs.client, "theirs", schema, embedder=EMBEDDER)
    hits = Retriever(docs).search(QUERY)
    assert {hit.text for hit in hits} == {""}
    assert "text under the payload key 'text'" in hits.notes[0]
    assert Retriever(theirs).search(QUERY).notes == ()
    assert Retriever(docs).search(QUERY, filter={"has_id": [99]}).notes == ()


def test_payloads_of_any_form_are_read(client: QdrantBase) -> None:
    payloads: list[Any] = [None, {}, {"page_content": None}, {"page_content": 7}]
    payloads += [{"page_content": ["a"], "metadata": "none"}, {"metadata": {"source": None}}]
    payloads += [{"metadata.source": "flat", "page_content": "{0} [b]"}]
    fill(client, "odd", keep=lambda n: payloads[n % len(payloads)])
    docs = ForeignCollection(client, "odd", LANGCHAIN, embedder=EMBEDDER)
    hits = Retriever(docs).search(QUERY, limit=24)
    read = {(hit.text, hit.source) for hit in hits}
    assert read == {("", ""), ("7", ""), ("['a']", ""), ("{0} [b]", "flat")}
    assert Retriever(docs).passages(QUERY, token_budget=500)


def test_who_was_not_told_is_told_how_to_tell(store: QdrantBase) -> None:
    docs = Collection(store, "theirs", embedder=EMBEDDER)
    for use in (lambda: Retriever(docs).search(QUERY), lambda: Indexer(docs).add(DOCUMENTS)):
        with pytest.raises(CollectionMismatch, match=r"ForeignCollection\(client, 'theirs', "):
            use()
    assert store.count("theirs").count == 24


def test_nothing_is_indexed_into_it(theirs: ForeignCollection) -> None:
    with pytest.raises(TypeError, match="nothing is indexed into a collection that ragkit did not"):
        Indexer(theirs)  # type: ignore[arg-type]


def test_one_that_goes_is_an_error_and_one_that_is_made_anew_is_found(client: QdrantBase) -> None:
    fill(client, "passing")
    docs = ForeignCollection(client, "passing", LANGCHAIN, embedder=EMBEDDER)
    retriever = Retriever(docs)
    expected = retriever.search(QUERY)
    client.delete_collection("passing")
    with pytest.raises(CollectionNotFound, match="'passing'"):
        retriever.search(QUERY)
    fill(client, "passing")
    assert retriever.search(QUERY) == expected


@pytest.mark.parametrize("wire", WIRES)
def test_from_coroutines_it_is_the_same(request: pytest.FixtureRequest, wire: str) -> None:
    where, _, protocol = wire.rpartition("-")
    server = request.getfixturevalue(where or "standin")
    options: list[dict[str, Any]] = [
        {},
        {"group_by": "metadata.source", "group_size": 2},
        {"filter": {"metadata.tags": "*0"}},
        {"diversity": 0.5},
        {"vector": EMBEDDER.embed_query("walrus")},
    ]

    async def ask() -> list[Any]:
        client = await aconnect(
            server.url,
            api_key=server.api_key,
            grpc_port=server.grpc_port,
            prefer_grpc=protocol == "grpc",
        )
        try:
            retriever, reranked = (
                AsyncRetriever(
                    client, "async", embedder=EMBEDDER, foreign=LANGCHAIN, reranker=reranker
                )
                for reranker in (None, longest)
            )
            found = [await retriever.search(QUERY, **each) for each in options]
            found.append(await reranked.search(QUERY, diversity=0.3))
            without = AsyncRetriever(client, "async", foreign=LANGCHAIN)
            vector = EMBEDDER.embed_query(QUERY)
            found.append(await without.search("…", vector=vector))
            for schema in (LANGCHAIN, ForeignSchema(vector="dense", text="page_content")):
                unfit = AsyncRetriever(client, "async", foreign=schema)
                with pytest.raises(CollectionMismatch, match=r"needs an embedder|no dense vector"):
                    await unfit.search(QUERY)
            return found
        finally:
            await client.close()

    with opened(server, prefer_grpc=protocol == "grpc") as client, tidied(client):
        fill(client, "async", distance=models.Distance.EUCLID)
        docs = ForeignCollection(client, "async", LANGCHAIN, embedder=EMBEDDER)
        expected = [Retriever(docs).search(QUERY, **each) for each in options]
        expected.append(Retriever(docs, reranker=longest).search(QUERY, diversity=0.3))
        expected.append(Retriever(docs).search(QUERY))
        assert asyncio.run(ask()) == expected
