"""Where the sections of a document begin, by its headings, as offsets into its text.

Only what decides structure is recognised: headings, and the fenced code that may look like one.
Everything else is left as it stands, so that every offset holds for the untouched text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from unicodedata import east_asian_width

_Span = tuple[int, int]

# Marks of code and bold words, and rst's roles before them: a name reads better without.
_MARKS = re.compile(r":[\w:+-]+:(?=`)|`|\*\*")
_MAX_TITLE = 120  # characters of a heading that are kept; what is longer is no name

# Lines are matched from the line break before them: a pattern that begins with a plain character
# is searched for ten times faster. The text's first line has none and is matched by itself.
_MARKDOWN_LINE = r"""[ ]{0,3}(?:
    (?P<hashes>[#]{1,6}) (?=[ \t\r\n]|\Z)
  | (?P<fence>`{3,}(?=[^`\n]*(?:\n|\Z)) | ~{3,}) (?P<info>[^\n]*)
  | (?P<underline>=+|-+) (?=[ \t\r]*(?:\n|\Z))
)"""
_FIRST_MARKDOWN_LINE = re.compile(_MARKDOWN_LINE, re.VERBOSE)
_NEXT_MARKDOWN_LINE = re.compile(r"\n" + _MARKDOWN_LINE, re.VERBOSE)
_CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+$")
# What can stand above a rule without being a heading: indented code, quotes, lists, tables, markup.
_OTHER_BLOCK = re.compile(r" {4}|\t| {0,3}(?:[>|<]|[-*+](?:\s|$)|\d{1,9}[.)]\s)", re.MULTILINE)

_RST_ADORNMENT = re.compile(r"\n(?P<line>([!-/:-@\[-`{-~])\2*)(?=[ \t\r]*(?:\n|\Z))")
_RST_OTHER_BLOCK = re.compile(r"\s|\.\. |[-*+] ")
_RST_ENOUGH = 4  # docutils takes an underline shorter than its title from this length on


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, up to the next heading of any level.

    Attributes:
        start: Offset of its heading's first line.
        body: Offset of what follows the heading.
        end: Offset of the next section, or the end of the text.
        path: Its heading and those above it, outermost first; empty before the first heading.
        listings: The spans of its fenced code, fences included.
    """

    start: int
    body: int
    end: int
    path: tuple[str, ...] = ()
    listings: tuple[_Span, ...] = ()


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    body: int
    level: int
    title: str


def markdown_sections(text: str) -> list[Section]:
    """Split Markdown at its headings: `#` lines and underlined ones, none of them in fenced code.

    An underlined heading is a single line with a blank line, another heading, a fence or nothing
    above it: several lines above a rule are a paragraph and a rule.
    """
    listings: list[_Span] = []
    headings = [*_markdown_headings(text, listings)]
    return _sections(len(text), headings, listings)


def rst_sections(text: str) -> list[Section]:
    """Split reStructuredText at its section titles.

    A style of adornment (its character, with or without overline) stands for a level, in the
    order in which the styles first appear.
    """
    return _sections(len(text), [*_rst_headings(text)], [])


def _sections(length: int, headings: list[_Heading], listings: list[_Span]) -> list[Section]:
    bounds = [*(heading.start for heading in headings), length]
    sections = []
    if bounds[0] > 0:
        sections.append(Section(0, 0, bounds[0], (), _within(listings, 0, bounds[0])))
    above: list[_Heading] = []
    for heading, (start, end) in zip(headings, pairwise(bounds), strict=True):
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        path = tuple(each.title for each in above if each.title)
        sections.append(Section(start, heading.body, end, path, _within(listings, start, end)))
    return sections


def _within(spans: list[_Span], start: int, end: int) -> tuple[_Span, ...]:
    return tuple(spans[bisect_left(spans, (start,)) : bisect_left(spans, (end,))])


def _markdown_headings(text: str, listings: list[_Span]) -> Iterator[_Heading]:
    """The headings in order; the listings found on the way are added to `listings`."""
    fence, opened = "", 0  # the fence that we are inside of, and where it stands
    settled = 0  # the end of the last heading or listing: no underline reaches above it
    first = _FIRST_MARKDOWN_LINE.match(text)
    for mark in chain([first] if first else [], _NEXT_MARKDOWN_LINE.finditer(text)):
        start = mark.start() if mark is first else mark.start() + 1
        end = _line_end(text, mark.end())
        if fence:
            if (mark["fence"] or "").startswith(fence) and not mark["info"].strip():
                listings.append((opened, end))
                fence, settled = "", end
        elif mark["fence"]:
            fence, opened = mark["fence"], start
        elif mark["hashes"]:
            title = _CLOSING_HASHES.sub("", text[mark.end() : end].strip())
            yield _Heading(start, end, len(mark["hashes"]), _tidy(title))
            settled = end
        elif heading := _underlined(text, start, end, settled, mark["underline"]):
            yield heading
            settled = end
    if fence:
        listings.append((opened, len(text)))


def _underlined(text: str, start: int, end: int, settled: int, underline: str) -> _Heading | None:
    """The heading that an underline at `start:end` makes of the line above it, if it does."""
    above = _line_above(text, start, settled)
    title = text[above:start].strip()
    if not title or _OTHER_BLOCK.match(text, above) or len(underline) < min(3, len(title)):
        return None
    if text[_line_above(text, above, settled) : above].strip():
        return None
    return _Heading(above, end, 1 if underline[0] == "=" else 2, _tidy(title))


def _rst_headings(text: str) -> Iterator[_Heading]:
    levels: dict[tuple[str, bool], int] = {}
    settled = 0
    # An adornment in the first line underlines nothing; as an overline it is found from its title.
    for mark in _RST_ADORNMENT.finditer(text):
        start, end = mark.start() + 1, _line_end(text, mark.end())
        line = mark["line"]
        above = _line_above(text, start, settled)
        title = text[above:start].rstrip()
        if not title or len(line) < min(_width(title.strip()), _RST_ENOUGH):
            continue
        over = _line_above(text, above, settled)
        over_line = text[over:above].rstrip()
        overlined = over_line == line
        if not overlined and (over_line or _RST_OTHER_BLOCK.match(title)):
            continue
        level = levels.setdefault((line[0], overlined), len(levels) + 1)
        yield _Heading(over if overlined else above, end, level, _tidy(title))
        settled = end


def _line_end(text: str, at: int) -> int:
    return text.find("\n", at) + 1 or len(text)


def _line_above(text: str, start: int, settled: int) -> int:
    """Where the line above the one at `start` begins; `start` itself where there is none."""
    return max(settled, text.rfind("\n", settled, start - 1) + 1) if start > settled else start


def _tidy(title: str) -> str:
    title = " ".join(_MARKS.sub("", title).split())
    return title if len(title) <= _MAX_TITLE else title[: _MAX_TITLE - 1] + "…"


def _width(title: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in title)
