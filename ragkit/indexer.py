"""Keep a collection in step with a folder: what is new, changed, unchanged, gone."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from qdrant_client import models

from ragkit.bulk import release
from ragkit.chunks import chunker_fingerprint
from ragkit.collection import Collection
from ragkit.documents import Document, Skipped
from ragkit.edge import EdgeClient
from ragkit.errors import CollectionNotFound, DocumentError, EmbedderUnavailable
from ragkit.failures import Failure, kind_of
from ragkit.ledger import Ledger, of_corpus, read_ledger, stored_vectors
from ragkit.manifest import check_tenancy
from ragkit.optimizer import wait_until_indexed
from ragkit.pipeline import batched
from ragkit.prepare import Prepared, Preparer, Unchanged
from ragkit.reading.folders import MAX_BYTES, FoundFile, find_files
from ragkit.reports import IndexPlan, IndexReport, ProgressCallback
from ragkit.schema import chunk_hash, embedding_title, match_any
from ragkit.tokens import estimate_tokens
from ragkit.tuned import outgrown
from ragkit.usage import Forecast, Usage
from ragkit.versions import check_unmoved
from ragkit.writer import Writer

_DELETE_PAGE = 500
_PLAN_PAGE = 1000
_OPTIMIZE_FROM = 1000  # chunks written; fewer can wait for the next run

_GLOB = re.compile(r"[\\*?\[\] ]")

Outcome: TypeAlias = Prepared | Unchanged | Skipped


class Indexer:
    """Writes documents into a collection and takes away what is gone.

    A run that is cut off anywhere, by Ctrl-C or by a lost power supply, leaves every document it
    had committed; running again completes the rest. A document is committed with the writing of
    its chunk 0, which comes after its other chunks. While a changed document is being replaced, a
    search may see chunks of both versions for a moment.
    """

    def __init__(self, collection: Collection) -> None:
        if not isinstance(collection, Collection):
            raise TypeError(
                f"expected a Collection, got {collection!r}: nothing is indexed into a collection "
                "that ragkit did not make"
            )
        self._collection = collection

    def sync(
        self,
        folder: str | Path,
        *,
        corpus: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        bulk: bool = False,
        progress: ProgressCallback | None = None,
    ) -> IndexReport:
        """Make the collection hold just what the folder holds.

        Args:
            folder: Walked as `find_files` says.
            corpus: The name under which the folder's documents are kept apart from those of other
                folders in the collection; its absolute path unless given. Give one to a folder
                that moves between machines.
            include: See `find_files`.
            exclude: See `find_files`.
            max_bytes: Larger files are skipped.
            bulk: For a large first load into a server: its optimizer is held back while points
                come in, and then waited for; searches are slow until it is done.
            progress: Called as the run goes on, from more than one thread but never twice at once.

        Raises:
            DocumentError: The folder is not there, or holds no file at all; nothing is removed.
            CollectionMismatch: The collection was made with another embedder or other settings;
                nothing has been embedded.
            EmbedderUnavailable: The embedder cannot go on (a quota, a key, the network); what was
                embedded before is kept, and running again goes on from there.
        """
        found = self._walk(folder, include=include, exclude=exclude, max_bytes=max_bytes)
        run = self._run(corpus or found.corpus, progress, total=len(found.files), bulk=bulk)
        found.refuse_to_empty(run.ledger)
        run.skip(found.skipped)
        run.write(run.preparer.file(file) for file in found.files)
        run.remove(found.gone(run.ledger))
        run.sweep(partial=found.incomplete)
        return run.finish()

    def add(
        self,
        documents: Iterable[Document | Skipped],
        *,
        corpus: str = "documents",
        progress: ProgressCallback | None = None,
    ) -> IndexReport:
        """Add documents, or replace those of the same source; no other is removed.

        A `Skipped` among them, as `read_folder` yields it, is passed on to the report.
        """
        run = self._run(corpus, progress, total=None)
        seen: set[str] = set()
        run.write(_prepared_once(documents, run.preparer, seen))
        run.sweep_sources(seen)
        return run.finish()

    def plan(
        self,
        folder: str | Path,
        *,
        corpus: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
    ) -> IndexPlan:
        """Say what `sync` would do and what it would embed, and do nothing."""
        found = self._walk(folder, include=include, exclude=exclude, max_bytes=max_bytes)
        exists = self._open()
        ledger = self._ledger(corpus or found.corpus)
        found.refuse_to_empty(ledger)
        preparer = Preparer(self._collection, corpus or found.corpus, ledger)
        tally = _Tally(self._collection, ledger)
        for file in found.files:
            tally.count(preparer.file(file))
        return IndexPlan(
            added=tuple(tally.added),
            changed=tuple(tally.changed),
            unchanged=tally.unchanged,
            removed=tuple(sorted({*found.gone(ledger), *found.stale(ledger), *tally.stale})),
            skipped=(*found.skipped, *tally.skipped),
            chunks=tally.chunks,
            to_embed=tally.to_embed(),
            tokens=tally.tokens,
            forecast=tally.forecast(),
            notes=_chunker_note(self._collection) if exists else (),
        )

    def remove(self, sources: Iterable[str], *, corpus: str | None = None) -> int:
        """Delete documents by source; returns how many there were.

        A file that is still in its folder comes back with the next `sync`.

        Args:
            sources: As the hits have them.
            corpus: Where they are; may be left out while the collection has one corpus.

        Raises:
            ValueError: The collection has several corpora, and none was named.
        """
        manifest = self._collection.open()
        check_tenancy(manifest, self._collection.tenant, name=self._collection.name)
        wanted = list(dict.fromkeys(_patterns(sources)))
        corpora = list(self._collection.status().corpora)
        if corpus is None and len(corpora) > 1:
            raise ValueError(f"expected corpus to be one of {', '.join(corpora)}, got none")
        home = corpus or (corpora[0] if corpora else "")
        ledger = self._ledger(home)
        # Also what an interrupted run has left of a document that the ledger does not hold.
        _delete(self._collection, home, "source", wanted)
        return sum(ledger.holds(source) for source in wanted)

    def _walk(
        self, folder: str | Path, *, include: Sequence[str], exclude: Sequence[str], max_bytes: int
    ) -> _Walk:
        root = Path(folder).expanduser().resolve()
        left_out = [*_patterns(exclude), *self._own_database(root)]
        include = _patterns(include)
        found = list(find_files(root, include=include, exclude=left_out, max_bytes=max_bytes))
        return _Walk(
            root=root,
            files=tuple(item for item in found if isinstance(item, FoundFile)),
            skipped=tuple(item for item in found if isinstance(item, Skipped)),
        )

    def _own_database(self, root: Path) -> list[str]:
        """The pattern that keeps an embedded database out of the folder that it indexes."""
        client = self._collection.client
        if not isinstance(client, EdgeClient):
            return []
        path = client.path.resolve()
        if root not in path.parents:
            return []
        return [f"/{_GLOB.sub(_escaped, path.relative_to(root).as_posix())}/"]

    def _open(self) -> bool:
        try:
            self._collection.open_for_writing()
        except CollectionNotFound:
            self._collection.check_new()
            return False
        return True

    def _ledger(self, corpus: str) -> Ledger:
        if not self._collection.exists():
            return Ledger(committed={})
        return read_ledger(self._collection, corpus)

    def _run(
        self,
        corpus: str,
        progress: ProgressCallback | None,
        *,
        total: int | None,
        bulk: bool = False,
    ) -> _Run:
        notes: tuple[str, ...] = ()
        if self._open():
            notes = (*_chunker_note(self._collection), *_let_go(self._collection))
            self._collection.record_chunker()
        ledger = self._ledger(corpus)
        return _Run(self._collection, corpus, ledger, notes, progress, total, bulk=bulk)


class _Run:
    """One indexing run: what came of each document, and the deletions at its end."""

    def __init__(
        self,
        collection: Collection,
        corpus: str,
        ledger: Ledger,
        notes: tuple[str, ...],
        progress: ProgressCallback | None,
        total: int | None,
        *,
        bulk: bool,
    ) -> None:
        self.ledger = ledger
        self._bulk = bulk
        self.preparer = Preparer(collection, corpus, ledger)
        self._collection = collection
        self._corpus = corpus
        self._notes = notes
        self._writer = Writer(collection, corpus, ledger, progress=progress, total=total, bulk=bulk)
        self._skipped: list[Skipped] = []
        self._unchanged = 0
        self._removed = 0
        self._usage_before = _usage_of(collection)
        self._started = time.perf_counter()

    def skip(self, skipped: Iterable[Skipped]) -> None:
        self._skipped.extend(skipped)

    def write(self, outcomes: Iterable[Outcome]) -> None:
        try:
            self._writer.write(self._prepared(outcomes))
        except EmbedderUnavailable as exc:
            done = self._writer.added + self._writer.changed
            exc.add_note(
                f"{done} documents were committed in this run, and vectors already paid for are "
                "kept: run again to go on from here"
            )
            raise
        except Exception as exc:
            if kind_of(exc) is Failure.NOT_FOUND:
                name = self._collection.name
                raise CollectionNotFound(
                    f"collection {name!r} was deleted or rebuilt while this run wrote to it: run "
                    "again"
                ) from exc
            raise
        self.skip(self._writer.failed)
        stale = [skipped.source for skipped in self._skipped if skipped.stale]
        self.remove([source for source in stale if self.ledger.holds(source)])

    def remove(self, sources: Sequence[str]) -> None:
        _delete(self._collection, self._corpus, "source", sources)
        self._removed += len(sources)

    def sweep(self, *, partial: bool) -> None:
        """Delete what interrupted runs left, but not of files that could not be read this time.

        Args:
            partial: Whether a folder could not be listed: then nothing is known of its files.
        """
        stray = self._stray()
        if stray and not partial:
            unread = [skipped.source for skipped in self._skipped if not skipped.stale]
            kept = [match_any("source", unread)] if unread else None
            _delete(self._collection, self._corpus, "document_hash", stray, must_not=kept)

    def sweep_sources(self, sources: Iterable[str]) -> None:
        """Delete what interrupted runs left of these documents."""
        stray = self._stray()
        if stray:
            old = match_any("document_hash", stray)
            _delete(self._collection, self._corpus, "source", sorted(sources), must=[old])

    def _stray(self) -> list[str]:
        return sorted(self.ledger.stray.difference(self._writer.committed_hashes))

    def finish(self) -> IndexReport:
        if self._writer.chunks:
            self._collection.optimize(if_due=self._writer.chunks < _OPTIMIZE_FROM)
        if self._writer.chunks or self._removed:
            check_unmoved(self._collection.client, self._collection.name, self._collection.version)
        self._collection.look_again()
        if self._bulk and not self._collection.embedded and self._collection.exists():
            client, name = self._collection.client, self._collection.version
            wait_until_indexed(client, name, progress=self._writer.show)
        return IndexReport(
            added=self._writer.added,
            changed=self._writer.changed,
            unchanged=self._unchanged,
            removed=self._removed + self._writer.removed,
            chunks=self._writer.chunks,
            embedded=self._writer.embedded,
            reused=self._writer.reused,
            skipped=tuple(self._skipped),
            usage=self._usage(),
            notes=(*self._notes, *_growth_note(self._collection)),
            seconds=time.perf_counter() - self._started,
        )

    def _usage(self) -> Usage | None:
        usage = _usage_of(self._collection)
        return usage.since(self._usage_before) if usage and self._usage_before else None

    def _prepared(self, outcomes: Iterable[Outcome]) -> Generator[Prepared, None, None]:
        for outcome in outcomes:
            if isinstance(outcome, Prepared):
                yield outcome
            elif isinstance(outcome, Skipped):
                self._skipped.append(outcome)
            else:
                self._unchanged += 1
            self._writer.saw_one()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """What was found in a folder."""

    root: Path
    files: tuple[FoundFile, ...]
    skipped: tuple[Skipped, ...]

    @property
    def corpus(self) -> str:
        return self.root.as_posix()

    @property
    def incomplete(self) -> bool:
        """Whether a folder below could not be listed."""
        return any(item.source.endswith("/") for item in self.skipped)

    def refuse_to_empty(self, ledger: Ledger) -> None:
        """Raise if there is nothing to index: an unmounted disk looks like this, too."""
        for skipped in self.skipped:
            if skipped.source == "./":
                raise DocumentError(f"cannot list {self.root}: {skipped.reason}")
        if self.files or self.skipped:
            return
        held = len(ledger.sources)
        kept = f"; the {held} documents of it in the collection were kept" if held else ""
        raise DocumentError(
            f"no files to index in {self.root}{kept}: check the path and the include and "
            "exclude patterns"
        )

    def stale(self, ledger: Ledger) -> list[str]:
        """Sources that are stored and were found to hold nothing to index any more."""
        return [each.source for each in self.skipped if each.stale and ledger.holds(each.source)]

    def gone(self, ledger: Ledger) -> list[str]:
        """Sources that are stored and were not found, nor can be hidden below a closed folder."""
        seen = {file.source for file in self.files}.union(item.source for item in self.skipped)
        closed = tuple(item.source for item in self.skipped if item.source.endswith("/"))
        return sorted(
            source for source in ledger.sources - seen if not (closed and source.startswith(closed))
        )


class _Tally:
    """Counts outcomes for a plan."""

    def __init__(self, collection: Collection, ledger: Ledger) -> None:
        self.added: list[str] = []
        self.changed: list[str] = []
        self.stale: list[str] = []
        self.skipped: list[Skipped] = []
        self.unchanged = self.chunks = self.tokens = self._new = 0
        self._collection = collection
        self._ledger = ledger
        self._pending: dict[str, int] = {}
        self._counted: set[str] = set()

    def count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Unchanged):
            self.unchanged += 1
        elif isinstance(outcome, Skipped):
            self.skipped.append(outcome)
            if outcome.stale and self._ledger.holds(outcome.source):
                self.stale.append(outcome.source)
        else:
            source = outcome.document.source
            (self.changed if self._ledger.holds(source) else self.added).append(source)
            self._count_chunks(outcome)

    def to_embed(self) -> int:
        self._look_up()
        return self._new

    def forecast(self) -> Forecast | None:
        """What embedding the new chunks would take, if the embedder can say."""
        forecast = getattr(self._collection.embedder, "forecast", None)
        return forecast(self.to_embed(), self.tokens) if forecast else None

    def _count_chunks(self, prepared: Prepared) -> None:
        self.chunks += len(prepared.chunks)
        if self._collection.embedder is None:
            return
        for chunk in prepared.chunks:
            title_tokens = estimate_tokens(embedding_title(chunk))
            self._pending[chunk_hash(chunk)] = estimate_tokens(chunk.text) + title_tokens
        if len(self._pending) >= _PLAN_PAGE:
            self._look_up()

    def _look_up(self) -> None:
        stored = stored_vectors(self._collection, self._pending) if self._stores_any() else {}
        new = self._pending.keys() - stored.keys() - self._counted
        self._counted |= new
        self._new += len(new)
        self.tokens += sum(self._pending[key] for key in new)
        self._pending.clear()

    def _stores_any(self) -> bool:
        return bool(self._pending) and self._collection.exists()


def _prepared_once(
    documents: Iterable[Document | Skipped], preparer: Preparer, seen: set[str]
) -> Generator[Outcome, None, None]:
    for document in documents:
        if isinstance(document, Skipped):
            yield document
        elif document.source in seen:
            reason = "a document of the same source came before it in this run"
            yield Skipped(source=document.source, reason=reason)
        else:
            seen.add(document.source)
            yield preparer.document(document)


def _patterns(given: Iterable[str]) -> list[str]:
    """A list, also of a lone string, which is an iterable of its letters."""
    return [given] if isinstance(given, str) else list(given)


def _escaped(special: re.Match[str]) -> str:
    return f"\\{special[0]}"


def _usage_of(collection: Collection) -> Usage | None:
    usage = getattr(collection.embedder, "usage", None)
    return usage if isinstance(usage, Usage) else None


def _delete(
    collection: Collection,
    corpus: str,
    field: str,
    values: Sequence[str],
    *,
    must: Sequence[models.Condition] = (),
    must_not: Sequence[models.Condition] | None = None,
) -> None:
    """Delete the points of a corpus with one of these values in a field."""
    if not values:
        return
    points = collection.points
    for some in batched(values, min(_DELETE_PAGE, points.most_values)):
        points.delete(of_corpus(corpus, match_any(field, some), *must, must_not=must_not))


def _let_go(collection: Collection) -> tuple[str, ...]:
    """Let a server's optimizer go that a killed bulk load has left held back."""
    if collection.manifest.held_threads is None or not release(collection):
        return ()
    return ("the optimizer was held back by a bulk load that was killed, or goes on: let go",)


def _growth_note(collection: Collection) -> tuple[str, ...]:
    """Whether it has outgrown its tuning; as it was when it was last looked at."""
    if not collection.exists():
        return ()
    points = collection.info.points_count or 0
    note = outgrown(collection.manifest, points, name=collection.name)
    return () if note is None else (note,)


def _chunker_note(collection: Collection) -> tuple[str, ...]:
    before = collection.manifest.chunker
    now = chunker_fingerprint(collection.chunker)
    if before == now:
        return ()
    return (
        f"the chunker changed from {before!r} to {now!r}: all documents are split again; chunks "
        "with the same text keep their vectors",
    )
