"""Checks of a collection's settings and state: everything that is known without its points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.creation import payload_indexes
from ragkit.delivery import deliver
from ragkit.doctor.findings import Finding, counted, listed
from ragkit.edge import EdgeClient
from ragkit.errors import StoreDenied
from ragkit.failures import Failure, kind_of, reason
from ragkit.manifest import Manifest
from ragkit.optimizer import is_held_back
from ragkit.quantization import Quantization
from ragkit.schema import BM25, DENSE
from ragkit.server import MINIMUM, Version, server_info
from ragkit.sparse import Bm25Encoder
from ragkit.tuned import outgrown

TESTED = Version(1, 19, 0)  # what ragkit is tested with

_RED = models.CollectionStatus.RED
_GREY = models.CollectionStatus.GREY
_YELLOW = models.CollectionStatus.YELLOW
_ACTIVE = models.ReplicaState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A collection to be examined.

    Attributes:
        client: Where it is.
        name: As it was asked for.
        current: The collection that the name stands for.
        info: Qdrant's own account of it.
    """

    client: QdrantBase
    name: str
    current: str
    info: models.CollectionInfo

    @property
    def embedded(self) -> bool:
        """Whether it lives on the embedded engine."""
        return isinstance(self.client, EdgeClient)

    @property
    def dense(self) -> models.VectorParams | None:
        """The settings of the dense vectors, if there are any."""
        return _dense_vectors(self.info.config.params).get(DENSE)

    @property
    def quantization(self) -> models.QuantizationConfig | None:
        """The quantization in force; that of the vectors goes before that of the collection."""
        own = self.dense.quantization_config if self.dense else None
        return own or self.info.config.quantization_config


def lacking(case: Case, manifest: Manifest) -> list[str]:
    """The names of vectors that a collection should have and has not."""
    params = case.info.config.params
    held = {*_dense_vectors(params), *(params.sparse_vectors or {})}
    return sorted(_needed(manifest) - held)


def check_server(case: Case) -> Iterator[Finding]:
    """A server older than what ragkit needs, or than what it is tested with."""
    info = server_info(case.client)
    if info is None or info.version is None or info.version >= TESTED:
        return
    too_old = info.version < MINIMUM
    yield Finding(
        kind="server",
        severity="error" if too_old else "note",
        what=f"the server is Qdrant {info.version}; ragkit "
        + (f"needs {MINIMUM} or later" if too_old else f"is tested with {TESTED}"),
        remedy="upgrade it, one minor version after the other",
    )


def check_manifest(case: Case, manifest: Manifest) -> Iterator[Finding]:
    """Values that no collection can have been made with."""
    faults = list(_manifest_faults(manifest))
    if faults:
        yield Finding(
            kind="manifest",
            severity="error",
            what=f"the manifest is damaged: {'; '.join(faults)}",
            remedy=f"write it back (update_collection, metadata), or: ragkit drop {case.name}, "
            "and index again",
        )


def check_vectors(case: Case, manifest: Manifest) -> Iterator[Finding]:
    """Vectors of other names, sizes or distances than the manifest says."""
    params = case.info.config.params
    dense, sparse = _dense_vectors(params), params.sparse_vectors or {}
    if absent := lacking(case, manifest):
        yield _wrong_vectors(case, f"it has no vectors named {listed(absent)}")
    held = dense.get(DENSE)
    if held is not None and manifest.dim is not None:
        if held.size != manifest.dim:
            what = f"its vectors have {held.size} dimensions, the manifest says {manifest.dim}"
            yield _wrong_vectors(case, what)
        if held.distance is not models.Distance.COSINE:
            distance = held.distance.value
            yield _wrong_vectors(case, f"its vectors are compared by {distance}, not by Cosine")
    if BM25 in sparse and sparse[BM25].modifier is not models.Modifier.IDF:
        what = "keywords are ranked without their rarity (no modifier IDF)"
        yield _wrong_vectors(case, what)
    extra = sorted({*dense, *sparse} - _needed(manifest))
    if extra:
        yield Finding(
            kind="vectors",
            severity="note",
            what=f"it has vectors that ragkit does not use: {listed(extra)}",
            remedy="nothing, if another program uses them; they are not copied by a rebuild",
            subjects=tuple(extra),
        )


def check_indexes(case: Case, manifest: Manifest) -> Iterator[Finding]:
    """Payload indexes that ragkit needs."""
    held = case.info.payload_schema
    wanted = payload_indexes(embedded=case.embedded, tenancy=manifest.tenancy, own={})
    missing = sorted(wanted.keys() - held.keys())
    if missing:
        yield Finding(
            kind="index",
            severity="error",
            what=f"payload indexes are missing: {listed(missing)}; what counts or filters by them "
            "is slow or fails",
            remedy=f"ragkit doctor --collection {case.name} --fix",
            fixable=True,
            subjects=tuple(missing),
        )
    for field in sorted(wanted.keys() & held.keys()):
        expected, found = index_type(wanted[field]), held[field].data_type
        if expected is not found:
            yield Finding(
                kind="index",
                severity="error",
                what=f"the payload index on {field!r} is of type {found.value}, not "
                f"{expected.value}",
                remedy=f"ragkit doctor --collection {case.name} --fix",
                fixable=True,
                subjects=(field,),
            )


def check_quantization(case: Case, manifest: Manifest) -> Iterator[Finding]:
    """Another quantization than the manifest says."""
    if manifest.dim is None or case.dense is None:
        return
    asked = manifest.quantization
    found = essence(case.quantization)
    if asked == "custom":
        expected = found or ("custom",)
    else:
        expected = essence(Quantization.of(asked).settled(embedded=case.embedded).config)
    if expected != found:
        yield Finding(
            kind="quantization",
            severity="warning",
            what=f"the manifest says quantization {asked!r}, the collection has {_named(found)}",
            remedy=f"set it anew: Collection(client, {case.name!r}).set_quantization(...), or "
            f"ragkit rebuild {case.name} --quantization NAME",
        )


def check_placement(case: Case, manifest: Manifest) -> Iterator[Finding]:
    """Quantized, and the originals still in RAM, or the quantized vectors not."""
    config, dense = case.quantization, case.dense
    if case.embedded or config is None or dense is None:
        return
    on_disk = _is_cold(dense.memory, legacy=dense.on_disk is True)
    (field,) = type(config).model_fields
    codes = getattr(config, field)
    if not on_disk:
        yield _misplaced(case, manifest, "the original vectors are kept in RAM as well")
    # Without a word of its own it goes where the originals are.
    follows = on_disk and codes.always_ram is not True
    if _is_cold(codes.memory, legacy=follows):
        yield _misplaced(case, manifest, "the quantized vectors are read from disk")


def check_optimizer(case: Case, _: Manifest) -> Iterator[Finding]:
    """An optimizer that is held back, at work, waiting to be woken, or broken."""
    info, config = case.info, case.info.config
    held_back = not case.embedded and is_held_back(config)
    if held_back:
        yield Finding(
            kind="optimizer",
            severity="warning",
            what="the optimizer is held back, by a large load that goes on or was cut off: new "
            "points are searched one by one",
            remedy="when no load goes on: ragkit doctor --fix, or run the load to its end",
            fixable=True,
        )
    if not case.embedded and config.optimizer_config.indexing_threshold == 0:
        yield Finding(
            kind="optimizer",
            severity="warning",
            what="indexing_threshold is 0: new points are never put into a graph",
            remedy=f"client.update_collection({case.name!r}, optimizers_config="
            "models.OptimizersConfigDiff(indexing_threshold=10000))",
        )
    failed = info.optimizer_status
    if isinstance(failed, models.OptimizersStatusOneOf1) or info.status is _RED:
        error = getattr(failed, "error", "an update failed")
        yield Finding(
            kind="status",
            severity="error",
            what=f"its status is red: {error}",
            remedy="mend the cause (the server's log has more); any update of the collection then "
            "starts the optimizer again",
        )
    elif info.status is _GREY:
        yield _is_grey(case)
    elif info.status is _YELLOW and not held_back:
        yield Finding(
            kind="status",
            severity="note",
            what="its status is yellow: the server is optimizing it",
            remedy="wait; searches are right meanwhile",
        )


def check_replicas(case: Case, _: Manifest) -> Iterator[Finding]:
    """Replicas that do not take part, and fewer of them than were asked for."""
    if case.embedded:
        return
    try:
        info = deliver(
            lambda: case.client.collection_cluster_info(case.current),
            what=f"reading the shards of collection {case.name!r}",
        )
    except StoreDenied as exc:
        yield _unseen_replicas(str(exc))
        return
    except Exception as exc:
        # A server without cluster mode may know no answer; all others are the caller's.
        if kind_of(exc) not in (Failure.NOT_FOUND, Failure.OTHER, Failure.REFUSED):
            raise
        yield _unseen_replicas(reason(exc))
        return
    yield from _replica_findings(case, info)


def check_tuning(case: Case, manifest: Manifest) -> Iterator[Finding]:
    """A default search that was found when the collection was much smaller."""
    note = outgrown(manifest, case.info.points_count or 0, name=case.name)
    if note is not None:
        what, _, remedy = note.rpartition(": ")
        yield Finding(kind="tuning", severity="note", what=what, remedy=remedy)


CHECKS = {
    "vector settings": (check_vectors,),
    "payload indexes": (check_indexes,),
    "quantization": (check_quantization, check_placement),
    "optimizer": (check_optimizer,),
    "replicas": (check_replicas,),
    "search defaults": (check_tuning,),
}
"""All that want a manifest, by what a person calls it."""


def index_type(
    schema: models.PayloadSchemaType | models.PayloadSchemaParams,
) -> models.PayloadSchemaType:
    """The type of a payload index that is to be made."""
    if isinstance(schema, models.PayloadSchemaType):
        return schema
    return models.PayloadSchemaType(schema.type.value)


def essence(config: models.QuantizationConfig | None) -> tuple[str, ...]:
    """What of a quantization decides what is stored: not where, nor what servers fill in."""
    if isinstance(config, models.BinaryQuantization):
        encoding = config.binary.encoding or models.BinaryQuantizationEncoding.ONE_BIT
        query = config.binary.query_encoding or models.BinaryQuantizationQueryEncoding.DEFAULT
        plain = query is models.BinaryQuantizationQueryEncoding.BINARY
        return ("binary", encoding.value, "default" if plain else query.value)
    if isinstance(config, models.TurboQuantization):
        return ("turbo", (config.turbo.bits or models.TurboQuantBitSize.BITS4).value)
    if isinstance(config, models.ProductQuantization):
        return ("product", config.product.compression.value)
    return () if config is None else ("scalar",)


def _manifest_faults(manifest: Manifest) -> Iterator[str]:
    if (manifest.embedder is None) != (manifest.dim is None):
        yield f"embedder {manifest.embedder!r} with dim {manifest.dim!r}"
    if manifest.dim is not None and (type(manifest.dim) is not int or manifest.dim < 1):
        yield f"dim {manifest.dim!r}"
    if manifest.tenancy not in (None, "payload", "shard"):
        yield f"tenancy {manifest.tenancy!r}"
    try:
        Bm25Encoder(avg_len=manifest.avg_len, language=manifest.language)
    except (ValueError, TypeError) as exc:
        yield f"BM25 with avg_len {manifest.avg_len!r} and language {manifest.language!r} ({exc})"
    try:
        if manifest.quantization != "custom":
            Quantization.of(str(manifest.quantization))
    except ValueError:
        yield f"quantization {manifest.quantization!r}"


def _needed(manifest: Manifest) -> set[str]:
    return {BM25} if manifest.dim is None else {BM25, DENSE}


def _dense_vectors(params: models.CollectionParams) -> Mapping[str, models.VectorParams]:
    held = params.vectors
    return {"": held} if isinstance(held, models.VectorParams) else held or {}


def _wrong_vectors(case: Case, what: str) -> Finding:
    return Finding(
        kind="vectors",
        severity="error",
        what=what,
        remedy=f"ragkit rebuild {case.name}, or drop it and index again",
    )


def _named(found: tuple[str, ...]) -> str:
    return " ".join(found) or "none"


def _is_cold(memory: models.Memory | None, *, legacy: bool) -> bool:
    """Whether it is read from disk when needed; the tier goes before the flag of old."""
    return legacy if memory is None else memory is models.Memory.COLD


def _misplaced(case: Case, manifest: Manifest, what: str) -> Finding:
    # With a configuration of one's own that may be meant so.
    own = manifest.quantization == "custom"
    name = "..." if own else repr(manifest.quantization)
    return Finding(
        kind="placement",
        severity="note" if own else "warning",
        what=f"the vectors are quantized, and {what}",
        remedy=f"Collection(client, {case.name!r}).set_quantization({name}) puts the originals on "
        "disk and the quantized vectors into RAM",
    )


def _is_grey(case: Case) -> Finding:
    waits = "there is something to optimize" if case.embedded else "the optimizer waits for a call"
    return Finding(
        kind="status",
        severity="warning",
        what=f"its status is grey: {waits}, and searches are slower until then",
        remedy=f"ragkit doctor --collection {case.name} --fix, or any indexing run",
        fixable=True,
    )


def _unseen_replicas(why: str) -> Finding:
    return Finding(
        kind="replicas",
        severity="note",
        what=f"the replicas could not be looked at: {why}",
        remedy="use a key that may read the cluster's state",
    )


def _replica_findings(case: Case, info: models.CollectionClusterInfo) -> Iterator[Finding]:
    shards: dict[int, list[tuple[int, models.ReplicaState]]] = {}
    for local in info.local_shards:
        shards.setdefault(local.shard_id, []).append((info.peer_id, local.state))
    for remote in info.remote_shards:
        shards.setdefault(remote.shard_id, []).append((remote.peer_id, remote.state))
    for shard, replicas in sorted(shards.items()):
        resting = [(peer, state) for peer, state in replicas if state is not _ACTIVE]
        if resting:
            states = [f"{state.value} on peer {peer}" for peer, state in resting]
            dead = len(resting) == len(replicas)
            yield Finding(
                kind="replicas",
                severity="error" if dead else "warning",
                what=f"shard {shard}: {listed(states)}"
                + ("; no other replica can answer for it" if dead else ""),
                remedy="a node that is back recovers by itself: see client.cluster_status(), and "
                "restart or replace the node that is missing",
            )
    wanted = case.info.config.params.replication_factor or 1
    short = [str(shard) for shard, replicas in sorted(shards.items()) if len(replicas) < wanted]
    if short:
        yield Finding(
            kind="replicas",
            severity="warning",
            what=f"{counted(len(short), 'shard')} of {len(shards):,} with fewer than {wanted} "
            f"replicas: {listed(short)}",
            remedy="add nodes and replicate the shards (client.cluster_collection_update), or "
            "lower replication_factor",
            subjects=tuple(short),
        )
