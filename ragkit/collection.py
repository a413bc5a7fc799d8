"""A ragkit collection: a Qdrant collection with a schema, a manifest and an embedder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar, Unpack

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunk, Chunker, chunker_fingerprint
from ragkit.creation import (
    GRAPH,
    MERGED,
    Settings,
    creation,
    payload_indexes,
    requantization,
)
from ragkit.delivery import READING, WRITING, deliver
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Embedder
from ragkit.errors import CollectionError, CollectionMismatch
from ragkit.manifest import (
    Manifest,
    check_complete,
    check_embedder,
    check_fitting,
    check_settings,
    check_tenancy,
    check_writable,
)
from ragkit.optimizer import IndexingCallback, wait_until_indexed
from ragkit.pacing import Retry
from ragkit.points import Points
from ragkit.quantization import AnyQuantization, Quantization, outgrew_scan
from ragkit.reports import CollectionStatus
from ragkit.schema import match
from ragkit.search_options import SearchKeywords, kept
from ragkit.search_request import Searchable
from ragkit.server import TURBO_QUANTIZATION, require, require_minimum, server_info
from ragkit.sparse import Bm25Encoder
from ragkit.tenancy import check_tenant
from ragkit.tuned import requantized
from ragkit.versions import (
    FRESH_S,
    check_name,
    create_version,
    described,
    drop_version,
    drop_versions,
    use_version,
    versions,
)

T = TypeVar("T")

_DEFAULT_LANGUAGE = "english"


@dataclass(frozen=True, slots=True)
class _Opened:
    """What was found when the collection was opened."""

    version: str
    manifest: Manifest
    info: models.CollectionInfo
    at: float  # time.monotonic()


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
        ValueError: A name that no collection can have, an unknown quantization or language, a
            blank tenant, or a chunker that makes chunks longer than the embedder reads.
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
        check_name(name)
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
        self._opened: _Opened | None = None
        self._searched: tuple[_Opened, Searchable, Points] | None = None
        Bm25Encoder(avg_len=1.0, language=_DEFAULT_LANGUAGE if language is None else language)
        if chunker is not None:
            chunker_fingerprint(chunker)
        check_fitting(chunker, embedder)

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
        held = self._opened.manifest.language if self._opened else _DEFAULT_LANGUAGE
        return self._language or held

    def using(
        self, *, embedder: Embedder, chunker: Callable[[Document], list[Chunk]]
    ) -> Collection:
        """The same collection with another embedder of the same fingerprint and a chunker."""
        twin = copy(self)
        twin.embedder, twin._chunker, twin._searched = embedder, chunker, None
        return twin

    def exists(self) -> bool:
        """Whether it has been created."""
        return self._ask(lambda: self.client.collection_exists(self.name))

    def open(self, *, unfinished: bool = False) -> Manifest:
        """Read the manifest and check that it goes with the embedder and the settings asked for.

        From then on this object means the version that the name stands for now: after a rebuild
        has moved the name, vectors of another embedder are neither searched nor written by it.

        Args:
            unfinished: Accept a collection that a rebuild or a copy is still filling.

        Raises:
            CollectionNotFound: It has not been created.
            CollectionMismatch: It was made by something else, or with other settings.
        """
        version, info = described(self.client, self.name)
        manifest = Manifest.from_metadata(info.config.metadata, name=self.name)
        if not unfinished:
            check_complete(manifest, name=self.name)
        check_embedder(manifest, self.embedder, name=self.name)
        check_settings(
            manifest, name=self.name, quantization=self._quantization.name, language=self._language
        )
        if self.tenant is not None:
            check_tenancy(manifest, self.tenant, name=self.name)
        self._opened = _Opened(version, manifest, info, time.monotonic())
        return manifest

    def refresh(self) -> None:
        """Open it again if that was long ago: a rebuild may have moved the name since."""
        opened = self._opened
        if opened is None or time.monotonic() - opened.at > FRESH_S:
            self.open()

    def look_again(self) -> None:
        """Read Qdrant's account of the version that was opened again: what it holds has changed."""
        if self._opened is not None:
            self._opened = replace(self._opened, info=self._info())

    def open_for_writing(self) -> Manifest:
        """As `open`, and embedder and tenant may not be missing; what it lacks is created.

        That is: payload indexes, and in a collection sharded by tenant the tenant's shards.

        Raises:
            CollectionMismatch: It holds vectors, and there is no embedder to make more; or it
                is shared by tenants, and none is named.
        """
        manifest = self.open()
        check_tenancy(manifest, self.tenant, name=self.name)
        check_writable(manifest, self.embedder, name=self.name)
        self.create_missing_indexes()
        if manifest.tenancy == "shard":
            self.points.create_shards()
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
        if tenancy == "shard":
            self._try_shards(made)
        self.use_version(made)
        return self.open_for_writing()

    def _try_shards(self, made: str) -> None:
        """Delete a new version again if the server can make no shards in it."""
        try:
            Points(self.client, made, shard_key=self.tenant).create_shards()
        except CollectionError:
            self.drop_version(made)
            raise

    def create_version(self, manifest: Manifest) -> str:
        """Create the next collection that the name may stand for; returns its own name."""
        self._check_server(self._quantization)
        asked = creation(
            embedded=self.embedded,
            dim=manifest.dim,
            quantization=self._quantization,
            tenancy=manifest.tenancy,
            settings=self._settings,
        )
        return create_version(self.client, self.name, manifest, asked)

    def use_version(self, made: str) -> None:
        """Let the name stand for this version, at once and for everybody."""
        use_version(self.client, self.name, made)
        self._opened = None

    @property
    def version(self) -> str:
        """The collection that the name stood for when this was opened."""
        opened = self._opened
        return opened.version if opened else self.name

    @property
    def manifest(self) -> Manifest:
        """The manifest, as it was when this was opened."""
        return self._held().manifest

    @property
    def info(self) -> models.CollectionInfo:
        """Qdrant's own account of the collection, as it was when this was opened."""
        return self._held().info

    @property
    def config(self) -> models.CollectionConfig:
        """How Qdrant is to keep it, as it was when this was opened."""
        return self.info.config

    @property
    def chunker(self) -> Callable[[Document], list[Chunk]]:
        """The chunker in use: the caller's, else the collection's own, else the default."""
        if self._chunker is not None:
            return self._chunker
        held = self._opened.manifest.chunker if self._opened else ""
        made_with = Chunker.from_fingerprint(held)
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
        return self._points_of(self._held())

    def searchable(self) -> tuple[Searchable, Points]:
        """What decides how it is searched, and its points; both of the same version.

        It is opened again if that was long ago: a rebuild may have moved the name since.

        Raises:
            CollectionMismatch: It is shared by tenants, and none was named, or the reverse.
        """
        self.refresh()
        opened, searched = self._held(), self._searched
        if searched is None or searched[0] is not opened:
            where, points = self._searchable_of(opened, self.tenant), self._points_of(opened)
            searched = self._searched = opened, where, points
        return searched[1:]

    def seen_by(self, tenant: str | None) -> Searchable:
        """How it is searched for one of its tenants, as it was when this was opened."""
        return self._searchable_of(self._held(), tenant)

    def record_chunker(self) -> bool:
        """Note the chunker in use in the manifest; returns whether it is another than before.

        Raises:
            CollectionMismatch: The collection is shared by tenants, for whom one cannot choose.
        """
        fingerprint = chunker_fingerprint(self.chunker)
        if self.manifest.chunker == fingerprint:
            return False
        if self.manifest.tenancy is not None:
            raise CollectionMismatch(
                f"collection {self.name!r} is shared by tenants and split by "
                f"{self.manifest.chunker!r}: another chunker would split everybody's documents "
                "again; leave chunker out"
            )
        self.record(replace(self.manifest, chunker=fingerprint))
        return True

    def record(self, manifest: Manifest, **change: Any) -> None:
        """Write the manifest, and change settings of the collection with it in one step.

        Args:
            manifest: As it is to be.
            change: Further arguments for `update_collection`.
        """
        metadata = manifest.to_metadata()
        self._ask(
            lambda: self.client.update_collection(self.version, metadata=metadata, **change),
            "changing",
            WRITING,
        )
        if self._opened is not None:
            self._opened = replace(self._opened, manifest=manifest)

    def set_search_defaults(self, **options: Unpack[SearchKeywords]) -> None:
        """Search this collection so from now on, whoever does, unless told otherwise.

        Kept in the manifest, in place of what was there, found by `tune` or set; without options
        nothing is kept.

        Raises:
            ValueError: An option is out of its range, or a filter, which belongs to a question.
        """
        self.record(replace(self.open(), search=kept(options), tuned={}))

    def set_quantization(
        self, quantization: AnyQuantization, *, progress: IndexingCallback | None = None
    ) -> None:
        """Quantize an existing collection otherwise, and return when that is done.

        Searches go on meanwhile. On a server the originals move to disk with quantization, and
        back without. What `tune` has found for another quantization is forgotten.

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
        change = requantization(wanted.config, embedded=self.embedded)
        self.record(requantized(manifest, wanted.name), **change)
        if isinstance(self.client, EdgeClient):
            self.client.optimize(self.version, force=True)
        else:
            wait_until_indexed(self.client, self.version, progress=progress)
        self.open()

    def optimize(self, *, if_due: bool = False) -> None:
        """Index on the embedded engine what is not indexed yet; a server does so by itself.

        A collection too large for a scan of its quantized vectors gets a graph here.

        Args:
            if_due: Only where the engine counts enough unindexed vectors for it to be worth the
                time; it does not count sparse ones.
        """
        if not isinstance(self.client, EdgeClient):
            return
        info = self.client.get_collection(self.version)
        outgrown = outgrew_scan(info.config, (info.points_count or 0) * (self.manifest.dim or 0))
        if if_due and not outgrown and info.status is models.CollectionStatus.GREEN:
            return
        if outgrown:
            self.client.update_collection(self.version, hnsw_config=GRAPH, optimizers_config=MERGED)
        self.client.optimize(self.version, force=outgrown)

    def status(self) -> CollectionStatus:
        """Count what it holds, of all tenants unless one was named."""
        manifest, info = self.open(), self._info()
        points, client = self.points, self.client
        heads = models.Filter(must=[match("ordinal", 0)])
        current = self.version
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
            bytes_on_disk=client.disk_usage(current) if isinstance(client, EdgeClient) else None,
            version=current,
            older=tuple(each for each in versions(client, self.name) if each != current),
            tenancy=manifest.tenancy,
            search=manifest.search,
            tuned=manifest.tuned,
        )

    def drop(self) -> None:
        """Delete it with all that it holds, and all versions of it that ragkit has made.

        Raises:
            CollectionError: The name is an alias that somebody else made, which would leave the
                collection where it is; or it was opened for one tenant of several.
        """
        if self.tenant is not None:
            raise CollectionError(
                f"{self.name!r} would be deleted with what all tenants have in it: open it without "
                "tenant for that"
            )
        drop_versions(self.client, self.name)
        self._opened = None

    def drop_version(self, version: str) -> None:
        """Delete one of the collections behind the name; its aliases go with it."""
        drop_version(self.client, version)

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
            lambda: self.client.create_payload_index(self.version, field, field_schema=schema),
            "indexing",
            WRITING,
        )

    def _held(self) -> _Opened:
        # Other threads may use this object, and set it back: whoever reads two things of it is to
        # have them of one opening.
        while (opened := self._opened) is None:
            self.open()
        return opened

    def _searchable_of(self, opened: _Opened, tenant: str | None) -> Searchable:
        return Searchable(
            name=self.name,
            version=opened.version,
            manifest=opened.manifest,
            info=opened.info,
            embedder=self.embedder,
            server=server_info(self.client),
            tenant=tenant,
        )

    def _points_of(self, opened: _Opened) -> Points:
        sharded = self.tenant is not None and opened.manifest.tenancy == "shard"
        return Points(
            self.client,
            opened.version,
            tenant=self.tenant,
            shard_key=self.tenant if sharded else None,
            strict=opened.info.config.strict_mode_config,
        )

    def _check_server(self, quantization: Quantization) -> None:
        # Over gRPC a server passes over what it does not know.
        if isinstance(quantization.config, models.TurboQuantization):
            require(self.client, TURBO_QUANTIZATION)

    def _ask(self, action: Callable[[], T], doing: str = "reading", retry: Retry = READING) -> T:
        return deliver(action, what=f"{doing} collection {self.name!r}", retry=retry)

    def _info(self) -> models.CollectionInfo:
        return self._ask(lambda: self.client.get_collection(self.version))
