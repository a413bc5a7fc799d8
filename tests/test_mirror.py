from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from rebuilding import DOCUMENTS, PAGE, impatient, indexed, small_pages, stored  # noqa: F401  (fixtures)

from ragkit.errors import CollectionError
from ragkit.moving import mirror as module
from ragkit.moving.mirror import Changed, Mirrored, Target, copied, kept, mirror, page_of, state_of
from ragkit.points import Points
from ragkit.schema import match

BOTH = ("dense", "bm25")


@pytest.fixture
def client(client: QdrantBase) -> QdrantBase:
    """A collection "docs" and an empty one of the same shape, "twin"."""
    indexed(client)
    make_twin(client)
    return client


def make_twin(client: QdrantBase, name: str = "twin", source: str = "docs") -> None:
    params = client.get_collection(source).config.params
    assert isinstance(params.vectors, dict)
    client.create_collection(
        name,
        vectors_config={
            key: models.VectorParams(size=each.size, distance=each.distance)
            for key, each in params.vectors.items()
        },
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )


def run(client: QdrantBase, **options: Any) -> Mirrored:
    settings = {"change": copied(client), "vectors": BOTH, "page": PAGE, **options}
    target = settings.pop("target", Target(points=Points(client, "twin")))
    return mirror(Points(client, "docs"), target, **settings)


def test_an_empty_target_becomes_the_source(client: QdrantBase) -> None:
    done = run(client)
    assert stored(client, "twin") == stored(client)
    assert (done.points, done.written, done.deleted) == (len(stored(client)),) * 2 + (0,)
    assert done.documents == DOCUMENTS


def test_a_second_pass_writes_nothing_and_asks_for_no_change(client: QdrantBase) -> None:
    first = run(client)

    def fail(records: Sequence[models.Record]) -> Changed:
        raise AssertionError(records)

    again = run(client, change=fail)
    assert (again.written, again.deleted, again.state) == (0, 0, first.state)


def test_only_what_differs_is_written_and_only_what_is_gone_is_deleted(
    client: QdrantBase,
) -> None:
    run(client)
    points, twin = Points(client, "docs"), Points(client, "twin")
    some = [str(record.id) for record in points.scroll(fields=False)][::7]
    changed, gone, missing = some[0], some[1], some[2]
    client.set_payload("docs", {"document_hash": "other", "text": "new"}, points=[changed])
    client.delete("docs", points_selector=[gone])
    client.delete("twin", points_selector=[missing])
    seen: list[str] = []

    def change(records: Sequence[models.Record]) -> Changed:
        seen.extend(str(record.id) for record in records)
        return copied(client)(records)

    done = run(client, change=change)
    assert sorted(seen) == sorted([changed, missing])
    assert (done.written, done.deleted) == (2, 1)
    assert stored(client, "twin") == stored(client)
    assert twin.count() == points.count()


def test_a_target_with_other_points_and_none_of_the_sources_is_put_right(
    client: QdrantBase,
) -> None:
    points = len(stored(client))
    stranger = models.PointStruct(id=7, vector={"dense": [1.0] * 64}, payload={"a": 1})
    client.upsert("twin", [stranger])
    done = run(client)
    assert (done.written, done.deleted) == (points, 1)
    assert stored(client, "twin") == stored(client)


def test_points_that_are_no_chunks_are_copied_too(client: QdrantBase) -> None:
    mine = [
        models.PointStruct(id=n, vector={"dense": [1.0, *[0.0] * 63]}, payload={"n": str(n)})
        for n in (1, 2**63)
    ]
    client.upsert("docs", mine)
    assert run(client).written == len(stored(client))
    assert run(client).written == 0
    assert stored(client, "twin") == stored(client)


def test_what_a_change_made_before_it_stopped_is_written(client: QdrantBase) -> None:
    calls = 0

    def change(records: Sequence[models.Record]) -> Changed:
        nonlocal calls
        calls += 1
        if calls < 3:
            return copied(client)(records)
        points = [kept(record) for record in records[:5]]
        return Changed(points=points, stopped=RuntimeError("no more"))

    with pytest.raises(RuntimeError, match="no more"):
        run(client, change=change)
    assert Points(client, "twin").count() == 2 * PAGE + 5


def test_what_is_refused_is_told_and_neither_written_nor_looked_for_elsewhere(
    client: QdrantBase,
) -> None:
    (refused,) = [r.id for r in Points(client, "docs").scroll(match_source("3.md"), fields=False)][
        :1
    ]

    def change(records: Sequence[models.Record]) -> Changed:
        rest = [record for record in records if record.id != refused]
        bad = {str(r.id): "no" for r in records if r.id == refused}
        return Changed(points=copied(client)(rest).points, refused=bad)

    done = run(client, change=change)
    assert done.refused == {str(refused): "no"}
    assert stored(client).keys() - stored(client, "twin").keys() == {str(refused)}
    assert run(client, change=change).written == 0


def match_source(source: str) -> models.Filter:
    return models.Filter(must=[match("source", source)])


def test_a_target_that_may_not_be_written_to_any_more_is_left_as_it_is(
    client: QdrantBase,
) -> None:
    def guard() -> None:
        raise CollectionError("somebody else uses it")

    target = Target(points=Points(client, "twin"), guard=guard)
    with pytest.raises(CollectionError, match="somebody else"):
        run(client, target=target)
    assert Points(client, "twin").count() == 0
    client.upsert("twin", [models.PointStruct(id=7, vector={"dense": [1.0] * 64})])
    run(client)
    client.upsert("twin", [models.PointStruct(id=7, vector={"dense": [1.0] * 64})])
    with pytest.raises(CollectionError, match="somebody else"):
        run(client, target=target)
    assert len(Points(client, "twin").retrieve([7], fields=False)) == 1


def test_the_state_tells_every_change_of_the_source(client: QdrantBase) -> None:
    points = Points(client, "docs")
    before = state_of(points, page=PAGE)
    assert state_of(points, page=1000) == before
    (one,) = [record.id for record in points.scroll(fields=False)][:1]
    whole = client.retrieve("docs", [one], with_vectors=True)[0]
    client.set_payload("docs", {"chunk_hash": "other"}, points=[one])
    assert state_of(points, page=PAGE) != before
    client.delete("docs", points_selector=[one])
    assert state_of(points, page=PAGE) != before
    client.upsert("docs", [kept(whole)])
    assert state_of(points, page=PAGE) == before


def test_a_change_may_bring_other_vectors_as_numpy_rows(client: QdrantBase) -> None:
    client.delete_collection("twin")
    client.create_collection(
        "twin",
        vectors_config={"dense": models.VectorParams(size=2, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    row = np.asarray([0.6, 0.8], np.float32)

    def change(records: Sequence[models.Record]) -> Changed:
        return Changed(points=[kept(record, dense=row) for record in records])

    run(client, change=change, vectors=["bm25"])
    held = stored(client, "twin").values()
    assert all(vectors["dense"] == [0.6, 0.8] and vectors["bm25"] for _, vectors in held)


def test_pages_are_small_where_vectors_are_wide_or_a_server_is_strict(
    client: QdrantBase,
) -> None:
    config = client.get_collection("docs").config
    assert page_of(None, config) == module._MOST
    assert page_of(3072, config) * 3072 * 32 <= module._PAGE_BYTES
    assert page_of(10**9, config) == 1
    strict = models.StrictModeConfigOutput(enabled=True, max_query_limit=7, condition_max_size=9)
    assert page_of(64, config.model_copy(update={"strict_mode_config": strict})) == 7
    off = strict.model_copy(update={"enabled": False})
    assert page_of(64, config.model_copy(update={"strict_mode_config": off})) > 100


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3_000_000), max_size=40), st.sampled_from([8, 3072]))
def test_requests_hold_all_points_in_order_and_few_bytes(sizes: list[int], dim: int) -> None:
    points = [
        models.PointStruct.model_construct(
            id=n, vector={"dense": np.zeros(dim, np.float32)}, payload={"text": "x" * size}
        )
        for n, size in enumerate(sizes)
    ]
    parts = list(module._parts(points, most=30))
    assert [point for part in parts for point in part] == points
    assert all(part for part in parts)
    assert all(len(part) <= 30 for part in parts)
    for part in parts:
        weight: int = sum(len(point.payload["text"]) + dim * 12 for point in part)  # type: ignore[index,misc]
        assert weight <= module._REQUEST_BYTES or len(part) == 1
