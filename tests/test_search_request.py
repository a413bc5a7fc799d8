"""What options become on the wire of a server, over REST and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from qdrant_standin import Server, connected, running
from searching import DOCUMENTS, EMBEDDER

from ragkit.collection import Collection
from ragkit.errors import ServerTooOld
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.server import read_info, remember

QUERY = "rotate the yellow key"


class Wire:
    """Searches, and tells what came to the server."""

    def __init__(self, server: Server, docs: Collection, transport: str) -> None:
        self.docs = docs
        self._server = server
        self._grpc = transport == "grpc"

    def sent(self, query: str = QUERY, **options: Any) -> dict[str, Any]:
        """The one search that was sent, with numbers as numbers and no word for a default."""
        self._server.requests.clear()
        Retriever(self.docs).search(query, **options)
        (request,) = [each for each in self._server.requests if "query" in each.operation]
        body: Any = request.body
        if self._grpc:
            body = MessageToDict(body, preserving_proto_field_name=True)
        if request.operation == "query_batch":
            (body,) = body["query_points" if self._grpc else "searches"]
        plain: dict[str, Any] = _plain(body)
        return plain

    def sides(self, query: str = QUERY, **options: Any) -> dict[str, dict[str, Any]]:
        """The searches that feed a hybrid one, by vector."""
        return {each["using"]: each for each in self.sent(query, **options)["prefetch"]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        # gRPC spells out what REST leaves out, but for what is always said.
        said = {key: _plain(each) for key, each in value.items() if each is not None}
        return {key: each for key, each in said.items() if each is not False or key == "rescore"}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


@pytest.fixture(scope="module", params=["rest", "grpc"])
def wire(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Wire]:
    with (
        running(tmp_path_factory.mktemp("wire")) as server,
        connected(server, request.param) as client,
    ):
        docs = Collection(client, "docs", embedder=EMBEDDER, quantization="scalar")
        Indexer(docs).add(DOCUMENTS[:9])
        yield Wire(server, docs, request.param)


RESCORED = {"quantization": {"rescore": True, "oversampling": 2.0}}


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ({}, RESCORED),
        ({"exact": True}, {"exact": True, **RESCORED}),
        ({"hnsw_ef": 77}, {"hnsw_ef": 77, **RESCORED}),
        ({"indexed_only": True}, {"indexed_only": True, **RESCORED}),
        ({"oversampling": 7.5}, {"quantization": {"rescore": True, "oversampling": 7.5}}),
        ({"rescore": False}, {"quantization": {"rescore": False, "oversampling": 2.0}}),
    ],
)
def test_how_vectors_are_searched_reaches_the_engine(
    wire: Wire, options: dict[str, Any], params: dict[str, Any]
) -> None:
    assert wire.sent(mode="dense", **options)["params"] == params
    assert wire.sides(mode="hybrid", **options)["dense"]["params"] == params
    assert wire.sent(mode="dense", group_by="source", **options)["params"] == params
    assert "params" not in wire.sent(mode="sparse", **options)


@pytest.mark.parametrize(
    ("options", "limit", "candidates"),
    [
        ({}, 10, 50),
        ({"limit": 100}, 100, 300),
        ({"limit": 20, "prefetch_limit": 5}, 20, 20),
        ({"limit": 5, "prefetch_limit": 7}, 5, 7),
    ],
)
def test_each_side_of_a_hybrid_search_brings_more_than_is_asked_for(
    wire: Wire, options: dict[str, Any], limit: int, candidates: int
) -> None:
    search = wire.sent(**options)
    assert search["limit"] == limit
    assert [each["limit"] for each in search["prefetch"]] == [candidates, candidates]


def test_a_filter_holds_in_every_part(wire: Wire) -> None:
    for mode in ("dense", "sparse", "hybrid"):
        search = wire.sent(mode=mode, filter={"source": "03.md"})
        parts = [search, *search.get("prefetch", [])]
        assert len(parts) == (3 if mode == "hybrid" else 1)
        assert all("03.md" in str(each["filter"]) for each in parts)


def test_fusion_and_threshold_are_of_the_whole(wire: Wire) -> None:
    search = wire.sent(score_threshold=0.25, weights={"sparse": 3, "dense": 1}, rrf_k=20)
    assert search["score_threshold"] == 0.25
    assert all("score_threshold" not in each for each in search["prefetch"])
    assert [each["using"] for each in search["prefetch"]] == ["dense", "bm25"]
    weights = search["query"]["rrf"]["weights"]
    assert search["query"]["rrf"]["k"] == 20
    assert weights in ([1.0, 3.0], {"weights": [1.0, 3.0]})
    assert str(wire.sent(fusion="dbsf")["query"]["fusion"]).lower() == "dbsf"


def test_diversity_of_dense_hits_is_left_to_the_engine_with_as_many_candidates_as_it_takes(
    wire: Wire,
) -> None:
    tried: list[tuple[dict[str, Any], int]] = [
        ({"limit": 5}, 50),
        ({"limit": 30}, 90),
        ({"limit": 5, "prefetch_limit": 8}, 8),
        ({"limit": 10_000}, 16_384),
    ]
    for options, candidates in tried:
        query = wire.sent(mode="dense", diversity=0.25, **options)["query"]
        mmr = query["nearest_with_mmr"]["mmr"] if "nearest_with_mmr" in query else query["mmr"]
        assert mmr == {"diversity": 0.25, "candidates_limit": candidates}


def test_groups_are_asked_for_with_all_that_a_search_has(wire: Wire) -> None:
    search = wire.sent(group_by="metadata.year", group_size=3, limit=1, filter={"source": "03.md"})
    assert (search["group_by"], search["group_size"], search["limit"]) == ("metadata.year", 3, 1)
    assert [each["limit"] for each in search["prefetch"]] == [50, 50]
    assert "03.md" in str(search["filter"])


def test_weights_are_refused_of_a_server_that_passes_over_them(wire: Wire) -> None:
    client, weights = wire.docs.client, {"dense": 1.0, "sparse": 2.0}
    said = client.info()

    def anew() -> Collection:
        return Collection(client, wire.docs.name, embedder=wire.docs.embedder)

    try:
        remember(client, read_info(said.model_copy(update={"version": "1.16.3"})))
        with pytest.raises(ServerTooOld, match=r"fusion with weights needs Qdrant 1\.17"):
            Retriever(anew()).search(QUERY, weights=weights)
        # Where nothing is fused they say nothing.
        for mode in ("dense", "sparse"):
            assert Retriever(anew()).search(QUERY, mode=mode, weights=weights)
    finally:
        remember(client, read_info(said))
