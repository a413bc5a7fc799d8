"""What can go wrong between a client and the API, each as a `Fault` for the server to commit.

A fault gets the call and `work`, which answers it rightly, and gives the answer that is sent. Some
never call `work`: the call then has no effect and costs no quota, as with the real thing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import urlencode

from gemini_standin.calls import Call
from gemini_standin.quota import exhausted_error, per_day, per_minute
from gemini_standin.wire import STATUSES, ApiError, Reply

Work: TypeAlias = Callable[[], Reply]
Fault: TypeAlias = Callable[[Call, Work], Reply]

_MESSAGES = {
    408: "The request timed out. Please try again.",
    500: "An internal error has occurred. Please retry or report the problem.",
    503: "The model is overloaded. Please try again later.",
    504: "The request timed out. Please try again.",
}


def rate_limited(retry_after_s: float | None = None) -> Fault:
    """429 for the minute's quota, with `RetryInfo` or, by default, without any hint."""
    limit = per_minute(3000, 60.0)
    violation = {"quotaMetric": limit.metric, "quotaId": limit.quota_id, "quotaValue": "3000"}
    violations = [] if retry_after_s is None else [violation]
    return _instead(exhausted_error(retry_after_s, violations).reply())


def day_quota(retry_after_s: float = 2.0) -> Fault:
    """429 for the day's quota, with a short `retryDelay` all the same."""
    limit = per_day(1000)
    violation = {"quotaMetric": limit.metric, "quotaId": limit.quota_id, "quotaValue": "1000"}
    return _instead(exhausted_error(retry_after_s, [violation]).reply())


def status(code: int, message: str = "") -> Fault:
    """An error of that HTTP status, in Google's JSON."""
    if code not in STATUSES:
        raise ValueError(f"expected one of {sorted(STATUSES)}, got {code}")
    return _instead(ApiError(code, message or _MESSAGES.get(code, "An error.")).reply())


def error_page(code: int = 502) -> Fault:
    """An error from something in between that speaks HTML."""
    page = b"<html><head><title>502 Bad Gateway</title></head></html>"
    return _instead(Reply(status=code, body=page, headers={"Content-Type": "text/html"}))


def redirected(to: str) -> Fault:
    """A redirect to the same path at another origin, such as another server's `url`."""

    def fault(call: Call, work: Work) -> Reply:
        query = f"?{urlencode(call.query)}" if call.query else ""
        return Reply(status=307, body=b"", headers={"Location": f"{to}{call.path}{query}"})

    return fault


def closed() -> Fault:
    """The connection is closed without a word."""
    return _instead(Reply(delivery="closed"))


def truncated() -> Fault:
    """The connection is closed in the middle of the body."""
    return lambda call, work: replace(work(), delivery="truncated")


def dribbled(pause_s: float) -> Fault:
    """The body comes a byte at a time: no single read times out."""
    return lambda call, work: replace(work(), delivery="dribbled", pause_s=pause_s)


def bad_json() -> Fault:
    """A body of the length announced that ends in the middle of the JSON."""

    def fault(call: Call, work: Work) -> Reply:
        reply = work()
        return replace(reply, body=reply.body[: len(reply.body) // 2])

    return fault


def null_reply() -> Fault:
    """`null` for a body."""
    return _body(b"null")


def empty_reply() -> Fault:
    """`{}` for a body."""
    return _body(b"{}")


def short_count(by: int = 1) -> Fault:
    """The last vectors are missing."""
    return _edit(lambda embeddings: embeddings[: len(embeddings) - by])


def too_many(by: int = 1) -> Fault:
    """The last vector comes several times."""
    return _edit(lambda embeddings: embeddings + embeddings[-1:] * by)


def nan(at: int = 0) -> Fault:
    """A number of one vector is NaN, written as Python writes it."""
    return _edit_values(at, lambda values: [float("nan"), *values[1:]])


def null_value(at: int = 0) -> Fault:
    """A number of one vector is null."""
    return _edit_values(at, lambda values: [None, *values[1:]])


def null_vector(at: int = 0) -> Fault:
    """One vector is null."""
    return _edit(lambda embeddings: [*embeddings[:at], None, *embeddings[at + 1 :]])


def wrong_dimension(at: int = 0) -> Fault:
    """One vector lacks its last number."""
    return _edit_values(at, lambda values: values[:-1])


def zero_vector(at: int = 0) -> Fault:
    """One vector is all zeros."""
    return _edit_values(at, lambda values: [0.0] * len(values))


def _instead(reply: Reply) -> Fault:
    return lambda call, work: reply


def _body(body: bytes) -> Fault:
    return lambda call, work: replace(work(), body=body)


def _edit(change: Callable[[list[Any]], list[Any]]) -> Fault:
    """Change the vectors of a right reply to `batchEmbedContents`; leave other replies alone."""

    def fault(call: Call, work: Work) -> Reply:
        reply = work()
        content = json.loads(reply.body) if reply.status == 200 else None
        if not isinstance(content, dict) or "embeddings" not in content:
            return reply
        content["embeddings"] = change(content["embeddings"])
        return replace(reply, body=json.dumps(content).encode())

    return fault


def _edit_values(at: int, change: Callable[[list[Any]], list[Any]]) -> Fault:
    def edit(embeddings: list[Any]) -> list[Any]:
        changed = {"values": change(embeddings[at]["values"])}
        return [*embeddings[:at], changed, *embeddings[at + 1 :]]

    return _edit(edit)
