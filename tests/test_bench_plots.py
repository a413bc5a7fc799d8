"""Measurements as plots."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmark_rows import about, all_rows, chunking_rows, quality_rows, recall_row, recall_rows

from ragkit.benchmark.plots import figure, save_plot, svg
from ragkit.benchmark.rows import Rows
from ragkit.errors import MissingDependency

pytest.importorskip("matplotlib", reason='pip install "ragkit[bench]"')

UNQUANTIZED = Rows(
    [recall_row(limit=limit, hnsw_ef=ef) for limit in (10, 50) for ef in (64, 128)],
    about=about("recall"),
)


@pytest.mark.parametrize(
    "rows",
    [*all_rows(), UNQUANTIZED],
    ids=lambda rows: rows.about.what,
)
def test_no_text_of_a_plot_covers_another_or_leaves_it(rows: Rows[Any]) -> None:
    drawn: Any = figure(rows)
    drawn.draw_without_rendering()
    boxes = [
        (text.get_text(), text.get_window_extent().frozen())
        for axes in drawn.axes
        for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label,
                     *axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts)
        if text.get_text() and text.get_visible() and _inside(axes, text)
    ] + [(text.get_text(), text.get_window_extent())
         for legend in drawn.legends for text in legend.get_texts()]  # fmt: skip
    page = drawn.bbox
    for name, box in boxes:
        assert page.x0 <= box.x0, name
        assert box.x1 <= page.x1, name
    for number, (name, box) in enumerate(boxes):
        for other, another in boxes[:number]:
            assert not box.padded(-1).overlaps(another.padded(-1)), (name, other)


def panels(rows: Rows[Any]) -> Any:
    return figure(rows).axes


def _inside(axes: Any, text: Any) -> bool:
    """Whether a label of an axis is shown: those of ticks beyond its ends are not."""
    x, y = text.get_position()
    if text in axes.get_xticklabels():
        low, high = sorted(axes.get_xlim())
        return bool(low <= x <= high)
    if text in axes.get_yticklabels():
        low, high = sorted(axes.get_ylim())
        return bool(low <= y <= high)
    return True


def test_recall_has_a_line_for_each_limit_and_a_ring_round_each_cell_chosen() -> None:
    left, right = panels(recall_rows())
    lines = [line for line in left.lines if len(line.get_xdata()) == 3]
    rescored = [line.get_ydata()[-1] for line in lines if line.get_linestyle() == "-"]
    assert rescored == [0.95, 0.937778, 0.947111, 0.956333]
    assert len([line for line in lines if line.get_linestyle() == "--"]) == 4
    rings = [line for line in right.lines if line.get_markersize() == 13]
    assert [line.get_ydata()[0] for line in rings] == [0.95, 0.956333]
    assert 0.95 in {line.get_ydata()[0] for line in left.lines if line.get_linestyle() == ":"}


def test_limits_are_told_apart_without_colours() -> None:
    left, _ = panels(recall_rows())
    marks = {line.get_marker() for line in left.lines if len(line.get_xdata()) == 3}
    assert len(marks) == 4


def test_differences_that_may_be_chance_are_hollow() -> None:
    first, *_ = panels(quality_rows())
    dots = [line for line in first.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == line.get_color() for line in dots] == [True, False]


def test_a_picture_is_written_beside_the_tables(tmp_path: Path) -> None:
    path = save_plot(recall_rows(), tmp_path / "new")
    assert path == tmp_path / "new" / "recall.png"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", [recall_rows(), chunking_rows()], ids=lambda rows: rows.about.what)
def test_a_picture_for_a_page_is_one_element_in_the_page_s_colours(rows: Rows[Any]) -> None:
    drawn = svg(rows)
    element = ElementTree.fromstring(drawn.replace("xlink:href", "href"))  # noqa: S314  # our own
    assert element.tag == "svg"
    assert "currentColor" in drawn
    assert "http" not in drawn
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(ids) == len(set(ids))
    assert all(each.startswith(f"{rows.about.what}-") for each in ids)
    asked = set(re.findall(r'(?:url\(|href=")#([^")]+)', drawn))
    assert asked <= set(ids)


def test_no_global_state_of_matplotlib_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    figure(chunking_rows()).savefig(BytesIO(), format="svg")
    assert dict(mpl.rcParams) == before


def test_a_label_is_no_formula() -> None:
    drawn = figure(Rows([replace(row, chunker=r"$\foo$") for row in chunking_rows()],
                        about=about("chunking")))  # fmt: skip
    drawn.savefig(BytesIO(), format="svg")
    assert drawn.axes[0].get_yticklabels()[0].get_text() == r"\$\foo\$"


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 of 'recall'"):
        figure(Rows([], about=about("recall")))
    with pytest.raises(ValueError, match="got 1 of 'weather'"):
        figure(Rows([1], about=about("weather")))


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in its place makes every import of it fail as if it were not there.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"ragkit\[bench\]"):
        figure(recall_rows())
