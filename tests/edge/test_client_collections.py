"""EdgeClient and a real server keep collections, settings and aliases alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from books import POINTS, create, ids, refusal
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse


def test_a_collection_is_there_from_its_creation_to_its_deletion(client: QdrantBase) -> None:
    assert not client.collection_exists("books")
    create(client)
    assert client.collection_exists("books")
    assert "books" in [found.name for found in client.get_collections().collections]
    assert client.delete_collection("books") is True
    assert not client.collection_exists("books")
    assert client.delete_collection("books") is False


def test_creating_a_collection_twice_is_a_conflict(client: QdrantBase) -> None:
    create(client)
    status, message = refusal(lambda: create(client))
    assert (status, message) == (409, "Wrong input: Collection `books` already exists!")


@pytest.mark.filterwarnings("ignore:.*recreate_collection:DeprecationWarning")
def test_recreating_a_collection_empties_it(books: QdrantBase) -> None:
    vectors = models.VectorParams(size=2, distance=models.Distance.DOT)
    books.recreate_collection("books", vectors_config=vectors)
    assert books.count("books").count == 0
    books.upsert("books", [models.PointStruct(id=1, vector=[1.0, 2.0])])
    assert books.retrieve("books", [1], with_vectors=True)[0].vector == [1.0, 2.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_collection("nowhere"),
        lambda client: client.count("nowhere"),
        lambda client: client.upsert("nowhere", POINTS),
        lambda client: client.query_points("nowhere", [1.0], limit=1),
        lambda client: client.update_collection("nowhere", metadata={"a": 1}),
        lambda client: client.delete("nowhere", [1]),
    ],
)
def test_an_unknown_collection_is_not_found(
    client: QdrantBase, call: Callable[[QdrantBase], Any]
) -> None:
    status, message = refusal(lambda: call(client))
    assert status == 404
    assert "Collection `nowhere` doesn't exist!" in message


@pytest.mark.parametrize("name", ["a/b", "what?", "a*", 'say "no"', "x" * 256])
def test_a_name_that_a_server_forbids_is_refused(client: QdrantBase, name: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        create(client, name)
    assert caught.value.status_code in (400, 404, 422)


@pytest.mark.parametrize("name", ["Notes", "müsli", "索引", "a.b-c_d", "with space", "100%", "~x"])
def test_names_of_all_kinds_work_and_do_not_collide(client: QdrantBase, name: str) -> None:
    create(client, name)
    create(client, name + "2")
    client.upsert(name, POINTS[:3])
    assert client.count(name).count == 3
    assert client.count(name + "2").count == 0
    names = {found.name for found in client.get_collections().collections}
    assert {name, name + "2"} <= names


def test_the_description_has_what_was_asked_for(client: QdrantBase) -> None:
    create(
        client,
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
        metadata={"made": "by hand", "version": 3},
    )
    client.create_payload_index("books", "kind", field_schema="keyword")
    info = client.get_collection("books")
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 0
    assert info.config.metadata == {"made": "by hand", "version": 3}
    assert info.config.hnsw_config.m == 8
    assert info.config.hnsw_config.ef_construct == 100
    assert isinstance(info.config.quantization_config, models.BinaryQuantization)
    assert isinstance(info.config.params.vectors, dict)
    assert info.config.params.vectors["dense"].size == 4
    assert info.config.params.vectors["dense"].distance == models.Distance.COSINE
    assert info.config.params.sparse_vectors is not None
    assert info.config.params.sparse_vectors["bm25"].modifier == models.Modifier.IDF
    assert info.payload_schema["kind"].data_type == models.PayloadSchemaType.KEYWORD


def test_a_collection_with_one_unnamed_vector_is_described_and_changed(client: QdrantBase) -> None:
    vector = models.VectorParams(size=2, distance=models.Distance.EUCLID)
    client.create_collection("plain", vectors_config=vector)
    client.upsert("plain", [models.PointStruct(id=n, vector=[0.0, n]) for n in range(3)])
    client.update_collection("plain", vectors_config={"": models.VectorParamsDiff(on_disk=True)})
    info = client.get_collection("plain")
    assert isinstance(info.config.params.vectors, models.VectorParams)
    assert info.config.params.vectors.size == 2
    assert info.config.params.vectors.on_disk is True
    assert info.points_count == 3
    points = client.query_points("plain", [0.0, 2.2], limit=2).points
    assert ids(points) == [2, 1]
    assert points[0].score == pytest.approx(0.2, abs=1e-5)


def test_metadata_are_merged_by_key_and_none_removes_one(client: QdrantBase) -> None:
    create(client, metadata={"keep": 1, "replace": {"a": 1}, "remove": True})
    client.update_collection("books", metadata={"replace": {"b": 2}, "remove": None, "new": []})
    metadata = client.get_collection("books").config.metadata
    assert metadata == {"keep": 1, "replace": {"b": 2}, "new": []}


def test_changed_settings_show_and_keep_the_points(books: QdrantBase) -> None:
    scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
    books.update_collection(
        "books",
        hnsw_config=models.HnswConfigDiff(m=4),
        quantization_config=models.ScalarQuantization(scalar=scalar),
        vectors_config={"dense": models.VectorParamsDiff(on_disk=True)},
    )
    info = books.get_collection("books")
    assert info.config.hnsw_config.m == 4
    assert isinstance(info.config.quantization_config, models.ScalarQuantization)
    assert isinstance(info.config.params.vectors, dict)
    assert info.config.params.vectors["dense"].on_disk is True
    assert books.count("books").count == 10


def test_changing_an_unknown_vector_is_refused(books: QdrantBase) -> None:
    diff = {"other": models.VectorParamsDiff(on_disk=True)}
    status, message = refusal(lambda: books.update_collection("books", vectors_config=diff))
    assert status == 400
    assert "Not existing vector name error: other" in message


def alias(name: str, collection: str = "books") -> models.CreateAliasOperation:
    create_alias = models.CreateAlias(collection_name=collection, alias_name=name)
    return models.CreateAliasOperation(create_alias=create_alias)


def test_an_alias_works_wherever_a_name_does(books: QdrantBase) -> None:
    books.update_collection_aliases([alias("current")])
    assert books.collection_exists("current")
    assert books.count("current").count == 10
    books.upsert("current", [models.PointStruct(id=99, vector={"dense": [0.0, 1.0, 0.0, 0.0]})])
    assert books.count("books").count == 11
    assert books.get_collection("current").points_count == 11
    assert ids(books.query_points("current", [0.0, 1.0, 0.0, 0.0], using="dense", limit=1).points)
    aliases = books.get_collection_aliases("books").aliases
    assert [(a.alias_name, a.collection_name) for a in aliases] == [("current", "books")]
    assert "current" not in [found.name for found in books.get_collections().collections]


def test_an_alias_is_swapped_to_another_collection_at_once(books: QdrantBase) -> None:
    create(books, "newer")
    books.update_collection_aliases([alias("current")])
    drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="current"))
    books.update_collection_aliases([drop, alias("current", "newer")])
    assert books.count("current").count == 0
    rename = models.RenameAlias(old_alias_name="current", new_alias_name="latest")
    books.update_collection_aliases([models.RenameAliasOperation(rename_alias=rename)])
    pairs = [(a.alias_name, a.collection_name) for a in books.get_aliases().aliases]
    assert ("latest", "newer") in pairs
    assert not books.collection_exists("current")


def test_aliases_go_with_their_collection(books: QdrantBase) -> None:
    books.update_collection_aliases([alias("current")])
    books.delete_collection("books")
    assert "current" not in [a.alias_name for a in books.get_aliases().aliases]
    assert refusal(lambda: books.count("current"))[0] == 404


def test_a_collection_cannot_take_the_name_of_an_alias(books: QdrantBase) -> None:
    books.update_collection_aliases([alias("current")])
    assert refusal(lambda: create(books, "current"))[0] in (400, 409)


def test_aliases_to_nothing_or_over_a_collection_are_refused_as_a_whole(books: QdrantBase) -> None:
    create(books, "other")
    assert refusal(lambda: books.update_collection_aliases([alias("x", "nowhere")]))[0] == 404
    status, _ = refusal(lambda: books.update_collection_aliases([alias("fine"), alias("other")]))
    assert status in (400, 409)
