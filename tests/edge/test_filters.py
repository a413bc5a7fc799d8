"""Filters mean the same on the engine as in qdrant-client."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import qdrant_edge as edge
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge.filters import MAX_DEPTH, to_edge_condition, to_edge_filter
from ragkit.edge.points import VectorSchema, from_edge_id, to_edge_points

_VECTORS = {
    "a": models.VectorParams(size=2, distance=models.Distance.DOT),
    "b": models.VectorParams(size=2, distance=models.Distance.DOT),
}
_SCHEMA = VectorSchema.of(_VECTORS)
_IDS: list[int | str] = [*range(8), *(str(UUID(int=n << 64 | n)) for n in range(1, 5))]


class Twins:
    """The same points in the engine and in qdrant-client's local mode."""

    def __init__(self, folder: Path) -> None:
        dense = {name: edge.EdgeVectorParams(2, edge.Distance.Dot) for name in _VECTORS}
        self.shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=dense))
        self.local = QdrantClient(":memory:")
        self.local.create_collection("c", vectors_config=_VECTORS)

    def fill(self, points: list[models.PointStruct]) -> None:
        self.shard.update(edge.UpdateOperation.upsert_points(to_edge_points(points, _SCHEMA)))
        self.local.upsert("c", points)

    def in_engine(self, filter_: models.Filter) -> set[Any]:
        request = edge.ScrollRequest(limit=100, filter=to_edge_filter(filter_))
        return {from_edge_id(record.id) for record in self.shard.scroll(request)[0]}

    def in_local(self, filter_: models.Filter) -> set[Any]:
        return {record.id for record in self.local.scroll("c", filter_, limit=100)[0]}

    def close(self) -> None:
        self.shard.close()
        self.local.close()


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    pair = Twins(tmp_path_factory.mktemp("shard"))
    yield pair
    pair.close()


def _point(point_id: int | str, payload: dict[str, Any], *vectors: str) -> models.PointStruct:
    names = vectors or ("a", "b")
    return models.PointStruct(id=point_id, vector={n: [1.0, 0.0] for n in names}, payload=payload)


# --- random payloads and filters -----------------------------------------------------------------

_KEYS = [
    "k",
    "n",
    "f",
    "flag",
    "list",
    "deep.k",
    "deep.list",
    "rows[].x",
    "rows",
    "text",
    "missing",
]
_SINGLE_KEYS = [key for key in _KEYS if "[]" not in key]
_WORDS = st.sampled_from(["red", "Red", "green", "blue sky", "the red fox", "sky", "", "é"])
_INTS = st.integers(-3, 3)
_FLOATS = st.sampled_from([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0])
_TIMES = st.sampled_from(
    ["2024-01-01", "2024-01-01T12:00:00Z", "2024-01-01T12:00:00+02:00", "2023-05-05 01:02:03"]
)
_PLACES = st.fixed_dictionaries({"lon": _FLOATS, "lat": _FLOATS})
_SCALARS = st.one_of(_WORDS, _INTS, _FLOATS, st.booleans(), st.none(), _TIMES)
_VALUES = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3))
_ROWS = st.lists(st.fixed_dictionaries({}, optional={"x": _VALUES, "k": _SCALARS}), max_size=3)
_PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["k", "n", "f", "flag", "list", "text"], _VALUES),
        "deep": st.fixed_dictionaries({}, optional={"k": _VALUES, "list": _VALUES}),
        "rows": _ROWS,
        "when": st.one_of(_TIMES, st.lists(_TIMES, max_size=2), _INTS),
        "place": st.one_of(_PLACES, st.lists(_PLACES, max_size=2), _WORDS),
    },
)
_POINTS = st.tuples(
    *(
        st.builds(_point, st.just(point_id), _PAYLOADS, st.sampled_from(["a", "b"]), st.just("a"))
        for point_id in _IDS
    )
).map(list)


def _ranges(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(["lt", "lte", "gt", "gte"]), numbers, min_size=1)


_MATCHES = st.one_of(
    st.builds(models.MatchValue, value=st.one_of(_WORDS, _INTS, st.booleans())),
    st.builds(models.MatchAny, any=st.one_of(st.lists(_WORDS), st.lists(_INTS))),
    st.builds(
        lambda values: models.MatchExcept(**{"except": values}),
        st.one_of(st.lists(_WORDS), st.lists(_INTS)),
    ),
    st.builds(models.MatchText, text=_WORDS),
    st.builds(models.MatchTextAny, text_any=_WORDS),
    st.builds(models.MatchPhrase, phrase=_WORDS),
    st.builds(models.MatchPrefix, prefix=_WORDS),
    st.builds(models.MatchSubstring, substring=_WORDS),
)
_MOMENTS = st.sampled_from(
    [
        date(2024, 1, 1),
        datetime(2024, 1, 1, 12),
        datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
        datetime(2023, 5, 5, 1, 2, 3, tzinfo=UTC),
    ]
)


def _field(keys: list[str], **condition: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(models.FieldCondition, key=st.sampled_from(keys), **condition)


_PLACE = st.builds(models.GeoPoint, lon=_FLOATS, lat=_FLOATS)
_FIELDS = st.one_of(
    _field(_KEYS, match=_MATCHES),
    _field(_KEYS, range=_ranges(_FLOATS).map(lambda bounds: models.Range(**bounds))),
    _field(["when"], range=_ranges(_MOMENTS).map(lambda bounds: models.DatetimeRange(**bounds))),
    _field(_KEYS, values_count=_ranges(st.integers(0, 3)).map(lambda b: models.ValuesCount(**b))),
    # Of a key with several values ("rows[].x") the engine asks whether any is (not) empty or
    # null, local mode whether all are: only IsEmptyCondition and IsNullCondition agree there.
    _field(_SINGLE_KEYS, is_empty=st.booleans()),
    _field(_SINGLE_KEYS, is_null=st.booleans()),
    _field(
        ["place"],
        geo_radius=st.builds(models.GeoRadius, center=_PLACE, radius=st.just(120_000.0)),
    ),
    _field(
        ["place"],
        geo_bounding_box=st.just(
            models.GeoBoundingBox(
                top_left=models.GeoPoint(lon=-1.2, lat=1.2),
                bottom_right=models.GeoPoint(lon=0.7, lat=-0.2),
            )
        ),
    ),
)
_ANYWHERE = st.one_of(
    _FIELDS,
    st.sampled_from(_KEYS).map(
        lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    ),
    st.sampled_from(_KEYS).map(
        lambda key: models.IsNullCondition(is_null=models.PayloadField(key=key))
    ),
)
_TOP_LEVEL = st.one_of(
    _ANYWHERE,
    st.lists(st.sampled_from(_IDS)).map(lambda ids: models.HasIdCondition(has_id=ids)),
    st.sampled_from(["a", "b"]).map(lambda name: models.HasVectorCondition(has_vector=name)),
    st.integers(0, 2).map(lambda i: models.SliceCondition(slice=models.Slice(total=3, index=i))),
    st.builds(
        lambda match: models.NestedCondition(
            nested=models.Nested(key="rows", filter=models.Filter(must=[match]))
        ),
        _field(["x", "k"], match=_MATCHES),
    ),
)


def _filters(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[models.Filter]:
    some = st.one_of(st.none(), conditions, st.lists(conditions, max_size=3))
    least = st.builds(
        models.MinShould,
        conditions=st.lists(conditions, min_size=1, max_size=3),
        min_count=st.integers(1, 2),
    )
    return st.builds(
        models.Filter, must=some, should=some, must_not=some, min_should=st.none() | least
    )


_FILTERS = _filters(st.recursive(_TOP_LEVEL, _filters, max_leaves=4))


@settings(
    max_examples=75,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(points=_POINTS, filters=st.lists(_FILTERS, min_size=1, max_size=4))
def test_a_filter_matches_the_points_that_local_mode_matches(
    twins: Twins, points: list[models.PointStruct], filters: list[models.Filter]
) -> None:
    twins.fill(points)
    for filter_ in filters:
        found = twins.in_engine(filter_)
        event("some match" if 0 < len(found) < len(_IDS) else "all or none")
        assert found == twins.in_local(filter_)


# --- each kind by itself -------------------------------------------------------------------------

_BOOKS = [
    _point(0, {"flag": True, "n": 1, "title": "The red fox", "tags": ["x", "y"]}),
    _point(1, {"flag": False, "n": 0, "title": "A sky, all blue", "tags": []}, "a"),
    _point(2, {"flag": 1, "n": 1.0, "title": "Blue Sky", "tags": None}),
    _point(3, {"flag": 0, "n": -5, "when": "2024-01-01T10:00:00Z"}),
    _point(4, {"when": "2024-01-01T12:00:00+02:00", "place": {"lon": 13.4, "lat": 52.5}}),
    _point(_IDS[8], {"rows": [{"a": 1, "b": 2}, {"a": 3, "b": 4}], "place": {"lon": 2, "lat": 48}}),
]


def _where(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


def _rows(a: int, b: int) -> models.Filter:
    return models.Filter(
        must=[_where("a", match=models.MatchValue(value=a)), _where("b", range=models.Range(gte=b))]
    )


def _ring(*corners: tuple[float, float]) -> models.GeoLineString:
    return models.GeoLineString(points=[models.GeoPoint(lon=lon, lat=lat) for lon, lat in corners])


_GERMANY = _ring((6, 47), (15, 47), (15, 55), (6, 55), (6, 47))
_BERLIN = _ring((13, 52), (14, 52), (14, 53), (13, 53), (13, 52))
_NOON_IN_BERLIN = datetime(2024, 1, 1, 11, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (_where("flag", match=models.MatchValue(value=True)), {0}),
        (_where("flag", match=models.MatchValue(value=False)), {1}),
        (_where("flag", match=models.MatchValue(value=1)), {2}),
        (_where("n", match=models.MatchValue(value=1)), {0}),
        (_where("tags", match=models.MatchValue(value="y")), {0}),
        (_where("tags", match=models.MatchAny(any=["y", "z"])), {0}),
        (_where("n", match=models.MatchAny(any=[])), set()),
        (_where("n", match=models.MatchExcept(**{"except": [1, -5]})), {1, 2}),
        (_where("title", match=models.MatchText(text="sky blue")), {1, 2}),
        (_where("title", match=models.MatchTextAny(text_any="red blue")), {0, 1, 2}),
        (_where("title", match=models.MatchPhrase(phrase="blue sky")), {2}),
        (_where("title", match=models.MatchPrefix(prefix="Blue")), {2}),
        (_where("title", match=models.MatchSubstring(substring="red")), {0}),
        (_where("n", range=models.Range(gt=0, lte=1)), {0, 2}),
        (_where("when", range=models.DatetimeRange(lt=_NOON_IN_BERLIN)), {3, 4}),
        (_where("when", range=models.DatetimeRange(gt=datetime(2024, 1, 1, 9, 59))), {3, 4}),
        (_where("when", range=models.DatetimeRange(gt="2024-01-01T10:00:00Z")), set()),
        (_where("when", range=models.DatetimeRange(gte=date(2024, 1, 1))), {3, 4}),
        (_where("tags", values_count=models.ValuesCount(gte=2)), {0}),
        (_where("tags", is_empty=False), {0}),
        (_where("tags", is_null=True), {2}),
        (models.IsNullCondition(is_null=models.PayloadField(key="tags")), {2}),
        (models.IsEmptyCondition(is_empty=models.PayloadField(key="n")), {4, _IDS[8]}),
        (models.HasIdCondition(has_id=[1, _IDS[8].replace("-", "").upper()]), {1, _IDS[8]}),
        (models.NestedCondition(nested=models.Nested(key="rows", filter=_rows(1, 2))), {_IDS[8]}),
        (models.NestedCondition(nested=models.Nested(key="rows", filter=_rows(1, 4))), set()),
        (_where("place", geo_polygon=models.GeoPolygon(exterior=_GERMANY)), {4}),
        (
            _where("place", geo_polygon=models.GeoPolygon(exterior=_GERMANY, interiors=[_BERLIN])),
            set(),
        ),
    ],
)
def test_each_condition_selects_what_it_says(
    tmp_path: Path, condition: Any, expected: set[Any]
) -> None:
    pair = Twins(tmp_path)
    pair.fill(_BOOKS)
    assert pair.in_engine(models.Filter(must=condition)) == expected
    pair.close()


def test_no_filter_is_none_and_an_empty_one_matches_everything(tmp_path: Path) -> None:
    assert to_edge_filter(None) is None
    pair = Twins(tmp_path)
    pair.fill(_BOOKS)
    assert len(pair.in_engine(models.Filter())) == len(_BOOKS)
    assert len(pair.in_engine(models.Filter(must=[], should=[], must_not=[]))) == len(_BOOKS)
    pair.close()


def test_has_vector_tells_points_with_and_without_it(tmp_path: Path) -> None:
    pair = Twins(tmp_path)
    pair.fill(_BOOKS)
    without = models.Filter(must_not=models.HasVectorCondition(has_vector="b"))
    assert pair.in_engine(without) == {1}
    pair.close()


def test_slices_part_the_points_without_overlap(tmp_path: Path) -> None:
    pair = Twins(tmp_path)
    pair.fill(_BOOKS)
    parts = [
        pair.in_engine(
            models.Filter(must=models.SliceCondition(slice=models.Slice(total=3, index=index)))
        )
        for index in range(3)
    ]
    assert sorted(map(str, set().union(*parts))) == sorted(str(book.id) for book in _BOOKS)
    assert sum(map(len, parts)) == len(_BOOKS)
    pair.close()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (_where("a..b", match=models.MatchValue(value=1)), "invalid JSON path"),
        (_where("a"), "At least one field condition must be specified"),
        (_where("a", match=models.MatchValue(value=2**63)), "not valid"),
        (_where("a", match=models.MatchValue(value="\ud800")), "not valid"),
        (_where("a", range=models.Range(gt=float("nan"))), "NaN"),
        (_where("a", values_count=models.ValuesCount(gt=-1)), "not valid"),
        (_where("a", geo_polygon=models.GeoPolygon(exterior=_ring((1, 1)))), "polygon"),
        (_where("a", geo_polygon=models.GeoPolygon(exterior=_ring((1, 100)))), "lat"),
        (models.HasIdCondition(has_id=["x"]), "value x is not a valid point ID"),
        (models.HasIdCondition(has_id=[-1]), "value -1 is not a valid point ID"),
        (models.SliceCondition(slice=models.Slice(total=2, index=2)), "less than total"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_condition_that_a_server_refuses_is_a_bad_request(condition: Any, says: str) -> None:
    with pytest.raises(UnexpectedResponse, match=says) as refusal:
        to_edge_filter(models.Filter(must_not=[condition]))
    assert refusal.value.status_code == 400


def test_a_condition_without_counterpart_is_refused_by_name() -> None:
    class FutureCondition(models.HasVectorCondition):
        pass

    with pytest.raises(NotImplementedError, match="the condition FutureCondition"):
        to_edge_condition(FutureCondition(has_vector="x"))


def _wrap(filter_: models.Filter, how: str) -> models.Filter:
    if how == "nested":
        return models.Filter(
            min_should=models.MinShould(
                conditions=[models.NestedCondition(nested=models.Nested(key="x", filter=filter_))],
                min_count=1,
            )
        )
    return models.Filter(must=[filter_])


@pytest.mark.parametrize("how", ["filter", "nested"])
def test_the_deepest_filter_that_is_let_through_does_not_poison_the_log(
    tmp_path: Path, how: str
) -> None:
    deepest = models.Filter(must=[_where("k", match=models.MatchValue(value=1))])
    for _ in range(MAX_DEPTH - 1):
        deepest = _wrap(deepest, how)
    with pytest.raises(UnexpectedResponse, match="levels deep"):
        to_edge_filter(_wrap(deepest, how))
    pair = Twins(tmp_path)
    pair.fill(_BOOKS)
    operation = edge.UpdateOperation.set_payload_by_filter(to_edge_filter(deepest), {"k": 2})
    pair.shard.update(operation)
    pair.close()
    reopened = edge.EdgeShard.load(str(tmp_path))
    assert reopened.count(edge.CountRequest()) == len(_BOOKS)
    reopened.close()
