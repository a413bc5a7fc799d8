"""Measure which sizes of chunks find the passages that answer questions.

The folder has the layout of Chroma's chunking evaluation: `corpora/*.md`, `queries.jsonl` with
`{id, text, corpus}`, and `spans.tsv` with query, corpus, start and end of each passage that
answers. Of the characters of the answering passages, recall is the part that was retrieved;
precision is the part of all retrieved characters that answers (one retrieved twice counts twice);
IoU is the part that answers of all that was retrieved or should have been.

Chunks are found by BM25, over all corpora together. Run it as

    python examples/measure_chunking.py FOLDER [--settings 200/0 200/40 …]
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import qdrant_edge as edge
from qdrant_client import models

from ragkit.chunks import Chunk, Chunker
from ragkit.documents import Document
from ragkit.sparse import Bm25Encoder, average_length

SETTINGS = [
    f"{size}/{size * percent // 100}"
    for size in (125, 200, 250, 300, 350, 400, 500, 600)
    for percent in (0, 10, 20)
]
BEST = 5  # chunks
BUDGET = 4_000  # characters of retrieved text
DEPTH = 100  # chunks fetched: more than the budget holds

Span = tuple[int, int]
Passage = tuple[str, int, int]  # corpus, start, end


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and where its answer stands."""

    text: str
    corpus: str
    answer: list[Span]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The means over all questions for one setting, in percent."""

    setting: str
    chunks: int
    characters: float
    recall: float
    precision: float
    iou: float
    recall_in_budget: float


def main() -> None:
    """Print one line of a Markdown table for each setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="TOKENS/OVERLAP")
    arguments = parser.parse_args()
    corpora = [
        Document(source=path.stem, title=path.stem, text=path.read_text(encoding="utf-8"))
        for path in sorted((arguments.folder / "corpora").glob("*.md"))
    ]
    questions = [*read_questions(arguments.folder)]
    print("| tokens/overlap | chunks | characters | recall@5 | precision@5 | IoU@5 | ", end="")
    print(f"recall in {BUDGET:,} characters |")
    print("|---|---|---|---|---|---|---|")
    for setting in arguments.settings:
        row = measure(setting, corpora, questions)
        print(
            f"| {row.setting} | {row.chunks} | {row.characters:.0f} | {row.recall:.1f} "
            f"| {row.precision:.1f} | {row.iou:.1f} | {row.recall_in_budget:.1f} |",
            flush=True,
        )


def read_questions(folder: Path) -> Iterator[Question]:
    """The questions, each with its spans in order and without overlap."""
    answers: dict[str, list[Span]] = defaultdict(list)
    with (folder / "spans.tsv").open(encoding="utf-8", newline="") as file:
        for query, _, start, end in csv.reader(file, delimiter="\t"):
            answers[query].append((int(start), int(end)))
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        query = json.loads(line)
        yield Question(
            text=query["text"], corpus=query["corpus"], answer=union(answers[query["id"]])
        )


def measure(setting: str, corpora: Sequence[Document], questions: Sequence[Question]) -> Row:
    """Chunk, index and ask everything for one setting such as "250/50"."""
    max_tokens, overlap = map(int, setting.split("/"))
    chunker = Chunker(max_tokens=max_tokens, overlap=overlap)
    chunks = [chunk for corpus in corpora for chunk in chunker(corpus)]
    best, budgeted = [], []
    for question, found in zip(questions, search(chunks, questions), strict=True):
        best.append(scores(question, found[:BEST]))
        budgeted.append(scores(question, [*within(BUDGET, found)]))
    recall, precision, iou = (100 * fmean(column) for column in zip(*best, strict=True))
    return Row(
        setting=setting,
        chunks=len(chunks),
        characters=fmean(len(chunk.text) for chunk in chunks),
        recall=recall,
        precision=precision,
        iou=iou,
        recall_in_budget=100 * fmean(recall for recall, _, _ in budgeted),
    )


def search(chunks: Sequence[Chunk], questions: Sequence[Question]) -> Iterator[list[Passage]]:
    """For each question the best passages by BM25, best first."""
    encoder = Bm25Encoder(avg_len=average_length(chunk.text for chunk in chunks))
    config = edge.EdgeConfig(
        sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
    )
    with tempfile.TemporaryDirectory() as folder:
        shard = edge.EdgeShard.create(folder, config)
        points = [
            edge.Point(number, {"bm25": engine_vector(encoder.encode_document(chunk.text))})
            for number, chunk in enumerate(chunks)
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
        for question in questions:
            vector = engine_vector(encoder.encode_query(question.text))
            nearest = edge.Query.Nearest(vector, using="bm25")
            hits = shard.query(edge.QueryRequest(limit=DEPTH, query=nearest))
            ranked = sorted(hits, key=lambda hit: (-hit.score, hit.id))
            found = (chunks[int(hit.id)] for hit in ranked)
            yield [(chunk.source, chunk.start, chunk.end) for chunk in found]
        shard.close()


def engine_vector(vector: models.SparseVector) -> edge.SparseVector:
    """The engine's form of a sparse vector."""
    return edge.SparseVector(indices=vector.indices, values=vector.values)


def scores(question: Question, found: Sequence[Passage]) -> tuple[float, float, float]:
    """Recall, precision and IoU of the passages found for a question."""
    covered = union((start, end) for corpus, start, end in found if corpus == question.corpus)
    wanted = length(question.answer)
    hit = wanted + length(covered) - length(union([*question.answer, *covered]))
    retrieved = sum(end - start for _, start, end in found)
    return hit / wanted, hit / retrieved if retrieved else 0.0, hit / (retrieved + wanted - hit)


def within(budget: int, found: Iterable[Passage]) -> Iterator[Passage]:
    """The first passages, as many characters of them as the budget has; the last cut to fit."""
    for corpus, start, end in found:
        if budget <= 0:
            return
        yield corpus, start, min(end, start + budget)
        budget -= end - start


def union(spans: Iterable[Span]) -> list[Span]:
    """The same characters as spans in order that do not touch."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def length(spans: Iterable[Span]) -> int:
    """How many characters the spans have."""
    return sum(end - start for start, end in spans)


if __name__ == "__main__":
    main()
