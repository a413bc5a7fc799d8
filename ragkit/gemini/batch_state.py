"""What is known of batch jobs: small files, so that another process can go on on a later day.

    <root>/<job>/job.json            the job and its parts; replaced at once after every step
    <root>/<job>/part-000.jsonl      the requests, until the service has them
    <root>/<job>/part-000.keys       one JSON line [key, source] a request, in the order of vectors
    <root>/<job>/part-000.sample     some of the requests with their text, to verify the answer by
    <root>/<job>/part-000.vectors    dim float32 a request, NaN where there is none
    <root>/<job>/part-000.failed     why, by key
    <root>/lock                      one process at a time

No API key is in any of them. A job's folder is made under another name and appears whole.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ragkit.edge.files import move_folder, read_json, remove_folder, write_json
from ragkit.edge.locks import acquire
from ragkit.errors import EmbeddingError, StoreCorrupt

_FORMAT = 1
_LOCK_TIMEOUT_S = 3.0
_DRAFT_SUFFIX = ".draft"

UNSENT = frozenset({"prepared", "uploading", "creating"})
RUNNING = frozenset({"pending", "running"})
LOST = frozenset({"failed", "cancelled", "expired", "refused"})
STATES = UNSENT | RUNNING | LOST | {"succeeded", "collected"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """One job of the service: as many requests as fit into a file.

    Attributes:
        label: The display name of its file and of its job: unique, and known before either is
            there, so that an interrupted step is found again.
        state: "prepared", "uploading", "creating": not yet a job of the service;
            "pending", "running", "succeeded", "failed", "cancelled", "expired": what the service
            says; "collected": its vectors were verified and are on disk; "refused": they were
            not what the model gives for these texts.
        requests: How many texts.
        tokens: Estimated tokens of those.
        size_bytes: Of the file of requests.
        file: The uploaded file's name.
        batch: The name of the service's job.
        results: The name of the file of results.
        stats: The service's own counts.
        reason: Why it has failed, expired or was refused.
        good: Requests whose vectors came, once it is collected.
        billed_tokens: What the service counted for those; None where it did not say.
        checked: Texts embedded a second time to verify the answer.
    """

    label: str
    state: str
    requests: int
    tokens: int
    size_bytes: int
    file: str | None = None
    batch: str | None = None
    results: str | None = None
    stats: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None
    good: int = 0
    billed_tokens: int | None = None
    checked: int = 0

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"expected one of {sorted(STATES)}, got {self.state!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """What was submitted for a folder.

    Attributes:
        id: Sorts by time.
        collection: The collection's name.
        embedder: The fingerprint of the embedder.
        chunker: The fingerprint of the chunker.
        model: The model's name.
        folder: The folder, absolute.
        corpus: See `Indexer.sync`; `include`, `exclude` and `max_bytes` as well.
        created_at: ISO 8601, UTC.
        parts: One for each job of the service; none if there was nothing to embed.
        closed: Whether nothing more is to come of it: its vectors are in the collection, or it
            was cancelled before there were any.
        tenant: Whose it is, in a collection shared by tenants.
    """

    id: str
    collection: str
    embedder: str
    chunker: str
    model: str
    folder: str
    corpus: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_bytes: int
    created_at: str
    parts: tuple[BatchPart, ...]
    closed: bool = False
    tenant: str | None = None

    @property
    def requests(self) -> int:
        """Texts in all parts."""
        return sum(part.requests for part in self.parts)

    @property
    def tokens(self) -> int:
        """Estimated tokens in all parts."""
        return sum(part.tokens for part in self.parts)

    @property
    def waiting(self) -> int:
        """Texts in parts that the service has not ended, or was not given yet."""
        return sum(part.requests for part in self.parts if part.state in UNSENT | RUNNING)

    @property
    def state(self) -> str:
        """In one word.

        "unsent": a submission was interrupted, submit again; "running"; "ended": to be collected;
        "collected": some of its documents still lack a vector; "closed": nothing more to come.
        """
        states = {part.state for part in self.parts}
        if self.closed or not states:
            return "closed"
        if states & UNSENT:
            return "unsent"
        if states & RUNNING:
            return "running"
        return "ended" if "succeeded" in states else "collected"


def new_job_id(now: datetime | None = None) -> str:
    """An id that sorts by time and is not given twice."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{secrets.token_hex(3)}"


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def requests(self, part: int) -> Path:
        """The requests as the service reads them."""
        return self.path / f"part-{part:03}.jsonl"

    def vectors(self, part: int) -> Path:
        """The vectors that came."""
        return self.path / f"part-{part:03}.vectors"

    def download(self, part: int) -> Path:
        """The service's answer while it is being read."""
        return self.path / f"part-{part:03}.download"

    def keys_path(self, part: int) -> Path:
        """Keys and sources of the requests."""
        return self.path / f"part-{part:03}.keys"

    def keys(self, part: int) -> dict[str, str]:
        """Source by key, in the order of the vectors."""
        with _readable(self.keys_path(part)) as path, path.open(encoding="utf-8") as lines:
            return dict(json.loads(line) for line in lines)

    def write_sample(self, part: int, sample: Sequence[tuple[str, str, str]]) -> None:
        """Keep the (key, title, text) of some requests."""
        write_json(self._sample(part), {"requests": [list(request) for request in sample]})

    def sample(self, part: int) -> list[tuple[str, str, str]]:
        """The (key, title, text) of some requests, in random order."""
        with _readable(self._sample(part)) as path:
            return [(key, title, text) for key, title, text in read_json(path)["requests"]]

    def write_failed(self, part: int, failed: Mapping[str, str]) -> None:
        """Keep why requests have no vector, by key."""
        write_json(self._failed(part), dict(failed))

    def failed(self, part: int) -> dict[str, str]:
        """Why requests have no vector, by key."""
        with _readable(self._failed(part)) as path:
            return read_json(path)

    def prune(self) -> None:
        """Remove all but the record of the job."""
        for path in self.path.glob("part-*"):
            path.unlink()

    def _sample(self, part: int) -> Path:
        return self.path / f"part-{part:03}.sample"

    def _failed(self, part: int) -> Path:
        return self.path / f"part-{part:03}.failed"


class JobStore:
    """The jobs in a folder; nothing is created before the first is."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            StoreLocked: One is at work here.
        """
        held = acquire(self.root / "lock", what="the list of batch jobs", timeout_s=_LOCK_TIMEOUT_S)
        try:
            yield
        finally:
            held.release()

    def jobs(self, collection: str, *, tenant: str | None = None) -> list[BatchJob]:
        """The jobs of a collection, or of a tenant in it, oldest first.

        Raises:
            StoreCorrupt: A job's file cannot be read.
        """
        found = sorted(self.root.glob("*/job.json"))
        jobs = [_read(path) for path in found if not path.parent.name.endswith(_DRAFT_SUFFIX)]
        return [job for job in jobs if (job.collection, job.tenant) == (collection, tenant)]

    def load(self, job_id: str, collection: str, *, tenant: str | None = None) -> BatchJob:
        """A job as it stands.

        Raises:
            EmbeddingError: The collection has no job of that id.
            StoreCorrupt: Its file cannot be read.
        """
        jobs = {job.id: job for job in self.jobs(collection, tenant=tenant)}
        if job_id not in jobs:
            known = ", ".join(jobs) or "there is none at all"
            raise EmbeddingError(
                f"collection {collection!r} has no batch job {job_id!r} in {self.root} ({known})"
            )
        return jobs[job_id]

    def save(self, job: BatchJob) -> BatchJob:
        """Replace what is known of a job; returns it."""
        write_json(self.folder(job).path / "job.json", {"format": _FORMAT, **asdict(job)})
        return job

    def folder(self, job: BatchJob) -> JobFolder:
        """The files of a job."""
        return JobFolder(self.root / job.id)

    def sweep(self, collection: str, *, tenant: str | None = None) -> None:
        """Remove what interrupted calls left behind; the lock must be held."""
        for leftover in self.root.glob(f"*{_DRAFT_SUFFIX}"):
            remove_folder(leftover)
        for job in self.jobs(collection, tenant=tenant):
            if job.closed:
                self.folder(job).prune()

    @contextmanager
    def draft(self, job_id: str) -> Iterator[JobFolder]:
        """A folder to prepare a job's files in; it is gone after the block unless published."""
        folder = JobFolder(self.root / f"{job_id}{_DRAFT_SUFFIX}")
        folder.path.mkdir(parents=True)
        try:
            yield folder
        finally:
            remove_folder(folder.path)

    def publish(self, job: BatchJob, draft: JobFolder) -> BatchJob:
        """Turn a draft into a job; returns it."""
        write_json(draft.path / "job.json", {"format": _FORMAT, **asdict(job)})
        move_folder(draft.path, self.folder(job).path)
        return job


def _read(path: Path) -> BatchJob:
    with _readable(path):
        value = read_json(path)
        if value.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}: a later ragkit wrote it")
        value["parts"] = tuple(BatchPart(**part) for part in value["parts"])
        value["include"], value["exclude"] = tuple(value["include"]), tuple(value["exclude"])
        return BatchJob(**value)


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Map what goes wrong in reading one of these files."""
    try:
        yield path
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreCorrupt(
            f"{path} cannot be read ({exc}): delete {path.parent} and submit the folder again; "
            "nothing that is in the collection is lost"
        ) from exc
