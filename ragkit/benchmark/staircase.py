"""Which cells of a grid reach a target, looking at as few of them as possible."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial


def least(rows: int, columns: int, reaches: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """The cells that reach and have no other one that reaches before them, in row and column.

    Looked at are only cells about the border between those that reach and those that do not.

    Args:
        rows: How many; a later one reaches wherever an earlier one does.
        columns: Likewise.
        reaches: Whether the cell of a row and a column does; asked once for each.

    Returns:
        With falling rows and rising columns; nothing if not even the last cell reaches.
    """
    if rows > columns:  # a column is halved again and again, rows are gone through
        turned = least(columns, rows, lambda column, row: reaches(row, column))
        return [(row, column) for column, row in reversed(turned)]
    found: list[tuple[int, int]] = []
    low = 0
    for row in reversed(range(rows)):
        column = _first(partial(reaches, row), low, columns)
        if column == columns:
            break
        if found and found[-1][1] == column:
            found.pop()
        found.append((row, column))
        low = column
    return found


def greatest(rows: int, columns: int, fits: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """The cells that fit and have no other one that fits behind them, in row and column.

    Args:
        rows: How many; an earlier one fits wherever a later one does.
        columns: Likewise.
        fits: Whether the cell of a row and a column does.
    """
    turned = least(rows, columns, lambda row, column: fits(rows - 1 - row, columns - 1 - column))
    return [(rows - 1 - row, columns - 1 - column) for row, column in turned]


def _first(reaches: Callable[[int], bool], low: int, high: int) -> int:
    """The first column that reaches; `high` if none does."""
    if reaches(low):
        return low
    return bisect_left(range(high), True, low + 1, high, key=reaches)
