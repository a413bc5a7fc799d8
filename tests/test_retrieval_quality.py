"""How well ragkit finds, against the same searches computed without it.

The judged set is SQuAD's development set as retrieval: a question, and the one paragraph that it
was written for. Paragraphs are indexed whole and without a title, and vectors are those that came
with the set, so that what is compared is the same. What is shared with ragkit are BM25's terms
and their weights in a paragraph (`Bm25Encoder`); how they are put together is computed here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from ragkit.chunks import Chunk
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever
from ragkit.schema import point_id
from ragkit.search_options import SearchKeywords
from ragkit.sparse import Bm25Encoder

DATA = Path(__file__).parents[2] / "shared" / "data" / "squad-dev"
pytestmark = pytest.mark.skipif(
    not DATA.exists(),
    reason="needs SQuAD as a judged set beside the project, in ../shared/data/squad-dev: "
    "corpus.jsonl, queries.jsonl, qrels.tsv and MiniLM's vectors of both",
)

CORPUS = "squad"
EVERY = 20  # so many questions to one that ragkit is asked
SIDES: Sequence[Literal["dense", "sparse"]] = ("dense", "sparse")
CANDIDATES = 50  # of each side of a hybrid search
# Of the same ranking but for equal scores and what quantization passes over; k = 10 and k = 60
# are 0.01 apart.
SAME = 0.003


@dataclass(frozen=True, slots=True, kw_only=True)
class Squad:
    """Paragraphs and questions with their vectors; question i asks for paragraph `wanted[i]`."""

    ids: Sequence[str]
    point_ids: Sequence[str]
    texts: Sequence[str]
    vectors: Vectors
    questions: Sequence[str]
    question_vectors: Vectors
    wanted: NDArray[np.int64]


class GivenVectors:
    """Embeds with the vectors that came with the set."""

    dim = 384
    max_tokens = 10_000
    fingerprint = "all-MiniLM-L6-v2 as given"

    def __init__(self, squad: Squad) -> None:
        self._documents = dict(zip(squad.texts, squad.vectors, strict=True))
        self._questions = dict(zip(squad.questions, squad.question_vectors, strict=True))

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        return np.stack([self._documents[text] for text in texts])

    def embed_query(self, text: str) -> Vectors:
        vector: Vectors = self.embed_queries([text])[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._questions[text] for text in texts])


@pytest.fixture(scope="module")
def squad() -> Squad:
    documents, questions = (
        [json.loads(line) for line in (DATA / name).read_bytes().splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    number = {document["id"]: i for i, document in enumerate(documents)}
    rows = (line.split("\t") for line in (DATA / "qrels.tsv").read_text("utf-8").splitlines())
    relevant = {question: number[document] for question, document, _ in rows}
    return Squad(
        ids=[*number],
        point_ids=[point_id(CORPUS, source, 0) for source in number],
        texts=[document["text"] for document in documents],
        vectors=np.load(DATA / "minilm_docs.f16.npy").astype(np.float32),
        questions=[question["text"] for question in questions],
        question_vectors=np.load(DATA / "minilm_queries.f16.npy").astype(np.float32),
        wanted=np.array([relevant[question["id"]] for question in questions]),
    )


@pytest.fixture(scope="module")
def docs(squad: Squad, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("squad")) as client:
        docs = Collection(client, "squad", embedder=GivenVectors(squad), chunker=whole)
        paragraphs = [
            Document(source=source, title="-", text=text)  # no term to BM25
            for source, text in zip(squad.ids, squad.texts, strict=True)
        ]
        report = Indexer(docs).add(paragraphs, corpus=CORPUS)
        assert (report.added, report.skipped) == (len(squad.ids), ())
        yield docs


def whole(document: Document) -> list[Chunk]:
    text, source = document.text, document.source
    return [Chunk(source=source, ordinal=0, text=text, start=0, end=len(text), title="-")]


@pytest.fixture(scope="module")
def by_words(squad: Squad, docs: Collection) -> NDArray[np.int64]:
    """BM25 without ragkit's store: each question's best paragraphs; shape (questions, 50)."""
    encoder = Bm25Encoder(avg_len=docs.manifest.avg_len)
    vectors = [encoder.encode_document(text) for text in squad.texts]
    terms = sorted({term for vector in vectors for term in vector.indices})
    row = {term: i for i, term in enumerate(terms)}
    weights = np.zeros((len(terms), len(vectors)), np.float32)
    for column, vector in enumerate(vectors):
        weights[[row[term] for term in vector.indices], column] = vector.values
    count = (weights > 0).sum(axis=1)
    weights *= np.log(1 + (len(vectors) - count + 0.5) / (count + 0.5))[:, None]
    asked = (encoder.encode_query(question).indices for question in squad.questions)
    return best(
        np.stack([weights[[row[t] for t in terms if t in row]].sum(axis=0) for terms in asked])
    )


@pytest.fixture(scope="module")
def by_meaning(squad: Squad) -> NDArray[np.int64]:
    """The paragraphs of the greatest cosine; shape (questions, 50)."""
    return best(squad.question_vectors @ squad.vectors.T)


def best(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    # Sorting some hundreds of each row takes a tenth of the time; more than that never tie.
    some = np.sort(np.argpartition(-scores, 8 * CANDIDATES, axis=1)[:, : 8 * CANDIDATES], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order[:, :CANDIDATES], axis=1)


def fused(
    squad: Squad,
    by_meaning: Sequence[int],
    by_words: Sequence[int],
    *,
    k: int,
    words: float = 1.0,
) -> list[int]:
    """Reciprocal rank fusion as Cormack et al. 2009 have it, but for a weight of words."""
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in ((by_meaning, 1.0), (by_words, words)):
        for rank, found in enumerate(ranking, 1):
            scores[found] += weight / (k + rank)
    # First in one ranking and second in the other is as good as the reverse: such ties are many,
    # and ragkit has them in the order of the points' ids.
    return sorted(scores, key=lambda found: (-scores[found], squad.point_ids[found]))


def mean_ndcg(rankings: Sequence[Sequence[int]], wanted: Sequence[int]) -> float:
    """Of one relevant paragraph nDCG@10 is 1 / log2(rank + 1)."""
    gains = [
        1 / np.log2(ranking.index(right) + 2) if right in ranking[:10] else 0.0
        for ranking, right in zip(rankings, wanted, strict=True)
    ]
    return float(np.mean(gains))


def found_by_ragkit(
    docs: Collection, squad: Squad, options: SearchKeywords, *, every: int = EVERY
) -> list[list[int]]:
    number = {source: i for i, source in enumerate(squad.ids)}
    found = Retriever(docs, **options).search_many(squad.questions[::every])
    return [[number[hit.source] for hit in hits] for hits in found]


@pytest.mark.parametrize(
    ("search", "reference"),
    [("words", 0.876), ("meaning", 0.773), ("k = 60", 0.859), ("k = 10", 0.868), ("1:3", 0.877)],
)
def test_what_ragkit_is_compared_with_agrees_with_what_others_measured(
    squad: Squad,
    by_words: NDArray[np.int64],
    by_meaning: NDArray[np.int64],
    search: str,
    reference: float,
) -> None:
    searches: dict[str, Callable[[list[int], list[int]], list[int]]] = {
        "words": lambda meaning, words: words,
        "meaning": lambda meaning, words: meaning,
        "k = 60": lambda meaning, words: fused(squad, meaning, words, k=60),
        "k = 10": lambda meaning, words: fused(squad, meaning, words, k=10),
        "1:3": lambda meaning, words: fused(squad, meaning, words, k=60, words=3.0),
    }
    pairs = zip(by_meaning.tolist(), by_words.tolist(), strict=True)
    rankings = [searches[search](*pair) for pair in pairs]
    assert mean_ndcg(rankings, squad.wanted.tolist()) == pytest.approx(reference, abs=0.01)


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_one_side_finds_what_it_should(
    docs: Collection,
    squad: Squad,
    by_words: NDArray[np.int64],
    by_meaning: NDArray[np.int64],
    mode: Literal["sparse", "dense"],
) -> None:
    expected = (by_words if mode == "sparse" else by_meaning)[::EVERY].tolist()
    found = found_by_ragkit(docs, squad, {"mode": mode})
    wanted = squad.wanted[::EVERY].tolist()
    assert mean_ndcg(found, wanted) == pytest.approx(mean_ndcg(expected, wanted), abs=SAME)
    same = [len({*hits} & {*ranking[:10]}) for hits, ranking in zip(found, expected, strict=True)]
    assert np.mean(same) >= 9.9


@pytest.mark.parametrize("k", [10, 60])
def test_both_sides_fused_find_what_they_should(
    docs: Collection,
    squad: Squad,
    by_words: NDArray[np.int64],
    by_meaning: NDArray[np.int64],
    k: int,
) -> None:
    pairs = zip(by_meaning[::EVERY].tolist(), by_words[::EVERY].tolist(), strict=True)
    # Qdrant counts ranks from 0: its k is one more than that of the paper.
    expected = [fused(squad, meaning, words, k=k - 1) for meaning, words in pairs]
    found = found_by_ragkit(docs, squad, {"mode": "hybrid", "rrf_k": k})
    wanted = squad.wanted[::EVERY].tolist()
    assert mean_ndcg(found, wanted) == pytest.approx(mean_ndcg(expected, wanted), abs=SAME)


@pytest.mark.parametrize(
    ("k", "weights"),
    [(10, {"dense": 1.0, "sparse": 3.0}), (10, {"dense": 0.2, "sparse": 0.1}),
     (1, {"dense": 1.0, "sparse": 3.0})],
)  # fmt: skip
def test_a_weight_divides_the_ranks_of_its_side(
    docs: Collection, squad: Squad, k: int, weights: dict[str, float]
) -> None:
    retriever = Retriever(docs, prefetch_limit=CANDIDATES, exact=True)
    compared = 0
    for question in squad.questions[:: 20 * EVERY]:
        meaning, words = (retriever.search(question, mode=mode, limit=CANDIDATES) for mode in SIDES)
        if len({hit.score for hit in words}) < len(words):
            continue  # which of equals comes first is the engine's choice within a hybrid search
        expected: dict[str, float] = defaultdict(float)
        for hits, weight in ((meaning, weights["dense"]), (words, weights["sparse"])):
            for rank, hit in enumerate(hits, 1):
                expected[hit.id] += 1 / (k - 1 + rank / weight)
        fused = retriever.search(question, mode="hybrid", rrf_k=k, weights=weights)
        best = sorted(expected.values(), reverse=True)[:10]
        assert [hit.score for hit in fused] == pytest.approx(best, rel=1e-4)
        assert [expected[hit.id] for hit in fused] == pytest.approx(best, rel=1e-4)
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_the_more_diversity_the_less_alike_are_the_hits(
    docs: Collection, squad: Squad, mode: Literal["dense", "hybrid"]
) -> None:
    found = [
        found_by_ragkit(docs, squad, {"mode": mode, "diversity": diversity}, every=10 * EVERY)
        for diversity in (0.0, 0.3, 0.7, 1.0)
    ]
    alike = [np.mean([mean_cosine(squad.vectors[hits]) for hits in each]) for each in found]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] - alike[-1] > 0.1
    first = [[hits[0] for hits in each] for each in found]
    assert all(hits == first[0] for hits in first)


def mean_cosine(vectors: Vectors) -> float:
    """Of all pairs."""
    count = len(vectors)
    return float((np.sum(vectors @ vectors.T) - count) / (count * (count - 1)))
