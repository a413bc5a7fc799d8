"""Documents become chunks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A passage of a document: `document.text[start:end] == text`, never empty or blank.

    Attributes:
        ordinal: Its place among the document's chunks, from 0.
        start: Offset of its first character in the document's text.
        end: Offset after its last character.
        headings: The headings above it, outermost first.
        line: The file's line (1-based) on which it begins, None where the text was converted.
    """

    source: str
    ordinal: int
    text: str
    start: int
    end: int
    title: str
    headings: tuple[str, ...] = ()
    line: int | None = None
