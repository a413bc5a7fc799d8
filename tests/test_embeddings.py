from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.embedders import embedder_of
from ragkit.embeddings import (
    Embedder,
    HashEmbedder,
    checked_vectors,
    embed_documents,
    embed_query,
)
from ragkit.errors import EmbeddingError


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


def test_a_fingerprint_names_the_embedder_that_has_it() -> None:
    embedder = HashEmbedder(dim=96)
    again = embedder_of(embedder.fingerprint)
    assert again is not None
    assert (again.dim, again.fingerprint) == (96, embedder.fingerprint)
    assert embedder_of("somebody-elses dim=3") is None
    assert embedder_of(None) is None
