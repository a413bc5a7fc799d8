"""A hit as other libraries hand it around: a text, and a flat dictionary beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragkit.hits import Hit
from ragkit.passages import Passage

# What `metadata_of` puts in beside the document's own metadata.
OWN_KEYS = (
    "source",
    "title",
    "corpus",
    "citation",
    "score",
    "id",
    "start",
    "end",
    "line",
    "page",
    "last_page",
    "headings",
    "notes",
)


def span_of(hit: Hit) -> Hit | Passage:
    """What is handed on of a hit: with its neighbours where these were asked for."""
    return hit.context or hit


def metadata_of(hit: Hit, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Where a text is from, as plain JSON, with the document's own metadata beside it.

    All of it is about the text that `span_of` gives. A key of the document's that ragkit uses
    itself comes as `metadata.<key>`, as filters name it: what a document says of itself never
    takes the place of where it was found.

    Args:
        hit: The hit.
        notes: What the search had to say; `notes` is there only when it said something.
    """
    span = span_of(hit)
    own = {
        "source": span.source,
        "title": span.title,
        "corpus": span.corpus,
        "citation": str(span.citation),
        "score": hit.score,
        "id": hit.id,
        "start": span.start,
        "end": span.end,
        "line": span.line,
        "page": span.page,
        "last_page": span.last_page,
        "headings": list(span.headings),
    }
    if notes:
        own["notes"] = list(notes)
    said = {f"metadata.{k}" if k in OWN_KEYS else k: v for k, v in hit.metadata.items()}
    return said | own
