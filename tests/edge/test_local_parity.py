"""On random points and questions EdgeClient answers as qdrant-client's own local mode does.

Local mode computes everything exactly and in Python, so it is an independent reference for what
is exact on the engine as well. It knows no quantization, no graph and no optimizer: those are left
to other tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

from ragkit.edge import EdgeClient

_DIM = 3
_IDS: list[int | str] = [*range(10), *(str(UUID(int=n << 64 | n)) for n in range(1, 6))]
_NAMES = {
    "dense": models.VectorParams(size=_DIM, distance=models.Distance.COSINE),
    "euclid": models.VectorParams(size=_DIM, distance=models.Distance.EUCLID),
}
_TOLERANCE = 1e-5
_quick = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Twins:
    """The same collection on the engine and in local mode."""

    def __init__(self, edge: EdgeClient, local: QdrantClient) -> None:
        self.edge = edge
        self.local = local

    @property
    def both(self) -> tuple[QdrantBase, QdrantBase]:
        return self.edge, self.local

    def create(self) -> None:
        """Make the collection, empty."""
        sparse = {"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)}
        for client in self.both:
            client.delete_collection("c")
            client.create_collection("c", vectors_config=_NAMES, sparse_vectors_config=sparse)

    def fill(self, points: Sequence[models.PointStruct]) -> None:
        """Replace all points."""
        for client in self.both:
            client.delete("c", models.Filter(), wait=False)
            client.upsert("c", list(points), wait=False)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    local = QdrantClient(":memory:")
    with EdgeClient(tmp_path_factory.mktemp("parity")) as edge:
        twins = Twins(edge, local)
        twins.create()
        for key, kind in (("word", "keyword"), ("number", "integer"), ("real", "float")):
            edge.create_payload_index("c", key, field_schema=models.PayloadSchemaType(kind))
        yield twins
    local.close()


# Few values, so that ties, repeats and filters that hit are common.
_component = st.integers(-4, 4).map(float)
_vector = st.lists(_component, min_size=_DIM, max_size=_DIM).filter(any)
_sparse = st.dictionaries(st.integers(0, 6), st.sampled_from([0.5, 1.0, 2.0]), max_size=4).map(
    lambda weights: models.SparseVector(indices=list(weights), values=list(weights.values()))
)
_words = st.sampled_from(["red", "green", "blue"])
_payload = st.fixed_dictionaries(
    {},
    optional={
        "word": _words | st.lists(_words, max_size=3),
        "number": st.integers(-3, 3),
        # Binary fractions: the engine may read the last bit of other ones from JSON differently.
        "real": st.integers(-8, 8).map(lambda n: n / 4),
        "nested": st.fixed_dictionaries({"flag": st.booleans(), "word": _words}),
    },
)


@st.composite
def _points(
    draw: st.DrawFn, min_size: int = 1, sparse: st.SearchStrategy[models.SparseVector] = _sparse
) -> list[models.PointStruct]:
    points = []
    for point_id in draw(
        st.lists(st.sampled_from(_IDS), unique=True, min_size=min_size, max_size=10)
    ):
        vectors = {"dense": draw(_vector), "euclid": draw(_vector), "bm25": draw(sparse)}
        points.append(models.PointStruct(id=point_id, vector=vectors, payload=draw(_payload)))
    return points


def _match(key: str, value: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


_condition = st.one_of(
    st.builds(_match, st.just("word"), _words),
    st.builds(_match, st.just("nested.word"), _words),
    st.builds(_match, st.just("nested.flag"), st.booleans()),
    st.builds(_match, st.just("number"), st.integers(-3, 3)),
    st.integers(-2, 2).map(
        lambda low: models.FieldCondition(key="number", range=models.Range(gte=low, lt=low + 2))
    ),
    st.lists(st.sampled_from(_IDS), max_size=5).map(lambda ids: models.HasIdCondition(has_id=ids)),
    st.just(models.IsEmptyCondition(is_empty=models.PayloadField(key="word"))),
)
_conditions = st.lists(_condition, min_size=1, max_size=2)
_filter = st.none() | st.builds(
    models.Filter,
    must=st.none() | _conditions,
    should=st.none() | _conditions,
    must_not=st.none() | _conditions,
)


def assert_same_ranking(edge: Sequence[Any], reference: Sequence[Any], *, cut: bool) -> None:
    """The same points with the same scores in the same order.

    Points of equal score may come in another order in local mode, which sorts otherwise; at the
    end of a list that was `cut` even other points of that score.
    """
    assert len(edge) == len(reference)
    for ours, theirs in zip(edge, reference, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=_TOLERANCE)
    last = reference[-1].score if cut and reference else math.nan
    inner = [p for p in edge if not math.isclose(p.score, last, abs_tol=_TOLERANCE)]
    expected = [p for p in reference if not math.isclose(p.score, last, abs_tol=_TOLERANCE)]
    assert Counter(p.id for p in inner) == Counter(p.id for p in expected)
    by_id = {p.id: p for p in reference}
    for point in inner:
        assert point.score == pytest.approx(by_id[point.id].score, abs=_TOLERANCE)
        assert point.payload == by_id[point.id].payload


def assert_ties_by_id(points: Sequence[Any]) -> None:
    """Points of equal score are in the order of their ids, integers before UUIDs."""
    for left, right in pairwise(points):
        if left.score == right.score:
            assert (isinstance(left.id, str), left.id) < (isinstance(right.id, str), right.id)


def have_ties(scores: Sequence[float]) -> bool:
    """Whether some of the scores are as good as equal."""
    return any(b - a <= _TOLERANCE for a, b in pairwise(sorted(scores)))


@_quick
@given(
    points=_points(),
    query=_vector,
    name=st.sampled_from(["dense", "euclid"]),
    query_filter=_filter,
    limit=st.integers(1, 8),
    offset=st.integers(0, 3),
)
def test_dense_queries(
    twins: Twins,
    points: list[models.PointStruct],
    query: list[float],
    name: str,
    query_filter: models.Filter | None,
    limit: int,
    offset: int,
) -> None:
    twins.fill(points)
    edge, local = (
        client.query_points(
            "c", query, using=name, query_filter=query_filter, limit=limit + offset
        ).points
        for client in twins.both
    )
    assert_same_ranking(edge, local, cut=len(local) == limit + offset)
    assert_ties_by_id(edge)
    page = twins.edge.query_points(
        "c", query, using=name, query_filter=query_filter, limit=limit, offset=offset
    ).points
    assert [p.score for p in page] == [p.score for p in edge[offset:]]


@_quick
@given(points=_points(min_size=2), data=st.data(), limit=st.integers(1, 8))
def test_queries_by_the_id_of_a_point(
    twins: Twins, points: list[models.PointStruct], data: st.DataObject, limit: int
) -> None:
    twins.fill(points)
    example = data.draw(st.sampled_from([point.id for point in points]))
    edge, local = (
        client.query_points("c", example, using="dense", limit=limit).points
        for client in twins.both
    )
    assert example not in [point.id for point in edge]
    assert_same_ranking(edge, local, cut=len(local) == limit)


@_quick
@given(
    points=_points(),
    dense=st.lists(st.integers(-100, 100).map(float), min_size=_DIM, max_size=_DIM).filter(any),
    other=_vector,
    query_filter=_filter,
    k=st.integers(1, 60),
)
def test_reciprocal_rank_fusion(
    twins: Twins,
    points: list[models.PointStruct],
    dense: list[float],
    other: list[float],
    query_filter: models.Filter | None,
    k: int,
) -> None:
    """Ranks depend on the order among equals, which differs: points without ties only."""
    twins.fill(points)
    for name, query in (("dense", dense), ("euclid", other)):
        ranked = twins.local.query_points("c", query, using=name, limit=99).points
        assume(not have_ties([point.score for point in ranked]))
    prefetch = [
        models.Prefetch(query=dense, using="dense", filter=query_filter, limit=5),
        models.Prefetch(query=other, using="euclid", limit=5),
    ]
    fusion = models.RrfQuery(rrf=models.Rrf(k=k))
    edge, local = (
        client.query_points("c", fusion, prefetch=prefetch, limit=99).points
        for client in twins.both
    )
    assert_same_ranking(edge, local, cut=False)
    assert_ties_by_id(edge)


@_quick
@given(points=_points(), scroll_filter=_filter, limit=st.integers(1, 6))
def test_scrolling_by_id(
    twins: Twins,
    points: list[models.PointStruct],
    scroll_filter: models.Filter | None,
    limit: int,
) -> None:
    twins.fill(points)
    pages: list[list[Any]] = []
    for client in twins.both:
        offset, seen = None, []
        while True:
            page, offset = client.scroll("c", scroll_filter, limit=limit, offset=offset)
            seen += [(record.id, record.payload) for record in page]
            if offset is None:
                break
        pages.append(seen)
    assert pages[0] == pages[1]


@_quick
@given(
    points=_points(),
    scroll_filter=_filter,
    direction=st.sampled_from(models.Direction),
    start=st.none() | st.integers(-3, 3),
)
def test_scrolling_by_value(
    twins: Twins,
    points: list[models.PointStruct],
    scroll_filter: models.Filter | None,
    direction: models.Direction,
    start: int | None,
) -> None:
    twins.fill(points)
    order = models.OrderBy(key="number", direction=direction, start_from=start)
    edge, local = (
        client.scroll("c", scroll_filter, limit=99, order_by=order)[0] for client in twins.both
    )
    assert [record.order_value for record in edge] == [record.order_value for record in local]
    assert {record.id for record in edge} == {record.id for record in local}


@_quick
@given(points=_points(), facet_filter=_filter, key=st.sampled_from(["word", "number"]))
def test_counts_and_facets(
    twins: Twins,
    points: list[models.PointStruct],
    facet_filter: models.Filter | None,
    key: str,
) -> None:
    twins.fill(points)
    counts = [client.count("c", facet_filter).count for client in twins.both]
    assert counts[0] == counts[1]
    edge, local = (
        client.facet("c", key, facet_filter=facet_filter, limit=9, exact=True).hits
        for client in twins.both
    )
    assert edge == local


@_quick
@given(
    points=_points(),
    query=st.lists(st.integers(-100, 100).map(float), min_size=_DIM, max_size=_DIM).filter(any),
    key=st.sampled_from(["word", "number", "nested.word"]),
    limit=st.integers(1, 4),
    group_size=st.integers(1, 3),
)
def test_groups(
    twins: Twins,
    points: list[models.PointStruct],
    query: list[float],
    key: str,
    limit: int,
    group_size: int,
) -> None:
    twins.fill(points)
    ranked = twins.local.query_points("c", query, using="dense", limit=99).points
    assume(not have_ties([point.score for point in ranked]))
    edge, local = (
        client.query_points_groups(
            "c", key, query, using="dense", limit=limit, group_size=group_size
        ).groups
        for client in twins.both
    )
    # A point with several values opens its groups in one moment: their order is the payload's.
    assert [group.id for group in edge] == [group.id for group in local]
    for ours, theirs in zip(edge, local, strict=True):
        assert [hit.id for hit in ours.hits] == [hit.id for hit in theirs.hits]
        assert [hit.payload for hit in ours.hits] == [hit.payload for hit in theirs.hits]


_selector = st.lists(st.sampled_from(_IDS), min_size=1, max_size=4, unique=True) | _filter.filter(
    lambda found: found is not None
)
_change = st.one_of(
    st.tuples(st.just("delete"), _selector),
    st.tuples(st.just("set"), _selector, _payload),
    st.tuples(st.just("overwrite"), _selector, _payload),
    st.tuples(st.just("unset"), _selector, st.sampled_from(["word", "nested.word", "number"])),
    st.tuples(st.just("clear"), _selector),
    st.tuples(st.just("upsert"), _points()),
)


def _change_both(twins: Twins, change: tuple[Any, ...]) -> None:
    kind, target, *rest = change
    if kind != "upsert" and isinstance(target, list) and kind != "delete":
        # A missing point is an error on the engine and on a server, not in local mode.
        target = [record.id for record in twins.local.retrieve("c", target)]
        if not target:
            return
    for client in twins.both:
        if kind == "delete":
            client.delete("c", target, wait=False)
        elif kind == "set":
            client.set_payload("c", *rest, target, wait=False)
        elif kind == "overwrite":
            client.overwrite_payload("c", *rest, target, wait=False)
        elif kind == "unset":
            client.delete_payload("c", rest, target, wait=False)
        elif kind == "clear":
            client.clear_payload("c", target, wait=False)
        else:
            client.upsert("c", target, wait=False)


@_quick
@given(points=_points(), changes=st.lists(_change, min_size=1, max_size=5))
def test_any_sequence_of_changes_leaves_the_same_points(
    twins: Twins, points: list[models.PointStruct], changes: list[tuple[Any, ...]]
) -> None:
    twins.fill(points)
    for change in changes:
        _change_both(twins, change)
    edge, local = (client.scroll("c", limit=99, with_vectors=True)[0] for client in twins.both)
    assert [(r.id, r.payload) for r in edge] == [(r.id, r.payload) for r in local]
    for ours, theirs in zip(edge, local, strict=True):
        for name in _NAMES:
            assert np.allclose(ours.vector[name], theirs.vector[name], atol=1e-6)
        assert ours.vector["bm25"] == theirs.vector["bm25"]


@settings(_quick, max_examples=8)
@given(
    points=_points(sparse=_sparse.filter(lambda vector: vector.indices)),
    query=_sparse,
    query_filter=_filter,
    limit=st.integers(1, 8),
)
def test_sparse_queries_with_idf(
    twins: Twins,
    points: list[models.PointStruct],
    query: models.SparseVector,
    query_filter: models.Filter | None,
    limit: int,
) -> None:
    """Each time on a new collection: this test is the last.

    On the engine, as on a server, deleted points count for the rarity of a word until an
    optimization takes them away, and points whose sparse vector is empty never do.
    """
    assume(query.indices)
    twins.create()
    twins.fill(points)
    edge, local = (
        client.query_points("c", query, using="bm25", query_filter=query_filter, limit=limit).points
        for client in twins.both
    )
    assert_same_ranking(edge, local, cut=len(local) == limit)
    assert_ties_by_id(edge)
