"""Queries with judgements of what answers them, read in the usual layouts, and runs written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ragkit.benchmark.queries import read_texts
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.indexer import Indexer
from ragkit.reports import IndexReport, ProgressCallback

_RELEVANCE_HEADERS = frozenset({"score", "relevance", "rel", "label"})
_NO_TITLE = "-"  # no term to BM25; a document has to have a title
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Queries, and which documents answer them.

    Queries without judgements and judgements of queries that are not there are left out, and
    counted in the notes.

    Attributes:
        queries: Their texts, by id.
        qrels: For each query the documents that were judged: 0 or less does not answer it, 1 does,
            and more does so better.
        corpus: The documents themselves: a file as `read_corpus` reads it, or the documents; None
            where they are in a collection already.
        name: What to call the set.
        notes: What was left out, and what else to mind.

    Raises:
        ValueError: No query is left.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    corpus: str | Path | Iterable[Document] | None = None
    name: str = "judged"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = [query for query in self.queries if self.qrels.get(query)]
        if not both:
            some, other = _example(self.queries), _example(self.qrels)
            raise ValueError(
                f"{self.name}: none of {len(self.queries):,} queries is judged: their ids are such "
                f"as {some}, those in the judgements such as {other}"
            )
        notes = [*self.notes, *_left_out(self.queries, self.qrels, both)]
        object.__setattr__(self, "queries", {query: self.queries[query] for query in both})
        object.__setattr__(self, "qrels", {query: dict(self.qrels[query]) for query in both})
        object.__setattr__(self, "notes", tuple(dict.fromkeys(notes)))

    def only(self, queries: Iterable[str]) -> Judged:
        """The same documents with these of the queries, by id.

        Raises:
            KeyError: There is no such query.
        """
        chosen = list(queries)
        return Judged(
            queries={query: self.queries[query] for query in chosen},
            qrels={query: self.qrels[query] for query in chosen},
            corpus=self.corpus,
            name=self.name,
        )

    def documents(self) -> Iterator[Document]:
        """The corpus, document by document.

        Raises:
            ValueError: There is none.
        """
        if self.corpus is None:
            raise ValueError(
                f"{self.name} came without a corpus: expected corpus.jsonl beside its queries, or "
                "measure the collection that its documents are in"
            )
        if isinstance(self.corpus, str | Path):
            return read_corpus(self.corpus)
        return iter(self.corpus)


def read_judged(folder: str | Path, *, split: str = "test") -> Judged:
    """Read a folder in the layout of BEIR (Thakur et al. 2021, arXiv:2104.08663).

    That is `corpus.jsonl` with `{_id, title, text}` (it may be missing), `queries.jsonl` with
    `{_id, text}`, and `qrels/<split>.tsv`; or `qrels.tsv` where there are no splits.

    Raises:
        ValueError: A file is missing, or a line is not as `read_queries` and `read_qrels` have it.
    """
    root = Path(folder)
    wanted = root / "qrels" / f"{split}.tsv"
    qrels = wanted if wanted.exists() else root / "qrels.tsv"
    queries, corpus = root / "queries.jsonl", root / "corpus.jsonl"
    if not (queries.exists() and qrels.exists()):
        splits = ", ".join(sorted(path.stem for path in root.glob("qrels/*.tsv"))) or "none"
        raise ValueError(
            f"expected queries.jsonl and qrels/{split}.tsv (or qrels.tsv) in {root}, and not both "
            f"are there; splits that are: {splits}"
        )
    return Judged(
        queries=read_texts(queries),
        qrels=read_qrels(qrels),
        corpus=corpus if corpus.exists() else None,
        name=root.resolve().name,
    )


def read_judged_files(
    queries: str | Path, qrels: str | Path, *, corpus: str | Path | None = None
) -> Judged:
    """Read a set from separate files.

    Args:
        queries: See `ragkit.benchmark.queries.read_texts`.
        qrels: See `read_qrels`.
        corpus: See `read_corpus`; None where the documents are in a collection already.
    """
    return Judged(
        queries=read_texts(Path(queries)),
        qrels=read_qrels(qrels),
        corpus=None if corpus is None else Path(corpus),
        name=Path(queries).stem,
    )


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgements: for each query the relevance of documents.

    Lines have query, document and relevance, with or without BEIR's header; or, as TREC has them,
    query, an ignored field, document and relevance. They are divided at tabs, where there are any,
    else at white space.

    Raises:
        ValueError: A line is neither, or a document is judged twice and not alike; the message has
            the file and the line.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, (where, line) in enumerate(_lines(Path(path))):
        fields = line.split("\t") if "\t" in line else line.split()
        if number == 0 and fields[-1].strip().lower() in _RELEVANCE_HEADERS:
            continue
        if len(fields) not in (3, 4) or not all(fields) or not _is_whole(fields[-1]):
            raise ValueError(
                f"{where}: expected query, document and relevance (a whole number below a "
                f"million), or TREC's query, 0, document and relevance, got {_shown(line)}"
            )
        query, document, relevance = fields[0], fields[-2], int(fields[-1])
        held = qrels.setdefault(query, {}).setdefault(document, relevance)
        if held != relevance:
            raise ValueError(
                f"{where}: expected one judgement of a document, got {document!r} for query "
                f"{query!r} as {held} and {relevance}"
            )
    return qrels


def read_corpus(path: str | Path) -> Iterator[Document]:
    """Read documents from JSON lines with `_id` or `id`, `title` and `text`.

    The id becomes the source. A document without a text is read as its title, one without a title
    is given "-".

    Raises:
        ValueError: A line is no such object; the message has the file and the line.
    """
    for where, line in _lines(Path(path)):
        row = _object(line, where)
        title, text = row.get("title") or "", row.get("text")
        if not isinstance(text, str) or not isinstance(title, str):
            raise ValueError(
                f'{where}: expected a document as {{"_id": …, "title": …, "text": …}}, got '
                f"{_shown(line)}"
            )
        yield Document(
            source=_id(row, where),
            title=title.strip() or _NO_TITLE,
            text=text if text.strip() else title,
        )


def index_judged(
    collection: Collection,
    judged: Judged,
    *,
    corpus: str | None = None,
    progress: ProgressCallback | None = None,
) -> IndexReport:
    """Put the set's documents into a collection, the way of all documents: split and embedded.

    Args:
        collection: Where to; the document's id becomes the source.
        judged: With a corpus.
        corpus: The corpus' name in the collection; the set's unless given.
        progress: See `Indexer.add`.
    """
    return Indexer(collection).add(
        judged.documents(), corpus=corpus or judged.name, progress=progress
    )


def write_run(
    path: str | Path, rankings: Mapping[str, Sequence[str]], *, tag: str = "ragkit"
) -> None:
    """Write rankings as a TREC run: lines of query, Q0, document, rank, score and tag.

    Programs such as trec_eval sort by score, and equal scores by document: so the score counts
    down from the ranking's length to 1 and says the rank once more, and whatever reads the file
    sees the order as it was. White space, which divides the fields, is percent-encoded in ids and
    in the tag ("a b.md" is written "a%20b.md"); `write_qrels` does the same.

    Args:
        path: The file; one that is there is replaced.
        rankings: For each query the documents, best first. One without documents has no line.
        tag: What to call the run.

    Raises:
        ValueError: A document stands twice in a ranking, which trec_eval does not accept.
    """
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for query, documents in rankings.items():
            written = [_field(document) for document in documents]
            if len(set(written)) != len(written):
                twice = next(each for each in written if written.count(each) > 1)
                raise ValueError(
                    f"expected each document once in a ranking, got {twice!r} twice for query "
                    f"{query!r}"
                )
            for rank, document in enumerate(written, 1):
                score = len(written) - rank + 1
                file.write(f"{_field(query)} Q0 {document} {rank} {score} {_field(tag)}\n")


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements as TREC has them, with ids as `write_run` writes them."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for query, documents in qrels.items():
            for document, relevance in documents.items():
                file.write(f"{_field(query)} 0 {_field(document)} {relevance}\n")


def _left_out(
    queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]], both: Sequence[str]
) -> Iterator[str]:
    """What is left out, in sentences, and the queries that nothing can answer."""
    if unjudged := len(queries) - len(both):
        yield f"queries left out, for want of judgements: {unjudged:,}"
    if unknown := len(qrels.keys() - queries.keys()):
        yield f"judged queries left out, for want of their text: {unknown:,}"
    if hopeless := sum(max(qrels[query].values()) < 1 for query in both):
        yield (
            "queries without a relevant document, which count as 0 whatever is found, as trec_eval "
            f"has it: {hopeless:,}"
        )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, for messages, and the line; blank ones are passed over."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
            except UnicodeDecodeError as exc:
                raise ValueError(f"{where}: expected text in UTF-8: {exc}") from exc
            if line.strip():
                yield where, line


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{where}: expected a JSON object: {exc}") from exc
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_shown(line)}")
    return row


def _id(row: Mapping[str, Any], where: str) -> str:
    found = row.get("_id", row.get("id"))
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise ValueError(f"{where}: expected an id under '_id' or 'id', got {found!r}")
    return str(found)


def _is_whole(text: str) -> bool:
    # trec_eval's code keeps a table as long as the highest relevance: it hangs at 2**31.
    return re.fullmatch(r"\s*[+-]?[0-9]{1,6}\s*", text) is not None


def _field(text: str) -> str:
    return _SPACE.sub(lambda space: quote(space[0]), text)


def _shown(line: str) -> str:
    return repr(line if len(line) <= 80 else f"{line[:77]}…")


def _example(ids: Iterable[str]) -> str:
    first = next(iter(ids), None)
    return "(there are none)" if first is None else repr(first)
