from __future__ import annotations

import http.client
import json
import sys
import time

import numpy as np
import pydantic
import pytest
from gemini_server import Fault, GeminiServer, faults
from google import genai
from google.genai import errors

from gemini_standin.asking import asked, batch_embed, embedded, sdk, send


@pytest.mark.parametrize(
    ("fault", "error", "code", "status"),
    [
        (faults.status(400), errors.ClientError, 400, "INVALID_ARGUMENT"),
        (faults.status(408), errors.ClientError, 408, "DEADLINE_EXCEEDED"),
        (faults.status(500), errors.ServerError, 500, "INTERNAL"),
        (faults.status(503), errors.ServerError, 503, "UNAVAILABLE"),
        (faults.status(504), errors.ServerError, 504, "DEADLINE_EXCEEDED"),
        (faults.error_page(), errors.ServerError, 502, "Bad Gateway"),
        (faults.rate_limited(), errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
        (faults.rate_limited(21.7), errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
        (faults.day_quota(), errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    ],
)
def test_an_error_reaches_the_sdk_as_one(
    server: GeminiServer,
    client: genai.Client,
    fault: Fault,
    error: type[errors.APIError],
    code: int,
    status: str,
) -> None:
    server.fail_next(1, fault)
    with pytest.raises(error) as got:
        embedded(client, "a")
    assert (got.value.code, got.value.status) == (code, status)
    assert embedded(client, "a").embeddings
    assert [call.status for call in server.calls] == [code, 200]


def test_a_429_has_a_hint_or_none(server: GeminiServer) -> None:
    server.fail_next(1, faults.rate_limited())
    server.fail_next(1, faults.rate_limited(21.7))
    server.fail_next(1, faults.day_quota(9.0))
    bare, hinted, daily = (batch_embed(server, asked("a"))[1]["error"] for _ in range(3))
    assert "details" not in bare
    assert "retry in" not in bare["message"]
    assert hinted["details"][1]["retryDelay"] == "21s"
    assert "Please retry in 21.7s." in hinted["message"]
    assert "PerDay" in daily["details"][0]["violations"][0]["quotaId"]
    assert daily["details"][1]["retryDelay"] == "9s"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.bad_json(), json.JSONDecodeError),
        (faults.null_value(), pydantic.ValidationError),
        (faults.null_vector(), pydantic.ValidationError),
    ],
)
def test_what_no_one_can_read_breaks_the_call(
    server: GeminiServer, client: genai.Client, fault: Fault, error: type[Exception]
) -> None:
    server.fail_next(1, fault)
    with pytest.raises(error):
        embedded(client, "a", "b")
    assert embedded(client, "a").embeddings


@pytest.mark.parametrize("fault", [faults.closed(), faults.truncated()])
def test_a_broken_connection_is_an_error_of_the_http_library_that_the_sdk_uses(
    server: GeminiServer, client: genai.Client, fault: Fault
) -> None:
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    server.fail_next(1, fault)
    with pytest.raises(tuple(module.RemoteProtocolError for module in loaded)):
        embedded(client, "a")
    assert embedded(client, "a").embeddings


def test_a_closed_connection_has_no_status_and_costs_no_quota(server: GeminiServer) -> None:
    server.quota(per_minute=1)
    server.fail_next(1, faults.closed())
    with pytest.raises(http.client.RemoteDisconnected):
        batch_embed(server, asked("a"))
    assert server.calls[0].status is None
    assert batch_embed(server, asked("a"))[0] == 200


def test_a_truncated_body_is_shorter_than_announced(server: GeminiServer) -> None:
    server.fail_next(1, faults.truncated())
    with pytest.raises(http.client.IncompleteRead) as got:
        batch_embed(server, asked("a"))
    assert got.value.partial.startswith(b'{"embeddings"')


@pytest.mark.parametrize(
    ("fault", "shapes"),
    [
        (faults.short_count(), [128]),
        (faults.short_count(by=2), []),
        (faults.too_many(by=2), [128] * 4),
        (faults.wrong_dimension(at=1), [128, 127]),
        (faults.empty_reply(), None),
    ],
)
def test_the_sdk_lets_a_reply_of_the_wrong_shape_through(
    server: GeminiServer, client: genai.Client, fault: Fault, shapes: list[int] | None
) -> None:
    server.fail_next(1, fault)
    found = embedded(client, "a", "b").embeddings
    assert shapes == (None if found is None else [len(e.values or []) for e in found])


def test_a_reply_can_be_null(server: GeminiServer) -> None:
    server.fail_next(1, faults.null_reply())
    assert batch_embed(server, asked("a")) == (200, None)


def test_a_number_can_be_nan_and_a_vector_all_zeros(
    server: GeminiServer, client: genai.Client
) -> None:
    server.fail_next(1, faults.nan(at=1))
    server.fail_next(1, faults.zero_vector(at=1))
    for broken in (np.isnan, np.logical_not):
        found = embedded(client, "a", "b").embeddings
        assert found is not None
        assert not broken(found[0].values or []).any()
        assert broken(found[1].values or []).any()


def test_a_dribble_beats_a_timeout_by_read(server: GeminiServer) -> None:
    # 128 numbers of 22 bytes: 0.8 seconds and more, in steps that are far below the timeout.
    server.fail_next(1, faults.dribbled(pause_s=0.0003))
    with sdk(server, timeout=500) as client:  # milliseconds
        began = time.monotonic()
        assert embedded(client, "a").embeddings
    assert time.monotonic() - began > 0.5


def test_a_redirect_shows_whether_the_key_went_to_another_origin(server: GeminiServer) -> None:
    with GeminiServer(key=server.key) as other:
        server.fail_when(lambda call: True, faults.redirected(other.url))
        with sdk(server) as client:
            embedded(client, "a")
        assert (other.calls[0].key_ok, other.calls[0].path) == (True, server.calls[0].path)
        careful = sdk(server, client_args={"follow_redirects": False})
        with careful, pytest.raises(errors.APIError) as got:
            embedded(careful, "a")
        assert got.value.code == 307
        assert len(other.calls) == 1
        assert other.key not in repr(other.calls)


def test_a_redirect_keeps_the_query(server: GeminiServer) -> None:
    server.fail_next(1, faults.redirected("http://elsewhere.test"))
    status, _, headers = send(server, "GET", "/v1/files?pageSize=7")
    assert (status, headers["location"]) == (307, "http://elsewhere.test/v1/files?pageSize=7")
