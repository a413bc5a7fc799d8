"""Make a collection anew beside itself, with another embedder, width or quantization, and swap.

Searches go on all the while, on the old version and then, from one moment to the next, on the new
one. That one is used only if it holds what the old one does, and if its search finds enough of what
an exact search finds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from typing import Literal, TypeAlias, Unpack

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.collection import Collection
from ragkit.creation import Settings, placed
from ragkit.delivery import deliver
from ragkit.edge import EdgeClient
from ragkit.embedders import is_cut_of, with_dim
from ragkit.embeddings import Embedder
from ragkit.errors import CollectionError, CollectionMismatch, EmbedderUnavailable
from ragkit.failures import Failure, kind_of
from ragkit.manifest import Manifest
from ragkit.moving.filling import (
    Source,
    Version,
    begin,
    catch_up,
    check_counts,
    create_indexes,
    fill,
    hand_over,
)
from ragkit.moving.inherited import Inherited, inherited, quantization_of
from ragkit.moving.mirror import (
    Change,
    Filling,
    FillingCallback,
    Mirrored,
    copied,
    page_of,
    state_of,
)
from ragkit.moving.recall import overlap, recall, sample_of
from ragkit.moving.reembedding import Reembedding, cut_to
from ragkit.points import Points
from ragkit.quantization import AnyQuantization, Quantization
from ragkit.schema import BM25, DENSE
from ragkit.usage import Usage
from ragkit.versions import base, number, physical, versions

Way: TypeAlias = Literal["copied", "cut", "embedded", "left out"]

_NAMES = "reading the names"


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What a rebuild did.

    Attributes:
        name: What stands for the new version now.
        old: The version before, which stays until it is pruned.
        new: The version now.
        points: Points of it.
        documents: Documents of it.
        vectors: Where its dense vectors are from: "copied", "cut" to fewer dimensions, "embedded"
            anew, or "left out".
        embedded: Texts given to the embedder in this run.
        recall: Of its 10 nearest neighbours by default search against exact search, averaged; None
            without dense vectors.
        overlap: How many of the 10 nearest neighbours by the old vectors are among those by the
            cut ones, both exact; None if no vector was cut, or the server forbids exact searches.
        resumed: Whether an interrupted run had begun it.
        dropped: Versions that were begun with other settings and never completed.
        pruned: Older versions that were deleted at the end.
        usage: What embedding used in this run; None if the embedder does not count.
        notes: What is worth knowing.
        seconds: Wall time.
    """

    name: str
    old: str
    new: str
    points: int
    documents: int
    vectors: Way
    embedded: int
    recall: float | None
    overlap: float | None
    resumed: bool
    dropped: tuple[str, ...]
    pruned: tuple[str, ...]
    usage: Usage | None
    notes: tuple[str, ...]
    seconds: float


def rebuild(
    collection: Collection,
    *,
    embedder: Embedder | Literal["same"] | None = "same",
    dim: int | None = None,
    quantization: AnyQuantization | None = None,
    min_recall: float = 0.95,
    sample: int = 100,
    progress: FillingCallback | None = None,
    prune: bool = False,
    **settings: Unpack[Settings],
) -> RebuildReport:
    """Make a new version of a collection, check it, and let the name stand for it.

    It may be searched and written to meanwhile. After an interruption the same call goes on, and
    what was written is not embedded again. All tenants' points are taken. With another embedder,
    whoever has the collection open must open it anew with that one.

    Args:
        collection: Which; its client, its name and nothing else counts.
        embedder: Of the new version. None makes one for keyword search alone.
        dim: Another width with the same embedder. A lower one of a Matryoshka model is cut from
            the stored vectors, and needs no call.
        quantization: Of the new version; as the old one has it unless given.
        min_recall: The least share of the 10 nearest neighbours of an exact search that the new
            version's default search must find, for it to be used.
        sample: How many stored vectors to measure that with.
        progress: Called after every page of points.
        prune: Delete older versions in the end.
        **settings: Qdrant's own of the new version, as in `Collection`; others are the old one's.

    Raises:
        ValueError: The settings do not go together.
        CollectionNotFound: There is no such collection.
        CollectionError: The new version was not good enough, or could not be made whole; the old
            one is in use as before, and the message says what can be done.
        EmbedderUnavailable: The embedder cannot go on; the same call goes on later.
    """
    if not 0.0 <= min_recall <= 1.0 or sample < 1:
        raise ValueError(
            f"expected min_recall from 0 to 1 and a sample of at least 1, got {min_recall} and "
            f"{sample}"
        )
    plan = _planned(collection, embedder, dim, quantization, settings)
    return _Rebuild(plan, progress).run(min_recall=min_recall, sample=sample, pruning=prune)


def prune(collection: Collection, *, unfinished: bool = False) -> tuple[str, ...]:
    """Delete the older versions of a collection that no name stands for; returns them.

    Args:
        collection: Which.
        unfinished: Those that a rebuild has begun and not completed as well.
    """
    client, name = collection.client, collection.name
    current = deliver(lambda: physical(client, name), what=_NAMES)
    if current == name or base(current) != name:
        return ()
    aliases = deliver(client.get_aliases, what=_NAMES).aliases
    named = {each.collection_name for each in aliases}
    pruned = []
    for each in deliver(lambda: versions(client, name), what=_NAMES):
        manifest = _manifest(client, each)
        if each in named or manifest is None:
            continue
        is_older = number(each) < number(current) and manifest.filling is None
        if is_older or (unfinished and manifest.filling is not None):
            collection.drop_version(each)
            pruned.append(each)
    return tuple(pruned)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a rebuild is to do; nothing is done yet."""

    collection: Collection  # the caller's
    current: str
    info: models.CollectionInfo
    held: Manifest
    wanted: Manifest
    embedder: Embedder | None  # only where it has something to do
    quantization: Quantization
    vectors: Way
    inherited: Inherited
    settings: Settings

    @property
    def client(self) -> QdrantBase:
        return self.collection.client

    @property
    def name(self) -> str:
        return self.collection.name

    @property
    def keeps_dense(self) -> bool:
        return self.vectors in ("copied", "cut") and self.held.dim is not None

    @property
    def points(self) -> Points:
        """All that there is to bring over."""
        strict = self.info.config.strict_mode_config
        return Points(self.client, self.current, strict=strict)

    @property
    def page(self) -> int:
        return page_of(self.held.dim if self.keeps_dense else None, self.info.config)

    @property
    def is_embedded(self) -> bool:
        return isinstance(self.client, EdgeClient)


def _planned(
    collection: Collection,
    embedder: Embedder | Literal["same"] | None,
    dim: int | None,
    quantization: AnyQuantization | None,
    settings: Settings,
) -> _Plan:
    client, name = collection.client, collection.name
    held = Collection(client, name).open()
    current = _current(client, name)
    info = deliver(lambda: client.get_collection(current), what=f"reading collection {current!r}")
    new, fingerprint, width = _embedder(held, embedder, dim)
    kind = _quantization(info.config, held, fingerprint, quantization)
    is_embedded = isinstance(client, EdgeClient)
    is_kind = (kind.name, fingerprint) == _kind(held)
    wanted = replace(
        held,
        embedder=fingerprint,
        dim=width,
        quantization=kind.name,
        created_with=installed("ragkit"),
        filling=current,
        # What was found best for other vectors need not be so for these.
        search=held.search if is_kind else {},
        tuned=held.tuned if is_kind else {},
    )
    return _Plan(
        collection=collection,
        current=current,
        info=info,
        held=held,
        wanted=wanted,
        embedder=new,
        quantization=kind,
        vectors=_way(held.embedder, fingerprint),
        inherited=inherited(
            info, held, was_embedded=is_embedded, embedded=is_embedded, asked=settings
        ),
        settings=settings,
    )


def _current(client: QdrantBase, name: str) -> str:
    """The version that the name stands for.

    Raises:
        CollectionError: It stands for itself, so it could not stand for another version.
    """
    current = deliver(lambda: physical(client, name), what=_NAMES)
    if current != name:
        return current
    public = base(name)
    if public is not None and deliver(lambda: physical(client, public), what=_NAMES) == name:
        raise CollectionError(f"{name!r} is a version of {public!r}: rebuild {public!r}")
    raise CollectionError(
        f"{name!r} is the collection's own name, which cannot come to stand for another one: "
        f'"ragkit copy DB DB --collection {name} --as ANOTHER" makes one that can be rebuilt'
    )


def _embedder(
    held: Manifest, asked: Embedder | Literal["same"] | None, dim: int | None
) -> tuple[Embedder | None, str | None, int | None]:
    """The new embedder if there is one to call or to ask, its fingerprint and its width."""
    if asked is None:
        if dim is not None:
            raise ValueError(f"dim={dim} goes with an embedder, and none is to be used")
        return None, None, None
    if asked != "same":
        embedder = asked
        if dim not in (None, embedder.dim):
            raise ValueError(f"dim={dim} is not that of {embedder.fingerprint}: leave dim out")
    elif dim in (None, held.dim):
        return None, held.embedder, held.dim
    else:
        embedder = _resized(held, dim)
    return embedder, embedder.fingerprint, embedder.dim


def _resized(held: Manifest, dim: int | None) -> Embedder:
    embedder = None if dim is None else with_dim(held.embedder, dim)
    if embedder is None:
        raise ValueError(
            f"the vectors are of {held.embedder or 'no embedder'}, of which ragkit cannot make one "
            f"of {dim} dimensions: pass the embedder itself"
        )
    return embedder


def _quantization(
    config: models.CollectionConfig,
    held: Manifest,
    fingerprint: str | None,
    asked: AnyQuantization | None,
) -> Quantization:
    if asked is not None:
        chosen = Quantization.of(asked)
        if fingerprint is None and chosen.name not in ("auto", "none"):
            raise ValueError(
                f"quantization {chosen.name!r} is for vectors, and without an embedder there are "
                "none: leave it out"
            )
        return chosen if fingerprint is not None else Quantization.none()
    if fingerprint is None:
        return Quantization.none()
    # Without vectors nobody had chosen none.
    return Quantization.auto() if held.embedder is None else quantization_of(config, held)


def _way(held: str | None, wanted: str | None) -> Way:
    if wanted is None:
        return "left out"
    if wanted == held:
        return "copied"
    return "cut" if is_cut_of(wanted, held) else "embedded"


class _Rebuild:
    """One rebuild, from its plan to its report."""

    def __init__(self, plan: _Plan, progress: FillingCallback | None) -> None:
        self._plan = plan
        self._progress = progress
        self._started = time.monotonic()
        self._usage_before = _usage_of(plan.embedder)
        self._embedding: Reembedding | None = None

    def run(self, *, min_recall: float, sample: int, pruning: bool) -> RebuildReport:
        plan = self._plan
        version = self._begun()
        create_indexes(version.collection, plan.inherited.indexes)
        source = self._source(version)
        try:
            last = fill(version, source, self._progress)
            found = self._recall(version, min_recall, sample)
            lost = self._overlap(version, sample)
            last = catch_up(version, source, self._progress)
        except EmbedderUnavailable as exc:
            exc.add_note(
                f"what was embedded is kept in {version.own_name}; run this again to go on"
            )
            raise
        except BaseException:
            # Ctrl-C comes here, while a call goes on in its thread: nobody wants it any more.
            getattr(plan.embedder, "close", lambda: None)()
            raise
        check_counts(version, last)
        dropped = hand_over(version, plan.collection, plan.inherited, source.points)
        return self._report(
            version, source, last, recall=found, overlap=lost, dropped=dropped, pruning=pruning
        )

    def _begun(self) -> Version:
        plan = self._plan
        settings = plan.inherited.settings
        maker = Collection(plan.client, plan.name, quantization=plan.quantization, **settings)
        custom = plan.quantization.config if plan.quantization.name == "custom" else None
        return begin(
            maker,
            plan.wanted,
            source=plan.points,
            page=plan.page,
            quantization=custom and placed(custom, embedded=plan.is_embedded),
            instead_of=plan.current,
            settings=plan.settings,
        )

    def _source(self, version: Version) -> Source:
        plan = self._plan
        return Source(
            points=plan.points,
            change=self._change(version),
            vectors=(DENSE, BM25) if plan.keeps_dense else (BM25,),
            page=plan.page,
            total=plan.info.points_count or 0,
        )

    def _change(self, version: Version) -> Change:
        plan = self._plan
        if plan.vectors == "cut":
            assert plan.wanted.dim is not None  # noqa: S101  (cut to something)
            return cut_to(plan.wanted.dim)
        if plan.vectors == "embedded":
            assert plan.embedder is not None  # noqa: S101  (or there were nothing to embed with)
            self._embedding = Reembedding(plan.embedder, version.collection)
            return self._embedding
        return copied(plan.client)

    def _recall(self, version: Version, least: float, size: int) -> float | None:
        if self._plan.wanted.dim is None:
            return None
        self._tell_checking(size)
        found = recall(version.collection, sample_of(version.collection, size))
        if found is not None and found < least:
            raise CollectionError(
                f"{version.own_name!r} finds {found:.3f} of the 10 nearest neighbours that an "
                f"exact search finds, and {least:g} was asked for: {version.name!r} stands for "
                f"{self._plan.current!r} as before. Choose another quantization, or accept it "
                "(--min-recall) if you search with more oversampling; the same call goes on from "
                f'{version.own_name!r}, "ragkit drop {version.own_name}" deletes it'
            )
        return found

    def _overlap(self, version: Version, size: int) -> float | None:
        if self._plan.vectors != "cut":
            return None
        old = Collection(self._plan.client, self._plan.current)
        try:
            return overlap(old, version.collection, sample_of(old, size))
        except Exception as exc:
            # Strict mode may forbid exact searches; nothing depends on this number.
            if kind_of(exc) is not Failure.REFUSED:
                raise
            return None

    def _report(
        self,
        version: Version,
        source: Source,
        last: Mirrored,
        *,
        recall: float | None,
        overlap: float | None,
        dropped: tuple[str, ...],
        pruning: bool,
    ) -> RebuildReport:
        plan = self._plan
        notes = list(plan.inherited.notes)
        if state_of(source.points, page=source.page) != last.state:
            kept = ", and it is kept" if pruning else ""
            notes.append(
                f"something wrote to {plan.current!r} while the name moved on: index that again"
                + kept
            )
            pruning = False
        usage, before = _usage_of(plan.embedder), self._usage_before
        return RebuildReport(
            name=version.name,
            old=plan.current,
            new=version.own_name,
            points=last.points,
            documents=last.documents,
            vectors=plan.vectors,
            embedded=self._embedding.embedded if self._embedding else 0,
            recall=recall,
            overlap=overlap,
            resumed=version.resumed,
            dropped=dropped,
            pruned=prune(plan.collection) if pruning else (),
            usage=usage.since(before) if self._embedding and usage and before else None,
            notes=tuple(notes),
            seconds=time.monotonic() - self._started,
        )

    def _tell_checking(self, size: int) -> None:
        if self._progress is not None:
            self._progress(Filling(phase="checking", done=0, total=size))


def _kind(manifest: Manifest) -> tuple[str, str | None]:
    return manifest.quantization, manifest.embedder


def _manifest(client: QdrantBase, version: str) -> Manifest | None:
    """The manifest of a version; None if ragkit has not made it."""
    try:
        return Collection(client, version).open(unfinished=True)
    except CollectionMismatch:
        return None


def _usage_of(embedder: Embedder | None) -> Usage | None:
    usage = getattr(embedder, "usage", None)
    return usage if isinstance(usage, Usage) else None
