"""`generateContent`: the prompt as strictly parsed as a text to embed, and the form of a reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gemini_standin.vectors import count_tokens
from gemini_standin.wire import (
    ApiError,
    Reply,
    Shape,
    json_reply,
    missing_model,
    parse_body,
    payload_too_large,
)

MAX_PROMPT_BYTES = 20_971_520
_GENERATORS = re.compile(r"gemini-(2\.5|3(\.\d+)?)-(flash|flash-lite|pro)")
_CONTENT: dict[str, Shape] = {"parts": [{"text": "string"}], "role": "string"}
_GENERATE_REQUEST: dict[str, Shape] = {
    "model": "string",
    "contents": [_CONTENT],
    "generationConfig": {
        "temperature": "float",
        "topP": "float",
        "topK": "int32",
        "seed": "int32",
        "candidateCount": "int32",
        "maxOutputTokens": "int32",
        "stopSequences": ["string"],
        "responseMimeType": "string",
    },
}
# Seen: /v1 answers 400 'Unknown name "systemInstruction"' to what /v1beta takes.
_BETA_REQUEST: dict[str, Shape] = {**_GENERATE_REQUEST, "systemInstruction": _CONTENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model was asked to answer.

    Attributes:
        system: The system instruction; "" for none.
        text: The contents' parts, one after another.
    """

    model: str
    system: str
    text: str


def read_prompt(raw: bytes, name: str, version: str) -> Prompt:
    """The prompt of a `generateContent` call.

    Raises:
        ApiError: Anything the API refuses: the model, size, an unknown field, an empty part, ….
    """
    if not _GENERATORS.fullmatch(name):
        raise missing_model(name, version, "generateContent")
    if len(raw) > MAX_PROMPT_BYTES:
        raise payload_too_large(MAX_PROMPT_BYTES)
    request = parse_body(raw, _BETA_REQUEST if version == "v1beta" else _GENERATE_REQUEST)
    if wrong := list(_violations(request)):
        raise ApiError(400, "\n".join(wrong))
    return Prompt(
        model=name,
        system=_text(request.get("systemInstruction", {})),
        text="\n".join(_text(content) for content in request["contents"]),
    )


def answer_reply(prompt: Prompt, answer: str | None) -> Reply:
    """The reply to `generateContent`: an answer, or for None that the prompt was blocked."""
    asked = count_tokens(prompt.system) + count_tokens(prompt.text)
    usage = {"promptTokenCount": asked, "totalTokenCount": asked}
    told = {"modelVersion": prompt.model, "responseId": "standin"}
    if answer is None:
        feedback = {"blockReason": "PROHIBITED_CONTENT"}
        return json_reply({"promptFeedback": feedback, "usageMetadata": usage, **told})
    said = count_tokens(answer)
    content = {"parts": [{"text": answer}], "role": "model"}
    usage |= {"candidatesTokenCount": said, "totalTokenCount": asked + said}
    candidate = {"content": content, "finishReason": "STOP", "index": 0}
    return json_reply({"candidates": [candidate], "usageMetadata": usage, **told})


def _violations(request: dict[str, Any]) -> list[str]:
    where, wrong = "* GenerateContentRequest", []
    contents = request.get("contents", [])
    if not contents:
        wrong.append(f"{where}.contents: contents is not specified")
    for i, content in enumerate(contents):
        if not any(part.get("text") for part in content.get("parts", [])):
            wrong.append(f"{where}.contents[{i}].parts: contents.parts must not be empty.")
        if content.get("role", "user") not in ("user", "model"):
            wrong.append(f"{where}.contents[{i}].role: Please use a valid role: user, model.")
    temperature = request.get("generationConfig", {}).get("temperature", 1.0)
    if not 0.0 <= temperature <= 2.0:
        wrong.append(
            f"{where}.generation_config.temperature: must be in the range [0.0, 2.0], "
            f"got {temperature}"
        )
    return wrong


def _text(content: dict[str, Any]) -> str:
    return "\n".join(part.get("text", "") for part in content.get("parts", []))
