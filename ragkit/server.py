"""Which version a Qdrant server is, and what it can do by that.

Asking matters most over gRPC: there a server skips the fields of a message that it does not know,
so a setting newer than the server would be lost without a word.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.client_base import QdrantBase

from ragkit.delivery import adeliver, deliver
from ragkit.edge import EdgeClient
from ragkit.errors import ServerTooOld

_logger = logging.getLogger(__name__)

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+.].*)?", re.ASCII | re.DOTALL)
_ASKING = "asking the server for its version"


class Version(NamedTuple):
    """A release of Qdrant; "1.19.0-dev" and "1.19.0+build" count as 1.19.0."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


# Without collection metadata there is no place for the manifest. Release 1.15.4 has it in its
# sources, but Qdrant documents it from this one on, as it does `k` of rank fusion.
MINIMUM = Version(1, 16, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """What not every server from `MINIMUM` on can do.

    Attributes:
        name: What a message calls it.
        since: The first release whose API has it.
        instead: What to do where it is missing.
    """

    name: str
    since: Version
    instead: str


TURBO_QUANTIZATION = Feature(
    name="turbo quantization",
    since=Version(1, 18, 0),
    instead="use quantization='scalar'",
)
FUSION_WEIGHTS = Feature(
    name="fusion with weights",
    since=Version(1, 17, 0),
    instead="leave weights out",
)
PREFIX_MATCH = Feature(
    name="matching by prefix",
    since=Version(1, 19, 0),
    instead="match whole values",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server says of itself.

    Attributes:
        version: None if it is not written as versions are; such a server passes for new enough.
        title: The product's name.
        commit: The source it was built from, where it tells.
    """

    version: Version | None
    title: str
    commit: str | None = None

    def has(self, feature: Feature) -> bool:
        """Whether this server can do that."""
        return self.version is None or self.version >= feature.since

    def require(self, feature: Feature) -> None:
        """Check that this server can do that.

        Raises:
            ServerTooOld: It cannot.
        """
        if not self.has(feature):
            raise ServerTooOld(
                f"{feature.name} needs Qdrant {feature.since} or later, this server is "
                f"{self.version}: upgrade it, or {feature.instead}"
            )

    def require_minimum(self) -> None:
        """Check that ragkit can work with this server at all.

        Raises:
            ServerTooOld: It cannot.
        """
        if self.version is not None and self.version < MINIMUM:
            raise ServerTooOld(
                f"ragkit needs Qdrant {MINIMUM} or later, this server is {self.version}: upgrade "
                "it, one minor version after the other"
            )


# Weak, so that what is remembered of a client goes with it.
_known: WeakKeyDictionary[QdrantBase | AsyncQdrantClient, ServerInfo] = WeakKeyDictionary()


def server_info(client: QdrantBase) -> ServerInfo | None:
    """What the server behind a client says of itself, asked once for each client.

    Returns:
        None for the embedded engine.

    Raises:
        StoreUnavailable: It does not answer.
    """
    if isinstance(client, EdgeClient):
        return None
    if client not in _known:
        remember(client, read_info(deliver(client.info, what=_ASKING)))
    return _known[client]


async def aserver_info(client: AsyncQdrantClient) -> ServerInfo:
    """What the server behind an asynchronous client says of itself, asked once for each client.

    Raises:
        StoreUnavailable: It does not answer.
    """
    if client not in _known:
        remember(client, read_info(await adeliver(client.info, what=_ASKING)))
    return _known[client]


def require_minimum(client: QdrantBase) -> None:
    """Check that ragkit can work with the store.

    Raises:
        ServerTooOld: It is too old a server.
    """
    info = server_info(client)
    if info is not None:
        info.require_minimum()


def require(client: QdrantBase, feature: Feature) -> None:
    """Check that a server can do that; the embedded engine says no by itself.

    Raises:
        ServerTooOld: It cannot.
    """
    info = server_info(client)
    if info is not None:
        info.require(feature)


def remember(client: QdrantBase | AsyncQdrantClient, info: ServerInfo) -> None:
    """Spare a client the question that has been answered."""
    _known[client] = info


def read_info(said: models.VersionInfo) -> ServerInfo:
    """A server's answer, with its version as numbers."""
    found = _VERSION.fullmatch(said.version.strip())
    if found is None:
        _logger.debug("a server's version is %r; taking it for a new one", said.version)
    version = Version(*(int(number or 0) for number in found.groups())) if found else None
    return ServerInfo(version=version, title=said.title, commit=said.commit)
