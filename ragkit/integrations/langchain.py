"""A LangChain retriever over a ragkit collection (extra `langchain`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, Unpack, cast

from ragkit.async_retriever import AsyncRetriever
from ragkit.errors import require
from ragkit.hits import Hits
from ragkit.integrations.records import metadata_of, span_of
from ragkit.retriever import Retriever
from ragkit.search_options import CALL, RETRIEVER, SearchKeywords, settle

require("langchain_core", "langchain")

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import run_in_executor
from pydantic import Field, model_validator

__all__ = ["RagkitRetriever"]


class RagkitRetriever(BaseRetriever):
    """Hits as LangChain documents, best first.

        retriever = RagkitRetriever(retriever=ragkit.Retriever(docs), k=5)
        documents = retriever.invoke("how do I rotate the keys?", filter={"lang": "en"})

    `page_content` is the hit's text, or that of its context with `context=n`. The metadata of a
    document are its `source`, `title`, `corpus`, `citation`, `score`, `id`, `start`, `end`, `line`,
    `page`, `last_page` and `headings`, all of that text, beside those that the indexed document
    has itself; of these, one that bears such a name comes as `metadata.<name>`.

    Attributes:
        retriever: What searches.
        async_retriever: What searches for `ainvoke`; None lets the other do it in a thread.
        k: How many documents at most: LangChain's word for `limit`. None is the retriever's.
        search_kwargs: Options for every search, as `Retriever.search` takes them. A call may
            overrule them: `retriever.invoke("…", k=3, context=1)`.

    Raises:
        TypeError: There is no such option.
        ValueError: An option is out of its range, or `k` and `limit` are both given.
    """

    retriever: Retriever
    async_retriever: AsyncRetriever | None = None
    k: int | None = None
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        self._options(None, {})
        return self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002  (LangChain gives it)
        k: int | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[Document]:
        return _documents(self.retriever.search(query, **self._options(k, options)))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002
        k: int | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[Document]:
        asked = self._options(k, options)
        if self.async_retriever is not None:
            return _documents(await self.async_retriever.search(query, **asked))
        return _documents(await run_in_executor(None, self.retriever.search, query, **asked))

    def _options(self, k: int | None, options: SearchKeywords) -> SearchKeywords:
        """The constructor's options, and those of the call, which overrule them."""
        standing, asked = _with_limit(self.k, self.search_kwargs), _with_limit(k, options)
        settled = settle((RETRIEVER, standing), (CALL, asked))
        said = {name: getattr(settled.options, name) for name in settled.origins}
        return cast(SearchKeywords, said)


def _with_limit(k: int | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    if k is None:
        return options
    if options.get("limit") is not None:
        raise ValueError(f"k={k} and limit={options['limit']} are the same option: give one")
    return {**options, "limit": k}


def _documents(hits: Hits) -> list[Document]:
    return [
        Document(
            id=hit.id, page_content=span_of(hit).text, metadata=metadata_of(hit, notes=hits.notes)
        )
        for hit in hits
    ]
