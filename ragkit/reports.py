"""What an indexing run would do, does and has done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ragkit.documents import Skipped
from ragkit.optimizer import Indexing
from ragkit.usage import Forecast, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """What indexing a folder would do: nothing has been written or embedded.

    Attributes:
        added: Sources that are new.
        changed: Sources whose content or settings differ from what is stored.
        unchanged: How many sources stay as they are.
        removed: Sources that are stored and no longer there.
        skipped: Files that would not be indexed, with reasons.
        chunks: Chunks that would be written.
        to_embed: Chunks whose vectors are not stored yet.
        tokens: Estimated tokens of those, titles included.
        forecast: What embedding them would cost and take; None if the embedder does not say.
        notes: What is worth knowing beforehand.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: int
    removed: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    chunks: int
    to_embed: int
    tokens: int
    forecast: Forecast | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What an indexing run did; all that it counts is on disk.

    Attributes:
        added: Documents that were not there before.
        changed: Documents replaced by a new version.
        unchanged: Documents left as they were.
        removed: Documents deleted because their file is gone or holds nothing to index any more.
        chunks: Chunks written.
        embedded: Texts given to the embedder.
        reused: Chunks whose stored vectors served again.
        skipped: Files that were not indexed, with reasons.
        usage: What embedding used in this run; None if the embedder does not count.
        notes: What is worth knowing.
        seconds: Wall time.
    """

    added: int
    changed: int
    unchanged: int
    removed: int
    chunks: int
    embedded: int
    reused: int
    skipped: tuple[Skipped, ...]
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Attributes:
        seen: Files examined.
        total: Files found; None where the number is not known.
        committed: Documents committed.
        chunks: Chunks written.
        indexing: How far a server has come with indexing them, when the run waits for that.
    """

    seen: int
    total: int | None
    committed: int
    chunks: int
    indexing: Indexing | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStatus:
    """A collection in numbers.

    Attributes:
        documents: Complete documents.
        chunks: Points.
        embedder: The embedder's fingerprint; None for keyword search only.
        quantization: What the manifest says was asked for.
        corpora: Documents per corpus.
        indexed_vectors: Vectors the engine has indexed so far.
        bytes_on_disk: Bytes allocated by the embedded engine; None on a server.
        version: The collection behind the name.
        older: Versions that a rebuild left.
        tenancy: As the manifest has it.
        search: The options it is searched with unless told otherwise, where it has its own.
        tuned: How and when those were found; empty if they were set by hand.
    """

    name: str
    documents: int
    chunks: int
    embedder: str | None
    dim: int | None
    quantization: str
    chunker: str
    language: str
    corpora: Mapping[str, int]
    indexed_vectors: int
    bytes_on_disk: int | None
    version: str
    older: tuple[str, ...]
    tenancy: str | None
    search: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
