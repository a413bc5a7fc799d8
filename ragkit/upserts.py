"""Chunks become points in the store, in requests that a server takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qdrant_client import models

from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.embeddings import Vectors
from ragkit.ledger import Ledger, of_corpus
from ragkit.pipeline import batched_within
from ragkit.prepare import Prepared
from ragkit.schema import BM25, DENSE, lexical_text, match_any, payload, point_id
from ragkit.sparse import Bm25Encoder

MAX_CHUNKS = 1000  # a batch; few enough to flush often, enough to keep an embedder busy
MAX_BATCH_BYTES = 16_000_000  # a request; a server takes 32 MB
BYTES_PER_NUMBER = 20  # of a vector in JSON
_BYTES_PER_CHAR = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk that is to be a point.

    Attributes:
        prepared: Its document.
        key: Its hash.
    """

    prepared: Prepared
    chunk: Chunk
    key: str

    @property
    def is_head(self) -> bool:
        """Whether it is chunk 0, which commits the document."""
        return self.chunk.ordinal == 0


class Upserts:
    """Writes the rows of a corpus.

    Args:
        collection: Where to.
        corpus: Whose rows.
        ledger: What the collection held when the run began.
    """

    def __init__(self, collection: Collection, corpus: str, ledger: Ledger) -> None:
        self._collection = collection
        self._corpus = corpus
        self._ledger = ledger

    def send(
        self, rows: Sequence[Row], vectors: Mapping[str, Vectors], *, stop: threading.Event
    ) -> None:
        """Write rows: bodies first, then chunks 0, then what older versions leave is deleted.

        Args:
            rows: What to write.
            vectors: By the rows' keys.
            stop: Set when the run has ended otherwise: nothing more is sent.
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
            replaced = [
                row.prepared
                for row in part
                if row.is_head and self._ledger.may_hold(row.chunk.source)
            ]
            if replaced:
                operations.append(self._deletion_of_older(replaced))
            expected = {
                str(point.id): row.prepared.document_hash
                for point, row in zip(points, part, strict=True)
            }
            # What is broken may have points of these very hashes that are to be mended.
            known = None if any(map(self._may_be_broken, part)) else expected
            self._collection.points.update(operations, expected=known, stop=stop)

    def _may_be_broken(self, row: Row) -> bool:
        return row.chunk.source in self._ledger.broken or (
            row.prepared.document_hash in self._ledger.stray
        )

    def _parts(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Rows in lists that a server takes in one request."""
        points = self._collection.points
        most = min(MAX_CHUNKS, points.most_points, points.most_values)
        return batched_within(rows, weigh=self._weight, most=most, heaviest=MAX_BATCH_BYTES)

    def _weight(self, row: Row) -> int:
        """About how many bytes a row takes in a request."""
        metadata = row.prepared.document.metadata
        extra = len(json.dumps(dict(metadata), default=str)) if metadata else 0
        dim = self._collection.embedder.dim if self._collection.embedder else 0
        return extra + dim * BYTES_PER_NUMBER + len(row.chunk.text) * _BYTES_PER_CHAR

    def _point(
        self, row: Row, vectors: Mapping[str, Vectors], bm25: Bm25Encoder
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
            *([match_any("document_hash", sorted(known))] if len(known) <= MAX_CHUNKS else []),
            must_not=[match_any("document_hash", [p.document_hash for p in replaced])],
        )
        narrowed = self._collection.points.within(older)
        return models.DeleteOperation(delete=models.FilterSelector(filter=narrowed))
