from __future__ import annotations

import base64
import io
import sys
import zipfile
import zlib
from bisect import bisect_right

import pytest

from ragkit.documents import parse_document
from ragkit.errors import DocumentError

WITHOUT_EXTRA = 'not installed: run pip install "ragkit[files]"'

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
A = "http://schemas.openxmlformats.org/drawingml/2006/main"
P = "http://schemas.openxmlformats.org/presentationml/2006/main"
S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
LINKS = "http://schemas.openxmlformats.org/package/2006/relationships"
CORE = (
    '<c:coreProperties xmlns:c="http://schemas.openxmlformats.org/package/2006/metadata/'
    'core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    "<dc:title>Stated title</dc:title><dc:creator>Ann</dc:creator></c:coreProperties>"
)


def package(members: dict[str, str]) -> bytes:
    """Zip texts by their names."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return raw.getvalue()


def links(**targets: str) -> str:
    """Write a relationships part: id = "type target"."""
    entries = "".join(
        f'<Relationship Id="{key}" Type="{R}/{value.split()[0]}" Target="{value.split()[1]}"/>'
        for key, value in targets.items()
    )
    return f'<Relationships xmlns="{LINKS}">{entries}</Relationships>'


def pdf(*pages: str, title: str = "") -> bytes:
    """Write a PDF with a line of text for each line of each page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, page in enumerate(pages):
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in page.splitlines())
        stream = f"BT /F 12 Tf 72 700 Td {shown}ET"
        objects += [
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F 3 0 R>>>>"
            f"/Contents {5 + 2 * number} 0 R>>",
            f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream",
        ]
    objects.append(f"<</Title({title})/Author(Ann)>>")
    raw = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(raw))
        raw += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return raw + (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer<</Size {size}/Root 1 0 R/Info {size - 1} 0 R>>\nstartxref\n{len(raw)}\n%%EOF"
    ).encode("latin-1")


def docx(body: str, members: dict[str, str] | None = None) -> bytes:
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="S{n}"><w:name w:val="{name}"/></w:style>'
        for n, name in enumerate(["Title", "heading 1", "heading 2"])
    )
    return package(
        {
            "_rels/.rels": links(r1="officeDocument word/document.xml"),
            "word/_rels/document.xml.rels": links(r1="styles styles.xml"),
            "word/styles.xml": f'<w:styles xmlns:w="{W}">{styles}</w:styles>',
            "word/document.xml": f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>',
        }
        | (members or {})
    )


def paragraph(text: str, style: int | None = None) -> str:
    properties = "" if style is None else f'<w:pPr><w:pStyle w:val="S{style}"/></w:pPr>'
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def pptx(*slides: str, members: dict[str, str] | None = None) -> bytes:
    ids = "".join(f'<p:sldId id="{n}" r:id="r{n}"/>' for n in range(len(slides)))
    parts = {
        "ppt/presentation.xml": (
            f'<p:presentation xmlns:p="{P}" xmlns:r="{R}"><p:sldIdLst>{ids}</p:sldIdLst>'
            "</p:presentation>"
        ),
        "ppt/_rels/presentation.xml.rels": links(
            **{f"r{n}": f"slide slides/s{len(slides) - n}.xml" for n in range(len(slides))}
        ),
    }
    for n, slide in enumerate(slides):
        parts[f"ppt/slides/s{len(slides) - n}.xml"] = (
            f'<p:sld xmlns:p="{P}" xmlns:a="{A}"><p:cSld><p:spTree>{slide}</p:spTree></p:cSld>'
            "</p:sld>"
        )
    return package(parts | (members or {}))


def shape(*lines: str, kind: str = "") -> str:
    holder = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    text = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
    return f"<p:sp>{holder}<p:txBody>{text}</p:txBody></p:sp>"


def xlsx(**sheets: str) -> bytes:
    entries = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1)
    )
    parts = {
        "_rels/.rels": links(r1="officeDocument xl/workbook.xml"),
        "xl/workbook.xml": (
            f'<workbook xmlns="{S}" xmlns:r="{R}"><sheets>{entries}</sheets></workbook>'
        ),
        "xl/_rels/workbook.xml.rels": links(
            **{f"r{n}": f"worksheet worksheets/s{n}.xml" for n in range(1, len(sheets) + 1)}
        ),
        "docProps/core.xml": CORE,
    }
    for n, rows in enumerate(sheets.values(), 1):
        data = "".join(f"<row>{_cells(row)}</row>" for row in rows.splitlines())
        parts[f"xl/worksheets/s{n}.xml"] = (
            f'<worksheet xmlns="{S}"><sheetData>{data}</sheetData></worksheet>'
        )
    return package(parts)


def _cells(row: str) -> str:
    return "".join(
        f"<c><v>{cell}</v></c>"
        if cell.replace(".", "").isdigit()
        else f'<c t="inlineStr"><is><t>{cell}</t></is></c>'
        for cell in row.split(",")
    )


def epub(members: dict[str, str] | None = None) -> bytes:
    index = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<metadata><dc:title>The Book</dc:title><dc:creator>Ann</dc:creator></metadata><manifest>"
        '<item id="n" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        '<item id="a" href="text/one%201.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="b" href="text/two.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="c" href="text/lost.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="n"/><itemref idref="b"/><itemref idref="a"/>'
        '<itemref idref="c"/><itemref idref="none"/></spine></package>'
    )
    return package(
        {
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OPS/b.opf"/>'
            "</rootfiles></container>",
            "OPS/b.opf": index,
            "OPS/nav.xhtml": "<html><body><p>Contents</p></body></html>",
            "OPS/text/one 1.xhtml": "<html><body><h1>Last</h1><p>End.</p></body></html>",
            "OPS/text/two.xhtml": "<html><body><h1>First</h1><p>Begin.</p></body></html>",
        }
        | (members or {})
    )


# PDF


# The same page twice, with 40-bit RC4: one needs the password "secret", one only to be changed.
def _unpack(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


ENCRYPTED_PDF = _unpack(
    "eNqNUz1v1EAQlShX9LTbXAne77Ulc1K+TkEEJVyABlGsvbOJ0WFH9h5KKIAOWgpKJChAiA4JIfETqCigCC0gAQU9FW"
    "LtXBKLS4G9xfrNmzdvx7ODjeXRWXqOo8GXrx8+IooJrrKbKE1RdGVvB3C0ZLyZVFso2jBb0GAWCGM0HCIobUtkcwkd"
    "D0UXC9vg65i3fHwDRUvVtPSY9lL5ialtoRoC9aBSdAlsYRar3aBFwisTiWPBWsUxNNW0zoOpVmFUhZxug8Whx7BC3d"
    "IHuQbLf5yLufKtBIo2p5nvPluQomjRNNCJR6swuQ2+yE1PRfZU1qDc8ttYyDbe+BrMLbR6av/Z54X7T56e+Xl57e75"
    "e8Vb+/C9fXH63aNP+z9+vfnz8vWrx/C7Wv/+4NvzQSs6y5vJq77Jwk8Ap+FMC1O/XdU4lZmmjg17dnSPfy10Oxpjdm"
    "yMhOZiwRKRKM2SEBgVEw81jja9Ka2pLYrWcZowB8QJIYWxIk+UECrhjvOc6DyTwslY2xwoMBUHZgI5GEWJNhSc4sTa"
    "YPAqToUWKiaMS+2I4i6xVClHrVZSCcdMbjMdg6POZjRWlhuZsxhMbBKVWaIE9E+1W4NDBMeIHD1YSckldvgIo+FXdJ"
    "HyGFNiDqOMz2FMkjmMs3lMnFBDqJ6er00xgbpr/2ZxB4LlaFxVYe4PhvlC6SqsZvvlMNIpoSS2YTEpchEbCYJyoqUD"
    "kdicCj38H0q4DCtlXu/teKwPp7zxpvZd45TWaDBYWR+hv5iqEck="
)
OWNER_ONLY_PDF = _unpack(
    "eNqNUz2P1DAQbaAxBXQIBMjNCgkBcfwZo2il+1px4tCddjkaROE44yNoSU6JF93RUwAdJT/gfsVVNJQIUdNAR08NTu"
    "4rIhQkKZznN2/ejMejrdXJnfguQ6PvPz5/RTEmuMqeozRF0aP9XcDRivFmXu2gaMvsQINpIEzReIygzFsiHQR0PBQ9"
    "KPIGP8Gs5eOnKFqpFqXHcS+U/TO0TVRDoB5lih5CXpjlai9okfAKLXDCaas4haZa1DaYahUmVYjpFpifeAxfyFv6IN"
    "dg8ZdzPkjfSqBotsh899uCMYqWTQOdeHQf5i/BF9b0VERPZQPKHf8Mc9XuN74G8wL9+nD7W/FGrV8/v4QXF859Sme/"
    "rx7cvHLv8s/3124cXNw4LN5tX7r19pC+/rIoPy5a2ePI4wSyb7Pwc8BpqGpp4Z9VNU5dJqTOxz1Dqsd/HPodTTE9s0"
    "ZCezGnmmupqA4bk2LuocbRzJsyN3WOok2cWk05pTJRzlgAmUhgirmYZMKqnHDFEiJYLKhTQAEYgTi2UoPlnAolTRYM"
    "buOUW6eBG6piw7OEmdiBkCyLSQJMMiEttZpQYnOjCMgMjEmM4845oQ3loPpV7dXgEMEJIqcPlkIwgR0+xeJwGN1OeY"
    "ZJPsBiygYYFWSAMTrEeKyGmOzl9bUp5lB37Z8VryBYjqZVFSb/aJzXS1dhebxeDUOdhnqJcKEbkNsErFI60VQyI6QM"
    "p2T1+H8o4Tqslbbe3/VYncx5403tu8ZJpdFotLY5QX8AXYELsw=="
)


@pytest.fixture
def _pdfium() -> None:
    pytest.importorskip("pypdfium2", reason=WITHOUT_EXTRA)


@pytest.mark.usefixtures("_pdfium")
def test_a_pdf_is_its_text_with_the_places_of_its_pages() -> None:
    raw = pdf("Rotate the keys\nevery 90 days.", "", "The end.", title="Key guide")
    document = parse_document(raw, source="a.pdf")
    assert document.text == "Rotate the keys\nevery 90 days.\n\n\n\nThe end."
    assert (document.title, document.format, document.first_line) == ("Key guide", "text", None)
    assert document.metadata == {"author": "Ann"}
    for words, page in [("Rotate", 1), ("90 days.", 1), ("The end.", 3)]:
        assert bisect_right(document.pages, document.text.index(words)) == page


@pytest.mark.usefixtures("_pdfium")
@pytest.mark.parametrize(
    ("stated", "title"),
    [("untitled", "my file"), ("Microsoft Word - Plan", "Plan"), ("report.docx", "my file")],
)
def test_a_pdf_title_that_a_program_made_up_is_not_used(stated: str, title: str) -> None:
    assert parse_document(pdf("text", title=stated), source="my_file.pdf").title == title


@pytest.mark.usefixtures("_pdfium")
def test_a_scanned_pdf_is_refused_with_advice() -> None:
    with pytest.raises(DocumentError, match="no text in the PDF: scanned pages need OCR") as caught:
        parse_document(pdf(""), source="a.pdf")
    assert caught.value.stale


@pytest.mark.usefixtures("_pdfium")
def test_an_encrypted_pdf_is_refused_and_one_without_a_password_is_read() -> None:
    with pytest.raises(DocumentError, match=r"^encrypted PDF$") as caught:
        parse_document(ENCRYPTED_PDF, source="a.pdf")
    assert caught.value.stale
    assert parse_document(OWNER_ONLY_PDF, source="a.pdf").text.strip() == "readable"


@pytest.mark.usefixtures("_pdfium")
@pytest.mark.parametrize("raw", [b"%PDF-1.7", pdf("text")[:200], b"no pdf at all"])
def test_a_damaged_pdf_is_refused(raw: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^malformed PDF: ") as caught:
        parse_document(raw, source="a.pdf")
    assert caught.value.stale


# DOCX


@pytest.fixture
def _mammoth() -> None:
    pytest.importorskip("mammoth", reason=WITHOUT_EXTRA)


@pytest.mark.usefixtures("_mammoth")
def test_a_docx_becomes_markdown() -> None:
    row = "<w:tr>{}</w:tr>"
    cell = "<w:tc>{}</w:tc>"
    table = "".join(
        row.format("".join(cell.format(paragraph(text)) for text in line.split()))
        for line in ("name age", "Bob 3")
    )
    raw = docx(
        paragraph("Handbook", 0)
        + paragraph("Keys", 1)
        + paragraph("Rotate them → often.")
        + f"<w:tbl>{table}</w:tbl>"
        + paragraph("Details", 2),
        {"docProps/core.xml": CORE},
    )
    document = parse_document(raw, source="a.docx")
    assert document.text == (
        "# Handbook\n\n# Keys\n\nRotate them → often.\n\n"
        "| name | age |\n| --- | --- |\n| Bob | 3 |\n\n## Details\n"
    )
    assert (document.title, document.format) == ("Handbook", "markdown")
    assert document.metadata == {"author": "Ann"}


@pytest.mark.usefixtures("_mammoth")
def test_without_a_heading_the_title_of_a_docx_is_the_stated_one() -> None:
    raw = docx(paragraph("words"), {"docProps/core.xml": CORE})
    assert parse_document(raw, source="a.docx").title == "Stated title"
    assert parse_document(docx(paragraph("words")), source="my-a.docx").title == "my a"


@pytest.mark.usefixtures("_mammoth")
def test_an_entity_bomb_in_a_docx_is_refused() -> None:
    entities = (
        '<!ENTITY a0 "'
        + "x" * 1000
        + '">'
        + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    )
    bomb = (
        f'<!DOCTYPE d [{entities}]><w:document xmlns:w="{W}"><w:body>{paragraph("&a9;")}'
        "</w:body></w:document>"
    )
    with pytest.raises(DocumentError, match=r"malformed DOCX: .* has a document type"):
        parse_document(docx("", {"word/document.xml": bomb}), source="a.docx")


# PPTX


def test_slides_become_markdown_in_their_order_with_their_notes() -> None:
    table = "".join(
        "<a:tr>"
        + "".join(f"<a:tc><a:p><a:r><a:t>{c}</a:t></a:r></a:p></a:tc>" for c in row)
        + "</a:tr>"
        for row in ("ab", "cd")
    )
    raw = pptx(
        shape("Point one", "Point two") + shape("Intro", kind="title") + shape("7", kind="sldNum"),
        f"<p:graphicFrame>{table}</p:graphicFrame>",
        members={
            "ppt/slides/_rels/s2.xml.rels": links(r1="notesSlide ../notesSlides/n.xml"),
            "ppt/notesSlides/n.xml": (
                f'<p:notes xmlns:p="{P}" xmlns:a="{A}">{shape("Say hello")}</p:notes>'
            ),
            "docProps/core.xml": CORE,
        },
    )
    document = parse_document(raw, source="a.pptx")
    assert document.text == (
        "# Intro\n\nPoint one\nPoint two\n\nNotes: Say hello\n\n| a | b |\n| c | d |"
    )
    assert (document.title, document.metadata) == ("Intro", {"author": "Ann"})
    assert bisect_right(document.pages, document.text.index("| c")) == 2


# XLSX


@pytest.fixture
def _calamine() -> None:
    pytest.importorskip("python_calamine", reason=WITHOUT_EXTRA)


@pytest.mark.usefixtures("_calamine")
def test_a_sheet_is_a_record_for_each_row() -> None:
    document = parse_document(xlsx(People="name,age\nAnn,3.0\nBob,2.5,extra"), source="a.xlsx")
    assert document.text == "name: Ann\nage: 3\n\nname: Bob\nage: 2.5\ncolumn 3: extra\n"
    assert (document.title, document.format) == ("Stated title", "records")


@pytest.mark.usefixtures("_calamine")
def test_of_several_sheets_each_record_names_its_own() -> None:
    document = parse_document(xlsx(One="k\nv", Two="alone", Three=""), source="a.xlsx")
    assert document.text == "sheet: One\nk: v\n\nsheet: Two\nalone\n"


# EPUB


def test_a_book_is_its_chapters_in_reading_order() -> None:
    document = parse_document(epub(), source="a.epub")
    assert document.text == "# First\n\nBegin.\n\n# Last\n\nEnd."
    assert (document.title, document.metadata) == ("The Book", {"author": "Ann"})


def test_a_book_with_encrypted_chapters_is_refused_but_fonts_may_be() -> None:
    def encryption(uri: str) -> str:
        return f'<encryption><CipherReference URI="{uri}"/></encryption>'

    name = "META-INF/encryption.xml"
    with pytest.raises(DocumentError, match=r"^encrypted EPUB$"):
        parse_document(epub({name: encryption("OPS/text/two.xhtml")}), source="a.epub")
    assert (
        "Begin." in parse_document(epub({name: encryption("OPS/font.otf")}), source="a.epub").text
    )


# All of them


@pytest.mark.usefixtures("_mammoth", "_calamine")
@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx", "epub"])
class TestPackages:
    def test_what_is_no_archive_is_refused(self, kind: str) -> None:
        for raw in (b"words", b"PK\x03\x04 words", package({"other": "x"})):
            with pytest.raises(DocumentError, match=f"^malformed {kind.upper()}: ") as caught:
                parse_document(raw, source=f"a.{kind}")
            assert caught.value.stale

    def test_an_encrypted_office_file_is_refused(self, kind: str) -> None:
        raw = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
        with pytest.raises(DocumentError, match=f"encrypted {kind.upper()}") as caught:
            parse_document(raw, source=f"a.{kind}")
        assert caught.value.stale

    def test_a_bomb_is_refused_before_it_is_unpacked(self, kind: str) -> None:
        raw = bytearray(package({"bomb": "x" * 1000}))
        where = raw.index(b"PK\x01\x02") + 24  # the size that the directory states
        raw[where : where + 4] = (1 << 30).to_bytes(4, "little")
        with pytest.raises(DocumentError, match="unpacks to more than 512 MiB"):
            parse_document(bytes(raw), source=f"a.{kind}")


@pytest.mark.parametrize(
    ("module", "source"),
    [("pypdfium2", "a.pdf"), ("mammoth", "a.docx"), ("python_calamine", "a.xlsx")],
)
def test_a_missing_extra_is_named_and_what_was_indexed_is_not_stale(
    module: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    with pytest.raises(DocumentError) as caught:
        parse_document(b"anything", source=source)
    assert caught.value.reason.endswith('needs more: pip install "ragkit[files]"')
    assert not caught.value.stale
