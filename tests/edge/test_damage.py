"""Damaged files and a broken engine are noticed and named, and lose nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge
from notes import create, points, shard

from ragkit.edge import EdgeClient
from ragkit.errors import StoreCorrupt, StoreError


def test_a_panic_is_an_error_and_the_next_use_opens_the_collection_again(root: Path) -> None:
    class PanicException(BaseException):
        """Of the engine's name for it, which cannot be imported."""

    def panic(_: Any) -> None:
        raise PanicException("index out of bounds")

    with EdgeClient(root) as client:
        client.upsert("notes", points(30), wait=False)
        with pytest.raises(StoreError, match=r"broke off \(index out of bounds"):
            client._shard("notes").read(panic)
        assert client.count("notes").count == 31


def poison(root: Path) -> None:
    """Leave in the log what makes the engine panic each time it is replayed."""
    engine = qdrant_edge.EdgeShard.load(str(shard(root)))
    ragged = qdrant_edge.Point(500, {"bm25": qdrant_edge.SparseVector([1, 2], [1.0])})
    with pytest.raises(BaseException, match="index out of bounds"):
        engine.update(qdrant_edge.UpdateOperation.upsert_points([ragged]))
    engine.close()
    (root / "collections" / "notes" / "closed.json").unlink()


def test_a_panic_at_opening_is_reported_as_damage_and_can_be_dropped(root: Path) -> None:
    poison(root)
    with EdgeClient(root) as client:
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match=r"damaged \(index out of bounds.*ragkit drop"):
                client.count("notes")
        assert client.delete_collection("notes")
        create(client)
        assert client.count("notes").count == 0


def engine_files(root: Path) -> list[Path]:
    files = (shard(root) / "segments").rglob("*")
    return sorted(file for file in files if file.is_file() and file.stat().st_size > 0)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_file_is_noticed_before_the_engine_sees_it(
    root: Path, tmp_path: Path, damage: str
) -> None:
    for number, file in enumerate(engine_files(root)):
        copy = tmp_path / str(number)
        shutil.copytree(root, copy, copy_function=_copy_sparse)
        victim = copy / file.relative_to(root)
        _damage(victim, damage)
        with EdgeClient(copy) as client:
            for _ in range(2):
                with pytest.raises(StoreCorrupt, match=rf"{victim.name} (has|is gone)"):
                    client.count("notes")


def _damage(file: Path, damage: str) -> None:
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        with file.open("r+b") as opened:
            first = opened.read(1)
            opened.seek(0)
            opened.write(bytes([first[0] ^ 1]))


def test_an_undamaged_copy_opens_whether_or_not_it_kept_its_holes(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "sparse", copy_function=_copy_sparse)
    shutil.copytree(root, tmp_path / "dense", copy_function=_copy_every_byte)
    for copy in ("sparse", "dense"):
        with EdgeClient(tmp_path / copy) as client:
            assert client.count("notes").count == 30


def _copy_every_byte(source: str, target: str) -> None:
    Path(target).write_bytes(Path(source).read_bytes())


def _copy_sparse(source: str, target: str) -> None:
    """Copy a file without filling its holes: most of the engine's files are nothing but holes."""
    with Path(source).open("rb") as read, Path(target).open("wb") as write:
        size = os.fstat(read.fileno()).st_size
        os.truncate(write.fileno(), size)
        start = 0
        while start < size:
            try:
                start = os.lseek(read.fileno(), start, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            os.pwrite(write.fileno(), os.pread(read.fileno(), end - start, start), start)
            start = end


def test_points_that_vanish_although_no_file_seems_changed_are_noticed(root: Path) -> None:
    """Should the files be another collection's, the number of points still tells."""
    path = root / "collections" / "notes" / "closed.json"
    note = json.loads(path.read_text())
    path.write_text(json.dumps({**note, "points": 31}))
    with EdgeClient(root) as client:
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="30 points are left of 31"):
                client.count("notes")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"points": 30, "files": 3}', '{"files": {}}'])
def test_a_damaged_note_of_the_files_is_reported(root: Path, text: str) -> None:
    (root / "collections" / "notes" / "closed.json").write_text(text)
    with EdgeClient(root) as client, pytest.raises(StoreCorrupt, match=r"closed\.json"):
        client.count("notes")


def test_a_damaged_settings_file_is_reported_and_the_collection_can_be_dropped(root: Path) -> None:
    path = root / "collections" / "notes" / "collection.json"
    for text in ("", "[]", '{"format": 1}', '{"format": 99}'):
        path.write_text(text)
        with EdgeClient(root) as client:
            with pytest.raises(StoreCorrupt, match=r"collection\.json"):
                client.count("notes")
            assert [found.name for found in client.get_collections().collections] == ["notes"]
    with EdgeClient(root) as client:
        assert client.delete_collection("notes")


def test_files_that_may_not_be_read_are_no_damage(root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything: run the tests as another user")
    shard(root).chmod(0)
    with EdgeClient(root) as client, pytest.raises(StoreError) as caught:
        client.count("notes")
    assert not isinstance(caught.value, StoreCorrupt)
