"""Where a text stands in its document, for a reader who wants to check it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

_TO = "\u2013"  # the dash of a range
# What would break a line, or reorder what stands beside it: controls, separators, overrides.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Span(Protocol):
    """What a citation is made of: hits and passages have it."""

    @property
    def source(self) -> str:
        """The document, within its corpus."""

    @property
    def corpus(self) -> str:
        """The corpus."""

    @property
    def title(self) -> str:
        """The document's."""

    @property
    def headings(self) -> tuple[str, ...]:
        """The headings above the text, outermost first."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def start(self) -> int:
        """Offset of its first character in the document's text."""

    @property
    def end(self) -> int:
        """Offset after its last."""

    @property
    def placed(self) -> bool:
        """Whether its place in the document is known."""

    @property
    def line(self) -> int | None:
        """The file's line where it begins."""

    @property
    def page(self) -> int | None:
        """The page where it begins."""

    @property
    def last_page(self) -> int | None:
        """The page where it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A place in a document; `str()` names it in one line, whatever is in its names.

    Of pages, lines and characters `str()` gives the first that is known:
    `paper.pdf, pages 3–4`, `guide/keys.md > Server > Keys, lines 12–18`, and
    `page.html > Install, characters 120–480`, as offsets, for a text that was converted.

    Attributes:
        source: The document, within its corpus.
        corpus: The corpus.
        title: The document's.
        headings: The headings above the text, outermost first.
        start: Offset of its first character in the document's text; None where nobody knows, in
            a collection that ragkit did not make.
        end: Offset after its last.
        line: The file's line (1-based) where it begins; None where the text was converted.
        last_line: The line where it ends.
        page: The page (1-based) where it begins; None for formats without pages.
        last_page: The page where it ends.
    """  # noqa: RUF002  (the dash of a range)

    source: str
    corpus: str
    title: str
    headings: tuple[str, ...]
    start: int | None
    end: int | None
    line: int | None
    last_line: int | None
    page: int | None
    last_page: int | None

    @classmethod
    def of(cls, span: Span) -> Citation:
        """The citation of a hit or a passage."""
        return cls(
            source=span.source,
            corpus=span.corpus,
            title=span.title,
            headings=span.headings,
            start=span.start if span.placed else None,
            end=span.end if span.placed else None,
            line=span.line,
            last_line=None if span.line is None else span.line + span.text.count("\n"),
            page=span.page,
            last_page=span.last_page,
        )

    def __str__(self) -> str:
        path = on_one_line(" > ".join((self.source or self.title, *self.headings)))
        return f"{path}, {self._place()}" if self.start is not None else path

    def _place(self) -> str:
        if self.page is not None:
            return _range("page", self.page, self.last_page)
        if self.line is not None:
            return _range("line", self.line, self.last_line)
        return f"characters {self.start}{_TO}{self.end}"


def on_one_line(text: str) -> str:
    """A text as it can be shown: what would break its line, or reorder it, becomes escapes."""
    return _UNSAFE.sub(_escaped, text)


def _range(unit: str, first: int, last: int | None) -> str:
    return f"{unit} {first}" if last in (None, first) else f"{unit}s {first}{_TO}{last}"


def _escaped(found: re.Match[str]) -> str:
    # An escape, not a space: two sources that differ in such a character are cited differently.
    return found[0].encode("unicode_escape").decode()
