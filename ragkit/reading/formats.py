"""Plain text, Markdown, reStructuredText and source code: what the text is, where it begins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

import yaml

from ragkit.errors import DocumentError
from ragkit.reading.content import Content, clean_title, extension, file_name

MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"})
RST = frozenset({".rst", ".rest"})

_OTHER_CODE = """
    .bash .bat .cfg .clj .cmake .conf .css .dart .el .erl .fish .gradle .graphql .groovy
    .ini .jl .less .lisp .m .mk .ml .mli .nim .nix .patch .diff .properties .sass .scm .scss
    .sh .sql .svelte .tf .toml .v .vhd .vue .yaml .yml .zig .zsh
"""
# By extension: the `Language` of langchain-text-splitters, or None where it has none.
_LANGUAGES: dict[str, str | None] = {
    ".bas": "visualbasic6",
    ".c": "c",
    ".cc": "cpp",
    ".cls": "visualbasic6",
    ".cob": "cobol",
    ".cbl": "cobol",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".cxx": "cpp",
    ".ex": "elixir",
    ".exs": "elixir",
    ".frm": "visualbasic6",
    ".go": "go",
    ".h": "c",
    ".hh": "cpp",
    ".hpp": "cpp",
    ".hs": "haskell",
    ".hxx": "cpp",
    ".java": "java",
    ".js": "js",
    ".jsx": "js",
    ".cjs": "js",
    ".mjs": "js",
    ".kt": "kotlin",
    ".kts": "kotlin",
    ".lua": "lua",
    ".php": "php",
    ".pl": "perl",
    ".pm": "perl",
    ".proto": "proto",
    ".ps1": "powershell",
    ".psm1": "powershell",
    ".py": "python",
    ".pyi": "python",
    ".pyw": "python",
    ".r": "r",
    ".rb": "ruby",
    ".rs": "rust",
    ".sc": "scala",
    ".scala": "scala",
    ".sol": "sol",
    ".swift": "swift",
    ".tex": "latex",
    ".ts": "ts",
    ".tsx": "ts",
    ".cts": "ts",
    ".mts": "ts",
    ".vb": "visualbasic6",
    **dict.fromkeys(_OTHER_CODE.split()),
}
_CODE_NAMES = frozenset({"CMakeLists.txt", "Dockerfile", "Jenkinsfile", "Makefile", "Vagrantfile"})

# Code in lines longer than this on average was not written by hand; configuration and small
# files may be.
_MINIFIED_LINE_CHARS = 1_000
_MINIFIED_CHARS = 10_000

# Titles are much shorter; this bounds the work on a line without end.
_MAX_HEADING_CHARS = 2_000
_MAX_FRONT_MATTER_CHARS = 1 << 16
_MAX_METADATA_VALUES = 500
_MAX_METADATA_DEPTH = 8
# What PyYAML's safe loader raises on bad scalars and tags, beside its own error.
_YAML_ERRORS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_FRONT_MATTER = {
    "yaml": re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE),
    "toml": re.compile(r"\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE),
}

_MARKDOWN_HEADING = re.compile(
    r"^ {0,3}(?:"
    r"(?P<fence>```+|~~~+)"
    r"|(?P<marks>\#{1,6})[ \t]+(?P<atx>[^\n]*)$"
    r"|(?P<setext>[^\s\#>|<`~*+-][^\n]*)\n {0,3}(?P<line>=+|-{2,})[ \t]*$"
    r"|<h(?P<level>[1-6])\b[^>]{0,1000}>(?P<html>.{0,1000}?)</h[1-6]>"
    r")",
    re.MULTILINE | re.DOTALL,
)
_MARKDOWN_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
# Backslash escapes keep their character; emphasis, inline HTML and "{#id}" go.
_MARKDOWN_MARKS = re.compile(
    r"\\([!-/:-@\[-`{-~])|\*+|(?<!\w)_+|_+(?!\w)|\s*\{#[^}]*\}\s*$"
    r"|</?(?:a|b|br|code|em|i|img|kbd|p|picture|small|source|span|strong|sub|sup)\b[^>]*>"
)
_RST_ROLE = re.compile(r":[\w:.+-]+:`[!~]?([^`<]*?)(?:\s*<[^`]*>)?`")
_ADORNMENT = r"(?:={3,}|-{3,}|~{3,}|\^{3,}|\*{3,}|\#{3,}|\+{3,}|\"{3,}|'{3,}|`{3,}|:{3,}|_{3,})"
_RST_TITLE = re.compile(
    rf"^(?:{_ADORNMENT}[ \t]*\n[ \t]*(?P<over>[^\s][^\n]*)|(?P<under>[^\s.][^\n]*))\n"
    rf"(?P<line>{_ADORNMENT})[ \t]*$",
    re.MULTILINE,
)
_ASCIIDOC_TITLE = re.compile(r"\A\s*=[ \t]+([^\n]+)$", re.MULTILINE)


def read_text(text: str) -> Content:
    """Read plain text; its title is a first line that is underlined, or AsciiDoc's `= Title`."""
    start = text[:1_000].lstrip("\n")
    found = _RST_TITLE.match(start)
    title = _rst_heading(found) if found else None
    if title is None and (marked := _ASCIIDOC_TITLE.match(start)):
        title = clean_title(marked[1])
    return Content(text=text, title=title, first_line=1)


def read_markdown(text: str) -> Content:
    """Read Markdown: front matter in YAML or TOML becomes metadata, the rest is the text.

    Front matter that cannot be read stays in the text.
    """
    metadata, body_start = _front_matter(text)
    body = text[body_start:]
    stated = metadata.pop("title", None)
    return Content(
        text=body,
        title=clean_title(str(stated)) if stated else markdown_title(body),
        format="markdown",
        metadata=metadata,
        first_line=1 + text.count("\n", 0, body_start),
    )


def read_rst(text: str) -> Content:
    """Read reStructuredText; its title is that of the first section."""
    titles = (_rst_heading(found) for found in _RST_TITLE.finditer(text))
    return Content(text=text, title=next(filter(None, titles), None), format="rst", first_line=1)


def read_code(text: str, source: str) -> Content:
    """Read source code; its title is the file's name.

    Raises:
        DocumentError: It is minified.
    """
    lines = text.count("\n") + 1
    if len(text) > _MINIFIED_CHARS and len(text) / lines > _MINIFIED_LINE_CHARS:
        raise DocumentError("minified or generated code", stale=True)
    name = file_name(source)
    language = _LANGUAGES.get(extension(name))
    return Content(text=text, title=name, format="code", language=language, first_line=1)


def is_code(source: str) -> bool:
    """Whether a file's name is one of source code or configuration."""
    return extension(source) in _LANGUAGES or file_name(source) in _CODE_NAMES


def markdown_title(text: str) -> str | None:
    """Return the first heading of level 1 of a Markdown text, or else its first heading."""
    first = None
    for level, heading in _markdown_headings(text):
        title = clean_title(_plain_markdown(heading))
        if title and level == 1:
            return title
        first = first or title
    return first


def _markdown_headings(text: str) -> Iterator[tuple[int, str]]:
    position = 0
    while found := _MARKDOWN_HEADING.search(text, position):
        position = found.end()
        if fence := found["fence"]:
            close = re.compile(rf"^ {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
            end = close.search(text, text.find("\n", position) + 1 or len(text))
            position = end.end() if end else len(text)
        elif found["marks"]:
            yield len(found["marks"]), _without_closing_marks(found["atx"])
        elif found["setext"]:
            yield 1 if found["line"].startswith("=") else 2, found["setext"]
        else:
            yield int(found["level"]), found["html"]


def _without_closing_marks(heading: str) -> str:
    """Return what "# Heading ##" says; the mark of "# C#" is a part of it."""
    bare = heading.rstrip(" \t").rstrip("#")
    return bare if not bare or bare[-1] in " \t" else heading


def _plain_markdown(heading: str) -> str:
    """Return a heading without its marks; what is in code spans stays as it is."""
    parts = re.split(r"`+", heading[:_MAX_HEADING_CHARS])
    parts[::2] = [_MARKDOWN_MARKS.sub(r"\1", _MARKDOWN_LINK.sub(r"\1", p)) for p in parts[::2]]
    return "".join(parts)


def _rst_heading(found: re.Match[str]) -> str | None:
    """Return the title that an adornment underlines, None if it is too short to be one."""
    title = (found["over"] or found["under"]).strip()
    if len(found["line"]) < min(len(title), 4) or re.fullmatch(_ADORNMENT, title):
        return None
    # A table's rule may stand below a row; a title's line is about as long as the title.
    if len(found["line"]) < len(title) - 2:
        return None
    return clean_title(_RST_ROLE.sub(r"\1", title[:_MAX_HEADING_CHARS]).replace("`", ""))


def _front_matter(text: str) -> tuple[dict[str, Any], int]:
    """Return the metadata and where the body begins; ({}, 0) if there is no front matter."""
    head = text[:_MAX_FRONT_MATTER_CHARS]
    for language, pattern in _FRONT_MATTER.items():
        if not (found := pattern.match(head)):
            continue
        try:
            values = yaml.safe_load(found[1]) if language == "yaml" else tomllib.loads(found[1])
            if isinstance(values, dict):
                return _plain_mapping(values), found.end()
        except _YAML_ERRORS:  # tomllib's errors are among them
            pass
    return {}, 0


def _plain_mapping(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return front matter as JSON-like values.

    Raises:
        ValueError: It is too large or too deep to be about the file (a YAML bomb, a loop).
    """
    budget = iter(range(_MAX_METADATA_VALUES))

    def plain(value: Any, depth: int) -> Any:
        if next(budget, None) is None or depth > _MAX_METADATA_DEPTH:
            raise ValueError("front matter is too large")
        if isinstance(value, Mapping):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [plain(item, depth + 1) for item in value]
        if isinstance(value, date | datetime | time):
            return value.isoformat()
        return _plain_scalar(value)

    result = plain(values, 0)
    assert isinstance(result, dict)  # noqa: S101  (for the type checker)
    return result


def _plain_scalar(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and value - value == 0:  # finite
        return value
    return str(value)
