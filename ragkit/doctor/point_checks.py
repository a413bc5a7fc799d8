"""Checks of a collection's points: documents against their commit records, ids, vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
from qdrant_client import models

from ragkit.chunks import Chunk
from ragkit.doctor.findings import Finding, Kind, Severity, counted, listed
from ragkit.manifest import Manifest
from ragkit.points import Points
from ragkit.schema import BM25, DENSE, lexical_text, point_id
from ragkit.sparse import Bm25Encoder, average_length
from ragkit.tenancy import TENANT

SAMPLE = 1_000  # points whose vectors are looked at, unless all are

_TEXT_PAGE = 512
_PAGE_NUMBERS = 1_000_000  # of vectors in a page
_MOST = 1_000  # subjects of a finding, and texts whose length is measured
_NORM = 0.01  # how far from 1 a length may be: vectors may be stored with half precision
_FAR = 2.0  # times; BM25 hardly feels less

FIELDS = ["corpus", "source", "ordinal", "chunk_count", "document_hash", TENANT]
_TEXT_FIELDS = [*FIELDS, "text", "title", "headings", "metadata"]


class Key(NamedTuple):
    """What tells documents apart."""

    tenant: str | None
    corpus: str
    source: str


class Own(NamedTuple):
    """What a point of ragkit's says of itself."""

    key: Key
    ordinal: int
    document_hash: str


def own(record: models.Record, tenancy: str | None) -> Own | None:
    """Which chunk a point is; None if its id is not the one that ragkit gives to such a chunk."""
    fields = record.payload or {}
    corpus, source, tenant = fields.get("corpus"), fields.get("source"), None
    if tenancy is not None:
        tenant = fields.get(TENANT)
        if not isinstance(tenant, str):
            return None
    ordinal, document_hash = fields.get("ordinal"), fields.get("document_hash")
    if not (isinstance(corpus, str) and isinstance(source, str) and type(ordinal) is int):
        return None
    if str(record.id) != point_id(corpus, source, ordinal, tenant=tenant):
        return None
    return Own(Key(tenant, corpus, source), ordinal, str(document_hash))


@dataclass(slots=True)
class Copy:
    """The points of a document that carry the same document hash.

    Attributes:
        points: How many.
        last: The highest number of a chunk.
        expected: How many there should be, by the commit record; None if that is not there.
    """

    points: int = 0
    last: int = -1
    expected: int | None = None

    @property
    def complete(self) -> bool:
        """Whether all chunks are there and no other."""
        return self.points == self.expected == self.last + 1

    def add(self, ordinal: int, fields: Mapping[str, Any]) -> None:
        """Count a point."""
        self.points += 1
        self.last = max(self.last, ordinal)
        if ordinal == 0:
            count = fields.get("chunk_count")
            self.expected = count if type(count) is int else 0


@dataclass(slots=True)
class Census:
    """All points, counted by document: what is kept is a line for each document.

    Attributes:
        documents: The copies of each document, by document hash.
        points: How many points were read.
        foreign: Ids of points that are not ragkit's, the first of them.
        strangers: How many those are.
        claimed: Documents that such points say they belong to.
    """

    documents: dict[Key, dict[str, Copy]] = field(default_factory=lambda: defaultdict(dict))
    points: int = 0
    foreign: list[str] = field(default_factory=list)
    strangers: int = 0
    claimed: set[tuple[str, str]] = field(default_factory=set)

    def add(self, record: models.Record, tenancy: str | None) -> None:
        """Count a point."""
        self.points += 1
        fields = record.payload or {}
        found = own(record, tenancy)
        if found is None:
            self.strangers += 1
            self.claimed.add((str(fields.get("corpus")), str(fields.get("source"))))
            if len(self.foreign) < _MOST:
                self.foreign.append(str(record.id))
            return
        copies = self.documents[found.key]
        copies.setdefault(found.document_hash, Copy()).add(found.ordinal, fields)


def take_census(points: Points, tenancy: str | None, *, page: int) -> Census:
    """Read all points once, without their texts and vectors."""
    census = Census()
    for record in points.scroll(fields=FIELDS, page=page):
        census.add(record, tenancy)
    return census


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What can be done about documents, as the caller knows.

    Attributes:
        name: The collection.
        unreadable: Why the documents of a corpus cannot be indexed again from here; None if they
            can.
    """

    name: str
    unreadable: Callable[[str], str | None]

    def remedy(self, corpus: str, *, fixable: bool) -> str:
        """How to have documents of a corpus indexed again."""
        command = f"ragkit index {quote(corpus)} --collection {quote(self.name)}"
        if fixable:
            return (
                f"ragkit doctor --collection {quote(self.name)} --fix indexes them again; where "
                f"the file is gone: ragkit remove SOURCE --collection {quote(self.name)}"
            )
        why = self.unreadable(corpus)
        if Path(corpus).is_absolute():
            return f"index them again where that can be done: {command}" + (
                f" (not from here: {why})" if why else ""
            )
        return f"index them again with what added them ({why})" if why else command


def check_documents(census: Census, advice: Advice) -> Iterator[Finding]:
    """Documents whose chunks are not all there, and chunks that belong to none."""
    incomplete: dict[Key, str] = {}
    stray: dict[Key, str] = {}
    leftover: dict[Key, str] = {}
    for key, copies in census.documents.items():
        heads = [copy for copy in copies.values() if copy.expected is not None]
        if any(copy.complete for copy in heads):
            others = sum(copy.points for copy in copies.values() if not copy.complete)
            if others:
                leftover[key] = counted(others, "chunk")
        elif heads:
            incomplete[key] = _gap(heads[0])
        else:
            stray[key] = counted(sum(copy.points for copy in copies.values()), "chunk")
    yield from by_corpus(
        incomplete, advice, census, "incomplete", "error", "{} of {} not as the commit record says"
    )
    yield from by_corpus(
        stray, advice, census, "stray", "warning", "chunks of {} of {} that were never completed"
    )
    yield from _leftovers(leftover, advice.name)


def by_corpus(
    documents: Mapping[Key, str],
    advice: Advice,
    census: Census,
    kind: Kind,
    severity: Severity,
    what: str,
) -> Iterator[Finding]:
    """A finding for each corpus of each tenant, about documents that want to be indexed again.

    Args:
        documents: What is wrong with each, in a few words.
        advice: What can be done.
        census: Tells which documents foreign points claim: those are left alone.
        kind: Of the finding.
        severity: Of the finding.
        what: Its text; takes the number of documents and the corpus.
    """
    for (tenant, corpus, claimed), found in _grouped(documents, census.claimed).items():
        fixable = not claimed and advice.unreadable(corpus) is None
        remedy = advice.remedy(corpus, fixable=fixable)
        if claimed:
            remedy = f"first see to the foreign points that claim to be of them; then {remedy}"
        yield Finding(
            kind=kind,
            severity=severity,
            what=f"{what.format(counted(len(found), 'document'), _place(corpus, tenant))}: "
            + listed([f"{source} ({why})" for source, why in found]),
            remedy=remedy,
            fixable=fixable,
            subjects=tuple(source for source, _ in found),
            corpus=corpus,
            tenant=tenant,
        )


def check_foreign(census: Census, name: str) -> Iterator[Finding]:
    """Points whose ids are not those that ragkit gives."""
    if census.strangers:
        yield Finding(
            kind="foreign",
            severity="warning",
            what=f"{counted(census.strangers, 'point')} not made by ragkit, or changed since: "
            + listed(census.foreign, total=census.strangers)
            + "; searches may find them, and no indexing run replaces them",
            remedy=f"if nobody needs them: client.delete({name!r}, [ids])",
            subjects=tuple(census.foreign),
        )


def check_absent(
    points: Points, manifest: Manifest, census: Census, advice: Advice, *, page: int
) -> Iterator[Finding]:
    """Points without a vector that they should have."""
    bm25 = Bm25Encoder(avg_len=manifest.avg_len, language=manifest.language)

    def has_words(fields: Mapping[str, Any]) -> bool:
        # A passage of stop words alone rightly has no vector of keywords.
        return bool(bm25.encode_document(_lexical_text(fields)).indices)

    wanted: list[tuple[str, Callable[[Mapping[str, Any]], bool]]] = [(BM25, has_words)]
    if manifest.dim is not None:
        wanted.append((DENSE, lambda _: True))
    lacking: dict[Key, set[str]] = defaultdict(set)
    for name, is_due in wanted:
        for record in points.scroll(without(name), fields=_TEXT_FIELDS, page=min(page, _TEXT_PAGE)):
            found = own(record, manifest.tenancy)
            if found is not None and is_due(record.payload or {}):
                lacking[found.key].add(name)
    documents = {key: "no " + " and ".join(sorted(names)) for key, names in lacking.items()}
    yield from by_corpus(
        documents, advice, census, "missing", "error", "vectors are missing in {} of {}"
    )


def without(name: str) -> models.Filter:
    """The filter on points that lack a vector."""
    return models.Filter(must_not=[models.HasVectorCondition(has_vector=name)])


@dataclass(slots=True)
class Sample:
    """What was seen in points that were read with their vectors and texts.

    Attributes:
        vectors: How many dense vectors were looked at.
        damaged: What is wrong in each document whose vectors cannot be right.
        metadata: The keys of metadata in use.
        texts: The first texts, as keyword search sees them.
    """

    vectors: int = 0
    damaged: dict[Key, str] = field(default_factory=dict)
    metadata: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)


def take_sample(points: Points, manifest: Manifest, *, full: bool, page: int) -> Sample:
    """Read the first points in the order of their ids, which are hashes: as good as random."""
    sample, seen = Sample(), 0
    page = max(1, min(page, _TEXT_PAGE, _PAGE_NUMBERS // (manifest.dim or 1)))
    vectors = [DENSE] if manifest.dim else []
    for records in points.pages(fields=_TEXT_FIELDS, vectors=vectors, page=page):
        mine = [(each, record) for record in records if (each := own(record, manifest.tenancy))]
        seen += len(mine)
        for _, record in mine:
            _look_at_text(record.payload or {}, sample)
        _look_at_vectors(mine, sample)
        if not full and seen >= SAMPLE:
            break
    return sample


def check_vectors_of(sample: Sample, census: Census, advice: Advice) -> Iterator[Finding]:
    """Dense vectors that are not finite, zero, or not of length 1."""
    yield from by_corpus(
        sample.damaged, advice, census, "damaged", "error", "vectors cannot be right in {} of {}"
    )


def check_metadata(sample: Sample, indexed: Iterable[str], name: str) -> Iterator[Finding]:
    """Metadata that is used and cannot be filtered fast."""
    unindexed = sorted({f"metadata.{key}" for key in sample.metadata}.difference(indexed))
    if unindexed:
        yield Finding(
            kind="unindexed",
            severity="note",
            what=f"metadata without a payload index: {listed(unindexed)}; to filter by it is slow",
            remedy=f"if you filter by it: client.create_payload_index({name!r}, field, "
            'field_schema="keyword")',
            subjects=tuple(unindexed[:_MOST]),
        )


def check_average(sample: Sample, manifest: Manifest) -> Iterator[Finding]:
    """An average length of passages that BM25 was set to and that is far from what is there."""
    if not sample.texts:
        return
    found = average_length(sample.texts, language=manifest.language)
    ratio = found / manifest.avg_len
    if not 1 / _FAR <= ratio <= _FAR:
        yield Finding(
            kind="average",
            severity="note",
            what=f"passages have {found:,.0f} words on average, keyword search was set to "
            f"{manifest.avg_len:,.0f} by the first of them: it weighs length a little wrong",
            remedy="to have it measured anew, index under another name",
        )


def flaws(records: Iterable[models.Record]) -> Iterator[tuple[models.Record, str]]:
    """The records whose dense vectors cannot be right, and why."""
    held = [record for record in records if _dense(record) is not None]
    if not held:
        return
    # JSON has no word for a number that is none: over REST it comes as None, which becomes one.
    vectors = np.asarray([_dense(record) for record in held], np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    for record, length in zip(held, lengths, strict=True):
        if not np.isfinite(length):
            yield record, "not finite"
        elif length == 0:
            yield record, "zero"
        elif abs(length - 1) > _NORM:
            yield record, f"of length {length:.3g}"


def _dense(record: models.Record) -> Any:
    return record.vector.get(DENSE) if isinstance(record.vector, dict) else None


def _look_at_vectors(mine: list[tuple[Own, models.Record]], sample: Sample) -> None:
    sample.vectors += sum(_dense(record) is not None for _, record in mine)
    owners = {str(record.id): each for each, record in mine}
    for record, why in flaws(record for _, record in mine):
        key, ordinal, _ = owners[str(record.id)]
        sample.damaged.setdefault(key, f"chunk {ordinal}: {why}")


def _look_at_text(fields: Mapping[str, Any], sample: Sample) -> None:
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and len(sample.metadata) < _MOST:
        sample.metadata.update(metadata)
    if len(sample.texts) < _MOST:
        sample.texts.append(_lexical_text(fields))


def _lexical_text(fields: Mapping[str, Any]) -> str:
    headings = tuple(map(str, fields.get("headings") or ()))
    text, title = str(fields.get("text") or ""), str(fields.get("title") or "")
    chunk = Chunk(
        source="", ordinal=0, text=text, start=0, end=len(text), title=title, headings=headings
    )
    return lexical_text(chunk)


def _gap(head: Copy) -> str:
    if head.points < (head.expected or 0):
        return f"{head.points:,} of {counted(head.expected or 0, 'chunk')}"
    return (
        f"{counted(head.points, 'chunk')} up to number {head.last:,}, and there should be "
        f"{head.expected or 0:,}"
    )


def _grouped(
    documents: Mapping[Key, str], claimed: set[tuple[str, str]]
) -> dict[tuple[str | None, str, bool], list[tuple[str, str]]]:
    groups: dict[tuple[str | None, str, bool], list[tuple[str, str]]] = defaultdict(list)
    for (tenant, corpus, source), why in sorted(documents.items(), key=lambda each: str(each)):
        groups[tenant, corpus, (corpus, source) in claimed].append((source, why))
    return groups


def _leftovers(documents: Mapping[Key, str], name: str) -> Iterator[Finding]:
    for (tenant, corpus, _), found in _grouped(documents, set()).items():
        yield Finding(
            kind="leftover",
            severity="warning",
            what=f"chunks of another version are left beside "
            f"{counted(len(found), 'complete document')} of {_place(corpus, tenant)}: "
            + listed([f"{source} ({why})" for source, why in found]),
            remedy=f"ragkit doctor --collection {quote(name)} --fix deletes them",
            fixable=True,
            subjects=tuple(source for source, _ in found),
            corpus=corpus,
            tenant=tenant,
        )


def _place(corpus: str, tenant: str | None) -> str:
    return corpus if tenant is None else f"{corpus} (tenant {tenant})"
