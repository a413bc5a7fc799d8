"""Names that people use, and the versions of a collection behind them.

A Qdrant collection cannot be renamed, and an alias cannot have a collection's name. So a ragkit
collection "notes" is the alias of "notes.v1", and a rebuild fills "notes.v2" and moves the alias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.delivery import WRITING, deliver
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound, StoreDenied
from ragkit.failures import Failure, kind_of
from ragkit.manifest import Manifest

FRESH_S = 30.0  # after which a search looks whether the name stands for another version
_LONGEST = 240
_FORBIDDEN_CHARACTERS = '< > : " / \\ | ? *'
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_VERSION = re.compile(r"(?P<name>.+)\.v(?P<number>[1-9][0-9]*)", re.DOTALL)


def names(client: QdrantBase) -> list[str]:
    """What a person sees: the aliases, and the collections that stand under their own name."""
    return shown(_aliases(client), _collections(client))


def shown(aliases: Mapping[str, str], collections: Iterable[str]) -> list[str]:
    """What of these aliases and collections a person sees."""
    behind = set(aliases.values())
    own = {each for each in collections if each not in behind and base(each) not in aliases}
    return sorted(own.union(aliases))


def missing(name: str, known: Sequence[str]) -> str:
    """How to say that a collection is not there."""
    there = "there are " + ", ".join(map(repr, known)) if known else "there is none at all"
    return f"there is no collection {name!r} ({there}): index a folder first"


def physical(client: QdrantBase, name: str) -> str:
    """The collection that a name stands for: itself unless it is an alias."""
    return _aliases(client).get(name, name)


def described(client: QdrantBase, name: str) -> tuple[str, models.CollectionInfo]:
    """The collection that a name stands for now, and Qdrant's account of it.

    Raises:
        CollectionNotFound: There is none.
    """
    what = f"reading collection {name!r}"
    try:
        version = deliver(lambda: physical(client, name), what=what)
    except StoreDenied:  # a key for this collection alone may not list aliases
        version = name
    try:
        return version, deliver(lambda: client.get_collection(version), what=what)
    except Exception as exc:
        if kind_of(exc) is not Failure.NOT_FOUND:
            raise
        known = deliver(lambda: names(client), what=what)
        raise CollectionNotFound(missing(name, known)) from exc


def versions(client: QdrantBase, name: str) -> list[str]:
    """All versions of a name that there are, in the order of their numbers."""
    return sorted((each for each in _collections(client) if base(each) == name), key=number)


def next_version(client: QdrantBase, name: str) -> str:
    """The first version after all that there are, whose name is not taken by an alias."""
    taken = {*versions(client, name), *_aliases(client)}
    return version(name, 1 + max((number(each) for each in taken if base(each) == name), default=0))


def check_name(name: str) -> None:
    """Refuse what no collection can be called, or no version of it.

    Raises:
        ValueError: It is too long, or has a character in it that Qdrant does not take.
    """
    # Qdrant takes 255 (lib/common/common/src/validation.rs), in bytes where it names a folder.
    room = 255 if base(name) else _LONGEST
    if not name or len(name.encode("utf-8", "replace")) > room or _FORBIDDEN.search(name):
        raise ValueError(
            f"expected a collection name of 1 to {_LONGEST} bytes without control characters or "
            f"any of {_FORBIDDEN_CHARACTERS}, got {name[:300]!r}"
        )


def check_unmoved(client: QdrantBase, name: str, collection: str) -> None:
    """See that a name still stands for the collection that was written to under it.

    Raises:
        CollectionError: It does not.
    """
    now = physical(client, name)
    if now != collection:
        raise CollectionError(
            f"{name!r} stood for {collection!r} when this run began and stands for {now!r} now: it "
            "was rebuilt meanwhile, and what this run has written is in the old version; run again"
        )


def create_version(
    client: QdrantBase, name: str, manifest: Manifest, settings: Mapping[str, Any]
) -> str:
    """Create the next version of a name; returns the collection.

    An empty one that was to be made just so, and was cut off before the name was given to it, is
    taken.

    Args:
        client: The store.
        name: What it may stand for.
        manifest: Of the new collection.
        settings: Further arguments for `create_collection`.
    """
    held = versions(client, name)
    if held and held[-1] != physical(client, name):
        info = _info(client, held[-1])
        if not info.points_count and manifest.alike(info.config.metadata):
            return held[-1]
    made = next_version(client, name)

    def create() -> None:
        try:
            client.create_collection(made, metadata=manifest.to_metadata(), **settings)
        except Exception as exc:
            # Another process was quicker, or an earlier attempt did arrive.
            if kind_of(exc) is not Failure.CONFLICT:
                raise

    deliver(create, what=f"creating collection {made!r}", retry=WRITING)
    return made


def use_version(client: QdrantBase, name: str, made: str) -> None:
    """Let a name stand for this version, at once and for everybody."""
    alias = models.CreateAlias(collection_name=made, alias_name=name)
    operation = models.CreateAliasOperation(create_alias=alias)
    deliver(
        lambda: client.update_collection_aliases([operation]),
        what=f"naming collection {name!r}",
        retry=WRITING,
    )


def drop_versions(client: QdrantBase, name: str) -> None:
    """Delete what a name stands for, and all versions of it that ragkit has made.

    Raises:
        CollectionError: The name is an alias that somebody else made.
    """
    aliases = _aliases(client)
    current = aliases.get(name, name)
    if current != name and base(current) != name:
        raise CollectionError(f"{name!r} is an alias of {current!r}: drop that one")
    named_otherwise = {held for alias, held in aliases.items() if alias != name}
    for each in versions(client, name):
        if each != current and each not in named_otherwise and _is_ours(client, each):
            drop_version(client, each)
    drop_version(client, current)


def drop_version(client: QdrantBase, collection: str) -> None:
    """Delete a collection; its aliases go with it."""
    deliver(
        lambda: client.delete_collection(collection),
        what=f"deleting collection {collection!r}",
        retry=WRITING,
    )


def _is_ours(client: QdrantBase, collection: str) -> bool:
    try:
        Manifest.from_metadata(_info(client, collection).config.metadata, name=collection)
    except CollectionMismatch:
        return False
    return True


def _info(client: QdrantBase, collection: str) -> models.CollectionInfo:
    return deliver(
        lambda: client.get_collection(collection), what=f"reading collection {collection!r}"
    )


def version(name: str, number: int) -> str:
    """The collection that is a version of a name."""
    return f"{name}.v{number}"


def base(collection: str) -> str | None:
    """The name that a collection is a version of, by its own name; None if it is not one."""
    found = _VERSION.fullmatch(collection)
    return found["name"] if found else None


def number(collection: str) -> int:
    """The version's number; 0 for a collection that is none."""
    found = _VERSION.fullmatch(collection)
    return int(found["number"]) if found else 0


def _collections(client: QdrantBase) -> set[str]:
    held = deliver(client.get_collections, what="listing collections").collections
    return {each.name for each in held}


def _aliases(client: QdrantBase) -> dict[str, str]:
    return alias_map(deliver(client.get_aliases, what="listing aliases"))


def alias_map(held: models.CollectionsAliasesResponse) -> dict[str, str]:
    """The collection that each alias stands for."""
    return {each.alias_name: each.collection_name for each in held.aliases}
