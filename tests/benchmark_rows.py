"""Rows of every measurement, made by hand, for the tests of what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragkit.benchmark.chunkings import ChunkingRow
from ragkit.benchmark.dimensions import DimensionRow
from ragkit.benchmark.qualities import QualityRow
from ragkit.benchmark.quantizations import QuantizationRow
from ragkit.benchmark.recall import RecallRow
from ragkit.benchmark.rows import About, Rows

# Of Qdrant's page about Gemini: by limit, for oversampling 1, 2, 3 without rescoring and with.
PUBLISHED = {
    10: (0.523333, 0.831111, 0.523333, 0.915556, 0.523333, 0.950000),
    20: (0.510000, 0.836667, 0.510000, 0.912222, 0.510000, 0.937778),
    50: (0.489111, 0.841556, 0.489111, 0.913333, 0.488444, 0.947111),
    100: (0.485778, 0.846556, 0.485556, 0.929000, 0.486000, 0.956333),
}
CELLS = [(over, again) for over in (1.0, 2.0, 3.0) for again in (False, True)]


def about(what: str, **changed: Any) -> About:
    values: dict[str, Any] = {
        "what": what,
        "at": "2026-05-01T10:00:00+00:00",
        "subject": {"collection": "squad", "points": 2067, "indexed_share": 1.0, "graph": None},
        "machine": {"processor": "abacus", "cores": 2, "memory_gb": 8.0},
        "versions": {"ragkit": "0.1.0"},
        "queries": "1,000 questions of queries.jsonl",
        "method": ("The exact neighbours are computed outside the engine.",),
        "settings": {"target": 0.95},
        "notes": ("Nobody else was using the machine.",),
    }
    return About(**values | changed)


def recall_row(**changed: Any) -> RecallRow:
    values: dict[str, Any] = {
        "limit": 10,
        "oversampling": None,
        "rescore": None,
        "hnsw_ef": None,
        "recall": 0.97,
        "p50_ms": 0.5,
        "p95_ms": 0.9,
        "qps": 1800.0,
        "current": False,
    }
    values |= changed
    around = {
        "recall_low": max(0.0, values["recall"] - 0.01),
        "recall_high": min(1.0, values["recall"] + 0.01),
    }
    return RecallRow(**around | values)


def recall_rows(efs: Sequence[int | None] = (None,)) -> Rows[RecallRow]:
    return Rows(
        [
            recall_row(
                limit=limit,
                oversampling=over,
                rescore=again,
                hnsw_ef=ef,
                recall=value,
                p50_ms=0.1 + over / 10 + again / 20 + limit / 500 + (ef or 0) / 1000,
                current=(over, again, ef) == (3.0, True, efs[0]),
            )
            for ef in efs
            for limit, values in PUBLISHED.items()
            for (over, again), value in zip(CELLS, values, strict=True)
        ],
        about=about("recall"),
    )


def quantization_rows() -> Rows[QuantizationRow]:
    kinds = {"none": (1.0, 1.0), "turbo": (0.99, 1 / 8), "binary": (0.8, 1 / 32)}
    return Rows(
        [
            QuantizationRow(
                quantization=kind,
                limit=limit,
                oversampling=over,
                rescore=again,
                recall=min(1.0, recall - (0.3 if again is False else 0.0)),
                recall_low=0.4,
                recall_high=1.0,
                p50_ms=0.5 + ratio,
                p95_ms=1.5,
                qps=900.0,
                code_bytes=int(6_144_000 * ratio),
                graph_bytes=None if kind == "none" else 12_000,
                disk_bytes=20_000_000,
                build_s=1.25,
                ratio=ratio,
            )
            for kind, (recall, ratio) in kinds.items()
            for limit in (10, 100)
            for over, again in ([(None, None)] if kind == "none" else CELLS)
        ],
        about=about("quantization"),
    )


def dimension_rows(*, judged: bool = True, price: float | None = 0.25) -> Rows[DimensionRow]:
    found = {1536: (1.0, 0.682), 768: (0.85, 0.680), 256: (0.61, 0.662)}
    return Rows(
        [
            DimensionRow(
                dim=dim,
                overlap=overlap,
                overlap_low=overlap - 0.01,
                overlap_high=min(1.0, overlap + 0.01),
                ndcg=ndcg if judged else None,
                ndcg_low=ndcg - 0.02 if judged else None,
                ndcg_high=ndcg + 0.02 if judged else None,
                vector_bytes=4 * dim,
                total_bytes=4 * dim * 1_000_000,
                share=dim / 1536,
                price=None if price is None else price * 4 * dim / 1000,
            )
            for dim, (overlap, ndcg) in found.items()
        ],
        about=about("dimensions"),
    )


def quality_rows(label: str = "dense") -> Rows[QualityRow]:
    return Rows(
        [
            QualityRow(
                setting=setting,
                options={"mode": "hybrid", "weights": {"dense": 1.0, "sparse": 3.0}},
                measures={"nDCG@10": 0.6 + gain, "R@10": 0.7},
                differences={"nDCG@10": [gain, gain - 0.02, gain + 0.02], "R@10": [0.0, -0.1, 0.1]}
                if gain
                else {},
                queries=1000,
            )
            for setting, gain in ((label, 0.0), ("hybrid", 0.05), ("sparse", -0.01))
        ],
        about=about("quality"),
    )


def chunking_rows() -> Rows[ChunkingRow]:
    found = {(300, 50): (0.787, []), (250, 0): (0.70, [-0.087, -0.12, -0.05])}
    return Rows(
        [
            ChunkingRow(
                chunker=f"{most}/{shared}",
                max_tokens=most,
                overlap=shared,
                chunks=3200,
                mean_chars=1100.0,
                recall=recall,
                precision=0.049,
                iou=0.048,
                recall_low=recall - 0.03,
                recall_high=recall + 0.03,
                recall_in_budget=recall + 0.1,
                difference=difference,
            )
            for (most, shared), (recall, difference) in found.items()
        ],
        about=about("chunking"),
    )


def all_rows() -> list[Rows[Any]]:
    return [recall_rows(), quantization_rows(), dimension_rows(), quality_rows(), chunking_rows()]
