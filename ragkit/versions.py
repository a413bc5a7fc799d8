"""Names that people use, and the versions of a collection behind them.

A Qdrant collection cannot be renamed, and an alias cannot have a collection's name. So a ragkit
collection "notes" is the alias of "notes.v1", and a rebuild fills "notes.v2" and moves the alias.
"""

from __future__ import annotations

import re

from qdrant_client.client_base import QdrantBase

_VERSION = re.compile(r"(?P<name>.+)\.v(?P<number>[1-9][0-9]*)", re.DOTALL)


def names(client: QdrantBase) -> list[str]:
    """What a person sees: the aliases, and the collections that stand under their own name."""
    aliases = _aliases(client)
    shown = set(aliases)
    for each in _collections(client):
        if each not in aliases.values() and base(each) not in aliases:
            shown.add(each)
    return sorted(shown)


def physical(client: QdrantBase, name: str) -> str:
    """The collection that a name stands for: itself unless it is an alias."""
    return _aliases(client).get(name, name)


def versions(client: QdrantBase, name: str) -> list[str]:
    """All versions of a name that there are, in the order of their numbers."""
    return sorted((each for each in _collections(client) if base(each) == name), key=number)


def next_version(client: QdrantBase, name: str) -> str:
    """The first version after all that there are."""
    held = versions(client, name)
    return version(name, number(held[-1]) + 1 if held else 1)


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
    return {each.name for each in client.get_collections().collections}


def _aliases(client: QdrantBase) -> dict[str, str]:
    held = client.get_aliases().aliases
    return {each.alias_name: each.collection_name for each in held}
