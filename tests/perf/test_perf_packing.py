"""Requests for gRPC: packed from numpy rows, against the client's way by lists of floats.

Both sides begin with a matrix and end with the bytes that travel. The sparse vectors and payloads
are there before, as the encoder and the reader leave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc

from ragkit.packing import packed_update
from ragkit.schema import point_id

_POINTS = 1000
_DIM = 768
_TERMS = 60
_TEXT = "lorem ipsum dolor sit amet consectetur " * 16
_RANDOM = np.random.default_rng(0)
_ROWS = _RANDOM.normal(size=(_POINTS, _DIM)).astype(np.float32)
_IDS = [point_id("notes", "a.md", number) for number in range(_POINTS)]
_SPARSE = [
    models.SparseVector(
        indices=np.sort(_RANDOM.choice(2**32, _TERMS, replace=False)).tolist(),
        values=_RANDOM.random(_TERMS).tolist(),
    )
    for _ in range(_POINTS)
]
_PAYLOADS = [
    {
        "text": _TEXT,
        "title": f"Title {number}",
        "source": f"notes/{number // 7}.md",
        "ordinal": number % 7,
        "chunk_count": 7,
        "start": number * 10,
        "end": number * 10 + 900,
        "line": number,
        "headings": ["One", "Two"],
        "document_hash": f"{number:040x}",
        "chunk_hash": f"{number:040x}",
        "corpus": "notes",
        "metadata": {"language": "en", "year": 2024},
    }
    for number in range(_POINTS)
]


def _upsert(rows: Sequence[Any] | None, *, rest: bool) -> list[models.UpdateOperation]:
    """One upsert of all points; `rest` says whether with sparse vectors and payloads."""
    points = [
        models.PointStruct.model_construct(
            id=key,
            vector=({} if rows is None else {"dense": rows[n]})
            | ({"bm25": _SPARSE[n]} if rest else {}),
            payload=_PAYLOADS[n] if rest else None,
        )
        for n, key in enumerate(_IDS)
    ]
    return [models.UpsertOperation(upsert=models.PointsList(points=points))]


def _by_the_client(operations: Sequence[models.UpdateOperation]) -> bytes:
    converted = [RestToGrpc.convert_update_operation(operation) for operation in operations]
    request = grpc.UpdateBatchPoints(collection_name="notes", wait=True, operations=converted)
    message: bytes = request.SerializeToString()
    return message


@pytest.mark.parametrize(
    ("dense", "rest", "limit"),
    [
        (True, True, "at most 0.4"),
        (True, False, "at most 0.25"),
        (False, True, "at most 0.8"),
    ],
    ids=["points", "dense vectors alone", "sparse vectors and payloads alone"],
)
def test_packing(benchmark: BenchmarkFixture, dense: bool, rest: bool, limit: str) -> None:
    """1,000 points of 768 dimensions, 60 terms, and a payload of about 1 KB."""

    def ours() -> bytes:
        rows = list(_ROWS) if dense else None
        message: bytes = packed_update("notes", _upsert(rows, rest=rest)).SerializeToString()
        return message

    def theirs() -> bytes:
        rows = [row.tolist() for row in _ROWS] if dense else None
        return _by_the_client(_upsert(rows, rest=rest))

    assert grpc.UpdateBatchPoints.FromString(ours()) == grpc.UpdateBatchPoints.FromString(theirs())
    paired(benchmark, ours=ours, theirs=theirs, rounds=30, limit=limit)
