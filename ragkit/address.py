"""The address of a Qdrant server and all that is said to a client of it; nothing here connects."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from ragkit.errors import StoreDenied, StoreError, StoreUnavailable
from ragkit.failures import Failure, kind_of, reason

EXPECTED = "expected a folder, or the URL of a Qdrant server such as http://localhost:6333"
KEY_HEADER = "api-key"

_REST_PORT = 6333  # what qdrant-client too takes a URL without a port to mean, https included
_GRPC_PORT = 6334
_PROXY_PORTS = (80, 443)  # the port after one of these is nobody's; Qdrant Cloud has 6334
_LAST_PORT = 65535
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # a name in ASCII, or an IPv6 address

# Qdrant closes an HTTP connection that was idle for 5 s (`http_keep_alive_timeout_sec`): give it up
# before that, so that no request meets one that is closing. Without limits of ours qdrant-client
# would open a new connection for every call to this machine.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4.0)
_GRPC_OPTIONS = {
    # Routers and balancers forget a connection that is idle for some minutes, and tell nobody.
    # Qdrant sets no limit to pings; where a proxy does, gRPC pings less often by itself.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    # While a server is restarted every call fails until gRPC has tried to connect again. By default
    # it waits longer each time, up to two minutes; retries with a deadline would miss its return.
    "grpc.max_reconnect_backoff_ms": 3_000,
    # Otherwise the channels of qdrant-client's pool, being alike, share one connection.
    "grpc.use_local_subchannel_pool": 1,
}


class Key(str):
    """An API key that no repr shows and no pickle takes along.

    It is a string because gRPC and httpx want one, and qdrant-client keeps it among the options
    that a client was made with.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[key]'"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is, and how it is called.

    Attributes:
        host: As in a URL: lower case, and an IPv6 address in brackets.
        is_port_given: Whether the URL has a port.
        path: Empty, or what a proxy has Qdrant under.
        timeout_s: Deadline of each call.
    """

    scheme: str
    host: str
    port: int
    is_port_given: bool
    path: str
    grpc_port: int
    key: Key | None
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.path}"

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every call."""
        return {} if self.key is None else {KEY_HEADER: self.key}

    @property
    def is_loopback(self) -> bool:
        """Whether nothing that is sent there leaves this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def channel(self) -> dict[str, Any]:
        """What a gRPC channel of our own is made with; the key is not in it."""
        ssl = self.scheme == "https"
        return {
            "host": self.host,
            "port": self.grpc_port,
            "ssl": ssl,
            "options": self._grpc_options,
        }

    def arguments(self, *, prefer_grpc: bool) -> dict[str, Any]:
        """What `QdrantClient` and `AsyncQdrantClient` are made with.

        The key goes as a header: as `api_key` it would raise a warning over http, this machine or
        not. The deadline goes here because no later place reaches every call over gRPC.
        """
        arguments = {
            "url": str(self),
            "grpc_port": self.grpc_port,
            "prefer_grpc": prefer_grpc,
            "headers": self.headers,
            "timeout": math.ceil(self.timeout_s),
            "limits": _LIMITS,
            "grpc_options": self._grpc_options,
            "check_compatibility": False,  # it would ask once more, in a thread, and warn
        }
        if self.is_loopback:
            arguments["mounts"] = {f"all://{self.host}": None}  # past a proxy of the environment
        return arguments

    @property
    def _grpc_options(self) -> dict[str, Any]:
        # Like httpx, gRPC goes through the proxy of the environment, even to this machine.
        if self.is_loopback:
            return {**_GRPC_OPTIONS, "grpc.enable_http_proxy": 0}
        return dict(_GRPC_OPTIONS)

    def error(self, failed: Exception) -> StoreError:
        """What ragkit raises for what a client raised when it was connected."""
        said = self.redact(reason(failed))
        kind = kind_of(failed)
        if kind is Failure.DENIED and self.key is None:
            return StoreDenied(
                f"{self} wants an API key ({said}): pass it as api_key, or set QDRANT_API_KEY for "
                "the command line"
            )
        if kind is Failure.DENIED:
            return StoreDenied(f"{self} does not accept this API key ({said})")
        if kind is Failure.UNREACHABLE:
            return StoreUnavailable(
                f"no Qdrant server answers at {self} ({said}): check the address{self._port_hint}, "
                'or start one on this machine with "docker compose up --detach --wait"'
            )
        return StoreUnavailable(
            f"what answers at {self} does not do so as a Qdrant server ({said}): check the "
            f"address{self._port_hint}"
        )

    def redact(self, text: str) -> str:
        """The text without the key, which a proxy may repeat."""
        return text if self.key is None else text.replace(self.key, repr(self.key))

    def cause(self, failed: Exception) -> Exception | None:
        """The same, to be chained; None if it holds the key."""
        held = f"{failed} {failed!r} {vars(failed)}"
        return None if self.key is not None and self.key in held else failed

    @property
    def _port_hint(self) -> str:
        if self.is_port_given:
            return ""
        proxy = 443 if self.scheme == "https" else 80
        return f" (without a port it means {_REST_PORT}; behind a proxy add :{proxy})"


def parse(
    url: str,
    *,
    api_key: str | None,
    timeout_s: float,
    grpc_port: int | None,
    allow_insecure_key: bool,
) -> Address:
    """Check a URL and what goes with it.

    Raises:
        ValueError: Something is amiss; the message shows nothing that may be secret.
    """
    scheme, host, port, path = _split(url)
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"expected timeout_s above 0 and finite, got {timeout_s}")
    if grpc_port is not None and not 0 < grpc_port <= _LAST_PORT:
        raise ValueError(f"expected grpc_port from 1 to {_LAST_PORT}, got {grpc_port}")
    address = Address(
        scheme=scheme,
        host=host,
        port=port or _REST_PORT,
        is_port_given=port is not None,
        path=path,
        grpc_port=grpc_port or _port_after(port or _REST_PORT),
        key=_checked(api_key),
        timeout_s=timeout_s,
    )
    is_private = scheme == "https" or address.is_loopback or allow_insecure_key
    if address.key is not None and not is_private:
        raise ValueError(
            f"over plain http the API key can be read on its way to {host}: use https, or an SSH "
            "tunnel and http://localhost; allow_insecure_key=True (QDRANT_ALLOW_INSECURE_KEY=1 "
            "for the command line) is for a network of your own"
        )
    return address


def _split(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = httpx.URL(url).raw_host.decode("ascii").lower()
    except (ValueError, httpx.InvalidURL):
        raise ValueError(f"{EXPECTED}; this URL cannot be read") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{EXPECTED}; this URL has a user, a query or a fragment: pass a key as api_key"
        )
    if host and not _HOST.fullmatch(host):
        raise ValueError(f"{EXPECTED}; this URL cannot be read")
    if not host or port == 0:
        raise ValueError(f"{EXPECTED}; this URL names no {'port' if host else 'host'}")
    return parts.scheme, f"[{host}]" if ":" in host else host, port, parts.path.rstrip("/")


def _port_after(rest_port: int) -> int:
    return _GRPC_PORT if rest_port in _PROXY_PORTS else min(rest_port + 1, _LAST_PORT)


def _checked(api_key: str | None) -> Key | None:
    """The key as a header can carry it: a line end around it is no part of it.

    What no header carries is refused here, since httpx and gRPC show the key in refusing it.
    """
    key = Key((api_key or "").strip())
    if not key:
        return None
    if not (key.isascii() and key.isprintable()):
        raise ValueError("expected an API key of printable ASCII characters, got others")
    return key
