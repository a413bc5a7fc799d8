"""Embed prepared documents and write them: batches in, committed documents out."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.documents import Skipped
from ragkit.embeddings import Embedder, Vectors, embed_documents
from ragkit.errors import EmbeddingError
from ragkit.ledger import Ledger, of_corpus, stored_vectors
from ragkit.pipeline import batched, in_background
from ragkit.prepare import Prepared
from ragkit.reports import Progress, ProgressCallback
from ragkit.schema import (
    BM25,
    DENSE,
    chunk_hash,
    embedding_title,
    lexical_text,
    match_any,
    payload,
    point_id,
)
from ragkit.sparse import Bm25Encoder, average_length
from ragkit.tokens import estimate_tokens

_MAX_CHUNKS = 1000  # a batch; few enough to flush often, enough to keep an embedder busy
_MAX_BATCH_BYTES = 16_000_000  # a request; a server takes 32 MB
_BYTES_PER_NUMBER = 12  # of a vector in JSON
_BYTES_PER_PAYLOAD = 4_000
_AHEAD = 2  # batches that may wait between two stages
# The embedded engine holds in memory what is not indexed yet, some 4 KB a chunk.
_OPTIMIZE_EVERY = 20_000  # chunks


@dataclass(frozen=True, slots=True)
class _Row:
    prepared: Prepared
    chunk: Chunk
    key: str  # the chunk's hash

    @property
    def is_head(self) -> bool:
        return self.chunk.ordinal == 0


@dataclass(slots=True)
class _Batch:
    rows: list[_Row]
    vectors: dict[str, Vectors] = field(default_factory=dict)
    embedded: int = 0


class Writer:
    """The bounded pipeline of a run: reading and splitting, embedding, and upserting at once.

    Attributes:
        failed: Documents that were given up, with the reason.
        committed_hashes: Document hashes of what was committed in this run.
    """

    def __init__(
        self,
        collection: Collection,
        corpus: str,
        ledger: Ledger,
        *,
        progress: ProgressCallback | None,
        total: int | None,
    ) -> None:
        self.added = self.changed = self.chunks = self.embedded = self.reused = 0
        self.failed: list[Skipped] = []
        self.committed_hashes: set[str] = set()
        self._collection = collection
        self._corpus = corpus
        self._ledger = ledger
        self._progress = progress
        self._total = total
        self._seen = self._optimized_at = 0
        self._given_up: set[str] = set()  # document hashes
        self._begun: set[str] = set()  # document hashes of which points may be written
        self._lock = threading.Lock()
        self._may_reuse = collection.exists()

    def write(self, documents: Generator[Prepared, None, None]) -> None:
        """Embed and write every document; a bad one lands in `failed` and stops nothing.

        Raises:
            EmbeddingError: Every text of a batch failed: the embedder is at fault, not a text.
        """
        size = _batch_size(self._collection.embedder)
        with (
            in_background(batched(_rows(documents), size), ahead=_AHEAD) as batches,
            in_background(self._embedded(batches), ahead=_AHEAD) as ready,
        ):
            for batch in ready:
                self._commit(batch)
                self._bound_memory()
        self._clear_given_up()

    def saw_one(self) -> None:
        """Count an examined file."""
        with self._lock:
            self._seen += 1
            self._notify()

    def _embedded(self, batches: Iterable[list[_Row]]) -> Generator[_Batch, None, None]:
        for rows in batches:
            self._create_if_missing(rows)
            batch = _Batch(rows)
            embedder = self._collection.embedder
            if embedder is not None:
                self._fill(batch, embedder)
            yield batch

    def _create_if_missing(self, rows: Sequence[_Row]) -> None:
        if not self._may_reuse and not self._collection.exists():
            language = self._collection.language
            texts = (lexical_text(row.chunk) for row in rows)
            self._collection.create(avg_len=average_length(texts, language=language))

    def _fill(self, batch: _Batch, embedder: Embedder) -> None:
        rows = {row.key: row for row in batch.rows if self._is_wanted(row)}
        if self._may_reuse:
            batch.vectors.update(stored_vectors(self._collection, rows))
        missing = [row for key, row in rows.items() if key not in batch.vectors]
        errors = self._embed(missing, batch, embedder)
        if errors and len(errors) == len(missing) > 1:
            raise errors[0][1]
        for row, error in errors:
            self._give_up(row.prepared, f"chunk {row.chunk.ordinal} cannot be embedded: {error}")

    def _embed(
        self, rows: Sequence[_Row], batch: _Batch, embedder: Embedder
    ) -> list[tuple[_Row, EmbeddingError]]:
        """Embed into the batch, halving on an error until the texts at fault stand alone."""
        if not rows:
            return []
        texts = [row.chunk.text for row in rows]
        titles = [_title(row.chunk, embedder.max_tokens) for row in rows]
        try:
            vectors = embed_documents(embedder, texts, titles=titles)
        except EmbeddingError as exc:
            if len(rows) == 1:
                return [(rows[0], exc)]
            middle = len(rows) // 2
            left = self._embed(rows[:middle], batch, embedder)
            return left + self._embed(rows[middle:], batch, embedder)
        batch.vectors.update((row.key, v) for row, v in zip(rows, vectors, strict=True))
        batch.embedded += len(rows)
        return []

    def _commit(self, batch: _Batch) -> None:
        rows = [row for row in batch.rows if self._is_wanted(row)]
        if not rows:
            return
        try:
            self._upsert(rows, batch.vectors)
        except UnexpectedResponse as exc:
            if exc.status_code != HTTPStatus.BAD_REQUEST:
                raise
            self._commit_apart(rows, batch, exc)
            return
        self._record(rows, batch)

    def _bound_memory(self) -> None:
        if self.chunks - self._optimized_at >= _OPTIMIZE_EVERY:
            self._optimized_at = self.chunks
            self._collection.optimize()

    def _commit_apart(self, rows: Sequence[_Row], batch: _Batch, error: UnexpectedResponse) -> None:
        """Write a refused batch document by document and give up the one that is refused."""
        documents = {row.prepared.document_hash: row.prepared for row in rows}
        if len(documents) == 1:
            (prepared,) = documents.values()
            self._give_up(prepared, f"refused by the store: {_reason(error)}")
            return
        for key in documents:
            own = [row for row in rows if row.prepared.document_hash == key]
            # What was embedded is counted once, with the first.
            self._commit(_Batch(own, batch.vectors, batch.embedded))
            batch.embedded = 0

    def _upsert(self, rows: Sequence[_Row], vectors: dict[str, Vectors]) -> None:
        bm25 = self._collection.bm25
        points = [(row, self._point(row, vectors, bm25)) for row in rows]
        bodies = [point for row, point in points if not row.is_head]
        heads = [point for row, point in points if row.is_head]
        self._begun.update(row.prepared.document_hash for row in rows)
        # In this order, which the store keeps: a chunk 0 proves that the rest is there.
        operations: list[models.UpdateOperation] = [
            models.UpsertOperation(upsert=models.PointsList(points=part))
            for part in (bodies, heads)
            if part
        ]
        replaced = [row.prepared for row in rows if row.is_head and self._may_be_stored(row)]
        if replaced:
            operations.append(self._deletion_of_older(replaced))
        self._collection.client.batch_update_points(
            self._collection.name, update_operations=operations, wait=True
        )

    def _point(
        self, row: _Row, vectors: dict[str, Vectors], bm25: Bm25Encoder
    ) -> models.PointStruct:
        chunk, prepared = row.chunk, row.prepared
        named: dict[str, object] = {}
        if self._collection.embedder is not None:
            named[DENSE] = vectors[row.key].tolist()
        sparse = bm25.encode_document(lexical_text(chunk))
        if sparse.indices:
            named[BM25] = sparse
        # Built without validation: every part is of our own making and the store checks it again.
        return models.PointStruct.model_construct(
            id=point_id(self._corpus, chunk.source, chunk.ordinal),
            vector=named,
            payload=payload(
                chunk,
                corpus=self._corpus,
                chunk_count=len(prepared.chunks),
                document_hash=prepared.document_hash,
                chunk_hash=row.key,
                metadata=prepared.document.metadata,
            ),
        )

    def _may_be_stored(self, row: _Row) -> bool:
        return bool(self._ledger.stray) or self._ledger.holds(row.chunk.source)

    def _deletion_of_older(self, replaced: Sequence[Prepared]) -> models.DeleteOperation:
        older = of_corpus(
            self._corpus,
            match_any("source", [prepared.document.source for prepared in replaced]),
            must_not=[match_any("document_hash", [p.document_hash for p in replaced])],
        )
        return models.DeleteOperation(delete=models.FilterSelector(filter=older))

    def _record(self, rows: Sequence[_Row], batch: _Batch) -> None:
        with self._lock:
            self.chunks += len(rows)
            self.embedded += batch.embedded
            if self._collection.embedder is not None:
                self.reused += max(0, len(rows) - batch.embedded)
            for row in rows:
                if row.is_head:
                    self.committed_hashes.add(row.prepared.document_hash)
                    if self._ledger.holds(row.chunk.source):
                        self.changed += 1
                    else:
                        self.added += 1
            self._notify()

    def _is_wanted(self, row: _Row) -> bool:
        return row.prepared.document_hash not in self._given_up

    def _give_up(self, prepared: Prepared, reason: str) -> None:
        with self._lock:
            if prepared.document_hash not in self._given_up:
                self._given_up.add(prepared.document_hash)
                self.failed.append(Skipped(source=prepared.document.source, reason=reason))

    def _clear_given_up(self) -> None:
        """Delete the points of documents of which a part was written before they failed."""
        begun = sorted(self._given_up & self._begun)
        if begun and self._collection.exists():
            partial = of_corpus(self._corpus, match_any("document_hash", begun))
            self._collection.client.delete(
                self._collection.name, points_selector=models.FilterSelector(filter=partial)
            )

    def _notify(self) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    seen=self._seen,
                    total=self._total,
                    committed=len(self.committed_hashes),
                    chunks=self.chunks,
                )
            )


def _rows(documents: Generator[Prepared, None, None]) -> Generator[_Row, None, None]:
    """The chunks of each document, chunk 0 last."""
    for prepared in documents:
        for chunk in (*prepared.chunks[1:], prepared.chunks[0]):
            yield _Row(prepared, chunk, chunk_hash(chunk))


def _title(chunk: Chunk, max_tokens: int) -> str:
    """The title to embed a chunk with, cut to what the embedder reads beside the text."""
    title = embedding_title(chunk)
    room = max_tokens - estimate_tokens(chunk.text)
    while title and estimate_tokens(title) > room:
        title = title[: len(title) * 3 // 4]
    return title


def _batch_size(embedder: Embedder | None) -> int:
    dim = embedder.dim if embedder else 0
    return min(_MAX_CHUNKS, _MAX_BATCH_BYTES // (dim * _BYTES_PER_NUMBER + _BYTES_PER_PAYLOAD))


def _reason(error: UnexpectedResponse) -> str:
    try:
        return str(error.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return str(error)
