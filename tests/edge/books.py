"""A small collection, and words to ask about it, for the suites that run on every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse

UUID_TEXT = "0f8fad5b-d9cb-469f-a165-70867728950e"


POINTS = [
    models.PointStruct(
        id=n,
        vector={
            "dense": [1.0, n / 10, 0.0, 0.0],
            "bm25": models.SparseVector(indices=[7, 100 + n], values=[1.0, 0.5]),
        },
        payload={
            "kind": "even" if n % 2 == 0 else "odd",
            "rank": n,
            "nested": {"deep": [n, n + 1]},
        },
    )
    for n in range(10)
]


def create(client: QdrantBase, name: str = "books", **settings: Any) -> None:
    """A collection like those of this library: one cosine vector, one sparse with IDF."""
    client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        **settings,
    )


def where(key: str, value: Any) -> models.Filter:
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))]
    )


def ids(points: Any) -> list[Any]:
    return [point.id for point in points]


def all_ids(client: QdrantBase, name: str = "books", **options: Any) -> list[Any]:
    return ids(client.scroll(name, limit=100, **options)[0])


def refusal(call: Callable[[], Any]) -> tuple[int | None, str]:
    """The status and the message with which a call is refused."""
    with pytest.raises(UnexpectedResponse) as caught:
        call()
    return caught.value.status_code, caught.value.structured()["status"]["error"]
