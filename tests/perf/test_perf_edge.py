"""EdgeClient against the bare engine: the same points, the same questions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture
from qdrant_client import models

from ragkit.edge import EdgeClient

_DIM = 768
_BATCH = 256
_STORED = 20_000
_TEXT = "lorem ipsum dolor sit amet consectetur " * 22
_VECTORS = np.random.default_rng(0).normal(size=(_STORED, _DIM)).astype(np.float32).tolist()
_SPARSE = [
    (np.sort(np.random.default_rng(n).choice(30_000, 60, replace=False)).tolist(), [1.0] * 60)
    for n in range(_BATCH)
]


def _payload(number: int) -> dict[str, Any]:
    """About 1 KB, shaped like that of a passage."""
    return {
        "text": _TEXT,
        "title": f"Title {number}",
        "source": f"notes/{number // 7}.md",
        "ordinal": number % 7,
        "chunk_count": 7,
        "start": number * 10,
        "end": number * 10 + 900,
        "headings": ["One", "Two"],
        "document_hash": f"{number:032x}",
        "chunk_hash": f"{number:032x}",
        "corpus": "notes",
        "metadata": {"language": "en", "year": 2024},
    }


def _raw_points(first: int) -> list[edge.Point]:
    return [
        edge.Point(
            first + n,
            {"dense": _VECTORS[(first + n) % _STORED], "bm25": edge.SparseVector(*_SPARSE[n])},
            _payload(first + n),
        )
        for n in range(_BATCH)
    ]


def _client_points(first: int) -> list[models.PointStruct]:
    return [
        models.PointStruct.model_construct(
            id=first + n,
            vector={
                "dense": _VECTORS[(first + n) % _STORED],
                "bm25": models.SparseVector.model_construct(
                    indices=_SPARSE[n][0], values=_SPARSE[n][1]
                ),
            },
            payload=_payload(first + n),
        )
        for n in range(_BATCH)
    ]


def _create(client: EdgeClient, **settings: Any) -> None:
    client.create_collection(
        "passages",
        vectors_config={"dense": models.VectorParams(size=_DIM, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        **settings,
    )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EdgeClient]:
    with EdgeClient(tmp_path / "client") as client:
        yield client


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[edge.EdgeShard]:
    config = edge.EdgeConfig(
        vectors={"dense": edge.EdgeVectorParams(_DIM, edge.Distance.Cosine)},
        sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        max_search_threads=1,
    )
    shard = edge.EdgeShard.create(str(tmp_path / "raw"), config)
    yield shard
    shard.close()


@pytest.mark.parametrize("flush", [False, True], ids=["without flush", "flush per batch"])
def test_upsert(
    benchmark: BenchmarkFixture, client: EdgeClient, raw: edge.EdgeShard, flush: bool
) -> None:
    """Batches of 256 points; both sides make their points inside the time measured."""
    _create(client)
    ours_at, theirs_at = count(step=_BATCH), count(step=_BATCH)

    def ours() -> None:
        client.upsert("passages", _client_points(next(ours_at)), wait=flush)

    def theirs() -> None:
        raw.update(edge.UpdateOperation.upsert_points(_raw_points(next(theirs_at))))
        if flush:
            raw.flush()

    paired(benchmark, ours=ours, theirs=theirs, rounds=40, limit="at most 1.25: 0.8 of the points")


_TURBO = models.TurboQuantization(
    turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4)
)


@pytest.mark.parametrize(
    "settings",
    [{}, {"quantization_config": _TURBO, "hnsw_config": models.HnswConfigDiff(m=0)}],
    ids=["graph", "turbo without graph"],
)
def test_query(benchmark: BenchmarkFixture, client: EdgeClient, settings: dict[str, Any]) -> None:
    """The ten nearest of 20,000 with their payload, rescored, each time to another vector."""
    _create(client, **settings)
    for first in range(0, _STORED, _BATCH):
        client.upsert("passages", _client_points(first), wait=False)
    client.optimize("passages")
    shard = client._shard("passages")
    shard.read(lambda engine: _compare(benchmark, client, engine))


def _compare(benchmark: BenchmarkFixture, client: EdgeClient, engine: edge.EdgeShard) -> None:
    queries = np.random.default_rng(1).normal(size=(1000, _DIM)).astype(np.float32).tolist()
    ours_next, theirs_next = cycle(queries).__next__, cycle(queries[500:] + queries[:500]).__next__
    rescored = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
    params = models.SearchParams(quantization=rescored)
    raw_rescored = edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
    raw_params = edge.SearchParams(quantization=raw_rescored)

    def ours() -> Any:
        return client.query_points("passages", ours_next(), using="dense", search_params=params)

    def theirs() -> Any:
        nearest = edge.Query.Nearest(theirs_next(), using="dense")
        request = edge.QueryRequest(10, query=nearest, with_payload=True, params=raw_params)
        return [(point.id, point.score, point.payload) for point in engine.query(request)]

    paired(benchmark, ours=ours, theirs=theirs, rounds=1000, limit="at most 1.2")
