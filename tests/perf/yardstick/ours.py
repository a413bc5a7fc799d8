"""Ragkit: vectors alone through `EdgeClient`, and passages through `Indexer` and `Retriever`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from perf.yardstick.contender import (
    LIMIT,
    Vectors,
    load_lines,
    load_queries,
    load_vectors,
    versions_of,
)
from qdrant_client import models

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.hits import Hit, hit_fields
from ragkit.indexer import Indexer
from ragkit.quantization import default_oversampling
from ragkit.retriever import Retriever
from ragkit.schema import DENSE

_BATCH = 1_000
_VERSIONS = ("ragkit", "qdrant-client", "qdrant-edge-py", "numpy")


class Given:
    """An embedder that has all vectors already."""

    max_tokens = 2048
    fingerprint = "given"

    def __init__(self, dim: int, vectors: dict[str, Vectors]) -> None:
        self.dim = dim
        self._vectors = vectors

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        return np.stack([self._vectors[text] for text in texts])

    def embed_query(self, text: str) -> Vectors:
        raise NotImplementedError


class _Embedded:
    """An embedded database in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.versions = versions_of(*_VERSIONS)
        self._vectors = load_vectors(folder)
        self._queries = load_queries(folder)
        self._path = folder / type(self).__name__
        self._client: EdgeClient | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _fresh_client(self) -> EdgeClient:
        self.close()
        shutil.rmtree(self._path, ignore_errors=True)
        self._client = EdgeClient(self._path)
        return self._client


class RagkitDefault(_Embedded):
    """Vectors as the embedded engine has them by default."""

    quantization = "auto"
    exact = False

    def build(self, count: int) -> None:
        client = self._fresh_client()
        dim = self._vectors.shape[1]
        docs = Collection(client, "docs", embedder=Given(dim, {}), quantization=self.quantization)
        docs.create(avg_len=1.0)
        for first in range(0, count, _BATCH):
            rows = self._vectors[first : min(first + _BATCH, count)]
            points = [
                models.PointStruct.model_construct(id=first + n, vector={DENSE: row}, payload=None)
                for n, row in enumerate(rows)
            ]
            client.upsert(docs.version, points, wait=False)
        docs.optimize()
        config = docs.config.quantization_config
        assert config is not None
        self._collection = docs.version
        self._params = models.SearchParams(
            exact=self.exact,
            quantization=models.QuantizationSearchParams(
                rescore=True, oversampling=default_oversampling(config)
            ),
        )

    def search(self, query: int) -> Any:
        assert self._client is not None
        return self._client.query_points(
            self._collection,
            self._queries[query],
            using=DENSE,
            limit=LIMIT,
            search_params=self._params,
            with_payload=False,
        )

    def rows(self, answer: Any) -> Sequence[int]:
        return [point.id for point in answer.points]


class RagkitBinary(RagkitDefault):
    """One bit a dimension, oversampling 3."""

    quantization = "binary"


class RagkitExact(RagkitDefault):
    """The default's collection, searched past its codes."""

    exact = True


class RagkitPassages(_Embedded):
    """Documents with given vectors, indexed and searched as a user does it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        chunks = load_lines(folder / "chunks.jsonl")
        texts = [chunk["text"] for chunk in chunks]
        self._embedder = Given(self._vectors.shape[1], dict(zip(texts, self._vectors, strict=True)))
        self._documents = [Document(**line) for line in load_lines(folder / "documents.jsonl")]
        self._row = {(c["source"], c["ordinal"]): row for row, c in enumerate(chunks)}
        self._words = [line["text"] for line in load_lines(folder / "questions.jsonl")]

    def build(self, count: int) -> None:
        docs = Collection(self._fresh_client(), "docs", embedder=self._embedder)
        Indexer(docs).add(self._first_documents(count))
        self._collection = docs
        self._retriever = Retriever(docs, mode="dense", limit=LIMIT)

    def _first_documents(self, count: int) -> list[Document]:
        held = {source for source, _ in list(self._row)[:count]}
        return [document for document in self._documents if document.source in held]

    def search(self, query: int) -> Any:
        return self._retriever.search(self._words[query], vector=self._queries[query])

    def rows(self, answer: Any) -> Sequence[int]:
        hits: list[Hit] = answer
        return [self._row[hit.source, hit.ordinal] for hit in hits]


class EnginePassages(RagkitPassages):
    """The engine alone, asked for the same passages with their payload.

    It is asked what is in the database that ragkit has built: its shard, past `EdgeClient`.
    """

    def build(self, count: int) -> None:
        super().build(count)
        assert self._client is not None
        self._shard = self._client._shard(self._collection.version).read(lambda engine: engine)

    def search(self, query: int) -> Any:
        quantization = edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
        nearest: Any = edge.Query.Nearest(self._queries[query].tolist(), DENSE)
        request = edge.QueryRequest(
            LIMIT,
            query=nearest,
            params=edge.SearchParams(quantization=quantization),
            with_payload=hit_fields(None),
        )
        return [(point.id, point.score, point.payload) for point in self._shard.query(request)]

    def rows(self, answer: Any) -> Sequence[int]:
        return [self._row[payload["source"], payload["ordinal"]] for _, _, payload in answer]
