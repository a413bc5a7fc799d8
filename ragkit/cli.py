"""The command line: arguments in, one exit code out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

    from ragkit.chunks import Chunker
    from ragkit.collection import Collection
    from ragkit.embeddings import Embedder
    from ragkit.reports import IndexPlan, IndexReport

P = ParamSpec("P")

DONE, FAILED, USAGE, SKIPPED, INTERRUPTED = 0, 1, 2, 3, 130

_DEFAULT_DB = ".ragkit"
_FORBIDDEN_IN_NAMES = str.maketrans(dict.fromkeys('/\\:*?"<>|\0', "-"))

app = typer.Typer(
    name="ragkit",
    help="Search a folder of documents: index it into Qdrant, then ask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Db = Annotated[
    str | None,
    typer.Option(help="Folder or URL of the database.  [default: QDRANT_URL, else .ragkit]"),
]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", help="Which collection.  [default: the only one there is]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Rpm = Annotated[
    float | None, typer.Option(help="Texts a minute to send at most.  [default: 3000]", min=1.0)
]
Tpm = Annotated[
    float | None, typer.Option(help="Tokens a minute likewise.  [default: 1000000]", min=1.0)
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def main() -> None:
    """Run the command line."""
    app()


def _exits(command: Callable[P, int]) -> Callable[P, None]:
    """Turn what a command returns or raises into the process's exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            code = command(*args, **kwargs)
        except (ValueError, typer.BadParameter) as exc:
            code = _complain(exc, USAGE, as_json=as_json)
        except KeyboardInterrupt:
            message = "interrupted; what was committed is kept, and running again goes on from it"
            code = _complain(message, INTERRUPTED, as_json=as_json)
        except BrokenPipeError:
            # The reader of our output has gone; nothing more can be said there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = FAILED
        except Exception as exc:
            if not _is_expected(exc):
                raise
            code = _complain(exc, FAILED, as_json=as_json)
        raise typer.Exit(code)

    return run


@app.command()
@_exits
def index(
    folder: Annotated[Path, typer.Argument(help="The folder to index.")],
    db: Db = None,
    collection: Annotated[
        str | None, typer.Option(help="Which collection.  [default: the folder's name]")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only files that match this glob; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not files that match this glob; repeatable.")
    ] = None,
    max_mb: Annotated[float | None, typer.Option(help="Skip larger files.", min=0.0)] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Name to keep the folder's documents under. [its path]")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="gemini, none (keyword search) or hash (for trying out).  "
            "[default: the collection's own, else gemini with a key, else none]"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of gemini.  [default: gemini-embedding-001]")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Dimensions of the vectors.  [default: 768, hash 512]")
    ] = None,
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
    dry_run: Annotated[bool, typer.Option(help="Say what would be done.")] = False,
    as_json: Json = False,
) -> int:
    """Index a folder, or bring its collection up to date."""
    from ragkit.collection import Collection
    from ragkit.console import print_plan, print_report, showing_progress
    from ragkit.indexer import Indexer
    from ragkit.reading.folders import MAX_BYTES

    name = collection or folder_name(folder)
    walk: dict[str, Any] = {
        "corpus": corpus,
        "include": include or (),
        "exclude": exclude or (),
        "max_bytes": MAX_BYTES if max_mb is None else int(min(max_mb, 1e6) * 1_000_000),
    }
    with _store(db) as client:
        docs = Collection(
            client,
            name,
            embedder=_embedder_for_writing(
                client, name, kind=embedder, model=model, dim=dim, rpm=rpm, tpm=tpm
            ),
            quantization=quantization,  # type: ignore[arg-type]  # checked by Collection
            chunker=_chunker(client, name, max_tokens, overlap),
            language=language,
        )
        if dry_run:
            plan = Indexer(docs).plan(folder, **walk)
            _emit(_plan_json(plan)) if as_json else print_plan(name, plan)
            return SKIPPED if plan.skipped else DONE
        with showing_progress() as progress:
            report = Indexer(docs).sync(folder, **walk, progress=progress)
        if as_json:
            _emit(_report_json(report))
        else:
            print_report(name, report)
            _explain_search(docs)
        return SKIPPED if report.skipped else DONE


@app.command()
@_exits
def search(
    query: Annotated[str, typer.Argument(help="What you look for, in your words.")],
    db: Db = None,
    collection: CollectionName = None,
    limit: Annotated[int, typer.Option(help="How many hits.", min=1)] = 5,
    mode: Annotated[
        str | None, typer.Option(help="dense, sparse or hybrid.  [default: the best there is]")
    ] = None,
    oversampling: Annotated[
        float | None, typer.Option(help="Candidates to rescore per hit, when quantized.")
    ] = None,
    rescore: Annotated[bool, typer.Option(help="Rescore with the original vectors.")] = True,
    exact: Annotated[bool, typer.Option(help="Compare with every vector.")] = False,
    full: Annotated[bool, typer.Option(help="Print whole passages.")] = False,
    as_json: Json = False,
) -> int:
    """Find the passages that answer a question best."""
    from ragkit.console import print_hits
    from ragkit.errors import EmbedderUnavailable
    from ragkit.retriever import Retriever

    with _store(db) as client:
        docs = _existing(client, collection)
        try:
            hits = Retriever(docs).search(
                query,
                limit=limit,
                mode=mode,  # type: ignore[arg-type]  # checked by Retriever
                oversampling=oversampling,
                rescore=rescore,
                exact=exact,
            )
        except EmbedderUnavailable as exc:
            exc.add_note("or search by keywords alone: --mode sparse")
            raise
        if as_json:
            _emit({"query": query, "hits": [_asdict(hit) for hit in hits]})
        else:
            print_hits(hits, query=query, bm25=docs.bm25, full=full)
    return DONE


@app.command()
@_exits
def status(db: Db = None, as_json: Json = False) -> int:
    """Show the collections and what they hold."""
    from ragkit.collection import Collection
    from ragkit.console import print_status
    from ragkit.errors import CollectionMismatch

    statuses, foreign = [], {}
    with _store(db) as client:
        for name in _names(client):
            try:
                statuses.append(Collection(client, name).status())
            except CollectionMismatch as exc:
                foreign[name] = str(exc)
    if as_json:
        listed = [_asdict(each) for each in statuses]
        others = [{"name": name, "error": reason} for name, reason in foreign.items()]
        _emit({"database": _location(db), "collections": listed, "others": others})
    else:
        print_status(_location(db), statuses, foreign)
    return DONE


@app.command()
@_exits
def remove(
    sources: Annotated[list[str], typer.Argument(help="Documents, as search shows them.")],
    db: Db = None,
    collection: CollectionName = None,
    corpus: Annotated[
        str | None, typer.Option(help="Of which folder, if several have such a document.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Take documents out of a collection; their files stay."""
    from ragkit.indexer import Indexer

    with _store(db) as client:
        docs = _existing(client, collection)
        found = _documents(docs, sources, corpus)
        listed = ", ".join(source for _, source in found)
        _confirm(f"Remove {listed} from collection {docs.name!r}?", yes=yes)
        removed = sum(Indexer(docs).remove([source], corpus=home) for home, source in found)
    if as_json:
        _emit({"removed": removed})
    else:
        typer.echo(f"{removed} removed; the next ragkit index brings back what is still there")
    return DONE


@app.command()
@_exits
def drop(
    name: Annotated[str, typer.Argument(help="The collection to delete.")],
    db: Db = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Delete a collection with all that it holds; the files stay."""
    from ragkit.collection import Collection

    with _store(db) as client:
        docs = Collection(client, name)
        if not docs.exists():
            raise typer.BadParameter(_no_such(name, _names(client)))
        count = client.count(name, exact=True).count
        _confirm(f"Delete collection {name!r} with its {count:,} chunks?", yes=yes)
        docs.drop()
    _emit({"dropped": name}) if as_json else typer.echo(f"collection {name!r} is deleted")
    return DONE


def folder_name(folder: Path) -> str:
    """The collection's name that goes with a folder: its own, fit for Qdrant."""
    name = os.fsencode(folder.expanduser().resolve().name).decode(errors="replace")
    return name.translate(_FORBIDDEN_IN_NAMES) or "documents"


@contextmanager
def _store(db: str | None) -> Iterator[QdrantBase]:
    from ragkit.stores import connect

    location = _location(db)
    api_key = os.environ.get("QDRANT_API_KEY") if "://" in location else None
    client = connect(location, api_key=api_key)
    try:
        yield client
    finally:
        client.close()


def _location(db: str | None) -> str:
    return db or os.environ.get("QDRANT_URL") or _DEFAULT_DB


def _names(client: QdrantBase) -> list[str]:
    return sorted(each.name for each in client.get_collections().collections)


def _no_such(name: str, names: Sequence[str]) -> str:
    there = f"there are {', '.join(names)}" if names else "there is none yet"
    return f"no collection {name!r}: {there}"


def _existing(client: QdrantBase, name: str | None) -> Collection:
    """The collection asked for, or the only one, with the embedder it was made with."""
    from ragkit.collection import Collection
    from ragkit.embedders import embedder_of

    names = _names(client)
    if name is None:
        names = names if len(names) < 2 else [each for each in names if _is_ours(client, each)]
        if len(names) != 1:
            there = f"there are {len(names)}: {', '.join(names)}" if names else "there is none"
            remedy = "say which with --collection" if names else "make one: ragkit index FOLDER"
            raise typer.BadParameter(f"which collection? {there}; {remedy}")
        name = names[0]
    elif not client.collection_exists(name):
        raise typer.BadParameter(_no_such(name, names))
    fingerprint = Collection(client, name).open().embedder
    embedder = embedder_of(fingerprint)
    if fingerprint is not None and embedder is None:
        note = f"its vectors are of {fingerprint}, which only Python can bring: keywords alone"
        typer.echo(f"collection {name!r}: {note}", err=True)
    return Collection(client, name, embedder=embedder)


def _is_ours(client: QdrantBase, name: str) -> bool:
    from ragkit.collection import Collection
    from ragkit.errors import CollectionMismatch

    try:
        Collection(client, name).open()
    except CollectionMismatch:
        return False
    return True


def _embedder_for_writing(
    client: QdrantBase,
    name: str,
    *,
    kind: str | None,
    model: str | None,
    dim: int | None,
    rpm: float | None,
    tpm: float | None,
) -> Embedder | None:
    """The embedder asked for, else the one the collection was made with, else by the key."""
    from ragkit.collection import Collection
    from ragkit.embedders import embedder_of
    from ragkit.embeddings import HashEmbedder
    from ragkit.gemini.embedder import GeminiEmbedder

    if kind is None and model is None and dim is None and client.collection_exists(name):
        return embedder_of(Collection(client, name).open().embedder, rpm=rpm, tpm=tpm)
    if kind is None:
        kind = "gemini" if model is not None or has_gemini_key() else "none"
    if kind not in ("gemini", "none", "hash"):
        raise typer.BadParameter(f"expected --embedder gemini, none or hash, got {kind!r}")
    if model is not None and kind != "gemini":
        raise typer.BadParameter("--model goes with --embedder gemini")
    if dim is not None and kind == "none":
        raise typer.BadParameter("--dim goes with --embedder gemini or hash")
    given: dict[str, Any] = {} if dim is None else {"dim": dim}
    if kind == "gemini":
        given |= {} if model is None else {"model": model}
        return GeminiEmbedder(**given, rpm=rpm, tpm=tpm)
    return HashEmbedder(**given) if kind == "hash" else None


def has_gemini_key() -> bool:
    """Whether the environment holds a key for Gemini."""
    return bool(os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY"))


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
    from ragkit.console import console

    if docs.embedder is None:
        console().print(
            "Keyword search (BM25): it finds words, not meanings. To search by meaning, set "
            "GEMINI_API_KEY and index with --embedder gemini under another --collection."
        )


def _confirm(question: str, *, yes: bool) -> None:
    from ragkit.console import one_line

    question = one_line(question)
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Nobody is there to ask: pass --yes")
    typer.confirm(question, abort=True, err=True)


def _is_expected(error: Exception) -> bool:
    """Whether the message alone tells a person what is wrong."""
    from qdrant_client.http.exceptions import ApiException

    from ragkit.errors import RagkitError

    return isinstance(error, RagkitError | ApiException | OSError | NotImplementedError)


def _complain(error: Exception | str, code: int, *, as_json: bool) -> int:
    from ragkit.console import one_line

    message = one_line("; ".join([str(error), *getattr(error, "__notes__", [])]))
    typer.echo(f"error: {message}", err=True)
    if as_json:
        with suppress(OSError):  # standard output may be what has failed
            _emit({"error": message})
    return code


def _emit(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))


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
        "usage": _asdict(report.usage),
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
        "forecast": _asdict(plan.forecast),
        "notes": list(plan.notes),
    }


def _asdict(record: Any) -> dict[str, Any] | None:
    from dataclasses import asdict

    return None if record is None else asdict(record)


if __name__ == "__main__":
    main()
