"""A table before it is written, and the two ways to write it as text: for a terminal, in Markdown.

How the rows of each measurement are laid out is in `ragkit.benchmark.layouts`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_SHOWN_AS = {"R": "Recall", "RR": "MRR", "AP": "MAP"}  # ir-measures' names, as people say them


class Cell(NamedTuple):
    """One figure of a table; a strong one is what the eye should find."""

    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table before it is written.

    Attributes:
        caption: What it shows, units included.
        heads: The rows of headings, each as long as `align`.
        body: The rows of figures, likewise.
        labels: How many columns on the left name the row.
        align: "l" or "r" for each column.
        notes: What its marks mean.
    """

    caption: str
    heads: tuple[tuple[str, ...], ...]
    body: tuple[tuple[Cell, ...], ...]
    labels: int
    align: str
    notes: tuple[str, ...] = ()

    @property
    def crossed(self) -> bool:
        """Whether several rows of headings cross the columns, as in the table of Qdrant's page."""
        return len(self.heads) > 1


def text(
    table: Table, *, width: int | None = None, emphasis: Callable[[str], str] = lambda cell: cell
) -> str:
    """A table for a terminal, its columns aligned.

    Args:
        table: The table.
        width: How many columns the terminal has. What is wider goes on below, under its labels.
        emphasis: Makes a strong figure visible, where the terminal can.
    """
    heads = [[Cell(head) for head in row] for row in table.heads]
    grid = [
        [Cell(_printable(text), strong) for text, strong in row] for row in (*heads, *table.body)
    ]
    widths = [max(_columns(cell.text) for cell in column) for column in zip(*grid, strict=True)]
    frame = ("| ", " | ", " |") if table.crossed else ("", "  ", "")
    blocks = _blocks(widths, table.labels, width, frame)
    shown = []
    for block in blocks:
        lines = [
            _line([_filled(row[n], widths[n], table.align[n], emphasis) for n in block], frame)
            for row in grid
        ]
        if not table.crossed:
            lines.insert(1, "  ".join("─" * widths[n] for n in block))
        shown.append("\n".join(lines))
    return "\n\n".join(shown)


def markdown(table: Table) -> str:
    """A table for Markdown: readable as it is, strong figures in bold."""
    heads = [[_escaped(each) for each in row] for row in table.heads]
    body = [
        [f"**{_escaped(cell.text)}**" if cell.strong else _escaped(cell.text) for cell in row]
        for row in table.body
    ]
    grid = [*heads, *body]
    widths = [max(3, *map(_columns, column)) for column in zip(*grid, strict=True)]
    rule = [
        "-" * (width - 1) + (":" if side == "r" else "-")
        for width, side in zip(widths, table.align, strict=True)
    ]
    lines = [
        _line(map(_padded, row, widths, table.align), ("| ", " | ", " |"))
        for row in (grid[0], rule, *grid[1:])
    ]
    notes = ["", *map(_escaped, table.notes)] if table.notes else []
    return "\n".join([f"**{_escaped(table.caption)}**", "", *lines, *notes])


def share(value: float, digits: int = 3) -> str:
    """A number from 0 to 1, never rounded up to 1: only what is whole looks whole."""
    shown = f"{value:.{digits}f}"
    return f"0.{'9' * digits}" if float(shown) == 1.0 and value < 1.0 else shown


def signed(value: float, digits: int = 3) -> str:
    """A difference, always with its sign; nothing is neither more nor less."""
    shown = f"{value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", "−")  # noqa: RUF001  # a minus


def percent(value: float) -> str:
    """A share in per cent, without the sign."""
    return f"{100 * value:.1f}"


def between(low: float, high: float) -> str:
    """An interval of shares."""
    return f"{share(low)}–{share(high)}"  # noqa: RUF001  # a dash between numbers


def size(count: float) -> str:
    """So many bytes, in decimal units."""
    for unit in ("B", "kB", "MB"):
        # What would be rounded up to the next unit is shown in it.
        if float(f"{count:.3g}") < 1_000:
            return f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:,.3g} GB" if count < 1_000 else f"{count:,.0f} GB"


def fraction(value: float) -> str:
    """A share of the full size, as what it was divided by."""
    if 0 < value < 1:
        return f"1/{1 / value:.3g}"
    return f"{value:.3g}"


def milliseconds(value: float) -> str:
    """A time in milliseconds, without the unit: to the microsecond below one."""
    return f"{value:.3f}" if value < 1 else f"{value:,.2f}"


def price(amount: float) -> str:
    """So much money, with the digits that count where it is little."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def measure_name(measure: str) -> str:
    """A measure of ir-measures as people call it: R@10 is Recall@10, RR MRR, AP MAP."""
    head, at, rest = measure.partition("@")
    return _SHOWN_AS.get(head, head) + at + rest


def distinct(values: Iterable[T]) -> list[T]:
    """Each value once, in the order of its first appearance."""
    return list(dict.fromkeys(values))


def _blocks(
    widths: Sequence[int], labels: int, width: int | None, frame: tuple[str, str, str]
) -> list[list[int]]:
    """Which columns stand side by side; the labels begin every block."""
    names = list(range(labels))
    gap = len(frame[1])
    room = (width or 10**9) - len(frame[0]) - len(frame[2]) + gap
    room -= sum(widths[n] + gap for n in names)
    blocks: list[list[int]] = []
    left = -1
    for column in range(labels, len(widths)):
        needed = widths[column] + gap
        if needed > left:
            blocks.append(list(names))
            left = room
        blocks[-1].append(column)
        left -= needed
    return blocks


def _filled(cell: Cell, width: int, side: str, emphasis: Callable[[str], str]) -> str:
    padded = _padded(cell.text, width, side)
    return padded.replace(cell.text, emphasis(cell.text)) if cell.strong and cell.text else padded


def _padded(cell: str, width: int, side: str) -> str:
    space = " " * (width - _columns(cell))
    return space + cell if side == "r" else cell + space


def _line(cells: Iterable[str], frame: tuple[str, str, str]) -> str:
    first, between_cells, last = frame
    return f"{first}{between_cells.join(cells)}{last}".rstrip()


def _printable(shown: str) -> str:
    """What a terminal shows, and does not obey."""
    return "".join(each if each.isprintable() else "\ufffd" for each in shown)


def _columns(shown: str) -> int:
    """How many columns of a terminal a string takes: wide characters two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in shown)
    return len(shown) + wide - sum(map(bool, map(unicodedata.combining, shown)))


def _escaped(shown: str) -> str:
    """As Markdown shows it in a cell of a table."""
    for sign in "\\|*_`<[":
        shown = shown.replace(sign, f"\\{sign}")
    return " ".join(shown.split())
