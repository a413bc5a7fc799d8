from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from ragkit.async_retriever import AsyncRetriever
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionMismatch, CollectionNotFound
from ragkit.indexer import Indexer
from ragkit.quantization import Quantization, default_oversampling
from ragkit.retriever import Retriever
from ragkit.search_options import Mode, SearchOptions
from ragkit.search_request import query_request, read_hits
from ragkit.tenancy import scoped

DOCUMENTS = [
    Document(source="keys.md", title="API keys", text="Rotate the keys every 90 days.",
             metadata={"year": 2024}),
    Document(source="fruit.md", title="Fruit", text="Bananas are yellow.", metadata={"year": 2020}),
    Document(source="sea.md", title="Sea", text="The walrus has tusks.", metadata={"year": 2024}),
    Document(source="doors.md", title="Doors", text="The key opens the door of the house."),
]  # fmt: skip


@pytest.fixture
def docs(client: QdrantBase) -> Collection:
    collection = Collection(client, "docs", embedder=HashEmbedder(256))
    Indexer(collection).add(DOCUMENTS)
    return collection


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid", None])
def test_every_mode_finds_the_passage(docs: Collection, mode: Mode | None) -> None:
    hits = Retriever(docs).search("how do I rotate the keys?", mode=mode, limit=2)
    assert (hits[0].source, hits[0].title) == ("keys.md", "API keys")
    assert hits[0].text == "Rotate the keys every 90 days."
    assert (hits[0].start, hits[0].end, hits[0].ordinal, hits[0].line) == (0, 30, 0, 1)
    assert hits[0].metadata == {"year": 2024}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_dense_scores_are_the_cosines_of_the_vectors(docs: Collection) -> None:
    embedder = HashEmbedder(256)
    query = "the walrus and its tusks"
    vectors = embedder.embed_documents(
        [d.text for d in DOCUMENTS], titles=[d.title for d in DOCUMENTS]
    )
    expected = dict(
        zip([d.source for d in DOCUMENTS], vectors @ embedder.embed_query(query), strict=True)
    )
    hits = Retriever(docs).search(query, mode="dense")
    assert [hit.source for hit in hits] == sorted(expected, key=lambda s: -expected[s])
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.source], abs=2e-3)


def test_a_word_of_the_title_alone_finds_the_passage(docs: Collection) -> None:
    assert Retriever(docs).search("fruit", mode="sparse")[0].source == "fruit.md"


def test_a_filter_holds_in_every_mode(docs: Collection) -> None:
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=2020))]
    )
    for mode in ("dense", "hybrid", "sparse"):
        hits = Retriever(docs).search("yellow keys", mode=mode, filter=only)
        assert [hit.source for hit in hits] == ["fruit.md"]


def test_a_threshold_leaves_out_what_scores_lower(docs: Collection) -> None:
    hits = Retriever(docs).search("rotate the keys", mode="dense")
    threshold = (hits[0].score + hits[1].score) / 2
    best = Retriever(docs).search("rotate the keys", mode="dense", score_threshold=threshold)
    assert [hit.id for hit in best] == [hits[0].id]


def test_a_query_of_stop_words_finds_nothing_by_words(docs: Collection) -> None:
    assert Retriever(docs).search("the of and", mode="sparse") == []
    assert len(Retriever(docs).search("the of and", mode="hybrid")) == 4


def test_a_word_that_is_nowhere_finds_nothing(docs: Collection) -> None:
    assert Retriever(docs).search("zeppelin", mode="sparse") == []


def test_identical_passages_come_in_the_same_order_every_time(client: QdrantBase) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(64))
    Indexer(docs).add(
        Document(source=f"s{n}", title="Keys", text="Rotate the keys.") for n in range(30)
    )
    first = [hit.id for hit in Retriever(docs).search("rotate keys", limit=7)]
    assert len(set(first)) == 7
    for _ in range(20):
        assert [hit.id for hit in Retriever(docs).search("rotate keys", limit=7)] == first


def test_equal_scores_come_in_the_order_of_ids_whatever_a_server_returns(docs: Collection) -> None:
    payload = {"text": "t", "title": "", "source": "", "corpus": "", "start": 0, "end": 1}
    points = [
        models.ScoredPoint(id=key, version=0, score=score, payload={**payload, "ordinal": 0})
        for key, score in (("d", 0.5), ("a", 0.7), ("b", 0.5), ("c", 0.5), ("e", 0.4))
    ]
    where, _ = docs.searchable()
    for _ in range(5):
        random.shuffle(points)
        found = read_hits(types.QueryResponse(points=points), where, ordered=False)
        assert [hit.id for hit in found] == ["a", "b", "c", "d", "e"]


def test_every_part_of_a_tenants_request_is_narrowed_to_the_tenant(client: QdrantBase) -> None:
    theirs = Collection(client, "shared", embedder=HashEmbedder(64), tenant="acme")
    Indexer(theirs).add(DOCUMENTS)
    where, _ = theirs.searchable()
    request = query_request(
        "keys", SearchOptions(), where, vector=np.ones(64, np.float32), narrowed=None, limit=10
    )
    assert request is not None
    assert isinstance(request.prefetch, list)
    assert len(request.prefetch) == 2
    for part in (request, *request.prefetch):
        assert isinstance(part, models.QueryRequest | models.Prefetch)
        assert part.filter == scoped(None, "acme")
    # `Points.query` narrows once more, and the answer is the same.
    (once,) = client.query_batch_points("shared", requests=[request])
    (twice,) = theirs.points.query([request])
    assert [point.id for point in once.points] == [point.id for point in twice.points]
    assert len(once.points) == 4


def test_a_collection_that_goes_between_two_searches_is_an_error(docs: Collection) -> None:
    retriever = Retriever(docs)
    assert retriever.search("keys")
    Collection(docs.client, "docs").drop()
    with pytest.raises(CollectionNotFound, match="there is no collection 'docs'"):
        retriever.search("keys")


def test_both_retrievers_have_the_same_methods_and_arguments() -> None:
    names = {name for name in vars(Retriever) if not name.startswith("_")}
    assert names == {"search", "search_many", "passages", "explain"}
    for name in names:
        sync, other = (inspect.signature(getattr(c, name)) for c in (Retriever, AsyncRetriever))
        assert sync.parameters == other.parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": " "}, "blank"),
        ({"limit": 0}, "limit to be a whole number from 1 to 10000, got 0"),
        ({"limit": 1_000_000}, "got 1000000"),
        ({"oversampling": 0.5}, "oversampling to be a number from 1 to 1000"),
        ({"oversampling": float("nan")}, "oversampling to be a number from 1 to 1000"),
        ({"mode": "magic"}, "expected mode to be dense, sparse or hybrid, got 'magic'"),
    ],
)
def test_a_bad_option_is_refused(
    docs: Collection, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Retriever(docs).search(**{"query": "keys", **options})  # type: ignore[arg-type]


def test_a_very_long_query_is_answered(docs: Collection) -> None:
    assert Retriever(docs).search("rotate keys " * 8000)[0].source == "keys.md"


def test_dense_search_without_an_embedder_says_which_one_is_needed(docs: Collection) -> None:
    without = Collection(docs.client, "docs")
    assert Retriever(without).search("rotate keys")[0].source == "keys.md"
    with pytest.raises(CollectionMismatch, match="pass the embedder hash-v1 dim=256"):
        Retriever(without).search("rotate keys", mode="dense")


def test_dense_search_of_a_keyword_collection_says_so(client: QdrantBase) -> None:
    docs = Collection(client, "words")
    Indexer(docs).add(DOCUMENTS)
    with pytest.raises(CollectionMismatch, match="use mode='sparse'"):
        Retriever(docs).search("keys", mode="hybrid")
    with pytest.raises(CollectionMismatch, match="BM25 vectors alone"):
        Retriever(Collection(client, "words", embedder=HashEmbedder(16))).search("keys")


def test_a_collection_that_is_not_there_is_an_error_that_lists_those_that_are(
    docs: Collection,
) -> None:
    with pytest.raises(CollectionNotFound, match="'docs'"):
        Retriever(Collection(docs.client, "other")).search("keys")


def test_a_collection_that_ragkit_did_not_make_is_refused(client: QdrantBase) -> None:
    client.create_collection(
        "foreign", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT)
    )
    with pytest.raises(CollectionMismatch, match="not made by ragkit"):
        Retriever(Collection(client, "foreign")).search("keys")


@pytest.mark.parametrize("quantization", ["none", "binary", "scalar", "turbo", "product"])
def test_rescoring_finds_the_exact_neighbours_under_every_quantization(
    client: QdrantBase, quantization: str
) -> None:
    documents = [
        Document(source=str(n), title="t", text=" ".join(f"w{(n * k) % 97}" for k in range(1, 9)))
        for n in range(300)
    ]
    docs = Collection(
        client,
        "docs",
        embedder=HashEmbedder(128),
        quantization=quantization,
    )
    Indexer(docs).add(documents)
    vectors = HashEmbedder(128).embed_documents(
        [d.text for d in documents], titles=["t"] * len(documents)
    )
    found = expected = 0
    for n in range(0, 300, 30):
        query = documents[n].text
        exact = vectors @ HashEmbedder(128).embed_query(query)
        best = set(np.argsort(-exact)[:5].tolist())
        # 20 times as many candidates: what is then missed was lost by the rescoring.
        oversampling = 20.0 if docs.config.quantization_config else None
        hits = Retriever(docs).search(query, mode="dense", limit=5, oversampling=oversampling)
        found += sum(exact[int(hit.source)] >= np.sort(exact)[-5] - 1e-4 for hit in hits)
        expected += len(best)
        assert hits[0].score == pytest.approx(float(exact.max()), abs=1e-3)
    assert found >= 0.95 * expected


def test_exact_search_ignores_quantization(client: QdrantBase) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(64), quantization="binary")
    Indexer(docs).add(DOCUMENTS)
    embedder = HashEmbedder(64)
    texts, titles = [d.text for d in DOCUMENTS], [d.title for d in DOCUMENTS]
    query = "keys of the house"
    scores = embedder.embed_documents(texts, titles=titles) @ embedder.embed_query(query)
    hits = Retriever(docs).search(query, mode="dense", exact=True, rescore=False)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)


def test_oversampling_follows_the_kind_of_quantization() -> None:
    binary = Quantization.binary().config
    turbo = Quantization.auto().settled(embedded=True).config
    assert binary is not None
    assert turbo is not None
    assert (default_oversampling(binary), default_oversampling(turbo)) == (3.0, 2.0)
