"""JSON, JSON lines, CSV and notebooks become readable text.

A record is a few lines of "path: value"; blank lines stand between records, so that a chunker
can cut there. No blank line is inside of one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ragkit.errors import DocumentError
from ragkit.reading.content import Content, clean_title
from ragkit.reading.formats import markdown_title

# Deeper values are written as JSON.
_MAX_DEPTH = 40
_DELIMITERS = ",;\t|"
_SNIFFED_LINES = 20
_BLANK_LINES = re.compile(r"\n\s*\n")
# ValueError covers JSONDecodeError and integers of more digits than Python converts.
_JSON_ERRORS = (ValueError, RecursionError)


def read_json(text: str) -> Content:
    """Read JSON as records; what is not JSON after all stays plain text."""
    try:
        value = json.loads(text)
        return Content(text=_records_of(value), title=_own_title(value), format="records")
    except _JSON_ERRORS:
        return Content(text=text, first_line=1)


def read_jsonl(text: str) -> Content:
    """Read JSON lines, one record each; a line that is not JSON is kept as it is."""
    return Content(text=join_records(map(_line_record, text.split("\n"))), format="records")


def read_csv(text: str, *, delimiter: str | None = None) -> Content:
    """Read a table with a header row: each further row is a record.

    Args:
        text: The file.
        delimiter: What stands between values, None to find out among comma, semicolon, tab and
            bar.
    """
    rows = csv.reader(io.StringIO(text), delimiter=delimiter or _delimiter(text), strict=False)
    try:
        header = next((row for row in rows if any(map(str.strip, row))), [])
        body = join_records(row_record(header, row) for row in rows)
    except csv.Error:  # a value of more than 128 KiB: a stray quote, as a rule
        return Content(text=text, first_line=1)
    return Content(text=body or join_records(["\n".join(header)]), format="records")


def read_tsv(text: str) -> Content:
    """Read a table whose values are separated by tabs."""
    return read_csv(text, delimiter="\t")


def read_notebook(text: str) -> Content:
    """Read a Jupyter notebook as Markdown: its text and its code, without the outputs.

    Raises:
        DocumentError: It is not a notebook of nbformat 4.
    """
    try:
        notebook = json.loads(text)
    except _JSON_ERRORS as exc:
        raise DocumentError("malformed notebook: not JSON", stale=True) from exc
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise DocumentError("malformed notebook: no cells (nbformat 4 is read)", stale=True)
    language = _kernel_language(notebook)
    parts = [part for cell in cells if (part := _cell(cell, language))]
    body = "\n\n".join(parts)
    title = _own_title(notebook.get("metadata")) or markdown_title(body)
    return Content(text=body + "\n" if body else "", title=title, format="markdown")


def _records_of(value: Any) -> str:
    if isinstance(value, list) and any(map(_is_tree, value)):
        return join_records("\n".join(_lines(item, "", 0)) for item in value)
    return join_records(_top_records(value))


def _top_records(value: Any) -> Iterator[str]:
    """Yield the records of an object: its own values, and each object of the lists in it."""
    lines: list[str] = []
    for line in _lines(value, "", 0, apart=True):
        if line:
            lines.append(line)
        else:
            yield "\n".join(lines)
            lines.clear()
    yield "\n".join(lines)


def join_records(records: Iterable[str]) -> str:
    """Write records with a blank line between them, leaving out empty ones."""
    text = "\n\n".join(stripped for record in records if (stripped := record.strip("\n")))
    return text + "\n" if text else ""


def _lines(value: Any, path: str, depth: int, *, apart: bool = False) -> Iterator[str]:
    """Yield "path: value" lines; with `apart`, an empty one around each object of a list."""
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        for key, item in value.items():
            yield from _lines(item, f"{path}.{key}" if path else str(key), depth + 1, apart=apart)
    elif isinstance(value, list) and any(map(_is_object, value)) and depth < _MAX_DEPTH:
        for item in value:
            if apart:
                yield ""
            yield from _lines(item, path, depth + 1)
        if apart:
            yield ""
    elif shown := _shown(value):
        yield f"{path}: {shown}" if path else shown


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tree(value: Any) -> bool:
    return isinstance(value, dict | list)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return _BLANK_LINES.sub("\n", value.strip())
    if isinstance(value, list) and not any(map(_is_tree, value)):
        return ", ".join(filter(None, map(_shown, value)))
    if value is None or value in ({}, []):
        return ""
    return json.dumps(value, ensure_ascii=False)


def _own_title(value: Any) -> str | None:
    """Return the "title" or "name" at the top of a JSON object."""
    if not isinstance(value, dict):
        return None
    named = (value.get(key) for key in ("title", "name"))
    return next((title for n in named if isinstance(n, str) and (title := clean_title(n))), None)


def _line_record(line: str) -> str:
    if not line.strip():
        return ""
    try:
        return "\n".join(filter(None, _lines(json.loads(line), "", 0)))
    except _JSON_ERRORS:
        return line


def row_record(header: list[str], row: list[str]) -> str:
    """Write a row as "column: value" lines; a value beyond the header gets its column's number."""
    names = [name.strip() for name in header]
    names += [""] * (len(row) - len(names))
    cells = enumerate(zip(names, row, strict=False), start=1)
    return "\n".join(
        f"{name or f'column {number}'}: {shown}"
        for number, (name, v) in cells
        if (shown := _shown(v))
    )


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first lines into most columns, the same number each."""
    lines = text[: 1 << 16].split("\n")[:_SNIFFED_LINES]

    def columns(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        width = widths[0] if widths else 0
        return (widths.count(width) if width > 1 else 0, width)

    return max(_DELIMITERS, key=columns)


def _kernel_language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for key in ("language_info", "kernelspec"):
        info = metadata.get(key) if isinstance(metadata, dict) else None
        name = (
            info.get("name" if key == "language_info" else "language")
            if isinstance(info, dict)
            else None
        )
        if isinstance(name, str) and re.fullmatch(r"[\w+#-]+", name):
            return name
    return "python"


def _cell(cell: Any, language: str) -> str:
    """Return a cell as Markdown, "" for one without text."""
    if not isinstance(cell, dict):
        return ""
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    if not isinstance(source, str) or not source.strip():
        return ""
    if cell.get("cell_type") != "code":
        return source.strip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`{3,}", source)), default=0))
    return f"{fence}{language}\n{source.strip(chr(10))}\n{fence}"
