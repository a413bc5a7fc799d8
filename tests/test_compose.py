from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import IMAGE

PATH = Path(__file__).parent.parent / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(PATH.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CLUSTER = ["qdrant-1", "qdrant-2", "qdrant-3"]


def flag(service: dict[str, Any], name: str) -> str | None:
    """What the command says for a flag."""
    command: list[str] = service["command"]
    return command[command.index(name) + 1] if name in command else None


def published(service: dict[str, Any]) -> dict[int, int]:
    """Port in the container to port on this machine, all of the loopback address."""
    ports = {}
    for entry in service["ports"]:
        address, outside, inside = entry.split(":")
        assert address == "127.0.0.1"
        ports[int(inside)] = int(outside)
    return ports


def test_up_starts_one_node_and_the_profile_three_more() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["qdrant"]
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {"qdrant": None, **{name: ["cluster"] for name in CLUSTER}}


@pytest.mark.parametrize("name", SERVICES)
def test_every_node_runs_the_version_that_the_tests_run(name: str) -> None:
    assert SERVICES[name]["image"] == IMAGE
    version = IMAGE.partition(":")[2]
    assert version.startswith("v")
    assert version.count(".") == 2


@pytest.mark.parametrize("name", SERVICES)
def test_every_node_wants_the_key_of_the_environment(name: str) -> None:
    key = SERVICES[name]["environment"]["QDRANT__SERVICE__API_KEY"]
    assert key.startswith("${QDRANT_API_KEY:?")  # without one, Compose refuses


def test_every_port_is_on_the_loopback_address_and_has_one_user() -> None:
    taken = [port for service in SERVICES.values() for port in published(service).values()]
    assert len(set(taken)) == len(taken) == 8
    for service in SERVICES.values():
        ports = published(service)
        assert set(ports) == {6333, 6334}  # and not 6335, which nodes use between them
        assert ports[6334] == ports[6333] + 1  # where clients look for gRPC
    assert published(SERVICES["qdrant"])[6333] == 6333


def test_every_node_has_volumes_of_its_own() -> None:
    used: list[str] = []
    for service in SERVICES.values():
        volumes = dict(volume.split(":")[::-1] for volume in service["volumes"])
        assert set(volumes) == {"/qdrant/storage", "/qdrant/snapshots"}
        used += volumes.values()
    assert len(set(used)) == len(used)
    assert set(used) == set(COMPOSE["volumes"])


def test_the_single_node_is_no_part_of_a_cluster() -> None:
    single = SERVICES["qdrant"]
    assert not any("CLUSTER" in name for name in single["environment"])
    assert (flag(single, "--uri"), flag(single, "--bootstrap")) == (None, None)


def test_the_nodes_of_the_cluster_have_their_own_addresses_and_join_the_first() -> None:
    uris = {name: flag(SERVICES[name], "--uri") for name in CLUSTER}
    assert uris == {name: f"http://{name}:6335" for name in CLUSTER}
    for name in CLUSTER:
        settings = SERVICES[name]["environment"]
        assert settings["QDRANT__CLUSTER__ENABLED"] == "true"
        assert settings["QDRANT__CLUSTER__P2P__PORT"] == "6335"
    assert flag(SERVICES["qdrant-1"], "--bootstrap") is None
    for name in CLUSTER[1:]:
        assert flag(SERVICES[name], "--bootstrap") == uris["qdrant-1"]


def test_the_other_nodes_wait_for_the_first_and_it_waits_for_nobody() -> None:
    assert "depends_on" not in SERVICES["qdrant-1"]
    for name in CLUSTER[1:]:
        assert SERVICES[name]["depends_on"] == {"qdrant-1": {"condition": "service_healthy"}}
    asked = {name: service["healthcheck"]["test"][-1] for name, service in SERVICES.items()}
    # Ready may need the others: the first node is only asked whether it is alive.
    assert asked == {
        "qdrant": "/readyz",
        "qdrant-1": "/livez",
        "qdrant-2": "/readyz",
        "qdrant-3": "/readyz",
    }


def test_a_node_that_ends_by_itself_comes_back() -> None:
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}


@contextmanager
def answering(status: int, port: int = 0) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything with one status; gives its port and the paths asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Requests are not worth a line."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def is_healthy(name: str, port: int) -> bool:
    """Run the health check as the container would, against another port."""
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    here = [word.replace("$$", "$").replace("/6333", f"/{port}") for word in command]
    return subprocess.run(here, capture_output=True, timeout=10, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="the check is a bash script: install bash")
@pytest.mark.parametrize("name", SERVICES)
def test_the_health_check_tells_ready_from_not_ready_and_from_gone(name: str) -> None:
    with answering(200) as (port, asked):
        assert is_healthy(name, port)
        assert asked == [SERVICES[name]["healthcheck"]["test"][-1]]
    assert not is_healthy(name, port)
    for status in (503, 401, 404):
        with answering(status) as (port, _):
            assert not is_healthy(name, port)
