"""A new version of a collection, from its creation to the moment the name stands for it.

`rebuild` and `copy` differ in where the points come from, and in what is checked at the end.
Whatever interrupts them, the name stands for a whole collection or for none: the new version says
in its manifest what it is being filled from, until all of it has been checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from qdrant_client import models

from ragkit.collection import Collection
from ragkit.delivery import WRITING, deliver
from ragkit.errors import CollectionError, CollectionMismatch
from ragkit.manifest import Manifest
from ragkit.moving.inherited import Inherited
from ragkit.moving.mirror import (
    Change,
    Filling,
    FillingCallback,
    Mirrored,
    Phase,
    Target,
    mirror,
    state_of,
)
from ragkit.optimizer import Indexing, held_back, wait_until_indexed
from ragkit.points import Points
from ragkit.schema import match
from ragkit.versions import base, number, physical, versions

_PASSES = 20  # over a source that something keeps writing to
_LISTED = 3  # chunks that are named in an error
_PLACEMENT = ("shard_number", "replication_factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the points come from, and what becomes of them.

    Attributes:
        points: Of all tenants, in the collection itself: a name may stand for another by the end.
        change: As `mirror` takes it.
        vectors: As `mirror` takes it.
        page: As `mirror` takes it.
        total: Points there are, about.
    """

    points: Points
    change: Change
    vectors: tuple[str, ...]
    page: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version that is being made.

    Attributes:
        collection: Under its own name.
        name: What is to stand for it.
        instead_of: What the name has to stand for until then; None for nothing.
        resumed: Whether an interrupted run had begun it.
        dropped: Versions that runs with other settings had begun, and that are gone.
    """

    collection: Collection
    name: str
    instead_of: str | None
    resumed: bool
    dropped: tuple[str, ...] = field(default=())

    @property
    def own_name(self) -> str:
        """The collection's."""
        return self.collection.name

    def check_name(self) -> None:
        """See that the name stands for what it stood for when this began.

        Raises:
            CollectionError: It does not: another run was quicker, and its readers and writers use
                another version by now.
        """
        client = self.collection.client
        stands_for = deliver(lambda: physical(client, self.name), what="reading the names")
        now = None if stands_for == self.name else stands_for
        if now != self.instead_of:
            raise CollectionError(
                f"{self.name!r} stands for {now!r} by now, and stood for {self.instead_of!r} when "
                "this began: somebody else has rebuilt or copied it meanwhile; look at it with "
                '"ragkit status", and run again if that is still needed'
            )


def begin(
    maker: Collection,
    wanted: Manifest,
    *,
    source: Points,
    page: int,
    quantization: models.QuantizationConfig | None,
    instead_of: str | None,
    settings: Mapping[str, object],
) -> Version:
    """Find the version that an interrupted run had begun to make just so, or make it.

    Those begun with other settings are dropped. One that is complete is nobody's to change: it is
    taken only if it holds what the source does, so that the name alone is missing.

    Args:
        maker: Under the public name, with the settings of the new version.
        wanted: The manifest to give it; `filling` is set.
        source: What it is made of.
        page: Points to read of it at once.
        quantization: What its manifest calls "custom"; None if it has a name.
        instead_of: What the name stands for now; None for nothing.
        settings: Those of placement that were asked for.
    """
    dropped: list[str] = []
    found: str | None = None
    for each in _later(maker, instead_of):
        held = _manifest(maker, each)
        if held is None:
            continue
        if found is None and _alike(held, wanted) and _made_so(maker, each, quantization, settings):
            own = Points(maker.client, each)
            if held.filling is not None or _is_copy(own, source, page):
                found = each
                continue
        if held.filling is not None:
            maker.drop_version(each)
            dropped.append(each)
    return Version(
        collection=_created(maker, wanted) if found is None else _marked(maker, wanted, found),
        name=maker.name,
        instead_of=instead_of,
        resumed=found is not None,
        dropped=tuple(dropped),
    )


def _created(maker: Collection, wanted: Manifest) -> Collection:
    collection = Collection(maker.client, maker.create_version(wanted))
    held = collection.open(unfinished=True)
    if held.filling is None or not _alike(held, wanted):
        raise CollectionError(
            f"somebody else has made {collection.name!r} at the same moment: run this again"
        )
    return collection


def _marked(maker: Collection, wanted: Manifest, version: str) -> Collection:
    collection = Collection(maker.client, version)
    if collection.open(unfinished=True).filling is None:
        collection.record(replace(collection.manifest, filling=wanted.filling))
    return collection


def _later(maker: Collection, current: str | None) -> list[str]:
    """The versions after the one that the name stands for."""
    is_ours = current is not None and base(current) == maker.name
    after = number(current) if current is not None and is_ours else 0
    held = deliver(lambda: versions(maker.client, maker.name), what="reading the names")
    return [each for each in held if number(each) > after]


def fill(version: Version, source: Source, progress: FillingCallback | None) -> Mirrored:
    """Fill the version from the source and index it; returns what the last pass came to."""
    target = version.collection
    on_server = not target.embedded
    with held_back(target.client, target.name) if on_server else nullcontext():
        last = _passes(version, source, "filling", progress)
    _check_refused(version, last)
    _index(target, source.total, progress)
    return last


def catch_up(version: Version, source: Source, progress: FillingCallback | None) -> Mirrored:
    """Bring over what has been written to the source meanwhile."""
    return _passes(version, source, "comparing", progress)


def check_counts(version: Version, last: Mirrored) -> None:
    """See that the store has as many points and documents as were brought over.

    Raises:
        CollectionError: It has not.
    """
    points = Points(version.collection.client, version.own_name)
    heads = models.Filter(must=[match("ordinal", 0)])
    held = (points.count(), points.count(heads))
    if held != (last.points, last.documents):
        raise CollectionError(
            f"{version.own_name!r} has {held[0]:,} points of {held[1]:,} documents, where "
            f"{last.points:,} of {last.documents:,} were brought over: {version.name!r} is as it "
            "was; run this again, and if that stays so, look at the store's log"
        )


def hand_over(version: Version, named: Collection, inheritance: Inherited) -> None:
    """Declare the version complete, and let the name stand for it.

    Args:
        version: Whole, and checked.
        named: Under the public name.
        inheritance: What is set last: limits that filling would have run into.
    """
    target = version.collection
    final: dict[str, Any] = {
        "strict_mode_config": inheritance.strict_mode,
        "optimizers_config": inheritance.settings.get("optimizers_config"),
    }
    final = {key: value for key, value in final.items() if value is not None}
    if final:
        deliver(
            lambda: target.client.update_collection(target.name, **final),
            what=f"changing collection {target.name!r}",
            retry=WRITING,
        )
    version.check_name()
    target.record(replace(target.manifest, filling=None))
    named.use_version(target.name)


def create_indexes(
    target: Collection,
    indexes: Mapping[str, models.PayloadSchemaType | models.PayloadSchemaParams],
) -> None:
    """Create all payload indexes, also those of the users' own, before the points come."""
    target.create_missing_indexes()
    for key, schema in indexes.items():
        _create_index(target, key, schema)


def _create_index(
    target: Collection, key: str, schema: models.PayloadSchemaType | models.PayloadSchemaParams
) -> None:
    deliver(
        lambda: target.client.create_payload_index(target.name, key, field_schema=schema),
        what=f"indexing {key!r} in collection {target.name!r}",
        retry=WRITING,
    )


def _passes(
    version: Version, source: Source, phase: Phase, progress: FillingCallback | None
) -> Mirrored:
    """Mirror until a pass finds nothing to do."""
    target = Target(
        points=Points(version.collection.client, version.own_name),
        sharded=version.collection.manifest.tenancy == "shard",
        guard=version.check_name,
        tidy=version.collection.optimize,
    )

    def tell(done: int) -> None:
        if progress is not None:
            progress(Filling(phase=phase, done=done, total=max(done, source.total)))

    for _ in range(_PASSES):
        done = mirror(
            source.points,
            target,
            change=source.change,
            vectors=source.vectors,
            page=source.page,
            progress=tell,
        )
        if not done.written and not done.deleted:
            return done
        phase = "comparing"
    raise CollectionError(
        f"something keeps writing to {source.points.name!r}: after {_PASSES} passes "
        f"{version.own_name!r} was still behind; let indexing end, and run this again: it goes on"
    )


def _check_refused(version: Version, last: Mirrored) -> None:
    if last.refused:
        listed = "; ".join(list(last.refused.values())[:_LISTED])
        more = f"; and {len(last.refused) - _LISTED:,} more" if len(last.refused) > _LISTED else ""
        raise CollectionError(
            f"{len(last.refused):,} of {last.points:,} chunks cannot be in {version.own_name!r}: "
            f"{listed}{more}. Mend or remove these documents (ragkit remove) and run this again: "
            f"it goes on; {version.name!r} is as it was"
        )


def _index(target: Collection, total: int, progress: FillingCallback | None) -> None:
    if target.embedded:
        if progress is not None:
            progress(Filling(phase="indexing", done=0, total=total))
        target.optimize()
        return

    def tell(indexing: Indexing) -> None:
        if progress is not None:
            done = min(indexing.indexed, indexing.points)
            progress(Filling(phase="indexing", done=done, total=indexing.points))

    wait_until_indexed(target.client, target.name, progress=tell)


def _manifest(maker: Collection, version: str) -> Manifest | None:
    """The manifest of a version; None if ragkit has not made it."""
    try:
        return Collection(maker.client, version).open(unfinished=True)
    except CollectionMismatch:
        return None


def _alike(held: Manifest, wanted: Manifest) -> bool:
    """Whether a version was begun with the same settings."""
    return replace(held, filling=None, created_with="") == replace(
        wanted, filling=None, created_with=""
    )


def _is_copy(made: Points, source: Points, page: int) -> bool:
    return state_of(made, page=page) == state_of(source, page=page)


def _made_so(
    maker: Collection,
    version: str,
    quantization: models.QuantizationConfig | None,
    settings: Mapping[str, object],
) -> bool:
    """Whether it has the settings that its manifest does not tell."""
    info = deliver(
        lambda: maker.client.get_collection(version), what=f"reading collection {version!r}"
    )
    config = info.config
    placement = {key: getattr(config.params, key) for key in _PLACEMENT if key in settings}
    asked = {key: value for key, value in settings.items() if key in _PLACEMENT}
    return placement == asked and quantization in (None, config.quantization_config)
