"""The shape of a ragkit collection: names of vectors, payload fields, point ids and hashes."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from ragkit.chunks import Chunk
from ragkit.documents import Document
from ragkit.tenancy import TENANT
from ragkit.tokens import estimate_tokens

DENSE = "dense"
BM25 = "bm25"
PAYLOAD_INDEXES: Mapping[str, models.PayloadSchemaType] = {
    "source": models.PayloadSchemaType.KEYWORD,
    "corpus": models.PayloadSchemaType.KEYWORD,
    "document_hash": models.PayloadSchemaType.KEYWORD,
    "chunk_hash": models.PayloadSchemaType.KEYWORD,
    "ordinal": models.PayloadSchemaType.INTEGER,
}

_NAMESPACE = uuid.UUID("5b1f6a3e-3c0c-5d5e-9a54-6f2a1c8a7b10")
_DIGEST_BYTES = 20  # not 16: Qdrant reads a keyword of 32 hexadecimal digits as a UUID


def point_id(corpus: str, source: str, ordinal: int, *, tenant: str | None = None) -> str:
    """The id of a chunk's point: the same wherever and whenever it is indexed."""
    # JSON keeps ("a", "b/c") and ("a/b", "c") apart.
    owner = [] if tenant is None else [tenant]
    return str(uuid.uuid5(_NAMESPACE, json.dumps([corpus, source, ordinal, *owner])))


def file_hash(raw: bytes, *, corpus: str, source: str, settings: Sequence[object]) -> str:
    """The document hash of a file, known without parsing it.

    Args:
        raw: The file's bytes.
        corpus: The corpus it belongs to.
        source: Its name there. Corpus and source are covered, so a hash belongs to one document.
        settings: What else decides the stored points: the reader's version, the chunker's
            fingerprint, the tenant. Not the embedder's: a collection has one.
    """
    content = hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).hexdigest()
    return _digest("file", corpus, source, *settings, content)


def document_hash(document: Document, *, corpus: str, settings: Sequence[object]) -> str:
    """The document hash of a document that came as an object; see `file_hash`."""
    metadata = json.dumps(dict(document.metadata), sort_keys=True)
    structure = (document.format, document.language, document.first_line, *document.pages)
    content = (document.title, metadata, *structure, document.text)
    return _digest("document", corpus, document.source, *settings, *content)


def chunk_hash(chunk: Chunk) -> str:
    """What is embedded of a chunk: equal hashes mean equal vectors within a collection."""
    return _digest("chunk", embedding_title(chunk), chunk.text)


def embedding_title(chunk: Chunk) -> str:
    """The title a chunk is embedded with: the document's, then the headings above the chunk."""
    headings = [heading for heading in chunk.headings if heading != chunk.title]
    return " > ".join([chunk.title, *headings])


def fitting_title(chunk: Chunk, *, max_tokens: int) -> str:
    """The title to embed a chunk with, cut to what an embedder reads beside the text."""
    title = embedding_title(chunk)
    room = max_tokens - estimate_tokens(chunk.text)
    while title and estimate_tokens(title) > room:
        title = title[: len(title) * 3 // 4]
    return title


def lexical_text(chunk: Chunk) -> str:
    """What BM25 sees of a chunk: its title and headings are words to be found by, too."""
    return f"{embedding_title(chunk)}\n{chunk.text}"


def payload(
    chunk: Chunk,
    *,
    corpus: str,
    chunk_count: int,
    document_hash: str,
    chunk_hash: str,
    metadata: Mapping[str, Any],
    tenant: str | None = None,
) -> dict[str, Any]:
    """The payload of a chunk's point."""
    owner = {} if tenant is None else {TENANT: tenant}
    pages = {} if chunk.page is None else {"page": chunk.page, "last_page": chunk.last_page}
    return {
        **owner,
        "text": chunk.text,
        "title": chunk.title,
        "source": chunk.source,
        "ordinal": chunk.ordinal,
        "chunk_count": chunk_count,
        "start": chunk.start,
        "end": chunk.end,
        "line": chunk.line,
        **pages,
        "headings": list(chunk.headings),
        "document_hash": document_hash,
        "chunk_hash": chunk_hash,
        "corpus": corpus,
        "metadata": dict(metadata),
    }


def match(field: str, value: str | int) -> models.FieldCondition:
    """The condition that a payload field has this value."""
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def match_any(field: str, values: Sequence[str]) -> models.FieldCondition:
    """The condition that a payload field has one of these values."""
    return models.FieldCondition(key=field, match=models.MatchAny(any=list(values)))


def _digest(*parts: object) -> str:
    encoded = json.dumps([str(part) for part in parts])
    return hashlib.blake2b(encoded.encode(), digest_size=_DIGEST_BYTES).hexdigest()
