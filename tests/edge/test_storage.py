"""One process has a collection, says so, and leaves it whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge
from notes import create, points, shard
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge import EdgeClient
from ragkit.edge.catalog import folder_name
from ragkit.edge.locks import acquire
from ragkit.errors import StoreCorrupt, StoreError, StoreLocked

_HOLD = """
import sys
from ragkit.edge import EdgeClient
client = EdgeClient(sys.argv[1])
print(client.count("notes").count, flush=True)
sys.stdin.read()
"""


class Other:
    """Another process that has the collection open until the end of the block."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Other:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "30\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def test_nothing_is_created_by_looking(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "db") as client:
        assert client.get_collections().collections == []
        assert not client.collection_exists("notes")
        assert client.get_aliases().aliases == []
    assert not (tmp_path / "db").exists()


def test_a_file_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("")
    with pytest.raises(StoreError, match="is a file: expected a folder"):
        EdgeClient(tmp_path / "db")


def test_everything_is_there_again_after_closing(root: Path) -> None:
    with EdgeClient(root) as client:
        client.create_payload_index("notes", "n", "integer")
        client.update_collection("notes", metadata={"a": [1, {"b": None}]})
        create_alias = models.CreateAlias(collection_name="notes", alias_name="now")
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=create_alias)])
        before = client.get_collection("notes")
    with EdgeClient(root) as client:
        assert client.get_collection("now") == before
        assert client.count("now").count == 30
        assert client.facet("notes", "n", limit=100).hits[0].count == 1


def test_a_closed_client_says_so(root: Path) -> None:
    client = EdgeClient(root)
    client.close()
    client.close()
    with pytest.raises(StoreError, match="is closed: open another"):
        client.count("notes")


def test_a_client_that_is_forgotten_lets_go(root: Path) -> None:
    client = EdgeClient(root)
    client.upsert("notes", points(30), wait=False)
    del client
    with EdgeClient(root) as client:
        assert client.count("notes").count == 31


def test_a_program_that_ends_without_closing_leaves_a_clean_collection(root: Path) -> None:
    code = """
import sys
from qdrant_client import models
from ragkit.edge import EdgeClient
client = EdgeClient(sys.argv[1])
client.upsert("notes", [models.PointStruct(id=50, vector={"dense": [1.0] * 8})], wait=False)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
    assert (root / "collections" / "notes" / "closed.json").exists()


def test_a_folder_that_cannot_be_written_is_named(root: Path) -> None:
    shutil.rmtree(root / "locks")
    (root / "locks").write_text("in the way")
    with EdgeClient(root) as client, pytest.raises(StoreError, match=r"locks cannot be written"):
        client.count("notes")


def test_stray_files_are_no_collections(root: Path) -> None:
    (root / "collections" / ".DS_Store").write_text("")
    with EdgeClient(root) as client:
        assert [found.name for found in client.get_collections().collections] == ["notes"]


def test_names_that_differ_in_case_or_need_escapes_have_different_folders() -> None:
    names = ["notes", "Notes", "nötes", "no.tes", ".notes", "%6eotes", "n~", "x" * 255, "x" * 254]
    folders = [folder_name(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert all(len(folder) <= 255 and "/" not in folder for folder in folders)
    assert not any(folder.startswith(".") for folder in folders)


def test_a_name_of_255_signs_of_any_script_works(tmp_path: Path) -> None:
    name = "索" * 255
    with EdgeClient(tmp_path) as client:
        create(client, name)
        assert [found.name for found in client.get_collections().collections] == [name]


def test_a_second_process_is_told_who_has_the_collection(root: Path) -> None:
    with Other(root) as other, EdgeClient(root, lock_timeout_s=0) as client:
        with pytest.raises(StoreLocked, match=rf"'notes' is open in process {other.process.pid} "):
            client.count("notes")
        assert [found.name for found in client.get_collections().collections] == ["notes"]
        with pytest.raises(StoreLocked):
            client.delete_collection("notes")
    with EdgeClient(root) as client:
        assert client.count("notes").count == 30


def test_a_collection_that_gets_free_in_time_is_waited_for(root: Path) -> None:
    with Other(root) as other, EdgeClient(root, lock_timeout_s=30) as client:
        assert other.process.stdin is not None
        threading.Timer(0.3, other.process.stdin.close).start()
        assert client.count("notes").count == 30


def test_a_killed_holder_leaves_the_collection_free(root: Path) -> None:
    with Other(root) as other:
        other.process.kill()
        other.process.wait()
        with EdgeClient(root, lock_timeout_s=0) as client:
            assert client.count("notes").count == 30


def test_a_second_client_in_the_same_process_is_told_so(root: Path) -> None:
    with EdgeClient(root) as first, EdgeClient(root, lock_timeout_s=60) as second:
        first.count("notes")
        with pytest.raises(StoreLocked, match="is open in this process already"):
            second.count("notes")


def test_the_name_of_a_dead_process_in_a_lock_file_misleads_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with acquire(path, what="it", timeout_s=0) as held:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        text = {"pid": ended.pid, "command": "gone", "since": "then", "started": "1"}
        os.ftruncate(held.descriptor, 0)
        os.pwrite(held.descriptor, json.dumps(text).encode(), 0)
        with pytest.raises(StoreLocked, match=r"a child of process \d+ .*, which has ended"):
            acquire(path, what="it", timeout_s=0)
        os.ftruncate(held.descriptor, 0)
        with pytest.raises(StoreLocked, match="another process"):
            acquire(path, what="it", timeout_s=0)
    acquire(path, what="it", timeout_s=0).release()


def test_a_shard_that_another_program_has_open_is_locked(root: Path) -> None:
    (root / "collections" / "notes" / "closed.json").unlink()
    foreign = qdrant_edge.EdgeShard.load(str(shard(root)))
    with EdgeClient(root, lock_timeout_s=0) as client:
        with pytest.raises(StoreLocked, match="does not use this library"):
            client.count("notes")
        foreign.close()
        assert client.count("notes").count == 30


def test_files_that_another_program_changed_are_opened_when_their_note_is_removed(
    root: Path,
) -> None:
    foreign = qdrant_edge.EdgeShard.load(str(shard(root)))
    foreign.update(qdrant_edge.UpdateOperation.delete_points([0]))
    foreign.close()
    with EdgeClient(root) as client:
        with pytest.raises(StoreCorrupt, match="if another program has changed them, remove"):
            client.count("notes")
        (root / "collections" / "notes" / "closed.json").unlink()
        assert client.count("notes").count == 29


def _in_child(client: EdgeClient, results: Any) -> None:
    for call in (
        lambda: client.count("notes"),
        lambda: client.upsert("notes", points(99)),
        lambda: client.get_collections(),
    ):
        try:
            call()
        except StoreError as exc:
            results.put(str(exc))
    client.close()


def test_a_forked_child_is_refused_and_its_end_harms_nobody(root: Path) -> None:
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    with EdgeClient(root) as client:
        client.upsert("notes", points(30), wait=False)
        child = fork.Process(target=_in_child, args=(client, results))
        child.start()
        messages = [results.get() for _ in range(3)]
        child.join(timeout=30)
        assert child.exitcode == 0
        for message in messages:
            assert f"opened in process {os.getpid()}" in message
            assert "spawn" in message
        with pytest.raises(StoreLocked):
            EdgeClient(root, lock_timeout_s=0).count("notes")
        client.upsert("notes", points(31))
        assert client.count("notes").count == 32
    with EdgeClient(root) as client:
        assert client.count("notes").count == 32


def test_a_forked_child_that_ends_like_a_program_harms_nobody(root: Path) -> None:
    """It runs the interpreter's whole clean-up, which frees what it inherited."""
    code = """
import os, sys
from qdrant_client import models
from ragkit.edge import EdgeClient
client = EdgeClient(sys.argv[1])
point = models.PointStruct(id=50, vector={"dense": [1.0] * 8})
client.upsert("notes", [point], wait=False)
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
client.upsert("notes", [point.model_copy(update={"id": 51})])
print(client.count("notes").count)
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("32\n", 0), done.stderr
    with EdgeClient(root) as client:
        assert client.count("notes").count == 32


def test_threads_share_a_client(root: Path) -> None:
    failures: list[Exception] = []
    with EdgeClient(root) as client:

        def work(number: int) -> None:
            try:
                for step in range(5):
                    client.upsert("notes", points(1000 + 10 * number + step), wait=step == 4)
                    client.query_points("notes", [1.0] * 8, using="dense", limit=3)
                    client.count("notes")
            except (StoreError, UnexpectedResponse) as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert client.count("notes").count == 70


def test_a_collection_deleted_under_a_waiting_thread_is_not_found(root: Path) -> None:
    with EdgeClient(root) as client:
        opened = client._shard("notes")
        client.delete_collection("notes")
        with pytest.raises(UnexpectedResponse, match="404"):
            opened.flush()


def test_what_interrupted_creations_and_deletions_left_is_swept_away(root: Path) -> None:
    scratch = root / "scratch"
    for name in ("half-made", "notes"):
        (scratch / name / "shard").mkdir(parents=True)
    EdgeClient(root).close()
    assert list(scratch.iterdir()) == []
    (scratch / "late").mkdir()
    with EdgeClient(root / "elsewhere"):
        pass
    with EdgeClient(root) as client:
        create(client, "late")
        assert client.count("late").count == 0


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        with pytest.raises(UnexpectedResponse):
            client.create_collection(
                "notes", vectors_config=models.VectorParams(size=0, distance=models.Distance.DOT)
            )
        assert client.get_collections().collections == []
        assert list((tmp_path / "scratch").iterdir()) == []
        create(client)


def test_of_two_processes_one_creates_the_collection(tmp_path: Path) -> None:
    code = """
import sys
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse
from ragkit.edge import EdgeClient
client = EdgeClient(sys.argv[1])
sys.stdin.readline()
try:
    vectors = models.VectorParams(size=2, distance=models.Distance.DOT)
    print(client.create_collection("notes", vectors_config=vectors))
except UnexpectedResponse as exc:
    print(exc.status_code)
"""
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [rival.communicate("go\n")[0].strip() for rival in rivals]
    assert sorted(said) == ["409", "True"]


def test_disk_usage_counts_what_is_really_taken(root: Path) -> None:
    apparent = sum(file.stat().st_size for file in shard(root).rglob("*") if file.is_file())
    with EdgeClient(root) as client:
        used = client.disk_usage("notes")
        assert 10_000 < used < 5_000_000 < apparent
        with pytest.raises(UnexpectedResponse, match="404"):
            client.disk_usage("nowhere")


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_threads_stay_few_with_several_collections_open(tmp_path: Path) -> None:
    before = threads()
    with EdgeClient(tmp_path) as client:
        for number in range(5):
            create(client, f"c{number}")
            client.upsert(f"c{number}", points(1), wait=False)
            client.query_points(f"c{number}", [1.0] * 8, using="dense")
        assert threads() - before <= 5 * 3
