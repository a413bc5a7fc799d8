from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException
from qdrant_standin import Server, running
from wire import KEY, Connected, Wire, aconnected, connected, free_port, messages, parse

from ragkit import stores
from ragkit.errors import ServerTooOld, StoreUnavailable
from ragkit.stores import connect


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("standin")) as running_server:
        yield running_server


@pytest.fixture(params=[connected, aconnected], ids=["connect", "aconnect"])
def over_grpc(request: pytest.FixtureRequest) -> Connected:
    """`connect` and `aconnect` in turn."""
    how: Connected = request.param
    return how


# ── Transports ──────────────────────────────────────────────────────────────────────────────────


def test_grpc_is_used_where_the_server_answers_it(
    standin: Server, over_grpc: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    standin.requests.clear()
    assert over_grpc(standin.url, grpc_port=standin.grpc_port)
    assert standin.requests[-1].transport == "grpc"
    assert messages(caplog) == []


def test_rest_is_used_when_it_is_asked_for(standin: Server, over_grpc: Connected) -> None:
    standin.requests.clear()
    assert not over_grpc(standin.url, grpc_port=standin.grpc_port, prefer_grpc=False)
    assert {each.transport for each in standin.requests} == {"rest"}


@contextmanager
def filtered() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_rest_is_used_where_nothing_answers_grpc(
    standin: Server,
    over_grpc: Connected,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stores, "_GRPC_ANSWER_S", 0.5)
    caplog.set_level(logging.INFO)
    rest_port = int(standin.url.rpartition(":")[2])
    with filtered() as silent:
        for port in (free_port(), silent, rest_port):
            standin.requests.clear()
            caplog.clear()
            assert not over_grpc(standin.url, grpc_port=port)
            assert standin.requests[-1].transport == "rest"
            (line,) = messages(caplog)
            assert line.startswith(f"using REST with {standin.url}: ")
            assert f"gRPC port {port}; pass another grpc_port" in line


@pytest.mark.parametrize("other", ["version", "collections"])
def test_another_server_at_the_grpc_port_is_not_written_to(
    standin: Server,
    wire: Wire,
    over_grpc: Connected,
    other: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if other == "version":
        wire.version = "1.18.0"
    else:
        wire.names = [["of another"]]
    assert not over_grpc(standin.url, grpc_port=wire.grpc_port)
    (record,) = (r for r in caplog.records if r.name.startswith("ragkit"))
    assert record.levelno == logging.WARNING
    assert f"another server, of version {wire.version}, answers" in record.getMessage()


def test_a_collection_that_comes_meanwhile_makes_no_other_server(
    wire: Wire, over_grpc: Connected
) -> None:
    """REST lists two, then gRPC and REST list three."""
    wire.names = [["a", "b"], ["a", "b", "c"]]
    assert over_grpc(wire.url, grpc_port=wire.grpc_port)


def test_no_key_is_sent_to_a_grpc_port_of_another_version(
    wire: Wire, over_grpc: Connected, tmp_path: Path
) -> None:
    other = Wire()
    other.version = "1.18.3"
    wire.key = KEY
    assert not over_grpc(wire.url, grpc_port=other.grpc_port, api_key=KEY)
    assert other.keys == [("HealthCheck", None)]
    other.close()


@pytest.mark.parametrize("prefer_grpc", [True, False])
def test_the_same_code_works_over_both(standin: Server, prefer_grpc: bool) -> None:
    client = connect(standin.url, grpc_port=standin.grpc_port, prefer_grpc=prefer_grpc)
    vectors = models.VectorParams(size=2, distance=models.Distance.COSINE)
    client.create_collection("both", vectors_config=vectors)
    client.upsert("both", [models.PointStruct(id=1, vector=[1.0, 0.0])])
    assert client.count("both").count == 1
    assert client.delete_collection("both")
    client.close()


def test_the_grpc_port_is_that_after_the_port_of_the_url() -> None:
    def ports(url: str, grpc_port: int | None = None) -> tuple[int, int]:
        parsed = parse(url, grpc_port=grpc_port)
        return parsed.port, parsed.grpc_port

    assert ports("http://localhost:6333") == (6333, 6334)
    assert ports("http://localhost:7333") == (7333, 7334)
    assert ports("https://a1b2.eu-central.aws.cloud.qdrant.io") == (6333, 6334)
    assert ports("https://qdrant.example.com:443") == (443, 6334)
    assert ports("http://qdrant.example.com:80/") == (80, 6334)
    assert ports("https://qdrant.example.com:443", 443) == (443, 443)


def test_https_goes_for_both_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = parse("https://Qdrant.example.com:6333/base/", api_key=KEY)
    assert str(parsed) == "https://qdrant.example.com:6333/base"
    assert (parsed.channel["ssl"], parsed.channel["port"]) == (True, 6334)
    client = QdrantClient(**parsed.arguments(prefer_grpc=True))
    assert client.http.client.host == "https://qdrant.example.com:6333/base"
    made: list[str] = []
    secure = grpc.secure_channel

    def watched(target: str, *arguments: Any) -> grpc.Channel:
        made.append(target)
        return secure(target, *arguments)

    monkeypatch.setattr(grpc, "secure_channel", watched)
    monkeypatch.setattr(grpc, "insecure_channel", lambda *_: pytest.fail("that is not TLS"))
    assert client.grpc_points is not None
    assert made == ["qdrant.example.com:6334"] * 3
    client.close()


# ── Deadlines and connections ───────────────────────────────────────────────────────────────────


def test_the_deadline_goes_with_every_call(wire: Wire) -> None:
    """Over gRPC qdrant-client has 5 s of its own, which no argument of a write lifts."""
    client = connect(wire.url, grpc_port=wire.grpc_port, timeout_s=299.5)
    assert isinstance(client, QdrantClient)
    assert len(wire.seconds_left) == 2
    assert max(wire.seconds_left) < 2 * stores._GRPC_ANSWER_S  # while connecting
    wire.seconds_left.clear()
    client.get_collections()
    assert [round(left, -1) for left in wire.seconds_left] == [300]
    seen: list[dict[str, float]] = []

    def look(request: Any, send: Any) -> Any:
        seen.append(request.extensions["timeout"])
        return send(request)

    client.http.client.add_middleware(look)
    client.http.collections_api.get_collections()
    assert seen == [{"connect": 300, "read": 300, "write": 300, "pool": 300}]
    client.close()


@pytest.mark.parametrize("prefer_grpc", [True, False])
def test_a_write_that_takes_longer_than_the_deadline_fails(
    standin: Server, prefer_grpc: bool
) -> None:
    client = connect(
        standin.url, grpc_port=standin.grpc_port, prefer_grpc=prefer_grpc, timeout_s=0.2
    )
    standin.faults.add("delay", on="upsert", delay_s=30)
    with pytest.raises((ResponseHandlingException, grpc.RpcError)) as caught:
        client.upsert("late", [models.PointStruct(id=1, vector=[1.0])])
    assert "timed out" in str(caught.value) or "Deadline Exceeded" in str(caught.value)
    client.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_calls_to_this_machine_share_a_connection(wire: Wire, host: str) -> None:
    client = connect(wire.url.replace("127.0.0.1", host), prefer_grpc=False)
    for _ in range(10):
        client.get_collections()
    assert wire.connections == 1
    client.close()


def test_the_proxy_of_the_environment_is_not_for_this_machine(
    wire: Wire, over_grpc: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert over_grpc(wire.url, grpc_port=wire.grpc_port)
    assert over_grpc(wire.url.replace("127.0.0.1", "localhost"), grpc_port=wire.grpc_port)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no [::1]: enable IPv6")
def test_an_ipv6_address_is_connected_to(over_grpc: Connected) -> None:
    wire = Wire(host="::1")
    wire.key = KEY
    assert over_grpc(wire.url, grpc_port=wire.grpc_port, api_key=KEY)
    assert not over_grpc(wire.url, grpc_port=wire.grpc_port, api_key=KEY, prefer_grpc=False)
    wire.close()


def test_a_server_under_a_path_is_connected_to(over_grpc: Connected) -> None:
    wire = Wire(path="/databases/qdrant")
    assert over_grpc(wire.url, grpc_port=wire.grpc_port)
    assert not over_grpc(f"{wire.url}/", grpc_port=free_port())
    wire.close()


# ── Trouble ─────────────────────────────────────────────────────────────────────────────────────


def test_where_nothing_answers_it_is_said_what_to_do(over_grpc: Connected) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable) as caught:
        over_grpc(url)
    said = str(caught.value)
    assert said.startswith(f"no Qdrant server answers at {url} (ConnectError: ")
    assert 'start one on this machine with "docker compose up --detach --wait"' in said


def test_a_host_that_nobody_knows_is_named(over_grpc: Connected) -> None:
    with pytest.raises(StoreUnavailable, match=r"at https://ragkit\.invalid:6333 .*443"):
        over_grpc("https://ragkit.invalid")


def test_a_server_that_is_silent_is_not_waited_for(
    over_grpc: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores._ROOT, "timeout", 0.2)
    with filtered() as port, pytest.raises(StoreUnavailable, match=r"ReadTimeout"):
        over_grpc(f"http://127.0.0.1:{port}", timeout_s=300)


@pytest.mark.parametrize(
    "page",
    [
        (200, "text/html", b"<html>Welcome to nginx!</html>"),
        (200, "application/json", b'{"name": "es01", "version": {"number": "9.0.0"}}'),
        (404, "text/html", b"not found"),
        (301, "text/html", b"moved"),
        (200, "application/json", b""),
    ],
    ids=["page", "other JSON", "not found", "redirect", "nothing"],
)
def test_what_is_not_qdrant_is_not_taken_for_it(
    wire: Wire, over_grpc: Connected, page: tuple[int, str, bytes]
) -> None:
    wire.page = page
    with pytest.raises(StoreUnavailable, match="does not do so as a Qdrant server"):
        over_grpc(wire.url)


def test_a_server_that_is_too_old_is_refused(tmp_path: Path, over_grpc: Connected) -> None:
    with (
        running(tmp_path, version="1.15.5") as old,
        pytest.raises(ServerTooOld, match=r"needs Qdrant 1\.16\.0 or later, this server is 1\.15"),
    ):
        over_grpc(old.url, grpc_port=old.grpc_port)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(wrong: float, over_grpc: Connected) -> None:
    with pytest.raises(ValueError, match="timeout_s above 0"):
        over_grpc("http://localhost:6333", timeout_s=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(wrong: int, over_grpc: Connected) -> None:
    with pytest.raises(ValueError, match="grpc_port from 1"):
        over_grpc("http://localhost:6333", grpc_port=wrong)


@pytest.mark.parametrize(
    ("location", "remedy"),
    [
        ("", "empty"),
        (":memory:", "temporary folder"),
        ("ftp://host", "'ftp'"),
        ("localhost:6333", "write http://localhost:6333"),
        ("http:/localhost:6333", "as a string"),
        (Path("http://localhost:6333"), "as a string"),
        ("http://", "names no host"),
        ("http://:6333", "names no host"),
        ("http://localhost:0", "names no port"),
        ("http://localhost:none", "cannot be read"),
        ("http://local host", "cannot be read"),
        ("http://[::1", "cannot be read"),
    ],
)
def test_a_place_that_is_none_is_refused(
    location: str | Path, remedy: str, over_grpc: Connected
) -> None:
    with pytest.raises(ValueError, match="expected a folder, or the URL") as caught:
        over_grpc(location)
    assert remedy in str(caught.value)


def test_a_folder_has_no_async_client(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"opens with connect\(\)"):
        aconnected(str(tmp_path / "db"))
    assert not (tmp_path / "db").exists()
