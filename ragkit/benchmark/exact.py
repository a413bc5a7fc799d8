"""The truth that searches are measured against: every vector compared with every query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragkit.benchmark.originals import Originals
from ragkit.embeddings import Vectors

# Scores closer than this are equal: float32 products differ by as much from one order of
# summation to another, and which of two equal passages is found is chance.
TIE = 1e-6
_QUERIES = 1_024  # at a time
_SCORES = 8_000_000  # held at once
_SPARE = 64  # neighbours beyond the last that counts, to see who is level with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The nearest neighbours of queries, best first.

    Attributes:
        rows: Which vectors, shape (queries, k).
        scores: Their inner products with the query, shape (queries, k); -inf where there was
            nothing left to choose.
    """

    rows: NDArray[np.int64]
    scores: Vectors


def nearest(
    vectors: Vectors, queries: Vectors, k: int, *, without: NDArray[np.int64] | None = None
) -> Nearest:
    """The k vectors of the largest inner product with each query, by comparing all of them.

    The products are float32, block by block, so that vectors may be a memory map.

    Args:
        vectors: Shape (n, dim); of unit length the inner product is the cosine.
        queries: Shape (q, dim).
        k: How many, at most n of them.
        without: For each query a row that is not to count, or -1; shape (q,).
    """
    k = min(k, len(vectors))
    if without is None:
        without = np.full(len(queries), -1, np.int64)
    parts = [
        _nearest(vectors, queries[i : i + _QUERIES], k, without[i : i + _QUERIES])
        for i in range(0, len(queries), _QUERIES)
    ]
    if not parts:
        return Nearest(rows=np.empty((0, k), np.int64), scores=np.empty((0, k), np.float32))
    rows, scores = zip(*parts, strict=True)
    return Nearest(rows=np.concatenate(rows), scores=np.concatenate(scores))


def _nearest(
    vectors: Vectors, queries: Vectors, k: int, without: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Vectors]:
    best = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    step = max(k, _SCORES // max(1, len(queries)))
    for start in range(0, len(vectors), step):
        scores = queries @ np.asarray(vectors[start : start + step]).T
        own = np.flatnonzero((without >= start) & (without < start + scores.shape[1]))
        scores[own, without[own] - start] = -np.inf
        new, columns = _largest(scores, k)
        best, kept = _largest(np.hstack([best, new]), k)
        rows = np.take_along_axis(np.hstack([rows, columns + start]), kept, axis=1)
    order = np.lexsort((rows, -best), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)


def _largest(scores: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """The k largest of each row, in no order, and their columns."""
    if scores.shape[1] > k:
        columns = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.take_along_axis(scores, columns, axis=1), columns


class Truth:
    """What an exact search finds for each query, and which part of it another search has found.

    Args:
        originals: The vectors that are searched.
        queries: Shape (q, dim).
        k: The largest limit that will be asked for.
        own: For each query the id of a point that is not to count among its neighbours: the one
            that it was taken from. None where the queries are no points.
    """

    def __init__(
        self, originals: Originals, queries: Vectors, k: int, *, own: Sequence[str] | None = None
    ) -> None:
        self._originals = originals
        self._queries = queries
        self._row = {point_id: row for row, point_id in enumerate(originals.ids)}
        without = None
        if own is not None:
            without = np.array([self._row.get(each, -1) for each in own], np.int64)
        self._nearest = nearest(originals.vectors, queries, k + _SPARE, without=without)
        self._k = k

    def shares(self, found: Sequence[Sequence[str]], limit: int) -> NDArray[np.float64]:
        """Recall: the part of each query's `limit` nearest neighbours that a search has found.

        What is as near as the last of them counts as well, whichever of those was found. Where
        there are fewer neighbours than `limit`, all of them are to be found.

        Args:
            found: The ids that were found, for each query; not more than `limit`.
            limit: At most the truth's own k.

        Returns:
            Shape (q,), each from 0 to 1.

        Raises:
            ValueError: The truth does not reach that far.
        """
        if limit > self._k:
            raise ValueError(f"expected a limit of at most {self._k}, got {limit}")
        return np.array(
            [self._share(query, ids[:limit], limit) for query, ids in enumerate(found)], np.float64
        )

    def ids(self, query: int, limit: int) -> list[str]:
        """The ids of a query's nearest neighbours, best first."""
        scores = self._nearest.scores[query, :limit]
        rows = self._nearest.rows[query, :limit][np.isfinite(scores)]
        return [self._originals.ids[row] for row in rows]

    def _share(self, query: int, ids: Sequence[str], limit: int) -> float:
        scores = self._nearest.scores[query]
        wanted = min(limit, int(np.isfinite(scores).sum()))
        if not wanted:
            return 1.0
        least = float(scores[wanted - 1]) - TIE
        level = int((scores >= least).sum())
        near = set(self._nearest.rows[query, :level].tolist())
        rows = {self._row[each] for each in ids if each in self._row}
        hits = sum(row in near for row in rows)
        if level == len(scores) and len(scores) < len(self._originals.ids):
            # More than are kept here are level with the last that counts: compare them themselves.
            others = [row for row in rows if row not in near]
            hits += int((self._originals.vectors[others] @ self._queries[query] >= least).sum())
        return min(hits, wanted) / wanted
