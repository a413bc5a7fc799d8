"""What each option does to a search, on every store, against computations of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

import numpy as np
import pytest
import searching
from qdrant_client.client_base import QdrantBase
from searching import DOCUMENTS, EMBEDDER, STORES

from ragkit.chunks import Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.embeddings import HashEmbedder, Vectors
from ragkit.errors import CollectionMismatch
from ragkit.hits import Hit
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.search_options import Mode

QUERY = "rotate the yellow key number7"
MODES: tuple[Mode, ...] = get_args(Mode)
ALL = len(DOCUMENTS)


@pytest.fixture(scope="module", params=STORES)
def kept(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with searching.store(request) as client:
        docs = Collection(client, "modes", embedder=EMBEDDER, quantization="none")
        Indexer(docs).add(DOCUMENTS)
        yield docs


@pytest.fixture
def docs(kept: Collection) -> Collection:
    """A collection that no test changes, as if it had just been opened."""
    kept.open()
    return kept


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def ranked(docs: Collection, mode: Mode, query: str = QUERY, **options: Any) -> list[Hit]:
    """All that a mode ranks."""
    return Retriever(docs).search(query, mode=mode, **{"limit": ALL, **options})


def sides(docs: Collection, query: str = QUERY) -> dict[str, dict[str, float]]:
    """What each side alone makes of all documents: scores by id, best first."""
    return {
        side: {hit.id: hit.score for hit in ranked(docs, side, query)}
        for side in ("dense", "sparse")
    }


def test_dense_ranks_by_the_cosine_with_the_query(docs: Collection) -> None:
    vectors = EMBEDDER.embed_documents(
        [each.text for each in DOCUMENTS], titles=[each.title for each in DOCUMENTS]
    )
    cosines = vectors @ EMBEDDER.embed_query(QUERY)
    hits = ranked(docs, "dense")
    assert [hit.source for hit in hits] == [DOCUMENTS[i].source for i in np.argsort(-cosines)]
    assert [hit.score for hit in hits] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)


def test_a_vector_given_stands_for_the_query_in_whatever_form_it_comes(docs: Collection) -> None:
    vector = EMBEDDER.embed_query(QUERY)
    retriever = Retriever(docs)
    for mode in ("dense", "hybrid"):
        expected = retriever.search(QUERY, mode=mode)
        for same in (vector, vector.tolist(), vector.astype(np.float64), tuple(7 * vector)):
            hits = retriever.search(QUERY, vector=same, mode=mode)
            assert ids(hits) == ids(expected)
            assert [each.score for each in hits] == pytest.approx(
                [each.score for each in expected], abs=1e-6
            )


def test_by_words_a_vector_given_counts_for_nothing(docs: Collection) -> None:
    hits = Retriever(docs).search(QUERY, vector=EMBEDDER.embed_query("sea"), mode="sparse")
    assert hits == Retriever(docs).search(QUERY, mode="sparse")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(32), "expected query vectors of 64 dimensions.*got 32"),
        ([], "expected finite vectors"),
        (np.ones((1, 64)), r"expected a vector of shape \(dim,\), got \(1, 64\)"),
        (1.0, r"expected a vector of shape \(dim,\), got \(\)"),
        (np.zeros(64), "not all zeros"),
        ([np.nan] * 64, "expected finite vectors"),
        ([1e300] * 64, "expected finite vectors"),
        ([None] * 64, "expected finite vectors"),
        (["a"] * 64, "expected vectors of numbers"),
        ([[1.0], [1.0, 2.0]], "expected vectors of numbers"),
    ],
)
def test_what_is_no_vector_of_the_collection_is_refused(
    docs: Collection, vector: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Retriever(docs).search(QUERY, vector=vector)


def test_with_a_vector_given_no_embedder_is_needed(docs: Collection) -> None:
    without, vector = Collection(docs.client, "modes"), EMBEDDER.embed_query(QUERY)
    for mode in (*MODES, None):
        hits = Retriever(without).search(QUERY, vector=vector, mode=mode, diversity=0.0)
        assert ids(hits) == ids(Retriever(docs).search(QUERY, mode=mode))
    hits = Retriever(without).search(QUERY, vector=vector, diversity=0.4)
    assert ids(hits) == ids(Retriever(docs).search(QUERY, diversity=0.4))


@pytest.mark.parametrize("k", [1, 10, 60])
@pytest.mark.parametrize("weights", [None, (1, 1), (1, 3), (2, 0.5), (1, 0), (0, 1)])
def test_ranks_are_fused_as_reciprocals_of_rank_over_weight(
    docs: Collection, k: int, weights: tuple[float, float] | None
) -> None:
    expected: dict[str, float] = {}
    for scores, weight in zip(sides(docs).values(), weights or (1, 1), strict=True):
        for rank, each in enumerate(scores, 1):
            share = 1 / (rank / weight + k - 1) if weight else 0
            expected[each] = expected.get(each, 0) + share
    said = None if weights is None else dict(zip(("dense", "sparse"), weights, strict=True))
    hits = ranked(docs, "hybrid", rrf_k=k, weights=said)
    assert len(hits) == ALL
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-6)
    best_first = sorted(expected.values(), reverse=True)
    assert [hit.score for hit in hits] == pytest.approx(best_first, abs=1e-6)


def test_scores_are_fused_by_mean_and_spread(docs: Collection) -> None:
    expected: dict[str, float] = {}
    for scores in sides(docs).values():
        values = np.array(list(scores.values()))
        low, width = values.mean() - 3 * values.std(ddof=1), 6 * values.std(ddof=1)
        for each, score in scores.items():
            expected[each] = expected.get(each, 0) + (score - low) / width
    hits = ranked(docs, "hybrid", fusion="dbsf")
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-4)


def test_of_a_query_of_stop_words_meaning_alone_is_left_whatever_the_fusion(
    docs: Collection,
) -> None:
    expected = ranked(docs, "dense", "the of and")
    for options in (
        {},
        {"weights": {"dense": 0.5, "sparse": 3}},
        {"weights": {"dense": 0, "sparse": 1}},
        {"fusion": "dbsf"},
    ):
        assert ranked(docs, "hybrid", "the of and", **options) == expected
    assert ranked(docs, "sparse", "the of and") == []


@pytest.mark.parametrize("options", [{}, {"fusion": "dbsf"}, {"prefetch_limit": 9}])
def test_what_is_fused_comes_once_and_in_the_same_order_fifty_times(
    docs: Collection, options: dict[str, Any]
) -> None:
    retriever = Retriever(docs, mode="hybrid", limit=9, **options)
    first = ids(retriever.search(QUERY))
    assert len(set(first)) == 9
    for _ in range(9):
        assert all(ids(each) == first for each in retriever.search_many([QUERY] * 5))
        assert ids(retriever.search(QUERY)) == first


@pytest.mark.parametrize("mode", MODES)
def test_a_threshold_leaves_out_what_scores_lower_and_nothing_else(
    docs: Collection, mode: Mode
) -> None:
    hits = ranked(docs, mode)
    threshold = (hits[3].score + hits[12].score) / 2
    better = [hit.id for hit in hits if hit.score > threshold]
    assert 3 < len(better) < 13
    assert ids(ranked(docs, mode, score_threshold=threshold)) == better
    assert ranked(docs, mode, score_threshold=hits[0].score + 1) == []
    assert ids(ranked(docs, mode, score_threshold=-100)) == ids(hits)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_filter_lets_through_is_found_from_the_very_end_of_the_ranking(
    docs: Collection, mode: Mode
) -> None:
    last = [hit.source for hit in ranked(docs, mode)[-3:]]
    hits = ranked(docs, mode, filter={"source": last}, limit=3, prefetch_limit=3)
    assert sorted(hit.source for hit in hits) == sorted(last)


@pytest.mark.parametrize(
    "given",
    [{"lang": "*e*"}, {"lang": "d*"}, {"tags": "*0"}, {"tags": ["*0", "u1"]}, {"lang": "x*y"}],
)
def test_a_pattern_is_compared_with_keys_that_have_no_index_too(
    docs: Collection, given: dict[str, Any]
) -> None:
    ((key, wanted),) = given.items()
    patterns = [wanted] if isinstance(wanted, str) else wanted

    def matches(document: Document) -> bool:
        held = document.metadata[key]
        values = [held] if isinstance(held, str) else held
        return any(fnmatchcase(value, pattern) for pattern in patterns for value in values)

    expected = {each.source for each in DOCUMENTS if matches(each)}
    assert {hit.source for hit in ranked(docs, "dense", filter=given)} == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one key"),
        ({"year": {"above": 2000}}, "expected operators"),
        ({"year": {1, 2}.__iter__}, "expected"),
        ({7: "x"}, "keys that are non-empty strings"),
        ({"year": np.array([[1]])}, "expected"),
    ],
)
def test_a_filter_that_says_nothing_is_refused(docs: Collection, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retriever(docs).search(QUERY, filter=given)


def test_a_filter_on_a_field_that_is_nowhere_finds_nothing(docs: Collection) -> None:
    assert ranked(docs, "hybrid", filter={"no_such_field": "x"}) == []
    assert len(ranked(docs, "hybrid", filter={"no_such_field": None})) == ALL


def grouped(
    hits: Sequence[Hit], key: Callable[[Hit], Sequence[Any]], limit: int, size: int
) -> list[tuple[Any, str]]:
    """The groups of a whole ranking."""
    groups: dict[Any, list[str]] = {}
    for hit in hits:
        for value in key(hit):
            groups.setdefault(value, []).append(hit.id)
    first = itertools.islice(groups.items(), limit)
    return [(value, each) for value, found in first for each in found[:size]]


KEYS: Mapping[str, Callable[[Hit], Sequence[Any]]] = {
    "source": lambda hit: [hit.source],
    "metadata.year": lambda hit: [hit.metadata["year"]],
    "metadata.tags": lambda hit: hit.metadata["tags"],
    "chunk_count": lambda hit: [1],
    "metadata.absent": lambda hit: [],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("limit", "size"), [(2, 1), (3, 4), (10, 2)])
def test_groups_are_those_of_the_whole_ranking(
    docs: Collection, mode: Mode, key: str, limit: int, size: int
) -> None:
    expected = grouped(ranked(docs, mode), KEYS[key], limit, size)
    hits = ranked(docs, mode, group_by=key, group_size=size, limit=limit, prefetch_limit=ALL)
    assert [(hit.group, hit.id) for hit in hits] == expected
    # Each point is in both of its groups.
    assert len(set(ids(hits))) == len(hits) or key == "metadata.tags"


@pytest.mark.parametrize("mode", [*MODES, None])
def test_one_long_document_does_not_keep_others_from_being_groups(
    docs: Collection, mode: Mode | None
) -> None:
    long = Collection(
        docs.client, "long", embedder=EMBEDDER, chunker=Chunker(max_tokens=20, overlap=0)
    )
    full = Document(source="long.md", title="rotate", text="rotate the yellow lock. " * 300)
    others = [
        Document(source=f"{n}.md", title="sea", text=f"Ice {n}. A lock may rotate.")
        for n in range(9)
    ]
    Indexer(long).add([full, *others])
    hits = Retriever(long, mode=mode).search("rotate the lock", group_by="source", limit=6)
    assert hits[0].source == "long.md"
    assert len({hit.source for hit in hits}) == 6


def test_a_key_to_group_by_is_one_as_in_a_filter(docs: Collection) -> None:
    options: dict[str, Any] = {"group_size": 2, "limit": 3}
    hits = Retriever(docs).search(QUERY, group_by="year", **options)
    assert hits == Retriever(docs).search(QUERY, group_by="metadata.year", **options)
    assert len(hits) == 6
    embedder = Counting()
    counted = Retriever(Collection(docs.client, "modes", embedder=embedder))
    for wrong in ("a..b", "a[", "[]", 'metadata."x'):
        with pytest.raises(ValueError, match=r"group_by: expected a key such as"):
            counted.search(QUERY, group_by=wrong)
    assert embedder.calls == 0


def test_a_budget_for_no_passage_is_refused_before_the_query_is_paid_for(docs: Collection) -> None:
    embedder = Counting()
    counted = Retriever(Collection(docs.client, "modes", embedder=embedder))
    for budget in (0, -5, 7, float("nan")):
        with pytest.raises(ValueError, match="expected a token_budget of at least"):
            counted.passages(QUERY, token_budget=budget)  # type: ignore[arg-type]
    assert embedder.calls == 0


class Counting(HashEmbedder):
    """Counts what it is paid for."""

    def __init__(self) -> None:
        super().__init__(64)
        self.calls = 0

    def embed_query(self, text: str) -> Vectors:
        self.calls += 1
        return super().embed_query(text)


def backwards(query: str, texts: list[str]) -> list[float]:
    """Puts the longest text first."""
    return [float(len(text)) for text in texts]


@pytest.mark.parametrize("mode", MODES)
def test_a_reranker_orders_groups_and_what_is_in_them(docs: Collection, mode: Mode) -> None:
    retriever = Retriever(docs, reranker=backwards, mode=mode)
    options: dict[str, Any] = {"group_by": "metadata.year", "group_size": 3, "limit": 2}
    hits = retriever.search(QUERY, **options)
    # The candidates are all four groups, three of each, of which the reranker's best two are left.
    candidates = ranked(docs, mode, group_by="metadata.year", group_size=3)
    candidates.sort(key=lambda hit: -len(hit.text))
    assert [(hit.group, hit.id) for hit in hits] == grouped(candidates, KEYS["metadata.year"], 2, 3)
    assert [hit.score for hit in hits] == [len(hit.text) for hit in hits]


@pytest.mark.parametrize("mode", MODES)
def test_a_reranker_chooses_among_the_candidates_of_the_first_ranking(
    docs: Collection, mode: Mode
) -> None:
    best = ranked(docs, mode, limit=12)
    expected = sorted(best, key=lambda hit: -len(hit.text))[:4]
    retriever = Retriever(docs, reranker=backwards, mode=mode)
    assert ids(retriever.search(QUERY, limit=4, prefetch_limit=12)) == ids(expected)


def broken(query: str, texts: list[str]) -> list[float]:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("reranker", "reason"),
    [
        (broken, "RuntimeError: out of memory"),
        (lambda query, texts: [1.0], "expected scores of shape"),
        (lambda query, texts: np.ones((len(texts), 1)), "expected scores of shape"),
        (lambda query, texts: [np.nan] * len(texts), "expected finite scores"),
        (lambda query, texts: None, "reranker failed"),
        (lambda query, texts: texts.clear() or [], "expected scores of shape"),
    ],
)
def test_after_a_reranker_that_fails_the_first_ranking_holds_with_every_option(
    docs: Collection, reranker: Any, reason: str
) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"mode": "sparse"},
        {"group_by": "metadata.year", "group_size": 2},
        {"context": 1},
        {"mode": "hybrid", "diversity": 0.5},
    ]
    for each in options:
        hits = Retriever(docs, reranker=reranker, limit=3).search(QUERY, **each)
        expected = Retriever(docs, limit=3).search(QUERY, **each)
        assert ids(hits) == ids(expected)
        assert reason in hits.notes[0]


@pytest.mark.parametrize("said", [{"rescore": True}, {"oversampling": 2.0}])
def test_to_rescore_what_is_not_quantized_is_refused_to_those_who_ask(
    docs: Collection, said: dict[str, Any]
) -> None:
    (name,) = said
    for ask in (
        lambda: Retriever(docs, **said).search(QUERY),
        lambda: Retriever(docs).search(QUERY, mode="dense", **said),
        lambda: Retriever(docs).search_many([QUERY], **said),
        lambda: Retriever(docs).explain(QUERY, **said),
    ):
        with pytest.raises(CollectionMismatch, match=f"{name} goes with .*set_quantization"):
            ask()
    # By words there is nothing to rescore, and a collection's own options are nobody's mistake.
    assert Retriever(docs, **said).search(QUERY, mode="sparse")
    docs.set_search_defaults(**said)
    try:
        assert Retriever(docs).search(QUERY)
    finally:
        docs.set_search_defaults()


def test_a_limit_of_ten_thousand_is_answered_with_every_option(docs: Collection) -> None:
    options: list[dict[str, Any]] = [
        *({"mode": mode} for mode in MODES),
        {"mode": "dense", "diversity": 0.5},
        {"mode": "hybrid", "diversity": 0.5},
        {"group_by": "source", "group_size": 1_000},
        {"context": 1},
        {"prefetch_limit": 100_000},
        {"mode": "dense", "diversity": 0.5, "prefetch_limit": 100_000},
    ]
    for each in options:
        assert len(Retriever(docs).search(QUERY, limit=10_000, **each)) == ALL


QUERIES = [
    "日本語の質問",
    "مفتاح الباب",
    "🔑🚪",
    "\u200b",
    "\u200b\u200d",
    "a\0b",
    "{0} %s $x [red]",
    "'",
]


@pytest.mark.parametrize("mode", MODES)
def test_whatever_the_query_is_written_in_it_is_answered(docs: Collection, mode: Mode) -> None:
    for query in [*QUERIES, "key " * 25_000, "x" * 100_000]:
        hits = Retriever(docs).search(query, mode=mode)
        assert len(hits) == 10 if mode != "sparse" else len(hits) <= 10
    for query in ("", " \t\n", "\u3000"):
        with pytest.raises(ValueError, match="blank"):
            Retriever(docs).search(query, mode=mode)
    with pytest.raises(ValueError, match="not UTF-8"):
        Retriever(docs).search("key \ud83d", mode=mode)
    for wrong in (None, 7, b"key", ["key"]):
        with pytest.raises(TypeError, match="expected a query in words"):
            Retriever(docs).search(wrong, mode=mode)  # type: ignore[arg-type]


def test_an_empty_collection_is_searched_and_nothing_found(client: QdrantBase) -> None:
    empty = Collection(client, "empty", embedder=EMBEDDER)
    empty.create(avg_len=5.0)
    options: list[dict[str, Any]] = [
        *({"mode": mode} for mode in MODES),
        {"diversity": 0.5},
        {"mode": "dense", "diversity": 0.5},
        {"group_by": "source"},
        {"context": 2},
        {"filter": {"source": "*x*"}},
        {"fusion": "dbsf"},
    ]
    retriever = Retriever(empty, reranker=backwards)
    for each in options:
        assert retriever.search(QUERY, **each) == Retriever(empty).search(QUERY, **each) == []
        assert retriever.explain(QUERY, **each).hits == []
        assert retriever.passages(QUERY, token_budget=500, **each) == []


def test_a_keyword_collection_has_nothing_to_compare_a_vector_with(client: QdrantBase) -> None:
    words = Collection(client, "words")
    Indexer(words).add(DOCUMENTS[:3])
    vector = EMBEDDER.embed_query(QUERY)
    with pytest.raises(CollectionMismatch, match="no dense vectors 'dense' to compare"):
        Retriever(words).search("walrus", vector=vector)
    found = Retriever(words).search("number2", vector=vector, mode="sparse")
    assert [hit.source for hit in found] == ["02.md"]
