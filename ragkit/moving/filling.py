"""A new version of a collection, from its creation to the moment the name stands for it.

`rebuild` and `copy` differ in where the points come from, and in what is checked at the end.
Whatever interrupts them, the name stands for a whole collection or for none: the new version says
in its manifest what it is being filled from, until all of it has been checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.delivery import WRITING, deliver
from ragkit.edge import EdgeClient
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound
from ragkit.failures import Failure, kind_of
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
    page_of,
    state_of,
)
from ragkit.optimizer import Indexing, held_back, wait_until_indexed
from ragkit.points import Points
from ragkit.schema import match
from ragkit.versions import alias_map, base, number, physical, versions

_NAMES = "reading the names"
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
        dropped: Empty versions that runs with other settings had begun, and that are gone.
        others: Those with points; another run may be at work on one until this one is in use.
    """

    collection: Collection
    name: str
    instead_of: str | None
    resumed: bool
    dropped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def own_name(self) -> str:
        """The collection's."""
        return self.collection.name

    def check(self) -> None:
        """See that this may still be written to.

        Raises:
            CollectionError: The name stands for another version by now, or this one is gone, or is
                another than it was: its vectors would be mixed with those of somebody else.
        """
        self.check_name()
        try:
            held = _manifest(self.collection, self.own_name)
        except CollectionNotFound as exc:
            raise CollectionError(
                f"{self.own_name!r} is gone: somebody has deleted it while it was being filled; "
                f"{self.name!r} is as it was, run this again"
            ) from exc
        if held is None or not _alike(held, self.collection.manifest):
            raise CollectionError(
                f"{self.own_name!r} is another collection by now: somebody has deleted it while it "
                f"was being filled, and made one with other settings; {self.name!r} is as it was, "
                "run this again when that is done"
            )

    def check_name(self) -> None:
        """See that the name stands for what it stood for when this began.

        Raises:
            CollectionError: It does not: another run was quicker, and its readers and writers use
                another version by now.
        """
        if (now := self._stands_for()) != self.instead_of:
            raise CollectionError(
                f"{self.name!r} stands for {now!r} by now, and stood for {self.instead_of!r} when "
                "this began: somebody else has rebuilt or copied it meanwhile; look at it with "
                '"ragkit status", and run again if that is still needed'
            )

    def mark(self, filling: str | None) -> None:
        """Declare it unfinished, unless its name has been given to it meanwhile.

        Raises:
            CollectionError: Another run has completed it, and it is in use.
        """
        self.check_name()
        held = self.collection.manifest
        self.collection.record(replace(held, filling=filling))
        if self._stands_for() == self.own_name:
            self.collection.record(held)
        self.check_name()

    def _stands_for(self) -> str | None:
        client = self.collection.client
        now = deliver(lambda: physical(client, self.name), what=_NAMES)
        return None if now == self.name else now


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

    Those begun with other settings are dropped in the end, when nobody can be at work on them any
    more. One that is complete is nobody's to change: it is taken only if it holds what the source
    does, so that the name alone is missing; never one that a name stands for, or the source itself.

    Args:
        maker: Under the public name, with the settings of the new version.
        wanted: The manifest to give it; `filling` is set.
        source: What it is made of.
        page: Points to read of it at once.
        quantization: What its manifest calls "custom"; None if it has a name.
        instead_of: What the name stands for now; None for nothing.
        settings: Those of placement that were asked for.
    """
    wanted = replace(wanted, held_threads=None)  # those of a load into the source
    dropped: list[str] = []
    others: list[str] = []
    found: str | None = None
    for each in _later(maker, instead_of, source):
        held = _manifest(maker, each)
        if held is None:
            continue
        if found is None and _alike(held, wanted) and _made_so(maker, each, quantization, settings):
            own = _all_points(maker.client, each)
            if held.filling is not None or _is_copy(own, source, page):
                found = each
                continue
        if held.filling is not None and _is_empty(maker.client, each):
            maker.drop_version(each)  # or it would be taken for the new one
            dropped.append(each)
        elif held.filling is not None:
            others.append(each)
    version = Version(
        collection=_created(maker, wanted) if found is None else Collection(maker.client, found),
        name=maker.name,
        instead_of=instead_of,
        resumed=found is not None,
        dropped=tuple(dropped),
        others=tuple(others),
    )
    if version.collection.open(unfinished=True).filling is None:
        version.mark(wanted.filling)
    return version


def _created(maker: Collection, wanted: Manifest) -> Collection:
    collection = Collection(maker.client, maker.create_version(wanted))
    held = collection.open(unfinished=True)
    if held.filling is None or not _alike(held, wanted):
        raise CollectionError(
            f"somebody else has made {collection.name!r} at the same moment: run this again"
        )
    return collection


def _later(maker: Collection, current: str | None, source: Points) -> list[str]:
    """The versions after the one that the name stands for, that nobody else can be using."""
    is_ours = current is not None and base(current) == maker.name
    after = number(current) if current is not None and is_ours else 0
    held = deliver(lambda: versions(maker.client, maker.name), what=_NAMES)
    used = _named(maker.client)
    if not (maker.embedded or isinstance(source.client, EdgeClient)) or (
        maker.client is source.client
    ):
        used.add(source.name)  # two clients may be of one server
    return [each for each in held if number(each) > after and each not in used]


def _named(client: QdrantBase) -> set[str]:
    """The collections that a name stands for."""
    return set(alias_map(deliver(client.get_aliases, what=_NAMES)).values())


def fill(version: Version, source: Source, progress: FillingCallback | None) -> Mirrored:
    """Fill the version from the source and index it; returns what the last pass came to."""
    target = version.collection
    on_server = not target.embedded
    held = held_back(target.client, target.name) if on_server else nullcontext()
    with _explained(version), held:
        last = _passes(version, source, "filling", progress)
    _check_refused(version, last)
    _index(target, source.total, progress)
    return last


def catch_up(version: Version, source: Source, progress: FillingCallback | None) -> Mirrored:
    """Bring over what has been written to the source meanwhile."""
    with _explained(version):
        return _passes(version, source, "comparing", progress)


@contextmanager
def _explained(version: Version) -> Iterator[None]:
    """Where a collection is not found any more, say what became of the version."""
    try:
        yield
    except Exception as exc:
        if kind_of(exc) is Failure.NOT_FOUND:
            version.check()
        raise


def check_counts(version: Version, last: Mirrored) -> None:
    """See that the store has as many points and documents as were brought over.

    Raises:
        CollectionError: It has not.
    """
    points = _all_points(version.collection.client, version.own_name)
    heads = models.Filter(must=[match("ordinal", 0)])
    held = (points.count(), points.count(heads))
    if held != (last.points, last.documents):
        raise CollectionError(
            f"{version.own_name!r} has {held[0]:,} points of {held[1]:,} documents, where "
            f"{last.points:,} of {last.documents:,} were brought over: {version.name!r} is as it "
            "was; run this again, and if that stays so, look at the store's log"
        )


def hand_over(
    version: Version, named: Collection, inheritance: Inherited, source: Points
) -> tuple[str, ...]:
    """Declare the version complete, and let the name stand for it.

    Args:
        version: Whole, and checked.
        named: Under the public name.
        inheritance: What is set last: limits that filling would have run into.
        source: What it was made of.

    Returns:
        All versions that were begun with other settings, and that are gone.
    """
    target = version.collection
    final: dict[str, Any] = {
        "strict_mode_config": inheritance.strict_mode,
        "optimizers_config": inheritance.settings.get("optimizers_config"),
        "metadata": dict(inheritance.metadata) or None,
    }
    final = {key: value for key, value in final.items() if value is not None}
    if final:
        deliver(
            lambda: target.client.update_collection(target.name, **final),
            what=f"changing collection {target.name!r}",
            retry=WRITING,
        )
    # An indexing run may have split the documents anew since.
    chunker = Collection(source.client, source.name).open().chunker
    version.check()
    complete = replace(target.manifest, filling=None, chunker=chunker)
    target.record(complete)
    named.use_version(target.name)
    if target.open(unfinished=True).filling is not None:
        target.record(complete)  # another run had begun to go on from it in between
    return (*version.dropped, *_drop_others(version))


def _drop_others(version: Version) -> Iterator[str]:
    """Drop what was begun with other settings; whoever is at work on it will see the name moved."""
    target = version.collection
    for each in version.others:
        if not target.client.collection_exists(each) or each in _named(target.client):
            continue
        held = _manifest(target, each)
        if held is not None and held.filling is not None:
            target.drop_version(each)
            yield each


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
    config = version.collection.config
    target = Target(
        points=Points(
            version.collection.client, version.own_name, strict=config.strict_mode_config
        ),
        sharded=version.collection.manifest.tenancy == "shard",
        guard=version.check,
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
            page=min(source.page, page_of(None, config)),
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
    """Whether a version was begun with the same settings.

    The chunker counts for nothing: it is the source's own, which may change it meanwhile.
    """

    def lasting(manifest: Manifest) -> Manifest:
        return replace(manifest, filling=None, created_with="", chunker="", held_threads=None)

    return lasting(held) == lasting(wanted)


def _is_empty(client: QdrantBase, version: str) -> bool:
    return next(_all_points(client, version).pages(fields=False, page=1), None) is None


def _all_points(client: QdrantBase, version: str) -> Points:
    """The points of a version, asked for as a strict server wants it."""
    info = deliver(lambda: client.get_collection(version), what=f"reading collection {version!r}")
    return Points(client, version, strict=info.config.strict_mode_config)


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
    return placement == asked and (
        quantization is None or _are_same(quantization, config.quantization_config)
    )


def _are_same(asked: models.QuantizationConfig, held: models.QuantizationConfig | None) -> bool:
    """Whether a server has the quantization that it was asked for, by its own account."""
    if type(asked) is not type(held):
        return False
    (field,) = type(asked).model_fields
    wanted, found = (
        {key: _told(value) for key, value in getattr(each, field) if value is not None}
        for each in (asked, held)
    )
    if "memory" not in found:  # before 1.19 a server passes over it
        wanted.pop("memory", None)
    return wanted == found


def _told(value: object) -> object:
    # Over gRPC numbers come back with single precision.
    return float(np.float32(value)) if isinstance(value, float) else value
