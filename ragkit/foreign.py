"""Collections that ragkit did not make: what one has to be told to search them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from ragkit.embeddings import Embedder
from ragkit.errors import CollectionMismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSchema:
    """Where the points of somebody else's collection keep what a search needs.

    LangChain's Qdrant store, for one, is `ForeignSchema(vector="", text="page_content",
    source="metadata.source")`.

    Attributes:
        vector: The name of the dense vector; "" for the one without a name.
        text: The payload key of the passage's text; a dot leads into an object.
        source: The key of the document's name; None where there is none.
        title: The key of its title; None where there is none.
    """

    vector: str
    text: str
    source: str | None = None
    title: str | None = None

    def check(
        self, config: models.CollectionConfig, embedder: Embedder | None, *, name: str
    ) -> None:
        """Refuse what does not go with collection `name`: the vector's name, or the embedder.

        Of an embedder only the dimension can be seen: whether it is the same model, nobody has
        written down.

        Raises:
            CollectionMismatch: There is no such vector, or it has another dimension.
        """
        vectors = config.params.vectors
        named = vectors if isinstance(vectors, Mapping) else {"": vectors}
        held = named.get(self.vector)
        if held is None:
            listed = ", ".join(repr(each) for each, params in named.items() if params) or "none"
            raise CollectionMismatch(
                f"collection {name!r} has no dense vector {self.vector!r}; it has {listed}"
            )
        if embedder is not None and held.size != embedder.dim:
            raise CollectionMismatch(
                f"collection {name!r} holds {held.size}-d vectors, {embedder.fingerprint} makes "
                f"{embedder.dim}-d ones: use the embedder that it was filled with"
            )

    def read(self, payload: Mapping[str, Any]) -> tuple[str, str, str]:
        """The text, source and title of a point; "" for what it does not have."""
        text, source, title = (_value(payload, key) for key in (self.text, self.source, self.title))
        return text, source, title


def _value(payload: Mapping[str, Any], key: str | None) -> str:
    """The value of a key, which leads into objects by its dots."""
    if key is None:
        return ""
    if key in payload:
        return _text(payload[key])
    first, _, rest = key.partition(".")
    inner = payload.get(first)
    return _value(inner, rest) if rest and isinstance(inner, Mapping) else ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)
