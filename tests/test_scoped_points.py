"""Points of one tenant, of every store; and writes whose outcome nobody knows."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from faults import WAIT_TIMEOUT, Clock, FaultyClient, skip_waits
from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase
from qdrant_standin import Recorded, Server, running

from ragkit.edge import EdgeClient
from ragkit.errors import StoreFull, StoreUnavailable
from ragkit.points import Points
from ragkit.schema import match, match_any
from ragkit.tenancy import TENANT

NAME = "notes"
OWNERS = ("acme", "rival")
PER_OWNER = 25
ANYTHING = models.Filter()
NEAR = [1.0, 0.0, 0.0, 0.0]


def id_of(owner: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{owner}/{number}"))


IDS = {owner: [id_of(owner, n) for n in range(PER_OWNER)] for owner in OWNERS}


def point(owner: str, number: int, *, version: str = "v1") -> models.PointStruct:
    angle = number / PER_OWNER
    return models.PointStruct.model_construct(
        id=id_of(owner, number),
        vector={"dense": np.array([math.cos(angle), math.sin(angle), 0, 0], np.float32)},
        payload={
            TENANT: owner,
            "source": f"{number % 5}.txt",
            "document_hash": f"{version} of {owner}",
            "secret": f"of {owner}",
        },
    )


def upsert(*points: models.PointStruct) -> models.UpsertOperation:
    return models.UpsertOperation(upsert=models.PointsList(points=list(points)))


def hashes(*points: models.PointStruct) -> dict[str, str]:
    return {str(each.id): (each.payload or {})["document_hash"] for each in points}


def create(client: QdrantBase, **settings: Any) -> None:
    vectors = {"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)}
    client.create_collection(NAME, vectors_config=vectors, **settings)
    for field in (TENANT, "source", "document_hash"):
        client.create_payload_index(NAME, field, field_schema=models.PayloadSchemaType.KEYWORD)


def fill(points: Points, owner: str) -> None:
    points.update([upsert(*(point(owner, n) for n in range(PER_OWNER)))])


@pytest.fixture
def shared(client: QdrantBase) -> QdrantBase:
    """A store with a collection of two tenants, whose points are alike."""
    create(client)
    for owner in OWNERS:
        fill(Points(client, NAME), owner)
    return client


@pytest.fixture
def acme(shared: QdrantBase) -> Points:
    return Points(shared, NAME, tenant="acme")


def ids(records: Sequence[models.Record] | Sequence[models.ScoredPoint]) -> list[str]:
    return [str(record.id) for record in records]


def nearest(**options: Any) -> models.QueryRequest:
    return models.QueryRequest(query=NEAR, using="dense", limit=100, with_payload=True, **options)


# What somebody might pass to see more than his own.
WIDENING = [
    None,
    ANYTHING,
    models.Filter(must=[match(TENANT, "rival")]),
    models.Filter(should=[match(TENANT, "rival"), match(TENANT, "acme")]),
    models.Filter(must_not=[match(TENANT, "acme")]),
    models.Filter(must=[models.HasIdCondition(has_id=[*IDS["rival"]])]),
    models.Filter(
        should=[models.Filter(must=[match(TENANT, "rival")])],
        min_should=models.MinShould(conditions=[match(TENANT, "rival")], min_count=1),
    ),
]


def test_no_filter_reads_what_another_tenant_has(acme: Points) -> None:
    for where in WIDENING:
        seen = set(ids(list(acme.scroll(where, fields=True))))
        seen |= {each for page in acme.pages(where, fields=True) for each in ids(page)}
        seen |= set(ids(acme.query([nearest(filter=where)])[0].points))
        assert seen <= set(IDS["acme"])
        assert acme.count(where) == len(seen)
        assert sum(acme.facet("source", where, limit=100).values()) == len(seen)
        assert set(acme.facet(TENANT, where, limit=100)) <= {"acme"}


def test_all_that_is_the_tenants_own_is_read(acme: Points) -> None:
    assert sorted(ids(list(acme.scroll(fields=True)))) == sorted(IDS["acme"])
    assert acme.count() == PER_OWNER
    assert acme.facet("source", limit=100) == {f"{n}.txt": 5 for n in range(5)}
    assert sorted(ids(acme.query([nearest()])[0].points)) == sorted(IDS["acme"])


def test_without_a_tenant_all_points_are_read(shared: QdrantBase) -> None:
    everybodys = Points(shared, NAME)
    assert everybodys.count() == 2 * PER_OWNER
    assert everybodys.facet(TENANT, limit=10) == dict.fromkeys(OWNERS, PER_OWNER)
    assert len(everybodys.retrieve([*IDS["acme"], *IDS["rival"]], fields=False)) == 2 * PER_OWNER


def test_ids_of_another_tenant_give_nothing(acme: Points) -> None:
    assert acme.retrieve(IDS["rival"], fields=True, vectors=["dense"]) == {}
    mixed = acme.retrieve([*IDS["rival"][:3], *IDS["acme"][:3]], fields=["secret"])
    assert sorted(mixed) == sorted(IDS["acme"][:3])
    assert all(record.payload == {"secret": "of acme"} for record in mixed.values())


def test_searches_that_feed_a_search_stay_within_the_tenant(acme: Points) -> None:
    widest = models.Filter(should=[match(TENANT, "rival"), match(TENANT, "acme")])
    inner = models.Prefetch(query=NEAR, using="dense", limit=100, filter=widest)
    outer = models.Prefetch(prefetch=[inner], query=NEAR, using="dense", limit=100)
    fused = models.FusionQuery(fusion=models.Fusion.RRF)
    requests = [
        models.QueryRequest(prefetch=[outer, inner], query=fused, limit=100),
        nearest(prefetch=inner),
    ]
    for answer in acme.query(requests):
        assert sorted(ids(answer.points)) == sorted(IDS["acme"])


def test_no_filter_deletes_what_another_tenant_has(acme: Points) -> None:
    for where in WIDENING[1:]:
        assert where is not None
        doomed = acme.count(where)
        acme.delete(where)
        assert acme.count() == PER_OWNER - doomed
        assert Points(acme.client, NAME, tenant="rival").count() == PER_OWNER
        fill(acme, "acme")


def test_a_deletion_among_other_writes_is_narrowed_by_within(acme: Points) -> None:
    older = acme.within(models.Filter(must=[match_any("source", ["0.txt", "1.txt"])]))
    selector = models.FilterSelector(filter=older)
    acme.update([models.DeleteOperation(delete=selector), upsert(point("acme", 0))])
    assert acme.count() == PER_OWNER - 9
    assert Points(acme.client, NAME, tenant="rival").count() == PER_OWNER


def test_pages_come_in_the_order_of_ids_and_are_complete(acme: Points) -> None:
    pages = [ids(page) for page in acme.pages(fields=False, page=7)]
    assert [len(page) for page in pages] == [7, 7, 7, 4]
    assert [each for page in pages for each in page] == sorted(IDS["acme"])
    assert ids(list(acme.scroll(fields=False, page=7))) == sorted(IDS["acme"])


def test_no_empty_page_comes(acme: Points) -> None:
    assert list(acme.pages(models.Filter(must=[match("source", "none")]), fields=False)) == []
    (only,) = acme.pages(fields=False, page=PER_OWNER)
    assert len(only) == PER_OWNER


def test_records_have_the_fields_and_vectors_that_were_asked_for(acme: Points) -> None:
    own = IDS["acme"][0]
    bare = acme.retrieve([own], fields=False)[own]
    assert not bare.payload
    assert not bare.vector
    some = acme.retrieve([own], fields=["source"], vectors=["dense"])[own]
    assert some.payload == {"source": "0.txt"}
    assert isinstance(some.vector, dict)
    assert some.vector["dense"] == pytest.approx(NEAR)
    whole = acme.retrieve([own], fields=True)[own]
    assert set(whole.payload or {}) == {TENANT, "source", "document_hash", "secret"}


def test_retrieving_nothing_asks_nobody() -> None:
    nobody = FaultyClient(QdrantBase())
    assert Points(nobody, NAME).retrieve([], fields=True) == {}
    assert nobody.calls == []


def test_a_facet_keeps_the_values_of_most_points(shared: QdrantBase) -> None:
    points = Points(shared, NAME)
    points.delete(models.Filter(must=[match("source", "3.txt"), match(TENANT, "rival")]))
    points.delete(models.Filter(must=[match_any("source", ["0.txt", "1.txt", "2.txt"])]))
    assert points.facet("source", limit=1) == {"4.txt": 10}
    assert points.facet("source", limit=0) == {"4.txt": 10}
    assert points.facet("source", limit=9) == {"4.txt": 10, "3.txt": 5}


def test_counts_and_facets_are_exact(shared: QdrantBase) -> None:
    recording = FaultyClient(shared)
    points = Points(recording, NAME, tenant="acme")
    points.count()
    points.facet("source", limit=3)
    assert [call.options["exact"] for call in recording.calls] == [True, True]


# A collection sharded by tenant: only a server has these.


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(params=["rest", "grpc"])
def wire(request: pytest.FixtureRequest, behind: Server) -> Iterator[QdrantClient]:
    """A client of the server, without collections."""
    with closing(
        QdrantClient(
            url=behind.url,
            grpc_port=behind.grpc_port,
            prefer_grpc=request.param == "grpc",
            check_compatibility=False,
        )
    ) as client:
        yield client
        behind.faults.clear()
        client.delete_collection(NAME)
    assert behind.broken == []


@pytest.fixture
def sharded(wire: QdrantClient) -> QdrantClient:
    create(wire, sharding_method=models.ShardingMethod.CUSTOM)
    for owner in OWNERS:
        wire.create_shard_key(NAME, owner)
        fill(Points(wire, NAME, tenant=owner, shard_key=owner), owner)
    return wire


def shard_keys(request: Recorded) -> list[str]:
    """The shard keys that a request names, one for each of its parts."""
    if request.transport == "rest":
        return _of_json(request.body)
    text = str(request.body)
    parts = text.split("shard_key_selector {")[1:]
    return [part.split('keyword: "')[1].split('"')[0] for part in parts]


def _of_json(body: Any) -> list[str]:
    if isinstance(body, list):
        return [key for each in body for key in _of_json(each)]
    if not isinstance(body, dict):
        return []
    own = [body["shard_key"]] if body.get("shard_key") else []
    return [*own, *(key for each in body.values() for key in _of_json(each))]


USES: dict[str, Callable[[Points], object]] = {
    "scroll": lambda points: list(points.scroll(fields=False, page=10)),
    "retrieve": lambda points: points.retrieve(IDS["acme"], fields=False),
    "count": lambda points: points.count(),
    "facet": lambda points: points.facet("source", limit=5),
    "query": lambda points: points.query([nearest(), nearest()]),
    "update": lambda points: points.update([upsert(point("acme", 0)), upsert(point("acme", 1))]),
    "delete": lambda points: points.delete(models.Filter(must=[match("source", "1.txt")])),
    "have": lambda points: points.have(hashes(point("acme", 0))),
}


def test_every_call_goes_to_the_tenants_shards_alone(behind: Server, sharded: QdrantClient) -> None:
    acme = Points(sharded, NAME, tenant="acme", shard_key="acme")
    for name, use in USES.items():
        behind.requests.clear()
        use(acme)
        parts = 2 if name in ("query", "update") else 1
        named = [shard_keys(request) for request in behind.requests]
        assert named
        assert all(keys == ["acme"] * parts for keys in named), name


def test_a_tenant_whose_shards_are_not_there_yet_has_no_points(sharded: QdrantClient) -> None:
    newcomer = Points(sharded, NAME, tenant="new", shard_key="new")
    assert list(newcomer.scroll(fields=False)) == []
    assert newcomer.retrieve(IDS["acme"], fields=False) == {}
    assert newcomer.count() == 0
    assert newcomer.facet("source", limit=5) == {}
    assert [answer.points for answer in newcomer.query([nearest(), nearest()])] == [[], []]


def test_tenants_in_shards_of_their_own_do_not_see_each_other(sharded: QdrantClient) -> None:
    acme = Points(sharded, NAME, tenant="acme", shard_key="acme")
    assert sorted(ids(list(acme.scroll(fields=False)))) == sorted(IDS["acme"])
    assert acme.retrieve(IDS["rival"], fields=True) == {}
    acme.delete(ANYTHING)
    assert acme.count() == 0
    assert Points(sharded, NAME, tenant="rival", shard_key="rival").count() == PER_OWNER


# Writes of unknown outcome.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return skip_waits(monkeypatch)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeClient]:
    with EdgeClient(tmp_path_factory.mktemp("engine")) as engine:
        create(engine)
        yield engine


@pytest.fixture
def faulty(engine: EdgeClient, clock: Clock) -> FaultyClient:
    """A store that may fail, and holds no points."""
    Points(engine, NAME).delete(ANYTHING)
    return FaultyClient(engine)


NEW = tuple(point("acme", n, version="v2") for n in range(6))
UNSURE = [
    "408",
    "500",
    "502",
    "503",
    "read timeout",
    "disconnected",
    "unavailable",
    "deadline exceeded",
    WAIT_TIMEOUT,
]


def written(client: QdrantBase) -> dict[str, str]:
    records = Points(client, NAME).scroll(fields=["document_hash"])
    return {str(record.id): (record.payload or {})["document_hash"] for record in records}


@pytest.mark.parametrize("kind", UNSURE)
def test_what_has_arrived_is_not_sent_again(
    faulty: FaultyClient, engine: EdgeClient, kind: str
) -> None:
    faulty.faults.add(kind, on="batch_update_points", when="after")
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert len(faulty.called("batch_update_points")) == 1
    assert written(engine) == hashes(*NEW)


@pytest.mark.parametrize("kind", UNSURE)
@pytest.mark.parametrize("when", ["before", "partly"])
def test_what_has_not_arrived_is_sent_again(
    faulty: FaultyClient, engine: EdgeClient, kind: str, when: Any
) -> None:
    faulty.faults.add(kind, on="batch_update_points", when=when, times=3)
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert len(faulty.called("batch_update_points")) > 1
    faulty.settle()
    assert written(engine) == hashes(*NEW)


def test_a_write_that_is_done_late_is_found_without_being_sent_again(
    faulty: FaultyClient, engine: EdgeClient
) -> None:
    faulty.faults.add(WAIT_TIMEOUT, on="batch_update_points")

    def arrives(call: Any) -> bool:
        if call.method == "scroll":
            faulty.settle()
        return False

    faulty.faults.add("503", on=arrives)
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert len(faulty.called("batch_update_points")) == 1
    assert written(engine) == hashes(*NEW)


def test_an_older_version_of_the_same_points_is_not_taken_for_the_new_one(
    faulty: FaultyClient, engine: EdgeClient
) -> None:
    Points(engine, NAME).update([upsert(*(point("acme", n) for n in range(6)))])
    faulty.faults.add("disconnected", on="batch_update_points")
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert written(engine) == hashes(*NEW)


def test_deletions_after_the_upserts_are_still_done(
    faulty: FaultyClient, engine: EdgeClient
) -> None:
    Points(engine, NAME).update([upsert(*(point("acme", n) for n in range(6, 12)))])
    older = models.Filter(must_not=[match("document_hash", "v2 of acme")])
    deletion = models.DeleteOperation(delete=models.FilterSelector(filter=older))
    faulty.faults.add("disconnected", on="batch_update_points", when="partly")  # the upsert alone
    Points(faulty, NAME).update([upsert(*NEW), deletion], expected=hashes(*NEW))
    _, second = faulty.called("batch_update_points")
    assert second.operations == [deletion]
    assert written(engine) == hashes(*NEW)


def test_deletions_are_repeated_until_they_are_known_to_be_done(
    faulty: FaultyClient, engine: EdgeClient
) -> None:
    Points(engine, NAME).update([upsert(*(point("acme", n) for n in range(6)))])
    faulty.faults.add("disconnected", on="batch_update_points", times=2)
    faulty.faults.add(WAIT_TIMEOUT, on="batch_update_points", when="after")
    Points(faulty, NAME).delete(models.Filter(must=[match("document_hash", "v1 of acme")]))
    assert len(faulty.called("batch_update_points")) == 4
    assert written(engine) == {}


def test_what_was_surely_not_done_is_not_looked_up(faulty: FaultyClient) -> None:
    for kind in ("429", "retry-after", "exhausted"):
        faulty.faults.add(kind, on="batch_update_points")
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert faulty.called("scroll") == []


def test_a_refusal_does_not_make_an_unknown_outcome_known(faulty: FaultyClient) -> None:
    faulty.faults.add("disconnected", on="batch_update_points", when="partly")
    faulty.faults.add("429", on="batch_update_points")
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    methods = [call.method for call in faulty.calls]
    assert methods == ["batch_update_points", "scroll"] * 2 + ["batch_update_points"]


def test_a_write_waits_longer_for_a_server_than_looking_it_up_would(
    faulty: FaultyClient, engine: EdgeClient, clock: Clock
) -> None:
    faulty.faults.add("connect", times=12)
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert len(clock.waits) == 12
    assert written(engine) == hashes(*NEW)


def test_where_looking_up_is_refused_the_write_is_sent_again(
    faulty: FaultyClient, engine: EdgeClient
) -> None:
    faulty.faults.add("disconnected", on="batch_update_points", when="after")
    faulty.faults.add("400", on="scroll")  # as strict mode does with a limit that is too high
    Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert len(faulty.called("batch_update_points")) == 2
    assert written(engine) == hashes(*NEW)


def test_a_tenant_looks_up_his_own_points(faulty: FaultyClient, engine: EdgeClient) -> None:
    faulty.faults.add("disconnected", on="batch_update_points", when="after")
    Points(faulty, NAME, tenant="acme").update([upsert(*NEW)], expected=hashes(*NEW))
    (lookup,) = faulty.called("scroll")
    assert '"acme"' in lookup.options["scroll_filter"].model_dump_json()
    assert written(engine) == hashes(*NEW)


def test_points_are_there_only_if_all_are_there_in_that_version(
    faulty: FaultyClient, engine: EdgeClient
) -> None:
    points = Points(engine, NAME)
    points.update([upsert(*NEW[:5])])
    assert points.have(hashes(*NEW[:5]))
    assert not points.have(hashes(*NEW))
    assert not points.have({**hashes(*NEW[:4]), str(NEW[4].id): "v3"})


def test_a_server_that_never_comes_back_ends_the_write(faulty: FaultyClient, clock: Clock) -> None:
    faulty.faults.add("503", times=math.inf)
    with pytest.raises(StoreUnavailable, match="writing to collection 'notes' failed"):
        Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert clock() < 300


@pytest.mark.parametrize("kind", ["507", "disk full", "quota"])
def test_a_full_disk_ends_the_write_at_once(faulty: FaultyClient, clock: Clock, kind: str) -> None:
    faulty.faults.add(kind, on="batch_update_points")
    with pytest.raises(StoreFull):
        Points(faulty, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    assert clock.waits == []


def test_reads_are_tried_again(faulty: FaultyClient, engine: EdgeClient) -> None:
    Points(engine, NAME).update([upsert(*NEW)])
    points = Points(faulty, NAME)
    reads: list[Callable[[], object]] = [
        lambda: len(list(points.scroll(fields=False))),
        lambda: len(points.retrieve([str(each.id) for each in NEW], fields=False)),
        points.count,
        lambda: points.facet("document_hash", limit=5)["v2 of acme"],
        lambda: len(points.query([nearest()])[0].points),
    ]
    for read in reads:
        for kind in ("connect", "retry-after", "500"):
            faulty.faults.add(kind)
        assert read() == len(NEW)


@pytest.mark.parametrize("kind", ["drop", "wait_timeout", 500, 502, 503])
def test_over_the_wire_what_has_arrived_is_not_sent_again(
    behind: Server, wire: QdrantClient, clock: Clock, kind: Any
) -> None:
    create(wire)
    behind.requests.clear()
    behind.faults.add(kind, on="batch", when="after")
    Points(wire, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    words = [request.operation for request in behind.requests]
    if kind == "wait_timeout":  # it arrives some time later, so it may be sent again
        assert words[:2] == ["batch", "scroll"]
    else:
        assert words == ["batch", "scroll"]
    assert written(wire) == hashes(*NEW)


@pytest.mark.parametrize("kind", ["drop", 429, 500, 502, 503])
def test_over_the_wire_what_has_not_arrived_is_sent_again(
    behind: Server, wire: QdrantClient, clock: Clock, kind: Any
) -> None:
    create(wire)
    behind.requests.clear()
    behind.faults.add(kind, on="batch")
    Points(wire, NAME).update([upsert(*NEW)], expected=hashes(*NEW))
    words = [request.operation for request in behind.requests]
    assert words == (["batch"] * 2 if kind == 429 else ["batch", "scroll", "batch"])
    assert written(wire) == hashes(*NEW)


def test_a_write_over_the_wire_is_waited_for(behind: Server, wire: QdrantClient) -> None:
    create(wire)
    behind.requests.clear()
    Points(wire, NAME).update([upsert(*NEW)])
    (sent,) = behind.requests
    if sent.transport == "rest":
        assert sent.parameters["wait"] == "true"
    else:
        assert sent.body.wait
