from __future__ import annotations

import asyncio
import json
import logging
import math
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemini_server import Fault, GeminiServer, faults
from gemini_standin.calls import Call

import ragkit
from ragkit import pacing
from ragkit.edge import EdgeClient
from ragkit.errors import (
    AuthError,
    EmbedderUnavailable,
    EmbeddingError,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
    TextsRefused,
)
from ragkit.gemini import calls as gemini_calls
from ragkit.gemini import models as gemini_models
from ragkit.gemini.client import Secret
from ragkit.gemini.embedder import GeminiEmbedder
from ragkit.gemini.wire import Text, measure
from ragkit.tokens import estimate_tokens

Make = Callable[..., GeminiEmbedder]

FAMILIES = ["gemini-embedding-001", "gemini-embedding-2"]
IN_PASSING: dict[str, Fault] = {
    "408": faults.status(408),
    "429 with RetryInfo": faults.rate_limited(0.05),
    "429 without a hint": faults.rate_limited(),
    "500": faults.status(500),
    "503": faults.status(503),
    "a page of HTML": faults.error_page(),
    "bad JSON": faults.bad_json(),
    "closed": faults.closed(),
    "empty": faults.empty_reply(),
    "NaN": faults.nan(),
    "null": faults.null_reply(),
    "null for a number": faults.null_value(),
    "null for a vector": faults.null_vector(),
    "too few": faults.short_count(),
    "too many": faults.too_many(),
    "truncated": faults.truncated(),
    "wrong width": faults.wrong_dimension(),
    "zeros": faults.zero_vector(),
}


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: GeminiServer) -> None:
    """No key and no settings but the stand-in's address, and no long waits."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    monkeypatch.setattr(pacing, "_FIRST_BACKOFF_S", 0.001)
    gemini_models._warn_once.cache_clear()


@pytest.fixture
def make(server: GeminiServer) -> Iterator[Make]:
    made: list[GeminiEmbedder] = []

    def maker(*args: Any, **options: Any) -> GeminiEmbedder:
        settings = {"api_key": server.key, "rpm": math.inf, "tpm": math.inf} | options
        made.append(GeminiEmbedder(*args, **settings))
        return made[-1]

    yield maker
    for embedder in made:
        embedder.close()


def numbered(n: int) -> list[str]:
    return [f"passage number {i} about keys" for i in range(n)]


def embedded(embedder: GeminiEmbedder, n: int) -> np.ndarray[Any, Any]:
    return embedder.embed_documents(numbered(n), titles=[f"Title {i}" for i in range(n)])


def sent(server: GeminiServer) -> list[dict[str, Any]]:
    return [request for call in server.calls for request in call.requests]


def came(server: GeminiServer, calls: int) -> bool:
    """Wait until so many calls have come; False if they do not within a while."""
    until = time.monotonic() + 20.0
    while len(server.calls) < calls and time.monotonic() < until:
        time.sleep(0.01)
    return len(server.calls) >= calls


def call_threads() -> list[str]:
    """The threads that make calls; one that has just said its last word is given its second."""
    own = [t for t in threading.enumerate() if t.name.startswith("ragkit-call")]
    for thread in own:
        thread.join(1.0)
    return [thread.name for thread in own if thread in threading.enumerate()]


@pytest.mark.parametrize("n", [1, 3])
def test_each_text_travels_with_its_own_title_in_fields(
    server: GeminiServer, make: Make, n: int
) -> None:
    embedded(make(), n)
    (call,) = server.calls
    assert call.path == "/v1/models/gemini-embedding-001:batchEmbedContents"
    assert call.requests == [
        {
            "model": "models/gemini-embedding-001",
            "content": {"parts": [{"text": f"passage number {i} about keys"}]},
            "taskType": "RETRIEVAL_DOCUMENT",
            "title": f"Title {i}",
            "outputDimensionality": 768,
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [1, 3])
def test_each_text_travels_with_its_own_title_in_a_prefix(
    server: GeminiServer, make: Make, n: int
) -> None:
    make("gemini-embedding-2").embed_documents(numbered(n), titles=["Guide", "", "Notes"][:n])
    wanted = ["title: Guide | text: ", "title: none | text: ", "title: Notes | text: "][:n]
    assert [call.path for call in server.calls] == [
        "/v1/models/gemini-embedding-2:batchEmbedContents"
    ]
    assert sent(server) == [
        {
            "model": "models/gemini-embedding-2",
            "content": {"parts": [{"text": f"{prefix}passage number {i} about keys"}]},
            "outputDimensionality": 768,
        }
        for i, prefix in enumerate(wanted)
    ]


def test_a_document_without_a_title_sends_no_title_field(server: GeminiServer, make: Make) -> None:
    make().embed_documents(["alone"], titles=[""])
    make().embed_documents(["one", "two"], titles=["", "T"])
    assert ["title" in request for request in sent(server)] == [False, False, True]


@pytest.mark.parametrize(
    ("task", "field", "prefix"),
    [
        ("retrieval", "RETRIEVAL_QUERY", "search result"),
        ("code retrieval", "CODE_RETRIEVAL_QUERY", "code retrieval"),
        ("question answering", "QUESTION_ANSWERING", "question answering"),
        ("fact verification", "FACT_VERIFICATION", "fact checking"),
    ],
)
def test_a_query_is_embedded_for_its_task(
    server: GeminiServer, make: Make, task: str, field: str, prefix: str
) -> None:
    for model in FAMILIES:
        vector = make(model, task=task).embed_query("rotate keys")
        assert vector.shape == (768,)
        assert np.linalg.norm(vector) == pytest.approx(1.0)
    first, second = sent(server)
    assert (first["taskType"], first["content"]["parts"]) == (field, [{"text": "rotate keys"}])
    assert "title" not in first
    assert second["content"]["parts"] == [{"text": f"task: {prefix} | query: rotate keys"}]
    assert "taskType" not in second


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(
    ("task_type", "prefix"),
    [
        ("SEMANTIC_SIMILARITY", "task: sentence similarity | query: "),
        ("CLASSIFICATION", "task: classification | query: "),
        ("CLUSTERING", "task: clustering | query: "),
        ("RETRIEVAL_DOCUMENT", "title: none | text: "),
    ],
)
def test_vectors_for_other_tasks_can_be_had(
    server: GeminiServer, make: Make, model: str, task_type: str, prefix: str
) -> None:
    assert make(model).embed(["a b", "c"], task_type=task_type).shape == (2, 768)
    texts = [request["content"]["parts"][0]["text"] for request in sent(server)]
    if model == "gemini-embedding-001":
        assert [request["taskType"] for request in sent(server)] == [task_type] * 2
        assert texts == ["a b", "c"]
    else:
        assert texts == [f"{prefix}a b", f"{prefix}c"]


def test_an_unknown_task_type_is_refused_before_any_call(server: GeminiServer, make: Make) -> None:
    with pytest.raises(ValueError, match="SEMANTIC_SIMILARITY"):
        make().embed(["a"], task_type="similarity")
    assert server.calls == []


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("dim", [768, 1536, 3072])
def test_vectors_are_unit_length_at_every_dimension(make: Make, model: str, dim: int) -> None:
    vectors = embedded(make(model, dim), 3)
    assert (vectors.shape, vectors.dtype) == ((3, dim), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_vectors_come_in_the_order_of_the_texts_however_the_calls_end(
    server: GeminiServer, make: Make
) -> None:
    def late_at_first(call: Call, work: Callable[[], Any]) -> Any:
        if "passage number 0 about keys" in call.texts:
            time.sleep(0.2)
        return work()

    server.fail_when(lambda call: True, late_at_first)
    vectors = embedded(make(), 250)
    alone = make().embed_documents(["passage number 7 about keys"], titles=["Title 7"])
    assert vectors[7] == pytest.approx(alone[0], abs=1e-6)
    assert len(np.unique(vectors.round(6), axis=0)) == 250


def test_calls_hold_at_most_a_hundred_texts_and_run_several_at_once(
    server: GeminiServer, make: Make
) -> None:
    server.latency_s = 0.1
    embedded(make(concurrency=4), 1_001)
    sizes = [len(call.requests) for call in server.calls]
    assert sum(sizes) == 1_001
    assert len(sizes) == 11
    assert max(sizes) <= 100
    assert server.max_in_flight == 4


def test_calls_hold_about_three_megabytes_at_the_most(server: GeminiServer, make: Make) -> None:
    # As the SDK writes them, these characters take six bytes each.
    texts = [f"{i} " + "страница " * 1_100 for i in range(100)]
    make("gemini-embedding-2").embed_documents(texts, titles=["T"] * 100)
    assert len(server.calls) > 1
    assert max(call.size for call in server.calls) < 3_100_000
    short = ["\U0001f600" * 600] * 100
    make("gemini-embedding-2").embed_documents(short, titles=["T"] * 100)
    assert max(call.size for call in server.calls) < 3_100_000


def test_no_texts_are_no_call(server: GeminiServer, make: Make) -> None:
    assert make().embed_documents([], titles=[]).shape == (0, 768)
    assert server.calls == []


def test_half_a_character_reaches_the_service_as_a_replacement_character(
    server: GeminiServer, make: Make
) -> None:
    make().embed_documents(["a\ud83d b", "plain"], titles=["\udc00", "T"])
    make().embed_query("q\ud83d")
    texts = [request["content"]["parts"][0]["text"] for request in sent(server)]
    assert texts == ["a\ufffd b", "plain", "q\ufffd"]
    assert sent(server)[0]["title"] == "\ufffd"


@pytest.mark.parametrize("fault", IN_PASSING.values(), ids=IN_PASSING.keys())
def test_what_fails_in_passing_is_repeated(server: GeminiServer, make: Make, fault: Fault) -> None:
    wanted = embedded(make(), 3)
    embedder = make()
    server.fail_next(2, fault)
    assert embedded(embedder, 3) == pytest.approx(wanted)
    assert (embedder.usage.calls, embedder.usage.retries) == (3, 2)


@pytest.mark.parametrize("fault", IN_PASSING.values(), ids=IN_PASSING.keys())
def test_what_fails_in_passing_is_repeated_by_coroutines_too(
    server: GeminiServer, make: Make, fault: Fault
) -> None:
    async def main() -> None:
        async with make() as embedder:
            server.fail_next(2, fault)
            vectors = await embedder.aembed_documents(numbered(3), titles=["T"] * 3)
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3))
            assert (embedder.usage.calls, embedder.usage.retries) == (3, 2)

    asyncio.run(main())


def test_a_service_that_stays_down_is_reported_when_the_deadline_has_passed(
    server: GeminiServer, make: Make
) -> None:
    server.fail_when(lambda call: True, faults.status(503))
    with pytest.raises(EmbedderUnavailable, match=r"503 UNAVAILABLE.*attempts in") as caught:
        embedded(make(deadline_s=0.3), 3)
    assert type(caught.value) is EmbedderUnavailable
    assert len(server.calls) > 2


def test_an_address_where_nothing_listens_is_out_of_reach(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(EmbedderUnavailable, match="cannot be reached"):
        embedded(make(deadline_s=0.1), 3)


def test_a_rate_that_stays_too_high_is_reported_as_such(server: GeminiServer, make: Make) -> None:
    server.fail_when(lambda call: True, faults.rate_limited(3_600))
    with pytest.raises(RateLimited, match="asks to wait"):
        embedded(make(), 3)
    assert len(server.calls) == 1


def test_the_pace_follows_a_quota_that_the_service_names(server: GeminiServer, make: Make) -> None:
    server.quota(per_minute=40, minute_s=0.5)
    embedder = make(concurrency=1)
    # Halves of a call of forty would be refused; more than forty never fits.
    embedder.embed_documents(numbered(40), titles=["T"] * 40)
    embedder.embed_documents(numbered(1), titles=["T"])
    assert [call.status for call in server.calls] == [200, 429, 200]
    assert embedder.forecast(40, 0).minutes == 1.0


def test_a_small_quota_makes_small_calls(server: GeminiServer, make: Make) -> None:
    run = gemini_calls.Run(
        [Text(text="a", task_type="CLUSTERING")] * 30, make(rpm=100.0)._terms(searching=False)
    )
    assert len(run.jobs()) == 6


def test_the_quota_of_a_day_stops_the_run_and_hands_over_what_was_done(
    server: GeminiServer, make: Make
) -> None:
    server.quota(per_day=150)
    with pytest.raises(QuotaExhausted, match=r"midnight Pacific.*") as caught:
        embedded(make(concurrency=2), 800)
    assert len(server.calls) <= 3  # of eight: nothing was repeated, nothing new begun
    done = caught.value.vectors
    assert len(done) == 100
    server.quota()
    whole = embedded(make(), 300)
    for index, vector in done.items():
        assert np.allclose(vector, whole[index], atol=1e-6)


def test_a_poison_text_is_found_and_the_others_are_handed_over(
    server: GeminiServer, make: Make
) -> None:
    server.poison = {"number 3 ", "number 177 "}
    with pytest.raises(TextsRefused, match=r"2 of 250 texts.*text 3: Gemini refuses") as caught:
        embedded(make(), 250)
    assert sorted(caught.value.failed) == [3, 177]
    assert sorted(caught.value.vectors) == [i for i in range(250) if i not in (3, 177)]
    assert len(server.calls) < 40
    server.heal()
    whole = embedded(make(), 250)
    assert caught.value.vectors[178] == pytest.approx(whole[178], abs=1e-6)


def test_a_text_that_always_gets_a_bad_reply_is_found_too(server: GeminiServer, make: Make) -> None:
    def poisoned(call: Call) -> bool:
        return any("number 5 " in text for text in call.texts)

    server.fail_when(poisoned, faults.zero_vector())
    with pytest.raises(TextsRefused, match="zeros") as caught:
        embedded(make(), 10)
    assert list(caught.value.failed) == [5]
    assert len(caught.value.vectors) == 9


def test_if_even_a_plain_text_is_refused_the_texts_are_not_at_fault(
    server: GeminiServer, make: Make
) -> None:
    server.fail_when(lambda call: True, faults.status(400, "outputDimensionality is wrong"))
    with pytest.raises(EmbedderUnavailable, match=r"even a plain one: .*outputDimensionality"):
        embedded(make(), 100)
    assert len(server.calls) == 2


def test_blank_and_overlong_texts_are_never_sent(server: GeminiServer, make: Make) -> None:
    texts = ["fine", "  \n", "word " * 3_000]
    with pytest.raises(TextsRefused) as caught:
        make().embed_documents(texts, titles=["T"] * 3)
    assert caught.value.failed[1] == "it is blank"
    assert "the model reads 2,048" in caught.value.failed[2]
    assert list(caught.value.vectors) == [0]
    assert [call.texts for call in server.calls] == [["fine"]]
    with pytest.raises(TextsRefused, match="model reads 2,048"):
        make().embed_query("word " * 4_000)
    assert len(server.calls) == 1


def test_a_query_that_the_estimate_may_count_too_high_is_left_to_the_service(
    server: GeminiServer, make: Make
) -> None:
    query = "word " * 2_500
    assert 1 < estimate_tokens(query) / make().max_tokens < 2
    assert make().embed_query(query).shape == (768,)
    with pytest.raises(TextsRefused, match="model reads 2,048"):
        make().embed_documents([query], titles=[""])
    assert len(server.calls) == 1


def test_texts_are_measured_together_as_each_is_alone(make: Make) -> None:
    texts = [
        Text(text=text, title=title, task_type="CLUSTERING")
        for text, title in [("abc" * 30, "T"), ("", "0" * 20), ("日本", ""), ("x y\n", "\n")]
    ]
    assert measure(texts) == [estimate_tokens(t.text) + estimate_tokens(t.title) for t in texts]


def test_texts_near_the_limit_are_counted(make: Make) -> None:
    embedder = make()
    near = "word " * 1_700
    assert 0.9 * embedder.max_tokens < estimate_tokens(near) <= embedder.max_tokens
    embedder.embed_documents(["short", near], titles=["", ""])
    assert embedder.usage.near_limit == 1


def test_without_a_key_nothing_is_sent_and_the_remedy_is_named(server: GeminiServer) -> None:
    embedder = GeminiEmbedder()
    with pytest.raises(AuthError, match="set GEMINI_API_KEY"):
        embedder.embed_query("x")
    assert server.calls == []


def test_the_key_of_the_environment_is_found_as_the_sdk_would(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", server.key)
    with GeminiEmbedder() as embedder:
        embedder.embed_query("x")
    monkeypatch.setenv("GOOGLE_API_KEY", "another")
    with GeminiEmbedder() as embedder, pytest.raises(AuthError):
        embedder.embed_query("y")
    with GeminiEmbedder(api_key=f" {server.key}\n") as embedder:
        embedder.embed_query("z")
    assert [call.key_ok for call in server.calls] == [True, False, True]


def test_a_bad_key_is_tried_once(server: GeminiServer, make: Make) -> None:
    with pytest.raises(AuthError, match="does not accept the key"):
        embedded(make(api_key="wrong", concurrency=1), 250)
    assert len(server.calls) == 1


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\x00b", "a\nb"])
def test_what_cannot_be_a_key_is_not_sent_nor_shown(
    server: GeminiServer, make: Make, key: str
) -> None:
    with pytest.raises(AuthError, match="printable ASCII") as caught:
        make(api_key=key).embed_query("x")
    assert key not in str(caught.value)
    assert server.calls == []


def test_a_retired_model_is_refused_with_its_successor() -> None:
    for model in ("text-embedding-004", "models/embedding-001", "gemini-embedding-exp-03-07"):
        with pytest.raises(ModelNotFound, match="use gemini-embedding-001"):
            GeminiEmbedder(model)


def test_an_unknown_model_is_used_with_a_warning_that_says_what_is_assumed(
    server: GeminiServer, make: Make
) -> None:
    with pytest.warns(UserWarning, match=r"2,048 tokens .* price is not known"):
        embedder = make("gemini-embedding-7")
    with pytest.raises(ModelNotFound, match="no model 'gemini-embedding-7'"):
        embedded(embedder, 2)
    assert sent(server)[0]["content"]["parts"][0]["text"].startswith("title: Title 0 | text: ")
    assert embedder.usage.cost_usd is None


def test_an_unusual_dimension_is_allowed_with_one_warning(make: Make) -> None:
    with pytest.warns(UserWarning, match="recommended at 768, 1536 or 3072"):
        embedder = make(dim=200)
    assert embedded(make(dim=200), 2).shape == (2, 200)
    assert embedder.fingerprint == make(dim=200).fingerprint


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 64},
        {"dim": 4_000},
        {"task": "search"},
        {"concurrency": 0},
        {"rpm": 0},
        {"tpm": -1.0},
        {"deadline_s": 0},
        {"rpm": math.nan},
    ],
)
def test_an_argument_out_of_range_says_what_was_expected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        GeminiEmbedder(**wrong)


def test_a_redirect_is_not_followed_and_the_key_stays_here(
    server: GeminiServer, make: Make
) -> None:
    async def main() -> None:
        async with make() as embedder:
            await embedder.aembed_query("y")

    with GeminiServer() as elsewhere:
        server.fail_when(lambda call: True, faults.redirected(elsewhere.url))
        with pytest.raises(EmbedderUnavailable, match="redirect"):
            make().embed_query("x")
        with pytest.raises(EmbedderUnavailable, match="redirect"):
            asyncio.run(main())
        assert elsewhere.calls == []
    assert len(server.calls) == 2


def test_a_reply_that_dribbles_in_does_not_outlast_its_time(
    server: GeminiServer, make: Make
) -> None:
    server.fail_when(lambda call: True, faults.dribbled(0.02))
    begin = time.monotonic()
    with pytest.raises(EmbedderUnavailable, match="cannot be reached or broke off"):
        make(deadline_s=1.0).embed_query("x")
    # The body of one reply would take minutes.
    assert time.monotonic() - begin < 30


def test_the_environment_cannot_turn_it_elsewhere_without_a_word(
    server: GeminiServer,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v1alpha")
    make().embed_query("x")
    assert server.calls[0].path.startswith("/v1/models/")
    assert f"go to {server.url}, as GOOGLE_GEMINI_BASE_URL says" in caplog.text


def test_a_client_of_ones_own_is_used_and_left_open(
    server: GeminiServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google import genai

    monkeypatch.delenv("GOOGLE_GEMINI_BASE_URL")
    options = {"base_url": server.url, "api_version": "v1beta"}
    with genai.Client(api_key=server.key, http_options=options) as client:  # type: ignore[arg-type]
        with GeminiEmbedder(client=client, rpm=math.inf) as embedder:
            embedded(embedder, 3)
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(embedder)
        client.models.embed_content(model="gemini-embedding-001", contents="still open")
    assert [call.path.split("/")[1] for call in server.calls] == ["v1beta", "v1beta"]


def test_query_vectors_are_kept_for_the_next_time(server: GeminiServer, make: Make) -> None:
    embedder = make()
    first = embedder.embed_query("again")
    first[:] = 0.0  # the caller's own
    assert np.linalg.norm(embedder.embed_query("again")) == pytest.approx(1.0)
    assert asyncio.run(embedder.aembed_query("again")) == pytest.approx(
        embedder.embed_query("again")
    )
    assert len(server.calls) == 1


def test_only_the_last_queries_are_kept(
    server: GeminiServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragkit.gemini.embedder._QUERIES_KEPT", 2)
    embedder = make()
    for query in ("a", "b", "a", "c", "a", "b"):
        embedder.embed_query(query)
    assert [call.texts for call in server.calls] == [["a"], ["b"], ["c"], ["b"]]


QUERIES = [f"query number {i}" for i in range(250)]


@pytest.mark.parametrize("awaited", [False, True])
def test_many_queries_go_in_calls_of_a_hundred_each_with_its_task(
    server: GeminiServer, make: Make, awaited: bool
) -> None:
    embedder = make(task="code retrieval")
    vectors = many(embedder, QUERIES, awaited=awaited)
    assert sorted(len(call.requests) for call in server.calls) == [82, 84, 84]
    for request in sent(server):
        assert (request["taskType"], "title" in request) == ("CODE_RETRIEVAL_QUERY", False)
    for index in (0, 99, 249):
        alone = make(task="code retrieval").embed_query(QUERIES[index])
        np.testing.assert_allclose(vectors[index], alone, atol=1e-6)


def many(embedder: GeminiEmbedder, texts: list[str], *, awaited: bool) -> np.ndarray[Any, Any]:
    if not awaited:
        return embedder.embed_queries(texts)

    async def main() -> np.ndarray[Any, Any]:
        async with embedder:
            return await embedder.aembed_queries(texts)

    return asyncio.run(main())


def test_many_queries_are_in_flight_at_once(server: GeminiServer, make: Make) -> None:
    server.latency_s = 0.5
    make().embed_queries(QUERIES)
    assert server.max_in_flight == 3


def test_queries_in_the_form_of_the_newer_model_have_their_prefix(
    server: GeminiServer, make: Make
) -> None:
    make("gemini-embedding-2").embed_queries(["a", "b"])
    (call,) = server.calls
    assert call.texts == ["task: search result | query: a", "task: search result | query: b"]


@pytest.mark.parametrize("awaited", [False, True])
def test_equal_queries_are_sent_once_and_known_ones_not_again(
    server: GeminiServer, make: Make, awaited: bool
) -> None:
    embedder = make()
    known = embedder.embed_query("a")
    vectors = many(embedder, ["b", "a", "c", "b"], awaited=awaited)
    assert [call.texts for call in server.calls] == [["a"], ["b", "c"]]
    np.testing.assert_array_equal(vectors[1], known)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    np.testing.assert_array_equal(vectors[2], embedder.embed_query("c"))
    vectors[:] = 0.0  # the caller's own
    assert np.linalg.norm(embedder.embed_queries(["c", "b"]), axis=1) == pytest.approx([1.0, 1.0])
    assert embedder.embed_queries([]).shape == (0, 768)
    assert len(server.calls) == 2


@pytest.mark.parametrize("awaited", [False, True])
def test_refused_queries_are_told_by_their_places_and_the_others_are_kept(
    server: GeminiServer, make: Make, awaited: bool
) -> None:
    embedder = make()
    embedder.embed_query("known")
    server.poison = {"bad"}
    with pytest.raises(TextsRefused, match=r"2 of 6 texts cannot be embedded; text 2: ") as caught:
        many(embedder, ["known", "new", "bad", "new", "bad", "last"], awaited=awaited)
    assert sorted(caught.value.failed) == [2, 4]
    assert sorted(caught.value.vectors) == [0, 1, 3, 5]
    calls = len(server.calls)
    again = embedder.embed_queries(["last", "new", "known"])
    assert len(server.calls) == calls
    for row, index in enumerate((5, 3, 0)):
        np.testing.assert_array_equal(caught.value.vectors[index], again[row])


def test_queries_cut_short_by_a_quota_are_not_paid_for_twice(
    server: GeminiServer, make: Make
) -> None:
    server.quota(per_day=150)
    embedder = make(concurrency=1)
    with pytest.raises(QuotaExhausted) as caught:
        embedder.embed_queries(["again", *QUERIES, "again"])
    assert sorted(caught.value.vectors) == [*range(84), 251]
    server.quota()
    texts = len(sent(server))
    embedder.embed_queries(QUERIES)
    assert len(sent(server)) - texts == 250 - 83


def test_usage_counts_what_was_used_and_what_it_costs(server: GeminiServer, make: Make) -> None:
    embedder = make()
    assert embedder.usage.billed_tokens is None
    server.fail_next(1, faults.status(500))
    embedded(embedder, 150)
    usage = embedder.usage
    assert (usage.texts, usage.calls, usage.retries, usage.near_limit) == (150, 3, 1, 0)
    assert usage.estimated_tokens > 900
    tokens = usage.billed_tokens or usage.estimated_tokens
    assert usage.cost_usd == pytest.approx(tokens * 0.15 / 1e6)
    assert usage.waited_s > 0
    with pytest.raises(AttributeError):
        usage.texts = 0  # type: ignore[misc]


def test_a_forecast_names_the_cost_and_the_scarcer_quota(make: Make) -> None:
    embedder = make(rpm=3_000, tpm=1_000_000)
    by_texts = embedder.forecast(9_000, 2_000_000)
    assert (by_texts.cost_usd, by_texts.minutes) == (pytest.approx(0.3), 3.0)
    assert embedder.forecast(300, 5_000_000).minutes == 5.0
    assert make("gemini-embedding-2").forecast(1, 1_000_000).cost_usd == pytest.approx(0.2)


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("task", ["retrieval", "code retrieval"])
def test_an_embedder_is_rebuilt_from_its_fingerprint(make: Make, model: str, task: str) -> None:
    embedder = make(model, 1536, task=task)
    again = GeminiEmbedder.from_fingerprint(embedder.fingerprint, concurrency=3)
    assert repr(again) == repr(embedder) == f"GeminiEmbedder('{model}', dim=1536, task='{task}')"
    assert again is not None
    assert again.fingerprint == embedder.fingerprint


def test_fingerprints_differ_by_all_that_a_vector_depends_on(make: Make) -> None:
    embedders = [
        make(),
        make(dim=1536),
        make("gemini-embedding-2"),
        make(task="question answering"),
    ]
    assert len({embedder.fingerprint for embedder in embedders}) == 4


@pytest.mark.parametrize("fingerprint", [None, "hash-v1 dim=512", "gemini-embedding-001 dim=768"])
def test_a_fingerprint_of_another_embedder_is_none_of_ours(fingerprint: str | None) -> None:
    assert GeminiEmbedder.from_fingerprint(fingerprint) is None


def test_it_is_an_embedder(make: Make) -> None:
    assert isinstance(make(), ragkit.Embedder)


def test_importing_it_loads_no_library_of_google() -> None:
    program = (
        "import sys, ragkit.gemini; e = ragkit.gemini.GeminiEmbedder(); e.fingerprint; "
        "e.forecast(1, 1); repr(e); print('\\n'.join(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & {"google", "httpx", "httpx2", "pydantic", "aiohttp", "requests"}


def test_an_interrupt_leaves_no_thread_behind(server: GeminiServer, make: Make) -> None:
    server.latency_s = 0.3
    embedder = make(rpm=6_000)  # a second between calls: some are asleep, some in flight
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def interrupt() -> None:
        if not came(server, 2):
            return
        # As a terminal does it: a signal, which wakes the main thread wherever it waits.
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        embedded(embedder, 1_000)
    assert call_threads() == []
    assert len(server.calls) < 10


def test_closing_ends_a_run_under_way(server: GeminiServer, make: Make) -> None:
    embedder = make(rpm=6_000)

    def close() -> None:
        came(server, 2)  # by then the first has been answered
        time.sleep(0.1)
        embedder.close()

    threading.Thread(target=close, daemon=True).start()
    with pytest.raises(EmbedderUnavailable, match="closed while it was embedding") as caught:
        embedded(embedder, 1_000)
    assert caught.value.vectors
    assert call_threads() == []
    # It can be used again.
    assert embedder.embed_query("x").shape == (768,)


def test_a_cancelled_coroutine_hangs_up(server: GeminiServer, make: Make) -> None:
    server.latency_s = 30.0

    async def main() -> float:
        async with make() as embedder:
            task = asyncio.create_task(embedder.aembed_documents(["a", "b"], titles=["", ""]))
            assert await asyncio.to_thread(came, server, 1)
            begin = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - begin

    assert asyncio.run(main()) < 10


def test_one_embedder_serves_several_event_loops(server: GeminiServer, make: Make) -> None:
    embedder = make()

    async def main() -> Any:
        try:
            return await embedder.aembed_documents(numbered(150), titles=["T"] * 150)
        finally:
            await embedder.aclose()

    assert asyncio.run(main()) == pytest.approx(asyncio.run(main()))


def test_a_pickled_embedder_takes_the_key_of_its_new_home(
    server: GeminiServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = make(concurrency=3, task="code retrieval")
    wanted = embedder.embed_query("x")
    raw = pickle.dumps(embedder)
    assert server.key.encode() not in raw
    again = pickle.loads(raw)  # noqa: S301
    assert repr(again) == repr(embedder)
    with pytest.raises(AuthError):
        again.embed_query("x")
    monkeypatch.setenv("GEMINI_API_KEY", server.key)
    with again:
        assert again.embed_query("x") == pytest.approx(wanted)


def test_a_title_and_a_query_find_their_passage(make: Make) -> None:
    embedder = make()
    texts = ["rotate the signing keys twice a year", "bread needs flour and water"]
    vectors = embedder.embed_documents(texts, titles=["Security", "Baking"])
    assert np.argmax(vectors @ embedder.embed_query("how do I rotate keys")) == 0
    assert np.argmax(vectors @ embedder.embed_query("flour for bread")) == 1


class Canary:
    """A key, and whoever may not have it."""

    def __init__(self, key: str) -> None:
        self.key = key

    def assert_not_in(self, *places: object) -> None:
        for place in places:
            raw = place if isinstance(place, bytes) else str(place).encode()
            assert self.key.encode() not in raw

    def assert_not_in_error(self, error: BaseException | None) -> None:
        seen: list[BaseException] = []
        while error is not None and error not in seen:
            seen.append(error)
            self.assert_not_in(str(error), repr(error), vars(error), error.args)
            self.assert_not_in(*traceback.format_exception(error), pickle.dumps(error))
            error = error.__cause__ or error.__context__


LEAKY = "Consumer 'api_key:{key}' has been suspended."


@pytest.mark.parametrize(
    "fault",
    [
        *IN_PASSING.values(),
        faults.day_quota(),
        faults.status(403),
        faults.status(404),
        faults.status(400),
        faults.redirected("http://127.0.0.1:9"),
        "leaky",
    ],
    ids=[*IN_PASSING, "day", "403", "404", "400", "redirect", "key in the message"],
)
def test_no_error_and_no_log_holds_the_key(
    server: GeminiServer, make: Make, fault: Fault | str, caplog: pytest.LogCaptureFixture
) -> None:
    canary = Canary(server.key)
    if isinstance(fault, str):
        fault = faults.status(403, LEAKY.format(key=server.key))
    server.fail_when(lambda call: True, fault)
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)
    embedder = make(deadline_s=0.1)
    errors: list[EmbeddingError] = []

    async def main() -> None:
        async with embedder:
            await embedder.aembed_documents(["a", "b"], titles=["", ""])

    for run in (lambda: embedded(embedder, 2), lambda: asyncio.run(main())):
        with pytest.raises(EmbeddingError) as caught:
            run()
        errors.append(caught.value)
    for error in errors:
        canary.assert_not_in_error(error)
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(again), str(again)) == (type(error), str(error))
    canary.assert_not_in(repr(embedder), embedder, embedder.fingerprint, embedder.usage)
    canary.assert_not_in(pickle.dumps(embedder), caplog.text, *map(vars, caplog.records))
    assert server.calls[0].key_ok


def test_an_index_holds_no_key(server: GeminiServer, make: Make, tmp_path: Path) -> None:
    canary = Canary(server.key)
    (tmp_path / "docs").mkdir()
    for i in range(3):
        (tmp_path / "docs" / f"{i}.md").write_text(f"# Note {i}\n\nAbout keys and locks {i}.\n")
    with EdgeClient(tmp_path / "db") as client:
        docs = ragkit.Collection(client, "docs", embedder=make())
        report = ragkit.Indexer(docs).sync(tmp_path / "docs")
        hits = ragkit.Retriever(docs).search("locks", mode="dense")
        canary.assert_not_in(report, docs, docs.manifest, hits)
    assert report.added == 3
    assert len(hits) == 3
    files = [path for path in (tmp_path / "db").rglob("*") if path.is_file()]
    canary.assert_not_in(*(path.read_bytes() for path in files))
    assert files
    titles = [request.get("title") for request in sent(server)]
    assert sorted(filter(None, titles)) == ["Note 0", "Note 1", "Note 2"]


def test_whatever_looks_like_a_key_is_kept_out_of_messages() -> None:
    secret = Secret("my-own")
    said = "Consumer 'api_key:AIzaSyA1234567890' of my-own and AIzaSyB-0987654321x"
    assert secret.redact(said) == "Consumer 'api_key:[key]' of [key] and [key]"
    assert "my-own" not in repr(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)


class VertexHandler(BaseHTTPRequestHandler):
    """Answers as Vertex AI does for gemini-embedding-001, in the form of either SDK."""

    calls: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.calls.append((self.path.partition(":")[2], body))
        values = [0.5] * 768
        reply = (
            {"predictions": [{"embeddings": {"values": values, "statistics": {"token_count": 4}}}]}
            if self.path.endswith(":predict")
            else {"embedding": {"values": values}, "usageMetadata": {"promptTokenCount": 4}}
        )
        raw = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_on_vertex_each_call_holds_one_text_with_its_title_and_nothing_is_cut() -> None:
    from google import genai

    handler = type("Handler", (VertexHandler,), {"calls": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    options = {"base_url": f"http://127.0.0.1:{http.server_port}"}
    try:
        with genai.Client(vertexai=True, api_key="k", http_options=options) as client:  # type: ignore[arg-type]
            embedder = GeminiEmbedder(client=client, rpm=math.inf, tpm=math.inf)
            vectors = embedder.embed_documents(["a", "b"], titles=["A", "B"])
            assert vectors.shape == (2, 768)
            embedder.embed_query("c")
    finally:
        http.shutdown()
        http.server_close()
    told = sorted(json.dumps(body, sort_keys=True) for _, body in handler.calls)
    assert len(told) == 3
    assert sum('"title": "A"' in body and "RETRIEVAL_DOCUMENT" in body for body in told) == 1
    assert sum('"title": "B"' in body and "RETRIEVAL_DOCUMENT" in body for body in told) == 1
    assert sum("title" not in body and "RETRIEVAL_QUERY" in body for body in told) == 1
    assert all('"autoTruncate": false' in body for body in told)
    assert embedder.usage.billed_tokens == 12
