"""Files become documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with a name, ready to be chunked.

    Attributes:
        source: What identifies it within its corpus: the path relative to the folder, in posix
            form, or any name of the caller's.
        text: The text that is indexed; offsets of chunks count characters of this string.
        title: A person's name for it.
        format: How `text` is structured and so how it is split: "text", "markdown", "rst",
            "code", "records".
        language: The programming language of code (a value of langchain's `Language`), or None.
        metadata: JSON-like values of the caller's or of the file (front matter, PDF properties).
        first_line: The file's line (1-based) at which `text` begins; None where `text` was
            converted and its lines are not the file's.
    """

    source: str
    text: str
    title: str
    format: str = "text"
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_line: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that was not indexed, and why.

    Attributes:
        source: As in `Document`; ends in "/" for a folder that could not be listed.
        reason: A few words.
        stale: See `DocumentError.stale`.
    """

    source: str
    reason: str
    stale: bool = False
