"""The commands of Gemini's Batch API: `ragkit batch submit`, `status`, `collect`, `cancel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkit.cli_support import (
    DONE,
    FAILED,
    SKIPPED,
    CollectionName,
    Corpus,
    Db,
    Dim,
    Exclude,
    FolderCollection,
    Include,
    Json,
    MaxMb,
    Model,
    Tenant,
    as_data,
    embedder_for_writing,
    emit,
    existing,
    exits,
    folder_name,
    location,
    store,
    walk_options,
)

if TYPE_CHECKING:
    from ragkit.collection import Collection
    from ragkit.gemini.batch import BatchJob, BatchReport, GeminiBatch

_STATE = Path(".ragkit/batches")  # of jobs whose database is a server

batch = typer.Typer(
    name="batch",
    help="Embed with Gemini's Batch API: half the price, within a day.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JobId = Annotated[
    str | None, typer.Argument(help="The job, as submit named it.  [default: all that are open]")
]


@batch.command()
@exits
def submit(
    folder: Annotated[Path, typer.Argument(help="The folder to embed.")],
    db: Db = None,
    collection: FolderCollection = None,
    include: Include = None,
    exclude: Exclude = None,
    max_mb: MaxMb = None,
    corpus: Corpus = None,
    model: Model = None,
    dim: Dim = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Upload what has to be embedded of a folder; collect it later."""
    from ragkit.collection import Collection

    walk = walk_options(corpus=corpus, include=include, exclude=exclude, max_mb=max_mb)
    name = collection or folder_name(folder)
    with store(db) as client:
        embedder = embedder_for_writing(
            client, name, kind=None, model=model, dim=dim, rpm=None, tpm=None, fallback="gemini"
        )
        batches = _batches(Collection(client, name, embedder=embedder, tenant=tenant), db)
        job = batches.submit(folder, **walk)
        if as_json:
            emit({"job": as_data(job) if job.parts else None})
        elif job.parts:
            cost = batches.cost_usd(job)
            price = "" if cost is None else f", about ${cost:,.4f}"
            typer.echo(_line(job) + price)
            typer.echo(f"collect it with: ragkit batch collect {job.id} --wait")
        else:
            under_way = ", ".join(each.id for each in batches.jobs() if not each.closed)
            rest = f"; under way: {under_way}" if under_way else ""
            typer.echo(f"nothing new has to be embedded{rest}")
    return DONE


@batch.command()
@exits
def status(
    job: JobId = None,
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Ask how jobs stand."""
    with _opened(db, collection, tenant) as batches:
        jobs = [batches.status(each) for each in _meant(batches, job)]
    if as_json:
        emit({"jobs": [as_data(each) for each in jobs]})
    else:
        typer.echo("\n".join(map(_line, jobs)) or "no job is open")
    return DONE


@batch.command()
@exits
def collect(
    job: JobId = None,
    db: Db = None,
    collection: CollectionName = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until all of it has ended.")] = False,
    finish: Annotated[
        str, typer.Option(help="What failed: none (leave it), sync (embed it now) or resubmit.")
    ] = "none",
    sample: Annotated[
        int, typer.Option(help="Texts to embed again and compare, per part.", min=0, max=50)
    ] = 5,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Download what has ended, verify it, and index the folder with it."""
    from ragkit.console import print_batch
    from ragkit.errors import RagkitError

    reports, errors = [], []
    with _opened(db, collection, tenant) as batches:
        for each in _meant(batches, job):
            try:
                report = _collected(batches, each, wait=wait, finish=finish, sample=sample)
            except RagkitError as exc:
                if job is not None:
                    raise
                # One job that cannot be collected must not stop the others.
                errors.append(f"{each.id if not isinstance(each, str) else each}: {exc}")
                continue
            reports.append(report)
            if not as_json:
                print_batch(report)
    if as_json:
        emit({"reports": [as_data(report) for report in reports], "errors": errors})
    elif not reports and not errors:
        typer.echo("no job is open")
    for error in errors:
        typer.echo(f"error: {error}; ragkit batch cancel gives a job up", err=True)
    if errors:
        return FAILED
    incomplete = any(report.failed or report.waiting for report in reports)
    return SKIPPED if incomplete else DONE


@batch.command()
@exits
def cancel(
    job: Annotated[str, typer.Argument(help="The job.")],
    db: Db = None,
    collection: CollectionName = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> int:
    """Stop a job; what has ended of it can still be collected."""
    with _opened(db, collection, tenant) as batches:
        stopped = batches.cancel(job)
    emit({"job": as_data(stopped)}) if as_json else typer.echo(_line(stopped))
    return DONE


@contextmanager
def _opened(db: str | None, collection: str | None, tenant: str | None) -> Iterator[GeminiBatch]:
    with store(db) as client:
        yield _batches(existing(client, collection, tenant=tenant), db)


def _batches(collection: Collection, db: str | None) -> GeminiBatch:
    from ragkit.gemini.batch import GeminiBatch

    return GeminiBatch(collection, folder=_STATE if "://" in location(db) else None)


def _collected(
    batches: GeminiBatch, job: BatchJob | str, *, wait: bool, finish: str, sample: int
) -> BatchReport:
    from ragkit.console import showing_progress

    with showing_progress() as progress:
        return batches.collect(
            job,
            wait=wait,
            finish=finish,  # type: ignore[arg-type]  # checked by collect
            sample=sample,
            progress=progress,
        )


def _meant(batches: GeminiBatch, job: str | None) -> list[BatchJob | str]:
    return [job] if job is not None else [each for each in batches.jobs() if not each.closed]


def _line(job: BatchJob) -> str:
    parts = ", ".join(part.state for part in job.parts)
    return (
        f"{job.id}: {job.state} ({parts}); {job.requests:,} texts of {job.folder}, "
        f"about {job.tokens:,} tokens"
    )
