"""EdgeClient and a real server find, count and group alike."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import pytest
from books import POINTS, UUID_TEXT, create, ids, refusal, where
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.edge import EdgeClient


def test_counting_obeys_the_filter(books: QdrantBase) -> None:
    assert books.count("books").count == 10
    assert books.count("books", where("kind", "odd")).count == 5
    assert books.count("books", where("nested.deep[]", 3)).count == 2
    assert books.count("books", models.Filter()).count == 10


def test_scrolling_page_by_page_gives_every_point_once(books: QdrantBase) -> None:
    books.upsert(
        "books", [models.PointStruct(id=UUID_TEXT, vector={"dense": [1.0, 0.0, 0.0, 0.0]})]
    )
    seen: list[Any] = []
    offset = None
    while True:
        page, offset = books.scroll("books", limit=4, offset=offset)
        seen += ids(page)
        if offset is None:
            break
    assert seen == [*range(10), UUID_TEXT]


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
        "books", [models.PointStruct(id=1, vector={}, payload={"u": UUID_TEXT.replace("-", "")})]
    )
    assert [hit.value for hit in client.facet("books", "u").hits] == [str(UUID(UUID_TEXT))]


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
    assert points[0].payload == POINTS[5].payload
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
    client.upsert("books", POINTS)
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
    assert answers[0].points[0].payload == POINTS[9].payload
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
    assert answer.groups[0].hits[0].payload == POINTS[0].payload


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
    edge.upsert("books", POINTS, **options)
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
    edge.upsert("books", POINTS)
    assert edge.count("books").count == 10


def test_a_bool_is_no_id(edge: EdgeClient) -> None:
    create(edge)
    assert refusal(lambda: edge.retrieve("books", [True]))[0] == 400


def test_the_info_names_the_engine(edge: EdgeClient) -> None:
    assert edge.info().title == "qdrant-edge"
