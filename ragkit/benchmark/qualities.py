"""How well a collection finds what answers judged queries, setting by setting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from ragkit.benchmark.environment import describe, subject_of
from ragkit.benchmark.intervals import paired_interval
from ragkit.benchmark.judged import Judged, write_qrels, write_run
from ragkit.benchmark.queries import embedded
from ragkit.benchmark.rows import About, MeasureCallback, Rows
from ragkit.collection import Collection
from ragkit.embeddings import Vectors
from ragkit.errors import CollectionError, require
from ragkit.filters import payload_key
from ragkit.hits import Hit
from ragkit.pipeline import batched
from ragkit.points import values_of
from ragkit.retriever import Retriever
from ragkit.schema import match, match_any
from ragkit.search_options import MAX_LIMIT, SearchKeywords, SearchOptions
from ragkit.server import FUSION_WEIGHTS

MEASURES = ("nDCG@10", "R@10", "RR@10", "AP@100")

_MEASURE = re.compile(r"(?P<name>\w+)(?:\(rel=(?P<rel>[0-9]+)\))?@(?P<cutoff>[0-9]+)")
_OWN = ("limit", "group_by", "group_size")  # options that the measures decide
_HITS_AT_ONCE = 5_000
_IDS_AT_ONCE = 1_000
_MOST_NOTES = 5  # of searches
_EXAMPLES = 3  # of ids
_NUMBER = re.compile("0|[1-9][0-9]{0,17}")  # of 64 bits
_TOP = 10  # hits that are looked at for documents nobody judged
_METHOD = (
    "Documents are judged, and each counts where its best passage stands.",
    "A measure at k is of searches with limit=k, as a user makes them: with fusion or "
    "quantization the first of a longer search can be others.",
    "A query for which nothing is found counts as 0, and a document that nobody judged as not "
    "relevant.",
    "Differences are to the first setting, with the interval of the paired bootstrap over the "
    "queries. Each is a test by itself: of twenty that are chance alone one will seem to be none.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """How well one setting finds.

    Attributes:
        setting: Its label.
        options: Its search options, as given.
        measures: The mean over the queries of each measure, by ir-measures' name of it.
        differences: For each measure the mean difference to the first setting, and the lower and
            upper end of its 95% interval; empty for the first.
        queries: How many.
    """

    setting: str
    options: dict[str, Any]
    measures: dict[str, float]
    differences: dict[str, list[float]]
    queries: int


def quality(
    collection: Collection,
    judged: Judged,
    *,
    settings: Mapping[str, SearchKeywords] | None = None,
    measures: Sequence[str] = MEASURES,
    id_key: str = "source",
    runs_to: str | Path | None = None,
    progress: MeasureCallback | None = None,
) -> Rows[QualityRow]:
    """Measure how well searches find what answers judged queries, for settings side by side.

    Queries are embedded once for all settings, and searches go the way of every user, through
    `Retriever.search_many`.

    Args:
        collection: Holds the judged documents.
        judged: The queries and their judgements.
        settings: Search options by label; `default_settings` unless given.
        measures: Of ir-measures, with a cutoff: "nDCG@10", "R@10" (recall), "RR@10", "AP@100",
            "P(rel=2)@5".
        id_key: The payload key that holds the judgements' document ids, as in `group_by`.
        runs_to: A folder for the rankings as TREC runs, one for each setting and cutoff, and the
            judgements with ids written alike (`qrels.trec`).
        progress: Called as it goes on.

    Returns:
        A row for each setting, in their order.

    Raises:
        ValueError: An unknown measure or option, or none of the judged documents is there: the
            judgements then mean other ids.
        CollectionError: The collection is empty.
        MissingDependency: ir-measures is not installed.
    """
    asked = [_parsed(name) for name in measures]
    given = default_settings(collection) if settings is None else settings
    searches = JudgedSearches(collection, judged, id_key=id_key, progress=progress)
    searches.check(given, cutoffs={each.cutoff for each in asked})
    about = _about(collection, judged, [each.name for each in asked], id_key)
    searches.embed(given)
    folder = None if runs_to is None else _run_folder(Path(runs_to), judged)
    rows: list[QualityRow] = []
    first: dict[str, NDArray[np.float64]] = {}
    for label, options in given.items():
        values: dict[str, NDArray[np.float64]] = {}
        for cutoff in sorted({each.cutoff for each in asked}):
            rankings = searches.rankings(label, options, limit=cutoff)
            if folder is not None:
                name = f"{_file_name(label)}@{cutoff}"
                write_run(folder / f"{name}.run", rankings, tag=f"ragkit-{name}")
            names = [each.name for each in asked if each.cutoff == cutoff]
            values |= measured(judged.qrels, rankings, names)
        rows.append(_row(label, options, {each.name: values[each.name] for each in asked}, first))
        first = first or values
    notes = (*about.notes, *searches.notes())
    return Rows(rows, about=replace(about, notes=notes))


def measured(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """What each measure says of each query's ranking, by ir-measures.

    Args:
        qrels: The judgements.
        rankings: For each query documents, best first and each once; a query that is missing or
            has none counts as 0.
        measures: As in `quality`.

    Returns:
        For each measure the values in the order of `qrels`, shape (queries,).

    Raises:
        ValueError: There is no such measure.
        MissingDependency: ir-measures is not installed.
    """
    parsed = {str(each.measure): each for each in map(_parsed, measures)}
    # Equal scores would be put in an order of their own by each of the programs behind it.
    run = {
        query: {document: float(-rank) for rank, document in enumerate(ranking)}
        for query, ranking in rankings.items()
        if ranking
    }
    row = {query: number for number, query in enumerate(qrels)}
    values = {each.name: np.zeros(len(row)) for each in parsed.values()}
    evaluator = require("ir_measures", "bench").evaluator(
        [each.measure for each in parsed.values()],
        {query: dict(documents) for query, documents in qrels.items()},
    )
    for metric in evaluator.iter_calc(run):
        if metric.query_id in row:
            values[parsed[str(metric.measure)].name][row[metric.query_id]] = metric.value
    return values


def default_settings(collection: Collection) -> dict[str, SearchKeywords]:
    """What the collection can do: words, meaning, and both, fused in the usual ways.

    Each says how it fuses, so that what the collection was tuned to does not count; if it was,
    that is the first.
    """
    where, _ = collection.searchable()
    found: dict[str, SearchKeywords] = {"as tuned": {}} if where.defaults else {}
    found["sparse"] = {"mode": "sparse"}
    if where.dim is None or where.embedder is None:
        return found
    found["dense"] = {"mode": "dense"}
    k = SearchOptions().fusion_k
    found["hybrid"] = {"mode": "hybrid", "fusion": "rrf", "rrf_k": k}
    found["hybrid dbsf"] = {"mode": "hybrid", "fusion": "dbsf"}
    if where.server is None or where.server.has(FUSION_WEIGHTS):
        for dense, sparse in ((1, 2), (2, 1)):
            weights: SearchKeywords = {"weights": {"dense": dense, "sparse": sparse}, "rrf_k": 1}
            found[f"hybrid {dense}:{sparse}"] = {"mode": "hybrid", "fusion": "rrf", **weights}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    name: str  # ir-measures' own, such as "R@10" for "Recall@10"
    measure: Any
    cutoff: int


def _parsed(name: str) -> _Measure:
    """A measure with a cutoff.

    ir-measures' own parser needs what Python 3.14 has no more, and lets a cutoff of 0 through,
    with which trec_eval's code ends the process.
    """
    ir_measures = require("ir_measures", "bench")
    found = _MEASURE.fullmatch(name)
    kind = ir_measures.measures.registry.get(found["name"]) if found else None
    cutoff = int(found["cutoff"]) if found else 0
    measure = None
    if found is not None and kind is not None and 0 < cutoff <= MAX_LIMIT:
        rel = {} if found["rel"] is None else {"rel": int(found["rel"])}
        measure = _supported(ir_measures, kind(cutoff=cutoff, **rel))
    if measure is None:
        raise ValueError(
            f"expected a measure that ir-measures computes, with a cutoff from 1 to {MAX_LIMIT:,}, "
            f"such as {', '.join(MEASURES)} or P(rel=2)@5, got {name!r}"
        )
    return _Measure(name=str(measure), measure=measure, cutoff=cutoff)


def _supported(ir_measures: ModuleType, measure: Any) -> Any:
    """The measure, or None where it takes no such parameters or nothing installed computes it."""
    try:
        return measure if ir_measures.DefaultPipeline.supports(measure) else None
    except AssertionError:  # it takes no such parameters
        return None


class JudgedSearches:
    """The searches of one measurement, and what is to be said of them in the end.

    First `check`, then `embed`, then `rankings` for each setting.

    Args:
        collection: Holds the judged documents.
        judged: The queries and their judgements.
        id_key: The payload key that holds the judgements' document ids.
        progress: Called as it goes on.

    Raises:
        CollectionError: The collection is empty.
    """

    def __init__(
        self,
        collection: Collection,
        judged: Judged,
        *,
        id_key: str,
        progress: MeasureCallback | None,
    ) -> None:
        self._collection = collection
        self._judged = judged
        self._id_key = id_key
        self._progress = progress
        self._vectors: Vectors | None = None
        self._at_once = min(_IDS_AT_ONCE, collection.points.most_values)
        self._unjudged: dict[str, float] = {}
        self._said: dict[str, None] = {}
        status = collection.status()
        if not status.chunks:
            raise CollectionError(f"collection {collection.name!r} is empty: index documents first")
        # With one passage to a document, the best passages are the best documents.
        single = status.chunks == status.documents and len(status.corpora) == 1
        self._grouped = id_key != "source" or not single

    def check(self, settings: Mapping[str, SearchKeywords], *, cutoffs: set[int]) -> None:
        """Refuse what cannot be measured, before anything is paid for.

        Raises:
            ValueError: An option is wrong or the measures', labels are too alike, or no judged
                document is there.
        """
        if not settings or not cutoffs:
            raise ValueError("expected at least one setting and one measure, got none")
        if len({*map(_file_name, settings)}) < len(settings):
            raise ValueError(
                f"expected labels that differ in more than signs, got {', '.join(settings)}"
            )
        for label, options in settings.items():
            Retriever(self._collection, **options)  # checks them
            own = [name for name in _OWN if options.get(name) is not None]
            if own:
                raise ValueError(
                    f"setting {label!r}: the measures decide {', '.join(own)}: leave it out"
                )
            if self._grouped and options.get("diversity"):
                raise ValueError(
                    f"setting {label!r}: diversity spreads passages, and documents are judged, "
                    "of which some have several passages here: leave it out"
                )
        self._look_for_judged()
        if self._id_key == "source":
            self._look_for_relevant()

    def embed(self, settings: Mapping[str, SearchKeywords]) -> None:
        """Embed the queries, if any setting compares meanings."""
        embedder = self._collection.embedder
        if embedder is None or all(each.get("mode") == "sparse" for each in settings.values()):
            return
        texts = list(self._judged.queries.values())
        self._vectors = embedded(embedder, texts, progress=self._progress)

    def rankings(self, label: str, options: SearchKeywords, *, limit: int) -> dict[str, list[str]]:
        """For each query the ids of the best `limit` documents."""
        ids = list(self._judged.queries)
        texts = list(self._judged.queries.values())
        retriever = Retriever(self._collection, **options)
        own: SearchKeywords = {"limit": limit}
        if self._grouped:
            own |= {"group_by": self._id_key, "group_size": 1}
        found: dict[str, list[str]] = {}
        for rows in batched(range(len(ids)), max(1, _HITS_AT_ONCE // limit)):
            vectors = None if self._vectors is None else self._vectors[rows]
            answers = retriever.search_many([texts[row] for row in rows], vectors=vectors, **own)
            for row, hits in zip(rows, answers, strict=True):
                found[ids[row]] = list(dict.fromkeys(map(self._document, hits)))
                self._said |= dict.fromkeys(hits.notes)
            self._show(f"searching: {label}, limit {limit}", len(found), len(ids))
        self._look_at(label, found)
        return found

    def notes(self) -> Iterator[str]:
        """What to mind of the searches."""
        shares = ", ".join(f"{label} {share:.0%}" for label, share in self._unjudged.items())
        if shares:
            yield (
                f"of the first {_TOP} found, so many were not judged for their query, and count "
                f"as not relevant: {shares}"
            )
        yield from islice(self._said, _MOST_NOTES)

    def _show(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)

    def _document(self, hit: Hit) -> str:
        return str(hit.group) if self._grouped else hit.source

    def _look_at(self, label: str, rankings: Mapping[str, Sequence[str]]) -> None:
        """See how much of what was found is judged."""
        top = [(query, each) for query, ranking in rankings.items() for each in ranking[:_TOP]]
        unjudged = sum(document not in self._judged.qrels[query] for query, document in top)
        if top:
            self._unjudged[label] = unjudged / len(top)  # the deepest search has the last word

    def _look_for_judged(self) -> None:
        """Refuse judgements of documents none of which is there: they mean other ids."""
        key = payload_key(self._id_key, name="id_key")
        points = self._collection.points
        known = sorted(set(chain.from_iterable(self._judged.qrels.values())))
        if any(points.any(_has(key, some)) for some in batched(known, self._at_once)):
            return
        records = islice(points.scroll(fields=[key], page=_EXAMPLES), _EXAMPLES)
        held = sorted({value for record in records for value in values_of(record, key)})
        raise ValueError(
            f"no document in collection {self._collection.name!r} is judged: under "
            f"{self._id_key!r} they have ids such as {_examples(held)}, in the judgements they are "
            f"such as {_examples(known)}; name the payload key that holds the judgements' ids with "
            "id_key (--id-key), such as metadata.id"
        )

    def _look_for_relevant(self) -> None:
        """Note how many relevant documents are not there."""
        qrels = self._judged.qrels.values()
        wanted = {document for each in qrels for document, rel in each.items() if rel > 0}
        points, there = self._collection.points, set[str]()
        for some in batched(sorted(wanted), self._at_once):
            heads = models.Filter(must=[match_any("source", some), match("ordinal", 0)])
            for record in points.scroll(heads, fields=["source"]):
                there.add((record.payload or {})["source"])
        if missing := len(wanted - there):
            self._said[
                f"{missing:,} of {len(wanted):,} relevant documents are not in the collection: no "
                "search can find them"
            ] = None


def _has(key: str, ids: Sequence[str]) -> models.Filter:
    """That a payload key has one of these ids, as text or as a number; a source is text."""
    numbers = [int(each) for each in ids if key != "source" and _NUMBER.fullmatch(each)]
    as_number = models.FieldCondition(key=key, match=models.MatchAny(any=numbers))
    return models.Filter(should=[match_any(key, ids), *([as_number] if numbers else [])])


def _row(
    label: str,
    options: SearchKeywords,
    values: Mapping[str, NDArray[np.float64]],
    first: Mapping[str, NDArray[np.float64]],
) -> QualityRow:
    """The means, and where there is a first setting the differences to it."""
    return QualityRow(
        setting=label,
        options={name: _plain(value) for name, value in options.items() if value is not None},
        measures={name: float(each.mean()) for name, each in values.items()},
        differences={
            name: [*paired_interval(first[name], each)] for name, each in values.items() if first
        },
        queries=len(next(iter(values.values()))),
    )


def _plain(value: object) -> object:
    """An option's value as JSON has it."""
    if isinstance(value, models.Filter):
        return value.model_dump(mode="json", exclude_none=True)
    return dict(value) if isinstance(value, Mapping) else value


def _about(collection: Collection, judged: Judged, measures: Sequence[str], id_key: str) -> About:
    judgements = sum(map(len, judged.qrels.values()))
    about = describe(
        "quality",
        subject_of(collection),
        queries=(
            f"{len(judged.queries):,} queries of {judged.name} with {judgements:,} judgements of "
            "documents"
        ),
        client=collection.client,
        method=_METHOD,
        settings={"measures": ", ".join(measures), "id_key": id_key},
        notes=judged.notes,
    )
    return replace(about, versions={**about.versions, "ir-measures": version("ir-measures")})


def _run_folder(folder: Path, judged: Judged) -> Path:
    """The folder for runs, with the judgements in it, whose ids are written as theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_qrels(folder / "qrels.trec", judged.qrels)
    return folder


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.]+", "-", label).strip("-.") or "setting"


def _examples(ids: Iterable[str]) -> str:
    return ", ".join(repr(each) for each in islice(ids, _EXAMPLES))
