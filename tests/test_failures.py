"""What each failure means, as the real client raises it: from a server on the wire where it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Literal

import grpc
import httpx
import pytest
from faults import ERRORS, RpcFailure
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException
from qdrant_standin import Server, running
from servers import free_ports

from ragkit.errors import StoreFull
from ragkit.failures import Failure, StillQueued, is_unsure, kind_of, reason, retry_after_s

Transport = Literal["rest", "grpc"]
TRANSPORTS: tuple[Transport, ...] = ("rest", "grpc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=TRANSPORTS)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[QdrantClient]:
    with opened(server, request.param) as client:
        yield client
    server.faults.clear()


@contextmanager
def opened(server: Server, transport: Transport, *, timeout_s: int = 5) -> Iterator[QdrantClient]:
    with closing(
        QdrantClient(
            url=server.url,
            grpc_port=server.grpc_port,
            prefer_grpc=transport == "grpc",
            timeout=timeout_s,
            check_compatibility=False,
        )
    ) as client:
        yield client


def raised(call: Callable[[], object]) -> Exception:
    """What a call of the client raises."""
    try:
        call()
    except Exception as exc:  # noqa: BLE001  (which one is what is asked)
        return exc
    raise AssertionError("expected the call to fail")


def failed(server: Server, client: QdrantClient, status: int, **how: str | int) -> Exception:
    """What the client raises when the server answers so."""
    server.faults.add(status, **how)  # type: ignore[arg-type]
    return raised(lambda: client.count("notes"))


@pytest.mark.parametrize(
    ("status", "kind", "unsure"),
    [
        (401, Failure.DENIED, False),
        (403, Failure.DENIED, False),
        (408, Failure.UNREACHABLE, True),
        (429, Failure.BUSY, False),
        (500, Failure.BROKEN, True),
        (502, Failure.UNREACHABLE, True),
        (503, Failure.UNREACHABLE, True),
        (507, Failure.FULL, False),
    ],
)
def test_a_status_means_the_same_over_both_transports(
    server: Server, client: QdrantClient, status: int, kind: Failure, unsure: bool
) -> None:
    error = failed(server, client, status)
    assert kind_of(error) is kind
    assert is_unsure(error) is unsure
    assert retry_after_s(error) is None


def test_a_missing_collection_is_not_found(client: QdrantClient) -> None:
    error = raised(lambda: client.count("nowhere"))
    assert kind_of(error) is Failure.NOT_FOUND
    assert "nowhere" in reason(error)


def test_a_wrong_request_is_refused(client: QdrantClient) -> None:
    vectors = models.VectorParams(size=4, distance=models.Distance.COSINE)
    client.create_collection("here", vectors_config=vectors)
    try:
        error = raised(lambda: client.query_points("here", query=[1.0]))
        conflict = raised(lambda: client.create_collection("here", vectors_config=vectors))
    finally:
        client.delete_collection("here")
    assert kind_of(error) is Failure.REFUSED
    assert "dim" in reason(error)
    assert kind_of(conflict) is Failure.CONFLICT


def test_a_rate_limit_says_how_long_to_wait(server: Server, client: QdrantClient) -> None:
    error = failed(server, client, 429, retry_after_s=7)
    assert kind_of(error) is Failure.BUSY
    assert retry_after_s(error) == 7.0
    assert "Rate limit" in reason(error)


def test_more_points_than_the_rate_limit_ever_allows_are_refused(
    server: Server, client: QdrantClient
) -> None:
    words = "request larger than rate limiter capacity, please try to split your request"
    assert kind_of(failed(server, client, 429, message=words)) is Failure.REFUSED


def test_a_full_disk_is_told_from_other_errors_of_the_server(
    server: Server, client: QdrantClient
) -> None:
    words = "Service internal error: No space left on device: WAL buffer size exceeds disk space"
    error = failed(server, client, 500, message=words)
    assert kind_of(error) is Failure.FULL
    assert words in reason(error)


def test_a_connection_that_is_cut_leaves_the_outcome_unknown(
    server: Server, client: QdrantClient
) -> None:
    server.faults.add("drop")
    error = raised(lambda: client.count("notes"))
    assert kind_of(error) is Failure.UNREACHABLE
    assert is_unsure(error)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_answer_that_comes_too_late_leaves_the_outcome_unknown(
    server: Server, transport: Transport
) -> None:
    server.faults.add("delay", delay_s=3.0)
    with opened(server, transport, timeout_s=1) as client:
        error = raised(lambda: client.count("notes"))
    assert kind_of(error) is Failure.UNREACHABLE
    assert is_unsure(error)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_where_nobody_listens_nobody_is_reached(tmp_path: Path, transport: Transport) -> None:
    port, grpc_port = free_ports(2)
    with closing(
        QdrantClient(
            url=f"http://127.0.0.1:{port}",
            grpc_port=grpc_port,
            prefer_grpc=transport == "grpc",
            check_compatibility=False,
        )
    ) as client:
        error = raised(lambda: client.count("notes"))
    assert kind_of(error) is Failure.UNREACHABLE
    assert "refused" in reason(error)


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 507])
def test_a_reason_is_one_short_line(server: Server, client: QdrantClient, status: int) -> None:
    words = "Shard 1 failed:\n\n  " + "and another one failed:\n" * 1000
    short = reason(failed(server, client, status, message=words))
    assert "\n" not in short
    assert len(short) < 600
    assert short == short.strip()


class Page(BaseHTTPRequestHandler):
    """Answers every request as it is told to: what stands between a client and a server may."""

    answer: ClassVar[tuple[int, Mapping[str, str], bytes]]

    def do_POST(self) -> None:
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Requests are not worth a line."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[QdrantClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        thread = threading.Thread(target=pages.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{pages.server_port}"
        with closing(QdrantClient(url=url, check_compatibility=False)) as client:
            yield client
        pages.shutdown()
        thread.join()


def met(
    proxy: QdrantClient, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Exception:
    Page.answer = (status, headers or {}, body)
    return raised(lambda: proxy.count("notes"))


def test_an_answer_of_another_shape_is_no_failure_that_waiting_mends(proxy: QdrantClient) -> None:
    body = json.dumps({"result": {"count": "many"}, "status": "ok", "time": 0.0}).encode()
    error = met(proxy, 200, body)
    assert isinstance(error, ResponseHandlingException)
    assert kind_of(error) is Failure.OTHER
    assert "\n" not in reason(error)


@pytest.mark.parametrize("body", [b"<html>We will be back soon</html>", b""])
def test_a_page_instead_of_an_answer_is_an_error_of_the_server_and_of_no_point(
    proxy: QdrantClient, body: bytes
) -> None:
    error = met(proxy, 200, body)
    assert kind_of(error) is Failure.BROKEN
    assert is_unsure(error)
    assert reason(error) == "the answer is not JSON"


@pytest.mark.parametrize("when", ["Wed, 21 Oct 2026 07:28:00 GMT", "1.5"])
def test_a_rate_limit_may_say_when_in_a_way_that_the_client_cannot_read(
    proxy: QdrantClient, when: str
) -> None:
    error = met(proxy, 429, headers={"Retry-After": when})
    assert kind_of(error) is Failure.BUSY
    assert retry_after_s(error) is None


def test_a_proxy_without_a_server_may_say_when_it_expects_one(proxy: QdrantClient) -> None:
    error = met(proxy, 503, headers={"Retry-After": "9"})
    assert (kind_of(error), retry_after_s(error)) == (Failure.UNREACHABLE, 9.0)
    undated = met(proxy, 503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    assert (kind_of(undated), retry_after_s(undated)) == (Failure.UNREACHABLE, None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, Failure.OTHER),
        (405, Failure.OTHER),
        (413, Failure.REFUSED),
        (422, Failure.REFUSED),
        (501, Failure.OTHER),
        (504, Failure.UNREACHABLE),
        (520, Failure.BROKEN),
    ],
)
def test_a_status_of_something_in_between_has_a_meaning(
    proxy: QdrantClient, status: int, kind: Failure
) -> None:
    error = met(proxy, status, b"<html>" + b"x" * 100_000)
    assert kind_of(error) is kind
    assert reason(error).startswith(str(status))
    assert "html" not in reason(error)


@pytest.mark.parametrize(
    ("body", "stated"),
    [
        (b'{"status": {"error": "too\\n many"}}', "too many"),
        (b'{"status": "error"}', "503 Service Unavailable"),
        (b'{"status": {}}', "503 Service Unavailable"),
        (b"[]", "503 Service Unavailable"),
        (b"\xff\xfe", "503 Service Unavailable"),
    ],
)
def test_a_body_of_any_shape_gives_a_reason(proxy: QdrantClient, body: bytes, stated: str) -> None:
    assert reason(met(proxy, 503, body)) == stated


def test_a_key_that_no_header_can_carry_is_not_sent_again_and_not_shown(
    proxy: QdrantClient, server: Server
) -> None:
    with closing(
        QdrantClient(url=server.url, headers={"api-key": "secret\n"}, check_compatibility=False)
    ) as client:
        error = raised(lambda: client.count("notes"))
    assert kind_of(error) is Failure.OTHER
    assert "secret" not in reason(error)


def test_a_wrong_key_is_denied_and_not_shown(tmp_path: Path) -> None:
    with running(tmp_path, api_key="right") as server:
        for transport in TRANSPORTS:
            client = QdrantClient(
                url=server.url,
                grpc_port=server.grpc_port,
                prefer_grpc=transport == "grpc",
                headers={"api-key": "secret"},
                check_compatibility=False,
            )
            with closing(client):
                error = raised(lambda client=client: client.count("notes"))  # type: ignore[misc]
            assert kind_of(error) is Failure.DENIED
            assert "secret" not in reason(error)


def test_a_client_that_was_closed_is_not_asked_again(server: Server) -> None:
    for transport in TRANSPORTS:
        with opened(server, transport) as client:
            pass
        error = raised(lambda client=client: client.count("notes"))  # type: ignore[misc]
        assert kind_of(error) is Failure.OTHER
        assert "closed" in reason(error)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("400", Failure.REFUSED),
        ("408", Failure.UNREACHABLE),
        ("429", Failure.BUSY),
        ("500", Failure.BROKEN),
        ("502", Failure.UNREACHABLE),
        ("503", Failure.UNREACHABLE),
        ("507", Failure.FULL),
        ("disk full", Failure.FULL),
        ("retry-after", Failure.BUSY),
        ("connect", Failure.UNREACHABLE),
        ("read timeout", Failure.UNREACHABLE),
        ("disconnected", Failure.UNREACHABLE),
        ("page", Failure.BROKEN),
        ("unavailable", Failure.UNREACHABLE),
        ("deadline exceeded", Failure.UNREACHABLE),
        ("exhausted", Failure.BUSY),
        ("quota", Failure.FULL),
    ],
)
def test_the_errors_of_the_storms_mean_what_those_of_the_wire_do(name: str, kind: Failure) -> None:
    assert kind_of(ERRORS[name]()) is kind
    assert "\n" not in reason(ERRORS[name]())


def test_every_error_of_the_storms_has_a_meaning() -> None:
    assert all(kind_of(make()) is not Failure.OTHER for make in ERRORS.values())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.OUT_OF_RANGE, Failure.REFUSED),
        (grpc.StatusCode.ALREADY_EXISTS, Failure.CONFLICT),
        (grpc.StatusCode.ABORTED, Failure.UNREACHABLE),
        (grpc.StatusCode.CANCELLED, Failure.UNREACHABLE),
        (grpc.StatusCode.UNKNOWN, Failure.BROKEN),
        (grpc.StatusCode.UNIMPLEMENTED, Failure.OTHER),
        (grpc.StatusCode.FAILED_PRECONDITION, Failure.BROKEN),
        (grpc.StatusCode.DATA_LOSS, Failure.OTHER),
    ],
)
def test_a_code_of_grpc_has_a_meaning(code: grpc.StatusCode, kind: Failure) -> None:
    error = RpcFailure(code, "so it is\n  said")
    assert kind_of(error) is kind
    assert reason(error) == f"{code.name}: so it is said"


def test_an_error_of_grpc_may_say_nothing_of_itself() -> None:
    assert kind_of(grpc.RpcError()) is Failure.BROKEN
    assert reason(grpc.RpcError()) == "UNKNOWN"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (httpx.ConnectTimeout("slow"), Failure.UNREACHABLE),
        (httpx.WriteTimeout("slow"), Failure.UNREACHABLE),
        (httpx.PoolTimeout(""), Failure.UNREACHABLE),
        (httpx.ReadError("reset"), Failure.UNREACHABLE),
        (httpx.WriteError("reset"), Failure.UNREACHABLE),
        (httpx.ProxyError("503"), Failure.UNREACHABLE),
        (ConnectionResetError("reset"), Failure.UNREACHABLE),
        (httpx.DecodingError("not gzip"), Failure.OTHER),
        (httpx.UnsupportedProtocol("no http"), Failure.OTHER),
        (httpx.TooManyRedirects("round and round"), Failure.OTHER),
        (RuntimeError("closed"), Failure.OTHER),
    ],
)
def test_what_the_client_wraps_decides(source: Exception, kind: Failure) -> None:
    error = ResponseHandlingException(source)
    assert kind_of(error) is kind
    assert reason(error).startswith(type(source).__name__)


def test_a_write_that_is_still_queued_may_have_been_done() -> None:
    error = StillQueued(f"the write was {models.UpdateStatus.WAIT_TIMEOUT}")
    assert kind_of(error) is Failure.UNREACHABLE
    assert is_unsure(error)


def test_the_embedded_engine_has_its_own_word_for_a_full_disk() -> None:
    assert kind_of(StoreFull("8 MB are left")) is Failure.FULL


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), RuntimeError()])
def test_what_no_store_raises_has_no_meaning(error: BaseException) -> None:
    assert kind_of(error) is Failure.OTHER
    assert not is_unsure(error)
    assert reason(error)
