from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from faults import skip_waits
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_standin import Server as StandIn
from qdrant_standin import running
from rebuilding import (
    DOCUMENTS,
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

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound
from ragkit.indexer import Indexer
from ragkit.manifest import Manifest
from ragkit.moving.copying import copy
from ragkit.moving.mirror import Filling
from ragkit.retriever import Retriever
from ragkit.versions import names, physical, versions

pytestmark = pytest.mark.usefixtures("small_pages")

Open = Callable[[str], QdrantBase]


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[StandIn]:
    with running(tmp_path / "server") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, wire: StandIn) -> Iterator[Open]:
    """Opens a store: "rest" and "grpc" are one server, other names are folders."""
    where = Server(url=wire.url, grpc_port=wire.grpc_port)
    with ExitStack() as closing:

        def open_store(kind: str) -> QdrantBase:
            if kind in ("rest", "grpc"):
                return closing.enter_context(opened(where, prefer_grpc=kind == "grpc"))
            return closing.enter_context(EdgeClient(tmp_path / kind))

        yield open_store


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_a_collection_goes_to_a_server_and_comes_back_the_same(store: Open, kind: str) -> None:
    here, there, back = store("here"), store(kind), store("back")
    indexed(here)
    report = copy(Collection(here, "docs"), there)
    assert (report.points, report.documents) == (len(stored(here)), DOCUMENTS)
    assert (report.compared, report.resumed, report.notes) == (report.points, False, ())
    assert stored(there) == stored(here)
    assert copy(Collection(there, "docs"), back, name="home").name == "home"
    assert stored(back, "home") == stored(here)
    assert Collection(back, "home").open() == Collection(here, "docs").open()
    home = Collection(back, "home", embedder=HashEmbedder(64))
    assert Indexer(home).add(documents()).unchanged == DOCUMENTS
    assert Retriever(home).search(documents()[4].text)[0].source == "4.md"


def test_a_copy_within_a_store_has_a_name_of_its_own(client: QdrantBase) -> None:
    indexed(client)
    copy(Collection(client, "docs"), client, name="twin")
    assert stored(client, "twin") == stored(client)
    Collection(client, "docs").drop()
    assert (names(client), physical(client, "twin")) == (["twin"], "twin.v1")
    assert len(stored(client, "twin")) > 0


def test_a_collection_under_its_own_name_gets_one_that_can_be_rebuilt(edge: EdgeClient) -> None:
    indexed(edge)
    copy(Collection(edge, "docs.v1"), edge, name="free")
    assert physical(edge, "free") == "free.v1"


def test_a_collection_is_not_taken_for_its_own_copy(client: QdrantBase) -> None:
    indexed(client)
    alias = models.DeleteAlias(alias_name="docs")
    client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=alias)])
    with pytest.raises(Stopped):
        copy(Collection(client, "docs.v1"), client, name="docs", progress=stopping(0))
    assert Collection(client, "docs.v1").open().filling is None
    assert copy(Collection(client, "docs.v1"), client, name="docs").new == "docs.v2"
    assert stored(client) == stored(client, "docs.v1")


def test_vectors_of_the_users_own_are_left_out_and_said(store: Open) -> None:
    here, there = store("rest"), store("there")
    docs = indexed(here)
    config = here.get_collection("docs").config
    assert isinstance(config.params.vectors, dict)
    here.create_collection(
        "more",
        vectors_config={
            **config.params.vectors,
            "image": models.VectorParams(size=4, distance=models.Distance.DOT),
        },
        sparse_vectors_config=config.params.sparse_vectors,
        metadata=docs.manifest.to_metadata(),
    )
    report = copy(Collection(here, "more"), there)
    assert report.notes == ("vectors that ragkit does not know are left out: image",)


def test_keywords_alone_are_copied(store: Open) -> None:
    here, there = store("here"), store("grpc")
    indexed(here, embedder=None)
    copy(Collection(here, "docs"), there)
    assert stored(there) == stored(here)


def test_a_complete_collection_is_never_overwritten(client: QdrantBase) -> None:
    indexed(client)
    indexed(client, "other", embedder=HashEmbedder(32))
    before = stored(client, "other")
    for name in ("other", "other.v1", "docs"):
        with pytest.raises(CollectionError, match=r"already, .*--as.*ragkit drop"):
            copy(Collection(client, "docs"), client, name=name)
    assert stored(client, "other") == before


def test_there_must_be_something_to_copy(edge: EdgeClient) -> None:
    with pytest.raises(CollectionNotFound):
        copy(Collection(edge, "nothing"), edge, name="other")


@pytest.mark.parametrize("kind", ["folder", "rest", "grpc"])
def test_a_copy_stopped_anywhere_goes_on_and_is_nobodys_until_it_is_whole(
    store: Open, kind: str
) -> None:
    here, there = store("here"), store(kind)
    indexed(here)
    rng = random.Random(23)
    for _ in range(3):
        with pytest.raises(Stopped):
            copy(Collection(here, "docs"), there, progress=stopping(rng.randrange(8)))
        assert not there.collection_exists("docs")
        with pytest.raises(CollectionMismatch, match="is not complete"):
            Collection(there, "docs.v1").open()
    assert copy(Collection(here, "docs"), there).resumed
    assert stored(there) == stored(here)
    assert versions(there, "docs") == ["docs.v1"]


def test_what_was_begun_of_something_else_is_dropped(store: Open) -> None:
    here, there = store("here"), store("there")
    indexed(here)
    indexed(here, "other", embedder=HashEmbedder(32))
    with pytest.raises(Stopped):
        copy(Collection(here, "docs"), there, progress=stopping(2))
    report = copy(Collection(here, "other"), there, name="docs")
    assert (report.dropped, report.resumed) == (("docs.v1",), False)
    assert stored(there) == stored(here, "other")


def test_a_complete_collection_that_lost_its_name_is_not_written_over(store: Open) -> None:
    here, there = store("here"), store("there")
    indexed(here)
    copy(Collection(here, "docs"), there)
    Indexer(Collection(there, "docs", embedder=HashEmbedder(64))).remove(["3.md"])
    precious = stored(there)
    alias = models.DeleteAlias(alias_name="docs")
    there.update_collection_aliases([models.DeleteAliasOperation(delete_alias=alias)])
    report = copy(Collection(here, "docs"), there)
    assert (report.new, report.dropped) == ("docs.v2", ())
    assert stored(there, "docs.v1") == precious


def test_what_is_indexed_while_it_is_copied_is_in_the_copy(store: Open) -> None:
    there, here = store("there"), store("grpc")
    writer = Indexer(indexed(here))
    removed: list[str] = []

    def write(filling: Filling) -> None:
        if len(removed) < 3:
            removed.append(f"{len(removed)}.md")
            writer.remove(removed[-1:])

    report = copy(Collection(here, "docs"), there, progress=write)
    assert stored(there) == stored(here)
    assert report.documents == DOCUMENTS - 3


def test_auto_quantization_is_the_destinations_own_and_others_come_along(store: Open) -> None:
    here, there = store("here"), store("rest")
    indexed(here, quantization="auto")
    indexed(here, "coded", quantization="scalar")
    for name in ("docs", "coded"):
        copy(Collection(here, name), there)
    assert here.get_collection("docs").config.quantization_config is not None
    assert there.get_collection("docs").config.quantization_config is None
    assert there.get_collection("docs").config.hnsw_config.m == 16
    config = there.get_collection("coded").config
    assert isinstance(config.quantization_config, models.ScalarQuantization)
    assert config.quantization_config.scalar.always_ram
    assert Collection(there, "docs").open().quantization == "auto"


def test_what_only_a_server_has_is_left_out_and_said(store: Open) -> None:
    there, server = store("there"), store("rest")
    indexed(
        server,
        payload_indexes={"metadata.year": "integer"},
        hnsw_config=models.HnswConfigDiff(m=24),
        shard_number=2,
    )
    server.update_collection(
        "docs", strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=9)
    )
    report = copy(Collection(server, "docs"), there)
    assert report.notes == (
        "only a server has shard_number=2: left out",
        "only a server has strict mode: left out",
    )
    info = there.get_collection("docs")
    assert info.config.hnsw_config.m == 24
    assert info.payload_schema["metadata.year"].data_type is models.PayloadSchemaType.INTEGER
    copy(Collection(server, "docs"), server, name="again")
    config = server.get_collection("again").config
    assert (config.params.shard_number, config.hnsw_config.m) == (2, 24)
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 9
    assert stored(server, "again") == stored(there)


def test_shards_of_tenants_become_keys_where_there_are_none(store: Open) -> None:
    there, server = store("there"), store("grpc")
    for tenant in ("acme", "brix"):
        own = Collection(
            server, "docs", embedder=HashEmbedder(32), tenant=tenant, shard_by_tenant=True
        )
        Indexer(own).add(documents(4))
    report = copy(Collection(server, "docs"), there)
    assert any("shards" in note for note in report.notes)
    assert stored(there) == stored(server)
    acme = Collection(there, "docs", embedder=HashEmbedder(32), tenant="acme")
    assert acme.points.count() == len(stored(server)) // 2
    assert Indexer(acme).add(documents(4)).unchanged == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda point: {"payload": {**point.payload, "text": "something else"}},
        lambda point: {"vector": {**point.vector, "dense": [1.0] + [0.0] * 63}},
        lambda point: {"vector": {"dense": point.vector["dense"]}},
    ],
)
def test_a_copy_that_differs_is_not_used(
    edge: EdgeClient, spoil: Callable[[Any], dict[str, Any]]
) -> None:
    indexed(edge)
    spoilt = False

    def change(filling: Filling) -> None:
        nonlocal spoilt
        if filling.phase == "checking":
            (point,) = edge.scroll("twin.v1", limit=1, with_vectors=True)[0]
            changed = point.model_copy(update=spoil(point))
            whole = models.PointStruct(
                id=changed.id,
                vector=changed.vector or {},  # type: ignore[arg-type]
                payload=changed.payload,
            )
            edge.upsert("twin.v1", [whole])
            spoilt = True

    with pytest.raises(CollectionError, match=r"is not the same in 'twin.v1' as in 'docs.v1'"):
        copy(Collection(edge, "docs"), edge, name="twin", progress=change)
    assert spoilt
    assert not edge.collection_exists("twin")


def test_what_somebody_else_makes_at_the_same_moment_is_left_to_him(
    store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = store("here"), store("there")
    indexed(here)
    create = Collection.create_version

    def overtaken(self: Collection, manifest: Manifest) -> str:
        monkeypatch.undo()
        indexed(there)
        return create(self, manifest) and physical(there, "docs")

    monkeypatch.setattr(Collection, "create_version", overtaken)
    with pytest.raises(CollectionError, match="at the same moment"):
        copy(Collection(here, "docs"), there)
    assert Collection(there, "docs").open().filling is None
    assert stored(there) == stored(here)


def test_a_copy_through_a_storm_is_complete(
    store: Open, wire: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_waits(monkeypatch)
    here, there = store("here"), store("grpc")
    indexed(here)
    wire.faults.storm(
        seed=5,
        probability=0.3,
        on=lambda request: request.operation in ("batch", "scroll", "count"),
    )
    copy(Collection(here, "docs"), there)
    wire.faults.clear()
    assert len(wire.faults.struck) > 5
    assert stored(there) == stored(here)
    assert wire.broken == []
