"""Settings of a collection with the changes that `update_collection` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from qdrant_client import models

from ragkit.edge.responses import bad_request, unsupported
from ragkit.edge.settings import refuse_server_settings

Model = TypeVar("Model", bound=BaseModel)


def changed(
    settings: models.CreateCollection, change: models.UpdateCollection
) -> models.CreateCollection:
    """The settings after the change.

    Raises:
        UnexpectedResponse: It names a vector that is not there.
        NotImplementedError: It is one that only a server can make.
    """
    params = change.params or models.CollectionParamsDiff()
    refuse_server_settings(
        replication_factor=params.replication_factor,
        write_consistency_factor=params.write_consistency_factor,
        read_fan_out_factor=params.read_fan_out_factor,
        read_fan_out_delay_ms=params.read_fan_out_delay_ms,
    )
    updates = {
        "vectors": _vectors(settings.vectors, change.vectors or {}),
        "sparse_vectors": _sparse_vectors(settings.sparse_vectors, change.sparse_vectors or {}),
        "hnsw_config": merged(settings.hnsw_config, change.hnsw_config),
        "optimizers_config": merged(settings.optimizers_config, change.optimizers_config),
        "quantization_config": _quantization(
            settings.quantization_config, change.quantization_config
        ),
        "metadata": _metadata(settings.metadata, change.metadata),
        **_given(params),
    }
    return settings.model_copy(update=updates)


def merged(settings: Model | None, diff: Model | None) -> Model | None:
    """The settings with what the diff names."""
    if settings is None or diff is None:
        return diff if settings is None else settings
    return settings.model_copy(update=_given(diff))


def _given(diff: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in diff if value is not None}


def _quantization(settings: Any, diff: Any) -> Any:
    if diff == models.Disabled.DISABLED:
        raise unsupported("removing quantization from a collection")
    return settings if diff is None else diff


def _vectors(settings: Any, diffs: Mapping[str, models.VectorParamsDiff]) -> Any:
    unnamed = isinstance(settings, models.VectorParams)
    vectors = {"": settings} if unnamed else dict(settings or {})
    for name, diff in diffs.items():
        _check_name(name, vectors)
        vectors[name] = _vector(vectors[name], diff)
    return vectors[""] if unnamed else vectors


def _vector(params: models.VectorParams, diff: models.VectorParamsDiff) -> models.VectorParams:
    updates = {
        **_given(diff),
        "hnsw_config": merged(params.hnsw_config, diff.hnsw_config),
        "quantization_config": _quantization(params.quantization_config, diff.quantization_config),
    }
    return params.model_copy(update=updates)


def _sparse_vectors(settings: Any, diffs: Mapping[str, models.SparseVectorParams]) -> Any:
    vectors = dict(settings or {})
    for name, diff in diffs.items():
        _check_name(name, vectors)
        index = merged(vectors[name].index, diff.index)
        vectors[name] = vectors[name].model_copy(update={**_given(diff), "index": index})
    return vectors or None


def _check_name(name: str, vectors: Mapping[str, Any]) -> None:
    if name not in vectors:
        raise bad_request(f"Wrong input: Not existing vector name error: {name}")


def _metadata(before: Mapping[str, Any] | None, change: Mapping[str, Any] | None) -> Any:
    if change is None:
        return before
    after = {**(before or {}), **change}
    return {key: value for key, value in after.items() if value is not None}
