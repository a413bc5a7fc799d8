"""The two files of the Batch API: requests out, results in, one JSON object a line."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ragkit.chunks import Chunk
from ragkit.embeddings import Vectors, checked_vectors
from ragkit.errors import EmbeddingError
from ragkit.gemini.batch_state import BatchPart, JobFolder
from ragkit.schema import chunk_hash

# The service takes files of 2 GB, and its answer is a file as well: a number of a vector has up
# to 22 characters there. Half of that each, and no more requests than are worth losing at once.
MAX_FILE_BYTES = 1_000_000_000
MAX_REQUESTS = 50_000
_RESULT_BYTES_PER_NUMBER = 22
_RESULT_BYTES = 200  # of a line, beside the numbers

# Kept with their text to verify the answer; which of them are checked is drawn later.
SAMPLE_SIZE = 50

_TWICE = "the service returned more than one result under this key"
_MISSING = "the service returned no result for it"


def request_key(title: str, text: str) -> str:
    """The key of a request: the hash of the chunk that is embedded with this title and text.

    It names the content, so a vector can never serve a text other than the one it was made of,
    whatever has become of the file since.
    """
    return chunk_hash(Chunk(source="", ordinal=0, text=text, start=0, end=0, title=title))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """A text to be embedded.

    Attributes:
        source: The document it was first found in.
        tokens: Estimated, the title's included.
        body: The request as the service reads it.
    """

    key: str
    source: str
    title: str
    text: str
    tokens: int
    body: Mapping[str, Any]


class PartsWriter:
    """Writes requests to files, beginning another where one is full.

    Args:
        folder: Where to.
        job_id: Begins the labels of the parts.
        dim: The width of the vectors asked for.
    """

    def __init__(self, folder: JobFolder, *, job_id: str, dim: int) -> None:
        self.parts: list[BatchPart] = []
        self._folder = folder
        self._job_id = job_id
        per_result = dim * _RESULT_BYTES_PER_NUMBER + _RESULT_BYTES
        self._max_requests = max(1, min(MAX_REQUESTS, MAX_FILE_BYTES // per_result))
        self._open: _OpenPart | None = None

    def add(self, request: BatchRequest) -> None:
        """Write one request."""
        line = json.dumps({"key": request.key, "request": request.body}) + "\n"
        part = self._open
        if part is not None and (
            part.requests == self._max_requests or part.size + len(line) > MAX_FILE_BYTES
        ):
            self.close()
            part = None
        if part is None:
            label = f"ragkit-{self._job_id}-{len(self.parts):03}"
            part = self._open = _OpenPart(self._folder, len(self.parts), label)
        part.add(request, line)

    def close(self) -> None:
        """Finish the file under way."""
        if self._open is not None:
            self.parts.append(self._open.finish())
            self._open = None


class _OpenPart:
    def __init__(self, folder: JobFolder, number: int, label: str) -> None:
        self.requests = self.size = self._tokens = 0
        self._folder = folder
        self._number = number
        self._sample: list[tuple[str, str, str]] = []
        self._label = label
        self._random = random.Random(label)  # noqa: S311  (a sample, not a secret)
        # ASCII throughout: a character's escape is its length in bytes.
        self._lines: IO[str] = folder.requests(number).open("w", encoding="ascii")
        self._keys: IO[str] = folder.keys_path(number).open("w", encoding="ascii")

    def add(self, request: BatchRequest, line: str) -> None:
        self._lines.write(line)
        self._keys.write(json.dumps([request.key, request.source]) + "\n")
        self.requests += 1
        self.size += len(line)
        self._tokens += request.tokens
        self._consider((request.key, request.title, request.text))

    def finish(self) -> BatchPart:
        self._lines.close()
        self._keys.close()
        self._folder.write_sample(self._number, self._sample)
        return BatchPart(
            label=self._label,
            state="prepared",
            requests=self.requests,
            tokens=self._tokens,
            size_bytes=self.size,
        )

    def _consider(self, request: tuple[str, str, str]) -> None:
        """Keep it with such a chance that in the end all were equally likely (reservoir)."""
        if len(self._sample) < SAMPLE_SIZE:
            self._sample.append(request)
        elif (place := self._random.randrange(self.requests)) < SAMPLE_SIZE:
            self._sample[place] = request


@dataclass(slots=True, kw_only=True)
class Results:
    """What a file of results holds.

    Attributes:
        vectors: Unit vectors, a row for each key in the order asked for; NaN where there is none.
        failed: Why there is none, by key.
        foreign: Lines with a key that nobody asked for, or with none.
        repeated: Keys that came more than once.
        billed_tokens: The sum of what the lines say; None where a good one does not say.
    """

    vectors: Vectors
    failed: dict[str, str] = field(default_factory=dict)
    foreign: int = 0
    repeated: int = 0
    billed_tokens: int | None = 0

    @property
    def suspect(self) -> bool:
        """Whether the service mixed up keys: then more of its answer wants to be verified."""
        return bool(self.foreign or self.repeated)


def read_results(path: Path, keys: Mapping[str, str], vectors: Vectors) -> Results:
    """Join a file of results, in whatever order, to the keys that were asked for.

    Args:
        path: The file.
        keys: The keys asked for, in the order of the rows.
        vectors: Is filled; shape (len(keys), dim).
    """
    rows = {key: row for row, key in enumerate(keys)}
    results = Results(vectors=vectors)
    seen: Counter[str] = Counter()
    vectors[:] = np.nan
    with path.open("rb") as lines:
        for line in filter(None, map(bytes.strip, lines)):
            result = _parsed(line)
            key = result.get("key")
            if not isinstance(key, str) or key not in rows:
                results.foreign += 1
                continue
            seen[key] += 1
            _take(result, key, vectors[rows[key]], results)
    for key, row in rows.items():
        if seen[key] != 1:
            vectors[row] = np.nan
            results.failed[key] = _TWICE if seen[key] else _MISSING
    results.repeated = sum(count > 1 for count in seen.values())
    return results


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        return {}
    return value if isinstance(value, dict) else {}


def _take(result: Mapping[str, Any], key: str, row: Vectors, results: Results) -> None:
    try:
        values, tokens = _embedding(result)
        row[:] = checked_vectors([values], shape=(1, len(row)), origin="the result")[0]
    except EmbeddingError as exc:
        results.failed[key] = str(exc)
        return
    if tokens is None or results.billed_tokens is None:
        results.billed_tokens = None
    else:
        results.billed_tokens += tokens


def _embedding(result: Mapping[str, Any]) -> tuple[Any, int | None]:
    """The numbers and the token count of a result.

    Raises:
        EmbeddingError: It is an error, or something else without numbers.
    """
    if (error := result.get("error")) is not None:
        raise EmbeddingError(error_text(error))
    response = result.get("response")
    try:
        values = response["embedding"]["values"]  # type: ignore[index]
    except (KeyError, TypeError):
        raise EmbeddingError("expected an embedding or an error, the result has neither") from None
    tokens = response.get("tokenCount") if isinstance(response, dict) else None
    # 64-bit integers are strings in Google's JSON.
    return values, int(str(tokens)) if str(tokens).isdecimal() else None


def error_text(error: object) -> str:
    """What a `google.rpc.Status` says, in one line."""
    if not isinstance(error, dict):
        return str(error)[:300]
    said = str(error.get("message") or "no message")[:300]
    code = error.get("status") or error.get("code")
    return f"{said} ({code})" if code else said
