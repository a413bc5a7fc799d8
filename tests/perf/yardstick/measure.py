"""Rounds: every contender builds and searches in each of them, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from perf.yardstick.contender import LIMIT
from perf.yardstick.data import Data
from perf.yardstick.process import Entry, Process

_WARM_VECTORS = 300
_WARM_SEARCHES = 10
TURN = 20  # searches of one contender before the next has its turn
_LEAST = 0.5  # recall: with less of it something is wired wrong

Say = Callable[[str], None]


class WiredWrong(Exception):
    """A contender finds less than it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of one contender.

    Attributes:
        name: In the table.
        build_s: The seconds to build, of each round in which it was built.
        search_s: The median seconds of a search, of each round.
        recall: The part of the ten nearest neighbours found, over all queries.
    """

    name: str
    build_s: tuple[float, ...]
    search_s: tuple[float, ...]
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A whole run.

    Attributes:
        measured: By name.
        versions: Of all libraries that took part.
        missing: Who did not take part, and why.
    """

    measured: dict[str, Measured]
    versions: dict[str, str]
    missing: dict[str, str]


@dataclass(slots=True)
class _Record:
    process: Process
    data: Data
    build_s: list[float] = field(default_factory=list)
    search_s: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of the round's searches
    found: dict[int, list[int]] = field(default_factory=dict)

    def search(self, queries: Sequence[int]) -> None:
        seconds, found = self.process.search(queries)
        self.seconds += seconds
        self.found.update(zip(queries, found, strict=True))

    def recall(self) -> float:
        """Of all searches so far."""
        ids = [[str(row) for row in self.found[query]] for query in range(len(self.found))]
        return float(self.data.truth.shares(ids, LIMIT).mean())

    def end_round(self) -> None:
        self.search_s.append(statistics.median(self.seconds))
        self.seconds.clear()


def measure(
    entries: Sequence[tuple[Entry, Data]], *, rounds: int, queries: int, say: Say
) -> Outcome:
    """Build and search with all contenders, in rounds.

    Within a round they take turns every few searches, so that what slows the machine down for a
    while falls upon all of them. Each round asks other queries.

    Args:
        entries: Who takes part, and with which data.
        rounds: How many.
        queries: Of one round.
        say: Told what is being done.

    Raises:
        ContenderFailed: A process ended.
        WiredWrong: A recall that cannot be.
    """
    with ExitStack() as running:
        records, versions, missing = _started(running, entries)
        for record in records:
            record.process.build(min(_WARM_VECTORS, record.data.count))
        for number in range(rounds):
            # Who was first is last in the next round.
            order = records[number % len(records) :] + records[: number % len(records)]
            _build(order, number, say)
            say(f"round {number + 1}: searching")
            _search(order, range(number * queries, (number + 1) * queries))
            for record in records:
                entry = record.process.entry
                check_recall(entry.name, record.recall(), exact=entry.exact)
    measured = {record.process.entry.name: _summed_up(record) for record in records}
    return Outcome(measured=measured, versions=versions, missing=missing)


def _started(
    running: ExitStack, entries: Sequence[tuple[Entry, Data]]
) -> tuple[list[_Record], dict[str, str], dict[str, str]]:
    records = [
        _Record(running.enter_context(Process(entry, data.folder)), data) for entry, data in entries
    ]
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for record in records:
        answer = record.process.meet()
        versions |= answer.get("versions", {})
        if "missing" in answer:
            missing[record.process.entry.name] = answer["missing"]
    there = [record for record in records if record.process.entry.name not in missing]
    return there, dict(sorted(versions.items())), missing


def _build(records: Sequence[_Record], number: int, say: Say) -> None:
    for record in records:
        if number == 0 or record.process.entry.rebuilt:
            say(f"round {number + 1}: building {record.process.entry.name}")
            record.build_s.append(record.process.build(record.data.count))


def _search(records: Sequence[_Record], queries: range) -> None:
    for record in records:
        record.process.search(queries[:_WARM_SEARCHES])
    for turn in _turns(queries):
        for record in records:
            record.search(turn)
    for record in records:
        record.end_round()


def _turns(queries: range) -> Iterator[range]:
    for first in range(0, len(queries), TURN):
        yield queries[first : first + TURN]


def _summed_up(record: _Record) -> Measured:
    return Measured(
        name=record.process.entry.name,
        build_s=tuple(record.build_s),
        search_s=tuple(record.search_s),
        recall=record.recall(),
    )


def check_recall(name: str, recall: float, *, exact: bool) -> None:
    """Refuse a recall that cannot be.

    Raises:
        WiredWrong: An exact search misses neighbours, or any other finds less than half of them.
    """
    least = 1.0 if exact else _LEAST
    if recall < least:
        raise WiredWrong(
            f"expected a recall@{LIMIT} of at least {least:g} of {name}, got {recall:.3f}: its "
            "search is not asked for what the others are; nothing that was timed counts"
        )
