"""What the engine does not keep: names, settings and aliases of collections, as files.

    <root>/collections/<name>/collection.json   settings, metadata, time of creation
    <root>/collections/<name>/shard/            the engine's files
    <root>/collections/<name>/closed.json       what they were like after the last clean close
    <root>/aliases.json
    <root>/locks/<name>                         see `ragkit.edge.locks`
    <root>/scratch/                             collections half made or half deleted

A collection comes and goes by one rename from or to `scratch`.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from qdrant_client import models

from ragkit.edge.files import move_folder, read_json, remove_folder, write_json
from ragkit.edge.locks import HeldLock, acquire, try_acquire
from ragkit.edge.responses import bad_request, not_found
from ragkit.errors import StoreCorrupt

_FORMAT = 1
_MAX_NAME_CHARS = 255
_MAX_FOLDER_CHARS = 150
# What the server forbids in a name.
_FORBIDDEN = frozenset('<>:"/\\|?*\0\x1f')
# Capitals are escaped as well: some file systems do not tell "Docs" from "docs".
_PLAIN = frozenset(string.ascii_lowercase + string.digits + "-_.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRecord:
    """A collection's settings, as they were asked for.

    Attributes:
        created_at: ISO 8601, UTC.
        rebuilds: How often its graphs had to be built anew; see `ragkit.edge.shards`.
        stale: Whether settings were changed that take effect at the next optimization.
    """

    name: str
    settings: models.CreateCollection
    created_at: str
    rebuilds: int = 0
    stale: bool = False

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "created_at": self.created_at,
            "rebuilds": self.rebuilds,
            "stale": self.stale,
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CollectionRecord:
        """The inverse of `to_json`."""
        if value["format"] != _FORMAT:
            raise ValueError(f"its format is {value['format']}, expected {_FORMAT}")
        return cls(
            name=value["name"],
            settings=models.CreateCollection.model_validate(value["settings"]),
            created_at=value["created_at"],
            rebuilds=value["rebuilds"],
            stale=value["stale"],
        )


class Catalog:
    """The folder of collections; nothing is created before the first collection is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._collections = root / "collections"
        self._scratch = root / "scratch"
        self._locks = root / "locks"
        self._aliases_path = root / "aliases.json"
        self._aliases: dict[str, str] = {}
        self._aliases_version: tuple[int, int] | None = None

    def names(self) -> list[str]:
        """All collections, sorted."""
        found = self._collections.iterdir() if self._collections.is_dir() else ()
        return sorted(filter(None, (_name_of(folder) for folder in found if folder.is_dir())))

    def has(self, name: str) -> bool:
        """Whether there is a collection (not an alias) of that name."""
        return self.folder(name).is_dir()

    def folder(self, name: str) -> Path:
        """Where the collection is or would be."""
        return self._collections / folder_name(name)

    def record(self, name: str) -> CollectionRecord:
        """What is known of a collection.

        Raises:
            UnexpectedResponse: There is no such collection (404).
            StoreCorrupt: Its file cannot be read.
        """
        if not self.has(name):
            raise missing_collection(name)
        return _read_record(self.folder(name))

    def write_record(self, record: CollectionRecord) -> None:
        """Replace what is known of a collection."""
        write_json(self.folder(record.name) / "collection.json", record.to_json())

    def lock(self, name: str, *, timeout_s: float) -> HeldLock:
        """Keep other processes and clients out of a collection that is or will be there.

        Raises:
            StoreLocked: Another one has it.
        """
        held = acquire(
            self._locks / folder_name(name), what=f"collection {name!r}", timeout_s=timeout_s
        )
        self._sweep(folder_name(name))
        return held

    @contextmanager
    def creating(self, record: CollectionRecord) -> Iterator[Path]:
        """A scratch folder that becomes the collection if the block succeeds.

        The collection's lock must be held.
        """
        folder = self._scratch / folder_name(record.name)
        folder.mkdir(parents=True)
        try:
            yield folder
            write_json(folder / "collection.json", record.to_json())
            self._collections.mkdir(exist_ok=True)
            move_folder(folder, self.folder(record.name))
        finally:
            remove_folder(folder)

    def withdraw(self, name: str, *, timeout_s: float) -> None:
        """Delete a collection and its aliases; its lock must be held."""
        with self.editing_aliases(timeout_s=timeout_s) as aliases:
            for alias in [alias for alias, target in aliases.items() if target == name]:
                del aliases[alias]
        self._scratch.mkdir(exist_ok=True)
        move_folder(self.folder(name), self._scratch / folder_name(name))
        self._sweep(folder_name(name))

    def sweep(self) -> None:
        """Remove what interrupted creations and deletions left behind."""
        for leftover in list(self._scratch.iterdir()) if self._scratch.is_dir() else ():
            held = try_acquire(self._locks / leftover.name)
            if held is not None:  # else another process is at work there
                self._sweep(leftover.name)
                held.release()

    def _sweep(self, folder: str) -> None:
        remove_folder(self._scratch / folder)

    def resolve(self, name: str) -> str:
        """The collection that a name or an alias stands for."""
        return self.aliases().get(name, name)

    def aliases(self) -> dict[str, str]:
        """Collections by alias, as they are now: another process may change them."""
        try:
            status = self._aliases_path.stat()
        except FileNotFoundError:
            return {}
        version = (status.st_ino, status.st_mtime_ns)
        if version != self._aliases_version:
            self._aliases = dict(read_json(self._aliases_path))
            self._aliases_version = version
        return self._aliases

    @contextmanager
    def editing_aliases(self, *, timeout_s: float) -> Iterator[dict[str, str]]:
        """All aliases, to be changed at once: nothing is written when the block raises."""
        # No collection's folder has a name that begins with a dot.
        held = acquire(self._locks / ".aliases", what="the list of aliases", timeout_s=timeout_s)
        try:
            before = self.aliases()
            aliases = dict(before)
            yield aliases
            if aliases != before:
                write_json(self._aliases_path, dict(sorted(aliases.items())))
        finally:
            held.release()


def missing_collection(name: str) -> Exception:
    """The server's answer for a collection that is not there."""
    return not_found(f"Not found: Collection `{name}` doesn't exist!")


def check_name(name: str) -> None:
    """Refuse a collection's name as the server does.

    Raises:
        UnexpectedResponse: It is empty, too long or has a forbidden character.
    """
    if not 1 <= len(name) <= _MAX_NAME_CHARS:
        raise bad_request(
            f"Validation error: a collection name has 1 to {_MAX_NAME_CHARS} characters, "
            f"got {len(name)}"
        )
    if name in (".", ".."):
        raise bad_request(f'Validation error: collection name cannot be "{name}"')
    forbidden = next((char for char in name if char in _FORBIDDEN), None)
    if forbidden is not None:
        raise bad_request(
            f"Validation error: collection name cannot contain {json.dumps(forbidden)} char"
        )
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise bad_request("Validation error: collection name is not valid Unicode") from exc


def folder_name(name: str) -> str:
    """A name fit for any file system, different for each collection."""
    escaped = "".join(_escaped(name))
    if len(escaped) <= _MAX_FOLDER_CHARS:
        return escaped
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{escaped[:80]}~{digest}"  # "~" is never plain, so no short name ends like this


def _name_of(folder: Path) -> str | None:
    """The name of the collection in a folder, None if it was deleted in this moment."""
    if "~" not in folder.name:
        return unquote(folder.name)  # known even if its files are damaged
    try:
        return _read_record(folder).name
    except StoreCorrupt:
        if folder.exists():
            raise
        return None


def _escaped(name: str) -> Iterator[str]:
    for position, char in enumerate(name):
        if char in _PLAIN and not (char == "." and position == 0):
            yield char
        else:
            yield from (f"%{byte:02x}" for byte in char.encode(errors="surrogatepass"))


def _read_record(folder: Path) -> CollectionRecord:
    path = folder / "collection.json"
    try:
        return CollectionRecord.from_json(read_json(path))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreCorrupt(
            f"{path} cannot be read ({exc}): restore it from a copy, or delete the collection "
            "and index again"
        ) from exc
