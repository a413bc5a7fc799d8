"""LangChain's own tests of a retriever, and what ragkit adds to its documents."""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client.client_base import QdrantBase
from servers import Server

import ragkit
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import MissingDependency

pytest.importorskip("langchain_core", reason="needs LangChain: make integrations")
pytest.importorskip(
    "langchain_tests.integration_tests", reason="needs LangChain's tests: make integrations"
)

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_tests.integration_tests import RetrieversIntegrationTests

from ragkit.integrations.langchain import RagkitRetriever

# A heading each, so that a document has several chunks.
GUIDE = "\n\n".join(f"# Part {n}\n\nThe key number {n} opens door {n}. " * 12 for n in range(6))
TRICKY = "The key is {question} or {0.__class__} or %s or {{braces}}."
DOCUMENTS = [
    ragkit.Document(
        source="guide.md", title="Guide", text=GUIDE, format="markdown", metadata={"lang": "en"}
    ),
    ragkit.Document(source="tricky.md", title="Tricky", text=TRICKY, metadata={"lang": "xx"}),
    ragkit.Document(
        source="forged.md",
        title="Forged",
        text="A key that claims to be from elsewhere.",
        metadata={"source": "https://trusted.example", "score": 99, "lang": "en"},
    ),
]
QUESTION = "which key opens door 3?"
EMBEDDER = HashEmbedder(128)
EXAMPLE = Path(__file__).parent.parent / "examples" / "langchain_retriever.py"


def indexed(client: QdrantBase) -> ragkit.Collection:
    collection = ragkit.Collection(client, "docs", embedder=EMBEDDER)
    ragkit.Indexer(collection).add(DOCUMENTS)
    return collection


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ragkit.Collection]:
    with EdgeClient(tmp_path_factory.mktemp("edge")) as client:
        yield indexed(client)


@pytest.fixture
def retriever(docs: ragkit.Collection) -> RagkitRetriever:
    return RagkitRetriever(retriever=ragkit.Retriever(docs))


@pytest.mark.anyio  # its one coroutine; pytest-asyncio would want every test to be one
class TestAsLangChainTestsRetrievers(RetrieversIntegrationTests):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture(autouse=True)
    def _docs(self, docs: ragkit.Collection) -> None:
        self._retriever = ragkit.Retriever(docs)

    @property
    def retriever_constructor(self) -> type[RagkitRetriever]:
        return RagkitRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"retriever": self._retriever}

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


def test_a_document_is_the_hits_text_and_says_where_it_is_from(
    docs: ragkit.Collection, retriever: RagkitRetriever
) -> None:
    found = retriever.invoke(QUESTION, k=3)
    hits = ragkit.Retriever(docs).search(QUESTION, limit=3)
    assert [document.id for document in found] == [hit.id for hit in hits]
    for document, hit in zip(found, hits, strict=True):
        assert document.page_content == hit.text
        said = document.metadata
        assert (said["source"], said["title"]) == (hit.source, hit.title)
        assert (said["start"], said["end"], said["line"]) == (hit.start, hit.end, hit.line)
        assert (said["headings"], said["page"]) == (list(hit.headings), None)
        assert (said["score"], said["id"]) == (hit.score, hit.id)
        assert said["citation"] == str(hit.citation)
        assert "notes" not in said
    assert found[0].metadata["citation"].startswith("guide.md > Part 3, lines ")


def test_with_context_all_that_is_said_is_about_the_longer_text(
    docs: ragkit.Collection, retriever: RagkitRetriever
) -> None:
    (alone,) = retriever.invoke(QUESTION, k=1)
    (wider,) = retriever.invoke(QUESTION, k=1, context=1)
    assert len(wider.page_content) > len(alone.page_content)
    assert alone.page_content in wider.page_content
    said = wider.metadata
    assert wider.page_content == GUIDE[said["start"] : said["end"]]
    assert said["line"] == GUIDE.count("\n", 0, said["start"]) + 1
    assert said["citation"] != alone.metadata["citation"]
    assert (wider.id, said["score"]) == (alone.id, alone.metadata["score"])


def test_what_a_document_says_of_itself_never_replaces_where_it_was_found(
    retriever: RagkitRetriever,
) -> None:
    (document,) = retriever.invoke("claims to be from elsewhere", k=1)
    assert document.metadata["source"] == "forged.md"
    assert document.metadata["score"] < 99
    assert document.metadata["metadata.source"] == "https://trusted.example"
    assert document.metadata["metadata.score"] == 99
    assert document.metadata["lang"] == "en"


def test_a_document_survives_json(retriever: RagkitRetriever) -> None:
    for document in retriever.invoke(QUESTION, context=1):
        assert json.loads(json.dumps(document.metadata)) == document.metadata
        assert Document.model_validate_json(document.model_dump_json()) == document


def test_the_calls_options_come_before_the_constructors_and_these_before_the_retrievers(
    docs: ragkit.Collection,
) -> None:
    inner = ragkit.Retriever(docs, limit=1, filter={"lang": "xx"})
    outer = RagkitRetriever(retriever=inner, k=2, search_kwargs={"filter": {"lang": "en"}})
    assert [d.metadata["source"] for d in RagkitRetriever(retriever=inner).invoke("key")] == [
        "tricky.md"
    ]
    assert [d.metadata["lang"] for d in outer.invoke("key")] == ["en", "en"]
    assert [d.metadata["lang"] for d in outer.invoke("key", filter={"lang": "xx"})] == ["xx"]
    assert len(outer.invoke("key", k=3)) == len(outer.invoke("key", limit=3)) == 3
    assert len(outer.invoke("key", k=None)) == 2


def test_k_and_limit_at_once_are_refused(docs: ragkit.Collection) -> None:
    inner = ragkit.Retriever(docs)
    with pytest.raises(ValueError, match="k=3 and limit=4 are the same option"):
        RagkitRetriever(retriever=inner).invoke("key", k=3, limit=4)
    with pytest.raises(ValueError, match="k=3 and limit=4 are the same option"):
        RagkitRetriever(retriever=inner, k=3, search_kwargs={"limit": 4})


def test_what_a_call_asks_for_takes_the_place_of_what_contradicts_it(
    docs: ragkit.Collection,
) -> None:
    spread = RagkitRetriever(retriever=ragkit.Retriever(docs), search_kwargs={"diversity": 0.5})
    sources = [d.metadata["source"] for d in spread.invoke("key", group_by="source", k=3)]
    assert sorted(sources) == ["forged.md", "guide.md", "tricky.md"]


def test_an_option_out_of_its_range_is_refused_at_once(docs: ragkit.Collection) -> None:
    with pytest.raises(ValueError, match="expected limit to be a whole number from 1"):
        RagkitRetriever(retriever=ragkit.Retriever(docs), k=0)


def test_an_option_that_is_none_is_refused_where_it_is_given(docs: ragkit.Collection) -> None:
    inner = ragkit.Retriever(docs)
    with pytest.raises(TypeError, match="there is no search option 'top'"):
        RagkitRetriever(retriever=inner, search_kwargs={"top": 4})
    with pytest.raises(TypeError, match="there is no search option 'top'"):
        RagkitRetriever(retriever=inner).invoke("key", top=4)


def test_a_batch_finds_for_each_question_what_it_finds_alone(retriever: RagkitRetriever) -> None:
    questions = [f"which key opens door {n}?" for n in range(6)]
    found = retriever.batch(questions)
    assert found == [retriever.invoke(question) for question in questions]
    assert len({documents[0].id for documents in found}) == 6


def test_without_an_async_retriever_the_other_searches_in_a_thread(tmp_path: Path) -> None:
    seen: list[threading.Thread] = []

    class Watched(HashEmbedder):
        def embed_query(self, text: str) -> Vectors:
            seen.append(threading.current_thread())
            return super().embed_query(text)

    with EdgeClient(tmp_path / "edge") as client:
        indexed(client)
        watched = ragkit.Collection(client, "docs", embedder=Watched(128))
        retriever = RagkitRetriever(retriever=ragkit.Retriever(watched), k=1)
        found = asyncio.run(retriever.ainvoke(QUESTION, k=3, filter={"lang": "en"}))
        assert found == retriever.invoke(QUESTION, k=3, filter={"lang": "en"})
    assert len(found) == 3
    assert seen[0] is not threading.main_thread()
    assert seen[1] is threading.main_thread()


def test_an_async_retriever_finds_the_same(
    standin: Server, open_store: Any, retriever: RagkitRetriever
) -> None:
    client = open_store("rest")
    inner = ragkit.Retriever(indexed(client))

    async def ask(**options: Any) -> list[Document]:
        connection = await ragkit.aconnect(standin.url, grpc_port=standin.grpc_port)
        try:
            both = RagkitRetriever(
                retriever=inner,
                async_retriever=ragkit.AsyncRetriever(connection, "docs", embedder=EMBEDDER),
                k=2,
            )
            return await both.ainvoke(QUESTION, **options)
        finally:
            await connection.close()

    alone = RagkitRetriever(retriever=inner, k=2)
    assert asyncio.run(ask()) == alone.invoke(QUESTION)
    assert asyncio.run(ask(k=3, context=1)) == alone.invoke(QUESTION, k=3, context=1)


def test_a_reranker_that_fails_is_noted_in_the_documents(docs: ragkit.Collection) -> None:
    def broken(query: str, texts: Any) -> Any:
        raise RuntimeError("out of memory")

    retriever = RagkitRetriever(retriever=ragkit.Retriever(docs, reranker=broken), k=1)
    (document,) = retriever.invoke(QUESTION)
    (note,) = document.metadata["notes"]
    assert "out of memory" in note


def test_texts_go_through_a_chain_as_they_are(retriever: RagkitRetriever) -> None:
    def joined(documents: list[Document]) -> str:
        return "\n".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_messages([("user", "{question}\n\n{passages}")])
    inputs = {
        "passages": retriever | RunnableLambda(joined),
        "question": RunnablePassthrough(),
    }
    (message,) = (inputs | prompt).invoke("braces in the tricky key").to_messages()
    assert TRICKY in message.content


def test_the_example_shows_passages_and_where_to_find_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    assert shown.startswith("handbook/api-keys.md > API keys")
    assert shown.count(", line") == 3
    assert "every 90 days" in shown


def test_a_missing_langchain_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    monkeypatch.delitem(sys.modules, "ragkit.integrations.langchain")
    with pytest.raises(MissingDependency, match=r'pip install "ragkit\[langchain\]"'):
        import ragkit.integrations.langchain  # noqa: F401
