"""Examine a collection for what is wrong with it, and mend what is safe to mend.

    examination = examine(Collection(client, "notes"))
    repair(Collection(client, "notes"), examination.findings)

Reading is all that an examination does. A repair touches nothing but what is ragkit's: it creates
indexes, starts the optimizer, drops empty versions, and indexes documents again, from their files,
that something is wrong with. Other documents stay as they are, and so do points that ragkit did
not make.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.delivery import deliver
from ragkit.doctor.config_checks import CHECKS, Case, check_manifest, check_server, lacking
from ragkit.doctor.findings import Examination, Finding, Repair
from ragkit.doctor.point_checks import (
    Advice,
    Census,
    check_absent,
    check_average,
    check_documents,
    check_foreign,
    check_metadata,
    check_vectors_of,
    take_census,
    take_sample,
)
from ragkit.doctor.repairs import repaired, unreadable
from ragkit.doctor.version_checks import aliased, check_versions
from ragkit.errors import CollectionMismatch, CollectionNotFound, StoreCorrupt, StoreLocked
from ragkit.manifest import KEY, Manifest
from ragkit.points import Points
from ragkit.reports import ProgressCallback
from ragkit.versions import base, physical

__all__ = ["Examination", "Finding", "Repair", "examine", "is_ours", "repair"]


_ORDER = {"error": 0, "warning": 1, "note": 2}
_LONG_PAGE = 5_000  # of records with a few short fields


def examine(collection: Collection, *, full: bool = False) -> Examination:
    """Look for all that can be wrong with a collection, of all tenants unless it names one.

    All points are read once, without their vectors and texts. While another process writes, what
    is being written may look incomplete.

    Args:
        collection: Its embedder, if it has one, counts for what is fixable only.
        full: Look at all vectors, not at those of a thousand points.

    Raises:
        CollectionNotFound: There is no such collection.
        StoreError: The store does not answer, or not to this key.
    """
    if not collection.exists():
        raise CollectionNotFound(f"there is no collection {collection.name!r} to examine")
    client, name = collection.client, collection.name
    current = aliased(client).get(name, name)
    try:
        info = deliver(lambda: client.get_collection(name), what=f"reading collection {name!r}")
    except (StoreCorrupt, StoreLocked) as exc:
        return Examination(name=name, version=current, findings=(_closed(exc, name),))
    case = Case(client=client, name=name, current=current, info=info)
    visit = _Visit(collection, case)
    visit.look(full=full)
    return visit.report()


def repair(
    collection: Collection,
    findings: Sequence[Finding],
    *,
    progress: ProgressCallback | None = None,
) -> list[Repair]:
    """Mend what of these findings can be mended; examine again to see what is left.

    Not while an indexing run goes on: what that has half written would be taken for damage.

    Args:
        collection: As it was examined. Documents are indexed again with its embedder, or with the
            one that its manifest names.
        findings: Of `examine`.
        progress: Called as documents are indexed again.
    """
    if not any(finding.fixable for finding in findings):
        return []
    metadata = collection.client.get_collection(collection.name).config.metadata
    manifest = Manifest.from_metadata(metadata, name=collection.name)
    return list(repaired(collection, manifest, findings, progress=progress))


def is_ours(client: QdrantBase, name: str) -> bool:
    """Whether ragkit made a collection, even if its manifest, or all of it, is damaged."""
    if base(physical(client, name)) == name:
        return True
    try:
        info = deliver(lambda: client.get_collection(name), what=f"reading collection {name!r}")
    except (StoreCorrupt, StoreLocked):
        return True
    return KEY in (info.config.metadata or {})


class _Visit:
    """One examination: what has been found so far."""

    def __init__(self, collection: Collection, case: Case) -> None:
        self._collection = collection
        self._case = case
        self._findings: list[Finding] = []
        self._fine: list[str] = []
        self._documents = self._points = self._vectors = 0

    def look(self, *, full: bool) -> None:
        """Examine what is needed to examine the rest first."""
        case = self._case
        if not case.embedded:
            self._add("server version", check_server(case))
        self._add("versions", check_versions(case))
        manifest = self._manifest()
        if manifest is None or self._is_in_the_making():
            return
        for area, checks in CHECKS.items():
            if not (case.embedded and area == "replicas"):
                self._add(area, (found for check in checks for found in check(case, manifest)))
        self._look_at_points(manifest, full=full)

    def report(self) -> Examination:
        return Examination(
            name=self._case.name,
            version=self._case.current,
            findings=tuple(sorted(self._findings, key=lambda each: _ORDER[each.severity])),
            fine=tuple(self._fine),
            documents=self._documents,
            points=self._points,
            vectors=self._vectors,
        )

    def _add(self, area: str, findings: Iterable[Finding]) -> None:
        found = list(findings)
        self._findings += found
        if all(finding.severity == "note" for finding in found):
            self._fine.append(area)

    def _manifest(self) -> Manifest | None:
        """The manifest, if the rest can be held against it."""
        name = self._case.name
        try:
            manifest = Manifest.from_metadata(self._case.info.config.metadata, name=name)
        except CollectionMismatch as exc:
            what, _, remedy = str(exc).rpartition(": ")
            self._add("manifest", [_unusable(what, remedy)])
            return None
        faults = list(check_manifest(self._case, manifest))
        self._add("manifest", faults)
        return None if faults else manifest

    def _is_in_the_making(self) -> bool:
        """Whether all that it lacks may still come, or it is a left-over that lacks everything."""
        here = (self._case.current,)
        kinds = ("unfinished", "orphan")
        return any(each.kind in kinds and each.subjects == here for each in self._findings)

    def _look_at_points(self, manifest: Manifest, *, full: bool) -> None:
        case, tenant = self._case, self._collection.tenant
        key = tenant if manifest.tenancy == "shard" else None
        strict = case.info.config.strict_mode_config
        points = Points(case.client, case.name, tenant=tenant, shard_key=key, strict=strict)
        advice = Advice(name=case.name, unreadable=partial(unreadable, self._collection, manifest))
        census = take_census(points, manifest.tenancy, page=self._page)
        self._documents, self._points = len(census.documents), census.points
        self._add("documents", check_documents(census, advice))
        self._add("point ids", check_foreign(census, case.name))
        self._look_at_vectors(points, manifest, census, advice, full=full)

    def _look_at_vectors(
        self, points: Points, manifest: Manifest, census: Census, advice: Advice, *, full: bool
    ) -> None:
        case = self._case
        if lacking(case, manifest):
            return
        found = list(check_absent(points, manifest, census, advice, page=self._page))
        sample = take_sample(points, manifest, full=full, page=self._page)
        self._vectors = sample.vectors
        self._add("vectors", [*found, *check_vectors_of(sample, census, advice)])
        self._findings += check_metadata(sample, case.info.payload_schema, case.name)
        self._findings += check_average(sample, manifest)

    @property
    def _page(self) -> int:
        """How many records a page may have, where the server's strict mode has a limit."""
        strict = self._case.info.config.strict_mode_config
        limit = strict.max_query_limit if strict and strict.enabled else None
        return min(_LONG_PAGE, limit or _LONG_PAGE)


def _closed(error: StoreCorrupt | StoreLocked, name: str) -> Finding:
    damaged = isinstance(error, StoreCorrupt)
    return Finding(
        kind="store",
        severity="error",
        what=str(error),
        remedy=f"restore it from a backup, or: ragkit drop {name}, and index again"
        if damaged
        else "run this again when the other process has ended",
    )


def _unusable(what: str, remedy: str) -> Finding:
    return Finding(kind="manifest", severity="error", what=what, remedy=remedy)
