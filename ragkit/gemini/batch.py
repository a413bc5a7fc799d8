"""Gemini's Batch API: a folder is embedded at half the price, within a day.

    batch = GeminiBatch(collection)
    job = batch.submit("~/notes")            # returns at once; another process may go on from here
    report = batch.collect(job, wait=True)   # verifies what came, then indexes the folder with it

What is submitted is what an indexing run would embed now, and what is collected is written by an
indexing run, so commit records, deletions and the re-use of vectors are the same. Vectors are kept
under the hash of title and text: a file that has changed meanwhile cannot get those of its old
text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias, Unpack

from ragkit.chunks import chunker_fingerprint
from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.errors import CollectionMismatch
from ragkit.gemini.batch_lines import SAMPLE_SIZE, BatchRequest, PartsWriter
from ragkit.gemini.batch_plan import BatchIndexer, Walk, chunker_of, walk_of
from ragkit.gemini.batch_service import BatchService
from ragkit.gemini.batch_state import (
    LOST,
    RUNNING,
    UNSENT,
    BatchJob,
    BatchPart,
    JobStore,
    new_job_id,
)
from ragkit.gemini.batch_vectors import CollectedEmbedder, CollectedVectors, CompleteDocuments
from ragkit.gemini.batch_verify import collect_part
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.reading.folders import MAX_BYTES
from ragkit.reports import IndexReport, ProgressCallback

__all__ = ["BatchJob", "BatchPart", "BatchReport", "FailedRequest", "GeminiBatch"]

Finish: TypeAlias = Literal["none", "sync", "resubmit"]
StatusCallback: TypeAlias = Callable[[BatchJob], None]

_POLL_S = 30.0
_DISCOUNT = 0.5  # of the price of a synchronous call


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRequest:
    """A text that the service could not embed, or gave no single good vector for.

    Attributes:
        key: Its hash, the key of the request.
        source: The document it was first found in.
        reason: What the service said, or what was wrong with its answer.
    """

    key: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What came of a job so far.

    Attributes:
        job: As it stands now.
        index: The indexing run that wrote the vectors; its `skipped` names the documents that
            still lack one. None if there was nothing to write.
        collected: Requests whose vectors came and passed all checks.
        waiting: Requests that the service has not ended yet.
        failed: Requests that it ended without a good vector. With `finish="sync"` the indexing
            run has embedded them since.
        verified: Texts that were embedded a second time and compared.
        billed_tokens: What the service counted; None where it did not say.
        resubmitted: The job made of what was missing, with `finish="resubmit"`.
        notes: What went wrong with parts as a whole, and what to do.
    """

    job: BatchJob
    index: IndexReport | None
    collected: int
    waiting: int
    failed: tuple[FailedRequest, ...]
    verified: int
    billed_tokens: int | None
    resubmitted: BatchJob | None = None
    notes: tuple[str, ...] = ()


class GeminiBatch:
    """The batch jobs of a collection.

    Args:
        collection: With a `GeminiEmbedder`.
        folder: Where to keep the state of jobs: `batches` in the database's folder if the
            collection is embedded, and to be given if it is on a server.
        poll_s: Seconds between two looks at a job that is waited for.

    Raises:
        ValueError: The embedder is another one, or no folder was given for a server.
    """

    def __init__(
        self, collection: Collection, *, folder: str | Path | None = None, poll_s: float = _POLL_S
    ) -> None:
        if not isinstance(collection.embedder, GeminiEmbedder):
            raise ValueError(
                "expected a collection with a GeminiEmbedder, which alone has a Batch API, got "
                f"{collection.embedder!r}"
            )
        self._embedder = collection.embedder
        self._collection = collection
        self._store = JobStore(_state_folder(collection, folder))
        self._poll_s = poll_s

    def jobs(self) -> list[BatchJob]:
        """The collection's jobs as they were last seen, oldest first."""
        return self._store.jobs(self._collection.name, tenant=self._collection.tenant)

    def cost_usd(self, job: BatchJob) -> float | None:
        """What a job costs at the table's price, by estimated tokens; None if it is not known."""
        full = self._embedder.forecast(job.requests, job.tokens).cost_usd
        return None if full is None else full * _DISCOUNT

    def submit(self, folder: str | Path, **walk: Unpack[Walk]) -> BatchJob:
        """Upload what has to be embedded of a folder, and create the service's jobs for it.

        What is stored, was collected or is under way already is left out, so nothing is paid for
        twice. A call that was interrupted anywhere is continued by the next one.

        Args:
            folder: As in `Indexer.sync`.
            walk: `corpus`, `include`, `exclude` and `max_bytes`, as there.

        Returns:
            The job; if nothing new has to be embedded, the one that was continued, or else one
            without parts, which is not kept.

        Raises:
            EmbedderUnavailable: The service cannot be reached or refuses. The job is kept: submit
                again to go on, or cancel it.
            DocumentError: As in `Indexer.sync`.
            CollectionMismatch: As in `Indexer.sync`; nothing was uploaded.
        """
        service = self._service()
        with self._store.locked():
            self._store.sweep(self._collection.name, tenant=self._collection.tenant)
            continued = [self._send(job, service) for job in self._open() if _unsent(job)]
            job = self._prepare(Path(folder).expanduser().resolve(), walk)
            if job.parts:
                return self._send(job, service)
            return continued[-1] if continued else job

    def status(self, job: BatchJob | str) -> BatchJob:
        """Ask the service how a job stands.

        Raises:
            EmbeddingError: There is no such job, or the service does not know it by this key.
        """
        with self._store.locked():
            return self._refresh(self._load(job), self._service())

    def collect(
        self,
        job: BatchJob | str,
        *,
        wait: bool = False,
        finish: Finish = "none",
        sample: int = 5,
        seed: int = 0,
        progress: ProgressCallback | None = None,
        on_status: StatusCallback | None = None,
    ) -> BatchReport:
        """Download what has ended, verify it, and index the folder with it.

        A document is written once all of its vectors are there; until then what is stored of it
        stays. Collecting again writes nothing twice.

        Args:
            job: The job or its id.
            wait: Whether to wait until the service has ended all of it.
            finish: What to do with texts that failed, or are new since the submission: "none"
                leaves their documents as they are, "sync" embeds them now at the full price,
                "resubmit" makes another job of them.
            sample: How many texts of each part are embedded again by a synchronous call and
                compared; 50 at most, and ten times as many if keys are mixed up. Where one
                disagrees the part is refused whole. 0 is for who trusts the service.
            seed: Decides which.
            progress: Called as the indexing run goes on.
            on_status: Called with the job at each look at it.

        Raises:
            EmbeddingError: The service cannot be reached or refuses; what was collected is kept.
            CollectionMismatch: The collection was made with another embedder or chunker.
            DocumentError: The folder is not there.
        """
        if finish not in ("none", "sync", "resubmit"):
            raise ValueError(f'expected finish="none", "sync" or "resubmit", got {finish!r}')
        if not 0 <= sample <= SAMPLE_SIZE:
            raise ValueError(f"expected sample from 0 to {SAMPLE_SIZE}, got {sample}")
        service, current = self._service(), self._load(job)
        self._check_embedder(current)
        current = self._waited_for(current, wait=wait, on_status=on_status)
        with self._store.locked():
            current = self._download(self._load(current), service, sample=sample, seed=seed)
            report = self._write(current, embed_missing=finish == "sync", progress=progress)
        if finish != "resubmit" or report.waiting:
            return report
        again = self.submit(current.folder, **walk_of(current))
        return replace(report, resubmitted=again if again.parts else None)

    def cancel(self, job: BatchJob | str) -> BatchJob:
        """Stop what the service has not ended; what has ended can still be collected.

        Cancel again to give up what has ended: the job is closed, and its vectors are dropped.

        Raises:
            EmbeddingError: There is no such job, or the service cannot be reached.
        """
        service = self._service()
        with self._store.locked():
            current = self._load(job)
            under_way = [part.state in UNSENT | RUNNING for part in current.parts]
            for number, part in enumerate(current.parts):
                if under_way[number]:
                    current = self._changed(current, number, service.cancelled(part))
            if not any(under_way) and not current.closed:
                return self._closed(current)
            return self._close_if_lost(current)

    # Sending

    def _prepare(self, folder: Path, walk: Walk) -> BatchJob:
        """Write the requests of a job to files, and the job."""
        job = self._new_job(folder, walk)
        known = self._vectors().known
        with self._store.draft(job.id) as draft:
            writer = PartsWriter(draft, job_id=job.id, dim=self._embedder.dim)
            for request in self._requests(folder, walk):
                if request.key not in known:
                    writer.add(request)
            writer.close()
            # Only now is it known with which chunker: a collection may just have been created.
            chunker = chunker_fingerprint(self._collection.chunker)
            job = replace(job, parts=tuple(writer.parts), chunker=chunker)
            return self._store.publish(job, draft) if job.parts else job

    def _requests(self, folder: Path, walk: Walk) -> Iterator[BatchRequest]:
        indexer = BatchIndexer(self._collection, self._store.root)
        for chunk in indexer.to_embed(folder, walk):
            yield BatchRequest(
                key=chunk.key,
                source=chunk.source,
                title=chunk.title,
                text=chunk.text,
                tokens=chunk.tokens,
                body=self._embedder.document_request(chunk.text, title=chunk.title),
            )

    def _new_job(self, folder: Path, walk: Walk) -> BatchJob:
        now = datetime.now(UTC)
        return BatchJob(
            id=new_job_id(now),
            collection=self._collection.name,
            tenant=self._collection.tenant,
            embedder=self._embedder.fingerprint,
            chunker="",
            model=self._embedder.model,
            folder=str(folder),
            corpus=walk.get("corpus") or folder.as_posix(),
            include=tuple(walk.get("include", ())),
            exclude=tuple(walk.get("exclude", ())),
            max_bytes=walk.get("max_bytes", MAX_BYTES),
            created_at=now.isoformat(timespec="seconds"),
            parts=(),
        )

    def _send(self, job: BatchJob, service: BatchService) -> BatchJob:
        for number, part in enumerate(job.parts):
            if part.state in UNSENT:
                job = self._send_part(job, number, service)
        return job

    def _send_part(self, job: BatchJob, number: int, service: BatchService) -> BatchJob:
        """Upload a part and create its job, unless an interrupted call did so already.

        What is about to be done is written down before, so that nothing is left at the service
        that is not known here.
        """
        part, path = job.parts[number], self._store.folder(job).requests(number)
        remote = service.find(part.label) if part.state == "creating" else None
        if remote is None:
            begun = part.state != "prepared"
            file = service.find_file(part.label, part.size_bytes) if begun else None
            if file is None:
                job = self._changed(job, number, replace(part, state="uploading"))
                file = service.upload(path, part.label)
            part = replace(part, state="creating", file=file)
            job = self._changed(job, number, part)
            remote = service.create(file, part.label)
        job = self._changed(job, number, remote.applied_to(part))
        path.unlink(missing_ok=True)
        return job

    # Collecting

    def _waited_for(
        self, job: BatchJob, *, wait: bool, on_status: StatusCallback | None
    ) -> BatchJob:
        while True:
            job = self.status(job)
            if on_status is not None:
                on_status(job)
            if not wait or not any(part.state in RUNNING for part in job.parts):
                return job
            time.sleep(self._poll_s)

    def _refresh(self, job: BatchJob, service: BatchService) -> BatchJob:
        for number, part in enumerate(job.parts):
            if part.state in RUNNING:
                job = self._changed(job, number, service.get(str(part.batch)).applied_to(part))
        return self._close_if_lost(job)

    def _download(
        self, job: BatchJob, service: BatchService, *, sample: int, seed: int
    ) -> BatchJob:
        """Fetch and verify the results of the parts that have ended."""
        for number, part in enumerate(job.parts):
            if part.state == "succeeded":
                folder = self._store.folder(job)
                collected = collect_part(
                    folder, number, part, service, self._embedder, sample=sample, seed=seed
                )
                job = self._changed(job, number, collected)
                folder.download(number).unlink(missing_ok=True)
                if part.file is not None:
                    service.delete_file(part.file)
        return job

    def _write(
        self, job: BatchJob, *, embed_missing: bool, progress: ProgressCallback | None
    ) -> BatchReport:
        """Index the folder with what was collected, if there is anything to index it with."""
        vectors = self._vectors()
        failed = tuple(self._failed(job))
        index = None
        if embed_missing or any(part.good for part in job.parts if not job.closed):
            index, complete = self._index(job, vectors, embed_missing, progress)
            if complete:
                self._close_written(job.corpus)
                job = self._load(job)
        billed = [part.billed_tokens for part in job.parts if part.state == "collected"]
        return BatchReport(
            job=job,
            index=index,
            collected=sum(part.good for part in job.parts),
            waiting=job.waiting,
            failed=failed,
            verified=sum(part.checked for part in job.parts),
            billed_tokens=None if None in billed else sum(tokens or 0 for tokens in billed),
            notes=tuple(_notes(job)),
        )

    def _index(
        self,
        job: BatchJob,
        vectors: CollectedVectors,
        embed_missing: bool,
        progress: ProgressCallback | None,
    ) -> tuple[IndexReport, bool]:
        """Run the indexer; also tells whether it needs none of the collected vectors any more."""
        if self._collection.exists():
            self._collection.open_for_writing()
        chunker = CompleteDocuments(
            chunker_of(self._collection, job.chunker),
            self._collection,
            vectors,
            embed_missing=embed_missing,
        )
        collected = CollectedEmbedder(self._embedder, vectors)
        twin = self._collection.using(embedder=collected, chunker=chunker)
        indexer = BatchIndexer(twin, self._store.root)
        report = indexer.sync(job.folder, **walk_of(job), progress=progress)
        return report, not self._still_wanted(job.corpus, {s.source for s in report.skipped})

    def _still_wanted(self, corpus: str, skipped: set[str]) -> bool:
        """Whether a document was skipped, for whatever reason, that a job has vectors of."""
        for job in self._open():
            if skipped and job.corpus == corpus:
                folder = self._store.folder(job)
                for number, part in enumerate(job.parts):
                    if part.state == "collected" and skipped & set(folder.keys(number).values()):
                        return True
        return False

    def _failed(self, job: BatchJob) -> Iterator[FailedRequest]:
        folder = self._store.folder(job)
        for number, part in enumerate(job.parts):
            if part.state == "collected" and not job.closed:
                sources = folder.keys(number)
                for key, reason in folder.failed(number).items():
                    yield FailedRequest(key=key, source=sources[key], reason=reason)

    # State

    def _service(self) -> BatchService:
        client = self._embedder.client
        if client.vertexai:
            raise ValueError(
                "the Batch API for embeddings is not there on Vertex AI: use a client with a "
                "Gemini API key, or index without it"
            )
        return BatchService(client, model=self._embedder.model)

    def _load(self, job: BatchJob | str) -> BatchJob:
        job_id = job if isinstance(job, str) else job.id
        if isinstance(job, BatchJob) and not job.parts:
            return job
        return self._store.load(job_id, self._collection.name, tenant=self._collection.tenant)

    def _open(self) -> list[BatchJob]:
        """The jobs of this embedder of which more is to come."""
        own = self._embedder.fingerprint
        return [job for job in self.jobs() if not job.closed and job.embedder == own]

    def _vectors(self) -> CollectedVectors:
        return CollectedVectors(self._store, self._open(), dim=self._embedder.dim)

    def _changed(self, job: BatchJob, number: int, part: BatchPart) -> BatchJob:
        parts = (*job.parts[:number], part, *job.parts[number + 1 :])
        return self._store.save(replace(job, parts=parts))

    def _close_if_lost(self, job: BatchJob) -> BatchJob:
        lost = bool(job.parts) and all(part.state in LOST for part in job.parts)
        return self._closed(job) if lost and not job.closed else job

    def _close_written(self, corpus: str) -> None:
        for job in self._open():
            ended = not any(part.state in UNSENT | RUNNING | {"succeeded"} for part in job.parts)
            if job.corpus == corpus and ended:
                self._closed(job)

    def _closed(self, job: BatchJob) -> BatchJob:
        job = self._store.save(replace(job, closed=True))
        self._store.folder(job).prune()
        return job

    def _check_embedder(self, job: BatchJob) -> None:
        if job.embedder != self._embedder.fingerprint:
            raise CollectionMismatch(
                f"job {job.id} was submitted for {job.embedder}, this collection's embedder is "
                f"{self._embedder.fingerprint}: pass the embedder it was submitted with"
            )


def _state_folder(collection: Collection, folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder).expanduser()
    if isinstance(collection.client, EdgeClient):
        return collection.client.path / "batches"
    raise ValueError("expected a folder for the state of batch jobs, as the database is a server")


def _unsent(job: BatchJob) -> bool:
    return any(part.state in UNSENT for part in job.parts)


def _notes(job: BatchJob) -> Iterator[str]:
    for part in job.parts:
        name = part.batch or part.label
        if part.state in LOST:
            said = f": {part.reason}" if part.reason else ""
            yield (
                f"{name} ({part.requests} texts) ended as {part.state}{said}. Nothing is lost but "
                'its time: collect with finish="sync" or finish="resubmit"'
            )
        elif part.state in UNSENT:
            yield (
                f"{name} ({part.requests} texts) was not submitted to the end: submit the folder "
                "again to go on"
            )
