"""Neither a killed process nor a full disk loses what was reported as written."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from notes import create, points
from qdrant_client import models

from ragkit.edge import EdgeClient
from ragkit.errors import StoreFull

_WRITE_ON = """
import sys
from qdrant_client import models
from ragkit.edge import EdgeClient

first, waits = int(sys.argv[2]), sys.argv[3] == "wait"
client = EdgeClient(sys.argv[1])
for start in range(first, first + 100_000, 20):
    points = [
        models.PointStruct(id=n, vector={"dense": [1.0, n, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]})
        for n in range(start, start + 20)
    ]
    client.upsert("notes", points, wait=waits)
    print(start + 20, flush=True)
"""


_FILL_UP = """
import sys
from qdrant_client import models
from ragkit.edge import EdgeClient
from ragkit.errors import StoreFull

client = EdgeClient(sys.argv[1])
done = 0
try:
    while True:
        points = [
            models.PointStruct(id=n, vector={"dense": [n] * 767 + [1]}, payload={"t": "x" * 4000})
            for n in range(done, done + 200)
        ]
        client.upsert("big", points, wait=sys.argv[2] == "wait")
        done += 200
except StoreFull as exc:
    print(done, str(exc), sep="\\n", flush=True)
client.close()
"""


@pytest.mark.parametrize("wait", ["wait", "go on"])
def test_killed_while_writing_nothing_acknowledged_is_lost(root: Path, wait: str) -> None:
    rng = random.Random(wait)
    acknowledged = 30
    for _ in range(3):
        with EdgeClient(root) as client:
            present = {record.id for record in client.scroll("notes", limit=10**6)[0]}
        assert set(range(acknowledged)) <= present
        acknowledged = _write_until_killed(root, acknowledged, wait, rng.uniform(0.0, 0.2))
    with EdgeClient(root) as client:
        found = client.scroll("notes", limit=10**6, with_vectors=True)[0]
        assert set(range(acknowledged)) <= {record.id for record in found}
        assert (
            client.count("notes").count == len(found) == client.get_collection("notes").points_count
        )
        assert all(record.vector for record in found)


def _write_until_killed(root: Path, start: int, wait: str, after_s: float) -> int:
    """Write on in another process, kill it, and say how far it reported to have come."""
    command = [sys.executable, "-c", _WRITE_ON, str(root), str(start), wait]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = int(writer.stdout.readline())
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)
        rest = [line for line in writer.stdout if line.endswith("\n")]
    return int(rest[-1]) if rest else first


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: run as root ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("wait", ["wait", "go on"])
def test_a_full_disk_is_refused_before_it_kills_and_nothing_committed_is_lost(
    small_disk: Path, wait: str
) -> None:
    root = small_disk / "db"
    with EdgeClient(root) as client:
        vectors = {"dense": models.VectorParams(size=768, distance=models.Distance.COSINE)}
        client.create_collection("big", vectors_config=vectors)
    done = subprocess.run(
        [sys.executable, "-c", _FILL_UP, str(root), wait],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    count, message = done.stdout.splitlines()
    assert int(count) > 1000
    assert "MB are free" in message
    assert "MB are needed" in message
    with EdgeClient(root) as client:
        assert client.count("big").count == int(count)
        with pytest.raises(StoreFull, match="optimize the collection"):
            client.optimize("big")
        client.delete_collection("big")
        assert client.get_collections().collections == []


def test_opening_on_a_full_disk_is_refused(small_disk: Path) -> None:
    root = small_disk / "db"
    with EdgeClient(root) as client:
        create(client)
        client.upsert("notes", points(1))
    free = shutil.disk_usage(small_disk).free
    with (small_disk / "ballast").open("wb") as file:
        file.write(bytes(free - (2 << 20)))
    with EdgeClient(root) as client:
        with pytest.raises(StoreFull, match="open the collection"):
            client.count("notes")
        (small_disk / "ballast").unlink()
        assert client.count("notes").count == 1
