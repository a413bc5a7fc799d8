"""The stages of a search, one after the other, as flows without I/O."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.conversions import common_types as types

from ragkit.asked import Asked
from ragkit.budget import Passages, pack
from ragkit.diversity import diversified
from ragkit.embeddings import Vectors, unread_note
from ragkit.filters import filter_keys, globs, payload_key, to_filter
from ragkit.hits import Hit, Hits
from ragkit.passages import CONTEXT_FIELDS, neighbours, with_context
from ragkit.search_options import (
    COLLECTION,
    MAX_LIMIT,
    SearchKeywords,
    SearchOptions,
    Settled,
)
from ragkit.search_request import (
    Searchable,
    asks_for_meaning,
    check_search,
    diversified_request,
    query_request,
    read_groups,
    read_hits,
)
from ragkit.search_steps import Embed, Flow, Group, Holds, Query, Read, Rerank, Values
from ragkit.tuned import OutgrownTuning, outgrown

_MOST_KEYS = 5  # that are looked for when nothing was found
_DEEPER = 20  # times as many candidates, where they were of too few groups
# A pattern such as "*.md" is compared with every value of its key; beyond so many, some are missed.
MOST_VALUES = 1_000_000
# Passages are chosen by what fits, not by a number.
PASSAGE_DEFAULTS: tuple[str, SearchKeywords] = ("passages", {"limit": 50})


class UnindexedFilter(UserWarning):
    """A filter reads a payload key that has no index, in a large collection."""


def search(asked: Asked, where: Searchable) -> Flow[list[Hits]]:
    """Search for each query.

    Returns:
        For each query its hits.

    Raises:
        CollectionMismatch: The collection cannot be asked that.
    """
    settled = asked.settled(where)
    options = settled.options
    check_search(settled, where, vectors=asked.vectors)
    group_by = _group_key(options, where)
    narrowed = yield from _narrowed(options, where)
    notes = _unindexed(where, narrowed)
    _warn(asked, settled, where, notes)
    vectors = asked.vectors
    embedded_here = vectors is None and asks_for_meaning(options, where)
    if embedded_here:
        vectors = yield Embed(tuple(asked.queries))
    if group_by is None:
        rankings = yield from _ranked(asked, options, where, vectors, narrowed)
    else:
        rankings = yield from _grouped(asked, options, where, vectors, narrowed, group_by)
    if not any(rankings):
        notes += yield from _never(where, narrowed, group_by)
    found = [
        Hits(hits, notes=(*notes, *_remarks(query, hits, where, embedded=embedded_here)))
        for query, hits in zip(asked.queries, rankings, strict=True)
    ]
    if asked.rerank:
        for i, query in enumerate(asked.queries):
            found[i] = yield from _reranked(query, found[i])
    if options.diversity and not _by_engine(asked, options, where):
        found = yield from _diversified(found, options, where)
    found = [_cut(hits, options) for hits in found]
    if options.context:
        found = yield from _with_context(found, options, where)
    return found


def _warn(asked: Asked, settled: Settled, where: Searchable, unindexed: Iterable[str]) -> None:
    """Warn of what costs time or hits, and was not warned of before."""
    said: list[tuple[str, type[UserWarning], str]]
    said = [(note, UnindexedFilter, note) for note in unindexed]
    if where.manifest is not None and COLLECTION in settled.origins.values():
        grown = outgrown(where.manifest, where.info.points_count or 0, name=where.name)
        if grown is not None:  # the number of points goes on growing: once for each tuning
            tuned = where.manifest.tuned
            key = f"tuned at {tuned.get('at')} with {tuned.get('points')} points"
            said.append((key, OutgrownTuning, grown))
    for key, kind, text in said:
        if key not in asked.warned:
            asked.warned.add(key)
            warnings.warn(text, kind, stacklevel=3)


def _unindexed(where: Searchable, narrowed: models.Filter | None) -> tuple[str, ...]:
    return tuple(
        f"collection {where.name!r} has no payload index on {key!r}, so a filter on it reads every "
        f"point; make one: client.create_payload_index({where.version!r}, {key!r}, 'keyword'), or "
        "'integer', 'float', 'datetime', 'bool', as its values are"
        for key in where.unindexed(narrowed)
    )


def _never(
    where: Searchable, narrowed: models.Filter | None, group_by: str | None
) -> Flow[tuple[str, ...]]:
    """Of what was asked for and cannot be found, because no passage has such a key at all."""
    keys = filter_keys(narrowed) | ({group_by} if group_by is not None else set())
    notes: list[str] = []
    for key in sorted(keys)[:_MOST_KEYS]:
        held: bool = yield Holds(key)
        if not held:
            notes.append(f"no passage in collection {where.name!r} has a value under {key!r}")
    return tuple(notes)


def _remarks(
    query: str, hits: Sequence[Hit], where: Searchable, *, embedded: bool
) -> Iterator[str]:
    if embedded and where.embedder is not None:
        note = unread_note(where.embedder, query)
        if note is not None:
            yield note
    if where.foreign is not None and hits and not any(hit.text for hit in hits):
        yield (
            f"nothing that was found has a text under the payload key {where.foreign.text!r}: "
            "does ForeignSchema name the right one?"
        )


def _group_key(options: SearchOptions, where: Searchable) -> str | None:
    if options.group_by is None:
        return None
    return payload_key(options.group_by, bare=where.foreign is not None, name="group_by")


def _narrowed(options: SearchOptions, where: Searchable) -> Flow[models.Filter | None]:
    """The filter as Qdrant's; patterns are looked up among the values that there are."""
    bare, prefix = where.foreign is not None, where.matches_prefixes
    values: dict[str, Sequence[str]] = {}
    for key in sorted(globs(options.filter, bare=bare, prefix=prefix)):
        values[key] = sorted((yield Values(key)))  # the same request every time
    return to_filter(options.filter, values=values, bare=bare, prefix=prefix)


def _ranked(
    asked: Asked,
    options: SearchOptions,
    where: Searchable,
    vectors: Vectors | None,
    narrowed: models.Filter | None,
) -> Flow[list[list[Hit]]]:
    by_engine = _by_engine(asked, options, where)
    over_fetched = asked.rerank or (options.diversity and not by_engine)
    limit = max(options.limit, options.candidates) if over_fetched else options.limit
    requests = _requests(asked, options, where, vectors, narrowed, limit)
    if by_engine:
        for request in requests.values():
            diversified_request(request, options)
    rankings: list[list[Hit]] = [[] for _ in asked.queries]
    if requests:
        responses: list[types.QueryResponse] = yield Query(list(requests.values()))
        ordered = by_engine or where.foreign is not None
        for i, response in zip(requests, responses, strict=True):
            rankings[i] = read_hits(response, where, ordered=ordered)
    return rankings


def _grouped(
    asked: Asked,
    options: SearchOptions,
    where: Searchable,
    vectors: Vectors | None,
    narrowed: models.Filter | None,
    group_by: str,
) -> Flow[list[list[Hit]]]:
    """As `_ranked`, in groups; Qdrant takes such searches one at a time."""
    limit = max(options.limit, options.candidates) if asked.rerank else options.limit
    enough = min(max(options.candidates, 3 * options.limit * options.group_size), MAX_LIMIT)
    deep = replace(options, prefetch_limit=enough)
    rankings: list[list[Hit]] = [[] for _ in asked.queries]
    for i, request in _requests(asked, deep, where, vectors, narrowed, limit).items():
        rankings[i] = yield from _full_groups(request, where, options, group_by)
    return rankings


def _full_groups(
    request: models.QueryRequest, where: Searchable, options: SearchOptions, group_by: str
) -> Flow[list[Hit]]:
    """The groups; where they are too few, those among more candidates, while that finds others.

    All that the sides of a hybrid search have brought may be of a few long documents.
    """
    result: types.GroupsResult = yield Group(request, group_by, options.group_size)
    deeper = _deeper(request)
    while len(result.groups) < options.limit and deeper is not None:
        more: types.GroupsResult = yield Group(deeper, group_by, options.group_size)
        if len(more.groups) <= len(result.groups):
            break
        result, deeper = more, _deeper(deeper)
    return read_groups(result, where)


def _deeper(request: models.QueryRequest) -> models.QueryRequest | None:
    """The same with more candidates from each side; None if that is not worth it any more."""
    fed = request.prefetch
    if not isinstance(fed, list) or (fed[0].limit or 0) >= MAX_LIMIT:
        return None
    more = [
        each.model_copy(update={"limit": min(_DEEPER * (each.limit or 0), MAX_LIMIT)})
        for each in fed
    ]
    return request.model_copy(update={"prefetch": more})


def _requests(
    asked: Asked,
    options: SearchOptions,
    where: Searchable,
    vectors: Vectors | None,
    narrowed: models.Filter | None,
    limit: int,
) -> dict[int, models.QueryRequest]:
    """What to send for each query, by its index; nothing for one that has nothing to search for."""
    found = (
        query_request(
            query,
            options,
            where,
            vector=None if vectors is None else vectors[i],
            narrowed=narrowed,
            limit=limit,
        )
        for i, query in enumerate(asked.queries)
    )
    return {i: request for i, request in enumerate(found) if request is not None}


def _reranked(query: str, hits: Hits) -> Flow[Hits]:
    if not hits:
        return hits
    better: Hits = yield Rerank(query, hits)
    return Hits(better, notes=(*hits.notes, *better.notes))


def _by_engine(asked: Asked, options: SearchOptions, where: Searchable) -> bool:
    """Whether diversity is left to the engine, which knows it for the scores of vectors alone."""
    dense = options.mode == "dense" or where.manifest is None
    return bool(options.diversity) and dense and not asked.rerank


def _diversified(found: list[Hits], options: SearchOptions, where: Searchable) -> Flow[list[Hits]]:
    # Of a collection that ragkit did not make they may be numbers.
    ids = [
        int(each) if each.isdecimal() else each
        for each in sorted({hit.id for hits in found for hit in hits})
    ]
    records: Mapping[str, models.Record] = yield Read(ids, [], [where.vector_name])
    vectors = {
        point_id: _unit(record.vector, where.vector_name) for point_id, record in records.items()
    }
    return [_spread(hits, vectors, options) for hits in found]


def _spread(hits: Hits, vectors: Mapping[str, Vectors], options: SearchOptions) -> Hits:
    there = [hit for hit in hits if hit.id in vectors]  # the others are gone since the search
    if not there:
        return hits
    scores = np.array([hit.score for hit in there])
    chosen = diversified(
        # The best come first: scores that rise are distances, as some foreign collections have.
        scores if scores[0] >= scores[-1] else -scores,
        np.stack([vectors[hit.id] for hit in there]),
        diversity=options.diversity,
        limit=options.limit,
    )
    return Hits((there[i] for i in chosen), notes=hits.notes)


def _unit(vector: Any, name: str) -> Vectors:
    row = np.asarray(vector[name] if isinstance(vector, Mapping) else vector, np.float32)
    unit: Vectors = row / max(float(np.linalg.norm(row)), 1e-12)
    return unit


def _with_context(found: list[Hits], options: SearchOptions, where: Searchable) -> Flow[list[Hits]]:
    hits = [hit for each in found for hit in each]
    ids = neighbours(hits, options.context, tenant=where.tenant)
    records: Mapping[str, models.Record] = yield Read(ids, CONTEXT_FIELDS)
    return [
        Hits(with_context(each, records.values(), options.context), notes=each.notes)
        for each in found
    ]


def _cut(hits: Hits, options: SearchOptions) -> Hits:
    """The first `limit` hits, or groups with all their hits."""
    if options.group_by is None:
        return Hits(hits[: options.limit], notes=hits.notes)
    groups: dict[Any, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.group, []).append(hit)
    first = list(groups.values())[: options.limit]
    return Hits((hit for group in first for hit in group), notes=hits.notes)


def packed(asked: Asked, where: Searchable, *, token_budget: int) -> Flow[Passages]:
    """Search for one query, and pack what is found into a budget of tokens."""
    pack((), token_budget)  # refuses a budget for nothing before the query is paid for
    (hits,) = yield from search(asked, where)
    passages = pack(hits, token_budget)
    return Passages(passages, tokens=passages.tokens, notes=(*hits.notes, *passages.notes))
