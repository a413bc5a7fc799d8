from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.embedders import embedder_of
from ragkit.embeddings import (
    AsyncQueryBatchEmbedder,
    Embedder,
    HashEmbedder,
    QueryBatchEmbedder,
    Vectors,
    aembed_queries,
    aembed_query,
    checked_vectors,
    embed_documents,
    embed_queries,
    embed_query,
    readdressed,
    unread_note,
)
from ragkit.errors import AuthError, EmbedderUnavailable, EmbeddingError, TextsRefused
from ragkit.tokens import estimate_tokens


class Answers:
    """An embedder that answers with whatever the test wants."""

    dim = 4
    max_tokens = 100
    fingerprint = "answers dim=4"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def embed_documents(self, texts: object, *, titles: object) -> object:
        return self.answer

    def embed_query(self, text: str) -> object:
        return self.answer


def test_hash_embedder_is_an_embedder() -> None:
    assert isinstance(HashEmbedder(), Embedder)


@settings(max_examples=50, deadline=None)
@given(text=st.text(min_size=1), dim=st.integers(8, 700))
def test_any_text_gives_a_finite_unit_vector(text: str, dim: int) -> None:
    vectors = HashEmbedder(dim=dim).embed_documents([text], titles=[""])
    assert vectors.shape == (1, dim)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0, abs=1e-5)


def test_texts_that_share_words_are_nearer_than_those_that_do_not() -> None:
    embedder = HashEmbedder()
    texts = ["Rotating API keys", "Ripe bananas are yellow", "The key was rotated"]
    scores = embedder.embed_documents(texts, titles=["", "", ""]) @ embedder.embed_query(
        "rotate keys"
    )
    assert scores[1] < 0.1 < min(scores[0], scores[2])


def test_a_title_moves_a_passage_towards_it() -> None:
    embedder = HashEmbedder()
    bare, titled = embedder.embed_documents(["Do it monthly."] * 2, titles=["", "Key rotation"])
    query = embedder.embed_query("key rotation")
    assert titled @ query > bare @ query + 0.2


def test_another_process_makes_the_same_vectors() -> None:
    program = (
        "from ragkit.embeddings import HashEmbedder;"
        "print(HashEmbedder(dim=64).embed_query('how do I rotate the keys?').tobytes().hex())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    here = HashEmbedder(dim=64).embed_query("how do I rotate the keys?").tobytes().hex()
    assert run.stdout.strip() == here


def test_signs_make_collisions_cancel_so_that_strangers_score_about_zero() -> None:
    embedder = HashEmbedder(dim=64)
    words = [f"w{n}x{n * 7}" for n in range(2000)]
    left = embedder.embed_documents([" ".join(words[i : i + 20]) for i in range(0, 1000, 20)],
                                    titles=[""] * 50)  # fmt: skip
    right = embedder.embed_documents(
        [" ".join(words[i : i + 20]) for i in range(1000, 2000, 20)], titles=[""] * 50
    )
    # Some n-grams are shared ("<w1"), so the mean is small, not nought; unsigned it is above 0.5.
    assert abs(float((left @ right.T).mean())) < 0.2


def test_no_texts_give_an_empty_matrix() -> None:
    assert HashEmbedder(dim=16).embed_documents([], titles=[]).shape == (0, 16)


def test_texts_and_titles_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        HashEmbedder().embed_documents(["a", "b"], titles=["t"])


def test_a_dimension_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8, got 0"):
        HashEmbedder(dim=0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones((1, 4)), r"shape \(2, 4\).*got \(1, 4\)"),
        (np.ones((2, 3)), r"got \(2, 3\)"),
        (np.ones((2, 4, 1)), r"got \(2, 4, 1\)"),
        ([[1, 2, 3, 4], [1, 2]], "expected"),
        (None, "expected"),
        ([["a", "b", "c", "d"]] * 2, "expected"),
        ([[1, 2, 3, 4], [1, 2, float("nan"), 4]], "NaN or infinity in text 1"),
        ([[1, 2, 3, float("inf")], [1, 2, 3, 4]], "NaN or infinity in text 0"),
        ([[1, 2, 3, 4], [0, 0, 0, 0]], "zeros in text 1"),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_what_came(answer: object, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message) as caught:
        embed_documents(Answers(answer), ["a", "b"], titles=["", ""])  # type: ignore[arg-type]
    assert "answers dim=4" in str(caught.value)


def test_vectors_are_scaled_to_unit_length_even_when_tiny_or_huge() -> None:
    matrix = np.array([[1e-30, 0, 0, 1e-30], [1e30, 1e30, 0, 0], [3, 4, 0, 0]], np.float32)
    vectors = checked_vectors(matrix, shape=(3, 4), origin="test")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(vectors[2], [0.6, 0.8, 0, 0], rtol=1e-6)


def test_a_wrong_query_vector_is_an_error() -> None:
    with pytest.raises(EmbeddingError, match="got"):
        embed_query(Answers(np.ones(5)), "q")  # type: ignore[arg-type]


@pytest.mark.parametrize("blank", ["", "  \n\t"])
def test_a_blank_query_is_refused_before_it_is_embedded(blank: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        embed_query(HashEmbedder(), blank)


class Short(HashEmbedder):
    """Reads a hundred tokens, and counts what it is asked."""

    max_tokens = 100

    def __init__(self) -> None:
        super().__init__(16)
        self.calls: list[list[str]] = []

    def embed_query(self, text: str) -> Vectors:
        self.calls.append([text])
        return 3 * super().embed_query(text)


class InOneCall(Short):
    """Embeds many queries in one call, with and without blocking."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return np.stack([3 * HashEmbedder.embed_query(self, text) for text in texts])

    async def aembed_query(self, text: str) -> Vectors:
        return self.embed_query(text)

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.embed_queries(texts)


def awaited(embedder: AsyncQueryBatchEmbedder, texts: Sequence[str]) -> Vectors:
    return asyncio.run(aembed_queries(embedder, texts))


def test_many_queries_are_one_call_of_an_embedder_that_can_and_else_one_each() -> None:
    singly, at_once, on_loop = Short(), InOneCall(), InOneCall()
    assert not isinstance(singly, QueryBatchEmbedder)
    assert isinstance(at_once, AsyncQueryBatchEmbedder)
    found = [
        embed_queries(singly, ["a b", "c"]),
        embed_queries(at_once, ["a b", "c"]),
        awaited(on_loop, ["a b", "c"]),
    ]
    assert (singly.calls, at_once.calls, on_loop.calls) == (
        [["a b"], ["c"]],
        [["a b", "c"]],
        [["a b", "c"]],
    )
    plain = np.stack([HashEmbedder(16).embed_query(text) for text in ("a b", "c")])
    for vectors in found:
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, plain, rtol=1e-6)


def test_no_queries_ask_for_nothing() -> None:
    embedder = InOneCall()
    assert embed_queries(embedder, []).shape == awaited(embedder, []).shape == (0, 16)
    assert embedder.calls == []


class AnswersMany(Answers):
    def embed_queries(self, texts: object) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones((1, 4)), r"shape \(2, 4\).*got \(1, 4\)"),
        (np.full((2, 4), np.nan), "NaN or infinity in text 0, 1"),
        (None, "expected"),
    ],
)
def test_a_wrong_answer_to_many_queries_is_an_error(answer: object, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        embed_queries(AnswersMany(answer), ["a", "b"])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Short, InOneCall])
def test_a_blank_query_among_many_is_named_before_any_is_embedded(kind: type[Short]) -> None:
    embedder = kind()
    with pytest.raises(ValueError, match="query 2: expected a query with words in it"):
        embed_queries(embedder, ["a", "b", " \n", "c"])
    assert embedder.calls == []


LONG = "word " * 20_000  # 100,000 characters


def test_a_query_far_longer_than_what_the_model_reads_is_refused_before_it_is_embedded() -> None:
    embedder = InOneCall()
    message = (
        r"^expected a query of at most 200 tokens for hash-v1 dim=16, got about 22,500 "
        r'\(100,000 characters\): search with a part of it, or .* mode="sparse"$'
    )
    with pytest.raises(ValueError, match=message):
        embed_query(embedder, LONG)
    with pytest.raises(ValueError, match=message):
        asyncio.run(aembed_query(embedder, LONG))
    for embed in (embed_queries, awaited):
        with pytest.raises(ValueError, match=r"^query 1: expected a query of at most 200 tokens"):
            embed(embedder, ["a", LONG])
    assert embedder.calls == []


def test_a_query_is_not_refused_for_an_estimate_that_may_be_too_high() -> None:
    embedder, query = Short(), "word " * 150
    assert 100 < estimate_tokens(query) < 200
    assert embed_query(embedder, query).shape == (16,)
    assert unread_note(embedder, query) == (
        "the query has about 169 tokens, and the embedder reads about 100: what comes after may "
        "not have counted for its vector"
    )
    assert unread_note(embedder, "word") is None


def test_an_embedder_that_reads_a_long_query_gets_it() -> None:
    assert embed_query(HashEmbedder(16), LONG).shape == (16,)


class Choosy(Short):
    """Refuses what is bad, and stops at what is worse."""

    def embed_query(self, text: str) -> Vectors:
        if "bad" in text:
            raise TextsRefused("no", failed={0: "it is bad"})
        if "worse" in text:
            raise AuthError("no key")
        return super().embed_query(text)


def test_each_refused_query_is_named_by_its_place_and_the_others_are_embedded() -> None:
    with pytest.raises(TextsRefused, match=r"2 of 4 texts .*; text 1: it is bad") as caught:
        embed_queries(Choosy(), ["a", "bad", "c", "bad too"])
    assert caught.value.failed == {1: "it is bad", 3: "it is bad"}
    for index, text in ((0, "a"), (2, "c")):
        plain = HashEmbedder(16).embed_query(text)
        np.testing.assert_allclose(caught.value.vectors.pop(index), plain, rtol=1e-6)
    assert caught.value.vectors == {}


def test_an_embedder_that_gives_up_hands_over_what_it_has_done() -> None:
    embedder = Choosy()
    with pytest.raises(AuthError) as caught:
        embed_queries(embedder, ["a", "bad", "worse", "d"])
    assert caught.value.failed == {1: "it is bad"}
    assert list(caught.value.vectors) == [0]
    assert embedder.calls == [["a"]]


@pytest.mark.parametrize("kind", [TextsRefused, EmbedderUnavailable, AuthError])
def test_an_error_of_a_part_gets_the_places_of_the_whole(
    kind: type[TextsRefused | EmbedderUnavailable],
) -> None:
    one, two = np.eye(2, dtype=np.float32)
    error = kind("text 0: no", failed={0: "no"}, vectors={1: one})
    whole = readdressed(error, keys="kxykx", asked="xy", known={"k": two})
    assert type(whole) is kind
    assert whole.failed == {1: "no", 4: "no"}
    assert {i: v.tolist() for i, v in whole.vectors.items()} == {
        0: [0, 1],
        2: [1, 0],
        3: [0, 1],
    }
    assert ("2 of 5 texts" in str(whole)) == (kind is TextsRefused)


def test_a_fingerprint_names_the_embedder_that_has_it() -> None:
    embedder = HashEmbedder(dim=96)
    again = embedder_of(embedder.fingerprint)
    assert again is not None
    assert (again.dim, again.fingerprint) == (96, embedder.fingerprint)
    assert embedder_of("somebody-elses dim=3") is None
    assert embedder_of(None) is None
