"""Chunking against LangChain's recursive splitter counting characters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture

from ragkit.chunks import Chunker
from ragkit.documents import Document

LARGE = 10_000_000  # characters
# Chunks of the same size as the default chunker's: 850 characters of English, 140 repeated.
THEIRS = RecursiveCharacterTextSplitter(chunk_size=1_150, chunk_overlap=140)
OURS = Chunker()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    if not (folder := os.environ.get("RAGKIT_CHUNKING")):
        pytest.skip("set RAGKIT_CHUNKING to a folder as `ragkit bench chunking` reads it")
    return [path.read_text("utf-8") for path in sorted(Path(folder, "corpora").glob("*.md"))]


@pytest.mark.parametrize("format", ["text", "markdown", "rst", "records"])
@pytest.mark.parametrize("large", [False, True], ids=["corpora", "10 MB"])
def test_prose_against_a_splitter_of_characters(
    benchmark: BenchmarkFixture,
    texts: list[str],
    large: bool,
    format: str,  # noqa: A002
) -> None:
    if large:
        texts = [repeated("\n\n".join(texts))]
    documents = [Document(source="a", title="a", text=text, format=format) for text in texts]
    paired(
        benchmark,
        ours=lambda: [OURS(document) for document in documents],
        theirs=lambda: [THEIRS.split_text(text) for text in texts],
        rounds=9,
        limit="at most 1.2",
    )


def test_code_against_a_splitter_of_characters(benchmark: BenchmarkFixture) -> None:
    sources = sorted((Path(__file__).parents[2] / "ragkit").rglob("*.py"))
    text = repeated("\n\n".join(path.read_text("utf-8") for path in sources))
    code = Document(source="a", title="a", text=text, format="code", language="python")
    theirs = RecursiveCharacterTextSplitter.from_language(
        Language.PYTHON, chunk_size=1_150, chunk_overlap=140
    )
    paired(
        benchmark,
        ours=lambda: OURS(code),
        theirs=lambda: theirs.split_text(text),
        rounds=5,
        limit="a fraction of what it takes to index: no number is set",
    )


def repeated(text: str) -> str:
    return (text * (LARGE // len(text) + 1))[:LARGE]
