"""Collections of vectors that are given, without documents: what is measured is the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.points import Points
from ragkit.schema import point_id

_BATCH = 500
_WORD = models.SparseVector(indices=[1], values=[1.0])


@dataclass(frozen=True)
class Given:
    """Stands for the embedder of vectors that are there already; queries come from a table."""

    dim: int
    table: dict[str, Vectors] | None = None
    max_tokens: int = 2048
    fingerprint: str = "given"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        raise NotImplementedError

    def embed_query(self, text: str) -> Vectors:
        return (self.table or {})[text]


def unit_vectors(count: int, dim: int, *, seed: int = 0) -> Vectors:
    """Unit vectors in clumps, so that neighbours are neither all alike nor all far."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, dim))
    rows = centres[random.integers(40, size=count)] + random.normal(size=(count, dim))
    units: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


def filled(
    client: QdrantBase,
    vectors: Vectors,
    *,
    name: str = "docs",
    quantization: str | models.QuantizationConfig = "binary",
    embedder: Given | None = None,
    tenant: str | None = None,
    **settings: object,
) -> Collection:
    """A collection with these vectors, the ids in no order; optimized where it is embedded."""
    docs = Collection(
        client,
        name,
        embedder=embedder or Given(vectors.shape[1]),
        quantization=quantization,
        tenant=tenant,
        **settings,  # type: ignore[arg-type]
    )
    docs.open() if docs.exists() else docs.create(avg_len=10.0)
    add(docs, vectors)
    if isinstance(client, EdgeClient):
        client.optimize(name)
    docs.look_again()
    return docs


def add(docs: Collection, vectors: Vectors, *, first: int = 0) -> None:
    """Write vectors, numbered from `first` on."""
    points: Points = docs.points
    for start in range(0, len(vectors), _BATCH):
        some = vectors[start : start + _BATCH]
        batch = [
            models.PointStruct(
                id=ids_of(docs, first + start + n),
                # Every passage of ragkit's has words as well.
                vector={"dense": row.tolist(), "bm25": _WORD},
                payload={"source": f"{first + start + n}", "text": "", "tenant": docs.tenant},
            )
            for n, row in enumerate(some)
        ]
        points.client.upsert(docs.version, batch, wait=True)


def ids_of(docs: Collection, row: int) -> str:
    """The id of the vector in this row."""
    return point_id(docs.tenant or "given", f"{row}", 0)
