"""Embed prepared documents and write them: batches in, committed documents out."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from qdrant_client import models

from ragkit.bulk import hold, release
from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.documents import Skipped
from ragkit.embeddings import Embedder, Vectors, embed_what_can_be
from ragkit.errors import EmbedderUnavailable, StoreError
from ragkit.failures import Failure, kind_of, reason
from ragkit.ledger import Ledger, of_corpus, stored_vectors, whole_versions
from ragkit.optimizer import Indexing
from ragkit.pipeline import batched, in_background
from ragkit.prepare import Prepared
from ragkit.reports import Progress, ProgressCallback
from ragkit.schema import (
    BM25,
    DENSE,
    chunk_hash,
    fitting_title,
    lexical_text,
    match_any,
    payload,
    point_id,
)
from ragkit.sparse import Bm25Encoder, average_length
from ragkit.window import Window

_MAX_CHUNKS = 1000  # a batch; few enough to flush often, enough to keep an embedder busy
_MAX_BATCH_BYTES = 16_000_000  # a request; a server takes 32 MB
_BYTES_PER_NUMBER = 20  # of a vector in JSON
_BYTES_PER_PAYLOAD = 4_000
_BYTES_PER_CHAR = 3
_LET_GO_S = 5.0  # how long a run that fails waits for the server's optimizer to be let go
_IN_FLIGHT = 4  # requests to a server; the embedded engine does one thing at a time
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
    unavailable: EmbedderUnavailable | None = None


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
        bulk: bool = False,
    ) -> None:
        self.added = self.changed = self.removed = 0  # documents
        self.chunks = self.embedded = self.reused = 0
        self.failed: list[Skipped] = []
        self.committed_hashes: set[str] = set()
        self._collection = collection
        self._corpus = corpus
        self._ledger = ledger
        self._progress = progress
        self._total = total
        self._seen = self._optimized_at = 0
        self._given_up: set[str] = set()  # document hashes
        self._begun: set[tuple[str, str]] = set()  # hash and source, where points may be written
        self._proven = False  # whether the embedder has embedded anything
        self._lock = threading.Lock()
        self._may_reuse = self._is_there = collection.exists()
        self._bulk = bulk and not collection.embedded
        width = 1 if collection.embedded else _IN_FLIGHT
        self._window: Window[tuple[_Batch, list[_Row]]] = Window(width)

    def write(self, documents: Generator[Prepared, None, None]) -> None:
        """Embed and write every document; a bad one lands in `failed` and stops nothing.

        Raises:
            EmbeddingError: Every text of a batch failed: the embedder is at fault, not a text.
            EmbedderUnavailable: The embedder cannot go on; what it had made has been written.
        """
        size = _batch_size(self._collection.embedder)
        with (
            self._held_back(),
            in_background(self._batches(documents, size), ahead=_AHEAD) as batches,
            in_background(self._embedded(batches, size), ahead=_AHEAD) as ready,
        ):
            try:
                self._commit_all(ready)
            except BaseException:
                # Ctrl-C comes here, while a call goes on in its thread: nobody wants it any more.
                getattr(self._collection.embedder, "close", lambda: None)()
                raise
        self._clear_given_up()

    def _commit_all(self, batches: Iterable[_Batch]) -> None:
        """Write batches, several at once to a server, and record them in their order.

        So a document counts as committed when all batches with its chunks are written.
        """
        window = self._window
        try:
            for batch in batches:
                self._begin(batch)
                while window.is_full or (batch.unavailable and window):
                    self._settle()
                if batch.unavailable is not None:
                    raise batch.unavailable
                self._bound_memory()
            while window:
                self._settle()
        finally:
            window.leave()

    def _begin(self, batch: _Batch) -> None:
        own = self._saved_from(batch) if batch.unavailable else batch.rows
        rows = [row for row in own if self._is_wanted(row)]
        if not rows:
            return
        self._begun.update(
            (row.prepared.document_hash, row.prepared.document.source) for row in rows
        )
        self._window.begin((batch, rows), lambda: self._upsert(rows, batch.vectors))

    def _settle(self) -> None:
        """Take the oldest write under way to its end."""
        (batch, rows), error = self._window.settle()
        if error is None:
            self._record(rows, batch.embedded)
        elif _is_refusal(error):
            self._write_apart(rows, batch, error)
        else:
            raise error

    def saw_one(self) -> None:
        """Count an examined file."""
        with self._lock:
            self._seen += 1
            self._notify()

    def _batches(
        self, documents: Iterable[Prepared], size: int
    ) -> Generator[list[_Row], None, None]:
        """Rows in batches of `size`; a document that is stored already is never divided.

        Its points are overwritten in place: that may only begin when all of it can be written.
        """
        batch: list[_Row] = []
        for prepared in documents:
            rows = _rows(prepared)
            if self._may_be_stored(rows[0]):
                if batch and len(batch) + len(rows) > size:
                    yield batch
                    batch = []
                batch += rows
            else:
                for row in rows:
                    batch.append(row)
                    if len(batch) == size:
                        yield batch
                        batch = []
            if len(batch) >= size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _embedded(self, batches: Iterable[list[_Row]], size: int) -> Generator[_Batch, None, None]:
        for rows in batches:
            self._create_if_missing(rows)
            batch = _Batch(rows)
            embedder = self._collection.embedder
            if embedder is not None:
                self._fill(batch, embedder, size)
            yield batch
            if batch.unavailable is not None:
                return

    def _create_if_missing(self, rows: Sequence[_Row]) -> None:
        if self._is_there:
            return
        if not self._collection.exists():
            language = self._collection.language
            texts = (lexical_text(row.chunk) for row in rows)
            self._collection.create(avg_len=average_length(texts, language=language))
            if self._bulk:
                hold(self._collection)
        self._is_there = True

    @contextmanager
    def _held_back(self) -> Iterator[None]:
        """Hold a server's optimizer back during a bulk load, from the creation on."""
        if not self._bulk:
            yield
            return
        if self._may_reuse:
            hold(self._collection)
        try:
            yield
        except BaseException:
            # Not waited for long: the server may be the reason, and the next run does it, too.
            letting_go = threading.Thread(target=self._try_to_let_go, daemon=True)
            letting_go.start()
            letting_go.join(_LET_GO_S)
            raise
        self._let_go()

    def _let_go(self) -> None:
        if self._is_there:
            release(self._collection)

    def _try_to_let_go(self) -> None:
        with suppress(StoreError):
            self._let_go()

    def _fill(self, batch: _Batch, embedder: Embedder, size: int) -> None:
        rows = {row.key: row for row in batch.rows if self._is_wanted(row)}
        if self._may_reuse:
            batch.vectors.update(stored_vectors(self._collection, rows))
        missing = [row for key, row in rows.items() if key not in batch.vectors]
        for part in batched(missing, size):
            self._embed(part, batch, embedder)
            if batch.unavailable is not None:
                return

    def _embed(self, rows: Sequence[_Row], batch: _Batch, embedder: Embedder) -> None:
        outcome = embed_what_can_be(
            embedder,
            [row.chunk.text for row in rows],
            titles=[fitting_title(row.chunk, max_tokens=embedder.max_tokens) for row in rows],
            proven=self._proven,
        )
        self._proven = self._proven or bool(outcome.vectors)
        batch.vectors.update((rows[i].key, vector) for i, vector in outcome.vectors.items())
        batch.embedded += len(outcome.vectors)
        batch.unavailable = outcome.unavailable
        for i, why in outcome.refused.items():
            for row in batch.rows:  # the same text may stand in several documents
                if row.key == rows[i].key:
                    what = f"chunk {row.chunk.ordinal} cannot be embedded: {why}"
                    self._give_up(row.prepared, what)

    def _saved_from(self, batch: _Batch) -> list[_Row]:
        """The rows to keep of a batch in which the embedder stopped.

        Documents that are complete are committed. Of a new one that is not, the chunks that were
        paid for are written without chunk 0, and their vectors are found again by the next run; a
        document that is stored in another version stays as it is.
        """
        lacking = {row.prepared.document_hash for row in batch.rows if row.key not in batch.vectors}
        return [
            row
            for row in batch.rows
            if row.key in batch.vectors
            and (
                row.prepared.document_hash not in lacking
                or not (row.is_head or self._may_be_stored(row))
            )
        ]

    def _bound_memory(self) -> None:
        if self.chunks - self._optimized_at >= _OPTIMIZE_EVERY:
            self._optimized_at = self.chunks
            self._collection.optimize()

    def _write_apart(self, rows: Sequence[_Row], batch: _Batch, error: BaseException) -> None:
        """Write a refused batch document by document and give up those that are refused."""
        documents = {row.prepared.document_hash: row.prepared for row in rows}
        if len(documents) == 1:
            (prepared,) = documents.values()
            self._give_up(prepared, f"refused by the store: {reason(error)}")
            return
        embedded = batch.embedded  # counted once, with the first
        for key in documents:
            own = [row for row in rows if row.prepared.document_hash == key]
            if not self._is_wanted(own[0]):
                continue
            try:
                self._upsert(own, batch.vectors)
            except Exception as exc:
                if not _is_refusal(exc):
                    raise
                self._give_up(own[0].prepared, f"refused by the store: {reason(exc)}")
            else:
                self._record(own, embedded)
                embedded = 0

    def _upsert(self, rows: Sequence[_Row], vectors: dict[str, Vectors]) -> None:
        """Write rows: bodies first, then chunks 0, then what older versions leave is deleted.

        The store keeps the order: a chunk 0 proves that the rest is there.
        """
        bm25 = self._collection.bm25
        for part in self._parts(sorted(rows, key=lambda row: row.is_head)):
            points = [self._point(row, vectors, bm25) for row in part]
            heads = sum(row.is_head for row in part)
            operations: list[models.UpdateOperation] = [
                models.UpsertOperation(upsert=models.PointsList(points=some))
                for some in (points[: len(points) - heads], points[len(points) - heads :])
                if some
            ]
            replaced = [row.prepared for row in part if row.is_head and self._may_be_stored(row)]
            if replaced:
                operations.append(self._deletion_of_older(replaced))
            expected = {
                str(point.id): row.prepared.document_hash
                for point, row in zip(points, part, strict=True)
            }
            stop = self._window.stopped
            self._collection.points.update(operations, expected=expected, stop=stop)

    def _parts(self, rows: Iterable[_Row]) -> Iterator[list[_Row]]:
        """Rows in lists that a server takes in one request."""
        points = self._collection.points
        most = min(_MAX_CHUNKS, points.most_points, points.most_values)
        part: list[_Row] = []
        size = 0
        for row in rows:
            weight = self._weight(row)
            if part and (len(part) == most or size + weight > _MAX_BATCH_BYTES):
                yield part
                part, size = [], 0
            part.append(row)
            size += weight
        if part:
            yield part

    def _weight(self, row: _Row) -> int:
        """About how many bytes a row takes in a request."""
        metadata = row.prepared.document.metadata
        extra = len(json.dumps(dict(metadata), default=str)) if metadata else 0
        dim = self._collection.embedder.dim if self._collection.embedder else 0
        return extra + dim * _BYTES_PER_NUMBER + len(row.chunk.text) * _BYTES_PER_CHAR

    def _point(
        self, row: _Row, vectors: dict[str, Vectors], bm25: Bm25Encoder
    ) -> models.PointStruct:
        chunk, prepared = row.chunk, row.prepared
        named: dict[str, object] = {}
        if self._collection.embedder is not None:
            named[DENSE] = vectors[row.key]
        sparse = bm25.encode_document(lexical_text(chunk))
        if sparse.indices:
            named[BM25] = sparse
        # Built without validation: every part is of our own making and the store checks it again.
        return models.PointStruct.model_construct(
            id=point_id(self._corpus, chunk.source, chunk.ordinal, tenant=self._collection.tenant),
            vector=named,
            payload=payload(
                chunk,
                corpus=self._corpus,
                chunk_count=len(prepared.chunks),
                document_hash=prepared.document_hash,
                chunk_hash=row.key,
                metadata=prepared.document.metadata,
                tenant=self._collection.tenant,
            ),
        )

    def _may_be_stored(self, row: _Row) -> bool:
        return bool(self._ledger.stray) or self._ledger.holds(row.chunk.source)

    def _deletion_of_older(self, replaced: Sequence[Prepared]) -> models.DeleteOperation:
        """Delete what was there of these documents when the run began.

        And nothing else: should this reach the store late, it may hold a newer version.
        """
        sources = [prepared.document.source for prepared in replaced]
        committed = self._ledger.committed
        known = {committed[source] for source in sources if source in committed}
        known |= self._ledger.stray
        older = of_corpus(
            self._corpus,
            match_any("source", sources),
            *([match_any("document_hash", sorted(known))] if len(known) <= _MAX_CHUNKS else []),
            must_not=[match_any("document_hash", [p.document_hash for p in replaced])],
        )
        narrowed = self._collection.points.within(older)
        return models.DeleteOperation(delete=models.FilterSelector(filter=narrowed))

    def _record(self, written: Sequence[_Row], embedded: int) -> None:
        # Of a document that was given up meanwhile nothing stays.
        rows = [row for row in written if self._is_wanted(row)]
        with self._lock:
            self.chunks += len(rows)
            self.embedded += embedded
            if self._collection.embedder is not None:
                self.reused += max(0, len(rows) - embedded)
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
        """Delete what was written of documents before they failed.

        A version that is still whole stays; one that has lost points to the newer version, which
        has the same ids, goes with it.
        """
        begun = {source: key for key, source in sorted(self._begun) if key in self._given_up}
        if not begun:
            return
        for sources in batched(begun, self._collection.points.most_values):
            whole = whole_versions(self._collection, self._corpus, sources)
            lost = [source for source in sources if source not in whole]
            failed = [begun[source] for source in whole if whole[source] != begun[source]]
            if lost:
                self._delete(match_any("source", lost))
            if failed:
                self._delete(match_any("document_hash", failed))
            self.removed += sum(self._ledger.holds(source) for source in lost)

    def _delete(self, condition: models.Condition) -> None:
        self._collection.points.delete(of_corpus(self._corpus, condition))

    def show(self, indexing: Indexing) -> None:
        """Report how far a server has come with indexing."""
        with self._lock:
            self._notify(indexing)

    def _notify(self, indexing: Indexing | None = None) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    seen=self._seen,
                    total=self._total,
                    committed=len(self.committed_hashes),
                    chunks=self.chunks,
                    indexing=indexing,
                )
            )


def _rows(prepared: Prepared) -> list[_Row]:
    """The chunks of a document, chunk 0 last."""
    return [
        _Row(prepared, chunk, chunk_hash(chunk))
        for chunk in (*prepared.chunks[1:], prepared.chunks[0])
    ]


def _batch_size(embedder: Embedder | None) -> int:
    dim = embedder.dim if embedder else 0
    return min(_MAX_CHUNKS, _MAX_BATCH_BYTES // (dim * _BYTES_PER_NUMBER + _BYTES_PER_PAYLOAD))


def _is_refusal(error: BaseException) -> bool:
    """Whether some point of the request is at fault: the store's word, or the message's limits."""
    return kind_of(error) is Failure.REFUSED or isinstance(error, ValueError)
