"""Finding the best setting of a collection's search, and keeping it as its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

import numpy as np

from ragkit.benchmark.choosing import Chooser, Chosen, grid_of
from ragkit.benchmark.environment import check_ready, describe, indexed_share, subject_of
from ragkit.benchmark.fusing import OPTIONS, Fused, choose_fusion
from ragkit.benchmark.judged import Judged
from ragkit.benchmark.originals import Originals, originals_of
from ragkit.benchmark.queries import Queries, embedded, sample_queries
from ragkit.benchmark.rows import About, MeasureCallback, Rows
from ragkit.benchmark.searches import check_exact
from ragkit.benchmark.trials import Half, Trial
from ragkit.collection import Collection
from ragkit.errors import CollectionError, CollectionMismatch
from ragkit.search_options import CALL, kept, settle
from ragkit.search_request import Searchable

_FEWEST = 20  # queries; less than ten in a half say nothing
_WELL_INDEXED = 0.9  # of the vectors; with less there is something to say of it
_METHOD = (
    "The queries are split at random into two halves. Settings are tried on one, on more and more "
    "of it until the 95% interval of their recall is clear of the target; the other half takes no "
    "part in choosing, and the recall that is stated is measured on it.",
    "Recall is the part of a query's nearest neighbours by exact search over the original vectors "
    "that the search finds; neighbours within 1e-6 of the last one's score count as found.",
    "Recall rises with oversampling and with hnsw_ef, and so does the time: what is dearer than a "
    "setting that reaches the target is not tried.",
    "Times are of one client that searches one query after the other, by vectors, ids alone.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The setting that was found, how good it is, and how it was found.

    Attributes:
        options: The search options that were decided.
        before: The collection's own search options until now; without any, ragkit's defaults held.
        limit: How many neighbours were asked for.
        target: The recall that was wanted.
        budget_ms: What 95 of 100 searches might take, in milliseconds; None for no limit.
        reached: Whether the recall on the held-out queries is the target or more, and the time
            within the budget.
        trials: All that was tried.
        notes: What to mind, and what to do if the target was not reached.
        recall: On the held-out queries; None, as what follows, where every search is exact and
            judgements alone decided.
        recall_low: Lower end of the 95% interval of that mean.
        recall_high: Its upper end.
        p50_ms: Median time of a search by vectors.
        p95_ms: What 95 of 100 stay below.
        queries: How many were held out.
        recall_before: What the collection's search until now finds of the same queries.
        p50_ms_before: Its median time.
        gain: By how much the mode and fusion that were decided are better than those until now,
            in nDCG@10 on held-out judged queries, with the ends of the 95% interval; None without
            judgements, or where they stay as they were.
        saved: Whether it is the collection's default now.
    """

    options: Mapping[str, Any]
    before: Mapping[str, Any]
    limit: int
    target: float
    budget_ms: float | None
    reached: bool
    trials: Rows[Trial]
    notes: tuple[str, ...]
    recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    queries: int = 0
    recall_before: float | None = None
    p50_ms_before: float | None = None
    gain: tuple[float, float, float] | None = None
    saved: bool = False


def tune(
    collection: Collection,
    queries: Queries | None = None,
    *,
    limit: int = 10,
    target: float = 0.95,
    budget_ms: float | None = None,
    judged: Judged | None = None,
    sample: int = 1_000,
    save: bool = True,
    anyway: bool = False,
    id_key: str = "source",
    seed: int = 0,
    progress: MeasureCallback | None = None,
) -> Tuning:
    """Find the cheapest search that reaches a recall, and make it the collection's default.

    Chosen is among oversampling, rescoring and, where vectors are in a graph, `hnsw_ef`; by p50,
    on one half of the queries. The choice is then held to the other half. If it misses the target
    there, the next dearer one is tried, until one holds. A setting that is taken at the second or
    a later attempt was chosen by the held-out queries, too: of several that lie about the target,
    the first that happens to be above is taken, so the recall that is stated is then a little too
    good, and its interval a little too narrow. The notes say how many attempts there were.

    With judgements mode and fusion are decided as well; what holds until now stays, unless another
    is better on judged queries that took no part in choosing, beyond chance.

    The default holds for whoever opens the collection, in every mode, and for every limit; recall
    is that at `limit`, by vectors. Other options that the collection was given stay.

    Args:
        collection: Has nothing to optimize any more, and is not shared by tenants.
        queries: What to search for; None takes the judged queries, else a sample of the passages.
        limit: How many neighbours.
        target: The recall wanted.
        budget_ms: Look for the best recall among the settings of which 95 of 100 searches take no
            more than this (p95), instead of the cheapest that reaches the target; still it counts
            as reached only with the target.
        judged: Queries with judgements of what answers them; needs the extra `bench`.
        sample: How many passages, if there are no queries.
        save: Write it into the manifest, if the target was reached.
        anyway: Write it also if not.
        id_key: The payload key that holds the judgements' document ids.
        seed: Of the sample and the halves.
        progress: Told how far it is.

    Raises:
        CollectionError: The collection is not ready to be measured, or changes meanwhile; or it
            is so small that every search is exact.
        CollectionMismatch: It is shared by tenants, has no vectors, or there is nothing to tune.
        ValueError: An option is out of its range, or there are fewer than 20 queries.
    """
    wanted = _Wanted(limit=limit, target=target, budget_ms=budget_ms, sample=sample, seed=seed)
    before = _own_search(collection)
    check_ready(collection)
    subject = subject_of(collection)
    by_recall = _by_recall(collection, queries, judged, wanted, progress)
    found = by_recall.chosen.options if by_recall else {}
    fused = None
    if judged is not None:
        fused = choose_fusion(
            collection, judged, found, id_key=id_key, seed=seed, progress=progress
        )
    about = describe(
        "tuning",
        subject,
        queries=_origin(by_recall, judged),
        client=collection.client,
        method=_METHOD,
        settings={"limit": limit, "target": target, "budget_ms": budget_ms, "seed": seed},
        notes=by_recall.notes if by_recall else (),
    )
    tuning = _tuning(by_recall, fused, wanted, before=before, about=about, name=collection.name)
    decided = by_recall.chosen.decided if by_recall else frozenset()
    if tuning.gain is not None:
        decided |= {*OPTIONS}
    if not save or not decided or not (tuning.reached or anyway):
        return tuning
    return _saved(collection, tuning, decided)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    limit: int
    target: float
    budget_ms: float | None
    sample: int
    seed: int

    def __post_init__(self) -> None:
        settle((CALL, {"limit": self.limit}))
        if not 0 < self.target <= 1:
            raise ValueError(f"expected a target above 0 and up to 1, got {self.target}")
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise ValueError(f"expected a budget above 0 milliseconds, got {self.budget_ms}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByRecall:
    chosen: Chosen
    origin: str
    notes: tuple[str, ...]


def _own_search(collection: Collection) -> Mapping[str, Any]:
    """The options that the collection has been given.

    Raises:
        CollectionMismatch: They are for several tenants.
    """
    manifest = collection.open()
    if manifest.tenancy is not None:
        raise CollectionMismatch(
            f"collection {collection.name!r} is shared by tenants, and its default search is that "
            "of all of them, which the passages of one cannot decide: measure with `ragkit bench "
            "recall --tenant NAME`, and give what you find to that tenant's Retriever"
        )
    return manifest.search


def _by_recall(
    collection: Collection,
    queries: Queries | None,
    judged: Judged | None,
    wanted: _Wanted,
    progress: MeasureCallback | None,
) -> _ByRecall | None:
    """Choose how vectors are searched; None where judgements alone have something to decide."""
    where, _ = collection.searchable()
    grid = None if where.dim is None else grid_of(where, wanted.limit)
    if grid is None and judged is not None:
        return None
    if grid is None:
        raise _nothing_to_tune(where)
    indexed = indexed_share(where) or 0.0
    with originals_of(collection, progress=progress) as originals:
        queries = queries or _queries_for(collection, judged, originals, wanted, progress)
        choosing, held_out = _halves(collection, originals, queries, wanted, progress)
        exact = check_exact(choosing.searches, choosing.truth, wanted.limit)
        chooser = Chooser(
            where,
            grid,
            choosing,
            held_out,
            limit=wanted.limit,
            target=wanted.target,
            budget_ms=wanted.budget_ms,
        )
        if chooser.leave_idle(indexed):
            notes = (exact, *_indexed_notes(indexed))
            return _ByRecall(chosen=chooser.choose(), origin=queries.origin, notes=notes)
    if judged is None:
        raise _nothing_yet(where)
    return None


def _halves(
    collection: Collection,
    originals: Originals,
    queries: Queries,
    wanted: _Wanted,
    progress: MeasureCallback | None,
) -> tuple[Half, Half]:
    """The queries in two halves, drawn at random: to choose by, and held out."""
    if len(queries) < _FEWEST:
        raise ValueError(
            f"expected at least {_FEWEST} queries, one half to choose by and one to check with, "
            f"got {len(queries)}"
        )
    where, points = collection.searchable()
    order = np.random.default_rng(wanted.seed).permutation(len(queries)).tolist()
    one, other = (
        Half(where, points, originals, queries.part(rows), wanted.limit, progress=progress)
        for rows in (order[::2], order[1::2])
    )
    return one, other


def _queries_for(
    collection: Collection,
    judged: Judged | None,
    originals: Originals,
    wanted: _Wanted,
    progress: MeasureCallback | None,
) -> Queries:
    """The judged queries, or passages: what is asked for real stands for more of its kind."""
    if judged is None or collection.embedder is None or len(judged.queries) < _FEWEST:
        return sample_queries(originals, wanted.sample, seed=wanted.seed)
    texts = list(judged.queries.values())
    return Queries(
        vectors=embedded(collection.embedder, texts, progress=progress),
        texts=texts,
        origin=f"{len(texts):,} judged queries of {judged.name}",
    )


def _indexed_notes(indexed: float) -> list[str]:
    if indexed >= _WELL_INDEXED:
        return []
    return [
        f"{1 - indexed:.0%} of the vectors are not indexed yet, and their recall may be another "
        "when they are"
    ]


def _nothing_yet(where: Searchable) -> CollectionError:
    return CollectionError(
        f"collection {where.name!r} is small: its vectors are compared one by one, which is exact "
        "and quick. There is nothing to tune yet, and what would be found now would not hold when "
        "it grows: tune it then"
    )


def _nothing_to_tune(where: Searchable) -> CollectionMismatch:
    if where.dim is None:
        held = "is searched by words alone"
        remedy = "with vectors (ragkit rebuild --embedder …) there is oversampling to tune"
    else:
        held = "is neither quantized nor in a graph, so every search is exact"
        remedy = "with judged queries, mode and fusion can be (judged=, --qrels)"
    return CollectionMismatch(
        f"collection {where.name!r} {held}: there is nothing to tune; {remedy}"
    )


def _origin(by_recall: _ByRecall | None, judged: Judged | None) -> str:
    said = [by_recall.origin] if by_recall else []
    if judged is not None:
        said.append(f"mode and fusion by {len(judged.queries):,} judged queries of {judged.name}")
    return "; ".join(said)


def _tuning(
    by_recall: _ByRecall | None,
    fused: Fused | None,
    wanted: _Wanted,
    *,
    before: Mapping[str, Any],
    about: About,
    name: str,
) -> Tuning:
    chosen = by_recall.chosen if by_recall else None
    notes = [*(chosen.notes if chosen else ()), *(fused.notes if fused else ())]
    if chosen is not None and not chosen.reached:
        notes.append(_remedy(wanted, name))
    trials = [*(chosen.trials if chosen else ()), *(fused.trials if fused else ())]
    tuning = Tuning(
        options={},
        before=before,
        limit=wanted.limit,
        target=wanted.target,
        budget_ms=wanted.budget_ms,
        reached=True,
        trials=Rows(trials, about=about),
        notes=tuple(notes),
    )
    if by_recall is not None and chosen is not None:
        tuning = replace(
            tuning,
            options=chosen.options,
            reached=chosen.reached,
            recall=chosen.recall.mean,
            recall_low=chosen.recall.low,
            recall_high=chosen.recall.high,
            p50_ms=chosen.timing.p50_ms,
            p95_ms=chosen.timing.p95_ms,
            queries=chosen.recall.queries,
            recall_before=chosen.before.mean,
            p50_ms_before=chosen.before_timing.p50_ms,
        )
    if fused is not None and fused.options is not None:
        options = {**tuning.options, **fused.options}
        tuning = replace(tuning, options=options, gain=fused.difference)
    return tuning


def _remedy(wanted: _Wanted, name: str) -> str:
    within = "" if wanted.budget_ms is None else f" within {wanted.budget_ms:g} ms"
    return (
        f"no setting reaches {wanted.target:g}{within}: a quantization that keeps more does, see "
        f"`ragkit bench quantization`, then `ragkit rebuild {quote(name)} --quantization NAME`; "
        "where vectors are in a graph, one with more links (hnsw_config, m)"
    )


def _saved(collection: Collection, tuning: Tuning, decided: frozenset[str]) -> Tuning:
    """Make what was found the collection's default; what it was given besides stays."""
    manifest = collection.open()
    others = {name: value for name, value in manifest.search.items() if name not in decided}
    about = tuning.trials.about
    measured = ("limit", "target", "budget_ms", "recall", "recall_low", "recall_high")
    tuned: dict[str, Any] = {
        "at": about.at,
        "options": sorted(tuning.options),
        "points": about.subject["points"],
        "queries": tuning.queries,
        **{name: getattr(tuning, name) for name in (*measured, "p50_ms", "p95_ms", "reached")},
        "quantization": about.subject["quantization"],
        "store": about.subject["store"],
        "ragkit": about.versions["ragkit"],
    }
    search = kept({**others, **tuning.options})  # type: ignore[typeddict-item]
    if tuning.gain is not None:
        tuned["gain"] = list(tuning.gain)
    collection.record(replace(manifest, search=search, tuned=tuned))
    return replace(tuning, saved=True)
