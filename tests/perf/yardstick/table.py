"""Measured times become rows of ratios, and these a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from perf.yardstick.measure import Measured

_HEAD = ("what", "ragkit", "against", "its time", "ragkit / it", "recall@10: ragkit, it", "quicker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A row to be.

    Attributes:
        what: Is compared, for the reader.
        ours: The name of ragkit's contender.
        theirs: That of the other.
        of: Which of their times.
    """

    what: str
    ours: str
    theirs: str
    of: Literal["build", "search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One contender's times against another's, round by round.

    Attributes:
        median: Of the rounds' ratios; below 1 the first is the quicker.
        low: The lowest of them.
        high: The highest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """The ratios of times of the same rounds.

        Raises:
            ValueError: They are not of the same rounds, or there are none.
        """
        ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
        if not ratios:
            raise ValueError("expected the times of at least one round, got none")
        return cls(median=statistics.median(ratios), low=min(ratios), high=max(ratios))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def table(pairs: Iterable[Pair], measured: Mapping[str, Measured]) -> str:
    """The Markdown table of all pairs whose two sides took part."""
    there = [pair for pair in pairs if {pair.ours, pair.theirs} <= measured.keys()]
    rows = [_HEAD, ("---",) * len(_HEAD)]
    rows += [_row(pair, measured[pair.ours], measured[pair.theirs]) for pair in there]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(pair: Pair, ours: Measured, theirs: Measured) -> tuple[str, ...]:
    own, other = (side.search_s if pair.of == "search" else side.build_s for side in (ours, theirs))
    ratio = Ratio.of(own, other)
    return (
        pair.what,
        _time(statistics.median(own)),
        pair.theirs,
        _time(statistics.median(other)),
        str(ratio),
        f"{ours.recall:.3f}, {theirs.recall:.3f}",
        _quicker(ratio, pair.theirs),
    )


def _quicker(ratio: Ratio, theirs: str) -> str:
    """Who was quicker in every round; nobody if that changed."""
    if ratio.high < 1:
        return "ragkit"
    return theirs if ratio.low > 1 else "neither"


def _time(seconds: float) -> str:
    return f"{_short(seconds)} s" if seconds >= 1 else f"{_short(seconds * 1e3)} ms"


def _short(number: float) -> str:
    """Two digits that count, or the whole number."""
    if number < 1:
        return f"{number:.2g}"
    return f"{number:.1f}" if number < 10 else f"{number:,.0f}"
