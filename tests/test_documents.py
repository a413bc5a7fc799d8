from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragkit.documents import (
    Document,
    Skipped,
    parse_document,
    read_document,
    read_folder,
)
from ragkit.errors import DocumentError

EXTENSIONS = """
    md rst txt html py json jsonl csv tsv ipynb xml yaml unknown pdf docx pptx xlsx epub
""".split()  # noqa: SIM905


@pytest.fixture
def as_ordinary_user() -> Iterator[Path]:
    """Give a folder, and be nobody while root runs the tests: root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        if os.geteuid() == 0:
            os.seteuid(65_534)
            yield Path(folder)
            os.seteuid(0)
        else:
            yield Path(folder)


def test_a_document_cannot_be_changed() -> None:
    document = Document(source="a.txt", text="words", title="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.text = "others"  # type: ignore[misc]


@pytest.mark.parametrize("field", ["source", "title"])
@pytest.mark.parametrize("value", ["", None, 7])
def test_a_document_needs_a_source_and_a_title(field: str, value: object) -> None:
    values = {"source": "a.txt", "text": "words", "title": "a", field: value}
    with pytest.raises(ValueError, match=f"a document's {field} must be a non-empty string"):
        Document(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["a\x00b", "a\udc80b"])
def test_a_source_that_cannot_be_stored_is_refused_rather_than_changed(source: str) -> None:
    with pytest.raises(ValueError, match="no NUL or lone surrogate"):
        Document(source=source, text="words", title="a")


def test_nul_and_lone_surrogates_are_replaced_and_offsets_stay() -> None:
    document = Document(
        source="a", text="a\x00b\ud800c😀", title="t\udfff", metadata={"k\x00": ["\udc00"]}
    )
    assert document.text == "a\ufffdb\ufffdc😀"
    assert document.title == "t\ufffd"
    assert document.metadata == {"k\ufffd": ["\ufffd"]}
    document.text.encode("utf-8")


def test_dates_in_metadata_become_iso_strings() -> None:
    document = Document(
        source="a", text="b", title="c", metadata={"on": [date(2024, 5, 1)], "pair": (1, 2.5)}
    )
    assert document.metadata == {"on": ["2024-05-01"], "pair": [1, 2.5]}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (object(), "metadata['key']"),
        (float("nan"), "metadata['key']"),
        (1 << 64, "metadata['key']"),
        ([1, {2}], "metadata['key'][1]"),
        ({"a": {1: 2}}, "metadata['key']['a']"),
        (b"bytes", "metadata['key']"),
    ],
)
def test_metadata_that_json_has_not_is_refused_with_its_place(value: object, where: str) -> None:
    with pytest.raises(ValueError, match="must be JSON-like") as caught:
        Document(source="a", text="b", title="c", metadata={"key": value})
    assert str(caught.value).startswith(where + " must be")


def test_metadata_that_holds_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    with pytest.raises(ValueError, match="nested more than"):
        Document(source="a", text="b", title="c", metadata=loop)


@pytest.mark.parametrize(
    ("source", "format_", "language"),
    [
        ("a.txt", "text", None),
        ("A.MD", "markdown", None),
        ("docs/a.rst", "rst", None),
        ("_sources/index.rst.txt", "rst", None),
        ("a.py", "code", "python"),
        ("lib/a.TSX", "code", "ts"),
        ("deploy.sh", "code", None),
        ("Makefile", "code", None),
        ("a.json", "text", None),  # it is not JSON
        ("a.csv", "records", None),
        ("a.log", "text", None),
        ("LICENSE", "text", None),
        (".env", "text", None),
    ],
)
def test_the_name_says_the_format(source: str, format_: str, language: str | None) -> None:
    document = parse_document(b"some words\nand more\n", source=source)
    assert (document.format, document.language) == (format_, language)


def test_html_and_pdf_are_known_by_their_first_bytes_too() -> None:
    page = b"<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE html><html><body><p>hi</p></body></html>"
    assert parse_document(page, source="saved page").text == "hi\n"
    with pytest.raises(DocumentError, match="PDF"):
        parse_document(b"%PDF-1.7 and nothing else", source="download")


def test_php_that_holds_html_stays_code() -> None:
    document = parse_document(b"<!DOCTYPE html><html><?php echo 1; ?></html>", source="a.php")
    assert (document.format, document.language) == ("code", "php")


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("notes/2024-03_key-rotation.txt", "2024-03 key rotation"),
        ("README", "README"),
        ("v1.2-notes.txt", "v1.2 notes"),
        ("a/__init__.log", "init"),
        ("___.txt", "___.txt"),
        ("\n", "untitled"),
        ("src/main.py", "main.py"),
    ],
)
def test_without_a_title_the_file_name_is_made_readable(source: str, title: str) -> None:
    assert parse_document(b"words", source=source).title == title


@pytest.mark.parametrize(
    ("raw", "source", "reason"),
    [
        (b"", "a.txt", "empty file"),
        (b" \n\t\n", "a.md", "no text"),
        (b"\xef\xbb\xbf", "a.txt", "no text"),
        (b"---\ntitle: x\n---\n", "a.md", "no text"),
        (b"<html><script>x()</script></html>", "a.html", "no text"),
        (b"{}", "a.json", "no text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a.md", "binary file"),
        (bytes(range(256)) * 40, "a", "binary file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", "image"),
        (b"var a=1;" * 5000, "a.min.js", "minified or generated code"),
    ],
)
def test_what_holds_nothing_to_index_is_refused_as_stale(
    raw: bytes, source: str, reason: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_document(raw, source=source)
    assert (caught.value.reason, caught.value.stale) == (reason, True)


@settings(max_examples=150, deadline=None)
@given(
    raw=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(alphabet='{}[]",:\n\\ud8-+=#`|<>/&;!-[CDATA abc\t\x00\x1b\ufffe', max_size=300).map(
            lambda text: text.encode("utf-8", "surrogatepass")
        ),
    ),
    extension=st.sampled_from(EXTENSIONS),
)
@example(raw=b"[" * 100_000, extension="json")
@example(raw=b'{"a":' * 100_000, extension="jsonl")
@example(raw=b"1" * 5_000, extension="json")
@example(raw=b"<div>" * 50_000 + b"x", extension="html")
@example(raw=b"<ul><li>" * 400 + b"x", extension="html")
@example(raw=b"---\n" + b"[" * 5_000 + b"\n---\nx", extension="md")
@example(raw=b"+++\na=" + b"[" * 5_000 + b"\n+++\nx", extension="md")
@example(raw=b"---\n!!timestamp x\n---\nx", extension="md")
@example(raw=b"---\na: 2024-99-99\n---\nx", extension="md")
@example(raw=b"---\n? [a]\n: b\n---\nx", extension="md")
@example(raw=b'a\n"' + b"x" * 200_000, extension="csv")
def test_any_bytes_give_a_storable_document_or_a_document_error(raw: bytes, extension: str) -> None:
    try:
        document = parse_document(raw, source=f"file.{extension}")
    except DocumentError:
        return
    assert document.text.strip()
    assert document.title.strip()
    document.text.encode("utf-8")
    assert "\x00" not in document.text
    assert "\r" not in document.text


def test_read_document_takes_its_source_from_the_path_or_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("# Hello\n")
    assert read_document(path).source == path.as_posix()
    assert read_document(str(path), source="mine").source == "mine"


def test_read_document_follows_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real.md").write_text("# Hello\n")
    (tmp_path / "link.md").symlink_to("real.md")
    assert read_document(tmp_path / "link.md").title == "Hello"


def test_read_document_of_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no such file: .*/none\.md"):
        read_document(tmp_path / "none.md")
    with pytest.raises(DocumentError, match="is a folder, not a file: pass it to read_folder"):
        read_document(tmp_path)


def test_read_folder_yields_documents_and_what_was_skipped_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# B\n")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "c.txt").write_bytes(b"")
    (tmp_path / "d.png").write_bytes(b"\x89PNG")
    first, second, third, fourth = read_folder(tmp_path)
    assert isinstance(first, Document)
    assert (first.source, first.text) == ("a.txt", "words")
    assert isinstance(second, Document)
    assert (second.source, second.title) == ("b.md", "B")
    assert third == Skipped(source="c.txt", reason="empty file", stale=True)
    assert fourth == Skipped(source="d.png", reason="binary file", stale=True)


def test_two_files_with_the_same_text_are_two_documents(tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("# Same\n\ntext\n")
    assert [found.source for found in read_folder(tmp_path)] == ["a.md", "b.md"]


def test_a_file_that_vanishes_after_it_was_found_is_skipped_and_not_stale(tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("# Same\n\ntext\n")
    reading = read_folder(tmp_path)
    assert isinstance(next(reading), Document)
    (tmp_path / "b.md").unlink()
    assert list(reading) == [Skipped(source="b.md", reason="not there any more", stale=False)]


def test_a_file_without_permission_is_skipped_and_not_stale(
    as_ordinary_user: Path,
) -> None:
    path = as_ordinary_user / "a.md"
    path.write_text("secret")
    path.chmod(0)
    assert list(read_folder(as_ordinary_user)) == [
        Skipped(source="a.md", reason="permission denied", stale=False)
    ]
