"""The command `ragkit doctor`: examine collections, mend what can be mended, say what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ragkit.cli_support import (
    DONE,
    FAILED,
    Db,
    Json,
    emit,
    exits,
    location,
    names,
    no_such,
    store,
)

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase
    from rich.console import Console

    from ragkit.doctor.findings import Examination, Repair

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_WORD = 8  # the width of the longest of the words that lines begin with


class _Report(NamedTuple):
    """What came of one collection."""

    examination: Examination
    repairs: Sequence[Repair]


@exits
def doctor(
    db: Db = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="Which.  [default: all that ragkit made]")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look at every vector, not at those of 1,000 chunks.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what is safe to mend, then look again.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Look for what is wrong with collections, and mend it with --fix."""
    with store(db) as client:
        chosen, others = _chosen(client, collection)
        reports = []
        for name in chosen:
            report = _examined(client, name, full=full, fix=fix)
            reports.append(report)
            if not as_json:
                _print(report)
        if as_json:
            emit(_json(location(db), reports, others))
        else:
            _print_end(location(db), reports, others, fix=fix)
            _print_place(reports, db)
    return DONE if all(report.examination.healthy for report in reports) else FAILED


def _chosen(client: QdrantBase, collection: str | None) -> tuple[list[str], list[str]]:
    """The collections to examine, and those that are not ragkit's."""
    from ragkit.doctor.examination import is_ours

    known = names(client)
    if collection is None:
        ours = [name for name in known if is_ours(client, name)]
        return ours, [name for name in known if name not in ours]
    if not client.collection_exists(collection):
        raise typer.BadParameter(no_such(collection, known))
    return [collection], []


def _examined(client: QdrantBase, name: str, *, full: bool, fix: bool) -> _Report:
    from ragkit.collection import Collection
    from ragkit.console import showing_progress
    from ragkit.doctor.examination import Examination, examine, repair
    from ragkit.errors import CollectionNotFound

    docs = Collection(client, name)
    found = examine(docs, full=full)
    if not fix or not any(finding.fixable for finding in found.findings):
        return _Report(found, [])
    with showing_progress() as progress:
        repairs = repair(docs, found.findings, progress=progress)
    try:
        return _Report(examine(Collection(client, name), full=full), repairs)
    except CollectionNotFound:  # an empty version under its own name, dropped
        return _Report(Examination(name=name, version=name, findings=()), repairs)


def _print(report: _Report) -> None:
    from rich.markup import escape

    from ragkit.console import console, one_line

    screen, found = console(), report.examination
    name = escape(one_line(found.name))
    version = f" [dim]({escape(one_line(found.version))})[/dim]"
    screen.print(f"[bold]{name}[/bold]{version if found.version != found.name else ''}")
    if found.fine:
        _print_line(screen, "fine", "green", ", ".join(found.fine) + _looked_at(found))
    for repair in report.repairs:
        word, style = ("mended", "green") if repair.done else ("not done", "bold red")
        _print_line(screen, word, style, repair.what)
    for finding in found.findings:
        _print_line(screen, finding.severity, _STYLES[finding.severity], finding.what)
        _print_line(screen, "", "", f"→ {finding.remedy}", dim=True)
    screen.print()


def _print_line(screen: Console, word: str, style: str, text: str, *, dim: bool = False) -> None:
    """A word and what it stands before, which keeps to its column where lines are wrapped."""
    from rich.table import Table
    from rich.text import Text

    from ragkit.console import one_line

    said = Text(one_line(text), style="dim" if dim else "")
    if screen.soft_wrap:
        screen.print(Text(f"  {word:{_WORD}} ") + said)
        return
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=_WORD + 2, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"  {word}", style=style), said)
    screen.print(grid)


def _looked_at(found: Examination) -> str:
    if not found.points:
        return ""
    vectors = f", {found.vectors:,} of their vectors looked at" if found.vectors else ""
    return f"; {found.documents:,} documents, {found.points:,} chunks{vectors}"


def _print_end(
    database: str, reports: Sequence[_Report], others: Sequence[str], *, fix: bool
) -> None:
    from rich.markup import escape

    from ragkit.console import console, one_line
    from ragkit.doctor.findings import counted

    screen = console()
    if others:
        listed = ", ".join(escape(one_line(name)) for name in others)
        screen.print(f"[dim]not made by ragkit, and not looked at: {listed}[/dim]")
    if not reports:
        screen.print(f"{escape(database)} holds no collection that ragkit made")
        return
    findings = [each for report in reports for each in report.examination.findings]
    wrong = [each for each in findings if each.severity != "note"]
    if not wrong:
        screen.print("[green]nothing is wrong[/green]")
        return
    numbers = {each: sum(found.severity == each for found in wrong) for each in _STYLES}
    counts = [counted(number, word) for word, number in numbers.items() if number]
    fixable = sum(each.fixable for each in wrong)
    advice = f"; --fix can mend {fixable}" if fixable and not fix else ""
    screen.print(f"[bold]{', '.join(counts)}[/bold]{advice}")


def _print_place(reports: Sequence[_Report], db: str | None) -> None:
    """Commands are advised as for the default database: say so where it is another."""
    from rich.markup import escape

    from ragkit.console import console, one_line

    remedies = [each.remedy for report in reports for each in report.examination.findings]
    if db is not None and any("ragkit " in remedy for remedy in remedies):
        place = escape(one_line(quote(db)))
        console().print(f"[dim]to each of these ragkit commands add --db {place}[/dim]")


def _json(database: str, reports: Sequence[_Report], others: Sequence[str]) -> dict[str, Any]:
    collections = [
        {
            **asdict(report.examination),
            "healthy": report.examination.healthy,
            "repairs": [asdict(repair) for repair in report.repairs],
        }
        for report in reports
    ]
    return {"database": database, "collections": collections, "others": list(others)}
