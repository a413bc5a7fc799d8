"""Errors as the server words them: HTTP codes, JSON bodies, gRPC codes and metadata.

The mapping is that of the server's `HttpError::status_code` and `From<StorageError> for Status`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import grpc
from pydantic import ValidationError
from qdrant_client.http.exceptions import UnexpectedResponse

from ragkit.errors import StoreError

# The server's own word for a full disk or quota, which shares its gRPC code with rate limits.
INSUFFICIENT_STORAGE = "qdrant-insufficient-storage"

_GRPC_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Refusal(Exception):
    """An error for the caller.

    Attributes:
        status: The HTTP status; the gRPC code follows from it.
        message: The server's words.
        retry_after_s: With 429, when to come again.
        body: Instead of the JSON that the server would send, what something before it sends.
        content_type: Of `body`.
    """

    def __init__(
        self,
        *,
        status: int,
        message: str,
        retry_after_s: int | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.body = body
        self.content_type = content_type

    @property
    def code(self) -> grpc.StatusCode:
        """The same for gRPC."""
        return _GRPC_CODES[self.status]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What gRPC sends along."""
        if self.retry_after_s is not None:
            return (("retry-after", str(self.retry_after_s)),)
        return ((INSUFFICIENT_STORAGE, "1"),) if self.status == 507 else ()

    @property
    def headers(self) -> Mapping[str, str]:
        """What HTTP sends along."""
        retry = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return {"Content-Type": self.content_type, **retry}

    def content(self) -> bytes:
        """The HTTP body."""
        if self.body is not None:
            return self.body
        return json.dumps({"status": {"error": self.message}, "time": 0.0}).encode()


def bad_input(message: str) -> Refusal:
    """The server's `BadInput`."""
    return Refusal(status=400, message=f"Wrong input: {message}")


def bad_request(message: str) -> Refusal:
    """The server's `BadRequest`."""
    return Refusal(status=400, message=f"Bad request: {message}")


def not_found(message: str) -> Refusal:
    """The server's `NotFound`."""
    return Refusal(status=404, message=f"Not found: {message}")


def not_here(what: str) -> Refusal:
    """For what a server does and this stand-in does not."""
    return Refusal(status=501, message=f"the stand-in of the tests cannot do this: {what}")


def refusal_of(exc: Exception) -> Refusal:
    """What the server would answer where the engine, or reading the request, raised this."""
    match exc:
        case Refusal():
            return exc
        case UnexpectedResponse():
            return _worded(exc.status_code or 500, exc.structured()["status"]["error"])
        case NotImplementedError():
            return not_here(str(exc))
        case StoreError():
            return Refusal(status=500, message=f"Service internal error: {exc}")
        case ValueError() if not isinstance(exc, ValidationError):
            return bad_input(str(exc))  # of a conversion: a message that says nothing
        case _:
            what = f"{type(exc).__name__}: {exc}"
            return Refusal(status=500, message=f"Service internal error: {what}")


def _worded(status: int, message: str) -> Refusal:
    """A validation that the engine answers with 400 is the server's 422."""
    return Refusal(
        status=422 if message.startswith("Validation error") else status, message=message
    )
