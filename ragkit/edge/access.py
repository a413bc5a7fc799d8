"""The collections that a client has open, and how it comes to them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qdrant_client.client_base import QdrantBase

from ragkit.edge.catalog import Catalog, check_name, missing_collection
from ragkit.edge.responses import unsupported
from ragkit.edge.shards import Shard
from ragkit.errors import StoreError

# What a server makes of these makes no difference here: there is one copy of the data, and a
# call returns when it is done.
_WITHOUT_EFFECT = frozenset({"timeout", "consistency", "ordering"})


class CollectionAccess(QdrantBase):
    """Opens each collection when it is first used and keeps it open until `close`."""

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout_s: float) -> None:
        super().__init__()
        self._path = Path(path).expanduser().absolute()
        if self._path.exists() and not self._path.is_dir():
            raise StoreError(f"{self._path} is a file: expected a folder to keep collections in")
        self._lock_timeout_s = lock_timeout_s
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._shards: dict[str, Shard] = {}
        # Also when the client is forgotten, and at the end of the program.
        self._close_shards = weakref.finalize(self, _close_all, self._shards)
        self._closed = False
        self._catalog = Catalog(self._path)
        self._catalog.sweep()

    @property
    def path(self) -> Path:
        """The folder that holds the collections."""
        return self._path

    def close(self, **kwargs: Any) -> None:
        """Flush and close all collections and let other processes use them."""
        refuse_options(kwargs)
        if os.getpid() != self._pid:
            return  # all of it belongs to the parent
        with self._mutex:
            self._closed = True
            self._close_shards()

    def _shard(self, collection_name: str) -> Shard:
        """The collection of that name or alias, open.

        Raises:
            UnexpectedResponse: There is none (404).
            StoreLocked: Another process has it.
        """
        self._check_open()
        # No alias has the name of a collection, and ours cannot be deleted behind our back.
        shard = self._shards.get(collection_name)
        return self._opened(self._catalog.resolve(collection_name)) if shard is None else shard

    def _opened(self, name: str) -> Shard:
        check_name(name)
        with self._mutex:
            shard = self._shards.get(name)
            if shard is None:
                if not self._catalog.has(name):
                    raise missing_collection(name)
                shard = Shard(self._catalog, name, lock_timeout_s=self._lock_timeout_s)
                self._shards[name] = shard
            return shard

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"this EdgeClient for {self._path} is closed: open another")
        if os.getpid() != self._pid:
            raise StoreError(
                f"this EdgeClient was opened in process {self._pid}: open one of your own in this "
                "process, after it was started by spawn rather than fork"
            )


def _close_all(shards: dict[str, Shard]) -> None:
    """Close all, even if one of them cannot be."""
    with ExitStack() as closing:
        while shards:
            closing.callback(shards.popitem()[1].close)


def refuse_options(options: Mapping[str, Any]) -> None:
    """Let pass what has no effect on one embedded copy, refuse the rest.

    Raises:
        NotImplementedError: An option that only a server can honour.
        TypeError: There is no such option.
    """
    for name, value in options.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name not in ("shard_key_selector", "shard_key"):
            raise TypeError(f"unexpected keyword argument {name!r}")
        if value is not None:
            raise unsupported(f"{name}={value!r}")
