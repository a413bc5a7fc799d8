"""What vectors lose, and what they save, when they are cut to fewer dimensions."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragkit.benchmark.environment import describe
from ragkit.benchmark.exact import Truth, nearest
from ragkit.benchmark.intervals import mean_interval
from ragkit.benchmark.judged import Judged
from ragkit.benchmark.originals import Originals, originals_of
from ragkit.benchmark.qualities import measured
from ragkit.benchmark.quantizations import originals_in
from ragkit.benchmark.queries import Queries, embedded, sample_queries
from ragkit.benchmark.rows import About, Fact, MeasureCallback, Rows
from ragkit.collection import Collection
from ragkit.embeddings import Vectors
from ragkit.errors import CollectionMismatch, require
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.points import LONG_PAGE, values_of

DIMS = (3072, 2048, 1536, 768, 512, 256, 128)

_BLOCK = 8_192  # vectors cut at once
_NDCG = "nDCG@10"
_RANKED = 10  # documents
_PASSAGES = 40  # looked at first, to find so many documents
_METHOD = (
    "Vectors and queries are cut to their first components and brought back to unit length; "
    "nothing is embedded again.",
    "Overlap is the part of a query's {limit} nearest neighbours at full dimension that are among "
    "its {limit} nearest at fewer; all by exact search, float32 products with every vector, so no "
    "index or quantization has a part in it.",
)
_METHOD_NDCG = "nDCG@10 is of documents, each where its best passage stands, also by exact search."


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionRow:
    """The vectors at one dimension.

    Attributes:
        dim: Components that are kept.
        overlap: The part of the exact neighbours at full dimension that is found, 0 to 1.
        overlap_low: Lower end of the 95% interval of that mean.
        overlap_high: Its upper end.
        ndcg: The mean nDCG@10 by the judgements; None without any.
        ndcg_low: Lower end of the 95% interval of that mean.
        ndcg_high: Its upper end.
        vector_bytes: Of one vector in float32.
        total_bytes: Of all of them.
        share: Of the bytes at full dimension.
        price: Of all of them a month, in the currency that the price was given in; None without.
    """

    dim: int
    overlap: float
    overlap_low: float
    overlap_high: float
    ndcg: float | None
    ndcg_low: float | None
    ndcg_high: float | None
    vector_bytes: int
    total_bytes: int
    share: float
    price: float | None


def dimension_sweep(
    source: Collection | Vectors,
    queries: Queries | None = None,
    *,
    dims: Sequence[int] | None = None,
    judged: Judged | None = None,
    id_key: str = "source",
    price_per_gb: float | None = None,
    limit: int = 10,
    sample: int = 1_000,
    seed: int = 0,
    progress: MeasureCallback | None = None,
) -> Rows[DimensionRow]:
    """Measure what is left of vectors at fewer dimensions, without embedding anything again.

    For comparison: Google gives for gemini-embedding-001 these means over the tasks of MTEB: 68.16
    at 2,048 dimensions, 68.17 at 1,536, 67.99 at 768, 67.55 at 512, 66.19 at 256 and 63.31 at 128.
    Only models that were trained for it can be cut like that (Kusupati et al. 2022, "Matryoshka
    Representation Learning").

    Args:
        source: A collection, or vectors of shape (n, dim), which are brought to unit length.
        queries: What to search for. None takes the judged questions, or else a sample of the
            vectors, each held out from its own neighbours.
        dims: Which dimensions; the full one always comes first. None: those of `DIMS` below it.
        judged: Questions with judgements, for nDCG@10; they are embedded once, at full dimension.
        id_key: The payload key that holds the judgements' document ids.
        price_per_gb: Of a gigabyte (1e9 bytes) of vectors for a month, in any currency.
        limit: How many neighbours are compared.
        sample: How many queries at most, unless queries are given.
        seed: Of the sample.
        progress: Told how far it is.

    Raises:
        ValueError: Vectors, queries or options that do not fit.
        CollectionMismatch: There are no vectors, or no embedder for the judged questions.
        MissingDependency: There are judgements, and ir-measures is not installed.
    """
    if price_per_gb is not None and not (price_per_gb >= 0 and math.isfinite(price_per_gb)):
        raise ValueError(f"expected a price of 0 or more for a gigabyte, got {price_per_gb}")
    with _originals(source, progress) as originals:
        count, full = originals.vectors.shape
        chosen = _chosen(dims, full)
        _check_limit(limit, count)
        questions = None if judged is None else _Questions(source, judged, id_key, originals)
        if questions is not None:
            questions.embed(progress)
        asked = queries or _asked(originals, questions, sample, seed)
        settings: dict[str, Fact] = {"limit": limit, "price_per_gb": price_per_gb}
        about = _about(source, originals, asked, judged, settings)
        overlaps = _Overlaps(originals, asked, limit)
        notes = [*_trained(source), *(judged.notes if judged is not None else ())]
        rows = []
        for number, dim in enumerate(chosen):
            with _cut(originals.vectors, dim) as (vectors, zeros):
                overlap = mean_interval(overlaps.at(vectors))
                ndcg = None if questions is None else mean_interval(questions.ndcg(vectors))
            rows.append(_row(dim, overlap, ndcg, count, full, price_per_gb))
            if zeros:
                notes.append(f"{zeros:,} vectors are zero in their first {dim:,} components.")
            if progress is not None:
                progress("comparing", number + 1, len(chosen))
    return Rows(rows, about=replace(about, notes=tuple(notes)))


def _row(
    dim: int,
    overlap: tuple[float, float, float],
    ndcg: tuple[float, float, float] | None,
    count: int,
    full: int,
    price_per_gb: float | None,
) -> DimensionRow:
    total = 4 * dim * count
    return DimensionRow(
        dim=dim,
        overlap=overlap[0],
        overlap_low=max(0.0, overlap[1]),
        overlap_high=min(1.0, overlap[2]),
        ndcg=None if ndcg is None else ndcg[0],
        ndcg_low=None if ndcg is None else max(0.0, ndcg[1]),
        ndcg_high=None if ndcg is None else min(1.0, ndcg[2]),
        vector_bytes=4 * dim,
        total_bytes=total,
        share=dim / full,
        price=None if price_per_gb is None else price_per_gb * total / 1e9,
    )


@contextmanager
def _originals(
    source: Collection | Vectors, progress: MeasureCallback | None
) -> Iterator[Originals]:
    if isinstance(source, Collection):
        with originals_of(source, progress=progress) as held:
            yield held
    else:
        yield originals_in(source)


def _chosen(dims: Sequence[int] | None, full: int) -> list[int]:
    wanted = [dim for dim in DIMS if dim < full] if dims is None else list(dims)
    wrong = [dim for dim in wanted if not 1 <= dim <= full]
    if wrong:
        raise ValueError(
            f"expected dimensions from 1 to {full:,}, which the vectors have, got "
            f"{', '.join(map(str, wrong))}"
        )
    return sorted({full, *wanted}, reverse=True)


def _check_limit(limit: int, count: int) -> None:
    if not 1 <= limit < count:
        raise ValueError(
            f"expected a limit from 1 to {count - 1:,}, fewer than there are vectors, got {limit}: "
            "measure where there are more"
        )


def _asked(originals: Originals, questions: _Questions | None, sample: int, seed: int) -> Queries:
    """The queries of the overlap where none were given."""
    if questions is None:
        return sample_queries(originals, sample, seed=seed)
    every = questions.queries
    if not 1 <= sample < len(every):
        return every
    rows = np.sort(np.random.default_rng(seed).permutation(len(every))[:sample])
    drawn = f"overlap is of {sample:,} of them, drawn at random (seed {seed})"
    return replace(every.part(rows.tolist()), origin=f"{every.origin}; {drawn}")


class _Overlaps:
    """How much of the neighbours at full dimension is found at fewer."""

    def __init__(self, originals: Originals, queries: Queries, limit: int) -> None:
        full = originals.vectors.shape[1]
        if queries.vectors.ndim != 2 or queries.vectors.shape[1] != full or not len(queries):
            raise ValueError(
                f"expected query vectors of shape (q, {full}), as wide as the vectors, got "
                f"{queries.vectors.shape}"
            )
        self._originals = originals
        self._queries = queries
        self._limit = limit
        self._truth = Truth(originals, queries.vectors, limit, own=queries.own)
        row_of = {point_id: row for row, point_id in enumerate(originals.ids)}
        own = [None] * len(queries) if queries.own is None else queries.own
        self._without = np.array([row_of.get(each or "", -1) for each in own], np.int64)

    def at(self, vectors: Vectors) -> NDArray[np.float64]:
        """For each query the part that is found among cut vectors of shape (n, dim)."""
        queries = _shortened(self._queries.vectors, vectors.shape[1])
        found = nearest(vectors, queries, self._limit, without=self._without)
        ids = [[self._originals.ids[row] for row in rows] for rows in found.rows.tolist()]
        return self._truth.shares(ids, self._limit)


class _Questions:
    """Judged questions, and the documents that the vectors belong to."""

    def __init__(
        self, source: Collection | Vectors, judged: Judged, id_key: str, originals: Originals
    ) -> None:
        require("ir_measures", "bench")  # before anything is paid for
        if not isinstance(source, Collection):
            raise ValueError(
                "judgements are of documents, and an array does not say whose its vectors are: "
                "measure the collection, or leave the judgements out"
            )
        if source.embedder is None:
            raise CollectionMismatch(
                f"the questions of {judged.name} have to be embedded as the passages of collection "
                f"{source.name!r} were, and there is no embedder: pass it, or leave them out"
            )
        self._embedder = source.embedder
        self._judged = judged
        self._documents = _documents(source, originals, id_key)
        known = {each for documents in judged.qrels.values() for each in documents}
        if known.isdisjoint(self._documents):
            raise ValueError(
                f"none of the documents in collection {source.name!r} is judged: under {id_key!r} "
                f"they have ids such as {self._documents[0]!r}, in the judgements they are such as "
                f"{next(iter(known))!r}; name the payload key that holds the judgements' ids"
            )

    def embed(self, progress: MeasureCallback | None) -> None:
        """Embed the questions at full dimension."""
        texts = list(self._judged.queries.values())
        self.queries = Queries(
            vectors=embedded(self._embedder, texts, progress=progress),
            texts=texts,
            origin=(
                f"{len(texts):,} queries of {self._judged.name}, embedded by "
                f"{self._embedder.fingerprint}"
            ),
        )

    def ndcg(self, vectors: Vectors) -> NDArray[np.float64]:
        """For each question nDCG@10 among cut vectors of shape (n, dim)."""
        queries = _shortened(self.queries.vectors, vectors.shape[1])
        rankings = _rankings(vectors, queries, self._documents)
        ranked = dict(zip(self._judged.queries, rankings, strict=True))
        return measured(self._judged.qrels, ranked, [_NDCG])[_NDCG]


def _documents(collection: Collection, originals: Originals, id_key: str) -> list[str]:
    """For each vector the document of its point; "" where the key is not there."""
    _, points = collection.searchable()
    records = points.scroll(fields=[id_key], page=LONG_PAGE)
    found = {str(record.id): min(values_of(record, id_key), default="") for record in records}
    return [found.get(point_id, "") for point_id in originals.ids]


def _rankings(vectors: Vectors, queries: Vectors, documents: Sequence[str]) -> list[list[str]]:
    """For each query the ten best documents, each where its best passage stands."""
    rankings: list[list[str]] = [[] for _ in queries]
    depth, waiting = min(_PASSAGES, len(vectors)), np.arange(len(queries))
    while len(waiting):
        found = nearest(vectors, queries[waiting], depth)
        for query, rows in zip(waiting.tolist(), found.rows.tolist(), strict=True):
            best = dict.fromkeys(documents[row] for row in rows if documents[row])
            rankings[query] = list(best)[:_RANKED]
        if depth == len(vectors):
            break
        waiting = np.array([i for i in waiting.tolist() if len(rankings[i]) < _RANKED], np.int64)
        depth = min(4 * depth, len(vectors))
    return rankings


@contextmanager
def _cut(vectors: Vectors, dim: int) -> Iterator[tuple[Vectors, int]]:
    """The first components at unit length, in a temporary file, and how many of them are zero.

    In a file, as the originals are: what memory holds is not to grow with the collection.
    """
    if dim == vectors.shape[1]:
        yield vectors, 0
        return
    zeros = 0
    with tempfile.TemporaryDirectory(prefix="ragkit-") as folder:
        path = Path(folder) / "vectors.f32"
        with path.open("wb") as file:
            for start in range(0, len(vectors), _BLOCK):
                block = _shortened(vectors[start : start + _BLOCK], dim)
                zeros += int((~block.any(axis=1)).sum())
                block.tofile(file)
        yield np.memmap(path, np.float32, "r", shape=(len(vectors), dim)), zeros


def _shortened(vectors: Vectors, dim: int) -> Vectors:
    """The first components at unit length; what has nothing in them stays zero."""
    short = np.array(vectors[:, :dim], np.float32)
    norms = np.linalg.norm(short, axis=1, keepdims=True)
    np.divide(short, norms, out=short, where=norms > 0)
    return short


def _trained(source: Collection | Vectors) -> list[str]:
    """What is known of whether the model was trained to be cut."""
    fingerprint = source.manifest.embedder if isinstance(source, Collection) else None
    if GeminiEmbedder.from_fingerprint(fingerprint) is not None:
        return []
    model = f"of {fingerprint} " if fingerprint else ""
    return [
        f"Nothing says that the model {model}was trained for vectors to be cut (Matryoshka): of "
        "others the first components hold no more than the rest."
    ]


def _about(
    source: Collection | Vectors,
    originals: Originals,
    queries: Queries,
    judged: Judged | None,
    settings: dict[str, Fact],
) -> About:
    count, full = originals.vectors.shape
    subject: dict[str, Fact] = {"collection": None, "embedder": None}
    if isinstance(source, Collection):
        subject = {
            "collection": source.name,
            "tenant": source.tenant,
            "embedder": source.manifest.embedder,
        }
    about = describe(
        "dimensions",
        {**subject, "points": count, "dimensions": full},
        queries=queries.origin,
        method=[
            *(each.format(limit=settings["limit"]) for each in _METHOD),
            *([] if judged is None else [_METHOD_NDCG]),
        ],
        settings=settings,
    )
    if judged is None:
        return about
    return replace(about, versions={**about.versions, "ir-measures": version("ir-measures")})
