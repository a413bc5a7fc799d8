"""PDF, Word, PowerPoint, Excel and EPUB files become text.

PDF, DOCX and XLSX need the extra `files`: PDFium reads PDF, mammoth makes HTML of DOCX, calamine
reads the cells of XLSX. What their readers raise on damaged files is mapped here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from io import BytesIO
from typing import Any

from ragkit.errors import DocumentError, MissingDependency, require
from ragkit.reading import packages
from ragkit.reading.content import Content, clean_title, join_pages
from ragkit.reading.records import join_records, row_record
from ragkit.reading.webpage import html_content

# Titles that programs put in, not people: names of files, and of nothing.
_NO_TITLE = re.compile(
    r"untitled.*|document\d*|.*\.(?:docx?|dvi|indd|odt|pptx?|rtf|tex|txt|xlsx?)", re.IGNORECASE
)
_PDF_INFO = {"Author": "author", "Subject": "subject", "Keywords": "keywords"}
# PDFium writes U+FFFE (U+0002 in older versions) for a hyphen at the end of a line.
_HYPHENATION = re.compile("[\ufffe\x02](?:\r?\n)?")
# mammoth's link from a footnote back to where it is referred to.
_NOTE_RETURN = re.compile(r'\s*<a href="#[^"]*">↑</a>')
_MAX_PROPERTY_CHARS = 500
_PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD in fpdfview.h

# PDFium is not safe for threads, not even with one document each.
_pdfium_lock = threading.Lock()


def convert(raw: bytes, suffix: str) -> Content:
    """Read a file of one of these formats.

    Args:
        raw: The file.
        suffix: Its extension in lower case, which is the format (".pdf").

    Raises:
        DocumentError: It is encrypted, damaged or has no text; or the extra `files` is missing.
    """
    reader = _READERS[suffix]
    kind = suffix.removeprefix(".").upper()
    try:
        return reader(raw)
    except DocumentError:
        raise
    except MissingDependency as exc:
        raise DocumentError(f'{kind} needs more: pip install "ragkit[files]"') from exc
    except (
        Exception
    ) as exc:  # The one seam to three parsers of formats without end: on damaged files they raise
        # whatever their code runs into (KeyError, TypeError, RecursionError, ...).
        raise packages.malformed(kind, exc) from exc


def _read_pdf(raw: bytes) -> Content:
    pdfium = require("pypdfium2", "files")
    with _pdfium_lock:
        document = _open_pdf(pdfium, raw)
        try:
            info = document.get_metadata_dict(skip_empty=True)
            pages = [_page_text(pdfium, document, number) for number in range(len(document))]
        finally:
            document.close()
    if not any(map(str.strip, pages)):
        raise DocumentError("no text in the PDF: scanned pages need OCR first", stale=True)
    text, starts = join_pages(pages)
    return Content(
        text=text,
        title=_stated_title(info.get("Title", "")),
        metadata={
            name: value[:_MAX_PROPERTY_CHARS]
            for key, name in _PDF_INFO.items()
            if (value := info.get(key, "").strip())
        },
        pages=starts,
    )


def _open_pdf(pdfium: Any, raw: bytes) -> Any:
    try:
        return pdfium.PdfDocument(raw)
    except pdfium.PdfiumError as exc:
        if exc.err_code == _PASSWORD_NEEDED:
            raise DocumentError("encrypted PDF", stale=True) from exc
        raise packages.malformed("PDF", exc) from exc


def _page_text(pdfium: Any, document: Any, number: int) -> str:
    """Return a page's text, "" for one that is damaged: the others may be good."""
    try:
        page = document[number]
    except pdfium.PdfiumError:
        return ""
    words = page.get_textpage()
    text = _HYPHENATION.sub("", words.get_text_bounded())
    words.close()
    page.close()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _stated_title(title: str) -> str | None:
    cleaned = clean_title(title.removeprefix("Microsoft Word - "))
    return None if cleaned is None or _NO_TITLE.fullmatch(cleaned) else cleaned


def _read_docx(raw: bytes) -> Content:
    mammoth = require("mammoth", "files")
    package = packages.Package.open(raw, "DOCX")
    package.refuse_document_types()
    html = mammoth.convert_to_html(
        BytesIO(raw),
        style_map="p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh",
        convert_image=mammoth.images.img_element(lambda _: {}),
        include_embedded_style_map=False,  # the file would say how it is to be read
        external_file_access=False,
    ).value
    page = html_content(f"<html><body>{_NOTE_RETURN.sub('', html)}</body></html>")
    stated, metadata = package.properties()
    return Content(
        text=page.text,
        title=page.title or _stated_title(stated or ""),
        format="markdown",
        metadata=metadata,
    )


def _read_xlsx(raw: bytes) -> Content:
    calamine = require("python_calamine", "files")
    package = packages.Package.open(raw, "XLSX")
    workbook = calamine.CalamineWorkbook.from_filelike(BytesIO(raw))
    names = workbook.sheet_names
    records = (
        record
        for name in names
        for record in _sheet_records(workbook.get_sheet_by_name(name), name if names[1:] else "")
    )
    text = join_records(records)
    stated, metadata = package.properties()
    return Content(
        text=text, title=_stated_title(stated or ""), format="records", metadata=metadata
    )


def _sheet_records(sheet: Any, name: str) -> Iterator[str]:
    """Yield a sheet's rows as records, each under the sheet's name if there are several."""
    rows = ([_cell(value) for value in row] for row in sheet.to_python(skip_empty_area=True))
    rows = (row for row in rows if any(row))
    header = next(rows, [])
    top = [f"sheet: {name}"] if name else []
    body = False
    for row in rows:
        body = True
        yield "\n".join([*top, row_record(header, row)])
    if not body and header:  # a sheet of one row
        yield "\n".join([*top, *filter(None, header)])


def _cell(value: Any) -> str:
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


_READERS: dict[str, Callable[[bytes], Content]] = {
    ".docx": _read_docx,
    ".epub": packages.read_epub,
    ".pdf": _read_pdf,
    ".pptx": packages.read_pptx,
    ".xlsm": _read_xlsx,
    ".xlsx": _read_xlsx,
}
