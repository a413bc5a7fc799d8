from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batching import (
    DIM,
    begin,
    collection,
    end,
    keys,
    notes,
    state_files,
    stored,
)
from gemini_server import GeminiServer, faults

from ragkit.edge import EdgeClient
from ragkit.errors import (
    AuthError,
    EmbedderUnavailable,
    EmbeddingError,
    QuotaExhausted,
    StoreCorrupt,
    StoreLocked,
    TextsRefused,
)
from ragkit.gemini import batch_lines
from ragkit.gemini.batch import BatchJob, GeminiBatch
from ragkit.gemini.batch_lines import request_key
from ragkit.gemini.batch_state import JobStore
from ragkit.gemini.batch_vectors import CollectedEmbedder, CollectedVectors
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.indexer import Indexer


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


def test_vectors_under_wrong_keys_are_refused_whole(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server, wrong_keys=1000)
    report = batch.collect(job)
    assert (report.index, report.collected) == (None, 0)
    (part,) = report.job.parts
    assert part.state == "refused"
    assert "wrong keys" in str(part.reason)
    assert 'finish="resubmit"' in report.notes[0]
    assert store.count("notes").count == 0


def test_a_larger_sample_finds_two_results_that_have_each_others_key(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server, wrong_keys=2)
    assert batch.collect(job, sample=50).job.parts[0].state == "refused"


def test_a_refused_job_can_be_finished_synchronously(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server, wrong_keys=1000)
    report = batch.collect(job, finish="sync")
    assert report.index is not None
    assert (report.index.added, report.index.embedded) == (3, job.requests)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"missing_keys": 2}, "no result"),
        ({"line_errors": 2}, "invalid argument"),
        ({"duplicate_keys": 2}, "more than one result"),
    ],
)
def test_requests_that_failed_are_named_and_the_others_written(
    batch: GeminiBatch, server: GeminiServer, folder: Path, wrong: dict[str, int], reason: str
) -> None:
    job = batch.submit(folder)
    end(server, **wrong)
    report = batch.collect(job)
    assert report.index is not None
    assert (report.collected, len(report.failed)) == (job.requests - 2, 2)
    assert all(reason in each.reason for each in report.failed)
    assert {each.key for each in report.failed} < set(keys(server))
    broken = {each.source for each in report.failed}
    assert {each.source for each in report.index.skipped} == broken
    assert report.index.added == 3 - len(broken)
    finished = batch.collect(job, finish="sync")
    assert finished.index is not None
    assert finished.index.added == len(broken)
    asked = [text for call in server.embed_calls[1:] for text in call.texts]
    assert len(asked) == 2, "only what failed is paid for at the full price"
    assert finished.job.closed


def test_what_failed_can_be_resubmitted_and_completes_its_documents(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server, missing_keys=2)
    report = batch.collect(job, finish="resubmit")
    again = report.resubmitted
    assert again is not None
    assert again.requests == 2
    end(server)
    # A later process knows of both jobs: the vectors of the first complete the second's.
    final = begin(store, server).collect(again)
    assert final.index is not None
    assert (final.index.skipped, len(stored(store))) == ((), job.requests)
    assert [each.closed for each in batch.jobs()] == [True, True]
    assert state_files(store, "part-*") == []


def test_a_text_that_nobody_can_embed_stops_no_other_document(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    server.poison = {"Bananas"}
    job = batch.submit(folder)
    end(server)
    (failed,) = batch.collect(job).failed
    assert failed.source == "bananas.txt"
    report = batch.collect(job, finish="sync")
    assert report.index is not None
    assert report.index.unchanged == 2
    assert [skipped.source for skipped in report.index.skipped] == ["bananas.txt"]
    assert "invalid argument" in report.index.skipped[0].reason


def test_a_refusal_hands_over_the_vectors_that_were_collected_and_those_just_made(
    store: EdgeClient, server: GeminiServer
) -> None:
    server.poison = {"poison"}
    inner = collection(store, server).embedder
    assert isinstance(inner, GeminiEmbedder)
    vectors = CollectedVectors(JobStore(store.path), [], dim=DIM)
    known = np.full(DIM, DIM**-0.5, np.float32)
    vectors._parts.append(known[None])
    vectors._places[request_key("T", "known")] = (0, 0)
    texts = ["known", "poison", "fresh", "known"]
    with pytest.raises(TextsRefused) as refused:
        CollectedEmbedder(inner, vectors).embed_documents(texts, titles=["T"] * 4)
    assert list(refused.value.failed) == [1]
    assert sorted(refused.value.vectors) == [0, 2, 3]
    np.testing.assert_array_equal(refused.value.vectors[3], known)
    fresh = inner.embed_documents(["fresh"], titles=["T"])[0]
    np.testing.assert_allclose(refused.value.vectors[2], fresh, atol=1e-6)


@pytest.mark.parametrize("state", ["FAILED", "EXPIRED"])
def test_a_job_that_ends_badly_loses_nothing_but_its_time(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path, state: str
) -> None:
    job = batch.submit(folder)
    end(server, end=state)
    report = batch.collect(job)
    assert (report.index, report.job.state) == (None, "closed")
    assert state.lower() in report.notes[0]
    assert (
        server.batches.jobs[str(job.parts[0].batch)].operation()["error"]["message"]
        in report.notes[0]
    )
    resubmitted = batch.collect(job, finish="resubmit").resubmitted
    assert resubmitted is not None
    assert resubmitted.requests == job.requests
    end(server)
    assert batch.collect(resubmitted).collected == job.requests


def test_results_that_have_expired_can_be_submitted_again(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    server.files.stored.clear()
    report = batch.collect(job)
    assert report.job.parts[0].state == "expired"
    assert "48 hours" in report.notes[0]
    assert batch.submit(folder).requests == job.requests


def test_a_job_that_the_service_does_not_know_is_an_error_and_can_be_cancelled(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    server.batches.jobs.clear()
    with pytest.raises(EmbeddingError, match=r"batches/\w+.*another key"):
        batch.status(job)
    assert batch.jobs()[0].state == "running"
    assert batch.cancel(job).closed


class Crash(BaseException):
    """What a lost power supply is to the code: nothing catches it."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("crash_at", range(6))
def test_a_submission_that_breaks_off_anywhere_is_continued_without_orphans(
    store: EdgeClient,
    server: GeminiServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    crash_at: int,
) -> None:
    monkeypatch.setattr(batch_lines, "MAX_REQUESTS", 10)
    saves = iter(range(100))
    save = JobStore.save

    def crashing(self: JobStore, job: BatchJob) -> BatchJob:
        now = next(saves) == crash_at
        if now and when == "before":
            raise Crash
        saved = save(self, job)
        if now:
            raise Crash
        return saved

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "save", crashing)
        with pytest.raises(Crash):
            begin(store, server).submit(folder)
    begin(store, server).submit(folder)
    (continued,) = begin(store, server).jobs()
    assert continued.state == "running"
    assert len(server.batches.jobs) == len(continued.parts) == 2
    assert len(keys(server)) == len(set(keys(server))) == continued.requests
    assert {part.file for part in continued.parts} == set(server.files.stored)
    end(server)
    assert begin(store, server).collect(continued).collected == continued.requests


@pytest.mark.parametrize("step", ["upload", "asyncBatchEmbedContent"])
@pytest.mark.parametrize("fault", [faults.truncated(), faults.closed(), faults.status(503)])
def test_a_step_whose_answer_is_lost_is_not_done_twice(
    batch: GeminiBatch, server: GeminiServer, folder: Path, step: str, fault: faults.Fault
) -> None:
    server.fail_when(lambda call: step in call.path and "key" not in call.query, fault)
    with pytest.raises(EmbeddingError):
        batch.submit(folder)
    server.heal()
    (job,) = batch.jobs()
    assert job.state == "unsent"
    assert "submit the folder again" in batch.collect(job).notes[0]
    continued = batch.submit(folder)
    assert (continued.id, continued.state) == (job.id, "running")
    assert len(server.batches.jobs) == 1


def test_an_unsent_job_can_be_cancelled(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    server.fail_when(lambda call: "asyncBatch" in call.path, faults.truncated())
    with pytest.raises(EmbedderUnavailable):
        batch.submit(folder)
    server.heal()
    assert batch.cancel(batch.jobs()[0]).closed
    assert [job.state for job in server.batches.jobs.values()] == ["CANCELLED"]


def test_a_quota_that_is_used_up_keeps_the_job_for_another_day(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    server.fail_when(lambda call: "asyncBatch" in call.path, faults.day_quota())
    with pytest.raises(QuotaExhausted):
        batch.submit(folder)
    server.heal()
    assert batch.submit(folder).state == "running"
    assert len(server.files.stored) == 1


def test_a_crash_while_collecting_is_made_good_by_collecting_again(
    batch: GeminiBatch,
    store: EdgeClient,
    server: GeminiServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = batch.submit(folder)
    end(server)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    for owner, method in ((JobStore, "save"), (Indexer, "sync")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, crash)
            with pytest.raises(Crash):
                begin(store, server).collect(job)
    server.files.stored.clear()
    report = begin(store, server).collect(job)
    assert report.collected == job.requests == len(stored(store))


def test_passing_errors_are_repeated_where_that_is_harmless(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    server.fail_next(1, faults.status(503))
    assert batch.status(job).parts[0].state == "succeeded"
    failed = iter([True, False])
    server.fail_when(lambda call: call.action == "download" and next(failed), faults.truncated())
    assert batch.collect(job).collected == job.requests


def test_a_bad_key_is_an_error_that_changes_nothing(
    batch: GeminiBatch, store: EdgeClient, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    end(server)
    key, server.key = server.key, "another"
    with pytest.raises(AuthError):
        batch.collect(job)
    server.key = key
    assert batch.collect(job).collected == job.requests


def test_a_key_in_what_the_service_says_is_hidden(
    batch: GeminiBatch, server: GeminiServer, folder: Path
) -> None:
    job = batch.submit(folder)
    server.fail_when(
        lambda call: call.method == "GET",
        lambda call, work: faults.Reply(
            body=json.dumps(
                {
                    "name": job.parts[0].batch,
                    "error": {"message": f"Consumer 'api_key:{server.key}' is suspended"},
                }
            ).encode()
        ),
    )
    report = batch.collect(job)
    assert "is suspended" in report.notes[0]
    assert server.key not in repr(report)


def test_a_second_process_is_kept_out_while_one_is_at_work(
    batch: GeminiBatch, store: EdgeClient, folder: Path
) -> None:
    with (
        JobStore(store.path / "batches").locked(),
        pytest.raises(StoreLocked, match="list of batch jobs"),
    ):
        batch.submit(folder)


def test_a_damaged_record_says_what_to_delete(
    batch: GeminiBatch, store: EdgeClient, folder: Path
) -> None:
    batch.submit(folder)
    (record,) = state_files(store, "job.json")
    record.write_text('{"format": 1}')
    with pytest.raises(StoreCorrupt, match=r"delete .* and submit the folder again"):
        batch.jobs()
