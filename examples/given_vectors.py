"""Fill a collection with passages whose vectors you have already, from any model.

    python examples/given_vectors.py corpus.jsonl vectors.npy --quantization binary
    ragkit bench recall --collection corpus --queries query_vectors.npy
    ragkit tune --collection corpus --queries query_vectors.npy

`corpus.jsonl` has an object with "_id" or "id", "title" and "text" on each line, `vectors.npy` as
many rows in the same order. Each text is one passage: nothing is split, nothing is embedded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ragkit


class Given:
    """Has the vectors of texts that are known, and no others."""

    max_tokens = 1_000_000

    def __init__(self, vectors: dict[str, NDArray[np.float32]], fingerprint: str) -> None:
        self._vectors = vectors
        self.dim = len(next(iter(vectors.values())))
        self.fingerprint = fingerprint

    def embed_documents(
        self, texts: Sequence[str], *, titles: Sequence[str]
    ) -> NDArray[np.float32]:
        """Look up the vectors of passages."""
        return np.stack([self._vectors[text] for text, _ in zip(texts, titles, strict=True)])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """There are no vectors of queries here: pass them to the search, `vector=`."""
        raise NotImplementedError(f"no vector is given for the query {text!r}")


def whole(document: ragkit.Document) -> list[ragkit.Chunk]:
    """A document is one passage."""
    return [
        ragkit.Chunk(
            source=document.source, ordinal=0, text=document.text, start=0,
            end=len(document.text), title=document.title, headings=(),
        )
    ]  # fmt: skip


def main() -> None:
    """Index what is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--db", default=".ragkit")
    parser.add_argument("--collection", default="corpus")
    parser.add_argument("--quantization", default="auto")
    arguments = parser.parse_args()
    lines = arguments.corpus.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    documents = [
        ragkit.Document(
            source=str(row.get("_id", row.get("id"))),
            title=row.get("title") or str(row.get("_id", row.get("id"))),
            text=row["text"],
        )
        for row in rows
    ]
    vectors = np.load(arguments.vectors).astype(np.float32)
    by_text: dict[str, NDArray[np.float32]] = {}
    for document, vector in zip(documents, vectors, strict=True):
        if not np.array_equal(by_text.setdefault(document.text, vector), vector):
            parser.error(f"{document.source} has the text of another passage and another vector")
    given = Given(by_text, fingerprint=arguments.vectors.name)
    with ragkit.EdgeClient(arguments.db) as client:
        docs = ragkit.Collection(
            client,
            arguments.collection,
            embedder=given,
            quantization=arguments.quantization,
            chunker=whole,
        )
        report = ragkit.Indexer(docs).add(documents)
    print(f"{arguments.collection}: {report.chunks:,} passages of {given.dim} dimensions")


if __name__ == "__main__":
    main()
