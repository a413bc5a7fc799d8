"""Recall you can see: measure a collection's search, and find its best setting.

Every function returns `Rows`: a list of typed rows, with the circumstances of the measurement in
`.about`. numpy is enough for the numbers; plots, data frames and judged searches need the extra
`bench`.
"""

from __future__ import annotations

from ragkit.benchmark.chunkings import ChunkingRow, chunking, read_span_set
from ragkit.benchmark.dimensions import DimensionRow, dimension_sweep
from ragkit.benchmark.files import frame, read_rows, write_rows
from ragkit.benchmark.judged import (
    Judged,
    index_judged,
    read_judged,
    read_judged_files,
    write_run,
)
from ragkit.benchmark.plots import save_plot
from ragkit.benchmark.qualities import QualityRow, quality
from ragkit.benchmark.quantizations import QuantizationRow, quantization_sweep
from ragkit.benchmark.queries import Queries, read_queries, read_vectors, sample_queries
from ragkit.benchmark.recall import RecallRow, cheapest, pareto, recall_sweep
from ragkit.benchmark.report import write_report
from ragkit.benchmark.rows import About, Rows
from ragkit.benchmark.synthetic import synthetic_queries, synthetic_vectors
from ragkit.benchmark.trials import Trial
from ragkit.benchmark.tuning import Tuning, tune

__all__ = [
    "About",
    "ChunkingRow",
    "DimensionRow",
    "Judged",
    "QualityRow",
    "QuantizationRow",
    "Queries",
    "RecallRow",
    "Rows",
    "Trial",
    "Tuning",
    "cheapest",
    "chunking",
    "dimension_sweep",
    "frame",
    "index_judged",
    "pareto",
    "quality",
    "quantization_sweep",
    "read_judged",
    "read_judged_files",
    "read_queries",
    "read_rows",
    "read_span_set",
    "read_vectors",
    "recall_sweep",
    "sample_queries",
    "save_plot",
    "synthetic_queries",
    "synthetic_vectors",
    "tune",
    "write_report",
    "write_rows",
    "write_run",
]
