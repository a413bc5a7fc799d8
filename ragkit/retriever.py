"""Queries become hits."""

from __future__ import annotations

from qdrant_client import models
from qdrant_client.conversions import common_types as types

from ragkit.collection import Collection
from ragkit.embeddings import Vectors, embed_query
from ragkit.errors import CollectionNotFound
from ragkit.failures import Failure, kind_of
from ragkit.search_request import (
    MAX_LIMIT,
    Hit,
    Mode,
    Search,
    Searchable,
    hits,
    query_embedder,
    query_request,
)

__all__ = ["MAX_LIMIT", "Hit", "Mode", "Retriever"]


class Retriever:
    """Searches a collection.

    Args:
        collection: What to search; a collection with vectors may also be opened without its
            embedder, and then answers by keywords alone.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        mode: Mode | None = None,
        filter: models.Filter | None = None,  # noqa: A002  (Qdrant's word)
        oversampling: float | None = None,
        rescore: bool = True,
        exact: bool = False,
        score_threshold: float | None = None,
    ) -> list[Hit]:
        """Find the passages that answer a query best.

        Args:
            query: What is looked for, in words.
            limit: How many hits at most, 1 to 10,000.
            mode: "dense" compares meanings as the embedder sees them, "sparse" words (BM25),
                "hybrid" fuses both rankings (reciprocal rank fusion). Hybrid where the collection
                has vectors and an embedder, else sparse.
            filter: Only passages whose payload matches.
            oversampling: With quantization, how many times `limit` candidates are compared again
                with the original vectors: 3.0 for binary and 2.0 for other kinds unless given.
            rescore: With quantization, whether they are compared again at all.
            exact: Compare with every original vector, past index and quantization.
            score_threshold: Leave out what scores lower, in the scores of the mode.

        Returns:
            Hits, best first; equal scores in the order of their ids. None when no word of the
            query says anything to BM25 (stop words alone) in sparse mode.

        Raises:
            ValueError: A blank query, or an option out of range.
            CollectionNotFound: There is no such collection.
            CollectionMismatch: The embedder is not the collection's, or the mode needs one; or
                the collection is shared by tenants, and none is named.
            StoreUnavailable: The server went on failing until the deadline.
        """
        search = Search(
            query=query,
            limit=limit,
            mode=mode,
            filter=filter,
            oversampling=oversampling,
            rescore=rescore,
            exact=exact,
            score_threshold=score_threshold,
        )
        where = self._searchable()
        embedder = query_embedder(search, where)
        vector = None if embedder is None else embed_query(embedder, query)
        try:
            return self._answer(search, where, vector)
        except CollectionNotFound:
            # Older versions may have been deleted since it was opened.
            self._collection.open()
            return self._answer(search, self._searchable(), vector)

    def _searchable(self) -> Searchable:
        collection = self._collection
        collection.refresh()
        return Searchable(
            name=collection.name,
            version=collection.version,
            manifest=collection.manifest,
            config=collection.config,
            embedder=collection.embedder,
            embedded=collection.embedded,
            tenant=collection.tenant,
        )

    def _answer(self, search: Search, where: Searchable, vector: Vectors | None) -> list[Hit]:
        request = query_request(search, where, vector=vector)
        return [] if request is None else hits(self._send(request))

    def _send(self, request: models.QueryRequest) -> types.QueryResponse:
        try:
            (response,) = self._collection.points.query([request])
        except Exception as exc:
            if kind_of(exc) is Failure.NOT_FOUND:
                raise CollectionNotFound(f"collection {self._collection.name!r} is gone") from exc
            raise
        return response
