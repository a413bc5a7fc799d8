"""Retriever against the bare engine: the same questions to the same shard.

Both sides begin with a question's words and its vector as a row of numpy, and end with the ids,
scores and payloads of the hits. They take turns with different questions: the one asked last has
its vectors and payloads in the processor's caches.

The engine searches in the thread that asks and fills those caches with codes and vectors, so what
Python does before and after takes three to four times as long as in a loop of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
import pytest
import qdrant_edge as edge
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture
from qdrant_client import models

from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.creation import GRAPH, MERGED
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.hits import hit_fields
from ragkit.retriever import Retriever
from ragkit.schema import chunk_hash, lexical_text, payload, point_id

_STORED = 100_000
_DIM = 768
_ASKED = 100
_LIMIT = 10
_CANDIDATES = 50  # of each side of a hybrid search, as ragkit asks for
_BATCH = 1_000
_PER_DOCUMENT = 20
_TERMS = 125  # words of a passage: with the rest of the payload about 1 KB
_RANDOM = np.random.default_rng(0)
_VOCABULARY = np.array(
    ["".join(_RANDOM.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(20_000)]
)
_FREQUENCY = 1 / np.arange(1, len(_VOCABULARY) + 1)  # as uneven as that of a language (Zipf's law)
_HOW = ["binary", "turbo", "binary and a graph"]

Mode = Literal["dense", "hybrid"]


def _embedded(count: int, *, seed: int) -> Vectors:
    """Vectors whose spread falls off from one direction to the next, as that of embeddings does."""
    directions = np.random.default_rng(7).normal(size=(_DIM, _DIM)).astype(np.float32)
    spread = np.arange(1, _DIM + 1, dtype=np.float32) ** -0.5
    drawn = np.random.default_rng(seed).normal(size=(count, _DIM)).astype(np.float32)
    rows = (drawn * spread) @ directions
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _texts(count: int, words: int) -> list[str]:
    chances = _FREQUENCY / _FREQUENCY.sum()
    drawn = _RANDOM.choice(len(_VOCABULARY), size=(count, words), p=chances)
    return [" ".join(row) for row in _VOCABULARY[drawn]]


_VECTORS = _embedded(_ASKED, seed=1)
_WORDS = _texts(_ASKED, 6)


class _Nothing:
    """Stands for an embedder of these vectors: nothing is embedded here."""

    dim = _DIM
    max_tokens = 2048
    fingerprint = "drawn"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        raise NotImplementedError

    def embed_query(self, text: str) -> Vectors:
        raise NotImplementedError


def _points(docs: Collection, first: int, rows: Vectors) -> list[models.PointStruct]:
    bm25 = docs.bm25
    points = []
    for n, text in enumerate(_texts(len(rows), _TERMS)):
        document, ordinal = divmod(first + n, _PER_DOCUMENT)
        chunk = Chunk(
            source=f"notes/{document}.md",
            ordinal=ordinal,
            text=text,
            start=ordinal * len(text),
            end=(ordinal + 1) * len(text),
            title=f"Title {document}",
            headings=("One", "Two"),
            line=ordinal * 10 + 1,
        )
        stored = payload(
            chunk,
            corpus="notes",
            chunk_count=_PER_DOCUMENT,
            document_hash=f"{document:040x}",
            chunk_hash=chunk_hash(chunk),
            metadata={"language": "en", "year": 2024},
        )
        points.append(
            models.PointStruct.model_construct(
                id=point_id("notes", chunk.source, ordinal),
                vector={"dense": rows[n], "bm25": bm25.encode_document(lexical_text(chunk))},
                payload=stored,
            )
        )
    return points


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeClient]:
    with EdgeClient(tmp_path_factory.mktemp("database")) as client:
        yield client


@pytest.fixture(scope="module")
def filled(client: EdgeClient) -> Collection:
    docs = Collection(client, "docs", embedder=_Nothing(), quantization="binary")
    docs.create(avg_len=float(_TERMS))
    rows = _embedded(_STORED, seed=2)
    for first in range(0, _STORED, _BATCH):
        points = _points(docs, first, rows[first : first + _BATCH])
        client.upsert(docs.version, points, wait=False)
        if (first + _BATCH) % 20_000 == 0:  # as often as a run of indexing does
            docs.optimize()
    return docs


@pytest.fixture(scope="module", params=_HOW)
def docs(request: pytest.FixtureRequest, client: EdgeClient, filled: Collection) -> Collection:
    """The collection in each way in turn; of this size ragkit itself would scan it."""
    kind, _, graph = request.param.partition(" and a ")
    if graph:
        client.update_collection(filled.version, hnsw_config=GRAPH, optimizers_config=MERGED)
    if request.param != _HOW[0]:
        filled.set_quantization(kind)
    docs = Collection(client, "docs", embedder=_Nothing())
    docs.open()
    return docs


class _Engine:
    """The shard of a collection, asked in the engine's own words what ragkit asks it."""

    def __init__(self, client: EdgeClient, docs: Collection) -> None:
        self._shard = client._shard(docs.version).read(lambda engine: engine)
        binary = docs.manifest.quantization == "binary"
        self._oversampling = 3.0 if binary else 2.0
        self._hnsw_ef = 256 if docs.config.hnsw_config.m else None
        self._bm25 = edge.Bm25(edge.Bm25Config(avg_len=docs.manifest.avg_len, language="english"))

    def search(self, n: int, mode: Mode) -> list[Any]:
        return _read(self._shard.query(self._dense(n) if mode == "dense" else self._hybrid(n)))

    def search_many(self) -> list[list[Any]]:
        requests = [self._dense(n) for n in range(_ASKED)]
        found = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return [_read(points) for points in found]

    def _dense(self, n: int) -> edge.QueryRequest:
        return edge.QueryRequest(
            _LIMIT, query=self._nearest(n), params=self._params(), with_payload=hit_fields(None)
        )

    def _hybrid(self, n: int) -> edge.QueryRequest:
        words = self._bm25.embed_query(_WORDS[n])
        fusion: Any = edge.Fusion.Rrf(10)
        return edge.QueryRequest(
            _LIMIT,
            query=fusion,
            prefetches=[
                edge.Prefetch(_CANDIDATES, query=self._nearest(n), params=self._params()),
                edge.Prefetch(_CANDIDATES, query=edge.Query.Nearest(words, "bm25")),
            ],
            with_payload=hit_fields(None),
        )

    def _nearest(self, n: int) -> Any:
        return edge.Query.Nearest(_VECTORS[n].tolist(), "dense")

    def _params(self) -> edge.SearchParams:
        quantization = edge.QuantizationSearchParams(rescore=True, oversampling=self._oversampling)
        return edge.SearchParams(hnsw_ef=self._hnsw_ef, quantization=quantization)


def _read(points: list[edge.ScoredPoint]) -> list[Any]:
    return [(point.id, point.score, point.payload) for point in points]


def _in_turn(*, from_: int = 0) -> Iterator[int]:
    return islice(cycle(range(_ASKED)), from_, None)


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_one_search(
    benchmark: BenchmarkFixture, client: EdgeClient, docs: Collection, mode: Mode
) -> None:
    engine, retriever = _Engine(client, docs), Retriever(docs, mode=mode, limit=_LIMIT)
    for n in range(5):  # which of several equal scores of a fusion come is the engine's whim
        hits = retriever.search(_WORDS[n], vector=_VECTORS[n])
        assert [hit.score for hit in hits] == [score for _, score, _ in engine.search(n, mode)]
    ours_at, theirs_at = _in_turn(), _in_turn(from_=_ASKED // 2)

    def ours() -> object:
        n = next(ours_at)
        return retriever.search(_WORDS[n], vector=_VECTORS[n])

    paired(
        benchmark,
        ours=ours,
        theirs=lambda: engine.search(next(theirs_at), mode),
        rounds=400,
        limit="at most 1.15" if mode == "dense" else "as close: no number is set",
    )


def test_a_hundred_searches_at_once(
    benchmark: BenchmarkFixture, client: EdgeClient, docs: Collection
) -> None:
    engine, retriever = _Engine(client, docs), Retriever(docs, mode="dense", limit=_LIMIT)
    paired(
        benchmark,
        ours=lambda: retriever.search_many(_WORDS, vectors=_VECTORS),
        theirs=engine.search_many,
        rounds=9,
        limit="at most 1.11: 0.9 of the searches in a second",
    )


def test_neighbours_against_a_search_without(benchmark: BenchmarkFixture, docs: Collection) -> None:
    retriever = Retriever(docs, mode="dense", limit=_LIMIT)
    with_at, without_at = _in_turn(), _in_turn(from_=_ASKED // 2)

    def search(n: int, context: int) -> object:
        return retriever.search(_WORDS[n], vector=_VECTORS[n], context=context)

    paired(
        benchmark,
        ours=lambda: search(next(with_at), 1),
        theirs=lambda: search(next(without_at), 0),
        rounds=200,
        limit="one call more: no number is set",
    )
