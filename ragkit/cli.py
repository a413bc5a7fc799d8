"""The command line: arguments in, one exit code out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkit.cli_batch import batch
from ragkit.cli_bench import bench
from ragkit.cli_doctor import doctor
from ragkit.cli_search import search
from ragkit.cli_server import copy, rebuild
from ragkit.cli_support import (
    DONE,
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
    Rpm,
    Tenant,
    Tpm,
    as_data,
    embedder_for_writing,
    emit,
    existing,
    exits,
    folder_name,
    location,
    names,
    no_such,
    store,
    walk_options,
)
from ragkit.cli_tune import tune

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

    from ragkit.chunks import Chunker
    from ragkit.collection import Collection
    from ragkit.creation import Settings
    from ragkit.reports import IndexPlan, IndexReport

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

app = typer.Typer(
    name="ragkit",
    help="Search a folder of documents: index it into Qdrant, then ask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(batch)
app.add_typer(bench)


def main() -> None:
    """Run the command line."""
    app()


@app.command()
@exits
def index(
    folder: Annotated[Path, typer.Argument(help="The folder to index.")],
    db: Db = None,
    collection: FolderCollection = None,
    include: Include = None,
    exclude: Exclude = None,
    max_mb: MaxMb = None,
    corpus: Corpus = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="gemini, local (all-MiniLM-L6-v2), none (keyword search) or hash (to try out).  "
            "[default: the collection's own, else gemini with a key, else local if installed, "
            "else none]"
        ),
    ] = None,
    model: Model = None,
    dim: Dim = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    quantization: Annotated[
        str, typer.Option(help="auto, none, binary, scalar, turbo or product.")
    ] = "auto",
    max_tokens: Annotated[int | None, typer.Option(help="Longest chunk, in tokens.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Shared by neighbours, in tokens.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Of stop words and stemming.  [default: english]")
    ] = None,
    tenant: Tenant = None,
    shards: Annotated[
        int | None, typer.Option(help="Shards of a new collection on a server.", min=1)
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Copies of each shard, in a cluster.", min=1)
    ] = None,
    bulk: Annotated[
        bool, typer.Option(help="Large first load: a server indexes after it, not during it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done.")] = False,
    as_json: Json = False,
) -> int:
    """Index a folder, or bring its collection up to date."""
    from ragkit.collection import Collection
    from ragkit.console import print_plan, print_report, showing_progress
    from ragkit.indexer import Indexer

    name = collection or folder_name(folder)
    walk = walk_options(corpus=corpus, include=include, exclude=exclude, max_mb=max_mb)
    with store(db) as client:
        docs = Collection(
            client,
            name,
            embedder=embedder_for_writing(
                client, name, kind=embedder, model=model, dim=dim, rpm=rpm, tpm=tpm
            ),
            quantization=quantization,
            chunker=_chunker(client, name, max_tokens, overlap),
            language=language,
            tenant=tenant,
            **_settings(shards, replicas),
        )
        if dry_run:
            plan = Indexer(docs).plan(folder, **walk)
            emit(_plan_json(plan)) if as_json else print_plan(name, plan)
            return SKIPPED if plan.skipped else DONE
        with showing_progress() as progress:
            report = Indexer(docs).sync(folder, **walk, bulk=bulk, progress=progress)
        if as_json:
            emit(_report_json(report))
        else:
            print_report(name, report)
            _explain_search(docs)
        return SKIPPED if report.skipped else DONE


@app.command()
@exits
def status(db: Db = None, as_json: Json = False) -> int:
    """Show the collections and what they hold."""
    from ragkit.collection import Collection
    from ragkit.console import print_status
    from ragkit.errors import CollectionMismatch

    statuses, foreign = [], {}
    with store(db) as client:
        for name in names(client):
            try:
                statuses.append(Collection(client, name).status())
            except CollectionMismatch as exc:
                foreign[name] = str(exc)
    if as_json:
        listed = [as_data(each) for each in statuses]
        others = [{"name": name, "error": reason} for name, reason in foreign.items()]
        emit({"database": location(db), "collections": listed, "others": others})
    else:
        print_status(location(db), statuses, foreign)
    return DONE


@app.command()
@exits
def remove(
    sources: Annotated[list[str], typer.Argument(help="Documents, as search shows them.")],
    db: Db = None,
    collection: CollectionName = None,
    corpus: Annotated[
        str | None, typer.Option(help="Of which folder, if several have such a document.")
    ] = None,
    tenant: Tenant = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Take documents out of a collection; their files stay."""
    from ragkit.indexer import Indexer

    with store(db) as client:
        docs = existing(client, collection, tenant=tenant)
        found = _documents(docs, sources, corpus)
        listed = ", ".join(source for _, source in found)
        _confirm(f"Remove {listed} from collection {docs.name!r}?", yes=yes)
        removed = sum(Indexer(docs).remove([source], corpus=home) for home, source in found)
    if as_json:
        emit({"removed": removed})
    else:
        typer.echo(f"{removed} removed; the next ragkit index brings back what is still there")
    return DONE


@app.command()
@exits
def drop(
    name: Annotated[str, typer.Argument(help="The collection to delete.")],
    db: Db = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Delete a collection with all that it holds; the files stay."""
    from ragkit.collection import Collection

    with store(db) as client:
        docs = Collection(client, name)
        if not docs.exists():
            raise typer.BadParameter(no_such(name, names(client)))
        count = client.count(name, exact=True).count
        _confirm(f"Delete collection {name!r} with its {count:,} chunks?", yes=yes)
        docs.drop()
    emit({"dropped": name}) if as_json else typer.echo(f"collection {name!r} is deleted")
    return DONE


app.command()(search)
app.command()(rebuild)
app.command()(copy)
app.command()(doctor)
app.command()(tune)


def _chunker(
    client: QdrantBase, name: str, max_tokens: int | None, overlap: int | None
) -> Chunker | None:
    """The chunker asked for; what is not said stays as the collection has it."""
    from ragkit.chunks import Chunker
    from ragkit.collection import Collection

    if max_tokens is None and overlap is None:
        return None
    held = None
    if client.collection_exists(name):
        held = Chunker.from_fingerprint(Collection(client, name).open().chunker)
    settings = {"max_tokens": max_tokens, "overlap": overlap}
    given = {key: value for key, value in settings.items() if value is not None}
    if held is not None:
        given = {"max_tokens": held.max_tokens, "overlap": held.overlap, **given}
    return Chunker(**given)


def _settings(shards: int | None, replicas: int | None) -> Settings:
    """Qdrant's settings of a new collection, as far as they were given."""
    given: Settings = {}
    if shards is not None:
        given["shard_number"] = shards
    if replicas is not None:
        given["replication_factor"] = replicas
    return given


def _documents(docs: Collection, named: Sequence[str], corpus: str | None) -> list[tuple[str, str]]:
    """The (corpus, source) of each document, from what a person typed: a path, or a source."""
    from ragkit.ledger import read_ledger

    corpora = [corpus] if corpus else list(docs.status().corpora)
    held = {home: read_ledger(docs, home).sources for home in corpora}
    return [_document(name, held) for name in named]


def _document(name: str, held: Mapping[str, frozenset[str]]) -> tuple[str, str]:
    path = Path(name).expanduser().resolve()
    meant = {(home, name) for home, sources in held.items() if name in sources}
    for home, sources in held.items():
        if Path(home).is_absolute() and path.is_relative_to(home):
            source = path.relative_to(home).as_posix()
            meant |= {(home, source)} if source in sources else set()
    if len(meant) == 1:
        return meant.pop()
    if not meant:
        raise typer.BadParameter(f"there is no document {name!r} in the collection")
    listed = " or ".join(f"{source} of {home}" for home, source in sorted(meant))
    raise typer.BadParameter(f"{name!r} could be {listed}: give the full path, or --corpus")


def _explain_search(docs: Collection) -> None:
    from ragkit.console import console, one_line
    from ragkit.local.minilm import LocalEmbedder, is_installed

    if isinstance(docs.embedder, LocalEmbedder):
        console().print("Search is by words (BM25) and by meaning (all-MiniLM-L6-v2, English).")
    if docs.embedder is None:
        local = "" if is_installed() else ' (pip install "ragkit[local]" first)'
        console().print(
            "Keyword search (BM25): it finds words, not meanings. To search by meaning: ragkit "
            f"rebuild {one_line(docs.name)} --embedder local{local}, or --embedder gemini with "
            "GEMINI_API_KEY set.",
            markup=False,
        )


def _confirm(question: str, *, yes: bool) -> None:
    from ragkit.console import one_line

    question = one_line(question)
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Nobody is there to ask: pass --yes")
    typer.confirm(question, abort=True, err=True)


def _report_json(report: IndexReport) -> dict[str, Any]:
    return {
        "added": report.added,
        "changed": report.changed,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "chunks": report.chunks,
        "embedded": report.embedded,
        "reused": report.reused,
        "skipped": [{"source": each.source, "reason": each.reason} for each in report.skipped],
        "usage": as_data(report.usage),
        "notes": list(report.notes),
        "seconds": round(report.seconds, 3),
    }


def _plan_json(plan: IndexPlan) -> dict[str, Any]:
    return {
        "added": list(plan.added),
        "changed": list(plan.changed),
        "unchanged": plan.unchanged,
        "removed": list(plan.removed),
        "skipped": [{"source": each.source, "reason": each.reason} for each in plan.skipped],
        "chunks": plan.chunks,
        "to_embed": plan.to_embed,
        "tokens": plan.tokens,
        "forecast": as_data(plan.forecast),
        "notes": list(plan.notes),
    }


if __name__ == "__main__":
    main()
