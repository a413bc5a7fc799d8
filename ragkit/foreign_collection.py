"""A collection that ragkit did not make, to be searched and nothing more."""

from __future__ import annotations

import time

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.embeddings import Embedder
from ragkit.foreign import ForeignSchema
from ragkit.points import Points
from ragkit.search_request import Searchable
from ragkit.server import server_info
from ragkit.versions import FRESH_S, described


class ForeignCollection:
    """Somebody else's collection: told where its vectors and texts are, it can be searched.

    By meaning alone, since only ragkit's BM25 vectors are known; and what a passage's neighbours
    are, nobody has written down. Nothing can be indexed into it.

    Args:
        client: An `EdgeClient` or a `QdrantClient`; it stays the caller's to close.
        name: The collection's name, or an alias of it.
        schema: Where it keeps what.
        embedder: The one it was filled with, which only you can know: vectors of another model
            with the same dimension find anything, without an error.
    """

    def __init__(
        self, client: QdrantBase, name: str, schema: ForeignSchema, *, embedder: Embedder
    ) -> None:
        self.client = client
        self.name = name
        self.schema = schema
        self.embedder = embedder
        self._opened: tuple[str, models.CollectionInfo] | None = None
        self._at = 0.0  # time.monotonic()

    def __repr__(self) -> str:
        return f"ForeignCollection({self.name!r}, embedder={self.embedder.fingerprint!r})"

    def open(self) -> None:
        """Find out what the name stands for now.

        Raises:
            CollectionNotFound: There is no such collection.
            CollectionMismatch: It has no such vector, or one of another dimension.
        """
        version, info = described(self.client, self.name)
        self.schema.check(info.config, self.embedder, name=self.name)
        self._opened, self._at = (version, info), time.monotonic()

    def searchable(self) -> tuple[Searchable, Points]:
        """What decides how it is searched, and its points."""
        if self._opened is None or time.monotonic() - self._at > FRESH_S:
            self.open()
        assert self._opened is not None  # noqa: S101  (open() sets it or raises)
        version, info = self._opened
        where = Searchable(
            name=self.name,
            version=version,
            manifest=None,
            foreign=self.schema,
            info=info,
            embedder=self.embedder,
            server=server_info(self.client),
            tenant=None,
        )
        strict = info.config.strict_mode_config
        return where, Points(self.client, version, strict=strict)
