from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from qdrant_standin import Server, running
from wire import Wire, messages

from ragkit import server
from ragkit.edge import EdgeClient
from ragkit.errors import ServerTooOld
from ragkit.server import MINIMUM, TURBO_QUANTIZATION, Version
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


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("1.19.0", (1, 19, 0)),
        ("v1.19.2", (1, 19, 2)),
        ("1.19.0-dev", (1, 19, 0)),
        ("1.20.0-rc.1", (1, 20, 0)),
        ("1.20.0+build", (1, 20, 0)),
        ("1.20.1.5", (1, 20, 1)),
        ("1.20", (1, 20, 0)),
        ("2.0.0", (2, 0, 0)),
        ("dev", None),
        ("", None),
        ("1", None),
        ("1.x.0", None),
        ("19", None),
    ],
)
def test_versions_are_read(said: str, read: tuple[int, int, int] | None) -> None:
    info = server.read_info(models.VersionInfo(title="qdrant", version=said))
    assert info.version == read


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=12))
def test_any_version_is_read_or_taken_for_a_new_one(said: str) -> None:
    info = server.read_info(models.VersionInfo(title="qdrant", version=said))
    if info.version is None:
        info.require_minimum()
        assert info.has(TURBO_QUANTIZATION)


def test_a_version_that_cannot_be_read_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ragkit.server")
    server.read_info(models.VersionInfo(title="qdrant", version="nightly"))
    assert messages(caplog) == ["a server's version is 'nightly'; taking it for a new one"]


def test_what_a_server_lacks_is_refused_by_name(tmp_path: Path) -> None:
    with running(tmp_path, version="1.17.1") as old:
        client = connect(old.url, grpc_port=old.grpc_port)
        with pytest.raises(
            ServerTooOld,
            match=r"turbo quantization needs Qdrant 1\.18\.0 or later, this server is 1\.17\.1: "
            r"upgrade it, or use quantization='scalar'",
        ):
            server.require(client, TURBO_QUANTIZATION)
        client.close()


def test_what_a_server_has_is_let_through(standin: Server) -> None:
    client = connect(standin.url, grpc_port=standin.grpc_port)
    server.require(client, TURBO_QUANTIZATION)
    server.require_minimum(client)
    assert TURBO_QUANTIZATION.since > MINIMUM
    client.close()


def test_the_version_is_asked_once(wire: Wire) -> None:
    client = connect(wire.url, grpc_port=wire.grpc_port)
    wire.version = "9.9.9"
    assert server.server_info(client) == server.ServerInfo(
        version=Version(1, 19, 0), title="qdrant", commit=None
    )
    client.close()
    own = QdrantClient(
        url=wire.url, grpc_port=wire.grpc_port, prefer_grpc=True, check_compatibility=False
    )
    asked = len(wire.keys)
    for _ in range(3):
        info = server.server_info(own)
        assert info is not None
        assert info.version == (9, 9, 9)
    assert len(wire.keys) == asked + 1
    own.close()


def test_nothing_is_kept_of_a_client_that_is_gone(wire: Wire) -> None:
    gc.collect()
    before = len(server._known)
    client = connect(wire.url, grpc_port=wire.grpc_port)
    assert len(server._known) == before + 1
    client.close()
    del client
    gc.collect()
    assert len(server._known) <= before


def test_the_embedded_engine_is_no_server(tmp_path: Path) -> None:
    client = connect(tmp_path / "db")
    assert isinstance(client, EdgeClient)
    assert server.server_info(client) is None
    server.require_minimum(client)
    server.require(client, TURBO_QUANTIZATION)
    client.close()
