"""Documents become chunks.

A chunk is a span of its document's text, cut where the text itself has a joint: between sections,
then at the separators of its format from the strongest to the weakest (for code those that
langchain-text-splitters has for the language), and inside a word only where nothing else is left.
All work is done on offsets, so no chunk ever has to be searched for in its text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from unicodedata import category

from ragkit.documents import Document
from ragkit.sections import Section, markdown_sections, rst_sections
from ragkit.tokens import CHARACTER_TOKENS, TokenIndex

# Measured by `ragkit bench chunking`: about 850 characters of English, 140 of them repeated.
DEFAULT_MAX_TOKENS = 300
DEFAULT_OVERLAP = 50

_VERSION = 1  # raise it when the same settings begin to cut elsewhere
_FINGERPRINT = re.compile(r"ragkit/\d+ max_tokens=(\d+) overlap=(\d+)")

# Where a piece may begin: at the end of a match, or of its group where it has one.
_PARAGRAPH = re.compile(r"\n(?:[ \t\r\f]*\n)+|\f")
_LINE = re.compile(r"\n")
_SENTENCE = re.compile(r"[.!?\u2026](?=\s)|[\u3002\uff01\uff1f]")  # Latin and CJK full stops
_TEXT = (_PARAGRAPH, _LINE, _SENTENCE)

# Langchain's separators for Python know neither decorators nor methods indented by spaces. The
# first definition in a block goes with the line above that opens the block.
_DECORATORS = r"(?:[ \t]*@[^\n]*\n(?:(?![ \t]*(?:@|class |def |async ))[^\n]+\n){0,9}){0,9}"
_DEFINITION = r"(?:class |def |async def )"
_PYTHON = (
    re.compile(rf"(\n)(?=[@cda]){_DECORATORS}{_DEFINITION}"),
    re.compile(rf"(\n)(?<!:\n)(?=[ \t]){_DECORATORS}[ \t]+{_DEFINITION}"),
)

_INK = re.compile(r"\S")
_SPACE = re.compile(r"\s")
_FRESH_START = re.compile(r"(?<=\n)|(?<=[.!?\u2026]\s)(?=\S)|(?<=[\u3002\uff01\uff1f])")
_WORD_START = re.compile(r"(?<=\s)(?=\S)")
_ZERO_WIDTH_JOINER = "\u200d"
_LOOKAHEAD = 400  # characters after a joint that it is recognised by
_SMALL = 4  # a section is small up to this part of the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A passage of a document: `document.text[start:end] == text`, never empty or blank.

    Attributes:
        ordinal: Its place among the document's chunks, from 0.
        start: Offset of its first character in the document's text.
        end: Offset after its last character.
        headings: The headings above it, outermost first, its own section's among them; those
            that all of it has in common where it holds several small sections.
        line: The file's line (1-based) on which it begins, None where the text was converted.
        page: The page or slide (1-based) on which it begins, None where there are none.
        last_page: The page on which it ends.
    """

    source: str
    ordinal: int
    text: str
    start: int
    end: int
    title: str
    headings: tuple[str, ...] = ()
    line: int | None = None
    page: int | None = None
    last_page: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunker:
    """Cuts documents into chunks of at most `max_tokens`, by their format.

    Attributes:
        max_tokens: The most that `estimate_tokens` gives for a chunk's text, always.
        overlap: How many tokens of the chunk before a chunk repeats at most, from a line, a
            sentence or a word on; never across a heading or between records.

    Raises:
        ValueError: A setting is out of its range.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if self.max_tokens < 2 * CHARACTER_TOKENS:
            raise ValueError(
                f"max_tokens must be at least {2 * CHARACTER_TOKENS}, got {self.max_tokens}: "
                "smaller chunks could not hold every character"
            )
        if not 0 <= self.overlap <= self.max_tokens - CHARACTER_TOKENS:
            raise ValueError(
                f"overlap must be from 0 to max_tokens - {CHARACTER_TOKENS} = "
                f"{self.max_tokens - CHARACTER_TOKENS}, got {self.overlap}: "
                "a chunk needs room for text that the one before it has not"
            )

    @property
    def fingerprint(self) -> str:
        """What decides where chunks are cut: equal fingerprints, equal chunks."""
        return f"ragkit/{_VERSION} max_tokens={self.max_tokens} overlap={self.overlap}"

    @classmethod
    def fitting(cls, max_tokens: int) -> Chunker:
        """The default, or as much shorter as goes with an embedder that reads so many tokens."""
        default = cls()
        room = max_tokens * 3 // 4  # a quarter is left for the title
        if room >= default.max_tokens:
            return default
        return cls(max_tokens=room, overlap=min(default.overlap, room // 6))

    @classmethod
    def from_fingerprint(cls, fingerprint: str) -> Chunker | None:
        """The chunker of these settings, whatever its version; None if it is not one of these."""
        found = _FINGERPRINT.fullmatch(fingerprint)
        return cls(max_tokens=int(found[1]), overlap=int(found[2])) if found else None

    def __call__(self, document: Document) -> list[Chunk]:
        """Cut one document; an empty or blank one has no chunks.

        Raises:
            ValueError: The document's format is unknown.
        """
        return _chunks(document, self)


def beginning(text: str, max_tokens: int) -> str:
    """The beginning of a text that has at most so many tokens, "" if no character fits.

    It ends with a line, a sentence or a word, the first of these that has its end in the second
    half of what would fit, and inside a word that goes on for longer.
    """
    most = TokenIndex(text).forward(0, max_tokens)
    if most == len(text):
        return text
    for joint in (_LINE, _SENTENCE, _SPACE):
        for end in reversed(_ends(joint, text, most // 2, most + 1)):
            cut = text[:end].rstrip()
            if 0 < len(cut) <= most:
                return cut
    at = most
    while at > 0 and _continues(text, at):
        at -= 1
    return text[: at or most].rstrip()


def chunker_fingerprint(chunker: Callable[[Document], list[Chunk]]) -> str:
    """What tells two chunkers apart: their `fingerprint`, else their qualified name.

    Raises:
        ValueError: It has neither, as a lambda.
    """
    fingerprint = getattr(chunker, "fingerprint", None)
    if isinstance(fingerprint, str):
        return fingerprint
    if isinstance(chunker, partial):
        settings = [*map(repr, chunker.args), *(f"{k}={v!r}" for k, v in chunker.keywords.items())]
        return f"{chunker_fingerprint(chunker.func)}({', '.join(settings)})"
    name = getattr(chunker, "__qualname__", type(chunker).__qualname__)
    if name.endswith("<lambda>"):
        raise ValueError("a lambda as chunker has no name to tell it by: pass a function instead")
    return f"{chunker.__module__}.{name}"


def _chunks(document: Document, chunker: Chunker) -> list[Chunk]:
    text = document.text
    cutter = _Cutter(
        text=text,
        tokens=TokenIndex(text),
        max_tokens=chunker.max_tokens,
        overlap=chunker.overlap,
        joints=_joints(document),
    )
    chunks: list[Chunk] = []
    line, counted = document.first_line, 0
    for unit in _units(_sections(document), cutter):
        for start, end in cutter.cut(unit):
            if line is not None:
                line += text.count("\n", counted, start)
                counted = start
            chunk = Chunk(
                source=document.source,
                ordinal=len(chunks),
                text=text[start:end],
                start=start,
                end=end,
                title=document.title,
                headings=unit.path,
                line=line,
                page=_page(document, start),
                last_page=_page(document, end - 1),
            )
            chunks.append(chunk)
    return chunks


def _page(document: Document, offset: int) -> int | None:
    """The page that a character is on; what stands before the first page goes with it."""
    return max(bisect_right(document.pages, offset), 1) if document.pages else None


def _sections(document: Document) -> Sequence[Section]:
    split = _BY_HEADINGS.get(document.format)
    return split(document.text) if split else [Section(0, 0, len(document.text))]


def _units(sections: Sequence[Section], cutter: _Cutter) -> Iterator[Section]:
    """Join small sections to their neighbours; what results is cut by itself.

    A heading with nothing under it goes with what follows, whatever the size; two sections of
    which one is small go together where both fit into one chunk.
    """
    group: list[Section] = []
    with_body: list[Section] = []
    for section in sections:
        if with_body and not cutter.go_together(group[0].start, group[-1].end, section.end):
            yield _united(group, with_body)
            group, with_body = [], []
        group.append(section)
        if _INK.search(cutter.text, section.body, section.end):
            with_body.append(section)
    if group:
        yield _united(group, with_body)


def _united(group: list[Section], with_body: list[Section]) -> Section:
    """One section of several, under the headings that all of its text has in common."""
    # A heading without a body has no text under it: it does not shorten the path.
    told = with_body or group
    path = _shared([each.path for each in told])
    listings = tuple(chain.from_iterable(each.listings for each in group))
    return Section(group[0].start, told[0].body, group[-1].end, path, listings)


def _shared(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    # The least and the greatest differ where any two do.
    least, greatest = min(paths), max(paths)
    for depth, title in enumerate(least):
        if title != greatest[depth]:
            return least[:depth]
    return least


@dataclass(frozen=True, slots=True)
class _Joints:
    """Where a text may be cut, as patterns of what stands before a piece.

    Attributes:
        strong: Between things that stand for themselves: definitions, records. No overlap
            reaches back over one.
        weak: Within running text.
    """

    strong: tuple[re.Pattern[str], ...]
    weak: tuple[re.Pattern[str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cutter:
    """Cuts spans of one text."""

    text: str
    tokens: TokenIndex
    max_tokens: int
    overlap: int
    joints: _Joints

    def go_together(self, start: int, middle: int, end: int) -> bool:
        """Whether the neighbours `start:middle` and `middle:end` make one chunk."""
        parts = self.tokens.count(start, middle), self.tokens.count(middle, end)
        small = min(parts) <= self.max_tokens // _SMALL
        return small and self.tokens.count(start, end) <= self.max_tokens

    def cut(self, section: Section) -> Iterator[tuple[int, int]]:
        """Pack the section's pieces into chunks, as many as fit; none of them blank.

        A piece that fits is never cut, if need be at the cost of the overlap. One that does not
        fit fills up the chunk under way first.
        """
        limit, count = self.max_tokens, self.tokens.count
        told = section.start  # where the last chunk ended: each brings text after it
        begin = done = self._ink(section.start, section.end)
        for left, right in self._pieces(section):
            while begin < right and count(begin, right) > limit:
                room = limit - count(left, right)
                stop = left if room >= 0 else self._fill(begin, done, told)
                last = self._trimmed(begin, stop)
                if last > max(begin, told):
                    yield begin, last
                    told = last
                begin = self._ink(self._overlap_start(begin, stop, room), section.end)
                done = stop
            done = right
        last = self._trimmed(begin, section.end)
        if last > max(begin, told):
            yield begin, last

    def _pieces(self, section: Section) -> Iterator[tuple[int, int]]:
        """Split a section into spans that fit, or that no joint can split further."""
        levels = (*self.joints.strong, *self.joints.weak)
        first = self._ink(section.body, section.end)  # a heading is not cut from what follows
        todo = [(section.start, section.end, -1)]
        while todo:
            start, end, level = todo.pop()
            if level == len(levels) or self.tokens.count(start, end) <= self.max_tokens:
                yield start, end
                continue
            if level < 0:
                inner = [*chain.from_iterable(section.listings)]
            else:
                inner = _ends(levels[level], self.text, start, end)
            bounds = [start, *(at for at in inner if first < at), end]
            # Reversed, for the first is to be taken next.
            todo += [
                (left, right, level + 1)
                for left, right in zip(bounds[-2::-1], bounds[:0:-1], strict=True)
                if left < right
            ]

    def _fill(self, begin: int, done: int, told: int) -> int:
        """Where to end a chunk when no joint is left after `done`: at a space, else anywhere.

        The space has to lie in the chunk's second half; a longer word is cut where it is full.
        """
        text = self.text
        reach = self.tokens.forward(begin, self.max_tokens)
        if text[reach].isspace():
            return reach
        least = max(told, self.tokens.forward(begin, self.max_tokens // 2))
        if space := _SPACE.search(text[max(done, least) : reach][::-1]):
            return reach - space.start()
        if done > least:
            return done
        at = reach
        while at > least and _continues(text, at):
            at -= 1
        return at if at > least else reach

    def _overlap_start(self, begin: int, stop: int, room: int) -> int:
        """Where the chunk after `begin:stop` begins; at `stop` where it cannot reach back.

        `room` is what the next piece leaves; it is negative where that piece has to be cut anyway
        and so leaves what is asked of it.
        """
        budget = min(self.overlap, room) if room >= 0 else self.overlap
        if not budget:
            return stop
        text = self.text
        low = max(self.tokens.backward(stop, budget), begin + 1)
        low = max(low, self._last_strong_joint(low, stop))
        # A sentence's start is preferred where it costs little: full overlaps find more.
        for starts, last in ((_FRESH_START, low + (stop - low) // 3), (_WORD_START, stop)):
            if (match := starts.search(text, low, last)) and match.start() < stop:
                return match.start()
        if text[stop - 1].isspace() or text[stop].isspace():
            return stop
        while low < stop and _continues(text, low):
            low += 1
        return low

    def _last_strong_joint(self, low: int, stop: int) -> int:
        """The last strong joint of `low:stop`, 0 for none."""
        if not self.joints.strong:
            return 0
        found = (
            at
            for joint in self.joints.strong
            for at in _ends(joint, self.text, low - 1, stop + _LOOKAHEAD)
        )
        return max((at for at in found if at <= stop), default=0)

    def _ink(self, at: int, end: int) -> int:
        """The first character from `at` on that is not blank, with its line's indentation."""
        ink = _INK.search(self.text, at, end)
        if not ink:
            return end
        if not at:
            return self.text.rfind("\n", 0, ink.start()) + 1
        return self.text.rfind("\n", at - 1, ink.start()) + 1 or ink.start()

    def _trimmed(self, start: int, end: int) -> int:
        return start + len(self.text[start:end].rstrip())


def _ends(joint: re.Pattern[str], text: str, start: int, end: int) -> list[int]:
    return [match.end(joint.groups) for match in joint.finditer(text, start, end)]


def _continues(text: str, at: int) -> bool:
    """Whether what is at `at` and the character before it are one to a reader."""
    before, char = text[at - 1], text[at]
    if char < "\u0300":
        return before == "\r" and char == "\n"
    return (
        category(char).startswith("M")
        or _ZERO_WIDTH_JOINER in (before, char)
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or (_is_flag_half(before) and _is_flag_half(char))
    )


def _is_flag_half(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


_BY_HEADINGS: dict[str, Callable[[str], list[Section]]] = {
    "markdown": markdown_sections,
    "rst": rst_sections,
}


def _joints(document: Document) -> _Joints:
    if document.format == "code":
        return _code_joints(document.language)
    if document.format == "records":
        return _Joints((_PARAGRAPH,), (_LINE, _SENTENCE))
    if document.format == "text" or document.format in _BY_HEADINGS:
        return _Joints((), _TEXT)
    raise ValueError(
        f"{document.source!r} has the format {document.format!r}: "
        "expected text, markdown, rst, code or records"
    )


@cache
def _code_joints(language: str | None) -> _Joints:
    """A language's separators; blank lines and lines alone for one that has none."""
    if language == "python":
        return _Joints(_PYTHON, (_PARAGRAPH, _LINE))
    # Imported for code alone: it takes longer to load than the rest of the package.
    from langchain_text_splitters.base import Language
    from langchain_text_splitters.character import RecursiveCharacterTextSplitter

    try:
        known = RecursiveCharacterTextSplitter.get_separators_for_language(Language(language))
    except ValueError:
        return _Joints((), (_PARAGRAPH, _LINE))
    strong = (_before(separator) for separator in known)
    return _Joints(tuple(joint for joint in strong if joint), (_PARAGRAPH, _LINE))


def _before(separator: str) -> re.Pattern[str] | None:
    """The joint before what a separator names; None for one that names no more than a space."""
    # Most begin with a line break, some of them spelled out as an escape.
    named = separator.removeprefix("\\n").removeprefix("\n")
    if not _INK.search(named) or re.match(named, "") or named == "\\n":
        return None
    line = "\n" if named != separator else ""
    return re.compile(f"{line}(?={named})")
