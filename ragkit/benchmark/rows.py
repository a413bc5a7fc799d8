"""What a measurement returns: rows, and what they were measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

Row = TypeVar("Row")
Fact: TypeAlias = str | int | float | bool | None

# (what is being done, how much of it is done, of how much)
MeasureCallback: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Under which circumstances rows were measured: without them numbers mean little.

    Attributes:
        what: Which measurement: "recall", "quantization", "dimensions", "quality", "chunking".
        at: When it began, ISO 8601 in UTC.
        subject: Of what: collection, store, points, dimensions, quantization, segments, the share
            that is indexed, and the like.
        machine: Where: processor, cores, memory, system.
        versions: With what: of ragkit, the engine or server, and the libraries that count.
        queries: How many queries, and where they are from, in a sentence.
        method: How, in sentences a reader of the numbers has to know.
        settings: What was asked for, such as the target.
        notes: What else was found, and what to mind.
    """

    what: str
    at: str
    subject: Mapping[str, Fact]
    machine: Mapping[str, Fact]
    versions: Mapping[str, str]
    queries: str
    method: tuple[str, ...] = ()
    settings: Mapping[str, Fact] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Rows(list[Row]):
    """Rows in the order of the table, with what they were measured on.

    Attributes:
        about: The circumstances.
    """

    about: About

    def __init__(self, rows: Iterable[Row], *, about: About) -> None:
        super().__init__(rows)
        self.about = about
