"""Recall you can see: measure a collection's search, and find its best setting.

Every function returns `Rows`: a list of typed rows, with the circumstances of the measurement in
`.about`. numpy is enough for the numbers; plots, data frames and judged searches need the extra
`bench`.
"""

from __future__ import annotations

from ragkit.benchmark.queries import Queries, read_queries, sample_queries
from ragkit.benchmark.recall import RecallRow, cheapest, pareto, recall_sweep
from ragkit.benchmark.rows import About, Rows

__all__ = [
    "About",
    "Queries",
    "RecallRow",
    "Rows",
    "cheapest",
    "pareto",
    "read_queries",
    "recall_sweep",
    "sample_queries",
]
