"""What an examination of a collection finds, and what comes of mending it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]
Kind: TypeAlias = Literal[
    "store",  # the files or the server cannot be read
    "server",  # its version
    "manifest",
    "vectors",  # their names, sizes and distances
    "index",  # a payload index that ragkit needs
    "unindexed",  # metadata that cannot be filtered fast
    "quantization",
    "placement",  # what is in RAM and what on disk
    "optimizer",
    "status",
    "replicas",
    "unfinished",  # a version that is still being filled
    "orphan",  # an empty version that no name stands for
    "unnamed",  # one with points
    "older",
    "foreign",  # points that are not ragkit's
    "incomplete",  # documents whose chunks are not all there
    "stray",  # chunks of documents that were never completed
    "leftover",  # chunks of another version of a complete document
    "damaged",  # vectors that cannot be right
    "missing",  # vectors that should be there
    "average",  # BM25's average length
    "tuning",  # of its default search, outgrown since
]

_NAMED = 5  # of what a finding is about, in its text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a collection, or worth knowing.

    Attributes:
        kind: What sort of thing.
        severity: An error costs results, or stops a command; a warning costs speed, memory or
            safety; a note costs nothing yet.
        what: What was found, in a sentence.
        remedy: What to do about it.
        fixable: Whether `repair` can try to mend it.
        subjects: What it is about: sources of documents, payload fields, ids of points or
            names of collections; of foreign points the first thousand.
        corpus: Of those documents.
        tenant: Of those documents.
    """

    kind: Kind
    severity: Severity
    what: str
    remedy: str
    fixable: bool = False
    subjects: tuple[str, ...] = ()
    corpus: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was looked at in a collection, and what was found.

    Attributes:
        name: The collection, as it was asked for.
        version: The collection that the name stands for.
        findings: Errors first, notes last.
        fine: What was looked at and found in order.
        documents: How many there are, complete or not.
        points: How many were read, without their vectors.
        vectors: How many dense vectors were looked at.
    """

    name: str
    version: str
    findings: tuple[Finding, ...]
    fine: tuple[str, ...] = ()
    documents: int = 0
    points: int = 0
    vectors: int = 0

    @property
    def healthy(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What came of trying to mend a finding.

    Attributes:
        kind: The finding's.
        what: What was done, or why it could not be.
        done: Whether it was done.
    """

    kind: Kind
    what: str
    done: bool


def listed(names: Sequence[str], *, total: int | None = None) -> str:
    """The first few names, and how many more there are."""
    more = (len(names) if total is None else total) - min(len(names), _NAMED)
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more else "")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 document", "2 documents"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
