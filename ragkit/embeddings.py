"""Texts become vectors: the `Embedder` seam, its checks, and one embedder that needs nothing."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import EmbedderUnavailable, EmbeddingError, TextsRefused

Vectors: TypeAlias = NDArray[np.float32]

_WORD = re.compile(r"\w+")
_HOPELESS = 8  # texts refused one by one, and none embedded: then it is not the texts
_MAX_NGRAM_CHARS = 64  # of a longer word only this much is cut into n-grams


@runtime_checkable
class Embedder(Protocol):
    """Callers say document or query; the embedder knows what its model wants for each.

    Attributes:
        dim: The width of every vector.
        max_tokens: How much of a text the model reads, in tokens of `estimate_tokens`.
        fingerprint: Names all that a vector depends on (model, dim, conditioning, normalisation)
            in one readable line without secrets; it is kept in the collection's manifest, and
            vectors of different fingerprints are never mixed.
    """

    @property
    def dim(self) -> int: ...  # noqa: D102

    @property
    def max_tokens(self) -> int: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Embed passages, each with its own title; shape (len(texts), dim), in order."""
        ...

    def embed_query(self, text: str) -> Vectors:
        """Embed one query; shape (dim,)."""
        ...


@runtime_checkable
class AsyncEmbedder(Embedder, Protocol):
    """An embedder that can embed a query without blocking the event loop."""

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`."""
        ...


def embed_documents(embedder: Embedder, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
    """Embed passages and check what comes back.

    Returns:
        Unit vectors, shape (len(texts), dim).

    Raises:
        EmbeddingError: Not one finite, non-zero vector of `embedder.dim` per text.
    """
    vectors = embedder.embed_documents(texts, titles=titles)
    return checked_vectors(vectors, shape=(len(texts), embedder.dim), origin=embedder.fingerprint)


def embed_query(embedder: Embedder, text: str) -> Vectors:
    """Embed a query and check what comes back.

    Returns:
        A unit vector, shape (dim,).

    Raises:
        ValueError: The query is blank.
        EmbeddingError: As in `embed_documents`.
    """
    if not text.strip():
        raise ValueError("expected a query with words in it, got a blank one")
    vector = np.asarray(embedder.embed_query(text))
    origin = embedder.fingerprint
    checked = checked_vectors(vector[None, ...], shape=(1, embedder.dim), origin=origin)
    row: Vectors = checked[0]
    return row


async def aembed_query(embedder: AsyncEmbedder, text: str) -> Vectors:
    """As `embed_query`, of an embedder with coroutines."""
    vector = np.asarray(await embedder.aembed_query(text))
    shape, origin = (1, embedder.dim), embedder.fingerprint
    row: Vectors = checked_vectors(vector[None, ...], shape=shape, origin=origin)[0]
    return row


@dataclass(slots=True, kw_only=True)
class Embedded:
    """What came of embedding some texts, by their index.

    Attributes:
        vectors: Unit vectors, shape (dim,).
        refused: Why a text cannot be embedded.
        unavailable: Why the embedder could not go on, if so; some texts are then in neither.
    """

    vectors: dict[int, Vectors] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    unavailable: EmbedderUnavailable | None = None


def embed_what_can_be(
    embedder: Embedder, texts: Sequence[str], *, titles: Sequence[str], proven: bool = False
) -> Embedded:
    """Embed passages, and find out which ones are at fault where a call fails.

    An embedder that knows raises `TextsRefused`. Of one that does not the call is halved until
    the texts at fault stand alone.

    Args:
        embedder: The embedder.
        texts: The passages.
        titles: One for each.
        proven: Whether it has embedded something before, so that texts must be at fault.

    Raises:
        EmbeddingError: It fails for one text after the other and has never embedded any: it is
            the embedder that is at fault.
    """
    outcome = Embedded()
    todo = [range(len(texts))]
    while todo and outcome.unavailable is None:
        part = todo.pop()
        try:
            _embed_part(embedder, texts, titles, part, outcome)
        except EmbeddingError as exc:
            if len(part) > 1:
                middle = len(part) // 2
                todo += [part[middle:], part[:middle]]
                continue
            outcome.refused[part.start] = str(exc)
            if not proven and not outcome.vectors and len(outcome.refused) == _HOPELESS:
                raise
    return outcome


def _embed_part(
    embedder: Embedder,
    texts: Sequence[str],
    titles: Sequence[str],
    part: range,
    outcome: Embedded,
) -> None:
    if not part:
        return
    own = slice(part.start, part.stop)
    try:
        vectors = embed_documents(embedder, texts[own], titles=titles[own])
    except (TextsRefused, EmbedderUnavailable) as exc:
        outcome.vectors.update((part[i], vector) for i, vector in exc.vectors.items())
        outcome.refused.update((part[i], reason) for i, reason in exc.failed.items())
        if isinstance(exc, EmbedderUnavailable):
            outcome.unavailable = exc
            return
        for i in set(part) - outcome.vectors.keys() - outcome.refused.keys():
            outcome.refused[i] = f"neither embedded nor refused with a reason: {exc}"
    else:
        outcome.vectors.update(zip(part, vectors, strict=True))


def checked_vectors(vectors: object, *, shape: tuple[int, int], origin: str) -> Vectors:
    """Check an embedder's answer and scale its rows to unit length.

    Args:
        vectors: What came: anything numpy reads as a matrix.
        shape: The (texts, dim) that was asked for.
        origin: Who made them, for the message.

    Raises:
        EmbeddingError: Wrong shape, a value that is not finite, or a zero vector.
    """
    try:
        matrix = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise EmbeddingError(f"{origin}: expected {shape} numbers, got {exc}") from exc
    if matrix.shape != shape:
        raise EmbeddingError(
            f"{origin}: expected vectors of shape {shape} (texts, dim), got {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise EmbeddingError(
            f"{origin}: expected finite numbers, got NaN or infinity in {_some(rows)}"
        )
    # In float64, where the square of no float32 overflows or vanishes.
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        rows = np.flatnonzero(norms[:, 0] == 0)
        raise EmbeddingError(f"{origin}: expected non-zero vectors, got zeros in {_some(rows)}")
    return np.asarray(matrix / norms, dtype=np.float32)


def _some(rows: NDArray[np.intp]) -> str:
    shown = ", ".join(str(row) for row in rows[:5])
    return f"text {shown}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


class HashEmbedder:
    """Signed feature hashing of words and character n-grams: offline, deterministic, lexical.

    It knows no meaning: two texts are near when they share words or parts of words, so "car" and
    "automobile" are strangers. It exists for tests, demonstrations and plumbing, not as a model.
    The sign of each feature is hashed too, so that collisions cancel on average instead of adding
    up (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning").
    """

    max_tokens = 1_000_000

    def __init__(self, dim: int = 512) -> None:
        if dim < 8:
            raise ValueError(f"expected dim of at least 8, got {dim}")
        self._dim = dim

    @classmethod
    def from_fingerprint(cls, fingerprint: str | None) -> HashEmbedder | None:
        """The embedder that a collection was made with; None if that was not one of these."""
        found = re.fullmatch(r"hash-v1 dim=(\d+)", fingerprint or "")
        return cls(dim=int(found[1])) if found else None

    @property
    def dim(self) -> int:
        """The width of every vector."""
        return self._dim

    @property
    def fingerprint(self) -> str:
        """Model and dimension; titles are hashed with the text."""
        return f"hash-v1 dim={self._dim}"

    def __repr__(self) -> str:
        return f"HashEmbedder(dim={self._dim})"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Hash each text with its title; shape (len(texts), dim), unit rows."""
        if not texts:
            return np.zeros((0, self._dim), np.float32)
        pairs = zip(texts, titles, strict=True)
        return np.stack([self._hash(f"{title}\n{text}") for text, title in pairs])

    def embed_query(self, text: str) -> Vectors:
        """Hash the query; shape (dim,), unit length."""
        return self._hash(text)

    def _hash(self, text: str) -> Vectors:
        counts = Counter(_WORD.findall(text.lower())) or Counter([text])
        features = [_features(word) for word in counts]
        hashes = np.concatenate([hashes for hashes, _ in features])
        # A word said nine times counts three times as much as one said once.
        scale = np.sqrt(np.fromiter(counts.values(), np.float64, len(counts)))
        weights = np.concatenate(
            [weights * s for (_, weights), s in zip(features, scale, strict=True)]
        )
        signs = np.where(hashes & 1, 1.0, -1.0)
        vector = np.bincount((hashes >> 1) % self._dim, weights * signs, minlength=self._dim)
        if not vector.any():  # all features cancelled each other
            vector[int(hashes[0] >> 1) % self._dim] = 1.0
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


@lru_cache(maxsize=20_000)
def _features(word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The hashes of a word and of its 3- to 5-grams, and their weights: 1 and 1 shared by all."""
    bounded = f"<{word[:_MAX_NGRAM_CHARS]}>"
    grams = [bounded[i : i + n] for n in (3, 4, 5) for i in range(len(bounded) - n + 1)]
    hashes = np.fromiter((_mixed(f) for f in (word, *grams)), np.int64, len(grams) + 1)
    weights = np.full(len(hashes), 1.0 / max(1.0, len(grams) ** 0.5))
    weights[0] = 1.0
    return hashes, weights


def _mixed(feature: str) -> int:
    """A stable 32-bit hash; CRC-32 alone is linear, the multiplication and shift mix its bits."""
    mixed = zlib.crc32(feature.encode("utf-8", "surrogatepass")) * 0x9E3779B1 & 0xFFFFFFFF
    return mixed ^ (mixed >> 15)
