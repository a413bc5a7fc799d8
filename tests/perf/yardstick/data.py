"""The data of a run, made from a seed and written to where all contenders read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from perf.yardstick.contender import LIMIT

from ragkit.benchmark.exact import Truth
from ragkit.benchmark.originals import Originals
from ragkit.benchmark.synthetic import synthetic_queries, synthetic_vectors
from ragkit.chunks import Chunk, Chunker
from ragkit.documents import Document
from ragkit.embeddings import Vectors

_WORDS = 20_000
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
_SENTENCE = 15  # words
_SENTENCES = 80  # of a document: about ten chunks
_QUESTION = 6  # words


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A folder with vectors and queries, and what an exact search finds.

    Attributes:
        folder: Has `vectors.npy` and `queries.npy`; of passages also the texts.
        count: Vectors.
        truth: The neighbours, by numpy's float32 products.
    """

    folder: Path
    count: int
    truth: Truth


def make_vectors(folder: Path, count: int, dim: int, *, queries: int, seed: int) -> Data:
    """Embedding-like vectors and queries of the same topics."""
    drawn = synthetic_vectors(count, dim, seed=seed)
    return _written(folder, drawn, synthetic_queries(queries, dim, seed=seed))


def make_passages(folder: Path, data: Data, count: int, *, seed: int) -> Data:
    """Documents of drawn words whose chunks have the first vectors of `data`.

    Args:
        folder: Where to.
        data: Has the vectors and the queries.
        count: The most chunks; they are as many as fill whole documents.
        seed: Of the words.
    """
    chunker = Chunker()
    chosen: list[Document] = []
    chunks: list[Chunk] = []
    random = np.random.default_rng(seed)
    for document in _documents(random):
        cut = chunker(document)
        if chosen and len(chunks) + len(cut) > count:
            break
        chosen.append(document)
        chunks += cut
    vectors = np.load(data.folder / "vectors.npy", mmap_mode="r")[: len(chunks)]
    queries = np.load(data.folder / "queries.npy")
    made = _written(folder, np.ascontiguousarray(vectors), queries)
    _write_lines(folder / "documents.jsonl", (_fields(document) for document in chosen))
    _write_lines(folder / "chunks.jsonl", (_described(chunk) for chunk in chunks))
    questions = ({"text": " ".join(words)} for words in _drawn(random, len(queries), _QUESTION))
    _write_lines(folder / "questions.jsonl", questions)
    return made


def _written(folder: Path, vectors: Vectors, queries: Vectors) -> Data:
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    originals = Originals(ids=[str(row) for row in range(len(vectors))], vectors=vectors)
    return Data(folder=folder, count=len(vectors), truth=Truth(originals, queries, LIMIT))


def _documents(random: np.random.Generator) -> Iterator[Document]:
    number = 0
    while True:
        sentences = [" ".join(words) + "." for words in _drawn(random, _SENTENCES, _SENTENCE)]
        yield Document(
            source=f"notes/{number}.txt",
            title=f"Note {number}",
            text="\n".join(sentences),
            metadata={"language": "en", "year": 2024},
        )
        number += 1


def _drawn(random: np.random.Generator, rows: int, words: int) -> list[list[str]]:
    """Words as unevenly frequent as those of a language (Zipf's law)."""
    frequency = 1 / np.arange(1, _WORDS + 1)
    chosen = random.choice(_WORDS, size=(rows, words), p=frequency / frequency.sum())
    drawn: list[list[str]] = _VOCABULARY[chosen].tolist()
    return drawn


_VOCABULARY = np.array(
    ["".join(word) for word in np.random.default_rng(0).choice(_LETTERS, size=(_WORDS, 6))]
)


def _fields(document: Document) -> dict[str, Any]:
    return {
        "source": document.source,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }


def _described(chunk: Chunk) -> dict[str, Any]:
    return {
        "source": chunk.source,
        "title": chunk.title,
        "ordinal": chunk.ordinal,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
    }


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
