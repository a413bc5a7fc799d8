"""Texts to vectors: from words alone, but with all that the models' callers have to know.

The vectors are the same in every process. Texts that share words are near; a vector depends on
the task type and the title, or on the prefix, as the model's conditioning has it; a narrow vector
is the beginning of the full one; what lies beyond the model's limit is not read, silently.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.int32]

# Every number of a vector is a whole multiple of 1 / SCALE, so that its text comes from a table.
SCALE = 100_000
# With its comma and the white space that the API indents with, about what the real ones take:
# 6.8 MB for 100 vectors of 3,072 numbers.
_NUMBER_WIDTH = 22

_FULL_DIM = 3072
_WORD_FEATURES = 24  # numbers that a word adds to; half of them lie below 768
_STEM = 5  # characters
_TITLE_WEIGHT = 0.6
_TASK_WEIGHT = 0.35
_TOKEN = re.compile(r"[A-Za-z]{1,6}|\S")
_WORD = re.compile(r"\w+")
_PREFIX = re.compile(r"(task: [^|]*) \| query: (.*)|title: ([^|]*) \| text: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is in service.

    Attributes:
        max_tokens: What it reads of a text.
        prefixed: Conditioned by a text prefix; `taskType` and `title` change nothing.
        always_unit: Every vector has length 1; otherwise only those of the full width.
    """

    name: str
    max_tokens: int
    prefixed: bool
    always_unit: bool
    min_dim: int = 128
    max_dim: int = _FULL_DIM


MODELS = {
    model.name: model
    for model in (
        Model(name="gemini-embedding-001", max_tokens=2048, prefixed=False, always_unit=False),
        Model(name="gemini-embedding-2", max_tokens=8192, prefixed=True, always_unit=True),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One text to embed, as the API was asked to.

    Attributes:
        tokens: What is read of text and title, and billed.
    """

    model: Model
    text: str
    task_type: str
    title: str
    dim: int
    tokens: int


def count_tokens(text: str) -> int:
    """The stand-in's own tokens: up to six letters, or any other character that is no space."""
    return len(_TOKEN.findall(text))


def tokens_read(model: Model, text: str, title: str) -> int:
    """What a model reads of a text, with the title if the model takes one."""
    in_title = 0 if model.prefixed else count_tokens(title)
    return min(in_title + count_tokens(text), model.max_tokens)


def embed(ask: Ask) -> Levels:
    """The vector of a text in multiples of 1 / SCALE; shape (ask.dim,)."""
    task, title, text = _conditioning(ask)
    vector = _direction(ask.model.name, task, title, text)[: ask.dim]
    if ask.model.always_unit:
        vector = vector / np.linalg.norm(vector)
    return np.asarray(np.rint(vector * SCALE), dtype=np.int32)


def numbers_json(levels: Levels) -> bytes:
    """The numbers of a vector with commas between them."""
    return _number_texts()[levels + SCALE].tobytes()[:-1]


def embeddings_json(asks: list[Ask]) -> bytes:
    """The reply to `batchEmbedContents`."""
    vectors = b",".join(b'{"values":[%b]}' % numbers_json(embed(ask)) for ask in asks)
    tokens = sum(ask.tokens for ask in asks)
    return b'{"embeddings":[%b],"usageMetadata":{"promptTokenCount":%d}}' % (vectors, tokens)


def embedding_json(ask: Ask) -> bytes:
    """The reply to `embedContent`."""
    numbers = numbers_json(embed(ask))
    return b'{"embedding":{"values":[%b]},"usageMetadata":{"promptTokenCount":%d}}' % (
        numbers,
        ask.tokens,
    )


def _conditioning(ask: Ask) -> tuple[str, str, str]:
    """Task, title and text as the model takes them, cut at what it reads."""
    limit = ask.model.max_tokens
    if not ask.model.prefixed:
        return ask.task_type, ask.title, _cut(ask.text, limit - count_tokens(ask.title))
    text = _cut(ask.text, limit)
    if (found := _PREFIX.fullmatch(text)) is None:
        return "", "", text
    task, query, title, passage = found.groups()
    if task is not None:
        return task, "", query
    return "document", "" if title == "none" else title, passage


def _cut(text: str, tokens: int) -> str:
    if len(text) <= tokens:  # a token has a character at least
        return text
    for i, found in enumerate(_TOKEN.finditer(text)):
        if i == tokens:
            return text[: found.start()]
    return text


def _direction(model: str, task: str, title: str, text: str) -> NDArray[np.float64]:
    """The full vector, of length 1."""
    counts = Counter(_WORD.findall(text.lower())) or Counter([text])
    said = Counter(_WORD.findall(title.lower()))
    # Repetition says ever less; a word of the title that is in the text as well counts twice.
    weights = np.sqrt(np.array([*counts.values(), *said.values()], np.float64))
    weights[len(counts) :] *= _TITLE_WEIGHT
    places, values = _vocabulary(model).features([*counts, *said])
    values = values * weights[:, None]
    content = np.bincount(places.ravel(), values.ravel(), minlength=_FULL_DIM)
    vector = content / (np.linalg.norm(content) or 1.0) + _TASK_WEIGHT * _dense(f"{model} {task}")
    return np.asarray(vector / np.linalg.norm(vector))


class _Vocabulary:
    """What each word adds to a vector of one model: to which places, and how much.

    Half of a word's features are its own; half belong to its beginning, which it shares with its
    inflections. Low places are likelier than high ones, so that narrow vectors still rank well.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._places = np.zeros((1024, 2 * _WORD_FEATURES), np.int16)
        self._values = np.zeros((1024, 2 * _WORD_FEATURES), np.float32)

    def features(self, words: list[str]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Places and values of the words' features; both of shape (words, features)."""
        with self._lock:
            if new := [word for word in dict.fromkeys(words) if word not in self._rows]:
                self._learn(new)
            rows = [self._rows[word] for word in words]
            return self._places[rows], self._values[rows]

    def _learn(self, words: list[str]) -> None:
        known, total = len(self._rows), len(self._rows) + len(words)
        while total > len(self._places):
            self._places = np.concatenate([self._places, np.zeros_like(self._places)])
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        names = [f"{self._model} {part}" for word in words for part in (word, f"{word[:_STEM]}-")]
        bits = _random_bits(names, _WORD_FEATURES).reshape(len(words), -1)
        uniform = (bits >> np.uint64(11)) / 2.0**53
        signs = np.where(bits & np.uint64(1), 1.0, -1.0)
        # Long words say more than short ones.
        weights = np.array([min(len(word), 7) for word in words])
        self._places[known:total] = uniform**2 * _FULL_DIM
        self._values[known:total] = signs * weights[:, None]
        self._rows.update(zip(words, range(known, total), strict=True))


@cache
def _vocabulary(model: str) -> _Vocabulary:
    return _Vocabulary(model)


@cache
def _dense(name: str) -> NDArray[np.float64]:
    """A direction of its own for each name, with no zeros in it; length 1."""
    uniform = (_random_bits([name], _FULL_DIM)[0] >> np.uint64(11)) / 2.0**52 - 1.0
    return np.asarray(uniform / np.linalg.norm(uniform))


def _random_bits(names: list[str], count: int) -> NDArray[np.uint64]:
    """SplitMix64 seeded with each name: the same in every process and under every NumPy."""
    digests = (
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8) for name in names
    )
    seeds = np.frombuffer(b"".join(digest.digest() for digest in digests), "<u8")
    steps = np.arange(1, count + 1, dtype=np.uint64)
    z = seeds[:, None] + steps * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


@cache
def _number_texts() -> NDArray[np.bytes_]:
    """The JSON of every multiple of 1 / SCALE from -1 to 1, all of one width, each with a comma."""
    levels = np.arange(-SCALE, SCALE + 1)
    texts = np.full((len(levels), _NUMBER_WIDTH), ord(" "), np.uint8)
    for back, unit in enumerate(10 ** np.arange(5), 2):
        texts[:, -back] = ord("0") + abs(levels) // unit % 10
    texts[:, -1], texts[:, -7] = ord(","), ord(".")
    texts[:, -8] = ord("0") + (abs(levels) == SCALE)
    texts[:SCALE, -9] = ord("-")
    return texts.view(f"S{_NUMBER_WIDTH}").ravel()
