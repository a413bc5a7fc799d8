"""Office files and e-books are zip archives of XML; this opens them, and reads slides and books.

PPTX and EPUB need no more than lxml. DOCX and XLSX are read by libraries, in `converters`.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from lxml import etree

from ragkit.errors import DocumentError
from ragkit.reading.content import Content, clean_title, join_pages
from ragkit.reading.texts import decode
from ragkit.reading.webpage import html_content

# An archive that says it holds more is a bomb, or nothing that fits in memory.
_MAX_UNPACKED_BYTES = 512 << 20
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PACKAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    etree.XMLSyntaxError,
    EOFError,
    KeyError,
    NotImplementedError,  # a compression that zipfile does not know
    OSError,
    RuntimeError,  # an encrypted member
    ValueError,
)

_DC = "{http://purl.org/dc/elements/1.1/}"
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_SLIDES = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_LINKS = "{http://schemas.openxmlformats.org/package/2006/relationships}"
_LINK_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_TITLE_KINDS = frozenset({"title", "ctrTitle"})
# What a slide repeats from its master.
_DECORATION = frozenset({"dt", "ftr", "sldNum", "hdr", "sldImg"})


@dataclass(frozen=True, slots=True)
class Package:
    """An opened archive."""

    archive: zipfile.ZipFile
    kind: str

    @classmethod
    def open(cls, raw: bytes, kind: str) -> Package:
        """Open a file's bytes.

        Args:
            raw: The file.
            kind: What it is called in error messages ("DOCX").

        Raises:
            DocumentError: It is encrypted, damaged, or unpacks to more than 512 MiB.
        """
        if raw.startswith(_OLE):  # how Office wraps what it encrypts
            raise DocumentError(f"encrypted {kind} or one of an old version", stale=True)
        try:
            archive = zipfile.ZipFile(io.BytesIO(raw))
        except _PACKAGE_ERRORS as exc:
            raise malformed(kind, exc) from exc
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > _MAX_UNPACKED_BYTES:
            raise DocumentError(f"{kind} that unpacks to more than 512 MiB", stale=True)
        if any(info.flag_bits & 1 for info in infos):
            raise DocumentError(f"encrypted {kind}", stale=True)
        return cls(archive, kind)

    def xml(self, name: str) -> etree._Element:
        """Parse one member."""
        # No entities, no network, no document type: these formats have none of them.
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        return etree.fromstring(self.archive.read(name), parser)

    def refuse_document_types(self) -> None:
        """Refuse XML that declares entities, for readers that would expand them.

        Raises:
            DocumentError: There is such a member; the standard allows none.
        """
        for name in self.archive.namelist():
            if name.endswith((".xml", ".rels")):
                with self.archive.open(name) as member:
                    if b"<!DOCTYPE" in member.read(1024):
                        raise malformed(self.kind, ValueError(f"{name} has a document type"))

    def properties(self) -> tuple[str | None, dict[str, str]]:
        """Return the title and the author that an Office file states."""
        try:
            core = self.xml("docProps/core.xml")
        except _PACKAGE_ERRORS:
            return None, {}
        return _dublin_core(core)


def malformed(kind: str, exc: BaseException) -> DocumentError:
    """Return the error for a file that its reader gave up on."""
    detail = " ".join(str(exc).split())[:120]
    return DocumentError(f"malformed {kind}: {detail or type(exc).__name__}", stale=True)


def read_pptx(raw: bytes) -> Content:
    """Read slides as Markdown: a heading each, then their text, tables and notes.

    Raises:
        DocumentError: It is encrypted or damaged.
    """
    package = Package.open(raw, "PPTX")
    try:
        slides = [_slide(package, name) for name in _slide_names(package)]
    except _PACKAGE_ERRORS as exc:
        raise malformed("PPTX", exc) from exc
    stated, metadata = package.properties()
    titles = (slide.split("\n", 1)[0] for slide in slides if slide.startswith("# "))
    title = clean_title(next(titles, "").removeprefix("# ")) or stated
    text, starts = join_pages(slides)
    return Content(text=text, title=title, format="markdown", metadata=metadata, pages=starts)


def read_epub(raw: bytes) -> Content:
    """Read an e-book as Markdown, its chapters in reading order.

    Raises:
        DocumentError: It is encrypted or damaged.
    """
    package = Package.open(raw, "EPUB")
    if "META-INF/encryption.xml" in package.archive.namelist() and _is_locked(package):
        raise DocumentError("encrypted EPUB", stale=True)
    try:
        container = package.xml("META-INF/container.xml")
        index_name = next(container.iter("{*}rootfile")).get("full-path", "")
        index = package.xml(index_name)
        chapters = [_chapter(package, name) for name in _spine(index, index_name)]
    except (*_PACKAGE_ERRORS, StopIteration) as exc:
        raise malformed("EPUB", exc) from exc
    title, metadata = _dublin_core(index)
    text = "\n\n".join(filter(None, chapters))
    return Content(text=text, title=title, format="markdown", metadata=metadata)


def _dublin_core(tree: etree._Element) -> tuple[str | None, dict[str, str]]:
    title = clean_title(next((e.text or "" for e in tree.iter(_DC + "title")), ""))
    authors = [name for e in tree.iter(_DC + "creator") if (name := (e.text or "").strip())]
    return title, {"author": ", ".join(authors)} if authors else {}


def _slide_names(package: Package) -> Iterator[str]:
    """Yield the members that are slides, in the order of the presentation."""
    targets = _targets(package, "ppt/presentation.xml")
    for entry in package.xml("ppt/presentation.xml").iter(_SLIDES + "sldId"):
        if name := targets.get(entry.get(_LINK_ID, "")):
            yield name


def _targets(package: Package, name: str) -> dict[str, str]:
    """Return the members that a member links to, by the id of the link."""
    folder, base = posixpath.split(name)
    try:
        links = package.xml(f"{folder}/_rels/{base}.rels")
    except KeyError:
        return {}
    return {
        link.get("Id", ""): posixpath.normpath(posixpath.join(folder, link.get("Target", "")))
        for link in links.iter(_LINKS + "Relationship")
        if link.get("TargetMode") != "External"
    }


def _slide(package: Package, name: str) -> str:
    titles: list[str] = []
    blocks: list[str] = []
    for kind, text in _shapes(package.xml(name)):
        (titles if kind in _TITLE_KINDS else blocks).append(text)
    notes = [
        text
        for target in _targets(package, name).values()
        if "/notesSlide" in target
        for _, text in _shapes(package.xml(target))
    ]
    if titles:
        blocks.insert(0, "# " + " ".join(" ".join(titles).split()))
    if notes:
        blocks.append("Notes: " + "\n\n".join(notes))
    return "\n\n".join(blocks)


def _shapes(slide: etree._Element) -> Iterator[tuple[str, str]]:
    """Yield the kind of each shape's placeholder, "" for none, and its text."""
    for shape in slide.iter(_SLIDES + "sp", _SLIDES + "graphicFrame"):
        holder = shape.find(f".//{_SLIDES}ph")
        kind = "" if holder is None else holder.get("type", "")
        if kind in _DECORATION:
            continue
        rows = [_row(row) for row in shape.iter(_DRAWING + "tr")]
        text = "\n".join(rows) if rows else "\n".join(_paragraphs(shape))
        if text.strip():
            yield kind, text


def _row(row: etree._Element) -> str:
    cells = (" ".join(_paragraphs(cell)) for cell in row.iter(_DRAWING + "tc"))
    return "| " + " | ".join(cells) + " |"


def _paragraphs(element: etree._Element) -> Iterator[str]:
    for paragraph in element.iter(_DRAWING + "p"):
        runs = (
            run.text or "" if run.tag == _DRAWING + "t" else " "
            for run in paragraph.iter(_DRAWING + "t", _DRAWING + "br")
        )
        if text := "".join(runs).strip():
            yield text


def _spine(index: etree._Element, index_name: str) -> Iterator[str]:
    """Yield the members that are chapters, in reading order."""
    folder = posixpath.dirname(index_name)
    items = {item.get("id"): item for item in index.iter("{*}item")}
    for reference in index.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "nav" in item.get("properties", "").split():
            continue
        if "html" in item.get("media-type", ""):
            yield posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))


def _chapter(package: Package, name: str) -> str:
    try:
        page = decode(package.archive.read(name))
        return html_content(page).text.strip("\n")
    except KeyError:  # the index of many a book names files that are not there
        return ""
    except DocumentError:
        return ""


def _is_locked(package: Package) -> bool:
    """Whether chapters are encrypted, and not only fonts, as is usual."""
    try:
        encrypted = package.xml("META-INF/encryption.xml")
    except _PACKAGE_ERRORS:
        return False
    names = (e.get("URI", "").lower() for e in encrypted.iter("{*}CipherReference"))
    return any(name.endswith(("html", "htm", "xml", "opf")) for name in names)
