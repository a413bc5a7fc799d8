"""A ragkit collection: a Qdrant collection with a schema, a manifest and an embedder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunk, Chunker
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Embedder
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound
from ragkit.manifest import Manifest
from ragkit.quantization import (
    SCAN_LIMIT,
    Quantization,
    quantization_config,
    quantization_name,
)
from ragkit.schema import BM25, DENSE, PAYLOAD_INDEXES
from ragkit.sparse import Bm25Encoder

_DEFAULT_LANGUAGE = "english"
_NO_GRAPH = models.HnswConfigDiff(m=0)
_GRAPH = models.HnswConfigDiff(m=16, ef_construct=100)
# On the embedded engine a segment once built stays as it is: merging all of them again and again
# takes memory and time that grow with the collection, and gains a scan nothing.
_SEGMENTS = models.OptimizersConfigDiff(default_segment_number=64)
_MERGED = models.OptimizersConfigDiff(default_segment_number=2)

# By default the embedded engine holds payload indexes and the index of words in memory, some 2 KB
# a chunk; searches were as quick from disk (the page cache), p50 of 2 ms over 150,000 chunks.
_INDEXES_ON_DISK: dict[models.PayloadSchemaType, models.PayloadSchemaParams] = {
    models.PayloadSchemaType.KEYWORD: models.KeywordIndexParams(
        type=models.KeywordIndexType.KEYWORD, memory=models.Memory.COLD
    ),
    models.PayloadSchemaType.INTEGER: models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, memory=models.Memory.COLD
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStatus:
    """A collection in numbers.

    Attributes:
        documents: Complete documents.
        chunks: Points.
        embedder: The embedder's fingerprint; None for keyword search only.
        quantization: What the manifest says was asked for.
        corpora: Documents per corpus.
        indexed_vectors: Vectors the engine has indexed so far.
        bytes_on_disk: Bytes allocated by the embedded engine; None on a server.
    """

    name: str
    documents: int
    chunks: int
    embedder: str | None
    dim: int | None
    quantization: str
    chunker: str
    language: str
    corpora: Mapping[str, int]
    indexed_vectors: int
    bytes_on_disk: int | None


class Collection:
    """A client, a name and an embedder; created by the first indexing run.

    Args:
        client: An `EdgeClient` or a `QdrantClient`; it stays the caller's to close.
        name: The collection's name, or an alias of it.
        embedder: Makes the dense vectors; None for keyword search (BM25) alone.
        quantization: A name ("auto", "none", "binary", "scalar", "turbo", "product") or one of
            Qdrant's own models. Counts when the collection is created; "auto" also accepts
            whatever an existing collection has.
        chunker: Splits documents: a `Chunker` or any callable `Document -> list[Chunk]`. None
            stands for the one an existing collection was made with, else for the default.
        language: Of BM25's stop words and stemmer: "english" unless an existing collection says
            otherwise.
        payload_indexes: Indexes on payload fields of your own (`{"metadata.year": "integer"}`),
            made with the collection.

    Raises:
        ValueError: An unknown quantization or language, or a chunker that makes chunks longer
            than the embedder reads.
    """

    def __init__(
        self,
        client: QdrantBase,
        name: str,
        *,
        embedder: Embedder | None = None,
        quantization: Quantization = "auto",
        chunker: Callable[[Document], list[Chunk]] | None = None,
        language: str | None = None,
        payload_indexes: Mapping[str, models.PayloadSchemaType | str] | None = None,
    ) -> None:
        self.client = client
        self.name = name
        self.embedder = embedder
        self._quantization = quantization
        self._quantization_config = quantization_config(quantization, embedded=self.embedded)
        self._chunker = chunker
        self._language = language
        self._payload_indexes = dict(payload_indexes or {})
        self._manifest: Manifest | None = None
        self._config: models.CollectionConfig | None = None
        # Are they known ones?
        Bm25Encoder(avg_len=1.0, language=_DEFAULT_LANGUAGE if language is None else language)
        if chunker is not None:
            chunker_fingerprint(chunker)
        if isinstance(chunker, Chunker) and embedder and chunker.max_tokens > embedder.max_tokens:
            raise ValueError(
                f"expected chunks of at most {embedder.max_tokens} tokens, all that "
                f"{embedder.fingerprint} reads, got max_tokens={chunker.max_tokens}"
            )

    def __repr__(self) -> str:
        embedder = self.embedder.fingerprint if self.embedder else None
        return f"Collection({self.name!r}, embedder={embedder!r})"

    @property
    def embedded(self) -> bool:
        """Whether it lives on the embedded engine."""
        return isinstance(self.client, EdgeClient)

    @property
    def language(self) -> str:
        """Of BM25's stop words and stemmer: as asked for, else as the collection has it."""
        held = self._manifest.language if self._manifest else _DEFAULT_LANGUAGE
        return self._language or held

    def using(
        self, *, embedder: Embedder, chunker: Callable[[Document], list[Chunk]]
    ) -> Collection:
        """The same collection with another embedder of the same fingerprint and a chunker."""
        twin = copy(self)
        twin.embedder, twin._chunker = embedder, chunker
        return twin

    def exists(self) -> bool:
        """Whether it has been created."""
        return self.client.collection_exists(self.name)

    def open(self) -> Manifest:
        """Read the manifest and check that it goes with the embedder and the settings asked for.

        Raises:
            CollectionNotFound: It has not been created.
            CollectionMismatch: It was made by something else, or with other settings.
        """
        if not self.exists():
            raise CollectionNotFound(
                f"there is no collection {self.name!r} ({self._names()}): index a folder first"
            )
        config = self.client.get_collection(self.name).config
        manifest = Manifest.from_metadata(config.metadata, name=self.name)
        self._check_embedder(manifest)
        self._check_settings(manifest)
        self._config, self._manifest = config, manifest
        return manifest

    def open_for_writing(self) -> Manifest:
        """As `open`, and the embedder may not be missing; missing payload indexes are made.

        Raises:
            CollectionMismatch: It holds vectors, and there is no embedder to make more.
        """
        manifest = self.open()
        if manifest.embedder is not None and self.embedder is None:
            raise CollectionMismatch(
                f"collection {self.name!r} holds {manifest.dim}-d vectors of "
                f"{manifest.embedder}; without an embedder nothing can be added to it: "
                "pass the embedder it was made with"
            )
        self._create_missing_indexes()
        return manifest

    def check_new(self) -> None:
        """Refuse settings with which no collection can be created.

        Raises:
            ValueError: Quantization is asked for where there will be no vectors.
        """
        asked = quantization_name(self._quantization)
        if self.embedder is None and asked not in ("auto", "none"):
            raise ValueError(
                f"quantization {asked!r} is for vectors, and without an embedder there are none: "
                "pass an embedder, or leave quantization out"
            )

    def create(self, *, avg_len: float) -> Manifest:
        """Create it, with its payload indexes, before the first point comes.

        Args:
            avg_len: BM25's average passage length, measured on the first chunks.
        """
        self.check_new()
        manifest = Manifest(
            embedder=self.embedder.fingerprint if self.embedder else None,
            dim=self.embedder.dim if self.embedder else None,
            chunker=chunker_fingerprint(self.chunker),
            quantization=quantization_name(self._quantization) if self.embedder else "none",
            language=self.language,
            avg_len=avg_len,
            created_with=version("ragkit"),
        )
        quantized = self.embedder is not None and self._quantization_config is not None
        self.client.create_collection(
            self.name,
            vectors_config=self._vectors_config(),
            sparse_vectors_config={BM25: self._sparse_params()},
            optimizers_config=_SEGMENTS if self.embedded else None,
            quantization_config=self._quantization_config if quantized else None,
            hnsw_config=_NO_GRAPH if quantized and self.embedded else None,
            metadata=manifest.to_metadata(),
        )
        return self.open_for_writing()

    @property
    def manifest(self) -> Manifest:
        """The manifest, read once."""
        return self._manifest or self.open()

    @property
    def config(self) -> models.CollectionConfig:
        """Qdrant's own account of the collection, read once."""
        if self._config is None:
            self.open()
        assert self._config is not None  # noqa: S101  (open() sets it or raises)
        return self._config

    @property
    def chunker(self) -> Callable[[Document], list[Chunk]]:
        """The chunker in use: the caller's, else the collection's own, else the default."""
        if self._chunker is not None:
            return self._chunker
        made_with = Chunker.from_fingerprint(self._manifest.chunker) if self._manifest else None
        return made_with or self._default_chunker()

    @property
    def bm25(self) -> Bm25Encoder:
        """The encoder of the sparse vectors, as the manifest has it."""
        return Bm25Encoder(avg_len=self.manifest.avg_len, language=self.manifest.language)

    def record_chunker(self) -> bool:
        """Note the chunker in use in the manifest; returns whether it is another than before."""
        fingerprint = chunker_fingerprint(self.chunker)
        if self.manifest.chunker == fingerprint:
            return False
        self._manifest = replace(self.manifest, chunker=fingerprint)
        self.client.update_collection(self.name, metadata=self._manifest.to_metadata())
        return True

    def optimize(self, *, if_due: bool = False) -> None:
        """Index on the embedded engine what is not indexed yet; a server does so by itself.

        A collection too large for a scan of its quantized vectors gets a graph here.

        Args:
            if_due: Only where the engine counts enough unindexed vectors for it to be worth the
                time; it does not count sparse ones.
        """
        if not isinstance(self.client, EdgeClient):
            return
        info = self.client.get_collection(self.name)
        outgrown = self._outgrew_scan(info.config, info.points_count or 0)
        if if_due and not outgrown and info.status is models.CollectionStatus.GREEN:
            return
        if outgrown:
            self.client.update_collection(self.name, hnsw_config=_GRAPH, optimizers_config=_MERGED)
        self.client.optimize(self.name, force=outgrown)

    def status(self) -> CollectionStatus:
        """Count what it holds."""
        manifest = self.open()
        info = self.client.get_collection(self.name)
        heads = models.Filter(must=[_HEAD])
        corpora = self.client.facet(self.name, "corpus", facet_filter=heads, limit=1000, exact=True)
        client = self.client
        return CollectionStatus(
            name=self.name,
            documents=client.count(self.name, count_filter=heads, exact=True).count,
            chunks=client.count(self.name, exact=True).count,
            embedder=manifest.embedder,
            dim=manifest.dim,
            quantization=manifest.quantization,
            chunker=manifest.chunker,
            language=manifest.language,
            corpora={str(hit.value): hit.count for hit in corpora.hits},
            indexed_vectors=info.indexed_vectors_count or 0,
            bytes_on_disk=client.disk_usage(self.name) if isinstance(client, EdgeClient) else None,
        )

    def drop(self) -> None:
        """Delete it with all that it holds.

        Raises:
            CollectionError: The name is an alias, which would leave the collection where it is.
        """
        for alias in self.client.get_aliases().aliases:
            if alias.alias_name == self.name:
                raise CollectionError(
                    f"{self.name!r} is an alias of {alias.collection_name!r}: drop that one"
                )
        self.client.delete_collection(self.name)
        self._manifest = self._config = None

    def _sparse_params(self) -> models.SparseVectorParams:
        index = models.SparseIndexParams(memory=models.Memory.COLD) if self.embedded else None
        return models.SparseVectorParams(modifier=models.Modifier.IDF, index=index)

    def _default_chunker(self) -> Chunker:
        default = Chunker()
        if self.embedder is None:
            return default
        # A quarter of what a short-sighted embedder reads is left for the title.
        fitting = self.embedder.max_tokens * 3 // 4
        if fitting >= default.max_tokens:
            return default
        return Chunker(max_tokens=fitting, overlap=min(default.overlap, fitting // 6))

    def _vectors_config(self) -> dict[str, models.VectorParams]:
        if self.embedder is None:
            return {}
        return {DENSE: models.VectorParams(size=self.embedder.dim, distance=models.Distance.COSINE)}

    def _create_missing_indexes(self) -> None:
        """Create payload indexes: all of them for a new collection, whatever a cut-off run owed."""
        held = self.client.get_collection(self.name).payload_schema
        for field, schema in {**PAYLOAD_INDEXES, **self._payload_indexes}.items():
            if field not in held:
                self.client.create_payload_index(
                    self.name, field, field_schema=self._index_params(schema)
                )

    def _index_params(
        self, schema: models.PayloadSchemaType | str
    ) -> models.PayloadSchemaType | models.PayloadSchemaParams:
        kind = models.PayloadSchemaType(schema)
        return _INDEXES_ON_DISK.get(kind, kind) if self.embedded else kind

    def _outgrew_scan(self, config: models.CollectionConfig, points: int) -> bool:
        scanned = config.quantization_config is not None and config.hnsw_config.m == 0
        return scanned and points * (self.manifest.dim or 0) > SCAN_LIMIT

    def _check_embedder(self, manifest: Manifest) -> None:
        embedder = self.embedder
        if embedder is None or embedder.fingerprint == manifest.embedder:
            return
        held = f"{manifest.dim}-d vectors of {manifest.embedder}"
        if manifest.embedder is None:
            held = "BM25 vectors alone (keyword search)"
        raise CollectionMismatch(
            f"collection {self.name!r} holds {held}; this embedder makes {embedder.dim}-d vectors "
            f"of {embedder.fingerprint}: use the embedder it was made with, index under another "
            f'name, or drop it ("ragkit drop {self.name}") and index again'
        )

    def _check_settings(self, manifest: Manifest) -> None:
        asked = quantization_name(self._quantization)
        if asked not in ("auto", manifest.quantization):
            raise CollectionMismatch(
                f"collection {self.name!r} was made with quantization {manifest.quantization!r}, "
                f"not {asked!r}: leave quantization out, or drop it and index again"
            )
        if self._language not in (None, manifest.language):
            raise CollectionMismatch(
                f"collection {self.name!r} was made for {manifest.language!r}, not "
                f"{self._language!r}: leave language out, or drop it and index again"
            )

    def _names(self) -> str:
        names = sorted(c.name for c in self.client.get_collections().collections)
        return "there are " + ", ".join(map(repr, names)) if names else "there is none at all"


_HEAD = models.FieldCondition(key="ordinal", match=models.MatchValue(value=0))


def chunker_fingerprint(chunker: Callable[[Document], list[Chunk]]) -> str:
    """What tells two chunkers apart: their `fingerprint`, else their qualified name.

    Raises:
        ValueError: It has neither, as a lambda.
    """
    fingerprint = getattr(chunker, "fingerprint", None)
    if isinstance(fingerprint, str):
        return fingerprint
    if isinstance(chunker, partial):
        settings = [*map(repr, chunker.args), *(f"{k}={v!r}" for k, v in chunker.keywords.items())]
        return f"{chunker_fingerprint(chunker.func)}({', '.join(settings)})"
    name = getattr(chunker, "__qualname__", type(chunker).__qualname__)
    if name.endswith("<lambda>"):
        raise ValueError("a lambda as chunker has no name to tell it by: pass a function instead")
    return f"{chunker.__module__}.{name}"
