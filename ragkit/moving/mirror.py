"""One collection made equal to another, page by page: what `rebuild` and `copy` stand on.

A page is compared by what decides a point, its two hashes, before anything large is read. So a run
that goes on after an interruption, or looks whether the source has changed since, is cheap.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.edge import EdgeClient
from ragkit.errors import CollectionError
from ragkit.packing import speaks_grpc
from ragkit.pipeline import batched_within, in_background
from ragkit.points import Points
from ragkit.schema import DENSE
from ragkit.tenancy import TENANT
from ragkit.window import Window

_PAGE_BYTES = 24_000_000  # in memory, of a page with its vectors; some pages are there at once
_BYTES_PER_NUMBER = 32  # of a vector as a Python list
_BYTES_PER_PAYLOAD = 8_000
_MOST = 1000  # points of a page; the embedded engine flushes after each

_REQUEST_BYTES = 4_000_000  # a server takes 32 MB; over REST each takes many times that in memory
_JSON_BYTES_PER_NUMBER = 12
_IN_FLIGHT = 4  # requests to a server; the embedded engine does one thing at a time
_AHEAD = 1  # pages read while one is written
# The embedded engine holds in memory what is not indexed yet, some 4 KB a chunk.
_TIDY_EVERY = 20_000  # points

_HASHES = ("document_hash", "chunk_hash")
_KEYS = [*_HASHES, "ordinal", TENANT]

Phase: TypeAlias = Literal["filling", "comparing", "indexing", "checking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How far a new collection has come.

    Attributes:
        phase: What is being done: "filling", "comparing" (with a source that may have changed),
            "indexing" (the store's work) or "checking".
        done: Points that are through.
        total: Points there are, about.
    """

    phase: Phase
    done: int
    total: int


FillingCallback: TypeAlias = Callable[[Filling], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Points as they are to be written, and what could not be made of others.

    Attributes:
        points: Dense vectors may be numpy rows.
        refused: Why there is none, by point id.
        stopped: Raised once these points are written.
    """

    points: Sequence[models.PointStruct]
    refused: Mapping[str, str] = field(default_factory=dict)
    stopped: Exception | None = None


Change: TypeAlias = Callable[[Sequence[models.Record]], Changed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What a pass over the source came to.

    Attributes:
        points: Points of the source.
        documents: Documents among them, counted by their chunks 0.
        written: Points that the target lacked, or had otherwise.
        deleted: Points that the source did not have any more.
        refused: Why a point cannot be written, by its id.
        state: Tells two states of the source apart, within this process.
    """

    points: int
    documents: int
    written: int
    deleted: int
    refused: Mapping[str, str]
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be made equal.

    Attributes:
        points: Of all tenants.
        sharded: Whether each tenant has shards of its own there.
        guard: Called before each write; raises if it may not be written to any more.
        tidy: Called every now and then; indexes what the embedded engine holds in memory.
    """

    points: Points
    sharded: bool = False
    guard: Callable[[], None] = lambda: None
    tidy: Callable[[], None] = lambda: None


def mirror(
    source: Points,
    target: Target,
    *,
    change: Change,
    vectors: Sequence[str],
    page: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Mirrored:
    """Make the target's points those of the source, changed: write what differs, delete the rest.

    Args:
        source: Of all tenants.
        target: Its points, and how to write them.
        change: Makes the target's points of the source's; called in another thread.
        vectors: The names of those that `change` needs.
        page: Points read and written at once, see `page_of`.
        progress: Called with the number of points that are through, after every page.

    Raises:
        Exception: Whatever `change` stopped with; what it had made is written.
    """
    reading = _Reading(source, target.points, change=change, vectors=vectors, page=page)
    writing = _Writing(target)
    through = 0
    with in_background(reading.pages(), ahead=_AHEAD) as pages:
        try:
            for each in pages:
                writing.upsert(each.changed.points)
                if each.changed.stopped is not None:
                    writing.settle()
                    raise each.changed.stopped
                through += each.seen
                progress(through)
            writing.settle()
        finally:
            writing.leave()
    # All that the source has is there now, so the numbers tell whether anything else is.
    deleted = 0
    if target.points.count() != reading.points - len(reading.refused):
        deleted = _delete_others(source, target, page)
    return Mirrored(
        points=reading.points,
        documents=reading.documents,
        written=writing.written,
        deleted=deleted,
        refused=reading.refused,
        state=reading.state,
    )


def state_of(source: Points, *, page: int) -> int:
    """The state of a collection as `Mirrored` has it, from what is there now."""
    records = source.scroll(fields=_KEYS, page=page)
    return _combined(hash(_key(record)) for record in records)


def page_of(dim: int | None, config: models.CollectionConfig) -> int:
    """How many points to read at once: few enough for the memory, and for strict servers.

    Args:
        dim: The width of the vectors that are read; None for none.
        config: Of the collection that is read.
    """
    limits = [_MOST, _PAGE_BYTES // ((dim or 0) * _BYTES_PER_NUMBER + _BYTES_PER_PAYLOAD)]
    strict = config.strict_mode_config
    if strict is not None and strict.enabled:
        limits += [strict.max_query_limit or _MOST, strict.condition_max_size or _MOST]
    return max(1, min(limits))


def kept(record: models.Record, *, dense: Any = None) -> models.PointStruct:
    """The point of a record, with all its vectors that were read.

    Args:
        record: As a store gives it.
        dense: The dense vector to take instead.
    """
    named = dict(record.vector) if isinstance(record.vector, dict) else {}
    if dense is not None:
        named[DENSE] = dense
    # Built without validation: what a store gave, a store takes.
    return models.PointStruct.model_construct(
        id=record.id, vector=named, payload=record.payload or {}
    )


def copied(client: QdrantBase) -> Change:
    """Points as they are, for this client to write."""
    if not speaks_grpc(client):
        return lambda records: Changed(points=[kept(record) for record in records])

    def packed(records: Sequence[models.Record]) -> Changed:
        return Changed(points=[kept(record, dense=_row(record)) for record in records])

    return packed


def dense_of(records: Iterable[models.Record]) -> list[Any]:
    """The dense vectors of records that have one each.

    Raises:
        CollectionError: One has none.
    """
    found = []
    for record in records:
        if not isinstance(record.vector, dict) or DENSE not in record.vector:
            raise CollectionError(
                f"point {record.id} has no {DENSE!r} vector, which every point of its collection "
                "should have: delete it, or its document, and index that again"
            )
        found.append(record.vector[DENSE])
    return found


def _row(record: models.Record) -> Any:
    held = record.vector.get(DENSE) if isinstance(record.vector, dict) else None
    return None if held is None else np.asarray(held, np.float32)


@dataclass(frozen=True, slots=True)
class _Page:
    seen: int
    changed: Changed


class _Reading:
    """The source's pages, each with those points that the target lacks or has otherwise."""

    def __init__(
        self,
        source: Points,
        target: Points,
        *,
        change: Change,
        vectors: Sequence[str],
        page: int,
    ) -> None:
        self.points = self.documents = self.state = 0
        self.refused: dict[str, str] = {}
        self._source = source
        self._target = target
        self._change = change
        self._vectors = vectors
        self._page = page

    def pages(self) -> Generator[_Page, None, None]:
        for records in self._source.pages(fields=_KEYS, page=self._page):
            self.points += len(records)
            self.documents += sum(_payload(record).get("ordinal") == 0 for record in records)
            self.state = _combined([self.state, *(hash(_key(record)) for record in records)])
            changed = self._changed(records)
            self.refused.update(changed.refused)
            yield _Page(len(records), changed)
            if changed.stopped is not None:
                return  # or the next page would be paid for, and lost

    def _changed(self, records: Sequence[models.Record]) -> Changed:
        held = self._target.retrieve([record.id for record in records], fields=_HASHES)
        different = [
            record.id
            for record in records
            if str(record.id) not in held or hashes_of(held[str(record.id)]) != hashes_of(record)
        ]
        if not different:
            return Changed(points=())
        # Whole, and in one state with their hashes; what has gone since is for the next pass.
        whole = self._source.retrieve(different, fields=True, vectors=self._vectors)
        return self._change(list(whole.values()))


class _Writing:
    """Writes to the target, several at once to a server."""

    def __init__(self, target: Target) -> None:
        self.written = 0
        self._target = target
        self._embedded = isinstance(target.points.client, EdgeClient)
        self._tidied = 0
        self._keys: set[str] = set()
        self._window: Window[None] = Window(1 if self._embedded else _IN_FLIGHT)

    def upsert(self, points: Sequence[models.PointStruct]) -> None:
        """Start writing these; returns when few enough writes are going on."""
        if not points:
            return
        self._target.guard()
        for key, own in _by_tenant(points, sharded=self._target.sharded).items():
            where = self._shard(key)
            most = self._target.points.most_points
            for part in [own] if self._embedded else _parts(own, most=most):
                self._start(where, part)
        self.written += len(points)
        if self._embedded and self.written - self._tidied >= _TIDY_EVERY:
            self._tidied = self.written
            self._target.tidy()

    def settle(self) -> None:
        """Return when all is written."""
        while self._window:
            self._settle_oldest()

    def leave(self) -> None:
        """Send nothing any more, and give what is in flight some time to end."""
        self._window.leave()  # or an attempt made much later would undo what came after

    def _start(self, where: Points, points: Sequence[models.PointStruct]) -> None:
        while self._window.is_full:
            self._settle_oldest()
        self._window.begin(None, lambda: _upsert(where, points, stop=self._window.stopped))
        if self._embedded:
            self._settle_oldest()

    def _settle_oldest(self) -> None:
        _, error = self._window.settle()
        if error is not None:
            raise error

    def _shard(self, key: str | None) -> Points:
        points = self._target.points
        if key is None:
            return points
        own = Points(points.client, points.name, shard_key=key)
        if key not in self._keys:
            own.create_shards()
            self._keys.add(key)
        return own


def _upsert(
    where: Points,
    points: Sequence[models.PointStruct],
    *,
    stop: threading.Event,
) -> None:
    operation = models.UpsertOperation.model_construct(
        upsert=models.PointsList.model_construct(points=list(points))
    )
    hashes = {str(each.id): (each.payload or {}).get("document_hash") for each in points}
    known = all(isinstance(each, str) for each in hashes.values())
    expected = {k: str(v) for k, v in hashes.items()} if known else None
    where.update([operation], expected=expected, stop=stop)


def _delete_others(source: Points, target: Target, page: int) -> int:
    """Delete from the target what the source does not have; returns how many points."""
    deleted = 0
    for records in target.points.pages(fields=[TENANT], page=page):
        held = source.retrieve([record.id for record in records], fields=False)
        others = [record for record in records if str(record.id) not in held]
        if not others:
            continue
        target.guard()
        for key, own in _by_tenant(others, sharded=target.sharded).items():
            points = target.points
            where = points if key is None else Points(points.client, points.name, shard_key=key)
            where.delete(models.Filter(must=[models.HasIdCondition(has_id=[p.id for p in own])]))
        deleted += len(others)
    return deleted


def _by_tenant(points: Iterable[Any], *, sharded: bool) -> dict[str | None, list[Any]]:
    """Points, or records, by the shard key they belong to."""
    grouped: dict[str | None, list[Any]] = defaultdict(list)
    for point in points:
        owner = _payload(point).get(TENANT) if sharded else None
        grouped[owner].append(point)
    return grouped


def _parts(
    points: Sequence[models.PointStruct], *, most: int
) -> Iterator[list[models.PointStruct]]:
    """Points in lists that a server takes in one request."""
    return batched_within(points, weigh=_weight, most=most, heaviest=_REQUEST_BYTES)


def _weight(point: models.PointStruct) -> int:
    """About how many bytes a point takes in a request."""
    named = point.vector if isinstance(point.vector, dict) else {}
    dense: Any = named.get(DENSE, ())
    return len(json.dumps(point.payload)) + len(dense) * _JSON_BYTES_PER_NUMBER


def _payload(record: Any) -> Mapping[str, Any]:
    held: Mapping[str, Any] | None = record.payload
    return held or {}


def hashes_of(record: models.Record) -> tuple[Any, ...]:
    """What decides a point's payload and vectors, within a collection."""
    return tuple(_payload(record).get(key) for key in _HASHES)


def _key(record: models.Record) -> tuple[Any, ...]:
    return (str(record.id), *hashes_of(record))


def _combined(hashes: Iterable[int]) -> int:
    """One number for a set of hashes, whatever their order."""
    return sum(hashes) & 0xFFFF_FFFF_FFFF_FFFF
