from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gemini_server import GeminiServer
from google import genai
from google.genai import errors, types

from gemini_standin.asking import (
    DOCUMENT,
    ONE,
    TWO,
    asked,
    batch_embed,
    embedded,
    send,
    vector,
)


def test_nulls_are_fields_that_are_not_there(server: GeminiServer) -> None:
    assert batch_embed(server, asked("a", title=None)) == batch_embed(server, asked("a"))


def test_one_text_alone_can_be_asked_for_without_naming_the_model_twice(
    server: GeminiServer,
) -> None:
    body = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 768}
    status, reply, _ = send(server, "POST", f"/v1beta/models/{ONE}:embedContent", body)
    assert status == 200
    assert reply["usageMetadata"] == {"promptTokenCount": 1}
    expected = vector(server, "a", outputDimensionality=768)
    np.testing.assert_array_equal(reply["embedding"]["values"], expected)
    assert server.calls[0].texts == ["a"]


def test_the_tokens_of_texts_and_titles_are_billed(server: GeminiServer) -> None:
    titled = asked("red apples", taskType=DOCUMENT, title="Fruit")
    _, reply = batch_embed(server, titled, asked("blue sky"))
    assert reply["usageMetadata"] == {"promptTokenCount": 5}


def test_texts_that_the_sdk_merges_into_one_content_get_one_vector(
    server: GeminiServer, client: genai.Client
) -> None:
    reply = client.models.embed_content(model=TWO, contents=["first text", "second text"])
    assert reply.embeddings is not None
    assert len(reply.embeddings) == 1
    assert server.calls[0].texts == ["first text second text"]


def test_titles_of_their_own_can_be_put_into_one_call_with_extra_body(
    server: GeminiServer, client: genai.Client
) -> None:
    requests = [asked("a", taskType=DOCUMENT, title=title) for title in ("One", "Two")]
    options = types.HttpOptions(extra_body={"requests": requests})
    contents: Any = [types.Content(parts=[types.Part(text="a")])] * 2
    client.models.embed_content(
        model=ONE, contents=contents, config=types.EmbedContentConfig(http_options=options)
    )
    assert [request["title"] for request in server.calls[0].requests] == ["One", "Two"]


def test_a_full_reply_is_as_large_as_the_real_one(server: GeminiServer) -> None:
    target = f"/v1/models/{ONE}:batchEmbedContents"
    body = json.dumps({"requests": [asked("a")] * 100}).encode()
    _, _, headers = send(server, "POST", target, body)
    assert 6_600_000 < int(headers["content-length"]) < 7_000_000


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        pytest.param(asked(""), "contains an empty Part", id="empty text"),
        pytest.param({**asked("a"), "content": {"parts": []}}, "contains an empty Part", id="none"),
        pytest.param({**asked("a"), "content": {"parts": [{}]}}, "an empty Part", id="empty part"),
        pytest.param({"model": f"models/{ONE}"}, "contains an empty Part", id="no content"),
        pytest.param(asked("a", words=1), "Unknown name \"words\" at 'requests[0]'", id="field"),
        pytest.param(
            {**asked("a"), "content": {"parts": [{"txt": "a"}]}},
            "Unknown name \"txt\" at 'requests[0].content.parts[0]'",
            id="nested field",
        ),
        pytest.param({"content": {"parts": [{"text": "a"}]}}, "got None", id="no model"),
        pytest.param(asked("a", TWO), f"got models/{TWO}", id="another model"),
        pytest.param(asked("a", outputDimensionality=64), "between 128 and 3072", id="narrow"),
        pytest.param(asked("a", outputDimensionality=3073), "between 128 and 3072", id="wide"),
        pytest.param(asked("a", outputDimensionality="x"), "(TYPE_INT32)", id="dim as a word"),
        pytest.param(asked("a", outputDimensionality=True), "(TYPE_INT32)", id="dim as a bool"),
        pytest.param(asked("a", outputDimensionality=768.5), "(TYPE_INT32)", id="half a number"),
        pytest.param(asked("a", taskType="RETRIEVAL"), "requests[0].task_type", id="task type"),
        pytest.param(
            asked("a", title="T", taskType="RETRIEVAL_QUERY"), "RETRIEVAL_DOCUMENT", id="title"
        ),
        pytest.param(asked("a", title="T"), "RETRIEVAL_DOCUMENT", id="title without task type"),
        pytest.param(asked("a", title=7), "(TYPE_STRING), 7", id="title as a number"),
        pytest.param({**asked("a"), "content": "a"}, "expected an object", id="bare text"),
    ],
)
def test_a_bad_request_is_refused_as_the_api_refuses_it(
    server: GeminiServer, request_body: dict[str, Any], message: str
) -> None:
    status, reply = batch_embed(server, request_body)
    assert status == 400
    assert (reply["error"]["code"], reply["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in reply["error"]["message"]


def test_one_empty_text_fails_the_whole_call_and_is_named(server: GeminiServer) -> None:
    status, reply = batch_embed(server, asked("a"), asked("b"), asked(""))
    assert status == 400
    assert "requests[2].content contains an empty Part" in reply["error"]["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b'{"requests": [', "Invalid JSON payload received", id="half"),
        pytest.param(b"[]", "Invalid JSON payload received", id="list"),
        pytest.param(b'{"requests": {}}', "expected a list", id="no list"),
        pytest.param(b'{"requests": []}', "must not be empty", id="no requests"),
        pytest.param(b'{"texts": []}', 'Unknown name "texts": Cannot', id="unknown"),
    ],
)
def test_a_body_of_another_form_is_refused(server: GeminiServer, body: bytes, message: str) -> None:
    status, reply, _ = send(server, "POST", f"/v1/models/{ONE}:batchEmbedContents", body)
    assert status == 400
    assert message in reply["error"]["message"]


def test_a_call_holds_at_most_100_requests(server: GeminiServer, client: genai.Client) -> None:
    assert batch_embed(server, *[asked("a", outputDimensionality=128)] * 100)[0] == 200
    with pytest.raises(errors.ClientError, match="at most 100 requests can be in one batch") as got:
        embedded(client, *["a"] * 101)
    assert (got.value.code, got.value.status) == (400, "INVALID_ARGUMENT")


def test_a_body_holds_at_most_4_mib(server: GeminiServer) -> None:
    target = f"/v1/models/{ONE}:batchEmbedContents"
    body = json.dumps({"requests": [asked("a")]}).encode()
    assert send(server, "POST", target, body.ljust(4_194_304))[0] == 200
    status, reply, _ = send(server, "POST", target, body.ljust(4_194_305))
    assert status == 400
    assert "Request payload size exceeds the limit: 4194304 bytes" in reply["error"]["message"]


@pytest.mark.parametrize(
    "model", ["text-embedding-004", "embedding-001", "gemini-embedding-exp-03-07", "gemini-9"]
)
def test_an_unknown_or_retired_model_is_not_found(server: GeminiServer, model: str) -> None:
    status, reply = batch_embed(server, asked("a", model), model=model, version="v1beta")
    assert (status, reply["error"]["status"]) == (404, "NOT_FOUND")
    assert f"models/{model} is not found for API version v1beta" in reply["error"]["message"]
