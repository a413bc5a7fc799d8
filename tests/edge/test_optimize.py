"""Optimizing: in a child process, without losing anything, and with filters that find all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from ragkit.edge import EdgeClient, shards
from ragkit.edge.optimize import main
from ragkit.errors import StoreError, StoreLocked

_DIM = 16
_VECTORS = np.random.default_rng(7).normal(size=(3000, _DIM))
# A few KB of vectors are enough to be indexed, so that tests need no millions of numbers.
_SOON = models.OptimizersConfigDiff(indexing_threshold=10)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EdgeClient]:
    with EdgeClient(tmp_path / "db") as client:
        yield client


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a small collection is optimized in a child process."""
    monkeypatch.setattr(shards, "_CHILD_COMPONENTS", 0)


def create(client: EdgeClient, *, count: int = 300, **settings: Any) -> None:
    client.create_collection(
        "notes",
        vectors_config={"dense": models.VectorParams(size=_DIM, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        **{"optimizers_config": _SOON, **settings},
    )
    fill(client, range(count))


def fill(client: EdgeClient, numbers: range) -> None:
    points = [
        models.PointStruct(
            id=n,
            vector={
                "dense": _VECTORS[n].tolist(),
                "bm25": models.SparseVector(indices=[n % 7], values=[1.0]),
            },
            payload={"tenth": n % 10},
        )
        for n in numbers
    ]
    client.upsert("notes", points)


def nearest(client: EdgeClient, query: np.ndarray, **options: Any) -> list[Any]:
    found = client.query_points("notes", query, using="dense", limit=10, **options).points
    return [point.id for point in found]


def status(client: EdgeClient) -> models.CollectionStatus:
    return client.get_collection("notes").status


@pytest.mark.usefixtures("elsewhere")
def test_optimizing_indexes_all_and_changes_no_answer(client: EdgeClient) -> None:
    create(client)
    queries = np.random.default_rng(1).normal(size=(5, _DIM))
    before = [nearest(client, query) for query in queries]
    assert status(client) == models.CollectionStatus.GREY
    client.optimize("notes")
    info = client.get_collection("notes")
    assert info.status == models.CollectionStatus.GREEN
    assert info.indexed_vectors_count == 600
    assert info.points_count == 300
    assert [nearest(client, query) for query in queries] == before
    client.upsert("notes", [models.PointStruct(id=999, vector={"dense": [1.0] * _DIM})])
    assert client.count("notes").count == 301


def test_little_data_needs_no_optimization(client: EdgeClient) -> None:
    create(client, count=100, optimizers_config=None)
    assert status(client) == models.CollectionStatus.GREEN
    client.optimize("notes")
    assert client.get_collection("notes").indexed_vectors_count == 100  # the sparse ones


def test_a_threshold_of_zero_means_never(client: EdgeClient) -> None:
    create(client, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0))
    assert status(client) == models.CollectionStatus.GREEN


def test_points_without_dense_vectors_are_not_waited_for(client: EdgeClient) -> None:
    create(client)
    client.optimize("notes")
    sparse = {"bm25": models.SparseVector(indices=[1], values=[1.0])}
    client.upsert("notes", [models.PointStruct(id=1000 + n, vector=sparse) for n in range(500)])
    assert status(client) == models.CollectionStatus.GREEN


@pytest.mark.usefixtures("elsewhere")
def test_changed_quantization_takes_effect_with_the_next_optimization(client: EdgeClient) -> None:
    create(client)
    client.optimize("notes")
    binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig())
    client.update_collection("notes", quantization_config=binary)
    assert status(client) == models.CollectionStatus.GREY
    client.optimize("notes")
    assert status(client) == models.CollectionStatus.GREEN
    query = np.random.default_rng(2).normal(size=_DIM)
    raw = models.QuantizationSearchParams(rescore=False)
    [best] = client.query_points(
        "notes",
        query,
        using="dense",
        limit=1,
        search_params=models.SearchParams(quantization=raw),
    ).points
    cosine = query @ _VECTORS[best.id] / np.linalg.norm(query) / np.linalg.norm(_VECTORS[best.id])
    assert best.score != pytest.approx(cosine, abs=1e-3)  # a score of bits


def _filtered_recall(client: EdgeClient) -> float:
    """The share of the true ten nearest that a filter for a tenth of the points leaves to find."""
    unit = _VECTORS / np.linalg.norm(_VECTORS, axis=1, keepdims=True)
    where = models.Filter(
        must=[models.FieldCondition(key="tenth", match=models.MatchValue(value=3))]
    )
    found = 0
    queries = np.random.default_rng(3).normal(size=(30, _DIM))
    for query in queries:
        allowed = np.arange(3, len(unit), 10)
        truth = set(allowed[np.argsort(-unit[allowed] @ query)[:10]].tolist())
        found += len(truth & set(nearest(client, query, query_filter=where)))
    return found / (10 * len(queries))


# Without a low threshold a collection this small would be searched without its graph.
_SPARSE_GRAPH = models.HnswConfigDiff(m=4, full_scan_threshold=10)


def test_a_payload_index_that_comes_late_is_known_to_the_graphs(client: EdgeClient) -> None:
    """The engine alone leaves graphs as they are, and filtered searches miss points silently."""
    create(client, count=3000, hnsw_config=_SPARSE_GRAPH)
    client.optimize("notes")
    client.create_payload_index("notes", "tenth", field_schema="integer")
    assert client.get_collection("notes").payload_schema["tenth"].points == 3000
    assert _filtered_recall(client) > 0.95


def test_without_the_rebuild_a_late_payload_index_would_lose_points(
    client: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps the test above honest: should an engine do better, the rebuild can go."""
    create(client, count=3000, hnsw_config=_SPARSE_GRAPH)
    client.optimize("notes")
    monkeypatch.setattr("ragkit.edge.client.has_built_graphs", lambda _: False)
    client.create_payload_index("notes", "tenth", field_schema="integer")
    assert _filtered_recall(client) < 0.8


def test_a_payload_index_that_is_there_already_rebuilds_nothing(client: EdgeClient) -> None:
    create(client)
    client.create_payload_index("notes", "tenth", field_schema="integer")
    client.optimize("notes")
    before = client._shard("notes").record.rebuilds
    client.create_payload_index("notes", "tenth", field_schema="integer")
    assert client._shard("notes").record.rebuilds == before
    client.create_payload_index("notes", "other", field_schema="keyword")
    assert client._shard("notes").record.rebuilds == before + 1


@pytest.mark.usefixtures("elsewhere")
def test_searches_of_other_threads_wait_for_the_end(client: EdgeClient) -> None:
    create(client)
    found: list[list[Any]] = []
    query = np.ones(_DIM)
    before = nearest(client, query)
    optimizing = threading.Thread(target=client.optimize, args=("notes",))
    optimizing.start()
    while optimizing.is_alive():
        found.append(nearest(client, query))
    optimizing.join()
    found.append(nearest(client, query))
    assert all(answer == before for answer in found)


@pytest.mark.usefixtures("elsewhere")
def test_a_child_that_fails_is_an_error_and_the_data_stay(
    client: EdgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(client)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2\necho 'no memory left' >&2\nexit 3\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(broken))
        with pytest.raises(StoreError, match=r"exit status 3: no memory left.*try again"):
            client.optimize("notes")
        assert client.count("notes").count == 300
        assert status(client) == models.CollectionStatus.GREY
    client.optimize("notes")
    assert status(client) == models.CollectionStatus.GREEN


@pytest.mark.usefixtures("elsewhere")
def test_a_child_that_is_killed_is_an_error_and_the_data_stay(
    client: EdgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(client, count=3000)
    killed = tmp_path / "python"
    killed.write_text(f'#!/bin/sh\n{sys.executable} "$@" &\nsleep 0.15\nkill -9 $!\nkill -9 $$\n')
    killed.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(killed))
        with pytest.raises(StoreError, match="exit status -9"):
            client.optimize("notes")
    assert client.count("notes").count == 3000
    assert len(nearest(client, np.ones(_DIM))) == 10
    client.optimize("notes")
    assert client.get_collection("notes").indexed_vectors_count == 6000


def test_the_lock_stays_with_the_child_when_the_parent_dies(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        create(client)
    code = """
import os, subprocess, sys
from ragkit.edge import EdgeClient, optimize, shards
shards._CHILD_COMPONENTS = 0
waiting = "import sys; print('started', flush=True); sys.stdin.read()"
def run(command, **options):
    options.update(stdin=None, stdout=None, stderr=None)
    options.pop("check"), options.pop("start_new_session")
    subprocess.Popen([sys.executable, "-c", waiting], **options)
    os._exit(0)
optimize.subprocess.run = run
EdgeClient(sys.argv[1]).optimize("notes")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == "started\n"
        parent.wait()
        message = r"a child of process \d+ .*, which has ended"
        with (
            EdgeClient(tmp_path, lock_timeout_s=0) as client,
            pytest.raises(StoreLocked, match=message),
        ):
            client.count("notes")
        parent.stdin.close()
        parent.stdout.read()
    with EdgeClient(tmp_path, lock_timeout_s=5) as client:
        assert client.count("notes").count == 300


def test_leftovers_of_an_optimization_cut_short_are_removed(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        create(client)
    leftover = tmp_path / "collections" / "notes" / "shard" / "temp_segments" / "half"
    leftover.mkdir(parents=True)
    with EdgeClient(tmp_path) as client:
        assert client.count("notes").count == 300
    assert not leftover.exists()


def test_the_child_imports_the_engine_and_nothing_of_ours(tmp_path: Path) -> None:
    from ragkit.edge import optimize

    code = (
        "import runpy, sys; sys.argv = ['optimize', 'nowhere']\n"
        f"try: runpy.run_path({optimize.__file__!r}, run_name='__main__')\n"
        "except Exception as exc: print(exc)\n"
        "print(sorted({'ragkit', 'numpy', 'pydantic', 'qdrant_client'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    missing, imported = done.stdout.splitlines()
    assert "nowhere does not exist" in missing
    assert imported == "[]"


def test_the_module_wants_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m ragkit.edge.optimize" in capsys.readouterr().err


def test_the_module_optimizes_a_closed_shard(tmp_path: Path) -> None:
    with EdgeClient(tmp_path) as client:
        create(client)
    shard = tmp_path / "collections" / "notes" / "shard"
    (tmp_path / "collections" / "notes" / "closed.json").unlink()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "ragkit.edge.optimize", str(shard)]
    subprocess.run(command, check=True, env=environment)
    with EdgeClient(tmp_path) as client:
        assert client.get_collection("notes").indexed_vectors_count == 600
