"""Google's Gemini: the embedder, and batch jobs at half the price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragkit.gemini.batch import GeminiBatch
    from ragkit.gemini.embedder import GeminiEmbedder

__all__ = ["GeminiBatch", "GeminiEmbedder"]


def __getattr__(name: str) -> Any:  # a batch needs the indexer, which an embedder does not
    if name == "GeminiEmbedder":
        from ragkit.gemini.embedder import GeminiEmbedder

        return GeminiEmbedder
    if name == "GeminiBatch":
        from ragkit.gemini.batch import GeminiBatch

        return GeminiBatch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
