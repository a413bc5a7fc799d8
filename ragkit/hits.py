"""What a search finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from ragkit.citations import Citation
from ragkit.foreign import ForeignSchema
from ragkit.passages import Passage

_FIELDS = [
    "text",
    "title",
    "source",
    "corpus",
    "start",
    "end",
    "line",
    "page",
    "last_page",
    "headings",
    "ordinal",
    "metadata",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage found.

    Attributes:
        id: The point's id.
        score: Higher is better; what it means depends on the search: cosine similarity (dense),
            BM25 (sparse), fused ranks (hybrid), or what the reranker says. Scores of different
            searches do not compare. Only of a collection that ragkit did not make and that is
            compared by Euclid's or Manhattan's distance, lower is better.
        source: The document, within its corpus.
        corpus: The corpus.
        text: The passage.
        start: Offset of its first character in the document's text.
        end: Offset after its last.
        line: The file's line (1-based) where it begins; None for converted formats such as HTML.
        headings: The headings above it, outermost first.
        ordinal: Its place among the document's chunks, from 0.
        metadata: The document's.
        page: The page (1-based) where it begins; None for formats without pages.
        last_page: The page where it ends.
        placed: Whether its place in the document is known: not in a collection that ragkit did not
            make, where `start` and `end` are those of the whole text.
        group: The value of `group_by` that it was found for; None where nothing was grouped.
        context: The passage with its neighbours, where `context` was asked for.
    """

    id: str
    score: float
    title: str
    source: str
    corpus: str
    text: str
    start: int
    end: int
    line: int | None
    headings: tuple[str, ...]
    ordinal: int
    metadata: Mapping[str, Any]
    page: int | None = None
    last_page: int | None = None
    placed: bool = True
    group: str | int | None = None
    context: Passage | None = None

    @property
    def citation(self) -> Citation:
        """Where to find the passage in its document."""
        return Citation.of(self)


class Hits(list[Hit]):
    """Hits, best first, and what the search has to say about them.

    Attributes:
        notes: What went otherwise than asked for, in sentences: a reranker that failed, a filter
            on a key without an index. Empty as a rule.
    """

    def __init__(self, hits: Iterable[Hit] = (), *, notes: tuple[str, ...] = ()) -> None:
        super().__init__(hits)
        self.notes = notes


def hit_fields(foreign: ForeignSchema | None) -> list[str] | bool:
    """The payload keys that a hit is made of; True for all."""
    return _FIELDS if foreign is None else True


def read_hit(
    point: models.ScoredPoint,
    *,
    foreign: ForeignSchema | None = None,
    group: str | int | None = None,
) -> Hit:
    """The hit that a point is.

    Args:
        point: With the payload keys of `hit_fields`.
        foreign: Where its collection keeps what, if ragkit did not make it. Such a hit's offsets
            are those of the whole text, and its metadata what else the payload has.
        group: What it was grouped by.
    """
    payload = point.payload or {}
    if foreign is not None:
        text, source, title = foreign.read(payload)
        payload = {
            "text": text,
            "source": source,
            "title": title or source or f"point {point.id}",
            "corpus": "",
            "start": 0,
            "end": len(text),
            "ordinal": 0,
            "metadata": {key: value for key, value in payload.items() if key != foreign.text},
        }
    return Hit(
        id=str(point.id),
        score=point.score,
        title=payload["title"],
        source=payload["source"],
        corpus=payload["corpus"],
        text=payload["text"],
        start=payload["start"],
        end=payload["end"],
        line=payload.get("line"),
        headings=tuple(payload.get("headings") or ()),
        ordinal=payload["ordinal"],
        metadata=payload.get("metadata") or {},
        page=payload.get("page"),
        last_page=payload.get("last_page"),
        placed=foreign is None,
        group=group,
    )
