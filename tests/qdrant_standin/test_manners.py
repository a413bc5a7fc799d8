"""The stand-in keeps a server's manners: keys, limits, refusals, settings, many callers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qdrant_standin import TRANSPORTS, Recorded, Server, connected, running
from qdrant_standin.cases import DENSE, NAME, ONLY_SPARSE, POINTS, Ask, alias, fill, outcome, point

PINNED = models.VectorParams(size=2, distance=models.Distance.DOT, memory=models.Memory.PINNED)
NEWER = models.TurboQuantization(
    turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS8)
)

REFUSED: dict[str, tuple[Ask, int, grpc.StatusCode, str]] = {
    "the collection is there": (
        lambda c: c.create_collection(NAME, vectors_config={}, sparse_vectors_config=ONLY_SPARSE),
        409,
        grpc.StatusCode.ALREADY_EXISTS,
        "Wrong input: Collection `notes.v1` already exists!",
    ),
    "the name is an alias": (
        lambda c: c.create_collection(
            "notes", vectors_config={}, sparse_vectors_config=ONLY_SPARSE
        ),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Wrong input: Can't create collection with name notes. "
        "Alias with the same name already exists",
    ),
    "the alias is a collection": (
        lambda c: c.update_collection_aliases([alias(NAME, NAME)]),
        409,
        grpc.StatusCode.ALREADY_EXISTS,
        "Wrong input: Collection `notes.v1` already exists!",
    ),
    "an alias of an alias": (
        lambda c: c.update_collection_aliases([alias("notes", "more")]),
        404,
        grpc.StatusCode.NOT_FOUND,
        "Not found: Collection `notes` doesn't exist!",
    ),
    "no such collection": (
        lambda c: c.count("other"),
        404,
        grpc.StatusCode.NOT_FOUND,
        "Not found: Collection `other` doesn't exist!",
    ),
    "a name with a slash": (
        lambda c: c.create_collection("a/b", vectors_config={}, sparse_vectors_config=ONLY_SPARSE),
        422,
        grpc.StatusCode.INVALID_ARGUMENT,
        'Validation error: collection name cannot contain "/" char',
    ),
    "the wrong dimension": (
        lambda c: c.upsert(NAME, [models.PointStruct(id=1, vector={"dense": [1.0, 2.0]})]),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Wrong input: Vector dimension error: expected dim: 4, got 2",
    ),
    "no such vector": (
        lambda c: c.query_points(NAME, DENSE, using="sparse"),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Wrong input: Not existing vector name error: sparse",
    ),
    "a facet without an index": (
        lambda c: c.facet(NAME, "weight"),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "",
    ),
    "no shards": (
        lambda c: c.create_collection(
            "new", vectors_config={}, sparse_vectors_config=ONLY_SPARSE, shard_number=0
        ),
        422,
        grpc.StatusCode.INVALID_ARGUMENT,
        "",
    ),
    "vectors pinned in memory": (
        lambda c: c.create_collection("new", vectors_config={"dense": PINNED}),
        422,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Validation error in JSON body: [memory: `pinned` memory placement is not supported for "
        "dense vector storage]",
    ),
    "quantization that is newer": (
        lambda c: c.update_collection(NAME, quantization_config=NEWER),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "",
    ),
    "no points": (
        lambda c: c.upsert(NAME, []),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Wrong input: Empty update request",
    ),
    "a limit of none": (
        lambda c: c.query_points(NAME, DENSE, using="dense", limit=0),
        422,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Validation error in JSON body: [limit: value 0 invalid, must be 1 or larger]",
    ),
    "a shard key of a missing collection": (
        lambda c: c.count("other", shard_key_selector="acme"),
        404,
        grpc.StatusCode.NOT_FOUND,
        "Not found: Collection `other` doesn't exist!",
    ),
    "a shard key of a collection without": (
        lambda c: c.upsert(NAME, [point(1)], shard_key_selector="acme"),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        'Wrong input: Shard key "acme" not found',
    ),
    "a read of a shard key of a collection without": (
        lambda c: c.count(NAME, shard_key_selector="acme"),
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        'Bad request: Shard key "acme" not found',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_server_refuses_is_refused_in_its_words(case: str, filled: QdrantClient) -> None:
    call, status, code, message = REFUSED[case]
    with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
        call(filled)
    found, text = outcome(caught.value)
    assert found in (status, code)
    assert message in ("", text)


def test_aliases_before_one_that_is_refused_stay_changed(filled: QdrantClient) -> None:
    filled.update_collection_aliases([alias(NAME, "more")])
    delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="more"))
    with pytest.raises((UnexpectedResponse, grpc.RpcError)):
        filled.update_collection_aliases([delete, alias("missing", "more")])
    assert [found.alias_name for found in filled.get_aliases().aliases] == ["notes"]


def test_settings_of_a_server_are_reported_back(client: QdrantClient) -> None:
    client.create_collection(
        "settings",
        vectors_config={},
        sparse_vectors_config=ONLY_SPARSE,
        shard_number=6,
        replication_factor=2,
        write_consistency_factor=2,
        wal_config=models.WalConfigDiff(wal_capacity_mb=64),
        strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=100),
        optimizers_config=models.OptimizersConfigDiff(
            max_optimization_threads=0, indexing_threshold=0
        ),
    )
    client.update_collection(
        "settings",
        collection_params=models.CollectionParamsDiff(replication_factor=3),
        strict_mode_config=models.StrictModeConfig(search_max_hnsw_ef=64),
    )
    config = client.get_collection("settings").config
    assert (config.params.shard_number, config.params.replication_factor) == (6, 3)
    assert config.params.write_consistency_factor == 2
    assert config.wal_config is not None
    assert config.wal_config.wal_capacity_mb == 64
    strict = config.strict_mode_config
    assert strict is not None
    assert (strict.enabled, strict.max_query_limit, strict.search_max_hnsw_ef) == (True, 100, 64)
    optimizer = config.optimizer_config
    assert (optimizer.max_optimization_threads, optimizer.indexing_threshold) == (0, 0)
    client.update_collection(
        "settings",
        optimizers_config=models.OptimizersConfigDiff(
            max_optimization_threads=models.MaxOptimizationThreadsSetting.AUTO
        ),
    )
    optimizer = client.get_collection("settings").config.optimizer_config
    assert optimizer.max_optimization_threads is None
    assert len(client.collection_cluster_info("settings").local_shards) == 6
    client.delete_collection("settings")


def test_the_optimizer_runs_by_itself_until_the_collection_is_green(filled: QdrantClient) -> None:
    assert filled.get_collection(NAME).status == models.CollectionStatus.GREEN
    filled.update_collection(NAME, hnsw_config=models.HnswConfigDiff(m=5))
    assert filled.get_collection(NAME).status == models.CollectionStatus.YELLOW
    assert wait_for_green(filled)


def wait_for_green(client: QdrantClient) -> bool:
    green = models.CollectionStatus.GREEN
    return any(client.get_collection(NAME).status == green for _ in range(100_000))


def test_a_held_back_optimizer_leaves_the_collection_yellow(filled: QdrantClient) -> None:
    none = models.OptimizersConfigDiff(max_optimization_threads=0)
    change = models.HnswConfigDiff(m=4)
    filled.update_collection(NAME, optimizers_config=none, hnsw_config=change)
    statuses = {filled.get_collection(NAME).status for _ in range(5)}
    assert statuses == {models.CollectionStatus.YELLOW}
    assert filled.get_optimizations(NAME).summary.queued_optimizations == 1
    again = models.OptimizersConfigDiff(
        max_optimization_threads=models.MaxOptimizationThreadsSetting.AUTO
    )
    filled.update_collection(NAME, optimizers_config=again)
    assert wait_for_green(filled)


def test_the_version_can_be_chosen(tmp_path: Path) -> None:
    with running(tmp_path, version="1.15.3") as server:
        for transport in TRANSPORTS:
            with connected(server, transport) as client:
                assert client.info().version == "1.15.3"


def test_a_folder_can_be_served_again(tmp_path: Path) -> None:
    for expected in (False, True):
        with running(tmp_path) as server, connected(server, "rest") as client:
            assert client.collection_exists("notes") is expected
            if not expected:
                fill(client)


def test_health_and_unknown_paths(server: Server) -> None:
    with httpx.Client(base_url=server.url) as http:
        assert [http.get(f"/{page}").status_code for page in ("healthz", "readyz", "livez")] == [
            200
        ] * 3
        assert http.get("/").json()["title"] == "qdrant - vector search engine"
        missing = http.get("/collections/a/b/c/d")
        assert (missing.status_code, missing.content) == (404, b"")
        bad = http.get("/collections", params={"timeout": "0"})
        assert bad.status_code == 422
        garbage = http.put("/collections/a", content=b'{"vectors": 5}')
        assert garbage.status_code == 400
        assert garbage.json()["status"]["error"].startswith("Format error in JSON body")


def test_one_connection_serves_many_requests(server: Server) -> None:
    with httpx.Client(base_url=server.url) as http:
        http.get("/collections")
        first = server.requests[-1]
        assert http.get("/collections").http_version == "HTTP/1.1"
        assert http.get("/collections").headers.get("connection") is None
    assert first.operation == "get_collections"


def test_a_body_over_32_mb_is_refused_as_the_server_refuses_it(server: Server) -> None:
    body = b'{"points": [' + b" " * (32 * 1024 * 1024) + b"]}"
    refused = httpx.put(f"{server.url}/collections/a/points", content=body, timeout=30)
    assert refused.status_code == 400
    assert "larger than allowed (limit: 33554432 bytes)" in refused.json()["status"]["error"]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("key", ["wrong", None])
def test_a_request_without_the_key_is_refused(
    transport: str, key: str | None, tmp_path: Path
) -> None:
    headers = {} if key is None else {"api-key": key}
    with running(tmp_path, api_key="secret") as server:
        with connected(server, transport, headers=headers) as client:
            assert client.info().version == "1.19.0"  # needs no key
            with pytest.raises((UnexpectedResponse, grpc.RpcError)) as caught:
                client.get_collections()
        exc = caught.value
        if isinstance(exc, UnexpectedResponse):
            code: Any = exc.status_code
            said = exc.content.decode()  # plain text, no JSON
        else:
            code, said = outcome(exc)
        assert code in (401, grpc.StatusCode.UNAUTHENTICATED)
        assert ("Invalid API key" in said) is (key is not None)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("header", [("api-key", "secret"), ("authorization", "Bearer secret")])
def test_a_request_with_the_key_is_answered(
    transport: str, header: tuple[str, str], tmp_path: Path
) -> None:
    with running(tmp_path, api_key="secret") as server:
        with connected(server, transport, headers=dict([header])) as client:
            assert client.get_collections().collections == []
        assert server.requests[-1].headers[header[0]] == header[1]


def test_what_came_in_is_recorded(server: Server, filled: QdrantClient) -> None:
    del server.requests[:]
    filled.upsert(NAME, [point(5)], wait=True, timeout=9)
    (request,) = server.requests
    assert request.operation == "upsert"
    if request.transport == "rest":
        assert (request.method, request.path) == ("PUT", f"/collections/{NAME}/points")
        assert request.parameters == {"wait": "true", "timeout": "9"}
        assert request.body["points"][0]["id"] == 5
    else:
        assert (request.method, request.path) == ("Upsert", "/qdrant.Points/Upsert")
        assert (request.body.wait, request.body.timeout) == (True, 9)
        assert request.body.points[0].id.num == 5
    assert "python-client" in request.headers["user-agent"]


def test_many_threads_may_write_and_read_at_once(filled: QdrantClient) -> None:
    def work(n: int) -> int:
        filled.upsert(NAME, [point(1000 + n)])
        return len(filled.retrieve(NAME, [1000 + n]))

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(60))) == [1] * 60
    assert filled.count(NAME).count == len(POINTS) + 60
    filled.delete(NAME, list(range(1000, 1060)))


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_an_async_client_may_ask_200_times_at_once(prefer_grpc: bool, fresh: Server) -> None:
    with connected(fresh, "grpc") as client:
        fill(client)

    async def ask() -> list[int]:
        client = AsyncQdrantClient(
            url=fresh.url,
            grpc_port=fresh.grpc_port,
            prefer_grpc=prefer_grpc,
            check_compatibility=False,
            timeout=30,
        )
        try:
            asked = [client.query_points(NAME, DENSE, using="dense", limit=3) for _ in range(200)]
            return [len(answer.points) for answer in await asyncio.gather(*asked)]
        finally:
            await client.close()

    assert asyncio.run(ask()) == [3] * 200


def test_closing_does_not_wait_for_late_answers(tmp_path: Path) -> None:
    asked = threading.Event()

    def notice(request: Recorded) -> bool:
        asked.set()
        return True

    with running(tmp_path) as server:
        server.faults.add("delay", on=notice, delay_s=3600.0)
        with connected(server, "rest") as client, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.get_collections)
            asked.wait()
            server.faults.close()
            assert answer.result().collections == []
