"""Repairs of what an examination found: of what is ragkit's own, and where nothing can be lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import grpc
from qdrant_client import models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from ragkit import bulk
from ragkit.chunks import Chunker
from ragkit.collection import Collection
from ragkit.creation import payload_indexes
from ragkit.delivery import WRITING, deliver
from ragkit.doctor.config_checks import index_type
from ragkit.doctor.findings import Finding, Kind, Repair, counted, listed
from ragkit.doctor.point_checks import FIELDS, flaws, own
from ragkit.doctor.version_checks import is_orphan
from ragkit.documents import Skipped
from ragkit.embedders import embedder_of
from ragkit.embeddings import Embedder
from ragkit.errors import DocumentError, RagkitError
from ragkit.failures import reason
from ragkit.ledger import of_corpus, read_ledger
from ragkit.manifest import Manifest
from ragkit.optimizer import release
from ragkit.prepare import Prepared, Preparer
from ragkit.reading.folders import FoundFile, find_files
from ragkit.reports import ProgressCallback
from ragkit.schema import DENSE, match_any
from ragkit.writer import Writer

Mender: TypeAlias = Callable[[Collection, Manifest, Finding], Iterator[Repair]]

_PAGE = 256  # documents looked at together
_NO_HASH = str(None)  # as `own` has it of a point that lost its own
_REREAD: tuple[Kind, ...] = ("incomplete", "stray", "damaged", "missing")
_FOREIGN = (ApiException, QdrantException, grpc.RpcError)


def embedder_for(collection: Collection, manifest: Manifest) -> Embedder | None:
    """The embedder that made the collection's vectors: the caller's, else one by its name."""
    return collection.embedder or embedder_of(manifest.embedder)


def unreadable(collection: Collection, manifest: Manifest, corpus: str) -> str | None:
    """Why documents of a corpus cannot be indexed again from here; None if they can."""
    if not (Path(corpus).is_absolute() and Path(corpus).is_dir()):
        return f"there is no folder {corpus!r} here"
    if Chunker.from_fingerprint(manifest.chunker) is None:
        return f"its chunker {manifest.chunker!r} is a function of your own"
    if manifest.embedder is not None and embedder_for(collection, manifest) is None:
        return f"its vectors are of {manifest.embedder}, which only your own program can make"
    return None


def repaired(
    collection: Collection,
    manifest: Manifest,
    findings: Sequence[Finding],
    *,
    progress: ProgressCallback | None,
) -> Iterator[Repair]:
    """Mend findings, those that others depend on first."""
    fixable = [finding for finding in findings if finding.fixable]
    yield from _each(_BEFORE, fixable, collection, manifest)
    again = [finding for finding in fixable if finding.kind in _REREAD]
    yield from _reread(collection, manifest, again, progress)
    yield from _each(_AFTER, fixable, collection, manifest)


def _each(
    menders: Mapping[Kind, Mender],
    findings: Sequence[Finding],
    collection: Collection,
    manifest: Manifest,
) -> Iterator[Repair]:
    for kind, mend in menders.items():
        for finding in findings:
            if finding.kind == kind:
                yield from _guarded(kind, partial(mend, collection, manifest, finding))


def _guarded(kind: Kind, mend: Callable[[], Iterator[Repair]]) -> Iterator[Repair]:
    """One repair that fails does not stop the others."""
    try:
        yield from mend()
    except (RagkitError, *_FOREIGN) as exc:
        why = str(exc) if isinstance(exc, RagkitError) else reason(exc)
        yield Repair(kind=kind, what=why, done=False)


def _index(collection: Collection, manifest: Manifest, finding: Finding) -> Iterator[Repair]:
    wanted = payload_indexes(embedded=collection.embedded, tenancy=manifest.tenancy, own={})
    for name in finding.subjects:
        schema = wanted[name]

        create = partial(collection.client.create_payload_index, field_schema=schema)
        deliver(
            partial(create, collection.name, name),
            what=f"indexing collection {collection.name!r}",
            retry=WRITING,
        )
        what = f"created the {index_type(schema).value} index on {name!r}"
        yield Repair(kind="index", what=what, done=True)


def _release(collection: Collection, _: Manifest, finding: Finding) -> Iterator[Repair]:
    if not bulk.release(collection):  # else a rebuild or a copy has left it so
        release(collection.client, collection.version)
    yield Repair(kind=finding.kind, what="let the optimizer go on", done=True)


def _wake(collection: Collection, _: Manifest, finding: Finding) -> Iterator[Repair]:
    if collection.embedded:
        collection.optimize()
    else:
        # Any update starts a server's optimizer, also one that changes nothing.
        nothing = models.OptimizersConfigDiff()
        deliver(
            lambda: collection.client.update_collection(collection.name, optimizers_config=nothing),
            what=f"changing collection {collection.name!r}",
            retry=WRITING,
        )
    yield Repair(kind=finding.kind, what="let the optimizer do what is due", done=True)


def _drop(collection: Collection, _: Manifest, finding: Finding) -> Iterator[Repair]:
    for version in finding.subjects:
        if is_orphan(collection.client, version):  # still
            collection.drop_version(version)
            yield Repair(kind=finding.kind, what=f"dropped the empty {version!r}", done=True)


def _sweep(collection: Collection, manifest: Manifest, finding: Finding) -> Iterator[Repair]:
    """Delete what is left beside complete documents."""
    docs = _of_tenant(collection, manifest, finding.tenant)
    corpus = finding.corpus or ""
    deleted = 0
    for sources in _paged(finding.subjects, docs):
        states = _states(docs, corpus, sources)
        deleted += sum(_delete_rest(docs, corpus, each) for each in states.values())
    what = f"deleted {counted(deleted, 'chunk')} of other versions"
    yield Repair(kind=finding.kind, what=what, done=True)


def _reread(
    collection: Collection,
    manifest: Manifest,
    findings: Sequence[Finding],
    progress: ProgressCallback | None,
) -> Iterator[Repair]:
    """Index documents again, corpus by corpus, each once however much is wrong with it."""
    wanted: dict[tuple[str | None, str], dict[str, Kind]] = defaultdict(dict)
    for finding in findings:
        for source in finding.subjects:
            wanted[finding.tenant, finding.corpus or ""].setdefault(source, finding.kind)
    for (tenant, corpus), sources in wanted.items():
        kind = next(iter(sources.values()))
        # The collection is made within the guard: its settings may not go together any more.
        index = partial(_again, collection, manifest, tenant, corpus, kind, list(sources), progress)
        yield from _guarded(kind, index)


def _again(
    collection: Collection,
    manifest: Manifest,
    tenant: str | None,
    corpus: str,
    kind: Kind,
    sources: Sequence[str],
    progress: ProgressCallback | None,
) -> Iterator[Repair]:
    docs = _of_tenant(collection, manifest, tenant)
    yield from _Again(docs, corpus, kind).index(sources, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """A document's points.

    Attributes:
        mine: Ids of all of ragkit's.
        head: Whether its commit record is there.
        rest: Ids of those that do not belong to the complete version, if one is there.
        hashes: The document hashes that those carry.
        claimed: Whether foreign points say that they belong to it as well.
    """

    mine: tuple[str, ...]
    head: bool
    rest: tuple[str, ...]
    hashes: frozenset[str]
    claimed: bool


class _Again:
    """Indexes single documents of a folder again, and touches no other."""

    def __init__(self, collection: Collection, corpus: str, kind: Kind) -> None:
        self._collection = collection
        self._corpus = corpus
        self._kind = kind
        self._files: list[FoundFile] = []
        self._skipped: list[Skipped] = []
        self._deleted = 0

    def index(self, sources: Sequence[str], progress: ProgressCallback | None) -> Iterator[Repair]:
        """Do so, and say what was done and what could not be."""
        self._collection.open_for_writing()
        folder = _Folder(self._corpus)
        for page in _paged(sources, self._collection):
            for source, state in _states(self._collection, self._corpus, page).items():
                self._sort(source, state, folder)
        written = self._write(progress)
        if written:
            yield self._done(f"indexed {counted(written, 'document')} of {self._corpus} again")
        if self._deleted:
            yield self._done(f"deleted {counted(self._deleted, 'chunk')} of files that are gone")
        if self._skipped:
            left = listed([f"{each.source} ({each.reason})" for each in self._skipped])
            yield Repair(kind=self._kind, what=f"left as they are: {left}", done=False)

    def _sort(self, source: str, state: _State, folder: _Folder) -> None:
        """Decide what becomes of a document; what was never complete goes with its file."""
        if state.claimed:
            self._skip(source, "foreign points claim to be of it")
        elif source in folder.files:
            self._files.append(folder.files[source])
        elif not folder.lacks(source):
            found = folder.skipped.get(source)
            self._skip(source, found.reason if found else "its file is left out of the folder")
        elif state.head:
            self._skip(source, "its file is gone; ragkit remove takes it out")
        else:
            self._deleted += _delete(self._collection, self._corpus, state.mine)

    def _skip(self, source: str, reason: str) -> None:
        self._skipped.append(Skipped(source=source, reason=reason))

    def _done(self, what: str) -> Repair:
        return Repair(kind=self._kind, what=what, done=True)

    def _write(self, progress: ProgressCallback | None) -> int:
        """Write the files as if their documents were new; returns how many were committed."""
        if not self._files:
            return 0
        docs, corpus, again = self._collection, self._corpus, {f.source for f in self._files}
        ledger = read_ledger(docs, corpus)
        # What has not changed would be passed over if it were in the ledger as committed.
        committed = {key: held for key, held in ledger.committed.items() if key not in again}
        ledger = replace(ledger, committed=committed, broken=ledger.broken.union(again))
        writer = Writer(docs, corpus, ledger, progress=progress, total=len(again))
        writer.write(self._prepared(Preparer(docs, corpus, ledger), writer))
        self._skipped += writer.failed
        for page in _paged(sorted(again), docs):
            for state in _states(docs, corpus, page).values():
                _delete_rest(docs, corpus, state)
        docs.optimize(if_due=True)
        return len(writer.committed_hashes)

    def _prepared(self, preparer: Preparer, writer: Writer) -> Generator[Prepared, None, None]:
        for file in self._files:
            outcome = preparer.file(file)
            if isinstance(outcome, Prepared):
                self._drop_bad_vectors(file.source)
                yield outcome
            elif isinstance(outcome, Skipped):
                self._skipped.append(outcome)
            writer.saw_one()

    def _drop_bad_vectors(self, source: str) -> None:
        """Take vectors away that would else be used again for the same text."""
        if self._collection.embedder is None:
            return
        points = self._collection.points
        where = of_corpus(self._corpus, match_any("source", [source]))
        for records in points.pages(where, fields=FIELDS, vectors=[DENSE], page=_PAGE):
            bad = [str(record.id) for record, _ in flaws(records)]
            if bad:
                gone = models.DeleteVectors(points=list(bad), vector=[DENSE])
                points.update([models.DeleteVectorsOperation(delete_vectors=gone)])


class _Folder:
    """The files of a folder that documents came from."""

    def __init__(self, corpus: str) -> None:
        found = list(find_files(corpus))
        if not found:
            # An unmounted disk looks like this, too.
            raise DocumentError(f"there are no files in {corpus}: nothing was indexed again")
        self.files = {each.source: each for each in found if isinstance(each, FoundFile)}
        self.skipped = {each.source: each for each in found if isinstance(each, Skipped)}
        self._root = Path(corpus)

    def lacks(self, source: str) -> bool:
        """Whether a file is gone; one that the walk leaves out, or cannot see, is not."""
        closed = tuple(name for name in self.skipped if name.endswith("/"))
        if source in self.files or source in self.skipped or source.startswith(closed):
            return False
        return not (self._root / source).exists()


def _of_tenant(collection: Collection, manifest: Manifest, tenant: str | None) -> Collection:
    return Collection(
        collection.client,
        collection.name,
        embedder=embedder_for(collection, manifest),
        chunker=Chunker.from_fingerprint(manifest.chunker),
        tenant=tenant,
    )


def _states(docs: Collection, corpus: str, sources: Sequence[str]) -> dict[str, _State]:
    """What there is of these documents now."""
    records: dict[str, list[models.Record]] = defaultdict(list)
    where = of_corpus(corpus, match_any("source", sources))
    for record in docs.points.scroll(where, fields=FIELDS):
        records[str((record.payload or {}).get("source"))].append(record)
    return {source: _state(found, docs.manifest.tenancy) for source, found in records.items()}


def _state(records: Sequence[models.Record], tenancy: str | None) -> _State:
    mine = [(str(each.id), found) for each in records if (found := own(each, tenancy))]
    counts = {
        found.document_hash: (record.payload or {}).get("chunk_count")
        for record in records
        if (found := own(record, tenancy)) and found.ordinal == 0
    }
    rest: dict[str, str] = {}
    for key, count in counts.items():
        if type(count) is not int:
            continue
        held = {found.ordinal for _, found in mine if found.document_hash == key}
        if held.issuperset(range(count)):
            rest = {
                id_: found.document_hash
                for id_, found in mine
                if found.document_hash != key or found.ordinal >= count
            }
    return _State(
        mine=tuple(id_ for id_, _ in mine),
        head=bool(counts),
        rest=tuple(rest),
        hashes=frozenset(rest.values()),
        claimed=len(mine) < len(records),
    )


def _delete_rest(docs: Collection, corpus: str, state: _State) -> int:
    """Delete these points as they were seen: a newer version of a chunk has the same id."""
    seen = [] if _NO_HASH in state.hashes else [match_any("document_hash", sorted(state.hashes))]
    return _delete(docs, corpus, state.rest, *seen)


def _delete(docs: Collection, corpus: str, ids: Sequence[str], *must: models.Condition) -> int:
    for page in _paged(ids, docs):
        these = models.HasIdCondition(has_id=list(page))
        docs.points.delete(of_corpus(corpus, these, *must))
    return len(ids)


def _paged(items: Sequence[str], docs: Collection) -> Iterator[Sequence[str]]:
    size = min(_PAGE, docs.points.most_values)
    for i in range(0, len(items), size):
        yield items[i : i + size]


_BEFORE: Mapping[Kind, Mender] = {"index": _index, "optimizer": _release, "orphan": _drop}
_AFTER: Mapping[Kind, Mender] = {"leftover": _sweep, "status": _wake}
