"""Asking the stand-in: the fixtures of its tests, and calls with and without the SDK."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from gemini_server import GeminiServer
from google import genai
from google.genai import types
from numpy.typing import NDArray

ONE = "gemini-embedding-001"
TWO = "gemini-embedding-2"
DOCUMENT = "RETRIEVAL_DOCUMENT"


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    """A server, and nothing in the environment that leads the SDK elsewhere."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with GeminiServer() as server:
        yield server


def sdk(server: GeminiServer, **options: Any) -> genai.Client:
    """The real SDK with the server's key, and options for its HTTP side."""
    http_options = types.HttpOptions(base_url=server.url, api_version="v1", **options)
    return genai.Client(api_key=server.key, http_options=http_options)


def send(
    server: GeminiServer,
    method: str,
    target: str,
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any, dict[str, str]]:
    """A call without the SDK: the status, the JSON or bytes, and the headers of the answer."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
    try:
        connection.request(
            method, target, raw, {"x-goog-api-key": server.key} if headers is None else headers
        )
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    told = {name.lower(): value for name, value in answer.getheaders()}
    is_json = told["content-type"] == "application/json" and content
    return answer.status, json.loads(content) if is_json else content, told


def asked(text: str, model: str = ONE, **fields: Any) -> dict[str, Any]:
    return {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **fields}


def batch_embed(
    server: GeminiServer, *requests: dict[str, Any], model: str = ONE, version: str = "v1"
) -> tuple[int, Any]:
    target = f"/{version}/models/{model}:batchEmbedContents"
    return send(server, "POST", target, {"requests": list(requests)})[:2]


def vectors(
    server: GeminiServer, *requests: dict[str, Any], model: str = ONE
) -> NDArray[np.float64]:
    status, reply = batch_embed(server, *requests, model=model)
    assert status == 200, reply
    return np.array([embedding["values"] for embedding in reply["embeddings"]])


def vector(server: GeminiServer, text: str, model: str = ONE, **fields: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = vectors(server, asked(text, model, **fields), model=model)[0]
    return found


def cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def embedded(client: genai.Client, *texts: str) -> types.EmbedContentResponse:
    contents: Any = [types.Content(parts=[types.Part(text=text)]) for text in texts]
    config = types.EmbedContentConfig(task_type=DOCUMENT, title="T", output_dimensionality=128)
    return client.models.embed_content(model=ONE, contents=contents, config=config)


def upload(server: GeminiServer, content: bytes, mime_type: str = "jsonl") -> str:
    status, _, told = start_upload(server, len(content), mime_type)
    assert status == 200
    status, reply, told = send_piece(server, told, content, 0, "upload, finalize")
    assert (status, told["x-goog-upload-status"]) == (200, "final")
    name: str = reply["file"]["name"]
    return name


def start_upload(
    server: GeminiServer, size: int, mime_type: str = "jsonl", **changed: str
) -> tuple[int, Any, dict[str, str]]:
    headers = {
        "x-goog-api-key": server.key,
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size),
        "X-Goog-Upload-Header-Content-Type": mime_type,
    }
    return send(server, "POST", "/upload/v1/files", {"file": {}}, headers={**headers, **changed})


def send_piece(
    server: GeminiServer, told: dict[str, str], piece: bytes, offset: int, command: str
) -> tuple[int, Any, dict[str, str]]:
    headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
    target = told["x-goog-upload-url"].removeprefix(server.url)
    return send(server, "POST", target, piece, headers=headers)
