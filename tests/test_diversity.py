from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import searching
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from searching import DOCUMENTS, EMBEDDER, STORES

from ragkit.collection import Collection
from ragkit.diversity import diversified
from ragkit.embeddings import Vectors
from ragkit.hits import Hit
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever

QUERY = "rotate the yellow key of the house"
ALL = len(DOCUMENTS)
VECTORS = dict(
    zip(
        [each.source for each in DOCUMENTS],
        EMBEDDER.embed_documents(
            [each.text for each in DOCUMENTS], titles=[each.title for each in DOCUMENTS]
        ),
        strict=True,
    )
)


def mmr(
    relevance: Sequence[float], vectors: Sequence[Vectors], diversity: float, limit: int
) -> list[int]:
    """By the book: each next one is relevant, and unlike the one chosen that it is most like."""
    chosen: list[int] = []
    left = list(range(len(relevance)))
    while left and len(chosen) < limit:

        def gain(i: int) -> float:
            if not chosen:
                return relevance[i]
            nearest = max(float(vectors[i] @ vectors[j]) for j in chosen)
            return (1 - diversity) * relevance[i] - diversity * nearest

        best = max(left, key=gain)
        left.remove(best)
        chosen.append(best)
    return chosen


def scaled(scores: Sequence[float]) -> list[float]:
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) for score in scores]


def of(hits: Sequence[Hit], relevance: Sequence[float], diversity: float, limit: int) -> list[str]:
    """What is to be chosen of these candidates."""
    vectors = [VECTORS[hit.source] for hit in hits]
    return [hits[i].source for i in mmr(relevance, vectors, diversity, limit)]


@pytest.fixture(scope="module", params=STORES)
def docs(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with searching.store(request) as client:
        made = Collection(client, "diverse", embedder=EMBEDDER, quantization="none")
        Indexer(made).add(DOCUMENTS)
        yield made


def sources(hits: Sequence[Hit]) -> list[str]:
    return [hit.source for hit in hits]


def likeness(hits: Sequence[Hit]) -> float:
    """How alike the hits are, on average."""
    vectors = np.stack([VECTORS[hit.source] for hit in hits])
    cosines = vectors @ vectors.T
    return float(cosines[np.triu_indices(len(hits), 1)].mean())


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("limit", [5, 12])
def test_dense_hits_are_chosen_by_cosines_as_the_book_says(
    docs: Collection, diversity: float, limit: int
) -> None:
    candidates = Retriever(docs).search(QUERY, mode="dense", limit=20)
    hits = Retriever(docs).search(
        QUERY, mode="dense", limit=limit, diversity=diversity, prefetch_limit=20
    )
    cosines = [hit.score for hit in candidates]
    assert sources(hits) == of(candidates, cosines, diversity, limit)
    # Their scores are what they are without.
    expected = {hit.id: hit.score for hit in candidates}
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=1e-6)


@pytest.mark.parametrize("fusion", ["rrf", "dbsf"])
@pytest.mark.parametrize("diversity", [0.1, 0.5, 1.0])
def test_hybrid_hits_are_chosen_among_the_best_fused_candidates(
    docs: Collection, fusion: Any, diversity: float
) -> None:
    retriever = Retriever(docs, fusion=fusion, mode="hybrid")
    candidates = retriever.search(QUERY, limit=20, prefetch_limit=20)
    hits = retriever.search(QUERY, limit=6, diversity=diversity, prefetch_limit=20)
    relevance = scaled([hit.score for hit in candidates])
    assert sources(hits) == of(candidates, relevance, diversity, 6)
    assert {hit.id: hit.score for hit in candidates}.items() >= {
        hit.id: hit.score for hit in hits
    }.items()


@pytest.mark.parametrize("mode", ["dense", "hybrid", "sparse", None])
def test_zero_is_off(docs: Collection, mode: Any) -> None:
    retriever = Retriever(docs, mode=mode, limit=7)
    assert retriever.search(QUERY, diversity=0) == retriever.search(QUERY)
    assert retriever.explain(QUERY, diversity=0).request == retriever.explain(QUERY).request


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_with_diversity_hits_are_less_alike_and_the_first_stays(
    docs: Collection, mode: Any
) -> None:
    retriever = Retriever(docs, mode=mode, limit=8)
    for query in (QUERY, "walrus tusk", "peel a banana"):
        alike, diverse = (retriever.search(query, diversity=each) for each in (0.0, 1.0))
        assert likeness(alike) > likeness(diverse) + 0.02
        assert alike[0] == diverse[0]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_reranker_says_how_relevant_each_candidate_is(docs: Collection, mode: Any) -> None:
    def longest(query: str, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    candidates = sorted(
        Retriever(docs).search(QUERY, mode=mode, limit=15, prefetch_limit=15),
        key=lambda hit: -len(hit.text),
    )
    retriever = Retriever(docs, reranker=longest, mode=mode)
    hits = retriever.search(QUERY, limit=5, diversity=0.6, prefetch_limit=15)
    relevance = scaled([len(hit.text) for hit in candidates])
    assert sources(hits) == of(candidates, relevance, 0.6, 5)
    assert [hit.score for hit in hits] == [len(hit.text) for hit in hits]


def test_of_a_query_of_stop_words_hybrid_hits_are_chosen_among_the_dense(docs: Collection) -> None:
    candidates = Retriever(docs).search("the of and", mode="dense", limit=20)
    hits = Retriever(docs).search(
        "the of and", mode="hybrid", limit=5, diversity=0.5, prefetch_limit=20
    )
    relevance = scaled([hit.score for hit in candidates])
    assert sources(hits) == of(candidates, relevance, 0.5, 5)


def test_many_searches_are_each_diversified_as_alone(docs: Collection) -> None:
    queries = [QUERY, "walrus", "the of and", "ninety days"]
    for mode in ("dense", "hybrid"):
        retriever = Retriever(docs, mode=mode, limit=5, diversity=0.4)
        assert retriever.search_many(queries) == [retriever.search(each) for each in queries]


def test_a_threshold_and_a_filter_hold_for_what_is_chosen(docs: Collection) -> None:
    for mode in ("dense", "hybrid"):
        retriever = Retriever(docs, mode=mode, limit=5, diversity=1.0, filter={"year": 2001})
        hits = retriever.search(QUERY)
        assert {hit.metadata["year"] for hit in hits} == {2001}
        threshold = sorted(hit.score for hit in hits)[2]
        better = retriever.search(QUERY, score_threshold=threshold)
        assert better
        assert all(hit.score >= threshold for hit in better)


rankings = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=n, max_size=n),
        st.lists(st.integers(0, 10_000), min_size=n, max_size=n),
    )
)


def unit_vectors(seeds: Sequence[int]) -> Vectors:
    rows = np.stack([np.random.default_rng(seed).normal(size=4) for seed in seeds])
    vectors: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


@given(rankings, st.floats(0, 1), st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_whatever_the_scores_each_is_chosen_once_and_the_best_first(
    ranking: tuple[list[float], list[int]], diversity: float, limit: int
) -> None:
    scores, seeds = ranking
    best_first: NDArray[np.float64] = np.array(sorted(scores, reverse=True))
    vectors = unit_vectors(seeds)
    chosen = diversified(best_first, vectors, diversity=diversity, limit=limit)
    assert len(chosen) == len(set(chosen)) == min(limit, len(scores))
    assert chosen[0] == 0
    # It does not matter what the scores count, only how they lie.
    assert diversified(best_first * 4 + 64, vectors, diversity=1.0, limit=limit) == diversified(
        best_first, vectors, diversity=1.0, limit=limit
    )


def test_without_any_diversity_the_ranking_stays_as_it_is() -> None:
    scores, vectors = np.array([5.0, 4.0, 4.0, 1.0]), unit_vectors([1, 1, 2, 3])
    assert diversified(scores, vectors, diversity=0.0, limit=9) == [0, 1, 2, 3]


def test_with_diversity_alone_a_copy_comes_last() -> None:
    vectors = unit_vectors([1, 1, 2, 3])
    scores = np.array([9.0, 8.9, 1.0, 0.5])
    assert diversified(scores, vectors, diversity=1.0, limit=4)[-1] == 1
    assert diversified(scores, vectors, diversity=0.05, limit=4)[1] == 1
