"""The stores that tests run on: the embedded engine, a stand-in for a server, a real server.

The stand-in has the real wire, REST and gRPC, over the embedded engine, so these run everywhere.
Which real server is taken, and when those marked `server` are skipped, is in `servers`.
"""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir

import pytest
from qdrant_client.client_base import QdrantBase
from servers import Cluster, Server, opened, running_cluster, running_server, tidied

from ragkit.edge import EdgeClient

_STORES = [
    "edge",
    "rest",
    "grpc",
    pytest.param("server-rest", marks=pytest.mark.server),
    pytest.param("server-grpc", marks=pytest.mark.server),
]

# A file system in memory, and the room it must have: four processes take a fifth of it.
_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing but folders that pytest makes for itself
_MEMORY_BYTES = 6 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write in memory, if nobody says otherwise and there is room.

    Most of it is forced to the disk, as users want it, and waiting for a disk proves nothing: a
    process that is killed loses as little on the one as on the other.
    """
    if "TMPDIR" not in os.environ and _has_room(_MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def _has_room(folder: Path) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    # Some tests write programs and run them.
    return found.f_bavail * found.f_frsize >= _MEMORY_BYTES and not found.f_flag & os.ST_NOEXEC


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave modules and tests, which stay to the end, out of garbage collections."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeClient]:
    """The embedded engine in an empty folder."""
    with EdgeClient(tmp_path / "edge") as client:
        yield client


@pytest.fixture(params=_STORES)
def client(request: pytest.FixtureRequest, open_store: Callable[[str], QdrantBase]) -> QdrantBase:
    """Each store in turn, without collections."""
    return open_store(request.param)


@pytest.fixture
def open_store(request: pytest.FixtureRequest) -> Iterator[Callable[[str], QdrantBase]]:
    """Opens "edge"; "rest" or "grpc" of the stand-in; "server-rest" or "server-grpc".

    The clients are closed after the test, and what they made on a server goes.
    """
    with ExitStack() as closing:

        def open_one(store: str) -> QdrantBase:
            if store == "edge":
                edge: EdgeClient = request.getfixturevalue("edge")
                return edge
            where, _, protocol = store.rpartition("-")
            server: Server = request.getfixturevalue(where or "standin")
            client = closing.enter_context(opened(server, prefer_grpc=protocol == "grpc"))
            closing.enter_context(tidied(client))
            return client

        yield open_one


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in this process that stands in for Qdrant's."""
    from qdrant_standin import running

    with running(tmp_path_factory.mktemp("standin")) as server:
        yield Server(url=server.url, grpc_port=server.grpc_port)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server."""
    with running_server(tmp_path_factory.mktemp("qdrant")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three real servers that are one cluster."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def taking_turns(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests that use a real server take turns, in whatever process: each tidies up after itself."""
    if request.node.get_closest_marker("server") is None:
        yield
        return
    with (Path(gettempdir()) / "ragkit-server-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def fresh_pace() -> Iterator[None]:
    """No test inherits what another has learnt of a quota; a process keeps it."""
    yield
    if (pacing := sys.modules.get("ragkit.pacing")) is not None:
        pacing._shared.clear()
