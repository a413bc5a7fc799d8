"""What the measuring commands share: lists and settings as arguments, progress, results."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

    from ragkit.benchmark.queries import Queries
    from ragkit.benchmark.rows import MeasureCallback, Rows
    from ragkit.collection import Collection
    from ragkit.embeddings import Vectors
    from ragkit.search_options import SearchKeywords

T = TypeVar("T")

OUT = Path("ragkit-bench")
_PLAIN_EVERY_S = 5.0  # between two lines of progress in a pipe


def _writable(out: Path) -> Path:
    """Refuse before minutes of measuring what the results could not be written to."""
    there = next((each for each in (out, *out.parents) if each.exists()), Path())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        wrong = "cannot be written to" if there.is_dir() else "is no folder"
        raise typer.BadParameter(
            f"expected a folder to write results to, got {out}: {there} {wrong}"
        )
    return out


Out = Annotated[
    Path,
    typer.Option(help="Folder for the results: tables as CSV and JSON, plots.", callback=_writable),
]
QueryFile = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        help="Queries: .jsonl with a text each, .tsv with id and text, .txt with a line each, or "
        ".npy with vectors.  [default: a sample of what is searched]",
    ),
]
Sample = Annotated[int | None, typer.Option(help="How many queries to draw.", min=1)]
Seed = Annotated[int, typer.Option(help="Of what is drawn.", min=0)]
VectorFile = Annotated[
    Path | None, typer.Option("--vectors", help="A .npy file of shape (n, dim) instead.")
]


def whole_numbers(option: str, given: str) -> list[int]:
    """A list such as 10,20,50."""
    return _listed(option, given, int, "whole numbers", "10,20,50")


def numbers(option: str, given: str) -> list[float]:
    """A list such as 1,1.5,2."""
    return _listed(option, given, float, "numbers", "1,1.5,2")


def words(option: str, given: str) -> list[str]:
    """A list such as binary,turbo."""
    return _listed(option, given, _word, "names", "binary,turbo")


def chunk_sizes(option: str, given: str) -> dict[str, tuple[int, int]]:
    """A list such as 300/50,250/0: the longest chunk and the overlap, in tokens."""
    pairs = _listed(option, given, _size_pair, "MAX_TOKENS/OVERLAP pairs", "300/50,250/0")
    return {f"{most}/{shared}": (most, shared) for most, shared in pairs}


def shape(option: str, given: str) -> tuple[int, int]:
    """How many vectors of how many dimensions, as 20000x1536."""
    count, _, dim = given.lower().partition("x")
    try:
        return int(count), int(dim)
    except ValueError as exc:
        raise typer.BadParameter(
            f"expected {option} as VECTORSxDIMENSIONS, such as 20000x1536, got {given!r}"
        ) from exc


def rescoring(given: str | None) -> list[bool] | None:
    """Of `--rescore` both, on or off."""
    if given is None:
        return None
    choices = {"both": [False, True], "on": [True], "off": [False]}
    if given not in choices:
        raise typer.BadParameter(f"expected --rescore both, on or off, got {given!r}")
    return choices[given]


def settings_given(given: Sequence[str]) -> dict[str, SearchKeywords]:
    """Search settings by what was typed, such as mode=hybrid,fusion=dbsf."""
    return {each: _setting(each) for each in given}


def queries_of(docs: Collection, path: Path | None) -> Queries | None:
    """The queries of a file, embedded as the collection's; None for a sample."""
    from ragkit.benchmark.queries import read_queries
    from ragkit.errors import CollectionMismatch

    if path is None:
        return None
    where, _ = docs.searchable()
    if where.dim is None:
        raise CollectionMismatch(
            f"collection {docs.name!r} is searched by words alone: it has no vectors to measure"
        )
    return read_queries(path, docs.embedder, where.dim)


def queries_for(vectors: Vectors, path: Path | None) -> Queries | None:
    """The query vectors of a file, as wide as these; None for a sample."""
    from ragkit.benchmark.queries import read_queries

    return None if path is None else read_queries(path, None, vectors.shape[1])


@contextmanager
def temporary_store() -> Iterator[QdrantBase]:
    """An embedded database that is gone afterwards."""
    from tempfile import TemporaryDirectory

    from ragkit.edge import EdgeClient

    with TemporaryDirectory(prefix="ragkit-bench-") as folder, EdgeClient(folder) as client:
        yield client


@contextmanager
def _told_what_is_lost() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted before the end: nothing was written") from None


@contextmanager
def measuring() -> Iterator[MeasureCallback]:
    """Draw on standard error how far a measurement is: a bar on a terminal, now and then a line."""
    import time

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ragkit.console import console, one_line

    screen = console(stderr=True)
    if not screen.is_terminal:
        shown = time.monotonic()

        def tell(what: str, done: int, total: int) -> None:
            nonlocal shown
            if time.monotonic() >= shown + _PLAIN_EVERY_S:
                shown = time.monotonic()
                screen.print(f"{one_line(what)}: {done:,} of {total:,}", markup=False)

        with _told_what_is_lost():
            yield tell
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True) as bar, _told_what_is_lost():
        task = bar.add_task("measuring", total=None)
        yield lambda what, done, total: bar.update(
            task, description=one_line(what), completed=done, total=total
        )


def finish(rows: Rows[Any], out: Path, *, as_json: bool) -> None:
    """Write the results, then show them: a reader who goes away early loses nothing.

    What cannot be written, as on a full disk, is shown all the same, and then it fails.
    """
    from dataclasses import asdict

    from ragkit.benchmark.answers import answers
    from ragkit.cli_support import emit

    try:
        paths = _written(rows, out)
    except OSError as exc:
        if not as_json:  # there is one document, and it says what is wrong
            print_rows(rows)
        exc.add_note(f"not all results are in {out}")
        raise
    if as_json:
        emit(
            {
                "about": asdict(rows.about),
                "rows": [asdict(row) for row in rows],
                "answers": answers(rows),
                "files": [str(path) for path in paths],
            }
        )
        return
    print_rows(rows)
    written = ", ".join(path.name for path in paths)
    typer.echo(f"written to {paths[0].parent}: {written}", err=True)


def _written(rows: Rows[Any], out: Path) -> list[Path]:
    from ragkit.benchmark.files import write_rows
    from ragkit.benchmark.plots import save_plot
    from ragkit.errors import MissingDependency

    paths = write_rows(rows, out)
    try:
        paths.append(save_plot(rows, out))
    except MissingDependency as exc:
        typer.echo(f"note: no plot: {exc}", err=True)
    return paths


def print_rows(rows: Rows[Any]) -> None:
    """Print a measurement: tables, answers, and under which circumstances they hold."""
    from ragkit.benchmark.answers import answers, circumstances
    from ragkit.benchmark.layouts import tables
    from ragkit.benchmark.tables import text
    from ragkit.console import console, one_line

    screen = console()
    width = screen.width if sys.stdout.isatty() else None
    styled = screen.color_system is not None

    def emphasis(figure: str) -> str:
        return typer.style(figure, bold=True) if styled else figure

    for table in tables(rows):
        screen.print(one_line(table.caption), style="bold", markup=False)
        typer.echo(text(table, width=width, emphasis=emphasis))
        for note in table.notes:
            screen.print(note, style="dim", markup=False)
        typer.echo()
    for number, answer in enumerate(answers(rows)):
        screen.print(one_line(answer), style="bold" if number == 0 else "", markup=False)
    typer.echo()
    for line in circumstances(rows.about):
        screen.print(one_line(line), style="dim", markup=False)


def _listed(
    option: str, given: str, read: Callable[[str], T], wanted: str, example: str
) -> list[T]:
    found = []
    for item in given.split(","):
        try:
            found.append(read(item.strip()))
        except ValueError as exc:
            where = "" if item == given else f" in {given!r}"
            raise typer.BadParameter(
                f"expected {option} as {wanted} with commas between, such as {example}, got "
                f"{item.strip()!r}{where}"
            ) from exc
    return found


def _word(item: str) -> str:
    if not item:
        raise ValueError("nothing between two commas")
    return item


def _size_pair(item: str) -> tuple[int, int]:
    most, _, shared = item.partition("/")
    return int(most), int(shared)


def _setting(given: str) -> SearchKeywords:
    from typing import get_type_hints

    from ragkit.search_options import SearchKeywords, SearchOptions, check_names

    hints, options = get_type_hints(SearchKeywords), {}
    for part in given.split(","):
        name, is_said, value = (each.strip() for each in part.partition("="))
        if not is_said:
            raise typer.BadParameter(
                f"expected --setting as OPTION=VALUE with commas between, such as "
                f"mode=hybrid,fusion=dbsf, got {part.strip()!r} in {given!r}"
            )
        try:
            check_names({name: value})
            options[name] = _value(name, value, hints[name])
        except (TypeError, ValueError) as exc:
            raise typer.BadParameter(f"--setting {given!r}: {exc}") from exc
    try:
        SearchOptions(**options)  # checks the values
    except ValueError as exc:
        raise typer.BadParameter(f"--setting {given!r}: {exc}") from exc
    said: SearchKeywords = options  # type: ignore[assignment]  # checked just above
    return said


def _value(name: str, value: str, hint: Any) -> Any:
    """What was typed for an option, as a value of its type."""
    kind = next(each for each in get_args(hint) if each is not NoneType)
    if name == "weights":
        dense, _, sparse = value.partition(":")
        return {"dense": _number(name, dense, float), "sparse": _number(name, sparse, float)}
    if kind is bool:
        if value not in ("true", "false"):
            raise ValueError(f"expected {name} to be true or false, got {value!r}")
        return value == "true"
    if kind in (int, float):
        return _number(name, value, kind)
    if kind is str or get_origin(kind) is Literal:
        return value
    raise ValueError(f"{name} cannot be said in a setting: use Python for it")


def _number(name: str, value: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(value)
    except ValueError as exc:
        wanted = "a whole number" if kind is int else "a number"
        wanted = "two numbers, as 1:3" if name == "weights" else wanted
        raise ValueError(f"expected {name} to be {wanted}, got {value!r}") from exc
