"""What a collection that is made from another one takes over of that one's settings."""

from __future__ import annotations

from collections.abc import Collection as Container
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from qdrant_client import models

from ragkit.creation import Settings, creation, payload_indexes
from ragkit.manifest import Manifest
from ragkit.quantization import AnyQuantization, Quantization
from ragkit.schema import BM25, DENSE, PAYLOAD_INDEXES
from ragkit.tenancy import TENANT

# Qdrant's defaults, of all versions that ragkit works with; what differs somebody has chosen.
_GRAPH: Mapping[str, Container[Any]] = {
    "m": [16],
    "ef_construct": [100],
    "full_scan_threshold": [10_000],
    "max_indexing_threads": [0],
    "on_disk": [False],
}
_OPTIMIZERS: Mapping[str, Container[Any]] = {
    "deleted_threshold": [0.2],
    "vacuum_min_vector_number": [1000],
    "default_segment_number": [0],
    "indexing_threshold": [10_000, 20_000],
    "flush_interval_sec": [5],
    "max_optimization_threads": [0],  # held back, during a load
}
_LOG: Mapping[str, Container[Any]] = {
    "wal_capacity_mb": [32],
    "wal_segments_ahead": [0],
    "wal_retain_closed": [1],
}
_SERVER_ONLY = ("shard_number", "replication_factor", "write_consistency_factor", "wal_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Settings for the new collection.

    Attributes:
        settings: For its creation.
        strict_mode: To be set when it is filled; filling is not what its limits are meant for.
        indexes: Payload indexes of the users' own.
        metadata: Of the collection, the users' own.
        notes: What cannot be taken over, in words.
    """

    settings: Settings
    strict_mode: models.StrictModeConfig | None
    indexes: Mapping[str, models.PayloadSchemaType | models.PayloadSchemaParams]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def inherited(
    info: models.CollectionInfo,
    manifest: Manifest,
    *,
    was_embedded: bool,
    embedded: bool,
    asked: Settings,
) -> Inherited:
    """What to make the new collection with.

    Args:
        info: The old collection, by its store's own account.
        manifest: The old collection's.
        was_embedded: Whether the old one lives on the embedded engine.
        embedded: Whether the new one will.
        asked: Settings that go before the old collection's.
    """
    settings = _of_any_store(info.config, manifest, embedded=was_embedded)
    strict_mode = None
    notes = _not_taken(info.config.params)
    if not was_embedded:
        of_server, strict_mode = _of_server(info.config)
        if embedded:
            notes += _lost(manifest, of_server, strict_mode)
            strict_mode = None
        else:
            settings.update(of_server)
    settings.update(asked)
    if not embedded:  # the embedded engine refuses it at once
        strict_mode = settings.pop("strict_mode_config", strict_mode)
    ours = manifest.to_metadata()
    return Inherited(
        settings=settings,
        strict_mode=strict_mode,
        indexes=_own_indexes(info, manifest, placed=was_embedded == embedded),
        metadata={k: v for k, v in (info.config.metadata or {}).items() if k not in ours},
        notes=tuple(notes),
    )


def quantization_of(config: models.CollectionConfig, manifest: Manifest) -> Quantization:
    """The quantization that a collection was made with."""
    held: AnyQuantization = manifest.quantization
    if held == "custom" and config.quantization_config is not None:
        held = config.quantization_config
    return Quantization.of("none" if held == "custom" else held)


def _of_any_store(
    config: models.CollectionConfig, manifest: Manifest, *, embedded: bool
) -> Settings:
    settings: Settings = {}
    if config.params.on_disk_payload is not None:
        settings["on_disk_payload"] = config.params.on_disk_payload
    graph = _chosen(config.hnsw_config, _GRAPH)
    if graph not in ({}, _graph_of_ragkit(config, manifest, embedded=embedded)):
        settings["hnsw_config"] = models.HnswConfigDiff(**graph)
    return settings


def _graph_of_ragkit(
    config: models.CollectionConfig, manifest: Manifest, *, embedded: bool
) -> dict[str, Any]:
    """The graph settings that ragkit itself made the collection with."""
    made = creation(
        embedded=embedded,
        dim=manifest.dim,
        quantization=quantization_of(config, manifest),
        tenancy=manifest.tenancy,
        settings={},
    )
    graph = made.get("hnsw_config")
    return {} if graph is None else _chosen(graph, _GRAPH)


def _of_server(
    config: models.CollectionConfig,
) -> tuple[Settings, models.StrictModeConfig | None]:
    params = config.params
    settings: Settings = {}
    if params.shard_number is not None:
        settings["shard_number"] = params.shard_number
    if params.replication_factor is not None:
        settings["replication_factor"] = params.replication_factor
    if params.write_consistency_factor is not None:
        settings["write_consistency_factor"] = params.write_consistency_factor
    if optimizers := _chosen(config.optimizer_config, _OPTIMIZERS):
        settings["optimizers_config"] = models.OptimizersConfigDiff(**optimizers)
    if log := _chosen(config.wal_config, _LOG):
        settings["wal_config"] = models.WalConfigDiff(**log)
    strict = config.strict_mode_config
    told = None if strict is None else models.StrictModeConfig(**strict.model_dump())
    return settings, told


def _not_taken(params: models.CollectionParams) -> list[str]:
    """Vectors of the users' own, in one note."""
    dense = params.vectors if isinstance(params.vectors, Mapping) else {}
    others = sorted({*dense, *(params.sparse_vectors or {})} - {DENSE, BM25})
    return [f"vectors that ragkit does not know are left out: {', '.join(others)}"] * bool(others)


def _lost(
    manifest: Manifest,
    settings: Settings,
    strict_mode: models.StrictModeConfig | None,
) -> list[str]:
    """What a server does and the embedded engine cannot, one note for each."""
    lost = [
        f"{key}={value}"
        for key, value in settings.items()
        if key in _SERVER_ONLY and value not in (None, 1)
    ]
    if "optimizers_config" in settings:
        lost.append("settings of the optimizer")
    if strict_mode is not None and strict_mode.enabled:
        lost.append("strict mode")
    if manifest.tenancy == "shard":
        lost.append("a tenant's own shards (tenants stay apart by their key)")
    return [f"only a server has {each}: left out" for each in lost]


def _own_indexes(
    info: models.CollectionInfo, manifest: Manifest, *, placed: bool
) -> dict[str, models.PayloadSchemaType | models.PayloadSchemaParams]:
    """The payload indexes that are not ragkit's, as they were made; `placed` where they were."""
    ours = payload_indexes(embedded=True, tenancy=manifest.tenancy, own={})
    return {
        key: _index(held, placed=placed)
        for key, held in info.payload_schema.items()
        if key not in ours and key not in (*PAYLOAD_INDEXES, TENANT)
    }


def _index(
    held: models.PayloadIndexInfo, *, placed: bool
) -> models.PayloadSchemaType | models.PayloadSchemaParams:
    if held.params is None:
        return held.data_type
    elsewhere: dict[str, Any] = {
        key: None for key in ("on_disk", "memory") if key in type(held.params).model_fields
    }
    return held.params if placed else held.params.model_copy(update=elsewhere)


def _chosen(held: BaseModel | None, usual: Mapping[str, Container[Any]]) -> dict[str, Any]:
    """The settings that somebody has chosen: those that differ from Qdrant's own."""
    if held is None:
        return {}
    return {
        key: value for key, value in held if value is not None and value not in usual.get(key, ())
    }
