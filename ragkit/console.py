"""What the command line shows: progress, hits, reports and tables, for a person to read."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as ProgressBar,
)
from rich.table import Table
from rich.text import Text

from ragkit.documents import Skipped
from ragkit.explain import Explanation
from ragkit.hits import Hit, Hits
from ragkit.optimizer import Indexing
from ragkit.reports import CollectionStatus, IndexPlan, IndexReport, Progress, ProgressCallback
from ragkit.sparse import Bm25Encoder
from ragkit.usage import Forecast, Usage

if TYPE_CHECKING:
    from ragkit.gemini.batch import BatchReport

_WORD = re.compile(r"\w+")
_EXCERPT_CHARS = 480
_MAX_LISTED = 20  # skipped files or planned sources shown by name
_PLAIN_EVERY_S = 5.0  # between two lines of progress in a pipe
# But line feeds and tabs; a passage is shown, never obeyed by the terminal.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def console(*, stderr: bool = False) -> Console:
    """A console for one of the two streams: styled on a terminal, plain in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    plain = bool(os.environ.get("NO_COLOR")) or not stream.isatty()
    # Without a colour system rich sends no escape sequence at all, neither bold nor underline.
    return Console(
        stderr=stderr, color_system=None if plain else "auto", highlight=False, soft_wrap=plain
    )


@contextmanager
def showing_progress() -> Iterator[ProgressCallback]:
    """Draw a run's progress on standard error: a bar on a terminal, now and then a line else."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _PlainProgress(screen)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TaskProgressColumn(),
        _Rate(),
        TextColumn("{task.fields[chunks]:,} chunks"),
        TimeRemainingColumn(compact=True),
    )
    with ProgressBar(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("indexing", total=None, chunks=0)

        def update(progress: Progress) -> None:
            bar.update(task, completed=progress.seen, total=progress.total, chunks=progress.chunks)
            if progress.indexing is not None:
                bar.update(task, description=f"the server indexes: {_indexing(progress.indexing)}")

        yield update


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} files/s")


def _indexing(state: Indexing) -> str:
    return f"{state.indexed:,} vectors of {state.points:,} points, {state.status}"


class _PlainProgress:
    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._next = time.monotonic() + _PLAIN_EVERY_S

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PLAIN_EVERY_S
        if progress.indexing is not None:
            self._screen.print(f"the server indexes: {_indexing(progress.indexing)}")
            return
        total = "" if progress.total is None else f" of {progress.total:,}"
        self._screen.print(
            f"{progress.seen:,}{total} files read, {progress.committed:,} documents committed, "
            f"{progress.chunks:,} chunks"
        )


def print_report(name: str, report: IndexReport) -> None:
    """Print what an indexing run did."""
    screen = console()
    screen.print(
        f"[bold]{escape(one_line(name))}[/bold]: {report.added:,} added, "
        f"{report.changed:,} changed, {report.unchanged:,} unchanged, {report.removed:,} removed, "
        f"{len(report.skipped):,} skipped; {_work(report)} in {report.seconds:.1f} s"
    )
    if report.usage is not None and report.usage.calls:
        screen.print(_usage(report.usage))
    _print_notes(screen, report.notes)
    _print_skipped(screen, report.skipped)


def print_plan(name: str, plan: IndexPlan) -> None:
    """Print what an indexing run would do."""
    screen = console()
    screen.print(
        f"[bold]{escape(one_line(name))}[/bold], nothing done yet: {len(plan.added):,} to add, "
        f"{len(plan.changed):,} to change, {plan.unchanged:,} unchanged, "
        f"{len(plan.removed):,} to remove, {len(plan.skipped):,} to skip"
    )
    if plan.to_embed:
        embedding = f"{plan.to_embed:,} to embed (about {plan.tokens:,} tokens)"
    else:
        embedding = "none to embed"
    screen.print(f"{plan.chunks:,} chunks to write, {embedding}")
    if plan.forecast is not None and plan.to_embed:
        screen.print(_forecast(plan.forecast))
    _print_notes(screen, plan.notes)
    for sign, sources in (("+", plan.added), ("~", plan.changed), ("-", plan.removed)):
        _print_listed(screen, [f"{sign} {one_line(source)}" for source in sources])
    _print_skipped(screen, plan.skipped)


def print_batch(report: BatchReport) -> None:
    """Print what came of a batch job."""
    screen = console()
    screen.print(
        f"[bold]{escape(report.job.id)}[/bold]: {report.collected:,} of {report.job.requests:,} "
        f"vectors collected, {report.waiting:,} still to come, {len(report.failed):,} failed, "
        f"{report.verified:,} verified"
    )
    _print_notes(screen, report.notes)
    _print_listed(
        screen, [f"{one_line(each.source)}: {one_line(each.reason)}" for each in report.failed]
    )
    if report.index is not None:
        print_report(report.job.collection, report.index)
    if report.resubmitted is not None:
        screen.print(f"what is missing was submitted again as {escape(report.resubmitted.id)}")


def print_hits(hits: Hits, *, query: str, bm25: Bm25Encoder, full: bool) -> None:
    """Print hits, best first, with the query's words marked in each passage.

    Args:
        hits: What was found.
        query: What was asked.
        bm25: Tells which words of a passage are words of the query, in whatever inflection.
        full: Whole passages instead of the part with the most of the query's words; with their
            context, where they have one, they are shown whole.
    """
    screen = console()
    if not hits:
        screen.print("Nothing found.")
    for rank, hit in enumerate(hits, start=1):
        place = location(hit)
        screen.print(
            f"[bold]{rank}. {escape(one_line(hit.title))}[/bold]  "
            f"[cyan]{escape(place)}[/cyan]  [dim]{hit.score:.3f}[/dim]"
        )
        path = [heading for heading in hit.headings if heading != hit.title]
        if path:
            screen.print(f"   [dim]{escape(one_line(' > '.join(path)))}[/dim]")
        if hit.context is not None:
            screen.print(f"   [dim]in {escape(one_line(str(hit.context.citation)))}[/dim]")
        text = hit.text if hit.context is None else hit.context.text
        whole = full or hit.context is not None
        screen.print(Text("   ") + _passage(text, query, bm25, full=whole))
        screen.print()
    _print_notes(screen, hits.notes)


def print_explanation(told: Explanation) -> None:
    """Print what each stage of a search did."""
    screen = console()
    for line in str(told).splitlines():
        screen.print(one_line(line), markup=False, highlight=False, soft_wrap=True)


def print_status(
    database: str, statuses: Sequence[CollectionStatus], foreign: Mapping[str, str]
) -> None:
    """Print the collections of a database as a table, and why others are not in it."""
    screen = console()
    if not statuses and not foreign:
        screen.print(f"{escape(database)} holds no collection yet: ragkit index FOLDER makes one")
        return
    table = Table("collection", box=None, header_style="bold", pad_edge=False)
    for heading in ("documents", "chunks"):
        table.add_column(heading, justify="right")
    for heading in ("embedder", "quantization"):
        table.add_column(heading)
    table.add_column("on disk", justify="right")
    for status in statuses:
        table.add_row(*_row(status))
    if statuses:
        screen.print(table)
    for status in statuses:
        if status.search:
            screen.print(_search_line(status))
        if status.older:
            versions = escape(one_line(", ".join(status.older)))
            screen.print(
                f"{escape(one_line(status.name))} is {escape(one_line(status.version))}; a rebuild "
                f"left {versions} (ragkit rebuild {escape(one_line(status.name))} --prune)"
            )
    for reason in foreign.values():
        screen.print(escape(one_line(reason)))


def _search_line(status: CollectionStatus) -> str:
    """How a collection is searched unless told otherwise, and since when."""
    said = ", ".join(f"{name}={value!r}" for name, value in status.search.items())
    line = f"{status.name} is searched with {said}"
    if status.tuned:
        day, chunks = str(status.tuned.get("at"))[:10], status.tuned.get("points", 0)
        line += f", as tuned on {day} when it had {chunks:,} chunks"
    return escape(one_line(line))


def _row(status: CollectionStatus) -> list[str]:
    return [
        escape(one_line(status.name)),
        f"{status.documents:,}",
        f"{status.chunks:,}",
        escape(status.embedder or "none (keyword search)"),
        status.quantization,
        "" if status.bytes_on_disk is None else f"{status.bytes_on_disk / 1e6:,.1f} MB",
    ]


def one_line(text: str) -> str:
    """A name as it can be shown: control characters, line breaks among them, become escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def location(hit: Hit) -> str:
    """Where a hit stands: a path that can be opened from here if there is one, and the line.

    Such a path is whole or relative to the current folder, whichever is shorter, so
    `ragkit remove` reads it back as this file.
    """
    path = Path(hit.corpus) / hit.source
    shown = hit.source
    if path.is_absolute() and path.exists():
        shown = min(os.path.relpath(path), str(path), key=len)
    return one_line(shown) + (f":{hit.line}" if hit.line else "")


def _passage(text: str, query: str, bm25: Bm25Encoder, *, full: bool) -> Text:
    text = _UNSAFE.sub("\ufffd", text)
    terms = set(bm25.encode_query(query).indices)
    words = {word: bool(terms & set(bm25.encode_query(word).indices)) for word in _words(text)}
    marks = [match.span() for match in _WORD.finditer(text) if words[match[0]]]
    start, end = (0, len(text)) if full else _excerpt(text, marks)
    passage = Text(text[start:end])
    for first, last in marks:
        if start <= first and last <= end:
            passage.stylize("bold yellow", first - start, last - start)
    lead, trail = "… " if start > 0 else "", " …" if end < len(text) else ""
    return Text("\n   ").join((Text(lead) + passage + Text(trail)).split("\n", allow_blank=False))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text))


def _excerpt(text: str, marks: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The stretch of the passage with the most marked words, cut at spaces."""
    if len(text) <= _EXCERPT_CHARS:
        return 0, len(text)
    starts = [first for first, _ in marks] or [0]
    inside = [sum(first <= s < first + _EXCERPT_CHARS * 3 // 4 for s in starts) for first in starts]
    best = starts[inside.index(max(inside))]
    start = max(0, min(best - _EXCERPT_CHARS // 8, len(text) - _EXCERPT_CHARS))
    if start > 0:
        start = text.find(" ", start, best) + 1 or start
    end = min(len(text), start + _EXCERPT_CHARS)
    if end < len(text):
        end = max(text.rfind(" ", best + 1, end), best + 1)
    return start, end


def _work(report: IndexReport) -> str:
    chunks = f"{report.chunks:,} chunks"
    if report.embedded or report.reused:
        chunks += f" ({report.embedded:,} embedded, {report.reused:,} vectors used again)"
    return chunks


def _usage(usage: Usage) -> str:
    tokens = f"about {usage.estimated_tokens:,} tokens"
    if usage.billed_tokens is not None:
        tokens = f"{usage.billed_tokens:,} tokens billed"
    parts = [f"{usage.texts:,} texts embedded, {tokens}", f"{usage.calls:,} calls"]
    if usage.retries:
        parts.append(f"{usage.retries:,} of them repeated")
    if usage.waited_s >= 1:
        parts.append(f"{usage.waited_s:.0f} s waited for the quota")
    if usage.near_limit:
        parts.append(f"{usage.near_limit:,} texts near the model's limit")
    return ", ".join(parts) + _dollars("; {}", usage.cost_usd)


def _forecast(forecast: Forecast) -> str:
    time_left = f"{forecast.minutes:,.1f} minutes at the least by the quota"
    return f"embedding takes {time_left}" + _dollars(" and costs {}", forecast.cost_usd)


def _dollars(frame: str, amount: float | None) -> str:
    return "" if amount is None else frame.format(f"about ${amount:,.4f}")


def _print_notes(screen: Console, notes: Sequence[str]) -> None:
    for note in notes:
        screen.print(f"[yellow]{escape(note)}[/yellow]")


def _print_skipped(screen: Console, skipped: Sequence[Skipped]) -> None:
    _print_listed(screen, [f"skipped {one_line(s.source)}: {one_line(s.reason)}" for s in skipped])


def _print_listed(screen: Console, lines: Sequence[str]) -> None:
    for line in lines[:_MAX_LISTED]:
        screen.print(f"  {escape(line)}")
    if len(lines) > _MAX_LISTED:
        screen.print(f"  … and {len(lines) - _MAX_LISTED:,} more (--json lists all)")
