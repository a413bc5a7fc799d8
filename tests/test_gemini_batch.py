from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from batching import (
    DIM,
    PREFIXED,
    begin,
    collection,
    end,
    keys,
    notes,
    paragraphs,
    sdk,
    sent,
    state_files,
    stored,
)
from gemini_server import GeminiServer
from qdrant_client import QdrantClient

from ragkit.chunks import Chunk, Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.errors import (
    CollectionMismatch,
    DocumentError,
    EmbeddingError,
)
from ragkit.gemini import batch_lines
from ragkit.gemini.batch import BatchJob, GeminiBatch
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.schema import DENSE


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return notes(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeClient]:
    with EdgeClient(tmp_path / "db") as client:
        yield client


@pytest.fixture
def batch(store: EdgeClient, server: GeminiServer) -> GeminiBatch:
    return begin(store, server)


def test_a_folder_is_submitted_collected_and_found(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    assert (job.state, len(job.parts), job.waiting) == ("running", 1, job.requests)
    assert server.embed_calls == []
    end(server)
    report = batch.collect(job)
    assert report.index is not None
    assert (report.index.added, report.index.skipped) == (3, ())
    assert report.collected == report.index.embedded == report.index.chunks == job.requests
    assert (report.waiting, report.failed, report.notes) == (0, (), ())
    assert report.verified == 5
    assert report.billed_tokens is not None
    assert 0 < report.billed_tokens < 2 * job.tokens
    hits = Retriever(collection(store, server)).search("where do bananas grow?", limit=1)
    assert hits[0].source == "bananas.txt"


def test_the_collection_equals_one_that_was_indexed_without_batches(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    batch.collect(job)
    with EdgeClient(tmp_path / "other") as other:
        Indexer(collection(other, server)).sync(folder)
        expected, got = stored(other), stored(store)
    assert got.keys() == expected.keys()
    for key, record in got.items():
        assert record.payload == expected[key].payload
        np.testing.assert_allclose(record.vector[DENSE], expected[key].vector[DENSE], atol=1e-5)
        assert record.vector["bm25"] == expected[key].vector["bm25"]


def test_each_line_has_its_own_title_and_task_and_a_key_that_is_the_chunks_hash(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    by_text = {r["content"]["parts"][0]["text"]: r for r in sent(server)}
    rotation = next(r for text, r in by_text.items() if "Every 90 days" in text)
    assert rotation["title"] == "Keys > Rotation"
    assert by_text["Bananas are yellow and grow in the tropics."]["title"] == "bananas"
    assert {r["taskType"] for r in by_text.values()} == {"RETRIEVAL_DOCUMENT"}
    assert {r["outputDimensionality"] for r in by_text.values()} == {DIM}
    end(server)
    batch.collect(job)
    assert sorted(keys(server)) == sorted(r.payload["chunk_hash"] for r in stored(store).values())


def test_the_second_model_reads_its_title_from_a_prefix(
    store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    batch = begin(store, server, PREFIXED)
    job = batch.submit(folder)
    texts = [request["content"]["parts"][0]["text"] for request in sent(server)]
    assert "title: bananas | text: Bananas are yellow and grow in the tropics." in texts
    assert not any("taskType" in request or "title" in request for request in sent(server))
    end(server)
    assert batch.collect(job).collected == job.requests


def test_another_process_collects_what_this_one_submitted(
    server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    with EdgeClient(tmp_path / "db") as store:
        job = begin(store, server).submit(folder)
    end(server)
    arguments = (str(tmp_path / "db"), server.url, server.key)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        added, collected = pool.apply(collect_elsewhere, arguments)
    assert (added, collected) == (3, job.requests)
    with EdgeClient(tmp_path / "db") as store:
        assert begin(store, server).jobs()[0].closed
        assert len(stored(store)) == job.requests


def collect_elsewhere(db: str, url: str, key: str) -> tuple[int, int]:
    with EdgeClient(db) as store:
        embedder = GeminiEmbedder(dim=DIM, client=sdk(url, key))
        batch = GeminiBatch(Collection(store, "notes", embedder=embedder))
        (job,) = batch.jobs()
        report = batch.collect(job.id)
        assert report.index is not None
        return report.index.added, report.collected


def test_collecting_twice_writes_and_asks_nothing_twice(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    batch.collect(job)
    before, calls = stored(store), len(server.calls)
    again = batch.collect(job)
    assert (again.index, again.collected, again.job.state) == (None, job.requests, "closed")
    assert stored(store) == before
    assert len(server.calls) == calls


def test_submitting_again_pays_for_nothing_that_is_under_way_or_stored(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    again = begin(store, server).submit(folder)
    assert (again.parts, len(server.batches.jobs)) == ((), 1)
    (folder / "new.txt").write_text("Walruses sleep on the ice.\n")
    more = batch.submit(folder)
    assert more.requests == 1
    end(server)
    assert batch.collect(job).index is not None
    batch.collect(more)
    assert batch.submit(folder).parts == ()
    assert len(server.batches.jobs) == 2
    assert sorted(set(keys(server))) == sorted(keys(server))


def test_a_job_without_parts_can_be_collected_and_leaves_no_trace(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    Indexer(collection(store, server)).sync(folder)
    job = batch.submit(folder)
    assert (job.parts, job.state, batch.jobs()) == ((), "closed", [])
    assert batch.collect(job).index is None
    assert batch.jobs() == []


def test_only_what_changed_is_submitted_and_deleted_files_go(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    Indexer(collection(store, server)).sync(folder)
    (folder / "long.txt").write_text(paragraphs(range(30)) + "\n\nWalruses sleep on the ice.\n")
    (folder / "bananas.txt").unlink()
    job = batch.submit(folder)
    assert 1 <= job.requests <= 2
    end(server)
    report = batch.collect(job)
    assert report.index is not None
    assert (report.index.changed, report.index.removed, report.index.unchanged) == (1, 1, 1)
    assert report.index.reused == report.index.chunks - job.requests


def test_a_file_that_changed_since_gets_no_stale_vector(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    (folder / "bananas.txt").write_text("Cucumbers are green.\n")
    end(server)
    report = batch.collect(job)
    assert report.index is not None
    assert report.index.added == 2
    (skipped,) = report.index.skipped
    assert skipped.source == "bananas.txt"
    assert "changed since the batch was submitted" in skipped.reason
    finished = batch.collect(job, finish="sync")
    assert finished.index is not None
    assert (finished.index.added, finished.index.embedded, finished.index.unchanged) == (1, 1, 2)
    assert finished.index.usage is not None
    assert finished.index.usage.texts == 1
    texts = [record.payload["text"] for record in stored(store).values()]
    assert any("Cucumbers" in text for text in texts)
    assert not any("Bananas" in text for text in texts)


def test_what_is_not_finished_waits_and_what_is_gets_written(
    batch: GeminiBatch,
    store: EdgeClient,
    server: GeminiServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_lines, "MAX_REQUESTS", 6)
    job = batch.submit(folder)
    assert [part.requests for part in job.parts] == [6] * (len(job.parts) - 1) + [
        job.parts[-1].requests
    ]
    assert len(job.parts) > 2
    first, *others = server.batches.jobs.values()
    for each in others:
        each.state = "RUNNING"
    held, server.batches.jobs = server.batches.jobs, {first.name: first}
    end(server)
    server.batches.jobs = held
    report = batch.collect(job, finish="sync")
    assert report.index is not None
    assert (report.index.added, report.waiting) == (2, job.requests - 6)
    assert [skipped.source for skipped in report.index.skipped] == ["long.txt"]
    assert "still to come" in report.index.skipped[0].reason
    assert report.index.embedded == 2, "nothing that is still to come was paid for a second time"
    end(server)
    rest = batch.collect(job)
    assert rest.index is not None
    assert (rest.index.added, rest.index.unchanged, rest.waiting) == (1, 2, 0)
    assert batch.jobs()[0].closed


def test_parts_stay_below_the_size_of_a_file(
    batch: GeminiBatch, server: GeminiServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lines, "MAX_FILE_BYTES", 8_000)
    job = batch.submit(folder)
    assert len(job.parts) > 2
    for part in job.parts:
        assert part.file is not None
        assert len(server.files.stored[part.file].content) == part.size_bytes <= 8_000
    assert len(keys(server)) == len(set(keys(server))) == job.requests
    end(server)
    assert batch.collect(job).collected == job.requests


def test_waiting_looks_until_all_has_ended(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    server.batches.seconds = 0.1
    seen: list[BatchJob] = []
    report = batch.collect(batch.submit(folder), wait=True, on_status=seen.append)
    assert report.index is not None
    assert report.index.added == 3
    assert seen[-1].parts[0].state == "succeeded"
    assert seen[0].parts[0].stats["requestCount"] == report.job.requests


def test_the_embedders_own_client_takes_every_step(
    store: EdgeClient, server: GeminiServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    with GeminiEmbedder(api_key=server.key) as embedder:
        batch = GeminiBatch(Collection(store, "notes", embedder=embedder))
        job = batch.submit(folder)
        end(server)
        assert batch.collect(job).collected == job.requests


def test_cancelling_stops_the_job_and_frees_its_texts(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.cancel(batch.submit(folder))
    assert [part.state for part in job.parts] == ["cancelled"]
    assert [each.state for each in server.batches.jobs.values()] == ["CANCELLED"]
    assert job.closed
    assert state_files(store, "part-*") == []
    assert batch.submit(folder).requests == job.requests


def test_cancelling_leaves_what_has_ended_to_be_collected(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    cancelled = batch.cancel(job.id)
    assert cancelled.parts[0].state == "succeeded"
    assert batch.collect(cancelled).collected == job.requests


def test_the_key_and_the_texts_are_in_no_file_that_stays(
    batch: GeminiBatch,
    store: EdgeClient,
    server: GeminiServer,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("DEBUG"):
        job = batch.submit(folder)
        files = state_files(store)
        assert files
        assert not any(server.key.encode() in path.read_bytes() for path in files)
        end(server)
        report = batch.collect(job)
    assert [path.name for path in state_files(store)].count("job.json") == 1
    assert not any(b"Bananas" in path.read_bytes() for path in state_files(store))
    assert server.key not in caplog.text
    assert server.key not in repr(report) + str(pickle.dumps(report)) + json.dumps(asdict(report))
    assert [name for name, each in server.files.stored.items() if not each.generated] == []


def test_the_embedder_of_the_job_is_asked_for(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    other = begin(store, server, PREFIXED)
    with pytest.raises(CollectionMismatch, match="submitted for gemini-embedding-001"):
        other.collect(job)
    assert batch.collect(job).collected == job.requests


def test_another_chunker_than_the_collections_is_remembered(
    store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    Indexer(collection(store, server)).sync(folder, exclude=["long.txt"])
    docs = Collection(
        store,
        "notes",
        embedder=collection(store, server).embedder,
        chunker=Chunker(max_tokens=100, overlap=0),
    )
    job = GeminiBatch(docs).submit(folder)
    end(server)
    report = begin(store, server).collect(job)
    assert report.index is not None
    assert (report.index.skipped, report.job.closed) == ((), True)
    assert collection(store, server).open().chunker == job.chunker


def test_a_chunker_that_is_nowhere_to_be_found_is_asked_for(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    def split(document: Document) -> list[Chunk]:
        return Chunker()(document)

    docs = collection(store, server)
    own = Collection(store, "notes", embedder=docs.embedder, chunker=split)
    job = GeminiBatch(own).submit(folder)
    end(server)
    with pytest.raises(CollectionMismatch, match="pass the chunker it was submitted with"):
        batch.collect(job)
    assert GeminiBatch(own).collect(job).collected == job.requests


def test_walk_options_are_those_of_the_submission(
    batch: GeminiBatch, server: GeminiServer, folder: Path, store: EdgeClient
) -> None:
    job = batch.submit(folder, corpus="mine", include=["*.txt"], exclude=["long*"])
    assert job.requests == 1
    end(server)
    report = batch.collect(job)
    assert report.index is not None
    assert report.index.added == 1
    assert {record.payload["corpus"] for record in stored(store).values()} == {"mine"}


def test_a_folder_that_is_gone_removes_nothing(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    folder.rename(folder.with_name("moved"))
    with pytest.raises(DocumentError):
        batch.collect(job)
    folder.with_name("moved").rename(folder)
    assert batch.collect(job).collected == job.requests


def test_an_unknown_job_is_named_with_those_there_are(batch: GeminiBatch, folder: Path) -> None:
    job = batch.submit(folder)
    with pytest.raises(EmbeddingError, match=rf"no batch job 'nonsense'.*{job.id}"):
        batch.status("nonsense")


def test_the_price_is_half_of_the_synchronous_one(batch: GeminiBatch, folder: Path) -> None:
    job = batch.submit(folder)
    assert batch.cost_usd(job) == pytest.approx(job.tokens * 0.15 / 1e6 / 2)


def test_a_collection_on_a_server_needs_a_folder_which_is_left_out_of_the_walk(
    server: GeminiServer, folder: Path, store: EdgeClient
) -> None:
    remote = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
    with pytest.raises(ValueError, match="expected a folder"):
        GeminiBatch(collection(remote, server))
    remote.close()
    batch = GeminiBatch(collection(store, server), folder=folder / "state", poll_s=0.01)
    job = batch.submit(folder)
    assert batch.submit(folder).parts == ()
    end(server)
    report = batch.collect(job)
    assert report.index is not None
    assert report.index.added == 3


def test_only_a_gemini_embedder_has_a_batch_api(store: EdgeClient) -> None:
    with pytest.raises(ValueError, match="GeminiEmbedder"):
        GeminiBatch(Collection(store, "notes", embedder=HashEmbedder()))


def test_options_out_of_range_are_refused_before_anything_is_asked(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    calls = len(server.calls)
    with pytest.raises(ValueError, match='finish="none"'):
        batch.collect(job, finish="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample from 0 to 50"):
        batch.collect(job, sample=51)
    assert len(server.calls) == calls
