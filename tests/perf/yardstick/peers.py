"""The peers: numpy, faiss, hnswlib, qdrant-client's local mode and LangChain's store over it.

Each class imports its own library, so that one that is not installed is missing alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from perf.yardstick.contender import (
    LIMIT,
    load_lines,
    load_queries,
    load_vectors,
    versions_of,
)

# The numbers that Qdrant has by default, the same for both libraries; and a search wide enough to
# find nine of ten.
M = 16
EF_CONSTRUCT = 100
EF_SEARCH = 128


class NumpyExact:
    """The product with all vectors, and the largest ten of it."""

    def __init__(self, folder: Path) -> None:
        self.versions = versions_of("numpy")
        self._all = self._vectors = load_vectors(folder)
        self._queries = load_queries(folder)

    def build(self, count: int) -> None:
        self._vectors = self._all[:count]

    def search(self, query: int) -> Any:
        scores = self._vectors @ self._queries[query]
        best = np.argpartition(scores, -LIMIT)[-LIMIT:]
        return best[np.argsort(-scores[best])]

    def rows(self, answer: Any) -> Sequence[int]:
        return list(answer)


class FaissFlat:
    """faiss' exact index."""

    def __init__(self, folder: Path) -> None:
        import faiss

        self.versions = versions_of("faiss-cpu")
        self._faiss = faiss
        self._threads = faiss.omp_get_max_threads()
        self._vectors = load_vectors(folder)
        self._queries = load_queries(folder)

    def build(self, count: int) -> None:
        self._faiss.omp_set_num_threads(self._threads)
        self._index = self._empty()
        self._index.add(self._vectors[:count])
        self._faiss.omp_set_num_threads(1)

    def _empty(self) -> Any:
        return self._faiss.IndexFlatIP(self._vectors.shape[1])

    def search(self, query: int) -> Any:
        return self._index.search(self._queries[query : query + 1], LIMIT)

    def rows(self, answer: Any) -> Sequence[int]:
        _, labels = answer
        return list(labels[0])


class FaissHnsw(FaissFlat):
    """faiss' graph over the vectors as they are."""

    def _empty(self) -> Any:
        faiss = self._faiss
        index = faiss.IndexHNSWFlat(self._vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCT
        index.hnsw.efSearch = EF_SEARCH
        return index


class Hnswlib:
    """hnswlib's graph."""

    def __init__(self, folder: Path) -> None:
        import hnswlib

        self.versions = versions_of("hnswlib")
        self._hnswlib = hnswlib
        self._vectors = load_vectors(folder)
        self._queries = load_queries(folder)

    def build(self, count: int) -> None:
        index = self._hnswlib.Index(space="ip", dim=self._vectors.shape[1])
        index.init_index(max_elements=count, ef_construction=EF_CONSTRUCT, M=M)
        index.add_items(self._vectors[:count])
        index.set_ef(EF_SEARCH)
        index.set_num_threads(1)
        self._index = index

    def search(self, query: int) -> Any:
        return self._index.knn_query(self._queries[query : query + 1], k=LIMIT)

    def rows(self, answer: Any) -> Sequence[int]:
        labels, _ = answer
        return list(labels[0])


class LocalMode:
    """qdrant-client without a server: numpy in this process."""

    def __init__(self, folder: Path) -> None:
        import qdrant_client

        self.versions = versions_of("qdrant-client")
        self._library = qdrant_client
        self._vectors = load_vectors(folder)
        self._queries = load_queries(folder)

    def build(self, count: int) -> None:
        models = self._library.models
        self._client = self._library.QdrantClient(":memory:")
        size = self._vectors.shape[1]
        self._client.create_collection(
            "vectors",
            vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE),
        )
        self._client.upload_collection("vectors", self._vectors[:count], ids=range(count))

    def search(self, query: int) -> Any:
        return self._client.query_points(
            "vectors", self._queries[query], limit=LIMIT, with_payload=False
        )

    def rows(self, answer: Any) -> Sequence[int]:
        return [point.id for point in answer.points]


class LangChainStore:
    """LangChain's Qdrant store over the local mode, in memory: passages with given vectors."""

    def __init__(self, folder: Path) -> None:
        import langchain_qdrant
        import qdrant_client

        self.versions = versions_of("langchain-qdrant", "langchain-core", "qdrant-client")
        self._langchain, self._qdrant = langchain_qdrant, qdrant_client
        self._queries = load_queries(folder).tolist()
        chunks = load_lines(folder / "chunks.jsonl")
        self._texts = [chunk.pop("text") for chunk in chunks]
        self._metadata = [{**chunk, "row": row} for row, chunk in enumerate(chunks)]
        self._given = _given_vectors(self._texts, load_vectors(folder).tolist())

    def build(self, count: int) -> None:
        models = self._qdrant.models
        client = self._qdrant.QdrantClient(":memory:")
        size = len(self._queries[0])
        client.create_collection(
            "passages",
            vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE),
        )
        self._store = self._langchain.QdrantVectorStore(
            client=client, collection_name="passages", embedding=self._given
        )
        self._store.add_texts(self._texts[:count], metadatas=self._metadata[:count])

    def search(self, query: int) -> Any:
        return self._store.similarity_search_with_score_by_vector(self._queries[query], k=LIMIT)

    def rows(self, answer: Any) -> Sequence[int]:
        return [document.metadata["row"] for document, _ in answer]


def _given_vectors(texts: Sequence[str], vectors: list[list[float]]) -> Any:
    """An embedder of LangChain's that has all vectors already."""
    from langchain_core.embeddings import Embeddings

    by_text = dict(zip(texts, vectors, strict=True))

    class Given(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            # The store embeds a text of its own, to see how long vectors are.
            return [by_text.get(text, vectors[0]) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            raise NotImplementedError

    return Given()
