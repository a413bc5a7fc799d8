"""Rows as plots: a PNG beside the tables, and SVG for a page.

matplotlib (extra `bench`) is loaded when the first figure is drawn, and only its objects are used:
no pyplot, no global setting. Colours are told apart by the colour-blind (Okabe and Ito's), and
nothing is said by colour alone: limits have their own marks, rescoring fills them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragkit.benchmark.files import write_whole
from ragkit.benchmark.layouts import excludes_zero, neighbours_of, target_of
from ragkit.benchmark.recall import cheapest, pareto
from ragkit.benchmark.tables import distinct, measure_name, size
from ragkit.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ragkit.benchmark.chunkings import ChunkingRow
    from ragkit.benchmark.dimensions import DimensionRow
    from ragkit.benchmark.qualities import QualityRow
    from ragkit.benchmark.quantizations import QuantizationRow
    from ragkit.benchmark.recall import RecallRow
    from ragkit.benchmark.rows import Rows

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#7F7F7F", "#B00020")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DPI = 160
_SMALL, _TEXT = 8.0, 9.0  # points


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What depends on where a figure is shown."""

    ink: str = "#1b1b1b"
    paper: str = "#ffffff"


# Colours that stand for those of the page, which knows whether it is dark.
_FOR_PAGE = _Look(ink="#010203", paper="#fdfcfb")


def save_plot(rows: Rows[Any], folder: str | Path) -> Path:
    """Draw a measurement into a PNG, named after it as `recall.png`.

    Raises:
        MissingDependency: matplotlib is not installed.
        ValueError: There is nothing to draw.
    """
    path = Path(folder) / f"{rows.about.what}.png"
    drawn = io.BytesIO()
    figure(rows).savefig(drawn, format="png", dpi=_DPI, facecolor=_Look().paper)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, drawn.getvalue())
    return path


def svg(rows: Rows[Any]) -> str:
    """Draw a measurement as an SVG element for a page, in the page's own colours.

    Lines and letters take the text's colour, hollow marks that of `--paper`, so that the figure
    follows a page from light to dark.

    Raises:
        MissingDependency: matplotlib is not installed.
        ValueError: There is nothing to draw.
    """
    drawn = io.BytesIO()
    _figure(rows, _FOR_PAGE).savefig(drawn, format="svg", transparent=True)
    return _inline(drawn.getvalue().decode(), rows.about.what)


def figure(rows: Rows[Any]) -> Figure:
    """Draw a measurement as a figure of matplotlib.

    Raises:
        MissingDependency: matplotlib is not installed.
        ValueError: There is nothing to draw.
    """
    return _figure(rows, _Look())


def _figure(rows: Rows[Any], look: _Look) -> Figure:
    draw = _DRAWN.get(rows.about.what)
    if draw is None or not rows:
        raise ValueError(f"expected rows of {', '.join(_DRAWN)}, got {len(rows)} of "
                         f"{rows.about.what!r}")  # fmt: skip
    return draw(rows, look)


def _panels(width: float, height: float, down: int, across: int, look: _Look) -> tuple[Any, Any]:
    """A figure and its axes, shape (down, across), in the manner of all."""
    made = require("matplotlib.figure", "bench").Figure(
        figsize=(width, height), layout="constrained"
    )
    axes = made.subplots(down, across, squeeze=False)
    for each in axes.flat:
        each.set_facecolor("none")
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(look.ink)
        each.tick_params(colors=look.ink, labelsize=_SMALL, which="both")
        each.grid(visible=True, color=look.ink, alpha=0.12, linewidth=0.6)
        each.set_axisbelow(True)
    return made, axes


def _label(axes: Axes, look: _Look, *, title: str = "", x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=_TEXT + 1, color=look.ink, fontweight="bold")
    axes.set_xlabel(x, fontsize=_TEXT, color=look.ink)
    axes.set_ylabel(y, fontsize=_TEXT, color=look.ink)


def _recall(rows: Rows[RecallRow], look: _Look) -> Figure:
    made, axes = _panels(10.0, 4.6, 1, 2, look)
    left, right = axes[0]
    goal = target_of(rows.about)
    looks = _looks([row.limit for row in rows])
    if any(row.oversampling is not None for row in rows):
        _by_oversampling(left, rows, looks, look)
    else:
        _by_limit(left, rows, look)
    _by_latency(right, rows, looks, goal, look)
    low, high = min(row.recall_low for row in rows), max(row.recall_high for row in rows)
    pad = max(0.02, 0.06 * (high - low))
    for each in (left, right):
        each.set_ylim(low - pad, min(1.0, high) + pad)
        if goal is not None:
            each.axhline(goal, color=look.ink, linewidth=1.0, linestyle=":")
    _recall_legend(made, rows, looks, goal, look)
    return made  # type: ignore[no-any-return]


def _by_oversampling(
    axes: Axes, rows: Sequence[RecallRow], looks: dict[Any, tuple[str, str]], look: _Look
) -> None:
    """Recall against oversampling, at the largest `hnsw_ef`: a line for each limit."""
    efs = distinct(row.hnsw_ef for row in rows if row.oversampling is not None)
    ef = max(efs, key=lambda each: each or 0)
    for limit, (colour, mark) in looks.items():
        for rescore in (True, False):
            line = sorted(
                {
                    row.oversampling: row
                    for row in reversed(rows)
                    if row.oversampling is not None
                    and (row.limit, row.rescore, row.hnsw_ef) == (limit, rescore, ef)
                }.items()
            )
            if not line:
                continue
            at, found = [over for over, _ in line], [row for _, row in line]
            low, high = [row.recall_low for row in found], [row.recall_high for row in found]
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                at,
                [row.recall for row in found],
                color=colour,
                marker=mark,
                markersize=6,
                linestyle="-" if rescore else "--",
                markerfacecolor=colour if rescore else look.paper,
            )
    axes.set_xticks(sorted({row.oversampling for row in rows if row.oversampling is not None}))
    axes.xaxis.set_major_formatter("{x:g}")
    where = "" if len(efs) == 1 else f", hnsw_ef {'own' if ef is None else ef}"
    _label(axes, look, title=f"Recall by oversampling{where}", x="oversampling", y="recall")


def _by_limit(axes: Axes, rows: Sequence[RecallRow], look: _Look) -> None:
    """Recall against the limit, where nothing is quantized: a line for each `hnsw_ef`."""
    rows = [row for row in rows if not row.exact]
    efs = distinct(row.hnsw_ef for row in rows)
    limits = distinct(row.limit for row in rows)
    for ef, (colour, mark) in _looks(efs).items():
        found = [row for row in rows if row.hnsw_ef == ef]
        at = [limits.index(row.limit) for row in found]
        low, high = [row.recall_low for row in found], [row.recall_high for row in found]
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        name = "its own hnsw_ef" if ef is None else f"hnsw_ef {ef}"
        axes.plot(at, [row.recall for row in found], color=colour, marker=mark, label=name)
    axes.set_xticks(range(len(limits)), [str(limit) for limit in limits])
    if len(efs) > 1:
        axes.legend(fontsize=_SMALL, frameon=False, labelcolor=look.ink, loc="lower left")
    _label(axes, look, title="Recall by limit", x="limit", y="recall")


def _by_latency(
    axes: Axes,
    rows: Sequence[RecallRow],
    looks: dict[Any, tuple[str, str]],
    goal: float | None,
    look: _Look,
) -> None:
    """Every cell, the front of each limit, and a ring round what was chosen of it."""
    for limit, (colour, mark) in looks.items():
        of_limit = [row for row in rows if row.limit == limit]
        front = pareto(of_limit)
        at, found = [row.p50_ms for row in front], [row.recall for row in front]
        axes.plot(at, found, color=colour, linewidth=1.0, alpha=0.7)
        for row in of_limit:
            hollow = row.rescore is False
            axes.plot(
                [row.p50_ms],
                [row.recall],
                linestyle="none",
                marker=mark,
                markersize=6,
                color=colour,
                markerfacecolor=look.paper if hollow else colour,
            )
        taken = None if goal is None else cheapest(of_limit, limit, goal)
        if taken is not None:
            _ring(axes, taken.p50_ms, taken.recall, look)
    _latency_axis(axes, [row.p50_ms for row in rows])
    _label(
        axes,
        look,
        title="Recall by latency, with the Pareto front",
        x="latency of one query, p50 in ms",
        y="recall",
    )


def _ring(axes: Axes, x: float, y: float, look: _Look) -> None:
    axes.plot([x], [y], linestyle="none", marker="o", markersize=13, markerfacecolor="none",
              markeredgecolor=look.ink, markeredgewidth=1.3)  # fmt: skip


def _latency_axis(axes: Axes, found: Sequence[float]) -> None:
    """Logarithmic where the slowest takes ten times the quickest."""
    if min(found) > 0 and max(found) > 10 * min(found):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, 1.08 * max(found))


def _recall_legend(
    made: Figure,
    rows: Sequence[RecallRow],
    looks: dict[Any, tuple[str, str]],
    goal: float | None,
    look: _Look,
) -> None:
    line = require("matplotlib.lines", "bench").Line2D
    keys = [
        line([], [], color=colour, marker=mark, label=f"limit {limit}")
        for limit, (colour, mark) in looks.items()
    ]
    plain = {"color": look.ink, "marker": "o", "markersize": 5}
    if any(row.rescore is not None for row in rows):
        keys += [
            line([], [], **plain, label="rescored"),
            line([], [], **plain, linestyle="--", markerfacecolor=look.paper, label="not rescored"),
        ]
    if goal is not None:
        keys.append(line([], [], color=look.ink, linestyle=":", label=f"target {goal:g}"))
        ring = {"markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        keys.append(
            line([], [], color=look.ink, marker="o", **ring, label="cheapest that reaches it")
        )
    _legend(made, keys, look)


def _legend(made: Figure, keys: Sequence[Any], look: _Look) -> None:
    """Below all panels, where nothing can lie under it; in two lines where there is much to say."""
    made.legend(
        handles=keys,
        loc="outside lower center",
        ncols=len(keys) if len(keys) <= 9 else (len(keys) + 1) // 2,
        fontsize=_SMALL,
        frameon=False,
        labelcolor=look.ink,
        columnspacing=1.4,
        handlelength=2.4,
    )


def _quantization(rows: Rows[QuantizationRow], look: _Look) -> Figure:
    """A line for each kind, the smallest at the foot: what it takes, finds and costs."""
    limits = distinct(row.limit for row in rows)
    kinds = distinct(row.quantization for row in sorted(rows, key=lambda row: row.code_bytes))
    height = 1.1 + (0.9 + 0.3 * len(kinds)) * len(limits)
    made, axes = _panels(10.5, height, len(limits), 3, look)
    goal = target_of(rows.about)
    for limit, (memory, recall, latency) in zip(limits, axes, strict=True):
        for place, kind in enumerate(kinds):
            found = [row for row in rows if (row.limit, row.quantization) == (limit, kind)]
            if found:
                memory.plot([found[0].code_bytes], [place], color=_COLOURS[0], marker="s")
                _kind(recall, found, place, look, lambda row: row.recall)
                _kind(latency, found, place, look, lambda row: row.p50_ms)
        if goal is not None:
            recall.axvline(goal, color=look.ink, linewidth=1.0, linestyle=":")
        memory.set_xscale("log")
        memory.xaxis.set_major_formatter(lambda value, _: size(value))
        memory.xaxis.set_minor_formatter(lambda *_: "")
        recall.set_xlim(right=1.01)
        _latency_axis(latency, [row.p50_ms for row in rows if row.limit == limit])
        _name_lines((memory, recall, latency), kinds)
        _label(memory, look, x="codes of all vectors")
        _label(recall, look, title=f"Limit {limit}", x="recall")
        _label(latency, look, x="latency of one query, p50 in ms")
    _quantization_legend(made, rows, goal, look)
    return made  # type: ignore[no-any-return]


def _kind(
    axes: Axes,
    found: Sequence[QuantizationRow],
    place: int,
    look: _Look,
    value: Callable[[QuantizationRow], float],
) -> None:
    """The cells of one kind: hollow without rescoring, larger with more oversampling."""
    colour = _COLOURS[0]
    most = max(row.oversampling or 1.0 for row in found)
    ends = [value(row) for row in found]
    axes.plot([min(ends), max(ends)], [place, place], color=colour, linewidth=1.0, alpha=0.6)
    for row in found:
        axes.plot(
            [value(row)],
            [place],
            marker="o",
            markersize=3.5 + 4.0 * (row.oversampling or 1.0) / most,
            color=colour,
            markerfacecolor=look.paper if row.rescore is False else colour,
        )


def _quantization_legend(
    made: Figure, rows: Sequence[QuantizationRow], goal: float | None, look: _Look
) -> None:
    line = require("matplotlib.lines", "bench").Line2D
    plain = {"color": look.ink, "marker": "o", "linestyle": "none"}
    most = max(row.oversampling or 1.0 for row in rows)
    keys = [
        line([], [], **plain, markersize=3.5 + 4.0 * each / most,
             label=f"rescored, oversampling {each:g}")
        for each in sorted({row.oversampling for row in rows if row.oversampling is not None})
    ]  # fmt: skip
    keys.append(line([], [], **plain, markerfacecolor=look.paper, label="not rescored"))
    if goal is not None:
        keys.append(line([], [], color=look.ink, linestyle=":", label=f"target {goal:g}"))
    _legend(made, keys, look)


def _name_lines(panels: Sequence[Axes], names: Sequence[str]) -> None:
    """Panels side by side with a line for each name, told at the left."""
    for number, axes in enumerate(panels):
        shown = [_unset(name) if number == 0 else "" for name in names]
        axes.set_yticks(range(len(names)), shown)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(names) - 0.4)


def _unset(label: str) -> str:
    """A label as it is: between two dollar signs matplotlib would set a formula."""
    return label.replace("$", r"\$")


def _dimensions(rows: Rows[DimensionRow], look: _Look) -> Figure:
    judged = [row for row in rows if row.ndcg is not None]
    made, axes = _panels(9.0 if judged else 5.6, 4.0, 1, 2 if judged else 1, look)
    overlap = [(row.vector_bytes, row.overlap, row.overlap_low, row.overlap_high) for row in rows]
    _over_bytes(axes[0][0], rows, overlap, 0)
    _label(axes[0][0], look, title="Neighbours kept", x="dimensions, and kB of a vector",
           y=f"overlap of the {neighbours_of(rows.about)} nearest")  # fmt: skip
    if judged:
        quality = [
            (row.vector_bytes, row.ndcg or 0.0, row.ndcg_low or 0.0, row.ndcg_high or 0.0)
            for row in judged
        ]
        _over_bytes(axes[0][1], rows, quality, 1)
        _label(axes[0][1], look, title="Quality kept", x="dimensions, and kB of a vector",
               y="nDCG@10")  # fmt: skip
    return made  # type: ignore[no-any-return]


def _over_bytes(
    axes: Axes,
    rows: Sequence[DimensionRow],
    found: Iterable[tuple[int, float, float, float]],
    number: int,
) -> None:
    at, values, lows, highs = zip(*sorted(found), strict=True)
    axes.fill_between(at, lows, highs, color=_COLOURS[number], alpha=0.15, linewidth=0)
    axes.plot(at, values, color=_COLOURS[number], marker=_MARKS[number])
    axes.set_xscale("log", base=2)
    ticks = {row.vector_bytes: f"{row.dim}\n{row.vector_bytes / 1e3:.1f}" for row in rows}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()


def _quality(rows: Rows[QualityRow], look: _Look) -> Figure:
    measures = list(rows[0].measures)
    others = [row for row in rows if row.differences]
    if not others:
        return _dots(
            [row.setting for row in rows],
            [(measure_name(m), [(row.measures[m], None, None) for row in rows]) for m in measures],
            look,
        )
    panels = [(measure_name(m), [tuple(row.differences[m]) for row in others]) for m in measures]
    made = _dots([row.setting for row in others], panels, look, zero=True)
    title = f"Differences to {_unset(rows[0].setting)}, with 95% intervals"
    made.suptitle(title, fontsize=_TEXT + 1, color=look.ink, fontweight="bold")
    return made


def _chunking(rows: Rows[ChunkingRow], look: _Look) -> Figure:
    return _dots(
        [row.chunker for row in rows],
        [
            ("recall", [(row.recall, row.recall_low, row.recall_high) for row in rows]),
            ("recall in budget", [(row.recall_in_budget, None, None) for row in rows]),
            ("precision", [(row.precision, None, None) for row in rows]),
            ("IoU", [(row.iou, None, None) for row in rows]),
        ],
        look,
    )


def _dots(
    names: Sequence[str],
    panels: Sequence[tuple[str, Sequence[tuple[Any, ...]]]],
    look: _Look,
    *,
    zero: bool = False,
) -> Figure:
    """A dot for each name in each panel, with its interval; hollow where that holds zero."""
    made, axes = _panels(max(6.0, 2.6 * len(panels)), 1.5 + 0.36 * len(names), 1, len(panels), look)
    places = list(range(len(names)))[::-1]
    for each, (title, found) in zip(axes[0], panels, strict=True):
        for place, (value, low, high) in zip(places, found, strict=True):
            if low is not None:
                each.plot([low, high], [place, place], color=_COLOURS[0], linewidth=1.6)
            sure = not zero or excludes_zero(low, high)
            face = _COLOURS[0] if sure else look.paper
            each.plot([value], [place], marker="o", color=_COLOURS[0], markerfacecolor=face)
        if zero:
            each.axvline(0.0, color=look.ink, linewidth=1.0)
        each.margins(x=0.15)
        each.locator_params(axis="x", nbins=4)
        _label(each, look, x=title)
    _name_lines(axes[0], list(names)[::-1])
    return made  # type: ignore[no-any-return]


def _looks(values: Iterable[Any]) -> dict[Any, tuple[str, str]]:
    """A colour and a mark for each value."""
    return {
        value: (_COLOURS[n % len(_COLOURS)], _MARKS[n % len(_MARKS)])
        for n, value in enumerate(distinct(values))
    }


def _inline(drawn: str, name: str) -> str:
    """An SVG file as an element of a page: no header, its ids its own, the page's colours."""
    element = drawn[drawn.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(url\(|href=")#', rf"\1#{name}-", element)
    element = element.replace(_FOR_PAGE.ink, "currentColor")
    return element.replace(_FOR_PAGE.paper, "var(--paper)").strip()


_DRAWN: dict[str, Callable[[Any, _Look], Figure]] = {
    "recall": _recall,
    "quantization": _quantization,
    "dimensions": _dimensions,
    "quality": _quality,
    "chunking": _chunking,
}
