"""qdrant-client's own clients, connected to a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qdrant_client import QdrantClient

from qdrant_standin.server import Server

TRANSPORTS = ("rest", "grpc")


@contextmanager
def connected(server: Server, transport: str, **options: Any) -> Iterator[QdrantClient]:
    """A client over "rest" or "grpc", closed at the end of the block."""
    client = QdrantClient(
        url=server.url,
        grpc_port=server.grpc_port,
        prefer_grpc=transport == "grpc",
        check_compatibility=False,
        **{"timeout": 20, **options},
    )
    try:
        yield client
    finally:
        client.close()
