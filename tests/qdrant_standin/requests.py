"""What the server keeps of each request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A request as it came in.

    Attributes:
        transport: How it came.
        operation: What it asks for, the same word for both transports: "upsert", "scroll", …
        method: The HTTP method; for gRPC the name of the rpc.
        path: The HTTP path; for gRPC "/qdrant.Points/Upsert" and the like.
        parameters: What follows the "?" of an HTTP request.
        headers: HTTP headers or gRPC metadata, names in lower case.
        content: The bytes of an HTTP body, or the message of gRPC.
    """

    transport: Literal["rest", "grpc"]
    operation: str
    method: str
    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Any = b""

    @property
    def body(self) -> Any:
        """The parsed JSON, None without a body; for gRPC the message."""
        if not isinstance(self.content, bytes):
            return self.content
        return json.loads(self.content) if self.content else None
