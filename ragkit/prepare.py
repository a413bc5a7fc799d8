"""From a file or a document to the chunks that must be written: read, compare, parse, split."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ragkit.chunks import Chunk, chunker_fingerprint
from ragkit.collection import Collection
from ragkit.documents import READER_VERSION, Document, Skipped, parse_document
from ragkit.errors import DocumentError
from ragkit.ledger import Ledger
from ragkit.reading.folders import FoundFile
from ragkit.schema import document_hash, file_hash
from ragkit.tokens import estimate_tokens

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A new or changed document, split and ready to be embedded."""

    document: Document
    document_hash: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """A document that is stored as it stands."""

    source: str


class Preparer:
    """Decides what becomes of each file or document of a corpus, and does the reading."""

    def __init__(self, collection: Collection, corpus: str, ledger: Ledger) -> None:
        embedder = collection.embedder
        self._corpus = corpus
        self._ledger = ledger
        self._chunker = collection.chunker
        self._max_tokens = embedder.max_tokens if embedder else None
        self._settings = (
            READER_VERSION,
            chunker_fingerprint(collection.chunker),
            *([] if collection.tenant is None else [collection.tenant]),
        )

    def file(self, found: FoundFile) -> Prepared | Unchanged | Skipped:
        """Read a file; parse and split it unless it is stored as it stands."""

        def prepare() -> Prepared | Unchanged:
            raw = found.read()
            key = file_hash(raw, corpus=self._corpus, source=found.source, settings=self._settings)
            if self._ledger.committed.get(found.source) == key:
                return Unchanged(source=found.source)
            return self._split(parse_document(raw, source=found.source), key)

        return self._guarded(found.source, prepare)

    def document(self, document: Document) -> Prepared | Unchanged | Skipped:
        """Split a document unless it is stored as it stands."""

        def prepare() -> Prepared | Unchanged:
            key = document_hash(document, corpus=self._corpus, settings=self._settings)
            if self._ledger.committed.get(document.source) == key:
                return Unchanged(source=document.source)
            return self._split(document, key)

        return self._guarded(document.source, prepare)

    def _guarded(
        self, source: str, prepare: Callable[[], Prepared | Unchanged]
    ) -> Prepared | Unchanged | Skipped:
        try:
            return prepare()
        except DocumentError as exc:
            return Skipped(source=source, reason=exc.reason, stale=exc.stale)
        except Exception as exc:  # noqa: BLE001  (converters and chunkers are other people's code)
            _log.info("could not prepare %r", source, exc_info=True)
            return Skipped(source=source, reason=f"{type(exc).__name__}: {exc}"[:300])

    def _split(self, document: Document, key: str) -> Prepared:
        chunks = tuple(self._chunker(document))
        if not chunks:
            raise DocumentError("no text to index", stale=True)
        for ordinal, chunk in enumerate(chunks):
            if (chunk.ordinal, chunk.source) != (ordinal, document.source):
                raise DocumentError(
                    f"expected chunks numbered 0, 1, ... of {document.source!r}, the chunker made "
                    f"number {chunk.ordinal} of {chunk.source!r} where {ordinal} belongs"
                )
            self._check(chunk)
        return Prepared(document=document, document_hash=key, chunks=chunks)

    def _check(self, chunk: Chunk) -> None:
        if not chunk.text.strip():
            raise DocumentError(f"the chunker made a blank chunk (number {chunk.ordinal})")
        tokens = estimate_tokens(chunk.text)
        if self._max_tokens is not None and tokens > self._max_tokens:
            raise DocumentError(
                f"chunk {chunk.ordinal} has about {tokens} tokens, the embedder reads "
                f"{self._max_tokens}: use a chunker with a lower max_tokens"
            )
