"""The stand-in server gives the answers of the engine behind it, over both transports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.client_base import QdrantBase
from qdrant_client.conversions import common_types as types
from qdrant_standin import TRANSPORTS, connected, running
from qdrant_standin.cases import (
    DENSE,
    EVEN,
    EXACT,
    HYBRID,
    NAME,
    SPARSE,
    UUID_TEXT,
    Ask,
    fill,
    point,
    where,
)

from ragkit.edge import EdgeClient

FILTERS = {
    "should": models.Filter(should=[where("rank", 3), where("rank", 4)]),
    "must_not": models.Filter(must_not=[where("tags", "t1")]),
    "range": models.Filter(
        must=[models.FieldCondition(key="rank", range=models.Range(gte=5, lt=9))]
    ),
    "any": models.Filter(
        must=[models.FieldCondition(key="tags", match=models.MatchAny(any=["t0", "t2"]))]
    ),
    "except": models.Filter(
        must=[models.FieldCondition(key="kind", match=models.MatchExcept(**{"except": ["even"]}))]
    ),
    "ids": models.Filter(must=[models.HasIdCondition(has_id=[1, 2, UUID_TEXT, 99])]),
    "null": models.Filter(
        must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="nothing"))]
    ),
    "nested": models.Filter(
        min_should=models.MinShould(
            conditions=[EVEN, where("rank", 3), where("tags", "t0")], min_count=2
        )
    ),
}


def scroll_where(name: str) -> Ask:
    return lambda client: client.scroll(NAME, FILTERS[name], limit=50)


READS: dict[str, Ask] = {
    "collections": lambda c: c.get_collections(),
    "exists": lambda c: [c.collection_exists(name) for name in (NAME, "notes", "other")],
    "aliases": lambda c: c.get_aliases(),
    "aliases of one": lambda c: c.get_collection_aliases(NAME),
    "aliases of an alias": lambda c: c.get_collection_aliases("notes"),
    "retrieve": lambda c: c.retrieve("notes", [3, UUID_TEXT, 77, 1]),
    "retrieve with vectors": lambda c: c.retrieve(NAME, [3, UUID_TEXT], with_vectors=True),
    "retrieve some keys": lambda c: c.retrieve(NAME, [4], with_payload=["kind", "nested.yes"]),
    "retrieve without payload": lambda c: c.retrieve(NAME, [4], with_payload=False),
    "retrieve all but a key": lambda c: c.retrieve(
        NAME, [4], with_payload=models.PayloadSelectorExclude(exclude=["nested"])
    ),
    "scroll": lambda c: c.scroll("notes", limit=7),
    "scroll on": lambda c: c.scroll(NAME, limit=7, offset=8, with_vectors=["bm25"]),
    "scroll to the end": lambda c: c.scroll(NAME, limit=100, with_payload=["rank"]),
    "scroll in order": lambda c: c.scroll(
        NAME, limit=4, order_by=models.OrderBy(key="rank", direction=models.Direction.DESC)
    ),
    **{f"scroll where {name}": scroll_where(name) for name in FILTERS},
    "count": lambda c: c.count("notes"),
    "count some": lambda c: c.count(NAME, EVEN, exact=True),
    "facet": lambda c: c.facet("notes", "tags", limit=10, exact=True),
    "facet some": lambda c: c.facet(NAME, "rank", FILTERS["range"], limit=3, exact=True),
    "query": lambda c: c.query_points("notes", DENSE, using="dense", limit=5, search_params=EXACT),
    "query with vectors": lambda c: c.query_points(
        NAME, DENSE, using="dense", limit=2, offset=1, with_vectors=["dense"]
    ),
    "query sparse": lambda c: c.query_points(NAME, SPARSE, using="bm25", limit=6),
    "query an example": lambda c: c.query_points(NAME, 5, using="dense", limit=3),
    "query with a threshold": lambda c: c.query_points(
        NAME, DENSE, using="dense", limit=30, score_threshold=0.9, query_filter=EVEN
    ),
    "recommend": lambda c: c.query_points(
        NAME,
        models.RecommendQuery(recommend=models.RecommendInput(positive=[1], negative=[20])),
        using="dense",
        limit=3,
    ),
    "query by order": lambda c: c.query_points(
        NAME, models.OrderByQuery(order_by=models.OrderBy(key="rank")), limit=3
    ),
    "no query": lambda c: c.query_points(NAME, limit=3, query_filter=EVEN),
    "hybrid by ranks": lambda c: c.query_points(
        NAME, models.RrfQuery(rrf=models.Rrf(k=60)), prefetch=HYBRID, limit=6
    ),
    "hybrid by weighted ranks": lambda c: c.query_points(
        NAME, models.RrfQuery(rrf=models.Rrf(k=2, weights=[3.0, 1.0])), prefetch=HYBRID, limit=6
    ),
    "hybrid by scores": lambda c: c.query_points(
        NAME, models.FusionQuery(fusion=models.Fusion.DBSF), prefetch=HYBRID, limit=6
    ),
    "rescored": lambda c: c.query_points(
        NAME, DENSE, using="dense", prefetch=HYBRID, limit=4, with_payload=["rank"]
    ),
    "formula": lambda c: c.query_points(
        NAME,
        models.FormulaQuery(formula=models.SumExpression(sum=["$score", "rank"])),
        prefetch=HYBRID[0],
        limit=4,
    ),
    "diverse": lambda c: c.query_points(
        NAME,
        models.NearestQuery(nearest=DENSE, mmr=models.Mmr(diversity=0.5, candidates_limit=20)),
        using="dense",
        limit=4,
    ),
    "batch of queries": lambda c: c.query_batch_points(
        "notes",
        [
            models.QueryRequest(query=DENSE, using="dense", limit=2, with_payload=True),
            models.QueryRequest(
                query=models.FusionQuery(fusion=models.Fusion.RRF), prefetch=HYBRID, limit=3
            ),
            models.QueryRequest(query=SPARSE, using="bm25", filter=EVEN, with_vector=["bm25"]),
        ],
    ),
    "groups": lambda c: c.query_points_groups(
        NAME, "tags", DENSE, using="dense", limit=3, group_size=2, with_payload=["tags"]
    ),
}


Pair = tuple[QdrantBase, EdgeClient]


@pytest.fixture(scope="module", params=TRANSPORTS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A client of a stand-in, and the engine with the same points and nothing in front."""
    folder = tmp_path_factory.mktemp("pair")
    with (
        running(folder / "server") as server,
        connected(server, request.param) as client,
        EdgeClient(folder / "alone") as alone,
    ):
        for store in (client, alone):
            fill(store)
        yield client, alone
        assert server.broken == []


@pytest.mark.parametrize("read", READS)
def test_every_read_is_answered_as_by_the_engine_alone(read: str, pair: Pair) -> None:
    found, expected = (bare(READS[read](store)) for store in pair)
    assert found == expected


def bare(value: Any) -> Any:
    """An answer without what differs: over gRPC an empty payload comes back as None."""
    match value:
        case models.Record() | models.ScoredPoint():
            payload = value.payload or None
            return {**vars(value), "payload": payload, "version": None}
        case types.QueryResponse():
            return [bare(point) for point in value.points]
        case models.GroupsResult():
            return [(group.id, bare(group.hits)) for group in value.groups]
        case list() | tuple():
            return [bare(item) for item in value]
    return value


WRITES: dict[str, Ask] = {
    "upsert": lambda c: c.upsert("notes", [point(40), point(41)]),
    "upsert columns": lambda c: c.upsert(
        NAME,
        models.Batch(
            ids=[50, 51],
            vectors={"dense": [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]},
            payloads=[{"rank": 50}, {"rank": 51}],
        ),
    ),
    "upsert if": lambda c: c.upsert(NAME, [point(1), point(2)], update_filter=EVEN),
    "insert only": lambda c: c.upsert(
        NAME,
        [models.PointStruct(id=1, vector={}, payload={}), point(60)],
        update_mode=models.UpdateMode.INSERT_ONLY,
    ),
    "upsert without waiting": lambda c: c.upsert(NAME, [point(70)], wait=False),
    "upsert without vectors": lambda c: c.upsert(
        NAME, [models.PointStruct(id=80, vector={}, payload=None)]
    ),
    "update vectors": lambda c: c.update_vectors(
        NAME, [models.PointVectors(id=3, vector={"dense": [0.0, 0.0, 1.0, 0.0]})]
    ),
    "delete vectors": lambda c: c.delete_vectors(NAME, ["bm25"], [4, 5]),
    "delete vectors where": lambda c: c.delete_vectors(NAME, ["bm25"], FILTERS["should"]),
    "delete": lambda c: c.delete("notes", [6, 7, 999]),
    "delete where": lambda c: c.delete(NAME, FILTERS["range"]),
    "set payload": lambda c: c.set_payload(NAME, {"new": {"x": 1}}, [12, 14]),
    "set payload below a key": lambda c: c.set_payload(NAME, {"x": 1.5}, EVEN, key="nested"),
    "overwrite payload": lambda c: c.overwrite_payload(NAME, {"only": "this"}, [10]),
    "delete payload": lambda c: c.delete_payload(NAME, ["tags", "weight"], FILTERS["any"]),
    "clear payload": lambda c: c.clear_payload(NAME, [11, UUID_TEXT]),
    "batch": lambda c: c.batch_update_points(
        "notes",
        [
            models.DeleteOperation(delete=models.FilterSelector(filter=EVEN)),
            models.UpsertOperation(upsert=models.PointsList(points=[point(2), point(90)])),
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"a": [None]}, points=[2], key="b")
            ),
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(payload={"c": "é"}, filter=FILTERS["should"])
            ),
            models.DeletePayloadOperation(
                delete_payload=models.DeletePayload(keys=["tags"], points=[13])
            ),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[15])),
            models.UpdateVectorsOperation(
                update_vectors=models.UpdateVectors(
                    points=[models.PointVectors(id=17, vector={"bm25": SPARSE})]
                )
            ),
            models.DeleteVectorsOperation(
                delete_vectors=models.DeleteVectors(vector=["dense"], points=[19])
            ),
        ],
    ),
    "index": lambda c: c.create_payload_index(
        NAME,
        "weight",
        models.FloatIndexParams(type=models.FloatIndexType.FLOAT, on_disk=True),
    ),
    "text index": lambda c: c.create_payload_index(
        NAME,
        "text",
        models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.WORD,
            min_token_len=2,
            lowercase=True,
        ),
    ),
    "no index": lambda c: c.delete_payload_index(NAME, "rank"),
    "settings": lambda c: c.update_collection(
        "notes",
        metadata={"ragkit": {"version": 2}, "other": [1, 2.5]},
        hnsw_config=models.HnswConfigDiff(m=8),
    ),
    "delete by an alias": lambda c: c.delete_collection("notes"),
    "other aliases": lambda c: c.update_collection_aliases(
        [
            models.RenameAliasOperation(
                rename_alias=models.RenameAlias(old_alias_name="notes", new_alias_name="n2")
            ),
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=NAME, alias_name="n3")
            ),
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="none")),
        ]
    ),
    "no collection": lambda c: c.delete_collection(NAME),
}


def test_every_write_has_the_effect_that_it_has_on_the_engine_alone(
    pair: Pair,
) -> None:
    """One after the other, each on what those before it have left."""
    different = []
    for name, write in WRITES.items():
        results = [write(store) for store in pair]
        if [bare_result(result) for result in results[:1]] != [bare_result(results[1])]:
            different.append((name, results))
        states = [state_of(store) for store in pair]
        if states[0] != states[1]:
            different.append((name, states))
    assert different == []
    for store in pair:  # as it was, for the tests after this one
        fill(store)


def bare_result(result: Any) -> Any:
    """A result without the number that only a server gives it."""
    if isinstance(result, models.UpdateResult):
        return result.status
    return [bare_result(each) for each in result] if isinstance(result, list) else result


def state_of(client: QdrantBase) -> Any:
    """All that a collection holds, and what it is like."""
    if not client.collection_exists(NAME):
        return client.get_aliases()
    points = client.scroll(NAME, limit=100, with_vectors=True)
    info = client.get_collection(NAME)
    config = (info.config.params.vectors, info.config.quantization_config, info.config.metadata)
    indexes = {key: index.model_dump() for key, index in info.payload_schema.items()}
    return bare(points), config, info.config.hnsw_config, indexes, client.get_aliases()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(payload=st.dictionaries(st.text(min_size=1, max_size=5), JSON, max_size=4))
@settings(max_examples=15, deadline=None)
def test_any_payload_comes_back_as_from_the_engine_alone(
    pair: Pair, payload: dict[str, Any]
) -> None:
    for store in pair:
        store.upsert(NAME, [models.PointStruct(id=500, vector={}, payload=payload)], wait=False)
    found, expected = (store.retrieve(NAME, [500])[0].payload for store in pair)
    for store in pair:
        store.delete(NAME, [500], wait=False)
    assert (found or {}) == (expected or {})
