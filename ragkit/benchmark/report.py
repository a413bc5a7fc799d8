"""Measurements as one page of HTML that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from ragkit.benchmark.answers import answers, shown_facts
from ragkit.benchmark.files import KINDS, read_rows, write_whole
from ragkit.benchmark.layouts import tables
from ragkit.benchmark.rows import About, Fact, Rows
from ragkit.benchmark.tables import Table
from ragkit.errors import MissingDependency

_TITLES = {
    "recall": "Recall",
    "quantization": "Quantizations",
    "dimensions": "Dimensions",
    "quality": "Quality",
    "chunking": "Chunking",
}
_PLOTS = {
    "recall": "Two plots. Left: recall against oversampling, a line for each limit, with and "
    "without rescoring. Right: recall against latency for every cell, with the front of each "
    "limit. All figures are in the table of cells.",
    "quantization": "For each quantization the memory of its codes, its recall and its latency, "
    "without rescoring and with it. All figures are in the tables above.",
    "dimensions": "What is kept when vectors are cut short: the overlap of the nearest "
    "neighbours, and nDCG where there are judgements. All figures are in the table above.",
    "quality": "The difference of each setting to the first, with its 95% interval, for each "
    "measure. All figures are in the tables above.",
    "chunking": "Recall, recall within a budget, precision and IoU of each chunker. All figures "
    "are in the tables above.",
}
_WORDS = {
    "recall": (
        (
            "Recall",
            "The nearest neighbours of a query can be found exactly, by comparing it with every "
            "vector at full precision. That is slow. A quick search finds most of them; recall is "
            "the part that it finds. With a recall of 0.95 at limit 100, five of the hundred that "
            "belong there are missing, and others stand in their place.",
        ),
        (
            "Quantization",
            "Vectors are kept in a short form beside the originals, down to a bit for each "
            "number, so that they fit into memory and are quickly compared. The short form puts "
            "neighbours into a slightly wrong order.",
        ),
        (
            "Oversampling",
            "So the search by the short form fetches more than was asked for: with oversampling 3 "
            "and limit 10, thirty candidates. The right ones are likely to be among them.",
        ),
        (
            "Rescore",
            "The candidates are compared again with the original vectors, and the best of them "
            "are returned. Without it, oversampling has nothing to choose from.",
        ),
    ),
    "dimensions": (
        (
            "Dimensions",
            "Models trained in the way of Matryoshka dolls put what matters most first: a vector "
            "can be cut short, brought to unit length again, and still be compared.",
        ),
    ),
    "quality": (
        (
            "Judgements",
            "People have said for each question which documents answer it. nDCG and MRR count "
            "how high those stand, recall how many are found, MAP both.",
        ),
        (
            "Intervals",
            "Other questions would give other figures. Where the 95% interval of a difference "
            "holds 0, these questions do not show that the settings differ.",
        ),
    ),
    "chunking": (
        (
            "Recall, precision, IoU",
            "Of the text that answers a question, the part that the retrieved chunks hold; of the "
            "retrieved chunks, the part that answers; and both at once.",
        ),
    ),
}


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the measurements of a folder as one page, the answers first.

    Without matplotlib it has no plots, and says how to get them.

    Args:
        folder: Where `write_rows` put them.
        path: Of the page; None for `report.html` in the folder.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: There is no measurement in the folder.
        ValueError: One of them is damaged or of another version.
    """
    folder = Path(folder)
    found = [folder / f"{what}.json" for what in KINDS]
    measured = [read_rows(each) for each in found if each.exists()]
    if not measured:
        listed = ", ".join(each.name for each in found)
        raise FileNotFoundError(f"there is no measurement in {folder}: none of {listed}")
    path = folder / "report.html" if path is None else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(measured).encode())
    return path


def page(measured: Sequence[Rows[Any]]) -> str:
    """The page of measurements."""
    subjects = [str(rows.about.subject.get("collection") or "") for rows in measured]
    named = " and ".join(dict.fromkeys(filter(None, subjects)))
    title = f"Search of {named}, measured" if named else "Search, measured"
    leads = [
        f'<p class="lead"><a href="#{rows.about.what}">{_TITLES[rows.about.what]}</a> '
        f"{escape(answers(rows)[0])}</p>"
        for rows in measured
    ]
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        leads="\n".join(leads),
        parts="\n".join(map(_part, measured)),
    )


def _part(rows: Rows[Any]) -> str:
    what, about = rows.about.what, rows.about
    found = tables(rows)
    said = _list(answers(rows)[1:])
    return "\n".join(
        [
            f'<section aria-labelledby="{what}">',
            f'<h2 id="{what}">{_TITLES[what]}</h2>',
            said,
            *map(_table, found[:1]),
            _plot(rows) if rows else "",
            *map(_table, found[1:]),
            _words(what),
            "<h3>How this was measured</h3>",
            _circumstances(about),
            "</section>",
        ]
    )


def _words(what: str) -> str:
    """What the terms mean, for who meets them for the first time."""
    terms = _WORDS["recall"] if what == "quantization" else _WORDS[what]
    said = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms)
    return f"<details open><summary>What the words mean</summary><dl>{said}</dl></details>"


def _plot(rows: Rows[Any]) -> str:
    from ragkit.benchmark.plots import svg

    try:
        drawn = svg(rows)
    except MissingDependency as exc:
        return f'<p class="note">The plot is missing: {escape(str(exc))}</p>'
    said = escape(_PLOTS[rows.about.what], quote=True)
    return f'<figure><div class="wide" role="img" aria-label="{said}">{drawn}</div></figure>'


def _table(table: Table) -> str:
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in table.notes)
    heads = "".join(
        f"<tr>{''.join(_heads(table, number))}</tr>" for number in range(len(table.heads))
    )
    body = "".join(_row(table, number) for number in range(len(table.body)))
    caption = f"<caption>{escape(table.caption)}</caption>"
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(table.caption)}"><table>'
        f"{caption}<thead>{heads}</thead><tbody>{body}</tbody></table></div>{notes}"
    )


def _heads(table: Table, number: int) -> Iterable[str]:
    """A row of headings; equal ones side by side become one, except in the last row."""
    row = table.heads[number]
    last = number == len(table.heads) - 1
    if last:
        yield from (_head(*each) for each in zip(row, table.align, strict=True))
        return
    yield from map(_head, row[: table.labels])
    for name, same in groupby(row[table.labels :]):
        yield _head(name, span=len(list(same)))


def _head(name: str, align: str = "l", *, span: int = 1) -> str:
    side = ' class="r"' if align == "r" else ""
    wide = f' colspan="{span}"' if span > 1 else ""
    scope = "colgroup" if span > 1 else "col"
    return f'<th scope="{scope}"{side}{wide}>{escape(name)}</th>' if name else f"<td{wide}></td>"


def _row(table: Table, number: int) -> str:
    row = table.body[number]
    cells = []
    for place, cell in enumerate(row):
        side = ' class="r"' if table.align[place] == "r" else ""
        shown = f"<strong>{escape(cell.text)}</strong>" if cell.strong else escape(cell.text)
        name = place < table.labels and cell.text
        cells.append(f'<th scope="row"{side}>{shown}</th>' if name else f"<td{side}>{shown}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _circumstances(about: About) -> str:
    groups = [
        ("What", about.subject),
        ("Asked for", about.settings),
        ("Machine", about.machine),
        ("Versions", about.versions),
    ]
    said = "".join(f"<dt>{name}</dt><dd>{_facts(found)}</dd>" for name, found in groups if found)
    notes = f"<h4>Mind</h4>{_list(about.notes)}" if about.notes else ""
    return (
        f"<dl class=facts><dt>Begun</dt><dd>{escape(_moment(about.at))}</dd>"
        f"<dt>Queries</dt><dd>{escape(about.queries)}</dd>{said}</dl>"
        f"{_list(about.method)}{notes}"
    )


def _moment(at: str) -> str:
    return at.replace("T", " ").replace("+00:00", " UTC")


def _facts(found: Mapping[str, Fact]) -> str:
    return "; ".join(
        f"{escape(name)}&nbsp;<b>{escape(value)}</b>" for name, value in shown_facts(found)
    )


def _list(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in sentences)}</ul>"


_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1b; --soft: #5a5f66;
  --line: #d9dce1; --tint: #f3f5f8; --strong: #00527f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e8e8e6; --soft: #a6adb6;
  --line: #343a42; --tint: #1d2228; --strong: #7cc4f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1rem 0 .25rem; }
h1, h2, h3, caption { text-wrap: balance; }
a { color: var(--strong); }
.lead { font-size: 1.12rem; margin: .6rem 0; max-width: 46rem; }
.lead a { display: inline-block; font-weight: 600; margin-right: .35rem; }
p, li, dd { max-width: 46rem; }
ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
table { border-collapse: collapse; margin: 1.25rem 0 .5rem; font-variant-numeric: tabular-nums;
  font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .22rem .8rem; text-align: left; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); }
tbody th { color: var(--ink); }
td.r, th.r { text-align: right; }
thead tr:last-child > * { border-bottom: 1px solid var(--soft); }
tbody tr:nth-child(even) { background: var(--tint); }
td strong { color: var(--strong); font-weight: 700; }
.note { color: var(--soft); font-size: .9rem; margin: .2rem 0 1rem; }
details { margin: 1.5rem 0; padding: .6rem 1rem; background: var(--tint); border-radius: .4rem; }
summary { cursor: pointer; font-weight: 600; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
.facts { font-size: .92rem; }
.facts dt { color: var(--soft); font-weight: 500; }
.facts b { font-weight: 500; }
@media (min-width: 40rem) { .facts { display: grid; grid-template-columns: 7rem 1fr;
  gap: .3rem 1rem; }
  .facts dt { margin: 0; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .wide { overflow: visible; }
  figure, table { break-inside: avoid; } figure svg { min-width: 0; } }
"""

_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$leads
$parts
</main>
</body>
</html>
"""
)
