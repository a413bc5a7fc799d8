"""Collections, aliases and indexes, with the settings that only a server has."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qdrant_client import models

from qdrant_standin.optimizing import Optimizers
from qdrant_standin.refusals import Refusal, bad_input
from qdrant_standin.settings import (
    ServerSettings,
    check_change,
    check_new,
    for_engine,
    optimizers_for_engine,
)
from qdrant_standin.sharding import Place, ShardKey, ShardKeys
from ragkit.edge import EdgeClient

PEER_ID = 1_234_567_890_123_456


class Database:
    """What the server keeps; every name that comes in may be an alias."""

    def __init__(self, folder: Path, *, distributed: bool) -> None:
        self._distributed = distributed
        self.engine = EdgeClient(folder / "engine")
        self.shard_keys = ShardKeys(self.engine, folder / "keys")
        self._settings: dict[str, ServerSettings] = {}
        self._optimizers = Optimizers()
        self._operations = 0
        self._mutex = threading.RLock()

    def close(self) -> None:
        """Wait for the optimizer and close the files."""
        self._optimizers.wait()
        self.shard_keys.close()
        self.engine.close()

    def resolve(self, name: str) -> str:
        """The collection that a name or alias stands for."""
        aliases = self.engine.get_aliases().aliases
        return next((a.collection_name for a in aliases if a.alias_name == name), name)

    def to_read(self, name: str, selector: Any = None) -> list[Place]:
        """Where a read looks."""
        return self.shard_keys.to_read(self._known(name, selector), selector)

    def to_write(self, name: str, selector: Any = None) -> list[Place]:
        """Where a write goes."""
        return self.shard_keys.to_write(self._known(name, selector), selector)

    def _known(self, name: str, selector: Any) -> str:
        """The collection; one that is not there is refused before its shard key is."""
        name = self.resolve(name)
        if selector is not None:
            self.engine.get_collection(name)
        return name

    def create(self, name: str, settings: models.CreateCollection) -> bool:
        """Create a collection."""
        check_new(settings)
        creation = partial(_create, settings=settings)
        with self._mutex:
            creation(self.engine, name)
            if settings.sharding_method == models.ShardingMethod.CUSTOM:
                self.shard_keys.adopt(name, creation)
            self._settings[name] = ServerSettings(settings)
        return True

    def update(self, name: str, change: models.UpdateCollection) -> bool:
        """Change the settings of a collection."""
        name = self.resolve(name)
        check_change(change)
        self._optimizers.wait(name)
        with self._mutex:
            self.shard_keys.change(name, partial(_update, change=for_engine(change)))
            self._of(name).change(change)
        return True

    def _of(self, name: str) -> ServerSettings:
        """The settings of a collection; it may be from an earlier run that remembered them."""
        return self._settings.setdefault(name, ServerSettings(models.CreateCollection()))

    def delete(self, name: str) -> bool:
        """Delete a collection; whether there was one."""
        self._optimizers.wait(name)
        with self._mutex:
            there = self.engine.delete_collection(name)
            self.shard_keys.drop(name)
            self._settings.pop(name, None)
        return there

    def info(self, name: str) -> models.CollectionInfo:
        """Settings and state of a collection.

        The server optimizes by itself: where there is something to do this starts it, and says
        yellow until it is done.
        """
        name = self.resolve(name)
        places = self.shard_keys.to_read(name, None)
        info = self._optimizers.before(name)
        if info is None:
            info = _summed([place.client.get_collection(place.name) for place in places])
        if info.status == models.CollectionStatus.GREY:
            info = info.model_copy(update={"status": models.CollectionStatus.YELLOW})
            if not self._of(name).held_back:
                self._optimizers.start(name, places, info)
        return self._of(name).over(info)

    def create_index(
        self, name: str, body: models.CreateFieldIndex, *, wait: bool
    ) -> models.UpdateResult:
        """Index a payload key."""
        schema = body.field_schema
        if schema is None:
            raise bad_input(f"Field schema is not specified for field {body.field_name}")
        change = partial(_create_index, field=body.field_name, schema=schema)
        self.shard_keys.change(self.resolve(name), change)
        return self.done(wait=wait)

    def delete_index(self, name: str, field: str, *, wait: bool) -> models.UpdateResult:
        """Remove the index of a payload key."""
        change = partial(_delete_index, field=field)
        self.shard_keys.change(self.resolve(name), change)
        return self.done(wait=wait)

    def done(self, *, wait: bool) -> models.UpdateResult:
        """A write's result.

        The engine has applied it in either case. It is never asked to wait for the disk: what a
        test has written need not survive a power cut.
        """
        with self._mutex:
            self._operations += 1
            return models.UpdateResult(
                operation_id=self._operations,
                status=models.UpdateStatus.COMPLETED if wait else models.UpdateStatus.ACKNOWLEDGED,
            )

    def create_shard_key(self, name: str, body: models.CreateShardingKey) -> bool:
        """Make a shard key."""
        self._check_distributed()
        for peer in body.placement or ():
            if peer != PEER_ID:
                raise bad_input(f"Peer {peer} does not exist")
        self.shard_keys.create(self.resolve(name), body.shard_key)
        return True

    def delete_shard_key(self, name: str, key: ShardKey) -> bool:
        """Delete a shard key with its points."""
        self._check_distributed()
        self.shard_keys.delete(self.resolve(name), key)
        return True

    def _check_distributed(self) -> None:
        if not self._distributed:
            raise Refusal(status=405, message="Qdrant is running in standalone mode")

    def list_shard_keys(self, name: str) -> list[ShardKey]:
        """The shard keys of a collection."""
        name = self.resolve(name)
        self.engine.get_collection(name)
        return self.shard_keys.keys(name)

    def update_aliases(self, operations: Sequence[models.AliasOperations]) -> bool:
        """Change aliases; as on the server one that is refused leaves those before it changed."""
        with self._mutex:
            for operation in operations:
                self.engine.update_collection_aliases([operation])
        return True

    def optimizations(self, name: str) -> models.OptimizationsResponse:
        """What the optimizer has to do, as far as the engine tells: whether there is something."""
        info = self.info(name)
        queued = int(info.status == models.CollectionStatus.YELLOW)
        points = info.points_count or 0
        return models.OptimizationsResponse(
            summary=models.OptimizationsSummary(
                queued_optimizations=queued,
                queued_segments=queued * info.segments_count,
                queued_points=queued * points,
                idle_segments=0 if queued else info.segments_count,
            ),
            running=[],
        )

    def cluster_status(self) -> dict[str, Any]:
        """One node in distributed mode, the leader of itself."""
        if not self._distributed:
            return {"status": "disabled"}
        raft = {
            "term": 1,
            "commit": 1,
            "pending_operations": 0,
            "leader": PEER_ID,
            "role": "Leader",
            "is_voter": True,
        }
        return {
            "status": "enabled",
            "peer_id": PEER_ID,
            "peers": {str(PEER_ID): {"uri": "http://127.0.0.1:6335/"}},
            "raft_info": raft,
            "consensus_thread_status": {
                "consensus_thread_status": "working",
                "last_update": "2026-01-01T00:00:00Z",
            },
            "message_send_failures": {},
        }

    def cluster_info(self, name: str) -> models.CollectionClusterInfo:
        """The shards of a collection, all of them here and active."""
        name = self.resolve(name)
        places = self.shard_keys.to_read(name, None)
        shards = [(place.key, place.client.count(place.name).count) for place in places]
        if self.shard_keys.is_custom(name):
            shards = [(key, count) for key, count in shards if key is not None]
        else:
            # All points are said to be in the first shard, for there is only one behind them.
            shards.extend([(None, 0)] * (self._of(name).shard_number - 1))
        local = [
            models.LocalShardInfo(
                shard_id=shard_id,
                shard_key=key,
                points_count=count,
                state=models.ReplicaState.ACTIVE,
            )
            for shard_id, (key, count) in enumerate(shards)
        ]
        return models.CollectionClusterInfo(
            peer_id=PEER_ID,
            shard_count=len(local),
            local_shards=local,
            remote_shards=[],
            shard_transfers=[],
        )


def _create(client: EdgeClient, name: str, *, settings: models.CreateCollection) -> None:
    client.create_collection(
        name,
        vectors_config=settings.vectors,
        sparse_vectors_config=settings.sparse_vectors,
        on_disk_payload=settings.on_disk_payload,
        hnsw_config=settings.hnsw_config,
        optimizers_config=optimizers_for_engine(settings),
        quantization_config=settings.quantization_config,
        metadata=settings.metadata,
        payload=settings.payload,
        # Not `id_tracker`: the server learns of it after 1.19, and drops what it does not know.
    )


def _update(client: EdgeClient, name: str, *, change: models.UpdateCollection) -> None:
    client.update_collection(
        name,
        optimizers_config=change.optimizers_config,
        collection_params=change.params,
        vectors_config=change.vectors,
        hnsw_config=change.hnsw_config,
        quantization_config=change.quantization_config,
        sparse_vectors_config=change.sparse_vectors,
        metadata=change.metadata,
    )


def _create_index(client: EdgeClient, name: str, *, field: str, schema: Any) -> None:
    client.create_payload_index(name, field, field_schema=schema, wait=False)


def _delete_index(client: EdgeClient, name: str, *, field: str) -> None:
    client.delete_payload_index(name, field, wait=False)


def _summed(infos: list[models.CollectionInfo]) -> models.CollectionInfo:
    """What several places are like together."""
    grey = any(info.status == models.CollectionStatus.GREY for info in infos)
    counts = ("points_count", "indexed_vectors_count", "segments_count")
    summed = {name: sum(getattr(info, name) or 0 for info in infos) for name in counts}
    status = models.CollectionStatus.GREY if grey else infos[0].status
    return infos[0].model_copy(update={**summed, "status": status})
