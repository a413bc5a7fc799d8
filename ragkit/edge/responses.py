"""What a Qdrant server would answer to a request that it refuses."""

from __future__ import annotations

import json
from http import HTTPStatus

from httpx import Headers
from qdrant_client.http.exceptions import UnexpectedResponse


def bad_request(message: str) -> UnexpectedResponse:
    """The server's 400: the request itself is wrong."""
    return _refusal(HTTPStatus.BAD_REQUEST, message)


def not_found(message: str) -> UnexpectedResponse:
    """The server's 404: what the request names is not there."""
    return _refusal(HTTPStatus.NOT_FOUND, message)


def conflict(message: str) -> UnexpectedResponse:
    """The server's 409: what the request would create is there already."""
    return _refusal(HTTPStatus.CONFLICT, message)


def unsupported(what: str) -> NotImplementedError:
    """An error for what only a server can do."""
    return NotImplementedError(
        f"{what} is not available on the embedded engine: connect to a Qdrant server for it"
    )


def _refusal(status: HTTPStatus, message: str) -> UnexpectedResponse:
    body = json.dumps({"status": {"error": message}, "time": 0.0})
    return UnexpectedResponse(
        status_code=status.value,
        reason_phrase=status.phrase,
        content=body.encode(),
        headers=Headers({"content-type": "application/json"}),
    )
