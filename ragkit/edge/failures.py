"""The engine's failures as qdrant-client's and ragkit's errors.

The engine raises a bare `Exception` for a request that it refuses and for a disk that fails
alike; only the text tells them apart. A panic is a `BaseException` of a module that cannot be
imported.
"""

from __future__ import annotations

import re
from pathlib import Path

from ragkit.edge.responses import bad_request, not_found
from ragkit.errors import StoreCorrupt, StoreError

_MISSING_POINT = re.compile(r"No point with id \S+")
_MISSING_INDEX = re.compile(r"No (appropriate|range|suitable) index")
# The operating system's refusals that say nothing of the files' contents; 2 is a missing file.
_OS_ERROR = re.compile(r"\(os error (?!2\))\d+\)")


def is_panic(exc: BaseException) -> bool:
    """Whether the engine's own code broke, which leaves the shard unusable."""
    return type(exc).__name__ == "PanicException"


def is_locked(exc: BaseException) -> bool:
    """Whether a shard could not be opened because it is open elsewhere."""
    return "WouldBlock" in str(exc)


def translated(exc: BaseException) -> Exception:
    """The error that a caller should see for one of the engine's."""
    text = str(exc)
    if is_panic(exc):
        return StoreError(
            f"the embedded engine broke off ({text}); what was reported as completed is safe, "
            "and the next use opens the collection again"
        )
    missing = _MISSING_POINT.search(text)
    if missing:
        return not_found(f"Not found: {missing[0]} found")
    if _MISSING_INDEX.search(text):
        return bad_request(f"Bad request: {text}")
    if text.startswith("Service") or isinstance(exc, OSError):
        return StoreError(f"the embedded engine failed: {text}")
    return bad_request(f"Wrong input: {text}")


def unopened(collection: Path, exc: BaseException) -> StoreError:
    """The error for files that the engine did not open."""
    if _OS_ERROR.search(str(exc)):
        return StoreError(f"the collection in {collection} cannot be opened: {exc}")
    return damaged(collection, str(exc))


def damaged(collection: Path, what: str) -> StoreCorrupt:
    """The error for files that are not what they were."""
    return StoreCorrupt(
        f"the files of the collection in {collection} are damaged ({what}): restore them from a "
        'copy, or delete the collection ("ragkit drop") and index again'
    )


def changed_since(collection: Path, note: Path, what: str) -> StoreCorrupt:
    """The error for files that are not as the last clean close left them."""
    error = damaged(collection, what)
    return StoreCorrupt(f"{error}; if another program has changed them, remove {note}")
