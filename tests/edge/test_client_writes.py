"""EdgeClient and a real server change points alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from books import POINTS, UUID_TEXT, all_ids, create, ids, refusal, where
from qdrant_client import models
from qdrant_client.client_base import QdrantBase


def test_points_come_back_as_they_went_in(client: QdrantBase) -> None:
    create(client)
    payload = {"text": "näïve 🎈", "number": 2**53, "real": 0.5, "none": None, "list": [1, "a", {}]}
    vector = {"dense": [0.0, 0.0, 3.0, 4.0], "bm25": models.SparseVector(indices=[5], values=[2.0])}
    result = client.upsert(
        "books", [models.PointStruct(id=UUID_TEXT, vector=vector, payload=payload)]
    )
    assert result.status == models.UpdateStatus.COMPLETED
    [record] = client.retrieve("books", [UUID_TEXT], with_vectors=True)
    assert record.id == UUID_TEXT
    assert record.payload == payload
    assert isinstance(record.vector, dict)
    assert record.vector["dense"] == pytest.approx([0.0, 0.0, 0.6, 0.8])
    assert record.vector["bm25"] == models.SparseVector(indices=[5], values=[2.0])


def test_points_are_retrieved_in_the_order_asked_for(books: QdrantBase) -> None:
    assert ids(books.retrieve("books", [7, 99, 2, 5])) == [7, 2, 5]


def test_parts_of_payload_and_vectors_can_be_asked_for(books: QdrantBase) -> None:
    [bare] = books.retrieve("books", [3], with_payload=False)
    assert (bare.payload, bare.vector) == (None, None)
    [some] = books.retrieve("books", [3], with_payload=["kind"], with_vectors=["bm25"])
    assert some.payload == {"kind": "odd"}
    assert isinstance(some.vector, dict)
    assert set(some.vector) == {"bm25"}
    exclude = models.PayloadSelectorExclude(exclude=["kind", "nested.deep"])
    [rest] = books.retrieve("books", [3], with_payload=exclude)
    assert rest.payload == {"rank": 3, "nested": {}}


def test_upsert_replaces_the_whole_point(books: QdrantBase) -> None:
    books.upsert("books", [models.PointStruct(id=3, vector={"dense": [0, 0, 0, 1]}, payload={})])
    [record] = books.retrieve("books", [3], with_vectors=True)
    assert record.payload == {}
    assert isinstance(record.vector, dict)
    assert set(record.vector) == {"dense"}


def test_a_batch_of_columns_is_upserted(client: QdrantBase) -> None:
    create(client)
    batch = models.Batch(
        ids=[1, 2],
        vectors={"dense": [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]},
        payloads=[{"a": 1}, {"a": 2}],
    )
    client.upsert("books", batch)
    assert [point.payload for point in client.retrieve("books", [1, 2])] == [{"a": 1}, {"a": 2}]


def test_update_modes_insert_or_update_only(books: QdrantBase) -> None:
    new = [
        models.PointStruct(id=n, vector={"dense": [1, 1, 1, 1]}, payload={"new": True})
        for n in (3, 50)
    ]
    books.upsert("books", new, update_mode=models.UpdateMode.INSERT_ONLY)
    assert [p.payload and p.payload.get("new") for p in books.retrieve("books", [3, 50])] == [
        None,
        True,
    ]
    books.upsert("books", new, update_mode=models.UpdateMode.UPDATE_ONLY)
    assert books.count("books", where("new", True)).count == 2


def test_an_update_filter_keeps_other_points_as_they_are(books: QdrantBase) -> None:
    new = [
        models.PointStruct(id=n, vector={"dense": [1, 1, 1, 1]}, payload={"new": True})
        for n in (2, 3)
    ]
    books.upsert("books", new, update_filter=where("kind", "odd"))
    assert all_ids(books, scroll_filter=where("new", True)) == [3]


def test_upload_points_takes_an_iterator(client: QdrantBase) -> None:
    create(client)
    client.upload_points("books", iter(POINTS), batch_size=4, wait=True)
    assert all_ids(client) == list(range(10))


# qdrant-client leaves a connection of its uploader open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_upload_collection_takes_columns(client: QdrantBase) -> None:
    client.create_collection(
        "rows", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    )
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    payload = [{"row": n} for n in range(5)]
    client.upload_collection("rows", vectors, payload=payload, ids=range(5), wait=True)
    [last] = client.retrieve("rows", [4], with_vectors=True)
    assert (last.vector, last.payload) == ([8.0, 9.0], {"row": 4})
    client.upload_collection("rows", [[1.0, 2.0]], wait=True)
    assert client.count("rows").count == 6
    with pytest.raises(ValueError, match=r"(?i)payload"):
        client.upload_collection("rows", vectors, payload=[{}], ids=range(5), wait=True)


def test_vectors_are_updated_and_the_payload_stays(books: QdrantBase) -> None:
    books.update_vectors(
        "books", [models.PointVectors(id=3, vector={"dense": [0.0, 0.0, 0.0, 9.0]})]
    )
    [record] = books.retrieve("books", [3], with_vectors=True)
    assert isinstance(record.vector, dict)
    assert record.vector["dense"] == [0.0, 0.0, 0.0, 1.0]
    assert "bm25" in record.vector
    assert record.payload == POINTS[3].payload


def test_vectors_are_deleted_by_ids_and_by_filter(books: QdrantBase) -> None:
    books.delete_vectors("books", ["dense"], [2])
    books.delete_vectors("books", ["bm25"], where("kind", "odd"))
    left = {p.id: set(p.vector or ()) for p in books.scroll("books", with_vectors=True)[0]}
    assert left[2] == {"bm25"}
    assert left[3] == {"dense"}
    assert left[4] == {"dense", "bm25"}


@pytest.mark.parametrize(
    "selector",
    [
        [1, 3],
        models.PointIdsList(points=[1, 3]),
        models.Filter(must=[models.HasIdCondition(has_id=[1, 3])]),
        models.FilterSelector(filter=models.Filter(must=[models.HasIdCondition(has_id=[1, 3])])),
    ],
)
def test_points_are_selected_by_ids_and_filters(books: QdrantBase, selector: Any) -> None:
    books.set_payload("books", {"mark": 1}, selector)
    assert all_ids(books, scroll_filter=where("mark", 1)) == [1, 3]
    books.delete_payload("books", ["mark"], selector)
    assert all_ids(books, scroll_filter=where("mark", 1)) == []
    books.overwrite_payload("books", {"only": 1}, selector)
    assert books.retrieve("books", [3])[0].payload == {"only": 1}
    books.clear_payload("books", selector)
    assert books.retrieve("books", [3])[0].payload == {}
    books.delete("books", selector)
    assert all_ids(books) == [0, 2, 4, 5, 6, 7, 8, 9]


def test_payload_is_set_below_a_key(books: QdrantBase) -> None:
    books.set_payload("books", {"more": "x"}, [4], key="nested")
    [record] = books.retrieve("books", [4])
    assert record.payload is not None
    assert record.payload["nested"] == {"deep": [4, 5], "more": "x"}


def test_deleting_points_that_are_not_there_is_no_error(books: QdrantBase) -> None:
    books.delete("books", [100, UUID_TEXT])
    assert books.count("books").count == 10


def test_changing_payload_of_a_point_that_is_not_there_is_not_found(books: QdrantBase) -> None:
    status, message = refusal(lambda: books.set_payload("books", {"a": 1}, [100]))
    assert status == 404
    assert "No point with id 100 found" in message


def test_a_batch_of_operations_is_applied_in_order(books: QdrantBase) -> None:
    point = models.PointStruct(id=42, vector={"dense": [1, 0, 0, 0]}, payload={"a": 1})
    results = books.batch_update_points(
        "books",
        [
            models.UpsertOperation(upsert=models.PointsList(points=[point])),
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"b": 2}, points=[42])
            ),
            models.DeletePayloadOperation(
                delete_payload=models.DeletePayload(keys=["a"], points=[42])
            ),
            models.DeleteOperation(delete=models.PointIdsList(points=[0])),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[1])),
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(payload={"c": 3}, filter=where("rank", 2))
            ),
            models.UpdateVectorsOperation(
                update_vectors=models.UpdateVectors(
                    points=[models.PointVectors(id=3, vector={"dense": [0, 0, 2, 0]})]
                )
            ),
            models.DeleteVectorsOperation(
                delete_vectors=models.DeleteVectors(points=[4], vector=["dense"])
            ),
        ],
    )
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 8
    found = {point.id: point for point in books.scroll("books", with_vectors=True, limit=99)[0]}
    assert found[42].payload == {"b": 2}
    assert 0 not in found
    assert found[1].payload == {}
    assert found[2].payload == {"c": 3}
    assert isinstance(found[3].vector, dict)
    assert found[3].vector["dense"] == [0.0, 0.0, 1.0, 0.0]
    assert isinstance(found[4].vector, dict)
    assert set(found[4].vector) == {"bm25"}


def test_a_write_that_does_not_wait_is_acknowledged(books: QdrantBase) -> None:
    result = books.set_payload("books", {"later": 1}, [1], wait=False)
    assert result.status == models.UpdateStatus.ACKNOWLEDGED


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ({"dense": [1.0, 2.0]}, "Vector dimension error: expected dim: 4, got 2"),
        ({"other": [1.0, 2.0, 3.0, 4.0]}, "Not existing vector name error: other"),
        ([1.0, 2.0, 3.0, 4.0], "Not existing vector name error"),
    ],
)
def test_a_point_that_does_not_fit_is_refused_and_nothing_of_its_batch_stored(
    books: QdrantBase, vector: Any, message: str
) -> None:
    good = models.PointStruct(id=200, vector={"dense": [1.0, 0.0, 0.0, 0.0]})
    bad = models.PointStruct(id=201, vector=vector)
    status, said = refusal(lambda: books.upsert("books", [good, bad]))
    assert status == 400
    assert message in said
    assert books.retrieve("books", [201]) == []


@pytest.mark.parametrize("point_id", [-1, "not a uuid", 2**64])
def test_an_id_that_is_none_is_refused(books: QdrantBase, point_id: Any) -> None:
    point = models.PointStruct.model_construct(id=point_id, vector={"dense": [1.0, 0.0, 0.0, 0.0]})
    assert refusal(lambda: books.upsert("books", [point]))[0] == 400
