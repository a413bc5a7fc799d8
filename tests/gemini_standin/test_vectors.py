from __future__ import annotations

import numpy as np
import pytest
from gemini_server import GeminiServer

from gemini_standin.asking import (
    DOCUMENT,
    ONE,
    TWO,
    asked,
    batch_embed,
    cosine,
    vector,
    vectors,
)
from gemini_standin.vectors import MODELS


@pytest.mark.parametrize("dim", [128, 768, 3072])
@pytest.mark.parametrize("model", [ONE, TWO])
def test_the_passage_that_shares_words_with_the_query_comes_first(
    server: GeminiServer, model: str, dim: int
) -> None:
    passages = [
        "Keys are rotated every ninety days with the rotate command of the vault.",
        "Bread rises for two hours in a warm place before it is baked.",
        "The committee meets on the first Monday of each month.",
        "A backup of the database is made each night and kept for a week.",
    ]
    queries = [
        "how do I rotate the keys?",
        "how long does bread rise before it is baked?",
        "when does the committee meet each month?",
        "is a backup of the database made each night?",
    ]
    size = {"outputDimensionality": dim}
    if model == ONE:
        asks = [asked(text, model, taskType=DOCUMENT, **size) for text in passages]
        asks += [asked(text, model, taskType="RETRIEVAL_QUERY", **size) for text in queries]
    else:
        asks = [asked(f"title: none | text: {text}", model, **size) for text in passages]
        asks += [asked(f"task: search result | query: {t}", model, **size) for t in queries]
    found = vectors(server, *asks, model=model)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert (found[4:] @ found[:4].T).argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("model", "unit_dims"), [(ONE, {3072}), (TWO, {3072, 1536, 768, 128})])
@pytest.mark.parametrize("dim", [3072, 1536, 768, 128])
def test_vectors_have_unit_length_only_where_the_models_do(
    server: GeminiServer, model: str, dim: int, unit_dims: set[int]
) -> None:
    length = np.linalg.norm(vector(server, "some words here", model, outputDimensionality=dim))
    assert (abs(length - 1) < 1e-3) == (dim in unit_dims)


@pytest.mark.parametrize("model", [ONE, TWO])
def test_a_narrow_vector_is_the_beginning_of_the_full_one(server: GeminiServer, model: str) -> None:
    full = vector(server, "some words here", model)
    narrow = vector(server, "some words here", model, outputDimensionality=768)
    assert (full.shape, narrow.shape) == ((3072,), (768,))
    assert cosine(full[:768], narrow) > 0.9999
    assert model == TWO or np.array_equal(full[:768], narrow)


def test_the_first_model_is_conditioned_by_task_type_and_title(server: GeminiServer) -> None:
    made = [
        vector(server, "some words"),
        vector(server, "some words", taskType="RETRIEVAL_QUERY"),
        vector(server, "some words", taskType=DOCUMENT),
        vector(server, "some words", taskType=DOCUMENT, title="One"),
        vector(server, "some words", taskType=DOCUMENT, title="Two"),
    ]
    likeness = [cosine(made[i], made[j]) for i in range(5) for j in range(i)]
    assert max(likeness) < 0.999
    assert min(likeness) > 0.5


def test_the_second_model_ignores_task_type_and_title_and_reads_prefixes(
    server: GeminiServer,
) -> None:
    plain = vector(server, "some words", TWO)
    for fields in ({"taskType": DOCUMENT, "title": "One"}, {"taskType": "CLUSTERING"}):
        np.testing.assert_array_equal(vector(server, "some words", TWO, **fields), plain)
    made = [
        plain,
        vector(server, "task: search result | query: some words", TWO),
        vector(server, "task: code retrieval | query: some words", TWO),
        vector(server, "title: none | text: some words", TWO),
        vector(server, "title: One | text: some words", TWO),
    ]
    likeness = [cosine(made[i], made[j]) for i in range(5) for j in range(i)]
    assert max(likeness) < 0.999
    assert min(likeness) > 0.5


def test_the_models_vectors_have_nothing_to_do_with_each_other(server: GeminiServer) -> None:
    assert abs(cosine(vector(server, "some words"), vector(server, "some words", TWO))) < 0.2


@pytest.mark.parametrize("model", [ONE, TWO])
def test_what_lies_beyond_the_models_limit_is_silently_not_read(
    server: GeminiServer, model: str
) -> None:
    limit = MODELS[model].max_tokens
    text = " ".join(["word"] * (limit - 1))
    at_limit = vector(server, f"{text} apple", model)
    np.testing.assert_array_equal(vector(server, f"{text} apple pear", model), at_limit)
    assert not np.array_equal(vector(server, f"{text} pear", model), at_limit)
    _, reply = batch_embed(server, asked(f"{text} apple pear", model), model=model)
    assert reply["usageMetadata"]["promptTokenCount"] == limit


def test_a_title_takes_its_tokens_from_the_text(server: GeminiServer) -> None:
    text = " ".join(["word"] * 2047)
    fields = {"taskType": DOCUMENT, "title": "Two words"}
    np.testing.assert_array_equal(
        vector(server, f"{text} apple", **fields), vector(server, text, **fields)
    )


@pytest.mark.parametrize("text", ["!!!", " ", "\ud800", "日本語", "\x00"])
def test_every_text_that_is_not_empty_gets_a_finite_vector(server: GeminiServer, text: str) -> None:
    found = vector(server, text)
    assert np.isfinite(found).all()
    assert abs(np.linalg.norm(found) - 1) < 1e-3
