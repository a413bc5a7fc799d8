"""Every error that ragkit raises on purpose.

    RagkitError
    ├── DocumentError        a file that cannot become a document; `reason` says why
    ├── MissingDependency    an optional library is not installed; says which extra has it
    ├── EmbeddingError       vectors that are missing, misshapen or not finite
    ├── CollectionError      a collection that cannot be used as asked
    │   ├── CollectionNotFound
    │   └── CollectionMismatch   it was made with another embedder or dimension, or not by ragkit
    └── StoreError           the embedded database cannot go on
        ├── StoreLocked      another process holds it; says which
        ├── StoreFull        too little free disk space to write safely
        └── StoreCorrupt     files on disk that the engine cannot read

A bad argument is a plain `ValueError`. What a Qdrant server answers (unknown collection, wrong
dimension, bad filter) stays qdrant-client's own exception, on the embedded engine as well.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class RagkitError(Exception):
    """The root of the tree: catch this to catch all that ragkit raises on purpose."""


class DocumentError(RagkitError):
    """A file that cannot become a document.

    Attributes:
        reason: Why, in a few words fit for a list of skipped files.
        stale: Whether the file was read and holds nothing to index, so that what was indexed of
            it before no longer stands in it (False when it could not be read at all).
    """

    def __init__(self, reason: str, *, stale: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.stale = stale


class MissingDependency(RagkitError):
    """An optional library is needed and not installed."""


class EmbeddingError(RagkitError):
    """An embedder returned something other than one finite vector per text."""


class CollectionError(RagkitError):
    """A collection cannot be used as asked."""


class CollectionNotFound(CollectionError):
    """There is no collection of that name."""


class CollectionMismatch(CollectionError):
    """The collection was made with other settings than those asked for."""


class StoreError(RagkitError):
    """The embedded database cannot go on."""


class StoreLocked(StoreError):
    """Another process has the embedded collection open."""


class StoreFull(StoreError):
    """There is too little free disk space to write safely."""


class StoreCorrupt(StoreError):
    """Files of the embedded database cannot be read."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Raises:
        MissingDependency: It is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or module.split(".")[0] != exc.name.split(".")[0]:
            raise
        raise MissingDependency(
            f'{module.split(".")[0]} is needed and not installed: pip install "ragkit[{extra}]"'
        ) from exc
