"""The gRPC side: connections, the API key, answers and refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from qdrant_client import grpc as wire
from qdrant_client import models
from qdrant_client.conversions import common_types as types
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import (
    add_CollectionsServicer_to_server,
    add_PointsServicer_to_server,
    add_QdrantServicer_to_server,
)

from qdrant_standin import messages
from qdrant_standin.database import Database
from qdrant_standin.faults import Dropped
from qdrant_standin.points import Points
from qdrant_standin.refusals import Refusal, refusal_of
from qdrant_standin.relay import Relay
from qdrant_standin.requests import Recorded
from qdrant_standin.state import State

_WORKERS = 16
# What needs no key.
_OPEN = "HealthCheck"


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


class RpcServer:
    """Answers on a free port of 127.0.0.1 until it is closed."""

    def __init__(self, state: State, database: Database, points: Points) -> None:
        self._pool = ThreadPoolExecutor(_WORKERS)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(self._pool, options=[*options, ("grpc.so_reuseport", 0)])
        self._relay = Relay(self._server.add_insecure_port("127.0.0.1:0"))
        self.port = self._relay.port
        service = partial(_Service, state, self._relay)
        health = {"HealthCheck": _health(state)}
        collections = {**_collections(database), **_shard_keys(database)}
        rpcs = {**_reads(points), **_writes(points), **_indexes(database)}
        _add(add_QdrantServicer_to_server, service("Qdrant", health), self._server)
        _add(add_CollectionsServicer_to_server, service("Collections", collections), self._server)
        _add(add_PointsServicer_to_server, service("Points", rpcs), self._server)
        self._server.start()

    def close(self) -> None:
        """Stop, and end the connections that are open."""
        self._relay.close()
        self._server.stop(None).wait()
        self._pool.shutdown()


def _add(add: Any, service: _Service, server: grpc.Server) -> None:
    """Register a service by one of the generated functions, which have no types."""
    add(service, server)


class _Service:
    """Takes the place of a generated servicer: an attribute for each rpc of its name."""

    def __init__(self, state: State, relay: Relay, name: str, rpcs: Rpcs) -> None:
        self._state = state
        self._relay = relay
        self._name = name
        self._rpcs = rpcs

    def __getattr__(self, rpc: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        return partial(self._call, rpc)

    def _call(self, rpc: str, message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return self._answered(rpc, message, context)
        except Dropped as dropped:
            if dropped.cut:
                self._relay.cut(context.peer())
            # What a client says of a call whose connection ended.
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        except Exception as exc:  # noqa: BLE001  (whatever breaks is an answer, not a hung client)
            refusal = refusal_of(exc)
            self._state.note(exc, refusal)
            _abort(context, refusal)

    def _answered(self, rpc: str, message: Any, context: grpc.ServicerContext) -> Any:
        started = time.monotonic()
        headers = {key: value for key, value in context.invocation_metadata() if type(value) is str}
        if rpc != _OPEN and (refusal := self._state.denied(headers)) is not None:
            raise refusal
        found = self._rpcs.get(rpc)
        if found is None:
            raise Refusal(status=405, message=f"the stand-in of the tests has no {rpc}")
        recorded = Recorded(
            transport="grpc",
            operation=found.operation,
            method=rpc,
            path=f"/qdrant.{self._name}/{rpc}",
            headers=headers,
            content=message,
        )
        fields = self._state.carry_out(
            recorded, lambda: found.answer(message), lambda: _unsure(recorded)
        )
        timed = {} if rpc == _OPEN else {"time": time.monotonic() - started}
        return found.response(**fields, **timed)


def _unsure(request: Recorded) -> Mapping[str, Any]:
    result = wire.UpdateResult(status=wire.UpdateStatus.WaitTimeout)
    if request.operation == "batch":
        return {"result": [result] * len(request.body.operations)}
    return {"result": result}


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    context.set_trailing_metadata(refusal.metadata)
    context.abort(refusal.code, refusal.message)


def _health(state: State) -> Rpc:
    return Rpc(
        operation="service",
        answer=lambda message: state.version_info.model_dump(),
        response=wire.HealthCheckReply,
    )


def _collections(db: Database) -> Rpcs:
    engine = db.engine

    def rpc(operation: str, answer: Callable[[Any], Mapping[str, Any]], response: Any) -> Rpc:
        return Rpc(operation=operation, answer=answer, response=response)

    def done(operation: str, change: Callable[[Any], bool]) -> Rpc:
        return rpc(operation, lambda m: {"result": change(m)}, wire.CollectionOperationResponse)

    def create(message: wire.CreateCollection) -> bool:
        return db.create(message.collection_name, messages.create_collection(message))

    def update(message: wire.UpdateCollection) -> bool:
        change = GrpcToRest.convert_update_collection(message)
        return db.update(message.collection_name, change)

    def update_aliases(message: wire.ChangeAliases) -> bool:
        return db.update_aliases([GrpcToRest.convert_alias_operations(a) for a in message.actions])

    def names(message: Any) -> Mapping[str, Any]:
        found = engine.get_collections().collections
        return {"collections": [RestToGrpc.convert_collection_description(c) for c in found]}

    def aliases(found: models.CollectionsAliasesResponse) -> Mapping[str, Any]:
        return {"aliases": [RestToGrpc.convert_alias_description(a) for a in found.aliases]}

    def exists(message: Any) -> Mapping[str, Any]:
        there = engine.collection_exists(message.collection_name)
        return {"result": wire.CollectionExists(exists=there)}

    def info(message: Any) -> Mapping[str, Any]:
        return {"result": RestToGrpc.convert_collection_info(db.info(message.collection_name))}

    def aliases_of(message: Any) -> Mapping[str, Any]:
        return aliases(engine.get_collection_aliases(message.collection_name))

    return {
        "List": rpc("get_collections", names, wire.ListCollectionsResponse),
        "Get": rpc("get_collection", info, wire.GetCollectionInfoResponse),
        "CollectionExists": rpc("collection_exists", exists, wire.CollectionExistsResponse),
        "Create": done("create_collection", create),
        "Update": done("update_collection", update),
        "Delete": done("delete_collection", lambda m: db.delete(m.collection_name)),
        "UpdateAliases": done("update_aliases", update_aliases),
        "ListAliases": rpc(
            "get_aliases", lambda m: aliases(engine.get_aliases()), wire.ListAliasesResponse
        ),
        "ListCollectionAliases": rpc(
            "get_collection_aliases", aliases_of, wire.ListAliasesResponse
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
    def scored(response: types.QueryResponse) -> list[wire.ScoredPoint]:
        return [RestToGrpc.convert_scored_point(point) for point in response.points]

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
        "Get": Rpc(operation="retrieve", answer=retrieve, response=wire.GetResponse),
        "Scroll": Rpc(operation="scroll", answer=scroll, response=wire.ScrollResponse),
        "Count": Rpc(operation="count", answer=count, response=wire.CountResponse),
        "Facet": Rpc(operation="facet", answer=facet, response=wire.FacetResponse),
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
