"""Retrieval that works: documents into Qdrant, chunked, embedded, quantized and measured.

    client = ragkit.connect(".ragkit")
    docs = ragkit.Collection(client, "notes")
    ragkit.Indexer(docs).sync("~/notes")
    hits = ragkit.Retriever(docs).search("how do I rotate the keys?")

Names load with their first use, so that `import ragkit` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragkit.async_retriever import AsyncRetriever
    from ragkit.budget import Passages
    from ragkit.cache import CachedEmbedder
    from ragkit.chunks import Chunk, Chunker
    from ragkit.citations import Citation
    from ragkit.collection import Collection
    from ragkit.doctor.examination import examine, repair
    from ragkit.doctor.findings import Finding
    from ragkit.documents import Document, Skipped, parse_document, read_document, read_folder
    from ragkit.edge import EdgeClient
    from ragkit.embeddings import Embedder, HashEmbedder
    from ragkit.errors import (
        AuthError,
        CollectionError,
        CollectionMismatch,
        CollectionNotFound,
        DocumentError,
        EmbedderUnavailable,
        EmbeddingError,
        MissingDependency,
        ModelNotFound,
        QuotaExhausted,
        RagkitError,
        RateLimited,
        ServerTooOld,
        StoreCorrupt,
        StoreDenied,
        StoreError,
        StoreFull,
        StoreLocked,
        StoreUnavailable,
        TextsRefused,
    )
    from ragkit.explain import Explanation, Stage
    from ragkit.foreign import ForeignSchema
    from ragkit.foreign_collection import ForeignCollection
    from ragkit.gemini.batch import GeminiBatch
    from ragkit.gemini.embedder import GeminiEmbedder
    from ragkit.hits import Hit, Hits
    from ragkit.indexer import Indexer
    from ragkit.local.cross_encoder import CrossEncoderReranker
    from ragkit.local.minilm import LocalEmbedder
    from ragkit.local.sentence_transformer import SentenceTransformerEmbedder
    from ragkit.moving.copying import copy
    from ragkit.moving.rebuild import rebuild
    from ragkit.optimizer import Indexing
    from ragkit.passages import Passage
    from ragkit.quantization import Quantization
    from ragkit.reports import CollectionStatus, IndexPlan, IndexReport, Progress
    from ragkit.reranking import Reranker
    from ragkit.retriever import Retriever
    from ragkit.search_flow import UnindexedFilter
    from ragkit.search_options import SearchKeywords, SearchOptions
    from ragkit.sparse import Bm25Encoder
    from ragkit.stores import aconnect, connect
    from ragkit.tokens import estimate_tokens
    from ragkit.tuned import OutgrownTuning
    from ragkit.usage import Forecast, Usage

_HOMES = {
    "ragkit.async_retriever": ["AsyncRetriever"],
    "ragkit.budget": ["Passages"],
    "ragkit.cache": ["CachedEmbedder"],
    "ragkit.citations": ["Citation"],
    "ragkit.chunks": ["Chunk", "Chunker"],
    "ragkit.collection": ["Collection"],
    "ragkit.doctor.examination": ["examine", "repair"],
    "ragkit.doctor.findings": ["Finding"],
    "ragkit.documents": ["Document", "Skipped", "parse_document", "read_document", "read_folder"],
    "ragkit.edge": ["EdgeClient"],
    "ragkit.embeddings": ["Embedder", "HashEmbedder"],
    "ragkit.errors": [
        "AuthError",
        "CollectionError",
        "CollectionMismatch",
        "CollectionNotFound",
        "DocumentError",
        "EmbedderUnavailable",
        "EmbeddingError",
        "MissingDependency",
        "ModelNotFound",
        "QuotaExhausted",
        "RagkitError",
        "RateLimited",
        "ServerTooOld",
        "StoreCorrupt",
        "StoreDenied",
        "StoreError",
        "StoreFull",
        "StoreLocked",
        "StoreUnavailable",
        "TextsRefused",
    ],
    "ragkit.explain": ["Explanation", "Stage"],
    "ragkit.foreign": ["ForeignSchema"],
    "ragkit.foreign_collection": ["ForeignCollection"],
    "ragkit.gemini.batch": ["GeminiBatch"],
    "ragkit.gemini.embedder": ["GeminiEmbedder"],
    "ragkit.hits": ["Hit", "Hits"],
    "ragkit.indexer": ["Indexer"],
    "ragkit.local.cross_encoder": ["CrossEncoderReranker"],
    "ragkit.local.minilm": ["LocalEmbedder"],
    "ragkit.local.sentence_transformer": ["SentenceTransformerEmbedder"],
    "ragkit.moving.copying": ["copy"],
    "ragkit.moving.rebuild": ["rebuild"],
    "ragkit.optimizer": ["Indexing"],
    "ragkit.passages": ["Passage"],
    "ragkit.quantization": ["Quantization"],
    "ragkit.reports": ["CollectionStatus", "IndexPlan", "IndexReport", "Progress"],
    "ragkit.reranking": ["Reranker"],
    "ragkit.retriever": ["Retriever"],
    "ragkit.search_flow": ["UnindexedFilter"],
    "ragkit.search_options": ["SearchKeywords", "SearchOptions"],
    "ragkit.sparse": ["Bm25Encoder"],
    "ragkit.stores": ["aconnect", "connect"],
    "ragkit.tokens": ["estimate_tokens"],
    "ragkit.tuned": ["OutgrownTuning"],
    "ragkit.usage": ["Forecast", "Usage"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncRetriever",
    "AuthError",
    "Bm25Encoder",
    "CachedEmbedder",
    "Chunk",
    "Chunker",
    "Citation",
    "Collection",
    "CollectionError",
    "CollectionMismatch",
    "CollectionNotFound",
    "CollectionStatus",
    "CrossEncoderReranker",
    "Document",
    "DocumentError",
    "EdgeClient",
    "Embedder",
    "EmbedderUnavailable",
    "EmbeddingError",
    "Explanation",
    "Finding",
    "Forecast",
    "ForeignCollection",
    "ForeignSchema",
    "GeminiBatch",
    "GeminiEmbedder",
    "HashEmbedder",
    "Hit",
    "Hits",
    "IndexPlan",
    "IndexReport",
    "Indexer",
    "Indexing",
    "LocalEmbedder",
    "MissingDependency",
    "ModelNotFound",
    "OutgrownTuning",
    "Passage",
    "Passages",
    "Progress",
    "Quantization",
    "QuotaExhausted",
    "RagkitError",
    "RateLimited",
    "Reranker",
    "Retriever",
    "SearchKeywords",
    "SearchOptions",
    "SentenceTransformerEmbedder",
    "ServerTooOld",
    "Skipped",
    "Stage",
    "StoreCorrupt",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreUnavailable",
    "TextsRefused",
    "UnindexedFilter",
    "Usage",
    "aconnect",
    "connect",
    "copy",
    "estimate_tokens",
    "examine",
    "parse_document",
    "read_document",
    "read_folder",
    "rebuild",
    "repair",
]


def __getattr__(name: str) -> Any:
    if name == "benchmark":
        return import_module("ragkit.benchmark")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ragkit' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
