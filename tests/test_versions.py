from __future__ import annotations

from dataclasses import replace

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionMismatch
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.versions import base, names, next_version, number, physical, versions

_ANY = models.VectorParams(size=4, distance=models.Distance.COSINE)
DOCUMENT = Document(source="a", title="Fruit", text="Bananas are yellow.")


def alias(client: QdrantBase, name: str, collection: str) -> None:
    create = models.CreateAlias(collection_name=collection, alias_name=name)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


@pytest.mark.parametrize(
    ("collection", "name", "n"),
    [
        ("notes.v1", "notes", 1),
        ("notes.v12", "notes", 12),
        ("a.v2.v3", "a.v2", 3),
        ("notes", None, 0),
        ("notes.v0", None, 0),
        ("notes.v01", None, 0),
        (".v1", None, 0),
        ("notes.v1 ", None, 0),
    ],
)
def test_a_version_is_told_by_its_name(collection: str, name: str | None, n: int) -> None:
    assert (base(collection), number(collection)) == (name, n)


def test_a_collection_is_made_behind_its_name(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add([DOCUMENT])
    assert physical(client, "docs") == "docs.v1"
    assert versions(client, "docs") == ["docs.v1"]
    assert "docs" in names(client)
    assert "docs.v1" not in names(client)
    assert (docs.status().version, docs.status().older) == ("docs.v1", ())


def test_versions_are_in_the_order_of_their_numbers(client: QdrantBase) -> None:
    for n in (1, 2, 10):
        client.create_collection(f"docs.v{n}", vectors_config=_ANY)
    assert versions(client, "docs") == ["docs.v1", "docs.v2", "docs.v10"]
    assert next_version(client, "docs") == "docs.v11"
    assert next_version(client, "other") == "other.v1"


def test_a_person_sees_names_and_not_what_is_behind_them(client: QdrantBase) -> None:
    for name in ("docs.v1", "docs.v2", "plain", "lost.v3"):
        client.create_collection(name, vectors_config=_ANY)
    alias(client, "docs", "docs.v2")
    own = {"docs", "plain", "lost.v3"}
    assert own <= set(names(client))
    assert not {"docs.v1", "docs.v2"} & set(names(client))


def test_a_creation_that_was_cut_off_before_the_name_was_given_is_taken_up(
    client: QdrantBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(self: Collection, made: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "use_version", cut_off)
        with pytest.raises(KeyboardInterrupt):
            Collection(client, "docs").create(avg_len=10.0)
    assert versions(client, "docs") == ["docs.v1"]
    assert not Collection(client, "docs").exists()
    Indexer(Collection(client, "docs")).add([DOCUMENT])
    assert versions(client, "docs") == ["docs.v1"]
    assert Retriever(Collection(client, "docs")).search("bananas")


def test_what_is_left_of_another_kind_is_not_taken_up(client: QdrantBase) -> None:
    Collection(client, "docs", embedder=HashEmbedder(32)).create(avg_len=10.0)
    drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="docs"))
    client.update_collection_aliases([drop])
    Indexer(Collection(client, "docs")).add([DOCUMENT])
    assert physical(client, "docs") == "docs.v2"
    assert Collection(client, "docs").open().embedder is None


def test_a_version_with_points_in_it_is_never_taken_up(client: QdrantBase) -> None:
    Indexer(Collection(client, "docs")).add([DOCUMENT])
    drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="docs"))
    client.update_collection_aliases([drop])
    Collection(client, "docs").create(avg_len=10.0)
    assert physical(client, "docs") == "docs.v2"
    assert client.count("docs.v1").count == 1


def test_two_processes_that_create_at_once_use_the_same_collection(client: QdrantBase) -> None:
    other = Collection(client, "other")
    manifest = other.create(avg_len=10.0)
    first, second = Collection(client, "docs"), Collection(client, "docs")
    made = first.create_version(manifest)  # and before it gives the name to it
    second.create(avg_len=12.0)
    first.use_version(made)
    Indexer(first).add([DOCUMENT])
    assert Retriever(second).search("bananas")
    assert versions(client, "docs") == ["docs.v1"]


def test_dropping_takes_every_version_and_the_name(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add([DOCUMENT])
    client.create_collection("docs.v2", vectors_config=_ANY)
    client.create_collection("docs-v2", vectors_config=_ANY)
    docs.drop()
    left = {each.name for each in client.get_collections().collections}
    assert not {"docs.v1", "docs.v2"} & left
    assert "docs-v2" in left
    assert not docs.exists()


def test_an_unfinished_version_is_refused(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    manifest = docs.create(avg_len=10.0)
    docs.record(replace(manifest, filling="docs.v0"))
    with pytest.raises(CollectionMismatch, match=r"is being filled from docs\.v0"):
        Collection(client, "docs").open()
    assert Collection(client, "docs").open(unfinished=True).filling == "docs.v0"


def test_a_collection_of_a_plain_name_works_as_well(edge: EdgeClient) -> None:
    Indexer(Collection(edge, "docs")).add([DOCUMENT])
    assert Retriever(Collection(edge, "docs.v1")).search("bananas")
