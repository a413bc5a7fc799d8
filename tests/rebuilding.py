"""What the tests of rebuilding and copying share: documents, embedders, and all that is stored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from qdrant_client.client_base import QdrantBase
from servers import Server

import ragkit
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.indexer import Indexer
from ragkit.moving.mirror import Filling, FillingCallback
from ragkit.points import Points

DOCUMENTS = 14
PAGE = 7  # points; the documents have some 35 chunks
_WORDS = [f"word{n}" for n in range(300)]


def documents(number: int = DOCUMENTS, *, seed: int = 3) -> list[Document]:
    """Documents of some chunks each, with headings and metadata."""
    rng = random.Random(seed)
    return [
        Document(
            source=f"{n}.md",
            title=f"Title {n}",
            format="markdown",
            text="\n\n".join(
                f"# Part {part}\n\n{' '.join(rng.choices(_WORDS, k=120))}."
                for part in range(rng.randint(1, 4))
            ),
            metadata={"year": 2000 + n, "tags": ["a", "b"]},
        )
        for n in range(number)
    ]


def indexed(client: QdrantBase, name: str = "docs", **options: Any) -> Collection:
    """A collection of `documents()`, embedded by hashes unless another embedder is given."""
    settings = {"embedder": HashEmbedder(64), "quantization": "none", **options}
    docs = Collection(client, name, **settings)
    Indexer(docs).add(documents())
    return docs


def stored(client: QdrantBase, name: str = "docs") -> dict[str, Any]:
    """Everything that a collection holds, by point id."""
    has_dense = bool(client.get_collection(name).config.params.vectors)
    names = ["dense", "bm25"] if has_dense else ["bm25"]
    held: dict[str, Any] = {}
    for record in Points(client, name).scroll(fields=True, vectors=names):
        assert isinstance(record.vector, dict)
        vectors = {each: _plain(vector) for each, vector in record.vector.items()}
        held[str(record.id)] = (record.payload, vectors)
    return held


def _plain(vector: Any) -> Any:
    if hasattr(vector, "indices"):
        pairs = zip(vector.indices, vector.values, strict=True)
        return {index: round(value, 5) for index, value in pairs}
    return np.round(np.asarray(vector), 5).tolist()


class Counting:
    """An embedder that counts what it embeds, and fails as told.

    Attributes:
        texts: All texts embedded, in order.
        before: Called with each batch's texts before they are embedded.
    """

    def __init__(
        self, dim: int = 32, *, before: Callable[[Sequence[str]], None] = lambda _: None
    ) -> None:
        self._inner = HashEmbedder(dim)
        self.texts: list[str] = []
        self.before = before

    dim = property(lambda self: self._inner.dim)
    max_tokens = property(lambda self: self._inner.max_tokens)
    fingerprint = property(lambda self: self._inner.fingerprint)

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        self.before(texts)
        self.texts += texts
        return self._inner.embed_documents(texts, titles=titles)

    def embed_query(self, text: str) -> Vectors:
        return self._inner.embed_query(text)


class Matryoshka(Counting):
    """Has the fingerprint of a Gemini model, whose narrow vectors are wide ones cut short."""

    def __init__(self, dim: int) -> None:
        super().__init__(256)
        self._dim = dim

    dim = property(lambda self: self._dim)
    fingerprint = property(
        lambda self: f"gemini-embedding-001 dim={self._dim} task=retrieval form=fields unit-norm"
    )

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        wide = super().embed_documents(texts, titles=titles)[:, : self._dim]
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


class Stopped(Exception):
    """The process might as well have been killed here."""


def stopping(after: int) -> FillingCallback:
    """Progress that ends the run after so many calls."""
    left = after

    def stop(_: Filling) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped

    return stop


@contextmanager
def opened(server: Server, *, prefer_grpc: bool) -> Iterator[QdrantBase]:
    """A client of a server, of the protocol asked for."""
    client = ragkit.connect(server.url, grpc_port=server.grpc_port, prefer_grpc=prefer_grpc)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a collection of a test has several."""
    monkeypatch.setattr("ragkit.moving.mirror._MOST", PAGE)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in's optimizer is soon done."""
    monkeypatch.setattr("ragkit.optimizer._POLL_S", 0.005)
