"""What neighbours cost: one call more, however many hits have them."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from qdrant_client.client_base import QdrantBase

from ragkit.chunks import Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.search_options import Mode

ANIMALS = ["walrus", "heron", "otter", "badger", "lynx", "stoat"]
DAYS = range(10)


@pytest.fixture
def docs(client: QdrantBase) -> Collection:
    """Six documents of ten chunks, each chunk a paragraph."""
    chunker = Chunker(max_tokens=30, overlap=0)
    collection = Collection(client, "docs", embedder=HashEmbedder(64), chunker=chunker)
    Indexer(collection).add(document(animal) for animal in ANIMALS)
    return collection


def document(animal: str) -> Document:
    days = (f"On day {day} the {animal} went down to the river to look for food." for day in DAYS)
    return Document(source=f"{animal}.txt", title=animal, text="\n\n".join(days))


def calls(monkeypatch: pytest.MonkeyPatch, client: QdrantBase) -> Counter[str]:
    """Counts, from now on, the calls of each of the client's methods."""
    counted: Counter[str] = Counter()

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return method(*args, **kwargs)

        return call

    for name, _ in inspect.getmembers(QdrantBase, inspect.isfunction):
        if not name.startswith("_"):
            monkeypatch.setattr(client, name, counting(name, getattr(client, name)))
    return counted


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize("limit", [1, 12])
@pytest.mark.parametrize("context", [1, 3])
def test_the_neighbours_of_all_hits_are_read_in_one_call(
    monkeypatch: pytest.MonkeyPatch,
    client: QdrantBase,
    docs: Collection,
    mode: Mode,
    limit: int,
    context: int,
) -> None:
    retriever = Retriever(docs, mode=mode, limit=limit)
    plain = retriever.search("the walrus and the river")
    made = calls(monkeypatch, client)
    hits = retriever.search("the walrus and the river", context=context)
    assert made == {"query_batch_points": 1, "scroll": 1}
    assert [hit.id for hit in hits] == [hit.id for hit in plain]
    for hit in hits:
        wanted = {hit.ordinal + step for step in range(-context, context + 1)} & set(DAYS)
        assert hit.context is not None
        assert set(hit.context.ordinals) == wanted


def test_the_neighbours_of_many_queries_are_read_in_one_call(
    monkeypatch: pytest.MonkeyPatch, client: QdrantBase, docs: Collection
) -> None:
    retriever = Retriever(docs, limit=2, context=1)
    retriever.search(ANIMALS[0])
    made = calls(monkeypatch, client)
    found = retriever.search_many(ANIMALS)
    assert made == {"query_batch_points": 1, "scroll": 1}
    assert [hits[0].source for hits in found] == [f"{animal}.txt" for animal in ANIMALS]
    assert all(hit.context is not None for hits in found for hit in hits)


def test_without_hits_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch, client: QdrantBase, docs: Collection
) -> None:
    retriever = Retriever(docs, mode="sparse", context=2)
    retriever.search("walrus")
    made = calls(monkeypatch, client)
    assert retriever.search("zeppelin") == []
    assert made == {"query_batch_points": 1}


def test_more_neighbours_than_a_request_may_name_are_read_in_as_few_calls_as_that_takes(
    monkeypatch: pytest.MonkeyPatch, client: QdrantBase, docs: Collection
) -> None:
    monkeypatch.setattr("ragkit.points.MOST_VALUES", 25)
    retriever = Retriever(docs, mode="dense", limit=len(ANIMALS) * len(DAYS))
    retriever.search("river")
    made = calls(monkeypatch, client)
    hits = retriever.search("river", context=9)
    named = len(ANIMALS) * (len(DAYS) + 9)  # where a document ends is not known before
    assert made == {"query_batch_points": 1, "scroll": math.ceil(named / 25)}
    assert len(hits) == len(ANIMALS) * len(DAYS)
    assert all(hit.context is not None and hit.context.ordinals == tuple(DAYS) for hit in hits)
