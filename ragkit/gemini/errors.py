"""What the SDK and the libraries below it raise, as `Failure`: the one place where they meet.

A `Failure` holds text alone. The SDK's errors hold the response and with it the request, the key
in its headers, so they are neither kept nor chained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from ragkit.errors import (
    AuthError,
    EmbedderUnavailable,
    EmbeddingError,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
)
from ragkit.gemini.client import Secret
from ragkit.pacing import Failure

_MANY = 1_000  # attempts: in effect the deadline decides
_BAD_REPLY_TRIES = 3
_SHOWN = 300  # characters of a foreign message
_TRANSPORT = {"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "h11", "anyio"}
_SECONDS = re.compile(r"(\d+(?:\.\d*)?)s?")


def failure_of(error: Exception, *, model: str, secret: Secret) -> Failure | None:
    """What to make of an error that an attempt raised; None if it is no failure of the service."""
    from google.genai.errors import APIError

    if isinstance(error, APIError):
        return _of_status(error, model, secret)
    said = secret.redact(f"{type(error).__name__}: {error}")[:_SHOWN]
    if type(error).__module__.startswith("google.auth"):
        return Failure(error=AuthError, message=f"Google refuses the credentials ({said})")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _TRANSPORT:
        return Failure(
            error=EmbedderUnavailable,
            message=f"Gemini cannot be reached or broke off ({said}): check the network",
            tries=_MANY,
        )
    if isinstance(error, EmbeddingError):  # our own check of the reply
        return Failure(error=EmbeddingError, message=str(error), tries=_BAD_REPLY_TRIES)
    if isinstance(error, RuntimeError) and "client has been closed" in str(error):
        return Failure(error=EmbedderUnavailable, message="the connection to Gemini was closed")
    if _is_unreadable(error):
        return Failure(
            error=EmbeddingError,
            message=f"{model}: expected a JSON reply with vectors, got {type(error).__name__}",
            tries=_BAD_REPLY_TRIES,
        )
    return None


def _is_unreadable(error: Exception) -> bool:
    from google.genai.errors import UnknownApiResponseError
    from pydantic import ValidationError

    unreadable = (json.JSONDecodeError, ValidationError, UnicodeError, UnknownApiResponseError)
    return isinstance(error, unreadable)


def _of_status(error: Any, model: str, secret: Secret) -> Failure:
    code, details = int(error.code or 0), list(_details(error.details))
    said = secret.redact(f"{code} {error.status}: {error.message or error.details}")[:_SHOWN]
    hint_s = _retry_after(details)
    if code == HTTPStatus.TOO_MANY_REQUESTS:
        return _of_quota(said, details, hint_s, model)
    if code == HTTPStatus.REQUEST_TIMEOUT or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"Gemini answers {said}"
        return Failure(
            error=EmbedderUnavailable, message=message, tries=_MANY, retry_after_s=hint_s
        )
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or _names_bad_key(said, details):
        message = f"Gemini does not accept the key ({said}): check GEMINI_API_KEY"
        return Failure(error=AuthError, message=message)
    if code == HTTPStatus.NOT_FOUND:
        message = f"Gemini has no model {model!r} ({said}): use gemini-embedding-001"
        return Failure(error=ModelNotFound, message=message)
    if code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
        code == HTTPStatus.BAD_REQUEST and error.status != "FAILED_PRECONDITION"
    ):
        return Failure(error=EmbeddingError, message=f"Gemini refuses it ({said})")
    if HTTPStatus.MULTIPLE_CHOICES <= code < HTTPStatus.BAD_REQUEST:
        message = f"Gemini answers {code}, a redirect, which is not followed: check the address"
        return Failure(error=EmbedderUnavailable, message=message)
    return Failure(error=EmbedderUnavailable, message=f"Gemini answers {said}")


def _of_quota(
    said: str, details: list[Mapping[str, Any]], hint_s: float | None, model: str
) -> Failure:
    violations = [v for d in details for v in _list(d.get("violations"))]
    # The hint of a quota per day is as short as any other, and worth nothing.
    if daily := [v for v in violations if "PerDay" in str(v.get("quotaId"))]:
        value = daily[0].get("quotaValue", "an unknown number of")
        message = (
            f"the day's quota of {model} is used up ({value} texts; {daily[0]['quotaId']}): what "
            "was embedded is kept; run the same again after midnight Pacific time, or raise the "
            "quota"
        )
        return Failure(error=QuotaExhausted, message=message)
    return Failure(
        error=RateLimited,
        message=f"Gemini answers {said}",
        tries=_MANY,
        retry_after_s=hint_s,
        throttled=True,
        items_per_minute=_named_quota(violations),
    )


def _named_quota(violations: list[Mapping[str, Any]]) -> float | None:
    values = [
        float(v["quotaValue"])
        for v in violations
        if "PerMinute" in str(v.get("quotaId"))
        and "token" not in f"{v.get('quotaId')}{v.get('quotaMetric')}".lower()
        and str(v.get("quotaValue")).isdecimal()
        and int(v["quotaValue"]) > 0
    ]
    return min(values, default=None)


def _names_bad_key(said: str, details: list[Mapping[str, Any]]) -> bool:
    """Whether a 400 is about the key: Google answers an invalid one with 400, not 401."""
    return "API key" in said or any(str(d.get("reason")).startswith("API_KEY_") for d in details)


def _retry_after(details: list[Mapping[str, Any]]) -> float | None:
    for detail in details:
        if found := _SECONDS.fullmatch(str(detail.get("retryDelay", ""))):
            seconds = float(found[1])
            # Whole seconds are rounded down: the message beside "21s" says 21.7.
            return seconds + 1.0 if seconds >= 1.0 and seconds.is_integer() else seconds
    return None


def _details(body: Any) -> Iterator[Mapping[str, Any]]:
    """The details of an error reply, of whatever shape it is."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        yield from _list(inner.get("details") if isinstance(inner, Mapping) else None)


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
