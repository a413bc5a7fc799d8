"""The queries of a measurement: from a file, or passages of the collection itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragkit.benchmark.originals import Originals
from ragkit.benchmark.rows import MeasureCallback
from ragkit.embeddings import Embedder, Vectors, check_queries, embed_queries
from ragkit.errors import CollectionMismatch
from ragkit.pipeline import batched

_EMBEDDED_AT_ONCE = 256  # queries
_KINDS = (".jsonl", ".ndjson", ".tsv", ".txt", ".npy")
_ID_KEYS = ("_id", "id", "query_id", "query-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """What is searched for.

    Attributes:
        vectors: Shape (q, dim), float32, of unit length.
        texts: The questions; None where only vectors are known.
        own: For each the id of the point that it was taken from, which is not counted among what
            is found; None for queries from outside.
        origin: Where they are from, in a sentence for the report.
    """

    vectors: Vectors
    texts: Sequence[str] | None = None
    own: Sequence[str] | None = None
    origin: str

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, rows: Sequence[int]) -> Queries:
        """Some of them, by their numbers."""
        return Queries(
            vectors=self.vectors[list(rows)],
            texts=None if self.texts is None else [self.texts[row] for row in rows],
            own=None if self.own is None else [self.own[row] for row in rows],
            origin=self.origin,
        )


def sample_queries(originals: Originals, size: int, *, seed: int = 0) -> Queries:
    """Passages drawn at random, as queries: each searches for its neighbours, not for itself.

    Args:
        originals: The vectors of the collection.
        size: How many; all of them if there are fewer.
        seed: Of the draw.

    Raises:
        ValueError: Fewer than two passages to choose from, or no number of queries.
    """
    count = len(originals.ids)
    if size < 1:
        raise ValueError(f"expected a sample of at least 1 query, got {size}")
    if count < 2:
        raise ValueError("one passage has no neighbours to find: index more, or bring queries")
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:size])
    return Queries(
        vectors=np.ascontiguousarray(originals.vectors[rows]),
        own=[originals.ids[row] for row in rows],
        origin=(
            f"{len(rows):,} of the collection's own passages, drawn at random (seed {seed}), each "
            "held out from its own hits. Questions in people's words lie farther from the "
            "passages, and their recall is usually lower: measure with --queries where you have "
            "some"
        ),
    )


def read_queries(path: str | Path, embedder: Embedder | None, dim: int) -> Queries:
    """Read queries from a file and embed them, or read them as vectors.

    Args:
        path: `.npy` with an array of shape (q, dim); `.jsonl` with an object with a "text" on each
            line; `.tsv` with a query's id and its text, with or without a header; `.txt` with
            a query on each line.
        embedder: Of the collection; not needed for vectors.
        dim: The width of the collection's vectors.

    Raises:
        ValueError: The file holds no queries, or not in that form; the message names the line.
        CollectionMismatch: There are texts, and no embedder.
    """
    path = Path(path)
    if _kind(path) == ".npy":
        vectors = read_vectors(path, dim=dim)
        return Queries(vectors=vectors, origin=f"{len(vectors):,} query vectors of {path.name}")
    texts = list(read_texts(path).values())
    if embedder is None:
        raise CollectionMismatch(
            f"the queries of {path.name} have to be embedded as the collection's passages were, "
            "and there is no embedder: pass it, or query vectors in a .npy file"
        )
    return Queries(
        vectors=embedded(embedder, texts),
        texts=texts,
        origin=f"{len(texts):,} queries of {path.name}, embedded by {embedder.fingerprint}",
    )


def embedded(
    embedder: Embedder, texts: Sequence[str], *, progress: MeasureCallback | None = None
) -> Vectors:
    """The vectors of questions, embedded some at a time.

    Raises:
        ValueError: A question is blank or too long; nothing was embedded.
    """
    check_queries(embedder, texts)
    parts: list[Vectors] = []
    for some in batched(texts, _EMBEDDED_AT_ONCE):
        parts.append(embed_queries(embedder, some))
        if progress is not None:
            progress("embedding queries", sum(map(len, parts)), len(texts))
    return np.concatenate(parts)


def read_texts(path: Path) -> dict[str, str]:
    """The texts of a file of queries by their ids; without ids these are the line numbers.

    Args:
        path: As for `read_queries`, but no vectors.

    Raises:
        ValueError: A line is not of that form, an id comes twice, or there is no text at all.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or (number == 1 and _is_header(path, line)):
            continue
        try:
            query_id, text = _entry(path, line, number)
        except ValueError as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from exc
        if query_id in texts:
            raise ValueError(f"{path}, line {number}: the id {query_id!r} has come before")
        texts[query_id] = text
    if not texts:
        raise ValueError(f"{path} holds no queries")
    return texts


def read_vectors(path: str | Path, *, dim: int | None = None) -> Vectors:
    """Read vectors from a `.npy` file, as float32 of unit length.

    Args:
        path: An array of numbers of shape (n, dim).
        dim: How wide they must be; None for any.

    Raises:
        ValueError: It is no such array, or a row is zero or not finite.
    """
    path = Path(path)
    try:
        # Not np.load: it takes an .npz, too, and advises to unpickle what is neither.
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as exc:
        raise ValueError(f"{path} is no array in NumPy's .npy format: {exc}") from exc
    if (
        array.ndim != 2
        or array.dtype.kind not in "fiu"
        or (dim is not None and array.shape[1] != dim)
    ):
        wanted = "(n, dim)" if dim is None else f"(n, {dim})"
        raise ValueError(
            f"expected {path} to hold numbers of shape {wanted}, got {array.dtype} of {array.shape}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as not finite
        return unit(np.asarray(array, np.float32), origin=str(path))


def unit(vectors: Vectors, *, origin: str) -> Vectors:
    """The vectors at unit length.

    Raises:
        ValueError: There is none, or one is zero or not finite.
    """
    if not len(vectors):
        raise ValueError(f"{origin} holds no vectors")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise ValueError(
            f"{origin}: {len(bad):,} of {len(vectors):,} vectors are zero or not finite, the "
            f"first in row {bad[0]}: leave them out"
        )
    units: Vectors = (vectors / norms).astype(np.float32, copy=False)
    return units


def _kind(path: Path) -> str:
    """The form of a file, by its ending.

    Raises:
        ValueError: It is none of those that are read here.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise ValueError(
            f"expected queries in a file that ends in {', '.join(_KINDS)}, got {path.name!r}"
        )
    return kind


def _lines(path: Path) -> list[str]:
    try:
        # Only real line ends: a text may hold what str.splitlines() also breaks at, and a carriage
        # return of its own, which `read_text` would take for one.
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path} is no UTF-8 text: {exc}") from exc


def _is_header(path: Path, line: str) -> bool:
    """Whether a first line names its columns, as judgements in the layout of BEIR do."""
    return _kind(path) == ".tsv" and line.partition("\t")[0].strip().lower() in _ID_KEYS


def _entry(path: Path, line: str, number: int) -> tuple[str, str]:
    if _kind(path) in (".jsonl", ".ndjson"):
        return _json_entry(line, number)
    if _kind(path) == ".tsv":
        query_id, tab, text = line.partition("\t")
        if not tab or not text.strip() or not query_id.strip():
            raise ValueError("expected a query's id, a tab and its text")
        return query_id.strip(), text.strip()
    return str(number), line.strip()


def _json_entry(line: str, number: int) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"expected an object in JSON: {exc}") from exc
    text = row.get("text") if isinstance(row, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError('expected an object with a "text", such as {"_id": "q1", "text": "…"}')
    query_id = next((row[key] for key in _ID_KEYS if key in row), number)
    if isinstance(query_id, bool) or not isinstance(query_id, str | int) or query_id == "":
        raise ValueError(f"expected an id that is a text or a whole number, got {query_id!r}")
    return str(query_id), text
