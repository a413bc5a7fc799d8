"""Models that run on this machine: the one that ragkit brings along, and sentence-transformers'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragkit.local.cross_encoder import CrossEncoderReranker
    from ragkit.local.minilm import LocalEmbedder
    from ragkit.local.sentence_transformer import SentenceTransformerEmbedder

__all__ = ["CrossEncoderReranker", "LocalEmbedder", "SentenceTransformerEmbedder"]


def __getattr__(name: str) -> Any:  # each needs an extra of its own
    if name == "CrossEncoderReranker":
        from ragkit.local.cross_encoder import CrossEncoderReranker

        return CrossEncoderReranker
    if name == "LocalEmbedder":
        from ragkit.local.minilm import LocalEmbedder

        return LocalEmbedder
    if name == "SentenceTransformerEmbedder":
        from ragkit.local.sentence_transformer import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
