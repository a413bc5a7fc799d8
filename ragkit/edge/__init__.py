"""The qdrant-client API on the embedded Qdrant Edge engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragkit.edge.client import EdgeClient

__all__ = ["EdgeClient"]


def __getattr__(name: str) -> Any:
    if name == "EdgeClient":  # imported when first used: qdrant-client takes half a second
        from ragkit.edge.client import EdgeClient

        return EdgeClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
