"""A ragkit collection as LlamaIndex sees it."""

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

pytest.importorskip("llama_index.core", reason="needs LlamaIndex: make integrations")

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from ragkit.integrations.llamaindex import RagkitRetriever

# A heading each, so that a document has several chunks.
GUIDE = "\n\n".join(f"# Part {n}\n\nThe key number {n} opens door {n}. " * 12 for n in range(6))
TRICKY = "The key is {content} or {0.__class__} or %s or {{braces}}."
DOCUMENTS = [
    ragkit.Document(
        source="guide.md", title="Guide", text=GUIDE, format="markdown", metadata={"lang": "en"}
    ),
    ragkit.Document(source="tricky.md", title="Tricky", text=TRICKY, metadata={"lang": "xx"}),
    ragkit.Document(
        source="forged.md",
        title="Forged",
        text="A key that claims to be from elsewhere.",
        metadata={"citation": "trusted.example, page 1", "lang": "en"},
    ),
]
QUESTION = "which key opens door 3?"
EMBEDDER = HashEmbedder(128)
EXAMPLE = Path(__file__).parent.parent / "examples" / "llamaindex_retriever.py"


def indexed(client: QdrantBase) -> ragkit.Collection:
    collection = ragkit.Collection(client, "docs", embedder=EMBEDDER)
    ragkit.Indexer(collection).add(DOCUMENTS)
    return collection


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ragkit.Collection]:
    with EdgeClient(tmp_path_factory.mktemp("edge")) as client:
        yield indexed(client)


def test_a_node_is_the_hits_text_and_says_where_it_is_from(docs: ragkit.Collection) -> None:
    nodes = RagkitRetriever(ragkit.Retriever(docs), limit=3).retrieve(QUESTION)
    hits = ragkit.Retriever(docs).search(QUESTION, limit=3)
    assert [(node.id_, node.score) for node in nodes] == [(hit.id, hit.score) for hit in hits]
    for node, hit in zip(nodes, hits, strict=True):
        assert node.text == hit.text
        assert node.node.get_node_info() == {"start": hit.start, "end": hit.end}
        said = node.metadata
        assert (said["source"], said["title"]) == (hit.source, hit.title)
        assert (said["line"], said["headings"]) == (hit.line, list(hit.headings))
        assert said["citation"] == str(hit.citation)
        assert json.loads(json.dumps(said)) == said
    assert nodes[0].metadata["citation"].startswith("guide.md > Part 3, lines ")


def test_with_context_all_that_is_said_is_about_the_longer_text(docs: ragkit.Collection) -> None:
    inner = ragkit.Retriever(docs)
    (alone,) = RagkitRetriever(inner, limit=1).retrieve(QUESTION)
    (wider,) = RagkitRetriever(inner, limit=1, context=1).retrieve(QUESTION)
    assert len(wider.text) > len(alone.text)
    assert alone.text in wider.text
    info = wider.node.get_node_info()
    assert wider.text == GUIDE[info["start"] : info["end"]]
    assert (wider.metadata["start"], wider.metadata["end"]) == (info["start"], info["end"])
    assert (wider.id_, wider.score) == (alone.id_, alone.score)


def test_a_language_model_reads_title_citation_and_own_metadata_and_a_reranker_the_title(
    docs: ragkit.Collection,
) -> None:
    (node,) = RagkitRetriever(ragkit.Retriever(docs), limit=1).retrieve("claims to be elsewhere")
    citation = node.metadata["citation"]
    assert citation.startswith("forged.md")
    assert set(node.node.get_metadata_str(MetadataMode.LLM).splitlines()) == {
        "title: Forged",
        f"citation: {citation}",
        "lang: en",
        "metadata.citation: trusted.example, page 1",
    }
    assert node.node.get_metadata_str(MetadataMode.EMBED) == "title: Forged"


def test_the_retrievers_options_hold_where_none_are_given(docs: ragkit.Collection) -> None:
    inner = ragkit.Retriever(docs, limit=2, filter={"lang": "xx"})
    assert [n.metadata["lang"] for n in RagkitRetriever(inner).retrieve("key")] == ["xx"]
    english = RagkitRetriever(inner, filter={"lang": "en"})
    assert [n.metadata["lang"] for n in english.retrieve("key")] == ["en", "en"]


def test_an_option_that_is_none_or_out_of_range_is_refused_at_once(
    docs: ragkit.Collection,
) -> None:
    with pytest.raises(ValueError, match="expected limit to be a whole number from 1"):
        RagkitRetriever(ragkit.Retriever(docs), limit=0)
    with pytest.raises(TypeError, match="there is no search option 'similarity_top_k'"):
        RagkitRetriever(ragkit.Retriever(docs), similarity_top_k=3)  # type: ignore[call-arg]


def test_a_vector_that_another_model_left_in_the_query_is_not_searched_with(
    docs: ragkit.Collection,
) -> None:
    retriever = RagkitRetriever(ragkit.Retriever(docs), limit=3)
    bundle = QueryBundle(QUESTION, embedding=[1.0, 0.0, 0.0])
    assert retriever.retrieve(bundle) == retriever.retrieve(QUESTION)


def test_without_an_async_retriever_the_other_searches_in_a_thread(tmp_path: Path) -> None:
    seen: list[threading.Thread] = []

    class Watched(HashEmbedder):
        def embed_query(self, text: str) -> Vectors:
            seen.append(threading.current_thread())
            return super().embed_query(text)

    with EdgeClient(tmp_path / "edge") as client:
        indexed(client)
        watched = ragkit.Collection(client, "docs", embedder=Watched(128))
        retriever = RagkitRetriever(ragkit.Retriever(watched), limit=3)
        assert asyncio.run(retriever.aretrieve(QUESTION)) == retriever.retrieve(QUESTION)
    assert seen[0] is not threading.main_thread()
    assert seen[1] is threading.main_thread()


def test_an_async_retriever_finds_the_same(standin: Server, open_store: Any) -> None:
    client = open_store("rest")
    inner = ragkit.Retriever(indexed(client))

    async def ask() -> list[NodeWithScore]:
        connection = await ragkit.aconnect(standin.url, grpc_port=standin.grpc_port)
        try:
            asynchronous = ragkit.AsyncRetriever(connection, "docs", embedder=EMBEDDER)
            both = RagkitRetriever(inner, async_retriever=asynchronous, limit=3, context=1)
            return await both.aretrieve(QUESTION)
        finally:
            await connection.close()

    assert asyncio.run(ask()) == RagkitRetriever(inner, limit=3, context=1).retrieve(QUESTION)


def test_a_reranker_that_fails_is_noted_in_the_nodes(docs: ragkit.Collection) -> None:
    def broken(query: str, texts: Any) -> Any:
        raise RuntimeError("out of memory")

    inner = ragkit.Retriever(docs, reranker=broken)
    (node,) = RagkitRetriever(inner, limit=1).retrieve(QUESTION)
    (note,) = node.metadata["notes"]
    assert "out of memory" in note
    assert note not in node.node.get_metadata_str(MetadataMode.LLM)


def test_a_query_engine_puts_texts_into_its_prompt_as_they_are(docs: ragkit.Collection) -> None:
    # The mock answers with its prompt.
    retriever = RagkitRetriever(ragkit.Retriever(docs), limit=1)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    answer = engine.query("braces in the tricky key")
    assert TRICKY in str(answer)
    assert "citation: tricky.md, line 1" in str(answer)
    assert [node.metadata["source"] for node in answer.source_nodes] == ["tricky.md"]


def test_the_example_shows_passages_and_where_to_find_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    assert shown.startswith("handbook/api-keys.md > API keys")
    assert shown.count(", line") == 3
    assert "every 90 days" in shown


def test_a_missing_llamaindex_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_index", None)
    monkeypatch.setitem(sys.modules, "llama_index.core", None)
    monkeypatch.delitem(sys.modules, "ragkit.integrations.llamaindex")
    with pytest.raises(MissingDependency, match=r'pip install "ragkit\[llamaindex\]"'):
        import ragkit.integrations.llamaindex  # noqa: F401
