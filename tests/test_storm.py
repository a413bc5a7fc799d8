"""Indexing through storms: after one, and a rerun in calm, the collection is exactly right.

The embedded engine stands behind a client that fails at random, written to as a server is; and the
stand-in for a server fails on the wire, over REST and gRPC.
"""

from __future__ import annotations

import itertools
import math
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from faults import WAIT_TIMEOUT, Clock, FaultyClient, When, skip_waits
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_standin import Server, running
from qdrant_standin.faults import _STATUSES
from qdrant_standin.refusals import Refusal

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import StoreFull, StoreUnavailable
from ragkit.indexer import Indexer
from ragkit.ledger import read_ledger
from ragkit.reports import IndexReport, Progress, ProgressCallback
from ragkit.retriever import Retriever
from ragkit.schema import BM25, DENSE, match
from ragkit.versions import versions

DOCUMENTS = 48
POISON = "arsenic"
CHUNKS_A_BATCH = 12
FIRST = 16  # documents that no storm changes: what BM25 is measured on stays the same


class Counting(HashEmbedder):
    """Counts how often it embedded each text."""

    def __init__(self) -> None:
        super().__init__(16)
        self.texts: Counter[str] = Counter()

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        self.texts.update(texts)
        return super().embed_documents(texts, titles=titles)


class Weather(Protocol):
    """What the faults of a wrapped client and those of the stand-in have in common."""

    @property
    def add(self) -> Callable[..., None]: ...

    @property
    def storm(self) -> Callable[..., None]: ...

    def clear(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store that may fail.

    Attributes:
        client: Through which is indexed.
        faults: What goes wrong.
        poisoned: Refuses, from now on, every write with a poisoned point.
        settle: Does what was accepted and is still to be done.
        write: What a batch of writes is called in faults.
    """

    client: QdrantBase
    faults: Weather
    poisoned: Callable[[], None]
    settle: Callable[[], None]
    write: str

    def fail(self, kind: Any, *, times: int = 1_000_000, **how: Any) -> None:
        """Let writes fail with a status."""
        given = str(kind) if isinstance(self.client, FaultyClient) else kind
        self.faults.add(given, on=self.write, times=times, **how)

    def begin_storm(self, seed: int, *, probability: float) -> None:
        self.poisoned()
        self.faults.storm(seed, probability=probability, on=_is_no_service)

    def end_storm(self) -> None:
        self.faults.clear()
        self.poisoned()


def _is_no_service(request: Any) -> bool:
    """For all but the page that tells a server's version."""
    return getattr(request, "operation", "") != "service"


@contextmanager
def wrapped(folder: Path) -> Iterator[Store]:
    def is_poisoned(call: Any) -> bool:
        return any(POISON in str(each.payload) for each in call.points)

    with EdgeClient(folder) as engine:
        client = FaultyClient(engine)
        yield Store(
            client=client,
            faults=client.faults,
            poisoned=lambda: client.faults.add("400", on=is_poisoned, times=math.inf),
            settle=client.settle,
            write="batch_update_points",
        )


@contextmanager
def opened(server: Server, *, prefer_grpc: bool) -> Iterator[QdrantClient]:
    with closing(
        QdrantClient(
            url=server.url,
            grpc_port=server.grpc_port,
            prefer_grpc=prefer_grpc,
            timeout=10,
            check_compatibility=False,
            # Time that passes without waiting does not bring a lost connection back.
            grpc_options={
                "grpc.initial_reconnect_backoff_ms": 1,
                "grpc.min_reconnect_backoff_ms": 1,
                "grpc.max_reconnect_backoff_ms": 1,
            },
        )
    ) as client:
        yield client


@contextmanager
def wired(folder: Path, *, prefer_grpc: bool) -> Iterator[Store]:
    def is_poisoned(request: Any) -> bool:
        if request.operation != "batch":
            return False
        body = request.body.SerializeToString() if prefer_grpc else str(request.body).encode()
        return POISON.encode() in body

    with running(folder) as server, opened(server, prefer_grpc=prefer_grpc) as client:
        yield Store(
            client=client,
            faults=server.faults,
            poisoned=lambda: server.faults.add(400, on=is_poisoned, times=1_000_000),
            settle=lambda: None,
            write="batch",
        )
        assert server.broken == []


STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "wrapped": wrapped,
    "rest": partial(wired, prefer_grpc=False),
    "grpc": partial(wired, prefer_grpc=True),
}


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ragkit.writer.MAX_CHUNKS", CHUNKS_A_BATCH)
        refused = Refusal(status=400, message="Wrong input: this point is poison")
        patch.setitem(_STATUSES, 400, refused)
        # No power is lost here, and waiting for the disk is most of the time.
        patch.setattr("ragkit.edge.shards.Shard.flush", lambda shard: None)
        yield


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest, small_batches: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    with STORES[request.param](tmp_path_factory.mktemp("store")) as store:
        yield store
        store.faults.clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return skip_waits(monkeypatch)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyClient]:
    with EdgeClient(tmp_path / "engine") as engine:
        yield FaultyClient(engine)


def text(dice: random.Random) -> str:
    """Some paragraphs; now and then so many that the document spans several batches."""
    paragraphs = dice.choice([1, 1, 1, 2, 30])
    return "\n\n".join(
        f"Thing {dice.randrange(10_000)} " + f"is about word{dice.randrange(1000)} and more. " * 20
        for _ in range(paragraphs)
    )


def poison(path: Path) -> None:
    """A document of several batches, with one chunk that is refused."""
    paragraphs = [
        f"Paragraph {n} of {path.name} is harmless and long enough. " * 30 for n in range(30)
    ]
    paragraphs[15] = f"One word of {POISON} is enough. " * 30
    path.write_text("\n\n".join(paragraphs))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, a poisoned one among them."""
    dice = random.Random(5)
    folder = tmp_path_factory.mktemp("before")
    for n in range(DOCUMENTS):
        (folder / f"{n:02}.txt").write_text(text(dice))
    poison(folder / "poisoned.txt")
    return folder


@pytest.fixture(scope="module")
def after(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder later: some are changed, gone, new, and one that was good is poisoned."""
    dice = random.Random(6)
    folder = tmp_path_factory.mktemp("after")
    shutil.copytree(before, folder, dirs_exist_ok=True)
    files = [folder / f"{n:02}.txt" for n in range(FIRST, DOCUMENTS)]
    dice.shuffle(files)
    for path in files[:15]:
        path.write_text(text(dice))
    for path in files[15:20]:
        path.write_text(path.read_text() + "\n\nOne more paragraph. " * 10)
    for path in files[20:30]:
        path.unlink()
    poison(min(files[30:], key=lambda path: path.stat().st_size))
    for n in range(4):
        (folder / f"new {n}.txt").write_text(text(dice))
    return folder


@pytest.fixture(scope="module")
def expected(store: Store, after: Path) -> dict[str, Any]:
    """What a calm run in a fresh collection makes."""
    store.end_storm()
    sync(store.client, "calm", after)
    return stored(store.client, "calm")


@pytest.fixture(scope="module")
def expected_steps(store: Store, before: Path, after: Path) -> list[dict[str, Any]]:
    """What calm runs make of the folder, and then of what has become of it."""
    store.end_storm()
    seen = []
    for folder in (before, after):
        sync(store.client, "step by step", folder)
        seen.append(stored(store.client, "step by step"))
    return seen


def docs(client: QdrantBase, name: str, embedder: HashEmbedder | None = None) -> Collection:
    return Collection(client, name, embedder=embedder or Counting())


def sync(
    client: QdrantBase,
    name: str,
    folder: Path,
    *,
    embedder: HashEmbedder | None = None,
    progress: ProgressCallback | None = None,
) -> IndexReport:
    indexer = Indexer(docs(client, name, embedder))
    return indexer.sync(folder, corpus="folder", progress=progress)


def stored(client: QdrantBase, name: str) -> dict[str, Any]:
    """All points."""
    records, rest = client.scroll(name, limit=100_000, with_payload=True, with_vectors=True)
    assert rest is None
    return {str(record.id): record for record in records}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, record in actual.items():
        assert record.payload == expected[key].payload
        assert record.vector[BM25] == expected[key].vector[BM25]
        # A vector that is used again is normalised again.
        dense, wanted = record.vector[DENSE], expected[key].vector[DENSE]
        np.testing.assert_allclose(dense, wanted, atol=1e-6, rtol=0)


def committed(client: QdrantBase, name: str) -> dict[str, str]:
    """Sources of which every point is there, with their versions."""
    own = docs(client, name)
    if not own.exists():
        return {}
    own.open()
    return dict(read_ledger(own, "folder").committed)


@dataclass(kw_only=True)
class Run:
    """What came of an indexing run."""

    committed: int = 0
    report: IndexReport | None = None

    def saw(self, progress: Progress) -> None:
        self.committed = max(self.committed, progress.committed)


def stormy_sync(store: Store, name: str, folder: Path, *, seed: int, probability: float) -> Run:
    """Index in a storm; what it said to be committed is wholly there when it is over."""
    old = committed(store.client, name)
    run = Run()
    store.begin_storm(seed, probability=probability)
    # It may give up.
    with suppress(StoreUnavailable):
        run.report = sync(store.client, name, folder, progress=run.saw)
    store.end_storm()
    new = {key for key, value in committed(store.client, name).items() if old.get(key) != value}
    assert len(new) >= run.committed
    if run.report is not None:
        assert len(new) == run.report.added + run.report.changed
        assert new.isdisjoint(skipped.source for skipped in run.report.skipped)
    return run


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(4))
def test_after_a_storm_and_a_rerun_the_collection_is_what_a_calm_run_makes(
    store: Store, before: Path, after: Path, expected_steps: list[dict[str, Any]], seed: int
) -> None:
    name = f"docs{seed}"
    chances = (0.1 + 0.1 * seed, 0.4 - 0.1 * seed)
    for step, folder in enumerate((before, after)):
        stormy_sync(store, name, folder, seed=100 * step + seed, probability=chances[step])
        store.settle()
        sync(store.client, name, folder)
        assert_same(stored(store.client, name), expected_steps[step])
    again = sync(store.client, name, after)
    assert (again.added, again.changed, again.removed) == (0, 0, 0)
    assert len(again.skipped) == 2
    assert all(POISON in (after / skipped.source).read_text() for skipped in again.skipped)
    assert_same(stored(store.client, name), expected_steps[-1])


@pytest.mark.usefixtures("quick")
def test_a_storm_that_never_ends_ends_the_run_and_a_rerun_completes_it(
    store: Store, after: Path, expected: dict[str, Any]
) -> None:
    store.end_storm()
    store.fail(503)
    with pytest.raises(StoreUnavailable, match="writing to collection 'never"):
        sync(store.client, "never", after)
    store.end_storm()
    sync(store.client, "never", after)
    assert_same(stored(store.client, "never"), expected)


def test_a_full_disk_ends_the_run_at_once_and_a_rerun_completes_it(
    store: Store, after: Path, expected: dict[str, Any], quick: Clock
) -> None:
    store.end_storm()
    sync(store.client, "full", after)  # so that nothing but the writes can fail
    docs(store.client, "full").points.delete(models.Filter(must=[match("ordinal", 0)]))
    store.faults.clear()
    store.fail(507)
    run = Run()
    with pytest.raises(StoreFull, match="Insufficient storage"):
        sync(store.client, "full", after, progress=run.saw)
    assert run.committed == 0
    assert quick.waits == []
    store.end_storm()
    sync(store.client, "full", after)
    assert_same(stored(store.client, "full"), expected)


@pytest.mark.usefixtures("quick")
def test_searches_in_a_storm_find_what_they_find_in_calm(
    store: Store, expected: dict[str, Any]
) -> None:
    queries = ["word17 and more", "harmless paragraphs", "Thing about word500"]
    calm = Retriever(docs(store.client, "calm"))
    wanted = [calm.search(query) for query in queries]
    for seed in range(5):
        store.begin_storm(seed, probability=0.3)
        found = []
        for query in queries:
            with suppress(StoreUnavailable):
                found.append(Retriever(docs(store.client, "calm")).search(query))
        store.end_storm()
        assert found
        assert all(hits in wanted for hits in found)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_a_server_that_disappears_in_the_middle_is_filled_when_it_is_back(
    tmp_path: Path, before: Path, prefer_grpc: bool
) -> None:
    run = Run()
    with ExitStack() as first:
        server = first.enter_context(running(tmp_path / "server"))
        with opened(server, prefer_grpc=prefer_grpc) as client:

            def stop(progress: Progress) -> None:
                run.saw(progress)
                if progress.committed:
                    first.close()

            with pytest.raises(StoreUnavailable):
                sync(client, "docs", before, progress=stop)
    with (
        running(tmp_path / "server") as server,
        opened(server, prefer_grpc=prefer_grpc) as client,
    ):
        there = committed(client, "docs")
        assert len(there) >= run.committed > 0
        report = sync(client, "docs", before)
        assert report.unchanged == len(there)
        sync(client, "calm", before)
        assert_same(stored(client, "docs"), stored(client, "calm"))


def test_an_outage_in_the_middle_of_a_run_is_waited_for(
    faulty: FaultyClient, before: Path, quick: Clock
) -> None:
    def is_of_writes(call: Any) -> bool:
        return call.method in ("batch_update_points", "scroll")

    fallen: list[bool] = []

    def fall_silent(progress: Progress) -> None:
        if progress.committed and not fallen:
            fallen.append(True)
            faulty.faults.add("connect", on=is_of_writes, times=10)

    embedder = Counting()
    report = sync(faulty, "docs", before, embedder=embedder, progress=fall_silent)
    assert len(quick.waits) == 10
    assert report.added == DOCUMENTS + 1 == len(committed(faulty, "docs"))


@pytest.mark.usefixtures("quick")
def test_trying_again_embeds_nothing_again(faulty: FaultyClient, before: Path) -> None:
    embedder = Counting()
    kinds = ("503", "429", "disconnected", "unavailable", WAIT_TIMEOUT)
    faulty.faults.storm(1, probability=0.5, kinds=kinds)
    sync(faulty, "docs", before, embedder=embedder)
    assert len(faulty.faults.struck) > 20
    assert set(embedder.texts.values()) == {1}


@pytest.mark.usefixtures("quick")
def test_what_was_written_before_the_run_gave_up_is_not_embedded_again(
    faulty: FaultyClient, before: Path
) -> None:
    def is_late(call: Any) -> bool:
        return bool(call.operations) and len(faulty.called("batch_update_points")) > 6

    faulty.faults.add("503", on=is_late, times=math.inf)
    first, second = Counting(), Counting()
    with pytest.raises(StoreUnavailable):
        sync(faulty, "docs", before, embedder=first)
    faulty.faults.clear()
    there = {(record.payload or {})["text"] for record in stored(faulty, "docs").values()}
    sync(faulty, "docs", before, embedder=second)
    assert there
    assert there.isdisjoint(second.texts)
    assert there | set(second.texts) == {*first.texts, *second.texts}


def is_poisoned(call: Any) -> bool:
    return any(POISON in str(each.payload) for each in call.points)


def test_a_document_given_up_for_one_batch_is_not_counted_for_another(
    faulty: FaultyClient, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    poison(folder / "long.txt")
    (folder / "short.txt").write_text("Good.")
    faulty.faults.add("400", on=is_poisoned, times=math.inf)
    run = Run()
    report = sync(faulty, "docs", folder, progress=run.saw)
    assert [skipped.source for skipped in report.skipped] == ["long.txt"]
    assert (report.added, run.committed) == (1, 1)
    assert {record.payload["source"] for record in stored(faulty, "docs").values()} == {"short.txt"}


@pytest.mark.usefixtures("quick")
def test_pages_of_a_proxy_are_not_taken_for_the_refusal_of_documents(
    faulty: FaultyClient, before: Path, after: Path
) -> None:
    sync(faulty, "docs", before)
    old = stored(faulty, "docs")
    faulty.faults.add("page", on="batch_update_points", times=math.inf)
    with pytest.raises(StoreUnavailable, match="the answer is not JSON"):
        sync(faulty, "docs", after)
    assert_same(stored(faulty, "docs"), old)


def test_no_thread_goes_on_writing_after_an_interruption(
    faulty: FaultyClient, before: Path
) -> None:
    def is_not_the_first(call: Any) -> bool:
        sources = {(each.payload or {})["source"] for each in call.points}
        return bool(call.operations) and "00.txt" not in sources

    faulty.faults.add("503", on=is_not_the_first, times=math.inf)

    def interrupt(progress: Progress) -> None:
        if progress.committed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync(faulty, "docs", before, progress=interrupt)
    writing = [each for each in threading.enumerate() if each.name == "ragkit-write"]
    for thread in writing:
        thread.join(5.0)  # they would go on for minutes
    assert not any(thread.is_alive() for thread in writing)
    faulty.faults.clear()
    sync(faulty, "docs", before)
    assert len(committed(faulty, "docs")) == DOCUMENTS + 1


SETTING_UP = [
    "collection_exists",
    "create_collection",
    "create_payload_index",
    "get_aliases",
    "get_collection",
    "get_collections",
    "info",
    "update_collection_aliases",
]


@pytest.mark.usefixtures("quick")
def test_a_collection_is_set_up_once_whatever_is_lost_on_the_way(
    faulty: FaultyClient, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "short.txt").write_text("Good.")
    sync(faulty, "calm", folder)
    wanted = faulty.get_collection("calm")
    used = {call.method for call in faulty.calls}
    assert used.issuperset(SETTING_UP)
    whens: tuple[When, ...] = ("before", "after")
    for method, when in itertools.product(SETTING_UP, whens):
        name = f"{method} {when}"
        for kind in ("disconnected", "503", "deadline exceeded"):
            faulty.faults.add(kind, on=method, when=when)
        assert sync(faulty, name, folder).added == 1
        faulty.faults.clear()
        made = faulty.get_collection(name)
        assert made.payload_schema.keys() == wanted.payload_schema.keys()
        assert versions(faulty, name) == [f"{name}.v1"]


@pytest.mark.usefixtures("quick")
def test_an_index_that_is_still_being_made_is_no_failure(
    faulty: FaultyClient, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "short.txt").write_text("Good.")
    faulty.faults.add(WAIT_TIMEOUT, on="create_payload_index", times=math.inf)
    assert sync(faulty, "docs", folder).added == 1
    faulty.faults.clear()
    faulty.settle()
    assert sync(faulty, "docs", folder).unchanged == 1
