from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import searching
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from searching import DOCUMENTS, EMBEDDER, STORES

from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.explain import Explanation, Stage
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever

QUERY = "rotate the yellow key number7"
ALL = len(DOCUMENTS)


@pytest.fixture(scope="module", params=STORES)
def docs(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with searching.store(request) as client:
        made = Collection(client, "explained", embedder=EMBEDDER, quantization="none")
        Indexer(made).add(DOCUMENTS)
        yield made


def stages(plan: Explanation) -> dict[str, Stage]:
    named = {stage.name: stage for stage in plan.stages}
    assert len(named) == len(plan.stages)
    return named


def shortest(query: str, texts: list[str]) -> list[int]:
    return [-len(text) for text in texts]


def close(ranking: Sequence[tuple[str, float]], hits: Sequence[Any]) -> bool:
    return [each for each, _ in ranking] == [hit.id for hit in hits] and [
        score for _, score in ranking
    ] == pytest.approx([hit.score for hit in hits], abs=1e-6)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"mode": "dense"},
    {"mode": "sparse"},
    {"mode": "hybrid", "fusion": "dbsf", "limit": 3},
    {"weights": {"dense": 1, "sparse": 3}, "context": 1},
    {"filter": {"lang": "e*"}, "score_threshold": 0.01},
    {"mode": "dense", "diversity": 0.5},
    {"mode": "hybrid", "diversity": 0.5, "limit": 4},
    {"group_by": "metadata.year", "group_size": 2},
    {"vector": EMBEDDER.embed_query("walrus")},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reranker", [None, shortest])
def test_its_hits_are_those_of_the_search(
    docs: Collection, options: dict[str, Any], reranker: Any
) -> None:
    retriever = Retriever(docs, reranker=reranker)
    plan, hits = retriever.explain(QUERY, **options), retriever.search(QUERY, **options)
    assert plan.hits == hits
    assert plan.hits.notes == hits.notes
    assert len(hits) > 0
    assert len(str(plan).splitlines()) == len(hits) + len(plan.stages) + 6


def test_the_sides_of_a_hybrid_search_are_what_each_alone_returns(docs: Collection) -> None:
    plan = Retriever(docs).explain(QUERY, limit=4, filter={"year": [2001, 2002]})
    found = stages(plan)
    assert list(found) == ["embed", "dense", "sparse", "fused"]
    for side in ("dense", "sparse"):
        alone = Retriever(docs).search(QUERY, mode=side, limit=50, filter={"year": [2001, 2002]})
        assert close(found[side].ranking, alone)
    assert close(found["fused"].ranking, plan.hits)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"mode": "dense"}, ["embed", "dense"]),
        ({"mode": "sparse"}, ["sparse"]),
        ({"vector": EMBEDDER.embed_query("walrus")}, ["dense", "sparse", "fused"]),
        ({"mode": "dense", "diversity": 0.5}, ["embed", "diverse"]),
        ({"diversity": 0.5}, ["embed", "dense", "sparse", "fused", "vectors", "diverse"]),
        ({"group_by": "source"}, ["embed", "dense", "sparse", "grouped"]),
        ({"context": 1}, ["embed", "dense", "sparse", "fused", "neighbours"]),
        ({"mode": "sparse", "filter": {"lang": "*n"}}, ["values", "sparse"]),
    ],
)
def test_every_stage_is_told_in_its_order(
    docs: Collection, options: dict[str, Any], names: list[str]
) -> None:
    plan = Retriever(docs).explain(QUERY, **options)
    assert [stage.name for stage in plan.stages] == names
    assert all(stage.seconds >= 0 and (stage.ranking or stage.note) for stage in plan.stages)
    reranked = Retriever(docs, reranker=shortest).explain(QUERY, mode="dense")
    assert [stage.name for stage in reranked.stages] == ["embed", "dense", "reranked"]
    assert close(stages(reranked)["reranked"].ranking[:10], reranked.hits)


def test_of_a_query_without_any_word_nothing_is_sent(docs: Collection) -> None:
    plan = Retriever(docs).explain("the of and", mode="sparse")
    assert (plan.request, list(plan.stages), plan.hits) == (None, [], [])
    assert str(plan).startswith("query: the of and\noptions: mode='sparse' (call)\n")


def test_its_request_can_be_sent_as_it_is(docs: Collection) -> None:
    plan = Retriever(docs).explain(QUERY, limit=5, filter={"year": 2001})
    assert isinstance(plan.request, models.QueryRequest)
    (answer,) = docs.client.query_batch_points(docs.version, requests=[plan.request])
    assert {str(point.id) for point in answer.points} == {hit.id for hit in plan.hits}


class Counting(HashEmbedder):
    """Counts what it is paid for."""

    def __init__(self) -> None:
        super().__init__(64)
        self.calls = 0

    def embed_query(self, text: str) -> Vectors:
        self.calls += 1
        return super().embed_query(text)


def test_the_query_is_embedded_once(docs: Collection) -> None:
    embedder = Counting()
    retriever = Retriever(Collection(docs.client, "explained", embedder=embedder))
    retriever.explain(QUERY, diversity=0.5, context=1)
    assert embedder.calls == 1
    retriever.explain(QUERY, vector=embedder.embed_query(QUERY))
    assert embedder.calls == 2


HOSTILE = "\x1b[2J\x07[bold red]{0}%s{__class__}\r\n\x85\u2028\u202etxt.exe\x9b31m"
UNSAFE = set("\x1b\x07\r\x85\u2028\u202e\x9b")


def test_hostile_texts_are_printed_as_harmless_ones(client: QdrantBase) -> None:
    docs = Collection(client, "hostile", embedder=EMBEDDER)
    Indexer(docs).add(
        [Document(source=f"key {HOSTILE}", title=HOSTILE, text=f"# {HOSTILE}\n\nkey {HOSTILE}")]
    )

    def complain(query: str, texts: list[str]) -> list[float]:
        raise RuntimeError(HOSTILE)

    retriever = Retriever(docs, reranker=complain, filter={"not": {"lang": HOSTILE}})
    plan = retriever.explain(f"key {HOSTILE}", group_by="source")
    assert len(plan.hits) > 0
    shown = str(plan)
    assert not UNSAFE & set(shown)
    lines = shown.split("\n")
    assert lines == shown.splitlines()
    assert lines[0].startswith(r"query: key \x1b[2J\x07[bold red]{0}%s{__class__}\r\n\x85")
    assert any("[bold red]{0}%s{__class__}" in line for line in lines if line.startswith("note: "))
    assert len(lines) == len(plan.hits) + len(plan.stages) + len(plan.hits.notes) + 6
