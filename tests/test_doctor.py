from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import qdrant_edge as engine
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_standin import running

from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.doctor import repairs
from ragkit.doctor.examination import Examination, Finding, examine, is_ours, repair
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import CollectionNotFound, QuotaExhausted, StoreFull
from ragkit.indexer import Indexer
from ragkit.quantization import Quantization, pinned
from ragkit.schema import PAYLOAD_INDEXES, point_id
from ragkit.server import read_info, remember
from ragkit.stores import connect

DIM = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    root.mkdir()
    (root / "keys.md").write_text("# Keys\n\nRotate the keys every 90 days.\n")
    (root / "bananas.txt").write_text("Bananas are yellow and grow in the tropics.\n")
    (root / "long.txt").write_text(
        "\n\n".join(f"Part {n} " + f"tells of thing{n} at length. " * 40 for n in range(12))
    )
    return root


@pytest.fixture(params=["rest", "grpc"])
def standin_client(
    request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]
) -> QdrantClient:
    """The stand-in for a server, over each protocol."""
    client = open_store(request.param)
    assert isinstance(client, QdrantClient)
    return client


@pytest.fixture
def rest_client(open_store: Callable[[str], QdrantBase]) -> QdrantClient:
    """The stand-in over REST alone, where the protocol makes no difference."""
    client = open_store("rest")
    assert isinstance(client, QdrantClient)
    return client


def indexed(client: QdrantBase, folder: Path, **options: Any) -> Collection:
    """The collection "notes" with the folder in it."""
    embedder = options.pop("embedder", HashEmbedder(DIM))
    docs = Collection(client, "notes", embedder=embedder, **options)
    Indexer(docs).sync(folder)
    return docs


def look(client: QdrantBase, name: str = "notes", *, full: bool = False) -> Examination:
    return examine(Collection(client, name), full=full)


def kinds(found: Examination) -> list[str]:
    return [finding.kind for finding in found.findings]


def only(found: Examination) -> Finding:
    """The one finding there is."""
    (finding,) = found.findings
    return finding


def mend(client: QdrantBase, name: str = "notes", *, full: bool = False) -> tuple[list[str], Any]:
    """What was said of the repairs, and what is found afterwards."""
    docs = Collection(client, name)
    repairs = repair(docs, examine(docs, full=full).findings)
    left = look(client, name, full=full) if client.collection_exists(name) else None
    return [each.what for each in repairs], left


def stored(client: QdrantBase, name: str = "notes") -> dict[str, Any]:
    records, _ = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    return {str(record.id): record.payload for record in records}


def chunk(folder: Path, source: str, ordinal: int) -> str:
    return point_id(folder.resolve().as_posix(), source, ordinal)


def overwrite(edge: EdgeClient, id_: str, vector: Sequence[float], name: str = "notes") -> None:
    """Put a vector where the client would refuse it."""
    points = [engine.PointVectors(id=uuid.UUID(id_), vector={"dense": list(vector)})]
    edge._shard(name).write(lambda: engine.UpdateOperation.update_vectors(points), wait=True)


def test_a_healthy_collection_has_no_finding(client: QdrantBase, folder: Path) -> None:
    indexed(client, folder)
    found = look(client)
    assert found.findings == ()
    assert found.healthy
    assert (found.name, found.version, found.documents) == ("notes", "notes.v1", 3)
    assert found.points == found.vectors == len(stored(client)) > 5
    assert {"manifest", "payload indexes", "documents", "point ids", "vectors"} <= set(found.fine)


def test_a_healthy_keyword_collection_has_no_finding(edge: EdgeClient, folder: Path) -> None:
    (folder / "stop.txt").write_text("the and of\n")  # rightly without a vector of keywords
    indexed(edge, folder, embedder=None)
    found = look(edge)
    assert (found.findings, found.vectors) == ((), 0)


def test_a_healthy_quantized_collection_has_no_finding(
    standin_client: QdrantClient, folder: Path
) -> None:
    docs = indexed(standin_client, folder, quantization="product")
    for name in ("scalar", "binary-query-scalar8bits", "turbo-2bit", "product-x32"):
        config = Quantization.of(name).config
        assert config is not None
        standin_client.update_collection("notes", quantization_config=pinned(config))
        docs.record(replace(docs.manifest, quantization=name))
        assert [each for each in look(standin_client).findings if each.kind != "status"] == []


def test_healthy_tenants_have_no_finding(client: QdrantBase, folder: Path) -> None:
    for tenant in ("acme", "zeta"):
        indexed(client, folder, tenant=tenant)
    found = look(client)
    assert (found.findings, found.documents) == ((), 6)


def test_a_tenant_has_only_its_own_points_examined(edge: EdgeClient, folder: Path) -> None:
    for tenant in ("acme", "zeta"):
        indexed(edge, folder, tenant=tenant)
    assert examine(Collection(edge, "notes", tenant="acme")).documents == 3


def test_what_is_not_there_is_an_error(edge: EdgeClient) -> None:
    with pytest.raises(CollectionNotFound, match="no collection 'notes'"):
        look(edge)


def test_a_document_that_lost_a_chunk_is_found_and_indexed_again(
    client: QdrantBase, folder: Path
) -> None:
    indexed(client, folder)
    before = stored(client)
    client.delete("notes", [chunk(folder, "long.txt", 2)])
    finding = only(look(client))
    count = sum(payload["source"] == "long.txt" for payload in before.values())
    assert (finding.kind, finding.severity, finding.fixable) == ("incomplete", "error", True)
    assert f"long.txt ({count - 1} of {count} chunks)" in finding.what
    said, left = mend(client)
    assert said == [f"indexed 1 document of {folder.resolve().as_posix()} again"]
    assert left.findings == ()
    assert stored(client) == before


def test_a_chunk_beyond_the_end_is_found_and_taken_away(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    before = stored(edge)
    id_ = chunk(folder, "bananas.txt", 0)
    extra = chunk(folder, "bananas.txt", 7)
    put(edge, docs, extra, {**before[id_], "ordinal": 7})
    finding = only(look(edge))
    assert finding.kind == "incomplete"
    assert "2 chunks up to number 7, and there should be 1" in finding.what
    _, left = mend(edge)
    assert left.findings == ()
    assert stored(edge) == before


def put(client: QdrantBase, docs: Collection, id_: str, payload: dict[str, Any]) -> None:
    """Write a point past ragkit."""
    vector: Any = {"bm25": models.SparseVector(indices=[1], values=[1.0])}
    if docs.embedder is not None:
        vector["dense"] = HashEmbedder(DIM).embed_query("a").tolist()
    point = models.PointStruct(id=id_, vector=cast("Any", vector), payload=payload)
    client.upsert(docs.name, [point], wait=True)


def test_only_the_documents_concerned_are_indexed_again(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    edge.delete("notes", [chunk(folder, "long.txt", 2)])
    (folder / "keys.md").write_text("# Keys\n\nNever mind.\n")
    (folder / "bananas.txt").unlink()
    (folder / "new.txt").write_text("Something new.")
    mend(edge)
    sources = {payload["source"] for payload in stored(edge).values()}
    assert sources == {"keys.md", "bananas.txt", "long.txt"}
    texts = [each["text"] for each in stored(edge).values() if each["source"] == "keys.md"]
    assert "90 days" in texts[0]


def test_a_document_whose_file_is_gone_is_left_to_a_person(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    edge.delete("notes", [chunk(folder, "long.txt", 2)])
    (folder / "long.txt").unlink()
    before = stored(edge)
    said, left = mend(edge)
    assert said == ["left as they are: long.txt (its file is gone; ragkit remove takes it out)"]
    assert kinds(left) == ["incomplete"]
    assert stored(edge) == before


def test_an_emptied_folder_is_not_taken_for_deleted_files(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    edge.delete("notes", [chunk(folder, "long.txt", 0)])
    before = stored(edge)
    for file in folder.iterdir():
        file.unlink()
    said, left = mend(edge)
    assert "there are no files in" in said[0]
    assert kinds(left) == ["stray"]
    assert stored(edge) == before


def test_documents_of_no_folder_here_are_not_for_fixing(edge: EdgeClient) -> None:
    docs = Collection(edge, "notes", embedder=HashEmbedder(DIM))
    Indexer(docs).add([Document(source="a", title="T", text="Some words. " * 2000)])
    edge.delete("notes", [point_id("documents", "a", 1)])
    finding = only(look(edge))
    assert (finding.kind, finding.fixable) == ("incomplete", False)
    assert "there is no folder 'documents' here" in finding.remedy
    assert mend(edge)[0] == []


def test_chunks_without_a_commit_record_are_completed_from_their_file(
    edge: EdgeClient, folder: Path
) -> None:
    indexed(edge, folder)
    before = stored(edge)
    edge.delete("notes", [chunk(folder, "long.txt", 0)])
    finding = only(look(edge))
    assert (finding.kind, finding.severity, finding.subjects) == ("stray", "warning", ("long.txt",))
    assert mend(edge)[1].findings == ()
    assert stored(edge) == before


def test_chunks_without_a_commit_record_go_with_their_file(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    before = stored(edge)
    edge.delete("notes", [chunk(folder, "long.txt", 0)])
    (folder / "long.txt").unlink()
    said, left = mend(edge)
    assert "chunks of files that are gone" in said[0]
    assert left.healthy
    kept = {id_ for id_, each in before.items() if each["source"] != "long.txt"}
    assert set(stored(edge)) == kept


def test_chunks_of_another_version_are_deleted_beside_a_complete_document(
    client: QdrantBase, folder: Path
) -> None:
    docs = indexed(client, folder)
    before = stored(client)
    old = {**before[chunk(folder, "bananas.txt", 0)], "ordinal": 3, "document_hash": "older"}
    put(client, docs, chunk(folder, "bananas.txt", 3), old)
    finding = only(look(client))
    assert (finding.kind, finding.subjects) == ("leftover", ("bananas.txt",))
    said, left = mend(client)
    assert said == ["deleted 1 chunk of other versions"]
    assert left.findings == ()
    assert stored(client) == before


def test_a_chunk_that_an_indexing_run_writes_meanwhile_is_not_taken_for_the_old_one(
    edge: EdgeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = indexed(edge, folder)
    before = stored(edge)
    id_ = chunk(folder, "bananas.txt", 3)
    old = {**before[chunk(folder, "bananas.txt", 0)], "ordinal": 3, "document_hash": "older"}
    put(edge, docs, id_, old)
    states = repairs._states

    def overtaken(*arguments: Any) -> Any:
        seen = states(*arguments)
        put(edge, docs, id_, {**old, "document_hash": "newer"})
        return seen

    monkeypatch.setattr(repairs, "_states", overtaken)
    mend(edge)
    assert stored(edge)[id_]["document_hash"] == "newer"


def test_a_strict_server_is_asked_for_no_more_than_it_allows(
    rest_client: QdrantClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(rest_client, folder)
    rest_client.update_collection(
        "notes",
        strict_mode_config=models.StrictModeConfig(
            enabled=True, max_timeout=7, condition_max_size=1
        ),
    )
    for source in ("keys.md", "bananas.txt"):
        rest_client.set_payload("notes", {"chunk_count": 9}, points=[chunk(folder, source, 0)])
    scroll = QdrantClient.scroll
    asked: list[tuple[int | None, int]] = []

    def watched(self: QdrantClient, *names: Any, **options: Any) -> Any:
        conditions = (options["scroll_filter"] or models.Filter()).must or []
        values = [
            each.match.any
            for each in conditions
            if hasattr(each, "match") and isinstance(each.match, models.MatchAny)
        ]
        asked.append((options["timeout"], max(map(len, values), default=0)))
        return scroll(self, *names, **options)

    monkeypatch.setattr(QdrantClient, "scroll", watched)
    said, left = mend(rest_client)
    assert (said[0].partition(" of ")[0], left.findings) == ("indexed 2 documents", ())
    assert {timeout for timeout, _ in asked} == {7}
    assert max(size for _, size in asked) == 1


def test_damage_is_found_and_mended_in_each_tenants_part(client: QdrantBase, folder: Path) -> None:
    for tenant in ("acme", "zeta"):
        indexed(client, folder, tenant=tenant)
    before = stored(client)
    corpus = folder.resolve().as_posix()
    client.delete("notes", [point_id(corpus, "long.txt", 2, tenant="zeta")])
    finding = only(look(client))
    assert (finding.kind, finding.tenant) == ("incomplete", "zeta")
    assert mend(client)[1].findings == ()
    assert stored(client) == before


def test_foreign_points_are_told_of_and_never_touched(client: QdrantBase, folder: Path) -> None:
    docs = indexed(client, folder)
    payload = stored(client)[chunk(folder, "bananas.txt", 0)]
    put(client, docs, str(uuid.UUID(int=7)), {"text": "mine"})
    put(client, docs, str(uuid.UUID(int=8)), {**payload, "document_hash": "another"})
    before = stored(client)
    finding = only(look(client))
    assert (finding.kind, finding.severity, finding.fixable) == ("foreign", "warning", False)
    assert finding.subjects == (str(uuid.UUID(int=7)), str(uuid.UUID(int=8)))
    said, left = mend(client)
    assert (said, kinds(left)) == ([], ["foreign"])
    assert stored(client) == before


def test_a_document_that_foreign_points_claim_is_left_alone(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    payload = stored(edge)[chunk(folder, "long.txt", 1)]
    put(edge, docs, str(uuid.UUID(int=7)), payload)
    edge.delete("notes", [chunk(folder, "long.txt", 2)])
    before = stored(edge)
    found = look(edge)
    assert kinds(found) == ["incomplete", "foreign"]
    assert not any(finding.fixable for finding in found.findings)
    claims_to_be_fixable = [replace(finding, fixable=True) for finding in found.findings]
    repair(Collection(edge, "notes"), claims_to_be_fixable)
    assert stored(edge) == before


def test_vectors_that_cannot_be_right_are_found_and_made_again(
    edge: EdgeClient, folder: Path
) -> None:
    indexed(edge, folder)
    for value, said in ((0.0, "chunk 0: zero"), (float("nan"), "chunk 0: not finite")):
        overwrite(edge, chunk(folder, "keys.md", 0), [value] * DIM)
        finding = only(look(edge))
        assert (finding.kind, finding.severity) == ("damaged", "error")
        assert finding.subjects == ("keys.md",)
        assert said in finding.what
        assert mend(edge)[1].findings == ()


def test_vectors_of_another_length_are_found(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    metadata = edge.get_collection("notes").config.metadata
    points, _ = edge.scroll("notes", limit=1000, with_payload=True, with_vectors=True)
    Collection(edge, "notes").drop()
    edge.create_collection(
        "notes",
        vectors_config={"dense": models.VectorParams(size=DIM, distance=models.Distance.DOT)},
        sparse_vectors_config={
            "bm25": models.SparseVectorParams(modifier=models.Modifier.IDF),
        },
        quantization_config=models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4)
        ),
        metadata=metadata,
    )
    Collection(edge, "notes").create_missing_indexes()
    vectors = [dict(point.vector) for point in points if isinstance(point.vector, dict)]
    vectors[0]["dense"] = [2.0, *[0.0] * (DIM - 1)]
    edge.upsert(
        "notes",
        [
            models.PointStruct(id=point.id, vector=cast("Any", vector), payload=point.payload)
            for point, vector in zip(points, vectors, strict=True)
        ],
    )
    found = look(edge)
    assert kinds(found) == ["vectors", "damaged"]
    assert "compared by Dot" in found.findings[0].what
    assert "of length 2" in found.findings[1].what


def test_a_sample_of_the_vectors_is_looked_at_unless_all_are(
    edge: EdgeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.doctor.point_checks.SAMPLE", 2)
    monkeypatch.setattr("ragkit.doctor.point_checks._TEXT_PAGE", 2)
    indexed(edge, folder)
    last = max(stored(edge))
    overwrite(edge, last, [0.0] * DIM)
    sampled, full = look(edge), look(edge, full=True)
    # Two texts say little about the average length of all, so that may or may not be noted.
    assert (sampled.vectors, "damaged" in kinds(sampled)) == (2, False)
    assert (full.vectors, kinds(full)) == (len(stored(edge)), ["damaged"])
    assert mend(edge, full=True)[1].findings == ()


def test_a_missing_vector_is_found_and_made_again(client: QdrantBase, folder: Path) -> None:
    indexed(client, folder)
    for vector in ("dense", "bm25"):
        client.delete_vectors("notes", [vector], [chunk(folder, "keys.md", 0)])
        finding = only(look(client))
        assert (finding.kind, finding.severity) == ("missing", "error")
        assert f"keys.md (no {vector})" in finding.what
        assert mend(client)[1].findings == ()


def test_a_missing_index_is_found_and_created(client: QdrantBase, folder: Path) -> None:
    indexed(client, folder)
    client.delete_payload_index("notes", "source")
    finding = only(look(client))
    assert (finding.kind, finding.severity, finding.subjects) == ("index", "error", ("source",))
    said, left = mend(client)
    assert said == ["created the keyword index on 'source'"]
    assert left.findings == ()
    assert PAYLOAD_INDEXES.keys() <= client.get_collection("notes").payload_schema.keys()


def test_an_index_of_another_type_is_found_and_replaced(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    edge.delete_payload_index("notes", "source")
    edge.create_payload_index("notes", "source", field_schema=models.PayloadSchemaType.TEXT)
    finding = only(look(edge))
    assert finding.kind == "index"
    assert "of type text, not keyword" in finding.what
    assert mend(edge)[1].findings == ()


def test_the_index_of_tenants_belongs_to_those_needed(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder, tenant="acme")
    edge.delete_payload_index("notes", "tenant")
    assert only(look(edge)).subjects == ("tenant",)
    assert mend(edge)[1].findings == ()


def test_metadata_without_an_index_is_a_note(edge: EdgeClient) -> None:
    docs = Collection(
        edge, "notes", embedder=HashEmbedder(DIM), payload_indexes={"metadata.year": "integer"}
    )
    note = Document(source="a", title="T", text="Words.", metadata={"year": 2020, "author": "x"})
    Indexer(docs).add([note])
    finding = only(look(edge))
    assert (finding.kind, finding.severity) == ("unindexed", "note")
    assert finding.subjects == ("metadata.author",)
    assert look(edge).healthy


def test_a_collection_without_a_manifest_is_an_error(client: QdrantBase, folder: Path) -> None:
    indexed(client, folder)
    client.update_collection("notes", metadata={"ragkit": None})
    found = look(client)
    assert kinds(found) == ["manifest"]
    assert "not made by ragkit" in found.findings[0].what
    assert is_ours(client, "notes")  # by the name of the version
    with_plain_name = {"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)}
    client.create_collection("theirs", vectors_config=with_plain_name)
    assert not is_ours(client, "theirs")


def test_a_manifest_that_cannot_be_is_an_error(edge: EdgeClient, folder: Path) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"schema": 99}, "schema version 99"),
        ({"extra": 1}, "damaged manifest"),
        ({"dim": "many"}, "dim 'many'"),
        ({"dim": None}, "embedder 'hash-v1 dim=32' with dim None"),
        ({"avg_len": 0}, "avg_len 0"),
        ({"avg_len": "long"}, "avg_len 'long'"),
        ({"language": "klingon"}, "klingon"),
        ({"quantization": "magic"}, "quantization 'magic'"),
        ({"tenancy": "maybe"}, "tenancy 'maybe'"),
    ]
    held = indexed(edge, folder).manifest.to_metadata()["ragkit"]
    for change, said in changes:
        edge.update_collection("notes", metadata={"ragkit": {**held, **change}})
        finding = only(look(edge))
        assert (finding.kind, finding.severity) == ("manifest", "error")
        assert said in finding.what


def test_vectors_of_other_names_and_sizes_are_errors(edge: EdgeClient) -> None:
    docs = Collection(edge, "notes", embedder=HashEmbedder(DIM), quantization="none")
    docs.create(avg_len=5)
    metadata = docs.manifest.to_metadata()
    docs.drop()
    cosine = models.Distance.COSINE
    edge.create_collection(
        "notes",
        vectors_config={
            "dense": models.VectorParams(size=16, distance=cosine),
            "image": models.VectorParams(size=4, distance=cosine),
        },
        sparse_vectors_config={"bm25": models.SparseVectorParams()},
        metadata=metadata,
    )
    Collection(edge, "notes").create_missing_indexes()
    said = " / ".join(each.what for each in look(edge).findings if each.kind == "vectors")
    assert "16 dimensions, the manifest says 32" in said
    assert "without their rarity" in said
    assert "does not use: image" in said


def test_a_collection_without_the_named_vectors_is_an_error(edge: EdgeClient) -> None:
    docs = Collection(edge, "notes", embedder=HashEmbedder(DIM), quantization="none")
    docs.create(avg_len=5)
    metadata = docs.manifest.to_metadata()
    docs.drop()
    only_image = {"image": models.VectorParams(size=4, distance=models.Distance.COSINE)}
    edge.create_collection("notes", vectors_config=only_image, metadata=metadata)
    Collection(edge, "notes").create_missing_indexes()
    said = [each.what for each in look(edge).findings if each.severity == "error"]
    assert said[0] == "it has no vectors named bm25, dense"


def test_another_quantization_than_the_manifest_says_is_a_warning(
    edge: EdgeClient, folder: Path
) -> None:
    docs = indexed(edge, folder, quantization="scalar")
    docs.record(replace(docs.manifest, quantization="binary-2bit"))
    found = look(edge)
    assert kinds(found) == ["quantization"]
    assert "says quantization 'binary-2bit', the collection has scalar" in found.findings[0].what


def test_an_average_far_from_the_real_one_is_a_note(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    docs.record(replace(docs.manifest, avg_len=docs.manifest.avg_len * 3))
    finding = only(look(edge))
    assert (finding.kind, finding.severity) == ("average", "note")


def test_an_empty_version_is_found_and_dropped(client: QdrantBase, folder: Path) -> None:
    docs = indexed(client, folder)
    made = docs.create_version(docs.manifest)
    finding = only(look(client))
    assert (finding.kind, finding.severity, finding.subjects) == ("orphan", "warning", (made,))
    said, left = mend(client)
    assert said == ["dropped the empty 'notes.v2'"]
    assert left.findings == ()
    assert not client.collection_exists("notes.v2")


def test_an_empty_version_of_no_name_at_all_is_dropped(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    manifest = docs.manifest
    docs.drop()
    docs.create_version(manifest)
    assert only(look(edge, "notes.v1")).kind == "orphan"
    mend(edge, "notes.v1")
    assert not edge.collection_exists("notes.v1")


def test_an_orphan_that_has_been_put_to_use_meanwhile_is_kept(
    edge: EdgeClient, folder: Path
) -> None:
    docs = indexed(edge, folder)
    docs.create_version(docs.manifest)
    findings = look(edge).findings
    docs.use_version("notes.v2")
    repair(Collection(edge, "notes"), findings)
    assert edge.collection_exists("notes.v2")


def test_an_unfinished_version_is_told_of_and_kept(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    docs.create_version(replace(docs.manifest, filling="notes.v1"))
    finding = only(look(edge))
    assert (finding.kind, finding.severity, finding.fixable) == ("unfinished", "warning", False)
    assert "filled from notes.v1" in finding.what
    assert only(look(edge, "notes.v2")).kind == "unfinished"
    mend(edge)
    assert edge.collection_exists("notes.v2")


def test_a_version_with_points_and_no_name_is_told_of(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    docs.create_version(docs.manifest)
    put(edge, docs, str(uuid.UUID(int=7)), {"text": "a"})
    docs.use_version("notes.v2")
    put(edge, docs, str(uuid.UUID(int=8)), {"text": "a"})
    docs.use_version("notes.v1")
    assert "unnamed" in kinds(look(edge))


def test_an_older_version_is_a_note_with_its_size(edge: EdgeClient, folder: Path) -> None:
    docs = indexed(edge, folder)
    count = len(stored(edge))
    docs.use_version(docs.create_version(docs.manifest))
    finding = next(each for each in look(edge).findings if each.kind == "older")
    assert (finding.severity, finding.subjects) == ("note", ("notes.v1",))
    assert f"{count} chunks" in finding.what
    assert "--prune" in finding.remedy


def test_a_version_that_has_its_name_and_is_unfinished_is_an_error(
    edge: EdgeClient, folder: Path
) -> None:
    docs = indexed(edge, folder)
    docs.record(replace(docs.manifest, filling="old"))
    finding = only(look(edge))
    assert (finding.kind, finding.severity) == ("unfinished", "error")


def test_a_grey_collection_is_optimized(edge: EdgeClient, folder: Path) -> None:
    indexed(edge, folder)
    edge.update_collection("notes", hnsw_config=models.HnswConfigDiff(ef_construct=50))
    finding = only(look(edge))
    assert (finding.kind, finding.severity, finding.fixable) == ("status", "warning", True)
    assert mend(edge)[1].findings == ()


def test_the_documents_of_shards_are_mended_in_their_shards(
    standin_client: QdrantClient, folder: Path
) -> None:
    for tenant in ("acme", "zeta"):
        indexed(standin_client, folder, tenant=tenant, shard_by_tenant=True)
    assert look(standin_client).findings == ()
    before = stored(standin_client)
    corpus = folder.resolve().as_posix()
    lost: list[Any] = [point_id(corpus, "long.txt", 2, tenant="zeta")]
    standin_client.delete("notes", lost, shard_key_selector="zeta")
    assert only(look(standin_client)).tenant == "zeta"
    assert examine(Collection(standin_client, "notes", tenant="acme")).findings == ()
    assert mend(standin_client)[1].findings == ()
    assert stored(standin_client) == before


def test_an_optimizer_that_is_held_back_is_let_go(
    standin_client: QdrantClient, folder: Path
) -> None:
    indexed(standin_client, folder)
    held = models.OptimizersConfigDiff(max_optimization_threads=0)
    standin_client.update_collection("notes", optimizers_config=held)
    finding = only(look(standin_client))
    assert (finding.kind, finding.severity, finding.fixable) == ("optimizer", "warning", True)
    said, left = mend(standin_client)
    assert said == ["let the optimizer go on"]
    assert left.healthy  # it may be at work
    assert "optimizer" not in kinds(left)


def test_a_threshold_that_keeps_everything_out_of_the_graph_is_a_warning(
    rest_client: QdrantClient, folder: Path
) -> None:
    never = models.OptimizersConfigDiff(indexing_threshold=0)
    indexed(rest_client, folder, optimizers_config=never)
    finding = only(look(rest_client))
    assert (finding.kind, finding.severity) == ("optimizer", "warning")
    assert "indexing_threshold is 0" in finding.what


def answering(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch, method: str, **changes: Any
) -> None:
    """Let a method's answer have other values: those of a server in trouble."""
    real = getattr(client, method)
    monkeypatch.setattr(client, method, lambda name: real(name).model_copy(update=changes))


def test_a_server_that_waits_to_be_woken_is_woken(
    rest_client: QdrantClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(rest_client, folder)
    real, updates = rest_client.update_collection, []

    def update(name: str, **change: Any) -> bool:
        updates.append(change)
        return real(name, **change)

    monkeypatch.setattr(rest_client, "update_collection", update)
    answering(rest_client, monkeypatch, "get_collection", status=models.CollectionStatus.GREY)
    assert only(look(rest_client)).kind == "status"
    mend(rest_client)
    assert updates == [{"optimizers_config": models.OptimizersConfigDiff()}]


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({"status": models.CollectionStatus.YELLOW}, "note", "is optimizing it"),
        ({"status": models.CollectionStatus.RED}, "error", "an update failed"),
        (
            {
                "status": models.CollectionStatus.RED,
                "optimizer_status": models.OptimizersStatusOneOf1(error="no space left"),
            },
            "error",
            "no space left",
        ),
    ],
)
def test_the_status_is_told_with_its_reason(
    rest_client: QdrantClient,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    severity: str,
    said: str,
) -> None:
    indexed(rest_client, folder)
    answering(rest_client, monkeypatch, "get_collection", **changes)
    finding = only(look(rest_client))
    assert (finding.kind, finding.severity, finding.fixable) == ("status", severity, False)
    assert said in finding.what


def test_fewer_replicas_than_asked_for_are_a_warning(
    rest_client: QdrantClient, folder: Path
) -> None:
    indexed(rest_client, folder, replication_factor=2, shard_number=2)
    finding = only(look(rest_client))
    assert (finding.kind, finding.severity) == ("replicas", "warning")
    assert "2 shards of 2 with fewer than 2 replicas: 0, 1" in finding.what


@pytest.mark.parametrize(("local", "severity"), [("Active", "warning"), ("Dead", "error")])
def test_replicas_that_do_not_answer_are_told_of(
    rest_client: QdrantClient,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    local: str,
    severity: str,
) -> None:
    indexed(rest_client, folder)
    here = models.LocalShardInfo(shard_id=0, points_count=1, state=models.ReplicaState(local))
    there = models.RemoteShardInfo(shard_id=0, peer_id=7, state=models.ReplicaState.DEAD)
    shards = {"local_shards": [here], "remote_shards": [there]}
    answering(rest_client, monkeypatch, "collection_cluster_info", **shards)
    finding = only(look(rest_client))
    assert (finding.kind, finding.severity) == ("replicas", severity)
    assert "Dead on peer 7" in finding.what


@pytest.mark.parametrize("grpc", [False, True])
def test_replicas_that_may_not_be_seen_are_a_note(
    tmp_path: Path, folder: Path, *, grpc: bool
) -> None:
    with running(tmp_path / "db") as server:
        client = connect(server.url, grpc_port=server.grpc_port, prefer_grpc=grpc)
        indexed(client, folder)
        server.faults.add(403, on="cluster_info")
        finding = only(look(client))
        client.close()
    assert (finding.kind, finding.severity) == ("replicas", "note")
    assert "Forbidden" in finding.what


def test_an_older_server_is_told_of(
    rest_client: QdrantClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(rest_client, folder)
    for version, severity in (("1.15.1", "error"), ("1.18.2", "note"), ("1.19.0", None)):
        said = models.VersionInfo(title="qdrant", version=version)
        remember(rest_client, read_info(said))
        found = [(each.kind, each.severity) for each in look(rest_client).findings]
        assert found == ([("server", severity)] if severity else [])


def test_quantized_vectors_belong_into_ram_and_originals_do_not(
    standin_client: QdrantClient, folder: Path
) -> None:
    indexed(standin_client, folder, quantization="binary")
    placements: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {"always_ram": False, "memory": models.Memory.COLD}, "are read from disk"),
        ({}, {"always_ram": False, "memory": None}, "are read from disk"),
        (
            {"on_disk": False, "memory": models.Memory.CACHED},
            {"always_ram": True, "memory": None},
            "the original vectors are kept",
        ),
    ]
    for dense, codes, said in placements:
        binary = models.BinaryQuantizationConfig(**codes)
        standin_client.update_collection(
            "notes",
            vectors_config={"dense": models.VectorParamsDiff(**dense)},
            quantization_config=models.BinaryQuantization(binary=binary),
        )
        (finding,) = [each for each in look(standin_client).findings if each.kind == "placement"]
        assert finding.severity == "warning"
        assert said in finding.what


@pytest.mark.parametrize("grpc", [False, True])
def test_numbers_that_are_none_are_found_on_a_server_over_both_protocols(
    tmp_path: Path, folder: Path, *, grpc: bool
) -> None:
    with running(tmp_path / "db") as server:
        client = connect(server.url, grpc_port=server.grpc_port, prefer_grpc=grpc)
        indexed(client, folder)
        overwrite(server.engine, chunk(folder, "keys.md", 0), [float("nan"), *[0.1] * (DIM - 1)])
        assert "chunk 0: not finite" in only(look(client)).what
        assert mend(client)[1].findings == ()
        client.close()


def test_a_limit_on_requests_is_kept(rest_client: QdrantClient, folder: Path) -> None:
    strict = models.StrictModeConfig(enabled=True, max_query_limit=2)
    indexed(rest_client, folder, strict_mode_config=strict)
    asked: list[int] = []
    real = rest_client.scroll

    def scroll(*args: Any, **options: Any) -> Any:
        asked.append(options["limit"])
        return real(*args, **options)

    rest_client.scroll = scroll  # type: ignore[method-assign]
    assert look(rest_client).findings == ()
    assert max(asked) == 2


def test_a_repair_that_fails_does_not_stop_the_others(
    edge: EdgeClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StoreFull("the disk is full")

    docs = indexed(edge, folder)
    docs.create_version(docs.manifest)
    edge.delete_payload_index("notes", "source")
    findings = look(edge).findings
    monkeypatch.setattr(edge, "create_payload_index", refuse)
    repairs = repair(Collection(edge, "notes"), findings)
    assert [(each.kind, each.done) for each in repairs] == [("index", False), ("orphan", True)]
    assert repairs[0].what == "the disk is full"


def test_an_embedder_that_cannot_go_on_is_said_and_nothing_is_lost(
    edge: EdgeClient, folder: Path
) -> None:
    class Broke(HashEmbedder):
        def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
            raise QuotaExhausted("no quota left today")

    indexed(edge, folder)
    edge.delete("notes", [chunk(folder, "long.txt", 2)])
    before = stored(edge)
    docs = Collection(edge, "notes", embedder=Broke(DIM))
    (said,) = repair(docs, examine(docs).findings)
    assert not said.done
    assert "no quota left today" in said.what
    assert stored(edge) == before


def test_documents_of_an_embedder_or_chunker_of_ones_own_are_not_for_fixing(
    edge: EdgeClient, folder: Path
) -> None:
    def whole(document: Document) -> list[Chunk]:
        half = len(document.text) // 2
        parts = [(0, half), (half, len(document.text))]
        return [
            Chunk(
                source=document.source,
                ordinal=n,
                text=document.text[start:end],
                start=start,
                end=end,
                title=document.title,
            )
            for n, (start, end) in enumerate(parts)
        ]

    indexed(edge, folder, chunker=whole)
    edge.delete("notes", [chunk(folder, "keys.md", 1)])
    finding = only(look(edge))
    assert (finding.kind, finding.fixable) == ("incomplete", False)
    assert "a function of your own" in finding.remedy


def test_a_damaged_store_is_a_finding(tmp_path: Path, folder: Path) -> None:
    with EdgeClient(tmp_path / "db") as edge:
        indexed(edge, folder)
    (victim,) = [p for p in (tmp_path / "db").rglob("segment.json") if p.is_file()][:1]
    victim.write_text("{")
    with EdgeClient(tmp_path / "db") as edge:
        finding = only(look(edge))
        assert (finding.kind, finding.severity) == ("store", "error")
        assert is_ours(edge, "notes")
