from __future__ import annotations

from math import log2

import numpy as np
import pytest
from given import Given, filled, unit_vectors
from qdrant_client import models

from ragkit.benchmark.dimensions import dimension_sweep
from ragkit.benchmark.judged import Judged
from ragkit.benchmark.queries import Queries
from ragkit.collection import Collection
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.errors import CollectionMismatch
from ragkit.gemini import GeminiEmbedder

DIM = 32


def units(*rows: list[float]) -> Vectors:
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def asked(count: int = 40, dim: int = DIM) -> Queries:
    return Queries(vectors=unit_vectors(count, dim, seed=5), origin="drawn")


def passages(client: EdgeClient, embedder: Given, of: dict[str, Vectors]) -> Collection:
    """A collection with so many passages of each document."""
    docs = filled(client, np.zeros((0, embedder.dim), np.float32), embedder=embedder)
    rows = [(source, row) for source, vectors in of.items() for row in vectors]
    points = [
        models.PointStruct(id=n, vector={"dense": row.tolist()}, payload={"source": source})
        for n, (source, row) in enumerate(rows)
    ]
    client.upsert(docs.version, points)
    docs.look_again()
    return docs


def test_overlap_is_what_both_exact_searches_find() -> None:
    vectors, queries = unit_vectors(400, DIM), asked()
    rows = dimension_sweep(vectors, queries, dims=[8, 16], limit=5)
    assert [row.dim for row in rows] == [32, 16, 8]
    for row in rows:
        short = [each[:, : row.dim] for each in (vectors, queries.vectors)]
        stored, sought = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in short)
        full = np.argsort(-(queries.vectors @ vectors.T), axis=1)[:, :5]
        cut = np.argsort(-(sought @ stored.T), axis=1)[:, :5]
        shares = [len(set(a) & set(b)) / 5 for a, b in zip(full, cut, strict=True)]
        assert row.overlap == pytest.approx(np.mean(shares))
        assert row.overlap_low <= row.overlap <= row.overlap_high
    assert rows[0].overlap == 1
    assert rows[2].overlap < rows[1].overlap < 1


def test_a_sampled_vector_is_no_neighbour_of_its_own() -> None:
    twins = np.repeat(np.eye(8, dtype=np.float32), 2, axis=0)
    (row,) = dimension_sweep(twins, dims=[8], limit=1)
    assert row.overlap == 1
    # Of its own twin alone nothing is left where the first components of all are the same.
    same = np.hstack([np.ones((16, 1), np.float32), twins])
    assert dimension_sweep(same, dims=[1], limit=1)[1].overlap < 0.5


def test_the_usual_dimensions_below_the_full_one_are_measured() -> None:
    rows = dimension_sweep(unit_vectors(20, 600), asked(5, 600))
    assert [row.dim for row in rows] == [600, 512, 256, 128]


def test_bytes_and_price_are_those_of_float32() -> None:
    rows = dimension_sweep(unit_vectors(250, DIM), asked(), dims=[8], price_per_gb=2e6)
    assert [row.vector_bytes for row in rows] == [128, 32]
    assert [row.total_bytes for row in rows] == [32_000, 8_000]
    assert [row.share for row in rows] == [1, 0.25]
    assert [row.price for row in rows] == pytest.approx([64, 16])
    assert all(row.ndcg is row.ndcg_low is row.ndcg_high is None for row in rows)


def test_a_document_counts_where_its_best_passage_stands(edge: EdgeClient) -> None:
    embedder = Given(3, {"which?": units([1, 0, 0])[0]})
    docs = passages(
        edge,
        embedder,
        {
            "long": np.vstack([units([1, 0.02 + 0.001 * n, 0]) for n in range(60)]),
            "right": units([0, 1, 0], [1, 0, 0.2]),
            "wrong": units([1, 0, 0.3]),
        },
    )
    judged = Judged(queries={"q": "which?"}, qrels={"q": {"right": 1}})
    rows = dimension_sweep(docs, judged=judged, dims=[2], limit=3)
    # The 60 passages of one document come first, and are one document.
    assert rows[0].ndcg == pytest.approx(1 / log2(3))
    assert rows[1].ndcg == pytest.approx(1)  # the difference was in the third component
    assert rows.about.queries.startswith("1 queries of judged")


def test_judgements_bring_an_interval_and_their_notes(edge: EdgeClient) -> None:
    vectors = unit_vectors(60, DIM)
    table = {f"question {n}": row for n, row in enumerate(unit_vectors(30, DIM, seed=8))}
    docs = filled(edge, vectors, embedder=Given(DIM, table))
    ids = {f"q{n}": text for n, text in enumerate(table)}
    qrels = {query: {f"{n}": 1, f"{n + 20}": 2} for n, query in enumerate(ids)}
    judged = Judged(queries={**ids, "more": "unjudged"}, qrels=qrels)
    rows = dimension_sweep(docs, judged=judged, dims=[4], sample=12)
    assert "overlap is of 12 of them" in rows.about.queries
    for row in rows:
        assert row.ndcg is not None
        assert row.ndcg_low is not None
        assert row.ndcg_high is not None
        assert 0 <= row.ndcg_low < row.ndcg < row.ndcg_high <= 1
    assert judged.notes
    assert set(judged.notes) <= set(rows.about.notes)
    assert rows.about.subject["points"] == 60


def test_a_vector_that_is_cut_to_nothing_is_counted_and_not_found() -> None:
    vectors = np.vstack([np.eye(4, dtype=np.float32), units([0, 0, 0, 1])])
    rows = dimension_sweep(vectors, Queries(vectors=vectors, origin="own"), dims=[3], limit=1)
    assert "2 vectors are zero in their first 3 components." in rows.about.notes
    assert rows[1].overlap < 1


def test_only_of_gemini_it_is_known_that_its_vectors_may_be_cut(edge: EdgeClient) -> None:
    fingerprint = GeminiEmbedder("gemini-embedding-001", 768, api_key="none").fingerprint
    vectors = unit_vectors(30, 768)
    trained = filled(edge, vectors, embedder=Given(768, fingerprint=fingerprint))
    assert not dimension_sweep(trained, dims=[64]).about.notes
    other = filled(edge, vectors, name="other")
    assert "of given was trained" in dimension_sweep(other, dims=[64]).about.notes[0]
    assert "the model was trained" in dimension_sweep(vectors, dims=[64]).about.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": [64]}, "expected dimensions from 1 to 32, .* got 64"),
        ({"dims": [0]}, "got 0"),
        ({"limit": 50}, "expected a limit from 1 to 49"),
        ({"limit": 0}, "expected a limit from 1"),
        ({"price_per_gb": -1}, "expected a price of 0 or more"),
        ({"price_per_gb": float("nan")}, "expected a price of 0 or more"),
        ({"queries": asked(3, 16)}, r"expected query vectors of shape \(q, 32\)"),
        ({"judged": Judged(queries={"q": "?"}, qrels={"q": {"d": 1}})}, "measure the collection"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dimension_sweep(unit_vectors(50, DIM), **options)  # type: ignore[arg-type]


def test_nothing_is_embedded_for_judgements_of_other_documents(edge: EdgeClient) -> None:
    docs = filled(edge, unit_vectors(20, DIM), embedder=Given(DIM, {}))
    judged = Judged(queries={"q": "?"}, qrels={"q": {"elsewhere.md": 1}})
    with pytest.raises(ValueError, match=r"under 'source' .* such as 'elsewhere.md'"):
        dimension_sweep(docs, judged=judged)
    with pytest.raises(CollectionMismatch, match="there is no embedder"):
        dimension_sweep(Collection(edge, "docs"), judged=judged)
