"""What is taken for true of the live service; run with RAGKIT_LIVE_GEMINI=1 and a key (-s prints).

Costs well under a cent. Each test states a fact that the code relies on and that only the live
service can prove; one that fails is news, not necessarily a fault of the code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from ragkit.errors import AuthError, ModelNotFound
from ragkit.gemini.embedder import GeminiEmbedder

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        os.environ.get("RAGKIT_LIVE_GEMINI") != "1",
        reason="calls the live service: RAGKIT_LIVE_GEMINI=1 GEMINI_API_KEY=... pytest -m live -s",
    ),
]

TEXT = "We rotate the keys of applications every 90 days."


@pytest.fixture(params=["gemini-embedding-001", "gemini-embedding-2"])
def embedder(request: pytest.FixtureRequest) -> Iterator[GeminiEmbedder]:
    with GeminiEmbedder(request.param, dim=768) as embedder:
        yield embedder


def held(fact: str, *numbers: float) -> None:
    print(f"\nheld: {fact}", *(f"{number:.4f}" for number in numbers))


def test_each_text_of_one_call_takes_its_own_title(embedder: GeminiEmbedder) -> None:
    one, two, one_again = embedder.embed_documents(
        [TEXT, TEXT, TEXT], titles=["Key rotation", "Bananas", "Key rotation"]
    )
    (alone,) = embedder.embed_documents([TEXT], titles=["Key rotation"])
    assert one @ one_again > 0.9999
    assert one @ alone > 0.999
    assert one @ two < 0.999
    held(f"{embedder.model}: titles per text in one call are taken", float(one @ two))


def test_documents_and_queries_are_embedded_differently(embedder: GeminiEmbedder) -> None:
    (document,) = embedder.embed_documents([TEXT], titles=[""])
    query = embedder.embed_query(TEXT)
    assert document @ query < 0.9999
    held(f"{embedder.model}: the query side differs", float(document @ query))


def test_a_query_finds_its_passage(embedder: GeminiEmbedder) -> None:
    passages = embedder.embed_documents([TEXT, "Bananas are yellow."], titles=["Keys", "Fruit"])
    scores = passages @ embedder.embed_query("how often are API keys changed?")
    assert scores[0] > scores[1]
    held(f"{embedder.model}: the right passage is nearer", *map(float, scores))


def test_a_shorter_vector_is_the_beginning_of_a_longer_one(embedder: GeminiEmbedder) -> None:
    with GeminiEmbedder(embedder.model, dim=3072) as full:
        (long,) = full.embed_documents([TEXT], titles=["Keys"])
    (short,) = embedder.embed_documents([TEXT], titles=["Keys"])
    cut = long[:768] / np.linalg.norm(long[:768])
    assert cut @ short > 0.999
    held(f"{embedder.model}: 768 dimensions are the first of 3072", float(cut @ short))


def test_order_and_number_hold_over_several_calls(embedder: GeminiEmbedder) -> None:
    texts = [f"Note {n} is about the number {n * 7}." for n in range(130)]
    vectors = embedder.embed_documents(texts, titles=[""] * len(texts))
    for n in (0, 99, 100, 129):
        (alone,) = embedder.embed_documents([texts[n]], titles=[""])
        assert vectors[n] @ alone > 0.999
    held(f"{embedder.model}: 130 texts come back in order")


def test_replies_say_what_is_billed(embedder: GeminiEmbedder) -> None:
    embedder.embed_documents([TEXT], titles=["Keys"])
    usage = embedder.usage
    assert usage.billed_tokens is not None
    # The words that gemini-embedding-2 wants around a text are not in the estimate.
    assert 5 < usage.billed_tokens <= usage.estimated_tokens + 12
    held("the estimate is not below what is billed", usage.billed_tokens, usage.estimated_tokens)


def test_a_bad_key_is_an_auth_error() -> None:
    with GeminiEmbedder(api_key="AIzaNotAKey-canary") as wrong, pytest.raises(AuthError) as caught:
        wrong.embed_query("keys")
    assert "canary" not in str(caught.value)
    held("a bad key is recognised")


def test_an_unknown_model_is_named() -> None:
    with pytest.warns(UserWarning, match="gemini-no-such-1"):
        wrong = GeminiEmbedder("gemini-no-such-1")
    with wrong, pytest.raises(ModelNotFound, match="gemini-no-such-1"):
        wrong.embed_query("keys")
    held("an unknown model is recognised")
