"""Points under shard keys are kept apart, as on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qdrant_standin import TRANSPORTS, Server, connected, running
from qdrant_standin.cases import DENSE, EVEN, HYBRID, NAME, outcome, point, where

ODD = models.Filter(must=[where("kind", "odd")])


def sharded(client: QdrantClient, *keys: int | str) -> QdrantClient:
    client.create_collection(
        NAME,
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        sharding_method=models.ShardingMethod.CUSTOM,
    )
    client.create_payload_index(NAME, "kind", models.PayloadSchemaType.KEYWORD)
    for key in keys:
        client.create_shard_key(NAME, key)
    client.create_payload_index(NAME, "rank", models.PayloadSchemaType.INTEGER)
    return client


@pytest.fixture(scope="module")
def keyed(client: QdrantClient) -> Iterator[QdrantClient]:
    sharded(client, "acme", 7)
    yield client
    client.delete_collection(NAME)


@pytest.fixture
def tenants(keyed: QdrantClient) -> QdrantClient:
    """Points 1 to 6 under "acme", 4 to 9 under 7."""
    keyed.delete(NAME, models.Filter(), shard_key_selector=["acme", 7])
    keyed.upsert(NAME, [point(n) for n in range(1, 7)], shard_key_selector="acme")
    keyed.upsert(NAME, [point(n) for n in range(4, 10)], shard_key_selector=7)
    return keyed


WRITES: dict[str, Callable[..., Any]] = {
    "upsert": lambda c, **key: c.upsert(NAME, [point(1)], **key),
    "set payload": lambda c, **key: c.set_payload(NAME, {"a": 1}, [4], **key),
    "overwrite payload": lambda c, **key: c.overwrite_payload(NAME, {"a": 1}, [5], **key),
    "delete payload": lambda c, **key: c.delete_payload(NAME, ["kind"], ODD, **key),
    "clear payload": lambda c, **key: c.clear_payload(NAME, [5], **key),
    "update vectors": lambda c, **key: c.update_vectors(
        NAME, [models.PointVectors(id=6, vector={"dense": DENSE})], **key
    ),
    "delete vectors": lambda c, **key: c.delete_vectors(NAME, ["bm25"], [6], **key),
    "delete": lambda c, **key: c.delete(NAME, [5], **key),
    "delete where": lambda c, **key: c.delete(NAME, EVEN, **key),
}
WRONG_KEYS = (
    (None, "Wrong input: Shard key not specified"),
    ("other", 'Wrong input: Shard key "other" not found'),
    (8, "Wrong input: Shard key 8 not found"),
    (["acme", "other"], 'Wrong input: Shard key "other" not found'),
)


def test_a_write_to_shard_keys_needs_one_that_is_there(tenants: QdrantClient) -> None:
    for write in WRITES.values():
        for key, message in WRONG_KEYS:
            with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
                write(tenants, shard_key_selector=key)
            assert outcome(caught.value) in (
                (400, message),
                (grpc.StatusCode.INVALID_ARGUMENT, message),
            )


def test_every_write_reaches_the_key_that_it_names_and_no_other(tenants: QdrantClient) -> None:
    before = contents(tenants, "acme")
    for name, write in WRITES.items():
        here = contents(tenants, 7)
        write(tenants, shard_key_selector=7)
        assert contents(tenants, 7) != here, name
    assert contents(tenants, "acme") == before


def contents(client: QdrantClient, key: Any) -> Any:
    return client.scroll(NAME, limit=100, with_vectors=True, shard_key_selector=key)


def test_a_batch_writes_each_operation_under_its_own_key(tenants: QdrantClient) -> None:
    tenants.batch_update_points(
        NAME,
        [
            models.UpsertOperation(upsert=models.PointsList(points=[point(20)], shard_key="acme")),
            models.DeleteOperation(delete=models.PointIdsList(points=[4], shard_key=7)),
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"new": 1}, points=[5], shard_key="acme")
            ),
            models.DeletePayloadOperation(
                delete_payload=models.DeletePayload(
                    keys=["tags"], filter=EVEN, shard_key=["acme", 7]
                )
            ),
        ],
    )
    acme, seven = (ids(tenants, key) for key in ("acme", 7))
    assert (acme, seven) == ([1, 2, 3, 4, 5, 6, 20], [5, 6, 7, 8, 9])
    for key, expected in (("acme", True), (7, False)):
        (five,) = tenants.retrieve(NAME, [5], shard_key_selector=key)
        assert ("new" in (five.payload or {})) is expected
        (six,) = tenants.retrieve(NAME, [6], shard_key_selector=key)
        assert "tags" not in (six.payload or {})


def ids(client: QdrantClient, selector: Any, **options: Any) -> list[Any]:
    found, _ = client.scroll(NAME, limit=100, shard_key_selector=selector, **options)
    return [record.id for record in found]


def test_reads_see_the_points_of_the_keys_that_they_name(tenants: QdrantClient) -> None:
    assert ids(tenants, "acme") == [1, 2, 3, 4, 5, 6]
    assert ids(tenants, [7]) == [4, 5, 6, 7, 8, 9]
    assert ids(tenants, None) == ids(tenants, ["acme", 7]) == list(range(1, 10))
    counts = [tenants.count(NAME, shard_key_selector=key).count for key in ("acme", 7, None)]
    assert counts == [6, 6, 12]  # an id under two keys is two points
    evens = tenants.facet(NAME, "kind", exact=True).hits
    assert {hit.value: hit.count for hit in evens} == {"even": 6, "odd": 6}
    found = tenants.query_points(NAME, DENSE, using="dense", limit=20, shard_key_selector=7)
    assert {hit.id for hit in found.points} == {4, 5, 6, 7, 8, 9}
    assert {hit.shard_key for hit in found.points} == {7}
    everything = tenants.query_points(NAME, DENSE, using="dense", limit=20).points
    assert {hit.id for hit in everything} == set(range(1, 10))
    scores = [hit.score for hit in everything]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises((UnexpectedResponse, grpc.RpcError)):
        ids(tenants, "other")


def test_all_keys_can_be_paged_through_and_fused(tenants: QdrantClient) -> None:
    seen, offset = [], None
    while True:
        page, offset = tenants.scroll(NAME, limit=4, offset=offset)
        seen += [record.id for record in page]
        if offset is None:
            break
    assert seen == list(range(1, 10))
    ranked, _ = tenants.scroll(
        NAME, limit=3, order_by=models.OrderBy(key="rank", direction=models.Direction.DESC)
    )
    assert [record.id for record in ranked] == [9, 8, 7]
    fused = tenants.query_points(
        NAME, models.RrfQuery(rrf=models.Rrf(k=60)), prefetch=HYBRID, limit=5
    ).points
    assert len(fused) == 5
    assert len({hit.id for hit in fused}) == 5


def test_a_fallback_is_used_where_the_key_is_not_there(tenants: QdrantClient) -> None:
    fallback = models.ShardKeyWithFallback(target="other", fallback=7)
    assert ids(tenants, fallback) == [4, 5, 6, 7, 8, 9]
    tenants.upsert(NAME, [point(30)], shard_key_selector=fallback)
    assert 30 in ids(tenants, 7)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_shard_keys_come_and_go(transport: str, fresh: Server) -> None:
    with connected(fresh, transport) as client:
        sharded(client, "acme", 7)
        keys: list[int | str] = ["acme", 7]
        for n, key in enumerate(keys):
            client.upsert(NAME, [point(n + 1), point(n + 5)], shard_key_selector=key)
        assert keys_of(client) == ["acme", 7]
        for change, wrong in (
            (client.create_shard_key, "acme"),
            (client.delete_shard_key, "other"),
        ):
            with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
                change(NAME, wrong)
            assert outcome(caught.value)[0] in (400, grpc.StatusCode.INVALID_ARGUMENT)
        assert client.delete_shard_key(NAME, "acme")
        assert keys_of(client) == [7]
        assert [record.id for record in client.scroll(NAME)[0]] == [2, 6]
        info = client.get_collection(NAME)
        assert info.points_count == 2
        assert info.config.params.sharding_method == models.ShardingMethod.CUSTOM
        assert info.payload_schema.keys() == {"kind", "rank"}
        (shard,) = client.collection_cluster_info(NAME).local_shards
        assert (shard.shard_key, shard.points_count) == (7, 2)


def keys_of(client: QdrantClient) -> list[Any]:
    return [found.key for found in client.list_shard_keys(NAME).shard_keys or ()]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_lone_server_has_no_shard_keys(transport: str, tmp_path: Path) -> None:
    with (
        running(tmp_path, distributed=False) as server,
        connected(server, transport) as client,
    ):
        sharded(client)
        with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
            client.create_shard_key(NAME, "acme")
        message = "Qdrant is running in standalone mode"
        assert outcome(caught.value) in ((405, message), (grpc.StatusCode.UNIMPLEMENTED, message))
        assert client.cluster_status().status == "disabled"


def test_a_cluster_of_one_has_a_leader(client: QdrantClient) -> None:
    status = client.cluster_status()
    assert isinstance(status, models.ClusterStatusOneOf1)
    assert status.raft_info.leader == status.peer_id
    assert list(status.peers) == [str(status.peer_id)]
