from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunk, Chunker, chunker_fingerprint
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound
from ragkit.indexer import Indexer
from ragkit.manifest import Manifest
from ragkit.retriever import Retriever
from ragkit.schema import PAYLOAD_INDEXES
from ragkit.sparse import average_length
from ragkit.stores import connect

TEXTS = ["Rotate the keys every 90 days.", "Bananas are yellow and sweet fruit."]
DOCUMENTS = [Document(source=str(n), title="T", text=text) for n, text in enumerate(TEXTS)]


def test_the_manifest_says_how_the_collection_was_made(client: QdrantBase) -> None:
    docs = Collection(client, "docs", embedder=HashEmbedder(32), quantization="binary")
    Indexer(docs).add(DOCUMENTS)
    manifest = Collection(client, "docs").open()
    assert (manifest.embedder, manifest.dim) == ("hash-v1 dim=32", 32)
    assert (manifest.quantization, manifest.language) == ("binary", "english")
    assert manifest.chunker == Chunker().fingerprint
    assert manifest.avg_len == average_length(f"T\n{text}" for text in TEXTS)
    config = client.get_collection("docs").config
    assert isinstance(config.quantization_config, models.BinaryQuantization)


def test_a_keyword_collection_has_no_dense_vectors(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add(DOCUMENTS)
    params = client.get_collection("docs").config.params
    assert not params.vectors
    assert list(params.sparse_vectors or {}) == ["bm25"]
    assert (docs.manifest.embedder, docs.manifest.quantization) == (None, "none")


def test_payload_indexes_are_there_with_the_collection(client: QdrantBase) -> None:
    docs = Collection(client, "docs", payload_indexes={"metadata.year": "integer"})
    Indexer(docs).add(DOCUMENTS)
    schema = client.get_collection("docs").payload_schema
    assert set(schema) == {*PAYLOAD_INDEXES, "metadata.year"}


def test_the_embedded_default_is_turbo_without_a_graph(edge: EdgeClient) -> None:
    docs = Collection(edge, "docs", embedder=HashEmbedder(32))
    Indexer(docs).add(DOCUMENTS)
    config = edge.get_collection("docs").config
    assert isinstance(config.quantization_config, models.TurboQuantization)
    assert config.hnsw_config.m == 0


def test_a_collection_too_large_to_scan_gets_a_graph(
    edge: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.quantization.SCAN_LIMIT", 1000)
    docs = Collection(edge, "docs", embedder=HashEmbedder(32))
    Indexer(docs).add(
        Document(source=str(n), title="T", text=f"About thing{n} and w{n % 7}.") for n in range(50)
    )
    assert edge.get_collection("docs").config.hnsw_config.m == 16
    hits = Retriever(Collection(edge, "docs", embedder=HashEmbedder(32))).search("thing17")
    assert hits[0].source == "17"


def test_status_counts_what_is_there(client: QdrantBase, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Walrus.")
    docs = Collection(client, "docs")
    Indexer(docs).add(DOCUMENTS)
    Indexer(docs).sync(tmp_path, corpus="files")
    status = docs.status()
    assert (status.documents, status.chunks) == (3, 3)
    assert status.corpora == {"documents": 2, "files": 1}
    assert status.embedder is None
    if docs.embedded:
        assert status.bytes_on_disk is not None
        assert 1000 < status.bytes_on_disk < 50_000_000


def test_a_dropped_collection_is_gone(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add(DOCUMENTS)
    docs.drop()
    assert not docs.exists()
    with pytest.raises(CollectionNotFound, match="there is none at all"):
        docs.open()
    Indexer(docs).add(DOCUMENTS)
    assert docs.status().documents == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "binary"}, "quantization 'auto', not 'binary'"),
        ({"language": "german"}, "made for 'english', not 'german'"),
    ],
)
def test_other_settings_than_the_collections_are_refused_with_the_remedy(
    client: QdrantBase, settings: dict[str, str], message: str
) -> None:
    embedder = HashEmbedder(32)
    Indexer(Collection(client, "docs", embedder=embedder)).add(DOCUMENTS)
    docs = Collection(client, "docs", embedder=embedder, **settings)  # type: ignore[arg-type]
    with pytest.raises(CollectionMismatch, match=message) as caught:
        Indexer(docs).add(DOCUMENTS)
    assert "leave" in str(caught.value)


def test_settings_left_out_are_the_collections_own(client: QdrantBase) -> None:
    made = Collection(client, "docs", language="german", chunker=Chunker(max_tokens=99, overlap=9))
    Indexer(made).add(DOCUMENTS)
    docs = Collection(client, "docs")
    assert Indexer(docs).add(DOCUMENTS).unchanged == 2
    assert (docs.bm25.language, docs.chunker) == ("german", Chunker(max_tokens=99, overlap=9))


@pytest.mark.parametrize(
    "settings", [{"quantization": "magic"}, {"language": "klingon"}, {"quantization": "Binary"}]
)
def test_an_unknown_setting_is_refused_at_once(
    client: QdrantBase, settings: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"expected a quantization of auto|language"):
        Collection(client, "docs", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "metadata",
    [
        {"ragkit": {"schema": 99, "created_with": "9.9"}},
        {"ragkit": {"schema": 1}},
        {"ragkit": "what"},
        {"other": 1},
        None,
    ],
)
def test_a_manifest_that_cannot_be_read_is_an_error_that_says_what_to_do(
    metadata: dict[str, object] | None,
) -> None:
    with pytest.raises(CollectionMismatch, match=r"collection 'docs' .*(another name|index again)"):
        Manifest.from_metadata(metadata, name="docs")


def test_a_manifest_survives_the_way_through_metadata(client: QdrantBase) -> None:
    docs = Collection(client, "docs")
    Indexer(docs).add(DOCUMENTS)
    manifest = docs.manifest
    assert Manifest.from_metadata(manifest.to_metadata(), name="docs") == manifest


def test_a_folder_connects_to_the_embedded_engine(tmp_path: Path) -> None:
    client = connect(tmp_path / "db")
    assert isinstance(client, EdgeClient)
    client.close()


@pytest.mark.parametrize("wrong", ["", " ", ":memory:", "ftp://host"])
def test_a_place_that_is_no_store_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected a folder"):
        connect(wrong)


def test_a_key_for_a_folder_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a key is for a server") as caught:
        connect(tmp_path, api_key="secret-canary")
    assert "canary" not in str(caught.value)


def test_quantization_without_vectors_is_refused_before_anything_is_made(
    client: QdrantBase, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Walrus.")
    docs = Collection(client, "docs", quantization="binary")
    for attempt in (Indexer(docs).plan, Indexer(docs).sync):
        with pytest.raises(ValueError, match="quantization 'binary' is for vectors"):
            attempt(tmp_path)
    assert not docs.exists()


def test_an_alias_is_not_dropped_in_the_place_of_its_collection(client: QdrantBase) -> None:
    Indexer(Collection(client, "docs")).add(DOCUMENTS)
    make = models.CreateAlias(collection_name="docs.v1", alias_name="al")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=make)])
    assert Retriever(Collection(client, "al")).search("bananas")
    with pytest.raises(CollectionError, match=r"'al' is an alias of 'docs\.v1'"):
        Collection(client, "al").drop()


def test_chunkers_of_different_settings_have_different_fingerprints() -> None:
    def split(document: Document, size: int = 1) -> list[Chunk]:
        return []

    assert chunker_fingerprint(partial(split, size=2)) != chunker_fingerprint(
        partial(split, size=3)
    )
    with pytest.raises(ValueError, match="lambda"):
        chunker_fingerprint(lambda document: [])
