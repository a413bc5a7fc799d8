"""Packed points: equal to what qdrant-client makes of the same points as lists."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc as grpcio
import httpx
import numpy as np
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from ragkit.edge import EdgeClient
from ragkit.packing import deadline_s, packed_update, speaks_grpc, update_points, with_lists

UUID = "0b6cdb62-9f2c-4d0c-9a29-6e2c4c0d9a11"
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
PAYLOADS = st.dictionaries(
    st.text(),
    st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)
# Infinities, subnormal numbers and -0.0 among them; NaN, which equals nothing, has its own test.
ROWS = arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32, allow_nan=False))
SPARSE = st.dictionaries(
    st.integers(0, 2**32 - 1), st.floats(width=32, allow_nan=False), max_size=20
).map(lambda weights: models.SparseVector(indices=list(weights), values=list(weights.values())))
IDS = st.integers(0, 2**64 - 1) | st.uuids() | st.uuids().map(str)
POINTS = st.builds(
    models.PointStruct.model_construct,
    id=IDS,
    vector=st.dictionaries(st.text(), ROWS | SPARSE, max_size=4),
    payload=st.none() | PAYLOADS,
)


def point(vector: Any, *, id: Any = 1, **payload: Any) -> models.PointStruct:  # noqa: A002
    return models.PointStruct.model_construct(id=id, vector={"dense": vector}, payload=payload)


def upsert(*points: models.PointStruct, **options: Any) -> models.UpsertOperation:
    return models.UpsertOperation(upsert=models.PointsList(points=list(points), **options))


def as_lists(points: Sequence[models.PointStruct]) -> list[models.PointStruct]:
    """The same points in the form qdrant-client knows, not by the code under test."""

    def listed(vector: Any) -> Any:
        is_row = isinstance(vector, np.ndarray)
        return [float(number) for number in vector] if is_row else vector

    return [
        models.PointStruct(
            id=each.id,
            vector={name: listed(vector) for name, vector in named(each).items()},
            payload=each.payload,
        )
        for each in points
    ]


def named(point: models.PointStruct) -> dict[str, Any]:
    assert isinstance(point.vector, dict)
    return point.vector


def by_the_client(name: str, operations: Sequence[Any]) -> grpc.UpdateBatchPoints:
    """The request that qdrant-client sends for operations without numpy rows."""
    converted = [RestToGrpc.convert_update_operation(operation) for operation in operations]
    return grpc.UpdateBatchPoints(collection_name=name, wait=True, operations=converted)


def packed_vector(vector: Any) -> grpc.Vector:
    (operation,) = packed_update("notes", [upsert(point(vector))]).operations
    packed: grpc.Vector = operation.upsert.points[0].vectors.vectors.vectors["dense"]
    return packed


@settings(max_examples=150, deadline=None)
@given(st.lists(POINTS, max_size=3))
def test_a_packed_request_is_the_one_that_the_client_makes_of_lists(
    points: list[models.PointStruct],
) -> None:
    packed = packed_update("notes", [upsert(*points)])
    expected = by_the_client("notes", [upsert(*as_lists(points))])
    assert packed == expected
    # To the bit and in the bytes that travel.
    assert packed.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


@settings(max_examples=50, deadline=None)
@given(row=ROWS.filter(len), sparse=SPARSE, payload=PAYLOADS)
def test_what_was_packed_is_read_back_as_it_was(
    row: NDArray[np.float32], sparse: models.SparseVector, payload: dict[str, Any]
) -> None:
    given = models.PointStruct.model_construct(
        id=UUID, vector={"dense": row, "bm25": sparse}, payload=payload
    )
    sent = packed_update("notes", [upsert(given)]).SerializeToString()
    (operation,) = grpc.UpdateBatchPoints.FromString(sent).operations
    read = GrpcToRest.convert_point_struct(operation.upsert.points[0])
    assert read.id == UUID
    assert read.payload == payload
    assert np.array(named(read)["dense"], np.float32).tobytes() == row.tobytes()
    assert named(read)["bm25"] == sparse


def test_a_batch_of_two_points_and_a_deletion_is_this_message() -> None:
    first = models.PointStruct.model_construct(
        id=UUID,
        vector={
            "dense": np.array([1.5, -0.25], np.float32),
            "bm25": models.SparseVector(indices=[7, 4_000_000_000], values=[0.5, 2.0]),
        },
        payload={"text": "größer"},
    )
    second = point(np.array([0.0, -0.0], np.float32), id=2, headings=["One"])
    old = models.FieldCondition(key="source", match=models.MatchAny(any=["a.md"]))
    deletion = models.DeleteOperation(
        delete=models.FilterSelector(filter=models.Filter(must=[old]), shard_key="acme")
    )
    packed = packed_update("notes", [upsert(first, second, shard_key="acme"), deletion])
    recorded = """
        collection_name: "notes"
        wait: true
        operations {
          upsert {
            points {
              id { uuid: "0b6cdb62-9f2c-4d0c-9a29-6e2c4c0d9a11" }
              payload { key: "text" value { string_value: "größer" } }
              vectors {
                vectors {
                  vectors {
                    key: "bm25"
                    value {
                      sparse { values: 0.5 values: 2 indices: 7 indices: 4000000000 }
                    }
                  }
                  vectors {
                    key: "dense"
                    value { dense { data: 1.5 data: -0.25 } }
                  }
                }
              }
            }
            points {
              id { num: 2 }
              payload {
                key: "headings"
                value { list_value { values { string_value: "One" } } }
              }
              vectors {
                vectors { vectors { key: "dense" value { dense { data: 0 data: -0 } } } }
              }
            }
            shard_key_selector { shard_keys { keyword: "acme" } }
          }
        }
        operations {
          delete_points {
            points {
              filter {
                must { field { key: "source" match { keywords { strings: "a.md" } } } }
              }
            }
            shard_key_selector { shard_keys { keyword: "acme" } }
          }
        }
    """
    assert packed == text_format.Parse(recorded, grpc.UpdateBatchPoints())


@pytest.mark.parametrize(
    "row",
    [
        np.array([0.1, -2.0, 3.0], np.float64),
        np.array([0.1, -2.0, 3.0], np.float16),
        np.array([0.1, -2.0, 3.0], ">f4"),
        np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1],
        np.arange(6, dtype=np.float32)[::-2],
        np.broadcast_to(np.float32(0.5), 3),
    ],
    ids=["float64", "float16", "other byte order", "column", "backwards", "one number repeated"],
)
def test_any_float_row_is_sent_as_the_same_float32_numbers(row: NDArray[Any]) -> None:
    numbers = row.astype(np.float32).tolist()
    assert list(packed_vector(row).dense.data) == numbers
    (listed,) = with_lists([upsert(point(row))])
    assert listed == upsert(point(numbers))


def test_numbers_that_are_not_finite_are_left_to_the_caller() -> None:
    row = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert np.array(packed_vector(row).dense.data, np.float32).tobytes() == row.tobytes()


@pytest.mark.parametrize(
    ("vector", "got"),
    [
        (np.array([1, 2]), r"\(2,\) of int64"),
        (np.array([True]), r"\(1,\) of bool"),
        (np.array(["a"]), r"\(1,\) of <U1"),
        (np.array([1.0], object), r"\(1,\) of object"),
        (np.array([1j]), r"\(1,\) of complex128"),
        (np.ones((2, 3), np.float32), r"\(2, 3\) of float32"),
        (np.array(1.0, np.float32), r"\(\) of float32"),
    ],
)
@pytest.mark.parametrize("prepare", [lambda each: packed_update("notes", each), with_lists])
def test_another_array_is_refused_with_the_point_and_the_remedy(
    prepare: Any, vector: NDArray[Any], got: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"point 'p7' .*vector 'dense' .*got shape {got}: pass .*float32"
    ):
        prepare([upsert(point(vector, id="p7"))])


@pytest.mark.parametrize(
    "bad",
    [
        point([1.0], year=2**63),
        point([1.0], nested={"list": [-(2**63) - 1]}),
        point([1.0], text="\ud800"),
        point([1.0], thing=object()),
        point([1.0], id=-1),
        point([1.0], id=True),
        point([1.0], id=1.5),
        point(models.SparseVector(indices=[-1], values=[1.0])),
        point("not a vector"),
        point({"deeper": [1.0]}),
    ],
)
def test_what_a_message_cannot_hold_is_refused_by_the_client_and_here_with_the_point(
    bad: models.PointStruct,
) -> None:
    with pytest.raises((ValueError, TypeError)):
        by_the_client("notes", [upsert(bad)])
    with pytest.raises(ValueError, match=rf"^point {bad.id!r} cannot be sent: .") as caught:
        packed_update("notes", [upsert(bad)])
    assert caught.value.__cause__ is not None


def test_vectors_that_are_no_arrays_are_packed_as_the_client_does() -> None:
    struct = models.PointStruct.model_construct
    operations = [
        upsert(
            struct(id=1, vector={"dense": [1.0, 2.0], "many": [[1.0], [2.0]]}, payload={}),
            struct(id=2, vector={"said": models.Document(text="hello", model="m")}, payload=None),
            struct(id=3, vector={}, payload={}),
            struct(id=4, vector=[1.0, 2.0], payload={"a": 1}),
        )
    ]
    assert packed_update("notes", operations) == by_the_client("notes", operations)


def test_all_that_is_not_a_point_is_as_the_client_has_it() -> None:
    only = models.Filter(must=[models.HasIdCondition(has_id=[1])])
    everything: list[models.UpdateOperation] = [
        upsert(
            point([1.0]),
            shard_key=models.ShardKeyWithFallback(target="acme", fallback="others"),
            update_filter=only,
            update_mode=models.UpdateMode.INSERT_ONLY,
        ),
        upsert(shard_key=["acme", 7]),
        models.UpsertOperation(
            upsert=models.PointsBatch(
                batch=models.Batch(ids=[1, 2], vectors={"dense": [[1.0], [2.0]]})
            )
        ),
        models.DeleteOperation(delete=models.PointIdsList(points=[1, UUID], shard_key="acme")),
        models.SetPayloadOperation(
            set_payload=models.SetPayload(payload={"a": 1}, filter=only, key="metadata")
        ),
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload={"a": 1}, points=[1])
        ),
        models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["a"], points=[1])),
        models.ClearPayloadOperation(clear_payload=models.FilterSelector(filter=only)),
        models.UpdateVectorsOperation(
            update_vectors=models.UpdateVectors(
                points=[models.PointVectors(id=1, vector={"dense": [1.0]})]
            )
        ),
        models.DeleteVectorsOperation(
            delete_vectors=models.DeleteVectors(vector=["dense"], points=[1])
        ),
    ]
    assert packed_update("notes", everything) == by_the_client("notes", everything)
    assert with_lists(everything) == everything


def test_packing_and_listing_leave_the_operations_as_they_were() -> None:
    row = np.ones(3, np.float32)
    given = upsert(point(row), shard_key="acme")
    for _ in range(2):  # as for a second attempt
        assert len(packed_update("notes", [given]).operations[0].upsert.points) == 1
        with_lists([given])
    assert isinstance(given.upsert, models.PointsList)
    (kept,) = given.upsert.points
    assert named(kept)["dense"] is row


@settings(max_examples=50, deadline=None)
@given(st.lists(POINTS, max_size=3))
def test_rest_sends_the_same_bytes_as_for_points_made_of_lists(
    points: list[models.PointStruct],
) -> None:
    listed = models.UpdateOperations(operations=with_lists([upsert(*points)]))
    expected = models.UpdateOperations(operations=[upsert(*as_lists(points))])
    assert listed.model_dump_json() == expected.model_dump_json()


def test_the_embedded_engine_stores_numpy_rows(edge: EdgeClient) -> None:
    params = models.VectorParams(size=2, distance=models.Distance.DOT)
    edge.create_collection("notes", vectors_config={"dense": params})
    results = update_points(edge, "notes", [upsert(point(np.array([0.5, -2.0], np.float32)))])
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED]
    (record,) = edge.retrieve("notes", [1], with_vectors=True)
    assert record.vector == {"dense": [0.5, -2.0]}


class Call(NamedTuple):
    request: grpc.UpdateBatchPoints
    deadline_s: float
    headers: dict[str, str | bytes]


class Recorder(grpc.PointsServicer):
    """The gRPC end of a server: keeps what comes, and answers that the first write is late."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def UpdateBatch(  # noqa: N802  (the name in the protocol)
        self, request: grpc.UpdateBatchPoints, context: grpcio.ServicerContext
    ) -> grpc.UpdateBatchResponse:
        headers = dict(context.invocation_metadata())
        self.calls.append(Call(request, context.time_remaining(), headers))
        statuses = [grpc.UpdateStatus.WaitTimeout, grpc.UpdateStatus.Completed]
        results = [grpc.UpdateResult(operation_id=3, status=status) for status in statuses]
        return grpc.UpdateBatchResponse(result=results[: len(request.operations)])


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def port(recorder: Recorder) -> Iterator[int]:
    with ThreadPoolExecutor(1) as threads:
        server = grpcio.server(threads)
        grpc.add_PointsServicer_to_server(recorder, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(grace=None).wait()


def remote(port: int = 1, **options: Any) -> QdrantClient:
    options = {"prefer_grpc": True, "check_compatibility": False, **options}
    return QdrantClient(host="127.0.0.1", grpc_port=port, **options)


def test_a_server_gets_what_the_client_would_have_sent_the_way_it_would(
    recorder: Recorder, port: int
) -> None:
    client = remote(port, timeout=40, headers={"x-team": "search"})
    removal = models.DeleteOperation(delete=models.PointIdsList(points=[9]))
    numbers = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    points = [point(row, id=n, text="t") for n, row in enumerate(numbers)]
    ours = update_points(client, "notes", [upsert(*points), removal])
    theirs = client.batch_update_points("notes", [upsert(*as_lists(points)), removal], wait=True)
    client.close()

    own, other = recorder.calls
    assert own.request == other.request
    assert own.headers == other.headers
    assert own.headers["x-team"] == "search"
    assert own.deadline_s == pytest.approx(40, abs=20)  # not the 5 s of a client without timeout
    assert other.deadline_s == pytest.approx(40, abs=20)
    assert ours == theirs
    late, done = models.UpdateStatus.WAIT_TIMEOUT, models.UpdateStatus.COMPLETED
    assert [result.status for result in ours] == [late, done]


def test_a_server_that_is_away_raises_as_the_client_does() -> None:
    client = remote(timeout=10)
    with pytest.raises(grpcio.RpcError) as caught:
        update_points(client, "notes", [upsert(point(np.ones(2, np.float32)))])
    client.close()
    assert caught.value.code() is grpcio.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("timeout", [None, 0.5, 1, 29.01, 300])
def test_the_deadline_is_the_one_that_the_client_keeps_to_itself(timeout: float | None) -> None:
    client = remote(timeout=timeout)
    inner: Any = client._client
    # Private to the client, and read nowhere else: this tells when the two part.
    assert deadline_s(client) == inner._timeout
    client.close()


@pytest.mark.parametrize("prefers", [False, True])
def test_a_client_of_a_server_speaks_grpc_when_it_was_asked_to(prefers: bool) -> None:
    client = remote(prefer_grpc=prefers)
    inner: Any = client._client
    assert speaks_grpc(client) is inner._prefer_grpc is prefers
    client.close()


def test_a_client_without_a_server_speaks_no_grpc(edge: EdgeClient, tmp_path: Path) -> None:
    assert not speaks_grpc(edge)
    places: list[dict[str, Any]] = [{"location": ":memory:"}, {"path": str(tmp_path / "local")}]
    for place in places:
        local = QdrantClient(**place, prefer_grpc=True)
        assert not speaks_grpc(local)
        local.close()


def test_over_rest_the_client_sends_lists() -> None:
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        result = [{"operation_id": 1, "status": "completed"}]
        return httpx.Response(200, json={"result": result, "status": "ok", "time": 0.0})

    client = remote(prefer_grpc=False, transport=httpx.MockTransport(answer))
    row = np.array([0.5, -2.0], np.float32)
    (result,) = update_points(client, "notes", [upsert(point(row, text="t"))])
    client.close()
    assert result.status is models.UpdateStatus.COMPLETED
    sent = {"id": 1, "vector": {"dense": [0.5, -2.0]}, "payload": {"text": "t"}}
    assert bodies == [{"operations": [{"upsert": {"points": [sent]}}]}]


def test_ids_are_numbers_or_uuids() -> None:
    key = uuid.UUID(UUID)
    points = [point([1.0], id=each) for each in (0, 2**64 - 1, UUID, key)]
    (operation,) = packed_update("notes", [upsert(*points)]).operations
    ids = [each.id for each in operation.upsert.points]
    assert [each.num for each in ids[:2]] == [0, 2**64 - 1]
    assert [each.uuid for each in ids[2:]] == [UUID, UUID]
