"""What a collection was made with, kept in the collection's own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ragkit.errors import CollectionMismatch

SCHEMA_VERSION = 1
_KEY = "ragkit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """How the points of a collection came to be.

    Attributes:
        embedder: The embedder's fingerprint; None in a keyword-only collection.
        dim: The width of the dense vectors; None in a keyword-only collection.
        chunker: The chunker's fingerprint.
        quantization: What was asked for: "auto", "none", "binary", "scalar", "turbo", "product",
            or "custom" for one of Qdrant's own models.
        language: Of BM25's stop words and stemmer.
        avg_len: BM25's average passage length, measured on the first chunks.
        schema: Version of the payload's form.
        created_with: The ragkit version.
    """

    embedder: str | None
    dim: int | None
    chunker: str
    quantization: str
    language: str
    avg_len: float
    created_with: str
    schema: int = SCHEMA_VERSION

    def to_metadata(self) -> dict[str, Any]:
        """The collection metadata that holds this manifest."""
        return {_KEY: asdict(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None, *, name: str) -> Manifest:
        """Read the manifest of collection `name` out of its metadata.

        Raises:
            CollectionMismatch: There is none, or it is of a later ragkit.
        """
        fields = (metadata or {}).get(_KEY)
        if not isinstance(fields, Mapping):
            raise CollectionMismatch(
                f"collection {name!r} was not made by ragkit (its metadata has no manifest): "
                "use another name"
            )
        if fields.get("schema") != SCHEMA_VERSION:
            raise CollectionMismatch(
                f"collection {name!r} has schema version {fields.get('schema')}, this ragkit "
                f"reads {SCHEMA_VERSION}: use the ragkit that made it ({fields.get('created_with')}"
                "), or drop it and index again"
            )
        try:
            return cls(**fields)
        except TypeError as exc:
            raise CollectionMismatch(
                f"collection {name!r} has a damaged manifest ({exc}): drop it and index again"
            ) from exc
