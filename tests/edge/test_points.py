"""Points survive the way into the engine and back, and what would ruin it never gets there."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge.points import (
    DenseVector,
    VectorSchema,
    from_edge_id,
    from_edge_record,
    from_edge_scored,
    id_order,
    to_edge_id,
    to_edge_payload,
    to_edge_point_vectors,
    to_edge_points,
    to_edge_query_vector,
    to_edge_with_payload,
    to_edge_with_vector,
)
from ragkit.edge.settings import to_edge_config

_MAX_SIM = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
_DENSE = {
    "cos": models.VectorParams(size=3, distance=models.Distance.COSINE),
    "dot": models.VectorParams(size=2, distance=models.Distance.DOT),
    "half": models.VectorParams(
        size=2, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16
    ),
    "multi": models.VectorParams(size=2, distance=models.Distance.DOT, multivector_config=_MAX_SIM),
}
_SPARSE = {"words": models.SparseVectorParams()}
_SCHEMA = VectorSchema.of(_DENSE, _SPARSE)


class Store:
    """A shard that takes and gives qdrant-client's models."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.shard = edge.EdgeShard.create(self.folder, to_edge_config(_DENSE, _SPARSE))

    def put(self, *points: models.PointStruct) -> None:
        self.shard.update(edge.UpdateOperation.upsert_points(to_edge_points(points, _SCHEMA)))

    def get(self, point_id: int | str) -> models.Record:
        return from_edge_record(self.shard.retrieve([to_edge_id(point_id)], True, True)[0])

    def reopen(self) -> None:
        self.shard.close()
        self.shard = edge.EdgeShard.load(self.folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store(tmp_path_factory.mktemp("shard"))
    yield opened
    opened.shard.close()


def _point(vector: Any, payload: Any = None, point_id: Any = 1) -> models.PointStruct:
    """A point as a caller gets it past pydantic by assigning to it or constructing it."""
    return models.PointStruct.model_construct(id=point_id, vector=vector, payload=payload)


# --- ids -----------------------------------------------------------------------------------------

_HEX = "0123456789abcdef0123456789abcdef"
_CANONICAL = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        (0, 0),
        (2**64 - 1, 2**64 - 1),
        (_HEX, _CANONICAL),
        (_CANONICAL.upper(), _CANONICAL),
        ("urn:uuid:" + _CANONICAL, _CANONICAL),
        ("{" + _CANONICAL + "}", _CANONICAL),
        (UUID(_HEX), _CANONICAL),
    ],
)
def test_an_id_comes_back_as_the_server_writes_it(
    store: Store, given_id: Any, expected: int | str
) -> None:
    store.put(_point({"dot": [1.0, 2.0]}, point_id=given_id))
    assert store.get(given_id).id == expected


@pytest.mark.parametrize(
    "bad", [True, False, -1, 2**64, "1", "", "x" * 32, _HEX[:-1], "0-1" + _HEX[2:], 1.0, None]
)
def test_what_is_no_id_is_refused(bad: Any) -> None:
    with pytest.raises(UnexpectedResponse, match="is not a valid point ID") as refusal:
        to_edge_id(bad)
    assert refusal.value.status_code == 400


def test_ids_are_ordered_numbers_first(store: Store) -> None:
    ids: list[int | str] = [_CANONICAL, 10, "ffffffff-0000-0000-0000-000000000000", 2]
    for point_id in ids:
        store.put(_point({"dot": [1.0, 2.0]}, point_id=point_id))
    scrolled, _ = store.shard.scroll(edge.ScrollRequest(limit=1000))
    in_engine = [found for record in scrolled if (found := from_edge_id(record.id)) in ids]
    assert in_engine == sorted(ids, key=id_order) == [2, 10, _CANONICAL, ids[2]]


# --- vectors -------------------------------------------------------------------------------------

_WORDS = models.SparseVector(indices=[7, 2**32 - 1, 0], values=[0.5, -1.0, 2.0])
_EVERYTHING: dict[str, Any] = {
    "cos": [3.0, 0.0, 4.0],
    "dot": [1.0, -2.0],
    "half": [0.5, 65504.0],
    "multi": [[1.0, 2.0], [3.0, 4.0]],
    "words": _WORDS,
}


def test_every_kind_of_vector_comes_back(store: Store) -> None:
    store.put(models.PointStruct(id=1, vector=_EVERYTHING, payload={"a": 1}))
    record = store.get(1)
    assert record.payload == {"a": 1}
    assert isinstance(record.vector, dict)
    assert record.vector["cos"] == pytest.approx([0.6, 0.0, 0.8])
    assert {**record.vector, "cos": None, "words": None} == {
        **_EVERYTHING,
        "cos": None,
        "words": None,
    }
    words = record.vector["words"]
    assert isinstance(words, models.SparseVector)
    assert dict(zip(words.indices, words.values, strict=True)) == {7: 0.5, 2**32 - 1: -1, 0: 2}
    assert models.Record.model_validate(record.model_dump()) == record


def test_numpy_vectors_are_as_good_as_lists(store: Store) -> None:
    arrays = {
        "cos": np.array([3, 0, 4], np.float32),
        "dot": np.array([1, -2]),
        "multi": [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
    }
    store.put(_point(arrays), models.PointStruct(id=2, vector={"dot": arrays["dot"]}))
    first, second = store.get(1).vector, store.get(2).vector
    assert isinstance(first, dict)
    assert first["cos"] == pytest.approx([0.6, 0.0, 0.8])
    assert first["multi"] == [[1.0, 2.0], [3.0, 4.0]]
    assert second == {"dot": [1.0, -2.0]}


def test_a_flat_vector_is_a_multi_vector_of_one_row(store: Store) -> None:
    store.put(_point({"multi": [1.0, 2.0]}))
    assert store.get(1).vector == {"multi": [[1.0, 2.0]]}


def test_the_unnamed_vector_needs_no_name(tmp_path: Path) -> None:
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    shard = edge.EdgeShard.create(str(tmp_path), to_edge_config(params))
    points = to_edge_points([_point([1.0, 2.0])], VectorSchema.of(params))
    shard.update(edge.UpdateOperation.upsert_points(points))
    assert from_edge_record(shard.retrieve([1], False, True)[0]).vector == [1.0, 2.0]
    shard.close()


def test_a_batch_is_its_points(store: Store) -> None:
    batch = models.Batch(
        ids=[1, 2],
        vectors={"dot": np.array([[1, 2], [3, 4]]), "words": [_WORDS, _WORDS]},
        payloads=[{"n": 1}, {"n": 2}],
    )
    store.shard.update(edge.UpdateOperation.upsert_points(to_edge_points(batch, _SCHEMA)))
    assert [store.get(n).payload for n in (1, 2)] == [{"n": 1}, {"n": 2}]
    vectors = store.get(2).vector
    assert isinstance(vectors, dict)
    assert vectors["dot"] == [3.0, 4.0]


@pytest.mark.parametrize(
    "batch",
    [
        models.Batch(ids=[1, 2], vectors={"dot": [[1.0, 2.0]]}),
        models.Batch(ids=[1], vectors=[[1.0, 2.0], [1.0, 2.0]]),
        models.Batch(ids=[1], vectors={"dot": [[1.0, 2.0]]}, payloads=[{}, {}]),
    ],
)
def test_a_batch_of_unequal_columns_is_refused(batch: models.Batch) -> None:
    with pytest.raises(UnexpectedResponse, match="give one of each per id"):
        to_edge_points(batch, _SCHEMA)


@pytest.mark.parametrize("length", [1e-30, 1e-6, 3.4e-4, 3.5e-4, 1e-3, 1.0, 1e18, 1e30, 1e300])
def test_a_cosine_vector_of_any_length_is_stored_normalised(store: Store, length: float) -> None:
    store.put(_point({"cos": [0.6 * length, 0.0, -0.8 * length]}))
    vectors = store.get(1).vector
    assert isinstance(vectors, dict)
    assert vectors["cos"] == pytest.approx([0.6, 0.0, -0.8], rel=1e-5)


_SPARSE_CASES = [
    (models.SparseVector.model_construct(indices=[1, 2], values=[1.0]), "2 indices but 1 values"),
    (models.SparseVector.model_construct(indices=[1, 1], values=[1.0, 1.0]), "must be unique"),
    (models.SparseVector.model_construct(indices=[-1], values=[1.0]), "indices must be of"),
    (models.SparseVector.model_construct(indices=[2**32], values=[1.0]), "indices must be of"),
    (models.SparseVector.model_construct(indices=[1], values=[math.nan]), "must be finite"),
    (models.SparseVector.model_construct(indices=[1], values=[1e39]), "must be finite"),
]


@pytest.mark.parametrize(
    ("name", "vector", "says"),
    [
        ("cos", [1.0, 2.0], "Wrong input: Vector dimension error: expected dim: 3, got 2"),
        ("cos", [], "expected dim: 3, got 0"),
        ("cos", np.ones(4), "expected dim: 3, got 4"),
        ("multi", [[1.0, 2.0], [1.0]], "expected dim: 2, got 1"),
        ("multi", [], "expected dim: 2, got 0"),
        ("other", [1.0], "Wrong input: Not existing vector name error: other"),
        ("cos", [1.0, math.nan, 0.0], "NaN or infinity"),
        ("cos", [1.0, -math.inf, 0.0], "NaN or infinity"),
        ("cos", [0.0, -0.0, 0.0], "is zero"),
        ("dot", [1.0, 1e39], "above the 3.4"),
        ("half", [1.0, -65600.0], "above the 65504"),
        ("multi", [[1.0, 2.0], [math.nan, 1.0]], "NaN or infinity"),
        ("dot", ["a", "b"], "expected a list of numbers"),
        ("cos", _WORDS, "Wrong usage of sparse vectors"),
        ("multi", _WORDS, "Wrong usage of sparse vectors"),
        ("cos", [[1.0, 2.0, 3.0]], "Wrong usage of multi vectors"),
        ("words", [1.0, 2.0], "Wrong usage of sparse vectors"),
        ("words", [[1.0, 2.0]], "Wrong usage of multi vectors"),
        *(("words", vector, says) for vector, says in _SPARSE_CASES),
    ],
)
def test_a_vector_that_must_not_be_stored_is_refused_before_the_engine(
    name: str, vector: Any, says: str
) -> None:
    with pytest.raises(UnexpectedResponse, match=says) as refusal:
        to_edge_points([_point({"dot": [1.0, 2.0]}), _point({name: vector})], _SCHEMA)
    assert refusal.value.status_code == 400


def test_an_unnamed_vector_is_refused_where_there_is_none() -> None:
    with pytest.raises(UnexpectedResponse, match="Not existing vector name error: "):
        to_edge_points([_point([1.0, 2.0])], _SCHEMA)


def test_new_vectors_of_a_point_are_checked_like_those_of_a_new_one(store: Store) -> None:
    store.put(_point({"dot": [1.0, 2.0]}))
    change = models.PointVectors(id=1, vector={"dot": [5.0, 6.0]})
    operation = edge.UpdateOperation.update_vectors([to_edge_point_vectors(change, _SCHEMA)])
    store.shard.update(operation)
    assert store.get(1).vector == {"dot": [5.0, 6.0]}
    bad = models.PointVectors(id=1, vector={"dot": [5.0]})
    with pytest.raises(UnexpectedResponse, match="expected dim: 2, got 1"):
        to_edge_point_vectors(bad, _SCHEMA)


def test_a_query_may_be_zero_but_not_misshapen_or_infinite() -> None:
    assert to_edge_query_vector([0.0, 0.0, 0.0], "cos", _SCHEMA) == [0.0, 0.0, 0.0]
    assert to_edge_query_vector(np.array([1, 2]), "dot", _SCHEMA) == [1, 2]
    for bad in ([1.0], [math.inf, 0.0, 0.0]):
        with pytest.raises(UnexpectedResponse):
            to_edge_query_vector(bad, "cos", _SCHEMA)
    for sparse, says in _SPARSE_CASES:
        with pytest.raises(UnexpectedResponse, match=says):
            to_edge_query_vector(sparse, "words", _SCHEMA)


def test_the_schema_is_read_from_the_collections_arguments() -> None:
    assert _SCHEMA.dense["multi"] == DenseVector(size=2, multi=True)
    assert _SCHEMA.dense["cos"].cosine
    assert _SCHEMA.sparse == {"words"}
    assert list(VectorSchema.of(_DENSE["cos"]).dense) == [""]
    assert VectorSchema.of(None, _SPARSE) == VectorSchema(dense={}, sparse=frozenset({"words"}))


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "dot": st.lists(_NUMBERS, min_size=2, max_size=2),
                "multi": st.lists(
                    st.lists(_NUMBERS, min_size=2, max_size=2), min_size=1, max_size=3
                ),
                "words": st.dictionaries(st.integers(0, 2**32 - 1), _NUMBERS, max_size=5).map(
                    lambda weights: models.SparseVector(
                        indices=list(weights), values=list(weights.values())
                    )
                ),
            },
        ),
        min_size=1,
        max_size=5,
    )
)
def test_random_vectors_come_back_exactly(store: Store, vectors: list[dict[str, Any]]) -> None:
    store.put(*(_point(vector, point_id=n) for n, vector in enumerate(vectors)))
    for n, given_vectors in enumerate(vectors):
        stored = store.get(n).vector
        assert isinstance(stored, dict)
        assert stored.keys() == given_vectors.keys()
        for name, vector in given_vectors.items():
            if isinstance(vector, models.SparseVector):
                found = stored[name]
                assert sorted(zip(found.indices, found.values, strict=True)) == sorted(
                    zip(vector.indices, vector.values, strict=True)
                )
            else:
                assert stored[name] == vector


# --- payloads ------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        _TEXT,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_TEXT, _JSON, max_size=5))
def test_any_json_payload_comes_back(store: Store, payload: dict[str, Any]) -> None:
    store.put(_point({"dot": [1.0, 2.0]}, payload))
    assert _alike(store.get(1).payload, payload)


def _alike(stored: Any, given_value: Any) -> bool:
    """Equal with the same types; a float may be off in its last bit, as after the server's JSON."""
    if type(stored) is not type(given_value):
        return False
    if isinstance(stored, dict):
        same_keys = stored.keys() == given_value.keys()
        return same_keys and all(_alike(stored[key], given_value[key]) for key in stored)
    if isinstance(stored, list):
        same_length = len(stored) == len(given_value)
        return same_length and all(map(_alike, stored, given_value))
    if isinstance(stored, float):
        return abs(stored - given_value) <= math.ulp(given_value)
    return bool(stored == given_value)


class _Colour(StrEnum):
    RED = "red"


class _Level(IntEnum):
    HIGH = 3


def test_what_has_a_plain_form_is_stored_in_it(store: Store) -> None:
    payload = {
        "when": datetime(2024, 1, 2, 3, 4, tzinfo=UTC),
        "day": date(2024, 1, 2),
        "id": UUID(_HEX),
        "pair": (1, (2, 3)),
        "colour": _Colour.RED,
        "level": _Level.HIGH,
        "number": np.float64(0.5),
        "ordered": OrderedDict(a=date(2024, 1, 2)),
    }
    store.put(_point({"dot": [1.0, 2.0]}, payload))
    assert store.get(1).payload == {
        "when": "2024-01-02T03:04:00+00:00",
        "day": "2024-01-02",
        "id": _CANONICAL,
        "pair": [1, [2, 3]],
        "colour": "red",
        "level": 3,
        "number": 0.5,
        "ordered": {"a": "2024-01-02"},
    }


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "nan is not a JSON number"),
        (math.inf, "inf is not a JSON number"),
        (2**63, "does not fit 64 bits"),
        (-(2**63) - 1, "does not fit 64 bits"),
        ({1, 2}, "set is not JSON"),
        (b"x", "bytes is not JSON"),
        (np.int64(1), "int64 is not JSON"),
        (np.ones(2), "ndarray is not JSON"),
        (object(), "object is not JSON"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({1: 2}, "keys must be strings"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [[v]], lambda v: {"in": {"deep": v}}])
def test_a_payload_that_cannot_be_stored_names_the_key_and_the_reason(
    value: Any, says: str, wrap: Any
) -> None:
    with pytest.raises(UnexpectedResponse, match="payload key .*bad.*" + says) as refusal:
        to_edge_payload({"good": 1, "bad": wrap(value)})
    assert refusal.value.status_code == 400


def test_a_key_of_the_payload_itself_must_be_a_string() -> None:
    with pytest.raises(UnexpectedResponse, match="keys must be strings"):
        to_edge_payload({1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("wrap", [lambda v: {"a": v}, lambda v: [v]], ids=["objects", "lists"])
def test_the_deepest_payload_that_is_let_through_can_be_read_after_a_restart(
    tmp_path: Path, wrap: Any
) -> None:
    deepest: Any = 1
    for _ in range(99):
        deepest = wrap(deepest)
    with pytest.raises(UnexpectedResponse, match="levels deep"):
        to_edge_payload({"x": wrap(deepest)})
    with pytest.raises(UnexpectedResponse, match="levels deep"):
        to_edge_payload({"x": deepest}, parents=1)
    store = Store(tmp_path)
    store.put(_point({"dot": [1.0, 2.0]}, {"x": deepest}))
    store.reopen()
    assert store.get(1).payload == {"x": deepest}
    store.shard.close()


def test_a_payload_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(UnexpectedResponse, match="levels deep"):
        to_edge_payload(endless)


# --- what is asked for ---------------------------------------------------------------------------


def test_payload_and_vector_selectors_mean_the_same(store: Store) -> None:
    store.put(_point({"dot": [1.0, 2.0], "half": [1.0, 1.0]}, {"a": 1, "b": 2}))
    selected = [
        store.shard.retrieve([1], to_edge_with_payload(selector), False)[0].payload
        for selector in (
            True,
            False,
            None,
            ["a"],
            models.PayloadSelectorInclude(include=["b"]),
            models.PayloadSelectorExclude(exclude=["b"]),
        )
    ]
    assert selected == [{"a": 1, "b": 2}, None, None, {"a": 1}, {"b": 2}, {"a": 1}]
    only = to_edge_with_vector(["half"], _SCHEMA)
    assert from_edge_record(store.shard.retrieve([1], False, only)[0]).vector == {"half": [1, 1]}
    assert to_edge_with_vector(None, _SCHEMA) is False
    with pytest.raises(UnexpectedResponse, match="Not existing vector name error: nope"):
        to_edge_with_vector(["nope"], _SCHEMA)


def test_a_found_point_comes_back_with_what_was_asked_for(store: Store) -> None:
    store.put(_point({"cos": [0.0, 2.0, 0.0]}, {"a": 1}, _CANONICAL))
    request = edge.QueryRequest(
        1,
        query=edge.Query.Nearest([0.0, 1.0, 0.0], "cos"),
        filter=edge.Filter(must=[edge.HasIdCondition({UUID(_CANONICAL)})]),
        with_payload=True,
        with_vector=True,
    )
    hit = from_edge_scored(store.shard.query(request)[0])
    assert (hit.id, hit.payload, hit.vector) == (_CANONICAL, {"a": 1}, {"cos": [0.0, 1.0, 0.0]})
    assert hit.score == pytest.approx(1.0)
    assert models.ScoredPoint.model_validate(hit.model_dump()) == hit
