"""Vectors that batch jobs brought, served by content to an ordinary indexing run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ragkit.chunks import Chunk, chunker_fingerprint
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import Vectors
from ragkit.errors import DocumentError, EmbedderUnavailable, TextsRefused
from ragkit.gemini.batch_lines import request_key
from ragkit.gemini.batch_plan import embedded_title
from ragkit.gemini.batch_state import RUNNING, UNSENT, BatchJob, JobStore
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.ledger import stored_vectors
from ragkit.schema import chunk_hash
from ragkit.usage import Usage

_NOT_SUBMITTED = "it is new or has changed since the batch was submitted"


class CollectedVectors:
    """All vectors that jobs of a collection brought and that may not be in it yet, by key.

    A key names title and text, so a vector that an older job brought serves as well: a document
    of which one chunk failed is completed by a later job.

    Attributes:
        waiting: Keys of requests that the service has not ended, or was not given yet.
        failed: Why other requests have no vector, by key.
    """

    def __init__(self, store: JobStore, jobs: Iterable[BatchJob], *, dim: int) -> None:
        self.waiting: set[str] = set()
        self.failed: dict[str, str] = {}
        self._parts: list[Vectors] = []
        self._places: dict[str, tuple[int, int]] = {}
        for job in jobs:
            folder = store.folder(job)
            for number, part in enumerate(job.parts):
                if part.state in RUNNING | UNSENT | {"succeeded"}:
                    self.waiting.update(folder.keys(number))
                elif part.state == "collected":
                    self._add(list(folder.keys(number)), folder.failed(number))
                    shape = (part.requests, dim)
                    path = folder.vectors(number)
                    self._parts.append(np.memmap(path, np.float32, mode="r", shape=shape))

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Vectors:
        part, row = self._places[key]
        vector: Vectors = self._parts[part][row]
        return vector

    @property
    def known(self) -> set[str]:
        """Keys that need not be submitted: what is here or under way."""
        return self.waiting.union(self._places)

    def why_missing(self, key: str) -> str:
        """Why there is no vector under a key."""
        if key in self.waiting:
            return "its vector is still to come from a batch job"
        return self.failed.get(key, _NOT_SUBMITTED)

    def _add(self, keys: Sequence[str], failed: dict[str, str]) -> None:
        part = len(self._parts)
        self._places |= {key: (part, row) for row, key in enumerate(keys) if key not in failed}
        self.failed |= failed


class CollectedEmbedder:
    """Stands in for an embedder and serves what was collected; asks it only for the rest."""

    def __init__(self, embedder: GeminiEmbedder, vectors: CollectedVectors) -> None:
        self._embedder = embedder
        self._vectors = vectors

    @property
    def dim(self) -> int:
        """The embedder's."""
        return self._embedder.dim

    @property
    def max_tokens(self) -> int:
        """The embedder's."""
        return self._embedder.max_tokens

    @property
    def fingerprint(self) -> str:
        """The embedder's: it is the same model."""
        return self._embedder.fingerprint

    @property
    def usage(self) -> Usage:
        """The embedder's: what was not collected is paid for."""
        return self._embedder.usage

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """The vectors of these texts, from the jobs where they have them.

        Raises:
            TextsRefused: The embedder cannot embed some; it holds the vectors of the others.
            EmbedderUnavailable: Of the kind that says why; likewise.
        """
        keys = [request_key(title, text) for text, title in zip(texts, titles, strict=True)]
        found = {i: self._vectors[key] for i, key in enumerate(keys) if key in self._vectors}
        missing = [i for i in range(len(keys)) if i not in found]
        if missing:
            try:
                fresh = self._embedder.embed_documents(
                    [texts[i] for i in missing], titles=[titles[i] for i in missing]
                )
            except (TextsRefused, EmbedderUnavailable) as exc:
                exc.failed = {missing[i]: reason for i, reason in exc.failed.items()}
                exc.vectors = found | {missing[i]: vector for i, vector in exc.vectors.items()}
                raise
            found.update(zip(missing, fresh, strict=True))
        if not keys:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([found[i] for i in range(len(keys))])

    def embed_query(self, text: str) -> Vectors:
        """The embedder's."""
        return self._embedder.embed_query(text)


class CompleteDocuments:
    """A chunker that refuses a document as long as one of its vectors is missing.

    The indexer then skips the document, and what is stored of an older version stays. So nothing
    is written by halves, and nothing is embedded that nobody asked for.

    Args:
        chunker: Does the work.
        collection: May hold the vectors of some chunks already.
        vectors: Hold those of others.
        embed_missing: Whether a vector that is neither there nor under way may be embedded now.

    Attributes:
        held: Why, by source.
    """

    def __init__(
        self,
        chunker: Callable[[Document], list[Chunk]],
        collection: Collection,
        vectors: CollectedVectors,
        *,
        embed_missing: bool,
    ) -> None:
        self.held: dict[str, str] = {}
        self._chunker = chunker
        self._collection = collection
        self._vectors = vectors
        self._embed_missing = embed_missing

    @property
    def fingerprint(self) -> str:
        """The chunker's: it cuts in the same places."""
        return chunker_fingerprint(self._chunker)

    def __call__(self, document: Document) -> list[Chunk]:
        """Cut a document.

        Raises:
            DocumentError: A vector of it is missing.
        """
        chunks = self._chunker(document)
        absent = {chunk_hash(chunk): chunk for chunk in chunks if self._is_absent(chunk)}
        if absent and self._collection.exists():
            stored = stored_vectors(self._collection, absent)
            absent = {key: chunk for key, chunk in absent.items() if key not in stored}
        if absent:
            chunk = next(iter(absent.values()))
            reason = f"chunk {chunk.ordinal}: {self._vectors.why_missing(self._key(chunk))}"
            self.held[document.source] = reason
            raise DocumentError(reason)
        return chunks

    def _is_absent(self, chunk: Chunk) -> bool:
        key = self._key(chunk)
        if self._embed_missing:
            return key in self._vectors.waiting and key not in self._vectors
        return key not in self._vectors

    def _key(self, chunk: Chunk) -> str:
        return request_key(embedded_title(chunk, self._collection), chunk.text)
