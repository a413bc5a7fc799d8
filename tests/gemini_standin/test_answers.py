from __future__ import annotations

from typing import Any

import pytest
from gemini_server import GeminiServer, Prompt
from google import genai
from google.genai import errors, types

from gemini_standin.asking import ONE, send

FLASH = "gemini-2.5-flash"


def generate(
    server: GeminiServer, body: object, *, model: str = FLASH, version: str = "v1beta"
) -> tuple[int, Any]:
    return send(server, "POST", f"/{version}/models/{model}:generateContent", body)[:2]


def content(text: str, **fields: Any) -> dict[str, Any]:
    return {"parts": [{"text": text}], **fields}


def asking(client: genai.Client, **config: Any) -> types.GenerateContentResponse:
    config["http_options"] = types.HttpOptions(api_version="v1beta")
    return client.models.generate_content(
        model=FLASH, contents="Why?", config=types.GenerateContentConfig(**config)
    )


def test_the_sdk_gets_the_answer_to_its_prompt(server: GeminiServer, client: genai.Client) -> None:
    prompts: list[Prompt] = []

    def answer(prompt: Prompt) -> str:
        prompts.append(prompt)
        return "Because."

    server.answer = answer
    reply = asking(client, system_instruction="Be brief.", temperature=0.0)
    assert reply.text == "Because."
    assert prompts == [Prompt(model=FLASH, system="Be brief.", text="Why?")]
    assert reply.candidates is not None
    assert reply.candidates[0].finish_reason == types.FinishReason.STOP
    assert reply.usage_metadata is not None
    assert reply.usage_metadata.prompt_token_count == 5
    assert reply.usage_metadata.total_token_count == 8
    assert server.calls[0].path == f"/v1beta/models/{FLASH}:generateContent"


def test_a_blocked_prompt_gets_a_reason_and_no_answer(
    server: GeminiServer, client: genai.Client
) -> None:
    server.answer = lambda _prompt: None
    reply = asking(client)
    assert (reply.text, reply.candidates) == (None, None)
    assert reply.prompt_feedback is not None
    assert reply.prompt_feedback.block_reason == types.BlockedReason.PROHIBITED_CONTENT


def test_a_prompt_wants_the_key_too(server: GeminiServer) -> None:
    body, target = {"contents": [content("a")]}, f"/v1beta/models/{FLASH}:generateContent"
    assert send(server, "POST", target, body, headers={})[0] == 403
    status, reply, _ = send(server, "POST", target, body, headers={"x-goog-api-key": "other"})
    assert (status, reply["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")


def test_only_the_beta_knows_system_instructions(
    server: GeminiServer, client: genai.Client
) -> None:
    body = {"contents": [content("a")], "systemInstruction": content("b")}
    assert generate(server, body)[0] == 200
    status, reply = generate(server, body, version="v1")
    assert status == 400
    assert 'Unknown name "systemInstruction"' in reply["error"]["message"]
    assert generate(server, {"contents": [content("a")]}, version="v1")[0] == 200
    with pytest.raises(errors.ClientError, match="systemInstruction"):
        client.models.generate_content(
            model=FLASH,
            contents="Why?",
            config=types.GenerateContentConfig(system_instruction="Be brief."),
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param({}, "contents is not specified", id="nothing"),
        pytest.param({"contents": []}, "contents is not specified", id="no contents"),
        pytest.param({"contents": "a"}, "expected a list", id="bare text"),
        pytest.param({"contents": [content("")]}, "contents[0].parts: contents.parts", id="empty"),
        pytest.param({"contents": [{"parts": []}]}, "must not be empty", id="no parts"),
        pytest.param({"contents": [content("a", role="system")]}, "valid role", id="role"),
        pytest.param({"contents": [content("a")], "system": "b"}, 'name "system"', id="field"),
        pytest.param(
            {"contents": [content("a")], "generationConfig": {"temperature": "hot"}},
            "(TYPE_FLOAT)",
            id="temperature as a word",
        ),
        pytest.param(
            {"contents": [content("a")], "generationConfig": {"temperature": 2.1}},
            "[0.0, 2.0]",
            id="too hot",
        ),
    ],
)  # fmt: skip
def test_a_bad_prompt_is_refused_as_the_api_refuses_it(
    server: GeminiServer, body: dict[str, Any], message: str
) -> None:
    status, reply = generate(server, body)
    assert (status, reply["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in reply["error"]["message"]


@pytest.mark.parametrize("model", [ONE, "gemini-1.0-pro"])
def test_a_model_that_does_not_answer_is_not_found(server: GeminiServer, model: str) -> None:
    status, reply = generate(server, {"contents": [content("a")]}, model=model)
    assert (status, reply["error"]["status"]) == (404, "NOT_FOUND")
    assert "not supported for generateContent" in reply["error"]["message"]
