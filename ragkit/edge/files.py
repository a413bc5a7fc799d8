"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ragkit.errors import StoreCorrupt

Fingerprint: TypeAlias = tuple[int, int | None]

_MAX_SUMMED_BYTES = 1 << 20
_BLOCK_BYTES = 4096


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once and for good: a crash leaves the old one or the new one."""
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreCorrupt: The file holds something else.
        FileNotFoundError: There is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise StoreCorrupt(f"{path} is not valid JSON ({exc}): restore it from a copy") from exc
    if not isinstance(value, dict):
        raise StoreCorrupt(f"{path} does not hold a JSON object: restore it from a copy")
    return value


def sync_tree(folder: Path) -> None:
    """Make all files below a folder survive a power cut, with their names."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def sync_folder(path: Path) -> None:
    """Make what was created, renamed and removed in a folder survive a power cut."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder for good."""
    source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with all in it; one that is not there is no error."""
    if path.exists():
        shutil.rmtree(path)


def fingerprints(folder: Path) -> dict[str, Fingerprint]:
    """What each file below a folder is like, by its relative path.

    That is its length and a sum of its contents, or None instead of the sum for a large file:
    sums of all would mean to read all data each time that a collection is closed.
    """
    return {
        file.relative_to(folder).as_posix(): (
            file.stat().st_size,
            None if file.stat().st_blocks * 512 > _MAX_SUMMED_BYTES else _sum(file),
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def difference(folder: Path, expected: Mapping[str, Fingerprint]) -> str | None:
    """The first file below a folder that is not as expected, and how; None if all are."""
    for name, (size, total) in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is gone"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
        if total is not None and _sum(file) != total:
            return f"{name} has other contents"
    return None


def _sum(file: Path) -> int:
    """A sum of a file's contents that is the same with holes and with zeros in their place."""
    total = 0
    with file.open("rb") as opened:
        for start in _written_blocks(opened.fileno(), file.stat().st_size):
            block = os.pread(opened.fileno(), _BLOCK_BYTES, start)
            if block.strip(b"\0"):
                total = zlib.crc32(block, zlib.crc32(start.to_bytes(8, "big"), total))
    return total


def _written_blocks(descriptor: int, size: int) -> Iterator[int]:
    """Where the blocks of a sparse file begin that are no holes."""
    following = 0
    while following < size:
        try:
            start = os.lseek(descriptor, following, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return  # nothing but a hole is left
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        first = max(following, start // _BLOCK_BYTES * _BLOCK_BYTES)
        yield from range(first, end, _BLOCK_BYTES)
        following = -(-end // _BLOCK_BYTES) * _BLOCK_BYTES


def allocated_bytes(folder: Path) -> int:
    """The disk space that a folder takes: the engine's files are sparse, their length misleads."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_blocks * 512
            except FileNotFoundError:
                continue  # the engine removed it while we counted
    return total
