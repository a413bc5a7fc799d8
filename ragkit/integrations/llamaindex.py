"""A LlamaIndex retriever over a ragkit collection (extra `llamaindex`)."""

from __future__ import annotations

import asyncio
from typing import Unpack

from ragkit.async_retriever import AsyncRetriever
from ragkit.errors import require
from ragkit.hits import Hit, Hits
from ragkit.integrations.records import OWN_KEYS, metadata_of, span_of
from ragkit.retriever import Retriever
from ragkit.search_options import RETRIEVER, SearchKeywords, settle

require("llama_index.core", "llamaindex")

from llama_index.core.base.base_retriever import (
    BaseRetriever,
)
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

__all__ = ["RagkitRetriever"]

# A model that answers is told what it can cite; one that reranks reads what ragkit embeds.
_SEEN_BY_LLM = {"title", "citation"}
_SEEN_BY_EMBEDDER = {"title"}


class RagkitRetriever(BaseRetriever):
    """Hits as LlamaIndex nodes, best first.

        retriever = RagkitRetriever(ragkit.Retriever(docs), limit=5, context=1)
        nodes = retriever.retrieve("how do I rotate the keys?")

    A node's text is the hit's, or that of its context with `context=n`; its id is the point's. The
    metadata are `source`, `title`, `corpus`, `citation`, `score`, `id`, `start`, `end`, `line`,
    `page`, `last_page` and `headings`, all of that text, beside those that the indexed document
    has itself; of these, one that bears such a name comes as `metadata.<name>`. A language model
    is shown the title, the citation and what the document has itself, a reranker the title alone.

    A query bundle's words alone are searched for: its `embedding`, if it has one, is of another
    model than the collection's, and texts to embed in the query's place (HyDE) are not looked at.

    Args:
        retriever: What searches.
        async_retriever: What searches for `aretrieve`; None lets the other do it in a thread.
        callback_manager: LlamaIndex's.
        options: Options for every search, as `Retriever.search` takes them.

    Raises:
        TypeError: There is no such option.
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        async_retriever: AsyncRetriever | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[SearchKeywords],
    ) -> None:
        settle((RETRIEVER, options))
        super().__init__(callback_manager=callback_manager)
        self._retriever = retriever
        self._async_retriever = async_retriever
        self._options = options

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._retriever.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = query_bundle.query_str
        if self._async_retriever is not None:
            return _nodes(await self._async_retriever.search(query, **self._options))
        return _nodes(await asyncio.to_thread(self._retriever.search, query, **self._options))


def _nodes(hits: Hits) -> list[NodeWithScore]:
    return [NodeWithScore(node=_node(hit, hits.notes), score=hit.score) for hit in hits]


def _node(hit: Hit, notes: tuple[str, ...]) -> TextNode:
    span, metadata = span_of(hit), metadata_of(hit, notes=notes)
    return TextNode(
        id_=hit.id,
        text=span.text,
        start_char_idx=span.start,
        end_char_idx=span.end,
        metadata=metadata,
        excluded_llm_metadata_keys=[key for key in OWN_KEYS if key not in _SEEN_BY_LLM],
        excluded_embed_metadata_keys=[key for key in metadata if key not in _SEEN_BY_EMBEDDER],
    )
