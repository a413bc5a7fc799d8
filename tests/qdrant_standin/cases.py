"""Points to ask about, and the words to ask with, for the tests of the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse

UUID_TEXT = "0f8fad5b-d9cb-469f-a165-70867728950e"
NAME = "notes.v1"

Ask = Callable[[QdrantBase], Any]


def point(n: int, point_id: int | str | None = None) -> models.PointStruct:
    return models.PointStruct(
        id=n if point_id is None else point_id,
        vector={
            "dense": [1.0, n / 7, (n % 5) / 3, 0.25],
            "bm25": models.SparseVector(indices=[7, 100 + n % 4], values=[1.0 + n, 0.5]),
        },
        payload={
            "kind": "even" if n % 2 == 0 else "odd",
            "rank": n,
            "weight": n / 3,
            "tags": ["a", f"t{n % 3}"],
            "nested": {"deep": [n, {"äöü": None}], "yes": n % 2 == 0},
        },
    )


POINTS = [*(point(n) for n in range(1, 30)), point(30, UUID_TEXT)]


def fill(client: QdrantBase) -> None:
    client.create_collection(
        NAME,
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"ragkit": {"version": 1, "tenancy": None}},
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
    )
    for key, schema in (
        ("kind", models.PayloadSchemaType.KEYWORD),
        ("tags", models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)),
        ("rank", models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True)),
    ):
        client.create_payload_index(NAME, key, field_schema=schema)
    client.upsert(NAME, POINTS)
    client.update_collection_aliases(
        [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=NAME, alias_name="notes")
            )
        ]
    )


def where(key: str, value: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


EVEN = models.Filter(must=[where("kind", "even")])
DENSE = [1.0, 0.4, 0.1, 0.2]
SPARSE = models.SparseVector(indices=[7, 101], values=[0.7, 1.3])
EXACT = models.SearchParams(
    exact=True, quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
)
HYBRID = [
    models.Prefetch(query=DENSE, using="dense", limit=8, params=EXACT),
    models.Prefetch(query=SPARSE, using="bm25", limit=8, filter=EVEN),
]


def outcome(exc: BaseException) -> tuple[int | grpc.StatusCode | None, str]:
    if isinstance(exc, UnexpectedResponse):
        return exc.status_code, exc.structured()["status"]["error"]
    assert isinstance(exc, grpc.Call)
    return exc.code(), exc.details() or ""


ONLY_SPARSE = {"bm25": models.SparseVectorParams()}


def alias(collection: str, alias: str) -> models.CreateAliasOperation:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    return models.CreateAliasOperation(create_alias=create)
