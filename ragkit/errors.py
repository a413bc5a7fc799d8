"""Every error that ragkit raises on purpose.

    RagkitError
    ├── DocumentError        a file that cannot become a document; `reason` says why
    ├── MissingDependency    an optional library is not installed; says which extra has it
    ├── EmbeddingError       vectors that are missing, misshapen or not finite
    │   ├── TextsRefused         some texts cannot be embedded; the others were, and are in it
    │   └── EmbedderUnavailable  no text is at fault: out of reach, or failing past the deadline
    │       ├── RateLimited      too many requests, past the deadline
    │       ├── QuotaExhausted   a quota that only another day refills
    │       ├── AuthError        no key, a bad one, or one that may not do this
    │       └── ModelNotFound    there is no such model, or no longer
    ├── CollectionError      a collection that cannot be used as asked
    │   ├── CollectionNotFound
    │   └── CollectionMismatch   it was made with another embedder or dimension, or not by ragkit
    └── StoreError           the database cannot go on
        ├── StoreLocked      another process holds the embedded one; says which
        ├── StoreFull        too little free disk space to write safely
        ├── StoreCorrupt     files on disk that the engine cannot read
        ├── StoreDenied      the server wants a key, or another one
        ├── StoreUnavailable the server did not answer before the deadline
        └── ServerTooOld     the server lacks what was asked for

A bad argument is a plain `ValueError`. What a Qdrant server refuses (unknown collection, wrong
dimension, bad filter) stays qdrant-client's own exception, on the embedded engine as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


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


class TextsRefused(EmbeddingError):
    """Some of the texts cannot be embedded, and asking again does not help.

    Attributes:
        failed: The reason for each of those texts, by its index in the call.
        vectors: The unit vectors, shape (dim,), of all the others, by index.
    """

    def __init__(
        self,
        message: str,
        *,
        failed: Mapping[int, str] | None = None,  # optional, since unpickling fills them in later
        vectors: Mapping[int, NDArray[float32]] | None = None,
    ) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})
        self.vectors = dict(vectors or {})


class EmbedderUnavailable(EmbeddingError):
    """The embedder cannot go on; no text is at fault, so halving a batch finds nothing.

    Attributes:
        failed: As in `TextsRefused`: texts that were refused before.
        vectors: As in `TextsRefused`: what was embedded before, paid for and good.
    """

    def __init__(
        self,
        message: str,
        *,
        failed: Mapping[int, str] | None = None,
        vectors: Mapping[int, NDArray[float32]] | None = None,
    ) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})
        self.vectors = dict(vectors or {})


class RateLimited(EmbedderUnavailable):
    """Still too many requests when the deadline passed."""


class QuotaExhausted(EmbedderUnavailable):
    """A quota is used up that no waiting within this run refills."""


class AuthError(EmbedderUnavailable):
    """There is no key, or the service does not accept it."""


class ModelNotFound(EmbedderUnavailable):
    """There is no such model, or it has been shut down."""


class CollectionError(RagkitError):
    """A collection cannot be used as asked."""


class CollectionNotFound(CollectionError):
    """There is no collection of that name."""


class CollectionMismatch(CollectionError):
    """The collection was made with other settings than those asked for."""


class StoreError(RagkitError):
    """The database cannot go on."""


class StoreLocked(StoreError):
    """Another process has the embedded collection open."""


class StoreFull(StoreError):
    """There is too little free disk space to write safely."""


class StoreCorrupt(StoreError):
    """Files of the embedded database cannot be read."""


class StoreDenied(StoreError):
    """The server wants an API key, or does not accept this one for this."""


class StoreUnavailable(StoreError):
    """The server did not answer, or went on failing, until the deadline passed."""


class ServerTooOld(StoreError):
    """The server's version lacks what was asked for."""


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
