"""From a collection's manifest back to the embedder that it was made with."""

from __future__ import annotations

from ragkit.embeddings import Embedder, HashEmbedder
from ragkit.gemini.embedder import GeminiEmbedder


def embedder_of(
    fingerprint: str | None, *, rpm: float | None = None, tpm: float | None = None
) -> Embedder | None:
    """The embedder of a fingerprint; None if it is not one of ragkit's own.

    Args:
        fingerprint: As the collection's manifest has it.
        rpm: For an embedder with a quota, texts per minute; see `GeminiEmbedder`.
        tpm: Tokens per minute.
    """
    return HashEmbedder.from_fingerprint(fingerprint) or GeminiEmbedder.from_fingerprint(
        fingerprint, rpm=rpm, tpm=tpm
    )
