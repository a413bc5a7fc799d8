"""`ragkit tune`: find the best default search of a collection, and keep it there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkit.cli_bench_support import QueryFile, Sample, Seed, measuring, queries_of
from ragkit.cli_support import (
    BELOW,
    DONE,
    CollectionName,
    Db,
    Json,
    emit,
    existing,
    exits,
    store,
)

if TYPE_CHECKING:
    from ragkit.benchmark.judged import Judged
    from ragkit.benchmark.tables import Table
    from ragkit.benchmark.trials import Trial
    from ragkit.benchmark.tuning import Tuning

_SAMPLE = 1_000


@exits
def tune(
    db: Db = None,
    collection: CollectionName = None,
    queries: QueryFile = None,
    sample: Sample = None,
    qrels: Annotated[
        Path | None,
        typer.Option(help="Which documents answer the --queries: decides mode and fusion, too."),
    ] = None,
    id_key: Annotated[
        str, typer.Option(help="The payload key that holds the judgements' ids.")
    ] = "source",
    limit: Annotated[int, typer.Option(help="How many hits.", min=1)] = 10,
    target: Annotated[float, typer.Option(help="The recall wanted.", min=0.0, max=1.0)] = 0.95,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="The best recall of which 95 of 100 searches take no longer.", min=0.0),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Keep the best also where it misses the target.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Keep nothing.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Find the cheapest search that reaches a recall, and make it the collection's default.

    Exits with 4 where no setting reaches the target.
    """
    from ragkit.benchmark.tuning import tune as tuned

    if queries is not None and sample is not None:
        raise typer.BadParameter("--queries and --sample are two ways to say it: leave one out")
    judged = None if qrels is None else _judged(queries, qrels)
    with store(db) as client, measuring() as progress:
        docs = existing(client, collection)
        found = tuned(
            docs,
            queries_of(docs, None if judged else queries),
            limit=limit,
            target=target,
            budget_ms=budget_ms,
            judged=judged,
            sample=sample or _SAMPLE,
            save=not dry_run,
            anyway=anyway,
            id_key=id_key,
            seed=seed,
            progress=progress,
        )
    if as_json:
        emit(_as_json(docs.name, found))
    else:
        _print(docs.name, found, dry_run=dry_run)
    return DONE if found.reached else BELOW


def _judged(queries: Path | None, qrels: Path) -> Judged:
    from ragkit.benchmark.judged import read_judged_files

    if queries is None:
        raise typer.BadParameter("--qrels judges the queries of a file: say which with --queries")
    return read_judged_files(queries, qrels)


def _as_json(name: str, found: Tuning) -> dict[str, Any]:
    from dataclasses import asdict, fields

    document = {field.name: getattr(found, field.name) for field in fields(found)}
    trials = [asdict(trial) for trial in found.trials]
    return {"collection": name, **document, "trials": trials, "about": asdict(found.trials.about)}


def _print(name: str, found: Tuning, *, dry_run: bool) -> None:
    from ragkit.benchmark.answers import circumstances
    from ragkit.benchmark.tables import text
    from ragkit.console import console, one_line

    screen = console()
    width = screen.width if sys.stdout.isatty() else None
    for table in _tables(found):
        screen.print(table.caption, style="bold", markup=False)
        typer.echo(text(table, width=width, emphasis=_emphasis(screen.color_system is not None)))
        typer.echo()
    for number, line in enumerate(_verdict(name, found, dry_run=dry_run)):
        screen.print(one_line(line), style="bold" if number == 0 else "", markup=False)
    for note in found.notes:
        screen.print(one_line(f"note: {note}"), style="yellow", markup=False)
    typer.echo()
    for line in circumstances(found.trials.about):
        screen.print(one_line(line), style="dim", markup=False)


def _emphasis(styled: bool) -> Any:
    return (lambda figure: typer.style(figure, bold=True)) if styled else str


def _tables(found: Tuning) -> list[Table]:
    """Of recall and of judgements, each first what was tried and then what was held out."""
    measures = dict.fromkeys(trial.measure for trial in found.trials)
    tables = []
    for measure in measures:
        for held_out in (False, True):
            trials = [
                trial
                for trial in found.trials
                if trial.measure == measure and trial.held_out == held_out
            ]
            if trials:
                tables.append(_table(measure, trials, held_out=held_out))
    return tables


def _table(measure: str, trials: Sequence[Trial], *, held_out: bool) -> Table:
    from ragkit.benchmark.tables import Cell, Table
    from ragkit.benchmark.trials import named

    half = "the held-out half of the queries" if held_out else "the half to choose by"
    timed = any(trial.p50_ms is not None for trial in trials)
    heads = ["setting", "queries", measure, "±", *(["p50 ms", "p95 ms"] if timed else []), ""]
    body = [
        [
            named(trial.options),
            f"{trial.queries:,}" if trial.queries else "",
            *_value(trial),
            *(_times(trial) if timed else ()),
            trial.outcome,
        ]
        for trial in trials
    ]
    strong = [trial.outcome.startswith("chosen") for trial in trials]
    return Table(
        caption=f"{measure} on {half}",
        heads=(tuple(heads),),
        body=tuple(
            tuple(Cell(each, chosen) for each in row)
            for row, chosen in zip(body, strong, strict=True)
        ),
        labels=1,
        align="l" + "r" * (len(heads) - 2) + "l",
    )


def _value(trial: Trial) -> tuple[str, str]:
    from ragkit.benchmark.tables import share

    if trial.value is None or trial.low is None or trial.high is None:
        return "", ""
    return share(trial.value), f"{(trial.high - trial.low) / 2:.3f}"


def _times(trial: Trial) -> tuple[str, str]:
    from ragkit.benchmark.tables import milliseconds

    if trial.p50_ms is None or trial.p95_ms is None:
        return "", ""
    return milliseconds(trial.p50_ms), milliseconds(trial.p95_ms)


def _verdict(name: str, found: Tuning, *, dry_run: bool) -> list[str]:
    """The winner in a sentence, then what was written where, and what it was before."""
    from ragkit.benchmark.trials import named

    setting = named(found.options)
    lines = [_winner(setting, found)]
    trials = (trial.outcome for trial in found.trials)
    if "chosen, as it is now" in trials:
        lines.append("That is how it is searched already.")
    elif found.recall_before is not None and found.p50_ms_before is not None:
        lines.append(
            f"Until now: recall {_share(found.recall_before)} in {_ms(found.p50_ms_before)} ms."
        )
    if found.saved:
        lines.append(
            f"Written to collection {name!r} as its default search: {_said(found.options)}; "
            f"before: {_said(found.before)}."
        )
    elif dry_run:
        lines.append(f"Nothing was written (--dry-run): {_said(found.options)}.")
    elif found.reached:
        lines.append("Nothing was written: nothing better was found.")
    else:
        lines.append("Nothing was written; --anyway makes it the default all the same.")
    return lines


def _winner(setting: str, found: Tuning) -> str:
    if found.recall is None or found.p50_ms is None or found.p95_ms is None:
        return f"Search with {setting}." if found.options else "Search as until now."
    low, high = found.recall_low or 0.0, found.recall_high or 1.0
    result = (
        f"recall@{found.limit} {_share(found.recall)} ({_share(low)} to {_share(high)}) on "
        f"{found.queries:,} held-out queries, p50 {_ms(found.p50_ms)} ms, "
        f"p95 {_ms(found.p95_ms)} ms"
    )
    if found.reached:
        return f"Search with {setting}: {result}."
    within = "" if found.budget_ms is None else f" within {found.budget_ms:g} ms"
    return f"No setting reaches {found.target:g}{within}; the best is {setting}: {result}."


def _said(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items()) or "ragkit's defaults"


def _share(value: float) -> str:
    from ragkit.benchmark.tables import share

    return share(value)


def _ms(value: float) -> str:
    from ragkit.benchmark.tables import milliseconds

    return milliseconds(value)
