"""Tuning: what is chosen, by what, what of it is kept, and for how long."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from given import filled, unit_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from ragkit import OutgrownTuning, Retriever
from ragkit.benchmark.choosing import Grid, grid_of
from ragkit.benchmark.judged import Judged
from ragkit.benchmark.originals import originals_of
from ragkit.benchmark.queries import Queries
from ragkit.benchmark.searches import Setting
from ragkit.benchmark.staircase import greatest, least
from ragkit.benchmark.trials import Half, named
from ragkit.benchmark.tuning import tune
from ragkit.collection import Collection
from ragkit.doctor.examination import examine
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import CollectionError, CollectionMismatch
from ragkit.indexer import Indexer
from ragkit.moving.copying import copy
from ragkit.moving.rebuild import rebuild

DIM = 64


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("edge")) as client:
        yield filled(client, unit_vectors(1_000, DIM))


@pytest.fixture
def docs(binary: Collection) -> Collection:
    """One bit a dimension, without a graph, and searched by ragkit's defaults."""
    binary.set_search_defaults()
    return binary


def asked(count: int = 120) -> Queries:
    return Queries(vectors=unit_vectors(count, DIM, seed=5), origin="drawn")


def halves(queries: Queries) -> tuple[list[int], list[int]]:
    order = np.random.default_rng(0).permutation(len(queries)).tolist()
    return order[::2], order[1::2]


def recall_of_every_rung(docs: Collection, queries: Queries) -> list[tuple[float, ...]]:
    """Of all settings, on both halves of the queries, with nothing left out."""
    where, points = docs.searchable()
    grid = grid_of(where, 10)
    assert grid is not None
    assert grid.efs == [None]
    with originals_of(docs) as originals:
        both = [Half(where, points, originals, queries.part(rows), 10) for rows in halves(queries)]
        return [tuple(half.recall(rung).mean for half in both) for rung in grid.rungs]


def rung_of(options: Any) -> Setting:
    return Setting(rescore=options["rescore"], oversampling=options.get("oversampling"))


def test_the_cheapest_that_reaches_on_both_halves_is_chosen(docs: Collection) -> None:
    queries = asked()
    grid = grid_of(docs.searchable()[0], 10)
    assert grid is not None
    every = recall_of_every_rung(docs, queries)
    now = grid.rungs.index(Setting(rescore=True, oversampling=3.0))
    for target in (0.3, 0.9, 0.98):
        found = tune(docs, queries, target=target, save=False)
        first = next(i for i, (mean, _) in enumerate(every) if mean >= target)
        holding = next(i for i in range(first, len(every)) if every[i][1] >= target)
        assert rung_of(found.options) == grid.rungs[holding]
        assert found.reached
        assert found.recall == pytest.approx(every[holding][1])
        assert (found.recall_low or 1) <= (found.recall or 0) <= (found.recall_high or 0)
        assert found.recall_before == pytest.approx(every[now][1])
        assert found.queries == 60
        assert sum(not trial.held_out for trial in found.trials) <= 5  # of fourteen


def test_settings_far_from_the_target_are_dropped_after_a_part_of_the_queries(
    docs: Collection,
) -> None:
    found = tune(docs, asked(160), target=0.9, save=False)
    plain = next(trial for trial in found.trials if trial.options == {"rescore": False})
    assert (plain.queries, plain.outcome) == (50, "misses")
    assert plain.high is not None
    assert plain.high < 0.9
    final = next(trial for trial in found.trials if trial.outcome == "chosen")
    assert (final.queries, final.held_out) == (80, True)


def test_what_is_tried_does_not_depend_on_the_held_out_queries(docs: Collection) -> None:
    queries = asked()
    _, held_out = halves(queries)
    others = queries.vectors.copy()
    others[held_out] = unit_vectors(len(held_out), DIM, seed=77)
    trials = [
        tune(docs, Queries(vectors=vectors, origin="drawn"), target=0.9, save=False).trials
        for vectors in (queries.vectors, others)
    ]
    chosen_by = [
        [(t.options, t.queries, t.value) for t in each if not t.held_out] for each in trials
    ]
    checked_with = [[t.value for t in each if t.held_out] for each in trials]
    assert chosen_by[0] == chosen_by[1]
    assert checked_with[0] != checked_with[1]


def hard_to_hold() -> Queries:
    """Passages' near copies to choose by, and held out what lies anywhere."""
    vectors = unit_vectors(1_000, DIM)[:120].copy()
    _, held_out = halves(Queries(vectors=vectors, origin=""))
    random = np.random.default_rng(3).normal(size=(len(held_out), DIM)).astype(np.float32)
    vectors[held_out] = random / np.linalg.norm(random, axis=1, keepdims=True)
    return Queries(vectors=vectors, origin="drawn")


def test_what_misses_on_the_held_out_queries_gives_way_to_the_next_dearer(
    docs: Collection,
) -> None:
    found = tune(docs, hard_to_hold(), target=0.9, save=False)
    checked = [trial for trial in found.trials if trial.held_out and "now" not in trial.outcome]
    assert len(checked) > 1
    assert [trial.outcome for trial in checked] == ["misses"] * (len(checked) - 1) + ["chosen"]
    factors = [trial.options["oversampling"] for trial in checked]
    assert factors == sorted(factors)
    assert found.reached
    assert any(f"before this one held: {len(checked) - 1};" in note for note in found.notes)


def test_where_nothing_reaches_the_target_the_best_is_told_and_nothing_is_kept(
    docs: Collection,
) -> None:
    where, _ = docs.searchable()
    found = tune(docs, hard_to_hold(), target=1.0)
    assert not found.reached
    assert not found.saved
    assert rung_of(found.options).oversampling == 64
    assert found.recall is not None
    assert 0.9 < found.recall < 1.0
    assert any("--quantization NAME" in note for note in found.notes)
    assert docs.open().search == docs.open().tuned == {}
    kept = tune(docs, hard_to_hold(), target=1.0, anyway=True)
    assert kept.saved
    assert docs.open().search["oversampling"] == 64
    assert docs.open().tuned["reached"] is False
    assert where.manifest != docs.searchable()[0].manifest


def test_within_a_budget_the_best_recall_is_chosen(docs: Collection) -> None:
    generous = tune(docs, asked(60), target=0.5, budget_ms=1e6, save=False)
    assert generous.options == {"rescore": True, "oversampling": 64.0}
    assert generous.reached
    none = tune(docs, asked(60), target=0.1, budget_ms=1e-6)
    assert none.options == {"rescore": False}
    assert (none.reached, none.saved) == (False, False)
    assert "no setting is within 1e-06 ms" in none.notes[0]
    assert any(trial.outcome == "too slow" for trial in none.trials)


def test_what_was_found_is_kept_with_how_and_when_beside_what_was_there(docs: Collection) -> None:
    docs.set_search_defaults(limit=7, oversampling=1.0, exact=True)
    found = tune(docs, asked(), target=0.9)
    assert found.saved
    assert found.before == {"limit": 7, "oversampling": 1.0, "exact": True}
    manifest = Collection(docs.client, "docs").open()
    assert manifest.search == {"limit": 7, **found.options}
    assert manifest.tuned == {
        "at": found.trials.about.at,
        "options": ["oversampling", "rescore"],
        "points": 1_000,
        "queries": 60,
        "limit": 10,
        "target": 0.9,
        "budget_ms": None,
        "recall": found.recall,
        "recall_low": found.recall_low,
        "recall_high": found.recall_high,
        "p50_ms": found.p50_ms,
        "p95_ms": found.p95_ms,
        "reached": True,
        "quantization": "binary",
        "store": "embedded",
        "ragkit": found.trials.about.versions["ragkit"],
    }
    assert docs.status().tuned == manifest.tuned
    again = tune(docs, asked(), target=0.9, save=False)
    assert [t.outcome for t in again.trials if t.held_out] == ["chosen, as it is now"]
    docs.set_search_defaults(limit=3)
    assert docs.open().tuned == {}


@pytest.mark.parametrize(
    "store",
    ["rest", "grpc", pytest.param("server-grpc", marks=pytest.mark.server)],
)
def test_a_collection_on_a_server_is_tuned_for_everybody(
    store: str, open_store: Callable[[str], QdrantBase]
) -> None:
    client = open_store(store)
    found = tune(filled(client, unit_vectors(500, DIM)), asked(80), target=0.8)
    again = Collection(client, "docs")
    assert again.open().search == found.options
    assert again.manifest.tuned["store"].startswith("Qdrant server")
    assert again.searchable()[0].defaults == found.options


def test_the_passages_themselves_are_the_queries_where_there_are_no_others(
    docs: Collection,
) -> None:
    found = tune(docs, sample=100, target=0.5, save=False)
    assert "100 of the collection's own passages" in found.trials.about.queries
    assert found.queries == 50


def test_what_cannot_be_tuned_is_refused_with_the_reason(edge: EdgeClient) -> None:
    vectors = unit_vectors(100, DIM)
    flat = filled(
        edge, vectors, name="flat", quantization="none", hnsw_config=models.HnswConfigDiff(m=0)
    )
    with pytest.raises(CollectionMismatch, match="neither quantized nor in a graph"):
        tune(flat)
    small = filled(edge, vectors, name="small", quantization="none")
    with pytest.raises(CollectionError, match=r"is small: .* nothing to tune yet"):
        tune(small)
    coarse = filled(edge, vectors, name="coarse", quantization="scalar")
    with pytest.raises(CollectionError, match=r"is small: .* nothing to tune yet"):
        tune(coarse)
    shared = filled(edge, vectors, name="shared", tenant="acme")
    with pytest.raises(CollectionMismatch, match="shared by tenants"):
        tune(shared)
    words = Collection(edge, "words")
    Indexer(words).add([Document(source="a.md", title="a", text="walrus")])
    with pytest.raises(CollectionMismatch, match="searched by words alone"):
        tune(words)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": 0.0}, "target above 0"),
        ({"target": 1.5}, "target above 0"),
        ({"budget_ms": 0.0}, "budget above 0"),
        ({"limit": 0}, "limit"),
        ({"sample": 19}, "at least 20 queries"),
    ],
)
def test_what_makes_no_sense_is_refused(
    docs: Collection, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tune(docs, **options)


def test_an_option_that_there_is_no_choice_of_stays_as_it_was(docs: Collection) -> None:
    docs.set_search_defaults(hnsw_ef=512, indexed_only=True, oversampling=5.0)
    found = tune(docs, asked(), target=0.3)
    assert found.options == {"rescore": False}
    kept = docs.open()
    assert kept.search == {"hnsw_ef": 512, "indexed_only": True, "rescore": False}
    assert kept.tuned["options"] == ["rescore"]


def test_in_a_graph_the_size_of_the_search_is_chosen_too(edge: EdgeClient) -> None:
    random = np.random.default_rng(1).normal(size=(800, 32)).astype(np.float32)
    vectors: Vectors = random / np.linalg.norm(random, axis=1, keepdims=True)
    docs = filled(
        edge,
        vectors,
        quantization="none",
        hnsw_config=models.HnswConfigDiff(m=4, ef_construct=8, full_scan_threshold=1),
        optimizers_config=models.OptimizersConfigDiff(
            indexing_threshold=1, default_segment_number=1
        ),
    )
    found = tune(docs, sample=120, target=0.9)
    assert found.reached
    assert set(found.options) == {"hnsw_ef"}
    efs = {t.options["hnsw_ef"]: t.value for t in found.trials if "hnsw_ef" in t.options}
    assert efs[16] is not None
    assert efs[16] < 0.9 <= (found.recall or 0.0)
    assert found.options["hnsw_ef"] > 16
    assert docs.open().tuned["options"] == ["hnsw_ef"]


# ---------------------------------------------------------------- by judgements


class _Noise:
    """Vectors that say nothing of the texts."""

    dim, max_tokens, fingerprint = 32, 512, "noise"

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> Vectors:
        row = np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.dim)
        vector: Vectors = (row / np.linalg.norm(row)).astype(np.float32)
        return vector


def judged(count: int = 60) -> Judged:
    return Judged(
        queries={f"q{n}": f"where is thing{n} kept" for n in range(count)},
        qrels={f"q{n}": {f"{n}.md": 1} for n in range(count)},
    )


def things(count: int = 60) -> list[Document]:
    return [
        Document(source=f"{n}.md", title="-", text=f"thing{n} lies on shelf {n % 7} of the house")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("noisy")) as client:
        docs = Collection(client, "noisy", embedder=_Noise(), quantization="binary")
        Indexer(docs).add(things())
        yield docs


def test_where_meaning_is_noise_the_judgements_choose_words(noisy: Collection) -> None:
    pytest.importorskip("ir_measures", reason='pip install "ragkit[bench]"')
    found = tune(noisy, judged=judged(), target=0.5)
    assert found.options["mode"] == "sparse"
    assert found.gain is not None
    assert found.gain[1] > 0
    assert "60 judged queries" in found.trials.about.queries
    checked = [t for t in found.trials if t.measure == "nDCG@10" and t.held_out]
    assert [(named(t.options), t.outcome, t.queries) for t in checked] == [
        ("hybrid, rrf_k 10", "as it is now", 30),
        ("sparse", "chosen", 30),
    ]
    manifest = noisy.open()
    assert manifest.search == found.options
    assert manifest.tuned["gain"] == list(found.gain)
    assert "mode" in manifest.tuned["options"]


def test_a_way_that_is_not_surely_better_is_not_taken(edge: EdgeClient) -> None:
    pytest.importorskip("ir_measures", reason='pip install "ragkit[bench]"')
    docs = Collection(edge, "things", embedder=HashEmbedder(64), quantization="binary")
    Indexer(docs).add(things(40))
    docs.set_search_defaults(mode="sparse", limit=4)
    found = tune(docs, judged=judged(40), target=0.2)
    assert found.gain is None
    assert found.saved
    assert "mode" not in found.options
    assert docs.open().search == {"mode": "sparse", "limit": 4, **found.options}
    assert any("better than now" in note or "did better" in note for note in found.notes)


def test_without_a_choice_of_vectors_judgements_decide_alone(edge: EdgeClient) -> None:
    pytest.importorskip("ir_measures", reason='pip install "ragkit[bench]"')
    docs = Collection(edge, "small", embedder=_Noise(), quantization="none")
    Indexer(docs).add(things())
    found = tune(docs, judged=judged())
    assert found.recall is None
    assert found.options["mode"] == "sparse"
    assert docs.open().search == found.options
    with pytest.raises(ValueError, match="at least 20 judged queries"):
        tune(docs, judged=judged(12))


# ---------------------------------------------------------------- growth, and other changes


def texts(first: int, last: int) -> list[Document]:
    return [
        Document(source=f"{n}.md", title="-", text=f"text number{n} of part{n % 9}")
        for n in range(first, last)
    ]


def test_whoever_searches_is_warned_once_when_the_collection_has_grown_by_half(
    edge: EdgeClient,
) -> None:
    docs = Collection(edge, "my notes", embedder=HashEmbedder(32), quantization="binary")
    Indexer(docs).add(texts(0, 60))
    tune(docs, sample=60, anyway=True)
    assert Indexer(docs).add(texts(60, 89)).notes == ()
    retriever = Retriever(docs)
    retriever.search("number3")
    assert not [each for each in examine(docs).findings if each.kind == "tuning"]

    report = Indexer(docs).add(texts(89, 90))
    remedy = "ragkit tune --collection 'my notes'"
    assert report.notes == (
        "the default search of collection 'my notes' was tuned when it held 60 chunks; it holds 90 "
        f"now, and recall may be lower: {remedy}",
    )
    with pytest.warns(OutgrownTuning, match="held 60 chunks; it holds 90 now") as told:
        retriever.search("number3")
    assert len(told) == 1
    retriever.search("number4")  # once for each retriever: a warning would fail the test
    (finding,) = [each for each in examine(docs).findings if each.kind == "tuning"]
    assert (finding.severity, finding.remedy) == ("note", remedy)
    assert examine(docs).healthy

    tune(docs, sample=60, anyway=True)
    assert docs.open().tuned["points"] == 90
    Retriever(docs).search("number3")
    assert Indexer(docs).add(texts(89, 90)).notes == ()
    assert not [each for each in examine(docs).findings if each.kind == "tuning"]
    Indexer(docs).add(texts(90, 140))
    with pytest.warns(OutgrownTuning):  # of another tuning, so it is told again
        retriever.search("number3")


def test_one_that_shrinks_or_is_told_otherwise_is_not_warned_of(edge: EdgeClient) -> None:
    docs = Collection(edge, "notes", embedder=HashEmbedder(32), quantization="binary")
    Indexer(docs).add(texts(0, 60))
    tune(docs, sample=60, anyway=True)
    Indexer(docs).remove([f"{n}.md" for n in range(40)])
    docs.look_again()
    Retriever(docs).search("number50")
    Indexer(docs).add(texts(0, 100))
    own = Retriever(docs, oversampling=8.0, rescore=True)
    own.search("number50")  # what was tuned does not count for it
    with pytest.warns(OutgrownTuning):
        Retriever(docs).search("number50")
    docs.set_search_defaults()
    Retriever(docs).search("number50")


def test_a_record_goes_where_its_setting_goes(edge: EdgeClient) -> None:
    docs = Collection(edge, "notes", embedder=HashEmbedder(32), quantization="binary")
    Indexer(docs).add(texts(0, 60))
    docs.set_search_defaults(limit=4)
    tune(docs, sample=60, anyway=True)
    tuned = docs.open()
    copy(docs, edge, name="twin")
    twin = Collection(edge, "twin").open()
    assert (twin.search, twin.tuned) == (tuned.search, tuned.tuned)
    rebuild(docs)
    same = Collection(edge, "notes").open()
    assert (same.search, same.tuned) == (tuned.search, tuned.tuned)
    rebuild(docs, quantization="turbo")
    other = Collection(edge, "notes").open()
    assert other.search == other.tuned == {}
    Collection(edge, "twin").set_quantization("turbo-1bit")
    changed = Collection(edge, "twin").open()
    assert changed.tuned == {}
    assert changed.search == {"limit": 4}  # by hand; what was found for binary codes is gone


def test_a_manifest_without_a_record_opens(docs: Collection) -> None:
    metadata = docs.open().to_metadata()
    del metadata["ragkit"]["tuned"]
    docs.client.update_collection(docs.version, metadata=metadata)
    assert Collection(docs.client, "docs").open().tuned == {}


# ---------------------------------------------------------------- the search among settings


@given(
    st.integers(1, 7),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7)), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_the_staircase_is_what_going_through_all_cells_finds(
    rows: int, columns: int, corners: list[tuple[int, int]]
) -> None:
    cells = {(r, c) for r in range(rows) for c in range(columns)}
    true = {(r, c) for r, c in cells if any(r >= i and c >= j for i, j in corners)}
    looked_at: list[tuple[int, int]] = []

    def reaches(row: int, column: int) -> bool:
        looked_at.append((row, column))
        return (row, column) in true

    found = least(rows, columns, reaches)
    minimal = {(r, c) for r, c in true if not ({(r - 1, c), (r, c - 1)} & true)}
    assert set(found) == minimal
    assert len(found) == len(minimal)
    assert len(looked_at) == len(set(looked_at))
    false = cells - true
    maximal = {(r, c) for r, c in false if not ({(r + 1, c), (r, c + 1)} & false)}
    assert set(greatest(rows, columns, lambda r, c: (r, c) in false)) == maximal


def test_only_cells_about_the_border_are_looked_at() -> None:
    looked_at: list[tuple[int, int]] = []

    def reaches(row: int, column: int) -> bool:
        looked_at.append((row, column))
        return row + column >= 9

    assert least(7, 14, reaches) == [(6 - n, 3 + n) for n in range(7)]
    assert len(looked_at) < 40
    looked_at.clear()

    def in_a_column(row: int, column: int) -> bool:
        looked_at.append((row, column))
        return row >= 41

    assert least(64, 1, in_a_column) == [(41, 0)]
    assert len(looked_at) <= 7


def test_the_ladder_ends_where_all_points_are_taken(edge: EdgeClient) -> None:
    docs = filled(edge, unit_vectors(100, DIM))
    grid = grid_of(docs.searchable()[0], 10)
    assert grid is not None
    assert [rung.oversampling for rung in grid.rungs] == [None, 1, 1.5, 2, 3, 4, 6, 8, 12]
    assert Grid(efs=[16, 32], rungs=[Setting()]).dearer((1, 0)) == []
