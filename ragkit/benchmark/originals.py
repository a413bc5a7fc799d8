"""The original vectors of a collection, all of them, outside of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ragkit.benchmark.rows import MeasureCallback
from ragkit.collection import Collection
from ragkit.embeddings import Vectors
from ragkit.errors import CollectionError, CollectionMismatch
from ragkit.schema import DENSE

# Numbers in a page of vectors: a server is asked seldom; what the embedded engine gives is read
# while the processor's caches have it, which is a quarter quicker.
_PAGE_NUMBERS = {"server": 200_000, "embedded": 50_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """Vectors and whose they are.

    Attributes:
        ids: Of their points, in the vectors' order.
        vectors: As the store has them, shape (n, dim), of unit length; usually a memory map.
    """

    ids: Sequence[str]
    vectors: Vectors


@contextmanager
def originals_of(
    collection: Collection, *, progress: MeasureCallback | None = None
) -> Iterator[Originals]:
    """Read all original vectors of a collection into a temporary file, and map that.

    The file takes 4 bytes for each number, in the system's temporary folder (`TMPDIR`), and is
    gone at the end. In a collection shared by tenants they are those of the tenant.

    Raises:
        CollectionMismatch: It has no vectors.
        CollectionError: It was written to meanwhile.
    """
    where, points = collection.searchable()
    if where.dim is None:
        raise CollectionMismatch(
            f"collection {collection.name!r} is searched by words alone: it has no vectors to "
            "measure; `ragkit bench quality` measures searches by words"
        )
    total = points.count()
    numbers = _PAGE_NUMBERS["embedded" if where.server is None else "server"]
    page = max(1, min(512, numbers // where.dim))
    ids: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ragkit-") as folder:
        path = Path(folder) / "vectors.f32"
        with path.open("wb") as file:
            for records in points.pages(fields=False, vectors=[DENSE], page=page):
                rows = [(str(each.id), each.vector) for each in records]
                held = [(i, v[DENSE]) for i, v in rows if isinstance(v, dict) and DENSE in v]
                ids += [point_id for point_id, _ in held]
                np.asarray([vector for _, vector in held], np.float32).tofile(file)
                if progress is not None:
                    progress("reading vectors", len(ids), max(total, len(ids)))
        if not ids:
            raise CollectionError(f"collection {collection.name!r} is empty: index documents first")
        if points.count() != total or len(set(ids)) != len(ids):
            raise CollectionError(
                f"collection {collection.name!r} is being written to: measure when nothing is "
                "added or removed"
            )
        yield Originals(
            ids=ids, vectors=np.memmap(path, np.float32, "r", shape=(len(ids), where.dim))
        )
