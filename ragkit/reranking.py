"""Rerankers: who reads query and passages together, and puts the best of a first ranking on top.

A reranker is any callable `(query, texts) -> scores`, such as `CrossEncoderReranker` of the extra
`torch` or a few lines around a service:

    def shortest_first(query: str, texts: list[str]) -> list[float]:
        return [-len(text) for text in texts]

Its failure does not fail a search: the hits stay in the order of the first ranking, and say so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragkit.hits import Hit, Hits

_logger = logging.getLogger(__name__)

_LOOKED_AT = 2_000  # characters of a foreign message
_SHOWN = 200
# What may be a key in it: what stands before the @ of an address or behind its question mark; and
# what is too long for a word and holds letters and digits, several where it has hyphens as the
# names of models have.
_SECRETS = re.compile(
    r"(?<=://)[^\s/@]+(?=@)"
    r"|(?<=\?)[^\s'\"]*=[^\s'\"]*"
    r"|(?<![\w-])(?=(?:[\w-]*?\d){4})(?=[\w-]*[A-Za-z])[\w-]{20,}"
    r"|(?<!\w)(?=\w*\d)(?=\w*[A-Za-z])\w{20,}"
)


class Reranker(Protocol):
    """Any callable that says how well passages answer a query."""

    def __call__(self, query: str, texts: list[str], /) -> ArrayLike:
        """A finite number for each text, higher is better; they come best of the search first."""
        ...


def check_reranker(reranker: object) -> None:
    """Refuse what cannot be a reranker.

    Raises:
        TypeError: It cannot be called.
    """
    if reranker is not None and not callable(reranker):
        raise TypeError(
            f"expected a reranker to be a callable (query, texts) -> scores, got {reranker!r}"
        )


def rerank(reranker: Reranker, query: str, hits: Sequence[Hit]) -> Hits:
    """Put hits in a reranker's order.

    It reads `Hit.text` alone: neither title nor headings, and not the `context` around it.

    Returns:
        The hits with its scores, best first. If it raises, or returns anything but one finite
        number per text: the hits as they were, and a note that says why. The log has the
        traceback.
    """
    if not hits:
        return Hits()
    try:
        scores = checked_scores(reranker(query, [hit.text for hit in hits]), len(hits))
    # It is the caller's own code: whatever it raises, the first ranking is there and is good.
    except Exception as exc:
        note = f"the reranker failed ({_said(exc)}): the hits are in the order of the first ranking"
        _logger.warning("%s", note, exc_info=exc)
        return Hits(hits, notes=(note,))
    return Hits(reranked(hits, scores))


def checked_scores(scores: ArrayLike, count: int) -> NDArray[np.float64]:
    """Check a reranker's answer.

    Args:
        scores: What came: anything numpy reads as `count` numbers.
        count: How many texts it was given.

    Returns:
        Shape (count,).

    Raises:
        ValueError: Another shape, no numbers, or one that is not finite.
    """
    try:
        found = np.asarray(scores)
        numbers = found.astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as exc:
        raise ValueError(f"expected {count} scores, got no numbers: {exc}") from exc
    if numbers.shape != (count,):
        raise ValueError(f"expected scores of shape ({count},), got {numbers.shape}")
    if not np.isfinite(numbers).all():
        first = np.flatnonzero(~np.isfinite(numbers))[0]
        raise ValueError(f"expected finite scores, got {numbers[first]} for text {first}")
    return numbers


def reranked(hits: Sequence[Hit], scores: NDArray[np.float64]) -> list[Hit]:
    """The hits with these scores, highest first; equal ones stay in the order they had."""
    order = np.argsort(-scores, kind="stable")
    return [replace(hits[i], score=float(scores[i])) for i in order]


def _said(error: Exception) -> str:
    """An error's class and message, on one line and without what may be a key."""
    message = _SECRETS.sub("…", " ".join(str(error)[:_LOOKED_AT].split()))
    shown = message if len(message) <= _SHOWN else message[: _SHOWN - 1] + "…"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
