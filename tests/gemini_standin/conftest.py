"""The server and the SDK, for the tests of the stand-in's parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gemini_server import GeminiServer
from google import genai

from gemini_standin.asking import sdk, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def client(server: GeminiServer) -> Iterator[genai.Client]:
    with sdk(server) as client:
        yield client
