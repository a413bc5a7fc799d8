"""Bytes become text: what is binary, and which encoding the rest is in."""

from __future__ import annotations

import codecs
import re

from ragkit.errors import DocumentError

_SAMPLE_BYTES = 1 << 16

# Longest first: UTF-32's mark begins with UTF-16's.
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# First bytes of common binary files, none of which a text begins with (as it may with "GIF89a");
# the others are told by their control characters.
_MAGIC = (
    b"\x7fELF",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"\xca\xfe\xba\xbe",
    b"\xcf\xfa\xed\xfe",
    b"\x00asm",
    b"SQLite format 3\x00",
)

# Control characters that no text has; tab, line ends, form feed, backspace (man pages) and
# escape (terminal colours, ISO-2022) are left out.
_CONTROLS = bytes(set(range(32)) - {8, 9, 10, 11, 12, 13, 27}) + b"\x7f"

# A file that is UTF-8 throughout may hold stray NULs (a log cut off by a crash) and is still
# text; one that is not gets less credit. Compressed data has about 10 percent.
_MAX_CONTROLS_UTF8 = 0.05
_MAX_CONTROLS = 0.01

# Encodings in use before UTF-8. charset-normalizer's full list of ninety, with its DOS, Mac and
# EBCDIC pages, is slower and more often wrong.
_LEGACY = (
    "big5",
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp932",
    "cp949",
    "euc_jp",
    "gb18030",
    "iso8859_2",
    "iso8859_5",
    "koi8_r",
)
_LATIN = ("cp1250", "cp1252", "cp1254", "iso8859_2")
# The letters beyond ASCII that are common in Western Europe.
_WESTERN = frozenset("àâãåæçèêëìîïñòôøùûÿœßÀÂÃÅÆÇÈÊËÌÎÏÑÒÔØÙÛŸŒáéíóöúüäÁÉÍÓÖÚÜÄªº")
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
# Letters and quotation marks in Windows' encodings, unused in ISO's.
_C1_BYTES = re.compile(rb"[\x80-\x9f]")


def is_binary(head: bytes) -> bool:
    """Tell from the first bytes of a file whether it is binary.

    Args:
        head: The whole file, or its first few kilobytes.
    """
    if head.startswith(_MAGIC):
        return True
    sample = head[:_SAMPLE_BYTES]
    if _unicode_mark(sample) or _unmarked_utf16(sample):
        return False
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if not controls:
        return False
    limit = _MAX_CONTROLS_UTF8 if _is_utf8(sample) else _MAX_CONTROLS
    return controls > limit * len(sample)


def decode(raw: bytes, *, declared: str | None = None) -> str:
    r"""Decode a text file; line ends become "\n", a byte order mark is dropped.

    In order: byte order mark, UTF-8, the declared encoding, UTF-8 with a few bad bytes (they
    become U+FFFD), detection.

    Args:
        raw: The whole file.
        declared: The encoding that the file claims for itself, as in HTML's `<meta charset>`.

    Raises:
        DocumentError: It is binary, or in no encoding that can be told.
    """
    text = _decode(raw, declared)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _decode(raw: bytes, declared: str | None) -> str:
    encoding = _unicode_mark(raw) or _unmarked_utf16(raw[:_SAMPLE_BYTES])
    if encoding is not None:
        text = raw.decode(encoding, "replace").removeprefix("\ufeff")
        if _strange_share(text[:_SAMPLE_BYTES]) > _MAX_CONTROLS_UTF8:
            raise DocumentError("binary file", stale=True)
        return text
    if is_binary(raw):
        raise DocumentError("binary file", stale=True)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        declared_text = _decode_as(raw, declared) if declared else None
        return declared_text or _decode_mostly_utf8(raw) or _decode_legacy(raw)


def _unicode_mark(raw: bytes) -> str | None:
    return next((encoding for bom, encoding in _BOMS if raw.startswith(bom)), None)


def _decode_as(raw: bytes, encoding: str) -> str | None:
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        return None
    if not getattr(codec, "_is_text_encoding", True):
        return None
    # Browsers read all of these names as Windows-1252.
    name = "cp1252" if codec.name in {"ascii", "iso8859-1"} else codec.name
    try:
        return raw.decode(name, "replace")
    except (UnicodeError, ValueError):
        return None


def _decode_mostly_utf8(raw: bytes) -> str | None:
    """Decode UTF-8 that was cut off or has other bytes mixed in; None if it is not UTF-8."""
    text = raw.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = len(_NON_ASCII.findall(text)) - bad
    return text if bad <= max(1, good // 2) and good > 0 else None


_NON_ASCII = re.compile(r"[^\x00-\x7f]")


def _decode_legacy(raw: bytes) -> str:
    encoding = _detect(raw)
    if encoding is None:
        raise DocumentError("unknown encoding: save it as UTF-8", stale=True)
    return raw.decode(encoding, "replace")


def _detect(raw: bytes) -> str | None:
    from charset_normalizer import from_bytes  # takes 60 ms to import, and is rarely needed

    for size in (1 << 14, 1 << 11):  # what is undecided over much text is often clear over less
        part = _telling_part(raw, size)
        latin = _is_latin(part)
        if latin and _is_western(part):
            return "cp1252"
        best = from_bytes(part, cp_isolation=list(_LATIN if latin else _LEGACY)).best()
        if best is not None and best.encoding in {"cp1250", "iso8859_2"}:
            return _central_or_western(part)
        if best is not None:
            return best.encoding
    return None


def _is_latin(part: bytes) -> bool:
    """Whether accented letters stand alone among plain ones, as in no other alphabet."""
    lines = [line for line in part.split(b"\n") if _HIGH_RUN.search(line)]
    runs = [len(run) for line in lines for run in _HIGH_RUN.findall(line)]
    return sum(runs) < 1.5 * len(runs) and 3 * sum(runs) <= sum(map(len, lines))


def _is_western(part: bytes) -> bool:
    letters = {c for c in part.decode("cp1252", "replace") if c > "\x7f" and c.isalnum()}
    # In Windows-1250 "õ" is Hungarian's common "ő"; Portuguese has "ã" with it.
    return letters <= _WESTERN or ("ã" in letters and letters <= _WESTERN | {"õ"})


def _central_or_western(part: bytes) -> str:
    """Tell apart three encodings that charset-normalizer takes for one another."""
    if _is_western(part):
        return "cp1252"
    return "cp1250" if _C1_BYTES.search(part) else "iso8859_2"


def _telling_part(raw: bytes, size: int) -> bytes:
    """Return about `size` bytes from the first line with non-ASCII characters on."""
    first = _HIGH_RUN.search(raw)
    start = raw.rfind(b"\n", 0, first.start()) + 1 if first else 0
    if first and first.start() - start > size:  # one endless line
        start = first.start()
    end = raw.find(b"\n", start + size)
    return raw[start : end if 0 <= end < start + 2 * size else start + size]


def _unmarked_utf16(sample: bytes) -> str | None:
    """Name the byte order of UTF-16 without a mark, which shows in where its NULs are."""
    pairs = len(sample) // 2
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    for many, few, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if pairs and many > 0.2 * pairs and few <= 0.01 * pairs:
            text = sample[: pairs * 2].decode(encoding, "replace")
            return encoding if _strange_share(text) <= _MAX_CONTROLS else None
    return None


def _strange_share(text: str) -> float:
    """Return how much of a text is neither printable nor white, or could not be decoded."""
    strange = sum(not (c.isprintable() or c.isspace()) or c == "\ufffd" for c in text)
    return strange / max(1, len(text))


def _is_utf8(sample: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(sample)  # not final: the sample may end within a character
    except UnicodeDecodeError:
        return False
    return True
