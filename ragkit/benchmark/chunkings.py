"""How much of what answers a question stands in the chunks that are found, chunker by chunker."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from ragkit.benchmark.environment import describe
from ragkit.benchmark.exact import nearest
from ragkit.benchmark.intervals import mean_interval, paired_interval
from ragkit.benchmark.queries import read_texts
from ragkit.benchmark.rows import About, MeasureCallback, Rows
from ragkit.chunks import Chunk, Chunker
from ragkit.documents import Document
from ragkit.embeddings import Embedder, Vectors, embed_documents, embed_queries
from ragkit.pipeline import batched
from ragkit.search_options import Mode, SearchOptions
from ragkit.sparse import Bm25Encoder, average_length

AnyChunker: TypeAlias = Callable[[Document], list[Chunk]]
Span: TypeAlias = tuple[int, int]  # offsets, the end exclusive
Passage: TypeAlias = tuple[str, int, int]  # corpus, start, end

HITS = 5
BUDGET = 4_000  # characters
_SETTINGS = ((300, 50), (300, 0), (150, 25), (200, 40), (450, 75), (600, 100))  # tokens, overlap
_EMBEDDED_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanQuestion:
    """A question and where its answer stands.

    Attributes:
        answer: For each corpus that holds a part of it, the spans in order and without overlap.
    """

    text: str
    answer: Mapping[str, Sequence[Span]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSet:
    """Texts, and questions with the passages that answer them.

    Attributes:
        documents: The corpora, each one document.
        questions: Those whose answers are known.
        name: What to call the set.
    """

    documents: Sequence[Document]
    questions: Sequence[SpanQuestion]
    name: str = "spans"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkingRow:
    """How well the chunks of one chunker serve; all shares from 0 to 1, means over the questions.

    Let R be the characters of a question's reference spans and C the chunks found, of its five
    best if nothing else was asked for.

    Attributes:
        chunker: Its label.
        max_tokens: Its setting; None if it is no `Chunker`.
        overlap: The same.
        chunks: How many it makes of all corpora.
        mean_chars: Of a chunk, in characters.
        recall: The part of R that is in C.
        precision: The part of C that is in R; what two chunks share counts for each.
        iou: What both share, as a part of C and what R has beyond it.
        recall_low: The lower end of the mean's 95% interval.
        recall_high: The upper end.
        recall_in_budget: Recall of as many of the best chunks as the budget of characters holds,
            the last of them cut to fit.
        difference: Of recall to the first chunker's: the mean, lower and upper end of its 95%
            interval; empty for the first.
    """

    chunker: str
    max_tokens: int | None
    overlap: int | None
    chunks: int
    mean_chars: float
    recall: float
    precision: float
    iou: float
    recall_low: float
    recall_high: float
    recall_in_budget: float
    difference: list[float]


def chunking(
    spans: SpanSet | str | Path,
    *,
    chunkers: Mapping[str, AnyChunker] | None = None,
    embedder: Embedder | None = None,
    mode: Mode | None = None,
    hits: int = HITS,
    budget: int = BUDGET,
    progress: MeasureCallback | None = None,
) -> Rows[ChunkingRow]:
    """Measure how much of the reference spans the best chunks hold, for chunkers side by side.

    The definitions are those of Smith and Troynikov 2024, "Evaluating Chunking Strategies for
    Retrieval" (Chroma), counted in characters instead of tokens. Larger chunks hold more of
    everything, so recall within a budget of characters, which is what a prompt has, stands beside
    that of a number of chunks.

    Args:
        spans: A set, or a folder as `read_span_set` reads it.
        chunkers: By label; the default and some around it unless given.
        embedder: To find by meaning; the text alone is embedded, without title and headings.
        mode: "sparse" finds by words (BM25), "dense" by meaning (exactly, without an index),
            "hybrid" fuses both as a search does by default. None: hybrid with an embedder, else
            sparse.
        hits: How many of the best chunks recall, precision and IoU are of.
        budget: How many characters of the best chunks the last column is of.
        progress: Called as it goes on.

    Returns:
        A row for each chunker, in their order.

    Raises:
        ValueError: An option is out of its range, the mode needs an embedder, or a chunker makes
            no chunks.
    """
    found = spans if isinstance(spans, SpanSet) else read_span_set(spans)
    if chunkers is None:
        chunkers = {f"{t}/{o}": Chunker(max_tokens=t, overlap=o) for t, o in _SETTINGS}
    how = mode or ("sparse" if embedder is None else "hybrid")
    _check(chunkers, embedder, how, hits=hits, budget=budget)
    about = _about(found, embedder, how, hits=hits, budget=budget)
    search = _Search.of(found.questions, how, embedder)
    rows: list[ChunkingRow] = []
    first: Sequence[float] = ()
    for label, chunker in chunkers.items():
        if progress is not None:
            progress(f"chunker {label}", len(rows), len(chunkers))
        chunks = [chunk for document in found.documents for chunk in chunker(document)]
        if not chunks:
            raise ValueError(f"chunker {label!r} makes no chunks of {found.name}")
        best, budgeted = _scores(search, chunks, hits=hits, budget=budget)
        rows.append(_row(label, chunker, chunks, best, budgeted, first))
        first = first or [recall for recall, _, _ in best]
    if progress is not None:
        progress("chunkers", len(rows), len(chunkers))
    return Rows(rows, about=about)


def read_span_set(folder: str | Path, *, format: str = "text") -> SpanSet:  # noqa: A002
    """Read a folder in the layout of Chroma's chunking evaluation.

    That is `corpora/*.md` (or `.txt`), `queries.jsonl` with `{id, text}`, and `spans.tsv`: for
    each passage that answers its query, corpus (the file's name without suffix), start and end, in
    characters, the end exclusive.

    Args:
        folder: The folder.
        format: How the corpora are read, see `Document`.

    Raises:
        ValueError: A file is missing, or a line of `spans.tsv` is not so; the message names it.
    """
    root = Path(folder)
    files = sorted(each for each in root.glob("corpora/*") if each.suffix in (".md", ".txt"))
    if not files or not (root / "spans.tsv").exists() or not (root / "queries.jsonl").exists():
        raise ValueError(
            f"expected corpora/*.md, queries.jsonl and spans.tsv in {root}, and not all are there"
        )
    documents = [
        Document(source=each.stem, title=each.stem, text=each.read_text("utf-8"), format=format)
        for each in files
    ]
    lengths = {document.source: len(document.text) for document in documents}
    answers = _read_spans(root / "spans.tsv", lengths)
    questions = [
        SpanQuestion(text=text, answer={corpus: _union(each) for corpus, each in answer.items()})
        for query, text in read_texts(root / "queries.jsonl").items()
        if (answer := answers.get(query))
    ]
    if not questions:
        raise ValueError(
            f"no query of {root / 'queries.jsonl'} has a span in spans.tsv, whose queries are such "
            f"as {next(iter(answers), None)!r}"
        )
    return SpanSet(documents=documents, questions=questions, name=root.resolve().name)


def _read_spans(path: Path, lengths: Mapping[str, int]) -> dict[str, dict[str, list[Span]]]:
    answers: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
        fields = line.strip("\r").split("\t")
        if not line.strip():
            continue
        try:
            query, corpus, start, end = fields[0], fields[1], int(fields[2]), int(fields[3])
            right = len(fields) == 4 and 0 <= start < end <= lengths[corpus]
        except (IndexError, KeyError, ValueError):
            right = False
        if not right:
            corpora = ", ".join(f"{name} ({length:,})" for name, length in lengths.items())
            raise ValueError(
                f"{path}, line {number}: expected query, corpus, start and end within the "
                f"corpus' characters, got {line[:80]!r}; corpora: {corpora}"
            )
        answers[query][corpus].append((start, end))
    return answers


def _check(
    chunkers: Mapping[str, AnyChunker],
    embedder: Embedder | None,
    mode: Mode,
    *,
    hits: int,
    budget: int,
) -> None:
    SearchOptions(mode=mode)
    if mode != "sparse" and embedder is None:
        raise ValueError(f"mode {mode!r} compares meanings: pass an embedder, or mode='sparse'")
    if not chunkers:
        raise ValueError("expected at least one chunker, got none")
    if hits < 1 or budget < 1:
        raise ValueError(f"expected hits and budget to be at least 1, got {hits} and {budget}")


def _about(
    spans: SpanSet, embedder: Embedder | None, mode: Mode, *, hits: int, budget: int
) -> About:
    by_words = "BM25 of the chunk's text"
    by_meaning = f"{embedder.fingerprint if embedder else None}, exactly, of the chunk's text"
    k = SearchOptions().fusion_k
    ways = {
        "sparse": by_words,
        "dense": by_meaning,
        "hybrid": f"{by_words} and {by_meaning}, fused by reciprocal ranks with k={k}",
    }
    return describe(
        "chunking",
        {
            "set": spans.name,
            "corpora": len(spans.documents),
            "characters": sum(len(document.text) for document in spans.documents),
        },
        queries=f"{len(spans.questions):,} questions of {spans.name} with reference spans",
        method=(
            f"Chunks of all corpora together are found by {ways[mode]}; title and headings do not "
            "count.",
            f"Recall, precision and IoU are of the {hits} best chunks, in characters; recall in "
            f"budget is of the best chunks up to {budget:,} characters.",
            "Differences are to the first chunker, with the interval of the paired bootstrap over "
            "the questions.",
        ),
        settings={"mode": mode, "hits": hits, "budget": budget},
    )


def _row(
    label: str,
    chunker: AnyChunker,
    chunks: Sequence[Chunk],
    best: Sequence[tuple[float, float, float]],
    budgeted: Sequence[float],
    first: Sequence[float],
) -> ChunkingRow:
    recalls, precisions, ious = zip(*best, strict=True)
    recall, low, high = mean_interval(recalls)
    own = chunker if isinstance(chunker, Chunker) else None
    return ChunkingRow(
        chunker=label,
        max_tokens=own.max_tokens if own else None,
        overlap=own.overlap if own else None,
        chunks=len(chunks),
        mean_chars=fmean(chunk.end - chunk.start for chunk in chunks),
        recall=recall,
        precision=fmean(precisions),
        iou=fmean(ious),
        recall_low=low,
        recall_high=high,
        recall_in_budget=fmean(budgeted),
        difference=[*paired_interval(first, recalls)] if first else [],
    )


def _depth(chunks: Sequence[Chunk], *, hits: int, budget: int) -> int:
    """How many chunks to find: enough to fill the budget, were they the shortest of all."""
    lengths = np.sort([chunk.end - chunk.start for chunk in chunks])
    enough = int(np.searchsorted(np.cumsum(lengths), budget)) + 1
    return min(len(chunks), max(hits, enough))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """How chunks are found for the questions.

    Attributes:
        vectors: Of the questions, shape (n, dim); None to find by words alone.
    """

    questions: Sequence[SpanQuestion]
    mode: Mode
    embedder: Embedder | None
    vectors: Vectors | None

    @classmethod
    def of(
        cls, questions: Sequence[SpanQuestion], mode: Mode, embedder: Embedder | None
    ) -> _Search:
        vectors = None
        if mode != "sparse" and embedder is not None:
            vectors = embed_queries(embedder, [question.text for question in questions])
        return cls(questions=questions, mode=mode, embedder=embedder, vectors=vectors)

    def rankings(self, chunks: Sequence[Chunk], depth: int) -> Iterator[Sequence[int]]:
        """For each question the numbers of the best `depth` chunks, best first."""
        if self.embedder is None or self.vectors is None:
            yield from _by_words(chunks, self.questions, depth)
            return
        by_meaning = _by_meaning(chunks, self.embedder, self.vectors, depth)
        if self.mode == "dense":
            yield from by_meaning
            return
        for words, meaning in zip(
            _by_words(chunks, self.questions, depth), by_meaning, strict=True
        ):
            yield _fused(words, meaning)[:depth]


def _by_meaning(
    chunks: Sequence[Chunk], embedder: Embedder, questions: Vectors, depth: int
) -> list[list[int]]:
    """For each question the numbers of the chunks of the greatest cosine, best first."""
    parts = [
        embed_documents(embedder, [chunk.text for chunk in some], titles=[""] * len(some))
        for some in batched(chunks, _EMBEDDED_AT_ONCE)
    ]
    found: list[list[int]] = nearest(np.concatenate(parts), questions, depth).rows.tolist()
    return found


def _fused(*rankings: Sequence[int]) -> list[int]:
    """Reciprocal rank fusion, with the k of a search's default; equal scores by number."""
    k = SearchOptions().fusion_k
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            scores[number] += 1 / (k - 1 + rank)
    return sorted(scores, key=lambda number: (-scores[number], number))


def _by_words(
    chunks: Sequence[Chunk], questions: Sequence[SpanQuestion], depth: int
) -> Iterator[list[int]]:
    """For each question the numbers of the best chunks by BM25, best first."""
    encoder = Bm25Encoder(avg_len=average_length(chunk.text for chunk in chunks))
    config = edge.EdgeConfig(
        sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
    )
    with tempfile.TemporaryDirectory(prefix="ragkit-") as folder:
        shard = edge.EdgeShard.create(folder, config)
        points = [
            edge.Point(number, {"bm25": _engine_vector(encoder.encode_document(chunk.text))})
            for number, chunk in enumerate(chunks)
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
        for question in questions:
            vector = _engine_vector(encoder.encode_query(question.text))
            query = edge.Query.Nearest(vector, using="bm25")
            hits = shard.query(edge.QueryRequest(limit=depth, query=query))
            yield [int(hit.id) for hit in sorted(hits, key=lambda hit: (-hit.score, hit.id))]
        shard.close()


def _engine_vector(vector: models.SparseVector) -> edge.SparseVector:
    return edge.SparseVector(indices=vector.indices, values=vector.values)


def _scores(
    search: _Search, chunks: Sequence[Chunk], *, hits: int, budget: int
) -> tuple[list[tuple[float, float, float]], list[float]]:
    """For each question recall, precision and IoU of the best hits, and recall in the budget."""
    rankings = search.rankings(chunks, _depth(chunks, hits=hits, budget=budget))
    best, budgeted = [], []
    for question, ranking in zip(search.questions, rankings, strict=True):
        found = [(chunks[n].source, chunks[n].start, chunks[n].end) for n in ranking]
        best.append(span_scores(question, found[:hits]))
        budgeted.append(span_scores(question, [*_within(budget, found)])[0])
    return best, budgeted


def span_scores(question: SpanQuestion, found: Sequence[Passage]) -> tuple[float, float, float]:
    """Recall, precision and IoU of the passages found for a question, in characters."""
    wanted = hit = 0
    for corpus, answer in question.answer.items():
        covered = _union((start, end) for source, start, end in found if source == corpus)
        own = _length(answer)
        wanted += own
        hit += own + _length(covered) - _length(_union([*answer, *covered]))
    retrieved = sum(end - start for _, start, end in found)
    return hit / wanted, hit / retrieved if retrieved else 0.0, hit / (retrieved + wanted - hit)


def _within(budget: int, found: Iterable[Passage]) -> Iterator[Passage]:
    """The first passages, as many characters of them as the budget has; the last cut to fit."""
    for corpus, start, end in found:
        if budget <= 0:
            return
        yield corpus, start, min(end, start + budget)
        budget -= end - start


def _union(spans: Iterable[Span]) -> list[Span]:
    """The same characters as spans in order that do not touch."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _length(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)
