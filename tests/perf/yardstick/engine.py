"""The raw engine: `qdrant_edge.EdgeShard` called directly, set up as ragkit sets it up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from perf.yardstick.contender import LIMIT, load_queries, load_vectors, versions_of

_BATCH = 1_000
_TURBO = edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4)


class EngineTurbo:
    """A scan of 4-bit codes, the best 2 times ten compared again."""

    quantization: Any = _TURBO
    params = edge.SearchParams(
        quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
    )

    def __init__(self, folder: Path) -> None:
        self.versions = versions_of("qdrant-edge-py")
        self._vectors = load_vectors(folder)
        self._queries = load_queries(folder)
        self._shard: edge.EdgeShard | None = None
        self._path = folder / type(self).__name__

    def build(self, count: int) -> None:
        self._clear()
        shard = edge.EdgeShard.create(str(self._path), self._config())
        for first in range(0, count, _BATCH):
            rows = self._vectors[first : min(first + _BATCH, count)].tolist()
            points = [edge.Point(first + n, {"dense": row}, {}) for n, row in enumerate(rows)]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        self._shard = shard

    def _clear(self) -> None:
        if self._shard is not None:
            self._shard.close()
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir()

    def _config(self) -> edge.EdgeConfig:
        params = edge.EdgeVectorParams(self._vectors.shape[1], edge.Distance.Cosine)
        return edge.EdgeConfig(
            vectors={"dense": params},
            hnsw_config=edge.HnswIndexConfig(0, 100, 10_000),
            quantization_config=self.quantization,
            optimizers=edge.EdgeOptimizersConfig(default_segment_number=64),
            max_search_threads=1,
        )

    def search(self, query: int) -> Any:
        assert self._shard is not None
        nearest: Any = edge.Query.Nearest(self._queries[query].tolist(), using="dense")
        return self._shard.query(edge.QueryRequest(LIMIT, query=nearest, params=self.params))

    def rows(self, answer: Any) -> Sequence[int]:
        return [point.id for point in answer]


class EngineBinary(EngineTurbo):
    """A scan of one bit a dimension, the best 3 times ten compared again."""

    quantization = edge.BinaryQuantizationConfig()
    params = edge.SearchParams(
        quantization=edge.QuantizationSearchParams(rescore=True, oversampling=3.0)
    )


class EngineExact(EngineTurbo):
    """Every original vector compared, past the codes."""

    params = edge.SearchParams(exact=True)
