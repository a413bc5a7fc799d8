"""What is searched for, checked as far as that goes before the collection is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ragkit.embeddings import Vectors
from ragkit.errors import CollectionMismatch
from ragkit.search_options import CALL, COLLECTION, RETRIEVER, SearchKeywords, Settled, settle
from ragkit.search_request import Searchable


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is searched for.

    Attributes:
        queries: In words.
        vectors: As embedded already, shape (len(queries), dim); None to have them embedded.
        levels: Who says which options, see `settle`.
        own: What the levels come to, where the collection itself says nothing.
        rerank: Whether there is a reranker.
        warned: What was warned of before; each is warned of once.
    """

    queries: Sequence[str]
    vectors: Vectors | None
    levels: Sequence[tuple[str, SearchKeywords]]
    own: Settled
    rerank: bool
    warned: set[str]

    def settled(self, where: Searchable) -> Settled:
        """The options as they hold for a collection.

        Raises:
            CollectionMismatch: What its manifest says is none of this ragkit's options.
        """
        found_best = dict(where.defaults)
        by_meaning = self.vectors is not None or where.embedder is not None
        if where.dim is not None and not by_meaning and found_best.get("mode") != "sparse":
            # They are of a search with the embedder, and without it words alone are searched.
            for name in ("mode", "diversity", "score_threshold"):
                found_best.pop(name, None)
        if not found_best:
            return self.own
        try:
            return settle((COLLECTION, found_best), *self.levels)
        except (TypeError, ValueError) as exc:  # the levels were found right when it was asked
            raise CollectionMismatch(
                f"collection {where.name!r} is to be searched with options that this ragkit "
                f"cannot follow ({exc}): upgrade it, or set them anew (set_search_defaults)"
            ) from exc


class Asking:
    """What a retriever says of all its searches, to be put together with what each says.

    Args:
        options: The retriever's.
        rerank: Whether it has a reranker.

    Raises:
        TypeError: There is no such option.
        ValueError: One is out of its range.
    """

    def __init__(self, options: SearchKeywords, *, rerank: bool) -> None:
        settle((RETRIEVER, options))
        self.options = options
        self._rerank = rerank
        self._warned: set[str] = set()

    def __call__(
        self,
        queries: Sequence[str],
        vectors: ArrayLike | None,
        options: SearchKeywords,
        *between: tuple[str, SearchKeywords],
    ) -> Asked:
        """Check what is asked for, as far as that goes before the collection is known.

        Args:
            queries: In words.
            vectors: As embedded already, shape (len(queries), dim); None to have them embedded.
            options: The call's.
            between: Levels that overrule the retriever's, and are overruled by the call's.

        Raises:
            TypeError: There is no such option, or a query is no string.
            ValueError: A blank query, vectors of another shape, or an option out of its range.
        """
        _check_queries(queries)
        levels = [(RETRIEVER, self.options), *between, (CALL, options)]
        return Asked(
            queries=queries,
            own=_settled(levels),
            vectors=None if vectors is None or not queries else _matrix(vectors, len(queries)),
            levels=levels,
            rerank=self._rerank,
            warned=self._warned,
        )


def _check_queries(queries: Sequence[str]) -> None:
    if isinstance(queries, str) or not isinstance(queries, Sequence):
        raise TypeError(f"expected a list of queries, got {type(queries).__name__}")
    for index, query in enumerate(queries):
        _check_query(query, which=f"query {index}: " if len(queries) > 1 else "")


def _settled(levels: Sequence[tuple[str, SearchKeywords]]) -> Settled:
    """As `settle`, which takes longer than all else here: the same options come again and again."""
    said = tuple(
        # With the types, since True equals 1.
        (origin, tuple((name, type(value), value) for name, value in given.items()))
        for origin, given in levels
    )
    try:
        return _remembered(said)
    except TypeError:  # of an option that has no hash, such as a filter; or of a wrong one
        return settle(*levels)


@lru_cache(maxsize=256)
def _remembered(said: tuple[tuple[str, tuple[tuple[str, type, Any], ...]], ...]) -> Settled:
    return settle(
        *((origin, {name: value for name, _, value in options}) for origin, options in said)
    )


def as_rows(vector: ArrayLike | None) -> Vectors | None:
    """One query's vector as those of a list of queries.

    Raises:
        ValueError: It is not one vector.
    """
    if vector is None:
        return None
    row = _floats(vector)
    if row.ndim != 1:
        raise ValueError(f"expected a vector of shape (dim,), got {row.shape}")
    return row[np.newaxis]


def _check_query(query: str, *, which: str) -> None:
    if not isinstance(query, str):
        raise TypeError(f"{which}expected a query in words, got {type(query).__name__}")
    if not query.strip():
        raise ValueError(f"{which}expected a query with words in it, got a blank one")
    if any("\ud800" <= char <= "\udfff" for char in query):
        raise ValueError(f"{which}expected a query of valid text, got one that is not UTF-8")


def _floats(given: ArrayLike) -> Vectors:
    if type(given) is np.ndarray and given.dtype == np.float32:
        return given  # as embedders make them
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused as such
            return np.asarray(given, np.float32)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"expected vectors of numbers: {exc}") from exc


def _matrix(vectors: ArrayLike, count: int) -> Vectors:
    matrix = _floats(vectors)
    if matrix.ndim != 2 or len(matrix) != count:
        raise ValueError(f"expected one vector for each of {count} queries, got {matrix.shape}")
    if 0 < np.vdot(matrix, matrix) < np.inf and count == 1:
        return matrix
    if not np.isfinite(matrix).all() or not matrix.any(axis=1).all():
        raise ValueError("expected finite vectors that are not all zeros")
    return matrix
