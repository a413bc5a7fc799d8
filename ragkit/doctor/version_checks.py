"""Checks of the collections behind a name: what rebuilds, copies and crashes have left."""

from __future__ import annotations

from collections.abc import Iterator

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.delivery import deliver
from ragkit.doctor.config_checks import Case
from ragkit.doctor.findings import Finding, Severity, counted
from ragkit.edge import EdgeClient
from ragkit.errors import CollectionMismatch, StoreError
from ragkit.manifest import Manifest
from ragkit.points import Points
from ragkit.versions import base, number, versions


def check_versions(case: Case) -> Iterator[Finding]:
    """Versions beside the one that the name stands for, or one that has no name."""
    named = set(aliased(case.client).values())
    manifest = _manifest(case.current, case.info)
    if case.current not in named and base(case.current) is not None:
        yield from _unnamed(case, case.current, case.info)
    elif manifest is not None and manifest.filling is not None:
        yield _unfinished(case.current, manifest, "error")
    for version in versions(case.client, case.name):
        if version != case.current and version not in named:
            yield from _beside(case, version)


def is_orphan(client: QdrantBase, name: str) -> bool:
    """Whether nothing would be lost with a collection: ragkit's, empty, finished and nameless."""
    if base(name) is None or name in aliased(client).values() or not client.collection_exists(name):
        return False
    info = _info(client, name)
    manifest = _manifest(name, info)
    return manifest is not None and manifest.filling is None and is_empty(client, name, info)


def is_empty(client: QdrantBase, name: str, info: models.CollectionInfo) -> bool:
    """Whether it holds no point; asked so that no server forbids it."""
    points = Points(client, name, strict=info.config.strict_mode_config)
    return next(points.pages(fields=False, page=1), None) is None


def aliased(client: QdrantBase) -> dict[str, str]:
    """The collection behind each alias."""
    held = deliver(client.get_aliases, what="listing the aliases").aliases
    return {each.alias_name: each.collection_name for each in held}


def _beside(case: Case, version: str) -> Iterator[Finding]:
    try:
        info = _info(case.client, version)
    except StoreError as exc:
        yield Finding(
            kind="store",
            severity="warning",
            what=f"version {version!r} cannot be read: {exc}",
            remedy=f"if nobody else uses it: ragkit drop {version}",
        )
        return
    if _manifest(version, info) is None:
        return  # somebody else's, whatever it is called
    if number(version) > number(case.current):
        yield from _unnamed(case, version, info)
        return
    size = _size(case.client, version, info)
    yield Finding(
        kind="older",
        severity="note",
        what=f"an older version is kept: {version!r}, {size}",
        remedy=f"when it is not needed any more: ragkit rebuild {case.name} --prune",
        subjects=(version,),
    )


def _unnamed(case: Case, version: str, info: models.CollectionInfo) -> Iterator[Finding]:
    """What became of a version that no name stands for."""
    manifest = _manifest(version, info)
    if manifest is None:
        return
    if manifest.filling is not None:
        yield _unfinished(version, manifest, "warning")
    elif is_empty(case.client, version, info):
        yield Finding(
            kind="orphan",
            severity="warning",
            what=f"{version!r} is empty and no name stands for it: it was cut off when it was made",
            remedy="ragkit doctor --fix, or ragkit drop " + version,
            fixable=True,
            subjects=(version,),
        )
    else:
        yield _complete_and_unnamed(version, info)


def _unfinished(version: str, manifest: Manifest, severity: Severity) -> Finding:
    return Finding(
        kind="unfinished",
        severity=severity,
        what=f"{version!r} is not complete: it is being filled from {manifest.filling}, or was "
        "until that was cut off",
        remedy="run the rebuild or copy again, which goes on from there, or give it up: "
        f"ragkit drop {version}",
        subjects=(version,),
    )


def _complete_and_unnamed(version: str, info: models.CollectionInfo) -> Finding:
    name = base(version)
    points = counted(info.points_count or 0, "chunk")
    return Finding(
        kind="unnamed",
        severity="warning",
        what=f"{version!r} has {points}, and the name {name!r} does not stand for it",
        remedy=f"run the rebuild or copy that made it again, or drop it: ragkit drop {version}",
        subjects=(version,),
    )


def _manifest(name: str, info: models.CollectionInfo) -> Manifest | None:
    try:
        return Manifest.from_metadata(info.config.metadata, name=name)
    except CollectionMismatch:
        return None


def _info(client: QdrantBase, name: str) -> models.CollectionInfo:
    return deliver(lambda: client.get_collection(name), what=f"reading collection {name!r}")


def _size(client: QdrantBase, name: str, info: models.CollectionInfo) -> str:
    points = counted(info.points_count or 0, "chunk")
    if not isinstance(client, EdgeClient):
        return points
    return f"{points}, {client.disk_usage(name) / 1e6:,.1f} MB"
