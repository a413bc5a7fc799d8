"""The vectors of a new version made of what the old one stores: cut shorter, or embedded anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.embeddings import Embedder, Vectors, checked_vectors, embed_what_can_be
from ragkit.errors import CollectionError
from ragkit.ledger import stored_vectors
from ragkit.moving.mirror import Change, Changed, dense_of, kept
from ragkit.schema import fitting_title
from ragkit.tokens import estimate_tokens


def cut_to(dim: int) -> Change:
    """The first components of stored vectors, scaled to unit length."""

    def cut(records: Sequence[models.Record]) -> Changed:
        matrix = np.asarray(dense_of(records), np.float32)[:, :dim]
        rows = checked_vectors(matrix, shape=(len(records), dim), origin="vectors cut short")
        points = [kept(each, dense=row) for each, row in zip(records, rows, strict=True)]
        return Changed(points=points)

    return cut


class Reembedding:
    """Embeds stored chunks anew, each as when it was indexed.

    Attributes:
        embedded: Texts that the embedder has embedded.
    """

    def __init__(self, embedder: Embedder, target: Collection) -> None:
        self.embedded = 0
        self._embedder = embedder
        self._target = target
        self._refused: dict[str, str] = {}  # by chunk hash; not asked for in every pass anew

    def __call__(self, records: Sequence[models.Record]) -> Changed:
        """Embed a page, as far as that can be done."""
        chunks: dict[str, Chunk] = {}
        keys: dict[str, str] = {}
        for record in records:
            chunks[str(record.id)], keys[str(record.id)] = _chunk(record)
        # What an earlier run has paid for, or another document has as well.
        vectors: dict[str, Vectors] = stored_vectors(self._target, keys.values())
        todo: dict[str, Chunk] = {}
        for point_id, chunk in chunks.items():
            key = keys[point_id]
            if key not in vectors and key not in self._refused and self._fits(key, chunk):
                todo[key] = chunk
        stopped = self._embed(todo, vectors) if todo else None
        return Changed(
            points=[
                kept(record, dense=vectors[keys[str(record.id)]])
                for record in records
                if keys[str(record.id)] in vectors
            ],
            refused={
                each: f"chunk {chunk.ordinal} of {chunk.source}: {self._refused[keys[each]]}"
                for each, chunk in chunks.items()
                if keys[each] in self._refused
            },
            stopped=stopped,
        )

    def _fits(self, key: str, chunk: Chunk) -> bool:
        tokens, most = estimate_tokens(chunk.text), self._embedder.max_tokens
        if tokens > most:
            self._refused[key] = f"it has about {tokens} tokens, the embedder reads {most}"
        return tokens <= most

    def _embed(self, todo: dict[str, Chunk], vectors: dict[str, Vectors]) -> Exception | None:
        most = self._embedder.max_tokens
        outcome = embed_what_can_be(
            self._embedder,
            [chunk.text for chunk in todo.values()],
            titles=[fitting_title(chunk, max_tokens=most) for chunk in todo.values()],
            proven=self.embedded > 0,
        )
        keys = list(todo)
        vectors.update((keys[i], vector) for i, vector in outcome.vectors.items())
        self._refused.update((keys[i], why) for i, why in outcome.refused.items())
        self.embedded += len(outcome.vectors)
        return outcome.unavailable


def _chunk(record: models.Record) -> tuple[Chunk, str]:
    """The chunk that a point was made of, and its hash."""
    fields: dict[str, Any] = record.payload or {}
    try:
        chunk = Chunk(
            source=fields["source"],
            ordinal=fields["ordinal"],
            text=fields["text"],
            start=fields["start"],
            end=fields["end"],
            title=fields["title"],
            headings=tuple(fields.get("headings") or ()),
            line=fields.get("line"),
        )
        return chunk, fields["chunk_hash"]
    except KeyError as exc:
        raise CollectionError(
            f"point {record.id} is no chunk of ragkit's, its payload has no {exc}: delete it, or "
            "keep the embedder, and points are copied as they are"
        ) from exc
