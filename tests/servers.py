"""Real Qdrant servers for the tests marked `server`: one, and three that are one cluster.

A server is the one at QDRANT_URL, else a `qdrant` program on the PATH, else a container. A cluster
is the one at QDRANT_CLUSTER_URLS, else three processes of that program.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

import ragkit

IMAGE = "qdrant/qdrant:v1.19.0"
NODES = 3
HOW_TO_RUN = (
    "no Qdrant server: set QDRANT_URL (docker compose up --detach --wait, and QDRANT_API_KEY), or "
    "put a qdrant program on the PATH, or start Docker"
)
HOW_TO_RUN_A_CLUSTER = (
    "no Qdrant cluster: put a qdrant program on the PATH, or set QDRANT_CLUSTER_URLS to the URLs "
    "of three nodes, comma separated (docker-compose.yml has them, in the profile cluster)"
)

_DEFAULT_PORT = 6333
_START_TIMEOUT_S = 60.0
# A node that was killed gets its shards back from the others first.
_WHOLE_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 5.0
_DOCKER_TIMEOUT_S = 10.0
_PAUSE_S = 0.1
_ATTEMPTS = 3
_LOG_TAIL = 4000
# Another program may take a port between our finding it free and the server's binding it. A server
# says so in these words, and the REST part of a cluster's node lives on without its port.
_PORT_TAKEN = ("Address already in use", "Error while starting")


class ServerDied(RuntimeError):
    """A server ended, or does not answer; the message has the end of what it printed."""


class PortTaken(ServerDied):
    """It could not have its ports: with others it may go better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server answers, and what it wants to be told."""

    url: str
    grpc_port: int
    api_key: str | None = field(default=None, repr=False)

    def get(self, path: str) -> Any:
        """What a GET of the REST API gives as its result."""
        headers = {"api-key": self.api_key} if self.api_key else {}
        reply = httpx.get(f"{self.url}{path}", headers=headers, timeout=5)
        reply.raise_for_status()
        return reply.json()["result"]

    def is_ready(self) -> bool:
        """Whether REST says it is ready and gRPC accepts connections."""
        try:
            if not httpx.get(f"{self.url}/readyz", timeout=2).is_success:
                return False
            address = (str(urlsplit(self.url).hostname), self.grpc_port)
            with socket.create_connection(address, timeout=2):
                return True
        except (httpx.TransportError, OSError):
            return False


class Node:
    """One process of a qdrant program, with a folder and ports of its own.

    Args:
        program: What to run.
        folder: For its data and its log; it may not exist yet.
        api_key: It will ask for it, and show it to other nodes.
        distributed: Whether it is to be one of a cluster.
    """

    def __init__(self, program: str, folder: Path, *, api_key: str, distributed: bool) -> None:
        self.program = program
        self.folder = folder
        self._http_port, grpc_port, self._p2p_port = free_ports(3)
        self.server = Server(
            url=f"http://127.0.0.1:{self._http_port}", grpc_port=grpc_port, api_key=api_key
        )
        self.uri = f"http://127.0.0.1:{self._p2p_port}" if distributed else None
        self._bootstrap: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, bootstrap: str | None = None) -> None:
        """Start it and wait until it is ready.

        Args:
            bootstrap: The URI of a node whose cluster it joins the first time; later starts need
                none, since the folder knows the cluster.

        Raises:
            PortTaken: Another program has one of its ports.
            ServerDied: It ended, or was not ready in time; it does not run any more.
        """
        self._bootstrap = bootstrap or self._bootstrap
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = self._spawn(log)
        what = f"{self.server.url} to be ready; what it printed is in {self._log}"
        try:
            wait_until(self.server.is_ready, what, check=self.check)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, by force if it takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process else None

    @property
    def said(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-_LOG_TAIL:]

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        flags = ["--uri", self.uri] if self.uri else []
        if self._bootstrap:
            flags += ["--bootstrap", self._bootstrap]
        return subprocess.Popen(
            [self.program, *flags],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def _environment(self) -> dict[str, str]:
        # What is set for another server (QDRANT__…, QDRANT_URI, QDRANT_API_KEY) is not for this.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QDRANT")}
        settings = {
            "SERVICE__HOST": "127.0.0.1",
            "SERVICE__HTTP_PORT": str(self._http_port),
            "SERVICE__GRPC_PORT": str(self.server.grpc_port),
            "SERVICE__API_KEY": self.server.api_key or "",
            "STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            "TELEMETRY_DISABLED": "true",
        }
        if self.uri:
            settings |= {
                "CLUSTER__ENABLED": "true",
                "CLUSTER__P2P__PORT": str(self._p2p_port),
                "SERVICE__ENFORCE_INTERNAL_AUTH": "true",
            }
        return inherited | {f"QDRANT__{name}": value for name, value in settings.items()}

    def check(self) -> None:
        """Refuse to wait for what cannot come any more."""
        said = self.said
        if any(words in said for words in _PORT_TAKEN):
            raise PortTaken(f"{self.program} could not have its ports, and said: {said}")
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ServerDied(f"{self.program} ended with exit code {code}, and said: {said}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Servers that are one cluster; `nodes` is empty where we did not start them."""

    servers: Sequence[Server]
    nodes: Sequence[Node] = ()

    @contextmanager
    def killing(self, number: int) -> Iterator[Callable[[], None]]:
        """Gives what kills a node; at the end the node runs again and the cluster is whole."""
        if not self.nodes:
            pytest.skip(
                "nodes are killed only where the tests started them: unset QDRANT_CLUSTER_URLS"
            )
        node = self.nodes[number]
        try:
            yield node.kill
        finally:
            node.stop()
            node.start()
            self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until every node knows the others and the same leader, and all replicas work."""
        try:
            wait_until(
                lambda: not self.lacks(),
                "the cluster to be whole",
                check=self._check,
                timeout_s=_WHOLE_TIMEOUT_S,
            )
        except ServerDied as exc:
            exc.add_note(f"what it lacks: {self.lacks()}")
            raise

    def lacks(self) -> str:
        """What keeps it from being whole; empty if nothing does."""
        idle = [server.url for server in self.servers if not server.is_ready()]
        if idle:
            return f"{', '.join(idle)} not ready"
        try:
            states = [server.get("/cluster") for server in self.servers]
            if not _agree(states):
                return f"nodes that agree, got {states}"
            broken = [shard for server in self.servers for shard in _broken_shards(server)]
            return f"working replicas, got {broken}" if broken else ""
        except httpx.HTTPError as exc:
            return f"answers, got {exc!r}"

    def _check(self) -> None:
        for node in self.nodes:
            node.check()


def _agree(states: Sequence[dict[str, Any]]) -> bool:
    """Whether all nodes know one another and follow one leader."""
    if any(state["status"] != "enabled" for state in states):
        raise RuntimeError("expected the nodes of a cluster, got servers that run alone")
    leaders = {state["raft_info"]["leader"] for state in states}
    voters = all(state["raft_info"]["is_voter"] for state in states)
    sizes = {len(state["peers"]) for state in states}
    return voters and sizes == {len(states)} and len(leaders) == 1 and all(leaders)


def _broken_shards(server: Server) -> list[dict[str, Any]]:
    """Replicas, as a node sees them, that do not work or are on their way to another node."""
    broken = []
    for collection in server.get("/collections")["collections"]:
        state = server.get(f"/collections/{collection['name']}/cluster")
        shards = [*state["local_shards"], *state["remote_shards"]]
        broken += [shard for shard in shards if shard["state"] != "Active"]
        broken += state["shard_transfers"]
    return broken


@contextmanager
def opened(server: Server, *, prefer_grpc: bool) -> Iterator[QdrantClient]:
    """A client of a server, of the protocol asked for."""
    client = ragkit.connect(
        server.url, api_key=server.api_key, grpc_port=server.grpc_port, prefer_grpc=prefer_grpc
    )
    try:
        assert isinstance(client, QdrantClient)
        # A silent way back to REST would leave gRPC untested.
        assert client.init_options["prefer_grpc"] is prefer_grpc
        yield client
    finally:
        client.close()


@contextmanager
def tidied(client: QdrantBase) -> Iterator[None]:
    """Remove the collections and aliases that are made within."""
    collections, aliases = _collections(client), _aliases(client)
    try:
        yield
    finally:
        made = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
            for name in _aliases(client) - aliases
        ]
        if made:
            client.update_collection_aliases(made)
        for name in _collections(client) - collections:
            client.delete_collection(name)


def _collections(client: QdrantBase) -> set[str]:
    return {each.name for each in client.get_collections().collections}


def _aliases(client: QdrantBase) -> set[str]:
    return {each.alias_name for each in client.get_aliases().aliases}


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """The first server that there is; skips the test, saying how to run it, if there is none."""
    if url := os.environ.get("QDRANT_URL"):
        yield _given(url, grpc_port=os.environ.get("QDRANT_GRPC_PORT"))
    elif program := shutil.which("qdrant"):
        with started(program, folder, nodes=1) as nodes:
            yield nodes[0].server
    elif _docker_answers():
        with _container() as server:
            yield server
    else:
        pytest.skip(HOW_TO_RUN)


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Three servers as one; skips the test, saying how to run it, if there are none."""
    if urls := os.environ.get("QDRANT_CLUSTER_URLS"):
        cluster = Cluster(servers=[_given(url.strip()) for url in urls.split(",")])
        cluster.wait_until_whole()
        yield cluster
    elif program := shutil.which("qdrant"):
        with started(program, folder, nodes=NODES) as nodes:
            cluster = Cluster(servers=[node.server for node in nodes], nodes=nodes)
            cluster.wait_until_whole()
            yield cluster
    else:
        pytest.skip(HOW_TO_RUN_A_CLUSTER)


@contextmanager
def started(program: str, folder: Path, *, nodes: int) -> Iterator[list[Node]]:
    """Processes of a qdrant program: one alone, or several as a cluster; they end with the block.

    Raises:
        ServerDied: One ended, or was not ready in time.
    """
    with ExitStack() as running:
        for attempt in range(1, _ATTEMPTS + 1):
            group = _nodes(program, folder / f"attempt {attempt}", nodes)
            for node in group:
                running.callback(node.stop)
            try:
                for node in group:
                    node.start(bootstrap=None if node is group[0] else group[0].uri)
                break
            except PortTaken:
                # A node that had joined under its ports cannot change them: all start anew.
                running.close()
                if attempt == _ATTEMPTS:
                    raise
        yield group


def _nodes(program: str, home: Path, size: int) -> list[Node]:
    key = secrets.token_hex(16)
    return [
        Node(program, home / f"node {number}", api_key=key, distributed=size > 1)
        for number in range(1, size + 1)
    ]


@contextmanager
def _container() -> Iterator[Server]:
    from testcontainers.core.container import DockerContainer

    # Docker may run on another host, where a key over plain http has no business.
    with DockerContainer(IMAGE).with_exposed_ports(6333, 6334) as container:
        host = container.get_container_host_ip()
        server = Server(
            url=f"http://{host}:{container.get_exposed_port(6333)}",
            grpc_port=int(container.get_exposed_port(6334)),
        )

        def check() -> None:
            wrapped = container.get_wrapped_container()
            wrapped.reload()
            if wrapped.status not in ("created", "running"):
                said = wrapped.logs().decode(errors="replace")[-_LOG_TAIL:]
                raise ServerDied(f"the container of {IMAGE} ended, and said: {said}")

        wait_until(server.is_ready, f"{server.url} to be ready", check=check)
        yield server


def _given(url: str, *, grpc_port: str | None = None) -> Server:
    """The server at a URL, ready."""
    server = Server(
        url=url.rstrip("/"),
        grpc_port=int(grpc_port or _grpc_port(url)),
        api_key=os.environ.get("QDRANT_API_KEY"),
    )
    what = f"{url} to be ready, and its gRPC port {server.grpc_port} (QDRANT_GRPC_PORT) to be open"
    wait_until(server.is_ready, what)
    return server


def _grpc_port(url: str) -> int:
    """Where gRPC is unless something else is said: one above REST, or where it always was."""
    port = urlsplit(url).port or _DEFAULT_PORT
    return _DEFAULT_PORT + 1 if port in (80, 443) else port + 1


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    check: Callable[[], None] = lambda: None,
    timeout_s: float = _START_TIMEOUT_S,
) -> None:
    """Wait for a condition.

    Args:
        what: For the error: "waited 60 s for …".
        check: Called meanwhile; raises where waiting has become pointless.

    Raises:
        ServerDied: It did not come true in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        check()
        if holds:
            return
        if time.monotonic() > deadline:
            raise ServerDied(f"waited {timeout_s:g} s for {what}")
        time.sleep(_PAUSE_S)


def free_ports(number: int) -> list[int]:
    """Different TCP ports on the loopback address that nothing listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


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
