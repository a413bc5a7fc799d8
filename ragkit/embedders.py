"""From a collection's manifest back to the embedder that it was made with."""

from __future__ import annotations

import re

from ragkit.embeddings import Embedder, HashEmbedder
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.local.minilm import LocalEmbedder
from ragkit.local.sentence_transformer import SentenceTransformerEmbedder

_DIM = re.compile(r"\bdim=(\d+)")


def embedder_of(
    fingerprint: str | None, *, rpm: float | None = None, tpm: float | None = None
) -> Embedder | None:
    """The embedder of a fingerprint; None if it is not one of ragkit's own.

    Args:
        fingerprint: As the collection's manifest has it.
        rpm: For an embedder with a quota, texts per minute; see `GeminiEmbedder`.
        tpm: Tokens per minute.
    """
    return (
        HashEmbedder.from_fingerprint(fingerprint)
        or LocalEmbedder.from_fingerprint(fingerprint)
        or SentenceTransformerEmbedder.from_fingerprint(fingerprint)
        or GeminiEmbedder.from_fingerprint(fingerprint, rpm=rpm, tpm=tpm)
    )


def with_dim(
    fingerprint: str | None, dim: int, *, rpm: float | None = None, tpm: float | None = None
) -> Embedder | None:
    """As `embedder_of`, at another width."""
    resized = _DIM.sub(f"dim={dim}", fingerprint or "")
    return embedder_of(resized, rpm=rpm, tpm=tpm)


def is_cut_of(narrow: str | None, wide: str | None) -> bool:
    """Whether the vectors of one fingerprint are those of the other cut short, at unit length.

    So it is with Gemini's models, whose first components hold the most (Kusupati et al. 2022,
    "Matryoshka Representation Learning"), and with what `SentenceTransformerEmbedder` cuts.
    """
    here, there = _DIM.search(narrow or ""), _DIM.search(wide or "")
    if not (here and there and int(here[1]) < int(there[1])):
        return False
    is_same_model = here.string.replace(here[0], there[0], 1) == wide
    kinds = (GeminiEmbedder, SentenceTransformerEmbedder)
    return is_same_model and any(kind.from_fingerprint(wide) is not None for kind in kinds)
