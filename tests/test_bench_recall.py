from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import Given, add, filled, ids_of, unit_vectors
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit.benchmark import (
    Queries,
    RecallRow,
    cheapest,
    pareto,
    recall_sweep,
    sample_queries,
)
from ragkit.benchmark.environment import check_ready, indexed_share
from ragkit.benchmark.originals import originals_of
from ragkit.benchmark.searches import Searches, Setting
from ragkit.benchmark.timing import timed
from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.errors import CollectionError, CollectionMismatch, CollectionNotFound

DIM = 64
DATA = Path(__file__).parents[2] / "shared" / "data" / "squad-dev"


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit_vectors(1_500, DIM)


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory, vectors: Vectors) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("edge")) as client:
        yield filled(client, vectors)


def queries(count: int = 60, dim: int = DIM) -> Queries:
    return Queries(vectors=unit_vectors(count, dim, seed=5), origin="drawn")


def binary_recall(
    vectors: Vectors, asked: Vectors, limit: int, oversampling: int, *, rescore: bool
) -> float:
    """The procedure itself, in numpy: bits that agree, then the originals of the best."""
    cosines = asked @ vectors.T
    agreeing = np.where(asked > 0, 1.0, -1.0) @ np.where(vectors > 0, 1.0, -1.0).T
    shares = []
    for cosine, bits in zip(cosines, agreeing, strict=True):
        best = np.argsort(-bits, kind="stable")[: limit * oversampling]
        if rescore:
            best = best[np.argsort(-cosine[best])]
        shares.append(len(set(best[:limit]) & set(np.argsort(-cosine)[:limit])) / limit)
    return float(np.mean(shares))


def test_recall_is_that_of_the_same_procedure_in_numpy(docs: Collection, vectors: Vectors) -> None:
    asked = queries(100)
    rows = recall_sweep(docs, asked, limits=(10, 50))
    assert len(rows) == 12
    assert rows.about.subject["segments"] == 1
    for row in rows:
        expected = binary_recall(
            vectors, asked.vectors, row.limit, int(row.oversampling or 1), rescore=bool(row.rescore)
        )
        # Among vectors that agree in as many bits which are the best is chance.
        assert row.recall == pytest.approx(expected, abs=0.02)
        assert row.recall_low <= row.recall <= row.recall_high
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.qps > 0
    assert [row.oversampling for row in rows if row.current] == [3.0, 3.0]
    assert all(row.rescore for row in rows if row.current)


@pytest.mark.skipif(not DATA.exists(), reason="needs the judged data of ../shared/data")
def test_on_real_vectors_recall_is_that_of_the_same_procedure_in_numpy(edge: EdgeClient) -> None:
    stored = np.load(DATA / "minilm_docs.f16.npy").astype(np.float32)
    asked = np.load(DATA / "minilm_queries.f16.npy")[::100].astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    docs = filled(edge, stored)
    rows = recall_sweep(docs, Queries(vectors=asked, origin="squad"), limits=(10, 100))
    assert rows.about.subject["segments"] == 1
    for row in rows:
        expected = binary_recall(
            stored, asked, row.limit, int(row.oversampling or 1), rescore=bool(row.rescore)
        )
        assert row.recall == pytest.approx(expected, abs=0.01)


def test_sampled_passages_are_held_out_from_their_own_hits(docs: Collection) -> None:
    rows = recall_sweep(docs, limits=(1, 10), sample=80, oversampling=(16,), rescore=(True,))
    # A passage that found itself first would never find its neighbour at limit 1.
    assert all(row.recall > 0.4 for row in rows if not row.current)
    assert "80 of the collection's own passages" in rows.about.queries
    assert "held out" in rows.about.queries


def test_a_passage_held_out_takes_no_place_among_the_candidates_and_brings_none(
    docs: Collection,
) -> None:
    with originals_of(docs) as originals:
        held_out = sample_queries(originals, 200)
        row_of = {point_id: row for row, point_id in enumerate(originals.ids)}
        signs = np.where(originals.vectors > 0, 1, -1)
    own = [row_of[point_id] for point_id in held_out.own or ()]
    agreeing = signs[own] @ signs.T
    agreeing[np.arange(len(own)), own] = -DIM
    searches = Searches(*docs.searchable(), held_out)
    for limit, factor, candidates in ((1, 2.0, 2), (3, 1.5, 4), (10, 3.0, 30)):
        found = searches.found(Setting(oversampling=factor, rescore=True), limit, range(len(own)))
        assert {len(ids) for ids in found} == {limit}
        least = np.sort(agreeing, axis=1)[:, -candidates]
        for bits, ids, fewest in zip(agreeing, found, least, strict=True):
            assert min(bits[row_of[each]] for each in ids) >= fewest


def test_the_collections_own_search_is_measured_beside_the_grid(docs: Collection) -> None:
    docs.set_search_defaults(oversampling=5.0, diversity=0.5, limit=3, context=1)
    try:
        rows = recall_sweep(docs, queries(), limits=(10,), oversampling=(1,), rescore=(False,))
    finally:
        docs.set_search_defaults()
    own = [row for row in rows if row.current]
    assert [(row.oversampling, row.rescore) for row in rows] == [(1.0, False), (5.0, True)]
    assert len(own) == 1
    assert own[0].recall > rows[0].recall + 0.2


def test_more_oversampling_finds_more_and_without_rescoring_it_changes_nothing(
    docs: Collection,
) -> None:
    rows = recall_sweep(docs, queries(), limits=(20,), oversampling=(1, 2, 4))
    again = [row.recall for row in rows if row.rescore]
    plain = [row.recall for row in rows if row.rescore is False]
    assert again[0] < again[1] < again[2]
    assert max(plain) - min(plain) < 0.01


def test_a_default_that_compares_all_is_no_cell_of_the_grid(docs: Collection) -> None:
    docs.set_search_defaults(exact=True)
    try:
        rows = recall_sweep(docs, queries(), limits=(10,), oversampling=(3,), rescore=(True,))
    finally:
        docs.set_search_defaults()
    assert [(row.oversampling, row.rescore, row.exact, row.current) for row in rows] == [
        (3.0, True, False, False),
        (None, None, True, True),
    ]
    assert rows[1].recall == 1.0


def test_what_is_not_swept_is_as_the_collections_own_search_has_it(docs: Collection) -> None:
    docs.set_search_defaults(hnsw_ef=512, indexed_only=True)
    try:
        rows = recall_sweep(docs, queries(), limits=(10,), oversampling=(3,))
    finally:
        docs.set_search_defaults()
    assert [(row.rescore, row.hnsw_ef, row.current) for row in rows] == [
        (False, 512, False),
        (True, 512, True),
    ]


@pytest.mark.parametrize("store", ["edge", "rest", "grpc"])
def test_without_quantization_there_is_only_the_graphs_ef_to_choose(
    store: str, open_store: Any, vectors: Vectors
) -> None:
    client: QdrantBase = open_store(store)
    docs = filled(client, vectors[:400], quantization="none")
    rows = recall_sweep(docs, queries(20), limits=(5,), hnsw_ef=(8, 64))
    assert [(r.oversampling, r.rescore, r.hnsw_ef, r.current) for r in rows] == [
        (None, None, 8, False),
        (None, None, 64, False),
        (None, None, None, True),
    ]
    assert rows[-1].recall > 0.99
    with pytest.raises(CollectionMismatch, match="go with quantization"):
        recall_sweep(docs, queries(20), oversampling=(2,))


def test_without_a_graph_there_is_no_ef_to_choose(docs: Collection) -> None:
    with pytest.raises(CollectionMismatch, match="hnsw_ef goes with a graph"):
        recall_sweep(docs, hnsw_ef=(64, 128))


def test_only_a_tenants_own_passages_are_measured(edge: EdgeClient, vectors: Vectors) -> None:
    mine = filled(edge, vectors[:300], tenant="mine", quantization="none")
    filled(edge, vectors[300:1_000], tenant="theirs", quantization="none")
    with originals_of(mine) as originals:
        assert sorted(originals.ids) == sorted(ids_of(mine, row) for row in range(300))
    rows = recall_sweep(mine, queries(20), limits=(10,))
    assert rows[0].recall == 1.0
    subject = rows.about.subject
    assert [subject[each] for each in ("tenant", "points_of_the_tenant", "points")] == [
        "mine", 300, 1_000,
    ]  # fmt: skip


def test_originals_are_the_stored_vectors_in_the_order_of_their_ids(
    docs: Collection, vectors: Vectors
) -> None:
    told: list[tuple[str, int, int]] = []
    with originals_of(docs, progress=lambda *told_now: told.append(told_now)) as originals:
        by_id = dict(zip(originals.ids, originals.vectors, strict=True))
        for row in (0, 7, 1_499):
            assert np.allclose(by_id[ids_of(docs, row)], vectors[row], atol=1e-6)
        file = Path(str(originals.vectors.filename))  # type: ignore[attr-defined]
        assert file.exists()
    assert not file.exists()
    assert told[-1] == ("reading vectors", 1_500, 1_500)


def test_progress_tells_of_every_run_of_every_setting(docs: Collection) -> None:
    told: list[tuple[str, int, int]] = []
    recall_sweep(
        docs, queries(5), limits=(5,), oversampling=(3,), progress=lambda *now: told.append(now)
    )
    assert [each for each in told if each[0] == "searching"][-1] == ("searching", 6, 6)


class _Changed(EdgeClient):
    """A store whose exact search finds something else than what it gives away."""

    def query_batch_points(self, name: str, requests: Any, **kwargs: Any) -> Any:
        answers = super().query_batch_points(name, requests, **kwargs)
        if requests[0].params.exact:
            answers[0].points = answers[0].points[3:]
        return answers


def test_an_engine_that_does_not_agree_with_the_truth_is_not_measured(
    tmp_path: Path, vectors: Vectors
) -> None:
    with _Changed(tmp_path) as client:
        docs = filled(client, vectors[:200])
        with pytest.raises(CollectionError, match=r"exact search finds 70\.0%"):
            recall_sweep(docs, queries(10), limits=(10,))


def test_what_is_written_while_it_is_read_is_noticed(docs: Collection, vectors: Vectors) -> None:
    def meddle(what: str, done: int, of: int) -> None:
        if done == of:
            add(docs, vectors[:1], first=9_000)

    with pytest.raises(CollectionError, match="being written to"):
        recall_sweep(docs, queries(5), progress=meddle)
    docs.client.delete(docs.version, [ids_of(docs, 9_000)])


def test_a_collection_that_is_not_optimized_yet_is_not_timed(edge: EdgeClient) -> None:
    docs = filled(edge, unit_vectors(100, DIM), quantization="none")
    edge.update_collection(
        docs.version, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10)
    )
    add(docs, unit_vectors(300, DIM, seed=2), first=100)
    with pytest.raises(CollectionError, match="its status is grey"):
        recall_sweep(docs)
    edge.optimize(docs.name)
    recall_sweep(docs, sample=5, limits=(5,))


def info_of(**changed: Any) -> Any:
    def change(real: models.CollectionInfo) -> models.CollectionInfo:
        optimizer = changed.pop("optimizer", {})
        config = real.config.model_copy(
            update={"optimizer_config": real.config.optimizer_config.model_copy(update=optimizer)}
        )
        return real.model_copy(update={"config": config, **changed})

    return change


class _Says(EdgeClient):
    """A store that says of its collection what a server may say."""

    said: Any = staticmethod(lambda info: info)

    def get_collection(self, name: str, **kwargs: Any) -> models.CollectionInfo:
        found: models.CollectionInfo = self.said(super().get_collection(name, **kwargs))
        return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": models.CollectionStatus.YELLOW}, "still being optimized .*yellow"),
        ({"status": models.CollectionStatus.RED}, "is red"),
        ({"optimizer_status": models.OptimizersStatusOneOf1(error="no space")}, "no space"),
        ({"optimizer": {"max_optimization_threads": 0}}, "held back by a bulk load"),
        ({"optimizer": {"indexing_threshold": 0}, "indexed_vectors_count": 300}, "only 0% of"),
        ({"points_count": 900_000, "indexed_vectors_count": 1_000_000}, "only 11% of"),
    ],
)
def test_what_will_be_searched_otherwise_soon_is_not_timed(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with _Says(tmp_path) as client:
        docs = filled(client, unit_vectors(300, DIM), quantization="none")
        check_ready(docs)
        client.said = info_of(**change)
        with pytest.raises(CollectionError, match=said):
            check_ready(docs)


def test_a_small_collection_says_that_its_graph_and_late_codes_are_idle(edge: EdgeClient) -> None:
    vectors = unit_vectors(300, DIM)
    scalar = filled(edge, vectors, name="scalar", quantization="scalar")
    plain = filled(edge, vectors, name="plain", quantization="none")
    binary = filled(edge, vectors, name="binary", quantization="binary")
    for docs, idle in [(scalar, "codes"), (plain, "graph"), (binary, None)]:
        notes = recall_sweep(docs, queries(5), limits=(5,)).about.notes
        said = [note for note in notes if "not in use yet" in note]
        assert len(said) == (idle is not None)
        assert all(f"its {idle}" in note or f"and {idle}" in note for note in said)


def test_the_indexed_share_leaves_sparse_vectors_out(tmp_path: Path) -> None:
    with _Says(tmp_path) as client:
        docs = filled(client, unit_vectors(300, DIM), quantization="none")
        client.said = info_of(points_count=1_000, indexed_vectors_count=1_900)
        docs.look_again()
        assert indexed_share(docs.searchable()[0]) == 0.9


def test_what_cannot_be_measured_is_refused(docs: Collection, edge: EdgeClient) -> None:
    with pytest.raises(CollectionNotFound):
        recall_sweep(Collection(edge, "nothing", embedder=Given(DIM)))
    words = Collection(edge, "words")
    words.create(avg_len=3.0)
    with pytest.raises(CollectionMismatch, match="searched by words alone"):
        recall_sweep(words)
    empty = Collection(edge, "empty", embedder=Given(DIM))
    empty.create(avg_len=3.0)
    with pytest.raises(CollectionError, match="is empty"):
        recall_sweep(empty)
    with pytest.raises(ValueError, match="64 dimensions, as collection 'docs' has them, got 32"):
        recall_sweep(docs, queries(dim=32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limits": ()}, "at least one limit"),
        ({"limits": (0,)}, "limit"),
        ({"limits": (10, 20_000)}, "limit"),
        ({"oversampling": (0.5,)}, "oversampling"),
        ({"oversampling": ()}, "at least one value of oversampling"),
        ({"target": 0.0}, "target"),
        ({"target": 1.5}, "target"),
        ({"runs": 2}, "at least 3 runs"),
        ({"sample": 0}, "at least 1"),
    ],
)
def test_options_out_of_range_are_refused(
    docs: Collection, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        recall_sweep(docs, **options)


def row(limit: int, oversampling: float, recall: float, p50_ms: float) -> RecallRow:
    return RecallRow(
        limit=limit,
        oversampling=oversampling,
        rescore=True,
        hnsw_ef=None,
        recall=recall,
        recall_low=recall,
        recall_high=recall,
        p50_ms=p50_ms,
        p95_ms=p50_ms,
        qps=1.0,
    )


def test_the_cheapest_is_the_quickest_that_reaches_the_target_at_its_limit() -> None:
    rows = [row(10, 1, 0.8, 0.1), row(10, 2, 0.95, 0.3), row(10, 3, 0.99, 0.2), row(20, 1, 1, 0.01)]
    assert cheapest(rows, 10, 0.95) == rows[2]
    assert cheapest(rows, 10, 0.999) is None
    assert cheapest(rows, 20, 0.95) == rows[3]


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    rows = [row(10, 1, 0.8, 0.1), row(10, 2, 0.7, 0.2), row(10, 3, 0.9, 0.2), row(10, 4, 0.9, 0.3)]
    assert pareto(rows) == [rows[0], rows[2]]
    assert pareto([]) == []


def test_times_are_those_of_the_searches_alone_and_the_kinds_take_turns() -> None:
    asked: list[tuple[str, int]] = []

    def search(kind: str, seconds: float) -> Any:
        def one(query: int) -> str:
            asked.append((kind, query))
            time.sleep(seconds)
            return f"{kind}{query}"

        return one

    def keep(answer: str, query: int) -> str:
        time.sleep(0.02)
        return answer.upper() + str(query)

    slow, quick = timed([search("a", 0.004), search("b", 0)], 4, keep=keep)
    assert slow.answers == ["A00", "A11", "A22", "A33"]
    assert quick.p50_ms < 4 <= slow.p50_ms <= slow.p95_ms
    assert slow.qps <= 250
    kinds = [kind for kind, _ in asked]
    assert kinds == ["a"] * 8 + ["b"] * 8 + (["a"] * 4 + ["b"] * 4) * 2
