"""Where a collection lives: a folder (the embedded engine) or a URL (a Qdrant server).

A client of a server is handed out once the server has answered, has accepted the key and is new
enough; and it speaks gRPC only if the same server was seen to answer there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client import grpc as rpc
from qdrant_client.client_base import QdrantBase
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.connection import get_async_channel, get_channel
from qdrant_client.http.exceptions import ApiException

from ragkit.address import EXPECTED, KEY_HEADER, Address, parse
from ragkit.edge import EdgeClient
from ragkit.failures import reason
from ragkit.server import ServerInfo, read_info, remember

_logger = logging.getLogger(__name__)

T = TypeVar("T")

# Longer than a server's own 60 s, so that it is the server that says what became of a call.
_TIMEOUT_S = 75.0
_REST_ANSWER_S = 10.0
_GRPC_ANSWER_S = 3.0
_LOOKS = 3  # at what both ports list, since a collection may come or go between two calls
_FOREIGN = (ApiException, QdrantException, grpc.RpcError)


def connect(
    location: str | Path,
    *,
    api_key: str | None = None,
    timeout_s: float = _TIMEOUT_S,
    grpc_port: int | None = None,
    prefer_grpc: bool = True,
    allow_insecure_key: bool = False,
) -> QdrantBase:
    """Open a store.

    Args:
        location: A folder gives an `EdgeClient`; an http or https URL gives a `QdrantClient`. A
            URL without a port means port 6333.
        api_key: For a server that wants one.
        timeout_s: Deadline of each call to a server, rounded up to whole seconds.
        grpc_port: Where the server answers gRPC. By default the port after that of the URL, and
            6334 if that is 80 or 443.
        prefer_grpc: Use gRPC if the same server answers there, REST otherwise.
        allow_insecure_key: Send the key over plain http to another host than this one: only in a
            network that nobody else can listen to, such as that of the containers of one host.

    Raises:
        ValueError: `location` is neither, the key does not go with it, or an option is out of
            range.
        StoreUnavailable: No Qdrant server answers at the URL.
        StoreDenied: It wants a key, or another one.
        ServerTooOld: It cannot do what ragkit needs.
    """
    if not _is_url(location):
        if api_key:
            raise ValueError(f"a key is for a server, and {str(location)!r} is a folder")
        return EdgeClient(Path(location).expanduser())
    address = parse(
        str(location),
        api_key=api_key,
        timeout_s=timeout_s,
        grpc_port=grpc_port,
        allow_insecure_key=allow_insecure_key,
    )
    client = _open(address, prefer_grpc=prefer_grpc)
    try:
        seen = _look(client, address)
        fault = _grpc_fault(client, address, seen) if prefer_grpc else None
    except BaseException:
        client.close()
        raise
    if fault is not None:
        fault.log(address)
        client.close()
        client = _open(address, prefer_grpc=False)
    remember(client, seen.info)
    return client


async def aconnect(
    location: str,
    *,
    api_key: str | None = None,
    timeout_s: float = _TIMEOUT_S,
    grpc_port: int | None = None,
    prefer_grpc: bool = True,
    allow_insecure_key: bool = False,
) -> AsyncQdrantClient:
    """As `connect`, for a server; the client belongs to the running event loop.

    Raises:
        ValueError: As by `connect`, and for a folder: the embedded engine has no async client.
        StoreError: As by `connect`.
    """
    if not _is_url(location):
        raise ValueError(
            f"expected the URL of a Qdrant server, got {str(location)!r}: a folder opens with "
            "connect()"
        )
    address = parse(
        location,
        api_key=api_key,
        timeout_s=timeout_s,
        grpc_port=grpc_port,
        allow_insecure_key=allow_insecure_key,
    )
    client = _aopen(address, prefer_grpc=prefer_grpc)
    try:
        seen = await _alook(client, address)
        fault = await _agrpc_fault(client, address, seen) if prefer_grpc else None
    except BaseException:
        await client.close()
        raise
    if fault is not None:
        fault.log(address)
        await client.close()
        client = _aopen(address, prefer_grpc=False)
    remember(client, seen.info)
    return client


def _is_url(location: str | Path) -> bool:
    """Whether it is the address of a server, and not a folder.

    Raises:
        ValueError: It looks like neither. What may hold a password is not shown.
    """
    text = str(location)
    if not text.strip():
        raise ValueError(f"{EXPECTED}, got an empty string")
    if text.lower().startswith(("http://", "https://")):
        return True
    if re.match(r"https?:/", text, re.IGNORECASE):
        raise ValueError(f"{EXPECTED}; pass a URL as a string, not as a Path")
    if "://" in text:
        raise ValueError(f"{EXPECTED}, got a URL that starts with {text.partition('://')[0]!r}")
    if re.fullmatch(r"[\w.-]+:[0-9]{1,5}/?", text):
        raise ValueError(f"{EXPECTED}, got {text!r}: write http://{text}, or ./{text} for a folder")
    if text == ":memory:":
        raise ValueError(f"{EXPECTED}, got {text!r}: take a temporary folder")
    return False


class _Seen(NamedTuple):
    """What the server was like over REST."""

    said: models.VersionInfo
    info: ServerInfo
    names: list[str]


class _GrpcFault(NamedTuple):
    """Why gRPC is not used."""

    what: str
    level: int = logging.INFO

    def log(self, address: Address) -> None:
        """Tell of it in one line."""
        _logger.log(
            self.level,
            "using REST with %s: %s at gRPC port %d; pass another grpc_port, or prefer_grpc=False",
            address,
            self.what,
            address.grpc_port,
        )


def _open(address: Address, *, prefer_grpc: bool) -> QdrantClient:
    client = QdrantClient(**address.arguments(prefer_grpc=prefer_grpc))
    client.http.client.add_middleware(_forget_key)
    return client


def _aopen(address: Address, *, prefer_grpc: bool) -> AsyncQdrantClient:
    client = AsyncQdrantClient(**address.arguments(prefer_grpc=prefer_grpc))
    client.http.client.add_middleware(_aforget_key)
    return client


def _forget_key(
    request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]
) -> httpx.Response:
    """Take the key off a request that is done: the errors of httpx keep it, pickled ones too."""
    try:
        return send(request)
    finally:
        request.headers.pop(KEY_HEADER, None)


async def _aforget_key(
    request: httpx.Request, send: Callable[[httpx.Request], Awaitable[httpx.Response]]
) -> httpx.Response:
    try:
        return await send(request)
    finally:
        request.headers.pop(KEY_HEADER, None)


# The root tells the version to everybody; listing the collections is the cheapest call that wants
# the key, and a key for some collections only may make it as well.
_ROOT: dict[str, Any] = {
    "type_": models.VersionInfo,
    "method": "GET",
    "url": "/",
    "timeout": _REST_ANSWER_S,
}


def _look(client: QdrantClient, address: Address) -> _Seen:
    said = _asked(address, lambda: client.http.client.request(**_ROOT))
    names = _asked(address, lambda: _names(client.http.collections_api.get_collections()))
    return _accepted(said, names)


async def _alook(client: AsyncQdrantClient, address: Address) -> _Seen:
    said = await _aasked(address, client.http.client.request(**_ROOT))
    names = _names(await _aasked(address, client.http.collections_api.get_collections()))
    return _accepted(said, names)


def _accepted(said: models.VersionInfo, names: list[str]) -> _Seen:
    info = read_info(said)
    info.require_minimum()
    return _Seen(said, info, names)


def _names(listed: Any) -> list[str]:
    """What a list of collections names, over REST or gRPC."""
    held = listed.collections if hasattr(listed, "collections") else listed.result.collections
    return sorted(each.name for each in held)


def _asked(address: Address, ask: Callable[[], T]) -> T:
    """The answer, or what went wrong as an error of ragkit."""
    try:
        return ask()
    except (*_FOREIGN, ValueError) as exc:  # ValueError: the answer is not JSON
        failed = exc
    # Out here the foreign error, which may hold the key, is chained only if it is meant to be.
    raise address.error(failed) from address.cause(failed)


async def _aasked(address: Address, answer: Awaitable[T]) -> T:
    try:
        return await answer
    except (*_FOREIGN, ValueError) as exc:
        failed = exc
    raise address.error(failed) from address.cause(failed)


def _grpc_fault(client: QdrantClient, address: Address, seen: _Seen) -> _GrpcFault | None:
    """Why gRPC is not to be used; None if the server that was seen answers there as well."""
    channel = get_channel(**address.channel)
    try:
        root, collections = _stubs(channel)
        said = root.HealthCheck(rpc.HealthCheckRequest(), timeout=_GRPC_ANSWER_S)
        if not _is_same(said, seen.said):
            return _another(said)
        names = seen.names
        for _ in range(_LOOKS):
            listed = collections.List(rpc.ListCollectionsRequest(), **_with_key(address))
            if _names(listed) == names:
                return None
            names = _names(client.http.collections_api.get_collections())
        return _another(said)
    except _FOREIGN as exc:
        return _GrpcFault(address.redact(reason(exc)))
    finally:
        channel.close()


async def _agrpc_fault(
    client: AsyncQdrantClient, address: Address, seen: _Seen
) -> _GrpcFault | None:
    channel = get_async_channel(**address.channel)
    try:
        root, collections = _stubs(channel)
        said = await root.HealthCheck(rpc.HealthCheckRequest(), timeout=_GRPC_ANSWER_S)
        if not _is_same(said, seen.said):
            return _another(said)
        names = seen.names
        for _ in range(_LOOKS):
            listed = await collections.List(rpc.ListCollectionsRequest(), **_with_key(address))
            if _names(listed) == names:
                return None
            names = _names(await client.http.collections_api.get_collections())
        return _another(said)
    except _FOREIGN as exc:
        return _GrpcFault(address.redact(reason(exc)))
    finally:
        await channel.close()


def _stubs(channel: Any) -> tuple[Any, Any]:
    return rpc.QdrantStub(channel), rpc.CollectionsStub(channel)  # type: ignore[no-untyped-call]


def _with_key(address: Address) -> dict[str, Any]:
    """How to call over gRPC; the key goes out only after the version was found to be the same."""
    return {"timeout": _GRPC_ANSWER_S, "metadata": tuple(address.headers.items())}


def _is_same(said: Any, seen: models.VersionInfo) -> bool:
    return (said.version, said.commit or None) == (seen.version, seen.commit or None)


def _another(said: Any) -> _GrpcFault:
    return _GrpcFault(f"another server, of version {said.version}, answers", logging.WARNING)
