"""What each rpc stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from qdrant_client import grpc as wire
from qdrant_client import models
from qdrant_client.conversions import common_types as types
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from qdrant_standin import messages
from qdrant_standin.database import Database
from qdrant_standin.points import Points
from qdrant_standin.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One rpc of a service.

    Attributes:
        operation: The word for it in what is recorded.
        answer: From the message to the fields of the response.
        response: Its type.
    """

    operation: str
    answer: Callable[[Any], Mapping[str, Any]]
    response: Callable[..., Any]


Rpcs: TypeAlias = Mapping[str, Rpc]


def collection_rpcs(database: Database) -> Rpcs:
    """The rpcs of `qdrant.Collections`."""
    return {**_collections(database), **_aliases(database), **_shard_keys(database)}


def point_rpcs(database: Database, points: Points) -> Rpcs:
    """The rpcs of `qdrant.Points`."""
    return {**_reads(points), **_queries(points), **_writes(points), **_indexes(database)}


def _done(operation: str, change: Callable[[Any], bool]) -> Rpc:
    """A change of collections."""
    return Rpc(
        operation=operation,
        answer=lambda message: {"result": change(message)},
        response=wire.CollectionOperationResponse,
    )


def _collections(db: Database) -> Rpcs:
    def create(message: wire.CreateCollection) -> bool:
        return db.create(message.collection_name, messages.create_collection(message))

    def update(message: wire.UpdateCollection) -> bool:
        change = GrpcToRest.convert_update_collection(message)
        return db.update(message.collection_name, change)

    def names(message: Any) -> Mapping[str, Any]:
        found = db.engine.get_collections().collections
        return {"collections": [RestToGrpc.convert_collection_description(c) for c in found]}

    def exists(message: Any) -> Mapping[str, Any]:
        there = db.engine.collection_exists(message.collection_name)
        return {"result": wire.CollectionExists(exists=there)}

    def info(message: Any) -> Mapping[str, Any]:
        return {"result": RestToGrpc.convert_collection_info(db.info(message.collection_name))}

    return {
        "List": Rpc(
            operation="get_collections", answer=names, response=wire.ListCollectionsResponse
        ),
        "Get": Rpc(
            operation="get_collection", answer=info, response=wire.GetCollectionInfoResponse
        ),
        "CollectionExists": Rpc(
            operation="collection_exists", answer=exists, response=wire.CollectionExistsResponse
        ),
        "Create": _done("create_collection", create),
        "Update": _done("update_collection", update),
        "Delete": _done("delete_collection", lambda m: db.delete(m.collection_name)),
    }


def _aliases(db: Database) -> Rpcs:
    def listed(found: models.CollectionsAliasesResponse) -> Mapping[str, Any]:
        return {"aliases": [RestToGrpc.convert_alias_description(a) for a in found.aliases]}

    def update(message: wire.ChangeAliases) -> bool:
        return db.update_aliases([GrpcToRest.convert_alias_operations(a) for a in message.actions])

    def all_(message: Any) -> Mapping[str, Any]:
        return listed(db.engine.get_aliases())

    def of_one(message: Any) -> Mapping[str, Any]:
        return listed(db.engine.get_collection_aliases(message.collection_name))

    return {
        "UpdateAliases": _done("update_aliases", update),
        "ListAliases": Rpc(operation="get_aliases", answer=all_, response=wire.ListAliasesResponse),
        "ListCollectionAliases": Rpc(
            operation="get_collection_aliases", answer=of_one, response=wire.ListAliasesResponse
        ),
    }


def _shard_keys(db: Database) -> Rpcs:
    def create(message: Any) -> Mapping[str, Any]:
        body = messages.create_shard_key(message.request)
        return {"result": db.create_shard_key(message.collection_name, body)}

    def delete(message: Any) -> Mapping[str, Any]:
        key = GrpcToRest.convert_shard_key(message.request.shard_key)
        return {"result": db.delete_shard_key(message.collection_name, key)}

    def names(message: Any) -> Mapping[str, Any]:
        keys = db.list_shard_keys(message.collection_name)
        described = [wire.ShardKeyDescription(key=RestToGrpc.convert_shard_key(k)) for k in keys]
        return {"shard_keys": described}

    def cluster(message: Any) -> Mapping[str, Any]:
        info = db.cluster_info(message.collection_name)
        shards = [RestToGrpc.convert_local_shard_info(shard) for shard in info.local_shards]
        return {
            "peer_id": info.peer_id,
            "shard_count": info.shard_count,
            "local_shards": shards,
        }

    return {
        "CreateShardKey": Rpc(
            operation="create_shard_key", answer=create, response=wire.CreateShardKeyResponse
        ),
        "DeleteShardKey": Rpc(
            operation="delete_shard_key", answer=delete, response=wire.DeleteShardKeyResponse
        ),
        "ListShardKeys": Rpc(
            operation="list_shard_keys", answer=names, response=wire.ListShardKeysResponse
        ),
        "CollectionClusterInfo": Rpc(
            operation="cluster_info", answer=cluster, response=wire.CollectionClusterInfoResponse
        ),
    }


def _reads(points: Points) -> Rpcs:
    def retrieve(message: wire.GetPoints) -> Mapping[str, Any]:
        records = points.retrieve(message.collection_name, messages.retrieve(message))
        return {"result": [_record(record) for record in records]}

    def scroll(message: wire.ScrollPoints) -> Mapping[str, Any]:
        page = points.scroll(message.collection_name, messages.scroll(message))
        following = page.next_page_offset
        next_id = None if following is None else RestToGrpc.convert_extended_point_id(following)
        return {"result": [_record(r) for r in page.points], "next_page_offset": next_id}

    def count(message: wire.CountPoints) -> Mapping[str, Any]:
        counted = points.count(message.collection_name, messages.count(message))
        return {"result": RestToGrpc.convert_count_result(counted)}

    def facet(message: wire.FacetCounts) -> Mapping[str, Any]:
        found = points.facet(message.collection_name, messages.facet(message))
        return {"hits": [RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits]}

    return {
        "Get": Rpc(operation="retrieve", answer=retrieve, response=wire.GetResponse),
        "Scroll": Rpc(operation="scroll", answer=scroll, response=wire.ScrollResponse),
        "Count": Rpc(operation="count", answer=count, response=wire.CountResponse),
        "Facet": Rpc(operation="facet", answer=facet, response=wire.FacetResponse),
    }


def _queries(points: Points) -> Rpcs:
    def scored(response: types.QueryResponse) -> list[wire.ScoredPoint]:
        return [RestToGrpc.convert_scored_point(point) for point in response.points]

    def query(message: wire.QueryPoints) -> Mapping[str, Any]:
        answers = points.query(message.collection_name, [messages.query(message)])
        return {"result": scored(answers[0])}

    def query_batch(message: wire.QueryBatchPoints) -> Mapping[str, Any]:
        requests = [messages.query(each) for each in message.query_points]
        answers = points.query(message.collection_name, requests)
        return {"result": [wire.BatchResult(result=scored(answer)) for answer in answers]}

    def groups(message: wire.QueryPointGroups) -> Mapping[str, Any]:
        found = points.query_groups(message.collection_name, messages.query_groups(message))
        return {"result": RestToGrpc.convert_groups_result(found)}

    return {
        "Query": Rpc(operation="query", answer=query, response=wire.QueryResponse),
        "QueryBatch": Rpc(
            operation="query_batch", answer=query_batch, response=wire.QueryBatchResponse
        ),
        "QueryGroups": Rpc(
            operation="query_groups", answer=groups, response=wire.QueryGroupsResponse
        ),
    }


def _record(record: models.Record) -> wire.RetrievedPoint:
    payload = {} if record.payload is None else record.payload
    return RestToGrpc.convert_record(record.model_copy(update={"payload": payload}))


def _writes(points: Points) -> Rpcs:
    def write(operation: str, convert: Callable[[Any], models.UpdateOperation]) -> Rpc:
        def answer(message: Any) -> Mapping[str, Any]:
            results = points.write(message.collection_name, [convert(message)], wait=message.wait)
            return {"result": RestToGrpc.convert_update_result(results[0])}

        return Rpc(operation=operation, answer=answer, response=wire.PointsOperationResponse)

    def batch(message: wire.UpdateBatchPoints) -> Mapping[str, Any]:
        operations = [messages.operation(each) for each in message.operations]
        if not operations:  # refused over gRPC, and not over REST
            raise Refusal(status=422, message="Validation error in body: [operations: empty]")
        results = points.write(message.collection_name, operations, wait=message.wait)
        return {"result": [RestToGrpc.convert_update_result(result) for result in results]}

    return {
        "Upsert": write("upsert", messages.upsert),
        "Delete": write("delete", messages.delete),
        "UpdateVectors": write("update_vectors", messages.update_vectors),
        "DeleteVectors": write("delete_vectors", messages.delete_vectors),
        "SetPayload": write("set_payload", messages.set_payload),
        "OverwritePayload": write("overwrite_payload", messages.overwrite_payload),
        "DeletePayload": write("delete_payload", messages.delete_payload),
        "ClearPayload": write("clear_payload", messages.clear_payload),
        "UpdateBatch": Rpc(operation="batch", answer=batch, response=wire.UpdateBatchResponse),
    }


def _indexes(db: Database) -> Rpcs:
    def index(operation: str, change: Callable[[Any], models.UpdateResult]) -> Rpc:
        def answer(message: Any) -> Mapping[str, Any]:
            return {"result": RestToGrpc.convert_update_result(change(message))}

        return Rpc(operation=operation, answer=answer, response=wire.PointsOperationResponse)

    def create(message: wire.CreateFieldIndexCollection) -> models.UpdateResult:
        body = messages.create_index(message)
        return db.create_index(message.collection_name, body, wait=message.wait)

    def delete(message: wire.DeleteFieldIndexCollection) -> models.UpdateResult:
        return db.delete_index(message.collection_name, message.field_name, wait=message.wait)

    return {
        "CreateFieldIndex": index("create_index", create),
        "DeleteFieldIndex": index("delete_index", delete),
    }
