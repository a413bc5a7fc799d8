"""What a batch job has to embed of a folder, and the indexing run that writes what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ragkit.chunks import Chunk, Chunker, chunker_fingerprint
from ragkit.collection import Collection
from ragkit.errors import CollectionMismatch
from ragkit.gemini.batch_lines import request_key
from ragkit.gemini.batch_state import BatchJob
from ragkit.indexer import Indexer
from ragkit.ledger import stored_vectors
from ragkit.pipeline import batched
from ragkit.prepare import Prepared, Preparer
from ragkit.reading.folders import MAX_BYTES
from ragkit.schema import chunk_hash, fitting_title, lexical_text
from ragkit.sparse import average_length
from ragkit.tokens import estimate_tokens

_PAGE = 1000  # chunks looked up at a time; BM25's average length is measured on the first


class Walk(TypedDict, total=False):
    """The options of `Indexer.sync` that say which files are meant."""

    corpus: str | None
    include: Sequence[str]
    exclude: Sequence[str]
    max_bytes: int


def walk_of(job: BatchJob) -> Walk:
    """The walk that a job was submitted for."""
    return Walk(
        corpus=job.corpus, include=job.include, exclude=job.exclude, max_bytes=job.max_bytes
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToEmbed:
    """A chunk whose vector is not there yet, as its embedder is to be given it."""

    key: str
    source: str
    title: str
    text: str

    @property
    def tokens(self) -> int:
        """Estimated, the title's included."""
        return estimate_tokens(self.text) + estimate_tokens(self.title)


class BatchIndexer(Indexer):
    """An indexer that can tell what it would embed, and leaves the state of jobs out of the walk.

    Args:
        collection: Its embedder is asked for nothing but its name and limits.
        state_folder: May lie in the folder that is indexed, and holds texts.
    """

    def __init__(self, collection: Collection, state_folder: Path) -> None:
        super().__init__(collection)
        self._state_folder = state_folder.resolve()

    def to_embed(self, folder: Path, walk: Walk) -> Iterator[ToEmbed]:
        """The chunks whose vectors are not in the collection, each content once.

        The collection is created with the first of them: it holds the settings that another
        process needs to go on.
        """
        found = self._walk(
            folder,
            include=walk.get("include", ()),
            exclude=walk.get("exclude", ()),
            max_bytes=walk.get("max_bytes", MAX_BYTES),
        )
        self._open()
        corpus = walk.get("corpus") or found.corpus
        ledger = self._ledger(corpus)
        found.refuse_to_empty(ledger)
        preparer = Preparer(self._collection, corpus, ledger)
        outcomes = (preparer.file(file) for file in found.files)
        chunks = (chunk for o in outcomes if isinstance(o, Prepared) for chunk in o.chunks)
        seen: set[str] = set()
        for page in batched(chunks, _PAGE):
            self._create_if_missing(page)
            fresh = {key: c for key, c in ((chunk_hash(c), c) for c in page) if key not in seen}
            seen.update(fresh)
            stored = stored_vectors(self._collection, fresh)
            yield from (self._to_embed(c) for key, c in fresh.items() if key not in stored)

    def _to_embed(self, chunk: Chunk) -> ToEmbed:
        title = embedded_title(chunk, self._collection)
        key = request_key(title, chunk.text)
        return ToEmbed(key=key, source=chunk.source, title=title, text=chunk.text)

    def _create_if_missing(self, chunks: Sequence[Chunk]) -> None:
        if not self._collection.exists():
            language = self._collection.language
            texts = (lexical_text(chunk) for chunk in chunks)
            self._collection.create(avg_len=average_length(texts, language=language))

    def _own_database(self, root: Path) -> list[str]:
        own = super()._own_database(root)
        with suppress(ValueError):  # it lies elsewhere
            own.append(f"/{self._state_folder.relative_to(root)}/")
        return own


def embedded_title(chunk: Chunk, collection: Collection) -> str:
    """The title that the writer gives the embedder with a chunk."""
    assert collection.embedder is not None  # noqa: S101  (checked when a job is begun)
    return fitting_title(chunk, max_tokens=collection.embedder.max_tokens)


def chunker_of(collection: Collection, fingerprint: str) -> Callable[..., list[Chunk]]:
    """The chunker that a job was submitted with.

    Raises:
        CollectionMismatch: It is neither the collection's nor one of ragkit's own.
    """
    if chunker_fingerprint(collection.chunker) == fingerprint:
        return collection.chunker
    own = Chunker.from_fingerprint(fingerprint)
    if own is not None and own.fingerprint == fingerprint:
        return own
    raise CollectionMismatch(
        f"the job was submitted with the chunker {fingerprint!r}, this collection has "
        f"{chunker_fingerprint(collection.chunker)!r}: pass the chunker it was submitted with"
    )
