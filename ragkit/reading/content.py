"""What the readers of single formats return, and how titles are made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

# What converters read; see `converters`.
CONVERTED_EXTENSIONS = frozenset({".docx", ".epub", ".pdf", ".pptx", ".xlsm", ".xlsx"})

_BINARY = """
    .7z .a .aac .aif .aiff .apk .avi .avif .bin .bmp .bz2 .class .cur .db .deb .dll .dmg
    .doc .dylib .ear .eot .exe .fits .flac .flv .gif .gz .h5 .hdf5 .heic .icns .ico .img .iso
    .jar .jpeg .jpg .lz4 .lzma .m4a .m4v .mdb .mid .mkv .mo .mov .mp3 .mp4 .mpeg .mpg .msi .npy
    .npz .o .obj .odp .ods .odt .ogg .ogv .onnx .opus .otf .parquet .pickle .pkl .png .ppt .psd
    .pt .pth .pyc .pyd .pyo .rar .rpm .safetensors .so .sqlite .sqlite3 .swf .tar .tgz .tif
    .tiff .ttc .ttf .war .wasm .wav .webm .webp .whl .wma .wmv .woff .woff2 .xls .xz .zip
    .zst
"""
# Files of these extensions are not opened at all. What is not listed is told by its first bytes.
BINARY_EXTENSIONS = frozenset(_BINARY.split())

_MAX_TITLE_CHARS = 200

# A hyphen between digits belongs to a date or a version.
_NAME_JOINT = re.compile(r"_+|(?<!\d)-+|-+(?!\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file holds, as its reader found it.

    Attributes:
        text: As in `Document`, as are `format`, `language`, `metadata`, `first_line`, `pages`.
        title: What the file calls itself, or None if it does not say.
    """

    text: str
    title: str | None = None
    format: str = "text"
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_line: int | None = None
    pages: tuple[int, ...] = ()


def clean_title(title: str) -> str | None:
    """Make one line of a title, cut to 200 characters; None if it is blank."""
    text = " ".join(title[: 10 * _MAX_TITLE_CHARS].split())
    if len(text) > _MAX_TITLE_CHARS:
        text = text[: _MAX_TITLE_CHARS - 1].rstrip() + "…"
    return text or None


def join_pages(pages: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return one text, and where in it each page begins; a blank line stands between pages."""
    starts = []
    length = 0
    for page in pages:
        starts.append(length)
        length += len(page) + 2
    return "\n\n".join(pages), tuple(starts)


def readable_name(source: str) -> str:
    """Make a title of a file name: "notes/2024-03_key-rotation.md" → "2024-03 key rotation"."""
    name = file_name(source)
    stem = name.removesuffix(PurePosixPath(name).suffix)
    words = " ".join(_NAME_JOINT.sub(" ", stem).split())
    return words or " ".join(name.split()) or "untitled"


def file_name(source: str) -> str:
    """Return the last part of a source: "src/main.py" → "main.py"."""
    return PurePosixPath(source).name or source


def extension(source: str) -> str:
    """Return an extension in lower case with its dot; that of Sphinx's "x.rst.txt" is ".rst"."""
    name = source.lower()
    if name.endswith(".rst.txt"):
        return ".rst"
    stem, dot, suffix = name[name.rfind("/") + 1 :].rpartition(".")
    return dot + suffix if stem else ""
