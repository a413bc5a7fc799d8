"""What follows from rows, in sentences: which setting to take, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ragkit.benchmark.layouts import excludes_zero, neighbours_of, target_of
from ragkit.benchmark.recall import TARGET, RecallRow, cheapest
from ragkit.benchmark.tables import (
    distinct,
    fraction,
    measure_name,
    milliseconds,
    share,
    signed,
    size,
)

if TYPE_CHECKING:
    from ragkit.benchmark.chunkings import ChunkingRow
    from ragkit.benchmark.dimensions import DimensionRow
    from ragkit.benchmark.qualities import QualityRow
    from ragkit.benchmark.quantizations import QuantizationRow
    from ragkit.benchmark.rows import About, Fact, Rows

_ENOUGH = 0.01  # of nDCG: less is lost than most judgements can show


def answers(rows: Rows[Any]) -> list[str]:
    """What a measurement says, in sentences; the first is the answer, the rest its parts.

    Raises:
        ValueError: It is of a kind that has no answers.
    """
    answer = _ANSWERS.get(rows.about.what)
    if answer is None:
        raise ValueError(f"expected rows of {', '.join(_ANSWERS)}, got {rows.about.what!r}")
    return answer(rows) if rows else ["Nothing was measured."]


def chosen(rows: Rows[RecallRow]) -> list[RecallRow]:
    """The one setting to take for all limits: its rows, one for each limit.

    It is the quickest of those that reach the target at every limit, or else the one whose worst
    recall is the best.
    """
    goal = target_of(rows.about) or TARGET
    limits = distinct(row.limit for row in rows)
    by_setting: dict[object, list[RecallRow]] = {}
    for row in rows:
        setting = (row.oversampling, row.rescore, row.hnsw_ef, row.exact)
        by_setting.setdefault(setting, []).append(row)
    whole = [found for found in by_setting.values() if len(found) == len(limits)]
    reaching = [found for found in whole if _worst(found) >= goal]
    if reaching:
        return min(reaching, key=lambda found: sum(row.p50_ms for row in found))
    return max(whole, key=lambda found: (_worst(found), found[0].current), default=[])


def setting_of(row: RecallRow | QuantizationRow) -> str:
    """How a search was set, in words."""
    if isinstance(row, RecallRow) and row.exact:
        return "exact search"
    parts = []
    if row.oversampling is not None:
        parts.append(f"oversampling {row.oversampling:g}")
    if row.rescore is not None:
        parts.append("rescored" if row.rescore else "not rescored")
    if isinstance(row, RecallRow) and row.hnsw_ef is not None:
        parts.append(f"hnsw_ef {row.hnsw_ef}")
    return ", ".join(parts) or "the search as it is"


def circumstances(about: About) -> list[str]:
    """Where, when, with what and on what was measured, a line for each."""
    return [
        f"measured {about.at}",
        f"of: {facts(about.subject)}",
        f"queries: {about.queries}",
        f"on: {facts(about.machine)}",
        f"with: {facts(about.versions)}",
        *(f"note: {note}" for note in about.notes),
    ]


def facts(found: Mapping[str, Fact]) -> str:
    """Names and values in a line; what is not known is left out."""
    return "; ".join(f"{name} {value}" for name, value in shown_facts(found))


def shown_facts(found: Mapping[str, Fact]) -> list[tuple[str, str]]:
    """Names and values as they are read, units behind the values; what is not known is left out."""
    shown = []
    for name, value in found.items():
        if value is not None:
            unit = " GB" if name.endswith("_gb") else ""
            shown.append((name.removesuffix("_gb").replace("_", " "), f"{_fact(value)}{unit}"))
    return shown


def _fact(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _recall(rows: Rows[RecallRow]) -> list[str]:
    goal = target_of(rows.about) or TARGET
    limits = distinct(row.limit for row in rows)
    return [_recall_headline(chosen(rows), goal), *(_at(rows, each, goal) for each in limits)]


def _recall_headline(taken: Sequence[RecallRow], goal: float) -> str:
    if not taken:
        return "No setting was measured at every limit."
    worst, slowest = min(taken, key=lambda row: row.recall), max(row.p50_ms for row in taken)
    time = f"{milliseconds(slowest)} ms or less (median)"
    given = f"recall is {share(worst.recall, 4)} or more, in {time}"
    named = setting_of(taken[0])
    if worst.recall >= goal:
        own = ", which is the default already" if taken[0].current else ""
        return f"Take {named}{own}: at every limit {given}."
    return (
        f"No setting reaches a recall of {goal:g} at every limit. The best of them is {named}: "
        f"{given}."
    )


def _at(rows: Rows[RecallRow], limit: int, goal: float) -> str:
    of_limit = [row for row in rows if row.limit == limit]
    found = cheapest(of_limit, limit, goal)
    now = next((row for row in of_limit if row.current), None)
    if found is None:
        near = max(of_limit, key=lambda row: (row.recall, row.current, -row.p50_ms))
        said = f"limit {limit}: nothing reaches {goal:g}; nearest is {_costs(near)}"
    else:
        near = found
        said = f"limit {limit}: the cheapest that reaches {goal:g} is {_costs(found)}"
    if near.current:
        return f"{said}; it is the default"
    return said if now is None else f"{said}; the default has {_figures(now)}"


def _costs(row: RecallRow) -> str:
    return f"{setting_of(row)}, with {_figures(row)}"


def _figures(row: RecallRow) -> str:
    return f"{share(row.recall, 4)} in {milliseconds(row.p50_ms)} ms"


def _worst(rows: Sequence[RecallRow] | Sequence[QuantizationRow]) -> float:
    return min(row.recall for row in rows)


def _quantization(rows: Rows[QuantizationRow]) -> list[str]:
    goal = target_of(rows.about) or TARGET
    limits = distinct(row.limit for row in rows)
    listed = _listed([str(limit) for limit in limits])
    by_setting: dict[object, list[QuantizationRow]] = {}
    for row in rows:
        by_setting.setdefault((row.quantization, row.oversampling, row.rescore), []).append(row)
    reaching = [
        found
        for found in by_setting.values()
        if len(found) == len(limits) and _worst(found) >= goal
    ]
    if not reaching:
        top = max(by_setting.values(), key=lambda found: (len(found), _worst(found)))
        return [
            f"No quantization reaches a recall of {goal:g} at limit {listed}; the nearest is "
            f"{top[0].quantization}, {setting_of(top[0])}: {_at_limits(top)}."
        ]
    taken = min(reaching, key=lambda each: (each[0].code_bytes, sum(row.p50_ms for row in each)))
    row = taken[0]
    part = "all" if row.ratio >= 1 else fraction(row.ratio)
    return [
        f"The smallest that reaches a recall of {goal:g} at limit {listed} is {row.quantization} "
        f"({setting_of(row)}): {_at_limits(taken)}, in {part} of the memory of float32 vectors "
        f"({size(row.code_bytes)})."
    ]


def _at_limits(rows: Sequence[QuantizationRow]) -> str:
    return _listed([f"{share(row.recall, 4)} at limit {row.limit}" for row in rows])


def _dimensions(rows: Rows[DimensionRow]) -> list[str]:
    full = max(rows, key=lambda row: row.dim)
    said = []
    if full.ndcg is not None:
        kept = [row for row in rows if row.ndcg is not None and row.ndcg >= full.ndcg - _ENOUGH]
        least = min(kept, key=lambda row: row.dim)
        said.append(
            f"{least.dim:,} of {full.dim:,} dimensions are enough for {share(least.ndcg or 0)} "
            f"nDCG@10 of {share(full.ndcg)}, in {fraction(least.share)} of the space."
            if least.dim < full.dim
            else f"No fewer than the {full.dim:,} dimensions keep nDCG@10 at {share(full.ndcg)}, "
            f"or {_ENOUGH:g} below."
        )
    smaller = [row for row in rows if row.dim < full.dim]
    if not smaller:
        return said or [f"Only the full {full.dim:,} dimensions were measured."]
    half = min(smaller, key=lambda row: (abs(row.share - 0.5), row.dim))
    said.append(
        f"Cut to {half.dim:,} dimensions, a vector still finds {share(half.overlap)} of the "
        f"{neighbours_of(rows.about)} neighbours that it has at {full.dim:,}, in "
        f"{fraction(half.share)} of the space."
    )
    return said


def _quality(rows: Rows[QualityRow]) -> list[str]:
    first, said = rows[0], []
    for measure in first.measures:
        best = max(rows, key=lambda row: row.measures.get(measure, -1.0))
        text = f"{best.setting} has the highest {measure_name(measure)}: "
        text += share(best.measures[measure], 4)
        if measure in best.differences:
            value, low, high = best.differences[measure]
            sure = "" if excludes_zero(low, high) else ", which may be chance"
            text += f", {signed(value)} to {first.setting} (95% interval {signed(low)} to "
            text += f"{signed(high)}{sure})"
        said.append(f"{text}.")
    return said


def _chunking(rows: Rows[ChunkingRow]) -> list[str]:
    best = max(rows, key=lambda row: row.recall)
    lean = max(rows, key=lambda row: row.recall_in_budget)
    said = [
        f"Within the same length of retrieved text, chunks of {lean.chunker} bring most of the "
        f"text that answers: recall {share(lean.recall_in_budget)}.",
        f"Counted by chunks it is {best.chunker}, and larger ones have it easier there: recall "
        f"{share(best.recall)}, precision {share(best.precision)}, IoU {share(best.iou)}.",
    ]
    unsure = [
        row.chunker for row in rows if row.difference and not excludes_zero(*row.difference[1:])
    ]
    if unsure:
        said.append(f"Not shown to differ from {rows[0].chunker} in recall: {_listed(unsure)}.")
    return said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_ANSWERS: dict[str, Callable[[Rows[Any]], list[str]]] = {
    "recall": _recall,
    "quantization": _quantization,
    "dimensions": _dimensions,
    "quality": _quality,
    "chunking": _chunking,
}
