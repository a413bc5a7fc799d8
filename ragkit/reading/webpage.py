"""HTML becomes Markdown: the main text, its headings, lists, tables and code.

lxml parses; one walk over its tree writes. Links keep their words and lose their addresses,
emphasis loses its marks: neither helps a search, and both cost tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import cast

from lxml import etree

from ragkit.errors import DocumentError
from ragkit.reading.content import Content, clean_title
from ragkit.reading.texts import decode

_Element = etree._Element  # lxml's own name for the class of every element


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DROPPED_TAGS = _words("""
    script style noscript template nav footer aside button input select textarea iframe object
    embed svg canvas dialog head title audio video map
""")
_DROPPED_ROLES = frozenset({"navigation", "search", "banner", "contentinfo", "complementary"})
# Permalinks, navigation and line numbers of the common generators of documentation.
_DROPPED_CLASSES = _words("""
    headerlink anchorjs-link header-anchor hash-link sphinxsidebar sidebar navbar navigation
    related breadcrumb breadcrumbs footer toc-drawer searchbox search-box skip-link linenos
    lineno visually-hidden sr-only cookie-banner edit-this-page copybtn
""")
_BLOCKS = _words("""
    address article aside body center dd details div dt fieldset figcaption figure footer form
    header hgroup html legend li main p section summary tbody td tfoot th thead tr
""")
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_CODE = frozenset({"code", "kbd", "samp", "tt"})
_LANGUAGE_CLASS = re.compile(r"(?:^|\s)(?:highlight|language|lang)-([\w+#-]+)")
_META_CHARSET = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", re.I
)
# Text that would be read as a heading or a fence where it begins a line.
_AMBIGUOUS = re.compile(r"^(?=#{1,6}(?:\s|$)|```|~~~|[=-]+$)", re.MULTILINE)
_FENCE_RUN = re.compile(r"`{3,}")
_SPACES = re.compile(r"[ \t\r\n\f\v]+")

# A main element with less of the page's text than this does not hold the content.
_MAIN_SHARE = 0.3


def read_html(raw: bytes) -> Content:
    """Read a web page as Markdown.

    Raises:
        DocumentError: It is binary or holds no element.
    """
    declared = _META_CHARSET.search(raw[:4096])
    name = declared[1].decode("ascii", "replace") if declared else None
    return html_content(decode(raw, declared=name))


def html_content(page: str) -> Content:
    """Convert the text of a web page to Markdown."""
    root = _parse(page)
    title = root.findtext(".//title")
    main = _main_element(root)
    try:
        text, heading = "\n\n".join(_blocks(main)), _heading_title(main)
    except RecursionError:  # elements nested deeper than anybody writes
        text, heading = _AMBIGUOUS.sub(r"\\", "\n".join(filter(str.strip, main.itertext()))), None
    return Content(
        text=text + "\n" if text else "",
        title=heading or clean_title(title or ""),
        format="markdown",
    )


def _heading_title(main: _Element) -> str | None:
    heading = next((h1 for h1 in main.iter("h1") if not _dropped(h1)), None)
    return None if heading is None else clean_title(_inline(heading).replace("`", ""))


def _parse(page: str) -> _Element:
    # As bytes with a stated encoding: lxml refuses a str that declares another one itself.
    parser = etree.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True
    )
    raw = page.replace("\x00", "\ufffd").encode("utf-8", "replace")
    try:
        root = etree.fromstring(raw, parser)
    except etree.XMLSyntaxError as exc:
        raise DocumentError(f"malformed HTML: {exc.msg}", stale=True) from exc
    if root is None:
        raise DocumentError("no text", stale=True)
    etree.strip_elements(root, "script", "style", "noscript", "template", with_tail=False)
    return root


def _main_element(root: _Element) -> _Element:
    """Choose the element that holds the page's content."""
    body = root.find("body")
    whole = root if body is None else body
    enough = _MAIN_SHARE * _text_length(whole)
    for path in ("//main | //*[@role='main']", "//article"):
        found = cast(list[_Element], whole.xpath(path))
        if len(found) == 1 and _text_length(found[0]) >= enough:
            return found[0]
    return whole


def _text_length(element: _Element) -> float:
    return cast(float, element.xpath("string-length(normalize-space(.))"))


def _dropped(element: _Element) -> bool:
    """Whether an element is no part of a page's text."""
    tag = element.tag
    if tag in _DROPPED_TAGS:
        return not (tag == "aside" and _inside_main(element))
    attributes = element.attrib
    if not attributes:
        return False
    classes = attributes.get("class")
    if classes and not _DROPPED_CLASSES.isdisjoint(classes.split()):
        return True
    return (
        attributes.get("role") in _DROPPED_ROLES
        or attributes.get("aria-hidden") == "true"
        or "hidden" in attributes
    )


def _inside_main(element: _Element) -> bool:
    """Whether an aside is a note in the text, not the page's side bar."""
    return any(
        parent.tag in {"main", "article"} or parent.get("role") == "main"
        for parent in element.iterancestors()
    )


class _Writer:
    """Collects the blocks of one element: paragraphs, headings, lists, each one string."""

    __slots__ = ("blocks", "line")

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.line: list[str] = []

    def walk(self, element: _Element) -> None:
        """Write an element's own text and its children."""
        if element.text:
            self.line.append(element.text)
        for child in element:
            if not _dropped(child):
                self.element(child)
            if child.tail:
                self.line.append(child.tail)

    def element(self, element: _Element) -> None:
        """Write one element in the way of its tag."""
        tag = str(element.tag)
        handler = _HANDLERS.get(tag)
        if handler is not None:
            self.flush()
            self.blocks.extend(handler(element))
        elif tag in _BLOCKS:
            self.flush()
            self.walk(element)
            self.flush()
        elif tag in _CODE:
            self.line.append(_code(element))
        elif tag == "br":
            self.line.append(_BREAK)
        elif tag == "img":
            self.line.append(element.get("alt") or "")
        else:
            self.walk(element)

    def flush(self) -> None:
        """End the paragraph."""
        if not self.line:
            return
        text = _collapse("".join(self.line))
        self.line.clear()
        if text:
            self.blocks.append(_AMBIGUOUS.sub(r"\\", text))


_BREAK = "\x00"  # stands for <br> until whitespace is collapsed; never in a parsed page


def _collapse(text: str) -> str:
    text = _SPACES.sub(" ", text)
    if _BREAK in text:
        lines = (line.strip() for line in text.split(_BREAK))
        return "\n".join(line for line in lines if line)
    return text.strip()


def _blocks(element: _Element) -> list[str]:
    writer = _Writer()
    writer.walk(element)
    writer.flush()
    return writer.blocks


def _inline(element: _Element) -> str:
    """Return an element's text on one line."""
    return " ".join(" ".join(_blocks(element)).split())


def _code(element: _Element) -> str:
    text = _visible_text(element)
    stripped = text.strip()
    if not stripped or "`" in stripped or "\n" in stripped:
        return text
    return text.replace(stripped, f"`{stripped}`", 1)


def _visible_text(element: _Element) -> str:
    return "".join(_visible(element))


def _visible(element: _Element) -> Iterator[str]:
    if element.text:
        yield element.text
    for child in element:
        if child.tag == "br":
            yield "\n"
        elif not _dropped(child):
            yield from _visible(child)
        if child.tail:
            yield child.tail


def _heading(element: _Element) -> list[str]:
    text = _inline(element)
    return [f"{_HEADINGS[str(element.tag)]} {text}"] if text else []


def _pre(element: _Element) -> list[str]:
    text = _visible_text(element).strip("\n").rstrip()
    if not text.strip():
        return []
    longest = max((len(run) for run in _FENCE_RUN.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}{_language(element)}\n{text}\n{fence}"]


def _language(pre: _Element) -> str:
    """Return the language that a code block's classes name, or ""."""
    parents = list(pre.iterancestors())[:2]
    for element in (*pre.iterchildren("code"), pre, *parents):
        if found := _LANGUAGE_CLASS.search(element.get("class") or ""):
            return "" if found[1] in {"default", "none", "text"} else found[1]
    return ""


def _list(element: _Element) -> list[str]:
    ordered = element.tag == "ol"
    items = []
    number = 0
    for child in element:
        if _dropped(child):
            continue
        blocks = _blocks(child)
        if not blocks:
            continue
        number += 1
        mark = f"{number}. " if ordered else "- "
        items.append((mark, blocks))
    tight = all(len(blocks) == 1 or blocks[1].startswith(("- ", "1. ")) for _, blocks in items)
    gap = "\n" if tight else "\n\n"
    lines = [mark + _indent(gap.join(blocks), len(mark)) for mark, blocks in items]
    return [gap.join(lines)] if lines else []


def _indent(text: str, width: int) -> str:
    if "\n" not in text:
        return text
    return re.sub(r"\n(?!\n)", "\n" + " " * width, text)


def _definitions(element: _Element) -> list[str]:
    """Write terms, each with the first paragraph of its definition as one block."""
    blocks: list[str] = []
    terms: list[str] = []
    for child in _definition_parts(element):
        if child.tag != "dd":
            terms += _blocks(child)
            continue
        meaning = _blocks(child)
        if meaning and _is_paragraph(meaning[0]):
            meaning[0] = "\n".join([*terms, ": " + meaning[0]])
        elif terms:
            meaning.insert(0, "\n".join(terms))
        blocks += meaning
        terms = []
    return blocks + terms


def _definition_parts(element: _Element) -> Iterator[_Element]:
    for child in element:
        if child.tag == "div":  # HTML allows groups of dt and dd in a div
            yield from child
        elif not _dropped(child):
            yield child


def _is_paragraph(block: str) -> bool:
    return not block.startswith(("#", "```", "- ", "1. ", "> ", "| "))


def _quote(element: _Element) -> list[str]:
    text = "\n\n".join(_blocks(element))
    return ["> " + text.replace("\n", "\n> ")] if text else []


def _table(element: _Element) -> list[str]:
    """Write a table of data as rows, one of layout as the blocks of its cells."""
    rows = [
        [cell for cell in row if cell.tag in {"td", "th"} and not _dropped(cell)]
        for row in _rows(element)
    ]
    rows = [row for row in rows if row]
    width = max((len(row) for row in rows), default=0)
    layout = next(element.iterdescendants("pre", "table", "dl", *_HEADINGS), None)
    caption = [text for child in element.iterchildren("caption") if (text := _inline(child))]
    if width < 2 or len(rows) < 2 or layout is not None:
        return caption + [block for row in rows for cell in row for block in _blocks(cell)]
    cells = [[_inline(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * width)
    return [*caption, "\n".join(lines)]


def _rows(table: _Element) -> Iterator[_Element]:
    """Yield a table's own rows, not those of tables within it."""
    for child in table:
        if child.tag == "tr":
            yield child
        elif child.tag in {"thead", "tbody", "tfoot"}:
            yield from child.iterchildren("tr")


_HANDLERS: dict[str, Callable[[_Element], list[str]]] = {
    **dict.fromkeys(_HEADINGS, _heading),
    "pre": _pre,
    "ul": _list,
    "ol": _list,
    "menu": _list,
    "dl": _definitions,
    "blockquote": _quote,
    "table": _table,
    "hr": lambda _: [],  # its Markdown would be read as a heading's underline
}
