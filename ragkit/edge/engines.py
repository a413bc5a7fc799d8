"""The engine's files: made, opened, checked and closed.

The engine opens some damaged files without a word, panics at others and ends the process over a
few. So a clean close leaves a note beside them, `closed.json`, with the number of points and a
fingerprint of every file; opening compares before the engine sees them, and takes the note away,
for an open shard's files change.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import qdrant_edge as edge
from qdrant_client import models

from ragkit.edge import space
from ragkit.edge.catalog import CollectionRecord
from ragkit.edge.failures import changed_since, is_locked, is_panic, translated, unopened
from ragkit.edge.files import (
    difference,
    fingerprints,
    read_json,
    remove_folder,
    sync_folder,
    sync_tree,
    write_json,
)
from ragkit.edge.settings import to_edge_config
from ragkit.errors import StoreLocked

DEFAULT_HNSW = models.HnswConfig(
    m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=0
)
# A search thread for each open collection is enough: the engine answers one request at a time.
_SEARCH_THREADS = 1
_POLL_S = 0.05


def shard_folder(collection: Path) -> Path:
    """Where the engine's files of a collection are."""
    return collection / "shard"


def create_engine(collection: Path, record: CollectionRecord) -> None:
    """Make the empty files of a new collection.

    Raises:
        UnexpectedResponse: Settings that a server refuses (400).
        NotImplementedError: Settings that the engine cannot honour.
    """
    config = engine_config(record)
    try:
        edge.EdgeShard.create(str(shard_folder(collection)), config).close()
    except Exception as exc:
        raise translated(exc) from exc
    sync_tree(shard_folder(collection))


def open_engine(
    collection: Path, record: CollectionRecord, *, lock_timeout_s: float
) -> edge.EdgeShard:
    """Open a collection's files.

    Raises:
        StoreCorrupt: They are damaged.
        StoreFull: Opening might fill the disk.
        StoreLocked: Somebody has them open who does not use our lock.
    """
    folder = shard_folder(collection)
    remove_folder(folder / "temp_segments")  # of an optimization cut short
    space.require_for_open(folder)
    expected = _take_note(collection)
    engine = _load(folder, record, lock_timeout_s=lock_timeout_s)
    found = engine.info().points_count
    if expected is not None and found != expected:
        discard_engine(engine)
        path = _note_path(collection)
        write_json(path, {"points": expected, "files": {}})  # found out the next time as well
        raise changed_since(collection, path, f"{found} points are left of {expected}")
    return engine


def close_engine(engine: edge.EdgeShard, collection: Path) -> None:
    """Flush and close cleanly, and note what the files are like.

    Raises:
        StoreError: The engine failed; it is closed all the same.
    """
    try:
        engine.flush()
        points = engine.info().points_count
    except BaseException as exc:
        if isinstance(exc, Exception) or is_panic(exc):
            raise translated(exc) from exc
        raise
    finally:
        discard_engine(engine)
    segments = shard_folder(collection) / "segments"
    sync_tree(segments)  # the engine leaves some to the system, and the note must be true
    files = fingerprints(segments)
    write_json(_note_path(collection), {"points": points, "files": files})


def expect_other_files(collection: Path) -> None:
    """Somebody will change the files of a closed engine: expect only as many points as before."""
    note = read_json(_note_path(collection))
    write_json(_note_path(collection), {**note, "files": {}})


def discard_engine(engine: edge.EdgeShard) -> None:
    """Close an engine whatever state it is in."""
    try:
        engine.close()
    except BaseException as exc:
        if not isinstance(exc, Exception) and not is_panic(exc):
            raise
        # It is broken or was closed before: there is nothing left to do for it.


def keep_forever(engine: edge.EdgeShard) -> None:
    """Never free an engine: what a forked process inherits must not run its clean-up there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


def engine_config(record: CollectionRecord) -> edge.EdgeConfig:
    """The engine's settings for a collection.

    Raises:
        UnexpectedResponse: Settings that a server refuses (400).
        NotImplementedError: Settings that the engine cannot honour.
    """
    settings = record.settings
    vectors = {
        name: params.model_copy(update={"hnsw_config": _nudged(params.hnsw_config, record)})
        for name, params in dense_params(settings).items()
    }
    hnsw = models.HnswConfigDiff(ef_construct=DEFAULT_HNSW.ef_construct)
    if settings.hnsw_config is not None:
        hnsw = hnsw.model_copy(update=settings.hnsw_config.model_dump(exclude_none=True))
    return to_edge_config(
        vectors,
        settings.sparse_vectors,
        hnsw_config=_nudged(hnsw, record),
        quantization_config=settings.quantization_config,
        optimizers_config=settings.optimizers_config,
        on_disk_payload=settings.on_disk_payload,
        payload=settings.payload,
        id_tracker=settings.id_tracker,
        max_search_threads=_SEARCH_THREADS,
    )


def dense_params(settings: models.CreateCollection) -> dict[str, models.VectorParams]:
    """The dense vectors by name; "" is the unnamed one."""
    vectors = settings.vectors
    return {"": vectors} if isinstance(vectors, models.VectorParams) else dict(vectors or {})


def _nudged(
    hnsw: models.HnswConfigDiff | None, record: CollectionRecord
) -> models.HnswConfigDiff | None:
    """The graph settings with `ef_construct` one higher after every other forced rebuild.

    A different `ef_construct` is what makes the engine build a graph anew.
    """
    if hnsw is None or hnsw.ef_construct is None:
        return hnsw
    return hnsw.model_copy(update={"ef_construct": hnsw.ef_construct + record.rebuilds % 2})


def _load(folder: Path, record: CollectionRecord, *, lock_timeout_s: float) -> edge.EdgeShard:
    config = engine_config(record)
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            return edge.EdgeShard.load(str(folder), config)
        except BaseException as exc:
            if not isinstance(exc, Exception) and not is_panic(exc):
                raise
            if not is_locked(exc):
                raise unopened(folder.parent, exc) from exc
            if time.monotonic() >= deadline:
                raise StoreLocked(
                    f"{folder} is open in a process that does not use this library, or in a "
                    "forked child: wait for it, or stop it"
                ) from exc
        time.sleep(_POLL_S)


def _note_path(collection: Path) -> Path:
    return collection / "closed.json"


def _take_note(collection: Path) -> int | None:
    """Compare the files with the note of the last clean close, and remove it.

    Returns:
        How many points there were; None without a note, after a crash.
    """
    path = _note_path(collection)
    try:
        note = read_json(path)
        changed = difference(shard_folder(collection) / "segments", dict(note["files"]))
        points = int(note["points"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as exc:
        raise changed_since(collection, path, f"{path.name} cannot be read: {exc!r}") from exc
    if changed is not None:
        raise changed_since(collection, path, changed)
    path.unlink()
    sync_folder(collection)
    return points
