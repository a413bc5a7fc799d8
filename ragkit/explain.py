"""What a search did, stage by stage."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from ragkit.asked import Asked
from ragkit.citations import on_one_line
from ragkit.hits import Hits
from ragkit.schema import BM25
from ragkit.search_flow import search
from ragkit.search_options import SearchOptions
from ragkit.search_request import Searchable
from ragkit.search_steps import Embed, Flow, Group, Holds, Query, Read, Rerank, Step, Values

_FEW = 4  # numbers that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: "embed", "dense", "sparse", "fused", "diverse", "grouped", "reranked", "neighbours"
            and so on.
        seconds: How long it took; the sides of a hybrid search went in one call with its fusion,
            and have its time.
        ranking: The ids of the points it brought and their scores, best first; empty for a stage
            that ranks nothing.
        note: What else there is to say of it.
    """

    name: str
    seconds: float
    ranking: tuple[tuple[str, float], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a query was searched for, and what came of it; `str()` is for people to read.

    Attributes:
        query: What was looked for.
        options: As they held.
        origins: Who said each option that is not ragkit's default: "collection", "retriever" or
            "call".
        request: What was sent to Qdrant; None where the query held nothing to search for.
        stages: In the order in which they were done.
        hits: What `search` returns.
    """

    query: str
    options: SearchOptions
    origins: Mapping[str, str]
    request: models.QueryRequest | None
    stages: Sequence[Stage]
    hits: Hits

    def __str__(self) -> str:
        said = [
            f"{name}={getattr(self.options, name)!r} ({who})" for name, who in self.origins.items()
        ]
        lines = [f"query: {self.query}", f"options: {', '.join(said) or 'the defaults'}"]
        lines += [f"request: {json.dumps(self.request_data, ensure_ascii=False)}", ""]
        lines += [_stage_line(stage) for stage in self.stages]
        lines += [f"note: {note}" for note in self.hits.notes]
        # Queries, messages and names of documents are others' texts, and this goes to terminals.
        return "\n".join(map(on_one_line, [*lines, "", *self._table()]))

    @property
    def request_data(self) -> Any:
        """The request as JSON data, its vectors as no more than how many numbers they have."""
        if self.request is None:
            return None
        data = self.request.model_dump(mode="json", exclude_none=True, exclude={"with_payload"})
        return _shortened(data)

    def _table(self) -> list[str]:
        """For each hit its place in every stage that ranked."""
        ranked = [stage for stage in self.stages if stage.ranking]
        places = [
            {point_id: place for place, (point_id, _) in enumerate(stage.ranking, 1)}
            for stage in ranked
        ]
        head = "".join(f"{stage.name:>10}" for stage in ranked)
        rows = [f"{'hit':>4}{head}   score     passage"]
        for place, hit in enumerate(self.hits, 1):
            in_stages = "".join(f"{held.get(hit.id, '-'):>10}" for held in places)
            rows.append(f"{place:>4}{in_stages}   {hit.score:<9.4g} {hit.citation}")
        return rows


def _shortened(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _shortened(value) for key, value in data.items()}
    if not isinstance(data, list):
        return data
    if len(data) > _FEW and all(isinstance(each, int | float) for each in data):
        return f"{len(data)} numbers"
    return [_shortened(each) for each in data]


def _stage_line(stage: Stage) -> str:
    brought = f"{len(stage.ranking)} points" if stage.ranking else stage.note
    return f"{stage.name:<12}{1000 * stage.seconds:8.1f} ms   {brought}"


def explained(asked: Asked, where: Searchable) -> Flow[Explanation]:
    """Search for one query and note what each stage brings.

    The sides of a hybrid search are asked for by themselves too, in the same call, whose time
    therefore is longer than that of the search alone.
    """
    settled = asked.settled(where)
    record = _Record()
    (hits,) = yield from record.of(search(asked, where))
    record.diverse(hits)
    return Explanation(
        query=asked.queries[0],
        options=settled.options,
        origins=settled.origins,
        request=record.request,
        stages=tuple(record.stages),
        hits=hits,
    )


class _Record:
    """Hands on the steps of a flow, and keeps what came of them."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.request: models.QueryRequest | None = None

    def of(self, flow: Flow[list[Hits]]) -> Flow[list[Hits]]:
        try:
            step = next(flow)
            while True:
                answer = yield from self._done(step)
                step = flow.send(answer)
        except StopIteration as stop:
            hits: list[Hits] = stop.value
            return hits

    def _done(self, step: Step) -> Flow[Any]:
        asked = (
            Query([*step.requests, *_sides(step.requests[0])]) if isinstance(step, Query) else step
        )
        began = time.perf_counter()
        answer = yield asked
        seconds = time.perf_counter() - began
        if isinstance(step, Query):
            self._keep_query(step.requests[0], answer, seconds)
            return answer[:1]
        if isinstance(step, Group):
            yield from self._keep_groups(step, answer, seconds)
        elif isinstance(step, Rerank):
            self._rank("reranked", seconds, answer)
        else:
            self.stages.append(_unranked(step, answer, seconds))
        return answer

    def _keep_query(
        self, request: models.QueryRequest, answers: Sequence[Any], seconds: float
    ) -> None:
        self.request = request
        self._keep_sides(_sides(request), answers[1:], seconds)
        name = "fused" if len(answers) > 1 else _side_of(request)
        if isinstance(request.query, models.NearestQuery):
            name = "diverse"
        self._rank(name, seconds, answers[0].points)

    def _keep_groups(self, step: Group, answer: Any, seconds: float) -> Flow[None]:
        self.request = step.request
        sides = _sides(step.request)
        if sides:
            began = time.perf_counter()
            answers = yield Query(sides)
            self._keep_sides(sides, answers, time.perf_counter() - began)
        best = [group.hits[0] for group in answer.groups if group.hits]
        self._rank("grouped", seconds, best)

    def _keep_sides(
        self, sides: Sequence[models.QueryRequest], answers: Sequence[Any], seconds: float
    ) -> None:
        for side, answer in zip(sides, answers, strict=True):
            self._rank(_side_of(side), seconds, answer.points)

    def diverse(self, hits: Hits) -> None:
        """Note what was chosen for its diversity, where that was not left to Qdrant."""
        if any(stage.name == "vectors" for stage in self.stages):
            self._rank("diverse", 0.0, hits)

    def _rank(self, name: str, seconds: float, found: Sequence[Any]) -> None:
        ranking = tuple((str(each.id), float(each.score)) for each in found)
        self.stages.append(Stage(name=name, seconds=seconds, ranking=ranking))


def _sides(request: models.QueryRequest) -> list[models.QueryRequest]:
    """The searches that feed a hybrid one, each as a search of its own."""
    return [
        models.QueryRequest(
            shard_key=request.shard_key,
            query=each.query,
            using=each.using,
            filter=each.filter,
            params=each.params,
            limit=each.limit,
            with_payload=False,
        )
        for each in (request.prefetch if isinstance(request.prefetch, list) else [])
    ]


def _side_of(search: models.QueryRequest | models.Prefetch) -> str:
    return "sparse" if search.using == BM25 else "dense"


def _unranked(step: Step, answer: Any, seconds: float) -> Stage:
    if isinstance(step, Embed):
        return Stage(name="embed", seconds=seconds, note=f"{answer.shape[1]} dimensions")
    if isinstance(step, Values):
        note = f"{len(answer)} values of {step.key!r}"
        return Stage(name="values", seconds=seconds, note=note)
    if isinstance(step, Holds):
        note = f"{step.key!r} is {'there' if answer else 'nowhere'}"
        return Stage(name="keys", seconds=seconds, note=note)
    assert isinstance(step, Read)  # noqa: S101  (there is no other)
    name = "vectors" if step.vectors else "neighbours"
    return Stage(name=name, seconds=seconds, note=f"{len(answer)} points read")
