"""The command `ragkit doctor`: examine collections, mend what can be mended, say what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
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

    from ragkit.findings import Examination, Finding, Repair

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


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
    return DONE if all(report.examination.healthy for report in reports) else FAILED


def _chosen(client: QdrantBase, collection: str | None) -> tuple[list[str], list[str]]:
    """The collections to examine, and those that are not ragkit's."""
    from ragkit.doctor import is_ours

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
    from ragkit.doctor import Examination, examine, repair
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
        screen.print(f"  [green]fine[/green]     {', '.join(found.fine)}{_looked_at(found)}")
    for repair in report.repairs:
        word = "[green]mended[/green]  " if repair.done else "[bold red]not done[/bold red]"
        screen.print(f"  {word} {escape(one_line(repair.what))}")
    for finding in found.findings:
        _print_finding(screen, finding)
    screen.print()


def _print_finding(screen: Console, finding: Finding) -> None:
    from rich.markup import escape
    from rich.padding import Padding

    from ragkit.console import one_line

    style = _STYLES[finding.severity]
    word = f"{finding.severity:8}"
    screen.print(f"  [{style}]{word}[/{style}] {escape(one_line(finding.what))}")
    remedy = f"[dim]→ {escape(one_line(finding.remedy))}[/dim]"
    screen.print(Padding(remedy, (0, 0, 0, 11)))


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
    counts = [f"{sum(each.severity == s for each in wrong)} {s}s" for s in ("error", "warning")]
    fixable = sum(each.fixable for each in wrong)
    advice = f"; --fix can mend {fixable}" if fixable and not fix else ""
    screen.print(f"[bold]{', '.join(counts)}[/bold]{advice}")


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
