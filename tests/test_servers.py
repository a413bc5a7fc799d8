"""What starts real servers for the tests, tried on a program that only looks like one."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
import servers
from servers import PortTaken, ServerDied, free_ports, running_cluster, running_server, started

FAKE = Path(__file__).with_name("fake_qdrant.py")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("QDRANT"):
            monkeypatch.delenv(name)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program `qdrant`, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "qdrant"
    path.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_STATE", str(tmp_path))
    return str(path)


def ended(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return True
    return False


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_program_on_the_path_is_started_and_ended(tmp_path: Path, program: str) -> None:
    with running_server(tmp_path / "home") as server:
        assert server.is_ready()
        assert server.api_key
        assert server.api_key not in repr(server)
        assert server.get("/collections") == {"collections": []}
        assert server.get("/cluster") == {"status": "disabled"}
    assert not server.is_ready()
    assert not accepts(server.grpc_port)


def test_a_server_at_a_url_is_used_and_left_running(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(program, tmp_path / "home", nodes=1) as [node]:
        monkeypatch.setenv("QDRANT_URL", f"{node.server.url}/")
        monkeypatch.setenv("QDRANT_API_KEY", str(node.server.api_key))
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(node.server.grpc_port))
        with running_server(tmp_path / "unused") as server:
            assert server == node.server
        assert server.is_ready()
    assert not (tmp_path / "unused").exists()


def test_three_programs_become_one_cluster(tmp_path: Path, program: str) -> None:
    with running_cluster(tmp_path) as cluster:
        states = [server.get("/cluster") for server in cluster.servers]
        uris = sorted(str(node.uri) for node in cluster.nodes)
        assert [sorted(state["peers"]) for state in states] == [uris] * 3
        pids = [node.pid for node in cluster.nodes]
        assert len(set(pids)) == 3
    assert all(ended(pid) for pid in pids)


def test_a_killed_node_comes_back_under_its_name_with_its_folder(
    tmp_path: Path, program: str
) -> None:
    with running_cluster(tmp_path) as cluster:
        node = cluster.nodes[2]
        before, folder = node.pid, node.folder
        with cluster.killing(2) as kill:
            kill()
            assert ended(before)
            assert not node.server.is_ready()
            assert cluster.servers[0].is_ready()
        assert node.server.is_ready()
        assert (node.folder, node.pid != before) == (folder, True)
        assert len(cluster.servers[0].get("/cluster")["peers"]) == 3


def test_a_cluster_that_does_not_become_whole_says_what_it_lacks(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_WHOLE_TIMEOUT_S", 0)
    with started(program, tmp_path, nodes=3) as nodes:
        two = servers.Cluster(servers=[node.server for node in nodes[:2]])
        assert "nodes that agree" in two.lacks()  # they know of a third
        three = servers.Cluster(servers=[node.server for node in nodes])
        assert three.lacks() == ""
        nodes[1].kill()
        with pytest.raises(ServerDied, match="to be whole") as caught:
            three.wait_until_whole()
        assert f"{nodes[1].server.url} not ready" in caught.value.__notes__[0]


def test_nodes_of_others_are_used_and_not_killed(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(program, tmp_path, nodes=3) as nodes:
        ports = {node.server.url: node.server.grpc_port for node in nodes}
        monkeypatch.setattr(servers, "_grpc_port", ports.__getitem__)
        monkeypatch.setenv("QDRANT_CLUSTER_URLS", ", ".join(ports))
        monkeypatch.setenv("QDRANT_API_KEY", str(nodes[0].server.api_key))
        with running_cluster(tmp_path / "unused") as cluster:
            assert [server.url for server in cluster.servers] == list(ports)
            with pytest.raises(pytest.skip.Exception, match="unset QDRANT_CLUSTER_URLS"):
                cluster.killing(0).__enter__()


def test_servers_that_run_alone_are_not_taken_for_a_cluster(tmp_path: Path, program: str) -> None:
    with (
        started(program, tmp_path / "a", nodes=1) as [one],
        started(program, tmp_path / "b", nodes=1) as [other],
    ):
        cluster = servers.Cluster(servers=[one.server, other.server])
        with pytest.raises(RuntimeError, match="servers that run alone"):
            cluster.wait_until_whole()


def test_a_server_that_dies_is_an_error_with_its_last_words(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_QDRANT", "dies")
    with (
        pytest.raises(ServerDied, match=r"exit code 1, and said: the disk is on fire"),
        running_server(tmp_path / "home"),
    ):
        pass


@pytest.mark.parametrize("nodes", [1, 3])
def test_where_a_port_was_taken_all_start_anew_on_others(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    monkeypatch.setenv("FAKE_QDRANT", "taken")
    with started(program, tmp_path / "home", nodes=nodes) as group:
        assert all(node.server.is_ready() for node in group)
        assert {node.folder.parent.name for node in group} == {"attempt 2"}


def test_a_port_that_is_always_taken_is_an_error(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    monkeypatch.setattr(servers, "_ATTEMPTS", 1)
    monkeypatch.setattr(servers, "free_ports", lambda number: [port] * number)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(PortTaken, match="Address already in use"),
        started(program, tmp_path, nodes=1),
    ):
        pass


def test_a_server_that_does_not_end_is_killed(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_QDRANT", "stubborn")
    monkeypatch.setattr(servers, "_STOP_TIMEOUT_S", 0.2)
    with started(program, tmp_path, nodes=1) as [node]:
        pid = node.pid
    assert ended(pid)


def test_a_test_that_fails_leaves_no_server_behind(tmp_path: Path, program: str) -> None:
    pids: list[int | None] = []

    def fail() -> None:
        with started(program, tmp_path, nodes=3) as group:
            pids.extend(node.pid for node in group)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 3
    assert all(ended(pid) for pid in pids)


def test_settings_for_another_server_do_not_reach_the_one_that_is_started(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT__SERVICE__API_KEY", "another")
    monkeypatch.setenv("QDRANT__CLUSTER__ENABLED", "true")
    with started(program, tmp_path, nodes=1) as [node]:
        assert node.server.get("/cluster") == {"status": "disabled"}


def test_without_any_server_the_reason_says_how_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for running, way in ((running_server, "QDRANT_URL"), (running_cluster, "QDRANT_CLUSTER_URLS")):
        with pytest.raises(pytest.skip.Exception, match=way), running(tmp_path):
            pass


def test_what_never_comes_is_not_waited_for_for_ever() -> None:
    with pytest.raises(ServerDied, match="waited 0 s for Godot"):
        servers.wait_until(lambda: False, "Godot", timeout_s=0)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(50))) == 50
