"""Points for gRPC: protobuf messages filled from numpy rows, without a Python float between.

qdrant-client turns a vector into a list of floats, appends those to a message one by one, and
copies that message into the one around it. In protobuf's wire format a packed list of floats is
the row's bytes behind a short header, and a message can be filled where it stands. All but the
vectors is converted by qdrant-client itself, so that a payload or a filter means the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.qdrant_remote import QdrantRemote

_WIRE_FLOAT = np.dtype("<f4")  # protobuf's float: 4 bytes, the lowest first, on every machine


def update_points(
    client: QdrantBase, collection_name: str, operations: Sequence[models.UpdateOperation]
) -> list[models.UpdateResult]:
    """Do what `client.batch_update_points` does with `wait=True`, also with numpy rows in points.

    Args:
        client: Any store. Over gRPC the packed message goes through the client's own channel,
            with its headers and its deadline.
        collection_name: The collection, or an alias of it.
        operations: As the client takes them. In the points of an `UpsertOperation` a named dense
            vector may be a one-dimensional float array; made without validation, that is by
            `PointStruct.model_construct`, since validation turns arrays into lists. Numbers are
            sent as float32 to every store; whether they are finite is the caller's to check.

    Raises:
        ValueError: A point has a vector of another shape or type, or (over gRPC) holds what a
            message cannot: an integer of more than 64 bits, half of a surrogate pair.
    """
    if not speaks_grpc(client):
        return client.batch_update_points(
            collection_name, update_operations=with_lists(operations), wait=True
        )
    answer = client.grpc_points.UpdateBatch(
        packed_update(collection_name, operations), timeout=deadline_s(client)
    )
    return [GrpcToRest.convert_update_result(result) for result in answer.result]


def speaks_grpc(client: QdrantBase) -> TypeGuard[QdrantClient]:
    """Whether the client sends writes over gRPC: made with `prefer_grpc`, and for a server."""
    if not isinstance(client, QdrantClient):
        return False
    options = client.init_options
    local = options["path"] is not None or options["location"] == ":memory:"
    return bool(options["prefer_grpc"]) and not local


def deadline_s(client: QdrantClient) -> int:
    """The deadline the client sets for a write over gRPC: its `timeout` rounded up, or 5 s."""
    timeout = client.init_options["timeout"]
    return QdrantRemote.DEFAULT_GRPC_TIMEOUT if timeout is None else math.ceil(timeout)


def packed_update(
    collection_name: str, operations: Iterable[models.UpdateOperation]
) -> grpc.UpdateBatchPoints:
    """The gRPC request for the operations that `update_points` takes.

    Raises:
        ValueError: As `update_points`.
    """
    request = grpc.UpdateBatchPoints(collection_name=collection_name, wait=True)
    for operation in operations:
        packed = request.operations.add()
        match operation:
            case models.UpsertOperation(upsert=models.PointsList() as upsert):
                # The client converts all but the points: shard key, filter and mode.
                rest = upsert.model_copy(update={"points": []})
                bare = models.UpsertOperation.model_construct(upsert=rest)
                packed.CopyFrom(RestToGrpc.convert_update_operation(bare))
                for point in upsert.points:
                    _add(packed.upsert.points, point)
            case _:
                packed.CopyFrom(RestToGrpc.convert_update_operation(operation))
    return request


def with_lists(operations: Iterable[models.UpdateOperation]) -> list[models.UpdateOperation]:
    """The operations with lists for numpy rows, as REST and the embedded engine need them.

    Raises:
        ValueError: A vector is not a one-dimensional float array.
    """
    listed: list[models.UpdateOperation] = []
    for operation in operations:
        match operation:
            case models.UpsertOperation(upsert=models.PointsList() as upsert):
                points = [_with_lists(point) for point in upsert.points]
                filled = upsert.model_copy(update={"points": points})
                listed.append(models.UpsertOperation.model_construct(upsert=filled))
            case _:
                listed.append(operation)
    return listed


def _add(points: Any, point: models.PointStruct) -> None:
    """Append a point to the points of a message, filled in place."""
    try:
        packed = points.add(
            id=RestToGrpc.convert_extended_point_id(point.id),
            payload=None if point.payload is None else RestToGrpc.convert_payload(point.payload),
        )
        if not isinstance(point.vector, dict):
            packed.vectors.CopyFrom(RestToGrpc.convert_vector_struct(point.vector))
            return
        named = packed.vectors.vectors
        named.SetInParent()  # there, even when there is no vector in it
        for name, vector in point.vector.items():
            _fill(named.vectors[name], name, vector)
    except (TypeError, ValueError) as exc:
        raise _about(point, exc) from exc


def _fill(packed: grpc.Vector, name: str, vector: Any) -> None:
    if isinstance(vector, np.ndarray):
        row = _row(name, vector)
        packed.dense.MergeFromString(_header(len(row)) + row.tobytes())
    elif isinstance(vector, models.SparseVector):
        packed.sparse.SetInParent()  # there, even when it is empty
        packed.sparse.indices.extend(vector.indices)
        packed.sparse.values.extend(vector.values)
    else:
        converted = RestToGrpc.convert_vector_struct({name: vector})
        packed.CopyFrom(converted.vectors.vectors[name])


@cache
def _header(dim: int) -> bytes:
    """What stands before the numbers of a dense vector: the field's tag and the byte count."""
    message: bytes = grpc.DenseVector(data=[0.0] * dim).SerializeToString()
    return message[: len(message) - dim * _WIRE_FLOAT.itemsize]


def _with_lists(point: models.PointStruct) -> models.PointStruct:
    vectors = point.vector
    if not isinstance(vectors, dict):
        return point
    try:
        listed = {
            name: _row(name, vector).tolist() if isinstance(vector, np.ndarray) else vector
            for name, vector in vectors.items()
        }
    except ValueError as exc:
        raise _about(point, exc) from exc
    return models.PointStruct.model_construct(id=point.id, vector=listed, payload=point.payload)


def _row(name: str, vector: NDArray[Any]) -> NDArray[np.float32]:
    if vector.ndim != 1 or vector.dtype.kind != "f":
        raise ValueError(
            f"expected vector {name!r} as a one-dimensional array of floats, got shape "
            f"{vector.shape} of {vector.dtype}: pass one row of a float32 matrix for each point"
        )
    return vector.astype(_WIRE_FLOAT, copy=False)


def _about(point: models.PointStruct, exc: Exception) -> ValueError:
    return ValueError(f"point {point.id!r} cannot be sent: {exc}")
