"""Queries are answered by the engine as qdrant-client's local mode and a server answer them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.edge.points import VectorSchema, id_order, to_edge_points
from ragkit.edge.queries import finish_query, needs_all_fused, to_edge_query
from ragkit.edge.settings import to_edge_config, to_edge_index

_DENSE = {
    "dense": models.VectorParams(size=6, distance=models.Distance.COSINE),
    "far": models.VectorParams(size=3, distance=models.Distance.EUCLID),
    "multi": models.VectorParams(
        size=2,
        distance=models.Distance.DOT,
        multivector_config=models.MultiVectorConfig(
            comparator=models.MultiVectorComparator.MAX_SIM
        ),
    ),
}
_SPARSE = {"words": models.SparseVectorParams(modifier=models.Modifier.IDF)}
_UUID = str(UUID(int=7))

Request = partial(models.QueryRequest, with_payload=True, with_vector=False)
Prefetch = models.Prefetch


def _sparse(*indices: int) -> models.SparseVector:
    return models.SparseVector(indices=list(indices), values=[1.0 + i / 10 for i in indices])


def _points() -> list[models.PointStruct]:
    rng = np.random.default_rng(4)
    ids: list[int | str] = [*range(1, 60), _UUID]
    return [
        models.PointStruct(
            id=point_id,
            vector={
                "dense": rng.standard_normal(6),
                "far": rng.standard_normal(3),
                "multi": [rng.standard_normal(2) for _ in range(1 + n % 3)],
                "words": models.SparseVector(
                    indices=rng.choice(12, 4, replace=False).tolist(),
                    values=rng.uniform(0.5, 2.0, 4).tolist(),
                ),
            },
            payload={
                "n": n,
                "group": "ab"[n % 2],
                "weight": round(rng.uniform(1, 9), 3),
                "place": {
                    "lon": round(rng.uniform(0, 20), 3),
                    "lat": round(rng.uniform(40, 60), 3),
                },
                "when": f"2024-01-{1 + n % 28:02d}T00:00:00Z",
            },
        )
        for n, point_id in enumerate(ids)
    ]


_POINTS = _points()


class Engine:
    """A shard that answers qdrant-client's requests."""

    def __init__(self, folder: Path, dense: Any = None, sparse: Any = None) -> None:
        self.schema = VectorSchema.of(dense, sparse)
        self.shard = edge.EdgeShard.create(str(folder), to_edge_config(dense, sparse))

    def fill(self, points: list[models.PointStruct]) -> None:
        self.shard.update(edge.UpdateOperation.upsert_points(to_edge_points(points, self.schema)))

    def resolve(self, point_id: Any, name: str, collection: str | None) -> Any:
        assert collection in (None, "c"), "the collection asked for reaches the look-up"
        records = self.shard.retrieve([point_id], False, [name])
        return records[0].vector if records else None

    def ask(self, request: models.QueryRequest) -> list[models.ScoredPoint]:
        query = to_edge_query(request, self.schema, self.resolve, collection="c")
        return finish_query(self.shard.query(query), request, self.shard.retrieve)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = Engine(tmp_path_factory.mktemp("shard"), _DENSE, _SPARSE)
    opened.fill(_POINTS)
    for key, kind in (("n", "integer"), ("when", "datetime"), ("group", "keyword")):
        operation = edge.UpdateOperation.create_field_index(key, to_edge_index(kind))
        opened.shard.update(operation)
    yield opened
    opened.shard.close()


@pytest.fixture(scope="module")
def local() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=_DENSE, sparse_vectors_config=_SPARSE)
    client.upsert("c", _POINTS)
    yield client
    client.close()


def _same(ours: list[models.ScoredPoint], theirs: list[models.ScoredPoint]) -> None:
    """The same points with the same scores; local mode has its own order among equal scores."""
    assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-4)
    for mine in (ours, theirs):
        mine.sort(key=lambda hit: (round(hit.score, 4), id_order(hit.id)))
    assert [hit.id for hit in ours] == [hit.id for hit in theirs]
    assert [hit.payload for hit in ours] == [hit.payload for hit in theirs]


_QUERY = [0.3, -1.0, 0.5, 0.2, 0.9, -0.4]
_OTHER = [-0.5, 0.1, 0.8, -1.2, 0.3, 0.6]
_DENSE_PREFETCH = Prefetch(query=_QUERY, using="dense", limit=20)
_SPARSE_PREFETCH = Prefetch(query=_sparse(1, 5, 9), using="words", limit=15)
_EVEN = models.Filter(must=models.FieldCondition(key="group", match=models.MatchValue(value="a")))
_LOW = models.Filter(must=models.FieldCondition(key="n", range=models.Range(lt=30)))


def _nearest(vector: Any, **mmr: Any) -> models.NearestQuery:
    return models.NearestQuery(nearest=vector, mmr=models.Mmr(**mmr) if mmr else None)


def _recommend(**recommend: Any) -> models.RecommendQuery:
    return models.RecommendQuery(recommend=models.RecommendInput(**recommend))


def _pair(positive: Any, negative: Any) -> models.ContextPair:
    return models.ContextPair(positive=positive, negative=negative)


def _formula(formula: Any, **defaults: Any) -> models.QueryRequest:
    return Request(
        query=models.FormulaQuery(formula=formula, defaults=defaults), prefetch=_DENSE_PREFETCH
    )


_ADDITIVE = models.RecommendStrategy.SUM_SCORES
_BEST = models.RecommendStrategy.BEST_SCORE
_PARAMS = models.DecayParamsExpression(x="n", target=30.0, scale=45.0, midpoint=0.3)
_BERLIN = models.GeoPoint(lon=13.4, lat=52.5)

_REQUESTS: dict[str, models.QueryRequest] = {
    "nearest": Request(query=_QUERY, using="dense"),
    "nearest query": Request(query=_nearest(_QUERY), using="dense", limit=5, offset=3),
    "nearest euclid": Request(query=[0.1, 0.2, 0.3], using="far", limit=60),
    "nearest sparse": Request(query=_sparse(1, 5, 9), using="words"),
    "nearest multi": Request(query=[[0.1, 0.9], [1.0, -0.3]], using="multi"),
    "filtered": Request(query=_QUERY, using="dense", filter=_EVEN),
    "above a score": Request(query=_QUERY, using="dense", score_threshold=0.4),
    "below a distance": Request(query=[0.1, 0.2, 0.3], using="far", score_threshold=1.0, limit=60),
    "by id": Request(query=3, using="dense"),
    "by uuid": Request(query=_UUID, using="dense", filter=_LOW),
    "by id sparse": Request(query=4, using="words"),
    "by id multi": Request(query=4, using="multi"),
    "all": Request(limit=7, offset=2),
    "all filtered": Request(filter=_EVEN, limit=50),
    "mmr": Request(query=_nearest(_QUERY, diversity=0.3, candidates_limit=30), using="dense"),
    "mmr by id": Request(query=_nearest(3, diversity=0.8), using="dense"),
    "mmr defaults": Request(query=_nearest(_QUERY, candidates_limit=25), using="dense"),
    "recommend": Request(query=_recommend(positive=[1, 2]), using="dense"),
    "recommend away": Request(query=_recommend(positive=[1, _OTHER], negative=[9]), using="dense"),
    "recommend sparse": Request(query=_recommend(positive=[1, 2], negative=[3]), using="words"),
    "recommend multi": Request(query=_recommend(positive=[1, 2], negative=[3]), using="multi"),
    "recommend best": Request(
        query=_recommend(positive=[1, 2], negative=[5], strategy=_BEST), using="dense"
    ),
    "recommend worst": Request(query=_recommend(negative=[5], strategy=_BEST), using="dense"),
    "recommend sum": Request(
        query=_recommend(positive=[1, _QUERY], negative=[5], strategy=_ADDITIVE), using="dense"
    ),
    "discover": Request(
        query=models.DiscoverQuery(
            discover=models.DiscoverInput(target=_QUERY, context=[_pair(1, 2), _pair(_OTHER, 3)])
        ),
        using="dense",
    ),
    "discover one pair": Request(
        query=models.DiscoverQuery(discover=models.DiscoverInput(target=8, context=_pair(1, 2))),
        using="dense",
    ),
    "rrf": Request(
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        prefetch=[_DENSE_PREFETCH, _SPARSE_PREFETCH],
    ),
    "rrf weighted": Request(
        query=models.RrfQuery(rrf=models.Rrf(k=60, weights=[3.0, 1.0])),
        prefetch=[_DENSE_PREFETCH, _SPARSE_PREFETCH],
        limit=5,
        offset=2,
    ),
    "dbsf": Request(
        query=models.FusionQuery(fusion=models.Fusion.DBSF),
        prefetch=[_DENSE_PREFETCH, _SPARSE_PREFETCH],
        limit=30,
    ),
    "rescored": Request(query=_OTHER, using="dense", prefetch=_SPARSE_PREFETCH),
    "rescored by id": Request(query=3, using="dense", prefetch=[_SPARSE_PREFETCH]),
    "rescored distances": Request(query=[1.0, 0.0, 0.0], using="far", prefetch=[_DENSE_PREFETCH]),
    "nested": Request(
        query=_QUERY,
        using="dense",
        prefetch=Prefetch(
            query=models.FusionQuery(fusion=models.Fusion.RRF),
            prefetch=[_DENSE_PREFETCH, _SPARSE_PREFETCH],
            limit=40,
        ),
    ),
    "formula": _formula(
        models.SumExpression(
            sum=[
                "$score",
                models.MultExpression(mult=[0.1, "weight"]),
                models.FieldCondition(key="group", match=models.MatchValue(value="a")),
                models.NegExpression(neg="missing"),
            ]
        ),
        missing=0.5,
    ),
    "formula mathematics": _formula(
        models.SumExpression(
            sum=[
                models.SqrtExpression(sqrt="weight"),
                models.AbsExpression(abs=models.NegExpression(neg="weight")),
                models.PowExpression(pow=models.PowParams(base="weight", exponent=0.5)),
                models.ExpExpression(exp="$score"),
                models.LnExpression(ln="weight"),
                models.Log10Expression(log10="weight"),
                models.AcoshExpression(acosh="weight"),
                models.MaxExpression(max=["weight", 4.0]),
                models.MinExpression(min=["weight", 4.0]),
                models.DivExpression(
                    div=models.DivParams(left="weight", right="n", by_zero_default=2.0)
                ),
            ]
        ),
    ),
    "formula linear decay": _formula(models.LinDecayExpression(lin_decay=_PARAMS)),
    "formula exponential decay": _formula(models.ExpDecayExpression(exp_decay=_PARAMS)),
    "formula normal decay": _formula(models.GaussDecayExpression(gauss_decay=_PARAMS)),
    "formula places": _formula(
        models.DivExpression(
            div=models.DivParams(
                left=models.GeoDistance(
                    geo_distance=models.GeoDistanceParams(origin=_BERLIN, to="place")
                ),
                right=1e6,
            )
        )
    ),
    "formula dates": _formula(
        models.DivExpression(
            div=models.DivParams(
                left=models.SumExpression(
                    sum=[
                        models.DatetimeExpression(datetime="2024-02-01T00:00:00Z"),
                        models.NegExpression(neg=models.DatetimeKeyExpression(datetime_key="when")),
                        "n",
                    ]
                ),
                right=1e6,
            )
        )
    ),
}


@pytest.mark.parametrize("name", _REQUESTS)
def test_a_query_is_answered_as_in_local_mode(
    engine: Engine, local: QdrantClient, name: str
) -> None:
    ours = engine.ask(_REQUESTS[name])
    assert ours
    _same(ours, local.query_batch_points("c", [_REQUESTS[name]])[0].points)


@pytest.mark.parametrize("name", [name for name in _REQUESTS if "all" not in name])
def test_asked_again_the_answer_is_the_same_to_the_order(engine: Engine, name: str) -> None:
    first = engine.ask(_REQUESTS[name])
    assert all(engine.ask(_REQUESTS[name]) == first for _ in range(5))


# --- chance ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """600 points in several segments, of which 200 each have the same vectors."""
    dense = {
        "dense": models.VectorParams(
            size=2,
            distance=models.Distance.COSINE,
            hnsw_config=models.HnswConfigDiff(full_scan_threshold=1),
        )
    }
    opened = Engine(tmp_path_factory.mktemp("ties"), dense, _SPARSE)
    vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    points = [
        models.PointStruct(
            id=(n * 7919) % 600,
            vector={"dense": vectors[n % 3], "words": _sparse(7, n % 3)},
            payload={"n": n},
        )
        for n in range(600)
    ]
    opened.fill(points[:300])
    opened.shard.optimize()
    opened.fill(points[300:])
    yield opened
    opened.shard.close()


_TIED_PREFETCH = [
    Prefetch(query=[1.0, 0.0], using="dense", limit=50),
    Prefetch(query=_sparse(1, 7), using="words", limit=50),
]


@pytest.mark.parametrize(
    "query",
    [
        {"query": [1.0, 0.0], "using": "dense"},
        {"query": _sparse(1, 7), "using": "words"},
        {"query": models.FusionQuery(fusion=models.Fusion.RRF), "prefetch": _TIED_PREFETCH},
        {"query": models.FusionQuery(fusion=models.Fusion.DBSF), "prefetch": _TIED_PREFETCH},
        {"query": [1.0, 1.0], "using": "dense", "prefetch": _TIED_PREFETCH},
        {
            "query": models.FormulaQuery(formula=models.MultExpression(mult=["$score", 2.0])),
            "prefetch": _TIED_PREFETCH[0],
        },
    ],
    ids=["dense", "sparse", "rrf", "dbsf", "rescoring", "formula"],
)
def test_equal_scores_come_by_id_and_fifty_runs_are_one(
    ties: Engine, query: dict[str, Any]
) -> None:
    request = Request(limit=20, **query)
    answers = [ties.ask(request) for _ in range(50)]
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0]) == 20
    order = [(-hit.score, hit.id) for hit in answers[0]]
    assert order == sorted(order)
    assert all(hit.payload == {"n": _source_of(hit.id)} for hit in answers[0])


def _source_of(point_id: Any) -> int:
    return next(n for n in range(600) if (n * 7919) % 600 == point_id)


def test_pages_of_a_fusion_part_the_whole_of_it(ties: Engine) -> None:
    query = {"query": models.FusionQuery(fusion=models.Fusion.DBSF), "prefetch": _TIED_PREFETCH}
    whole = ties.ask(Request(limit=200, **query))
    pages = [ties.ask(Request(limit=30, offset=offset, **query)) for offset in (0, 30, 60, 90)]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in whole]


def test_only_what_merges_prefetches_is_asked_for_in_full() -> None:
    fusion = models.FusionQuery(fusion=models.Fusion.RRF)
    assert needs_all_fused(Request(query=_QUERY, limit=3)) == 0
    assert needs_all_fused(Request(query=fusion, prefetch=_TIED_PREFETCH, limit=3)) == 100
    assert needs_all_fused(Request(query=fusion, prefetch=Prefetch(query=_QUERY))) == 10
    assert needs_all_fused(Request(query=_nearest(_QUERY, diversity=0.5), prefetch=[])) == 0


def test_a_fused_answer_has_the_vectors_and_payload_that_were_asked_for(engine: Engine) -> None:
    request = _REQUESTS["rrf"].model_copy(
        update={
            "with_vector": ["far"],
            "with_payload": models.PayloadSelectorInclude(include=["n"]),
        }
    )
    for hit in engine.ask(request):
        assert isinstance(hit.vector, dict)
        assert list(hit.vector) == ["far"]
        assert isinstance(hit.payload, dict)
        assert list(hit.payload) == ["n"]
    bare = engine.ask(request.model_copy(update={"with_vector": None, "with_payload": None}))
    assert {(hit.vector, hit.payload) for hit in bare} == {(None, None)}


def test_the_vectors_that_mmr_compares_stay_out_of_the_answer(engine: Engine) -> None:
    assert all(hit.vector is None for hit in engine.ask(_REQUESTS["mmr"]))


# --- what local mode does not have ----------------------------------------------------------------


def test_order_by_is_by_value_then_id(engine: Engine) -> None:
    ascending = engine.ask(Request(query=models.OrderByQuery(order_by="n"), limit=4))
    assert [hit.order_value for hit in ascending] == [0, 1, 2, 3]
    order = models.OrderBy(key="n", direction=models.Direction.DESC, start_from=20)
    descending = engine.ask(Request(query=models.OrderByQuery(order_by=order), limit=3, offset=1))
    assert [hit.order_value for hit in descending] == [19, 18, 17]


def test_order_by_can_start_from_a_date(engine: Engine) -> None:
    order = models.OrderBy(key="when", start_from=datetime(2024, 1, 27, 12))
    hits = engine.ask(Request(query=models.OrderByQuery(order_by=order), limit=60))
    assert {hit.payload["when"][:10] for hit in hits if hit.payload} == {"2024-01-28"}
    assert [hit.id for hit in hits] == sorted(hit.id for hit in hits)


def test_a_sample_is_of_the_points_that_match(engine: Engine) -> None:
    request = Request(query=models.SampleQuery(sample=models.Sample.RANDOM), filter=_LOW, limit=60)
    sampled = [hit.payload["n"] for hit in engine.ask(request) if hit.payload]
    assert sorted(sampled) == list(range(30))


def test_relevance_feedback_and_context_leave_their_examples_out(engine: Engine) -> None:
    feedback = models.RelevanceFeedbackQuery(
        relevance_feedback=models.RelevanceFeedbackInput(
            target=1,
            feedback=[
                models.FeedbackItem(example=2, score=0.9),
                models.FeedbackItem(example=3, score=0.1),
            ],
            strategy=models.NaiveFeedbackStrategy(
                naive=models.NaiveFeedbackStrategyParams(a=1.0, b=1.0, c=1.0)
            ),
        )
    )
    context = models.ContextQuery(context=[_pair(1, 2), _pair(_QUERY, 3)])
    for query in (feedback, context):
        hits = engine.ask(Request(query=query, using="dense", limit=60))
        assert {hit.payload["n"] for hit in hits if hit.payload} == set(range(60)) - {0, 1, 2}


def test_bm25_over_a_text_index_names_the_field_by_using(tmp_path: Path) -> None:
    engine = Engine(tmp_path, {"v": models.VectorParams(size=1, distance=models.Distance.DOT)})
    texts = ["a red fox", "a red red fox and a fox", "the sky"]
    engine.fill(
        [
            models.PointStruct(id=n, vector={"v": [1.0]}, payload={"text": text})
            for n, text in enumerate(texts)
        ]
    )
    index = to_edge_index(models.TextIndexParams(type="text", scoring=True))
    engine.shard.update(edge.UpdateOperation.create_field_index("text", index))
    plain = Request(query=models.TextQuery(text="fox"), using="text")
    assert {hit.id for hit in engine.ask(plain)} == {0, 1}
    long_texts_pay = models.TextQueryInput(
        query="fox", scoring=models.Bm25Scoring(bm25=models.Bm25Params(k=0.0, b=1.0))
    )
    flat = engine.ask(Request(query=models.TextQuery(text=long_texts_pay), using="text"))
    assert [hit.id for hit in flat] == [0, 1]
    assert flat[0].score == pytest.approx(flat[1].score)
    engine.shard.close()


def test_search_parameters_reach_the_engine(engine: Engine) -> None:
    params = models.SearchParams(
        hnsw_ef=40,
        exact=True,
        indexed_only=False,
        quantization=models.QuantizationSearchParams(ignore=False, rescore=True, oversampling=2.0),
        acorn=models.AcornSearchParams(enable=True, max_selectivity=0.3),
    )
    query = to_edge_query(
        Request(query=_QUERY, using="dense", params=params), engine.schema, engine.resolve
    )
    assert (query.params.hnsw_ef, query.params.exact) == (40, True)
    assert query.params.quantization.rescore
    assert query.params.quantization.oversampling == 2.0
    assert (query.params.acorn.enable, query.params.acorn.max_selectivity) == (True, 0.3)
    with_params = engine.ask(Request(query=_QUERY, using="dense", params=params))
    assert with_params == engine.ask(_REQUESTS["nearest"])


def test_idf_can_be_taken_over_a_part_of_the_points(engine: Engine) -> None:
    def ask(idf: Any) -> list[float]:
        params = models.SearchParams(idf=idf)
        hits = engine.ask(Request(query=_sparse(1, 5, 9), using="words", params=params))
        return [hit.score for hit in hits]

    everywhere = [hit.score for hit in engine.ask(_REQUESTS["nearest sparse"])]
    assert ask(models.IdfScope.GLOBAL) == everywhere
    assert ask(models.IdfCorpusParams(corpus=_LOW)) != everywhere


def test_examples_are_left_out_by_id_only_of_their_own_collection(engine: Engine) -> None:
    def ask(**lookup: Any) -> set[Any]:
        request = Request(query=3, using="dense", lookup_from=lookup or None, limit=60)
        return {hit.id for hit in engine.ask(request)}

    assert 3 not in ask()
    assert 3 not in ask(collection="c")

    def other(point_id: Any, name: str, collection: str | None) -> Any:
        assert (point_id, name, collection) == (3, "title", "d")
        return {"title": _QUERY}

    request = Request(
        query=3,
        using="dense",
        lookup_from=models.LookupLocation(collection="d", vector="title"),
        limit=60,
    )
    query = to_edge_query(request, engine.schema, other, collection="c")
    found = finish_query(engine.shard.query(query), request, engine.shard.retrieve)
    assert [hit.id for hit in found[:10]] == [h.id for h in engine.ask(_REQUESTS["nearest"])]
    assert 3 in {hit.id for hit in found}


def test_an_example_in_a_prefetch_is_left_out_of_the_answer(engine: Engine) -> None:
    request = Request(
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        prefetch=[Prefetch(query=5, using="dense", limit=60), _SPARSE_PREFETCH],
        limit=60,
    )
    assert {hit.id for hit in engine.ask(request)} == {p.id for p in _POINTS} - {5}


def test_recommended_examples_without_that_vector_are_passed_over(tmp_path: Path) -> None:
    params = models.VectorParams(size=1, distance=models.Distance.DOT)
    engine = Engine(tmp_path, {"a": params, "b": params})
    engine.fill(
        [
            models.PointStruct(id=1, vector={"a": [1.0]}),
            models.PointStruct(id=2, vector={"a": [2.0], "b": [2.0]}),
            models.PointStruct(id=3, vector={"b": [3.0]}),
        ]
    )
    hits = engine.ask(Request(query=_recommend(positive=[1, 2]), using="b"))
    assert [(hit.id, hit.score) for hit in hits] == [(3, 6.0)]
    with pytest.raises(UnexpectedResponse, match="for point not found") as refusal:
        engine.ask(Request(query=1, using="b"))
    assert refusal.value.status_code == 404
    engine.shard.close()


# --- refusals -------------------------------------------------------------------------------------

_FUSION = models.FusionQuery(fusion=models.Fusion.RRF)
_ORDER = models.OrderByQuery(order_by="n")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"query": [1.0], "using": "dense"}, "expected dim: 6, got 1"),
        ({"query": _QUERY}, "Not existing vector name error: "),
        ({"query": _QUERY, "using": "nope"}, "Not existing vector name error: nope"),
        ({"query": _QUERY, "using": "words"}, "Wrong usage of sparse vectors"),
        ({"query": _sparse(1), "using": "dense"}, "Wrong usage of sparse vectors"),
        ({"query": [float("nan")] * 6, "using": "dense"}, "NaN or infinity"),
        ({"query": "no-uuid", "using": "dense"}, "is not a valid point ID"),
        ({"query": _QUERY, "using": "dense", "limit": 0}, "limit: value 0 invalid"),
        ({"query": _QUERY, "using": "dense", "offset": -1}, "offset: value -1 invalid"),
        ({"query": _QUERY, "using": "dense", "with_vector": ["x"]}, "vector name error: x"),
        ({"prefetch": _DENSE_PREFETCH}, "A query is needed to merge the prefetches"),
        ({"score_threshold": 0.5}, "A query is needed to use the score_threshold"),
        ({"query": _ORDER, "score_threshold": 0.5}, "score_threshold with an order_by query"),
        ({"query": _FUSION}, "cannot apply Fusion without prefetches"),
        (
            {"query": _FUSION, "using": "dense", "prefetch": _DENSE_PREFETCH},
            "cannot be combined with the .*using",
        ),
        (
            {"query": _FUSION, "prefetch": Prefetch(query=_QUERY, using="dense", limit=0)},
            "limit: value 0 invalid",
        ),
        (
            {"query": models.RrfQuery(rrf=models.Rrf(k=0)), "prefetch": _DENSE_PREFETCH},
            "rrf.k: value 0 invalid",
        ),
        (
            {"query": models.RrfQuery(rrf=models.Rrf(weights=[1.0])), "prefetch": _TIED_PREFETCH},
            "RRF weights length",
        ),
        ({"query": models.FormulaQuery(formula=1.0)}, "cannot apply Formula without prefetches"),
        (
            {"query": _nearest(_QUERY, diversity=1.1), "using": "dense"},
            "mmr.diversity: value 1.1 invalid",
        ),
        (
            {"query": _nearest(_QUERY, candidates_limit=20_000), "using": "dense"},
            "mmr.candidates_limit: value 20000 invalid",
        ),
        ({"query": _recommend(negative=[1]), "using": "dense"}, "At least one positive vector"),
        (
            {"query": _recommend(strategy=_BEST), "using": "dense"},
            "At least one positive or negative vector",
        ),
        (
            {
                "query": _QUERY,
                "using": "dense",
                "params": models.SearchParams(
                    quantization=models.QuantizationSearchParams(oversampling=0.5)
                ),
            },
            "oversampling: value 0.5 invalid",
        ),
        ({"query": models.TextQuery(text="x")}, "needs `using` to name the payload field"),
        (
            {
                "query": models.FormulaQuery(formula=models.DatetimeKeyExpression(datetime_key="")),
                "prefetch": _DENSE_PREFETCH,
            },
            "the formula is not valid",
        ),
        ({"query": models.OrderByQuery(order_by="a..b")}, "order_by is not valid"),
    ],
)
def test_a_query_that_a_server_refuses_is_a_bad_request(
    engine: Engine, query: dict[str, Any], says: str
) -> None:
    with pytest.raises(UnexpectedResponse, match=says) as refusal:
        engine.ask(Request(**query))
    assert refusal.value.status_code == 400


def test_a_point_that_is_not_there_is_not_found(engine: Engine) -> None:
    for query in (99, _recommend(positive=[1, 99])):
        with pytest.raises(UnexpectedResponse, match="No point with id 99 found") as refusal:
            engine.ask(Request(query=query, using="dense"))
        assert refusal.value.status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        {"query": models.Document(text="x", model="y"), "using": "dense"},
        {"query": _nearest(models.Image(image="x", model="y")), "using": "dense"},
        {
            "query": _recommend(positive=[models.InferenceObject(object="x", model="y")]),
            "using": "dense",
        },
    ],
    ids=["Document", "Image", "InferenceObject"],
)
def test_inference_is_refused_by_name(
    engine: Engine, query: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    with pytest.raises(NotImplementedError, match=rf"inference \({name}\)"):
        engine.ask(Request(**query))


def test_a_choice_of_shards_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(NotImplementedError, match="shard_key"):
        engine.ask(Request(query=_QUERY, using="dense", shard_key="eu"))


def test_a_formula_that_is_too_deep_is_a_bad_request(engine: Engine) -> None:
    deep: Any = "$score"
    for _ in range(2000):
        deep = models.NegExpression.model_construct(neg=deep)
    query = models.FormulaQuery.model_construct(formula=deep, defaults={})
    request = models.QueryRequest.model_construct(query=query, prefetch=_DENSE_PREFETCH)
    with pytest.raises(UnexpectedResponse, match="nested too deeply"):
        engine.ask(request)
