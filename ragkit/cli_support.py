"""What the commands share: options, exit codes, the database and the collection meant."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

    from ragkit.collection import Collection
    from ragkit.embeddings import Embedder
    from ragkit.gemini.batch_plan import Walk

P = ParamSpec("P")

DONE, FAILED, USAGE, SKIPPED, INTERRUPTED = 0, 1, 2, 3, 130
BELOW = 4  # a measurement found less than was demanded

_DEFAULT_DB = ".ragkit"
_FORBIDDEN_IN_NAMES = str.maketrans(dict.fromkeys('/\\:*?"<>|\0', "-"))

Db = Annotated[
    str | None,
    typer.Option(help="Folder or URL of the database.  [default: QDRANT_URL, else .ragkit]"),
]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", help="Which collection.  [default: the only one there is]"),
]
FolderCollection = Annotated[
    str | None,
    typer.Option("--collection", help="Which collection.  [default: the folder's name]"),
]
Include = Annotated[
    list[str] | None, typer.Option(help="Only files that match this glob; repeatable.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Not files that match this glob; repeatable.")
]
MaxMb = Annotated[float | None, typer.Option(help="Skip larger files.", min=0.0)]
Corpus = Annotated[
    str | None,
    typer.Option(help="Name to keep the folder's documents under.  [default: its path]"),
]
Tenant = Annotated[str | None, typer.Option(help="Whose part of a collection that several share.")]
Model = Annotated[str | None, typer.Option(help="Of gemini.  [default: gemini-embedding-001]")]
Dim = Annotated[
    int | None, typer.Option(help="Dimensions of the vectors.  [default: 768, hash 512]")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Rpm = Annotated[
    float | None, typer.Option(help="Texts a minute to send at most.  [default: 3000]", min=1.0)
]
Tpm = Annotated[
    float | None, typer.Option(help="Tokens a minute likewise.  [default: 1000000]", min=1.0)
]


def exits(command: Callable[P, int]) -> Callable[P, None]:
    """Turn what a command returns or raises into the process's exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                code = command(*args, **kwargs)
        except (ValueError, typer.BadParameter) as exc:
            code = _complain(exc, USAGE, as_json=as_json)
        except KeyboardInterrupt as exc:
            kept = "interrupted; what was committed is kept, and running again goes on from it"
            message = str(exc) or kept
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


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"note: {message}", err=True)


def folder_name(folder: Path) -> str:
    """The collection's name that goes with a folder: its own, fit for Qdrant."""
    name = os.fsencode(folder.expanduser().resolve().name).decode(errors="replace")
    return name.translate(_FORBIDDEN_IN_NAMES) or "documents"


def walk_options(
    *,
    corpus: str | None,
    include: list[str] | None,
    exclude: list[str] | None,
    max_mb: float | None,
) -> Walk:
    """What the options say of the walk through a folder."""
    from ragkit.reading.folders import MAX_BYTES

    size = MAX_BYTES if max_mb is None else int(min(max_mb, 1e6) * 1_000_000)
    return {
        "corpus": corpus,
        "include": include or (),
        "exclude": exclude or (),
        "max_bytes": size,
    }


@contextmanager
def store(db: str | None) -> Iterator[QdrantBase]:
    """Open the database for a command, and close it."""
    from ragkit.stores import connect

    place = location(db)
    api_key = os.environ.get("QDRANT_API_KEY") if "://" in place else None
    insecure = os.environ.get("QDRANT_ALLOW_INSECURE_KEY") == "1"
    client = connect(place, api_key=api_key, allow_insecure_key=insecure)
    try:
        yield client
    finally:
        client.close()


def location(db: str | None) -> str:
    """Where the database is."""
    return db or os.environ.get("QDRANT_URL") or _DEFAULT_DB


def names(client: QdrantBase) -> list[str]:
    """The collections there are."""
    from ragkit.versions import names

    return names(client)


def no_such(name: str, names: Sequence[str]) -> str:
    """How to say that a collection is not there."""
    there = f"there are {', '.join(names)}" if names else "there is none yet"
    return f"no collection {name!r}: {there}"


def existing(
    client: QdrantBase, name: str | None, *, tenant: str | None = None, asking: bool = True
) -> Collection:
    """The collection asked for, or the only one, with the embedder it was made with.

    Args:
        client: The store.
        name: The collection; None for the only one.
        tenant: Whose part.
        asking: Questions in words will be put to it: say so if they cannot be embedded.
    """
    from ragkit.collection import Collection
    from ragkit.embedders import embedder_of

    name = name_meant(client, name)
    fingerprint = Collection(client, name).open().embedder
    embedder = embedder_of(fingerprint)
    if fingerprint is not None and embedder is None and asking:
        note = f"its vectors are of {fingerprint}, which only Python can bring: keywords alone"
        typer.echo(f"collection {name!r}: {note}", err=True)
    return Collection(client, name, embedder=embedder, tenant=tenant)


def name_meant(client: QdrantBase, name: str | None) -> str:
    """The name asked for, or that of the only collection that ragkit has made."""
    known = names(client)
    if name is None:
        known = known if len(known) < 2 else [each for each in known if is_ours(client, each)]
        if len(known) != 1:
            there = f"there are {len(known)}: {', '.join(known)}" if known else "there is none"
            remedy = "say which with --collection" if known else "make one: ragkit index FOLDER"
            raise typer.BadParameter(f"which collection? {there}; {remedy}")
        return known[0]
    if not client.collection_exists(name):
        raise typer.BadParameter(no_such(name, known))
    return name


def is_ours(client: QdrantBase, name: str) -> bool:
    """Whether ragkit made it."""
    from ragkit.collection import Collection
    from ragkit.errors import CollectionMismatch

    try:
        Collection(client, name).open()
    except CollectionMismatch:
        return False
    return True


def embedder_for_writing(
    client: QdrantBase,
    name: str,
    *,
    kind: str | None,
    model: str | None,
    dim: int | None,
    rpm: float | None,
    tpm: float | None,
    fallback: str | None = None,
) -> Embedder | None:
    """The embedder asked for, else the one the collection was made with, else by the key."""
    from ragkit.collection import Collection
    from ragkit.embedders import embedder_of
    from ragkit.embeddings import HashEmbedder
    from ragkit.gemini.client import find_key
    from ragkit.gemini.embedder import GeminiEmbedder
    from ragkit.local.minilm import LocalEmbedder, is_installed

    if kind is None and model is None and dim is None and client.collection_exists(name):
        return embedder_of(Collection(client, name).open().embedder, rpm=rpm, tpm=tpm)
    if kind is None:
        free = fallback or ("local" if is_installed() else "none")
        kind = "gemini" if model is not None or find_key() is not None else free
    if kind not in ("gemini", "local", "none", "hash"):
        raise typer.BadParameter(f"expected --embedder gemini, local, none or hash, got {kind!r}")
    if model is not None and kind != "gemini":
        raise typer.BadParameter("--model goes with --embedder gemini")
    if dim is not None and kind in ("none", "local"):
        raise typer.BadParameter("--dim goes with --embedder gemini or hash")
    given: dict[str, Any] = {} if dim is None else {"dim": dim}
    if kind == "gemini":
        given |= {} if model is None else {"model": model}
        return GeminiEmbedder(**given, rpm=rpm, tpm=tpm)
    if kind == "local":
        return LocalEmbedder()
    return HashEmbedder(**given) if kind == "hash" else None


def _is_expected(error: Exception) -> bool:
    """Whether the message alone tells a person what is wrong."""
    from ragkit.errors import RagkitError

    return _is_of_store(error) or isinstance(
        error, RagkitError | OSError | NotImplementedError | MemoryError
    )


def _is_of_store(error: Exception | str) -> bool:
    """Whether a client of Qdrant raised it."""
    from ragkit.delivery import CLIENT_ERRORS

    return isinstance(error, CLIENT_ERRORS)


def _complain(error: Exception | str, code: int, *, as_json: bool) -> int:
    from ragkit.console import one_line

    said = str(error)
    if isinstance(error, Exception) and _is_of_store(error):
        from ragkit.failures import reason

        said = f"the store refuses: {reason(error)}"
    message = one_line("; ".join([said, *getattr(error, "__notes__", [])]))
    typer.echo(f"error: {message}", err=True)
    if as_json:
        with suppress(OSError):  # standard output may be what has failed
            emit({"error": message})
    return code


def emit(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command."""
    typer.echo(json.dumps(document, indent=2))


def as_data(record: Any) -> dict[str, Any] | None:
    """A dataclass as JSON data."""
    return None if record is None else asdict(record)
