"""One server for the tests of a module, and a client of it over each transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from qdrant_standin import TRANSPORTS, Server, connected, running
from qdrant_standin.cases import fill


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module", params=TRANSPORTS)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[QdrantClient]:
    """With no collection when the first test of a module begins."""
    with connected(server, request.param) as client:
        yield client
        for collection in client.get_collections().collections:
            client.delete_collection(collection.name)


@pytest.fixture(scope="module")
def filled(client: QdrantClient) -> QdrantClient:
    """With the points of `cases`; a test puts right what it changes of them."""
    fill(client)
    return client


@pytest.fixture(autouse=True)
def calm(server: Server) -> Iterator[None]:
    """No fault is left to another test, and none was the stand-in's own."""
    del server.requests[:]
    yield
    server.faults.clear()
    assert server.broken == []


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    """A server for one test."""
    with running(tmp_path) as server:
        yield server
        assert server.broken == []
