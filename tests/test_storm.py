"""Indexing through storms: after one, and a rerun in calm, the collection is exactly right.

The embedded engine stands behind a client that fails at random, written to as a server is; and the
stand-in for a server fails on the wire, over REST and gRPC.
"""

from __future__ import annotations

import math
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from faults import Clock, FaultyClient, skip_waits
from qdrant_client import QdrantClient
from qdrant_client.client_base import QdrantBase
from qdrant_standin import running
from qdrant_standin.faults import _STATUSES
from qdrant_standin.refusals import Refusal

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import StoreError, StoreFull, StoreUnavailable
from ragkit.indexer import Indexer
from ragkit.ledger import read_ledger
from ragkit.reports import IndexReport, Progress
from ragkit.schema import BM25, DENSE

DOCUMENTS = 60
POISON = "arsenic"
CHUNKS_A_BATCH = 12
FIRST = 8  # documents that no storm changes: what BM25 is measured on stays the same


class Counting(HashEmbedder):
    """Counts how often it embedded each text."""

    def __init__(self) -> None:
        super().__init__(16)
        self.texts: Counter[str] = Counter()

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        self.texts.update(texts)
        return super().embed_documents(texts, titles=titles)


class Weather(Protocol):
    """What `faults.Faults` and those of the stand-in have in common."""

    def storm(self, seed: int, *, probability: float) -> None: ...

    def clear(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store that may fail.

    Attributes:
        client: Through which is indexed.
        faults: What goes wrong.
        poisoned: Refuses, from now on, every write with a poisoned point.
        settle: Does what was accepted and is still to be done.
    """

    client: QdrantBase
    faults: Weather
    poisoned: Callable[[], None]
    settle: Callable[[], None]

    def begin_storm(self, seed: int, *, probability: float) -> None:
        self.poisoned()
        self.faults.storm(seed, probability=probability)

    def end_storm(self) -> None:
        self.faults.clear()
        self.poisoned()


@contextmanager
def wrapped(folder: Path) -> Iterator[Store]:
    with EdgeClient(folder) as engine:
        client = FaultyClient(engine)

        def is_poisoned(call: Any) -> bool:
            return any(POISON in str(each.payload) for each in call.points)

        yield Store(
            client=client,
            faults=client.faults,
            poisoned=lambda: client.faults.add("400", on=is_poisoned, times=math.inf),
            settle=client.settle,
        )


@contextmanager
def wire(folder: Path, *, prefer_grpc: bool) -> Iterator[Store]:
    def is_poisoned(request: Any) -> bool:
        if request.operation != "batch":
            return False
        return POISON.encode() in (
            request.body.SerializeToString() if prefer_grpc else str(request.body).encode()
        )

    with (
        running(folder) as server,
        closing(
            QdrantClient(
                url=server.url,
                grpc_port=server.grpc_port,
                prefer_grpc=prefer_grpc,
                timeout=10,
                check_compatibility=False,
                grpc_options={"grpc.initial_reconnect_backoff_ms": 10},
            )
        ) as client,
    ):
        yield Store(
            client=client,
            faults=_EverywhereWeather(server.faults),
            poisoned=lambda: server.faults.add(400, on=is_poisoned, times=1_000_000),
            settle=lambda: None,
        )
        assert server.broken == []


class _EverywhereWeather:
    """Storms that strike reads and settings, too."""

    def __init__(self, faults: Any) -> None:
        self._faults = faults

    def storm(self, seed: int, *, probability: float) -> None:
        self._faults.storm(
            seed, probability=probability, on=lambda request: request.operation != "service"
        )

    def clear(self) -> None:
        self._faults.clear()


STORES: dict[str, Callable[[Path], Any]] = {
    "wrapped": wrapped,
    "rest": lambda folder: wire(folder, prefer_grpc=False),
    "grpc": lambda folder: wire(folder, prefer_grpc=True),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("ragkit.writer._MAX_CHUNKS", CHUNKS_A_BATCH)
    refused = Refusal(status=400, message="Wrong input: this point is poison")
    monkeypatch.setitem(_STATUSES, 400, refused)
    return skip_waits(monkeypatch)


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    with STORES[request.param](tmp_path_factory.mktemp("store")) as store:
        yield store
        store.faults.clear()


def text(dice: random.Random) -> str:
    """Some paragraphs; now and then so many that the document spans several batches."""
    paragraphs = dice.choice([1, 1, 1, 2, 30])
    return "\n\n".join(
        f"Thing {dice.randrange(1000)} " + f"is about word{dice.randrange(1000)} and more. " * 20
        for _ in range(paragraphs)
    )


def make(folder: Path) -> None:
    dice = random.Random(5)
    folder.mkdir()
    for n in range(DOCUMENTS):
        (folder / f"{n:02}.txt").write_text(text(dice))
    poison(folder, "a new one.txt", dice)


def poison(folder: Path, name: str, dice: random.Random) -> None:
    paragraphs = [f"Paragraph {n} is harmless and long enough. " * 20 for n in range(20)]
    paragraphs.insert(dice.randrange(20), f"One word of {POISON} is enough. " * 10)
    (folder / name).write_text("\n\n".join(paragraphs))


def change(folder: Path, seed: int) -> None:
    """Rewrite, poison, add and remove some files."""
    dice = random.Random(seed)
    files = [folder / f"{n:02}.txt" for n in range(FIRST, DOCUMENTS)]
    dice.shuffle(files)
    for path in files[:15]:
        path.write_text(text(dice))
    for path in files[10:20]:
        path.unlink()
    for n in range(4):
        (folder / f"new {n}.txt").write_text(text(dice))
    poison(folder, files[20].name, dice)


def sync(client: QdrantBase, name: str, folder: Path, **options: Any) -> IndexReport:
    embedder = options.pop("embedder", None) or Counting()
    docs = Collection(client, name, embedder=embedder)
    return Indexer(docs).sync(folder, corpus="folder", **options)


def stored(client: QdrantBase, name: str) -> dict[str, Any]:
    """Ids, payloads and vectors; the dense ones apart, since they are normalised again and again."""
    records, rest = client.scroll(name, limit=100_000, with_payload=True, with_vectors=True)
    assert rest is None
    return {str(record.id): record for record in records}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, record in actual.items():
        assert record.payload == expected[key].payload
        assert record.vector[BM25] == expected[key].vector[BM25]
        np.testing.assert_allclose(
            record.vector[DENSE], expected[key].vector[DENSE], atol=1e-6, rtol=0
        )


def whole_documents(client: QdrantBase, name: str) -> set[str]:
    """Sources of which every point is there; none if the collection is not."""
    docs = Collection(client, name, embedder=Counting())
    if not docs.exists():
        return set()
    docs.open()
    return set(read_ledger(docs, "folder").committed)


@dataclass(kw_only=True)
class Run:
    """What came of an indexing run in a storm."""

    committed: int = 0
    report: IndexReport | None = None

    def saw(self, progress: Progress) -> None:
        assert progress.committed >= self.committed
        self.committed = progress.committed


def stormy_sync(
    store: Store, name: str, folder: Path, *, seed: int, probability: float
) -> Run:
    """Index in a storm; whatever was said to be committed is there when it is over."""
    before = _versions(store, name)
    run = Run()
    store.begin_storm(seed, probability=probability)
    try:
        run.report = sync(store.client, name, folder, progress=run.saw)
    except StoreUnavailable:
        pass  # it gave up, which it may
    finally:
        store.end_storm()
    new = [key for key, value in _versions(store, name).items() if before.get(key) != value]
    assert len(new) >= run.committed
    if run.report is not None:
        assert len(new) == run.report.added + run.report.changed
        assert {skipped.source for skipped in run.report.skipped}.isdisjoint(new)
    return run


def _versions(store: Store, name: str) -> dict[str, str]:
    docs = Collection(store.client, name, embedder=Counting())
    if not docs.exists():
        return {}
    docs.open()
    return dict(read_ledger(docs, "folder").committed)


@pytest.mark.parametrize("seed", range(4))
def test_after_a_storm_and_a_rerun_the_collection_is_what_a_calm_run_makes(
    store: Store, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "folder"
    make(folder)
    name, calm = f"docs{seed}", f"calm{seed}"
    stormy_sync(store, name, folder, seed=seed, probability=0.1 + 0.1 * seed)
    change(folder, seed)
    stormy_sync(store, name, folder, seed=100 + seed, probability=0.4 - 0.1 * seed)
    store.settle()
    sync(store.client, name, folder)
    sync(store.client, calm, folder)
    assert_same(stored(store.client, name), stored(store.client, calm))
    again = sync(store.client, name, folder)
    assert (again.added, again.changed, again.removed) == (0, 0, 0)
    assert len(again.skipped) == 2
    assert all(POISON in (folder / skipped.source).read_text() for skipped in again.skipped)
