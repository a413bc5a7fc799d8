"""Where a collection lives: a folder (the embedded engine) or a URL (a Qdrant server)."""

from __future__ import annotations

from pathlib import Path

from qdrant_client import QdrantClient
from qdrant_client.client_base import QdrantBase

from ragkit.edge import EdgeClient

_TIMEOUT_S = 60


def connect(location: str | Path, *, api_key: str | None = None) -> QdrantBase:
    """Open a store.

    Args:
        location: A folder gives an `EdgeClient`; an http or https URL gives a `QdrantClient`.
        api_key: For a server that wants one.

    Raises:
        ValueError: `location` is empty, or an API key goes with a folder.
    """
    if not str(location).strip():
        raise ValueError("expected a folder or the URL of a Qdrant server, got an empty string")
    if str(location).startswith(("http://", "https://")):
        return QdrantClient(url=str(location), api_key=api_key, timeout=_TIMEOUT_S)
    if "://" in str(location) or str(location) == ":memory:":
        raise ValueError(f"expected a folder or an http(s) URL, got {location!r}")
    if api_key is not None:
        raise ValueError(f"a key is for a server, and {str(location)!r} is a folder")
    return EdgeClient(Path(location).expanduser())
