from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_standin import connected, running

from ragkit.chunks import Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge.responses import bad_request
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionError, StoreDenied
from ragkit.fanout import Stopped
from ragkit.indexer import Indexer
from ragkit.ledger import whole_versions
from ragkit.packing import update_points
from ragkit.points import Points
from ragkit.versions import versions
from ragkit.window import Window

Update = Callable[[QdrantBase, str, Sequence[Any]], Any]


def document(source: str, text: str) -> Document:
    return Document(source=source, title=source, text=text)


def texts(docs: Collection) -> set[str]:
    return {str((each.payload or {})["text"]) for each in docs.points.scroll(fields=["text"])}


def answer(code: int) -> UnexpectedResponse:
    error = bad_request("no")
    error.status_code = code
    return error


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[[Update], None]:
    """Puts something between ragkit and the store's writes."""
    return lambda update: monkeypatch.setattr("ragkit.points.update_points", update)


@pytest.fixture
def docs(client: QdrantBase) -> Collection:
    return Collection(
        client, "docs", embedder=HashEmbedder(16), chunker=Chunker(max_tokens=16, overlap=0)
    )


def test_a_version_that_is_refused_leaves_the_one_before_whole(
    docs: Collection, store: Callable[[Update], None]
) -> None:
    Indexer(docs).add([document("a", "Old text of a."), document("b", "Old text of b.")])

    def refuse(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        if any(isinstance(each, models.UpsertOperation) for each in operations):
            raise bad_request("Max points count limit of 2 reached!")
        return update_points(client, name, operations)

    store(refuse)
    report = Indexer(docs).add([document("a", "New text of a."), document("b", "New text of b.")])
    assert (report.changed, report.removed) == (0, 0)
    assert {each.source for each in report.skipped} == {"a", "b"}
    assert "Max points count limit" in report.skipped[0].reason
    assert texts(docs) == {"Old text of a.", "Old text of b."}
    store(update_points)
    assert Indexer(docs).add([document("a", "New text of a.")]).changed == 1
    assert texts(docs) == {"New text of a.", "Old text of b."}


def test_a_version_that_has_lost_points_to_a_refused_one_goes_with_it(
    docs: Collection, store: Callable[[Update], None]
) -> None:
    long = " ".join(f"Sentence number {n} of the old text is here." for n in range(20))
    Indexer(docs).add([document("a", long), document("b", "Old text of b.")])

    def refuse_the_rest(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        if not any(isinstance(each, models.UpsertOperation) for each in operations):
            return update_points(client, name, operations)
        update_points(client, name, operations[:1])  # as over gRPC: some are done before one fails
        raise bad_request("no more")

    store(refuse_the_rest)
    report = Indexer(docs).add([document("a", long.replace("old", "new"))])
    assert (report.changed, report.removed, len(report.skipped)) == (0, 1, 1)
    assert texts(docs) == {"Old text of b."}


def test_a_document_of_several_batches_is_added_or_skipped_and_never_both(
    docs: Collection, store: Callable[[Update], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.writer.MAX_CHUNKS", 3)

    def refuse_a_body(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        if "number 4 " in str(operations):
            raise bad_request("not this one")
        return update_points(client, name, operations)

    store(refuse_a_body)
    long = " ".join(f"Sentence number {n} of this text is here." for n in range(20))
    report = Indexer(docs).add([document("long", long), document("short", "Short.")])
    assert report.added == 1
    assert [each.source for each in report.skipped] == ["long"]
    assert texts(docs) == {"Short."}


def test_a_run_that_has_failed_writes_nothing_any_more(
    open_store: Callable[[str], QdrantBase],
    store: Callable[[Update], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ragkit.writer.MAX_CHUNKS", 2)
    monkeypatch.setattr("ragkit.window._JOIN_S", 0.2)
    docs = Collection(open_store("rest"), "docs", embedder=HashEmbedder(16))
    Indexer(docs).add([document("a", "Old text of a.")])
    tried = threading.Event()
    attempts: list[float] = []

    def fail(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        if "of a." in str(operations):
            attempts.append(time.monotonic())
            tried.set()
            raise answer(503)
        tried.wait(10)
        raise answer(403)

    store(fail)
    changed = [document(f"x{n}", f"Text {n}.") for n in range(4)]
    with pytest.raises(StoreDenied):
        Indexer(docs).add([*changed, document("a", "First new text of a.")])
    store(update_points)
    made = len(attempts)
    assert Indexer(docs).add([document("a", "Second new text of a.")]).changed == 1
    # Nobody who is left over from the first run comes back to it.
    leftover = [each for each in threading.enumerate() if each.name == "ragkit-write"]
    for thread in leftover:
        thread.join(10)
        assert not thread.is_alive()
    assert len(attempts) == made
    assert texts(docs) == {"Second new text of a."}


def test_a_late_deletion_spares_what_is_newer(
    docs: Collection, store: Callable[[Update], None]
) -> None:
    late: list[Sequence[Any]] = []

    def keep(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        late.append([each for each in operations if isinstance(each, models.DeleteOperation)])
        return update_points(client, name, operations)

    Indexer(docs).add([document("a", "First.")])
    store(keep)
    Indexer(docs).add([document("a", "Second.")])
    Indexer(docs).add([document("a", "Third.")])
    docs.points.update(late[0])
    assert texts(docs) == {"Third."}


def test_what_is_whole_is_told_from_what_is_not(docs: Collection) -> None:
    long = " ".join(f"Sentence number {n} of this text is here." for n in range(20))
    Indexer(docs).add([document("a", long), document("b", "Short.")])
    whole = whole_versions(docs, "documents", ["a", "b", "c"])
    assert whole.keys() == {"a", "b"}
    one = next(
        each for each in docs.points.scroll(fields=["ordinal"]) if (each.payload or {})["ordinal"]
    )
    docs.points.delete(models.Filter(must=[models.HasIdCondition(has_id=[one.id])]))
    assert whole_versions(docs, "documents", ["a", "b", "c"]).keys() == {"b"}


def test_a_window_takes_writes_to_their_end_in_order() -> None:
    window: Window[int] = Window(3)
    gates = [threading.Event() for _ in range(3)]
    done: list[int] = []

    def write(n: int) -> None:
        gates[n].wait(10)
        done.append(n)
        if n == 1:
            raise ValueError("one")

    for n in range(3):
        assert not window.is_full
        window.begin(n, lambda n=n: write(n))  # type: ignore[misc]
    assert window.is_full
    for n in (2, 1, 0):
        gates[n].set()
        while n not in done:
            time.sleep(0.001)
    settled = [window.settle() for _ in range(3)]
    assert [item for item, _ in settled] == [0, 1, 2]
    assert [str(error) for _, error in settled] == ["None", "one", "None"]
    assert not window


def test_after_stop_no_further_attempt_is_made(
    edge: QdrantBase, store: Callable[[Update], None]
) -> None:
    stop = threading.Event()
    attempts: list[None] = []

    def fail(*_: object) -> Any:
        attempts.append(None)
        stop.set()
        raise answer(503)

    store(fail)
    with pytest.raises(Stopped):
        Points(edge, "docs").update(
            [models.DeleteOperation(delete=models.PointIdsList(points=[]))], stop=stop
        )
    assert len(attempts) == 1


def test_without_a_tenant_nobodys_document_is_removed(client: QdrantBase) -> None:
    for tenant in ("acme", "brix"):
        docs = Collection(client, "shared", tenant=tenant)
        Indexer(docs).add([document("plan", f"The plan of {tenant}.")])
    with pytest.raises(CollectionError, match="'shared' is shared by tenants"):
        Indexer(Collection(client, "shared")).remove(["plan"])
    assert len(texts(Collection(client, "shared"))) == 2


def test_one_tenant_cannot_choose_how_the_others_documents_are_split(client: QdrantBase) -> None:
    Indexer(Collection(client, "shared", tenant="acme")).add([document("a", "Text.")])
    other = Collection(client, "shared", tenant="brix", chunker=Chunker(max_tokens=64, overlap=0))
    with pytest.raises(CollectionError, match="would split everybody's documents again"):
        Indexer(other).add([document("a", "Text.")])
    assert (
        Indexer(Collection(client, "shared", tenant="acme")).add([document("a", "Text.")]).unchanged
    )


def test_what_cannot_have_shards_by_tenant_is_not_created(tmp_path: Path) -> None:
    with (
        running(tmp_path, distributed=False) as server,
        connected(server, "grpc") as client,
    ):
        docs = Collection(client, "shared", tenant="acme", shard_by_tenant=True)
        with pytest.raises(CollectionError, match="needs a server in cluster mode"):
            Indexer(docs).add([document("a", "Text.")])
        assert versions(client, "shared") == []
        assert (
            Indexer(Collection(client, "shared", tenant="acme")).add([document("a", "Text.")]).added
        )


def test_a_server_that_allows_little_is_asked_for_little(
    open_store: Callable[[str], QdrantBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = models.StrictModeConfig(
        enabled=True, max_query_limit=7, condition_max_size=5, upsert_max_batchsize=3
    )
    client = open_store("grpc")
    docs = Collection(client, "docs", embedder=HashEmbedder(16), strict_mode_config=strict)
    many = [document(f"d{n}", f"Text number {n}.") for n in range(30)]
    sizes: list[int] = []

    def measured(client: QdrantBase, name: str, operations: Sequence[Any]) -> Any:
        for each in operations:
            if isinstance(each, models.UpsertOperation):
                sizes.append(len(each.upsert.points))  # type: ignore[union-attr]
        return update_points(client, name, operations)

    def limited(self: QdrantBase, name: str, **options: Any) -> Any:
        assert options["limit"] <= 7
        return scroll(name, **options)

    def no_facet(*_: object, **__: object) -> Any:
        raise bad_request('Bad request: Limit exceeded 30 > 7 for "limit". Help: reduce it.')

    scroll = client.scroll
    monkeypatch.setattr("ragkit.points.update_points", measured)
    monkeypatch.setattr(client, "scroll", lambda name, **options: limited(client, name, **options))
    monkeypatch.setattr(client, "facet", no_facet)
    assert Indexer(docs).add(many).added == 30
    again = Indexer(Collection(client, "docs", embedder=HashEmbedder(16)))
    assert again.add(many).unchanged == 30
    changed = [document(f"d{n}", f"Other text number {n}.") for n in range(30)]
    assert again.add(changed).changed == 30
    assert again.remove([f"d{n}" for n in range(20)]) == 20
    assert max(sizes) <= 3
