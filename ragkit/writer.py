"""Embed prepared documents and write them: batches in, committed documents out."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from qdrant_client import models

from ragkit.bulk import hold, release
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
    chunk_hash,
    fitting_title,
    lexical_text,
    match_any,
)
from ragkit.sparse import average_length
from ragkit.upserts import BYTES_PER_NUMBER, MAX_BATCH_BYTES, MAX_CHUNKS, Row, Upserts
from ragkit.window import Window

_BYTES_PER_PAYLOAD = 4_000
_LET_GO_S = 5.0  # how long a run that fails waits for the server's optimizer to be let go
_IN_FLIGHT = 4  # requests to a server; the embedded engine does one thing at a time
_AHEAD = 2  # batches that may wait between two stages
# The embedded engine holds in memory what is not indexed yet, some 4 KB a chunk.
_OPTIMIZE_EVERY = 20_000  # chunks


@dataclass(slots=True)
class _Batch:
    rows: list[Row]
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
        self._upserts = Upserts(collection, corpus, ledger)
        width = 1 if collection.embedded else _IN_FLIGHT
        self._window: Window[tuple[_Batch, list[Row]]] = Window(width)

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
            for batch in self._or_drained(batches):
                self._begin(batch)
                while window.is_full or (batch.unavailable and window):
                    self._settle()
                if batch.unavailable is not None:
                    raise batch.unavailable
                self._bound_memory()
            self._drain()
        finally:
            window.leave()

    def _or_drained(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """The batches; does their making fail, then after those under way are written.

        For they were embedded, and may have been paid for.
        """
        try:
            yield from batches
        except Exception:
            self._drain()
            raise

    def _drain(self) -> None:
        while self._window:
            self._settle()

    def _begin(self, batch: _Batch) -> None:
        own = self._saved_from(batch) if batch.unavailable else batch.rows
        rows = [row for row in own if self._is_wanted(row)]
        if not rows:
            return
        self._begun.update(
            (row.prepared.document_hash, row.prepared.document.source) for row in rows
        )
        self._window.begin((batch, rows), lambda: self._send(rows, batch))

    def _send(self, rows: Sequence[Row], batch: _Batch) -> None:
        self._upserts.send(rows, batch.vectors, stop=self._window.stopped)

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
    ) -> Generator[list[Row], None, None]:
        """Rows in batches of `size`; a document that is stored already is never divided.

        Its points are overwritten in place: that may only begin when all of it can be written.
        """
        batch: list[Row] = []
        for prepared in documents:
            rows = _rows(prepared)
            if self._ledger.may_hold(rows[0].chunk.source):
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

    def _embedded(self, batches: Iterable[list[Row]], size: int) -> Generator[_Batch, None, None]:
        for rows in batches:
            self._create_if_missing(rows)
            batch = _Batch(rows)
            embedder = self._collection.embedder
            if embedder is not None:
                self._fill(batch, embedder, size)
            yield batch
            if batch.unavailable is not None:
                return

    def _create_if_missing(self, rows: Sequence[Row]) -> None:
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

    def _embed(self, rows: Sequence[Row], batch: _Batch, embedder: Embedder) -> None:
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

    def _saved_from(self, batch: _Batch) -> list[Row]:
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
                or not (row.is_head or self._ledger.may_hold(row.chunk.source))
            )
        ]

    def _bound_memory(self) -> None:
        if self.chunks - self._optimized_at >= _OPTIMIZE_EVERY:
            self._optimized_at = self.chunks
            self._collection.optimize()

    def _write_apart(self, rows: Sequence[Row], batch: _Batch, error: BaseException) -> None:
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
                self._send(own, batch)
            except Exception as exc:
                if not _is_refusal(exc):
                    raise
                self._give_up(own[0].prepared, f"refused by the store: {reason(exc)}")
            else:
                self._record(own, embedded)
                embedded = 0

    def _record(self, written: Sequence[Row], embedded: int) -> None:
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

    def _is_wanted(self, row: Row) -> bool:
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


def _rows(prepared: Prepared) -> list[Row]:
    """The chunks of a document, chunk 0 last."""
    return [
        Row(prepared, chunk, chunk_hash(chunk))
        for chunk in (*prepared.chunks[1:], prepared.chunks[0])
    ]


def _batch_size(embedder: Embedder | None) -> int:
    dim = embedder.dim if embedder else 0
    return min(MAX_CHUNKS, MAX_BATCH_BYTES // (dim * BYTES_PER_NUMBER + _BYTES_PER_PAYLOAD))


def _is_refusal(error: BaseException) -> bool:
    """Whether some point of the request is at fault: the store's word, or the message's limits."""
    return kind_of(error) is Failure.REFUSED or isinstance(error, ValueError)
