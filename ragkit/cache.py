"""An embedder that remembers: vectors already paid for come from a SQLite file."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ragkit.embeddings import Embedder, Vectors, embed_documents, embed_query
from ragkit.errors import EmbedderUnavailable, EmbeddingError, TextsRefused

_MAX_VARIABLES = 500  # of one SQL statement; SQLite's own limit was 999 for long
_BUSY_TIMEOUT_S = 30.0


class CachedEmbedder:
    """Wraps an embedder; asks it only for what the file at `path` does not hold yet.

    The key is a digest of fingerprint, side (document or query), title and text, so several
    embedders may share a file, and no text is stored in it. Safe for threads and for concurrent
    processes on one machine. A vector is stored as `dim` little-endian float32.
    """

    def __init__(self, embedder: Embedder, path: str | Path) -> None:
        self._embedder = embedder
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

    def __repr__(self) -> str:
        return f"CachedEmbedder({self._embedder!r}, {str(self._path)!r})"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        """Embed what is not cached in one call, each distinct text once.

        Raises:
            EmbeddingError: From the embedder, or the file is no cache; nothing bad is cached.
        """
        pairs = list(zip(texts, titles, strict=True))
        keys = [self._key("document", text, title) for text, title in pairs]
        known = self._load(keys)
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        if missing:
            try:
                self._embed(missing, known)
            except (TextsRefused, EmbedderUnavailable) as exc:
                raise self._as_asked(exc, keys, list(missing), known) from exc
        if not keys:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([known[key] for key in keys])

    def embed_query(self, text: str) -> Vectors:
        """Embed a query, or recall it."""
        key = self._key("query", text, "")
        known = self._load([key])
        if key not in known:
            known[key] = embed_query(self._embedder, text)
            self._store([(key, known[key])])
        return known[key]

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _embed(self, missing: Mapping[bytes, tuple[str, str]], known: dict[bytes, Vectors]) -> None:
        """Embed what is missing, and keep what comes of it even if not all does."""
        order = list(missing)
        texts, titles = zip(*missing.values(), strict=True)
        fresh: Iterable[tuple[bytes, Vectors]] = ()
        try:
            vectors = embed_documents(self._embedder, texts, titles=titles)
            fresh = zip(order, vectors, strict=True)
        except (TextsRefused, EmbedderUnavailable) as exc:
            fresh = [(order[i], vector) for i, vector in exc.vectors.items()]
            raise
        finally:
            rows = dict(fresh)
            known.update(rows)
            self._store(rows.items())

    @staticmethod
    def _as_asked(
        error: TextsRefused | EmbedderUnavailable,
        keys: Sequence[bytes],
        asked: Sequence[bytes],
        known: Mapping[bytes, Vectors],
    ) -> TextsRefused | EmbedderUnavailable:
        """The same error, with the indexes of the call that came to the cache."""
        failed = {asked[i]: reason for i, reason in error.failed.items()}
        return type(error)(
            str(error),
            failed={i: failed[key] for i, key in enumerate(keys) if key in failed},
            vectors={i: known[key] for i, key in enumerate(keys) if key in known},
        )

    def _key(self, side: str, text: str, title: str) -> bytes:
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
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS vectors "
                "(key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database
