"""Where a measurement was made, with what, and whether the collection is fit to be measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.benchmark.rows import About, Fact
from ragkit.collection import Collection
from ragkit.errors import CollectionError
from ragkit.optimizer import check_optimizer, is_held_back
from ragkit.search_request import Searchable
from ragkit.server import server_info

_LIBRARIES = ("ragkit", "qdrant-client", "qdrant-edge-py", "numpy")


def describe(
    what: str,
    subject: dict[str, Fact],
    *,
    queries: str,
    client: QdrantBase | None = None,
    method: Sequence[str] = (),
    settings: dict[str, Fact] | None = None,
    notes: Sequence[str] = (),
) -> About:
    """The circumstances of a measurement that begins now.

    Args:
        what: Which measurement.
        subject: Of what.
        queries: The queries, in a sentence.
        client: The store that is searched; None where none is.
        method: How it is measured.
        settings: What was asked for.
        notes: What to mind.
    """
    return About(
        what=what,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        subject=subject,
        machine=machine(),
        versions=versions(client),
        queries=queries,
        method=tuple(method),
        settings=settings or {},
        notes=tuple(notes),
    )


def machine() -> dict[str, Fact]:
    """What this computer is, as far as it matters to times."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions(client: QdrantBase | None = None) -> dict[str, str]:
    """The versions of what the numbers depend on."""
    found = {name: _version(name) for name in _LIBRARIES}
    server = None if client is None else server_info(client)
    if server is not None:
        found["qdrant server"] = str(server)
    return found


def subject_of(collection: Collection) -> dict[str, Fact]:
    """What is searched: size, quantization, segments, and how much of it is indexed."""
    collection.look_again()
    where, points = collection.searchable()
    info = where.info
    return {
        "collection": collection.name,
        "tenant": where.tenant,
        "points_of_the_tenant": None if where.tenant is None else points.count(),
        "store": "embedded" if where.server is None else f"Qdrant server {where.server}",
        "points": info.points_count,
        "dimensions": where.dim,
        "embedder": where.manifest.embedder if where.manifest else None,
        "quantization": _quantization_name(where),
        "graph": f"HNSW, m={info.config.hnsw_config.m}" if has_graph(where) else "none",
        "segments": info.segments_count,
        "indexed_share": indexed_share(where),
    }


def check_ready(collection: Collection) -> None:
    """Refuse to measure what will be searched otherwise soon.

    Raises:
        CollectionError: The optimizer has work left or is held back, or vectors that should be in
            the index are not.
    """
    collection.open()
    where, _ = collection.searchable()
    info, name = where.info, collection.name
    check_optimizer(info, name)
    if is_held_back(info.config):
        raise CollectionError(
            f"the optimizer of collection {name!r} is held back by a bulk load: measure after it"
        )
    remedy = (
        "run client.optimize(…), or ragkit index"
        if where.server is None
        else "wait until the server shows it as green"
    )
    if info.status is not models.CollectionStatus.GREEN:
        raise CollectionError(
            f"collection {name!r} is still being optimized (its status is {info.status.value}), "
            f"and will be searched otherwise when that is done: {remedy}, then measure"
        )
    unindexed = _unindexed_kb(where)
    threshold = info.config.optimizer_config.indexing_threshold or 0
    if has_graph(where) and unindexed > max(threshold, 1) * max(info.segments_count, 1):
        raise CollectionError(
            f"of collection {name!r} only {indexed_share(where):.0%} of the vectors are in the "
            f"index (indexing_threshold is {threshold} KB), so a search reads all others one by "
            f"one: {remedy}, then measure"
        )


def indexed_share(where: Searchable) -> float | None:
    """Which part of the vectors is in optimized segments; None where there is no vector."""
    points = where.info.points_count or 0
    if not points:
        return None
    return round(min(1.0, _indexed(where) / points), 4)


def idle_note(where: Searchable) -> str | None:
    """What to say of a collection whose graph, or whose codes, are not in use yet.

    Small segments are never indexed: their vectors are compared one by one. Scalar and product
    quantization need the index to be built, binary and turbo do not.
    """
    late = isinstance(where.quantization, models.ScalarQuantization | models.ProductQuantization)
    idle = [name for name, there in (("graph", has_graph(where)), ("codes", late)) if there]
    if _indexed(where) or not idle:
        return None
    return (
        f"The collection is small (indexing_threshold is "
        f"{where.info.config.optimizer_config.indexing_threshold} KB): its {' and '.join(idle)} "
        f"{'are' if late else 'is'} not in use yet, so these numbers are of a comparison one by "
        "one and will not hold when it has grown."
    )


def _indexed(where: Searchable) -> int:
    """Dense vectors: Qdrant counts sparse ones in, of which every passage of ragkit's has one."""
    indexed = where.info.indexed_vectors_count or 0
    sparse = len(where.info.config.params.sparse_vectors or {})
    return max(0, indexed - sparse * (where.info.points_count or 0))


def _unindexed_kb(where: Searchable) -> float:
    missing = max(0, (where.info.points_count or 0) - _indexed(where))
    return missing * (where.dim or 0) * 4 / 1024


def has_graph(where: Searchable) -> bool:
    """Whether vectors are put into a graph, as far as they are indexed."""
    vectors = where.info.config.params.vectors
    params = vectors.get(where.vector_name) if isinstance(vectors, dict) else vectors
    own = params.hnsw_config.m if params is not None and params.hnsw_config is not None else None
    return (where.info.config.hnsw_config.m if own is None else own) > 0


def _quantization_name(where: Searchable) -> str:
    config = where.quantization
    if config is None:
        return "none"
    named = where.manifest.quantization if where.manifest else "auto"
    if named not in ("auto", "custom"):
        return named
    return ", ".join(f"{key} {value}" for key, value in _said(config).items())


def _said(config: models.QuantizationConfig) -> dict[str, str]:
    ((kind, inner),) = config.model_dump(mode="json", exclude_none=True).items()
    return {kind: " ".join(str(v) for k, v in inner.items() if k not in ("always_ram", "memory"))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
