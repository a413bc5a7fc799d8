"""What each HTTP path and method stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError
from qdrant_client import models

from qdrant_standin.database import Database
from qdrant_standin.points import Points
from qdrant_standin.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request for one of the routes.

    Attributes:
        path: What the path's placeholders stand for.
        parameters: What follows the "?".
        body: The JSON as it came.
    """

    path: Mapping[str, str]
    parameters: Mapping[str, str]
    body: bytes

    @property
    def name(self) -> str:
        """The collection's name in the path."""
        name = self.path["name"]
        if not 1 <= len(name) <= 255:
            raise Refusal(status=422, message="Validation error in path parameters")
        return name

    @property
    def wait(self) -> bool:
        """Whether the write is to be done when the answer goes out; the server's default is no."""
        return self.parameters.get("wait", "false") == "true"

    def parsed(self, type_: Any) -> Any:
        """The body as one of qdrant-client's models."""
        try:
            return _adapter(type_).validate_json(self.body)
        except ValidationError as exc:
            raise Refusal(status=400, message=f"Format error in JSON body: {exc}") from exc


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_)


Answer: TypeAlias = Callable[[Call], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    Attributes:
        operation: The word for it in what is recorded.
        answer: What goes into "result".
    """

    method: str
    pattern: re.Pattern[str]
    operation: str
    answer: Answer


def routes(database: Database, points: Points) -> list[Route]:
    """All routes, in the order in which they are tried."""
    return [
        *_aliases(database),
        *_collections(database),
        *_shards(database),
        *_indexes(database),
        *_reads(points),
        *_writes(points),
    ]


def _route(method: str, path: str, operation: str, answer: Answer) -> Route:
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", path)
    return Route(
        method=method, pattern=re.compile(f"{pattern}/?"), operation=operation, answer=answer
    )


def _collections(db: Database) -> list[Route]:
    def create(call: Call) -> bool:
        return db.create(call.name, call.parsed(models.CreateCollection))

    def update(call: Call) -> bool:
        return db.update(call.name, call.parsed(models.UpdateCollection))

    def exists(call: Call) -> dict[str, bool]:
        return {"exists": db.engine.collection_exists(call.name)}

    def optimizations(call: Call) -> models.OptimizationsResponse:
        return db.optimizations(call.name)

    all_, one = "/collections", "/collections/{name}"
    return [
        _route("GET", all_, "get_collections", lambda call: db.engine.get_collections()),
        _route("GET", one, "get_collection", lambda call: db.info(call.name)),
        _route("PUT", one, "create_collection", create),
        _route("PATCH", one, "update_collection", update),
        _route("DELETE", one, "delete_collection", lambda call: db.delete(call.name)),
        _route("GET", f"{one}/exists", "collection_exists", exists),
        _route("GET", f"{one}/optimizations", "get_optimizations", optimizations),
    ]


def _aliases(db: Database) -> list[Route]:
    def update(call: Call) -> bool:
        return db.update_aliases(call.parsed(models.ChangeAliasesOperation).actions)

    def of_one(call: Call) -> models.CollectionsAliasesResponse:
        return db.engine.get_collection_aliases(call.name)

    return [
        _route("GET", "/aliases", "get_aliases", lambda call: db.engine.get_aliases()),
        _route("POST", "/collections/aliases", "update_aliases", update),
        _route("GET", "/collections/{name}/aliases", "get_collection_aliases", of_one),
    ]


def _shards(db: Database) -> list[Route]:
    def keys(call: Call) -> dict[str, Any]:
        return {"shard_keys": [{"key": key} for key in db.list_shard_keys(call.name)]}

    def create(call: Call) -> bool:
        return db.create_shard_key(call.name, call.parsed(models.CreateShardingKey))

    def delete(call: Call) -> bool:
        return db.delete_shard_key(call.name, call.parsed(models.DropShardingKey).shard_key)

    at = "/collections/{name}"
    return [
        _route("GET", "/cluster", "cluster_status", lambda call: db.cluster_status()),
        _route("GET", f"{at}/cluster", "cluster_info", lambda call: db.cluster_info(call.name)),
        _route("GET", f"{at}/shards", "list_shard_keys", keys),
        _route("PUT", f"{at}/shards", "create_shard_key", create),
        _route("POST", f"{at}/shards/delete", "delete_shard_key", delete),
    ]


def _indexes(db: Database) -> list[Route]:
    def create(call: Call) -> Any:
        return db.create_index(call.name, call.parsed(models.CreateFieldIndex), wait=call.wait)

    def delete(call: Call) -> Any:
        return db.delete_index(call.name, call.path["field"], wait=call.wait)

    path = "/collections/{name}/index"
    return [
        _route("PUT", path, "create_index", create),
        _route("DELETE", f"{path}/{{field}}", "delete_index", delete),
    ]


def _reads(points: Points) -> list[Route]:
    def read(type_: Any, method: Callable[[str, Any], Any]) -> Answer:
        return lambda call: method(call.name, call.parsed(type_))

    def query(call: Call) -> Any:
        return points.query(call.name, [call.parsed(models.QueryRequest)])[0]

    def query_batch(call: Call) -> Any:
        return points.query(call.name, call.parsed(models.QueryRequestBatch).searches)

    def one(call: Call) -> Any:
        text = call.path["id"]
        request = models.PointRequest(
            ids=[int(text) if text.isdigit() else text], with_payload=True, with_vector=True
        )
        found = points.retrieve(call.name, request)
        if not found:
            raise Refusal(status=404, message=f"Not found: Point with id {text} does not exists!")
        return found[0]

    at = "/collections/{name}/points"
    facet = "/collections/{name}/facet"
    groups = read(models.QueryGroupsRequest, points.query_groups)
    return [
        _route("POST", at, "retrieve", read(models.PointRequest, points.retrieve)),
        _route("POST", f"{at}/scroll", "scroll", read(models.ScrollRequest, points.scroll)),
        _route("POST", f"{at}/count", "count", read(models.CountRequest, points.count)),
        _route("POST", facet, "facet", read(models.FacetRequest, points.facet)),
        _route("POST", f"{at}/query", "query", query),
        _route("POST", f"{at}/query/batch", "query_batch", query_batch),
        _route("POST", f"{at}/query/groups", "query_groups", groups),
        _route("GET", f"{at}/{{id}}", "retrieve", one),
    ]


def _writes(points: Points) -> list[Route]:
    def write(type_: Any, operation: type[Any], member: str) -> Answer:
        """A write of one kind is a batch of one."""

        def answer(call: Call) -> Any:
            given = operation.model_construct(**{member: call.parsed(type_)})
            return points.write(call.name, [given], wait=call.wait)[0]

        return answer

    def batch(call: Call) -> Any:
        operations = call.parsed(models.UpdateOperations).operations
        return points.write(call.name, operations, wait=call.wait)

    at = "/collections/{name}/points"
    upsert = write(models.PointInsertOperations, models.UpsertOperation, "upsert")
    delete = write(models.PointsSelector, models.DeleteOperation, "delete")
    set_payload = write(models.SetPayload, models.SetPayloadOperation, "set_payload")
    overwrite = write(models.SetPayload, models.OverwritePayloadOperation, "overwrite_payload")
    drop_keys = write(models.DeletePayload, models.DeletePayloadOperation, "delete_payload")
    clear = write(models.PointsSelector, models.ClearPayloadOperation, "clear_payload")
    vectors = write(models.UpdateVectors, models.UpdateVectorsOperation, "update_vectors")
    drop_vectors = write(models.DeleteVectors, models.DeleteVectorsOperation, "delete_vectors")
    return [
        _route("PUT", at, "upsert", upsert),
        _route("POST", f"{at}/batch", "batch", batch),
        _route("POST", f"{at}/delete", "delete", delete),
        _route("POST", f"{at}/payload", "set_payload", set_payload),
        _route("PUT", f"{at}/payload", "overwrite_payload", overwrite),
        _route("POST", f"{at}/payload/delete", "delete_payload", drop_keys),
        _route("POST", f"{at}/payload/clear", "clear_payload", clear),
        _route("PUT", f"{at}/vectors", "update_vectors", vectors),
        _route("POST", f"{at}/vectors/delete", "delete_vectors", drop_vectors),
    ]
