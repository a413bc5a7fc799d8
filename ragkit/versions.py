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

from ragkit.failures import Failure, kind_of

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


def versions(client: QdrantBase, name: str) -> list[str]:
    """All versions of a name that there are, in the order of their numbers."""
    return sorted((each for each in _collections(client) if base(each) == name), key=number)


def next_version(client: QdrantBase, name: str) -> str:
    """The first version after all that there are."""
    held = versions(client, name)
    return version(name, number(held[-1]) + 1 if held else 1)


def create_once(client: QdrantBase, collection: str, **settings: Any) -> None:
    """Create a collection, unless another process was quicker or an earlier attempt did arrive."""
    try:
        client.create_collection(collection, **settings)
    except Exception as exc:
        if kind_of(exc) is not Failure.CONFLICT:
            raise


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
    return alias_map(client.get_aliases())


def alias_map(held: models.CollectionsAliasesResponse) -> dict[str, str]:
    """The collection that each alias stands for."""
    return {each.alias_name: each.collection_name for each in held.aliases}
