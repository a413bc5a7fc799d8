"""What points are scored by: vectors and examples, fusions, orders, formulas, texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from ragkit.edge.filters import rfc3339
from ragkit.edge.formulas import to_edge_formula
from ragkit.edge.points import EdgeId, VectorSchema, to_edge_id, to_edge_query_vector
from ragkit.edge.responses import bad_request, not_found, unsupported

Resolve: TypeAlias = Callable[[EdgeId, str, str | None], Any]
"""`(point id, vector name, other collection or None)` to the `vector` of the engine's record of
that point, retrieved with that vector; None if there is no such point."""

DEFAULT_LIMIT = 10
_DEFAULT_RRF_K = 2
_DEFAULT_DIVERSITY = 0.5
_MAX_CANDIDATES = 16_384

_INFERENCE = (models.Document, models.Image, models.InferenceObject)
_INPUTS = (list, np.ndarray, str, int, UUID, models.SparseVector, *_INFERENCE)

Request: TypeAlias = models.QueryRequest | models.Prefetch


def to_edge_scoring(request: Request, schema: VectorSchema, resolve: Resolve) -> Any:
    """What the engine scores by, or None where the request has no query.

    Raises:
        UnexpectedResponse: A query that a server refuses (400), or that names a point that is
            not there (404).
        NotImplementedError: A query that the engine does not have.
    """
    query = _explicit(request.query)
    _refuse_senseless(query, request)
    if query is None:
        return None
    translate = _QUERIES.get(type(query))
    if translate is None:
        raise unsupported(f"the query {type(query).__name__}")
    return translate(_Vectors(request, schema, resolve), query)


def as_list(value: Any) -> list[Any]:
    """What qdrant-client takes as one or as several, as several."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def limit_of(request: Request) -> int:
    """How many points the request asks for, the server's default if it does not say."""
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
    if limit < 1:
        raise invalid("limit", limit, "1 or larger")
    return limit


def invalid(what: str, got: Any, expected: str) -> Exception:
    """The server's refusal of a number that is out of range."""
    return bad_request(
        f"Validation error in JSON body: [{what}: value {got} invalid, must be {expected}]"
    )


def _explicit(query: Any) -> Any:
    """A bare vector or id means the nearest points to it."""
    if query is None or type(query) in _QUERIES:
        return query
    if isinstance(query, _INPUTS):
        return models.NearestQuery.model_construct(nearest=query)
    return query


def _refuse_senseless(query: Any, request: Request) -> None:
    if query is None:
        if request.prefetch:
            raise bad_request(
                "Bad request: A query is needed to merge the prefetches. "
                "Can't have prefetches without defining a query."
            )
        if request.score_threshold is not None:
            raise bad_request(
                "Bad request: A query is needed to use the score_threshold. "
                "Can't have score_threshold without defining a query."
            )
    elif isinstance(query, models.OrderByQuery) and request.score_threshold is not None:
        raise bad_request("Bad request: Can't use score_threshold with an order_by query.")
    elif isinstance(query, models.FusionQuery | models.RrfQuery):
        if request.using:
            raise bad_request(
                "Bad request: Fusion queries cannot be combined with the 'using' field."
            )
        if not request.prefetch:
            raise bad_request("Bad request: cannot apply Fusion without prefetches")


class _Vectors:
    """The query vectors of one request or prefetch."""

    def __init__(self, request: Request, schema: VectorSchema, resolve: Resolve) -> None:
        self.schema = schema
        self.resolve = resolve
        self.using = request.using or ""
        self.lookup = request.lookup_from
        self.request = request
        if self.lookup is not None and self.lookup.shard_key is not None:
            raise unsupported("lookup_from.shard_key")

    def one(self, given: Any) -> Any:
        """The vector that is given, or that of the point that is named."""
        vector = self.find(given)
        if vector is None:
            raise not_found(f'Not found: Vector with name "{self.lookup_name}" for point not found')
        return vector

    def all(self, given: list[Any] | None) -> list[Any]:
        """The vectors of several examples, without those points that have no such vector."""
        found = [self.find(item) for item in given or ()]
        return [vector for vector in found if vector is not None]

    @property
    def lookup_name(self) -> str:
        """The name under which a named point's vector is looked up."""
        other = None if self.lookup is None else self.lookup.vector
        return self.using if other is None else other

    def find(self, given: Any) -> Any:
        """As `one`, but None where the named point has no such vector."""
        if not _is_id(given):
            if isinstance(given, _INFERENCE):
                raise unsupported(f"inference ({type(given).__name__})")
            return to_edge_query_vector(given, self.using, self.schema)
        collection = None if self.lookup is None else self.lookup.collection
        vectors = self.resolve(to_edge_id(given), self.lookup_name, collection)
        if vectors is None:
            raise not_found(f"Not found: No point with id {given} found")
        return vectors.get(self.lookup_name) if isinstance(vectors, dict) else vectors


def _is_id(given: Any) -> bool:
    return isinstance(given, int | str | UUID)


def _nearest(vectors: _Vectors, query: models.NearestQuery) -> Any:
    vector = vectors.one(query.nearest)
    if query.mmr is None:
        return edge.Query.Nearest(vector, vectors.using)
    diversity = _DEFAULT_DIVERSITY if query.mmr.diversity is None else query.mmr.diversity
    if not 0.0 <= diversity <= 1.0:
        raise invalid("mmr.diversity", diversity, "0.0 to 1.0")
    candidates = query.mmr.candidates_limit
    if candidates is None:
        candidates = limit_of(vectors.request)
    elif not 0 <= candidates <= _MAX_CANDIDATES:
        raise invalid("mmr.candidates_limit", candidates, f"0 to {_MAX_CANDIDATES}")
    return edge.Mmr(vector, 1.0 - diversity, candidates, vectors.using)


def _recommend(vectors: _Vectors, query: models.RecommendQuery) -> Any:
    recommend = query.recommend
    positive, negative = vectors.all(recommend.positive), vectors.all(recommend.negative)
    if recommend.strategy in (None, models.RecommendStrategy.AVERAGE_VECTOR):
        if not positive:
            raise bad_request(
                "Bad request: At least one positive vector ID required with this strategy"
            )
        return edge.Query.Nearest(_average(positive, negative), vectors.using)
    if not positive and not negative:
        raise bad_request(
            "Bad request: At least one positive or negative vector ID required with this strategy"
        )
    examples = edge.RecommendQuery(positive, negative)
    if recommend.strategy == models.RecommendStrategy.BEST_SCORE:
        return edge.Query.RecommendBestScore(examples, vectors.using)
    return edge.Query.RecommendSumScores(examples, vectors.using)


def _average(positive: list[Any], negative: list[Any]) -> Any:
    """The mean of the positive examples, moved away from the mean of the negative ones.

    `2 mean(positive) - mean(negative)`; of multi-vectors, as on the server, all positive rows
    and all negative rows turned around.
    """
    if isinstance(positive[0], edge.SparseVector):
        return _average_sparse(positive, negative)
    if isinstance(positive[0][0], list):
        rows = [row for matrix in positive for row in matrix]
        return rows + [[-x for x in row] for matrix in negative for row in matrix]
    mean = np.mean(positive, axis=0)
    if negative:
        mean = 2 * mean - np.mean(negative, axis=0)
    return mean.tolist()


def _average_sparse(positive: list[Any], negative: list[Any]) -> edge.SparseVector:
    sums: dict[int, float] = {}
    factor = 2.0 if negative else 1.0
    for examples, weight in ((positive, factor), (negative, -1.0)):
        for vector in examples:
            for index, value in zip(vector.indices, vector.values, strict=True):
                sums[index] = sums.get(index, 0.0) + weight * value / len(examples)
    return edge.SparseVector(list(sums), list(sums.values()))


def _discover(vectors: _Vectors, query: models.DiscoverQuery) -> Any:
    target = vectors.one(query.discover.target)
    pairs = _pairs(vectors, query.discover.context)
    return edge.Query.Discover(edge.DiscoverQuery(target, pairs), vectors.using)


def _context(vectors: _Vectors, query: models.ContextQuery) -> Any:
    return edge.Query.Context(edge.ContextQuery(_pairs(vectors, query.context)), vectors.using)


def _pairs(vectors: _Vectors, context: Any) -> list[edge.ContextPair]:
    return [
        edge.ContextPair(vectors.one(pair.positive), vectors.one(pair.negative))
        for pair in as_list(context)
    ]


def _feedback(vectors: _Vectors, query: models.RelevanceFeedbackQuery) -> Any:
    feedback = query.relevance_feedback
    items = [edge.FeedbackItem(vectors.one(i.example), i.score) for i in feedback.feedback]
    naive = feedback.strategy.naive
    strategy = edge.NaiveFeedbackStrategy(naive.a, naive.b, naive.c)
    target = vectors.one(feedback.target)
    return edge.Query.FeedbackNaive(edge.FeedbackNaiveQuery(target, items, strategy), vectors.using)


def _order_by(_: _Vectors, query: models.OrderByQuery) -> edge.OrderBy:
    return to_edge_order_by(query.order_by)


def to_edge_order_by(order_by: models.OrderByInterface) -> edge.OrderBy:
    """The same order for the engine, of a query or a scroll."""
    if isinstance(order_by, str):
        order_by = models.OrderBy(key=order_by)
    start = order_by.start_from
    descending = order_by.direction == models.Direction.DESC
    try:
        return edge.OrderBy(
            order_by.key,
            edge.Direction.Desc if descending else edge.Direction.Asc,
            start if start is None or isinstance(start, int | float) else rfc3339(start),
        )
    except (TypeError, ValueError) as exc:
        raise bad_request(f"Wrong input: order_by is not valid: {exc}") from exc


def _fusion(_: _Vectors, query: models.FusionQuery) -> Any:
    if query.fusion == models.Fusion.RRF:
        return edge.Fusion.Rrf(_DEFAULT_RRF_K)
    return edge.Fusion.Dbsf()


def _rrf(vectors: _Vectors, query: models.RrfQuery) -> Any:
    k = _DEFAULT_RRF_K if query.rrf.k is None else query.rrf.k
    if k < 1:
        raise invalid("rrf.k", k, "1 or larger")
    weights, sources = query.rrf.weights, len(as_list(vectors.request.prefetch))
    if weights is not None and len(weights) != sources:
        raise bad_request(
            f"Bad request: RRF weights length ({len(weights)}) "
            f"does not match number of prefetches ({sources})"
        )
    return edge.Fusion.Rrf(k, weights)


def _formula(vectors: _Vectors, query: models.FormulaQuery) -> edge.Formula:
    if not vectors.request.prefetch:
        raise bad_request("Bad request: cannot apply Formula without prefetches")
    return to_edge_formula(query)


def _sample(_: _Vectors, __: models.SampleQuery) -> Any:
    return edge.Sample.Random


def _text(vectors: _Vectors, query: models.TextQuery) -> edge.TextQuery:
    """BM25 over the text index of the payload field that `using` names."""
    if not vectors.using:
        raise bad_request("Bad request: a text query needs `using` to name the payload field")
    text = query.text
    if isinstance(text, str):
        return edge.TextQuery(vectors.using, text)
    scoring = None
    if text.scoring is not None:
        scoring = edge.Bm25Params(text.scoring.bm25.k, text.scoring.bm25.b)
    return edge.TextQuery(vectors.using, text.query, scoring)


_QUERIES: dict[type, Callable[[_Vectors, Any], Any]] = {
    models.NearestQuery: _nearest,
    models.RecommendQuery: _recommend,
    models.DiscoverQuery: _discover,
    models.ContextQuery: _context,
    models.RelevanceFeedbackQuery: _feedback,
    models.OrderByQuery: _order_by,
    models.FusionQuery: _fusion,
    models.RrfQuery: _rrf,
    models.FormulaQuery: _formula,
    models.SampleQuery: _sample,
    models.TextQuery: _text,
}


def examples_of(request: Request, collection: str | None) -> Iterator[Any]:
    """The ids of this collection's points that the request or a prefetch gives as examples."""
    lookup = request.lookup_from
    if lookup is None or lookup.collection == collection:
        yield from filter(_is_id, _inputs_of(request.query))
    for prefetch in as_list(request.prefetch):
        yield from examples_of(prefetch, collection)


def _inputs_of(query: Any) -> Iterator[Any]:
    if isinstance(query, _INPUTS):
        yield query
    elif isinstance(query, models.NearestQuery):
        yield query.nearest
    elif isinstance(query, models.RecommendQuery):
        yield from query.recommend.positive or ()
        yield from query.recommend.negative or ()
    elif isinstance(query, models.DiscoverQuery):
        yield query.discover.target
        yield from _paired(query.discover.context)
    elif isinstance(query, models.ContextQuery):
        yield from _paired(query.context)
    elif isinstance(query, models.RelevanceFeedbackQuery):
        yield query.relevance_feedback.target
        yield from (item.example for item in query.relevance_feedback.feedback)


def _paired(context: Any) -> Iterator[Any]:
    for pair in as_list(context):
        yield pair.positive
        yield pair.negative
