"""What is asked of Qdrant when a collection is made: vectors, their placement, indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from qdrant_client import models

from ragkit.quantization import Quantization, pinned
from ragkit.schema import BM25, DENSE, PAYLOAD_INDEXES
from ragkit.tenancy import TENANT

# What a collection on the embedded engine gets that has become too large for a scan.
GRAPH = models.HnswConfigDiff(m=16, ef_construct=100)
MERGED = models.OptimizersConfigDiff(default_segment_number=2)
_NO_GRAPH = models.HnswConfigDiff(m=0)
# A tenant's search never leaves its own points: one graph for each, none over all of them.
_GRAPH_PER_TENANT = models.HnswConfigDiff(m=0, payload_m=16)
# Servers before 1.19 know the flag, later ones the tier; each passes over what it does not know.
ON_DISK: Mapping[str, Any] = {"on_disk": True, "memory": models.Memory.COLD}
IN_MEMORY: Mapping[str, Any] = {"on_disk": False, "memory": models.Memory.CACHED}
# On the embedded engine a segment once built stays as it is: merging all of them again and again
# takes memory and time that grow with the collection, and gains a scan nothing.
_SEGMENTS = models.OptimizersConfigDiff(default_segment_number=64)

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
# With `payload_m` a server builds a graph for each value of every index that does not say no: for
# tenants there is to be one for each of them, and none for a corpus that all of them have.
_WITHOUT_GRAPH: dict[models.PayloadSchemaType, models.PayloadSchemaParams] = {
    models.PayloadSchemaType.KEYWORD: models.KeywordIndexParams(
        type=models.KeywordIndexType.KEYWORD, enable_hnsw=False
    ),
    models.PayloadSchemaType.INTEGER: models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, enable_hnsw=False
    ),
}


class Settings(TypedDict, total=False):
    """Qdrant's own settings of a new collection, passed on as they are.

    What they mean is in Qdrant's documentation of `create_collection`. All but `hnsw_config`,
    `optimizers_config` and `on_disk_payload` are for a server.
    """

    hnsw_config: models.HnswConfigDiff
    optimizers_config: models.OptimizersConfigDiff
    wal_config: models.WalConfigDiff
    on_disk_payload: bool
    shard_number: int
    replication_factor: int
    write_consistency_factor: int
    strict_mode_config: models.StrictModeConfig


def creation(
    *,
    embedded: bool,
    dim: int | None,
    quantization: Quantization,
    tenancy: str | None,
    settings: Settings,
) -> dict[str, Any]:
    """The arguments for `create_collection`, but name and metadata.

    Args:
        embedded: On the embedded engine rather than a server.
        dim: The width of the dense vectors; None for none.
        quantization: Of the dense vectors.
        tenancy: As the manifest has it.
        settings: The caller's, which win over ragkit's own.
    """
    config = quantization.settled(embedded=embedded).config if dim else None
    wanted: dict[str, Any] = {
        "vectors_config": _vectors(dim, on_disk=config is not None and not embedded),
        "sparse_vectors_config": {BM25: _sparse(embedded=embedded)},
        "quantization_config": config and placed(config, embedded=embedded),
    }
    if embedded:
        wanted["optimizers_config"] = _SEGMENTS
    if tenancy == "shard":
        wanted["sharding_method"] = models.ShardingMethod.CUSTOM
    if embedded and config is not None:
        wanted["hnsw_config"] = _NO_GRAPH
    elif tenancy is not None and not embedded:
        wanted["hnsw_config"] = _GRAPH_PER_TENANT
    return {key: value for key, value in {**wanted, **settings}.items() if value is not None}


def requantization(config: models.QuantizationConfig | None, *, embedded: bool) -> dict[str, Any]:
    """The arguments for `update_collection` that quantize otherwise, or no more with None."""
    placement = IN_MEMORY if config is None else ON_DISK
    change: dict[str, Any] = {"quantization_config": models.Disabled.DISABLED}
    if config is not None:
        change["quantization_config"] = placed(config, embedded=embedded)
    if not embedded:
        change["vectors_config"] = {DENSE: models.VectorParamsDiff(**placement)}
    return change


def placed(config: models.QuantizationConfig, *, embedded: bool) -> models.QuantizationConfig:
    """The quantization with its vectors in RAM on a server, where the originals are on disk."""
    return config if embedded else pinned(config)


def payload_indexes(
    *, embedded: bool, tenancy: str | None, own: Mapping[str, models.PayloadSchemaType | str]
) -> dict[str, models.PayloadSchemaType | models.PayloadSchemaParams]:
    """The payload indexes of a collection, by key.

    Args:
        embedded: On the embedded engine rather than a server.
        tenancy: As the manifest has it.
        own: Those that the caller named.
    """
    by_tenant = tenancy is not None and not embedded
    indexes = {
        field: _index(models.PayloadSchemaType(schema), embedded=embedded, by_tenant=by_tenant)
        for field, schema in {**PAYLOAD_INDEXES, **own}.items()
    }
    if tenancy is not None:
        # Qdrant keeps a tenant's points side by side.
        indexes[TENANT] = models.KeywordIndexParams(
            type=models.KeywordIndexType.KEYWORD, is_tenant=True
        )
    return indexes


def _index(
    kind: models.PayloadSchemaType, *, embedded: bool, by_tenant: bool
) -> models.PayloadSchemaType | models.PayloadSchemaParams:
    if by_tenant:
        return _WITHOUT_GRAPH.get(kind, kind)
    return _INDEXES_ON_DISK.get(kind, kind) if embedded else kind


def _vectors(dim: int | None, *, on_disk: bool) -> dict[str, models.VectorParams]:
    if dim is None:
        return {}
    # The memory that quantization saves is the reason for it: the originals are read from disk,
    # and only to rescore.
    placement = ON_DISK if on_disk else {}
    return {DENSE: models.VectorParams(size=dim, distance=models.Distance.COSINE, **placement)}


def _sparse(*, embedded: bool) -> models.SparseVectorParams:
    index = models.SparseIndexParams(memory=models.Memory.COLD) if embedded else None
    return models.SparseVectorParams(modifier=models.Modifier.IDF, index=index)
