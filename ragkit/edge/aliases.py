"""Changes of aliases, as the server applies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qdrant_client import models

from ragkit.edge.catalog import check_name, missing_collection
from ragkit.edge.responses import conflict, not_found, unsupported


def apply(operation: Any, names: dict[str, str], *, is_collection: Callable[[str], bool]) -> None:
    """Apply one operation to the collections by alias.

    Raises:
        UnexpectedResponse: The collection or alias is not there, or the name is a collection's.
    """
    match operation:
        case models.CreateAliasOperation(create_alias=create):
            if not is_collection(create.collection_name):
                raise missing_collection(create.collection_name)
            _check_free(create.alias_name, is_collection)
            names[create.alias_name] = create.collection_name
        case models.DeleteAliasOperation(delete_alias=delete):
            names.pop(delete.alias_name, None)
        case models.RenameAliasOperation(rename_alias=rename):
            _check_free(rename.new_alias_name, is_collection)
            if rename.old_alias_name not in names:
                raise not_found(f"Not found: Alias {rename.old_alias_name} does not exists!")
            names[rename.new_alias_name] = names.pop(rename.old_alias_name)
        case _:
            raise unsupported(f"the alias operation {type(operation).__name__}")


def response(
    names: Mapping[str, str], *, of: str | None = None
) -> models.CollectionsAliasesResponse:
    """The aliases, all or those of one collection, as the server lists them."""
    return models.CollectionsAliasesResponse(
        aliases=[
            models.AliasDescription(alias_name=alias, collection_name=collection)
            for alias, collection in sorted(names.items())
            if of is None or of == collection
        ]
    )


def taken(name: str) -> Exception:
    """The server's answer where a collection of that name is there already."""
    return conflict(f"Wrong input: Collection `{name}` already exists!")


def _check_free(alias: str, is_collection: Callable[[str], bool]) -> None:
    check_name(alias)
    if is_collection(alias):
        raise taken(alias)
