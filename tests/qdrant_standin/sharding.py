"""Shard keys: which collections have custom sharding, and where the points of each key are.

As on a server, the points of one key are apart from those of another: the same id may be under two
keys, and statistics such as IDF are a key's own. So each key has a collection to itself in a second
database, and the collection itself stays empty: it is the pattern that new keys are made after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from qdrant_client import models

from qdrant_standin.refusals import bad_input, bad_request, not_found
from ragkit.edge import EdgeClient

ShardKey: TypeAlias = int | str
Change: TypeAlias = Callable[[EdgeClient, str], None]
"""A change of a collection's settings or indexes: the client and the name to make it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where points are: a collection of an engine, and the shard key that it stands for."""

    client: EdgeClient
    name: str
    key: ShardKey | None = None


@dataclass(slots=True, kw_only=True)
class _Sharded:
    """A collection with custom sharding.

    Attributes:
        history: What made the collection what it is, to be repeated for new keys.
        keys: The places of the keys, in the order in which they were made.
    """

    history: list[Change]
    keys: dict[ShardKey, Place] = field(default_factory=dict)


class ShardKeys:
    """The shard keys of all collections; names here are of collections, not of aliases."""

    def __init__(self, engine: EdgeClient, folder: Path) -> None:
        self._engine = engine
        self._apart = EdgeClient(folder)
        self._numbers = count()
        self._sharded: dict[str, _Sharded] = {}
        self._mutex = threading.RLock()

    def close(self) -> None:
        """Close the database of the keys."""
        self._apart.close()

    def adopt(self, name: str, creation: Change) -> None:
        """Take up a new collection with custom sharding."""
        with self._mutex:
            self._sharded[name] = _Sharded(history=[creation])

    def drop(self, name: str) -> None:
        """Forget a collection that is deleted, and delete the points of its keys."""
        with self._mutex:
            sharded = self._sharded.pop(name, None)
            for place in () if sharded is None else sharded.keys.values():
                place.client.delete_collection(place.name)

    def change(self, name: str, change: Change) -> None:
        """Change a collection, and with it all its keys, those to come as well."""
        with self._mutex:
            change(self._engine, name)
            sharded = self._sharded.get(name)
            if sharded is not None:
                for place in sharded.keys.values():
                    change(place.client, place.name)
                sharded.history.append(change)

    def is_custom(self, name: str) -> bool:
        """Whether a collection has custom sharding."""
        return name in self._sharded

    def keys(self, name: str) -> list[ShardKey]:
        """The shard keys of a collection."""
        sharded = self._sharded.get(name)
        return [] if sharded is None else list(sharded.keys)

    def create(self, name: str, key: ShardKey) -> None:
        """Make a shard key."""
        with self._mutex:
            sharded = self._custom(name)
            if key in sharded.keys:
                raise bad_request(f"Sharding key {shown(key)} already exists for collection {name}")
            place = Place(client=self._apart, name=f"key{next(self._numbers)}", key=key)
            for change in sharded.history:
                change(place.client, place.name)
            sharded.keys[key] = place

    def delete(self, name: str, key: ShardKey) -> None:
        """Delete a shard key and its points."""
        with self._mutex:
            sharded = self._custom(name)
            if key not in sharded.keys:
                raise bad_request(f"Sharding key {shown(key)} does not exist for collection {name}")
            place = sharded.keys.pop(key)
            place.client.delete_collection(place.name)

    def _custom(self, name: str) -> _Sharded:
        self._engine.get_collection(name)  # refuses a name that is not there
        if name not in self._sharded:
            raise bad_request("Shard Key cannot be created with Auto sharding method")
        return self._sharded[name]

    def to_read(self, name: str, selector: Any) -> list[Place]:
        """The places that a read with that shard key selector looks at: at least one."""
        places = {} if (sharded := self._sharded.get(name)) is None else dict(sharded.keys)
        if selector is None:
            return list(places.values()) or [Place(client=self._engine, name=name)]
        if isinstance(selector, models.ShardKeyWithFallback):
            return [_fallen_back(places, selector)]
        keys = selector if isinstance(selector, list) else [selector]
        for key in keys:
            if key not in places:
                raise bad_request(f"Shard key {shown(key)} not found")
        return [places[key] for key in keys] or [Place(client=self._engine, name=name)]

    def to_write(self, name: str, selector: Any) -> list[Place]:
        """The places that a write with that shard key selector goes to.

        Raises:
            Refusal: The collection has custom sharding and no key is given, or the other way round,
                or there is no such key.
        """
        sharded = self._sharded.get(name)
        if sharded is None and selector is None:
            return [Place(client=self._engine, name=name)]
        places = {} if sharded is None else dict(sharded.keys)
        if selector is None:
            raise bad_input("Shard key not specified")
        if isinstance(selector, models.ShardKeyWithFallback):
            return [_fallen_back(places, selector)]
        keys = selector if isinstance(selector, list) else [selector]
        if not keys:
            raise bad_input("Empty shard keys selection")
        for key in keys:
            if key not in places:
                raise bad_input(f"Shard key {shown(key)} not found")
        return [places[key] for key in keys]


def _fallen_back(places: dict[ShardKey, Place], selector: models.ShardKeyWithFallback) -> Place:
    for key in (selector.target, selector.fallback):
        if key in places:
            return places[key]
    raise not_found(
        f"Neither target shard key {shown(selector.target)} nor fallback shard key "
        f"{shown(selector.fallback)} exist"
    )


def shown(key: ShardKey) -> str:
    """A shard key in the server's messages."""
    return f'"{key}"' if isinstance(key, str) else str(key)
