from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionMismatch
from ragkit.indexer import Indexer
from ragkit.ledger import read_ledger, stored_vectors
from ragkit.retriever import Retriever
from ragkit.schema import match
from ragkit.tenancy import TENANT, scoped, scoped_request

ACME = [Document(source="plan.md", title="Plan", text="Acme will sell yellow bananas in May.")]
BRIX = [
    Document(source="plan.md", title="Plan", text="Brix will sell yellow melons in June."),
    Document(source="staff.md", title="Staff", text="Brix has nine people."),
]


@pytest.fixture
def tenant(client: QdrantBase) -> Callable[[str | None], Collection]:
    """One collection as each of its tenants sees it, with documents of two."""

    def of(name: str | None) -> Collection:
        return Collection(client, "shared", embedder=HashEmbedder(32), tenant=name)

    Indexer(of("acme")).add(ACME)
    Indexer(of("brix")).add(BRIX)
    return of


def texts(docs: Collection, query: str, **options: object) -> set[str]:
    return {hit.text for hit in Retriever(docs).search(query, **options)}  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_a_search_stays_among_the_tenants_own(
    tenant: Callable[[str | None], Collection], mode: str
) -> None:
    query = "who will sell yellow melons and bananas"
    assert texts(tenant("acme"), query, mode=mode) == {ACME[0].text}
    assert texts(tenant("brix"), "yellow bananas in May", mode=mode) <= {d.text for d in BRIX}
    assert texts(tenant("acme"), query, mode=mode, exact=True) == {ACME[0].text}
    assert texts(tenant("nobody"), query, mode=mode) == set()


def test_no_filter_can_widen_a_search(tenant: Callable[[str | None], Collection]) -> None:
    docs = tenant("acme")
    brix = match(TENANT, "brix")
    everything = match("source", "plan.md")
    attempts = [
        models.Filter(must=[brix]),
        models.Filter(should=[brix, everything]),
        models.Filter(must_not=[match(TENANT, "acme")]),
        models.Filter(min_should=models.MinShould(conditions=[brix, everything], min_count=1)),
        models.Filter(should=[models.Filter(must=[brix]), models.Filter(should=[everything])]),
    ]
    found = [texts(docs, "sell yellow", filter=each) for each in attempts]
    assert all(each <= {ACME[0].text} for each in found)
    assert found[1] == {ACME[0].text}  # what is its own may well match


def test_all_that_is_read_of_a_collection_is_the_tenants(
    tenant: Callable[[str | None], Collection],
) -> None:
    acme, brix = tenant("acme"), tenant("brix")
    assert acme.points.count() == 1
    assert acme.points.facet("source", limit=10) == {"plan.md": 1}
    records = list(brix.points.scroll(fields=True, vectors=["dense"]))
    assert len(records) == 2
    assert acme.points.retrieve([str(each.id) for each in records], fields=True) == {}
    hashes = [(each.payload or {})["chunk_hash"] for each in records]
    assert stored_vectors(acme, hashes) == {}
    assert len(stored_vectors(brix, hashes)) == 2
    assert read_ledger(acme, "documents").sources == {"plan.md"}
    assert (acme.status().documents, acme.status().corpora) == (1, {"documents": 1})


def test_documents_of_the_same_source_are_two(tenant: Callable[[str | None], Collection]) -> None:
    acme, brix = tenant("acme"), tenant("brix")
    report = Indexer(acme).add([Document(source="plan.md", title="Plan", text="Nothing any more.")])
    assert (report.added, report.changed) == (0, 1)
    assert texts(acme, "nothing any more", mode="sparse") == {"Nothing any more."}
    assert texts(brix, "melons", mode="sparse") == {BRIX[0].text}
    # Equal documents of two tenants as well: neither sees that the other has it.
    report = Indexer(acme).add([BRIX[1]])
    assert (report.added, report.embedded, report.reused) == (1, 1, 0)
    assert Indexer(acme).remove(["staff.md"]) == 1
    assert texts(brix, "nine people", mode="sparse") == {BRIX[1].text}


def test_a_tenants_deletions_leave_the_others_alone(
    tenant: Callable[[str | None], Collection], tmp_path: Path
) -> None:
    for name in ("acme", "brix"):
        (tmp_path / "a.txt").write_text("Lemons are sour.")
        (tmp_path / "b.txt").write_text("Limes are sourer.")
        Indexer(tenant(name)).sync(tmp_path, corpus="sour")
    (tmp_path / "b.txt").unlink()
    assert Indexer(tenant("acme")).sync(tmp_path, corpus="sour").removed == 1
    assert texts(tenant("acme"), "limes", mode="sparse") == set()
    assert texts(tenant("brix"), "limes", mode="sparse") == {"Limes are sourer."}
    tenant("acme").points.delete(models.Filter(must=[match("corpus", "sour")]))
    assert tenant("acme").points.count() == 1
    assert tenant("brix").points.count() == 4


def test_indexing_again_changes_nothing(tenant: Callable[[str | None], Collection]) -> None:
    report = Indexer(tenant("brix")).add(BRIX)
    assert (report.unchanged, report.chunks, report.embedded) == (2, 0, 0)


def test_nobody_reads_or_writes_without_saying_for_whom(
    tenant: Callable[[str | None], Collection],
) -> None:
    with pytest.raises(CollectionMismatch, match="'shared' is shared by tenants"):
        Retriever(tenant(None)).search("bananas")
    with pytest.raises(CollectionMismatch, match="'shared' is shared by tenants"):
        Indexer(tenant(None)).add(ACME)
    assert tenant(None).status().documents == 3  # numbers alone may be seen by whoever runs it


def test_a_collection_without_tenants_takes_none(client: QdrantBase) -> None:
    Indexer(Collection(client, "plain")).add(ACME)
    for act in (
        lambda docs: Indexer(docs).add(BRIX),
        lambda docs: Retriever(docs).search("bananas"),
        lambda docs: docs.status(),
    ):
        with pytest.raises(CollectionMismatch, match="'plain' was made without tenants"):
            act(Collection(client, "plain", tenant="acme"))


def test_the_tenant_key_has_qdrants_tenant_index(
    client: QdrantBase, tenant: Callable[[str | None], Collection]
) -> None:
    index = client.get_collection("shared").payload_schema[TENANT]
    assert index.data_type is models.PayloadSchemaType.KEYWORD
    assert isinstance(index.params, models.KeywordIndexParams)
    assert index.params.is_tenant is True
    if not tenant("acme").embedded:
        graph = client.get_collection("shared").config.hnsw_config
        assert (graph.m, graph.payload_m) == (0, 16)


@pytest.mark.parametrize("name", ["", "  ", 7])
def test_a_tenant_has_a_name(edge: QdrantBase, name: object) -> None:
    with pytest.raises(ValueError, match="expected tenant to be a name"):
        Collection(edge, "shared", tenant=name)  # type: ignore[arg-type]


def test_a_name_with_anything_in_it_is_a_tenant_of_its_own(client: QdrantBase) -> None:
    odd = ["acme", "Acme", "acme ", 'ac"me', "acme\n", "アクメ", "a" * 300]
    for name in odd:
        text = f"This belongs to {name!r} alone."
        docs = Collection(client, "shared", tenant=name)
        Indexer(docs).add([Document(source="own.md", title="Own", text=text)])
    for name in odd:
        docs = Collection(client, "shared", tenant=name)
        assert texts(docs, "belongs alone") == {f"This belongs to {name!r} alone."}


def test_every_search_that_feeds_another_is_narrowed() -> None:
    inner = models.Prefetch(query=[1.0], limit=5)
    outer = models.Prefetch(prefetch=[inner], query=[1.0], filter=models.Filter(), limit=5)
    request = models.QueryRequest(prefetch=outer, query=models.FusionQuery(fusion="rrf"))
    narrowed = scoped_request(request, "acme")
    (first,) = narrowed.prefetch  # type: ignore[misc]
    assert isinstance(first, models.Prefetch)
    (second,) = first.prefetch  # type: ignore[misc]
    assert narrowed.filter == scoped(None, "acme")
    assert first.filter == scoped(models.Filter(), "acme")
    assert second.filter == scoped(None, "acme")
    assert scoped_request(request, None) is request


@pytest.fixture(params=["rest", "grpc"])
def sharded(request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]) -> QdrantBase:
    """The stand-in, which is in distributed mode; a real cluster is in test_cluster.py."""
    return open_store(request.param)


def test_tenants_with_shards_of_their_own_stay_apart(sharded: QdrantBase) -> None:
    def of(name: str) -> Collection:
        return Collection(
            sharded, "sharded", embedder=HashEmbedder(32), tenant=name, shard_by_tenant=True
        )

    Indexer(of("acme")).add(ACME)
    Indexer(of("brix")).add(BRIX)
    assert of("acme").open().tenancy == "shard"
    assert texts(of("acme"), "sell yellow") == {ACME[0].text}
    assert texts(of("brix"), "sell yellow") == {each.text for each in BRIX}
    assert Indexer(of("brix")).add(BRIX).unchanged == 2
    assert Indexer(of("brix")).remove(["staff.md"]) == 1
    assert of("acme").points.count() == 1
    # Opened without saying so again, it is still a collection with shards by tenant.
    plainly = Collection(sharded, "sharded", embedder=HashEmbedder(32), tenant="brix")
    assert Indexer(plainly).add([BRIX[1]]).added == 1
    assert texts(plainly, "nine people", mode="sparse") == {BRIX[1].text}


def test_a_tenant_who_has_written_nothing_finds_nothing(sharded: QdrantBase) -> None:
    def of(name: str) -> Collection:
        return Collection(sharded, "sharded", tenant=name, shard_by_tenant=True)

    Indexer(of("acme")).add(ACME)
    assert Retriever(of("nobody")).search("bananas") == []
    assert of("nobody").status().documents == 0


def test_shards_by_tenant_are_refused_where_there_are_none(edge: QdrantBase) -> None:
    for docs in (
        Collection(edge, "sharded", tenant="acme", shard_by_tenant=True),
        Collection(edge, "sharded", shard_by_tenant=True),
    ):
        with pytest.raises(ValueError, match="shard_by_tenant is for a tenant's points"):
            Indexer(docs).add(ACME)
