"""What a collection was made with, kept in the collection's own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ragkit.chunks import Chunker
from ragkit.embeddings import Embedder
from ragkit.errors import CollectionMismatch

SCHEMA_VERSION = 1
KEY = "ragkit"  # in a collection's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """How the points of a collection came to be.

    Attributes:
        embedder: The embedder's fingerprint; None in a keyword-only collection.
        dim: The width of the dense vectors; None in a keyword-only collection.
        chunker: The chunker's fingerprint.
        quantization: What was asked for, by its name; "custom" for one of Qdrant's own models.
        language: Of BM25's stop words and stemmer.
        avg_len: BM25's average passage length, measured on the first chunks.
        tenancy: Whether it is shared by tenants: "payload" where a payload key tells them apart,
            "shard" where each has shards of its own as well.
        filling: What it is being filled from, until that is complete.
        held_threads: While a bulk load holds a server's optimizer back: the number of its threads
            to go back to, or "auto".
        search: How it is best searched: options of `SearchOptions` that overrule its defaults.
        tuned: How and when that was found, see `ragkit.tuned`; empty if it was set by hand.
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
    tenancy: str | None = None
    filling: str | None = None
    held_threads: int | str | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def to_metadata(self) -> dict[str, Any]:
        """The collection metadata that holds this manifest."""
        return {KEY: asdict(self)}

    def alike(self, metadata: Mapping[str, Any] | None) -> bool:
        """Whether these metadata are of a collection that was to be made as this one is."""
        held = (metadata or {}).get(KEY)
        measured = {"avg_len": self.avg_len, "created_with": self.created_with}
        return isinstance(held, Mapping) and {**held, **measured} == asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None, *, name: str) -> Manifest:
        """Read the manifest of collection `name` out of its metadata.

        Raises:
            CollectionMismatch: There is none, or it is of a later ragkit.
        """
        fields = (metadata or {}).get(KEY)
        if not isinstance(fields, Mapping):
            raise CollectionMismatch(
                f"collection {name!r} was not made by ragkit (its metadata has no manifest): index "
                "under another name; to search this one, say where it keeps vectors and texts, "
                f"ForeignCollection(client, {name!r}, ForeignSchema(vector=…, text=…), embedder=…)"
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


def check_fitting(chunker: object, embedder: Embedder | None) -> None:
    """Refuse a chunker that makes longer chunks than an embedder reads.

    Raises:
        ValueError: It does.
    """
    if isinstance(chunker, Chunker) and embedder and chunker.max_tokens > embedder.max_tokens:
        raise ValueError(
            f"expected chunks of at most {embedder.max_tokens} tokens, all that "
            f"{embedder.fingerprint} reads, got max_tokens={chunker.max_tokens}"
        )


def check_embedder(manifest: Manifest, embedder: Embedder | None, *, name: str) -> None:
    """Refuse an embedder whose vectors do not go with those of collection `name`.

    Raises:
        CollectionMismatch: It is another one than the collection was made with.
    """
    if embedder is None or embedder.fingerprint == manifest.embedder:
        return
    held = f"{manifest.dim}-d vectors of {manifest.embedder}"
    if manifest.embedder is None:
        held = "BM25 vectors alone (keyword search)"
    raise CollectionMismatch(
        f"collection {name!r} holds {held}; this embedder makes {embedder.dim}-d vectors "
        f"of {embedder.fingerprint}: use the embedder it was made with, rebuild it with this one "
        f'("ragkit rebuild {name}"), or index under another name'
    )


def check_writable(manifest: Manifest, embedder: Embedder | None, *, name: str) -> None:
    """Refuse to write into collection `name` without the embedder that it needs.

    Raises:
        CollectionMismatch: It holds vectors, and there is nothing to make more with.
    """
    if manifest.embedder is not None and embedder is None:
        raise CollectionMismatch(
            f"collection {name!r} holds {manifest.dim}-d vectors of {manifest.embedder}; without "
            "an embedder nothing can be added to it: pass the embedder it was made with"
        )


def check_tenancy(manifest: Manifest, tenant: str | None, *, name: str) -> None:
    """Refuse to use collection `name` for another circle of people than it was made for.

    Raises:
        CollectionMismatch: It is shared by tenants and none is named, or the reverse.
    """
    if tenant is None and manifest.tenancy is not None:
        raise CollectionMismatch(
            f"collection {name!r} is shared by tenants: say whose points are meant, with tenant="
        )
    if tenant is not None and manifest.tenancy is None:
        raise CollectionMismatch(
            f"collection {name!r} was made without tenants, so nothing keeps those of {tenant!r} "
            "apart: leave tenant out, or index into a new collection"
        )


def check_complete(manifest: Manifest, *, name: str) -> None:
    """Refuse a collection that is still being filled by a rebuild or a copy.

    Raises:
        CollectionMismatch: It is not complete.
    """
    if manifest.filling is not None:
        raise CollectionMismatch(
            f"collection {name!r} is not complete: it is being filled from {manifest.filling}; "
            "run that again to its end, or drop it"
        )


def check_settings(
    manifest: Manifest, *, name: str, quantization: str, language: str | None
) -> None:
    """Refuse settings that are not those of collection `name`.

    Args:
        manifest: The collection's.
        name: The collection.
        quantization: As asked for; "auto" accepts any.
        language: As asked for; None accepts any.

    Raises:
        CollectionMismatch: It was made with others.
    """
    if quantization not in ("auto", manifest.quantization):
        raise CollectionMismatch(
            f"collection {name!r} was made with quantization {manifest.quantization!r}, not "
            f"{quantization!r}: leave quantization out, or change it (set_quantization, or "
            f'"ragkit rebuild {name} --quantization {quantization}")'
        )
    if language not in (None, manifest.language):
        raise CollectionMismatch(
            f"collection {name!r} was made for {manifest.language!r}, not {language!r}: leave "
            "language out, or drop it and index again"
        )
