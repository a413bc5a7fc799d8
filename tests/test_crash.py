"""Indexing is killed at random moments: nothing reported as committed is lost, a rerun converges.

The killed runs are processes forked from a clean server process, since the engine of a process
that has used it does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder
from ragkit.indexer import Indexer
from ragkit.ledger import read_ledger
from ragkit.schema import DENSE

ROUNDS_FROM_NOTHING = 8
ROUNDS_OF_CHANGES = 12
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ragkit.indexer", "ragkit.edge.client", "ragkit.embeddings"])


def index(database: Path, folder: Path, reports: Connection) -> None:
    """What the killed process runs: small batches, and a word after each commit."""
    import ragkit.upserts
    import ragkit.writer

    ragkit.writer.MAX_CHUNKS = ragkit.upserts.MAX_CHUNKS = 16
    with EdgeClient(database) as client:
        docs = Collection(client, "docs", embedder=HashEmbedder(32))
        reports.send(0)
        Indexer(docs).sync(
            folder, corpus="folder", progress=lambda progress: reports.send(progress.committed)
        )
    reports.send("done")


def run_and_kill(database: Path, folder: Path, delay_s: float) -> tuple[int, bool]:
    """Start indexing and kill it; returns how many commits it had reported and if it was done."""
    reader, writer = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=index, args=(database, folder, writer))
    process.start()
    writer.close()
    committed, done = 0, False
    try:
        reader.recv()  # it has opened the database and begins
        deadline = time.monotonic() + delay_s
        while not done and reader.poll(max(0.0, deadline - time.monotonic())):
            message = reader.recv()
            done = message == "done"
            committed = committed if done else message
    finally:
        process.kill()
        process.join()
    while reader.poll():  # what it said before it died counts, too
        try:
            message = reader.recv()
        except EOFError:
            break
        committed = committed if message == "done" else message
    reader.close()
    return committed, done


def complete(database: Path, folder: Path) -> dict[str, str]:
    """Committed documents; empty if the collection does not exist yet."""
    with EdgeClient(database) as client:
        docs = Collection(client, "docs", embedder=HashEmbedder(32))
        if not docs.exists():
            return {}
        docs.open_for_writing()
        return dict(read_ledger(docs, "folder").committed)


def rerun(database: Path, folder: Path) -> dict[str, Any]:
    """Index to the end and return all that the collection then holds."""
    with EdgeClient(database) as client:
        docs = Collection(client, "docs", embedder=HashEmbedder(32))
        Indexer(docs).sync(folder, corpus="folder")
        records, _ = client.scroll("docs", limit=100_000, with_vectors=True)
    points = {}
    for record in records:
        assert isinstance(record.vector, dict)
        points[str(record.id)] = (
            record.payload,
            np.round(np.asarray(record.vector[DENSE]), 5).tolist(),
        )
    return points


def text(rng: random.Random) -> str:
    """Some paragraphs; now and then so many that the document spans several batches."""
    paragraphs = rng.choice([1, 2, 3, 5, 60])
    return "\n\n".join(
        f"Thing {rng.randrange(1000)} " + f"is about word{rng.randrange(1000)} and more. " * 20
        for _ in range(paragraphs)
    )


def change(folder: Path, rng: random.Random) -> None:
    """Rewrite, add and remove some files; half of the rewritten ones go back later."""
    files = sorted(folder.iterdir())
    for path in rng.sample(files, len(files) // 3):
        path.write_text(text(rng))
    for path in rng.sample(files, 3):
        path.unlink()
    for n in rng.sample(range(1000), 4):
        (folder / f"{n}.txt").write_text(text(rng))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = random.Random(7)
    root = tmp_path / "folder"
    root.mkdir()
    for n in range(40):
        (root / f"{n}.txt").write_text(text(rng))
    return root


def test_a_first_load_killed_anywhere_is_completed_by_a_rerun(tmp_path: Path, folder: Path) -> None:
    started = time.monotonic()
    expected = rerun(tmp_path / "in one go", folder)
    longest_s = time.monotonic() - started
    rng = random.Random(11)
    interrupted = 0
    for n in range(ROUNDS_FROM_NOTHING):
        database = tmp_path / f"database {n}"
        committed, done = run_and_kill(database, folder, rng.uniform(0.0, longest_s))
        interrupted += not done
        assert len(complete(database, folder)) >= committed
        assert rerun(database, folder) == expected
    assert interrupted >= ROUNDS_FROM_NOTHING // 2


def test_updates_killed_anywhere_lose_nothing_and_are_completed_by_a_rerun(
    tmp_path: Path, folder: Path
) -> None:
    database = tmp_path / "database"
    rerun(database, folder)
    rng = random.Random(13)
    interrupted = 0
    for n in range(ROUNDS_OF_CHANGES):
        before = complete(database, folder)
        earlier = {path.name: path.read_text() for path in folder.iterdir()}
        change(folder, rng)
        committed, done = run_and_kill(database, folder, rng.uniform(0.0, 0.8))
        interrupted += not done
        after = complete(database, folder)
        new = [source for source in after if after[source] != before.get(source)]
        assert len(new) >= committed
        if rng.random() < 0.5:  # back to what an interrupted run had begun to replace
            for name, content in earlier.items():
                (folder / name).write_text(content)
        if n % 3 == 2:
            expected = rerun(tmp_path / f"in one go {n}", folder)
            assert rerun(database, folder) == expected
    assert interrupted >= ROUNDS_OF_CHANGES // 3
