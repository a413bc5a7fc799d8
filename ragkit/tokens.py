"""How many tokens a text has, estimated: no tokenizer is loaded, none is called.

Every character has a weight and a text weighs the sum of its characters. Once the running sum
over a document is known, any span of it is measured by one subtraction, and a part never counts
more than the whole.

The weights are set so that an estimate is rather too high than too low against vocabularies of
100,000 tokens and more, as today's embedding models have them, and against BERT's for English
and code. Older and smaller vocabularies need up to half as many tokens again for other scripts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

# No character is estimated at more tokens: the smallest limit that holds any one of them.
CHARACTER_TOKENS = 4

_UNIT = 64  # weights are whole 64ths of a token: sums are exact, whatever their order
_BLOCK = 1 << 20  # characters converted at a time, which bounds the temporary arrays

# Tokens per character by range of code points; a later row overrides an earlier one.
_WEIGHTS: tuple[tuple[int, int, float], ...] = (
    (0x0000, 0xFFFF, 3.0),  # what is not named below: a token for each byte of UTF-8
    (0x10000, 0x10000, 4.0),  # and all that lies beyond: emoji, rare ideographs
    (0x0000, 0x001F, 1.0),  # control characters
    (ord("\t"), ord("\n"), 0.4),
    (ord("\r"), ord("\r"), 0.4),
    (ord(" "), ord(" "), 0.25),
    (0x0021, 0x007F, 0.95),  # punctuation
    (ord("0"), ord("9"), 1.15),  # Gemini's family of tokenizers takes digits one by one
    (ord("A"), ord("Z"), 0.7),
    (ord("a"), ord("z"), 0.22),
    (0x0080, 0x00BF, 1.2),
    (0x00C0, 0x024F, 1.1),  # Latin letters with marks
    (0x0250, 0x036F, 2.0),  # phonetic letters, combining marks
    (0x0370, 0x06FF, 0.5),  # Greek, Cyrillic, Armenian, Hebrew, Arabic
    (0x0900, 0x11FF, 0.7),  # the scripts of India and South-East Asia, Georgian
    (0x1E00, 0x1EFF, 1.3),  # Latin letters with two marks: Vietnamese
    (0x2010, 0x2027, 1.2),  # dashes, quotation marks, ellipsis
    (0x2030, 0x2BFF, 2.0),  # currencies, arrows, mathematics, shapes
    (0x2500, 0x259F, 1.0),  # lines and blocks
    (0x3000, 0x30FF, 0.9),  # kana and their punctuation
    (0x3400, 0x9FFF, 1.1),  # ideographs
    (0xAC00, 0xD7A3, 1.0),  # Hangul syllables
    (0xFF00, 0xFF60, 1.1),  # full-width forms
)

# Letters and digits that run on without a break are no word that a vocabulary holds: base64,
# hashes, compounds. From the thirteenth on each costs that much more.
_WORD = 12
_BEYOND_WORD = 0.4
_WORD_RANGES = ((ord("0"), ord("9")), (ord("A"), ord("Z")), (ord("a"), ord("z")), (0x00C0, 0x024F))


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too many than too few; 0 for the empty text."""
    return -(-sum(int(weights.sum()) for weights in _blocks(text)) // _UNIT)


class TokenIndex:
    """The running sum of a text's weights: the tokens of any span, without reading it again.

    A span that begins inside a run of letters counts as it does within the run, which is never
    less than what `estimate_tokens` gives for it alone.
    """

    def __init__(self, text: str) -> None:
        # 32 bits where they surely suffice: the index takes four bytes a character.
        heaviest = len(text) * CHARACTER_TOKENS * _UNIT
        sums = np.zeros(len(text) + 1, np.uint32 if heaviest < 2**32 else np.uint64)
        done = 0
        for weights in _blocks(text):
            part = sums[done + 1 : done + 1 + len(weights)]
            np.cumsum(weights, out=part)
            np.add(part, sums[done], out=part)
            done += len(weights)
        self._sums = memoryview(sums.data)  # gives plain integers, faster than numpy's scalars

    def count(self, start: int, end: int) -> int:
        """The tokens of `text[start:end]`, never fewer than `estimate_tokens` of it."""
        return -((self._sums[start] - self._sums[end]) // _UNIT)

    def forward(self, start: int, tokens: int) -> int:
        """The greatest end for which `text[start:end]` has at most that many tokens."""
        return bisect_right(self._sums, self._sums[start] + tokens * _UNIT, lo=start) - 1

    def backward(self, end: int, tokens: int) -> int:
        """The least start for which `text[start:end]` has at most that many tokens."""
        return bisect_left(self._sums, self._sums[end] - tokens * _UNIT, hi=end)


def _blocks(text: str) -> Iterator[NDArray[np.uint16]]:
    """The weight of each character, a block of the text at a time."""
    weight, in_word = _tables()
    run = 0  # the letters and digits that the blocks before end in, without a break
    for at in range(0, len(text), _BLOCK):
        codes = _codes(text[at : at + _BLOCK])
        weights = weight[codes]
        # Numbered from 1, each character's distance to the last that breaks a run.
        places = np.arange(1, len(codes) + 1, dtype=np.int32)
        breaks = np.maximum.accumulate(np.where(in_word[codes], np.int32(-run), places))
        runs = places - breaks
        weights[runs > _WORD] += np.uint16(_BEYOND_WORD * _UNIT)
        run = int(runs[-1])
        yield weights


def _codes(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    """The code points, those beyond the first plane all as its successor."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    # Lone surrogates pass: a broken character has a weight like any other.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    return np.minimum(codes, np.uint32(0x10000))


@cache
def _tables() -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """By code point: the weight, and whether it is a letter or digit of a Latin word."""
    weight = np.empty(0x10001, np.uint16)
    for first, last, tokens in _WEIGHTS:
        weight[first : last + 1] = round(tokens * _UNIT)
    in_word = np.zeros(0x10001, np.bool_)
    for first, last in _WORD_RANGES:
        in_word[first : last + 1] = True
    return weight, in_word
