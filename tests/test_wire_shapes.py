"""What goes over the wire, written down: how a collection is made, filled and searched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from qdrant_standin import Server, connected, running

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever

FIELDS = [
    "text",
    "title",
    "source",
    "corpus",
    "start",
    "end",
    "line",
    "page",
    "last_page",
    "headings",
    "ordinal",
    "metadata",
]


@pytest.fixture(scope="module", params=["rest", "grpc"])
def sent(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Any]]]:
    """The bodies of all requests of a first load and a search, by what they ask for."""
    with (
        running(tmp_path_factory.mktemp("wire")) as server,
        connected(server, request.param) as client,
    ):
        docs = Collection(
            client,
            "docs",
            embedder=HashEmbedder(8),
            quantization="binary-2bit-query-scalar8bits",
            tenant="acme",
            shard_number=6,
            replication_factor=2,
        )
        Indexer(docs).add([Document(source="a", title="Fruit", text="Bananas are yellow.")])
        Retriever(docs).search("bananas", limit=2)
        yield {"transport": [request.param], **_bodies(server)}


def _bodies(server: Server) -> dict[str, list[Any]]:
    bodies: dict[str, list[Any]] = {}
    for each in server.requests:
        body = each.body
        if each.transport == "grpc":
            body = MessageToDict(body, preserving_proto_field_name=True)
        bodies.setdefault(each.operation, []).append(body)
    return bodies


def test_a_collection_is_made_with_these_settings(sent: dict[str, list[Any]]) -> None:
    (made,) = sent["create_collection"]
    metadata = made.pop("metadata")
    assert "ragkit" in metadata
    if sent["transport"] == ["rest"]:
        assert metadata["ragkit"]["tenancy"] == "payload"
        assert made == {
            "vectors": {
                "dense": {"size": 8, "distance": "Cosine", "on_disk": True, "memory": "cold"}
            },
            "shard_number": 6,
            "replication_factor": 2,
            "hnsw_config": {"m": 0, "payload_m": 16},
            "quantization_config": {
                "binary": {
                    "always_ram": True,
                    "memory": "pinned",
                    "encoding": "two_bits",
                    "query_encoding": "scalar8bits",
                }
            },
            "sparse_vectors": {"bm25": {"modifier": "idf"}},
        }
        return
    dense = {"size": "8", "distance": "Cosine", "on_disk": True, "memory": "Cold"}
    assert made == {
        "collection_name": "docs.v1",
        "vectors_config": {"params_map": {"map": {"dense": dense}}},
        "shard_number": 6,
        "replication_factor": 2,
        "hnsw_config": {"m": "0", "payload_m": "16"},
        "quantization_config": {
            "binary": {
                "always_ram": True,
                "memory": "Pinned",
                "encoding": "TwoBits",
                "query_encoding": {"setting": "Scalar8Bits"},
            }
        },
        "sparse_vectors_config": {"map": {"bm25": {"modifier": "Idf"}}},
    }


def test_the_name_is_given_by_one_action(sent: dict[str, list[Any]]) -> None:
    alias = {"collection_name": "docs.v1", "alias_name": "docs"}
    assert sent["update_aliases"] == [{"actions": [{"create_alias": alias}]}]


def test_every_index_is_made_before_the_first_point(sent: dict[str, list[Any]]) -> None:
    fields = ["source", "corpus", "document_hash", "chunk_hash", "ordinal", "tenant"]
    assert [each["field_name"] for each in sent["create_index"]] == fields
    *others, tenant = sent["create_index"]
    if sent["transport"] == ["rest"]:
        assert [each["field_schema"]["enable_hnsw"] for each in others] == [False] * 5
        assert tenant["field_schema"] == {"type": "keyword", "is_tenant": True}
    else:
        assert tenant["field_type"] == "FieldTypeKeyword"
        assert tenant["field_index_params"] == {"keyword_index_params": {"is_tenant": True}}
    order = list(sent)
    assert order.index("create_index") < order.index("batch") < order.index("query_batch")


def test_a_hybrid_search_is_one_request_with_the_tenant_in_each_part(
    sent: dict[str, list[Any]],
) -> None:
    (asked,) = sent["query_batch"]
    if sent["transport"] == ["rest"]:
        (search,) = asked["searches"]
        own = {"must": [{"key": "tenant", "match": {"value": "acme"}}]}
        rescored = {"exact": False, "quantization": {"rescore": True, "oversampling": 3.0}}
        limits: list[object] = [2, 50, 50]
        assert search["with_payload"] == FIELDS
    else:
        (search,) = asked["query_points"]
        own = {"must": [{"field": {"key": "tenant", "match": {"keyword": "acme"}}}]}
        rescored = {
            "exact": False,
            "quantization": {"ignore": False, "rescore": True, "oversampling": 3.0},
        }
        limits = ["2", "50", "50"]
        assert search["with_payload"] == {"include": {"fields": FIELDS}}
        assert asked["timeout"] == "30"
    dense, words = search["prefetch"]
    assert (dense["using"], words["using"]) == ("dense", "bm25")
    assert [each["filter"] for each in (search, dense, words)] == [own] * 3
    assert [each["limit"] for each in (search, dense, words)] == limits
    assert dense["params"] == rescored
    assert "params" not in words
    assert search["query"] == {"rrf": {"k": 10}}


def test_points_come_with_their_tenant(sent: dict[str, list[Any]]) -> None:
    (batch,) = sent["batch"]
    (upsert,) = (each["upsert"] for each in batch["operations"])
    (point,) = upsert["points"]
    told = {"string_value": "acme"} if sent["transport"] == ["grpc"] else "acme"
    assert point["payload"]["tenant"] == told
