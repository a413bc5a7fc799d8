"""One open collection: guarded against other processes, threads, forks and the engine's panics."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge import space
from ragkit.edge.catalog import Catalog, CollectionRecord, missing_collection
from ragkit.edge.engines import (
    close_engine,
    discard_engine,
    engine_config,
    expect_other_files,
    keep_forever,
    open_engine,
    shard_folder,
)
from ragkit.edge.failures import is_panic, translated
from ragkit.edge.optimize import optimize_in_child
from ragkit.edge.points import VectorSchema
from ragkit.edge.responses import bad_request
from ragkit.errors import StoreError

T = TypeVar("T")

# Points written without waiting stay in the log, which a killed process does not lose, until this
# many have come together: then one flush (45 to 200 ms) puts them on the disk.
_FLUSH_POINTS = 8192
# Below this many numbers in dense vectors an optimization takes at most a quarter of a second in
# this process, and half a second in a child.
_CHILD_COMPONENTS = 1_000_000
_SPARSE_COMPONENTS = 100  # of a sparse vector, taken as the words of a passage


class Shard:
    """An open collection, safe to use from many threads.

    Its lock keeps other processes and clients out from its first use until `close`. What is
    written is in the engine's log at once, which survives the end of this process, and on the
    disk after `flush`.
    """

    def __init__(self, catalog: Catalog, name: str, *, lock_timeout_s: float) -> None:
        self._catalog = catalog
        self._name = name
        self._lock_timeout_s = lock_timeout_s
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._engine: edge.EdgeShard | None = None
        self._unflushed_points = 0
        self._closed = False
        self._lock = catalog.lock(name, timeout_s=lock_timeout_s)
        try:
            self._adopt(catalog.record(name))
        except BaseException:
            self._lock.release()
            raise
        _open_shards.add(self)

    @property
    def record(self) -> CollectionRecord:
        """The collection's settings."""
        return self._record

    @property
    def schema(self) -> VectorSchema:
        """The vectors that points may have."""
        return self._schema

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads out for the length of several calls."""
        with self._mutex:
            yield

    def read(self, action: Callable[[edge.EdgeShard], T]) -> T:
        """Ask the engine something.

        Raises:
            UnexpectedResponse: A request that a server would refuse.
            StoreError: The engine failed, or this is a forked process.
        """
        with self._mutex:
            engine = self._usable()
            try:
                return action(engine)
            except (UnexpectedResponse, NotImplementedError):
                raise
            except BaseException as exc:
                if is_panic(exc):
                    self._abandon()
                elif not isinstance(exc, Exception):
                    raise
                raise translated(exc) from exc

    def write(
        self,
        operation: Callable[[], edge.UpdateOperation],
        *,
        wait: bool,
        data: Sequence[Any] = (),
        count: int = 1,
    ) -> models.UpdateResult:
        """Apply one operation.

        Args:
            operation: Makes what is to be done; the engine checks some of it there.
            wait: Whether to put it on the disk before returning.
            data: What it brings, weighed against the free disk space.
            count: How many points it changes.

        Raises:
            StoreFull: The disk would not take it; nothing was written.
        """
        with self._mutex:
            space.require_for_write(self._folder, data, reserve=self._reserve)
            self.read(lambda engine: engine.update(operation()))
            self._unflushed_points += count
            if wait or self._unflushed_points >= _FLUSH_POINTS:
                self.flush()
        status = models.UpdateStatus.COMPLETED if wait else models.UpdateStatus.ACKNOWLEDGED
        return models.UpdateResult.model_construct(operation_id=None, status=status)

    def flush(self) -> None:
        """Put on the disk what was written."""
        with self._mutex:
            self.read(lambda engine: engine.flush())
            self._unflushed_points = 0

    def close(self) -> None:
        """Flush, release the files and let other processes in; a second call does nothing."""
        if os.getpid() != self._pid:
            return  # all of it belongs to the parent
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            _open_shards.discard(self)
            try:
                self._unload()
            finally:
                self._lock.release()

    def drop(self) -> None:
        """Delete the collection."""
        with self._mutex:
            self._check_usable()
            self._abandon()
            self._catalog.withdraw(self._name, timeout_s=self._lock_timeout_s)
            self.close()

    def configure(
        self, change: Callable[[models.CreateCollection], models.CreateCollection]
    ) -> None:
        """Change settings; those of the engine take full effect at the next `optimize`.

        Raises:
            UnexpectedResponse: They do not fit; the old ones stay.
        """
        with self._mutex:
            self._check_usable()
            before = self._record
            after = dataclasses.replace(before, settings=change(before.settings))
            if _of_engine(after.settings) != _of_engine(before.settings):
                after = dataclasses.replace(after, stale=True)
                engine_config(after)  # refuses what is wrong before anything is touched
                self._reopen_as(after)
            self._keep(after)

    def optimize(self, *, force: bool = False) -> None:
        """Build the indexes that are due, with `force` also those that are there.

        Raises:
            StoreFull: There is no room for the copy that this makes for a while.
            StoreError: It failed; the data are as they were.
        """
        with self._mutex:
            self._check_usable()
            space.require_for_optimize(self._folder, reserve=self._reserve)
            if force:
                self._make_graphs_due()
            if self._components() < _CHILD_COMPONENTS:
                self.read(lambda engine: engine.optimize())
                self.flush()
            else:
                self._optimize_elsewhere()
            if self._record.stale:
                self._keep(dataclasses.replace(self._record, stale=False))

    def _make_graphs_due(self) -> None:
        before = self._record
        after = dataclasses.replace(before, rebuilds=before.rebuilds + 1, stale=True)
        self._reopen_as(after)
        self._keep(after)

    def _optimize_elsewhere(self) -> None:
        self._unload()
        expect_other_files(self._folder)
        try:
            optimize_in_child(shard_folder(self._folder), keep_open=(self._lock.descriptor,))
        except subprocess.CalledProcessError as exc:
            last = (exc.stderr or "").strip().rpartition("\n")[2] or "it said nothing"
            raise StoreError(
                f"optimizing collection {self._name!r} failed (exit status {exc.returncode}: "
                f"{last}); its data are as before: try again"
            ) from exc
        self._usable()

    def _components(self) -> int:
        points = self.read(lambda engine: engine.info()).points_count
        dense = sum(params.size for params in self._schema.dense.values())
        return points * (dense + _SPARSE_COMPONENTS * len(self._schema.sparse))

    @property
    def _folder(self) -> Path:
        return self._catalog.folder(self._name)

    def _keep(self, record: CollectionRecord) -> None:
        self._catalog.write_record(record)
        self._adopt(record)

    def _adopt(self, record: CollectionRecord) -> None:
        self._record = record
        settings = record.settings
        self._schema = VectorSchema.of(settings.vectors, settings.sparse_vectors)
        self._reserve = space.reserve_bytes(len(self._schema.dense))

    def _usable(self) -> edge.EdgeShard:
        self._check_usable()
        if self._engine is None:
            self._engine = open_engine(
                self._folder, self._record, lock_timeout_s=self._lock_timeout_s
            )
        return self._engine

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(
                f"collection {self._name!r} was opened in process {self._pid}: open an EdgeClient "
                "of your own in this one, after it was started by spawn rather than fork"
            )
        if self._closed:  # deleted, or closed with its client, while a thread waited for it
            raise missing_collection(self._name)

    def _reopen_as(self, record: CollectionRecord) -> None:
        """Open with other settings; where they do not fit the files the old ones stay."""
        before = self._record
        self._unload()
        self._adopt(record)
        try:
            self._usable()
        except StoreError as exc:
            self._adopt(before)
            self._usable()
            raise bad_request(f"Wrong input: settings that do not fit the data: {exc}") from exc

    def _unload(self) -> None:
        """Close the engine cleanly; the next use opens it again."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._unflushed_points = 0
            close_engine(engine, self._folder)

    def _abandon(self) -> None:
        """Close an engine that is broken or no longer needed."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            discard_engine(engine)

    def _leave_to_parent(self) -> None:
        """After a fork: let go of what is the parent's without touching it."""
        if self._engine is not None:
            keep_forever(self._engine)
        self._lock.forget()
        self._mutex = threading.RLock()  # a thread that is not here may have held it


def _of_engine(settings: models.CreateCollection) -> models.CreateCollection:
    return settings.model_copy(update={"metadata": None})


_open_shards: weakref.WeakSet[Shard] = weakref.WeakSet()


def _after_fork() -> None:
    for shard in list(_open_shards):
        shard._leave_to_parent()
    _open_shards.clear()


os.register_at_fork(after_in_child=_after_fork)
