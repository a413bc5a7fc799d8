"""The stores that tests run on: the embedded engine, and a real Qdrant server where there is one.

A server is the one at QDRANT_URL, else a `qdrant` program on the PATH, else a container. Without
any of them the tests marked `server` are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client.client_base import QdrantBase

from ragkit.edge import EdgeClient

_IMAGE = "qdrant/qdrant"
_START_TIMEOUT_S = 60
_DOCKER_TIMEOUT_S = 3


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeClient]:
    """The embedded engine in an empty folder."""
    with EdgeClient(tmp_path / "edge") as client:
        yield client


@pytest.fixture(params=["edge", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantBase]:
    """Each store in turn, without collections; what a test makes on the server goes with it."""
    if request.param == "edge":
        yield request.getfixturevalue("edge")
        return
    url = request.getfixturevalue("server_url")
    server = QdrantClient(url=url, timeout=30)
    before = _names(server)
    try:
        yield server
    finally:
        for name in _names(server) - before:
            server.delete_collection(name)
        server.close()


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Qdrant server."""
    if url := os.environ.get("QDRANT_URL"):
        yield url
    elif program := shutil.which("qdrant"):
        with _started(program, tmp_path_factory.mktemp("qdrant")) as url:
            yield url
    elif _docker_answers():
        with _container() as url:
            yield url
    else:
        pytest.skip(
            "no Qdrant server: set QDRANT_URL (docker run -p 6333:6333 qdrant/qdrant), or put a "
            "qdrant program on the PATH, or start Docker"
        )


@contextmanager
def _started(program: str, folder: Path) -> Iterator[str]:
    http_port, grpc_port = _free_port(), _free_port()
    environment = {
        **os.environ,
        "QDRANT__SERVICE__HOST": "127.0.0.1",
        "QDRANT__SERVICE__HTTP_PORT": str(http_port),
        "QDRANT__SERVICE__GRPC_PORT": str(grpc_port),
        "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
        "QDRANT__STORAGE__SNAPSHOTS_PATH": str(folder / "snapshots"),
        "QDRANT__TELEMETRY_DISABLED": "true",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield _ready(f"http://127.0.0.1:{http_port}", folder / "log")
    finally:
        process.terminate()
        process.wait(timeout=_START_TIMEOUT_S)


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer

    with DockerContainer(_IMAGE).with_exposed_ports(6333) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6333)
        yield _ready(f"http://{host}:{port}", None)


def _ready(url: str, log: Path | None) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", timeout=1).is_success:
                return url
        except httpx.TransportError:
            time.sleep(0.1)
    said = "" if log is None else log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the Qdrant server at {url} did not get ready: {said}")


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(
            ["docker", "info"], capture_output=True, timeout=_DOCKER_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _names(server: QdrantClient) -> set[str]:
    return {collection.name for collection in server.get_collections().collections}


@pytest.fixture(autouse=True)
def fresh_pace() -> Iterator[None]:
    """No test inherits what another has learnt of a quota; a process keeps it."""
    yield
    if (pacing := sys.modules.get("ragkit.pacing")) is not None:
        pacing._shared.clear()
