"""A sweep of recall against the engine's own calls that it makes, in a bare loop.

24 settings, 1,000 queries, 100,000 vectors of 768 dimensions in binary codes. The sweep reads all
vectors, compares every query with every one of them, makes the calls and judges what they find;
the bare loop makes the calls, as many of them and in the same order, and takes the ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import qdrant_edge as edge
from given import filled
from pytest_benchmark.fixture import BenchmarkFixture

from ragkit.benchmark import Queries, recall_sweep
from ragkit.benchmark.synthetic import synthetic_vectors
from ragkit.collection import Collection
from ragkit.edge import EdgeClient

_STORED, _DIM, _ASKED = 100_000, 768, 1_000
_LIMITS, _OVERSAMPLING, _RESCORE = (10, 20, 50, 100), (1.0, 2.0, 3.0), (False, True)
_RUNS, _WARM_UP = 3, 50
_DRAWN = synthetic_vectors(_STORED + _ASKED, _DIM, seed=1)
_QUERIES = Queries(vectors=_DRAWN[_STORED:], origin="drawn")


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("database")) as client:
        yield filled(client, _DRAWN[:_STORED])


def test_a_sweep_of_24_settings(benchmark: BenchmarkFixture, docs: Collection) -> None:
    client: Any = docs.client
    shard = client._shard(docs.version).read(lambda engine: engine)
    started = time.perf_counter(), time.process_time()
    rows = recall_sweep(docs, _QUERIES)
    between = time.perf_counter(), time.process_time()
    calls = _bare(shard)
    end = time.perf_counter(), time.process_time()
    assert len(rows) == len(_LIMITS) * len(_OVERSAMPLING) * len(_RESCORE)
    own, other = between[0] - started[0], end[0] - between[0]
    busy = (between[1] - started[1]) / (end[1] - between[1])
    benchmark.extra_info.update(ratio=round(own / other, 3), limit="at most 1.3")
    print(
        f"\n{benchmark.name}: {own / other:.2f} x (meant to be at most 1.3; {busy:.2f} x the "
        f"processor's time); {own:.1f} s against {other:.1f} s for {calls:,} calls"
    )
    benchmark.pedantic(lambda: None, rounds=1)


def _bare(shard: Any) -> int:
    cells = [_requests(*cell) for cell in product(_OVERSAMPLING, _RESCORE, _LIMITS)]
    calls = 0
    for run in range(_RUNS):
        for requests in cells:
            warm_up = requests[:_WARM_UP] if run == 0 else []
            for request in [*warm_up, *requests]:
                assert [str(point.id) for point in shard.query(request)]
                calls += 1
    return calls


def _requests(oversampling: float, rescore: bool, limit: int) -> list[edge.QueryRequest]:
    quantization = edge.QuantizationSearchParams(rescore=rescore, oversampling=oversampling)
    params = edge.SearchParams(quantization=quantization)
    return [
        edge.QueryRequest(limit, query=edge.Query.Nearest(row.tolist(), "dense"), params=params)
        for row in _QUERIES.vectors
    ]
