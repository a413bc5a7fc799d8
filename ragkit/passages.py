"""Chunks of a document read as one text.

Chunks know their offsets, so those that overlap or follow each other are put together without
looking for one in the other. All functions are pure; the chunks around hits are read like this:

    ids = neighbours(hits, 2)
    records = client.retrieve(collection, ids, with_payload=[*CONTEXT_FIELDS])
    hits = with_context(hits, records, 2)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, replace
from functools import reduce
from itertools import groupby, takewhile
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from qdrant_client import models

from ragkit.citations import Citation, Span
from ragkit.schema import point_id
from ragkit.tokens import estimate_tokens

CONTEXT_FIELDS = (
    "source",
    "corpus",
    "ordinal",
    "document_hash",
    "text",
    "start",
    "end",
    "line",
    "headings",
    "page",
    "last_page",
)
"""The payload that `with_context` reads."""

# ragkit's chunker leaves out only white space: up to 6 characters in 13,000 joints of real files.
# What is longer may be text that another chunker has dropped, and is not read as blank.
_MAX_GAP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A run of a document's text, put together from its chunks.

    `len(text) == end - start`: the white space between two chunks that neither of them holds is
    given by as many line breaks and spaces.

    Attributes:
        source: The document, within its corpus.
        corpus: The corpus.
        title: The document's.
        text: The text.
        start: Offset of its first character in the document's text.
        end: Offset after its last.
        line: The file's line (1-based) where it begins; None for converted formats such as HTML.
        headings: The headings that all of it stands under, outermost first.
        page: The page (1-based) where it begins; None for formats without pages.
        placed: Whether its place in the document is known: not in a collection that ragkit did not
            make, where `start` and `end` are those of the whole text.
        last_page: The page where it ends. If the text was cut, where it ended before.
        score: The best of its hits'.
        ordinals: The chunks that it holds whole, by their places in the document; none of a text
            that was cut.
        metadata: The document's.
    """

    source: str
    corpus: str
    title: str
    text: str
    start: int
    end: int
    line: int | None
    headings: tuple[str, ...]
    page: int | None
    last_page: int | None
    placed: bool = True
    score: float
    ordinals: tuple[int, ...]
    metadata: Mapping[str, Any]

    @property
    def citation(self) -> Citation:
        """Where to find the passage in its document."""
        return Citation.of(self)

    @property
    def tokens(self) -> int:
        """What it takes of a prompt, estimated: its citation, its text and a blank line."""
        return estimate_tokens(f"{self.citation}\n{self.text}\n\n")


class Found(Span, Protocol):
    """What is read of a hit."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def score(self) -> float:
        """Higher is better."""

    @property
    def ordinal(self) -> int:
        """Its place among the document's chunks."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The document's."""

    @property
    def context(self) -> Passage | None:
        """The hit with its neighbours, if they have been read."""


AnyFound = TypeVar("AnyFound", bound=Found)
DocumentKey: TypeAlias = tuple[str, str]  # corpus, source
_Place: TypeAlias = tuple[str, str, int]  # and ordinal


def joined(found: Iterable[Found | Passage]) -> list[Passage]:
    """Put together what overlaps or follows each other in a document.

    Chunks of two versions of a document, as a search may meet them while it is being replaced, are
    not mixed as far as their texts, offsets or lines tell them apart. Nor are chunks joined over a
    gap that may have held text.

    Args:
        found: Hits, with their context where they have one, and passages, in any order.

    Returns:
        Passages, sorted by corpus, source and offset.
    """
    pieces = sorted(map(widest, found), key=_position)
    return [
        passage
        for _, of_document in groupby(pieces, key=document_of)
        for passage in sorted(_runs(of_document), key=_position)
    ]


def neighbours(hits: Iterable[Found], n: int, *, tenant: str | None = None) -> list[str]:
    """The ids of the points that `with_context` reads: the hits' own and those around them.

    Args:
        hits: Hits in a collection of ragkit's.
        n: How many chunks on either side.
        tenant: Whose they are, in a collection that tenants share.

    Returns:
        Each id once; beyond the end of a document there is no point of that id.
    """
    ids = (
        point_id(hit.corpus, hit.source, ordinal, tenant=tenant)
        for hit in hits
        for ordinal in range(max(0, hit.ordinal - n), hit.ordinal + n + 1)
    )
    return list(dict.fromkeys(ids))


def with_context(
    hits: Iterable[AnyFound], records: Iterable[models.Record], n: int
) -> list[AnyFound]:
    """Give each hit its context: its own text with up to n chunks on either side.

    A hit whose document has been replaced since it was found has no neighbours of its own version
    any more, and its context is its own text; so it is where the neighbours cannot be joined.

    Args:
        hits: Hits.
        records: The points of `neighbours` as far as there are any, with `CONTEXT_FIELDS`.
        n: As for `neighbours`.
    """
    stored = {(f["corpus"], f["source"], f["ordinal"]): f for r in records if (f := r.payload)}
    return [replace(hit, context=_context(hit, stored, n)) for hit in hits]


def own_passage(found: Found | Passage) -> Passage:
    """A passage of a hit alone."""
    if isinstance(found, Passage):
        return found
    return Passage(
        source=found.source,
        corpus=found.corpus,
        title=found.title,
        text=found.text,
        start=found.start,
        end=found.end,
        line=found.line,
        headings=found.headings,
        page=found.page,
        last_page=found.last_page,
        placed=found.placed,
        score=found.score,
        ordinals=(found.ordinal,),
        metadata=found.metadata,
    )


def widest(found: Found | Passage) -> Passage:
    """A passage of a hit with its context, where it has one."""
    if isinstance(found, Passage) or found.context is None:
        return own_passage(found)
    return replace(found.context, score=found.score)


def document_of(passage: Passage) -> DocumentKey:
    """What tells its document from others."""
    return passage.corpus, passage.source


def _position(passage: Passage) -> tuple[str, str, int, int]:
    return passage.corpus, passage.source, passage.start, -passage.end


def _runs(pieces: Iterable[Passage]) -> Iterator[Passage]:
    """Put a document's pieces together, given in the order of their offsets."""
    # Several are under way where pieces of two versions alternate.
    under_way: list[_Run] = []
    for piece in pieces:
        yield from (run.passage() for run in under_way if not run.reaches(piece))
        under_way = [run for run in under_way if run.reaches(piece)]
        if not any(run.takes(piece) for run in under_way):
            under_way.append(_Run(piece))
    yield from (run.passage() for run in under_way)


def united(one: Passage, other: Passage) -> Passage | None:
    """Two passages as one; None where they do not touch, or are not of the same text."""
    if document_of(one) != document_of(other):
        return None
    first, second = sorted((one, other), key=_position)
    run = _Run(first)
    return run.passage() if run.takes(second) else None


class _Run:
    """Pieces of one document that read on from each other, taken in the order of their offsets."""

    def __init__(self, piece: Passage) -> None:
        self._pieces = [piece]
        self._texts = [piece.text]
        # The piece that ends last. It begins before the next one, and so has all of the text that
        # the two of them share.
        self._last = piece

    def reaches(self, piece: Passage) -> bool:
        """Whether it can take this piece, or any that begins later."""
        return self._last.end + _MAX_GAP >= piece.start

    def takes(self, piece: Passage) -> bool:
        """Take a piece if it goes on from here."""
        more = _continuation(self._last, piece)
        if more is None:
            return False
        self._texts.append(more)
        self._pieces.append(piece)
        if piece.end > self._last.end:
            self._last = piece
        return True

    def passage(self) -> Passage:
        """All that was taken, as one."""
        first, *others = self._pieces
        if not others:
            return first
        return replace(
            first,
            text="".join(self._texts),
            end=self._last.end,
            headings=reduce(_shared, (each.headings for each in self._pieces)),
            last_page=self._last.last_page,
            score=max(each.score for each in self._pieces),
            ordinals=tuple(sorted({each for piece in self._pieces for each in piece.ordinals})),
        )


def _continuation(first: Passage, second: Passage) -> str | None:
    """What comes after `first` up to the end of `second`; None if they do not fit together."""
    if not (_is_true(first) and _is_true(second) and _is_alike(first, second)):
        return None
    if not (first.placed and second.placed):
        return None
    overlap = first.end - second.start
    if overlap < 0:
        gap = _gap(first, second)
        return None if gap is None else gap + second.text
    at = second.start - first.start
    agree = first.text[at : at + len(second.text)] == second.text[:overlap]
    if not agree or _line_breaks(first, second) not in (0, None):
        return None
    return second.text[overlap:]


def _is_alike(one: Passage, other: Passage) -> bool:
    """Whether what is said of the documents is the same; it may change with a new version."""
    paged = (one.page is None) == (other.page is None)
    return paged and one.title == other.title and one.metadata == other.metadata


def _is_true(passage: Passage) -> bool:
    """Whether its text is as long as its offsets say; a chunker may have rewritten it."""
    return len(passage.text) == passage.end - passage.start


def _gap(first: Passage, second: Passage) -> str | None:
    """The white space between a passage and the chunk that follows it, None if it may be text."""
    length = second.start - first.end
    follows = first.ordinals and second.ordinals and first.ordinals[-1] + 1 == second.ordinals[0]
    if length > _MAX_GAP or not follows:
        return None
    breaks = _line_breaks(first, second)
    if breaks is None:
        # Between two lines or two paragraphs, as in nearly all converted texts.
        breaks = min(length, 2)
    if not 0 <= breaks <= length:
        return None
    # A chunk begins where its line does: the spaces belong to the line before.
    return " " * (length - breaks) + "\n" * breaks


def _line_breaks(first: Passage, second: Passage) -> int | None:
    """How many line breaks are to be between the text before `second` and it, by their lines.

    None where lines are not known; negative or more than there is room for if they belong to
    different texts.
    """
    if first.line is None or second.line is None:
        return None if first.line is second.line else -1
    told = first.text.count("\n", 0, second.start - first.start)
    return second.line - first.line - told


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    pairs = zip(one, other, strict=False)  # one path may be longer
    return tuple(heading for heading, same in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _context(hit: Found, stored: Mapping[_Place, Mapping[str, Any]], n: int) -> Passage:
    own = stored.get((hit.corpus, hit.source, hit.ordinal))
    if own is None or (own["text"], own["start"]) != (hit.text, hit.start):
        return own_passage(hit)  # replaced or deleted since it was found
    around = (
        stored.get((hit.corpus, hit.source, ordinal))
        for ordinal in range(hit.ordinal - n, hit.ordinal + n + 1)
    )
    version = own["document_hash"]
    chunks = [each for each in around if each and each["document_hash"] == version]
    passages = joined(_stored_chunk(each, hit) for each in chunks)
    return next(each for each in passages if hit.ordinal in each.ordinals)


def _stored_chunk(fields: Mapping[str, Any], hit: Found) -> Passage:
    """A chunk of the hit's document as a passage."""
    return replace(
        own_passage(hit),
        text=fields["text"],
        start=fields["start"],
        end=fields["end"],
        line=fields.get("line"),
        headings=tuple(fields.get("headings") or ()),
        page=fields.get("page"),
        last_page=fields.get("last_page"),
        ordinals=(fields["ordinal"],),
    )
