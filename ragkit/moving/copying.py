"""Copy a collection to another store, or within one: ids, vectors, payload and manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice
from shlex import quote
from typing import Any, Unpack

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.creation import Settings, placed
from ragkit.delivery import deliver
from ragkit.edge import EdgeClient
from ragkit.errors import CollectionError
from ragkit.manifest import Manifest
from ragkit.moving.filling import (
    Source,
    Version,
    begin,
    catch_up,
    check_counts,
    create_indexes,
    fill,
    hand_over,
)
from ragkit.moving.inherited import Inherited, inherited, quantization_of
from ragkit.moving.mirror import Filling, FillingCallback, copied, hashes_of, page_of, state_of
from ragkit.points import Points
from ragkit.schema import BM25, DENSE
from ragkit.versions import physical

_SAMPLE = 200
_CLOSE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did.

    Attributes:
        name: Of the copy.
        source: The collection that was copied.
        new: The collection that the copy's name stands for.
        points: Points of it.
        documents: Documents of it.
        compared: Points whose payload and vectors were read from both sides and found equal.
        resumed: Whether an interrupted run had begun it.
        dropped: What runs with other settings had begun and never completed.
        notes: What is worth knowing, such as settings that the destination does not know.
        seconds: Wall time.
    """

    name: str
    source: str
    new: str
    points: int
    documents: int
    compared: int
    resumed: bool
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def copy(
    source: Collection,
    destination: QdrantBase,
    *,
    name: str | None = None,
    progress: FillingCallback | None = None,
    **settings: Unpack[Settings],
) -> CopyReport:
    """Copy a collection; nobody can search the copy before it is complete and checked.

    The source may be searched and written to meanwhile. After an interruption the same call goes
    on. All tenants' points are taken. Quantization "auto" is what the destination makes of it.

    Args:
        source: Which; its client, its name and nothing else counts.
        destination: The store to copy to, perhaps the same.
        name: Of the copy; the source's unless given.
        progress: Called after every page of points.
        **settings: Qdrant's own for the copy, as in `Collection`; others are the source's.

    Raises:
        CollectionNotFound: There is no such collection.
        CollectionError: The destination has a collection of that name, or does not hold in the
            end what the source does.
    """
    started = time.monotonic()
    plan = _planned(source, destination, name or source.name, settings)
    version = _begun(plan)
    create_indexes(version.collection, plan.inherited.indexes)
    origin = _origin(plan)
    fill(version, origin, progress)
    last = catch_up(version, origin, progress)
    check_counts(version, last)
    if progress is not None:
        progress(Filling(phase="checking", done=0, total=min(_SAMPLE, last.points)))
    compared = _compare(origin, Points(destination, version.own_name))
    named = Collection(destination, plan.name)
    dropped = hand_over(version, named, plan.inherited, origin.points)
    notes = list(plan.inherited.notes)
    is_shared = not isinstance(source.client, EdgeClient)  # others may write to it
    if is_shared and state_of(origin.points, page=origin.page) != last.state:
        notes.append(f"something wrote to {plan.physical!r} at the end, which is not in the copy")
    return CopyReport(
        name=plan.name,
        source=plan.physical,
        new=version.own_name,
        points=last.points,
        documents=last.documents,
        compared=compared,
        resumed=version.resumed,
        dropped=dropped,
        notes=tuple(notes),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a copy is to do; nothing is done yet."""

    source: QdrantBase
    physical: str
    info: models.CollectionInfo
    held: Manifest
    destination: QdrantBase
    name: str
    inherited: Inherited
    settings: Settings

    @property
    def is_to_edge(self) -> bool:
        return isinstance(self.destination, EdgeClient)

    @property
    def points(self) -> Points:
        """All that there is to copy."""
        strict = self.info.config.strict_mode_config
        return Points(self.source, self.physical, strict=strict)

    @property
    def page(self) -> int:
        return page_of(self.held.dim, self.info.config)


def _planned(source: Collection, destination: QdrantBase, name: str, settings: Settings) -> _Plan:
    held = Collection(source.client, source.name).open()
    if deliver(lambda: destination.collection_exists(name), what="reading the names"):
        raise CollectionError(
            f"the destination has a collection {name!r} already, which a copy does not overwrite: "
            "copy under another name (--as), or drop that one first (ragkit drop "
            f"{quote(name)} --db DESTINATION)"
        )
    own_name = deliver(lambda: physical(source.client, source.name), what="reading the names")
    info = deliver(
        lambda: source.client.get_collection(own_name), what=f"reading collection {own_name!r}"
    )
    return _Plan(
        source=source.client,
        physical=own_name,
        info=info,
        held=held,
        destination=destination,
        name=name,
        inherited=inherited(
            info,
            held,
            was_embedded=isinstance(source.client, EdgeClient),
            embedded=isinstance(destination, EdgeClient),
            asked=settings,
        ),
        settings=settings,
    )


def _begun(plan: _Plan) -> Version:
    quantization = quantization_of(plan.info.config, plan.held)
    custom = quantization.config if quantization.name == "custom" else None
    by_key = plan.is_to_edge and plan.held.tenancy == "shard"
    settings = plan.inherited.settings
    return begin(
        Collection(plan.destination, plan.name, quantization=quantization, **settings),
        replace(
            plan.held,
            filling=plan.physical,
            tenancy="payload" if by_key else plan.held.tenancy,
        ),
        source=plan.points,
        page=plan.page,
        quantization=custom and placed(custom, embedded=plan.is_to_edge),
        instead_of=None,
        settings=plan.settings,
    )


def _origin(plan: _Plan) -> Source:
    return Source(
        points=plan.points,
        change=copied(plan.destination),
        vectors=(BM25,) if plan.held.dim is None else (DENSE, BM25),
        page=plan.page,
        total=plan.info.points_count or 0,
    )


def _compare(source: Source, copy: Points) -> int:
    """Read a sample from both sides and hold them against each other; returns its size.

    Raises:
        CollectionError: A point is not the same.
    """
    names = source.vectors
    records = source.points.scroll(fields=True, vectors=names, page=source.page)
    held = list(islice(records, _SAMPLE))
    made = copy.retrieve([each.id for each in held], fields=True, vectors=names)
    compared = 0
    for record in held:
        other = made.get(str(record.id))
        if other is None or hashes_of(other) != hashes_of(record):
            continue  # it has been written to meanwhile
        if other.payload != record.payload or not _are_alike(record.vector, other.vector):
            raise CollectionError(
                f"point {record.id} is not the same in {copy.name!r} as in {source.points.name!r}: "
                f"drop the copy (ragkit drop {quote(copy.name)} --db DESTINATION) and copy again"
            )
        compared += 1
    return compared


def _are_alike(some: Any, others: Any) -> bool:
    """Whether named vectors are the same but for the last digits, at unit length the dense one."""
    some, others = some or {}, others or {}
    if some.keys() != others.keys():
        return False
    return all(_is_close(vector, others[name]) for name, vector in some.items())


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, models.SparseVector):
        a, b = (dict(zip(each.indices, each.values, strict=True)) for each in (one, other))
        return a.keys() == b.keys() and all(abs(a[i] - b[i]) <= _CLOSE for i in a)
    rows = [np.asarray(vector, np.float64) for vector in (one, other)]
    if rows[0].shape != rows[1].shape:
        return False
    first, second = (row / np.linalg.norm(row) for row in rows)
    return bool(np.abs(first - second).max() <= _CLOSE)
