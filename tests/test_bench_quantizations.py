from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from given import filled, unit_vectors
from qdrant_client.client_base import QdrantBase

from ragkit.benchmark.building import built, code_bytes
from ragkit.benchmark.exact import nearest
from ragkit.benchmark.quantizations import KINDS, QuantizationRow, quantization_sweep
from ragkit.benchmark.queries import Queries
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.errors import ServerTooOld, StoreFull
from ragkit.quantization import Quantization
from ragkit.server import ServerInfo, Version, remember

DIM = 48


def asked(count: int = 30, dim: int = DIM) -> Queries:
    return Queries(vectors=unit_vectors(count, dim, seed=5), origin="drawn")


def of_signs(vectors: Vectors, queries: Vectors, oversampling: int, *, rescore: bool) -> float:
    """Recall@10 of one bit a component, in numpy."""
    truth = nearest(vectors, queries, 10).rows
    signs = (np.where(each > 0, 1, -1).astype(np.float32) for each in (vectors, queries))
    found = []
    for query, rows in zip(queries, nearest(*signs, 10 * oversampling).rows, strict=True):
        found.append(rows[np.argsort(-(vectors[rows] @ query))[:10]] if rescore else rows[:10])
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)]))


def test_the_kinds_are_all_that_the_issue_is_about() -> None:
    assert [Quantization.of(kind).name for kind in KINDS] == list(KINDS)
    assert len(set(KINDS)) == 16


def test_recall_is_that_of_the_same_procedure_in_numpy() -> None:
    vectors, queries = unit_vectors(800, DIM), asked(60)
    rows = quantization_sweep(vectors, queries, kinds=["binary", "none"], limits=[10])
    *binary, plain = rows
    assert [(row.oversampling, row.rescore) for row in binary] == [
        (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)
    ]  # fmt: skip
    for row in binary:
        expected = of_signs(
            vectors, queries.vectors, int(row.oversampling or 1), rescore=bool(row.rescore)
        )
        # Among vectors that agree in as many bits which are the best is chance.
        assert row.recall == pytest.approx(expected, abs=0.03)
        assert row.recall_low <= row.recall <= row.recall_high
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.qps > 0
        assert row.build_s > 0
    assert (plain.quantization, plain.oversampling, plain.rescore) == ("none", None, None)
    assert plain.recall > 0.99
    assert plain.ratio == 1
    assert plain.graph_bytes is not None
    assert plain.graph_bytes > 4 * (binary[0].graph_bytes or 0)  # codes have no graph


@pytest.mark.parametrize(
    "kind",
    ["scalar", "binary-1.5bit", "turbo", "turbo-1.5bit", "product-x8"],
)
def test_the_codes_on_disk_are_as_large_as_theory_has_it(edge: EdgeClient, kind: str) -> None:
    vectors = unit_vectors(300, 100)
    quantization = Quantization.of(kind)
    with built(edge, quantization, vectors, None) as made:
        assert made.code_bytes == 300 * code_bytes(quantization, 100)
        assert made.ratio == made.code_bytes / vectors.nbytes
        assert made.disk_bytes is not None
        assert made.disk_bytes > made.code_bytes + vectors.nbytes
        assert not made.notes
    assert not edge.get_collections().collections


def test_what_a_vector_takes_is_its_bits_and_what_the_engine_adds() -> None:
    sizes = {kind: code_bytes(Quantization.of(kind), 1_536) for kind in KINDS}
    assert sizes["none"] == 6_144
    assert sizes["binary"] == sizes["binary-query-scalar8bits"] == 192
    assert sizes["binary-2bit"] == sizes["product"] == 384 == 6_144 / 16
    assert sizes["turbo-2bit"] == 384 + 8
    assert sizes["scalar"] == 1_536 + 4


def test_queries_drawn_from_an_array_are_not_in_its_index() -> None:
    vectors = np.vstack([unit_vectors(60, DIM), unit_vectors(60, DIM)])
    rows = quantization_sweep(vectors, kinds=["none"], limits=[1])
    # No more than a fifth of them become queries.
    assert rows.about.queries.startswith("24 of the vectors, drawn at random (seed 0)")
    assert rows.about.subject["points"] == 96


def test_a_collection_is_only_read_and_passages_do_not_find_themselves(edge: EdgeClient) -> None:
    docs = filled(edge, np.repeat(np.eye(DIM, dtype=np.float32), 2, axis=0))
    before = edge.get_collection("docs")
    (row,) = quantization_sweep(docs, kinds=["none"], limits=[1], sample=20)
    assert row.recall == 1
    assert edge.get_collection("docs") == before
    assert [each.name for each in edge.get_collections().collections] == ["docs.v1"]


def test_the_same_kind_is_built_once_and_auto_is_what_the_store_makes_of_it() -> None:
    rows = quantization_sweep(
        unit_vectors(100, DIM),
        asked(),
        kinds=["auto", Quantization.turbo(), "turbo"],
        limits=[5],
        oversampling=[2],
    )
    assert [(row.quantization, row.rescore) for row in rows] == [("turbo", False), ("turbo", True)]
    assert rows.about.subject == {
        "collection": None,
        "tenant": None,
        "store": "embedded",
        "points": 100,
        "dimensions": DIM,
        "segments": 2,
    }


def test_nothing_stays_in_the_store_after_an_error(edge: EdgeClient) -> None:
    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        seen.append(what)
        if "searching" in what:
            raise Stop

    seen: list[str] = []
    with pytest.raises(Stop):
        quantization_sweep(
            unit_vectors(100, DIM), asked(), kinds=["binary"], client=edge, progress=stop
        )
    assert seen == ["binary: loading", "binary: searching"]
    assert not edge.get_collections().collections


class Refusal(NamedTuple):
    options: dict[str, object]
    message: str
    vectors: Vectors = unit_vectors(50, DIM)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal({"kinds": ["ternary"]}, "expected a quantization of"),
        Refusal({"kinds": []}, "expected at least one quantization"),
        Refusal({"limits": [10, 51]}, "expected limits from 1 to 50, .* got 51"),
        Refusal({"limits": [0]}, "got 0"),
        Refusal({"limits": []}, "got none"),
        Refusal({"oversampling": [0.5]}, "oversampling"),
        Refusal({"queries": asked(3, 16)}, r"expected query vectors of shape \(q, 48\)"),
        Refusal({"queries": None}, "expected at least 5 vectors", unit_vectors(4, DIM)),
        Refusal({}, "1 of 3 vectors are zero or not finite", np.eye(3, 2, dtype=np.float32)),
        Refusal({}, "are zero or not finite", np.full((3, 4), np.nan, np.float32)),
        Refusal({}, r"numbers of shape \(n, dim\), got float32 of \(3,\)", np.ones(3, np.float32)),
    ],
)
def test_what_does_not_fit_is_refused(refusal: Refusal) -> None:
    options = {"queries": asked(), **refusal.options}
    with pytest.raises(ValueError, match=refusal.message):
        quantization_sweep(refusal.vectors, **options)  # type: ignore[arg-type]


def test_without_room_on_the_disk_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 64 << 20

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    with pytest.raises(StoreFull, match=r"100 vectors of 48 dimensions: 67 MB are free .* TMPDIR"):
        quantization_sweep(unit_vectors(100, DIM), asked())


@pytest.mark.parametrize("store", ["rest", pytest.param("server-grpc", marks=pytest.mark.server)])
def test_on_a_server_sizes_come_from_theory_and_what_it_does_not_know_is_left_out(
    open_store: Callable[[str], QdrantBase], store: str
) -> None:
    client, vectors = open_store(store), unit_vectors(100, DIM)
    remember(client, ServerInfo(version=Version(1, 17, 0), title="qdrant"))
    rows = quantization_sweep(
        vectors, asked(), kinds=["turbo", "scalar", "turbo-1bit"], limits=[5], client=client
    )
    assert {(row.quantization, row.code_bytes) for row in rows} == {("scalar", 100 * (DIM + 4))}
    assert {(row.graph_bytes, row.disk_bytes) for row in rows} == {(None, None)}
    assert rows[-1].recall > 0.95
    assert rows.about.notes[0].startswith("Not measured: turbo, turbo-1bit; the server is 1.17.0")
    assert "a server does not tell" in rows.about.notes[-1]
    with pytest.raises(ServerTooOld, match="turbo quantization needs"):
        quantization_sweep(vectors, asked(), kinds=["turbo"], client=client)
    assert not client.get_collections().collections


def test_rows_say_what_they_are_in_plain_numbers() -> None:
    (row, *_) = quantization_sweep(unit_vectors(60, DIM), asked(), kinds=["none"], limits=[5])
    kinds = {type(getattr(row, name)) for name in QuantizationRow.__slots__}
    assert kinds <= {str, int, float, type(None)}
