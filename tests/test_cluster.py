"""A cluster of three: what is written through one node is read through all, and one may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from servers import Cluster, Server, opened, tidied

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.errors import RagkitError
from ragkit.indexer import Indexer
from ragkit.reports import Progress
from ragkit.retriever import Retriever
from ragkit.search_options import Mode

pytestmark = pytest.mark.server

SHARDS, REPLICAS = 6, 2
MODES: list[Mode] = ["dense", "sparse", "hybrid"]
DOCUMENTS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents of one chunk, and some of several, each about something of its own."""
    root = tmp_path / "folder"
    root.mkdir()
    for n in range(DOCUMENTS):
        line = f"The subject{n} of chapter{n % 7} is told at length by author{n % 11}. "
        paragraphs = [f"Part{part} of subject{n}. {line * 8}" for part in range(1 + n % 4)]
        (root / f"{n}.txt").write_text("\n\n".join(paragraphs))
    return root


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def client(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[QdrantClient]:
    """The first node; what is made there goes with the test."""
    with opened(cluster.servers[0], prefer_grpc=request.param) as client, tidied(client):
        yield client


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many that a node can fail between two of them."""
    monkeypatch.setattr("ragkit.writer.MAX_CHUNKS", 16)


class AfterTheFirstCommit:
    """A progress callback that does something once, when a part is written and a part is not."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.happened = False

    def __call__(self, progress: Progress) -> None:
        if not self.happened and 0 < progress.committed < DOCUMENTS:
            self.happened = True
            self._action()


def collection(client: QdrantClient | EdgeClient, name: str = "docs") -> Collection:
    embedder = HashEmbedder(64)
    if isinstance(client, EdgeClient):
        return Collection(client, name, embedder=embedder)
    return Collection(
        client, name, embedder=embedder, shard_number=SHARDS, replication_factor=REPLICAS
    )


@contextmanager
def seen_by(server: Server, name: str = "docs") -> Iterator[Collection]:
    """The collection through one node."""
    with opened(server, prefer_grpc=True) as client:
        yield Collection(client, name, embedder=HashEmbedder(64))


def payloads(docs: Collection) -> dict[str, Any]:
    """All that a collection says of its chunks."""
    records = docs.points.scroll(fields=True)
    return {str(record.id): record.payload for record in records}


def expected(edge: EdgeClient, folder: Path) -> dict[str, Any]:
    """What a run without any failure leaves."""
    docs = collection(edge)
    Indexer(docs).sync(folder, corpus="folder")
    return payloads(docs)


def check_content(cluster: Cluster, wanted: dict[str, Any]) -> None:
    """Every node shows exactly this."""
    for server in cluster.servers:
        with seen_by(server) as docs:
            assert payloads(docs) == wanted


def answers(server: Server) -> list[tuple[str, list[float]]]:
    """The best document and the scores of some searches, through one node."""
    with seen_by(server) as docs:
        retriever = Retriever(docs)
        found = [
            retriever.search(f"subject{n} by author{n % 11}", mode=mode, limit=3)
            for mode in MODES
            for n in (3, 17, 42)
        ]
    return [(hits[0].source, [hit.score for hit in hits]) for hits in found]


def check_answers(server: Server) -> None:
    sources = [source for source, _ in answers(server)]
    assert sources == ["3.txt", "17.txt", "42.txt"] * len(MODES)


def test_a_folder_is_spread_over_all_nodes_and_found_through_each(
    cluster: Cluster, client: QdrantClient, folder: Path, edge: EdgeClient
) -> None:
    report = Indexer(collection(client)).sync(folder, corpus="folder")
    assert (report.added, len(report.skipped)) == (DOCUMENTS, 0)
    shards: list[int] = []
    for server in cluster.servers:
        local = server.get("/collections/docs/cluster")["local_shards"]
        assert {shard["state"] for shard in local} == {"Active"}
        shards += [shard["shard_id"] for shard in local]
    assert sorted(shards) == sorted([*range(SHARDS)] * REPLICAS)
    check_content(cluster, expected(edge, folder))
    first, *others = map(answers, cluster.servers)
    for other in others:
        assert [source for source, _ in other] == [source for source, _ in first]
        for (_, scores), (_, wanted) in zip(other, first, strict=True):
            assert scores == pytest.approx(wanted, abs=1e-4)


def test_a_second_run_through_another_node_writes_nothing(
    cluster: Cluster, client: QdrantClient, folder: Path
) -> None:
    Indexer(collection(client)).sync(folder, corpus="folder")
    with opened(cluster.servers[1], prefer_grpc=True) as other:
        again = Indexer(collection(other)).sync(folder, corpus="folder")
    assert (again.unchanged, again.chunks, again.embedded) == (DOCUMENTS, 0, 0)


def test_searches_go_on_while_a_node_is_down(
    cluster: Cluster, client: QdrantClient, folder: Path
) -> None:
    Indexer(collection(client)).sync(folder, corpus="folder")
    with cluster.killing(2) as kill:
        kill()
        check_answers(cluster.servers[0])
        check_answers(cluster.servers[1])
    check_answers(cluster.servers[2])


@pytest.mark.usefixtures("small_batches")
def test_a_node_lost_during_a_run_costs_nothing_that_a_rerun_does_not_bring(
    cluster: Cluster, client: QdrantClient, folder: Path, edge: EdgeClient
) -> None:
    with cluster.killing(2) as kill:
        progress = AfterTheFirstCommit(kill)
        # Through the first node, which meets the loss only in the shards it asks others to write.
        with suppress(RagkitError):
            Indexer(collection(client)).sync(folder, corpus="folder", progress=progress)
        assert progress.happened
        committed = collection(client).status().documents
        assert committed > 0
    again = Indexer(collection(client)).sync(folder, corpus="folder")
    assert again.unchanged >= committed
    assert again.added + again.changed + again.unchanged == DOCUMENTS
    check_content(cluster, expected(edge, folder))
    assert Indexer(collection(client)).sync(folder, corpus="folder").unchanged == DOCUMENTS


@pytest.mark.usefixtures("small_batches")
def test_a_node_that_is_restarted_delays_the_run_through_it_and_no_more(
    cluster: Cluster, client: QdrantClient, folder: Path, edge: EdgeClient
) -> None:
    with cluster.killing(0) as kill:

        def restart() -> None:
            kill()
            cluster.nodes[0].start()

        progress = AfterTheFirstCommit(restart)
        report = Indexer(collection(client)).sync(folder, corpus="folder", progress=progress)
    assert progress.happened
    assert (report.added, len(report.skipped)) == (DOCUMENTS, 0)
    check_content(cluster, expected(edge, folder))


def test_tenants_with_shards_of_their_own_do_not_see_each_other(
    cluster: Cluster, client: QdrantClient, tmp_path: Path
) -> None:
    folders = {}
    for tenant in ("acme", "globex"):
        folders[tenant] = tmp_path / tenant
        folders[tenant].mkdir()
        for n in range(5):
            (folders[tenant] / f"{n}.txt").write_text(f"The secret{n} of {tenant} is kept.")
        docs = shared(client, tenant)
        assert Indexer(docs).sync(folders[tenant], corpus="files").added == 5
    check_shard_keys(cluster)
    for server in cluster.servers:
        with opened(server, prefer_grpc=True) as node:
            for tenant in folders:
                check_own_alone(shared(node, tenant), tenant)
    (folders["acme"] / "0.txt").unlink()
    assert Indexer(shared(client, "acme")).sync(folders["acme"], corpus="files").removed == 1
    assert shared(client, "acme").points.count() == 4
    assert shared(client, "globex").points.count() == 5


def shared(client: QdrantClient, tenant: str) -> Collection:
    return Collection(
        client,
        "shared",
        embedder=HashEmbedder(64),
        tenant=tenant,
        shard_by_tenant=True,
        replication_factor=REPLICAS,
    )


def check_shard_keys(cluster: Cluster) -> None:
    """Each tenant's points are in its own shard, twice."""
    held: dict[str, list[int]] = {}
    for server in cluster.servers:
        for shard in server.get("/collections/shared/cluster")["local_shards"]:
            held.setdefault(shard["shard_key"], []).append(shard["points_count"])
    assert held == {"acme": [5] * REPLICAS, "globex": [5] * REPLICAS}


def check_own_alone(docs: Collection, tenant: str) -> None:
    """However it is asked for, only the tenant's own comes."""
    other = {"acme": "globex", "globex": "acme"}[tenant]
    theirs = models.FieldCondition(key="tenant", match=models.MatchValue(value=other))
    for mode in MODES:
        hits = Retriever(docs).search(f"secret1 of {other}", mode=mode, limit=100)
        assert hits
        assert all(tenant in hit.text and other not in hit.text for hit in hits)
        wide = models.Filter(should=[theirs, models.Filter(must_not=[theirs])])
        found = Retriever(docs).search("secret1", mode=mode, limit=100, filter=wide)
        assert len(found) == (1 if mode == "sparse" else 5)
        assert all(tenant in hit.text for hit in found)
        only = models.Filter(must=[theirs])
        assert Retriever(docs).search("secret1", mode=mode, filter=only) == []
    assert docs.points.count() == 5
    assert docs.status().documents == 5
