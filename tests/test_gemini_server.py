from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gemini_server
import numpy as np
import pytest
from gemini_server import Call, GeminiServer, Reply, faults
from gemini_standin.asking import (
    DOCUMENT,
    ONE,
    asked,
    batch_embed,
    embedded,
    sdk,
    send,
    serving,
    vector,
    vectors,
)
from google import genai
from google.genai import errors, types


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def client(server: GeminiServer) -> Iterator[genai.Client]:
    with sdk(server) as client:
        yield client


def test_the_sdk_gets_a_vector_per_text_in_order_and_the_log_shows_what_it_sent(
    server: GeminiServer, client: genai.Client
) -> None:
    reply = embedded(client, "red apples", "blue sky")

    assert reply.embeddings is not None
    got = np.array([embedding.values for embedding in reply.embeddings])
    fields: Any = {"taskType": DOCUMENT, "title": "T", "outputDimensionality": 128}
    expected = vectors(server, asked("red apples", **fields), asked("blue sky", **fields))
    np.testing.assert_array_equal(got, expected)
    call = server.calls[0]
    assert (call.method, call.path) == ("POST", f"/v1/models/{ONE}:batchEmbedContents")
    assert (call.has_key, call.key_ok, call.status, call.in_flight) == (True, True, 200, 1)
    assert call.texts == ["red apples", "blue sky"]
    assert [request["title"] for request in call.requests] == ["T", "T"]
    assert server.key not in repr(server.calls)


def test_the_async_sdk_gets_the_same_vectors(server: GeminiServer) -> None:
    async def ask() -> types.EmbedContentResponse:
        async with sdk(server).aio as client:
            return await client.models.embed_content(model=ONE, contents="red apples")

    reply = asyncio.run(ask())
    assert reply.embeddings is not None
    np.testing.assert_array_equal(reply.embeddings[0].values, vector(server, "red apples"))


def test_both_versions_and_both_spellings_mean_the_same(server: GeminiServer) -> None:
    camel = asked("a", taskType="RETRIEVAL_QUERY", outputDimensionality=256)
    snake = asked("a", task_type="RETRIEVAL_QUERY", output_dimensionality="256")
    replies = [
        batch_embed(server, request, version=version)
        for request in (camel, snake)
        for version in ("v1", "v1beta")
    ]
    assert replies[0][0] == 200
    assert all(reply == replies[0] for reply in replies)


@pytest.mark.parametrize("target", ["", "?key={key}", "?key={key}&alt=json"])
def test_without_a_key_in_the_header_a_call_is_forbidden(server: GeminiServer, target: str) -> None:
    target = f"/v1/models/{ONE}:batchEmbedContents{target.format(key=server.key)}"
    status, reply, _ = send(server, "POST", target, {"requests": [asked("a")]}, headers={})
    assert (status, reply["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert (server.calls[0].has_key, server.calls[0].key_ok) == (False, False)


def test_a_bad_key_is_an_invalid_argument(server: GeminiServer) -> None:
    with (
        genai.Client(api_key="canary", http_options={"base_url": server.url}) as client,
        pytest.raises(errors.ClientError) as got,
    ):
        embedded(client, "a")
    assert (got.value.code, got.value.status) == (400, "INVALID_ARGUMENT")
    assert got.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert (server.calls[0].has_key, server.calls[0].key_ok) == (True, False)
    assert "canary" not in repr(server.calls)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"/v1/models/{ONE}:batchEmbedContents"),
        ("POST", f"/v2/models/{ONE}:batchEmbedContents"),
        ("POST", f"/v1/models/{ONE}:predict"),
        ("PUT", "/v1/files"),
        ("POST", "/upload/v1/batches"),
        ("GET", "/"),
    ],
)
def test_what_is_no_route_gets_a_page_with_404(
    server: GeminiServer, method: str, target: str
) -> None:
    status, page, headers = send(server, method, target)
    assert (status, headers["content-type"]) == (404, "text/html; charset=UTF-8")
    assert b"404" in page


def test_a_connection_is_kept_for_further_calls(server: GeminiServer) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    ports = []
    for _ in range(3):
        connection.request("GET", "/v1/files", headers={"x-goog-api-key": server.key})
        assert connection.getresponse().read() == b"{}"
        ports.append(connection.sock.getsockname()[1])
    connection.close()
    assert len(set(ports)) == 1


def test_vectors_are_the_same_in_another_process(server: GeminiServer) -> None:
    program = Path(gemini_server.__file__)
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url, key = process.stdout.readline().split()
        with genai.Client(api_key=key, http_options={"base_url": url}) as client:
            reply = client.models.embed_content(model=ONE, contents="The quick brown föx")
        process.communicate()
    assert process.returncode == 0
    assert reply.embeddings is not None
    np.testing.assert_array_equal(reply.embeddings[0].values, vector(server, "The quick brown föx"))


def test_faults_of_the_next_calls_queue_up_before_the_rules(server: GeminiServer) -> None:
    server.fail_when(lambda call: "bad" in call.texts, faults.status(500))
    server.fail_when(lambda call: "bad" in call.texts, faults.status(503))
    server.fail_next(2, faults.status(408))
    server.fail_next(1, faults.status(504))
    got = [batch_embed(server, asked(text))[0] for text in ("good", "bad", "good", "bad", "good")]
    assert got == [408, 408, 504, 500, 200]
    server.heal()
    assert batch_embed(server, asked("bad"))[0] == 200


def test_poison_fails_the_calls_that_hold_it_and_no_others(server: GeminiServer) -> None:
    server.poison = {"arsenic"}
    status, reply = batch_embed(server, asked("water"), asked("title: none | text: arsenic"))
    assert (status, reply["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "arsenic" not in reply["error"]["message"]
    assert batch_embed(server, asked("water"))[0] == 200


def test_the_log_counts_the_calls_that_are_under_way_at_once(server: GeminiServer) -> None:
    together = threading.Barrier(4, timeout=10)

    def wait_for_the_others(call: Call, work: faults.Work) -> Reply:
        together.wait()
        return work()

    server.fail_when(lambda call: True, wait_for_the_others)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda i: batch_embed(server, asked(f"text {i}")), range(4)))
    assert [status for status, _ in replies] == [200] * 4
    assert sorted(call.in_flight for call in server.calls) == [1, 2, 3, 4]
    server.heal()
    batch_embed(server, asked("alone"))
    assert (server.calls[-1].in_flight, server.max_in_flight) == (1, 4)


def test_a_call_takes_as_long_as_the_latency(server: GeminiServer) -> None:
    server.latency_s = 0.05
    began = time.monotonic()
    batch_embed(server, asked("a"))
    assert time.monotonic() - began >= 0.05


def test_nothing_is_left_of_a_server_that_was_closed_while_it_answered() -> None:
    server = GeminiServer(latency_s=60)
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batch_embed, server, asked("a"))
        while not server.calls:
            time.sleep(0.001)
        server.close()
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            waiting.result(timeout=10)
    assert set(threading.enumerate()) < before
    server.close()


def test_a_predicate_that_fails_is_not_lost_on_its_author() -> None:
    server = GeminiServer()
    server.fail_when(lambda call: call.requests[7] is None, faults.closed())
    with pytest.raises(http.client.RemoteDisconnected):
        batch_embed(server, asked("a"))
    with pytest.raises(RuntimeError, match="the stand-in failed") as got:
        server.close()
    assert isinstance(got.value.__cause__, IndexError)
