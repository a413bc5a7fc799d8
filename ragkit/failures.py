"""What went wrong at a store, in one vocabulary for REST, gRPC and the embedded engine."""

from __future__ import annotations

from enum import Enum, auto
from http import HTTPStatus
from json import JSONDecodeError

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ragkit.errors import StoreFull


class Failure(Enum):
    """What a failed call means for the one who made it."""

    REFUSED = auto()  # the request is wrong, and stays wrong
    NOT_FOUND = auto()
    CONFLICT = auto()  # what should be created is there already
    DENIED = auto()
    BUSY = auto()  # not done: too much at once
    UNREACHABLE = auto()  # done or not, nobody knows
    BROKEN = auto()  # an error of the server's own, perhaps a passing one; done or not as well
    FULL = auto()
    OTHER = auto()


class StillQueued(QdrantException):
    """A write that was accepted and not carried out within the server's own timeout."""


# lib/storage/src/content_manager/conversions.rs and src/actix/helpers.rs of Qdrant 1.19.
_OF_STATUS: dict[int, Failure] = {
    HTTPStatus.BAD_REQUEST: Failure.REFUSED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Failure.REFUSED,
    HTTPStatus.UNPROCESSABLE_ENTITY: Failure.REFUSED,
    HTTPStatus.NOT_FOUND: Failure.NOT_FOUND,
    HTTPStatus.CONFLICT: Failure.CONFLICT,
    HTTPStatus.UNAUTHORIZED: Failure.DENIED,
    HTTPStatus.FORBIDDEN: Failure.DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: Failure.BUSY,
    HTTPStatus.REQUEST_TIMEOUT: Failure.UNREACHABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: Failure.BROKEN,
    HTTPStatus.NOT_IMPLEMENTED: Failure.OTHER,
    HTTPStatus.BAD_GATEWAY: Failure.UNREACHABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: Failure.UNREACHABLE,
    HTTPStatus.GATEWAY_TIMEOUT: Failure.UNREACHABLE,
    HTTPStatus.INSUFFICIENT_STORAGE: Failure.FULL,
}
_OF_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: Failure.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Failure.REFUSED,
    grpc.StatusCode.NOT_FOUND: Failure.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Failure.CONFLICT,
    grpc.StatusCode.UNAUTHENTICATED: Failure.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: Failure.DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure.BUSY,
    grpc.StatusCode.UNAVAILABLE: Failure.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.UNREACHABLE,
    grpc.StatusCode.INTERNAL: Failure.BROKEN,
    grpc.StatusCode.ABORTED: Failure.UNREACHABLE,
    grpc.StatusCode.CANCELLED: Failure.UNREACHABLE,
    grpc.StatusCode.FAILED_PRECONDITION: Failure.BROKEN,  # 500 over REST
    grpc.StatusCode.UNKNOWN: Failure.BROKEN,
}
_FULL_MARK = "qdrant-insufficient-storage"
_LONGEST_REASON = 500  # characters; a server may append the failure of every shard


def kind_of(error: BaseException) -> Failure:
    """What a failed call of a client means."""
    if isinstance(error, ResourceExhaustedResponse) or _is_undated(error):
        return Failure.BUSY
    if isinstance(error, UnexpectedResponse):
        return _by_words(error, _of_status(error.status_code or 0))
    if isinstance(error, ResponseHandlingException):
        # Also raised for an answer that does not parse, which no second attempt changes.
        return Failure.UNREACHABLE if _is_of_network(error.source) else Failure.OTHER
    if isinstance(error, StillQueued):
        return Failure.UNREACHABLE
    if isinstance(error, grpc.RpcError):
        by_code = _OF_CODE.get(_code(error), Failure.OTHER)
        return Failure.FULL if _is_full(error) else _by_words(error, by_code)
    if isinstance(error, JSONDecodeError):
        return Failure.BROKEN  # a page of something in between, in an answer of status 200
    return Failure.FULL if isinstance(error, StoreFull) else Failure.OTHER


def lacks_shard_key(error: BaseException) -> bool:
    """Whether a shard key was named that has not been created, so that nothing is there."""
    words = reason(error)
    return kind_of(error) is Failure.REFUSED and "Shard key" in words and "not found" in words


def is_unsure(error: BaseException) -> bool:
    """Whether a write that failed so may have been done all the same."""
    return kind_of(error) in (Failure.UNREACHABLE, Failure.BROKEN)


def retry_after_s(error: BaseException) -> float | None:
    """How many seconds the server asked to wait, if it did."""
    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    if isinstance(error, UnexpectedResponse):  # of 503; the client reads it of 429 alone
        asked = error.headers.get("Retry-After", "")
        return float(asked) if asked.isdecimal() else None
    return None


def reason(error: BaseException) -> str:
    """The server's own words, in one line."""
    words = " ".join(_words(error).split())
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]} ..."


def _words(error: BaseException) -> str:
    if isinstance(error, UnexpectedResponse):
        return _stated(error) or f"{error.status_code} {error.reason_phrase}"
    if isinstance(error, ResponseHandlingException):
        name = type(error.source).__name__
        # A header that cannot be sent is shown by httpx with its value: the key, maybe.
        shown = "" if isinstance(error.source, httpx.LocalProtocolError) else str(error.source)
        return f"{name}: {shown}" if shown else name
    if isinstance(error, grpc.RpcError):
        details = getattr(error, "details", lambda: None)()
        return f"{_code(error).name}: {details}" if details else _code(error).name
    if isinstance(error, JSONDecodeError):
        return "the answer is not JSON"
    return str(error).strip() or type(error).__name__


def _of_status(status: int) -> Failure:
    # Proxies have numbers of their own, such as 520 to 530.
    unknown = Failure.BROKEN if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Failure.OTHER
    return _OF_STATUS.get(status, unknown)


def _is_of_network(source: object) -> bool:
    """Whether a request was lost on its way, and not one that could never be sent."""
    hopeless = isinstance(source, httpx.LocalProtocolError | httpx.UnsupportedProtocol)
    return isinstance(source, httpx.TransportError | OSError) and not hopeless


def _is_undated(error: BaseException) -> bool:
    """Whether it is a 429 whose Retry-After the client could not read: a date, a fraction."""
    return type(error) is QdrantException and "Retry-After" in str(error)


def _by_words(error: BaseException, kind: Failure) -> Failure:
    """Two failures that only their texts tell from others of the same code."""
    if kind is Failure.BROKEN and "No space left on device" in _words(error):
        return Failure.FULL
    # A request of more points than the rate limit allows in a whole minute.
    if kind is Failure.BUSY and "split your request" in _words(error):
        return Failure.REFUSED
    return kind


def _stated(error: UnexpectedResponse) -> str | None:
    try:
        return str(error.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code = getattr(error, "code", lambda: None)()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _is_full(error: grpc.RpcError) -> bool:
    """Whether the disk is full; the code is that of rate limits, a header tells them apart."""
    trailing = getattr(error, "trailing_metadata", lambda: None)() or ()
    return any(key == _FULL_MARK for key, _ in trailing)
