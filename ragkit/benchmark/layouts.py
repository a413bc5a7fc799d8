"""The rows of each measurement as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ragkit.benchmark.tables import (
    Cell,
    Table,
    between,
    distinct,
    fraction,
    measure_name,
    milliseconds,
    percent,
    price,
    share,
    signed,
    size,
)

if TYPE_CHECKING:
    from ragkit.benchmark.chunkings import ChunkingRow
    from ragkit.benchmark.dimensions import DimensionRow
    from ragkit.benchmark.qualities import QualityRow
    from ragkit.benchmark.quantizations import QuantizationRow
    from ragkit.benchmark.recall import RecallRow
    from ragkit.benchmark.rows import About, Rows

DEFAULT_MARK = "*"  # behind the figures of the collection's own default search
_DEFAULT_NOTE = f"{DEFAULT_MARK} the collection's own default search"


def tables(rows: Rows[Any]) -> list[Table]:
    """The tables of a measurement, the one that answers first.

    Raises:
        ValueError: It is of a kind that has no tables.
    """
    layout = _LAYOUTS.get(rows.about.what)
    if layout is None:
        raise ValueError(f"expected rows of {', '.join(_LAYOUTS)}, got {rows.about.what!r}")
    return layout(rows) if rows else []


def target_of(about: About) -> float | None:
    """The recall that was asked for, if any."""
    target = about.settings.get("target")
    return None if target is None else float(target)


def neighbours_of(about: About) -> int:
    """How many neighbours the overlap of cut vectors is of."""
    return int(about.settings.get("limit") or 10)


def _recall(rows: Rows[RecallRow]) -> list[Table]:
    goal = target_of(rows.about)
    if all(row.oversampling is None for row in rows):
        graph = [row for row in rows if not row.exact]
        return [_recall_by_ef(graph, goal), _recall_cells(rows, goal)]
    crossed = [row for row in rows if not row.exact]
    efs = distinct(row.hnsw_ef for row in crossed)
    grids = []
    for ef in efs:
        caption = "Recall" if efs == [None] else f"Recall, hnsw_ef {_ef(ef)}"
        grids.append(_published(caption, [row for row in crossed if row.hnsw_ef == ef], goal))
    return [*grids, _recall_cells(rows, goal)]


def _published(caption: str, rows: Sequence[RecallRow], goal: float | None) -> Table:
    """The layout of Qdrant's page: limits down, oversampling and rescoring across."""
    # The cells asked for stand first: a default that only differs in something else comes after.
    cells = {(row.limit, row.oversampling, row.rescore): row for row in reversed(rows)}
    across = _across((row.oversampling, row.rescore) for row in rows)
    return Table(
        caption=caption,
        heads=(
            ("oversampling", "", *(f"{oversampling:g}" for oversampling, _ in across)),
            ("limit", "", *("" for _ in across)),
            ("", "rescore", *(str(rescore) for _, rescore in across)),
        ),
        body=tuple(
            (
                Cell(str(limit)),
                Cell(""),
                *(_recall_cell(cells.get((limit, *key)), goal) for key in across),
            )
            for limit in distinct(row.limit for row in rows)
        ),
        labels=2,
        align="l" * (2 + len(across)),
        notes=_default_note(rows),
    )


def _across(
    found: Iterable[tuple[float | None, bool | None]],
) -> list[tuple[float, bool]]:
    """The columns: oversampling from low to high, each without rescoring and with."""
    return sorted({(over, bool(rescore)) for over, rescore in found if over is not None})


def _recall_by_ef(rows: Sequence[RecallRow], goal: float | None) -> Table:
    """Without quantization there is nothing to oversample: limits down, `hnsw_ef` across."""
    cells = {(row.limit, row.hnsw_ef): row for row in reversed(rows)}
    efs = distinct(row.hnsw_ef for row in rows)
    crossed = (("hnsw_ef", *map(_ef, efs)), ("limit", *("" for _ in efs)))
    return Table(
        caption="Recall",
        heads=(("limit", "recall"),) if efs == [None] else crossed,
        body=tuple(
            (Cell(str(limit)), *(_recall_cell(cells.get((limit, ef)), goal) for ef in efs))
            for limit in distinct(row.limit for row in rows)
        ),
        labels=1,
        align="l" * (1 + len(efs)),
        notes=_default_note(rows),
    )


def _recall_cell(row: RecallRow | None, goal: float | None) -> Cell:
    if row is None:
        return Cell("")
    mark = DEFAULT_MARK if row.current else ""
    return Cell(share(row.recall) + mark, strong=_reaches(row, goal))


def _reaches(row: RecallRow | QuantizationRow, goal: float | None) -> bool:
    return goal is not None and row.recall >= goal


def _default_note(rows: Iterable[RecallRow]) -> tuple[str, ...]:
    return (_DEFAULT_NOTE,) if any(row.current for row in rows) else ()


def _recall_cells(rows: Sequence[RecallRow], goal: float | None) -> Table:
    """Every cell with what it costs: one line each, which hardly a terminal is too narrow for."""
    rows = sorted(rows, key=lambda row: row.limit)
    columns: list[tuple[str, str, Callable[[RecallRow], str]]] = [
        ("limit", "r", lambda row: str(row.limit)),
        ("ef", "r", lambda row: _ef(row.hnsw_ef)),
        ("oversampling", "r", lambda row: "" if (n := row.oversampling) is None else f"{n:g}"),
        ("rescore", "l", lambda row: "" if row.rescore is None else str(row.rescore)),
        ("recall", "r", lambda row: share(row.recall, 4)),
        ("95% interval", "r", lambda row: between(row.recall_low, row.recall_high)),
        ("p50 ms", "r", lambda row: milliseconds(row.p50_ms)),
        ("p95 ms", "r", lambda row: milliseconds(row.p95_ms)),
        ("q/s", "r", lambda row: f"{row.qps:,.0f}"),
        ("", "l", lambda row: DEFAULT_MARK + " exact" * row.exact if row.current else ""),
    ]
    absent = set()
    if all(row.hnsw_ef is None for row in rows):
        absent |= {"ef"}
    if all(row.oversampling is None for row in rows):
        absent |= {"oversampling", "rescore"}
    if not any(row.current for row in rows):
        absent |= {""}
    columns = [column for column in columns if column[0] not in absent]
    names = tuple(name for name, _, _ in columns)
    reached = [_reaches(row, goal) for row in rows]
    return Table(
        caption="Each cell: recall, latency of one query, queries a second of one client",
        heads=(names,),
        body=tuple(
            tuple(Cell(show(row), strong=good and name == "recall") for name, _, show in columns)
            for row, good in zip(rows, reached, strict=True)
        ),
        labels=names.index("recall"),
        align="".join(side for _, side, _ in columns),
        notes=_default_note(rows),
    )


def _quantization(rows: Rows[QuantizationRow]) -> list[Table]:
    goal = target_of(rows.about)
    found = [_memory(rows)]
    for limit in distinct(row.limit for row in rows):
        of_limit = [row for row in rows if row.limit == limit]
        found += [
            _by_kind(
                f"Recall at limit {limit}",
                of_limit,
                lambda row: Cell(share(row.recall), strong=_reaches(row, goal)),
            ),
            _by_kind(
                f"Latency at limit {limit}: p50 in ms",
                of_limit,
                lambda row: Cell(milliseconds(row.p50_ms)),
            ),
        ]
    return found


def _memory(rows: Rows[QuantizationRow]) -> Table:
    """What each quantization takes, which is the same in all its cells."""
    first = {row.quantization: row for row in reversed(rows)}
    return _plain(
        "Size: what a search compares with (codes), its share of float32 vectors, and the rest",
        ("quantization", "codes", "share", "graph", "on disk", "built in s"),
        [
            (
                kind,
                size(first[kind].code_bytes),
                fraction(first[kind].ratio),
                _size(first[kind].graph_bytes),
                _size(first[kind].disk_bytes),
                f"{first[kind].build_s:.1f}",
            )
            for kind in distinct(row.quantization for row in rows)
        ],
    )


def _by_kind(
    caption: str, rows: Sequence[QuantizationRow], show: Callable[[QuantizationRow], Cell]
) -> Table:
    """The published layout with a kind on each line; what is not quantized has one figure."""
    cells = {(row.quantization, row.oversampling, row.rescore): row for row in rows}
    across = _across((row.oversampling, row.rescore) for row in rows)
    single = [(None, None)] if any(row.oversampling is None for row in rows) else []
    body = []
    for kind in distinct(row.quantization for row in rows):
        figures = [cells.get((kind, *key)) for key in (*single, *across)]
        body.append((Cell(kind), *(Cell("") if row is None else show(row) for row in figures)))
    return Table(
        caption=caption,
        heads=(
            ("oversampling", *("none" for _ in single), *(f"{over:g}" for over, _ in across)),
            ("rescore", *("" for _ in single), *(str(rescore) for _, rescore in across)),
        ),
        body=tuple(body),
        labels=1,
        align="l" * (1 + len(single) + len(across)),
    )


def _dimensions(rows: Rows[DimensionRow]) -> list[Table]:
    """The shape of the table of scores by dimension in Gemini's documentation, and the price."""
    columns: list[tuple[str, Callable[[DimensionRow], str]]] = [
        ("dim", lambda row: f"{row.dim:,}"),
        (f"overlap@{neighbours_of(rows.about)}", lambda row: share(row.overlap, 4)),
        ("95% interval", lambda row: between(row.overlap_low, row.overlap_high)),
    ]
    if any(row.ndcg is not None for row in rows):
        columns += [
            ("nDCG@10", lambda row: "" if row.ndcg is None else share(row.ndcg, 4)),
            ("95% interval", _ndcg_interval),
        ]
    columns += [
        ("vector", lambda row: size(row.vector_bytes)),
        ("all", lambda row: size(row.total_bytes)),
        ("share", lambda row: fraction(row.share)),
    ]
    if any(row.price is not None for row in rows):
        columns.append(("a month", lambda row: "" if row.price is None else price(row.price)))
    return [
        _plain(
            "Quality by dimension, and what the vectors take",
            [name for name, _ in columns],
            [[show(row) for _, show in columns] for row in rows],
        )
    ]


def _ndcg_interval(row: DimensionRow) -> str:
    if row.ndcg_low is None or row.ndcg_high is None:
        return ""
    return between(row.ndcg_low, row.ndcg_high)


def _quality(rows: Rows[QualityRow]) -> list[Table]:
    measures = distinct(measure for row in rows for measure in row.measures)
    best = {each: max(row.measures.get(each, -1.0) for row in rows) for each in measures}
    values = Table(
        caption="Quality by setting",
        heads=(("setting", *map(measure_name, measures)),),
        body=tuple(
            (
                Cell(row.setting),
                *(
                    Cell(share(value, 4), strong=len(rows) > 1 and value == best[measure])
                    if (value := row.measures.get(measure)) is not None
                    else Cell("")
                    for measure in measures
                ),
            )
            for row in rows
        ),
        labels=1,
        align="l" + "r" * len(measures),
    )
    found = [
        (row.setting, measure_name(measure), row.differences[measure])
        for row in rows
        for measure in measures
        if measure in row.differences
    ]
    caption = f"Differences to {rows[0].setting!r}, question by question"
    names = ("setting", "measure")
    shown = [_difference((setting, name), *each) for setting, name, each in found]
    return [values, _differences(caption, names, shown)] if shown else [values]


def _chunking(rows: Rows[ChunkingRow]) -> list[Table]:
    best = max(row.recall for row in rows)
    names = ("chunker", "chunks", "chars", "recall", "95% interval", "precision", "IoU", "budget")
    found = Table(
        caption="The text that answers, by chunker: recall, precision and IoU in %",
        heads=(names,),
        body=tuple(
            (
                Cell(row.chunker),
                Cell(f"{row.chunks:,}"),
                Cell(f"{row.mean_chars:,.0f}"),
                Cell(percent(row.recall), strong=row.recall == best and len(rows) > 1),
                Cell(f"{percent(row.recall_low)}–{percent(row.recall_high)}"),  # noqa: RUF001
                Cell(percent(row.precision)),
                Cell(percent(row.iou)),
                Cell(percent(row.recall_in_budget)),
            )
            for row in rows
        ),
        labels=1,
        align="l" + "r" * 7,
        notes=("budget: recall within a fixed length of retrieved text",),
    )
    shown = [_difference((row.chunker,), *row.difference) for row in rows if row.difference]
    caption = f"Differences of recall to {rows[0].chunker!r}, question by question"
    return [found, _differences(caption, ("chunker",), shown)] if shown else [found]


def excludes_zero(low: float, high: float) -> bool:
    """Whether an interval lies on one side of nothing: then the difference is hardly chance."""
    return low > 0 or high < 0


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says."""
    if excludes_zero(low, high):
        return "better" if low > 0 else "worse"
    return "no difference shown"


def _difference(names: tuple[str, ...], value: float, low: float, high: float) -> tuple[Cell, ...]:
    return (
        *map(Cell, names),
        Cell(signed(value), strong=excludes_zero(low, high)),
        Cell(f"{signed(low)} to {signed(high)}"),
        Cell(verdict(low, high)),
    )


def _differences(caption: str, names: tuple[str, ...], body: Sequence[tuple[Cell, ...]]) -> Table:
    """One line for each: a difference means little without its interval."""
    return Table(
        caption=caption,
        heads=((*names, "difference", "95% interval", "that is"),),
        body=tuple(body),
        labels=len(names),
        align="l" * len(names) + "rrl",
    )


def _plain(caption: str, names: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """A table of one row of headings and one column that names the row."""
    return Table(
        caption=caption,
        heads=(tuple(names),),
        body=tuple(tuple(map(Cell, line)) for line in lines),
        labels=1,
        align="l" + "r" * (len(names) - 1),
    )


def _size(count: int | None) -> str:
    return "" if count is None else size(count)


def _ef(ef: int | None) -> str:
    return "own" if ef is None else str(ef)


_LAYOUTS: dict[str, Callable[[Rows[Any]], list[Table]]] = {
    "recall": _recall,
    "quantization": _quantization,
    "dimensions": _dimensions,
    "quality": _quality,
    "chunking": _chunking,
}
