"""Publish events to Fernpost and check the signatures of deliveries.

Only the standard library is used, so that the file can be copied into any project. Publishing:

    client = FernpostClient("relay.example.com", key=os.environ["FERNPOST_KEY"])
    client.publish("invoice.paid", {"invoice": "INV-1042"}, idempotency_key="outbox-88213")

Receiving, in any web framework, with the raw bytes of the body:

    verify_signature(body, headers["Fernpost-Signature"], secret)
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import random
import time
from typing import Any

# A delivery whose time is further away than this is refused, as a replay or a wrong clock.
TOLERANCE_S = 300

# Codes that begin so are tried again: FP-3 goes away by itself (rate limit, locked store, full
# disk, standby), and FP-0 is no answer of Fernpost at all, but of a proxy or of nobody.
_RETRYABLE = ("FP-0", "FP-3")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class FernpostError(Exception):
    """The relay refused a call.

    Attributes:
        code: The error code, such as "FP-1003", or "FP-0000" where the answer had none.
        status: The HTTP status.
    """

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(f"{code} ({status}): {message}")
        self.code = code
        self.status = status


class InvalidSignature(Exception):
    """A delivery was not signed by Fernpost, or too long ago."""


class FernpostClient:
    """Publishes events; one client may be used for the life of the program."""

    def __init__(self, host: str, *, key: str, timeout_s: float = 10.0, attempts: int = 6) -> None:
        self._host = host
        self._key = key
        self._timeout_s = timeout_s
        self._attempts = attempts

    def publish(self, topic: str, data: Any, *, idempotency_key: str) -> str:
        """Publish one event and return its id.

        The same idempotency key is sent with each attempt, so that an event whose first answer was
        lost is not stored twice.

        Raises:
            FernpostError: The call was refused, or still failed at the last attempt.
        """
        body = json.dumps({"topic": topic, "data": data}).encode()
        for attempt in range(1, self._attempts + 1):
            try:
                return str(self._post("/v2/events", body, idempotency_key)["id"])
            except FernpostError as error:
                if not error.code.startswith(_RETRYABLE) or attempt == self._attempts:
                    raise
            except (OSError, http.client.HTTPException) as error:
                if attempt == self._attempts:
                    raise FernpostError("FP-0000", 0, f"no answer: {error}") from error
            time.sleep(_pause_s(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _post(self, path: str, body: bytes, idempotency_key: str) -> dict[str, Any]:
        connection = http.client.HTTPSConnection(self._host, timeout=self._timeout_s)
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key,
        }
        try:
            connection.request("POST", path, body=body, headers=headers)
            response = connection.getresponse()
            answer = _json_object(response.read())
        finally:
            connection.close()
        if response.status == http.client.ACCEPTED and "id" in answer:
            return answer
        error = answer.get("error", {})
        raise FernpostError(error.get("code", "FP-0000"), response.status, error.get("message", ""))


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the object in a body, or an empty one for what is none, such as a proxy's page."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _pause_s(attempt: int) -> float:
    """Return a random pause below a limit that doubles with each attempt."""
    limit = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
    return random.uniform(0, limit)  # noqa: S311 - spreads retries, guards nothing


def verify_signature(
    body: bytes,
    header: str,
    secret: str,
    *,
    now: float | None = None,
    tolerance_s: int = TOLERANCE_S,
) -> None:
    """Check that a delivery comes from Fernpost and is fresh.

    Every `v1` of the header is tried: during the 24 hours after a rotation of the secret there are
    two, and the receiver may know either.

    Args:
        body: The bytes as they came, never JSON that was parsed and written again.
        header: The value of `Fernpost-Signature`, such as "t=1762245000,v1=6c0f…".
        secret: The endpoint's signing secret.
        now: Seconds since the epoch, the clock if it is None.
        tolerance_s: How far the delivery's time may be away from `now`.

    Raises:
        InvalidSignature: No signature fits, or the time is too far away.
    """
    fields = [part.partition("=")[::2] for part in header.split(",")]
    sent_at = next((value for name, value in fields if name == "t"), "")
    # The header is a stranger's: digits without end would be no number that Python converts.
    if not sent_at.isascii() or not sent_at.isdigit() or len(sent_at) > 12:
        raise InvalidSignature("the header has no time")
    if abs((time.time() if now is None else now) - int(sent_at)) > tolerance_s:
        raise InvalidSignature(f"signed more than {tolerance_s} seconds away from now")
    expected = hmac.new(secret.encode(), f"{sent_at}.".encode() + body, hashlib.sha256).hexdigest()
    candidates = [value.encode() for name, value in fields if name == "v1"]
    if not any(hmac.compare_digest(expected.encode(), value) for value in candidates):
        raise InvalidSignature("no signature fits this body and secret")
