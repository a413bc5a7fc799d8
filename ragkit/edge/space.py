"""Free disk space, checked before the engine needs it.

The engine writes through memory maps. When the disk is full the kernel ends the process with
SIGBUS, and again at the next opening, which replays the log; nothing can catch that. So a write
begins only where its data fit twice over and a reserve stays free.

Measured (768 dimensions, 1 KB of payload): a point takes 8.3 KB of disk, log included, which is
2.0 times its raw data. On tmpfs opening also allocates the whole of each 32 MB chunk of vectors,
because reading a hole there fills it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ragkit.edge.files import allocated_bytes
from ragkit.errors import StoreFull

_MB = 1 << 20
_CHUNK_BYTES = 32 * _MB
_GROWTH = 3  # bytes of disk for a byte of data: the log's copy, the storage's, indexes
_OPTIMIZE_GROWTH = 3  # new segments stand beside the old until they are whole
_PLENTY_BYTES = 4096 * _MB  # with this much free no single write is worth weighing


def reserve_bytes(dense_vectors: int) -> int:
    """What must stay free after a write, so that the next opening succeeds."""
    return _CHUNK_BYTES * (dense_vectors + 1)


def require_for_write(folder: Path, points: Iterable[Any], *, reserve: int) -> None:
    """Check that the disk takes a write of these points (anything with vectors and payload).

    Raises:
        StoreFull: It does not.
    """
    free = shutil.disk_usage(folder).free
    if free < _PLENTY_BYTES:
        _require(folder, free, reserve + _GROWTH * sum(map(_point_bytes, points)), "write")


def require_for_open(folder: Path) -> None:
    """Check that the disk takes what opening a shard may allocate.

    Raises:
        StoreFull: It does not.
    """
    holes = sum(_hole_bytes(path) for path in folder.rglob("*.mmap"))
    _require(folder, shutil.disk_usage(folder).free, holes + 4 * _MB, "open the collection")


def require_for_optimize(folder: Path, *, reserve: int) -> None:
    """Check that the disk takes an optimization, which copies the data.

    Raises:
        StoreFull: It does not.
    """
    needed = reserve + _OPTIMIZE_GROWTH * allocated_bytes(folder)
    _require(folder, shutil.disk_usage(folder).free, needed, "optimize the collection")


def _require(folder: Path, free: int, needed: int, purpose: str) -> None:
    if free < needed:
        raise StoreFull(
            f"too little disk space to {purpose} safely: {free / _MB:.0f} MB are free at {folder}, "
            f"{needed / _MB:.0f} MB are needed; free some, or move the database to a larger disk"
        )


def _hole_bytes(path: Path) -> int:
    status = path.stat()
    return max(0, status.st_size - status.st_blocks * 512)


def _point_bytes(point: Any) -> int:
    """About how many bytes of data a value holds: numbers count 8, text its UTF-8 length."""
    if isinstance(point, str):
        return len(point.encode(errors="replace")) + 8
    if isinstance(point, Mapping):
        return sum(_point_bytes(key) + _point_bytes(value) for key, value in point.items())
    if isinstance(point, list | tuple):
        if point and isinstance(point[0], int | float):
            return 8 * len(point)
        return sum(map(_point_bytes, point))
    if hasattr(point, "nbytes"):
        return int(point.nbytes)
    if hasattr(point, "__dict__"):
        return sum(map(_point_bytes, vars(point).values()))
    return 8
