from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.bulk import hold, release
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.errors import CollectionError
from ragkit.indexer import Indexer
from ragkit.optimizer import Indexing, is_held_back, wait_until_indexed
from ragkit.reports import Progress
from ragkit.retriever import Retriever

GREEN, YELLOW = models.CollectionStatus.GREEN, models.CollectionStatus.YELLOW
GREY, RED = models.CollectionStatus.GREY, models.CollectionStatus.RED
DOCUMENTS = [
    Document(source=f"d{n}", title=f"Number {n}", text=f"Fruit {n} is a melon.") for n in range(30)
]


class Scripted:
    """A server of which only the state matters: it shows each state in turn, the last for ever."""

    def __init__(self, real: QdrantBase, states: list[models.CollectionStatus]) -> None:
        self._info = real.get_collection("docs")
        self._states = states
        self.updates: list[models.OptimizersConfigDiff] = []
        self.error: str | None = None

    def get_collection(self, name: str) -> models.CollectionInfo:
        status = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        update: dict[str, object] = {"status": status}
        if self.error is not None:
            update["optimizer_status"] = models.OptimizersStatusOneOf1(error=self.error)
        return self._info.model_copy(update=update)

    def update_collection(self, name: str, optimizers_config: models.OptimizersConfigDiff) -> bool:
        self.updates.append(optimizers_config)
        self._states[:] = [YELLOW, GREEN]
        return True


@pytest.fixture
def scripted(edge: QdrantBase) -> Callable[..., Scripted]:
    Indexer(Collection(edge, "docs", embedder=HashEmbedder(16))).add(DOCUMENTS)
    return lambda *states: Scripted(edge, list(states))


def waited(server: Scripted) -> tuple[list[float], list[str]]:
    """How long was slept each time, and the states that were shown."""
    slept: list[float] = []
    seen: list[Indexing] = []
    wait_until_indexed(
        server,  # type: ignore[arg-type]
        "docs",
        progress=seen.append,
        sleep=slept.append,
    )
    assert all(each.points == len(DOCUMENTS) for each in seen)
    return slept, [each.status for each in seen]


def test_one_green_light_may_be_that_of_before(scripted: Callable[..., Scripted]) -> None:
    slept, states = waited(scripted(GREEN, YELLOW, YELLOW, GREEN, GREEN, YELLOW, GREEN))
    assert states == ["green", "yellow", "yellow", "green", "green", "yellow", *["green"] * 3]
    assert len(slept) == len(states) - 1


def test_a_grey_collection_is_woken(scripted: Callable[..., Scripted]) -> None:
    server = scripted(GREY)
    _, states = waited(server)
    assert states == ["grey", "yellow", "green", "green", "green"]
    assert server.updates == [models.OptimizersConfigDiff()]


def test_an_optimizer_that_failed_is_an_error_with_its_own_words(
    scripted: Callable[..., Scripted],
) -> None:
    server = scripted(RED)
    server.error = "No space left on device"
    with pytest.raises(CollectionError, match=r"optimizer failed.*No space left on device"):
        waited(server)


def test_a_red_collection_is_an_error(scripted: Callable[..., Scripted]) -> None:
    with pytest.raises(CollectionError, match="'docs' is red"):
        waited(scripted(YELLOW, RED))


@pytest.fixture(params=["rest", "grpc"])
def standin_client(
    request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]
) -> QdrantBase:
    return open_store(request.param)


def test_an_optimizer_is_held_back_and_let_go(standin_client: QdrantBase) -> None:
    docs = Collection(standin_client, "docs", embedder=HashEmbedder(16))
    Indexer(docs).add(DOCUMENTS)
    assert not is_held_back(standin_client.get_collection("docs").config)
    hold(docs)
    assert is_held_back(standin_client.get_collection("docs").config)
    with pytest.raises(CollectionError, match="held back by a bulk load"):
        wait_until_indexed(standin_client, "docs")
    assert release(docs)
    assert not is_held_back(standin_client.get_collection("docs").config)
    assert not release(docs)


def test_after_a_bulk_load_as_many_threads_optimize_as_before(standin_client: QdrantBase) -> None:
    own = models.OptimizersConfigDiff(max_optimization_threads=2)
    docs = Collection(standin_client, "docs", embedder=HashEmbedder(16), optimizers_config=own)
    Indexer(docs).add(DOCUMENTS)
    hold(docs)
    hold(docs)  # of two loads at once the second changes nothing
    release(docs)
    config = standin_client.get_collection("docs").config.optimizer_config
    assert config.max_optimization_threads == 2


def test_a_bulk_load_is_indexed_at_its_end(
    standin_client: QdrantBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.optimizer._POLL_S", 0.01)
    for n in range(20):
        (tmp_path / f"{n}.txt").write_text(f"Fruit {n} is a kind of melon.")
    held: list[bool] = []
    shown: list[Progress] = []

    def progress(now: Progress) -> None:
        shown.append(now)
        if now.chunks and now.indexing is None:
            held.append(is_held_back(standin_client.get_collection("docs").config))

    docs = Collection(standin_client, "docs", embedder=HashEmbedder(16))
    report = Indexer(docs).sync(tmp_path, bulk=True, progress=progress)
    assert report.added == 20
    assert held
    assert all(held)
    assert shown[-1].indexing is not None
    assert shown[-1].indexing.status == "green"
    assert not is_held_back(standin_client.get_collection("docs").config)
    assert Retriever(docs).search("fruit 7", mode="sparse")


def test_an_interrupted_bulk_load_lets_go_and_a_killed_one_is_let_go_by_the_next_run(
    standin_client: QdrantBase, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Bananas are yellow.")

    def interrupt(now: Progress) -> None:
        if now.chunks:
            raise KeyboardInterrupt

    docs = Collection(standin_client, "docs", embedder=HashEmbedder(16))
    with pytest.raises(KeyboardInterrupt):
        Indexer(docs).sync(tmp_path, bulk=True, progress=interrupt)
    assert not is_held_back(standin_client.get_collection("docs").config)
    hold(docs)  # as a process leaves it that is killed
    report = Indexer(Collection(standin_client, "docs", embedder=HashEmbedder(16))).sync(tmp_path)
    assert "was held back by a bulk load" in report.notes[0]
    assert not is_held_back(standin_client.get_collection("docs").config)
    report = Indexer(Collection(standin_client, "docs", embedder=HashEmbedder(16))).sync(tmp_path)
    assert report.notes == ()


def test_bulk_changes_nothing_on_the_embedded_engine(edge: QdrantBase, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Bananas are yellow.")
    shown: list[Progress] = []
    report = Indexer(Collection(edge, "docs")).sync(tmp_path, bulk=True, progress=shown.append)
    assert report.added == 1
    assert all(each.indexing is None for each in shown)
