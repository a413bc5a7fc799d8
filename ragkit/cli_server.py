"""The commands that make a collection anew, and that move it to another database."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ragkit.cli_support import (
    DONE,
    Db,
    Dim,
    Json,
    Model,
    Rpm,
    Tpm,
    as_data,
    embedder_for_writing,
    emit,
    exits,
    name_meant,
    names,
    no_such,
    store,
)

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

    from ragkit.creation import Settings
    from ragkit.embeddings import Embedder
    from ragkit.moving.copying import CopyReport
    from ragkit.moving.mirror import Filling, FillingCallback
    from ragkit.moving.rebuild import RebuildReport

_PLAIN_EVERY_S = 5.0  # between two lines of progress in a pipe

Shards = Annotated[
    int | None, typer.Option(help="Into how many shards, on a server.  [default: as it was]", min=1)
]
Replicas = Annotated[
    int | None, typer.Option(help="Copies of each, in a cluster.  [default: as it was]", min=1)
]


@exits
def rebuild(
    name: Annotated[str, typer.Argument(help="The collection to make anew.")],
    db: Db = None,
    embedder: Annotated[
        str | None,
        typer.Option(help="gemini, local, none (keyword search) or hash.  [default: the same]"),
    ] = None,
    model: Model = None,
    dim: Dim = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="auto, none, binary, scalar, turbo or product.  [default: the same]"),
    ] = None,
    shards: Shards = None,
    replicas: Replicas = None,
    min_recall: Annotated[
        float,
        typer.Option(help="Of the neighbours by exact search, how many must be found.", max=1.0),
    ] = 0.95,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete older versions; alone, does nothing else."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Make a collection anew with other settings, while searches go on, and swap.

    Running it again after an interruption goes on where it was.
    """
    from ragkit.collection import Collection
    from ragkit.moving.rebuild import prune as delete_older
    from ragkit.moving.rebuild import rebuild as make_anew

    placement = _placement(shards, replicas)
    unchanged = (embedder, model, dim, quantization) == (None, None, None, None) and not placement
    with store(db) as client:
        if not client.collection_exists(name):
            raise typer.BadParameter(no_such(name, names(client)))
        if prune and unchanged:
            pruned = delete_older(Collection(client, name))
            emit({"pruned": pruned}) if as_json else _print_pruned(name, pruned)
            return DONE
        new, width = _new_embedder(
            client, name, kind=embedder, model=model, dim=dim, rpm=rpm, tpm=tpm
        )
        with _showing_progress(f"rebuilding {name}") as progress:
            report = make_anew(
                Collection(client, name),
                embedder=new,
                dim=width,
                quantization=quantization,
                min_recall=min_recall,
                progress=progress,
                prune=prune,
                **placement,
            )
    emit(_json(report)) if as_json else _print_rebuilt(report, db)
    return DONE


@exits
def copy(
    source: Annotated[str, typer.Argument(help="Folder or URL of the database to copy from.")],
    destination: Annotated[str, typer.Argument(help="Folder or URL of the one to copy to.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", help="Which collection.  [default: the only one there is]"),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="Name of the copy.  [default: the same]")
    ] = None,
    shards: Shards = None,
    replicas: Replicas = None,
    as_json: Json = False,
) -> int:
    """Copy a collection to another database, or under another name.

    Running it again after an interruption goes on where it was. QDRANT_API_KEY is the key of the
    destination, QDRANT_SOURCE_API_KEY that of the source; if only the source is a server,
    QDRANT_API_KEY is for it.
    """
    from ragkit.collection import Collection
    from ragkit.moving.copying import copy as copy_collection

    with _both(source, destination) as (origin, target):
        meant = name_meant(origin, collection)
        with _showing_progress(f"copying {meant}") as progress:
            report = copy_collection(
                Collection(origin, meant),
                target,
                name=name,
                progress=progress,
                **_placement(shards, replicas),
            )
    emit(_json(report)) if as_json else _print_copied(report, destination)
    return DONE


def _placement(shards: int | None, replicas: int | None) -> Settings:
    settings: Settings = {}
    if shards is not None:
        settings["shard_number"] = shards
    if replicas is not None:
        settings["replication_factor"] = replicas
    return settings


def _new_embedder(
    client: QdrantBase,
    name: str,
    *,
    kind: str | None,
    model: str | None,
    dim: int | None,
    rpm: float | None,
    tpm: float | None,
) -> tuple[Embedder | Literal["same"] | None, int | None]:
    """The embedder asked for, and the width if it does not say that itself."""
    from ragkit.collection import Collection
    from ragkit.embedders import with_dim

    if kind is not None or model is not None:
        kind = kind or "gemini"
        new = embedder_for_writing(client, name, kind=kind, model=model, dim=dim, rpm=rpm, tpm=tpm)
        return new, None
    if dim is None:
        return "same", None
    resized = with_dim(Collection(client, name).open().embedder, dim, rpm=rpm, tpm=tpm)
    return ("same", dim) if resized is None else (resized, None)


@contextmanager
def _both(source: str, destination: str) -> Iterator[tuple[QdrantBase, QdrantBase]]:
    """Open two databases, which may be the same one; each server gets its own key and no other."""
    from ragkit.errors import StoreDenied
    from ragkit.stores import connect

    key = os.environ.get("QDRANT_API_KEY")
    insecure = os.environ.get("QDRANT_ALLOW_INSECURE_KEY") == "1"
    with ExitStack() as closing:

        def opened(place: str, api_key: str | None) -> QdrantBase:
            own = api_key if _is_server(place) else None
            try:
                client = connect(place, api_key=own, allow_insecure_key=insecure)
            except StoreDenied as exc:
                exc.add_note(
                    "QDRANT_API_KEY is the key of the destination, QDRANT_SOURCE_API_KEY that of "
                    "the source"
                )
                raise
            closing.callback(client.close)
            return client

        if _is_same(source, destination):
            client = opened(source, key)
            yield client, client
            return
        own = os.environ.get("QDRANT_SOURCE_API_KEY")
        origin = opened(source, own or (None if _is_server(destination) else key))
        yield origin, opened(destination, key)


def _is_server(place: str) -> bool:
    return "://" in place


def _is_same(source: str, destination: str) -> bool:
    if _is_server(source) or _is_server(destination):
        return source.rstrip("/") == destination.rstrip("/")
    return Path(source).expanduser().resolve() == Path(destination).expanduser().resolve()


@contextmanager
def _showing_progress(what: str) -> Iterator[FillingCallback]:
    """Draw progress on standard error: a bar on a terminal, now and then a line else."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    from ragkit.console import console, one_line

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _PlainProgress(screen)
        return
    columns = (
        TextColumn(escape(one_line(what))),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("points"),
        TimeLeft(compact=True),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)
        shown = ""

        def update(filling: Filling) -> None:
            nonlocal shown
            if filling.phase != shown:  # the time left is that of a phase
                shown = filling.phase
                bar.reset(task, description=shown)
            bar.update(task, completed=filling.done, total=filling.total)

        yield update


class _PlainProgress:
    def __init__(self, screen: Any) -> None:
        self._screen = screen
        self._next = time.monotonic() + _PLAIN_EVERY_S

    def __call__(self, filling: Filling) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PLAIN_EVERY_S
        self._screen.print(f"{filling.phase}: {filling.done:,} of {filling.total:,} points")


def _print_rebuilt(report: RebuildReport, db: str | None) -> None:
    _say(
        f"{report.name}: {report.points:,} chunks of {report.documents:,} documents are now in "
        f"{report.new} ({_vectors(report)}) in {report.seconds:.1f} s"
    )
    if report.recall is not None:
        cut = "" if report.overlap is None else f"; {report.overlap:.3f} of them as before the cut"
        _say(f"its default search finds {report.recall:.3f} of the 10 nearest neighbours{cut}")
    _print_begun(report)
    if report.pruned:
        _print_pruned(report.name, report.pruned)
    else:
        place = "" if db is None else f" --db {quote(db)}"
        _say(f"{report.old} is kept: ragkit rebuild {quote(report.name)}{place} --prune deletes it")


def _print_copied(report: CopyReport, destination: str) -> None:
    _say(
        f"{report.name}: {report.points:,} chunks of {report.documents:,} documents copied to "
        f"{destination} in {report.seconds:.1f} s; {report.compared:,} compared, all equal"
    )
    _print_begun(report)


def _print_begun(report: RebuildReport | CopyReport) -> None:
    if report.resumed:
        _say("an interrupted run had begun it")
    for each in report.dropped:
        _say(f"{each}, which was begun with other settings, is deleted")
    for note in report.notes:
        _say(note)


def _print_pruned(name: str, pruned: tuple[str, ...]) -> None:
    listed = ", ".join(pruned)
    _say(f"{listed} deleted" if pruned else f"{name} has no older version")


def _vectors(report: RebuildReport) -> str:
    if report.vectors == "embedded":
        usage = report.usage
        cost = "" if usage is None or not usage.cost_usd else f", about ${usage.cost_usd:,.4f}"
        return f"{report.embedded:,} texts embedded{cost}"
    if report.vectors == "left out":
        return "for keyword search"
    return "stored vectors cut to fewer dimensions" if report.vectors == "cut" else "vectors copied"


def _say(line: str) -> None:
    from ragkit.console import one_line

    typer.echo(one_line(line))


def _json(report: RebuildReport | CopyReport) -> dict[str, Any]:
    document = as_data(report) or {}
    return {**document, "seconds": round(report.seconds, 3)}
