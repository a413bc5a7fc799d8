"""A ragkit collection: a Qdrant collection with a schema, a manifest and an embedder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypeVar, Unpack

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunk, Chunker, chunker_fingerprint
from ragkit.creation import IN_MEMORY, ON_DISK, Settings, creation, payload_indexes, placed
from ragkit.delivery import READING, WRITING, deliver
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Embedder
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound
from ragkit.failures import Failure, kind_of, reason
from ragkit.manifest import (
    Manifest,
    check_complete,
    check_embedder,
    check_tenancy,
)
from ragkit.optimizer import IndexingCallback, wait_until_indexed
from ragkit.pacing import Retry
from ragkit.points import Points
from ragkit.quantization import SCAN_LIMIT, AnyQuantization, Quantization
from ragkit.reports import CollectionStatus
from ragkit.schema import DENSE, match
from ragkit.server import TURBO_QUANTIZATION, require, require_minimum
from ragkit.sparse import Bm25Encoder
from ragkit.tenancy import check_tenant
from ragkit.versions import base, names, next_version, physical, versions

T = TypeVar("T")

_DEFAULT_LANGUAGE = "english"
_GRAPH = models.HnswConfigDiff(m=16, ef_construct=100)
_MERGED = models.OptimizersConfigDiff(default_segment_number=2)


class Collection:
    """A client, a name and an embedder; created by the first indexing run.

    Args:
        client: An `EdgeClient` or a `QdrantClient`; it stays the caller's to close.
        name: The collection's name, or an alias of it.
        embedder: Makes the dense vectors; None for keyword search (BM25) alone.
        quantization: A `Quantization`, its name ("auto", "none", "binary", "scalar", "turbo",
            "product", "turbo-2bit", ...) or one of Qdrant's own models. Counts when the
            collection is created; "auto" also accepts whatever an existing collection has.
        chunker: Splits documents: a `Chunker` or any callable `Document -> list[Chunk]`. None
            stands for the one an existing collection was made with, else for the default.
        language: Of BM25's stop words and stemmer: "english" unless an existing collection says
            otherwise.
        payload_indexes: Indexes on payload fields of your own (`{"metadata.year": "integer"}`),
            made with the collection.
        tenant: Whose part of a collection that is shared: nothing of any other tenant is read
            or written. A collection is made for tenants, or not, when it is created.
        shard_by_tenant: Give each tenant shards of its own (custom sharding), on a server in
            cluster mode; counts when the collection is created.
        **settings: Qdrant's own settings of a new collection, see `Settings`: `shard_number`,
            `replication_factor`, `hnsw_config` and others.

    Raises:
        ValueError: An unknown quantization or language, a blank tenant, or a chunker that makes
            chunks longer than the embedder reads.
    """

    def __init__(
        self,
        client: QdrantBase,
        name: str,
        *,
        embedder: Embedder | None = None,
        quantization: AnyQuantization = "auto",
        chunker: Callable[[Document], list[Chunk]] | None = None,
        language: str | None = None,
        payload_indexes: Mapping[str, models.PayloadSchemaType | str] | None = None,
        tenant: str | None = None,
        shard_by_tenant: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        check_tenant(tenant)
        self.client = client
        self.name = name
        self.embedder = embedder
        self.tenant = tenant
        self._quantization = Quantization.of(quantization)
        self._chunker = chunker
        self._language = language
        self._payload_indexes = dict(payload_indexes or {})
        self._shard_by_tenant = shard_by_tenant
        self._settings = settings
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
        return self._ask(lambda: self.client.collection_exists(self.name))

    def open(self, *, unfinished: bool = False) -> Manifest:
        """Read the manifest and check that it goes with the embedder and the settings asked for.

        Args:
            unfinished: Accept a collection that a rebuild or a copy is still filling.

        Raises:
            CollectionNotFound: It has not been created.
            CollectionMismatch: It was made by something else, or with other settings.
        """
        if not self.exists():
            raise CollectionNotFound(
                f"there is no collection {self.name!r} ({self._names()}): index a folder first"
            )
        config = self._info().config
        manifest = Manifest.from_metadata(config.metadata, name=self.name)
        if not unfinished:
            check_complete(manifest, name=self.name)
        check_embedder(manifest, self.embedder, name=self.name)
        self._check_settings(manifest)
        if self.tenant is not None:
            check_tenancy(manifest, self.tenant, name=self.name)
        self._config, self._manifest = config, manifest
        return manifest

    def open_for_writing(self) -> Manifest:
        """As `open`, and embedder and tenant may not be missing; what it lacks is created.

        That is: payload indexes, and in a collection sharded by tenant the tenant's shards.

        Raises:
            CollectionMismatch: It holds vectors, and there is no embedder to make more; or it
                is shared by tenants, and none is named.
        """
        manifest = self.open()
        check_tenancy(manifest, self.tenant, name=self.name)
        if manifest.embedder is not None and self.embedder is None:
            raise CollectionMismatch(
                f"collection {self.name!r} holds {manifest.dim}-d vectors of "
                f"{manifest.embedder}; without an embedder nothing can be added to it: "
                "pass the embedder it was made with"
            )
        self.create_missing_indexes()
        if manifest.tenancy == "shard":
            self._create_shards()
        return manifest

    def check_new(self) -> None:
        """Refuse settings with which no collection can be created.

        Raises:
            ValueError: Quantization is asked for where there will be no vectors, or shards by
                tenant without a tenant or on the embedded engine.
        """
        asked = self._quantization.name
        if self.embedder is None and asked not in ("auto", "none"):
            raise ValueError(
                f"quantization {asked!r} is for vectors, and without an embedder there are none: "
                "pass an embedder, or leave quantization out"
            )
        if self._shard_by_tenant and (self.tenant is None or self.embedded):
            raise ValueError(
                "shard_by_tenant is for a tenant's points on a server in cluster mode: pass "
                "tenant= and connect to one, or leave it out"
            )

    def create(self, *, avg_len: float) -> Manifest:
        """Create it, with its payload indexes, before the first point comes.

        Args:
            avg_len: BM25's average passage length, measured on the first chunks.
        """
        self.check_new()
        require_minimum(self.client)
        tenancy = "shard" if self._shard_by_tenant else "payload" if self.tenant else None
        made = self.create_version(
            Manifest(
                embedder=self.embedder.fingerprint if self.embedder else None,
                dim=self.embedder.dim if self.embedder else None,
                chunker=chunker_fingerprint(self.chunker),
                quantization=self._quantization.name if self.embedder else "none",
                language=self.language,
                avg_len=avg_len,
                created_with=version("ragkit"),
                tenancy=tenancy,
            )
        )
        self.use_version(made)
        return self.open_for_writing()

    def create_version(self, manifest: Manifest) -> str:
        """Create the next collection that the name may stand for; returns its own name.

        An empty one that was to be made just so, and was cut off before the name was given to it,
        is taken.
        """
        held = versions(self.client, self.name)
        if held and held[-1] != physical(self.client, self.name):
            info = self.client.get_collection(held[-1])
            if not info.points_count and manifest.alike(info.config.metadata):
                return held[-1]
        self._check_server(self._quantization)
        made = next_version(self.client, self.name)
        asked = creation(
            embedded=self.embedded,
            dim=manifest.dim,
            quantization=self._quantization,
            tenancy=manifest.tenancy,
            settings=self._settings,
        )

        def create() -> None:
            try:
                self.client.create_collection(made, metadata=manifest.to_metadata(), **asked)
            except Exception as exc:
                # Another process was quicker, or an earlier attempt did arrive.
                if kind_of(exc) is not Failure.CONFLICT:
                    raise

        self._ask(create, "creating", WRITING)
        return made

    def use_version(self, made: str) -> None:
        """Let the name stand for this version, at once and for everybody."""
        alias = models.CreateAlias(collection_name=made, alias_name=self.name)
        operation = models.CreateAliasOperation(create_alias=alias)
        self._ask(lambda: self.client.update_collection_aliases([operation]), "naming", WRITING)
        self._manifest = self._config = None

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
        return made_with or (
            Chunker.fitting(self.embedder.max_tokens) if self.embedder else Chunker()
        )

    @property
    def bm25(self) -> Bm25Encoder:
        """The encoder of the sparse vectors, as the manifest has it."""
        return Bm25Encoder(avg_len=self.manifest.avg_len, language=self.manifest.language)

    @property
    def points(self) -> Points:
        """Its points, or those of the tenant."""
        sharded = self.tenant is not None and self.manifest.tenancy == "shard"
        key = self.tenant if sharded else None
        return Points(self.client, self.name, tenant=self.tenant, shard_key=key)

    def record_chunker(self) -> bool:
        """Note the chunker in use in the manifest; returns whether it is another than before."""
        fingerprint = chunker_fingerprint(self.chunker)
        if self.manifest.chunker == fingerprint:
            return False
        self.record(replace(self.manifest, chunker=fingerprint))
        return True

    def record(self, manifest: Manifest) -> None:
        """Write the manifest."""
        self._ask(
            lambda: self.client.update_collection(self.name, metadata=manifest.to_metadata()),
            "describing",
            WRITING,
        )
        self._manifest = manifest

    def set_quantization(
        self, quantization: AnyQuantization, *, progress: IndexingCallback | None = None
    ) -> None:
        """Quantize an existing collection otherwise, and return when that is done.

        Searches go on meanwhile. On a server the originals move to disk with quantization, and
        back without.

        Args:
            quantization: As in the constructor.
            progress: Called with what is indexed so far, while a server works at it.

        Raises:
            ValueError: There are no vectors, or the embedded engine is to give up quantization,
                which it can only do in a rebuild.
        """
        manifest = self.open()
        wanted = Quantization.of(quantization).settled(embedded=self.embedded)
        if manifest.dim is None:
            raise ValueError(f"collection {self.name!r} has no vectors to quantize")
        if self.embedded and wanted.config is None:
            raise ValueError(
                "the embedded engine cannot take quantization away from a collection: "
                f'"ragkit rebuild {self.name} --quantization none" makes one without'
            )
        self._check_server(wanted)
        self._quantization = wanted
        self._requantize(wanted, replace(manifest, quantization=wanted.name))
        if isinstance(self.client, EdgeClient):
            self.client.optimize(self.name, force=True)
        else:
            wait_until_indexed(self.client, self.name, progress=progress)
        self.open()

    def _requantize(self, wanted: Quantization, manifest: Manifest) -> None:
        change: dict[str, Any] = {"quantization_config": models.Disabled.DISABLED}
        placement = IN_MEMORY
        if wanted.config is not None:
            change["quantization_config"] = placed(wanted.config, embedded=self.embedded)
            placement = ON_DISK
        if not self.embedded:
            change["vectors_config"] = {DENSE: models.VectorParamsDiff(**placement)}
        self._ask(
            lambda: self.client.update_collection(
                self.name, metadata=manifest.to_metadata(), **change
            ),
            "changing",
            WRITING,
        )

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
        """Count what it holds, of all tenants unless one was named."""
        manifest, info = self.open(), self._info()
        points, client = self.points, self.client
        heads = models.Filter(must=[match("ordinal", 0)])
        current = physical(client, self.name)
        return CollectionStatus(
            name=self.name,
            documents=points.count(heads),
            chunks=points.count(),
            embedder=manifest.embedder,
            dim=manifest.dim,
            quantization=manifest.quantization,
            chunker=manifest.chunker,
            language=manifest.language,
            corpora=points.facet("corpus", heads, limit=1000),
            indexed_vectors=info.indexed_vectors_count or 0,
            bytes_on_disk=client.disk_usage(self.name) if isinstance(client, EdgeClient) else None,
            version=current,
            older=tuple(each for each in versions(client, self.name) if each != current),
            tenancy=manifest.tenancy,
        )

    def drop(self) -> None:
        """Delete it with all that it holds, and all versions of it.

        Raises:
            CollectionError: The name is an alias that somebody else made, which would leave the
                collection where it is.
        """
        current = physical(self.client, self.name)
        if current != self.name and base(current) != self.name:
            raise CollectionError(f"{self.name!r} is an alias of {current!r}: drop that one")
        for each in {*versions(self.client, self.name), current}:
            self.drop_version(each)
        self._manifest = self._config = None

    def drop_version(self, version: str) -> None:
        """Delete one of the collections behind the name; its aliases go with it."""
        self._ask(lambda: self.client.delete_collection(version), "deleting", WRITING)

    def create_missing_indexes(self) -> list[str]:
        """Create the payload indexes that it lacks: all of them when new; returns their keys."""
        wanted = payload_indexes(
            embedded=self.embedded, tenancy=self.manifest.tenancy, own=self._payload_indexes
        )
        held = self._info().payload_schema
        missing = [field for field in wanted if field not in held]
        for field in missing:
            self._create_index(field, wanted[field])
        return missing

    def _create_index(
        self, field: str, schema: models.PayloadSchemaType | models.PayloadSchemaParams
    ) -> None:
        self._ask(
            lambda: self.client.create_payload_index(self.name, field, field_schema=schema),
            "indexing",
            WRITING,
        )

    def _create_shards(self) -> None:
        """Give the tenant shards of its own, unless it has them."""
        try:
            self._ask(
                lambda: self.client.create_shard_key(self.name, self.tenant or ""),
                "dividing",
                WRITING,
            )
        except Exception as exc:
            if "already exists" in reason(exc):
                return
            raise CollectionError(
                f"tenant {self.tenant!r} cannot have shards of its own in {self.name!r}: "
                f"{reason(exc)} (shard_by_tenant needs a server in cluster mode)"
            ) from exc

    def _check_server(self, quantization: Quantization) -> None:
        # Over gRPC a server passes over what it does not know.
        if isinstance(quantization.config, models.TurboQuantization):
            require(self.client, TURBO_QUANTIZATION)

    def _ask(self, action: Callable[[], T], doing: str = "reading", retry: Retry = READING) -> T:
        return deliver(action, what=f"{doing} collection {self.name!r}", retry=retry)

    def _info(self) -> models.CollectionInfo:
        return self._ask(lambda: self.client.get_collection(self.name))

    def _outgrew_scan(self, config: models.CollectionConfig, points: int) -> bool:
        scanned = config.quantization_config is not None and config.hnsw_config.m == 0
        return scanned and points * (self.manifest.dim or 0) > SCAN_LIMIT

    def _check_settings(self, manifest: Manifest) -> None:
        asked = self._quantization.name
        if asked not in ("auto", manifest.quantization):
            raise CollectionMismatch(
                f"collection {self.name!r} was made with quantization {manifest.quantization!r}, "
                f"not {asked!r}: leave quantization out, or change it (set_quantization, "
                f'or "ragkit rebuild {self.name} --quantization {asked}")'
            )
        if self._language not in (None, manifest.language):
            raise CollectionMismatch(
                f"collection {self.name!r} was made for {manifest.language!r}, not "
                f"{self._language!r}: leave language out, or drop it and index again"
            )

    def _names(self) -> str:
        known = names(self.client)
        return "there are " + ", ".join(map(repr, known)) if known else "there is none at all"
