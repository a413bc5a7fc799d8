"""EdgeClient and a real server answer alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge import EdgeClient

_UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
_POINTS = [
    models.PointStruct(
        id=n,
        vector={
            "dense": [1.0, n / 10, 0.0, 0.0],
            "bm25": models.SparseVector(indices=[7, 100 + n], values=[1.0, 0.5]),
        },
        payload={
            "kind": "even" if n % 2 == 0 else "odd",
            "rank": n,
            "nested": {"deep": [n, n + 1]},
        },
    )
    for n in range(10)
]


def create(client: QdrantBase, name: str = "books", **settings: Any) -> None:
    """A collection like those of this library: one cosine vector, one sparse with IDF."""
    client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        **settings,
    )


@pytest.fixture
def books(client: QdrantBase) -> QdrantBase:
    """Ten points, with indexes on `kind` and `rank`."""
    create(client)
    client.create_payload_index("books", "kind", field_schema=models.PayloadSchemaType.KEYWORD)
    client.create_payload_index("books", "rank", field_schema="integer")
    client.upsert("books", _POINTS)
    return client


def where(key: str, value: Any) -> models.Filter:
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))]
    )


def ids(points: Any) -> list[Any]:
    return [point.id for point in points]


def all_ids(client: QdrantBase, name: str = "books", **options: Any) -> list[Any]:
    return ids(client.scroll(name, limit=100, **options)[0])


def refusal(call: Callable[[], Any]) -> tuple[int | None, str]:
    """The status and the message with which a call is refused."""
    with pytest.raises(UnexpectedResponse) as caught:
        call()
    return caught.value.status_code, caught.value.structured()["status"]["error"]


def test_a_collection_is_there_from_its_creation_to_its_deletion(client: QdrantBase) -> None:
    assert not client.collection_exists("books")
    create(client)
    assert client.collection_exists("books")
    assert "books" in [found.name for found in client.get_collections().collections]
    assert client.delete_collection("books") is True
    assert not client.collection_exists("books")
    assert client.delete_collection("books") is False


def test_creating_a_collection_twice_is_a_conflict(client: QdrantBase) -> None:
    create(client)
    status, message = refusal(lambda: create(client))
    assert (status, message) == (409, "Wrong input: Collection `books` already exists!")


def test_recreating_a_collection_empties_it(books: QdrantBase) -> None:
    vectors = models.VectorParams(size=2, distance=models.Distance.DOT)
    books.recreate_collection("books", vectors_config=vectors)
    assert books.count("books").count == 0
    books.upsert("books", [models.PointStruct(id=1, vector=[1.0, 2.0])])
    assert books.retrieve("books", [1], with_vectors=True)[0].vector == [1.0, 2.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_collection("nowhere"),
        lambda client: client.count("nowhere"),
        lambda client: client.upsert("nowhere", _POINTS),
        lambda client: client.query_points("nowhere", [1.0], limit=1),
        lambda client: client.update_collection("nowhere", metadata={"a": 1}),
        lambda client: client.delete("nowhere", [1]),
    ],
)
def test_an_unknown_collection_is_not_found(
    client: QdrantBase, call: Callable[[QdrantBase], Any]
) -> None:
    status, message = refusal(lambda: call(client))
    assert status == 404
    assert "Collection `nowhere` doesn't exist!" in message


@pytest.mark.parametrize("name", ["a/b", "what?", "a*", 'say "no"', "x" * 256])
def test_a_name_that_a_server_forbids_is_refused(client: QdrantBase, name: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        create(client, name)
    assert caught.value.status_code in (400, 404, 422)


@pytest.mark.parametrize("name", ["Notes", "müsli", "索引", "a.b-c_d", "with space", "100%", "~x"])
def test_names_of_all_kinds_work_and_do_not_collide(client: QdrantBase, name: str) -> None:
    create(client, name)
    create(client, name + "2")
    client.upsert(name, _POINTS[:3])
    assert client.count(name).count == 3
    assert client.count(name + "2").count == 0
    names = {found.name for found in client.get_collections().collections}
    assert {name, name + "2"} <= names


def test_the_description_has_what_was_asked_for(client: QdrantBase) -> None:
    create(
        client,
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
        metadata={"made": "by hand", "version": 3},
    )
    client.create_payload_index("books", "kind", field_schema="keyword")
    info = client.get_collection("books")
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 0
    assert info.config.metadata == {"made": "by hand", "version": 3}
    assert info.config.hnsw_config.m == 8
    assert info.config.hnsw_config.ef_construct == 100
    assert isinstance(info.config.quantization_config, models.BinaryQuantization)
    assert isinstance(info.config.params.vectors, dict)
    assert info.config.params.vectors["dense"].size == 4
    assert info.config.params.vectors["dense"].distance == models.Distance.COSINE
    assert info.config.params.sparse_vectors is not None
    assert info.config.params.sparse_vectors["bm25"].modifier == models.Modifier.IDF
    assert info.payload_schema["kind"].data_type == models.PayloadSchemaType.KEYWORD


def test_metadata_are_merged_by_key_and_none_removes_one(client: QdrantBase) -> None:
    create(client, metadata={"keep": 1, "replace": {"a": 1}, "remove": True})
    client.update_collection("books", metadata={"replace": {"b": 2}, "remove": None, "new": []})
    metadata = client.get_collection("books").config.metadata
    assert metadata == {"keep": 1, "replace": {"b": 2}, "new": []}


def test_changed_settings_show_and_keep_the_points(books: QdrantBase) -> None:
    scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
    books.update_collection(
        "books",
        hnsw_config=models.HnswConfigDiff(m=4),
        quantization_config=models.ScalarQuantization(scalar=scalar),
        vectors_config={"dense": models.VectorParamsDiff(on_disk=True)},
    )
    info = books.get_collection("books")
    assert info.config.hnsw_config.m == 4
    assert isinstance(info.config.quantization_config, models.ScalarQuantization)
    assert isinstance(info.config.params.vectors, dict)
    assert info.config.params.vectors["dense"].on_disk is True
    assert books.count("books").count == 10


def test_changing_an_unknown_vector_is_refused(books: QdrantBase) -> None:
    diff = {"other": models.VectorParamsDiff(on_disk=True)}
    status, message = refusal(lambda: books.update_collection("books", vectors_config=diff))
    assert status == 400
    assert "Not existing vector name error: other" in message


def alias(name: str, collection: str = "books") -> models.CreateAliasOperation:
    create_alias = models.CreateAlias(collection_name=collection, alias_name=name)
    return models.CreateAliasOperation(create_alias=create_alias)


def test_an_alias_works_wherever_a_name_does(books: QdrantBase) -> None:
    books.update_collection_aliases([alias("current")])
    assert books.collection_exists("current")
    assert books.count("current").count == 10
    books.upsert("current", [models.PointStruct(id=99, vector={"dense": [0.0, 1.0, 0.0, 0.0]})])
    assert books.count("books").count == 11
    assert books.get_collection("current").points_count == 11
    assert ids(books.query_points("current", [0.0, 1.0, 0.0, 0.0], using="dense", limit=1).points)
    aliases = books.get_collection_aliases("books").aliases
    assert [(a.alias_name, a.collection_name) for a in aliases] == [("current", "books")]
    assert "current" not in [found.name for found in books.get_collections().collections]


def test_an_alias_is_swapped_to_another_collection_at_once(books: QdrantBase) -> None:
    create(books, "newer")
    books.update_collection_aliases([alias("current")])
    drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="current"))
    books.update_collection_aliases([drop, alias("current", "newer")])
    assert books.count("current").count == 0
    rename = models.RenameAlias(old_alias_name="current", new_alias_name="latest")
    books.update_collection_aliases([models.RenameAliasOperation(rename_alias=rename)])
    pairs = [(a.alias_name, a.collection_name) for a in books.get_aliases().aliases]
    assert ("latest", "newer") in pairs
    assert not books.collection_exists("current")


def test_aliases_go_with_their_collection(books: QdrantBase) -> None:
    books.update_collection_aliases([alias("current")])
    books.delete_collection("books")
    assert "current" not in [a.alias_name for a in books.get_aliases().aliases]
    assert refusal(lambda: books.count("current"))[0] == 404


def test_aliases_to_nothing_or_over_a_collection_are_refused_as_a_whole(books: QdrantBase) -> None:
    create(books, "other")
    assert refusal(lambda: books.update_collection_aliases([alias("x", "nowhere")]))[0] == 404
    status, _ = refusal(lambda: books.update_collection_aliases([alias("fine"), alias("other")]))
    assert status in (400, 409)


def test_points_come_back_as_they_went_in(client: QdrantBase) -> None:
    create(client)
    payload = {"text": "näïve 🎈", "number": 2**53, "real": 0.5, "none": None, "list": [1, "a", {}]}
    vector = {"dense": [0.0, 0.0, 3.0, 4.0], "bm25": models.SparseVector(indices=[5], values=[2.0])}
    result = client.upsert("books", [models.PointStruct(id=_UUID, vector=vector, payload=payload)])
    assert result.status == models.UpdateStatus.COMPLETED
    [record] = client.retrieve("books", [_UUID], with_vectors=True)
    assert record.id == _UUID
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
    client.upload_points("books", iter(_POINTS), batch_size=4, wait=True)
    assert all_ids(client) == list(range(10))


def test_upload_collection_takes_columns(client: QdrantBase) -> None:
    client.create_collection(
        "rows", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT)
    )
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    payload = [{"row": n} for n in range(5)]
    client.upload_collection("rows", vectors, payload=payload, ids=range(5), wait=True)
    [last] = client.retrieve("rows", [4], with_vectors=True)
    assert (last.vector, last.payload) == ([8.0, 9.0], {"row": 4})


def test_vectors_are_updated_and_the_payload_stays(books: QdrantBase) -> None:
    books.update_vectors(
        "books", [models.PointVectors(id=3, vector={"dense": [0.0, 0.0, 0.0, 9.0]})]
    )
    [record] = books.retrieve("books", [3], with_vectors=True)
    assert isinstance(record.vector, dict)
    assert record.vector["dense"] == [0.0, 0.0, 0.0, 1.0]
    assert "bm25" in record.vector
    assert record.payload == _POINTS[3].payload


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
    books.delete("books", [100, _UUID])
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


def test_counting_obeys_the_filter(books: QdrantBase) -> None:
    assert books.count("books").count == 10
    assert books.count("books", where("kind", "odd")).count == 5
    assert books.count("books", where("nested.deep[]", 3)).count == 2
    assert books.count("books", models.Filter()).count == 10


def test_scrolling_page_by_page_gives_every_point_once(books: QdrantBase) -> None:
    books.upsert("books", [models.PointStruct(id=_UUID, vector={"dense": [1.0, 0.0, 0.0, 0.0]})])
    seen: list[Any] = []
    offset = None
    while True:
        page, offset = books.scroll("books", limit=4, offset=offset)
        seen += ids(page)
        if offset is None:
            break
    assert seen == [*range(10), _UUID]


def test_scrolling_in_the_order_of_a_value(books: QdrantBase) -> None:
    order = models.OrderBy(key="rank", direction=models.Direction.DESC, start_from=7)
    page, offset = books.scroll("books", order_by=order, limit=3)
    assert ids(page) == [7, 6, 5]
    assert offset is None
    assert [record.order_value for record in page] == [7, 6, 5]
    assert ids(books.scroll("books", order_by="rank", limit=2)[0]) == [0, 1]


def test_an_order_by_needs_an_index_and_takes_no_offset(books: QdrantBase) -> None:
    status, message = refusal(lambda: books.scroll("books", order_by="nested.deep"))
    assert status == 400
    assert "No range index for `order_by` key: `nested.deep`" in message
    assert refusal(lambda: books.scroll("books", order_by="rank", offset=3))[0] == 400


def test_facets_count_values_the_commonest_first(books: QdrantBase) -> None:
    books.delete("books", [1])
    hits = books.facet("books", "kind").hits
    assert [(hit.value, hit.count) for hit in hits] == [("even", 5), ("odd", 4)]
    few = models.Filter(must=[models.FieldCondition(key="rank", range=models.Range(lt=3))])
    hits = books.facet("books", "rank", facet_filter=few, limit=5).hits
    assert [(hit.value, hit.count) for hit in hits] == [(0, 1), (2, 1)]


def test_a_facet_needs_an_index(books: QdrantBase) -> None:
    status, message = refusal(lambda: books.facet("books", "nested.deep"))
    assert status == 400
    assert "No appropriate index for faceting: `nested.deep`" in message


def test_uuid_facets_are_strings(client: QdrantBase) -> None:
    create(client)
    client.create_payload_index("books", "u", field_schema=models.PayloadSchemaType.UUID)
    client.upsert(
        "books", [models.PointStruct(id=1, vector={}, payload={"u": _UUID.replace("-", "")})]
    )
    assert [hit.value for hit in client.facet("books", "u").hits] == [str(UUID(_UUID))]


def test_a_payload_index_can_be_deleted(books: QdrantBase) -> None:
    books.delete_payload_index("books", "kind")
    assert set(books.get_collection("books").payload_schema) == {"rank"}
    books.delete_payload_index("books", "never_there")
    assert refusal(lambda: books.create_payload_index("books", "a.[", "keyword"))[0] in (400, 422)


def test_the_nearest_points_come_first_with_payload_and_without_vectors(books: QdrantBase) -> None:
    points = books.query_points("books", [1.0, 0.5, 0.0, 0.0], using="dense", limit=3).points
    assert points[0].id == 5
    assert set(ids(points)) == {4, 5, 6}
    assert points[0].score == pytest.approx(1.0, abs=1e-6)
    assert points[0].payload == _POINTS[5].payload
    assert points[0].vector is None


@pytest.mark.parametrize(
    "query",
    [
        [1.0, 0.5, 0.0, 0.0],
        np.array([1.0, 0.5, 0.0, 0.0], dtype=np.float32),
        models.NearestQuery(nearest=[1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_a_query_vector_may_be_written_in_several_ways(books: QdrantBase, query: Any) -> None:
    assert ids(books.query_points("books", query, using="dense", limit=1).points) == [5]


def test_searching_like_a_point_leaves_that_point_out(books: QdrantBase) -> None:
    points = books.query_points("books", 5, using="dense", limit=2).points
    assert set(ids(points)) == {4, 6}
    status, message = refusal(lambda: books.query_points("books", 77, using="dense"))
    assert status == 404
    assert "No point with id 77 found" in message


def test_a_vector_of_another_collection_can_be_the_query(books: QdrantBase) -> None:
    create(books, "other")
    books.upsert("other", [models.PointStruct(id=1, vector={"dense": [1.0, 0.9, 0.0, 0.0]})])
    lookup = models.LookupLocation(collection="other", vector="dense")
    points = books.query_points("books", 1, using="dense", lookup_from=lookup, limit=1).points
    assert ids(points) == [9]


def test_sparse_queries_weigh_rare_words_more(books: QdrantBase) -> None:
    words = models.SparseVector(indices=[7, 104], values=[1.0, 1.0])
    points = books.query_points("books", words, using="bm25", limit=2).points
    assert points[0].id == 4
    assert points[0].score > 5 * points[1].score


def test_filter_threshold_and_offset_narrow_the_answer(books: QdrantBase) -> None:
    query = [1.0, 0.0, 0.0, 0.0]
    odd = books.query_points("books", query, using="dense", query_filter=where("kind", "odd"))
    assert ids(odd.points) == [1, 3, 5, 7, 9]
    close = books.query_points("books", query, using="dense", score_threshold=0.97)
    assert ids(close.points) == [0, 1, 2]
    third = books.query_points("books", query, using="dense", offset=2, limit=2)
    assert ids(third.points) == [2, 3]


def test_no_query_gives_points_by_id(books: QdrantBase) -> None:
    assert ids(books.query_points("books", limit=3).points) == [0, 1, 2]


def test_prefetches_are_fused_and_equal_scores_are_in_the_order_of_ids(client: QdrantBase) -> None:
    create(client)
    client.upsert("books", _POINTS)
    prefetch = [
        models.Prefetch(query=[1.0, 0.0, 0.0, 0.0], using="dense", limit=4),
        models.Prefetch(query=[1.0, 10.0, 0.0, 0.0], using="dense", limit=4),
    ]
    rrf = models.FusionQuery(fusion=models.Fusion.RRF)
    answers = [client.query_points("books", rrf, prefetch=prefetch, limit=6) for _ in range(5)]
    scores = {point.id: point.score for point in answers[0].points}
    assert set(scores) <= {0, 1, 2, 3, 6, 7, 8, 9}
    assert scores[0] == scores[9] == pytest.approx(0.5)
    if isinstance(client, EdgeClient):  # a server's own order among equals is random
        assert [ids(answer.points) for answer in answers] == [[0, 9, 1, 8, 2, 7]] * 5


def test_weights_and_dbsf_change_the_fusion(books: QdrantBase) -> None:
    prefetch = [
        models.Prefetch(query=[1.0, 0.0, 0.0, 0.0], using="dense", limit=5),
        models.Prefetch(query=models.SparseVector(indices=[109], values=[1.0]), using="bm25"),
    ]
    for weights, first in (([1.0, 0.1], 0), ([0.1, 1.0], 9)):
        query = models.RrfQuery(rrf=models.Rrf(k=2, weights=weights))
        assert books.query_points("books", query, prefetch=prefetch).points[0].id == first
    dbsf = models.FusionQuery(fusion=models.Fusion.DBSF)
    assert set(ids(books.query_points("books", dbsf, prefetch=prefetch).points)) == {
        0,
        1,
        2,
        3,
        4,
        9,
    }


def test_mmr_prefers_variety(client: QdrantBase) -> None:
    create(client)
    vectors = [[1.0, 0.01, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.8, 0.0, 0.6, 0.0]]
    client.upsert(
        "books", [models.PointStruct(id=n, vector={"dense": v}) for n, v in enumerate(vectors)]
    )
    mmr = models.Mmr(diversity=0.9, candidates_limit=3)
    query = models.NearestQuery(nearest=[1.0, 0.01, 0.0, 0.0], mmr=mmr)
    assert ids(client.query_points("books", query, using="dense", limit=2).points) == [0, 2]


def test_search_params_are_taken(books: QdrantBase) -> None:
    quantization = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
    params = models.SearchParams(hnsw_ef=32, exact=True, quantization=quantization)
    answer = books.query_points(
        "books", [1.0, 0.5, 0.0, 0.0], using="dense", search_params=params, limit=1
    )
    assert ids(answer.points) == [5]


def test_several_queries_are_answered_in_their_order(books: QdrantBase) -> None:
    requests = [
        models.QueryRequest(
            query=[1.0, n / 10, 0.0, 0.0], using="dense", limit=1, with_payload=True
        )
        for n in (9, 2, 4)
    ]
    answers = books.query_batch_points("books", requests)
    assert [ids(answer.points) for answer in answers] == [[9], [2], [4]]
    assert answers[0].points[0].payload == _POINTS[9].payload
    assert books.query_batch_points("books", []) == []


@pytest.mark.parametrize(
    ("query", "using", "message"),
    [
        ([1.0], "dense", "Vector dimension error: expected dim: 4, got 1"),
        ([1.0, 0.0, 0.0, 0.0], "other", "Not existing vector name error: other"),
        (models.FusionQuery(fusion=models.Fusion.RRF), None, "without prefetches"),
    ],
)
def test_a_query_that_does_not_fit_is_refused(
    books: QdrantBase, query: Any, using: str | None, message: str
) -> None:
    status, said = refusal(lambda: books.query_points("books", query, using=using))
    assert status == 400
    assert message in said


def test_points_are_grouped_best_group_first(books: QdrantBase) -> None:
    answer = books.query_points_groups(
        "books", "kind", [1.0, 0.0, 0.0, 0.0], using="dense", limit=2, group_size=2
    )
    assert [(group.id, ids(group.hits)) for group in answer.groups] == [
        ("even", [0, 2]),
        ("odd", [1, 3]),
    ]
    assert answer.groups[0].hits[0].payload == _POINTS[0].payload


def test_a_point_with_several_values_is_in_several_groups(books: QdrantBase) -> None:
    answer = books.query_points_groups(
        "books", "nested.deep", [1.0, 0.0, 0.0, 0.0], using="dense", limit=3, group_size=2
    )
    groups = {group.id: ids(group.hits) for group in answer.groups}
    assert groups[1] == [0, 1]
    assert groups[0] == [0]


def test_groups_look_up_points_of_another_collection(books: QdrantBase) -> None:
    create(books, "titles")
    titles = [models.PointStruct(id=n, vector={}, payload={"title": f"T{n}"}) for n in range(3)]
    books.upsert("titles", titles)
    answer = books.query_points_groups(
        "books",
        "rank",
        [1.0, 0.0, 0.0, 0.0],
        using="dense",
        limit=4,
        group_size=1,
        with_lookup=models.WithLookup(collection="titles", with_payload=["title"]),
    )
    found = [group.lookup and group.lookup.payload for group in answer.groups]
    assert found == [{"title": "T0"}, {"title": "T1"}, {"title": "T2"}, None]


def test_many_small_groups_are_all_found(client: QdrantBase) -> None:
    """The best 200 points belong to one group: the others are found behind them."""
    create(client)
    client.create_payload_index("books", "kind", field_schema="keyword")
    points = [
        models.PointStruct(
            id=n,
            vector={"dense": [1.0, n / 1000, 0.0, 0.0]},
            payload={"kind": "big" if n < 200 else f"small {n % 5}"},
        )
        for n in range(230)
    ]
    client.upsert("books", points)
    answer = client.query_points_groups(
        "books", "kind", [1.0, 0.0, 0.0, 0.0], using="dense", limit=6, group_size=2
    )
    assert {group.id for group in answer.groups} == {"big", *(f"small {n}" for n in range(5))}
    assert all(len(group.hits) == 2 for group in answer.groups)


def test_what_only_a_server_can_do_names_the_server(edge: EdgeClient) -> None:
    create(edge)
    for call in (
        lambda: edge.search_matrix_pairs("books"),
        lambda: edge.create_snapshot("books"),
        lambda: edge.list_shard_keys("books"),
        lambda: edge.count("books", shard_key_selector="eu"),
        lambda: create(edge, "sharded", shard_number=2),
        lambda: edge.update_collection("books", quantization_config=models.Disabled.DISABLED),
    ):
        with pytest.raises(NotImplementedError, match="connect to a Qdrant server"):
            call()
    assert not edge.collection_exists("sharded")


def test_every_method_of_a_client_is_there_or_names_the_server() -> None:
    for name in vars(QdrantBase):
        if not name.startswith("_"):
            assert getattr(EdgeClient, name) is not getattr(QdrantBase, name), name


def test_options_of_the_network_are_taken_and_unknown_ones_are_not(edge: EdgeClient) -> None:
    create(edge)
    options = {"timeout": 3, "ordering": models.WriteOrdering.STRONG, "shard_key_selector": None}
    edge.upsert("books", _POINTS, **options)
    assert edge.count("books", timeout=1).count == 10
    with pytest.raises(TypeError, match="unexpected keyword argument 'tiemout'"):
        edge.count("books", tiemout=1)


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ({"dense": [float("nan"), 0.0, 0.0, 1.0]}, "NaN or infinity"),
        ({"dense": [float("inf"), 0.0, 0.0, 1.0]}, "NaN or infinity"),
        ({"dense": [0.0, 0.0, 0.0, 0.0]}, "zero"),
        (
            {"bm25": models.SparseVector.model_construct(indices=[1, 2], values=[1.0])},
            "2 indices but 1 values",
        ),
    ],
)
def test_what_would_ruin_the_files_never_reaches_them(
    edge: EdgeClient, vector: Any, reason: str
) -> None:
    create(edge)
    point = models.PointStruct.model_construct(id=1, vector=vector, payload=None)
    status, message = refusal(lambda: edge.upsert("books", [point]))
    assert status == 400
    assert reason in message
    assert edge.count("books").count == 0
    edge.upsert("books", _POINTS)
    assert edge.count("books").count == 10


def test_a_bool_is_no_id(edge: EdgeClient) -> None:
    create(edge)
    assert refusal(lambda: edge.retrieve("books", [True]))[0] == 400


def test_the_info_names_the_engine(edge: EdgeClient) -> None:
    assert edge.info().title == "qdrant-edge"
