"""What a collection holds of a corpus, read from the collection itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from qdrant_client import models

from ragkit.collection import Collection
from ragkit.embeddings import Vectors
from ragkit.schema import DENSE, match, match_any

_PAGE = 512
_FACET_LIMIT = 20_000  # documents
_HEAD_FIELDS = ["source", "document_hash", "chunk_count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The documents of a corpus as they are stored.

    Attributes:
        committed: Source to document hash, of complete documents: chunk 0 is there, and as many
            points carry its document hash as it says.
        broken: Sources with a chunk 0 whose other points are not all there.
        stray: Document hashes of points that belong to no complete document: an interrupted run
            left them.
    """

    committed: Mapping[str, str]
    broken: frozenset[str] = frozenset()
    stray: frozenset[str] = frozenset()

    def holds(self, source: str) -> bool:
        """Whether there may be points of this source."""
        return source in self.committed or source in self.broken

    def may_hold(self, source: str) -> bool:
        """As `holds`; strays are of sources that nobody knows."""
        return bool(self.stray) or self.holds(source)

    @property
    def sources(self) -> frozenset[str]:
        """All sources that have a chunk 0."""
        return self.broken.union(self.committed)


def read_ledger(collection: Collection, corpus: str) -> Ledger:
    """Read the commit records of a corpus and hold them against the points that are there."""
    heads = list(_heads(collection, corpus))
    # A server counts anew for each value of a facet: there only this corpus's.
    within = None if collection.embedded else of_corpus(corpus)
    counts = _points_per_hash(collection, len(heads), within)
    committed: dict[str, str] = {}
    broken: set[str] = set()
    for source, document_hash, chunk_count in heads:
        if counts.get(document_hash) == chunk_count:
            committed[source] = document_hash
        else:
            broken.add(source)
    if not counts.keys() - committed.values():
        return Ledger(committed=committed)
    # Other corpora, or what an interrupted run left: only now is the slower count worth it.
    own = counts if within else _points_per_hash(collection, len(heads), of_corpus(corpus))
    return Ledger(
        committed=committed,
        broken=frozenset(broken),
        stray=frozenset(own).difference(committed.values()),
    )


def stored_vectors(collection: Collection, chunk_hashes: Iterable[str]) -> dict[str, Vectors]:
    """The dense vectors stored for these chunk hashes, in any corpus of the tenant."""
    found: dict[str, Vectors] = {}
    wanted = list(dict.fromkeys(chunk_hashes))
    points = collection.points
    size = min(_PAGE, points.most_values)
    for i in range(0, len(wanted), size):
        page = models.Filter(must=[match_any("chunk_hash", wanted[i : i + size])])
        for record in points.scroll(page, fields=["chunk_hash"], vectors=[DENSE]):
            vectors = record.vector
            if isinstance(vectors, dict) and DENSE in vectors:
                key = str((record.payload or {}).get("chunk_hash"))
                found[key] = np.asarray(vectors[DENSE], np.float32)
    return found


def whole_versions(collection: Collection, corpus: str, sources: Sequence[str]) -> dict[str, str]:
    """The document hash of each of these sources that is complete in the collection."""
    own = of_corpus(corpus, match_any("source", sources))
    points: Counter[tuple[str, str]] = Counter()
    heads: dict[str, tuple[str, int]] = {}
    for record in collection.points.scroll(own, fields=[*_HEAD_FIELDS, "ordinal"]):
        fields = record.payload or {}
        source, document_hash = str(fields["source"]), str(fields["document_hash"])
        points[source, document_hash] += 1
        if fields["ordinal"] == 0:
            heads[source] = document_hash, int(fields["chunk_count"])
    return {
        source: document_hash
        for source, (document_hash, count) in heads.items()
        if points[source, document_hash] == count
    }


def of_corpus(
    corpus: str,
    *must: models.Condition,
    must_not: Sequence[models.Condition] | None = None,
) -> models.Filter:
    """A filter on the points of a corpus; nothing is ever deleted outside of one."""
    return models.Filter(
        must=[match("corpus", corpus), *must], must_not=list(must_not) if must_not else None
    )


def _heads(collection: Collection, corpus: str) -> Iterator[tuple[str, str, int]]:
    heads = of_corpus(corpus, match("ordinal", 0))
    for record in collection.points.scroll(heads, fields=_HEAD_FIELDS):
        fields = record.payload or {}
        yield str(fields["source"]), str(fields["document_hash"]), int(fields["chunk_count"])


def _points_per_hash(
    collection: Collection, documents: int, within: models.Filter | None = None
) -> Mapping[str, int]:
    """How many points carry each document hash.

    On a server reading all points is quicker than a facet of very many values.
    """
    points = collection.points
    if collection.embedded or documents <= _FACET_LIMIT:
        return points.facet("document_hash", within, limit=points.count(within))
    return points.tally("document_hash", within)
