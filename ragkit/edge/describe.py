"""A collection as the server describes it, and what `optimize` would do for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client import models

from ragkit.edge.engines import DEFAULT_HNSW, dense_params
from ragkit.edge.settings import from_edge_index
from ragkit.edge.shards import Shard

# The engine's defaults, which are the server's.
_DEFAULT_OPTIMIZERS = models.OptimizersConfig(
    deleted_threshold=0.2,
    vacuum_min_vector_number=1000,
    default_segment_number=0,
    indexing_threshold=10_000,
    flush_interval_sec=0,  # nothing is flushed by the clock here
    max_optimization_threads=None,
)


def collection_info(shard: Shard) -> models.CollectionInfo:
    """Settings and state of an open collection."""
    with shard.exclusive():
        state = shard.read(lambda engine: engine.info())
        pending = needs_optimization(shard)
        record = shard.record
    return models.CollectionInfo(
        status=models.CollectionStatus.GREY if pending else models.CollectionStatus.GREEN,
        optimizer_status=models.OptimizersStatusOneOf.OK,
        points_count=state.points_count,
        indexed_vectors_count=state.indexed_vectors_count,
        segments_count=state.segments_count,
        config=_config(record.settings),
        payload_schema={key: from_edge_index(info) for key, info in state.payload_schema.items()},
        created_at=datetime.fromisoformat(record.created_at),
    )


def index_types(shard: Shard) -> dict[str, Any]:
    """The types and parameters of payload indexes by key."""
    schema = shard.read(lambda engine: engine.info()).payload_schema
    indexes = {key: from_edge_index(info) for key, info in schema.items()}
    return {key: (index.data_type, index.params) for key, index in indexes.items()}


def has_built_graphs(shard: Shard) -> bool:
    """Whether dense vectors are searched through graphs that are there already."""
    settings = shard.record.settings
    shared = _over(DEFAULT_HNSW, settings.hnsw_config)
    graphs = (_over(shared, params.hnsw_config) for params in dense_params(settings).values())
    return any(graph.m > 0 for graph in graphs) and _indexed_dense_vectors(shard) > 0


def needs_optimization(shard: Shard) -> bool:
    """Whether `optimize` has settings to apply or vectors to index.

    The engine does not tell. It indexes a segment whose vectors of one name take more than the
    threshold, and new points come together in one segment.
    """
    if shard.record.stale:
        return True
    dense = shard.schema.dense
    pending = sum(_with_vector(shard, name) for name in dense) - _indexed_dense_vectors(shard)
    if pending <= 0:
        return False
    optimizers = _over(_DEFAULT_OPTIMIZERS, shard.record.settings.optimizers_config)
    largest = max(params.size for params in dense.values())
    pending_kb = pending / len(dense) * largest * 4 / 1024
    return 0 < (optimizers.indexing_threshold or 0) < pending_kb


def _indexed_dense_vectors(shard: Shard) -> int:
    """The dense vectors in optimized segments; the engine counts all sparse ones as indexed."""
    indexed = shard.read(lambda engine: engine.info()).indexed_vectors_count
    return indexed - sum(_with_vector(shard, name) for name in shard.schema.sparse)


def _with_vector(shard: Shard, name: str) -> int:
    has_vector = edge.Filter(must=[edge.HasVectorCondition(name)])
    return shard.read(lambda engine: engine.count(edge.CountRequest(filter=has_vector)))


def _config(settings: models.CreateCollection) -> models.CollectionConfig:
    return models.CollectionConfig(
        params=models.CollectionParams(
            vectors=settings.vectors,
            sparse_vectors=settings.sparse_vectors,
            on_disk_payload=settings.on_disk_payload is not False,
            payload=settings.payload,
            id_tracker=settings.id_tracker,
        ),
        hnsw_config=_over(DEFAULT_HNSW, settings.hnsw_config),
        optimizer_config=_over(_DEFAULT_OPTIMIZERS, settings.optimizers_config),
        quantization_config=settings.quantization_config,
        metadata=settings.metadata,
    )


def _over(defaults: Any, given: BaseModel | None) -> Any:
    """The defaults with what is given in their place."""
    if given is None:
        return defaults
    return defaults.model_copy(update={name: value for name, value in given if value is not None})
