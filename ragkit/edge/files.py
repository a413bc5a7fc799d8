"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ragkit.errors import StoreCorrupt


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


def sync_folder(path: Path) -> None:
    """Make what was created, renamed and removed in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
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


def sizes(folder: Path) -> dict[str, int]:
    """The length in bytes of each file below a folder, by its relative path."""
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


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
