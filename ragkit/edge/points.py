"""Points: qdrant-client's models to the engine's and back.

The engine stores what it is given, and some of that ruins a shard for good: ragged multi-vectors
and sparse vectors of unequal length panic, each time the write-ahead log is replayed; a payload
nested too deeply is written and cannot be read, nor the shard opened. So every value is checked
here first. What a server would refuse is refused in its words; NaN, infinity and, under cosine,
zero vectors are refused as well, though a server accepts some of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from ragkit.edge.responses import bad_request

EdgeId: TypeAlias = int | UUID
ClientId: TypeAlias = int | str

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_FLOAT32_MAX = float(np.finfo(np.float32).max)

# The engine normalises a vector under cosine unless its squared length, a float32, is below the
# float32 epsilon; above the largest float32 it overflows and the vector is stored as zero.
_COSINE_MIN = math.sqrt(float(np.finfo(np.float32).eps)) * 1.001
_COSINE_MAX = math.sqrt(_FLOAT32_MAX) * 0.999

# What is nested more than some 120 levels deep is written to the log and never read again: the
# shard does not open any more.
_MAX_DEPTH = 100

# Subclasses of these (an IntEnum, a defaultdict, a named tuple) are stored as what they extend.
_PLAIN_BASES: tuple[type[Any], ...] = (int, float, dict, list, tuple)

# The forms of a UUID that the server reads; Python's own parser takes many more.
_UUID = re.compile(
    r"(?:urn:uuid:)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[0-9a-f]{32}"
    r"|\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseVector:
    """What a dense vector of a collection must be like.

    Attributes:
        size: Its dimension.
        multi: Whether a point holds a matrix of such vectors.
        cosine: Whether it is normalised on the way in.
        zero: Whether it may be zero, which under cosine it must not.
        largest: The largest absolute value that its storage holds.
    """

    size: int
    multi: bool = False
    cosine: bool = False
    zero: bool = True
    largest: float = _FLOAT32_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSchema:
    """The vectors that a collection's points may have, by name; "" is the unnamed one."""

    dense: Mapping[str, DenseVector]
    sparse: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        vectors: models.VectorParams | Mapping[str, models.VectorParams] | None,
        sparse_vectors: Mapping[str, models.SparseVectorParams] | None = None,
    ) -> VectorSchema:
        """The schema of a collection created with these arguments."""
        named = {"": vectors} if isinstance(vectors, models.VectorParams) else vectors or {}
        return cls(
            dense={name: _dense_vector(params) for name, params in named.items()},
            sparse=frozenset(sparse_vectors or ()),
        )


def _dense_vector(params: models.VectorParams) -> DenseVector:
    cosine = params.distance == models.Distance.COSINE
    half = params.datatype == models.Datatype.FLOAT16 and not cosine
    return DenseVector(
        size=params.size,
        multi=params.multivector_config is not None,
        cosine=cosine,
        zero=not cosine,
        largest=_FLOAT16_MAX if half else _FLOAT32_MAX,
    )


def to_edge_id(point_id: models.ExtendedPointId) -> EdgeId:
    """A point id as the engine takes it.

    Raises:
        UnexpectedResponse: It is neither an integer of 0..2^64-1 nor a UUID (400).
    """
    if type(point_id) is int and 0 <= point_id <= _UINT64_MAX:
        return point_id
    if isinstance(point_id, UUID):
        return point_id
    if isinstance(point_id, str) and _UUID.fullmatch(point_id):
        return UUID(point_id)
    raise bad_request(
        f"Format error in JSON body: value {point_id} is not a valid point ID, "
        "valid values are either an unsigned integer or a UUID"
    )


def to_edge_ids(point_ids: Iterable[models.ExtendedPointId]) -> list[EdgeId]:
    """Point ids as the engine takes them, in their order."""
    return [to_edge_id(point_id) for point_id in point_ids]


def from_edge_id(point_id: EdgeId | str) -> ClientId:
    """A point id as the server gives it: a UUID is a lowercase hyphenated string."""
    return str(point_id) if isinstance(point_id, UUID) else point_id


def id_order(point_id: ClientId) -> tuple[bool, int, str]:
    """A sort key for ids as the server orders them: integers first, then UUIDs."""
    if isinstance(point_id, str):
        return True, 0, point_id
    return False, point_id, ""


def to_edge_points(
    points: Iterable[models.PointStruct] | models.Batch, schema: VectorSchema
) -> list[edge.Point]:
    """The points of one write, all checked before the engine sees the first.

    Raises:
        UnexpectedResponse: A point that must not be stored (400).
    """
    rows = _batch_rows(points) if isinstance(points, models.Batch) else points
    return [to_edge_point(point, schema) for point in rows]


def to_edge_point(point: models.PointStruct, schema: VectorSchema) -> edge.Point:
    """One point, checked.

    A server accepts a zero vector under cosine, which can never be found by its direction; the
    embedded engine's caller is told instead. Vectors too short or too long for the engine to
    normalise are normalised here.

    Raises:
        UnexpectedResponse: A point that must not be stored (400).
    """
    return edge.Point(
        to_edge_id(point.id),
        to_edge_vectors(point.vector, schema),
        None if point.payload is None else to_edge_payload(point.payload),
    )


def to_edge_point_vectors(point: models.PointVectors, schema: VectorSchema) -> edge.PointVectors:
    """New vectors of an existing point, checked as those of a new one."""
    return edge.PointVectors(to_edge_id(point.id), to_edge_vectors(point.vector, schema))


def _batch_rows(batch: models.Batch) -> Iterator[models.PointStruct]:
    count = len(batch.ids)
    payloads = [None] * count if batch.payloads is None else batch.payloads
    if isinstance(batch.vectors, dict):
        columns = batch.vectors
        for name, column in columns.items():
            _same_length(f"vectors of {name!r}", len(column), count)
        vectors: Sequence[Any] = [
            {name: columns[name][i] for name in columns} for i in range(count)
        ]
    else:
        vectors = batch.vectors
    _same_length("vectors", len(vectors), count)
    _same_length("payloads", len(payloads), count)
    for point_id, vector, payload in zip(batch.ids, vectors, payloads, strict=True):
        yield models.PointStruct.model_construct(id=point_id, vector=vector, payload=payload)


def _same_length(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise bad_request(f"Wrong input: {expected} ids but {got} {what}: give one of each per id")


def to_edge_vectors(vectors: Any, schema: VectorSchema) -> Any:
    """The vectors of a point: one unnamed, or a mapping of names."""
    if isinstance(vectors, dict):
        return {name: to_edge_vector(vector, name, schema) for name, vector in vectors.items()}
    return to_edge_vector(vectors, "", schema)


def to_edge_vector(vector: Any, name: str, schema: VectorSchema) -> Any:
    """One vector, dense, multi or sparse, that fits what the collection has under that name.

    Raises:
        UnexpectedResponse: The name is unknown, or the vector is not one of that kind, size, or
            not finite (400).
    """
    params = schema.dense.get(name)
    if params is None:
        if name not in schema.sparse:
            raise bad_request(f"Wrong input: Not existing vector name error: {name}")
        return _to_edge_sparse(vector, name)
    return _to_edge_dense(vector, name, params)


def to_edge_query_vector(vector: Any, name: str, schema: VectorSchema) -> Any:
    """As `to_edge_vector`, for a vector to search with: under cosine, too, it may be zero."""
    params = schema.dense.get(name)
    if params is None:
        return to_edge_vector(vector, name, schema)
    return _to_edge_dense(vector, name, replace(params, zero=True))


def _to_edge_dense(vector: Any, name: str, params: DenseVector) -> Any:
    if isinstance(vector, models.SparseVector):
        raise bad_request("Wrong input: Wrong usage of sparse vectors")
    if isinstance(vector, np.ndarray):
        vector = vector.tolist()
    return (_checked_multi if params.multi else _checked_dense)(vector, name, params)


def _checked_multi(rows: Any, name: str, params: DenseVector) -> list[list[float]]:
    if not len(rows):
        raise bad_request(_dimension_message(params.size, 0))
    if not isinstance(rows[0], list | np.ndarray):
        rows = [rows]
    return [
        _checked_dense(row.tolist() if isinstance(row, np.ndarray) else row, name, params)
        for row in rows
    ]


def _checked_dense(vector: list[float], name: str, params: DenseVector) -> list[float]:
    if len(vector) != params.size:
        if vector and isinstance(vector[0], list):
            raise bad_request("Wrong input: Wrong usage of multi vectors")
        raise bad_request(_dimension_message(params.size, len(vector)))
    try:
        # One pass in C that NaN, infinity, zero and overflow all show up in.
        length = math.hypot(*vector)
    except TypeError as exc:
        raise bad_request(_vector_message(name, "expected a list of numbers")) from exc
    if _COSINE_MIN < length < _COSINE_MAX and length <= params.largest:
        return vector
    return _unusual_dense(vector, name, params)


def _unusual_dense(vector: list[float], name: str, params: DenseVector) -> list[float]:
    if not all(map(math.isfinite, vector)):
        raise bad_request(_vector_message(name, "it has NaN or infinity"))
    if not params.cosine:
        largest = max(map(abs, vector))
        if largest > params.largest:
            reason = f"{largest:g} is above the {params.largest:g} that its datatype holds"
            raise bad_request(_vector_message(name, reason))
        return vector
    scale = max(map(abs, vector))
    if scale == 0:
        if params.zero:
            return vector
        raise bad_request(_vector_message(name, "it is zero, which has no direction for cosine"))
    return [x / scale for x in vector]


def _to_edge_sparse(vector: Any, name: str) -> edge.SparseVector:
    if not isinstance(vector, models.SparseVector):
        nested = len(vector) > 0 and isinstance(vector[0], list | np.ndarray)
        raise bad_request(f"Wrong input: Wrong usage of {'multi' if nested else 'sparse'} vectors")
    indices, values = vector.indices, vector.values
    if len(indices) != len(values):
        reason = f"{len(indices)} indices but {len(values)} values: give one value per index"
        raise bad_request(_vector_message(name, reason))
    if indices:
        if len(set(indices)) != len(indices):
            raise bad_request(_vector_message(name, "indices: must be unique"))
        if min(indices) < 0 or max(indices) > _UINT32_MAX:
            raise bad_request(_vector_message(name, f"indices must be of 0..{_UINT32_MAX}"))
        if not math.hypot(*values) <= _FLOAT32_MAX:
            raise bad_request(_vector_message(name, "its values must be finite"))
    return edge.SparseVector(indices, values)


def _dimension_message(expected: int, got: int) -> str:
    return f"Wrong input: Vector dimension error: expected dim: {expected}, got {got}"


def _vector_message(name: str, reason: str) -> str:
    return f"Wrong input: vector {name!r} cannot be stored: {reason}"


def to_edge_payload(payload: Mapping[str, Any], *, parents: int = 0) -> dict[str, Any]:
    """A payload as plain JSON; dates and UUIDs become strings as they do in qdrant-client.

    Args:
        payload: JSON-like values by string keys.
        parents: How many levels deep it will be set in the point's payload.

    Raises:
        UnexpectedResponse: A value that JSON or the engine cannot hold (400).
    """
    plain = {}
    for key, value in payload.items():
        try:
            plain[_plain_key(key)] = _plain(value, parents + 1)
        except _NotPlainError as exc:
            raise bad_request(f"Wrong input: payload key {key!r}: {exc}") from exc
    return plain


class _NotPlainError(ValueError):
    """A value that has no place in a payload, and why."""


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _plain_text(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        if _INT64_MIN <= value <= _INT64_MAX:
            return value
        raise _NotPlainError(f"{value} does not fit 64 bits: store it as a string")
    if kind is float:
        if math.isfinite(value):
            return value
        raise _NotPlainError(f"{value} is not a JSON number: leave it out or store None")
    if kind is dict or kind is list or kind is tuple:
        return _plain_container(value, depth + 1)
    return _plain(_plain_object(value), depth)


def _plain_container(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise _NotPlainError(f"nested more than {_MAX_DEPTH} levels deep: flatten it")
    if type(value) is dict:
        return {_plain_key(key): _plain(item, depth) for key, item in value.items()}
    return [_plain(item, depth) for item in value]


def _plain_object(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)
    for base in _PLAIN_BASES:
        if isinstance(value, base):
            return base(value)
    expected = "strings, numbers, booleans, None, lists and objects"
    raise _NotPlainError(f"{type(value).__name__} is not JSON: use {expected}")


def _plain_key(key: Any) -> str:
    if not isinstance(key, str):
        raise _NotPlainError(f"{key!r} is a {type(key).__name__}: keys must be strings")
    return key if key.isascii() else _plain_text(key)


def _plain_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise _NotPlainError("a string has a lone surrogate: replace it") from exc
    return text


def to_edge_with_payload(selector: Any) -> bool | list[str] | edge.PayloadSelector:
    """Which payload to return: all, none, or some keys."""
    if isinstance(selector, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(selector.include)
    if isinstance(selector, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(selector.exclude)
    return list(selector) if isinstance(selector, list | tuple) else bool(selector)


def to_edge_with_vector(selector: Any, schema: VectorSchema) -> bool | list[str]:
    """Which vectors to return: all, none, or those named.

    Raises:
        UnexpectedResponse: A name that the collection does not have (400).
    """
    if not isinstance(selector, list | tuple):
        return bool(selector)
    for name in selector:
        if name not in schema.dense and name not in schema.sparse:
            raise bad_request(f"Wrong input: Not existing vector name error: {name}")
    return list(selector)


def from_edge_record(record: edge.Record) -> models.Record:
    """A stored point as the server gives it; vectors under cosine are the normalised ones."""
    found = models.Record(
        id=from_edge_id(record.id), payload=record.payload, order_value=record.order_value
    )
    if (vectors := record.vector) is not None:
        found.vector = from_edge_vectors(vectors)  # set afterwards, its numbers are not validated
    return found


def from_edge_scored(point: edge.ScoredPoint) -> models.ScoredPoint:
    """A found point as the server gives it; vectors under cosine are the normalised ones."""
    found = models.ScoredPoint(
        id=from_edge_id(point.id),
        version=point.version,
        score=point.score,
        payload=point.payload,
        order_value=point.order_value,
    )
    if (vectors := point.vector) is not None:
        found.vector = from_edge_vectors(vectors)  # as above
    return found


def from_edge_vectors(vectors: Any) -> Any:
    """The vectors of a point as the server gives them, None where none were asked for."""
    if isinstance(vectors, dict):
        return {name: _from_edge_vector(vector) for name, vector in vectors.items()}
    return vectors


def _from_edge_vector(vector: Any) -> Any:
    if isinstance(vector, edge.SparseVector):
        return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)
    return vector
