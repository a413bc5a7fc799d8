"""Queries become hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Unpack

from numpy.typing import ArrayLike

from ragkit.asked import Asking, as_rows
from ragkit.budget import Passages
from ragkit.collection import Collection
from ragkit.embeddings import Vectors, embed_queries, embed_query
from ragkit.errors import CollectionNotFound
from ragkit.explain import Explanation, explained
from ragkit.failures import Failure, kind_of
from ragkit.foreign_collection import ForeignCollection
from ragkit.hits import Hits
from ragkit.points import Points
from ragkit.reranking import Reranker, check_reranker, rerank
from ragkit.search_flow import MOST_VALUES, PASSAGE_DEFAULTS, packed, search
from ragkit.search_options import SearchKeywords
from ragkit.search_request import Searchable
from ragkit.search_steps import Embed, Flow, Group, Holds, Query, Read, Rerank, Step, Values

T = TypeVar("T")


class Retriever:
    """Searches a collection.

    Args:
        collection: What to search; a collection with vectors may also be opened without its
            embedder, and then answers by keywords alone.
        reranker: Puts the best candidates in an order of its own: a callable from a query and
            texts to scores. If it fails, hits keep their first ranking, and `Hits.notes` says so.
        **options: How all its searches are made, see `SearchOptions`; a search may overrule them.

    Raises:
        TypeError: There is no such option, or the reranker is no callable.
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        collection: Collection | ForeignCollection,
        *,
        reranker: Reranker | None = None,
        **options: Unpack[SearchKeywords],
    ) -> None:
        check_reranker(reranker)
        self._collection = collection
        self._reranker = reranker
        self._ask = Asking(options, rerank=reranker is not None)

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self._ask.options.items())
        return f"Retriever({self._collection!r}{given})"

    def search(
        self, query: str, *, vector: ArrayLike | None = None, **options: Unpack[SearchKeywords]
    ) -> Hits:
        """Find the passages that answer a query best.

        Args:
            query: What is looked for, in words.
            vector: The query as embedded already, shape (dim,); None to have it embedded.
            **options: See `SearchOptions`.

        Returns:
            Hits, best first; equal scores in the order of their ids. None when no word of the
            query says anything to BM25 (stop words alone) in sparse mode.

        Raises:
            ValueError: A blank query, one far longer than the embedder reads, or an option out of
                its range.
            CollectionNotFound: There is no such collection.
            CollectionMismatch: The embedder is not the collection's, or the mode needs one; or
                the collection is shared by tenants, and none is named.
            StoreUnavailable: The server went on failing until the deadline.
        """
        asked = self._ask([query], as_rows(vector), options)
        (hits,) = self._run(lambda where: search(asked, where))
        return hits

    def search_many(
        self,
        queries: Sequence[str],
        *,
        vectors: ArrayLike | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[Hits]:
        """Search for many queries: embedded in one call, and sent to Qdrant in one.

        Args:
            queries: What is looked for.
            vectors: The queries as embedded already, shape (len(queries), dim).
            **options: See `SearchOptions`; they hold for all. With `group_by` they are sent one by
                one, since Qdrant takes such searches alone.

        Returns:
            For each query what `search` returns.

        Raises:
            ValueError: As of `search`; one query at fault fails all, before any is paid for.
        """
        asked = self._ask(queries, vectors, options)
        return self._run(lambda where: search(asked, where))

    def passages(
        self,
        query: str,
        *,
        token_budget: int,
        vector: ArrayLike | None = None,
        **options: Unpack[SearchKeywords],
    ) -> Passages:
        """Find as much as a prompt has room for: neighbours joined, and nothing twice.

        Args:
            query: What is looked for, in words.
            token_budget: The most tokens, by `ragkit.tokens.estimate_tokens`, of all texts with
                their citations.
            vector: The query as embedded already, shape (dim,); None to have it embedded.
            **options: See `SearchOptions`. `limit` says how many hits to choose from, 50 unless it
                is said here; `context` widens each of them where there is room.

        Returns:
            Passages, the one with the best hit first.

        Raises:
            ValueError: The budget is too small for any passage; or as of `search`.
        """
        asked = self._ask([query], as_rows(vector), options, PASSAGE_DEFAULTS)
        return self._run(lambda where: packed(asked, where, token_budget=token_budget))

    def explain(
        self, query: str, *, vector: ArrayLike | None = None, **options: Unpack[SearchKeywords]
    ) -> Explanation:
        """Search, and tell how: the options and who set them, the request, and every stage.

        Args:
            query: What is looked for, in words.
            vector: The query as embedded already, shape (dim,); None to have it embedded.
            **options: See `SearchOptions`.

        Returns:
            What was sent and what came back; printed, it is a table of the hits with their place
            in each stage.

        Raises:
            ValueError: As of `search`.
        """
        asked = self._ask([query], as_rows(vector), options)
        return self._run(lambda where: explained(asked, where))

    def _run(self, flow: Callable[[Searchable], Flow[T]]) -> T:
        where, points = self._collection.searchable()
        embedded: dict[Embed, Vectors] = {}
        try:
            return self._perform(flow(where), where, points, embedded)
        except CollectionNotFound:
            # Older versions may have been deleted since it was opened.
            self._collection.open()
            where, points = self._collection.searchable()
            return self._perform(flow(where), where, points, embedded)

    def _perform(
        self, flow: Flow[T], where: Searchable, points: Points, embedded: dict[Embed, Vectors]
    ) -> T:
        """Carry out a flow; what was embedded (and paid for) is kept for a second attempt."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Embed):
                    if step not in embedded:
                        embedded[step] = _embed(step, where)
                    step = flow.send(embedded[step])
                else:
                    step = flow.send(self._answer(step, points))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _answer(self, step: Step, points: Points) -> Any:
        try:
            match step:
                case Query():
                    return points.query(step.requests)
                case Group():
                    return points.query_groups(
                        step.request, group_by=step.group_by, group_size=step.group_size
                    )
                case Read():
                    return points.retrieve(step.ids, fields=step.fields, vectors=step.vectors)
                case Rerank():
                    assert self._reranker is not None  # noqa: S101  (else it is not asked for)
                    return rerank(self._reranker, step.query, step.hits)
                case Holds():
                    return points.any(step.condition)
                case Values():
                    return list(points.facet(step.key, limit=MOST_VALUES))
        except Exception as exc:
            if kind_of(exc) is Failure.NOT_FOUND:
                raise CollectionNotFound(f"collection {self._collection.name!r} is gone") from exc
            raise


def _embed(step: Embed, where: Searchable) -> Vectors:
    assert where.embedder is not None  # noqa: S101  (else it is not asked for)
    if len(step.queries) == 1:
        return embed_query(where.embedder, step.queries[0])[None, :]
    return embed_queries(where.embedder, step.queries)
