"""`EdgeClient`: qdrant-client's API on the embedded engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn, Self

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types

from ragkit.edge import aliases
from ragkit.edge.access import refuse_options
from ragkit.edge.catalog import CollectionRecord, check_name, missing_collection
from ragkit.edge.changes import changed
from ragkit.edge.describe import collection_info, has_built_graphs, index_types
from ragkit.edge.engines import create_engine
from ragkit.edge.files import allocated_bytes
from ragkit.edge.reads import PointReads
from ragkit.edge.responses import bad_request, unsupported
from ragkit.edge.settings import refuse_server_settings, to_edge_index
from ragkit.edge.writes import PointWrites


class EdgeClient(PointReads, PointWrites):
    """A Qdrant database in a folder, with the methods of `QdrantClient` and no server.

    Requests, answers and refusals are a server's, in qdrant-client's own types; what only a
    server can do raises `NotImplementedError`. Trouble with the files raises `StoreError`.

    With `wait=True`, the default, a write is on the disk when the call returns and
    `UpdateStatus.COMPLETED`. With `wait=False` it is `ACKNOWLEDGED`: applied, searchable and in
    the engine's log, which survives the end of the process, also a violent one, but not a power
    cut; the next write that waits, every few thousand points and `close` put it on the disk.
    Waiting costs a flush, some 10 to 50 ms: write many points at once, or wait for the last.

    A collection is opened when it is first used and then belongs to this client until `close`:
    no other process can use it, nor a second client. A client does not survive a fork. It may be
    used from several threads; they take turns, for the engine answers one at a time.

    Nothing is optimized in the background: call `optimize` after filling a collection.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout_s: float = 3.0) -> None:
        """Use the database in a folder; it need not exist.

        Args:
            path: The folder.
            lock_timeout_s: How long to wait for a collection that another process has open.
        """
        super().__init__(path, lock_timeout_s=lock_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def create_collection(
        self,
        collection_name: str,
        vectors_config: types.VectorParams | Mapping[str, types.VectorParams] | None = None,
        sparse_vectors_config: Mapping[str, types.SparseVectorParams] | None = None,
        shard_number: int | None = None,
        sharding_method: types.ShardingMethod | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        on_disk_payload: bool | None = None,
        hnsw_config: types.HnswConfigDiff | None = None,
        optimizers_config: types.OptimizersConfigDiff | None = None,
        quantization_config: types.QuantizationConfig | None = None,
        metadata: types.Payload | None = None,
        payload: types.PayloadStorageParams | None = None,
        id_tracker: types.IdTrackerParams | None = None,
        **kwargs: Any,
    ) -> bool:
        """Create an empty collection; it is there whole or not at all."""
        refuse_server_settings(
            shard_number=shard_number,
            sharding_method=sharding_method,
            replication_factor=replication_factor,
            write_consistency_factor=write_consistency_factor,
            **{name: kwargs.pop(name, None) for name in ("wal_config", "strict_mode_config")},
        )
        refuse_options(kwargs)
        settings = models.CreateCollection(
            vectors=_plain(vectors_config),
            sparse_vectors=_plain(sparse_vectors_config),
            on_disk_payload=on_disk_payload,
            hnsw_config=hnsw_config,
            optimizers_config=optimizers_config,
            quantization_config=quantization_config,
            metadata=metadata,
            payload=payload,
            id_tracker=id_tracker,
        )
        self._create(collection_name, settings)
        return True

    def _create(self, name: str, settings: models.CreateCollection) -> None:
        self._check_open()
        check_name(name)
        if name in self._catalog.aliases():
            raise bad_request(
                f"Wrong input: Can't create collection with name {name}. "
                "Alias with the same name already exists"
            )
        created_at = datetime.now(UTC).isoformat()
        record = CollectionRecord(name=name, settings=settings, created_at=created_at)
        if self._catalog.has(name):
            raise aliases.taken(name)
        with self._catalog.lock(name, timeout_s=self._lock_timeout_s):
            if self._catalog.has(name):
                raise aliases.taken(name)
            with self._catalog.creating(record) as folder:
                create_engine(folder, record)

    def recreate_collection(
        self,
        collection_name: str,
        vectors_config: types.VectorParams | Mapping[str, types.VectorParams] | None = None,
        **kwargs: Any,
    ) -> bool:
        """Delete the collection if it is there and create it empty."""
        self.delete_collection(collection_name)
        return self.create_collection(collection_name, vectors_config, **kwargs)

    def delete_collection(self, collection_name: str, **kwargs: Any) -> bool:
        """Delete a collection, also a damaged one; whether there was one."""
        refuse_options(kwargs)
        self._check_open()
        shard = self._shards.get(collection_name)
        if shard is not None:
            shard.drop()
            self._shards.pop(collection_name, None)
            return True
        check_name(collection_name)
        if not self._catalog.has(collection_name):
            return False
        with self._catalog.lock(collection_name, timeout_s=self._lock_timeout_s):
            if not self._catalog.has(collection_name):
                return False
            self._catalog.withdraw(collection_name, timeout_s=self._lock_timeout_s)
        return True

    def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
        """Whether there is a collection of that name or alias."""
        refuse_options(kwargs)
        self._check_open()
        if not collection_name:
            raise ValueError("Collection name must not be empty")
        return self._catalog.has(self._catalog.resolve(collection_name))

    def get_collections(self, **kwargs: Any) -> models.CollectionsResponse:
        """The names of all collections."""
        refuse_options(kwargs)
        self._check_open()
        names = self._catalog.names()
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=name) for name in names]
        )

    def get_collection(self, collection_name: str, **kwargs: Any) -> models.CollectionInfo:
        """Settings and state of a collection.

        Its status is green, or grey where `optimize` has something to do: a server's word for
        optimizations that are possible and not triggered.
        """
        refuse_options(kwargs)
        return collection_info(self._shard(collection_name))

    def update_collection(
        self,
        collection_name: str,
        optimizers_config: types.OptimizersConfigDiff | None = None,
        collection_params: types.CollectionParamsDiff | None = None,
        vectors_config: types.VectorsConfigDiff | None = None,
        hnsw_config: types.HnswConfigDiff | None = None,
        quantization_config: types.QuantizationConfigDiff | None = None,
        sparse_vectors_config: Mapping[str, types.SparseVectorParams] | None = None,
        strict_mode_config: types.StrictModeConfig | None = None,
        metadata: types.Payload | None = None,
        **kwargs: Any,
    ) -> bool:
        """Change settings; those of indexes and quantization take effect with `optimize`.

        Metadata are merged by key into those that are there; None removes a key.
        """
        refuse_options(kwargs)
        refuse_server_settings(strict_mode_config=strict_mode_config)
        change = models.UpdateCollection(
            optimizers_config=optimizers_config,
            params=collection_params,
            vectors=vectors_config,
            hnsw_config=hnsw_config,
            quantization_config=quantization_config,
            sparse_vectors=_plain(sparse_vectors_config),
            metadata=metadata,
        )
        shard = self._shard(collection_name)
        shard.configure(lambda settings: changed(settings, change))
        return True

    def update_collection_aliases(
        self, change_aliases_operations: Sequence[types.AliasOperations], **kwargs: Any
    ) -> bool:
        """Create, rename and delete aliases: all of it at once, or nothing."""
        refuse_options(kwargs)
        self._check_open()
        with self._catalog.editing_aliases(timeout_s=self._lock_timeout_s) as names:
            for operation in change_aliases_operations:
                aliases.apply(operation, names, is_collection=self._catalog.has)
        return True

    def get_collection_aliases(
        self, collection_name: str, **kwargs: Any
    ) -> models.CollectionsAliasesResponse:
        """The aliases of a collection."""
        refuse_options(kwargs)
        self._check_open()
        return aliases.response(self._catalog.aliases(), of=collection_name)

    def get_aliases(self, **kwargs: Any) -> models.CollectionsAliasesResponse:
        """All aliases."""
        refuse_options(kwargs)
        self._check_open()
        return aliases.response(self._catalog.aliases())

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: types.PayloadSchemaType | None = None,
        field_type: types.PayloadSchemaType | None = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Index a payload key, for quick filters and for facets and orders.

        A graph that was built before does not know the key: filtered searches through it would
        silently miss most of what they should find. So the graphs of an optimized collection are
        built anew at once, which takes as long as `optimize` did. Create the indexes first.
        """
        refuse_options(kwargs)
        wanted = field_schema if field_schema is not None else field_type
        if wanted is None:
            raise bad_request("Wrong input: field_schema is needed, such as 'keyword'")
        schema = to_edge_index(wanted)
        shard = self._shard(collection_name)
        with shard.exclusive():
            before = index_types(shard)
            create = partial(edge.UpdateOperation.create_field_index, field_name, schema)
            result = shard.write(create, wait=wait)
            if index_types(shard) != before and has_built_graphs(shard):
                shard.optimize(force=True)
        return result

    def delete_payload_index(
        self, collection_name: str, field_name: str, wait: bool = True, **kwargs: Any
    ) -> models.UpdateResult:
        """Remove the index of a payload key; one that is not there is no error."""
        refuse_options(kwargs)
        delete = partial(edge.UpdateOperation.delete_field_index, field_name)
        return self._shard(collection_name).write(delete, wait=wait)

    def optimize(self, collection_name: str, *, force: bool = False) -> None:
        """Build the indexes that are due: graphs, quantized vectors, merged segments.

        A large collection is optimized in a child process; searches of this client wait for it.

        Args:
            collection_name: Which.
            force: Build graphs anew that are there already.

        Raises:
            StoreFull: There is no room for the copy that this makes for a while.
            StoreError: It failed; the collection is as it was.
        """
        self._shard(collection_name).optimize(force=force)

    def disk_usage(self, collection_name: str) -> int:
        """The bytes of disk that a collection takes; its files are sparse and look larger."""
        self._check_open()
        name = self._catalog.resolve(collection_name)
        if not self._catalog.has(name):
            raise missing_collection(collection_name)
        return allocated_bytes(self._catalog.folder(name))

    def info(self) -> models.VersionInfo:
        """Name and version of the engine."""
        return models.VersionInfo(title="qdrant-edge", version=version("qdrant-edge-py"))


def _plain(config: Any) -> Any:
    """A mapping of vectors as the dict that the models want."""
    return dict(config) if isinstance(config, Mapping) else config


def _server_only(method: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise unsupported(method)

    return refuse


# Whatever else qdrant-client's clients have names the server instead of failing without a word.
for _name, _method in vars(QdrantBase).items():
    if not _name.startswith("_") and getattr(EdgeClient, _name) is _method:
        setattr(EdgeClient, _name, _server_only(_name))
