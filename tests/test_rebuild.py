from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import skip_waits
from httpx import Headers
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_standin import running
from rebuilding import (  # fixtures among them
    DOCUMENTS,
    Counting,
    Matryoshka,
    Stopped,
    documents,
    impatient,  # noqa: F401
    indexed,
    opened,
    small_pages,  # noqa: F401
    stopping,
    stored,
)
from servers import Server

from ragkit import bulk
from ragkit.chunks import Chunker, chunker_fingerprint
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionError, CollectionMismatch, EmbedderUnavailable, TextsRefused
from ragkit.indexer import Indexer
from ragkit.moving import filling
from ragkit.moving.copying import copy
from ragkit.moving.mirror import Filling
from ragkit.moving.rebuild import prune, rebuild
from ragkit.retriever import Retriever
from ragkit.versions import physical, versions

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["ragkit.moving.rebuild", "ragkit.edge.client", "ragkit.embeddings"]
)

ANY = models.VectorParams(size=4, distance=models.Distance.DOT)

pytestmark = pytest.mark.usefixtures("small_pages")


def docs(client: QdrantBase, **options: Any) -> Collection:
    return Collection(client, "docs", **options)


def unfinished(client: QdrantBase) -> str:
    """The newest version, of which nobody may think that it is complete."""
    newest = versions(client, "docs")[-1]
    assert newest != physical(client, "docs")
    with pytest.raises(CollectionMismatch, match="not complete"):
        Collection(client, newest).open()
    return newest


def test_another_quantization_keeps_every_vector_and_the_old_version(client: QdrantBase) -> None:
    indexed(client)
    before = stored(client)
    report = rebuild(docs(client), quantization="scalar")
    assert stored(client) == before == stored(client, "docs.v1")
    assert (report.old, report.new, report.vectors) == ("docs.v1", "docs.v2", "copied")
    assert (report.points, report.documents) == (len(before), DOCUMENTS)
    assert report.recall is not None
    assert report.recall > 0.95
    config = client.get_collection("docs").config
    assert isinstance(config.quantization_config, models.ScalarQuantization)
    manifest = docs(client).open()
    assert (manifest.quantization, manifest.filling) == ("scalar", None)
    found = Retriever(docs(client, embedder=HashEmbedder(64))).search(documents()[4].text)
    assert found[0].source == "4.md"


def test_the_callers_collection_sees_the_new_version(client: QdrantBase) -> None:
    indexed(client)
    held = docs(client)
    assert held.config.quantization_config is None
    rebuild(held, quantization="scalar")
    assert isinstance(held.config.quantization_config, models.ScalarQuantization)


def test_another_embedder_gives_what_indexing_with_it_would_have(client: QdrantBase) -> None:
    indexed(client)
    indexed(client, "other", embedder=HashEmbedder(48))
    report = rebuild(docs(client), embedder=HashEmbedder(48))
    assert stored(client) == stored(client, "other")
    assert (report.vectors, report.embedded) == ("embedded", report.points)
    assert docs(client).open() == replace(Collection(client, "other").open(), tenancy=None)


def test_an_unchanged_folder_is_still_unchanged_after_another_embedder(
    client: QdrantBase,
) -> None:
    indexed(client)
    embedder = Counting(48)
    rebuild(docs(client), embedder=embedder)
    embedder.texts.clear()
    report = Indexer(docs(client, embedder=embedder)).add(documents())
    assert (report.unchanged, report.chunks, embedder.texts) == (DOCUMENTS, 0, [])


@pytest.mark.filterwarnings("ignore:dim=.* works:UserWarning")
def test_a_lower_dim_of_a_matryoshka_model_is_cut_without_a_call(client: QdrantBase) -> None:
    indexed(client, embedder=Matryoshka(256))
    indexed(client, "narrow", embedder=Matryoshka(128))
    report = rebuild(docs(client), dim=128)
    assert (report.vectors, report.embedded) == ("cut", 0)
    assert report.overlap is not None
    assert 0.3 < report.overlap <= 1.0
    assert stored(client) == stored(client, "narrow")
    assert docs(client).open().embedder == Matryoshka(128).fingerprint


def test_another_width_of_other_models_is_embedded_anew(edge: EdgeClient) -> None:
    indexed(edge)
    report = rebuild(docs(edge), dim=32)
    assert (report.vectors, docs(edge).open().embedder) == ("embedded", "hash-v1 dim=32")


def test_vectors_come_to_a_keyword_collection_and_go_again(client: QdrantBase) -> None:
    indexed(client, embedder=None)
    words = stored(client)
    report = rebuild(docs(client), embedder=HashEmbedder(48))
    assert (report.vectors, docs(client).open().quantization) == ("embedded", "auto")
    assert {key: payload for key, (payload, _) in stored(client).items()} == {
        key: payload for key, (payload, _) in words.items()
    }
    report = rebuild(docs(client), embedder=None)
    assert (report.vectors, report.recall) == ("left out", None)
    assert stored(client) == words
    assert docs(client).open().embedder is None


@pytest.mark.parametrize("seed", range(2))
def test_a_rebuild_stopped_anywhere_goes_on_to_the_same_end(client: QdrantBase, seed: int) -> None:
    indexed(client)
    indexed(client, "other", embedder=HashEmbedder(32))
    before = stored(client)
    embedder = Counting(32)
    rng = random.Random(seed)
    for _ in range(2):
        with pytest.raises(Stopped):
            rebuild(docs(client), embedder=embedder, progress=stopping(rng.randrange(7)))
        assert stored(client) == before
        assert unfinished(client) == "docs.v2"
    report = rebuild(docs(client), embedder=embedder)
    assert report.resumed
    assert stored(client) == stored(client, "other")
    assert versions(client, "docs") == ["docs.v1", "docs.v2"]
    # What was written is not paid for again; two pages may be under way where it stops.
    assert len(embedder.texts) <= len(before) + 2 * 3 * 7


def test_an_embedder_that_gives_out_is_paid_once_for_each_text(edge: EdgeClient) -> None:
    indexed(edge)
    rng = random.Random(5)

    def give_out(texts: Sequence[str]) -> None:
        if rng.random() < 0.5:
            half = range(len(texts) // 2)
            done = embedder.embed_documents_anyway([texts[i] for i in half])
            raise EmbedderUnavailable("quota", vectors=dict(zip(half, done, strict=True)))

    class Tired(Counting):
        def embed_documents_anyway(self, texts: Sequence[str]) -> Any:
            self.texts += texts
            return HashEmbedder(32).embed_documents(texts, titles=[""] * len(texts))

    embedder = Tired(32, before=give_out)
    stops = 0
    while True:
        try:
            report = rebuild(docs(edge), embedder=embedder)
            break
        except EmbedderUnavailable:
            stops += 1
            assert stops < 40
    assert stops > 2
    assert report.resumed
    assert sorted(embedder.texts) == sorted(payload["text"] for payload, _ in stored(edge).values())


def test_texts_that_cannot_be_embedded_keep_the_old_version_and_are_named(
    edge: EdgeClient,
) -> None:
    indexed(edge)
    poison = next(p["text"] for p, _ in stored(edge).values() if p["source"] == "5.md")

    def refuse(texts: Sequence[str]) -> None:
        if poison in texts:
            others = [i for i, text in enumerate(texts) if text != poison]
            rows = HashEmbedder(32).embed_documents(
                [texts[i] for i in others], titles=[""] * len(others)
            )
            embedder.texts += [texts[i] for i in others]
            raise TextsRefused(
                "refused",
                failed={texts.index(poison): "too rude"},
                vectors=dict(zip(others, rows, strict=True)),
            )

    embedder = Counting(32, before=refuse)
    with pytest.raises(CollectionError, match=r"1 of .* chunk \d of 5.md: too rude.*ragkit remove"):
        rebuild(docs(edge), embedder=embedder)
    assert physical(edge, "docs") == "docs.v1"
    unfinished(edge)
    paid = len(embedder.texts)
    Indexer(docs(edge, embedder=HashEmbedder(64))).remove(["5.md"])
    report = rebuild(docs(edge), embedder=embedder)
    assert (report.documents, len(embedder.texts)) == (DOCUMENTS - 1, paid)


def test_texts_longer_than_the_new_embedder_reads_are_named(edge: EdgeClient) -> None:
    class ShortSighted(Counting):
        max_tokens = 40

    indexed(edge)
    embedder = ShortSighted(32)
    with pytest.raises(CollectionError, match="tokens, the embedder reads 40"):
        rebuild(docs(edge), embedder=embedder)


def test_points_that_are_no_chunks_cannot_be_embedded_anew(edge: EdgeClient) -> None:
    indexed(edge)
    stranger = models.PointStruct(id=7, vector={"dense": [1.0] * 64}, payload={"text": "mine"})
    edge.upsert("docs", [stranger])
    with pytest.raises(CollectionError, match="point 7 is no chunk of ragkit's"):
        rebuild(docs(edge), embedder=HashEmbedder(32))
    assert rebuild(docs(edge), quantization="scalar").points == len(stored(edge))


def test_a_new_version_that_finds_too_little_is_not_used(edge: EdgeClient) -> None:
    indexed(edge, embedder=HashEmbedder(8))
    words = r"finds 0\.\d+ of .* 'docs' stands for 'docs.v1' as before.*--min-recall.*drop docs.v2"
    with pytest.raises(CollectionError, match=words):
        rebuild(docs(edge), quantization="binary", min_recall=0.999)
    assert unfinished(edge) == "docs.v2"
    report = rebuild(docs(edge), quantization="binary", min_recall=0.0)
    assert (report.resumed, report.new) == (True, "docs.v2")
    assert report.recall is not None
    assert report.recall < 0.999


def test_what_was_begun_with_other_settings_is_dropped(edge: EdgeClient) -> None:
    indexed(edge)
    with pytest.raises(Stopped):
        rebuild(docs(edge), quantization="binary", progress=stopping(2))
    report = rebuild(docs(edge), quantization="scalar")
    assert (report.dropped, report.resumed, report.new) == (("docs.v2",), False, "docs.v3")


def test_a_quantization_without_a_name_is_kept_and_told_from_others(edge: EdgeClient) -> None:
    rare = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.9)
    )
    indexed(edge, quantization=rare)
    rebuild(docs(edge))
    assert edge.get_collection("docs").config.quantization_config == rare
    other = rare.model_copy(update={"scalar": rare.scalar.model_copy(update={"quantile": 0.8})})
    with pytest.raises(Stopped):
        rebuild(docs(edge), quantization=other, progress=stopping(2))
    report = rebuild(docs(edge), quantization=rare)
    assert report.dropped == ("docs.v3",)


def test_one_that_lacks_the_name_alone_is_taken(edge: EdgeClient) -> None:
    indexed(edge)
    rebuild(docs(edge), quantization="scalar")
    docs(edge).use_version("docs.v1")  # as if the run had ended just before
    report = rebuild(docs(edge), quantization="scalar")
    assert (report.resumed, report.new) == (True, "docs.v2")


def test_a_complete_version_with_other_points_is_left_alone(edge: EdgeClient) -> None:
    indexed(edge)
    rebuild(docs(edge), quantization="scalar")
    Indexer(docs(edge, embedder=HashEmbedder(64))).add(
        [Document(source="new", title="T", text="x y")]
    )
    newer = stored(edge)
    docs(edge).use_version("docs.v1")  # somebody has gone back
    report = rebuild(docs(edge), quantization="scalar")
    assert (report.resumed, report.new, report.dropped) == (False, "docs.v3", ())
    assert stored(edge, "docs.v2") == newer


def test_a_collection_under_its_own_name_cannot_be_rebuilt(edge: EdgeClient) -> None:
    indexed(edge)
    metadata = edge.get_collection("docs").config.metadata
    edge.create_collection("plain", vectors_config=ANY, metadata=metadata)
    with pytest.raises(CollectionError, match=r"ragkit copy .* --collection plain --as"):
        rebuild(Collection(edge, "plain"))
    with pytest.raises(CollectionError, match=r"'docs.v1' is a version of 'docs': rebuild 'docs'"):
        rebuild(Collection(edge, "docs.v1"))


def test_what_is_indexed_meanwhile_is_in_the_new_version(client: QdrantBase) -> None:
    writer = Indexer(indexed(client))
    late = [
        Document(source=f"late {n}", title="T", text=f"It came late, number {n}.") for n in range(3)
    ]
    phases: list[str] = []

    def write(filling: Filling) -> None:
        if filling.phase not in phases:
            phases.append(filling.phase)
            if filling.phase in ("filling", "indexing", "checking"):
                writer.add([late.pop()])
                writer.remove([f"{len(late)}.md"])

    report = rebuild(docs(client), quantization="scalar", progress=write)
    assert late == []
    assert report.notes == ()
    assert stored(client) == stored(client, "docs.v1")
    assert report.documents == DOCUMENTS


def test_a_source_that_never_rests_ends_the_run_and_the_next_one_goes_on(
    edge: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.moving.filling._PASSES", 3)
    writer = Indexer(indexed(edge))
    number = 0

    def write(filling: Filling) -> None:
        nonlocal number
        number += 1
        writer.add([Document(source="busy", title="T", text=f"Version {number}.")])

    with pytest.raises(CollectionError, match=r"something keeps writing to 'docs.v1'.*it goes on"):
        rebuild(docs(edge), progress=write)
    assert rebuild(docs(edge)).resumed
    assert stored(edge) == stored(edge, "docs.v1")


def test_of_two_rebuilds_at_once_the_slower_one_harms_nothing(client: QdrantBase) -> None:
    indexed(client)
    begun = False
    after: dict[str, Any] = {}

    def overtake(_: Filling) -> None:
        nonlocal begun
        if not begun:
            begun = True
            rebuild(docs(client), quantization="scalar")
            Indexer(docs(client, embedder=HashEmbedder(64))).remove(["3.md"])
            after.update(stored(client))

    with pytest.raises(CollectionError, match="somebody else has rebuilt"):
        rebuild(docs(client), quantization="scalar", progress=overtake)
    assert physical(client, "docs") == "docs.v2"
    assert stored(client) == after


def test_a_rebuild_with_other_settings_takes_nothing_from_one_that_goes_on(
    client: QdrantBase,
) -> None:
    indexed(client)
    with pytest.raises(Stopped):
        rebuild(docs(client), embedder=Counting(32), progress=stopping(2))
    with pytest.raises(Stopped):
        rebuild(docs(client), quantization="scalar", progress=stopping(2))
    assert versions(client, "docs") == ["docs.v1", "docs.v2", "docs.v3"]
    again = Counting(32)
    report = rebuild(docs(client), embedder=again)
    assert (report.new, report.resumed, report.dropped) == ("docs.v2", True, ("docs.v3",))
    assert len(again.texts) < report.points


def test_a_version_that_another_run_has_replaced_is_not_written_to(client: QdrantBase) -> None:
    indexed(client)
    mixed = Counting(48)
    replaced: dict[str, Any] = {}

    def replace_it(_: Filling) -> None:
        if not replaced:
            replaced["docs.v2"] = True
            client.delete_collection("docs.v2")
            with pytest.raises(Stopped):
                rebuild(docs(client), embedder=mixed, progress=stopping(2))

    with pytest.raises(CollectionError, match=r"'docs\.v2' is another collection by now"):
        rebuild(docs(client), quantization="scalar", progress=replace_it)
    held = Collection(client, "docs.v2").open(unfinished=True)
    assert held.embedder == mixed.fingerprint
    # None of its points is there, though they come first.
    assert {fields["text"] for fields, _ in stored(client, "docs.v2").values()} <= {*mixed.texts}
    assert all(len(vectors["dense"]) == 48 for _, vectors in stored(client, "docs.v2").values())


def test_a_version_that_somebody_deletes_meanwhile_ends_the_run_in_words(
    client: QdrantBase,
) -> None:
    indexed(client)

    def delete(_: Filling) -> None:
        client.delete_collection("docs.v2")

    with pytest.raises(CollectionError, match=r"'docs\.v2' is gone.* 'docs' is as it was"):
        rebuild(docs(client), progress=delete)
    assert physical(client, "docs") == "docs.v1"


@pytest.mark.parametrize("kind", ["scalar", "binary"])
@pytest.mark.parametrize("look", ["_later", "_manifest"])
def test_a_rebuild_that_begins_as_another_ends_leaves_its_version_in_use(
    edge: EdgeClient, monkeypatch: pytest.MonkeyPatch, kind: str, look: str
) -> None:
    indexed(edge)
    with pytest.raises(Stopped):
        rebuild(docs(edge), quantization="scalar", progress=stopping(2))
    real = getattr(filling, look)

    def overtaken(*arguments: Any) -> Any:
        early = real(*arguments) if look == "_manifest" else None
        monkeypatch.undo()
        rebuild(docs(edge), quantization="scalar")
        return early or real(*arguments)

    monkeypatch.setattr(filling, look, overtaken)
    with pytest.raises(CollectionError, match="somebody else has rebuilt"):
        rebuild(docs(edge), quantization=kind, min_recall=0.0)
    assert physical(edge, "docs") == "docs.v2"
    assert docs(edge).open().filling is None


def test_a_version_that_another_name_stands_for_is_nobodys_to_fill(client: QdrantBase) -> None:
    indexed(client)
    rebuild(docs(client), quantization="scalar")
    Collection(client, "beta").use_version("docs.v2")
    docs(client).use_version("docs.v1")  # somebody has gone back
    with pytest.raises(Stopped):
        rebuild(docs(client), quantization="scalar", progress=stopping(0))
    assert Collection(client, "beta").open().filling is None
    assert rebuild(docs(client), quantization="scalar").new == "docs.v3"


def test_the_chunker_of_an_indexing_run_meanwhile_is_kept_and_costs_no_vector(
    edge: EdgeClient,
) -> None:
    indexed(edge)
    shorter = Chunker(max_tokens=100, overlap=10)
    source = docs(edge, embedder=HashEmbedder(64), chunker=shorter)
    first, second = Counting(32), Counting(32)
    with pytest.raises(Stopped):
        rebuild(docs(edge), embedder=first, progress=stopping(2))
    Indexer(source).add(documents(1))

    def split(_: Filling) -> None:
        Indexer(docs(edge, embedder=HashEmbedder(64))).remove(["1.md"])

    report = rebuild(docs(edge), embedder=second, progress=split)
    assert report.resumed
    assert docs(edge).open().chunker == chunker_fingerprint(shorter)
    assert len(second.texts) < report.points


def test_a_load_that_holds_the_optimizer_back_is_not_the_new_versions(
    remote: QdrantBase,
) -> None:
    bulk.hold(indexed(remote))
    with pytest.raises(Stopped):
        rebuild(docs(remote), progress=stopping(2))
    bulk.release(docs(remote))
    assert rebuild(docs(remote)).resumed
    assert docs(remote).open().held_threads is None


def test_what_is_written_at_the_end_is_not_pruned(
    client: QdrantBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(client)
    use = Collection.use_version

    def late(self: Collection, made: str) -> None:
        Indexer(docs(client, embedder=HashEmbedder(64))).remove(["3.md"])
        use(self, made)

    monkeypatch.setattr(Collection, "use_version", late)
    report = rebuild(docs(client), prune=True)
    assert report.pruned == ()
    assert "index that again, and it is kept" in report.notes[0]
    assert versions(client, "docs") == ["docs.v1", "docs.v2"]


def test_all_tenants_come_along_and_stay_apart(client: QdrantBase) -> None:
    for tenant in ("acme", "brix"):
        Indexer(docs(client, embedder=HashEmbedder(64), tenant=tenant)).add(documents(4))
    before = stored(client)
    report = rebuild(docs(client), embedder=HashEmbedder(32), min_recall=0.0)
    assert (report.points, report.documents) == (len(before), 8)
    acme = docs(client, embedder=HashEmbedder(32), tenant="acme")
    assert acme.points.count() == len(before) // 2
    assert Indexer(acme).add(documents(4)).unchanged == 4
    assert docs(client).open().tenancy == "payload"


@pytest.fixture(params=["rest", "grpc"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantBase]:
    """A stand-in alone, over both transports."""
    with running(tmp_path / "server") as server:
        where = Server(url=server.url, grpc_port=server.grpc_port)
        with opened(where, prefer_grpc=request.param == "grpc") as client:
            yield client


def test_tenants_keep_shards_of_their_own(remote: QdrantBase) -> None:
    def of(tenant: str, dim: int) -> Collection:
        embedder = HashEmbedder(dim)
        return docs(remote, embedder=embedder, tenant=tenant, shard_by_tenant=True)

    for tenant in ("acme", "brix"):
        Indexer(of(tenant, 64)).add(documents(4))
    before = stored(remote)
    rebuild(docs(remote), quantization="scalar")
    assert stored(remote) == before
    own = remote.count("docs", exact=True, shard_key_selector="acme").count
    assert own == len(before) // 2
    assert Indexer(of("brix", 64)).add(documents(4)).unchanged == 4


def test_settings_and_indexes_of_the_users_own_come_along(remote: QdrantBase) -> None:
    strict = models.StrictModeConfig(enabled=True, max_query_limit=20, upsert_max_batchsize=500)
    indexed(
        remote,
        payload_indexes={"metadata.year": "integer"},
        hnsw_config=models.HnswConfigDiff(m=24),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=33),
        replication_factor=1,
        on_disk_payload=False,
    )
    remote.create_payload_index(
        "docs",
        "text",
        field_schema=models.TextIndexParams(
            type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.PREFIX, min_token_len=2
        ),
    )
    remote.update_collection("docs", strict_mode_config=strict)
    before, old = stored(remote), remote.get_collection("docs")
    rebuild(docs(remote), quantization="scalar")
    new = remote.get_collection("docs")
    assert stored(remote) == before
    assert new.config.hnsw_config == old.config.hnsw_config
    assert new.config.hnsw_config.m == 24
    assert new.config.strict_mode_config == old.config.strict_mode_config
    assert new.config.optimizer_config.indexing_threshold == 33
    assert new.config.params.on_disk_payload is False
    assert {k: (v.data_type, v.params) for k, v in new.payload_schema.items()} == {
        k: (v.data_type, v.params) for k, v in old.payload_schema.items()
    }


def test_a_strict_server_is_asked_within_its_limits(
    remote: QdrantBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(remote)
    strict = models.StrictModeConfig(enabled=True, max_timeout=7, upsert_max_batchsize=3)
    remote.update_collection("docs", strict_mode_config=strict)
    scroll = QdrantClient.scroll
    asked: dict[str, set[int]] = {}

    def watched(self: QdrantClient, name: str, **options: Any) -> Any:
        asked.setdefault(name, set()).add(options["timeout"])
        return scroll(self, name, **options)

    monkeypatch.setattr(QdrantClient, "scroll", watched)
    rebuild(docs(remote))
    copy(docs(remote), remote, name="twin")
    assert asked["docs.v1"] == asked["docs.v2"] - {60} == {7}


def test_metadata_of_the_users_own_come_along(client: QdrantBase) -> None:
    indexed(client)
    client.update_collection("docs", metadata={"owner": {"name": "Zoë"}})
    rebuild(docs(client))
    assert (client.get_collection("docs").config.metadata or {})["owner"] == {"name": "Zoë"}


def test_settings_given_anew_go_before_those_of_the_old_version(remote: QdrantBase) -> None:
    indexed(remote, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=33))
    remote.update_collection(
        "docs", strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=20)
    )
    rebuild(
        docs(remote),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=44),
        strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=30),
    )
    config = remote.get_collection("docs").config
    assert config.optimizer_config.indexing_threshold == 44
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 30


@pytest.mark.filterwarnings("ignore:dim=:UserWarning")
def test_vectors_are_cut_where_strict_mode_forbids_exact_searches(
    remote: QdrantBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(remote, embedder=Matryoshka(256))
    query = QdrantClient.query_batch_points

    def strict(self: QdrantClient, name: str, requests: Any, **options: Any) -> Any:
        if name == "docs.v1" and any(each.params and each.params.exact for each in requests):
            raise UnexpectedResponse(400, "Bad Request", b"Exact search disabled!", Headers())
        return query(self, name, requests, **options)

    monkeypatch.setattr(QdrantClient, "query_batch_points", strict)
    report = rebuild(docs(remote), embedder=Matryoshka(128))
    assert (report.vectors, report.overlap) == ("cut", None)


def test_a_server_that_rounds_a_number_is_still_asked_for_the_same(remote: QdrantBase) -> None:
    indexed(remote)
    rare = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.97)
    )
    with pytest.raises(Stopped):
        rebuild(docs(remote), quantization=rare, progress=stopping(2))
    assert rebuild(docs(remote), quantization=rare).resumed


def test_graph_settings_of_ragkits_own_follow_the_new_quantization(edge: EdgeClient) -> None:
    indexed(edge, quantization="auto")
    assert edge.get_collection("docs").config.hnsw_config.m == 0
    rebuild(docs(edge), quantization="none")
    assert edge.get_collection("docs").config.hnsw_config.m == 16
    rebuild(docs(edge), quantization="auto", min_recall=0.0)
    assert edge.get_collection("docs").config.hnsw_config.m == 0


def test_settings_can_be_given_anew(remote: QdrantBase) -> None:
    indexed(remote)
    with pytest.raises(Stopped):
        rebuild(docs(remote), shard_number=2, progress=stopping(2))
    report = rebuild(docs(remote), shard_number=3)
    assert report.dropped == ("docs.v2",)
    assert remote.get_collection("docs").config.params.shard_number == 3


def test_the_optimizer_is_held_back_while_points_come_and_let_go_after(
    remote: QdrantBase,
) -> None:
    indexed(remote)
    seen: dict[str, int | None] = {}

    def look(filling: Filling) -> None:
        config = remote.get_collection("docs.v2").config.optimizer_config
        seen.setdefault(filling.phase, config.max_optimization_threads)

    rebuild(docs(remote), progress=look)
    assert seen["filling"] == 0
    assert seen["checking"] != 0


def test_pruning_deletes_older_versions_and_nothing_else(edge: EdgeClient) -> None:
    indexed(edge)
    for kind in ("scalar", "binary"):
        rebuild(docs(edge), quantization=kind, min_recall=0.0)
    with pytest.raises(Stopped):
        rebuild(docs(edge), quantization="turbo", progress=stopping(2))
    edge.create_collection("docs.v9", vectors_config=ANY)  # somebody else's
    stable = models.CreateAlias(collection_name="docs.v1", alias_name="stable")
    edge.update_collection_aliases([models.CreateAliasOperation(create_alias=stable)])
    assert prune(docs(edge)) == ("docs.v2",)
    assert versions(edge, "docs") == ["docs.v1", "docs.v3", "docs.v4", "docs.v9"]
    assert prune(docs(edge), unfinished=True) == ("docs.v4",)
    assert prune(Collection(edge, "docs.v9")) == ()
    assert rebuild(docs(edge), quantization="none", prune=True).pruned == ("docs.v3",)
    assert physical(edge, "docs") == "docs.v10"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedder": None, "dim": 8}, "goes with an embedder"),
        ({"embedder": None, "quantization": "binary"}, "without an embedder there are none"),
        ({"embedder": HashEmbedder(32), "dim": 64}, "leave dim out"),
        ({"min_recall": 1.5}, "min_recall from 0 to 1"),
        ({"sample": 0}, "a sample of at least 1"),
        ({"quantization": "magic"}, "expected a quantization"),
    ],
)
def test_settings_that_do_not_go_together_change_nothing(
    edge: EdgeClient, options: dict[str, Any], message: str
) -> None:
    indexed(edge)
    with pytest.raises(ValueError, match=message):
        rebuild(docs(edge), **options)
    assert versions(edge, "docs") == ["docs.v1"]


def test_a_width_that_only_the_embedders_owner_can_make_says_so(edge: EdgeClient) -> None:
    class Private(Counting):
        fingerprint = "private dim=32"

    indexed(edge, embedder=Private(32))
    with pytest.raises(ValueError, match="pass the embedder itself"):
        rebuild(docs(edge), dim=16)
    assert rebuild(docs(edge), quantization="scalar").vectors == "copied"


def test_a_rebuild_through_a_storm_ends_with_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_waits(monkeypatch)
    with running(tmp_path / "server") as server:
        where = Server(url=server.url, grpc_port=server.grpc_port)
        with opened(where, prefer_grpc=True) as client:
            indexed(client)
            before = stored(client)
            server.faults.storm(
                seed=3,
                probability=0.3,
                on=lambda request: request.operation in ("batch", "scroll", "count"),
            )
            rebuild(docs(client), quantization="scalar")
            server.faults.clear()
            assert len(server.faults.struck) > 5
            assert stored(client) == before


def rebuild_and_tell(database: Path, reports: Connection) -> None:
    """What the killed process runs: small pages, and a word after each."""
    import ragkit.moving.mirror

    ragkit.moving.mirror._MOST = 7
    with EdgeClient(database) as client:
        rebuild(docs(client), embedder=HashEmbedder(32), progress=reports.send)
    reports.send(None)


def test_a_rebuild_killed_anywhere_is_completed_by_the_next_one(tmp_path: Path) -> None:
    database = tmp_path / "database"
    with EdgeClient(database) as client:
        indexed(client)
        indexed(client, "other", embedder=HashEmbedder(32))
        before, expected = stored(client), stored(client, "other")
    rng = random.Random(17)
    for _ in range(4):
        reader, writer = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=rebuild_and_tell, args=(database, writer))
        process.start()
        writer.close()
        for _ in range(rng.randrange(1, 8)):
            if reader.recv() is None:
                pytest.fail("it was to be killed before its end")
        process.kill()
        process.join()
        reader.close()
        with EdgeClient(database) as client:
            assert stored(client) == before
    with EdgeClient(database) as client:
        report = rebuild(docs(client), embedder=HashEmbedder(32))
        assert report.resumed
        assert stored(client) == expected
        assert versions(client, "docs") == ["docs.v1", "docs.v2"]


def test_vectors_are_cut_to_unit_length() -> None:
    from ragkit.moving.mirror import kept
    from ragkit.moving.reembedding import cut_to

    row = np.asarray([3.0, 4.0, 12.0], np.float32) / 13
    record = models.Record(id=1, vector={"dense": row.tolist()}, payload={})
    (point,) = cut_to(2)([record]).points
    assert isinstance(point.vector, dict)
    np.testing.assert_allclose(np.asarray(point.vector["dense"]), [0.6, 0.8], rtol=1e-6)
    assert kept(record).vector == {"dense": row.tolist()}
