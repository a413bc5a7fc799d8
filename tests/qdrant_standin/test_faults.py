"""What is planned to go wrong arrives as qdrant-client raises it."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qdrant_standin import TRANSPORTS, Recorded, Server, connected
from qdrant_standin.cases import NAME, fill, outcome, point


@pytest.fixture
def notes(filled: QdrantClient) -> QdrantClient:
    """Without what the tests write."""
    filled.delete(NAME, [77])
    return filled


def write(client: QdrantClient) -> Any:
    return client.batch_update_points(
        NAME, [models.UpsertOperation(upsert=models.PointsList(points=[point(77)]))]
    )


def written(client: QdrantClient) -> bool:
    return bool(client.retrieve(NAME, [77]))


STATUSES = {
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", STATUSES)
def test_an_error_arrives_as_the_client_raises_it(
    status: int, when: Any, server: Server, notes: QdrantClient
) -> None:
    server.faults.add(status, on="batch", when=when)
    with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
        write(notes)
    exc = caught.value
    code = exc.status_code if isinstance(exc, UnexpectedResponse) else outcome(exc)[0]
    assert code in (status, STATUSES[status])
    assert written(notes) is (when == "after")
    write(notes)  # once is once
    assert written(notes)


def test_a_full_quota_is_marked_as_the_server_marks_it(fresh: Server) -> None:
    with connected(fresh, "grpc") as client:
        fresh.faults.add(507)
        with pytest.raises(grpc.RpcError) as caught:
            write(client)
    assert isinstance(caught.value, grpc.Call)
    trailing = [(item.key, item.value) for item in caught.value.trailing_metadata()]
    assert trailing == [("qdrant-insufficient-storage", "1")]


def test_too_many_requests_tell_when_to_come_again(server: Server, notes: QdrantClient) -> None:
    server.faults.add(429, on="batch", retry_after_s=7)
    with pytest.raises(ResourceExhaustedResponse) as caught:
        write(notes)
    assert caught.value.retry_after_s == 7
    assert "Rate limiting exceeded" in caught.value.message
    assert not written(notes)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["drop", "cut"])
def test_a_lost_connection_arrives_as_one(
    kind: Any, when: Any, server: Server, notes: QdrantClient
) -> None:
    server.faults.add(kind, on="batch", when=when)
    with pytest.raises((ResponseHandlingException, grpc.RpcError)) as caught:
        write(notes)
    exc = caught.value
    if isinstance(exc, ResponseHandlingException):
        assert isinstance(exc.source, httpx.RemoteProtocolError)
    else:
        assert outcome(exc)[0] == grpc.StatusCode.UNAVAILABLE
    assert eventually_written(notes) is (when == "after")


def eventually_written(client: QdrantClient) -> bool:
    """Over gRPC the call after a cut may still go out on the connection that is no more."""
    for _ in range(100):
        try:
            return written(client)
        except grpc.RpcError:
            continue
    raise AssertionError("the client did not connect again")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_late_answer_is_a_timeout(transport: str, fresh: Server) -> None:
    with connected(fresh, transport) as client:
        fill(client)
    with connected(fresh, transport, timeout=1) as client:
        fresh.faults.add("delay", on="batch", when="after", delay_s=60.0)
        with pytest.raises((ResponseHandlingException, grpc.RpcError)) as caught:
            write(client)
        exc = caught.value
        if isinstance(exc, ResponseHandlingException):
            assert isinstance(exc.source, httpx.ReadTimeout)
        else:
            assert outcome(exc)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert written(client)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_write_may_come_late(transport: str, fresh: Server) -> None:
    with connected(fresh, transport) as client:
        fill(client)
        fresh.faults.add("wait_timeout", on="batch", delay_s=3600.0)
        fresh.faults.add("wait_timeout", on="upsert", delay_s=3600.0)
        assert [result.status for result in write(client)] == [models.UpdateStatus.WAIT_TIMEOUT]
        result = client.upsert(NAME, [point(78)])
        assert result.status == models.UpdateStatus.WAIT_TIMEOUT
        assert client.retrieve(NAME, [77, 78]) == []
        fresh.faults.close()
        assert len(client.retrieve(NAME, [77, 78])) == 2


def test_a_full_disk_can_be_worded(server: Server, notes: QdrantClient) -> None:
    words = "Service internal error: No space left on device: WAL buffer size exceeds"
    server.faults.add(500, message=words)
    with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
        write(notes)
    assert outcome(caught.value)[1] == words


def test_a_fault_may_be_for_chosen_requests_and_several_times(
    server: Server, notes: QdrantClient
) -> None:
    def of_other(request: Recorded) -> bool:
        return request.operation == "count" and request.transport == "rest"

    server.faults.add(503, on=of_other, times=2)
    failed = 0
    for _ in range(4):
        try:
            notes.count(NAME)
        except UnexpectedResponse:
            failed += 1
    assert failed == (2 if server.requests[-1].transport == "rest" else 0)


def test_a_storm_is_the_same_for_the_same_seed(server: Server, notes: QdrantClient) -> None:
    def storm() -> list[Any]:
        del server.faults.struck[:]
        server.faults.storm(11, probability=0.5)
        for _ in range(30):
            try:
                write(notes)
            except (
                UnexpectedResponse,
                ResourceExhaustedResponse,
                ResponseHandlingException,
                grpc.RpcError,
            ):
                continue
        server.faults.clear()
        return [fault for fault, _ in server.faults.struck]

    first = storm()
    assert storm() == first
    assert {fault.when for fault in first} == {"before", "after"}
    assert len({fault.kind for fault in first}) > 3
    write(notes)
    assert written(notes)
