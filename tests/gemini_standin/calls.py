"""The wire log: what came, when, and what was answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, kw_only=True)
class Call:
    """A call as it came; the key is not in it.

    Attributes:
        path: Without the query.
        headers: By lower-case name, without `x-goog-api-key`.
        has_key: Whether that header was there.
        key_ok: Whether it held the server's key.
        size: Bytes of the body.
        body: The body if it is JSON, else None.
        at: `time.monotonic()` when all of it had come.
        in_flight: Calls under way then, with this one.
        status: What was answered; None until then, and if the connection was closed instead.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    has_key: bool
    key_ok: bool
    size: int
    body: Any
    at: float
    in_flight: int
    status: int | None = None

    @property
    def action(self) -> str:
        """What follows the colon in the path, such as `batchEmbedContents`; or nothing."""
        return self.path.partition(":")[2]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests for a vector in the body, as they came: none, one or many."""
        if not isinstance(self.body, dict):
            return []
        requests = self.body.get("requests", [self.body] if "content" in self.body else [])
        return requests if isinstance(requests, list) else []

    @property
    def texts(self) -> list[str]:
        """The texts of the body's contents; "" for one that is not as it should be."""
        return [_text(request) for request in self.requests]


def _text(request: Any) -> str:
    try:
        return " ".join(part["text"] for part in request["content"]["parts"])
    except (KeyError, TypeError):
        return ""
