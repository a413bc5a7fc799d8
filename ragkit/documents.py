"""Files become documents."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from ragkit.errors import DocumentError
from ragkit.reading import folders, formats
from ragkit.reading.content import CONVERTED_EXTENSIONS, Content, extension, readable_name
from ragkit.reading.folders import MAX_BYTES, FoundFile, Skipped, find_files
from ragkit.reading.texts import decode

__all__ = [
    "MAX_BYTES",
    "READER_VERSION",
    "Document",
    "FoundFile",
    "Skipped",
    "find_files",
    "parse_document",
    "read_document",
    "read_folder",
]

READER_VERSION = 2
"""Raised when the same bytes would be read otherwise than before; part of a document's hash."""

_HTML = frozenset({".htm", ".html", ".xhtml", ".shtml"})
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html)\b", re.I | re.S
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_METADATA_DEPTH = 30  # a Qdrant server takes 31 over gRPC


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with a name, ready to be chunked.

    Characters that no database takes (NUL and lone surrogates) become U+FFFD in the text, the
    title and the metadata; dates in the metadata become ISO strings.

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
        pages: Where in `text` each page of a PDF or each slide begins; empty where there are
            none. The character at an offset is on page `bisect_right(pages, offset)`.

    Raises:
        ValueError: The source or the title is empty, the source cannot be stored as it is, or
            the metadata has a value that JSON has not.
    """

    source: str
    text: str
    title: str
    format: str = "text"
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_line: int | None = 1
    pages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("source", "text", "title"):
            value = getattr(self, name)
            if not isinstance(value, str) or (name != "text" and not value):
                raise ValueError(f"a document's {name} must be a non-empty string, not {value!r}")
        if _UNSTORABLE.search(self.source):
            raise ValueError(
                f"a document's source must have no NUL or lone surrogate: {self.source!r}"
            )
        if not isinstance(self.metadata, Mapping):
            raise ValueError(f"a document's metadata must be a mapping, not {self.metadata!r}")
        object.__setattr__(self, "text", _storable(self.text))
        object.__setattr__(self, "title", _storable(self.title))
        object.__setattr__(self, "metadata", _json_like(self.metadata, "metadata", 0))


def parse_document(raw: bytes, *, source: str) -> Document:
    """Make a document of a file's bytes; the name says the format where the bytes do not.

    Raises:
        DocumentError: It holds nothing that can be indexed; the reason says why.
    """
    if not raw:
        raise DocumentError("empty file", stale=True)
    content = _content(raw, source)
    if not content.text.strip():
        raise DocumentError("no text", stale=True)
    return Document(
        source=source,
        text=content.text,
        title=content.title or readable_name(source),
        format=content.format,
        language=content.language,
        metadata=content.metadata,
        first_line=content.first_line,
        pages=content.pages,
    )


def read_document(path: str | os.PathLike[str], *, source: str | None = None) -> Document:
    """Read one file.

    Args:
        path: The file; "~" is the user's home, symlinks are followed.
        source: The document's source; the path as given if None.

    Raises:
        DocumentError: It cannot be read, or holds nothing that can be indexed.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise DocumentError(f"no such file: {file}")
    if file.is_dir():
        raise DocumentError(f"{file} is a folder, not a file: pass it to read_folder")
    raw = folders.read_file(os.path.realpath(file))
    return parse_document(raw, source=source or file.as_posix())


def read_folder(
    root: str | os.PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> Iterator[Document | Skipped]:
    """Read the files of a folder, one at a time, sorted by source; see `find_files`.

    Raises:
        DocumentError: The folder itself cannot be read. A file that cannot is `Skipped`.
        ValueError: A glob is not valid.
    """
    found = find_files(root, include=include, exclude=exclude, max_bytes=max_bytes)
    return map(_read_found, found)


def _read_found(found: FoundFile | Skipped) -> Document | Skipped:
    if isinstance(found, Skipped):
        return found
    try:
        return parse_document(found.read(), source=found.source)
    except DocumentError as exc:
        return Skipped(source=found.source, reason=exc.reason, stale=exc.stale)


def _content(raw: bytes, source: str) -> Content:
    # The readers of single formats load their libraries when a file asks for them.
    suffix = extension(source)
    if suffix in CONVERTED_EXTENSIONS or raw.startswith(b"%PDF-"):
        from ragkit.reading.converters import convert

        return convert(raw, ".pdf" if raw.startswith(b"%PDF-") else suffix)
    if suffix in _HTML or (not formats.is_code(source) and _HTML_START.match(raw[:2048])):
        from ragkit.reading.webpage import read_html

        return read_html(raw)
    if suffix == ".svg":  # text by its bytes, but of numbers
        raise DocumentError("image", stale=True)
    return _text_content(decode(raw), source, suffix)


def _text_content(text: str, source: str, suffix: str) -> Content:
    if reader := _record_reader(suffix):
        return reader(text)
    if suffix in formats.MARKDOWN:
        return formats.read_markdown(text)
    if suffix in formats.RST:
        return formats.read_rst(text)
    if formats.is_code(source):
        return formats.read_code(text, source)
    return formats.read_text(text)


def _record_reader(suffix: str) -> Callable[[str], Content] | None:
    if suffix not in {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".ipynb"}:
        return None
    from ragkit.reading import records

    return {
        ".json": records.read_json,
        ".jsonl": records.read_jsonl,
        ".ndjson": records.read_jsonl,
        ".csv": records.read_csv,
        ".tsv": records.read_tsv,
        ".ipynb": records.read_notebook,
    }[suffix]


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)


def _json_like(value: Any, where: str, depth: int) -> Any:
    """Return a value as JSON holds it.

    Raises:
        ValueError: It has no form in JSON; the message says where it stands.
    """
    if depth > _MAX_METADATA_DEPTH:
        raise ValueError(f"{where} is nested more than {_MAX_METADATA_DEPTH} deep")
    if isinstance(value, str):
        return _storable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_json_like(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {
            _storable(key): _json_like(v, f"{where}[{key!r}]", depth + 1)
            for key, v in value.items()
        }
    raise ValueError(
        f"{where} must be JSON-like (text, finite number of 64 bits, bool, None, date, list, "
        f"mapping with text keys), not {value!r}"
    )
