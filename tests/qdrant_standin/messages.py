"""gRPC messages to the models of REST.

qdrant-client converts most parts; what it lacks is here: whole requests, and update operations, of
which its own conversion loses the shard keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import (
    GrpcToRest,
    grpc_field_type_to_payload_schema,
)


def given(message: Any, field: str, convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """A field converted, None where it is absent."""
    return convert(getattr(message, field)) if message.HasField(field) else None


def shard_key(message: Any) -> Any:
    """The shard key selector of a request."""
    return given(message, "shard_key_selector", GrpcToRest.convert_shard_key_selector)


def _filter(message: Any, field: str = "filter") -> Any:
    return given(message, field, GrpcToRest.convert_filter)


def _with_payload(message: Any) -> Any:
    return given(message, "with_payload", GrpcToRest.convert_with_payload_interface)


def _with_vector(message: Any) -> Any:
    selector = given(message, "with_vectors", GrpcToRest.convert_with_vectors_selector)
    return selector if selector is None or isinstance(selector, bool) else list(selector)


def create_collection(message: grpc.CreateCollection) -> models.CreateCollection:
    """The settings of a new collection."""
    convert = GrpcToRest
    return models.CreateCollection(
        vectors=given(message, "vectors_config", convert.convert_vectors_config),
        sparse_vectors=given(
            message, "sparse_vectors_config", convert.convert_sparse_vector_config
        ),
        shard_number=given(message, "shard_number"),
        sharding_method=given(message, "sharding_method", convert.convert_sharding_method),
        replication_factor=given(message, "replication_factor"),
        write_consistency_factor=given(message, "write_consistency_factor"),
        on_disk_payload=given(message, "on_disk_payload"),
        payload=given(message, "payload", convert.convert_payload_storage_params),
        id_tracker=given(message, "id_tracker", convert.convert_id_tracker_params),
        hnsw_config=given(message, "hnsw_config", convert.convert_hnsw_config_diff),
        wal_config=given(message, "wal_config", convert.convert_wal_config_diff),
        optimizers_config=given(
            message, "optimizers_config", convert.convert_optimizers_config_diff
        ),
        quantization_config=given(
            message, "quantization_config", convert.convert_quantization_config
        ),
        strict_mode_config=given(message, "strict_mode_config", convert.convert_strict_mode_config),
        metadata=convert.convert_payload(message.metadata) or None,
    )


def create_index(message: grpc.CreateFieldIndexCollection) -> models.CreateFieldIndex:
    """A payload index; parameters win over the bare type."""
    schema: Any = given(
        message, "field_index_params", GrpcToRest.convert_payload_schema_params
    ) or given(
        message,
        "field_type",
        lambda kind: GrpcToRest.convert_payload_schema_type(
            grpc_field_type_to_payload_schema(kind)
        ),
    )
    return models.CreateFieldIndex(field_name=message.field_name, field_schema=schema)


def create_shard_key(message: grpc.CreateShardKey) -> models.CreateShardingKey:
    """A shard key to be made."""
    return models.CreateShardingKey(
        shard_key=GrpcToRest.convert_shard_key(message.shard_key),
        shards_number=given(message, "shards_number"),
        replication_factor=given(message, "replication_factor"),
        placement=list(message.placement) or None,
        initial_state=given(message, "initial_state", GrpcToRest.convert_replica_state),
    )


def retrieve(message: grpc.GetPoints) -> models.PointRequest:
    """Points by id."""
    return models.PointRequest(
        ids=[GrpcToRest.convert_point_id(point_id) for point_id in message.ids],
        with_payload=_with_payload(message),
        with_vector=_with_vector(message),
        shard_key=shard_key(message),
    )


def scroll(message: grpc.ScrollPoints) -> models.ScrollRequest:
    """A page of points."""
    return models.ScrollRequest(
        filter=_filter(message),
        limit=given(message, "limit"),
        offset=given(message, "offset", GrpcToRest.convert_point_id),
        order_by=given(message, "order_by", GrpcToRest.convert_order_by),
        with_payload=_with_payload(message),
        with_vector=_with_vector(message),
        shard_key=shard_key(message),
    )


def count(message: grpc.CountPoints) -> models.CountRequest:
    """A count."""
    return models.CountRequest(
        filter=_filter(message), exact=given(message, "exact"), shard_key=shard_key(message)
    )


def facet(message: grpc.FacetCounts) -> models.FacetRequest:
    """A facet."""
    return models.FacetRequest(
        key=message.key,
        filter=_filter(message),
        limit=given(message, "limit"),
        exact=given(message, "exact"),
        shard_key=shard_key(message),
    )


def query(message: grpc.QueryPoints) -> models.QueryRequest:
    """A query."""
    return GrpcToRest.convert_query_points(message)


def query_groups(message: grpc.QueryPointGroups) -> models.QueryGroupsRequest:
    """A query whose answer is grouped."""
    return models.QueryGroupsRequest(
        prefetch=[GrpcToRest.convert_prefetch_query(p) for p in message.prefetch] or None,
        query=given(message, "query", GrpcToRest.convert_query),
        using=given(message, "using"),
        filter=_filter(message),
        params=given(message, "params", GrpcToRest.convert_search_params),
        score_threshold=given(message, "score_threshold"),
        with_payload=_with_payload(message),
        with_vector=_with_vector(message),
        lookup_from=given(message, "lookup_from", GrpcToRest.convert_lookup_location),
        limit=given(message, "limit"),
        group_size=given(message, "group_size"),
        group_by=message.group_by,
        with_lookup=given(message, "with_lookup", GrpcToRest.convert_with_lookup),
        shard_key=shard_key(message),
    )


def upsert(message: Any) -> models.UpsertOperation:
    """`UpsertPoints`, or that of a batch."""
    points = models.PointsList(
        points=[GrpcToRest.convert_point_struct(point) for point in message.points],
        shard_key=shard_key(message),
        update_filter=_filter(message, "update_filter"),
        update_mode=given(message, "update_mode", GrpcToRest.convert_update_mode),
    )
    return models.UpsertOperation(upsert=points)


def delete(message: Any) -> models.DeleteOperation:
    """`DeletePoints`, or that of a batch."""
    return models.DeleteOperation(delete=_selector(message, "points"))


def clear_payload(message: Any) -> models.ClearPayloadOperation:
    """`ClearPayloadPoints`, or that of a batch."""
    return models.ClearPayloadOperation(clear_payload=_selector(message, "points"))


def set_payload(message: Any) -> models.SetPayloadOperation:
    """`SetPayloadPoints`, or that of a batch."""
    return models.SetPayloadOperation(set_payload=_payload(message))


def overwrite_payload(message: Any) -> models.OverwritePayloadOperation:
    """`SetPayloadPoints` again, or that of a batch."""
    return models.OverwritePayloadOperation(overwrite_payload=_payload(message))


def delete_payload(message: Any) -> models.DeletePayloadOperation:
    """`DeletePayloadPoints`, or that of a batch."""
    keys = models.DeletePayload(keys=list(message.keys), **_points_or_filter(message))
    return models.DeletePayloadOperation(delete_payload=keys)


def update_vectors(message: Any) -> models.UpdateVectorsOperation:
    """`UpdatePointVectors`, or that of a batch."""
    vectors = models.UpdateVectors(
        points=[GrpcToRest.convert_point_vectors(point) for point in message.points],
        shard_key=shard_key(message),
        update_filter=_filter(message, "update_filter"),
    )
    return models.UpdateVectorsOperation(update_vectors=vectors)


def delete_vectors(message: Any) -> models.DeleteVectorsOperation:
    """`DeletePointVectors`, or that of a batch."""
    vectors = models.DeleteVectors(vector=list(message.vectors.names), **_points_or_filter(message))
    return models.DeleteVectorsOperation(delete_vectors=vectors)


_IN_BATCH: dict[str, Callable[[Any], models.UpdateOperation]] = {
    "upsert": upsert,
    "delete_points": delete,
    "set_payload": set_payload,
    "overwrite_payload": overwrite_payload,
    "delete_payload": delete_payload,
    "clear_payload": clear_payload,
    "update_vectors": update_vectors,
    "delete_vectors": delete_vectors,
}


def operation(message: grpc.PointsUpdateOperation) -> models.UpdateOperation:
    """One operation of a batch."""
    name = message.WhichOneof("operation")
    if name not in _IN_BATCH:
        raise ValueError(f"unsupported operation of a batch: {name}")
    return _IN_BATCH[name](getattr(message, name))


def _payload(message: Any) -> models.SetPayload:
    return models.SetPayload(
        payload=GrpcToRest.convert_payload(message.payload),
        key=given(message, "key"),
        **_points_or_filter(message),
    )


def _selector(message: Any, field: str) -> Any:
    selector = GrpcToRest.convert_points_selector(getattr(message, field))
    return selector.model_copy(update={"shard_key": shard_key(message)})


def _points_or_filter(message: Any) -> dict[str, Any]:
    """The selector of an operation as REST spells it, with the shard key."""
    selector = _selector(message, "points_selector")
    of_rest = "points" if isinstance(selector, models.PointIdsList) else "filter"
    return {of_rest: getattr(selector, of_rest), "shard_key": selector.shard_key}
