from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.versions import base, names, next_version, number, physical, versions

_ANY = models.VectorParams(size=4, distance=models.Distance.COSINE)
FRUIT = [
    Document(source=f"d{n}", title=f"Number {n}", text=f"Fruit {n} is a kind of melon {n * n}.")
    for n in range(20)
]
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


def test_dropping_takes_every_version_that_is_ours_and_the_name(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add([DOCUMENT])
    docs.create_version(replace(docs.manifest, filling="docs.v1"))
    client.create_collection("docs.v3", vectors_config=_ANY)  # somebody else's
    docs.use_version(docs.create_version(docs.manifest))
    alias(client, "kept", docs.create_version(replace(docs.manifest, filling="docs.v4")))
    assert versions(client, "docs") == [f"docs.v{n}" for n in range(1, 6)]
    docs.drop()
    assert versions(client, "docs") == ["docs.v3", "docs.v5"]
    assert not docs.exists()


def test_one_tenant_cannot_drop_what_others_share(client: QdrantBase) -> None:
    docs = Collection(client, "docs", tenant="acme")
    Indexer(docs).add([DOCUMENT])
    with pytest.raises(CollectionError, match="open it without tenant"):
        docs.drop()
    assert docs.exists()
    Collection(client, "docs").drop()
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


class Flipped(HashEmbedder):
    """Another model of the same dimension: what is near for one is far for the other."""

    @property
    def fingerprint(self) -> str:
        return "flipped"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        return -super().embed_documents(texts, titles=titles)

    def embed_query(self, text: str) -> Vectors:
        return -super().embed_query(text)


@pytest.fixture
def moved(client: QdrantBase) -> tuple[Collection, Collection]:
    """A collection as it was opened, and as its name stands for another model's since."""
    opened = Collection(client, "docs", embedder=HashEmbedder(32))
    Indexer(opened).add(FRUIT)
    other = Collection(client, "docs", embedder=Flipped(32))
    other.use_version(other.create_version(replace(opened.manifest, embedder="flipped")))
    Indexer(other).add(FRUIT)
    return opened, other


def test_who_has_opened_a_collection_goes_on_with_that_version(
    moved: tuple[Collection, Collection],
) -> None:
    opened, other = moved
    for docs in moved:
        assert Retriever(docs).search("fruit melon 7", mode="dense", limit=1)[0].source == "d7"
    assert (opened.version, other.version) == ("docs.v1", "docs.v2")


def test_nothing_is_written_with_another_model_than_a_versions_own(
    moved: tuple[Collection, Collection],
) -> None:
    opened, other = moved
    held = {each.id: each.vector for each in other.points.scroll(fields=False, vectors=["dense"])}
    with pytest.raises(CollectionMismatch, match="vectors of flipped"):
        Indexer(opened).add([DOCUMENT])
    now = {each.id: each.vector for each in other.points.scroll(fields=False, vectors=["dense"])}
    assert now == held


def test_some_time_after_a_rebuild_the_new_version_is_found(
    moved: tuple[Collection, Collection], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _ = moved
    same = Collection(opened.client, "docs", embedder=Flipped(32))
    same.open()
    monkeypatch.setattr("ragkit.collection.FRESH_S", 0.0)
    with pytest.raises(CollectionMismatch, match="vectors of flipped"):
        Retriever(opened).search("fruit melon 7", mode="dense")
    assert Retriever(same).search("fruit melon 7", mode="dense", limit=1)[0].source == "d7"


def test_when_the_old_version_is_deleted_the_new_one_is_found_at_once(client: QdrantBase) -> None:
    opened = Collection(client, "docs", embedder=HashEmbedder(32))
    Indexer(opened).add(FRUIT)
    other = Collection(client, "docs", embedder=HashEmbedder(32))
    other.use_version(other.create_version(opened.manifest))
    Indexer(other).add(FRUIT)
    other.drop_version("docs.v1")
    assert opened.version == "docs.v1"
    assert Retriever(opened).search("fruit melon 7", mode="dense", limit=1)[0].source == "d7"
    assert opened.version == "docs.v2"


def test_a_run_during_which_the_name_moves_says_that_its_writes_are_in_the_old_version(
    client: QdrantBase,
) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(32))
    Indexer(docs).add(FRUIT[:3])

    def meanwhile() -> Iterator[Document]:
        yield FRUIT[3]
        other = Collection(client, "docs", embedder=HashEmbedder(32))
        other.use_version(other.create_version(docs.manifest))
        yield FRUIT[4]

    with pytest.raises(CollectionError, match=r"stands for 'docs\.v2' now.*run again"):
        Indexer(docs).add(meanwhile())
    again = Indexer(Collection(client, "docs", embedder=HashEmbedder(32)))
    assert again.add(FRUIT[:5]).added == 5


def test_a_run_whose_collection_goes_says_so(client: QdrantBase) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(32))
    Indexer(docs).add(FRUIT[:3])

    def meanwhile() -> Iterator[Document]:
        Collection(client, "docs").drop()
        yield FRUIT[4]

    with pytest.raises(CollectionNotFound, match="was deleted or rebuilt while this run wrote"):
        Indexer(docs).add(meanwhile())


def test_the_next_version_passes_over_names_that_aliases_have(client: QdrantBase) -> None:
    Indexer(Collection(client, "docs")).add([DOCUMENT])
    alias(client, "docs.v2", "docs.v1")
    assert next_version(client, "docs") == "docs.v3"
    docs = Collection(client, "docs")
    assert docs.create_version(replace(docs.open(), filling="docs.v1")) == "docs.v3"


@pytest.mark.parametrize("name", ["", "a/b", "a:b", 'a"b', "a\nb", "x" * 241, "ä" * 121, "a\\b"])
def test_what_cannot_be_a_name_is_refused_before_anything_is_embedded(
    edge: EdgeClient, name: str
) -> None:
    class Unused(HashEmbedder):
        def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
            raise AssertionError("nothing should have been embedded")

    with pytest.raises(ValueError, match=r"[Cc]ollection name"):
        Indexer(Collection(edge, name, embedder=Unused(32))).add([DOCUMENT])
