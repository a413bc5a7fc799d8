"""The model that comes along against the bare onnxruntime, and against sentence-transformers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from perf.ratios import paired
from pytest_benchmark.fixture import BenchmarkFixture

from ragkit.local.minilm import LocalEmbedder, _model

ROOT = Path(__file__).parents[2]
CHARACTERS = 860  # as the default chunker cuts English
CHUNKS = 64


@pytest.fixture(scope="module")
def chunks() -> list[str]:
    pytest.importorskip("onnxruntime", reason='needs the extra "local"')
    pages = sorted((ROOT / "examples" / "docs").rglob("*.md"))
    text = "\n".join(page.read_text("utf-8") for page in [ROOT / "README.md", *pages])
    found = [text[at : at + CHARACTERS] for at in range(0, len(text), CHARACTERS)]
    return found[:CHUNKS]


def test_documents_against_the_bare_session(benchmark: BenchmarkFixture, chunks: list[str]) -> None:
    model, embedder = _model(), LocalEmbedder(threads=1)
    pieces = [np.array(model._tokenizer.encode(chunk).ids, np.int64) for chunk in chunks]
    paired(
        benchmark,
        ours=lambda: embedder.embed_documents(chunks, titles=[""] * len(chunks)),
        theirs=lambda: [model._session.run(None, {"input_ids": ids}) for ids in pieces],
        rounds=5,
        limit="at most 1.1",
    )
    rate = len(chunks) / benchmark.stats.stats.median
    print(f"{rate:.0f} chunks of {CHARACTERS} characters a second in one thread")


def test_all_processors_against_one(benchmark: BenchmarkFixture, chunks: list[str]) -> None:
    alone, together = LocalEmbedder(threads=1), LocalEmbedder()
    titles = [""] * len(chunks)
    paired(
        benchmark,
        ours=lambda: together.embed_documents(chunks, titles=titles),
        theirs=lambda: alone.embed_documents(chunks, titles=titles),
        rounds=5,
        limit=f"about 1 / {os.cpu_count()}, the number of processors",
    )


def test_documents_against_sentence_transformers(
    benchmark: BenchmarkFixture, chunks: list[str]
) -> None:
    library = pytest.importorskip("sentence_transformers", reason='needs the extra "torch"')
    if not (folder := os.environ.get("RAGKIT_MINILM")):
        pytest.skip("set RAGKIT_MINILM to the folder of the official all-MiniLM-L6-v2")
    embedder = LocalEmbedder()
    official = library.SentenceTransformer(folder, device="cpu", local_files_only=True)
    paired(
        benchmark,
        ours=lambda: embedder.embed_documents(chunks, titles=[""] * len(chunks)),
        theirs=lambda: official.encode_document(chunks),
        rounds=5,
        limit="at most 0.7",
    )
