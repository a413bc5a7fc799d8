"""The methods of qdrant-client that change points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any, TypeAlias
from uuid import uuid4

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.conversions import common_types as types

from ragkit.edge.access import CollectionAccess, refuse_options
from ragkit.edge.filters import to_edge_filter
from ragkit.edge.points import (
    EdgeId,
    to_edge_ids,
    to_edge_payload,
    to_edge_point_vectors,
    to_edge_points,
)
from ragkit.edge.responses import bad_request, unsupported
from ragkit.edge.shards import Shard

_UPDATE_MODES = {
    None: None,
    models.UpdateMode.UPSERT: edge.UpdateMode.Upsert,
    models.UpdateMode.INSERT_ONLY: edge.UpdateMode.InsertOnly,
    models.UpdateMode.UPDATE_ONLY: edge.UpdateMode.UpdateOnly,
}
_Selected: TypeAlias = list[EdgeId] | edge.Filter


class PointWrites(CollectionAccess):
    """Changes points; see `EdgeClient` for what `wait` means."""

    def upsert(
        self,
        collection_name: str,
        points: types.Points,
        wait: bool = True,
        update_filter: types.Filter | None = None,
        update_mode: types.UpdateMode | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Insert points, replacing those with the same ids."""
        refuse_options(kwargs)
        shard = self._shard(collection_name)
        return _upsert(shard, points, update_filter, update_mode, wait=wait)

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[types.PointVectors],
        wait: bool = True,
        update_filter: types.Filter | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the named vectors of existing points and keep the rest of them."""
        refuse_options(kwargs)
        return _update_vectors(self._shard(collection_name), points, update_filter, wait=wait)

    def delete_vectors(
        self,
        collection_name: str,
        vectors: Sequence[str],
        points: types.PointsSelector,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove the named vectors of points."""
        refuse_options(kwargs)
        return _delete_vectors(self._shard(collection_name), vectors, points, wait=wait)

    def delete(
        self,
        collection_name: str,
        points_selector: types.PointsSelector,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Delete points; ids that are not there are no error."""
        refuse_options(kwargs)
        return _delete(self._shard(collection_name), points_selector, wait=wait)

    def set_payload(
        self,
        collection_name: str,
        payload: types.Payload,
        points: types.PointsSelector,
        key: str | None = None,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Set some payload keys of points, below `key` if one is given, and keep the others."""
        refuse_options(kwargs)
        return _set_payload(self._shard(collection_name), payload, points, key, wait=wait)

    def overwrite_payload(
        self,
        collection_name: str,
        payload: types.Payload,
        points: types.PointsSelector,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the whole payload of points."""
        refuse_options(kwargs)
        return _overwrite_payload(self._shard(collection_name), payload, points, None, wait=wait)

    def delete_payload(
        self,
        collection_name: str,
        keys: Sequence[str],
        points: types.PointsSelector,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove payload keys of points."""
        refuse_options(kwargs)
        return _delete_payload(self._shard(collection_name), keys, points, wait=wait)

    def clear_payload(
        self,
        collection_name: str,
        points_selector: types.PointsSelector,
        wait: bool = True,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Remove all payload of points."""
        refuse_options(kwargs)
        return _clear_payload(self._shard(collection_name), points_selector, wait=wait)

    def batch_update_points(
        self,
        collection_name: str,
        update_operations: Sequence[types.UpdateOperation],
        wait: bool = True,
        **kwargs: Any,
    ) -> list[models.UpdateResult]:
        """Apply several operations one after the other, with one flush at the end.

        As on a server an operation that is refused does not undo those before it.
        """
        refuse_options(kwargs)
        shard = self._shard(collection_name)
        last = len(update_operations) - 1
        return [
            _apply(shard, operation, wait=wait, flush=position == last)
            for position, operation in enumerate(update_operations)
        ]

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[types.PointStruct],
        batch_size: int = 64,
        wait: bool = False,
        update_filter: types.Filter | None = None,
        update_mode: types.UpdateMode | None = None,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        **kwargs: Any,
    ) -> None:
        """Upsert many points in batches.

        `parallel`, `method` and `max_retries` are accepted and have no effect: there is no
        network to wait for or to fail.
        """
        del parallel, method, max_retries
        refuse_options(kwargs)
        shard = self._shard(collection_name)
        remaining = iter(points)
        while batch := list(islice(remaining, batch_size)):
            _upsert(shard, batch, update_filter, update_mode, wait=wait)

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[types.PointId] | None = None,
        **kwargs: Any,
    ) -> None:
        """Upsert columns of vectors, payloads and ids in batches; ids are random by default."""
        points = _points_of(
            vectors,
            repeat(None) if payload is None else iter(payload),
            (str(uuid4()) for _ in repeat(None)) if ids is None else iter(ids),
        )
        self.upload_points(collection_name, points, **kwargs)


def _points_of(
    vectors: Any, payloads: Iterator[Any], ids: Iterator[Any]
) -> Iterator[models.PointStruct]:
    for row in _rows(vectors):
        try:
            point_id, payload = next(ids), next(payloads)
        except StopIteration:
            raise ValueError("expected an id and a payload for each vector, got fewer") from None
        yield models.PointStruct.model_construct(id=point_id, vector=row, payload=payload)


def _rows(vectors: Any) -> Iterator[Any]:
    if not isinstance(vectors, dict):
        yield from vectors
        return
    for row in zip(*vectors.values(), strict=True):
        yield dict(zip(vectors, row, strict=True))


def _upsert(
    shard: Shard, points: Any, update_filter: Any, update_mode: Any, *, wait: bool
) -> models.UpdateResult:
    rows = points if isinstance(points, models.Batch) else list(points)
    edge_points = to_edge_points(rows, shard.schema)
    if not edge_points:
        raise bad_request("Wrong input: Empty update request")
    operation = partial(
        edge.UpdateOperation.upsert_points,
        edge_points,
        to_edge_filter(update_filter),
        _UPDATE_MODES[update_mode],
    )
    data = [rows] if isinstance(rows, models.Batch) else rows
    return shard.write(operation, wait=wait, data=data, count=len(edge_points))


def _update_vectors(
    shard: Shard, points: Any, update_filter: Any, *, wait: bool
) -> models.UpdateResult:
    if not points:
        raise bad_request("Wrong input: must specify points to update")
    operation = partial(
        edge.UpdateOperation.update_vectors,
        [to_edge_point_vectors(point, shard.schema) for point in points],
        to_edge_filter(update_filter),
    )
    return shard.write(operation, wait=wait, data=points, count=len(points))


def _delete_vectors(
    shard: Shard, vectors: Sequence[str], points: Any, *, wait: bool
) -> models.UpdateResult:
    if not vectors:
        raise bad_request("Wrong input: must specify vector names to delete")
    for name in vectors:
        if name not in shard.schema.dense and name not in shard.schema.sparse:
            raise bad_request(f"Wrong input: Not existing vector name error: {name}")
    return _write_selected(
        shard,
        points,
        edge.UpdateOperation.delete_vectors,
        edge.UpdateOperation.delete_vectors_by_filter,
        list(vectors),
        wait=wait,
    )


def _delete(shard: Shard, points: Any, *, wait: bool) -> models.UpdateResult:
    return _write_selected(
        shard,
        points,
        edge.UpdateOperation.delete_points,
        edge.UpdateOperation.delete_points_by_filter,
        wait=wait,
    )


def _set_payload(
    shard: Shard, payload: Any, points: Any, key: str | None, *, wait: bool
) -> models.UpdateResult:
    return _write_selected(
        shard,
        points,
        edge.UpdateOperation.set_payload,
        edge.UpdateOperation.set_payload_by_filter,
        to_edge_payload(payload, parents=0 if key is None else 1 + key.count(".")),
        key,
        wait=wait,
        data=payload,
    )


def _overwrite_payload(
    shard: Shard, payload: Any, points: Any, key: str | None, *, wait: bool
) -> models.UpdateResult:
    return _write_selected(
        shard,
        points,
        edge.UpdateOperation.overwrite_payload,
        edge.UpdateOperation.overwrite_payload_by_filter,
        to_edge_payload(payload, parents=0 if key is None else 1 + key.count(".")),
        key,
        wait=wait,
        data=payload,
    )


def _delete_payload(
    shard: Shard, keys: Sequence[str], points: Any, *, wait: bool
) -> models.UpdateResult:
    return _write_selected(
        shard,
        points,
        edge.UpdateOperation.delete_payload,
        edge.UpdateOperation.delete_payload_by_filter,
        list(keys),
        wait=wait,
    )


def _clear_payload(shard: Shard, points: Any, *, wait: bool) -> models.UpdateResult:
    return _write_selected(
        shard,
        points,
        edge.UpdateOperation.clear_payload,
        edge.UpdateOperation.clear_payload_by_filter,
        wait=wait,
    )


def _write_selected(
    shard: Shard,
    points: Any,
    by_ids: Callable[..., edge.UpdateOperation],
    by_filter: Callable[..., edge.UpdateOperation],
    *arguments: Any,
    wait: bool,
    data: Any = None,
) -> models.UpdateResult:
    """Write to the points selected; `data` is what each of them gets."""
    selected = _selected(points)
    if isinstance(selected, list):
        operation, count = partial(by_ids, selected, *arguments), len(selected)
    else:
        operation = partial(by_filter, selected, *arguments)
        count = _matching(shard, selected)
    return shard.write(operation, wait=wait, data=[data] * count, count=count)


def _selected(points: Any) -> _Selected:
    """The points that a selector of qdrant-client means."""
    if isinstance(points, models.PointIdsList | models.FilterSelector):
        refuse_options({"shard_key": points.shard_key})
        points = points.points if isinstance(points, models.PointIdsList) else points.filter
    if isinstance(points, models.Filter):
        return to_edge_filter(points) or edge.Filter()
    if isinstance(points, str) or not isinstance(points, Sequence):
        raise bad_request(
            "Wrong input: expected a list of point ids, a Filter, a PointIdsList or a "
            f"FilterSelector, got {type(points).__name__}"
        )
    if not points:
        raise bad_request("Wrong input: No point id or filter specified")
    return to_edge_ids(points)


def _matching(shard: Shard, selected: edge.Filter) -> int:
    return shard.read(lambda engine: engine.count(edge.CountRequest(filter=selected)))


def _apply(shard: Shard, operation: Any, *, wait: bool, flush: bool) -> models.UpdateResult:
    """Apply one operation of a batch; only the last one of the batch waits for the disk."""
    result = _apply_one(shard, operation, wait=wait and flush)
    status = models.UpdateStatus.COMPLETED if wait else models.UpdateStatus.ACKNOWLEDGED
    return result.model_copy(update={"status": status})


def _apply_one(shard: Shard, operation: Any, *, wait: bool) -> models.UpdateResult:
    match operation:
        case models.UpsertOperation(upsert=models.PointsList() as given):
            points: Any = given.points
        case models.UpsertOperation(upsert=models.PointsBatch() as given):
            points = given.batch
        case models.DeleteOperation():
            return _delete(shard, operation.delete, wait=wait)
        case models.SetPayloadOperation(set_payload=given):
            return _set_payload(shard, given.payload, _either(given), given.key, wait=wait)
        case models.OverwritePayloadOperation(overwrite_payload=given):
            return _overwrite_payload(shard, given.payload, _either(given), given.key, wait=wait)
        case models.DeletePayloadOperation(delete_payload=given):
            return _delete_payload(shard, given.keys, _either(given), wait=wait)
        case models.ClearPayloadOperation():
            return _clear_payload(shard, operation.clear_payload, wait=wait)
        case models.UpdateVectorsOperation(update_vectors=given):
            refuse_options({"shard_key": given.shard_key})
            return _update_vectors(shard, given.points, given.update_filter, wait=wait)
        case models.DeleteVectorsOperation(delete_vectors=given):
            return _delete_vectors(shard, given.vector, _either(given), wait=wait)
        case _:
            raise unsupported(f"the update operation {type(operation).__name__}")
    refuse_options({"shard_key": given.shard_key})
    return _upsert(shard, points, given.update_filter, given.update_mode, wait=wait)


def _either(given: Any) -> Any:
    """The points or the filter of an operation; ids win, as on the server."""
    refuse_options({"shard_key": given.shard_key})
    return given.filter if given.points is None else given.points
