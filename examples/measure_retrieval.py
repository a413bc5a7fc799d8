"""Measure how well searches find what answers a question, for several search options side by side.

    python examples/measure_retrieval.py [SET …] [--settings '{"mode": "sparse"}' '{"rrf_k": 60}' …]

A set is a folder of one of three layouts:

- `questions.jsonl` with `{text, source, answer}` and the documents in `docs`, as in this folder,
  which is measured unless another is named: what answers is the answer's own words;
- `queries.jsonl` and `corpora/*.md` with `spans.tsv`, as `ragkit.benchmark.chunkings` reads it;
- BEIR's, as `ragkit.benchmark.judged` reads it: `queries.jsonl`, `corpus.jsonl`, and `qrels.tsv`
  or `qrels/test.tsv`: documents are judged as a whole, each counts where its best chunk stands.

Everything goes the way of every user: documents are indexed with `Indexer`, questions asked with
`Retriever.search_many`, embedded by `LocalEmbedder`. What is found has a gain: a judged document
1, a chunk the part of the answer's characters that it holds. Of the ten best:

- nDCG: their gains, each divided by log2(rank + 1), as a part of what the best order would have
  (Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", with the
  discount from the second rank on that is usual since);
- recall: the part of all gains that is among them; where gains are 0 or 1, the part of the
  relevant that was found;
- MRR: 1 / rank of the first with any gain, 0 without one (Voorhees 1999, TREC-8's question
  answering track).

The last column is the difference of nDCG to the first setting, with the interval that holds 95 of
100 means when questions are drawn again with replacement, each with both its scores (the paired
bootstrap; Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import ragkit
from ragkit.benchmark.chunkings import read_span_set
from ragkit.benchmark.intervals import paired_interval
from ragkit.benchmark.judged import read_judged
from ragkit.pipeline import batched
from ragkit.search_options import SearchKeywords

SETTINGS = [
    "{}",
    '{"mode": "sparse"}',
    '{"mode": "dense"}',
    '{"rrf_k": 2}',
    '{"rrf_k": 60}',
    '{"fusion": "dbsf"}',
    '{"rrf_k": 1, "weights": {"dense": 1, "sparse": 2}}',
]
DEPTH = 10  # hits judged
AT_ONCE = 500  # questions in one call

Span = tuple[str, int, int]  # source, start, end
Key = tuple[str, int]  # a chunk: source, ordinal; of a document judged as a whole the 0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and where in the documents its answer stands."""

    text: str
    answer: Sequence[Span]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSet:
    """Documents, and questions whose answers are known.

    Attributes:
        by_document: Whether documents are judged as a whole, not passages.
    """

    name: str
    documents: Sequence[ragkit.Document]
    questions: Sequence[Question]
    by_document: bool = False


def main() -> None:
    """Print a Markdown table for each set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", type=Path, default=[Path(__file__).parent])
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="JSON")
    parser.add_argument("--cache", type=Path, help="a file that keeps vectors for the next time")
    parser.add_argument("--questions", type=int, help="ask only so many, drawn at random")
    arguments = parser.parse_args()
    embedder: ragkit.Embedder = ragkit.LocalEmbedder()
    if arguments.cache is not None:
        embedder = ragkit.CachedEmbedder(embedder, arguments.cache)
    for folder in arguments.sets:
        judged = sample(read_set(folder), arguments.questions)
        print(f"\n{judged.name}: {len(judged.questions):,} questions\n")
        print(f"| options | nDCG@{DEPTH} | recall@{DEPTH} | MRR@{DEPTH} | nDCG against the first |")
        print("|---|---|---|---|---|")
        for row in rows(judged, embedder, arguments.settings):
            print(row, flush=True)


def rows(judged: JudgedSet, embedder: ragkit.Embedder, settings: Sequence[str]) -> Iterator[str]:
    """The table's lines, as they are measured."""
    first: Floats | None = None
    with indexed(judged, embedder) as docs:
        gains = gains_to_find(judged, docs)
        for setting in settings:
            scores = scored(found(judged, docs, json.loads(setting)), gains)
            means = " | ".join(f"{mean:.4f}" for mean in scores.mean(axis=0))
            ndcg = scores[:, 0]
            yield f"| `{setting}` | {means} | {'' if first is None else change(first, ndcg)} |"
            first = ndcg if first is None else first


def read_set(folder: Path) -> JudgedSet:
    """Read a set of any layout."""
    if (folder / "qrels.tsv").exists() or (folder / "qrels").is_dir():
        return _judged_documents(folder)
    if (folder / "spans.tsv").exists():
        return _judged_spans(folder)
    return _quoted_answers(folder)


def _judged_documents(folder: Path) -> JudgedSet:
    judged = read_judged(folder)
    documents = {document.source: document for document in judged.documents()}
    questions = [
        Question(
            text=text,
            answer=[
                (source, 0, len(documents[source].text))
                for source, relevance in judged.qrels[query].items()
                if relevance > 0 and source in documents
            ],
        )
        for query, text in judged.queries.items()
    ]
    return JudgedSet(
        name=judged.name,
        documents=[*documents.values()],
        questions=[question for question in questions if question.answer],
        by_document=True,
    )


def _judged_spans(folder: Path) -> JudgedSet:
    spans = read_span_set(folder, format="markdown")
    questions = [
        Question(
            text=question.text,
            answer=[(source, *span) for source, each in question.answer.items() for span in each],
        )
        for question in spans.questions
    ]
    return JudgedSet(name=spans.name, documents=spans.documents, questions=questions)


def _quoted_answers(folder: Path) -> JudgedSet:
    found = ragkit.read_folder(folder / "docs")
    texts = {
        document.source: document for document in found if isinstance(document, ragkit.Document)
    }
    questions = []
    for line in (folder / "questions.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        source, answer = row["source"], row["answer"]
        start = texts[source].text.index(answer)
        questions.append(Question(text=row["text"], answer=[(source, start, start + len(answer))]))
    return JudgedSet(name=folder.resolve().name, documents=[*texts.values()], questions=questions)


def sample(judged: JudgedSet, count: int | None) -> JudgedSet:
    """The same documents with so many of the questions, always the same ones."""
    if count is None or count >= len(judged.questions):
        return judged
    drawn = np.random.default_rng(0).choice(len(judged.questions), count, replace=False)
    return replace(judged, questions=[judged.questions[i] for i in sorted(drawn)])


@contextmanager
def indexed(judged: JudgedSet, embedder: ragkit.Embedder) -> Iterator[ragkit.Collection]:
    """The documents in a collection that goes with the context."""
    with tempfile.TemporaryDirectory() as folder, ragkit.EdgeClient(folder) as client:
        docs = ragkit.Collection(client, "judged", embedder=embedder)
        report = ragkit.Indexer(docs).add(judged.documents)
        if report.skipped:
            raise SystemExit(f"could not index {report.skipped}")
        yield docs


def gains_to_find(judged: JudgedSet, docs: ragkit.Collection) -> list[dict[Key, float]]:
    """For each question what has a gain, and how much."""
    if judged.by_document:
        return [{(source, 0): 1.0 for source, _, _ in q.answer} for q in judged.questions]
    chunks = {document.source: docs.chunker(document) for document in judged.documents}
    return [_parts(question.answer, chunks) for question in judged.questions]


def _parts(
    answer: Sequence[Span], chunks: Mapping[str, Sequence[ragkit.Chunk]]
) -> dict[Key, float]:
    """The part of the answer that each chunk holds; those that hold none are left out."""
    wanted = {(source, at) for source, start, end in answer for at in range(start, end)}
    parts: dict[Key, float] = {}
    for chunk in (chunk for source in {span[0] for span in answer} for chunk in chunks[source]):
        held = sum((chunk.source, at) in wanted for at in range(chunk.start, chunk.end))
        if held:
            parts[chunk.source, chunk.ordinal] = held / len(wanted)
    return parts


def found(
    judged: JudgedSet, docs: ragkit.Collection, setting: SearchKeywords
) -> Iterator[list[Key]]:
    """For each question the keys of the best hits, each key once."""
    options: dict[str, Any] = {"limit": DEPTH, **setting}
    if judged.by_document:
        # Several chunks may be of one document. More hits do not mean more candidates.
        candidates = ragkit.SearchOptions(limit=DEPTH).candidates
        options = {"prefetch_limit": candidates, "limit": 2 * DEPTH, **setting}
    retriever = ragkit.Retriever(docs, **cast(SearchKeywords, options))
    for some in batched(judged.questions, AT_ONCE):
        for hits in retriever.search_many([question.text for question in some]):
            keys = ((hit.source, 0 if judged.by_document else hit.ordinal) for hit in hits)
            yield [*dict.fromkeys(keys)][:DEPTH]


def scored(rankings: Iterable[Sequence[Key]], gains: Sequence[Mapping[Key, float]]) -> Floats:
    """nDCG, recall and MRR of each question; shape (n, 3)."""
    each = [scores(keys, wanted) for keys, wanted in zip(rankings, gains, strict=True)]
    return np.array(each, np.float64)


def scores(ranking: Sequence[Key], wanted: Mapping[Key, float]) -> tuple[float, float, float]:
    """nDCG, recall and MRR of what was found, best first."""
    got = [wanted.get(key, 0.0) for key in ranking[:DEPTH]]
    best = sorted(wanted.values(), reverse=True)
    first = next((rank for rank, gain in enumerate(got, 1) if gain), None)
    return dcg(got) / dcg(best[:DEPTH]), sum(got) / sum(best), 1 / first if first else 0.0


def dcg(gains: Sequence[float]) -> float:
    """The gains in their order, each discounted by its rank."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def change(first: Floats, other: Floats) -> str:
    """The mean difference, and where 95 of 100 means lie when the questions are drawn again."""
    mean, low, high = paired_interval(first, other)
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
