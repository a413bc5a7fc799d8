"""The same vectors under one quantization after the other: what it finds, how fast, in how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.benchmark.building import Built, built, store_for
from ragkit.benchmark.environment import describe
from ragkit.benchmark.exact import Truth
from ragkit.benchmark.originals import Originals, originals_of
from ragkit.benchmark.queries import Queries, sample_queries, unit
from ragkit.benchmark.rows import About, MeasureCallback, Rows
from ragkit.benchmark.searches import (
    OVERSAMPLING,
    Measured,
    Searches,
    check_exact,
    measured,
    settings_of,
)
from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.quantization import AnyQuantization, Quantization
from ragkit.search_options import CALL, MAX_LIMIT, settle
from ragkit.server import TURBO_QUANTIZATION, server_info

KINDS: tuple[str, ...] = (
    "none",
    "scalar",
    *map("".join, product(
        ["binary", "binary-1.5bit", "binary-2bit"],
        ["", "-query-scalar4bits", "-query-scalar8bits"],
    )),
    "turbo",
    "turbo-2bit",
    "turbo-1.5bit",
    "turbo-1bit",
    "product",
)  # fmt: skip
LIMITS = (10, 100)

_MOST_HELD_OUT = 5  # of an array at most every fifth vector becomes a query
_METHOD = (
    "Each quantization was built by itself: a collection of these vectors and nothing else, "
    "loaded, optimized, measured and deleted before the next; build_s is loading and optimizing.",
    "Graph or none is as ragkit makes a collection of that size and quantization: on the embedded "
    "engine quantized vectors are all read up to 100 million components, and searched through "
    "HNSW beyond; unquantized ones, and all of those on a server, through HNSW.",
    "Recall is the part of a query's nearest neighbours, by float32 products with every vector, "
    "that the search finds; neighbours within 1e-6 of the last one's score count as found.",
    "Times are of one client that searches one query after the other for ids alone; medians of "
    "{runs} runs over all settings of a quantization in turn, each warmed up.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationRow:
    """One quantization, searched in one way.

    Attributes:
        quantization: Its name, as `Quantization` has it.
        limit: How many neighbours are asked for.
        oversampling: How many times as many candidates are compared again; None for "none".
        rescore: Whether they are compared again with the original vectors; None for "none".
        recall: The mean over the queries, 0 to 1.
        recall_low: Lower end of the 95% interval of that mean.
        recall_high: Its upper end.
        p50_ms: Median time of a search, in milliseconds.
        p95_ms: What 95 of 100 searches stay below.
        qps: Searches a second, one after the other.
        code_bytes: What a search reads or walks through: the quantized vectors, or the originals
            where there are none. Turbo has 8 bytes for each vector beside its bits, scalar 4;
            product's codebook, 1 KB for each dimension, is not counted.
        graph_bytes: The files of the graph; without one the engine keeps some bytes a vector.
            None on a server, which does not tell.
        disk_bytes: All that the collection takes on disk, with the originals and the log. None on
            a server.
        build_s: Seconds for loading and optimizing.
        ratio: `code_bytes` to the bytes of the originals in float32.
    """

    quantization: str
    limit: int
    oversampling: float | None
    rescore: bool | None
    recall: float
    recall_low: float
    recall_high: float
    p50_ms: float
    p95_ms: float
    qps: float
    code_bytes: int
    graph_bytes: int | None
    disk_bytes: int | None
    build_s: float
    ratio: float


def quantization_sweep(
    source: Collection | Vectors,
    queries: Queries | None = None,
    *,
    kinds: Sequence[AnyQuantization] = KINDS,
    limits: Sequence[int] = LIMITS,
    oversampling: Sequence[float] = OVERSAMPLING,
    client: QdrantBase | None = None,
    sample: int = 500,
    runs: int = 3,
    seed: int = 0,
    progress: MeasureCallback | None = None,
) -> Rows[QuantizationRow]:
    """Measure recall, time and size of the same vectors under each quantization.

    They are copied, one quantization at a time, into a store of their own in the system's temporary
    folder (`TMPDIR`), which is gone at the end; a collection is only read.

    Args:
        source: A collection, or vectors of shape (n, dim), which are brought to unit length.
        queries: What to search for. None takes a sample: passages of the collection, each held
            out from its own hits; of an array rows that are left out of the index altogether.
        kinds: Quantizations, as `Collection` takes them.
        limits: How many neighbours.
        oversampling: Each with and without rescoring.
        client: Build in this store instead, under names of their own, which are dropped again.
        sample: How many queries, if none are given; of an array at most a fifth of it.
        runs: How often every setting is measured, at least 3 times.
        seed: Of the sample.
        progress: Told how far it is.

    Returns:
        For each quantization one row for each combination of limit, oversampling and rescore.

    Raises:
        ValueError: Vectors, queries or options that do not fit, or an unknown quantization.
        StoreFull: There is too little disk space for it.
        ServerTooOld: The server in `client` knows none of the quantizations.
    """
    embedded = client is None or isinstance(client, EdgeClient)
    chosen, notes = _known(_distinct(kinds, embedded=embedded), client)
    with _material(source, queries, sample, seed, progress) as (originals, asked):
        _check(originals, asked, limits, oversampling)
        rows: list[QuantizationRow] = []
        segments: list[int] = []
        with store_for(client, originals.vectors) as store:
            about = _about(source, originals, asked, store, runs)
            truth = Truth(originals, asked.vectors, max(limits), own=asked.own)
            for kind in chosen:
                told = _prefixed(progress, kind.name)
                with built(store, kind, originals.vectors, told) as made:
                    segments.append(made.where.info.segments_count)
                    notes += made.notes
                    rows += _measured(made, asked, truth, limits, oversampling, runs, told)
    least, most = min(segments), max(segments)
    subject = {**about.subject, "segments": least if least == most else f"{least} to {most}"}
    return Rows(rows, about=replace(about, subject=subject, notes=(*notes, *about.notes)))


@contextmanager
def _material(
    source: Collection | Vectors,
    queries: Queries | None,
    sample: int,
    seed: int,
    progress: MeasureCallback | None,
) -> Iterator[tuple[Originals, Queries]]:
    """The vectors to index, their rows as ids, and the queries."""
    if isinstance(source, Collection):
        with originals_of(source, progress=progress) as held:
            given = queries or sample_queries(held, sample, seed=seed)
            yield _by_rows(held, given)
        return
    originals = originals_in(source)
    if queries is not None:
        yield originals, queries
        return
    vectors = originals.vectors
    size = min(sample, len(vectors) // _MOST_HELD_OUT)
    if size < 1:
        raise ValueError(
            f"expected at least {_MOST_HELD_OUT} vectors and a sample of at least 1, of which some "
            f"become queries, got {len(vectors)} and {sample}: bring queries, or more vectors"
        )
    order = np.random.default_rng(seed).permutation(len(vectors))
    asked, indexed = np.sort(order[:size]), np.sort(order[size:])
    origin = (
        f"{size:,} of the vectors, drawn at random (seed {seed}) and left out of the index; "
        "questions in people's words lie farther from the passages"
    )
    found = Queries(vectors=vectors[asked], origin=origin)
    yield Originals(ids=_rows(len(indexed)), vectors=vectors[indexed]), found


def originals_in(array: Vectors) -> Originals:
    """Vectors from outside, as float32 of unit length, with the numbers of their rows for ids.

    Raises:
        ValueError: They are no numbers of shape (n, dim), or a row is zero or not finite.
    """
    vectors = np.asarray(array)
    if vectors.ndim != 2 or vectors.shape[1] < 1 or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"expected vectors as numbers of shape (n, dim), got {vectors.dtype} of {vectors.shape}"
        )
    units = unit(vectors.astype(np.float32, copy=False), origin="the array")
    return Originals(ids=_rows(len(units)), vectors=units)


def _by_rows(held: Originals, queries: Queries) -> tuple[Originals, Queries]:
    """The same with the rows' numbers for ids: what is built here has no others."""
    row_of = {point_id: str(row) for row, point_id in enumerate(held.ids)}
    own = None if queries.own is None else [row_of.get(each, "") for each in queries.own]
    numbered = Queries(vectors=queries.vectors, own=own, origin=queries.origin)
    return Originals(ids=_rows(len(held.ids)), vectors=held.vectors), numbered


def _rows(count: int) -> list[str]:
    return [str(row) for row in range(count)]


def _check(
    originals: Originals, queries: Queries, limits: Sequence[int], oversampling: Sequence[float]
) -> None:
    """Refuse what does not fit before anything is built."""
    for factor in oversampling:
        settle((CALL, {"oversampling": factor}))
    count, dim = originals.vectors.shape
    if queries.vectors.ndim != 2 or queries.vectors.shape[1] != dim or not len(queries):
        raise ValueError(
            f"expected query vectors of shape (q, {dim}), as wide as the vectors, got "
            f"{queries.vectors.shape}"
        )
    most = min(count - (queries.own is not None), MAX_LIMIT)
    wrong = [limit for limit in limits if not 1 <= limit <= most]
    if wrong or not limits:
        raise ValueError(
            f"expected limits from 1 to {most:,}, for {count:,} vectors are indexed, got "
            f"{', '.join(map(str, wrong)) or 'none'}: ask for fewer, or bring more vectors"
        )


def _distinct(kinds: Sequence[AnyQuantization], *, embedded: bool) -> list[Quantization]:
    found: list[Quantization] = []
    for each in kinds:
        kind = Quantization.of(each).settled(embedded=embedded)
        if kind not in found:
            found.append(kind)
    if not found:
        raise ValueError("expected at least one quantization, got none")
    return found


def _known(
    kinds: Sequence[Quantization], client: QdrantBase | None
) -> tuple[list[Quantization], list[str]]:
    """Those that the store knows, and what to say of the others."""
    server = None if client is None else server_info(client)
    if server is None or server.has(TURBO_QUANTIZATION):
        return list(kinds), []
    known = [each for each in kinds if not isinstance(each.config, models.TurboQuantization)]
    if not known:
        server.require(TURBO_QUANTIZATION)
    left_out = ", ".join(each.name for each in kinds if each not in known)
    since = f"the server is {server.version}, they need {TURBO_QUANTIZATION.since}"
    return known, [f"Not measured: {left_out}; {since}."] if left_out else []


def _measured(
    made: Built,
    queries: Queries,
    truth: Truth,
    limits: Sequence[int],
    oversampling: Sequence[float],
    runs: int,
    progress: MeasureCallback | None,
) -> list[QuantizationRow]:
    searches = Searches(made.where, made.points, queries)
    check_exact(searches, truth, max(limits))
    quantized = made.where.quantization is not None
    settings = settings_of(made.where, oversampling=oversampling if quantized else None)
    cells = [(setting, limit) for limit in dict.fromkeys(limits) for setting in settings]
    found = measured(searches, cells, truth, runs=runs, progress=progress)
    return [_row(made, cell) for cell in found]


def _row(made: Built, cell: Measured) -> QuantizationRow:
    mean, low, high = cell.recall
    return QuantizationRow(
        quantization=made.quantization.name,
        limit=cell.limit,
        oversampling=cell.setting.oversampling,
        rescore=cell.setting.rescore,
        recall=mean,
        recall_low=low,
        recall_high=high,
        p50_ms=cell.timing.p50_ms,
        p95_ms=cell.timing.p95_ms,
        qps=cell.timing.qps,
        code_bytes=made.code_bytes,
        graph_bytes=made.graph_bytes,
        disk_bytes=made.disk_bytes,
        build_s=made.build_s,
        ratio=made.ratio,
    )


def _about(
    source: Collection | Vectors,
    originals: Originals,
    queries: Queries,
    store: QdrantBase,
    runs: int,
) -> About:
    server = server_info(store)
    return describe(
        "quantization",
        {
            "collection": source.name if isinstance(source, Collection) else None,
            "tenant": source.tenant if isinstance(source, Collection) else None,
            "store": "embedded" if server is None else f"Qdrant server {server.version}",
            "points": len(originals.ids),
            "dimensions": originals.vectors.shape[1],
        },
        queries=queries.origin,
        client=store,
        method=[each.format(runs=runs) for each in _METHOD],
        settings={"runs": runs},
        notes=_notes(store),
    )


def _notes(store: QdrantBase) -> list[str]:
    notes = [
        "Oversampling counts in every segment by itself: in more segments as many times the "
        "candidates are compared again, and recall is higher than it would be in one."
    ]
    if isinstance(store, EdgeClient):
        notes[0] += " One of the embedded engine's segments, for what comes next, is empty."
    else:
        notes.append(
            "code_bytes is computed, with the sizes of the embedded engine: a server does not tell."
        )
    return notes


def _prefixed(progress: MeasureCallback | None, name: str) -> MeasureCallback | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{name}: {what}", done, total)
