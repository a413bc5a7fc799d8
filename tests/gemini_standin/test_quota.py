from __future__ import annotations

import math
import re
import time
from concurrent.futures import ThreadPoolExecutor

from gemini_server import GeminiServer

from gemini_standin.asking import (
    TWO,
    asked,
    batch_embed,
)


def test_a_quota_counts_contents_and_says_when_to_come_back(server: GeminiServer) -> None:
    server.quota(per_minute=5)
    assert batch_embed(server, asked("a"), asked("b"), asked("c"))[0] == 200
    status, reply = batch_embed(server, asked("d"), asked("e"), asked("f"))
    assert (status, reply["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    failure, info = reply["error"]["details"]
    assert failure["@type"] == "type.googleapis.com/google.rpc.QuotaFailure"
    violation = failure["violations"][0]
    assert violation["quotaId"] == "EmbedContentPerMinutePerProjectPerUserPerModel-PaidTier"
    assert violation["quotaValue"] == "5"
    assert violation["quotaMetric"].endswith("/embed_content_paid_tier_requests")
    assert info["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
    told = re.search(r"Please retry in ([\d.]+)s\.", reply["error"]["message"])
    assert told is not None
    assert info["retryDelay"] == f"{math.floor(float(told[1]))}s"
    assert 50 < float(told[1]) <= 60


def test_calls_at_once_never_get_more_than_the_quota(server: GeminiServer) -> None:
    server.quota(per_minute=10)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: batch_embed(server, asked("a"), asked("b")), range(16)))
    assert [status for status, _ in replies].count(200) == 5


def test_a_call_that_was_turned_away_does_not_count(server: GeminiServer) -> None:
    server.quota(per_minute=5)
    assert batch_embed(server, *[asked("a")] * 3)[0] == 200
    assert batch_embed(server, *[asked("a")] * 3)[0] == 429
    assert batch_embed(server, asked(""))[0] == 400
    assert batch_embed(server, *[asked("a")] * 2)[0] == 200
    assert batch_embed(server, asked("a"))[0] == 429


def test_each_model_has_its_own_quota(server: GeminiServer) -> None:
    server.quota(per_minute=1)
    assert batch_embed(server, asked("a"))[0] == 200
    assert batch_embed(server, asked("a", TWO), model=TWO)[0] == 200
    assert batch_embed(server, asked("a"))[0] == 429


def test_the_quota_is_there_again_after_the_time_it_tells(server: GeminiServer) -> None:
    server.quota(per_minute=1, minute_s=0.3)
    assert batch_embed(server, asked("a"))[0] == 200
    status, reply = batch_embed(server, asked("a"))
    assert status == 429
    time.sleep(float(reply["error"]["details"][1]["retryDelay"].rstrip("s")) + 0.01)
    assert batch_embed(server, asked("a"))[0] == 200


def test_tokens_have_a_quota_of_their_own(server: GeminiServer) -> None:
    server.quota(tokens_per_minute=10)
    assert batch_embed(server, asked("one two three four five six"))[0] == 200
    status, reply = batch_embed(server, asked("one two three four five six"))
    assert status == 429
    assert "Tokens" in reply["error"]["details"][0]["violations"][0]["quotaId"]


def test_the_days_quota_tells_a_short_delay_all_the_same(server: GeminiServer) -> None:
    server.quota(per_minute=100, per_day=2)
    assert batch_embed(server, asked("a"), asked("b"))[0] == 200
    status, reply = batch_embed(server, asked("a"))
    assert status == 429
    failure, info = reply["error"]["details"]
    assert ["PerDay" in violation["quotaId"] for violation in failure["violations"]] == [True]
    assert float(info["retryDelay"].rstrip("s")) <= 60
    server.quota(per_day=2)
    assert batch_embed(server, asked("a"))[0] == 200
