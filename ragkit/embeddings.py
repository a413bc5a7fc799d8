"""Texts become vectors: the `Embedder` seam, its checks, and one embedder that needs nothing."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragkit.errors import EmbedderUnavailable, EmbeddingError, TextsRefused
from ragkit.tokens import CHARACTER_TOKENS, estimate_tokens

Vectors: TypeAlias = NDArray[np.float32]
K = TypeVar("K", bound=Hashable)

_WORD = re.compile(r"\w+")
_HOPELESS = 8  # texts refused one by one, and none embedded: then it is not the texts
_MAX_NGRAM_CHARS = 64  # of a longer word only this much is cut into n-grams
# How many times `max_tokens` a query may have. The estimate counts up to 2.2 tokens for one of
# all-MiniLM-L6-v2 (emoji; prose 1.2, logs 1.7): a query of a little over `max_tokens` may well be
# read to its end, one of more than twice that is not.
QUERY_SLACK = 2


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


@runtime_checkable
class QueryBatchEmbedder(Embedder, Protocol):
    """An embedder that embeds many queries in one call, in fewer requests or at once."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries; shape (len(texts), dim), in order.

        Raises:
            TextsRefused: Some cannot be embedded; it has the vectors of the others.
        """
        ...


@runtime_checkable
class AsyncQueryBatchEmbedder(AsyncEmbedder, Protocol):
    """The same without blocking the event loop."""

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        """As `QueryBatchEmbedder.embed_queries`."""
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
        ValueError: The query is blank, or far longer than what the model reads.
        EmbeddingError: As in `embed_documents`.
    """
    check_queries(embedder, [text])
    return _checked_query(embedder, embedder.embed_query(text))


async def aembed_query(embedder: AsyncEmbedder, text: str) -> Vectors:
    """As `embed_query`, of an embedder with coroutines."""
    check_queries(embedder, [text])
    return _checked_query(embedder, await embedder.aembed_query(text))


def embed_queries(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed queries, in one call where the embedder can, and check what comes back.

    Returns:
        Unit vectors, shape (len(texts), dim).

    Raises:
        ValueError: A query is blank, or far longer than what the model reads; the message has its
            index, and nothing was embedded.
        TextsRefused: The embedder refused some; it has the reasons and the other vectors, by index.
        EmbeddingError: As in `embed_documents`.
    """
    check_queries(embedder, texts)
    if not texts:
        return np.zeros((0, embedder.dim), np.float32)
    if not isinstance(embedder, QueryBatchEmbedder):
        return _one_by_one(embedder, texts)
    vectors = embedder.embed_queries(texts)
    return checked_vectors(vectors, shape=(len(texts), embedder.dim), origin=embedder.fingerprint)


async def aembed_queries(embedder: AsyncQueryBatchEmbedder, texts: Sequence[str]) -> Vectors:
    """As `embed_queries`, of an embedder with coroutines."""
    check_queries(embedder, texts)
    if not texts:
        return np.zeros((0, embedder.dim), np.float32)
    vectors = await embedder.aembed_queries(texts)
    return checked_vectors(vectors, shape=(len(texts), embedder.dim), origin=embedder.fingerprint)


def check_queries(embedder: Embedder, texts: Sequence[str]) -> None:
    """Check queries before anything is paid for.

    Raises:
        ValueError: One is blank, or has more than `QUERY_SLACK` times the tokens that the model
            reads, by the estimate; of several the message has its index.
    """
    for index, text in enumerate(texts):
        which = f"query {index}: " if len(texts) > 1 else ""
        if not text.strip():
            raise ValueError(f"{which}expected a query with words in it, got a blank one")
        most = QUERY_SLACK * embedder.max_tokens
        if (tokens := _tokens_over(text, most)) is not None:
            raise ValueError(
                f"{which}expected a query of at most {most:,} tokens for {embedder.fingerprint}, "
                f"got about {tokens:,} ({len(text):,} characters): search with a part of it, or "
                'by its words alone with mode="sparse"'
            )


def unread_note(embedder: Embedder, text: str) -> str | None:
    """What to tell who asks with a query that the model may not read to its end; else None.

    Such a query is embedded all the same: the estimate may be too high, and its beginning mostly
    says what is looked for.
    """
    tokens = _tokens_over(text, embedder.max_tokens)
    if tokens is None:
        return None
    return (
        f"the query has about {tokens:,} tokens, and the embedder reads about "
        f"{embedder.max_tokens:,}: what comes after may not have counted for its vector"
    )


def refusal(
    failed: Mapping[int, str], *, count: int, vectors: Mapping[int, Vectors]
) -> TextsRefused:
    """The error for some of `count` texts.

    Args:
        failed: The reason for each of those, by index; at least one.
        count: Of all texts.
        vectors: Of the others, by index.
    """
    first = min(failed)
    return TextsRefused(
        f"{len(failed)} of {count} texts cannot be embedded; text {first}: {failed[first]}",
        failed=failed,
        vectors=vectors,
    )


def readdressed(
    error: TextsRefused | EmbedderUnavailable,
    *,
    keys: Sequence[K],
    asked: Sequence[K],
    known: Mapping[K, Vectors],
) -> TextsRefused | EmbedderUnavailable:
    """The error of a call that was made for a part of the texts, with the indexes of all.

    Args:
        error: Its indexes are those of `asked`.
        keys: What stands for each text, in order; equal texts have equal ones.
        asked: The keys of those that the call was made for, each once.
        known: Vectors that are there without it, or in spite of its failure, by key.
    """
    reasons = {asked[i]: reason for i, reason in error.failed.items()}
    failed = {i: reasons[key] for i, key in enumerate(keys) if key in reasons}
    found = {asked[i]: vector for i, vector in error.vectors.items()} | dict(known)
    vectors = {i: found[key] for i, key in enumerate(keys) if key in found}
    if failed and isinstance(error, TextsRefused):
        return refusal(failed, count=len(keys), vectors=vectors)
    return type(error)(str(error), failed=failed, vectors=vectors)


def _tokens_over(text: str, most: int) -> int | None:
    """The tokens of a text that has more than `most`; else None, at once where it is short."""
    if len(text) * CHARACTER_TOKENS <= most:
        return None
    tokens = estimate_tokens(text)
    return tokens if tokens > most else None


def _checked_query(embedder: Embedder, answer: object) -> Vectors:
    vector, origin = np.asarray(answer), embedder.fingerprint
    row: Vectors = checked_vectors(vector[None, ...], shape=(1, embedder.dim), origin=origin)[0]
    return row


def _one_by_one(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    vectors: dict[int, Vectors] = {}
    failed: dict[int, str] = {}
    for index, text in enumerate(texts):
        try:
            vectors[index] = _checked_query(embedder, embedder.embed_query(text))
        except TextsRefused as exc:
            failed[index] = exc.failed.get(0, str(exc))
        except EmbedderUnavailable as exc:
            exc.failed, exc.vectors = failed, vectors
            raise
    if failed:
        raise refusal(failed, count=len(texts), vectors=vectors)
    return np.stack([vectors[index] for index in range(len(texts))])


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
