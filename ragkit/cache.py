"""An embedder that remembers: vectors already paid for come from a SQLite file."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from ragkit.embeddings import (
    AsyncEmbedder,
    AsyncQueryBatchEmbedder,
    Embedder,
    Vectors,
    aembed_queries,
    aembed_query,
    check_queries,
    embed_documents,
    embed_queries,
    embed_query,
    readdressed,
)
from ragkit.errors import EmbedderUnavailable, EmbeddingError, TextsRefused

_MAX_VARIABLES = 500  # of one SQL statement; SQLite's own limit was 999 for long
_BUSY_TIMEOUT_S = 30.0
_LOCKED_S = 0.01  # between attempts where SQLite itself does not wait


class CachedEmbedder:
    """Wraps an embedder; asks it only for what the file at `path` does not hold yet.

    The key is a digest of fingerprint, side (document or query), title and text, so several
    embedders may share a file, and no text is stored in it. Safe for threads and for concurrent
    processes on one machine. A vector is stored as `dim` little-endian float32.

    Has `usage`, `forecast`, `aembed_query` and `aembed_queries` where the embedder has them. What
    it forecasts is for texts of which none is cached yet.
    """

    def __init__(self, embedder: Embedder, path: str | Path) -> None:
        self._embedder = embedder
        # Of the object and not of the class: who has coroutines is told by whether they are there.
        if hasattr(embedder, "aembed_query"):
            self.aembed_query = self._aembed_query
        if hasattr(embedder, "aembed_queries"):
            self.aembed_queries = self._aembed_queries
        self._path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @property
    def dim(self) -> int:
        """The wrapped embedder's."""
        return self._embedder.dim

    @property
    def max_tokens(self) -> int:
        """The wrapped embedder's."""
        return self._embedder.max_tokens

    @property
    def fingerprint(self) -> str:
        """The wrapped embedder's: a vector is the same whether it was cached or not."""
        return self._embedder.fingerprint

    def __getattr__(self, name: str) -> Any:
        if name in ("usage", "forecast"):
            return getattr(self._embedder, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"CachedEmbedder({self._embedder!r}, {str(self._path)!r})"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Embed what is not cached in one call, each distinct text once.

        Raises:
            EmbeddingError: From the embedder, or the file is no cache; nothing bad is cached.
        """
        pairs = list(zip(texts, titles, strict=True))

        def embed(missing: Sequence[int]) -> Vectors:
            own_texts, own_titles = zip(*(pairs[i] for i in missing), strict=True)
            return embed_documents(self._embedder, own_texts, titles=own_titles)

        return self._completed([self._key("document", *pair) for pair in pairs], embed)

    def embed_query(self, text: str) -> Vectors:
        """Embed a query, or recall it."""
        key = self._key("query", text)
        vectors = self._completed([key], lambda _: embed_query(self._embedder, text)[None])
        vector: Vectors = vectors[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed the queries that are not cached, each distinct one once, in as few calls as it can.

        Raises:
            ValueError, EmbeddingError: As `ragkit.embeddings.embed_queries`.
        """
        check_queries(self._embedder, texts)  # of all: the embedder would count those it is given
        return self._completed(
            [self._key("query", text) for text in texts],
            lambda missing: embed_queries(self._embedder, [texts[i] for i in missing]),
        )

    def close(self) -> None:
        """Close the file; the next use opens it again. The embedder is the caller's to close."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _aembed_query(self, text: str) -> Vectors:
        embedder = cast("AsyncEmbedder", self._embedder)

        async def embed(_: Sequence[int]) -> Vectors:
            return (await aembed_query(embedder, text))[None]

        vector: Vectors = (await self._acompleted([self._key("query", text)], embed))[0]
        return vector

    async def _aembed_queries(self, texts: Sequence[str]) -> Vectors:
        embedder = cast("AsyncQueryBatchEmbedder", self._embedder)
        check_queries(embedder, texts)

        async def embed(missing: Sequence[int]) -> Vectors:
            return await aembed_queries(embedder, [texts[i] for i in missing])

        return await self._acompleted([self._key("query", text) for text in texts], embed)

    def _completed(
        self, keys: Sequence[bytes], embed: Callable[[Sequence[int]], Vectors]
    ) -> Vectors:
        """The vectors of these keys; `embed` is given the indexes of those that are missing."""
        known = self._load(keys)
        missing = _missing(keys, known)
        if missing:
            try:
                vectors = embed(list(missing.values()))
            except (TextsRefused, EmbedderUnavailable) as exc:
                raise self._kept(exc, keys, list(missing), known) from exc
            self._learn(missing, vectors, known)
        return self._stacked(keys, known)

    async def _acompleted(
        self, keys: Sequence[bytes], embed: Callable[[Sequence[int]], Awaitable[Vectors]]
    ) -> Vectors:
        """As `_completed`; the file is read and written in a thread."""
        known = await asyncio.to_thread(self._load, keys)
        missing = _missing(keys, known)
        if missing:
            try:
                vectors = await embed(list(missing.values()))
            except (TextsRefused, EmbedderUnavailable) as exc:
                kept = await asyncio.to_thread(self._kept, exc, keys, list(missing), known)
                raise kept from exc
            await asyncio.to_thread(self._learn, missing, vectors, known)
        return self._stacked(keys, known)

    def _learn(
        self, missing: Iterable[bytes], vectors: Vectors, known: dict[bytes, Vectors]
    ) -> None:
        fresh = dict(zip(missing, vectors, strict=True))
        known.update(fresh)
        self._store(fresh.items())

    def _kept(
        self,
        error: TextsRefused | EmbedderUnavailable,
        keys: Sequence[bytes],
        asked: Sequence[bytes],
        known: Mapping[bytes, Vectors],
    ) -> TextsRefused | EmbedderUnavailable:
        """Keep what was embedded before the error; the same error, with the indexes of all."""
        self._store((asked[i], vector) for i, vector in error.vectors.items())
        return readdressed(error, keys=keys, asked=asked, known=known)

    def _stacked(self, keys: Sequence[bytes], known: Mapping[bytes, Vectors]) -> Vectors:
        if not keys:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([known[key] for key in keys])

    def _key(self, side: str, text: str, title: str = "") -> bytes:
        digest = hashlib.blake2b(digest_size=20)
        for part in (self.fingerprint, side, title, text):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        return digest.digest()

    def _load(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, Vectors] = {}
        with self._database() as database:
            for i in range(0, len(wanted), _MAX_VARIABLES):
                part = wanted[i : i + _MAX_VARIABLES]
                marks = ",".join("?" * len(part))
                # Only question marks are put into the statement.
                query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"  # noqa: S608
                for key, blob in database.execute(query, part):
                    if len(blob) == 4 * self.dim:
                        found[key] = np.frombuffer(blob, "<f4").astype(np.float32)
        return found

    def _store(self, rows: Iterable[tuple[bytes, Vectors]]) -> None:
        blobs = [(key, vector.astype("<f4").tobytes()) for key, vector in rows]
        with self._database() as database, database:
            database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", blobs)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except sqlite3.Error as exc:
                raise EmbeddingError(
                    f"{self._path} does not work as an embedding cache ({exc}): "
                    "delete it, or pass another path"
                ) from exc

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
        try:
            _write_ahead(database)
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS vectors "
                "(key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """Let readers go on while another writes.

    While another transaction is open SQLite may refuse this at once, whatever the timeout, so that
    of several processes that open a new file together some would fail.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_LOCKED_S)
        else:
            return


def _missing(keys: Sequence[bytes], known: Mapping[bytes, Vectors]) -> dict[bytes, int]:
    """The keys that are not known, each with the first index where it stands."""
    missing: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        if key not in known:
            missing.setdefault(key, i)
    return missing
