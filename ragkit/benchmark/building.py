"""Collections of vectors alone, built to be measured and dropped: one quantization at a time."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.benchmark.rows import MeasureCallback
from ragkit.creation import GRAPH, MERGED, creation
from ragkit.delivery import WRITING, deliver
from ragkit.edge import EdgeClient
from ragkit.edge.catalog import Catalog
from ragkit.edge.engines import shard_folder
from ragkit.edge.space import reserve_bytes
from ragkit.embeddings import Vectors
from ragkit.errors import StoreFull
from ragkit.foreign import ForeignSchema
from ragkit.optimizer import held_back, wait_until_indexed
from ragkit.points import Points
from ragkit.quantization import Quantization, outgrew_scan
from ragkit.schema import DENSE
from ragkit.search_request import Searchable
from ragkit.server import server_info
from ragkit.upserts import BYTES_PER_NUMBER, MAX_BATCH_BYTES, MAX_CHUNKS

# What is loaded takes twice its bytes, the log's copy included, and the engine optimizes only
# where three times as much is free besides.
_DISK_GROWTH = 8
_INDEX_ALL = 1  # KB of vectors from which on a segment is quantized: so the smallest is, too
_BITS = {
    "one_bit": 1.0,
    "one_and_half_bits": 1.5,
    "two_bits": 2.0,
    "bits1": 1.0,
    "bits1_5": 1.5,
    "bits2": 2.0,
    "bits4": 4.0,
}


@contextmanager
def store_for(client: QdrantBase | None, vectors: Vectors) -> Iterator[QdrantBase]:
    """Where to build.

    Raises:
        StoreFull: The disk would not take it.
    """
    if client is not None:
        if isinstance(client, EdgeClient):
            _check_room(client.path, vectors)
        yield client
        return
    with tempfile.TemporaryDirectory(prefix="ragkit-") as folder:
        _check_room(Path(folder), vectors)
        with EdgeClient(folder) as own:
            yield own


def _check_room(folder: Path, vectors: Vectors) -> None:
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, _DISK_GROWTH * 4 * vectors.size
    needed += reserve_bytes(1)
    if free < needed:
        raise StoreFull(
            f"too little disk space to build {vectors.shape[0]:,} vectors of {vectors.shape[1]:,} "
            f"dimensions: {free / 1e6:,.0f} MB are free at {folder}, {needed / 1e6:,.0f} MB are "
            "needed; free some, set TMPDIR to a folder on a larger disk, or take fewer vectors"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A collection that is there to be measured.

    Attributes:
        quantization: Of its vectors.
        where: It, as a search sees it.
        points: Its points; their ids are the rows of the vectors.
        build_s: Seconds for loading and optimizing.
        code_bytes: See `QuantizationRow`, as for the following three.
        graph_bytes: None on a server.
        disk_bytes: None on a server.
        ratio: Of the codes to the originals in float32.
        notes: What did not go as it should.
    """

    quantization: Quantization
    where: Searchable
    points: Points
    build_s: float
    code_bytes: int
    graph_bytes: int | None
    disk_bytes: int | None
    ratio: float
    notes: Sequence[str]


@contextmanager
def built(
    client: QdrantBase,
    quantization: Quantization,
    vectors: Vectors,
    progress: MeasureCallback | None,
) -> Iterator[Built]:
    """A collection of these vectors, which is dropped at the end, also after an error."""
    name = f"ragkit-bench-{uuid4().hex[:12]}"
    what = f"building collection {name!r}"
    settings = _settings(client, quantization, vectors.shape[1])
    try:
        deliver(lambda: client.create_collection(name, **settings), what=what, retry=WRITING)
        started = time.perf_counter()
        _fill(client, name, vectors, progress)
        seconds = time.perf_counter() - started
        yield _opened(client, name, quantization, vectors, seconds)
    finally:
        deliver(lambda: client.delete_collection(name), what=f"dropping {name!r}", retry=WRITING)


def _settings(client: QdrantBase, quantization: Quantization, dim: int) -> dict[str, Any]:
    """What ragkit asks for where it makes a collection, without words and with all indexed."""
    embedded = isinstance(client, EdgeClient)
    settings = creation(
        embedded=embedded, dim=dim, quantization=quantization, tenancy=None, settings={}
    )
    del settings["sparse_vectors_config"]
    optimizers = settings.get("optimizers_config", models.OptimizersConfigDiff())
    settings["optimizers_config"] = optimizers.model_copy(update={"indexing_threshold": _INDEX_ALL})
    return settings


def _fill(
    client: QdrantBase, name: str, vectors: Vectors, progress: MeasureCallback | None
) -> None:
    if not isinstance(client, EdgeClient):
        with held_back(client, name):
            _load(client, name, vectors, progress)
        wait_until_indexed(client, name)
        return
    _load(client, name, vectors, progress)
    if outgrew_scan(client.get_collection(name).config, vectors.size):
        client.update_collection(name, hnsw_config=GRAPH, optimizers_config=MERGED)
    client.optimize(name)


def _load(
    client: QdrantBase, name: str, vectors: Vectors, progress: MeasureCallback | None
) -> None:
    points, (count, dim) = Points(client, name), vectors.shape
    step = max(1, min(MAX_CHUNKS, MAX_BATCH_BYTES // (dim * BYTES_PER_NUMBER)))
    for start in range(0, count, step):
        block = np.asarray(vectors[start : start + step]).tolist()
        # Built without validation, which would look at every number.
        batch = [
            models.PointStruct.model_construct(id=start + i, vector={DENSE: vector}, payload=None)
            for i, vector in enumerate(block)
        ]
        points.update([models.UpsertOperation(upsert=models.PointsList(points=batch))])
        if progress is not None:
            progress("loading", start + len(batch), count)


def _opened(
    client: QdrantBase, name: str, quantization: Quantization, vectors: Vectors, build_s: float
) -> Built:
    info = deliver(lambda: client.get_collection(name), what=f"reading collection {name!r}")
    where = Searchable(
        name=name,
        version=name,
        manifest=None,
        foreign=ForeignSchema(vector=DENSE, text="text"),
        info=info,
        embedder=None,
        server=server_info(client),
        tenant=None,
    )
    count, indexed, notes = len(vectors), info.indexed_vectors_count or 0, []
    if indexed < count:
        notes.append(
            f"{quantization.name}: {indexed:,} of {count:,} vectors are in indexed segments; the "
            "rest is searched otherwise."
        )
    code = count * code_bytes(quantization, vectors.shape[1])
    graph = disk = None
    if isinstance(client, EdgeClient):
        folder = shard_folder(Catalog(client.path).folder(name))
        if quantization.config is not None:
            code = _file_bytes(folder, "quantized.data")
        graph, disk = _file_bytes(folder, f"vector_index-{DENSE}/*"), client.disk_usage(name)
    return Built(
        quantization=quantization,
        where=where,
        points=Points(client, name),
        build_s=build_s,
        code_bytes=code,
        graph_bytes=graph,
        disk_bytes=disk,
        ratio=code / (4 * vectors.size),
        notes=notes,
    )


def _file_bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def code_bytes(quantization: Quantization, dim: int) -> int:
    """The bytes of one vector's code, or of the vector where it is not quantized.

    So the embedded engine 0.9 writes them: scalar codes have a number of 4 bytes beside them and
    are filled up to 16 components, binary ones to 128 bits; turbo has two numbers beside them.
    """
    config = quantization.config
    if isinstance(config, models.ScalarQuantization):
        return 4 + _up(dim, 16)
    if isinstance(config, models.BinaryQuantization):
        bits = _BITS[(config.binary.encoding or models.BinaryQuantizationEncoding.ONE_BIT).value]
        return _up(bits * dim / 8, 16)
    if isinstance(config, models.TurboQuantization):
        bits = _BITS[(config.turbo.bits or models.TurboQuantBitSize.BITS4).value]
        return 8 + _up(bits * dim / 8, 1)
    if isinstance(config, models.ProductQuantization):
        return _up(4 * dim / int(config.product.compression.value[1:]), 1)
    return 4 * dim


def _up(number: float, step: int) -> int:
    """The next multiple of the step."""
    return -int(-number // step) * step
